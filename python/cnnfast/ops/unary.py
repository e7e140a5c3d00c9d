"""Functions of one array, element by element, with native kernels for float32 (csrc/cpu/pointwise.cpp)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import cuda
from .operands import values
from .registry import (
    F32,
    NO_GRADIENT,
    RESULT,
    Array,
    Cost,
    Lower,
    Op,
    Vjp,
    cached,
    elements,
    fail,
    native,
    number,
)


@dataclass(frozen=True)
class UnarySpec:
    """One array, and the numbers that the function takes."""

    out: tuple[int, ...]
    name: str
    numbers: tuple[float, ...] = ()


@cached
def infer_unary(x: tuple[int, ...], name: str, numbers: Any = ()) -> UnarySpec:
    """Any shape."""
    elements(name, *x)
    return UnarySpec(x, name, numbers)


def _clip(x: Array, low: float, high: float) -> Array:
    if x.dtype.kind == "f":  # -Inf and Inf are no bounds; NaN stays NaN
        return np.minimum(np.maximum(x, x.dtype.type(low)), x.dtype.type(high))
    kind = np.iinfo(x.dtype)
    # No int64 lies beyond 1e20, and infinities cannot be rounded.
    least, most = math.ceil(min(max(low, -1e20), 1e20)), math.floor(min(max(high, -1e20), 1e20))
    least, most = (min(max(bound, int(kind.min)), int(kind.max)) for bound in (least, most))
    return np.minimum(np.maximum(x, least), most)


def _elu(x: Array, alpha: float) -> Array:
    return np.where(x < 0, x.dtype.type(alpha) * np.expm1(np.minimum(x, 0)), x)


def _hard_sigmoid(x: Array, alpha: float, beta: float) -> Array:
    kind = x.dtype.type
    return np.minimum(np.maximum(kind(alpha) * x + kind(beta), 0), 1)


def _erf(x: Array) -> Array:
    # The C library's, one by one: slow and exact; no network here is made of it.
    return np.asarray(np.frompyfunc(math.erf, 1, 1)(x), x.dtype)


_UNARY: dict[str, Callable[..., Array]] = {
    "neg": np.negative,
    "abs": np.abs,
    "sqrt": np.sqrt,
    "exp": np.exp,
    "log": np.log,
    "reciprocal": lambda x: 1 / x,
    "floor": np.floor,
    "ceil": np.ceil,
    "clip": _clip,
    "elu": _elu,
    "hard_sigmoid": _hard_sigmoid,
    "erf": _erf,
}


def reference_unary(s: UnarySpec, x: Array) -> Array:
    """The function of that name; overflow and division by zero give infinities without a warning."""
    with np.errstate(all="ignore"):
        return np.asarray(_UNARY[s.name](x, *s.numbers))


# Codes shared with csrc/kernels/pointwise.h.
_UNARY_CODES = {name: code for code, name in enumerate(_UNARY)}


def _native_numbers(s: UnarySpec) -> tuple[int, float, float]:
    """Code, and two numbers as float32 has them."""
    with np.errstate(over="ignore"):
        p, q = (float(F32.type(v)) for v in (*s.numbers, 0.0, 0.0)[:2])
    return _UNARY_CODES[s.name], p, q


def _native_unary(s: UnarySpec, x: Array) -> Array:
    return native().unary(x, *_native_numbers(s))


def _cuda_unary(s: UnarySpec, x: Any) -> Any:
    y = cuda.empty(s.out, x.dtype)
    cuda.module().unary(x.code, *_native_numbers(s), x.buffer, y.buffer, x.size)
    return y


def _lower_unary(steps: Any, s: UnarySpec, inputs: Any, outputs: Any) -> None:
    steps.plan.unary(*_native_numbers(s), math.prod(s.out), inputs[0].place, outputs[0].place)


def cost_unary(s: UnarySpec) -> Cost:
    n = float(np.prod(s.out, dtype=float))
    return Cost(n, 8 * n)


# --- gradients -------------------------------------------------------------------------------------


def _d_elu(x: Array, alpha: float) -> Array:
    return np.where(x < 0, x.dtype.type(alpha) * np.exp(np.minimum(x, 0)), 1)


def _d_hard_sigmoid(x: Array, alpha: float, beta: float) -> Array:
    y = x.dtype.type(alpha) * x + x.dtype.type(beta)
    return np.where((y > 0) & (y < 1), x.dtype.type(alpha), 0)


# Derivatives at the argument, of those in _OF_RESULT at the result. At corners: 0 for abs, hard_sigmoid and
# elu's left side; 1 for clip, as torch has it. Stairs are flat but for their edges.
_DERIVATIVES: dict[str, Callable[..., Array]] = {
    "neg": lambda x: np.full_like(x, -1),
    "abs": np.sign,
    "sqrt": lambda y: y.dtype.type(0.5) / y,
    "exp": lambda y: y,
    "log": lambda x: 1 / x,
    "reciprocal": lambda y: -y * y,
    "floor": np.zeros_like,
    "ceil": np.zeros_like,
    "clip": lambda x, low, high: ((x >= low) & (x <= high)).astype(x.dtype),
    "elu": _d_elu,
    "hard_sigmoid": _d_hard_sigmoid,
    "erf": lambda x: x.dtype.type(2 / math.sqrt(math.pi)) * np.exp(-x * x),
}
_OF_RESULT = ("sqrt", "exp", "reciprocal")
_CONSTANT = ("neg", "floor", "ceil")


@cached
def infer_unary_grad(g: tuple[int, ...], v: tuple[int, ...], name: str, numbers: Any = ()) -> UnarySpec:
    """Validate the gradient of a function of that name."""
    if g != v:
        fail("unary_grad", "the gradient must have the shape of the value", g=g, v=v)
    return infer_unary(g, name, numbers)


def reference_unary_grad(s: UnarySpec, g: Array, v: Array) -> Array:
    """g times the derivative at v: the argument, or the result of a root, an exponential or a reciprocal."""
    with np.errstate(all="ignore"):
        return np.asarray(g * _DERIVATIVES[s.name](v, *s.numbers))


def _cuda_unary_grad(s: UnarySpec, g: Any, v: Any) -> Any:
    gx = cuda.empty(s.out, g.dtype)
    cuda.module().unary_grad(g.code, *_native_numbers(s), g.buffer, v.buffer, gx.buffer, g.size)
    return gx


UNARY_GRAD = Op(
    "unary_grad",
    infer_unary_grad,
    reference_unary_grad,
    lambda s, g, v: native().unary_grad(g, v, *_native_numbers(s)),
    lambda s: Cost(2 * float(np.prod(s.out, dtype=float)), 12 * float(np.prod(s.out, dtype=float))),
    vjp=NO_GRADIENT,
    settings=lambda s: {"name": s.name, "numbers": s.numbers},
    cuda=_cuda_unary_grad,
)


def _vjp(s: UnarySpec, needs: Any, g: Array, inputs: Any, results: Any) -> Any:
    value = g if s.name in _CONSTANT else results[0] if s.name in _OF_RESULT else inputs[0]
    return (UNARY_GRAD.compute(s, g, value),)


def _reads(s: UnarySpec, needs: Any) -> tuple[int, ...]:
    return () if s.name in _CONSTANT else (RESULT,) if s.name in _OF_RESULT else (0,)


# --- operators -------------------------------------------------------------------------------------


def _make_unary(name: str) -> Op:
    def infer(x: tuple[int, ...], numbers: Any = ()) -> UnarySpec:
        return infer_unary(x, name, numbers)

    return Op(
        name,
        infer,
        reference_unary,
        _native_unary,
        cost_unary,
        vjp=Vjp(_vjp, _reads),
        lower=Lower(_lower_unary, in_place=(0,)),
        settings=lambda s: {"numbers": s.numbers},
        cuda=_cuda_unary,
    )


_UNARY_OPS = {name: _make_unary(name) for name in _UNARY}


def _unary(name: str, x: Any, numbers: tuple[float, ...] = (), kinds: str = "f") -> Any:
    x = values(name, "x", x, kinds)
    return _UNARY_OPS[name](infer_unary(x.shape, name, numbers), x)


def neg(x: Any) -> Any:
    """-x; also of whole numbers."""
    return _unary("neg", x, kinds="fiu")


def abs(x: Any) -> Any:
    """The absolute value; also of whole numbers."""
    return _unary("abs", x, kinds="fiu")


def sqrt(x: Any) -> Any:
    """The square root; NaN below zero."""
    return _unary("sqrt", x)


def exp(x: Any) -> Any:
    """e to the power of x."""
    return _unary("exp", x)


def log(x: Any) -> Any:
    """The natural logarithm; -Inf at zero, NaN below."""
    return _unary("log", x)


def reciprocal(x: Any) -> Any:
    """1 / x; infinite at zero."""
    return _unary("reciprocal", x)


def floor(x: Any) -> Any:
    """The next whole number at or below x."""
    return _unary("floor", x)


def ceil(x: Any) -> Any:
    """The next whole number at or above x."""
    return _unary("ceil", x)


def erf(x: Any) -> Any:
    """The error function."""
    return _unary("erf", x)


def clip(x: Any, low: float = -math.inf, high: float = math.inf) -> Any:
    """min(max(x, low), high); NaN stays NaN. Where low is above high, high counts.

    Parameters
    ----------
    x : array_like, any shape
        Floating point or whole numbers.
    low, high : float
        Not NaN.

    Returns
    -------
    ndarray, shape of x

    Raises
    ------
    ShapeError, DTypeError, BackendError
    """
    return _unary("clip", x, (number("clip", "low", low), number("clip", "high", high)), "fiu")


def elu(x: Any, *, alpha: float = 1.0) -> Any:
    """x where x >= 0, else alpha (exp(x) - 1).

    References
    ----------
    Clevert et al., "Fast and accurate deep network learning by exponential linear units", 2016.
    """
    return _unary("elu", x, (number("elu", "alpha", alpha),))


def hard_sigmoid(x: Any, *, alpha: float = 1 / 6, beta: float = 0.5) -> Any:
    """min(max(alpha x + beta, 0), 1); the defaults are those of MobileNetV3.

    References
    ----------
    Howard et al., "Searching for MobileNetV3", 2019, section 5.2.
    """
    numbers = number("hard_sigmoid", "alpha", alpha), number("hard_sigmoid", "beta", beta)
    return _unary("hard_sigmoid", x, numbers)
