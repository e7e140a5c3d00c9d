"""Moves, choices and conversions on a device, against NumPy bit by bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from device_checks import given, near

import cnnfast as cf
from cnnfast import ops
from cnnfast.cuda import asarray

TYPES = ["float32", "float16", "int64", "uint8"]


def _same(got: Any, wanted: np.ndarray) -> None:
    assert got.dtype == wanted.dtype
    assert got.shape == wanted.shape
    np.testing.assert_array_equal(got.numpy(), wanted)


@pytest.mark.parametrize("dtype", TYPES)
def test_transpose(device: Any, rng: np.random.Generator, dtype: str) -> None:
    cases: list[tuple[tuple[int, ...], Any]] = [
        ((2, 7, 5, 17), (0, 3, 1, 2)),
        ((2, 17, 5, 8), (0, 2, 3, 1)),
        ((40, 70), None),
        ((3, 33, 64), (0, 2, 1)),
        ((2, 3, 4), (2, 0, 1)),
        ((3, 1, 4), (1, 0, 2)),
        ((2, 3, 4), (0, 1, 2)),
        ((0, 3), None),
    ]
    for shape, axes in cases:
        x = rng.integers(0, 200, shape).astype(dtype)
        _same(ops.transpose(asarray(x), axes), ops.transpose(x, axes))


@pytest.mark.parametrize("dtype", TYPES)
def test_slices(device: Any, rng: np.random.Generator, dtype: str) -> None:
    x = rng.integers(0, 200, (4, 7, 5, 16)).astype(dtype)
    for index in [
        (slice(None), slice(1, 6, 2)),
        (..., slice(4, 12)),
        (..., slice(3, 4)),
        (2, slice(None, None, -1), -1),
        (slice(3, 1),),
        (slice(None, None, -2), ..., slice(None, None, -1)),
    ]:
        _same(ops.take(asarray(x), index), ops.take(x, index))


@pytest.mark.parametrize("dtype", TYPES)
def test_repetition_and_picking(device: Any, rng: np.random.Generator, dtype: str) -> None:
    x = rng.integers(0, 200, (3, 1, 8)).astype(dtype)
    _same(ops.expand(asarray(x), (2, 1, 5, 1)), ops.expand(x, (2, 1, 5, 1)))
    _same(ops.tile(asarray(x), (2, 3, 2)), ops.tile(x, (2, 3, 2)))
    indices = np.array([[2, -1], [0, 0]])
    _same(ops.gather(asarray(x), indices), ops.gather(x, indices))
    _same(ops.gather(asarray(x), asarray(indices), 2), ops.gather(x, indices, 2))
    with pytest.raises(cf.errors.ShapeError, match="indices must be from -3 to 2"):
        ops.gather(asarray(x), np.array([3]))
    _same(ops.depth_to_space(asarray(x[None]), 2), ops.depth_to_space(x[None], 2))
    _same(ops.reshape(asarray(x), (4, -1)), x.reshape(4, -1))


def test_concat(device: Any, rng: np.random.Generator) -> None:
    for shapes, axis in [
        ([(2, 3, 16), (2, 3, 4), (2, 3, 1)], -1),
        ([(2, 3, 5), (2, 1, 5)], 1),
        ([(2, 0), (2, 3)], 1),
        ([(1, 4), (3, 4)], 0),
    ]:
        parts = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
        _same(ops.concat([asarray(p) for p in parts], axis), np.concatenate(parts, axis))


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_padding_and_its_gradient(device: Any, rng: np.random.Generator, mode: str) -> None:
    gradient = ops.OPERATORS["pad2d_grad"]
    for shape, padding in [
        ((2, 4, 5, 16), 1),
        ((1, 7, 5, 17), ((2, 3), (0, 4))),
        ((1, 3, 4, 3), ((2, 1), (3, 3))),
        ((2, 4, 4, 8), 0),
        ((0, 3, 3, 2), 1),
    ]:
        x = rng.integers(-9, 9, shape).astype(np.float32)
        value = 0.5 if mode == "zeros" else 0.0
        wanted = ops.pad2d(x, padding, mode=mode, value=value)
        _same(ops.pad2d(asarray(x), padding, mode=mode, value=value), wanted)
        g = rng.integers(-9, 9, wanted.shape).astype(np.float32)
        spec = gradient.infer(g.shape, shape, padding, mode)
        _same(gradient(spec, asarray(g)), gradient.reference(spec, g))


def test_padding_of_short_types(device: Any) -> None:
    x = asarray(np.arange(48, dtype=np.float32).reshape(1, 3, 2, 8), "bfloat16")
    y = ops.pad2d(x, 1, mode="reflect" if x.shape[2] > 1 else "zeros")
    np.testing.assert_array_equal(y.numpy(), np.pad(x.numpy(), ((0, 0), (1, 1), (1, 1), (0, 0)), "reflect"))


@pytest.mark.parametrize("name", ["equal", "greater", "less"])
def test_comparisons(device: Any, rng: np.random.Generator, name: str) -> None:
    for a_shape, b_shape in [((2, 3, 17), (2, 3, 17)), ((2, 1, 5), (4, 1)), ((3,), (2, 3)), ((0, 2), (2,))]:
        for dtype in ("float32", "int64", "int32"):
            a, b = rng.integers(0, 3, a_shape).astype(dtype), rng.integers(0, 3, b_shape).astype(dtype)
            if dtype == "float32" and a.size:
                a.flat[0] = np.nan
            _same(getattr(ops, name)(asarray(a), asarray(b)), getattr(ops, name)(a, b))
    x = rng.standard_normal(9).astype(np.float32)
    _same(ops.greater(asarray(x), 0.5), x > 0.5)
    _same(ops.logical_not(asarray(x > 0)), ~(x > 0))


@pytest.mark.parametrize("dtype", ["float32", "int64", "bool"])
def test_where(device: Any, rng: np.random.Generator, dtype: str) -> None:
    for shapes in [
        ((2, 3, 5), (2, 3, 5), (2, 3, 5)),
        ((2, 1, 5), (3, 1), (4, 1, 1, 1)),
        ((3,), (1,), (2, 3)),
    ]:
        condition = rng.integers(0, 2, shapes[0]).astype(bool)
        a, b = (rng.integers(0, 9, shape).astype(dtype) for shape in shapes[1:])
        _same(ops.where(asarray(condition), asarray(a), asarray(b)), np.where(condition, a, b))
    if dtype == "float32":
        _same(ops.where(asarray(condition), asarray(a), 0.5), np.where(condition, a, np.float32(0.5)))


def test_casts(device: Any, rng: np.random.Generator) -> None:
    for source in ("float32", "int64", "int32", "uint8", "bool"):
        x = (rng.integers(0, 100, (3, 7)) * (0.7 if source == "float32" else 1)).astype(source)
        for target in ("float32", "int64", "int32", "uint8", "bool"):
            _same(ops.cast(asarray(x), target), x.astype(target))
    x = np.array([-1.5, 0, 2.5], np.float32)
    _same(ops.cast(asarray(x), "int64"), x.astype(np.int64))
    _same(ops.cast(asarray(x), "bool"), x != 0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", ["relu", "relu6", "leaky_relu", "sigmoid", "tanh", "silu", "hard_swish"])
def test_gradients_of_activations(device: Any, rng: np.random.Generator, name: str, dtype: str) -> None:
    for shape in [(2, 4, 4, 16), (1, 7, 3, 17), (0, 3)]:
        (g, wide_g), (v, wide_v) = given(rng, shape, dtype), given(rng, shape, dtype)
        wanted = ops.activation_grad(wide_g, wide_v, name)
        near(ops.activation_grad(g, v, name), wanted, dtype, 16, abs(wanted) + abs(wide_g))
    g, v = np.full(4, np.inf, np.float32), np.array([-1, 0, 1, np.nan], np.float32)
    if name == "relu":
        np.testing.assert_array_equal(
            ops.activation_grad(asarray(g), asarray(v), name).numpy(), ops.activation_grad(g, v, name)
        )


def test_gradients_of_slices_and_picking(device: Any, rng: np.random.Generator) -> None:
    gradient = ops.OPERATORS["slice_grad"]
    for index, dropped in [
        (((1, 6, 2), (0, 5, 1)), ()),
        (((6, -1, -3), (4, 5, 1)), (1,)),
        (((3, 3, 1), (0, 5, 1)), ()),
    ]:
        shape = ops.OPERATORS["slice"].infer((7, 5), index, dropped).out
        g = rng.integers(-9, 9, shape).astype(np.float32)
        spec = gradient.infer(shape, (7, 5), index, dropped)
        _same(gradient(spec, asarray(g)), gradient.reference(spec, g))
    gradient = ops.OPERATORS["gather_grad"]
    indices = np.array([[2, -1, 0], [0, 0, 2]])
    g = rng.integers(-9, 9, (4, 2, 3, 5)).astype(np.float32)
    spec = gradient.infer(g.shape, indices.shape, (4, 3, 5), 1)
    _same(gradient(spec, asarray(g), asarray(indices)), gradient.reference(spec, g, indices))
