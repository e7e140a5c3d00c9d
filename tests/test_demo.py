"""``cnnfast demo``: parts, page, files, errors."""

from __future__ import annotations

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cnnfast as cf
from cnnfast import demo, segmentation
from cnnfast.cli import main
from cnnfast.cli.filter import filter_picture, parse_kernel
from cnnfast.demo import page, registry, speed, style
from cnnfast.demo.registry import PICTURES, Part, Picture, Shown, bundled, tiles
from cnnfast.models.registry import entry
from cnnfast.pictures import load_mask, load_picture


class Tags(HTMLParser):
    """Sources of pictures, and that tags are closed in order."""

    VOID = ("img", "meta")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.sources: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.sources += [value or "" for key, value in attrs if key == "src"]
        self.links += [value or "" for key, value in attrs if key == "href"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def part(name: str) -> Shown:
    """What a part shows."""
    [done] = demo.run([name])
    assert done.part.name == name
    assert done.seconds > 0
    return done.shown


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two parts of the tests' own, which take no time."""

    def made() -> Shown:
        pixels = np.full((4, 6, 3), 200, np.uint8)
        table = [{"a < b": 1234.5, "share": 0.25}, {"a < b": None, "share": 1.0}]
        return Shown("Words & more", {"n": 3}, [Picture("grey", "<grey>", pixels)], table, ["A note."])

    parts = {name: Part(name, name.title(), "true", made) for name in ("one", "two")}
    parts["two"] = Part("two", "Two", "true", lambda: Shown("Nothing.", {}))
    monkeypatch.setattr(registry, "_known", lambda: parts)


# --- the command -----------------------------------------------------------------------------------


def test_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tmp_path / "new" / "shown"
    threads = cf.get_num_threads()
    arguments = ["demo", "-o", str(folder), "--only", "classify,edges", "--threads", "1", "--json"]
    assert main(arguments) == 0
    assert cf.get_num_threads() == threads
    out, err = capsys.readouterr()
    assert not err
    found = json.loads(out)
    assert [one["part"] for one in found["parts"]] == ["edges", "classify"]  # in the order of the page
    if found["backend"] == "cpu":
        assert found["threads"] == 1
    index = Path(found["page"])
    assert index == folder / "index.html"
    files = [name for one in found["parts"] for name in one["pictures"]]
    assert {path.name for path in folder.iterdir()} == {"index.html", *files}
    text = index.read_text()
    tags = Tags()
    tags.feed(text)
    tags.close()
    assert not tags.open
    assert tags.sources == files
    assert tags.links == ["#edges", "#classify"]
    assert not {"script", "link", "iframe"} & set(tags.seen)
    assert "http" not in text
    for name in files:
        with Image.open(folder / name) as image:
            image.load()
            assert min(image.size) > 100

    luma = load_picture(PICTURES / "photo.jpg", channels=1)
    edges = np.asarray(Image.open(folder / "edges_sobel.png"))
    assert np.array_equal(edges, filter_picture(luma, parse_kernel("sobel")))
    assert [row["filter"] for row in found["parts"][0]["table"]] == [
        "vertical",
        "horizontal",
        "sobel",
        "scharr",
    ]
    assert found["parts"][0]["numbers"]["pixels that differ from NumPy's"] == 0

    # What the page says of lenet5 is what the library says.
    pictures = list(tiles("clothes.png", 10, 10).reshape(100, 28, 28, 1))
    trained = entry("lenet5").weights["fashion_mnist"]
    model = cf.models.lenet5(weights="fashion_mnist").eval()
    said = model(cf.data.Preprocess.of(trained)(pictures)).argmax(1)
    right = int((said == np.arange(100) // 10).sum())
    table = {row["network"]: row for row in found["parts"][1]["table"]}
    assert table["lenet5"]["right of these"] == f"{right} of 100"
    assert set(table) == {known.name for known, _, t in bundled() if t.classes == "fashion_mnist"}
    best = found["parts"][1]["numbers"]
    assert table[best["network"]]["right of these"] == f"{best['right']} of 100"
    assert best["right"] >= 80


def test_command_prints(capsys: pytest.CaptureFixture[str], tmp_path: Path, small: None) -> None:
    assert main(["demo", "-o", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"one +0\.0 s  n: 3", lines[0])
    assert lines[1].strip() == "A note."
    assert lines[2].startswith("two ")
    assert lines[3].startswith(f"{tmp_path / 'index.html'}: 2 parts, 1 pictures")
    text = (tmp_path / "index.html").read_text()
    for expected in ("Words &amp; more", "&lt;grey&gt;", "a &lt; b", "1,234", "–", "25.0 %", "A note."):
        assert expected in text
    assert (np.asarray(Image.open(tmp_path / "grey.png")) == 200).all()
    assert main(["demo", "-o", str(tmp_path), "--only", "two"]) == 0  # over a page of its own
    assert "grey" not in (tmp_path / "index.html").read_text()


def test_command_errors(capsys: pytest.CaptureFixture[str], tmp_path: Path, small: None) -> None:
    def said(*arguments: str, status: int) -> str:
        assert main(["demo", *arguments]) == status
        out, err = capsys.readouterr()
        assert not out
        return err

    assert "there is no part 'none'; parts: one, two" in said("--only", "one,none", status=2)
    assert "whole number" in said("--threads", "0", status=2)
    file = tmp_path / "file"
    file.write_text("mine")
    assert said("-o", str(file), status=2) == f"cnnfast: {file}: Not a directory\n"
    assert "Not a directory" in said("-o", str(file / "below"), status=2)
    assert file.read_text() == "mine"
    other = tmp_path / "site"
    other.mkdir()
    (other / "index.html").write_text("<html>mine</html>")
    assert "not of cnnfast demo" in said("-o", str(other), status=2)
    assert (other / "index.html").read_text() == "<html>mine</html>"
    with pytest.raises(ValueError, match="there is no part 'none'"):
        demo.run(["none"])


def test_folder_that_cannot_be_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page.os, "access", lambda path, mode: False)  # who runs the tests may be root
    assert main(["demo", "-o", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"cnnfast: {tmp_path}: Permission denied\n"


def test_interrupted(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    old, new = tmp_path / "old", tmp_path / "new"
    assert main(["demo", "-o", str(old)]) == 0
    before = (old / "index.html").read_bytes()
    registry._known()["two"] = Part("two", "Two", "true", stop)  # type: ignore[arg-type]
    for folder in (old, new):
        assert main(["demo", "-o", str(folder)]) == 130
    assert not new.exists()
    assert main(["demo", "-o", str(new), "--only", "one"]) == 0
    monkeypatch.setattr(page, "_page", stop)  # the pictures are there, the page is being made
    assert main(["demo", "-o", str(old), "--only", "one"]) == 130
    assert main(["demo", "-o", str(tmp_path / "third"), "--only", "one"]) == 130
    assert (old / "index.html").read_bytes() == before
    assert {path.name for path in (tmp_path / "third").iterdir()} == {"grey.png"}
    assert {path.name for path in old.iterdir()} == {"grey.png", "index.html"}


# --- parts -------------------------------------------------------------------------------------------


def test_names() -> None:
    assert demo.names()[0] == "edges"
    assert demo.names()[-1] == "course"
    assert [one.part.name for one in demo.run(["edges"])] == ["edges"]


def test_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = part("segment")
    segmenter = segmentation.Segmenter.pretrained("unet_small", "nuclei")
    for number, row in enumerate(shown.table, 1):
        mask = segmenter(PICTURES / f"nuclei_{number}.png")
        marked = load_mask(PICTURES / f"nuclei_{number}_marked.png")
        assert row["nuclei marked by hand"] == marked.max() == len(np.unique(marked)) - 1
        matrix = segmentation.confusion_matrix(mask, marked > 0, 2)
        assert row["Dice of pixels"] == segmentation.class_dice(matrix)[1] > 0.85
        try:
            expected = len(segmentation.find_instances(mask, min_area=10)[1])
        except cf.errors.BackendError:
            expected = None
            assert "pip install 'cnnfast[segmentation]'" in shown.notes[0]
        assert row["regions found"] == expected
    assert [picture.pixels.shape[:2] for picture in shown.pictures] == [(256, 256)] * 4
    counts = [row["regions found"] for row in shown.table]
    assert shown.numbers.get("regions found") == (None if None in counts else sum(counts))
    monkeypatch.setitem(sys.modules, "scipy", None)
    without = part("segment")
    assert "SciPy" in without.notes[0]
    assert [row["regions found"] for row in without.table] == [None, None]


def test_style(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(style, "_SIZE", 48)
    monkeypatch.setattr(style, "_ITERATIONS", 3)
    shown = part("style")
    assert shown.numbers["iterations"] == 3
    assert shown.numbers["style cost, last over first"] < 1
    assert [picture.pixels.shape for picture in shown.pictures] == [(36, 48, 3), (30, 48, 3), (36, 48, 3)]
    assert not np.array_equal(shown.pictures[0].pixels, shown.pictures[2].pixels)


def test_engine_and_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "_MORE", ())
    monkeypatch.setattr(speed, "bundled", lambda: bundled("classification"))
    with cf.use_backend("numpy"):
        assert part("engine").notes
        assert not part("engine").table
        shown = part("speed")
        assert shown.notes
        assert set(shown.table[0]) == {"network", "input", "NumPy, ms"}
    if cf._cpu is None:
        return
    shown = part("engine")
    assert sum(row["share"] for row in shown.table) == pytest.approx(1)
    assert shown.numbers["steps"] == len(shown.table)
    described = cf.compile(cf.models.unet_small()).describe((1, 256, 256, 1))
    assert shown.numbers["GMAC"] == pytest.approx(sum(step.macs for step in described.steps) / 1e9)
    for row in part("speed").table:
        assert row["largest difference"] < 1e-4
        assert row["times as fast as NumPy"] == pytest.approx(row["NumPy, ms"] / row["compiled, ms"])


def test_course(monkeypatch: pytest.MonkeyPatch) -> None:
    run = cf.demo.course.course.run
    monkeypatch.setattr(cf.demo.course.course, "run", lambda: run(["F1", "D5"]))
    shown = part("course")
    facts = list(run(["F1", "D5"]))
    assert shown.numbers == {"facts": len(facts), "facts that hold": len(facts)}
    assert [row["row"] for row in shown.table] == ["F1", "D5"]


def test_detect() -> None:
    shown = part("detect")
    detector = cf.detection.Detector.pretrained("yolov3_small", "bccd")
    marked = json.loads((PICTURES / "blood.json").read_text())["pictures"]
    assert len(shown.table) == len(shown.pictures) == len(marked) == 2
    total = 0
    for row, picture in zip(shown.table, shown.pictures, strict=True):
        blood = load_picture(PICTURES / f"{row['picture']}.jpg")
        found = detector(blood)
        assert row["boxes"] == len(found.boxes) > 10
        assert np.array_equal(picture.pixels, cf.detection.draw(blood, found, detector.names))
        cells = marked[row["picture"]]
        hits = [0, 0, 0]
        for box, k in zip(cells["boxes"], cells["classes"], strict=True):
            same = found.boxes[found.classes == k]
            hits[k] += bool((cf.ops.box_iou(np.float32([box]), same) >= 0.5).any())
        counts = np.bincount(cells["classes"], minlength=3)
        expected = [f"{hit} of {count}" for hit, count in zip(hits, counts, strict=True)]
        assert [row[f"{name} found"] for name in detector.names] == expected
        assert sum(hits) > 0.7 * counts.sum()
        total += sum(hits)
    assert shown.numbers["found"] == total
    assert shown.numbers["cells marked by hand"] == sum(len(cells["boxes"]) for cells in marked.values())


def test_face() -> None:
    shown = part("face")
    enrolled, asked = tiles("characters.png", 2, 20)
    encoder = cf.face.load_encoder("character_encoder", shift=2)
    nearest = (encoder(list(asked)) @ encoder(list(enrolled)).T).argmax(1)
    assert shown.numbers["characters"] == 20
    assert shown.numbers["right"] == (nearest == np.arange(20)).sum() >= 17
    assert shown.pictures[0].pixels.ndim == 3


def test_inspect() -> None:
    filters, maps, patches, classes = part("inspect").pictures
    assert filters.pixels.shape == (2 * 50 + 2, 8 * 50 + 2, 3)  # 16 of them, 48 pixels and a gap of 2 each
    assert maps.pixels.shape == (2 * 86 + 2, 8 * 86 + 2, 3)
    assert patches.pixels.shape == (8 * 86 + 2, 9 * 86 + 2, 3)
    model = cf.models.resnet14_grey(weights="fashion_mnist").eval()
    garments = tiles("clothes.png", 10, 10)
    x = cf.data.Preprocess.of(entry("resnet14_grey").weights["fashion_mnist"])(list(garments[:, 0]))
    said = [cf.data.MNIST.FASHION[k] for k in model(x).argmax(1)]
    assert classes.caption == f"where it is seen: {', '.join(said)}"
    boot = cf.inspect.feature_maps(model, x[9:], ["layer1"])["layer1"][0]
    expected = cf.inspect.grey(boot[..., 0]).repeat(3, axis=0).repeat(3, axis=1)
    assert np.array_equal(maps.pixels[2:86, 2:86], expected)


# --- pictures ----------------------------------------------------------------------------------------


def test_pictures_are_small_and_their_sources_named() -> None:
    files = {path.name: path.stat().st_size for path in PICTURES.iterdir()}
    named = (PICTURES / "README.md").read_text()
    assert sum(files.values()) <= 400_000
    assert {name for name in files if name != "README.md"} == set(
        re.findall(r"`([a-z_0-9]+\.[a-z]+)`", named)
    )
    assert "Zalando SE" in named
    assert "Brenden Lake" in named


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "–"),
        (3, "3"),
        (12345, "12,345"),
        (0.01236, "0.01236"),
        (12.345, "12.3"),
        (4321.9, "4,322"),
        ("a", "a"),
    ],
)
def test_text(value: object, expected: str) -> None:
    assert page.text(value) == expected
