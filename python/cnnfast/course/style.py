"""What a picture shows and how: content, style, and what layers see."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .. import losses, models, nn, ops
from ..graph.summary import receptive_fields, summary
from ..graph.trace import trace
from ..inspect import feature_maps, grad_cam, top_patches
from ..style import Features
from ..style import transfer as style_transfer
from ..style.objective import STYLE_LAYERS
from . import Chapter, Fact

CHAPTER = Chapter()


@CHAPTER.row("N1", "style transfer: gradient descent on the pixels")
def transfer() -> Iterator[Fact]:
    rng = np.random.default_rng(1)
    content, example = rng.integers(0, 256, (2, 24, 24, 3), np.uint8)
    state = models.vgg_features(11).state_dict(layout="torch")
    features = Features({f"features.{name}": a for name, a in state.items()})
    before = {name: a.copy() for name, a in state.items()}
    made = style_transfer(
        content,
        example,
        features,
        iterations=4,
        content_layers={"conv2_1": 1.0},
        style_layers={"conv1_1": 1.0},
    )
    totals = [row["total"] for row in made.rows]
    yield Fact("the loss falls", True, totals[-1] < totals[0])
    yield Fact("pixels stay in 0 .. 255", True, bool(made.pixels.min() >= 0 and made.pixels.max() <= 255))
    same = all(np.array_equal(a, before[name]) for name, a in state.items())
    yield Fact("nothing but the picture changes", True, same)


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
    usual = "conv1_1 conv2_1 conv3_1 conv4_1 conv5_1"
    yield Fact("layers of style unless told otherwise", usual, " ".join(STYLE_LAYERS))
    yield Fact("each layer counts", [0.2] * 5, list(STYLE_LAYERS.values()))


@CHAPTER.row("N5", "what units see: the patches that excite them most")
def patches() -> Iterator[Fact]:
    rng = np.random.default_rng(5)
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.MaxPool2d(2), nn.Conv2d(2, 3, 3)).eval()
    pictures = rng.random((4, 12, 12, 1), np.float32)
    maps = np.asarray(model(pictures))[..., 1]
    order = np.argsort(-maps.ravel(), kind="stable")[:9]
    every = [tuple(int(i) for i in np.unravel_index(n, maps.shape)) for n in order]
    found = top_patches(model, pictures, "2", [1], k=9, each=None)[1]
    yield Fact("top 9 equal trying every place", every, [(p.picture, p.row, p.column) for p in found])
    fields = receptive_fields(trace(model, (1, 12, 12, 1)))
    sizes = [axis.size for axis in list(fields.values())[-1]]
    yield Fact("receptive field of 3x3, pooling 2, 3x3", [8, 8], sizes)
    best = found[0]
    top, bottom, left, right = best.place
    seen = np.zeros((12, 12), bool)
    for y, x in np.ndindex(12, 12):
        other = pictures[[best.picture, best.picture]]
        other[:, y, x, 0] += (100, -100)
        seen[y, x] = np.any(np.asarray(model(other))[:, best.row, best.column, 1] != np.float32(best.value))
    rows, columns = (np.flatnonzero(seen.any(axis)) for axis in (1, 0))
    field = [max(top, 0), min(bottom, 12), max(left, 0), min(right, 12)]
    seen_by = [rows[0], rows[-1] + 1, columns[0], columns[-1] + 1]
    yield Fact("the pixels that change the best one are its field", field, seen_by)
    dense = nn.Linear(3, 4).initialize(5)
    classifier = nn.Sequential(*model.children(), nn.GlobalAvgPool2d(), dense).eval()
    seen = feature_maps(classifier, pictures[:1], ["2"])["2"]
    yield Fact("feature maps are what the layer gives", np.asarray(model(pictures[:1])), seen, 1e-6)
    # Behind a mean over pixels the gradients are the weights of the class.
    weighted = np.maximum((seen[0] * dense.weight.data[:, 1]).sum(-1) / seen[0, ..., 0].size, 0)
    yield Fact("Grad-CAM is its formula", weighted, grad_cam(classifier, pictures[:1], "2", 1).coarse, 1e-6)
