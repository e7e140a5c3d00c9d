"""The safetensors format: headers judged by the safetensors library too, data read and written as streams."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, BinaryIO

import numpy as np

from cnnfast.errors import WeightsError
from cnnfast.weights.elements import ELEMENTS, Element, element_count, result_dtype
from cnnfast.weights.limits import MAX_HEADER_BYTES, MAX_TENSORS, check_expansion, shown
from cnnfast.weights.stored import Stored

_CODES = {
    "BOOL": "bool",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
    "U8": "uint8",
    "U16": "uint16",
    "U32": "uint32",
    "U64": "uint64",
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
    "BF16": "bfloat16",
}
_CODE_OF = {name: code for code, name in _CODES.items()}

# A tensor costs about eight commas in the header; this many bound the memory that parsing takes.
_MAX_COMMAS = 20 * MAX_TENSORS


def stored(file: BinaryIO, size: int) -> dict[str, Stored]:
    """All tensors of an open file, in the order of the header."""
    header = _header(file, size)
    header.pop("__metadata__", None)
    # Imported here because "import cnnfast" loads NumPy only.
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file.name, framework="np") as checked:
            names = set(checked.keys())
    except SafetensorError as error:
        raise WeightsError(f"safetensors header: expected valid, came {shown(str(error), 300)}") from None
    if names != header.keys():
        raise WeightsError("safetensors header: expected the same tensors from both parsers, came others")
    data = int.from_bytes(_at(file, 0, 8), "little") + 8
    tensors = {}
    total = 0
    for name, entry in header.items():
        place = f"tensor {shown(name)}"
        code, shape = entry["dtype"], tuple(entry["shape"])
        element = ELEMENTS[_CODES[code]] if code in _CODES else Element(code, 1, None)
        dtype = result_dtype(place, element)
        count = element_count(place, shape, dtype.itemsize)
        total += count * dtype.itemsize
        first, last = entry["data_offsets"]
        if not 0 <= first <= last <= size - data or last - first != count * element.itemsize:
            raise WeightsError(
                f"{place}: expected {count * element.itemsize} bytes inside the file, came others"
            )
        tensors[name] = Stored(place, shape, element, "<", partial(_from, file, data + first))
    check_expansion("safetensors header", total, size)
    return tensors


def _at(file: BinaryIO, position: int, size: int) -> bytes:
    file.seek(position)
    return file.read(size)


def _from(file: BinaryIO, position: int) -> AbstractContextManager[BinaryIO]:
    file.seek(position)
    return nullcontext(file)


def _header(file: BinaryIO, size: int) -> dict[str, Any]:
    """The entries of the header, in order, after the checks that keep its parsing cheap."""
    place = "safetensors header"
    if size < 8:
        raise WeightsError(f"{place}: expected 8 bytes with its length, came a file of {size} bytes")
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if length > MAX_HEADER_BYTES:
        raise WeightsError(f"{place}: expected a length of at most {MAX_HEADER_BYTES} bytes, came {length}")
    if length > size - 8:
        raise WeightsError(f"{place}: expected {length} bytes, came {size - 8}")
    text = file.read(length)
    if text.count(b"{") > MAX_TENSORS + 2 or text.count(b",") > _MAX_COMMAS:
        raise WeightsError(f"{place}: expected at most {MAX_TENSORS} tensors, came more")
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_object_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{place}: expected JSON, came text with {shown(str(error))}") from None
    if not isinstance(header, dict):
        raise WeightsError(f"{place}: expected a JSON object, came {shown(header)}")
    return header


def metadata(path: str) -> dict[str, str]:
    """The text that a safetensors file holds beside its tensors, by name."""
    with open(path, "rb") as file:
        found = _header(file, os.fstat(file.fileno()).st_size).get("__metadata__", {})
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise WeightsError(f"safetensors header: expected text as metadata, came {shown(found)}")
    return found


def _object_without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name that stands there twice")
    return result


def write(
    file: BinaryIO, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Write ``arrays``; the header keeps their order, the data is sorted so that every tensor is aligned.

    ``metadata`` is text by name, which other readers of the format leave alone.
    """
    if "__metadata__" in arrays:
        raise WeightsError("tensor '__metadata__': expected another name, which safetensors does not reserve")
    by_alignment = sorted(arrays, key=lambda name: -arrays[name].itemsize)
    ends: dict[str, int] = {}
    end = 0
    for name in by_alignment:
        end += arrays[name].nbytes
        ends[name] = end
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    header |= {
        name: {
            "dtype": _CODE_OF[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [ends[name] - array.nbytes, ends[name]],
        }
        for name, array in arrays.items()
    }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER_BYTES:
        raise WeightsError(f"safetensors header: expected at most {MAX_HEADER_BYTES} bytes, came {len(text)}")
    file.write(len(text).to_bytes(8, "little"))
    file.write(text)
    for block in _blocks(arrays[name] for name in by_alignment):
        file.write(block)


def _blocks(arrays: Iterable[np.ndarray]) -> Iterable[memoryview]:
    for array in arrays:
        little = np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")
        yield little.reshape(-1).view(np.uint8).data
