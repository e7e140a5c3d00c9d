"""Joining arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import cuda
from ..config import _State
from .registry import Array, Cost, Lower, Op, Vjp, array, cached, elements, fail, integer, is_plain, native
from .views import cuda_copy, split


@dataclass(frozen=True)
class ConcatSpec:
    """A checked join: shape of the result, the axis, counted from the front, and the sizes along it."""

    out: tuple[int, ...]
    axis: int
    sizes: tuple[int, ...]


@cached
def infer_concat(shapes: tuple[tuple[int, ...], ...], axis: Any = -1) -> ConcatSpec:
    """Validate a join of arrays of these shapes; see :func:`concat`."""
    op = "concat"
    if not shapes:
        fail(op, "at least one array is needed")
    first = shapes[0]
    if not first:
        fail(op, "arrays need at least one dimension", array_0=first)
    axis = integer(op, "axis", axis, -len(first), len(first) - 1) % len(first)
    for i, shape in enumerate(shapes):
        if len(shape) != len(first):
            fail(op, f"arrays must have {len(first)} dimensions", array_0=first, **{f"array_{i}": shape})
        if shape[:axis] + shape[axis + 1 :] != first[:axis] + first[axis + 1 :]:
            fail(op, f"sizes may differ along axis {axis} only", array_0=first, **{f"array_{i}": shape})
    sizes = tuple([shape[axis] for shape in shapes])
    out = (*first[:axis], sum(sizes), *first[axis + 1 :])
    elements(op, *out)
    return ConcatSpec(out, axis, sizes)


def reference_concat(s: ConcatSpec, *arrays: Array) -> Array:
    """The arrays one after the other along an axis."""
    return np.concatenate(arrays, axis=s.axis)


def _native_concat(s: ConcatSpec, *arrays: Array) -> Array:
    return native().concat(list(arrays), s.out, s.axis)


def _cuda_concat(s: ConcatSpec, *arrays: Any) -> Any:
    """A copy for each array."""
    y = cuda.empty(s.out, arrays[0].dtype)
    rows, inner, at = math.prod(s.out[: s.axis]), math.prod(s.out[s.axis + 1 :]), 0
    for x, size in zip(arrays, s.sizes, strict=True):
        width = size * inner
        cuda_copy(x, y, [rows, width], [width, 1], [s.out[s.axis] * inner, 1], y_start=at)
        at += width
    return y


def _cost_concat(s: ConcatSpec) -> Cost:
    return Cost(0.0, 8 * float(np.prod(s.out, dtype=float)))


def joins_channels(s: ConcatSpec) -> bool:
    """Whether the arrays of a join are parts of every pixel of its result."""
    return s.axis == len(s.out) - 1


def _lower_concat(steps: Any, s: ConcatSpec, inputs: Any, outputs: Any) -> None:
    """What does not lie in its part of the result already is copied there."""
    y = outputs[0]
    inner = math.prod(s.out[s.axis + 1 :])
    sizes = [x.shape[s.axis] * inner for x in inputs]
    if all(x.dense and not steps.within(x, y) for x in inputs) and y.dense:
        steps.plan.concat(math.prod(s.out[: s.axis]), [x.place for x in inputs], sizes, y.place)
        return
    # Only joins of channels have parts in place, or results that are themselves parts.
    rows, at = math.prod(s.out[: s.axis]), 0
    for x, size in zip(inputs, sizes, strict=True):
        if not steps.within(x, y):
            steps.plan.copy([rows, size], [x.ld, 1], [y.ld, 1], x.place, steps.shifted(y, at))
        at += size


def _vjp_concat(s: ConcatSpec, needs: Any, g: Array, inputs: Any, results: Any) -> Any:
    return split(g, s.sizes, s.axis)


CONCAT = Op(
    "concat",
    infer_concat,
    reference_concat,
    _native_concat,
    _cost_concat,
    vjp=Vjp(_vjp_concat),
    lower=Lower(
        _lower_concat,
        slice_in=lambda node, position: joins_channels(node.spec),
        slice_out=lambda node: joins_channels(node.spec),
    ),
    settings=lambda s: {"axis": s.axis},
    shapes=lambda *shapes: (shapes,),
    cuda=_cuda_concat,
)


def concat(arrays: Sequence[Any], axis: int = -1) -> Array:
    """Join arrays along an axis that they have.

    Parameters
    ----------
    arrays : sequence of array_like
        One or more, of one element type (float32 or float64) and, along the other axes, one size.
    axis : int
        Negative numbers count from the back; the default joins channels.

    Returns
    -------
    ndarray

    Raises
    ------
    ShapeError, DTypeError, BackendError
    """
    if _State.backend == "cpu" and (y := native().concat_plain(arrays, axis)) is not None:
        return y
    try:
        parts = list(arrays)
    except TypeError:
        fail("concat", f"expected a sequence of arrays, got {type(arrays).__name__}")
    if not all(map(is_plain, parts)):
        for i, part in enumerate(parts):
            parts[i] = array("concat", f"array {i}", part, parts[0] if i else None)
    infer = infer_concat.quick if type(axis) is int else infer_concat
    return CONCAT(infer(tuple([part.shape for part in parts]), axis), *parts)
