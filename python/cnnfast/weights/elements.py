"""Element types of the file formats, and the step from stored bytes to an array of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cnnfast.errors import WeightsError
from cnnfast.weights.limits import MAX_DIMENSIONS, shown


class Element(NamedTuple):
    """An element type: its name, its size in the file, and the NumPy type it becomes (or None)."""

    name: str
    itemsize: int
    dtype: str | None


_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_PLAIN = (*_INTEGERS, "float16", "float32", "float64")

#: Element types that can be read. ``bfloat16`` becomes float32, which holds all its values exactly.
ELEMENTS = {name: Element(name, np.dtype(name).itemsize, name) for name in _PLAIN}
ELEMENTS["bool"] = Element("bool", 1, "bool")
ELEMENTS["bfloat16"] = Element("bfloat16", 2, "float32")

SUPPORTED = ", ".join(ELEMENTS)


def result_dtype(place: str, element: Element) -> np.dtype:
    """The type of the array that ``element`` is read into."""
    if element.dtype is None:
        raise WeightsError(f"{place}: expected an element type out of {SUPPORTED}; came {element.name}")
    return np.dtype(element.dtype)


def stored_dtype(element: Element, byteorder: str) -> np.dtype:
    """The NumPy type with which to look at the stored bytes; ``byteorder`` is ``"<"`` or ``">"``."""
    if element.name == "bfloat16":
        return np.dtype(byteorder + "u2")
    if element.name == "bool":
        return np.dtype("u1")
    return np.dtype(element.name).newbyteorder(byteorder)  # type: ignore[arg-type]


def own_array(place: str, stored: np.ndarray, element: Element) -> np.ndarray:
    """Copy a view of stored bytes to a C-contiguous array in native byte order."""
    if element.name == "bfloat16":
        widened = np.array(stored, dtype=np.uint32, order="C")
        widened <<= 16
        return widened.view(np.float32)
    if element.name == "bool":
        # Any other byte would be a bool that is neither True nor False to NumPy's loops.
        if stored.size and stored.max() > 1:
            raise WeightsError(f"{place}: expected bool bytes 0 or 1, came {stored.max()}")
        return np.array(stored, dtype=np.bool_, order="C")
    return np.array(stored, dtype=result_dtype(place, element), order="C")


def element_count(place: str, shape: object, itemsize: int) -> int:
    """The number of elements in ``shape``, which came out of a file and may be anything."""
    if not isinstance(shape, Sequence) or isinstance(shape, (str, bytes)) or len(shape) > MAX_DIMENSIONS:
        raise WeightsError(f"{place}: expected at most {MAX_DIMENSIONS} dimensions, came {shown(shape)}")
    count, extent = 1, itemsize
    for length in shape:
        if type(length) is not int or not 0 <= length < 1 << 62:
            raise WeightsError(f"{place}: expected dimensions from 0 to 2**62, came {shown(length)}")
        count *= length
        # An empty array with huge other dimensions is beyond NumPy too.
        extent *= max(length, 1)
        if extent >= 1 << 62:
            raise WeightsError(f"{place}: expected a shape below 2**62 bytes, came more")
    return count
