"""Gradients of activations, element by element, from the value that went in or the one that came out."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import cuda
from .activations import ACTIVATION_CODES, ACTIVATIONS, ActivationSpec, infer_activation, reads_result
from .registry import (
    NO_GRADIENT,
    OPERATORS,
    RESULT,
    Array,
    Cost,
    Op,
    Vjp,
    array,
    cached,
    choice,
    fail,
    native,
)


@cached
def infer_activation_grad(
    g: tuple[int, ...], v: tuple[int, ...], name: str, slope: Any = 0.01
) -> ActivationSpec:
    """Validate the arguments of :func:`activation_grad`; the specification of the activation."""
    choice("activation_grad", "name", name, ACTIVATIONS)
    if g != v:
        fail("activation_grad", "the gradient must have the shape of the value", g=g, v=v)
    return infer_activation(g, name, slope)


def _slope(s: ActivationSpec, v: Array) -> Array:
    """Derivative of an activation at v, its result or argument (see :func:`.activations.reads_result`)."""
    one, zero = v.dtype.type(1), v.dtype.type(0)
    if s.name == "relu":
        return np.where(v <= 0, zero, one)
    if s.name == "relu6":
        return np.where((v <= 0) | (v >= 6), zero, one)
    if s.name == "leaky_relu":
        return np.where(v < 0, v.dtype.type(s.slope), one)
    if s.name == "sigmoid":
        return v * (1 - v)
    if s.name == "tanh":
        return (1 - v) * (1 + v)
    if s.name == "silu":
        e = np.exp(-np.abs(v))
        rising = np.where(v < 0, e, one) / (1 + e)  # sigmoid(v)
        falling = np.where(v < 0, one, e) / (1 + e)  # 1 - sigmoid(v)
        return rising * (1 + np.clip(v, -200, 200) * falling)
    # hard_swish
    return np.where(v <= -3, zero, np.where(v >= 3, one, v / 3 + v.dtype.type(0.5)))


def reference_activation_grad(s: ActivationSpec, g: Array, v: Array) -> Array:
    """g times the derivative."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        y = g * _slope(s, v)
        # Where the slope is zero nothing comes through, infinities neither.
        return np.where(v <= 0, g.dtype.type(0), y) if s.name == "relu" else np.asarray(y)


def _cuda_activation_grad(s: ActivationSpec, g: Any, v: Any) -> Any:
    dx = cuda.empty(s.out, g.dtype)
    code = ACTIVATION_CODES[s.name]
    cuda.module().activation_grad(g.code, code, s.slope, g.buffer, v.buffer, dx.buffer, g.size)
    return dx


ACTIVATION_GRAD = Op(
    "activation_grad",
    infer_activation_grad,
    reference_activation_grad,
    lambda s, g, v: native().activation_grad(g, v, ACTIVATION_CODES[s.name], s.slope),
    lambda s: Cost(3 * float(np.prod(s.out, dtype=float)), 12 * float(np.prod(s.out, dtype=float))),
    vjp=NO_GRADIENT,
    settings=lambda s: {"name": s.name, "slope": s.slope},
    cuda=_cuda_activation_grad,
)


def activation_grad(g: Any, v: Any, name: str, *, slope: float = 0.01) -> Array:
    """Gradient of an activation: g times its derivative.

    Parameters
    ----------
    g : array_like, any shape
        Gradient with respect to the result; float32 (native kernels) or float64 (NumPy reference).
    v : array_like, shape of g
        The result of "relu", "relu6", "sigmoid" and "tanh"; what went into "silu" and "hard_swish";
        either of both for "leaky_relu" with a positive slope, else what went in.
    name : str
    slope : float
        Of leaky ReLU.

    Returns
    -------
    ndarray, shape of g

    Raises
    ------
    ShapeError, DTypeError, BackendError

    Notes
    -----
    At kinks: 0 for relu at 0, for relu6 at 0 and 6 and for hard_swish at -3; 1 for leaky_relu at 0 and for
    hard_swish at 3.
    """
    g = array("activation_grad", "gradient", g)
    v = array("activation_grad", "value", v, g)
    return ACTIVATION_GRAD(infer_activation_grad(g.shape, v.shape, name, slope), g, v)


def before_activation(s: Any, g: Array, results: Any) -> Array:
    """The gradient of what went into the activation of an operator with specification ``s``, from that of its
    result."""
    if s.activation is None:
        return g
    found: Array = ACTIVATION_GRAD.compute(infer_activation(g.shape, s.activation, s.slope), g, results[0])
    return found


# --- the gradients of the activations --------------------------------------------------------------


def _vjp(s: ActivationSpec, needs: Any, g: Array, inputs: Any, results: Any) -> Any:
    v = results[0] if reads_result(s.name, s.slope) else inputs[0]
    return (ACTIVATION_GRAD.compute(s, g, v),)


_VJP = Vjp(_vjp, lambda s, needs: (RESULT,) if reads_result(s.name, s.slope) else (0,))
for _name in ACTIVATIONS:
    OPERATORS[_name].differentiate(_VJP)
