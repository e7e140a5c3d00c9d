"""Boxes with names and scores on a picture."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ops.registry import fail

if TYPE_CHECKING:
    from ..models.yolo import Detections

Array = np.ndarray

__all__ = ["colour", "draw", "label"]


def colour(number: int) -> tuple[int, int, int]:
    """A colour for a class; neighbouring numbers are far apart on the circle (by the golden ratio)."""
    r, g, b = colorsys.hsv_to_rgb(number * 0.6180339887498949 % 1, 0.85, 0.95)
    return round(255 * r), round(255 * g), round(255 * b)


def label(number: int, names: Sequence[str] = ()) -> str:
    """The name of a class, or its number."""
    return (names[number] if number < len(names) else "") or str(number)


def draw(picture: Any, found: Detections, names: Sequence[str] = (), *, width: int | None = None) -> Array:
    """Draw boxes with the names of their classes and their scores.

    Parameters
    ----------
    picture : array_like, shape (H, W, 3)
        0..255.
    found : Detections
        In pixels of the picture; better ones are drawn over worse ones.
    names : sequence of str
        Of the classes; others are numbered.
    width : int, optional
        Of the lines in pixels; a 300th of the longer side where left out. Text is seven times as high.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)

    Raises
    ------
    ShapeError
        If the picture has no 3 channels, or boxes are not finite.
    """
    from PIL import Image, ImageDraw, ImageFont

    pixels = np.asarray(picture)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        fail("draw", "picture must have dimensions H,W,3", picture=pixels.shape)
    boxes = np.asarray(found.boxes, np.float64)
    if not np.isfinite(boxes).all():
        fail("draw", "boxes must be finite")
    h, w = pixels.shape[:2]
    line = max(2, round(max(h, w) / 300)) if width is None else width
    font = ImageFont.load_default(max(10, 7 * line))
    image = Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for box, score, number in reversed(list(zip(boxes, found.scores, found.classes, strict=True))):
        x1, y1, x2, y2 = np.clip(np.rint(box), 0, [w - 1, h - 1] * 2).astype(int).tolist()
        ink = colour(int(number))
        pen.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=ink, width=line)
        text = f"{label(int(number), names)} {score:.2f}"
        left, top, right, bottom = (round(v) for v in pen.textbbox((0, 0), text, font=font))
        wide, high = right - left + 2 * line, bottom - top + 2 * line
        # Above the box where there is room, inside it otherwise; never beyond the right edge.
        x, y = max(0, min(x1, w - wide)), y1 - high + line if y1 - high + line >= 0 else y1
        pen.rectangle((x, y, x + wide, y + high), fill=ink)
        light = 0.299 * ink[0] + 0.587 * ink[1] + 0.114 * ink[2] > 140
        pen.text(
            (x + line - left, y + line - top), text, fill=(0, 0, 0) if light else (255, 255, 255), font=font
        )
    return np.asarray(image)
