"""pad2d and concat: definitions, both backends, errors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cnnfast as cf
from cnnfast.errors import DTypeError, ShapeError
from cnnfast.ops import concat, pad2d

MODES = ("zeros", "reflect", "replicate", "circular")
NUMPY_MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def padded(x: np.ndarray, pads: tuple, mode: str, value: float = 0.0) -> np.ndarray:
    """NumPy's own padding."""
    widths = ((0, 0), *pads, (0, 0))
    if mode == "zeros":
        return np.pad(x, widths, constant_values=value)
    return np.pad(x, widths, mode=NUMPY_MODES[mode])


# --- pad2d -----------------------------------------------------------------------------------------


def test_pad_by_hand(backend: str) -> None:
    x = np.arange(1, 4, dtype=np.float32).reshape(1, 1, 3, 1)
    row = lambda mode, value=0.0: pad2d(x, ((0, 0), (2, 1)), mode=mode, value=value).ravel().tolist()  # noqa: E731
    assert row("zeros") == [0, 0, 1, 2, 3, 0]
    assert row("zeros", 7.5) == [7.5, 7.5, 1, 2, 3, 7.5]
    assert row("reflect") == [3, 2, 1, 2, 3, 2]
    assert row("replicate") == [1, 1, 1, 2, 3, 3]
    assert row("circular") == [2, 3, 1, 2, 3, 1]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("c", [1, 3, 4, 17, 64, 600])
def test_pad_matches_numpy(backend: str, rng: np.random.Generator, mode: str, c: int) -> None:
    x = rng.normal(size=(2, 5, 7, c)).astype(np.float32)
    pads = ((1, 4), (6, 3))
    assert np.array_equal(pad2d(x, pads, mode=mode), padded(x, pads, mode))
    assert pad2d(x.astype(np.float64), pads, mode=mode).dtype == np.float64


def test_pad_forms(backend: str, rng: np.random.Generator) -> None:
    x = rng.normal(size=(1, 4, 5, 3)).astype(np.float32)
    assert pad2d(x, 2).shape == (1, 8, 9, 3)
    assert pad2d(x, (1, 2)).shape == (1, 6, 9, 3)
    assert pad2d(x, [1, 2]).shape == (1, 6, 9, 3)
    assert pad2d(x, ((0, 1), (2, 3))).shape == (1, 5, 10, 3)
    assert pad2d(x, np.array([[0, 1], [2, 3]])).shape == (1, 5, 10, 3)
    assert np.array_equal(pad2d(x, 0), x)
    assert not np.shares_memory(pad2d(x, 0), x)
    assert pad2d(x, 1, value=0.0).tobytes() == pad2d(x, 1, value=-0.0).tobytes()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_pad_fuzz(data: st.DataObject) -> None:
    n, h, w, c = (data.draw(st.integers(lo, hi)) for lo, hi in ((0, 2), (1, 6), (1, 6), (1, 20)))
    mode = data.draw(st.sampled_from(MODES))
    most = {"reflect": (h - 1, w - 1), "circular": (h, w)}.get(mode, (7, 7))
    pads = tuple((data.draw(st.integers(0, m)), data.draw(st.integers(0, m))) for m in most)
    x = np.random.default_rng(n + h + w + c).normal(size=(n, h, w, c)).astype(np.float32)
    assert np.array_equal(pad2d(x, pads, mode=mode), padded(x, pads, mode))


def test_pad_odd_inputs(backend: str, rng: np.random.Generator) -> None:
    x = rng.normal(size=(2, 6, 7, 5)).astype(np.float32)
    expected = padded(x, ((1, 2), (3, 4)), "reflect")
    readonly = x.copy()
    readonly.setflags(write=False)
    for odd in (readonly, np.asfortranarray(x), x.astype(">f4"), np.repeat(x, 2, 3)[..., ::2]):
        assert np.array_equal(pad2d(odd, ((1, 2), (3, 4)), mode="reflect"), expected)
    assert pad2d(x[:0], 3, mode="replicate").shape == (0, 12, 13, 5)
    assert np.array_equal(pad2d(x[:, :0], 1, value=2), np.full((2, 2, 9, 5), 2, np.float32))
    special = np.array([np.nan, np.inf, -np.inf, -0.0], np.float32).reshape(1, 2, 2, 1)
    for mode in MODES:
        got = pad2d(special, 1, mode=mode, value=np.nan if mode == "zeros" else 0)
        np.testing.assert_array_equal(got, padded(special, ((1, 1), (1, 1)), mode, np.nan))


def test_pad_errors(backend: str) -> None:
    x = np.zeros((1, 4, 5, 2), np.float32)
    cases = [
        (
            (x, 4),
            {"mode": "reflect"},
            r"pad2d: reflect padding must be less than the height 4, got 4 \(x \(1,4,5,2\)\)",
        ),
        ((x, (0, 6)), {"mode": "circular"}, "circular padding must be at most the width 5, got 6"),
        ((x[:, :0], 1), {"mode": "replicate"}, "replicate padding needs a height of at least 1"),
        ((x, -1), {}, "padding must be at least 0, got -1"),
        ((x, 1.5), {}, "padding must be a whole number"),
        ((x, (1, 2, 3)), {}, "a pair"),
        ((x, 1), {"mode": "mirror"}, "mode must be one of 'zeros'"),
        ((x, 1), {"mode": "reflect", "value": 1.0}, "value is only for mode 'zeros'"),
        ((x, 1), {"value": "a"}, "value must be a number"),
        ((x[0], 1), {}, "x must have 4 dimensions N,H,W,C, got 3"),
        ((x, 1 << 62), {}, "more than can be addressed"),
        ((x, 1 << 70), {}, "padding is too large"),
    ]
    for args, kwargs, message in cases:
        with pytest.raises(ShapeError, match=message):
            pad2d(*args, **kwargs)
    for wrong in (np.uint8, np.int64, np.float16):
        with pytest.raises(DTypeError, match="pad2d: x is"):
            pad2d(x.astype(wrong), 1)
    with pytest.raises((ShapeError, MemoryError)):
        pad2d(x, ((1 << 20, 0), (1 << 20, 0)))
    with pytest.raises(ShapeError):
        pad2d(x[:0], 1 << 60)


def test_pad_threads_and_batch(native: None, rng: np.random.Generator) -> None:
    x = rng.normal(size=(4, 33, 29, 17)).astype(np.float32)
    for mode in MODES:
        results = []
        for threads in (1, 2, 3, 8):
            cf.set_num_threads(threads)
            results.append(pad2d(x, ((3, 5), (2, 7)), mode=mode))
        assert all(np.array_equal(r, padded(x, ((3, 5), (2, 7)), mode)) for r in results)
        assert np.array_equal(pad2d(x[2:3], ((3, 5), (2, 7)), mode=mode)[0], results[0][2])


def test_conv2d_padding_modes(backend: str, rng: np.random.Generator) -> None:
    """conv2d pads by the same rule."""
    x = rng.normal(size=(1, 6, 7, 3)).astype(np.float32)
    w = rng.normal(size=(3, 3, 3, 4)).astype(np.float32)
    for mode in MODES:
        by_hand = cf.ops.conv2d(pad2d(x, (1, 2), mode=mode), w)
        np.testing.assert_allclose(cf.ops.conv2d(x, w, padding=(1, 2), padding_mode=mode), by_hand, atol=1e-5)


# --- concat ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1, -2, -3, -4])
@pytest.mark.parametrize("sizes", [(1,), (1, 2, 3, 4), (17, 3), (64, 64), (0, 5), (130, 1, 600)])
def test_concat(backend: str, rng: np.random.Generator, axis: int, sizes: tuple[int, ...]) -> None:
    parts = []
    for size in sizes:
        shape = [2, 3, 4, 5]
        shape[axis] = size
        parts.append(rng.normal(size=shape).astype(np.float32))
    y = concat(parts, axis=axis)
    assert np.array_equal(y, np.concatenate(parts, axis=axis))
    assert not any(np.shares_memory(y, part) for part in parts)
    wide = [part.astype(np.float64) for part in parts]
    assert np.array_equal(concat(wide, axis), np.concatenate(wide, axis))


def test_concat_shapes(backend: str, rng: np.random.Generator) -> None:
    vector = rng.normal(size=7).astype(np.float32)
    assert np.array_equal(concat([vector, vector[:2]]), np.concatenate([vector, vector[:2]]))
    large = rng.normal(size=(1, 300, 400)).astype(np.float32)
    for axis in (0, 1, 2):
        assert np.array_equal(concat((large, large, large), axis), np.concatenate((large,) * 3, axis))
    assert np.array_equal(concat(large[0], 0), large.ravel())  # an array is a sequence of its rows
    readonly = large.copy()
    readonly.setflags(write=False)
    odd = [readonly, np.asfortranarray(large), large.astype(">f4"), np.repeat(large, 2, 2)[..., ::2]]
    assert np.array_equal(concat(odd), np.concatenate([large] * 4, -1))
    assert concat([large[:0], large[:0]]).shape == (0, 300, 800)
    deep = large[:1, :2, :3].reshape(1, 1, 1, 2, 1, 1, 1, 1, 3)
    assert np.array_equal(concat([deep, deep], 3), np.concatenate([deep, deep], 3))
    assert np.array_equal(concat(iter([vector, vector]), np.int64(0)), np.concatenate([vector, vector]))
    nan = np.array([np.nan, np.inf, -0.0], np.float32)
    assert concat([nan, nan]).tobytes() == np.concatenate([nan, nan]).tobytes()


def test_concat_errors(backend: str) -> None:
    x = np.zeros((2, 3, 4), np.float32)
    cases = [
        (([],), "concat: at least one array is needed"),
        (
            ([x, x[:1]],),
            r"concat: sizes may differ along axis 2 only \(array_0 \(2,3,4\), array_1 \(1,3,4\)\)",
        ),
        (([x, x[0]],), r"arrays must have 3 dimensions \(array_0 \(2,3,4\), array_1 \(3,4\)\)"),
        (([x], 3), "axis is too large: 3"),
        (([x], -4), "axis must be at least -3, got -4"),
        (([x], 1.0), "axis must be a whole number"),
        (([x], True), "axis must be a whole number"),
        (([x], 1 << 70), "axis is too large"),
        (([np.float32(1)],), "at least one dimension"),
        ((5,), "expected a sequence of arrays, got int"),
    ]
    for args, message in cases:
        with pytest.raises(ShapeError, match=message):
            concat(*args)
    with pytest.raises(DTypeError, match="concat: array 1 is float64, x is float32"):
        concat([x, x.astype(np.float64)])
    with pytest.raises(DTypeError, match="concat: array 0 is int64"):
        concat([x.astype(np.int64)])


def test_concat_threads(native: None, rng: np.random.Generator) -> None:
    parts = [rng.normal(size=(3, 50, 41, c)).astype(np.float32) for c in (17, 64, 3)]
    for threads in (1, 2, 3, 8):
        cf.set_num_threads(threads)
        assert np.array_equal(concat(parts), np.concatenate(parts, -1))
        assert np.array_equal(
            concat([p[..., :3] for p in parts], 0), np.concatenate([p[..., :3] for p in parts], 0)
        )
        assert np.array_equal(
            concat([p[:1, ..., :3] for p in parts], 1), np.concatenate([p[:1, ..., :3] for p in parts], 1)
        )
