"""Batch normalisation in training: by the statistics of the batch itself, and its gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .activations import ACTIVATION_CODES, apply_activation
from .norm import cuda_normalize, cuda_normalize_grad, cuda_statistics, finite
from .rearrange import expand
from .registry import (
    NO_GRADIENT,
    Array,
    Cost,
    Op,
    Vjp,
    array,
    cached,
    choice,
    elements,
    fail,
    native,
    optional,
    shape_of,
    vector,
)

# What can follow in the same pass.
ACTIVATIONS = ("relu", "relu6")


@dataclass(frozen=True)
class BatchNormTrainSpec:
    """A checked batch normalisation by batch statistics over all axes but the last."""

    out: tuple[int, ...]
    eps: float
    activation: str | None  # None or one of ACTIVATIONS
    slope: float = 0.0  # of no activation here; other specifications have one

    @property
    def rows(self) -> int:
        """Values per channel."""
        return math.prod(self.out[:-1])


def _check(op: str, x: tuple[int, ...], eps: Any, activation: Any, **vectors: Any) -> BatchNormTrainSpec:
    if not x or 0 in x[:-1]:
        fail(op, "x must have dimensions ...,C with at least one value per channel", x=x)
    for name, shape in vectors.items():
        if shape is not None and shape != x[-1:]:
            fail(op, f"{name} must have shape ({x[-1]},)", **{name: shape}, x=x)
    eps = finite(op, "eps", eps)
    if eps < 0:
        fail(op, f"eps must not be negative, got {eps}")
    if activation is not None:
        choice(op, "activation", activation, ACTIVATIONS)
    elements(op, *x)
    return BatchNormTrainSpec(x, eps, activation)


@cached
def infer_batch_norm_train(
    x: tuple[int, ...],
    scale: tuple[int, ...] | None = None,
    shift: tuple[int, ...] | None = None,
    eps: Any = 1e-5,
    activation: str | None = None,
) -> BatchNormTrainSpec:
    """Validate a batch normalisation; see :func:`batch_norm_train`."""
    return _check("batch_norm_train", x, eps, activation, scale=scale, shift=shift)


@cached
def infer_batch_norm_train_grad(
    g: tuple[int, ...],
    x: tuple[int, ...],
    mean: tuple[int, ...],
    var: tuple[int, ...],
    scale: tuple[int, ...] | None = None,
    shift: tuple[int, ...] | None = None,
    eps: Any = 1e-5,
    activation: str | None = None,
) -> BatchNormTrainSpec:
    """Validate its gradient; see :func:`batch_norm_train_grad`."""
    op = "batch_norm_train_grad"
    s = _check(op, x, eps, activation, mean=mean, var=var, scale=scale, shift=shift)
    if g != x:
        fail(op, "the gradient must have the shape of x", g=g, x=x)
    return s


# --- definitions -----------------------------------------------------------------------------------


def _factor(s: BatchNormTrainSpec, var: Array, scale: Array | None) -> Array:
    factor = 1 / np.sqrt(var.astype(np.float64) + s.eps)
    return factor if scale is None else factor * scale


def reference_batch_norm_train(
    s: BatchNormTrainSpec, x: Array, scale: Array | None = None, shift: Array | None = None
) -> tuple[Array, Array, Array]:
    """y = act((x - mean) * scale / sqrt(var + eps) + shift); the statistics are taken in float64."""
    c = s.out[-1]
    with np.errstate(all="ignore"):
        wide = x.reshape(s.rows, c).astype(np.float64)
        mean = wide.mean(axis=0)
        var = np.square(wide - mean).mean(axis=0).astype(x.dtype)
        mean = mean.astype(x.dtype)
        y = (x - mean) * _factor(s, var, scale).astype(x.dtype)
        if shift is not None:
            y += shift
        return y if s.activation is None else apply_activation(s.activation, y), mean, var


def reference_batch_norm_train_grad(
    s: BatchNormTrainSpec,
    g: Array,
    x: Array,
    mean: Array,
    var: Array,
    scale: Array | None = None,
    shift: Array | None = None,
) -> tuple[Array, Array, Array]:
    """With x' = (x - mean) / sqrt(var + eps): dscale = sum of g x', dshift = sum of g, and
    dx = scale / sqrt(var + eps) * (g - dshift / rows - x' dscale / rows)."""
    c = s.out[-1]
    with np.errstate(all="ignore"):
        if s.activation:
            y = (x - mean) * _factor(s, var, scale).astype(x.dtype)
            if shift is not None:
                y += shift
            flat = (y <= 0) | (y >= 6) if s.activation == "relu6" else y <= 0
            g = np.where(flat, x.dtype.type(0), g)
        wide = g.reshape(s.rows, c).astype(np.float64)
        normal = (x.reshape(s.rows, c).astype(np.float64) - mean) / np.sqrt(var.astype(np.float64) + s.eps)
        dscale, dshift = (wide * normal).sum(axis=0), wide.sum(axis=0)
        dx = _factor(s, var, scale) * (wide - dshift / s.rows - normal * (dscale / s.rows))
        return dx.reshape(s.out).astype(x.dtype), dscale.astype(x.dtype), dshift.astype(x.dtype)


def _native_batch_norm_train(
    s: BatchNormTrainSpec, x: Array, scale: Array | None = None, shift: Array | None = None
) -> tuple[Array, Array, Array]:
    return native().batch_norm_train(x, scale, shift, s.eps, ACTIVATION_CODES[s.activation])


def _native_batch_norm_train_grad(
    s: BatchNormTrainSpec,
    g: Array,
    x: Array,
    mean: Array,
    var: Array,
    scale: Array | None = None,
    shift: Array | None = None,
) -> tuple[Array, Array, Array]:
    return native().batch_norm_train_grad(
        g, x, mean, var, scale, shift, s.eps, ACTIVATION_CODES[s.activation]
    )


def _cuda_batch_norm_train(
    s: BatchNormTrainSpec, x: Any, scale: Any = None, shift: Any = None
) -> tuple[Any, Any, Any]:
    sizes = 1, s.rows, s.out[-1]
    mean, var = cuda_statistics(sizes, x)
    y = cuda_normalize(sizes, x, mean, var, scale, shift, s.eps, ACTIVATION_CODES[s.activation])
    return y, mean, var


def _cuda_batch_norm_train_grad(
    s: BatchNormTrainSpec, g: Any, x: Any, mean: Any, var: Any, scale: Any = None, shift: Any = None
) -> tuple[Any, Any, Any]:
    sizes, code = (1, s.rows, s.out[-1]), ACTIVATION_CODES[s.activation]
    gx, *vectors = cuda_normalize_grad(sizes, g, x, mean, var, scale, shift, s.eps, code)
    gscale, gshift = [v.reshape(s.out[-1:]) for v in vectors]
    return gx, gscale, gshift


def _cost_train(s: BatchNormTrainSpec) -> Cost:
    n = float(np.prod(s.out, dtype=float))
    return Cost(6 * n, 8 * n)


def _cost_grad(s: BatchNormTrainSpec) -> Cost:
    n = float(np.prod(s.out, dtype=float))
    return Cost(9 * n, 12 * n)


def _vjp(s: BatchNormTrainSpec, needs: tuple[bool, ...], g: Any, inputs: Any, results: Any) -> Any:
    """Of y by one operator; the mean adds g / rows, and the variance g 2 (x - mean) / rows."""
    x, scale, shift = inputs
    gy, g_mean, g_var = g
    _, mean, var = results
    found = (None,) * 3 if gy is None else BATCH_NORM_TRAIN_GRAD(s, gy, x, mean, var, scale, shift)
    if g_mean is None and g_var is None:
        return found
    gx = found[0]
    if g_var is not None:  # of float32 beside shorter types, which sums and products take
        part = (x + -mean) * (g_var * (2.0 / s.rows))
        gx = part if gx is None else gx + part
    if g_mean is not None:
        part = g_mean / float(s.rows)
        gx = expand(part, s.out) if gx is None else gx + part
    return (gx, *found[1:])


BATCH_NORM_TRAIN = Op(
    "batch_norm_train",
    infer_batch_norm_train,
    reference_batch_norm_train,
    _native_batch_norm_train,
    _cost_train,
    vjp=Vjp(_vjp, lambda s, needs: (0, 1, 2, ~1, ~2), own=(1, 2)),
    results=lambda s, dtype: ((s.out, dtype), (s.out[-1:], dtype), (s.out[-1:], dtype)),
    settings=lambda s: {"eps": s.eps, "activation": s.activation},
    cuda=_cuda_batch_norm_train,
)
BATCH_NORM_TRAIN_GRAD = Op(
    "batch_norm_train_grad",
    infer_batch_norm_train_grad,
    reference_batch_norm_train_grad,
    _native_batch_norm_train_grad,
    _cost_grad,
    vjp=NO_GRADIENT,
    results=lambda s, dtype: ((s.out, dtype), (s.out[-1:], dtype), (s.out[-1:], dtype)),
    settings=lambda s: {"eps": s.eps, "activation": s.activation},
    cuda=_cuda_batch_norm_train_grad,
)


# --- public ----------------------------------------------------------------------------------------


def batch_norm_train(
    x: Any, scale: Any = None, shift: Any = None, *, eps: float = 1e-5, activation: str | None = None
) -> tuple[Array, Array, Array]:
    """Batch normalisation by the batch itself: (x - mean) / sqrt(var + eps) * scale + shift.

    Parameters
    ----------
    x : array_like, shape (..., C)
        float32 (native kernels) or float64 (NumPy reference); at least one value per channel.
    scale, shift : array_like, shape (C,), optional
        1 and 0 when left out.
    eps : float
        Not negative; added to the variance.
    activation : {None, "relu", "relu6"}
        Applied to y in the same pass.

    Returns
    -------
    y : ndarray, shape of x
    mean, var : ndarray, shape (C,)
        Over all axes but the last; the variance is that of the batch (divided by the number of values).
        The same bits for any number of threads. On a device float32, whatever the type of x.

    Raises
    ------
    ShapeError, DTypeError, BackendError

    References
    ----------
    Ioffe and Szegedy, "Batch normalization", 2015, algorithm 1; Chan, Golub and LeVeque, "Updating formulae
    and a pairwise algorithm for computing sample variances", 1979 (the sums of blocks).
    """
    op = "batch_norm_train"
    x = array(op, "x", x)
    scale, shift = optional(op, "scale", scale, x), optional(op, "shift", shift, x)
    s = infer_batch_norm_train(x.shape, shape_of(scale), shape_of(shift), eps, activation)
    return BATCH_NORM_TRAIN(s, x, scale, shift)


def batch_norm_train_grad(
    g: Any,
    x: Any,
    mean: Any,
    var: Any,
    scale: Any = None,
    shift: Any = None,
    *,
    eps: float = 1e-5,
    activation: str | None = None,
) -> tuple[Array, Array, Array]:
    """Gradient of :func:`batch_norm_train` with respect to x, scale and shift.

    Parameters
    ----------
    g : array_like, shape (..., C)
        Gradient with respect to y; float32 (native kernels) or float64 (NumPy reference).
    x, scale, shift, eps, activation
        Those of the normalisation; ``shift`` is read only with an activation.
    mean, var : array_like, shape (C,)
        What the normalisation gave.

    Returns
    -------
    dx : ndarray, shape of x
    dscale, dshift : ndarray, shape (C,)
        On a device float32, whatever the type of x. The same bits for any number of threads.

    Raises
    ------
    ShapeError, DTypeError, BackendError

    References
    ----------
    Ioffe and Szegedy, "Batch normalization", 2015, section 3.
    """
    op = "batch_norm_train_grad"
    g = array(op, "gradient", g)
    x, mean, var = array(op, "x", x, g), vector(op, "mean", mean, g), vector(op, "var", var, g)
    scale, shift = optional(op, "scale", scale, g), optional(op, "shift", shift, g)
    vectors = shape_of(scale), shape_of(shift)
    s = infer_batch_norm_train_grad(g.shape, x.shape, mean.shape, var.shape, *vectors, eps, activation)
    return BATCH_NORM_TRAIN_GRAD(s, g, x, mean, var, scale, shift)
