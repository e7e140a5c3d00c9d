"""Weights that come with the package: small enough, described, and as good as their cards say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import cnnfast as cf
from cnnfast import data, face, train
from cnnfast.detection import Detector, evaluate
from cnnfast.models.registry import entry
from cnnfast.segmentation import Segmenter, class_dice, confusion_matrix, mean_iou

FOLDER = Path(cf.__file__).parent / "bundled"
BUNDLED = [
    (name, label)
    for name in cf.models.list_models()
    for label, known in entry(name).weights.items()
    if known.file
]


def test_sizes_and_cards() -> None:
    files = {entry(name).weights[label].file for name, label in BUNDLED}
    assert {path.name for path in FOLDER.glob("*.safetensors")} == files
    sizes = [(FOLDER / name).stat().st_size for name in files]
    assert max(sizes) <= 1_500_000
    assert sum(sizes) <= 4_000_000
    for name in files:
        assert (FOLDER / name).with_suffix(".md").exists()


def bundled(task: str) -> list[tuple[str, str]]:
    return [(name, label) for name, label in BUNDLED if entry(name).task == task]


def measured(name: str, label: str, assets: Path, count: int) -> float:
    """Share of the first test pictures that are recognised."""
    known = entry(name).weights[label]
    chain = data.Compose([data.Resize(known.input_size[0]), data.Normalize(known.mean, known.std)])
    pictures = data.MNIST(assets / "datasets" / known.classes.replace("_", "-"), train=False)
    held = data.DataLoader(data.Subset(pictures, range(count)), 500, transform=chain)
    return train.evaluate(cf.models.create_model(name, weights=label), held)["accuracy"]


@pytest.mark.parametrize(("name", "label"), bundled("classification"))
def test_accuracy_on_some(name: str, label: str, assets: Path) -> None:
    stated = entry(name).weights[label].accuracy["top1"] / 100
    # The standard deviation of a share of 500 pictures is 1.3 % at most.
    assert measured(name, label, assets, 500) == pytest.approx(stated, abs=0.04)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        pytest.param(name, label, marks=() if name == "lenet5" else pytest.mark.slow)
        for name, label in bundled("classification")
    ],
)
def test_accuracy(name: str, label: str, assets: Path) -> None:
    stated = entry(name).weights[label].accuracy["top1"] / 100
    assert measured(name, label, assets, 10_000) == pytest.approx(stated, abs=2e-4)


@pytest.mark.parametrize(("name", "label"), bundled("segmentation"))
def test_dice(name: str, label: str, assets: Path) -> None:
    known = entry(name).weights[label]
    folder = assets / "datasets" / known.classes
    cells = data.MaskFolder(folder / "images", folder / "labels", channels=1)
    segmenter = Segmenter.pretrained(name, label)
    matrices = []
    for i in range(len(cells) - 60, len(cells)):  # as the recipe splits them
        cell = cells[i]
        matrices.append(confusion_matrix(segmenter(cell.picture), cell.mask > 0, 2))
    dice = np.mean([class_dice(matrix)[1] for matrix in matrices])
    assert dice == pytest.approx(known.accuracy["dice"] / 100, abs=1e-4)
    assert mean_iou(sum(matrices)) == pytest.approx(known.accuracy["mean_iou"] / 100, abs=1e-4)


@pytest.mark.parametrize(("name", "label"), bundled("detection"))
def test_average_precision(name: str, label: str, assets: Path) -> None:
    known = entry(name).weights[label]
    held = data.VOC(
        assets / "datasets" / known.classes / known.classes.upper(),
        "test",
        classes=("RBC", "WBC", "Platelets"),
    )
    detector = Detector.pretrained(name, label, iou_threshold=0.5)
    assert [kind.lower() for kind in detector.names] == [kind.lower() for kind in held.classes]
    result = evaluate(detector, held)
    assert result.mean >= 0.85
    assert result.mean == pytest.approx(known.accuracy["map50"] / 100, abs=2e-4)


@pytest.mark.parametrize(("name", "label"), bundled("one-shot"))
def test_one_shot(name: str, label: str, assets: Path) -> None:
    """The twenty official runs: which of twenty characters, seen once, is it?"""
    known = entry(name).weights[label]
    runs = data.one_shot_runs(assets / "datasets" / known.classes / "all_runs.zip")
    assert [len(run.test) for run in runs] == [20] * 20
    for kind, shift in (("one-shot", 0), ("one-shot, nine shifts", 2)):
        encoder = face.load_encoder(name, label, shift=shift)
        right = []
        for run in runs:
            who = face.Recognizer(encoder, threshold=4)
            for i, drawing in enumerate(run.training.astype(np.uint8)):
                who.enrol(str(i), drawing)
            found = who.identify_encodings(encoder(list(run.test.astype(np.uint8))))
            right += [int(one.name or -1) == k for one, k in zip(found, run.answers, strict=True)]
        assert np.mean(right) >= 0.75
        assert np.mean(right) == pytest.approx(known.accuracy[kind] / 100, abs=0.003)  # one of 400
