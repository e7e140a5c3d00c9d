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
    """The NumPy definition of an activation by name; ``slope`` is that of leaky ReLU."""
    if name == "relu":
        return np.maximum(x, 0)
    if name == "relu6":
        return np.minimum(np.maximum(x, 0), 6)
    return x
