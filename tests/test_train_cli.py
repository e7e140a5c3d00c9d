"""``cnnfast train`` and ``cnnfast evaluate``: data folders, options, errors, exit status."""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cnnfast as cf
from cnnfast import data
from cnnfast.cli import main
from cnnfast.errors import DataError

SHORT = ["--epochs", "2", "--batch-size", "16", "--threads", "1", "--quiet"]


def pictures(count: int, side: int, channels: int, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Each class has a bright band of its own."""
    rng = np.random.default_rng(count)
    labels = np.arange(count) % classes
    x = rng.integers(0, 100, (count, side, side, channels))
    for picture, label in zip(x, labels, strict=True):
        picture[label * side // classes : (label + 1) * side // classes] += 140
    return x.astype(np.uint8), labels.astype(np.uint8)


def idx(path: Path, array: np.ndarray) -> None:
    content = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """Files of the MNIST family, one packed."""
    folder = tmp_path / "digits"
    folder.mkdir()
    for part, count in (("train", 48), ("t10k", 21)):
        x, labels = pictures(count, 28, 1)
        idx(folder / f"{part}-images-idx3-ubyte.gz", x[..., 0])
        idx(folder / f"{part}-labels-idx1-ubyte", labels)
    return folder


def cifar(folder: Path) -> Path:
    folder.mkdir()
    for name in [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]:
        x, labels = pictures(12, 32, 3)
        records = np.concatenate([labels[:, None], x.transpose(0, 3, 1, 2).reshape(12, -1)], axis=1)
        (folder / name).write_bytes(records.astype(np.uint8).tobytes())
    return folder


def classes_of_pictures(folder: Path, count: int = 8) -> Path:
    x, labels = pictures(3 * count, 20, 3)
    for i, (picture, label) in enumerate(zip(x, labels, strict=True)):
        place = folder / "abc"[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture[:, : 16 + i % 4]).save(place / f"{i}.png")
    return folder


def answer(capsys: pytest.CaptureFixture[str], *arguments: Any) -> Any:
    """What a command prints as JSON."""
    assert main([*map(str, arguments), "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


# --- folders ----------------------------------------------------------------------------------------


def test_folders_are_recognised(tmp_path: Path, digits: Path) -> None:
    found = data.recognise(digits)
    assert {name: (type(part), len(part)) for name, part in found.items()} == {
        "train": (data.MNIST, 48),
        "test": (data.MNIST, 21),
    }
    cifar(tmp_path / "cifar-10-batches-bin")
    for place in (tmp_path, tmp_path / "cifar-10-batches-bin"):
        assert {name: len(part) for name, part in data.recognise(place).items()} == {"train": 60, "test": 12}
    plain = data.recognise(classes_of_pictures(tmp_path / "plain"))
    assert list(plain) == ["train"]
    assert plain["train"].classes == ("a", "b", "c")
    for part in ("train", "val", "test"):
        classes_of_pictures(tmp_path / "parts" / part, 2)
    assert list(data.recognise(tmp_path / "parts")) == ["train", "validation", "test"]


def test_emnist_is_turned_upright(tmp_path: Path) -> None:
    x, labels = pictures(5, 6, 1)
    idx(tmp_path / "emnist-digits-train-images-idx3-ubyte", x[..., 0])
    idx(tmp_path / "emnist-digits-train-labels-idx1-ubyte.gz", labels)
    found = data.recognise(tmp_path)
    assert np.array_equal(found["train"].pictures, x.swapaxes(1, 2))
    (tmp_path / "emnist-letters-train-images-idx3-ubyte").write_bytes(b"")
    with pytest.raises(DataError, match=r"expected one data set, got emnist-digits-train.*, emnist-letters"):
        data.recognise(tmp_path)


def test_folders_of_no_known_kind(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected files of the MNIST family, .* got none of these"):
        data.recognise(tmp_path)
    classes_of_pictures(tmp_path / "train", 2)
    (tmp_path / "val" / "d").mkdir(parents=True)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "val" / "d" / "x.png")
    with pytest.raises(DataError, match=r"expected the classes of .*train, got others"):
        data.recognise(tmp_path)


# --- training and evaluation ------------------------------------------------------------------------


def test_train_and_evaluate(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, run, log = tmp_path / "w.safetensors", tmp_path / "run.safetensors", tmp_path / "log.csv"
    done = answer(
        capsys, "train", "--model", "lenet5", "--data", digits, "--epochs", 6, "--batch-size", 16,
        "--augment", "crop", "--schedule", "cosine", "--warmup", 1, "--lr", "0.003", "--quiet",
        "--output", output, "--checkpoint", run, "--log", log,
    )  # fmt: skip
    assert (done["epochs"], done["reason"]) == (6, "epochs")
    assert len(log.read_text().splitlines()) == 7
    found = answer(capsys, "evaluate", "--model", "lenet5", "--weights", output, "--data", digits, "--quiet")
    assert (found["part"], found["pictures"]) == ("test", 21)
    assert found["accuracy"] == done["last"]["val_accuracy"] > 0.6
    assert found["loss"] == pytest.approx(done["last"]["val_loss"], rel=1e-5)
    same = answer(
        capsys, "evaluate", "--model", "lenet5", "--weights", run, "--data", digits, "--quiet",
        "--batch-size", 5,
    )  # fmt: skip
    assert same["loss"] == pytest.approx(found["loss"], rel=1e-4)
    assert main(["evaluate", "--model", "lenet5", "--weights", str(output), "--data", str(digits)]) == 0
    text = capsys.readouterr().out
    assert "21 pictures of 3 classes (test)" in text
    assert f"accuracy  {100 * found['accuracy']:.2f} %" in text


def test_a_resumed_command_gives_the_same_file(digits: Path, tmp_path: Path) -> None:
    common = [
        "train",
        "--model",
        "lenet5",
        "--data",
        str(digits),
        *SHORT,
        "--ema",
        "0.9",
        "--augment",
        "mirror",
    ]
    files = [tmp_path / name for name in ("a.safetensors", "b.safetensors")]
    run = str(tmp_path / "run.safetensors")
    assert main([*common, "--output", str(files[0])]) == 0
    kept = [*common, "--output", str(files[1]), "--checkpoint", run, "--resume"]
    kept[kept.index("--epochs") + 1] = "1"
    assert main(kept) == 0
    kept[kept.index("--epochs") + 1] = "2"
    assert main([*kept, "--workers", "1"]) == 0
    assert files[0].read_bytes() == files[1].read_bytes()


def test_pictures_of_many_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In folders of classes, with a share held out; the classes' names are kept with the weights."""
    folder, output = classes_of_pictures(tmp_path / "data"), tmp_path / "w.safetensors"
    done = answer(
        capsys, "train", "--model", "cifar_resnet20", "--data", folder, "--epochs", 1, "--validation", "0.25",
        "--augment", "zoom,mirror,colour,cutout", "--optimizer", "nesterov", "--freeze", "layer1", "--quiet",
        "--output", output,
    )  # fmt: skip
    assert done["last"]["step"] == 1
    note = json.loads(cf.weights.read_metadata(output)["cnnfast.training"])
    assert note["classes"] == ["a", "b", "c"]
    assert note["size"] == [32, 32, 3]
    found = answer(
        capsys, "evaluate", "--model", "cifar_resnet20", "--weights", output, "--data", folder, "--quiet"
    )
    assert (found["part"], found["pictures"]) == ("train", 24)


def test_boxes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A YOLO learns from VOC's folder; what was written knows its classes and its size."""
    rng = np.random.default_rng(0)
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / "voc" / name).mkdir(parents=True)
    for i in range(10):
        picture = rng.integers(0, 60, (64, 96, 3)).astype(np.uint8)
        x, y, kind = int(rng.integers(0, 60)), int(rng.integers(0, 30)), "ab"[i % 2]
        picture[y : y + 30, x : x + 30, i % 2] = 250
        Image.fromarray(picture).save(tmp_path / "voc" / "JPEGImages" / f"{i}.png")
        box = f"<xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + 30}</xmax><ymax>{y + 30}</ymax>"
        (tmp_path / "voc" / "Annotations" / f"{i}.xml").write_text(
            f"<annotation><object><name>{kind}</name><bndbox>{box}</bndbox></object></annotation>"
        )
    for part, numbers in (("train", range(8)), ("val", range(8, 10))):
        names = "\n".join(map(str, numbers))
        (tmp_path / "voc" / "ImageSets" / "Main" / f"{part}.txt").write_text(names)
    assert {name: len(part) for name, part in data.recognise_boxes(tmp_path / "voc").items()} == {
        "train": 8, "validation": 2,
    }  # fmt: skip
    output, run = tmp_path / "w.safetensors", tmp_path / "run.safetensors"
    common = ["train", "--model", "yolov3_small", "--data", tmp_path / "voc", "--input", "64x96x3",
              "--batch-size", 4, "--augment", "mirror,colour", "--quiet", "--checkpoint", run]  # fmt: skip
    done = answer(capsys, *common, "--epochs", 2, "--output", output)
    assert (done["task"], done["objects"], set(done["ap50"])) == ("detect", 20, {"a", "b"})
    assert 0 <= done["map50"] <= 1
    again = answer(capsys, *common, "--epochs", 3, "--output", tmp_path / "2.safetensors", "--resume")
    assert again["epochs"] == 3
    found = answer(
        capsys, "detect", tmp_path / "voc" / "JPEGImages" / "0.png", "--model", "yolov3_small",
        "--weights", output, "--threshold", "0.001",
    )  # fmt: skip
    assert {thing["name"] for thing in found["results"][0]["objects"]} <= {"a", "b"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "size"),
    [("ssd300", "300x300x3"), ("fasterrcnn_vgg16", "64x64x3"), ("fastrcnn_vgg16", "64x64x3")],
)
def test_other_detectors(tmp_path: Path, capsys: pytest.CaptureFixture[str], network: str, size: str) -> None:
    """From COCO's files, an epoch of one batch."""
    (tmp_path / "train").mkdir()
    (tmp_path / "annotations").mkdir()
    for i in range(2):
        picture = np.zeros((80, 80, 3), np.uint8)
        picture[20:60, 10:50] = 200
        Image.fromarray(picture).save(tmp_path / "train" / f"{i}.png")
    listed = {
        "images": [{"id": i, "file_name": f"{i}.png"} for i in range(2)],
        "categories": [{"id": 7, "name": "thing"}],
        "annotations": [{"image_id": i, "category_id": 7, "bbox": [10, 20, 40, 40]} for i in range(2)],
    }
    (tmp_path / "annotations" / "instances_train.json").write_text(json.dumps(listed))
    done = answer(
        capsys, "train", "--model", network, "--data", tmp_path, "--epochs", 1, "--input", size, "--quiet",
        "--lr", "1e-5", "--validation", "0.5", "--output", tmp_path / "w.safetensors",
    )  # fmt: skip
    assert list(done["ap50"]) == ["thing"]


def test_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A small U-Net learns from pictures and masks that number their things."""
    rng = np.random.default_rng(0)
    for name in ("images", "labels"):
        (tmp_path / "cells" / name).mkdir(parents=True)
    for i in range(10):
        mask = np.zeros((48, 40), np.uint16)
        for thing in range(1, 4):
            y, x = rng.integers(0, 30, 2)
            mask[y : y + 12, x : x + 10] = 500 + thing
        picture = (20 + 180 * (mask > 0) + rng.integers(0, 30, mask.shape)).astype(np.uint8)
        Image.fromarray(picture).save(tmp_path / "cells" / "images" / f"{i}.png")
        Image.fromarray(mask).save(tmp_path / "cells" / "labels" / f"{i}.png")
    output = tmp_path / "w.safetensors"
    common = ["train", "--model", "unet_small", "--data", tmp_path / "cells", "--epochs", 12, "--lr", "0.01",
              "--batch-size", 4, "--input", "32x32x1", "--augment", "crop,mirror", "--quiet"]  # fmt: skip
    assert main([*map(str, common), "--output", str(output)]) == 2
    assert "expected masks with classes from 0 to at most 255, got 503" in capsys.readouterr().err
    done = answer(capsys, *common, "--foreground", "--output", output)
    assert done["last"]["val_foreground_dice"] > 0.8
    assert done["last"]["val_pixel_accuracy"] > 0.8
    picture = tmp_path / "cells" / "images" / "0.png"
    found = answer(capsys, "segment", picture, "--weights", output, "-o", tmp_path / "o.png")
    there = np.asarray(Image.open(tmp_path / "cells" / "labels" / "0.png")) > 0
    assert found["classes"][1]["share"] == pytest.approx(there.mean(), abs=0.1)


@pytest.mark.parametrize("loss", ["cosine", "triplet"])
def test_encoders(tmp_path: Path, capsys: pytest.CaptureFixture[str], loss: str) -> None:
    """Identities in folders of their own; what was written knows its mean and deviation."""
    folder, output = classes_of_pictures(tmp_path / "people"), tmp_path / "w.safetensors"
    done = answer(
        capsys, "train", "--model", "character_encoder", "--data", folder, "--epochs", 2, "--batch-size", 8,
        "--loss", loss, "--validation", "0.25", "--quiet", "--output", output,
    )  # fmt: skip
    assert done["task"] == "embed"
    assert 0 <= done["last"]["val_accuracy" if loss == "cosine" else "val_nearest"] <= 1
    assert not any("classifier" in name for name in cf.load_weights(output))
    answer(
        capsys, "face", "enroll", folder, "--model", "character_encoder", "--weights", output, "-o",
        tmp_path / "db.safetensors",
    )  # fmt: skip


def test_grey_pictures_for_a_network_of_colours(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "w.safetensors"
    arguments = ["train", "--model", "lenet5_rgb", "--data", str(digits), *SHORT, "--output", str(output)]
    assert main(arguments) == 0
    mean = json.loads(cf.weights.read_metadata(output)["cnnfast.training"])["mean"]
    assert len(set(mean)) == 1
    assert len(mean) == 3
    cifar(tmp_path / "cifar")
    assert main(
        ["train", "--model", "lenet5", "--data", str(tmp_path / "cifar"), *SHORT, "--output",
         str(tmp_path / "grey.safetensors"), "--schedule", "one-cycle", "--early-stopping", "1"]
    ) == 0  # fmt: skip


# --- errors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "lenet6"], "there is no model 'lenet6'; nearest names: lenet5"),
        (["--task", "sort"], "invalid choice: 'sort'"),
        (["--epochs", "0"], "expected a whole number from 1, got '0'"),
        (["--lr", "-1"], "expected a number above 0, got '-1'"),
        (["--augment", "mirror,flip"], "expected some of crop, zoom, mirror, .* got 'flip'"),
        (["--validation", "1"], "expected a number between 0 and 1, got '1'"),
        (["--log", "log.txt"], r"expected a name that ends in \.csv or \.jsonl"),
        (["--optimizer", "sdg"], "invalid choice: 'sdg'"),
    ],
)
def test_wrong_usage(
    arguments: list[str], message: str, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--model", "lenet5", "--data", str(digits), "--epochs", "1", *arguments]) == 2
    import re

    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "missing"], "missing: expected a folder, got nothing"),
        (["--resume"], "--resume needs --checkpoint FILE"),
        (["--output", "w.pth"], "w.pth: expected a name that ends in .safetensors"),
        (["--task", "detect"], "lenet5 is for classification, which --task detect does not train"),
        (["--freeze", "nothing*"], "freeze: 'nothing*' meets no module"),
        (["--freeze", "*"], "--freeze leaves nothing to train"),
        (["--warmup", "2"], "--warmup 2: expected fewer than --epochs 2"),
        (["--warmup", "1", "--schedule", "plateau"], "--schedule plateau takes none"),
        (["--input", "32x32x3"], "lenet5 takes 1 channels, --input says 3"),
        (["--lr", "1e30", "--optimizer", "sgd"], "expected a finite loss, got nan in epoch"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str], message: str, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = ["--output", str(tmp_path / "w.safetensors")]
    assert main(["train", "--model", "lenet5", "--data", str(digits), *SHORT, *usual, *arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith("cnnfast: ")
    assert message in err
    assert err.count("\n") == 1


def test_files_are_not_written_over(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, run = tmp_path / "w.safetensors", tmp_path / "run.safetensors"
    common = ["train", "--model", "lenet5", "--data", str(digits), *SHORT]
    both = ["--output", str(output), "--checkpoint", str(run)]
    output.write_bytes(b"mine")
    assert main([*common, *both]) == 2
    assert "exists already; --force replaces it" in capsys.readouterr().err
    assert output.read_bytes() == b"mine"
    assert main([*common, *both, "--force"]) == 0
    first = run.read_bytes()
    assert main([*common, *both]) == 2
    assert "exists already; --resume goes on from it, --force replaces it" in capsys.readouterr().err
    assert run.read_bytes() == first
    run.write_bytes(first[:-1])
    assert main([*common, *both, "--resume"]) == 2
    assert "load_checkpoint: " in capsys.readouterr().err


def test_evaluate_errors(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "w.safetensors"
    assert main(["train", "--model", "lenet5", "--data", str(digits), *SHORT, "--output", str(output)]) == 0
    other = classes_of_pictures(tmp_path / "other", 2)
    (other / "d").mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(other / "d" / "x.png")
    capsys.readouterr()
    for arguments, message in (
        (["--model", "lenet5", "--weights", output, "--data", other], "expected the 3 classes of "),
        (["--model", "lenet5_rgb", "--weights", output, "--data", digits], "has weights of lenet5, not of"),
        (
            ["--model", "lenet5", "--weights", output, "--data", digits, "--part", "validation"],
            "got train, test",
        ),
        (["--model", "lenet5", "--weights", tmp_path / "no.safetensors", "--data", digits], "No such file"),
    ):
        assert main(["evaluate", *map(str, arguments)]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"cnnfast {command} --model lenet5" in text
    assert max(map(len, text.splitlines())) <= 115


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGINT")
def test_interrupt(digits: Path, tmp_path: Path) -> None:
    """Exit status 130, and the command goes on with --resume."""
    run, output = tmp_path / "run.safetensors", tmp_path / "w.safetensors"
    common = [
        "train",
        "--model",
        "lenet5",
        "--data",
        str(digits),
        "--checkpoint",
        str(run),
        "--output",
        str(output),
    ]
    with subprocess.Popen(
        [sys.executable, "-m", "cnnfast", *common, "--epochs", "100000"], stderr=subprocess.PIPE, text=True
    ) as child:
        try:
            assert child.stderr is not None
            assert child.stderr.readline().startswith("epoch 1/100000  loss ")
            child.send_signal(signal.SIGINT)
            _, err = child.communicate(timeout=60)
        finally:
            child.kill()
    assert child.returncode == 130, err
    assert f": saved in {run}" in err
    assert err.splitlines()[-1] == "cnnfast: interrupted"
    assert not output.exists()
    epochs = len(cf.train.load_checkpoint(run)["history"]) + 1
    assert main([*common, "--epochs", str(epochs), "--resume", "--quiet"]) == 0
    assert output.exists()


# --- real data --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_fashion_mnist(assets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two epochs of LeNet-5 on the real pictures."""
    output = tmp_path / "lenet5.safetensors"
    started = time.monotonic()
    done = answer(
        capsys, "train", "--model", "lenet5", "--data", assets / "datasets" / "fashion-mnist", "--epochs", 2,
        "--batch-size", 64, "--schedule", "one-cycle", "--lr", "0.003", "--output", output,
    )  # fmt: skip
    with capsys.disabled():
        print(f"{time.monotonic() - started:.0f} s, {done['last']}")
    assert done["last"]["val_accuracy"] > 0.84
    found = answer(
        capsys, "evaluate", "--model", "lenet5", "--weights", output, "--data",
        assets / "datasets" / "fashion-mnist",
    )  # fmt: skip
    assert found["pictures"] == 10_000
    assert found["accuracy"] == pytest.approx(done["last"]["val_accuracy"], abs=2e-4)
