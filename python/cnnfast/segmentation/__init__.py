"""Segmentation: networks on pictures of any size, metrics, overlays, and counting what was found."""

from __future__ import annotations

from .instances import Instance, find_instances
from .metrics import class_dice, class_iou, confusion_matrix, foreground_dice, mean_iou, pixel_accuracy
from .overlay import overlay, palette
from .segmenter import Segmenter

__all__ = [
    "Instance",
    "Segmenter",
    "class_dice",
    "class_iou",
    "confusion_matrix",
    "find_instances",
    "foreground_dice",
    "mean_iou",
    "overlay",
    "palette",
    "pixel_accuracy",
]
