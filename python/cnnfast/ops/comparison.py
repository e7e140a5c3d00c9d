"""Comparisons, their negation, and choices by them. NumPy's throughout: they are bound by memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import cuda
from .arithmetic import broadcast_shape, unbroadcast
from .binary import PairSpec, cost_pair, infer_pair
from .operands import operands, values
from .registry import NO_GRADIENT, Array, Cost, Op, Vjp, cached, elements, number_beside
from .unary import UnarySpec, cost_unary, infer_unary

_BOOL = np.dtype(np.bool_)


@dataclass(frozen=True)
class WhereSpec:
    condition: tuple[int, ...]
    a: tuple[int, ...]
    b: tuple[int, ...]
    out: tuple[int, ...]
    dtype: str


# --- comparisons -----------------------------------------------------------------------------------


def _make(name: str, function: Callable[..., Array]) -> Op:
    def infer(a: tuple[int, ...], b: tuple[int, ...]) -> PairSpec:
        return infer_pair(a, b, name)

    def reference(s: PairSpec, a: Array, b: Array) -> Array:
        with np.errstate(all="ignore"):
            return np.asarray(function(a, b))

    def run_cuda(s: PairSpec, a: Any, b: Any) -> Any:
        y = cuda.empty(s.out, _BOOL)
        cuda.module().compare(a.code, _CODES[name], s.out, s.a, s.b, a.buffer, b.buffer, y.buffer)
        return y

    return Op(
        name,
        infer,
        reference,
        reference,
        cost_pair,
        vjp=NO_GRADIENT,
        results=lambda s, dtype: ((s.out, _BOOL),),
        cuda=run_cuda,
    )


_FUNCTIONS = {"equal": np.equal, "greater": np.greater, "less": np.less}
_CODES = {name: code for code, name in enumerate(_FUNCTIONS)}  # shared with csrc/cuda/select.h
_COMPARISONS = {name: _make(name, function) for name, function in _FUNCTIONS.items()}


def _compare(name: str, x: Any, y: Any, kinds: str) -> Any:
    x, y = operands(name, x, y, kinds)
    return _COMPARISONS[name](infer_pair(x.shape, y.shape, name), x, y)


def equal(x: Any, y: Any) -> Any:
    """Whether x is y, operands as for :func:`sub` or both bool; gives bool."""
    return _compare("equal", x, y, "fiub")


def greater(x: Any, y: Any) -> Any:
    """Whether x > y, operands as for :func:`sub`; gives bool."""
    return _compare("greater", x, y, "fiu")


def less(x: Any, y: Any) -> Any:
    """Whether x < y, operands as for :func:`sub`; gives bool."""
    return _compare("less", x, y, "fiu")


def infer_logical_not(x: tuple[int, ...], numbers: Any = ()) -> UnarySpec:
    """Any shape."""
    return infer_unary(x, "logical_not", numbers)


def reference_logical_not(s: UnarySpec, x: Array) -> Array:
    """True for False and the other way round."""
    return np.asarray(np.logical_not(x))


def _cuda_logical_not(s: UnarySpec, x: Any) -> Any:
    y = cuda.empty(s.out, _BOOL)
    cuda.module().logical_not(x.buffer, y.buffer, x.size)
    return y


LOGICAL_NOT = Op(
    "logical_not",
    infer_logical_not,
    reference_logical_not,
    reference_logical_not,
    cost_unary,
    vjp=NO_GRADIENT,
    settings=lambda s: {"numbers": s.numbers},
    cuda=_cuda_logical_not,
)


def logical_not(x: Any) -> Any:
    """True for False and the other way round; x is bool."""
    x = values("logical_not", "x", x, "b")
    return LOGICAL_NOT(infer_logical_not(x.shape), x)


# --- choices ---------------------------------------------------------------------------------------


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
        unbroadcast(where(condition, g, 0.0), s.a) if needs[1] else None,
        unbroadcast(where(condition, 0.0, g), s.b) if needs[2] else None,
    )


def _cuda_where(s: WhereSpec, condition: Any, a: Any, b: Any) -> Any:
    y = cuda.empty(s.out, a.dtype)
    shapes = s.out, s.condition, s.a, s.b
    cuda.module().where(a.code, *shapes, condition.buffer, a.buffer, b.buffer, y.buffer)
    return y


WHERE = Op(
    "where",
    infer_where,
    reference_where,
    reference_where,
    lambda s: Cost(0.0, 12 * float(np.prod(s.out, dtype=float))),
    vjp=Vjp(_vjp_where, lambda s, needs: (0,)),
    results=lambda s, dtype: ((s.out, np.dtype(s.dtype)),),
    settings=lambda s: {"dtype": s.dtype},
    cuda=_cuda_where,
)


def _beside(value: Any, other: Any) -> Any:
    """A host array without axes as a device array of the type of another one."""
    alone = isinstance(value, np.ndarray) and not value.ndim
    return number_beside(value, other.dtype) if alone else value


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
    x, y = operands("where", x, y, "fiub")
    if isinstance(condition, cuda.DeviceArray):  # a number goes there in the type of the other operand
        x, y = (_beside(v, other) for v, other in ((x, y), (y, x)))
    return WHERE(infer_where(condition.shape, x.shape, y.shape, x.dtype.name), condition, x, y)
