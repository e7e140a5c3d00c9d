"""Activations as modules, and dropout."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import ops
from ..random import generator
from ..tensor import beside
from .module import Module

__all__ = [
    "Dropout",
    "HardSwish",
    "Identity",
    "LeakyReLU",
    "ReLU",
    "ReLU6",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Tanh",
]


def drop(x: Any, p: float, shape: tuple[int, ...]) -> Any:
    """x times random numbers of this shape: 0 with probability p, else 1 / (1 - p)."""
    kept = generator().random(shape, np.float32) >= p
    return ops.mul(x, beside(kept * (1 / (1 - p)), x))


class Identity(Module):
    """Gives what it is given."""

    def forward(self, x: Any) -> Any:
        return x


class ReLU(Module):
    """max(x, 0)."""

    def forward(self, x: Any) -> Any:
        return ops.relu(x)


class ReLU6(Module):
    """min(max(x, 0), 6)."""

    def forward(self, x: Any) -> Any:
        return ops.relu6(x)


class LeakyReLU(Module):
    """x, or slope x where x is negative."""

    def __init__(self, slope: float = 0.01) -> None:
        self.slope = float(slope)

    def forward(self, x: Any) -> Any:
        return ops.leaky_relu(x, slope=self.slope)

    def extra_repr(self) -> str:
        return f"slope {self.slope:g}"


class Sigmoid(Module):
    """1 / (1 + exp(-x))."""

    def forward(self, x: Any) -> Any:
        return ops.sigmoid(x)


class Tanh(Module):
    """Hyperbolic tangent."""

    def forward(self, x: Any) -> Any:
        return ops.tanh(x)


class SiLU(Module):
    """x sigmoid(x)."""

    def forward(self, x: Any) -> Any:
        return ops.silu(x)


class HardSwish(Module):
    """x min(max(x + 3, 0), 6) / 6."""

    def forward(self, x: Any) -> Any:
        return ops.hard_swish(x)


class Softmax(Module):
    """exp(x) / sum exp(x) along an axis."""

    def __init__(self, axis: int = -1) -> None:
        self.axis = axis

    def forward(self, x: Any) -> Any:
        return ops.softmax(x, axis=self.axis)


class Dropout(Module):
    """Drops values at random while training; in use it gives what it is given.

    Each value is 0 with probability p, else divided by 1 - p, so that its mean stays what it was. The random
    numbers are those of :func:`cnnfast.manual_seed`.

    References
    ----------
    Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", 2014.
    """

    def __init__(self, p: float = 0.5) -> None:
        if not 0 <= p < 1:
            raise ValueError(f"Dropout: p must be at least 0 and below 1, got {p}")
        self.p = p

    def forward(self, x: Any) -> Any:
        if not (self.training and self.p):
            return x
        return drop(x, self.p, x.shape)

    def extra_repr(self) -> str:
        return f"p {self.p:g}"
