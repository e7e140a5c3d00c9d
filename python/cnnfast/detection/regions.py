"""Regions of interest: from scores and offsets of anchors to proposals, pooled features and chosen boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import ops
from ..ops.activations import apply_activation
from ..ops.registry import fail
from ..tensor import Tensor, beside
from .boxes import clip_boxes, decode_boxes, large_boxes

Array = np.ndarray

__all__ = [
    "Settings",
    "best",
    "choose_boxes",
    "pool_regions",
    "pooled",
    "prepare",
    "propose",
    "pyramid_level",
]

BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # of the offsets that the box head predicts
SIZE_DIVISOR = 32  # pictures are padded to multiples of this
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


@dataclass(frozen=True)
class Settings:
    """Numbers that choose regions and boxes.

    Attributes
    ----------
    min_size, max_size : int
        Pictures are resized so that the shorter side has ``min_size`` pixels, or the longer one ``max_size``
        where that is less.
    pre_nms, post_nms : int
        Proposals of each map that enter the suppression, and of each picture that leave it.
    proposal_iou, iou_threshold : float
        Overlaps above which a proposal, and a box of a class, gives way to a better one.
    proposal_size : float
        Smaller proposals are dropped.
    score_threshold : float
    max_detections : int
    """

    min_size: int = 800
    max_size: int = 1333
    pre_nms: int = 1000
    post_nms: int = 1000
    proposal_iou: float = 0.7
    proposal_size: float = 1e-3
    score_threshold: float = 0.05
    iou_threshold: float = 0.5
    max_detections: int = 100


def prepare(pictures: Sequence[Array], settings: Settings) -> tuple[Array, list[tuple[int, int]]]:
    """Normalise and resize pictures, and put them in one batch, with zeros below and to the right.

    Returns
    -------
    batch : ndarray of float32, shape (N, H, W, 3)
        H and W are multiples of 32.
    sizes : list of (int, int)
        Rows and columns of each picture in the batch.
    """
    resized = []
    for picture in pictures:
        h, w = picture.shape[:2]
        scale = min(settings.min_size / min(h, w), settings.max_size / max(h, w))
        size = max(1, int(h * scale)), max(1, int(w * scale))
        resized.append(ops.resize(((picture - MEAN) / STD)[None], size)[0])
    rows, columns = (max(p.shape[axis] for p in resized) for axis in (0, 1))
    rows, columns = (-(-n // SIZE_DIVISOR) * SIZE_DIVISOR for n in (rows, columns))
    batch = np.zeros((len(resized), rows, columns, 3), np.float32)
    for place, picture in zip(batch, resized, strict=True):
        place[: picture.shape[0], : picture.shape[1]] = picture
    return batch, [(picture.shape[0], picture.shape[1]) for picture in resized]


def best(scores: Array, count: int) -> Array:
    """Places of the ``count`` highest scores by falling score, equal ones by place; NaN is lowest."""
    scores = np.where(np.isnan(scores), -np.inf, scores)
    if count >= len(scores):
        return np.argsort(-scores, kind="stable")
    least = np.partition(scores, len(scores) - count)[len(scores) - count]
    places = np.flatnonzero(scores >= least)
    return places[np.argsort(-scores[places], kind="stable")][:count]


def propose(
    scores: Sequence[Array],
    offsets: Sequence[Array],
    anchors: Sequence[Array],
    size: tuple[int, int],
    settings: Settings,
) -> tuple[Array, Array]:
    """Regions of one picture that are likely to hold an object.

    Parameters
    ----------
    scores, offsets : one array (rows, columns, A) and (rows, columns, 4 A) per map
    anchors : one array (rows * columns * A, 4) per map
    size : (int, int)
        Rows and columns of the picture without padding.

    Returns
    -------
    boxes : ndarray, shape (K, 4)
    scores : ndarray, shape (K,)
        Probabilities, falling.
    """
    boxes, logits, levels = [], [], []
    for level, (score, offset, anchor) in enumerate(zip(scores, offsets, anchors, strict=True)):
        flat = score.ravel()
        places = best(flat, settings.pre_nms)
        boxes.append(decode_boxes(offset.reshape(-1, 4)[places], anchor[places]))
        logits.append(flat[places])
        levels.append(np.full(len(places), level))
    found = clip_boxes(np.concatenate(boxes), size)
    large = large_boxes(found, settings.proposal_size)
    found, maps = found[large], np.concatenate(levels)[large]
    probabilities = np.asarray(apply_activation("sigmoid", np.concatenate(logits)[large]))
    keep = ops.batched_nms(found, probabilities, maps, settings.proposal_iou)[: settings.post_nms]
    return found[keep], probabilities[keep]


def pyramid_level(boxes: Array, levels: int, *, first: int = 2, size: float = 224.0, level: int = 4) -> Array:
    """Which map a box is pooled from: that of 1/2^level for boxes of ``size``, one finer for half of it.

    Returns
    -------
    ndarray of int64, shape (K,)
        0 for the first of ``levels`` maps, whose scale is 1/2^first.

    References
    ----------
    Lin et al., "Feature pyramid networks for object detection", 2017, equation 1.
    """
    side = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    with np.errstate(divide="ignore"):
        k = np.floor(level + np.log2(side / boxes.dtype.type(size)) + boxes.dtype.type(1e-6))
    return (np.clip(k, first, first + levels - 1) - first).astype(np.int64)


def pool_regions(maps: Sequence[Any], regions: Array, size: int) -> Any:
    """RoIAlign of every region on the map of its size.

    Parameters
    ----------
    maps : arrays or Tensors (N, H, W, C) of 1/4, 1/8, ... of the pictures
    regions : ndarray, shape (K, 5)
        Number of the picture, x1, y1, x2, y2. For Tensors by rising :func:`pyramid_level`.

    Returns
    -------
    ndarray or Tensor, shape (K, size, size, C)
    """
    levels = pyramid_level(regions[:, 1:], len(maps))
    order = np.argsort(levels, kind="stable")
    parts = [
        ops.roi_align(
            features,
            beside(regions[levels == level], features),
            size,
            spatial_scale=0.25 / 2**level,
            sampling_ratio=2,
        )
        for level, features in enumerate(maps)
    ]
    together = ops.concat(parts, axis=0)
    if np.array_equal(order, np.arange(len(order))):
        return together
    if isinstance(together, Tensor):
        fail("pool_regions", "expected regions by rising level, for there is no gradient of another order")
    pooled = np.empty_like(together)
    pooled[order] = together
    return pooled


def pooled(maps: Sequence[Any], regions: Array, size: int, pooling: str, rows: int) -> Any:
    """Features of regions.

    Parameters
    ----------
    maps : sequence of arrays or Tensors (N, H, W, C)
        For "pool" and "align" the first counts.
    regions : ndarray, shape (K, 5)
        Number of the picture, x1, y1, x2, y2 in its pixels.
    size : int
    pooling : {"pyramid", "align", "pool"}
    rows : int
        Of the pictures that the maps are of.

    Returns
    -------
    ndarray or Tensor, shape (K, size, size, C)
    """
    if pooling == "pyramid":
        return pool_regions(maps, regions, size)
    x, scale = maps[0], maps[0].shape[1] / rows
    boxes = beside(regions, x)
    if pooling == "pool":
        return ops.roi_pool(x, boxes, size, spatial_scale=scale)
    return ops.roi_align(x, boxes, size, spatial_scale=scale, sampling_ratio=2)


def choose_boxes(
    logits: Array, offsets: Array, regions: Array, size: tuple[int, int], settings: Settings
) -> tuple[Array, Array, Array]:
    """Boxes, labels and scores of one picture from the values of its regions.

    Parameters
    ----------
    logits, offsets : ndarrays, shapes (K, classes) and (K, 4 classes)
    regions : ndarray, shape (K, 4)
    size : (int, int)
        Rows and columns of the picture without padding.

    Returns
    -------
    boxes, labels, scores : ndarrays, shapes (D, 4), (D,), (D,)
        By falling score; a region may stand there with several labels, but never as background, 0.
    """
    count, classes = logits.shape
    scores = ops.softmax(logits)[:, 1:].ravel()
    boxes = decode_boxes(offsets.reshape(count, classes, 4), regions[:, None], BOX_WEIGHTS)
    boxes = clip_boxes(boxes, size)[:, 1:].reshape(-1, 4)
    labels = np.tile(np.arange(1, classes), count)
    good = np.flatnonzero((scores > settings.score_threshold) & large_boxes(boxes, 1e-2))
    boxes, labels, scores = boxes[good], labels[good], scores[good]
    keep = ops.batched_nms(boxes, scores, labels, settings.iou_threshold)[: settings.max_detections]
    return boxes[keep], labels[keep], scores[keep]
