"""``cnnfast face``: databases, answers and their exit statuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cnnfast as cf
from cnnfast import nn
from cnnfast.cli import main
from cnnfast.face import Gallery
from cnnfast.face.sheet import sheet

COLOURS = {"red": (250, 0, 0), "green": (0, 250, 0), "blue": (0, 0, 250), "pink": (250, 90, 90)}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with pictures, people, and an encoder that gives the mean colour."""
    monkeypatch.chdir(tmp_path)
    cf.onnx.save(nn.Sequential(nn.GlobalAvgPool2d(), nn.Flatten()).eval(), "mean.onnx", (1, 4, 4, 3))
    for name, colour in COLOURS.items():
        Image.new("RGB", (9, 7), colour).save(f"{name}.png")
    for who, colour in (("ann", (200, 10, 10)), ("bob", (10, 10, 200))):
        Path("people", who).mkdir(parents=True)
        for i in range(6):
            shade = tuple(v + 9 * i for v in colour)
            Image.new("RGB", (8, 8), shade).save(f"people/{who}/{i}.png")
    Path("broken.png").write_bytes(b"no picture")
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *arguments: Any, status: int = 0) -> tuple[str, str]:
    encoder = ("--model", "mean.onnx", "--mean", "0", "--std", "1")
    assert main(["face", *map(str, arguments), *encoder]) == status
    out, err = capsys.readouterr()
    return out, err


def size(path: str) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def test_enrol_and_ask(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = said(capsys, "enroll", "red.png", "green.png", "-o", "db.safetensors")
    assert out == "db.safetensors: 2 names, 2 pictures (2 added)\n"
    assert not err
    out, _ = said(capsys, "enroll", "red.png", "blue.png", "-o", "db.safetensors")
    assert out == "db.safetensors: 3 names, 3 pictures (1 added, 1 known already)\n"
    assert Gallery.load("db.safetensors").people == ["red", "green", "blue"]

    out, err = said(capsys, "identify", "pink.png", "--database", "db.safetensors", status=2)
    assert err.startswith("cnnfast: expected --threshold")
    out, _ = said(capsys, "identify", "pink.png", "--database", "db.safetensors", "--threshold", "0.5")
    assert out.startswith("pink.png: red  [red 0.")
    out, _ = said(
        capsys, "identify", "pink.png", "--database", "db.safetensors", "--threshold", "0.001", "--topk", 1,
        "--json", status=3,
    )  # fmt: skip
    found = json.loads(out)
    assert (found["measure"], found["threshold"]) == ("squared_distance", 0.001)
    assert found["results"][0]["name"] is None
    assert [near["name"] for near in found["results"][0]["nearest"]] == ["red"]


def test_verification(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = said(capsys, "verify", "red.png", "pink.png", "--threshold", "0.5", "-o", "two.png")
    assert out.startswith("same: squared distance 0.")
    assert out.endswith(" <= 0.5000\n")
    assert size("two.png") == (2 * 111 + 6, 105 + 6 + 24 + 6)
    out, _ = said(capsys, "verify", "red.png", "green.png", "--threshold", "0.5", status=3)
    assert out == "different: squared distance 2.0000 > 0.5000\n"
    similar = ("--measure", "cosine_similarity", "--threshold", "0.5")
    out, _ = said(capsys, "verify", "red.png", "green.png", *similar, status=3)
    assert out == "different: cosine similarity 0.0000 < 0.5000\n"
    out, _ = said(capsys, "verify", "red.png", "pink.png", *similar, "--json")
    assert json.loads(out)["same"] is True

    said(capsys, "enroll", "red.png", "-o", "db.safetensors", "--name", "ann")
    claim = ("--database", "db.safetensors", "--threshold", "0.5", "--name")
    assert said(capsys, "verify", "pink.png", *claim, "ann")[0].startswith("same")
    assert "expected somebody enrolled" in said(capsys, "verify", "pink.png", *claim, "bob", status=2)[1]
    assert "two pictures" in said(capsys, "verify", "red.png", "--threshold", 1, status=2)[1]
    assert "--threshold" in said(capsys, "verify", "red.png", "pink.png", status=2)[1]
    assert "--database" in said(capsys, "verify", "red.png", "--name", "ann", status=2)[1]


def test_calibration_of_a_folder_of_people(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = said(
        capsys, "enroll", "people", "-o", "db.safetensors", "--measure", "cosine_similarity", "--json"
    )
    assert json.loads(out) == {
        "database": "db.safetensors", "names": 2, "encodings": 12, "added": 12, "known": 0, "failed": [],
    }  # fmt: skip
    calibrate = ("calibrate", "people", "--database", "db.safetensors", "--far")
    out, _ = said(capsys, *calibrate, "0.1", "--json")
    found = json.loads(out)
    assert (found["pairs_same"], found["pairs_different"], found["equal_error_rate"]) == (30, 36, 0)
    assert found["threshold"] == Gallery.load("db.safetensors").threshold
    assert found["true_accept_rate"] == 1
    assert "36 others" in said(capsys, *calibrate, "0.1")[0]
    assert said(capsys, "identify", "pink.png", "--database", "db.safetensors")[0].startswith("pink.png: ann")
    said(capsys, "identify", "green.png", "--database", "db.safetensors", status=3)
    before = Path("db.safetensors").read_bytes()
    assert "pairs of different" in said(capsys, *calibrate, "0.001", status=2)[1]
    assert Path("db.safetensors").read_bytes() == before


def test_the_curve_can_be_drawn(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    said(capsys, "enroll", "people", "-o", "db.safetensors")
    said(capsys, "calibrate", "people", "--database", "db.safetensors", "--far", "0.1", "-o", "roc.png")
    assert size("roc.png")[0] > 300


def test_one_bad_picture_among_good_ones(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = said(capsys, "enroll", "red.png", "broken.png", "none.png", "-o", "db.safetensors", status=2)
    assert "1 names, 1 pictures" in out
    assert [line.split(": ")[1] for line in err.splitlines()] == ["broken.png", "none.png"]
    asked = ("identify", "broken.png", "red.png", "--database", "db.safetensors", "--threshold", 1)
    out, err = said(capsys, *asked, "-o", "who.png", "--json", status=2)
    assert ["error" in row for row in json.loads(out)["results"]] == [True, False]
    assert err.startswith("cnnfast: broken.png: ")
    assert size("who.png") == (111 + 6, 105 + 6 + 24 + 6)


def test_refusals(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "ends in .safetensors" in said(capsys, "enroll", "red.png", "-o", "db.npz", status=2)[1]
    said(capsys, "enroll", "red.png", "-o", "db.safetensors")
    asked = ("identify", "red.png", "--database", "db.safetensors", "--threshold", 1)
    assert "another one" in said(capsys, *asked, "--shift", 1, status=2)[1]
    assert "ending" in said(capsys, *asked, "-o", "who.xyz", status=2)[1]
    Path("db.safetensors").write_bytes(b"\0" * 100)
    assert "Gallery" in said(capsys, *asked, status=2)[1]
    assert (
        "none.safetensors"
        in said(capsys, "identify", "red.png", "--database", "none.safetensors", status=2)[1]
    )
    Path("empty").mkdir()
    assert "got none" in said(capsys, "enroll", "empty", "-o", "new.safetensors", status=2)[1]
    for wrong in (("--threshold", "nan"), ("--mean", "1,2"), ("--shift", "-1"), ("--topk", "0")):
        said(capsys, *asked, *wrong, status=2)
    said(capsys, "recognise", "red.png", status=2)


def test_faces_in_a_photograph(place: Path, assets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels = np.load(assets / "expected/yunet_n.npz")["input"][0].transpose(1, 2, 0)[..., ::-1]
    Image.fromarray(np.ascontiguousarray(pixels)).save("one.png")
    Image.fromarray(np.concatenate([pixels, pixels[:, ::-1]], 1)).save("two.png")
    faces = ("--detector", assets / "models/yunet_n_dynamic.onnx")
    said(capsys, "enroll", "one.png", "-o", "db.safetensors", *faces)
    asked = ("identify", "two.png", "--database", "db.safetensors", "--threshold", "0.1", *faces)
    found = json.loads(said(capsys, *asked, "--json", "-o", "sheet.png")[0])["results"]
    assert [row["name"] for row in found] == ["one", "one"]
    left = sorted(row["box"][0] for row in found)
    assert left[0] == pytest.approx(112, abs=8)
    assert left[1] == pytest.approx(640 - 169, abs=8)
    assert size("sheet.png")[0] == 2 * 111 + 6
    _, err = said(capsys, "identify", "red.png", *asked[2:], status=2)
    assert err == "cnnfast: red.png: expected a face in the picture, found none\n"


def test_sheets() -> None:
    pictures = [np.zeros((4, 8, 1), np.uint8), np.full((9, 3, 3), 200, np.uint8)]
    drawn = sheet(pictures, ["a\nb", "Zoë 東京"], good=[True, None], side=20, columns=1)
    assert drawn.shape == (2 * (20 + 6 + 24) + 6, 32, 3)
    assert drawn.dtype == np.uint8
    assert (drawn[6 + 10, 6 + 10] == 0).all()
    with pytest.raises(cf.errors.ShapeError, match="sheet"):
        sheet(pictures, ["a"])
