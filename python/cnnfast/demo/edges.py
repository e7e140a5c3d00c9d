"""Edge filters on a photograph."""

from __future__ import annotations

import numpy as np

from ..cli.filter import filter_picture, parse_kernel
from ..config import use_backend
from ..pictures import load_picture
from .registry import PICTURES, Picture, Shown, part, timed

_TIME, _DIFFER = "milliseconds", "pixels that differ from NumPy's"


@part("edges", "Edges of a photograph", "cnnfast filter photo.jpg --kernel sobel -o edges.png")
def edges() -> Shown:
    """Edge filters on a photograph."""
    photo = load_picture(PICTURES / "photo.jpg").astype(np.uint8)
    luma = load_picture(PICTURES / "photo.jpg", channels=1)
    pictures, rows = [Picture("photo", "the photograph", photo)], []
    for name in ("vertical", "horizontal", "sobel", "scharr"):
        kernel = parse_kernel(name)
        found, time = timed(filter_picture, luma, kernel)
        with use_backend("numpy"):
            differ = int((filter_picture(luma, kernel) != found).sum())
        rows.append({"filter": name, _TIME: time, _DIFFER: differ})
        pictures.append(Picture(f"edges_{name}", name, found))
    return Shown(
        "One convolution each: 3x3 weights over the brightness of the picture. Sobel and Scharr give the "
        "length of the gradient, the others the edges of one direction.",
        {"filters": len(rows), **{key: sum(row[key] for row in rows) for key in (_TIME, _DIFFER)}},
        pictures,
        rows,
    )
