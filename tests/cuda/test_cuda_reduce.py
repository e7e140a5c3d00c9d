"""Reductions and softmax on a device, against the NumPy definitions in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from device_checks import given, near

from cnnfast import ops
from cnnfast.cuda import asarray

SHAPES: list[tuple[tuple[int, ...], Any]] = [
    ((3, 17), 1),
    ((3, 17), 0),
    ((2, 7, 5, 17), (1, 2)),
    ((2, 7, 5, 17), (0, 2)),
    ((2, 3, 4, 5, 2), (1, 3, 4)),
    ((4, 9), None),
    ((70, 40), 0),
    ((2, 5000), 1),
    ((20000,), None),
    ((3, 1, 2), 1),
    ((5,), ()),
    ((0, 3), 1),
    ((3, 0, 2), 1),
]


@pytest.mark.parametrize("name", ["reduce_sum", "reduce_mean", "reduce_max", "reduce_min", "reduce_l2"])
def test_reductions(device: Any, rng: np.random.Generator, name: str) -> None:
    function = getattr(ops, name)
    for shape, axes in SHAPES:
        if 0 in shape and shape[0] and name not in ("reduce_sum", "reduce_l2"):
            continue
        x, wide = given(rng, shape)
        for keep in (False, True):
            wanted = np.asarray(function(wide, axes, keepdims=keep))
            near(
                function(x, axes, keepdims=keep),
                wanted,
                "float32",
                3,
                function(abs(wide), axes, keepdims=keep),
            )


def test_lengths_do_not_overflow(device: Any) -> None:
    x = np.full((2, 3, 4), 1e30, np.float32)
    np.testing.assert_allclose(ops.reduce_l2(asarray(x), (0, 2)).numpy(), 1e30 * np.sqrt(8), rtol=1e-6)


@pytest.mark.parametrize("name", ["reduce_max", "reduce_min"])
def test_nan_wins(device: Any, rng: np.random.Generator, name: str) -> None:
    x = rng.standard_normal((5, 40)).astype(np.float32)
    x[1, 3] = x[2, 39] = np.nan
    np.testing.assert_array_equal(getattr(ops, name)(asarray(x), 1).numpy(), getattr(ops, name)(x, 1))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sums_of_short_types(device: Any, rng: np.random.Generator, dtype: str) -> None:
    x, wide = given(rng, (2, 7, 3, 17), dtype)
    near(ops.reduce_mean(x, (0, 2)), ops.reduce_mean(wide, (0, 2)), dtype, 4, 8)


def test_argmax(device: Any, rng: np.random.Generator) -> None:
    for shape, axis in [((3, 17), 1), ((3, 17), 0), ((2, 5, 7, 3), 2), ((1, 900), 1)]:
        x = rng.integers(0, 6, shape).astype(np.float32)
        x.flat[[5, 9, 13]] = np.nan
        got = ops.argmax(asarray(x), axis)
        assert got.dtype == np.int64
        np.testing.assert_array_equal(got.numpy(), ops.argmax(x, axis))


# Rows that share a block, of more than one sorted run, and columns; all and none of the values.
CHOICES: list[tuple[tuple[int, ...], int, int]] = [
    ((3, 17), 1, 5),
    ((3, 17), 0, 3),
    ((2, 7, 3), 1, 2),
    ((5, 1), 1, 1),
    ((2, 1500), 1, 7),
    ((1, 2300), 1, 2300),
    ((2, 3), 1, 0),
    ((0, 4), 1, 2),
]


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_topk_and_its_gradient(device: Any, rng: np.random.Generator, dtype: str, largest: bool) -> None:
    gradient = ops.OPERATORS["topk_grad"]
    for shape, axis, k in CHOICES:
        host = rng.integers(-50, 50, shape).astype(np.float32)  # with ties
        if host.size > 9:
            host.flat[[0, 3, 4, 5, 8]] = [np.inf, np.nan, -np.inf, -np.nan, -0.0]
        found, places = ops.topk(asarray(host, dtype), k, axis, largest=largest)
        wanted, wanted_places = ops.topk(host, k, axis, largest=largest)
        assert str(found.dtype) == dtype
        assert places.dtype == np.int64
        np.testing.assert_array_equal(places.numpy(), wanted_places)
        np.testing.assert_array_equal(found.numpy(), wanted)
        g = rng.integers(-9, 10, wanted.shape).astype(np.float32)
        spec = gradient.infer(g.shape, g.shape, shape, axis)
        got = gradient(spec, asarray(g, dtype), places)
        assert str(got.dtype) == dtype
        np.testing.assert_array_equal(got.numpy(), gradient.reference(spec, g, wanted_places))


AXES = [((2, 7, 17), -1), ((2, 7, 17), 1), ((3, 1000), 1), ((40, 3), 0), ((2, 1), 1), ((0, 3), 1)]


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_and_its_gradient(device: Any, rng: np.random.Generator, name: str) -> None:
    function, gradient = getattr(ops, name), ops.OPERATORS[name + "_grad"]
    for shape, axis in AXES:
        x, wide = given(rng, shape)
        wanted = function(wide, axis)
        # As the public function promises: 1e-6.
        near(function(x, axis), wanted, "float32", 16, abs(wanted))
        y, wide_y = function(x, axis), function(x, axis).numpy().astype(np.float64)
        g, wide_g = given(rng, shape)
        spec = gradient.infer(shape, shape, axis)
        near(
            gradient(spec, g, y),
            gradient(spec, wide_g, wide_y),
            "float32",
            16,
            4 + abs(wide_g) + abs(wide_g.sum(axis, keepdims=True)),
        )


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_of_extremes(device: Any, name: str) -> None:
    inf, nan = np.inf, np.nan
    rows = [
        [0, 1, 2],
        [1000, 0, -1000],
        [-inf, 1, 1],
        [inf, 1, 2],
        [-inf, -inf, -inf],
        [nan, 1, 2],
        [-88, 0, -87.3],
    ]
    x = np.array(rows, np.float32)
    wanted = getattr(ops, name)(x.astype(np.float64))
    got = getattr(ops, name)(asarray(x)).numpy()
    np.testing.assert_allclose(got, wanted.astype(np.float32), rtol=1e-6, atol=1e-44)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy(device: Any, rng: np.random.Generator, smoothing: float) -> None:
    for shape in [(5, 10), (2, 3, 1000), (0, 4), (3, 1)]:
        x, wide = given(rng, shape)
        labels = rng.integers(0, shape[-1], shape[:-1])
        if labels.size:
            labels.flat[0] = -100
        loss, gradient = ops.softmax_cross_entropy(x, labels, label_smoothing=smoothing)
        wanted, wanted_gradient = ops.softmax_cross_entropy(wide, labels, label_smoothing=smoothing)
        near(loss, wanted, "float32", 16, 1 + abs(wanted))
        near(gradient, wanted_gradient, "float32", 16, 1)
        again, _ = ops.softmax_cross_entropy(x, asarray(labels), label_smoothing=smoothing)
        np.testing.assert_array_equal(again.numpy(), loss.numpy())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("weight", [1.0, 2.5])
def test_cross_entropy_of_sigmoids(device: Any, rng: np.random.Generator, weight: float, dtype: str) -> None:
    gradient = ops.OPERATORS["sigmoid_cross_entropy_grad"]
    for shape in [(2, 4, 16), (1, 7, 17), (0, 3), ()]:
        x, wide = given(rng, shape, dtype)
        target = asarray(rng.uniform(0, 1, shape).astype(np.float32), dtype)
        wide_target = target.numpy().astype(np.float64)
        wanted = ops.sigmoid_cross_entropy(wide, wide_target, pos_weight=weight)
        near(ops.sigmoid_cross_entropy(x, target, pos_weight=weight), wanted, dtype, 8, wanted)
        g, wide_g = given(rng, shape, dtype)
        for by_target in (False, True):
            spec = gradient.infer(shape, shape, shape, weight, by_target)
            exact = gradient(spec, wide_g, wide, wide_target)
            size = abs(wide_g) * (1 + weight) * (1 + by_target * abs(wide))
            near(gradient(spec, g, x, target), exact, dtype, 8, size)


def test_cross_entropy_of_sigmoids_of_extremes(device: Any) -> None:
    gradient = ops.OPERATORS["sigmoid_cross_entropy_grad"]
    x = np.array([1000, -1000, np.inf, -np.inf, np.nan, 0, -0.0, 88, -88] * 2, np.float32)
    target = np.repeat(np.array([0, 1], np.float32), 9)
    calls = [(ops.OPERATORS["sigmoid_cross_entropy"], (x, target))]
    calls += [(gradient, (np.full_like(x, -2), x, target))] * 2
    specs = [calls[0][0].infer(x.shape, x.shape, 2.0)]
    specs += [gradient.infer(x.shape, x.shape, x.shape, 2.0, by_target) for by_target in (False, True)]
    for (op, arrays), spec in zip(calls, specs, strict=True):
        with np.errstate(all="ignore"):
            wanted = op.reference(spec, *[a.astype(np.float64) for a in arrays]).astype(np.float32)
        got = op(spec, *map(asarray, arrays)).numpy()
        np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-44)


def test_the_same_bits_under_every_schedule(shim: Any, rng: np.random.Generator) -> None:
    x = asarray(rng.standard_normal((3, 5000)).astype(np.float32))
    found = []
    for schedule in ("warp-greedy", "reverse", "shuffled"):
        shim.set_schedule(schedule, seed=3)
        found.append(np.concatenate([ops.reduce_sum(x, 1).numpy(), ops.softmax(x).numpy().ravel()]))
    assert (found[0] == found[1]).all()
    assert (found[0] == found[2]).all()


@pytest.mark.parametrize("name", ["reduce_sum", "reduce_mean", "reduce_max", "reduce_min"])
def test_gradients_of_reductions(device: Any, rng: np.random.Generator, name: str) -> None:
    gradient = ops.OPERATORS["reduce_grad"]
    for shape, axes in [((3, 17), 1), ((2, 7, 5, 4), (0, 2)), ((4, 9), None)]:
        wide = rng.integers(-2, 3, shape).astype(np.float64)  # with ties
        x = asarray(wide.astype(np.float32))
        y, wide_y = getattr(ops, name)(x, axes), getattr(ops, name)(wide, axes)
        g, wide_g = given(rng, wide_y.shape)
        spec = gradient.infer(wide_y.shape, shape, axes, False, name)
        near(gradient(spec, g, x, y), gradient(spec, wide_g, wide, wide_y), "float32", 4, abs(wide_g).max())
