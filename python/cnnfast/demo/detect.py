"""Blood cells in boxes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from .. import ops
from ..detection import Detector, draw
from ..pictures import load_picture
from .registry import PICTURES, Picture, Shown, bundled, part, timed

_OVERLAP = 0.5  # least IoU of a box with one of its class marked by hand to count as found


@part("detect", "Blood cells in boxes", "cnnfast detect blood.jpg -o boxes.png")
def detect() -> Shown:
    """Cells in blood smears, and how many of those marked by hand are found."""
    known, label, _ = bundled("detection")[0]
    detector = Detector.pretrained(known.name, label)
    marked = json.loads((PICTURES / "blood.json").read_text())["pictures"]
    rows: list[dict[str, Any]] = []
    pictures = []
    hits = []
    for name, cells in marked.items():
        blood = load_picture(PICTURES / f"{name}.jpg")
        found, time = timed(detector, blood, runs=3)
        boxes, classes = np.array(cells["boxes"], np.float32), np.array(cells["classes"])
        near = ops.box_iou(boxes, found.boxes) >= _OVERLAP
        hit = (near & (classes[:, None] == found.classes)).any(axis=1)
        hits += hit.tolist()
        row = {"picture": name, "boxes": len(found.boxes)}
        for k, cell in enumerate(detector.names):
            row[f"{cell} found"] = f"{hit[classes == k].sum()} of {(classes == k).sum()}"
        rows.append({**row, "milliseconds": time})
        pictures.append(
            Picture(f"{name}_found", f"{len(found.boxes)} cells", draw(blood, found, detector.names))
        )
    return Shown(
        f"Blood smears of the test part of BCCD, which took no part in the training of {known.name}: red "
        "cells, white cells and platelets with their scores. A cell that is marked by hand counts as found "
        f"where a box of its class has an IoU of at least {_OVERLAP} with it; not all red cells are marked.",
        {"boxes": sum(row["boxes"] for row in rows), "cells marked by hand": len(hits), "found": sum(hits)},
        pictures,
        rows,
    )
