"""Functions of one and two arrays, reductions and products in float32: native kernels and compiled plans.

``test_ops_generic.py`` has what they mean; here are the errors of the kernels against float64, their corners,
and that a network made of them is one native call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cnnfast as cf
from cnnfast import graph as G
from cnnfast import ops
from test_engine import Wired, same_bits

pytestmark = pytest.mark.usefixtures("native")

F32 = np.float32
U = 2.0**-24
TINY = float(np.finfo(F32).tiny)
SMOOTH = 4e-7  # relative error of exponentials and what is made of them
CORNERS = np.array(
    [np.nan, np.inf, -np.inf, 0.0, -0.0, 1, -1, 2, -2, 3, -3, 0.5, -0.5, 2.5, -2.5, 1e-40, -1e-40, 1e-30,
     3e38, -3e38, 90, -90, 88.6, 104, -104, 16777217.0, -16777215.0], F32
)  # fmt: skip

# Operator, largest relative error where the result is a normal number (0: NumPy's own float32 result).
UNARY: dict[str, tuple[Callable[[Any], Any], float]] = {
    "neg": (ops.neg, 0),
    "abs": (ops.abs, 0),
    "sqrt": (ops.sqrt, 0),
    "reciprocal": (ops.reciprocal, 0),
    "floor": (ops.floor, 0),
    "ceil": (ops.ceil, 0),
    "clip": (lambda x: ops.clip(x, -0.5, 1.5), 0),
    "clip, one side": (lambda x: ops.clip(x, low=-1), 0),
    "clip, far away": (lambda x: ops.clip(x, -1e300, 1e300), 0),
    "clip, crossed": (lambda x: ops.clip(x, 2, 1), 0),
    "hard_sigmoid": (lambda x: ops.hard_sigmoid(x, alpha=0.2, beta=0.4), 0),
    "exp": (ops.exp, SMOOTH),
    "log": (ops.log, SMOOTH),
    "erf": (ops.erf, SMOOTH),
    "elu": (lambda x: ops.elu(x, alpha=0.7), SMOOTH),
}
BINARY: dict[str, tuple[Callable[[Any, Any], Any], float]] = {
    "add": (ops.add, 0),
    "mul": (ops.mul, 0),
    "sub": (ops.sub, 0),
    "div": (ops.div, 0),
    "maximum": (ops.maximum, 0),
    "minimum": (ops.minimum, 0),
    "pow": (ops.pow, 2 * U),
}
SHAPES = [
    ((2, 7, 7, 17), (2, 7, 7, 17)),
    ((2, 7, 7, 17), (17,)),
    ((17,), (2, 7, 7, 17)),
    ((2, 5, 3, 40), (2, 1, 1, 40)),
    ((2, 1, 1, 40), (2, 5, 3, 40)),
    ((3, 9, 1), (9, 33)),
    ((9, 33), (3, 9, 1)),
    ((1, 4, 1), (3, 1, 5)),
    ((5, 1), (1, 6)),
    ((2, 3, 4), ()),
    ((), (2, 3, 4)),
    ((0, 3), (1, 3)),
]


def on_numpy(function: Callable[..., Any], *arrays: np.ndarray) -> Any:
    with cf.use_backend("numpy"):
        return function(*arrays)


def check(function: Callable[..., Any], error: float, *arrays: np.ndarray) -> None:
    """Equal to NumPy in float32, or near to float64 wherever that is a normal float32; NaN in its places."""
    y = function(*arrays)
    if error == 0:
        np.testing.assert_array_equal(y, on_numpy(function, *arrays))
        return
    want = on_numpy(function, *[a.astype(np.float64) for a in arrays])
    with np.errstate(over="ignore"):
        single = want.astype(F32)
    np.testing.assert_array_equal(np.isnan(y), np.isnan(single))
    infinite = np.isinf(single)
    np.testing.assert_array_equal(y[infinite], single[infinite])
    finite = np.isfinite(single)
    # Below the normal numbers the bound is one step of the subnormal ones.
    bound = np.maximum(error * np.abs(want[finite]), 2.0**-149)
    assert (np.abs(y[finite] - want[finite]) <= bound).all()


@pytest.mark.parametrize("name", UNARY)
def test_functions_of_one_array(name: str, rng: np.random.Generator) -> None:
    function, error = UNARY[name]
    patterns = rng.integers(0, 1 << 32, 20000, dtype=np.uint64).astype(np.uint32).view(F32)  # of every size
    patterns[np.isnan(patterns)] = np.nan  # NumPy warns of signalling ones
    common = rng.uniform(-12, 12, 20000).astype(F32)
    near_one = (1 + rng.uniform(-0.3, 0.3, 20000)).astype(F32)
    for x in (patterns, common, near_one, CORNERS):
        check(function, error, x)


@pytest.mark.parametrize("n", [0, 1, 3, 7, 15, 16, 17, 63, 65, 40000])
def test_sizes_and_layouts_of_one_array(n: int, rng: np.random.Generator) -> None:
    x = rng.standard_normal(2 * n).astype(F32)
    wide = x.reshape(n, 2)[:, 1]
    for function, _ in UNARY.values():
        y = function(np.ascontiguousarray(wide))
        np.testing.assert_array_equal(function(wide), y)
        np.testing.assert_array_equal(function(wide.astype(">f4")), y)
        assert y.shape == (n,)


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("shapes", SHAPES)
def test_functions_of_two_arrays(
    name: str, shapes: tuple[tuple[int, ...], ...], rng: np.random.Generator
) -> None:
    function, error = BINARY[name]
    a, b = (rng.standard_normal(shape).astype(F32) * 3 for shape in shapes)
    check(function, error, np.abs(a) if name == "pow" else a, b)


@pytest.mark.parametrize("name", BINARY)
def test_corners_of_two_arrays(name: str) -> None:
    function, error = BINARY[name]
    check(function, error, CORNERS[:, None].copy(), CORNERS)
    check(function, error, CORNERS, CORNERS[:, None].copy())


def test_powers_of_whole_numbers_are_exact() -> None:
    x = np.arange(-40, 41, dtype=F32)
    for p in range(5):
        np.testing.assert_array_equal(ops.pow(x, float(p)), x**p)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(ops.pow(x, 0.5), np.sqrt(x))
    y = np.random.default_rng(0).standard_normal(5000).astype(F32)
    np.testing.assert_array_equal(ops.pow(y, 2), y * y)


@pytest.mark.parametrize("slope", [(), (17,), (2, 1, 1, 1), (2, 7, 7, 17)])
def test_prelu(slope: tuple[int, ...], rng: np.random.Generator) -> None:
    x, s = rng.standard_normal((2, 7, 7, 17)).astype(F32), rng.standard_normal(slope).astype(F32)
    x[0, 0, 0, :4] = np.nan, np.inf, -np.inf, 0
    np.testing.assert_array_equal(ops.prelu(x, s), np.where(x < 0, x * s, x))


REDUCTIONS: dict[str, Callable[..., Any]] = {
    name: getattr(ops, f"reduce_{name}") for name in ("sum", "mean", "max", "min", "l2")
}


@pytest.mark.parametrize("name", REDUCTIONS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_reductions_round_once(name: str, data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 9), max_size=5)))
    axes = data.draw(
        st.none() | st.sets(st.integers(0, max(0, len(shape) - 1)), max_size=len(shape)).map(tuple)
    )
    x = np.random.default_rng(1).standard_normal(shape).astype(F32)
    y = REDUCTIONS[name](x, axes)
    want = on_numpy(REDUCTIONS[name], x.astype(np.float64), axes)
    assert y.shape == want.shape
    # Sums in float64 of n terms, then one rounding.
    total = on_numpy(ops.reduce_sum, np.abs(x).astype(np.float64), axes)
    np.testing.assert_array_less(np.abs(y - want), U * np.abs(want) + 1e-13 * total + 1e-45)


@pytest.mark.parametrize(
    ("shape", "axes"),
    [((200000,), None), ((3, 70000), 1), ((2, 60, 61, 40), (1, 2)), ((2, 60, 61, 40), (0, 3)),
     ((5000, 17), 0), ((2, 1500, 3), 1), ((1, 9, 2100), 1), ((3, 40, 513), -1)],
)  # fmt: skip
def test_long_reductions(shape: tuple[int, ...], axes: Any, rng: np.random.Generator) -> None:
    x = (1000 + rng.standard_normal(shape)).astype(F32)
    for function in REDUCTIONS.values():
        want = on_numpy(function, x.astype(np.float64), axes)
        np.testing.assert_allclose(function(x, axes), want, 2 * U)
        bad = x.copy()
        bad.ravel()[x.size // 2] = np.nan
        np.testing.assert_array_equal(np.isnan(function(bad, axes)), np.isnan(on_numpy(function, bad, axes)))


def test_empty_reductions() -> None:
    np.testing.assert_array_equal(ops.reduce_sum(np.zeros((0, 3), F32), 0), np.zeros(3))
    np.testing.assert_array_equal(ops.reduce_l2(np.zeros((2, 0, 3), F32), (1, 2)), np.zeros(2))
    assert ops.reduce_max(np.zeros((0, 3), F32), 1).shape == (0,)


@pytest.mark.parametrize(
    "shape", [(2, 9, 11, 17), (1, 40, 41, 64), (3, 5, 1), (2, 30, 40, 3), (2, 3, 2, 5, 7)]
)
def test_instance_norm_rounds_once(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    x = (100 + rng.standard_normal(shape)).astype(F32)  # a mean far from zero
    scale, shift = rng.standard_normal((2, shape[-1])).astype(F32)
    for arrays in ((x, scale, shift), (x, scale), (x,)):
        wide = on_numpy(ops.instance_norm, *[a.astype(np.float64) for a in arrays])
        # The result is a sum with the shift, whose terms decide.
        size = np.abs(wide) + (2 * np.abs(shift) if len(arrays) == 3 else 0)
        assert (np.abs(ops.instance_norm(*arrays) - wide) <= U * size + 1e-9).all()


STACKS = [
    ((3, 4), (4, 5)),
    ((40, 130), (130, 70)),
    ((5, 7, 17), (17, 9)),
    ((2, 1, 20, 33), (6, 33, 40)),
    ((20, 33), (2, 3, 33, 40)),
    ((2, 3, 1, 8), (2, 3, 8, 1)),
    ((2, 3, 0), (2, 0, 4)),
    ((0, 3, 4), (0, 4, 2)),
    ((2, 1, 1, 3, 4), (1, 5, 1, 4, 2)),
]


@pytest.mark.parametrize(("a", "b"), STACKS)
def test_matmul(a: tuple[int, ...], b: tuple[int, ...], rng: np.random.Generator) -> None:
    x, y = rng.standard_normal(a).astype(F32), rng.standard_normal(b).astype(F32)
    wide, other = x.astype(np.float64), y.astype(np.float64)
    # At most 8 units of the sum of absolute products, as for a convolution.
    bound = 8 * U * np.matmul(np.abs(wide), np.abs(other))
    z = ops.matmul(x, y)
    assert z.shape == np.matmul(wide, other).shape
    assert (np.abs(z - np.matmul(wide, other)) <= bound).all()


def test_matmul_keeps_nan_and_inf() -> None:
    x, y = np.zeros((2, 3), F32), np.ones((3, 4), F32)
    y[0, 1], y[1, 2] = np.inf, np.nan
    np.testing.assert_array_equal(ops.matmul(x, y), on_numpy(ops.matmul, x, y))


def with_other(function: Callable[..., Any], other: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda x: function(ops.abs(x), other(x))


def over(function: Callable[..., Any], axes: Any) -> Callable[[Any], Any]:
    return lambda x: function(ops.neg(x), axes)


OTHERS: dict[str, Callable[[Any], Any]] = {
    "alike": ops.exp,
    "by channel": lambda x: np.linspace(-2, 2, 17).astype(F32),
    "by picture": lambda x: ops.reduce_max(x, (1, 2, 3), keepdims=True),
    "number": lambda x: 1.5,
}
# Functions of a picture (N,H,W,17).
NETWORKS: dict[str, Callable[[Any], Any]] = {
    **{name: function for name, (function, _) in UNARY.items()},
    **{f"{a}, {b}": with_other(BINARY[a][0], other) for a in BINARY for b, other in OTHERS.items()},
    **{
        f"{name} {axes}": over(function, axes)
        for name, function in REDUCTIONS.items()
        for axes in (-1, (1, 2), (1, 2, 3), (1, 3))
    },
    "number - x": lambda x: ops.sub(1.5, x),
    "channels / x": lambda x: ops.div(np.linspace(-2, 2, 17).astype(F32), x),
    "number ** x": lambda x: ops.pow(1.5, x),
    "prelu": lambda x: ops.prelu(x, np.linspace(-1, 1, 17).astype(F32)),
    "l2_normalize": lambda x: ops.l2_normalize(ops.neg(x)),
    "l2_normalize along rows": lambda x: ops.l2_normalize(ops.neg(x), 2),
    "l2_pool2d": lambda x: ops.l2_pool2d(x, 3, stride=(2, 1), padding=1),
    "instance_norm": lambda x: ops.instance_norm(ops.neg(x)),
    "instance_norm, scaled": lambda x: ops.instance_norm(
        ops.neg(x), np.linspace(1, 2, 17).astype(F32), np.linspace(-1, 1, 17).astype(F32)
    ),
    "matmul": lambda x: ops.matmul(x, np.linspace(-1, 1, 17 * 5).astype(F32).reshape(17, 5)),
    "matmul of stacks": lambda x: ops.matmul(x, ops.transpose(ops.exp(x), (0, 1, 3, 2))),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_plans_are_one_native_call(name: str, rng: np.random.Generator) -> None:
    """Compiled gives the bits of eager, without NumPy, whatever the threads and the batch."""
    model = Wired(NETWORKS[name])
    x = rng.standard_normal((3, 9, 10, 17)).astype(F32)
    engine = cf.compile(model)
    y = engine(x)
    assert all(step.algorithm != "NumPy" for step in engine.describe(runs=1).steps)
    program = engine._ready((x.shape,))
    assert program.quick is not None  # nothing but the plan
    same_bits(y, NETWORKS[name](x))
    same_bits(y, G.interpret(G.trace(model, x.shape), x, native=True))
    np.testing.assert_allclose(
        y, G.interpret(G.trace(model, x.shape), x, native=False), rtol=2e-5, atol=2e-5, equal_nan=True
    )
    same_bits(engine(x[1:2]), y[1:2])


def threaded() -> Iterator[int]:
    for threads in (1, 2, 3, 8):
        cf.set_num_threads(threads)
        yield threads


@pytest.mark.parametrize("name", NETWORKS)
def test_threads_do_not_change_bits(name: str, rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 40, 61, 17)).astype(F32)
    results = [NETWORKS[name](x) for _ in threaded()]
    for other in results[1:]:
        same_bits(results[0], other)


def test_numbers_beyond_float32_are_infinite() -> None:
    x = np.array([-math.inf, -1, 0, 1, math.inf, math.nan], F32)
    np.testing.assert_array_equal(ops.clip(x, -1e300, 1e300), x)
    np.testing.assert_array_equal(ops.elu(x, alpha=1e300), on_numpy(lambda t: ops.elu(t, alpha=1e300), x))
