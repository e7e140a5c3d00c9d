"""Checkpoints of torch, in the zip form (since 1.6) and in the legacy form, read without torch."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO

import numpy as np

from cnnfast.errors import WeightsError
from cnnfast.weights.archive import open_entry, read_entry
from cnnfast.weights.elements import ELEMENTS, Element, element_count, own_array, result_dtype, stored_dtype
from cnnfast.weights.limits import MAX_PICKLE_BYTES, MAX_TENSORS, check_expansion, shown
from cnnfast.weights.restricted_pickle import Constructor, Machine, latin1_bytes, ordered_dict, plain_list
from cnnfast.weights.stored import Ready, Stored

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001

#: Entries of a checkpoint that hold its state dict, in the order in which they are looked for.
STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model")


@dataclass(frozen=True)
class _StorageType:
    """``torch.FloatStorage`` and its kin, as a file names them."""

    element: Element


@dataclass(frozen=True, slots=True)
class _Storage:
    """A run of bytes in the file, and the part of it that a (very old) storage view covers."""

    key: str
    element: Element
    nbytes: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class _StoredTensor:
    """A view of a storage; offset and strides count elements, as in torch."""

    storage: _Storage
    element: Element
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def _named(name: str, itemsize: int = 1) -> Element:
    return ELEMENTS.get(name) or Element(name, itemsize, None)


_STORAGE_ELEMENTS = {
    "DoubleStorage": _named("float64"),
    "FloatStorage": _named("float32"),
    "HalfStorage": _named("float16"),
    "BFloat16Storage": _named("bfloat16"),
    "LongStorage": _named("int64"),
    "IntStorage": _named("int32"),
    "ShortStorage": _named("int16"),
    "CharStorage": _named("int8"),
    "ByteStorage": _named("uint8"),
    "BoolStorage": _named("bool"),
    "UntypedStorage": _named("uint8"),
    # Known so that a checkpoint can hold them beside its weights; as weights they are refused.
    "ComplexDoubleStorage": _named("complex128", 16),
    "ComplexFloatStorage": _named("complex64", 8),
    "QInt8Storage": _named("qint8"),
    "QUInt8Storage": _named("quint8"),
    "QInt32Storage": _named("qint32", 4),
}
_OTHER_ELEMENTS = {
    "complex32": 4,
    "complex64": 8,
    "complex128": 16,
    "float8_e4m3fn": 1,
    "float8_e4m3fnuz": 1,
    "float8_e5m2": 1,
    "float8_e5m2fnuz": 1,
    "float8_e8m0fnu": 1,
}


def _storage_view(machine: Machine, root: _Storage, view: object) -> _Storage:
    """The part of a legacy storage that ``(key, offset, length)`` selects."""
    if type(view) is not tuple or len(view) != 3:
        machine.fail(f"expected (key, offset, length) of a storage view, came {shown(view)}")
    _, offset, length = view
    if type(offset) is not int or type(length) is not int or offset < 0 or length < 0:
        machine.fail(f"expected a storage view, came offset {shown(offset)}, length {shown(length)}")
    itemsize = root.element.itemsize
    if (offset + length) * itemsize > root.nbytes:
        machine.fail(
            f"expected a view inside the {root.nbytes} bytes of storage {shown(root.key)}, "
            f"came offset {shown(offset)}, length {shown(length)}"
        )
    return _Storage(root.key, root.element, root.nbytes, offset * itemsize, (offset + length) * itemsize)


def _storage_loader(storages: dict[str, _Storage], legacy: bool) -> Callable[[Machine, object], _Storage]:
    """A function for persistent ids, which notes the storages it meets."""
    fields = 6 if legacy else 5

    def load(machine: Machine, identity: object) -> _Storage:
        if type(identity) is tuple and identity and identity[0] == "module":
            machine.fail("expected a state dict, came a whole saved module; save module.state_dict() instead")
        if type(identity) is not tuple or len(identity) != fields or identity[0] != "storage":
            machine.fail(f"expected the id of a storage with {fields} fields, came {shown(identity)}")
        kind, key, _, count = identity[1:5]
        if type(kind) is not _StorageType or type(key) is not str:
            machine.fail(f"expected a storage type and a key, came {shown(kind)} and {shown(key)}")
        if type(count) is not int or not 0 <= count < 1 << 58:
            machine.fail(f"expected a number of elements in storage {shown(key)}, came {shown(count)}")
        nbytes = count * kind.element.itemsize
        storage = _Storage(key, kind.element, nbytes, 0, nbytes)
        if storages.setdefault(key, storage) != storage:
            machine.fail(f"expected storage {shown(key)} always alike, came a different type or size")
        if legacy and identity[5] is not None:
            return _storage_view(machine, storage, identity[5])
        return storage

    return load


def _tensor(machine: Machine, storage: object, element: object, geometry: tuple) -> _StoredTensor:
    """Check the geometry of a tensor against its storage."""
    offset, shape, stride = geometry
    if type(storage) is not _Storage or type(element) is not Element:
        machine.fail(f"expected a storage for a tensor, came {shown(storage)}")
    place = f"{machine.place}, near byte {machine.position}"
    count = element_count(place, shape, element.itemsize)
    machine.spend(8 * len(shape) + 8)
    element_count(place, stride, 0)  # checks that strides are as plain as shapes
    if len(stride) != len(shape):
        machine.fail(f"expected {len(shape)} strides, came {len(stride)}")
    if type(offset) is not int or offset < 0:
        machine.fail(f"expected an offset of 0 or more, came {shown(offset)}")
    available = (storage.last - storage.first) // element.itemsize
    # A tensor that repeats elements (stride 0) could be made as large as one likes.
    if count > available:
        machine.fail(f"expected at most the {available} elements of its storage, came a tensor of {count}")
    if count:
        end = offset + 1 + sum((length - 1) * step for length, step in zip(shape, stride, strict=True))
        if end > available:
            machine.fail(f"expected a tensor inside the {available} elements of its storage, came {end}")
    return _StoredTensor(storage, element, offset, tuple(shape), tuple(stride))


def _rebuild_tensor(machine: Machine, arguments: tuple) -> _StoredTensor:
    """``_rebuild_tensor(storage, offset, size, stride)``; version 2 adds what only training needs."""
    if len(arguments) not in (4, 6, 7):
        machine.fail(f"expected 4, 6 or 7 arguments for a tensor, came {len(arguments)}")
    if len(arguments) == 7 and arguments[6]:
        machine.fail("expected a plain tensor, came one with a conjugate or negative bit")
    storage = arguments[0]
    return _tensor(machine, storage, getattr(storage, "element", None), arguments[1:4])


def _rebuild_tensor_v3(machine: Machine, arguments: tuple) -> _StoredTensor:
    """The same with an element type of its own over an untyped storage."""
    if len(arguments) not in (7, 8):
        machine.fail(f"expected 7 or 8 arguments for a tensor, came {len(arguments)}")
    if len(arguments) == 8 and arguments[7]:
        machine.fail("expected a plain tensor, came one with a conjugate or negative bit")
    return _tensor(machine, arguments[0], arguments[6], arguments[1:4])


def _rebuild_parameter(machine: Machine, arguments: tuple) -> _StoredTensor:
    if len(arguments) not in (3, 4) or type(arguments[0]) is not _StoredTensor:
        machine.fail("expected a tensor as the data of a parameter, came something else")
    return arguments[0]


def _size(machine: Machine, arguments: tuple) -> tuple:
    if len(arguments) != 1 or type(arguments[0]) is not tuple:
        machine.fail("expected a tuple for torch.Size, came something else")
    return arguments[0]


def _device(machine: Machine, arguments: tuple) -> str:
    if not arguments or not all(type(part) in (str, int) for part in arguments):
        machine.fail("expected the name of a device, came something else")
    return str(arguments[0])


def _allowed_globals() -> dict[str, object]:
    functions: dict[str, Callable[[Machine, tuple], object]] = {
        "torch._utils._rebuild_tensor": _rebuild_tensor,
        "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
        "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
        "torch._utils._rebuild_parameter": _rebuild_parameter,
        "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
        "torch.Size": _size,
        "torch.device": _device,
        "collections.OrderedDict": ordered_dict,
        "collections.Counter": ordered_dict,
        "builtins.set": plain_list,
        "__builtin__.set": plain_list,
        "_codecs.encode": latin1_bytes,
    }
    allowed: dict[str, object] = {name: Constructor(build) for name, build in functions.items()}
    for name, element in _STORAGE_ELEMENTS.items():
        for module in ("torch", "torch.cuda", "torch.storage"):
            allowed[f"{module}.{name}"] = _StorageType(element)
    for name, element in ELEMENTS.items():
        allowed[f"torch.{name}"] = element
    for name, itemsize in _OTHER_ELEMENTS.items():
        allowed[f"torch.{name}"] = Element(name, itemsize, None)
    return allowed


_ALLOWED = _allowed_globals()


def stored_zip(
    archive: zipfile.ZipFile, entries: Mapping[str, zipfile.ZipInfo], size: int
) -> dict[str, Stored | Ready]:
    """The state dict of an opened zip checkpoint."""
    pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise WeightsError(f"zip directory: expected one NAME/data.pkl, came {len(pickles)}")
    root = pickles[0].removesuffix("data.pkl")
    if any(name == root + "constants.pkl" or name.startswith(root + "code/") for name in entries):
        raise WeightsError(
            "zip directory: expected a state dict, came a TorchScript archive; save its state_dict() instead"
        )
    info = entries[pickles[0]]
    place = f"zip entry {shown(info.filename)}"
    if info.file_size > MAX_PICKLE_BYTES:
        raise WeightsError(f"{place}: expected at most {MAX_PICKLE_BYTES} bytes, came {info.file_size}")
    order = _byte_order(archive, entries.get(root + "byteorder"))
    storages: dict[str, _Storage] = {}
    data = read_entry(archive, info).tobytes()
    machine = Machine(data, 0, place, _ALLOWED, _storage_loader(storages, legacy=False))
    tensors = _select_state(place, machine.run())

    def entry_of(storage: _Storage) -> zipfile.ZipInfo:
        entry = entries.get(f"{root}data/{storage.key}")
        if entry is None:
            raise WeightsError(f"storage {shown(storage.key)}: expected a zip entry of that name, came none")
        if entry.file_size != storage.nbytes:
            raise WeightsError(
                f"storage {shown(storage.key)}: expected {storage.nbytes} bytes, came {entry.file_size}"
            )
        return entry

    def read_storage(storage: _Storage) -> np.ndarray:
        return read_entry(archive, entry_of(storage))

    def stream(storage: _Storage) -> Callable[[], open_entry]:
        return partial(open_entry, archive, entry_of(storage))

    return _stored_tensors(tensors, read_storage, stream, order, size)


def _byte_order(archive: zipfile.ZipFile, info: zipfile.ZipInfo | None) -> str:
    # Files from before there was such an entry were written on little-endian machines.
    if info is None:
        return "<"
    word = read_entry(archive, info).tobytes() if info.file_size <= 16 else b"a long entry"
    if word not in (b"little", b"big"):
        raise WeightsError(f"zip entry {shown(info.filename)}: expected little or big, came {shown(word)}")
    return "<" if word == b"little" else ">"


def stored_legacy(file: BinaryIO, size: int) -> dict[str, Stored | Ready]:
    """The state dict of a legacy checkpoint: five pickles, then the storages.

    The numbers are little-endian on every machine; torch swapped them while writing.
    """
    tensors, places = _read_legacy_pickles(file, size)

    def read_storage(storage: _Storage) -> np.ndarray:
        content = np.empty(storage.nbytes, np.uint8)
        file.seek(places[storage.key])
        if file.readinto(content.data) != storage.nbytes:  # type: ignore[attr-defined]
            raise WeightsError(f"storage {shown(storage.key)}: expected {storage.nbytes} bytes, came fewer")
        return content

    def stream(storage: _Storage) -> Callable[[], AbstractContextManager[BinaryIO]]:
        def at_its_place() -> AbstractContextManager[BinaryIO]:
            file.seek(places[storage.key])
            return nullcontext(file)

        return at_its_place

    return _stored_tensors(tensors, read_storage, stream, "<", size)


def _read_legacy_pickles(file: BinaryIO, size: int) -> tuple[dict[str, _StoredTensor], dict[str, int]]:
    """The tensors, and where the data of each storage begins."""
    file.seek(0)
    data = file.read(min(size, MAX_PICKLE_BYTES))
    storages: dict[str, _Storage] = {}
    position = 0

    def next_pickle(place: str, loader: Callable[[Machine, object], _Storage] | None = None) -> object:
        nonlocal position
        machine = Machine(data, position, place, _ALLOWED, loader)
        value = machine.run()
        position = machine.position
        return value

    magic = next_pickle("magic number")
    if magic != LEGACY_MAGIC:
        raise WeightsError(f"magic number: expected a checkpoint of torch, came a pickle of {shown(magic)}")
    protocol = next_pickle("protocol version")
    if protocol != _LEGACY_PROTOCOL:
        raise WeightsError(f"protocol version: expected {_LEGACY_PROTOCOL}, came {shown(protocol)}")
    next_pickle("system information")
    tensors = _select_state("checkpoint", next_pickle("checkpoint", _storage_loader(storages, legacy=True)))
    keys = next_pickle("storage keys")
    return tensors, _legacy_places(file, position, size, keys, storages)


def _legacy_places(
    file: BinaryIO, position: int, size: int, keys: object, storages: Mapping[str, _Storage]
) -> dict[str, int]:
    """Where the data of each storage begins: after its number of elements, in the order of ``keys``."""
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise WeightsError(f"storage keys: expected a list of text, came {shown(keys)}")
    if len(keys) != len(set(keys)) or set(keys) != storages.keys():
        raise WeightsError(f"storage keys: expected the {len(storages)} of the checkpoint, came {len(keys)}")
    places = {}
    for key in keys:
        file.seek(position)
        head = file.read(8)
        storage = storages[key]
        count = int.from_bytes(head, "little", signed=True) if len(head) == 8 else -1
        if count * storage.element.itemsize != storage.nbytes:
            raise WeightsError(
                f"storage {shown(key)} at byte {position}: expected {storage.nbytes} bytes, "
                f"came {count} elements of {storage.element.name}"
                if len(head) == 8
                else f"storage {shown(key)}: expected at byte {position}, came the end of the file"
            )
        places[key] = position + 8
        position += 8 + storage.nbytes
        if position > size:
            raise WeightsError(f"storage {shown(key)}: expected an end by byte {size}, came {position}")
    if position != size:
        raise WeightsError(f"end of file: expected at byte {position}, came {size - position} more bytes")
    return places


def _select_state(place: str, value: object) -> dict[str, _StoredTensor]:
    """The dictionary of tensors in a checkpoint: the checkpoint itself or one of `STATE_DICT_KEYS`."""
    if type(value) is not dict:
        raise WeightsError(f"{place}: expected a dictionary of tensors, came {shown(value)}")
    if not value or _is_state_dict(value):
        return _tensors_of(place, value)
    for key in STATE_DICT_KEYS:
        inner = value.get(key)
        if type(inner) is dict and _is_state_dict(inner):
            return _tensors_of(place, inner)
    listed = ", ".join(shown(key, 40) for key in list(value)[:20])
    raise WeightsError(
        f"{place}: expected a dictionary of tensors, or one under {', '.join(STATE_DICT_KEYS)}; "
        f"came {len(value)} entries: {listed}"
    )


def _is_state_dict(value: dict) -> bool:
    """Whether ``value`` holds tensors and otherwise only scalars, which are dropped."""
    kinds = {type(item) for item in value.values()}
    return _StoredTensor in kinds and kinds <= {_StoredTensor, str, bytes, bool, int, float, type(None)}


def _tensors_of(place: str, value: dict) -> dict[str, _StoredTensor]:
    tensors = {key: item for key, item in value.items() if type(item) is _StoredTensor}
    for key in tensors:
        if type(key) is not str:
            raise WeightsError(f"{place}: expected names of tensors as text, came {shown(key)}")
    if len(tensors) > MAX_TENSORS:
        raise WeightsError(f"{place}: expected at most {MAX_TENSORS} tensors, came {len(tensors)}")
    return tensors


def _stored_tensors(
    tensors: Mapping[str, _StoredTensor],
    read_storage: Callable[[_Storage], np.ndarray],
    stream: Callable[[_Storage], Callable[[], AbstractContextManager[Any]]],
    byteorder: str,
    size: int,
) -> dict[str, Stored | Ready]:
    """Tensors that are all of their storage are left in the file; others are copied out of theirs."""
    total = 0
    names_by_storage: dict[str, list[str]] = {}
    for name, tensor in tensors.items():
        dtype = result_dtype(f"tensor {shown(name)}", tensor.element)
        total += math.prod(tensor.shape) * dtype.itemsize
        names_by_storage.setdefault(tensor.storage.key, []).append(name)
    check_expansion("checkpoint", total, size)
    found: dict[str, Stored | Ready] = {}
    for names in names_by_storage.values():
        first = tensors[names[0]]
        if len(names) == 1 and _is_whole(first):
            place = f"tensor {shown(names[0])}"
            found[names[0]] = Stored(place, first.shape, first.element, byteorder, stream(first.storage))
            continue
        content = read_storage(first.storage)
        for name in names:
            array = _copy_out(f"tensor {shown(name)}", content, tensors[name], byteorder)
            found[name] = Ready(array)
        del content  # before the next one is read
    return {name: found[name] for name in tensors}


def _is_whole(tensor: _StoredTensor) -> bool:
    """Whether a tensor is the whole of its storage, in C order."""
    step = 1
    for length, stride in zip(reversed(tensor.shape), reversed(tensor.stride), strict=True):
        if length != 1 and stride != step:
            return False
        step *= length
    storage = tensor.storage
    return tensor.offset == 0 and storage.first == 0 and step * tensor.element.itemsize == storage.nbytes


def _copy_out(place: str, content: np.ndarray, tensor: _StoredTensor, byteorder: str) -> np.ndarray:
    dtype = stored_dtype(tensor.element, byteorder)
    if 0 in tensor.shape:
        return own_array(place, np.empty(tensor.shape, dtype), tensor.element)
    stored: np.ndarray = np.ndarray(
        tensor.shape,
        dtype,
        buffer=content.data,
        offset=tensor.storage.first + tensor.offset * dtype.itemsize,
        strides=tuple(step * dtype.itemsize for step in tensor.stride),
    )
    return own_array(place, stored, tensor.element)
