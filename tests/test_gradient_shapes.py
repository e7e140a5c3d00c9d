"""Gradients of every operator at twenty drawn shapes and settings, against differences in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cnnfast as cf
from cnnfast import ops
from cnnfast.ops import batch_norm_train
from cnnfast.ops.registry import NO_GRADIENT, OPERATORS
from gradient_cases import CASES, DRAWS

TIMES = 20
Draw = tuple[Any, ...]  # a function and the shapes of its arrays

MODES = ("zeros", "reflect", "replicate", "circular")
ACTIVATIONS = (None, "relu", "leaky_relu", "sigmoid", "tanh", "silu")


class Chooser:
    """Small numbers, shapes and settings out of one generator."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def n(self, least: int, most: int) -> int:
        return int(self.rng.integers(least, most + 1))

    def pair(self, least: int, most: int) -> tuple[int, int]:
        return self.n(least, most), self.n(least, most)

    def of(self, choices: Any) -> Any:
        return choices[self.n(0, len(choices) - 1)]

    def shape(self, least: int = 1, most: int = 3) -> tuple[int, ...]:
        return tuple([self.n(1, 4) for _ in range(self.n(least, most))])

    def picture(self, least: int = 1, most: int = 5, channels: int = 3) -> tuple[int, ...]:
        return self.n(1, 2), self.n(least, most), self.n(least, most), self.n(1, channels)

    def axis(self, shape: tuple[int, ...]) -> int:
        return self.n(-len(shape), len(shape) - 1)

    def matched(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Two shapes that broadcast against each other."""
        shape = self.shape()
        a = tuple([self.of((n, 1)) for n in shape])
        b = tuple([n if m != n else self.of((n, 1)) for n, m in zip(shape, a, strict=True)])
        return (a, b[self.n(0, len(b)) :]) if self.n(0, 1) else (b, a)

    def pads(self, most: int) -> Any:
        return ((self.n(0, most), self.n(0, most)), (self.n(0, most), self.n(0, most)))


def unary(name: str, draw: str = "apart", **more: Any) -> Callable[[Chooser], Draw]:
    return lambda c: (lambda x: getattr(ops, name)(x, **more), [c.shape(0, 4)], draw)


def pairs(name: str, draw: str = "apart") -> Callable[[Chooser], Draw]:
    return lambda c: (getattr(ops, name), c.matched(), draw)


def along(name: str, **more: Any) -> Callable[[Chooser], Draw]:
    """A function along one axis."""

    def chosen(c: Chooser) -> Draw:
        shape = c.shape()
        axis = c.axis(shape)
        return lambda x: getattr(ops, name)(x, axis, **more), [shape]

    return chosen


def reduction(name: str) -> Callable[[Chooser], Draw]:
    def chosen(c: Chooser) -> Draw:
        shape, kept = c.shape(), bool(c.n(0, 1))
        axes = c.of([None, (), (c.axis(shape),), tuple(range(len(shape)))])
        return lambda x: getattr(ops, name)(x, axes, keepdims=kept), [shape]

    return chosen


def conv2d(c: Chooser) -> Draw:
    groups, size, dilation = c.n(1, 2), c.pair(1, 3), c.pair(1, 2)
    inside, filters = c.n(1, 2), groups * c.n(1, 2)
    x = (c.n(1, 2), c.n(5, 6), c.n(5, 6), groups * inside)
    mode = c.of(MODES)
    padding = c.of(("valid", "same", c.pads(2)))
    settings = {
        "stride": c.pair(1, 3),
        "dilation": dilation,
        "groups": groups,
        "padding": padding,
        "padding_mode": mode,
        "flip": bool(c.n(0, 1)),
        "activation": c.of(ACTIVATIONS),
    }
    return lambda *a: ops.conv2d(*a, **settings), [x, (*size, inside, filters), (filters,)][: c.n(2, 3)]


def depthwise_conv2d(c: Chooser) -> Draw:
    channels, several, size = c.n(1, 3), c.n(1, 2), c.pair(1, 3)
    settings = {
        "stride": c.pair(1, 2),
        "dilation": c.pair(1, 2),
        "padding": c.of(("valid", "same", c.pads(2))),
    }
    shapes = [(1, c.n(5, 6), c.n(5, 6), channels), (*size, channels, several), (channels * several,)]
    return lambda *a: ops.depthwise_conv2d(*a, **settings), shapes[: c.n(2, 3)]


def conv2d_transpose(c: Chooser) -> Draw:
    groups, stride, dilation = c.n(1, 2), c.pair(1, 3), c.pair(1, 2)
    inside, filters = c.n(1, 2), c.n(1, 2)
    settings = {
        "stride": stride,
        "dilation": dilation,
        "groups": groups,
        "padding": c.pads(1),
        "output_padding": tuple([c.n(0, max(s, d) - 1) for s, d in zip(stride, dilation, strict=True)]),
    }
    x = (c.n(1, 2), c.n(2, 4), c.n(2, 4), groups * inside)
    shapes = [x, (*c.pair(2, 3), filters, groups * inside), (groups * filters,)]
    return lambda *a: ops.conv2d_transpose(*a, **settings), shapes[: c.n(2, 3)]


def pooling(name: str) -> Callable[[Chooser], Draw]:
    def chosen(c: Chooser) -> Draw:
        size = c.pair(2, 3)
        settings: dict[str, Any] = {
            "stride": c.pair(1, 3),
            "padding": c.pads(1),
            "ceil_mode": bool(c.n(0, 1)),
        }
        if name == "max_pool2d":
            settings["dilation"] = c.pair(1, 2)
        if name == "avg_pool2d":
            settings["count_include_pad"] = bool(c.n(0, 1))
        if name == "l2_pool2d":
            del settings["ceil_mode"]
        if name == "max_pool2d_indices":
            settings["return_indices"] = True
        function = ops.max_pool2d if "max" in name else getattr(ops, name)
        return lambda x: function(x, size, **settings), [c.picture(5, 6, 2)]

    return chosen


def resize(c: Chooser) -> Draw:
    size = c.pair(1, 7)
    settings = c.of(({"mode": "nearest"}, {}, {"align_corners": True}, {"antialias": True}))
    return lambda x: ops.resize(x, size, **settings), [c.picture()]


def pad2d(c: Chooser) -> Draw:
    pads, mode = c.pads(2), c.of(MODES)
    return lambda x: ops.pad2d(x, pads, mode=mode), [c.picture(3, 4)]


def linear(c: Chooser) -> Draw:
    wide, outputs, activation = c.n(1, 5), c.n(1, 4), c.of(ACTIVATIONS)
    shapes = [(*c.shape(), wide), (wide, outputs), (outputs,)]
    return lambda *a: ops.linear(*a, activation=activation), shapes[: c.n(2, 3)]


def matmul(c: Chooser) -> Draw:
    (a, b), k = c.matched(), c.n(1, 4)
    return ops.matmul, [(*a, c.n(1, 3), k), (*b, k, c.n(1, 3))]


def local_response_norm(c: Chooser) -> Draw:
    settings = {"size": c.n(1, 6), "alpha": 0.4, "beta": c.of((0.5, 0.75, 1.2)), "k": c.of((1.0, 2.0))}
    settings["alpha_mode"] = c.of(("sum", "mean"))
    return lambda x: ops.local_response_norm(x, **settings), [(*c.shape(), c.n(1, 6))]


def normalisation(name: str, given: int) -> Callable[[Chooser], Draw]:
    function = batch_norm_train if name == "batch_norm_train" else getattr(ops, name)

    def chosen(c: Chooser) -> Draw:
        channels = c.n(1, 4)
        shape = (c.n(2, 3), c.n(2, 3), c.n(2, 3), channels)
        count = c.of((given, given - 2))
        # An epsilon that counts: the gradient of a few values nearly vanishes without one.
        return lambda *a: function(*a, eps=0.3), [shape, *[(channels,)] * count], "positive"

    return chosen


def concat(c: Chooser) -> Draw:
    shape = c.shape()
    axis = c.axis(shape)
    shapes = []
    for _ in range(c.n(1, 3)):
        sizes = list(shape)
        sizes[axis] = c.n(1, 3)
        shapes.append(tuple(sizes))
    return lambda *a: ops.concat(a, axis), shapes


def rearranged(name: str) -> Callable[[Chooser], Draw]:
    """Views, copies and picks: of any shape, by what is drawn."""

    def chosen(c: Chooser) -> Draw:
        shape = c.shape(1, 4)
        axis = c.axis(shape)
        order = tuple(c.rng.permutation(len(shape)).tolist())
        repeats = tuple([c.n(1, 3) for _ in shape])
        wider = (c.n(1, 3), *[n if n > 1 else c.n(1, 3) for n in shape])
        index = c.rng.integers(-shape[axis], shape[axis], c.shape(0, 2))
        step = c.of((-2, -1, 1, 2))
        call: dict[str, Callable[..., Any]] = {
            "reshape": lambda x: ops.reshape(x, (-1, 1)),
            "transpose": lambda x: ops.transpose(x, order),
            "tile": lambda x: ops.tile(x, repeats),
            "expand": lambda x: ops.expand(x, wider),
            "gather": lambda x: ops.gather(x, index, axis),
            "slice": lambda x: ops.take(x, (..., slice(None, None, step))),
            "cast": lambda x: ops.cast(x, "float64"),
            "topk": lambda x: ops.topk(x, 1, axis, largest=bool(shape[0] % 2)),
        }
        return call[name], [shape]

    return chosen


def cross_entropy(c: Chooser) -> Draw:
    shape, classes = c.shape(), c.n(2, 5)
    labels, smoothing = c.rng.integers(0, classes, shape), c.of((0.0, 0.2))
    return lambda x: ops.softmax_cross_entropy(x, labels, label_smoothing=smoothing)[0], [(*shape, classes)]


def regions(name: str) -> Callable[[Chooser], Draw]:
    def chosen(c: Chooser) -> Draw:
        x, count = c.picture(4, 6, 2), c.n(1, 2)
        corner = c.rng.uniform(0, 3, (count, 2))
        images = c.rng.integers(0, x[0], (count, 1))
        boxes = np.hstack([images, corner, corner + c.rng.uniform(0.5, 4, (count, 2))])
        size, scale = c.pair(1, 3), c.of((1.0, 0.7))
        return lambda a: getattr(ops, name)(a, boxes, size, spatial_scale=scale), [x]

    return chosen


def box_iou(c: Chooser) -> Draw:
    kind = c.of(("iou", "giou", "diou", "ciou"))
    return lambda a, b: ops.box_iou(a, b, kind=kind), [(c.n(1, 4), 4), (c.n(1, 4), 4)], "boxes"


def prelu(c: Chooser) -> Draw:
    shape = c.shape()
    return ops.prelu, [shape, shape[-1:]]


def where(c: Chooser) -> Draw:
    a, b = c.matched()
    condition = c.rng.random(np.broadcast_shapes(a, b)) < 0.5
    return lambda x, y: ops.where(condition, x, y), [a, b]


DRAWN: dict[str, Callable[[Chooser], Draw]] = {
    **{
        name: unary(name)
        for name in (
            *("relu", "relu6", "sigmoid", "tanh", "silu", "hard_swish", "leaky_relu", "abs", "exp", "neg"),
            *("reciprocal", "floor", "ceil", "erf", "elu", "hard_sigmoid"),
        )
    },
    **{name: unary(name, "positive") for name in ("sqrt", "log")},
    "clip": lambda c: (lambda x: ops.clip(x, -0.8, 1.7), [c.shape()]),
    **{name: pairs(name) for name in ("add", "sub", "mul", "div", "maximum", "minimum")},
    "pow": pairs("pow", "positive"),
    **{name: along(name) for name in ("softmax", "log_softmax", "l2_normalize")},
    **{
        name: reduction(f"{name}")
        for name in ("reduce_sum", "reduce_mean", "reduce_max", "reduce_min", "reduce_l2")
    },
    **{
        name: rearranged(name)
        for name in ("reshape", "transpose", "tile", "expand", "gather", "slice", "cast", "topk")
    },
    **{name: pooling(name) for name in ("max_pool2d", "max_pool2d_indices", "avg_pool2d", "l2_pool2d")},
    **{
        name: (lambda c, name=name: (getattr(ops, name), [c.picture()]))
        for name in ("global_avg_pool2d", "global_max_pool2d", "gram_matrix")
    },
    **{name: regions(name) for name in ("roi_pool", "roi_align")},
    "batch_norm": normalisation("batch_norm", 4),
    "batch_norm_train": normalisation("batch_norm_train", 2),
    "instance_norm": normalisation("instance_norm", 2),
    "sigmoid_cross_entropy": lambda c: (ops.sigmoid_cross_entropy, [s := c.shape(), s]),
    "softmax_cross_entropy": cross_entropy,
    **{f.__name__: f for f in (conv2d, depthwise_conv2d, conv2d_transpose, resize, pad2d, linear, matmul)},
    **{f.__name__: f for f in (local_response_norm, concat, box_iou, prelu, where)},
}


def test_every_operator_is_drawn() -> None:
    assert set(DRAWN) == {c.op for c in CASES}
    assert not {name for name, op in OPERATORS.items() if op.vjp is not NO_GRADIENT} - set(DRAWN)


@pytest.mark.parametrize("name", DRAWN)
def test_gradcheck_of_drawn_shapes(name: str) -> None:
    rng = np.random.default_rng(sum(map(ord, name)))
    for _ in range(TIMES):
        function, shapes, *draw = DRAWN[name](Chooser(rng))
        inputs = [DRAWS[draw[0] if draw else "apart"](rng, shape) for shape in shapes]
        assert cf.gradcheck(function, *inputs), shapes
