"""Arrays in the memory of a CUDA device."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..arithmetic import Arithmetic
from ..errors import DTypeError, ShapeError
from .loading import module

Array = np.ndarray

__all__ = [
    "DTYPES",
    "BFloat16",
    "DeviceArray",
    "asarray",
    "bfloat16",
    "dtype_of",
    "empty",
    "from_dlpack",
    "full",
    "zeros",
]


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


class DeviceArray(Arithmetic):
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
    forms : dict or None
        Of an array that never changes (weights of a compiled network): what :meth:`form` made of it.
    """

    __slots__ = ("__weakref__", "buffer", "dtype", "forms", "shape")

    def __init__(self, buffer: Any, shape: tuple[int, ...], dtype: Any) -> None:
        self.buffer, self.shape, self.dtype = buffer, shape, dtype
        self.forms: dict[Any, Any] | None = None

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
        return self.form(kind, lambda: self._cast(kind))

    def _cast(self, kind: Any) -> DeviceArray:
        new = empty(self.shape, kind)
        module().cast(self.code, self.buffer, new.code, new.buffer, self.size)
        return new

    def form(self, key: Any, make: Callable[[], Any]) -> Any:
        """What a kernel reads in place of this array, e.g. packed weights: made once if the array never
        changes, else anew."""
        if self.forms is None:
            return make()
        if key not in self.forms:
            self.forms[key] = make()
        return self.forms[key]

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

    def __dlpack_device__(self) -> tuple[int, int]:
        """Type (2: CUDA) and number of the device."""
        return module().dlpack_device()

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A capsule with this memory for another library, as the Python array API standard (2024.12) has it.

        Parameters
        ----------
        stream : int, optional
            The stream on which the memory will be read: it waits for what was started here. 1 is the
            default stream, as is None; 2 that of the thread; -1 asks for no waiting.
        max_version : (int, int), optional
            From (1, 0) on the capsule is versioned.
        dl_device : (int, int), optional
            Where the memory is wanted; anywhere else is a BufferError.
        copy : bool, optional
            True: of a copy.
        """
        if dl_device is not None and tuple(dl_device) != self.__dlpack_device__():
            raise BufferError(f"DeviceArray.__dlpack__: expected {self.__dlpack_device__()}, got {dl_device}")
        if stream == 0:
            raise ValueError("DeviceArray.__dlpack__: stream 0 is ambiguous; 1 is the default stream")
        source = self.copy() if copy else self
        loaded = module()
        reader = None
        if stream != -1 and not loaded.is_shim:
            reader = loaded.Stream(foreign=1 if stream is None else stream)
        versioned = max_version is not None and max_version[0] >= 1
        return loaded.to_dlpack(source.buffer, source.code, list(source.shape), versioned, reader)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3 of Numba's interface; AttributeError for bfloat16, which it does not have."""
        if self.dtype is bfloat16:
            raise AttributeError("__cuda_array_interface__ has no bfloat16; use DLPack")
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.buffer.address, False),
            "strides": None,
            "stream": module().current_stream().handle or 1,
            "version": 3,
        }

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a device array without dimensions has no length")
        return self.shape[0]

    def __array__(self, *args: Any, **kwargs: Any) -> Array:
        raise TypeError("a device array is not copied to the host by itself: call .numpy()")

    def __repr__(self) -> str:
        return f"DeviceArray(shape={self.shape}, dtype={self.dtype})"


def buffer(value: DeviceArray | None, dtype: Any = None) -> Any:
    """The memory of an array that may be missing, of this element type if one is named."""
    if value is None:
        return None
    return value.buffer if dtype is None else value.astype(dtype).buffer


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


def full(shape: Sequence[int], value: float, dtype: Any = "float32") -> DeviceArray:
    """A device array of one number, rounded to a floating-point type; nothing is waited for.

    Raises
    ------
    DTypeError
        For other element types.
    BackendError, CudaError
    """
    new = empty(shape, dtype)
    if new.dtype not in FLOATS:
        raise DTypeError(f"full: expected a floating-point type, got {new.dtype}")
    module().fill(new.code, value, new.buffer, new.size)
    return new


def asarray(value: Any, dtype: Any = None) -> DeviceArray:
    """A device array of what is given, of this element type if one is named.

    Parameters
    ----------
    value : DeviceArray or array_like
        Host arrays are copied, arrays of other libraries on the device share their memory. float64 needs a
        ``dtype``.
    dtype : str, numpy.dtype or bfloat16, optional

    Raises
    ------
    DTypeError
        For element types that device arrays do not have.
    BackendError, CudaError
    """
    if isinstance(value, DeviceArray):
        return value if dtype is None else value.astype(dtype)
    if not isinstance(value, (np.ndarray, list, tuple, int, float)):
        if hasattr(value, "__dlpack_device__") and value.__dlpack_device__()[0] == _DL_CUDA:
            return asarray(from_dlpack(value), dtype)
        if hasattr(value, "__cuda_array_interface__"):
            return asarray(_from_interface(value), dtype)
    host = np.asarray(value)
    kind = dtype_of(host.dtype if dtype is None else dtype)
    new = empty(host.shape, kind)
    if kind is bfloat16:
        host = _to_bfloat16(host)
    new.buffer.upload(np.require(host, np.uint16 if kind is bfloat16 else kind, ["C"]))
    return new


_DL_CUDA = 2


def from_dlpack(value: Any) -> DeviceArray:
    """The memory of another library's array, which is C-contiguous and on the device, without a copy.

    Parameters
    ----------
    value : object
        With ``__dlpack__`` and ``__dlpack_device__``, as those of torch, CuPy and JAX.

    Raises
    ------
    ShapeError
        If it is not C-contiguous, or on another device.
    DTypeError
        For element types that device arrays do not have.
    BackendError
        If CUDA cannot be used.
    """
    loaded = module()
    kind = value.__dlpack_device__()[0]
    stream = {"stream": loaded.current_stream().handle} if kind == _DL_CUDA else {}
    try:
        capsule = value.__dlpack__(max_version=(1, 0), **stream)
    except TypeError:  # of before version 1.0
        capsule = value.__dlpack__(**stream)
    try:
        buffer, shape, code = loaded.from_dlpack(capsule)
    except TypeError as error:
        raise DTypeError(str(error)) from None
    except ValueError as error:
        raise ShapeError(str(error)) from None
    return DeviceArray(buffer, shape, list(DTYPES)[code])


def _from_interface(value: Any) -> DeviceArray:
    """The memory behind ``__cuda_array_interface__`` (version 3)."""
    found, loaded = value.__cuda_array_interface__, module()
    shape, kind = tuple(found["shape"]), dtype_of(found["typestr"])
    steps = [kind.itemsize * math.prod(shape[i + 1 :]) for i in range(len(shape))]
    strides = found.get("strides")
    if strides is not None and any(n > 1 and a != b for n, a, b in zip(shape, strides, steps, strict=True)):
        raise ShapeError("asarray: expected a C-contiguous array")
    stream = found.get("stream")
    if stream is not None and not loaded.is_shim:
        loaded.current_stream().wait_for(loaded.Stream(foreign=stream))
    pointer = found["data"][0] or 0
    return DeviceArray(loaded.Buffer(pointer, math.prod(shape) * kind.itemsize, value), shape, kind)
