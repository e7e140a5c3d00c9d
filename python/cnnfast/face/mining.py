"""Mining of triplets: which of a batch to learn from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import losses, ops
from ..errors import DTypeError
from ..ops.registry import choice, fail, number
from ..tensor import on_host

Array = np.ndarray

__all__ = ["TripletLoss", "Triplets", "mine_triplets", "pairwise"]

_KINDS = ("all", "hard", "semi-hard")


@dataclass(frozen=True)
class Triplets:
    """Triplets of a batch by the places of their encodings.

    Attributes
    ----------
    anchor, positive, negative : ndarray of int64, shape (T,)
        Encodings of one thing, of the same in another picture, and of another. In the order of the anchor,
        then of the positive, then of the negative.
    valid : int
        Triplets that the labels of the batch allow.
    active : float
        Part of these whose loss is above 0; 0 where there are none. It falls as the encoder learns.
    """

    anchor: Array
    positive: Array
    negative: Array
    valid: int
    active: float

    def __len__(self) -> int:
        return len(self.anchor)

    def of(self, encodings: Any) -> tuple[Any, Any, Any]:
        """Anchors, positives and negatives (T, D) of encodings (N, D), through which gradients flow back."""
        a, p, n = (ops.gather(encodings, rows) for rows in (self.anchor, self.positive, self.negative))
        return a, p, n


def pairwise(a: Any, b: Any, measure: str = "squared_distance") -> Array:
    """Between all rows of one array and all rows of another.

    Parameters
    ----------
    a, b : array_like of float, shapes (N, D) and (M, D)
    measure : {"squared_distance", "cosine_similarity"}
        ``sum (a - b)**2``, the smaller the nearer, exactly 0 for equal rows; or the cosine of the angle, the
        greater the nearer, 0 where a row has no length.

    Returns
    -------
    ndarray of float64, shape (N, M)
        Swapping a and b transposes it, to the bit.

    Raises
    ------
    ShapeError, DTypeError
    """
    op = "pairwise"
    choice(op, "measure", measure, ("squared_distance", "cosine_similarity"))
    rows = [on_host(x) for x in (a, b)]
    for name, x in zip("ab", rows, strict=True):
        if x.dtype.kind not in "fiu":
            raise DTypeError(f"{op}: {name} is {x.dtype}; expected real numbers")
    x, y = (r.astype(np.float64) for r in rows)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        fail(op, "a and b must have dimensions N,D and M,D", a=x.shape, b=y.shape)
    if measure == "cosine_similarity":
        x, y = (r / np.maximum(np.sqrt((r * r).sum(1, keepdims=True)), 1e-12) for r in (x, y))
    result = np.empty((len(x), len(y)))
    for i, row in enumerate(x):  # the differences themselves: no cancellation, and symmetric
        result[i] = ((y - row) ** 2 if measure == "squared_distance" else y * row).sum(1)
    return result


def mine_triplets(
    encodings: Any,
    labels: Any,
    *,
    kind: str = "semi-hard",
    margin: float = 0.2,
    distance: str = "squared",
) -> Triplets:
    """Choose triplets (anchor, positive, negative) out of a batch.

    Distances d are squared Euclidean, or ``-cos`` for the cosine form of the loss: a triplet is active if
    ``d(A, P) - d(A, N) + margin > 0``.

    ============  ============================================================================
    kind          triplets
    ============  ============================================================================
    "all"         every one that the labels allow
    "hard"        for each anchor its furthest positive and its nearest negative
    "semi-hard"   for each anchor and positive the nearest of the negatives that are further away
                  than the positive, but not by the margin; pairs without one are left out
    ============  ============================================================================

    Among equal distances the first place wins.

    Parameters
    ----------
    encodings : Tensor or array_like of float, shape (N, D)
        Nothing flows back through the choice.
    labels : array_like of whole numbers, shape (N,)
    kind : {"all", "hard", "semi-hard"}
    margin : float
    distance : {"squared", "cosine"}
        As of :func:`cnnfast.losses.triplet`.

    Returns
    -------
    Triplets

    Raises
    ------
    ShapeError, DTypeError

    References
    ----------
    Schroff, Kalenichenko and Philbin, "FaceNet", 2015, section 3.2 (semi-hard); Hermans, Beyer and Leibe, "In
    defense of the triplet loss for person re-identification", 2017, equation 5 (hard).

    Examples
    --------
    >>> f = np.array([[0.0], [0.1], [0.3], [2.0]], np.float32)
    >>> found = mine_triplets(f, [0, 0, 1, 1], kind="hard")
    >>> list(zip(found.anchor.tolist(), found.positive.tolist(), found.negative.tolist()))
    [(0, 1, 2), (1, 0, 2), (2, 3, 1), (3, 2, 1)]
    """
    op = "mine_triplets"
    choice(op, "kind", kind, _KINDS)
    choice(op, "distance", distance, ("squared", "cosine"))
    margin = number(op, "margin", margin)
    y = on_host(labels)
    if y.dtype.kind not in "iub":
        raise DTypeError(f"{op}: labels is {y.dtype}; expected whole numbers")

    if distance == "squared":
        d = pairwise(encodings, encodings)
    else:
        d = -pairwise(encodings, encodings, "cosine_similarity")
    if y.shape != d.shape[:1]:
        fail(op, "labels must have shape (N,)", encodings=np.shape(encodings), labels=y.shape)

    chosen: list[Array] = []
    valid = active = 0
    for anchor in range(len(y)):
        positives = np.flatnonzero((y == y[anchor]) & (np.arange(len(y)) != anchor))
        negatives = np.flatnonzero(y != y[anchor])
        if not len(positives) or not len(negatives):
            continue
        near, far = d[anchor, positives][:, None], d[anchor, negatives][None]
        loss = near - far + margin  # (positives, negatives)
        valid += loss.size
        active += int((loss > 0).sum())
        if kind == "all":
            p, n = np.indices(loss.shape).reshape(2, -1)
        elif kind == "hard":
            p, n = near.argmax(0), far.argmin(1)
        else:
            between = (far > near) & (loss > 0)
            n = np.where(between, far, np.inf).argmin(1)
            p = np.flatnonzero(between.any(1))
            n = n[p]
        chosen.append(np.stack([np.full(len(p), anchor), positives[p], negatives[n]]))
    a, p, n = np.concatenate(chosen, 1).astype(np.int64) if chosen else np.zeros((3, 0), np.int64)
    return Triplets(a, p, n, valid, active / valid if valid else 0.0)


class TripletLoss:
    """A loss for :func:`cnnfast.train.fit`: the mean triplet loss of what is mined in each batch.

    Parameters
    ----------
    kind, margin, distance
        As of :func:`mine_triplets`.

    Attributes
    ----------
    active : float
        Part of the last batch's triplets that were active; see :class:`Triplets`.

    Notes
    -----
    A batch in which nothing is mined has a loss of 0 and gradients of 0. Batches need several pictures of
    each label. Learning from the hardest from the start may put all encodings in one place, where the loss
    is the margin.

    References
    ----------
    Schroff, Kalenichenko and Philbin, "FaceNet", 2015.
    """

    def __init__(self, kind: str = "semi-hard", *, margin: float = 0.2, distance: str = "squared") -> None:
        self.kind = choice("TripletLoss", "kind", kind, _KINDS)
        self.margin, self.distance, self.active = margin, distance, 0.0

    def __call__(self, encodings: Any, labels: Any) -> Any:
        """From encodings (N, D) and labels (N,) to a number."""
        found = mine_triplets(encodings, labels, kind=self.kind, margin=self.margin, distance=self.distance)
        self.active = found.active
        if not len(found):
            return ops.mul(ops.reduce_sum(encodings), 0.0)
        return losses.triplet(
            *found.of(encodings), margin=self.margin, distance=self.distance, reduction="mean"
        )
