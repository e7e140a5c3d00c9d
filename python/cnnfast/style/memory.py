"""How much memory style transfer takes, and what to keep of it where there is a bound."""

from __future__ import annotations

import functools
import itertools
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .. import config
from ..config import get_num_threads

__all__ = ["Plan", "check", "give_back", "mebibytes", "peak", "plans", "resident"]

_FLOAT = 4  # bytes
# Winograd's tiles are up to 49 values for 9, and one direction needs the weights turned as well; a little
# more for rows of whole vectors.
_PACKED = 2 * 49 / 9 + 1.5
# Buffers of the kernels: for all threads, and for each.
_SHARED, _EACH = 24 << 20, 4 << 20


@dataclass(frozen=True)
class Plan:
    """What is kept between two uses.

    Attributes
    ----------
    packed : bool
        Weights in the form that the quickest kernels read, ten times their size, besides themselves.
    starts : tuple of int
        Numbers of the steps that segments begin with, the first of them 0. Features inside of a segment are
        computed again on the way back, but for the last one's.
    bounded : bool
        Whether freed buffers go back to the system at once.
    bytes : int
        The estimate of the most that is needed at one time, besides pictures and the optimiser.
    again : float
        What is computed twice, as a share of the forward pass.
    """

    packed: bool = True
    starts: tuple[int, ...] = (0,)
    bounded: bool = False
    bytes: int = 0
    again: float = 0.0


def _size(shape: Sequence[int]) -> int:
    return _FLOAT * math.prod(shape)


def plans(steps: Sequence[Any], shapes: Sequence[tuple[int, ...]]) -> list[Plan]:
    """All plans that are worth a thought, the quickest first.

    Parameters
    ----------
    steps : sequence
        Of :meth:`.features.Features.until`.
    shapes : sequence of tuple
        Of their input and of what each gives.
    """
    weights = [step.weight.nbytes if hasattr(step, "weight") else 0 for step in steps]
    work = [w * math.prod(shape[1:3]) for w, shape in zip(weights, shapes[1:], strict=True)]
    sizes = [_size(shape) for shape in shapes]
    # A segment begins with what a pooling gives: the smallest features that are near.
    cuts = [i + 1 for i, w in enumerate(weights[:-1]) if not w]
    found = []
    for packed, count in itertools.product((True, False), range(len(cuts) + 1)):
        for chosen in itertools.combinations(cuts, count):
            starts = (0, *chosen)
            held = _features_bytes(steps, sizes, starts)
            form = _PACKED * sum(weights) if packed else 2 * max(weights)
            again = sum(work[: starts[-1]]) / sum(work)
            found.append(Plan(packed, starts, True, int(_fixed() + held + form), again))
    # Packed forms save more than is lost by computing everything twice.
    return sorted(found, key=lambda plan: (not plan.packed, plan.again, plan.bytes))


def forward_bytes(steps: Sequence[Any], shapes: Sequence[tuple[int, ...]]) -> int:
    """The most that a pass forwards takes which keeps nothing but Gram matrices."""
    weights = max((step.weight.nbytes for step in steps if hasattr(step, "weight")), default=0)
    # Of two neighbours the second, copied in another order for its Gram matrix.
    most = max(_size(shapes[i]) + 2 * _size(shapes[i + 1]) for i in range(len(steps)))
    return _fixed() + 2 * weights + most


def _fixed() -> int:
    return _SHARED + _EACH * get_num_threads()


def _features_bytes(steps: Sequence[Any], sizes: Sequence[int], starts: tuple[int, ...]) -> int:
    """The most that features and gradients take at one time."""
    most = 0
    ends = (*starts[1:], len(steps))
    for number, (first, last) in enumerate(zip(starts, ends, strict=True)):
        before = sum(sizes[s] for s in starts[: number + 1])
        # Forwards, the last segment apart, only two neighbours live.
        most = max(most, before + max(sizes[i] + sizes[i + 1] for i in range(first, last)))
        for i in range(last - 1, first - 1, -1):
            values = before + sum(sizes[first + 1 : i + 1])
            y, x = sizes[i + 1], sizes[i]
            # Features with two gradients (a cost's, or that before the ReLU), and then the input's.
            here = max(3 * y, y + x) if hasattr(steps[i], "weight") else y + x
            most = max(most, values + here)
    return most


def give_back() -> None:
    """Return memory that is free to the system: buffers of the kernels, and what the C library keeps."""
    if config._cpu is not None:
        config._cpu.drop_cached_buffers()
    trim = getattr(_library(), "malloc_trim", None)  # glibc has it
    if trim is not None:
        trim(0)


@functools.cache
def _library() -> Any:
    import ctypes

    return ctypes.CDLL(None) if sys.platform.startswith("linux") else None


def resident() -> int:
    """Bytes of memory that this process has now; where the system does not tell, the most it ever had."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            pages = int(file.read().split()[1])
        import resource

        return pages * resource.getpagesize()
    except (OSError, ImportError):
        pass
    return peak()


def peak() -> int:
    """Bytes of the most memory that this process ever had; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def check(memory: int | None, what: str, more: int = 0) -> None:
    """Stop where something takes, or has taken, more memory than is allowed.

    Raises
    ------
    MemoryError
    """
    needed = max(resident() + more, 0 if more else peak())
    if memory is not None and needed > memory:
        raise MemoryError(f"transfer: {what} takes {mebibytes(needed)}, {mebibytes(memory)} are allowed")


def mebibytes(n: int) -> str:
    return f"{-(-n // (1 << 20)):,} MiB"
