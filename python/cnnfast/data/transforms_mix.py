"""Cutout, which hides part of a picture, and mixup, which blends pictures of a batch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..errors import DTypeError, ShapeError
from .sample import Batch, Sample
from .transforms import Generator, Transform, is_number

Array = np.ndarray

__all__ = ["Cutout", "Mixup"]


@dataclass(frozen=True)
class Cutout(Transform):
    """Fill squares whose middles are anywhere in the picture, so that parts of them may lie beyond it.

    Parameters
    ----------
    size : int
        Side in pixels: 16 for CIFAR-10 in the paper, 8 for CIFAR-100.
    holes : int
    fill : float or sequence of C floats
        The paper's is 0 after normalisation, which is the mean of the data set.

    References
    ----------
    DeVries, Taylor, "Improved regularization of convolutional neural networks with cutout", 2017.
    """

    size: int
    holes: int = 1
    fill: Any = 0.0

    def __post_init__(self) -> None:
        self._size(self.size)
        self._check(type(self.size) is int, "one side", self.size)
        self._check(type(self.holes) is int and 1 <= self.holes <= 10_000, "holes from 1", self.holes)

    def __call__(self, sample: Sample, rng: Generator) -> Sample:
        h, w = sample.size
        picture = sample.picture.copy()
        for _ in range(self.holes):
            top, left = int(rng.integers(h)) - self.size // 2, int(rng.integers(w)) - self.size // 2
            picture[max(top, 0) : max(top + self.size, 0), max(left, 0) : max(left + self.size, 0)] = (
                self.fill
            )
        return sample.with_(picture=picture)


@dataclass(frozen=True)
class Mixup:
    """Blend each picture of a batch, and its label, with another one of the batch.

    x = m x_i + (1 - m) x_j and y = m y_i + (1 - m) y_j, where y are the labels as vectors of probabilities, j
    is a random order of the batch, and m is drawn from Beta(alpha, alpha), one for the batch as in the
    authors' code.

    Parameters
    ----------
    classes : int
        Length of the vectors.
    alpha : float
        .2 for ImageNet and 1 for CIFAR in the paper.

    Raises
    ------
    DTypeError, ShapeError
        When called with a batch without class numbers, or with boxes, masks or landmarks, which do not blend.

    References
    ----------
    Zhang, Cisse, Dauphin, Lopez-Paz, "mixup: beyond empirical risk minimization", 2018, equation 1.
    """

    classes: int
    alpha: float = 0.2

    def __post_init__(self) -> None:
        if type(self.classes) is not int or self.classes < 1:
            raise ValueError(f"Mixup: expected a number of classes, got {self.classes!r}")
        if not is_number(self.alpha) or self.alpha <= 0:
            raise ValueError(f"Mixup: expected alpha above 0, got {self.alpha!r}")

    def __call__(self, batch: Batch, rng: Generator) -> Batch:
        """A batch whose labels are float32 (N, classes).

        Parameters
        ----------
        batch : Batch
        rng : numpy.random.Generator
        """
        labels = batch.labels
        if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu" or labels.ndim != 1:
            got = None if labels is None else f"{np.asarray(labels).dtype} {np.shape(labels)}"
            raise DTypeError(f"Mixup: expected labels (N,) of whole numbers, got {got}")
        if batch.boxes is not None or batch.masks is not None or batch.landmarks is not None:
            raise ShapeError("Mixup: expected pictures and labels alone, got boxes, masks or landmarks")
        if labels.size and not 0 <= labels.min() <= labels.max() < self.classes:
            raise ShapeError(
                f"Mixup: expected labels below {self.classes}, got {labels.min()} to {labels.max()}"
            )
        share = np.float32(rng.beta(self.alpha, self.alpha))
        other = rng.permutation(len(labels))
        truth = np.zeros((len(labels), self.classes), np.float32)
        truth[np.arange(len(labels)), labels] = 1
        return replace(
            batch,
            pictures=share * batch.pictures + (1 - share) * batch.pictures[other],
            labels=share * truth + (1 - share) * truth[other],
        )
