"""Pictures of any size in a frame of fixed size, and boxes back from the frame to the picture."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .. import ops
from ..data.sample import Sample
from ..data.transforms import Generator, Transform
from ..ops.registry import array, fail, pair, rank

Array = np.ndarray

__all__ = ["Letterbox", "Letterboxed", "letterbox"]


class Letterbox(NamedTuple):
    """Where a picture lies in its frame: rows first in every pair.

    Attributes
    ----------
    picture, inner, frame : (int, int)
        Size of the picture, of its resized form, and of the frame around that.
    offset : (int, int)
        First row and column of the resized form.
    """

    picture: tuple[int, int]
    inner: tuple[int, int]
    frame: tuple[int, int]
    offset: tuple[int, int]

    @property
    def inverse(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Pixels of the picture for one of the frame, and where the picture begins, in its pixels."""
        scale = self.picture[0] / self.inner[0], self.picture[1] / self.inner[1]
        return scale, (self.offset[0] * scale[0], self.offset[1] * scale[1])

    def apply(self, boxes: Any) -> Array:
        """Boxes (..., 4) x1, y1, x2, y2 in pixels of the picture, in pixels of the frame."""
        boxes = array("Letterbox.apply", "boxes", boxes)
        factor, shift = _maps(self, boxes.dtype)
        return boxes * factor + shift

    def undo(self, boxes: Any, *, clip: bool = True) -> Array:
        """Boxes (..., 4) in pixels of the frame, in pixels of the picture; cut at its edges."""
        boxes = array("Letterbox.undo", "boxes", boxes)
        factor, shift = _maps(self, boxes.dtype)
        boxes = (boxes - shift) / factor
        if clip:
            h, w = self.picture
            boxes = np.clip(boxes, 0, np.array([w, h, w, h], boxes.dtype))
        return boxes


@functools.lru_cache(maxsize=64)
def _maps(place: Letterbox, dtype: Any) -> tuple[Array, Array]:
    """Factor from the picture to the frame, and shift, for x1, y1, x2, y2."""
    factor = [place.inner[1] / place.picture[1], place.inner[0] / place.picture[0]]
    return np.array(factor * 2, dtype), np.array([place.offset[1], place.offset[0]] * 2, dtype)


def letterbox(
    picture: Any, size: Any, *, fill: float = 0.5, centred: bool = True, antialias: bool = False
) -> tuple[Array, Letterbox]:
    """Resize a picture, keeping its proportions, until it just fits a frame; fill the rest.

    Parameters
    ----------
    picture : array_like, shape (H, W, C)
    size : int or (int, int)
        Rows and columns of the frame.
    fill : float
        Value of the rest; the default is the grey of darknet for pictures in 0..1.
    centred : bool
        Whether the picture lies in the middle or at the top left.
    antialias : bool
        Whether pixels of a picture that shrinks are means (:func:`cnnfast.ops.resize`). darknet, which the
        published YOLO weights come from, does without.

    Returns
    -------
    frame : ndarray, shape (*size, C)
    place : Letterbox
        Takes boxes back with ``place.undo(boxes)``.

    Raises
    ------
    ShapeError, DTypeError
    """
    op = "letterbox"
    picture = array(op, "picture", picture)
    rank(op, "picture", picture.shape, "H,W,C")
    rows, columns = pair(op, "size", tuple(size) if isinstance(size, list) else size, 1)
    h, w = picture.shape[:2]
    # Whole numbers decide which side fits; the other one is rounded down, but not to nothing.
    if h * columns > w * rows:
        inner = rows, max(1, w * rows // max(h, 1))
    else:
        inner = max(1, h * columns // max(w, 1)), columns
    resized = ops.resize(picture[None], inner, antialias=antialias)
    free = rows - inner[0], columns - inner[1]
    top, left = (free[0] // 2, free[1] // 2) if centred else (0, 0)
    frame = ops.pad2d(resized, ((top, free[0] - top), (left, free[1] - left)), value=fill)[0]
    return frame, Letterbox((h, w), inner, (rows, columns), (top, left))


@dataclass(frozen=True)
class Letterboxed(Transform):
    """:func:`letterbox` for samples with boxes: what a detector does to pictures, for its training.

    Parameters
    ----------
    size : int or (int, int)
        Rows and columns of the frame.
    fill : float
        In 0..255.

    Raises
    ------
    ShapeError
        When called with a sample that has a mask or landmarks.
    """

    size: int | tuple[int, int]
    fill: float = 127.5

    def __post_init__(self) -> None:
        self._size(self.size)
        self._number("fill", self.fill, 0, 255)

    def __call__(self, sample: Sample, rng: Generator) -> Sample:
        if sample.mask is not None or sample.landmarks is not None:
            fail("Letterboxed", "expected a sample without mask and landmarks")
        picture, place = letterbox(
            np.ascontiguousarray(sample.picture), self._size(self.size), fill=self.fill, antialias=True
        )
        boxes = None if sample.boxes is None else place.apply(sample.boxes)
        return sample.with_(picture=picture, boxes=boxes)
