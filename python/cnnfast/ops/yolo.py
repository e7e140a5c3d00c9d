"""Boxes out of the raw values of a YOLO network. Boxes are rows x1, y1, x2, y2."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from .activations import apply_activation
from .registry import F64, NO_GRADIENT, Array, Cost, Op, array, fail, integer, native, number, pair, rank
from .softmax import softmax


class YoloSpec(NamedTuple):
    """A checked decoding of one picture: cells, and what their values mean."""

    rows: int
    columns: int
    anchors: tuple[tuple[float, float], ...]
    classes: int
    size: tuple[int, int]
    threshold: float
    softmax: bool
    scale_xy: float

    @property
    def values(self) -> int:
        """Of each place: x, y, width, height, objectness, classes."""
        return 5 + self.classes

    @property
    def places(self) -> int:
        return self.rows * self.columns * len(self.anchors)

    @property
    def least(self) -> float:
        """Raw values below this have sigmoids below the threshold; no score is above its objectness."""
        t = self.threshold
        return math.log(t / (1 - t)) - 0.01 if 0 < t < 1 else -math.inf


def infer_yolo_candidates(
    output: tuple[int, ...],
    anchors: Any,
    classes: int,
    size: Any,
    score_threshold: float = 0.25,
    softmax: bool = False,
    scale_xy: float = 1.0,
) -> YoloSpec:
    """Validate a decoding; see :func:`yolo_candidates`."""
    op = "yolo_candidates"
    rank(op, "output", output, "H,W,C")
    pairs = []
    for anchor in anchors:
        if len(anchor) != 2:
            fail(op, f"anchors must be pairs (width, height), got {anchor!r}")
        pairs.append((number(op, "an anchor", anchor[0]), number(op, "an anchor", anchor[1])))
    classes = integer(op, "classes", classes, 1)
    if output[2] != len(pairs) * (5 + classes):
        fail(op, f"expected {len(pairs) * (5 + classes)} channels", output=output)
    return YoloSpec(
        output[0], output[1], tuple(pairs), classes, pair(op, "size", size, 1),
        number(op, "score_threshold", score_threshold), bool(softmax), number(op, "scale_xy", scale_xy),
    )  # fmt: skip


def decode_places(spec: YoloSpec, t: Array, at: Array) -> tuple[Array, Array, Array]:
    """Boxes (K, 4), objectness (K,) and probabilities (K, classes) of some places.

    Parameters
    ----------
    t : ndarray, shape (K, spec.values)
        Their raw values. They are worked on in float64, so that results are rounded once.
    at : ndarray of int, shape (K,)
        Their numbers: rows come first, then columns, then anchors.
    """
    dtype, t = t.dtype, t.astype(F64)
    cell, anchor = np.divmod(at, len(spec.anchors))
    row, column = np.divmod(cell, spec.columns)
    grid, size = (np.array(shape[::-1], F64) for shape in ((spec.rows, spec.columns), spec.size))
    s = apply_activation("sigmoid", t)
    with np.errstate(over="ignore", invalid="ignore"):
        inside = s[:, :2] * spec.scale_xy - (spec.scale_xy - 1) / 2
        centre = (inside + np.stack([column, row], 1)) / grid * size
        half = np.exp(t[:, 2:4]) * (np.array(spec.anchors, F64).reshape(-1, 2)[anchor] / 2)
        boxes = np.concatenate([centre - half, centre + half], 1).astype(dtype)
        probabilities = softmax(t[:, 5:]) if spec.softmax else s[:, 5:]
    return boxes, s[:, 4].astype(dtype), np.asarray(probabilities).astype(dtype)


def reference_yolo_candidates(spec: YoloSpec, output: Array) -> tuple[Array, Array, Array]:
    """The NumPy definition of :func:`yolo_candidates`."""
    t = output.reshape(spec.places, spec.values)
    at = np.flatnonzero(t[:, 4] >= spec.least)
    boxes, objectness, probabilities = decode_places(spec, t[at], at)
    scores = objectness[:, None] * probabilities
    which, classes = np.nonzero(scores > output.dtype.type(spec.threshold))
    return boxes[which], scores[which, classes], classes.astype(np.int64, copy=False)


def _native(spec: YoloSpec, output: Array) -> tuple[Array, Array, Array]:
    return native().yolo_candidates(
        output, spec.anchors, spec.size, spec.threshold, spec.least, spec.softmax, spec.scale_xy
    )


def _results(spec: YoloSpec, dtype: np.dtype) -> Any:
    return ((-1, 4), dtype), ((-1,), dtype), ((-1,), np.dtype(np.int64))


YOLO_CANDIDATES = Op(
    "yolo_candidates",
    infer_yolo_candidates,
    reference_yolo_candidates,
    _native,
    # The least: one comparison a place. What has an object costs some fifty operations more.
    lambda spec: Cost(spec.places, 4 * spec.places * spec.values),
    NO_GRADIENT,
    results=_results,
    settings=lambda s: {
        "anchors": s.anchors, "classes": s.classes, "size": s.size, "score_threshold": s.threshold,
        "softmax": s.softmax, "scale_xy": s.scale_xy,
    },
    on_host=True,
)  # fmt: skip


def yolo_candidates(
    output: Any,
    anchors: Any,
    classes: int,
    size: Any,
    *,
    score_threshold: float = 0.25,
    softmax: bool = False,
    scale_xy: float = 1.0,
) -> tuple[Array, Array, Array]:
    """All pairs of box and class above a threshold in one picture, before any suppression.

    With raw values t at column cx and row cy of W x H cells and an anchor of width pw, boxes have their
    centre at ``(s sigmoid(tx) - (s - 1) / 2 + cx) / W`` parts of the width and are ``pw exp(tw)`` wide, and
    rows and heights alike; a score is the sigmoid of the objectness times the class's probability.

    Parameters
    ----------
    output : array_like, shape (H, W, anchors * (5 + classes))
        Per anchor: x, y, width, height, objectness, classes; float32 (native) or float64 (NumPy reference).
    anchors : sequence of (float, float)
        Widths and heights in pixels.
    classes : int
    size : int or (int, int)
        Rows and columns of the picture in pixels.
    score_threshold : float
        Scores count that are above it, rounded to the element type of the output.
    softmax : bool
        Whether the classes exclude each other; a sigmoid for each otherwise.
    scale_xy : float
        s: the stretch of centres around the middle of their cells.

    Returns
    -------
    boxes : ndarray, shape (K, 4)
        x1, y1, x2, y2, not clipped; in the order of rows, columns, anchors and classes.
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
    output = array("yolo_candidates", "output", output)
    return YOLO_CANDIDATES(
        infer_yolo_candidates(output.shape, anchors, classes, size, score_threshold, softmax, scale_xy),
        output,
    )
