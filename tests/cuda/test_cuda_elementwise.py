"""Element by element on a device, against the NumPy definitions in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from device_checks import close, near

import cnnfast as cf
from cnnfast import ops
from cnnfast.cuda import asarray

DTYPES = ["float32", "bfloat16", "float16"]
# Plain, with a tail, and so short that no 16 bytes can be moved at once.
SHAPES = [(2, 4, 4, 16), (1, 7, 3, 17), (3,)]
PAIRS = [
    ((2, 4, 4, 16), (2, 4, 4, 16)),
    ((1, 7, 3, 17), (1, 7, 3, 17)),
    ((2, 3, 5, 17), (17,)),
    ((2, 3, 5, 17), (2, 1, 1, 17)),
    ((2, 1, 5, 1), (3, 1, 7)),
    # By vectors of the innermost axis: along both, repeated along one of them.
    ((2, 3, 5, 16), (2, 1, 1, 16)),
    ((3, 1, 24), (5, 24)),
    ((2, 3, 1), (3, 16)),
    ((16,), (3, 2, 1)),
    ((1,), (2, 3)),
    ((0, 3), (1, 3)),
]


def _given(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> tuple[Any, np.ndarray]:
    """A device array, and its exact values in float64."""
    x = asarray((3 * rng.standard_normal(shape)).astype(np.float32), dtype)
    return x, x.numpy().astype(np.float64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["relu", "relu6", "leaky_relu", "sigmoid", "tanh", "silu", "hard_swish"])
def test_activations(device: Any, rng: np.random.Generator, name: str, dtype: str) -> None:
    for shape in SHAPES:
        x, wide = _given(rng, shape, dtype)
        close(getattr(ops, name)(x), getattr(ops, name)(wide), dtype, 8)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["relu", "relu6", "leaky_relu", "sigmoid", "tanh", "silu", "hard_swish"])
def test_gradients_of_activations(device: Any, rng: np.random.Generator, name: str, dtype: str) -> None:
    for shape in SHAPES:
        (g, wide_g), (v, wide_v) = _given(rng, shape, dtype), _given(rng, shape, dtype)
        wanted = ops.activation_grad(wide_g, wide_v, name)
        got = ops.activation_grad(g, v, name).numpy()
        # 1 - v and its like lose digits near 1; the bound is that of the terms.
        bound = {"float32": 2.0**-20, "bfloat16": 2.0**-8, "float16": 2.0**-11}[dtype]
        assert (np.abs(got - wanted) <= bound * (1 + np.abs(wide_g)) * (1 + wide_v**2)).all()


@pytest.mark.parametrize("name", ["relu", "relu6", "sigmoid", "tanh", "silu", "hard_swish"])
def test_limits_of_activations(device: Any, name: str) -> None:
    x = np.array([-np.inf, -1e30, -100, -87.5, -0.0, 90, np.inf, np.nan], np.float32)
    with np.errstate(all="ignore"):
        wanted = getattr(ops, name)(x.astype(np.float64)).astype(np.float32)
    close(getattr(ops, name)(asarray(x)), wanted, "float32", 8)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["add", "mul", "sub", "div", "maximum", "minimum"])
def test_pairs(device: Any, rng: np.random.Generator, name: str, dtype: str) -> None:
    for a_shape, b_shape in PAIRS:
        (a, wide_a), (b, wide_b) = _given(rng, a_shape, dtype), _given(rng, b_shape, dtype)
        close(getattr(ops, name)(a, b), getattr(ops, name)(wide_a, wide_b), dtype, 2)


def test_sum_with_activation_and_numbers(device: Any, rng: np.random.Generator) -> None:
    (a, wide_a), (b, wide_b) = _given(rng, (2, 7, 17), "float32"), _given(rng, (17,), "float32")
    close(ops.add(a, b, activation="relu"), ops.add(wide_a, wide_b, activation="relu"), "float32", 2)
    close(ops.mul(a, 0.5), wide_a / 2, "float32", 1)
    close(ops.sub(1, a), 1 - wide_a, "float32", 1)


@pytest.mark.parametrize(
    "name", ["neg", "abs", "sqrt", "exp", "log", "reciprocal", "floor", "ceil", "erf", "elu"]
)
def test_functions(device: Any, rng: np.random.Generator, name: str) -> None:
    x, wide = _given(rng, (2, 7, 17), "float32")
    close(getattr(ops, name)(x), getattr(ops, name)(wide), "float32", 8)


# Numbers of those that take any, and the error of the derivative in units of rounding.
GRADIENTS: dict[str, tuple[tuple[float, ...], float]] = {
    **dict.fromkeys(("neg", "abs", "floor", "ceil"), ((), 1)),
    **dict.fromkeys(("sqrt", "exp", "log", "reciprocal"), ((), 4)),
    "clip": ((-0.5, 1.25), 1),
    "hard_sigmoid": ((0.25, 0.5), 2),
    "elu": ((0.5,), 8),
    "erf": ((), 8),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_of_functions(device: Any, rng: np.random.Generator, name: str, dtype: str) -> None:
    numbers, ulps = GRADIENTS[name]
    gradient = ops.OPERATORS["unary_grad"]
    for shape in [*SHAPES, (0, 2)]:
        (g, wide_g), (v, wide_v) = _given(rng, shape, dtype), _given(rng, shape, dtype)
        spec = gradient.infer(shape, shape, name, numbers)
        wanted = gradient(spec, wide_g, wide_v)
        # The square in the exponent of erf is rounded.
        scale = np.abs(wanted) * (1 + wide_v**2 * (name == "erf"))
        near(gradient(spec, g, v), wanted, dtype, ulps, scale)


@pytest.mark.parametrize("name", GRADIENTS)
def test_corners_of_functions(device: Any, name: str) -> None:
    """Zeros, infinities and NaN as the definition has them."""
    v = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 2.0], np.float32)
    g = np.full_like(v, -2.5)
    gradient = ops.OPERATORS["unary_grad"]
    spec = gradient.infer(v.shape, v.shape, name, GRADIENTS[name][0])
    got = gradient(spec, asarray(g), asarray(v)).numpy()
    np.testing.assert_allclose(got, gradient.reference(spec, g, v), rtol=1e-6)


KINDS = ["divisor", "base", "exponent", "larger", "smaller", "prelu", "slope"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_pairs(device: Any, rng: np.random.Generator, kind: str, dtype: str) -> None:
    gradient = ops.OPERATORS["pair_grad"]
    for shapes in PAIRS:
        a, b = (asarray(rng.uniform(0.25, 3, shape).astype(np.float32), dtype) for shape in shapes)
        wide_a, wide_b = (x.numpy().astype(np.float64) for x in (a, b))
        g, wide_g = _given(rng, np.broadcast_shapes(*shapes), dtype)
        spec = gradient.infer(g.shape, *shapes, kind)
        wanted = gradient(spec, wide_g, wide_a, wide_b)
        # Powers and logarithms: relative to their sums, as those near 1 are small.
        size = np.abs(wide_g) * (1 + np.abs(wide_a)) * (1 + np.abs(wide_b))
        scale = size if kind == "exponent" else np.abs(wanted)
        near(gradient(spec, g, a, b), wanted, dtype, 64 if kind == "base" else 8, scale)


@pytest.mark.parametrize("kind", KINDS)
def test_corners_of_pairs(device: Any, kind: str) -> None:
    """Ties, zeros of both signs, infinities and NaN as the definition has them."""
    numbers = np.array([0.0, -0.0, 1.0, -2.0, np.inf, -np.inf, np.nan], np.float32)
    a, b = numbers[:, None], numbers
    g = np.full((7, 7), -2.5, np.float32)
    gradient = ops.OPERATORS["pair_grad"]
    spec = gradient.infer(g.shape, a.shape, b.shape, kind)
    got = gradient(spec, asarray(g), asarray(a), asarray(b)).numpy()
    np.testing.assert_allclose(got, gradient.reference(spec, g, a, b), rtol=1e-6)


def test_gradients_of_casts_take_the_type_of_the_argument(device: Any) -> None:
    x = cf.Tensor(asarray(np.array([1.5, -2, 3], np.float32), "bfloat16"), requires_grad=True)
    y = ops.cast(x, "float32")
    assert y.dtype == np.float32
    y.backward(asarray(np.array([1.00390625, 2, 0.5], np.float32)))
    assert str(x.grad.dtype) == "bfloat16"
    np.testing.assert_array_equal(x.grad.numpy(), [1, 2, 0.5])


def test_clip(device: Any, rng: np.random.Generator) -> None:
    x, wide = _given(rng, (2, 7, 17), "float32")
    close(ops.clip(x, -1, 2), ops.clip(wide, -1, 2), "float32", 0)


def test_nan_comes_through(device: Any) -> None:
    x = asarray(np.array([np.nan, 1, np.nan], np.float32))
    y = asarray(np.array([1, np.nan, np.nan], np.float32))
    for name in ("maximum", "minimum", "add"):
        assert np.isnan(getattr(ops, name)(x, y).numpy()).all()


def test_host_arrays_on_the_cuda_backend(device: Any, rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 7, 17)).astype(np.float32)
    with cf.use_backend("cuda"):
        y = ops.relu(x)
        assert type(y) is np.ndarray
        np.testing.assert_array_equal(y, np.maximum(x, 0))
        np.testing.assert_array_equal(ops.add(x, 1.0), x + 1)
        np.testing.assert_array_equal(ops.relu(x.astype(np.float64)), np.maximum(x, 0))


def test_gradients_of_host_arrays_on_the_cuda_backend(device: Any) -> None:
    x = cf.Tensor(np.array([-3, 6, 2], np.float32), requires_grad=True)
    with cf.use_backend("cuda"):
        ops.abs(x).backward(np.array([1, 2, 3], np.float32))
    assert type(x.grad) is np.ndarray
    np.testing.assert_array_equal(x.grad, [-1, 2, 3])
