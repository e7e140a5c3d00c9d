"""Gradients of pooling: ties, windows over the edge, adjoint identities, torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

import cnnfast as cf
from cnnfast.errors import DTypeError, ShapeError
from cnnfast.ops import (
    avg_pool2d,
    avg_pool2d_grad,
    global_avg_pool2d,
    global_avg_pool2d_grad,
    global_max_pool2d,
    global_max_pool2d_grad,
    max_pool2d,
    max_pool2d_grad,
)
from gradients import nchw, nhwc, torch_gradients

# size, keywords; the last ones have windows that lie mostly outside, and unequal axes.
WINDOWS: list[tuple[Any, dict[str, Any]]] = [
    (2, {}),
    (3, {"stride": 2, "padding": 1}),
    (3, {"stride": 1, "padding": 1}),
    (3, {"stride": 2, "ceil_mode": True}),
    ((2, 3), {"stride": (1, 2), "padding": ((1, 0), (0, 1))}),
    (5, {"stride": 3, "padding": 2, "ceil_mode": True}),
    ((4, 1), {"stride": (3, 2), "padding": (2, 0)}),
    ((2, 1), {"stride": (3, 2), "padding": (1, 0)}),  # apart, with pixels that no window sees
    ((1, 3), {"stride": (1, 4)}),
]
SHAPES = [(2, 12, 13, 32), (1, 7, 7, 17), (2, 9, 8, 3), (1, 5, 6, 1), (0, 6, 6, 4), (2, 6, 7, 0)]


def max_grad_of(g: np.ndarray, x: np.ndarray, size: Any, keywords: dict[str, Any]) -> np.ndarray:
    """By the positions that the pooling itself gives."""
    _, where = max_pool2d(x.astype(np.float64), size, return_indices=True, **keywords)
    dx = np.zeros((x.shape[0], x.shape[1] * x.shape[2], x.shape[3]))
    for n, p, q, c in np.ndindex(*g.shape):
        dx[n, where[n, p, q, c], c] += g[n, p, q, c]
    return dx.reshape(x.shape)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_table(backend: str, rng: np.random.Generator, shape: tuple[int, ...], window: Any) -> None:
    size, keywords = window
    x = rng.integers(-3, 4, shape).astype(np.float32)  # many ties
    y = max_pool2d(x, size, **keywords)
    g = rng.integers(-5, 6, y.shape).astype(np.float32)
    dx = max_pool2d_grad(g, x, size, **keywords)
    assert dx.dtype == np.float32
    assert np.array_equal(dx, max_grad_of(g, x, size, keywords))
    for include in (True, False):
        y = avg_pool2d(x, size, count_include_pad=include, **keywords)
        dx = avg_pool2d_grad(g, x.shape, size, count_include_pad=include, **keywords)
        assert dx.shape == x.shape
        left, right = np.vdot(y.astype(float), g), np.vdot(x.astype(float), dx)
        assert abs(left - right) <= 1e-5 * max(1.0, float(np.abs(x).sum()))


def test_dilated_windows(backend: str, rng: np.random.Generator) -> None:
    for dilation, padding in (((2, 3), (1, 0)), (3, 1), ((1, 2), ((1, 0), (2, 1)))):
        x = rng.integers(-3, 4, (2, 11, 14, 19)).astype(np.float32)
        keywords = {"stride": (2, 1), "padding": padding, "dilation": dilation}
        g = rng.integers(-5, 6, max_pool2d(x, 3, **keywords).shape).astype(np.float32)
        assert np.array_equal(max_pool2d_grad(g, x, 3, **keywords), max_grad_of(g, x, 3, keywords))


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_fuzz(data: st.DataObject) -> None:
    draw = data.draw
    two = lambda lo, hi: draw(st.tuples(st.integers(lo, hi), st.integers(lo, hi)))  # noqa: E731
    size, stride, dilation = two(1, 4), two(1, 4), two(1, 3)
    span = [d * (k - 1) + 1 for d, k in zip(dilation, size, strict=True)]
    pads = tuple(draw(st.tuples(st.integers(0, s // 2), st.integers(0, s // 2))) for s in span)
    shape = (draw(st.integers(0, 2)), *two(1, 12), draw(st.sampled_from((1, 2, 5, 16, 17, 40))))
    keywords: dict[str, Any] = {"stride": stride, "padding": pads, "ceil_mode": draw(st.booleans())}
    note(f"{shape} {size} {dilation} {keywords}")
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    x = rng.integers(-3, 4, shape).astype(np.float32)
    include = draw(st.booleans())
    for name in ("numpy", "cpu") if cf.config._cpu is not None else ("numpy",):
        with cf.use_backend(name):
            try:
                y = max_pool2d(x, size, dilation=dilation, **keywords)
            except ShapeError:
                continue
            g = np.arange(y.size, dtype=np.float32).reshape(y.shape) % 7
            got = max_pool2d_grad(g, x, size, dilation=dilation, **keywords)
            assert np.array_equal(got, max_grad_of(g, x, size, {**keywords, "dilation": dilation}))
        try:
            with cf.use_backend("numpy"):
                y = avg_pool2d(x.astype(float), size, count_include_pad=include, **keywords)
        except ShapeError:
            continue
        with cf.use_backend(name):
            g = rng.integers(-5, 6, y.shape).astype(np.float32)
            dx = avg_pool2d_grad(g, shape, size, count_include_pad=include, **keywords)
            assert abs(np.vdot(y, g) - np.vdot(x.astype(float), dx)) <= 1e-4 * max(1.0, np.abs(x).sum())


@pytest.mark.parametrize("shape", [(2, 7, 9, 17), (1, 1, 1, 3), (3, 20, 21, 64), (0, 3, 3, 5)], ids=str)
def test_whole_pictures(backend: str, rng: np.random.Generator, shape: tuple[int, ...]) -> None:
    x = rng.integers(-3, 4, shape).astype(np.float32)
    g = rng.integers(-5, 6, (shape[0], 1, 1, shape[3])).astype(np.float32)
    dx = global_avg_pool2d_grad(g, shape)
    assert np.array_equal(dx, np.broadcast_to(g / np.float32(shape[1] * shape[2]), shape))
    dx = global_max_pool2d_grad(g, x)
    assert dx.shape == shape
    flat, position = (a.reshape(shape[0], shape[1] * shape[2], shape[3]) for a in (x, dx))
    for n, c in np.ndindex(shape[0], shape[3]):
        first = int(np.argmax(flat[n, :, c]))
        expected = np.zeros(flat.shape[1])
        expected[first] = g[n, 0, 0, c]
        assert np.array_equal(position[n, :, c], expected)
    assert np.vdot(global_max_pool2d(x), g) == np.vdot(x, dx)
    if x.size:
        back = np.vdot(x.astype(float), global_avg_pool2d_grad(g, shape))
        assert abs(np.vdot(global_avg_pool2d(x).astype(float), g) - back) < 1e-3


def test_torch(backend: str, rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    pool = torch.nn.functional
    x = rng.standard_normal((2, 11, 13, 5))
    for size, keywords in WINDOWS[:4]:
        g = rng.standard_normal(max_pool2d(x, size, **keywords).shape)
        (dx,) = torch_gradients(lambda a, s=size, k=keywords: pool.max_pool2d(a, s, **k), nchw(x), g=nchw(g))
        got = max_pool2d_grad(g.astype(np.float32), x.astype(np.float32), size, **keywords)
        np.testing.assert_allclose(got, nhwc(dx), rtol=1e-4, atol=1e-5)
        for include in (True, False):
            more = {**keywords, "count_include_pad": include}
            (dx,) = torch_gradients(lambda a, s=size, k=more: pool.avg_pool2d(a, s, **k), nchw(x), g=nchw(g))
            got = avg_pool2d_grad(g.astype(np.float32), x.shape, size, **more)
            np.testing.assert_allclose(got, nhwc(dx), rtol=1e-4, atol=1e-5)


def test_not_a_number_takes_the_gradient(backend: str) -> None:
    x = np.array([[1, np.nan], [np.nan, 5]], np.float32).reshape(1, 2, 2, 1)
    assert max_pool2d_grad(np.full((1, 1, 1, 1), 3, np.float32), x, 2).ravel().tolist() == [0, 3, 0, 0]
    low = np.full((1, 2, 2, 1), -np.inf, np.float32)
    assert max_pool2d_grad(np.full((1, 1, 1, 1), 3, np.float32), low, 2).ravel().tolist() == [3, 0, 0, 0]


def test_threads_give_the_same_bits(native: None, rng: np.random.Generator) -> None:
    x = rng.standard_normal((3, 60, 61, 40)).astype(np.float32)
    keywords = {"stride": 2, "padding": 1}
    g = rng.standard_normal(max_pool2d(x, 3, **keywords).shape).astype(np.float32)
    results = []
    for threads in (1, 2, 3, 8):
        cf.set_num_threads(threads)
        results.append((max_pool2d_grad(g, x, 3, **keywords), avg_pool2d_grad(g, x.shape, 3, **keywords)))
        assert np.array_equal(max_pool2d_grad(g[1:2], x[1:2], 3, **keywords)[0], results[0][0][1])
    for other in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_views(backend: str, rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 8, 16, 12)).astype(np.float32)[:, :, ::2, ::-1]
    g = rng.standard_normal((2, 24, 8, 4)).astype(np.float32).transpose(0, 2, 3, 1)[:, ::2, :, ::2]
    g.setflags(write=False)
    packed = np.ascontiguousarray(g), np.ascontiguousarray(x)
    assert np.array_equal(max_pool2d_grad(g, x, 2), max_pool2d_grad(*packed, 2))
    assert np.array_equal(avg_pool2d_grad(g, x.shape, 2), avg_pool2d_grad(packed[0], x.shape, 2))


def test_what_does_not_fit() -> None:
    x, g = np.zeros((1, 6, 6, 2)), np.zeros((1, 3, 3, 2))
    with pytest.raises(ShapeError, match=r"^max_pool2d_grad: the gradient must have the shape of the result"):
        max_pool2d_grad(g, x[:, 1:], 2)
    with pytest.raises(ShapeError, match=r"^avg_pool2d_grad: the gradient must have the shape of the result"):
        avg_pool2d_grad(g, (1, 6, 8, 2), 2)
    with pytest.raises(ShapeError, match=r"^global_avg_pool2d_grad: the gradient must have the shape"):
        global_avg_pool2d_grad(g, (1, 6, 6, 2))
    with pytest.raises(ShapeError, match=r"^global_max_pool2d_grad: the gradient must have the shape"):
        global_max_pool2d_grad(g, x)
    with pytest.raises(DTypeError):
        max_pool2d_grad(g, x.astype(np.float32), 2)
