"""YOLO networks, their boxes, and the letterbox around pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import cnnfast as cf
from cnnfast.detection import letterbox
from cnnfast.errors import ShapeError
from cnnfast.graph import trace
from cnnfast.models.darknet import Darknet, Head, darknet, load_darknet
from cnnfast.models.registry import entry
from cnnfast.models.yolo import candidates, decode, detect
from cnnfast.pictures import load_picture

# Name, classes, trainable parameters, values in a weights file (batch normalisation statistics included),
# cells and channels of the outputs at 416x416.
NETWORKS = [
    ("yolov2_tiny", 80, 11_232_057, 11_237_145, [(13, 425)]),
    ("yolov2_tiny", 20, 15_861_773, 15_867_885, [(13, 125)]),
    ("yolov3_tiny", 80, 8_852_366, 8_858_734, [(13, 255), (26, 255)]),
    ("yolov3", 80, 61_949_149, 62_001_757, [(13, 255), (26, 255), (52, 255)]),
]


@pytest.mark.parametrize(("name", "classes", "trained", "stored", "outputs"), NETWORKS)
def test_parameters_and_shapes(name: str, classes: int, trained: int, stored: int, outputs: list) -> None:
    assert name in cf.models.list_models("detection")
    assert entry(name).input_size == (416, 416, 3)
    model = cf.models.create_model(name, num_classes=classes)
    assert isinstance(model, Darknet)
    assert sum(p.size for p in model.parameters()) == trained
    assert sum(part.count for part in model.convolutions()) == stored
    graph = trace(model, (1, 416, 416, 3))
    assert [value.shape for value in graph.outputs] == [(1, n, n, c) for n, c in outputs]
    assert [head.channels for head in model.heads] == [c for _, c in outputs]
    assert {head.kind for head in model.heads} == {"region" if "v2" in name else "yolo"}


@pytest.mark.parametrize("name", ["yolov2_tiny", "yolov3_tiny"])
def test_small_pictures_from_end_to_end(backend: str, name: str, rng: np.random.Generator) -> None:
    model = cf.models.create_model(name, num_classes=3).eval()
    x = rng.random((2, 32, 64, 3)).astype(np.float32)
    outputs = model(x)
    assert outputs[0].shape == (2, 1, 2, len(model.heads[0].anchors) * 8)
    found = detect(outputs, model.heads, (32, 64), score_threshold=0.0, max_detections=5)
    assert [len(d.scores) for d in found] == [5, 5]
    assert found[0].boxes.shape == (5, 4)
    assert found[0].classes.max() < 3


# --- real weights ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(assets: Path) -> Darknet:
    folder = assets / "models"
    model = darknet(folder / "yolov3-tiny.cfg", folder / "yolov3-tiny.weights")
    assert isinstance(model, Darknet)
    return model.eval()


@pytest.fixture(scope="module")
def expected(assets: Path) -> dict[str, np.ndarray]:
    with np.load(assets / "expected" / "yolov3_tiny.npz") as data:
        found = {name.removeprefix("yolov3-tiny_"): data[name] for name in data.files}
    found["input"] = np.ascontiguousarray(found["input"].transpose(0, 2, 3, 1))
    return found


def test_real_weights(backend: str, tiny: Darknet, expected: dict[str, np.ndarray]) -> None:
    outputs = tiny(expected["input"])
    for number, (output, head) in enumerate(zip(outputs, tiny.heads, strict=True)):
        boxes, objectness, probabilities = decode(output, head, 416, relative=True)
        corner, side = boxes[0, :, :2], boxes[0, :, 2:] - boxes[0, :, :2]
        scores = objectness[0, :, None] * probabilities[0]
        scores[scores <= 0.2] = 0  # the other runtime reports none of these
        got = np.concatenate([corner + side / 2, side, objectness[0, :, None], scores], 1)
        want = expected[f"out{number}"]
        assert np.linalg.norm(got - want) <= 1e-5 * np.linalg.norm(want)
    # The other runtime stretched the 768x576 picture to the square; it keeps the best class of each box.
    found = detect(outputs, tiny.heads, 416, score_threshold=0.3, iou_threshold=0.4)[0]
    boxes = found.boxes * np.array([768 / 416, 576 / 416] * 2, np.float32)
    for x, y, w, h, score, kind in expected["boxes"]:
        k = int(np.argmin(np.abs(boxes - [x, y, x + w, y + h]).max(1) + 1000 * (found.classes != kind)))
        assert np.abs(boxes[k] - [x, y, x + w, y + h]).max() <= 0.5
        assert abs(found.scores[k] - score) <= 1e-3
        assert found.classes[k] == kind


def test_the_registered_network_is_the_same(
    tiny: Darknet, assets: Path, expected: dict[str, np.ndarray]
) -> None:
    model = cf.models.yolov3_tiny().eval()
    load_darknet(model, assets / "models" / "yolov3-tiny.weights")
    assert model.heads == tiny.heads
    for a, b in zip(model(expected["input"]), tiny(expected["input"]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_photograph_through_a_letterbox(tiny: Darknet, assets: Path) -> None:
    names = (assets / "coco_classes.txt").read_text().split("\n")
    picture = load_picture(assets / "pictures" / "dog.jpg") / np.float32(255)
    frame, place = letterbox(picture, 416)
    found = detect(tiny(frame[None]), tiny.heads, 416, score_threshold=0.4)[0]
    boxes = place.undo(found.boxes)
    dog = boxes[[names[c] == "dog" for c in found.classes].index(True)]
    x1, y1, x2, y2 = dog
    # As seen in the picture, give or take what so small a network misses.
    assert x1 < 180 < 310 < x2 < 420
    assert 150 < y1 < 300
    assert 480 < y2 <= 576


# --- decoding --------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.0, 1.05])
@pytest.mark.parametrize("kind", ["yolo", "region"])
def test_decoding_place_by_place(kind: str, scale: float, rng: np.random.Generator) -> None:
    anchors = ((10.0, 14.0), (81.0, 82.0), (0.5, 2.0))
    head = Head(kind, anchors, 4, softmax=kind == "region", scale_xy=scale)
    t = rng.normal(size=(2, 3, 5, head.channels))
    boxes, objectness, probabilities = decode(t, head, (96, 160))
    relative = decode(t, head, [96, 160], relative=True)[0]
    np.testing.assert_allclose(relative * [160, 96, 160, 96], boxes, rtol=1e-12)

    def sigmoid(v):
        return 1 / (1 + np.exp(-v))

    k = 0
    for row in range(3):
        for column in range(5):
            for a, (pw, ph) in enumerate(anchors):
                x, y, w, h, o, *classes = t[1, row, column, 9 * a : 9 * a + 9]
                cx = (column + 0.5 + scale * (sigmoid(x) - 0.5)) / 5 * 160
                cy = (row + 0.5 + scale * (sigmoid(y) - 0.5)) / 3 * 96
                unit = 32 if kind == "region" else 1  # anchors in cells or in pixels
                bw, bh = pw * unit * np.exp(w), ph * unit * np.exp(h)
                corners = [cx - bw / 2, cy - bh / 2, cx + bw / 2, cy + bh / 2]
                np.testing.assert_allclose(boxes[1, k], corners, rtol=1e-10, atol=1e-9)
                assert objectness[1, k] == pytest.approx(sigmoid(o), rel=1e-12)
                p = (
                    np.exp(classes) / np.exp(classes).sum()
                    if kind == "region"
                    else sigmoid(np.array(classes))
                )
                np.testing.assert_allclose(probabilities[1, k], p, rtol=1e-10)
                k += 1


def test_detect_equals_filtering_everything(rng: np.random.Generator) -> None:
    heads = [Head("yolo", ((10.0, 14.0), (40.0, 30.0)), 3), Head("yolo", ((20.0, 20.0),), 3)]
    outputs = [
        rng.normal(size=(2, n, n, h.channels)).astype(np.float32) for n, h in zip((2, 4), heads, strict=True)
    ]
    found = detect(outputs, heads, 64, score_threshold=0.3, iou_threshold=0.5)
    for i, one in enumerate(found):
        boxes, scores = [], []
        for output, head in zip(outputs, heads, strict=True):
            b, o, p = decode(output, head, 64)
            boxes.append(np.repeat(b[i], 3, 0))
            scores.append((o[i][:, None] * p[i]).ravel())
        all_boxes, all_scores = np.concatenate(boxes), np.concatenate(scores)
        classes = np.tile(np.arange(3), len(all_scores) // 3)
        mask = all_scores > 0.3
        keep = cf.ops.batched_nms(all_boxes[mask], all_scores[mask], classes[mask], 0.5)
        np.testing.assert_array_equal(one.boxes, all_boxes[mask][keep])
        np.testing.assert_array_equal(one.scores, all_scores[mask][keep])
        np.testing.assert_array_equal(one.classes, classes[mask][keep])


@pytest.mark.parametrize("threshold", [0.0, 0.05, 0.5, 1.0])
@pytest.mark.parametrize(("softmax", "scale"), [(False, 1.0), (True, 1.0), (False, 1.05)])
@pytest.mark.parametrize("shapes", [[(1, 1)], [(7, 5)], [(2, 13), (4, 26), (3, 1)]])
def test_kernel_equals_definition(
    native: None, shapes: list, softmax: bool, scale: float, threshold: float, rng: np.random.Generator
) -> None:
    anchors = [[(10.0, 14.0), (81.0, 82.5), (0.5, 2.0)], [(3.0, 5.0)], []][: len(shapes)]
    outputs = []
    for shape, own in zip(shapes, anchors, strict=True):
        output = rng.normal(0, 3, (*shape, len(own) * 9)).astype(np.float32)
        strange = rng.choice([np.nan, np.inf, -np.inf], output.size // 40)
        output.ravel()[rng.integers(0, max(output.size, 1), len(strange))] = strange
        outputs.append(output)

    def found(values: list) -> tuple:
        return cf.ops.yolo_candidates(
            values, anchors, 4, (96, 160.5), score_threshold=threshold, softmax=softmax, scale_xy=scale,
            origin=(3.5, -2), picture=(50, 120) if threshold else None,
        )  # fmt: skip

    got = found(outputs)
    with cf.use_backend("numpy"):
        want = found(outputs)
    for one, other in zip(got, want, strict=True):
        assert one.dtype == other.dtype
        # Both round once, from float64.
        np.testing.assert_allclose(one, other, rtol=2**-23)
    np.testing.assert_array_equal(got[2], want[2])
    wide = found([output.astype(np.float64) for output in outputs])
    assert wide[0].dtype == wide[1].dtype == np.float64
    for one, other in zip(got, wide, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_candidates_above_the_threshold_alone(backend: str) -> None:
    output = np.zeros((2, 3, 2 * 6), np.float32)  # a score of .25 everywhere, which is not above .25
    assert len(cf.ops.yolo_candidates([output], [[(2, 2)] * 2], 1, 6)[1]) == 0
    output[1, 2, 6:] = [0, 0, np.log(3), 0, 20, 20]
    anchors = [[(9, 9), (2, 4)]]
    boxes, scores, classes = cf.ops.yolo_candidates([output], anchors, 1, (4, 6))
    np.testing.assert_allclose(boxes, [[2, 1, 8, 5]], rtol=1e-6)  # cells of 2 x 2, bw = 3 pw
    np.testing.assert_allclose(scores, [1])
    assert classes.tolist() == [0]
    moved = cf.ops.yolo_candidates([output], anchors, 1, (4, 6), origin=(1, 2))[0]
    np.testing.assert_allclose(moved, [[0, 0, 6, 4]], atol=1e-6)
    assert len(cf.ops.yolo_candidates([output[:0]], anchors, 1, 6)[1]) == 0


@pytest.mark.parametrize(
    ("shape", "arguments", "message"),
    [
        ((2, 2, 8), ([[(1, 1)]], 2, 6), "expected 7 channels"),
        ((2, 2), ([[(1, 1)]], 2, 6), "3 dimensions"),
        ((2, 2, 7), ([[(1, 1, 1)]], 2, 6), "an anchor must be two numbers"),
        ((2, 2, 7), ([], 2, 6), "anchors for each of 1 outputs"),
        ((2, 2, 5), ([[(1, 1)]], 0, 6), "classes"),
        ((2, 2, 7), ([[(1, 1)]], 2, 0), "size"),
    ],
)
def test_candidates_refuse(backend: str, shape: tuple, arguments: tuple, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        cf.ops.yolo_candidates([np.zeros(shape, np.float32)], *arguments)


def test_candidates_in_pixels_of_the_picture(backend: str, rng: np.random.Generator) -> None:
    """Heads of one kind at once, and one by one where they differ."""
    heads = [Head("yolo", ((10.0, 14.0),), 3), Head("region", ((1.0, 2.0),), 3)]
    outputs = [rng.normal(size=(1, n, n, 8)).astype(np.float32) for n in (2, 4)]
    _, place = letterbox(np.zeros((48, 128, 3), np.float32), 64)
    frame = candidates(outputs, heads, 64, 0.3)[0]
    picture = candidates(outputs, heads, 64, 0.3, place)[0]
    np.testing.assert_allclose(picture.boxes, place.undo(frame.boxes), rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(picture.scores, frame.scores)
    heads[1] = Head("region", ((1.0, 2.0),), 3, scale_xy=1.5)
    other = candidates(outputs, heads, 64, 0.3, place)[0]
    np.testing.assert_array_equal(other.scores, frame.scores)
    assert not np.array_equal(other.boxes, picture.boxes)


def test_strange_values_and_nothing_found() -> None:
    head = Head("yolo", ((10.0, 14.0),), 2)
    t = np.full((1, 2, 2, 7), -20, np.float32)
    assert [len(part) for part in detect([t], [head], 64)[0]] == [0, 0, 0]
    t[0, 0, 0] = [0, 0, 1e9, 1e9, 9, 9, -9]  # a box without bounds
    t[0, 0, 1] = np.nan
    t[0, 1, 1] = [np.nan, 0, 0, 0, 9, 9, -9]
    found = detect([t], [head], 64)[0]
    assert len(found.scores) == 1
    assert np.isinf(found.boxes).all()
    assert detect([t[:0]], [head], 64) == []


def test_outputs_that_do_not_fit() -> None:
    head = Head("yolo", ((10.0, 14.0),), 2)
    t = np.zeros((1, 2, 2, 7), np.float32)
    for outputs in ([], [t, t], [t[..., :6]], [t[0]]):
        with pytest.raises(ShapeError):
            detect(outputs, [head], 64)
    with pytest.raises(ShapeError, match="do not belong together"):
        detect([t, t[:0]], [head, head], 64)
    with pytest.raises(ShapeError, match="size"):
        detect([t], [head], 0)


# --- letterbox -------------------------------------------------------------------------------------


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("shape", [(576, 768), (768, 576), (10, 10), (1, 1000), (333, 77), (608, 608)])
def test_letterbox_and_back(backend: str, shape: tuple, centred: bool, rng: np.random.Generator) -> None:
    picture = rng.random((*shape, 3)).astype(np.float32) + 1
    frame, place = letterbox(picture, (416, 608), fill=0.25, centred=centred)
    assert frame.shape == (416, 608, 3)
    (h, w), (top, left) = place.inner, place.offset
    assert h == 416 or w == 608
    inside = np.zeros((416, 608), bool)
    inside[top : top + h, left : left + w] = True
    assert (frame[~inside] == 0.25).all()
    assert (frame[inside] >= 1).all()
    assert (top, left) == (((416 - h) // 2, (608 - w) // 2) if centred else (0, 0))
    corners = rng.random((50, 2, 2)).astype(np.float32) * np.array(shape[::-1], np.float32)
    boxes = np.concatenate([corners.min(1), corners.max(1)], 1)
    there = place.apply(boxes)
    assert (there >= [left - 1e-3, top - 1e-3] * 2).all()
    assert (there <= np.array([left + w, top + h] * 2) + 1e-3).all()
    np.testing.assert_allclose(place.undo(there), boxes, atol=1e-3)


def test_boxes_outside_are_cut() -> None:
    _, place = letterbox(np.zeros((50, 100, 3), np.float32), 200)
    box = np.array([[-10, 0, 300, 190]], np.float32)
    np.testing.assert_array_equal(place.undo(box), [[0, 0, 100, 50]])
    np.testing.assert_array_equal(place.undo(box, clip=False), [[-5, -25, 150, 70]])


def test_letterbox_refuses() -> None:
    with pytest.raises(ShapeError):
        letterbox(np.zeros((4, 4), np.float32), 8)
    with pytest.raises(ShapeError):
        letterbox(np.zeros((0, 4, 3), np.float32), 8)
    with pytest.raises(ShapeError):
        letterbox(np.zeros((4, 4, 3), np.float32), 0)
    with pytest.raises(cf.errors.DTypeError):
        letterbox(np.zeros((4, 4, 3), np.uint8), 8)
