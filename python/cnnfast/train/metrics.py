"""Metrics: functions of what a network gives and what it should give."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..errors import ShapeError
from ..tensor import on_host

Array = np.ndarray

#: ``metric(outputs, targets)`` gives a number, the mean of the batch, or an array with one for each sample.
Metric = Callable[[Any, Any], Any]

__all__ = ["Metric", "Sums", "accuracy", "named", "top_k"]


def _scores(outputs: Any, targets: Any, name: str) -> tuple[Array, Array]:
    """Scores of classes on the last axis, and whole-number labels without it."""
    while isinstance(outputs, (tuple, list, dict)) and outputs:
        outputs = next(iter(outputs.values())) if isinstance(outputs, dict) else outputs[0]
    scores, labels = on_host(outputs), on_host(targets)
    if labels.dtype.kind == "f" and labels.shape == scores.shape:  # probabilities of classes, as of mixup
        labels = labels.argmax(axis=-1)
    if labels.dtype.kind not in "iub" or labels.shape != scores.shape[:-1]:
        raise ShapeError(
            f"{name}: expected scores (..., classes) and labels (...), "
            f"got {labels.dtype} labels (scores {scores.shape}, labels {labels.shape})"
        )
    return scores, labels


def accuracy(outputs: Any, targets: Any) -> Array:
    """Share of places where the highest score is that of the label, for each sample.

    Parameters
    ----------
    outputs : ndarray, shape (N, ..., K)
        Scores; of several outputs the first counts. Of equal scores the lowest class wins.
    targets : ndarray of int, shape (N, ...), or of float, shape (N, ..., K)
        Labels, or probabilities of which the highest counts. Negative labels (``ignore_index``) are left out
        of a sample's share; NaN where nothing is left.

    Returns
    -------
    ndarray of float64, shape (N,)
    """
    scores, labels = _scores(outputs, targets, "accuracy")
    return _share(scores.argmax(axis=-1) == labels, labels)


def top_k(k: int) -> Metric:
    """A metric like :func:`accuracy` that counts labels among the ``k`` highest scores, named ``top{k}``."""
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
        raise ValueError(f"top_k: expected k as a whole number from 1, got {k!r}")

    def metric(outputs: Any, targets: Any) -> Array:
        scores, labels = _scores(outputs, targets, f"top{k}")
        used = np.clip(labels, 0, scores.shape[-1] - 1)
        own = np.take_along_axis(scores, used[..., None], axis=-1)
        place = np.arange(scores.shape[-1])
        better = (scores > own) | ((scores == own) & (place < used[..., None])) | np.isnan(scores)
        return _share(better.sum(axis=-1) < k, labels)

    metric.__name__ = f"top{k}"
    return metric


def _share(right: Array, labels: Array) -> Array:
    rows = (len(labels), -1) if len(labels) else (0, 1)
    used = (labels >= 0).reshape(rows)
    count = used.sum(axis=1)
    return np.where(count, (right.reshape(rows) & used).sum(axis=1) / np.maximum(count, 1), np.nan)


def named(metrics: Any) -> dict[str, Metric]:
    """Metrics by name, from names ("accuracy", "top5"), functions, or a mapping of functions."""
    if isinstance(metrics, Mapping):
        return dict(metrics)
    found: dict[str, Metric] = {}
    for metric in [metrics] if isinstance(metrics, str) or callable(metrics) else metrics or ():
        if metric == "accuracy":
            metric = accuracy
        elif isinstance(metric, str) and metric.startswith("top") and metric[3:].isdecimal():
            metric = top_k(int(metric[3:]))
        elif not callable(metric):
            raise ValueError(f"metrics: expected 'accuracy', 'top5' or functions, got {metric!r}")
        name = getattr(metric, "__name__", type(metric).__name__)
        if name in found or name == "loss":
            raise ValueError(f"metrics: expected a name of its own for each, got {name!r} twice")
        found[name] = metric
    return found


class Sums:
    """Means over samples, while batches come in."""

    def __init__(self, metrics: Mapping[str, Metric], state: Mapping[str, Any] | None = None) -> None:
        self._metrics = metrics
        self._totals: dict[str, tuple[float, float]] = {k: tuple(v) for k, v in (state or {}).items()}

    def add(self, count: int, loss: float, outputs: Any, targets: Any) -> None:
        """Take in a batch of ``count`` samples."""
        self._more("loss", loss * count, count)
        for name, metric in self._metrics.items():
            values = np.asarray(metric(outputs, targets), np.float64)
            if values.ndim:  # samples that say nothing are NaN
                used = ~np.isnan(values)
                self._more(name, float(values[used].sum()), int(used.sum()))
            else:
                self._more(name, float(values) * count, count)

    def _more(self, name: str, total: float, weight: float) -> None:
        before = self._totals.get(name, (0.0, 0.0))
        self._totals[name] = before[0] + total, before[1] + weight

    def means(self) -> dict[str, float]:
        """Loss and metrics so far; NaN where there was nothing."""
        return {
            name: total / weight if weight else float("nan") for name, (total, weight) in self._totals.items()
        }

    def state_dict(self) -> dict[str, Any]:
        return {name: list(pair) for name, pair in self._totals.items()}
