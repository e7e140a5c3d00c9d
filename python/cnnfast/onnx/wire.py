"""The wire format of protocol buffers, as far as ONNX files need it.

Files are read field by field through a small window, and large contents are left where they are: a span
says where in the file they stand. So a file takes no more memory than the arrays that are made of it, and
the number of fields bounds the work that a hostile file can ask for.

References
----------
"Protocol buffers: encoding", protobuf.dev; the field numbers are those of ``onnx.proto3``.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ..errors import WeightsError

__all__ = ["Field", "Reader", "Span", "encode"]

#: Most fields in a file; a network has about 20 for each of its nodes.
MAX_FIELDS = 2_000_000
#: Longest text and longest list of numbers outside of tensors, in bytes.
MAX_TEXT_BYTES = 1 << 16
MAX_NUMBERS_BYTES = 64 << 20
_WINDOW = 1 << 16


class Span(NamedTuple):
    """Bytes of a file."""

    start: int
    stop: int


class Field(NamedTuple):
    """What a field number stands for.

    ``kind`` is "int", "float", "text", "bytes", "span" (contents left in the file, or single numbers where
    they are not packed), "mark" (only that it is there) or a dictionary: a message.
    """

    name: str
    kind: Any
    repeated: bool = False


Schema = dict[int, Field]


class Reader:
    """Reads messages out of a file."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self.size = file, size
        self._buffer, self._base = b"", 0
        self._left = MAX_FIELDS

    def bytes_of(self, span: Span) -> bytes:
        self._file.seek(span.start)
        data = self._file.read(span.stop - span.start)
        if len(data) != span.stop - span.start:
            raise WeightsError("file: it became shorter while it was read")
        return data

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        """A number of at most 64 bits, and where the next byte is."""
        i = at - self._base
        if i < 0 or i + 10 > len(self._buffer):
            self._file.seek(at)
            self._buffer, self._base, i = self._file.read(_WINDOW), at, 0
        value = 0
        for k in range(min(10, end - at, len(self._buffer) - i)):
            byte = self._buffer[i + k]
            value |= (byte & 127) << 7 * k
            if byte < 128:
                return value & ((1 << 64) - 1), at + k + 1
        raise WeightsError(f"byte {at}: expected a whole number, came the end of its message")

    def message(self, span: Span, schema: Schema) -> dict[str, Any]:
        """The fields of a message that the schema names; lists where they may be repeated."""
        found: dict[str, Any] = {}
        at, end = span
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise WeightsError(f"file: expected at most {MAX_FIELDS} fields, came more")
            start = at
            key, at = self._varint(at, end)
            wire = key & 7
            value: Any = None
            if wire == 0:
                value, at = self._varint(at, end)
            elif wire in (1, 5):
                value, at = Span(at, at + (8 if wire == 1 else 4)), at + (8 if wire == 1 else 4)
            elif wire == 2:
                length, at = self._varint(at, end)
                value, at = Span(at, at + length), at + length
            else:
                raise WeightsError(f"byte {start}: expected a field of protocol buffers, came kind {wire}")
            if at > end:
                raise WeightsError(
                    f"byte {start}: expected {at - end} more bytes, came the end of the message"
                )
            field = schema.get(key >> 3)
            if field is None:
                continue
            read = self._value(field, wire, value)
            if not field.repeated:
                found[field.name] = read
            elif field.kind in ("int", "float") and isinstance(read, list):
                found.setdefault(field.name, []).extend(read)
            else:
                found.setdefault(field.name, []).append(read)
        return found

    def _value(self, field: Field, wire: int, value: Any) -> Any:
        kind = field.kind
        if kind == "mark":
            return True
        if kind == "int" and wire == 0:
            return value - (1 << 64) if value >> 63 else value
        if kind == "float" and wire == 5:
            return struct.unpack("<f", self.bytes_of(value))[0]
        if kind == "span":
            return value
        if wire == 2 and isinstance(kind, dict):
            return self.message(value, kind)
        if wire == 2 and kind in ("text", "bytes"):
            if value.stop - value.start > MAX_TEXT_BYTES:
                raise WeightsError(f"{field.name}: expected at most {MAX_TEXT_BYTES} bytes, came more")
            data = self.bytes_of(value)
            return data.decode("utf-8", "backslashreplace") if kind == "text" else data
        if wire == 2 and field.repeated and kind in ("int", "float"):
            return self.numbers(value, "int" if kind == "int" else "<f4").tolist()
        wanted = "a message" if isinstance(kind, dict) else kind
        raise WeightsError(f"{field.name}: expected {wanted}, came a field of kind {wire}")

    def numbers(self, span: Span, dtype: str) -> np.ndarray:
        """Packed numbers: of a fixed size, or "int" for those of variable length."""
        if span.stop - span.start > MAX_NUMBERS_BYTES:
            raise WeightsError(f"packed numbers: expected at most {MAX_NUMBERS_BYTES} bytes, came more")
        data = np.frombuffer(self.bytes_of(span), np.uint8)
        if dtype != "int":
            if len(data) % np.dtype(dtype).itemsize:
                raise WeightsError(f"packed numbers: {len(data)} bytes are no whole count of {dtype}")
            return data.view(dtype)
        stops = np.flatnonzero(data < 128) + 1
        if len(data) and (not len(stops) or stops[-1] != len(data)):
            raise WeightsError("packed numbers: the last one is cut off")
        starts = np.concatenate([[0], stops[:-1]]).astype(np.int64) if len(stops) else stops
        lengths = stops - starts
        if len(lengths) and lengths.max() > 10:
            raise WeightsError("packed numbers: expected at most 10 bytes for each, came more")
        values = np.zeros(len(stops), np.uint64)
        for k in range(int(lengths.max()) if len(lengths) else 0):
            longer = np.flatnonzero(lengths > k)
            values[longer] |= (data[starts[longer] + k] & 127).astype(np.uint64) << np.uint64(7 * k)
        return values.view(np.int64)


def open_reader(path: str, limit: int) -> tuple[BinaryIO, Reader]:
    """A file and a reader on it."""
    file = open(path, "rb")  # noqa: SIM115 - the caller closes it
    size = os.fstat(file.fileno()).st_size
    if size > limit:
        file.close()
        raise WeightsError(f"file: expected at most {limit} bytes, came {size}")
    return file, Reader(file, size)


# --- writing ---------------------------------------------------------------------------------------


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode(fields: Iterable[tuple[int, Any]]) -> bytes:
    """A message of (number, value): whole numbers, floats, text, bytes, and packed lists of whole numbers."""
    out = bytearray()
    for number, value in fields:
        if isinstance(value, (bool, int, np.integer)):
            out += _varint(number << 3) + _varint(int(value))
        elif isinstance(value, float):
            out += _varint(number << 3 | 5) + struct.pack("<f", value)
        else:
            if isinstance(value, str):
                value = value.encode()
            elif isinstance(value, (list, tuple)):
                value = b"".join(_varint(int(v)) for v in value)
            out += _varint(number << 3 | 2) + _varint(len(value)) + value
    return bytes(out)
