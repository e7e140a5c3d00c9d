"""Maximum and average pooling, by windows and over whole pictures."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .. import cuda
from .pad import Pads, sides
from .reduce import cuda_reduce
from .registry import Array, Cost, Lower, Op, array, cached, elements, fail, native, pair, rank

# Positions at the edge that are looked at one by one; more than any sensible padding has.
_MOST_EDGE_WINDOWS = 1 << 16


@dataclass(frozen=True)
class PoolSpec:
    """A checked pooling: shapes, both axes of every parameter, and the native description.

    ``kernel`` and ``start`` leave out the taps that no window has inside the picture; ``size`` and
    ``pads`` are as asked for.
    """

    x: tuple[int, int, int, int]
    out: tuple[int, int, int, int]
    size: tuple[int, int]
    kernel: tuple[int, int]
    start: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    pads: Pads
    count_include_pad: bool
    asked: tuple[Any, ...]  # stride, dilation and ceil_mode as they were given
    native: Any = None

    @property
    def numbers(self) -> list[int]:
        """What kernels know of it, in the order of csrc/core/spec.h and csrc/cuda/pool.h."""
        window = *self.kernel, *self.stride, *self.dilation, *self.start
        include = int(self.count_include_pad)
        return [*self.x, *window, *self.out[1:3], *self.size, *self.pads[0], *self.pads[1], include]


# --- shape rules -----------------------------------------------------------------------------------


def _outputs(
    op: str, axis: str, n: int, k: int, s: int, d: int, pads: tuple[int, int], ceil_mode: bool, x: Any
) -> int:
    """Number of windows along one axis; every one of them has a tap inside."""
    span = (k - 1) * d + 1
    if max(pads) > span // 2:
        half = f"at most half of the window, which spans {span} in {axis}"
        fail(op, f"padding must be {half}, got {max(pads)}", x=x)
    room = n + sum(pads) - span
    count = (room + (s - 1 if ceil_mode else 0)) // s + 1
    if ceil_mode and (count - 1) * s >= n + pads[0]:
        count -= 1  # the last window must start inside the picture or the padding before it
    if n < 1 or count < 1:
        fail(op, f"the window spans {span} in {axis}, the padded input has {n + sum(pads)}", x=x)
    if d > n and pads[0]:
        # A dilated window may step over a picture that is smaller than its steps.
        edge = min(count, -(-pads[0] // s))
        if edge > _MOST_EDGE_WINDOWS or any((p * s - pads[0]) % d >= n for p in range(edge)):
            steps = f"dilation {d} and padding {pads[0]}"
            fail(op, f"with {steps} a window lies wholly outside the {axis} {n}", x=x)
    return count


def _taps_inside(n: int, k: int, s: int, d: int, before: int, count: int) -> tuple[int, int, int]:
    """Taps that some window has inside the picture, as a smaller window: its size, its padding, and
    the length from the first to the last position that all such windows touch."""
    first = max(0, -((before - (count - 1) * s) // -d))
    last = min(k - 1, (n - 1 + before) // d)
    return last - first + 1, before - first * d, max(n, (count - 1) * s + (last - first) * d + 1)


def _infer(
    op: str, x: Any, size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: Any, include: Any
) -> PoolSpec:
    rank(op, "x", x, "N,H,W,C")
    n, h, w, c = x
    k = pair(op, "size", size, 1)
    s = k if stride is None else pair(op, "stride", stride, 1)
    d = pair(op, "dilation", dilation, 1)
    pads = sides(op, padding)
    p = _outputs(op, "height", h, k[0], s[0], d[0], pads[0], bool(ceil_mode), x)
    q = _outputs(op, "width", w, k[1], s[1], d[1], pads[1], bool(ceil_mode), x)
    elements(op, *x)
    elements(op, n, p, q, c)
    asked = s, d, bool(ceil_mode)
    kh, top, height = _taps_inside(h, k[0], s[0], d[0], pads[0][0], p)
    kw, left, width = _taps_inside(w, k[1], s[1], d[1], pads[1][0], q)
    elements(op, n, height, width, c)
    # With a single tap left, or a single window, dilation or stride mean nothing.
    d = (d[0] if kh > 1 else 1, d[1] if kw > 1 else 1)
    s = (s[0] if p > 1 else 1, s[1] if q > 1 else 1)
    spec = PoolSpec(x, (n, p, q, c), k, (kh, kw), (top, left), s, d, pads, bool(include), asked)
    module = native()
    return spec if module is None else replace(spec, native=module.PoolSpec(spec.numbers))


@cached
def infer_max_pool2d(
    x: tuple[int, ...],
    size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> PoolSpec:
    """Validate a maximum pooling; see :func:`max_pool2d`."""
    return _infer("max_pool2d", x, size, stride, padding, dilation, ceil_mode, False)


@cached
def infer_avg_pool2d(
    x: tuple[int, ...],
    size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    op: str = "avg_pool2d",
) -> PoolSpec:
    """Validate an average pooling; see :func:`avg_pool2d`."""
    return _infer(op, x, size, stride, padding, 1, ceil_mode, count_include_pad)


@cached
def infer_global_pool2d(x: tuple[int, ...], op: str = "global_avg_pool2d") -> tuple[int, ...]:
    """Validate a pooling over whole pictures: the shape of x."""
    rank(op, "x", x, "N,H,W,C")
    elements(op, *x)
    if min(x[1:3]) < 1:
        fail(op, "x must have at least one row and one column", x=x)
    return x


# --- definitions -----------------------------------------------------------------------------------


def _taps(s: PoolSpec, x: Array, fill: float) -> Iterator[tuple[Array, Array, Array]]:
    """For each tap of the window: row and column it reads for each output, and the values there.

    Rows and columns are those of x; the values outside are ``fill``.
    """
    _, h, w, _ = s.x
    _, p, q, _ = s.out
    rows = [np.arange(p) * s.stride[0] - s.start[0] + i * s.dilation[0] for i in range(s.kernel[0])]
    columns = [np.arange(q) * s.stride[1] - s.start[1] + j * s.dilation[1] for j in range(s.kernel[1])]
    top, left = max(0, s.start[0]), max(0, s.start[1])
    bottom, right = max(0, rows[-1][-1] + 1 - h), max(0, columns[-1][-1] + 1 - w)
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=fill)
    for row in rows:
        vertical = slice(row[0] + top, row[-1] + top + 1, s.stride[0])
        for column in columns:
            yield row, column, padded[:, vertical, column[0] + left : column[-1] + left + 1 : s.stride[1]]


def reference_max_pool2d(s: PoolSpec, x: Array, positions: bool = False) -> Any:
    """y[n,p,q,c] = max over i,j of x[n, p*s + i*d - pad, q*s + j*d - pad, c]; NaN if any is."""
    y = np.full(s.out, -np.inf, x.dtype)
    if not positions:
        with np.errstate(invalid="ignore"):
            for _, _, tap in _taps(s, x, -np.inf):
                np.maximum(y, tap, out=y)
        return y
    _, h, w, _ = s.x
    where = np.full(s.out, -1, np.int64)
    for row, column, tap in _taps(s, x, -np.inf):
        inside = ((row >= 0) & (row < h))[:, None] & ((column >= 0) & (column < w))
        larger = (tap > y) | (np.isnan(tap) & ~np.isnan(y)) | (where < 0)  # so the first maximum wins
        index = row[:, None] * w + column
        replace = larger & inside[:, :, None]
        y = np.where(replace, tap, y)
        where = np.where(replace, index[:, :, None], where)
    return y, where


def divisors(s: PoolSpec, axis: int) -> Array:
    """Pixels of each window that count, along one axis: those of the padded picture, or of the picture."""
    size, (before, after) = s.x[1 + axis], s.pads[axis]
    start = np.arange(s.out[1 + axis]) * s.stride[axis] - before
    end = np.minimum(start + s.size[axis], size + after)
    if not s.count_include_pad:
        start, end = np.maximum(start, 0), np.minimum(end, size)
    return end - start


def reference_avg_pool2d(s: PoolSpec, x: Array) -> Array:
    """y[n,p,q,c] = sum over the window, padding being zero, divided by the pixels that count."""
    y = np.zeros(s.out, x.dtype)
    with np.errstate(invalid="ignore", over="ignore"):
        for _, _, tap in _taps(s, x, 0.0):
            y += tap
    count = divisors(s, 0).astype(float)[:, None] * divisors(s, 1)
    y /= count[:, :, None].astype(x.dtype)
    return y


def reference_global_avg_pool2d(shape: tuple[int, ...], x: Array) -> Array:
    """y[n,0,0,c] = mean over h,w of x[n,h,w,c]; rows are summed first, which keeps the error small."""
    with np.errstate(invalid="ignore", over="ignore"):
        return x.sum(axis=2, keepdims=True).sum(axis=1, keepdims=True) / x.dtype.type(shape[1] * shape[2])


def reference_global_max_pool2d(shape: tuple[int, ...], x: Array) -> Array:
    """y[n,0,0,c] = max over h,w of x[n,h,w,c]; NaN if any is."""
    with np.errstate(invalid="ignore"):
        return x.max(axis=(1, 2), keepdims=True)


# --- native ----------------------------------------------------------------------------------------


def _native_max_pool2d(s: PoolSpec, x: Array, positions: bool = False) -> Any:
    return native().max_pool2d_positions(s.native, x) if positions else native().max_pool2d(s.native, x)


def _native_avg_pool2d(s: PoolSpec, x: Array) -> Array:
    return native().avg_pool2d(s.native, x)


def _native_global_avg_pool2d(shape: tuple[int, ...], x: Array) -> Array:
    return native().global_pool2d(x, True)


def _native_global_max_pool2d(shape: tuple[int, ...], x: Array) -> Array:
    return native().global_pool2d(x, False)


# --- CUDA ------------------------------------------------------------------------------------------


def _cuda_max_pool2d(s: PoolSpec, x: Any) -> Any:
    y = cuda.empty(s.out, x.dtype)
    cuda.module().max_pool2d(x.code, s.numbers, x.buffer, y.buffer, None)
    return y


def _cuda_max_pool2d_indices(s: PoolSpec, x: Any) -> Any:
    y, positions = cuda.empty(s.out, x.dtype), cuda.empty(s.out, np.int64)
    cuda.module().max_pool2d(x.code, s.numbers, x.buffer, y.buffer, positions.buffer)
    return y, positions


def cuda_avg_pool2d(s: PoolSpec, x: Any, lengths: bool = False) -> Any:
    """Means of windows of a device array, or their Euclidean lengths."""
    y = cuda.empty(s.out, x.dtype)
    cuda.module().avg_pool2d(x.code, s.numbers, x.buffer, y.buffer, lengths)
    return y


def _cuda_global(shape: tuple[int, ...], x: Any, reduction: str) -> Any:
    n, h, w, c = shape
    return cuda_reduce(reduction, (n, 1, 1, c), [(n, h * w, c)], x)


def _cost_pool2d(s: PoolSpec) -> Cost:
    outputs = float(np.prod(s.out, dtype=float))
    return Cost(outputs * s.size[0] * s.size[1], 4 * (float(np.prod(s.x, dtype=float)) + outputs))


def _cost_global(shape: tuple[int, ...]) -> Cost:
    inputs = float(np.prod(shape, dtype=float))
    return Cost(inputs, 4 * (inputs + shape[0] * shape[3]))


def _global_results(shape: tuple[int, ...], dtype: Any) -> Any:
    return (((shape[0], 1, 1, shape[3]), dtype),)


# Fewer channels than the widest vector are pooled by way of merged rows, which must lie close.
_LEAST_CHANNELS = 16


def _lower_pool2d(steps: Any, s: PoolSpec, inputs: Any, outputs: Any, average: bool) -> None:
    x, y = inputs[0], outputs[0]
    steps.plan.pool2d(s.native, x.ld, y.ld, average, x.place, y.place)


def _lower_global(
    steps: Any, shape: tuple[int, ...], inputs: Any, outputs: Any, average: bool = True
) -> None:
    x, y = inputs[0], outputs[0]
    n, h, w, c = shape
    steps.plan.global_pool2d(n, h * w, c, x.ld, average, x.place, y.place)


def _settings(s: PoolSpec) -> dict[str, Any]:
    stride, _, ceil_mode = s.asked
    return {"size": s.size, "stride": stride, "padding": s.pads, "ceil_mode": ceil_mode}


def _lower_by_windows(average: bool) -> Lower:
    return Lower(
        functools.partial(_lower_pool2d, average=average),
        slice_in=lambda node, position: node.spec.x[3] >= _LEAST_CHANNELS,
        slice_out=lambda node: True,
    )


def _lower_whole(average: bool) -> Lower:
    return Lower(functools.partial(_lower_global, average=average), slice_in=lambda node, position: True)


MAX_POOL2D = Op(
    "max_pool2d",
    infer_max_pool2d,
    reference_max_pool2d,
    _native_max_pool2d,
    _cost_pool2d,
    lower=_lower_by_windows(average=False),
    settings=lambda s: {**_settings(s), "dilation": s.asked[1]},
    cuda=_cuda_max_pool2d,
)
MAX_POOL2D_INDICES = Op(
    "max_pool2d_indices",
    infer_max_pool2d,
    lambda s, x: reference_max_pool2d(s, x, True),
    lambda s, x: _native_max_pool2d(s, x, True),
    _cost_pool2d,
    results=lambda s, dtype: ((s.out, dtype), (s.out, np.dtype(np.int64))),
    settings=lambda s: {**_settings(s), "dilation": s.asked[1]},
    cuda=_cuda_max_pool2d_indices,
)
AVG_POOL2D = Op(
    "avg_pool2d",
    infer_avg_pool2d,
    reference_avg_pool2d,
    _native_avg_pool2d,
    _cost_pool2d,
    lower=_lower_by_windows(average=True),
    settings=lambda s: {**_settings(s), "count_include_pad": s.count_include_pad},
    cuda=cuda_avg_pool2d,
)
GLOBAL_AVG_POOL2D = Op(
    "global_avg_pool2d",
    infer_global_pool2d,
    reference_global_avg_pool2d,
    _native_global_avg_pool2d,
    _cost_global,
    results=_global_results,
    lower=_lower_whole(average=True),
    cuda=lambda shape, x: _cuda_global(shape, x, "reduce_mean"),
)
GLOBAL_MAX_POOL2D = Op(
    "global_max_pool2d",
    infer_global_pool2d,
    reference_global_max_pool2d,
    _native_global_max_pool2d,
    _cost_global,
    results=_global_results,
    lower=_lower_whole(average=False),
    cuda=lambda shape, x: _cuda_global(shape, x, "reduce_max"),
)


# --- public ----------------------------------------------------------------------------------------


def max_pool2d(
    x: Any,
    size: Any,
    *,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Largest value of each window, per channel.

    Parameters
    ----------
    x : array_like, shape (N, H, W, C)
        float32 (native kernels) or float64 (NumPy reference).
    size : int or (int, int)
        Rows and columns of the window.
    stride : int or (int, int), optional
        Default: ``size``.
    padding : int, (int, int) or ((top, bottom), (left, right))
        Pixels around the picture that never win; at most half of the window (dilation included).
    dilation : int or (int, int)
        Distance between the pixels of a window.
    ceil_mode : bool
        Also take a last window that runs over the end, as long as it starts inside the picture or
        the padding before it.
    return_indices : bool
        Also give where each maximum is.

    Returns
    -------
    y : ndarray, shape (N, P, Q, C)
        P = floor((H + padding - dilation (size - 1) - 1) / stride) + 1, rounded up in ceil mode.
    indices : ndarray of int64, shape (N, P, Q, C), if asked for
        h * W + w in the plane of the channel. Of equal values the first counts, row by row.

    Raises
    ------
    ShapeError, DTypeError, BackendError

    Notes
    -----
    A NaN counts as the maximum. The gradient at ties goes to the first maximum.

    References
    ----------
    LeCun et al., "Gradient-based learning applied to document recognition", 1998, section II (the
    idea of sub-sampling); Ranzato et al., "Unsupervised learning of invariant feature hierarchies",
    2007 (maxima).
    """
    x = array("max_pool2d", "x", x)
    s = infer_max_pool2d(x.shape, size, stride, padding, dilation, ceil_mode)
    return (MAX_POOL2D_INDICES if return_indices else MAX_POOL2D)(s, x)


def avg_pool2d(
    x: Any,
    size: Any,
    *,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Array:
    """Mean of each window, per channel.

    Parameters
    ----------
    x : array_like, shape (N, H, W, C)
    size, stride, padding, ceil_mode
        As in :func:`max_pool2d`; the padding holds zeros.
    count_include_pad : bool
        Divide by the pixels of the window that lie in the padded picture, or only by those in the
        picture. What a window of ceil mode has beyond the padding never counts.

    Returns
    -------
    ndarray, shape (N, P, Q, C)

    Raises
    ------
    ShapeError, DTypeError, BackendError
    """
    x = array("avg_pool2d", "x", x)
    return AVG_POOL2D(infer_avg_pool2d(x.shape, size, stride, padding, ceil_mode, count_include_pad), x)


def global_avg_pool2d(x: Any) -> Array:
    """Mean over each picture, per channel.

    Parameters
    ----------
    x : array_like, shape (N, H, W, C)

    Returns
    -------
    ndarray, shape (N, 1, 1, C)

    Raises
    ------
    ShapeError, DTypeError, BackendError

    References
    ----------
    Lin, Chen and Yan, "Network in network", 2014, section 3.2.
    """
    x = array("global_avg_pool2d", "x", x)
    return GLOBAL_AVG_POOL2D(infer_global_pool2d.quick(x.shape), x)


def global_max_pool2d(x: Any) -> Array:
    """Largest value of each picture, per channel; a NaN counts as the maximum.

    Parameters
    ----------
    x : array_like, shape (N, H, W, C)

    Returns
    -------
    ndarray, shape (N, 1, 1, C)

    Raises
    ------
    ShapeError, DTypeError, BackendError
    """
    x = array("global_max_pool2d", "x", x)
    return GLOBAL_MAX_POOL2D(infer_global_pool2d.quick(x.shape, "global_max_pool2d"), x)
