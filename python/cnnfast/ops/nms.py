"""Non-maximum suppression: one class, classes apart, soft and weighted. Boxes are rows x1, y1, x2, y2.

The overlaps are those of :func:`.box_iou` to the last bit, so that every backend keeps the same boxes.
Nothing here has a gradient.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .. import cuda
from ..errors import DTypeError
from ..tensor import Tensor
from .boxes import _overlap
from .cast import cast, cuda_cast
from .registry import (
    F32,
    NO_GRADIENT,
    Array,
    Cost,
    Op,
    array,
    as_array,
    choice,
    fail,
    native,
    number,
)

METHODS = ("linear", "gaussian")
# Boxes are numbered in 32 bits while they are sorted.
MAX_BOXES = (1 << 31) - 64
I64 = np.dtype(np.int64)


class NmsSpec(NamedTuple):
    """A checked suppression."""

    n: int
    threshold: float


class SoftNmsSpec(NamedTuple):
    """A checked soft suppression."""

    n: int
    threshold: float
    sigma: float
    score_threshold: float
    method: str


# --- shape rules ---------------------------------------------------------------------------------


def _check_boxes(op: str, boxes: tuple[int, ...], scores: tuple[int, ...]) -> int:
    if len(boxes) != 2 or boxes[1] != 4:
        fail(op, "boxes must have shape (N,4)", boxes=boxes)
    if scores != boxes[:1]:
        fail(op, f"scores must have shape ({boxes[0]},)", boxes=boxes, scores=scores)
    if boxes[0] > MAX_BOXES:
        fail(op, f"at most {MAX_BOXES} boxes can be sorted", boxes=boxes)
    return boxes[0]


def _check_threshold(op: str, threshold: Any) -> float:
    t = threshold if type(threshold) is float else number(op, "iou_threshold", threshold)
    if not 0.0 <= t <= 1.0:
        fail(op, f"iou_threshold must be from 0 to 1, got {t}")
    return t


def infer_nms(
    boxes: tuple[int, ...], scores: tuple[int, ...], iou_threshold: float = 0.5, op: str = "nms"
) -> NmsSpec:
    """Validate a suppression; see :func:`nms`."""
    return NmsSpec(_check_boxes(op, boxes, scores), _check_threshold(op, iou_threshold))


def infer_batched_nms(
    boxes: tuple[int, ...], scores: tuple[int, ...], classes: tuple[int, ...], iou_threshold: float = 0.5
) -> NmsSpec:
    """Validate a suppression per class; see :func:`batched_nms`."""
    spec = infer_nms(boxes, scores, iou_threshold, "batched_nms")
    if classes != scores:
        fail("batched_nms", f"classes must have shape ({spec.n},)", boxes=boxes, classes=classes)
    return spec


def infer_soft_nms(
    boxes: tuple[int, ...],
    scores: tuple[int, ...],
    iou_threshold: float = 0.3,
    sigma: float = 0.5,
    score_threshold: float = 0.001,
    method: str = "linear",
) -> SoftNmsSpec:
    """Validate a soft suppression; see :func:`soft_nms`."""
    op = "soft_nms"
    n = _check_boxes(op, boxes, scores)
    t = _check_threshold(op, iou_threshold)
    s = number(op, "sigma", sigma)
    # Both limits keep sigma a normal float32 number.
    if not 1e-30 <= s <= 1e30:
        fail(op, f"sigma must be from 1e-30 to 1e30, got {s}")
    return SoftNmsSpec(
        n, t, s, number(op, "score_threshold", score_threshold), choice(op, "method", method, METHODS)
    )


def infer_weighted_nms(
    boxes: tuple[int, ...], scores: tuple[int, ...], iou_threshold: float = 0.5
) -> NmsSpec:
    """Validate a suppression with fusion; see :func:`weighted_nms`."""
    return infer_nms(boxes, scores, iou_threshold, "weighted_nms")


# --- references ----------------------------------------------------------------------------------


def _score_order(boxes: Array, scores: Array) -> Array:
    """Numbers of the boxes without NaN by falling score, equal scores by number."""
    valid = np.flatnonzero(~(np.isnan(boxes).any(1) | np.isnan(scores)))
    return valid[np.argsort(-scores[valid], kind="stable")]


def _clusters(boxes: Array, threshold: float) -> Array:
    """For boxes in score order: the place of the kept box that each one belongs to."""
    owner = np.arange(len(boxes))
    t = boxes.dtype.type(threshold)
    places, columns = owner.copy(), np.ascontiguousarray(boxes.T)
    with np.errstate(all="ignore"):
        while len(places):
            best, places = places[0], places[1:]
            over = _overlap(columns[:, :1], columns[:, 1:])[0] > t
            columns = columns[:, 1:]
            if over.any():
                owner[places[over]] = best
                places, columns = places[~over], columns[:, ~over]
    return owner


def reference_nms(spec: NmsSpec, boxes: Array, scores: Array) -> Array:
    """The NumPy definition of :func:`nms`."""
    order = _score_order(boxes, scores)
    owner = _clusters(boxes[order], spec.threshold)
    return order[owner == np.arange(len(order))].astype(np.int64)


def reference_batched_nms(spec: NmsSpec, boxes: Array, scores: Array, classes: Array) -> Array:
    """The NumPy definition of :func:`batched_nms`."""
    keep = np.zeros(spec.n, bool)
    for c in np.unique(classes):
        members = np.flatnonzero(classes == c)
        keep[members[reference_nms(spec, boxes[members], scores[members])]] = True
    order = _score_order(boxes, scores)
    return order[keep[order]].astype(np.int64)


def _exp(x: Array) -> Array:
    """exp(x) for x <= 0; in float32 the steps of the native kernel, held at exp(-80) below that."""
    if x.dtype != F32:
        return np.exp(x)
    f = np.float32
    x = np.maximum(x, f(-80))
    n = np.rint(x * f(1.44269504))
    r = (x - n * f(0.693359375)) - n * f(-2.12194440e-4)
    p = np.full_like(x, f(1 / 5040))
    for coefficient in (1 / 720, 1 / 120, 1 / 24, 1 / 6, 0.5, 1, 1):
        p = p * r + f(coefficient)
    return p * np.ldexp(f(1), n.astype(np.int32))


def reference_soft_nms(spec: SoftNmsSpec, boxes: Array, scores: Array) -> tuple[Array, Array]:
    """The NumPy definition of :func:`soft_nms`."""
    real = boxes.dtype.type
    t, sigma, least = real(spec.threshold), real(spec.sigma), _as_real(real, spec.score_threshold)
    numbers = np.flatnonzero(~np.isnan(boxes).any(1) & (scores >= least))
    boxes, scores = np.ascontiguousarray(boxes[numbers].T), scores[numbers]
    kept, kept_scores = [], []
    with np.errstate(all="ignore"):
        while len(numbers):
            best = int(np.argmax(scores))
            kept.append(numbers[best])
            kept_scores.append(scores[best])
            iou = _overlap(boxes[:, best : best + 1], boxes)[0]
            if spec.method == "gaussian":
                weight = _exp(-(iou * iou) / sigma)
            else:
                weight = np.where(iou > t, 1 - iou, real(1))
            # An infinite score times 0 is 0.
            scores = np.where(iou > 0, np.where(weight > 0, scores * weight, real(0)), scores)
            stay = scores >= least
            stay[best] = False
            numbers, boxes, scores = numbers[stay], boxes[:, stay], scores[stay]
    return np.array(kept, np.int64), np.array(kept_scores, boxes.dtype)


def _as_real(real: Any, value: float) -> Any:
    with np.errstate(over="ignore"):
        return real(value)


def reference_weighted_nms(spec: NmsSpec, boxes: Array, scores: Array) -> tuple[Array, Array]:
    """The NumPy definition of :func:`weighted_nms`."""
    order = _score_order(boxes, scores)
    owner = _clusters(boxes[order], spec.threshold)
    sums, members = np.zeros((len(order), 5)), np.zeros(len(order), np.int64)
    weights = scores[order].astype(np.float64)[:, None]
    with np.errstate(all="ignore"):
        np.add.at(sums, owner, np.hstack([weights * boxes[order], weights]))
        np.add.at(members, owner, 1)
        mean = sums[:, :4] / sums[:, 4:]
        total = sums[:, 4]
        fuse = (members > 1) & (total > 0) & np.isfinite(total)
        fused = np.where(fuse[:, None], mean, boxes[order]).astype(boxes.dtype)
    kept = owner == np.arange(len(order))
    return order[kept].astype(np.int64), fused[kept]


# --- native --------------------------------------------------------------------------------------


def _native_nms(spec: NmsSpec, boxes: Array, scores: Array) -> Array:
    return native().nms(boxes, scores, spec.threshold)


def _native_batched_nms(spec: NmsSpec, boxes: Array, scores: Array, classes: Array) -> Array:
    return native().batched_nms(boxes, scores, classes, spec.threshold)


def _native_soft_nms(spec: SoftNmsSpec, boxes: Array, scores: Array) -> tuple[Array, Array]:
    gaussian = spec.method == "gaussian"
    least = float(_as_real(np.float32, spec.score_threshold))
    return native().soft_nms(boxes, scores, gaussian, spec.threshold, spec.sigma, least)


def _native_weighted_nms(spec: NmsSpec, boxes: Array, scores: Array) -> tuple[Array, Array]:
    return native().weighted_nms(boxes, scores, spec.threshold)


# --- CUDA: sorted and suppressed on the device; how many are kept comes back ------------------------


def _cuda_suppress(spec: NmsSpec, boxes: Any, scores: Any, classes: Any, fused: Any) -> Any:
    """Numbers of the kept boxes."""
    kept, count = cuda.empty((spec.n,), np.int64), cuda.empty((1,), np.int64)
    arrays = boxes.astype("float32").buffer, scores.astype("float32").buffer
    optional = [None if a is None else a.buffer for a in (classes, fused)]
    threshold = float(np.float32(spec.threshold))
    cuda.module().nms(spec.n, *arrays, optional[0], threshold, kept.buffer, count.buffer, optional[1])
    return kept.part(0, int(count.numpy()[0]))


def _cuda_nms(spec: NmsSpec, boxes: Any, scores: Any) -> Any:
    return _cuda_suppress(spec, boxes, scores, None, None)


def _cuda_batched_nms(spec: NmsSpec, boxes: Any, scores: Any, classes: Any) -> Any:
    return _cuda_suppress(spec, boxes, scores, classes, None)


def _cuda_weighted_nms(spec: NmsSpec, boxes: Any, scores: Any) -> tuple[Any, Any]:
    fused = cuda.empty((spec.n, 4))
    kept = _cuda_suppress(spec, boxes, scores, None, fused)
    return kept, fused.part(0, len(kept)).astype(boxes.dtype)


def _cuda_soft_nms(spec: SoftNmsSpec, boxes: Any, scores: Any) -> tuple[Any, Any]:
    kept, kept_scores = cuda.empty((spec.n,), np.int64), cuda.empty((spec.n,))
    count = cuda.empty((1,), np.int64)
    arrays = boxes.astype("float32").buffer, scores.astype("float32").buffer
    least = float(_as_real(np.float32, spec.score_threshold))
    numbers = spec.method == "gaussian", spec.threshold, spec.sigma, least
    cuda.module().soft_nms(spec.n, *arrays, *numbers, kept.buffer, kept_scores.buffer, count.buffer)
    left = int(count.numpy()[0])
    return kept.part(0, left), kept_scores.part(0, left).astype(boxes.dtype)


# --- operators -----------------------------------------------------------------------------------


def _cost_nms(spec: NmsSpec | SoftNmsSpec) -> Cost:
    # The most: every pair of boxes once. What overlaps little or much needs far less.
    return Cost(13 * spec.n * (spec.n - 1) / 2, 28 * spec.n)


# Numbers of the kept boxes: how many depends on the boxes.
_KEPT = (-1,), np.dtype(np.int64)


def _threshold(spec: NmsSpec | SoftNmsSpec) -> dict[str, Any]:
    return {"iou_threshold": spec.threshold}


# What is kept changes by leaps, and scores and boxes with it: none of these has a gradient.
NMS = Op(
    "nms",
    infer_nms,
    reference_nms,
    _native_nms,
    _cost_nms,
    NO_GRADIENT,
    results=lambda s, dtype: (_KEPT,),
    settings=_threshold,
    cuda=_cuda_nms,
)


BATCHED_NMS = Op(
    "batched_nms",
    infer_batched_nms,
    reference_batched_nms,
    _native_batched_nms,
    _cost_nms,
    NO_GRADIENT,
    results=lambda s, dtype: (_KEPT,),
    settings=_threshold,
    cuda=_cuda_batched_nms,
)


SOFT_NMS = Op(
    "soft_nms",
    infer_soft_nms,
    reference_soft_nms,
    _native_soft_nms,
    _cost_nms,
    NO_GRADIENT,
    results=lambda s, dtype: (_KEPT, ((-1,), dtype)),
    settings=lambda s: {
        **_threshold(s), "sigma": s.sigma, "score_threshold": s.score_threshold, "method": s.method
    },
    cuda=_cuda_soft_nms,
)  # fmt: skip


WEIGHTED_NMS = Op(
    "weighted_nms",
    infer_weighted_nms,
    reference_weighted_nms,
    _native_weighted_nms,
    _cost_nms,
    NO_GRADIENT,
    results=lambda s, dtype: (_KEPT, ((-1, 4), dtype)),
    settings=_threshold,
    cuda=_cuda_weighted_nms,
)


# --- public --------------------------------------------------------------------------------------


def nms(boxes: Any, scores: Any, iou_threshold: float) -> Array:
    """Greedy non-maximum suppression.

    Boxes are taken by falling score, equal scores by their place; one is dropped if its IoU with a box
    kept before is above ``iou_threshold``. An IoU equal to it is kept.

    Parameters
    ----------
    boxes : array_like, shape (N, 4)
        x1, y1, x2, y2; float32 (native kernels) or float64 (NumPy reference).
    scores : array_like, shape (N,)
    iou_threshold : float
        From 0 to 1; rounded to the element type of the boxes.

    Returns
    -------
    ndarray of int64
        Numbers of the kept boxes by falling score.

    Raises
    ------
    ShapeError, DTypeError, BackendError

    Notes
    -----
    The same boxes are kept on every backend: IoU is the value :func:`box_iou` gives, to the last bit.
    A box with a NaN coordinate or a NaN score is dropped. Infinite scores are ordered as numbers.
    Empty boxes, and boxes with an infinite area, overlap nothing: they are kept and suppress nothing.

    References
    ----------
    Felzenszwalb et al., "Object detection with discriminatively trained part-based models", 2010,
    section 7.2.
    """
    boxes = array("nms", "boxes", boxes)
    scores = array("nms", "scores", scores, boxes)
    return NMS(infer_nms(boxes.shape, scores.shape, iou_threshold), boxes, scores)


def _whole_numbers(classes: Any, on_device: bool) -> Any:
    """Classes as int64, where the boxes are."""
    if isinstance(classes, cuda.DeviceArray):
        classes = cuda_cast(classes, np.int64)
    elif not isinstance(classes, Tensor):
        classes = as_array("batched_nms", "classes", classes)
    if classes.dtype.kind not in "iu" and classes.size:
        raise DTypeError(f"batched_nms: classes is {classes.dtype}; expected an integer type")
    # Unsigned numbers past 2^63 wrap round, which keeps different classes different.
    if isinstance(classes, Tensor):
        classes = cast(classes, np.int64)
    elif not isinstance(classes, cuda.DeviceArray):
        classes = np.ascontiguousarray(classes, np.int64).reshape(classes.shape)
        classes = cuda.asarray(classes) if on_device else classes
    return classes


def batched_nms(boxes: Any, scores: Any, classes: Any, iou_threshold: float) -> Array:
    """Non-maximum suppression within each class: boxes of different classes never meet.

    Parameters
    ----------
    boxes : array_like, shape (N, 4)
    scores : array_like, shape (N,)
    classes : array_like of any integer type, shape (N,)
        Any numbers; also useful for the pictures of a batch.
    iou_threshold : float

    Returns
    -------
    ndarray of int64
        Numbers of the kept boxes of all classes by falling score.

    Raises
    ------
    ShapeError, DTypeError, BackendError

    Notes
    -----
    See :func:`nms`. Classes are compared as they are, coordinates are not shifted, so nothing is lost
    to rounding.
    """
    boxes = array("batched_nms", "boxes", boxes)
    scores = array("batched_nms", "scores", scores, boxes)
    on_device = isinstance(boxes, cuda.DeviceArray)
    if on_device or type(classes) is not Array or classes.dtype != I64 or not classes.flags.c_contiguous:
        classes = _whole_numbers(classes, on_device)
    spec = infer_batched_nms(boxes.shape, scores.shape, classes.shape, iou_threshold)
    return BATCHED_NMS(spec, boxes, scores, classes)


def soft_nms(
    boxes: Any,
    scores: Any,
    *,
    iou_threshold: float = 0.3,
    sigma: float = 0.5,
    score_threshold: float = 0.001,
    method: str = "linear",
) -> tuple[Array, Array]:
    """Soft suppression: overlapping boxes lose score instead of being dropped.

    The best box left is taken, equal scores by their place; the scores of the others are multiplied by

    - ``"linear"``: ``1 - iou`` where the IoU with it is above ``iou_threshold``;
    - ``"gaussian"``: ``exp(-iou^2 / sigma)``;

    boxes whose score falls below ``score_threshold`` are dropped. Repeated until none is left.

    Parameters
    ----------
    boxes : array_like, shape (N, 4)
    scores : array_like, shape (N,)
    iou_threshold : float
        From 0 to 1; not used by ``"gaussian"``.
    sigma : float
        From 1e-30 to 1e30; not used by ``"linear"``.
    score_threshold : float
    method : {"linear", "gaussian"}

    Returns
    -------
    indices : ndarray of int64
        Numbers of the kept boxes in the order in which they were taken.
    scores : ndarray
        Their new scores.

    Raises
    ------
    ShapeError, DTypeError, BackendError

    Notes
    -----
    NaN boxes and scores are dropped, empty and infinite boxes overlap nothing, as in :func:`nms`. Both
    backends give the same bits.

    References
    ----------
    Bodla et al., "Soft-NMS: improving object detection with one line of code", 2017, figure 2,
    equations for the linear and the Gaussian penalty.
    """
    boxes = array("soft_nms", "boxes", boxes)
    scores = array("soft_nms", "scores", scores, boxes)
    spec = infer_soft_nms(boxes.shape, scores.shape, iou_threshold, sigma, score_threshold, method)
    return SOFT_NMS(spec, boxes, scores)


def weighted_nms(boxes: Any, scores: Any, iou_threshold: float) -> tuple[Array, Array]:
    """Suppression that fuses: a kept box becomes the mean of itself and those it suppressed.

    Keeps the boxes that :func:`nms` keeps. A suppressed box belongs to the first kept box, in score
    order, whose IoU with it is above ``iou_threshold``; coordinates are averaged with the scores as
    weights. Where the weights have no positive finite sum the kept box stays as it is.

    Parameters
    ----------
    boxes : array_like, shape (N, 4)
    scores : array_like, shape (N,)
    iou_threshold : float

    Returns
    -------
    indices : ndarray of int64
        Numbers of the kept boxes by falling score.
    boxes : ndarray, shape (len(indices), 4)

    Raises
    ------
    ShapeError, DTypeError, BackendError

    References
    ----------
    Gidaris and Komodakis, "Object detection via a multi-region and semantic segmentation-aware CNN
    model", 2015, section 4 (box voting).
    """
    boxes = array("weighted_nms", "boxes", boxes)
    scores = array("weighted_nms", "scores", scores, boxes)
    spec = infer_weighted_nms(boxes.shape, scores.shape, iou_threshold)
    return WEIGHTED_NMS(spec, boxes, scores)
