"""Losses of numbers: squared, absolute and in between."""

from __future__ import annotations

from typing import Any

from .. import ops
from ..ops.registry import fail, number
from .reduction import alike, reduced, scores

__all__ = ["l1", "mse", "smooth_l1"]


def mse(x: Any, target: Any, *, reduction: str = "mean") -> Any:
    """Squared difference (x - target)**2.

    Parameters
    ----------
    x : Tensor or array_like, any shape
    target : array_like, shape of x
    reduction : {"mean", "sum", "none"}

    Raises
    ------
    ShapeError, DTypeError, BackendError
    """
    x = scores("mse", "x", x)
    d = x - alike("mse", "target", target, x)
    return reduced("mse", d * d, reduction)


def l1(x: Any, target: Any, *, reduction: str = "mean") -> Any:
    """Absolute difference ``|x - target|``; its gradient where they are equal is 0. Parameters as for
    :func:`mse`."""
    x = scores("l1", "x", x)
    return reduced("l1", ops.abs(x - alike("l1", "target", target, x)), reduction)


def smooth_l1(x: Any, target: Any, *, beta: float = 1.0, reduction: str = "mean") -> Any:
    """Squared near 0, absolute beyond: ``d**2 / (2 beta)`` where ``|d| < beta``, else ``|d| - beta / 2``.

    Parameters
    ----------
    x : Tensor or array_like, any shape
    target : array_like, shape of x
    beta : float
        Positive. In terms of the paper's sigma, ``1 / sigma**2``.
    reduction : {"mean", "sum", "none"}

    Raises
    ------
    ShapeError, DTypeError, BackendError

    References
    ----------
    Girshick, "Fast R-CNN", 2015, equation 3.
    """
    op = "smooth_l1"
    x, beta = scores(op, "x", x), number(op, "beta", beta)
    if not 0 < beta < float("inf"):
        fail(op, f"beta must be finite and positive, got {beta}")
    d = ops.abs(x - alike(op, "target", target, x))
    near = ops.minimum(d, beta)
    # d**2 / (2 beta) below beta; beyond, near is beta and what is left counts in full.
    return reduced(op, near * near * (0.5 / beta) + (d - near), reduction)
