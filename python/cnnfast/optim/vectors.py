"""Sums over whole arrays and updates of them, the same bits for any number of threads."""

from __future__ import annotations

from .optimizer import Array, native_for

__all__ = ["add_scaled", "approach", "dot"]


def dot(a: Array, b: Array) -> float:
    """Sum of products; blocks of 4096 in the arrays' precision, their sums in float64."""
    module = native_for(a)
    if module:
        return float(module.optim_dot(a, b))
    a, b = a.ravel(), b.ravel()
    total = 0.0
    for i in range(0, len(a), 4096):
        total += float((a[i : i + 4096] * b[i : i + 4096]).sum())
    return total


def add_scaled(y: Array, x: Array, factor: float) -> None:
    """y += factor x, in place."""
    module = native_for(y)
    if module:
        module.optim_add_scaled(y, x, factor)
    else:
        y += factor * x


def approach(y: Array, x: Array, share: float) -> None:
    """y += share (x - y), in place."""
    module = native_for(y)
    if module:
        module.optim_approach(y, x, share)
    else:
        y += share * (x - y)
