"""Anchors: boxes of a few sizes and shapes around every place of a feature map."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Array = np.ndarray

__all__ = ["base_anchors", "grid_anchors"]


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
