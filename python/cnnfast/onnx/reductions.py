"""ONNX operators that reduce axes or look for values, and resizing."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import ops
from ..errors import WeightsError
from .calls import Call, by_numpy, is_real, known, operator, whole
from .held import Held, channels_last, held, last, order_of
from .shapes import axes_of, axis_of

# --- reductions ------------------------------------------------------------------------------------


def _without(order: tuple[int, ...], gone: tuple[int, ...]) -> list[int]:
    """The order of the axes that are left."""
    places = sorted(order[a] for a in gone)
    return [p - sum(q < p for q in places) for a, p in enumerate(order) if a not in gone]


def _reduction(name: str, since: int, function: Callable[..., Any], numpy: Callable[..., Any]) -> None:
    @operator(name)
    def reduce(call: Call, x: Any, axes: Any = None) -> Any:
        rank = len(x.shape)
        if axes is not None and not math.prod(axes.shape):
            axes = None
        gone = axes_of(call, axes, since, rank)
        if not gone:
            if call.integer("noop_with_empty_axes"):
                return x
            gone = tuple(range(rank))
        keep = bool(call.integer("keepdims", 1))
        if not is_real(x):
            return by_numpy(call, lambda array: numpy(array, axis=gone, keepdims=keep), x)
        order, tensor = order_of(x), x.tensor if isinstance(x, Held) else x
        if function is ops.reduce_mean and rank == 4 and set(gone) == {2, 3} and order == (0, 3, 1, 2):
            y = ops.global_avg_pool2d(tensor)
            return held(y, order) if keep else ops.reshape(y, (y.shape[0], y.shape[3]))
        y = function(tensor, tuple(order[a] for a in gone), keepdims=keep)
        return held(y, order if keep else _without(order, gone))


_reduction("ReduceMean", 18, ops.reduce_mean, np.mean)
_reduction("ReduceSum", 13, ops.reduce_sum, np.sum)
_reduction("ReduceMax", 18, ops.reduce_max, np.max)
_reduction("ReduceMin", 18, ops.reduce_min, np.min)
_reduction("ReduceL2", 18, ops.reduce_l2, np.linalg.norm)


@operator("ReduceProd")
def reduce_prod(call: Call, x: Any, axes: Any = None) -> Any:
    gone = axes_of(call, axes, 18, len(x.shape))
    keep = bool(call.integer("keepdims", 1))
    return by_numpy(call, lambda array: np.prod(array, axis=gone, keepdims=keep, dtype=array.dtype), x)


@operator("ArgMax")
def argmax(call: Call, x: Any) -> Any:
    axis = axis_of(call, call.integer("axis", 0), len(x.shape))
    keep, order = bool(call.integer("keepdims", 1)), order_of(x)
    tensor = x.tensor if isinstance(x, Held) else x
    if call.integer("select_last_index"):
        backwards = [slice(None)] * len(order)
        backwards[order[axis]] = slice(None, None, -1)
        places = ops.argmax(ops.take(tensor, tuple(backwards)), order[axis], keepdims=keep)
        places = ops.sub(x.shape[axis] - 1, places)
    else:
        places = ops.argmax(tensor, order[axis], keepdims=keep)
    return held(places, order if keep else _without(order, (axis,)))


@operator("TopK")
def topk(call: Call, x: Any, k: Any = None) -> Any:
    axis = axis_of(call, call.integer("axis", -1), len(x.shape))
    order, tensor = order_of(x), x.tensor if isinstance(x, Held) else x
    count = call.integer("k") if k is None else whole(call, k, "k")[0] if math.prod(k.shape) else 0
    values, places = ops.topk(tensor, count, order[axis], largest=bool(call.integer("largest", 1)))
    return held(values, order), held(places, order)


# --- resizing --------------------------------------------------------------------------------------


@operator("Upsample")
def upsample(call: Call, x: Any, scales: Any = None) -> Any:
    if scales is None:
        factors = [float(v) for v in call.node.attributes.get("scales", [])]
    else:
        factors = [float(v) for v in known(call, scales, "scales").ravel()]
    mode = {"nearest": "nearest", "linear": "linear", "bilinear": "linear"}.get(
        call.text("mode", "nearest"), ""
    )
    return _resize(call, x, factors, None, mode, "asymmetric", "floor", None)


@operator("Resize")
def resize(call: Call, x: Any, roi: Any = None, scales: Any = None, sizes: Any = None) -> Any:
    if call.opset < 11:  # x, scales
        old = [float(v) for v in known(call, roi, "scales").ravel()] if roi is not None else []
        return _resize(call, x, old, None, call.text("mode", "nearest"), "asymmetric", "floor", None)
    place = call.text("coordinate_transformation_mode", "half_pixel")
    nearest = call.text("nearest_mode", "round_prefer_floor")
    along = axes_of(call, None, 18, len(x.shape))
    factors: list[float] | None = None
    if scales is not None and math.prod(scales.shape):
        factors = [float(v) for v in known(call, scales, "scales").ravel()]
    wanted = list(whole(call, sizes, "sizes")) if sizes is not None and factors is None else None
    if wanted is not None and call.text("keep_aspect_ratio_policy", "stretch") != "stretch":
        wanted, factors = _one_scale(call, x, wanted, along)
    mode = call.text("mode", "nearest")
    return _resize(call, x, factors, wanted, mode, place, nearest, along, bool(call.integer("antialias")))


def _one_scale(
    call: Call, x: Any, wanted: list[int], along: tuple[int, ...] | None
) -> tuple[list[int], list[float]]:
    """Sizes, and the one scale for all axes by which none is larger, or none smaller, than wanted."""
    before = [x.shape[a] for a in (range(len(x.shape)) if along is None else along)]
    choose = {"not_larger": min, "not_smaller": max}.get(call.text("keep_aspect_ratio_policy"))
    if choose is None or len(before) != len(wanted) or not all(before):
        raise WeightsError(f"{call.node.label}: cannot resize {before} to {wanted} by one scale")
    scale = choose(m / n for m, n in zip(wanted, before, strict=True))
    return [math.floor(scale * n + 0.5) for n in before], [scale] * len(before)


def _resize(
    call: Call,
    x: Any,
    factors: list[float] | None,
    wanted: list[int] | None,
    mode: str,
    place: str,
    nearest: str,
    along: tuple[int, ...] | None,
    antialias: bool = False,
) -> Any:
    rank = len(x.shape)
    given = wanted if factors is None else factors
    if given is None or len(given) != (rank if along is None else len(along)):
        raise WeightsError(f"{call.node.label}: expected a size or a scale for every axis")
    if factors is not None and not all(0 < f < 1e9 for f in factors):
        raise WeightsError(f"{call.node.label}: expected scales above 0, came {factors}")
    axes = along if along is not None else tuple(range(rank))
    target = list(x.shape)
    scale = [1.0] * rank
    for i, a in enumerate(axes):
        n = x.shape[a]
        target[a] = int(wanted[i]) if wanted is not None else math.floor(n * np.float32(given[i]))
        if target[a] < 1 or n < 1:
            raise WeightsError(f"{call.node.label}: cannot resize {n} to {target[a]}")
        scale[a] = factors[i] if factors is not None else target[a] / n
    changed = [a for a in range(rank) if target[a] != x.shape[a] or scale[a] != 1.0]
    if not changed:
        return x
    exact = all(abs(scale[a] * x.shape[a] - target[a]) < 1e-4 for a in changed)
    if rank == 4 and set(changed) <= {2, 3}:
        usual: dict[str, Any] | None = None
        small = min(target[2:]) == 1
        if mode == "nearest" and exact and not antialias:
            same = all(
                np.array_equal(_nearest(call, x.shape[a], target[a], scale[a], place, nearest),
                               np.arange(target[a]) * x.shape[a] // target[a])
                for a in changed
            )  # fmt: skip
            usual = {"mode": "nearest"} if same else None
        elif (
            mode == "linear"
            and (place == "half_pixel" or (place == "pytorch_half_pixel" and not small))
            and exact
        ):
            usual = {"mode": "bilinear", "antialias": antialias}
            if antialias and not call.integer("exclude_outside") and min(scale) < 1:
                usual = None  # edges repeated instead of left out
        elif mode == "linear" and place == "align_corners" and not antialias:
            usual = {"mode": "bilinear", "align_corners": True}
        if usual is not None:
            return held(ops.resize(last(x), (target[2], target[3]), **usual), channels_last(4))
    if antialias and mode == "nearest":
        raise WeightsError(f"{call.node.label}: antialias needs linear or cubic resizing")
    order, tensor = order_of(x), x.tensor if isinstance(x, Held) else x
    for a in changed:
        n, m = x.shape[a], target[a]
        if mode == "nearest":
            tensor = ops.gather(tensor, _nearest(call, n, m, scale[a], place, nearest), order[a])
        else:
            at = _positions(call, n, m, scale[a], place)
            tensor = _blended(call, tensor, order[a], at, n, mode, min(1.0, scale[a]) if antialias else 1.0)
    return held(tensor, order)


def _positions(call: Call, n: int, m: int, scale: float, place: str) -> np.ndarray:
    """Where each of m positions lies among n."""
    i = np.arange(m, dtype=np.float64)
    if place == "half_pixel":
        return (i + 0.5) / scale - 0.5
    if place == "pytorch_half_pixel":
        return (i + 0.5) / scale - 0.5 if m > 1 else np.zeros(m)
    if place == "half_pixel_symmetric":
        adjustment = m / (scale * n)
        return n / 2 * (1 - adjustment) + (i + 0.5) / scale - 0.5
    if place == "align_corners":
        return i * ((n - 1) / (m - 1)) if m > 1 else np.zeros(m)
    if place == "asymmetric":
        return i / scale
    raise WeightsError(f"{call.node.label}: {place!r} is not supported")


def _nearest(call: Call, n: int, m: int, scale: float, place: str, mode: str) -> np.ndarray:
    """The neighbour of each position."""
    at = _positions(call, n, m, scale, place)
    if mode == "round_prefer_floor":
        index = np.ceil(at - 0.5)
    elif mode == "round_prefer_ceil":
        index = np.floor(at + 0.5)
    elif mode == "ceil":
        index = np.ceil(at)
    else:
        index = np.floor(at)
    return np.clip(index, 0, n - 1).astype(np.int64)


def _blended(call: Call, x: Any, axis: int, at: np.ndarray, n: int, mode: str, narrow: float = 1.0) -> Any:
    """Neighbours along an axis by their weights; those outside count as the edge, or not at all.

    ``narrow`` below 1 makes the curve of the weights that much wider.
    """
    a = call.real("cubic_coeff_a", -0.75)

    def triangle(d: np.ndarray) -> np.ndarray:
        return np.maximum(0.0, 1 - d)

    def cubic(d: np.ndarray) -> np.ndarray:
        near = ((a + 2) * d - (a + 3)) * d * d + 1
        return np.where(d < 1, near, np.where(d < 2, ((a * d - 5 * a) * d + 8 * a) * d - 4 * a, 0.0))

    if mode not in ("linear", "cubic"):
        raise WeightsError(f"{call.node.label}: unknown mode {mode!r}")
    curve, support = (triangle, 1) if mode == "linear" else (cubic, 2)
    leave_out = bool(call.integer("exclude_outside")) and (mode == "cubic" or narrow < 1.0)
    if mode == "linear" and narrow == 1.0:
        at = np.clip(at, 0, n - 1)
    reach = math.ceil(support / narrow)
    if 2 * reach * len(at) > 1 << 24:
        raise WeightsError(f"{call.node.label}: the reduction is too large")
    first, offsets = np.floor(at), range(1 - reach, reach + 1)
    weights = np.array([curve(np.abs(first + o - at) * narrow) for o in offsets])
    if leave_out:
        weights *= [(first + o >= 0) & (first + o < n) for o in offsets]
    if leave_out or narrow < 1.0:
        weights /= weights.sum(axis=0)
    y = None
    shape = [1] * len(x.shape)
    shape[axis] = len(at)
    for offset, weight in zip(offsets, weights, strict=True):
        index = np.clip(first + offset, 0, n - 1).astype(np.int64)
        term = ops.mul(ops.gather(x, index, axis), weight.astype(x.dtype).reshape(shape))
        y = term if y is None else ops.add(y, term)
    return y
