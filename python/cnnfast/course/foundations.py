"""Convolution, padding, strides, pooling, layers, and what a gradient must fulfil."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import filters, models, nn, ops
from ..gradient_check import gradcheck
from ..graph.summary import summary
from . import Chapter, Fact

CHAPTER = Chapter()

_SIX = "3 0 1 2 7 4 / 1 5 8 9 3 1 / 2 7 2 5 1 3 / 0 1 3 1 7 8 / 4 2 1 6 2 8 / 2 4 5 2 3 9"
_SEVEN = ("2 3 7 4 6 2 9 / 6 6 9 8 7 4 3 / 3 4 8 3 8 9 7 / 7 8 3 6 6 3 4 / "
          "4 2 1 8 3 4 6 / 3 2 4 1 9 8 3 / 0 1 3 9 2 1 4")  # fmt: skip


def matrix(text: str) -> np.ndarray:
    """Numbers of a picture with one channel: rows apart by slashes."""
    return np.array([[float(v) for v in row.split()] for row in text.split("/")], np.float32)


def picture(text: str) -> np.ndarray:
    return matrix(text)[None, :, :, None]


def kernel(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values, np.float32)[:, :, None, None]


def plane(x: Any) -> Any:
    """The one channel of the one picture."""
    return np.asarray(x)[0, :, :, 0]


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


@CHAPTER.row("F1", "convolution is cross-correlation: the kernel is not flipped")
def cross_correlation() -> Iterator[Fact]:
    x, w = picture(_SIX), kernel(filters.VERTICAL)
    expected = matrix("-5 -4 0 8 / -10 -2 2 3 / 0 -2 -4 -7 / -3 -2 -3 -16")
    yield Fact("vertical edges of the 6x6 picture", expected, plane(ops.conv2d(x, w)))
    yield Fact("flipped on request: the other sign", -expected, plane(ops.conv2d(x, w, flip=True)))


@CHAPTER.row("F2", "edge filters")
def edges() -> Iterator[Fact]:
    x = np.repeat(picture("10 10 10 0 0 0"), 6, axis=1)
    w = kernel(filters.VERTICAL)
    yield Fact("bright left", matrix("0 30 30 0")[[0] * 4], plane(ops.conv2d(x, w)))
    yield Fact("bright right", matrix("0 -30 -30 0")[[0] * 4], plane(ops.conv2d(x[:, :, ::-1], w)))
    yield Fact("Sobel", matrix("-1 0 1 / -2 0 2 / -1 0 1"), filters.SOBEL_X)
    yield Fact("Scharr", matrix("-3 0 3 / -10 0 10 / -3 0 3"), filters.SCHARR_X)


@CHAPTER.row("F3", "padding")
def padding() -> Iterator[Fact]:
    x, w = zeros(1, 6, 6, 1), zeros(3, 3, 1, 1)
    yield Fact("n=6 f=3 valid", (4, 4), ops.conv2d(x, w).shape[1:3])
    yield Fact("n=6 f=3 p=1", (6, 6), ops.conv2d(x, w, padding=1).shape[1:3])
    for f, s in ((3, 2), (4, 1), (2, 3), (5, 4)):
        y = ops.conv2d(zeros(1, 7, 6, 1), zeros(f, f, 1, 1), stride=s, padding="same")
        yield Fact(f"same padding, f={f} s={s}: ceil(n/s)", (-(-7 // s), -(-6 // s)), y.shape[1:3])
    ones = np.ones((2, 2, 1, 1), np.float32)
    y = ops.conv2d(picture("1 2 / 3 4"), ones, padding="same")
    yield Fact("even f: the extra row and column at the end", matrix("10 6 / 7 4"), plane(y))
    row = picture("1 2 3")
    for mode, expected in (("zeros", "0 1 2 3 0"), ("reflect", "2 1 2 3 2"), ("replicate", "1 1 2 3 3"),
                           ("circular", "3 1 2 3 1")):  # fmt: skip
        y = ops.conv2d(row, np.ones((1, 1, 1, 1), np.float32), padding=((0, 0), (1, 1)), padding_mode=mode)
        yield Fact(f"padding mode {mode}", matrix(expected), plane(y))


@CHAPTER.row("F4", "stride, dilation, groups")
def strides() -> Iterator[Fact]:
    y = ops.conv2d(picture(_SEVEN), kernel(matrix("3 4 4 / 1 0 2 / -1 0 3")), stride=2)
    yield Fact("the 7x7 picture, s=2", matrix("91 100 88 / 69 91 117 / 44 72 74"), plane(y))
    for n, f, p, s, d in ((7, 3, 0, 2, 1), (8, 3, 0, 2, 1), (9, 3, 2, 3, 2), (11, 2, 1, 2, 3)):
        y = ops.conv2d(zeros(1, n, n, 1), zeros(f, f, 1, 1), padding=p, stride=s, dilation=d)
        out = (n + 2 * p - d * (f - 1) - 1) // s + 1
        yield Fact(f"n={n} f={f} p={p} s={s} d={d}", out, y.shape[1])
    y = ops.conv2d(zeros(1, 5, 5, 8), zeros(3, 3, 2, 12), groups=4)
    yield Fact("8 channels in 4 groups: kernels of 2 channels", (1, 3, 3, 12), y.shape)


@CHAPTER.row("F5", "volumes, many filters")
def volumes() -> Iterator[Fact]:
    y = ops.conv2d(zeros(1, 6, 6, 3), zeros(3, 3, 3, 2))
    yield Fact("6x6x3 with two 3x3x3 filters", (4, 4, 2), y.shape[1:])


@CHAPTER.row("F6", "one layer: z = w * a + b, a = g(z)")
def layer() -> Iterator[Fact]:
    conv = nn.Conv2d(3, 10, 3)
    yield Fact("ten 3x3x3 filters: parameters", 280, sum(p.size for p in conv.parameters()))
    x = np.array([[-8.0, -1.0, 0.0, 1.0, 8.0]], np.float32)
    yield Fact("relu", [[0, 0, 0, 1, 8]], ops.relu(x))
    yield Fact("relu6", [[0, 0, 0, 1, 6]], ops.relu6(x))
    yield Fact("leaky relu", [[-0.08, -0.01, 0, 1, 8]], ops.leaky_relu(x), 1e-7)
    wide = x.astype(np.float64)
    sigmoid = 1 / (1 + np.exp(-wide))
    yield Fact("sigmoid", sigmoid, ops.sigmoid(x), 1e-6)
    yield Fact("tanh", np.tanh(wide), ops.tanh(x), 1e-6)
    yield Fact("silu", wide * sigmoid, ops.silu(x), 1e-5)
    yield Fact("hard-swish", wide * np.clip(wide + 3, 0, 6) / 6, ops.hard_swish(x), 1e-5)
    e = np.exp(wide - wide.max())
    yield Fact("softmax", e / e.sum(), ops.softmax(x), 1e-6)
    y = ops.conv2d(picture(_SIX), kernel(filters.VERTICAL), np.array([1], np.float32), activation="relu")
    yield Fact("bias and activation in one call", matrix("0 0 1 9 / 0 0 3 4 / 1 0 0 0 / 0 0 0 0"), plane(y))


@CHAPTER.row("F7", "a simple ConvNet")
def convnet() -> Iterator[Fact]:
    found = summary(models.convnet39(), (39, 39, 3))
    shapes = [row.shape[1:] for row in found.rows if row.kind in ("Conv2d", "Flatten") and row.shape]
    yield Fact("39x39x3", "37x37x10 17x17x20 7x7x40 1960", " ".join("x".join(map(str, s)) for s in shapes))


@CHAPTER.row("F8", "pooling, per channel, without parameters")
def pooling() -> Iterator[Fact]:
    x = picture("1 3 2 1 / 2 9 1 1 / 1 3 2 3 / 5 6 1 2")
    yield Fact("max, f=2 s=2", matrix("9 2 / 6 3"), plane(ops.max_pool2d(x, 2)))
    yield Fact("average, f=2 s=2", matrix("3.75 1.25 / 3.75 2"), plane(ops.avg_pool2d(x, 2)))
    yield Fact("global average", 2.6875, float(ops.global_avg_pool2d(x).ravel()[0]))
    yield Fact("global maximum", 9.0, float(ops.global_max_pool2d(x).ravel()[0]))
    sizes = [ops.max_pool2d(zeros(1, 6, 6, 1), 3, stride=2, ceil_mode=c).shape[1] for c in (False, True)]
    yield Fact("n=6 f=3 s=2: floor, ceil_mode", [2, 3], sizes)
    ones = np.ones((1, 2, 2, 1), np.float32)
    corners = [
        float(ops.avg_pool2d(ones, 2, padding=1, count_include_pad=c)[0, 0, 0, 0]) for c in (True, False)
    ]
    yield Fact("a corner with padding: counted, not counted", [0.25, 1.0], corners)


@CHAPTER.row("F9", "the table of LeNet-5 on 32x32x3")
def lenet() -> Iterator[Fact]:
    found = summary(models.lenet5_rgb(), (32, 32, 3))
    kinds = ("Conv2d", "MaxPool2d", "Linear")
    sizes = [3072, *(int(np.prod(row.shape)) for row in found.rows if row.kind in kinds and row.shape)]
    yield Fact("activation sizes", [3072, 4704, 1176, 1600, 400, 120, 84, 10], sizes)
    counts = [row.parameters for row in found.rows if row.parameters]
    yield Fact("parameters", [456, 2416, 48_120, 10_164, 850], counts)
    yield Fact("parameters in all", 62_006, found.parameters)


@CHAPTER.row("F10", "why convolution: sharing and sparsity")
def sharing() -> Iterator[Fact]:
    found = summary(models.lenet5_rgb(), (32, 32, 3))
    yield Fact("dense equivalent of the first layer", 14_450_688, found.rows[0].dense_equivalent)


@CHAPTER.row("F11", "gradients")
def gradients() -> Iterator[Fact]:
    rng = np.random.default_rng(11)
    x, w = rng.standard_normal((2, 6, 5, 3)), rng.standard_normal((3, 3, 3, 4))
    error = gradcheck(lambda x, w: ops.conv2d(x, w, stride=2, padding=1), x, w)
    yield Fact("conv2d in float64, against differences: within 1e-6", True, bool(error))
    y = rng.standard_normal((2, 3, 3, 4))
    forward = float((ops.conv2d(x, w, stride=2, padding=1) * y).sum())
    back = ops.conv2d_transpose(y, w, stride=2, padding=1, output_padding=((1, 0)))
    yield Fact("<A x, y> = <x, A' y>", forward, float((back * x).sum()), 1e-10)
