"""Data sets, transforms and loaders; pictures on their way into networks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .arrays import Arrays, Dataset, Subset
    from .cifar import CIFAR10, CIFAR100, read_cifar
    from .coco import COCO
    from .folders import ImageFolder, MaskFolder
    from .idx import MNIST, Idx, read_idx
    from .loader import DataLoader
    from .omniglot import Omniglot, OneShotRun, one_shot_runs
    from .preprocess import Preprocess
    from .recognition import recognise, recognise_boxes, recognise_masks
    from .sample import Batch, Sample, collate
    from .transforms import Compose, RandomApply, Transform
    from .transforms_colour import ColourJitter, ColourShift, Normalize, PCAColour
    from .transforms_geometry import (
        CenterCrop,
        Mirror,
        Pad,
        QuarterTurn,
        RandomCrop,
        RandomResizedCrop,
        Resize,
        crop,
        mirror,
        resize,
        turn,
    )
    from .transforms_mix import Cutout, Mixup
    from .transforms_warp import (
        LocalWarp,
        RandomAffine,
        RandomRotation,
        RandomShear,
        affine,
        affine_matrix,
        warp,
    )
    from .voc import VOC

# module -> names; loaded when one of them is asked for.
_LATER = {
    "arrays": ("Arrays", "Dataset", "Subset"),
    "cifar": ("CIFAR10", "CIFAR100", "read_cifar"),
    "coco": ("COCO",),
    "folders": ("ImageFolder", "MaskFolder"),
    "idx": ("MNIST", "Idx", "read_idx"),
    "loader": ("DataLoader",),
    "omniglot": ("Omniglot", "OneShotRun", "one_shot_runs"),
    "preprocess": ("Preprocess",),
    "recognition": ("recognise", "recognise_boxes", "recognise_masks"),
    "sample": ("Batch", "Sample", "collate"),
    "transforms": ("Compose", "RandomApply", "Transform"),
    "transforms_colour": ("ColourJitter", "ColourShift", "Normalize", "PCAColour"),
    "transforms_geometry": (
        "CenterCrop",
        "Mirror",
        "Pad",
        "QuarterTurn",
        "RandomCrop",
        "RandomResizedCrop",
        "Resize",
        "crop",
        "mirror",
        "resize",
        "turn",
    ),
    "transforms_mix": ("Cutout", "Mixup"),
    "transforms_warp": (
        "LocalWarp",
        "RandomAffine",
        "RandomRotation",
        "RandomShear",
        "affine",
        "affine_matrix",
        "warp",
    ),
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
    "CenterCrop",
    "ColourJitter",
    "ColourShift",
    "Compose",
    "Cutout",
    "DataLoader",
    "Dataset",
    "Idx",
    "ImageFolder",
    "LocalWarp",
    "MaskFolder",
    "Mirror",
    "Mixup",
    "Normalize",
    "Omniglot",
    "OneShotRun",
    "PCAColour",
    "Pad",
    "Preprocess",
    "QuarterTurn",
    "RandomAffine",
    "RandomApply",
    "RandomCrop",
    "RandomResizedCrop",
    "RandomRotation",
    "RandomShear",
    "Resize",
    "Sample",
    "Subset",
    "Transform",
    "affine",
    "affine_matrix",
    "collate",
    "crop",
    "mirror",
    "one_shot_runs",
    "read_cifar",
    "read_idx",
    "recognise",
    "recognise_boxes",
    "recognise_masks",
    "resize",
    "turn",
    "warp",
]


def __getattr__(name: str) -> Any:
    import importlib

    for module, names in _LATER.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module 'cnnfast.data' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
