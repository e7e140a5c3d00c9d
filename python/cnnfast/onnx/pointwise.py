"""ONNX operators element by element."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import ops
from ..errors import WeightsError
from .calls import Call, by_numpy, is_real, known, operator
from .held import Held, arranged, data_of, held, order_of, plain, reshaped

# --- one operand -----------------------------------------------------------------------------------


def _in_place(x: Any, function: Callable[[Any], Any]) -> Any:
    """Apply a function of every element, in whatever order the axes are held."""
    return held(function(x.tensor), x.order) if isinstance(x, Held) else function(x)


def _simple(name: str, function: Callable[[Any], Any], numpy: Callable[[Any], Any] | None = None) -> None:
    @operator(name)
    def run(call: Call, x: Any) -> Any:
        if numpy is not None and not is_real(x) and data_of(x) is not None:
            return by_numpy(call, numpy, x)
        return _in_place(x, function)


for _name, _function, _numpy in (
    ("Relu", ops.relu, lambda x: np.maximum(x, 0)),
    ("Sigmoid", ops.sigmoid, None),
    ("Silu", ops.silu, None),  # our own: what Mul(x, Sigmoid(x)) is read as
    ("HardSwish", ops.hard_swish, None),
    ("Tanh", ops.tanh, None),
    ("Neg", ops.neg, np.negative),
    ("Abs", ops.abs, np.abs),
    ("Sqrt", ops.sqrt, None),
    ("Exp", ops.exp, None),
    ("Log", ops.log, None),
    ("Reciprocal", ops.reciprocal, None),
    ("Floor", ops.floor, None),
    ("Ceil", ops.ceil, None),
    ("Erf", ops.erf, None),
    ("Not", ops.logical_not, np.logical_not),
    ("Identity", lambda x: x, lambda x: x),
):
    _simple(_name, _function, _numpy)


@operator("LeakyRelu")
def leaky_relu(call: Call, x: Any) -> Any:
    slope = call.real("alpha", 0.01)
    slope = 0.01 if np.float32(slope) == np.float32(0.01) else slope
    return _in_place(x, lambda t: ops.leaky_relu(t, slope=slope))


@operator("Elu")
def elu(call: Call, x: Any) -> Any:
    return _in_place(x, lambda t: ops.elu(t, alpha=call.real("alpha", 1.0)))


@operator("HardSigmoid")
def hard_sigmoid(call: Call, x: Any) -> Any:
    alpha, beta = call.real("alpha", 0.2), call.real("beta", 0.5)
    return _in_place(x, lambda t: ops.hard_sigmoid(t, alpha=alpha, beta=beta))


@operator("Clip")
def clip(call: Call, x: Any, low: Any = None, high: Any = None) -> Any:
    bounds = [call.real("min", -math.inf), call.real("max", math.inf)]
    for i, bound in enumerate((low, high)):
        if bound is not None:
            bounds[i] = float(known(call, bound, "a bound").reshape(()))
    if bounds == [0.0, 6.0] and is_real(x):
        return _in_place(x, ops.relu6)
    if bounds[0] == 0.0 and bounds[1] > 3.4e38 and is_real(x):
        return _in_place(x, ops.relu)
    return _in_place(x, lambda t: ops.clip(t, *bounds))


@operator("Dropout")
def dropout(call: Call, x: Any, ratio: Any = None, training: Any = None) -> Any:
    if training is not None and bool(known(call, training, "the mode").reshape(())):
        raise WeightsError(f"{call.node.label}: dropping as in training is not supported")
    if not any(call.node.outputs[1:]):
        return x
    # Nothing is dropped; up to operator set 9 the mask had the type of x.
    return x, np.ones(x.shape, bool if call.opset >= 10 else np.float32)


_TYPES = {2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 1: "float32",
          10: "float32", 11: "float64", 12: "uint32", 13: "uint64", 16: "float32"}  # fmt: skip


@operator("Cast")
def cast(call: Call, x: Any) -> Any:
    code = call.integer("to")
    if code not in _TYPES:
        raise WeightsError(f"{call.node.label}: cannot convert to element type {code}")
    name = _TYPES[code]
    if isinstance(x, np.ndarray):  # sizes keep their precision
        with np.errstate(all="ignore"):
            return x.astype(name)
    if name.startswith("float") and is_real(x):
        return x  # one precision throughout
    return _in_place(x, lambda t: ops.cast(t, "float32" if name == "float64" else name))


def _softmax(call: Call, x: Any, function: Callable[..., Any]) -> Any:
    rank = len(x.shape)
    axis = call.integer("axis", -1 if call.opset >= 13 else 1)
    if not -rank <= axis < max(1, rank):
        raise WeightsError(f"{call.node.label}: expected an axis of {rank}, came {axis}")
    axis %= rank
    if call.opset < 13 and math.prod(x.shape[axis + 1 :]) != 1:  # over all axes from this one on
        joined = reshaped(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))
        return reshaped(function(plain(joined), axis=1), tuple(x.shape))
    return _in_place(x, lambda t: function(t, axis=order_of(x)[axis]))


@operator("Softmax")
def softmax(call: Call, x: Any) -> Any:
    return _softmax(call, x, ops.softmax)


@operator("LogSoftmax")
def log_softmax(call: Call, x: Any) -> Any:
    return _softmax(call, x, ops.log_softmax)


# --- two and more operands -------------------------------------------------------------------------


def _aligned(*values: Any) -> tuple[list[Any], tuple[int, ...]]:
    """Tensors of one order of axes that broadcast as the values do, and that order."""
    rank = max(len(v.shape) for v in values)
    leads = [v for v in values if isinstance(v, Held) and len(v.shape) == rank]
    lead = max(leads, key=lambda v: math.prod(v.shape)) if leads else None
    if lead is None:
        return [plain(v) for v in values], tuple(range(rank))
    tensors = []
    for value in values:
        shape = tuple(value.shape)
        if len(shape) == rank and isinstance(value, Held):
            tensors.append(arranged(value, lead.order))
            continue
        value = plain(value)
        if math.prod(shape) == 1:
            tensors.append(ops.reshape(value, ()))
            continue
        value = ops.reshape(value, (1,) * (rank - len(shape)) + shape)
        tensors.append(arranged(Held(value, tuple(range(rank))), lead.order))
    return tensors, lead.order


def broadcast(
    call: Call, function: Callable[..., Any], numpy: Callable[..., Any] | None, *values: Any
) -> Any:
    """Apply a function of elements with broadcasting; whole numbers go to NumPy where it is given."""
    real = [v for v in values if is_real(v)]
    if numpy is not None and not real and all(data_of(v) is not None for v in values):
        return by_numpy(call, numpy, *values)
    if real and any(isinstance(v, np.ndarray) for v in values):
        # Constants take the precision of what is computed.
        kind = next((v.dtype for v in real if not isinstance(v, np.ndarray)), np.result_type(*real))
        values = tuple([v.astype(kind) if isinstance(v, np.ndarray) and is_real(v) else v for v in values])
    tensors, order = _aligned(*values)
    return held(function(*tensors), order)


def _divide(a: Any, b: Any) -> Any:
    """Whole numbers are cut off towards zero."""
    if np.any(b == 0):
        raise WeightsError("Div: a whole number is divided by zero")
    quotient = np.floor_divide(np.abs(a), np.abs(b))
    return np.where((a < 0) != (b < 0), -quotient, quotient).astype(np.result_type(a, b))


def _either(a: Any, b: Any) -> Any:
    return ops.where(a, a, b)


def _binary(name: str, function: Callable[..., Any], numpy: Callable[..., Any] | None) -> None:
    @operator(name)
    def run(call: Call, a: Any, b: Any) -> Any:
        return broadcast(call, function, numpy, a, b)


for _name, _function2, _numpy2 in (
    ("Add", ops.add, np.add),
    ("Sub", ops.sub, np.subtract),
    ("Mul", ops.mul, np.multiply),
    ("Div", ops.div, _divide),
    ("Equal", ops.equal, np.equal),
    ("Greater", ops.greater, np.greater),
    ("Less", ops.less, np.less),
    ("GreaterOrEqual", lambda a, b: _either(ops.greater(a, b), ops.equal(a, b)), np.greater_equal),
    ("LessOrEqual", lambda a, b: _either(ops.less(a, b), ops.equal(a, b)), np.less_equal),
    ("And", lambda a, b: ops.where(a, b, a), np.logical_and),
    ("Or", lambda a, b: _either(a, b), np.logical_or),
    ("PRelu", ops.prelu, None),
):
    _binary(_name, _function2, _numpy2)


@operator("Pow")
def power(call: Call, a: Any, b: Any) -> Any:
    if not is_real(a) and is_real(b):  # the result is of the first one's type
        return by_numpy(call, lambda x, y: np.power(x, y).astype(x.dtype), a, b)
    if is_real(a) and not is_real(b):
        b = by_numpy(call, lambda v: v.astype(np.float32), b)
    if isinstance(b, np.ndarray) and b.size == 1 and is_real(a):
        exponent = float(b.reshape(()))
        if exponent == 2.0 and len(b.shape) <= len(a.shape):
            return _in_place(a, lambda t: ops.mul(t, t))
        if exponent == 0.5 and len(b.shape) <= len(a.shape):
            return _in_place(a, ops.sqrt)
    return broadcast(call, ops.pow, np.power, a, b)


@operator("Where")
def where(call: Call, condition: Any, a: Any, b: Any) -> Any:
    if not is_real(a) and all(data_of(v) is not None for v in (condition, a, b)):
        return by_numpy(call, np.where, condition, a, b)
    return broadcast(call, ops.where, None, condition, a, b)


def _folded(call: Call, function: Callable[..., Any], numpy: Any, first: Any, rest: tuple[Any, ...]) -> Any:
    return functools.reduce(lambda a, b: broadcast(call, function, numpy, a, b), rest, first)


@operator("Sum")
def add_all(call: Call, x: Any, *rest: Any) -> Any:
    return _folded(call, ops.add, np.add, x, rest)


@operator("Mean")
def mean(call: Call, x: Any, *rest: Any) -> Any:
    total = _folded(call, ops.add, np.add, x, rest)
    return _in_place(total, lambda t: ops.mul(t, 1.0 / (1 + len(rest)))) if rest else total


@operator("Max")
def maximum(call: Call, x: Any, *rest: Any) -> Any:
    return _folded(call, ops.maximum, np.maximum, x, rest)


@operator("Min")
def minimum(call: Call, x: Any, *rest: Any) -> Any:
    return _folded(call, ops.minimum, np.minimum, x, rest)
