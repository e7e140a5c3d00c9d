"""Gradients of convolution, depthwise convolution and transpose convolution.

The operators take the specification of the convolution itself (:class:`.conv.Conv2dSpec`): its ``out`` is
the shape of the gradient that comes in, its ``x`` or ``w`` that of the one that goes out. Activation, bias
and residual of the specification play no part. A padding mode other than zeros is an operator of its own
(:func:`.pad.pad2d`) before the convolution, and so is its gradient after it.
"""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import Any

import numpy as np

from .. import cuda
from ..config import current_backend, winograd_gradients
from . import conv_mma
from .activation_grad import before_activation
from .conv import (
    CONV2D,
    DEPTHWISE_CONV2D,
    Conv2dSpec,
    _cost_conv2d,
    _spec_numbers,
    _windows,
    cuda_numbers,
    infer_conv2d,
)
from .conv_transpose import CONV2D_TRANSPOSE
from .registry import (
    F32,
    NO_GRADIENT,
    RESULT,
    Array,
    Cost,
    Op,
    Vjp,
    array,
    cached,
    fail,
    hashable,
    native,
    rank,
)
from .views import take

# --- shape rules -----------------------------------------------------------------------------------


def _infer(op: str, g: Any, x: Any, w: Any, stride: Any, padding: Any, dilation: Any, groups: Any) -> Any:
    s = infer_conv2d(x, w, None, None, stride, padding, dilation, groups, None, op)
    if g != s.out:
        out = ",".join(map(str, s.out))
        fail(op, f"the gradient must have the shape of the result ({out})", g=g, x=x, weight=w)
    return s


@cached
def infer_conv2d_grad_input(
    g: tuple[int, ...],
    w: tuple[int, ...],
    x: tuple[int, ...],
    stride: Any = 1,
    padding: Any = "valid",
    dilation: Any = 1,
    groups: Any = 1,
) -> Conv2dSpec:
    """Validate the arguments of :func:`conv2d_grad_input`; the specification of the convolution."""
    return _infer("conv2d_grad_input", g, x, w, stride, padding, dilation, groups)


@cached
def infer_conv2d_grad_weight(
    x: tuple[int, ...],
    g: tuple[int, ...],
    w: tuple[int, ...],
    stride: Any = 1,
    padding: Any = "valid",
    dilation: Any = 1,
    groups: Any = 1,
) -> Conv2dSpec:
    """Validate the arguments of :func:`conv2d_grad_weight`; the specification of the convolution."""
    return _infer("conv2d_grad_weight", g, x, w, stride, padding, dilation, groups)


@functools.lru_cache(maxsize=4096)
def adjoint_of_transpose(s: Conv2dSpec) -> Conv2dSpec:
    """The convolution whose adjoint is this transpose convolution.

    It takes what the transpose convolution gives, with the same weight. The gradient of a transpose
    convolution's input is this convolution of the gradient; that of its weight is
    ``CONV2D_GRAD_WEIGHT(adjoint, g, x)``.
    """
    numbers = _spec_numbers(s.out, s.w[:2], s.x[3], s.groups, s.stride, s.dilation, s.pads, s.x)
    module = native()
    described = module.Conv2dSpec(numbers) if module is not None else None
    return replace(s, x=s.out, out=s.x, activation=None, bias=False, residual=False, native=described)


# --- definitions -----------------------------------------------------------------------------------


def reference_conv2d_grad_input(s: Conv2dSpec, g: Array, w: Array) -> Array:
    """dx[n, p*s + i*d - pad, q*s + j*d - pad, c] += sum over o of g[n,p,q,o] w[i,j,c,o]."""
    n, h, width, c = s.x
    kh, kw, cg, o = s.w
    w = w.reshape(s.w)  # depthwise weights are C groups of one channel
    (sh, sw), (dh, dw) = s.stride, s.dilation
    (top, bottom), (left, right) = s.pads
    p, q = s.out[1:3]
    full = np.zeros((n, h + top + bottom, width + left + right, c), g.dtype)
    og = o // s.groups
    with np.errstate(invalid="ignore", over="ignore"):
        for i in range(kh):
            for j in range(kw):
                rows = slice(i * dh, i * dh + (p - 1) * sh + 1, sh)
                columns = slice(j * dw, j * dw + (q - 1) * sw + 1, sw)
                if cg == 1 and s.groups > 1:
                    by_channel = g.reshape(n, p, q, c, og) * w[i, j, 0].reshape(c, og)
                    full[:, rows, columns] += by_channel.sum(axis=4)
                    continue
                for k in range(s.groups):
                    of = slice(k * og, (k + 1) * og)
                    full[:, rows, columns, k * cg : (k + 1) * cg] += g[..., of] @ w[i, j, :, of].T
    return np.ascontiguousarray(full[:, top : top + h, left : left + width])


def reference_conv2d_grad_weight(s: Conv2dSpec, x: Array, g: Array) -> Array:
    """dw[i,j,c,o] = sum over n,p,q of x[n, p*s + i*d - pad, q*s + j*d - pad, c] g[n,p,q,o]."""
    kh, kw, cg, o = s.w
    og = o // s.groups
    windows = _windows(np.pad(x, ((0, 0), *s.pads, (0, 0))), (kh, kw), s.stride, s.dilation, s.out)
    y = np.zeros(s.w, x.dtype)
    with np.errstate(invalid="ignore", over="ignore"):
        for i in range(kh):
            for j in range(kw):
                tap = windows[:, :, :, i, j]
                if cg == 1 and s.groups > 1:
                    products = tap[..., None] * g.reshape(*s.out[:3], s.groups, og)
                    y[i, j, 0] = products.reshape(-1, o).sum(axis=0)
                    continue
                for k in range(s.groups):
                    a = tap[..., k * cg : (k + 1) * cg].reshape(-1, cg)
                    of = slice(k * og, (k + 1) * og)
                    y[i, j, :, of] = a.T @ g[..., of].reshape(-1, og)
    return y


# --- native ----------------------------------------------------------------------------------------


def _native_conv2d_grad_input(s: Conv2dSpec, g: Array, w: Array) -> Array:
    return native().conv2d_grad_input(s.native, g, w, False)


def _native_conv2d_grad_weight(s: Conv2dSpec, x: Array, g: Array) -> Array:
    return native().conv2d_grad_weight(s.native, x, g, False)


# --- CUDA ------------------------------------------------------------------------------------------


def _cuda_conv2d_grad_input(s: Conv2dSpec, g: Any, w: Any) -> Any:
    if conv_mma.accepts(s, g.dtype):
        return conv_mma.grad_input(s, g, w)
    x = cuda.empty(s.x, g.dtype)
    cuda.module().conv2d_adjoint(g.code, cuda_numbers(s), g.buffer, w.buffer, None, 0, 0.0, x.buffer)
    return x


def _cuda_conv2d_grad_weight(s: Conv2dSpec, x: Any, g: Any) -> Any:
    if conv_mma.accepts_grad_weight(s, x.dtype):
        return conv_mma.grad_weight(s, x, g)
    w = cuda.empty(s.w, x.dtype)
    cuda.module().conv2d_grad_weight(x.code, cuda_numbers(s), x.buffer, g.buffer, w.buffer)
    return w


CONV2D_GRAD_INPUT = Op(
    "conv2d_grad_input",
    infer_conv2d_grad_input,
    reference_conv2d_grad_input,
    _native_conv2d_grad_input,
    _cost_conv2d,
    vjp=NO_GRADIENT,
    results=lambda s, dtype: ((s.x, dtype),),
    cuda=_cuda_conv2d_grad_input,
)
CONV2D_GRAD_WEIGHT = Op(
    "conv2d_grad_weight",
    infer_conv2d_grad_weight,
    reference_conv2d_grad_weight,
    _native_conv2d_grad_weight,
    _cost_conv2d,
    vjp=NO_GRADIENT,
    results=lambda s, dtype: ((s.w, dtype),),
    cuda=_cuda_conv2d_grad_weight,
)


# --- gradient of a bias ----------------------------------------------------------------------------


@cached
def infer_bias_grad(g: tuple[int, ...]) -> tuple[int, ...]:
    """Any shape with at least one dimension, the last for channels."""
    if not g:
        fail("bias_grad", "the gradient must have at least one dimension, the last for channels", g=g)
    return g


def reference_bias_grad(shape: tuple[int, ...], g: Array) -> Array:
    """db[c] = sum over all other axes of g[..., c], in float64."""
    with np.errstate(invalid="ignore", over="ignore"):
        return g.reshape(math.prod(shape[:-1]), shape[-1]).sum(axis=0, dtype=np.float64).astype(g.dtype)


def _cost_bias_grad(shape: tuple[int, ...]) -> Cost:
    n = float(np.prod(shape, dtype=float))
    return Cost(n, 4 * (n + shape[-1]))


def _cuda_bias_grad(shape: tuple[int, ...], g: Any) -> Any:
    db = cuda.empty(shape[-1:], g.dtype)
    cuda.module().channel_sums(g.code, math.prod(shape[:-1]), shape[-1], g.buffer, db.buffer)
    return db


BIAS_GRAD = Op(
    "bias_grad",
    infer_bias_grad,
    reference_bias_grad,
    lambda shape, g: native().channel_sums(g),
    _cost_bias_grad,
    vjp=NO_GRADIENT,
    results=lambda shape, dtype: ((shape[-1:], dtype),),
    cuda=_cuda_bias_grad,
)


# --- gradients of the convolutions -----------------------------------------------------------------


def layer_reads(s: Any, needs: tuple[bool, ...]) -> tuple[int, ...]:
    """Input and weight read each other, and an activation its result."""
    return _layer_reads(needs[0], needs[1], s.activation is not None)


@functools.cache
def _layer_reads(x: bool, w: bool, activation: bool) -> tuple[int, ...]:
    return (1,) * x + (0,) * w + (RESULT,) * activation


def bias_gradient(needs: tuple[bool, ...], position: int, g: Array) -> Array | None:
    """That of a bias, which may be left out at the end of the arguments."""
    return BIAS_GRAD.compute(g.shape, g) if _wanted(needs, position) else None


def _wanted(needs: tuple[bool, ...], position: int) -> bool:
    """Whether an argument that may be left out at the end wants a gradient."""
    return len(needs) > position and needs[position]


def _vjp_conv2d(s: Conv2dSpec, needs: tuple[bool, ...], g: Array, inputs: Any, results: Any) -> Any:
    g = before_activation(s, g, results)
    x, w = inputs[:2]
    return (
        _input_gradient(s, g, w) if needs[0] else None,
        _weight_gradient(s, x, g) if needs[1] else None,
        None,  # the packed form of the weight
        bias_gradient(needs, 3, g),
        g if _wanted(needs, 4) else None,
    )


def _by_winograd(g: Array) -> bool:
    """Whether Winograd's algorithm may take part: in the kernels for float32 of the CPU."""
    on_host = isinstance(g, np.ndarray) and g.dtype == F32 and current_backend() == "cpu"
    return on_host and winograd_gradients()


def _input_gradient(s: Conv2dSpec, g: Array, w: Array) -> Array:
    """As :func:`conv2d_grad_input`, by Winograd's algorithm where that is quicker and allowed."""
    if _by_winograd(g):
        return native().conv2d_grad_input(s.native, g, w, True)
    return CONV2D_GRAD_INPUT.compute(s, g, w)


def _weight_gradient(s: Conv2dSpec, x: Array, g: Array) -> Array:
    """As :func:`conv2d_grad_weight`, likewise."""
    if _by_winograd(g):
        return native().conv2d_grad_weight(s.native, x, g, True)
    return CONV2D_GRAD_WEIGHT.compute(s, x, g)


def _vjp_depthwise(s: Conv2dSpec, needs: tuple[bool, ...], g: Array, inputs: Any, results: Any) -> Any:
    found = list(_vjp_conv2d(s, needs, g, inputs, results))
    if needs[1]:
        kh, kw, _, o = s.w
        found[1] = found[1].reshape(kh, kw, s.groups, o // s.groups)
    return found


def _vjp_transpose(s: Conv2dSpec, needs: tuple[bool, ...], g: Array, inputs: Any, results: Any) -> Any:
    """The gradient of an adjoint is the convolution itself."""
    g = before_activation(s, g, results)
    x, w = inputs[:2]
    adjoint = adjoint_of_transpose(s)
    return (
        CONV2D.compute(adjoint, g, w) if needs[0] else None,
        CONV2D_GRAD_WEIGHT.compute(adjoint, g, x) if needs[1] else None,
        None,
        bias_gradient(needs, 3, g),
    )


# Weight and bias.
LAYER_OWN = (1, 3)
CONV2D.differentiate(Vjp(_vjp_conv2d, layer_reads, LAYER_OWN))
DEPTHWISE_CONV2D.differentiate(Vjp(_vjp_depthwise, layer_reads, LAYER_OWN))
CONV2D_TRANSPOSE.differentiate(Vjp(_vjp_transpose, layer_reads, LAYER_OWN))


# --- public ----------------------------------------------------------------------------------------


_FLIP = (slice(None, None, -1), slice(None, None, -1))


def conv2d_grad_input(
    g: Any,
    w: Any,
    input_shape: Any,
    *,
    stride: Any = 1,
    padding: Any = "valid",
    dilation: Any = 1,
    groups: int = 1,
    flip: bool = False,
) -> Array:
    """Gradient of :func:`.conv2d` with respect to its input: the adjoint of the convolution, applied to g.

    ``dx[n, p*stride + i*dilation - pad, ..., c] = sum over i,j,o of g[n,p,q,o] w[i,j,c,o]``

    Parameters
    ----------
    g : array_like, shape (N, P, Q, C_out)
        Gradient with respect to the result; float32 (native kernels) or float64 (NumPy reference).
    w : array_like, shape (KH, KW, C_in/groups, C_out)
    input_shape : (int, int, int, int)
        N, H, W, C_in of the input.
    stride, padding, dilation, groups, flip
        Those of the convolution.

    Returns
    -------
    ndarray, shape (N, H, W, C_in)
        The same bits for any number of threads.

    Raises
    ------
    ShapeError, DTypeError, BackendError

    References
    ----------
    Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, chapter 4.
    """
    op = "conv2d_grad_input"
    g = array(op, "gradient", g)
    w = array(op, "weight", w, g)
    if flip:
        rank(op, "weight", w.shape, "KH,KW,C_in/groups,C_out")
        w = take(w, _FLIP)
    shape = hashable(input_shape)
    s = infer_conv2d_grad_input(g.shape, w.shape, shape, stride, padding, dilation, groups)
    return CONV2D_GRAD_INPUT(s, g, w)


def conv2d_grad_weight(
    x: Any,
    g: Any,
    weight_shape: Any,
    *,
    stride: Any = 1,
    padding: Any = "valid",
    dilation: Any = 1,
    groups: int = 1,
    flip: bool = False,
) -> Array:
    """Gradient of :func:`.conv2d` with respect to its weight.

    ``dw[i,j,c,o] = sum over n,p,q of x[n, p*stride + i*dilation - pad, ..., c] g[n,p,q,o]``

    Parameters
    ----------
    x : array_like, shape (N, H, W, C_in)
        float32 (native kernels) or float64 (NumPy reference).
    g : array_like, shape (N, P, Q, C_out)
        Gradient with respect to the result.
    weight_shape : (int, int, int, int)
        KH, KW, C_in/groups, C_out of the weight.
    stride, padding, dilation, groups, flip
        Those of the convolution.

    Returns
    -------
    ndarray, shape (KH, KW, C_in/groups, C_out)
        The same bits for any number of threads.

    Raises
    ------
    ShapeError, DTypeError, BackendError

    References
    ----------
    LeCun et al., "Gradient-based learning applied to document recognition", 1998.
    """
    op = "conv2d_grad_weight"
    x = array(op, "x", x)
    g = array(op, "gradient", g, x)
    shape = hashable(weight_shape)
    s = infer_conv2d_grad_weight(x.shape, g.shape, shape, stride, padding, dilation, groups)
    y = CONV2D_GRAD_WEIGHT(s, x, g)
    return y if not flip else take(y, _FLIP)


def bias_grad(g: Any) -> Array:
    """Gradient of a bias per channel: the sum of g over all axes but the last.

    Parameters
    ----------
    g : array_like, shape (..., C)
        float32 (native kernels) or float64 (NumPy reference).

    Returns
    -------
    ndarray, shape (C,)
        Added in a fixed order, in blocks that are joined in double precision.

    Raises
    ------
    ShapeError, DTypeError, BackendError
    """
    g = array("bias_grad", "gradient", g)
    return BIAS_GRAD(infer_bias_grad(g.shape), g)
