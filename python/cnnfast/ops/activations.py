"""Activations, element by element."""

from __future__ import annotations

import numpy as np

from .registry import Array

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
            y = np.where(x < 0, x * e, x) / (1 + e)
            low = x < -80
            if low.any():
                # exp(x) alone becomes subnormal before x exp(x) does: two factors.
                t = np.maximum(x[low], -1000)
                y[low] = t * np.exp(t / 2) * np.exp(t / 2)
            return y
        if name == "hard_swish":
            bounded = np.maximum(x, -3)
            return bounded * (np.minimum(bounded + 3, 6) / 6)
    raise ValueError(f"apply_activation: unknown activation {name!r}")
