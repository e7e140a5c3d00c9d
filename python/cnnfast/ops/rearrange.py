"""Repetition, picking by index, and pixels exchanged for channels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import cuda
from ..errors import DTypeError
from ..tensor import Tensor
from .arithmetic import broadcast_shape, unbroadcast
from .cast import cuda_cast
from .registry import (
    NO_GRADIENT,
    Array,
    Cost,
    Lower,
    Op,
    Vjp,
    as_array,
    cached,
    choice,
    elements,
    fail,
    hashable,
    integer,
    native,
    rank,
)
from .views import any_array, cuda_copy, reshape, steps, transpose


@dataclass(frozen=True)
class RepeatSpec:
    """x and the shape it is repeated to."""

    x: tuple[int, ...]
    out: tuple[int, ...]


@dataclass(frozen=True)
class GatherSpec:
    x: tuple[int, ...]
    out: tuple[int, ...]
    axis: int
    dtype: str


def _cost(s: Any) -> Cost:
    return Cost(0.0, 8 * float(np.prod(s.out, dtype=float)))


@cached
def infer_expand(x: tuple[int, ...], shape: Any) -> RepeatSpec:
    """Validate an expansion; see :func:`expand`."""
    op = "expand"
    wanted = tuple(integer(op, "a size", n, 0) for n in (shape if isinstance(shape, tuple) else (shape,)))
    out = broadcast_shape(op, x, wanted)
    elements(op, *out)
    return RepeatSpec(x, out)


def reference_expand(s: RepeatSpec, x: Array) -> Array:
    """Broadcast and written out."""
    return np.ascontiguousarray(np.broadcast_to(x, s.out)).reshape(s.out)


@cached
def infer_tile(x: tuple[int, ...], repeats: Any) -> RepeatSpec:
    """Validate a repetition; see :func:`tile`."""
    op = "tile"
    counts = [integer(op, "a repeat", n, 0) for n in (repeats if isinstance(repeats, tuple) else (repeats,))]
    if len(counts) != len(x):
        fail(op, f"{len(counts)} repeats for {len(x)} axes", x=x)
    out = tuple(n * r for n, r in zip(x, counts, strict=True))
    elements(op, *out)
    return RepeatSpec(x, out)


def reference_tile(s: RepeatSpec, x: Array) -> Array:
    """The whole array again and again along each axis."""
    return np.tile(x, [m // n if n else 1 for n, m in zip(s.x, s.out, strict=True)]).reshape(s.out)


def _lower_expand(steps: Any, s: RepeatSpec, inputs: Any, outputs: Any) -> None:
    x, y = inputs[0], outputs[0]
    missing = len(s.out) - len(s.x)
    x_steps = [0] * missing + [
        0 if n != m else step for n, m, step in zip(s.x, s.out[missing:], x.steps, strict=True)
    ]
    steps.plan.copy(s.out, x_steps, y.steps, x.place, y.place)


def _lower_tile(steps: Any, s: RepeatSpec, inputs: Any, outputs: Any) -> None:
    x, y = inputs[0], outputs[0]
    sizes, x_steps, y_steps = [], [], []
    for n, m, from_x, to_y in zip(s.x, s.out, x.steps, y.steps, strict=True):
        sizes += [m // n if n else 1, n]
        x_steps += [0, from_x]
        y_steps += [n * to_y, to_y]
    steps.plan.copy(sizes, x_steps, y_steps, x.place, y.place)


def _vjp_tile(s: RepeatSpec, needs: Any, g: Array, inputs: Any, results: Any) -> Any:
    """The sum over all repetitions, in double precision."""
    apart = [size for n, m in zip(s.x, s.out, strict=True) for size in (m // n if n else 1, n)]
    once = [size for n in s.x for size in (1, n)]
    return (unbroadcast(g.reshape(apart), tuple(once)).reshape(s.x),)


def _cuda_expand(s: RepeatSpec, x: Any) -> Any:
    missing = len(s.out) - len(s.x)
    along = [0 if n != m else k for n, m, k in zip(s.x, s.out[missing:], steps(s.x), strict=True)]
    return cuda_copy(x, cuda.empty(s.out, x.dtype), s.out, [0] * missing + along, steps(s.out))


def _cuda_tile(s: RepeatSpec, x: Any) -> Any:
    sizes: list[int] = []
    x_steps: list[int] = []
    for n, m, along in zip(s.x, s.out, steps(s.x), strict=True):
        sizes += [m // n if n else 1, n]
        x_steps += [0, along]
    return cuda_copy(x, cuda.empty(s.out, x.dtype), sizes, x_steps, steps(tuple(sizes)))


EXPAND = Op(
    "expand",
    infer_expand,
    reference_expand,
    reference_expand,
    _cost,
    vjp=Vjp(lambda s, needs, g, inputs, results: (unbroadcast(g, s.x),)),
    lower=Lower(_lower_expand),
    settings=lambda s: {"shape": s.out},
    cuda=_cuda_expand,
)
TILE = Op(
    "tile",
    infer_tile,
    reference_tile,
    reference_tile,
    _cost,
    vjp=Vjp(_vjp_tile),
    lower=Lower(_lower_tile),
    settings=lambda s: {"repeats": tuple([m // n if n else 1 for n, m in zip(s.x, s.out, strict=True)])},
    cuda=_cuda_tile,
)


def expand(x: Any, shape: Any) -> Any:
    """x broadcast with a shape by NumPy's rules, and written out; sizes of 1 there keep those of x.

    Raises
    ------
    ShapeError
    """
    x = any_array("expand", x)
    return EXPAND(infer_expand(x.shape, hashable(shape)), x)


def tile(x: Any, repeats: Any) -> Any:
    """x repeated as a whole along every axis, as often as ``repeats`` says for it.

    Raises
    ------
    ShapeError
    """
    x = any_array("tile", x)
    return TILE(infer_tile(x.shape, hashable(repeats)), x)


@cached
def infer_gather(
    x: tuple[int, ...], indices: tuple[int, ...], axis: Any = 0, dtype: str = "float32"
) -> GatherSpec:
    """Validate a picking by index; see :func:`gather`."""
    op = "gather"
    if not x:
        fail(op, "x must have at least one dimension", x=x)
    axis = integer(op, "axis", axis, -len(x), len(x) - 1) % len(x)
    out = (*x[:axis], *indices, *x[axis + 1 :])
    elements(op, *out)
    return GatherSpec(x, out, axis, dtype)


def reference_gather(s: GatherSpec, x: Array, indices: Array) -> Array:
    """y[..., i, ...] = x[..., indices[i], ...]."""
    size = s.x[s.axis]
    if indices.size and not (-size <= indices.min() and indices.max() < size):
        fail("gather", f"indices must be from {-size} to {size - 1}", x=s.x)
    return np.ascontiguousarray(np.take(x, indices, axis=s.axis)).reshape(s.out)


@dataclass(frozen=True)
class GatherGradSpec:
    """The array that was picked from, and the axis."""

    out: tuple[int, ...]
    axis: int


def infer_gather_grad(g: tuple[int, ...], indices: tuple[int, ...], x: Any, axis: Any = 0) -> GatherGradSpec:
    """Validate the gradient of a picking by index from an array of shape x."""
    s = infer_gather(hashable(x), indices, axis)
    if g != s.out:
        fail("gather_grad", "the gradient must have the shape of what was picked", g=g, picked=s.out)
    return GatherGradSpec(s.x, s.axis)


def reference_gather_grad(s: GatherGradSpec, g: Array, indices: Array) -> Array:
    """What was taken several times has the sum of its gradients, added in the order of the indices."""
    gx = np.zeros(s.out, g.dtype)
    flat = g.reshape((*s.out[: s.axis], indices.size, *s.out[s.axis + 1 :]))
    np.add.at(np.moveaxis(gx, s.axis, 0), indices.ravel(), np.moveaxis(flat, s.axis, 0))
    return gx


def _native_gather_grad(s: GatherGradSpec, g: Array, indices: Array) -> Array:
    sizes = math.prod(s.out[: s.axis]), s.out[s.axis], math.prod(s.out[s.axis + 1 :])
    return native().gather_grad(g, np.ascontiguousarray(indices, np.int64), *sizes, s.out)


def _cuda_gather_grad(s: GatherGradSpec, g: Any, indices: Any) -> Any:
    gx, wide = cuda.empty(s.out, g.dtype), cuda_cast(indices, np.int64)
    sizes = math.prod(s.out[: s.axis]), s.out[s.axis], indices.size, math.prod(s.out[s.axis + 1 :])
    cuda.module().gather_grad(g.code, *sizes, g.buffer, wide.buffer, gx.buffer)
    return gx


GATHER_GRAD = Op(
    "gather_grad",
    infer_gather_grad,
    reference_gather_grad,
    _native_gather_grad,
    lambda s: Cost(0.0, 8 * float(np.prod(s.out, dtype=float))),
    vjp=NO_GRADIENT,
    settings=lambda s: {"x": s.out, "axis": s.axis},
    cuda=_cuda_gather_grad,
)


def _vjp_gather(s: GatherSpec, needs: Any, g: Array, inputs: Any, results: Any) -> Any:
    return (GATHER_GRAD.compute(GatherGradSpec(s.x, s.axis), g, inputs[1]),)


def host_values(array: Any) -> Array:
    """The values of a device array, copied once where they never change."""
    return array.form("host", array.numpy)


def _cuda_gather(s: GatherSpec, x: Any, indices: Any) -> Any:
    size, host = s.x[s.axis], host_values(indices)
    if host.size and not (-size <= host.min() and host.max() < size):
        fail("gather", f"indices must be from {-size} to {size - 1}", x=s.x)
    y, wide = cuda.empty(s.out, x.dtype), cuda_cast(indices, np.int64)
    sizes = math.prod(s.x[: s.axis]), size, host.size, math.prod(s.x[s.axis + 1 :])
    cuda.module().gather(x.code, *sizes, x.buffer, wide.buffer, y.buffer)
    return y


GATHER = Op(
    "gather",
    infer_gather,
    reference_gather,
    reference_gather,
    _cost,
    vjp=Vjp(_vjp_gather, lambda s, needs: (1,)),
    results=lambda s, dtype: ((s.out, np.dtype(s.dtype)),),
    settings=lambda s: {"axis": s.axis, "dtype": s.dtype},
    cuda=_cuda_gather,
    read_on_host=(1,),
)


def gather(x: Any, indices: Any, axis: int = 0) -> Any:
    """The entries of x along an axis that whole numbers of any shape name, as ``numpy.take``.

    Parameters
    ----------
    x : array_like
    indices : array_like of whole numbers
        From -n to n - 1 for an axis of size n; negative ones count from the end.
    axis : int

    Returns
    -------
    ndarray
        The shape of the indices in place of the axis.

    Raises
    ------
    ShapeError, DTypeError
    """
    x = any_array("gather", x)
    if not isinstance(indices, (Tensor, cuda.DeviceArray)):
        on_device = isinstance(x._data if isinstance(x, Tensor) else x, cuda.DeviceArray)
        indices = as_array("gather", "indices", indices)
        indices = cuda.asarray(indices) if on_device else indices
    if indices.dtype.kind not in "iu":
        raise DTypeError(f"gather: indices are {indices.dtype}; expected whole numbers")
    return GATHER(infer_gather(x.shape, indices.shape, axis, x.dtype.name), x, indices)


def depth_to_space(x: Any, block: int, *, order: str = "block") -> Any:
    """Channels become pixels: (N, H, W, C) gives (N, H block, W block, C / block^2).

    Parameters
    ----------
    x : array_like, shape (N, H, W, C)
    block : int
    order : {"block", "channel"}
        Whether the C channels are numbered by place in the block first and channel of the result last
        (``"block"``, DCR in ONNX, the inverse of :func:`space_to_depth`), or the other way round
        (``"channel"``, CRD in ONNX, pixel shuffle in torch).

    Raises
    ------
    ShapeError

    References
    ----------
    Shi et al., "Real-time single image and video super-resolution using an efficient sub-pixel
    convolutional neural network", 2016.
    """
    op = "depth_to_space"
    x = any_array("depth_to_space", x)
    rank(op, "x", x.shape, "N,H,W,C")
    block = integer(op, "block", block, 1)
    choice(op, "order", order, ("block", "channel"))
    n, h, w, c = x.shape
    if c % (block * block):
        fail(op, f"{c} channels cannot be split into blocks of {block} x {block}", x=x.shape)
    inner = c // (block * block)
    if order == "block":
        parts = transpose(reshape(x, (n, h, w, block, block, inner)), (0, 1, 3, 2, 4, 5))
    else:
        parts = transpose(reshape(x, (n, h, w, inner, block, block)), (0, 1, 4, 2, 5, 3))
    return reshape(parts, (n, h * block, w * block, inner))


def space_to_depth(x: Any, block: int) -> Any:
    """Pixels become channels: (N, H, W, C) gives (N, H / block, W / block, block^2 C).

    The new channels are numbered by row and column in the block first, then by channel.

    Raises
    ------
    ShapeError
    """
    op = "space_to_depth"
    x = any_array("space_to_depth", x)
    rank(op, "x", x.shape, "N,H,W,C")
    block = integer(op, "block", block, 1)
    n, h, w, c = x.shape
    if h % block or w % block:
        fail(op, f"{h} x {w} pixels cannot be split into blocks of {block} x {block}", x=x.shape)
    parts = reshape(x, (n, h // block, block, w // block, block, c))
    return reshape(transpose(parts, (0, 1, 3, 2, 4, 5)), (n, h // block, w // block, block * block * c))
