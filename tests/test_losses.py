"""Losses: their definitions by hand, their gradients by differences, and torch's where it has the same."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cnnfast as cf
from cnnfast import losses, nn, ops
from cnnfast.errors import DTypeError, ShapeError

RNG = np.random.default_rng(7)
LABELS = np.array([[2, 0, 1], [1, -100, 3]])
BITS = (np.arange(15).reshape(3, 5) % 3 == 0).astype(np.float64)


def values(*shape: int) -> np.ndarray:
    return RNG.permutation(np.linspace(-2.13, 2.04, math.prod(shape))).reshape(shape)


GRID = np.zeros((2, 2, 3, 2, 8))
GRID[0, 1, 2, 0] = (0.3, 0.8, 0.2, -0.4, 1, 0, 1, 0)
GRID[1, 0, 0, 1] = (0.6, 0.1, -0.3, 0.5, 1, 0, 0, 1)
GRID[1, 1, 1, 0, 4] = -1
GRID_V1 = np.zeros((2, 3, 3, 7))
GRID_V1[0, 1, 2] = (0.3, 0.8, 0.5, 0.25, 1, 1, 0)
GRID_V1[1, 0, 0] = (0.6, 0.1, 0.9, 0.6, 1, 0, 1)
AWAY = np.array([3, 3, 0.1, 0.1, 0.5, -3, 3, 0.1, 0.1, 0.2, 0.4, 0.6])
OBJECTS = np.array([[1, 0.3, 0.4, 0.2, 0.7, 0, 1, 0], [0] + [np.nan] * 7])
POINTS = np.array([[1, 0.1, 0.2, 0.3, 0.4], [0, 9, 9, 9, 9]])
MATCHES = np.array([[0, 0, 2, 0, 1, 0], [0, 0, 0, 0, 0, 0]])

GRADIENTS: dict[str, tuple[Callable[..., Any], list[np.ndarray]]] = {
    "cross_entropy": (lambda x: losses.cross_entropy(x, LABELS, label_smoothing=0.1), [values(2, 3, 4)]),
    "cross_entropy weight": (
        lambda x: losses.cross_entropy(x, LABELS, weight=[1, 2, 0.5, 3]),
        [values(2, 3, 4)],
    ),
    "cross_entropy probabilities": (
        lambda x, t: losses.cross_entropy(x, t, label_smoothing=0.1, weight=[1, 2, 0.5, 3]),
        [values(2, 3, 4), values(2, 3, 4)],
    ),
    "binary_cross_entropy": (
        lambda x: losses.binary_cross_entropy(x, BITS, pos_weight=3.0),
        [values(3, 5)],
    ),
    "focal": (lambda x: losses.focal(x, LABELS, reduction="sum"), [values(2, 3, 4)]),
    "focal half": (lambda x: losses.focal(x, LABELS, gamma=0.5), [values(2, 3, 4)]),
    "sigmoid_focal": (lambda x: losses.sigmoid_focal(x, BITS), [values(3, 5)]),
    "mse": (lambda x, y: losses.mse(x, y), [values(3, 5), values(3, 5)]),
    "l1": (lambda x, y: losses.l1(x, y), [values(3, 5), values(3, 5) + 0.0101]),
    "smooth_l1": (lambda x, y: losses.smooth_l1(x, y, beta=0.7), [values(3, 5), values(3, 5) + 0.0101]),
    "dice": (lambda x: losses.dice(x, LABELS), [values(2, 3, 4)]),
    "dice one": (lambda x: losses.dice(x, LABELS % 2, smooth=0), [values(2, 3, 1)]),
    "triplet": (lambda a, p, n: losses.triplet(a, p, n), [values(4, 3) for _ in range(3)]),
    "triplet cosine": (
        lambda a, p, n: losses.triplet(a, p, n, distance="cosine", margin=0.5),
        [values(4, 3) for _ in range(3)],
    ),
    "triplet_margin": (lambda a, p, n: losses.triplet_margin(a, p, n), [values(4, 3) for _ in range(3)]),
    "contrastive": (
        lambda a, b: losses.contrastive(a, b, [True, False, False, True], margin=4.0),
        [values(4, 3), values(4, 3)],
    ),
    "cosine_softmax": (
        lambda x: losses.cosine_softmax(x, [2, 0, 1], scale=4, label_smoothing=0.1),
        [values(3, 4) * 0.4],
    ),
    "localisation": (lambda x: losses.localisation(x, OBJECTS), [values(2, 8)]),
    "localisation_mixed": (lambda x: losses.localisation_mixed(x, OBJECTS), [values(2, 8)]),
    "landmarks": (lambda x: losses.landmarks(x, POINTS), [values(2, 5)]),
    "yolo softmax": (lambda x: losses.yolo(x, GRID), [values(2, 2, 3, 2, 8)]),
    "yolo sigmoid": (lambda x: losses.yolo(x, GRID, classes="sigmoid"), [values(2, 2, 3, 2, 8)]),
    # No box overlaps its object: the overlap is a constant of the loss.
    "yolo_v1": (lambda x: losses.yolo_v1(x, GRID_V1, 2), [values(2, 3, 3, 12) * 0.1 + AWAY]),
    "ssd_multibox": (
        lambda place, x: losses.ssd_multibox(place, x, np.ones((2, 6, 4)), MATCHES, alpha=0.7),
        [values(2, 6, 4), values(2, 6, 3)],
    ),
    "rpn": (
        lambda x, d: losses.rpn(x, d, [1, 0, -1, 1, 0], np.full((5, 4), 0.25)),
        [values(5), values(5, 4)],
    ),
    "rcnn": (
        lambda x, d: losses.rcnn(x, d, [2, 0, 1], np.full((3, 4), 0.25)),
        [values(3, 3), values(3, 12)],
    ),
    "content": (
        lambda x, y: losses.content(x, y, scale="mean_quarter"),
        [values(1, 3, 4, 2), values(1, 3, 4, 2)],
    ),
    "style": (
        lambda x, y: losses.style([x, y], [np.ones((1, 2, 2)), np.ones((1, 3, 3))], weights=[0.3, 0.7]),
        [values(1, 3, 4, 2), values(1, 2, 2, 3)],
    ),
    "total_variation": (losses.total_variation, [values(2, 3, 4, 2)]),
    "siamese l1": (lambda f, g: nn.SiameseHead.forward(HEADS["l1"], f, g), [values(4, 3), values(4, 3)]),
    "siamese chi_square": (
        lambda f, g: nn.SiameseHead.forward(HEADS["chi_square"], f, g),
        [values(4, 3) + 3, values(4, 3) + 3.0101],
    ),
}


def _head(kind: str) -> nn.SiameseHead:
    head = nn.SiameseHead(3, kind)
    for parameter in head.parameters():
        parameter.data = RNG.standard_normal(parameter.shape).astype(np.float32)
        parameter._data, parameter.dtype = parameter.data.astype(np.float64), np.dtype(np.float64)
    return head


HEADS = {kind: _head(kind) for kind in ("l1", "chi_square")}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradient(name: str) -> None:
    function, inputs = GRADIENTS[name]
    assert cf.gradcheck(function, *inputs)


def test_every_loss_has_its_gradient_checked() -> None:
    tested = {name.split()[0] for name in GRADIENTS}
    assert set(losses.__all__) - tested == {"cosine_similarity", "hard_negatives", "squared_distance"}


def number(loss: Any) -> float:
    return float(loss.data)


# --- by hand ---------------------------------------------------------------------------------------


def test_binary_cross_entropy_far_out_and_at_zero() -> None:
    x = cf.Tensor(np.array([-1e4, 1e4, 0.0, 0.0], np.float32), requires_grad=True)
    loss = losses.binary_cross_entropy(x, np.array([0, 1, 0, 1]), reduction="sum")
    assert number(loss) == pytest.approx(2 * math.log(2))
    loss.backward()
    assert np.array_equal(x.grad, np.array([0, 0, 0.5, -0.5], np.float32))


def test_localisation_counts_what_is_there() -> None:
    x = np.arange(16.0).reshape(2, 8) / 10
    wanted = np.square(x[0] - OBJECTS[0]).sum(), np.square(x[1, 0])
    assert np.allclose(losses.localisation(x, OBJECTS, reduction="none").data, wanted)
    mixed = losses.localisation_mixed(x, OBJECTS, reduction="none").data
    first = math.log1p(math.exp(-x[0, 0])) + np.square(x[0, 1:5] - OBJECTS[0, 1:5]).sum()
    first += np.log(np.exp(x[0, 5:]).sum()) - x[0, 6]
    assert np.allclose(mixed, (first, math.log1p(math.exp(x[1, 0]))))


def test_triplet_of_nothing_is_the_margin() -> None:
    zero = np.zeros((3, 128), np.float32)
    for distance in ("squared", "cosine"):
        assert number(losses.triplet(zero, zero, zero, distance=distance)) == pytest.approx(0.6)
    a, p, n = np.eye(3, dtype=np.float32)[:, None]
    assert number(losses.triplet(a, a, n)) == 0
    assert number(losses.triplet(a, p, a)) == pytest.approx(2.2)
    assert number(losses.triplet(a, p, a, distance="cosine", margin=0.3)) == pytest.approx(1.3)


def test_contrastive_at_distance_zero() -> None:
    a = cf.Tensor(np.ones((2, 3), np.float32), requires_grad=True)
    loss = losses.contrastive(a, np.ones((2, 3), np.float32), [True, False], margin=2.0, reduction="sum")
    assert number(loss) == pytest.approx(2.0)
    loss.backward()
    assert np.array_equal(a.grad, np.zeros((2, 3), np.float32))


def test_siamese_head_has_a_weight_per_feature_and_takes_zeros() -> None:
    head = nn.SiameseHead(128, "chi_square")
    assert sum(p.size for p in head.parameters()) == 129
    f = cf.Tensor(np.zeros((2, 128), np.float32), requires_grad=True)
    y = head(f, cf.Tensor(np.zeros((2, 128), np.float32)))
    ops.reduce_sum(y).backward()
    assert np.array_equal(y.data, np.zeros(2, np.float32))
    assert np.isfinite(f.grad).all()


def test_dice() -> None:
    labels = np.array([[0, 1, 1, 0]])
    sure = np.where(labels[..., None] == np.arange(2), 50.0, -50.0)
    assert number(losses.dice(sure, labels)) == pytest.approx(0)
    assert number(losses.dice(-sure, labels, smooth=0)) == pytest.approx(1)
    # p = 1/2 everywhere: 2 * 1 / (2 + 2) of each class.
    assert number(losses.dice(np.zeros((1, 4, 2)), labels, smooth=0)) == pytest.approx(0.5)
    # The last two pixels are left out.
    part = np.array([[0, 1, 255, 255]])
    assert number(losses.dice(sure, part, ignore_index=255, smooth=0)) == pytest.approx(0)


def test_yolo_by_hand() -> None:
    x = np.zeros((1, 1, 1, 2, 7))
    target = x.copy()
    target[0, 0, 0, 0] = (0.25, 0.5, 1.0, 0, 1, 1, 0)
    place = 5 * (0.25**2 + 1)
    assert number(losses.yolo(x, target)) == pytest.approx(place + math.log(2) * (1 + 0.5 + 1))
    target[0, 0, 0, 1, 4] = -1  # counts for nothing now
    assert number(losses.yolo(x, target)) == pytest.approx(place + math.log(2) * 2)


def test_yolo_v1_by_hand() -> None:
    x, target = np.zeros((1, 2, 2, 11)), np.zeros((1, 2, 2, 6))
    target[0, 0, 1] = (0.5, 0.5, 0.25, 0.25, 1, 1)
    x[0, 0, 1, 5:10] = (0.5, 0.5, 0.5, 0.5, 0.4)  # the second box is right but for its confidence
    x[0, 0, 1, 0:5] = (0.5, 0.5, 0.1, 0.1, 0.2)
    x[0, 1, 1, 4] = 0.3
    expected = (1 - 0.4) ** 2 + 0.5 * (0.2**2 + 0.3**2) + 1
    assert number(losses.yolo_v1(x, target, 2)) == pytest.approx(expected)


def test_hard_negatives() -> None:
    loss = np.array([[5, 1, 4, 4, 0.5], [1, 2, 3, 4, 5]])
    positive = np.array([[1, 0, 0, 0, 0], [0, 0, 0, 0, 0]], bool)
    assert np.array_equal(losses.hard_negatives(loss, positive, 2), [[0, 0, 1, 1, 0], [0] * 5])
    assert losses.hard_negatives(loss, positive, 9).sum() == 4


def test_nothing_found_costs_nothing_of_boxes() -> None:
    place = cf.Tensor(np.ones((2, 6, 4), np.float32), requires_grad=True)
    loss = losses.ssd_multibox(
        place, np.ones((2, 6, 3), np.float32), np.ones((2, 6, 4)), np.zeros((2, 6), int)
    )
    loss.backward()
    assert number(loss) == 0
    assert not place.grad.any()
    none = np.zeros((0, 4), np.float32)
    assert number(losses.rpn(np.zeros(0, np.float32), none, np.zeros(0, int), none)) == 0


def test_style_and_content_scales() -> None:
    x, y = values(1, 3, 4, 2), values(1, 3, 4, 2)
    square = np.square(x - y).sum()
    for scale, factor in (("half", 0.5), ("mean_half", 1 / 48), ("mean_quarter", 1 / 96)):
        assert number(losses.content(x, y, scale=scale)) == pytest.approx(square * factor)
    rows = x.reshape(-1, 2)
    gram = rows.T @ rows
    assert number(losses.style([x], [gram[None]])) == pytest.approx(0)
    cost = np.square(gram).sum() / (2 * 24) ** 2
    assert number(losses.style([x], [np.zeros((1, 2, 2))])) == pytest.approx(cost)
    ramp = np.arange(12.0).reshape(1, 3, 4, 1)
    assert number(losses.total_variation(ramp)) == 8 * 16 + 9


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_reductions(reduction: str) -> None:
    x = values(2, 3, 4)
    each = losses.cross_entropy(x, LABELS, reduction="none").data
    assert each.shape == (2, 3)
    assert each[1, 1] == 0
    expected = {"mean": each.sum() / 5, "sum": each.sum(), "none": each}[reduction]
    assert np.allclose(losses.cross_entropy(x, LABELS, reduction=reduction).data, expected)


# --- beside torch ----------------------------------------------------------------------------------


def test_probabilities_that_are_sure_are_labels(backend: str) -> None:
    """Also as float64 beside float32 scores, as NumPy makes them."""
    x = cf.Tensor(values(2, 3, 4).astype(np.float32), requires_grad=True)
    labels = np.abs(LABELS) % 4
    losses.cross_entropy(x, labels).backward()
    expected, x.grad = x.grad, None
    loss = losses.cross_entropy(x, np.eye(4)[labels])
    assert loss.dtype == np.float32
    loss.backward()
    assert np.allclose(x.grad, expected, atol=1e-7)


def test_torch_has_the_same() -> None:
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    x, y = values(6, 5), values(6, 5)
    a, p, n = values(4, 8), values(4, 8), values(4, 8)
    labels = np.array([0, 3, 4, -100, 1, 1])
    soft = np.exp(y) / np.exp(y).sum(axis=1, keepdims=True)
    bits = (y > 0).astype(np.float64)
    t = torch.from_numpy
    pairs = {
        "cross_entropy": (
            losses.cross_entropy(x, labels, label_smoothing=0.1),
            functional.cross_entropy(t(x), t(labels), label_smoothing=0.1),
        ),
        "weight": (
            losses.cross_entropy(x, labels, weight=[1, 2, 3, 4, 5]),
            functional.cross_entropy(t(x), t(labels), weight=t(np.arange(1.0, 6.0))),
        ),
        **{
            f"probabilities {reduction} {e} {len(ours)}": (
                ops.reduce_sum(losses.cross_entropy(x, soft, reduction=reduction, **ours)),
                functional.cross_entropy(t(x), t(soft), reduction=reduction, **theirs).sum(),
            )
            for reduction in ("mean", "sum", "none")
            for e in (0.0, 0.2)
            for ours, theirs in (
                ({"label_smoothing": e}, {"label_smoothing": e}),
                (
                    {"label_smoothing": e, "weight": np.arange(5.0)},
                    {"label_smoothing": e, "weight": t(np.arange(5.0))},
                ),
            )
        },
        "binary": (
            losses.binary_cross_entropy(x, bits, pos_weight=2.0),
            functional.binary_cross_entropy_with_logits(t(x), t(bits), pos_weight=t(np.array(2.0))),
        ),
        "mse": (losses.mse(x, y), functional.mse_loss(t(x), t(y))),
        "l1": (losses.l1(x, y), functional.l1_loss(t(x), t(y))),
        "smooth": (losses.smooth_l1(x, y, beta=0.4), functional.smooth_l1_loss(t(x), t(y), beta=0.4)),
        "triplet": (losses.triplet_margin(a, p, n), functional.triplet_margin_loss(t(a), t(p), t(n))),
    }
    for name, (ours, theirs) in pairs.items():
        assert number(ours) == pytest.approx(float(theirs), rel=1e-9), name


# --- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: losses.cross_entropy(values(2, 3), [0, 3]), ShapeError, "labels must be in 0..2"),
        (lambda: losses.cross_entropy(values(2, 3), [0.0, 1.0]), DTypeError, "whole numbers"),
        (
            lambda: losses.cross_entropy(values(2, 3), values(2, 3), ignore_index=1),
            ShapeError,
            "ignore_index",
        ),
        (lambda: losses.cross_entropy(values(2, 3), values(2, 3), label_smoothing=2), ShapeError, "0..1"),
        (
            lambda: losses.cross_entropy(values(2, 3), cf.Tensor(np.ones((2, 3), np.float32))),
            DTypeError,
            "labels is float32, x is float64",
        ),
        (lambda: losses.cross_entropy(values(2, 3), [0, 1], reduction="all"), ShapeError, "reduction"),
        (lambda: losses.cross_entropy(np.arange(3), 0), DTypeError, "float32 or float64"),
        (lambda: losses.cross_entropy(values(2, 3), [0, 1], weight=[1, 2]), ShapeError, "weight"),
        (lambda: losses.mse(values(2, 3), values(3, 2)), ShapeError, "mse: target must have the shape of x"),
        (lambda: losses.binary_cross_entropy(values(2, 3), values(3)), ShapeError, "shape of x"),
        (lambda: losses.smooth_l1(values(2), values(2), beta=0), ShapeError, "beta"),
        (lambda: losses.dice(values(2, 3, 4), np.full((2, 3), 4)), ShapeError, "labels must be in 0..3"),
        (lambda: losses.focal(values(2, 3), [0, 1], gamma=-1), ShapeError, "gamma"),
        (lambda: losses.localisation(values(2, 8), values(2, 8)), ShapeError, "0 or 1"),
        (lambda: losses.landmarks(values(2, 6), np.zeros((2, 6))), ShapeError, "1 \\+ 2 n"),
        (lambda: losses.yolo(values(2, 8), values(2, 8)), ShapeError, "N,H,W,B,5"),
        (lambda: losses.triplet(values(2, 3), values(2, 3), values(2, 4)), ShapeError, "negative"),
        (lambda: losses.triplet(*[values(2, 3)] * 3, distance="far"), ShapeError, "distance"),
        (lambda: losses.style([values(1, 2, 2, 3)], []), ShapeError, "one Gram matrix per layer"),
        (lambda: losses.rcnn(values(2, 3), values(2, 8), [0, 1], values(2, 4)), ShapeError, "R,4K"),
        (lambda: nn.SiameseHead(3)(values(2, 3), values(3, 3)), ShapeError, "N,D alike"),
    ],
)
def test_refused(call: Callable[[], Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        call()
