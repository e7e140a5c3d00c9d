"""Reading and writing weights.

Reading never executes anything from the file and never touches another file. Sizes are checked before memory
is taken for them, with the bounds in `cnnfast.weights.limits`.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np

from cnnfast.errors import WeightsError
from cnnfast.weights import npz, safetensors_file, torch_file
from cnnfast.weights.archive import open_archive
from cnnfast.weights.atomic import replace_file
from cnnfast.weights.elements import ELEMENTS, SUPPORTED
from cnnfast.weights.limits import MAX_FILE_BYTES, shown
from cnnfast.weights.stored import Ready, Stored

__all__ = ["load_weights", "open_weights", "read_metadata", "save_weights"]

_EXTENSIONS = {
    ".safetensors": "safetensors",
    ".npz": "npz",
    ".pth": "torch",
    ".pt": "torch",
    ".th": "torch",
}


def load_weights(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read all tensors of a weights file.

    The content decides about the format: safetensors, npz, or a checkpoint of torch (the zip form and the
    legacy form before it, neither of which needs torch). An extension that belongs to another one of these
    formats is refused.

    Parameters
    ----------
    path : str or os.PathLike
        The file.

    Returns
    -------
    dict of str to numpy.ndarray
        Names as they are stored, in the order of the file. Every array is C-contiguous, writable, in native
        byte order and has its own memory. bfloat16 becomes float32, which holds its values exactly; other
        element types stay as they are.

    Raises
    ------
    WeightsError
        If the file is corrupt, cut off, of an unknown kind, beyond the limits, or holds anything but tensors,
        containers and scalars. The message names the place.
    OSError
        If the file cannot be opened or read.

    Notes
    -----
    A torch checkpoint that is not itself a dictionary of tensors may hold one under ``state_dict``,
    ``model_state_dict`` or ``model``; the first of these is returned, and the rest of the checkpoint (epoch,
    optimizer) is left out. Scalars, text and None beside the tensors are left out too.

    Examples
    --------
    >>> import numpy as np, cnnfast as cf
    >>> cf.save_weights("layer.npz", {"weight": np.zeros((3, 3, 1, 8), np.float32)})
    >>> cf.load_weights("layer.npz")["weight"].shape
    (3, 3, 1, 8)
    """
    with open_weights(path) as tensors:
        return {name: tensors.pop(name).array() for name in list(tensors)}


@contextlib.contextmanager
def open_weights(path: str | os.PathLike[str]) -> Iterator[dict[str, Stored | Ready]]:
    """The tensors of a weights file while it is open, to be read one after the other.

    Parameters, errors and order as for :func:`load_weights`; errors in the data come when it is read.
    """
    name = os.fsdecode(path)
    # Opening a pipe would wait for ever, reading a device would not end.
    mode = os.stat(name).st_mode
    try:
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise WeightsError("file: expected a regular file, came a device, pipe or socket")
        with open(name, "rb") as file, contextlib.ExitStack() as archives:
            size = os.fstat(file.fileno()).st_size
            yield _stored(file, size, _EXTENSIONS.get(_extension(name)), archives)
    except WeightsError as error:
        if str(error).startswith("load_weights: "):
            raise
        raise WeightsError(f"load_weights: {name}: {error}") from None


def _stored(
    file: BinaryIO, size: int, expected: str | None, archives: contextlib.ExitStack
) -> dict[str, Any]:
    if size > MAX_FILE_BYTES:
        raise WeightsError(f"file: expected at most {MAX_FILE_BYTES} bytes, came {size}")
    beginning = file.read(512)
    if beginning[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        archive, entries = open_archive(file, size)
        archives.enter_context(archive)
        if any(name.endswith("/data.pkl") or name == "data.pkl" for name in entries):
            _check_extension(expected, "torch")
            return torch_file.stored_zip(archive, entries, size)
        _check_extension(expected, "npz")
        return npz.stored(archive, entries)
    if beginning[:1] == b"\x80" and beginning[1:2] <= b"\x05" and beginning[8:9] != b"{":
        _check_extension(expected, "torch")
        return torch_file.stored_legacy(file, size)
    if beginning[8:9] == b"{" or expected == "safetensors":
        _check_extension(expected, "safetensors")
        return safetensors_file.stored(file, size)
    raise WeightsError(f"first bytes: expected safetensors, npz or a checkpoint, came {_guess(beginning)}")


def _check_extension(expected: str | None, came: str) -> None:
    # Whoever hands over a .safetensors file does not expect a pickle in it.
    if expected is not None and expected != came:
        raise WeightsError(f"content: expected {expected} after the extension of the file, came {came}")


def _guess(beginning: bytes) -> str:
    """Say what a file without a known format might be."""
    if not beginning:
        return "an empty file"
    if beginning[257:262] == b"ustar":
        return "a tar archive (the first form of torch checkpoints, which is not supported)"
    if beginning[:6] == b"\x93NUMPY":
        return "a single npy array, which has no names; save it with numpy.savez"
    if beginning[:8] == b"\x89HDF\r\n\x1a\n":
        return "an HDF5 file"
    if beginning[:2] == b"\x1f\x8b":
        return "a gzip file; unpack it first"
    return shown(beginning[:16])


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The text beside the tensors of a safetensors file, by name; none for files of other formats.

    Raises
    ------
    WeightsError
        If the file is corrupt.
    OSError
        If it cannot be opened or read.
    """
    name = os.fsdecode(path)
    if not stat.S_ISREG(os.stat(name).st_mode):
        return {}
    with open(name, "rb") as file:
        if file.read(9)[8:] != b"{":
            return {}
    try:
        return safetensors_file.metadata(name)
    except WeightsError as error:
        raise WeightsError(f"read_metadata: {name}: {error}") from None


def save_weights(
    path: str | os.PathLike[str], weights: Mapping[str, Any], *, metadata: Mapping[str, str] | None = None
) -> None:
    """Write named arrays to a safetensors or npz file, all or nothing.

    The content goes to a temporary file beside ``path``, is flushed to the disk and then renamed, so that
    ``path`` always holds a complete old or a complete new file, whatever happens on the way.

    Parameters
    ----------
    path : str or os.PathLike
        Where to; the extension ``.safetensors`` or ``.npz`` decides about the format.
    weights : mapping of str to array_like
        Arrays of bool, integers or floating point up to 64 bits, in any memory layout and byte order.
    metadata : mapping of str to str, optional
        Text to keep beside them, for safetensors alone; see :func:`read_metadata`.

    Raises
    ------
    WeightsError
        If the extension, a name or an element type is not supported. Nothing is written then.
    OSError
        If the file cannot be written, for example because the disk is full. An old file stays as it was.
    """
    target = os.fsdecode(path)
    try:
        kind = _EXTENSIONS.get(_extension(target))
        if kind not in ("safetensors", "npz"):
            raise WeightsError(
                f"extension: expected .safetensors or .npz, came {shown(_extension(target)) or 'none'}"
            )
        if metadata and kind != "safetensors":
            raise WeightsError("metadata: expected a .safetensors file for it, came .npz")
        arrays = _checked_arrays(weights)
        with replace_file(target) as file:
            if kind == "safetensors":
                safetensors_file.write(file, arrays, metadata)
            else:
                npz.write(file, arrays)
    except WeightsError as error:
        raise WeightsError(f"save_weights: {target}: {error}") from None


def _extension(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _checked_arrays(weights: Mapping[str, Any]) -> dict[str, np.ndarray]:
    if not isinstance(weights, Mapping):
        raise WeightsError(f"weights: expected a dictionary, came {shown(weights)}")
    arrays = {}
    for name, value in weights.items():
        if not isinstance(name, str):
            raise WeightsError(f"weights: expected names as text, came {shown(name)}")
        place = f"tensor {shown(name)}"
        try:
            name.encode("utf-8")
            array = np.asarray(value, order="C")
        except (TypeError, ValueError) as error:
            raise WeightsError(f"{place}: expected an array and a name in UTF-8, came: {error}") from None
        if array.dtype.name not in ELEMENTS:
            raise WeightsError(f"{place}: expected an element type out of {SUPPORTED}; came {array.dtype}")
        arrays[str(name)] = array
    return arrays
