"""Heads for one object in a picture: where it is, or where its landmarks are."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .. import nn
from ..ops.activations import apply_activation
from ..ops.registry import array, fail
from ..ops.softmax import softmax

Array = np.ndarray

__all__ = ["LandmarkHead", "Landmarks", "LocalisationHead", "Localised"]


def _sigmoid(x: Array) -> Array:
    return np.asarray(apply_activation("sigmoid", x))


class Localised(NamedTuple):
    """What a localisation head says of N pictures.

    Attributes
    ----------
    there : ndarray, shape (N,)
        Whether there is something, 0 to 1.
    boxes : ndarray, shape (N, 4)
        x1, y1, x2, y2 as shares of the picture.
    classes : ndarray, shape (N, n)
        Probabilities; without columns for a head without classes.
    """

    there: Array
    boxes: Array
    classes: Array


class LocalisationHead(nn.Linear):
    """A dense layer that gives ``[pc, bx, by, bh, bw, c1 .. cn]``.

    Parameters
    ----------
    in_features : int
    classes : int
        n, without background: 3 classes give 8 values.

    See Also
    --------
    cnnfast.losses.localisation, cnnfast.losses.localisation_mixed
        The squared loss of all values, and the loss of each kind of value.
    """

    def __init__(self, in_features: int, classes: int) -> None:
        if classes < 0:
            fail("LocalisationHead", f"expected classes from 0, got {classes}")
        super().__init__(in_features, 5 + classes)

    @staticmethod
    def decode(y: Any, *, mixed: bool = True) -> Localised:
        """Values of the head as boxes.

        Parameters
        ----------
        y : array_like, shape (N, 5 + n)
        mixed : bool
            Whether the head was trained with the mixed loss, for which pc and the classes are scores before
            sigmoid and softmax; with the squared loss they are the values themselves.

        Returns
        -------
        Localised
        """
        y = array("LocalisationHead.decode", "y", np.asarray(y))
        if y.ndim != 2 or y.shape[1] < 5:
            fail("LocalisationHead.decode", "y must have dimensions N,5+n", y=y.shape)
        half = y[:, [4, 3]] / 2  # the order is height, width
        boxes = np.concatenate([y[:, 1:3] - half, y[:, 1:3] + half], 1)
        if mixed:
            return Localised(_sigmoid(y[:, 0]), boxes, softmax(y[:, 5:]) if y.shape[1] > 5 else y[:, 5:])
        return Localised(y[:, 0], boxes, y[:, 5:])

    @staticmethod
    def encode(boxes: Any, labels: Any, classes: int) -> Array:
        """Targets of pictures, as both losses take them.

        Parameters
        ----------
        boxes : array_like, shape (N, 4)
            x1, y1, x2, y2 as shares of the picture; anything where there is nothing.
        labels : array_like of int, shape (N,)
            The class, or -1 where there is nothing.
        classes : int

        Returns
        -------
        ndarray of float32, shape (N, 5 + classes)
        """
        op = "LocalisationHead.encode"
        boxes, labels = np.asarray(boxes, np.float64), np.asarray(labels)
        if boxes.ndim != 2 or boxes.shape[1] != 4 or labels.shape != boxes.shape[:1]:
            fail(op, "expected boxes (N,4) and labels (N,)", boxes=boxes.shape, labels=labels.shape)
        most = max(classes, 1) - 1
        if labels.size and (labels.dtype.kind not in "iu" or labels.min() < -1 or labels.max() > most):
            fail(op, f"labels must be whole numbers from -1 to {most}")
        there = labels >= 0
        y = np.zeros((len(boxes), 5 + classes), np.float32)
        y[there, 0] = 1
        y[there, 1:3] = (boxes[there, :2] + boxes[there, 2:]) / 2
        y[there, 3:5] = (boxes[there, 2:] - boxes[there, :2])[:, ::-1]
        if classes:
            y[there, 5 + labels[there]] = 1
        return y


class Landmarks(NamedTuple):
    """What a landmark head says of N pictures.

    Attributes
    ----------
    there : ndarray, shape (N,)
        Whether there is something, 0 to 1.
    points : ndarray, shape (N, n, 2)
        x, y as shares of the picture.
    """

    there: Array
    points: Array


class LandmarkHead(nn.Linear):
    """A dense layer that gives ``[pc, l1x, l1y .. lnx, lny]``.

    Parameters
    ----------
    in_features : int
    landmarks : int
        n: 64 landmarks give 129 values.

    See Also
    --------
    cnnfast.losses.landmarks
    """

    def __init__(self, in_features: int, landmarks: int) -> None:
        if landmarks < 1:
            fail("LandmarkHead", f"expected landmarks from 1, got {landmarks}")
        super().__init__(in_features, 1 + 2 * landmarks)

    @staticmethod
    def decode(y: Any) -> Landmarks:
        """Values (N, 1 + 2 n) of the head as points."""
        y = array("LandmarkHead.decode", "y", np.asarray(y))
        if y.ndim != 2 or y.shape[1] < 3 or y.shape[1] % 2 == 0:
            fail("LandmarkHead.decode", "y must have dimensions N,1+2n", y=y.shape)
        return Landmarks(_sigmoid(y[:, 0]), y[:, 1:].reshape(len(y), -1, 2))
