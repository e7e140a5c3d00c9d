"""Anchors: boxes of a few sizes and shapes around every place of a feature map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..ops.registry import fail

Array = np.ndarray

__all__ = ["Clusters", "base_anchors", "grid_anchors", "kmeans_anchors", "shape_iou"]


def base_anchors(sizes: Sequence[float], ratios: Sequence[float]) -> Array:
    """Anchors around the origin, rounded to whole pixels.

    Parameters
    ----------
    sizes : sequence of float
        Roots of the areas, in pixels of the picture.
    ratios : sequence of float
        Heights over widths.

    Returns
    -------
    ndarray of float32, shape (len(ratios) * len(sizes), 4)
        x1, y1, x2, y2; the sizes change fastest.
    """
    root = np.sqrt(np.asarray(ratios, np.float32))
    size = np.asarray(sizes, np.float32)
    height, width = (root[:, None] * size).ravel(), ((1 / root)[:, None] * size).ravel()
    return np.round(np.stack([-width, -height, width, height], 1) / 2)


def grid_anchors(base: Array, grid: tuple[int, int], stride: tuple[int, int]) -> Array:
    """The anchors of every place of a feature map.

    Parameters
    ----------
    base : ndarray, shape (A, 4)
    grid, stride : (int, int)
        Rows and columns of the map, and pixels of the picture per row and column.

    Returns
    -------
    ndarray, shape (rows * columns * A, 4)
        Place (i, j) adds (j, i) strides; rows come first, then columns, then anchors.
    """
    y = np.arange(grid[0], dtype=base.dtype) * stride[0]
    x = np.arange(grid[1], dtype=base.dtype) * stride[1]
    x, y = np.broadcast_arrays(x, y[:, None])
    return (np.stack([x, y, x, y], -1)[:, :, None] + base).reshape(-1, 4)


# --- anchors from the boxes of a data set ------------------------------------------------------------


def shape_iou(a: Any, b: Any) -> Array:
    """Intersection over union of shapes laid on one centre.

    Parameters
    ----------
    a, b : array_like, shapes (N, 2) and (M, 2)
        Widths and heights, positive.

    Returns
    -------
    ndarray of float64, shape (N, M)
    """
    a, b = np.asarray(a, np.float64)[:, None], np.asarray(b, np.float64)
    inter = np.minimum(a, b).prod(-1)
    return inter / (a.prod(-1) + b.prod(-1) - inter)


class Clusters(NamedTuple):
    """Anchors that were found in boxes.

    Attributes
    ----------
    anchors : ndarray of float64, shape (K, 2)
        Widths and heights, by rising area.
    mean_iou : float
        Mean overlap of a box with its best anchor.
    """

    anchors: Array
    mean_iou: float


def kmeans_anchors(sizes: Any, count: int, *, seed: int = 0, restarts: int = 10) -> Clusters:
    """Widths and heights that fit the boxes of a data set, by k-means with 1 - IoU as the distance.

    Parameters
    ----------
    sizes : array_like, shape (N, 2)
        Widths and heights of boxes, in the unit that the anchors shall have.
    count : int
        K.
    seed : int
        The same boxes and seed give the same anchors.
    restarts : int
        Runs from other first anchors, of which the best counts.

    Returns
    -------
    Clusters

    Raises
    ------
    ShapeError
        If sizes are not positive, or there are fewer different ones than anchors.

    Notes
    -----
    The first anchors of a run are boxes drawn one after the other with the distance to the nearest one drawn
    so far as their weight. A cluster's anchor is the mean of its boxes, until no box changes its cluster.

    References
    ----------
    Redmon and Farhadi, "YOLO9000: better, faster, stronger", 2017, section 2 (dimension clusters); Arthur and
    Vassilvitskii, "k-means++: the advantages of careful seeding", 2007.
    """
    op = "kmeans_anchors"
    sizes = np.asarray(sizes, np.float64)
    if sizes.ndim != 2 or sizes.shape[1] != 2 or not (np.isfinite(sizes) & (sizes > 0)).all():
        fail(op, "sizes must be positive widths and heights (N,2)", sizes=sizes.shape)
    if count < 1 or restarts < 1 or len(np.unique(sizes, axis=0)) < count:
        fail(op, f"expected at least {count} different sizes and one run", sizes=sizes.shape)
    rng = np.random.default_rng(seed)
    runs = [_kmeans(sizes, count, rng) for _ in range(restarts)]
    return max(runs, key=lambda run: run.mean_iou)


def _kmeans(sizes: Array, count: int, rng: np.random.Generator) -> Clusters:
    anchors = sizes[rng.integers(len(sizes))][None]
    while len(anchors) < count:
        apart = 1 - shape_iou(sizes, anchors).max(1)
        # Rounding may leave a tiny distance between equal shapes.
        weight = np.where(apart > 1e-12, apart, 0)
        anchors = np.concatenate([anchors, sizes[rng.choice(len(sizes), p=weight / weight.sum())][None]])
    nearest = np.full(len(sizes), -1)
    for _ in range(1000):
        now = shape_iou(sizes, anchors).argmax(1)
        if np.array_equal(now, nearest):
            break
        nearest = now
        members = [sizes[nearest == k] for k in range(count)]
        anchors = np.stack([m.mean(0) if len(m) else a for m, a in zip(members, anchors, strict=True)])
    anchors = anchors[np.argsort(anchors.prod(1), kind="stable")]
    return Clusters(anchors, float(shape_iou(sizes, anchors).max(1).mean()))
