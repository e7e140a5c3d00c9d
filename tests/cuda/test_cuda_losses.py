"""Every loss on a device, and those of training: value, gradient and a step of an optimiser."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest

import cnnfast as cf
from cnnfast import Tensor, data, losses, ops, optim, train
from cnnfast.cuda import DeviceArray, asarray
from cnnfast.detection import RegionLoss, RegionTraining, Sampling, SSDLoss, YOLOLoss, base_anchors
from cnnfast.detection import training as detection_training
from cnnfast.detection.regions import Settings
from cnnfast.errors import BackendError, DTypeError
from cnnfast.face import TripletLoss
from cnnfast.models.darknet import Head
from cnnfast.models.faster_rcnn import FasterRCNN
from test_detection_regions import Pyramid, Small, heads


class Case(NamedTuple):
    """A loss of scores of these shapes, and what they are compared with."""

    loss: str
    shapes: list[tuple[int, ...]]
    targets: Callable[[np.random.Generator], list[Any]] = lambda rng: []
    settings: Mapping[str, Any] = MappingProxyType({})


def _values(*shapes: tuple[int, ...]) -> Callable[[np.random.Generator], list[Any]]:
    return lambda rng: [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def _labels(count: int, *shape: int, least: int = 0) -> Callable[[np.random.Generator], list[Any]]:
    return lambda rng: [rng.integers(least, count, shape)]


def _one_hot(rng: np.random.Generator, count: int, *shape: int) -> np.ndarray:
    return np.eye(count, dtype=np.float32)[rng.integers(0, count, shape)]


def _grid(places: tuple[int, ...], there: tuple[int, ...]) -> Callable[[np.random.Generator], list[Any]]:
    """Centre, size, whether there is an object, and one of three classes."""

    def make(rng: np.random.Generator) -> list[Any]:
        box = rng.uniform(0, 1, (*places, 4)).astype(np.float32)
        found = rng.choice(there, (*places, 1)).astype(np.float32)
        return [np.concatenate([box, found, _one_hot(rng, 3, *places)], -1)]

    return make


def _one_thing(values: int, classes: int = 0) -> Callable[[np.random.Generator], list[Any]]:
    """Whether there is something, numbers, and one of some classes."""

    def make(rng: np.random.Generator) -> list[Any]:
        there = np.array([[0], [1], [1], [0]], np.float32)
        parts = [there, rng.standard_normal((4, values)).astype(np.float32)]
        return [np.concatenate([*parts, there * _one_hot(rng, classes, 4)] if classes else parts, 1)]

    return make


CASES = [
    Case("binary_cross_entropy", [(6, 4)], lambda rng: [_one_hot(rng, 4, 6)], {"pos_weight": 2.0}),
    Case("content", [(1, 3, 3, 4)], _values((1, 3, 3, 4))),
    Case("contrastive", [(4, 5)] * 2, _labels(2, 4)),
    Case("cosine_similarity", [(4, 5)] * 2),
    Case("cosine_softmax", [(6, 4)], _labels(4, 6)),
    Case("cross_entropy", [(6, 4)], _labels(4, 6), {"label_smoothing": 0.1}),
    Case("cross_entropy", [(6, 4)], _labels(4, 6, least=-1), {"ignore_index": -1, "weight": [1, 2, 3, 4]}),
    Case("cross_entropy", [(6, 4)], lambda rng: [_one_hot(rng, 4, 6)], {"weight": [1, 2, 3, 4]}),
    Case("dice", [(2, 3, 3, 4)], _labels(4, 2, 3, 3, least=-1), {"ignore_index": -1}),
    Case("dice", [(2, 3, 3, 1)], _labels(2, 2, 3, 3), {"smooth": 0.0}),
    Case("focal", [(6, 4)], _labels(4, 6)),
    Case("l1", [(4, 5)], _values((4, 5))),
    Case("landmarks", [(4, 5)], _one_thing(4)),
    Case("localisation", [(4, 8)], _one_thing(4, 3)),
    Case("localisation_mixed", [(4, 8)], _one_thing(4, 3)),
    Case("mse", [(4, 5)], _values((4, 5))),
    Case("rcnn", [(6, 4), (6, 16)], lambda rng: [*_labels(4, 6)(rng), *_values((6, 4))(rng)]),
    Case("rpn", [(9,), (9, 4)], lambda rng: [*_labels(2, 9, least=-1)(rng), *_values((9, 4))(rng)]),
    Case("sigmoid_focal", [(6, 4)], lambda rng: [_one_hot(rng, 4, 6)]),
    Case("smooth_l1", [(4, 5)], _values((4, 5))),
    Case("squared_distance", [(4, 5)] * 2),
    Case(
        "ssd_multibox", [(2, 9, 4), (2, 9, 5)], lambda rng: [*_values((2, 9, 4))(rng), *_labels(2, 2, 9)(rng)]
    ),
    Case("style", [(1, 3, 3, 4), (1, 2, 2, 4)], _values((1, 4, 4), (1, 4, 4))),
    Case("total_variation", [(1, 3, 3, 4)]),
    Case("triplet", [(4, 5)] * 3),
    Case("triplet", [(4, 5)] * 3, settings={"distance": "cosine"}),
    Case("triplet_margin", [(4, 5)] * 3),
    Case("yolo", [(2, 3, 3, 2, 8)], _grid((2, 3, 3, 2), (-1, 0, 1))),
    Case("yolo", [(2, 3, 3, 2, 8)], _grid((2, 3, 3, 2), (0, 1)), {"classes": "sigmoid"}),
    Case("yolo_v1", [(2, 3, 3, 13)], _grid((2, 3, 3), (0, 1)), {"boxes": 2}),
]


def test_every_loss_is_here() -> None:
    assert {case.loss for case in CASES} == {*losses.__all__} - {"hard_negatives"}


def _found(case: Case, scores: list[Any], targets: list[Any], step: bool) -> list[Any]:
    """The loss, its gradients, and what a step of an optimiser makes of the scores."""
    tensors = [Tensor(x, requires_grad=True) for x in scores]
    if case.loss == "style":
        loss = losses.style(tensors, targets)
    else:
        loss = getattr(losses, case.loss)(*tensors, *targets, **case.settings)
    assert type(loss.data) is type(scores[0])
    if loss.size > 1:
        loss = ops.reduce_sum(loss * loss)
    loss.backward()
    gradients = [t.grad for t in tensors]
    if step:
        optim.SGD(tensors, lr=0.5).step()
    return [loss.data, *gradients, *[t.data for t in tensors]]


def _check(case: Case, dtype: str, unit: float) -> None:
    """Of the same numbers in float64, with targets in host memory and on the device."""
    rng = np.random.default_rng(zlib.crc32(case.loss.encode()))
    scores = [asarray(x, dtype) for x in _values(*case.shapes)(rng)]
    targets = case.targets(rng)
    there = [asarray(t, dtype if t.dtype.kind == "f" else None) for t in targets]
    exact = _found(
        case,
        [x.numpy().astype(np.float64) for x in scores],
        [t.numpy().astype(np.float64) if t.dtype.kind == "f" else t.numpy() for t in there],
        dtype == "float32",
    )
    for given in (targets, there):
        found = _found(case, [x.copy() for x in scores], given, dtype == "float32")
        for got, wanted in zip(found, exact, strict=True):
            assert type(got) is DeviceArray
            assert str(got.dtype) == dtype
            bound = 16 * unit * max(1.0, float(np.abs(wanted).max()))
            np.testing.assert_allclose(got.numpy(), wanted, rtol=0, atol=bound)


NAMES = [f"{i}-{case.loss}" for i, case in enumerate(CASES)]


@pytest.mark.parametrize("device", ["shuffled", pytest.param("gpu", marks=pytest.mark.gpu)], indirect=True)
@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_as_on_the_host(device: Any, case: Case) -> None:
    _check(case, "float32", 2.0**-24)


@pytest.mark.parametrize("device", ["reverse", pytest.param("gpu", marks=pytest.mark.gpu)], indirect=True)
@pytest.mark.parametrize(("dtype", "unit"), [("bfloat16", 2.0**-8), ("float16", 2.0**-11)])
@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_in_16_bits(device: Any, case: Case, dtype: str, unit: float) -> None:
    """Each operator on the way rounds what it gives by half a unit. Optimisers step float32 alone."""
    _check(case, dtype, unit)


def test_hard_negatives(device: Any) -> None:
    loss = np.array([[3, 1, 2, 5]], np.float32)
    positive = np.array([[True, False, False, False]])
    wanted = losses.hard_negatives(loss, positive, 2)
    np.testing.assert_array_equal(losses.hard_negatives(asarray(loss), asarray(positive), 2), wanted)
    np.testing.assert_array_equal(losses.hard_negatives(Tensor(asarray(loss)), positive, 2), wanted)


def test_what_does_not_fit_says_so(device: Any) -> None:
    x = np.ones((2, 8), np.float32)
    there = Tensor(asarray(x))
    with pytest.raises(DTypeError, match="localisation: target is float16, x is float32"):
        losses.localisation(there, asarray(x, "float16"))
    with pytest.raises(cf.errors.ShapeError, match="localisation: target must have the shape of x"):
        losses.localisation(there, asarray(x[:1]))
    with pytest.raises(DTypeError, match="cross_entropy: labels are float32; expected whole numbers"):
        losses.cross_entropy(there, asarray(x[:, 0]))
    with pytest.raises(BackendError, match="expected all arrays on the device, got some in host memory"):
        losses.mse(Tensor(x), asarray(x))


# --- what the trainer takes ---------------------------------------------------------------------------


def _batch(rng: np.random.Generator) -> data.Batch:
    """Two pictures of 64 x 64, with two objects and with none."""
    boxes = [np.array([[20, 20, 58, 52], [32, 40, 50, 62]], np.float32), np.zeros((0, 4), np.float32)]
    classes = [np.array([1, 2]), np.zeros(0, np.int64)]
    return data.Batch(rng.standard_normal((2, 64, 64, 3)).astype(np.float32), boxes=boxes, classes=classes)


def _as_on_the_host(loss: Callable[[list[Any]], Any], values: list[np.ndarray]) -> None:
    """Value and gradients of a loss of tensors."""
    found = []
    for place in (lambda x: x, asarray):
        tensors = [Tensor(place(x), requires_grad=True) for x in values]
        value = loss(tensors)
        assert type(value.data) is type(tensors[0].data)
        value.backward()
        found.append([value.numpy(), *[Tensor(t.grad).numpy() for t in tensors]])
    for host, here in zip(*found, strict=True):
        np.testing.assert_allclose(here, host, rtol=1e-5, atol=1e-5)


def test_loss_of_yolo(shim: Any, rng: np.random.Generator) -> None:
    kinds = [Head("yolo", ((30.0, 30.0), (40.0, 20.0)), 3), Head("region", ((2.0, 2.5),), 3, softmax=True)]
    values = [
        rng.standard_normal((2, n, n, head.channels)).astype(np.float32)
        for n, head in zip((8, 4), kinds, strict=True)
    ]
    held = _batch(rng)
    _as_on_the_host(lambda x: YOLOLoss(kinds, ignore=0.2)(x, held), values)


def test_loss_of_ssd(shim: Any, rng: np.random.Generator) -> None:
    boxes = np.array([[0.6, 0.55, 0.6, 0.5], [0.65, 0.8, 0.3, 0.3], [0.1, 0.1, 0.1, 0.1]] * 3)
    values = [rng.standard_normal((2, len(boxes), n)).astype(np.float32) for n in (4, 4)]
    held = _batch(rng)
    _as_on_the_host(lambda x: SSDLoss(boxes)(x, held), values)


@pytest.mark.parametrize(
    ("kind", "distance"), [("semi-hard", "squared"), ("hard", "cosine"), ("all", "squared")]
)
def test_loss_of_triplets(shim: Any, rng: np.random.Generator, kind: str, distance: str) -> None:
    labels = np.array([0, 0, 1, 1, 2, 2])
    loss = TripletLoss(kind, margin=2.0, distance=distance)
    encodings = rng.standard_normal((6, 5)).astype(np.float32)
    _as_on_the_host(lambda x: loss(x[0], labels), [encodings])
    _as_on_the_host(lambda x: loss(x[0], asarray(labels)), [encodings])
    _as_on_the_host(lambda x: loss(x[0], np.arange(6)), [encodings])  # nothing is mined


@pytest.mark.parametrize("pooling", ["pool", "align", "pyramid"])
def test_loss_of_regions(shim: Any, rng: np.random.Generator, pooling: str) -> None:
    """Faster R-CNN: both stages, and a step of all parameters."""
    pyramid = pooling == "pyramid"
    sizes = [[12], [18], [26], [40]] if pyramid else [[16, 24, 32]]
    anchors, channels = [base_anchors(s, (0.5, 1.0, 2.0)) for s in sizes], 16 if pyramid else 24
    settings = Settings(min_size=64, max_size=64, pre_nms=200, post_nms=30)
    held, found = _batch(rng), []
    held.classes[0][:] = [0, 1]
    for place in ("cpu", "cuda"):
        parts = Pyramid() if pyramid else Small(), channels, anchors, *heads(channels)
        model = FasterRCNN(*parts, pooling=pooling, settings=settings).initialize(2).to(place)
        cf.manual_seed(0)
        whole = RegionTraining(model)
        loss = RegionLoss(model, sampling=Sampling(anchors=64, regions=16, pre_nms=100, post_nms=30))
        value = loss(whole(Tensor(asarray(held.pictures) if place == "cuda" else held.pictures)), held)
        value.backward()
        optim.SGD(whole.parameters(), lr=0.1).step()
        found.append([value.numpy(), *[p.numpy() for p in whole.parameters()]])
    for host, here in zip(*found, strict=True):
        np.testing.assert_allclose(here, host, rtol=1e-5, atol=1e-5)


def test_what_else_training_reads(shim: Any) -> None:
    model = cf.models.yolov3_small(3).to("cuda")
    detection_training.expect_few(model, 0.02)
    for conv, head in zip(model.output_convolutions(), model.heads, strict=True):
        assert type(conv.bias.data) is DeviceArray
        objectness = conv.bias.numpy().reshape(len(head.anchors), -1)[:, 4]
        np.testing.assert_allclose(objectness, np.log(0.02 / 0.98), rtol=1e-5)
    scores, labels = np.eye(3, dtype=np.float32), np.array([0, 1, 0])
    assert train.metrics.accuracy(asarray(scores), asarray(labels)).tolist() == [1, 1, 0]
    assert train.metrics.top_k(2)(Tensor(asarray(scores)), labels).tolist() == [1, 1, 1]
