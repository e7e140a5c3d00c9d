"""Losses of classifiers: cross-entropy, binary cross-entropy and focal loss."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import ops
from ..cuda.array import DeviceArray
from ..errors import DTypeError
from ..ops.registry import fail, number
from ..tensor import Tensor, beside
from .reduction import alike, constant, least, numbers, reduced, scores, whole

Array = np.ndarray

__all__ = ["binary_cross_entropy", "cross_entropy", "focal", "sigmoid_focal"]


def cross_entropy(
    x: Any,
    labels: Any,
    *,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    weight: Any = None,
    reduction: str = "mean",
) -> Any:
    """Cross-entropy of the softmax over the last axis with labels, or with probabilities of classes.

    ``-sum_k t[k] log softmax(x)[k]`` with ``t[k] = (1 - e) q[k] + e / K``, where q is 1 at the label and 0
    elsewhere, or the probabilities given.

    Parameters
    ----------
    x : Tensor or array_like, shape (..., K)
        Scores before the softmax: (N, K) of a classifier, (N, H, W, K) of a segmentation.
    labels : array_like of whole numbers, shape (...), or of floating-point numbers, shape of x
        0 .. K-1, or ``ignore_index``; or probabilities, as of mixup, which may want a gradient themselves.
    label_smoothing : float
        e, in 0 .. 1.
    ignore_index : int
        What has this label counts for nothing, in the mean either. Negative with probabilities, which have
        no labels.
    weight : array_like, shape (K,), optional
        Of each label; the mean is divided by the sum of the weights met. With probabilities the terms of
        the sum over k are weighted, and the mean is divided by the number of sums, as in torch.
    reduction : {"mean", "sum", "none"}

    Returns
    -------
    Tensor, a scalar, or the shape of x without its last axis for "none"

    Raises
    ------
    ShapeError, DTypeError, BackendError

    References
    ----------
    Bridle, "Probabilistic interpretation of feedforward classification network outputs", 1990; Szegedy et
    al., "Rethinking the Inception architecture", 2016, section 7 (label smoothing).
    """
    op = "cross_entropy"
    x = scores(op, "x", x)
    typed = isinstance(labels, (Tensor, DeviceArray, np.ndarray))
    kind = labels.dtype if typed else np.asarray(labels).dtype
    if kind.kind == "f":
        if ignore_index >= 0:
            fail(op, f"ignore_index must be negative with probabilities, got {ignore_index}")
        return _of_probabilities(op, x, labels, label_smoothing, weight, reduction)
    labels = whole(op, "labels", labels)
    loss = ops.softmax_cross_entropy(x, labels, label_smoothing=label_smoothing, ignore_index=ignore_index)[0]
    used = labels != ignore_index
    if weight is None:
        return reduced(op, loss, reduction, int(np.count_nonzero(used)))
    weight = _weights(op, weight, x)
    if label_smoothing:
        fail(op, "weight and label_smoothing cannot be combined")
    each = np.where(used, weight[np.where(used, labels, 0)], 0)
    return reduced(op, ops.mul(loss, beside(each, x)), reduction, float(each.sum(dtype=np.float64)))


def _weights(op: str, weight: Any, x: Tensor) -> Array:
    """One number for each class."""
    array = numbers(weight, x)
    if array.shape != x.shape[-1:]:
        fail(op, f"weight must have shape ({x.shape[-1]},)", weight=array.shape)
    return array


def _of_probabilities(
    op: str, x: Tensor, labels: Any, label_smoothing: Any, weight: Any, reduction: str
) -> Tensor:
    """Cross-entropy with a vector of probabilities in place of each label."""
    smoothing = number(op, "label_smoothing", label_smoothing)
    if not 0 <= smoothing <= 1:
        fail(op, f"label_smoothing must be in 0..1, got {smoothing}")
    if x.ndim == 0 or x.shape[-1] < 1:
        fail(op, "x must have dimensions ...,classes with at least one class", x=x.shape)
    t: Any = constant(op, "labels", labels, x)
    if t.shape != x.shape:
        raise DTypeError(
            f"{op}: labels are {t.dtype}; expected whole numbers, or probabilities of the shape of x "
            f"(labels {t.shape}, x {x.shape})"
        )
    if smoothing:
        t = ops.add(ops.mul(t, 1 - smoothing), smoothing / x.shape[-1])
    if weight is not None:
        t = ops.mul(t, beside(_weights(op, weight, x), x))
    return reduced(op, -ops.reduce_sum(ops.mul(t, ops.log_softmax(x)), -1), reduction)


def binary_cross_entropy(x: Any, target: Any, *, pos_weight: float = 1.0, reduction: str = "mean") -> Any:
    """Cross-entropy of the sigmoid of each score with its target (logistic loss).

    Parameters
    ----------
    x : Tensor or array_like, any shape
        Scores before the sigmoid.
    target : array_like, shape of x
        Probabilities in 0 .. 1.
    pos_weight : float
        Weight of positive targets.
    reduction : {"mean", "sum", "none"}

    Raises
    ------
    ShapeError, DTypeError, BackendError

    References
    ----------
    Bishop, "Pattern recognition and machine learning", 2006, equation 4.90.
    """
    op = "binary_cross_entropy"
    x = scores(op, "x", x)
    loss = ops.sigmoid_cross_entropy(x, constant(op, "target", target, x), pos_weight=pos_weight)
    return reduced(op, loss, reduction)


def _exponent(op: str, gamma: Any) -> float:
    gamma = number(op, "gamma", gamma)
    if not 0 <= gamma < float("inf"):
        fail(op, f"gamma must be finite and not negative, got {gamma}")
    return gamma


def focal(
    x: Any, labels: Any, *, gamma: float = 2.0, ignore_index: int = -100, reduction: str = "mean"
) -> Any:
    """Cross-entropy over the last axis, where what is recognised already counts less.

    ``-(1 - p)**gamma log p`` with p the softmax at the label.

    Parameters
    ----------
    x : Tensor or array_like, shape (..., K)
    labels : array_like of whole numbers, shape (...)
    gamma : float
        0 is the cross-entropy.
    ignore_index : int
    reduction : {"mean", "sum", "none"}

    Raises
    ------
    ShapeError, DTypeError, BackendError

    References
    ----------
    Lin et al., "Focal loss for dense object detection", 2017, equation 4.
    """
    op = "focal"
    x, labels, gamma = scores(op, "x", x), whole(op, "labels", labels), _exponent(op, gamma)
    loss = ops.softmax_cross_entropy(x, labels, ignore_index=ignore_index)[0]
    if gamma:
        # 1 - p = 1 - exp(-loss); held above 0, where the power has no slope below gamma = 1.
        rest = ops.maximum(1.0 - ops.exp(-loss), least(x))
        loss = ops.pow(rest, gamma) * loss
    return reduced(op, loss, reduction, int(np.count_nonzero(labels != ignore_index)))


def sigmoid_focal(
    x: Any, target: Any, *, alpha: float = 0.25, gamma: float = 2.0, reduction: str = "mean"
) -> Any:
    """Binary cross-entropy, where what is recognised already counts less.

    ``-a (1 - p)**gamma log p`` for positive targets with p the sigmoid of the score and ``a = alpha``; for
    negative ones ``1 - p`` in place of p and ``1 - alpha`` in place of alpha.

    Parameters
    ----------
    x : Tensor or array_like, any shape
    target : array_like, shape of x
        0 or 1.
    alpha : float
        Weight of positive targets, in 0 .. 1; a negative number is no weight at all.
    gamma : float
    reduction : {"mean", "sum", "none"}

    Raises
    ------
    ShapeError, DTypeError, BackendError

    References
    ----------
    Lin et al., "Focal loss for dense object detection", 2017, equation 5.
    """
    op = "sigmoid_focal"
    x, gamma, alpha = scores(op, "x", x), _exponent(op, gamma), number(op, "alpha", alpha)
    t = alike(op, "target", target, x).data
    loss = ops.sigmoid_cross_entropy(x, t)
    if gamma:
        wrong = ops.sigmoid(ops.mul(x, 1 - 2 * t))  # 1 - p of what is right
        loss = ops.pow(ops.maximum(wrong, least(x)), gamma) * loss
    if alpha >= 0:
        loss = ops.mul(loss, (alpha * t + (1 - alpha) * (1 - t)).astype(x.dtype))
    return reduced(op, loss, reduction)
