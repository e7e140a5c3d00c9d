"""Detectors end to end: letterbox, network, suppression, drawing, and the command."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cnnfast as cf
from cnnfast.cli import main
from cnnfast.detection import CLASS_NAMES, Detector, class_names, draw, evaluate, letterbox, suppress
from cnnfast.detection.drawing import colour
from cnnfast.errors import CnnfastError, DataError, ShapeError
from cnnfast.models.darknet import Darknet
from cnnfast.models.yolo import Detections, _head_v3, _section
from cnnfast.pictures import load_picture, save_picture
from cnnfast.tensor import Parameter

NATIVE = cf._cpu is not None
ASSETS = os.environ.get("CNNFAST_ASSETS", "")


def marker(size: int = 608, stride: int = 32) -> Darknet:
    """A network that finds white squares of 64 pixels: each cell's mean brightness is its objectness."""
    conv = _section("convolutional", filters=6, size=stride, stride=stride, pad=0, activation="linear")
    sections = [_section("net", width=size, height=size, channels=3), conv]
    model = Darknet([*sections, _head_v3((0,), (64, 64), 1)[1]]).initialize(0).eval()
    layer = model.layers[0].conv
    weight = np.zeros(layer.weight.shape, np.float32)
    weight[..., 4] = weight[..., 5] = 40 / weight[..., 0].size
    layer.weight.data = weight
    bias = np.zeros(6, np.float32)
    bias[4:] = -36  # only cells that are all white are believed
    layer.bias.data = bias
    return model


@pytest.mark.parametrize("shape", [(608, 608), (304, 608), (720, 1280), (456, 300), (1216, 912)])
def test_boxes_come_back_within_a_pixel(shape: tuple[int, int], rng: np.random.Generator) -> None:
    detector = Detector(marker(), score_threshold=0.5)
    _, place = letterbox(np.zeros((*shape, 3), np.float32), 608)
    top, left = place.offset
    picture = np.zeros((*shape, 3), np.uint8)
    # A cell of the frame that lies within the picture, as it is in the picture.
    row, column = -(-top // 32) + 1, -(-left // 32) + 1
    cell = np.array([[column * 32.0, row * 32.0, column * 32 + 32.0, row * 32 + 32.0]])
    x1, y1, x2, y2 = place.undo(cell)[0]
    picture[int(np.floor(y1)) : int(np.ceil(y2)), int(np.floor(x1)) : int(np.ceil(x2))] = 255
    found = detector(picture)
    # The anchor is twice the cell, around its middle.
    middle, reach = (cell[0, :2] + cell[0, 2:]) / 2, 32
    expected = place.undo(np.concatenate([middle - reach, middle + reach])[None])
    assert len(found.boxes) == 1
    np.testing.assert_allclose(found.boxes, expected, atol=1)
    assert found.scores[0] > 0.9


def test_compiled_or_not_and_thresholds(rng: np.random.Generator) -> None:
    model = cf.models.yolov3_small(seed=3)
    picture = (rng.random((100, 150, 3)) * 255).astype(np.float32)
    options: dict[str, Any] = {"size": (96, 128), "score_threshold": 0.2, "max_detections": 50}
    plain, fast = (Detector(model, **options, compiled=c)(picture) for c in (False, NATIVE))
    assert len(plain.boxes) == len(fast.boxes) == 50
    np.testing.assert_allclose(fast.scores, plain.scores, atol=1e-4)
    assert (plain.scores[:-1] >= plain.scores[1:]).all()
    assert (plain.boxes >= 0).all()
    assert (plain.boxes <= [150, 100, 150, 100]).all()
    detector = Detector(model, **options)
    assert len(detector(picture, score_threshold=1.0).boxes) == 0
    np.testing.assert_array_equal(detector(picture.astype(np.uint8)).scores.shape, (50,))


def test_ssd(rng: np.random.Generator) -> None:
    picture = (rng.random((90, 120, 3)) * 255).astype(np.float32)
    ssd = Detector(cf.models.ssd300(4, width=0.1, seed=1), score_threshold=0.3, compiled=False)
    found = ssd(picture)
    assert ssd.classes == 3
    assert len(found.boxes)
    assert set(found.classes) <= {0, 1, 2}
    assert (found.boxes <= [120, 90, 120, 90]).all()


@pytest.mark.parametrize("method", ["hard", "soft", "weighted"])
def test_suppression_of_each_class_for_itself(method: str) -> None:
    box = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 10], [40, 40, 50, 50]], np.float32)
    scores, classes = np.array([0.6, 0.9, 0.7, 0.1], np.float32), np.array([0, 0, 1, 0])
    found = suppress(Detections(box, scores, classes), method=method, iou_threshold=0.5)
    assert (found.scores[:-1] >= found.scores[1:]).all()
    expected = {"hard": [0.9, 0.7, 0.1], "weighted": [0.9, 0.7, 0.1], "soft": [0.9, 0.7, 0.119, 0.1]}
    np.testing.assert_allclose(found.scores, expected[method], atol=2e-3)
    if method == "weighted":
        np.testing.assert_allclose(found.boxes[0], [0, 0, 10, 9.4], rtol=1e-6)
    assert len(suppress(found, method=method, max_detections=1).boxes) == 1
    none = Detections(box[:0], scores[:0], classes[:0])
    assert len(suppress(none, method=method).boxes) == 0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"model": cf.nn.ReLU()}, CnnfastError, "expected a YOLO network"),
        ({"score_threshold": 2}, ShapeError, "from 0 to 1"),
        ({"suppression": "none"}, ShapeError, "suppression"),
        ({"size": 0}, ShapeError, "size"),
        ({"model": cf.models.ssd300(3, width=0.05), "size": 300}, ShapeError, "YOLO networks alone"),
    ],
)
def test_detectors_that_cannot_be(arguments: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        Detector(**{"model": marker(64), **arguments})


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1), (0, 8, 3)])
def test_pictures_that_are_none(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError):
        Detector(marker(64))(np.zeros(shape, np.float32))


def test_evaluate(rng: np.random.Generator) -> None:
    detector = Detector(marker(64), names=("square",))
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[32:, 32:] = 255
    sample = cf.data.Sample(picture, boxes=[[16, 16, 64, 64]], classes=[0])
    assert evaluate(detector, [sample]).mean == 1
    assert evaluate(detector, [sample]).names == ("square",)
    assert evaluate(detector, [sample], style="coco").ap50 == 1
    with pytest.raises(DataError, match="with boxes"):
        evaluate(detector, [cf.data.Sample(picture)])
    with pytest.raises(DataError, match="at least one"):
        evaluate(detector, [])
    with pytest.raises(ShapeError, match="style"):
        evaluate(detector, [sample], style="other")


# --- names and drawing ------------------------------------------------------------------------------


def test_names() -> None:
    assert class_names(80)[16] == "dog"
    assert class_names(20)[11] == "dog"
    assert class_names(90)[17] == "dog"  # category 18
    assert class_names(90)[11] == ""
    assert class_names(3) == ()
    assert class_names(3, "bccd") == CLASS_NAMES["bccd"]
    assert sum(map(bool, CLASS_NAMES["coco91"])) == 80
    if ASSETS:
        assert list(class_names(80)) == (Path(ASSETS) / "coco_classes.txt").read_text().split("\n")[:80]


def test_drawing(rng: np.random.Generator) -> None:
    picture = (rng.random((120, 160, 3)) * 200).astype(np.float32)
    boxes = np.array([[30, 50, 90, 100], [-20, -30, 300, 400]], np.float32)
    found = Detections(boxes, np.array([0.9, 0.4]), np.array([0, 1]))
    drawn = draw(picture, found, ("cell",))
    assert drawn.dtype == np.uint8
    assert drawn.shape == picture.shape
    assert (drawn[50, 31:89] == colour(0)).all()
    assert (drawn[51:100, 30] == colour(0)).all()
    assert (drawn[119, 3:] == colour(1)).all()
    inside = drawn[60:95, 40:85].astype(int)
    np.testing.assert_array_equal(inside, np.rint(picture[60:95, 40:85]))
    empty = Detections(boxes[:0], np.zeros(0), np.zeros(0, int))
    np.testing.assert_array_equal(draw(picture, empty), np.rint(picture))
    with pytest.raises(ShapeError):
        draw(picture[..., :1], found)
    with pytest.raises(ShapeError, match="finite"):
        draw(picture, found._replace(boxes=boxes * np.inf))


# --- the command ------------------------------------------------------------------------------------


@pytest.fixture
def network(tmp_path: Path) -> list[str]:
    """A cfg and its weights: white squares of 32 pixels are found."""
    cfg = tmp_path / "marker.cfg"
    cfg.write_text(
        "[net]\nwidth=96\nheight=96\nchannels=3\n[convolutional]\nfilters=6\nsize=32\nstride=32\n"
        "activation=linear\n[yolo]\nmask=0\nanchors=32,32\nclasses=1\nnum=1\n"
    )
    layer = marker(96).layers[0].conv
    values = np.concatenate([layer.bias.data, layer.weight.data.transpose(3, 2, 0, 1).ravel()])
    weights = tmp_path / "marker.weights"
    header = np.array([0, 2, 0], "<i4").tobytes() + np.array([0], "<u8").tobytes()
    weights.write_bytes(header + values.astype("<f4").tobytes())
    return ["--model", str(cfg), "--weights", str(weights)]


@pytest.fixture
def square(tmp_path: Path) -> str:
    picture = np.zeros((96, 96, 3), np.uint8)
    picture[32:64, 64:] = 255
    save_picture(tmp_path / "square.png", picture)
    return str(tmp_path / "square.png")


def test_command(network: list[str], square: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    names = tmp_path / "names.txt"
    names.write_text("square\n")
    out = tmp_path / "out.png"
    arguments = ["detect", square, *network, "--classes", str(names), "-o", str(out)]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert f"{square} -> {out}" in text
    assert "square" in text.splitlines()[1]
    drawn = np.asarray(Image.open(out))
    assert drawn.shape == (96, 96, 3)
    assert (drawn[33:60, 64] == colour(0)).all()
    assert main([*arguments, "--json"]) == 0
    held = json.loads(capsys.readouterr().out)["results"][0]
    assert (held["width"], held["height"], held["output"]) == (96, 96, str(out))
    (row,) = held["objects"]
    assert (row["class"], row["name"]) == (0, "square")
    np.testing.assert_allclose(row["box"], [64, 32, 96, 64], atol=1)
    assert row["score"] > 0.9
    assert main(["detect", square, *network, "--time", "2"]) == 0
    number = r"\d+\.\d+"
    parts = [rf"{part} {number} ms \({number} %\)" for part in ("preparation", "network", "boxes")]
    assert re.fullmatch(
        rf"  reading {number} ms, " + ", ".join(parts), capsys.readouterr().out.splitlines()[-1]
    )
    assert main(["detect", square, *network, "--threshold", "1"]) == 0
    assert "nothing" in capsys.readouterr().out


def test_command_with_several_pictures(
    network: list[str], square: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    folder = tmp_path / "drawn"
    folder.mkdir()
    assert main(["detect", square, str(broken), *network, "-o", str(folder)]) == 2
    assert "broken.png" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["square.png"]
    assert main(["detect", square, str(broken), *network, "-o", str(tmp_path / "one.png")]) == 2
    assert "expected a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--model", "resnet18"], 2, "no network for detection"),
        (["--model", "yolov9"], 2, "nearest names"),
        (["--threshold", "1.5"], 2, "from 0 to 1"),
        (["--model", "yolov3_tiny"], 2, "give --weights"),
        (["--model", "none.cfg"], 2, "give --weights"),
        (["--model", "none.cfg", "--weights", "none.weights"], 2, "none.cfg"),
        (["-o", "drawn.xyz"], 2, "cannot tell the format"),
    ],
)
def test_command_refuses(
    arguments: list[str], status: int, message: str, square: str, capsys: pytest.CaptureFixture
) -> None:
    assert main(["detect", square, *arguments]) == status
    assert message in capsys.readouterr().err


# --- published weights ------------------------------------------------------------------------------


@pytest.mark.skipif(not ASSETS, reason="CNNFAST_ASSETS is not set: it names the folder of real weights")
def test_yolov3_tiny_finds_the_dog() -> None:
    model = cf.models.yolov3_tiny(weights=Path(ASSETS) / "models" / "yolov3-tiny.weights")
    detector = Detector(model, names=class_names(80))
    found = detector(load_picture(Path(ASSETS) / "pictures" / "dog.jpg"))
    names = {detector.names[k]: box for box, k in zip(found.boxes, found.classes, strict=True)}
    assert {"dog", "bicycle"} <= set(names)
    assert {"car", "truck"} & set(names)
    truth = np.array([[130, 215, 315, 540]], np.float32)  # of the dog, by eye
    assert cf.ops.box_iou(names["dog"][None], truth)[0, 0] > 0.6


# --- ONNX files ---------------------------------------------------------------------------------------


class Places(cf.nn.Module):
    """Gives the same values for every picture, in the order of YOLOX or of YOLOv8."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = Parameter(values.shape, "zeros")
        self.values.data = values

    def forward(self, x: Any) -> Any:
        return self.values + 0 * cf.ops.reduce_mean(x)


def exported(path: Path, kind: str) -> Path:
    """One box of class 1 around (40, 28), 32 wide and 16 high, in a picture of 64 x 96, twice over."""
    grids = [(64 // s, 96 // s) for s in (8, 16, 32)]
    count = sum(r * c for r, c in grids)
    values = np.zeros((count, 8 if kind == "yolox" else 7), np.float32)
    at, also = 3 * 12 + 4, 8 * 12 + 6 + 1  # of strides 8 and 16
    if kind == "yolox":
        values[at, :4] = 40 / 8 - 4, 28 / 8 - 3, np.log(32 / 8), np.log(16 / 8)
        values[also, :4] = 40 / 16 - 1, 28 / 16 - 1, np.log(32 / 16), np.log(16 / 16)
        values[[at, also], 4] = 0.9, 0.8
        values[[at, also], 6] = 1.0
    else:
        values[at, :4] = values[also, :4] = 40, 28, 32, 16
        values[[at, also], 5] = 0.9, 0.8
        values = values.T
    cf.onnx.save(Places(values[None]).eval(), path, (1, 64, 96, 3))
    return path


@pytest.mark.parametrize("kind", ["yolox", "yolov8"])
def test_onnx_values(backend: str, kind: str, tmp_path: Path) -> None:
    detector = Detector(cf.onnx.load(exported(tmp_path / "n.onnx", kind)))
    found = detector(np.zeros((128, 192, 3), np.uint8))
    np.testing.assert_allclose(found.boxes, [[48, 40, 112, 72]], atol=1e-3)
    np.testing.assert_allclose(found.scores, [0.9], rtol=1e-6)
    assert (detector.classes, found.classes.tolist()) == (3, [1])
    high = detector(np.zeros((128, 96, 3), np.uint8))  # in a letterbox: at the left, or in the middle
    left = 0 if kind == "yolox" else -24
    np.testing.assert_allclose(high.boxes, [[48 + 2 * left, 40, min(112 + 2 * left, 96), 72]], atol=1e-3)


def test_onnx_command(native: None, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    network = str(exported(tmp_path / "n.onnx", "yolox"))
    save_picture(tmp_path / "p.png", np.zeros((64, 96, 3), np.uint8))
    command = ["detect", str(tmp_path / "p.png"), "--model", network]
    assert main([*command, "--json", "--time", "3"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["results"]
    assert [thing["class"] for thing in found["objects"]] == [1]
    assert list(found["milliseconds"]) == ["reading", "preparation", "network", "boxes"]
    assert all(ms > 0 for ms in found["milliseconds"].values())
    assert main([*command, "--time", "2"]) == 0
    assert re.search(r"network [0-9.]+ ms \([0-9.]+ %\)", capsys.readouterr().out)
    assert main([*command, "--weights", "w.npz"]) == 2
    assert "has its own weights" in capsys.readouterr().err
    assert main([*command, "--input", "40x96"]) == 2
    assert "multiples of 32" in capsys.readouterr().err
    cf.onnx.save(cf.nn.GlobalAvgPool2d().eval(), tmp_path / "other.onnx", (1, 64, 96, 3))
    assert main(["detect", str(tmp_path / "p.png"), "--model", str(tmp_path / "other.onnx")]) == 2
    assert "expected values (1,126,5+C) or (1,4+C,126)" in capsys.readouterr().err


def test_yolox_finds_the_dog(native: None, assets: Path) -> None:
    detector = Detector(cf.onnx.load(assets / "models" / "yolox_nano.onnx"), names=CLASS_NAMES["coco"])
    found = detector(assets / "pictures" / "dog.jpg")
    names = [detector.names[k] for k in found.classes]
    assert {"dog", "bicycle"} <= set(names)
    assert {"car", "truck"} & set(names)
    dog = found.boxes[names.index("dog")]
    assert cf.ops.box_iou(dog[None], np.float32([[132, 222, 312, 540]]))[0, 0] > 0.7
