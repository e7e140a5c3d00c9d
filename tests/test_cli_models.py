"""The commands for networks: models, summary, classify, inspect, convert."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cnnfast as cf
from cnnfast import nn
from cnnfast.cli import classify, main, networks
from cnnfast.cli.summary import file_size
from cnnfast.errors import CnnfastError
from cnnfast.models import registry
from cnnfast.models.registry import Pretrained, register_model
from cnnfast.weights import hub


class Tiny(nn.Module):
    """Gives the means of the colours, and zeros for further classes."""

    def __init__(self, num_classes: int = 3) -> None:
        self.pool = nn.GlobalAvgPool2d()
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(3, num_classes)

    def forward(self, x: Any) -> Any:
        return self.fc(self.flatten(self.pool(x)))


def colours(num_classes: int = 3) -> dict[str, np.ndarray]:
    """In torch's layout."""
    return {
        "fc.weight": 4 * np.eye(num_classes, 3, dtype=np.float32),
        "fc.bias": np.zeros(num_classes, np.float32),
    }


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    registry._load()
    registry.list_models()  # all are registered before the list is copied
    monkeypatch.setattr(registry, "_MODELS", dict(registry._MODELS))
    known = Pretrained(
        url="https://example.invalid/tiny-0123.npz",
        sha256="0123",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        input_size=(6, 8),
        resize=8,
        accuracy={"top1": 12.5},
    )

    @register_model(input_size=(6, 8, 3), name="tiny_colours", task="testing", weights={"published": known})
    def tiny_colours(num_classes: int = 3) -> nn.Module:
        return Tiny(num_classes)

    @register_model(input_size=8, name="tiny_plain", task="testing")
    def tiny_plain(num_classes: int = 3) -> nn.Module:
        return Tiny(num_classes)


@pytest.fixture
def weights(tmp_path: Path) -> str:
    cf.save_weights(tmp_path / "w.npz", colours())
    return str(tmp_path / "w.npz")


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    paths = []
    for name, colour in (("red", (220, 30, 20)), ("blue", (10, 40, 250))):
        Image.new("RGB", (20, 14), colour).save(tmp_path / f"{name}.png")
        paths.append(str(tmp_path / f"{name}.png"))
    return paths


@pytest.fixture
def onnx(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A stand-in for the reader and writer, so that the commands are tested on their own."""
    fake = ModuleType("cnnfast.onnx")
    fake.saved = []  # type: ignore[attr-defined]

    def load(path: str) -> nn.Module:
        with open(path, "rb") as file:
            if not file.read().startswith(b"network"):
                raise CnnfastError(f"{path}: no network")
        model = Tiny()
        model.load_state_dict(colours(), layout="torch")
        model.input_shapes = [("N", 3, 6, 8)]
        return model

    def save(model: nn.Module, path: str, shape: tuple[int, ...]) -> None:
        with open(path, "wb") as file:
            file.write(b"network")
        if shape[1] == 13:
            raise CnnfastError("cannot be written")
        fake.saved.append((model.state_dict("torch"), shape))  # type: ignore[attr-defined]

    fake.load, fake.save = load, save  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cnnfast.onnx", fake)
    return fake


def said(capsys: pytest.CaptureFixture[str], *arguments: str | Path, status: int = 0) -> tuple[str, str]:
    assert main([str(a) for a in arguments]) == status
    out, err = capsys.readouterr()
    if status == 0:
        assert not err
    elif not err.startswith("usage: "):
        assert err.startswith("cnnfast: ")
    return out, err


# --- models ------------------------------------------------------------------------------------------


def test_models(capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(capsys, "models", "--task", "testing")[0].splitlines()
    assert lines[0].split() == ["name", "task", "input", "classes", "weights"]
    assert [line.split() for line in lines[1:]] == [
        ["tiny_colours", "testing", "6x8x3", "3", "published"],
        ["tiny_plain", "testing", "8x8x3", "3", "-"],
    ]
    assert len(said(capsys, "models")[0].splitlines()) == 1 + len(cf.models.list_models())
    assert "tasks: " in said(capsys, "models", "--task", "dancing", status=2)[1]


def test_models_json(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(said(capsys, "models", "--json")[0])["models"]
    assert [m["name"] for m in found] == cf.models.list_models()
    tiny = next(m for m in found if m["name"] == "tiny_colours")
    assert tiny["weights"]["published"]["accuracy"] == {"top1": 12.5}
    assert tiny["input_size"] == [6, 8, 3]


# --- summary -----------------------------------------------------------------------------------------


@dataclass
class Rows:
    shape: tuple[int, ...]
    rows: list[Any] = field(default_factory=list)

    def __str__(self) -> str:
        return f"table of {self.shape}"


@dataclass
class Row:
    path: str
    shape: tuple[int, ...] | None
    parameters: np.int64


def test_summary(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, onnx: ModuleType, tmp_path: Path
) -> None:
    def stub(model: nn.Module, shape: tuple[int, ...]) -> Rows:
        return Rows(shape, [Row("fc", (1, model.fc.out_features), np.int64(12)), Row("", None, np.int64(0))])

    monkeypatch.setattr(cf, "summary", stub, raising=False)
    assert said(capsys, "summary", "tiny_colours")[0] == "table of (1, 6, 8, 3)\n"
    assert said(capsys, "summary", "tiny_colours", "--input", "9x10x3")[0] == "table of (1, 9, 10, 3)\n"
    assert said(capsys, "summary", "tiny_colours", "--input", "9x10")[0] == "table of (1, 9, 10, 3)\n"
    data = json.loads(said(capsys, "summary", "tiny_colours", "--json", "--classes", "7")[0])
    assert (data["model"], data["input"], data["shape"]) == ("tiny_colours", [6, 8, 3], [1, 6, 8, 3])
    assert data["rows"][0] == {"path": "fc", "shape": [1, 7], "parameters": 12}
    (tmp_path / "n.onnx").write_bytes(b"network")
    assert said(capsys, "summary", tmp_path / "n.onnx")[0] == "table of (1, 6, 8, 3)\n"


def test_real_summary(capsys: pytest.CaptureFixture[str]) -> None:
    if not hasattr(cf, "summary"):
        pytest.skip("there is no cf.summary")
    data = json.loads(said(capsys, "summary", "tiny_colours", "--json")[0])
    assert data["parameters"] == 12
    assert "12" in said(capsys, "summary", "tiny_colours")[0]
    assert "cnnfast: " in said(capsys, "summary", "tiny_colours", "--input", "6x8x5", status=2)[1]


@pytest.mark.parametrize("size", ["9", "0x1x3", "axb", "9x9x9x9", "1e3x4", "-1x4", ""])
def test_sizes(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "expected a size like" in said(capsys, "summary", "tiny_colours", f"--input={size}", status=2)[1]


@pytest.mark.parametrize(
    ("declared", "size"),
    [
        ([[1, 3, 6, 8]], (6, 8, 3)),
        ([["N", 6, 8, 3]], (6, 8, 3)),
        ([[None, 1, 28, 28]], (28, 28, 1)),
        ([[1, 3, None, 8]], None),
        ([[1, 10]], None),
        ([None], None),
        ([], None),
    ],
)
def test_sizes_in_files(declared: Any, size: Any) -> None:
    model = Tiny()
    model.input_shapes = declared
    assert file_size(model) == size


# --- classify ----------------------------------------------------------------------------------------


def test_classify(
    capsys: pytest.CaptureFixture[str], weights: str, pictures: list[str], tmp_path: Path, backend: str
) -> None:
    out, _ = said(capsys, "classify", *pictures, "--model", "tiny_colours", "--weights", weights)
    lines = out.splitlines()
    assert [lines[0], lines[4]] == pictures
    assert [lines[i].split()[-1] for i in (1, 5)] == ["0", "2"]
    # Means of the colours, scaled to -1..1, times 4.
    logits = 4 * (np.array([220, 30, 20]) / 255 - 0.5) / 0.5
    p = np.exp(logits) / np.exp(logits).sum()
    assert [float(line.split()[0]) for line in lines[1:4]] == [round(100 * v, 2) for v in sorted(p)[::-1]]
    (tmp_path / "names.txt").write_text("rot\ngrün\nblau\n\n", encoding="utf-8")
    out, _ = said(
        capsys, "classify", *pictures, "--model", "tiny_colours", "--weights", weights, "--topk", "1",
        "--classes", tmp_path / "names.txt",
    )  # fmt: skip
    assert [line.split()[-1] for line in out.splitlines() if "%" in line] == ["rot", "blau"]


def test_classify_json_goes_on_after_a_bad_picture(
    capsys: pytest.CaptureFixture[str], weights: str, pictures: list[str], tmp_path: Path
) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8no")
    given = [pictures[0], str(tmp_path / "bad.jpg"), str(tmp_path / "none.jpg"), pictures[1]]
    out, err = said(
        capsys, "classify", *given, "--model", "tiny_colours", "--weights", weights, "--json", status=2
    )
    results = json.loads(out)["results"]
    assert [r["picture"] for r in results] == given
    assert ["error" in r for r in results] == [False, True, True, False]
    assert [r["classes"][0]["class"] for r in (results[0], results[3])] == [0, 2]
    assert sum(c["score"] for c in results[0]["classes"]) == pytest.approx(1)
    assert len(err.splitlines()) == 2
    assert "No such file" in err


def test_errors_name_the_picture(capsys: pytest.CaptureFixture[str], weights: str, tmp_path: Path) -> None:
    Image.new("RGB", (66000, 1)).save(tmp_path / "thin.png")
    given = ("classify", tmp_path / "thin.png", "--model", "tiny_colours", "--weights", weights)
    err = said(capsys, *given, "--input", "2000x2000x3", status=2)[1]
    assert err.startswith(f"cnnfast: {tmp_path / 'thin.png'}: ")
    assert err.count("thin.png") == 1


def test_long_lists_of_what_does_not_fit_are_cut(
    capsys: pytest.CaptureFixture[str], pictures: list[str], weights: str
) -> None:
    err = said(capsys, "classify", pictures[0], "--model", "resnet18", "--weights", weights, status=2)[1]
    assert "; conv1.weight is missing; bn1.weight is missing; " in err
    assert err.endswith(" more\n")
    assert len(err.splitlines()) == 1
    assert len(err) < 1000


def test_classify_needs_weights(capsys: pytest.CaptureFixture[str], pictures: list[str]) -> None:
    err = said(capsys, "classify", pictures[0], "--model", "tiny_colours", status=2)[1]
    assert "give --weights FILE, or --weights published to fetch them once" in err
    err = said(capsys, "classify", pictures[0], "--model", "tiny_plain", status=2)[1]
    assert err == "cnnfast: tiny_plain: give --weights FILE\n"
    err = said(capsys, "classify", pictures[0], "--model", "tiny_plain", "--weights", "a.npz", status=2)[1]
    assert "a.npz: No such file" in err


def test_published_weights_are_fetched_by_name(
    capsys: pytest.CaptureFixture[str], weights: str, pictures: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []
    monkeypatch.setattr(hub, "fetch", lambda *a: asked.append(a) or Path(weights))
    said(capsys, "classify", pictures[0], "--model", "tiny_colours", "--weights", "published")
    assert asked == [("https://example.invalid/tiny-0123.npz", "0123")]


def test_as_many_classes_as_names(
    capsys: pytest.CaptureFixture[str], pictures: list[str], tmp_path: Path
) -> None:
    cf.save_weights(tmp_path / "w5.npz", colours(5))
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\ne\n")
    common = ["classify", pictures[1], "--model", "tiny_colours", "--weights", str(tmp_path / "w5.npz")]
    out, _ = said(capsys, *common, "--classes", tmp_path / "names.txt", "--topk", "9")
    assert [line.split()[-1] for line in out.splitlines()[1:]] == ["c", "d", "e", "b", "a"]
    assert "5 outputs: give num_classes" in said(capsys, *common, status=2)[1]
    (tmp_path / "empty.txt").write_text("\n\n")
    assert "came none" in said(capsys, *common, "--classes", tmp_path / "empty.txt", status=2)[1]
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe")
    assert "UTF-8" in said(capsys, *common, "--classes", tmp_path / "bytes.txt", status=2)[1]


def test_classify_onnx(
    capsys: pytest.CaptureFixture[str], pictures: list[str], onnx: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "n.onnx").write_bytes(b"network")
    out, _ = said(capsys, "classify", *pictures, "--model", tmp_path / "n.onnx", "--topk", "1")
    assert [line.split()[-1] for line in out.splitlines() if "%" in line] == ["0", "2"]
    err = said(capsys, "classify", *pictures, "--model", tmp_path / "n.onnx", "--weights", "w.npz", status=2)[
        1
    ]
    assert "leave --weights out" in err
    assert "No such file" in said(
        capsys, "classify", *pictures, "--model", tmp_path / "none.onnx", status=2
    )[1]  # fmt: skip


def test_unknown_networks_are_wrong_usage(capsys: pytest.CaptureFixture[str], pictures: list[str]) -> None:
    assert "tiny_colours" in said(capsys, "summary", "tiny_colour", status=2)[1]
    assert "there is no model" in said(capsys, "classify", pictures[0], "--model", "tiny_c", status=2)[1]
    err = said(capsys, "classify", pictures[0], "--model", "tiny_plain", "--topk", "0", status=2)[1]
    assert "whole number from 1" in err


def test_top_classes() -> None:
    top = classify.top_classes
    assert top(np.array([[0.25, 0.5, 0.25]], np.float32), 9) == [(1, 0.5), (0, 0.25), (2, 0.25)]
    assert top(np.zeros((1, 1, 1, 4), np.float32), 2) == [(0, 0.25), (1, 0.25)]
    assert top({"logits": np.array([[0.0, 9999.0]])}, 1) == [(1, 1.0)]
    assert top((np.array([[1.0, 0.0]]), np.zeros((1, 9))), 1)[0][0] == 0
    for bad in (np.zeros((1, 2, 2, 3)), np.zeros((2, 3)), np.zeros(()), np.zeros((1, 0))):
        with pytest.raises(CnnfastError, match="no classes of one picture"):
            top(bad, 1)
    with pytest.raises(CnnfastError, match="not finite"):
        top(np.array([[np.nan, 1.0]]), 1)


def test_sizes_of_crops() -> None:
    known = Pretrained()
    assert classify.preprocess_for(known, None).resize == 256
    assert classify.preprocess_for(known, (224, 224, 3)).resize == 256
    bigger = classify.preprocess_for(known, (448, 448, 3))
    assert (bigger.input_size, bigger.resize) == ((448, 448), 512)
    assert classify.preprocess_for(known, (28, 28, 1)).channels == 1
    with pytest.raises(CnnfastError, match="1 or 3 channels"):
        classify.preprocess_for(known, (28, 28, 4))


def test_real_pictures(assets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if "mobilenet_v2" not in cf.models.list_models():
        pytest.skip("mobilenet_v2 is not registered")
    photos = [assets / "pictures" / f"{name}.jpg" for name in ("dog", "cat_720p", "parrot")]
    out, _ = said(
        capsys, "classify", *photos, "--model", "mobilenet_v2", "--json",
        "--weights", assets / "models" / "mobilenet_v2-b0353104.pth",
        "--classes", assets / "imagenet_classes.txt",
    )  # fmt: skip
    dog, cat, parrot = [
        [c["name"].lower() for c in result["classes"]] for result in json.loads(out)["results"]
    ]
    assert any("malamute" in name or "husky" in name or "eskimo" in name for name in dog[:3]), dog
    assert any("cat" in name for name in cat[:3]), cat
    assert any("macaw" in name or "parrot" in name or "lorikeet" in name for name in parrot[:3]), parrot


# --- inspect -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["npz", "safetensors"])
def test_inspect(ending: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / f"w.{ending}"
    cf.save_weights(
        path, {"a.weight": np.zeros((2, 3), np.float32), "n": np.int64(4), "esc\x1b[2J": np.zeros(1, bool)}
    )
    lines = said(capsys, "inspect", path)[0].splitlines()
    assert ["a.weight", "2x3", "float32", "6", "24"] in [line.split() for line in lines]
    assert ["n", "scalar", "int64", "1", "8"] in [line.split() for line in lines]
    assert lines[-1] == f"3 tensors, 8 numbers, 33 bytes (file: {path.stat().st_size:,})"
    assert "\x1b" not in "".join(lines)
    data = json.loads(said(capsys, "inspect", path, "--json")[0])
    assert (data["tensors"], data["numbers"], data["bytes"]) == (3, 8, 33)
    row = next(r for r in data["rows"] if r["name"] == "a.weight")
    assert row == {"name": "a.weight", "shape": [2, 3], "dtype": "float32", "numbers": 6, "bytes": 24}


def test_inspect_others(capsys: pytest.CaptureFixture[str], tmp_path: Path, onnx: ModuleType) -> None:
    (tmp_path / "n.onnx").write_bytes(b"network")
    assert "fc.weight  3x3" in said(capsys, "inspect", tmp_path / "n.onnx")[0]
    (tmp_path / "w.weights").write_bytes(b"\0" * 20)
    assert "give --model NAME or --cfg FILE" in said(capsys, "inspect", tmp_path / "w.weights", status=2)[1]
    err = said(capsys, "inspect", tmp_path / "w.weights", "--model", "tiny_plain", status=2)[1]
    assert "networks of darknet only" in err
    (tmp_path / "w.npz").write_bytes(b"PK\x03\x04")
    assert "zip directory" in said(capsys, "inspect", tmp_path / "w.npz", status=2)[1]
    assert "No such file" in said(capsys, "inspect", tmp_path / "none.npz", status=2)[1]


def test_inspect_a_checkpoint(capsys: pytest.CaptureFixture[str], assets: Path) -> None:
    out, _ = said(capsys, "inspect", assets / "models" / "lenet5_mnist.pth")
    assert out.splitlines()[-1].startswith("10 tensors, 61,706 numbers")


def test_inspect_darknet(capsys: pytest.CaptureFixture[str], assets: Path) -> None:
    if "yolov3_tiny" not in cf.models.list_models():
        pytest.skip("yolov3_tiny is not registered")
    path = assets / "models" / "yolov3-tiny.weights"
    by_name = said(capsys, "inspect", path, "--model", "yolov3_tiny", "--json")[0]
    by_cfg = said(capsys, "inspect", path, "--cfg", path.with_suffix(".cfg"), "--json")[0]
    assert json.loads(by_name)["numbers"] == json.loads(by_cfg)["numbers"] > 8_800_000


# --- convert -----------------------------------------------------------------------------------------


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and np.array_equal(a[k], b[k]) for k in a)


def test_convert(capsys: pytest.CaptureFixture[str], tmp_path: Path, rng: np.random.Generator) -> None:
    state = {"w": rng.standard_normal((3, 4)), "n": np.array(3), "h": np.ones(2, np.float16)}
    cf.save_weights(tmp_path / "a.npz", state)
    path, back = tmp_path / "b.safetensors", tmp_path / "c.npz"
    out, _ = said(capsys, "convert", tmp_path / "a.npz", path)
    assert out == f"{path}: 3 tensors, {path.stat().st_size:,} bytes\n"
    out, _ = said(capsys, "convert", path, back, "--json")
    assert json.loads(out)["tensors"] == 3
    assert same(cf.load_weights(back), state)


def test_convert_a_checkpoint(capsys: pytest.CaptureFixture[str], tmp_path: Path, assets: Path) -> None:
    source = assets / "models" / "lenet5_mnist.pth"
    said(capsys, "convert", source, tmp_path / "l.safetensors")
    assert same(cf.load_weights(source), cf.load_weights(tmp_path / "l.safetensors"))


def test_convert_refuses(capsys: pytest.CaptureFixture[str], tmp_path: Path, weights: str) -> None:
    old = tmp_path / "old.safetensors"
    old.write_bytes(b"precious")
    os.symlink(tmp_path / "nowhere.npz", tmp_path / "link.npz")
    for out in (old, tmp_path / "link.npz", weights):
        assert "exists already; --force replaces it" in said(capsys, "convert", weights, out, status=2)[1]
    assert old.read_bytes() == b"precious"
    for out, message in [
        ("x.pth", "expected one of"),
        ("x", "no ending"),
        ("x.onnx", "give --model NAME"),
        ("none/x.npz", "No such file"),
    ]:
        assert message in said(capsys, "convert", weights, tmp_path / out, status=2)[1]
    assert "No such file" in said(capsys, "convert", tmp_path / "none.npz", old, "--force", status=2)[1]
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 bad")
    said(capsys, "convert", tmp_path / "bad.npz", old, "--force", status=2)
    assert old.read_bytes() == b"precious"
    said(capsys, "convert", weights, old, "--force")
    assert same(cf.load_weights(old), colours())
    said(capsys, "convert", weights, weights, "--force")
    assert sorted(os.listdir(tmp_path)) == ["bad.npz", "link.npz", "old.safetensors", "w.npz"]


def test_convert_onnx(capsys: pytest.CaptureFixture[str], tmp_path: Path, weights: str, onnx: Any) -> None:
    out = tmp_path / "n.onnx"
    said(capsys, "convert", weights, out, "--model", "tiny_colours")
    state, shape = onnx.saved[-1]
    assert shape == (1, 6, 8, 3)
    assert same(state, colours())
    said(capsys, "convert", out, tmp_path / "w2.npz")
    assert same(cf.load_weights(tmp_path / "w2.npz"), colours())
    said(capsys, "convert", out, tmp_path / "again.onnx", "--input", "12x14x3")
    assert onnx.saved[-1][1] == (1, 12, 14, 3)
    assert "exists already" in said(
        capsys, "convert", weights, out, "--model", "tiny_colours", status=2
    )[1]  # fmt: skip
    # A writer that fails in the middle leaves the old file, and nothing beside it.
    out.write_bytes(b"network, the old one")
    files = sorted(os.listdir(tmp_path))
    err = said(
        capsys, "convert", weights, out, "--model", "tiny_colours", "--force", "--input", "13x1x3", status=2
    )[1]
    assert "cannot be written" in err
    assert out.read_bytes() == b"network, the old one"
    assert sorted(os.listdir(tmp_path)) == files


def test_convert_darknet(capsys: pytest.CaptureFixture[str], tmp_path: Path, assets: Path) -> None:
    if "yolov3_tiny" not in cf.models.list_models():
        pytest.skip("yolov3_tiny is not registered")
    said(
        capsys, "convert", assets / "models" / "yolov3-tiny.weights", tmp_path / "y.safetensors",
        "--model", "yolov3_tiny",
    )  # fmt: skip
    model = cf.models.create_model("yolov3_tiny", weights=tmp_path / "y.safetensors")
    expected = networks.built("yolov3_tiny", str(assets / "models" / "yolov3-tiny.weights"))
    assert same(model.state_dict(), expected.state_dict())


def test_convert_darknet_by_its_description(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, onnx: Any
) -> None:
    cfg, stored = tmp_path / "n.cfg", tmp_path / "n.weights"
    cfg.write_text("[net]\nwidth=8\nheight=6\nchannels=3\n[convolutional]\nfilters=2\nsize=1\n")
    header = np.array([0, 2, 0, 0, 0], "<i4").tobytes()
    stored.write_bytes(header + np.arange(8, dtype="<f4").tobytes())
    said(capsys, "convert", stored, tmp_path / "n.onnx", "--cfg", cfg)
    state, shape = onnx.saved[-1]
    assert shape == (1, 6, 8, 3)
    assert sum(a.size for a in state.values()) == 8


# --- all ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["models", "summary", "classify", "inspect", "convert"])
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = said(capsys, command, "--help")
    assert f"usage: cnnfast {command}" in out


def test_ctrl_c(
    capsys: pytest.CaptureFixture[str], pictures: list[str], weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(Tiny, "forward", interrupted)
    assert main(["classify", *pictures, "--model", "tiny_plain", "--weights", weights]) == 130
    assert capsys.readouterr().err == "cnnfast: interrupted\n"
