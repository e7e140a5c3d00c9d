"""Steps of optimisers on device arrays, under the names and with the arguments of the CPU module's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .array import DeviceArray
from .loading import module

__all__ = ["STEPS"]


class _Steps:
    def __getattr__(self, name: str) -> Callable[..., None]:
        step = getattr(module(), name)

        def run(first: DeviceArray, *arguments: Any) -> None:
            given = [a.buffer if isinstance(a, DeviceArray) else a for a in (first, *arguments)]
            step(first.size, *given)

        return run


STEPS = _Steps()
