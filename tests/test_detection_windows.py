"""Sliding windows, one by one and at once; heads for one object and for landmarks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cnnfast as cf
from cnnfast import losses, nn
from cnnfast.detection import LandmarkHead, LocalisationHead, SlidingWindows
from cnnfast.detection.windows import window_boxes
from cnnfast.errors import ShapeError

WINDOW = 14, 14, 3


def test_window_boxes() -> None:
    found = window_boxes((2, 3), (4, 5), (6, 7))
    np.testing.assert_array_equal(found[[0, 2, 3]], [[0, 0, 5, 4], [14, 0, 19, 4], [0, 6, 5, 10]])


@pytest.mark.parametrize(
    ("size", "grid"), [((14, 14), (1, 1)), ((16, 16), (2, 2)), ((28, 28), (8, 8)), ((15, 33), (1, 10))]
)
def test_both_forms_are_equal(
    size: tuple[int, int], grid: tuple[int, int], backend: str, rng: np.random.Generator
) -> None:
    model = cf.models.window_net(4, seed=2)
    picture = rng.random((*size, 3), np.float32)
    at_once, one_by_one = (SlidingWindows(model, WINDOW, convolutional=c) for c in (True, False))
    assert at_once.step == one_by_one.step == (2, 2)
    scores = at_once.scores(picture)
    assert scores.shape == (*grid, 4)
    np.testing.assert_allclose(one_by_one.scores(picture), scores, rtol=1e-4, atol=1e-5)
    for i in range(grid[0]):
        for j in range(grid[1]):
            alone = model(picture[None, 2 * i : 2 * i + 14, 2 * j : 2 * j + 14])[0]
            np.testing.assert_allclose(scores[i, j], alone, rtol=1e-4, atol=1e-5)


def test_windows_that_do_not_fill_their_strides(rng: np.random.Generator) -> None:
    """The network does not read the last row and column of such a window; they must be there all the same."""
    model = cf.models.window_net(2, seed=2)
    at_once, one_by_one = (SlidingWindows(model, (15, 15, 3), convolutional=c) for c in (True, False))
    assert at_once.step == (2, 2)
    picture = rng.random((20, 23, 3), np.float32)
    scores = at_once.scores(picture)
    assert scores.shape == (3, 5, 2)
    np.testing.assert_allclose(one_by_one.scores(picture), scores, rtol=1e-4, atol=1e-5)


def test_windows_that_are_cut_out_may_have_any_step(rng: np.random.Generator) -> None:
    model = cf.models.window_net(2, seed=2)
    detector = SlidingWindows(model, WINDOW, convolutional=False, step=(5, 3))
    assert detector.scores(rng.random((30, 20, 3), np.float32)).shape == (4, 3, 2)
    with pytest.raises(ShapeError, match="own step"):
        SlidingWindows(model, WINDOW, step=5)


class Bright(nn.Module):
    """Class 1 where all of a window of 8 x 8 is bright, class 2 where all of it is dark."""

    def __init__(self) -> None:
        self.pool = nn.AvgPool2d(8)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(1, 3, feature_map=(1, 1, 1))

    def forward(self, x: Any) -> Any:
        return self.fc(self.flatten(self.pool(x)))


@pytest.mark.parametrize("convolutional", [True, False])
def test_things_of_two_sizes_are_found(convolutional: bool) -> None:
    model = Bright().initialize(0)
    model.fc.weight.data = np.array([[0, 100, -100]], np.float32)
    model.fc.bias.data = np.array([0, -90, -90], np.float32)
    picture = np.full((48, 48, 1), 0.0, np.float32)
    picture[8:16, 24:32] = 1
    picture[32:48, 0:16] = 1
    options: dict[str, Any] = {"convolutional": convolutional, "step": None if convolutional else 8}
    detector = SlidingWindows(model, (8, 8, 1), scales=(1.0, 0.5), **options)
    found = detector(picture)
    assert set(found.classes) == {1}
    large = found.boxes[(found.boxes[:, 2] - found.boxes[:, 0]) == 16]
    np.testing.assert_array_equal(large, [[0, 32, 16, 48]])
    small = [box for box in found.boxes.tolist() if box == [24, 8, 32, 16]]
    assert len(small) == 1


def test_a_picture_smaller_than_a_window() -> None:
    detector = SlidingWindows(cf.models.window_net(4), WINDOW)
    assert detector.scores(np.zeros((10, 40, 3), np.float32)).shape == (0, 14, 4)
    assert len(detector(np.zeros((10, 10, 3), np.float32)).boxes) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window": (14, 14)}, "rows, columns and channels"),
        ({"scales": ()}, "scales"),
        ({"scales": (0.5, 0)}, "scales"),
        ({"model": nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.GlobalAvgPool2d(), nn.Flatten())}, "pads"),
    ],
)
def test_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        SlidingWindows(**{"model": cf.models.window_net(4), "window": WINDOW, **arguments})


# --- heads ------------------------------------------------------------------------------------------


def test_numbers_of_values() -> None:
    assert LocalisationHead(10, 3).out_features == 8
    assert LandmarkHead(10, 64).out_features == 129
    for head in (lambda: LocalisationHead(10, -1), lambda: LandmarkHead(10, 0)):
        with pytest.raises(ShapeError):
            head()


def test_localisation_there_and_back(rng: np.random.Generator) -> None:
    corners = np.sort(rng.random((5, 2, 2)), 1)
    boxes, labels = corners.reshape(5, 4), np.array([0, 2, -1, 1, 2])
    y = LocalisationHead.encode(boxes, labels, 3)
    assert y.shape == (5, 8)
    assert not y[2].any()
    w, h = boxes[0, 2] - boxes[0, 0], boxes[0, 3] - boxes[0, 1]
    np.testing.assert_allclose(y[0, 3:5], [h, w], rtol=1e-6)  # height comes first
    back = LocalisationHead.decode(y, mixed=False)
    there = labels >= 0
    np.testing.assert_array_equal(back.there, there)
    np.testing.assert_allclose(back.boxes[there], boxes[there], atol=1e-6)
    np.testing.assert_array_equal(back.classes[there].argmax(1), labels[there])
    mixed = LocalisationHead.decode(np.concatenate([4 * y[:, :1] - 2, y[:, 1:5], 9 * y[:, 5:]], 1))
    assert ((mixed.there > 0.5) == there).all()
    np.testing.assert_allclose(mixed.classes.sum(1), 1, rtol=1e-6)
    with pytest.raises(ShapeError, match="from -1 to 2"):
        LocalisationHead.encode(boxes, labels + 1, 3)


@pytest.mark.parametrize("mixed", [False, True])
def test_a_head_learns_where_a_square_is(mixed: bool, rng: np.random.Generator) -> None:
    pictures, boxes = np.zeros((64, 12, 12, 1), np.float32), np.zeros((64, 4))
    labels = np.where(np.arange(64) % 4 == 3, -1, 0)
    for i in np.flatnonzero(labels >= 0):
        (y, x), side = rng.integers(0, 7, 2), int(rng.integers(3, 6))
        pictures[i, y : y + side, x : x + side] = 1
        boxes[i] = np.array([x, y, x + side, y + side]) / 12
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(144, 48, feature_map=(12, 12, 1)), nn.ReLU(), LocalisationHead(48, 1)
    ).initialize(1)
    target = LocalisationHead.encode(boxes, labels, 1)
    loss = losses.localisation_mixed if mixed else losses.localisation
    optimizer = cf.optim.Adam(model.parameters(), 5e-3)
    for _ in range(250):
        optimizer.zero_grad()
        loss(model(cf.Tensor(pictures)), target).backward()
        optimizer.step()
    found = LocalisationHead.decode(model(pictures), mixed=mixed)
    np.testing.assert_array_equal(found.there > 0.5, labels >= 0)
    there = labels >= 0
    overlap = np.diag(cf.ops.box_iou(found.boxes[there].astype(np.float64), boxes[there]))
    assert overlap.mean() > 0.8


def test_landmarks_learn(rng: np.random.Generator) -> None:
    x = rng.random((40, 6), np.float32)
    points = (x @ rng.random((6, 4), np.float32) / 3).reshape(40, 2, 2)
    there = (x[:, 0] > 0.4).astype(np.float32)
    target = np.concatenate([there[:, None], points.reshape(40, 4)], 1)
    head = LandmarkHead(6, 2).initialize(1)
    optimizer = cf.optim.Adam(head.parameters(), 3e-2)
    for _ in range(400):
        optimizer.zero_grad()
        losses.landmarks(head(cf.Tensor(x)), target).backward()
        optimizer.step()
    found = LandmarkHead.decode(head(x))
    assert found.points.shape == (40, 2, 2)
    np.testing.assert_array_equal(found.there > 0.5, there == 1)
    np.testing.assert_allclose(found.points[there == 1], points[there == 1], atol=0.02)
    with pytest.raises(ShapeError):
        LandmarkHead.decode(np.zeros((2, 4), np.float32))
