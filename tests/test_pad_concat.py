"""pad2d and concat: definitions, both backends, errors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cnnfast as cf
from cnnfast.errors import DTypeError, ShapeError
from cnnfast.ops import pad2d

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
