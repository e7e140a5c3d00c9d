"""Pooling: the numbers of the notes, a definition by loops, torch, both backends, errors."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import cnnfast as cf
from cnnfast.errors import DTypeError, ShapeError
from cnnfast.ops import avg_pool2d, cost, global_avg_pool2d, global_max_pool2d, max_pool2d

EPS = 2.0**-24
SPECIAL = (np.nan, np.inf, -np.inf, -0.0)


def by_loops(x: np.ndarray, size: Any, stride: Any, pads: Any, dilation: Any, out: Any) -> Any:
    """Maximum, first position of it, sum, sum of absolute values and pixels inside of every window."""
    n, h, w, c = x.shape
    shape = (n, *out, c)
    best, total, absolute = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    where = np.full(shape, -1, np.int64)
    count = np.zeros((1, *out, 1))
    for p, q in itertools.product(range(out[0]), range(out[1])):
        rows = [p * stride[0] - pads[0][0] + i * dilation[0] for i in range(size[0])]
        columns = [q * stride[1] - pads[1][0] + j * dilation[1] for j in range(size[1])]
        index = np.array([i * w + j for i in rows for j in columns if 0 <= i < h and 0 <= j < w])
        values = x.reshape(n, h * w, c)[:, index].astype(float)
        with np.errstate(invalid="ignore"):
            best[:, p, q] = values.max(axis=1)
            total[:, p, q] = values.sum(axis=1)
            absolute[:, p, q] = np.abs(values).sum(axis=1)
        where[:, p, q] = index[np.argmax(values, axis=1)]  # NumPy's argmax takes the first NaN, too
        count[:, p, q] = len(index)
    return best, where, total, absolute, count


def same(a: np.ndarray, b: np.ndarray) -> None:
    np.testing.assert_array_equal(a, b)


# --- numbers ---------------------------------------------------------------------------------------


def test_by_hand(backend: str) -> None:
    x = np.array([[1, 3, 2, 1], [2, 9, 1, 1], [1, 3, 2, 3], [5, 6, 1, 2]], np.float32).reshape(1, 4, 4, 1)
    y, where = max_pool2d(x, 2, return_indices=True)
    same(y[0, :, :, 0], [[9, 2], [6, 3]])
    same(where[0, :, :, 0], [[5, 2], [13, 11]])
    same(avg_pool2d(x, 2)[0, :, :, 0], [[3.75, 1.25], [3.75, 2]])
    assert global_max_pool2d(x).tolist() == [[[[9]]]]
    assert global_avg_pool2d(x).tolist() == [[[[43 / 16]]]]


def test_ceil_mode_and_divisors(backend: str) -> None:
    x = np.arange(1, 6, dtype=np.float32).reshape(1, 1, 5, 1)
    row = lambda y: y.ravel().tolist()  # noqa: E731
    assert row(max_pool2d(x, (1, 2), stride=(1, 2))) == [2, 4]
    assert row(max_pool2d(x, (1, 2), stride=(1, 2), ceil_mode=True)) == [2, 4, 5]
    assert row(avg_pool2d(x, (1, 2), stride=(1, 2), ceil_mode=True)) == [1.5, 3.5, 5]
    # The padding counts or does not; what lies beyond it never does.
    assert row(avg_pool2d(x, (1, 3), stride=(1, 2), padding=(0, 1))) == [1, 3, 3]
    assert row(avg_pool2d(x, (1, 3), stride=(1, 2), padding=(0, 1), count_include_pad=False)) == [1.5, 3, 4.5]
    # A third window would start in the padding behind the picture.
    assert max_pool2d(x[:, :, :4], (1, 2), stride=(1, 3), padding=(0, 1), ceil_mode=True).shape == (
        1,
        1,
        2,
        1,
    )
    # GoogLeNet: 3x3 stride 2, 112 -> 56 and 7 -> 3.
    assert max_pool2d(np.zeros((1, 112, 112, 1), np.float32), 3, stride=2, ceil_mode=True).shape[1] == 56
    assert max_pool2d(np.zeros((1, 112, 112, 1), np.float32), 3, stride=2).shape[1] == 55


def test_whole_numbers_are_exact(backend: str, rng: np.random.Generator) -> None:
    x = rng.integers(-99, 99, (2, 19, 23, 17)).astype(np.float32)
    for size, stride, padding in ((2, 2, 0), (3, 2, 1), (3, 1, 1), (5, 3, 2), ((1, 7), 1, 0)):
        y = avg_pool2d(x, size, stride=stride, padding=padding)
        exact = avg_pool2d(x.astype(np.float64), size, stride=stride, padding=padding)
        same(y, exact.astype(np.float32))
        assert (y.dtype, exact.dtype) == (np.float32, np.float64)


# --- against loops ---------------------------------------------------------------------------------

CASES = [
    # size, stride, padding, dilation, ceil_mode
    (2, 2, 0, 1, False),
    (2, 1, 1, 1, False),
    (3, 2, 1, 1, False),
    (3, 2, 0, 1, True),
    (3, 1, 1, 1, False),
    (3, 3, 1, 1, True),
    ((2, 3), (3, 2), (1, 0), 1, False),
    ((3, 2), (1, 2), ((1, 0), (0, 1)), (2, 3), False),
    (3, (2, 1), ((2, 1), (1, 2)), (2, 3), True),
    ((1, 3), (1, 2), 0, 1, False),
    ((4, 1), (2, 3), (2, 0), 1, True),
    (5, 1, 2, 1, False),
    ((7, 6), (2, 3), (3, 2), 1, True),
    (1, 2, 0, 1, False),
]


def as_pair(v: Any) -> Any:
    return v if isinstance(v, tuple) else (v, v)


def as_sides(padding: Any) -> Any:
    t, s = as_pair(padding)
    return as_pair(t), as_pair(s)


@pytest.mark.parametrize(
    "shape", [(1, 9, 15, 32), (2, 8, 13, 17), (1, 7, 22, 3), (1, 10, 8, 1), (1, 8, 11, 70)]
)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("special", [False, True])
def test_matches_loops(backend: str, rng: np.random.Generator, shape: Any, case: Any, special: bool) -> None:
    size, stride, padding, dilation, ceil_mode = case
    x = rng.normal(size=shape).astype(np.float32)
    if special:
        x[rng.random(shape) < 0.02] = rng.choice(SPECIAL)
        x[rng.random(shape) < 0.02] = np.nan
        x[rng.random(shape) < 0.3] = -np.inf
        x[rng.random(shape) < 0.2] = 1.0  # ties
    kwargs = {"stride": stride, "padding": padding, "ceil_mode": ceil_mode}
    y, where = max_pool2d(x, size, dilation=dilation, return_indices=True, **kwargs)
    args = as_pair(size), as_pair(stride), as_sides(padding)
    best, first, *_ = by_loops(x, *args, as_pair(dilation), y.shape[1:3])
    same(y, best.astype(np.float32))
    same(where, first)
    assert where.dtype == np.int64
    same(max_pool2d(x, size, dilation=dilation, **kwargs), y)

    if dilation != 1:
        return
    _, _, total, absolute, valid = by_loops(x, *args, (1, 1), y.shape[1:3])
    spans = [
        [min(p * s + k, n + before + after) - p * s for p in range(o)]
        for o, k, s, (before, after), n in zip(y.shape[1:3], *args, shape[1:3], strict=True)
    ]
    for include in (True, False):
        y = avg_pool2d(x, size, count_include_pad=include, **kwargs)
        count = np.outer(*spans)[None, :, :, None] if include else valid
        same(np.isnan(y), np.isnan(total))
        finite = np.isfinite(total)
        mean = total / count
        same(y[~finite], mean[~finite].astype(np.float32))
        tolerance = ((np.prod(as_pair(size)) + 1) * EPS * absolute / count)[finite]
        assert np.all(np.abs(y[finite] - mean[finite]) <= tolerance)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_fuzz(data: st.DataObject) -> None:
    """Any parameters: the backends agree, or fail alike."""
    draw = lambda lo, hi: data.draw(st.integers(lo, hi))  # noqa: E731
    shape = (draw(0, 2), draw(1, 12), draw(1, 12), draw(1, 40))
    size, stride, dilation = ((draw(1, 4), draw(1, 4)) for _ in range(3))
    pads = tuple((draw(0, 3), draw(0, 3)) for _ in range(2))
    ceil_mode = data.draw(st.booleans())
    include = data.draw(st.booleans())
    x = np.random.default_rng(draw(0, 99)).normal(size=shape).astype(np.float32)
    x[x > 1.5] = np.nan
    results = []
    for backend in ("numpy", None):
        if backend or cf.config._cpu is not None:
            with cf.use_backend(backend or "cpu"):
                try:
                    y, where = max_pool2d(
                        x,
                        size,
                        stride=stride,
                        padding=pads,
                        dilation=dilation,
                        ceil_mode=ceil_mode,
                        return_indices=True,
                    )
                except ShapeError as error:
                    results.append(str(error))
                    continue
                plain = max_pool2d(
                    x, size, stride=stride, padding=pads, dilation=dilation, ceil_mode=ceil_mode
                )
                same(y, plain)
                results.append((y, where))
    if isinstance(results[0], str):
        assert all(r == results[0] for r in results)
    else:
        assert results[0][1].size == 0 or results[0][1].min() >= 0
        for y, where in results[1:]:
            same(y, results[0][0])
            same(where, results[0][1])
    assume(all(p <= k // 2 for k, side in zip(size, pads, strict=True) for p in side))
    try:
        expected = avg_pool2d(
            x.astype(np.float64),
            size,
            stride=stride,
            padding=pads,
            ceil_mode=ceil_mode,
            count_include_pad=include,
        )
    except ShapeError:
        return
    y = avg_pool2d(x, size, stride=stride, padding=pads, ceil_mode=ceil_mode, count_include_pad=include)
    np.testing.assert_allclose(y, expected, rtol=0, atol=20 * EPS * 6)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_fuzz_parameters(data: st.DataObject) -> None:
    """Parameters up to 2^62 and beyond, wrong ones too: a result or a clear error."""
    big = st.sampled_from(
        [-1, 0, 1, 2, 3, 5, 8, 9, 1 << 20, 1 << 31, (1 << 31) - 1, 1 << 61, 1 << 62, 1 << 63]
    )
    number = st.one_of(st.integers(1, 5), big)
    value = st.one_of(number, st.tuples(number, number))
    x = np.arange(2 * 7 * 5 * 3, dtype=np.float32).reshape(2, 7, 5, 3)
    size, stride, padding, dilation = (data.draw(value) for _ in range(4))
    ceil_mode = data.draw(st.booleans())
    try:
        y, where = max_pool2d(
            x,
            size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            ceil_mode=ceil_mode,
            return_indices=True,
        )
        assert where.min() >= 0
        assert where.max() < 35
        assert np.all(np.isfinite(y))
    except (ShapeError, MemoryError):
        pass
    try:
        y = avg_pool2d(x, size, stride=stride, padding=padding, ceil_mode=ceil_mode)
        assert np.all(np.isfinite(y))
    except (ShapeError, MemoryError):
        pass


# --- against torch ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 64, 14, 15), (1, 17, 9, 7), (1, 3, 30, 29)])
def test_matches_torch(backend: str, rng: np.random.Generator, shape: Any) -> None:
    torch = pytest.importorskip("torch")
    x = rng.normal(size=shape).astype(np.float32)
    t, a = torch.from_numpy(x), np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    f = torch.nn.functional
    for k, s, p, d, ceil in itertools.product(
        (2, 3, (3, 2)), (1, (2, 3)), (0, 1, (0, 1)), (1, (2, 1)), (False, True)
    ):
        y, where = max_pool2d(a, k, stride=s, padding=p, dilation=d, ceil_mode=ceil, return_indices=True)
        ty, tw = f.max_pool2d(t, k, s, p, d, ceil, return_indices=True)
        same(y.transpose(0, 3, 1, 2), ty.numpy())
        same(where.transpose(0, 3, 1, 2), tw.numpy())
        if d == 1:
            for include in (False, True):
                y = avg_pool2d(a, k, stride=s, padding=p, ceil_mode=ceil, count_include_pad=include)
                ty = f.avg_pool2d(t, k, s, p, ceil, include)
                np.testing.assert_allclose(y.transpose(0, 3, 1, 2), ty.numpy(), rtol=0, atol=26 * EPS * 5)
    np.testing.assert_allclose(
        global_avg_pool2d(a).transpose(0, 3, 1, 2), f.adaptive_avg_pool2d(t, 1).numpy(), rtol=0, atol=1e-6
    )


# --- whole pictures --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape",
    [(2, 7, 7, 2048), (3, 7, 5, 17), (1, 56, 40, 64), (1, 113, 127, 3), (2, 300, 11, 1), (1, 1, 1, 5)],
)
def test_global(backend: str, rng: np.random.Generator, shape: Any) -> None:
    x = (rng.normal(size=shape) + 1).astype(np.float32)
    exact = x.astype(np.float64).mean(axis=(1, 2), keepdims=True)
    scale = np.abs(x).astype(np.float64).mean(axis=(1, 2), keepdims=True)
    y = global_avg_pool2d(x)
    assert y.shape == (shape[0], 1, 1, shape[3])
    pixels = shape[1] * shape[2]
    assert np.all(np.abs(y - exact) <= (np.sqrt(pixels) + 4) * EPS * scale)
    same(global_max_pool2d(x), x.max(axis=(1, 2), keepdims=True))
    x[0, -1, -1, 0] = np.nan
    x[-1, 0, 0, -1] = np.inf
    with np.errstate(invalid="ignore"):
        expected = x.max(axis=(1, 2), keepdims=True)
    for y in (global_avg_pool2d(x), global_max_pool2d(x)):
        same(np.isnan(y), np.isnan(expected))
        same(np.isinf(y), np.isinf(expected))


def test_global_average_of_a_large_picture(backend: str) -> None:
    """Naive summation in float32 would be off in the third digit."""
    x = np.full((1, 1500, 1400, 1), 0.1, np.float32)
    assert abs(float(global_avg_pool2d(x)[0, 0, 0, 0]) - float(np.float32(0.1))) < 1e-6


# --- bits ------------------------------------------------------------------------------------------


def test_threads_and_batch(native: None, rng: np.random.Generator) -> None:
    x = rng.normal(size=(5, 37, 41, 48)).astype(np.float32)
    calls = [
        lambda a: max_pool2d(a, 3, stride=2, padding=1),
        lambda a: max_pool2d(a, 3, stride=1, padding=1, return_indices=True)[1],
        lambda a: avg_pool2d(a, 3, stride=2, padding=1),
        lambda a: avg_pool2d(a, 5, stride=1, padding=2),
        global_avg_pool2d,
        global_max_pool2d,
    ]
    for call, c in itertools.product(calls, (48, 17, 3)):
        a = np.ascontiguousarray(x[..., :c])
        results = []
        for threads in (1, 2, 3, 8):
            cf.set_num_threads(threads)
            results.append(call(a))
        assert all(r.tobytes() == results[0].tobytes() for r in results)
        assert call(a[3:4]).tobytes() == results[0][3:4].tobytes()
        assert call(a).tobytes() == results[0].tobytes()


def test_odd_inputs(backend: str, rng: np.random.Generator) -> None:
    x = rng.normal(size=(2, 9, 8, 5)).astype(np.float32)
    readonly = x.copy()
    readonly.setflags(write=False)
    for call in (
        lambda a: max_pool2d(a, 3, padding=1),
        lambda a: avg_pool2d(a, 2),
        global_avg_pool2d,
        global_max_pool2d,
    ):
        expected = call(x)
        for odd in (
            readonly,
            np.asfortranarray(x),
            x.astype(">f4"),
            np.repeat(x, 2, 3)[..., ::2],
            x.tolist(),
        ):
            if isinstance(odd, list):
                odd = np.array(odd, np.float32)
            same(call(odd), expected)
        assert call(x[:0]).shape == (0, *expected.shape[1:])
        assert call(x[..., :0]).shape == (*expected.shape[:3], 0)
        assert call(x.astype(np.float64)).dtype == np.float64
        for wrong in (np.uint8, np.int64, np.float16):
            with pytest.raises(DTypeError, match="pool2d: x is"):
                call(x.astype(wrong))
    y, where = max_pool2d(x[:0], 2, return_indices=True)
    assert y.shape == where.shape == (0, 4, 4, 5)


# --- errors ----------------------------------------------------------------------------------------


def test_errors(backend: str) -> None:
    x = np.zeros((1, 6, 5, 2), np.float32)
    cases: list[tuple[Any, Any, str]] = [
        ((x[0], 2), {}, r"max_pool2d: x must have 4 dimensions N,H,W,C, got 3 \(x \(6,5,2\)\)"),
        ((x, 7), {}, r"max_pool2d: the window spans 7 in height, the padded input has 6"),
        ((x, (2, 6)), {}, "the window spans 6 in width, the padded input has 5"),
        ((x, 3), {"dilation": 3}, "the window spans 7 in height"),
        (
            (x, 2),
            {"padding": 2},
            "padding must be at most half of the window, which spans 2 in height, got 2",
        ),
        ((x, 3), {"padding": ((0, 0), (0, 2))}, "spans 3 in width, got 2"),
        ((x, 0), {}, "size must be at least 1, got 0"),
        ((x, 2), {"stride": 0}, "stride must be at least 1, got 0"),
        ((x, 2), {"stride": 1.5}, "stride must be a whole number"),
        ((x, 2), {"padding": -1}, "padding must be at least 0"),
        ((x, (1, 2, 3)), {}, "size must be a whole number or a pair"),
        ((x[:, :0], 1), {}, "the padded input has 0"),
        ((x[:, :1, :1], 2), {"dilation": 2, "padding": 1}, "a window lies wholly outside the height 1"),
        ((x, 2), {"dilation": 1 << 62}, "the window spans"),
        ((x, 1 << 80), {}, "size is too large"),
    ]
    for args, kwargs, message in cases:
        with pytest.raises(ShapeError, match=message):
            max_pool2d(*args, **kwargs)
    with pytest.raises(ShapeError, match="avg_pool2d: padding must be at most half"):
        avg_pool2d(x, 3, padding=2)
    with pytest.raises(ShapeError, match="global_avg_pool2d: x must have at least one row"):
        global_avg_pool2d(x[:, :0])
    with pytest.raises(ShapeError, match="global_max_pool2d: x must have 4 dimensions"):
        global_max_pool2d(x[0])


def test_huge(backend: str) -> None:
    with pytest.raises((ShapeError, MemoryError)):
        # 2^40 outputs of a picture that takes no memory itself
        max_pool2d(np.broadcast_to(np.float32(0), (1 << 10, 1 << 10, 1 << 10, 1 << 10)), 1)


def test_cost() -> None:
    c = cost("max_pool2d", (1, 112, 112, 64), 3, 2, 1)
    assert c.flops == 56 * 56 * 64 * 9
    assert c.bytes == 4 * 64 * (112 * 112 + 56 * 56)
