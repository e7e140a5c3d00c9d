"""Overlap of boxes and non-maximum suppression. Boxes are rows x1, y1, x2, y2.

The width of a box is x2 - x1 (no pixel is added). A box with x2 <= x1 or y2 <= y1 is empty: its area
and its overlap with anything are 0. Overlaps are computed in the element type of the boxes by one
fixed sequence of operations, the same here and in the native kernels, so that suppression keeps the
same boxes on every backend and every CPU.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..errors import DTypeError, ShapeError
from ..tensor import Tensor
from .arithmetic import add, mul
from .concat import concat
from .elementwise import sub
from .registry import (
    F32,
    NO_GRADIENT,
    Array,
    Cost,
    Op,
    Vjp,
    array,
    choice,
    elements,
    fail,
    native,
    number,
    reads_all,
)
from .views import take

KINDS = {"iou": 0, "giou": 1, "diou": 2, "ciou": 3}
FORMATS = ("xyxy", "xywh", "cxcywh")
METHODS = ("linear", "gaussian")
# Boxes are numbered in 32 bits while they are sorted.
MAX_BOXES = (1 << 31) - 64


class IouSpec(NamedTuple):
    """A checked table of overlaps."""

    n: int
    m: int
    kind: str


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


# --- shape rules -----------------------------------------------------------------------------------
# Not cached: the number of boxes changes with every picture, and these checks are quick.


def infer_box_iou(a: tuple[int, ...], b: tuple[int, ...], kind: str = "iou") -> IouSpec:
    """Validate a table of overlaps; see :func:`box_iou`."""
    if len(a) != 2 or a[1] != 4 or len(b) != 2 or b[1] != 4:
        fail("box_iou", "boxes must have shape (N,4) and (M,4)", a=a, b=b)
    choice("box_iou", "kind", kind, tuple(KINDS))
    elements("box_iou", a[0], b[0])
    return IouSpec(a[0], b[0], kind)


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


# --- references ------------------------------------------------------------------------------------


def _area(w: Array, h: Array) -> Array:
    """w * h, or 0 where a side is not positive."""
    return np.where((w > 0) & (h > 0), w * h, w.dtype.type(0))


def _ratio(num: Array, den: Array) -> Array:
    """num / den, or 0 where the denominator is not positive or the quotient is no number."""
    q = num / den
    return np.where((den > 0) & (q == q), q, num.dtype.type(0))


def _overlap(a: Array, b: Array) -> tuple[Array, Array]:
    """IoU and area of the union of boxes (4, ...) that broadcast against each other."""
    inter = _area(
        np.minimum(a[2], b[2]) - np.maximum(a[0], b[0]),
        np.minimum(a[3], b[3]) - np.maximum(a[1], b[1]),
    )
    union = (_area(a[2] - a[0], a[3] - a[1]) + _area(b[2] - b[0], b[3] - b[1])) - inter
    return _ratio(inter, union), union


def _enclosing(a: Array, b: Array) -> Array:
    """Width and height of the smallest box around all corners of two boxes."""
    low = np.minimum(np.minimum(a[:2], a[2:]), np.minimum(b[:2], b[2:]))
    high = np.maximum(np.maximum(a[:2], a[2:]), np.maximum(b[:2], b[2:]))
    return high - low


def _angle(boxes: Array) -> Array:
    """atan(width / height), negative sides counting as 0."""
    sides = (boxes[2:] - boxes[:2]).astype(np.float64)
    sides = np.where(sides > 0, sides, 0.0)
    return np.arctan2(sides[0], sides[1]).astype(boxes.dtype)


def reference_box_iou(spec: IouSpec, a: Array, b: Array) -> Array:
    """The NumPy definition of :func:`box_iou`."""
    real = a.dtype.type
    unknown = np.isnan(a).any(1)[:, None] | np.isnan(b).any(1)
    a, b = np.ascontiguousarray(a.T)[:, :, None], np.ascontiguousarray(b.T)[:, None]
    with np.errstate(all="ignore"):
        result, union = _overlap(a, b)
        if spec.kind == "giou":
            w, h = _enclosing(a, b)
            result = result - _ratio(w * h - union, w * h)
        elif spec.kind in ("diou", "ciou"):
            iou = result
            w, h = _enclosing(a, b)
            dx = ((a[0] + a[2]) - (b[0] + b[2])) * real(0.5)
            dy = ((a[1] + a[3]) - (b[1] + b[3])) * real(0.5)
            result = result - _ratio(dx * dx + dy * dy, w * w + h * h)
            if spec.kind == "ciou":
                turn = _angle(a) - _angle(b)
                v = real(4 / np.pi**2) * (turn * turn)
                result = result - v * _ratio(v, (real(1) - iou) + v)
    result[unknown] = np.nan
    return result


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


# --- native ----------------------------------------------------------------------------------------


def _native_box_iou(spec: IouSpec, a: Array, b: Array) -> Array:
    return native().box_iou(a, b, KINDS[spec.kind])


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


# --- work ------------------------------------------------------------------------------------------

_PAIR_FLOPS = {"iou": 13, "giou": 25, "diou": 34, "ciou": 44}


def _cost_box_iou(spec: IouSpec) -> Cost:
    return Cost(_PAIR_FLOPS[spec.kind] * spec.n * spec.m, 4 * (4 * spec.n + 4 * spec.m + spec.n * spec.m))


def _cost_nms(spec: NmsSpec | SoftNmsSpec) -> Cost:
    # The most: every pair of boxes once. What overlaps little or much needs far less.
    return Cost(13 * spec.n * (spec.n - 1) / 2, 28 * spec.n)


# --- gradient --------------------------------------------------------------------------------------


def infer_box_iou_grad(
    a: tuple[int, ...], b: tuple[int, ...], g: tuple[int, ...], kind: str = "iou"
) -> IouSpec:
    """Validate the gradient of a table of overlaps."""
    spec = infer_box_iou(a, b, kind)
    if g != (spec.n, spec.m):
        fail("box_iou_grad", f"the gradient must have shape ({spec.n},{spec.m})", g=g)
    return spec


def _first(p: Array, q: Array) -> Array:
    """1 where p is the smaller one, 1/2 where both are equal."""
    return ((p < q) + 0.5 * (p == q)).astype(p.dtype)


def _back_through_product(g: Array, low: Array, high: Array, of: Array) -> None:
    """Add g times the derivative of the area (high - low, both sides) of a box to its coordinates."""
    w, h = high - low
    inside = (w > 0) & (h > 0)
    across = np.stack([np.where(inside, g * h, 0), np.where(inside, g * w, 0)])
    of[:2] -= across
    of[2:] += across


def _back_through_angle(g: Array, box: Array, of: Array) -> None:
    """Add g times the derivative of atan(width / height) to the coordinates of a box."""
    w, h = np.maximum(box[2:] - box[:2], 0)
    square = w * w + h * h
    along = np.stack([np.where(w > 0, g * h / square, 0), np.where(h > 0, -g * w / square, 0)])
    of[:2] -= along
    of[2:] += along


def _back_through_enclosing(g: Array, boxes: Array, low: Array, high: Array, of: Array) -> None:
    """Add g times the derivative of the sides of the box around all corners; equal corners share it."""
    for edge, sign in ((low, -1), (high, 1)):
        there = (boxes == np.concatenate([edge, edge])[None]).astype(g.dtype)
        count = there[0, :2] + there[0, 2:] + there[1, :2] + there[1, 2:]
        of += sign * there * np.concatenate([g / count, g / count])


def reference_box_iou_grad(spec: IouSpec, a: Array, b: Array, g: Array) -> tuple[Array, Array]:
    """The chain rule through the definitions of :func:`box_iou`, for both sets of boxes.

    Where a coordinate of both boxes is the same each has half of what the smaller or larger one would have.
    """
    kind = a.dtype
    pair = (4, spec.n, spec.m)
    a, b = np.broadcast_to(a.T[:, :, None], pair), np.broadcast_to(b.T[:, None], pair)
    ga, gb = np.zeros(pair, kind), np.zeros(pair, kind)
    with np.errstate(all="ignore"):
        low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
        inter = _area(*(high - low))
        union = (_area(*(a[2:] - a[:2])) + _area(*(b[2:] - b[:2]))) - inter
        iou = _ratio(inter, union)
        g_iou = g
        g_union = np.zeros_like(g)
        if spec.kind != "iou":
            sides = _enclosing(a, b)
            corners = np.stack([a, b])
            least, most = (
                corners.reshape(2, 2, 2, *g.shape).min((0, 1)),
                corners.reshape(2, 2, 2, *g.shape).max((0, 1)),
            )
        if spec.kind == "giou":  # iou - 1 + union / area
            area = sides[0] * sides[1]
            g_union = _ratio(g, area)
            g_sides = -_ratio(g * union, area * area) * sides[::-1]
        elif spec.kind in ("diou", "ciou"):  # iou - distance / diagonal - v^2 / (1 - iou + v)
            apart = (a[:2] + a[2:] - b[:2] - b[2:]) * kind.type(0.5)
            distance, diagonal = (apart * apart).sum(0), (sides * sides).sum(0)
            g_apart = -_ratio(g, diagonal) * apart
            for of, sign in ((ga, 1), (gb, -1)):
                of[:2] += sign * g_apart
                of[2:] += sign * g_apart
            g_sides = 2 * _ratio(g * distance, diagonal * diagonal) * sides
        if spec.kind == "ciou":
            turn = _angle(a) - _angle(b)
            v = kind.type(4 / np.pi**2) * (turn * turn)
            share = _ratio(v, (1 - iou) + v)
            g_iou = g * (1 - share * share)
            g_turn = -g * (share * (2 - share)) * kind.type(8 / np.pi**2) * turn
            _back_through_angle(g_turn, a, ga)
            _back_through_angle(-g_turn, b, gb)
        if spec.kind != "iou":
            both = np.zeros((2, *pair), kind)
            _back_through_enclosing(g_sides, corners, least, most, both)
            ga += both[0]
            gb += both[1]
        g_union = g_union - _ratio(g_iou * inter, union * union)
        _back_through_product(g_union, a[:2], a[2:], ga)
        _back_through_product(g_union, b[:2], b[2:], gb)
        shared = np.zeros(pair, kind)
        _back_through_product(_ratio(g_iou, union) - g_union, low, high, shared)
        ga[:2] += shared[:2] * _first(b[:2], a[:2])
        gb[:2] += shared[:2] * _first(a[:2], b[:2])
        ga[2:] += shared[2:] * _first(a[2:], b[2:])
        gb[2:] += shared[2:] * _first(b[2:], a[2:])
    return np.ascontiguousarray(ga.sum(2).T), np.ascontiguousarray(gb.sum(1).T)


BOX_IOU_GRAD = Op(
    "box_iou_grad",
    infer_box_iou_grad,
    reference_box_iou_grad,
    reference_box_iou_grad,
    lambda s: Cost(3 * _PAIR_FLOPS[s.kind] * s.n * s.m, 4 * (8 * s.n + 8 * s.m + s.n * s.m)),
    vjp=NO_GRADIENT,
    results=lambda s, dtype: (((s.n, 4), dtype), ((s.m, 4), dtype)),
    settings=lambda s: {"kind": s.kind},
)
BOX_IOU = Op(
    "box_iou",
    infer_box_iou,
    reference_box_iou,
    _native_box_iou,
    _cost_box_iou,
    vjp=Vjp(lambda s, needs, g, inputs, results: BOX_IOU_GRAD(s, *inputs, g), reads_all),
    settings=lambda s: {"kind": s.kind},
)
# What is kept changes by leaps, and scores and boxes with it: none of these has a gradient.
NMS = Op("nms", infer_nms, reference_nms, _native_nms, _cost_nms, NO_GRADIENT)
BATCHED_NMS = Op(
    "batched_nms", infer_batched_nms, reference_batched_nms, _native_batched_nms, _cost_nms, NO_GRADIENT
)
SOFT_NMS = Op("soft_nms", infer_soft_nms, reference_soft_nms, _native_soft_nms, _cost_nms, NO_GRADIENT)
WEIGHTED_NMS = Op(
    "weighted_nms", infer_weighted_nms, reference_weighted_nms, _native_weighted_nms, _cost_nms, NO_GRADIENT
)


# --- public ----------------------------------------------------------------------------------------


def box_iou(a: Any, b: Any, *, kind: str = "iou") -> Array:
    """Overlap of every box of ``a`` with every box of ``b``.

    ``iou = inter / union``; the others subtract a penalty from it:

    - ``"giou"``: ``(C - union) / C`` with C the area of the smallest box around both;
    - ``"diou"``: squared distance of the centres over the squared diagonal of that box;
    - ``"ciou"``: as diou, and ``v^2 / (1 - iou + v)``,
      ``v = 4/pi^2 (atan(w_a/h_a) - atan(w_b/h_b))^2``.

    Parameters
    ----------
    a : array_like, shape (N, 4)
        x1, y1, x2, y2 in any unit; float32 (native kernels) or float64 (NumPy reference).
    b : array_like, shape (M, 4)
    kind : {"iou", "giou", "diou", "ciou"}

    Returns
    -------
    ndarray, shape (N, M)

    Raises
    ------
    ShapeError, DTypeError, BackendError

    Notes
    -----
    Empty boxes (a side is 0 or negative) have IoU 0. A quotient without a value (0/0, or areas that are
    infinite or overflow) counts as 0. A NaN coordinate makes the box's row or column NaN.

    References
    ----------
    Rezatofighi et al., "Generalized intersection over union", 2019, equation 1; Zheng et al.,
    "Distance-IoU loss", 2020, equations 7 and 8 to 11.
    """
    a = array("box_iou", "a", a)
    b = array("box_iou", "b", b, a)
    return BOX_IOU(infer_box_iou(a.shape, b.shape, kind), a, b)


def box_convert(boxes: Any, source: str, target: str) -> Array:
    """Boxes in another notation; always a new array.

    Parameters
    ----------
    boxes : array_like, shape (..., 4)
    source, target : {"xyxy", "xywh", "cxcywh"}
        Two corners; one corner, width, height; centre, width, height.

    Returns
    -------
    ndarray, shape of ``boxes``

    Raises
    ------
    ShapeError, DTypeError, BackendError
    """
    op = "box_convert"
    boxes = array(op, "boxes", boxes)
    choice(op, "source", source, FORMATS)
    choice(op, "target", target, FORMATS)
    if boxes.ndim == 0 or boxes.shape[-1] != 4:
        fail(op, "boxes must have shape (...,4)", boxes=boxes.shape)
    if isinstance(boxes, Tensor):
        return _convert_tensor(boxes, source, target)
    out = boxes.copy()
    if source == target:
        return out
    half = boxes.dtype.type(0.5)
    first, second = boxes[..., :2], boxes[..., 2:]
    low, high = out[..., :2], out[..., 2:]
    with np.errstate(all="ignore"):
        if source == "cxcywh":
            low[:] = first - half * second
        if target == "xyxy":
            high[:] = low + second if source == "xywh" else first + half * second
        elif source == "xyxy":
            high[:] = second - first
        if target == "cxcywh":
            low[:] = half * (first + second) if source == "xyxy" else first + half * second
    return out


def _convert_tensor(boxes: Tensor, source: str, target: str) -> Any:
    """:func:`box_convert` by operators on tensors, in the same arithmetic."""
    if source == target:
        return boxes
    first, second = take(boxes, (..., slice(0, 2))), take(boxes, (..., slice(2, 4)))
    low = sub(first, mul(second, 0.5)) if source == "cxcywh" else first
    high = second
    if target == "xyxy":
        high = add(low, second) if source == "xywh" else add(first, mul(second, 0.5))
    elif source == "xyxy":
        high = sub(second, first)
    if target == "cxcywh":
        low = mul(add(first, second), 0.5) if source == "xyxy" else add(first, mul(second, 0.5))
    return concat([low, high])


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
    try:
        classes = np.asarray(classes)
    except ValueError as error:
        raise ShapeError(f"batched_nms: classes is not a rectangular array: {error}") from None
    if classes.dtype.kind not in "iu" and classes.size:
        raise DTypeError(f"batched_nms: classes is {classes.dtype}; expected an integer type")
    # Unsigned numbers past 2^63 wrap round, which keeps different classes different.
    classes = np.ascontiguousarray(classes, np.int64).reshape(classes.shape)
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
