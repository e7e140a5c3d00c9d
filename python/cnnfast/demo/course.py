"""Every number of the curriculum, worked out anew."""

from __future__ import annotations

from typing import Any

from .. import course
from .registry import Shown, part


@part("course", "The numbers of the course", "cnnfast course check")
def check() -> Shown:
    """Every number of the curriculum, worked out anew."""
    rows: dict[str, dict[str, Any]] = {}
    for checked in course.run():
        name = checked.row.name
        row = rows.setdefault(name, {"row": name, "what it says": checked.row.what, "facts": 0, "hold": 0})
        row["facts"] += 1
        row["hold"] += checked.holds
    facts, hold = (sum(row[key] for row in rows.values()) for key in ("facts", "hold"))
    return Shown(
        "From the 6x6 edge picture to the boxes of SSD300: what lectures and papers state, and what comes "
        "out here.",
        {"facts": facts, "facts that hold": hold},
        table=list(rows.values()),
    )
