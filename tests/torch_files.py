"""Checkpoints as torch writes them, and as it never would: a small pickler, zip and legacy containers."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Callable

import numpy as np

from cnnfast.weights import load_weights

MAGIC = 0x1950A86A20F9469CFC6C

# A small pickler. It writes what it is told, also what Python's own would never write.


class Global:
    def __init__(self, module: str, name: str) -> None:
        self.code = f"c{module}\n{name}\n".encode()


class Call:
    def __init__(self, function: object, *arguments: object) -> None:
        self.function, self.arguments = function, arguments


class Persistent:
    def __init__(self, identity: object) -> None:
        self.identity = identity


class Raw:
    def __init__(self, code: bytes) -> None:
        self.code = code


def encode(value: object) -> bytes:
    if isinstance(value, (Raw, Global)):
        return value.code
    if isinstance(value, Call):
        return encode(value.function) + encode(value.arguments) + b"R"
    if isinstance(value, Persistent):
        return encode(value.identity) + b"Q"
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        if -(1 << 31) <= value < 1 << 31:
            return b"J" + struct.pack("<i", value)
        content = pickle.encode_long(value)
        return b"\x8a" + bytes([len(content)]) + content
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        content = value.encode()
        return b"X" + struct.pack("<I", len(content)) + content
    if isinstance(value, tuple):
        return b"(" + b"".join(map(encode, value)) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(map(encode, value)) + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(encode(key) + encode(item) for key, item in value.items()) + b"u"
    raise TypeError(type(value))


def dumps(value: object) -> bytes:
    return b"\x80\x02" + encode(value) + b"."


STORAGES = {
    "f8": "DoubleStorage",
    "f4": "FloatStorage",
    "f2": "HalfStorage",
    "i8": "LongStorage",
    "i4": "IntStorage",
    "i2": "ShortStorage",
    "i1": "CharStorage",
    "u1": "ByteStorage",
    "b1": "BoolStorage",
}
REBUILD = Global("torch._utils", "_rebuild_tensor_v2")
ORDERED = Global("collections", "OrderedDict")


def storage(kind: str, key: object, count: object, legacy: bool, view: object = None) -> Persistent:
    identity = ("storage", Global("torch", kind), key, "cpu", count)
    return Persistent((*identity, view) if legacy else identity)


def tensor(source: object, offset: object, shape: object, stride: object) -> Call:
    return Call(REBUILD, source, offset, shape, stride, False, Call(ORDERED))


def whole(array: np.ndarray, key: str, legacy: bool) -> Call:
    strides = tuple(step // array.itemsize for step in array.strides)
    kind = STORAGES[array.dtype.str[1:]]
    return tensor(storage(kind, key, array.size, legacy), 0, array.shape, strides)


def zip_checkpoint(
    value: object,
    storages: dict[str, bytes],
    byteorder: bytes | None = b"little",
    method: int = zipfile.ZIP_STORED,
    root: str = "archive/",
    **others: bytes,
) -> bytes:
    """A zip checkpoint; ``value`` may be the bytes of a pickle, ``others`` are further entries."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        archive.writestr(root + "data.pkl", value if isinstance(value, bytes) else dumps(value))
        if byteorder is not None:
            archive.writestr(root + "byteorder", byteorder)
        for key, content in storages.items():
            archive.writestr(f"{root}data/{key}", content)
        archive.writestr(root + "version", b"3\n")
        for name, content in others.items():
            # "../" leaves the root
            archive.writestr(name[3:] if name.startswith("../") else root + name, content)
    return stream.getvalue()


def legacy_checkpoint(
    value: object, storages: dict[str, tuple[int, bytes]], keys: object = None, protocol: int = 1001
) -> bytes:
    system = {
        "protocol_version": 1001,
        "little_endian": True,
        "type_sizes": {"short": 2, "int": 4, "long": 4},
    }
    content = dumps(MAGIC) + dumps(protocol) + dumps(system)
    content += value if isinstance(value, bytes) else dumps(value)
    content += dumps(list(storages) if keys is None else keys)
    return content + b"".join(struct.pack("<q", count) + raw for count, raw in storages.values())


def checkpoint(arrays: dict[str, np.ndarray], legacy: bool, wrap: Callable = lambda state: state) -> bytes:
    """A checkpoint of ``arrays``, which lie densely in memory in any order of dimensions."""
    tensors = {name: whole(array, str(i), legacy) for i, (name, array) in enumerate(arrays.items())}
    raw = {str(i): array.ravel(order="K").tobytes() for i, array in enumerate(arrays.values())}
    if not legacy:
        return zip_checkpoint(wrap(tensors), raw)
    counts = [array.size for array in arrays.values()]
    return legacy_checkpoint(wrap(tensors), {key: (n, raw[key]) for key, n in zip(raw, counts, strict=True)})


ARRAYS = {
    "conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2).transpose(2, 3, 1, 0),
    "conv.bias": np.array([1.5, -2.5]),
    "bn.num_batches_tracked": np.array(7),
    "half": np.ones((2, 1), np.float16),
    "flags": np.array([True, False, True]),
    "empty": np.zeros((0, 4), np.int32),
    **{kind: np.arange(5).astype(kind) for kind in ("i1", "i2", "i4", "u1")},
}


def assert_arrays(path, expected: dict[str, np.ndarray]) -> None:
    got = load_weights(path)
    assert list(got) == list(expected)
    for name, array in got.items():
        assert array.dtype == expected[name].dtype.newbyteorder("=")
        assert np.array_equal(array, expected[name])
        assert array.shape == expected[name].shape
        assert array.flags.c_contiguous
        assert array.flags.writeable
