"""Counting what a segmentation found: connected components of its classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import BackendError
from ..losses.reduction import whole
from ..ops.registry import fail, integer, rank

Array = np.ndarray

__all__ = ["Instance", "find_instances"]


@dataclass(frozen=True)
class Instance:
    """One connected region.

    Attributes
    ----------
    number : int
        What its pixels have in the map of instances; from 1.
    class_ : int
    area : int
        Pixels.
    box : (int, int, int, int)
        x1, y1, x2, y2: it covers the columns x1 .. x2-1 and the rows y1 .. y2-1.
    centre : (float, float)
        x, y of the centre of mass; the middle of the first pixel is (.5, .5).
    """

    number: int
    class_: int
    area: int
    box: tuple[int, int, int, int]
    centre: tuple[float, float]


def find_instances(mask: Any, *, min_area: int = 1, diagonal: bool = True) -> tuple[Array, list[Instance]]:
    """Connected regions of each class of a mask but 0.

    Parameters
    ----------
    mask : array_like of whole numbers from 0, shape (H, W)
    min_area : int
        Smaller regions are left out.
    diagonal : bool
        Whether pixels that share a corner only are connected.

    Returns
    -------
    numbers : ndarray of int32, shape (H, W)
        The number of the instance that a pixel belongs to, 0 for none.
    instances : list of Instance
        By class, then by their first pixel from the top.

    Raises
    ------
    BackendError
        If SciPy is not installed.
    ShapeError, DTypeError

    Notes
    -----
    Things that touch are one region.
    """
    try:
        from scipy import ndimage
    except ImportError as error:
        raise BackendError(
            "find_instances: counting needs SciPy: pip install 'cnnfast[segmentation]'"
        ) from error
    op = "find_instances"
    mask = whole(op, "mask", mask)
    rank(op, "mask", mask.shape, "H,W")
    min_area = integer(op, "min_area", min_area, 1)
    if mask.min(initial=0) < 0:
        fail(op, f"mask must be 0 or more, got {mask.min()}")
    numbers = np.zeros(mask.shape, np.int32)
    instances: list[Instance] = []
    structure = np.ones((3, 3), int) if diagonal else None
    for class_ in np.unique(mask[mask > 0]):
        regions, count = ndimage.label(mask == class_, structure)
        areas = np.bincount(regions.reshape(-1), minlength=count + 1)
        for region, (rows, columns) in enumerate(ndimage.find_objects(regions), 1):
            if areas[region] < min_area:
                continue
            inside = regions[rows, columns] == region
            number = len(instances) + 1
            numbers[rows, columns][inside] = number
            y, x = np.nonzero(inside)
            instances.append(
                Instance(
                    number,
                    int(class_),
                    int(areas[region]),
                    (columns.start, rows.start, columns.stop, rows.stop),
                    (columns.start + float(x.mean()) + 0.5, rows.start + float(y.mean()) + 0.5),
                )
            )
    return numbers, instances
