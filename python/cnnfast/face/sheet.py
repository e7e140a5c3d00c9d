"""Pictures side by side with words under them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..ops.registry import fail

Array = np.ndarray

__all__ = ["sheet"]

_LINE, _GAP = 12, 6
_COLOURS = {None: (90, 90, 90), True: (20, 120, 40), False: (180, 30, 30)}


def sheet(
    pictures: Sequence[Array],
    captions: Sequence[str],
    *,
    good: Sequence[bool | None] | None = None,
    side: int = 105,
    columns: int = 5,
) -> Array:
    """A sheet of small pictures with captions.

    Parameters
    ----------
    pictures : sequence of ndarray of uint8, shapes (H, W, 1) or (H, W, 3)
        Resized, keeping their proportions, until they just fit.
    captions : sequence of str
        A few lines each; what does not fit is cut off.
    good : sequence of bool or None, optional
        True for green captions, False for red ones, None for grey.
    side : int
        Rows and columns of a picture on the sheet.
    columns : int

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)

    Raises
    ------
    ShapeError
    """
    from PIL import Image, ImageDraw, ImageFont

    if not pictures or len(captions) != len(pictures) or (good is not None and len(good) != len(pictures)):
        fail("sheet", f"each of {len(pictures)} pictures needs a caption, got {len(captions)}")
    columns = min(columns, len(pictures))
    lines = max(caption.count("\n") + 1 for caption in captions)
    width, height = side + _GAP, side + _GAP + lines * _LINE
    rows = -(-len(pictures) // columns)
    page = Image.new("RGB", (columns * width + _GAP, rows * height + _GAP), "white")
    font = ImageFont.load_default()
    for i, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        cell = Image.new("RGB", (side, height), "white")
        image = Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture).convert("RGB")
        scale = side / max(image.size)
        image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
        cell.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        draw = ImageDraw.Draw(cell)
        draw.rectangle((0, 0, side - 1, side - 1), outline=(200, 200, 200))
        colour = _COLOURS[None if good is None else good[i]]
        # Pillow's own font may know Latin letters alone.
        words = caption.encode("latin-1", "replace").decode("latin-1")
        draw.multiline_text((1, side + 1), words, fill=colour, font=font, spacing=1)
        page.paste(cell, (_GAP + i % columns * width, _GAP + i // columns * height))
    return np.asarray(page)
