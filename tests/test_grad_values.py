"""Gradients at corners, ties, infinities and NaN, and of arrays without elements."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cnnfast as cf
from cnnfast import ops
from cnnfast.errors import ShapeError
from cnnfast.ops.local_response_norm import infer_local_response_norm_grad
from cnnfast.ops.pad import infer_pad2d_grad
from cnnfast.ops.resize import infer_resize_grad

INF, NAN = np.inf, np.nan


def gradient(f: Callable[..., Any], x: Any, dtype: Any = np.float32) -> list[float]:
    tensor = cf.Tensor(np.array(x, dtype), requires_grad=True)
    y = f(tensor)
    y.backward(np.ones(y.shape, y.dtype))
    return tensor.grad.tolist()


CORNERS: dict[str, tuple[Callable[..., Any], list[float], list[float]]] = {
    "relu": (ops.relu, [-1, 0, 2], [0, 0, 1]),
    "relu6": (ops.relu6, [0, 3, 6, 7], [0, 1, 0, 0]),
    "leaky_relu": (lambda x: ops.leaky_relu(x, slope=0.5), [-1, 2], [0.5, 1]),
    "hard_swish": (ops.hard_swish, [-4, -3, 3, 4], [0, 0, 1, 1]),
    "hard_sigmoid": (lambda x: ops.hard_sigmoid(x, alpha=0.5, beta=0.5), [-1, 0, 1], [0, 0.5, 0]),
    "clip": (lambda x: ops.clip(x, -1, 1), [-2, -1, 0, 1, 2], [0, 1, 1, 1, 0]),
    "abs": (ops.abs, [-2, 0, 2], [-1, 0, 1]),
    "floor": (ops.floor, [0, 0.5], [0, 0]),
    "maximum": (lambda x: ops.maximum(x, 1.0), [0, 1, 2], [0, 0.5, 1]),
    "minimum": (lambda x: ops.minimum(x, 1.0), [0, 1, 2], [1, 0.5, 0]),
    "reduce_max": (ops.reduce_max, [2, 1, 2], [0.5, 0, 0.5]),
    "reduce_min": (ops.reduce_min, [1, 1, 2], [0.5, 0.5, 0]),
    "reduce_l2": (ops.reduce_l2, [0, 0], [0, 0]),
    "topk": (lambda x: ops.topk(x, 1)[0], [3, 3, 1], [1, 0, 0]),
    "sigmoid": (ops.sigmoid, [-INF, -1000, 1000, INF], [0, 0, 0, 0]),
    "tanh": (ops.tanh, [-INF, -50, 50, INF], [0, 0, 0, 0]),
    "silu": (ops.silu, [-INF, -1000, 1000, INF], [0, 0, 1, 1]),
    "pow": (lambda x: ops.pow(x, 0.0), [0, 3], [0, 0]),
}


@pytest.mark.parametrize("name", CORNERS)
def test_corners_and_limits(backend: str, name: str) -> None:
    function, at, expected = CORNERS[name]
    assert gradient(function, at) == expected
    assert gradient(function, at, np.float64) == expected


def test_max_pooling_gives_to_the_first(backend: str) -> None:
    x = np.zeros((1, 2, 4, 1), np.float32)
    tensor = cf.Tensor(x, requires_grad=True)
    y = ops.max_pool2d(tensor, 2)
    y.backward(np.ones(y.shape, np.float32))
    assert tensor.grad[0, :, :, 0].tolist() == [[1, 0, 1, 0], [0, 0, 0, 0]]
    tensor.grad = None
    ops.reduce_sum(ops.global_max_pool2d(tensor)).backward()
    assert np.argwhere(tensor.grad).tolist() == [[0, 0, 0, 0]]


@pytest.mark.parametrize(
    "function", [ops.sigmoid, ops.tanh, ops.silu, ops.exp, ops.softmax, ops.log_softmax, ops.l2_normalize]
)
def test_nan_is_not_lost(backend: str, function: Callable[..., Any]) -> None:
    assert np.isnan(gradient(function, [NAN, 1.0])[0])


def test_softmax_far_from_zero(backend: str) -> None:
    x = [1000.0, 999.0, -1000.0]
    for function in (ops.softmax, ops.log_softmax):
        assert np.isfinite(gradient(lambda x, f=function: ops.take(f(x), 0), x)).all()


SHAPES: dict[str, tuple[Callable[..., Any], tuple[int, ...]]] = {
    "add": (lambda x: x + np.ones((0, 3), np.float32), (1, 3)),
    "relu": (ops.relu, (0, 3)),
    "reduce_sum": (ops.reduce_sum, (0, 3)),
    "reshape": (lambda x: x.reshape(3, 0), (0, 3)),
    "concat": (lambda x: ops.concat([x, np.ones((2, 3), np.float32)], 0), (0, 3)),
    "pad2d": (lambda x: ops.pad2d(x, 1), (0, 3, 3, 2)),
    "circular": (lambda x: ops.pad2d(x, 1, mode="circular"), (2, 3, 3, 0)),
    "resize": (lambda x: ops.resize(x, 7), (0, 3, 3, 2)),
    "local_response_norm": (ops.local_response_norm, (2, 0)),
    "box_iou": (lambda x: ops.box_iou(x, np.ones((3, 4), np.float32)), (0, 4)),
    "roi_align": (lambda x: ops.roi_align(x, np.ones((0, 5), np.float32), 2), (1, 3, 3, 2)),
    "gather": (lambda x: ops.gather(x, np.zeros((0,), int)), (2, 3)),
    "matmul": (lambda x: ops.matmul(x, np.ones((0, 2), np.float32)), (3, 0)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_nothing_has_a_gradient_too(backend: str, name: str) -> None:
    function, shape = SHAPES[name]
    tensor = cf.Tensor(np.ones(shape, np.float32), requires_grad=True)
    y = function(tensor)
    y.backward(np.ones(y.shape, np.float32))
    assert tensor.grad.shape == shape
    assert not tensor.grad.any() or y.data.size


def test_shapes_of_gradients_are_checked() -> None:
    calls: list[tuple[Callable[..., Any], tuple[Any, ...], str]] = [
        (infer_pad2d_grad, ((1, 4, 4, 1), (1, 4, 4, 1), 1), "pad2d_grad: .*padded pictures"),
        (infer_resize_grad, ((2, 4, 4, 1), (1, 3, 3, 1)), "resize_grad: .*resized pictures"),
        (infer_local_response_norm_grad, ((2, 3), (3, 2)), "local_response_norm_grad: .*shape of x"),
    ]
    for infer, arguments, message in calls:
        with pytest.raises(ShapeError, match=message):
            infer(*arguments)
