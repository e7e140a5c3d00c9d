"""Batch normalisation in its inference form, instance and local response normalisation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import cuda
from .registry import (
    NO_GRADIENT,
    Array,
    Cost,
    Lower,
    Op,
    Vjp,
    array,
    cached,
    choice,
    elements,
    fail,
    integer,
    native,
    number,
    optional,
    reads_all,
    shape_of,
)

_F32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class BatchNormSpec:
    """A checked batch normalisation over the last axis."""

    out: tuple[int, ...]
    eps: float
    vectors: int  # arrays of one value per channel


@dataclass(frozen=True)
class InstanceNormSpec:
    """A checked instance normalisation over all axes but the first and the last."""

    out: tuple[int, ...]
    eps: float


@dataclass(frozen=True)
class LocalResponseSpec:
    """A checked local response normalisation; ``alpha`` is what the sum is multiplied by."""

    out: tuple[int, ...]
    before: int  # neighbours on the side of channel 0, at most all there are
    after: int
    alpha: float
    beta: float
    k: float


def _finite(op: str, name: str, value: Any) -> float:
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
    eps = _finite(op, "eps", eps)
    if eps < 0:
        fail(op, f"eps must not be negative, got {eps}")
    elements(op, *x)
    return BatchNormSpec(x, eps, 2 + (scale is not None) + (shift is not None))


@cached
def infer_instance_norm(
    x: tuple[int, ...],
    scale: tuple[int, ...] | None = None,
    shift: tuple[int, ...] | None = None,
    eps: Any = 1e-5,
) -> InstanceNormSpec:
    """Validate an instance normalisation; see :func:`instance_norm`."""
    op = "instance_norm"
    if len(x) < 3 or 0 in x[1:-1]:
        fail(op, "x must have dimensions N,...,C with at least one pixel", x=x)
    for name, shape in (("scale", scale), ("shift", shift)):
        if shape is not None and shape != x[-1:]:
            fail(op, f"{name} must have shape ({x[-1]},)", **{name: shape}, x=x)
    eps = _finite(op, "eps", eps)
    if eps < 0:
        fail(op, f"eps must not be negative, got {eps}")
    elements(op, *x)
    return InstanceNormSpec(x, eps)


@cached
def infer_local_response_norm(
    x: tuple[int, ...],
    size: Any = 5,
    alpha: Any = 1e-4,
    beta: Any = 0.75,
    k: Any = 2.0,
    alpha_mode: str = "sum",
) -> LocalResponseSpec:
    """Validate a local response normalisation; see :func:`local_response_norm`."""
    op = "local_response_norm"
    if not x:
        fail(op, "x must have at least one dimension, the last for channels", x=x)
    size = integer(op, "size", size, 1)
    alpha, beta, k = (_finite(op, n, v) for n, v in (("alpha", alpha), ("beta", beta), ("k", k)))
    choice(op, "alpha_mode", alpha_mode, ("sum", "mean"))
    elements(op, *x)
    reach = max(x[-1] - 1, 0)
    return LocalResponseSpec(
        x,
        min(size // 2, reach),
        min((size - 1) // 2, reach),
        alpha / size if alpha_mode == "mean" else alpha,
        beta,
        k,
    )


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


def reference_instance_norm(
    s: InstanceNormSpec, x: Array, scale: Array | None = None, shift: Array | None = None
) -> Array:
    """(x - mean) / sqrt(var + eps) * scale + shift; the statistics are taken in float64."""
    axes = tuple(range(1, len(s.out) - 1))
    with np.errstate(all="ignore"):
        wide = x.astype(np.float64)
        wide -= wide.mean(axis=axes, keepdims=True)
        wide /= np.sqrt(np.square(wide).mean(axis=axes, keepdims=True) + s.eps)
        if scale is not None:
            wide *= scale
        if shift is not None:
            wide += shift
        return wide.astype(x.dtype)


def _native_instance_norm(
    s: InstanceNormSpec, x: Array, scale: Array | None = None, shift: Array | None = None
) -> Array:
    return native().instance_norm(x, scale, shift, s.eps)


def _lower_instance_norm(steps: Any, s: InstanceNormSpec, inputs: Any, outputs: Any) -> None:
    x, scale, shift = (*inputs, None, None)[:3]
    sizes = s.out[0], math.prod(s.out[1:-1]), s.out[-1]
    places = x.place, steps.place(scale), steps.place(shift), outputs[0].place
    steps.plan.instance_norm(*sizes, s.eps, *places)


def _windowed(a: Array, before: int, after: int) -> Array:
    """Sums over channels c - before .. c + after."""
    c = a.shape[-1]
    wide = np.zeros((*a.shape[:-1], c + before + after), a.dtype)
    wide[..., before : before + c] = a
    total = wide[..., :c].copy()
    for j in range(1, before + after + 1):
        total += wide[..., j : j + c]
    return total


def reference_local_response_norm(s: LocalResponseSpec, x: Array) -> Array:
    """The quotient x / (k + alpha * windowed sum of squares)^beta."""
    with np.errstate(all="ignore"):
        total = _windowed(np.square(x), s.before, s.after)
        total *= x.dtype.type(s.alpha)
        total += x.dtype.type(s.k)
        return np.asarray(x / total ** x.dtype.type(s.beta))


def _native_batch_norm(
    s: BatchNormSpec,
    x: Array,
    mean: Array,
    var: Array,
    scale: Array | None = None,
    shift: Array | None = None,
) -> Array:
    return native().batch_norm(x, mean, var, scale, shift, s.eps)


def _native_local_response_norm(s: LocalResponseSpec, x: Array) -> Array:
    return native().local_response_norm(x, s.before, s.after, s.k, s.alpha, s.beta)


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


def narrow(vector: Any) -> Any:
    """One value per channel as kernels take it, in float32."""
    return None if vector is None else vector.astype("float32")


def buffer(vector: Any) -> Any:
    """The memory of an optional device array."""
    return None if vector is None else vector.buffer


def _cuda_batch_norm(
    s: BatchNormSpec, x: Any, mean: Any, var: Any, scale: Any = None, shift: Any = None
) -> Any:
    return cuda_normalize((1, _rows(s), s.out[-1]), x, mean, var, scale, shift, s.eps)


def cuda_statistics(sizes: tuple[int, int, int], x: Any) -> tuple[Any, Any]:
    """Mean and variance of every group and channel of a device array, in float32."""
    groups, _, channels = sizes
    mean, var = cuda.empty((groups * channels,)), cuda.empty((groups * channels,))
    cuda.module().statistics(x.code, *sizes, x.buffer, mean.buffer, var.buffer)
    return mean, var


def _cuda_instance_norm(s: InstanceNormSpec, x: Any, scale: Any = None, shift: Any = None) -> Any:
    sizes = s.out[0], math.prod(s.out[1:-1]), s.out[-1]
    return cuda_normalize(sizes, x, *cuda_statistics(sizes, x), scale, shift, s.eps)


def _response_numbers(s: LocalResponseSpec) -> tuple[Any, ...]:
    return _rows(s), s.out[-1], s.before, s.after, s.k, s.alpha, s.beta


def _cuda_local_response_norm(s: LocalResponseSpec, x: Any) -> Any:
    y = cuda.empty(s.out, x.dtype)
    cuda.module().local_response_norm(x.code, *_response_numbers(s), x.buffer, y.buffer)
    return y


def _cuda_local_response_norm_grad(s: LocalResponseSpec, x: Any, g: Any) -> Any:
    gx = cuda.empty(s.out, x.dtype)
    cuda.module().local_response_norm_grad(x.code, *_response_numbers(s), x.buffer, g.buffer, gx.buffer)
    return gx


def _cost_batch_norm(s: BatchNormSpec) -> Cost:
    n = float(np.prod(s.out, dtype=float))
    return Cost(3 * n, 8 * n + 4 * s.vectors * s.out[-1])


def _cost_local_response_norm(s: LocalResponseSpec) -> Cost:
    n = float(np.prod(s.out, dtype=float))
    return Cost((s.before + s.after + 6) * n, 8 * n)


def _rows(s: Any) -> int:
    return math.prod(s.out[:-1])


def _lower_batch_norm(steps: Any, s: BatchNormSpec, inputs: Any, outputs: Any) -> None:
    x, *vectors = [steps.place(v) for v in inputs]
    vectors += [steps.none] * (4 - len(vectors))
    steps.plan.batch_norm(_rows(s), s.out[-1], s.eps, x, *vectors, outputs[0].place)


def _lower_local_response_norm(steps: Any, s: LocalResponseSpec, inputs: Any, outputs: Any) -> None:
    numbers = s.before, s.after, s.k, s.alpha, s.beta
    steps.plan.local_response_norm(_rows(s), s.out[-1], *numbers, inputs[0].place, outputs[0].place)


# --- gradients -------------------------------------------------------------------------------------


def _vjp_batch_norm(s: BatchNormSpec, needs: Any, g: Array, inputs: Any, results: Any) -> Any:
    """Of x and the parameters, and of the statistics as numbers of their own."""
    x, mean, var, scale, _ = inputs
    kind, rows = g.dtype, tuple(range(g.ndim - 1))
    with np.errstate(all="ignore"):
        deviation = 1 / np.sqrt(var.astype(np.float64) + s.eps)
        factor = deviation if scale is None else deviation * scale
        gx = g * factor.astype(kind) if needs[0] else None
        shift: Any = g.sum(axis=rows, dtype=np.float64) if needs[1] or needs[4] else None
        along: Any = ((x - mean) * g).sum(axis=rows, dtype=np.float64) if needs[2] or needs[3] else None
        return (
            gx,
            -shift * factor if needs[1] else None,
            -0.5 * along * factor * deviation**2 if needs[2] else None,
            along * deviation if needs[3] else None,
            shift if needs[4] else None,
        )


def _reads_batch_norm(s: BatchNormSpec, needs: Any) -> tuple[int, ...]:
    return (0, 1, 2, 3) if needs[2] or needs[3] else (2, 3)


def _vjp_instance_norm(s: InstanceNormSpec, needs: Any, g: Array, inputs: Any, results: Any) -> Any:
    """With y = (x - mean) / deviation: gx = (g' - mean(g') - y mean(g' y)) / deviation, g' = g scale."""
    x, scale, _ = inputs
    pixels, kind = tuple(range(1, g.ndim - 1)), g.dtype
    with np.errstate(all="ignore"):
        y = x.astype(np.float64)
        y -= y.mean(axis=pixels, keepdims=True)
        deviation = np.sqrt(np.square(y).mean(axis=pixels, keepdims=True) + s.eps)
        y /= deviation
        gx = None
        if needs[0]:
            wide = g.astype(np.float64) if scale is None else g * scale.astype(np.float64)
            along = (wide * y).mean(axis=pixels, keepdims=True)
            gx = ((wide - wide.mean(axis=pixels, keepdims=True) - y * along) / deviation).astype(kind)
        return (
            gx,
            (g * y).sum(axis=(0, *pixels)) if needs[1] else None,
            g.sum(axis=(0, *pixels), dtype=np.float64) if needs[2] else None,
        )


def infer_local_response_norm_grad(
    x: tuple[int, ...],
    g: tuple[int, ...],
    size: Any = 5,
    alpha: Any = 1e-4,
    beta: Any = 0.75,
    k: Any = 2.0,
    alpha_mode: str = "sum",
) -> LocalResponseSpec:
    """Validate the gradient of a local response normalisation."""
    if g != x:
        fail("local_response_norm_grad", "the gradient must have the shape of x", g=g, x=x)
    return infer_local_response_norm(x, size, alpha, beta, k, alpha_mode)


def reference_local_response_norm_grad(s: LocalResponseSpec, x: Array, g: Array) -> Array:
    """gx[j] = g[j] d[j]^-beta - 2 a beta x[j] sum over the windows c with j of g[c] x[c] d[c]^(-beta-1),
    where d = k + a * windowed sum of squares."""
    kind = x.dtype.type
    with np.errstate(all="ignore"):
        d = _windowed(np.square(x), s.before, s.after) * kind(s.alpha) + kind(s.k)
        gy = g * d ** kind(-s.beta)
        shared = _windowed(gy * x / d, s.after, s.before)
        return np.asarray(gy - kind(2 * s.alpha * s.beta) * x * shared)


LOCAL_RESPONSE_NORM_GRAD = Op(
    "local_response_norm_grad",
    infer_local_response_norm_grad,
    reference_local_response_norm_grad,
    lambda s, x, g: native().local_response_norm_grad(x, g, s.before, s.after, s.k, s.alpha, s.beta),
    lambda s: Cost(
        (2 * (s.before + s.after) + 12) * float(np.prod(s.out, dtype=float)),
        12 * float(np.prod(s.out, dtype=float)),
    ),
    vjp=NO_GRADIENT,
    settings=lambda s: {"size": s.before + s.after + 1, "alpha": s.alpha, "beta": s.beta, "k": s.k},
    cuda=_cuda_local_response_norm_grad,
)
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
INSTANCE_NORM = Op(
    "instance_norm",
    infer_instance_norm,
    reference_instance_norm,
    _native_instance_norm,
    lambda s: Cost(6 * float(np.prod(s.out, dtype=float)), 8 * float(np.prod(s.out, dtype=float))),
    vjp=Vjp(_vjp_instance_norm, lambda s, needs: (0, 1)),
    lower=Lower(_lower_instance_norm, in_place=(0,)),
    settings=lambda s: {"eps": s.eps},
    cuda=_cuda_instance_norm,
)
LOCAL_RESPONSE_NORM = Op(
    "local_response_norm",
    infer_local_response_norm,
    reference_local_response_norm,
    _native_local_response_norm,
    _cost_local_response_norm,
    vjp=Vjp(
        lambda s, needs, g, inputs, results: (LOCAL_RESPONSE_NORM_GRAD(s, inputs[0], g),),
        reads_all,
    ),
    lower=Lower(_lower_local_response_norm),
    settings=lambda s: {"size": s.before + s.after + 1, "alpha": s.alpha, "beta": s.beta, "k": s.k},
    cuda=_cuda_local_response_norm,
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
    x = array(op, "x", x)
    mean, var = array(op, "mean", mean, x), array(op, "var", var, x)
    scale, shift = optional(op, "scale", scale, x), optional(op, "shift", shift, x)
    s = infer_batch_norm(x.shape, mean.shape, var.shape, shape_of(scale), shape_of(shift), eps)
    return BATCH_NORM(s, x, mean, var, scale, shift)


def instance_norm(x: Any, scale: Any = None, shift: Any = None, *, eps: float = 1e-5) -> Array:
    """Every channel of every picture normalised by its own mean and variance.

    Parameters
    ----------
    x : array_like, shape (N, ..., C)
    scale, shift : array_like, shape (C,), optional
        1 and 0 when left out.
    eps : float
        Not negative; added to the variance.

    Returns
    -------
    ndarray, shape of x

    Raises
    ------
    ShapeError, DTypeError, BackendError

    References
    ----------
    Ulyanov et al., "Instance normalization: the missing ingredient for fast stylization", 2016.
    """
    op = "instance_norm"
    x = array(op, "x", x)
    scale, shift = optional(op, "scale", scale, x), optional(op, "shift", shift, x)
    s = infer_instance_norm(x.shape, shape_of(scale), shape_of(shift), eps)
    return INSTANCE_NORM(s, x, scale, shift)


def local_response_norm(
    x: Any,
    *,
    size: int = 5,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 2.0,
    alpha_mode: str = "sum",
) -> Array:
    """Each channel divided by a power of the activity of its neighbours.

    ``y[..., c] = x[..., c] / (k + a * sum_{j = c - size//2}^{c + (size-1)//2} x[..., j]**2) ** beta``;
    channels that do not exist count as zero. An even window has its extra channel before c.

    Parameters
    ----------
    x : array_like, shape (..., C)
        float32 (native kernels; squares must stay below 3.4e38) or float64 (NumPy reference).
    size : int
        Channels in the window, at least 1.
    alpha, beta, k : float
        The defaults are those of the source.
    alpha_mode : {"sum", "mean"}
        ``"sum"``: a = alpha, as in the source. ``"mean"``: a = alpha / size, as torch and ONNX have it
        (torch's default for k is 1).

    Returns
    -------
    ndarray, shape of x

    Raises
    ------
    ShapeError, DTypeError, BackendError

    References
    ----------
    Krizhevsky, Sutskever and Hinton, "ImageNet classification with deep convolutional neural
    networks", 2012, section 3.3.
    """
    x = array("local_response_norm", "x", x)
    s = infer_local_response_norm(x.shape, size, alpha, beta, k, alpha_mode)
    return LOCAL_RESPONSE_NORM(s, x)
