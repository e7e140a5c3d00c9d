"""Boxes as offsets from other boxes, and boxes within pictures. Boxes are (..., 4): x1, y1, x2, y2."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..ops.registry import array, fail

Array = np.ndarray
Weights = tuple[float, float, float, float]

__all__ = ["clip_boxes", "decode_boxes", "encode_boxes", "large_boxes"]

#: Logarithms of a change of size are held at this: a box grows at most from 16 to 1000 pixels.
MAX_LOG_SCALE = math.log(1000 / 16)


def _checked(op: str, name: str, boxes: Any, like: Array | None = None) -> Array:
    boxes = array(op, name, boxes, like)
    if not boxes.shape or boxes.shape[-1] != 4:
        fail(op, f"{name} must have shape (...,4)", **{name: boxes.shape})
    return boxes


def _centres(boxes: Array) -> tuple[Array, Array]:
    """Centre and size, each (..., 2)."""
    size = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + boxes.dtype.type(0.5) * size, size


def encode_boxes(boxes: Any, anchors: Any, weights: Weights = (1.0, 1.0, 1.0, 1.0)) -> Array:
    """Boxes as offsets from anchors: the inverse of :func:`decode_boxes`.

    Parameters
    ----------
    boxes, anchors : array_like, shapes (..., 4) that broadcast
        Of positive size.
    weights : four floats
        What the offsets of x, y, width and height are multiplied by.

    Returns
    -------
    ndarray, shape (..., 4)
        ``(x - xa) / wa``, ``(y - ya) / ha``, ``log(w / wa)``, ``log(h / ha)``, each times its weight.

    Raises
    ------
    ShapeError, DTypeError

    References
    ----------
    Girshick et al., "Rich feature hierarchies for accurate object detection", 2014, appendix C.
    """
    boxes = _checked("encode_boxes", "boxes", boxes)
    anchors = _checked("encode_boxes", "anchors", anchors, boxes)
    (centre, size), (origin, unit) = _centres(boxes), _centres(anchors)
    offsets = np.concatenate([(centre - origin) / unit, np.log(size / unit)], -1)
    return offsets * np.array(weights, boxes.dtype)


def decode_boxes(offsets: Any, anchors: Any, weights: Weights = (1.0, 1.0, 1.0, 1.0)) -> Array:
    """Boxes from offsets that a network predicts.

    Parameters
    ----------
    offsets, anchors : array_like, shapes (..., 4) that broadcast
    weights : four floats
        What the offsets were multiplied by.

    Returns
    -------
    ndarray, shape (..., 4)
        Changes of size are held below 1000 / 16, so that no exponential overflows.

    Raises
    ------
    ShapeError, DTypeError
    """
    offsets = _checked("decode_boxes", "offsets", offsets)
    anchors = _checked("decode_boxes", "anchors", anchors, offsets)
    real = offsets.dtype.type
    origin, unit = _centres(anchors)
    with np.errstate(over="ignore", invalid="ignore"):  # wild offsets give infinite boxes or NaN
        offsets = offsets / np.array(weights, offsets.dtype)
        centre = offsets[..., :2] * unit + origin
        half = real(0.5) * np.exp(np.minimum(offsets[..., 2:], real(MAX_LOG_SCALE))) * unit
        return np.concatenate([centre - half, centre + half], -1)


def clip_boxes(boxes: Any, size: tuple[int, int]) -> Array:
    """Boxes cut at the edges of a picture of ``size`` rows and columns."""
    boxes = _checked("clip_boxes", "boxes", boxes)
    rows, columns = size
    return np.minimum(np.maximum(boxes, 0), np.array([columns, rows, columns, rows], boxes.dtype))


def large_boxes(boxes: Any, least: float) -> Array:
    """Which boxes are at least so wide and so high; a mask of shape (...,)."""
    boxes = _checked("large_boxes", "boxes", boxes)
    return ((boxes[..., 2:] - boxes[..., :2]) >= least).all(-1)
