"""Steps of optimisers, and bounds on gradients, of many device arrays in one launch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from .array import DeviceArray, empty
from .loading import module

__all__ = ["STEPS", "clipped", "norm", "scaled", "together"]


class _Pending(threading.local):
    """Steps that wait for the end of a block: (name, settings) -> arrays of each parameter."""

    launches: dict[tuple[Any, ...], list[tuple[Any, ...]]] | None = None


_pending = _Pending()


class _Steps:
    """The steps under the names and with the arguments of the CPU module's."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        def step(*arguments: Any) -> None:
            count = sum(a is None or isinstance(a, DeviceArray) for a in arguments)
            arrays, settings = arguments[:count], arguments[count:]
            if _pending.launches is None:
                _launch(name, [arrays], *settings)
            else:
                _pending.launches.setdefault((name, *settings), []).append(arrays)

        return step


STEPS = _Steps()


@contextmanager
def together() -> Iterator[None]:
    """Take the steps of a block at its end, all with the same settings in one launch.

    Their arrays do not overlap.
    """
    _pending.launches = {}
    try:
        yield
    finally:
        launches, _pending.launches = _pending.launches, None
        for (name, *settings), rows in launches.items():
            _launch(name, rows, *settings)


def _launch(name: str, rows: Sequence[Sequence[Any]], *settings: Any) -> None:
    """A function of the CUDA module on rows of arrays of one size each, None among them."""
    buffers = [[None if a is None else a.buffer for a in row] for row in rows]
    getattr(module(), name)(buffers, [row[0].size for row in rows], *settings)


def _new(name: str, arrays: Sequence[DeviceArray], *settings: Any) -> list[DeviceArray]:
    """What a step makes of every array, in memory of its own."""
    made = [empty(a.shape) for a in arrays]
    _launch(name, list(zip(made, arrays, strict=True)), *settings)
    return made


def scaled(
    arrays: Sequence[DeviceArray],
    factor: float = 1.0,
    *,
    by: DeviceArray | None = None,
    unsound: DeviceArray | None = None,
) -> list[DeviceArray]:
    """Float32 arrays times a number, and times one in device memory.

    Parameters
    ----------
    arrays : sequence of DeviceArray
    factor : float
    by : DeviceArray of float32, optional
        Its first element multiplies them too.
    unsound : DeviceArray of int32, optional
        Its first element becomes 1 if a product is not finite, and else stays as it is.
    """
    ends = [None if a is None else a.buffer for a in (by, unsound)]
    return _new("optim_scale", arrays, factor, *ends)


def clipped(arrays: Sequence[DeviceArray], bound: float) -> list[DeviceArray]:
    """Float32 arrays held within -bound and bound; NaN stays."""
    return _new("optim_clip", arrays, bound)


def norm(arrays: Sequence[DeviceArray], most: float, *, largest: bool = False) -> DeviceArray:
    """Norm of all values of float32 arrays together, and the factor that holds it below a bound.

    Parameters
    ----------
    arrays : sequence of DeviceArray
    most : float
    largest : bool
        The largest absolute value in place of the root of the sum of squares.

    Returns
    -------
    DeviceArray of float32, shape (2,)
        The norm, and min(1, most / (norm + 1e-6)). Sums are in float64, in the same order every time.
    """
    result = empty((2,))
    _launch("optim_norm", [(a,) for a in arrays], largest, most, result.buffer)
    return result
