"""Arithmetic, comparisons and choices element by element, with NumPy broadcasting.

Functions of float32 have native kernels (csrc/cpu/pointwise.cpp); comparisons, choices and whole numbers are
NumPy's: it is memory bound on all of these.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import cuda
from ..config import current_backend
from ..errors import DTypeError
from ..tensor import Tensor
from .arithmetic import BINARY_CODES, broadcast_shape, cuda_binary, scalar, unbroadcast
from .registry import (
    F32,
    NO_GRADIENT,
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
    native,
    number,
    reads_all,
    reads_results,
)

_BOOL = np.dtype(np.bool_)


@dataclass(frozen=True)
class UnarySpec:
    """One array, and the numbers that the function takes."""

    out: tuple[int, ...]
    name: str
    numbers: tuple[float, ...] = ()


@dataclass(frozen=True)
class PairSpec:
    """Two arrays, the shape they broadcast to, and the native description."""

    a: tuple[int, ...]
    b: tuple[int, ...]
    out: tuple[int, ...]
    native: Any


@dataclass(frozen=True)
class WhereSpec:
    condition: tuple[int, ...]
    a: tuple[int, ...]
    b: tuple[int, ...]
    out: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class CastSpec:
    out: tuple[int, ...]
    dtype: str


def values(op: str, name: str, value: Any, kinds: str = "fiu", like: Any = None) -> Any:
    """A tensor, or a C-contiguous array whose element type is of one of these kinds."""
    if isinstance(value, Tensor):
        a: Any = value
    else:
        current_backend()  # the device is checked before the element type
        a = value if isinstance(value, cuda.DeviceArray) else np.asarray(value)
        if a.dtype.kind == "f":
            a = array(op, name, value)
        elif a.dtype.kind in kinds and isinstance(a, np.ndarray):
            a = np.require(a, a.dtype.newbyteorder("="), ["C", "A"]).view(np.ndarray)
    if a.dtype.kind not in kinds:
        raise DTypeError(f"{op}: {name} is {a.dtype}; expected {_named(kinds)}")
    if like is not None and a.dtype != like.dtype:
        raise DTypeError(f"{op}: {name} is {a.dtype}, x is {like.dtype}; expected one element type")
    return a


def _named(kinds: str) -> str:
    names = {"f": "float32 or float64", "i": "whole numbers", "b": "bool"}
    return " or ".join(names[k] for k in kinds if k in names)


def _operands(op: str, x: Any, y: Any, kinds: str) -> tuple[Any, Any]:
    """Both of one type; a Python number takes the type of the other operand."""
    if type(y) in (int, float):
        x = values(op, "x", x, kinds)
        return x, _number(op, y, x)
    if type(x) in (int, float):
        y = values(op, "y", y, kinds)
        return _number(op, x, y), y
    x = values(op, "x", x, kinds)
    return x, values(op, "y", y, kinds, x)


def _number(op: str, value: float, like: Any) -> Array:
    if like.dtype.kind == "f":
        return scalar(op, value, like)
    if type(value) is not int:
        raise DTypeError(f"{op}: {value!r} with {like.dtype}; expected a whole number")
    try:
        return np.array(value, like.dtype)
    except OverflowError:
        fail(op, f"{value} is beyond {like.dtype}")


# --- functions of one array ------------------------------------------------------------------------


@cached
def infer_unary(x: tuple[int, ...], name: str, numbers: Any = ()) -> UnarySpec:
    """Any shape."""
    elements(name, *x)
    return UnarySpec(x, name, numbers)


def _clip(x: Array, low: float, high: float) -> Array:
    if x.dtype.kind == "f":  # -Inf and Inf are no bounds; NaN stays NaN
        return np.minimum(np.maximum(x, x.dtype.type(low)), x.dtype.type(high))
    kind = np.iinfo(x.dtype)
    least, most = max(math.ceil(max(low, -1e300)), kind.min), min(math.floor(min(high, 1e300)), kind.max)
    return np.minimum(np.maximum(x, least), most)


def _elu(x: Array, alpha: float) -> Array:
    return np.where(x < 0, x.dtype.type(alpha) * np.expm1(np.minimum(x, 0)), x)


def _hard_sigmoid(x: Array, alpha: float, beta: float) -> Array:
    kind = x.dtype.type
    return np.minimum(np.maximum(kind(alpha) * x + kind(beta), 0), 1)


def _erf(x: Array) -> Array:
    # The C library's, one by one: slow and exact; no network here is made of it.
    return np.frompyfunc(math.erf, 1, 1)(x).astype(x.dtype)


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
    "logical_not": np.logical_not,
}


def reference_unary(s: UnarySpec, x: Array) -> Array:
    """The function of that name; overflow and division by zero give infinities without a warning."""
    with np.errstate(all="ignore"):
        return np.asarray(_UNARY[s.name](x, *s.numbers))


# Codes shared with csrc/kernels/pointwise.h: those of float32.
_UNARY_CODES = {name: code for code, name in enumerate(_UNARY) if name != "logical_not"}


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


def _cost_unary(s: UnarySpec) -> Cost:
    n = float(np.prod(s.out, dtype=float))
    return Cost(n, 8 * n)


def _slope(derivative: Callable[..., Array], of_result: bool = False) -> Vjp:
    """The gradient of a function whose derivative is one of its argument, or of its result, and numbers."""

    def vjp(s: UnarySpec, needs: Any, g: Array, inputs: Any, results: Any) -> Any:
        with np.errstate(all="ignore"):
            return (g * derivative(results[0] if of_result else inputs[0], *s.numbers),)

    return Vjp(vjp, reads_results if of_result else reads_all)


def _d_clip(x: Array, low: float, high: float) -> Array:
    return ((x >= low) & (x <= high)).astype(x.dtype)


def _d_elu(x: Array, alpha: float) -> Array:
    return np.where(x < 0, x.dtype.type(alpha) * np.exp(np.minimum(x, 0)), 1)


def _d_hard_sigmoid(x: Array, alpha: float, beta: float) -> Array:
    y = x.dtype.type(alpha) * x + x.dtype.type(beta)
    return np.where((y > 0) & (y < 1), x.dtype.type(alpha), 0)


_STAIRS = Vjp(lambda s, needs, g, inputs, results: (np.zeros_like(g),))  # flat but for their edges
# At corners: 0 for abs, hard_sigmoid and elu's left side; 1 for clip, as torch has it.
_UNARY_VJPS = {
    "neg": Vjp(lambda s, needs, g, inputs, results: (-g,)),
    "abs": _slope(np.sign),
    "sqrt": _slope(lambda y: y.dtype.type(0.5) / y, of_result=True),
    "exp": _slope(lambda y: y, of_result=True),
    "log": _slope(lambda x: 1 / x),
    "reciprocal": _slope(lambda y: -y * y, of_result=True),
    "floor": _STAIRS,
    "ceil": _STAIRS,
    "clip": _slope(_d_clip),
    "elu": _slope(_d_elu),
    "hard_sigmoid": _slope(_d_hard_sigmoid),
    "erf": _slope(lambda x: x.dtype.type(2 / math.sqrt(math.pi)) * np.exp(-x * x)),
    "logical_not": NO_GRADIENT,
}


def _make_unary(name: str) -> Op:
    def infer(x: tuple[int, ...], numbers: Any = ()) -> UnarySpec:
        return infer_unary(x, name, numbers)

    has_kernel = name in _UNARY_CODES
    return Op(
        name,
        infer,
        reference_unary,
        _native_unary if has_kernel else reference_unary,
        _cost_unary,
        vjp=_UNARY_VJPS[name],
        lower=Lower(_lower_unary, in_place=(0,)) if has_kernel else None,
        settings=lambda s: {"numbers": s.numbers},
        cuda=_cuda_unary if has_kernel else None,
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


def logical_not(x: Any) -> Any:
    """True for False and the other way round; x is bool."""
    return _unary("logical_not", x, kinds="b")


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


# --- functions of two arrays -----------------------------------------------------------------------


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
    "equal": np.equal,
    "greater": np.greater,
    "less": np.less,
}
_COMPARISONS = ("equal", "greater", "less")


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
    **dict.fromkeys(_COMPARISONS, NO_GRADIENT),
}


def _make_pair(name: str) -> Op:
    function = _PAIRS[name]

    def infer(a: tuple[int, ...], b: tuple[int, ...]) -> PairSpec:
        return infer_pair(a, b, name)

    def reference(s: PairSpec, a: Array, b: Array) -> Array:
        with np.errstate(all="ignore"):
            return np.asarray(function(a, b))

    if name in _COMPARISONS:
        return Op(
            name,
            infer,
            reference,
            reference,
            _cost_pair,
            vjp=_PAIR_VJPS[name],
            results=lambda s, dtype: ((s.out, _BOOL),),
        )
    code = BINARY_CODES[name]

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
        _cost_pair,
        vjp=_PAIR_VJPS[name],
        lower=Lower(lower, in_place=(0, 1)),
        cuda=functools.partial(cuda_binary, name),
    )


def _cost_pair(s: PairSpec) -> Cost:
    out, a, b = (float(np.prod(shape, dtype=float)) for shape in (s.out, s.a, s.b))
    return Cost(out, 4 * (out + a + b))


_PAIR_OPS = {name: _make_pair(name) for name in _PAIRS}


def _pair(name: str, x: Any, y: Any, kinds: str = "f") -> Any:
    x, y = _operands(name, x, y, kinds)
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
    x, slope = _operands("prelu", x, slope, "f")
    s = infer_pair(x.shape, slope.shape, "prelu")
    if s.out != x.shape:
        fail("prelu", "the slope must broadcast to x", x=x.shape, slope=slope.shape)
    return _PAIR_OPS["prelu"](s, x, slope)


def equal(x: Any, y: Any) -> Any:
    """Whether x is y, operands as for :func:`sub` or both bool; gives bool."""
    return _pair("equal", x, y, "fiub")


def greater(x: Any, y: Any) -> Any:
    """Whether x > y, operands as for :func:`sub`; gives bool."""
    return _pair("greater", x, y, "fiu")


def less(x: Any, y: Any) -> Any:
    """Whether x < y, operands as for :func:`sub`; gives bool."""
    return _pair("less", x, y, "fiu")


# --- choices and types -----------------------------------------------------------------------------


@cached
def infer_where(
    condition: tuple[int, ...], a: tuple[int, ...], b: tuple[int, ...], dtype: str = "float32"
) -> WhereSpec:
    """Validate the broadcasting of a choice; see :func:`where`."""
    out = broadcast_shape("where", condition, broadcast_shape("where", a, b))
    elements("where", *out)
    return WhereSpec(condition, a, b, out, dtype)


def reference_where(s: WhereSpec, condition: Array, a: Array, b: Array) -> Array:
    """a where the condition holds, else b."""
    return np.where(condition, a, b)


def _vjp_where(s: WhereSpec, needs: Any, g: Array, inputs: Any, results: Any) -> Any:
    condition = inputs[0]
    return (
        None,
        unbroadcast(np.where(condition, g, 0), s.a) if needs[1] else None,
        unbroadcast(np.where(condition, 0, g), s.b) if needs[2] else None,
    )


WHERE = Op(
    "where",
    infer_where,
    reference_where,
    reference_where,
    lambda s: Cost(0.0, 12 * float(np.prod(s.out, dtype=float))),
    vjp=Vjp(_vjp_where, lambda s, needs: (0,)),
    results=lambda s, dtype: ((s.out, np.dtype(s.dtype)),),
    settings=lambda s: {"dtype": s.dtype},
)


def where(condition: Any, x: Any, y: Any) -> Any:
    """x where the condition holds, else y, with NumPy broadcasting.

    Parameters
    ----------
    condition : array_like of bool
    x, y : array_like or Python number
        Of one type; a number takes the type of the other.

    Returns
    -------
    ndarray, the common shape

    Raises
    ------
    ShapeError, DTypeError, BackendError
    """
    condition = values("where", "condition", condition, "b")
    x, y = _operands("where", x, y, "fiub")
    return WHERE(infer_where(condition.shape, x.shape, y.shape, x.dtype.name), condition, x, y)


_CASTS = ("bool", "uint8", "int8", "uint16", "int16", "int32", "int64", "float32", "float64")


@cached
def infer_cast(x: tuple[int, ...], dtype: str) -> CastSpec:
    """Validate a conversion; see :func:`cast`."""
    if dtype not in _CASTS:
        raise DTypeError(f"cast: expected one of {', '.join(_CASTS)}; came {dtype}")
    elements("cast", *x)
    return CastSpec(x, dtype)


def reference_cast(s: CastSpec, x: Array) -> Array:
    """The same values in another type; beyond the range of whole numbers the result is NumPy's."""
    with np.errstate(all="ignore"):
        return x.astype(s.dtype)


CAST = Op(
    "cast",
    infer_cast,
    reference_cast,
    reference_cast,
    lambda s: Cost(0.0, 8 * float(np.prod(s.out, dtype=float))),
    vjp=Vjp(lambda s, needs, g, inputs, results: (g,)),  # which takes the type of the argument
    results=lambda s, dtype: ((s.out, np.dtype(s.dtype)),),
    settings=lambda s: {"dtype": s.dtype},
)


def cast(x: Any, dtype: Any) -> Any:
    """The values of x as another element type: bool, whole numbers up to 64 bits, float32 or float64.

    Floating-point numbers become whole ones by cutting off what follows the point.

    Raises
    ------
    DTypeError, BackendError
    """
    x = values("cast", "x", x, "fiub")
    return CAST(infer_cast(x.shape, np.dtype(dtype).name), x)
