"""Dense layers, matrix products and Gram matrices."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import config, cuda
from ..config import _State
from . import conv_mma
from .activations import ACTIVATION_CODES, ACTIVATIONS, apply_activation
from .arithmetic import broadcast_shape, unbroadcast
from .conv import Conv2dSpec, infer_conv2d
from .packed import PackedWeights, own_weight, unpack
from .registry import (
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
    optional,
    rank,
    reads_all,
    reads_other,
    shape_of,
)


@dataclass(frozen=True)
class LinearSpec:
    x: tuple[int, ...]
    w: tuple[int, int]
    out: tuple[int, ...]
    activation: str | None
    bias: bool
    slope: float = 0.01  # of leaky ReLU


@dataclass(frozen=True)
class GramSpec:
    x: tuple[int, ...]
    rows: int  # of the matrix whose Gram matrix it is
    out: tuple[int, int, int]


@dataclass(frozen=True)
class MatmulSpec:
    a: tuple[int, ...]
    b: tuple[int, ...]
    out: tuple[int, ...]
    native: Any


@cached
def infer_linear(
    x: tuple[int, ...],
    w: tuple[int, ...],
    b: tuple[int, ...] | None = None,
    activation: str | None = None,
    slope: float = 0.01,
) -> LinearSpec:
    """Validate a dense layer; see :func:`linear`."""
    op = "linear"
    rank(op, "weight", w, "in,out")
    if min(w) < 1:
        fail(op, "the weight must not be empty", weight=w)
    if not x or x[-1] != w[0]:
        fail(op, f"weight has {w[0]} inputs, x has {x[-1] if x else 'no dimension'}", x=x, weight=w)
    if b is not None and b != (w[1],):
        fail(op, f"bias must have shape ({w[1]},)", bias=b)
    if activation is not None:
        choice(op, "activation", activation, ACTIVATIONS)
    out = (*x[:-1], w[1])
    elements(op, *out)
    return LinearSpec(x, (w[0], w[1]), out, activation, b is not None, slope)


@cached
def infer_gram_matrix(x: tuple[int, ...]) -> GramSpec:
    """Validate a Gram matrix; see :func:`gram_matrix`."""
    op = "gram_matrix"
    if len(x) not in (3, 4):
        fail(op, f"x must have dimensions N,H,W,C or N,rows,C, got {len(x)}", x=x)
    elements(op, x[0], x[-1], x[-1])
    rows = x[1] * x[2] if len(x) == 4 else x[1]
    return GramSpec(x, rows, (x[0], x[-1], x[-1]))


@cached
def infer_matmul(a: tuple[int, ...], b: tuple[int, ...]) -> MatmulSpec:
    """Validate a product of stacks of matrices; see :func:`matmul`."""
    op = "matmul"
    if min(len(a), len(b)) < 2:
        fail(op, "both operands must have at least two dimensions", x=a, y=b)
    if a[-1] != b[-2]:
        fail(op, f"x has {a[-1]} columns, y has {b[-2]} rows", x=a, y=b)
    out = (*broadcast_shape(op, a[:-2], b[:-2]), a[-2], b[-1])
    for shape in (out, a, b):
        elements(op, *shape)
    module = native()
    described = None
    if module is not None:
        described = module.MatmulSpec(a[-2], a[-1], b[-1], module.Broadcast(a[:-2], b[:-2]))
    return MatmulSpec(a, b, out, described)


def reference_matmul(s: MatmulSpec, a: Array, b: Array) -> Array:
    """Sums of products over the last axis of a and the last but one of b."""
    with np.errstate(all="ignore"):
        return np.matmul(a, b)


def _native_matmul(s: MatmulSpec, a: Array, b: Array) -> Array:
    return native().matmul(s.native, s.out, a, b)


def _lower_matmul(steps: Any, s: MatmulSpec, inputs: Any, outputs: Any) -> None:
    steps.plan.matmul(s.native, inputs[0].place, inputs[1].place, outputs[0].place)


def reference_linear(s: LinearSpec, x: Array, w: Array, packed: Any = None, b: Array | None = None) -> Array:
    """y = act(x w + b)."""
    # One matrix product: NumPy would run a stack of small ones for more than two dimensions.
    y = (x.reshape(-1, s.w[0]) @ w).reshape(s.out)
    if b is not None:
        y += b
    return y if s.activation is None else apply_activation(s.activation, y, s.slope)


def _native_linear(s: LinearSpec, x: Array, w: Array, packed: Any = None, b: Array | None = None) -> Array:
    return config._cpu.linear(x, s.w[1], w, packed, b, ACTIVATION_CODES[s.activation], s.slope)


def as_convolution(s: LinearSpec) -> Conv2dSpec:
    """A dense layer as the convolution of pictures of one pixel."""
    x, b = (math.prod(s.x[:-1]), 1, 1, s.w[0]), (s.w[1],) if s.bias else None
    spec: Conv2dSpec = infer_conv2d(x, (1, 1, *s.w), b, activation=s.activation, slope=s.slope)
    return spec


def reference_gram_matrix(s: GramSpec, x: Array) -> Array:
    """g[n] = f' f with f the pixels by channels matrix of picture n."""
    f = x.reshape(s.x[0], s.rows, s.x[-1])
    return np.matmul(f.transpose(0, 2, 1), f)


def _native_gram_matrix(s: GramSpec, x: Array) -> Array:
    return native().gram_matrix(x)


def cuda_gemm(
    a: Any,
    b: Any,
    shape: tuple[int, ...],
    m: int,
    n: int,
    k: int,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    bias: Any = None,
    activation: str | None = None,
    slope: float = 0.0,
) -> Any:
    """act(a b + bias) of device arrays, m x k and k x n, or stored the other way round where transposed."""
    y = cuda.empty(shape, a.dtype)
    ends = (cuda.buffer(bias, "float32"), ACTIVATION_CODES[activation], slope)
    cuda.module().gemm(a.code, m, n, k, transpose_a, transpose_b, a.buffer, b.buffer, *ends, y.buffer)
    return y


def _cuda_linear(s: LinearSpec, x: Any, w: Any, packed: Any = None, b: Any = None) -> Any:
    c = as_convolution(s)
    if conv_mma.accepts(c, x.dtype):
        return conv_mma.conv2d(c, x.reshape(c.x), w, packed, b).reshape(s.out)
    rows = math.prod(s.out[:-1])
    return cuda_gemm(x, w, s.out, rows, s.w[1], s.w[0], bias=b, activation=s.activation, slope=s.slope)


def _cuda_product(
    a: Any, b: Any, transpose_a: bool = False, transpose_b: bool = False, residual: Any = None
) -> Any:
    """a b + residual of stacks on the device, the matrices of either transposed."""
    rows, columns = a.shape[-1 if transpose_a else -2], b.shape[-2 if transpose_b else -1]
    y = cuda.empty((*broadcast_shape("matmul", a.shape[:-2], b.shape[:-2]), rows, columns), a.dtype)
    operands = (a.buffer, b.buffer, cuda.buffer(residual), y.buffer)
    cuda.module().matmul(a.code, a.shape, b.shape, transpose_a, transpose_b, *operands)
    return y


def _cuda_matmul(s: MatmulSpec, a: Any, b: Any) -> Any:
    return _cuda_product(a, b)


def _cuda_gram_matrix(s: GramSpec, x: Any) -> Any:
    y = cuda.empty(s.out, x.dtype)
    cuda.module().gram_matrix(x.code, s.x[0], s.rows, s.x[-1], x.buffer, y.buffer)
    return y


def _cost_linear(s: LinearSpec) -> Cost:
    values = float(np.prod(s.x, dtype=float) + np.prod(s.w, dtype=float) + np.prod(s.out, dtype=float))
    flops = 2.0 * float(np.prod(s.out, dtype=float)) * s.w[0]
    return Cost(flops, 4 * (values + s.bias * s.w[1]))


def _cost_gram_matrix(s: GramSpec) -> Cost:
    # Symmetric: c (c + 1) / 2 sums of products.
    flops = float(s.x[0]) * s.rows * s.x[-1] * (s.x[-1] + 1)
    return Cost(flops, 4 * float(np.prod(s.x, dtype=float) + np.prod(s.out, dtype=float)))


def _lower_linear(steps: Any, s: LinearSpec, inputs: Any, outputs: Any) -> None:
    x, w, y = inputs[0], inputs[1], outputs[0]
    b = inputs[3] if len(inputs) > 3 else None
    weights = None
    if w.value.known:
        restore = functools.partial(steps.native.PackedMatrix.restore, *s.w)
        weights = steps.shared(w.value, "linear", steps.native.pack_linear, restore)
    plain = steps.none if weights is not None else w.place
    rows = math.prod(s.out[:-1])
    ends = (x.place, steps.place(b), y.place, ACTIVATION_CODES[s.activation], s.slope)
    steps.plan.linear(rows, *s.w, plain, weights, *ends)


def _lower_gram_matrix(steps: Any, s: GramSpec, inputs: Any, outputs: Any) -> None:
    steps.plan.gram_matrix(s.x[0], s.rows, s.x[-1], inputs[0].place, outputs[0].place)


def _vjp_matmul(s: MatmulSpec, needs: Any, g: Any, inputs: Any, results: Any) -> Any:
    a, b = inputs
    if isinstance(g, cuda.DeviceArray):
        da = _cuda_product(g, b, transpose_b=True) if needs[0] else None
        db = _cuda_product(a, g, transpose_a=True) if needs[1] else None
    else:
        da = matmul(g, b.swapaxes(-1, -2)) if needs[0] else None
        db = matmul(a.swapaxes(-1, -2), g) if needs[1] else None
    return None if da is None else unbroadcast(da, s.a), None if db is None else unbroadcast(db, s.b)


def _vjp_gram_matrix(s: GramSpec, needs: Any, g: Any, inputs: Any, results: Any) -> Any:
    f = inputs[0].reshape((s.x[0], s.rows, s.x[-1]))
    if isinstance(g, cuda.DeviceArray):
        return (_cuda_product(f, g, transpose_b=True, residual=_cuda_product(f, g)).reshape(s.x),)
    return (matmul(f, g + g.transpose(0, 2, 1)).reshape(s.x),)


LINEAR = Op(
    "linear",
    infer_linear,
    reference_linear,
    _native_linear,
    _cost_linear,
    epilogue=Epilogue(
        lambda s, b, residual, activation, slope: infer_linear(s.x, s.w, b, activation, slope),
        bias=3,
        scale=lambda s, w, factor: w * factor,
    ),
    lower=Lower(_lower_linear),
    settings=lambda s: {"activation": s.activation, "slope": s.slope},
    shapes=lambda x, w, packed=None, *rest: (x, w, *rest),
    cuda=_cuda_linear,
)
MATMUL = Op(
    "matmul",
    infer_matmul,
    reference_matmul,
    _native_matmul,
    lambda s: Cost(
        2.0 * float(np.prod(s.out, dtype=float)) * s.a[-1],
        4 * sum(float(np.prod(shape, dtype=float)) for shape in (s.a, s.b, s.out)),
    ),
    vjp=Vjp(_vjp_matmul, reads_other),
    lower=Lower(_lower_matmul),
    cuda=_cuda_matmul,
)
GRAM_MATRIX = Op(
    "gram_matrix",
    infer_gram_matrix,
    reference_gram_matrix,
    _native_gram_matrix,
    _cost_gram_matrix,
    vjp=Vjp(_vjp_gram_matrix, reads_all),
    lower=Lower(_lower_gram_matrix),
    cuda=_cuda_gram_matrix,
)


def matmul(x: Any, y: Any) -> Array:
    """Product of matrices, or of stacks of them that broadcast by NumPy's rules.

    Parameters
    ----------
    x : array_like, shape (..., M, K)
    y : array_like, shape (..., K, N)

    Returns
    -------
    ndarray, shape (..., M, N)

    Raises
    ------
    ShapeError, DTypeError, BackendError
    """
    x = array("matmul", "x", x)
    y = array("matmul", "y", y, x)
    return MATMUL(infer_matmul(x.shape, y.shape), x, y)


def pack_linear(w: Any) -> PackedWeights:
    """Pack dense weights (in, out) once for many calls of :func:`linear`."""
    own = own_weight("linear", w)
    rank("linear", "weight", own.shape, "in,out")
    if min(own.shape) < 1:
        fail("linear", "the weight must not be empty", weight=own.shape)
    module = native()
    pack = module is not None and own.dtype == np.float32
    return PackedWeights("linear", own, module.pack_linear(own) if pack else None, ())


def linear(x: Any, w: Any, b: Any = None, *, activation: str | None = None) -> Array:
    """Dense layer ``y = act(x w + b)``.

    Parameters
    ----------
    x : array_like, shape (..., in)
        float32 (native kernels) or float64 (NumPy reference).
    w : array_like, shape (in, out), or PackedWeights
        See :func:`pack_linear`.
    b : array_like, shape (out,), optional
    activation : str, optional
        As in :func:`conv2d`.

    Returns
    -------
    ndarray, shape (..., out)

    Raises
    ------
    ShapeError, DTypeError, BackendError
    """
    if _State.backend == "cpu" and activation is None and (y := native().linear_plain(x, w, b)) is not None:
        return y
    x = array("linear", "x", x)
    w, packed = unpack("linear", w, x, ())
    b = optional("linear", "bias", b, x)
    infer = infer_linear.quick if activation is None or type(activation) is str else infer_linear
    return LINEAR(infer(x.shape, w.shape, shape_of(b), activation), x, w, packed, b)


def gram_matrix(x: Any) -> Array:
    """Gram matrix of the channels: ``g[n,i,j] = sum over pixels of x[n,...,i] x[n,...,j]``.

    Neither centred nor normalised; symmetric to the last bit and positive semi-definite.

    Parameters
    ----------
    x : array_like, shape (N, H, W, C) or (N, rows, C)

    Returns
    -------
    ndarray, shape (N, C, C)

    Raises
    ------
    ShapeError, DTypeError, BackendError

    References
    ----------
    Gatys, Ecker and Bethge, "A neural algorithm of artistic style", 2015, equation 3.
    """
    x = array("gram_matrix", "x", x)
    return GRAM_MATRIX(infer_gram_matrix(x.shape), x)
