"""What losses end with, and how they take their targets."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import ops
from ..cuda.array import DeviceArray
from ..errors import DTypeError
from ..ops.registry import choice, fail
from ..tensor import Tensor, beside, on_host

Array = np.ndarray
F32, F64 = np.dtype(np.float32), np.dtype(np.float64)
REDUCTIONS = ("mean", "sum", "none")


def scores(op: str, name: str, value: Any) -> Tensor:
    """A tensor of float32 or float64."""
    x = value if isinstance(value, Tensor) else Tensor(value)
    if x.dtype.kind != "f":
        raise DTypeError(f"{op}: {name} is {x.dtype}; expected float32 or float64")
    return x


def constant(op: str, name: str, value: Any, x: Tensor) -> Tensor:
    """What x is compared with: of its type, kept as a tensor where it is one."""
    t = value if isinstance(value, Tensor) else Tensor(beside(value, x))
    if t.dtype != x.dtype:
        raise DTypeError(f"{op}: {name} is {t.dtype}, x is {x.dtype}; expected one element type")
    return t


def alike(op: str, name: str, value: Any, x: Tensor) -> Tensor:
    """:func:`constant`, of the shape of x as well."""
    t = constant(op, name, value, x)
    if t.shape != x.shape:
        fail(op, f"{name} must have the shape of x", x=x.shape, **{name: t.shape})
    return t


def numbers(value: Any, x: Tensor) -> Array:
    """What a loss looks into, in host memory: of the type of x, 16-bit types of a device in float32."""
    return np.asarray(on_host(value), F64 if x.dtype == F64 else F32)


def looked_into(op: str, name: str, value: Any, x: Tensor) -> Array:
    """:func:`alike`, in host memory."""
    if isinstance(value, (Tensor, DeviceArray)) and value.dtype != x.dtype:
        raise DTypeError(f"{op}: {name} is {value.dtype}, x is {x.dtype}; expected one element type")
    t = numbers(value, x)
    if t.shape != x.shape:
        fail(op, f"{name} must have the shape of x", x=x.shape, **{name: t.shape})
    return t


def least(x: Tensor) -> float:
    """The smallest normal number of its type; bfloat16 has that of float32."""
    return float(np.finfo(x.dtype if isinstance(x.dtype, np.dtype) else F32).tiny)


def whole(op: str, name: str, value: Any, shape: tuple[int, ...] | None = None) -> Array:
    """Whole numbers of that shape as int64 in host memory; booleans count."""
    a = on_host(value)
    if a.dtype.kind not in "iub":
        raise DTypeError(f"{op}: {name} is {a.dtype}; expected whole numbers")
    if shape is not None and a.shape != shape:
        fail(op, f"{name} must have shape {shape}", **{name: a.shape})
    return a.astype(np.int64, copy=False)


def reduced(op: str, loss: Any, reduction: str, count: float | None = None) -> Any:
    """The loss summed, averaged (over ``count`` where that is not its size), or as it is.

    The mean of nothing is NaN, as NumPy and PyTorch have it.
    """
    choice(op, "reduction", reduction, REDUCTIONS)
    if reduction == "none":
        return loss
    if reduction == "mean" and loss.size and count in (None, loss.size):
        return ops.reduce_mean(loss)
    total = ops.reduce_sum(loss)
    if reduction == "sum":
        return total
    count = loss.size if count is None else count
    return ops.mul(total, 1 / count if count else float("nan"))
