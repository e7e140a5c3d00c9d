"""Batch and local response normalisation on every backend, against float64 and torch."""

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

U = 2.0**-24
SHAPES = [(2, 7, 7, 17), (1, 5, 9, 96), (3, 4, 1), (301, 2), (3, 300), (17,), (40, 3)]


def statistics(c: int, rng: np.random.Generator, mean: float = 0.0) -> list[np.ndarray]:
    """Mean, variance, scale and shift, all different."""
    m, s, t = (rng.standard_normal(c).astype(np.float32) for _ in range(3))
    return [m + np.float32(mean), rng.random(c).astype(np.float32) + np.float32(0.01), s, t]


# --- batch_norm --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mean", [0.0, 1000.0])
@pytest.mark.parametrize("left_out", [(), (3,), (2,), (2, 3)])
def test_batch_norm(
    backend: str, shape: tuple[int, ...], mean: float, left_out: tuple[int, ...], rng: np.random.Generator
) -> None:
    p: list[Any] = statistics(shape[-1], rng, mean)
    x = (rng.standard_normal(shape) * 3 + mean).astype(np.float32)
    m, v, scale, shift = (q.astype(np.float64) for q in p)
    for i in left_out:
        p[i] = None
    part = (x.astype(np.float64) - m) / np.sqrt(v + 1e-5) * (1 if 2 in left_out else scale)
    rest = 0 if 3 in left_out else shift
    y = ops.batch_norm(x, *p)
    assert y.dtype == np.float32
    assert y.shape == shape
    # Difference, factor, product and sum round once each.
    assert np.all(np.abs(y - (part + rest)) <= 4 * U * (np.abs(part) + np.abs(rest)) + 1e-44)


def test_batch_norm_by_hand(backend: str) -> None:
    x, mean, var = np.float32([[1, 10], [3, -10]]), np.float32([1, 0]), np.float32([4, 25])
    got = ops.batch_norm(x, mean, var, np.float32([2, 1]), np.float32([5, -1]), eps=0)
    np.testing.assert_array_equal(got, [[5, 1], [7, -3]])


def test_batch_norm_agrees_with_torch(backend: str, rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    x = rng.standard_normal((2, 7, 5, 17)).astype(np.float32)
    p = statistics(17, rng)
    t = [torch.from_numpy(q).double() for q in p]
    nchw = torch.from_numpy(x.transpose(0, 3, 1, 2).astype(np.float64))
    want = torch.nn.functional.batch_norm(nchw, *t, eps=1e-3).numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(ops.batch_norm(x, *p, eps=1e-3), want, 0, 8 * U * np.abs(want).max())


def test_batch_norm_nan_and_inf(backend: str) -> None:
    x = np.zeros((9, 5), np.float32)
    x[3] = [np.nan, np.inf, -np.inf, 1, 1]
    one = np.ones(5, np.float32)
    y = ops.batch_norm(x, 0 * one, np.float32([1, 1, 1, -1, np.nan]), one, one)
    np.testing.assert_array_equal(np.isnan(y[3]), [True, False, False, True, True])
    assert y[3, 1] == np.inf
    assert y[3, 2] == -np.inf
    assert np.isfinite(y[[0, 1, 2, 4, 5], :3]).all()


def test_batch_norm_errors(backend: str) -> None:
    x, c = np.ones((2, 3), np.float32), np.ones(3, np.float32)
    message = r"^batch_norm: mean must have shape \(3,\) \(mean \(4\), x \(2,3\)\)"
    with pytest.raises(ShapeError, match=message):
        ops.batch_norm(x, np.ones(4, np.float32), c)
    with pytest.raises(ShapeError, match=r"^batch_norm: shift must have shape"):
        ops.batch_norm(x, c, c, c, np.ones((1, 3), np.float32))
    with pytest.raises(ShapeError, match=r"at least one dimension"):
        ops.batch_norm(np.float32(1), c, c)
    for eps in (-1e-5, np.nan, np.inf, 1e60):
        with pytest.raises(ShapeError, match=r"^batch_norm: eps must"):
            ops.batch_norm(x, c, c, eps=eps)
    with pytest.raises(DTypeError, match=r"^batch_norm: var is float64, x is float32"):
        ops.batch_norm(x, c, c.astype(np.float64))
    with pytest.raises(DTypeError, match=r"^batch_norm: x is int64"):
        ops.batch_norm(np.ones((2, 3), np.int64), c, c)


# --- local_response_norm -----------------------------------------------------------------------------


def response(x: np.ndarray, size: int, alpha: float, beta: float, k: float, mode: str = "sum") -> np.ndarray:
    """The formula, channel by channel, in float64."""
    x = x.astype(np.float64)
    c = x.shape[-1]
    y = np.empty_like(x)
    for i in range(c):
        window = x[..., max(0, i - size // 2) : min(c, i + (size - 1) // 2 + 1)]
        total = (window**2).sum(axis=-1)
        y[..., i] = x[..., i] / (k + (alpha / size if mode == "mean" else alpha) * total) ** beta
    return y


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 9, 16, 17, 40, 2**60])
def test_local_response_norm(
    backend: str, shape: tuple[int, ...], size: int, rng: np.random.Generator
) -> None:
    # Neighbours of very different size: a running sum would lose the small ones.
    x = (rng.standard_normal(shape) * 10.0 ** rng.uniform(-4, 4, shape)).astype(np.float32)
    for beta in (0.75, 0.5, 1.0, 0.6, 2.0, -0.3, 0):
        for mode in ("sum", "mean"):
            y = ops.local_response_norm(x, size=size, alpha=0.2, beta=beta, k=1.5, alpha_mode=mode)
            assert y.shape == shape
            want = response(x, size, 0.2, beta, 1.5, mode)
            # The terms add with at most one rounding each, alpha and k round too; then the power. The
            # NumPy power takes the rounded exponent: beta ln(base) units more.
            terms = min(size, shape[-1])
            units = 8 + abs(beta) * (terms + 4 + 20)
            assert np.max(np.abs(y - want) / np.abs(want)) <= units * U


def test_the_conventions_of_the_source_and_of_torch(backend: str) -> None:
    x = np.arange(1, 8, dtype=np.float32)
    a = ops.local_response_norm(x)  # Krizhevsky: k 2, n 5, alpha 1e-4 undivided, beta .75
    np.testing.assert_allclose(a[3], 4 / (2 + 1e-4 * (4 + 9 + 16 + 25 + 36)) ** 0.75, 4e-7)
    np.testing.assert_allclose(a[0], 1 / (2 + 1e-4 * (1 + 4 + 9)) ** 0.75, 4e-7)
    b = ops.local_response_norm(x, alpha=5e-4, alpha_mode="mean")
    np.testing.assert_allclose(a, b, 4e-7)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 8, 13])
def test_local_response_norm_agrees_with_torch(backend: str, size: int, rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    x = rng.standard_normal((2, 5, 3, 17)).astype(np.float32) * 3
    nchw = torch.from_numpy(x.transpose(0, 3, 1, 2).astype(np.float64))
    want = torch.nn.LocalResponseNorm(size, alpha=0.3, beta=0.75, k=1.0)(nchw).numpy().transpose(0, 2, 3, 1)
    got = ops.local_response_norm(x, size=size, alpha=0.3, k=1.0, alpha_mode="mean")
    np.testing.assert_allclose(got, want, 40 * U)


@pytest.mark.parametrize("beta", [0.75, 0.5, 1.0, 0.6, 2.5])
def test_local_response_norm_far_from_one(backend: str, beta: float) -> None:
    # Bases at both ends of the range, where the quick roots would fail.
    x = np.float32([0, 1e-19, 3e-12, 1, 1e9, 1e16, 1e18])
    for k in (0.0, 1e-35, 1.0, 1e30):
        with np.errstate(all="ignore"):
            want = np.float64(x) / (np.float64(np.float32(k)) + np.float64(x) ** 2) ** beta
            want32 = want.astype(np.float32)
        y = ops.local_response_norm(x, size=1, alpha=1.0, beta=beta, k=k)
        assert np.isnan(y[0]) == (k == 0 or (backend == "numpy" and k**beta < 1e-45))  # 0 / 0
        # The NumPy path has the power itself in float32, so it must be in range there.
        base = np.float64(np.float32(k)) + np.float64(x) ** 2
        with np.errstate(all="ignore"):
            good = np.isfinite(want32) & (np.abs(want32) > 1e-37) & (base > 1e-37)
            if backend == "numpy":
                good &= (base**beta > 1e-37) & (base**beta < 1e38)
        np.testing.assert_allclose(y[good], want[good], 60 * (1 + beta) * U)


def test_local_response_norm_nan_and_inf(backend: str) -> None:
    for c in (9, 40, 67):
        for beta in (0.75, 0.5, 1.0, 0.6):
            x = np.ones((3, c), np.float32)
            x[1, 4] = np.nan
            y = ops.local_response_norm(x, beta=beta)
            assert np.flatnonzero(np.isnan(y)).tolist() == [c + i for i in range(2, 7)]
            x[1, 4] = np.inf
            y = ops.local_response_norm(x, beta=beta)
            assert np.flatnonzero(np.isnan(y)).tolist() == [c + 4]
            assert np.flatnonzero(y == 0).tolist() == [c + 2, c + 3, c + 5, c + 6]
            # A base below zero has no real power.
            assert np.isnan(ops.local_response_norm(x[0], beta=beta, k=-5.0)).all() == (beta != 1)


def test_local_response_norm_errors(backend: str) -> None:
    x = np.ones((2, 3), np.float32)
    for size in (0, -1, 2**63, 2.0, True):
        with pytest.raises(ShapeError, match=r"^local_response_norm: size "):
            ops.local_response_norm(x, size=size)
    for name in ("alpha", "beta", "k"):
        for value in (np.nan, np.inf, 1e60, "x"):
            with pytest.raises(ShapeError, match=f"^local_response_norm: {name} must be"):
                ops.local_response_norm(x, **{name: value})
    with pytest.raises(ShapeError, match=r"^local_response_norm: alpha_mode must be one of 'sum', 'mean'"):
        ops.local_response_norm(x, alpha_mode="average")
    with pytest.raises(ShapeError, match=r"at least one dimension"):
        ops.local_response_norm(np.float32(1))
    for dtype in (np.float16, np.uint8, np.int32):
        with pytest.raises(DTypeError, match=r"^local_response_norm: x is "):
            ops.local_response_norm(x.astype(dtype))


# --- both --------------------------------------------------------------------------------------------


def calls(c: int, rng: np.random.Generator) -> list[Any]:
    p = statistics(c, rng)
    return [
        lambda x: ops.batch_norm(x, *(q.astype(x.dtype) for q in p)),
        ops.local_response_norm,
        lambda x: ops.local_response_norm(x, size=19, beta=0.6),
    ]


def test_float64_and_empty_arrays(backend: str, rng: np.random.Generator) -> None:
    for f in calls(17, rng):
        assert f(np.ones((2, 17))).dtype == np.float64
        for shape in ((0, 5, 5, 17), (2, 0, 17)):
            assert f(np.ones(shape, np.float32)).shape == shape
    none = np.ones((3, 0), np.float32)
    assert ops.local_response_norm(none).shape == (3, 0)
    assert ops.batch_norm(none, none[0], none[0]).shape == (3, 0)


def test_inputs_in_any_memory_form(backend: str, rng: np.random.Generator) -> None:
    plain = rng.standard_normal((4, 6, 17)).astype(np.float32)
    frozen = plain.copy()
    frozen.flags.writeable = False
    spread = np.repeat(plain, 2, axis=2)[:, :, ::2]
    for f in calls(17, rng):
        want = f(plain)
        for x in (spread, np.asfortranarray(plain), plain.astype(">f4"), frozen):
            before = np.array(x)
            got = f(x) if x.dtype.isnative else ops.local_response_norm(x)
            np.testing.assert_array_equal(got, want if x.dtype.isnative else ops.local_response_norm(plain))
            np.testing.assert_array_equal(x, before)


def test_results_do_not_depend_on_threads_or_batch(native: None, rng: np.random.Generator) -> None:
    for shape in ((5, 31, 33, 19), (4, 9, 9, 300), (3, 101, 67, 3)):
        x = (rng.standard_normal(shape) * 10.0 ** rng.uniform(-18, 18, shape)).astype(np.float32)
        for f in calls(shape[-1], rng):
            results = []
            for threads in (1, 2, 3, 8):
                cf.set_num_threads(threads)
                results.append(f(x))
            for other in results[1:]:
                np.testing.assert_array_equal(results[0], other)
            np.testing.assert_array_equal(results[0][2:3], f(x[2:3]))
            np.testing.assert_array_equal(results[0][1, 3, 3], f(x[1, 3, 3]))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.lists(st.integers(1, 40), min_size=1, max_size=3).map(tuple),
    size=st.one_of(st.integers(1, 50), st.integers(1, 2**62)),
    beta=st.floats(-2, 2),
    k=st.floats(0.1, 10),
    seed=st.integers(0, 1000),
)
def test_random_responses(
    backend: str, shape: tuple[int, ...], size: int, beta: float, k: float, seed: int
) -> None:
    x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    y = ops.local_response_norm(x, size=size, alpha=0.1, beta=beta, k=k)
    want = response(x, size, 0.1, beta, k)
    # A sum of n squares, |ln base| below 6.
    units = 12 + abs(beta) * (min(size, shape[-1]) + 12)
    assert np.max(np.abs(y - want) / np.abs(want)) <= units * U


@pytest.mark.parametrize("beta", [0.75, 0.5, 1.0, 0.6])
@pytest.mark.parametrize(("c", "size"), [(1, 1), (3, 2), (17, 5), (40, 5), (33, 4), (70, 21), (5, 9)])
def test_gradient_of_local_response_norm(
    backend: str, rng: np.random.Generator, c: int, size: int, beta: float
) -> None:
    """Both sums are `size` additions; the power is good to 4e-7, 7 units, and enters three times."""
    op = OPERATORS["local_response_norm_grad"]
    shape = (2, 5, c)
    s = op.infer(shape, shape, size, 0.3, beta, 1.5)
    x, g = (rng.standard_normal(shape).astype(np.float32) * 3 for _ in range(2))
    exact = op(s, x.astype(float), g.astype(float))
    dx = op(s, x, g)
    assert dx.dtype == np.float32
    assert (abs(dx - exact) <= 2**-24 * (2 * size + 30) * _absolute(s, x, g)).all()


def _absolute(s: Any, x: np.ndarray, g: np.ndarray) -> np.ndarray:
    """The terms of the gradient, added without their signs."""
    wide, size = x.astype(float), abs(g).astype(float)
    squares, channels = wide**2, range(s.out[-1])
    windows = [slice(max(0, i - s.before), i + s.after + 1) for i in channels]
    d = np.stack([s.k + s.alpha * squares[..., w].sum(-1) for w in windows], -1)
    part = size * abs(wide) * d ** (-s.beta - 1)
    shared = np.stack(
        [sum(part[..., i] for i in channels if windows[i].start <= j < windows[i].stop) for j in channels], -1
    )
    return np.asarray(size * d**-s.beta + 2 * s.alpha * s.beta * abs(wide) * shared)


def test_gradient_of_a_response_does_not_depend_on_threads(native: None, rng: np.random.Generator) -> None:
    op = OPERATORS["local_response_norm_grad"]
    for shape, size in (((3, 20, 21, 33), 5), ((2, 31, 17, 64), 20)):
        s, x = op.infer(shape, shape, size), rng.standard_normal(shape).astype(np.float32)
        found = []
        for threads in (1, 2, 3, 8):
            cf.set_num_threads(threads)
            found.append(op(s, x, x * 0.5))
        assert all(np.array_equal(a, found[0]) for a in found)
        one = op(op.infer((1, *shape[1:]), (1, *shape[1:]), size), x[:1].copy(), x[:1] * 0.5)
        assert np.array_equal(one, found[0][:1])


def test_costs() -> None:
    assert ops.cost("batch_norm", (2, 3), (3,), (3,)).bytes == 2 * 24 + 24
    assert ops.cost("local_response_norm", (2, 30)).bytes == 480
    with pytest.raises(ShapeError, match="more than can be addressed"):
        ops.cost("local_response_norm", (1 << 40, 1 << 40))
