"""How each operator of a graph is written with ONNX operators."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import WeightsError
from ..graph.ir import Node, Value
from ..ops.pool import PoolSpec
from .writing import CODES, NCHW, Order, Writer, channels_second

__all__ = ["WRITERS"]

WRITERS: dict[str, Callable[[Writer, Node], None]] = {}


def writes(*names: str) -> Callable[[Callable[[Writer, Node], None]], Callable[[Writer, Node], None]]:
    def register(function: Callable[[Writer, Node], None]) -> Callable[[Writer, Node], None]:
        for name in names:
            WRITERS[name] = function
        return function

    return register


def _argument(node: Node, i: int) -> Value | None:
    return node.inputs[i] if i < len(node.inputs) else None


def _first(node: Node) -> Value:
    value = node.inputs[0]
    assert value is not None
    return value


def _activate(w: Writer, name: str | None, x: str, dtype: Any, slope: float = 0.01) -> str:
    """An activation by name after a value."""
    if name is None:
        return x
    if name == "relu6":
        return w.emit("Clip", [x, w.scalar(0, dtype), w.scalar(6, dtype)])
    if name == "silu":
        return w.emit("Mul", [x, w.emit("Sigmoid", [x])])
    if name == "hard_swish":
        if w.opset >= 14:
            return w.emit("HardSwish", [x])
        return w.emit("Mul", [x, w.emit("HardSigmoid", [x], alpha=1 / 6, beta=0.5)])
    if name == "leaky_relu":
        return w.emit("LeakyRelu", [x], alpha=float(slope))
    return w.emit({"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh"}[name], [x])


# --- layers ----------------------------------------------------------------------------------------


@writes("conv2d", "depthwise_conv2d")
def _conv(w: Writer, node: Node) -> None:
    s, x, weight = node.spec, _first(node), _argument(node, 1)
    bias, residual = _argument(node, 3), _argument(node, 4)
    assert weight is not None
    if node.op.name == "depthwise_conv2d":
        if weight.data is None:
            raise WeightsError("depthwise_conv2d: expected weights that are constant")
        kernel = w.constant(weight.data.reshape(s.w).transpose(3, 2, 0, 1), weight.name)
    else:
        kernel = w.get(weight, (2, 3, 1, 0))
    inputs = [w.get(x, NCHW), kernel] + ([] if bias is None else [w.get(bias)])
    (top, bottom), (left, right) = s.pads
    y = w.emit("Conv", inputs, kernel_shape=s.w[:2], strides=s.stride, dilations=s.dilation, group=s.groups,
               pads=(top, left, bottom, right))  # fmt: skip
    if residual is not None:
        y = w.emit("Add", [y, w.get(residual, NCHW)])
    w.put(node.output, _activate(w, s.activation, y, x.dtype, s.slope), NCHW)


@writes("conv2d_transpose")
def _conv_transpose(w: Writer, node: Node) -> None:
    s, x, weight, bias = node.spec, _first(node), _argument(node, 1), _argument(node, 3)
    assert weight is not None
    inputs = [w.get(x, NCHW), w.get(weight, (2, 3, 1, 0))] + ([] if bias is None else [w.get(bias)])
    extra = node.op.settings(s)["output_padding"]
    (top, bottom), (left, right) = s.pads
    y = w.emit("ConvTranspose", inputs, kernel_shape=s.w[:2], strides=s.stride, dilations=s.dilation,
               group=s.groups, pads=(top, left, bottom, right), output_padding=extra)  # fmt: skip
    w.put(node.output, _activate(w, s.activation, y, x.dtype, s.slope), NCHW)


@writes("linear")
def _linear(w: Writer, node: Node) -> None:
    s, x, weight, bias = node.spec, _first(node), _argument(node, 1), _argument(node, 3)
    assert weight is not None
    if len(s.x) == 2:
        y = w.emit("Gemm", [w.get(x), w.get(weight)] + ([] if bias is None else [w.get(bias)]))
    else:
        y = w.emit("MatMul", [w.get(x), w.get(weight)])
        y = y if bias is None else w.emit("Add", [y, w.get(bias)])
    w.put(node.output, _activate(w, s.activation, y, x.dtype, s.slope))


@writes("matmul")
def _matmul(w: Writer, node: Node) -> None:
    w.put(node.output, w.emit("MatMul", [w.get(v) for v in node.inputs if v is not None]))


@writes("batch_norm", "instance_norm")
def _norm(w: Writer, node: Node) -> None:
    s, x = node.spec, _first(node)
    order = channels_second(len(s.out))
    batch = node.op.name == "batch_norm"
    mean, var = (node.inputs[1], node.inputs[2]) if batch else (None, None)
    given = [_argument(node, i) for i in ((3, 4) if batch else (1, 2))]
    vectors = []
    for value, default in zip(given, (1.0, 0.0), strict=True):
        plain = np.full(s.out[-1], default, x.dtype)
        vectors.append(w.constant(plain, "affine") if value is None else w.get(value))
    statistics = [w.get(v) for v in (mean, var) if v is not None]
    name = "BatchNormalization" if batch else "InstanceNormalization"
    w.put(node.output, w.emit(name, [w.get(x, order), *vectors, *statistics], epsilon=float(s.eps)), order)


@writes("local_response_norm")
def _lrn(w: Writer, node: Node) -> None:
    s, x = node.spec, _first(node)
    order = channels_second(len(s.out))
    size = s.before + s.after + 1
    if s.before != s.after:
        raise WeightsError(f"local_response_norm: runtimes want an odd number of channels, came {size}")
    inputs = [w.get(x, order)]
    name = w.emit("LRN", inputs, size=size, alpha=float(s.alpha * size), beta=float(s.beta), bias=float(s.k))
    w.put(node.output, name, order)


# --- pooling ---------------------------------------------------------------------------------------


@writes("max_pool2d", "avg_pool2d")
def _pool(w: Writer, node: Node) -> None:
    name = w.get(_first(node), NCHW)
    w.put(node.output, _pooled(w, node.spec, name, node.op.name == "avg_pool2d"), NCHW)


@writes("l2_pool2d")
def _l2_pool(w: Writer, node: Node) -> None:
    x, mean = _first(node), node.spec.mean
    name = w.get(x, NCHW)
    name = _pooled(w, mean, w.emit("Mul", [name, name]), True)
    name = w.emit("Mul", [name, w.scalar(math.prod(mean.size), x.dtype)])
    w.put(node.output, w.emit("Sqrt", [name]), NCHW)


def _pooled(w: Writer, s: PoolSpec, name: str, average: bool) -> str:
    """A pooling of the value of a name, N,C,H,W."""
    ends, cut = [], False
    for a in range(2):
        n, before = s.x[1 + a], s.pads[a][0]
        span = (s.size[a] - 1) * s.dilation[a] + 1
        # What the windows need; there may be more, of which no window is made here.
        end = max(0, (s.out[1 + a] - 1) * s.stride[a] + span - n - before)
        ends.append(end)
        cut = cut or (n + before + end - span) // s.stride[a] + 1 != s.out[1 + a]
    starts = [s.pads[0][0], s.pads[1][0]]
    include = None
    if average:
        include = int(s.count_include_pad and (any(starts) or any(ends)))
        if include and any(end > s.pads[a][1] for a, end in enumerate(ends)):
            # Windows over the end of the padding: that part never counts, so the padding is written out.
            pads = [0, 0, *starts, 0, 0, s.pads[0][1], s.pads[1][1]]
            name = w.emit("Pad", [name, w.numbers(pads)])
            ends = [max(0, end - s.pads[a][1]) for a, end in enumerate(ends)]
            starts, include = [0, 0], 0
    dilations = None if average else s.dilation
    name = w.emit("AveragePool" if average else "MaxPool", [name], kernel_shape=s.size, strides=s.stride,
                  dilations=dilations, pads=(*starts, *ends), count_include_pad=include)  # fmt: skip
    if cut:
        name = w.emit("Slice", [name, w.numbers([0, 0]), w.numbers(s.out[1:3]), w.numbers([2, 3])])
    return name


@writes("global_avg_pool2d", "global_max_pool2d")
def _global_pool(w: Writer, node: Node) -> None:
    name = "GlobalAveragePool" if node.op.name == "global_avg_pool2d" else "GlobalMaxPool"
    w.put(node.output, w.emit(name, [w.get(_first(node), NCHW)]), NCHW)


@writes("pad2d")
def _pad(w: Writer, node: Node) -> None:
    s, x = node.spec, _first(node)
    if s.mode == "circular" and w.opset < 19:
        raise WeightsError(f"pad2d: circular padding needs operator set 19, came {w.opset}")
    (top, bottom), (left, right) = s.pads
    inputs = [w.get(x, NCHW), w.numbers([0, 0, top, left, 0, 0, bottom, right])]
    if s.mode == "zeros" and s.value != 0:
        inputs.append(w.scalar(s.value, x.dtype))
    mode = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}[s.mode]
    w.put(node.output, w.emit("Pad", inputs, mode=mode), NCHW)


@writes("resize")
def _resize(w: Writer, node: Node) -> None:
    s = node.spec
    name = w.get(_first(node), NCHW)
    (h, width), (p, q) = s.x[1:3], s.out[1:3]
    if s.mode == "nearest" and (p % h or q % width):
        # Positions there are rounded numbers; here they are exact.
        for axis, n, m in ((2, h, p), (3, width, q)):
            name = w.emit("Gather", [name, w.numbers(np.arange(m) * n // m)], axis=axis)
        w.put(node.output, name, NCHW)
        return
    if s.antialias and w.opset < 18:
        raise WeightsError(f"resize: antialias needs operator set 18, came {w.opset}")
    place = "asymmetric" if s.mode == "nearest" else "align_corners" if s.align_corners else "half_pixel"
    inputs = [name, "", "", w.numbers([s.x[0], s.x[3], p, q])]
    name = w.emit(
        "Resize",
        inputs,
        mode="nearest" if s.mode == "nearest" else "linear",
        coordinate_transformation_mode=place,
        nearest_mode="floor" if s.mode == "nearest" else None,
        antialias=1 if s.antialias else None,
        exclude_outside=1 if s.antialias else None,
    )
    w.put(node.output, name, NCHW)


# --- element by element ----------------------------------------------------------------------------


@writes("relu", "relu6", "leaky_relu", "sigmoid", "tanh", "silu", "hard_swish")
def _activation(w: Writer, node: Node) -> None:
    x = _first(node)
    order = w.order_of(x)
    w.put(node.output, _activate(w, node.spec.name, w.get(x, order), x.dtype, node.spec.slope), order)


_UNARY = {"neg": "Neg", "abs": "Abs", "sqrt": "Sqrt", "exp": "Exp", "log": "Log", "reciprocal": "Reciprocal",
          "floor": "Floor", "ceil": "Ceil", "erf": "Erf", "logical_not": "Not"}  # fmt: skip


@writes(*_UNARY)
def _unary(w: Writer, node: Node) -> None:
    x = _first(node)
    order = w.order_of(x)
    w.put(node.output, w.emit(_UNARY[node.op.name], [w.get(x, order)]), order)


@writes("clip", "elu", "hard_sigmoid", "cast")
def _with_numbers(w: Writer, node: Node) -> None:
    s, x = node.spec, _first(node)
    order = w.order_of(x)
    name = w.get(x, order)
    if node.op.name == "cast":
        name = w.emit("Cast", [name], to=CODES[s.dtype])
    elif node.op.name == "clip":
        bounds = [w.scalar(b, x.dtype) if math.isfinite(b) else "" for b in s.numbers]
        while bounds and not bounds[-1]:
            bounds.pop()
        name = w.emit("Clip", [name, *bounds])
    elif node.op.name == "elu":
        name = w.emit("Elu", [name], alpha=float(s.numbers[0]))
    else:
        name = w.emit("HardSigmoid", [name], alpha=float(s.numbers[0]), beta=float(s.numbers[1]))
    w.put(node.output, name, order)


_PAIRS = {"add": "Add", "mul": "Mul", "sub": "Sub", "div": "Div", "pow": "Pow", "maximum": "Max",
          "minimum": "Min", "prelu": "PRelu", "equal": "Equal", "greater": "Greater", "less": "Less",
          "where": "Where"}  # fmt: skip


@writes(*_PAIRS)
def _pairs(w: Writer, node: Node) -> None:
    values = [v for v in node.inputs if v is not None]
    order = _common(w, values, len(node.spec.out))
    name = w.emit(_PAIRS[node.op.name], [w.broadcast(v, order) for v in values])
    activation = getattr(node.spec, "activation", None)
    slope = getattr(node.spec, "slope", 0.01)
    w.put(node.output, _activate(w, activation, name, values[0].dtype, slope), order)


def _common(w: Writer, values: list[Value], rank: int) -> Order:
    """The order that the largest of the values has already."""
    full = [v for v in values if len(v.shape) == rank and v.kind != "param"]
    if not full:
        return tuple(range(rank))
    return w.order_of(max(full, key=lambda v: math.prod(v.shape)))


@writes("softmax", "log_softmax")
def _softmax(w: Writer, node: Node) -> None:
    x = _first(node)
    order = w.order_of(x)
    name = "Softmax" if node.op.name == "softmax" else "LogSoftmax"
    w.put(node.output, w.emit(name, [w.get(x, order)], axis=order[node.spec.axis]), order)


# --- shapes ----------------------------------------------------------------------------------------


@writes("concat")
def _concat(w: Writer, node: Node) -> None:
    values = [v for v in node.inputs if v is not None]
    order = _common(w, values, len(node.spec.out))
    name = w.emit("Concat", [w.get(v, order) for v in values], axis=order[node.spec.axis])
    w.put(node.output, name, order)


@writes("reshape")
def _reshape(w: Writer, node: Node) -> None:
    w.put(
        node.output,
        w.emit("Reshape", [w.get(_first(node)), w.numbers(node.spec.out)], allowzero=_zero(w, node)),
    )


def _zero(w: Writer, node: Node) -> int | None:
    """Sizes of 0 mean 0."""
    return 1 if 0 in node.spec.out and w.opset >= 14 else None


@writes("transpose")
def _transpose(w: Writer, node: Node) -> None:
    x = _first(node)
    order = w.order_of(x)
    w.put(node.output, w.get(x, order), tuple(order[a] for a in node.spec.axes))


def _left(order: Order, gone: tuple[int, ...]) -> Order:
    """The order of the axes that are left."""
    places = sorted(order[a] for a in gone)
    return tuple(p - sum(q < p for q in places) for a, p in enumerate(order) if a not in gone)


@writes("slice")
def _slice(w: Writer, node: Node) -> None:
    s, x = node.spec, _first(node)
    order = w.order_of(x)
    name = w.get(x, order)
    parts = [(order[a], *part) for a, part in enumerate(s.index) if part != (0, s.x[a], 1)]
    if parts:
        axes, starts, stops, steps = zip(*parts, strict=True)
        stops = tuple([stop if stop >= 0 else -(1 << 62) for stop in stops])
        name = w.emit("Slice", [name, *[w.numbers(n) for n in (starts, stops, axes, steps)]])
    if s.dropped:
        name = w.emit("Squeeze", [name, w.numbers([order[a] for a in s.dropped])])
    w.put(node.output, name, _left(order, s.dropped))


@writes("expand", "tile")
def _repeat(w: Writer, node: Node) -> None:
    s, x = node.spec, _first(node)
    name = w.get(x)
    if node.op.name == "expand":
        name = w.emit("Expand", [name, w.numbers(s.out)])
    else:
        counts = [m // n if n else 1 for n, m in zip(s.x, s.out, strict=True)]
        name = w.emit("Tile", [name, w.numbers(counts)])
    w.put(node.output, name)


@writes("gather")
def _gather(w: Writer, node: Node) -> None:
    indices = _argument(node, 1)
    assert indices is not None
    w.put(node.output, w.emit("Gather", [w.get(_first(node)), w.get(indices)], axis=node.spec.axis))


# --- reductions ------------------------------------------------------------------------------------

_REDUCTIONS = {"reduce_sum": "ReduceSum", "reduce_mean": "ReduceMean", "reduce_max": "ReduceMax",
               "reduce_min": "ReduceMin", "reduce_l2": "ReduceL2"}  # fmt: skip


@writes(*_REDUCTIONS)
def _reduce(w: Writer, node: Node) -> None:
    s, x = node.spec, _first(node)
    order = w.order_of(x)
    name, axes = w.get(x, order), sorted(order[a] for a in s.axes)
    left = order if s.keepdims else _left(order, s.axes)
    if not axes:
        w.put(node.output, w.emit("Abs" if node.op.name == "reduce_l2" else "Identity", [name]), left)
        return
    w.put(node.output, _reduced(w, _REDUCTIONS[node.op.name], name, axes, s.keepdims), left)


def _reduced(w: Writer, kind: str, name: str, axes: list[int], keepdims: bool) -> str:
    if kind == "ReduceSum" or w.opset >= 18:
        return w.emit(kind, [name, w.numbers(axes)], keepdims=int(keepdims))
    return w.emit(kind, [name], axes=axes, keepdims=int(keepdims))


@writes("l2_normalize")
def _l2_normalize(w: Writer, node: Node) -> None:
    s, x = node.spec, _first(node)
    order = w.order_of(x)
    name = w.get(x, order)
    length = _reduced(w, "ReduceL2", name, [order[s.axis]], True)
    length = w.emit("Max", [length, w.scalar(s.eps, x.dtype)])
    w.put(node.output, w.emit("Div", [name, length]), order)


@writes("argmax")
def _argmax(w: Writer, node: Node) -> None:
    s, x = node.spec, _first(node)
    order = w.order_of(x)
    name = w.emit("ArgMax", [w.get(x, order)], axis=order[s.axes[0]], keepdims=int(s.keepdims))
    w.put(node.output, name, order if s.keepdims else _left(order, s.axes))


@writes("topk")
def _topk(w: Writer, node: Node) -> None:
    s, x = node.spec, _first(node)
    order = w.order_of(x)
    inputs = [w.get(x, order), w.numbers([s.k])]
    names = w.emit_many("TopK", inputs, 2, axis=order[s.axis], largest=int(s.largest))
    for value, name in zip(node.outputs, names, strict=True):
        w.put(value, name, order)


@writes("gram_matrix")
def _gram(w: Writer, node: Node) -> None:
    s = node.spec
    rows = w.emit("Reshape", [w.get(_first(node)), w.numbers((s.x[0], s.rows, s.x[-1]))])
    w.put(node.output, w.emit("MatMul", [w.emit("Transpose", [rows], perm=(0, 2, 1)), rows]))
