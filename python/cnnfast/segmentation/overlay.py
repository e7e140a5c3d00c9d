"""Segmentations drawn over their pictures."""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np

from ..errors import DTypeError
from ..losses.reduction import whole
from ..ops.registry import fail, number, rank

Array = np.ndarray

__all__ = ["overlay", "palette"]

_GOLDEN = 0.618033988749895  # turns of hue that keep neighbours far apart for any number of colours


def palette(count: int) -> Array:
    """Colours that are easy to tell apart, black first.

    Parameters
    ----------
    count : int

    Returns
    -------
    ndarray of uint8, shape (count, 3)
        RGB; a longer palette begins with the shorter one.
    """
    colours = [(0.0, 0.0, 0.0)]
    for i in range(1, count):
        # Three brightnesses in turn tell hues apart that come near each other.
        colours.append(colorsys.hsv_to_rgb(i * _GOLDEN % 1, 0.85 - 0.2 * (i % 2), 1 - 0.15 * (i % 3)))
    return np.rint(np.array(colours[:count]).reshape(-1, 3) * 255).astype(np.uint8)


def overlay(
    picture: Any, mask: Any, *, colours: Any = None, opacity: float = 0.4, outline: bool = True
) -> Array:
    """Colour the pixels of a picture by their classes or instances.

    Parameters
    ----------
    picture : array_like of 0..255, shape (H, W), (H, W, 1) or (H, W, 3)
    mask : array_like of whole numbers from 0, shape (H, W)
        Where it is 0 the picture stays as it is.
    colours : array_like of uint8, shape (K, 3), optional
        RGB for each number; as :func:`palette` has them when left out.
    opacity : float
        Of the colours, in 0..1.
    outline : bool
        Whether pixels next to one of another number are coloured in full.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)

    Raises
    ------
    ShapeError, DTypeError
    """
    from PIL import Image

    op = "overlay"
    picture = np.asarray(picture)
    if picture.dtype.kind not in "uif":
        raise DTypeError(f"{op}: expected numbers in 0..255 for picture, got {picture.dtype}")
    if picture.ndim == 2:
        picture = picture[..., None]
    rank(op, "picture", picture.shape, "H,W,C")
    if picture.shape[2] not in (1, 3):
        fail(op, "picture must have 1 or 3 channels", picture=picture.shape)
    mask = whole(op, "mask", mask, picture.shape[:2])
    opacity = number(op, "opacity", opacity)
    if not 0 <= opacity <= 1:
        fail(op, f"opacity must be in 0..1, got {opacity}")
    highest = int(mask.max(initial=0))
    table = palette(highest + 1) if colours is None else np.asarray(colours, np.uint8)
    if table.ndim != 2 or table.shape[1] != 3 or len(table) <= highest:
        fail(op, f"colours must be ({highest + 1},3) for numbers up to {highest}", colours=table.shape)
    if mask.min(initial=0) < 0:
        fail(op, f"mask must be 0 or more, got {mask.min()}")
    if not mask.size:
        return np.zeros((*mask.shape, 3), np.uint8)
    alpha = np.where(mask > 0, round(255 * opacity), 0).astype(np.uint8)
    if outline:
        alpha[(mask > 0) & _edges(mask)] = 255
    base = np.clip(np.rint(picture), 0, 255).astype(np.uint8)
    below = Image.fromarray(np.ascontiguousarray(np.broadcast_to(base, (*mask.shape, 3))))
    return np.asarray(Image.composite(Image.fromarray(table[mask]), below, Image.fromarray(alpha)))


def _edges(mask: Array) -> Array:
    """Where the pixel above, below, left or right has another number."""
    edges = np.zeros(mask.shape, bool)
    down, right = mask[1:] != mask[:-1], mask[:, 1:] != mask[:, :-1]
    edges[1:] |= down
    edges[:-1] |= down
    edges[:, 1:] |= right
    edges[:, :-1] |= right
    return edges
