"""Building blocks of object detection."""

from .letterbox import Letterbox, letterbox

__all__ = ["Letterbox", "letterbox"]
