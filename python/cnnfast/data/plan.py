"""Which samples make which batch, and the random numbers of each: functions of seed, epoch and index alone.

So no worker can change what a batch holds, and a run goes on bit for bit from any batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .arrays import Dataset

Array = np.ndarray

__all__ = ["Plan", "generator"]

_ORDER, _SAMPLE, _BATCH = range(3)


def generator(seed: int, epoch: int, kind: int, number: int = 0) -> np.random.Generator:
    """Random numbers that no other epoch, kind or number has (:class:`numpy.random.SeedSequence`)."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(epoch, kind, number)))


@dataclass
class Plan:
    """All that a worker has to know; see :class:`cnnfast.data.DataLoader` for the members."""

    dataset: Dataset
    batch_size: int
    shuffle: bool
    seed: int
    drop_last: bool
    collate: Callable[[list[Any]], Any]
    transform: Callable[[Any, np.random.Generator], Any] | None
    batch_transform: Callable[[Any, np.random.Generator], Any] | None
    _order: tuple[int, Array] = field(default=(-1, np.empty(0, np.int64)), repr=False)

    @property
    def batches(self) -> int:
        count = len(self.dataset)
        return count // self.batch_size if self.drop_last else -(-count // self.batch_size)

    def order(self, epoch: int) -> Array:
        """Numbers of the samples in the order of an epoch."""
        known, order = self._order
        if known != epoch:
            order = np.arange(len(self.dataset))
            if self.shuffle:
                generator(self.seed, epoch, _ORDER).shuffle(order)
            self._order = epoch, order
        return order

    def make(self, epoch: int, batch: int, stopped: Callable[[], bool] = lambda: False) -> Any:
        """One batch; None if ``stopped`` says between two samples that nobody waits for it."""
        items = []
        for index in map(int, self.order(epoch)[batch * self.batch_size : (batch + 1) * self.batch_size]):
            if stopped():
                return None
            try:
                item = self.dataset[index]
                if self.transform is not None:
                    item = self.transform(item, generator(self.seed, epoch, _SAMPLE, index))
            except Exception as error:
                if hasattr(error, "add_note"):  # from Python 3.11 on
                    error.add_note(f"DataLoader: while sample {index} of epoch {epoch} was made")
                raise
            items.append(item)
        made = self.collate(items)
        if self.batch_transform is not None:
            made = self.batch_transform(made, generator(self.seed, epoch, _BATCH, batch))
        return made
