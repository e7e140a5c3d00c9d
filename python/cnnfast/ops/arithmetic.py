"""Addition and multiplication with broadcasting."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import cuda
from ..config import _State
from .activation_grad import activation_grad
from .activations import ACTIVATION_CODES, apply_activation
from .registry import (
    F32,
    F64,
    OPERATORS,
    RESULT,
    Array,
    Cost,
    Epilogue,
    Lower,
    Op,
    Vjp,
    array,
    cached,
    choice,
    elements,
    fail,
    native,
    number_beside,
    reads_other,
    vector,
)

# Codes shared with csrc/kernels/pointwise.h.
BINARY_CODES = {
    name: code for code, name in enumerate(("add", "mul", "sub", "div", "pow", "maximum", "minimum", "prelu"))
}
_INFINITE = 2.0**128 - 2.0**103  # from here on float64 rounds to infinity in float32


@dataclass(frozen=True)
class BinarySpec:
    """Two shapes, the shape they broadcast to, and the native description."""

    a: tuple[int, ...]
    b: tuple[int, ...]
    out: tuple[int, ...]
    activation: str | None
    native: Any
    slope: float = 0.01  # of leaky ReLU


def broadcast_shape(op: str, a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    """The common shape by NumPy's rules: axes are matched from the last, and 1 fits everything."""
    out = []
    for i in range(1, max(len(a), len(b)) + 1):
        m = a[-i] if i <= len(a) else 1
        n = b[-i] if i <= len(b) else 1
        if m != n and 1 not in (m, n):
            fail(op, f"sizes {m} and {n} of axis {-i} do not broadcast", x=a, y=b)
        out.append(n if m == 1 else m)
    return tuple(reversed(out))


def _infer(
    op: str, a: tuple[int, ...], b: tuple[int, ...], activation: str | None = None, slope: float = 0.01
) -> BinarySpec:
    if activation is not None:
        choice(op, "activation", activation, tuple(name for name in ACTIVATION_CODES if name))
    out = broadcast_shape(op, a, b)
    elements(op, *out)
    for shape in (a, b):
        elements(op, *shape)
    module = native()
    return BinarySpec(a, b, out, activation, None if module is None else module.Broadcast(a, b), slope)


@cached
def infer_add(
    a: tuple[int, ...], b: tuple[int, ...], activation: str | None = None, slope: float = 0.01
) -> BinarySpec:
    """Validate an addition; see :func:`add`."""
    return _infer("add", a, b, activation, slope)


@cached
def infer_mul(a: tuple[int, ...], b: tuple[int, ...]) -> BinarySpec:
    """Validate a multiplication; see :func:`mul`."""
    return _infer("mul", a, b)


def reference_add(s: BinarySpec, a: Array, b: Array) -> Array:
    """act(a + b)."""
    with np.errstate(over="ignore", invalid="ignore"):
        y = np.asarray(a + b)
    return y if s.activation is None else np.asarray(apply_activation(s.activation, y, s.slope))


def reference_mul(s: BinarySpec, a: Array, b: Array) -> Array:
    """The product a * b."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return np.asarray(a * b)


def _native_add(s: BinarySpec, a: Array, b: Array) -> Array:
    return native().binary(BINARY_CODES["add"], s.native, a, b, ACTIVATION_CODES[s.activation], s.slope)


def _native_mul(s: BinarySpec, a: Array, b: Array) -> Array:
    return native().binary(BINARY_CODES["mul"], s.native, a, b, 0, 0.0)


def cuda_binary(name: str, s: Any, a: Any, b: Any, activation: str | None = None, slope: float = 0.0) -> Any:
    """The operation of that name on device arrays of the shapes in ``s``.

    Vectors may be float32 beside an operand of another type, which is that of the result.
    """
    dtype = a.dtype if len(s.a) > len(s.b) else b.dtype
    a, b = a.astype(dtype), b.astype(dtype)
    y = cuda.empty(s.out, dtype)
    code = ACTIVATION_CODES[activation]
    cuda.module().binary(a.code, BINARY_CODES[name], s.a, s.b, a.buffer, b.buffer, code, slope, y.buffer)
    return y


def _cuda_add(s: BinarySpec, a: Any, b: Any) -> Any:
    return cuda_binary("add", s, a, b, s.activation, s.slope)


def _cuda_mul(s: BinarySpec, a: Any, b: Any) -> Any:
    return cuda_binary("mul", s, a, b)


def _cost(s: BinarySpec) -> Cost:
    out, a, b = (float(np.prod(shape, dtype=float)) for shape in (s.out, s.a, s.b))
    return Cost(out * (1 if s.activation is None else 2), 4 * (out + a + b))


def _lower(steps: Any, s: BinarySpec, inputs: Any, outputs: Any, name: str) -> None:
    a, b, y = inputs[0].place, inputs[1].place, outputs[0].place
    code = ACTIVATION_CODES[s.activation]
    steps.plan.binary(BINARY_CODES[name], s.native, s.a == s.b, a, b, code, s.slope, y)


def unbroadcast(g: Array, shape: tuple[int, ...]) -> Array:
    """The gradient of what was broadcast: the sum over all copies, in double precision."""
    if g.shape == shape:
        return g
    new = g.ndim - len(shape)
    axes = tuple([i for i in range(g.ndim) if i < new or (shape[i - new] == 1 and g.shape[i] != 1)])
    if axes:
        sums = OPERATORS["reduce_sum"]  # whose file imports this one
        g = sums.compute(sums.infer(g.shape, axes), g)
    return g.reshape(shape)


def _vjp_add(s: BinarySpec, needs: Any, g: Array, inputs: Any, results: Any) -> Any:
    if s.activation is not None:
        g = activation_grad(g, results[0], s.activation, slope=s.slope)
    return [unbroadcast(g, shape) if need else None for need, shape in zip(needs, (s.a, s.b), strict=True)]


def _vjp_mul(s: BinarySpec, needs: Any, g: Array, inputs: Any, results: Any) -> Any:
    a, b = inputs
    return (
        unbroadcast(mul(g, b), s.a) if needs[0] else None,
        unbroadcast(mul(g, a), s.b) if needs[1] else None,
    )


ADD = Op(
    "add",
    infer_add,
    reference_add,
    _native_add,
    _cost,
    vjp=Vjp(_vjp_add, lambda s, needs: () if s.activation is None else (RESULT,)),
    epilogue=Epilogue(lambda s, b, residual, activation, slope: infer_add(s.a, s.b, activation, slope)),
    lower=Lower(functools.partial(_lower, name="add"), in_place=(0, 1)),
    settings=lambda s: {"activation": s.activation, "slope": s.slope},
    cuda=_cuda_add,
)
MUL = Op(
    "mul",
    infer_mul,
    reference_mul,
    _native_mul,
    _cost,
    vjp=Vjp(_vjp_mul, reads_other),
    lower=Lower(functools.partial(_lower, name="mul"), in_place=(0, 1)),
    cuda=_cuda_mul,
)


def _operands(op: str, x: Any, y: Any) -> tuple[Array, Array]:
    """Both as arrays of one type; a Python number takes the type of the other operand."""
    if type(y) in (int, float):
        x = array(op, "x", x)
        return x, scalar(op, y, x)
    if type(x) in (int, float):
        y = array(op, "y", y)
        return scalar(op, x, y), y
    x = array(op, "x", x)
    return x, vector(op, "y", y, x)


def scalar(op: str, value: float, like: Any) -> Any:
    """A number as an array without axes, of the type of another: types of 16 bits are those of a device."""
    try:
        wide = float(value)
    except OverflowError:
        fail(op, "the number is beyond float64")
    if like.dtype is F64:
        return np.array(wide, F64)
    if abs(wide) >= _INFINITE:
        wide = math.copysign(math.inf, wide)
    number = np.array(wide, F32)
    return number if like.dtype is F32 else number_beside(number, like.dtype)


def add(x: Any, y: Any, *, activation: str | None = None) -> Array:
    """act(x + y) with NumPy broadcasting, e.g. the end of a residual block in one pass.

    Parameters
    ----------
    x, y : array_like or Python number
        float32 (native kernels) or float64 (NumPy reference), both of one type; axes are matched from
        the last, and size 1 is repeated. A number takes the type of the other operand.
    activation : str, optional
        "relu", "relu6", "leaky_relu" (slope .01), "sigmoid", "tanh", "silu" or "hard_swish".

    Returns
    -------
    ndarray, the common shape

    Raises
    ------
    ShapeError, DTypeError, BackendError

    References
    ----------
    He et al., "Deep residual learning for image recognition", 2016, equation 1.
    """
    if _State.backend == "cpu" and activation is None and (z := native().add_alike(x, y, 0)) is not None:
        return z
    x, y = _operands("add", x, y)
    return ADD(infer_add(x.shape, y.shape, activation), x, y)


def mul(x: Any, y: Any) -> Array:
    """Product x * y with NumPy broadcasting, e.g. (N, H, W, C) by squeeze-and-excitation gates (N, 1, 1, C).

    Parameters
    ----------
    x, y : array_like or Python number
        As for :func:`add`.

    Returns
    -------
    ndarray, the common shape

    Raises
    ------
    ShapeError, DTypeError, BackendError

    References
    ----------
    Hu et al., "Squeeze-and-excitation networks", 2018, equation 4.
    """
    if _State.backend == "cpu" and (z := native().mul_alike(x, y, 0)) is not None:
        return z
    x, y = _operands("mul", x, y)
    return MUL(infer_mul(x.shape, y.shape), x, y)
