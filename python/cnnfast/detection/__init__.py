"""Object detection: boxes and anchors, targets and losses of YOLO, detectors, and how good they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .anchors import Clusters, base_anchors, grid_anchors, kmeans_anchors, shape_iou
from .boxes import clip_boxes, decode_boxes, encode_boxes, large_boxes
from .letterbox import Letterbox, Letterboxed, letterbox

if TYPE_CHECKING:
    from .assignment import Assignment, Collision, assign, decode_grid, encode_grid
    from .detector import Detector
    from .precision import AveragePrecision, CocoSummary, Objects, coco_summary, evaluate, voc_precision
    from .suppression import suppress
    from .training import YOLOLoss, expect_few

# module -> names; loaded when one of them is asked for. The networks import what stands above.
_LATER = {
    "assignment": ("Assignment", "Collision", "assign", "decode_grid", "encode_grid"),
    "detector": ("Detector",),
    "precision": ("AveragePrecision", "CocoSummary", "Objects", "coco_summary", "evaluate", "voc_precision"),
    "suppression": ("suppress",),
    "training": ("YOLOLoss", "expect_few"),
}

__all__ = [
    "Assignment",
    "AveragePrecision",
    "Clusters",
    "CocoSummary",
    "Collision",
    "Detector",
    "Letterbox",
    "Letterboxed",
    "Objects",
    "YOLOLoss",
    "assign",
    "base_anchors",
    "clip_boxes",
    "coco_summary",
    "decode_boxes",
    "decode_grid",
    "encode_boxes",
    "encode_grid",
    "evaluate",
    "expect_few",
    "grid_anchors",
    "kmeans_anchors",
    "large_boxes",
    "letterbox",
    "shape_iou",
    "suppress",
    "voc_precision",
]


def __getattr__(name: str) -> Any:
    import importlib

    for module, names in _LATER.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module 'cnnfast.detection' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
