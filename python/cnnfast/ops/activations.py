"""Activations, element by element."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import cuda
from .registry import (
    Array,
    Cost,
    Lower,
    Op,
    array,
    cached,
    elements,
    fail,
    native,
    number,
)

# Codes shared with csrc/core/epilogue.h.
ACTIVATION_CODES: dict[str | None, int] = {
    None: 0,
    "relu": 1,
    "relu6": 2,
    "leaky_relu": 3,
    "sigmoid": 4,
    "tanh": 5,
    "silu": 6,
    "hard_swish": 7,
}
ACTIVATIONS = tuple(name for name in ACTIVATION_CODES if name is not None)


def apply_activation(name: str, x: Array, slope: float = 0.01) -> Array:
    """The NumPy definition of an activation by name; ``slope`` is that of leaky ReLU.

    Every form is stable over the whole range, NaN comes through, and -Inf and +Inf give the limits.
    """
    # Overflow and NaN have their right results below; they are no reason to warn.
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if name == "relu":
            return np.maximum(x, 0)
        if name == "relu6":
            return np.minimum(np.maximum(x, 0), 6)
        if name == "leaky_relu":
            return np.where(x < 0, x * x.dtype.type(slope), x)
        if name == "sigmoid":
            e = np.exp(-np.abs(x))
            return np.where(x < 0, e, 1) / (1 + e)
        if name == "tanh":
            return np.tanh(x)
        if name == "silu":
            e = np.exp(-np.abs(x))
            y = np.asarray(np.where(x < 0, x * e, x) / (1 + e))
            low = x < -80
            if low.any():
                # In float32 exp(x) becomes subnormal before x exp(x) does.
                t = np.maximum(x[low].astype(np.float64), -1000)
                y[low] = t * np.exp(t)
            return y
        if name == "hard_swish":
            bounded = np.maximum(x, -3)
            return bounded * (np.minimum(bounded + 3, 6) / 6)
    raise ValueError(f"apply_activation: unknown activation {name!r}")


@dataclass(frozen=True)
class ActivationSpec:
    """A checked activation of one array."""

    out: tuple[int, ...]
    name: str
    slope: float


@cached
def infer_activation(x: tuple[int, ...], name: str, slope: Any = 0.01) -> ActivationSpec:
    """Any shape; ``slope`` (finite) is that of leaky ReLU."""
    slope = number(name, "slope", slope)
    if abs(slope) > float(np.finfo(np.float32).max):
        fail(name, f"slope must be finite in float32, got {slope}")
    elements(name, *x)
    return ActivationSpec(x, name, slope)


def reference_activation(s: ActivationSpec, x: Array) -> Array:
    """:func:`apply_activation`."""
    return np.asarray(apply_activation(s.name, x, s.slope))


def _native_activation(s: ActivationSpec, x: Array) -> Array:
    return native().activate(x, ACTIVATION_CODES[s.name], s.slope)


def _cuda_activation(s: ActivationSpec, x: Any) -> Any:
    y = cuda.empty(s.out, x.dtype)
    cuda.module().activate(x.code, ACTIVATION_CODES[s.name], s.slope, x.buffer, y.buffer, x.size)
    return y


def _lower_activation(steps: Any, s: ActivationSpec, inputs: Any, outputs: Any) -> None:
    count = math.prod(s.out)
    steps.plan.activation(count, ACTIVATION_CODES[s.name], s.slope, inputs[0].place, outputs[0].place)


_LOWER = Lower(_lower_activation, in_place=(0,))

# Operations per element, an exponential or a division counted as one.
_FLOPS = {"relu": 1, "relu6": 2, "leaky_relu": 2, "sigmoid": 4, "tanh": 5, "silu": 5, "hard_swish": 5}


def _cost_activation(s: ActivationSpec) -> Cost:
    n = float(np.prod(s.out, dtype=float))
    return Cost(_FLOPS[s.name] * n, 8 * n)


def reads_result(name: str, slope: float = 0.01) -> bool:
    """Whether the derivative of an activation follows from its result; else it takes its argument."""
    return name in ("relu", "relu6", "sigmoid", "tanh") or (name == "leaky_relu" and slope > 0)


def _make(name: str) -> Op:
    def infer(x: tuple[int, ...], slope: Any = 0.01) -> ActivationSpec:
        return infer_activation(x, name, slope)

    return Op(
        name,
        infer,
        reference_activation,
        _native_activation,
        _cost_activation,
        lower=_LOWER,
        settings=lambda s: {"slope": s.slope},
        cuda=_cuda_activation,
    )


_OPS = {name: _make(name) for name in ACTIVATION_CODES if name is not None}


def _call(name: str, x: Any, slope: Any = 0.01) -> Array:
    x = array(name, "x", x)
    infer = infer_activation.quick if type(slope) is float else infer_activation
    return _OPS[name](infer(x.shape, name, slope), x)


def relu(x: Any) -> Array:
    """max(x, 0); NaN stays NaN.

    Parameters
    ----------
    x : array_like, any shape
        float32 (native kernels) or float64 (NumPy reference), as for all activations here.

    Returns
    -------
    ndarray, shape of x

    Raises
    ------
    DTypeError, BackendError

    References
    ----------
    Nair and Hinton, "Rectified linear units improve restricted Boltzmann machines", 2010.
    """
    return _call("relu", x)


def relu6(x: Any) -> Array:
    """min(max(x, 0), 6); NaN stays NaN.

    Parameters, result and errors as for :func:`relu`.

    References
    ----------
    Krizhevsky, "Convolutional deep belief networks on CIFAR-10", 2010; Howard et al., "MobileNets", 2017.
    """
    return _call("relu6", x)


def leaky_relu(x: Any, *, slope: float = 0.01) -> Array:
    """x where x >= 0, else slope * x.

    Parameters
    ----------
    x : array_like, any shape
    slope : float
        Finite; any sign.

    Returns
    -------
    ndarray, shape of x

    Raises
    ------
    ShapeError, DTypeError, BackendError

    References
    ----------
    Maas et al., "Rectifier nonlinearities improve neural network acoustic models", 2013.
    """
    return _call("leaky_relu", x, slope)


def sigmoid(x: Any) -> Array:
    """1 / (1 + exp(-x)), without overflow; 0 at -Inf, 1 at +Inf.

    The relative error is at most 4e-7 against float64 where the result is a normal number.
    Parameters, result and errors as for :func:`relu`.
    """
    return _call("sigmoid", x)


def tanh(x: Any) -> Array:
    """Hyperbolic tangent; -1 at -Inf, 1 at +Inf.

    The relative error is at most 4e-7 against float64, near zero too.
    Parameters, result and errors as for :func:`relu`.
    """
    return _call("tanh", x)


def silu(x: Any) -> Array:
    """x / (1 + exp(-x)), also called swish; 0 at -Inf.

    The relative error is at most 4e-7 against float64 where the result is a normal number.
    Parameters, result and errors as for :func:`relu`.

    References
    ----------
    Elfwing et al., "Sigmoid-weighted linear units for neural network function approximation in
    reinforcement learning", 2017; Ramachandran et al., "Searching for activation functions", 2017.
    """
    return _call("silu", x)


def hard_swish(x: Any) -> Array:
    """x * min(max(x + 3, 0), 6) / 6; 0 at -Inf.

    Parameters, result and errors as for :func:`relu`.

    References
    ----------
    Howard et al., "Searching for MobileNetV3", 2019, section 5.2.
    """
    return _call("hard_swish", x)
