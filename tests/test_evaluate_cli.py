"""``cnnfast evaluate`` for boxes, pixels and encodings; classes of pictures are in test_train_cli.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnnfast.cli import main
from cnnfast.models.registry import entry


def answer(capsys: pytest.CaptureFixture[str], *arguments: Any) -> Any:
    """What the command prints as JSON."""
    assert main(["evaluate", *map(str, arguments), "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def stated(name: str, label: str, number: str) -> float:
    return entry(name).weights[label].accuracy[number] / 100


def test_boxes(assets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Classes have other numbers in the folder than in the network."""
    folder = assets / "datasets" / "bccd" / "BCCD"
    found = answer(capsys, "--model", "yolov3_small", "--weights", "bccd", "--data", folder)
    assert (found["part"], found["pictures"]) == ("test", 72)
    assert found["map50"] == pytest.approx(stated("yolov3_small", "bccd", "map50"), abs=2e-4)
    kinds = [found[f"ap50 {name}"] for name in ("Platelets", "RBC", "WBC")]
    assert np.mean(kinds) == pytest.approx(found["map50"])
    assert (
        main(
            ["evaluate", "--model", "yolov3_small", "--weights", "bccd", "--data", str(folder), "--last", "3"]
        )
        == 0
    )
    assert "3 pictures of 3 classes (test)" in capsys.readouterr().out


def test_pixels(assets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(
        capsys, "--model", "unet_small", "--weights", "nuclei", "--data", assets / "datasets" / "nuclei",
        "--foreground", "--last", 60,
    )  # fmt: skip
    assert (found["part"], found["pictures"]) == ("train", 60)
    assert found["dice"] == pytest.approx(stated("unet_small", "nuclei", "dice"), abs=1e-4)
    assert found["mean_iou"] == pytest.approx(stated("unet_small", "nuclei", "mean_iou"), abs=1e-4)


def test_encodings(assets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = assets / "datasets" / "omniglot" / "all_runs.zip"
    found = answer(capsys, "--model", "character_encoder", "--weights", "omniglot", "--data", runs)
    assert found["pictures"] == 400
    assert found["accuracy"] == pytest.approx(stated("character_encoder", "omniglot", "one-shot"), abs=0.003)


def test_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("Annotations", "JPEGImages", "images", "labels"):
        (tmp_path / name).mkdir()
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / "JPEGImages" / "0.png")
    box = "<xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax>"
    (tmp_path / "Annotations" / "0.xml").write_text(
        f"<annotation><object><name>cat</name><bndbox>{box}</bndbox></object></annotation>"
    )
    for name, value in (("images", 0), ("labels", 7)):
        Image.fromarray(np.full((40, 40), value, np.uint8)).save(tmp_path / name / "0.png")
    boxes = ["--model", "yolov3_small", "--weights", "bccd"]
    pixels = ["--model", "unet_small", "--weights", "nuclei"]
    for arguments, message in (
        (boxes, "expected classes out of"),
        ([*boxes, "--part", "test"], "expected a part test, got train alone"),
        ([*pixels, "--last", "2"], "expected at least --last 2 pictures, got 1"),
        (pixels, "expected masks with the network's 2 classes, got 7 (--foreground"),
        (["--model", "character_encoder", "--weights", "omniglot"], "expected runNN/class_labels.txt"),
    ):
        assert main(["evaluate", *arguments, "--data", str(tmp_path)]) == 2
        assert message in capsys.readouterr().err
