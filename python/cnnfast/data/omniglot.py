"""Omniglot: handwritten characters of many alphabets, twenty drawings of each; its one-shot runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import DataError, WeightsError
from ..pictures import decode_picture
from ..weights.archive import open_archive, read_entry
from ..weights.limits import shown
from .arrays import place
from .files import Name, inside
from .sample import Sample

Array = np.ndarray

__all__ = ["Omniglot", "OneShotRun", "one_shot_runs"]

_MAX_FILE_BYTES = 1 << 20
_MAX_FILES = 200_000


def _members(path: Name) -> dict[str, Callable[[], bytes]]:
    """Files in a folder or in a zip file: name with "/" between parts -> its bytes.

    A zip file is read whole, so that nothing is open when processes are made.
    """
    name = os.fspath(path)
    found: dict[str, Callable[[], bytes]] = {}
    if os.path.isdir(name):
        for folder, folders, files in os.walk(name):
            folders.sort()
            for leaf in sorted(files):
                full = os.path.join(folder, leaf)
                found[os.path.relpath(full, name).replace(os.sep, "/")] = _FileBytes(full)
        return found
    with open(name, "rb") as file:
        try:
            archive, entries = open_archive(file, os.fstat(file.fileno()).st_size)
            with archive:
                for key, entry in entries.items():
                    if key.endswith("/"):
                        continue
                    inside(Path(), key, name)
                    if entry.file_size > _MAX_FILE_BYTES or len(found) >= _MAX_FILES:
                        raise DataError(
                            f"{name}: zip entry {shown(key)}: expected at most {_MAX_FILES} files of at most "
                            f"{_MAX_FILE_BYTES} bytes, got more"
                        )
                    found[key] = _HeldBytes(read_entry(archive, entry).tobytes())
        except WeightsError as error:
            raise DataError(f"{name}: {error}") from None
    return found


class _FileBytes:
    def __init__(self, path: str) -> None:
        self._path = path

    def __call__(self) -> bytes:
        with open(self._path, "rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
        if len(content) > _MAX_FILE_BYTES:
            raise DataError(f"{self._path}: expected at most {_MAX_FILE_BYTES} bytes, got more")
        return content


class _HeldBytes:
    def __init__(self, content: bytes) -> None:
        self._content = content

    def __call__(self) -> bytes:
        return self._content


class Omniglot:
    """Drawings of characters: ``alphabet/character/drawing.png``, 105 x 105.

    Parameters
    ----------
    path : str or os.PathLike
        ``images_background``, ``images_evaluation``, ... as a folder or as the zip file it comes in.

    Attributes
    ----------
    classes : tuple of str
        ``alphabet/character`` by name; the label of a drawing.
    labels : ndarray of int64, shape (N,)
    alphabets : tuple of str
        One for each class.

    Raises
    ------
    DataError
        If there are no such files, or the zip file is corrupt or hostile.
    OSError

    Notes
    -----
    Samples are (105, 105, 1): ink is 0 and paper 255, as they are stored.

    References
    ----------
    Lake, Salakhutdinov, Tenenbaum, "Human-level concept learning through probabilistic program induction",
    2015.
    """

    def __init__(self, path: Name) -> None:
        self.name = os.fspath(path)
        drawings = sorted(
            (parts[-3:], key, read)
            for key, read in _members(path).items()
            if len(parts := key.split("/")) >= 3 and key.endswith(".png")
        )
        if not drawings:
            raise DataError(f"{self.name}: expected alphabet/character/drawing.png, got none")
        characters = sorted({(parts[0], parts[1]) for parts, _, _ in drawings})
        number = {character: i for i, character in enumerate(characters)}
        self.classes = tuple("/".join(character) for character in characters)
        self.alphabets = tuple(alphabet for alphabet, _ in characters)
        self.labels = np.array([number[parts[0], parts[1]] for parts, _, _ in drawings], np.int64)
        self._drawings = [(key, read) for _, key, read in drawings]

    def __len__(self) -> int:
        return len(self._drawings)

    def __getitem__(self, index: int) -> Sample:
        i = place(index, len(self))
        key, read = self._drawings[i]
        name = f"{self.name}/{key}"
        return Sample(decode_picture(read(), name, channels=1), self.labels[i], name=name)


class OneShotRun(NamedTuple):
    """One classification among as many characters as there are training pictures.

    Attributes
    ----------
    training, test : ndarray of float32, shape (K, H, W, 1)
    answers : ndarray of int64, shape (K,)
        For each test picture, the training picture that shows the same character.
    """

    training: Array
    test: Array
    answers: Array


def one_shot_runs(path: Name) -> list[OneShotRun]:
    """The one-shot classification runs of Omniglot (20 of 20 characters).

    Parameters
    ----------
    path : str or os.PathLike
        ``all_runs`` as a folder or as the zip file it comes in: ``runNN/class_labels.txt`` and the pictures
        that it names.

    Raises
    ------
    DataError
        If there are no runs, or they name pictures that are not there.
    OSError
    """
    source = os.fspath(path)
    members = _members(path)
    runs = []
    for key in sorted(key for key in members if key.endswith("class_labels.txt")):
        above = key.split("/")[:-2]  # names in the list begin with the folder of their run
        pairs: list[tuple[str, str]] = []
        text = members[key]().decode("utf-8", "replace")
        for number, line in enumerate(text.splitlines(), 1):
            names = ["/".join([*above, name]) for name in line.split()]
            if not names:
                continue
            if len(names) != 2 or not all(name in members for name in names):
                raise DataError(
                    f"{source}/{key}: line {number}: expected a test and a training picture, "
                    f"got {shown(line)}"
                )
            pairs.append((names[0], names[1]))
        training = sorted({name for _, name in pairs})
        if not pairs:
            raise DataError(f"{source}/{key}: expected pairs of pictures, got none")

        def read(names: list[str]) -> Array:
            pictures = [decode_picture(members[name](), f"{source}/{name}", channels=1) for name in names]
            if len({picture.shape for picture in pictures}) != 1:
                raise DataError(f"{source}/{key}: expected pictures of one size, got several")  # noqa: B023
            return np.stack(pictures)

        place_of = {name: i for i, name in enumerate(training)}
        answers = np.array([place_of[name] for _, name in pairs], np.int64)
        runs.append(OneShotRun(read(training), read([test for test, _ in pairs]), answers))
    if not runs:
        raise DataError(f"{source}: expected runNN/class_labels.txt, got none")
    return runs
