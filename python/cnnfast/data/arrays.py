"""Data sets over arrays in memory, and parts of data sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from ..errors import DTypeError, ShapeError
from .sample import Sample

Array = np.ndarray

__all__ = ["Arrays", "Dataset", "Subset"]


class Dataset(Protocol):
    """What a loader reads: a length, and an item for each number below it."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


def place(index: int, count: int) -> int:
    """A place in a data set of ``count`` samples; negative ones count from the end."""
    if not -count <= index < count:
        raise IndexError(f"sample {index} of {count}")
    return int(index) % count


class Arrays:
    """Pictures and labels that are in memory.

    Parameters
    ----------
    pictures : ndarray of uint8 or float32, shape (N, H, W) or (N, H, W, C)
        0..255.
    labels : array_like of N labels, optional
    classes : sequence of str
        Names of the classes.
    name : str
        Samples are called ``name[i]``.

    Raises
    ------
    ShapeError, DTypeError
    """

    def __init__(self, pictures: Any, labels: Any = None, *, classes: Any = (), name: str = "") -> None:
        self.pictures = np.asarray(pictures)
        if self.pictures.ndim == 3:
            self.pictures = self.pictures[..., None]
        if self.pictures.ndim != 4 or 0 in self.pictures.shape[1:]:
            raise ShapeError(f"Arrays: expected pictures (N,H,W,C), got {self.pictures.shape}")
        if self.pictures.dtype != np.uint8 and self.pictures.dtype != np.float32:
            raise DTypeError(f"Arrays: expected pictures of uint8 or float32, got {self.pictures.dtype}")
        self.labels = None if labels is None else np.asarray(labels)
        if self.labels is not None:
            if len(self.labels) != len(self.pictures):
                raise ShapeError(
                    f"Arrays: expected {len(self.pictures)} labels, got {len(self.labels)} "
                    f"(pictures {self.pictures.shape}, labels {self.labels.shape})"
                )
            if self.labels.dtype.kind in "iu":
                self.labels = self.labels.astype(np.int64)
        self.classes = tuple(classes)
        self.name = name

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Sample:
        i = place(index, len(self))
        label = None if self.labels is None else self.labels[i]
        return Sample(self.pictures[i], label, name=f"{self.name}[{i}]")


class Subset:
    """Some samples of a data set, in an order of their own.

    Parameters
    ----------
    dataset : Dataset
    indices : sequence of int

    Raises
    ------
    IndexError
        If a number is outside the data set.
    """

    def __init__(self, dataset: Dataset, indices: Sequence[int] | Array) -> None:
        self.dataset = dataset
        self.indices = [place(int(i), len(dataset)) for i in indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[self.indices[place(index, len(self))]]
