"""Padding of pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import cuda
from .registry import (
    NO_GRADIENT,
    Array,
    Cost,
    Lower,
    Op,
    Vjp,
    array,
    cached,
    choice,
    elements,
    fail,
    native,
    pair,
    rank,
    shown,
)

Pads = tuple[tuple[int, int], tuple[int, int]]
# Codes shared with csrc/cpu/resample.h and csrc/cuda/copy.h.
PAD_MODES = {"zeros": 0, "reflect": 1, "replicate": 2, "circular": 3}


@dataclass(frozen=True)
class Pad2dSpec:
    """A checked padding: shapes, ((top, bottom), (left, right)) and mode."""

    x: tuple[int, int, int, int]
    out: tuple[int, int, int, int]
    pads: Pads
    mode: str
    value: float


def sides(op: str, padding: Any) -> Pads:
    """``((top, bottom), (left, right))`` of a number, a pair or a pair of pairs."""
    if isinstance(padding, tuple) and len(padding) == 2 and any(isinstance(p, tuple) for p in padding):
        top, bottom = pair(op, "padding", padding[0], 0)
        left, right = pair(op, "padding", padding[1], 0)
        return (top, bottom), (left, right)
    vertical, horizontal = pair(op, "padding", padding, 0)
    return (vertical, vertical), (horizontal, horizontal)


@cached
def infer_pad2d(x: tuple[int, ...], padding: Any, mode: str = "zeros", value: float = 0.0) -> Pad2dSpec:
    """Validate a padding and give its output shape; see :func:`pad2d`."""
    op = "pad2d"
    rank(op, "x", x, "N,H,W,C")
    choice(op, "mode", mode, tuple(PAD_MODES))
    pads = sides(op, padding)
    n, h, w, c = x
    for axis, size, (before, after) in (("height", h, pads[0]), ("width", w, pads[1])):
        most = max(before, after)
        if mode == "reflect" and most >= size and most:
            fail(op, f"reflect padding must be less than the {axis} {size}, got {most}", x=x)
        if mode == "circular" and most > size:
            fail(op, f"circular padding must be at most the {axis} {size}, got {most}", x=x)
        if mode == "replicate" and most and not size:
            fail(op, f"replicate padding needs a {axis} of at least 1", x=x)
    out = (n, h + sum(pads[0]), w + sum(pads[1]), c)
    elements(op, *out)
    return Pad2dSpec(x, out, pads, mode, value)  # type: ignore[arg-type]


def source_index(mode: str, size: int, before: int, after: int) -> Array:
    """Where each padded position comes from along one axis."""
    i = np.arange(-before, size + after)
    if mode == "reflect":  # the edge itself is not repeated
        i = np.abs(i)
        return np.where(i < size, i, 2 * (size - 1) - i)
    if mode == "replicate":
        return np.clip(i, 0, size - 1)
    return i % size  # circular


def reference_pad2d(s: Pad2dSpec, x: Array) -> Array:
    """y[n, i + top, j + left, c] = x[n, i, j, c]; outside, the value or the pixel that the mode names."""
    if s.mode == "zeros":
        with np.errstate(over="ignore"):
            y = np.full(s.out, s.value, x.dtype)
        (top, _), (left, _) = s.pads
        y[:, top : top + s.x[1], left : left + s.x[2]] = x
        return y
    _, h, w, _ = s.x
    if 0 in s.out:
        return np.empty(s.out, x.dtype)
    tall = np.take(x, source_index(s.mode, h, *s.pads[0]), axis=1)
    return np.take(tall, source_index(s.mode, w, *s.pads[1]), axis=2)


def _native_pad2d(s: Pad2dSpec, x: Array) -> Array:
    return native().pad2d(x, *s.pads[0], *s.pads[1], PAD_MODES[s.mode], s.value)


def _cuda_pad2d(s: Pad2dSpec, x: Any) -> Any:
    y = cuda.empty(s.out, x.dtype)
    numbers = [*s.x, *s.pads[0], *s.pads[1]]
    cuda.module().pad2d(x.code, numbers, PAD_MODES[s.mode], s.value, x.buffer, y.buffer)
    return y


def _cuda_pad2d_grad(s: Pad2dSpec, g: Any) -> Any:
    gx = cuda.empty(s.x, g.dtype)
    numbers = [*s.x, *s.pads[0], *s.pads[1]]
    cuda.module().pad2d_grad(g.code, numbers, PAD_MODES[s.mode], g.buffer, gx.buffer)
    return gx


def _cost_pad2d(s: Pad2dSpec) -> Cost:
    return Cost(0.0, 4 * float(np.prod(s.x, dtype=float) + np.prod(s.out, dtype=float)))


def _lower_pad2d(steps: Any, s: Pad2dSpec, inputs: Any, outputs: Any) -> None:
    numbers = [*s.x, *s.pads[0], *s.pads[1]]
    steps.plan.pad2d(numbers, PAD_MODES[s.mode], s.value, inputs[0].place, outputs[0].place)


# --- gradient --------------------------------------------------------------------------------------


def infer_pad2d_grad(g: tuple[int, ...], x: tuple[int, ...], padding: Any, mode: str = "zeros") -> Pad2dSpec:
    """Validate the gradient of a padding: what came in, and the shape of the pictures that were padded."""
    s = infer_pad2d(x, padding, mode)
    if g != s.out:
        fail("pad2d_grad", "the gradient must have the shape of the padded pictures", g=g, padded=s.out)
    return s


def _fold(g: Array, axis: int, mode: str, size: int, before: int, after: int) -> Array:
    """What was repeated in the padding along an axis, added to where it came from."""
    along = np.moveaxis(g, axis, 0)
    x = along[before : before + size].copy()
    source = source_index(mode, size, before, after)
    outside = [*range(before), *range(before + size, before + size + after)]
    for i in outside:
        x[source[i]] += along[i]
    return np.moveaxis(x, 0, axis)


def reference_pad2d_grad(s: Pad2dSpec, g: Array) -> Array:
    """gx[n, i, j, c] = the sum of g over all places where pixel i, j was written."""
    _, h, w, _ = s.x
    (top, bottom), (left, right) = s.pads
    if s.mode == "zeros" or 0 in s.x:
        return np.ascontiguousarray(g[:, top : top + h, left : left + w])
    with np.errstate(over="ignore", invalid="ignore"):
        wide = _fold(g, 2, s.mode, w, left, right)
        return np.ascontiguousarray(_fold(wide, 1, s.mode, h, top, bottom))


def _native_pad2d_grad(s: Pad2dSpec, g: Array) -> Array:
    return native().pad2d_grad(g, s.x, *s.pads[0], *s.pads[1], PAD_MODES[s.mode])


PAD2D_GRAD = Op(
    "pad2d_grad",
    infer_pad2d_grad,
    reference_pad2d_grad,
    _native_pad2d_grad,
    _cost_pad2d,
    vjp=NO_GRADIENT,
    results=lambda s, dtype: ((s.x, dtype),),
    settings=lambda s: {"padding": s.pads, "mode": s.mode},
    cuda=_cuda_pad2d_grad,
)
PAD2D = Op(
    "pad2d",
    infer_pad2d,
    reference_pad2d,
    _native_pad2d,
    _cost_pad2d,
    vjp=Vjp(lambda s, needs, g, inputs, results: (PAD2D_GRAD(s, g),)),
    lower=Lower(_lower_pad2d),
    settings=lambda s: {"padding": s.pads, "mode": s.mode, "value": s.value},
    cuda=_cuda_pad2d,
)


def pad2d(x: Any, padding: Any, *, mode: str = "zeros", value: float = 0.0) -> Array:
    """Add rows and columns around pictures.

    Parameters
    ----------
    x : array_like, shape (N, H, W, C)
        float32 (native kernels) or float64 (NumPy reference).
    padding : int, (int, int) or ((top, bottom), (left, right))
        Rows and columns to add; a pair of numbers is (height, width), the same on both sides.
    mode : {"zeros", "reflect", "replicate", "circular"}
        What is written there: ``value``; the picture mirrored at its outermost pixels, which are not
        repeated (padding below the size); its outermost pixels; the other end of the picture (padding
        at most the size).
    value : float
        The constant of mode "zeros".

    Returns
    -------
    ndarray, shape (N, top + H + bottom, left + W + right, C)

    Raises
    ------
    ShapeError, DTypeError, BackendError
    """
    x = array("pad2d", "x", x)
    try:
        constant = float(value) + 0.0  # -0.0 is 0.0, as it is to the cache of specifications
    except (TypeError, ValueError, OverflowError):
        fail("pad2d", f"value must be a number, got {shown(value)}")
    s = infer_pad2d(x.shape, padding, mode, constant)
    if constant != 0 and mode != "zeros":
        fail("pad2d", f"value is only for mode 'zeros', got {value!r} with mode {mode!r}")
    return PAD2D(s, x)
