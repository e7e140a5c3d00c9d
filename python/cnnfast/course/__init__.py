"""The numbers of the course that this package teaches, worked out anew by the package itself.

Every row of the curriculum is a function that yields facts: what is compared, what it must be, and what
comes out here. ``cnnfast course check`` prints them; :func:`run` gives them to Python.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Checked", "Fact", "Row", "rows", "run"]

_CHAPTERS = ("foundations", "architectures", "detection", "recognition", "style")


@dataclass(frozen=True)
class Fact:
    """One comparison.

    Attributes
    ----------
    what : str
    expected, got : Any
        Numbers, text, or nested lists and arrays of numbers.
    tolerance : float
        Largest absolute difference that passes; 0 asks for equality.
    """

    what: str
    expected: Any
    got: Any
    tolerance: float = 0.0

    @property
    def holds(self) -> bool:
        expected, got = np.asarray(self.expected), np.asarray(self.got)
        if expected.shape != got.shape:
            return False
        if not self.tolerance:
            return bool(np.array_equal(expected, got))
        return bool(np.all(np.abs(expected - got) <= self.tolerance))


@dataclass(frozen=True)
class Row:
    """One row of the curriculum: its name, what it says, and the function that yields its facts."""

    name: str
    what: str
    facts: Callable[[], Iterable[Fact]]


@dataclass(frozen=True)
class Checked:
    """A fact of a row, or the error that stopped the row.

    Attributes
    ----------
    row : Row
    fact : Fact or None
    error : str
        Empty where the fact could be worked out.
    """

    row: Row
    fact: Fact | None
    error: str = ""

    @property
    def holds(self) -> bool:
        return self.fact is not None and self.fact.holds


class Chapter:
    """Collects the rows that a module defines, in order."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def row(
        self, name: str, what: str
    ) -> Callable[[Callable[[], Iterable[Fact]]], Callable[[], Iterable[Fact]]]:
        """Decorator: the function yields the facts of the row with this name."""

        def add(facts: Callable[[], Iterable[Fact]]) -> Callable[[], Iterable[Fact]]:
            self.rows.append(Row(name, what, facts))
            return facts

        return add


def rows() -> list[Row]:
    """Every row, in the order of the curriculum."""
    return [row for name in _CHAPTERS for row in importlib.import_module(f"{__name__}.{name}").CHAPTER.rows]


def run(names: Iterable[str] | None = None) -> Iterator[Checked]:
    """Work out the facts of some rows on the backend in use.

    Parameters
    ----------
    names : iterable of str, optional
        Of rows, e.g. ``["F1", "D4"]``; all without.

    Yields
    ------
    Checked
        As they are worked out. An error ends its row, not the others.

    Raises
    ------
    ValueError
        For a name that no row has.
    """
    known = rows()
    wanted = None if names is None else list(names)
    for name in wanted or ():
        if all(row.name != name for row in known):
            raise ValueError(f"course: there is no row {name!r}; rows: {', '.join(r.name for r in known)}")
    return _run([row for row in known if wanted is None or row.name in wanted])


def _run(chosen: list[Row]) -> Iterator[Checked]:
    for row in chosen:
        try:
            for fact in row.facts():
                yield Checked(row, fact)
        except Exception as error:  # whatever it is, it is the answer of this row
            yield Checked(row, None, f"{type(error).__name__}: {error}")
