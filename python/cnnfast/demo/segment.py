"""Nuclei of cells, coloured and counted."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import BackendError
from ..pictures import load_mask, load_picture
from ..segmentation import Segmenter, class_dice, confusion_matrix, find_instances, overlay
from .registry import PICTURES, Picture, Shown, bundled, part, timed

_MARKED, _FOUND, _DICE = "nuclei marked by hand", "regions found", "Dice of pixels"


@part("segment", "Nuclei, coloured and counted", "cnnfast segment cells.png -o overlay.png --count")
def segment() -> Shown:
    """Nuclei of cells: pixels, regions, and how they compare with what is marked by hand."""
    known, label, _ = bundled("segmentation")[0]
    segmenter = Segmenter.pretrained(known.name, label)
    rows: list[dict[str, Any]] = []
    pictures: list[Picture] = []
    notes: list[str] = []
    for number in (1, 2):
        path = PICTURES / f"nuclei_{number}.png"
        marked = load_mask(PICTURES / f"nuclei_{number}_marked.png")
        mask, time = timed(segmenter, path, runs=3)
        drawn, found = mask, None
        try:
            drawn, regions = find_instances(mask, min_area=10)
            found = len(regions)
        except BackendError as error:  # SciPy is an extra
            notes = [f"Not counted. {error}"]
        rows.append(
            {
                "picture": number,
                _MARKED: int(marked.max()),
                _FOUND: found,
                _DICE: float(class_dice(confusion_matrix(mask, marked > 0, 2))[1]),
                "milliseconds": time,
            }
        )
        picture = load_picture(path)
        bright = (picture * (255 / picture.max())).astype(np.uint8)
        told = "nuclei" if found is None else f"{found} regions"
        pictures += [
            Picture(f"nuclei_{number}", f"picture {number}, brightened", bright),
            Picture(f"nuclei_{number}_found", f"{told} in picture {number}", overlay(bright, drawn)),
        ]
    counts = {} if notes else {key: sum(row[key] for row in rows) for key in (_MARKED, _FOUND)}
    return Shown(
        f"Fluorescence micrographs of 256x256 that were held out when {known.name} was trained. Connected "
        "pixels are one region, so that nuclei which touch count as one.",
        {**counts, f"{_DICE}, mean": sum(row[_DICE] for row in rows) / len(rows)},
        pictures,
        rows,
        notes,
    )
