"""Arguments of operators that take more than floating-point numbers, and Python numbers among them."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import cuda
from ..config import current_backend
from ..errors import DTypeError
from ..tensor import Tensor
from .arithmetic import scalar
from .registry import Array, array, as_array, fail


def values(op: str, name: str, value: Any, kinds: str = "fiu", like: Any = None) -> Any:
    """A tensor, or a C-contiguous array whose element type is of one of these kinds."""
    if isinstance(value, Tensor):
        a: Any = value
    else:
        current_backend()  # the device is checked before the element type
        a = value if isinstance(value, cuda.DeviceArray) else as_array(op, name, value)
        if a.dtype.kind == "f":
            a = array(op, name, value)
        elif a.dtype.kind in kinds and isinstance(a, np.ndarray):
            a = np.require(a, a.dtype.newbyteorder("="), ["C", "A"]).view(np.ndarray)
    if a.dtype.kind not in kinds:
        raise DTypeError(f"{op}: {name} is {a.dtype}; expected {_named(kinds)}")
    if like is not None and a.dtype != like.dtype:
        raise DTypeError(f"{op}: {name} is {a.dtype}, x is {like.dtype}; expected one element type")
    return a


def _named(kinds: str) -> str:
    names = {"f": "float32 or float64", "i": "whole numbers", "b": "bool"}
    return " or ".join(names[k] for k in kinds if k in names)


def operands(op: str, x: Any, y: Any, kinds: str) -> tuple[Any, Any]:
    """Both of one type; a Python number takes the type of the other operand."""
    if type(y) in (int, float):
        x = values(op, "x", x, kinds)
        return x, _number(op, y, x)
    if type(x) in (int, float):
        y = values(op, "y", y, kinds)
        return _number(op, x, y), y
    x = values(op, "x", x, kinds)
    return x, values(op, "y", y, kinds, x)


def _number(op: str, value: float, like: Any) -> Array:
    if like.dtype.kind == "f":
        return scalar(op, value, like)
    if type(value) is not int:
        raise DTypeError(f"{op}: {value!r} with {like.dtype}; expected a whole number")
    try:
        return np.array(value, like.dtype)
    except OverflowError:
        fail(op, f"{value} is beyond {like.dtype}")
