"""Scaling of vectors to length 1."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import cuda
from .arithmetic import mul
from .binary import div, sub
from .comparison import less, where
from .reduce import reduce_l2, reduce_sum
from .registry import (
    RESULT,
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
    number,
)


@dataclass(frozen=True)
class L2NormalizeSpec:
    """A checked normalisation: the axis along which the vectors lie, and the least length divided by."""

    out: tuple[int, ...]
    axis: int
    eps: float


@cached
def infer_l2_normalize(x: tuple[int, ...], axis: Any = -1, eps: Any = 1e-12) -> L2NormalizeSpec:
    """Validate a normalisation of lengths; see :func:`l2_normalize`."""
    op = "l2_normalize"
    if not x:
        fail(op, "x must have at least one dimension", x=x)
    axis = integer(op, "axis", axis, -len(x), len(x) - 1) % len(x)
    eps = number(op, "eps", eps)
    if not 0 <= eps <= float(np.finfo(np.float32).max):
        fail(op, f"eps must be finite and not negative, got {eps}")
    elements(op, *x)
    return L2NormalizeSpec(x, axis, eps)


def _length(s: L2NormalizeSpec, x: Array) -> Array:
    return np.sqrt(np.square(x, dtype=np.float64).sum(axis=s.axis, keepdims=True))


def reference_l2_normalize(s: L2NormalizeSpec, x: Array) -> Array:
    """The quotient x / max(|x|, eps), its length taken in float64."""
    with np.errstate(all="ignore"):
        # NaN wins, so that a vector with one is NaN throughout.
        return x / np.maximum(_length(s, x), s.eps).astype(x.dtype)


def _numbers(s: L2NormalizeSpec) -> tuple[int, int, int, float]:
    """Sizes before, of and after the axis, and eps."""
    return math.prod(s.out[: s.axis]), s.out[s.axis], math.prod(s.out[s.axis + 1 :]), s.eps


def _native(s: L2NormalizeSpec, x: Array) -> Array:
    return native().l2_normalize(*_numbers(s), x)


def _cuda(s: L2NormalizeSpec, x: Any) -> Any:
    y = cuda.empty(s.out, x.dtype)
    cuda.module().l2_normalize(x.code, *_numbers(s), x.buffer, y.buffer)
    return y


def _lower(steps: Any, s: L2NormalizeSpec, inputs: Any, outputs: Any) -> None:
    steps.plan.l2_normalize(*_numbers(s), inputs[0].place, outputs[0].place)


def _vjp(s: L2NormalizeSpec, needs: Any, g: Array, inputs: Any, results: Any) -> Any:
    """(g - y <g, y>) / |x|; g / eps where the vector is shorter than eps."""
    x, y = inputs[0], results[0]
    length = reduce_l2(x, s.axis, keepdims=True)
    along = reduce_sum(mul(g, y), s.axis, keepdims=True)
    short = less(length, s.eps)
    rest = sub(g, mul(y, where(short, 0.0, along)))
    return (div(rest, where(short, s.eps, length)),)


def _cost(s: L2NormalizeSpec) -> Cost:
    n = float(np.prod(s.out, dtype=float))
    return Cost(3 * n, 8 * n)


L2_NORMALIZE = Op(
    "l2_normalize",
    infer_l2_normalize,
    reference_l2_normalize,
    _native,
    _cost,
    vjp=Vjp(_vjp, lambda s, needs: (0, RESULT)),
    lower=Lower(_lower, in_place=(0,)),
    settings=lambda s: {"axis": s.axis, "eps": s.eps},
    cuda=_cuda,
)


def l2_normalize(x: Any, axis: int = -1, *, eps: float = 1e-12) -> Array:
    """Vectors along an axis divided by their Euclidean length: x / max(sqrt(sum x**2), eps).

    Parameters
    ----------
    x : array_like, at least one dimension
        float32 or float64.
    axis : int
        The default takes the channels of every pixel as a vector.
    eps : float
        Shorter vectors are divided by this; a vector of zeros stays one. Not negative.

    Returns
    -------
    ndarray, shape of x
        Squares are added in float64, so that no float32 input overflows.

    Raises
    ------
    ShapeError, DTypeError, BackendError

    References
    ----------
    Liu, Rabinovich and Berg, "ParseNet: looking wider to see better", 2016, section 3.3.
    """
    x = array("l2_normalize", "x", x)
    return L2_NORMALIZE(infer_l2_normalize(x.shape, axis, eps), x)
