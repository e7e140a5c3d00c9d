"""LeNet-5: as published in 1998, in its modern form, and as the table of course notes has it."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import nn, ops
from .registry import Pretrained, register_model

__all__ = ["LeNet5", "LeNet5Original", "lenet5", "lenet5_1998", "lenet5_rgb"]

_PAPER = "LeCun et al., Gradient-based learning applied to document recognition, 1998"


class LeNet5(nn.Module):
    """Two convolutions with maximum pooling, then three dense layers; 32x32 pictures.

    Every map of the second convolution sees all maps of the first. The first dense layer is the convolution
    ``c5``, which covers the whole 5x5 map.
    """

    def __init__(self, num_classes: int = 10, channels: int = 1) -> None:
        self.c1 = nn.Conv2d(channels, 6, 5)
        self.c3 = nn.Conv2d(6, 16, 5)
        self.c5 = nn.Conv2d(16, 120, 5)
        self.f6 = nn.Linear(120, 84)
        self.f7 = nn.Linear(84, num_classes)
        self.pool = nn.MaxPool2d(2)
        self.flatten = nn.Flatten()

    def forward(self, x: Any) -> Any:
        x = self.pool(nn.activated(self.c1, "relu", x))  # 28x28x6 -> 14x14x6
        x = self.pool(nn.activated(self.c3, "relu", x))  # 10x10x16 -> 5x5x16
        x = self.flatten(nn.activated(self.c5, "relu", x))
        return self.f7(nn.activated(self.f6, "relu", x))


# --- 1998 ------------------------------------------------------------------------------------------

# Table I of the paper: the maps of S2 that each map of C3 sees, 60 connections.
_C3 = (
    "012", "123", "234", "345", "045", "015",
    "0123", "1234", "2345", "0345", "0145", "0125", "0134", "1245", "0235",
    "012345",
)  # fmt: skip

# Digits on 7 x 12 pixels, the codes that the output units compare with (drawn anew).
_DIGITS = """
..###.. ...#... ..###.. ..###.. .....#. ####### ..###.. ####### ..###.. ..###..
.#...#. ..##... .#...#. .#...#. ....##. #...... .#...#. ......# .#...#. .#...#.
#.....# .#.#... #.....# ......# ...#.#. #...... #...... .....#. #.....# #.....#
#.....# ...#... ......# ......# ..#..#. #...... #...... .....#. #.....# #.....#
#.....# ...#... .....#. ....#.. .#...#. ####... #.###.. ....#.. .#...#. .#...##
#.....# ...#... ....#.. ..###.. #....#. ....##. ##...#. ....#.. ..###.. ..###.#
#.....# ...#... ...#... .....#. ####### ......# #.....# ...#... .#...#. ......#
#.....# ...#... ..#.... ......# .....#. ......# #.....# ...#... #.....# ......#
#.....# ...#... .#..... ......# .....#. ......# #.....# ..#.... #.....# #.....#
#.....# ...#... #...... #.....# .....#. #.....# #.....# ..#.... #.....# #.....#
.#...#. ...#... #...... .#...#. .....#. .#...#. .#...#. .#..... .#...#. .#...#.
..###.. .#####. ####### ..###.. .....#. ..###.. ..###.. .#..... ..###.. ..###..
"""


def _codes(num_classes: int) -> np.ndarray:
    """Codes of +1 and -1, (classes, 84): pictures of the ten digits, or random ones for more or fewer."""
    if num_classes == 10:
        rows = [line.split() for line in _DIGITS.split("\n") if line]
        digits = ["".join(row[i] for row in rows) for i in range(10)]
        return np.array([[1.0 if c == "#" else -1.0 for c in digit] for digit in digits], np.float32)
    rng = np.random.default_rng(1998)
    return (rng.integers(0, 2, (num_classes, 84)) * 2 - 1).astype(np.float32)


class ScaledTanh(nn.Module):
    """1.7159 tanh(2 x / 3), which maps 1 to 1 and -1 to -1."""

    def forward(self, x: Any) -> Any:
        return ops.mul(ops.tanh(ops.mul(x, 2 / 3)), 1.7159)


class SubSampling(nn.Module):
    """Sums of 2x2 windows times a coefficient plus a bias, one of each per channel.

    Attributes
    ----------
    weight, bias : Parameter, shape (channels,)
    """

    def __init__(self, channels: int) -> None:
        self.weight = nn.Parameter((channels,), "torch_uniform", (4, 4))
        self.bias = nn.Parameter((channels,), "zeros")

    def forward(self, x: Any) -> Any:
        sums = ops.mul(ops.avg_pool2d(x, 2), 4.0)
        return ops.add(ops.mul(sums, self.weight), self.bias)


class TableConv2d(nn.Module):
    """A convolution whose output channels see only some input channels each.

    Parameters
    ----------
    channels : int
    table : sequence of str
        For every filter the digits of the channels that it sees.
    kernel : int

    Attributes
    ----------
    weight : Parameter, shape (kernel, kernel, connections)
        The connections of the first filter first.
    bias : Parameter, shape (filters,)
    """

    def __init__(self, channels: int, table: tuple[str, ...], kernel: int) -> None:
        connections = [(int(c), filter) for filter, seen in enumerate(table) for c in seen]
        fan = kernel * kernel * len(connections)
        self.shape = (kernel, kernel, channels, len(table))
        self.weight = nn.Parameter(
            (kernel, kernel, len(connections)), "torch_uniform", (fan // len(table), fan // channels)
        )
        self.bias = nn.Parameter((len(table),), "zeros")
        place = np.zeros((len(connections), channels, len(table)), np.float32)
        for i, (channel, filter) in enumerate(connections):
            place[i, channel, filter] = 1
        self.place = place.reshape(len(connections), -1)

    def forward(self, x: Any) -> Any:
        place = self.place.astype(x.dtype, copy=False)
        weight = ops.reshape(ops.linear(self.weight, place), self.shape)
        return ops.conv2d(x, weight, self.bias)

    def extra_repr(self) -> str:
        return f"{self.shape[2]} -> {self.shape[3]}, {self.weight.shape[2]} connections"


class RadialBasis(nn.Module):
    """Squared Euclidean distances to fixed codes: the smallest output names the class.

    Attributes
    ----------
    codes : ndarray, shape (classes, features), a buffer of +1 and -1
    """

    def __init__(self, codes: np.ndarray) -> None:
        self.register_buffer("codes", codes)

    def forward(self, x: Any) -> Any:
        classes, features = self.codes.shape
        away = ops.add(ops.reshape(x, (-1, 1, features)), -self.codes)
        sums = ops.linear(ops.mul(away, away), np.ones((features, 1), self.codes.dtype))
        return ops.reshape(sums, (-1, classes))


class LeNet5Original(nn.Module):
    """LeNet-5 as published.

    Partial connections in C3, trainable sub-sampling, scaled tanh, radial-basis output.
    The result is a penalty per class, not a score: the smallest one wins.
    """

    def __init__(self, num_classes: int = 10) -> None:
        uniform = "torch_uniform"  # the paper draws within 2.4 / fan_in
        self.c1 = nn.Conv2d(1, 6, 5, init=uniform)
        self.s2 = SubSampling(6)
        self.c3 = TableConv2d(6, _C3, 5)
        self.s4 = SubSampling(16)
        self.c5 = nn.Conv2d(16, 120, 5, init=uniform)
        self.f6 = nn.Linear(120, 84, init=uniform)
        self.output = RadialBasis(_codes(num_classes))
        self.squash = ScaledTanh()
        self.flatten = nn.Flatten()

    def forward(self, x: Any) -> Any:
        squash = self.squash
        x = squash(self.s2(squash(self.c1(x))))
        x = squash(self.s4(squash(self.c3(x))))
        x = self.flatten(squash(self.c5(x)))
        return self.output(squash(self.f6(x)))


@register_model(
    input_size=(32, 32, 1),
    reference=_PAPER,
    weights={
        "fashion_mnist": Pretrained(
            file="lenet5_fashion_mnist.safetensors",
            mean=(0.286,),
            std=(0.353,),
            input_size=(32, 32),
            resize=32,
            classes="fashion_mnist",
            licence="MIT",
            accuracy={"top1": 91.33},
        )
    },
)
def lenet5(num_classes: int = 10) -> nn.Module:
    """LeNet-5 in its modern form: ReLU, maximum pooling, full connections, scores; 61,706 parameters."""
    return LeNet5(num_classes)


@register_model(input_size=(32, 32, 3), reference=_PAPER)
def lenet5_rgb(num_classes: int = 10) -> nn.Module:
    """The same for colour pictures, 62,006 parameters."""
    return LeNet5(num_classes, channels=3)


@register_model(input_size=(32, 32, 1), reference=_PAPER)
def lenet5_1998(num_classes: int = 10) -> nn.Module:
    """LeNet-5 as published, 60,000 trainable parameters; gives penalties."""
    return LeNet5Original(num_classes)
