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

from .arithmetic import BINARY_CODES, broadcast_shape, cuda_binary, unbroadcast
from .operands import operands
from .registry import RESULT, Array, Cost, Lower, Op, Vjp, cached, elements, fail, native, reads_all


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


def _sides(ga: Callable[..., Array], gb: Callable[..., Array]) -> Callable[..., Any]:
    """Gradients of both operands, each a function of (g, a, b, result), summed over what was broadcast."""

    def vjp(s: PairSpec, needs: Any, g: Array, inputs: Any, results: Any) -> Any:
        with np.errstate(all="ignore"):
            return (
                unbroadcast(ga(g, *inputs, *results), s.a) if needs[0] else None,
                unbroadcast(gb(g, *inputs, *results), s.b) if needs[1] else None,
            )

    return vjp


def _winner(g: Array, mine: Array, other: Array) -> Array:
    """All of the gradient to the larger one, half of it each where both are equal."""
    return np.where(mine > other, g, np.where(mine < other, 0, np.where(mine == other, g / 2, g)))


def _power(x: Array, y: Array) -> Array:
    return y * np.power(x, y - (y != 0))  # x^0 is 1 everywhere: no power of -1


def _log_power(x: Array, p: Array) -> Array:
    return np.where(p == 0, 0, p * np.log(x))


_PAIR_VJPS = {
    "sub": Vjp(_sides(lambda g, a, b, y: g, lambda g, a, b, y: -g)),
    "div": Vjp(
        _sides(lambda g, a, b, y: g / b, lambda g, a, b, y: -g * y / b),
        lambda s, needs: (1, RESULT) if needs[1] else (1,),
    ),
    "pow": Vjp(
        _sides(lambda g, a, b, y: g * _power(a, b), lambda g, a, b, y: g * _log_power(a, y)),
        lambda s, needs: ((0, 1) if needs[0] else (0,)) + ((RESULT,) if needs[1] else ()),
    ),
    "maximum": Vjp(
        _sides(lambda g, a, b, y: _winner(g, a, b), lambda g, a, b, y: _winner(g, b, a)), reads_all
    ),
    "minimum": Vjp(
        _sides(lambda g, a, b, y: _winner(g, -a, -b), lambda g, a, b, y: _winner(g, -b, -a)), reads_all
    ),
    "prelu": Vjp(
        _sides(lambda g, a, b, y: np.where(a > 0, g, g * b), lambda g, a, b, y: np.where(a < 0, g * a, 0)),
        lambda s, needs: (0, 1) if needs[0] else (0,),
    ),
}


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
        vjp=_PAIR_VJPS[name],
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
