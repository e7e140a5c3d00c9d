"""One table of calls by operator, for every test that is asked of all gradients.

Shapes are plain, tail (17 channels, 7 pixels) and with gaps in memory; values lie off corners and ties.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import cnnfast as cf
from cnnfast import ops
from cnnfast.ops import batch_norm_train

F64 = np.float64


@dataclass(frozen=True)
class Case:
    """A function of its floating-point inputs that runs one operator, among others perhaps."""

    op: str
    name: str
    function: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]
    draw: str = "apart"
    linear: bool = False  # in all inputs together

    def __str__(self) -> str:
        return f"{self.op}-{self.name}"

    def inputs(self, dtype: Any = F64, gaps: bool = False) -> list[np.ndarray]:
        rng = np.random.default_rng(len(str(self)) + sum(map(ord, str(self))))
        arrays = [DRAWS[self.draw](rng, shape).astype(dtype) for shape in self.shapes]
        return [with_gaps(a) for a in arrays] if gaps else arrays


def with_gaps(a: np.ndarray) -> np.ndarray:
    """The same values as a view of every second element."""
    larger = np.full(tuple(2 * n + 1 for n in a.shape), np.nan, a.dtype)
    view = larger[tuple(slice(1, None, 2) for _ in a.shape)]
    view[...] = a
    return view


def _apart(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Of both signs, away from zero, and no two the same within a hundredth or so."""
    n = int(np.prod(shape))
    values = (np.arange(n) + 0.5) * (3.0 / max(n, 1)) + 0.1234
    return (rng.permutation(values) * rng.choice([-1.0, 1.0], n)).reshape(shape)


def _boxes(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    corner = rng.uniform(0, 4, (shape[0], 2))
    return np.hstack([corner, corner + rng.uniform(0.5, 4, (shape[0], 2))])


DRAWS: dict[str, Callable[..., np.ndarray]] = {
    "apart": _apart,
    "positive": lambda rng, shape: np.abs(_apart(rng, shape)),
    "boxes": _boxes,
}


def beside(x: Any, constant: np.ndarray) -> Any:
    """A constant where x lies, in host memory or on a device, and of its type; conditions stay conditions."""
    dtype = constant.dtype if constant.dtype.kind == "b" else x.dtype
    on_device = isinstance(x._data if isinstance(x, cf.Tensor) else x, cf.cuda.DeviceArray)
    return cf.cuda.asarray(constant, dtype) if on_device else constant.astype(dtype)


CASES: list[Case] = []


def _case(op: str, name: str, function: Callable[..., Any], *shapes: tuple[int, ...], **more: Any) -> None:
    CASES.append(Case(op, name, function, shapes, **more))


PLAIN, TAIL = (2, 4, 6, 4), (1, 7, 3, 17)

# --- element by element ----------------------------------------------------------------------------

for _name in ("relu", "relu6", "sigmoid", "tanh", "silu", "hard_swish", "leaky_relu"):
    _case(_name, "plain", getattr(ops, _name), PLAIN)
    _case(_name, "tail", getattr(ops, _name), TAIL)
for _slope in (-0.3, 0.0, 0.2):
    _case("leaky_relu", f"slope{_slope}", lambda x, s=_slope: ops.leaky_relu(x, slope=s), (3, 7))
_case("relu6", "wide", lambda x: ops.relu6(x * 4.0), (3, 7))
for _name in ("abs", "exp", "reciprocal", "floor", "ceil", "erf", "elu", "hard_sigmoid"):
    _case(_name, "plain", getattr(ops, _name), (3, 5))
    _case(_name, "tail", getattr(ops, _name), (7, 17))
_case("neg", "plain", ops.neg, (3, 5), linear=True)
for _name in ("sqrt", "log"):
    _case(_name, "plain", getattr(ops, _name), (3, 5), draw="positive")
_case("elu", "alpha", lambda x: ops.elu(x, alpha=0.4), (3, 5))
_case("clip", "both", lambda x: ops.clip(x, -0.8, 1.7), (3, 17))
_case("clip", "crossed", lambda x: ops.clip(x, 1.0, -1.0), (3, 17))
_case("cast", "float64", lambda x: ops.cast(x, "float64"), (3, 5), linear=True)
BROADCASTS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "same": ((3, 17), (3, 17)),
    "row": ((2, 3, 7), (7,)),
    "gates": (PLAIN, (2, 1, 1, 4)),
    "outer": ((5, 1), (1, 7)),
    "wider": ((1,), (3, 4)),
    "scalar": ((), (3, 4)),
}
for _form, (_a, _b) in BROADCASTS.items():
    for _name in ("add", "sub"):
        _case(_name, _form, getattr(ops, _name), _a, _b, linear=True)
    for _name in ("mul", "div", "maximum", "minimum"):
        _case(_name, _form, getattr(ops, _name), _a, _b)
    _case("pow", _form, ops.pow, _a, _b, draw="positive")
    _case("where", _form, lambda a, b: ops.where(beside(a, np.array([True])), a, b), _a, _b, linear=True)
for _name in ("relu", "leaky_relu", "sigmoid", "silu", "hard_swish"):
    _case("add", f"act-{_name}", lambda a, b, n=_name: ops.add(a, b * 0.37, activation=n), (3, 7), (3, 7))
_case(
    "where", "condition", lambda a, b: ops.where(beside(a, np.eye(3, 5) > 0), a, b), (3, 5), (5,), linear=True
)
_case("prelu", "channels", ops.prelu, (2, 3, 7), (7,))

# --- views and rearrangements ----------------------------------------------------------------------

_case("reshape", "plain", lambda x: ops.reshape(x, (6, -1)), (2, 3, 7), linear=True)
_case("transpose", "plain", lambda x: ops.transpose(x, (2, 0, 1)), (2, 3, 7), linear=True)
_case(
    "slice",
    "steps",
    lambda x: ops.take(x, (slice(None, None, -2), 1, slice(1, 6, 3))),
    (5, 3, 7),
    linear=True,
)
_case("slice", "back", lambda x: ops.take(x, (..., slice(None, None, -1))), (3, 4), linear=True)
_case("slice", "empty", lambda x: ops.concat([ops.take(x, slice(2, 2)), x], 0), (3, 4), linear=True)
_case("expand", "plain", lambda x: ops.expand(x, (3, 2, 4, 5)), (2, 1, 5), linear=True)
_case("tile", "plain", lambda x: ops.tile(x, (2, 1, 3)), (2, 3, 5), linear=True)
_case(
    "gather", "twice", lambda x: ops.gather(x, np.array([[0, -1, 2], [2, 0, 0]]), 1), (2, 4, 3), linear=True
)
_case(
    "concat", "channels", lambda a, b, c: ops.concat([a, b, c]), (2, 3, 4), (2, 3, 1), (2, 3, 7), linear=True
)
_case("concat", "rows", lambda a, b: ops.concat([a, b, a], 1), (2, 3, 4), (2, 1, 4), linear=True)
_case(
    "transpose", "depth", lambda x: ops.depth_to_space(ops.space_to_depth(x, 2), 2), (1, 4, 6, 3), linear=True
)
for _mode in ("zeros", "reflect", "replicate", "circular"):
    _case(
        "pad2d", _mode, lambda x, m=_mode: ops.pad2d(x, ((1, 3), (2, 2)), mode=m), (2, 5, 3, 2), linear=True
    )
    _case("pad2d", f"{_mode}-tail", lambda x, m=_mode: ops.pad2d(x, 1, mode=m), (1, 2, 7, 17), linear=True)

# --- reductions ------------------------------------------------------------------------------------

for _name in ("reduce_sum", "reduce_mean", "reduce_max", "reduce_min", "reduce_l2"):
    _reduce, _is_linear = getattr(ops, _name), _name in ("reduce_sum", "reduce_mean")
    _case(_name, "all", _reduce, (3, 7), linear=_is_linear)
    _case(_name, "some", lambda x, f=_reduce: f(x, (0, -1)), (2, 7, 3), linear=_is_linear)
    _case(_name, "kept", lambda x, f=_reduce: f(x, 1, keepdims=True), (2, 3, 17), linear=_is_linear)
    _case(_name, "none", lambda x, f=_reduce: f(x, ()), (2, 3), linear=_is_linear)
_case("topk", "largest", lambda x: ops.topk(x, 3), (4, 7))
_case("topk", "smallest", lambda x: ops.topk(x, 2, 0, largest=False), (4, 7))
for _name in ("softmax", "log_softmax"):
    _case(_name, "last", getattr(ops, _name), (3, 17))
    _case(_name, "middle", lambda x, n=_name: getattr(ops, n)(x, 1), (2, 7, 3))

LABELS = np.array([[3, 0, 16], [-100, 5, 5]])
_case(
    "sigmoid_cross_entropy",
    "plain",
    lambda x, t: ops.sigmoid_cross_entropy(x, ops.sigmoid(t)),
    (3, 5),
    (3, 5),
)
_case(
    "sigmoid_cross_entropy",
    "weighted",
    lambda x: ops.sigmoid_cross_entropy(x, beside(x, np.eye(3, 17)), pos_weight=2.5),
    (3, 17),
)
_case("softmax_cross_entropy", "plain", lambda x: ops.softmax_cross_entropy(x, LABELS)[0], (2, 3, 17))
_case(
    "softmax_cross_entropy",
    "smooth",
    lambda x: ops.softmax_cross_entropy(x, LABELS, label_smoothing=0.2)[0],
    (2, 3, 17),
)

# --- products --------------------------------------------------------------------------------------

_case("matmul", "plain", ops.matmul, (3, 7), (7, 5))
_case("matmul", "stacks", ops.matmul, (2, 1, 3, 4), (5, 4, 2))
_case("gram_matrix", "picture", ops.gram_matrix, (2, 3, 4, 5))
_case("gram_matrix", "rows", ops.gram_matrix, (2, 7, 3))
_case("linear", "plain", ops.linear, (3, 7), (7, 5), (5,))
_case("linear", "no bias", ops.linear, (2, 3, 4), (4, 17))
for _name in ("relu", "leaky_relu", "silu"):
    _case("linear", _name, lambda x, w, b, n=_name: ops.linear(x, w, b, activation=n), (3, 7), (7, 5), (5,))

# --- convolutions ----------------------------------------------------------------------------------

CONVOLUTIONS: dict[str, tuple[tuple[tuple[int, ...], ...], dict[str, Any]]] = {
    "plain": (((2, 5, 6, 3), (3, 3, 3, 4), (4,)), {"padding": "same"}),
    "tail": (((1, 7, 2, 17), (1, 1, 17, 3), (3,)), {}),
    "strided": (((1, 7, 8, 2), (3, 2, 2, 3), (3,)), {"stride": (2, 3), "padding": ((1, 0), (0, 2))}),
    "dilated": (((1, 8, 7, 2), (3, 3, 2, 2)), {"dilation": (2, 1), "padding": (2, 1), "stride": 2}),
    "rows left over": (((1, 8, 8, 1), (3, 3, 1, 2)), {"stride": 4}),
    "groups": (((2, 4, 5, 6), (3, 3, 2, 9), (9,)), {"groups": 3, "padding": 1}),
    "depthwise groups": (((1, 5, 5, 4), (3, 3, 1, 8), (8,)), {"groups": 4, "padding": 1, "stride": 2}),
    "flip": (((1, 4, 5, 2), (2, 3, 2, 3)), {"flip": True, "padding": 1}),
    **{
        mode: (((1, 5, 4, 2), (3, 3, 2, 2)), {"padding": ((1, 2), (2, 0)), "padding_mode": mode})
        for mode in ("reflect", "replicate", "circular")
    },
}
for _form, (_shapes, _options) in CONVOLUTIONS.items():
    _case("conv2d", _form, lambda *a, o=_options: ops.conv2d(*a, **o), *_shapes)
for _name in ("relu", "relu6", "leaky_relu", "sigmoid", "tanh", "silu", "hard_swish"):
    _case(
        "conv2d",
        f"act-{_name}",
        lambda x, w, b, r, n=_name: ops.conv2d(x, w, b, residual=r, activation=n),
        *((1, 3, 4, 2), (2, 2, 2, 3), (3,), (1, 2, 3, 3)),
    )
DEPTHWISE: dict[str, tuple[tuple[tuple[int, ...], ...], dict[str, Any]]] = {
    "plain": (((2, 5, 4, 3), (3, 3, 3, 1), (3,)), {"padding": 1}),
    "tail": (((1, 7, 3, 17), (3, 1, 17, 1)), {"padding": "same", "stride": 2}),
    "multiplier": (((1, 6, 5, 3), (2, 3, 3, 2), (6,)), {"dilation": (1, 2), "stride": (2, 1)}),
    "act": (((1, 4, 4, 3), (3, 3, 3, 1), (3,)), {"activation": "hard_swish", "padding": ((2, 0), (1, 1))}),
}
for _form, (_shapes, _options) in DEPTHWISE.items():
    _case("depthwise_conv2d", _form, lambda *a, o=_options: ops.depthwise_conv2d(*a, **o), *_shapes)
TRANSPOSE: dict[str, tuple[tuple[tuple[int, ...], ...], dict[str, Any]]] = {
    "plain": (((2, 3, 4, 3), (2, 2, 5, 3), (5,)), {"stride": 2}),
    "tail": (((1, 7, 2, 17), (3, 3, 2, 17), (2,)), {"padding": 1}),
    "strided": (((1, 3, 4, 2), (3, 4, 3, 2)), {"stride": (2, 3), "padding": ((1, 0), (2, 1))}),
    "extra": (((1, 3, 3, 2), (3, 3, 2, 2), (2,)), {"stride": 2, "padding": 1, "output_padding": (1, 0)}),
    "groups": (((1, 3, 3, 4), (3, 2, 3, 4), (6,)), {"groups": 2, "dilation": (1, 2), "stride": 2}),
}
for _form, (_shapes, _options) in TRANSPOSE.items():
    _case("conv2d_transpose", _form, lambda *a, o=_options: ops.conv2d_transpose(*a, **o), *_shapes)

# --- pooling ---------------------------------------------------------------------------------------

POOLS: dict[str, tuple[tuple[int, ...], Any, dict[str, Any]]] = {
    "plain": ((2, 4, 6, 3), 2, {}),
    "tail": ((1, 7, 3, 17), 3, {"stride": 2, "padding": 1}),
    "strided": ((1, 9, 8, 2), (3, 2), {"stride": (1, 3), "padding": ((1, 0), (0, 1))}),
    "ceil": ((1, 6, 7, 2), 3, {"stride": 2, "ceil_mode": True}),
}
for _form, (_shape, _size, _options) in POOLS.items():
    _case("max_pool2d", _form, lambda x, s=_size, o=_options: ops.max_pool2d(x, s, **o), _shape)
    _case("avg_pool2d", _form, lambda x, s=_size, o=_options: ops.avg_pool2d(x, s, **o), _shape, linear=True)
_case("max_pool2d_indices", "plain", lambda x: ops.max_pool2d(x, 2, return_indices=True), (2, 4, 6, 3))
_case("max_pool2d", "dilated", lambda x: ops.max_pool2d(x, 2, stride=1, dilation=(2, 3)), (1, 6, 7, 2))
_case(
    "avg_pool2d",
    "inside",
    lambda x: ops.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False, ceil_mode=True),
    (1, 6, 5, 3),
    linear=True,
)
_case("l2_pool2d", "plain", lambda x: ops.l2_pool2d(x, 2), (2, 4, 6, 3))
_case("l2_pool2d", "tail", lambda x: ops.l2_pool2d(x, 3, stride=2, padding=1), (1, 7, 3, 17))
for _name in ("global_avg_pool2d", "global_max_pool2d"):
    for _form, _shape in (("plain", PLAIN), ("tail", TAIL)):
        _case(_name, _form, getattr(ops, _name), _shape, linear="avg" in _name)

# --- normalisation ---------------------------------------------------------------------------------

_case("batch_norm", "all", ops.batch_norm, PLAIN, (4,), (4,), (4,), (4,), draw="positive")
_case("batch_norm", "plain", ops.batch_norm, (7, 17), (17,), (17,), draw="positive")
_case("batch_norm_train", "y", lambda *a: ops.batch_norm_train(*a)[0], PLAIN, (4,), (4,))
_case("batch_norm_train", "bare", lambda x: ops.batch_norm_train(x, eps=0.1)[0], (7, 17))
for _name in ("relu", "relu6"):
    _case(
        "batch_norm_train",
        _name,
        lambda *a, name=_name: batch_norm_train(*a, activation=name)[0],
        (5, 3, 7),
        (7,),
        (7,),
    )
_case("batch_norm_train", "all", batch_norm_train, (2, 7, 3), (3,), (3,))
_case("instance_norm", "all", ops.instance_norm, (2, 3, 4, 5), (5,), (5,))
_case("instance_norm", "bare", ops.instance_norm, (2, 7, 17))
for _size in (1, 2, 3, 5, 8):
    for _mode in ("sum", "mean"):
        _case(
            "local_response_norm",
            f"{_size}-{_mode}",
            lambda x, n=_size, m=_mode: ops.local_response_norm(
                x, size=n, alpha=0.3, beta=0.6, k=1.5, alpha_mode=m
            ),
            (2, 2, 3, 7),
        )
_case("local_response_norm", "tail", ops.local_response_norm, (7, 17))
_case("l2_normalize", "plain", ops.l2_normalize, (3, 5))
_case("l2_normalize", "axis", lambda x: ops.l2_normalize(x, 1), (2, 7, 3))
_case("l2_normalize", "short", lambda x: ops.l2_normalize(x, eps=100.0), (3, 5))

# --- resizing --------------------------------------------------------------------------------------

RESIZES: dict[str, dict[str, Any]] = {
    "nearest": {"mode": "nearest"},
    "bilinear": {},
    "corners": {"align_corners": True},
    "antialias": {"antialias": True},
}
for _form, _options in RESIZES.items():
    for _size in ((5, 4), (10, 8), (3, 3), (11, 1), (1, 9)):
        _case(
            "resize",
            f"{_form}-{_size[0]}x{_size[1]}",
            lambda x, s=_size, o=_options: ops.resize(x, s, **o),
            (1, 5, 4, 3),
            linear=True,
        )

# --- boxes and regions -----------------------------------------------------------------------------

for _kind in ("iou", "giou", "diou", "ciou"):
    _case("box_iou", _kind, lambda a, b, k=_kind: ops.box_iou(a, b, kind=k), (5, 4), (7, 4), draw="boxes")
REGIONS = np.array([[0, 1, 1, 5, 4], [1, 0, 0, 6, 5], [0, 2.25, 3.125, 9, 9], [1, 3, 3, 2, 2]])
_case("roi_pool", "plain", lambda x: ops.roi_pool(x, beside(x, REGIONS), (2, 3)), (2, 6, 7, 2))
for _form, _options in {
    "plain": {"sampling_ratio": 2},
    "adaptive": {"spatial_scale": 0.7},
    "aligned": {"aligned": True, "sampling_ratio": 2},
}.items():
    _case(
        "roi_align",
        _form,
        lambda x, o=_options: ops.roi_align(x, beside(x, REGIONS), (2, 3), **o),
        (2, 6, 7, 2),
        linear=True,
    )


# --- running a case --------------------------------------------------------------------------------


def outputs(case: Case, *inputs: Any) -> list[Any]:
    """The floating-point results."""
    result = case.function(*inputs)
    results = result if isinstance(result, (tuple, list)) else [result]
    return [y for y in results if y.dtype.kind == "f"]


def gradients(case: Case, inputs: list[np.ndarray], starts: list[np.ndarray] | None = None) -> Any:
    """Results, what the gradients started from, and the gradients."""
    tensors = [cf.Tensor(a, requires_grad=True) for a in inputs]
    results = outputs(case, *tensors)
    if starts is None:
        rng = np.random.default_rng(1)
        starts = [np.asarray(rng.standard_normal(y.shape), y.dtype) for y in results]
    for y, g in zip(results, starts, strict=True):
        y.backward(g, retain_graph=True)
    return [y.data for y in results], starts, [t.grad for t in tensors]
