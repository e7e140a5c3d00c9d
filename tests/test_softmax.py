"""Softmax and its logarithm on every backend, against float64 and torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cnnfast as cf
from cnnfast import ops
from cnnfast.errors import DTypeError, ShapeError
from cnnfast.ops.registry import OPERATORS

TINY = float(np.finfo(np.float32).tiny)
CASES = [
    ((7, 1000), -1),
    ((1, 30001), 1),
    ((200, 10), 1),
    ((3, 31), -1),
    ((3, 32), -1),
    ((3, 33), -1),
    ((50, 1), 1),
    ((19,), 0),
    ((33, 17), 0),
    ((2, 21, 9, 7), 1),
    ((1, 40, 70), 1),
    ((1000, 1, 70), 0),
    ((3, 5, 1, 1), -3),
]


def exact(x: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Softmax and its logarithm in float64, without cancellation near 1."""
    x = np.moveaxis(x.astype(np.float64), axis, -1)
    order = np.argsort(x, axis=-1)
    x_sorted = np.take_along_axis(x, order, -1)
    d = x_sorted - x_sorted[..., -1:]
    total = np.log1p(np.exp(d[..., :-1]).sum(axis=-1, keepdims=True))
    log = np.empty_like(x)
    np.put_along_axis(log, order, d - total, -1)
    return np.moveaxis(np.exp(log), -1, axis), np.moveaxis(log, -1, axis)


def relative(got: np.ndarray, want: np.ndarray) -> float:
    normal = np.abs(want) >= TINY
    return float(np.max(np.abs(got - want)[normal] / np.abs(want[normal]), initial=0))


@pytest.mark.parametrize(("shape", "axis"), CASES)
@pytest.mark.parametrize("spread", [0.1, 1, 10, 60, 1e4])
def test_values(
    backend: str, shape: tuple[int, ...], axis: int, spread: float, rng: np.random.Generator
) -> None:
    x = (rng.standard_normal(shape) * spread).astype(np.float32)
    p, log = exact(x, axis)
    a, b = ops.softmax(x, axis), ops.log_softmax(x, axis=axis)
    for y in (a, b):
        assert y.dtype == np.float32
        assert y.shape == shape
    assert relative(a, p) <= 1e-6
    assert relative(b, log) <= 1e-6
    np.testing.assert_allclose(a.sum(axis=axis, dtype=np.float64), 1, 0, 1e-6)


def test_by_hand(backend: str) -> None:
    x = np.log(np.float32([1, 2, 3, 4]))
    np.testing.assert_allclose(ops.softmax(x), [0.1, 0.2, 0.3, 0.4], 3e-7)
    np.testing.assert_array_equal(ops.softmax(np.zeros((2, 4), np.float32)), np.full((2, 4), 0.25))
    # Large numbers do not overflow, and a shift changes nothing.
    np.testing.assert_array_equal(ops.softmax(np.float32([1000, 1001])), ops.softmax(np.float32([0, 1])))
    # The logarithm is exact where the softmax itself rounds to 1 or 0.
    np.testing.assert_allclose(ops.log_softmax(np.float32([0, -30])), [-np.exp(-30.0), -30], 1e-6)
    log2 = -np.log(2)
    np.testing.assert_allclose(ops.log_softmax(np.float32([5, 5, -80])), [log2, log2, log2 - 85], 1e-6)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("n", [2, 9, 40, 70])
def test_nan_and_inf(backend: str, axis: int, n: int) -> None:
    x = np.zeros((6, n), np.float32)
    x[1, 1] = -np.inf  # a plain zero
    x[2, 1] = np.nan
    x[3, 0] = np.inf
    x[4] = -np.inf
    x[5, 1:] = -np.inf
    if axis == 0:
        x = x.T
    for f, nothing, certain in ((ops.softmax, 0.0, 1.0), (ops.log_softmax, -np.inf, 0.0)):
        y = f(x, axis)
        y = y.T if axis == 0 else y
        for row in (2, 3, 4):
            assert np.isnan(y[row]).all(), row
        assert not np.isnan(y[[0, 1, 5]]).any()
        assert y[1, 1] == nothing
        assert y[5, 0] == certain
        np.testing.assert_array_equal(y[5, 1:], nothing)


def test_agrees_with_torch(backend: str, rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    x = (rng.standard_normal((3, 17, 7)) * 5).astype(np.float32)
    x[0, 3, 2], x[1, 2, 1], x[2, :, 0] = np.nan, np.inf, -np.inf
    t = torch.from_numpy(x).double()
    for axis in (0, 1, 2, -1):
        np.testing.assert_allclose(ops.softmax(x, axis), torch.softmax(t, axis).numpy(), 1e-6)
        np.testing.assert_allclose(ops.log_softmax(x, axis), torch.log_softmax(t, axis).numpy(), 1e-6, 1e-12)


def test_float64_is_the_definition(rng: np.random.Generator) -> None:
    x = rng.standard_normal((5, 9)) * 30
    p, log = exact(x, 1)
    np.testing.assert_allclose(ops.softmax(x), p, 1e-13)
    np.testing.assert_allclose(ops.log_softmax(x), log, 1e-13)
    assert ops.softmax(x).dtype == np.float64


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.lists(st.integers(1, 40), min_size=1, max_size=4).map(tuple),
    axis=st.integers(0, 3),
    spread=st.floats(0, 100),
    seed=st.integers(0, 1000),
)
def test_random_shapes(backend: str, shape: tuple[int, ...], axis: int, spread: float, seed: int) -> None:
    axis %= len(shape)
    if np.prod(shape) > 20000:
        shape = shape[:2]
        axis %= len(shape)
    x = (np.random.default_rng(seed).standard_normal(shape) * spread).astype(np.float32)
    p, log = exact(x, axis)
    assert relative(ops.softmax(x, axis), p) <= 1e-6
    assert relative(ops.log_softmax(x, axis - len(shape)), log) <= 1e-6


def test_results_do_not_depend_on_threads_or_batch(native: None, rng: np.random.Generator) -> None:
    for shape, axis in (((6, 50, 61, 21), 3), ((6, 40, 1000), 2), ((6, 21, 3000), 1)):
        x = (rng.standard_normal(shape) * 5).astype(np.float32)
        for f in (ops.softmax, ops.log_softmax):
            results = []
            for threads in (1, 2, 3, 8):
                cf.set_num_threads(threads)
                results.append(f(x, axis))
            for other in results[1:]:
                np.testing.assert_array_equal(results[0], other)
            np.testing.assert_array_equal(results[0][4:5], f(x[4:5], axis))


def test_inputs_in_any_memory_form(backend: str, rng: np.random.Generator) -> None:
    plain = rng.standard_normal((4, 6, 17)).astype(np.float32)
    frozen = plain.copy()
    frozen.flags.writeable = False
    spread = np.repeat(plain, 2, axis=2)[:, :, ::2]
    for f in (ops.softmax, ops.log_softmax):
        for x in (spread, np.asfortranarray(plain), plain.astype(">f4"), frozen):
            for axis in (0, 1, 2):
                before = np.array(x)
                np.testing.assert_array_equal(f(x, axis), f(plain, axis))
                np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("f", [ops.softmax, ops.log_softmax])
def test_errors_and_empty_arrays(backend: str, f: Any) -> None:
    name = f.__name__
    x = np.ones((2, 3), np.float32)
    for shape, axis in (((0, 5), 1), ((3, 5, 0), 1), ((0, 1, 5), 2)):
        assert f(np.ones(shape, np.float32), axis).shape == shape
    with pytest.raises(ShapeError, match=rf"^{name}: x has no elements along the axis \(x \(3,0\), axis 1\)"):
        f(np.ones((3, 0), np.float32))
    for axis in (2, -3, 2**62):
        message = rf"^{name}: axis must be from -2 to 1, got {axis} \(x \(2,3\)\)"
        with pytest.raises(ShapeError, match=message):
            f(x, axis)
    for axis in (1.0, None, (0, 1), 2**70, True):
        with pytest.raises(ShapeError, match=rf"^{name}: axis "):
            f(x, axis)
    with pytest.raises(ShapeError, match=r"at least one dimension"):
        f(np.float32(1))
    for dtype in (np.float16, np.uint8, np.int64):
        with pytest.raises(DTypeError, match=rf"^{name}: x is "):
            f(x.astype(dtype))


GRAD_SHAPES = [
    *[((5, k), -1) for k in (1, 2, 15, 21, 33, 64, 65, 1000)],
    ((2, 3, 5), 1),
    ((70, 33), 0),
    ((2, 9, 4, 67), 1),
    ((0, 4), -1),
]


@pytest.mark.parametrize("log", [False, True], ids=["softmax", "log"])
@pytest.mark.parametrize(("shape", "axis"), GRAD_SHAPES, ids=str)
def test_gradients(
    backend: str, rng: np.random.Generator, shape: tuple[int, ...], axis: int, log: bool
) -> None:
    """The sums are compensated, so that no bound grows with their length; exp is good to 4e-7, 7 units."""
    x = (rng.standard_normal(shape) * 3).astype(np.float32)
    g = rng.standard_normal(shape).astype(np.float32)
    y = (ops.log_softmax if log else ops.softmax)(x, axis)
    op = OPERATORS["log_softmax_grad" if log else "softmax_grad"]
    dx = op(op.infer(shape, shape, axis), g, y)
    wide_g, wide_y = g.astype(float), y.astype(float)
    if log:
        total, size = (a.sum(axis, keepdims=True) for a in (wide_g, abs(wide_g)))
        exact, bound = wide_g - np.exp(wide_y) * total, abs(wide_g) + 12 * np.exp(wide_y) * size
    else:
        total, size = ((a * wide_y).sum(axis, keepdims=True) for a in (wide_g, abs(wide_g)))
        exact, bound = wide_y * (wide_g - total), 4 * wide_y * (abs(wide_g) + size)
    assert dx.dtype == np.float32
    assert (abs(dx - exact) <= 2**-24 * bound + 1e-37).all()
    assert np.allclose(op(op.infer(shape, shape, axis), wide_g, wide_y), exact, atol=1e-14)
    with pytest.raises(ShapeError, match="the gradient must have the shape of the result"):
        op.infer((*shape, 2), shape)


def test_gradients_do_not_depend_on_threads_or_batch(native: None, rng: np.random.Generator) -> None:
    for shape, axis in (((6000, 21), -1), ((7, 40, 1500), 1)):
        g, y = (rng.uniform(0, 1, shape).astype(np.float32) for _ in range(2))
        for name in ("softmax_grad", "log_softmax_grad"):
            op, found = OPERATORS[name], []
            for threads in (1, 2, 3, 8):
                cf.set_num_threads(threads)
                found.append(op(op.infer(shape, shape, axis), g, y))
            assert all(np.array_equal(a, found[0]) for a in found)
            one = op(op.infer((1, *shape[1:]), (1, *shape[1:]), axis), g[:1].copy(), y[:1].copy())
            assert np.array_equal(one, found[0][:1])


def test_costs() -> None:
    assert ops.cost("softmax", (2, 3)).bytes == 48
    with pytest.raises(ShapeError, match="more than can be addressed"):
        ops.cost("log_softmax", (1 << 40, 1 << 40))
