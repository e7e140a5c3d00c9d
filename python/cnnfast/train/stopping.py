"""Early stopping."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["EarlyStopping"]


@dataclass(frozen=True)
class EarlyStopping:
    """Stop when a value has not become better for some epochs.

    It is worked out from the history alone, so a run that was resumed stops where it would have stopped.

    Parameters
    ----------
    patience : int
        Epochs in a row without a better value, from 1.
    monitor : str, optional
        A column of the history, e.g. ``"val_accuracy"``; ``val_loss``, or ``loss`` without validation.
    mode : {"auto", "min", "max"}
        Whether lower or higher is better; by the name where it is left open: lower for a loss.
    min_delta : float
        What a value has to be better by.
    restore_best : bool
        Whether the network ends with its weights of the best epoch.
    """

    patience: int = 5
    monitor: str | None = None
    mode: str = "auto"
    min_delta: float = 0.0
    restore_best: bool = False

    def __post_init__(self) -> None:
        patience = self.patience
        if isinstance(patience, bool) or not isinstance(patience, (int, np.integer)) or patience < 1:
            raise ValueError(f"EarlyStopping: expected patience as a whole number from 1, got {patience!r}")
        if self.mode not in ("auto", "min", "max"):
            raise ValueError(f"EarlyStopping: expected mode 'auto', 'min' or 'max', got {self.mode!r}")
        if not self.min_delta >= 0:
            raise ValueError(f"EarlyStopping: expected min_delta from 0, got {self.min_delta!r}")

    def best(self, values: Sequence[float]) -> int | None:
        """Place of the best value so far; None if all are NaN."""
        monitor = self.monitor or "val_loss"
        lower = self.mode == "min" or (self.mode == "auto" and ("loss" in monitor or "error" in monitor))
        sign = 1 if lower else -1
        best, place = math.inf, None
        for i, value in enumerate(values):
            if sign * value < best - (self.min_delta if place is not None else 0):
                best, place = sign * value, i
        return place

    def stops(self, values: Sequence[float]) -> bool:
        """Whether training ends after these values of the epochs so far."""
        best = self.best(values)
        return len(values) - (0 if best is None else best + 1) >= self.patience
