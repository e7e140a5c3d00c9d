"""Mirroring, cutting out, padding and resizing: transforms that keep rows and columns.

Coordinates are as in :class:`cnnfast.data.Sample`: a picture of W columns reaches from 0 to W.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import ops
from .sample import Sample
from .transforms import Generator, Transform

Array = np.ndarray

__all__ = [
    "CenterCrop",
    "Mirror",
    "Pad",
    "QuarterTurn",
    "RandomCrop",
    "RandomResizedCrop",
    "Resize",
    "crop",
    "mirror",
    "resize",
    "turn",
]


def moved(sample: Sample, boxes: Array | None, min_visibility: float, **parts: Any) -> Sample:
    """The sample with other parts and with boxes that are cut at the edges of its new picture.

    Boxes without an area there, and those of which less than ``min_visibility`` is left, are dropped with
    their classes.
    """
    if boxes is None:
        return sample.with_(**parts)
    h, w = parts["picture"].shape[:2]
    cut = np.clip(boxes, 0, np.array([w, h, w, h], np.float64))
    size, before = cut[:, 2:] - cut[:, :2], boxes[:, 2:] - boxes[:, :2]
    keep = (size > 0).all(1) & (size.prod(1) >= min_visibility * before.prod(1))
    return sample.with_(
        boxes=cut[keep], classes=sample.classes[keep], difficult=sample.difficult[keep], **parts
    )


def mirror(sample: Sample, *, vertical: bool = False, swap: Sequence[tuple[int, int]] = ()) -> Sample:
    """Exchange left and right, or top and bottom. Twice is the identity, bit for bit.

    Parameters
    ----------
    sample : Sample
    vertical : bool
        Top and bottom.
    swap : sequence of (int, int)
        Landmarks that exchange their numbers: the left eye of a mirrored face is its right one.

    Returns
    -------
    Sample

    Notes
    -----
    Coordinates that are multiples of 2^-36 in pictures of up to 65536 rows and columns are exact, which
    all coordinates of at least 2^-12 that have the precision of float32 are.
    """
    h, w = sample.size
    side, axis = (h, 1) if vertical else (w, 0)
    turn = (slice(None, None, -1),) if vertical else (slice(None), slice(None, None, -1))
    boxes, landmarks = sample.boxes, sample.landmarks
    if boxes is not None:
        boxes = boxes.copy()
        boxes[:, [axis, axis + 2]] = side - boxes[:, [axis + 2, axis]]
    if landmarks is not None:
        landmarks = landmarks.copy()
        landmarks[:, axis] = side - landmarks[:, axis]
        for i, j in swap:
            landmarks[[i, j]] = landmarks[[j, i]]
    mask = None if sample.mask is None else sample.mask[turn]
    return sample.with_(picture=sample.picture[turn], mask=mask, boxes=boxes, landmarks=landmarks)


def turn(sample: Sample, quarters: int) -> Sample:
    """Turn by quarters, counter-clockwise. Four of them are the identity, bit for bit.

    Parameters
    ----------
    sample : Sample
    quarters : int
        1 and 3 exchange rows and columns.

    Returns
    -------
    Sample
        Coordinates are as exact as those of :func:`mirror`.
    """
    for _ in range(quarters % 4):
        w = sample.size[1]
        boxes, landmarks = sample.boxes, sample.landmarks
        if boxes is not None:  # (x, y) goes to (y, w - x)
            boxes = np.stack([boxes[:, 1], w - boxes[:, 2], boxes[:, 3], w - boxes[:, 0]], 1)
        if landmarks is not None:
            landmarks = np.stack([landmarks[:, 1], w - landmarks[:, 0]], 1)
        mask = None if sample.mask is None else np.rot90(sample.mask)
        sample = sample.with_(picture=np.rot90(sample.picture), mask=mask, boxes=boxes, landmarks=landmarks)
    return sample


def crop(
    sample: Sample,
    top: int,
    left: int,
    height: int,
    width: int,
    *,
    fill: Any = 0.0,
    mask_fill: int = 0,
    min_visibility: float = 0.0,
) -> Sample:
    """Cut out a window, which may reach beyond the picture: so this pads as well.

    Parameters
    ----------
    sample : Sample
    top, left, height, width : int
        First row and column, which may be negative, and the size.
    fill : float or sequence of C floats
        Value of pixels beyond the picture.
    mask_fill : int
        The same of the mask.
    min_visibility : float
        Part of a box's area that must be left.

    Returns
    -------
    Sample
    """
    h, w = sample.size
    inside = slice(max(top, 0), min(top + height, h)), slice(max(left, 0), min(left + width, w))
    place = (
        slice(inside[0].start - top, max(inside[0].stop, inside[0].start) - top),
        slice(inside[1].start - left, max(inside[1].stop, inside[1].start) - left),
    )

    def cut(values: Array, outside: Any) -> Array:
        if top >= 0 and top + height <= h and left >= 0 and left + width <= w:
            return values[inside]
        out = np.empty((height, width, *values.shape[2:]), values.dtype)
        out[...] = outside
        out[place] = values[inside]
        return out

    offset = np.array([left, top], np.float64)
    return moved(
        sample,
        None if sample.boxes is None else sample.boxes - np.tile(offset, 2),
        min_visibility,
        picture=cut(sample.picture, fill),
        mask=None if sample.mask is None else cut(sample.mask, mask_fill),
        landmarks=None if sample.landmarks is None else sample.landmarks - offset,
    )


def resize(sample: Sample, size: tuple[int, int]) -> Sample:
    """Resize to a number of rows and columns.

    Parameters
    ----------
    sample : Sample
    size : (int, int)

    Returns
    -------
    Sample
        Pictures are resized bilinearly with antialias (:func:`cnnfast.ops.resize`); a pixel of the mask is
        the one under its middle.
    """
    h, w = sample.size
    rows, columns = size
    if (h, w) == (rows, columns):
        return sample
    scale = np.array([columns / w, rows / h], np.float64)
    mask = sample.mask
    if mask is not None:
        i, j = ((2 * np.arange(new) + 1) * old // (2 * new) for new, old in ((rows, h), (columns, w)))
        mask = mask[i[:, None], j]
    return sample.with_(
        picture=ops.resize(np.ascontiguousarray(sample.picture)[None], size, antialias=True)[0],
        mask=mask,
        boxes=None if sample.boxes is None else sample.boxes * np.tile(scale, 2),
        landmarks=None if sample.landmarks is None else sample.landmarks * scale,
    )


@dataclass(frozen=True)
class Mirror(Transform):
    """Mirror with a probability; see :func:`mirror`.

    Parameters
    ----------
    probability : float
    vertical : bool
    swap : sequence of (int, int)
        Landmarks that exchange their numbers.
    """

    probability: float = 0.5
    vertical: bool = False
    swap: Sequence[tuple[int, int]] = ()

    def __post_init__(self) -> None:
        self._probability(self.probability)

    def __call__(self, sample: Sample, rng: Generator) -> Sample:
        if rng.random() < self.probability:
            return mirror(sample, vertical=self.vertical, swap=self.swap)
        return sample


@dataclass(frozen=True)
class QuarterTurn(Transform):
    """Turn by 0, 1, 2 or 3 quarters, each as likely; for what has no direction. See :func:`turn`."""

    def __call__(self, sample: Sample, rng: Generator) -> Sample:
        return turn(sample, int(rng.integers(4)))


@dataclass(frozen=True)
class Pad(Transform):
    """Add a border.

    Parameters
    ----------
    padding : int or (int, int, int, int)
        Pixels on every side, or left, top, right, bottom.
    fill : float or sequence of C floats
    mask_fill : int
    """

    padding: int | tuple[int, int, int, int]
    fill: Any = 0.0
    mask_fill: int = 0

    def __post_init__(self) -> None:
        sides = self._sides()
        good = len(sides) == 4 and all(type(side) is int and 0 <= side <= 1 << 16 for side in sides)
        self._check(good, "padding of one or four whole numbers", self.padding)

    def _sides(self) -> tuple[int, ...]:
        return (self.padding,) * 4 if isinstance(self.padding, int) else tuple(self.padding)

    def __call__(self, sample: Sample, rng: Generator) -> Sample:
        left, top, right, bottom = self._sides()
        h, w = sample.size
        size = h + top + bottom, w + left + right
        return crop(sample, -top, -left, *size, fill=self.fill, mask_fill=self.mask_fill)


@dataclass(frozen=True)
class CenterCrop(Transform):
    """Cut out the centre; what is missing around a smaller picture is filled.

    Parameters
    ----------
    size : int or (int, int)
        Rows and columns.
    fill, mask_fill, min_visibility
        As of :func:`crop`.
    """

    size: int | tuple[int, int]
    fill: Any = 0.0
    mask_fill: int = 0
    min_visibility: float = 0.0

    def __post_init__(self) -> None:
        self._size(self.size)
        self._probability(self.min_visibility)

    def __call__(self, sample: Sample, rng: Generator) -> Sample:
        (rows, columns), (h, w) = self._size(self.size), sample.size
        # Python rounds halves to the even number, as Preprocess does.
        top, left = round((h - rows) / 2), round((w - columns) / 2)
        return crop(
            sample,
            top,
            left,
            rows,
            columns,
            fill=self.fill,
            mask_fill=self.mask_fill,
            min_visibility=self.min_visibility,
        )


@dataclass(frozen=True)
class RandomCrop(Transform):
    """Cut out a window at a random place.

    Parameters
    ----------
    size : int or (int, int)
        Rows and columns.
    padding : int
        Border that is added on every side first; 4 for CIFAR. A picture that is smaller still lies at a
        random place of its window.
    fill, mask_fill, min_visibility
        As of :func:`crop`.
    """

    size: int | tuple[int, int]
    padding: int = 0
    fill: Any = 0.0
    mask_fill: int = 0
    min_visibility: float = 0.0

    def __post_init__(self) -> None:
        self._size(self.size)
        self._probability(self.min_visibility)
        good = type(self.padding) is int and 0 <= self.padding <= 1 << 16
        self._check(good, "padding of a whole number", self.padding)

    def __call__(self, sample: Sample, rng: Generator) -> Sample:
        rows, columns = self._size(self.size)
        top, left = (
            int(rng.integers(min(0, free), max(0, free) + 1)) - self.padding
            for free in (
                sample.size[0] + 2 * self.padding - rows,
                sample.size[1] + 2 * self.padding - columns,
            )
        )
        return crop(
            sample,
            top,
            left,
            rows,
            columns,
            fill=self.fill,
            mask_fill=self.mask_fill,
            min_visibility=self.min_visibility,
        )


@dataclass(frozen=True)
class Resize(Transform):
    """Resize; see :func:`resize`.

    Parameters
    ----------
    size : int or (int, int)
        The shorter side, the longer one by the same factor, rounded down; or rows and columns.
    """

    size: int | tuple[int, int]

    def __post_init__(self) -> None:
        self._size(self.size)

    def __call__(self, sample: Sample, rng: Generator) -> Sample:
        if not isinstance(self.size, int):
            return resize(sample, self._size(self.size))
        h, w = sample.size
        short = min(h, w)
        return resize(sample, (self.size * h // short, self.size * w // short))


@dataclass(frozen=True)
class RandomResizedCrop(Transform):
    """Cut out a window of random area and proportions and resize it.

    Parameters
    ----------
    size : int or (int, int)
        Rows and columns of the result.
    scale : (float, float)
        Least and most of the picture's area.
    ratio : (float, float)
        Least and most of width / height, drawn evenly in its logarithm.
    min_visibility : float
        As of :func:`crop`.

    References
    ----------
    Szegedy et al., "Going deeper with convolutions", 2015, section 6.
    """

    size: int | tuple[int, int]
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    min_visibility: float = 0.0

    def __post_init__(self) -> None:
        self._size(self.size)
        self._probability(self.min_visibility)
        self._check(self._interval("scale", self.scale, 0.0)[1] <= 1, "scale of at most 1", self.scale)
        self._check(self._interval("ratio", self.ratio, 0.0)[0] > 0, "ratio above 0", self.ratio)

    def __call__(self, sample: Sample, rng: Generator) -> Sample:
        window = crop(sample, *self._window(sample.size, rng), min_visibility=self.min_visibility)
        return resize(window, self._size(self.size))

    def _window(self, size: tuple[int, int], rng: Generator) -> tuple[int, int, int, int]:
        h, w = size
        low, high = map(math.log, self.ratio)
        for _ in range(10):
            area = h * w * rng.uniform(*self.scale)
            ratio = math.exp(rng.uniform(low, high))
            rows, columns = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
            if 0 < rows <= h and 0 < columns <= w:
                return int(rng.integers(h - rows + 1)), int(rng.integers(w - columns + 1)), rows, columns
        # None fits into a very long picture: its centre, with the nearest proportions.
        ratio = min(max(w / h, self.ratio[0]), self.ratio[1])
        rows, columns = min(h, max(1, round(w / ratio))), min(w, max(1, round(h * ratio)))
        return (h - rows) // 2, (w - columns) // 2, rows, columns
