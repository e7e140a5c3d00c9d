"""``cnnfast course check``: every number of the course, worked out here and compared."""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np

from .. import course
from ..config import use_backend


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["check"], help="work out every number and compare it")
    parser.add_argument("rows", nargs="*", type=_row, metavar="ROW", help="rows, e.g. F1 D4 (default: all)")
    parser.add_argument("--backend", choices=["cpu", "numpy"], help="whose kernels (default: the best)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    if args.backend:
        with use_backend(args.backend):
            checked = _checked(args)
    else:
        checked = _checked(args)
    failed = sum(not c.holds for c in checked)
    if args.json:
        facts = [_plain(c) for c in checked]
        print(json.dumps({"facts": facts, "held": len(checked) - failed, "failed": failed}, indent=2))
    else:
        print(f"{len(checked) - failed} of {len(checked)} facts hold")
    return 1 if failed else 0


def _row(text: str) -> str:
    """For argparse: the name of a row."""
    known = [row.name for row in course.rows()]
    if text not in known:
        raise argparse.ArgumentTypeError(f"there is no row {text!r}; rows: {', '.join(known)}")
    return text


def _checked(args: argparse.Namespace) -> list[course.Checked]:
    checked = []
    for c in course.run(args.rows or None):
        checked.append(c)
        if not args.json:
            _print(c, first=len(checked) == 1 or checked[-2].row is not c.row)
    return checked


def _print(c: course.Checked, first: bool) -> None:
    if first:
        print(f"{c.row.name:4} {c.row.what}")
    if c.fact is None:
        print(f"     FAILED {c.error}")
    elif c.holds:
        print(f"     ok     {c.fact.what}: {_short(c.fact.got)}")
    else:
        print(f"     FAILED {c.fact.what}: expected {_short(c.fact.expected)}, got {_short(c.fact.got)}")


def _short(value: Any) -> str:
    """A number, a few of them, or a picture with slashes between its rows."""
    if isinstance(value, bool | str):
        return {True: "yes", False: "no"}[value] if isinstance(value, bool) else value
    values = np.asarray(value)
    if values.size > 20:
        return f"{' x '.join(map(str, values.shape))} values"
    if values.dtype.kind not in "iuf":
        return str(value)
    rows = values.reshape(-1, values.shape[-1]) if values.ndim > 1 else values.reshape(1, -1)
    return " / ".join(
        " ".join(f"{v:,}" if values.dtype.kind in "iu" else f"{v:.6g}" for v in r) for r in rows
    )


def _plain(c: course.Checked) -> dict[str, Any]:
    plain: dict[str, Any] = {"row": c.row.name, "title": c.row.what, "holds": c.holds}
    if c.fact is None:
        return {**plain, "error": c.error}
    expected, got = (np.asarray(v).tolist() for v in (c.fact.expected, c.fact.got))
    return {**plain, "what": c.fact.what, "expected": expected, "got": got, "tolerance": c.fact.tolerance}
