"""Winograd convolution against float64: every kind of shape, the epilogue, determinism, error bounds.

Nothing of the public interface uses it yet but compiled plans, so the native functions are called.
"""

from __future__ import annotations

import itertools
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
# Sides of a tile of outputs and of the kernel, stride, whether weights are transformed in the run.
Form = tuple[int, int, int, bool]
FORMS: tuple[Form, ...] = tuple(
    [
        (*form, plain)
        for form in ((2, 3, 1), (4, 3, 1), (5, 3, 1), (6, 3, 1), (2, 5, 1), (3, 5, 1), (2, 3, 2))
        for plain in (False, True)
    ]
)
UNITS = {2: 64, 3: 64, 4: 64, 5: 64, 6: 192}  # of 2**-24 of the sum of absolute products, by the tile
# Channels in and out, size of the picture: layers of real networks.
LAYERS = [
    (64, 64, 56),  # ResNet
    (128, 128, 28),
    (16, 32, 104),  # YOLOv2-tiny
    (96, 208, 14),  # GoogLeNet
    (64, 64, 20),  # as many pixels as tiles of 4x4 and 5x5 have: the last outputs are at the border
    (160, 320, 7),
    (512, 512, 7),
]
LAYERS_5x5 = [
    (64, 192, 27),  # AlexNet
    (16, 32, 28),  # GoogLeNet
    (48, 128, 7),
    (48, 64, 35),  # Inception v3
]
LARGE_LAYERS = [
    (256, 256, 14),
    (64, 64, 112),  # VGG-16
    (256, 256, 56),
    (512, 512, 14),
    (64, 64, 224),
    (256, 384, 13),  # AlexNet
    (64, 128, 52),  # YOLOv2-tiny
    (512, 1024, 13),
    (1024, 1024, 13),
    (1024, 512, 32),  # U-Net
]

Pads = tuple[tuple[int, int], tuple[int, int]]


def spec(x: np.ndarray, o: int, pads: Pads, k: int = 3, stride: int = 1) -> Any:
    n, h, w, c = x.shape
    (top, bottom), (left, right) = pads
    p, q = (h + top + bottom - k) // stride + 1, (w + left + right - k) // stride + 1
    return _cpu.Conv2dSpec([n, h, w, c, k, k, o, 1, stride, stride, 1, 1, top, left, p, q])


def run(
    x: np.ndarray,
    w: np.ndarray,
    form: Form,
    pads: Pads | None = None,
    bias: np.ndarray | None = None,
    residual: np.ndarray | None = None,
    activation: str | None = None,
    slope: float = 0.0,
) -> np.ndarray:
    tile, taps, stride, plain = form
    packed, pads = _cpu.pack_winograd(w, tile, stride, plain), pads or same(form)
    number, s = ACTIVATIONS.index(activation), spec(x, w.shape[3], pads, taps, stride)
    return _cpu.conv2d_winograd(s, x, packed, bias, residual, number, slope)


def exact(
    x: np.ndarray, w: np.ndarray, form: Form, pads: Pads | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The sums and the sums of absolute values in float64."""
    pads, stride = pads or same(form), form[2]
    x64, w64 = np.pad(x, ((0, 0), *pads, (0, 0))).astype(np.float64), w.astype(np.float64)
    n, h, width, _ = x64.shape
    p, q = (h - w.shape[0]) // stride + 1, (width - w.shape[1]) // stride + 1
    y = np.zeros((2, n, p, q, w.shape[3]))
    for i, j in itertools.product(range(w.shape[0]), range(w.shape[1])):
        part = x64[:, i:, j:][:, ::stride, ::stride][:, :p, :q]
        y[0] += part @ w64[i, j]
        y[1] += np.abs(part) @ np.abs(w64[i, j])
    return y[0], y[1]


def same(form: Form) -> Pads:
    """The padding that keeps the size of a picture."""
    return ((form[1] // 2,) * 2,) * 2  # type: ignore[return-value]


def draw(
    rng: np.random.Generator, form: Form, n: int, h: int, w: int, c: int, o: int
) -> tuple[np.ndarray, np.ndarray]:
    x, k = rng.standard_normal((n, h, w, c)).astype(np.float32), form[1]
    return x, (rng.standard_normal((k, k, c, o)) / np.sqrt(k * k * c)).astype(np.float32)


def check(got: np.ndarray, x: np.ndarray, w: np.ndarray, form: Form, pads: Pads | None = None) -> None:
    y, scale = exact(x, w, form, pads)
    assert got.shape == y.shape
    error = np.abs(got - y)
    # With few channels single large values count, wherever they lie in the tile; layers meet the bound below.
    few = 1 + 2 / x.shape[3]
    assert error.max() <= few * UNITS[form[0]] * problems.U * scale.max()
    assert np.linalg.norm(error) <= 2e-5 * np.linalg.norm(scale)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("n", "h", "w", "c", "o"),
    [
        (1, 12, 12, 64, 64),
        (2, 13, 9, 32, 48),
        (3, 7, 7, 17, 19),
        (1, 5, 31, 1, 1),
        (1, 3, 3, 3, 130),
        (2, 25, 4, 130, 5),
        (1, 1, 1, 16, 16),
        (1, 60, 61, 8, 16),
        (1, 9, 9, 1030, 33),
        (5, 14, 14, 96, 208),
        (1, 200, 3, 33, 65),
    ],
)
def test_shapes(rng: np.random.Generator, form: Form, n: int, h: int, w: int, c: int, o: int) -> None:
    x, weight = draw(rng, form, n, h, w, c, o)
    check(run(x, weight, form), x, weight, form)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "pads", list(itertools.product(itertools.product((0, 1, 2), (0, 2)), ((0, 1), (2, 0))))
)
def test_padding(rng: np.random.Generator, form: Form, pads: Pads) -> None:
    x, w = draw(rng, form, 1, 11, 8, 20, 24)
    check(run(x, w, form, pads), x, w, form, pads)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("o", [32, 37])
def test_epilogue(
    rng: np.random.Generator, form: Form, activation: str | None, with_residual: bool, o: int
) -> None:
    x, w = draw(rng, form, 2, 13, 14, 24, o)
    bias = rng.standard_normal(o).astype(np.float32)
    y, _ = exact(x, w, form)
    residual = rng.standard_normal(y.shape).astype(np.float32) if with_residual else None
    got = run(x, w, form, bias=bias, residual=residual, activation=activation, slope=0.3)
    y += bias
    if residual is not None:
        y += residual
    with cf.use_backend("numpy"):
        if activation == "leaky_relu":
            y = np.where(y < 0, 0.3 * y, y)
        elif activation:
            y = getattr(cf.ops, activation)(y)
    assert np.allclose(got, y, rtol=5e-5, atol=5e-5)
    without = run(x, w, form, residual=residual)
    assert np.allclose(without, exact(x, w, form)[0] + (0 if residual is None else residual), atol=5e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("n", "h", "w", "c", "o"),
    [(1, 40, 41, 33, 70), (4, 7, 7, 64, 320), (2, 30, 30, 256, 192), (3, 6, 5, 520, 48)],
)
def test_same_bits_for_threads_and_batch(
    rng: np.random.Generator, form: Form, n: int, h: int, w: int, c: int, o: int
) -> None:
    x, weight = draw(rng, form, n, h, w, c, o)
    bias = rng.standard_normal(o).astype(np.float32)
    cf.set_num_threads(1)
    one = run(x, weight, form, bias=bias, activation="relu")
    for threads in (2, 3, 5):
        cf.set_num_threads(threads)
        assert np.array_equal(run(x, weight, form, bias=bias, activation="relu"), one)
        for i in range(n):
            assert np.array_equal(run(x[i : i + 1], weight, form, bias=bias, activation="relu")[0], one[i])


@settings(max_examples=60, deadline=None)
@given(
    form=st.sampled_from(FORMS),
    n=st.integers(1, 3),
    h=st.integers(1, 30),
    w=st.integers(1, 30),
    c=st.integers(1, 80),
    o=st.integers(1, 140),
    pads=st.tuples(*[st.tuples(st.integers(0, 4), st.integers(0, 4))] * 2),
    threads=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_any_shape(
    form: Form, n: int, h: int, w: int, c: int, o: int, pads: Pads, threads: int, seed: int
) -> None:
    most = form[1] - 1
    pads = tuple([(min(a, most), min(b, most)) for a, b in pads])  # type: ignore[assignment]
    if h + sum(pads[0]) <= most or w + sum(pads[1]) <= most:
        return
    x, weight = draw(np.random.default_rng(seed), form, n, h, w, c, o)
    cf.set_num_threads(threads)
    check(run(x, weight, form, pads), x, weight, form, pads)


@pytest.mark.parametrize("form", FORMS)
def test_whole_numbers(rng: np.random.Generator, form: Form) -> None:
    """Exact but for the rounding of the transformed weights: no tile may be mixed up with another."""
    x = rng.integers(-8, 9, (2, 19, 23, 40)).astype(np.float32)
    w = rng.integers(-8, 9, (form[1], form[1], 40, 72)).astype(np.float32)
    assert np.array_equal(np.rint(run(x, w, form)), exact(x, w, form)[0])


def layer_error(c: int, o: int, size: int, form: Form, positive: bool) -> tuple[float, float]:
    rng = np.random.default_rng(c * o + size)
    x, w = draw(rng, form, 1, size, size, c, o)
    if positive:  # what follows a ReLU
        x = np.maximum(x, 0)
    columns = rng.choice(o, min(o, 32), replace=False)
    y, scale = exact(x, w[..., columns], form)
    error = np.abs(run(x, w, form)[..., columns] - y)
    return float(np.linalg.norm(error) / np.linalg.norm(y)), float((error / scale).max() / problems.U)


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize(
    ("form", "c", "o", "size"),
    [(form, *layer) for form in FORMS for layer in (LAYERS_5x5 if form[1] == 5 else LAYERS)],
)
def test_error_of_layers(c: int, o: int, size: int, form: Form, positive: bool) -> None:
    norm, units = layer_error(c, o, size, form, positive)
    assert norm <= 2e-5
    assert units <= UNITS[form[0]]


@pytest.mark.slow
@pytest.mark.parametrize("tile", [4, 5, 6])
@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize(("c", "o", "size"), LARGE_LAYERS)
def test_error_of_large_layers(c: int, o: int, size: int, plain: bool, tile: int) -> None:
    norm, units = layer_error(c, o, size, (tile, 3, 1, plain), True)
    assert norm <= 2e-5
    assert units <= UNITS[tile]


def test_choice() -> None:
    x = np.zeros((1, 56, 56, 64), np.float32)
    assert _cpu.winograd_tile(spec(x, 64, ((1, 1), (1, 1))), 1, 6) in (4, 6)
    assert _cpu.winograd_tile(spec(x, 64, ((1, 1), (1, 1))), 1, 4) == 4
    assert _cpu.winograd_tile(spec(x, 64, ((1, 1), (1, 1))), 1, 0) == 0
    few = np.zeros((1, 7, 7, 512), np.float32)  # larger tiles would wait for their weights
    assert _cpu.winograd_tile(spec(few, 512, ((1, 1), (1, 1))), 2, 6) == 2
    assert _cpu.winograd_tile(spec(x, 64, ((2, 2), (2, 2)), 5), 1, 2) == 2
    assert _cpu.winograd_tile(spec(x, 64, ((2, 2), (2, 2)), 5), 1, 5) == 3
    some = np.zeros((1, 14, 14, 256), np.float32)  # 9 tiles of 5x5 instead of 16
    assert _cpu.winograd_tile(spec(some, 256, ((1, 1), (1, 1))), 1, 5) == 5
    assert _cpu.winograd_tile(spec(some, 256, ((1, 1), (1, 1))), 1, 4) == 4
    few_terms = some[..., :32]  # larger tiles would not be as exact in corners
    assert _cpu.winograd_tile(spec(few_terms, 256, ((1, 1), (1, 1))), 1, 5) == 4
    assert _cpu.winograd_tile(spec(x, 128, ((1, 1), (1, 1)), 3, 2), 1, 4) == 2
    assert (
        _cpu.winograd_tile(spec(few, 512, ((1, 1), (1, 1)), 3, 2), 1, 4) == 0
    )  # half of the last tiles is cut
    for change in (
        {4: 1},
        {7: 2},
        {8: 2},
        {8: 3, 9: 3},
        {9: 2},
        {10: 2},
        {11: 2},
    ):  # kernel, groups, strides, dilations
        numbers = [1, 56, 56, 64, 3, 3, 64, 1, 1, 1, 1, 1, 1, 1, 56, 56]
        for place, value in change.items():
            numbers[place] = value
        assert _cpu.winograd_tile(_cpu.Conv2dSpec(numbers), 1, 6) == 0
    assert _cpu.winograd_tile(spec(np.zeros((1, 224, 224, 3), np.float32), 64, ((1, 1), (1, 1))), 1, 6) == 0
    assert _cpu.winograd_tile(spec(np.zeros((1, 1, 1, 64), np.float32), 64, ((1, 1), (1, 1))), 1, 6) == 0


def test_wrong_weights(rng: np.random.Generator) -> None:
    wrong = (((5, 5, 4, 4), 4), ((5, 5, 4, 4), 5), ((7, 7, 4, 4), 2), ((3, 3, 4, 4), 3), ((3, 4, 4), 4))
    for shape, tile in wrong:
        with pytest.raises(ValueError, match="3x3"):
            _cpu.pack_winograd(np.zeros(shape, np.float32), tile)
    for tile, stride in ((4, 2), (2, 3)):
        with pytest.raises(ValueError, match="3x3"):
            _cpu.pack_winograd(np.zeros((3, 3, 4, 4), np.float32), tile, stride)
