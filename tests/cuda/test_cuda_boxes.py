"""Boxes, suppression, regions and resizing on a device, against the NumPy definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from device_checks import given, near

import cnnfast as cf
from cnnfast import ops
from cnnfast.cuda import asarray
from cnnfast.models.darknet import Head
from cnnfast.models.yolo import detect


def _boxes(rng: np.random.Generator, n: int, spread: float = 60) -> np.ndarray:
    corner = rng.uniform(0, spread, (n, 2))
    return np.hstack([corner, corner + rng.uniform(-2, 30, (n, 2))]).astype(np.float32)


@pytest.mark.parametrize("kind", ["iou", "giou", "diou", "ciou"])
def test_box_iou(device: Any, rng: np.random.Generator, kind: str) -> None:
    a, b = _boxes(rng, 7), _boxes(rng, 37)
    b[:4] = [[0, 0, np.inf, 5], [5, 5, 5, 5], [np.nan, 0, 1, 1], a[3]]
    with np.errstate(all="ignore"):
        wanted = ops.OPERATORS["box_iou"].reference(
            ops.OPERATORS["box_iou"].infer((7, 4), (37, 4), kind), a, b
        )
    got = ops.box_iou(asarray(a), asarray(b), kind=kind).numpy()
    if kind == "ciou":  # whose angles are rounded otherwise
        np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-6)
    else:
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("kind", ["iou", "giou", "diou", "ciou"])
def test_gradient_of_box_iou(device: Any, rng: np.random.Generator, kind: str) -> None:
    gradient = ops.OPERATORS["box_iou_grad"]
    a, b = _boxes(rng, 7), _boxes(rng, 37)
    b[:4] = [[5, 5, 5, 5], [0, 0, 1, 1], a[3], [*a[4, :2], 90, 95]]  # with corners that are equal
    g = rng.standard_normal((7, 37)).astype(np.float32)
    spec = gradient.infer(a.shape, b.shape, g.shape, kind)
    exact = gradient.reference(spec, *[v.astype(np.float64) for v in (a, b, g)])
    for got, wanted in zip(gradient(spec, *map(asarray, (a, b, g))), exact, strict=True):
        near(got, wanted, "float32", 64, 1 + abs(wanted))
    short = gradient(spec, *[asarray(v, "bfloat16") for v in (a, b, g)])
    assert [str(v.dtype) for v in short] == ["bfloat16"] * 2


@pytest.mark.parametrize("kind", ["iou", "giou", "diou", "ciou"])
def test_gradient_of_box_iou_of_extremes(device: Any, kind: str) -> None:
    """NaN and infinity are where the definition has them; no box gives no gradient."""
    gradient = ops.OPERATORS["box_iou_grad"]
    nan, inf = np.nan, np.inf
    a = np.array([[0, 0, 4, 4], [nan, 0, 2, 2], [0, 1, inf, 3], [-inf, 0, 2, nan]], np.float32)
    g = np.ones((4, 1), np.float32)
    for b in np.array([[[1, 1, 5, 6]], [[0, 0, 4, nan]], [[0, 0, inf, inf]]], np.float32):
        spec = gradient.infer(a.shape, b.shape, g.shape, kind)
        wanted = gradient.reference(spec, a, b, g)
        for got, exact in zip(gradient(spec, *map(asarray, (a, b, g))), wanted, strict=True):
            np.testing.assert_allclose(got.numpy(), exact, rtol=1e-5, atol=1e-6)
    empty = gradient.infer((0, 4), (2, 4), (0, 2), kind)
    none, zeros = gradient(empty, *[asarray(np.ones(n, np.float32)) for n in ((0, 4), (2, 4), (0, 2))])
    assert none.shape == (0, 4)
    np.testing.assert_array_equal(zeros.numpy(), np.zeros((2, 4)))


# One box, one chunk, more than one, and more than two sorted runs.
COUNTS = [0, 1, 2, 65, 600, 2300]


@pytest.mark.parametrize("n", COUNTS)
def test_nms(device: Any, rng: np.random.Generator, n: int) -> None:
    boxes = _boxes(rng, n, 400 if n > 600 else 60)
    scores = rng.integers(-50, 50, n).astype(np.float32)  # with ties
    if n > 60:
        boxes[5, 2] = scores[9] = np.nan
        scores[[11, 12]], boxes[13, 2] = [np.inf, -np.inf], np.inf
        boxes[14] = boxes[15]
    classes = rng.integers(0, 3, n)
    spec = ops.OPERATORS["nms"].infer((n, 4), (n,), 0.4)
    with np.errstate(all="ignore"):
        wanted = ops.OPERATORS["nms"].reference(spec, boxes, scores)
        wanted_apart = ops.OPERATORS["batched_nms"].reference(spec, boxes, scores, classes)
        _, wanted_fused = ops.OPERATORS["weighted_nms"].reference(spec, boxes, scores)
    on_device = asarray(boxes), asarray(scores)
    got = ops.nms(*on_device, 0.4)
    assert got.dtype == np.int64
    np.testing.assert_array_equal(got.numpy(), wanted)
    np.testing.assert_array_equal(ops.batched_nms(*on_device, classes, 0.4).numpy(), wanted_apart)
    kept, fused = ops.weighted_nms(*on_device, 0.4)
    np.testing.assert_array_equal(kept.numpy(), wanted)
    np.testing.assert_allclose(fused.numpy(), wanted_fused, rtol=1e-5)


def test_long_chains_of_suppression(device: Any) -> None:
    """Every box overlaps its neighbours alone: the second goes, so the third stays, and so on."""
    n = 700
    boxes = np.stack([np.arange(n), np.zeros(n), np.arange(n) + 2.0, np.ones(n)], 1).astype(np.float32)
    scores = -np.arange(n).astype(np.float32)
    np.testing.assert_array_equal(ops.nms(asarray(boxes), asarray(scores), 0.3).numpy(), np.arange(0, n, 2))


def test_iou_equal_to_the_threshold_is_kept(device: Any) -> None:
    boxes = np.array([[0, 0, 2, 2], [0, 0, 2, 1]], np.float32)
    scores = np.array([1, 0.5], np.float32)
    assert ops.nms(asarray(boxes), asarray(scores), 0.5).numpy().tolist() == [0, 1]
    assert ops.nms(asarray(boxes), asarray(scores), 0.49).numpy().tolist() == [0]


@pytest.mark.parametrize("method", ["linear", "gaussian"])
def test_soft_nms(device: Any, rng: np.random.Generator, method: str) -> None:
    for n in (0, 1, 40):
        boxes, scores = _boxes(rng, n), rng.integers(0, 20, n).astype(np.float32) / 20
        if n > 9:
            scores[3], boxes[4, 0] = np.nan, np.nan
        spec = ops.OPERATORS["soft_nms"].infer((n, 4), (n,), 0.3, 0.5, 0.01, method)
        kept, left = ops.OPERATORS["soft_nms"].reference(spec, boxes, scores)
        got = ops.soft_nms(asarray(boxes), asarray(scores), score_threshold=0.01, method=method)
        np.testing.assert_array_equal(got[0].numpy(), kept)
        np.testing.assert_array_equal(got[1].numpy(), left)


REGIONS = np.array(
    [[0, 1, 1, 6.5, 7], [1, -3, 2, 30, 4], [0, 2.2, 2.7, 2.3, 2.9], [1, 0, 0, 8, 8], [0, 5, 5, 2, 1]],
    np.float32,
)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_roi_pool(device: Any, rng: np.random.Generator, dtype: str) -> None:
    for c in (4, 3):
        x, wide = given(rng, (2, 9, 11, c), dtype)
        exact = wide.astype(np.float32)
        wanted = ops.OPERATORS["roi_pool"].reference(
            ops.OPERATORS["roi_pool"].infer(x.shape, REGIONS.shape, (3, 2), 0.8), exact, REGIONS
        )
        got = ops.roi_pool(
            x,
            asarray(REGIONS, dtype) if dtype == "float32" else asarray(REGIONS).astype(dtype),
            (3, 2),
            spatial_scale=0.8,
        )
        if dtype == "float32":
            np.testing.assert_array_equal(got.numpy(), wanted)
            g = rng.integers(-5, 6, wanted.shape).astype(np.float32)
            gradient = ops.OPERATORS["roi_pool_grad"]
            spec = gradient.infer(x.shape, REGIONS.shape, wanted.shape, 0.8)
            np.testing.assert_array_equal(
                gradient(spec, x, asarray(REGIONS), asarray(g)).numpy(),
                gradient.reference(spec, exact, REGIONS, g),
            )
        assert got.shape == wanted.shape


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [-1, 2])
def test_roi_align(device: Any, rng: np.random.Generator, aligned: bool, ratio: int) -> None:
    for c in (8, 3):
        x, wide = given(rng, (2, 9, 11, c))
        settings = {"spatial_scale": 0.8, "sampling_ratio": ratio, "aligned": aligned}
        operator, gradient = ops.OPERATORS["roi_align"], ops.OPERATORS["roi_align_grad"]
        spec = operator.infer(x.shape, REGIONS.shape, (3, 2), *settings.values())
        wanted = operator.reference(spec, wide.astype(np.float32), REGIONS)
        got = ops.roi_align(x, asarray(REGIONS), (3, 2), **settings)
        near(got, wanted.astype(np.float64), "float32", 32, abs(wide).max())
        g = rng.standard_normal(wanted.shape).astype(np.float32)
        wanted_gradient = gradient.reference(spec, REGIONS, g)
        near(
            gradient(spec, asarray(REGIONS), asarray(g)), wanted_gradient.astype(np.float64), "float32", 64, 8
        )


def test_infinities_stay_in_their_bins(device: Any, rng: np.random.Generator) -> None:
    x = rng.standard_normal((1, 8, 8, 2)).astype(np.float32)
    x[0, 3, 3, 0] = np.inf
    boxes = np.array([[0, 0, 0, 8, 8]], np.float32)
    spec = ops.OPERATORS["roi_align"].infer(x.shape, boxes.shape, 4, 1.0, 2, True)
    wanted = ops.OPERATORS["roi_align"].reference(spec, x, boxes)
    got = ops.roi_align(asarray(x), asarray(boxes), 4, sampling_ratio=2, aligned=True).numpy()
    np.testing.assert_array_equal(np.isinf(got), np.isinf(wanted))
    with pytest.raises(cf.errors.ShapeError, match="names image"):
        ops.roi_align(asarray(x), asarray(np.array([[3, 0, 0, 1, 1]], np.float32)), 2)


RESIZES: list[tuple[tuple[int, ...], Any, dict[str, Any]]] = [
    ((2, 5, 7, 16), (10, 14), {"mode": "nearest"}),
    ((1, 7, 5, 17), (3, 9), {"mode": "nearest"}),
    ((2, 5, 7, 8), (10, 14), {}),
    ((1, 7, 5, 17), (3, 9), {}),
    ((1, 7, 6, 3), (13, 11), {"align_corners": True}),
    ((1, 16, 12, 4), (3, 5), {"antialias": True}),
    ((1, 30, 9, 3), (2, 12), {"antialias": True}),
    ((0, 4, 4, 3), 2, {}),
]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_resize_and_its_gradient(device: Any, rng: np.random.Generator, dtype: str) -> None:
    gradient = ops.OPERATORS["resize_grad"]
    for shape, size, settings in RESIZES:
        x, wide = given(rng, shape, dtype)
        wanted = ops.resize(wide, size, **settings)
        near(ops.resize(x, size, **settings), wanted, dtype, 16, 16)
        g, wide_g = given(rng, wanted.shape, dtype)
        spec = gradient.infer(
            wanted.shape,
            shape,
            *{"mode": "bilinear", "align_corners": False, "antialias": False, **settings}.values(),
        )
        near(gradient(spec, g), gradient(spec, wide_g), dtype, 32, 64)


@pytest.mark.parametrize("threshold", [-0.5, 0.05, 0.5, 1.0])
@pytest.mark.parametrize(("softmax", "scale"), [(False, 1.05), (True, 1.0)])
@pytest.mark.parametrize("shapes", [[(1, 1)], [(0, 3)], [(11, 5), (4, 23), (3, 1)]])
def test_yolo_candidates(
    device: Any, rng: np.random.Generator, shapes: list[Any], softmax: bool, scale: float, threshold: float
) -> None:
    """As the definition has them, in its order; more places than a block has threads."""
    anchors = [[(10.0, 14.0), (81.0, 82.5), (0.5, 2.0)], [(3.0, 5.0)], []][: len(shapes)]
    outputs = [
        rng.normal(0, 3, (*shape, len(own) * 9)).astype(np.float32)
        for shape, own in zip(shapes, anchors, strict=True)
    ]
    for output in outputs:
        strange = rng.choice([np.nan, np.inf, -np.inf], output.size // 40)
        output.ravel()[rng.integers(0, max(output.size, 1), len(strange))] = strange

    def found(values: list[Any]) -> Any:
        return ops.yolo_candidates(
            values, anchors, 4, (96, 160.5), score_threshold=threshold, softmax=softmax, scale_xy=scale,
            origin=(3.5, -2), picture=(50, 120) if threshold < 0.1 else None,
        )  # fmt: skip

    got = found([asarray(output) for output in outputs])
    with cf.use_backend("numpy"):
        wanted = found(outputs)
        rounded = [asarray(output, "bfloat16") for output in outputs]
        wanted_short = found([output.numpy() for output in rounded])
    assert got[2].dtype == np.int64
    for one, other in zip(got, wanted, strict=True):  # both round once, from float64
        assert one.shape == other.shape
        np.testing.assert_allclose(one.numpy(), other, rtol=2**-23)
    np.testing.assert_array_equal(got[2].numpy(), wanted[2])
    short = found(rounded)
    assert [str(r.dtype) for r in short] == ["bfloat16", "bfloat16", "int64"]
    for one, other in zip(short, wanted_short, strict=True):
        np.testing.assert_allclose(one.numpy(), other, rtol=2**-8)


def test_yolo_candidates_of_many_anchors(device: Any) -> None:
    x, anchors = asarray(np.zeros((1, 1, 33 * 6), np.float32)), [(1, 1)] * 33
    with pytest.raises(ValueError, match=r"yolo_candidates: expected up to 32 anchors .* got 33"):
        ops.yolo_candidates([x], [anchors], 1, 8)


def test_detect_of_outputs_on_the_device(device: Any, rng: np.random.Generator) -> None:
    """Only what is above the threshold comes to the host."""
    heads = [Head("yolo", ((10.0, 14.0), (40.0, 30.0)), 3), Head("region", ((20.0, 20.0),), 3, softmax=True)]
    outputs = [
        rng.normal(size=(2, n, n, h.channels)).astype(np.float32) for n, h in zip((2, 4), heads, strict=True)
    ]
    with cf.use_backend("numpy"):
        wanted = detect(outputs, heads, 64, score_threshold=0.2)
    got = detect([cf.Tensor(asarray(outputs[0])), asarray(outputs[1])], heads, 64, score_threshold=0.2)
    assert sum(len(one.scores) for one in got) > 2
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_allclose(one.boxes, other.boxes, rtol=2**-22)
        np.testing.assert_allclose(one.scores, other.scores, rtol=2**-22)
        np.testing.assert_array_equal(one.classes, other.classes)
