"""Data sets in folders whose files say what they are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..errors import DataError
from .cifar import CIFAR10, CIFAR100
from .files import Name, folder
from .folders import ImageFolder
from .idx import MNIST, Idx

__all__ = ["recognise"]

_VALIDATION = ("validation", "valid", "val")
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
