"""Resizing of pictures."""

from __future__ import annotations

import functools
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
)


@dataclass(frozen=True)
class Axis:
    """What each position along one axis of the result is made of.

    Output i is the sum over k < count[i] of weights[i, k] * input[start[i] + k]. No weight within the
    count is zero at either end, so what a position does not depend on cannot reach it, not even as NaN.
    """

    size: int
    start: Array
    count: Array
    weights: Array
    native: Any


@dataclass(frozen=True)
class ResizeSpec:
    """A checked resize: shapes, the kind of both tables, and which pass comes first."""

    x: tuple[int, int, int, int]
    out: tuple[int, int, int, int]
    mode: str
    align_corners: bool
    antialias: bool
    columns_first: bool

    def axes(self, adjoint: bool = False) -> tuple[Axis, Axis]:
        """Tables for height and width."""
        table = adjoint_axis if adjoint else axis
        kind = self.mode, self.align_corners, self.antialias
        return table(self.x[1], self.out[1], *kind), table(self.x[2], self.out[2], *kind)


# --- tables ----------------------------------------------------------------------------------------


# Positions are fractions of whole numbers, so that a weight that should be zero is zero.


def _nearest(size: int, out: int) -> tuple[Array, Array, Array]:
    """floor(i * size / out)."""
    start = np.arange(out) * size // out
    return start, np.ones(out, np.int64), np.ones((out, 1))


def _bilinear(size: int, out: int, align_corners: bool) -> tuple[Array, Array, Array]:
    """The two neighbours of a position, by their distances."""
    i = np.arange(out)
    if align_corners:  # i (size - 1) / (out - 1)
        unit = max(out - 1, 1)
        position = i * (size - 1) if out > 1 else i
    else:  # (i + 1/2) size / out - 1/2
        unit = 2 * out
        position = (2 * i + 1) * size - out
    position = np.clip(position, 0, (size - 1) * unit)
    start, rest = np.divmod(position, unit)
    second = rest / unit
    return start, np.where(rest > 0, 2, 1), np.stack([1 - second, second], axis=1)


def _triangle(size: int, out: int) -> tuple[Array, Array, Array]:
    """A triangle as wide as the reduction asks for, cut at the edges and made to sum to one.

    The weight of pixel j is 1 - abs(j + 1/2 - (i + 1/2) size / out) / max(1, size / out).
    """
    i, reach = np.arange(out), 2 * max(size, out)  # in units of half a pixel over out
    centre = (2 * i + 1) * size
    start = np.maximum((centre - reach - out) // (2 * out) + 1, 0)
    end = np.minimum(-((out - centre - reach) // (2 * out)), size)
    pixel = start[:, None] + np.arange(int((end - start).max()))
    weights = np.maximum(0, reach - np.abs((2 * pixel + 1) * out - centre[:, None])) / reach
    weights[pixel >= end[:, None]] = 0
    return start, end - start, weights / weights.sum(axis=1, keepdims=True)


@functools.lru_cache(maxsize=64)
def axis(size: int, out: int, mode: str, align_corners: bool, antialias: bool) -> Axis:
    """The table for one axis, in float64; made once per pair of sizes."""
    if mode == "nearest":
        start, count, weights = _nearest(size, out)
    elif antialias:
        start, count, weights = _triangle(size, out)
    else:
        start, count, weights = _bilinear(size, out, align_corners)
    return _made(size, start, count, weights)


def _made(size: int, start: Array, count: Array, weights: Array) -> Axis:
    for table in (start, count, weights):
        table.setflags(write=False)
    module = native()
    described = module.ResizeAxis(size, start, count, weights) if module is not None else None
    return Axis(size, start, count, weights, described)


@functools.lru_cache(maxsize=64)
def adjoint_axis(size: int, out: int, mode: str, align_corners: bool, antialias: bool) -> Axis:
    """The table of the adjoint: what each input position gives its share to.

    First and last input of an output never go back from one output to the next, so the outputs that read
    an input are neighbours too, and the adjoint is a resize with weights of its own.
    """
    forward = axis(size, out, mode, align_corners, antialias)
    position = np.arange(size)
    start = np.searchsorted(forward.start + forward.count, position, side="right")
    end = np.searchsorted(forward.start, position, side="right")
    reach = start[:, None] + np.arange(max(1, int((end - start).max())))
    used = reach < end[:, None]
    reach = np.minimum(reach, out - 1)
    tap = np.where(used, position[:, None] - forward.start[reach], 0)
    weights = np.where(used, forward.weights[reach, tap], 0.0)
    # What nobody reads has one weight, of zero.
    return _made(out, np.minimum(start, out - 1), np.maximum(end - start, 1), weights)


# --- shape rule ------------------------------------------------------------------------------------


def _taps(size: int, out: int, mode: str, antialias: bool) -> float:
    """About how many input positions make an output position."""
    if mode == "nearest" or size == out:
        return 1.0
    return 2.0 * max(1.0, size / out) if antialias else 2.0


@cached
def infer_resize(
    x: tuple[int, ...],
    size: Any,
    mode: str = "bilinear",
    align_corners: bool = False,
    antialias: bool = False,
) -> ResizeSpec:
    """Validate a resize and choose the order of the passes; see :func:`resize`."""
    op = "resize"
    rank(op, "x", x, "N,H,W,C")
    choice(op, "mode", mode, ("nearest", "bilinear"))
    p, q = pair(op, "size", size, 1)
    n, h, w, c = x
    for flag, name in ((align_corners, "align_corners"), (antialias, "antialias")):
        if flag and mode == "nearest":
            fail(op, f"{name} is only for mode 'bilinear'")
    if align_corners and antialias:
        fail(op, "antialias and align_corners exclude each other")
    if min(h, w) < 1:
        fail(op, "x must have at least one row and one column", x=x)
    elements(op, *x)
    elements(op, n, p, q, c)
    elements(op, n, max(h, p), max(w, q), c)  # what lies between the passes
    down, along = _taps(h, p, mode, antialias), _taps(w, q, mode, antialias)
    # Blending along rows of a few channels fills few lanes, so it costs more.
    along *= 1 if c >= 16 else 4
    columns_first = h * q * along + p * q * down < p * w * down + p * q * along
    return ResizeSpec(x, (n, p, q, c), mode, bool(align_corners), bool(antialias), columns_first)  # type: ignore[arg-type]


# --- definition ------------------------------------------------------------------------------------


def _blend(x: Array, table: Axis, dimension: int) -> Array:
    """Weighted sums along one dimension, tap by tap."""
    if table.weights.shape[1] == 1 and (table.weights == 1).all():
        return np.take(x, table.start, axis=dimension)
    y = np.zeros((*x.shape[:dimension], len(table.start), *x.shape[dimension + 1 :]), x.dtype)
    along = np.moveaxis(y, dimension, 0)  # a view
    source = np.moveaxis(x, dimension, 0)
    with np.errstate(invalid="ignore", over="ignore"):
        for k in range(table.weights.shape[1]):
            used = np.flatnonzero(table.count > k)
            weights = table.weights[used, k].astype(x.dtype)[:, None, None, None]
            along[used] += weights * source[table.start[used] + k]
    return y


def reference_resize(s: ResizeSpec, x: Array) -> Array:
    """y[n,p,q,c] = sum over i,j of a[p,i] b[q,j] x[n,i,j,c], one axis after the other."""
    if 0 in s.out:
        return np.zeros(s.out, x.dtype)
    np.empty(s.out, x.dtype)  # a result that does not fit fails before the tables are made
    vertical, horizontal = s.axes()
    if s.columns_first:
        return _blend(_blend(x, horizontal, 2), vertical, 1)
    return _blend(_blend(x, vertical, 1), horizontal, 2)


def _native_resize(s: ResizeSpec, x: Array) -> Array:
    if 0 in s.out:  # sizes without pixels need no tables, however large
        return np.zeros(s.out, x.dtype)
    if max(s.out) > 1 << 20:
        np.empty(s.out, x.dtype)  # a result that does not fit fails before the tables are made
    vertical, horizontal = s.axes()
    return native().resize(x, vertical.native, horizontal.native, s.columns_first)


@functools.cache  # for good: captured launches read the tables where they lie
def _device_table(module: Any, adjoint: bool, *kind: Any) -> tuple[Any, Any, Any, int]:
    """The table for one axis in device memory: first input, inputs and weights of every output."""
    table = (adjoint_axis if adjoint else axis)(*kind)
    start, count = (cuda.asarray(a, np.int32).buffer for a in (table.start, table.count))
    return start, count, cuda.asarray(table.weights, np.float32).buffer, table.weights.shape[1]


def _cuda_resize(s: ResizeSpec, x: Any, adjoint: bool = False) -> Any:
    shape, out = (s.out, s.x) if adjoint else (s.x, s.out)
    y = cuda.empty(out, x.dtype)
    if 0 in out:
        return y
    kind, module = (s.mode, s.align_corners, s.antialias), cuda.module()
    tables = [_device_table(module, adjoint, s.x[i], s.out[i], *kind) for i in (1, 2)]
    columns_first = s.columns_first != adjoint
    module.resize(x.code, *shape, *out[1:3], *tables, columns_first, x.buffer, y.buffer)
    return y


def _cost_resize(s: ResizeSpec) -> Cost:
    n, h, w, c = s.x
    _, p, q, _ = s.out
    down, along = _taps(h, p, s.mode, s.antialias), _taps(w, q, s.mode, s.antialias)
    between = h * q * along if s.columns_first else p * w * down
    last = p * q * (down if s.columns_first else along)
    flops = 0.0 if s.mode == "nearest" else 2.0 * n * c * (between + last)
    return Cost(flops, 4.0 * n * c * (h * w + p * q))


def _lower_resize(steps: Any, s: ResizeSpec, inputs: Any, outputs: Any) -> None:
    if 0 in s.out:
        return
    vertical, horizontal = s.axes()
    tables = vertical.native, horizontal.native, s.columns_first
    steps.plan.resize(s.x[0], s.x[3], *tables, inputs[0].place, outputs[0].place)


# --- gradient --------------------------------------------------------------------------------------


def infer_resize_grad(
    g: tuple[int, ...],
    x: tuple[int, ...],
    mode: str = "bilinear",
    align_corners: bool = False,
    antialias: bool = False,
) -> ResizeSpec:
    """Validate the gradient of a resize: what came in, and the shape of the pictures that were resized."""
    rank("resize_grad", "g", g, "N,P,Q,C")
    s = infer_resize(x, g[1:3], mode, align_corners, antialias)
    if g != s.out:
        fail("resize_grad", "the gradient must have the shape of the resized pictures", g=g, resized=s.out)
    return s


def reference_resize_grad(s: ResizeSpec, g: Array) -> Array:
    """gx[n,i,j,c] = sum over p,q of a[p,i] b[q,j] g[n,p,q,c]."""
    if 0 in s.x:
        return np.zeros(s.x, g.dtype)
    vertical, horizontal = s.axes(adjoint=True)
    if s.columns_first:
        return _blend(_blend(g, vertical, 1), horizontal, 2)
    return _blend(_blend(g, horizontal, 2), vertical, 1)


def _native_resize_grad(s: ResizeSpec, g: Array) -> Array:
    if 0 in s.x:
        return np.zeros(s.x, g.dtype)
    vertical, horizontal = s.axes(adjoint=True)
    return native().resize(g, vertical.native, horizontal.native, not s.columns_first)


RESIZE_GRAD = Op(
    "resize_grad",
    infer_resize_grad,
    reference_resize_grad,
    _native_resize_grad,
    _cost_resize,
    vjp=NO_GRADIENT,
    results=lambda s, dtype: ((s.x, dtype),),
    settings=lambda s: {"mode": s.mode, "align_corners": s.align_corners, "antialias": s.antialias},
    cuda=functools.partial(_cuda_resize, adjoint=True),
)
RESIZE = Op(
    "resize",
    infer_resize,
    reference_resize,
    _native_resize,
    _cost_resize,
    vjp=Vjp(lambda s, needs, g, inputs, results: (RESIZE_GRAD(s, g),)),
    lower=Lower(_lower_resize),
    settings=lambda s: {
        "size": s.out[1:3],
        "mode": s.mode,
        "align_corners": s.align_corners,
        "antialias": s.antialias,
    },
    cuda=_cuda_resize,
)


def resize(
    x: Any, size: Any, *, mode: str = "bilinear", align_corners: bool = False, antialias: bool = False
) -> Array:
    """Resize pictures to any height and width.

    Parameters
    ----------
    x : array_like, shape (N, H, W, C)
        float32 (native kernels) or float64 (NumPy reference).
    size : int or (int, int)
        Rows and columns of the result.
    mode : {"nearest", "bilinear"}
        "nearest" takes row floor(p H / P), computed in whole numbers. "bilinear" blends the two
        neighbours of row (p + 1/2) H / P - 1/2; positions outside move to the edge. Columns likewise.
    align_corners : bool
        Bilinear: the middles of the corner pixels stay where they are: row p (H - 1) / (P - 1).
    antialias : bool
        Bilinear: where the picture shrinks, a triangle as wide as the reduction replaces the two
        neighbours; its weights sum to one at the edges too.

    Returns
    -------
    ndarray, shape (N, P, Q, C)

    Raises
    ------
    ShapeError, DTypeError, BackendError

    Notes
    -----
    Weights are computed in float64 and applied along one axis after the other.

    References
    ----------
    Heckbert, "Fundamentals of texture mapping and image warping", 1989, section 3.5 (filters scaled
    with the reduction); the conventions are those of Pillow and PyTorch.
    """
    x = array("resize", "x", x)
    return RESIZE(infer_resize(x.shape, size, mode, align_corners, antialias), x)
