"""Overlap and forms of boxes. Boxes are rows x1, y1, x2, y2.

The width of a box is x2 - x1 (no pixel is added). A box with x2 <= x1 or y2 <= y1 is empty: its area
and its overlap with anything are 0. Overlaps are computed in the element type of the boxes by one
fixed sequence of operations, the same here and in the native kernels, so that suppression (``nms.py``)
keeps the same boxes on every backend and every CPU.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .. import cuda
from ..tensor import Tensor
from .arithmetic import add, mul
from .binary import sub
from .concat import concat
from .registry import (
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
    reads_all,
)
from .views import take

KINDS = {"iou": 0, "giou": 1, "diou": 2, "ciou": 3}
FORMATS = ("xyxy", "xywh", "cxcywh")


class IouSpec(NamedTuple):
    """A checked table of overlaps."""

    n: int
    m: int
    kind: str


# --- shape rules -----------------------------------------------------------------------------------
# Not cached: the number of boxes changes with every picture, and these checks are quick.


def infer_box_iou(a: tuple[int, ...], b: tuple[int, ...], kind: str = "iou") -> IouSpec:
    """Validate a table of overlaps; see :func:`box_iou`."""
    if len(a) != 2 or a[1] != 4 or len(b) != 2 or b[1] != 4:
        fail("box_iou", "boxes must have shape (N,4) and (M,4)", a=a, b=b)
    choice("box_iou", "kind", kind, tuple(KINDS))
    elements("box_iou", a[0], b[0])
    return IouSpec(a[0], b[0], kind)


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


# --- native ----------------------------------------------------------------------------------------


def _native_box_iou(spec: IouSpec, a: Array, b: Array) -> Array:
    return native().box_iou(a, b, KINDS[spec.kind])


def _cuda_box_iou(spec: IouSpec, a: Any, b: Any) -> Any:
    y = cuda.empty((spec.n, spec.m))
    boxes = a.astype("float32").buffer, b.astype("float32").buffer
    cuda.module().box_iou(KINDS[spec.kind], spec.n, spec.m, *boxes, y.buffer)
    return y.astype(a.dtype)


# --- work ------------------------------------------------------------------------------------------

_PAIR_FLOPS = {"iou": 13, "giou": 25, "diou": 34, "ciou": 44}


def _cost_box_iou(spec: IouSpec) -> Cost:
    return Cost(_PAIR_FLOPS[spec.kind] * spec.n * spec.m, 4 * (4 * spec.n + 4 * spec.m + spec.n * spec.m))


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


def _cuda_box_iou_grad(spec: IouSpec, a: Any, b: Any, g: Any) -> tuple[Any, Any]:
    ga, gb = cuda.empty((spec.n, 4)), cuda.empty((spec.m, 4))
    given = [v.astype("float32").buffer for v in (a, b, g)]
    cuda.module().box_iou_grad(KINDS[spec.kind], spec.n, spec.m, *given, ga.buffer, gb.buffer)
    return ga.astype(a.dtype), gb.astype(b.dtype)


BOX_IOU_GRAD = Op(
    "box_iou_grad",
    infer_box_iou_grad,
    reference_box_iou_grad,
    reference_box_iou_grad,
    lambda s: Cost(3 * _PAIR_FLOPS[s.kind] * s.n * s.m, 4 * (8 * s.n + 8 * s.m + s.n * s.m)),
    vjp=NO_GRADIENT,
    results=lambda s, dtype: (((s.n, 4), dtype), ((s.m, 4), dtype)),
    settings=lambda s: {"kind": s.kind},
    cuda=_cuda_box_iou_grad,
)
BOX_IOU = Op(
    "box_iou",
    infer_box_iou,
    reference_box_iou,
    _native_box_iou,
    _cost_box_iou,
    vjp=Vjp(lambda s, needs, g, inputs, results: BOX_IOU_GRAD(s, *inputs, g), reads_all),
    settings=lambda s: {"kind": s.kind},
    results=lambda s, dtype: (((s.n, s.m), dtype),),
    cuda=_cuda_box_iou,
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
