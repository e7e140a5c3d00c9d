"""Losses of segmentations beside cross-entropy and focal loss, which take pixels as they take pictures."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import ops
from ..ops.registry import fail, number
from ..tensor import beside
from .reduction import least, reduced, scores, whole

__all__ = ["dice"]


def dice(
    x: Any, labels: Any, *, smooth: float = 1.0, ignore_index: int = -100, reduction: str = "mean"
) -> Any:
    """One minus the overlap ``(2 sum p t + s) / (sum p + sum t + s)`` of every class in every picture.

    Parameters
    ----------
    x : Tensor or array_like, shape (N, ..., K)
        Scores: p is their softmax over the last axis, or their sigmoid where K is 1.
    labels : array_like of whole numbers, shape (N, ...)
        Classes 0 .. K-1 (0 and 1 where K is 1), or ``ignore_index``.
    smooth : float
        s, so that a class that is neither there nor expected costs nothing. Not negative.
    ignore_index : int
        Pixels with this label count nowhere.
    reduction : {"mean", "sum", "none"}

    Returns
    -------
    Tensor, a scalar, or (N, K) for "none"

    Raises
    ------
    ShapeError, DTypeError, BackendError

    References
    ----------
    Milletari, Navab and Ahmadi, "V-Net", 2016, section 3, with sums in place of sums of squares.
    """
    op = "dice"
    x, smooth = scores(op, "x", x), number(op, "smooth", smooth)
    if x.ndim < 2:
        fail(op, "x must have dimensions N,...,K", x=x.shape)
    if not 0 <= smooth < float("inf"):
        fail(op, f"smooth must be finite and not negative, got {smooth}")
    labels = whole(op, "labels", labels, x.shape[:-1])
    n, k = x.shape[0], x.shape[-1]
    used = labels != ignore_index
    wrong = used & ((labels < 0) | (labels >= max(k, 2)))
    if wrong.any():
        fail(op, f"labels must be in 0..{max(k, 2) - 1}, got {labels[wrong].ravel()[0]}")
    classes = np.arange(k) if k > 1 else np.array([1])
    target = (labels[..., None] == classes).reshape(n, -1, k)
    p = ops.softmax(x) if k > 1 else ops.sigmoid(x)
    p = ops.mul(p, beside(used[..., None], x)).reshape(n, -1, k)
    both = ops.reduce_sum(ops.mul(p, beside(target, x)), 1)
    either = ops.add(ops.reduce_sum(p, 1), beside(target.sum(1, dtype=np.float64), x))
    if smooth == 0:  # 0 / 0 is a class that is rightly absent
        either = ops.maximum(either, least(x))
    return reduced(op, 1.0 - (both * 2.0 + smooth) / (either + smooth), reduction)
