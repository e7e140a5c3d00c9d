"""Arrays in the memory of a CUDA device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import DTypeError, ShapeError
from .loading import module

Array = np.ndarray

__all__ = ["DTYPES", "BFloat16", "DeviceArray", "asarray", "bfloat16", "dtype_of", "empty", "zeros"]


class BFloat16:
    """The element type bfloat16, which NumPy does not have; :data:`bfloat16` is the one object of it.

    Eight bits of exponent as float32, eight of precision.
    """

    name, kind, itemsize = "bfloat16", "f", 2

    def __repr__(self) -> str:
        return "bfloat16"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return other is self or other == "bfloat16"

    def __hash__(self) -> int:
        return hash("bfloat16")


bfloat16 = BFloat16()
DType = np.dtype | BFloat16

# Codes shared with csrc/cuda/element.h.
DTYPES: dict[DType, int] = {
    np.dtype(np.float32): 0,
    bfloat16: 1,
    np.dtype(np.float16): 2,
    np.dtype(np.int64): 3,
    np.dtype(np.int32): 4,
    np.dtype(np.uint8): 5,
    np.dtype(np.bool_): 6,
}
_BY_NAME = {str(kind): kind for kind in DTYPES}
FLOATS = (np.dtype(np.float32), bfloat16, np.dtype(np.float16))


def dtype_of(value: Any) -> Any:
    """The element type of a device array by that name or NumPy type.

    Raises
    ------
    DTypeError
        If device arrays do not have it.
    """
    kind = value if isinstance(value, BFloat16) else _BY_NAME.get(str(value))
    if kind is None:
        try:
            kind = _BY_NAME.get(str(np.dtype(value)))
        except TypeError:
            kind = None
    if kind is None:
        raise DTypeError(f"DeviceArray: expected {', '.join(_BY_NAME)}, got {value}")
    return kind


def _to_bfloat16(x: Array) -> Array:
    """Bits of the nearest bfloat16, ties to even."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(x), np.uint16(0x7FFF), rounded)


class DeviceArray:
    """A C-contiguous array in the memory of a CUDA device.

    Operators of :mod:`cnnfast.ops` that are given device arrays run on the device and give device arrays.
    Made by :func:`asarray`, :func:`empty` and :func:`from_dlpack`.

    Attributes
    ----------
    shape : tuple of int
    dtype : numpy.dtype or bfloat16
        float32, bfloat16, float16, int64, int32, uint8 or bool.
    buffer : Buffer of the CUDA module
        What the elements lie in.
    """

    __slots__ = ("__weakref__", "buffer", "dtype", "shape")
    # NumPy must not take it for a sequence of objects.
    __array_ufunc__ = None

    def __init__(self, buffer: Any, shape: tuple[int, ...], dtype: Any) -> None:
        self.buffer, self.shape, self.dtype = buffer, shape, dtype

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    @property
    def code(self) -> int:
        """The element type as the CUDA module numbers it."""
        return DTYPES[self.dtype]

    def numpy(self) -> Array:
        """A copy in host memory; waits for it. bfloat16 comes as float32, which has all its values."""
        if self.dtype is bfloat16:
            bits = np.empty(self.shape, np.uint16)
            self.buffer.download(bits)
            return (bits.astype(np.uint32) << 16).view(np.float32)
        host = np.empty(self.shape, self.dtype)
        self.buffer.download(host)
        return host

    def copy(self) -> DeviceArray:
        """The same elements in memory of their own."""
        new = empty(self.shape, self.dtype)
        new.buffer.copy_from(self.buffer)
        return new

    def astype(self, dtype: Any, copy: bool = False) -> DeviceArray:
        """Elements of another floating-point type, rounded to nearest, ties to even.

        The array itself where it has that type already, unless ``copy`` is true.

        Raises
        ------
        DTypeError
            Where either is not a floating-point type.
        """
        kind = dtype_of(dtype)
        if kind == self.dtype:
            return self.copy() if copy else self
        if self.dtype not in FLOATS or kind not in FLOATS:
            raise DTypeError(f"DeviceArray.astype: expected floating-point types, got {self.dtype} to {kind}")
        new = empty(self.shape, kind)
        module().cast(self.code, self.buffer, new.code, new.buffer, self.size)
        return new

    def reshape(self, *shape: Any) -> DeviceArray:
        """The same memory under another shape; one size may be -1."""
        wanted = shape[0] if len(shape) == 1 and not isinstance(shape[0], (int, np.integer)) else shape
        sizes = [int(n) for n in wanted]
        if sizes.count(-1) == 1:
            rest = -math.prod(sizes)
            sizes[sizes.index(-1)] = self.size // rest if rest else 0
        if math.prod(sizes) != self.size or min(sizes, default=0) < 0:
            raise ShapeError(f"DeviceArray.reshape: {self.shape} cannot be given the shape {tuple(wanted)}")
        return DeviceArray(self.buffer, tuple(sizes), self.dtype)

    def part(self, first: int, count: int) -> DeviceArray:
        """``count`` elements of the first axis from ``first`` on, in the same memory."""
        if not 0 <= first <= first + count <= self.shape[0]:
            raise ShapeError(f"DeviceArray.part: {first} to {first + count} leave an axis of {self.shape[0]}")
        row = math.prod(self.shape[1:]) * self.dtype.itemsize
        return DeviceArray(self.buffer.part(first * row, count * row), (count, *self.shape[1:]), self.dtype)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a device array without dimensions has no length")
        return self.shape[0]

    def __array__(self, *args: Any, **kwargs: Any) -> Array:
        raise TypeError("a device array is not copied to the host by itself: call .numpy()")

    def __repr__(self) -> str:
        return f"DeviceArray(shape={self.shape}, dtype={self.dtype})"


def empty(shape: Sequence[int], dtype: Any = "float32") -> DeviceArray:
    """A device array of whatever is in the memory.

    Raises
    ------
    BackendError
        If CUDA cannot be used.
    CudaError
        If there is no memory left.
    """
    kind = dtype_of(dtype)
    sizes = tuple([int(n) for n in shape])
    return DeviceArray(module().Buffer(math.prod(sizes) * kind.itemsize), sizes, kind)


def zeros(shape: Sequence[int], dtype: Any = "float32") -> DeviceArray:
    """A device array of zeros; errors as for :func:`empty`."""
    new = empty(shape, dtype)
    new.buffer.fill(0)
    return new


def asarray(value: Any, dtype: Any = None) -> DeviceArray:
    """A device array of what is given, of this element type if one is named.

    Parameters
    ----------
    value : DeviceArray or array_like
        Host arrays are copied; float64 must be named or converted by the caller.
    dtype : str, numpy.dtype or bfloat16, optional

    Raises
    ------
    DTypeError
        For element types that device arrays do not have.
    BackendError, CudaError
    """
    if isinstance(value, DeviceArray):
        return value if dtype is None else value.astype(dtype)
    host = np.asarray(value)
    kind = dtype_of(host.dtype if dtype is None else dtype)
    new = empty(host.shape, kind)
    if kind is bfloat16:
        host = _to_bfloat16(host)
    new.buffer.upload(np.require(host, np.uint16 if kind is bfloat16 else kind, ["C"]))
    return new
