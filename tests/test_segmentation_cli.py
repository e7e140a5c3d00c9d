"""``cnnfast segment``: files, options, errors, exit status."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cnnfast as cf
from cnnfast.cli import main
from cnnfast.pictures import load_mask, load_picture
from cnnfast.segmentation import find_instances, overlay


@pytest.fixture
def picture(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (118, 203), np.uint8)


@pytest.fixture
def files(tmp_path: Path, picture: np.ndarray) -> Path:
    Image.fromarray(picture).save(tmp_path / "p.png")
    model = cf.models.unet_small(3)
    cf.save_weights(tmp_path / "w.safetensors", model.state_dict("torch"))
    (tmp_path / "names.txt").write_text("nothing\ninside\nborder\n")
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *arguments: str | Path, status: int = 0) -> tuple[str, str]:
    assert main(["segment", *map(str, arguments)]) == status
    return tuple(capsys.readouterr())  # type: ignore[return-value]


def test_command(capsys: pytest.CaptureFixture[str], files: Path, picture: np.ndarray) -> None:
    trained = ("--weights", files / "w.safetensors", "--classes", files / "names.txt")
    tiles = ("--tile", "96", "--overlap", "24")
    places = ("-o", files / "o.png", "--mask", files / "m.png")
    out, err = said(capsys, files / "p.png", *trained, *tiles, *places, "--json")
    found = json.loads(out)
    assert not err
    assert (found["width"], found["height"], found["regions"]) == (203, 118, None)
    mask = np.asarray(Image.open(files / "m.png"))
    assert {c["class"]: c["pixels"] for c in found["classes"]} == {
        int(k): int(n) for k, n in zip(*np.unique(mask, return_counts=True), strict=True)
    }
    assert sum(c["share"] for c in found["classes"]) == pytest.approx(1)
    assert {c["name"] for c in found["classes"]} <= {"nothing", "inside", "border"}
    drawn = np.asarray(Image.open(files / "o.png"))
    np.testing.assert_array_equal(drawn, overlay(picture, mask))
    lines = said(capsys, files / "p.png", *trained, *tiles, *places)[0].splitlines()
    assert lines[0] == f"{files / 'o.png'}: 203 x 118"
    assert len(lines) == 1 + len(found["classes"])


def test_onnx(capsys: pytest.CaptureFixture[str], files: Path) -> None:
    """A file of one size gives the mask of the network it was made of, and takes larger pictures in tiles."""
    model = cf.models.unet_small(3)
    model.load_state_dict(cf.load_weights(files / "w.safetensors"), layout="torch")
    picture = load_mask(files / "p.png")[:64, :64].astype(np.uint8)
    Image.fromarray(picture).save(files / "p.png")
    cf.onnx.save(model.eval(), files / "n.onnx", (1, 64, 64, 1))
    masks = []
    scaled = ("--mean", "0.3", "--std", "0.2")
    for network in ((files / "n.onnx",), ("unet_small", "--weights", files / "w.safetensors", "--classes",
                                          files / "names.txt")):  # fmt: skip
        said(capsys, files / "p.png", "--model", *network, *scaled, "-o", files / "o.png", "--mask",
             files / "m.png")  # fmt: skip
        masks.append(load_mask(files / "m.png"))
    assert (masks[0] == masks[1]).mean() > 0.999
    large = np.tile(picture, (2, 2))
    Image.fromarray(large).save(files / "p.png")
    said(capsys, files / "p.png", "--model", files / "n.onnx", "-o", files / "o.png")
    assert load_picture(files / "o.png").shape == (128, 128, 3)
    err = said(capsys, files / "p.png", "--model", files / "n.onnx", "--weights", files / "w.safetensors",
               "-o", files / "o.png", status=2)[1]  # fmt: skip
    assert "has its own weights" in err


def test_command_counts(capsys: pytest.CaptureFixture[str], files: Path) -> None:
    pytest.importorskip("scipy")
    arguments = ("-o", files / "o.png", "--mask", files / "m.png", "--count", "--min-area", "4")
    trained = ("--weights", files / "w.safetensors", "--classes", files / "names.txt")
    found = json.loads(said(capsys, files / "p.png", *trained, *arguments, "--json")[0])
    _, instances = find_instances(np.asarray(Image.open(files / "m.png")), min_area=4)
    assert [r["area"] for r in found["regions"]] == [i.area for i in instances]
    assert sum(c.get("regions", 0) for c in found["classes"]) == len(instances)
    assert "regions" in said(capsys, files / "p.png", *trained, *arguments)[0] or not instances


def test_command_errors(capsys: pytest.CaptureFixture[str], files: Path) -> None:
    output = ("-o", files / "o.png")
    assert "for classification" in said(capsys, files / "p.png", "--model", "lenet5", *output, status=2)[1]
    assert "give --weights FILE" in said(capsys, files / "p.png", "--model", "unet", *output, status=2)[1]
    weights = ("--weights", files / "w.safetensors")
    assert "num_classes" in said(capsys, files / "p.png", *weights, *output, status=2)[1]
    none = said(capsys, files / "none.png", *weights, "--classes", files / "names.txt", *output, status=2)[1]
    assert "No such file" in none
    assert "cannot tell the format" in said(capsys, files / "p.png", "-o", files / "o.xyz", status=2)[1]
    assert not (files / "o.png").exists()
