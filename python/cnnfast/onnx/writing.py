"""ONNX files under construction: nodes, constants, and in which order the axes of each value stand."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np

from ..errors import WeightsError
from ..graph.ir import Array, Value
from .wire import encode

__all__ = ["CODES", "NCHW", "Writer", "channels_second"]

Order = tuple[int, ...]
NCHW: Order = (0, 2, 3, 1)  # where N, H, W, C stand
CODES = {
    "float32": 1,
    "uint8": 2,
    "int8": 3,
    "uint16": 4,
    "int16": 5,
    "int32": 6,
    "int64": 7,
    "bool": 9,
    "float64": 11,
}
#: Protocol buffers cannot be longer.
MAX_BYTES = (1 << 31) - 1


def channels_second(rank: int) -> Order:
    """Where the axes N, ..., C stand in N, C, ...."""
    return (0, *range(2, rank), 1) if rank > 1 else (0,)


def usual(rank: int) -> Order:
    return tuple(range(rank))


class Writer:
    """Collects nodes and constants; every value of the graph may exist in several orders of its axes."""

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.scope = ""
        self._nodes: list[bytes] = []
        self._tensors: list[tuple[str, Array]] = []  # views, copied only when they are written
        self._names: set[str] = set()
        self._held: dict[Value, dict[Order, str]] = {}
        self._known: dict[Any, str] = {}

    def name(self, wanted: str) -> str:
        """A name that nothing else has."""
        name, n = wanted, 1
        while name in self._names:
            name, n = f"{wanted}_{n}", n + 1
        self._names.add(name)
        return name

    # --- values --------------------------------------------------------------------------------

    def put(self, value: Value, name: str, order: Order | None = None) -> None:
        """Say under which name a value stands, its axis i being axis ``order[i]`` there."""
        self._held.setdefault(value, {})[usual(len(value.shape)) if order is None else order] = name

    def order_of(self, value: Value) -> Order:
        """An order the value is held in already; the usual one for constants."""
        held = self._held.get(value)
        return next(iter(held)) if held and value.kind != "param" else usual(len(value.shape))

    def get(self, value: Value, order: Order | None = None) -> str:
        """The name of a value with its axes in an order (the usual one if none is given)."""
        order = usual(len(value.shape)) if order is None else order
        held = self._held.setdefault(value, {})
        if order in held:
            return held[order]
        if value.data is not None:
            held[order] = self.constant(_moved(value.data, order), value.name)
            return held[order]
        now, name = next(iter(held.items()))
        perm = [0] * len(order)
        for source, target in zip(now, order, strict=True):
            perm[target] = source
        held[order] = self.emit("Transpose", [name], perm=perm)
        return held[order]

    def broadcast(self, value: Value, order: Order) -> str:
        """A value as it broadcasts with others of this order of axes."""
        rank = len(order)
        if len(value.shape) == rank:
            return self.get(value, order)
        if math.prod(value.shape) == 1:
            return self.get(value)
        shape = (1,) * (rank - len(value.shape)) + value.shape
        if value.data is not None:
            return self.constant(_moved(value.data.reshape(shape), order), value.name)
        name = self.emit("Reshape", [self.get(value), self.numbers(shape)])
        perm = [order.index(i) for i in range(rank)]
        return name if perm == list(range(rank)) else self.emit("Transpose", [name], perm=perm)

    def constant(self, array: Array, wanted: str = "") -> str:
        """A tensor of the file; views are kept as views until they are written."""
        if array.dtype.name not in CODES:
            raise WeightsError(f"a constant of type {array.dtype} cannot be written")
        name = self.name(wanted or f"constant_{len(self._tensors)}")
        self._tensors.append((name, array))
        return name

    def numbers(self, values: Sequence[int]) -> str:
        """A list of whole numbers, written once."""
        key = tuple(int(v) for v in values)
        if key not in self._known:
            self._known[key] = self.constant(np.array(key, np.int64), "sizes")
        return self._known[key]

    def scalar(self, value: float, dtype: Any) -> str:
        """A single number, written once."""
        key = (float(value), str(dtype))
        if key not in self._known:
            self._known[key] = self.constant(np.array(value, dtype), "number")
        return self._known[key]

    # --- nodes ---------------------------------------------------------------------------------

    def emit(self, op_type: str, inputs: Sequence[str], **attributes: Any) -> str:
        """A node with one result; gives its name."""
        return self.emit_many(op_type, inputs, 1, **attributes)[0]

    def emit_many(self, op_type: str, inputs: Sequence[str], results: int, **attributes: Any) -> list[str]:
        base = f"{self.scope}/{op_type}" if self.scope else op_type
        outputs = [self.name(base) for _ in range(results)]
        self.add(op_type, inputs, outputs, **attributes)
        return outputs

    def add(self, op_type: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> None:
        """A node whose results have names already."""
        fields: list[tuple[int, Any]] = [(1, name) for name in inputs]
        fields += [(2, name) for name in outputs]
        fields += [(3, outputs[0]), (4, op_type)]
        for name, value in attributes.items():
            if value is None:
                continue
            attribute: list[tuple[int, Any]] = [(1, name)]
            if isinstance(value, float):
                attribute += [(2, value), (20, 1)]
            elif isinstance(value, (bool, int, np.integer)):
                attribute += [(3, int(value)), (20, 2)]
            elif isinstance(value, str):
                attribute += [(4, value), (20, 3)]
            else:
                attribute += [*[(8, int(v)) for v in value], (20, 7)]
            fields.append((5, encode(attribute)))
        self._nodes.append(encode(fields))

    # --- the file ------------------------------------------------------------------------------

    def pieces(
        self, inputs: list[tuple[str, Any, Any]], outputs: list[tuple[str, Any, Any]], title: str
    ) -> Iterator[bytes | Array]:
        """The bytes of the file in turn: (name, type, shape) of its inputs and outputs, nodes, tensors."""
        body: list[bytes | Array] = [_field(1, node) for node in self._nodes]
        body.append(encode([(2, title)]))
        for name, array in self._tensors:
            head = encode([*[(1, n) for n in array.shape], (2, CODES[array.dtype.name]), (8, name)])
            head += _head(9, array.nbytes)
            body += [_head(5, len(head) + array.nbytes) + head, array]
        for number, values in ((11, inputs), (12, outputs)):
            for name, dtype, shape in values:
                sizes = b"".join(_field(1, encode([(1, n)])) for n in shape)
                kind = encode([(1, CODES[np.dtype(dtype).name]), (2, sizes)])
                body.append(_field(number, encode([(1, name), (2, _field(1, kind))])))
        length = sum(len(piece) if isinstance(piece, bytes) else piece.nbytes for piece in body)
        if length > MAX_BYTES - 1000:
            raise WeightsError(f"expected at most {MAX_BYTES} bytes for one ONNX file, came {length}")
        version = 8 if self.opset < 19 else 9 if self.opset < 21 else 10
        yield encode([(1, version), (2, "cnnfast")])
        yield _head(7, length)
        yield from body
        yield encode([(8, encode([(1, ""), (2, self.opset)]))])


def write_pieces(file: BinaryIO, pieces: Iterator[bytes | Array]) -> None:
    for piece in pieces:
        if isinstance(piece, bytes):
            file.write(piece)
        else:
            array = np.ascontiguousarray(piece, piece.dtype.newbyteorder("<"))
            file.write(array.data.cast("B") if array.size else b"")


def _head(number: int, length: int) -> bytes:
    return encode([(number, b"")])[:-1] + encode([(0, length)])[1:]


def _field(number: int, content: bytes) -> bytes:
    return encode([(number, content)])


def _moved(array: Array, order: Order) -> Array:
    """A view whose axis ``order[i]`` is axis i of the array."""
    return array.transpose([order.index(i) for i in range(len(order))])
