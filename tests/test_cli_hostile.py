"""Every command with what it cannot use: one line, exit status 2, and nothing written or written over."""

from __future__ import annotations

import os
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cnnfast as cf
from cnnfast.cli import main
from cnnfast.models.vgg import vgg_features

LENET = ["--model", "lenet5", "--weights", "fashion_mnist"]

# name -> the command; PICTURE and OUT are put in, FOLDER is one with a folder of pictures for each class.
COMMANDS: dict[str, list[str]] = {
    "filter": ["filter", "PICTURE", "-o", "OUT.png"],
    "detect": ["detect", "PICTURE", "-o", "OUT.png"],
    "segment": ["segment", "PICTURE", "-o", "OUT.png"],
    "face enroll": ["face", "enroll", "PICTURE", "-o", "OUT.safetensors"],
    "face verify": ["face", "verify", "PICTURE", "good.png", "--threshold", "0.5", "-o", "OUT.png"],
    "face identify": [
        "face", "identify", "PICTURE", "--database", "known.safetensors", "--threshold", "0.5", "-o",
        "OUT.png",
    ],
    "style": [
        "style", "PICTURE", "good.png", "-o", "OUT.png", "--weights", "vgg.safetensors", "--iterations", "1",
        "--content-layers", "conv1_1", "--style-layers", "conv1_1", "--size", "16", "--quiet",
    ],
    "style of": [
        "style", "good.png", "PICTURE", "-o", "OUT.png", "--weights", "vgg.safetensors", "--iterations", "1",
        "--content-layers", "conv1_1", "--style-layers", "conv1_1", "--size", "16", "--quiet",
    ],
    "inspect": ["inspect", "PICTURE", "--what", "gradcam", *LENET, "-o", "OUT.png", "--quiet"],
    "classify": ["classify", "PICTURE", *LENET],
}  # fmt: skip
#: Commands on folders.
TRAINING: dict[str, list[str]] = {
    "train classify": ["train", "--model", "lenet5", "--data", "FOLDER"],
    "train detect": ["train", "--model", "yolov3_small", "--data", "FOLDER"],
    "train segment": ["train", "--model", "unet_small", "--data", "FOLDER"],
    "train embed": ["train", "--model", "character_encoder", "--data", "FOLDER"],
}
SETTINGS = ["--epochs", "1", "--batch-size", "2", "--quiet", "--output", "OUT.safetensors"]


def png(width: int, height: int) -> bytes:
    """A picture that says it is so large; its pixels are a few bytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(99)))
        + chunk(b"IEND", b"")
    )


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What all commands need besides the picture."""
    folder = tmp_path_factory.mktemp("held")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (40, 48, 3), np.uint8)).save(folder / "good.png")
    state = vgg_features(11).initialize(0).state_dict("torch")
    cf.save_weights(folder / "vgg.safetensors", {f"features.{name}": a for name, a in state.items()})
    assert main(["face", "enroll", str(folder / "good.png"), "-o", str(folder / "known.safetensors")]) == 0
    return folder


@pytest.fixture
def place(held: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in."""
    for file in held.iterdir():
        (tmp_path / file.name).symlink_to(file)
    good = (held / "good.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(good[: len(good) // 2])
    (tmp_path / "head.png").write_bytes(good[:20])
    (tmp_path / "nothing.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("no picture\n" * 9)
    (tmp_path / "bomb.png").write_bytes(png(100_000, 100_000))
    (tmp_path / "large.png").write_bytes(png(13_000, 13_000))  # allowed, but for the pixels that are missing
    (tmp_path / "wide.png").write_bytes(png(2**31 - 1, 1))
    (tmp_path / "folder.png").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


PICTURES = [
    "cut.png",
    "head.png",
    "nothing.png",
    "text.png",
    "bomb.png",
    "wide.png",
    "folder.png",
    "none.png",
]


def filled(command: list[str], **values: str) -> list[str]:
    def word(text: str) -> str:
        for name, value in values.items():
            text = text.replace(name, value)
        return text

    return [word(text) for text in command]


def contents(folder: Path) -> dict[str, Any]:
    """Everything below a folder, to the byte."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if not path.is_symlink()  # what all tests share is read alone
    }


def refused(command: list[str], place: Path, capsys: pytest.CaptureFixture[str], status: int = 2) -> str:
    """The one line that a command says."""
    before = contents(place)
    capsys.readouterr()
    assert main(command) == status
    out, err = capsys.readouterr()
    assert err.startswith("cnnfast: "), err
    assert err.count("\n") == 1, err
    assert "Traceback" not in err + out
    assert contents(place) == before
    return err


@pytest.mark.parametrize("name", COMMANDS)
def test_pictures(name: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Cut off, empty, no picture, a folder, missing, or with more pixels than any memory holds."""
    for ending in (".png", ".safetensors"):
        (place / f"out{ending}").write_bytes(b"mine")
    if name == "face enroll":
        (place / "out.safetensors").unlink()
    for picture in PICTURES:
        said = refused(filled(COMMANDS[name], PICTURE=picture, OUT="out"), place, capsys)
        assert picture in said


def test_a_large_picture_that_is_cut_off(
    native: None, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "cut off" in refused(filled(COMMANDS["filter"], PICTURE="large.png", OUT="out"), place, capsys)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "classify"])
def test_places(name: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a folder that is not there, or below a file; a folder itself."""
    (place / "file").write_text("mine")
    for out in ("none/out", "file/out"):
        refused(filled(COMMANDS[name], PICTURE="good.png", OUT=out), place, capsys)
    ending = "safetensors" if name == "face enroll" else "png"
    (place / f"taken.{ending}").mkdir()
    if name != "detect":  # to which a folder is a place
        refused(filled(COMMANDS[name], PICTURE="good.png", OUT="taken"), place, capsys)


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file grows beyond some bytes: writing fails as it does on a full disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of POSIX")
@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "classify"])
def test_full_disk(
    name: str, place: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    if name != "face enroll":
        (place / "out.png").write_bytes(b"mine")
    request.getfixturevalue("full_disk")
    said = refused(filled(COMMANDS[name], PICTURE="good.png", OUT="out"), place, capsys)
    assert "File too large" in said


@pytest.mark.parametrize("name", COMMANDS)
def test_interrupts(
    name: str, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while a picture is decoded."""

    def interrupted(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cnnfast.pictures.pixels_of", interrupted)
    said = refused(filled(COMMANDS[name], PICTURE="good.png", OUT="out"), place, capsys, status=130)
    assert said == "cnnfast: interrupted\n"


# --- folders ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRAINING)
def test_folders(name: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Empty, full of what is no picture, missing, or a file."""
    (place / "empty").mkdir()
    (place / "few" / "a").mkdir(parents=True)
    (place / "few" / "a" / "x.txt").write_text("x")
    (place / "few" / "images").mkdir()
    (place / "few" / "masks").mkdir()
    (place / "few" / "Annotations").mkdir()
    (place / "out.safetensors").unlink(missing_ok=True)
    for folder in ("empty", "few", "missing", "good.png"):
        refused([*filled(TRAINING[name], FOLDER=folder), *filled(SETTINGS, OUT="out")], place, capsys)


def test_pictures_of_a_folder(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One that is cut off ends a training with its name; so does a mask of another size."""
    for label in "ab":
        (place / "classes" / label).mkdir(parents=True)
        for i in range(3):
            (place / "classes" / label / f"{i}.png").write_bytes((place / "good.png").read_bytes())
    (place / "classes" / "b" / "1.png").write_bytes((place / "cut.png").read_bytes())
    for model in ("lenet5", "character_encoder"):
        said = refused(
            ["train", "--model", model, "--data", "classes", "--validation", "0.3",
             *filled(SETTINGS, OUT="out")], place, capsys,
        )  # fmt: skip
        assert os.path.join("b", "1.png") in said
    for folder, size in (("images", (40, 48)), ("masks", (40, 40))):
        (place / "pixels" / folder).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(np.eye(*size, dtype=np.uint8)).save(place / "pixels" / folder / f"{i}.png")
    said = refused(
        ["train", "--model", "unet_small", "--data", "pixels", "--validation", "0.3",
         *filled(SETTINGS, OUT="out")], place, capsys,
    )  # fmt: skip
    assert "expected a mask (40, 48)" in said


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of POSIX")
def test_trainings_on_a_full_disk(
    place: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    for label in "ab":
        (place / "classes" / label).mkdir(parents=True)
        for i in range(3):
            (place / "classes" / label / f"{i}.png").write_bytes((place / "good.png").read_bytes())
    request.getfixturevalue("full_disk")
    command = ["train", "--model", "lenet5", "--data", "classes", "--validation", "0.3"]
    for extra in ([], ["--checkpoint", "run.safetensors"]):
        said = refused([*command, *filled(SETTINGS, OUT="out"), *extra], place, capsys)
        assert "File too large" in said


# --- channels, weights, other files -------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        ["classify", "good.png", *LENET, "--input", "32x32x5"],
        ["classify", "good.png", *LENET, "--input", "32x32x3"],
        ["classify", "good.png", "--model", "lenet5", "--weights", "vgg.safetensors"],
        ["detect", "good.png", "--weights", "vgg.safetensors"],
        ["detect", "good.png", "--weights", "cut.png"],
        ["segment", "good.png", "--weights", "vgg.safetensors", "-o", "out.png"],
        ["segment", "good.png", "--model", "good.onnx", "-o", "out.png"],
        ["segment", "good.png", "--mean", "1,1,1", "-o", "out.png"],
        ["style", "good.png", "good.png", "--weights", "known.safetensors", "-o", "out.png"],
        ["inspect", "good.png", "--what", "gradcam", *LENET[:3], "vgg.safetensors", "-o", "o.png"],
        ["inspect", "good.png"],
        ["inspect", "text.safetensors"],
        ["convert", "text.safetensors", "out.npz"],
        ["convert", "vgg.safetensors", "none/out.npz"],
        ["face", "identify", "good.png", "--database", "vgg.safetensors", "--threshold", "0.5"],
        ["face", "enroll", "good.png", "-o", "vgg.safetensors"],
        ["face", "enroll", "empty", "-o", "out.safetensors"],
        ["evaluate", *LENET, "--data", "empty"],
        ["train", "--model", "unet_small", "--data", "empty", "--input", "16x16x3", "--epochs", "1"],
        ["demo", "-o", "good.png", "--only", "edges"],
        ["summary", "good.onnx"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_does_not_fit(command: list[str], place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "empty").mkdir()
    (place / "good.onnx").write_bytes((place / "good.png").read_bytes())
    (place / "text.safetensors").write_text("text")
    refused(command, place, capsys)


def test_every_command_is_here() -> None:
    """A new command has to say what it does with what it cannot use."""
    from cnnfast.cli import COMMANDS as KNOWN

    tried = {command.split()[0] for command in (*COMMANDS, *TRAINING)}
    tried |= {"evaluate", "demo", "convert", "summary"}
    nothing_to_open = {"doctor", "models", "course", "bench", "bench models", "bench train", "bench style"}
    assert tried | nothing_to_open == set(KNOWN)
