"""Building blocks of object detection."""

from .anchors import base_anchors, grid_anchors
from .boxes import clip_boxes, decode_boxes, encode_boxes, large_boxes
from .letterbox import Letterbox, letterbox

__all__ = [
    "Letterbox",
    "base_anchors",
    "clip_boxes",
    "decode_boxes",
    "encode_boxes",
    "grid_anchors",
    "large_boxes",
    "letterbox",
]
