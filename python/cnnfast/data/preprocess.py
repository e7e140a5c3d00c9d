"""Pictures to the arrays that a network was trained on: shorter side, centre, mean and deviation.

Resizing is Pillow's own, on 8-bit pictures: trained networks saw those values, and another filter, or the
same one without its rounding, is not what they know.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import PictureError
from ..pictures import load_picture, pixels_of

if TYPE_CHECKING:
    from ..models.registry import Pretrained

Array = np.ndarray

__all__ = ["Preprocess"]

_INTERPOLATIONS = ("nearest", "bilinear", "bicubic")


@dataclass(frozen=True)
class Preprocess:
    """From pictures to a batch (N, H, W, C) of float32.

    1. The picture is made upright and 8-bit RGB, or luma for one channel (see Notes).
    2. Its shorter side is resized to ``resize``, the longer one by the same factor, rounded down. A pair of
       rows and columns sets both sides, whatever the proportions; None leaves the size as it is.
    3. The centre of ``input_size`` is cut out; what is missing around it is black. None leaves all.
    4. ``(value / 255 - mean) / std`` for each channel.

    Parameters
    ----------
    input_size : (int, int) or None
        Rows and columns.
    resize : int, (int, int) or None
    interpolation : {"bilinear", "bicubic", "nearest"}
        Pillow's, with the filter widened where the picture gets smaller (antialias); nearest takes single
        pixels.
    mean, std : sequence of float
        One or three numbers, of values in 0..1; their count is the number of channels.

    Raises
    ------
    ValueError
        If a parameter makes no sense.

    Notes
    -----
    As in :func:`cnnfast.pictures.load_picture`: the EXIF orientation is applied, transparent pixels are laid
    over white, palettes become colours, grey pictures have three equal channels, and 16-bit values are
    divided by 257; these are rounded to whole numbers here.

    Examples
    --------
    >>> from cnnfast.data import Preprocess
    >>> Preprocess()("dog.jpg").shape  # doctest: +SKIP
    (1, 224, 224, 3)
    """

    input_size: tuple[int, int] | None = (224, 224)
    resize: int | tuple[int, int] | None = 256
    interpolation: str = "bilinear"
    mean: Sequence[float] = (0.485, 0.456, 0.406)
    std: Sequence[float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        if self.interpolation not in _INTERPOLATIONS:
            raise ValueError(
                f"Preprocess: interpolation must be one of {', '.join(_INTERPOLATIONS)}, "
                f"got {self.interpolation!r}"
            )
        size = self.input_size
        if size is not None and not (isinstance(size, tuple) and len(size) == 2):
            raise ValueError(f"Preprocess: input_size must be (rows, columns) or None, got {size!r}")
        if isinstance(self.resize, tuple) and len(self.resize) != 2:
            raise ValueError(f"Preprocess: resize must be a side, both or None, got {self.resize!r}")
        sides = self.resize if isinstance(self.resize, tuple) else (self.resize,)
        for side in (*(() if self.resize is None else sides), *(size or ())):
            if isinstance(side, bool) or not isinstance(side, int) or not 1 <= side <= 1 << 16:
                raise ValueError(f"Preprocess: sizes must be whole numbers from 1 to 65536, got {side!r}")
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3):
            raise ValueError(
                f"Preprocess: mean and std must have one or three numbers, got {self.mean!r} and {self.std!r}"
            )
        if not all(map(math.isfinite, (*self.mean, *self.std))) or not np.asarray(self.std, np.float32).all():
            raise ValueError("Preprocess: mean and std must be finite, and std not 0")

    @classmethod
    def of(cls, pretrained: Pretrained) -> Preprocess:
        """As some published weights were trained."""
        return cls(
            (pretrained.input_size[0], pretrained.input_size[1]),
            pretrained.resize,
            pretrained.interpolation,
            pretrained.mean,
            pretrained.std,
        )

    @classmethod
    def crop_pct(
        cls,
        input_size: int | tuple[int, int],
        crop_pct: float = 0.875,
        *,
        interpolation: str = "bicubic",
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
    ) -> Preprocess:
        """In timm's words: the shorter side becomes ``floor(size / crop_pct)``.

        For inputs that are not square both sides are resized, each by its own share.
        """
        rows, columns = (input_size, input_size) if isinstance(input_size, int) else input_size
        if not 0 < crop_pct <= 1:
            raise ValueError(f"Preprocess: crop_pct must be in (0, 1], got {crop_pct!r}")
        sides = math.floor(rows / crop_pct), math.floor(columns / crop_pct)
        return cls((rows, columns), sides[0] if rows == columns else sides, interpolation, mean, std)

    @property
    def channels(self) -> int:
        return len(self.mean)

    def __call__(self, pictures: Any) -> Array:
        """A batch of pictures.

        Parameters
        ----------
        pictures : one picture, or a list or tuple of them
            Each is the path of a file, an image of Pillow, or uint8 values of shape (H, W), (H, W, 1) or
            (H, W, 3).

        Returns
        -------
        ndarray of float32, shape (N, H, W, C)

        Raises
        ------
        PictureError
            If a picture cannot be read, is no 8-bit array, or they have different sizes in the end (without
            ``input_size``).
        OSError
        """
        many = pictures if isinstance(pictures, (list, tuple)) else [pictures]
        if not many:
            raise PictureError("Preprocess: expected at least one picture")
        done = [self.pixels(picture) for picture in many]
        if len({pixels.shape for pixels in done}) > 1:
            shapes = ", ".join(sorted({str(pixels.shape) for pixels in done}))
            raise PictureError(f"Preprocess: the pictures have different sizes in the end: {shapes}")
        batch = np.stack(done).astype(np.float32)
        batch /= np.float32(255)
        batch -= np.asarray(self.mean, np.float32)
        batch /= np.asarray(self.std, np.float32)
        return batch

    def pixels(self, picture: Any) -> Array:
        """One picture after the resize and the crop, uint8 (H, W, C)."""
        return self._cropped(self._resized(self._bytes(picture)))

    def _bytes(self, picture: Any) -> Array:
        if isinstance(picture, (str, os.PathLike)):
            return np.rint(load_picture(picture, channels=self.channels)).astype(np.uint8)
        if not isinstance(picture, np.ndarray):
            from PIL import Image

            if not isinstance(picture, Image.Image):
                raise PictureError(
                    "Preprocess: expected a path, an image of Pillow or an array, "
                    f"got a {type(picture).__name__}"
                )
            return np.clip(np.rint(pixels_of(picture, self.channels)), 0, 255).astype(np.uint8)
        fits = picture.ndim == 2 or (picture.ndim == 3 and picture.shape[2] in (1, 3))
        if picture.dtype != np.uint8 or not fits or not picture.size:
            raise PictureError(
                f"Preprocess: expected uint8 (H,W), (H,W,1) or (H,W,3), got {picture.dtype} {picture.shape}"
            )
        pixels = picture if picture.ndim == 3 else picture[..., None]
        if pixels.shape[2] == self.channels:
            return pixels
        if self.channels == 3:
            return np.repeat(pixels, 3, axis=2)
        from PIL import Image

        return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).convert("L"))[..., None]

    def _resized(self, pixels: Array) -> Array:
        if self.resize is None:
            return pixels
        height, width, channels = pixels.shape
        if isinstance(self.resize, tuple):
            rows, columns = self.resize
        else:
            short = min(height, width)
            rows, columns = self.resize * height // short, self.resize * width // short
        if rows * columns > 1 << 28:
            raise PictureError(f"Preprocess: {height} x {width} pixels would become {rows} x {columns}")
        if (rows, columns) == (height, width):
            return pixels
        from PIL import Image

        image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if channels == 1 else pixels))
        how = Image.Resampling[self.interpolation.upper()]
        return np.asarray(image.resize((columns, rows), how)).reshape(rows, columns, channels)

    def _cropped(self, pixels: Array) -> Array:
        if self.input_size is None:
            return pixels
        rows, columns = self.input_size
        height, width, _ = pixels.shape
        missing = max(rows - height, 0), max(columns - width, 0)
        if any(missing):
            # Half of it before the picture, rounded down.
            pad = [(n // 2, n - n // 2) for n in missing]
            pixels = np.pad(pixels, [*pad, (0, 0)])
            height, width, _ = pixels.shape
        # Python rounds halves to the even number; an offset of 2.5 is 2, one of 3.5 is 4.
        top, left = round((height - rows) / 2), round((width - columns) / 2)
        return pixels[top : top + rows, left : left + columns]
