"""Opening zip files (npz and torch) with every size and position checked before use."""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from contextlib import AbstractContextManager
from typing import BinaryIO, NoReturn

import numpy as np

from cnnfast.errors import WeightsError
from cnnfast.weights.limits import MAX_ZIP_DIRECTORY_BYTES, check_expansion, shown

# What the zip reader raises on damaged input, besides ordinary errors of the operating system.
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    ValueError,
)

_END = struct.Struct("<4s4H2IH")
_END64_LOCATOR = struct.Struct("<4sIQI")
_END64 = struct.Struct("<4sQ2H2I4Q")

# Deflate cannot do better than 1032 to 1.
_MAX_DEFLATE_RATIO = 1032


def open_archive(file: BinaryIO, size: int) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
    """Open a zip file and check its directory; entries are found by name only, never extracted."""
    directory_start = _check_directory(file, size)
    try:
        archive = zipfile.ZipFile(file)
    except _ZIP_ERRORS as error:
        raise WeightsError(f"zip directory: expected a valid one, came: {shown(str(error))}") from None
    entries: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        _check_entry(info)
        if info.filename in entries:
            raise WeightsError(f"{_place(info)}: expected one entry of that name, came several")
        entries[info.filename] = info
    end_of_previous = 0
    for info in sorted(entries.values(), key=lambda entry: entry.header_offset):
        if info.header_offset < end_of_previous:
            raise WeightsError(f"{_place(info)}: expected entries that do not overlap, came one that does")
        end_of_previous = info.header_offset + 30 + info.compress_size
        if end_of_previous > directory_start:
            raise WeightsError(
                f"{_place(info)}: expected to end before the directory at byte {directory_start}, "
                f"came an end at {end_of_previous} or later"
            )
    check_expansion("zip directory", sum(info.file_size for info in entries.values()), size)
    return archive, entries


def _check_directory(file: BinaryIO, size: int) -> int:
    """Find the central directory and bound its size; return where it starts.

    The end record has to be the very end of the file, as NumPy and torch write it: with a comment after it
    one file can be several archives at once.
    """
    place = "zip directory"
    end_at = size - _END.size
    if end_at < 0:
        raise WeightsError(f"{place}: expected at least {_END.size} bytes, came {size}")
    file.seek(end_at)
    mark, _, _, _, _, length, start, comment = _END.unpack(file.read(_END.size))
    if mark != b"PK\x05\x06" or comment:
        raise WeightsError(f"{place}: expected its end record at byte {end_at}, came others (cut off?)")
    locator_at = end_at - _END64_LOCATOR.size
    end64_at = locator_at - _END64.size
    if end64_at >= 0:
        file.seek(end64_at)
        record = _END64.unpack(file.read(_END64.size))
        if file.read(4) == b"PK\x06\x07":
            if record[0] != b"PK\x06\x06":
                raise WeightsError(f"{place}: expected its zip64 record at byte {end64_at}, came others")
            length, start, end_at = record[8], record[9], end64_at
    if length > MAX_ZIP_DIRECTORY_BYTES:
        raise WeightsError(f"{place}: expected at most {MAX_ZIP_DIRECTORY_BYTES} bytes, came {length}")
    if start + length != end_at:
        raise WeightsError(f"{place}: expected to end at byte {end_at}, came an end at {start + length}")
    return start


def _check_entry(info: zipfile.ZipInfo) -> None:
    place = _place(info)
    if info.orig_filename != info.filename:
        raise WeightsError(f"{place}: expected a plain name, came {shown(info.orig_filename)}")
    if stat.S_ISLNK(info.external_attr >> 16):
        raise WeightsError(f"{place}: expected data, came a symbolic link")
    if info.flag_bits & 1:
        raise WeightsError(f"{place}: expected plain data, came encrypted data")
    if info.compress_type == zipfile.ZIP_STORED:
        if info.file_size != info.compress_size:
            raise WeightsError(f"{place}: expected {info.file_size} stored bytes, came {info.compress_size}")
    elif info.compress_type != zipfile.ZIP_DEFLATED:
        raise WeightsError(f"{place}: expected stored or deflated data, came method {info.compress_type}")
    elif info.file_size > _MAX_DEFLATE_RATIO * info.compress_size:
        raise WeightsError(
            f"{place}: expected at most {_MAX_DEFLATE_RATIO * info.compress_size} bytes "
            f"from {info.compress_size} deflated ones, came {info.file_size}"
        )


class open_entry(AbstractContextManager["open_entry"]):
    """The bytes of an entry from ``start`` on; what the archive raises becomes a WeightsError."""

    def __init__(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo, start: int = 0) -> None:
        self._archive, self._info, self._start = archive, info, start

    def __enter__(self) -> open_entry:
        try:
            self._stream = self._archive.open(self._info)
        except _ZIP_ERRORS as error:
            self._fail(error)
        self.read(self._start)
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.close()

    def read(self, size: int) -> bytes:
        try:
            return self._stream.read(size)
        except _ZIP_ERRORS as error:
            self._fail(error)

    def _fail(self, error: Exception) -> NoReturn:
        raise WeightsError(f"{_place(self._info)}: expected intact data, came: {shown(str(error))}") from None


def read_entry(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """All bytes of an entry; the checksum is compared."""
    content = np.empty(info.file_size, np.uint8)
    filled = 0
    try:
        with archive.open(info) as stream:
            # One byte more than expected is asked for, so that the end and with it the checksum is seen.
            while block := stream.read(min(1 << 20, info.file_size - filled + 1)):
                content.data[filled : filled + len(block)] = block
                filled += len(block)
    except _ZIP_ERRORS as error:
        raise WeightsError(f"{_place(info)}: expected intact data, came: {shown(str(error))}") from None
    if filled != info.file_size:
        raise WeightsError(f"{_place(info)}: expected {info.file_size} bytes, came {filled}")
    return content


def _place(info: zipfile.ZipInfo) -> str:
    return f"zip entry {shown(info.filename)}"
