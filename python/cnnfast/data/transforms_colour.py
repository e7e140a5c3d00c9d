"""Colours: shifts, jitter, noise along the principal components, normalisation. Nothing moves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ShapeError
from .sample import Sample
from .transforms import Generator, Transform

Array = np.ndarray

__all__ = ["ColourJitter", "ColourShift", "Normalize", "PCAColour"]

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


def _rgb(transform: Transform, sample: Sample) -> Array:
    if sample.picture.shape[2] != 3:
        raise ShapeError(
            f"{type(transform).__name__}: expected a picture (H,W,3), got {sample.picture.shape}"
        )
    return sample.picture


@dataclass(frozen=True)
class ColourShift(Transform):
    """Add a random number to each channel, and hold values within 0..255.

    Parameters
    ----------
    amount : float or sequence of C floats
        Most that is added or taken away, for values in 0..255.
    """

    amount: float | Sequence[float] = 20.0

    def __post_init__(self) -> None:
        amounts = np.atleast_1d(np.asarray(self.amount, np.float64))
        self._check(bool((amounts >= 0).all() and np.isfinite(amounts).all()), "amounts from 0", self.amount)

    def __call__(self, sample: Sample, rng: Generator) -> Sample:
        channels = sample.picture.shape[2]
        most = np.broadcast_to(np.asarray(self.amount, np.float64), (channels,))
        shift = (rng.uniform(-1, 1, channels) * most).astype(np.float32)
        return sample.with_(picture=np.clip(sample.picture + shift, 0, 255))


@dataclass(frozen=True)
class ColourJitter(Transform):
    """Change brightness, contrast, saturation and hue, in random order; values stay within 0..255.

    Parameters
    ----------
    brightness, contrast, saturation : float
        f means a factor between max(0, 1 - f) and 1 + f: of the values; of their distances from the mean
        luma of the picture; of their distances from each pixel's luma.
    hue : float
        Most that the hue is turned by, up to .5; 1 is all the way round.

    References
    ----------
    Howard, "Some improvements on deep convolutional neural network based image classification", 2013.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation", "hue"):
            self._number(name, getattr(self, name), 0, 0.5 if name == "hue" else math.inf)

    def __call__(self, sample: Sample, rng: Generator) -> Sample:
        picture = _rgb(self, sample)
        # All are drawn, so that what one setting gives does not depend on the others.
        order = rng.permutation(4)
        factors = [
            rng.uniform(max(0.0, 1 - most), 1 + most)
            for most in (self.brightness, self.contrast, self.saturation)
        ]
        turn = rng.uniform(-self.hue, self.hue)
        for kind in order:
            if kind == 3:
                picture = _turn_hue(picture, turn) if self.hue else picture
            elif (self.brightness, self.contrast, self.saturation)[kind]:
                if kind == 0:
                    centre: Any = np.float32(0)
                elif kind == 1:
                    centre = (picture @ _LUMA).mean(dtype=np.float64).astype(np.float32)
                else:
                    centre = (picture @ _LUMA)[..., None]
                picture = np.clip(centre + np.float32(factors[kind]) * (picture - centre), 0, 255)
        return sample.with_(picture=picture)


def _turn_hue(rgb: Array, turn: float) -> Array:
    """Hue, in sixths of the circle, moved on; value and saturation stay."""
    value, least = rgb.max(2), rgb.min(2)
    chroma = value - least
    r, g, b = np.moveaxis(rgb, 2, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        hue = np.where(
            value == r, (g - b) / chroma, np.where(value == g, (b - r) / chroma + 2, (r - g) / chroma + 4)
        )
    hue = np.where(chroma > 0, hue, 0) + np.float32(6 * turn)
    # A channel is at most the value, and less by the chroma as its own hue (0, 2, 4) is further away.
    parts = []
    for own in (5, 3, 1):
        k = (own + hue) % 6
        parts.append(value - chroma * np.clip(np.minimum(k, 4 - k), 0, 1))
    return np.stack(parts, 2).astype(np.float32)


#: Of pictures of ImageNet in 0..1, as torch's first training recipes published them.
_IMAGENET_VALUES = (0.2175, 0.0188, 0.0045)
_IMAGENET_VECTORS = (
    (-0.5675, 0.7192, 0.4009),
    (-0.5808, -0.0045, -0.8140),
    (-0.5836, -0.6948, 0.4203),
)


@dataclass(frozen=True)
class PCAColour(Transform):
    """Add multiples of the principal components of the colours, one draw for the whole picture.

    Every pixel gains [p1 p2 p3] (a1 l1, a2 l2, a3 l3)', where p and l are eigenvectors and eigenvalues of the
    covariance of RGB values, and a is drawn from a normal distribution.

    Parameters
    ----------
    std : float
        Standard deviation of a; .1 in the paper.
    values : three floats
        Eigenvalues, of values in 0..1; those of ImageNet.
    vectors : three rows of three floats
        Eigenvectors in the columns: ``vectors[channel][component]``.

    Notes
    -----
    Values are not held within 0..255, so that the noise lies on the components exactly.

    References
    ----------
    Krizhevsky, Sutskever, Hinton, "ImageNet classification with deep convolutional neural networks", 2012,
    section 4.1.
    """

    std: float = 0.1
    values: Sequence[float] = _IMAGENET_VALUES
    vectors: Sequence[Sequence[float]] = _IMAGENET_VECTORS

    def __post_init__(self) -> None:
        self._number("std", self.std)
        good = np.shape(self.values) == (3,) and np.shape(self.vectors) == (3, 3)
        self._check(good, "3 eigenvalues and 3 x 3 eigenvectors", (self.values, self.vectors))

    @classmethod
    def fit(cls, pictures: Iterable[Any], std: float = 0.1) -> PCAColour:
        """With the components of some pictures.

        Parameters
        ----------
        pictures : iterable of Sample or ndarray (H, W, 3)
            Values in 0..255.
        std : float

        Raises
        ------
        ShapeError
            If a picture has other than three channels.
        ValueError
            If there are no pictures.
        """
        count, total, products = 0, np.zeros(3), np.zeros((3, 3))
        for item in pictures:
            picture = np.asarray(item.picture if isinstance(item, Sample) else item)
            if picture.ndim != 3 or picture.shape[2] != 3:
                raise ShapeError(f"PCAColour: expected pictures (H,W,3), got {picture.shape}")
            pixels = picture.reshape(-1, 3).astype(np.float64) / 255
            count += len(pixels)
            total += pixels.sum(0)
            products += pixels.T @ pixels
        if not count:
            raise ValueError("PCAColour: expected at least one picture, got none")
        mean = total / count
        values, vectors = np.linalg.eigh(products / count - np.outer(mean, mean))
        order = np.argsort(values)[::-1]
        return cls(
            std,
            tuple(map(float, np.maximum(values[order], 0))),
            tuple(tuple(map(float, row)) for row in vectors[:, order]),
        )

    def __call__(self, sample: Sample, rng: Generator) -> Sample:
        picture = _rgb(self, sample)
        drawn = rng.normal(0, self.std, 3) * np.asarray(self.values) * 255
        return sample.with_(picture=picture + (np.asarray(self.vectors) @ drawn).astype(np.float32))


@dataclass(frozen=True)
class Normalize(Transform):
    """``(value / 255 - mean) / std`` for each channel; the last transform but for :class:`Cutout`.

    Parameters
    ----------
    mean, std : sequence of float
        One number, or one for each channel, of values in 0..1.

    Raises
    ------
    ValueError
        If they are not finite, of different length, or a deviation is 0.
    """

    mean: Sequence[float] = (0.485, 0.456, 0.406)
    std: Sequence[float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        good = len(self.mean) == len(self.std) > 0
        good = good and all(map(math.isfinite, (*self.mean, *self.std)))
        self._check(
            good and bool(np.asarray(self.std, np.float32).all()),
            "mean and std of one length, finite, std not 0",
            (self.mean, self.std),
        )

    def __call__(self, sample: Sample, rng: Generator) -> Sample:
        channels = sample.picture.shape[2]
        if len(self.mean) not in (1, channels):
            raise ShapeError(
                f"Normalize: expected a picture of {len(self.mean)} channels, got {sample.picture.shape}"
            )
        picture = sample.picture / np.float32(255)
        picture -= np.asarray(self.mean, np.float32)
        picture /= np.asarray(self.std, np.float32)
        return sample.with_(picture=picture)
