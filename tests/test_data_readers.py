"""Readers of data sets: what they read, and damaged, lying and hostile files."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnnfast import data
from cnnfast.errors import CnnfastError, DataError, DTypeError, PictureError, ShapeError
from cnnfast.pictures import load_mask


def idx_bytes(values: np.ndarray, kind: int = 0x08) -> bytes:
    header = bytes([0, 0, kind, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    return header + values.astype(values.dtype.newbyteorder(">")).tobytes()


def save_picture(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


# --- idx --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "dtype"), [(8, "u1"), (9, "i1"), (11, "i2"), (12, "i4"), (13, "f4"), (14, "f8")]
)
@pytest.mark.parametrize("packed", [False, True])
def test_idx_of_every_type(
    kind: int, dtype: str, packed: bool, rng: np.random.Generator, tmp_path: Path
) -> None:
    values = (rng.standard_normal((3, 5, 2)) * 50).astype(dtype)
    content = idx_bytes(values, kind)
    (tmp_path / "f").write_bytes(gzip.compress(content) if packed else content)
    read = data.read_idx(tmp_path / "f")
    assert read.dtype == np.dtype(dtype)
    assert read.dtype.isnative
    assert np.array_equal(read, values)


HOSTILE_IDX = {
    "empty": b"",
    "text": b"hello, world",
    "type": b"\0\0\x07\1\0\0\0\1x",
    "no dimensions": b"\0\0\x08\0",
    "many dimensions": b"\0\0\x08\xff" + bytes(2000),
    "no shape": b"\0\0\x08\3\0\0",
    "short": idx_bytes(np.zeros((3, 4), np.uint8))[:-1],
    "long": idx_bytes(np.zeros((3, 4), np.uint8)) + b"x",
    "lying": b"\0\0\x08\3" + b"\xff" * 12 + bytes(100),
    "overflowing": b"\0\0\x0e\x08" + b"\xff" * 32 + bytes(100),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", HOSTILE_IDX)
def test_damaged_idx(name: str, packed: bool, tmp_path: Path) -> None:
    content = HOSTILE_IDX[name]
    (tmp_path / "bad").write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(DataError, match=r"bad: byte \d+: expected .*, got "):
        data.read_idx(tmp_path / "bad")


def test_gzip_that_is_cut_off_or_has_a_wrong_checksum(tmp_path: Path) -> None:
    good = gzip.compress(idx_bytes(np.arange(256, dtype=np.uint8).reshape(16, 16)))
    for length in range(2, len(good), 7):
        (tmp_path / "bad").write_bytes(good[:length])
        with pytest.raises(DataError, match="bad: byte"):
            data.read_idx(tmp_path / "bad")
    (tmp_path / "bad").write_bytes(good[:-8] + bytes([good[-8] ^ 1]) + good[-7:])
    with pytest.raises(DataError, match="CRC"):
        data.read_idx(tmp_path / "bad")


def test_gzip_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    bomb = gzip.compress(b"\0\0\x08\1" + struct.pack(">I", 2**31 - 1) + bytes(1 << 20))
    (tmp_path / "bomb").write_bytes(bomb)
    with pytest.raises(DataError, match=r"at most \d+ bytes"):
        data.read_idx(tmp_path / "bomb")


def test_mnist_folder(rng: np.random.Generator, tmp_path: Path) -> None:
    pictures = rng.integers(0, 256, (5, 6, 7), np.uint8)
    labels = rng.integers(0, 10, 5, np.uint8)
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(pictures)))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    digits = data.MNIST(tmp_path, train=False)
    assert len(digits) == 5
    sample = digits[-1]
    assert sample.label == labels[4]
    assert sample.picture.dtype == np.float32
    assert np.array_equal(sample.picture, pictures[4, ..., None])
    for wrong in (5, -6):
        with pytest.raises(IndexError):
            digits[wrong]
    with pytest.raises(DataError, match="expected train-images-idx3-ubyte or"):
        data.MNIST(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(labels[:4]))
    with pytest.raises(DataError, match="expected 5 labels"):
        data.MNIST(tmp_path, train=False)
    files = tmp_path / "t10k-images-idx3-ubyte.gz", tmp_path / "labels"
    files[1].write_bytes(idx_bytes(labels))
    turned = data.Idx(*files, transpose=True)
    assert np.array_equal(turned[0].picture[..., 0], pictures[0].T)


# --- CIFAR ------------------------------------------------------------------------------------------


def cifar_bytes(pictures: np.ndarray, *labels: np.ndarray) -> bytes:
    flat = pictures.transpose(0, 3, 1, 2).reshape(len(pictures), -1)
    return np.concatenate([*(kind[:, None] for kind in labels), flat], 1).astype(np.uint8).tobytes()


def test_cifar10(rng: np.random.Generator, tmp_path: Path) -> None:
    pictures = rng.integers(0, 256, (10, 32, 32, 3), np.uint8)
    labels = np.arange(10)
    for i in range(5):
        part = slice(2 * i, 2 * i + 2)
        (tmp_path / f"data_batch_{i + 1}.bin").write_bytes(cifar_bytes(pictures[part], labels[part]))
    (tmp_path / "test_batch.bin").write_bytes(cifar_bytes(pictures[:1], labels[:1]))
    (tmp_path / "batches.meta.txt").write_text("a b c d e f g h i frog\n")
    train = data.CIFAR10(tmp_path)
    assert train.classes[9] == "frog"
    assert np.array_equal(np.stack([s.picture for s in map(train.__getitem__, range(10))]), pictures)
    assert np.array_equal(train.labels, labels)
    assert len(data.CIFAR10(tmp_path, train=False)) == 1


def test_cifar100_has_two_labels(rng: np.random.Generator, tmp_path: Path) -> None:
    pictures = rng.integers(0, 256, (3, 32, 32, 3), np.uint8)
    coarse, fine = np.array([3, 4, 19]), np.array([99, 1, 2])
    (tmp_path / "train.bin").write_bytes(cifar_bytes(pictures, coarse, fine))
    assert data.CIFAR100(tmp_path).labels.tolist() == fine.tolist()  # type: ignore[union-attr]
    assert data.CIFAR100(tmp_path, coarse=True)[2].label == 19


def test_damaged_cifar(tmp_path: Path) -> None:
    path = tmp_path / "f.bin"
    for content in (b"", bytes(3072), bytes(3074)):
        path.write_bytes(content)
        with pytest.raises(DataError, match="expected records of 3073 bytes"):
            data.read_cifar(path)
    path.write_bytes(bytes(3073) + b"\x0a" + bytes(3072))
    with pytest.raises(DataError, match="byte 3073: expected a label below 10, got 10"):
        data.read_cifar(path)


# --- folders ----------------------------------------------------------------------------------------


def test_image_folder(rng: np.random.Generator, tmp_path: Path) -> None:
    pictures = rng.integers(0, 256, (3, 4, 5, 3), np.uint8)
    save_picture(tmp_path / "dog" / "b.png", pictures[0])
    save_picture(tmp_path / "cat" / "deep" / "a.png", pictures[1])
    save_picture(tmp_path / "cat" / "z.PNG", pictures[2])
    (tmp_path / "cat" / "notes.txt").write_text("not a picture")
    found = data.ImageFolder(tmp_path)
    assert found.classes == ("cat", "dog")
    assert [s.label for s in map(found.__getitem__, range(3))] == [0, 0, 1]
    assert np.array_equal(found[2].picture, pictures[0])
    assert found[0].name.endswith("a.png")
    assert data.ImageFolder(tmp_path, channels=1)[0].picture.shape == (4, 5, 1)
    (tmp_path / "cat" / "z.PNG").write_bytes(b"no picture")
    with pytest.raises(PictureError, match=r"z\.PNG"):
        found[1]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: expected pictures"):
        data.ImageFolder(tmp_path)
    for path, what in ((tmp_path / "absent", "nothing"), (tmp_path / "cat" / "notes.txt", "a file")):
        with pytest.raises(DataError, match=f"expected a folder, got {what}"):
            data.ImageFolder(path)


def test_folders_that_lead_into_themselves(tmp_path: Path) -> None:
    save_picture(tmp_path / "a" / "p.png", np.zeros((2, 2), np.uint8))
    os.symlink(tmp_path / "a", tmp_path / "a" / "again")
    assert len(data.ImageFolder(tmp_path)) == 1


@pytest.mark.parametrize("kind", ["1", "L", "P", "I;16", "I"])
def test_masks_are_read_as_they_are_stored(kind: str, rng: np.random.Generator, tmp_path: Path) -> None:
    values = rng.integers(0, 2 if kind == "1" else 200, (6, 5)).astype(np.uint8)
    if kind == "P":
        image = Image.fromarray(values)
        image.putpalette(rng.integers(0, 256, 768).astype(np.uint8).tolist())
    elif kind == "1":
        image = Image.fromarray(values * 255).convert("1")
    else:
        image = Image.fromarray(values.astype({"L": np.uint8, "I;16": np.uint16, "I": np.int32}[kind]) * 1)
    image.save(tmp_path / "m.png" if kind != "I" else tmp_path / "m.tif")
    read = load_mask(next(tmp_path.iterdir()))
    assert read.dtype == np.int32
    assert np.array_equal(read, values)


def test_mask_folder(rng: np.random.Generator, tmp_path: Path) -> None:
    picture = rng.integers(0, 256, (4, 5, 3), np.uint8)
    mask = rng.integers(0, 3, (4, 5)).astype(np.uint8)
    save_picture(tmp_path / "p" / "a.png", picture)
    save_picture(tmp_path / "m" / "a_mask.png", mask)
    with pytest.raises(DataError, match=r"expected one mask a\.\*"):
        data.MaskFolder(tmp_path / "p", tmp_path / "m")
    found = data.MaskFolder(tmp_path / "p", tmp_path / "m", mask_name=lambda name: name + "_mask")
    sample = found[0]
    assert np.array_equal(sample.picture, picture)
    assert np.array_equal(sample.mask, mask)
    save_picture(tmp_path / "m" / "a_mask.png", mask[:3])
    with pytest.raises(DataError, match=r"expected a mask \(4, 5\)"):
        found[0]
    save_picture(tmp_path / "m" / "a_mask.png", picture)
    with pytest.raises(PictureError, match="expected a mask of one channel"):
        found[0]


# --- VOC --------------------------------------------------------------------------------------------


def thing(name: object, *box: object, difficult: int = 0) -> str:
    edges = "".join(
        f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{edges}</bndbox></object>"


def annotation(*things: str) -> str:
    return f"<annotation>{''.join(things)}</annotation>"


def voc(root: Path, xml: str, names: str = "a\n") -> Path:
    for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "ImageSets/Main/train.txt").write_text(names)
    (root / "Annotations/a.xml").write_text(xml)
    save_picture(root / "JPEGImages/a.jpg", np.zeros((20, 30, 3), np.uint8))
    return root


def test_voc(tmp_path: Path) -> None:
    objects = thing("dog", 1, 2, 30, 20, difficult=1), thing("cat", 3.5, 4, 40, 19)
    root = voc(tmp_path, annotation(*objects), "a 1\n\n")
    found = data.VOC(root)
    assert found.classes == ("cat", "dog")
    sample = found[0]
    assert sample.boxes.tolist() == [[0, 1, 30, 20], [2.5, 3, 30, 19]]
    assert sample.classes.tolist() == [1, 0]
    assert sample.difficult.tolist() == [True, False]
    edges = data.VOC(root, None, classes=("cat", "dog", "cow"), one_based=False)[0]
    assert edges.boxes.tolist() == [[1, 2, 30, 20], [3.5, 4, 30, 19]]
    with pytest.raises(DataError, match=r"a\.xml: expected the classes .* got 'dog'"):
        data.VOC(root, classes=("cat",))[0]
    with pytest.raises(FileNotFoundError):
        data.VOC(root, "test")


def test_voc_without_objects(tmp_path: Path) -> None:
    sample = data.VOC(voc(tmp_path, "<annotation/>"))[0]
    assert sample.boxes.shape == (0, 4)
    assert sample.classes.shape == (0,)


BILLION_LAUGHS = """<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">
<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]><annotation>&c;</annotation>"""
OUTSIDE = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>'
HOSTILE_XML = {
    "entities": (BILLION_LAUGHS, r"line 1.*without a document type"),
    "outside": (OUTSIDE, "without a document type"),
    "empty": ("", "well-formed"),
    "cut off": ("<annotation><object>", "well-formed"),
    "deep": ("<annotation>" + "<a>" * 100_000, "nested"),
    "encoding": ('<?xml version="1.0" encoding="no-such"?><annotation/>', "well-formed"),
    "other": ("<html/>", "<annotation>"),
    "no name": (annotation(thing("", 1, 1, 2, 2)), "object 1: expected a <name>"),
    "no box": ("<annotation><object><name>x</name></object></annotation>", "object 1: expected a <bndbox>"),
    "no number": (annotation(thing("x", 1, "a", 2, 2)), "a number <ymin>, got 'a'"),
    "nan": (annotation(thing("x", 1, "nan", 2, 2)), "a number <ymin>"),
    "infinite": (annotation(thing("x", 1, 1, "1e999", 2)), "a number <xmax>"),
    "turned": (annotation(thing("x", 9, 1, 2, 2)), "object 1: expected a box within"),
    "far": (annotation(thing("x", 900, 1, 902, 2)), "object 1: expected a box within"),
}


@pytest.mark.parametrize("name", HOSTILE_XML)
def test_hostile_annotations(name: str, tmp_path: Path) -> None:
    xml, message = HOSTILE_XML[name]
    root = voc(tmp_path, xml)
    with pytest.raises(DataError, match=message) as caught:
        data.VOC(root, classes=("x",))[0]
    assert "a.xml" in str(caught.value)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "..\\x", "a/../../b", "C:\\x", "\0"])
def test_names_that_lead_out(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a name of a file below"):
        data.VOC(voc(tmp_path, "<annotation/>", f"{name}\n"))


# --- COCO -------------------------------------------------------------------------------------------


def coco(root: Path, **changes: Any) -> Path:
    save_picture(root / "pictures/x/a.png", np.zeros((20, 30, 3), np.uint8))
    save_picture(root / "pictures/b.png", np.zeros((10, 10), np.uint8))
    content = {
        "images": [{"id": 7, "file_name": "x/a.png"}, {"id": 5, "file_name": "b.png"}],
        "categories": [{"id": 90, "name": "kite"}, {"id": 3, "name": "car"}],
        "annotations": [
            {"image_id": 7, "category_id": 90, "bbox": [1, 2, 40, 5], "iscrowd": 0},
            {"image_id": 7, "category_id": 3, "bbox": [2.5, 2, 4, 5], "iscrowd": 1},
            {"image_id": 7, "category_id": 3, "bbox": [2, 2, 0, 5]},
        ],
    }
    (root / "a.json").write_text(json.dumps({**content, **changes}))
    return root


def test_coco(tmp_path: Path) -> None:
    coco(tmp_path)
    found = data.COCO(tmp_path / "pictures", tmp_path / "a.json")
    assert found.classes == ("car", "kite")
    assert found.image_ids == [7, 5]
    sample = found[0]
    assert sample.boxes.tolist() == [[1, 2, 30, 7], [2.5, 2, 6.5, 7]]
    assert sample.classes.tolist() == [1, 0]
    assert sample.difficult.tolist() == [False, True]
    assert found[1].boxes.shape == (0, 4)
    assert len(data.COCO(tmp_path / "pictures", tmp_path / "a.json", empty=False)) == 1


def note(**changes: Any) -> dict[str, Any]:
    return {"annotations": [{"image_id": 7, "category_id": 3, "bbox": [1, 1, 2, 2], **changes}]}


HOSTILE_COCO: dict[str, tuple[dict[str, Any], str]] = {
    "no list": ({"images": 3}, "images: expected a list"),
    "no objects": ({"annotations": [3]}, "annotations: expected a list of objects"),
    "no id": ({"images": [{"file_name": "b.png"}]}, "id: expected a whole number"),
    "twice": ({"categories": [{"id": 3}, {"id": 3}]}, "categories: expected ids that differ"),
    "leads out": ({"images": [{"id": 7, "file_name": "../a.png"}]}, "name of a file below"),
    "absolute": ({"images": [{"id": 7, "file_name": "/etc/passwd"}]}, "name of a file below"),
    "no name": ({"images": [{"id": 7, "file_name": 9}]}, "a text file_name"),
    "image": (note(image_id=8), r"annotations\[0\]: expected the id of an image, got 8"),
    "list": (note(image_id=[7]), r"annotations\[0\]: expected the id of an image"),
    "category": (note(category_id=4), "the id of a category, got 4"),
    "short": (note(bbox=[1, 2, 3]), "a bbox of x, y"),
    "text": (note(bbox=[1, 2, 3, "4"]), "a bbox of numbers, got '4'"),
    "huge": (note(bbox=[1, 2, 3, 10**400]), "a bbox of numbers"),
    "negative": (note(bbox=[1, 2, -3, 1]), "no negative size"),
}


@pytest.mark.parametrize("name", HOSTILE_COCO)
def test_hostile_coco(name: str, tmp_path: Path) -> None:
    changes, message = HOSTILE_COCO[name]
    if name in ("leads out", "absolute", "no name"):
        changes = {**changes, "annotations": []}
    coco(tmp_path, **changes)
    with pytest.raises(DataError, match=message):
        data.COCO(tmp_path / "pictures", tmp_path / "a.json")


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", "[" * 100_000, '{"images": NaN}', "9" * 5000, "\xff".encode("latin1").decode("latin1")],
)
def test_no_coco(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(text.encode("latin1"))
    with pytest.raises(DataError, match=r"a\.json"):
        data.COCO(tmp_path, tmp_path / "a.json")


# --- Omniglot ---------------------------------------------------------------------------------------


def drawing(value: int) -> np.ndarray:
    return np.full((5, 5), value, np.uint8)


def pack(root: Path) -> Path:
    """A zip file of a folder, as Omniglot's are: with entries for the folders."""
    with zipfile.ZipFile(root.with_suffix(".zip"), "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(root.rglob("*")):
            archive.write(path, path.relative_to(root.parent))
    return root.with_suffix(".zip")


def test_omniglot_as_folder_and_zip(tmp_path: Path) -> None:
    for i, name in enumerate(
        ["Latin/character01/1.png", "Greek/character02/1.png", "Greek/character01/2.png"]
    ):
        save_picture(tmp_path / "set" / name, drawing(i))
    for path in (tmp_path / "set", pack(tmp_path / "set")):
        found = data.Omniglot(path)
        assert found.classes == ("Greek/character01", "Greek/character02", "Latin/character01")
        assert found.alphabets == ("Greek", "Greek", "Latin")
        assert [int(found[i].picture[0, 0, 0]) for i in range(3)] == [2, 1, 0]
        assert found[2].label == 2
        assert pickle.loads(pickle.dumps(found))[1].picture.shape == (5, 5, 1)
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match="expected alphabet/character/drawing"):
        data.Omniglot(tmp_path / "bare")


def test_one_shot_runs(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "run01"
    for kind in ("test", "training"):
        for i in range(3):
            save_picture(run / kind / f"{i}.png", drawing(i))
    lines = [f"run01/test/{i}.png run01/training/{(i + 1) % 3}.png" for i in range(3)]
    (run / "class_labels.txt").write_text("\n".join(lines))
    for path in (tmp_path / "runs", pack(tmp_path / "runs")):
        if path.suffix:  # the names in this archive begin with its folder
            assert len(data.one_shot_runs(path)) == 1
        (found,) = data.one_shot_runs(path)
        assert found.answers.tolist() == [1, 2, 0]
        assert found.training[:, 0, 0, 0].tolist() == [0, 1, 2]
    (run / "class_labels.txt").write_text("run01/test/0.png run01/../../x.png")
    with pytest.raises(DataError, match="line 1: expected a test and a training picture"):
        data.one_shot_runs(tmp_path / "runs")


def test_hostile_zip_files(tmp_path: Path) -> None:
    path = tmp_path / "f.zip"
    contents: dict[str, Callable[[zipfile.ZipFile], None]] = {
        "leads out": lambda z: z.writestr("../a/b.png", b"x"),
        "bomb": lambda z: z.writestr("a/b/c.png", bytes(2 << 20)),
    }
    for message, fill in {"file below": contents["leads out"], "at most": contents["bomb"]}.items():
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            fill(archive)
        with pytest.raises(DataError, match=message):
            data.Omniglot(path)
    for content in (b"", b"PK", path.read_bytes()[:-30]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"f\.zip"):
            data.Omniglot(path)


# --- samples ----------------------------------------------------------------------------------------


def test_samples_are_checked() -> None:
    picture = np.zeros((4, 5, 3), np.uint8)
    with pytest.raises(ShapeError, match=r"Sample: expected a picture \(H,W,C\)"):
        data.Sample(picture[0])
    with pytest.raises(DTypeError, match="uint8 or float32, got float64"):
        data.Sample(picture.astype(float))
    with pytest.raises(ShapeError, match=r"expected boxes \(K,4\), got \(2, 3\)"):
        data.Sample(picture, boxes=np.zeros((2, 3)))
    with pytest.raises(ShapeError, match=r"expected classes \(1,\)"):
        data.Sample(picture, boxes=[[0, 0, 1, 1]], classes=[1, 2])
    with pytest.raises(ShapeError, match="expected boxes where there are classes"):
        data.Sample(picture, classes=[1])
    with pytest.raises(ShapeError, match=r"a mask \(4, 5\)"):
        data.Sample(picture, mask=np.zeros((5, 4), int))
    with pytest.raises(DTypeError, match="whole numbers"):
        data.Sample(picture, mask=np.zeros((4, 5)))
    with pytest.raises(ShapeError, match=r"landmarks \(L,2\)"):
        data.Sample(picture, landmarks=[1, 2])


def test_collate() -> None:
    picture = np.zeros((4, 5, 3), np.float32)
    boxes = [[0, 0, 1, 1.5]]
    mask = np.ones((4, 5), np.uint8)
    samples = [
        data.Sample(picture, 3, boxes, mask=mask, landmarks=[[1, 2]], name="a"),
        data.Sample(picture + 1, 4, [], mask=mask, landmarks=[[1, np.nan]], name="b"),
    ]
    batch = data.collate(samples)
    assert len(batch) == 2
    assert batch.pictures.shape == (2, 4, 5, 3)
    assert batch.labels.tolist() == [3, 4]
    assert [b.shape for b in batch.boxes] == [(1, 4), (0, 4)]
    assert batch.boxes[0].dtype == np.float32
    assert batch.masks.shape == (2, 4, 5)
    assert batch.landmarks.dtype == np.float32
    assert batch.names == ["a", "b"]
    with pytest.raises(ShapeError, match="expected pictures of one shape"):
        data.collate([samples[0], data.Sample(picture[1:])])
    with pytest.raises(ShapeError, match="expected label of all samples or of none, 1 have none"):
        data.collate([samples[0], data.Sample(picture)])
    pair = data.collate([(picture, 1), (picture, 2)])
    assert pair[0].shape == (2, 4, 5, 3)
    assert pair[1].tolist() == [1, 2]


def test_subset_and_arrays() -> None:
    whole = data.Arrays(np.arange(12, dtype=np.uint8).reshape(3, 2, 2), [5, 6, 7])
    part = data.Subset(whole, [2, -3])
    assert [s.label for s in map(part.__getitem__, range(len(part)))] == [7, 5]
    with pytest.raises(IndexError):
        data.Subset(whole, [3])
    with pytest.raises(ShapeError, match="expected 3 labels, got 2"):
        data.Arrays(whole.pictures, [1, 2])
    with pytest.raises(DTypeError, match="float64"):
        data.Arrays(np.zeros((1, 2, 2)))
    assert issubclass(DataError, CnnfastError)


# --- real data --------------------------------------------------------------------------------------


def test_fashion_mnist(assets: Path) -> None:
    test = data.MNIST(assets / "datasets/fashion-mnist", train=False, classes=data.MNIST.FASHION)
    assert len(test) == 10_000
    assert test.pictures.shape == (10_000, 28, 28, 1)
    assert np.bincount(test.labels).tolist() == [1000] * 10
    assert test.classes[test[0].label] == "ankle boot"


def test_blood_cells(assets: Path) -> None:
    root = assets / "datasets/bccd/BCCD"
    parts = {split: data.VOC(root, split) for split in ("train", "val", "test")}
    assert {split: len(part) for split, part in parts.items()} == {"train": 205, "val": 87, "test": 72}
    assert parts["train"].classes == ("Platelets", "RBC", "WBC")
    sample = parts["val"][3]
    assert sample.picture.shape == (480, 640, 3)
    assert len(sample.boxes) == len(sample.classes) > 0


def test_nuclei(assets: Path) -> None:
    cells = data.MaskFolder(assets / "datasets/nuclei/images", assets / "datasets/nuclei/labels")
    assert len(cells) == 300
    mask = cells[0].mask
    assert mask.shape == (256, 256)
    assert np.array_equal(np.unique(mask), np.arange(mask.max() + 1))


def test_omniglot_background(assets: Path) -> None:
    drawings = data.Omniglot(assets / "datasets/omniglot/images_background_small1.zip")
    assert len(set(drawings.alphabets)) == 5
    assert np.bincount(drawings.labels).tolist() == [20] * len(drawings.classes)
    picture = drawings[0].picture
    assert picture.shape == (105, 105, 1)
    assert set(np.unique(picture)) == {0, 255}
    runs = data.one_shot_runs(assets / "datasets/omniglot/all_runs.zip")
    assert len(runs) == 20
    assert all(sorted(run.answers) == list(range(20)) for run in runs)
