"""Activations, add and mul on every backend, against their definitions in float64 and against torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cnnfast as cf
from cnnfast import ops
from cnnfast.errors import DTypeError, ShapeError
from cnnfast.ops.activations import ACTIVATION_CODES

NAMES = [name for name in ACTIVATION_CODES if name]
TINY = float(np.finfo(np.float32).tiny)


def exact(name: str, x: np.ndarray) -> np.ndarray:
    """Definitions written apart from the package's, in float64."""
    with np.errstate(all="ignore"):
        x = x.astype(np.float64)
        grow = np.exp(np.minimum(x, 0))
        one_plus = 1 + np.exp(-np.abs(x))
        bounded = np.clip(x, -1e30, None)
        return {
            "relu": lambda: np.where(x < 0, 0, x),
            "relu6": lambda: np.where(x < 0, 0, np.where(x > 6, 6, x)),
            "leaky_relu": lambda: np.where(x < 0, x * float(np.float32(0.01)), x),
            "sigmoid": lambda: grow / one_plus,
            "tanh": lambda: np.tanh(x),
            "silu": lambda: np.where(x < 0, bounded, x) * grow / one_plus,
            "hard_swish": lambda: np.where(x <= -3, 0, np.where(x >= 3, x, x * (x + 3) / 6)),
        }[name]()


def relative(got: np.ndarray, want: np.ndarray) -> float:
    """Worst relative error where the true value is a normal float32."""
    finite = np.isfinite(want) & (np.abs(want) >= TINY) & (np.abs(want) < 3.4e38)
    if not finite.any():
        return 0.0
    return float(np.max(np.abs(got[finite].astype(np.float64) - want[finite]) / np.abs(want[finite])))


def every_float(step: int) -> np.ndarray:
    """Floats spread evenly over all bit patterns: all exponents, both signs, NaN and Inf."""
    with np.errstate(invalid="ignore"):
        return np.arange(0, 1 << 32, step, dtype=np.uint64).astype(np.uint32).view(np.float32)


# --- values ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_activation_is_exact_over_the_whole_range(backend: str, name: str) -> None:
    near_zero = np.geomspace(1e-30, 20, 20001).astype(np.float32)
    x = np.concatenate([every_float(20011), np.linspace(-110, 110, 100001, dtype=np.float32), near_zero])
    y, want = getattr(ops, name)(x), exact(name, x)
    assert y.dtype == np.float32
    assert y.shape == x.shape
    np.testing.assert_array_equal(np.isnan(y), np.isnan(x))
    assert relative(y, want) <= 4e-7
    # Subnormal results are right to a few of their own steps.
    small = np.abs(want) < TINY
    assert np.max(np.abs(y[small].astype(np.float64) - want[small])) <= 4 * 2.0**-149


def test_activation_at_special_values(backend: str) -> None:
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan], np.float32)
    nan = np.nan
    for name, want in {
        "relu": [0, 0, np.inf, 0, nan],
        "relu6": [0, 0, 6, 0, nan],
        "leaky_relu": [0, 0, np.inf, -np.inf, nan],
        "sigmoid": [0.5, 0.5, 1, 0, nan],
        "tanh": [0, 0, 1, -1, nan],
        "silu": [0, 0, np.inf, 0, nan],
        "hard_swish": [0, 0, np.inf, 0, nan],
    }.items():
        y = getattr(ops, name)(x)
        np.testing.assert_array_equal(y, np.array(want, np.float32), err_msg=name)
        if name in ("tanh", "silu", "leaky_relu", "hard_swish"):
            assert np.signbit(y[1]), name
        # In the middle of whole vectors and in the tail alike.
        long = np.ones(67, np.float32)
        long[[3, 66]] = np.nan
        np.testing.assert_array_equal(np.isnan(getattr(ops, name)(long)), np.isnan(long))


def test_float64_activation_is_the_definition() -> None:
    x = np.linspace(-800, 800, 4001)
    for name in NAMES:
        y = getattr(ops, name)(x)
        assert y.dtype == np.float64
        want = np.where(x < 0, x * 0.01, x) if name == "leaky_relu" else exact(name, x)
        np.testing.assert_allclose(y, want, 1e-13, 1e-300)


def test_leaky_relu_slope(backend: str) -> None:
    x = np.array([-2.0, 3.0], np.float32)
    np.testing.assert_array_equal(ops.leaky_relu(x, slope=0.25), [-0.5, 3])
    np.testing.assert_array_equal(ops.leaky_relu(x, slope=-1), [2, 3])
    for slope in (np.nan, np.inf, 1e39, "steep", None):
        with pytest.raises(ShapeError, match=r"^leaky_relu: slope must be"):
            ops.leaky_relu(x, slope=slope)


@pytest.mark.parametrize("name", NAMES)
def test_activation_agrees_with_torch(backend: str, name: str) -> None:
    torch = pytest.importorskip("torch")
    x = np.linspace(-30, 30, 1003, dtype=np.float32)
    f = {
        "relu6": torch.nn.functional.relu6,
        "leaky_relu": torch.nn.functional.leaky_relu,
        "silu": torch.nn.functional.silu,
        "hard_swish": torch.nn.functional.hardswish,
    }.get(name) or getattr(torch, name)
    # torch's own float32 errors are larger than ours, so it is asked in float64.
    np.testing.assert_allclose(getattr(ops, name)(x), f(torch.from_numpy(x).double()).numpy(), 4e-7, 1e-40)


# --- shapes and arrays -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (1,), (7,), (2, 7, 7, 17), (1, 5, 0, 3), (0, 4), (3, 1, 33)])
def test_activation_takes_any_shape(backend: str, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    x = rng.standard_normal(shape).astype(np.float32)
    for name in NAMES:
        y = getattr(ops, name)(x)
        assert type(y) is np.ndarray
        assert y.shape == shape
        assert relative(y, exact(name, x)) <= 4e-7


def test_activation_of_a_number_far_out(backend: str) -> None:
    for name in NAMES:
        x = np.array(-85, np.float32)
        y = getattr(ops, name)(x)
        assert y.shape == ()
        assert relative(y, exact(name, x)) <= 4e-7


def test_inputs_in_any_memory_form(backend: str, rng: np.random.Generator) -> None:
    plain = rng.standard_normal((4, 6, 10)).astype(np.float32)
    frozen = plain.copy()
    frozen.flags.writeable = False
    wide = np.repeat(plain, 2, axis=2)[:, :, ::2]
    for x in (wide, plain.transpose(2, 0, 1).copy().transpose(1, 2, 0), plain.astype(">f4"), frozen):
        before = np.array(x)
        np.testing.assert_array_equal(ops.silu(x), ops.silu(plain))
        np.testing.assert_array_equal(ops.add(x, x), plain + plain)
        np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("dtype", [np.float16, np.uint8, np.int64, np.complex64, bool])
def test_other_element_types_are_refused(backend: str, dtype: Any) -> None:
    x = np.ones(3, dtype)
    for name in NAMES:
        with pytest.raises(DTypeError, match=f"^{name}: x is "):
            getattr(ops, name)(x)
    with pytest.raises(DTypeError, match=r"^add: x is "):
        ops.add(x, np.ones(3, np.float32))
    with pytest.raises(DTypeError, match=r"^mul: y is "):
        ops.mul(np.ones(3, np.float32), x)


def test_types_are_not_mixed(backend: str) -> None:
    with pytest.raises(DTypeError, match=r"^add: y is float64, x is float32"):
        ops.add(np.ones(3, np.float32), np.ones(3))


def test_results_do_not_depend_on_threads_or_batch(native: None, rng: np.random.Generator) -> None:
    x = (rng.standard_normal((5, 61, 67, 19)) * 10).astype(np.float32)
    gate = rng.standard_normal((5, 1, 1, 19)).astype(np.float32)
    calls = [lambda a, g, name=name: getattr(ops, name)(a) for name in NAMES]
    calls += [ops.mul, ops.add, lambda a, g: ops.add(a, g, activation="silu")]
    for call in calls:
        results = []
        for threads in (1, 2, 3, 8):
            cf.set_num_threads(threads)
            results.append(call(x, gate))
        for other in results[1:]:
            np.testing.assert_array_equal(results[0], other)
        np.testing.assert_array_equal(results[0][3:4], call(x[3:4], gate[3:4]))


# --- add and mul -------------------------------------------------------------------------------------

SHAPES = [
    ((2, 7, 7, 17), (2, 7, 7, 17)),
    ((2, 7, 7, 17), (2, 1, 1, 17)),  # squeeze-and-excitation
    ((2, 7, 7, 17), (17,)),
    ((2, 7, 7, 17), (2, 7, 7, 1)),
    ((2, 7, 7, 17), ()),
    ((2, 7, 1, 17), (1, 1, 5, 1)),
    ((4, 1), (1, 5)),
    ((3, 1, 5), (1, 4, 1)),
    ((1000, 3), (3,)),
    ((1000, 3), (1000, 1)),
    ((33, 1, 2, 1, 5), (1, 4, 1, 3, 5)),
    ((2, 50001), (50001,)),
    ((2, 50001), (2, 1)),
    ((1, 1, 3), (9001, 3, 1)),
    ((70001, 1, 2), (3, 2)),
    ((0, 3), (1, 3)),
    ((0, 1), (1, 0)),
    ((), ()),
    ((1,), (1, 1)),
]


@pytest.mark.parametrize(("a", "b"), SHAPES)
def test_broadcasting(backend: str, a: tuple[int, ...], b: tuple[int, ...], rng: np.random.Generator) -> None:
    x, y = rng.standard_normal(a).astype(np.float32), rng.standard_normal(b).astype(np.float32)
    for p, q in ((x, y), (y, x)):
        for got, want in ((ops.add(p, q), p + q), (ops.mul(p, q), p * q)):
            assert type(got) is np.ndarray
            assert got.dtype == np.float32
            assert got.shape == np.shape(want)
            np.testing.assert_array_equal(got, want)


sizes = st.sampled_from([1, 1, 2, 3, 5, 16, 17])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_broadcasting_of_random_shapes(backend: str, data: st.DataObject) -> None:
    out = data.draw(st.lists(sizes, max_size=5))
    operands = []
    for _ in range(2):
        kept = out[data.draw(st.integers(0, len(out))) :]
        operands.append(tuple(n if data.draw(st.booleans()) else 1 for n in kept))
    seed = data.draw(st.integers(0, 1000))
    generator = np.random.default_rng(seed)
    x, y = (generator.standard_normal(shape).astype(np.float32) for shape in operands)
    np.testing.assert_array_equal(ops.add(x, y), x + y)
    np.testing.assert_array_equal(ops.mul(x, y), x * y)
    assert ops.mul(x, y).shape == np.broadcast_shapes(*operands)


@pytest.mark.parametrize("activation", NAMES)
def test_add_with_activation_is_two_steps(backend: str, activation: str, rng: np.random.Generator) -> None:
    x, y = (rng.standard_normal((2, 7, 7, 17)).astype(np.float32) * 4 for _ in range(2))
    got = ops.add(x, y, activation=activation)
    assert relative(got, exact(activation, x + y)) <= 4e-7
    np.testing.assert_array_equal(got, getattr(ops, activation)(x + y))
    row = y[0, 0, 0]
    np.testing.assert_array_equal(ops.add(row, x, activation=activation), getattr(ops, activation)(x + row))


def test_residual_block_of_zero_weights_is_relu(backend: str, rng: np.random.Generator) -> None:
    x = rng.standard_normal((1, 7, 7, 17)).astype(np.float32)
    np.testing.assert_array_equal(ops.add(np.zeros_like(x), x, activation="relu"), np.maximum(x, 0))


def test_python_numbers(backend: str) -> None:
    x = np.array([1.5, -2.0], np.float32)
    np.testing.assert_array_equal(ops.add(x, 2), [3.5, 0])
    np.testing.assert_array_equal(ops.add(2.0, x), [3.5, 0])
    np.testing.assert_array_equal(ops.mul(x, -0.5), [-0.75, 1])
    assert ops.mul(x, 0.1).dtype == np.float32
    assert ops.mul(x.astype(np.float64), 0.1).dtype == np.float64
    np.testing.assert_array_equal(ops.mul(x, 1e300), [np.inf, -np.inf])
    with pytest.raises(ShapeError, match=r"^mul: the number is beyond float64"):
        ops.mul(x, 10**400)
    with pytest.raises(DTypeError):
        ops.add(x, True)
    with pytest.raises(DTypeError):
        ops.add(x, "1")


def test_nan_and_inf_in_sums_and_products(backend: str) -> None:
    x = np.array([np.nan, np.inf, -np.inf, np.inf, 0.0, 1e38], np.float32)
    y = np.array([1.0, 1.0, np.inf, 0.0, np.nan, 1e38], np.float32)
    total = np.array([np.nan, np.inf, np.nan, np.inf, np.nan, 2e38], np.float32)
    product = np.array([np.nan, np.inf, -np.inf, np.nan, np.nan, np.inf], np.float32)
    np.testing.assert_array_equal(ops.add(x, y), total)
    np.testing.assert_array_equal(ops.mul(x, y), product)
    assert np.isnan(ops.add(x, y, activation="relu")[0])


def test_wrong_shapes_are_named() -> None:
    x = np.ones((2, 3), np.float32)
    message = r"^add: sizes 3 and 2 of axis -1 do not broadcast \(x \(2,3\), y \(2\)\)"
    with pytest.raises(ShapeError, match=message):
        ops.add(x, np.ones(2, np.float32))
    with pytest.raises(ShapeError, match=r"^mul: sizes 2 and 0 of axis -2 do not broadcast"):
        ops.mul(x, np.ones((0, 3), np.float32))
    with pytest.raises(ShapeError, match=r"^add: activation must be one of 'relu'"):
        ops.add(x, x, activation="gelu")


def test_sizes_beyond_memory_are_errors(backend: str) -> None:
    with pytest.raises(ShapeError, match="more than can be addressed"):
        ops.cost("add", (1 << 40, 1), (1, 1 << 40))
    with pytest.raises(MemoryError):
        ops.mul(np.ones((1 << 20, 1), np.float32), np.ones((1, 1 << 20), np.float32))


def test_costs() -> None:
    assert ops.cost("relu", (2, 3)).bytes == 48
    assert ops.cost("add", (2, 3), (3,)).bytes == 4 * (6 + 6 + 3)
    assert ops.cost("mul", (2, 3), (3,)).flops == 6
