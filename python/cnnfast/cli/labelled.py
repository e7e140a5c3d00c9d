"""Folders of labelled pictures as ``cnnfast train`` and ``cnnfast evaluate`` take them, and their notes."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import data
from ..errors import DataError, WeightsError
from ..models.registry import ModelEntry
from ..weights import read_metadata
from ..weights.limits import shown

_NOTE = "cnnfast.training"
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

#: name -> transform for pictures of so many rows and columns; the order in which they are applied.
AUGMENTATIONS = {
    "crop": lambda size: data.RandomCrop(size, padding=max(1, min(size) // 8)),
    "zoom": lambda size: data.RandomResizedCrop(size, scale=(0.25, 1.0)),
    "mirror": lambda size: data.Mirror(),
    "rotate": lambda size: data.RandomRotation(15.0),
    "shear": lambda size: data.RandomShear(10.0),
    "warp": lambda size: data.LocalWarp(),
    "colour": lambda size: data.ColourJitter(0.3, 0.3, 0.3),
    "pca": lambda size: data.PCAColour(),
    "cutout": lambda size: data.Cutout(max(1, min(size) // 4)),
}


@dataclass(frozen=True)
class Recipe:
    """How pictures become what a network takes; it is kept in the file with the weights.

    Attributes
    ----------
    model : str
    size : (int, int, int)
        Rows, columns, channels.
    mean, std : tuple of float
        Of values in 0..1.
    classes : tuple of str
        Names of the classes, or their numbers.
    """

    model: str
    size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]

    def metadata(self) -> dict[str, str]:
        return {_NOTE: json.dumps(self.__dict__)}

    @classmethod
    def of(cls, path: str) -> Recipe | None:
        """What a file says; None if it says nothing."""
        text = read_metadata(path).get(_NOTE) if os.path.isfile(path) else None
        if text is None:
            return None
        try:
            held = json.loads(text)
            rows, columns, channels = map(int, held["size"])
            return cls(
                str(held["model"]),
                (rows, columns, channels),
                tuple(map(float, held["mean"])),
                tuple(map(float, held["std"])),
                tuple(map(str, held["classes"])),
            )
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise WeightsError(f"{path}: expected a note on its training, came {shown(str(error))}") from None

    def transform(self, fixed: bool, augment: Sequence[str] = ()) -> data.Compose:
        """From samples of a data set to the network's input.

        Parameters
        ----------
        fixed : bool
            Whether all pictures have the same size: they are resized as a whole. Others are resized by their
            shorter side and cut, in training at a random place where the augmentation says so.
        augment : sequence of str
            Names in :data:`AUGMENTATIONS`.
        """
        size = self.size[:2]
        steps: list[Any] = []
        if fixed:
            steps.append(data.Resize(size))
        elif "zoom" not in augment:
            steps.append(data.Resize(max(1, round(max(size) * 8 / 7))))
            if "crop" not in augment:
                steps.append(data.CenterCrop(size))
        chosen = {name: AUGMENTATIONS[name](size) for name in AUGMENTATIONS if name in augment}
        hidden = chosen.pop("cutout", None)
        steps += [*chosen.values(), data.Normalize(self.mean, self.std)]
        return data.Compose(steps if hidden is None else [*steps, hidden])


def opened(path: str, channels: int) -> dict[str, Any]:
    """The parts of a data set, with pictures of so many channels."""
    if channels not in (1, 3):
        raise DataError(f"{path}: pictures have 1 or 3 channels, the network takes {channels}")
    if os.path.isfile(path) and path.lower().endswith(".zip"):
        parts: dict[str, Any] = {"train": data.Omniglot(path)}
    else:
        parts = data.recognise(path, channels=channels)
    return {name: _with_channels(part, channels) for name, part in parts.items()}


def _with_channels(part: Any, channels: int) -> Any:
    if isinstance(part, data.Omniglot) and channels != 1:
        raise DataError(f"{part.name}: its drawings are grey, the network takes {channels} channels")
    if not isinstance(part, data.Arrays) or part.pictures.shape[-1] == channels:
        return part
    pictures = part.pictures
    if channels == 3:
        pictures = np.repeat(pictures, 3, axis=-1)
    else:  # luma, as Pillow has it
        luma = np.array([0.299, 0.587, 0.114], np.float32)
        grey = [np.rint(block @ luma) for block in np.array_split(pictures, 16)]
        pictures = np.concatenate(grey)[..., None].astype(np.uint8)
    return data.Arrays(pictures, part.labels, classes=part.classes, name=part.name)


def is_fixed(part: Any) -> bool:
    """Whether all pictures of a part have one size."""
    return isinstance(part, (data.Arrays, data.Omniglot))


def class_names(part: Any) -> tuple[str, ...]:
    """Names of the classes, or their numbers."""
    return tuple(part.classes) or tuple(map(str, range(int(part.labels.max()) + 1)))


def held_out(part: Any, share: float, seed: int) -> tuple[Any, Any]:
    """A data set without a random share of its samples, and that share."""
    order = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(7,))).permutation(len(part))
    count = round(len(part) * share)
    if not 0 < count < len(part):
        raise DataError(f"expected samples on both sides of a share of {share:g}, got {len(part)} in all")
    return data.Subset(part, np.sort(order[count:])), data.Subset(part, np.sort(order[:count]))


def mean_and_std(
    known: ModelEntry, part: Any, weights: str | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Those that the weights were trained with; else those of the pictures in memory; else ImageNet's."""
    published = known.weights.get(weights) if weights else None
    if published is None and weights:
        published = known.usual
    if published is not None:
        return published.mean, published.std
    if isinstance(part, data.Arrays) and part.pictures.dtype == np.uint8:
        axes = range(part.pictures.shape[-1])
        counts = [np.bincount(part.pictures[..., c].reshape(-1), minlength=256) for c in axes]
        values, total = np.arange(256) / 255, counts[0].sum()
        mean = [float(n @ values / total) for n in counts]
        std = [float(max(n @ values**2 / total - m * m, 0) ** 0.5) for n, m in zip(counts, mean, strict=True)]
        return tuple(round(m, 4) for m in mean), tuple(max(round(s, 4), 1e-4) for s in std)
    mean3, std3 = _IMAGENET
    return (mean3, std3) if known.input_size[2] == 3 else ((sum(mean3) / 3,), (sum(std3) / 3,))
