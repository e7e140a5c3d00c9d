"""Is it the same: encodings, their distances, and the losses that teach them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .. import losses, models, nn
from . import Chapter, Fact
from .architectures import parameters

CHAPTER = Chapter()


@CHAPTER.row("R3", "encodings and their distance")
def encodings() -> Iterator[Fact]:
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((2, 1, 128))
    there, back = losses.squared_distance(a, b).data, losses.squared_distance(b, a).data
    yield Fact("d(x, x)", 0.0, float(losses.squared_distance(a, a).data[0]))
    yield Fact("d is symmetric", there, back)
    yield Fact("d is squared Euclidean", ((a - b) ** 2).sum(), float(there[0]), 1e-9)


@CHAPTER.row("R4", "triplet loss")
def triplet() -> Iterator[Fact]:
    zero = np.zeros((1, 128))
    for distance in ("squared", "cosine"):
        cost = losses.triplet(zero, zero, zero, margin=0.2, distance=distance)
        yield Fact(f"encodings of zeros, {distance}: the margin", 0.2, float(cost.data), 1e-12)
    a, p, n = np.eye(3)[:, None]
    yield Fact("d(A,P) = 2, d(A,N) = 0", 2.2, float(losses.triplet(a, p, a, margin=0.2).data), 1e-12)
    yield Fact("d(A,P) = 0, d(A,N) = 2", 0.0, float(losses.triplet(a, a, n, margin=0.2).data))
    cost = losses.triplet(a, p, a, margin=0.3, distance="cosine")
    yield Fact("cos(A,N) - cos(A,P) + margin", 1.3, float(cost.data), 1e-12)


@CHAPTER.row("R6", "a binary head on two encodings")
def binary() -> Iterator[Fact]:
    for kind in ("l1", "chi_square"):
        head = nn.SiameseHead(128, kind)
        yield Fact(f"{kind}: parameters", 129, sum(p.size for p in head.parameters()))
    zero = np.zeros((1, 128), np.float32)
    yield Fact("chi-square: 0 / 0 = 0", 0.0, float(np.asarray(head(zero, zero)).ravel()[0]))


@CHAPTER.row("R7", "contrastive loss")
def contrastive() -> Iterator[Fact]:
    a = np.zeros((1, 2))
    for same, b, expected in ((True, 0.0, 0.0), (False, 0.0, 4.0), (False, 3.0, 0.0)):
        cost = losses.contrastive(a, np.array([[b, 0.0]]), [same], margin=2.0, reduction="sum")
        yield Fact(
            f"{'same' if same else 'different'}, {b:g} apart, margin 2", expected, 2 * float(cost.data)
        )


@CHAPTER.row("R8", "encoders of faces")
def encoders() -> Iterator[Fact]:
    yield from parameters(inception_resnet_v1=27_910_327)
    state = models.create_model("nn4_small2").state_dict()
    count = sum(a.size for a in state.values() if a.ndim)  # all but the counters of batches
    yield Fact("nn4_small2: parameters and statistics", 3_743_280, count)
