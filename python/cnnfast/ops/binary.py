"""Differences, quotients, powers and extremes of two arrays, with NumPy broadcasting.

Sums and products are in ``arithmetic.py``. float32 has native kernels (csrc/cpu/pointwise.cpp); whole numbers
are NumPy's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import cuda
from .arithmetic import BINARY_CODES, broadcast_shape, cuda_binary, mul, unbroadcast
from .operands import operands
from .registry import (
    NO_GRADIENT,
    RESULT,
    Array,
    Cost,
    Lower,
    Op,
    Vjp,
    cached,
    choice,
    elements,
    fail,
    native,
    reads_all,
)
from .unary import neg


@dataclass(frozen=True)
class PairSpec:
    """Two arrays, the shape they broadcast to, and the native description."""

    a: tuple[int, ...]
    b: tuple[int, ...]
    out: tuple[int, ...]
    native: Any


@cached
def infer_pair(a: tuple[int, ...], b: tuple[int, ...], op: str = "sub") -> PairSpec:
    """Validate the broadcasting of two shapes."""
    out = broadcast_shape(op, a, b)
    for shape in (out, a, b):
        elements(op, *shape)
    module = native()
    return PairSpec(a, b, out, None if module is None else module.Broadcast(a, b))


_PAIRS: dict[str, Callable[..., Array]] = {
    "sub": np.subtract,
    "div": np.divide,
    "pow": np.power,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "prelu": lambda x, slope: np.where(x < 0, x * slope, x),
}


# --- gradients -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PairGradSpec:
    """The gradient of a result, and the two arrays that it is multiplied with or compared by."""

    out: tuple[int, ...]
    kind: str
    native: Any


def _to_winner(g: Array, wins: Array, loses: Array, equal: Array) -> Array:
    """All of the gradient to the winner, half of it each where both are equal; NaN has it too."""
    return np.where(wins, g, np.where(loses, 0, np.where(equal, g / 2, g)))


# Functions of (gradient, a, b), the result of the operator in place of one of them where "y" stands for it.
_GRADIENTS: dict[str, Callable[..., Array]] = {
    "divisor": lambda g, y, b: -(g * y) / b,
    "base": lambda g, a, b: g * (b * np.power(a, b - (b != 0))),  # x^0 is 1 everywhere: no power of -1
    "exponent": lambda g, a, y: g * np.where(y == 0, 0, y * np.log(a)),
    "larger": lambda g, a, b: _to_winner(g, a > b, a < b, a == b),
    "smaller": lambda g, a, b: _to_winner(g, a < b, a > b, a == b),
    "prelu": lambda g, x, slope: np.where(x > 0, g, g * slope),
    "slope": lambda g, x, slope: np.where(x < 0, g * x, 0),
}
# Codes shared with csrc/kernels/pointwise.h.
_GRADIENT_CODES = {name: code for code, name in enumerate(_GRADIENTS)}


@cached
def infer_pair_grad(g: tuple[int, ...], a: tuple[int, ...], b: tuple[int, ...], kind: str) -> PairGradSpec:
    """Validate the gradient of an operator on two arrays."""
    choice("pair_grad", "kind", kind, tuple(_GRADIENTS))
    s = infer_pair(a, b, "pair_grad")
    if g != s.out:
        fail("pair_grad", "the gradient must have the shape of the result", g=g, a=a, b=b)
    return PairGradSpec(g, kind, s.native)


def reference_pair_grad(s: PairGradSpec, g: Array, a: Array, b: Array) -> Array:
    """The gradient before it is summed over what was broadcast."""
    with np.errstate(all="ignore"):
        return np.asarray(_GRADIENTS[s.kind](g, a, b), g.dtype)


def _cuda_pair_grad(s: PairGradSpec, g: Any, a: Any, b: Any) -> Any:
    gx, code = cuda.empty(s.out, g.dtype), _GRADIENT_CODES[s.kind]
    a, b = a.astype(g.dtype), b.astype(g.dtype)
    cuda.module().binary_grad(g.code, code, a.shape, b.shape, g.buffer, a.buffer, b.buffer, gx.buffer)
    return gx


PAIR_GRAD = Op(
    "pair_grad",
    infer_pair_grad,
    reference_pair_grad,
    lambda s, g, a, b: native().binary_grad(_GRADIENT_CODES[s.kind], s.native, g, a, b),
    lambda s: Cost(3 * float(np.prod(s.out, dtype=float)), 16 * float(np.prod(s.out, dtype=float))),
    vjp=NO_GRADIENT,
    settings=lambda s: {"kind": s.kind},
    cuda=_cuda_pair_grad,
)


def _gradient(kind: str, g: Array, a: Array, b: Array, shape: tuple[int, ...]) -> Array:
    """Of an operand of that shape."""
    return unbroadcast(PAIR_GRAD.compute(infer_pair_grad(g.shape, a.shape, b.shape, kind), g, a, b), shape)


def _vjp_sub(s: PairSpec, needs: Any, g: Array, inputs: Any, results: Any) -> Any:
    return unbroadcast(g, s.a) if needs[0] else None, neg(unbroadcast(g, s.b)) if needs[1] else None


def _vjp_div(s: PairSpec, needs: Any, g: Array, inputs: Any, results: Any) -> Any:
    b = inputs[1]
    return (
        unbroadcast(div(g, b), s.a) if needs[0] else None,
        _gradient("divisor", g, results[0], b, s.b) if needs[1] else None,
    )


def _vjp_pow(s: PairSpec, needs: Any, g: Array, inputs: Any, results: Any) -> Any:
    a, b = inputs
    if needs == (True, False) and b.size == 1 and b.reshape(()) == 2:  # squares, as losses have them
        return (unbroadcast(mul(g, mul(a, b)), s.a),)
    return (
        _gradient("base", g, a, b, s.a) if needs[0] else None,
        _gradient("exponent", g, a, results[0], s.b) if needs[1] else None,
    )


def _vjp_extreme(kind: str) -> Callable[..., Any]:
    def vjp(s: PairSpec, needs: Any, g: Array, inputs: Any, results: Any) -> Any:
        a, b = inputs
        return (
            _gradient(kind, g, a, b, s.a) if needs[0] else None,
            _gradient(kind, g, b, a, s.b) if needs[1] else None,
        )

    return vjp


def _vjp_prelu(s: PairSpec, needs: Any, g: Array, inputs: Any, results: Any) -> Any:
    x, slope = inputs
    return (
        _gradient("prelu", g, x, slope, s.a) if needs[0] else None,
        _gradient("slope", g, x, x if slope is None else slope, s.b) if needs[1] else None,
    )


_VJPS = {
    "sub": Vjp(_vjp_sub),
    "div": Vjp(_vjp_div, lambda s, needs: (1, RESULT) if needs[1] else (1,)),
    "pow": Vjp(_vjp_pow, lambda s, needs: ((0, 1) if needs[0] else (0,)) + ((RESULT,) if needs[1] else ())),
    "maximum": Vjp(_vjp_extreme("larger"), reads_all),
    "minimum": Vjp(_vjp_extreme("smaller"), reads_all),
    "prelu": Vjp(_vjp_prelu, lambda s, needs: (0, 1) if needs[0] else (0,)),
}


# --- operators -------------------------------------------------------------------------------------


def _make_pair(name: str) -> Op:
    function, code = _PAIRS[name], BINARY_CODES[name]

    def infer(a: tuple[int, ...], b: tuple[int, ...]) -> PairSpec:
        return infer_pair(a, b, name)

    def reference(s: PairSpec, a: Array, b: Array) -> Array:
        with np.errstate(all="ignore"):
            return np.asarray(function(a, b))

    def run(s: PairSpec, a: Array, b: Array) -> Array:
        return native().binary(code, s.native, a, b, 0, 0.0)

    def lower(steps: Any, s: PairSpec, inputs: Any, outputs: Any) -> None:
        a, b = inputs
        steps.plan.binary(code, s.native, s.a == s.b, a.place, b.place, 0, 0.0, outputs[0].place)

    return Op(
        name,
        infer,
        reference,
        run,
        cost_pair,
        vjp=_VJPS[name],
        lower=Lower(lower, in_place=(0, 1)),
        cuda=functools.partial(cuda_binary, name),
    )


def cost_pair(s: PairSpec) -> Cost:
    out, a, b = (float(np.prod(shape, dtype=float)) for shape in (s.out, s.a, s.b))
    return Cost(out, 4 * (out + a + b))


_PAIR_OPS = {name: _make_pair(name) for name in _PAIRS}


def _pair(name: str, x: Any, y: Any, kinds: str = "f") -> Any:
    x, y = operands(name, x, y, kinds)
    return _PAIR_OPS[name](infer_pair(x.shape, y.shape, name), x, y)


def sub(x: Any, y: Any) -> Any:
    """x - y with NumPy broadcasting.

    Parameters
    ----------
    x, y : array_like or Python number
        Of one type, floating point or whole numbers; axes are matched from the last, and size 1 is
        repeated. A number takes the type of the other operand.

    Returns
    -------
    ndarray, the common shape

    Raises
    ------
    ShapeError, DTypeError, BackendError
    """
    return _pair("sub", x, y, "fiu")


def div(x: Any, y: Any) -> Any:
    """x / y of floating-point operands, as for :func:`sub`; x / 0 is infinite, 0 / 0 is NaN."""
    return _pair("div", x, y)


def pow(x: Any, y: Any) -> Any:
    """x to the power of y, floating-point operands, as for :func:`sub`; NaN where it is not real."""
    return _pair("pow", x, y)


def maximum(x: Any, y: Any) -> Any:
    """The larger one of both, operands as for :func:`sub`; NaN if either is.

    Where both are equal each has half of the gradient.
    """
    return _pair("maximum", x, y, "fiu")


def minimum(x: Any, y: Any) -> Any:
    """The smaller one of both, operands as for :func:`sub`; NaN if either is.

    Where both are equal each has half of the gradient.
    """
    return _pair("minimum", x, y, "fiu")


def prelu(x: Any, slope: Any) -> Any:
    """x where x >= 0, else slope * x, with a slope that broadcasts to x, e.g. one per channel.

    References
    ----------
    He et al., "Delving deep into rectifiers", 2015, section 2.1.
    """
    x, slope = operands("prelu", x, slope, "f")
    s = infer_pair(x.shape, slope.shape, "prelu")
    if s.out != x.shape:
        fail("prelu", "the slope must broadcast to x", x=x.shape, slope=slope.shape)
    return _PAIR_OPS["prelu"](s, x, slope)
