"""The structure of an ONNX file: its nodes, and where its tensors are. Nothing is believed unchecked."""

from __future__ import annotations

import contextlib
import math
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np

from ..errors import WeightsError
from ..weights.elements import element_count
from ..weights.limits import EXPANSION_ALLOWANCE, EXPANSION_FACTOR, MAX_FILE_BYTES, MAX_TENSORS, shown
from .wire import Field, Reader, Schema, Span, open_reader

Array = np.ndarray

__all__ = ["File", "Node", "Stored", "read"]

#: Most nodes of a graph.
MAX_NODES = 100_000
#: Operator sets that are understood.
OPSETS = range(7, 22)
_BLOCK = 8 << 20

_ENTRY: Schema = {1: Field("key", "text"), 2: Field("value", "text")}
_TENSOR: Schema = {
    1: Field("dims", "int", True),
    2: Field("data_type", "int"),
    3: Field("segment", "mark"),
    4: Field("float_data", "span", True),
    5: Field("int32_data", "span", True),
    6: Field("string_data", "mark"),
    7: Field("int64_data", "span", True),
    8: Field("name", "text"),
    9: Field("raw_data", "span"),
    10: Field("double_data", "span", True),
    11: Field("uint64_data", "span", True),
    13: Field("external_data", _ENTRY, True),
    14: Field("data_location", "int"),
}
_ATTRIBUTE: Schema = {
    1: Field("name", "text"),
    2: Field("f", "float"),
    3: Field("i", "int"),
    4: Field("s", "bytes"),
    5: Field("t", _TENSOR),
    6: Field("g", "mark"),
    7: Field("floats", "float", True),
    8: Field("ints", "int", True),
    9: Field("strings", "bytes", True),
    10: Field("g", "mark"),
    11: Field("g", "mark"),
    14: Field("g", "mark"),
    15: Field("g", "mark"),
    20: Field("type", "int"),
    21: Field("g", "mark"),
    22: Field("g", "mark"),
    23: Field("g", "mark"),
}
_NODE: Schema = {
    1: Field("input", "text", True),
    2: Field("output", "text", True),
    3: Field("name", "text"),
    4: Field("op_type", "text"),
    5: Field("attribute", _ATTRIBUTE, True),
    7: Field("domain", "text"),
}
_SHAPE: Schema = {1: Field("dim", {1: Field("value", "int"), 2: Field("name", "text")}, True)}
_TENSOR_TYPE: Schema = {1: Field("elem_type", "int"), 2: Field("shape", _SHAPE)}
_VALUE: Schema = {
    1: Field("name", "text"),
    2: Field("type", {1: Field("tensor", _TENSOR_TYPE), 4: Field("other", "mark"), 5: Field("other", "mark"),
                      8: Field("other", "mark"), 9: Field("other", "mark")}),
}  # fmt: skip
_GRAPH: Schema = {
    1: Field("node", _NODE, True),
    2: Field("name", "text"),
    5: Field("initializer", _TENSOR, True),
    11: Field("input", _VALUE, True),
    12: Field("output", _VALUE, True),
    15: Field("sparse_initializer", "mark"),
}
_OPSET: Schema = {1: Field("domain", "text"), 2: Field("version", "int")}
_MODEL: Schema = {
    1: Field("ir_version", "int"),
    2: Field("producer_name", "text"),
    7: Field("graph", _GRAPH),
    8: Field("opset_import", _OPSET, True),
    25: Field("functions", "mark"),
}

# Element types by their number: how they are stored, in which field they are where that is not raw_data.
_TYPES = {
    1: ("<f4", "float_data"),
    2: ("u1", "int32_data"),
    3: ("i1", "int32_data"),
    4: ("<u2", "int32_data"),
    5: ("<i2", "int32_data"),
    6: ("<i4", "int32_data"),
    7: ("<i8", "int64_data"),
    9: ("?", "int32_data"),
    10: ("<f2", "int32_data"),
    11: ("<f8", "double_data"),
    12: ("<u4", "uint64_data"),
    13: ("<u8", "uint64_data"),
    16: ("bfloat16", "int32_data"),
}
_DATA_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")


_NOWHERE = Span(0, 0)


@dataclass
class Stored:
    """A tensor in a file: half precision and bfloat16 become float32, other types stay."""

    name: str
    dims: tuple[int, ...]
    stored: str
    file: BinaryIO | None = None
    span: Span = _NOWHERE
    small: Array | None = None  # of tensors whose numbers are not stored as they are in memory

    @property
    def dtype(self) -> np.dtype:
        half = self.stored in ("<f2", "bfloat16")
        return np.dtype(np.float32) if half else np.dtype(self.stored).newbyteorder("=")

    @property
    def size(self) -> int:
        return math.prod(self.dims)

    def fill(self, target: Array) -> None:
        """Write the values to an array of shape ``dims``, in blocks: nothing of the whole size is made."""
        if self.small is not None:
            target[...] = self.small
            return
        assert self.file is not None
        width = _itemsize(self.stored)
        rows = self.dims[0] if self.dims else 1
        if not self.size:
            return
        row = self.size // rows
        flat, step = target.reshape(1) if not self.dims else target, max(1, _BLOCK // (row * width))
        if row * width > 4 * _BLOCK and len(self.dims) > 1:
            # One row alone is large: go through it by the axis below.
            for i in range(rows):
                start = self.span.start + i * row * width
                part = Stored(
                    self.name, self.dims[1:], self.stored, self.file, Span(start, start + row * width)
                )
                part.fill(flat[i])
            return
        for i in range(0, rows, step):
            n = min(step, rows - i)
            self.file.seek(self.span.start + i * row * width)
            data = self.file.read(n * row * width)
            if len(data) != n * row * width:
                raise WeightsError(f"tensor {shown(self.name)}: the file became shorter while it was read")
            flat[i : i + n] = _decoded(self.name, data, self.stored).reshape(n, *self.dims[1:])

    def array(self) -> Array:
        """The values as an array of their own."""
        out = np.empty(self.dims, self.dtype)
        self.fill(out)
        return out


def _itemsize(stored: str) -> int:
    return 2 if stored == "bfloat16" else np.dtype(stored).itemsize


def _decoded(name: str, data: bytes, stored: str) -> Array:
    if stored == "bfloat16":
        return (np.frombuffer(data, "<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)
    if stored == "?":
        raw = np.frombuffer(data, np.uint8)
        if raw.size and raw.max() > 1:
            raise WeightsError(f"tensor {shown(name)}: expected bool bytes 0 or 1, came {raw.max()}")
        return raw.view(np.bool_)
    return np.frombuffer(data, stored)


@dataclass
class Node:
    """One call of an operator."""

    name: str
    op_type: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]
    unsupported: str = ""  # why it cannot be understood, whatever the operator

    @property
    def label(self) -> str:
        return f"{shown(self.op_type)[1:-1]} {shown(self.name or (*self.outputs, '')[0])}"


@dataclass
class File:
    """A model as it is stored."""

    opset: int
    producer: str
    nodes: list[Node]
    inputs: list[tuple[str, int, tuple[int | None, ...] | None]]  # name, element type, sizes where known
    outputs: list[str]
    tensors: dict[str, Stored]
    problems: list[str] = field(default_factory=list)


class _Opened:
    """The file of the model and those beside it that hold tensors."""

    def __init__(self, path: str, stack: contextlib.ExitStack) -> None:
        self.folder = os.path.realpath(os.path.dirname(os.path.abspath(path)))
        self.stack = stack
        file, self.reader = open_reader(path, MAX_FILE_BYTES)
        self.file = stack.enter_context(file)
        self.beside: dict[str, tuple[BinaryIO, int]] = {}
        self.bytes, self.tensor_bytes = self.reader.size, 0

    def external(self, place: str, location: str) -> tuple[BinaryIO, int]:
        """A file in the model's folder or below, and its size; anything else is refused."""
        if location in self.beside:
            return self.beside[location]
        parts = location.replace("\\", "/").split("/")
        if not location or os.path.isabs(location) or ".." in parts or "\0" in location or ":" in parts[0]:
            raise WeightsError(f"{place}: expected a file in the model's folder, came {shown(location)}")
        path = os.path.realpath(os.path.join(self.folder, *parts))
        if os.path.commonpath([path, self.folder]) != self.folder:
            raise WeightsError(f"{place}: {shown(location)} is a link out of the model's folder")
        try:
            # Opening a pipe would wait for ever.
            if not stat.S_ISREG(os.stat(path).st_mode):
                raise WeightsError(f"{place}: {shown(location)} is not a regular file")
            file = self.stack.enter_context(open(path, "rb"))  # noqa: SIM115
        except OSError as error:
            raise WeightsError(f"{place}: {shown(location)} cannot be read: {error.strerror}") from None
        size = os.fstat(file.fileno()).st_size
        self.bytes += size
        self.beside[location] = file, size
        return self.beside[location]


@contextlib.contextmanager
def read(path: str) -> Iterator[File]:
    """The checked structure of a file; its tensors can be read while the block runs."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise WeightsError("file: expected a regular file, came something else")
    with contextlib.ExitStack() as stack:
        opened = _Opened(path, stack)
        reader = opened.reader
        if not reader.size:
            raise WeightsError("file: expected an ONNX model, came an empty file")
        yield _model(opened, reader.message(Span(0, reader.size), _MODEL))


def _model(opened: _Opened, model: dict[str, Any]) -> File:
    graph = model.get("graph")
    if graph is None or not model.get("opset_import"):
        raise WeightsError("file: expected an ONNX model with a graph and an operator set, came none")
    versions = [o.get("version", 0) for o in model["opset_import"] if o.get("domain", "") in ("", "ai.onnx")]
    opset = max(versions, default=0)
    if opset not in OPSETS:
        raise WeightsError(f"operator set: expected {OPSETS[0]} to {OPSETS[-1]}, came {opset}")
    problems = []
    if model.get("functions"):
        problems.append("functions defined in the file")
    if graph.get("sparse_initializer"):
        problems.append("sparse tensors")
    raw_nodes, raw_tensors = graph.get("node", []), graph.get("initializer", [])
    if len(raw_nodes) > MAX_NODES:
        raise WeightsError(f"graph: expected at most {MAX_NODES} nodes, came {len(raw_nodes)}")
    if len(raw_tensors) > MAX_TENSORS:
        raise WeightsError(f"graph: expected at most {MAX_TENSORS} tensors, came {len(raw_tensors)}")
    tensors: dict[str, Stored] = {}
    for raw in raw_tensors:
        tensor = _stored(opened, raw)
        if not tensor.name or tensor.name in tensors:
            raise WeightsError(
                f"tensor {shown(tensor.name)}: expected a name of its own, came it twice or none"
            )
        tensors[tensor.name] = tensor
    nodes = [_node(opened, raw) for raw in raw_nodes]
    inputs = []
    for value in graph.get("input", []):
        if value.get("name", "") not in tensors:
            inputs.append(_declared(value))
    outputs = [value.get("name", "") for value in graph.get("output", [])]
    limit = EXPANSION_FACTOR * opened.bytes + EXPANSION_ALLOWANCE
    if opened.tensor_bytes > limit:
        came = opened.tensor_bytes
        raise WeightsError(
            f"tensors: expected at most {limit} bytes out of files of {opened.bytes}, came {came}"
        )
    file = File(opset, model.get("producer_name", ""), nodes, inputs, outputs, tensors, problems)
    _check_order(file)
    return file


def _declared(value: dict[str, Any]) -> tuple[str, int, tuple[int | None, ...] | None]:
    name, kind = value.get("name", ""), value.get("type", {})
    if not name or kind.get("other") or "tensor" not in kind:
        raise WeightsError(f"input {shown(name)}: expected a tensor with a name, came something else")
    tensor = kind["tensor"]
    shape = tensor.get("shape")
    dims = None if shape is None else tuple([d.get("value") for d in shape.get("dim", [])])
    if dims is not None and any(d is not None and d < 0 for d in dims):
        raise WeightsError(f"input {shown(name)}: expected sizes from 0 on, came {shown(str(dims))}")
    return name, tensor.get("elem_type", 0), dims


def _check_order(file: File) -> None:
    """Every name is written once and before it is read: no cycles, nothing that is not there."""
    known = set(file.tensors)
    for name, _, _ in file.inputs:
        if name in known:
            raise WeightsError(f"input {shown(name)}: stands there twice")
        known.add(name)
    for node in file.nodes:
        for name in node.inputs:
            if name and name not in known:
                raise WeightsError(f"{node.label}: reads {shown(name)}, which nothing before it writes")
        for name in node.outputs:
            if name and name in known:
                raise WeightsError(f"{node.label}: writes {shown(name)}, which is there already")
            if name:
                known.add(name)
    if not file.outputs or any(name not in known for name in file.outputs):
        raise WeightsError("graph: expected outputs that a node writes, came none or others")


def _stored(opened: _Opened, raw: dict[str, Any]) -> Stored:
    name = raw.get("name", "")
    place = f"tensor {shown(name)}"
    code = raw.get("data_type", 0)
    if code not in _TYPES:
        raise WeightsError(f"{place}: expected whole, real or bool numbers, came element type {code}")
    if raw.get("segment"):
        raise WeightsError(f"{place}: tensors in segments are not supported")
    stored, wanted = _TYPES[code]
    dims = raw.get("dims", [])
    count = element_count(place, dims, max(4, _itemsize(stored)))
    opened.tensor_bytes += count * max(4, _itemsize(stored))
    tensor = Stored(name, tuple(dims), stored, opened.file)
    expected = count * _itemsize(stored)
    if raw.get("data_location", 0) == 1 or raw.get("external_data"):
        tensor.file, tensor.span = _external(opened, place, raw.get("external_data", []), expected)
        return tensor
    parts = [f for f in _DATA_FIELDS if f in raw]
    if "raw_data" in raw and not parts:
        tensor.span = raw["raw_data"]
        if not isinstance(tensor.span, Span):
            raise WeightsError(f"{place}: expected bytes, came a number")
    elif parts == [wanted] and "raw_data" not in raw:
        values = _typed(opened.reader, raw[wanted], wanted)
        if isinstance(values, Span):
            tensor.span = values
        else:
            tensor.small = _as_stored(place, values, stored, tensor.dtype)
            if tensor.small.size != count:
                raise WeightsError(f"{place}: expected {count} numbers, came {tensor.small.size}")
            tensor.small = tensor.small.reshape(tensor.dims)
            return tensor
    elif parts or "raw_data" in raw:
        raise WeightsError(f"{place}: expected its numbers in raw_data or {wanted}, came {', '.join(parts)}")
    came = tensor.span.stop - tensor.span.start
    if came != expected:
        raise WeightsError(f"{place}: expected {expected} bytes, came {came}")
    return tensor


def _typed(reader: Reader, parts: list[Any], name: str) -> Any:
    """Numbers out of a field for one type; a span where they are stored as in memory."""
    kind = {"float_data": "<f4", "double_data": "<f8"}.get(name, "int")
    if len(parts) == 1 and isinstance(parts[0], Span) and kind != "int":
        return parts[0]
    values = [
        reader.numbers(part, kind) if isinstance(part, Span) else np.array([part], np.uint64).view(np.int64)
        for part in parts
    ]
    return np.concatenate(values) if values else np.zeros(0, np.int64)


def _as_stored(place: str, values: Array, stored: str, dtype: np.dtype) -> Array:
    if stored in ("<f2", "bfloat16"):
        return _decoded(place, values.astype("<u2").tobytes(), stored).astype(np.float32)
    if stored == "?":
        return _decoded(place, np.minimum(values.view(np.uint64), 255).astype(np.uint8).tobytes(), stored)
    return values.astype(dtype)


def _external(
    opened: _Opened, place: str, entries: list[dict[str, Any]], expected: int
) -> tuple[BinaryIO, Span]:
    given = {entry.get("key", ""): entry.get("value", "") for entry in entries}
    file, size = opened.external(place, given.get("location", ""))
    numbers = []
    for key, default in (("offset", 0), ("length", expected)):
        text = given.get(key, str(default))
        if not text.isascii() or not text.isdigit() or len(text) > 18:
            raise WeightsError(f"{place}: expected a number as {key}, came {shown(text)}")
        numbers.append(int(text))
    offset, length = numbers
    if length != expected:
        raise WeightsError(f"{place}: expected {expected} bytes, came {length}")
    if offset + length > size:
        raise WeightsError(f"{place}: expected bytes {offset} to {offset + length}, came a file of {size}")
    return file, Span(offset, offset + length)


# Kinds of attributes by their number: the field that holds them, and their value where that is missing.
_KINDS: dict[int, tuple[str, Any]] = {
    1: ("f", 0.0), 2: ("i", 0), 3: ("s", b""), 4: ("t", None), 6: ("floats", []), 7: ("ints", []),
    8: ("strings", []),
}  # fmt: skip


def _node(opened: _Opened, raw: dict[str, Any]) -> Node:
    attributes, unsupported = {}, ""
    for attribute in raw.get("attribute", []):
        name, kind = attribute.get("name", ""), attribute.get("type", 0)
        if not kind:  # the first files did not say
            kind = next((k for k, (f, _) in _KINDS.items() if f in attribute), 0)
        if attribute.get("g") or kind not in _KINDS:
            unsupported = f"attribute {shown(name)} holds a graph or another thing that is not supported"
            continue
        held, missing = _KINDS[kind]
        value = attribute.get(held, missing)
        if held == "t":
            if value is None:
                raise WeightsError(f"attribute {shown(name)}: expected a tensor, came none")
            value = _stored(opened, value)
            if value.size > 1 << 26:
                raise WeightsError(
                    f"attribute {shown(name)}: expected a small tensor, came {value.size} values"
                )
        attributes[name] = value
    return Node(
        raw.get("name", ""),
        raw.get("op_type", ""),
        raw.get("domain", ""),
        tuple(raw.get("input", [])),
        tuple(raw.get("output", [])),
        attributes,
        unsupported,
    )
