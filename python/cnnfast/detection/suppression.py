"""Overlapping boxes of one class: drop, weaken or fuse them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .. import ops
from ..ops.registry import choice

if TYPE_CHECKING:
    from ..models.yolo import Detections

METHODS = ("hard", "soft", "weighted")

__all__ = ["suppress"]


def suppress(
    found: Detections,
    *,
    method: str = "hard",
    iou_threshold: float = 0.45,
    score_threshold: float = 0.001,
    max_detections: int = 300,
) -> Detections:
    """Non-maximum suppression of each class for itself.

    Parameters
    ----------
    found : Detections
        Of one picture, in any order.
    method : {"hard", "soft", "weighted"}
        Boxes that overlap a better one by more than the threshold are dropped (:func:`cnnfast.ops.nms`), lose
        score by the Gaussian of their overlap (:func:`cnnfast.ops.soft_nms`), or are fused with it
        (:func:`cnnfast.ops.weighted_nms`).
    iou_threshold : float
        Not read by ``"soft"``.
    score_threshold : float
        What ``"soft"`` weakens below it is dropped.
    max_detections : int
        The best so many are kept.

    Returns
    -------
    Detections
        By falling score; of equal ones the lower class comes first for ``"soft"`` and ``"weighted"``, the
        earlier box for ``"hard"``.

    Raises
    ------
    ShapeError, DTypeError
    """
    boxes, scores, classes = found
    if method == "hard":
        keep = ops.batched_nms(boxes, scores, classes, iou_threshold)[:max_detections]
        return type(found)(boxes.take(keep, 0), scores.take(keep), classes.take(keep))
    choice("suppress", "method", method, METHODS)
    parts = [(boxes[:0], scores[:0], classes[:0])]
    for kind in np.unique(classes):
        mine = np.flatnonzero(classes == kind)
        if method == "soft":
            keep, weaker = ops.soft_nms(
                boxes[mine], scores[mine], score_threshold=score_threshold, method="gaussian"
            )
            parts.append((boxes[mine[keep]], weaker, classes[mine[keep]]))
        else:
            keep, fused = ops.weighted_nms(boxes[mine], scores[mine], iou_threshold)
            parts.append((fused, scores[mine[keep]], classes[mine[keep]]))
    boxes, scores, classes = (np.concatenate(part) for part in zip(*parts, strict=True))
    order = np.argsort(-scores, kind="stable")[:max_detections]
    return type(found)(boxes[order], scores[order], classes[order])
