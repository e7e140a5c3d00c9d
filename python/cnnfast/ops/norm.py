"""Batch normalisation in its inference form, instance and local response normalisation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .registry import (
    Array,
    Cost,
    Lower,
    Op,
    array,
    cached,
    choice,
    elements,
    fail,
    integer,
    native,
    number,
    optional,
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


def reference_local_response_norm(s: LocalResponseSpec, x: Array) -> Array:
    """The quotient x / (k + alpha * windowed sum of squares)^beta."""
    c = x.shape[-1]
    with np.errstate(all="ignore"):
        squares = np.zeros((*x.shape[:-1], c + s.before + s.after), x.dtype)
        np.square(x, out=squares[..., s.before : s.before + c])
        total = squares[..., :c].copy()
        for j in range(1, s.before + s.after + 1):
            total += squares[..., j : j + c]
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


BATCH_NORM = Op(
    "batch_norm",
    infer_batch_norm,
    reference_batch_norm,
    _native_batch_norm,
    _cost_batch_norm,
    lower=Lower(_lower_batch_norm, in_place=(0,)),
    settings=lambda s: {"eps": s.eps},
)
# NumPy is the native form too: few networks use it, and it is bound by memory.
INSTANCE_NORM = Op(
    "instance_norm",
    infer_instance_norm,
    reference_instance_norm,
    reference_instance_norm,
    lambda s: Cost(6 * float(np.prod(s.out, dtype=float)), 8 * float(np.prod(s.out, dtype=float))),
    settings=lambda s: {"eps": s.eps},
)
LOCAL_RESPONSE_NORM = Op(
    "local_response_norm",
    infer_local_response_norm,
    reference_local_response_norm,
    _native_local_response_norm,
    _cost_local_response_norm,
    lower=Lower(_lower_local_response_norm),
    settings=lambda s: {"size": s.before + s.after + 1, "alpha": s.alpha, "beta": s.beta, "k": s.k},
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
        The error is at most 4 units in the last place of |x - mean| * |factor| + |shift|: the mean is
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
