"""Data sets, transforms and loaders; pictures on their way into networks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .arrays import Arrays, Dataset, Subset
    from .cifar import CIFAR10, CIFAR100, read_cifar
    from .coco import COCO
    from .folders import ImageFolder, MaskFolder
    from .idx import MNIST, Idx, read_idx
    from .omniglot import Omniglot, OneShotRun, one_shot_runs
    from .preprocess import Preprocess
    from .sample import Batch, Sample, collate
    from .voc import VOC

# module -> names; loaded when one of them is asked for.
_LATER = {
    "arrays": ("Arrays", "Dataset", "Subset"),
    "cifar": ("CIFAR10", "CIFAR100", "read_cifar"),
    "coco": ("COCO",),
    "folders": ("ImageFolder", "MaskFolder"),
    "idx": ("MNIST", "Idx", "read_idx"),
    "omniglot": ("Omniglot", "OneShotRun", "one_shot_runs"),
    "preprocess": ("Preprocess",),
    "sample": ("Batch", "Sample", "collate"),
    "voc": ("VOC",),
}

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "COCO",
    "MNIST",
    "VOC",
    "Arrays",
    "Batch",
    "Dataset",
    "Idx",
    "ImageFolder",
    "MaskFolder",
    "Omniglot",
    "OneShotRun",
    "Preprocess",
    "Sample",
    "Subset",
    "collate",
    "one_shot_runs",
    "read_cifar",
    "read_idx",
]


def __getattr__(name: str) -> Any:
    import importlib

    for module, names in _LATER.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module 'cnnfast.data' has no attribute {name!r}")
