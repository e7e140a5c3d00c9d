"""linear and gram_matrix: the oracle, bits that do not depend on the company a row is in, and errors."""

from __future__ import annotations

import numpy as np
import pytest

import cnnfast as cf
import problems
from cnnfast.errors import DTypeError, ShapeError
from cnnfast.ops import gram_matrix, linear, pack_linear
from problems import Problem

LINEAR = list(problems.chosen(problems.GENERAL, "linear"))
GRAM = list(problems.chosen(problems.GENERAL, "gram_matrix"))
LAYERS = [p for p in problems.LAYERS if p.op in ("linear", "gram_matrix")]


def call(p: Problem, a: dict[str, np.ndarray]) -> np.ndarray:
    return getattr(cf.ops, p.op)(*(a[k] for k in ("x", "w", "b") if k in a), **p.attrs)


@pytest.mark.parametrize("p", LINEAR + GRAM, ids=str)
def test_table(backend: str, p: Problem) -> None:
    for kind in ("normal", "positive"):
        problems.check(p, call, kind)
    problems.check(Problem(p.name, p.op, p.x, p.w, {}, p.bias), call, "whole")


@pytest.mark.parametrize("p", LAYERS, ids=str)
def test_layers_of_real_networks(native: None, p: Problem) -> None:
    problems.check(p, call, channels=problems.some_channels(p, 100))


@pytest.mark.parametrize("p", LINEAR + GRAM, ids=str)
def test_float64_is_the_reference(p: Problem) -> None:
    problems.check_float64(p, call)


# --- linear ----------------------------------------------------------------------------------------


def test_dense_layers_of_lenet(backend: str) -> None:
    """400 -> 120 -> 84 -> 10, with 48120, 10164 and 850 parameters."""
    x = np.ones((1, 400), np.float32)
    for outputs, parameters in ((120, 48_120), (84, 10_164), (10, 850)):
        w, b = np.zeros((x.shape[1], outputs), np.float32), np.zeros(outputs, np.float32)
        assert w.size + b.size == parameters
        x = linear(x, w, b)
    assert x.shape == (1, 10)
    assert 456 + 2416 + 48_120 + 10_164 + 850 == 62_006


@pytest.mark.parametrize(
    ("i", "o"), [(1, 1), (17, 19), (64, 16), (600, 33), (700, 130), (1500, 1000), (33, 2000), (4097, 48)]
)
def test_rows_do_not_depend_on_their_company(native: None, rng: np.random.Generator, i: int, o: int) -> None:
    """A row alone, among others, eager and packed, with any number of threads: the same bits."""
    x, w, b = (rng.standard_normal(s).astype(np.float32) for s in ((200, i), (i, o), (o,)))
    packed = pack_linear(w)
    cf.set_num_threads(1)
    expected = linear(x, w, b, activation="silu")
    for threads in (1, 2, 3, 8):
        cf.set_num_threads(threads)
        for weight in (w, packed):
            for rows in (1, 2, 3, 4, 5, 12, 40, 97, 200):
                got = linear(x[:rows], weight, b, activation="silu")
                assert np.array_equal(got, expected[:rows]), (threads, rows, weight is packed)
            assert np.array_equal(linear(x[-1], weight, b, activation="silu"), expected[-1])


def test_dimensions(backend: str, rng: np.random.Generator) -> None:
    x, w, b = (rng.integers(-9, 10, s).astype(np.float32) for s in ((2, 3, 4, 5), (5, 7), (7,)))
    expected = np.einsum("abci,io->abco", x, w) + b
    assert np.array_equal(linear(x, w, b), expected)
    assert np.array_equal(linear(x[0, 0, 0], w, b), expected[0, 0, 0])
    assert np.array_equal(linear(x[0, 0], pack_linear(w), b), expected[0, 0])
    assert linear(x[:0], w).shape == (0, 3, 4, 7)
    assert linear(np.zeros((0, 5), np.float32), pack_linear(w), b).shape == (0, 7)


@pytest.mark.parametrize(
    "activation", ["relu", "relu6", "leaky_relu", "sigmoid", "tanh", "silu", "hard_swish"]
)
@pytest.mark.parametrize("rows", [1, 50])
def test_fused_activation(backend: str, rng: np.random.Generator, rows: int, activation: str) -> None:
    x, w, b = (rng.standard_normal(s).astype(np.float32) for s in ((rows, 30), (30, 45), (45,)))
    expected = problems.activated(activation, linear(x, w, b).astype(np.float64))
    np.testing.assert_allclose(linear(x, w, b, activation=activation), expected, rtol=1e-6, atol=1e-6)
    assert np.array_equal(linear(x, w, b), linear(x, w) + b)


def test_packed_weights(backend: str, rng: np.random.Generator) -> None:
    w = rng.standard_normal((6, 5)).astype(np.float32)
    x = rng.standard_normal((3, 6)).astype(np.float32)
    packed = pack_linear(w)
    before = linear(x, packed)
    w[...] = np.nan
    assert np.array_equal(linear(x, packed), before)
    assert np.array_equal(linear(x, packed.array), before)
    assert packed.shape == (6, 5)
    with pytest.raises(ValueError, match="read-only"):
        packed.array[...] = 0
    with pytest.raises(ShapeError, match=r"linear: the weight was packed for conv2d \(weight \(1,1,6,5\)\)"):
        linear(x, cf.ops.pack_conv2d(np.ones((1, 1, 6, 5), np.float32)))
    with pytest.raises(DTypeError, match="linear: weight is float32, x is float64"):
        linear(x.astype(np.float64), packed)
    for bad in (np.ones((0, 5), np.float32), np.ones((6, 0), np.float32), np.ones(6, np.float32)):
        with pytest.raises(ShapeError):
            pack_linear(bad)


def odd_forms(a: np.ndarray) -> list[np.ndarray]:
    readonly = a.copy()
    readonly.setflags(write=False)
    return [np.asfortranarray(a), problems.with_gaps(a), a.astype(">f4"), readonly]


def test_memory_of_the_inputs(backend: str, rng: np.random.Generator) -> None:
    x, w, b = (rng.standard_normal(s).astype(np.float32) for s in ((9, 18), (18, 11), (11,)))
    expected, gram = linear(x, w, b), gram_matrix(x[None])
    for arrays in zip(*(odd_forms(a) for a in (x, w, b)), strict=True):
        before = [a.tobytes() for a in arrays]
        assert np.array_equal(linear(*arrays), expected)
        assert np.array_equal(gram_matrix(arrays[0][None]), gram)
        assert [a.tobytes() for a in arrays] == before


def test_nan_and_inf_stand_in_the_same_places(native: None, rng: np.random.Generator) -> None:
    for rows, value in ((1, np.nan), (3, np.inf), (120, -np.inf), (120, np.nan)):
        x, w, b = (rng.standard_normal(s).astype(np.float32) for s in ((rows, 21), (21, 37), (37,)))
        x[rows // 2, 3] = value
        w[5, 36] = value
        x[0, 5] = 0
        b[1] = value
        got = linear(x, w, b, activation="relu")
        with cf.use_backend("numpy"), np.errstate(invalid="ignore"):
            reference = linear(x, w, b, activation="relu")
        np.testing.assert_array_equal(np.isnan(got), np.isnan(reference))
        np.testing.assert_array_equal(np.isinf(got), np.isinf(reference))
        assert np.array_equal(linear(x, pack_linear(w), b, activation="relu"), got, equal_nan=True)


def test_refusals(backend: str) -> None:
    x, w = np.zeros((2, 6), np.float32), np.zeros((6, 5), np.float32)
    cases = [
        (lambda: linear(x, w[:4]), "linear: weight has 4 inputs, x has 6 (x (2,6), weight (4,5))"),
        (
            lambda: linear(np.float32(1), w),
            "linear: weight has 6 inputs, x has no dimension (x (), weight (6,5))",
        ),
        (lambda: linear(x, w[0]), "linear: weight must have 2 dimensions in,out, got 1 (weight (5))"),
        (lambda: linear(x, w, np.zeros(6, np.float32)), "linear: bias must have shape (5,) (bias (6))"),
        (lambda: linear(x, w[:, :0]), "linear: the weight must not be empty (weight (6,0))"),
        (lambda: gram_matrix(x), "gram_matrix: x must have dimensions N,H,W,C or N,rows,C, got 2 (x (2,6))"),
    ]
    for bad, message in cases:
        with pytest.raises(ShapeError) as caught:
            bad()
        assert str(caught.value) == message
    with pytest.raises(ShapeError, match="activation must be one of"):
        linear(x, w, activation="softmax")
    for wrong in (np.float16, np.uint8, np.int64, np.complex128):
        with pytest.raises(DTypeError, match="linear: x is"):
            linear(x.astype(wrong), w)
        with pytest.raises(DTypeError, match="linear: weight is"):
            linear(x, w.astype(wrong))
        with pytest.raises(DTypeError, match="gram_matrix: x is"):
            gram_matrix(x[None].astype(wrong))
    with pytest.raises(DTypeError, match="linear: bias is float64, x is float32"):
        linear(x, w, np.zeros(5))
    with pytest.raises((ShapeError, MemoryError)):
        linear(np.zeros((1 << 20, 1), np.float32), np.zeros((1, 1 << 20), np.float32))
    with pytest.raises((ShapeError, MemoryError)):
        gram_matrix(np.zeros((1, 1, 1 << 20), np.float32))


# --- Gram matrices ---------------------------------------------------------------------------------


@pytest.mark.parametrize("c", [1, 2, 15, 16, 17, 23, 24, 25, 40, 47, 48, 49, 64, 130])
def test_gram_is_symmetric_and_positive(backend: str, rng: np.random.Generator, c: int) -> None:
    x = rng.standard_normal((2, 5, 7, c)).astype(np.float32)
    got = gram_matrix(x)
    assert got.shape == (2, c, c)
    assert np.array_equal(got, got.transpose(0, 2, 1))
    assert np.linalg.eigvalsh(got.astype(np.float64)).min() >= -1e-4
    assert (np.diagonal(got, axis1=1, axis2=2) >= 0).all()
    assert np.array_equal(gram_matrix(x.reshape(2, 35, c)), got)


def test_gram_is_neither_centred_nor_normalised(backend: str) -> None:
    x = np.full((1, 3, 4, 2), 2, np.float32)
    assert np.array_equal(gram_matrix(x), np.full((1, 2, 2), 48, np.float32))
    assert np.array_equal(gram_matrix(x[:, :0]), np.zeros((1, 2, 2), np.float32))
    assert gram_matrix(x[:0]).shape == (0, 2, 2)
    assert gram_matrix(x[..., :0]).shape == (1, 0, 0)


@pytest.mark.parametrize("shape", [(3, 31, 29, 33), (2, 26, 27, 64), (1, 700, 150), (2, 1100, 17)])
def test_gram_threads_and_batch_give_the_same_bits(
    native: None, rng: np.random.Generator, shape: tuple
) -> None:
    x = rng.standard_normal(shape).astype(np.float32)
    cf.set_num_threads(1)
    expected = gram_matrix(x)
    for threads in (1, 2, 3, 8):
        cf.set_num_threads(threads)
        assert np.array_equal(gram_matrix(x), expected)
        for n in range(shape[0]):
            assert np.array_equal(gram_matrix(x[n : n + 1])[0], expected[n])


def test_gram_nan_stays_in_its_row_and_column(backend: str, rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 9, 40)).astype(np.float32)
    x[1, 4, 17] = np.nan
    bad = np.isnan(gram_matrix(x))
    assert not bad[0].any()
    assert bad[1, 17].all()
    assert bad[1, :, 17].all()
    assert bad.sum() == 2 * 40 - 1


# --- costs -----------------------------------------------------------------------------------------


def test_costs() -> None:
    made = cf.ops.cost("linear", (3, 4, 10), (10, 7), (7,))
    assert made.flops == 2 * 12 * 10 * 7
    assert made.bytes == 4 * (120 + 70 + 84 + 7)
    assert cf.ops.cost("linear", (10,), (10, 7)).bytes == 4 * (10 + 70 + 7)
    # Half of the matrix is computed: c (c + 1) / 2 sums over the pixels.
    made = cf.ops.cost("gram_matrix", (2, 5, 6, 8))
    assert made.flops == 2 * 2 * 30 * (8 * 9 / 2)
    assert made.bytes == 4 * (2 * 30 * 8 + 2 * 64)


@pytest.mark.parametrize("columns", [1, 2, 3, 4])
@pytest.mark.parametrize("depth", [31, 32, 64, 77])
def test_few_outputs(native: None, rng: np.random.Generator, depth: int, columns: int) -> None:
    # 1x1 convolutions and dense layers of one to three outputs sum along the lanes.
    x = rng.standard_normal((2, 9, 7, depth), np.float32)
    w, b = rng.standard_normal((1, 1, depth, columns), np.float32), rng.standard_normal(columns, np.float32)
    residual = rng.standard_normal((2, 9, 7, columns), np.float32)
    packed = cf.ops.pack_conv2d(w)
    y = cf.ops.conv2d(x, w, b, residual=residual, activation="silu")
    wide = [a.astype(np.float64) for a in (x, w, b, residual)]
    exact = cf.ops.conv2d(*wide[:3], residual=wide[3], activation="silu")
    sums = np.abs(wide[0]) @ np.abs(wide[1][0, 0]) + np.abs(wide[2]) + np.abs(wide[3])
    assert np.all(np.abs(y - exact) <= 2**-24 * (2 * np.sqrt(depth) + 8) * sums)
    assert np.array_equal(cf.ops.conv2d(x, packed, b, residual=residual, activation="silu"), y)
    assert np.array_equal(cf.ops.conv2d(x[1:], packed, b, residual=residual[1:], activation="silu"), y[1:])
    flat = cf.ops.linear(x.reshape(-1, depth), w[0, 0], b)
    assert np.array_equal(flat, cf.ops.conv2d(x, w, b).reshape(-1, columns))
    assert np.array_equal(cf.ops.linear(x[0, 0, 0], cf.ops.pack_linear(w[0, 0]), b), flat[0])
