"""Generic operators against NumPy: elementwise, reductions, picking, rearranging, instance norm, matmul."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cnnfast as cf
from cnnfast import graph, nn, ops
from cnnfast.errors import DTypeError, ShapeError

F32 = np.float32


class Calls(nn.Module):
    """A module around a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def forward(self, *inputs: Any) -> Any:
        return self.function(*inputs)


def same_when_traced(function: Callable[..., Any], *inputs: np.ndarray) -> Any:
    """Call on arrays; the graph of the same calls must give the same, in shape and type too."""
    module = Calls(function)
    eager = module(*inputs)
    traced = graph.trace(module, *[x.shape for x in inputs], dtype=inputs[0].dtype)
    for native in (True, False):
        results = graph.interpret(traced, *inputs, native=native)
        pairs = list(zip(eager, results, strict=True)) if isinstance(eager, tuple) else [(eager, results)]
        for one, other in pairs:
            assert one.dtype == other.dtype
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)
        for (one, _), value in zip(pairs, traced.outputs, strict=True):
            assert value.shape == one.shape
            assert value.dtype == one.dtype
    return eager


UNARY: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "neg": (ops.neg, lambda x: -x),
    "abs": (ops.abs, np.abs),
    "sqrt": (ops.sqrt, np.sqrt),
    "exp": (ops.exp, np.exp),
    "log": (ops.log, np.log),
    "reciprocal": (ops.reciprocal, lambda x: 1 / x),
    "floor": (ops.floor, np.floor),
    "ceil": (ops.ceil, np.ceil),
    "erf": (ops.erf, lambda x: np.array([math.erf(v) for v in x.ravel()], x.dtype).reshape(x.shape)),
    "clip": (lambda x: ops.clip(x, -0.5, 1.5), lambda x: np.clip(x, -0.5, 1.5)),
    "clip below": (lambda x: ops.clip(x, low=0), lambda x: np.maximum(x, 0)),
    "elu": (lambda x: ops.elu(x, alpha=0.7), lambda x: np.where(x < 0, 0.7 * (np.exp(x) - 1), x)),
    "hard_sigmoid": (
        lambda x: ops.hard_sigmoid(x, alpha=0.2, beta=0.4),
        lambda x: np.clip(0.2 * x + 0.4, 0, 1),
    ),
}


@pytest.mark.parametrize("name", UNARY)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_unary(backend, rng, name, dtype):
    ours, numpy = UNARY[name]
    x = np.concatenate([rng.normal(0, 2, 60), [0.0, np.nan, np.inf, -np.inf]]).reshape(2, 4, 8).astype(dtype)
    y = same_when_traced(ours, x)
    with np.errstate(all="ignore"):
        expected = numpy(x.astype(np.float64))
    assert y.dtype == dtype
    np.testing.assert_allclose(y, expected, rtol=1e-5 if dtype == F32 else 1e-12, atol=1e-7)


@pytest.mark.parametrize("name", UNARY)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_unary_without_axes(backend, name, dtype):
    y = same_when_traced(UNARY[name][0], np.array(0.75, dtype))
    assert y.shape == ()
    np.testing.assert_allclose(y, UNARY[name][1](np.array(0.75)), rtol=1e-6)


def test_unary_whole_numbers_and_bools():
    x = np.array([-3, 0, 7], np.int64)
    assert ops.neg(x).tolist() == [3, 0, -7]
    assert ops.abs(x).dtype == np.int64
    assert ops.clip(x, -1.5, 2.5).tolist() == [-1, 0, 2]
    assert ops.clip(x).tolist() == x.tolist()
    assert ops.logical_not(np.array([True, False])).tolist() == [False, True]
    for call in (lambda: ops.exp(x), lambda: ops.logical_not(x), lambda: ops.sqrt(np.array(["a"]))):
        with pytest.raises(DTypeError):
            call()
    with pytest.raises(ShapeError, match="NaN"):
        ops.clip(x, math.nan)


def test_clip_bounds_beyond_the_type():
    x = np.array([0, 3, 255], np.uint8)
    inf = math.inf
    for low, high, expected in (
        (-1, 256, [0, 3, 255]),
        (-inf, 2.5, [0, 2, 2]),
        (2, inf, [2, 3, 255]),
        (300, inf, [255, 255, 255]),
        (-inf, -5, [0, 0, 0]),
        (-inf, -inf, [0, 0, 0]),
        (inf, inf, [255, 255, 255]),
    ):
        y = ops.clip(x, low, high)
        assert y.dtype == np.uint8
        assert y.tolist() == expected
    most = np.array([(1 << 64) - 1], np.uint64)
    assert ops.clip(most, 0).tolist() == most.tolist()


X = np.zeros((2, 3), F32)
RAGGED = [[1.0], [1.0, 2.0]]
ODD: dict[str, tuple[Callable[[], Any], str]] = {
    "ragged array": (lambda: ops.abs(RAGGED), "abs: x is not a rectangular array"),
    "ragged operand": (lambda: ops.sub(X, RAGGED), "sub: y is not a rectangular array"),
    "ragged view": (lambda: ops.reshape(RAGGED, -1), "reshape: x is not a rectangular array"),
    "ragged indices": (lambda: ops.gather(X, [[0], [0, 1]]), "gather: indices is not a rectangular array"),
    "ragged labels": (
        lambda: ops.softmax_cross_entropy(X, [[0], [0, 1]]),
        "softmax_cross_entropy: labels is not a rectangular array",
    ),
    "one axis": (lambda: ops.transpose(X, 1), "transpose: axes must be a list, got 1"),
    "one part": (lambda: ops.split(X, 3), "split: sizes must be a list, got 3"),
    "part below nothing": (lambda: ops.split(X, [-1, 4]), "split: a size must be at least 0, got -1"),
    "array as index": (lambda: ops.take(X, np.array([0, 1])), "take: expected whole numbers and slices"),
    "truth as index": (lambda: ops.take(X, True), "take: expected whole numbers and slices, got True"),
    "step of nothing": (lambda: ops.take(X, slice(None, None, 0)), "take: expected whole numbers and slices"),
    "list as activation": (lambda: ops.linear(X, X.T, activation=["relu"]), "linear: activation must be one"),
    "no anchors": (lambda: ops.yolo_candidates([X], None, 1, 8), "yolo_candidates: anchors must be a list"),
    "long value": (lambda: ops.softmax(X, list(range(1000))), r"axis must be a whole number, got .{80}$"),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_arguments(backend, name):
    call, message = ODD[name]
    with pytest.raises(ShapeError, match=message):
        call()


def test_cast_to_nonsense(backend):
    with pytest.raises(DTypeError, match="cast: expected an element type, got"):
        ops.cast(X, object())


PAIRS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "sub": (ops.sub, np.subtract),
    "div": (ops.div, np.divide),
    "pow": (lambda a, b: ops.pow(ops.abs(a), b), lambda a, b: np.power(np.abs(a), b)),
    "maximum": (ops.maximum, np.maximum),
    "minimum": (ops.minimum, np.minimum),
    "equal": (ops.equal, np.equal),
    "greater": (ops.greater, np.greater),
    "less": (ops.less, np.less),
}
SHAPES = [
    ((2, 3, 4, 5), (2, 3, 4, 5)),
    ((2, 3, 4, 5), (5,)),
    ((1, 4, 1), (3, 1, 5)),
    ((3,), ()),
    ((0, 3), (1, 3)),
]


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("shapes", SHAPES)
def test_pairs(backend, rng, name, shapes):
    ours, numpy = PAIRS[name]
    a, b = (rng.integers(-3, 4, shape).astype(F32) for shape in shapes)
    y = same_when_traced(ours, a, b)
    with np.errstate(all="ignore"):
        expected = numpy(a, b)
    assert y.dtype == expected.dtype
    np.testing.assert_allclose(y, expected, rtol=1e-6)


def test_pairs_with_numbers_and_operators_of_tensors(backend):
    x = np.array([[1.0, -2.0]], F32)
    np.testing.assert_array_equal(ops.sub(1, x), 1 - x)
    np.testing.assert_array_equal(ops.sub(x, 2.5), x - F32(2.5))
    assert ops.sub(np.array([5], np.int32), 2).dtype == np.int32
    y = same_when_traced(lambda t: (-t - 1.0) / 2.0 + (3.0 - t) + 1.0 / t, x)
    np.testing.assert_allclose(y, (-x - 1) / 2 + (3 - x) + 1 / x)
    with pytest.raises(DTypeError):
        ops.sub(np.array([5], np.int32), 2.5)
    with pytest.raises(DTypeError):
        ops.sub(x, x.astype(np.float64))
    with pytest.raises(DTypeError):
        ops.div(np.array([5]), np.array([2]))
    with pytest.raises(ShapeError, match="do not broadcast"):
        ops.maximum(x, np.zeros((2, 3), F32))
    with pytest.raises(ShapeError, match="beyond"):
        ops.sub(np.array([5], np.int8), 1000)


def test_prelu(backend, rng):
    x, slope = rng.normal(size=(2, 3, 4, 5)).astype(F32), rng.normal(size=5).astype(F32)
    np.testing.assert_allclose(same_when_traced(ops.prelu, x, slope), np.where(x < 0, x * slope, x))
    with pytest.raises(ShapeError, match="slope"):
        ops.prelu(slope, x)


def test_where_and_cast(backend, rng):
    x, y = rng.normal(size=(2, 3)).astype(F32), rng.normal(size=(1, 3)).astype(F32)
    got = same_when_traced(lambda a, b: ops.where(ops.greater(a, b), a, b), x, y)
    np.testing.assert_array_equal(got, np.maximum(x, y))
    got = same_when_traced(lambda a: ops.where(ops.less(a, 0), 0, a), x)
    np.testing.assert_array_equal(got, np.maximum(x, 0))
    whole = same_when_traced(lambda a: ops.cast(ops.mul(a, 10.0), np.int64), x)
    np.testing.assert_array_equal(whole, np.trunc(x * 10))
    assert ops.cast(np.array([True, False]), "float32").tolist() == [1.0, 0.0]
    for wrong in (np.complex64, np.float16, "datetime64[s]"):
        with pytest.raises(DTypeError):
            ops.cast(x, wrong)
    with pytest.raises(DTypeError):
        ops.where(x, x, x)


REDUCTIONS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "sum": (ops.reduce_sum, np.sum),
    "mean": (ops.reduce_mean, np.mean),
    "max": (ops.reduce_max, np.max),
    "min": (ops.reduce_min, np.min),
    "l2": (ops.reduce_l2, lambda x, axis, keepdims: np.sqrt(np.sum(x * x, axis, keepdims=keepdims))),
}


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize("axes", [None, 0, -1, (1, 2), (0, 3), ()])
@pytest.mark.parametrize("keepdims", [False, True])
def test_reductions(backend, rng, name, axes, keepdims):
    ours, numpy = REDUCTIONS[name]
    x = rng.normal(size=(2, 3, 4, 5)).astype(F32)
    y = same_when_traced(lambda t: ours(t, axes, keepdims=keepdims), x)
    expected = numpy(x.astype(np.float64), axis=axes, keepdims=keepdims)
    assert y.dtype == F32
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


def test_reductions_of_whole_numbers_and_errors():
    x = np.arange(6).reshape(2, 3)
    assert ops.reduce_sum(x).dtype == x.dtype
    assert ops.reduce_max(x, 1).tolist() == [2, 5]
    assert ops.reduce_sum(np.zeros((0, 3), F32), 0).tolist() == [0, 0, 0]
    assert np.isnan(ops.reduce_max(np.array([1, np.nan], F32)))
    big = np.full(1 << 16, 0.1, F32)[:, None]
    assert abs(float(ops.reduce_sum(big)) - 6553.6) < 1e-3
    for axes in (2, (0, 0), (0, -2), 1.5, True):
        with pytest.raises(ShapeError):
            ops.reduce_sum(x, axes)
    for reduction in (ops.reduce_max, ops.reduce_min):
        with pytest.raises(ShapeError, match="no elements"):
            reduction(np.zeros((0, 3), F32), 0)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("keepdims", [False, True])
def test_argmax(backend, rng, axis, keepdims):
    x = rng.integers(0, 4, (3, 4, 5)).astype(F32)
    y = same_when_traced(lambda t: ops.argmax(t, axis, keepdims=keepdims), x)
    np.testing.assert_array_equal(y, np.argmax(x, axis=axis, keepdims=keepdims))
    assert y.dtype == np.int64


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("largest", [True, False])
def test_topk(backend, rng, axis, largest):
    x = rng.integers(0, 4, (3, 4, 5)).astype(F32)
    values, where = same_when_traced(lambda t: ops.topk(t, 2, axis, largest=largest), x)
    order = np.argsort(-x if largest else x, axis=axis, kind="stable").take([0, 1], axis=axis)
    np.testing.assert_array_equal(where, order)
    np.testing.assert_array_equal(values, np.take_along_axis(x, order, axis))
    with pytest.raises(ShapeError, match="k is 6"):
        ops.topk(x, 6)
    assert ops.topk(np.array([1, np.nan, 2], F32), 1)[1].tolist() == [1]
    assert ops.topk(np.array([0, 255], np.uint8), 1)[0].tolist() == [255]


def test_expand_tile_gather(backend, rng):
    x = rng.normal(size=(3, 1, 4)).astype(F32)
    np.testing.assert_array_equal(
        same_when_traced(lambda t: ops.expand(t, (2, 1, 5, 1)), x), np.broadcast_to(x, (2, 3, 5, 4))
    )
    np.testing.assert_array_equal(
        same_when_traced(lambda t: ops.tile(t, (2, 3, 1)), x), np.tile(x, (2, 3, 1))
    )
    assert ops.tile(np.zeros((0, 2), F32), (3, 2)).shape == (0, 4)
    index = np.array([[2, -1], [0, 1]])
    np.testing.assert_array_equal(same_when_traced(lambda t: ops.gather(t, index, 0), x), x[index])
    picked = same_when_traced(lambda t: ops.gather(t, 3, -1), x)
    np.testing.assert_array_equal(picked, x[..., 3])
    by_value = same_when_traced(lambda t: ops.gather(t, ops.argmax(t, 0), 0), x)
    np.testing.assert_array_equal(by_value, np.take(x, np.argmax(x, 0), axis=0))
    for wrong in (3, -4, 2**70):
        with pytest.raises((ShapeError, DTypeError)):
            ops.gather(x, wrong, 0)
    with pytest.raises(DTypeError):
        ops.gather(x, 1.0)
    with pytest.raises(ShapeError):
        ops.expand(x, (3, 2, 3))
    with pytest.raises(ShapeError):
        ops.tile(x, (1, 2))
    with pytest.raises(ShapeError):
        ops.expand(x, (1 << 40, 1 << 40, 1, 1))


def test_depth_and_space(backend, rng):
    x = rng.normal(size=(2, 3, 5, 8)).astype(F32)
    y = same_when_traced(lambda t: ops.depth_to_space(t, 2), x)
    assert y.shape == (2, 6, 10, 2)
    for i in range(2):
        for j in range(2):
            np.testing.assert_array_equal(y[:, i::2, j::2], x[..., (2 * i + j) * 2 : (2 * i + j) * 2 + 2])
    np.testing.assert_array_equal(same_when_traced(lambda t: ops.space_to_depth(t, 2), y), x)
    shuffled = same_when_traced(lambda t: ops.depth_to_space(t, 2, order="channel"), x)
    for i in range(2):
        for j in range(2):
            np.testing.assert_array_equal(shuffled[:, i::2, j::2], x[..., 2 * i + j :: 4])
    for call in (lambda: ops.depth_to_space(x, 3), lambda: ops.space_to_depth(x, 2)):
        with pytest.raises(ShapeError, match="cannot be split"):
            call()


def test_instance_norm(backend, rng):
    x = rng.normal(3, 2, size=(2, 5, 6, 3)).astype(F32)
    scale, shift = rng.normal(size=(2, 3)).astype(F32)
    y = same_when_traced(lambda t: ops.instance_norm(t, scale, shift, eps=1e-3), x)
    wide = x.astype(np.float64)
    mean, var = wide.mean((1, 2), keepdims=True), wide.var((1, 2), keepdims=True)
    np.testing.assert_allclose(y, (wide - mean) / np.sqrt(var + 1e-3) * scale + shift, rtol=1e-5, atol=1e-6)
    plain = ops.instance_norm(x)
    np.testing.assert_allclose(plain.mean((1, 2)), 0, atol=1e-6)
    for call in (
        lambda: ops.instance_norm(x, scale[:2]),
        lambda: ops.instance_norm(x[0, 0]),
        lambda: ops.instance_norm(x, eps=-1),
    ):
        with pytest.raises(ShapeError):
            call()


@pytest.mark.parametrize(("a", "b"), [((2, 3), (3, 4)), ((5, 2, 3), (3, 4)), ((2, 1, 2, 3), (4, 3, 1))])
def test_matmul(backend, rng, a, b):
    x, y = rng.normal(size=a).astype(F32), rng.normal(size=b).astype(F32)
    np.testing.assert_allclose(same_when_traced(ops.matmul, x, y), np.matmul(x, y), rtol=1e-5, atol=1e-6)
    with pytest.raises(ShapeError, match="columns"):
        ops.matmul(x, x.swapaxes(-1, -2)[..., :1, :])


def test_rois_can_be_traced(backend, rng):
    x = rng.normal(size=(1, 8, 8, 2)).astype(F32)
    boxes = np.array([[0, 1, 1, 6, 5]], F32)
    for op in (ops.roi_align, ops.roi_pool):
        np.testing.assert_array_equal(
            same_when_traced(lambda t, b, op=op: op(t, b, 2), x, boxes), op(x, boxes, 2)
        )
        assert isinstance(op(cf.Tensor(x), cf.Tensor(boxes), 2), cf.Tensor)
        with pytest.raises(ShapeError, match="image"):
            op(cf.Tensor(x), cf.Tensor(boxes + 1), 2)
