"""Networks that judge regions: selective search, targets, and R-CNN, Fast and Faster R-CNN on a toy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cnnfast as cf
from cnnfast import data, losses, nn
from cnnfast.detection import (
    Detector,
    RegionLoss,
    RegionTraining,
    Sampling,
    base_anchors,
    crops_of,
    decode_boxes,
    evaluate,
    segment,
    selective_search,
)
from cnnfast.detection.region_training import match, region_targets, rpn_targets
from cnnfast.detection.regions import BOX_WEIGHTS, MEAN, STD, Settings
from cnnfast.errors import DataError, ShapeError
from cnnfast.models.faster_rcnn import FasterRCNN, FastRCNNPredictor, FeaturePyramid, TwoMLPHead
from cnnfast.models.rcnn import RCNN, FastRCNN
from cnnfast.models.registry import entry

COLOURS = np.array([[230, 40, 40], [40, 60, 230]], np.float32)
NORMALIZE = data.Normalize(tuple(map(float, MEAN)), tuple(map(float, STD)))


def scene(rng: np.random.Generator, size: int = 64) -> data.Sample:
    """One or two rectangles, red or blue, on a dull and noisy ground."""
    picture = rng.uniform(90, 130, (size, size, 3)).astype(np.float32)
    boxes, classes = [], []
    for left in (2, 34)[: int(rng.integers(1, 3))]:
        w, h = rng.integers(16, 27, 2)
        x, y = left + int(rng.integers(0, 29 - w)), int(rng.integers(0, size - h))
        kind = int(rng.integers(2))
        picture[y : y + h, x : x + w] = COLOURS[kind] + rng.uniform(-10, 10, 3)
        boxes.append([x, y, x + w, y + h])
        classes.append(kind)
    return data.Sample(np.rint(picture), boxes=boxes, classes=classes)


class Small(nn.Module):
    """Features at 1/8 of the picture."""

    channels = 24

    def __init__(self) -> None:
        self.layers = nn.Sequential(
            nn.Conv2d(3, 12, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(12, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 24, 3, stride=2, padding=1),
            nn.ReLU(),
        )

    def forward(self, x: Any) -> Any:
        return (self.layers(x),)


class Pyramid(nn.Module):
    """Maps of 1/4, 1/8 and 1/16, and one more for proposals."""

    def __init__(self) -> None:
        self.stem = nn.Sequential(
            nn.Conv2d(3, 12, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(12, 16, 3, stride=2, padding=1),
            nn.ReLU(),
        )
        self.down = nn.ModuleList(
            *[nn.Sequential(nn.Conv2d(16, 16, 3, stride=2, padding=1), nn.ReLU()) for _ in "ab"]
        )
        self.fpn = FeaturePyramid((16, 16, 16), 16)

    def forward(self, x: Any) -> Any:
        maps = [self.stem(x)]
        for layer in self.down:
            maps.append(layer(maps[-1]))
        return self.fpn(*maps)


def heads(channels: int, size: int = 4) -> tuple[TwoMLPHead, FastRCNNPredictor]:
    return TwoMLPHead(size, channels, 48, dropout=0.0), FastRCNNPredictor(48, 3)


# --- selective search -------------------------------------------------------------------------------


def test_segments_of_flat_rectangles() -> None:
    picture = np.zeros((40, 50, 3), np.uint8)
    picture[5:20, 10:30], picture[25:38, 5:45] = (200, 30, 30), (30, 200, 60)
    found = segment(picture, sigma=0, scale=50)
    expected = np.zeros((40, 50), int)
    expected[5:20, 10:30], expected[25:38, 5:45] = 1, 2
    np.testing.assert_array_equal(found, expected)


def test_small_segments_join_their_neighbours() -> None:
    picture = np.zeros((30, 30, 3), np.float32)
    picture[10:12, 10:12] = 255
    assert segment(picture, sigma=0, least=1).max() == 1
    assert segment(picture, sigma=0, least=5).max() == 0


def test_segments_beside_skimage(rng: np.random.Generator) -> None:
    segmentation = pytest.importorskip("skimage.segmentation")
    picture = np.kron(rng.uniform(0, 255, (5, 6, 3)), np.ones((9, 9, 1))).astype(np.float32)
    own = segment(picture, sigma=0, scale=100, least=10)
    # skimage takes scale / 255 of pictures whose values it does not change.
    other = segmentation.felzenszwalb(picture.astype(np.float64), scale=100, sigma=0, min_size=10)
    assert own.max() == other.max() == 29
    assert len(np.unique(np.stack([own.ravel(), other.ravel()]), axis=1).T) == 30


def test_selective_search_proposes_the_objects(rng: np.random.Generator) -> None:
    for _ in range(3):
        sample = scene(rng)
        found = selective_search(sample.picture)
        assert found.dtype == np.float32
        assert len(np.unique(found, axis=0)) == len(found)
        overlap = cf.ops.box_iou(sample.boxes.astype(np.float32), found)
        assert overlap.max(1).min() > 0.8
        np.testing.assert_array_equal(found[0], [0, 0, 64, 64])  # the last merge has it all
        np.testing.assert_array_equal(selective_search(sample.picture), found)
    assert len(selective_search(sample.picture, most=3)) == 3
    large = cf.ops.resize(sample.picture[None], (300, 300))[0]
    found = selective_search(large, longest=64)
    overlap = cf.ops.box_iou((sample.boxes * 300 / 64).astype(np.float32), found)
    assert overlap.max(1).min() > 0.7


@pytest.mark.parametrize("function", [segment, selective_search])
def test_pictures_that_are_none(function: Any) -> None:
    for shape in ((0, 4, 3), (4, 4)):
        with pytest.raises(ShapeError):
            function(np.zeros(shape, np.float32))


# --- targets ----------------------------------------------------------------------------------------


def test_matching() -> None:
    objects = np.array([[0, 0, 10, 10], [20, 0, 30, 10]], np.float32)
    boxes = np.array(
        [[0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 2], [40, 0, 50, 10], [20, 0, 30, 4]], np.float32
    )
    np.testing.assert_array_equal(match(boxes, objects, 0.7, 0.3), [0, -2, -1, -1, -2])
    np.testing.assert_array_equal(match(boxes, objects, 0.7, 0.3, each=True), [0, -2, -1, -1, 1])
    np.testing.assert_array_equal(match(boxes, objects, 0.5, 0.5, least=0.1), [0, 0, -1, -2, -1])
    np.testing.assert_array_equal(match(boxes, objects[:0], 0.5, 0.5), [-1] * 5)


def test_no_object_goes_without_an_anchor() -> None:
    objects = np.array([[0, 0, 10, 10], [0, 0, 10, 6]], np.float32)
    only = np.array([[0, 0, 10, 9]], np.float32)  # the best of both
    assert match(only, objects, 0.95, 0.3, each=True).tolist() == [1]
    np.testing.assert_array_equal(match(np.repeat(only, 2, 0), objects, 0.5, 0.3), [0, 0])


def test_rpn_targets_decode_to_the_objects(rng: np.random.Generator) -> None:
    anchors = rng.uniform(0, 60, (500, 2)).astype(np.float32)
    anchors = np.concatenate([anchors, anchors + rng.uniform(5, 30, (500, 2)).astype(np.float32)], 1)
    objects = np.array([[5, 5, 25, 30], [40, 10, 60, 25]], np.float32)
    labels, target = rpn_targets(anchors, objects, Sampling(anchors=64, anchor_positive=0.5), rng)
    assert (labels >= 0).sum() == 64
    positive = labels == 1
    assert 2 <= positive.sum() <= 32
    back = decode_boxes(target[positive], anchors[positive])
    assert (np.abs(back[:, None] - objects).max(-1).min(1) < 1e-3).all()


def test_region_targets(rng: np.random.Generator) -> None:
    objects, classes = np.array([[5, 5, 25, 30]], np.float32), np.array([4])
    proposals = np.concatenate([objects + rng.normal(0, 1, (50, 4)), [[40, 40, 60, 60]] * 50]).astype(
        np.float32
    )
    regions, labels, target = region_targets(proposals, objects, classes, Sampling(regions=40), rng)
    assert len(regions) == 40
    assert (labels == 5).sum() == 10
    assert set(labels) == {0, 5}
    np.testing.assert_allclose(
        decode_boxes(target[:10], regions[:10], BOX_WEIGHTS), np.repeat(objects, 10, 0), atol=1e-3
    )
    regions, labels, _ = region_targets(proposals[:0], objects[:0], classes[:0], Sampling(), rng)
    assert len(regions) == len(labels) == 0


# --- training ---------------------------------------------------------------------------------------


def train(model: Any, loss: RegionLoss, samples: list[data.Sample], epochs: int) -> Any:
    loader = data.DataLoader(samples, 4, shuffle=True, seed=1, transform=NORMALIZE)
    wrapped = RegionTraining(model)
    return cf.train.fit(
        wrapped,
        loader,
        loss=loss,
        optimizer=cf.optim.Adam(wrapped.parameters(), 4e-3),
        epochs=epochs,
        clip_norm=10.0,
        progress=False,
    )


def precision(detector: Detector, rng: np.random.Generator) -> float:
    return evaluate(detector, [scene(rng) for _ in range(8)], iou_threshold=0.5).mean


@pytest.mark.parametrize("pooling", ["pool", "align", "pyramid"])
def test_faster_rcnn_learns(pooling: str) -> None:
    rng = np.random.default_rng(4)
    settings = Settings(min_size=64, max_size=64, pre_nms=200, post_nms=30, score_threshold=0.005)
    if pooling == "pyramid":
        anchors = [base_anchors([s], (0.5, 1.0, 2.0)) for s in (12, 18, 26, 40)]
        backbone: Any = Pyramid()
    else:
        anchors, backbone = [base_anchors([16, 24, 32], (0.5, 1.0, 2.0))], Small()
    channels = 16 if pooling == "pyramid" else 24
    model = FasterRCNN(backbone, channels, anchors, *heads(channels), pooling=pooling, settings=settings)
    model.initialize(2)
    sampling = Sampling(anchors=64, regions=32, pre_nms=200, post_nms=60)
    history = train(model, RegionLoss(model, sampling=sampling), [scene(rng) for _ in range(24)], 10)
    assert history["loss"][-1] < history["loss"][0]
    assert precision(Detector(model), rng) > 0.6


@pytest.mark.parametrize("pooling", ["pool", "align"])
def test_fast_rcnn_learns(pooling: str) -> None:
    rng = np.random.default_rng(4)
    model = FastRCNN(Small(), *heads(24), pooling=pooling).initialize(2)

    known: dict[bytes, np.ndarray] = {}

    def proposals(picture: np.ndarray) -> np.ndarray:
        """Of a prepared picture; each is searched once."""
        key = picture.tobytes()
        if key not in known:
            known[key] = selective_search((picture * STD + MEAN) * 255, scales=(100.0,))
        return known[key]

    loss = RegionLoss(model, proposals, sampling=Sampling(regions=32))
    history = train(model, loss, [scene(rng) for _ in range(16)], 12)
    assert history["loss"][-1] < history["loss"][0] / 4
    assert precision(Detector(model, proposals=lambda p: selective_search(p, scales=(100.0,))), rng) > 0.6


def test_rcnn_learns() -> None:
    rng = np.random.default_rng(4)
    features = nn.Sequential(
        nn.Conv2d(3, 12, 5, stride=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(12, 24, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(216, 48, feature_map=(3, 3, 24)), nn.ReLU(),
    )  # fmt: skip
    model = RCNN(features, 48, 3, size=(24, 24), context=4).initialize(2)
    parts = []
    for _ in range(12):
        sample = scene(rng)
        found = selective_search(sample.picture, scales=(100.0,))
        parts.append(crops_of(model, NORMALIZE(sample, rng), found, rng, sampling=Sampling(regions=32)))
    crops, targets = (np.concatenate(part) for part in zip(*parts, strict=True))
    assert crops.shape[1:] == (24, 24, 3)

    def loss(outputs: Any, target: Any) -> Any:
        return losses.rcnn(*outputs, target[:, 0].astype(int), target[:, 1:])

    history = cf.train.fit(
        model,
        (crops, targets),
        loss=loss,
        optimizer=cf.optim.Adam(model.parameters(), 4e-3),
        epochs=12,
        progress=False,
    )
    assert history["loss"][-1] < history["loss"][0] / 4
    assert precision(Detector(model, proposals=lambda p: selective_search(p, scales=(100.0,))), rng) > 0.6


def test_crops_show_the_region_and_its_context() -> None:
    model = RCNN(nn.Flatten(), 20 * 20 * 3, 2, size=(20, 20), context=5)
    picture = np.zeros((40, 40, 3), np.float32)
    picture[10:20, 10:30] = 1
    crop = model.crops(picture, np.array([[10, 10, 30, 20]], np.float32))[0]
    np.testing.assert_allclose(crop[5:15, 6:14], 1)
    np.testing.assert_allclose(crop[:5], 0, atol=1e-6)
    np.testing.assert_allclose(crop[15:], 0, atol=1e-6)
    np.testing.assert_allclose(crop[:, [*range(4), *range(16, 20)]], 0, atol=1e-6)
    # Beyond the picture its border goes on.
    full = model.crops(np.ones((40, 40, 3), np.float32), np.array([[0, 0, 40, 40]], np.float32))
    np.testing.assert_allclose(full, 1, rtol=1e-6)


def test_refused() -> None:
    model = FastRCNN(Small(), *heads(24)).initialize(0)
    with pytest.raises(ShapeError, match="proposals for Fast R-CNN"):
        RegionLoss(model)
    with pytest.raises(ShapeError, match="context"):
        RCNN(nn.Flatten(), 10, 2, size=(20, 20), context=10)
    with pytest.raises(ShapeError, match="regions must have"):
        model.judge(np.zeros((16, 16, 3), np.float32), np.zeros((2, 5), np.float32))
    loss = RegionLoss(model, selective_search)
    with pytest.raises(DataError, match="with boxes"):
        loss(None, data.Batch(np.zeros((1, 16, 16, 3), np.float32)))


def test_pictures_without_objects() -> None:
    """Background alone: a loss that is finite, and no box term."""
    model = FastRCNN(Small(), *heads(24)).initialize(0)
    batch = data.Batch(
        np.zeros((1, 64, 64, 3), np.float32),
        boxes=[np.zeros((0, 4), np.float32)],
        classes=[np.zeros(0, np.int64)],
    )
    whole = np.array([[0, 0, 64, 64], [3, 3, 30, 40]], np.float32)
    loss = RegionLoss(model, lambda picture: whole)
    value = loss(RegionTraining(model)(cf.Tensor(batch.pictures)), batch)
    assert np.isfinite(value.data)
    value.backward()


def test_registered_networks() -> None:
    predictor = 4097 * 21 + 4097 * 84
    dense = 4097 * 4096
    alexnet, vgg16 = 2_469_696 + 9217 * 4096 + dense, 14_714_688 + 25089 * 4096 + dense
    for name, parameters in (("rcnn_alexnet", alexnet), ("fastrcnn_vgg16", vgg16)):
        model = entry(name).build()
        assert model.num_classes == 21
        assert sum(p.size for p in model.parameters()) == parameters + predictor
