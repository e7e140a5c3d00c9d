"""Pictures as arrays: any photograph to float32 in 0..255, and 8-bit arrays back to files.

Pillow does the decoding and is loaded with the first picture. Only formats of pictures are accepted,
not those that Pillow hands to another program.
"""

from __future__ import annotations

import contextlib
import io
import os
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from .errors import PictureError

__all__ = ["MAX_PIXELS", "load_mask", "load_picture", "save_picture"]

MAX_PIXELS = 178_956_970  # Pillow's own bound: a quarter of 2 GiB at 3 bytes a pixel
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TGA", "TIFF", "WEBP")
_BAND = 1 << 20  # pixels converted at a time, so that a large picture is not held in many forms
_LUMA = np.array([19595, 38470, 7471], np.int32)  # ITU-R BT.601, .299 .587 .114, in units of 2^-16
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")
_ORIENTATION = 0x0112  # EXIF tag


def load_picture(path: str | os.PathLike[str], *, channels: int = 3) -> np.ndarray:
    """Read a picture, upright.

    Parameters
    ----------
    path : str or os.PathLike
        A BMP, GIF, JPEG, JPEG 2000, PNG, PPM, TGA, TIFF or WebP file (AVIF where Pillow has it). Of
        several frames the first is read.
    channels : {1, 3}
        1 for luma, .299 R + .587 G + .114 B; 3 for RGB.

    Returns
    -------
    ndarray of float32, shape (H, W, channels)
        0..255: whole numbers, but for 16-bit values, which are divided by 257 so that white is 255.
        Transparent pixels are laid over white. The orientation that EXIF names is applied.

    Raises
    ------
    PictureError
        If the file is no picture of these formats, is cut off or corrupt, has more than ``MAX_PIXELS``
        pixels, or holds values that are no brightness (NaN).
    OSError
        If the file cannot be opened.
    """
    _check_channels(channels)
    with open(os.fspath(path), "rb") as file:
        return _read_picture(file, os.fspath(path), channels)


def picture_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Rows and columns of a picture as it is stored, by its head alone; errors as of :func:`load_picture`."""
    with open(os.fspath(path), "rb") as file, _opened(file, os.fspath(path)) as image:
        return image.size[1], image.size[0]


def decode_picture(content: bytes, name: str, *, channels: int = 3) -> np.ndarray:
    """:func:`load_picture` for a file that is in memory; ``name`` is for messages."""
    _check_channels(channels)
    return _read_picture(io.BytesIO(content), name, channels)


def _read_picture(file: Any, name: str, channels: int) -> np.ndarray:
    with _opened(file, name) as image:
        return pixels_of(image, channels)


def _check_channels(channels: int) -> None:
    if channels not in (1, 3):
        raise PictureError(f"load_picture: channels must be 1 or 3, got {channels!r}")


def load_mask(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a picture whose values are numbers of classes or instances, upright.

    Parameters
    ----------
    path : str or os.PathLike
        A picture of one channel: grey of 1, 8 or 16 bits, 32-bit whole numbers, or a palette, whose
        indices are read.

    Returns
    -------
    ndarray of int32, shape (H, W)
        The values as they are stored; 0 and 1 for one bit.

    Raises
    ------
    PictureError
        As :func:`load_picture`, and if the picture has colours or values that are no whole numbers.
    OSError
        If the file cannot be opened.
    """
    name = os.fspath(path)
    with open(name, "rb") as file, _opened(file, name) as image:
        if image.mode not in ("1", "L", "P", *_SIXTEEN_BIT):
            raise PictureError(f"expected a mask of one channel of whole numbers, got {image.mode} values")
        orientation = _orientation(image)
        image.load()
        return np.ascontiguousarray(
            _upright(np.asarray(image).astype(np.int32)[..., None], orientation)[..., 0]
        )


class _Quiet:
    """No warnings of decoders: sizes are checked here, and other oddities are no errors.

    The filters of warnings belong to the process; the first thread that decodes changes them, and the last
    one puts them back.
    """

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._filters.__exit__(None, None, None)


_quiet = _Quiet()


@contextlib.contextmanager
def _opened(file: Any, name: str) -> Iterator[Any]:
    """An image of Pillow, its size checked; whatever decoding it raises names the file."""
    try:
        with _quiet, _open_checked(file) as image:
            yield image
    except PictureError as error:
        raise PictureError(f"{name}: {error}") from None
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # decoders raise all kinds of errors on corrupt files
        what = str(error) or type(error).__name__
        raise PictureError(f"{name}: the picture is cut off or corrupt: {what}") from None


def _open_checked(file: Any) -> Any:
    from PIL import Image, UnidentifiedImageError

    Image.init()
    try:
        image = Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])
    except UnidentifiedImageError:
        raise PictureError("not a picture of a known format") from None
    except Image.DecompressionBombError:
        raise PictureError(f"the picture has more than {MAX_PIXELS} pixels") from None
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise PictureError(f"the picture has {width} x {height} pixels, more than {MAX_PIXELS}")
    return image


def pixels_of(image: Any, channels: int = 3) -> np.ndarray:
    """What :func:`load_picture` gives for an image that Pillow has opened."""
    orientation = _orientation(image)
    image.load()
    width, height = image.size
    pixels = np.empty((height, width, channels), np.float32)
    rows = max(1, _BAND // width)
    for top in range(0, height, rows):
        bottom = min(height, top + rows)
        band = image.crop((0, top, width, bottom))
        pixels[top:bottom] = _to_float(band, channels)
    return np.ascontiguousarray(_upright(pixels, orientation))


def _orientation(image: Any) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF is no reason to refuse the pixels
        return 1
    return value if value in range(1, 9) else 1


def _to_float(band: Any, channels: int) -> np.ndarray:
    """H,W,channels in 0..255 of an image in any of Pillow's modes."""
    if band.mode in _SIXTEEN_BIT or band.mode == "F":
        values = np.asarray(band).astype(np.float32)
        if band.mode != "F":
            values /= np.float32(257)
        if not np.isfinite(values).all():
            raise PictureError("the picture holds values that are not finite")
        grey = values[..., None]
        return grey if channels == 1 else np.repeat(grey, 3, axis=2)
    if band.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in band.info:
        rgba = np.asarray(band.convert("RGBA"), np.float32)
        alpha = rgba[..., 3:]
        rgb = np.rint((rgba[..., :3] * alpha + 255 * (255 - alpha)) / 255)
        return rgb if channels == 3 else (rgb.astype(np.int32) @ _LUMA + (1 << 15) >> 16)[..., None]
    if channels == 3:
        return np.asarray(band.convert("RGB"), np.float32)
    # Pillow's luma is the same sum, rounded to a whole number.
    return np.asarray(band.convert("L" if band.mode in ("1", "L") else "RGB").convert("L"), np.float32)[
        ..., None
    ]


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo what EXIF orientations 1 to 8 say the camera did."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def picture_format(path: str | os.PathLike[str]) -> str:
    """Pillow's name of the format that the file name's ending asks for.

    Raises
    ------
    PictureError
        If no such format can be written.
    """
    from PIL import Image

    ending = os.path.splitext(os.fspath(path))[1].lower()
    name = Image.registered_extensions().get(ending)
    if name not in FORMATS or name not in Image.SAVE:
        raise PictureError(
            f"{os.fspath(path)}: cannot tell the format from the ending {ending!r}, use .png or .jpg"
        )
    return str(name)


def save_picture(path: str | os.PathLike[str], pixels: np.ndarray) -> None:
    """Write an 8-bit picture, all or nothing: a failure leaves an older file as it was.

    Parameters
    ----------
    path : str or os.PathLike
        The ending decides about the format.
    pixels : ndarray of uint8, shape (H, W), (H, W, 1) or (H, W, 3)

    Raises
    ------
    PictureError
        If the array or the ending does not fit, or the format cannot hold the picture.
    OSError
        If the file cannot be written.
    """
    from PIL import Image

    from .weights.atomic import replace_file

    name = os.fspath(path)
    kind = picture_format(name)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        raise PictureError(
            f"save_picture: expected uint8 (H,W) or (H,W,3), got {pixels.dtype} {pixels.shape}"
        )
    image = Image.fromarray(np.ascontiguousarray(pixels))
    with replace_file(name) as file:
        try:
            image.save(file, kind)
        except (ValueError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk, not the encoder
            raise PictureError(f"{name}: the picture cannot be written as {kind}: {error}") from None
