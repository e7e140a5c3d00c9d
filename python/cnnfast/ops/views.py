"""Other shapes and parts of an array: reshape, transpose, slices, splits. Element types are free."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import cuda
from ..tensor import Tensor
from .registry import (
    NO_GRADIENT,
    Array,
    Cost,
    Lower,
    Op,
    Vjp,
    as_array,
    cached,
    elements,
    fail,
    hashable,
    integer,
    is_plain,
    native,
    several,
    shown,
)

Index = tuple[tuple[int, int, int], ...]  # first, stop and step of every axis


@dataclass(frozen=True)
class ReshapeSpec:
    x: tuple[int, ...]
    out: tuple[int, ...]


@dataclass(frozen=True)
class TransposeSpec:
    x: tuple[int, ...]
    out: tuple[int, ...]
    axes: tuple[int, ...]


@dataclass(frozen=True)
class SliceSpec:
    """``index`` picks from every axis of x; the axes in ``dropped`` (of size 1 then) are left out."""

    x: tuple[int, ...]
    out: tuple[int, ...]
    index: Index
    dropped: tuple[int, ...]


def any_array(op: str, value: Any) -> Any:
    """A tensor or device array as it is, anything else as an array of whatever type."""
    return value if isinstance(value, (Tensor, cuda.DeviceArray)) else as_array(op, "x", value)


@cached
def infer_reshape(x: tuple[int, ...], shape: Any) -> ReshapeSpec:
    """Validate a new shape; one -1 stands for what is left."""
    op = "reshape"
    sizes = [integer(op, "a size", n, -1) for n in (shape if isinstance(shape, tuple) else (shape,))]
    count = elements(op, *x) if 0 not in x else 0
    if sizes.count(-1) > 1:
        fail(op, f"only one size may be -1, got {tuple(sizes)}")
    if -1 in sizes:
        rest = 1
        for n in sizes:
            rest *= n if n != -1 else 1
        if rest == 0 or count % rest:
            fail(op, f"{count} elements cannot be given the shape {tuple(sizes)}", x=x)
        sizes[sizes.index(-1)] = count // rest
    product = 1
    for n in sizes:
        product *= n
    if product != count:
        fail(op, f"{count} elements cannot be given the shape {tuple(sizes)}", x=x)
    return ReshapeSpec(x, tuple(sizes))


@cached
def infer_transpose(x: tuple[int, ...], axes: Any = None) -> TransposeSpec:
    """Validate an order of axes; None reverses them."""
    op = "transpose"
    if axes is None:
        axes = tuple(range(len(x)))[::-1]
    order = tuple(integer(op, "an axis", a, -len(x), len(x) - 1) % max(1, len(x)) for a in axes)
    if sorted(order) != list(range(len(x))):
        fail(op, f"expected every one of {len(x)} axes once, got {order}", x=x)
    return TransposeSpec(x, tuple(x[a] for a in order), order)


@cached
def infer_slice(x: tuple[int, ...], index: Index, dropped: tuple[int, ...] = ()) -> SliceSpec:
    """Shape of a slice whose bounds lie within x already."""
    if len(index) != len(x) or any(not 0 <= axis < len(x) for axis in dropped):
        fail("slice", "expected bounds for every axis", x=x)
    for part, size in zip(index, x, strict=True):
        places = range(*part)
        if len(places) and not (min(places[0], places[-1]) >= 0 and max(places[0], places[-1]) < size):
            fail("slice", f"the bounds {part} leave an axis of {size}", x=x)
    if any(len(range(*index[axis])) != 1 for axis in dropped):
        fail("slice", "an axis that is dropped must have one element", x=x)
    sizes = [len(range(*part)) for part in index]
    return SliceSpec(x, tuple(n for i, n in enumerate(sizes) if i not in dropped), index, dropped)


def _normal(x: tuple[int, ...], index: Any) -> tuple[Index, tuple[int, ...]]:
    """Bounds for every axis from whole numbers, slices and ``...``."""
    op = "take"
    items = list(index) if isinstance(index, tuple) else [index]
    at = next((i for i, item in enumerate(items) if item is Ellipsis), None)  # arrays have no single ==
    if at is not None:
        items[at : at + 1] = [slice(None)] * (len(x) - len(items) + 1)
    if len(items) > len(x):
        fail(op, f"{len(items)} indices for {len(x)} axes", x=x)
    items += [slice(None)] * (len(x) - len(items))
    bounds, dropped = [], []
    for axis, (item, size) in enumerate(zip(items, x, strict=True)):
        try:
            if isinstance(item, slice):
                bounds.append(item.indices(size))
                continue
            i = operator.index(item)
        except (TypeError, ValueError):
            fail(op, f"expected whole numbers and slices, got {shown(item)}", x=x)
        if isinstance(item, (bool, np.bool_)):
            fail(op, f"expected whole numbers and slices, got {item!r}", x=x)
        if not -size <= i < size:
            fail(op, f"index {i} is outside axis {axis} of size {size}", x=x)
        bounds.append((i % size, i % size + 1, 1))
        dropped.append(axis)
    return tuple(bounds), tuple(dropped)


def reference_reshape(s: ReshapeSpec, x: Array) -> Array:
    """The same elements in C order under another shape."""
    return x.reshape(s.out)


def reference_transpose(s: TransposeSpec, x: Array) -> Array:
    """Axes in another order, written out."""
    return np.ascontiguousarray(x.transpose(s.axes)).reshape(s.out)  # NumPy makes it at least one axis


def _parts(index: Index) -> tuple[slice, ...]:
    # Bounds of nothing may lie below zero, where NumPy counts from the end.
    return tuple(
        [
            slice(first, None if stop < 0 else stop, step) if len(range(first, stop, step)) else slice(0)
            for first, stop, step in index
        ]
    )


def reference_slice(s: SliceSpec, x: Array) -> Array:
    """Every step-th element between two bounds of every axis."""
    return np.ascontiguousarray(x[_parts(s.index)]).reshape(s.out)


def _vjp_transpose(s: TransposeSpec, needs: Any, g: Array, inputs: Any, results: Any) -> Any:
    return (transpose(g, [s.axes.index(i) for i in range(len(s.axes))]),)


@functools.lru_cache(maxsize=1024)
def _strides(s: SliceSpec) -> tuple[int, list[int], list[int]]:
    """Of a dense array, in elements: where the slice begins, and sizes and steps along all axes."""
    start, sizes, steps, inner = 0, [], [], 1
    for (first, stop, step), size in zip(reversed(s.index), reversed(s.x), strict=True):
        sizes.append(len(range(first, stop, step)))
        steps.append(step * inner)
        start += first * inner
        inner *= size
    return start, sizes[::-1], steps[::-1]


def _native_slice(s: SliceSpec, x: Array) -> Array:
    """Memory in one piece stays a view, as in the definition."""
    part = x[_parts(s.index)]
    if part.flags.c_contiguous or not is_plain(x):
        return np.ascontiguousarray(part).reshape(s.out)
    return native().strided_copy(x, *_strides(s), s.out)


# --- gradients -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SliceGradSpec:
    """The slice that a gradient is of."""

    of: SliceSpec

    @property
    def out(self) -> tuple[int, ...]:
        return self.of.x


@cached
def infer_slice_grad(
    g: tuple[int, ...], x: Any, index: Index, dropped: tuple[int, ...] = ()
) -> SliceGradSpec:
    """Validate the gradient of a slice of an array of shape x."""
    s = infer_slice(x, index, dropped)
    if g != s.out:
        fail("slice_grad", "the gradient must have the shape of the slice", g=g, slice=s.out)
    return SliceGradSpec(s)


def reference_slice_grad(s: SliceGradSpec, g: Array) -> Array:
    """Zeros wherever the slice did not look."""
    gx = np.zeros(s.out, g.dtype)
    part = gx[_parts(s.of.index)]
    part[...] = g.reshape(part.shape)
    return gx


def _native_slice_grad(s: SliceGradSpec, g: Array) -> Array:
    if 0 in g.shape:
        return np.zeros(s.out, g.dtype)
    return native().strided_scatter(g, *_strides(s.of), s.out)


def _cuda_slice_grad(s: SliceGradSpec, g: Any) -> Any:
    gx, (start, sizes, along) = cuda.zeros(s.out, g.dtype), _strides(s.of)
    return cuda_copy(g, gx, sizes, steps(tuple(sizes)), along, y_start=start)


SLICE_GRAD = Op(
    "slice_grad",
    infer_slice_grad,
    reference_slice_grad,
    _native_slice_grad,
    lambda s: Cost(0.0, 4 * float(np.prod(s.out, dtype=float) + np.prod(s.of.out, dtype=float))),
    vjp=NO_GRADIENT,
    settings=lambda s: {"x": s.out, "index": s.of.index, "dropped": s.of.dropped},
    cuda=_cuda_slice_grad,
)


def _vjp_slice(s: SliceSpec, needs: Any, g: Array, inputs: Any, results: Any) -> Any:
    return (SLICE_GRAD.compute(SliceGradSpec(s), g),)


def _cost(s: Any) -> Cost:
    return Cost(0.0, 8 * float(np.prod(s.out, dtype=float)))


def channels_of(s: SliceSpec) -> int | None:
    """The first channel of a slice that takes whole pixels but for their channels, in order."""
    *pixels, (first, _, step) = s.index or ((0, 0, 0),)
    whole = all(part == (0, n, 1) for part, n in zip(pixels, s.x[:-1], strict=True))
    return first if s.index and whole and step == 1 and not s.dropped and 0 not in s.out else None


def _lower_transpose(steps: Any, s: TransposeSpec, inputs: Any, outputs: Any) -> None:
    x, y = inputs[0], outputs[0]
    steps.plan.copy(s.out, [x.steps[a] for a in s.axes], y.steps, x.place, y.place)


def _lower_slice(steps: Any, s: SliceSpec, inputs: Any, outputs: Any) -> None:
    x, y = inputs[0], outputs[0]
    if steps.within(y, x) or 0 in s.out:
        return
    kept = [i for i in range(len(s.x)) if i not in s.dropped]
    x_steps = [x.steps[i] * s.index[i][2] for i in kept]
    start = sum(first * n for (first, _, _), n in zip(s.index, x.steps, strict=True))
    steps.plan.copy(s.out, x_steps, y.steps, steps.shifted(x, start), y.place)


def _copies(emit: Any) -> Lower:
    return Lower(emit, slice_in=lambda node, position: True, slice_out=lambda node: True)


def steps(shape: tuple[int, ...]) -> list[int]:
    """Elements from one place to the next along every axis, in C order."""
    found, n = [], 1
    for size in reversed(shape):
        found.append(n)
        n *= size
    return found[::-1]


def cuda_copy(
    x: Any,
    y: Any,
    sizes: Sequence[int],
    x_steps: list[int],
    y_steps: list[int],
    x_start: int = 0,
    y_start: int = 0,
) -> Any:
    """Elements of one device array, so many steps apart along axes of these sizes, to places in another."""
    cuda.module().copy(y.code, sizes, x_steps, y_steps, x.buffer, x_start, y.buffer, y_start)
    return y


def _cuda_transpose(s: TransposeSpec, x: Any) -> Any:
    along = steps(s.x)
    return cuda_copy(x, cuda.empty(s.out, x.dtype), s.out, [along[a] for a in s.axes], steps(s.out))


def _cuda_slice(s: SliceSpec, x: Any) -> Any:
    start, sizes, along = _strides(s)
    return cuda_copy(x, cuda.empty(s.out, x.dtype), sizes, along, steps(tuple(sizes)), start)


# NumPy transposes as fast as we could.
RESHAPE = Op(
    "reshape",
    infer_reshape,
    reference_reshape,
    reference_reshape,
    lambda s: Cost(0.0, 0.0),
    vjp=Vjp(lambda s, needs, g, inputs, results: (g.reshape(s.x),)),
    lower=Lower(lambda steps, s, inputs, outputs: None, view=True),
    settings=lambda s: {"shape": s.out},
    cuda=lambda s, x: x.reshape(s.out),
)
TRANSPOSE = Op(
    "transpose",
    infer_transpose,
    reference_transpose,
    reference_transpose,
    _cost,
    vjp=Vjp(_vjp_transpose),
    lower=_copies(_lower_transpose),
    settings=lambda s: {"axes": s.axes},
    cuda=_cuda_transpose,
)
SLICE = Op(
    "slice",
    infer_slice,
    reference_slice,
    _native_slice,
    _cost,
    vjp=Vjp(_vjp_slice),
    lower=_copies(_lower_slice),
    settings=lambda s: {"index": s.index, "dropped": s.dropped},
    cuda=_cuda_slice,
)


def reshape(x: Any, shape: Any) -> Any:
    """The same elements, in C order, under another shape; a view where NumPy gives one.

    Parameters
    ----------
    x : array_like
    shape : int or tuple of int
        One size may be -1: what is left.

    Raises
    ------
    ShapeError
    """
    x = any_array("reshape", x)
    return RESHAPE(infer_reshape(x.shape, hashable(shape)), x)


def flatten(x: Any, start: int = 1) -> Any:
    """One axis in place of all from ``start`` on: (N, H, W, C) becomes (N, H W C)."""
    x = any_array("flatten", x)
    start = integer("flatten", "start", start, 0, len(x.shape))
    n = 1
    for size in x.shape[start:]:
        n *= size
    return reshape(x, (*x.shape[:start], n))


def transpose(x: Any, axes: Sequence[int] | None = None) -> Any:
    """Axes in another order (reversed without one), C-contiguous."""
    x = any_array("transpose", x)
    return TRANSPOSE(
        infer_transpose(x.shape, None if axes is None else several("transpose", "axes", axes)), x
    )


def take(x: Any, index: Any) -> Any:
    """``x[index]`` for whole numbers, slices and ``...``, C-contiguous."""
    x = any_array("take", x)
    return SLICE(infer_slice(x.shape, *_normal(x.shape, index)), x)


def split(x: Any, sizes: Sequence[int], axis: int = -1) -> list[Any]:
    """Parts of these sizes along an axis, one after the other; they must add up to all of it."""
    x = any_array("split", x)
    axis = integer("split", "axis", axis, -len(x.shape), len(x.shape) - 1) % len(x.shape)
    sizes = [integer("split", "a size", n, 0) for n in several("split", "sizes", sizes)]
    if sum(sizes) != x.shape[axis]:
        fail("split", f"parts of {tuple(sizes)} do not add up to axis {axis}", x=x.shape)
    parts, at = [], 0
    for size in sizes:
        parts.append(take(x, (*[slice(None)] * axis, slice(at, at + size))))
        at += size
    return parts
