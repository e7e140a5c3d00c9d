"""Average precision: by hand, and beside pycocotools."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest

from cnnfast.detection import Objects, coco_summary, voc_precision
from cnnfast.errors import ShapeError
from cnnfast.models.yolo import Detections

BOX = [0.0, 0.0, 10.0, 10.0]
FAR = [50.0, 50.0, 60.0, 60.0]


def found(*rows: tuple[list[float], float, int]) -> Detections:
    return Detections(
        np.array([r[0] for r in rows], np.float64).reshape(-1, 4),
        np.array([r[1] for r in rows], np.float64),
        np.array([r[2] for r in rows], np.int64),
    )


# --- Pascal VOC, by hand ----------------------------------------------------------------------------


def test_voc_by_hand() -> None:
    # Right, wrong (found before), right: precision 1, 1/2, 2/3 at recall 1/3, 1/3, 2/3 of three objects.
    guess = [found((BOX, 0.9, 0), (BOX, 0.8, 0), (FAR, 0.7, 0))]
    truth = [Objects([BOX, FAR, [80.0, 80.0, 90.0, 90.0]], [0, 0, 0])]
    result = voc_precision(guess, truth, 2, names=("cell", "other"))
    np.testing.assert_allclose(result.values, [1 / 3 + 2 / 9, np.nan])
    assert result.mean == pytest.approx(5 / 9)
    np.testing.assert_array_equal(result.objects, [3, 0])
    np.testing.assert_allclose(result.curves[0][1], [1, 1 / 2, 2 / 3])
    assert "cell" in str(result)
    assert "0.5556" in str(result)
    # Recalls 0, .1, .2, .3 have precision 1; .4, .5, .6 have 2/3; beyond there is nothing.
    eleven = voc_precision(guess, truth, 1, eleven_points=True)
    assert eleven.mean == pytest.approx((4 + 3 * 2 / 3) / 11)


def test_voc_difficult_objects_count_for_nothing() -> None:
    guess = [found((FAR, 0.9, 0), (FAR, 0.85, 0), (BOX, 0.8, 0))]
    truth = [Objects([BOX, FAR], [0, 0], [False, True])]
    result = voc_precision(guess, truth, 1)
    assert result.mean == 1
    assert result.objects[0] == 1


def test_voc_threshold_is_reached_by_equality() -> None:
    half = [0.0, 0.0, 10.0, 5.0]
    assert voc_precision([found((half, 0.5, 0))], [([BOX], [0])], 1).mean == 1
    assert voc_precision([found((half, 0.5, 0))], [([BOX], [0])], 1, iou_threshold=0.51).mean == 0


def test_voc_takes_the_best_object_even_if_it_is_taken() -> None:
    near = [0.0, 0.0, 10.0, 6.0]
    guess = [found((BOX, 0.9, 0), (BOX, 0.8, 0))]
    result = voc_precision(guess, [([BOX, near], [0, 0])], 1)
    np.testing.assert_allclose(result.curves[0][0], [0.5, 0.5])


def test_nothing_found_and_nothing_there() -> None:
    empty = found()
    assert voc_precision([empty], [([BOX], [0])], 1).mean == 0
    assert np.isnan(voc_precision([empty], [([], [])], 1).mean)
    assert np.isnan(voc_precision([found((BOX, 0.5, 0))], [([], [])], 1).mean)
    assert coco_summary([empty], [([BOX], [0])], 1).ap == 0
    assert coco_summary([empty], [([], [])], 1).ap == -1


@pytest.mark.parametrize(
    ("guess", "truth", "classes", "message"),
    [
        ([found()], [], 1, "as many pictures"),
        ([found()], [([], [])], 0, "at least one class"),
        ([found((BOX, 0.5, 1))], [([], [])], 1, "from 0 to 0"),
        ([found((BOX, np.nan, 0))], [([], [])], 1, "finite scores"),
        ([found()], [([BOX], [0, 0])], 1, "expected classes"),
        ([found()], [([BOX], [0], [True, False])], 1, "expected difficult"),
    ],
)
def test_refused(guess: Any, truth: Any, classes: int, message: str) -> None:
    for function in (voc_precision, coco_summary):
        with pytest.raises(ShapeError, match=message):
            function(guess, truth, classes)


# --- COCO -------------------------------------------------------------------------------------------


def scene(rng: np.random.Generator) -> tuple[list[Detections], list[Objects]]:
    """Pictures with objects of all sizes, crowds among them, and detections near them and elsewhere."""
    guesses, truths = [], []
    for _ in range(12):
        count = int(rng.integers(0, 9))
        corner, size = rng.uniform(0, 300, (count, 2)), np.exp(rng.uniform(2, 5.5, (count, 2)))
        boxes = np.round(np.concatenate([corner, corner + size], 1) * 4) / 4
        classes = rng.integers(0, 3, count)
        times = rng.integers(0, 3, count)
        near = np.repeat(boxes, times, 0)
        near += rng.normal(0, 0.08, near.shape) * np.repeat(np.tile(size, 2), times, 0)
        wild = rng.uniform(0, 300, (4, 2))
        wild = np.concatenate([wild, wild + rng.uniform(5, 150, (4, 2))], 1)
        labels = np.concatenate([np.repeat(classes, times), rng.integers(0, 3, 4)])
        every = np.concatenate([near, wild])
        every[:, 2:] = np.maximum(every[:, 2:], every[:, :2] + 1)
        scores = np.round(rng.random(len(every)), 2)  # some are equal
        guesses.append(Detections(every, scores, labels))
        truths.append(Objects(boxes, classes, rng.random(count) < 0.15))
    return guesses, truths


@pytest.mark.parametrize("seed", range(6))
def test_coco_beside_pycocotools(seed: int) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    rng = np.random.default_rng(seed)
    guesses, truths = scene(rng)
    if seed == 5:  # more than 100 detections of one class in a picture
        many = np.tile(truths[0].boxes[:1] if len(truths[0].boxes) else np.array([BOX]), (130, 1))
        many = many + np.arange(130)[:, None] / 16
        guesses[0] = Detections(many, np.linspace(0.9, 0.1, 130), np.zeros(130, np.int64))

    def xywh(box: np.ndarray) -> list[float]:
        return [*map(float, box[:2]), *map(float, box[2:] - box[:2])]

    annotations = [
        {"image_id": i, "category_id": int(k), "bbox": xywh(b), "area": b_area(b), "iscrowd": int(crowd)}
        for i, truth in enumerate(truths)
        for b, k, crowd in zip(truth.boxes, truth.classes, truth.difficult, strict=True)
    ]
    rows = [
        {"image_id": i, "category_id": int(k), "bbox": xywh(b), "score": float(s)}
        for i, guess in enumerate(guesses)
        for b, s, k in zip(*guess, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        held = coco.COCO()
        held.dataset = {
            "info": {},
            "images": [{"id": i} for i in range(len(truths))],
            "categories": [{"id": k} for k in range(3)],
            "annotations": [{"id": n + 1, **a} for n, a in enumerate(annotations)],
        }
        held.createIndex()
        run = cocoeval.COCOeval(held, held.loadRes(rows), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    own = coco_summary(guesses, truths, 3)
    numbers = [value for name, value in vars(own).items() if name != "per_class"]
    np.testing.assert_allclose(numbers, run.stats, rtol=0, atol=1e-12)
    best = run.eval["precision"][:, :, :, 0, -1]
    np.testing.assert_allclose(own.per_class, best.mean((0, 1)), rtol=0, atol=1e-12)


def b_area(box: np.ndarray) -> float:
    return float((box[2:] - box[:2]).prod())


def test_coco_by_hand() -> None:
    # IoU .6: right at thresholds .5, .55 and .6.
    own = coco_summary([found(([0.0, 0.0, 10.0, 6.0], 0.5, 0))], [([BOX], [0])], 1)
    assert own.ap == pytest.approx(0.3)
    assert (own.ap50, own.ap75, own.ap_small, own.ap_large) == (1, 0, own.ap, -1)
    assert "ap50" in str(own)
