"""Is it the same: encodings, their distances, and the losses that teach them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import data, face, losses, models, nn, ops
from . import Chapter, Fact
from .architectures import parameters

CHAPTER = Chapter()


class Corner(nn.Module):
    """The first pixel of a picture for an encoding."""

    def forward(self, x: Any) -> Any:
        return ops.reshape(x[:, :1, :1], (x.shape[0], 3))


def coloured(*rgb: int) -> np.ndarray:
    return np.full((8, 8, 3), rgb, np.uint8)


@CHAPTER.row("R1", "verification (1:1) and recognition (1:K, with unknown)")
def verification() -> Iterator[Fact]:
    values = np.array([0.5, 0.7, 0.9])
    for measure, expected in (
        ("squared_distance", [True, True, False]),
        ("cosine_similarity", [False, True, True]),
    ):
        yield Fact(f"the same at .5 .7 .9, {measure} .7", expected, face.accepts(values, 0.7, measure))


@CHAPTER.row("R2", "one picture enrols, nothing is trained")
def one_shot() -> Iterator[Fact]:
    seen = data.Preprocess(None, 8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    who = face.Recognizer(face.Encoder(Corner(), seen), threshold=0.1)
    who.enrol("red", coloured(200, 10, 10))
    who.enrol("blue", coloured(10, 10, 200))
    answers = [who.identify(coloured(*c)).name for c in ((250, 20, 10), (0, 20, 180), (10, 200, 10))]
    yield Fact(
        "a red one, a blue one, a green one", "red blue unknown", " ".join(n or "unknown" for n in answers)
    )


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
    two = [np.concatenate([v, v]) for v in (a, p, a)]
    yield Fact("the sum over a batch of two", 4.4, float(losses.triplet(*two, margin=0.2).data), 1e-12)
    torch = losses.triplet_margin(*two, margin=0.2, eps=0.0)
    yield Fact("torch's: not squared, the mean", 2**0.5 + 0.2, float(torch.data), 1e-12)


@CHAPTER.row("R5", "mining of triplets equals trying all of them")
def mining() -> Iterator[Fact]:
    rng = np.random.default_rng(5)
    x, labels = rng.standard_normal((9, 4)), np.repeat(np.arange(3), 3)
    d = ((x[:, None] - x) ** 2).sum(2)
    every = [(a, p, n) for a in range(9) for p in range(9) for n in range(9)
             if a != p and labels[a] == labels[p] != labels[n]]  # fmt: skip
    found = face.mine_triplets(x, labels, kind="all", margin=0.2)
    yield Fact("all", every, np.stack([found.anchor, found.positive, found.negative], axis=1))
    active = np.mean([d[a, p] - d[a, n] + 0.2 > 0 for a, p, n in every])
    yield Fact("active part", active, found.active, 1e-12)
    hard = []
    for a in range(9):
        mine = [p for p in range(9) if p != a and labels[p] == labels[a]]
        others = [n for n in range(9) if labels[n] != labels[a]]
        hard.append((a, max(mine, key=lambda p: d[a, p]), min(others, key=lambda n: d[a, n])))
    found = face.mine_triplets(x, labels, kind="hard", margin=0.2)
    yield Fact("hard", hard, np.stack([found.anchor, found.positive, found.negative], axis=1))
    between = []
    for a, p in sorted({(a, p) for a, p, _ in every}):
        near = [n for n in range(9) if labels[n] != labels[a] and d[a, p] < d[a, n] < d[a, p] + 2]
        between += [(a, p, min(near, key=lambda n: d[a, n]))] if near else []
    found = face.mine_triplets(x, labels, kind="semi-hard", margin=2.0)
    yield Fact("semi-hard", between, np.stack([found.anchor, found.positive, found.negative], axis=1))


@CHAPTER.row("R6", "a binary head on two encodings")
def binary() -> Iterator[Fact]:
    for kind in ("l1", "chi_square"):
        head = nn.SiameseHead(128, kind)
        yield Fact(f"{kind}: parameters", 129, sum(p.size for p in head.parameters()))
    zero = np.zeros((1, 128), np.float32)
    yield Fact("chi-square: 0 / 0 = 0", 0.0, float(np.asarray(head(zero, zero)).ravel()[0]))


@CHAPTER.row("R7", "contrastive loss, softmax over identities, encodings that are kept")
def contrastive() -> Iterator[Fact]:
    a = np.zeros((1, 2))
    for same, b, expected in ((True, 0.0, 0.0), (False, 0.0, 4.0), (False, 3.0, 0.0)):
        cost = losses.contrastive(a, np.array([[b, 0.0]]), [same], margin=2.0, reduction="sum")
        yield Fact(
            f"{'same' if same else 'different'}, {b:g} apart, margin 2", expected, 2 * float(cost.data)
        )
    scores = face.IdentityClassifier(128, 10).initialize(0)(np.zeros((2, 128), np.float32))
    yield Fact("classifier: scores of 10 identities for 2 encodings", (2, 10), scores.shape)
    seen = data.Preprocess(None, 8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    who = face.Recognizer(face.Encoder(Corner(), seen), threshold=0.1)
    with tempfile.TemporaryDirectory() as folder:
        who.enrol("red", coloured(200, 10, 10))
        who.save(os.path.join(folder, "known.safetensors"))
        kept = face.Gallery.load(os.path.join(folder, "known.safetensors"))
    again = face.Recognizer(face.Encoder(Corner(), seen), kept, threshold=0.1)
    yield Fact("the same from a file of encodings", "red", again.identify(coloured(250, 20, 10)).name)


@CHAPTER.row("R8", "encoders of faces")
def encoders() -> Iterator[Fact]:
    yield from parameters(inception_resnet_v1=27_910_327)
    state = models.create_model("nn4_small2").state_dict()
    count = sum(a.size for a in state.values() if a.ndim)  # all but the counters of batches
    yield Fact("nn4_small2: parameters and statistics", 3_743_280, count)
