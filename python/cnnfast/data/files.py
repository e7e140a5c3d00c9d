"""Files of data sets, read with every size checked before anything is allocated."""

from __future__ import annotations

import gzip
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..errors import DataError
from ..weights.limits import shown

Array = np.ndarray
Name = str | os.PathLike[str]

#: Largest array that one file may become.
MAX_BYTES = 1 << 30

#: Deflate cannot do better than 1032 to 1; the rest is for headers.
_DEFLATE_RATIO, _DEFLATE_EXTRA = 1032, 4096

PICTURE_ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


class Stream:
    """A binary file, gzip or plain (told apart by its first bytes), whose errors name file and place."""

    def __init__(self, path: Name) -> None:
        self.name = os.fspath(path)
        self._raw: BinaryIO = open(self.name, "rb")  # noqa: SIM115 (closed by __exit__)
        self.file_bytes = os.fstat(self._raw.fileno()).st_size
        self.packed = self._raw.read(2) == b"\x1f\x8b"
        self._raw.seek(0)
        self._file = gzip.GzipFile(fileobj=self._raw) if self.packed else self._raw
        self.position = 0

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *error: object) -> None:
        self._raw.close()

    def fail(self, expected: str, got: object) -> DataError:
        return DataError(f"{self.name}: byte {self.position}: expected {expected}, got {got}")

    def check_room(self, count: int, what: str) -> None:
        """Refuse ``count`` bytes that this file cannot hold or that are too many."""
        if count > MAX_BYTES:
            raise self.fail(f"at most {MAX_BYTES} bytes of {what}", count)
        most = self.file_bytes - self.position
        if self.packed:
            most = self.file_bytes * _DEFLATE_RATIO + _DEFLATE_EXTRA
        if count > most:
            raise self.fail(f"{count} bytes of {what}", f"a file of {self.file_bytes} bytes")

    def read(self, count: int, what: str) -> Array:
        """The next ``count`` bytes, uint8."""
        self.check_room(count, what)
        content = np.empty(count, np.uint8)
        filled = 0
        try:
            while filled < count:
                got = self._file.readinto(content.data[filled : filled + (1 << 20)])
                if not got:
                    break
                filled += got
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise self.fail(f"intact gzip data of {what}", shown(str(error))) from None
        if filled < count:
            raise self.fail(f"{count} bytes of {what}", f"the end of the file after {filled}")
        self.position += count
        return content

    def expect_end(self) -> None:
        """The file must end here; this is where gzip compares its checksum."""
        try:
            more = self._file.read(1)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise self.fail("intact gzip data", shown(str(error))) from None
        if more:
            raise self.fail("the end of the file", "more bytes")


def read_text(path: Name, limit: int) -> str:
    """A text file in UTF-8 of at most ``limit`` bytes."""
    name = os.fspath(path)
    with open(name, "rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise DataError(f"{name}: expected at most {limit} bytes, got more")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{name}: byte {error.start}: expected UTF-8, got {content[error.start]:#x}"
        ) from None


def inside(root: Path, name: str, source: str) -> Path:
    """The file that ``source`` calls ``name``, which must not lead out of ``root``.

    Names are read as they are written; symbolic links below the root are those of its owner.
    """
    parts = re.split(r"[/\\]", name)
    if not name or "\0" in name or ".." in parts or not parts[0] or ":" in parts[0]:
        raise DataError(f"{source}: expected a name of a file below {root}, got {shown(name)}")
    return root.joinpath(*parts)


def folder(path: Name) -> Path:
    """A folder that must exist."""
    found = Path(path)
    if not found.is_dir():
        raise DataError(f"{found}: expected a folder, got {'a file' if found.exists() else 'nothing'}")
    return found


def pictures_below(root: Path, *, deep: bool = True) -> Iterator[Path]:
    """Pictures in a folder by name, in an order that is the same on every machine; links are not followed."""
    for entry in sorted(os.scandir(root), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False):
            if deep:
                yield from pictures_below(Path(entry.path))
        elif entry.name.lower().endswith(PICTURE_ENDINGS) and not entry.name.startswith("."):
            yield Path(entry.path)
