"""Networks out of ONNX files, and into them. Neither needs the ``onnx`` package."""

from .export import save
from .model import OnnxModule, load

__all__ = ["OnnxModule", "load", "save"]
