"""What goes into a network and what should come out of it, from any kind of data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..cuda import DeviceArray
from ..data.arrays import Dataset
from ..data.loader import DataLoader
from ..data.sample import Batch
from ..errors import DataError, ShapeError
from ..tensor import Tensor

Array = np.ndarray

__all__ = ["loader_of", "parts", "unwrapped"]

_BATCH_SIZE = 32


class Pairs:
    """Rows of two arrays of one length."""

    def __init__(self, inputs: Any, targets: Any) -> None:
        self.inputs, self.targets = np.asarray(inputs), np.asarray(targets)
        if not self.inputs.ndim or self.inputs.shape[:1] != self.targets.shape[:1]:
            raise ShapeError(
                f"data: expected inputs and targets of one length, got {self.inputs.shape} and "
                f"{self.targets.shape}"
            )

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Array, Array]:
        return self.inputs[index], self.targets[index]


def loader_of(
    name: str,
    data: Any,
    batch_size: int | None = None,
    *,
    shuffle: bool = False,
    seed: int = 0,
    workers: int = 0,
) -> DataLoader:
    """A loader over a data set or a pair of arrays, or the one that was given."""
    if isinstance(data, DataLoader):
        if batch_size is not None or workers:
            raise ValueError(
                f"{name}: expected batch_size and workers of the DataLoader alone, got batch_size "
                f"{batch_size!r} and workers {workers!r} too"
            )
        loader = data
    else:
        dataset: Dataset = Pairs(*data) if isinstance(data, tuple) and len(data) == 2 else data
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            raise DataError(
                f"{name}: expected a DataLoader, a data set or a pair of arrays, got a {type(data).__name__}"
            )
        size = _BATCH_SIZE if batch_size is None else batch_size
        loader = DataLoader(dataset, size, shuffle=shuffle, seed=seed, workers=workers)
    if not len(loader):
        raise DataError(f"{name}: expected at least one batch, got none ({len(loader.dataset)} samples)")
    return loader


def parts(batch: Any) -> tuple[Array, Any, int]:
    """Inputs, targets and number of samples of a batch.

    The targets of a :class:`cnnfast.data.Batch` are its labels, its masks where there are none, or else the
    batch itself, for losses that look at boxes.
    """
    if isinstance(batch, Batch):
        targets = next((part for part in (batch.labels, batch.masks) if part is not None), batch)
        return batch.pictures, targets, len(batch)
    if isinstance(batch, Sequence) and len(batch) == 2:
        inputs = np.asarray(batch[0])
        if inputs.ndim:
            return inputs, batch[1], len(inputs)
    raise DataError(
        f"data: expected batches of pictures and labels, or pairs of arrays, got a {type(batch).__name__}"
    )


def unwrapped(outputs: Any) -> Any:
    """Host arrays in place of tensors."""
    if isinstance(outputs, (tuple, list)):
        return type(outputs)(unwrapped(part) for part in outputs)
    if isinstance(outputs, dict):
        return {key: unwrapped(part) for key, part in outputs.items()}
    return outputs.numpy() if isinstance(outputs, (Tensor, DeviceArray)) else outputs
