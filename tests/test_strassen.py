"""1x1 convolutions by Strassen's product against float64: shapes, the epilogue, determinism, error bounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cnnfast as cf
import problems
from cnnfast import config

_cpu: Any = config._cpu
pytestmark = pytest.mark.usefixtures("native")

ACTIVATIONS = (None, "relu", "relu6", "leaky_relu", "sigmoid", "tanh", "silu", "hard_swish")
UNITS = 64  # of 2**-24 of the sum of absolute products
# Channels in and out, size of the picture: layers of real networks.
LAYERS = [
    (256, 256, 28),  # MobileNet v1
    (512, 512, 14),
    (1024, 1024, 7),
    (512, 128, 28),  # ResNet-50
    (128, 512, 28),
    (1024, 256, 14),
    (256, 1024, 14),
    (512, 2048, 7),
    (2048, 512, 7),
    (960, 320, 7),  # MobileNet v2
    (192, 1152, 7),  # EfficientNet-B0
]


def run(
    x: np.ndarray,
    w: np.ndarray,
    levels: int,
    stride: tuple[int, int] = (1, 1),
    bias: np.ndarray | None = None,
    residual: np.ndarray | None = None,
    activation: str | None = None,
    slope: float = 0.0,
) -> np.ndarray:
    n, h, width, c = x.shape
    p, q = -(-h // stride[0]), -(-width // stride[1])
    s = _cpu.Conv2dSpec([n, h, width, c, 1, 1, w.shape[1], 1, *stride, 1, 1, 0, 0, p, q])
    return _cpu.conv2d_strassen(s, x, w, levels, bias, residual, ACTIVATIONS.index(activation), slope)


def draw(rng: np.random.Generator, n: int, h: int, w: int, c: int, o: int) -> tuple[np.ndarray, np.ndarray]:
    x = rng.standard_normal((n, h, w, c)).astype(np.float32)
    return x, (rng.standard_normal((c, o)) / np.sqrt(c)).astype(np.float32)


def check(got: np.ndarray, x: np.ndarray, w: np.ndarray, stride: tuple[int, int] = (1, 1)) -> None:
    x64, w64 = x[:, :: stride[0], :: stride[1]].astype(np.float64), w.astype(np.float64)
    error, scale = np.abs(got - x64 @ w64), np.abs(x64) @ np.abs(w64)
    assert error.max() <= UNITS * problems.U * scale.max()
    assert np.linalg.norm(error) <= 1e-6 * np.linalg.norm(scale)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 3),
    h=st.integers(1, 12),
    w=st.integers(1, 12),
    c=st.integers(1, 5),
    o=st.integers(1, 6),
    levels=st.integers(1, 2),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    threads=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_any_shape(
    n: int,
    h: int,
    w: int,
    c: int,
    o: int,
    levels: int,
    stride: tuple[int, int],
    threads: int,
    seed: int,
) -> None:
    x, weight = draw(np.random.default_rng(seed), n, h, w, 64 * c, 64 * o)
    cf.set_num_threads(threads)
    check(run(x, weight, levels, stride), x, weight, stride)


@pytest.mark.parametrize("levels", [1, 2])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("size", [8, 7])
def test_epilogue(
    rng: np.random.Generator, levels: int, activation: str | None, with_residual: bool, size: int
) -> None:
    x, w = draw(rng, 2, size, size, 128, 192)
    bias = rng.standard_normal(192).astype(np.float32)
    residual = rng.standard_normal((2, size, size, 192)).astype(np.float32) if with_residual else None
    y = x.astype(np.float64) @ w.astype(np.float64) + bias
    if residual is not None:
        y += residual
    with cf.use_backend("numpy"):
        if activation == "leaky_relu":
            y = np.where(y < 0, 0.3 * y, y)
        elif activation:
            y = getattr(cf.ops, activation)(y)
    got = run(x, w, levels, bias=bias, residual=residual, activation=activation, slope=0.3)
    assert np.allclose(got, y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("levels", [1, 2])
def test_whole_numbers(rng: np.random.Generator, levels: int) -> None:
    """Exact: no block may be mixed up with another."""
    x = rng.integers(-8, 9, (3, 9, 11, 128)).astype(np.float32)
    w = rng.integers(-8, 9, (128, 192)).astype(np.float32)
    assert np.array_equal(run(x, w, levels), x @ w)
    assert np.array_equal(run(x, w, levels, (2, 3)), x[:, ::2, ::3] @ w)


@pytest.mark.parametrize("levels", [1, 2])
@pytest.mark.parametrize(
    ("n", "h", "w", "c", "o"),
    [(2, 28, 28, 64, 192), (4, 7, 7, 320, 128), (3, 1, 1, 64, 64), (2, 5, 9, 1280, 64)],
)
def test_same_bits_for_threads_and_batch(
    rng: np.random.Generator, levels: int, n: int, h: int, w: int, c: int, o: int
) -> None:
    x, weight = draw(rng, n, h, w, c, o)
    bias = rng.standard_normal(o).astype(np.float32)
    cf.set_num_threads(1)
    one = run(x, weight, levels, bias=bias, activation="relu")
    for threads in (2, 3, 5):
        cf.set_num_threads(threads)
        assert np.array_equal(run(x, weight, levels, bias=bias, activation="relu"), one)
        for i in range(n):
            assert np.array_equal(run(x[i : i + 1], weight, levels, bias=bias, activation="relu")[0], one[i])


@pytest.mark.parametrize("levels", [1, 2])
@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize(("c", "o", "size"), LAYERS)
def test_error_of_layers(levels: int, c: int, o: int, size: int, positive: bool) -> None:
    rng = np.random.default_rng(c * o + size)
    x, w = draw(rng, 1, size, size, c, o)
    if positive:  # what follows a ReLU
        x = np.maximum(x, 0)
    x64, w64 = x.astype(np.float64), w.astype(np.float64)
    y, scale = x64 @ w64, np.abs(x64) @ np.abs(w64)
    error = np.abs(run(x, w, levels) - y)
    assert np.linalg.norm(error) <= 2e-5 * np.linalg.norm(y)
    assert (error / scale).max() <= UNITS * problems.U


def test_engine(rng: np.random.Generator) -> None:
    """Compiled plans take it for wide 1x1 convolutions where Winograd's algorithm is allowed."""

    def algorithms(engine: cf.Engine) -> list[str]:
        return [step.algorithm for step in engine.describe(runs=1).steps]

    x = rng.standard_normal((1, 28, 27, 256)).astype(np.float32)
    for o, algorithm in ((256, "Strassen, two levels"), (160, "Strassen")):
        model = cf.nn.Conv2d(256, o, 1)
        fast, direct = cf.compile(model, x.shape), cf.compile(model, x.shape, winograd=False)
        assert algorithms(fast) == [algorithm]
        assert algorithms(direct) == ["pointwise GEMM"]
        assert model.bias is not None
        check(fast(x).astype(np.float64) - model.bias.data, x, model.weight.data[0, 0])
    for narrow in (cf.nn.Conv2d(256, 16, 1), cf.nn.Conv2d(256, 250, 1)):
        assert algorithms(cf.compile(narrow, x.shape)) == ["pointwise GEMM"]
    few = rng.standard_normal((8, 7, 7, 256)).astype(np.float32)  # the batch does not count
    assert algorithms(cf.compile(model, few.shape)) == ["pointwise GEMM"]


def test_wrong_weights(rng: np.random.Generator) -> None:
    for shape, levels in (((64, 48), 1), ((48, 64), 1), ((32, 32, 2), 1), ((64, 96), 2), ((64, 64), 3)):
        with pytest.raises(ValueError, match="multiples of 32"):
            run(np.zeros((1, 4, 4, shape[0]), np.float32), np.zeros(shape, np.float32), levels)
