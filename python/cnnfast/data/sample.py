"""One picture with all that is known about it, and batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..errors import DTypeError, ShapeError

Array = np.ndarray

__all__ = ["Batch", "Sample", "collate"]


def _fail(what: str, got: object) -> None:
    raise ShapeError(f"Sample: expected {what}, got {got}")


@dataclass
class Sample:
    """A picture and what belongs to it; transforms move all of it together.

    Coordinates are continuous: the pixel in row r and column c covers [c, c + 1) x [r, r + 1), so that a
    picture of W columns reaches from 0 to W, and the middle of its first pixel is (.5, .5).

    Parameters
    ----------
    picture : ndarray, shape (H, W, C)
        Whole numbers of 8 bits or float32 in 0..255; kept as float32.
    label : int or ndarray, optional
        Class of the picture, or any array of numbers that stands for it.
    boxes : array_like, shape (K, 4), optional
        x1, y1, x2, y2; kept as float64, in which mirroring and cropping are exact.
    classes : array_like of int, shape (K,), optional
        One for each box.
    difficult : array_like of bool, shape (K,), optional
        Boxes that an evaluation leaves out: "difficult" ones of VOC, crowds of COCO.
    mask : ndarray of int, shape (H, W), optional
        Class or instance of each pixel.
    landmarks : array_like, shape (L, 2), optional
        x, y; NaN where a point is not marked. Points that leave the picture keep their coordinates.
    name : str
        Where the sample comes from.

    Raises
    ------
    ShapeError, DTypeError
        If the parts do not fit together.
    """

    picture: Array
    label: Any = None
    boxes: Any = None
    classes: Any = None
    difficult: Any = None
    mask: Any = None
    landmarks: Any = None
    name: str = ""

    def __post_init__(self) -> None:
        picture = np.asarray(self.picture)
        if picture.dtype != np.uint8 and picture.dtype != np.float32:
            raise DTypeError(f"Sample: expected a picture of uint8 or float32, got {picture.dtype}")
        if picture.ndim != 3 or 0 in picture.shape:
            _fail("a picture (H,W,C) with pixels", picture.shape)
        self.picture = picture.astype(np.float32, copy=False)
        if self.boxes is not None:
            self.boxes = np.asarray(self.boxes, np.float64)
            if self.boxes.size == 0:
                self.boxes = self.boxes.reshape(0, 4)
            if self.boxes.ndim != 2 or self.boxes.shape[1] != 4:
                _fail("boxes (K,4)", self.boxes.shape)
            count = len(self.boxes)
            self.classes = np.zeros(count, np.int64) if self.classes is None else _whole(self.classes)
            self.difficult = np.asarray(
                np.zeros(count) if self.difficult is None else self.difficult, np.bool_
            )
            for name in ("classes", "difficult"):
                if getattr(self, name).shape != (count,):
                    _fail(f"{name} ({count},) for boxes ({count},4)", getattr(self, name).shape)
        elif self.classes is not None or self.difficult is not None:
            _fail("boxes where there are classes", None)
        if self.mask is not None:
            self.mask = _whole(self.mask, np.int32)
            if self.mask.shape != self.size:
                _fail(f"a mask {self.size} for a picture {picture.shape}", self.mask.shape)
        if self.landmarks is not None:
            self.landmarks = np.asarray(self.landmarks, np.float64)
            if self.landmarks.ndim != 2 or self.landmarks.shape[1] != 2:
                _fail("landmarks (L,2)", self.landmarks.shape)

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.picture.shape[0], self.picture.shape[1]

    def with_(self, **parts: Any) -> Sample:
        """A copy with other parts."""
        return replace(self, **parts)


def _whole(values: Any, dtype: Any = np.int64) -> Array:
    values = np.asarray(values)
    if values.size and values.dtype.kind not in "biu":
        raise DTypeError(f"Sample: expected whole numbers for classes and masks, got {values.dtype}")
    return values.astype(dtype, copy=False)


@dataclass
class Batch:
    """Samples side by side. What no sample has is None.

    Attributes
    ----------
    pictures : ndarray of float32, shape (N, H, W, C)
    labels : ndarray of int64, shape (N,), or of what the samples' labels are; None
    boxes : list of N ndarrays of float32, shapes (K, 4); None
    classes : list of N ndarrays of int64, shapes (K,); None
    difficult : list of N ndarrays of bool, shapes (K,); None
    masks : ndarray of int32, shape (N, H, W); None
    landmarks : ndarray of float32, shape (N, L, 2); None
    names : list of str
    """

    pictures: Array
    labels: Any = None
    boxes: list[Array] | None = None
    classes: list[Array] | None = None
    difficult: list[Array] | None = None
    masks: Array | None = None
    landmarks: Array | None = None
    names: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.pictures)


def _stack(what: str, arrays: Sequence[Array]) -> Array:
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1:
        shown = ", ".join(str(shape) for shape in sorted(shapes)[:4])
        raise ShapeError(f"collate: expected {what} of one shape, got {shown}")
    return np.stack(arrays)


def collate(items: Sequence[Any]) -> Any:
    """Samples to a :class:`Batch`; tuples of numbers and arrays to a tuple of stacked arrays.

    Raises
    ------
    ShapeError
        If pictures, masks or landmarks have different shapes, or only some samples have a part.
    """
    if not isinstance(items[0], Sample):
        if isinstance(items[0], (tuple, list)):
            return tuple(_stack("items", [np.asarray(v) for v in part]) for part in zip(*items, strict=True))
        return _stack("items", [np.asarray(item) for item in items])

    def parts(name: str) -> list[Any] | None:
        found = [getattr(item, name) for item in items]
        missing = sum(part is None for part in found)
        if missing == len(found):
            return None
        if missing:
            raise ShapeError(f"collate: expected {name} of all samples or of none, {missing} have none")
        return found

    pictures = _stack("pictures", [item.picture for item in items])
    labels, boxes, masks, landmarks = map(parts, ("label", "boxes", "mask", "landmarks"))
    return Batch(
        pictures,
        None if labels is None else _stack("labels", [np.asarray(label) for label in labels]),
        None if boxes is None else [box.astype(np.float32) for box in boxes],
        parts("classes"),
        parts("difficult"),
        None if masks is None else _stack("masks", masks),
        None if landmarks is None else _stack("landmarks", landmarks).astype(np.float32),
        [item.name for item in items],
    )
