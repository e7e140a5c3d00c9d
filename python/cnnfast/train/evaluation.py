"""How good a network is on a data set."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ..config import get_num_threads, set_num_threads
from ..data.loader import DataLoader
from ..errors import ShapeError
from ..nn.module import Module
from ..tensor import Tensor, no_grad
from .batches import loader_of, parts, unwrapped
from .metrics import Metric, Sums, named
from .placement import Placement
from .progress import Progress

Loss = Callable[[Any, Any], Any]

__all__ = ["evaluate"]


def evaluate(
    model: Module,
    data: Any,
    *,
    loss: Loss | None = None,
    metrics: Any = None,
    batch_size: int | None = None,
    workers: int = 0,
    threads: int | None = None,
    progress: bool = False,
    device: str | None = None,
    dtype: Any = None,
) -> dict[str, float]:
    """Loss and metrics of a network in evaluation mode, as means over all samples.

    Parameters
    ----------
    model : Module
        Its mode is the same afterwards.
    data : DataLoader, Dataset, or (inputs, targets)
        As for :func:`cnnfast.train.fit`.
    loss : callable, optional
        ``loss(outputs, targets)`` gives a Tensor with one element, the mean over its batch; the
        cross-entropy where it is left out.
    metrics : optional
        As for :func:`cnnfast.train.fit`.
    batch_size, workers : int, optional
        For data that is no DataLoader.
    threads : int, optional
        Threads of native calls meanwhile.
    progress : bool
    device, dtype : optional
        As for :func:`cnnfast.train.fit`.

    Returns
    -------
    dict of str to float
        ``"loss"`` and the metrics by name. Batches of another size give the same but for rounding.

    Raises
    ------
    ShapeError, DataError, BackendError, DTypeError, ValueError
    """
    placed = Placement("evaluate", model, device, dtype)
    checked = chosen_metrics(loss, metrics)
    loader = loader_of("evaluate", data, batch_size, workers=workers)
    bar = Progress(progress, len(loader), unit="batch")
    try:
        with threads_of(threads):
            return measured(placed, loader, chosen_loss(loss), checked, lambda: bar.step("evaluation"))
    finally:
        bar.close()
        if loader is not data:
            loader.close()


def measured(
    placed: Placement,
    loader: DataLoader,
    loss: Loss,
    metrics: Mapping[str, Metric],
    after_batch: Callable[[], Any] = lambda: None,
) -> dict[str, float]:
    """Means over one loop of a loader, which ends early if ``after_batch`` says True."""
    sums, training = Sums(metrics), [(m, m.training) for m in placed.model.modules()]
    placed.model.eval()
    try:
        with no_grad():
            for batch in loader:
                inputs, targets, count = parts(batch)
                outputs = placed(inputs)
                value = one_number(loss(outputs, targets))
                sums.add(count, float(value.numpy().reshape(())), unwrapped(outputs), targets)
                if after_batch():
                    break
    finally:
        for module, mode in training:
            module.training = mode
    return sums.means()


def chosen_loss(loss: Loss | None) -> Loss:
    """The loss, cross-entropy by default."""
    if loss is None:
        from ..losses import cross_entropy

        return cross_entropy
    return loss


def chosen_metrics(loss: Loss | None, metrics: Any) -> dict[str, Metric]:
    """Metrics by name; the accuracy where neither loss nor metrics were chosen."""
    return named(("accuracy",) if metrics is None and loss is None else metrics)


def one_number(value: Any) -> Tensor:
    """The result of a loss, which has to be a tensor of one element."""
    if not isinstance(value, Tensor) or value.size != 1:
        got = f"shape {value.shape}" if isinstance(value, (Tensor, np.ndarray)) else type(value).__name__
        raise ShapeError(f"loss: expected a Tensor with one element, the mean over the batch, got {got}")
    return value


@contextlib.contextmanager
def threads_of(count: int | None) -> Iterator[None]:
    """Another number of threads for the length of a block."""
    before = get_num_threads()
    if count is not None:
        set_num_threads(count)
    try:
        yield
    finally:
        if count is not None:
            set_num_threads(before)
