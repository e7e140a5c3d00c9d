"""Softmax and its logarithm."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import cuda
from ..config import _State
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
    integer,
    native,
    reads_results,
)


@dataclass(frozen=True)
class SoftmaxSpec:
    """A checked softmax: the axis, and the sizes before, along and after it."""

    out: tuple[int, ...]
    axis: int
    outer: int
    k: int
    inner: int


def _infer(op: str, x: tuple[int, ...], axis: Any) -> SoftmaxSpec:
    if not x:
        fail(op, "x must have at least one dimension", x=x)
    rank = len(x)
    axis = integer(op, "axis", axis, -(1 << 62))
    if not -rank <= axis < rank:
        fail(op, f"axis must be from {-rank} to {rank - 1}, got {axis}", x=x)
    axis %= rank
    if x[axis] == 0:
        fail(op, "x has no elements along the axis", x=x, axis=axis)
    elements(op, *x)
    return SoftmaxSpec(x, axis, math.prod(x[:axis]), x[axis], math.prod(x[axis + 1 :]))


@cached
def infer_softmax(x: tuple[int, ...], axis: Any = -1) -> SoftmaxSpec:
    """Validate a softmax; see :func:`softmax`."""
    return _infer("softmax", x, axis)


@cached
def infer_log_softmax(x: tuple[int, ...], axis: Any = -1) -> SoftmaxSpec:
    """Validate the logarithm of a softmax; see :func:`log_softmax`."""
    return _infer("log_softmax", x, axis)


def _shifted_exp(x: Array, m: Array) -> Array:
    """exp(x - m); in float32 the difference is taken in float64, where it is exact enough."""
    return np.exp(x.astype(np.float64) - m).astype(x.dtype) if x.dtype == np.float32 else np.exp(x - m)


def reference_softmax(s: SoftmaxSpec, x: Array) -> Array:
    """exp(x - max) over its sum."""
    with np.errstate(all="ignore"):
        e = _shifted_exp(x, x.max(axis=s.axis, keepdims=True))
        return e / e.sum(axis=s.axis, keepdims=True, dtype=np.float64).astype(x.dtype)


def reference_log_softmax(s: SoftmaxSpec, x: Array) -> Array:
    """Difference x - max - log(1 + rest), where rest sums exp(x - max) over all elements but one largest."""
    with np.errstate(all="ignore"):
        m = x.max(axis=s.axis, keepdims=True)
        top = x == m
        e = _shifted_exp(x, m)
        # Only finite maxima count as ties: Inf - Inf is NaN, and stays so.
        rest = np.where(top & (e == e), 0, e).sum(axis=s.axis, keepdims=True, dtype=np.float64)
        rest += top.sum(axis=s.axis, keepdims=True) - 1
        return (x - m) - np.log1p(rest).astype(x.dtype)


def _native_softmax(s: SoftmaxSpec, x: Array) -> Array:
    return native().softmax(x, s.outer, s.k, s.inner, False)


def _native_log_softmax(s: SoftmaxSpec, x: Array) -> Array:
    return native().softmax(x, s.outer, s.k, s.inner, True)


def _cuda_softmax(s: SoftmaxSpec, x: Any, log: bool) -> Any:
    y = cuda.empty(s.out, x.dtype)
    cuda.module().softmax(x.code, s.outer, s.k, s.inner, log, x.buffer, y.buffer)
    return y


def _cuda_softmax_grad(s: SoftmaxSpec, g: Any, y: Any, log: bool) -> Any:
    gx = cuda.empty(s.out, g.dtype)
    cuda.module().softmax_grad(g.code, s.outer, s.k, s.inner, log, g.buffer, y.buffer, gx.buffer)
    return gx


def _cost(s: SoftmaxSpec) -> Cost:
    n = float(np.prod(s.out, dtype=float))
    return Cost(5 * n, 8 * n)


def _lower(steps: Any, s: SoftmaxSpec, inputs: Any, outputs: Any, log: bool) -> None:
    steps.plan.softmax(s.outer, s.k, s.inner, log, inputs[0].place, outputs[0].place)


def _total(s: SoftmaxSpec, a: Array) -> Array:
    """Sums along the axis, in double precision."""
    return np.asarray(a.sum(axis=s.axis, keepdims=True, dtype=np.float64)).astype(a.dtype)


# --- gradients -------------------------------------------------------------------------------------


def _infer_grad(op: str, g: tuple[int, ...], y: tuple[int, ...], axis: Any) -> SoftmaxSpec:
    if g != y:
        fail(op, "the gradient must have the shape of the result", g=g, y=y)
    return _infer(op, y, axis)


@cached
def infer_softmax_grad(g: tuple[int, ...], y: tuple[int, ...], axis: Any = -1) -> SoftmaxSpec:
    """Validate the gradient of a softmax; the specification of the softmax."""
    return _infer_grad("softmax_grad", g, y, axis)


@cached
def infer_log_softmax_grad(g: tuple[int, ...], y: tuple[int, ...], axis: Any = -1) -> SoftmaxSpec:
    """Validate the gradient of the logarithm of a softmax; the specification of that."""
    return _infer_grad("log_softmax_grad", g, y, axis)


def reference_softmax_grad(s: SoftmaxSpec, g: Array, y: Array) -> Array:
    """dx = y (g - sum of g y along the axis)."""
    with np.errstate(all="ignore"):
        return np.asarray(y * (g - _total(s, g * y)))


def reference_log_softmax_grad(s: SoftmaxSpec, g: Array, y: Array) -> Array:
    """dx = g - exp(y) sum of g along the axis."""
    with np.errstate(all="ignore"):
        return np.asarray(g - np.exp(y) * _total(s, g))


def _cost_grad(s: SoftmaxSpec) -> Cost:
    n = float(np.prod(s.out, dtype=float))
    return Cost(4 * n, 12 * n)


SOFTMAX_GRAD = Op(
    "softmax_grad",
    infer_softmax_grad,
    reference_softmax_grad,
    lambda s, g, y: native().softmax_grad(g, y, s.outer, s.k, s.inner, False),
    _cost_grad,
    vjp=NO_GRADIENT,
    settings=lambda s: {"axis": s.axis},
    cuda=functools.partial(_cuda_softmax_grad, log=False),
)
LOG_SOFTMAX_GRAD = Op(
    "log_softmax_grad",
    infer_log_softmax_grad,
    reference_log_softmax_grad,
    lambda s, g, y: native().softmax_grad(g, y, s.outer, s.k, s.inner, True),
    _cost_grad,
    vjp=NO_GRADIENT,
    settings=lambda s: {"axis": s.axis},
    cuda=functools.partial(_cuda_softmax_grad, log=True),
)


SOFTMAX = Op(
    "softmax",
    infer_softmax,
    reference_softmax,
    _native_softmax,
    _cost,
    vjp=Vjp(lambda s, needs, g, inputs, results: (SOFTMAX_GRAD.compute(s, g, results[0]),), reads_results),
    lower=Lower(functools.partial(_lower, log=False)),
    settings=lambda s: {"axis": s.axis},
    cuda=functools.partial(_cuda_softmax, log=False),
)
LOG_SOFTMAX = Op(
    "log_softmax",
    infer_log_softmax,
    reference_log_softmax,
    _native_log_softmax,
    _cost,
    vjp=Vjp(
        lambda s, needs, g, inputs, results: (LOG_SOFTMAX_GRAD.compute(s, g, results[0]),), reads_results
    ),
    lower=Lower(functools.partial(_lower, log=True)),
    settings=lambda s: {"axis": s.axis},
    cuda=functools.partial(_cuda_softmax, log=True),
)


def softmax(x: Any, axis: int = -1) -> Array:
    """exp(x) divided by its sum along an axis, without overflow.

    Parameters
    ----------
    x : array_like, at least one dimension
        float32 (native kernels) or float64 (NumPy reference).
    axis : int
        Must not be empty.

    Returns
    -------
    ndarray, shape of x
        The relative error is at most 1e-6 where the result is a normal number. -Inf gives 0; a NaN, a
        +Inf or nothing but -Inf along the axis makes all results along it NaN.

    Raises
    ------
    ShapeError, DTypeError, BackendError

    References
    ----------
    Bridle, "Probabilistic interpretation of feedforward classification network outputs", 1990.
    """
    if _State.backend == "cpu" and (y := native().softmax_plain(x, axis, False)) is not None:
        return y
    x = array("softmax", "x", x)
    infer = infer_softmax.quick if type(axis) is int else infer_softmax
    return SOFTMAX(infer(x.shape, axis), x)


def log_softmax(x: Any, axis: int = -1) -> Array:
    """Logarithm of :func:`softmax`, exact also where the softmax is close to 0 or 1.

    Parameters, result and errors as for :func:`softmax`, with -Inf in place of 0.
    """
    if _State.backend == "cpu" and (y := native().softmax_plain(x, axis, True)) is not None:
        return y
    x = array("log_softmax", "x", x)
    infer = infer_log_softmax.quick if type(axis) is int else infer_log_softmax
    return LOG_SOFTMAX(infer(x.shape, axis), x)
