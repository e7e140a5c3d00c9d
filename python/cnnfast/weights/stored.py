"""Tensors in a file, read in blocks: a network is filled without a second copy of its weights in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np

from cnnfast.errors import WeightsError
from cnnfast.weights.elements import Element, own_array, result_dtype, stored_dtype

__all__ = ["Ready", "Stored"]

BLOCK_BYTES = 8 << 20


class Stream(Protocol):
    """What the bytes of a tensor are read from."""

    def read(self, size: int, /) -> bytes: ...


class Stored:
    """A tensor in an open file whose elements lie in C order.

    Attributes
    ----------
    shape : tuple of int
    dtype : numpy.dtype
        Of the arrays that reading gives.
    """

    def __init__(
        self,
        place: str,
        shape: tuple[int, ...],
        element: Element,
        byteorder: str,
        open_stream: Callable[[], AbstractContextManager[Stream]],
    ) -> None:
        self.shape, self.dtype = shape, result_dtype(place, element)
        self._place, self._element = place, element
        self._stored = stored_dtype(element, byteorder)
        self._open = open_stream

    def blocks(self) -> Iterator[np.ndarray]:
        """Consecutive rows (of the first axis), a few megabytes at a time, in native byte order."""
        if 0 in self.shape:
            return
        rows, rest = (self.shape[0], self.shape[1:]) if self.shape else (1, ())
        row_bytes = math.prod(rest) * self._stored.itemsize
        step = max(1, BLOCK_BYTES // row_bytes)
        with self._open() as stream:
            for first in range(0, rows, step):
                count = min(step, rows - first)
                content = np.empty(count * row_bytes, np.uint8)
                filled = 0
                while filled < content.size:
                    part = stream.read(min(1 << 20, content.size - filled))
                    if not part:
                        raise WeightsError(
                            f"{self._place}: expected {content.size} more bytes, came {filled}"
                        )
                    content.data[filled : filled + len(part)] = part
                    filled += len(part)
                yield own_array(self._place, content.view(self._stored).reshape(count, *rest), self._element)
            # Asked for more than there is, an archive compares its checksum.
            stream.read(1)

    def array(self) -> np.ndarray:
        """All of it, with memory of its own."""
        result = np.empty(self.shape, self.dtype)
        at = 0
        for block in self.blocks():
            if self.shape:
                result[at : at + len(block)] = block
            else:
                result[...] = block[0]
            at += len(block)
        return result


class Ready:
    """A tensor that had to be read at once, in the form of :class:`Stored`."""

    def __init__(self, array: np.ndarray) -> None:
        self.shape, self.dtype, self._array = array.shape, array.dtype, array

    def blocks(self) -> Iterator[np.ndarray]:
        yield self._array if self.shape else self._array.reshape(1)

    def array(self) -> np.ndarray:
        return self._array
