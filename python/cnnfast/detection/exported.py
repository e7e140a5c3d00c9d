"""Boxes out of what detectors in ONNX files give: YOLOX before its grid is decoded, and YOLOv8's layout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import ops
from ..errors import WeightsError
from .letterbox import Letterbox, letterbox

if TYPE_CHECKING:
    from ..models.yolo import Detections
    from ..onnx.model import OnnxModule

Array = np.ndarray

__all__ = ["Exported"]

STRIDES = (8, 16, 32)
GREY = 114.0  # around the picture in its letterbox


class Exported:
    """A detector out of an ONNX file, with the preparation and the reading of values that its kind asks for.

    ========  =====================  ===========================================  ===========================
    kind      output                 values                                       picture
    ========  =====================  ===========================================  ===========================
    yolox     (1, places, 5 + C)     x, y, log w, log h in strides, relative to   BGR in 0..255, at the top
                                     the cell; objectness and classes in 0..1     left of its letterbox
    yolov8    (1, 4 + C, places)     centre, width, height in pixels; classes     RGB in 0..1, in the middle
                                     in 0..1
    ========  =====================  ===========================================  ===========================

    Places are the cells of strides 8, 16 and 32, row by row; which kind it is follows from the shape.

    Parameters
    ----------
    model : OnnxModule
        Of one picture of a fixed size, or of any where ``size`` is given.
    size : (int, int), optional
        Rows and columns, multiples of 32.

    Raises
    ------
    WeightsError
        If the file leaves its size open, or gives something else.

    References
    ----------
    Ge et al., "YOLOX: exceeding YOLO series in 2021", 2021, and its demo programs for ONNX.
    """

    def __init__(self, model: OnnxModule, size: tuple[int, int] | None = None) -> None:
        dims = list((model.input_shapes or [()])[0] or ())
        if len(dims) != 4 or 3 not in (dims[1], dims[3]):
            raise WeightsError(
                f"Detector: expected an ONNX file that takes pictures of 3 channels, got {dims}"
            )
        rows, columns = size or (dims[2:] if dims[1] == 3 else dims[1:3])
        if not (isinstance(rows, int) and isinstance(columns, int)):
            raise WeightsError(
                "Detector: the ONNX file leaves the size of its pictures open: expected a size"
            )
        if rows % STRIDES[-1] or columns % STRIDES[-1]:
            raise WeightsError(f"Detector: expected a size in multiples of 32, got {rows} x {columns}")
        self.size = rows, columns
        grids = [(rows // s, columns // s, s) for s in STRIDES]
        cells = [np.stack(np.meshgrid(np.arange(c), np.arange(r)), -1).reshape(-1, 2) for r, c, _ in grids]
        self.cells = np.concatenate(cells).astype(np.float32)
        self.strides = np.concatenate(
            [np.full((len(own), 1), grid[2], np.float32) for own, grid in zip(cells, grids, strict=True)]
        )
        given = _array(model(np.zeros((1, rows, columns, 3), np.float32)))
        places = len(self.cells)
        if given.ndim == 3 and given.shape[:2] == (1, places) and given.shape[2] > 5:
            self.kind, self.classes = "yolox", given.shape[2] - 5
        elif given.ndim == 3 and given.shape[::2] == (1, places) and given.shape[1] > 4:
            self.kind, self.classes = "yolov8", given.shape[1] - 4
        else:
            raise WeightsError(
                f"Detector: expected values (1,{places},5+C) or (1,4+C,{places}) of the ONNX file for "
                f"pictures of {rows} x {columns}, got {given.shape}"
            )

    def prepare(self, picture: Array) -> tuple[Array, Letterbox]:
        """A picture (H, W, 3), RGB in 0..255, as (1, rows, columns, 3), and where it lies."""
        yolox = self.kind == "yolox"
        frame, place = letterbox(picture, self.size, fill=GREY, centred=not yolox, antialias=True)
        frame = frame[..., ::-1] if yolox else frame / np.float32(255)
        return np.ascontiguousarray(frame)[None], place

    def candidates(self, output: Any, least: float) -> Detections:
        """Pairs of place and class with a score above ``least``, in pixels of the input."""
        from ..models.yolo import Detections

        values = _array(output)[0]
        # Most places hold nothing: those of YOLOX say so, for its classes have probabilities.
        if self.kind == "yolox":
            at = np.flatnonzero(values[:, 4] > least)
            values, strides = values[at], self.strides[at]
            scores = values[:, 4:5] * values[:, 5:]
            centre, reach = (values[:, :2] + self.cells[at]) * strides, np.exp(values[:, 2:4]) * strides
        else:
            values = values[:, np.flatnonzero((values[4:] > least).any(0))].T
            scores, centre, reach = values[:, 4:], values[:, :2], values[:, 2:4]
        which, classes = np.nonzero(scores > least)
        boxes = ops.box_convert(np.concatenate([centre, reach], 1)[which], "cxcywh", "xyxy")
        return Detections(boxes, scores[which, classes], classes)


def _array(output: Any) -> Array:
    """The first of several outputs."""
    while isinstance(output, (tuple, list, dict)) and output:
        output = next(iter(output.values())) if isinstance(output, dict) else output[0]
    return np.asarray(output)
