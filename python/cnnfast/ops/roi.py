"""Pooling of regions of interest: a grid of fixed size out of boxes of any size.

Both operators compute the places of bins and samples in the element type of the boxes and in one order,
here and in the native kernels, so that both backends read the same pixels.
"""

from __future__ import annotations

import math
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
    elements,
    fail,
    integer,
    native,
    number,
    pair,
    rank,
)

# Samples along one side of a bin; a box that asks for more is a mistake.
MAX_SAMPLES = 1 << 16
# Coordinates beyond this, in pixels or in the unit of the boxes, could overflow.
MAX_COORDINATE = 1e32


@dataclass(frozen=True)
class RoiSpec:
    """A checked pooling of regions."""

    x: tuple[int, int, int, int]
    out: tuple[int, int, int, int]  # regions, rows, columns of bins, channels
    scale: float
    sampling_ratio: int
    aligned: bool


# --- shape rules -----------------------------------------------------------------------------------


@cached
def infer_roi(
    x: tuple[int, ...],
    boxes: tuple[int, ...],
    output_size: Any,
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
    op: str = "roi_align",
) -> RoiSpec:
    """Validate shapes and parameters; see :func:`roi_pool` and :func:`roi_align`."""
    rank(op, "x", x, "N,H,W,C")
    if len(boxes) != 2 or boxes[1] != 5:
        fail(op, "boxes must have shape (K,5): image, x1, y1, x2, y2", boxes=boxes)
    if min(x[1:3]) < 1:
        fail(op, "x must have at least one row and one column", x=x)
    p, q = pair(op, "output_size", output_size, 1)
    scale = number(op, "spatial_scale", spatial_scale)
    if not 1e-30 <= scale <= 1e30:
        fail(op, f"spatial_scale must be from 1e-30 to 1e30, got {scale}")
    ratio = integer(op, "sampling_ratio", sampling_ratio, -1, MAX_SAMPLES)
    if not isinstance(aligned, (bool, np.bool_)):
        fail(op, f"aligned must be True or False, got {aligned!r}")
    out = (boxes[0], p, q, x[3])
    elements(op, *out)
    elements(op, p, q)
    return RoiSpec(x, out, scale, max(ratio, 0), bool(aligned))  # type: ignore[arg-type]


def infer_roi_pool(
    x: tuple[int, ...], boxes: tuple[int, ...], output_size: Any, spatial_scale: float = 1.0
) -> RoiSpec:
    """Validate shapes and parameters; see :func:`roi_pool`."""
    return infer_roi(x, boxes, output_size, spatial_scale, op="roi_pool")


def _check_values(op: str, spec: RoiSpec, boxes: Array) -> None:
    """The values of the boxes, which no shape rule sees."""
    if not len(boxes):
        return
    image = boxes[:, 0]
    good = (image >= 0) & (image < spec.x[0]) & (np.floor(image) == image)
    if not good.all():
        k = int(np.argmin(good))
        last = spec.x[0] - 1
        fail(op, f"box {k} names image {image[k]}; expected a whole number from 0 to {last}", x=spec.x)
    limit = MAX_COORDINATE / max(spec.scale, 1.0)
    good = (np.abs(boxes[:, 1:]) <= limit).all(1)
    if not good.all():
        k = int(np.argmin(good))
        fail(op, f"coordinates must be finite and at most {limit:g}, box {k} is {boxes[k, 1:].tolist()}")


def _check_samples(spec: RoiSpec, count: Array) -> None:
    """Adaptive sampling takes one sample per pixel; refuse boxes that would take for ever."""
    if count.size and count.max() > MAX_SAMPLES:
        k = int(np.argmax(count.max(1)))
        fail(
            "roi_align",
            f"box {k} needs {count[k].max():g} samples per side of a bin, at most {MAX_SAMPLES} are taken; "
            "clip the boxes to the image or set sampling_ratio",
        )


def _check_align(spec: RoiSpec, boxes: Array) -> None:
    _check_values("roi_align", spec, boxes)
    if not spec.sampling_ratio:
        _check_samples(spec, _geometry(spec, boxes)[2])


# --- references ------------------------------------------------------------------------------------


def _round(x: Array) -> Array:
    """To the nearest whole number, halves away from zero, as C's round; in float64."""
    x = x.astype(np.float64)
    whole = np.trunc(x)
    return whole + np.where(np.abs(x - whole) >= 0.5, np.sign(x), 0.0)


def _bins(low: Array, high: Array, bins: int, size: int, real: Any) -> tuple[Array, Array]:
    """First and past-the-last pixel of every bin of every box, shape (K, bins)."""
    start, end = _round(low)[:, None], _round(high)[:, None]
    bin_size = np.maximum(end - start + 1, 1).astype(real) / real(bins)
    i = np.arange(bins)
    first = np.floor(i.astype(real) * bin_size) + start
    last = np.ceil((i + 1).astype(real) * bin_size) + start
    return np.clip(first, 0, size).astype(np.int64), np.clip(last, 0, size).astype(np.int64)


def reference_roi_pool(spec: RoiSpec, x: Array, boxes: Array) -> Array:
    """The NumPy definition of :func:`roi_pool`."""
    _check_values("roi_pool", spec, boxes)
    real = x.dtype.type
    _, h, w, _ = spec.x
    _, p, q, _ = spec.out
    x1, y1, x2, y2 = boxes[:, 1:].T * real(spec.scale)
    top, bottom = _bins(y1, y2, p, h, real)
    left, right = _bins(x1, x2, q, w, real)
    out = np.zeros(spec.out, x.dtype)
    for k, image in enumerate(boxes[:, 0].astype(np.int64)):
        columns = [(j, slice(left[k, j], right[k, j])) for j in range(q) if left[k, j] < right[k, j]]
        for i in range(p):
            if top[k, i] < bottom[k, i]:
                line = x[image, top[k, i] : bottom[k, i]].max(0)
                for j, span in columns:
                    out[k, i, j] = line[span].max(0)
    return out


def _geometry(spec: RoiSpec, boxes: Array) -> tuple[Array, Array, Array]:
    """Start, size of a bin and samples per bin, each (K, 2): vertical, horizontal."""
    real = boxes.dtype.type
    corners = boxes[:, [2, 1, 4, 3]] * real(spec.scale) - real(0.5 if spec.aligned else 0)
    start, end = corners[:, :2], corners[:, 2:]
    length = end - start
    if not spec.aligned:
        length = np.maximum(length, real(1))
    bin_size = length / np.array(spec.out[1:3], boxes.dtype)
    count = np.full(length.shape, float(spec.sampling_ratio))
    if not spec.sampling_ratio:
        count = np.maximum(np.ceil(bin_size), 0)
    return start, bin_size, count


def _weights(start: float, bin_size: float, count: int, bins: int, size: int) -> Array:
    """How much each pixel adds to each bin: the mean of bilinear samples, shape (bins, size)."""
    weights = np.zeros((bins, size))
    if count == 0:
        return weights
    i, s = np.arange(bins)[:, None], np.arange(count)
    place = (start + i * bin_size) + (s + 0.5) * bin_size / count
    inside = (place >= -1) & (place <= size)
    rows = np.broadcast_to(i, place.shape)[inside]
    place = np.maximum(place[inside], 0.0)
    low = np.minimum(place.astype(np.int64), size - 1)
    part = np.where(low < size - 1, place - low, 0.0)
    np.add.at(weights, (rows, low), (1 - part) / count)
    np.add.at(weights, (rows, np.minimum(low + 1, size - 1)), part / count)
    return weights


def _touched(weights: Array) -> slice:
    """The pixels that any bin reads."""
    used = np.flatnonzero(weights.any(0))
    return slice(used[0], used[-1] + 1) if len(used) else slice(0, 0)


def _bin_by_bin(out: Array, vertical: Array, horizontal: Array, region: Array) -> None:
    """The same sums over each bin's own pixels: 0 times infinity or NaN must not reach other bins."""
    for i, by_row in enumerate(vertical):
        rows = np.flatnonzero(by_row)
        for j, by_column in enumerate(horizontal):
            columns = np.flatnonzero(by_column)
            weight = by_row[rows, None, None] * by_column[columns, None]
            out[i, j] = (weight * region[np.ix_(rows, columns)]).sum((0, 1))


def _both_weights(spec: RoiSpec, boxes: Array) -> tuple[Array, Array]:
    """Weights down the columns and along the rows, for one box."""
    start, bin_size, count = _geometry(spec, boxes)
    vertical, horizontal = (
        _weights(float(first), float(step), int(samples), bins, size)
        for first, step, samples, bins, size in zip(
            start[0], bin_size[0], count[0], spec.out[1:3], spec.x[1:3], strict=True
        )
    )
    return vertical, horizontal


def reference_roi_align(spec: RoiSpec, x: Array, boxes: Array) -> Array:
    """The NumPy definition of :func:`roi_align`.

    Bilinear interpolation and the mean over a grid of samples are separable, so a region is
    ``rows @ image @ columns^T`` with one small matrix of weights per axis.
    """
    _check_align(spec, boxes)
    _, p, _, c = spec.out
    out = np.zeros(spec.out, x.dtype)
    for k, image in enumerate(boxes[:, 0].astype(np.int64)):
        vertical, horizontal = _both_weights(spec, boxes[k : k + 1])
        rows, columns = _touched(vertical), _touched(horizontal)
        region = x[image, rows, columns]
        if not region.size:
            continue
        vertical, horizontal = vertical[:, rows].astype(x.dtype), horizontal[:, columns].astype(x.dtype)
        if not np.isfinite(region).all():
            with np.errstate(invalid="ignore"):
                _bin_by_bin(out[k], vertical, horizontal, region)
            continue
        lines = (vertical @ region.reshape(len(region), -1)).reshape(p, region.shape[1], c)
        out[k] = np.matmul(horizontal, lines)
    return out


# --- gradients -------------------------------------------------------------------------------------
# By the pictures alone: boxes are rounded by one operator and stay constants in the other, as in the papers.


def infer_roi_grad(
    x: tuple[int, ...],
    boxes: tuple[int, ...],
    g: tuple[int, ...],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
    op: str = "roi_align_grad",
) -> RoiSpec:
    """Validate the gradient of a pooling of regions: what came in, and the shape of the pictures."""
    rank(op, "g", g, "K,P,Q,C")
    spec = infer_roi(x, boxes, g[1:3], spatial_scale, sampling_ratio, aligned, op)
    if g != spec.out:
        fail(op, "the gradient must have the shape of the result", g=g, result=spec.out)
    return spec


def infer_roi_pool_grad(
    x: tuple[int, ...], boxes: tuple[int, ...], g: tuple[int, ...], spatial_scale: float = 1.0
) -> RoiSpec:
    """Validate the gradient of :func:`roi_pool`."""
    return infer_roi_grad(x, boxes, g, spatial_scale, op="roi_pool_grad")


def reference_roi_pool_grad(spec: RoiSpec, x: Array, boxes: Array, g: Array) -> Array:
    """Each bin's gradient to its maximum, the first one row by row; boxes are added in their order."""
    real = x.dtype.type
    _, h, w, c = spec.x
    _, p, q, _ = spec.out
    x1, y1, x2, y2 = boxes[:, 1:].T * real(spec.scale)
    top, bottom = _bins(y1, y2, p, h, real)
    left, right = _bins(x1, x2, q, w, real)
    gx, channel = np.zeros(spec.x, g.dtype), np.arange(c)
    for k, image in enumerate(boxes[:, 0].astype(np.int64)):
        for i, j in np.ndindex(p, q):
            rows, columns = slice(top[k, i], bottom[k, i]), slice(left[k, j], right[k, j])
            region = x[image, rows, columns]
            if region.size:
                best = region.reshape(-1, c).argmax(0)
                row, column = np.divmod(best, region.shape[1])
                gx[image, rows, columns][row, column, channel] += g[k, i, j]
    return gx


def reference_roi_align_grad(spec: RoiSpec, boxes: Array, g: Array) -> Array:
    """The adjoint of :func:`roi_align`: ``rows^T @ g @ columns``, boxes added in their order."""
    gx = np.zeros(spec.x, g.dtype)
    for k, image in enumerate(boxes[:, 0].astype(np.int64)):
        vertical, horizontal = _both_weights(spec, boxes[k : k + 1])
        rows, columns = _touched(vertical), _touched(horizontal)
        vertical, horizontal = vertical[:, rows].astype(g.dtype), horizontal[:, columns].astype(g.dtype)
        gx[image, rows, columns] += np.einsum("pi,pqc,qj->ijc", vertical, g[k], horizontal, optimize=True)
    return gx


def _native_roi_pool_grad(spec: RoiSpec, x: Array, boxes: Array, g: Array) -> Array:
    _check_values("roi_pool_grad", spec, boxes)
    return native().roi_pool_grad(x, boxes, g, spec.scale)


def _native_roi_align_grad(spec: RoiSpec, boxes: Array, g: Array) -> Array:
    _check_align(spec, boxes)
    return native().roi_align_grad(spec.x, boxes, g, spec.scale, spec.sampling_ratio, spec.aligned)


# --- CUDA ------------------------------------------------------------------------------------------


def _cuda_boxes(op: str, spec: RoiSpec, boxes: Any) -> Any:
    """Memory of checked boxes in float32. Values are looked at on the host, once where they never change."""
    host = boxes.form("host", boxes.numpy).astype(np.float32)
    _check_values(op, spec, host) if op.startswith("roi_pool") else _check_align(spec, host)
    return boxes.astype("float32").buffer


def _shape_numbers(spec: RoiSpec) -> list[int]:
    """In the order of csrc/bindings_cuda/roi.cpp."""
    return [*spec.x, spec.out[0], *spec.out[1:3]]


def _cuda_roi_pool(spec: RoiSpec, x: Any, boxes: Any) -> Any:
    y, rows = cuda.empty(spec.out, x.dtype), _cuda_boxes("roi_pool", spec, boxes)
    cuda.module().roi_pool(x.code, _shape_numbers(spec), spec.scale, x.buffer, rows, y.buffer)
    return y


def _cuda_roi_align(spec: RoiSpec, x: Any, boxes: Any) -> Any:
    y, rows = cuda.empty(spec.out, x.dtype), _cuda_boxes("roi_align", spec, boxes)
    settings = spec.scale, spec.sampling_ratio, spec.aligned
    cuda.module().roi_align(x.code, _shape_numbers(spec), *settings, x.buffer, rows, y.buffer)
    return y


def _cuda_roi_pool_grad(spec: RoiSpec, x: Any, boxes: Any, g: Any) -> Any:
    gx, rows = cuda.empty(spec.x, g.dtype), _cuda_boxes("roi_pool_grad", spec, boxes)
    numbers = _shape_numbers(spec)
    cuda.module().roi_pool_grad(g.code, numbers, spec.scale, x.buffer, rows, g.buffer, gx.buffer)
    return gx


def _cuda_roi_align_grad(spec: RoiSpec, boxes: Any, g: Any) -> Any:
    gx, rows = cuda.empty(spec.x, g.dtype), _cuda_boxes("roi_align_grad", spec, boxes)
    settings = spec.scale, spec.sampling_ratio, spec.aligned
    cuda.module().roi_align_grad(g.code, _shape_numbers(spec), *settings, rows, g.buffer, gx.buffer)
    return gx


ROI_POOL_GRAD = Op(
    "roi_pool_grad",
    infer_roi_pool_grad,
    reference_roi_pool_grad,
    _native_roi_pool_grad,
    lambda s: Cost(8 * math.prod(s.out), 4 * (math.prod(s.out) + 2 * math.prod(s.x))),
    vjp=NO_GRADIENT,
    results=lambda s, dtype: ((s.x, dtype),),
    settings=lambda s: {"spatial_scale": s.scale},
    cuda=_cuda_roi_pool_grad,
    read_on_host=(1,),
)
ROI_ALIGN_GRAD = Op(
    "roi_align_grad",
    infer_roi_grad,
    reference_roi_align_grad,
    _native_roi_align_grad,
    lambda s: Cost(8 * max(s.sampling_ratio, 1) ** 2 * math.prod(s.out), 4 * math.prod(s.out)),
    vjp=NO_GRADIENT,
    results=lambda s, dtype: ((s.x, dtype),),
    settings=lambda s: {"spatial_scale": s.scale, "sampling_ratio": s.sampling_ratio, "aligned": s.aligned},
    cuda=_cuda_roi_align_grad,
    read_on_host=(0,),
)


# --- native ----------------------------------------------------------------------------------------


def _native_roi_pool(spec: RoiSpec, x: Array, boxes: Array) -> Array:
    _check_values("roi_pool", spec, boxes)
    return native().roi_pool(x, boxes, spec.out[1], spec.out[2], spec.scale)


def _native_roi_align(spec: RoiSpec, x: Array, boxes: Array) -> Array:
    _check_align(spec, boxes)
    _, p, q, _ = spec.out
    return native().roi_align(x, boxes, p, q, spec.scale, spec.sampling_ratio, spec.aligned)


# --- work ------------------------------------------------------------------------------------------


def _cost_roi_pool(spec: RoiSpec) -> Cost:
    values = math.prod(spec.out)
    # About as many comparisons as pixels; the size of the boxes is not known here.
    return Cost(4 * values, 4 * (values + math.prod(spec.x)))


def _cost_roi_align(spec: RoiSpec) -> Cost:
    values = math.prod(spec.out)
    # Four products and sums per sample.
    return Cost(8 * max(spec.sampling_ratio, 1) ** 2 * values, 4 * (values + math.prod(spec.x)))


def _numbers(spec: RoiSpec) -> list[int]:
    """In the order of csrc/cpu/roi.h."""
    return [*spec.x[1:], spec.out[0], *spec.out[1:3]]


def _has_known_boxes(node: Any) -> bool:
    """Boxes that come out of the network must be looked at before a kernel may follow them."""
    return node.inputs[1] is not None and node.inputs[1].known


def _lower_roi_pool(steps: Any, spec: RoiSpec, inputs: Any, outputs: Any) -> None:
    _check_values("roi_pool", spec, steps.array(inputs[1]))
    places = inputs[0].place, inputs[1].place, outputs[0].place
    steps.plan.roi_pool(_numbers(spec), spec.scale, *places)


def _lower_roi_align(steps: Any, spec: RoiSpec, inputs: Any, outputs: Any) -> None:
    _check_align(spec, steps.array(inputs[1]))
    places = inputs[0].place, inputs[1].place, outputs[0].place
    steps.plan.roi_align(_numbers(spec), spec.scale, spec.sampling_ratio, spec.aligned, *places)


ROI_POOL = Op(
    "roi_pool",
    infer_roi_pool,
    reference_roi_pool,
    _native_roi_pool,
    _cost_roi_pool,
    vjp=Vjp(
        lambda s, needs, g, inputs, results: (ROI_POOL_GRAD(s, *inputs, g) if needs[0] else None,),
        lambda s, needs: (0, 1) if needs[0] else (),
    ),
    lower=Lower(_lower_roi_pool, accepts=_has_known_boxes),
    settings=lambda s: {"output_size": s.out[1:3], "spatial_scale": s.scale},
    cuda=_cuda_roi_pool,
    read_on_host=(1,),
)
ROI_ALIGN = Op(
    "roi_align",
    infer_roi,
    reference_roi_align,
    _native_roi_align,
    _cost_roi_align,
    vjp=Vjp(
        lambda s, needs, g, inputs, results: (ROI_ALIGN_GRAD(s, inputs[1], g) if needs[0] else None,),
        lambda s, needs: (1,) if needs[0] else (),
    ),
    lower=Lower(_lower_roi_align, accepts=_has_known_boxes),
    settings=lambda s: {
        "output_size": s.out[1:3],
        "spatial_scale": s.scale,
        "sampling_ratio": s.sampling_ratio,
        "aligned": s.aligned,
    },
    cuda=_cuda_roi_align,
    read_on_host=(1,),
)


# --- public ----------------------------------------------------------------------------------------


def roi_pool(x: Any, boxes: Any, output_size: Any, *, spatial_scale: float = 1.0) -> Array:
    """Maximum over each bin of a grid laid over each box.

    Corners times ``spatial_scale`` are rounded to whole pixels (halves away from zero); the box then
    covers ``max(x2 - x1 + 1, 1)`` columns. Bin j of Q reads columns ``floor(j width / Q)`` up to
    ``ceil((j + 1) width / Q)``, so neighbours may share one; likewise rows.

    Parameters
    ----------
    x : array_like, shape (N, H, W, C)
        float32 (native kernels) or float64 (NumPy reference).
    boxes : array_like, shape (K, 5)
        Number of the image, x1, y1, x2, y2. Inverted boxes count as one pixel wide or high.
    output_size : int or (int, int)
        Rows and columns of bins.
    spatial_scale : float
        Pixels of ``x`` per unit of the boxes.

    Returns
    -------
    ndarray, shape (K, P, Q, C)
        0 for bins that lie outside the image; NaN where a pixel of the bin is NaN.

    Raises
    ------
    ShapeError
        Also for image numbers outside 0..N-1 or not whole, and for coordinates that are not finite
        or beyond 1e32.
    DTypeError, BackendError

    Notes
    -----
    The gradient of a bin goes to its maximum, the first one at ties; boxes have none.

    References
    ----------
    Girshick, "Fast R-CNN", 2015, section 2.1.
    """
    x = array("roi_pool", "x", x)
    boxes = array("roi_pool", "boxes", boxes, x)
    spec = infer_roi(x.shape, boxes.shape, output_size, spatial_scale, op="roi_pool")
    return ROI_POOL(spec, x, boxes)


def roi_align(
    x: Any,
    boxes: Any,
    output_size: Any,
    *,
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
) -> Array:
    """Mean of bilinear samples in each bin of a grid laid over each box; nothing is rounded.

    Sample (s, t) of bin (i, j) lies at ``y = y1 + (i + (s + 1/2) / S) height / P`` and x alike. A sample
    more than one pixel outside the image counts as 0; nearer ones read the edge.

    Parameters
    ----------
    x : array_like, shape (N, H, W, C)
        float32 (native kernels) or float64 (NumPy reference).
    boxes : array_like, shape (K, 5)
        Number of the image, x1, y1, x2, y2.
    output_size : int or (int, int)
        Rows and columns of bins, P and Q.
    spatial_scale : float
        Pixels of ``x`` per unit of the boxes.
    sampling_ratio : int
        Samples per side of a bin, S; -1 or 0 takes ``ceil(height / P)`` and ``ceil(width / Q)``.
    aligned : bool
        True: pixel (0, 0) has its centre at (0.5, 0.5). False: at (0, 0), and boxes smaller than a
        pixel are widened to one, as in the first implementations.

    Returns
    -------
    ndarray, shape (K, P, Q, C)
        With ``aligned``, an inverted box without ``sampling_ratio`` has no samples and gives 0.

    Raises
    ------
    ShapeError
        Also for image numbers outside 0..N-1 or not whole, for coordinates that are not finite or
        beyond 1e32, and for boxes that ask for more than 65536 samples per side of a bin.
    DTypeError, BackendError

    Notes
    -----
    Boxes have no gradient.

    References
    ----------
    He et al., "Mask R-CNN", 2017, section 3.
    """
    x = array("roi_align", "x", x)
    boxes = array("roi_align", "boxes", boxes, x)
    spec = infer_roi(x.shape, boxes.shape, output_size, spatial_scale, sampling_ratio, aligned)
    return ROI_ALIGN(spec, x, boxes)
