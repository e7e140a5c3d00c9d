"""Transforms: boxes, masks and landmarks go where the pixels went; colours as the papers say."""

from __future__ import annotations

import colorsys
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cnnfast import data
from cnnfast.errors import CnnfastError, DTypeError, ShapeError

BOX = (12.0, 8.0, 31.0, 22.0)


def marked(h: int = 48, w: int = 56, box: tuple[float, ...] = BOX) -> data.Sample:
    """A white box on black, with its mask and its corners as landmarks."""
    picture = np.zeros((h, w, 3), np.float32)
    x1, y1, x2, y2 = map(int, box)
    picture[y1:y2, x1:x2] = 255
    corners = [[x1, y1], [x2, y1], [x2, y2], [x1, y2], [(x1 + x2) / 2, (y1 + y2) / 2]]
    mask = (picture[..., 0] > 0) * 7
    return data.Sample(picture, 3, [box], [5], [True], mask, corners, "marked")


def found_box(picture: np.ndarray) -> list[float]:
    """The smallest box around what is bright."""
    rows, columns = np.nonzero(picture[..., 0] > 127)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def check_agreement(sample: data.Sample, tolerance: float) -> None:
    np.testing.assert_allclose(sample.boxes[0], found_box(sample.picture), atol=tolerance)
    bright = sample.picture[..., 0] > 127
    assert (bright != (sample.mask == 7)).mean() < 0.01
    rows, columns = np.nonzero(bright)
    middle = columns.mean() + 0.5, rows.mean() + 0.5
    np.testing.assert_allclose(sample.landmarks[4], middle, atol=tolerance)


def with_parts(rng: np.random.Generator) -> data.Sample:
    picture = rng.random((17, 23, 3), np.float32) * 255
    boxes = (rng.random((4, 2, 2), np.float32) * (23, 17)).astype(np.float32)
    boxes = np.concatenate([boxes.min(1), boxes.max(1)], 1)
    points = rng.random((6, 2), np.float32) * 17
    return data.Sample(picture, 1, boxes, range(4), None, rng.integers(0, 9, (17, 23)), points)


def same(a: data.Sample, b: data.Sample) -> bool:
    names = ("picture", "boxes", "classes", "difficult", "mask", "landmarks")
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in names)


# --- mirror, crop, pad, resize ----------------------------------------------------------------------


@pytest.mark.parametrize("vertical", [False, True])
def test_mirrored_twice_is_the_identity(vertical: bool, rng: np.random.Generator) -> None:
    for _ in range(20):
        sample = with_parts(rng)
        once = data.mirror(sample, vertical=vertical)
        assert not np.array_equal(once.picture, sample.picture)
        assert same(data.mirror(once, vertical=vertical), sample)


def test_four_quarter_turns_are_the_identity(rng: np.random.Generator) -> None:
    for sample in (marked(), with_parts(rng)):
        once = data.turn(sample, 1)
        assert same(data.turn(once, 3), sample)
        assert same(data.turn(data.turn(once, 1), 2), sample)
        assert same(data.turn(sample, 0), sample)
        assert same(data.turn(sample, -3), once)


def test_turn_moves_everything() -> None:
    for quarters in range(4):
        check_agreement(data.turn(marked(), quarters), 0)
    assert data.turn(marked(), 1).size == marked().size[::-1]


def test_quarter_turns_are_drawn(rng: np.random.Generator) -> None:
    corners = {tuple(np.argwhere(data.QuarterTurn()(marked(), rng).picture.sum(2))[0]) for _ in range(40)}
    assert len(corners) == 4


def test_mirror_moves_everything() -> None:
    check_agreement(data.mirror(marked()), 0)
    check_agreement(data.mirror(marked(), vertical=True), 0)
    sample = data.mirror(marked(), swap=[(0, 1)])
    assert sample.landmarks[0].tolist() == [56 - 31, 8]
    assert sample.landmarks[1].tolist() == [56 - 12, 8]
    always, never = data.Mirror(1.0), data.Mirror(0.0)
    rng = np.random.default_rng(0)
    assert same(always(marked(), rng), data.mirror(marked()))
    assert same(never(marked(), rng), marked())
    turned = sum(data.Mirror()(marked(), rng).boxes[0, 0] != 12 for _ in range(400))
    assert 150 < turned < 250


def test_crop_cuts_boxes_and_drops_what_is_gone() -> None:
    sample = marked().with_(
        boxes=[BOX, (0, 0, 5, 5), (30, 10, 50, 20), (11, 8, 11, 9)], classes=range(4), difficult=None
    )
    cut = data.crop(sample, 4, 10, 30, 25)
    assert cut.boxes.tolist() == [[2, 4, 21, 18], [20, 6, 25, 16]]
    assert cut.classes.tolist() == [0, 2]
    assert cut.landmarks[0].tolist() == [2, 4]
    assert cut.mask.shape == (30, 25)
    assert found_box(cut.picture) == [2, 4, 21, 18]
    # Five of twenty columns of the second box are left.
    assert data.crop(sample, 4, 10, 30, 25, min_visibility=0.25).classes.tolist() == [0, 2]
    assert data.crop(sample, 4, 10, 30, 25, min_visibility=0.26).classes.tolist() == [0]


@pytest.mark.parametrize(
    "place", [(-5, -7, 60, 70), (-5, 3, 20, 100), (40, 50, 20, 20), (-90, -90, 20, 20), (60, 70, 9, 9)]
)
def test_windows_beyond_the_picture(place: tuple[int, int, int, int]) -> None:
    sample = marked()
    top, left, height, width = place
    out = data.crop(sample, top, left, height, width, fill=9, mask_fill=255)
    whole = np.pad(sample.picture, ((100, 100), (100, 100), (0, 0)), constant_values=9)
    mask = np.pad(sample.mask, 100, constant_values=255)
    window = slice(100 + top, 100 + top + height), slice(100 + left, 100 + left + width)
    assert np.array_equal(out.picture, whole[window])
    assert np.array_equal(out.mask, mask[window])


def test_pad(rng: np.random.Generator) -> None:
    sample = data.Pad((1, 2, 3, 4), fill=(1, 2, 3))(marked(), rng)
    assert sample.size == (48 + 6, 56 + 4)
    assert sample.picture[0, 0].tolist() == [1, 2, 3]
    check_agreement(sample, 0)


@pytest.mark.parametrize("size", [(48, 56), (96, 112), (31, 90), (24, 28)])
def test_resize(size: tuple[int, int], rng: np.random.Generator) -> None:
    sample = data.Resize(size)(marked(), rng)
    assert sample.size == size
    check_agreement(sample, 1)
    assert data.Resize(24)(marked(), rng).size == (24, 28)
    assert data.Resize(100)(data.mirror(marked(57, 48)), rng).size == (118, 100)


def test_random_crops(rng: np.random.Generator) -> None:
    places = set()
    for _ in range(60):
        sample = data.RandomCrop(40, padding=3)(marked(), rng)
        assert sample.size == (40, 40)
        if len(sample.boxes):
            places.add(tuple(sample.boxes[0]))
            assert sample.boxes[0].tolist() == found_box(sample.picture)
    assert len(places) > 20
    large = data.RandomCrop((80, 70))(marked(), rng)
    assert large.size == (80, 70)
    check_agreement(large, 0)
    assert data.CenterCrop((20, 30))(marked(), rng).boxes.tolist() == [[0, 0, 18, 8]]
    assert data.CenterCrop(60)(marked(), rng).boxes.tolist() == [[14, 14, 33, 28]]


def test_random_resized_crop(rng: np.random.Generator) -> None:
    transform = data.RandomResizedCrop((64, 60), scale=(0.3, 1), min_visibility=0.5)
    seen = 0
    for _ in range(60):
        sample = transform(marked(), rng)
        assert sample.size == (64, 60)
        if len(sample.boxes):
            seen += 1
            np.testing.assert_allclose(sample.boxes[0], found_box(sample.picture), atol=1.5)
    assert seen > 20
    narrow = data.Sample(np.zeros((2, 300, 3), np.float32))
    assert transform(narrow, rng).size == (64, 60)
    areas = [np.prod(transform._window((100, 100), rng)[2:]) / 1e4 for _ in range(500)]
    assert 0.28 < min(areas) < 0.35
    assert 0.9 < max(areas) <= 1


# --- warps ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("degrees", [-90, -33, 0, 10, 45, 90, 180])
def test_rotation(degrees: float) -> None:
    matrix = data.affine_matrix((28, 24), degrees=degrees)
    sample = data.affine(marked(), matrix)
    check_agreement(sample, 1e-6 if degrees % 90 == 0 else 1)


def test_rotation_is_counter_clockwise() -> None:
    picture = np.arange(9, dtype=np.float32).reshape(3, 3, 1)
    turned = data.affine(data.Sample(picture), data.affine_matrix((1.5, 1.5), degrees=90))
    np.testing.assert_allclose(turned.picture[..., 0], np.rot90(picture[..., 0]), atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"shear": (20, 0)},
        {"shear": (0, -15)},
        {"shear": (12, 10), "degrees": 20},
        {"scale": 1.4},
        {"scale": 0.6, "degrees": -7},
        {"translate": (3.5, -2)},
    ],
)
def test_affine_maps(settings: dict[str, Any]) -> None:
    check_agreement(data.affine(marked(), data.affine_matrix((24, 20), **settings)), 1.01)


def test_affine_interpolates_bilinearly_and_fills() -> None:
    picture = np.arange(12, dtype=np.float32).reshape(3, 4, 1)
    half = data.affine(data.Sample(picture), [[1, 0, 0.5], [0, 1, 0]], fill=100)
    expected = np.concatenate([(picture[:, :1] + 100) / 2, (picture[:, 1:] + picture[:, :-1]) / 2], 1)
    np.testing.assert_allclose(half.picture, expected, rtol=1e-6)
    same_size = data.affine(data.Sample(picture), np.eye(2, 3))
    assert np.array_equal(same_size.picture, picture)
    away = data.affine(data.Sample(picture), [[1, 0, 50], [0, 1, 0]], fill=3, size=(2, 2))
    assert (away.picture == 3).all()
    for matrix in ([[1, 1, 0], [1, 1, 0]], [[1, 0], [0, 1]], [[np.nan, 0, 0], [0, 1, 0]]):
        with pytest.raises(ValueError, match="affine: expected a finite matrix"):
            data.affine(data.Sample(picture), matrix)


def test_boxes_that_are_turned_out_of_the_picture() -> None:
    matrix = [[1, 0, -25], [0, 1, 0]]
    assert data.affine(marked(), matrix).boxes.tolist() == [[0, 8, 6, 22]]
    assert len(data.affine(marked(), matrix, min_visibility=0.5).boxes) == 0
    assert len(data.affine(marked(), [[1, 0, -40], [0, 1, 0]]).boxes) == 0


def test_unmarked_landmarks_stay_unmarked(rng: np.random.Generator) -> None:
    points = [[np.nan, np.nan], [5, 6]]
    sample = data.Sample(np.zeros((20, 20, 1), np.float32), landmarks=points)
    for transform in (data.LocalWarp(), data.RandomRotation(20), data.Mirror(1)):
        moved = transform(sample, rng).landmarks
        assert np.isnan(moved[0]).all()
        assert np.isfinite(moved[1]).all()


def coordinates(rng: np.random.Generator, h: int = 60, w: int = 70) -> data.Sample:
    """A picture whose values are its own coordinates, with landmarks and boxes anywhere in it."""
    x, y = np.meshgrid(np.arange(w) + 0.5, np.arange(h) + 0.5)
    points = rng.uniform(5, (w - 5, h - 5), (30, 2))
    boxes = np.concatenate([points[:10], points[:10] + rng.uniform(3, 20, (10, 2))], 1)
    picture = np.stack([x, y, x], 2).astype(np.float32)
    return data.Sample(picture, boxes=np.minimum(boxes, [w, h, w, h]), classes=range(10), landmarks=points)


WARPS = [
    data.LocalWarp(alpha=20, sigma=6),
    data.LocalWarp(alpha=60, sigma=6),
    data.LocalWarp(alpha=34, sigma=4),
    data.RandomRotation(180),
    data.RandomAffine((-40, 40), (0.8, 1.5), (-10, 10), (-10, 10), (0.1, 0.1)),
]


@pytest.mark.parametrize("transform", WARPS, ids=repr)
def test_landmarks_and_boxes_go_where_the_pixels_went(transform: Any, rng: np.random.Generator) -> None:
    compared = 0
    for _ in range(5):
        sample = coordinates(rng)
        moved = replace(transform, fill=-1e5)(sample, rng)  # shows in every pixel it is blended into
        h, w = moved.size
        for before, after in zip(sample.landmarks, moved.landmarks, strict=True):
            if (after > 2).all() and (after < (w - 2, h - 2)).all():
                column, row = np.floor(after - 0.5).astype(int)
                part = moved.picture[row : row + 2, column : column + 2, :2].astype(np.float64)
                x, y = after - 0.5 - (column, row)
                value = np.einsum("i,j,ijc", [1 - y, y], [1 - x, x], part)
                if part.min() > 0:  # not at the edge of what was in the picture
                    np.testing.assert_allclose(value, before, atol=0.02)
                    compared += 1
        # Pixels that come from within a box lie within the box that it became, and reach its sides.
        inside = moved.picture.min(2) > 0
        for number, box in zip(moved.classes, moved.boxes, strict=True):
            x1, y1, x2, y2 = sample.boxes[number]
            x, y = moved.picture[..., 0], moved.picture[..., 1]
            rows, columns = np.nonzero(inside & (x > x1) & (x < x2) & (y > y1) & (y < y2))
            reached = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            whole = box[0] > 2 and box[1] > 2 and box[2] < w - 2 and box[3] < h - 2
            assert (np.subtract(reached, box)[:2] > -0.6).all()
            assert (np.subtract(reached, box)[2:] < 0.6).all()
            if whole and x1 > 1 and y1 > 1 and x2 < w - 1 and y2 < h - 1:
                np.testing.assert_allclose(reached, box, atol=1.6)
    assert compared > 40


def test_local_warp_that_folds(rng: np.random.Generator) -> None:
    sample = data.LocalWarp(alpha=300, sigma=3)(marked(), rng)
    assert np.isfinite(sample.landmarks).all()


def test_field_of_the_local_warp(rng: np.random.Generator) -> None:
    """Smoothed noise of [-1, 1]: mean 0, deviation alpha / (sqrt(3) 2 sqrt(pi) sigma), smooth."""
    transform = data.LocalWarp(alpha=34, sigma=4)
    field = transform.field((300, 400), rng)
    assert field.shape == (300, 400, 2)
    inner = field[20:-20, 20:-20]
    assert abs(inner.mean()) < 0.2
    assert inner.std() == pytest.approx(34 / (np.sqrt(3) * 2 * np.sqrt(np.pi) * 4), rel=0.1)
    neighbours = np.corrcoef(inner[:, 1:, 0].ravel(), inner[:, :-1, 0].ravel())[0, 1]
    assert neighbours == pytest.approx(np.exp(-1 / (4 * 4**2)), abs=0.01)
    assert abs(np.corrcoef(inner[..., 0].ravel(), inner[..., 1].ravel())[0, 1]) < 0.1


def test_random_rotation_and_shear(rng: np.random.Generator) -> None:
    for transform in (data.RandomRotation(25), data.RandomShear(20, (-5, 5)), data.RandomRotation((5, 6))):
        for _ in range(5):
            check_agreement(transform(marked(), rng), 1.01)


# --- colours ----------------------------------------------------------------------------------------


def test_pca_noise_lies_on_the_eigenvectors(rng: np.random.Generator) -> None:
    pictures = [
        rng.normal(120, 30, (8, 9, 3)) @ [[1, 0.5, 0.2], [0, 0.4, 0.6], [0, 0, 0.2]] for _ in range(50)
    ]
    transform = data.PCAColour.fit([p.astype(np.float32) for p in pictures])
    vectors, values = np.array(transform.vectors), np.array(transform.values)
    pixels = np.concatenate([p.reshape(-1, 3) for p in pictures]) / 255
    covariance = np.cov(pixels.T, bias=True)
    np.testing.assert_allclose(covariance @ vectors, vectors * values, atol=1e-6)
    assert (np.diff(values) <= 0).all()
    sample = data.Sample(np.full((4, 5, 3), 100, np.float32))
    noise = np.array([transform(sample, rng).picture - sample.picture for _ in range(3000)], np.float64)
    assert np.ptp(noise, axis=(1, 2)).max() == 0  # one draw for the whole picture
    along = noise[:, 0, 0] @ vectors / 255  # a_i l_i, independent of each other
    np.testing.assert_allclose(along.std(0), 0.1 * values, rtol=0.06)
    correlation = np.corrcoef(along.T) - np.eye(3)
    assert np.abs(correlation).max() < 0.08


def test_pca_noise_of_one_component(rng: np.random.Generator) -> None:
    axis = np.array([2, 1, 2]) / 3
    vectors = np.stack([axis, [1, 0, -1] / np.sqrt(2), np.cross(axis, [1, 0, -1]) / np.sqrt(2)], 1)
    transform = data.PCAColour(values=(1, 0, 0), vectors=vectors.tolist())
    sample = data.Sample(np.zeros((1, 1, 3), np.float32))
    for _ in range(10):
        drawn = transform(sample, rng).picture[0, 0]
        np.testing.assert_allclose(np.cross(drawn, axis), 0, atol=1e-4)


def test_imagenet_components_are_orthonormal() -> None:
    vectors = np.array(data.PCAColour().vectors)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), atol=2e-3)


def test_hue_against_the_standard_library(rng: np.random.Generator) -> None:
    from cnnfast.data.transforms_colour import _turn_hue

    picture = rng.integers(0, 256, (5, 6, 3)).astype(np.float32)
    picture[0, 0], picture[0, 1], picture[0, 2] = 0, 255, (7, 7, 9)
    for turn in (-0.5, -0.2, 0, 0.1, 0.45):
        turned = _turn_hue(picture, turn)
        for old, new in zip(picture.reshape(-1, 3), turned.reshape(-1, 3), strict=True):
            h, s, v = colorsys.rgb_to_hsv(*(old / 255).tolist())
            np.testing.assert_allclose(new / 255, colorsys.hsv_to_rgb((h + turn) % 1, s, v), atol=2e-6)


def test_colour_jitter(rng: np.random.Generator) -> None:
    sample = data.Sample(rng.integers(60, 120, (9, 9, 3), np.uint8))
    assert np.array_equal(data.ColourJitter()(sample, rng).picture, sample.picture)
    brighter = data.ColourJitter(brightness=0.4)(sample, rng).picture / sample.picture
    assert np.ptp(brighter) < 1e-5
    assert 0.6 <= brighter.mean() <= 1.4
    luma = np.array([0.299, 0.587, 0.114])
    saturated = data.ColourJitter(saturation=0.5)(sample, rng)
    np.testing.assert_allclose(saturated.picture @ luma, sample.picture @ luma, atol=1e-3)
    contrast = data.ColourJitter(contrast=0.3)(sample, rng)
    np.testing.assert_allclose((contrast.picture @ luma).mean(), (sample.picture @ luma).mean(), atol=1e-2)
    wild = data.ColourJitter(3, 3, 3, 0.5)(sample, rng).picture
    assert 0 <= wild.min() <= wild.max() <= 255


def test_colour_shift(rng: np.random.Generator) -> None:
    sample = data.Sample(np.full((2, 3, 3), 100, np.uint8))
    shifts = np.array([data.ColourShift((20, 0, 5))(sample, rng).picture[0, 0] - 100 for _ in range(200)])
    assert 15 < np.abs(shifts[:, 0]).max() <= 20
    assert (shifts[:, 1] == 0).all()
    assert 4 < np.abs(shifts[:, 2]).max() <= 5
    assert data.ColourShift(255)(sample, rng).picture.max() <= 255


def test_normalize_is_what_preprocess_does(rng: np.random.Generator) -> None:
    picture = rng.integers(0, 256, (4, 5, 3), np.uint8)
    done = data.Normalize()(data.Sample(picture), rng).picture
    assert np.array_equal(done[None], data.Preprocess(None, None)(picture))
    assert data.Normalize((0.5,), (0.5,))(data.Sample(picture[..., :1]), rng).picture.max() <= 1
    with pytest.raises(ShapeError, match="Normalize: expected a picture of 3 channels"):
        data.Normalize()(data.Sample(picture[..., :1]), rng)


# --- cutout, mixup ----------------------------------------------------------------------------------


def test_cutout(rng: np.random.Generator) -> None:
    sample = data.Sample(np.ones((20, 30, 3), np.float32))
    counts = []
    for _ in range(300):
        hidden = data.Cutout(8)(sample, rng).picture[..., 0] == 0
        rows, columns = np.nonzero(hidden)
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert height <= 8
        assert width <= 8
        assert hidden.sum() == height * width
        counts.append(hidden.sum())
    assert max(counts) == 64
    assert min(counts) < 40  # the middle may be at the edge
    assert (sample.picture == 1).all()
    full = data.Cutout(50, fill=(1, 2, 3))(sample, rng).picture
    assert (full == [1, 2, 3]).any(2).mean() > 0.2


def test_mixup(rng: np.random.Generator) -> None:
    pictures = rng.random((6, 4, 4, 1), np.float32)
    batch = data.Batch(pictures, np.array([0, 1, 2, 2, 1, 0]))
    shares = []
    for _ in range(50):
        mixed = data.Mixup(3, alpha=1.0)(batch, rng)
        np.testing.assert_allclose(mixed.labels.sum(1), 1, atol=1e-6)
        assert mixed.labels.shape == (6, 3)
        # The same blend explains pictures and labels.
        flat = np.concatenate([pictures.reshape(6, -1), np.eye(3, dtype=np.float32)[batch.labels]], 1)
        got = np.concatenate([mixed.pictures.reshape(6, -1), mixed.labels], 1)
        weights = np.linalg.lstsq(flat.T.astype(float), got.T.astype(float), rcond=None)[0]
        np.testing.assert_allclose(weights.T @ flat, got, atol=1e-5)
        shares.append(weights.max())
    assert np.ptp(shares) > 0.2
    with pytest.raises(DTypeError, match="Mixup: expected labels"):
        data.Mixup(3)(mixed, rng)
    with pytest.raises(ShapeError, match="labels below 2, got 0 to 2"):
        data.Mixup(2)(batch, rng)
    with pytest.raises(ShapeError, match="got boxes, masks or landmarks"):
        data.Mixup(3)(data.Batch(pictures, batch.labels, boxes=[]), rng)


# --- all --------------------------------------------------------------------------------------------

ALL = [
    data.Mirror(),
    data.Pad(3),
    data.CenterCrop(40),
    data.RandomCrop(40, padding=4),
    data.Resize(33),
    data.RandomResizedCrop(40),
    data.RandomRotation(30),
    data.RandomShear(10, 10),
    data.RandomAffine((-9, 9), (0.8, 1.2), (-5, 5), (-5, 5), (0.1, 0.1)),
    data.LocalWarp(),
    data.ColourShift(),
    data.ColourJitter(0.4, 0.4, 0.4, 0.1),
    data.PCAColour(),
    data.Normalize(),
    data.Cutout(9, holes=2),
]


@pytest.mark.parametrize("transform", ALL, ids=lambda t: type(t).__name__)
def test_every_transform_is_repeatable_and_leaves_its_input_alone(transform: data.Transform) -> None:
    sample, before = marked(), marked()
    for part in (sample.picture, sample.boxes, sample.classes, sample.mask, sample.landmarks):
        part.setflags(write=False)
    first = transform(sample, np.random.default_rng(3))
    again = pickle.loads(pickle.dumps(transform))(sample, np.random.default_rng(3))
    assert same(first, again)
    assert same(sample, before)
    assert first.picture.dtype == np.float32
    assert (first.label, first.name) == (3, "marked")
    bare = data.Sample(marked().picture)
    assert np.array_equal(transform(bare, np.random.default_rng(3)).picture, first.picture)


def test_chains(rng: np.random.Generator) -> None:
    chain = data.Compose([data.Mirror(), data.RandomApply(data.RandomRotation(20), 0.5), data.RandomCrop(32)])
    first = chain(marked(), np.random.default_rng(1))
    assert same(first, chain(marked(), np.random.default_rng(1)))
    with pytest.raises(DTypeError, match=r"expected a Sample from .*, got NoneType"):
        data.Compose([lambda sample, rng: None])(marked(), rng)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: data.Mirror(1.5), r"Mirror: expected a probability in \[0, 1\], got 1.5"),
        (lambda: data.RandomCrop(0), "RandomCrop: expected a side or"),
        (lambda: data.RandomCrop((3, 4, 5)), "RandomCrop: expected a side or"),  # type: ignore[arg-type]
        (lambda: data.RandomCrop(3, padding=-1), "expected padding"),
        (lambda: data.Pad((1, 2)), "Pad: expected padding"),  # type: ignore[arg-type]
        (lambda: data.RandomResizedCrop(3, scale=(0.5, 1.5)), "scale of at most 1"),
        (lambda: data.RandomResizedCrop(3, ratio=(0, 1)), "ratio above 0"),
        (lambda: data.RandomAffine(scale=(2, 1)), r"expected scale \(low, high\) from 0"),
        (lambda: data.RandomShear(60, 60), "shears that leave the picture an area"),
        (lambda: data.LocalWarp(sigma=0), "LocalWarp: expected sigma from 0.01 to 1000, got 0"),
        (lambda: data.ColourJitter(hue=0.7), "expected hue from 0 to 0.5, got 0.7"),
        (lambda: data.ColourShift(-1), "expected amounts from 0"),
        (lambda: data.PCAColour(values=(1, 2)), "3 eigenvalues"),
        (lambda: data.Normalize((0,), (0,)), "std not 0"),
        (lambda: data.Cutout(3, holes=0), "holes from 1"),
        (lambda: data.Mixup(0), "number of classes"),
        (lambda: data.Mixup(3, 0), "alpha above 0"),
        (lambda: data.PCAColour.fit([]), "at least one picture"),
    ],
)
def test_parameters_are_checked(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_grey_pictures_have_no_colours(rng: np.random.Generator) -> None:
    grey = data.Sample(np.zeros((3, 3, 1), np.float32))
    for transform in (data.PCAColour(), data.ColourJitter(0.1)):
        with pytest.raises(CnnfastError, match=r"expected a picture \(H,W,3\), got \(3, 3, 1\)"):
            transform(grey, rng)
