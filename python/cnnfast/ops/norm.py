"""Batch normalisation in its inference form."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import cuda
from ..config import _State
from .arithmetic import mul
from .reduce import reduce_sum
from .registry import (
    F64,
    NO_GRADIENT,
    Array,
    Cost,
    Lower,
    Op,
    Vjp,
    array,
    cached,
    elements,
    fail,
    native,
    number,
    optional,
    shape_of,
    vector,
)
from .unary import sqrt

_F32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class BatchNormSpec:
    """A checked batch normalisation over the last axis."""

    out: tuple[int, ...]
    eps: float
    vectors: int  # arrays of one value per channel


def finite(op: str, name: str, value: Any) -> float:
    """A number that is finite in float32."""
    f = number(op, name, value)
    if abs(f) > _F32_MAX:
        fail(op, f"{name} must be finite in float32, got {f}")
    return f


@cached
def infer_batch_norm(
    x: tuple[int, ...],
    mean: tuple[int, ...],
    var: tuple[int, ...],
    scale: tuple[int, ...] | None = None,
    shift: tuple[int, ...] | None = None,
    eps: Any = 1e-5,
) -> BatchNormSpec:
    """Validate a batch normalisation; see :func:`batch_norm`."""
    op = "batch_norm"
    if not x:
        fail(op, "x must have at least one dimension, the last for channels", x=x)
    for name, shape in (("mean", mean), ("var", var), ("scale", scale), ("shift", shift)):
        if shape is not None and shape != x[-1:]:
            fail(op, f"{name} must have shape ({x[-1]},)", **{name: shape}, x=x)
    eps = finite(op, "eps", eps)
    if eps < 0:
        fail(op, f"eps must not be negative, got {eps}")
    elements(op, *x)
    return BatchNormSpec(x, eps, 2 + (scale is not None) + (shift is not None))


def reference_batch_norm(
    s: BatchNormSpec,
    x: Array,
    mean: Array,
    var: Array,
    scale: Array | None = None,
    shift: Array | None = None,
) -> Array:
    """(x - mean) * factor + shift with factor = scale / sqrt(var + eps), which is taken in float64."""
    with np.errstate(all="ignore"):
        factor = 1 / np.sqrt(var.astype(np.float64) + s.eps)
        if scale is not None:
            factor *= scale
        y = (x - mean) * factor.astype(x.dtype)
        return y if shift is None else y + shift


def _native_batch_norm(
    s: BatchNormSpec,
    x: Array,
    mean: Array,
    var: Array,
    scale: Array | None = None,
    shift: Array | None = None,
) -> Array:
    return native().batch_norm(x, mean, var, scale, shift, s.eps)


def cuda_normalize(
    sizes: tuple[int, int, int],
    x: Any,
    mean: Any,
    var: Any,
    scale: Any,
    shift: Any,
    eps: float,
    activation: int = 0,
) -> Any:
    """act((x - mean) / sqrt(var + eps) * scale + shift) of a device array of groups x rows x channels."""
    y = cuda.empty(x.shape, x.dtype)
    vectors = [narrow(v) for v in (mean, var, scale, shift)]
    cuda.module().normalize(x.code, *sizes, x.buffer, *map(buffer, vectors), eps, activation, 0.0, y.buffer)
    return y


def cuda_normalize_grad(
    sizes: tuple[int, int, int],
    g: Any,
    x: Any,
    mean: Any,
    var: Any,
    scale: Any,
    shift: Any,
    eps: float,
    activation: int = 0,
) -> tuple[Any, Any, Any]:
    """The gradient of x through the statistics of its groups and their use; and in float32, for every group
    and channel, those of scale and shift."""
    groups, _, channels = sizes
    gx, gscale, gshift = cuda.empty(g.shape, g.dtype), *[cuda.empty((groups, channels)) for _ in range(2)]
    vectors = [buffer(narrow(v)) for v in (mean, var, scale, shift)]
    given = g.buffer, x.buffer, *vectors, eps, activation
    cuda.module().normalize_grad(g.code, *sizes, *given, gx.buffer, gscale.buffer, gshift.buffer)
    return gx, gscale, gshift


def narrow(vector: Any) -> Any:
    """One value per channel as kernels take it, in float32."""
    return None if vector is None else vector.astype("float32")


def buffer(vector: Any) -> Any:
    """The memory of an optional device array."""
    return None if vector is None else vector.buffer


def _cuda_batch_norm(
    s: BatchNormSpec, x: Any, mean: Any, var: Any, scale: Any = None, shift: Any = None
) -> Any:
    return cuda_normalize((1, rows_of(s), s.out[-1]), x, mean, var, scale, shift, s.eps)


def cuda_statistics(sizes: tuple[int, int, int], x: Any) -> tuple[Any, Any]:
    """Mean and variance of every group and channel of a device array, in float32."""
    groups, _, channels = sizes
    mean, var = cuda.empty((groups * channels,)), cuda.empty((groups * channels,))
    cuda.module().statistics(x.code, *sizes, x.buffer, mean.buffer, var.buffer)
    return mean, var


def _cost_batch_norm(s: BatchNormSpec) -> Cost:
    n = float(np.prod(s.out, dtype=float))
    return Cost(3 * n, 8 * n + 4 * s.vectors * s.out[-1])


def rows_of(s: Any) -> int:
    """Pixels of an array of the shape s.out, of all pictures."""
    return math.prod(s.out[:-1])


def _lower_batch_norm(steps: Any, s: BatchNormSpec, inputs: Any, outputs: Any) -> None:
    x, *vectors = [steps.place(v) for v in inputs]
    vectors += [steps.none] * (4 - len(vectors))
    steps.plan.batch_norm(rows_of(s), s.out[-1], s.eps, x, *vectors, outputs[0].place)


# --- gradient --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BatchNormGradSpec:
    """A gradient, and an array of its shape with channels along the last axis."""

    out: tuple[int, ...]


@cached
def infer_batch_norm_grad_sums(
    g: tuple[int, ...], x: tuple[int, ...], mean: tuple[int, ...]
) -> BatchNormGradSpec:
    """Validate the arguments of the sums that gradients by given statistics are made of."""
    if g != x:
        fail("batch_norm_grad_sums", "the gradient must have the shape of x", g=g, x=x)
    return BatchNormGradSpec(infer_batch_norm(x, mean, mean).out)


def reference_batch_norm_grad_sums(
    s: BatchNormGradSpec, g: Array, x: Array, mean: Array
) -> tuple[Array, Array]:
    """Sums over all pixels of g, and of g (x - mean), in float64."""
    rows = tuple(range(g.ndim - 1))
    with np.errstate(all="ignore"):
        along = ((x - mean) * g).sum(axis=rows, dtype=np.float64)
        return g.sum(axis=rows, dtype=np.float64), along


def _cuda_batch_norm_grad_sums(s: BatchNormGradSpec, g: Any, x: Any, mean: Any) -> tuple[Any, Any]:
    """Added up in double precision, and rounded to float32, which is the widest type on a device."""
    shift, along = cuda.empty(s.out[-1:]), cuda.empty(s.out[-1:])
    buffers = g.buffer, x.buffer, narrow(mean).buffer, shift.buffer, along.buffer
    cuda.module().batch_norm_grad_sums(g.code, rows_of(s), s.out[-1], *buffers)
    return shift, along


BATCH_NORM_GRAD_SUMS = Op(
    "batch_norm_grad_sums",
    infer_batch_norm_grad_sums,
    reference_batch_norm_grad_sums,
    lambda s, g, x, mean: native().batch_norm_grad_sums(g, x, mean),
    lambda s: Cost(4 * float(np.prod(s.out, dtype=float)), 8 * float(np.prod(s.out, dtype=float))),
    vjp=NO_GRADIENT,
    results=lambda s, dtype: ((s.out[-1:], F64), (s.out[-1:], F64)),
    cuda=_cuda_batch_norm_grad_sums,
)


def _widest(g: Any) -> Callable[[Any], Any]:
    """To the widest floating-point type where g lies."""
    return narrow if isinstance(g, cuda.DeviceArray) else lambda vector: vector.astype(F64)


def _vjp_batch_norm(s: BatchNormSpec, needs: Any, g: Array, inputs: Any, results: Any) -> Any:
    """Of x and the parameters, and of the statistics as numbers of their own."""
    x, mean, var, scale, _ = inputs
    wide = _widest(g)
    shift: Any = None
    along: Any = None
    if needs[2] or needs[3]:
        sums = infer_batch_norm_grad_sums(g.shape, x.shape, mean.shape)
        shift, along = BATCH_NORM_GRAD_SUMS.compute(sums, g, x, mean)
    elif needs[1] or needs[4]:
        shift = wide(reduce_sum(g, tuple(range(g.ndim - 1))))
    with np.errstate(all="ignore"):
        deviation = 1.0 / sqrt(wide(var) + s.eps)
        factor = deviation if scale is None else deviation * wide(scale)
        return (
            mul(g, factor.astype(g.dtype)) if needs[0] else None,
            -shift * factor if needs[1] else None,
            -0.5 * along * factor * deviation * deviation if needs[2] else None,
            along * deviation if needs[3] else None,
            shift if needs[4] else None,
        )


def _reads_batch_norm(s: BatchNormSpec, needs: Any) -> tuple[int, ...]:
    return (0, 1, 2, 3) if needs[2] or needs[3] else (2, 3)


BATCH_NORM = Op(
    "batch_norm",
    infer_batch_norm,
    reference_batch_norm,
    _native_batch_norm,
    _cost_batch_norm,
    vjp=Vjp(_vjp_batch_norm, _reads_batch_norm),
    lower=Lower(_lower_batch_norm, in_place=(0,)),
    settings=lambda s: {"eps": s.eps},
    cuda=_cuda_batch_norm,
)


def batch_norm(
    x: Any, mean: Any, var: Any, scale: Any = None, shift: Any = None, *, eps: float = 1e-5
) -> Array:
    """Batch normalisation with given statistics: (x - mean) / sqrt(var + eps) * scale + shift.

    Parameters
    ----------
    x : array_like, shape (..., C)
        float32 (native kernels) or float64 (NumPy reference).
    mean, var : array_like, shape (C,)
        Statistics per channel; a negative ``var + eps`` gives NaN.
    scale, shift : array_like, shape (C,), optional
        1 and 0 when left out.
    eps : float
        Not negative.

    Returns
    -------
    ndarray, shape of x
        The error is at most 4 units in the last place of ``|x - mean| * |factor| + |shift|``: the mean is
        subtracted first, so large means lose nothing.

    Raises
    ------
    ShapeError, DTypeError, BackendError

    References
    ----------
    Ioffe and Szegedy, "Batch normalization", 2015, algorithm 2.
    """
    op = "batch_norm"
    if _State.backend == "cpu":
        y = native().batch_norm_plain(x, (mean, var, scale, shift), eps)
        if y is not None:
            return y
    x = array(op, "x", x)
    mean, var = vector(op, "mean", mean, x), vector(op, "var", var, x)
    scale, shift = optional(op, "scale", scale, x), optional(op, "shift", shift, x)
    s = infer_batch_norm(x.shape, mean.shape, var.shape, shape_of(scale), shape_of(shift), eps)
    return BATCH_NORM(s, x, mean, var, scale, shift)
