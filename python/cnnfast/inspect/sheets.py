"""Pictures of what was found: grey maps, colours of heat, filters, and contact sheets of many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import ops
from ..errors import ShapeError

Array = np.ndarray

__all__ = ["contact_sheet", "filter_pictures", "grey", "heat", "overlay"]

# From cold to hot; between them colours are blended.
_HEAT = np.array([(0, 0, 64), (0, 96, 255), (0, 224, 160), (255, 224, 0), (255, 32, 0)], np.float32)


def grey(values: Any, low: float | None = None, high: float | None = None) -> Array:
    """Values as brightness: the lowest black, the highest white.

    Parameters
    ----------
    values : array_like, shape (H, W)
    low, high : float, optional
        What is black and what white.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)
    """
    v = np.asarray(values, np.float32)
    finite = v[np.isfinite(v)]
    low = float(finite.min(initial=np.inf)) if low is None else low
    high = float(finite.max(initial=-np.inf)) if high is None else high
    scaled = (v - low) / (high - low) if high > low else np.zeros_like(v)
    pixels = np.rint(255 * np.clip(np.nan_to_num(scaled), 0, 1)).astype(np.uint8)
    return np.repeat(pixels[..., None], 3, axis=2)


def heat(values: Any) -> Array:
    """Values from 0 to 1 as colours from blue to red, uint8 (H, W, 3)."""
    at = np.clip(np.nan_to_num(np.asarray(values, np.float32)), 0, 1) * (len(_HEAT) - 1)
    first = np.minimum(at.astype(int), len(_HEAT) - 2)
    share = (at - first)[..., None]
    return np.rint(_HEAT[first] * (1 - share) + _HEAT[first + 1] * share).astype(np.uint8)


def overlay(picture: Any, values: Any, share: float = 0.5) -> Array:
    """A picture (H, W, 3) under the heat of values (H, W) from 0 to 1."""
    pixels = np.asarray(picture, np.float32)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or np.shape(values) != pixels.shape[:2]:
        raise ShapeError(
            f"overlay: expected a picture (H,W,3) and values (H,W), got {pixels.shape} and {np.shape(values)}"
        )
    return np.rint((1 - share) * pixels + share * heat(values)).astype(np.uint8)


def filter_pictures(weight: Any) -> list[Array]:
    """Filters of a convolution as pictures, zero in the middle of grey.

    Parameters
    ----------
    weight : array_like, shape (KH, KW, C_in, C_out)
        Of three input channels all are shown, as colours; of others, the one with the largest weights of
        each filter.

    Returns
    -------
    list of ndarray of uint8, shapes (KH, KW, 3)
    """
    w = np.asarray(weight, np.float32)
    if w.ndim != 4 or not w.size:
        raise ShapeError(f"filter_pictures: expected a weight (KH,KW,C_in,C_out), got {w.shape}")
    found = []
    for o in range(w.shape[3]):
        f = w[..., o]
        if f.shape[2] != 3:
            f = np.repeat(f[..., [int(np.square(f).sum(axis=(0, 1)).argmax())]], 3, axis=2)
        most = float(np.abs(f).max())
        found.append(np.rint(127.5 + 127.5 * (f / most if most > 0 else f)).astype(np.uint8))
    return found


def contact_sheet(
    pictures: Sequence[Any], columns: int | None = None, *, size: int | None = None, gap: int = 2
) -> Array:
    """Many pictures in rows on white.

    Parameters
    ----------
    pictures : sequence of array_like, shapes (H, W, 3)
        uint8; of different sizes, each lies in the middle of its place.
    columns : int, optional
        As many as make the sheet about square unless given.
    size : int, optional
        The longer side that each is enlarged to by whole factors, or reduced to.
    gap : int
        Pixels between them and around.

    Returns
    -------
    ndarray of uint8, shape (rows, columns, 3)

    Raises
    ------
    ShapeError
        If there are none, or they are no pictures.
    """
    given = [np.asarray(p) for p in pictures]
    if not given or any(p.ndim != 3 or p.shape[2] != 3 or p.dtype != np.uint8 or not p.size for p in given):
        shapes = sorted({f"{p.dtype} {p.shape}" for p in given}) or ["none"]
        raise ShapeError(f"contact_sheet: expected pictures uint8 (H,W,3), got {', '.join(shapes)}")
    tiles = [p if size is None else _sized(p, size) for p in given]
    across = columns or int(np.ceil(np.sqrt(len(tiles))))
    down = -(-len(tiles) // across)
    rows, wide = max(p.shape[0] for p in tiles), max(p.shape[1] for p in tiles)
    sheet = np.full((down * (rows + gap) + gap, across * (wide + gap) + gap, 3), 255, np.uint8)
    for i, p in enumerate(tiles):
        top = gap + i // across * (rows + gap) + (rows - p.shape[0]) // 2
        left = gap + i % across * (wide + gap) + (wide - p.shape[1]) // 2
        sheet[top : top + p.shape[0], left : left + p.shape[1]] = p
    return sheet


def _sized(picture: Array, size: int) -> Array:
    longer = max(picture.shape[:2])
    if longer <= size:
        factor = size // longer
        return picture.repeat(factor, axis=0).repeat(factor, axis=1)
    shape = tuple(max(1, round(n * size / longer)) for n in picture.shape[:2])
    x = ops.resize(np.ascontiguousarray(picture[None], np.float32), shape, antialias=True)[0]
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)
