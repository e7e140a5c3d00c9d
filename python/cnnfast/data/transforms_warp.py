"""Rotation, shear and local warping: every pixel is read from somewhere else.

A warp says for each pixel of the result from which point of the picture it is taken. Pixels are read there by
bilinear interpolation, masks from the pixel that holds the point; boxes and landmarks go the other way.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import ops
from .sample import Sample
from .transforms import Generator, Transform
from .transforms_geometry import moved

Array = np.ndarray

__all__ = ["LocalWarp", "RandomAffine", "RandomRotation", "RandomShear", "affine", "affine_matrix", "warp"]


# --- reading pixels anywhere ------------------------------------------------------------------------


def _interpolate(values: Array, x: Array, y: Array, fill: Any) -> Array:
    """Bilinear values of (H, W, C) at points, which count from the corner of the first pixel."""
    h, w, c = values.shape
    framed = np.empty((h + 2, w + 2, c), values.dtype)
    framed[...] = fill
    framed[1:-1, 1:-1] = values
    # In numbers of framed pixels; further out there is nothing but the frame.
    x, y = np.clip(x + 0.5, 0, w + 1), np.clip(y + 0.5, 0, h + 1)
    left, top = np.minimum(x.astype(np.intp), w), np.minimum(y.astype(np.intp), h)
    across, down = ((x - left)[..., None].astype(np.float32), (y - top)[..., None].astype(np.float32))
    flat, corner = framed.reshape(-1, c), top * (w + 2) + left
    upper = flat[corner] * (1 - across) + flat[corner + 1] * across
    corner += w + 2
    lower = flat[corner] * (1 - across) + flat[corner + 1] * across
    return upper * (1 - down) + lower * down


def _nearest(values: Array, x: Array, y: Array, fill: int) -> Array:
    """Values of (H, W) of the pixels that hold the points."""
    h, w = values.shape
    inside = (x >= 0) & (x < w) & (y >= 0) & (y < h)
    j, i = np.where(inside, x, 0).astype(np.intp), np.where(inside, y, 0).astype(np.intp)
    return np.where(inside, values[i, j], np.int32(fill))


def warp(
    sample: Sample,
    x: Array,
    y: Array,
    arrive: Callable[[Array], Array],
    *,
    points: int = 1,
    fill: Any = 0.0,
    mask_fill: int = 0,
    min_visibility: float = 0.0,
) -> Sample:
    """Move a sample by saying where each pixel comes from.

    Parameters
    ----------
    sample : Sample
    x, y : ndarrays of float, shape (H', W')
        For each pixel of the result, the point of the picture it is taken from.
    arrive : callable
        From points (N, 2) of the picture to where they are in the result.
    points : int
        Points on each side of a box that are followed; a box becomes the smallest one around them. One
        (the corner) is enough where lines stay straight.
    fill, mask_fill : float or sequence of C floats, int
        What lies beyond the picture.
    min_visibility : float
        Part of a box's area that must be left within the picture.

    Returns
    -------
    Sample
    """
    boxes, landmarks = sample.boxes, sample.landmarks
    if boxes is not None and len(boxes):
        rim = _rim(points)
        corners, size = boxes[:, None, :2], boxes[:, None, 2:] - boxes[:, None, :2]
        around = arrive((corners + rim * size).reshape(-1, 2)).reshape(len(boxes), -1, 2)
        boxes = np.concatenate([around.min(1), around.max(1)], 1)
    if landmarks is not None:
        marked = np.isfinite(landmarks).all(1)
        landmarks = np.where(marked[:, None], landmarks, np.nan)
        landmarks[marked] = arrive(landmarks[marked])
    return moved(
        sample,
        boxes,
        min_visibility,
        picture=_interpolate(sample.picture, x, y, fill),
        mask=None if sample.mask is None else _nearest(sample.mask, x, y, mask_fill),
        landmarks=landmarks,
    )


def _rim(points: int) -> Array:
    """Points around the unit square (4 points, 2), the corners among them."""
    t = np.arange(points) / points
    zero, one = np.zeros(points), np.ones(points)
    sides = [(t, zero), (one, t), (1 - t, one), (zero, 1 - t)]
    return np.concatenate([np.stack(side, 1) for side in sides])


def _middles(size: tuple[int, int]) -> tuple[Array, Array]:
    """Middles of pixels: x (1, W), y (H, 1)."""
    return np.arange(size[1])[None] + 0.5, np.arange(size[0])[:, None] + 0.5


# --- straight lines ---------------------------------------------------------------------------------


def affine_matrix(
    centre: tuple[float, float],
    *,
    degrees: float = 0.0,
    scale: float = 1.0,
    shear: tuple[float, float] = (0.0, 0.0),
    translate: tuple[float, float] = (0.0, 0.0),
) -> Array:
    """The matrix of a rotation after a shear after a scaling about a point, and a translation.

    Parameters
    ----------
    centre : (float, float)
        x, y of the point that stays where it is, but for the translation.
    degrees : float
        Counter-clockwise as one looks at the picture, whose y points down.
    scale : float
    shear : (float, float)
        Degrees by which vertical lines lean to the left going up, and horizontal ones down going right.
    translate : (float, float)
        x, y in pixels.

    Returns
    -------
    ndarray, shape (2, 3)
        (x', y') = m[:, :2] (x, y) + m[:, 2], from points of the picture to points of the result.
    """
    turn = math.radians(degrees)
    rotation = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    slant = [math.tan(math.radians(angle)) for angle in shear]
    linear = rotation @ np.array([[1.0, slant[0]], [slant[1], 1.0]]) * scale
    shift = np.asarray(centre, np.float64) + translate - linear @ np.asarray(centre, np.float64)
    return np.concatenate([linear, shift[:, None]], 1)


def affine(
    sample: Sample,
    matrix: Any,
    *,
    size: tuple[int, int] | None = None,
    fill: Any = 0.0,
    mask_fill: int = 0,
    min_visibility: float = 0.0,
) -> Sample:
    """Any affine map of the plane.

    Parameters
    ----------
    sample : Sample
    matrix : array_like, shape (2, 3)
        From points of the picture to points of the result; see :func:`affine_matrix`.
    size : (int, int), optional
        Rows and columns of the result; those of the picture.
    fill, mask_fill, min_visibility
        As of :func:`warp`.

    Returns
    -------
    Sample

    Raises
    ------
    ValueError
        If the matrix has no inverse.
    """
    m = np.asarray(matrix, np.float64)
    if m.shape != (2, 3) or not np.isfinite(m).all() or abs(np.linalg.det(m[:, :2])) < 1e-12:
        raise ValueError(f"affine: expected a finite matrix (2,3) with an inverse, got {m.tolist()}")
    back = np.linalg.inv(m[:, :2])
    x, y = _middles(sample.size if size is None else size)
    x, y = x - m[0, 2], y - m[1, 2]
    return warp(
        sample,
        back[0, 0] * x + back[0, 1] * y,
        back[1, 0] * x + back[1, 1] * y,
        lambda points: points @ m[:, :2].T + m[:, 2],
        fill=fill,
        mask_fill=mask_fill,
        min_visibility=min_visibility,
    )


@dataclass(frozen=True)
class RandomAffine(Transform):
    """Rotate, scale, shear and shift about the centre, each by a random amount.

    Parameters
    ----------
    degrees : (float, float)
        Counter-clockwise.
    scale : (float, float)
    shear_x, shear_y : (float, float)
        Degrees; see :func:`affine_matrix`.
    translate : (float, float)
        Most of the width and of the height that the picture is shifted by, either way.
    fill, mask_fill, min_visibility
        As of :func:`warp`.
    """

    degrees: tuple[float, float] = (0.0, 0.0)
    scale: tuple[float, float] = (1.0, 1.0)
    shear_x: tuple[float, float] = (0.0, 0.0)
    shear_y: tuple[float, float] = (0.0, 0.0)
    translate: tuple[float, float] = (0.0, 0.0)
    fill: Any = 0.0
    mask_fill: int = 0
    min_visibility: float = 0.0

    def __post_init__(self) -> None:
        self._probability(self.min_visibility)
        self._interval("degrees", self.degrees)
        self._check(self._interval("scale", self.scale, 0.0)[0] > 0, "scale above 0", self.scale)
        for name in ("shear_x", "shear_y"):
            low, high = self._interval(name, getattr(self, name))
            self._check(low >= -80 and high <= 80, f"{name} within 80 degrees", getattr(self, name))
        for part in self.translate:
            self._probability(part)
        # Two shears towards each other can make a picture into a line.
        most = max(map(abs, self.shear_x)), max(map(abs, self.shear_y))
        flat = math.tan(math.radians(most[0])) * math.tan(math.radians(most[1]))
        self._check(flat < 0.9, "shears that leave the picture an area", (self.shear_x, self.shear_y))

    def __call__(self, sample: Sample, rng: Generator) -> Sample:
        h, w = sample.size
        degrees, scale, shear_x, shear_y = (
            rng.uniform(*interval) for interval in (self.degrees, self.scale, self.shear_x, self.shear_y)
        )
        dx, dy = rng.uniform(-1, 1, 2) * self.translate * (w, h)
        matrix = affine_matrix(
            (w / 2, h / 2), degrees=degrees, scale=scale, shear=(shear_x, shear_y), translate=(dx, dy)
        )
        return affine(
            sample,
            matrix,
            fill=self.fill,
            mask_fill=self.mask_fill,
            min_visibility=self.min_visibility,
        )


def RandomRotation(degrees: float | tuple[float, float], **settings: Any) -> RandomAffine:
    """A :class:`RandomAffine` that rotates, by up to ``degrees`` either way or within an interval."""
    return RandomAffine(degrees=_either_way(degrees), **settings)


def RandomShear(
    x: float | tuple[float, float], y: float | tuple[float, float] = 0.0, **settings: Any
) -> RandomAffine:
    """A :class:`RandomAffine` that shears, by up to so many degrees either way or within intervals."""
    return RandomAffine(shear_x=_either_way(x), shear_y=_either_way(y), **settings)


def _either_way(most: Any) -> tuple[float, float]:
    return (-abs(most), abs(most)) if isinstance(most, (int, float)) else most


# --- local warping ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class LocalWarp(Transform):
    """Elastic deformation: a smooth random field of displacements.

    Every pixel draws a displacement evenly from [-1, 1] in x and in y; the field is smoothed by a Gaussian
    of standard deviation ``sigma`` whose values sum to one, and multiplied by ``alpha``. The paper's values
    for 29 x 29 digits are the defaults: displacements of 1.4 pixels (standard deviation).

    Parameters
    ----------
    alpha : float
        In pixels.
    sigma : float
        In pixels; small ones with a large ``alpha`` fold the picture.
    fill, mask_fill, min_visibility
        As of :func:`warp`.

    Notes
    -----
    Boxes and landmarks go where their pixels went: p with p + d(p) = q, found by iteration, or the nearest
    pixel where the field folds. The noise that is smoothed is zero beyond the picture.

    References
    ----------
    Simard, Steinkraus, Platt, "Best practices for convolutional neural networks applied to visual document
    analysis", 2003, section 2.
    """

    alpha: float = 34.0
    sigma: float = 4.0
    fill: Any = 0.0
    mask_fill: int = 0
    min_visibility: float = 0.0

    def __post_init__(self) -> None:
        self._probability(self.min_visibility)
        self._number("alpha", self.alpha, 0, 1e6)
        self._number("sigma", self.sigma, 0.01, 1000)

    def __call__(self, sample: Sample, rng: Generator) -> Sample:
        field = self.field(sample.size, rng)
        x, y = _middles(sample.size)
        x, y = x + field[..., 0], y + field[..., 1]
        return warp(
            sample,
            x,
            y,
            lambda points: _arrive(points, field, x, y),
            points=8,
            fill=self.fill,
            mask_fill=self.mask_fill,
            min_visibility=self.min_visibility,
        )

    def field(self, size: tuple[int, int], rng: Generator) -> Array:
        """Displacements in x and y, shape (H, W, 2): a pixel is taken from so far away."""
        noise = rng.random((1, *size, 2), np.float32) * 2 - 1
        reach = math.ceil(3 * self.sigma)
        bell = np.exp(-0.5 * (np.arange(-reach, reach + 1) / self.sigma) ** 2)
        bell = np.repeat((bell / bell.sum()).astype(np.float32), 2)
        for shape in ((-1, 1, 2, 1), (1, -1, 2, 1)):
            noise = ops.depthwise_conv2d(noise, bell.reshape(shape), padding="same")
        return noise[0] * np.float32(self.alpha)


def _arrive(points: Array, field: Array, x: Array, y: Array) -> Array:
    """Where points q of the picture are after displacements: p with p + d(p) = q."""
    h, w = field.shape[:2]

    def displaced(p: Array) -> Array:  # beyond the middles of the outermost pixels the field goes on as there
        inside = np.clip(p, 0.5, (w - 0.5, h - 0.5))
        return _interpolate(field, inside[:, 0], inside[:, 1], 0.0)

    p = points
    for _ in range(30):
        p = points - displaced(p)
    off = np.abs(p + displaced(p) - points).max(1, initial=0)
    for k in np.flatnonzero(~(off < 0.01)):
        nearest = int(np.argmin((x - points[k, 0]) ** 2 + (y - points[k, 1]) ** 2))
        p[k] = nearest % w + 0.5, nearest // w + 0.5
    return p
