"""resize: definitions, torch, Pillow, both backends, errors."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cnnfast as cf
from cnnfast.errors import DTypeError, ShapeError
from cnnfast.ops import cost, resize

EPS = 2.0**-24
KINDS = [
    {"mode": "nearest"},
    {"mode": "bilinear"},
    {"mode": "bilinear", "align_corners": True},
    {"mode": "bilinear", "antialias": True},
]
SIZES = [(7, 9), (14, 18), (3, 5), (1, 1), (7, 20), (23, 4), (6, 31), (28, 9), (2, 10)]


def by_matrix(
    size: int, out: int, mode: str, align_corners: bool = False, antialias: bool = False
) -> np.ndarray:
    """Weights of one axis, entry by entry."""
    a = np.zeros((out, size))
    for i in range(out):
        if mode == "nearest":
            a[i, i * size // out] = 1
            continue
        if antialias:
            scale = size / out
            reach = max(scale, 1)
            centre = (i + 0.5) * scale
            for j in range(size):
                # Pixels count by their middles, rounded as Pillow rounds.
                if max(0, int(centre - reach + 0.5)) <= j < min(size, int(centre + reach + 0.5)):
                    a[i, j] = max(0, 1 - abs(j + 0.5 - centre) / reach)
            a[i] /= a[i].sum()
            continue
        if align_corners:
            at = i * (size - 1) / (out - 1) if out > 1 else 0
        else:
            at = min(max((i + 0.5) * size / out - 0.5, 0), size - 1)
        j = min(int(at), size - 1)
        a[i, j] += 1 - (at - j)
        a[i, min(j + 1, size - 1)] += at - j
    return a


def tolerance(size: Any, out: Any, x: np.ndarray, kind: Any) -> np.ndarray:
    """(taps + 2) eps for each pass, times the sum of absolute products."""
    a, b = by_matrix(size[0], out[0], **kind), by_matrix(size[1], out[1], **kind)
    taps = (a > 0).sum(axis=1).max() + (b > 0).sum(axis=1).max()
    return (taps + 4) * EPS * np.einsum("pi,qj,nijc->npqc", a, b, np.abs(x.astype(float)))


# --- definition ------------------------------------------------------------------------------------


def test_by_hand(backend: str) -> None:
    x = np.array([0, 1, 2, 3], np.float32).reshape(1, 1, 4, 1)
    row = lambda out, **kind: resize(x, (1, out), **kind).ravel().tolist()  # noqa: E731
    assert row(8, mode="nearest") == [0, 0, 1, 1, 2, 2, 3, 3]
    assert row(3, mode="nearest") == [0, 1, 2]
    assert row(8) == [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]
    assert row(7, align_corners=True) == [0, 0.5, 1, 1.5, 2, 2.5, 3]
    assert row(2) == [0.5, 2.5]
    np.testing.assert_allclose(row(2, antialias=True), [5 / 7, 16 / 7], rtol=1e-6)
    assert row(4) == row(4, antialias=True) == row(4, mode="nearest") == [0, 1, 2, 3]
    assert resize(x, 2).shape == (1, 2, 2, 1)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("c", [1, 3, 5, 16, 17, 70])
def test_matches_matrices(backend: str, rng: np.random.Generator, kind: Any, c: int) -> None:
    x = rng.normal(size=(2, 7, 9, c)).astype(np.float32)
    for out in SIZES:
        y = resize(x, out, **kind)
        assert y.dtype == np.float32
        a, b = by_matrix(7, out[0], **kind), by_matrix(9, out[1], **kind)
        exact = np.einsum("pi,qj,nijc->npqc", a, b, x.astype(float))
        assert np.all(np.abs(y - exact) <= tolerance((7, 9), out, x, kind))
        wide = resize(x.astype(np.float64), out, **kind)
        np.testing.assert_allclose(wide, exact, rtol=0, atol=1e-14 * np.abs(x).max())
        if kind["mode"] == "nearest":
            np.testing.assert_array_equal(y, exact.astype(np.float32))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_fuzz(data: st.DataObject) -> None:
    draw = lambda lo, hi: data.draw(st.integers(lo, hi))  # noqa: E731
    kind = data.draw(st.sampled_from(KINDS))
    n, h, w, c = draw(0, 2), draw(1, 40), draw(1, 40), draw(0, 36)
    out = draw(1, 50), draw(1, 50)
    x = np.random.default_rng(h * w).normal(size=(n, h, w, c)).astype(np.float32)
    y = resize(x, out, **kind)
    assert y.shape == (n, *out, c)
    exact = resize(x.astype(np.float64), out, **kind)
    assert np.all(np.abs(y - exact) <= tolerance((h, w), out, x, kind))
    if (h, w) == out:
        np.testing.assert_array_equal(y, x)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_constant_stays(backend: str, kind: Any) -> None:
    x = np.full((1, 13, 11, 3), 0.7, np.float32)
    for out in ((5, 29), (40, 3)):
        np.testing.assert_allclose(resize(x, out, **kind), 0.7, rtol=4e-7 * 4)


# --- against torch and Pillow ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_matches_torch(backend: str, rng: np.random.Generator, kind: Any) -> None:
    torch = pytest.importorskip("torch")
    interpolate = torch.nn.functional.interpolate
    extra = {} if kind["mode"] == "nearest" else {"align_corners": kind.get("align_corners", False)}
    if kind.get("antialias"):
        extra["antialias"] = True
    for shape, out in itertools.product(
        [(2, 20, 30, 17), (1, 33, 8, 3)], [(10, 15), (40, 60), (7, 11), (64, 5), (1, 1)]
    ):
        x = rng.normal(size=shape)
        t = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
        expected = interpolate(t, out, mode=kind["mode"], **extra).numpy().transpose(0, 2, 3, 1)
        np.testing.assert_allclose(resize(x, out, **kind), expected, rtol=0, atol=1e-12)
        np.testing.assert_allclose(resize(x.astype(np.float32), out, **kind), expected, rtol=0, atol=3e-6)


def test_matches_pillow(backend: str, rng: np.random.Generator) -> None:
    image = pytest.importorskip("PIL.Image")
    for size, out in (((60, 80), (17, 23)), ((50, 40), (25, 20)), ((9, 12), (31, 7)), ((100, 3), (7, 3))):
        x = rng.normal(size=size).astype(np.float32)
        expected = np.asarray(image.fromarray(x).resize(out[::-1], image.Resampling.BILINEAR))
        y = resize(x[None, :, :, None], out, antialias=True)[0, :, :, 0]
        np.testing.assert_allclose(y, expected, rtol=0, atol=2e-6)


# --- NaN, bits, inputs -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_nan_and_inf_stay_where_they_belong(backend: str, rng: np.random.Generator, kind: Any) -> None:
    for c, out in itertools.product((1, 3, 17), SIZES):
        x = rng.normal(size=(1, 7, 9, c)).astype(np.float32)
        x[0, 3, 4, 0] = np.nan
        x[0, 5, 1, -1] = np.inf
        a, b = by_matrix(7, out[0], **kind) > 1e-12, by_matrix(9, out[1], **kind) > 1e-12
        reach = lambda bad: np.einsum("pi,qj,nijc->npqc", a, b, bad.astype(float)) > 0  # noqa: B023, E731
        y = resize(x, out, **kind)
        np.testing.assert_array_equal(np.isnan(y), reach(np.isnan(x)))
        np.testing.assert_array_equal(np.isinf(y), reach(np.isinf(x)) & ~reach(np.isnan(x)))


def test_threads_and_batch(native: None, rng: np.random.Generator) -> None:
    x = rng.normal(size=(3, 61, 47, 19)).astype(np.float32)
    for kind, c, out in itertools.product(KINDS, (19, 3), ((122, 94), (30, 20), (40, 90))):
        a = np.ascontiguousarray(x[..., :c])
        results = []
        for threads in (1, 2, 3, 8):
            cf.set_num_threads(threads)
            results.append(resize(a, out, **kind))
        assert all(r.tobytes() == results[0].tobytes() for r in results)
        assert resize(a[1:2], out, **kind).tobytes() == results[0][1:2].tobytes()


def test_odd_inputs(backend: str, rng: np.random.Generator) -> None:
    x = rng.normal(size=(2, 9, 8, 5)).astype(np.float32)
    readonly = x.copy()
    readonly.setflags(write=False)
    for kind in KINDS:
        expected = resize(x, (5, 13), **kind)
        for odd in (readonly, np.asfortranarray(x), x.astype(">f4"), np.repeat(x, 2, 3)[..., ::2]):
            np.testing.assert_array_equal(resize(odd, (5, 13), **kind), expected)
        assert resize(x[:0], (5, 13), **kind).shape == (0, 5, 13, 5)
        assert resize(x[..., :0], [5, 13], **kind).shape == (2, 5, 13, 0)
        assert resize(x[:0], (1 << 40, 2), **kind).shape == (0, 1 << 40, 2, 5)
        same = resize(x, (9, 8), **kind)
        np.testing.assert_array_equal(same, x)
        assert not np.shares_memory(same, x)


def test_errors(backend: str) -> None:
    x = np.zeros((1, 6, 5, 2), np.float32)
    cases: list[tuple[Any, Any, str]] = [
        ((x[0], 2), {}, r"resize: x must have 4 dimensions N,H,W,C, got 3 \(x \(6,5,2\)\)"),
        ((x, 0), {}, "size must be at least 1, got 0"),
        ((x, 2.0), {}, "size must be a whole number"),
        ((x, (1, 2, 3)), {}, "size must be a whole number or a pair"),
        ((x, 2), {"mode": "bicubic"}, "mode must be one of 'nearest', 'bilinear', got 'bicubic'"),
        ((x, 2), {"mode": "nearest", "antialias": True}, "antialias is only for mode 'bilinear'"),
        ((x, 2), {"mode": "nearest", "align_corners": True}, "align_corners is only for mode 'bilinear'"),
        ((x, 2), {"align_corners": True, "antialias": True}, "exclude each other"),
        ((x[:, :0], 2), {}, "x must have at least one row and one column"),
        ((x, 1 << 40), {}, "more than can be addressed"),
    ]
    for args, kwargs, message in cases:
        with pytest.raises(ShapeError, match=message):
            resize(*args, **kwargs)
    for wrong in (np.uint8, np.int64, np.float16):
        with pytest.raises(DTypeError, match="resize: x is"):
            resize(x.astype(wrong), 3)
    with pytest.raises((ShapeError, MemoryError)):
        resize(x, (1, 1 << 40))


def test_cost() -> None:
    assert cost("resize", (1, 8, 8, 4), 16, "nearest").flops == 0
    assert cost("resize", (1, 8, 8, 4), 16).bytes == 4 * 4 * (64 + 256)
