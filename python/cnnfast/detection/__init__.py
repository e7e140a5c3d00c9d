"""Object detection: boxes and anchors, targets and losses of YOLO, detectors, and how good they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .anchors import Clusters, base_anchors, grid_anchors, kmeans_anchors, shape_iou
from .boxes import clip_boxes, decode_boxes, encode_boxes, large_boxes
from .letterbox import Letterbox, Letterboxed, letterbox

if TYPE_CHECKING:
    from .assignment import Assignment, Collision, assign, decode_grid, encode_grid
    from .detector import Detector
    from .drawing import draw
    from .heads import LandmarkHead, LocalisationHead
    from .names import CLASS_NAMES, class_names
    from .precision import AveragePrecision, CocoSummary, Objects, coco_summary, evaluate, voc_precision
    from .proposals import segment, selective_search
    from .region_training import RegionLoss, RegionTraining, Sampling, crops_of
    from .suppression import suppress
    from .training import SSDLoss, YOLOLoss, expect_few
    from .windows import SlidingWindows

# module -> names; loaded when one of them is asked for. The networks import what stands above.
_LATER = {
    "assignment": ("Assignment", "Collision", "assign", "decode_grid", "encode_grid"),
    "detector": ("Detector",),
    "drawing": ("draw",),
    "heads": ("LandmarkHead", "LocalisationHead"),
    "names": ("CLASS_NAMES", "class_names"),
    "precision": ("AveragePrecision", "CocoSummary", "Objects", "coco_summary", "evaluate", "voc_precision"),
    "proposals": ("segment", "selective_search"),
    "region_training": ("RegionLoss", "RegionTraining", "Sampling", "crops_of"),
    "suppression": ("suppress",),
    "training": ("SSDLoss", "YOLOLoss", "expect_few"),
    "windows": ("SlidingWindows",),
}

__all__ = [
    "CLASS_NAMES",
    "Assignment",
    "AveragePrecision",
    "Clusters",
    "CocoSummary",
    "Collision",
    "Detector",
    "LandmarkHead",
    "Letterbox",
    "Letterboxed",
    "LocalisationHead",
    "Objects",
    "RegionLoss",
    "RegionTraining",
    "SSDLoss",
    "Sampling",
    "SlidingWindows",
    "YOLOLoss",
    "assign",
    "base_anchors",
    "class_names",
    "clip_boxes",
    "coco_summary",
    "crops_of",
    "decode_boxes",
    "decode_grid",
    "draw",
    "encode_boxes",
    "encode_grid",
    "evaluate",
    "expect_few",
    "grid_anchors",
    "kmeans_anchors",
    "large_boxes",
    "letterbox",
    "segment",
    "selective_search",
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
