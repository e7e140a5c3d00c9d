"""Boxes out of the raw values of a YOLO network. Boxes are rows x1, y1, x2, y2."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import cuda
from .activations import apply_activation
from .registry import (
    F64,
    NO_GRADIENT,
    Array,
    Cost,
    Op,
    array,
    fail,
    integer,
    native,
    number,
    rank,
    several,
    shown,
)
from .softmax import softmax

Pair = tuple[float, float]


class YoloGrid(NamedTuple):
    """Cells of one output, and width and height of its anchors in pixels."""

    rows: int
    columns: int
    anchors: tuple[Pair, ...]

    @property
    def places(self) -> int:
        return self.rows * self.columns * len(self.anchors)


class YoloSpec(NamedTuple):
    """A checked decoding of one picture."""

    grids: tuple[YoloGrid, ...]
    classes: int
    size: Pair
    origin: Pair
    picture: Pair | None
    threshold: float
    softmax: bool
    scale_xy: float

    @property
    def values(self) -> int:
        """Of each place: x, y, width, height, objectness, classes."""
        return 5 + self.classes

    @property
    def least(self) -> float:
        """Raw values below this have sigmoids below the threshold; no score is above its objectness."""
        t = self.threshold
        return math.log(t / (1 - t)) - 0.01 if 0 < t < 1 else -math.inf


def _pair(op: str, name: str, value: Any) -> Pair:
    try:
        first, second = value if isinstance(value, (tuple, list)) else (value, value)
    except ValueError:
        fail(op, f"{name} must be two numbers, got {shown(value)}")
    return number(op, name, first), number(op, name, second)


def infer_yolo_candidates(
    outputs: tuple[tuple[int, ...], ...],
    anchors: Any,
    classes: int,
    size: Any,
    score_threshold: float = 0.25,
    softmax: bool = False,
    scale_xy: float = 1.0,
    origin: Any = (0.0, 0.0),
    picture: Any = None,
) -> YoloSpec:
    """Validate a decoding; see :func:`yolo_candidates`."""
    op = "yolo_candidates"
    classes = integer(op, "classes", classes, 1)
    anchors = several(op, "anchors", anchors)
    if len(anchors) != len(outputs) or not outputs:
        fail(op, f"expected anchors for each of {len(outputs)} outputs, got {len(anchors)}")
    grids = []
    for i, (shape, own) in enumerate(zip(outputs, anchors, strict=True)):
        rank(op, f"output {i}", shape, "H,W,C")
        pairs = tuple([_pair(op, "an anchor", anchor) for anchor in several(op, "anchors of an output", own)])
        if shape[2] != len(pairs) * (5 + classes):
            fail(op, f"expected {len(pairs) * (5 + classes)} channels", **{f"output_{i}": shape})
        grids.append(YoloGrid(shape[0], shape[1], pairs))
    rows, columns = _pair(op, "size", size)
    if not (rows > 0 and columns > 0):
        fail(op, f"size must be above 0, got {size!r}")
    return YoloSpec(
        tuple(grids), classes, (rows, columns), _pair(op, "origin", origin),
        None if picture is None else _pair(op, "picture", picture),
        number(op, "score_threshold", score_threshold), bool(softmax), number(op, "scale_xy", scale_xy),
    )  # fmt: skip


def decode_places(spec: YoloSpec, grid: YoloGrid, t: Array, at: Array) -> tuple[Array, Array, Array]:
    """Boxes (K, 4), objectness (K,) and probabilities (K, classes) of some places of one output.

    Parameters
    ----------
    t : ndarray, shape (K, spec.values)
        Their raw values. They are worked on in float64, so that results are rounded once.
    at : ndarray of int, shape (K,)
        Their numbers: rows come first, then columns, then anchors.
    """
    dtype, t = t.dtype, t.astype(F64)
    cell, anchor = np.divmod(at, len(grid.anchors))
    row, column = np.divmod(cell, grid.columns)
    cells, size, origin = (
        np.array(pair[::-1], F64) for pair in ((grid.rows, grid.columns), spec.size, spec.origin)
    )
    s = apply_activation("sigmoid", t)
    with np.errstate(over="ignore", invalid="ignore"):
        inside = s[:, :2] * spec.scale_xy - (spec.scale_xy - 1) / 2
        centre = (inside + np.stack([column, row], 1)) / cells * size - origin
        half = np.exp(t[:, 2:4]) * (np.array(grid.anchors, F64).reshape(-1, 2)[anchor] / 2)
        boxes = np.concatenate([centre - half, centre + half], 1).astype(dtype)
        probabilities = softmax(t[:, 5:]) if spec.softmax else s[:, 5:]
    return boxes, s[:, 4].astype(dtype), np.asarray(probabilities).astype(dtype)


def reference_yolo_candidates(spec: YoloSpec, *outputs: Array) -> tuple[Array, Array, Array]:
    """The NumPy definition of :func:`yolo_candidates`."""
    found = []
    for grid, output in zip(spec.grids, outputs, strict=True):
        t = output.reshape(grid.places, spec.values)
        at = np.flatnonzero(t[:, 4] >= spec.least)
        boxes, objectness, probabilities = decode_places(spec, grid, t[at], at)
        scores = objectness[:, None] * probabilities
        which, classes = np.nonzero(scores > output.dtype.type(spec.threshold))
        found.append((boxes[which], scores[which, classes], classes.astype(np.int64, copy=False)))
    boxes, scores, classes = map(np.concatenate, zip(*found, strict=True))
    if spec.picture is not None:
        boxes = np.minimum(np.maximum(boxes, 0), np.array(spec.picture[::-1] * 2, boxes.dtype))
    return boxes, scores, classes


def _native(spec: YoloSpec, *outputs: Array) -> tuple[Array, Array, Array]:
    anchors = [grid.anchors for grid in spec.grids]
    how = spec.threshold, spec.least, spec.softmax, spec.scale_xy
    frame = spec.size, spec.origin, spec.picture
    return native().yolo_candidates(outputs, anchors, spec.classes, *frame, *how)


def _cuda(spec: YoloSpec, *outputs: Any) -> tuple[Any, Any, Any]:
    """Worked out from float32; the host waits for how many there are, and for nothing else."""
    module, dtype = cuda.module(), outputs[0].dtype
    how = module.YoloDecoding(
        spec.classes, spec.size, spec.origin, spec.picture,
        spec.threshold, spec.least, spec.softmax, spec.scale_xy,
    )  # fmt: skip
    n = sum(grid.places for grid in spec.grids)
    starts, total = cuda.empty((n,), np.int64), cuda.empty((1,), np.int64)
    parts, first = [], 0
    for grid, output in zip(spec.grids, outputs, strict=True):
        cells = module.YoloGrid(grid.rows, grid.columns, grid.anchors)
        parts.append((cells, output.astype("float32").buffer, starts.part(first, grid.places).buffer))
        module.yolo_count(cells, how, *parts[-1][1:])
        first += grid.places
    module.yolo_starts(n, starts.buffer, total.buffer)
    k = int(total.numpy()[0])
    boxes, scores, classes = cuda.empty((k, 4)), cuda.empty((k,)), cuda.empty((k,), np.int64)
    for cells, x, own in parts:
        module.yolo_candidates(cells, how, k, x, own, boxes.buffer, scores.buffer, classes.buffer)
    return boxes.astype(dtype), scores.astype(dtype), classes


def _results(spec: YoloSpec, dtype: np.dtype) -> Any:
    return ((-1, 4), dtype), ((-1,), dtype), ((-1,), np.dtype(np.int64))


def _cost(spec: YoloSpec) -> Cost:
    # The least: one comparison a place. What has an object costs some fifty operations more.
    places = sum(grid.places for grid in spec.grids)
    return Cost(places, 4 * places * spec.values)


YOLO_CANDIDATES = Op(
    "yolo_candidates",
    infer_yolo_candidates,
    reference_yolo_candidates,
    _native,
    _cost,
    NO_GRADIENT,
    results=_results,
    settings=lambda s: {
        "anchors": [grid.anchors for grid in s.grids], "classes": s.classes, "size": s.size,
        "score_threshold": s.threshold, "softmax": s.softmax, "scale_xy": s.scale_xy, "origin": s.origin,
        "picture": s.picture,
    },
    shapes=lambda *shapes: (shapes,),
    cuda=_cuda,
)  # fmt: skip


def yolo_candidates(
    outputs: Sequence[Any],
    anchors: Sequence[Any],
    classes: int,
    size: Any,
    *,
    score_threshold: float = 0.25,
    softmax: bool = False,
    scale_xy: float = 1.0,
    origin: Any = (0.0, 0.0),
    picture: Any = None,
) -> tuple[Array, Array, Array]:
    """All pairs of box and class above a threshold in one picture, before any suppression.

    With raw values t at column cx and row cy of W x H cells and an anchor of width pw, boxes have their
    centre at ``(s sigmoid(tx) - (s - 1) / 2 + cx) / W`` parts of the width and are ``pw exp(tw)`` wide, and
    rows and heights alike; a score is the sigmoid of the objectness times the class's probability.

    Parameters
    ----------
    outputs : sequence of array_like, shapes (H, W, anchors * (5 + classes))
        Per anchor: x, y, width, height, objectness, classes; float32 (native) or float64 (NumPy reference).
        Of device arrays up to 32 anchors each.
    anchors : sequence of sequences of (float, float)
        Widths and heights in pixels, of each output.
    classes : int
    size : float or (float, float)
        Rows and columns of what the outputs cover, in pixels.
    score_threshold : float
        Scores count that are above it, rounded to the element type of the output.
    softmax : bool
        Whether the classes exclude each other; a sigmoid for each otherwise.
    scale_xy : float
        s: the stretch of centres around the middle of their cells.
    origin : float or (float, float)
        Row and column that are taken off: where the picture begins in its letterbox.
    picture : (float, float), optional
        Rows and columns of a picture at whose edges boxes are cut.

    Returns
    -------
    boxes : ndarray, shape (K, 4)
        x1, y1, x2, y2; in the order of outputs, rows, columns, anchors and classes.
    scores : ndarray, shape (K,)
    classes : ndarray of int64, shape (K,)

    Raises
    ------
    ShapeError, DTypeError, BackendError

    Notes
    -----
    Sums and exponentials are worked out in float64. Places with a NaN among what a score is made of are
    dropped.

    References
    ----------
    Redmon and Farhadi, "YOLO9000: better, faster, stronger", 2017, section 2 (with softmax over the
    classes); "YOLOv3: an incremental improvement", 2018, section 2 (with a sigmoid for each); Bochkovskiy
    et al., "YOLOv4: optimal speed and accuracy of object detection", 2020, section 3.3 (the stretch).
    """
    op = "yolo_candidates"
    if not isinstance(outputs, (list, tuple)):
        fail(op, f"expected a list of outputs, got {type(outputs).__name__}")
    arrays: list[Any] = []
    for i, output in enumerate(outputs):
        arrays.append(array(op, f"output {i}", output, arrays[0] if i else None))
    shapes = tuple([a.shape for a in arrays])
    how = score_threshold, softmax, scale_xy, origin, picture
    return YOLO_CANDIDATES(infer_yolo_candidates(shapes, anchors, classes, size, *how), *arrays)
