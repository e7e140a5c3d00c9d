"""Losses of encodings: pictures of one thing near each other, of others apart."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import ops
from ..ops.registry import choice, fail, number
from ..tensor import Tensor, beside
from .classification import cross_entropy
from .reduction import alike, least, reduced, scores, whole

__all__ = [
    "contrastive",
    "cosine_similarity",
    "cosine_softmax",
    "squared_distance",
    "triplet",
    "triplet_margin",
]


def _pair(op: str, a: Any, b: Any, names: tuple[str, str] = ("a", "b")) -> tuple[Tensor, Tensor]:
    a = scores(op, names[0], a)
    if a.ndim < 1:
        fail(op, f"{names[0]} must have dimensions ...,D", **{names[0]: a.shape})
    return a, alike(op, names[1], b, a)


def squared_distance(a: Any, b: Any) -> Any:
    """Squared Euclidean distance ``sum (a - b)**2`` over the last axis.

    Parameters
    ----------
    a, b : Tensor or array_like, shape (..., D)

    Returns
    -------
    Tensor, shape (...)

    Raises
    ------
    ShapeError, DTypeError, BackendError

    References
    ----------
    Schroff, Kalenichenko and Philbin, "FaceNet", 2015, section 3.1.
    """
    a, b = _pair("squared_distance", a, b)
    d = a - b
    return ops.reduce_sum(d * d, -1)


def cosine_similarity(a: Any, b: Any, *, eps: float = 1e-12) -> Any:
    """Cosine of the angle between vectors along the last axis; 0 where one has no length.

    Parameters
    ----------
    a, b : Tensor or array_like, shape (..., D)
    eps : float
        Shorter vectors are divided by this.

    Returns
    -------
    Tensor, shape (...)

    Raises
    ------
    ShapeError, DTypeError, BackendError
    """
    a, b = _pair("cosine_similarity", a, b)
    return ops.reduce_sum(ops.l2_normalize(a, eps=eps) * ops.l2_normalize(b, eps=eps), -1)


def triplet(
    anchor: Any,
    positive: Any,
    negative: Any,
    *,
    margin: float = 0.2,
    distance: str = "squared",
    reduction: str = "sum",
) -> Any:
    """Triplet loss: ``max(d(A, P) - d(A, N) + margin, 0)``.

    Parameters
    ----------
    anchor, positive, negative : Tensor or array_like, shape (N, D)
        Encodings of one thing, of the same in another picture, and of another.
    margin : float
    distance : {"squared", "cosine"}
        Squared Euclidean distance, or the cosine form ``max(cos(A, N) - cos(A, P) + margin, 0)``.
    reduction : {"mean", "sum", "none"}
        The paper's is the sum.

    Raises
    ------
    ShapeError, DTypeError, BackendError

    See Also
    --------
    triplet_margin : PyTorch's form, whose distance is not squared and which takes the mean.

    References
    ----------
    Schroff, Kalenichenko and Philbin, "FaceNet", 2015, equation 2.
    """
    op = "triplet"
    choice(op, "distance", distance, ("squared", "cosine"))
    margin = number(op, "margin", margin)
    a, p = _pair(op, anchor, positive, ("anchor", "positive"))
    n = alike(op, "negative", negative, a)
    if distance == "squared":
        gap = squared_distance(a, p) - squared_distance(a, n)
    else:
        gap = cosine_similarity(a, n) - cosine_similarity(a, p)
    return reduced(op, ops.relu(gap + margin), reduction)


def triplet_margin(
    anchor: Any,
    positive: Any,
    negative: Any,
    *,
    margin: float = 1.0,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> Any:
    """``torch.nn.TripletMarginLoss(p=2)``: Euclidean distances of ``a - b + eps``, not squared; the mean.

    Parameters
    ----------
    anchor, positive, negative : Tensor or array_like, shape (N, D)
    margin, eps : float
    reduction : {"mean", "sum", "none"}

    Raises
    ------
    ShapeError, DTypeError, BackendError

    References
    ----------
    Balntas et al., "Learning local feature descriptors with triplets and shallow convolutional neural
    networks", 2016.
    """
    op = "triplet_margin"
    margin, eps = number(op, "margin", margin), number(op, "eps", eps)
    a, p = _pair(op, anchor, positive, ("anchor", "positive"))
    n = alike(op, "negative", negative, a)
    near, far = ops.reduce_l2(a - p + eps, -1), ops.reduce_l2(a - n + eps, -1)
    return reduced(op, ops.relu(near - far + margin), reduction)


def contrastive(a: Any, b: Any, same: Any, *, margin: float = 1.0, reduction: str = "mean") -> Any:
    """Contrastive loss: ``d**2 / 2`` for pairs of one thing, ``max(margin - d, 0)**2 / 2`` for others.

    Parameters
    ----------
    a, b : Tensor or array_like, shape (N, D)
        d is their Euclidean distance. At d = 0 a pair of different things has gradient 0.
    same : array_like of bool, shape (N,)
    margin : float
    reduction : {"mean", "sum", "none"}

    Raises
    ------
    ShapeError, DTypeError, BackendError

    References
    ----------
    Hadsell, Chopra and LeCun, "Dimensionality reduction by learning an invariant mapping", 2006, equation 4.
    """
    op = "contrastive"
    margin = number(op, "margin", margin)
    a, b = _pair(op, a, b)
    y = whole(op, "same", same, a.shape[:-1]) != 0
    square = squared_distance(a, b)
    # The root has no slope at 0, and that of the maximum is 0 below its bound.
    apart = ops.relu(margin - ops.sqrt(ops.maximum(square, least(a))))
    return reduced(
        op, (ops.mul(square, beside(y, a)) + ops.mul(apart * apart, beside(~y, a))) * 0.5, reduction
    )


def cosine_softmax(
    cosines: Any,
    labels: Any,
    *,
    scale: float = 30.0,
    margin: float = 0.35,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Any:
    """Cross-entropy over identities by angle, where the right one has to win by a margin.

    The cross-entropy of ``scale (cos_k - margin [k = label])``.

    Parameters
    ----------
    cosines : Tensor or array_like, shape (N, K)
        Of encodings with one direction for each of K identities, as :class:`cnnfast.face.CosineClassifier`
        gives them.
    labels : array_like of whole numbers, shape (N,)
    scale, margin : float
        A margin of 0 is the normalised softmax.
    label_smoothing : float
        As of :func:`cross_entropy`.
    reduction : {"mean", "sum", "none"}

    Raises
    ------
    ShapeError, DTypeError, BackendError

    References
    ----------
    Wang et al., "CosFace: large margin cosine loss for deep face recognition", 2018, equation 4.
    """
    op = "cosine_softmax"
    cosines = scores(op, "cosines", cosines)
    scale, margin = number(op, "scale", scale), number(op, "margin", margin)
    if cosines.ndim != 2:
        fail(op, "cosines must have dimensions N,K", cosines=cosines.shape)
    labels = whole(op, "labels", labels, cosines.shape[:1])
    asked = np.where(np.arange(cosines.shape[1]) == labels[:, None], margin, 0)
    logits = ops.mul(ops.sub(cosines, beside(asked, cosines)), scale)
    return cross_entropy(logits, labels, label_smoothing=label_smoothing, reduction=reduction)
