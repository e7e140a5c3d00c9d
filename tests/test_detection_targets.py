"""Anchors, targets of YOLO and its loss from boxes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cnnfast as cf
from cnnfast import data, losses
from cnnfast.detection import (
    Detector,
    Letterboxed,
    SSDLoss,
    YOLOLoss,
    assign,
    decode_grid,
    encode_grid,
    expect_few,
    kmeans_anchors,
    shape_iou,
)
from cnnfast.detection.detector import SSD_MEAN
from cnnfast.errors import DataError, ShapeError
from cnnfast.models.darknet import Head
from cnnfast.models.ssd import decode_boxes, default_boxes
from cnnfast.models.yolo import decode

SIZE = 96, 128
HEADS = (
    Head("yolo", ((40.0, 30.0), (60.0, 80.0)), 3),
    Head("region", ((0.5, 1.0), (1.5, 1.0)), 3, softmax=True),
)
GRIDS = (3, 4), (6, 8)


# --- anchors ----------------------------------------------------------------------------------------


def test_shape_iou_is_that_of_boxes_on_one_centre(rng: np.random.Generator) -> None:
    a, b = rng.uniform(1, 50, (7, 2)), rng.uniform(1, 50, (5, 2))
    expected = cf.ops.box_iou(np.concatenate([-a, a], 1) / 2, np.concatenate([-b, b], 1) / 2)
    np.testing.assert_allclose(shape_iou(a, b), expected, rtol=1e-12)


def test_kmeans_finds_clusters(rng: np.random.Generator) -> None:
    centres = np.array([[10.0, 12.0], [40.0, 20.0], [35.0, 80.0]])
    sizes = np.concatenate([c * rng.uniform(0.95, 1.05, (50, 2)) for c in centres])
    found = kmeans_anchors(rng.permutation(sizes), 3, seed=1)
    np.testing.assert_allclose(found.anchors, centres, rtol=0.02)
    assert found.mean_iou == pytest.approx(shape_iou(sizes, found.anchors).max(1).mean())
    assert found.mean_iou > 0.93
    again = kmeans_anchors(rng.permutation(sizes), 3, seed=1)
    np.testing.assert_allclose(again.anchors, found.anchors)


def test_kmeans_with_as_many_anchors_as_sizes() -> None:
    sizes = np.array([[3.0, 4.0], [3.0, 4.0], [8.0, 1.0]])
    found = kmeans_anchors(sizes, 2)
    np.testing.assert_array_equal(found.anchors, [[8, 1], [3, 4]])
    assert found.mean_iou == 1


@pytest.mark.parametrize(
    "arguments", [([[1.0, 1.0]], 2), ([[1.0, 0.0]], 1), ([[1.0, 1.0]], 0), ([1.0, 2.0], 1)]
)
def test_kmeans_refuses(arguments: Any) -> None:
    with pytest.raises(ShapeError, match="kmeans_anchors"):
        kmeans_anchors(*arguments)


# --- version 1 --------------------------------------------------------------------------------------


def test_grid_shapes_of_version_1() -> None:
    target, collisions = encode_grid([[[0.0, 0.0, 64.0, 64.0]]], [[11]], 7, 20, 448)
    assert target.shape == (1, 7, 7, 25)
    assert not collisions
    found, confidence, kinds = decode_grid(np.zeros((1, 7, 7, 30)), 2, 448)
    assert (found.shape, confidence.shape, kinds.shape) == ((1, 98, 4), (1, 98), (1, 98, 20))


def test_grid_there_and_back(rng: np.random.Generator) -> None:
    centre = np.array([[40.5, 30.25], [100, 3.5], [127.999, 95.5], [128, 96]])[:3]
    half = rng.uniform(3, 60, (3, 2))
    boxes = np.concatenate([centre - half, centre + half], 1)
    target, collisions = encode_grid([boxes], [[0, 2, 1]], 5, 3, SIZE)
    assert not collisions
    # What a perfect network of one box per cell gives.
    perfect = np.concatenate([target[..., :2], np.sqrt(target[..., 2:4]), target[..., 4:]], -1)
    found, confidence, kinds = decode_grid(perfect, 1, SIZE)
    there = confidence[0] == 1
    order = np.argsort(found[0, there].sum(1))
    np.testing.assert_allclose(found[0, there][order], boxes[np.argsort(boxes.sum(1))], atol=1e-3)
    assert sorted(kinds[0, there].argmax(1)) == [0, 1, 2]


def test_two_objects_in_one_cell_of_version_1_are_reported() -> None:
    boxes = [[10.0, 10.0, 20.0, 20.0], [12.0, 12.0, 22.0, 22.0], [90.0, 80.0, 99.0, 90.0]]
    target, collisions = encode_grid([[], boxes], [[], [0, 1, 2]], 3, 3, SIZE)
    assert collisions == [(1, 0, 0, 0, 0, 0, 1, None)]
    assert target[1, ..., 4].sum() == 2
    assert not target[0].any()


# --- versions 2 and 3 -------------------------------------------------------------------------------


def test_shapes_with_anchors() -> None:
    head = Head("region", ((1.0, 1.0), (1.0, 2.0)), 3)
    (target,), _ = assign([[[0.0, 0.0, 50.0, 30.0]]], [[1]], [head], [(3, 3)], 100)
    assert target.shape == (1, 3, 3, 2, 8)
    head = Head("region", tuple((float(i), 1.0) for i in range(1, 6)), 80)
    (target,), _ = assign([[]], [[]], [head], [(19, 19)], 608)
    assert target.shape == (1, 19, 19, 5, 85)


def test_targets_decode_to_the_boxes(rng: np.random.Generator) -> None:
    centre = rng.uniform(0, [128, 96], (9, 2))
    half = np.exp(rng.uniform(0, 4.2, (9, 2)))  # some are larger than a cell and than the picture
    boxes, classes = np.concatenate([centre - half, centre + half], 1), rng.integers(0, 3, 9)
    targets, collisions = assign([boxes], [classes], HEADS, GRIDS, SIZE)
    lost = {c.lost for c in collisions}
    found = []
    for target, head in zip(targets, HEADS, strict=True):
        t = target.astype(np.float64)
        with np.errstate(divide="ignore"):
            t[..., :2] = np.log(t[..., :2] / (1 - t[..., :2]))  # the raw values whose sigmoids they are
        b, _, _ = decode(t.reshape(*t.shape[:3], -1), head, SIZE, relative=True)
        there = target[..., 4].reshape(1, -1) == 1
        kinds = target[..., 5:].reshape(1, -1, 3)[there].argmax(1)
        found += [(box, int(k)) for box, k in zip(b[there], kinds, strict=True)]
    assert len(found) == 9 - len(lost)
    shares = boxes / np.tile(SIZE[::-1], 2)
    for k in set(range(9)) - lost:
        near = [c for b, c in found if np.abs(b - shares[k]).max() < 1e-6]
        assert near == [classes[k]]


def test_anchor_of_the_best_shape_in_the_cell_of_the_centre() -> None:
    # 18 x 15 fits (0.5, 1.0) cells of 16 x 16 less well than (1.5, 1.0); centre (41, 57.5).
    box = [32.0, 50.0, 50.0, 65.0]
    (coarse, fine), collisions = assign([[box]], [[2]], HEADS, GRIDS, SIZE)
    assert not coarse.any()
    assert not collisions
    assert np.argwhere(fine[..., 4]).tolist() == [[0, 3, 2, 1]]
    expected = [41 / 16 - 2, 57.5 / 16 - 3, np.log(18 / 24), np.log(15 / 16), 1, 0, 0, 1]
    np.testing.assert_allclose(fine[0, 3, 2, 1], expected, rtol=1e-6)


def test_collisions_are_reported_and_can_be_moved() -> None:
    box = [32.0, 50.0, 50.0, 65.0]
    boxes, classes = [[], [box, box, box]], [[], [0, 1, 2]]
    targets, collisions = assign(boxes, classes, HEADS, GRIDS, SIZE)
    assert collisions == [(1, 1, 3, 2, 1, 0, 1, None), (1, 1, 3, 2, 1, 0, 2, None)]
    assert sum(t[..., 4].sum() for t in targets) == 1
    targets, collisions = assign(boxes, classes, HEADS, GRIDS, SIZE, next_best=True)
    assert [c.lost for c in collisions] == [1, 2]
    for c in collisions:
        assert c.moved is not None
        head, row, column, anchor = c.moved
        assert targets[head][1, row, column, anchor, 5 + c.lost] == 1
    assert sum(t[..., 4].sum() for t in targets) == 3
    # Six objects ask for four anchors: two have none, and are reported too.
    _, collisions = assign([[box] * 6], [[0] * 6], HEADS, GRIDS, SIZE, next_best=True)
    assert sum(c.moved is None for c in collisions) == 2


def test_further_anchors_and_those_that_do_not_count() -> None:
    box = [20.0, 20.0, 58.0, 52.0]  # 38 x 32; IoU .84 with the first anchor, .25 with the second
    targets, _ = assign([[box]], [[0]], HEADS, GRIDS, SIZE, positive=0.2)
    assert targets[0][..., 4].sum() == 2
    targets, _ = assign([[box]], [[0]], HEADS, GRIDS, SIZE, ignore=0.2)
    assert (targets[0] == 1)[..., 4].sum() == 1
    assert (targets[0][..., 4] == -1).any()
    assert set(np.unique(targets[0][..., 4])) == {-1, 0, 1}


def test_centres_on_the_far_edge_belong_to_the_last_cell() -> None:
    (coarse, _), _ = assign([[[108.0, 81.0, 148.0, 111.0]]], [[0]], HEADS, GRIDS, SIZE)
    assert np.argwhere(coarse[..., 4]).tolist() == [[0, 2, 3, 0]]
    np.testing.assert_allclose(coarse[0, 2, 3, 0, :2], 1)


@pytest.mark.parametrize(
    ("boxes", "classes", "message"),
    [
        ([[[0.0, 0.0, 0.0, 5.0]]], [[0]], "positive width"),
        ([[[0.0, 0.0, np.inf, 5.0]]], [[0]], "finite"),
        ([[[0.0, 0.0, 5.0, 5.0]]], [[3]], "from 0 to 2"),
        ([[[0.0, 0.0, 5.0, 5.0]]], [[0, 1]], r"classes \(K,\)"),
        ([[[0.0, 0.0, 5.0, 5.0]]], [], "as many pictures"),
    ],
)
def test_objects_that_are_none(boxes: Any, classes: Any, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        assign(boxes, classes, HEADS, GRIDS, SIZE)


# --- loss -------------------------------------------------------------------------------------------


def batch(rng: np.random.Generator, boxes: list[Any], classes: list[Any]) -> data.Batch:
    return data.Batch(
        rng.random((len(boxes), *SIZE, 3), np.float32),
        boxes=[np.array(b, np.float32).reshape(-1, 4) for b in boxes],
        classes=[np.array(c, np.int64) for c in classes],
    )


def outputs(rng: np.random.Generator, pictures: int) -> list[Any]:
    return [
        cf.Tensor(rng.normal(size=(pictures, *grid, head.channels)).astype(np.float32), requires_grad=True)
        for grid, head in zip(GRIDS, HEADS, strict=True)
    ]


def test_loss_is_that_of_its_targets(rng: np.random.Generator) -> None:
    held = batch(rng, [[[20.0, 20.0, 58.0, 52.0], [32.0, 50.0, 50.0, 65.0]], []], [[1, 2], []])
    x = outputs(rng, 2)
    loss = YOLOLoss(HEADS, ignore=None)
    value = loss(x, held)
    targets, _ = assign(held.boxes, held.classes, HEADS, GRIDS, SIZE)
    expected = 0.0
    for out, target, head in zip(x, targets, HEADS, strict=True):
        kind = "softmax" if head.softmax else "sigmoid"
        expected += losses.yolo(out.data.reshape(target.shape), target, no_object=1, classes=kind).data
    np.testing.assert_allclose(value.data, expected, rtol=1e-6)
    assert (loss.objects, loss.collisions) == (2, 0)
    value.backward()
    assert all(np.isfinite(out.grad).all() and out.grad.any() for out in x)


def test_predictions_that_lie_on_an_object_are_no_background(rng: np.random.Generator) -> None:
    box = [20.0, 20.0, 58.0, 52.0]
    held = batch(rng, [[box]], [[0]])
    x = [np.zeros((1, *grid, head.channels), np.float32) for grid, head in zip(GRIDS, HEADS, strict=True)]
    for out in x:
        out[..., 4::8] = -20
    # The cell beside the responsible one says the same box, and is sure of it.
    x[0][0, 1, 0, :8] = [20, np.log(0.125 / 0.875), np.log(38 / 40), np.log(32 / 30), 8, 0, 0, 0]
    strict, mild = (YOLOLoss(HEADS, ignore=i)([cf.Tensor(v) for v in x], held).data for i in (None, 0.4))
    assert float(strict - mild) == pytest.approx(8, abs=1e-2)


def test_loss_refuses(rng: np.random.Generator) -> None:
    loss = YOLOLoss(HEADS)
    with pytest.raises(DataError, match="with boxes"):
        loss(outputs(rng, 1), data.Batch(np.zeros((1, *SIZE, 3), np.float32)))
    with pytest.raises(ShapeError, match="each of 2 heads"):
        loss(outputs(rng, 1)[:1], batch(rng, [[]], [[]]))


def test_few_objects_are_expected() -> None:
    model = cf.models.yolov3_small(3)
    expect_few(model, 0.02)
    found = model.eval()(np.zeros((1, 64, 64, 3), np.float32))
    for output, head in zip(found, model.heads, strict=True):
        _, objectness, _ = decode(output, head, 64)
        np.testing.assert_allclose(objectness, 0.02, rtol=1e-5)
    with pytest.raises(ShapeError, match="between 0 and 1"):
        expect_few(model, 1.0)


def test_a_small_network_learns_a_picture(rng: np.random.Generator) -> None:
    """Every part together: transform, loader, assignment, loss, gradients, trainer."""
    picture = np.full((60, 90, 3), 30, np.uint8)
    picture[10:30, 20:40], picture[35:55, 60:80] = (250, 40, 40), (40, 40, 250)
    sample = data.Sample(picture, boxes=[[20, 10, 40, 30], [60, 35, 80, 55]], classes=[0, 1])
    model = cf.models.yolov3_small(2, anchors=(20, 20, 14, 14, 60, 60), seed=1)
    loader = data.DataLoader(
        [sample] * 2,
        2,
        transform=data.Compose([Letterboxed((64, 96)), data.Normalize((0.0,) * 3, (1.0,) * 3)]),
    )
    expect_few(model)
    optimizer = cf.optim.Adam(model.parameters(), 5e-3)
    loss = YOLOLoss(model.heads)
    history = cf.train.fit(model, loader, loss=loss, optimizer=optimizer, epochs=40, progress=False)
    assert history["loss"][-1] < history["loss"][0] / 20
    assert loss.objects == 160
    found = Detector(model, (64, 96))(picture)
    np.testing.assert_array_equal(sorted(found.classes), [0, 1])
    for box, k in zip(found.boxes, found.classes, strict=True):
        assert cf.ops.box_iou(box[None], sample.boxes[k : k + 1].astype(np.float32)) > 0.5


# --- SSD --------------------------------------------------------------------------------------------


def test_ssd_targets_decode_to_the_objects() -> None:
    boxes = default_boxes()
    loss = SSDLoss(boxes)
    # The second one is so thin that no default box overlaps it by half.
    objects, classes = np.array([[30.0, 40, 90, 160], [200, 10, 206, 280]]), np.array([2, 0])
    target, labels = loss.targets(objects, classes, (300, 300))
    assert target.shape == (8732, 4)
    assert set(labels) == {0, 1, 3}
    assert (labels == 1).sum() >= 1
    assert (labels == 3).sum() > 1
    for k, label in enumerate((3, 1)):
        found = labels == label
        back = decode_boxes(target[found], boxes[found]) * 300
        np.testing.assert_allclose(back, np.repeat(objects[k : k + 1], found.sum(), 0), atol=1e-3)
    overlap = cf.ops.box_iou(loss.corners, objects / 300)
    assert ((labels == 3) == (overlap[:, 0] >= 0.5)).all()
    target, labels = loss.targets(objects[:0], classes[:0], (300, 300))
    assert not labels.any()


def test_ssd_loss_and_its_gradient(rng: np.random.Generator) -> None:
    boxes = default_boxes((0.3, 0.6, 0.9), maps=(3, 1), steps=(100, 300), ratios=((2,), (2,)))
    held = batch(rng, [[[20.0, 20.0, 58.0, 52.0], [60.0, 10.0, 100.0, 80.0]], []], [[1, 0], []])
    locations, scores = (
        cf.Tensor(rng.normal(size=(2, len(boxes), n)).astype(np.float32), requires_grad=True) for n in (4, 3)
    )
    loss = SSDLoss(boxes)
    value = loss((locations, scores), held)
    pairs = [loss.targets(b, c, SIZE) for b, c in zip(held.boxes, held.classes, strict=True)]
    target, labels = (np.stack([pair[k] for pair in pairs]) for k in (0, 1))
    assert (labels[0] > 0).any()
    expected = losses.ssd_multibox(locations.data, scores.data, target, labels)
    assert value.data == expected.data
    value.backward()
    assert locations.grad[0].any()
    assert not locations.grad[1].any()
    with pytest.raises(DataError, match="with boxes"):
        loss((locations, scores), data.Batch(held.pictures))
    with pytest.raises(ShapeError, match="boxes must have"):
        SSDLoss(boxes[:, :3])


def test_ssd_learns_a_picture() -> None:
    picture = np.full((300, 300, 3), 60, np.uint8)
    picture[60:180, 40:140] = (240, 60, 40)
    sample = data.Sample(picture, boxes=[[40, 60, 140, 180]], classes=[1])
    model = cf.models.ssd300(3, width=0.05, seed=1)
    normalize = data.Normalize(tuple(map(float, SSD_MEAN / 255)), (1 / 255,) * 3)
    loader = data.DataLoader([sample], 1, transform=normalize)
    optimizer = cf.optim.Adam(model.parameters(), 2e-3)
    history = cf.train.fit(
        model, loader, loss=SSDLoss(model.boxes), optimizer=optimizer, epochs=40, progress=False
    )
    assert history["loss"][-1] < history["loss"][0] / 5
    found = Detector(model, score_threshold=0.3)(picture)
    assert found.classes[0] == 1
    assert cf.ops.box_iou(found.boxes[:1], np.array([[40, 60, 140, 180]], np.float32))[0, 0] > 0.6
