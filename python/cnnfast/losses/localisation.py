"""Losses of networks that say whether and where one thing is in a picture."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import ops
from ..ops.registry import fail
from ..tensor import Tensor, beside
from .reduction import looked_into, reduced, scores

__all__ = ["landmarks", "localisation", "localisation_mixed"]


def _target(op: str, y: Any, x: Tensor, least: int) -> tuple[Any, Any]:
    """The target, and whether there is anything, shape (N, 1)."""
    if x.ndim != 2 or x.shape[1] < least:
        fail(op, f"x must have dimensions N,values with at least {least} values", x=x.shape)
    t = looked_into(op, "target", y, x)
    there = t[:, :1]
    if not np.isin(there, (0, 1)).all():
        fail(op, "the first value of every target must be 0 or 1")
    return t, there


def localisation(x: Any, target: Any, *, reduction: str = "mean") -> Any:
    """Squared loss of ``[pc, bx, by, bh, bw, c1 .. cn]``.

    ``sum (x - y)**2`` over all values where the target's pc is 1, ``(x1 - y1)**2`` alone where it is 0.

    Parameters
    ----------
    x : Tensor or array_like, shape (N, 5 + n)
        Whether there is something, its centre, height and width, and its class.
    target : array_like, shape of x
        Whatever follows a pc of 0 counts for nothing (NaN included).
    reduction : {"mean", "sum", "none"}
        Over pictures.

    Raises
    ------
    ShapeError, DTypeError, BackendError

    See Also
    --------
    localisation_mixed : Each part with the loss that suits it.
    """
    op = "localisation"
    x = scores(op, "x", x)
    t, there = _target(op, target, x, 5)
    counts = np.repeat(there, x.shape[1], 1)
    counts[:, 0] = 1
    d = ops.mul(x - beside(np.where(counts == 1, t, 0), x), beside(counts, x))
    return reduced(op, ops.reduce_sum(d * d, 1), reduction)


def localisation_mixed(x: Any, target: Any, *, reduction: str = "mean") -> Any:
    """Each part of ``[pc, bx, by, bh, bw, c1 .. cn]`` with its own loss: logistic, squared, and log loss.

    Parameters
    ----------
    x : Tensor or array_like, shape (N, 5 + n)
        Score of pc before the sigmoid, the box, scores of the classes before the softmax.
    target : array_like, shape of x
        Classes one-hot; whatever follows a pc of 0 counts for nothing.
    reduction : {"mean", "sum", "none"}
        Over pictures.

    Raises
    ------
    ShapeError, DTypeError, BackendError
    """
    op = "localisation_mixed"
    x = scores(op, "x", x)
    t, there = _target(op, target, x, 5)
    t = np.where(there == 1, t, 0)
    there, found = there[:, 0], beside(there[:, 0], x)
    loss = ops.sigmoid_cross_entropy(x[:, 0], found)
    d = x[:, 1:5] - beside(t[:, 1:5], x)
    loss = loss + ops.mul(ops.reduce_sum(d * d, 1), found)
    if x.shape[1] > 5:
        one_hot = t[:, 5:]
        if not (np.isin(one_hot, (0, 1)).all() and np.array_equal(one_hot.sum(1), there)):
            fail(op, "the classes of every target must be one-hot")
        loss = loss + ops.mul(ops.softmax_cross_entropy(x[:, 5:], one_hot.argmax(1))[0], found)
    return reduced(op, loss, reduction)


def landmarks(x: Any, target: Any, *, reduction: str = "mean") -> Any:
    """Logistic loss of pc and squared loss of the points of ``[pc, l1x, l1y .. lnx, lny]``.

    Parameters
    ----------
    x : Tensor or array_like, shape (N, 1 + 2 n)
        Score of pc before the sigmoid, and the points.
    target : array_like, shape of x
        Whatever follows a pc of 0 counts for nothing.
    reduction : {"mean", "sum", "none"}
        Over pictures.

    Raises
    ------
    ShapeError, DTypeError, BackendError
    """
    op = "landmarks"
    x = scores(op, "x", x)
    t, there = _target(op, target, x, 3)
    if x.shape[1] % 2 == 0:
        fail(op, "x must have 1 + 2 n values", x=x.shape)
    found = beside(there[:, 0], x)
    d = x[:, 1:] - beside(np.where(there == 1, t, 0)[:, 1:], x)
    loss = ops.sigmoid_cross_entropy(x[:, 0], found) + ops.mul(ops.reduce_sum(d * d, 1), found)
    return reduced(op, loss, reduction)
