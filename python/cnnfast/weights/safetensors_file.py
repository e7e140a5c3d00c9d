"""The safetensors format: reading through the safetensors library, writing as a stream."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import BinaryIO

import numpy as np

from cnnfast.errors import WeightsError
from cnnfast.weights.elements import ELEMENTS, Element, element_count, own_array, result_dtype, stored_dtype
from cnnfast.weights.limits import MAX_HEADER_BYTES, MAX_TENSORS, check_expansion, shown

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


def read(file: BinaryIO, size: int) -> dict[str, np.ndarray]:
    """Read all tensors, in the order of the header."""
    names = _header_names(file, size)
    # Imported here because "import cnnfast" loads NumPy only.
    from safetensors import SafetensorError, deserialize

    file.seek(0)
    content = file.read(size)
    try:
        entries = dict(deserialize(content))
    except SafetensorError as error:
        raise WeightsError(f"safetensors header: expected valid, came {shown(str(error), 300)}") from None
    del content
    if entries.keys() != set(names):
        raise WeightsError("safetensors header: expected the same tensors from both parsers, came others")
    checked: dict[str, tuple[Element, np.ndarray]] = {}
    total = 0
    for name in names:
        entry = entries.pop(name)
        place = f"tensor {shown(name)}"
        code = entry["dtype"]
        element = ELEMENTS[_CODES[code]] if code in _CODES else Element(code, 1, None)
        dtype = result_dtype(place, element)
        shape = tuple(entry["shape"])
        total += element_count(place, shape, dtype.itemsize) * dtype.itemsize
        checked[name] = element, np.frombuffer(entry["data"], stored_dtype(element, "<")).reshape(shape)
    check_expansion("safetensors header", total, size)
    arrays = {}
    for name in names:
        element, stored = checked.pop(name)
        arrays[name] = own_array(f"tensor {shown(name)}", stored, element)
    return arrays


def _header_names(file: BinaryIO, size: int) -> list[str]:
    """The names in the header, in order, after the checks that keep its parsing cheap."""
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
    return [name for name in header if name != "__metadata__"]


def _object_without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name that stands there twice")
    return result


def write(file: BinaryIO, arrays: Mapping[str, np.ndarray]) -> None:
    """Write ``arrays``; the header keeps their order, the data is sorted so that every tensor is aligned."""
    if "__metadata__" in arrays:
        raise WeightsError("tensor '__metadata__': expected another name, which safetensors does not reserve")
    by_alignment = sorted(arrays, key=lambda name: -arrays[name].itemsize)
    ends: dict[str, int] = {}
    end = 0
    for name in by_alignment:
        end += arrays[name].nbytes
        ends[name] = end
    header = {
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
