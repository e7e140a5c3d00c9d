"""Where a run is and how long it will take, on stderr."""

from __future__ import annotations

import sys
import time
from typing import Any

__all__ = ["Progress"]


class Progress:
    """A bar over all steps of a run with the time that is left, and a line for each epoch.

    Bars are tqdm's. Without tqdm, or where stderr is no terminal, the lines alone say how far it is.

    Parameters
    ----------
    shown : bool
    total, done : int
        Steps, and how many of them had been done before.
    """

    def __init__(self, shown: bool, total: int, done: int = 0, unit: str = "step") -> None:
        self._shown, self._total, self._first = shown, total, done
        self._done, self._since = done, time.monotonic()
        self._bar: Any = None
        if shown and sys.stderr.isatty():
            try:
                from tqdm import tqdm
            except ImportError:
                return
            self._bar = tqdm(total=total, initial=done, unit=unit, dynamic_ncols=True, leave=False)

    def step(self, text: str, **numbers: float) -> None:
        """One step more, with what is going on and numbers to show."""
        self._done += 1
        if self._bar is not None:
            self._bar.set_description(text, refresh=False)
            self._bar.set_postfix({k: f"{v:.4g}" for k, v in numbers.items()}, refresh=False)
            self._bar.update()

    def line(self, text: str) -> None:
        """A line that stays, with the time that is left where there is no bar to show it."""
        if not self._shown:
            return
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
            return
        print(f"{text}, {self.left()} left" if self.left() else text, file=sys.stderr, flush=True)

    def left(self) -> str:
        """Time to the end as h:mm:ss, at the speed so far; "" at the end and at the beginning."""
        done, more = self._done - self._first, self._total - self._done
        if done <= 0 or more <= 0:
            return ""
        seconds = round((time.monotonic() - self._since) / done * more)
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
