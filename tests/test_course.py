"""The numbers of the course hold on every backend, and a wrong one is told."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cnnfast import course
from cnnfast.cli import main
from cnnfast.course import Fact, Row

NAMES = [row.name for row in course.rows()]


@pytest.mark.parametrize("name", NAMES)
def test_row(backend: str, name: str) -> None:
    checked = list(course.run([name]))
    assert checked
    for c in checked:
        assert c.holds, c.error or (c.fact and (c.fact.what, c.fact.expected, c.fact.got))


def test_every_row_has_a_name_of_its_own() -> None:
    assert len(set(NAMES)) == len(NAMES)
    with pytest.raises(ValueError, match="there is no row 'F99'"):
        course.run(["F99"])


@pytest.mark.parametrize(
    ("expected", "got", "tolerance", "holds"),
    [
        (3, 3, 0, True),
        (3, 4, 0, False),
        ([1, 2], [1, 2, 3], 0, False),
        (1.0, 1.05, 0.1, True),
        (1.0, np.nan, 0.1, False),
        ((4, 4), np.array([4, 4]), 0, True),
        ("refused", "refused", 0, True),
    ],
)
def test_facts(expected: object, got: object, tolerance: float, holds: bool) -> None:
    assert Fact("it", expected, got, tolerance).holds is holds


def test_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["course", "check", "F1", "D5", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["held"], answer["failed"]) == (len(answer["facts"]), 0)
    assert main(["course", "check", "F1"]) == 0
    assert "-5 -4 0 8 / -10 -2 2 3" in capsys.readouterr().out
    assert main(["course", "check", "Z1"]) == 2
    assert "there is no row 'Z1'" in capsys.readouterr().err

    def broken() -> list[Fact]:
        raise KeyError("gone")

    rows = [Row("F1", "one that is wrong", lambda: [Fact("two", 2, 3)]), Row("F2", "one that fails", broken)]
    monkeypatch.setattr(course, "rows", lambda: rows)
    assert main(["course", "check"]) == 1
    out = capsys.readouterr().out
    assert "FAILED two: expected 2, got 3" in out
    assert "FAILED KeyError: 'gone'" in out
    assert "0 of 2 facts hold" in out
