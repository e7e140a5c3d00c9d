"""Checkpoints: everything a run of training is made of in one safetensors file, without pickle.

Arrays are tensors of the file; what is around them (settings, counters, history, random numbers) is JSON in
its metadata. A checksum over both tells a damaged file from a good one. The file is written beside its place
and renamed, so that its name always stands for a complete checkpoint.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import WeightsError
from ..weights import load_weights, read_metadata, save_weights
from ..weights.limits import shown

Array = np.ndarray

__all__ = ["is_checkpoint", "load_checkpoint", "save_checkpoint"]

#: Raised when a later version could not read what an earlier one wrote.
VERSION = 1

_STATE, _SUM = "cnnfast.checkpoint", "cnnfast.crc32"


# --- nested states as JSON and tensors --------------------------------------------------------------
# JSON knows neither arrays nor tuples nor numbers as keys: {"$": kind, ...} stands for these.


def _packed(value: Any, path: str, tensors: dict[str, Array]) -> Any:
    """A state as JSON takes it, its arrays in ``tensors`` under their paths."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, np.generic):
        tensors[path] = np.asarray(value)
        return {"$": "scalar", "at": path}
    if isinstance(value, (int, float)):
        return value
    if isinstance(value, np.ndarray):
        tensors[path] = value
        return {"$": "array", "at": path}
    if isinstance(value, (tuple, list)):
        items = [_packed(item, f"{path}/{i}", tensors) for i, item in enumerate(value)]
        return {"$": "tuple", "items": items} if isinstance(value, tuple) else items
    if isinstance(value, Mapping):
        held = [
            (key, _packed(item, f"{path}/{key}" if path else str(key), tensors))
            for key, item in value.items()
        ]
        if all(isinstance(key, str) and key != "$" for key, _ in held):
            return dict(held)
        if all(type(key) in (str, int) for key, _ in held):
            return {"$": "dict", "items": held}
    raise WeightsError(
        f"{path}: expected numbers, text, arrays and containers, came a {type(value).__name__}"
    )


def _unpacked(value: Any, tensors: Mapping[str, Array]) -> Any:
    if isinstance(value, list):
        return [_unpacked(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    kind = value.get("$")
    if kind is None:
        return {key: _unpacked(item, tensors) for key, item in value.items()}
    if kind == "array":
        return tensors[value["at"]]
    if kind == "scalar":
        return tensors[value["at"]][()]
    items = [_unpacked(item, tensors) for item in value["items"]]
    return tuple(items) if kind == "tuple" else dict(items)


def _checksum(text: str, tensors: Mapping[str, Array]) -> str:
    total = zlib.crc32(text.encode())
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        total = zlib.crc32(f"{name} {array.dtype.name} {tensors[name].shape}".encode(), total)
        total = zlib.crc32(array.reshape(-1).view(np.uint8).data, total)
    return f"{total:08x}"


# --- files -------------------------------------------------------------------------------------------


def save_checkpoint(path: str | os.PathLike[str], state: Mapping[str, Any]) -> None:
    """Write a state, all or nothing.

    Parameters
    ----------
    path : str or os.PathLike
        Where to; ends in ``.safetensors``.
    state : mapping
        Numbers, text, None, arrays, and lists, tuples and dictionaries of them; it comes back as it is, to
        the bit.

    Raises
    ------
    WeightsError
        If the state holds anything else.
    OSError
        If it cannot be written; the old checkpoint stays.
    """
    if os.path.splitext(os.fspath(path))[1].lower() != ".safetensors":
        raise WeightsError(f"save_checkpoint: {os.fspath(path)}: expected a name that ends in .safetensors")
    tensors: dict[str, Array] = {}
    text = json.dumps({"version": VERSION, "state": _packed(state, "", tensors)}, separators=(",", ":"))
    save_weights(path, tensors, metadata={_STATE: text, _SUM: _checksum(text, tensors)})


def is_checkpoint(path: str | os.PathLike[str]) -> bool:
    """Whether a file is one that :func:`save_checkpoint` wrote, damaged or not."""
    return _STATE in read_metadata(path)


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what :func:`save_checkpoint` wrote.

    Raises
    ------
    WeightsError
        If the file is damaged, of a later version, or no checkpoint.
    OSError
        If it cannot be opened or read.
    """
    name = os.fsdecode(path)

    def fail(expected: str, came: str) -> WeightsError:
        return WeightsError(f"load_checkpoint: {name}: expected {expected}, came {came}")

    try:
        metadata = read_metadata(name)
        tensors = load_weights(name)
    except WeightsError as error:
        raise fail("a checkpoint", str(error)) from None
    if _STATE not in metadata:
        raise fail("a checkpoint of cnnfast.train", "another file with weights")
    text = metadata[_STATE]
    if metadata.get(_SUM) != _checksum(text, tensors):
        raise fail("the checksum it was written with", "a damaged file")
    try:
        held = json.loads(text)
        if held["version"] != VERSION:
            raise fail(f"version {VERSION} of checkpoints", shown(held["version"]))
        state = _unpacked(held["state"], tensors)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, WeightsError):
            raise
        raise fail("a state", f"one that cannot be read: {shown(str(error))}") from None
    if not isinstance(state, dict):
        raise fail("a state", shown(state))
    return state
