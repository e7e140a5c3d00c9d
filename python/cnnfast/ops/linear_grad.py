"""Gradients of dense layers; the operators take the specification of the layer itself."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from . import conv_mma
from .activation_grad import before_activation
from .conv_grad import LAYER_OWN, bias_gradient, layer_reads
from .linear import LINEAR, LinearSpec, _cost_linear, as_convolution, cuda_gemm, infer_linear
from .registry import NO_GRADIENT, Array, Op, Vjp, array, cached, fail, native


def _infer(op: str, g: Any, x: Any, w: Any) -> LinearSpec:
    s = infer_linear(x, w)
    if g != s.out:
        out = ",".join(map(str, s.out))
        fail(op, f"the gradient must have the shape of the result ({out})", g=g, x=x, weight=w)
    return s


@cached
def infer_linear_grad_input(g: tuple[int, ...], w: tuple[int, ...]) -> LinearSpec:
    """Validate the arguments of :func:`linear_grad_input`; the specification of the layer."""
    op = "linear_grad_input"
    if len(w) != 2 or not g:
        fail(op, "the weight must have dimensions in,out and the gradient at least one", g=g, weight=w)
    return _infer(op, g, (*g[:-1], w[0]), w)


@cached
def infer_linear_grad_weight(x: tuple[int, ...], g: tuple[int, ...]) -> LinearSpec:
    """Validate the arguments of :func:`linear_grad_weight`; the specification of the layer."""
    op = "linear_grad_weight"
    if not (x and g):
        fail(op, "x and the gradient must have at least one dimension", x=x, g=g)
    return _infer(op, g, x, (x[-1], g[-1]))


def reference_linear_grad_input(s: LinearSpec, g: Array, w: Array) -> Array:
    """dx = g w'."""
    with np.errstate(invalid="ignore", over="ignore"):
        return (g.reshape(-1, s.w[1]) @ w.T).reshape(s.x)


def reference_linear_grad_weight(s: LinearSpec, x: Array, g: Array) -> Array:
    """dw = x' g, summed over all rows."""
    with np.errstate(invalid="ignore", over="ignore"):
        return x.reshape(-1, s.w[0]).T @ g.reshape(-1, s.w[1])


def _cuda_linear_grad_input(s: LinearSpec, g: Any, w: Any) -> Any:
    c = as_convolution(s)
    if conv_mma.accepts(c, g.dtype):
        return conv_mma.grad_input(c, g.reshape(c.out), w).reshape(s.x)
    return cuda_gemm(g, w, s.x, math.prod(s.out[:-1]), s.w[0], s.w[1], transpose_b=True)


def _cuda_linear_grad_weight(s: LinearSpec, x: Any, g: Any) -> Any:
    c = as_convolution(s)
    if conv_mma.accepts_grad_weight(c, x.dtype):
        return conv_mma.grad_weight(c, x.reshape(c.x), g.reshape(c.out)).reshape(s.w)
    return cuda_gemm(x, g, s.w, s.w[0], s.w[1], math.prod(s.out[:-1]), transpose_a=True)


LINEAR_GRAD_INPUT = Op(
    "linear_grad_input",
    infer_linear_grad_input,
    reference_linear_grad_input,
    lambda s, g, w: native().linear_grad_input(g, w),
    _cost_linear,
    vjp=NO_GRADIENT,
    results=lambda s, dtype: ((s.x, dtype),),
    cuda=_cuda_linear_grad_input,
)
LINEAR_GRAD_WEIGHT = Op(
    "linear_grad_weight",
    infer_linear_grad_weight,
    reference_linear_grad_weight,
    lambda s, x, g: native().linear_grad_weight(x, g),
    _cost_linear,
    vjp=NO_GRADIENT,
    results=lambda s, dtype: ((s.w, dtype),),
    cuda=_cuda_linear_grad_weight,
)


def _vjp(s: LinearSpec, needs: tuple[bool, ...], g: Array, inputs: Any, results: Any) -> Any:
    g = before_activation(s, g, results)
    x, w = inputs[:2]
    return (
        LINEAR_GRAD_INPUT.compute(s, g, w) if needs[0] else None,
        LINEAR_GRAD_WEIGHT.compute(s, x, g) if needs[1] else None,
        None,  # the packed form of the weight
        bias_gradient(needs, 3, g),
    )


LINEAR.differentiate(Vjp(_vjp, layer_reads, LAYER_OWN))


def linear_grad_input(g: Any, w: Any) -> Array:
    """Gradient of :func:`.linear` with respect to its input: g w'.

    Parameters
    ----------
    g : array_like, shape (..., out)
        Gradient with respect to the result; float32 (native kernels) or float64 (NumPy reference).
    w : array_like, shape (in, out)

    Returns
    -------
    ndarray, shape (..., in)

    Raises
    ------
    ShapeError, DTypeError, BackendError
    """
    g = array("linear_grad_input", "gradient", g)
    w = array("linear_grad_input", "weight", w, g)
    return LINEAR_GRAD_INPUT(infer_linear_grad_input(g.shape, w.shape), g, w)


def linear_grad_weight(x: Any, g: Any) -> Array:
    """Gradient of :func:`.linear` with respect to its weight: x' g, summed over all rows.

    Parameters
    ----------
    x : array_like, shape (..., in)
        float32 (native kernels) or float64 (NumPy reference).
    g : array_like, shape (..., out)
        Gradient with respect to the result.

    Returns
    -------
    ndarray, shape (in, out)
        The same bits for any number of threads.

    Raises
    ------
    ShapeError, DTypeError, BackendError
    """
    x = array("linear_grad_weight", "x", x)
    g = array("linear_grad_weight", "gradient", g, x)
    return LINEAR_GRAD_WEIGHT(infer_linear_grad_weight(x.shape, g.shape), x, g)
