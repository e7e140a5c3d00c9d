"""Garments, by every classifier of Fashion-MNIST that comes with the package."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import ops
from ..config import current_backend
from ..data.idx import MNIST
from ..data.preprocess import Preprocess
from ..engine import compile
from ..face.sheet import sheet
from ..models.registry import create_model
from .registry import Picture, Shown, bundled, part, tiles, timed


@part("classify", "Which garment is it?", "cnnfast classify shoe.png --model lenet5 --weights fashion_mnist")
def classify() -> Shown:
    """Every classifier of Fashion-MNIST that comes with the package, on test pictures."""
    pictures = tiles("clothes.png", 10, 10).swapaxes(0, 1)  # a column for each class
    labels = np.tile(np.arange(10), 10)
    garments = list(pictures.reshape(-1, *pictures.shape[2:]))
    rows: list[dict[str, Any]] = []
    best, scores, stated = "", np.zeros((0, 10)), 0.0
    for known, label, trained in bundled("classification"):
        if trained.classes != "fashion_mnist":
            continue
        model = create_model(known.name, weights=label).eval()
        engine = compile(model, device=current_backend())
        x = Preprocess.of(trained)(garments)
        given = ops.softmax(engine(x))
        if trained.accuracy["top1"] > stated:
            best, scores, stated = known.name, given, trained.accuracy["top1"]
        rows.append(
            {
                "network": known.name,
                "parameters": sum(p.data.size for p in model.parameters()),
                "right of these": f"{(given.argmax(1) == labels).sum()} of {len(labels)}",
                "right of all 10,000 test pictures": f"{trained.accuracy['top1']:.2f} %",
                "milliseconds a picture": timed(engine, x[:1])[1],
            }
        )
    said = scores.argmax(1)
    captions = [f"{MNIST.FASHION[k]}\n{100 * p:.0f} %" for k, p in zip(said, scores.max(1), strict=True)]
    page = sheet(garments, captions, good=list(said == labels), side=68, columns=10)
    return Shown(
        "The first ten test pictures of each class of Fashion-MNIST, which took no part in training; red is "
        "wrong. The networks were trained by recipes of this repository.",
        {"pictures": len(labels), "right": int((said == labels).sum()), "network": best},
        [Picture("clothes", f"what {best} says, and how sure it is; a column for each class", page)],
        rows,
    )
