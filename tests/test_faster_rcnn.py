"""Faster R-CNN: anchors, box coding, proposals, pooling by size, chosen boxes, and the networks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import cnnfast as cf
from cnnfast import nn, ops
from cnnfast.detection import (
    base_anchors,
    clip_boxes,
    decode_boxes,
    encode_boxes,
    grid_anchors,
    large_boxes,
)
from cnnfast.detection.regions import (
    Settings,
    best,
    choose_boxes,
    pool_regions,
    prepare,
    propose,
    pyramid_level,
)
from cnnfast.errors import DTypeError, ShapeError
from cnnfast.graph import interpret, optimize, trace
from cnnfast.models.faster_rcnn import FasterRCNN, FastRCNNPredictor, TwoMLPHead
from cnnfast.models.registry import entry


def some_boxes(rng: np.random.Generator, count: int, side: float = 100.0) -> np.ndarray:
    corners = rng.random((count, 2, 2)).astype(np.float32) * np.float32(side)
    return np.concatenate([corners.min(1), corners.max(1) + 1], 1)


# --- anchors and boxes -----------------------------------------------------------------------------


def test_base_anchors() -> None:
    np.testing.assert_array_equal(
        base_anchors([32], [0.5, 1, 2]), [[-23, -11, 23, 11], [-16, -16, 16, 16], [-11, -23, 11, 23]]
    )
    nine = base_anchors([128, 256, 512], [0.5, 1, 2])
    assert nine.shape == (9, 4)
    k = 0
    for ratio in (0.5, 1, 2):
        for size in (128, 256, 512):
            w, h = size / math.sqrt(ratio), size * math.sqrt(ratio)
            assert np.abs(nine[k] - [-w / 2, -h / 2, w / 2, h / 2]).max() <= 0.5
            k += 1
    np.testing.assert_array_equal(nine, np.round(nine))


def test_grid_anchors_place_by_place() -> None:
    base = base_anchors([8, 16], [1, 2])
    found = grid_anchors(base, (3, 5), (16, 32)).reshape(3, 5, 4, 4)
    for i in range(3):
        for j in range(5):
            np.testing.assert_array_equal(found[i, j], np.array([32 * j, 16 * i] * 2) + base)


def test_box_coding_round_trip(rng: np.random.Generator) -> None:
    boxes, anchors = (some_boxes(rng, 200).astype(np.float64) for _ in range(2))
    weights = (10.0, 10.0, 5.0, 5.0)
    offsets = encode_boxes(boxes, anchors, weights)
    grown = (offsets[:, 2:] < 5 * math.log(1000 / 16)).all(1)
    np.testing.assert_allclose(
        decode_boxes(offsets, anchors, weights)[grown], boxes[grown], rtol=1e-9, atol=1e-9
    )
    for box, anchor, offset in zip(boxes[:20], anchors[:20], offsets[:20], strict=True):
        (ax, ay), (aw, ah) = (anchor[:2] + anchor[2:]) / 2, anchor[2:] - anchor[:2]
        (x, y), (w, h) = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
        by_hand = [10 * (x - ax) / aw, 10 * (y - ay) / ah, 5 * math.log(w / aw), 5 * math.log(h / ah)]
        np.testing.assert_allclose(offset, by_hand, rtol=1e-9, atol=1e-12)


def test_growth_is_bounded_and_wild_offsets_do_not_warn() -> None:
    anchor = np.array([[0, 0, 16, 16]], np.float32)
    box = decode_boxes(np.array([[0, 0, 1e9, 88]], np.float32), anchor)
    np.testing.assert_allclose(box[:, 2:] - box[:, :2], 1000, rtol=1e-5)
    wild = np.array([[np.inf, -np.inf, 0, 0], [np.nan] * 4, [3e38, -3e38, 1, 1]], np.float32)
    boxes = clip_boxes(decode_boxes(wild, anchor, (0.1, 0.1, 1, 1)), (10, 20))
    assert not large_boxes(boxes, 1).any()


def test_boxes_of_other_shapes(rng: np.random.Generator) -> None:
    anchors = some_boxes(rng, 3)
    offsets = rng.normal(size=(3, 4, 4)).astype(np.float32)
    together = decode_boxes(offsets, anchors[:, None])
    for k in range(4):
        np.testing.assert_array_equal(together[:, k], decode_boxes(offsets[:, k], anchors))
    with pytest.raises(ShapeError, match="offsets must have shape"):
        decode_boxes(offsets[..., :3], anchors)
    with pytest.raises(DTypeError):
        decode_boxes(offsets, anchors.astype(np.float64))


# --- proposals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 7, 50, 1000])
def test_best_is_a_stable_sort(count: int, rng: np.random.Generator) -> None:
    scores = rng.integers(0, 9, 200).astype(np.float32)
    scores[[3, 77]] = np.nan
    order = sorted(range(200), key=lambda k: (-scores[k] if scores[k] == scores[k] else math.inf, k))
    np.testing.assert_array_equal(best(scores, max(count, 1)), order[: max(count, 1)])


def iou(a: Any, b: Any) -> float:
    w = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    h = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h
    return w * h / union if w * h else 0.0


def suppress(rows: list[tuple], threshold: float) -> list[tuple]:
    """Rows (score, group, box, ...) of which no two of a group overlap by more."""
    kept: list[tuple] = []
    for row in sorted(rows, key=lambda row: -row[0]):
        if all(row[1] != k[1] or iou(row[2], k[2]) <= threshold for k in kept):
            kept.append(row)
    return kept


def test_proposals_by_brute_force_and_torch(backend: str, rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    settings = Settings(pre_nms=40, post_nms=25, proposal_size=12.0, proposal_iou=0.6)
    size, grids = (60, 90), ((8, 12), (4, 6))
    anchors = [grid_anchors(base_anchors([s], [0.5, 1, 2]), g, (t, t))
               for s, g, t in zip((16, 40), grids, (8, 16), strict=True)]  # fmt: skip
    scores = [rng.normal(size=(*g, 3)).astype(np.float32) for g in grids]
    offsets = [rng.normal(scale=0.5, size=(*g, 12)).astype(np.float32) for g in grids]
    boxes, found = propose(scores, offsets, anchors, size, settings)
    assert 5 < len(boxes) <= 25

    rows = []
    for level in range(2):
        logits = torch.from_numpy(scores[level]).flatten()
        top = logits.topk(40).indices
        a = torch.from_numpy(anchors[level])[top]
        d = torch.from_numpy(offsets[level]).reshape(-1, 4)[top]
        w, h = a[:, 2] - a[:, 0], a[:, 3] - a[:, 1]
        x, y = a[:, 0] + w / 2 + d[:, 0] * w, a[:, 1] + h / 2 + d[:, 1] * h
        w, h = w * d[:, 2].exp(), h * d[:, 3].exp()
        b = torch.stack([(x - w / 2).clamp(0, 90), (y - h / 2).clamp(0, 60),
                         (x + w / 2).clamp(0, 90), (y + h / 2).clamp(0, 60)], 1)  # fmt: skip
        good = (b[:, 2] - b[:, 0] >= 12) & (b[:, 3] - b[:, 1] >= 12)
        rows += [
            (s, level, box)
            for s, box in zip(logits[top].sigmoid()[good].tolist(), b[good].tolist(), strict=True)
        ]
    kept = suppress(rows, 0.6)[:25]
    np.testing.assert_allclose(boxes, [row[2] for row in kept], atol=1e-3)
    np.testing.assert_allclose(found, [row[0] for row in kept], rtol=1e-5)


# --- pooling ---------------------------------------------------------------------------------------


def test_levels_of_boxes(rng: np.random.Generator) -> None:
    sides = [1, 55, 56, 111, 112, 223, 224, 447, 448, 5000]
    boxes = np.array([[10, 10, 10 + s, 10 + s] for s in sides], np.float32)
    np.testing.assert_array_equal(pyramid_level(boxes, 4), [0, 0, 0, 0, 1, 1, 2, 2, 3, 3])
    np.testing.assert_array_equal(pyramid_level(np.zeros((2, 4), np.float32), 4), [0, 0])
    boxes = some_boxes(rng, 300, 1500)
    for box, level in zip(boxes.astype(np.float64), pyramid_level(boxes, 4), strict=True):
        side = math.sqrt((box[2] - box[0]) * (box[3] - box[1]))
        assert level == min(max(math.floor(4 + math.log2(side / 224)), 2), 5) - 2


def bilinear(image: np.ndarray, y: float, x: float) -> np.ndarray:
    h, w, _ = image.shape
    if not (-1 <= y <= h and -1 <= x <= w):
        return np.zeros(image.shape[2])
    y, x = min(max(y, 0), h - 1), min(max(x, 0), w - 1)
    i, j = min(int(y), h - 1), min(int(x), w - 1)
    k, m = min(i + 1, h - 1), min(j + 1, w - 1)
    top = image[i, j] * (1 - x + j) + image[i, m] * (x - j)
    return top * (1 - y + i) + (image[k, j] * (1 - x + j) + image[k, m] * (x - j)) * (y - i)


def test_pooling_on_the_map_of_each_size(backend: str, rng: np.random.Generator) -> None:
    maps = [rng.normal(size=(2, 128 >> k, 128 >> k, 3)).astype(np.float32) for k in range(4)]
    boxes = np.array([[5, 9, 40, 60], [0, 0, 500, 480], [30, 100, 180, 250], [20, 30, 300, 280]], np.float32)
    regions = np.insert(boxes, 0, [0, 1, 1, 0], 1)
    pooled = pool_regions(maps, regions, 3)
    assert sorted(pyramid_level(boxes, 4)) == [0, 1, 2, 3]
    for (image, x1, y1, x2, y2), level, got in zip(regions, pyramid_level(boxes, 4), pooled, strict=True):
        scale = 4 * 2**level
        features = maps[level][int(image)].astype(np.float64)
        h, w = max(float(y2 - y1) / scale, 1) / 3, max(float(x2 - x1) / scale, 1) / 3
        for i in range(3):
            for j in range(3):
                samples = [
                    bilinear(features, float(y1) / scale + (i + dy) * h, float(x1) / scale + (j + dx) * w)
                    for dy in (0.25, 0.75)
                    for dx in (0.25, 0.75)
                ]
                np.testing.assert_allclose(got[i, j], np.mean(samples, 0), rtol=1e-4, atol=1e-5)
    assert pool_regions(maps, regions[:0], 3).shape == (0, 3, 3, 3)


# --- chosen boxes ----------------------------------------------------------------------------------


def test_chosen_boxes_by_brute_force(backend: str, rng: np.random.Generator) -> None:
    count, classes = 60, 4
    logits = rng.normal(scale=2, size=(count, classes)).astype(np.float32)
    offsets = rng.normal(size=(count, 4 * classes)).astype(np.float32)
    regions = some_boxes(rng, count)
    settings = Settings(score_threshold=0.1, iou_threshold=0.4, max_detections=20)
    boxes, labels, scores = choose_boxes(logits, offsets, regions, (80, 90), settings)

    rows = []
    for k in range(count):
        p = np.exp(logits[k].astype(np.float64))
        p /= p.sum()
        x1, y1, x2, y2 = regions[k].astype(np.float64)
        w, h = x2 - x1, y2 - y1
        for c in range(1, classes):
            dx, dy, dw, dh = offsets[k, 4 * c : 4 * c + 4].astype(np.float64) / [10, 10, 5, 5]
            x, y, bw, bh = x1 + w / 2 + dx * w, y1 + h / 2 + dy * h, w * math.exp(dw), h * math.exp(dh)
            corners = [x - bw / 2, y - bh / 2, x + bw / 2, y + bh / 2]
            box = [min(max(v, 0), limit) for v, limit in zip(corners, (90, 80, 90, 80), strict=True)]
            if p[c] > 0.1 and min(box[2] - box[0], box[3] - box[1]) >= 1e-2:
                rows.append((p[c], c, box))
    kept = suppress(rows, 0.4)
    assert len(kept) > 20
    np.testing.assert_allclose(boxes, [row[2] for row in kept[:20]], atol=1e-3)
    np.testing.assert_array_equal(labels, [row[1] for row in kept[:20]])
    np.testing.assert_allclose(scores, [row[0] for row in kept[:20]], rtol=1e-5)


# --- networks --------------------------------------------------------------------------------------


def test_parameters_and_names() -> None:
    for name, classes, count in (
        ("fasterrcnn_resnet50_fpn", 91, 41_755_286),
        ("fasterrcnn_resnet50_fpn", 2, 41_299_161),
        ("fasterrcnn_vgg16", 21, 137_073_622),
    ):
        assert name in cf.models.list_models("detection")
        assert entry(name).input_size == (800, 800, 3)
        model = cf.models.create_model(name, classes)
        assert sum(p.size for p in model.parameters()) == count
    model = cf.models.fasterrcnn_resnet50_fpn()
    # torchvision's state dict has 295 entries: 83 parameters and four constants of each of 53 normalisations.
    names = {name: p.shape for name, p in model.named_parameters()}
    assert len(names) == 83
    assert len(list(model.named_buffers())) == 4 * 53
    assert names["backbone.body.layer4.0.downsample.0.weight"] == (1, 1, 1024, 2048)
    assert names["backbone.fpn.inner_blocks.3.0.weight"] == (1, 1, 2048, 256)
    assert names["rpn.head.conv.0.0.weight"] == (3, 3, 256, 256)
    assert names["rpn.head.bbox_pred.weight"] == (1, 1, 256, 12)
    assert names["roi_heads.box_head.fc6.weight"] == (12544, 1024)
    assert names["roi_heads.box_predictor.bbox_pred.weight"] == (1024, 364)
    assert "backbone.body.bn1.running_var" in dict(model.named_buffers())


def test_names_of_the_published_file() -> None:
    rename = entry("fasterrcnn_resnet50_fpn").weights["torchvision"].rename
    assert rename is not None
    for old, new in (
        ("backbone.fpn.inner_blocks.0.weight", "backbone.fpn.inner_blocks.0.0.weight"),
        ("backbone.fpn.layer_blocks.3.bias", "backbone.fpn.layer_blocks.3.0.bias"),
        ("rpn.head.conv.weight", "rpn.head.conv.0.0.weight"),
        ("rpn.head.cls_logits.weight", "rpn.head.cls_logits.weight"),
        ("backbone.body.layer1.0.conv1.weight", "backbone.body.layer1.0.conv1.weight"),
    ):
        assert rename(old) == new
        assert rename(new) == new


def test_static_parts_are_graphs() -> None:
    model = cf.models.fasterrcnn_resnet50_fpn()
    graph = trace(model.trunk, (1, 800, 800, 3))
    sides = (200, 100, 50, 25, 13)
    shapes = [value.shape for value in graph.outputs]
    assert shapes == [(1, n, n, c) for c in (256, 3, 12) for n in sides]
    graph = trace(model.roi_heads, (1000, 7, 7, 256))
    assert [value.shape for value in graph.outputs] == [(1000, 91), (1000, 364)]
    graph = trace(cf.models.fasterrcnn_vgg16().trunk, (1, 608, 800, 3))
    assert [value.shape for value in graph.outputs] == [(1, 38, 50, c) for c in (512, 9, 36)]
    with pytest.raises(ValueError, match=r"trace model\.trunk"):
        trace(model, (1, 800, 800, 3))


@pytest.fixture(scope="module")
def model() -> FasterRCNN:
    """With constants of the normalisations that are not the usual ones, so that their places matter."""
    rng = np.random.default_rng(7)
    model = cf.models.fasterrcnn_resnet50_fpn(5, min_size=64, max_size=96, score_threshold=0.15)
    for module in model.modules():
        for name, buffer in module._buffers.items():
            low, high = (0.3, 0.9) if name == "weight" else (0.8, 1.2) if "var" in name else (-0.1, 0.1)
            module._buffers[name] = rng.uniform(low, high, buffer.shape).astype(np.float32)
    # So that scores and boxes spread enough to be told apart.
    for name, factor in (("rpn.head", 30), ("roi_heads.box_predictor", 10)):
        for key, parameter in model.named_parameters():
            if key.startswith(name):
                parameter.data = parameter.data * np.float32(factor / (30 if "bbox" in key else 1))
    return model.eval()


def torch_trunk(state: dict[str, Any], x: Any) -> tuple[list, list, list]:
    """Features and proposal head written with torch's functions on a state dict in torch's layout."""
    functional = pytest.importorskip("torch").nn.functional

    def norm(x, name):
        mean, var, w, b = (state[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        return (x - mean[:, None, None]) / var[:, None, None].sqrt() * w[:, None, None] + b[:, None, None]

    def conv(x, name, **options):
        return functional.conv2d(x, state[name + ".weight"], state.get(name + ".bias"), **options)

    body = "backbone.body."
    x = functional.relu(norm(conv(x, body + "conv1", stride=2, padding=3), body + "bn1"))
    x = functional.max_pool2d(x, 3, 2, 1)
    stages = []
    for i, blocks in enumerate((3, 4, 6, 3)):
        for k in range(blocks):
            at = f"{body}layer{i + 1}.{k}."
            stride = 2 if i and not k else 1
            y = functional.relu(norm(conv(x, at + "conv1"), at + "bn1"))
            y = functional.relu(norm(conv(y, at + "conv2", stride=stride, padding=1), at + "bn2"))
            y = norm(conv(y, at + "conv3"), at + "bn3")
            if not k:
                x = norm(conv(x, at + "downsample.0", stride=stride), at + "downsample.1")
            x = functional.relu(x + y)
        stages.append(x)
    inner, maps = None, []
    for i in (3, 2, 1, 0):
        lateral = conv(stages[i], f"backbone.fpn.inner_blocks.{i}.0")
        if inner is not None:
            lateral = lateral + functional.interpolate(inner, size=lateral.shape[-2:], mode="nearest")
        inner = lateral
        maps.insert(0, conv(inner, f"backbone.fpn.layer_blocks.{i}.0", padding=1))
    maps.append(functional.max_pool2d(maps[-1], 1, 2, 0))
    hidden = [functional.relu(conv(m, "rpn.head.conv.0.0", padding=1)) for m in maps]
    return maps, *([conv(t, f"rpn.head.{n}") for t in hidden] for n in ("cls_logits", "bbox_pred"))


def test_static_parts_against_torch(model: FasterRCNN, rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    state = {name: torch.from_numpy(np.array(a)) for name, a in model.state_dict(layout="torch").items()}
    x = rng.normal(size=(1, 64, 96, 3)).astype(np.float32)
    with torch.no_grad():
        expected = torch_trunk(state, torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
    results = model.trunk(x)
    graph = optimize(trace(model.trunk, x.shape))
    assert not any(node.op.name == "batch_norm" for node in graph.nodes)
    for kind, folded, theirs in zip(results, interpret(graph, x, native=True), expected, strict=True):
        assert len(kind) == len(theirs) == 5
        for a, f, b in zip(kind, folded, theirs, strict=True):
            want = b.permute(0, 2, 3, 1).numpy()
            assert a.shape == want.shape
            assert np.linalg.norm(a - want) <= 1e-4 * np.linalg.norm(want)
            assert np.linalg.norm(f - want) <= 1e-4 * np.linalg.norm(want)
    regions = rng.normal(size=(3, 7, 7, 256)).astype(np.float32)
    logits, offsets = model.roi_heads(regions)
    flat = torch.from_numpy(regions.transpose(0, 3, 1, 2).reshape(3, -1).copy())
    for name in ("fc6", "fc7"):
        at = f"roi_heads.box_head.{name}."
        flat = (flat @ state[at + "weight"].T + state[at + "bias"]).relu()
    for name, got in (("cls_score", logits), ("bbox_pred", offsets)):
        at = f"roi_heads.box_predictor.{name}."
        want = (flat @ state[at + "weight"].T + state[at + "bias"]).numpy()
        assert np.linalg.norm(got - want) <= 1e-5 * np.linalg.norm(want)


def test_pictures_from_end_to_end(backend: str, model: FasterRCNN) -> None:
    # Noise in which rounding decides neither an overlap at its threshold nor the order of two scores.
    rng = np.random.default_rng(6)
    pictures = [rng.random((50, 60, 3)).astype(np.float32), rng.random((90, 40, 3)).astype(np.float32)]
    results = model(pictures)
    assert len(results) == 2
    for picture, found in zip(pictures, results, strict=True):
        boxes, labels, scores = found["boxes"], found["labels"], found["scores"]
        assert len(boxes) == len(labels) == len(scores) > 0
        assert (boxes >= 0).all()
        assert (boxes <= np.array([*picture.shape[1::-1]] * 2) + 1e-3).all()
        assert (np.diff(scores) <= 0).all()
        assert scores.min() > 0.15
        assert set(labels) <= {1, 2, 3, 4}
    with cf.use_backend("numpy"):
        plain = model(pictures)
    for a, b in zip(results, plain, strict=True):
        np.testing.assert_array_equal(a["labels"], b["labels"])
        np.testing.assert_allclose(a["boxes"], b["boxes"], atol=0.05)
    array = np.stack([pictures[0], pictures[0]])
    first, second = model(array)
    for key in first:
        np.testing.assert_array_equal(first[key], second[key])


class Strided(nn.Module):
    """A stand-in for a large backbone: one map at 1/16."""

    def __init__(self) -> None:
        self.conv = nn.Conv2d(3, 8, 16, stride=16)

    def forward(self, x: Any) -> Any:
        return (ops.relu(self.conv(x)),)


@pytest.mark.parametrize("pooling", ["pool", "align"])
def test_one_map(backend: str, pooling: str, rng: np.random.Generator) -> None:
    settings = Settings(min_size=64, max_size=128, proposal_size=4.0, score_threshold=0.2)
    anchors = [base_anchors([16, 32, 64], [0.5, 1, 2])]
    box_head = TwoMLPHead(3, 8, 16, 0.5)
    small = FasterRCNN(
        Strided(), 8, anchors, box_head, FastRCNNPredictor(16, 3), pooling=pooling, settings=settings
    )
    small.initialize(1).eval()
    found = small([rng.random((64, 80, 3)).astype(np.float32)])[0]
    assert len(found["boxes"]) > 0
    assert found["boxes"].shape[1] == 4
    with pytest.raises(ShapeError, match="pooling must be one of"):
        FasterRCNN(Strided(), 8, anchors, box_head, FastRCNNPredictor(16, 3), pooling="max")


def test_nothing_found(backend: str, rng: np.random.Generator) -> None:
    settings = Settings(min_size=64, max_size=64, proposal_size=1e6)
    small = FasterRCNN(
        Strided(), 8, [base_anchors([16], [1])], TwoMLPHead(3, 8, 16, 0), FastRCNNPredictor(16, 3),
        pooling="align", settings=settings,
    ).eval()  # fmt: skip
    assert small([]) == []
    (found,) = small([rng.random((20, 20, 3)).astype(np.float32)])
    assert [found[key].shape for key in ("boxes", "labels", "scores")] == [(0, 4), (0,), (0,)]


def test_preparing_pictures_as_torch_does(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    pictures = [rng.random((30, 40, 3)).astype(np.float32), rng.random((70, 20, 3)).astype(np.float32)]
    batch, sizes = prepare(pictures, Settings(min_size=60, max_size=100))
    assert sizes == [(60, 80), (100, 28)]
    assert batch.shape == (2, 128, 96, 3)
    for picture, place, (h, w) in zip(pictures, batch, sizes, strict=True):
        normal = (picture - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        there = torch.from_numpy(normal).permute(2, 0, 1)[None]
        want = torch.nn.functional.interpolate(there, (h, w), mode="bilinear", align_corners=False)[0]
        np.testing.assert_allclose(place[:h, :w], want.permute(1, 2, 0).numpy(), atol=1e-4)
        assert not place[h:].any()
        assert not place[:, w:].any()
    assert prepare([np.zeros((480, 640, 3), np.float32)], Settings())[1] == [(800, 1066)]


def test_pictures_that_are_refused(model: FasterRCNN) -> None:
    for picture in (
        np.zeros((8, 8), np.float32),
        np.zeros((8, 8, 4), np.float32),
        np.zeros((0, 8, 3), np.float32),
    ):
        with pytest.raises(ShapeError):
            model([picture])
    with pytest.raises(DTypeError):
        model([np.zeros((8, 8, 3), np.uint8)])
