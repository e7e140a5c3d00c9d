"""Instance normalisation: every channel of every picture by its own statistics."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .norm import cuda_normalize, cuda_normalize_grad, cuda_statistics, finite
from .reduce import cuda_reduce
from .registry import (
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
    optional,
    shape_of,
)


@dataclass(frozen=True)
class InstanceNormSpec:
    """A checked instance normalisation over all axes but the first and the last."""

    out: tuple[int, ...]
    eps: float


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
    eps = finite(op, "eps", eps)
    if eps < 0:
        fail(op, f"eps must not be negative, got {eps}")
    elements(op, *x)
    return InstanceNormSpec(x, eps)


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


def _cuda_instance_norm(s: InstanceNormSpec, x: Any, scale: Any = None, shift: Any = None) -> Any:
    sizes = s.out[0], math.prod(s.out[1:-1]), s.out[-1]
    return cuda_normalize(sizes, x, *cuda_statistics(sizes, x), scale, shift, s.eps)


# --- gradient --------------------------------------------------------------------------------------


@cached
def infer_instance_norm_grad(
    g: tuple[int, ...], x: tuple[int, ...], scale: tuple[int, ...] | None = None, eps: Any = 1e-5
) -> InstanceNormSpec:
    """Validate the gradient of an instance normalisation."""
    if g != x:
        fail("instance_norm_grad", "the gradient must have the shape of x", g=g, x=x)
    return infer_instance_norm(x, scale, None, eps)


def reference_instance_norm_grad(
    s: InstanceNormSpec, g: Array, x: Array, scale: Array | None = None
) -> tuple[Array, Array, Array]:
    """Of x, scale and shift. With y = (x - mean) / deviation:
    gx = (g' - mean(g') - y mean(g' y)) / deviation, g' = g scale."""
    pixels, kind = tuple(range(1, g.ndim - 1)), g.dtype
    with np.errstate(all="ignore"):
        y = x.astype(np.float64)
        y -= y.mean(axis=pixels, keepdims=True)
        deviation = np.sqrt(np.square(y).mean(axis=pixels, keepdims=True) + s.eps)
        y /= deviation
        wide = g.astype(np.float64) if scale is None else g * scale.astype(np.float64)
        along = (wide * y).mean(axis=pixels, keepdims=True)
        gx = (wide - wide.mean(axis=pixels, keepdims=True) - y * along) / deviation
        return (
            gx.astype(kind),
            (g * y).sum(axis=(0, *pixels)).astype(kind),
            g.sum(axis=(0, *pixels), dtype=np.float64).astype(kind),
        )


def _cuda_instance_norm_grad(s: InstanceNormSpec, g: Any, x: Any, scale: Any = None) -> tuple[Any, Any, Any]:
    n, _, c = sizes = s.out[0], math.prod(s.out[1:-1]), s.out[-1]
    gx, *vectors = cuda_normalize_grad(sizes, g, x, *cuda_statistics(sizes, x), scale, None, s.eps)
    gscale, gshift = [cuda_reduce("reduce_sum", (c,), [(1, n, c)], v) for v in vectors]
    return gx, gscale, gshift


INSTANCE_NORM_GRAD = Op(
    "instance_norm_grad",
    infer_instance_norm_grad,
    reference_instance_norm_grad,
    lambda s, g, x, scale=None: native().instance_norm_grad(g, x, scale, s.eps),
    lambda s: Cost(12 * float(np.prod(s.out, dtype=float)), 12 * float(np.prod(s.out, dtype=float))),
    vjp=NO_GRADIENT,
    results=lambda s, dtype: ((s.out, dtype), (s.out[-1:], dtype), (s.out[-1:], dtype)),
    settings=lambda s: {"eps": s.eps},
    cuda=_cuda_instance_norm_grad,
)


def _vjp_instance_norm(s: InstanceNormSpec, needs: Any, g: Array, inputs: Any, results: Any) -> Any:
    x, scale, _ = inputs
    return INSTANCE_NORM_GRAD.compute(s, g, x, scale)


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
