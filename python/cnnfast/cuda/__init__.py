"""CUDA devices: whether there is one, arrays in its memory, streams.

>>> import cnnfast as cf
>>> if cf.cuda.is_available():
...     x = cf.cuda.asarray(pixels)
...     y = cf.ops.relu(x).numpy()
"""

from __future__ import annotations

from typing import Any

from .array import DeviceArray, asarray, bfloat16, buffer, dtype_of, empty, from_dlpack, full, zeros
from .loading import module, why_unavailable
from .precision import allow_tf32
from .stream import Stream

__all__ = [
    "DeviceArray",
    "Stream",
    "allow_tf32",
    "asarray",
    "bfloat16",
    "buffer",
    "device_name",
    "dtype_of",
    "empty",
    "from_dlpack",
    "full",
    "is_available",
    "synchronize",
    "why_unavailable",
    "zeros",
]


def is_available() -> bool:
    """Whether there are a CUDA module, a driver and a device; see :func:`why_unavailable`."""
    return not why_unavailable()


def device_name() -> str:
    """The name of the device.

    Raises
    ------
    BackendError
        If CUDA cannot be used.
    """
    device: dict[str, Any] = module().device()
    return str(device["name"])


def synchronize() -> None:
    """Wait for everything that was started on the device.

    Raises
    ------
    CudaError
        What a kernel has reported since.
    """
    module().synchronize()
