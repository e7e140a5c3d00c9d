"""How often pairs are taken for the same: ROC, equal error rate, and thresholds."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import DTypeError
from ..ops.registry import choice, fail
from .mining import pairwise

Array = np.ndarray

__all__ = ["MEASURES", "ROC", "accepts", "pairs_of", "roc"]

#: How encodings are compared; the names say which way is nearer.
MEASURES = ("squared_distance", "cosine_similarity")


def accepts(value: Any, threshold: float, measure: str) -> Any:
    """Whether values mean "the same".

    A squared distance d does if ``d <= threshold``, a cosine similarity s if ``s >= threshold``.
    """
    choice("accepts", "measure", measure, MEASURES)
    value = np.asarray(value)
    return value <= threshold if measure == "squared_distance" else value >= threshold


@dataclass(frozen=True)
class ROC:
    """What each threshold does to pairs whose truth is known.

    Attributes
    ----------
    measure : {"squared_distance", "cosine_similarity"}
    thresholds : ndarray of float64, shape (T,)
        From the strictest, which accepts nothing (-inf for a distance, inf for a similarity), to one that
        accepts everything: the values that occur.
    false_accept, true_accept : ndarray of float64, shape (T,)
        Parts of the pairs of different things, and of the same, that are accepted.
    same, different : int
        Numbers of pairs: no rate below 1 / ``different`` can be seen.

    References
    ----------
    Fawcett, "An introduction to ROC analysis", 2006.
    """

    measure: str
    thresholds: Array
    false_accept: Array
    true_accept: Array
    same: int
    different: int

    @property
    def auc(self) -> float:
        """Area under the curve: the probability that a pair of the same is nearer than one of others."""
        x, y = self.false_accept, self.true_accept
        return float(((x[1:] - x[:-1]) * (y[1:] + y[:-1]) / 2).sum())

    @property
    def eer(self) -> float:
        """Equal error rate: where both kinds of error are as frequent, on lines between the points."""
        gap = self.false_accept - (1 - self.true_accept)  # from -1 to 1, never falling
        k = int(np.argmax(gap >= 0))
        part = -gap[k - 1] / (gap[k] - gap[k - 1])
        return float(self.false_accept[k - 1] + part * (self.false_accept[k] - self.false_accept[k - 1]))

    def threshold_at(self, false_accept_rate: float) -> float:
        """The laxest threshold that falsely accepts no greater part than that.

        It is a value that occurs, or the strictest one, which accepts nothing.

        Raises
        ------
        ShapeError
            If the rate is not within 0..1.
        """
        return float(self.thresholds[self._place(false_accept_rate)])

    def true_accept_at(self, false_accept_rate: float) -> float:
        """Part of the pairs of the same that :meth:`threshold_at` accepts."""
        return float(self.true_accept[self._place(false_accept_rate)])

    def _place(self, rate: float) -> int:
        if not isinstance(rate, (int, float)) or not 0 <= rate <= 1:
            fail("ROC", f"a false-accept rate must be within 0..1, got {rate!r}")
        return int(np.flatnonzero(self.false_accept <= rate)[-1])

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw the curve, false-accept rates by their logarithm; needs matplotlib."""
        from ..train.history import figure
        from ..weights.atomic import replace_file

        drawing = figure()(figsize=(5, 4), layout="constrained")
        axes = drawing.subplots()
        axes.step(self.false_accept, self.true_accept, where="post")
        axes.set_xscale("symlog", linthresh=1 / self.different, linscale=0.3)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("false accepts")
        axes.set_ylabel("true accepts")
        axes.set_title(f"equal error rate {100 * self.eer:.2f} %")
        axes.grid(alpha=0.3)
        name = os.fspath(path)
        with replace_file(name) as file:
            drawing.savefig(file, format=os.path.splitext(name)[1][1:] or "png", dpi=110)


def roc(values: Any, same: Any, *, measure: str = "squared_distance") -> ROC:
    """The receiver operating characteristic of a comparison.

    Parameters
    ----------
    values : array_like of float, shape (N,)
        Distances or similarities of pairs.
    same : array_like of bool, shape (N,)
        Whether a pair is of one thing; there must be pairs of both kinds.
    measure : {"squared_distance", "cosine_similarity"}

    Returns
    -------
    ROC

    Raises
    ------
    ShapeError, DTypeError
    """
    op = "roc"
    choice(op, "measure", measure, MEASURES)
    v, y = np.asarray(values, np.float64), np.asarray(same)
    if y.dtype != np.bool_:
        raise DTypeError(f"{op}: same is {y.dtype}; expected bool")
    if v.ndim != 1 or v.shape != y.shape:
        fail(op, "values and same must have one shape (N,)", values=v.shape, same=y.shape)
    if not np.isfinite(v).all():
        fail(op, "values must be finite")
    positives = int(y.sum())
    if not 0 < positives < len(y):
        fail(op, f"pairs of the same and of others are needed, got {positives} and {len(y) - positives}")
    sign = 1.0 if measure == "squared_distance" else -1.0
    order = np.argsort(sign * v, kind="stable")
    nearest, y = v[order], y[order]
    last = np.append(nearest[1:] != nearest[:-1], True)  # equal values are accepted together
    true, false = np.cumsum(y)[last], np.cumsum(~y)[last]
    return ROC(
        measure,
        np.concatenate([[-sign * np.inf], nearest[last]]),
        np.concatenate([[0.0], false / (len(y) - positives)]),
        np.concatenate([[0.0], true / positives]),
        positives,
        len(y) - positives,
    )


def pairs_of(encodings: Any, labels: Any, *, measure: str = "squared_distance") -> tuple[Array, Array]:
    """All pairs of labelled encodings.

    Parameters
    ----------
    encodings : array_like of float, shape (N, D)
    labels : sequence of N labels
    measure : {"squared_distance", "cosine_similarity"}

    Returns
    -------
    values : ndarray of float64, shape (N (N - 1) / 2,)
    same : ndarray of bool
        Whether the labels are equal.

    Raises
    ------
    ShapeError, DTypeError
    """
    between = pairwise(encodings, encodings, measure)
    number = np.unique(np.asarray(labels), return_inverse=True)[1].reshape(-1)
    if number.shape != between.shape[:1]:
        fail(
            "pairs_of",
            "labels must be as many as encodings",
            encodings=np.shape(encodings),
            labels=number.shape,
        )
    i, j = np.triu_indices(len(between), 1)
    return between[i, j], number[i] == number[j]
