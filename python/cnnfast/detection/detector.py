"""From a photograph to boxes in its own pixels, by any of the detection networks."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import config, ops
from ..engine import compile as compile_model
from ..errors import CnnfastError
from ..models.registry import create_model, registered_weights
from ..ops.registry import array, choice, fail, number, pair, rank
from ..pictures import load_picture
from ..tensor import no_grad
from .boxes import clip_boxes, decode_boxes
from .exported import Exported
from .letterbox import letterbox
from .names import class_names
from .proposals import selective_search
from .regions import BOX_WEIGHTS, MEAN, STD
from .suppression import METHODS, suppress

if TYPE_CHECKING:
    from ..models.yolo import Detections
    from ..nn.module import Module

Array = np.ndarray

__all__ = ["Detector"]

# What SSD was trained with: the mean of ImageNet, RGB, of pictures in 0..255.
SSD_MEAN = np.array([123.0, 117.0, 104.0], np.float32)


class Detector:
    """A network for detection with everything around it: pictures in, boxes in their pixels out.

    Parameters
    ----------
    model : Module
        A YOLO network (:class:`cnnfast.models.darknet.Darknet`), :class:`cnnfast.models.ssd.SSD300`,
        :class:`cnnfast.models.rcnn.RCNN`, :class:`cnnfast.models.rcnn.FastRCNN` or
        :class:`cnnfast.models.faster_rcnn.FasterRCNN`; or a YOLOX or YOLOv8 out of an ONNX file, see
        :class:`cnnfast.detection.exported.Exported`. It is set to evaluation mode.
    size : int or (int, int), optional
        Rows and columns of a YOLO network's input, multiples of its largest stride (32 for the published
        ones); its own where left out, or the file's. The others decide for themselves.
    names : sequence of str
        Of the classes, for whoever draws or prints them.
    score_threshold, iou_threshold : float
        Boxes count with a score above the first, and give way to better ones of their class that they overlap
        by more than the second.
    max_detections : int
        In a picture.
    suppression : {"hard", "soft", "weighted"}
        See :func:`cnnfast.detection.suppress`.
    proposals : callable
        From a picture in 0..255 to regions (K, 4) for RCNN and FastRCNN to judge.
    compiled : bool, optional
        Whether a YOLO network or SSD is compiled, with the weights of the first call; where there is the
        native module by default.

    Attributes
    ----------
    classes : int
        How many the network tells apart, without the background.
    seconds : dict
        What the last picture took: ``"reading"`` its file (0 for an array), ``"preparation"``, ``"network"``,
        and ``"boxes"``: decoding, suppression and the way back to the picture.

    Raises
    ------
    CnnfastError
        For other networks.
    ShapeError

    Notes
    -----
    YOLO sees the picture in a letterbox, SSD the picture resized to 300 x 300 as it was trained; RCNN and
    FastRCNN see it as it is, Faster R-CNN resizes and suppresses by its own settings first. Classes of all
    count from 0 here, without the background.

    Examples
    --------
    >>> cells = Detector.pretrained("yolov3_small", "bccd")
    >>> found = cells("blood.jpg")
    >>> found.boxes, found.scores, [cells.names[k] for k in found.classes]
    """

    def __init__(
        self,
        model: Module,
        size: Any = None,
        names: Sequence[str] = (),
        *,
        score_threshold: float = 0.25,
        iou_threshold: float = 0.45,
        max_detections: int = 300,
        suppression: str = "hard",
        proposals: Callable[[Array], Array] = selective_search,
        compiled: bool | None = None,
    ) -> None:
        from ..models.darknet import Darknet
        from ..models.faster_rcnn import FasterRCNN
        from ..models.rcnn import RCNN, FastRCNN
        from ..models.ssd import SSD300
        from ..onnx.model import OnnxModule

        op = "Detector"
        self.model, self.names = model.eval(), tuple(names)
        self.score_threshold = _share(op, "score_threshold", score_threshold)
        self.iou_threshold = _share(op, "iou_threshold", iou_threshold)
        self.max_detections = max_detections
        self.suppression = choice(op, "suppression", suppression, METHODS)
        if isinstance(model, Darknet) and model.heads:
            size = model.input_size[:2] if size is None else size
            self.size = pair(op, "size", tuple(size) if isinstance(size, list) else size, 1)
            self._find: Callable[[Array, float], Detections] = self._yolo
            self.classes = model.heads[0].classes
        elif isinstance(model, OnnxModule):
            self.exported = Exported(model, size if size is None else pair(op, "size", tuple(size), 1))
            self.size, self.classes = self.exported.size, self.exported.classes
            self._find = self._onnx
        elif size is not None:
            fail(op, f"expected a size for YOLO networks alone, got {size} for {type(model).__name__}")
        elif isinstance(model, SSD300):
            self._find, self.classes = self._ssd, model.head.classification_head.values - 1
        elif isinstance(model, FasterRCNN):
            self._find = self._faster_rcnn
            self.classes = model.roi_heads.box_predictor.cls_score.out_features - 1
        elif isinstance(model, (RCNN, FastRCNN)):
            self._find, self.classes = self._proposed, model.num_classes - 1
        else:
            raise CnnfastError(
                "Detector: expected a YOLO network, SSD300, RCNN, FastRCNN, FasterRCNN or an ONNX file, "
                f"got {type(model).__name__}"
            )
        self.proposals = proposals
        if compiled is None:
            compiled = config.current_backend() == "cpu"
        fixed = isinstance(model, (Darknet, SSD300, OnnxModule))  # whole networks of one input size
        run = model.judge if isinstance(model, (RCNN, FastRCNN)) else model
        self._network: Any = compile_model(model) if compiled and fixed else run
        self._began = self._ended = 0.0
        self.seconds: dict[str, float] = {}

    @classmethod
    def pretrained(cls, name: str, weights: str | None = None, **options: Any) -> Detector:
        """A network of the registry with weights that are registered for it, and the names of its classes.

        Parameters
        ----------
        name : str
            Of ``cf.models.list_models("detection")``.
        weights : str, optional
            The first that are registered when left out.
        **options
            As for :class:`Detector`.

        Raises
        ------
        ValueError
            If there is no such network, or no such weights of it.
        WeightsError, OSError
        """
        label, trained = registered_weights(name, weights)
        made = cls(create_model(name, weights=label), **options)
        made.names = made.names or class_names(made.classes, trained.classes)
        return made

    def __call__(self, picture: Any, *, score_threshold: float | None = None) -> Detections:
        """What is in a picture.

        Parameters
        ----------
        picture : path, or array_like, shape (H, W, 3)
            RGB in 0..255, uint8 or float32, as :func:`cnnfast.pictures.load_picture` gives it.
        score_threshold : float, optional
            In place of the detector's own.

        Returns
        -------
        Detections
            By falling score; boxes x1, y1, x2, y2 in pixels of the picture, cut at its edges.

        Raises
        ------
        ShapeError, DTypeError, PictureError, OSError
        """
        op = "Detector"
        asked = started = time.perf_counter()
        if isinstance(picture, (str, os.PathLike)):
            picture = load_picture(picture)
            started = time.perf_counter()
        picture = np.asarray(picture)
        picture = array(op, "picture", picture.astype(np.float32) if picture.dtype == np.uint8 else picture)
        rank(op, "picture", picture.shape, "H,W,C")
        if picture.shape[2] != 3 or 0 in picture.shape:
            fail(op, "pictures must have 3 channels and at least one pixel", picture=picture.shape)
        least = self.score_threshold
        if score_threshold is not None:
            least = _share(op, "score_threshold", score_threshold)
        with no_grad():
            found = self._find(picture.astype(np.float32, copy=False), least)
        kept = suppress(
            found,
            method=self.suppression,
            iou_threshold=self.iou_threshold,
            score_threshold=least,
            max_detections=self.max_detections,
        )
        self.seconds = {
            "reading": started - asked,
            "preparation": self._began - started,
            "network": self._ended - self._began,
            "boxes": time.perf_counter() - self._ended,
        }
        return kept

    def _run(self, *inputs: Any) -> Any:
        """The network, timed."""
        self._began = time.perf_counter()
        outputs = self._network(*inputs)
        self._ended = time.perf_counter()
        return outputs

    # --- one function for each family: everything above a score, within the picture and in its pixels ----

    def _yolo(self, picture: Array, least: float) -> Detections:
        from ..models.yolo import candidates

        frame, place = letterbox(picture, self.size, fill=127.5, antialias=True)
        np.divide(frame, 255, out=frame)  # the frame has fewer pixels than the picture
        return candidates(self._run(frame[None]), self.model.heads, self.size, least, place)[0]

    def _onnx(self, picture: Array, least: float) -> Detections:
        x, place = self.exported.prepare(picture)
        found = self.exported.candidates(self._run(x), least)
        return found._replace(boxes=place.undo(found.boxes))

    def _ssd(self, picture: Array, least: float) -> Detections:
        from ..models import ssd

        x = ops.resize(np.ascontiguousarray(picture - SSD_MEAN)[None], (300, 300), antialias=True)
        locations, scores = self._run(x)
        rows, columns = picture.shape[:2]
        boxes = ssd.decode_boxes(locations[0], self.model.boxes) * np.array([columns, rows] * 2, np.float32)
        return _above(clip_boxes(boxes, (rows, columns)), ops.softmax(scores[0])[:, 1:], least)

    def _faster_rcnn(self, picture: Array, least: float) -> Detections:
        from ..models.yolo import Detections

        found = self._run([picture / np.float32(255)])[0]
        keep = found["scores"] > least
        boxes = clip_boxes(found["boxes"][keep], picture.shape[:2])
        return Detections(boxes, found["scores"][keep], found["labels"][keep] - 1)

    def _proposed(self, picture: Array, least: float) -> Detections:
        regions = np.asarray(self.proposals(picture), np.float32).reshape(-1, 4)
        self._began = self._ended = time.perf_counter()
        if not len(regions):
            return _above(regions, np.empty((0, self.classes), np.float32), least)
        prepared = ((picture / np.float32(255)) - MEAN) / STD
        logits, offsets = self._run(np.ascontiguousarray(prepared), regions)
        moved = decode_boxes(offsets.reshape(len(regions), -1, 4), regions[:, None], BOX_WEIGHTS)[:, 1:]
        probabilities = ops.softmax(logits)[:, 1:]
        return _above(clip_boxes(moved, picture.shape[:2]), probabilities, least)


def _above(boxes: Array, scores: Array, least: float) -> Detections:
    """Pairs of class and box, (K, 4) or one for each class (K, C, 4), with a score (K, C) above ``least``."""
    from ..models.yolo import Detections

    which, classes = np.nonzero(scores > least)
    chosen = boxes[which, classes] if boxes.ndim == 3 else boxes[which]
    return Detections(chosen, scores[which, classes], classes)


def _share(op: str, name: str, value: Any) -> float:
    value = number(op, name, value)
    if not 0 <= value <= 1:
        fail(op, f"expected {name} from 0 to 1, got {value}")
    return value
