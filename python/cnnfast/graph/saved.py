"""Compiled networks in files: the graph, and weights as the steps read them, which are mapped, not read.

A file is 8 bytes of magic, the version of the format and the CRC-32 of the header (4 bytes each), the
length of the header (8 bytes), the header in JSON, and then arrays at multiples of 64 bytes from a page on.
The header names operators with their settings; shapes, memory and steps are worked out again from it when
the file is loaded, so nothing in a file says where in memory something is read or written. The checksum is
for accidents: a setting with one wrong bit could be another network. Weights have none, since they are not
read before use.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Iterable
from typing import Any, BinaryIO

import numpy as np

from .. import __version__, config
from ..errors import CnnfastError, WeightsError
from ..ops.registry import OPERATORS
from ..weights.atomic import replace_file
from ..weights.limits import MAX_HEADER_BYTES, MAX_TENSORS, shown
from .ir import Array, Derived, Graph, Node, Value
from .lowering import Store
from .program import Options, Program

__all__ = ["load", "save"]

MAGIC = b"cnnfast\0"
FORMAT = 2
_FIXED = 24  # bytes before the header
_PAGE, _ALIGNMENT = 4096, 64
_TYPES = ("bool", "uint8", "int8", "uint16", "int16", "int32", "int64", "float32", "float64")
_MOST_DIMENSIONS, _MOST_STEPS = 16, 10_000
# Tables for resizing are as long as an axis.
_LONGEST_AXIS = 1 << 24

Shapes = tuple[tuple[int, ...], ...]


# --- writing ---------------------------------------------------------------------------------------


class _Writer:
    """Parameters of all programs, each form of each once."""

    def __init__(self) -> None:
        self.params: list[dict[str, Any]] = []
        self.arrays: list[Array] = []
        self._index: dict[Any, int] = {}
        self._end = 0

    def param(self, value: Value) -> int:
        """The number of a parameter."""
        if value.key not in self._index:
            self._index[value.key] = len(self.params)
            kind = value.dtype.name
            self.params.append({"shape": value.shape, "dtype": kind, "name": value.name, "forms": {}})
        return self._index[value.key]

    def form(self, value: Value, form: str, found: Any) -> None:
        forms = self.params[self.param(value)]["forms"]
        if form in forms:
            return
        parts = [(found, False)] if isinstance(found, np.ndarray) else found.parts()
        entries = forms[form] = []
        for array, finite in parts:
            self._end += -self._end % _ALIGNMENT
            entries.append([self._end, array.size, bool(finite)])
            self.arrays.append(array)
            self._end += array.nbytes


def _program(program: Program, writer: _Writer) -> dict[str, Any]:
    numbers: dict[Value, int] = {}
    params: dict[int, int] = {}

    def number(value: Value | None) -> int | None:
        if value is None:
            return None
        if value not in numbers:
            numbers[value] = len(numbers)
            if value.kind == "param":
                params[numbers[value]] = writer.param(value)
        return numbers[value]

    graph = program.graph
    inputs = [[number(v), v.shape, v.dtype.name, v.name] for v in graph.inputs]
    nodes = []
    for node in graph.nodes:
        read = [number(v) for v in node.inputs]
        made = [number(v) for v in node.outputs]
        nodes.append([node.op.name, node.op.settings(node.spec), read, made, node.scope])
    outputs = [number(v) for v in graph.outputs]
    for (value, form), found in program.kept.items():
        writer.form(value, form, found)
    for value in graph.outputs:
        if value.kind == "param":
            writer.form(value, "array", np.ascontiguousarray(value.data))
    return {
        "inputs": inputs,
        "nodes": nodes,
        "outputs": outputs,
        "params": list(params.items()),
        "structure": graph.notes.get("structure", 0),
    }


def save(path: str | os.PathLike[str], name: str, programs: Iterable[Program], options: Options) -> None:
    """Write programs and their weights; the file appears as a whole or not at all."""
    writer = _Writer()
    header = {
        "cnnfast": __version__,
        "level": config._cpu.isa(),
        "packing": config._cpu.packing_version,
        "name": name,
        "winograd": options.winograd,
        "lean": options.lean,
        "programs": [_program(program, writer) for program in programs],
        "params": writer.params,
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    with replace_file(os.fspath(path)) as file:
        file.write(MAGIC + FORMAT.to_bytes(4, "little") + zlib.crc32(text).to_bytes(4, "little"))
        file.write(len(text).to_bytes(8, "little") + text)
        begin = -(-(_FIXED + len(text)) // _PAGE) * _PAGE
        file.write(bytes(begin - _FIXED - len(text)))
        at = 0
        for array in writer.arrays:
            padding = -at % _ALIGNMENT
            file.write(bytes(padding))
            file.write(array.reshape(-1).view(np.uint8).data)
            at += padding + array.nbytes


# --- reading ---------------------------------------------------------------------------------------


def _fail(message: str) -> WeightsError:
    return WeightsError(f"load_engine: {message}")


def _need(condition: bool, expected: str, came: Any = None) -> None:
    if not condition:
        raise _fail(f"expected {expected}" + ("" if came is None else f", came {shown(came)}"))


def _header(file: BinaryIO, size: int) -> tuple[dict[str, Any], int]:
    """The header, and where the arrays begin."""
    fixed = file.read(_FIXED)
    _need(len(fixed) == _FIXED and fixed[:8] == MAGIC, "a compiled network of cnnfast, came another file")
    version = int.from_bytes(fixed[8:12], "little")
    _need(version == FORMAT, f"format {FORMAT}", version)
    length = int.from_bytes(fixed[16:], "little")
    _need(length <= min(MAX_HEADER_BYTES, size - _FIXED), "a header within the file", length)
    text = file.read(length)
    _need(
        zlib.crc32(text) == int.from_bytes(fixed[12:16], "little"),
        "the header as it was written, came a damaged one",
    )
    try:
        header = json.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise _fail(f"expected a header in JSON, came text with {shown(str(error))}") from None
    _need(isinstance(header, dict), "a header that is a JSON object")
    return header, -(-(_FIXED + length) // _PAGE) * _PAGE


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _shape(value: Any) -> tuple[int, ...]:
    good = isinstance(value, list) and len(value) <= _MOST_DIMENSIONS
    good = good and all(type(n) is int and 0 <= n < 1 << 48 for n in value)
    _need(
        good and math.prod(max(n, 1) for n in value) < 1 << 48, "a shape of whole numbers", str(value)[:100]
    )
    return tuple(value)


def _dtype(value: Any) -> np.dtype:
    _need(value in _TYPES, f"an element type of {', '.join(_TYPES)}", value)
    return np.dtype(value)


class _Reader:
    """Parameters of a file, mapped to memory."""

    def __init__(self, data: Array, params: Any) -> None:
        _need(isinstance(params, list) and len(params) <= MAX_TENSORS, "a list of parameters")
        self.store = Store()
        self._data = data
        self._params = [self._param(i, entry) for i, entry in enumerate(params)]

    def _param(self, i: int, entry: Any) -> tuple[tuple[int, ...], np.dtype, str, Derived]:
        _need(isinstance(entry, dict) and isinstance(entry.get("forms"), dict), "parameters with forms")
        shape, dtype, name = _shape(entry["shape"]), _dtype(entry["dtype"]), str(entry["name"])
        key = (id(self), i)
        for form, parts in entry["forms"].items():
            _need(isinstance(parts, list), "a list of parts")
            self.store.stored[key, form] = [self._part(form, dtype, shape, part) for part in parts]

        def missing() -> Array:
            found = self.store.stored.get((key, "array"))
            if found:
                return found[0][0]
            raise _fail(
                f"parameter {shown(name)} is not there in the form that this version reads; compile again"
            )

        return shape, dtype, name, Derived(missing, key, (self,))

    def _part(self, form: str, dtype: np.dtype, shape: tuple[int, ...], part: Any) -> tuple[Array, bool]:
        _need(isinstance(part, list) and len(part) == 3, "parts of three numbers")
        at, count, finite = part
        kind = dtype if form == "array" else np.dtype(np.float32)
        good = type(at) is int and type(count) is int and at >= 0 and count >= 0 and at % _ALIGNMENT == 0
        _need(
            good and at + count * kind.itemsize <= self._data.size, "weights inside the file", str(part)[:100]
        )
        array = self._data[at : at + count * kind.itemsize].view(kind)
        if form == "array":
            _need(count == math.prod(shape), f"{math.prod(shape)} values", count)
            array = array.reshape(shape)
        return array, bool(finite)

    def value(self, i: Any) -> Value:
        _need(type(i) is int and 0 <= i < len(self._params), "the number of a parameter", i)
        shape, dtype, name, data = self._params[i]
        return Value(shape, dtype, "param", name, data)

    def graph(self, entry: Any, name: str) -> Graph:
        """A graph whose shapes follow from those of its inputs."""
        _need(isinstance(entry, dict), "programs that are JSON objects")
        values: dict[int, Value] = {}

        def add(i: Any, value: Value) -> Value:
            _need(type(i) is int and i not in values, "values with numbers of their own", i)
            values[i] = value
            return value

        inputs = [
            add(i, Value(_shape(shape), _dtype(dtype), "input", str(label)))
            for i, shape, dtype, label in entry["inputs"]
        ]
        for i, param in entry["params"]:
            add(i, self.value(param))
        nodes = []
        for operator, settings, read, made, scope in entry["nodes"]:
            arrays = tuple([None if i is None else values[i] for i in read])
            node = _node(operator, settings, arrays, str(scope))
            _need(len(made) == len(node.outputs), "a number for each result of an operator", len(made))
            for i, value in zip(made, node.outputs, strict=True):
                add(i, value)
            nodes.append(node)
        graph = Graph(nodes, inputs, [values[i] for i in entry["outputs"]], name)
        graph.notes["structure"] = _structure(entry["structure"], len(graph.outputs))
        graph.check()
        return graph


def _node(operator: Any, settings: Any, arrays: tuple[Value | None, ...], scope: str) -> Node:
    """A node whose description follows from the shapes of its arrays."""
    _need(isinstance(operator, str) and operator in OPERATORS, "an operator of cnnfast", operator)
    _need(isinstance(settings, dict), "settings by name")
    op = OPERATORS[operator]
    shapes = [None if v is None else v.shape for v in arrays]
    spec = op.infer(*op.shapes(*shapes), **{key: _tuples(value) for key, value in settings.items()})
    _need(
        op.results is not None or hasattr(spec, "out"), "an operator with results of known shapes", operator
    )
    given = [v for v in arrays if v is not None]
    _need(bool(given), "an operator that reads something", operator)
    dtype = next((v.dtype for v in given if v.kind != "param"), given[0].dtype)
    results = ((spec.out, dtype),) if op.results is None else op.results(spec, dtype)
    for shape, _ in results:
        _shape([max(n, 0) for n in shape])
    outputs = tuple([Value(shape, np.dtype(kind)) for shape, kind in results])
    longest = max([n for v in outputs for n in v.shape[1:3]], default=0)
    _need(operator != "resize" or longest <= _LONGEST_AXIS, f"axes up to {_LONGEST_AXIS}", longest)
    return Node(op, spec, arrays, outputs, scope)


def _structure(value: Any, outputs: int) -> Any:
    """The nesting of the results."""
    if isinstance(value, list):
        return tuple([_structure(v, outputs) for v in value])
    if isinstance(value, dict):
        return {str(key): _structure(v, outputs) for key, v in value.items()}
    _need(type(value) is int and 0 <= value < outputs, "the number of a result", value)
    return value


def load(path: str | os.PathLike[str], threads: int) -> tuple[str, dict[Shapes, Program], Options]:
    """The programs of a file, by the shapes of their inputs."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        header, begin = _header(file, size)
    level, packing, version = config._cpu.isa(), config._cpu.packing_version, header.get("cnnfast")
    if version != __version__:
        raise _fail(
            f"the file was compiled by cnnfast {shown(version)}, this is {__version__!r}; compile again"
        )
    if header.get("level") != level:
        raise _fail(
            f"the file was compiled for level {shown(header.get('level'))}, this process runs {level!r}; "
            "compile again, or choose the level by CNNFAST_ISA"
        )
    _need(header.get("packing") == packing, f"weights packed in form {packing}", header.get("packing"))
    try:
        data = np.memmap(path, np.uint8, "r", begin) if size > begin else np.empty(0, np.uint8)
        reader = _Reader(data, header["params"])
        tile = header["winograd"]
        _need(type(tile) is int and tile in (0, 5, 6), "Winograd tiles of 0, 5 or 6", tile)
        lean = header.get("lean")
        _need(lean is None or type(lean) is bool, "whether weights take little memory", lean)
        options = Options(reader.store, threads, tile, lean)
        entries = header["programs"]
        _need(sum(len(entry["nodes"]) for entry in entries) <= _MOST_STEPS, f"at most {_MOST_STEPS} steps")
        programs = [Program(reader.graph(entry, str(header["name"])), options) for entry in entries]
    except (
        AttributeError,
        KeyError,
        IndexError,
        OverflowError,
        TypeError,
        ValueError,
        CnnfastError,
    ) as error:
        if isinstance(error, WeightsError):
            raise
        raise _fail(f"expected a sound file, came {type(error).__name__}: {shown(str(error), 300)}") from None
    return str(header["name"]), {tuple([v.shape for v in p.inputs]): p for p in programs}, options
