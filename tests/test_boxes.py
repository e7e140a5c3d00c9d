"""Boxes: overlaps, conversion, and the four kinds of non-maximum suppression."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cnnfast as cf
from cnnfast import config, ops
from cnnfast.errors import DTypeError, ShapeError

BACKENDS = ("numpy",) if config._cpu is None else ("numpy", "cpu")

KINDS = ("iou", "giou", "diou", "ciou")
INF, NAN = math.inf, math.nan


def random_boxes(rng, n, kind="mid", dtype=np.float32):
    """Boxes that overlap rarely, sometimes, nearly always; any size; on a small whole-number grid."""
    extent = {"sparse": 2000, "mid": 640, "dense": 150, "any": 600, "whole": 20}[kind]
    if kind == "whole":
        corner, side = rng.integers(0, extent, (n, 2)), rng.integers(-1, 8, (n, 2))
        scores = rng.integers(0, 10, n) / 8
    else:
        least, most = {"sparse": (5, 50), "mid": (10, 100), "dense": (60, 120), "any": (0, 600)}[kind]
        corner, side = rng.uniform(0, extent, (n, 2)), rng.uniform(least, most, (n, 2))
        scores = rng.random(n)
    return np.concatenate([corner, corner + side], 1).astype(dtype), scores.astype(dtype)


def boxes32(rows):
    return np.array(rows, np.float32).reshape(-1, 4)


def on(backend, f, *args, **kwargs):
    with cf.use_backend(backend):
        return f(*args, **kwargs)


def same(a, b):
    """The same bits (NaN included) and element types."""
    for x, y in zip(a if isinstance(a, tuple) else (a,), b if isinstance(b, tuple) else (b,), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


# --- independent scalar definitions in float64 ------------------------------------------------------


def scalar_iou(a, b, kind="iou"):
    area = [max(c[2] - c[0], 0) * max(c[3] - c[1], 0) for c in (a, b)]
    inter = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    union = area[0] + area[1] - inter
    iou = inter / union if union > 0 else 0.0
    width = max(a[2], b[2]) - min(a[0], b[0])
    height = max(a[3], b[3]) - min(a[1], b[1])
    if kind == "giou":
        return iou - (width * height - union) / (width * height)
    if kind in ("diou", "ciou"):
        distance = math.hypot((a[0] + a[2] - b[0] - b[2]) / 2, (a[1] + a[3] - b[1] - b[3]) / 2)
        result = iou - (distance / math.hypot(width, height)) ** 2
        if kind == "diou":
            return result
        angles = [math.atan((c[2] - c[0]) / (c[3] - c[1])) for c in (a, b)]
        v = 4 / math.pi**2 * (angles[0] - angles[1]) ** 2
        return result - (v * v / (1 - iou + v) if v else 0)
    return iou


def scalar_nms(boxes, scores, threshold):
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: (-scores[i], i)):
        if all(scalar_iou(boxes[i], boxes[j]) <= threshold for j in kept):
            kept.append(i)
    return kept


# --- box_iou ---------------------------------------------------------------------------------------


def test_iou_of_the_requirements(backend):
    iou = ops.box_iou(boxes32([2, 1, 4, 3]), boxes32([1, 2, 3, 4]))
    assert iou.shape == (1, 1)
    assert iou[0, 0] == np.float32(1) / np.float32(7)


@pytest.mark.parametrize("kind", KINDS)
def test_known_values(backend, kind):
    same_box = ops.box_iou(boxes32([1, 2, 5, 4]), boxes32([1, 2, 5, 4]), kind=kind)
    assert same_box[0, 0] == 1
    # Unit squares, three apart: hull 4x1, centres 3 apart, diagonal squared 17.
    apart = ops.box_iou(boxes32([0, 0, 1, 1]), boxes32([3, 0, 4, 1]), kind=kind)[0, 0]
    expected = {"iou": 0, "giou": -0.5, "diou": -9 / 17, "ciou": -9 / 17}[kind]
    assert apart == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n", "m"), [(7, 17), (1, 1), (33, 3), (3, 33), (20, 16)])
def test_against_scalar_definition(backend, rng, kind, dtype, n, m):
    a, _ = random_boxes(rng, n, "any", dtype)
    b, _ = random_boxes(rng, m, "any", dtype)
    got = ops.box_iou(a, b, kind=kind)
    expected = np.array([[scalar_iou(p, q, kind) for q in b.tolist()] for p in a.tolist()])
    assert got.dtype == dtype
    assert got.shape == (n, m)
    # Coordinates are exact; about 20 roundings of terms no larger than 2, sides lose 2^-24 * 1200 / side.
    eps = np.finfo(dtype).eps
    side = min(np.min(c[:, 2:] - c[:, :2]) for c in (a, b))
    np.testing.assert_allclose(got, expected, rtol=0, atol=40 * eps * max(1, 1200 / side))


@pytest.mark.parametrize("kind", KINDS)
def test_empty_boxes(backend, kind):
    odd = boxes32(
        [[1, 1, 1, 1], [1, 1, 1, 5], [3, 3, 1, 1], [3, 1, 1, 3], [0, 0, 0, 0], [-1, -1, 9, 9], [2, 2, 4, 4]]
    )
    got = ops.box_iou(odd, odd, kind=kind)
    assert np.isfinite(got).all()
    assert (got >= -2).all()
    assert (got <= 1).all()
    if kind == "iou":
        assert (got[:5] == 0).all()
        assert (got[:, :5] == 0).all()
        assert got[5, 6] == np.float32(4) / np.float32(100)
    if kind == "giou":
        assert (got >= -1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_infinite_and_huge_boxes_are_never_nan(backend, kind):
    values = [-INF, -3e38, 0, 1, 3e38, INF]
    odd = boxes32([[a, b, c, d] for a in values for b in (-1, 0) for c in values for d in (1, INF)])
    got = ops.box_iou(odd, odd, kind=kind)
    assert not np.isnan(got).any()
    if kind == "iou":
        assert (got >= 0).all()
        assert (got <= 1).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("columns", [1, 5, 20])
def test_nan_boxes_give_nan_rows_and_columns(backend, rng, kind, columns):
    a, _ = random_boxes(rng, 19)
    b, _ = random_boxes(rng, columns)
    a[3, 2] = a[11, 0] = b[-1, 1] = NAN
    got = ops.box_iou(a, b, kind=kind)
    expected = np.zeros_like(got, bool)
    expected[[3, 11]] = True
    expected[:, -1] = True
    np.testing.assert_array_equal(np.isnan(got), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "m"), [(64, 64), (65, 7), (7, 65), (200, 1), (1, 200), (90, 333)])
def test_backends_agree(native, rng, kind, n, m):
    for what in ("mid", "whole"):
        a, b = random_boxes(rng, n, what)[0], random_boxes(rng, m, what)[0]
        got, expected = ops.box_iou(a, b, kind=kind), on("numpy", ops.box_iou, a, b, kind=kind)
        if kind == "ciou":  # the arc tangents may differ in the last bit
            np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)
        else:
            same(got, expected)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)])
def test_no_boxes(backend, shape):
    got = ops.box_iou(np.zeros((shape[0], 4), np.float32), np.zeros((shape[1], 4), np.float32))
    assert got.shape == shape


def test_iou_errors(backend):
    good = np.zeros((3, 4), np.float32)
    with pytest.raises(ShapeError, match=r"box_iou: boxes must have shape .*\(a \(3,5\), b \(3,4\)\)"):
        ops.box_iou(np.zeros((3, 5), np.float32), good)
    with pytest.raises(ShapeError, match="box_iou"):
        ops.box_iou(good[0], good)
    with pytest.raises(ShapeError, match="kind must be one of 'iou'"):
        ops.box_iou(good, good, kind="IoU")
    with pytest.raises(DTypeError, match="a is int64"):
        ops.box_iou(good.astype(np.int64), good)
    with pytest.raises(DTypeError, match="b is float16"):
        ops.box_iou(good, good.astype(np.float16))
    with pytest.raises(DTypeError, match="one element type"):
        ops.box_iou(good, good.astype(np.float64))
    with pytest.raises((ShapeError, MemoryError)):
        ops.cost("box_iou", (1 << 40, 4), (1 << 40, 4))
    assert ops.cost("box_iou", (10, 4), (20, 4)).flops > 0


def test_huge_iou_table_is_refused(native):
    many = np.broadcast_to(np.zeros((1, 4), np.float32), (1 << 20, 4))
    with pytest.raises((ShapeError, MemoryError)):
        ops.box_iou(many, np.zeros((1 << 20, 4), np.float32))


# --- box_convert -----------------------------------------------------------------------------------


def test_convert_values(backend):
    xyxy, xywh, center = [2, 1, 6, 3], [2, 1, 4, 2], [4, 2, 4, 2]
    forms = {"xyxy": xyxy, "xywh": xywh, "cxcywh": center}
    for source, a in forms.items():
        for target, b in forms.items():
            for dtype in (np.float32, np.float64):
                got = ops.box_convert(np.array([a, a], dtype), source, target)
                assert got.dtype == dtype
                np.testing.assert_array_equal(got, [b, b])


def test_convert_leaves_the_input_alone(backend):
    boxes = boxes32([2, 1, 6, 3])
    boxes.flags.writeable = False
    for target in ("xyxy", "xywh", "cxcywh"):
        got = ops.box_convert(boxes, "xyxy", target)
        got[:] = 0
    np.testing.assert_array_equal(boxes, [[2, 1, 6, 3]])
    assert ops.box_convert(np.zeros((2, 3, 4), np.float32), "xywh", "xyxy").shape == (2, 3, 4)
    assert ops.box_convert(np.zeros((0, 4), np.float32), "xywh", "xyxy").shape == (0, 4)


def test_convert_errors(backend):
    with pytest.raises(ShapeError, match="source must be one of"):
        ops.box_convert(np.zeros((1, 4), np.float32), "xxyy", "xyxy")
    with pytest.raises(ShapeError, match=r"boxes must have shape"):
        ops.box_convert(np.zeros((1, 5), np.float32), "xywh", "xyxy")
    with pytest.raises(DTypeError):
        ops.box_convert(np.zeros((1, 4), np.int32), "xywh", "xyxy")


# --- nms -------------------------------------------------------------------------------------------


def test_yolo_filter_of_the_requirements(backend):
    """Drop pc <= .6, then suppress IoU > .5."""
    boxes = boxes32(
        [[0, 0, 4, 4], [1, 0, 5, 4], [2, 0, 6, 4], [0, 0, 4, 4], [9, 9, 12, 12], [0, 0, 4, 2], [0, 0, 4, 4.5]]
    )
    pc = np.array([0.9, 0.8, 0.7, 0.6, 0.65, 0.75, 0.3], np.float32)
    numbers = np.flatnonzero(pc > 0.6)
    kept = numbers[ops.nms(boxes[numbers], pc[numbers], 0.5)]
    # IoU with the first: 12/20 = .6 goes, 8/24 stays, exactly .5 stays.
    assert kept.tolist() == [0, 5, 2, 4]
    assert kept.dtype == np.int64


def test_equal_iou_is_kept(backend):
    boxes = boxes32([[0, 0, 10, 10], [0, 0, 10, 5], [0, 5, 10, 10]])
    scores = np.array([0.9, 0.8, 0.7], np.float32)
    assert ops.nms(boxes, scores, 0.5).tolist() == [0, 1, 2]
    assert ops.nms(boxes, scores, np.nextafter(np.float32(0.5), np.float32(0))).tolist() == [0]
    # Thresholds without an exact binary form, areas of every magnitude.
    for tenths in range(1, 10):
        for scale in range(1, 60):
            pair = boxes32([[0, 0, 10 * scale, 7], [0, 0, tenths * scale, 7]])
            assert len(ops.nms(pair, scores[:2], tenths / 10)) == 2
            assert len(ops.nms(pair, scores[:2], tenths / 10 - 1e-6)) == 1


def test_equal_scores_keep_the_lowest_number(backend):
    boxes = boxes32([[0, 0, 4, 4]] * 5 + [[20, 0, 24, 4]] * 3)
    scores = np.full(8, 0.5, np.float32)
    assert ops.nms(boxes, scores, 0.5).tolist() == [0, 5]
    zeros = np.array([-0.0, 0.0], np.float32)
    assert ops.nms(boxes[:2], zeros, 0.5).tolist() == [0]
    assert ops.nms(boxes[[0, 5]], zeros, 0.5).tolist() == [0, 1]


def test_many_equal_scores_stay_in_order(backend, rng):
    n = 3000
    boxes = boxes32([[3 * i, 0, 3 * i + 1, 1] for i in range(n)])
    scores = rng.integers(0, 4, n).astype(np.float32)
    assert ops.nms(boxes, scores, 0.5).tolist() == sorted(range(n), key=lambda i: (-scores[i], i))


@pytest.mark.parametrize("kind", ["sparse", "mid", "dense", "any", "whole"])
@pytest.mark.parametrize("threshold", [0.0, 0.05, 0.2, 0.5, 0.75, 1.0])
def test_nms_against_scalar_definition(backend, rng, kind, threshold):
    boxes, scores = random_boxes(rng, 70, kind, np.float64)
    expected = scalar_nms(boxes.tolist(), scores.tolist(), threshold)
    assert ops.nms(boxes, scores, threshold).tolist() == expected


@pytest.mark.parametrize("kind", ["sparse", "mid", "dense", "any", "whole"])
@pytest.mark.parametrize("n", [1, 15, 64, 399, 1500, 4200])
def test_same_boxes_on_both_backends(native, rng, kind, n):
    boxes, scores = random_boxes(rng, n, kind)
    classes = rng.integers(-2, 5, n)
    for threshold in (0.0, 0.11, 0.5, 0.9, 1.0) if n < 1000 else (0.11, 0.6):
        for f, args in ((ops.nms, ()), (ops.batched_nms, (classes,)), (ops.weighted_nms, ())):
            if n > 4000 and f is not ops.nms:
                continue
            got = f(boxes, scores, *args, threshold)
            same(got, on("numpy", f, boxes, scores, *args, threshold))
        if n <= 400:
            for method in ("linear", "gaussian"):
                settings_ = {"method": method, "iou_threshold": threshold, "sigma": 0.1 + threshold}
                expected = on("numpy", ops.soft_nms, boxes, scores, **settings_)
                same(ops.soft_nms(boxes, scores, **settings_), expected)


def test_same_boxes_at_every_scale_and_offset(native, rng):
    """The grid over the centres must not lose a pair, wherever the boxes lie and whatever their size."""
    boxes, scores = random_boxes(rng, 900, "mid")
    cases = [(1e-20, 0), (1e-12, 0), (1e6, 0), (1e13, 0), (1e17, 0), (1, 1e6), (1, -3e4), (1e-3, 50)]
    for scale, offset in cases:
        moved = boxes * np.float32(scale) + np.float32(offset)
        for threshold in (0.15, 0.5, 0.999):
            same(ops.nms(moved, scores, threshold), on("numpy", ops.nms, moved, scores, threshold))
    clustered = boxes.copy()
    clustered[::3] *= np.float32(0.01)
    clustered[1] = (-1e8, -1e8, 1e8, 1e8)
    clustered[5] = (1e7, 1e7, 1e7 + 64, 1e7 + 64)
    line = boxes.copy()
    line[:, [1, 3]] = (0, 1)
    for case in (clustered, line):
        for threshold in (0.15, 0.5, 0.9):
            same(ops.nms(case, scores, threshold), on("numpy", ops.nms, case, scores, threshold))


def test_crowd_first_then_many_that_stay(native, rng):
    """The list of kept boxes turns into a grid late, in the middle of a piece of work."""
    crowd, loners = random_boxes(rng, 4500, "dense"), random_boxes(rng, 1200, "sparse")
    boxes = np.concatenate([crowd[0], loners[0]])
    scores = np.concatenate([crowd[1] + 1, loners[1]])
    for threshold in (0.05, 0.5):
        same(ops.nms(boxes, scores, threshold), on("numpy", ops.nms, boxes, scores, threshold))


def test_nan_and_infinity(backend):
    boxes = boxes32(
        [
            [0, 0, 4, 4],
            [0, 0, 4, NAN],
            [0, 0, 4, 4],
            [0, 0, 4, 4],
            [-INF, -INF, INF, INF],
            [-INF, -INF, INF, INF],
            [5, 5, 5, 5],
            [5, 5, 5, 5],
            [INF, INF, INF, INF],
            [0, 0, 4, 4],
        ]
    )
    scores = np.array([0.5, 0.9, NAN, INF, 0.8, 0.7, 0.6, 0.55, 0.4, -INF], np.float32)
    # NaN boxes and scores go; infinite and empty boxes overlap nothing.
    assert ops.nms(boxes, scores, 0.5).tolist() == [3, 4, 5, 6, 7, 8]
    assert ops.batched_nms(boxes, scores, np.zeros(10, int), 0.5).tolist() == [3, 4, 5, 6, 7, 8]
    indices, fused = ops.weighted_nms(boxes, scores, 0.5)
    assert indices.tolist() == [3, 4, 5, 6, 7, 8]
    np.testing.assert_array_equal(fused, boxes[indices])
    indices, new = ops.soft_nms(boxes, scores)
    assert indices.tolist() == [3, 4, 5, 6, 7, 8]
    np.testing.assert_array_equal(new, scores[indices])
    nothing = np.full((20, 4), NAN, np.float32)
    for f in (ops.nms, ops.weighted_nms):
        result = f(nothing, np.ones(20, np.float32), 0.5)
        assert len(result if isinstance(result, np.ndarray) else result[0]) == 0


def test_odd_boxes_in_a_crowd(native, rng):
    for n in (300, 1200):
        boxes, scores = random_boxes(rng, n, "any")
        odd = rng.random((n, 4)) < 0.03
        boxes[odd] = rng.choice(np.float32([NAN, INF, -INF, 3e38, -3e38, 1e-40, 0]), odd.sum())
        odd = rng.random(n) < 0.1
        scores[odd] = rng.choice(np.float32([NAN, INF, -INF, -0.0, 0]), odd.sum())
        for threshold in (0.0, 0.3, 0.7):
            for f in (ops.nms, ops.weighted_nms):
                same(f(boxes, scores, threshold), on("numpy", f, boxes, scores, threshold))
        for method in ("linear", "gaussian"):
            for least in (0.001, -INF, INF):
                args = {"method": method, "score_threshold": least}
                if n == 300:
                    expected = on("numpy", ops.soft_nms, boxes, scores, **args)
                    same(ops.soft_nms(boxes, scores, **args), expected)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_nms_property(data):
    coordinate = st.integers(-3, 9) | st.sampled_from([INF, -INF, NAN, 1e30, 0.5])
    rows = data.draw(st.lists(st.tuples(*[coordinate] * 4), max_size=25))
    n = len(rows)
    score = st.sampled_from([0, 0.25, 0.5, 1, -1, INF, -INF, NAN])
    scores = data.draw(st.lists(score, min_size=n, max_size=n))
    threshold = data.draw(st.floats(0, 1))
    classes = data.draw(st.lists(st.integers(-1, 1), min_size=n, max_size=n))
    boxes, scores = boxes32(rows), np.array(scores, np.float32)
    classes = np.array(classes, np.int64)
    for backend in BACKENDS:
        with cf.use_backend(backend):
            kept = ops.nms(boxes, scores, threshold)
            iou = ops.box_iou(boxes[kept], boxes[kept])
            np.fill_diagonal(iou, 0)
            assert (iou <= np.float32(threshold)).all()
            assert (scores[kept][1:] <= scores[kept][:-1]).all()
            dropped = np.setdiff1d(np.arange(len(boxes)), kept)
            valid = ~(np.isnan(boxes).any(1) | np.isnan(scores))
            assert not (set(np.flatnonzero(~valid)) & set(kept.tolist()))
            for i in dropped[valid[dropped]]:
                over = ops.box_iou(boxes[i : i + 1], boxes[kept])[0] > np.float32(threshold)
                rivals = kept[over]
                assert any((scores[j], -j) > (scores[i], -i) for j in rivals)
            same(kept, on("numpy", ops.nms, boxes, scores, threshold))
            expected = on("numpy", ops.batched_nms, boxes, scores, classes, threshold)
            same(ops.batched_nms(boxes, scores, classes, threshold), expected)
            same(ops.soft_nms(boxes, scores), on("numpy", ops.soft_nms, boxes, scores))


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_any_number_of_threads(native, rng, threads):
    boxes, scores = random_boxes(rng, 3000, "mid")
    classes = rng.integers(0, 5, 3000)
    cf.set_num_threads(threads)
    same(ops.box_iou(boxes, boxes[:500]), on("numpy", ops.box_iou, boxes, boxes[:500]))
    same(ops.nms(boxes, scores, 0.5), on("numpy", ops.nms, boxes, scores, 0.5))
    expected = on("numpy", ops.batched_nms, boxes, scores, classes, 0.5)
    same(ops.batched_nms(boxes, scores, classes, 0.5), expected)


def test_from_many_python_threads(native, rng):
    boxes, scores = random_boxes(rng, 800, "mid")
    classes = rng.integers(0, 3, 800)
    expected = ops.batched_nms(boxes, scores, classes, 0.5)
    with ThreadPoolExecutor(8) as pool:
        for got in pool.map(lambda _: ops.batched_nms(boxes, scores, classes, 0.5), range(64)):
            same(got, expected)


# --- batched ---------------------------------------------------------------------------------------


def test_classes_do_not_meet(backend):
    boxes = boxes32([[0, 0, 4, 4]] * 4)
    scores = np.array([0.1, 0.9, 0.5, 0.7], np.float32)
    assert ops.batched_nms(boxes, scores, [1, 2, 1, 2], 0.5).tolist() == [1, 2]
    assert ops.batched_nms(boxes, scores, [4, 3, 2, 1], 0.5).tolist() == [1, 3, 2, 0]


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "i4", "u4", "i8", "u8", ">i4"])
def test_class_types(backend, rng, dtype):
    boxes, scores = random_boxes(rng, 200, "dense")
    classes = rng.integers(0, 4, 200).astype(dtype)
    expected = sorted(
        (
            int(i)
            for c in range(4)
            for i in np.flatnonzero(classes == c)[ops.nms(boxes[classes == c], scores[classes == c], 0.5)]
        ),
        key=lambda i: (-scores[i], i),
    )
    assert ops.batched_nms(boxes, scores, classes, 0.5).tolist() == expected


def test_far_apart_class_numbers(backend, rng):
    boxes, scores = random_boxes(rng, 300, "dense")
    small = rng.integers(0, 3, 300)
    wide = np.array([-(2**63), 5, 2**63 - 1])[small]
    same(ops.batched_nms(boxes, scores, wide, 0.5), ops.batched_nms(boxes, scores, small, 0.5))
    unsigned = np.array([0, 2**63, 2**64 - 1], np.uint64)[small]
    same(ops.batched_nms(boxes, scores, unsigned, 0.5), ops.batched_nms(boxes, scores, small, 0.5))
    alone = np.arange(300) * 2**40
    assert len(ops.batched_nms(boxes, scores, alone, 0.5)) == 300


def test_far_boxes_stay_exact_per_class(backend):
    """Shifting the boxes of a class by an offset would round these coordinates away."""
    boxes = boxes32([[0, 0, 1, 1], [0.75, 0, 1.75, 1], [1e6, 0, 1e6 + 1, 1]])
    scores = np.array([0.9, 0.8, 0.7], np.float32)
    assert ops.batched_nms(boxes, scores, [1000, 1000, 1000], 0.5).tolist() == [0, 1, 2]
    assert ops.batched_nms(boxes, scores, [1000, 1000, 1], 0.1).tolist() == [0, 2]


# --- soft ------------------------------------------------------------------------------------------


def test_soft_nms_by_hand(backend):
    boxes = boxes32([[0, 0, 4, 4], [0, 0, 4, 3], [8, 8, 9, 9], [0, 0, 4, 1]])
    scores = np.array([0.5, 1.0, 0.7, 0.6], np.float32)
    # Taken: 1; iou with 0 is 3/4, with 3 is 1/3. Then 2; then 3 (.6 * 2/3 = .4), iou with 0 is 1/4.
    indices, new = ops.soft_nms(boxes, scores)
    assert indices.tolist() == [1, 2, 3, 0]
    np.testing.assert_allclose(new, [1, 0.7, 0.4, 0.125], rtol=1e-6)
    indices, new = ops.soft_nms(boxes, scores, score_threshold=0.2)
    assert indices.tolist() == [1, 2, 3]
    indices, new = ops.soft_nms(boxes, scores, iou_threshold=0.5)
    assert indices.tolist() == [1, 2, 3, 0]
    np.testing.assert_allclose(new, [1, 0.7, 0.6, 0.125], rtol=1e-6)
    indices, new = ops.soft_nms(boxes, scores, method="gaussian")
    assert indices.tolist() == [1, 2, 3, 0]
    decay = math.exp(-(0.75**2) / 0.5) * math.exp(-(0.25**2) / 0.5)
    np.testing.assert_allclose(new, [1, 0.7, 0.6 * math.exp(-2 / 9), 0.5 * decay], rtol=1e-6)


def test_soft_nms_keeps_order_of_ties_and_exact_limits(backend):
    boxes = boxes32([[0, 0, 4, 4], [10, 0, 14, 4], [20, 0, 24, 4], [20, 0, 24, 2]])
    scores = np.array([0.5, 0.5, 0.5, 0.5], np.float32)
    indices, new = ops.soft_nms(boxes, scores, iou_threshold=0.5, score_threshold=0.5)
    assert indices.tolist() == [0, 1, 2, 3]  # IoU .5 is not above .5, score .5 not below .5
    np.testing.assert_array_equal(new, scores)
    indices, _ = ops.soft_nms(boxes, scores, iou_threshold=0.49, score_threshold=0.5)
    assert indices.tolist() == [0, 1, 2]


def test_soft_exponential_is_accurate(backend):
    """Both definitions of exp agree with the real one."""
    sides = np.linspace(0.01, 1, 400)
    for sigma in (0.5, 0.05, 0.012):
        boxes = boxes32([[0, 0, 1, 1], [0, 0, 1, 1]])
        for side in sides[::20]:
            boxes[1, 2] = side
            _, new = ops.soft_nms(
                boxes, np.array([1, 1], np.float32), method="gaussian", sigma=sigma, score_threshold=0
            )
            exact = math.exp(-(float(boxes[1, 2]) ** 2) / sigma)
            # The argument has two roundings of its own; exp scales them by its size.
            assert new[1] == pytest.approx(exact, rel=2**-23 * (3 + 2 * side**2 / sigma), abs=2e-35)


def test_soft_nms_of_infinite_and_negative_scores(backend):
    boxes = boxes32([[0, 0, 4, 4]] * 3)
    indices, new = ops.soft_nms(boxes, np.array([INF, INF, 1], np.float32), score_threshold=-1)
    assert indices.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(new, [INF, 0, 0])
    indices, _ = ops.soft_nms(boxes, np.array([-1, -3, -2], np.float32), score_threshold=-2)
    assert indices.tolist() == [0, 2]


# --- weighted --------------------------------------------------------------------------------------


def test_weighted_nms_by_hand(backend):
    boxes = boxes32([[0, 0, 4, 4], [0, 0, 4, 3], [8, 8, 9, 9], [0, 0, 4, 5]])
    scores = np.array([0.5, 0.25, 0.7, 0.25], np.float32)
    indices, fused = ops.weighted_nms(boxes, scores, 0.5)
    assert indices.tolist() == [2, 0]
    np.testing.assert_allclose(fused, [[8, 8, 9, 9], [0, 0, 4, 4]], rtol=1e-7)
    scores = np.array([1, 0.5, 0.7, 0.5], np.float32)
    boxes[3, 3] = 6
    _, fused = ops.weighted_nms(boxes, scores, 0.5)
    np.testing.assert_allclose(fused[0], [0, 0, 4, (4 + 1.5 + 3) / 2], rtol=1e-7)


def test_weighted_nms_without_weight(backend):
    boxes = boxes32([[0, 0, 4, 4], [0, 0, 4, 3]])
    for scores in ([0, 0], [-1, -2], [INF, 1]):
        indices, fused = ops.weighted_nms(boxes, np.array(scores, np.float32), 0.5)
        assert indices.tolist() == [0]
        np.testing.assert_array_equal(fused, boxes[:1])


# --- arrays ----------------------------------------------------------------------------------------

SUPPRESSORS = {
    "nms": lambda b, s: ops.nms(b, s, 0.4),
    "batched_nms": lambda b, s: ops.batched_nms(b, s, np.arange(len(s)) % 2, 0.4),
    "soft_nms": lambda b, s: ops.soft_nms(b, s),
    "weighted_nms": lambda b, s: ops.weighted_nms(b, s, 0.4),
}


@pytest.mark.parametrize("name", SUPPRESSORS)
def test_any_memory_layout(backend, rng, name):
    f = SUPPRESSORS[name]
    boxes, scores = random_boxes(rng, 60, "dense")
    expected = f(boxes, scores)
    wide, long = np.zeros((120, 9), np.float32), np.zeros(180, np.float32)
    wide[::2, 1::2] = boxes
    long[::3] = scores
    same(f(wide[::2, 1::2], long[::3]), expected)
    same(f(np.asfortranarray(boxes), scores[::-1].copy()[::-1]), expected)
    same(f(boxes.astype(">f4"), scores.astype(">f4")), expected)
    before = boxes.copy(), scores.copy()
    boxes.flags.writeable = scores.flags.writeable = False
    same(f(boxes, scores), expected)
    np.testing.assert_array_equal(boxes, before[0])
    np.testing.assert_array_equal(scores, before[1])


@pytest.mark.parametrize("name", SUPPRESSORS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_boxes_at_all(backend, name, dtype):
    result = SUPPRESSORS[name](np.zeros((0, 4), dtype), np.zeros(0, dtype))
    first, *rest = result if isinstance(result, tuple) else (result,)
    assert first.shape == (0,)
    assert first.dtype == np.int64
    assert all(r.dtype == dtype and len(r) == 0 for r in rest)


@pytest.mark.parametrize("name", SUPPRESSORS)
def test_suppression_errors(backend, name):
    f = SUPPRESSORS[name]
    boxes, scores = np.zeros((3, 4), np.float32), np.zeros(3, np.float32)
    with pytest.raises(ShapeError, match=rf"{name}: boxes must have shape \(N,4\) \(boxes \(3,5\)\)"):
        f(np.zeros((3, 5), np.float32), scores)
    with pytest.raises(ShapeError, match=rf"{name}: scores must have shape \(3,\)"):
        f(boxes, np.zeros(4, np.float32))
    with pytest.raises(ShapeError, match=name):
        f(boxes, scores[:, None])
    for bad in (np.int32, np.float16, np.uint8, bool, complex):
        with pytest.raises(DTypeError, match=name):
            f(boxes.astype(bad), scores)
        with pytest.raises(DTypeError, match=name):
            f(boxes, scores.astype(bad))
    with pytest.raises(DTypeError, match="one element type"):
        f(boxes, scores.astype(np.float64))
    with pytest.raises(ShapeError):
        ops.cost(name, (1 << 40, 4), (1 << 40,), *([(1 << 40,)] if name == "batched_nms" else []))
    assert ops.cost(name, (9, 4), (9,), *([(9,)] if name == "batched_nms" else [])).flops > 0


def test_parameter_errors(backend):
    boxes, scores = np.zeros((3, 4), np.float32), np.zeros(3, np.float32)
    for threshold in (-0.1, 1.1, INF, 50, 2**70):
        with pytest.raises(ShapeError, match="nms: iou_threshold must be from 0 to 1"):
            ops.nms(boxes, scores, threshold)
    for threshold in (NAN, None, "half"):
        with pytest.raises(ShapeError, match=r"nms: iou_threshold must be (a number|from 0 to 1)"):
            ops.nms(boxes, scores, threshold)
    assert ops.nms(boxes, scores, 1).tolist() == [0, 1, 2]
    assert ops.nms(boxes, scores, np.float32(0.5)).tolist() == [0, 1, 2]
    with pytest.raises(ShapeError, match="sigma"):
        ops.soft_nms(boxes, scores, sigma=0)
    with pytest.raises(ShapeError, match="method must be one of"):
        ops.soft_nms(boxes, scores, method="hard")
    with pytest.raises(ShapeError, match="score_threshold"):
        ops.soft_nms(boxes, scores, score_threshold=NAN)
    with pytest.raises(DTypeError, match="classes is float64"):
        ops.batched_nms(boxes, scores, np.zeros(3), 0.5)
    with pytest.raises(DTypeError, match="classes is bool"):
        ops.batched_nms(boxes, scores, np.zeros(3, bool), 0.5)
    with pytest.raises(ShapeError, match=r"classes must have shape \(3,\)"):
        ops.batched_nms(boxes, scores, [1, 2], 0.5)
    with pytest.raises(ShapeError, match="classes is not a rectangular array"):
        ops.batched_nms(boxes, scores, [[1, 2], 3], 0.5)


def test_float64_runs_in_float64(backend):
    boxes = np.array([[0, 0, 1, 1], [0, 0, 1, 0.5 + 1e-12]])
    scores = np.array([0.9, 0.8])
    assert ops.nms(boxes, scores, 0.5).tolist() == [0]
    assert ops.nms(boxes.astype(np.float32), scores.astype(np.float32), 0.5).tolist() == [0, 1]


def test_memory_is_linear(native, rng):
    """A table of pairs would take gigabytes."""
    boxes, scores = random_boxes(rng, 60000, "sparse")
    kept = ops.nms(boxes, scores, 0.5)
    assert (np.diff(scores[kept]) <= 0).all()
    assert 30000 < len(kept) < 60000
