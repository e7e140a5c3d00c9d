"""How good a segmentation is: a matrix of counts, and what follows from it.

Matrices of several pictures add up, so that a data set is measured as if it were one large picture.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..losses.reduction import whole
from ..ops.registry import fail, integer, rank

Array = np.ndarray

__all__ = [
    "class_dice",
    "class_iou",
    "confusion_matrix",
    "foreground_dice",
    "mean_iou",
    "pixel_accuracy",
]


def confusion_matrix(prediction: Any, labels: Any, num_classes: int, *, ignore_index: int = -100) -> Array:
    """Count pixels by what they are and what they were taken for.

    Parameters
    ----------
    prediction, labels : array_like of whole numbers, of one shape
        Classes 0 .. num_classes-1.
    num_classes : int
    ignore_index : int
        Pixels with this label are not counted.

    Returns
    -------
    ndarray of int64, shape (num_classes, num_classes)
        Row: label; column: prediction.

    Raises
    ------
    ShapeError, DTypeError
    """
    op = "confusion_matrix"
    k = integer(op, "num_classes", num_classes, 1, 1 << 15)
    labels = whole(op, "labels", labels)
    prediction = whole(op, "prediction", prediction, labels.shape)
    used = labels != ignore_index
    labels, prediction = labels[used], prediction[used]
    for name, values in (("labels", labels), ("prediction", prediction)):
        wrong = (values < 0) | (values >= k)
        if wrong.any():
            fail(op, f"{name} must be in 0..{k - 1}, got {values[wrong][0]}")
    return np.bincount(labels * k + prediction, minlength=k * k).reshape(k, k)


def _counts(op: str, matrix: Any) -> tuple[Array, Array, Array]:
    """Pixels of each class that were found, that there are, and that were predicted."""
    matrix = np.asarray(matrix)
    rank(op, "matrix", matrix.shape, "labels,predictions")
    if matrix.shape[0] != matrix.shape[1]:
        fail(op, "matrix must have as many rows as columns", matrix=matrix.shape)
    return np.diagonal(matrix), matrix.sum(axis=1), matrix.sum(axis=0)


def _ratio(part: Any, total: Any) -> Any:
    """NaN for nothing out of nothing."""
    part, total = np.asarray(part, np.float64), np.asarray(total, np.float64)
    return np.divide(part, total, out=np.full(part.shape, np.nan), where=total > 0)


def pixel_accuracy(matrix: Any) -> float:
    """Share of pixels whose class is right; NaN of no pixels.

    Parameters
    ----------
    matrix : array_like, shape (K, K)
        Of :func:`confusion_matrix`, or a sum of several.

    Raises
    ------
    ShapeError
    """
    found, there, _ = _counts("pixel_accuracy", matrix)
    return float(_ratio(found.sum(), there.sum()))


def class_iou(matrix: Any) -> Array:
    """Intersection over union of each class, ``n[k,k] / (row k + column k - n[k,k])``.

    Parameters
    ----------
    matrix : array_like, shape (K, K)
        Of :func:`confusion_matrix`, or a sum of several.

    Returns
    -------
    ndarray of float64, shape (K,)
        NaN for classes that are neither there nor predicted.

    Raises
    ------
    ShapeError
    """
    found, there, predicted = _counts("class_iou", matrix)
    return _ratio(found, there + predicted - found)


def class_dice(matrix: Any) -> Array:
    """Dice's coefficient of each class, ``2 n[k,k] / (row k + column k)``, which is the F1 score of pixels.

    Parameters
    ----------
    matrix : array_like, shape (K, K)
        Of :func:`confusion_matrix`, or a sum of several.

    Returns
    -------
    ndarray of float64, shape (K,)
        NaN for classes that are neither there nor predicted.

    Raises
    ------
    ShapeError

    References
    ----------
    Dice, "Measures of the amount of ecologic association between species", 1945.
    """
    found, there, predicted = _counts("class_dice", matrix)
    return _ratio(2 * found, there + predicted)


def mean_iou(matrix: Any) -> float:
    """Mean of :func:`class_iou` over the classes that are there or predicted; NaN if none is."""
    values = class_iou(matrix)
    known = ~np.isnan(values)
    return float(values[known].mean()) if known.any() else float("nan")


def foreground_dice(outputs: Any, targets: Any) -> Array:
    """Dice's coefficient of everything that is not class 0, for each picture; a metric for training.

    Parameters
    ----------
    outputs : array_like, shape (N, H, W, K)
        Scores; where K is 1, positive ones are foreground.
    targets : array_like of whole numbers, shape (N, H, W)
        Classes; pixels with negative ones are not counted.

    Returns
    -------
    ndarray of float64, shape (N,)
        NaN for pictures without foreground in which none was found.

    Raises
    ------
    ShapeError, DTypeError
    """
    op = "foreground_dice"
    scores = np.asarray(outputs)
    rank(op, "outputs", scores.shape, "N,H,W,K")
    labels = whole(op, "targets", targets, scores.shape[:-1])
    found = scores[..., 0] > 0 if scores.shape[-1] == 1 else scores.argmax(axis=-1) > 0
    found, there = found & (labels >= 0), labels > 0
    both, one, other = (pixels.sum(axis=(1, 2)) for pixels in (found & there, found, there))
    return _ratio(2 * both, one + other)
