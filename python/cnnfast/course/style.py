"""What a picture shows and how: content, style, and what layers see."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .. import losses, models, ops
from ..graph.summary import summary
from . import Chapter, Fact

CHAPTER = Chapter()


@CHAPTER.row("N2", "content cost")
def content() -> Iterator[Fact]:
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((2, 1, 3, 4, 2))
    square = float(((x - y) ** 2).sum())
    for scale, factor in (("half", 1 / 2), ("mean_half", 1 / 48), ("mean_quarter", 1 / 96)):
        cost = float(losses.content(x, y, scale=scale).data)
        yield Fact(f"scale {scale}", square * factor, cost, 1e-9)


@CHAPTER.row("N3", "Gram matrix and style cost")
def style() -> Iterator[Fact]:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((1, 3, 4, 5))
    rows = x.reshape(-1, 5)
    gram = np.asarray(ops.gram_matrix(x))
    yield Fact("G = A' A", rows.T @ rows, gram[0], 1e-9)
    yield Fact("symmetric", gram[0].T, gram[0], 1e-12)
    yield Fact("no eigenvalue below zero", True, bool((np.linalg.eigvalsh(gram[0]) > -1e-9).all()))
    cost = float(losses.style([x], [np.zeros((1, 5, 5))]).data)
    yield Fact("1 / (2 H W C)^2 of the squares", float((gram**2).sum()) / (2 * 3 * 4 * 5) ** 2, cost, 1e-9)
    mean = losses.style([x] * 5, [np.zeros((1, 5, 5))] * 5)
    yield Fact("five layers: .2 each", cost, float(mean.data), 1e-9)


@CHAPTER.row("N4", "the features of VGG-19")
def features() -> Iterator[Fact]:
    table = summary(models.create_model("vgg19"), (224, 224, 3))
    maps = [row.shape[1] for row in table.rows if row.kind == "Conv2d" and row.shape]
    firsts = [maps[i] for i in (0, 2, 4, 8, 12)]
    yield Fact("convolutions", 16, len(maps))
    yield Fact("conv1_1 to conv5_1: rows", [224, 112, 56, 28, 14], firsts)
