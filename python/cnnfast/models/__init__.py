"""Networks by name: ``create_model("resnet50")`` or ``cnnfast.models.resnet50()``."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from .registry import create_model, list_models

__all__ = ["create_model", "list_models"]

# One file per family; all are imported when the list is asked for.
FAMILIES: tuple[str, ...] = (
    "alexnet",
    "character_encoder",
    "convnet39",
    "convolutional",
    "efficientnet",
    "faster_rcnn",
    "googlenet",
    "inception",
    "inception_resnet",
    "lenet",
    "mobilenet",
    "nn4_small2",
    "rcnn",
    "resnet",
    "segnet_vgg",
    "squeezenet",
    "ssd",
    "unet",
    "vgg",
    "yolo",
)


class _Package(ModuleType):
    """Where a file has the name of a network in it, the name means the network.

    Importing a file would otherwise put the file in its place.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and callable(getattr(value, name, None)):
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    import importlib

    if not name.startswith("_"):
        for family in FAMILIES:
            module = importlib.import_module(f"{__name__}.{family}")
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module 'cnnfast.models' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *list_models()})
