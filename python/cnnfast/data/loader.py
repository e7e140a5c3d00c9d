"""Batches of a data set, in an order and with augmentation that depend on the seed alone."""

from __future__ import annotations

import os
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .arrays import Dataset
from .plan import Plan
from .sample import collate as collate_samples
from .workers import Pending, Pool, make_pool

__all__ = ["DataLoader"]


class DataLoader:
    """Iterate over a data set in batches; each loop over the loader is one epoch.

    Order, augmentation and mixing come from generators for each (seed, epoch, index), so batches are the
    same bits whatever the number and kind of workers, and after ``load_state_dict`` a loop goes on as if it
    had not been interrupted.

    Parameters
    ----------
    dataset : Dataset
        Anything with ``len`` and items by number. Thread workers call it at the same time; processes get a
        copy when they start, and do not see later changes.
    batch_size : int
    shuffle : bool
        Whether each epoch has a random order of its own.
    seed : int
        From 0.
    workers : int
        0: batches are made when they are asked for. More: they are made ahead.
    worker_kind : {"thread", "process"}
        Threads start at once and share memory; decoding pictures and large arrays let others run. Processes
        are spawned (a script needs ``if __name__ == "__main__":``, and everything must pickle), and run
        Python code at the same time. They are kept for later epochs.
    prefetch : int
        Batches that are made ahead by each worker.
    drop_last : bool
        Whether a last batch that is smaller is left out.
    collate : callable
        From a list of samples to a batch; see :func:`cnnfast.data.collate`.
    transform : callable, optional
        ``transform(sample, rng)``; see :class:`cnnfast.data.Transform`.
    batch_transform : callable, optional
        ``batch_transform(batch, rng)``, such as :class:`cnnfast.data.Mixup`.

    Raises
    ------
    ValueError
        If a parameter makes no sense.

    Notes
    -----
    An error in a worker is raised where the batch would have come, with the worker's traceback; a worker that
    dies raises :class:`cnnfast.errors.WorkerError`. After an error or Ctrl-C no worker is left. A loop may be
    left early; the next one is the next epoch.

    Examples
    --------
    >>> from cnnfast import data
    >>> digits = data.Arrays(np.zeros((10, 28, 28), np.uint8), range(10))
    >>> loader = data.DataLoader(digits, 4, shuffle=True, transform=data.Normalize((0.5,), (0.5,)))
    >>> [batch.pictures.shape for batch in loader]
    [(4, 28, 28, 1), (4, 28, 28, 1), (2, 28, 28, 1)]
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        workers: int = 0,
        worker_kind: str = "thread",
        prefetch: int = 2,
        drop_last: bool = False,
        collate: Callable[[list[Any]], Any] = collate_samples,
        transform: Callable[[Any, np.random.Generator], Any] | None = None,
        batch_transform: Callable[[Any, np.random.Generator], Any] | None = None,
    ) -> None:
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("seed", seed, 0),
            ("workers", workers, 0),
            ("prefetch", prefetch, 1),
        ):
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
                raise ValueError(
                    f"DataLoader: expected {name} to be a whole number from {least}, got {value!r}"
                )
        if worker_kind not in ("thread", "process"):
            raise ValueError(f"DataLoader: expected worker_kind 'thread' or 'process', got {worker_kind!r}")
        self.dataset, self.batch_size = dataset, int(batch_size)
        self.workers, self.worker_kind, self.prefetch = int(workers), worker_kind, int(prefetch)
        self._plan = Plan(
            dataset,
            self.batch_size,
            bool(shuffle),
            int(seed),
            bool(drop_last),
            collate,
            transform,
            batch_transform,
        )
        self._pool: Pool | None = None
        self._close: weakref.finalize | None = None
        # Where the loop is: `batch` batches of `epoch` have been handed out. A new loop goes on from there if
        # nothing has been handed out since (`_begun`), and is the next epoch otherwise.
        self._epoch, self._batch, self._begun = 0, 0, False

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self._plan.batches

    @property
    def epoch(self) -> int:
        """Number of the epoch that is running, or that the next loop will be; from 0."""
        return self._epoch

    def __iter__(self) -> Iterator[Any]:
        if self._begun:
            self._epoch, self._batch = self._epoch + 1, 0
        self._begun = True
        return _Loop(self, self._epoch, self._batch)

    # --- state ---------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, int]:
        """Where the loop is, in plain numbers: after the last batch that was handed out."""
        epoch, batch = self._epoch, self._batch
        if batch >= len(self) and self._begun:
            epoch, batch = epoch + 1, 0
        return {"epoch": epoch, "batch": batch, **self._identity()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where another loader stood: the next loop yields the rest of its epoch.

        Raises
        ------
        ValueError
            If the state is of a loader of another size, seed, batch size or order.
        """
        for name, own in self._identity().items():
            if state.get(name) != own:
                raise ValueError(f"DataLoader: expected a state with {name} {own}, got {state.get(name)!r}")
        epoch, batch = state.get("epoch"), state.get("batch")
        for name, value in (("epoch", epoch), ("batch", batch)):
            if type(value) is not int or value < 0:
                raise ValueError(f"DataLoader: expected a state with a number of the {name}, got {value!r}")
        self._epoch, self._batch, self._begun = int(epoch), int(batch), False  # type: ignore[arg-type]

    def _identity(self) -> dict[str, int]:
        """What decides about the batches."""
        plan = self._plan
        return {
            "seed": plan.seed,
            "samples": len(self.dataset),
            "batch_size": plan.batch_size,
            "shuffle": int(plan.shuffle),
            "drop_last": int(plan.drop_last),
        }

    # --- workers -------------------------------------------------------------------------------

    def _makers(self) -> Pool:
        if self._pool is None or self._pool.process != os.getpid():
            self._pool = make_pool(self._plan, self.workers, self.worker_kind, self.prefetch)
            self._close = weakref.finalize(self, self._pool.close)
        return self._pool

    def close(self) -> None:
        """End the workers; a later loop starts new ones."""
        if self._close is not None:
            self._close()
        self._pool = self._close = None

    def __enter__(self) -> DataLoader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class _Loop:
    """The batches of one epoch, from some batch on."""

    _pool: Pool | None

    def __init__(self, loader: DataLoader, epoch: int, batch: int) -> None:
        self._pending: deque[Pending] = deque()
        self._done, self._pool = False, None
        self._loader, self._epoch = loader, epoch
        self._next, self._handed, self._end = batch, batch, len(loader)

    def __iter__(self) -> _Loop:
        return self

    def __next__(self) -> Any:
        if self._done:
            raise StopIteration
        loader = self._loader
        try:
            pool = loader._makers()
            if pool is not self._pool:  # the first time, after a fork, or after the loader was closed
                self._pool, self._next = pool, self._handed
                self._pending.clear()
            self._ask(pool)
            if not self._pending:
                self._done = True
                self._stand(self._epoch + 1, 0, begun=False)
                raise StopIteration
            made = self._pending.popleft().result()
            self._ask(pool)
        except StopIteration:
            raise
        except BaseException:
            self.close()
            loader.close()
            raise
        self._handed += 1
        self._stand(self._epoch, self._handed, begun=True)
        return made

    def _ask(self, pool: Pool) -> None:
        while self._next < self._end and len(self._pending) < pool.ahead:
            self._pending.append(pool.submit(self._epoch, self._next))
            self._next += 1

    def _stand(self, epoch: int, batch: int, *, begun: bool) -> None:
        loader = self._loader
        if loader._epoch == self._epoch:  # or a later loop has taken over
            loader._epoch, loader._batch, loader._begun = epoch, batch, begun

    def close(self) -> None:
        """Nobody waits for the batches that were asked for."""
        self._done = True
        while self._pending:
            self._pending.pop().cancel()

    def __del__(self) -> None:
        self.close()
