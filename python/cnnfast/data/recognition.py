"""Data sets in folders whose files say what they are."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ..errors import DataError
from .cifar import CIFAR10, CIFAR100
from .coco import COCO
from .files import Name, folder
from .folders import ImageFolder, MaskFolder
from .idx import MNIST, Idx
from .voc import VOC

__all__ = ["recognise", "recognise_boxes", "recognise_masks"]

_VALIDATION = ("validation", "valid", "val")
_PARTS = {"train": ("train",), "validation": _VALIDATION, "test": ("test",)}
_IDX = "train-images-idx3-ubyte"


def recognise(root: Name, *, channels: int = 3) -> dict[str, Any]:
    """The parts of a data set of labelled pictures, whatever kind of folder it is.

    ===================================  ========================================================
    files                                data set
    ===================================  ========================================================
    ``train-images-idx3-ubyte`` ...      MNIST, Fashion-MNIST, KMNIST; with ``.gz`` too
    ``emnist-NAME-train-images-...``     one of EMNIST, turned upright
    ``data_batch_1.bin``, ``train.bin``  CIFAR-10, CIFAR-100, binary; also in the folder they are packed in
    ``train/CLASS/*.jpg``, ``val/...``   pictures, a folder for each class
    ``CLASS/*.jpg``                      the same without parts
    ===================================  ========================================================

    Parameters
    ----------
    root : str or os.PathLike
    channels : {1, 3}
        Of pictures in folders of classes.

    Returns
    -------
    dict
        ``"train"``, and ``"validation"`` and ``"test"`` where the folder has them; each has ``classes`` (may
        be empty) and ``labels``.

    Raises
    ------
    DataError
        If the folder is of no known kind, of several, or its parts have different classes.
    OSError
    """
    held = folder(root)
    names = {entry.name for entry in os.scandir(held)}
    plain = {name.removesuffix(".gz") for name in names}
    prefixes = sorted(name[: -len(_IDX)] for name in plain if name.endswith(_IDX))
    if len(prefixes) > 1:
        raise DataError(f"{held}: expected one data set, got {', '.join(p + _IDX for p in prefixes)}")
    if prefixes:
        return _idx(held, prefixes[0], plain)
    for name, kind, directory in (
        ("data_batch_1.bin", CIFAR10, "cifar-10-batches-bin"),
        ("train.bin", CIFAR100, "cifar-100-binary"),
    ):
        place = held if name in names else held / directory if directory in names else None
        if place is not None:
            return {"train": kind(place), "test": kind(place, train=False)}
    return _folders(held, names, channels)


def _idx(held: Path, prefix: str, plain: set[str]) -> dict[str, Any]:
    if not prefix:
        found: dict[str, Any] = {"train": MNIST(held)}
        if "t10k-images-idx3-ubyte" in plain:
            found["test"] = MNIST(held, train=False)
        return found
    turned = prefix.startswith("emnist")

    def part(name: str) -> Idx:
        files = []
        for kind in ("images-idx3", "labels-idx1"):
            file = held / f"{prefix}{name}-{kind}-ubyte"
            files.append(file if file.is_file() else file.with_name(file.name + ".gz"))
        return Idx(*files, transpose=turned)

    return {name: part(name) for name in ("train", "test") if f"{prefix}{name}-images-idx3-ubyte" in plain}


def _folders(held: Path, names: set[str], channels: int) -> dict[str, Any]:
    folders = {name for name in names if (held / name).is_dir() and not name.startswith(".")}
    if "train" not in folders:
        if not folders:
            raise DataError(
                f"{held}: expected files of the MNIST family, CIFAR's binary version, or a folder of "
                "pictures for each class, got none of these"
            )
        return {"train": ImageFolder(held, channels=channels)}
    found = {"train": ImageFolder(held / "train", channels=channels)}
    validation = next((name for name in _VALIDATION if name in folders), None)
    for part, name in (("validation", validation), ("test", "test" if "test" in folders else None)):
        if name is not None:
            found[part] = ImageFolder(held / name, channels=channels)
            if found[part].classes != found["train"].classes:
                other = sorted(set(found[part].classes) ^ set(found["train"].classes))
                raise DataError(
                    f"{held / name}: expected the classes of {held / 'train'}, got others: {other[:8]}"
                )
    return found


def recognise_boxes(root: Name) -> dict[str, VOC] | dict[str, COCO]:
    """The parts of a data set of pictures with boxes.

    =============================================  ==================================================
    files                                          data set
    =============================================  ==================================================
    ``Annotations/*.xml``, ``JPEGImages``          Pascal VOC; its parts as ``ImageSets/Main/train.txt``,
                                                   ``val.txt`` and ``test.txt`` list them, or all in one
    ``annotations/instances_train2017.json`` ...   COCO; pictures in ``train2017`` or ``images/train2017``
    =============================================  ==================================================

    Parameters
    ----------
    root : str or os.PathLike

    Returns
    -------
    dict
        ``"train"``, and ``"validation"`` and ``"test"`` where the folder has them, all with the ``classes``
        of the first.

    Raises
    ------
    DataError
        If the folder is of neither kind, or its parts have different classes.
    OSError
    """
    held = folder(root)
    if (held / "Annotations").is_dir():
        lists = held / "ImageSets" / "Main"
        named = {part: _first(names, lambda name: (lists / f"{name}.txt").is_file())
                 for part, names in _PARTS.items()}  # fmt: skip
        if named["train"] is None:
            return {"train": VOC(held, "trainval" if (lists / "trainval.txt").is_file() else None)}
        train = VOC(held, named["train"])
        others = {part: name for part, name in named.items() if name and part != "train"}
        return {"train": train, **{p: VOC(held, n, classes=train.classes) for p, n in others.items()}}
    listed = sorted((held / "annotations").glob("instances_*.json"))
    found: dict[str, COCO] = {}
    for part, names in _PARTS.items():
        file = _first(listed, lambda path: path.stem.removeprefix("instances_").startswith(names))  # noqa: B023
        if file is None:
            continue
        name = file.stem.removeprefix("instances_")
        pictures = held / name if (held / name).is_dir() else held / "images" / name
        found[part] = COCO(pictures, file)
        if found[part].classes != next(iter(found.values())).classes:
            raise DataError(f"{file}: expected the classes of the training part, got others")
    if "train" not in found:
        raise DataError(
            f"{held}: expected Annotations/ and JPEGImages/ as of Pascal VOC, or "
            "annotations/instances_train*.json as of COCO, got neither"
        )
    return found


def recognise_masks(root: Name, *, channels: int = 3) -> dict[str, MaskFolder]:
    """The parts of a data set of pictures with masks of the same names.

    Pictures lie in ``images`` or ``pictures``, masks in ``masks`` or ``labels``, both in the folder itself or
    in its ``train``, ``val`` and ``test``.

    Parameters
    ----------
    root : str or os.PathLike
    channels : {1, 3}

    Returns
    -------
    dict
        ``"train"``, and ``"validation"`` and ``"test"`` where the folder has them.

    Raises
    ------
    DataError
    OSError
    """
    held = folder(root)

    def pair(place: Path) -> tuple[Path, Path] | None:
        both = [_first(names, lambda name: (place / name).is_dir())
                for names in (("images", "pictures"), ("masks", "labels"))]  # fmt: skip
        return (place / both[0], place / both[1]) if both[0] and both[1] else None

    found = {}
    for part, names in _PARTS.items():
        places = (held / name for name in names)
        if (folders := next(filter(None, map(pair, places)), None)) is not None:
            found[part] = MaskFolder(*folders, channels=channels)
    if "train" not in found:
        if (folders := pair(held)) is None:
            raise DataError(f"{held}: expected images/ and masks/ (or labels/), got neither")
        found["train"] = MaskFolder(*folders, channels=channels)
    return found


def _first(things: Iterable[Any], good: Callable[[Any], bool]) -> Any:
    return next(filter(good, things), None)
