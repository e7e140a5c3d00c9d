"""Faces turned upright and brought to one size by their landmarks."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import data
from ..errors import DTypeError
from ..ops.registry import fail, integer

Array = np.ndarray

__all__ = ["TEMPLATE", "align", "similarity_transform"]

#: Where eyes, nose and corners of the mouth lie in an aligned face, x, y in parts of its sides: left to right
#: as one looks at the picture. Of 112 x 112 pixels, as SphereFace and ArcFace have them.
TEMPLATE = (
    np.array(
        [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)]
    )
    / 112
)


def _points(op: str, name: str, value: Any) -> Array:
    points = np.asarray(value)
    if points.dtype.kind not in "fiu":
        raise DTypeError(f"{op}: {name} is {points.dtype}; expected real numbers")
    points = points.astype(np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 2:
        fail(op, f"{name} must have dimensions N,2 with N from 2", **{name: points.shape})
    if not np.isfinite(points).all():
        fail(op, f"{name} must be finite")
    return points


def similarity_transform(source: Any, target: Any) -> Array:
    """The rotation, scaling and shift that bring points nearest to others, by least squares; no mirroring.

    Parameters
    ----------
    source, target : array_like, shape (N, 2)
        Points x, y that belong together; at least two of ``source`` differ.

    Returns
    -------
    ndarray of float64, shape (2, 3)
        ``m[:, :2] @ p + m[:, 2]`` for a point p of ``source``.

    Raises
    ------
    ShapeError, DTypeError

    References
    ----------
    Umeyama, "Least-squares estimation of transformation parameters between two point patterns", 1991,
    equations 38 to 43.
    """
    op = "similarity_transform"
    x, y = _points(op, "source", source), _points(op, "target", target)
    if x.shape != y.shape:
        fail(op, "source and target must have one shape", source=x.shape, target=y.shape)
    mean_x, mean_y = x.mean(0), y.mean(0)
    x, y = x - mean_x, y - mean_y
    spread = (x * x).sum() / len(x)
    if not spread > 1e-12 * max(1.0, float((mean_x**2).sum())):
        fail(op, "source must have points that differ")
    u, d, v = np.linalg.svd(y.T @ x / len(x))
    sign = np.array([1.0, 1.0 if np.linalg.det(u) * np.linalg.det(v) >= 0 else -1.0])
    linear = (u * sign) @ v * float(d @ sign) / spread
    return np.concatenate([linear, (mean_y - linear @ mean_x)[:, None]], 1)


def align(picture: Any, landmarks: Any, size: int = 112) -> Array:
    """Cut a face out of a picture, upright and of one size.

    Parameters
    ----------
    picture : ndarray of uint8 or float32, shape (H, W, C)
        0..255.
    landmarks : array_like, shape (5, 2)
        x, y of the eyes, the nose and the corners of the mouth in pixels of the picture; in both pairs the
        one further left in an upright picture first.
    size : int
        Rows and columns of the result.

    Returns
    -------
    ndarray of uint8, shape (size, size, C)
        Black where the picture ends. Read bilinearly, from a smaller picture where the face is more than
        twice as large as the result.

    Raises
    ------
    ShapeError, DTypeError
    """
    op = "align"
    size = integer(op, "size", size, 1)
    points = _points(op, "landmarks", landmarks)
    if points.shape != (5, 2):
        fail(op, "landmarks must have dimensions 5,2", landmarks=points.shape)
    sample = data.Sample(picture)
    h, w = sample.size
    matrix = similarity_transform(points, TEMPLATE * size)
    scale = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    if not scale > 1e-6:
        fail(op, "landmarks must lie as those of a face", landmarks=points.tolist())
    less = min(int(1 / scale), h, w)
    if less > 1:
        small = (h // less, w // less)
        sample = data.resize(sample, small)
        matrix = matrix @ np.diag([w / small[1], h / small[0], 1.0])
    face = data.affine(sample, matrix, size=(size, size)).picture
    return np.clip(np.rint(face), 0, 255).astype(np.uint8)
