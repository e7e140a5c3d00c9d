"""Tensor-core convolutions, dense layers and their gradients, against the definitions in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cnnfast import ops
from cnnfast.cuda import allow_tf32, asarray
from cnnfast.ops import conv_mma
from cnnfast.ops.conv import CONV2D, infer_conv2d, reference_conv2d
from cnnfast.ops.conv_grad import CONV2D_GRAD_WEIGHT

DTYPES = ["bfloat16", "float16", "float32"]
# Relative error of one rounding to the type; float32 operands are rounded to tf32.
UNIT = {"bfloat16": 2.0**-8, "float16": 2.0**-11, "float32": 2.0**-24}
# x, w, stride, padding, dilation, groups: plain, tails of channels and pixels, everything unequal, groups.
CASES = [
    ((2, 6, 6, 16), (3, 3, 16, 32), 1, 1, 1, 1),
    ((1, 7, 5, 17), (3, 3, 17, 23), (2, 1), 1, 1, 1),
    ((1, 11, 9, 3), (7, 7, 3, 16), 2, 3, 1, 1),
    ((1, 9, 8, 12), (3, 2, 12, 20), (2, 3), ((1, 0), (2, 1)), (1, 2), 1),
    ((2, 5, 5, 8), (1, 1, 8, 136), 1, 0, 1, 1),
    ((1, 6, 7, 32), (3, 3, 16, 32), 2, 1, 1, 2),
]


@pytest.fixture(autouse=True)
def _tf32() -> Any:
    with allow_tf32():
        yield


def _given(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> tuple[Any, np.ndarray]:
    """A device array, and its exact values in float64."""
    x = asarray(rng.standard_normal(shape).astype(np.float32), dtype)
    return x, x.numpy().astype(np.float64)


def _close(got: Any, wanted: np.ndarray, size: np.ndarray, depth: int, dtype: str) -> None:
    """Error at most one rounding of the result, and those of the sum: ``size`` is that of absolute products.

    Tensor cores cut rather than round when they add: two units for each addition. A product of tf32 has two
    operands with a relative error of 2^-11.
    """
    values = got.numpy().astype(np.float64)
    assert str(got.dtype) == dtype
    assert values.shape == wanted.shape
    operands = 2.0**-10 if dtype == "float32" else 0.0
    bound = 1.01 * UNIT[dtype] * np.abs(wanted) + (operands + (depth + 8) * 2.0**-23) * size + 1e-7
    assert (np.abs(values - wanted) <= bound).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_convolution(device: Any, rng: np.random.Generator, case: Any, dtype: str) -> None:
    x_shape, w_shape, stride, padding, dilation, groups = case
    (x, wide_x), (w, wide_w) = _given(rng, x_shape, dtype), _given(rng, w_shape, dtype)
    b, wide_b = _given(rng, w_shape[3:], dtype)
    call = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    sums = ops.conv2d(wide_x, wide_w, wide_b, **call)
    size = ops.conv2d(abs(wide_x), abs(wide_w), abs(wide_b), **call)
    depth = int(np.prod(w_shape[:3]))
    _close(ops.conv2d(x, w, b, **call), sums, size, depth, dtype)
    residual, wide_residual = _given(rng, sums.shape, dtype)
    got = ops.conv2d(x, w, b, residual=residual, activation="relu", **call)
    _close(got, np.maximum(sums + wide_residual, 0), size + abs(wide_residual), depth, dtype)


@pytest.mark.parametrize("tile", range(5))
def test_every_block(device: Any, rng: np.random.Generator, tile: int) -> None:
    x_shape, w_shape = (1, 12, 12, 24), (3, 3, 24, 40)
    (x, wide_x), (w, wide_w) = _given(rng, x_shape, "bfloat16"), _given(rng, w_shape, "bfloat16")
    s = infer_conv2d(x_shape, w_shape, padding="same")
    wanted, size = reference_conv2d(s, wide_x, wide_w), reference_conv2d(s, abs(wide_x), abs(wide_w))
    whole = conv_mma.conv2d(s, x, w, choice=(tile, 1))
    _close(whole, wanted, size, 216, "bfloat16")
    # The order of a sum does not depend on the block.
    assert np.array_equal(whole.numpy(), conv_mma.conv2d(s, x, w, choice=(3, 1)).numpy())
    for parts in (2, 4):
        _close(conv_mma.conv2d(s, x, w, choice=(tile, parts)), wanted, size, 216, "bfloat16")


def test_activations(device: Any, rng: np.random.Generator) -> None:
    (x, wide_x), (w, wide_w) = _given(rng, (1, 3, 3, 8), "float16"), _given(rng, (1, 1, 8, 8), "float16")
    for name in ("relu6", "leaky_relu", "sigmoid", "tanh", "silu", "hard_swish"):
        wanted = ops.conv2d(wide_x, wide_w, activation=name)
        size = ops.conv2d(abs(wide_x), abs(wide_w))  # no slope is above 1.1
        _close(ops.conv2d(x, w, activation=name), wanted, 1.1 * size, 8, "float16")


def test_nan_and_inf_stay_in_their_windows(device: Any) -> None:
    x = np.ones((1, 6, 6, 8), np.float32)
    x[0, 1, 1, 0], x[0, 4, 4, 3] = np.nan, np.inf
    w = np.ones((3, 3, 8, 8), np.float32)
    y = ops.conv2d(asarray(x, "bfloat16"), asarray(w, "bfloat16"), activation="relu").numpy()
    with np.errstate(invalid="ignore"):
        wanted = ops.conv2d(x.astype(np.float64), w.astype(np.float64), activation="relu")
    np.testing.assert_array_equal(np.isnan(y), np.isnan(wanted))
    np.testing.assert_array_equal(np.isinf(y), np.isinf(wanted))


def test_packed_weights(device: Any, rng: np.random.Generator) -> None:
    (x, _), (w, _) = _given(rng, (1, 5, 5, 8), "bfloat16"), _given(rng, (3, 3, 8, 8), "bfloat16")
    s = infer_conv2d(x.shape, w.shape)
    packed = conv_mma.pack(s, w, x.dtype)
    assert np.array_equal(packed.numpy()[0], w.numpy().transpose(3, 0, 1, 2))
    assert np.array_equal(CONV2D(s, x, w, packed).numpy(), CONV2D(s, x, w).numpy())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_gradient_of_input(device: Any, rng: np.random.Generator, case: Any, dtype: str) -> None:
    x_shape, w_shape, *rest = case
    s = infer_conv2d(x_shape, w_shape, None, None, *rest)
    (g, wide_g), (w, wide_w) = _given(rng, s.out, dtype), _given(rng, w_shape, dtype)
    call = dict(zip(("stride", "padding", "dilation", "groups"), rest, strict=True))
    wanted = ops.conv2d_grad_input(wide_g, wide_w, x_shape, **call)
    size = ops.conv2d_grad_input(abs(wide_g), abs(wide_w), x_shape, **call)
    depth = w_shape[0] * w_shape[1] * w_shape[3]
    _close(ops.conv2d_grad_input(g, w, x_shape, **call), wanted, size, depth, dtype)


def test_gradient_of_input_that_some_pixels_lack(device: Any, rng: np.random.Generator) -> None:
    s = infer_conv2d((1, 7, 7, 8), (1, 2, 8, 16), None, None, 3, 1)
    (g, wide_g), (w, wide_w) = _given(rng, s.out, "bfloat16"), _given(rng, s.w, "bfloat16")
    wanted = ops.conv2d_grad_input(wide_g, wide_w, s.x, stride=3, padding=1)
    size = ops.conv2d_grad_input(abs(wide_g), abs(wide_w), s.x, stride=3, padding=1)
    _close(ops.conv2d_grad_input(g, w, s.x, stride=3, padding=1), wanted, size, 32, "bfloat16")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("case", [c for c in CASES if c[1][3] // c[5] % 8 == 0])
def test_gradient_of_weight(device: Any, rng: np.random.Generator, case: Any, dtype: str) -> None:
    x_shape, w_shape, *rest = case
    s = infer_conv2d(x_shape, w_shape, None, None, *rest)
    (x, wide_x), (g, wide_g) = _given(rng, x_shape, dtype), _given(rng, s.out, dtype)
    wanted = CONV2D_GRAD_WEIGHT.reference(s, wide_x, wide_g)
    size = CONV2D_GRAD_WEIGHT.reference(s, abs(wide_x), abs(wide_g))
    depth = int(np.prod(s.out[:3]))
    _close(CONV2D_GRAD_WEIGHT(s, x, g), wanted, size, depth, dtype)
    for choice in ((0, 1), (1, 2)):
        _close(conv_mma.grad_weight(s, x, g, choice), wanted, size, depth, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_transpose_convolution(device: Any, rng: np.random.Generator, dtype: str) -> None:
    for stride, padding, more, dilation in ((2, 1, 1, 1), ((3, 1), (0, 1), (1, 0), (1, 2)), (2, 0, 0, 2)):
        (x, wide_x), (w, wide_w) = _given(rng, (2, 4, 3, 16), dtype), _given(rng, (3, 2, 24, 16), dtype)
        b, wide_b = _given(rng, (24,), dtype)
        call = {"stride": stride, "padding": padding, "output_padding": more, "dilation": dilation}
        wanted = ops.conv2d_transpose(wide_x, wide_w, wide_b, **call)
        size = ops.conv2d_transpose(abs(wide_x), abs(wide_w), abs(wide_b), **call)
        _close(ops.conv2d_transpose(x, w, b, **call), wanted, size, 6 * 16, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dense_layer_and_its_gradients(device: Any, rng: np.random.Generator, dtype: str) -> None:
    for rows, inputs, outputs in ((2, 40, 24), (1, 17, 10), (70, 64, 72)):
        (x, wide_x), (w, wide_w) = _given(rng, (rows, inputs), dtype), _given(rng, (inputs, outputs), dtype)
        (b, wide_b), (g, wide_g) = _given(rng, (outputs,), dtype), _given(rng, (rows, outputs), dtype)
        size = abs(wide_x) @ abs(wide_w) + abs(wide_b)
        _close(ops.linear(x, w, b), wide_x @ wide_w + wide_b, size, inputs, dtype)
        size = abs(wide_g) @ abs(wide_w.T)
        _close(ops.linear_grad_input(g, w), wide_g @ wide_w.T, size, outputs, dtype)
        if dtype != "float32" and outputs % 8 == 0:
            size = abs(wide_x.T) @ abs(wide_g)
            _close(ops.linear_grad_weight(x, g), wide_x.T @ wide_g, size, rows, dtype)


def test_empty_batch(device: Any) -> None:
    x, w = asarray(np.zeros((0, 4, 4, 8)), "float16"), asarray(np.zeros((3, 3, 8, 8)), "float16")
    assert ops.conv2d(x, w).shape == (0, 2, 2, 8)


def test_float32_is_not_rounded_unasked(shim: Any) -> None:
    s = infer_conv2d((1, 4, 4, 8), (1, 1, 8, 8))
    with allow_tf32(False):
        assert not conv_mma.accepts(s, np.dtype(np.float32))
    assert conv_mma.accepts(s, np.dtype(np.float32))


def test_sizes_beyond_32_bits_are_refused(shim: Any) -> None:
    numbers = conv_mma._numbers(infer_conv2d((1 << 20, 64, 64, 8), (1, 1, 8, 8)), 8)
    tiny = shim.Buffer(16)
    with pytest.raises(ValueError, match="smaller than the array"):
        shim.conv_mma(1, numbers, tiny, tiny, tiny, 0, None, None, 0, 0.0, None, -1, 0)


def test_depthwise_layers_are_no_products(device: Any, rng: np.random.Generator) -> None:
    s = infer_conv2d((1, 4, 4, 8), (3, 3, 1, 8), groups=8)
    assert not conv_mma.accepts(s, asarray(np.zeros(1), "bfloat16").dtype)


# Hopper: the blocks after those of mma, and windows that tensor maps describe.
HOPPER = [
    ((2, 9, 8, 64), (3, 3, 64, 72), 1, 1, 1),
    ((1, 13, 11, 72), (3, 2, 72, 40), (2, 3), ((1, 0), (2, 1)), (1, 2)),
    ((1, 12, 13, 16), (1, 1, 16, 264), 1, 0, 1),
    ((3, 9, 9, 8), (1, 1, 8, 16), 2, 0, 1),
]


@pytest.mark.parametrize("tile", [5, 6, 7])
@pytest.mark.parametrize("case", HOPPER)
def test_hopper(hopper: Any, rng: np.random.Generator, case: Any, tile: int) -> None:
    dtype = "float16" if tile == 6 else "bfloat16"
    x_shape, w_shape, *rest = case
    (x, wide_x), (w, wide_w) = _given(rng, x_shape, dtype), _given(rng, w_shape, dtype)
    b, wide_b = _given(rng, w_shape[3:], dtype)
    s = infer_conv2d(x_shape, w_shape, b.shape, None, *rest, activation="relu")
    wanted = reference_conv2d(s, wide_x, wide_w, None, wide_b)
    size = reference_conv2d(s, abs(wide_x), abs(wide_w), None, abs(wide_b))
    depth = int(np.prod(w_shape[:3]))
    _close(conv_mma.conv2d(s, x, w, None, b, choice=(tile, 1)), wanted, size, depth, dtype)
    residual, wide_residual = _given(rng, s.out, dtype)
    wanted = reference_conv2d(s, wide_x, wide_w, None, wide_b, wide_residual)
    got = conv_mma.conv2d(s, x, w, None, b, residual, choice=(tile, 1))
    _close(got, wanted, size + abs(wide_residual), depth, dtype)


def test_hopper_adds_in_the_order_of_mma(shim: Any, rng: np.random.Generator) -> None:
    (x, _), (w, _) = _given(rng, (1, 8, 8, 64), "bfloat16"), _given(rng, (3, 3, 64, 64), "bfloat16")
    s = infer_conv2d(x.shape, w.shape, padding="same")
    by_mma, by_wgmma = [conv_mma.conv2d(s, x, w, choice=(tile, 1)).numpy() for tile in (0, 5)]
    assert np.array_equal(by_mma, by_wgmma)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_arrays_that_lie_anywhere(device: Any, rng: np.random.Generator, dtype: str) -> None:
    """Parts of other arrays are read as arrays of their own, to the bit."""

    def moved(x: Any) -> Any:
        flat = np.concatenate([np.zeros(1, np.float32), x.numpy().ravel()])
        return asarray(flat, dtype).part(1, x.size).reshape(x.shape)

    s = infer_conv2d((1, 5, 6, 16), (3, 3, 16, 8), padding="same")
    x, w, g, residual = [_given(rng, shape, dtype)[0] for shape in (s.x, s.w, s.out, s.out)]
    assert moved(x).buffer.address % 16 != 0
    call = {"padding": "same", "activation": "relu"}
    wanted = ops.conv2d(x, w, residual=residual, **call).numpy()
    np.testing.assert_array_equal(ops.conv2d(moved(x), w, residual=moved(residual), **call).numpy(), wanted)
    flat = asarray(rng.standard_normal(9).astype(np.float32))
    b, aside = asarray(flat.numpy()[1:]), flat.part(1, 8)
    np.testing.assert_array_equal(ops.conv2d(x, w, aside).numpy(), ops.conv2d(x, w, b).numpy())
    np.testing.assert_array_equal(
        conv_mma.grad_input(s, moved(g), w).numpy(), conv_mma.grad_input(s, g, w).numpy()
    )
    if dtype == "bfloat16":
        weight = conv_mma.grad_weight(s, x, g).numpy()
        np.testing.assert_array_equal(conv_mma.grad_weight(s, moved(x), moved(g)).numpy(), weight)
