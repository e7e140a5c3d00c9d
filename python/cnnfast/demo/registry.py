"""The parts of the demonstration: what they are called, what they show, and running them."""

from __future__ import annotations

import importlib
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..config import config, current_backend
from ..models.registry import ModelEntry, Pretrained, entry, list_models
from ..pictures import load_picture

Array = np.ndarray

__all__ = [
    "PICTURES",
    "Done",
    "Part",
    "Picture",
    "Shown",
    "bundled",
    "is_native",
    "names",
    "part",
    "run",
    "tiles",
    "timed",
    "without_native",
]

#: The pictures that come with the package; README.md there names their sources and licences.
PICTURES = Path(__file__).parent / "pictures"

# Each is a module of that name; in the order of the page.
_NAMES = ("edges", "classify", "detect", "segment", "face", "style", "inspect", "engine", "speed", "course")


@dataclass(frozen=True)
class Picture:
    """One picture of the page.

    Attributes
    ----------
    name : str
        Of its file, without ending.
    caption : str
    pixels : ndarray of uint8, shape (H, W) or (H, W, 3)
    """

    name: str
    caption: str
    pixels: Array


@dataclass(frozen=True)
class Shown:
    """What a part shows.

    Attributes
    ----------
    words : str
        What there is to see, and where the pictures are from.
    numbers : dict of str to number or str
        Units are in the names; times are medians.
    pictures : sequence of Picture
    table : sequence of dict
        Rows, with the same headings; text, numbers, or None for what there is none of.
    notes : sequence of str
        What is missing here, and how to get it.
    """

    words: str
    numbers: dict[str, Any]
    pictures: Sequence[Picture] = ()
    table: Sequence[dict[str, Any]] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Part:
    """A part that can be asked for by name.

    Attributes
    ----------
    name, title : str
    command : str
        The same with a picture of one's own, as a line of a shell.
    make : callable
        Without arguments; gives what the part shows.
    """

    name: str
    title: str
    command: str
    make: Callable[[], Shown]


@dataclass(frozen=True)
class Done:
    """A part that was run, and how long that took."""

    part: Part
    shown: Shown
    seconds: float


_parts: dict[str, Part] = {}


def part(name: str, title: str, command: str) -> Callable[[Callable[[], Shown]], Callable[[], Shown]]:
    """Decorator: the function is the part of this name."""

    def add(make: Callable[[], Shown]) -> Callable[[], Shown]:
        _parts[name] = Part(name, title, command, make)
        return make

    return add


def _known() -> dict[str, Part]:
    for name in _NAMES:
        importlib.import_module(f"{__package__}.{name}")
    return {name: _parts[name] for name in _NAMES}


def names() -> list[str]:
    """Names of all parts, in the order of the page."""
    return list(_known())


def run(only: Iterable[str] | None = None) -> Iterator[Done]:
    """Run parts on the backend in use, with the threads in use.

    Parameters
    ----------
    only : iterable of str, optional
        Names of parts; all without. They run in the order of :func:`names`.

    Yields
    ------
    Done
        One after the other, as they are done.

    Raises
    ------
    ValueError
        For a name that no part has.

    Examples
    --------
    >>> [done] = run(["course"])
    >>> done.shown.numbers["facts that hold"] == done.shown.numbers["facts"]
    True
    """
    known = _known()
    wanted = set(known if only is None else only)
    for name in sorted(wanted - set(known)):
        raise ValueError(f"demo: there is no part {name!r}; parts: {', '.join(known)}")
    return _run([one for one in known.values() if one.name in wanted])


def _run(chosen: list[Part]) -> Iterator[Done]:
    for one in chosen:
        started = time.perf_counter()
        shown = one.make()
        yield Done(one, shown, time.perf_counter() - started)


# --- what several parts need -----------------------------------------------------------------------


def bundled(task: str | None = None) -> list[tuple[ModelEntry, str, Pretrained]]:
    """Networks whose weights come with the package: entry, name of the weights, what is known of them."""
    return [
        (known, label, trained)
        for known in map(entry, list_models(task))
        for label, trained in known.weights.items()
        if trained.file
    ]


def timed(call: Callable[..., Any], *arguments: Any, runs: int = 5) -> tuple[Any, float]:
    """What a call gives, and its median time in milliseconds.

    A run that is not timed goes before, unless a single one is asked for.
    """
    if runs > 1:
        call(*arguments)
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        result = call(*arguments)
        times.append(1e3 * (time.perf_counter() - started))
    return result, statistics.median(times)


def is_native() -> bool:
    """Whether the kernels run, rather than the NumPy definitions."""
    return current_backend() == "cpu"


def without_native() -> list[str]:
    """A word where there are no kernels."""
    if is_native():
        return []
    reason = config()["native"].get("reason", "another backend was asked for")
    return [f"This runs on NumPy alone: {reason}"]


def tiles(name: str, rows: int, columns: int) -> Array:
    """Pictures (rows, columns, h, w, 1), uint8, of a sheet on which they lie edge to edge."""
    pixels = load_picture(PICTURES / name, channels=1).astype(np.uint8)
    h, w = pixels.shape[0] // rows, pixels.shape[1] // columns
    return pixels.reshape(rows, h, columns, w, 1).swapaxes(1, 2)
