"""Conversion between element types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import cuda
from ..errors import DTypeError
from ..tensor import Tensor
from .operands import values
from .registry import Array, Cost, Op, Vjp, cached, elements, shown


@dataclass(frozen=True)
class CastSpec:
    out: tuple[int, ...]
    dtype: str


_SHORT = ("bfloat16", "float16")  # of device arrays alone
_CASTS = ("bool", "uint8", "int8", "uint16", "int16", "int32", "int64", "float32", "float64")


@cached
def infer_cast(x: tuple[int, ...], dtype: str) -> CastSpec:
    """Validate a conversion; see :func:`cast`."""
    if dtype not in (*_CASTS, *_SHORT):
        raise DTypeError(f"cast: expected one of {', '.join(_CASTS)}; came {dtype}")
    elements("cast", *x)
    return CastSpec(x, dtype)


def reference_cast(s: CastSpec, x: Array) -> Array:
    """The same values in another type; beyond the range of whole numbers the result is NumPy's."""
    with np.errstate(all="ignore"):
        return x.astype(s.dtype)


def cuda_cast(x: Any, dtype: Any) -> Any:
    """A device array in any other element type that those have."""
    y = cuda.empty(x.shape, dtype)
    cuda.module().convert(x.code, x.buffer, y.code, y.buffer, x.size)
    return y


CAST = Op(
    "cast",
    infer_cast,
    reference_cast,
    reference_cast,
    lambda s: Cost(0.0, 8 * float(np.prod(s.out, dtype=float))),
    vjp=Vjp(lambda s, needs, g, inputs, results: (g,)),  # which takes the type of the argument
    results=lambda s, dtype: ((s.out, np.dtype(s.dtype)),),
    settings=lambda s: {"dtype": s.dtype},
    cuda=lambda s, x: cuda_cast(x, s.dtype),
)


def _name(dtype: Any) -> str:
    try:
        return str(np.dtype(dtype).name)
    except TypeError:
        raise DTypeError(f"cast: expected an element type, got {shown(dtype)}") from None


def cast(x: Any, dtype: Any) -> Any:
    """The values of x as another element type: bool, whole numbers up to 64 bits, float32 or float64.

    Floating-point numbers become whole ones by cutting off what follows the point. Device arrays can become
    ``"bfloat16"`` and ``"float16"`` too, rounded to nearest, ties to even.

    Raises
    ------
    DTypeError, BackendError
    """
    x = values("cast", "x", x, "fiub")
    on_device = isinstance(x._data if isinstance(x, Tensor) else x, cuda.DeviceArray)
    name = cuda.dtype_of(dtype).name if on_device else _name(dtype)
    if name in _SHORT and not on_device:
        raise DTypeError(f"cast: expected an array on a device to become {name}, got one in host memory")
    return CAST(infer_cast(x.shape, name), x)
