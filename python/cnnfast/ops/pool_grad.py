"""Gradients of pooling; the operators take the specification of the pooling itself."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import cuda
from .pool import (
    AVG_POOL2D,
    GLOBAL_AVG_POOL2D,
    GLOBAL_MAX_POOL2D,
    MAX_POOL2D,
    MAX_POOL2D_INDICES,
    PoolSpec,
    _cost_global,
    _cost_pool2d,
    divisors,
    infer_avg_pool2d,
    infer_global_pool2d,
    infer_max_pool2d,
    reference_max_pool2d,
)
from .registry import NO_GRADIENT, Array, Op, Vjp, array, cached, fail, hashable, native, reads_all

# --- shape rules -----------------------------------------------------------------------------------


def _check(op: str, g: tuple[int, ...], out: tuple[int, ...], x: tuple[int, ...]) -> None:
    if g != out:
        shape = ",".join(map(str, out))
        fail(op, f"the gradient must have the shape of the result ({shape})", g=g, x=x)


@cached
def infer_max_pool2d_grad(
    g: tuple[int, ...],
    x: tuple[int, ...],
    size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> PoolSpec:
    """Validate the arguments of :func:`max_pool2d_grad`; the specification of the pooling."""
    s = infer_max_pool2d(x, size, stride, padding, dilation, ceil_mode)
    _check("max_pool2d_grad", g, s.out, x)
    return s


@cached
def infer_avg_pool2d_grad(
    g: tuple[int, ...],
    x: tuple[int, ...],
    size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> PoolSpec:
    """Validate the arguments of :func:`avg_pool2d_grad`; the specification of the pooling."""
    s = infer_avg_pool2d(x, size, stride, padding, ceil_mode, count_include_pad)
    _check("avg_pool2d_grad", g, s.out, x)
    return s


@cached
def infer_global_pool2d_grad(
    g: tuple[int, ...], x: tuple[int, ...], op: str = "global_avg_pool2d_grad"
) -> tuple[int, ...]:
    """Validate the gradient of a pooling over whole pictures: the shape of x."""
    infer_global_pool2d(x, op)
    _check(op, g, (x[0], 1, 1, x[3]), x)
    return x


# --- definitions -----------------------------------------------------------------------------------


def _scatter(g: Array, position: Array, pixels: int) -> Array:
    """Sum of g over the windows whose position in the plane is that pixel: N, pixels, C."""
    n, c = g.shape[0], g.shape[-1]
    plane = (np.arange(n)[:, None, None] * pixels + position.reshape(n, -1, c)) * c + np.arange(c)
    sums = np.bincount(plane.ravel(), g.ravel(), n * pixels * c)
    return sums.astype(g.dtype)


def reference_max_pool2d_grad(s: PoolSpec, g: Array, x: Array) -> Array:
    """dx[n, where the maximum of window p,q is, c] += g[n,p,q,c]; of equal values the first counts."""
    if 0 in s.out:
        return np.zeros(s.x, g.dtype)
    _, where = reference_max_pool2d(s, x, True)
    return _scatter(g, where, s.x[1] * s.x[2]).reshape(s.x)


def reference_avg_pool2d_grad(s: PoolSpec, g: Array) -> Array:
    """dx[n,h,w,c] = sum over the windows with that pixel of g[n,p,q,c] / the pixels that count there."""
    n, h, w, c = s.x
    _, p, q, _ = s.out
    (top, left), (sh, sw), (dh, dw) = s.start, s.stride, s.dilation
    count = divisors(s, 0).astype(float)[:, None] * divisors(s, 1)
    share = g / count[:, :, None].astype(g.dtype)
    # Everything that windows reach, before the padding is cut away.
    before, left_of = max(0, top), max(0, left)
    rows = before + max(h, (p - 1) * sh - top + (s.kernel[0] - 1) * dh + 1)
    columns = left_of + max(w, (q - 1) * sw - left + (s.kernel[1] - 1) * dw + 1)
    full = np.zeros((n, rows, columns, c), g.dtype)
    for i in range(s.kernel[0]):
        for j in range(s.kernel[1]):
            y0, x0 = before - top + i * dh, left_of - left + j * dw
            full[:, y0 : y0 + (p - 1) * sh + 1 : sh, x0 : x0 + (q - 1) * sw + 1 : sw] += share
    return np.ascontiguousarray(full[:, before : before + h, left_of : left_of + w])


def reference_global_avg_pool2d_grad(shape: tuple[int, ...], g: Array) -> Array:
    """dx[n,h,w,c] = g[n,0,0,c] / (H W)."""
    y = np.empty(shape, g.dtype)
    y[...] = g / g.dtype.type(shape[1] * shape[2])
    return y


def reference_global_max_pool2d_grad(shape: tuple[int, ...], g: Array, x: Array) -> Array:
    """dx[n, where the maximum of the plane is, c] = g[n,0,0,c]; of equal values the first counts."""
    n, h, w, c = shape
    if 0 in shape:
        return np.zeros(shape, g.dtype)
    where = np.argmax(x.reshape(n, h * w, c), axis=1)  # NumPy's maximum is the first, or the first NaN
    return _scatter(g, where[:, None, None, :], h * w).reshape(shape)


# --- native ----------------------------------------------------------------------------------------


def _native_global_avg_pool2d_grad(shape: tuple[int, ...], g: Array) -> Array:
    """A window as large as the picture."""
    return native().avg_pool2d_grad(infer_avg_pool2d(shape, shape[1:3]).native, g)


def _native_global_max_pool2d_grad(shape: tuple[int, ...], g: Array, x: Array) -> Array:
    return native().max_pool2d_grad(infer_max_pool2d(shape, shape[1:3]).native, g, x)


# --- CUDA ------------------------------------------------------------------------------------------


def _cuda_max_pool2d_grad(s: PoolSpec, g: Any, x: Any) -> Any:
    gx = cuda.empty(s.x, g.dtype)
    cuda.module().max_pool2d_grad(g.code, s.numbers, g.buffer, x.buffer, gx.buffer)
    return gx


def _cuda_avg_pool2d_grad(s: PoolSpec, g: Any) -> Any:
    gx = cuda.empty(s.x, g.dtype)
    cuda.module().avg_pool2d_grad(g.code, s.numbers, g.buffer, gx.buffer)
    return gx


def _cuda_global_max_pool2d_grad(shape: tuple[int, ...], g: Any, x: Any) -> Any:
    n, h, w, c = shape
    gx, where = cuda.empty(shape, g.dtype), cuda.empty((n, c), np.int64)
    cuda.module().argmax(x.code, n, h * w, c, x.buffer, where.buffer)
    cuda.module().scatter_rows(g.code, n, h * w, c, g.buffer, where.buffer, gx.buffer)
    return gx


MAX_POOL2D_GRAD = Op(
    "max_pool2d_grad",
    infer_max_pool2d_grad,
    reference_max_pool2d_grad,
    lambda s, g, x: native().max_pool2d_grad(s.native, g, x),
    _cost_pool2d,
    vjp=NO_GRADIENT,
    results=lambda s, dtype: ((s.x, dtype),),
    cuda=_cuda_max_pool2d_grad,
)
AVG_POOL2D_GRAD = Op(
    "avg_pool2d_grad",
    infer_avg_pool2d_grad,
    reference_avg_pool2d_grad,
    lambda s, g: native().avg_pool2d_grad(s.native, g),
    _cost_pool2d,
    vjp=NO_GRADIENT,
    results=lambda s, dtype: ((s.x, dtype),),
    cuda=_cuda_avg_pool2d_grad,
)
GLOBAL_AVG_POOL2D_GRAD = Op(
    "global_avg_pool2d_grad",
    infer_global_pool2d_grad,
    reference_global_avg_pool2d_grad,
    _native_global_avg_pool2d_grad,
    _cost_global,
    vjp=NO_GRADIENT,
    results=lambda shape, dtype: ((shape, dtype),),
    cuda=lambda shape, g: _cuda_avg_pool2d_grad(infer_avg_pool2d(shape, shape[1:3]), g),
)
GLOBAL_MAX_POOL2D_GRAD = Op(
    "global_max_pool2d_grad",
    infer_global_pool2d_grad,
    reference_global_max_pool2d_grad,
    _native_global_max_pool2d_grad,
    _cost_global,
    vjp=NO_GRADIENT,
    results=lambda shape, dtype: ((shape, dtype),),
    cuda=_cuda_global_max_pool2d_grad,
)


# --- gradients of the poolings ---------------------------------------------------------------------

MAX_POOL2D.differentiate(
    Vjp(lambda s, needs, g, inputs, results: (MAX_POOL2D_GRAD.compute(s, g, inputs[0]),), reads_all)
)
MAX_POOL2D_INDICES.differentiate(
    Vjp(lambda s, needs, g, inputs, results: (MAX_POOL2D_GRAD.compute(s, g[0], inputs[0]),), reads_all)
)
AVG_POOL2D.differentiate(Vjp(lambda s, needs, g, inputs, results: (AVG_POOL2D_GRAD.compute(s, g),)))
GLOBAL_AVG_POOL2D.differentiate(
    Vjp(lambda shape, needs, g, inputs, results: (GLOBAL_AVG_POOL2D_GRAD.compute(shape, g),))
)
GLOBAL_MAX_POOL2D.differentiate(
    Vjp(
        lambda shape, needs, g, inputs, results: (GLOBAL_MAX_POOL2D_GRAD.compute(shape, g, inputs[0]),),
        reads_all,
    )
)


# --- public ----------------------------------------------------------------------------------------


def max_pool2d_grad(
    g: Any,
    x: Any,
    size: Any,
    *,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Array:
    """Gradient of :func:`.max_pool2d`: g of each window goes to its maximum.

    Parameters
    ----------
    g : array_like, shape (N, P, Q, C)
        Gradient with respect to the result; float32 (native kernels) or float64 (NumPy reference).
    x : array_like, shape (N, H, W, C)
        What was pooled.
    size, stride, padding, dilation, ceil_mode
        Those of the pooling.

    Returns
    -------
    ndarray, shape (N, H, W, C)

    Raises
    ------
    ShapeError, DTypeError, BackendError

    Notes
    -----
    Of equal values in a window the first gets the gradient, row by row; of several NaN, too.
    """
    g = array("max_pool2d_grad", "gradient", g)
    x = array("max_pool2d_grad", "x", x, g)
    s = infer_max_pool2d_grad(g.shape, x.shape, size, stride, padding, dilation, ceil_mode)
    return MAX_POOL2D_GRAD(s, g, x)


def avg_pool2d_grad(
    g: Any,
    input_shape: Any,
    size: Any,
    *,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Array:
    """Gradient of :func:`.avg_pool2d`: each window shares its g among the pixels it averages.

    Parameters
    ----------
    g : array_like, shape (N, P, Q, C)
        Gradient with respect to the result; float32 (native kernels) or float64 (NumPy reference).
    input_shape : (int, int, int, int)
        N, H, W, C of what was pooled.
    size, stride, padding, ceil_mode, count_include_pad
        Those of the pooling.

    Returns
    -------
    ndarray, shape (N, H, W, C)

    Raises
    ------
    ShapeError, DTypeError, BackendError
    """
    g = array("avg_pool2d_grad", "gradient", g)
    shape = hashable(input_shape)
    s = infer_avg_pool2d_grad(g.shape, shape, size, stride, padding, ceil_mode, count_include_pad)
    return AVG_POOL2D_GRAD(s, g)


def global_avg_pool2d_grad(g: Any, input_shape: Any) -> Array:
    """Gradient of :func:`.global_avg_pool2d`: every pixel gets g / (H W).

    Parameters
    ----------
    g : array_like, shape (N, 1, 1, C)
    input_shape : (int, int, int, int)
        N, H, W, C of what was pooled.

    Returns
    -------
    ndarray, shape (N, H, W, C)

    Raises
    ------
    ShapeError, DTypeError, BackendError
    """
    g = array("global_avg_pool2d_grad", "gradient", g)
    s = infer_global_pool2d_grad(g.shape, hashable(input_shape), "global_avg_pool2d_grad")
    return GLOBAL_AVG_POOL2D_GRAD(s, g)


def global_max_pool2d_grad(g: Any, x: Any) -> Array:
    """Gradient of :func:`.global_max_pool2d`: g goes to the first maximum of each plane.

    Parameters
    ----------
    g : array_like, shape (N, 1, 1, C)
    x : array_like, shape (N, H, W, C)
        What was pooled.

    Returns
    -------
    ndarray, shape (N, H, W, C)

    Raises
    ------
    ShapeError, DTypeError, BackendError
    """
    g = array("global_max_pool2d_grad", "gradient", g)
    x = array("global_max_pool2d_grad", "x", x, g)
    s = infer_global_pool2d_grad(g.shape, x.shape, "global_max_pool2d_grad")
    return GLOBAL_MAX_POOL2D_GRAD(s, g, x)
