"""ONNX operators with weights or windows: convolutions, dense layers, normalisations, pooling."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import ops
from ..errors import WeightsError
from ..tensor import Tensor
from .calls import Call, known, operator
from .held import channels_last, held, last, plain
from .reading import Node

Pads = tuple[tuple[int, int], tuple[int, int]]
Sizes = dict[int, tuple[int, ...]]


def _map(call: Call, x: Any, what: str = "N,C,H,W") -> Any:
    """A feature map of two dimensions as our operators take it."""
    if len(x.shape) != 4:
        raise WeightsError(f"{call.node.label}: expected {what}, came {len(x.shape)} dimensions")
    return last(x)


def _out(tensor: Any) -> Any:
    return held(tensor, channels_last(len(tensor.shape)))


def _windows(
    call: Call, size: tuple[int, int], kernel: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int], Pads]:
    """Stride, dilation and padding of windows over a picture."""
    stride, dilation = call.integers("strides", (1, 1), 2), call.integers("dilations", (1, 1), 2)
    auto = call.text("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        pads = []
        for n, k, s, d in zip(size, kernel, stride, dilation, strict=True):
            if min(k, s, d) < 1:
                raise WeightsError(f"{call.node.label}: expected kernel, strides and dilations from 1 on")
            total = max(0, (-(-n // s) - 1) * s + (k - 1) * d + 1 - n)
            small, large = total // 2, total - total // 2
            pads.append((small, large) if auto == "SAME_UPPER" else (large, small))
        return stride, dilation, (pads[0], pads[1])
    top, left, bottom, right = (0, 0, 0, 0) if auto == "VALID" else call.integers("pads", (0, 0, 0, 0), 4)
    return stride, dilation, ((top, bottom), (left, right))


def _rank(node: Node, sizes: Sizes, index: int, wanted: int) -> tuple[int, ...]:
    dims = sizes[index]
    if len(dims) != wanted:
        raise WeightsError(f"{node.label}: expected weights of {wanted} dimensions, came {len(dims)}")
    return dims


def _conv_weights(node: Node, sizes: Sizes) -> dict[int, str]:
    kinds = {2: "as it is"} if 2 in sizes else {}
    if 1 in sizes:
        dims, groups = _rank(node, sizes, 1, 4), node.attributes.get("group", 1)
        deep = isinstance(groups, int) and groups > 1 and dims[1] == 1 and dims[0] % groups == 0
        kinds[1] = f"depthwise {groups}" if deep else "conv"
    return kinds


@operator("Conv", weights=_conv_weights)
def conv(call: Call, x: Any, w: Any, b: Any = None) -> Any:
    t = _map(call, x)
    kind = call.prepared.get(1)
    if kind is None:
        w = ops.transpose(plain(w), (2, 3, 1, 0))
    stride, dilation, pads = _windows(call, t.shape[1:3], tuple(w.shape[:2]))
    if kind is not None and kind != "conv" and w.shape[2] == t.shape[3]:
        return _out(ops.depthwise_conv2d(t, w, b, stride=stride, padding=pads, dilation=dilation))
    if kind is not None and kind != "conv":
        w = ops.reshape(w, (*w.shape[:2], 1, -1))
    groups = call.integer("group", 1)
    return _out(ops.conv2d(t, w, b, stride=stride, padding=pads, dilation=dilation, groups=groups))


def _transpose_weights(node: Node, sizes: Sizes) -> dict[int, str]:
    kinds = {2: "as it is"} if 2 in sizes else {}
    if 1 in sizes:
        _rank(node, sizes, 1, 4)
        kinds[1] = "transpose"
    return kinds


@operator("ConvTranspose", weights=_transpose_weights)
def conv_transpose(call: Call, x: Any, w: Any, b: Any = None) -> Any:
    t = _map(call, x)
    if 1 not in call.prepared:
        w = ops.transpose(plain(w), (2, 3, 1, 0))
    stride, dilation = call.integers("strides", (1, 1), 2), call.integers("dilations", (1, 1), 2)
    extra = list(call.integers("output_padding", (0, 0), 2))
    top, left, bottom, right = call.integers("pads", (0, 0, 0, 0), 4)
    pads = [(top, bottom), (left, right)]
    auto, wanted = call.text("auto_pad", "NOTSET"), call.integers("output_shape")
    if auto == "VALID" and wanted is None:
        pads = [(0, 0), (0, 0)]
    if wanted is not None or auto in ("SAME_UPPER", "SAME_LOWER"):
        for axis in range(2):
            n, k, s = t.shape[1 + axis], w.shape[axis], stride[axis]
            size = n * s if wanted is None else wanted[axis - 2]
            total = s * (n - 1) + extra[axis] + (k - 1) * dilation[axis] + 1 - size
            if total < 0:  # nothing to cut away: the rest comes as extra rows at the end
                extra[axis], total = extra[axis] - total, 0
            small, large = total // 2, total - total // 2
            pads[axis] = (small, large) if auto == "SAME_UPPER" else (large, small)
    y = ops.conv2d_transpose(
        t,
        w,
        b,
        stride=stride,
        padding=(pads[0], pads[1]),
        output_padding=tuple(extra),
        dilation=dilation,
        groups=call.integer("group", 1),
    )
    return _out(y)


def _gemm_weights(node: Node, sizes: Sizes) -> dict[int, str]:
    kinds = {2: "as it is"} if 2 in sizes else {}
    if 1 in sizes:
        _rank(node, sizes, 1, 2)
        kinds[1] = "linear" if node.attributes.get("transB", 0) else "as it is"
    return kinds


@operator("Gemm", weights=_gemm_weights)
def gemm(call: Call, a: Any, b: Any, c: Any = None) -> Any:
    a, b = plain(a), plain(b)
    if len(a.shape) != 2 or len(b.shape) != 2:
        raise WeightsError(f"{call.node.label}: expected two matrices")
    if call.integer("transA"):
        a = ops.transpose(a)
    if call.integer("transB") and 1 not in call.prepared:
        b = ops.transpose(b)
    alpha, beta = call.real("alpha", 1.0), call.real("beta", 1.0)
    if c is not None and alpha == beta == 1.0 and tuple(c.shape) == (b.shape[1],):
        return ops.linear(a, b, plain(c))
    y = ops.linear(a, b)
    if alpha != 1.0:
        y = ops.mul(y, alpha)
    if c is None or beta == 0.0:
        return y
    c = plain(c)
    return ops.add(y, c if beta == 1.0 else ops.mul(c, beta))


def _matmul_weights(node: Node, sizes: Sizes) -> dict[int, str]:
    return {1: "as it is"} if 1 in sizes and len(sizes[1]) == 2 else {}


@operator("MatMul", weights=_matmul_weights)
def matmul(call: Call, a: Any, b: Any) -> Any:
    a, b = plain(a), plain(b)
    first, second = len(a.shape) == 1, len(b.shape) == 1
    if first:
        a = ops.reshape(a, (1, -1))
    if second:
        b = ops.reshape(b, (-1, 1))
    y = ops.linear(a, b) if len(b.shape) == 2 else ops.matmul(a, b)
    if not first and not second:
        return y
    shape = list(y.shape)
    if second:
        del shape[-1]
    if first:
        del shape[-1 if second else -2]
    return ops.reshape(y, tuple(shape))


@operator("Einsum")
def einsum(call: Call, *inputs: Any) -> Any:
    """Products of two operands in which every letter stands once in each: matrix products."""
    equation = call.text("equation").replace(" ", "")
    left, arrow, out = equation.partition("->")
    terms = left.split(",")
    if not arrow:  # the letters that stand once, in the order of the alphabet
        out = "".join(c for c in sorted(set(left)) if c != "," and left.count(c) == 1)
    simple = len(terms) == len(inputs) == 2 and all(len(set(t)) == len(t) for t in (*terms, out))
    if (
        not simple
        or not (left.replace(",", "") + out).isalpha()
        or not set(out) <= set(terms[0]) | set(terms[1])
    ):
        raise WeightsError(
            f"{call.node.label}: only products of two operands are supported, not {equation!r}"
        )
    a, b = (plain(x) for x in inputs)
    if (len(a.shape), len(b.shape)) != (len(terms[0]), len(terms[1])):
        raise WeightsError(f"{call.node.label}: {equation!r} does not fit {a.shape} and {b.shape}")
    size = dict(zip(terms[0], a.shape, strict=True)) | dict(zip(terms[1], b.shape, strict=True))
    both = [c for c in terms[0] if c in terms[1] and c in out]
    summed = [c for c in terms[0] if c in terms[1] and c not in out]
    mine = [[c for c in t if c not in both and c not in summed] for t in terms]
    if any(c not in out for c in mine[0] + mine[1]):
        raise WeightsError(
            f"{call.node.label}: {equation!r} sums over one operand alone, which is not supported"
        )

    def matrices(x: Any, term: str, rows: list[str], columns: list[str]) -> Any:
        x = ops.transpose(x, [term.index(c) for c in (*both, *rows, *columns)])
        many = [math.prod(size[c] for c in group) for group in (rows, columns)]
        return ops.reshape(x, (*[size[c] for c in both], *many))

    y = ops.matmul(matrices(a, terms[0], mine[0], summed), matrices(b, terms[1], summed, mine[1]))
    made = [*both, *mine[0], *mine[1]]
    return ops.transpose(ops.reshape(y, tuple(size[c] for c in made)), [made.index(c) for c in out])


# --- normalisation ---------------------------------------------------------------------------------


def _norm_weights(node: Node, sizes: Sizes) -> dict[int, str]:
    return {i: "as it is" if i < 3 else "buffer" for i in sizes if i > 0}


@operator("BatchNormalization", weights=_norm_weights)
def batch_norm(call: Call, x: Any, scale: Any, shift: Any, mean: Any, var: Any) -> Any:
    if call.integer("training_mode") or call.integer("spatial", 1) != 1 or any(call.node.outputs[1:]):
        raise WeightsError(f"{call.node.label}: normalisation as in training is not supported")
    if len(x.shape) < 2:
        raise WeightsError(f"{call.node.label}: expected N,C,..., came {len(x.shape)} dimensions")
    y = ops.batch_norm(last(x), mean, var, scale, shift, eps=call.real("epsilon", 1e-5))
    return _out(y)


@operator("InstanceNormalization", weights=_norm_weights)
def instance_norm(call: Call, x: Any, scale: Any, shift: Any) -> Any:
    return _out(ops.instance_norm(last(x), scale, shift, eps=call.real("epsilon", 1e-5)))


@operator("LRN")
def lrn(call: Call, x: Any) -> Any:
    size = call.integer("size", 1)
    settings: dict[str, Any] = {
        "size": size,
        "alpha": call.real("alpha", 1e-4),
        "beta": call.real("beta", 0.75),
        "k": call.real("bias", 1.0),
        "alpha_mode": "mean",
    }
    t = last(x)
    if size % 2 == 0:  # an even window has its extra channel after the middle there, before it here
        backwards = (..., slice(None, None, -1))
        return _out(ops.take(ops.local_response_norm(ops.take(t, backwards), **settings), backwards))
    return _out(ops.local_response_norm(t, **settings))


# --- pooling ---------------------------------------------------------------------------------------


def _kernel(call: Call) -> tuple[int, int]:
    kernel = call.integers("kernel_shape", None, None)
    if kernel is None or len(kernel) != 2:
        raise WeightsError(f"{call.node.label}: expected a window of two dimensions, came {kernel}")
    return kernel


def _end(n: int, span: int, stride: int, before: int, after: int) -> int:
    """Padding at the end of an axis, with what the last window reaches over it where sizes are rounded up."""
    count = -(-(n + before + after - span) // max(1, stride)) + 1
    if (count - 1) * stride >= n + before:  # windows that begin behind the picture are left out
        count -= 1
    return max(after, (count - 1) * stride + span - n - before)


@operator("MaxPool")
def max_pool(call: Call, x: Any) -> Any:
    if len(call.node.outputs) > 1 and call.node.outputs[1]:
        raise WeightsError(f"{call.node.label}: the places of the maxima are not supported")
    t, kernel, ceil_mode = _map(call, x), _kernel(call), bool(call.integer("ceil_mode"))
    stride, dilation, pads = _windows(call, t.shape[1:3], kernel)
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    if any(max(p) > span // 2 for p, span in zip(pads, spans, strict=True)) and min(*pads[0], *pads[1]) >= 0:
        # More than half a window of padding: written out, where it can never win.
        written = []
        for axis in range(2):
            before, after = pads[axis]
            if ceil_mode:
                after = _end(t.shape[1 + axis], spans[axis], stride[axis], before, after)
            written.append((before, after))
        t, pads, ceil_mode = ops.pad2d(t, tuple(written), value=-math.inf), ((0, 0), (0, 0)), False
    y = ops.max_pool2d(t, kernel, stride=stride, padding=pads, dilation=dilation, ceil_mode=ceil_mode)
    return _out(y)


@operator("AveragePool")
def average_pool(call: Call, x: Any) -> Any:
    t, kernel = _map(call, x), _kernel(call)
    stride, dilation, pads = _windows(call, t.shape[1:3], kernel)
    include = bool(call.integer("count_include_pad"))
    ceil_mode = bool(call.integer("ceil_mode"))
    large = any(max(p) > k // 2 for p, k in zip(pads, kernel, strict=True))
    if dilation != (1, 1) or (large and min(*pads[0], *pads[1]) >= 0):
        return _out(_wide_average(t, kernel, stride, dilation, pads, ceil_mode, include))
    y = ops.avg_pool2d(t, kernel, stride=stride, padding=pads, ceil_mode=ceil_mode, count_include_pad=include)
    return _out(y)


def _wide_average(
    t: Any,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    pads: Pads,
    ceil_mode: bool,
    include: bool,
) -> Any:
    """Averages over dilated windows, or with more padding than half of a window: sums, and their counts."""
    written, counts = [], []
    for n, k, s, d, (before, after) in zip(t.shape[1:3], kernel, stride, dilation, pads, strict=True):
        end = _end(n, (k - 1) * d + 1, s, before, after) if ceil_mode else after
        counted = np.zeros(before + n + end, np.float32)
        counted[slice(0, before + n + after) if include else slice(before, before + n)] = 1
        starts = np.arange(0, len(counted) - (k - 1) * d, s)
        counts.append(counted[starts[:, None] + np.arange(k) * d].sum(axis=1))
        written.append((before, end))
    ones = np.ones((*kernel, t.shape[3], 1), np.float32)
    sums = ops.depthwise_conv2d(ops.pad2d(t, tuple(written)), ones, stride=stride, dilation=dilation)
    with np.errstate(divide="ignore"):
        return ops.mul(sums, (1 / np.outer(*counts))[..., None])


@operator("GlobalAveragePool")
def global_average_pool(call: Call, x: Any) -> Any:
    if len(x.shape) == 4:
        return _out(ops.global_avg_pool2d(last(x)))
    return _out(ops.reduce_mean(last(x), tuple(range(1, len(x.shape) - 1)), keepdims=True))


@operator("GlobalMaxPool")
def global_max_pool(call: Call, x: Any) -> Any:
    if len(x.shape) == 4:
        return _out(ops.global_max_pool2d(last(x)))
    return _out(ops.reduce_max(last(x), tuple(range(1, len(x.shape) - 1)), keepdims=True))


# --- pixels ----------------------------------------------------------------------------------------


@operator("DepthToSpace")
def depth_to_space(call: Call, x: Any) -> Any:
    order = {"DCR": "block", "CRD": "channel"}.get(call.text("mode", "DCR"), "")
    return _out(ops.depth_to_space(_map(call, x), call.integer("blocksize"), order=order))


@operator("SpaceToDepth")
def space_to_depth(call: Call, x: Any) -> Any:
    return _out(ops.space_to_depth(_map(call, x), call.integer("blocksize")))


# --- regions ---------------------------------------------------------------------------------------


@operator("RoiAlign")
def roi_align(call: Call, x: Any, rois: Any, batch: Any) -> Any:
    if call.text("mode", "avg") != "avg":
        raise WeightsError(f"{call.node.label}: only mode 'avg' is supported")
    default = "half_pixel" if call.opset >= 16 else "output_half_pixel"
    t, rois = _map(call, x), plain(rois)
    image = ops.cast(ops.reshape(plain(batch), (-1, 1)), rois.dtype)
    y = ops.roi_align(
        t,
        ops.concat([image, rois], axis=1),
        (call.integer("output_height", 1), call.integer("output_width", 1)),
        spatial_scale=call.real("spatial_scale", 1.0),
        sampling_ratio=call.integer("sampling_ratio", 0),
        aligned=call.text("coordinate_transformation_mode", default) == "half_pixel",
    )
    return _out(y)


@operator("MaxRoiPool")
def max_roi_pool(call: Call, x: Any, rois: Any) -> Any:
    size = call.integers("pooled_shape", (1, 1), 2)
    return _out(ops.roi_pool(_map(call, x), plain(rois), size, spatial_scale=call.real("spatial_scale", 1.0)))


@operator("NonMaxSuppression")
def non_max_suppression(
    call: Call, boxes: Any, scores: Any, most: Any = None, iou: Any = None, score: Any = None
) -> Any:
    """Picture, class and box of all that are kept; how many depends on values, so it cannot be traced."""
    b, s = known(call, boxes, "the number of boxes kept"), known(call, scores, "the number of boxes kept")
    limit = 0 if most is None else int(known(call, most, "the number of boxes").ravel()[0])
    threshold = 0.0 if iou is None else float(known(call, iou, "the threshold").ravel()[0])
    least = None if score is None else float(known(call, score, "the threshold").ravel()[0])
    if b.ndim != 3 or s.ndim != 3 or b.shape[2] != 4 or (b.shape[0], b.shape[1]) != (s.shape[0], s.shape[2]):
        raise WeightsError(
            f"{call.node.label}: expected boxes B,N,4 and scores B,C,N, came {b.shape}, {s.shape}"
        )
    if call.integer("center_point_box"):
        corners = ops.box_convert(b, "cxcywh", "xyxy")
    else:  # two corners in any order, y before x
        low, high = np.minimum(b[..., :2], b[..., 2:]), np.maximum(b[..., :2], b[..., 2:])
        corners = np.concatenate([low[..., ::-1], high[..., ::-1]], axis=-1)
    kept = [np.zeros((0, 3), np.int64)]
    for image in range(s.shape[0]):
        for c in range(s.shape[1]):
            candidates = np.arange(s.shape[2]) if least is None else np.flatnonzero(s[image, c] > least)
            keep = ops.nms(
                np.ascontiguousarray(corners[image][candidates]),
                np.ascontiguousarray(s[image, c, candidates]),
                threshold,
            )[: max(0, limit)]
            chosen = candidates[np.asarray(keep)]
            kept.append(np.stack([np.full_like(chosen, image), np.full_like(chosen, c), chosen], axis=1))
    return Tensor(np.concatenate(kept).astype(np.int64))
