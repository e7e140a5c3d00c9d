"""Pooling of regions of interest against slow scalar definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cnnfast as cf
from cnnfast import ops
from cnnfast.errors import DTypeError, ShapeError
from cnnfast.ops.registry import OPERATORS


def half_away(value):
    return math.floor(abs(value) + 0.5) * (1 if value >= 0 else -1)


def scalar_roi_pool(x, boxes, size, scale=1.0):
    """Girshick 2015, section 2.1, with the box rounded to pixels first."""
    _, h, w, c = x.shape
    p, q = size
    out = np.zeros((len(boxes), p, q, c))
    for k, (image, *corners) in enumerate(boxes.astype(np.float64).tolist()):
        x1, y1, x2, y2 = (half_away(v * scale) for v in corners)
        height, width = max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1)
        for i in range(p):
            # Whole numbers: floor and ceil without any rounding.
            rows = range(y1 + i * height // p, y1 - (-(i + 1) * height // p))
            for j in range(q):
                columns = range(x1 + j * width // q, x1 - (-(j + 1) * width // q))
                values = [x[int(image), a, b] for a in rows for b in columns if 0 <= a < h and 0 <= b < w]
                if values:
                    out[k, i, j] = np.max(values, axis=0)
    return out


def bilinear(image, y, x):
    h, w, c = image.shape
    if y < -1 or y > h or x < -1 or x > w:
        return np.zeros(c)
    y, x = min(max(y, 0), h - 1), min(max(x, 0), w - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, h - 1), min(left + 1, w - 1)
    dy, dx = y - top, x - left
    upper = image[top, left] * (1 - dx) + image[top, right] * dx
    lower = image[bottom, left] * (1 - dx) + image[bottom, right] * dx
    return upper * (1 - dy) + lower * dy


def scalar_roi_align(x, boxes, size, scale=1.0, sampling_ratio=-1, aligned=False):
    """He et al. 2017, section 3: the mean of samples at regular places."""
    p, q = size
    out = np.zeros((len(boxes), p, q, x.shape[3]))
    shift = 0.5 if aligned else 0.0
    for k, (image, *corners) in enumerate(boxes.astype(np.float64).tolist()):
        x1, y1, x2, y2 = (v * scale - shift for v in corners)
        height, width = y2 - y1, x2 - x1
        if not aligned:
            height, width = max(height, 1), max(width, 1)
        s = sampling_ratio if sampling_ratio > 0 else math.ceil(height / p)
        t = sampling_ratio if sampling_ratio > 0 else math.ceil(width / q)
        for i in range(p):
            for j in range(q):
                samples = [
                    bilinear(
                        x[int(image)].astype(np.float64),
                        y1 + (i + (a + 0.5) / s) * height / p,
                        x1 + (j + (b + 0.5) / t) * width / q,
                    )
                    for a in range(s)
                    for b in range(t)
                ]
                if samples:
                    out[k, i, j] = np.mean(samples, axis=0)
    return out


def problem(rng, n, h, w, c, k, dtype=np.float32, step=4):
    """Boxes on multiples of 1/step that also leave the image, some inverted."""
    x = rng.standard_normal((n, h, w, c)).astype(dtype)
    boxes = np.empty((k, 5), dtype)
    boxes[:, 0] = rng.integers(0, n, k)
    boxes[:, 1:3] = rng.integers(-4 * step, max(h, w) * step, (k, 2)) / step
    boxes[:, 3:] = boxes[:, 1:3] + rng.integers(-2 * step, max(h, w) * step, (k, 2)) / step
    return x, boxes


def on(backend, f, *args, **kwargs):
    with cf.use_backend(backend):
        return f(*args, **kwargs)


SHAPES = [
    (1, 8, 8, 16, 5, (2, 2)),
    (2, 7, 9, 17, 6, (3, 2)),
    (3, 13, 6, 3, 4, (7, 7)),
    (1, 5, 5, 70, 3, (1, 4)),
    (2, 20, 16, 1, 7, (5, 3)),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n", "h", "w", "c", "k", "size"), SHAPES)
@pytest.mark.parametrize("scale", [1.0, 0.5, 0.25])
def test_roi_pool_against_scalar_definition(backend, rng, n, h, w, c, k, size, scale, dtype):
    x, boxes = problem(rng, n, h, w, c, k, dtype)
    boxes[:, 1:] /= dtype(scale)
    got = ops.roi_pool(x, boxes, size, spatial_scale=scale)
    assert got.dtype == dtype
    # Bins end on whole numbers or on fractions that a third or a seventh may round over: those are
    # compared with the same arithmetic between backends, here only where the division is exact.
    expected = scalar_roi_pool(x, boxes, size, scale)
    inexact = np.zeros(got.shape[:3], bool)
    for axis, columns in ((1, (2, 4)), (2, (1, 3))):
        sides = np.array([[half_away(v) for v in row] for row in (boxes[:, columns] * scale).tolist()])
        length = np.maximum(sides[:, 1] - sides[:, 0] + 1, 1)
        bins = size[axis - 1]
        step = (length.astype(dtype) / dtype(bins)).astype(np.float64)
        wrong = np.zeros((k, bins), bool)
        for i in range(bins):
            for edge, snap in ((i, math.floor), (i + 1, math.ceil)):
                rounded = [snap(float(dtype(edge) * dtype(v))) for v in step]
                exact = [snap(edge * int(a) / bins) for a in length]
                wrong[:, i] |= np.array(rounded) != np.array(exact)
        inexact |= wrong[:, :, None] if axis == 1 else wrong[:, None, :]
    assert inexact.mean() < 0.2
    np.testing.assert_array_equal(got[~inexact], expected[~inexact])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n", "h", "w", "c", "k", "size"), SHAPES)
@pytest.mark.parametrize("sampling_ratio", [-1, 0, 1, 2, 3])
@pytest.mark.parametrize("aligned", [False, True])
def test_roi_align_against_scalar_definition(
    backend, rng, n, h, w, c, k, size, sampling_ratio, aligned, dtype
):
    # Multiples of 1/8 and power-of-two scales: places and counts of samples are the same in every type
    # but for the division by the number of bins, which moves a place by an ulp.
    x, boxes = problem(rng, n, h, w, c, k, dtype, step=8)
    boxes[:, 1:] = boxes[:, 1:] * 2 + dtype(0.03125)
    got = ops.roi_align(x, boxes, size, spatial_scale=0.5, sampling_ratio=sampling_ratio, aligned=aligned)
    assert got.dtype == dtype
    expected = scalar_roi_align(x, boxes, size, 0.5, sampling_ratio, aligned)
    # Weights sum to 1 at most and move by size * eps; the sums have at most (rows + columns) roundings.
    tolerance = (4 * max(h, w) + h * w) * np.finfo(dtype).eps * np.abs(x).max()
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance)


def test_roi_pool_by_hand(backend):
    x = np.arange(36, dtype=np.float32).reshape(1, 6, 6, 1)
    boxes = np.array([[0, 0, 0, 5, 5], [0, 1, 2, 3, 4], [0, 1.5, 1.5, 1.5, 1.5], [0, 7, 7, 9, 9]], np.float32)
    got = ops.roi_pool(x, boxes, 2)[..., 0]
    np.testing.assert_array_equal(got[0], [[14, 17], [32, 35]])
    np.testing.assert_array_equal(got[1], [[20, 21], [26, 27]])  # 3 rows in 2 bins share the middle one
    np.testing.assert_array_equal(got[2], [[14, 14], [14, 14]])  # 1.5 rounds to 2
    np.testing.assert_array_equal(got[3], 0)  # outside the image


def test_roi_align_by_hand(backend):
    y, x = np.mgrid[:10, :12].astype(np.float32)
    plane = (3 * y + x)[None, ..., None]
    box = np.array([[0, 2, 1, 8, 5]], np.float32)
    # The samples' mean of a linear picture is its value at the middle of the bin.
    for ratio in (-1, 1, 2, 5):
        got = ops.roi_align(plane, box, (2, 3), sampling_ratio=ratio)[0, ..., 0]
        np.testing.assert_allclose(got, [[3 * 2 + 3, 3 * 2 + 5, 3 * 2 + 7], [15, 17, 19]], rtol=1e-6)
        shifted = ops.roi_align(plane, box, (2, 3), sampling_ratio=ratio, aligned=True)[0, ..., 0]
        np.testing.assert_allclose(shifted, got - 2, rtol=1e-6)  # half a pixel in both directions
    tiny = np.array([[0, 4, 4, 4, 4]], np.float32)
    assert ops.roi_align(plane, tiny, 1)[0, 0, 0, 0] == 3 * 4.5 + 4.5  # widened to one pixel
    assert ops.roi_align(plane, tiny, 1, sampling_ratio=1, aligned=True)[0, 0, 0, 0] == 3 * 3.5 + 3.5
    assert ops.roi_align(plane, tiny, 1, aligned=True)[0, 0, 0, 0] == 0  # no sample at all


@pytest.mark.parametrize("c", [1, 3, 17, 64, 100])
def test_backends_agree(native, rng, c):
    x, boxes = problem(rng, 3, 23, 31, c, 40)
    boxes[:, 1:] *= np.float32(1.37)
    for scale in (1.0, 0.0625, 0.3):
        for size in ((7, 7), (2, 5)):
            np.testing.assert_array_equal(
                ops.roi_pool(x, boxes, size, spatial_scale=scale),
                on("numpy", ops.roi_pool, x, boxes, size, spatial_scale=scale),
            )
            nine = {"sampling_ratio": 9, "aligned": True}
            for options in ({}, {"aligned": True}, {"sampling_ratio": 2}, nine):
                got = ops.roi_align(x, boxes, size, spatial_scale=scale, **options)
                expected = on("numpy", ops.roi_align, x, boxes, size, spatial_scale=scale, **options)
                np.testing.assert_allclose(got, expected, rtol=0, atol=23 * 31 * 2**-24 * np.abs(x).max())


def test_nan_and_infinity_stay_in_their_bins(native, rng):
    x, boxes = problem(rng, 2, 15, 15, 5, 30)
    for value in (np.nan, np.inf, -np.inf):
        x[rng.random(x.shape) < 0.01] = value
    for f, options in (
        (ops.roi_pool, {}),
        (ops.roi_align, {}),
        (ops.roi_align, {"sampling_ratio": 2, "aligned": True}),
    ):
        got, expected = f(x, boxes, (3, 4), **options), on("numpy", f, x, boxes, (3, 4), **options)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
        infinite = np.isinf(expected)
        np.testing.assert_array_equal(np.isinf(got), infinite)
        np.testing.assert_array_equal(got[infinite], expected[infinite])
        assert np.isnan(got).any()
        assert np.isfinite(got).any()


def test_nan_wins_the_maximum(backend):
    for place in range(6):
        x = np.arange(6, dtype=np.float32).reshape(1, 2, 3, 1)
        x[0, place // 3, place % 3] = np.nan
        assert np.isnan(ops.roi_pool(x, np.array([[0, 0, 0, 2, 1]], np.float32), 1)).all()


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_boxes(data):
    n, h, w, c = (data.draw(st.integers(1, m)) for m in (2, 6, 6, 5))
    coordinate = st.floats(-8, 12, width=32) | st.integers(-3, 9).map(float)
    rows = data.draw(st.lists(st.tuples(st.integers(0, n - 1), *[coordinate] * 4), max_size=4))
    boxes = np.array(rows, np.float32).reshape(-1, 5)
    size = (data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4)))
    scale = data.draw(st.sampled_from([1.0, 0.5, 0.1, 2.0]))
    ratio, aligned = data.draw(st.integers(-1, 3)), data.draw(st.booleans())
    x = np.random.default_rng(0).standard_normal((n, h, w, c)).astype(np.float32)
    backends = ["numpy", "cpu"] if cf.config._cpu is not None else ["numpy"]
    pooled = [on(b, ops.roi_pool, x, boxes, size, spatial_scale=scale) for b in backends]
    options = {"spatial_scale": scale, "sampling_ratio": ratio, "aligned": aligned}
    means = [on(b, ops.roi_align, x, boxes, size, **options) for b in backends]
    for p, m in zip(pooled, means, strict=True):
        assert p.shape == m.shape == (len(boxes), *size, c)
        np.testing.assert_array_equal(p, pooled[0])
        np.testing.assert_allclose(m, means[0], rtol=0, atol=2e-5)
        assert (np.abs(m) <= np.abs(x).max() * 1.0001).all()


def test_threads_and_batches_do_not_change_bits(native, rng):
    x, boxes = problem(rng, 3, 40, 40, 33, 50)
    for f, options in ((ops.roi_pool, {}), (ops.roi_align, {}), (ops.roi_align, {"sampling_ratio": 2})):
        cf.set_num_threads(1)
        expected = f(x, boxes, 7, **options)
        for threads in (2, 3, 8):
            cf.set_num_threads(threads)
            np.testing.assert_array_equal(f(x, boxes, 7, **options), expected)
            for k in (0, 11):
                np.testing.assert_array_equal(f(x, boxes[k : k + 1], 7, **options)[0], expected[k])
        alone = boxes[:1].copy()
        alone[0, 0] = 0
        image = int(boxes[0, 0])
        np.testing.assert_array_equal(f(x[image : image + 1], alone, 7, **options)[0], expected[0])


POOLS = {
    "roi_pool": ops.roi_pool,
    "roi_align": ops.roi_align,
}


@pytest.mark.parametrize("c", [1, 3, 17, 64, 100])
@pytest.mark.parametrize("name", ["roi_pool", "roi_align"])
def test_gradients(native, rng, c, name):
    """Against the definition, of the same bins; overlapping regions add up in one order on any threads.

    No pixel is in more than 40 boxes with 16 samples each, two roundings of weights for every sample.
    """
    x = rng.integers(-6, 7, (2, 19, 23, c)).astype(np.float32)  # ties
    corners = rng.uniform(-3, 26, (40, 2, 2))
    boxes = np.column_stack([rng.integers(0, 2, 40), corners.min(1), corners.max(1)]).astype(np.float32)
    boxes[7, 3:] = boxes[7, 1:3] - 5  # turned round
    g = rng.standard_normal((40, 3, 5, c)).astype(np.float32)
    op = OPERATORS[f"{name}_grad"]
    given = (x, boxes, g) if name == "roi_pool" else (boxes, g)
    settings = {} if name == "roi_pool" else {"sampling_ratio": 2, "aligned": True}
    spec = op.infer(x.shape, boxes.shape, g.shape, 0.75, **settings)
    expected, scale = (op.reference(spec, *given[:-1], last) for last in (g, abs(g)))
    found = []
    for threads in (1, 2, 3, 8):
        cf.set_num_threads(threads)
        found.append(op(spec, *given))
        assert np.array_equal(found[0], found[-1])
    assert (abs(found[0] - expected) <= 2 * 2**-24 * 700 * scale).all()
    assert not op(
        op.infer(x.shape, (0, 5), (0, 3, 5, c)), *[a[:0] if len(a) == 40 else a for a in given]
    ).any()
    boxes[3, 0] = 2
    with pytest.raises(ShapeError, match="box 3"):
        op(spec, *given)


@pytest.mark.parametrize("name", POOLS)
def test_any_memory_layout(backend, rng, name):
    f = POOLS[name]
    x, boxes = problem(rng, 2, 9, 8, 6, 5)
    expected = f(x, boxes, (2, 3))
    wide = np.zeros((2, 18, 8, 9), np.float32)
    wide[:, ::2, :, 1:7] = x
    for a, b in (
        (wide[:, ::2, :, 1:7], boxes[::-1].copy()[::-1]),
        (np.asfortranarray(x), np.asfortranarray(boxes)),
        (x.astype(">f4"), boxes.astype(">f4")),
    ):
        np.testing.assert_array_equal(f(a, b, (2, 3)), expected)
    before = x.copy(), boxes.copy()
    x.flags.writeable = boxes.flags.writeable = False
    np.testing.assert_array_equal(f(x, boxes, [2, 3]), expected)
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(boxes, before[1])


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nothing_to_do(backend, name, dtype):
    f = POOLS[name]
    none, one = np.zeros((0, 5), dtype), np.array([[0, 0, 0, 2, 2]], dtype)
    assert f(np.zeros((2, 4, 4, 3), dtype), none, (2, 3)).shape == (0, 2, 3, 3)
    assert f(np.zeros((0, 4, 4, 3), dtype), none, 2).shape == (0, 2, 2, 3)
    assert f(np.zeros((1, 4, 4, 0), dtype), one, 2).shape == (1, 2, 2, 0)


@pytest.mark.parametrize("name", POOLS)
def test_errors(backend, name):
    f = POOLS[name]
    x, boxes = np.zeros((2, 4, 4, 3), np.float32), np.array([[0, 0, 0, 2, 2]] * 3, np.float32)
    for index in (-1, 2, 0.5, np.nan, np.inf, 1e30):
        bad = boxes.copy()
        bad[1, 0] = index
        with pytest.raises(ShapeError, match=rf"{name}: box 1 names image .*from 0 to 1 \(x \(2,4,4,3\)\)"):
            f(x, bad, 2)
    for value in (np.nan, np.inf, -np.inf, 3e38):
        for column in range(1, 5):
            bad = boxes.copy()
            bad[2, column] = value
            with pytest.raises(ShapeError, match=f"{name}: coordinates must be finite .*box 2"):
                f(x, bad, 2)
    with pytest.raises(ShapeError, match="names image"):
        f(x[:0], boxes, 2)
    with pytest.raises(ShapeError, match="x must have 4 dimensions N,H,W,C"):
        f(x[0], boxes, 2)
    with pytest.raises(ShapeError, match=r"boxes must have shape \(K,5\).*\(boxes \(3,4\)\)"):
        f(x, boxes[:, 1:], 2)
    with pytest.raises(ShapeError, match="at least one row"):
        f(x[:, :0], boxes, 2)
    for size in (0, -1, 2.5, (2, 2, 2), None, True, 1 << 62, (1 << 40, 1 << 40)):
        with pytest.raises(ShapeError, match=name):
            f(x, boxes, size)
    with pytest.raises((ShapeError, MemoryError)):
        f(x, boxes, 1 << 20)
    for scale in (0, -1, np.nan, np.inf, "half", 1e-40):
        with pytest.raises(ShapeError, match=f"{name}: spatial_scale"):
            f(x, boxes, 2, spatial_scale=scale)
    for bad in (np.uint8, np.int64, np.float16):
        with pytest.raises(DTypeError, match=name):
            f(x.astype(bad), boxes, 2)
        with pytest.raises(DTypeError, match=name):
            f(x, boxes.astype(bad), 2)
    with pytest.raises(DTypeError, match="one element type"):
        f(x, boxes.astype(np.float64), 2)
    assert ops.cost(name, (1, 8, 8, 3), (4, 5), 2).flops > 0


def test_huge_boxes(backend, rng):
    x = rng.standard_normal((1, 6, 7, 5)).astype(np.float32)
    huge = np.array([[0, -1e30, -1e30, 1e30, 1e30]], np.float32)
    np.testing.assert_array_equal(ops.roi_pool(x, huge, 1)[0, 0, 0], x.max((0, 1, 2)))
    with pytest.raises(ShapeError, match=r"roi_align: box 0 needs 1e\+30 samples .* at most 65536"):
        ops.roi_align(x, huge, 2)
    # With a fixed number of samples a huge box is legal: all of them fall outside, or on one pixel.
    assert (ops.roi_align(x, huge, 2, sampling_ratio=2) == 0).all()
    large = np.array([[0, 0, 0, 100000, 3]], np.float32)
    got = ops.roi_align(x, large, (3, 2))
    assert (got[0, :, 1] == 0).all()
    assert np.isfinite(got).all()
    with pytest.raises(ShapeError, match="sampling_ratio"):
        ops.roi_align(x, large, 2, sampling_ratio=1 << 40)
    with pytest.raises(ShapeError, match="aligned must be True or False"):
        ops.roi_align(x, large, 2, aligned="yes")
