"""Convolutions and poolings that read and write channels in the middle of wider pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cnnfast as cf
from cnnfast import graph as G
from cnnfast import ops
from test_engine import Wired, close

pytestmark = pytest.mark.usefixtures("native")


def weight(*shape: int) -> np.ndarray:
    values = np.random.default_rng(1).standard_normal(shape) / np.sqrt(np.prod(shape[:-1]))
    return values.astype(np.float32)


KINDS: dict[str, Callable[[Any, int], Any]] = {
    "pointwise": lambda x, c: ops.conv2d(x, weight(1, 1, c, 24), weight(24), activation="relu"),
    "pointwise, thin": lambda x, c: ops.conv2d(x, weight(1, 1, c, 3), weight(3), activation="silu"),
    "pointwise, one column": lambda x, c: ops.conv2d(x, weight(1, 1, c, 1)),
    "pointwise, strided": lambda x, c: ops.conv2d(
        x, weight(1, 1, c, 17), stride=(2, 1), padding=((1, 1), (0, 0))
    ),
    "kernel": lambda x, c: ops.conv2d(x, weight(5, 3, c, 33), weight(33), padding=(2, 1), activation="tanh"),
    "strided": lambda x, c: ops.conv2d(x, weight(3, 3, c, 32), stride=2, padding=1),
    "dilated": lambda x, c: ops.conv2d(x, weight(3, 3, c, 16), dilation=(2, 3), padding=(2, 3)),
    "groups": lambda x, c: ops.conv2d(x, weight(3, 3, c // 2, 36), groups=2, padding=1),
    "groups of four": lambda x, c: ops.conv2d(x, weight(3, 3, 4, c), groups=c // 4, padding=1),
    "Winograd": lambda x, c: ops.conv2d(x, weight(3, 3, c, 48), weight(48), padding=1, activation="relu6"),
    "transpose": lambda x, c: ops.conv2d_transpose(x, weight(2, 2, 20, c), weight(20), stride=2),
    "transpose, gaps": lambda x, c: ops.conv2d_transpose(x, weight(2, 1, 20, c), weight(20), stride=3),
    "transpose, groups": lambda x, c: ops.conv2d_transpose(x, weight(3, 3, 10, c), stride=2, groups=2),
    "maximum": lambda x, c: ops.max_pool2d(x, 3, stride=2, padding=1),
    "maximum, large": lambda x, c: ops.max_pool2d(x, (5, 4), stride=1),
    "average": lambda x, c: ops.avg_pool2d(x, 2, stride=1, padding=1),
    "average, large": lambda x, c: ops.avg_pool2d(x, 7, stride=3, padding=3, count_include_pad=False),
    "whole, average": lambda x, c: ops.global_avg_pool2d(x),
    "whole, maximum": lambda x, c: ops.global_max_pool2d(x),
    "depthwise": lambda x, c: ops.depthwise_conv2d(x, weight(3, 3, c, 1), padding=1),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [4, 17, 40])
@pytest.mark.parametrize("size", [(13, 11), (40, 41)])
def test_parts_of_pixels(kind: str, channels: int, size: tuple[int, int], rng: np.random.Generator) -> None:
    if "groups" in kind and channels % 2:
        pytest.skip("an odd number of channels")

    def function(x: Any) -> Any:
        a = ops.relu(x)  # so that the part is of a value of the arena
        one = KINDS[kind](a[..., 5 : 5 + channels], channels)
        other = KINDS[kind](a[..., 9 : 9 + channels], channels)
        pooled = ops.max_pool2d(one, 1)
        return ops.concat([pooled, one, ops.avg_pool2d(other, 1), other]), a, ops.max_pool2d(a[..., 5:], 2)

    model = Wired(function)
    x = rng.standard_normal((2, *size, channels + 12)).astype(np.float32)
    close(cf.compile(model)(x), G.interpret(G.trace(model, x.shape), x, native=True), 1e-5)


@pytest.mark.parametrize("other", [16, 5])
def test_results_past_the_caches(other: int, rng: np.random.Generator) -> None:
    """Large joins, whose parts begin at whole vectors or not."""

    def function(x: Any) -> Any:
        return ops.concat([
            ops.conv2d(x, weight(1, 1, 16, other)), ops.conv2d(x, weight(1, 1, 16, 64)),
            ops.conv2d(x, weight(2, 2, 16, 32), padding=((1, 0), (0, 1))), ops.max_pool2d(x, 1),
        ])  # fmt: skip

    model = Wired(function)
    x = rng.standard_normal((1, 260, 250, 16)).astype(np.float32)
    close(cf.compile(model)(x), G.interpret(G.trace(model, x.shape), x, native=True), 1e-5)
