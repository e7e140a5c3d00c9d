"""Every loss on a device: value, gradient and a step of an optimiser, as on the host."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest

import cnnfast as cf
from cnnfast import Tensor, losses, ops, optim
from cnnfast.cuda import DeviceArray, asarray
from cnnfast.errors import BackendError, DTypeError


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
