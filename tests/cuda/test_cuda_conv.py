"""Convolutions, matrix products and their gradients on a device, against the NumPy definitions in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from device_checks import SCHEDULES, close, given, near

from cnnfast import ops
from cnnfast.ops import conv, conv_grad, conv_mma, conv_transpose, linear_grad
from cnnfast.ops.depthwise_block import DEPTHWISE_BLOCK, infer_depthwise_block
from cnnfast.ops.gated_conv2d import GATED_CONV2D, infer_gated_conv2d
from cnnfast.ops.linear import (
    GRAM_MATRIX,
    LINEAR,
    MATMUL,
    infer_gram_matrix,
    infer_linear,
    infer_matmul,
)
from cnnfast.ops.registry import Op

Given = tuple[Any, np.ndarray]


def check(op: Op, spec: Any, products: int, *arrays: Given | None, dtype: str = "float32") -> None:
    """The operator on the device against its definition, which also bounds the error: sums of |a| |b|."""
    device = [None if a is None else a[0] for a in arrays]
    wide = [None if a is None else a[1] for a in arrays]
    got = op.on_device(spec, *device)
    wanted = op.reference(spec, *wide)
    sizes = op.reference(spec, *[None if a is None else np.abs(a) for a in wide])
    # Sums of so many terms, whatever their order, and a rounding or two.
    near(got, wanted, dtype, products + 3, sizes)


@pytest.fixture
def without_tensor_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices of compute capability 7.5 have none that this package uses."""
    monkeypatch.setattr(conv_mma, "_usable", lambda module: False)


# Shape of x, of the weight, and parameters: plain, tails (17 channels, 7 pixels), strided, one of each kind
# of kernel: quads on both sides, on either, on none; narrow and wide.
CONVOLUTIONS = [
    ((1, 6, 5, 8), (3, 3, 8, 36), {"padding": 1}),
    ((2, 7, 7, 17), (3, 3, 17, 19), {"padding": "same"}),
    ((1, 9, 8, 3), (5, 3, 3, 40), {"stride": 2, "padding": ((2, 1), (0, 1))}),
    ((1, 7, 9, 8), (3, 2, 8, 5), {"stride": (2, 3), "dilation": (2, 1), "padding": 2}),
    ((1, 6, 6, 24), (3, 3, 8, 12), {"groups": 3, "padding": 1}),
    ((1, 5, 5, 6), (2, 2, 3, 10), {"groups": 2, "stride": (1, 2)}),
    ((1, 4, 4, 12), (1, 1, 12, 72), {}),
    ((1, 5, 3, 7), (1, 1, 7, 3), {}),
    ((1, 5, 5, 8), (1, 1, 8, 8), {"stride": 2}),
    ((1, 3, 3, 64), (3, 3, 64, 4), {"padding": 1}),
    ((1, 11, 10, 2), (4, 4, 2, 4), {"stride": 10, "padding": 1}),
]


@pytest.mark.parametrize(("x", "w", "parameters"), CONVOLUTIONS)
def test_conv2d(device: Any, rng: np.random.Generator, x: Any, w: Any, parameters: Any) -> None:
    s = conv.infer_conv2d(x, w, **parameters)
    check(conv.CONV2D, s, np.prod(w[:3]), given(rng, x), given(rng, w))
    # A bias and a residual are two more terms of the sum.
    s = conv.infer_conv2d(x, w, w[3:], s.out, **parameters)
    arrays = [given(rng, shape) for shape in (x, w, w[3:], s.out)]
    check(conv.CONV2D, s, np.prod(w[:3]) + 2, *arrays[:2], None, *arrays[2:])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(("x", "w", "parameters"), CONVOLUTIONS[:4])
def test_conv2d_of_two_bytes(
    device: Any,
    rng: np.random.Generator,
    without_tensor_cores: None,
    x: Any,
    w: Any,
    parameters: Any,
    dtype: str,
) -> None:
    s = conv.infer_conv2d(x, w, w[3:], **parameters)
    x, w, b, g = (given(rng, shape, dtype=dtype) for shape in (x, w, w[3:], s.out))
    check(conv.CONV2D, s, np.prod(s.w[:3]) + 1, x, w, None, b, dtype=dtype)
    check(conv_grad.CONV2D_GRAD_INPUT, s, s.w[0] * s.w[1] * s.w[3], g, w, dtype=dtype)
    check(conv_grad.CONV2D_GRAD_WEIGHT, s, np.prod(s.out[:3]), x, g, dtype=dtype)
    check(conv_grad.BIAS_GRAD, s.out, np.prod(s.out[:3]), g, dtype=dtype)


@pytest.mark.parametrize(
    "activation", ["relu", "relu6", "leaky_relu", "sigmoid", "tanh", "silu", "hard_swish"]
)
def test_activations(shim: Any, rng: np.random.Generator, activation: str) -> None:
    for shape in ((3, 3, 8, 8), (3, 3, 8, 7), (3, 3, 1, 8)):
        x, w = given(rng, (1, 5, 4, 8)), given(rng, shape)
        s = conv.infer_conv2d(x[0].shape, shape, padding=1, groups=8 // shape[2])
        plain = conv.CONV2D.on_device(s, x[0], w[0]).numpy().astype(np.float64)
        s = conv.infer_conv2d(s.x, s.w, padding=1, groups=s.groups, activation=activation)
        got = conv.CONV2D.on_device(s, x[0], w[0])
        wanted = getattr(ops, activation)(plain)
        close(got, wanted, "float32", 8)


@pytest.mark.parametrize(("x", "w", "parameters"), CONVOLUTIONS)
def test_conv2d_gradients(device: Any, rng: np.random.Generator, x: Any, w: Any, parameters: Any) -> None:
    s = conv.infer_conv2d(x, w, **parameters)
    x, w, g = given(rng, x), given(rng, w), given(rng, s.out)
    check(conv_grad.CONV2D_GRAD_INPUT, s, s.w[0] * s.w[1] * s.w[3], g, w)
    check(conv_grad.CONV2D_GRAD_WEIGHT, s, np.prod(s.out[:3]), x, g)


DEPTHWISE = [
    ((1, 7, 9, 8), (3, 3, 8, 1), {"padding": 1}),
    ((2, 7, 7, 17), (3, 3, 17, 1), {"padding": 1, "stride": 2}),
    ((1, 9, 8, 8), (5, 5, 8, 1), {"padding": ((2, 1), (0, 3)), "stride": 2}),
    ((1, 6, 9, 5), (5, 5, 5, 1), {"padding": 2}),
    ((1, 8, 8, 4), (7, 7, 4, 1), {"padding": 3}),
    ((1, 8, 9, 4), (7, 7, 4, 1), {"padding": 3, "stride": 2}),
    ((1, 7, 6, 8), (3, 3, 8, 1), {"dilation": 2, "padding": 2}),
    ((1, 7, 6, 5), (2, 3, 5, 2), {"stride": (1, 2), "padding": 1}),
    ((1, 4, 4, 8), (1, 1, 8, 1), {}),
    ((1, 9, 7, 4), (3, 3, 4, 1), {"stride": 4, "padding": 1}),
]


@pytest.mark.parametrize(("x", "w", "parameters"), DEPTHWISE)
def test_depthwise(device: Any, rng: np.random.Generator, x: Any, w: Any, parameters: Any) -> None:
    channels = w[2] * w[3]
    s = conv.infer_depthwise_conv2d(x, w, (channels,), **parameters)
    x, w, g, b = (given(rng, shape) for shape in (x, w, s.out, (channels,)))
    check(conv.DEPTHWISE_CONV2D, s, s.w[0] * s.w[1] + 1, x, w, None, b)
    check(conv_grad.CONV2D_GRAD_INPUT, s, s.w[0] * s.w[1] * s.w[3] // s.groups, g, w)
    check(conv_grad.CONV2D_GRAD_WEIGHT, s, np.prod(s.out[:3]), x, g)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_depthwise_of_two_bytes(device: Any, rng: np.random.Generator, dtype: str) -> None:
    for x, w, parameters in (DEPTHWISE[0], DEPTHWISE[2], DEPTHWISE[3]):
        s = conv.infer_depthwise_conv2d(x, w, **parameters)
        check(
            conv.DEPTHWISE_CONV2D,
            s,
            w[0] * w[1],
            given(rng, x, dtype=dtype),
            given(rng, w, dtype=dtype),
            dtype=dtype,
        )


TRANSPOSED = [
    ((1, 4, 5, 8), (3, 3, 8, 8), {"stride": 2, "padding": 1, "output_padding": 1}),
    ((1, 3, 4, 7), (2, 2, 5, 7), {"stride": 2}),
    ((1, 4, 4, 6), (4, 3, 5, 6), {"stride": (3, 2), "padding": (1, 0), "groups": 2}),
    ((1, 4, 3, 8), (3, 3, 6, 8), {"stride": (2, 4), "dilation": (3, 2), "padding": 2}),
    ((1, 3, 3, 4), (2, 2, 3, 4), {"stride": 10, "output_padding": 3}),
    ((1, 4, 5, 8), (3, 3, 1, 8), {"stride": 2, "padding": 1, "groups": 8}),
]


@pytest.mark.parametrize(("x", "w", "parameters"), TRANSPOSED)
def test_conv2d_transpose(device: Any, rng: np.random.Generator, x: Any, w: Any, parameters: Any) -> None:
    channels = w[2] * parameters.get("groups", 1)
    s = conv_transpose.infer_conv2d_transpose(x, w, (channels,), **parameters)
    arrays = given(rng, x), given(rng, w), None, given(rng, (channels,))
    check(conv_transpose.CONV2D_TRANSPOSE, s, w[0] * w[1] * w[3] + 1, *arrays)


@pytest.mark.parametrize(
    ("rows", "inputs", "outputs"),
    [((1,), 64, 40), ((5,), 17, 7), ((2, 3), 12, 132), ((70,), 8, 10), ((3,), 1100, 4)],
)
def test_linear(device: Any, rng: np.random.Generator, rows: Any, inputs: int, outputs: int) -> None:
    s = infer_linear((*rows, inputs), (inputs, outputs), (outputs,))
    x, w, b = (given(rng, shape) for shape in (s.x, s.w, (outputs,)))
    g = given(rng, s.out)
    check(LINEAR, s, inputs + 1, x, w, None, b)
    check(linear_grad.LINEAR_GRAD_INPUT, s, outputs, g, w)
    check(linear_grad.LINEAR_GRAD_WEIGHT, s, int(np.prod(rows)), x, g)
    check(conv_grad.BIAS_GRAD, s.out, int(np.prod(rows)), g)


def test_many_rows(shim: Any, rng: np.random.Generator) -> None:
    """So many that large tiles are chosen, with a tail in both directions."""
    shim.set_schedule("shuffled", seed=11)
    x, w = given(rng, (132 * 128 - 5, 12)), given(rng, (12, 68))
    check(LINEAR, infer_linear(x[1].shape, w[1].shape), 12, x, w)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((3, 5, 7), (3, 7, 9)),
        ((2, 1, 8, 4), (3, 4, 8)),
        ((5, 0), (0, 3)),
        ((2, 4, 8), (8, 36)),
        ((0, 4, 8), (8, 3)),
        ((2, 1, 2, 1, 3, 4), (1, 3, 1, 2, 4, 5)),
    ],
)
def test_matmul(device: Any, rng: np.random.Generator, a: Any, b: Any) -> None:
    check(MATMUL, infer_matmul(a, b), a[-1], given(rng, a), given(rng, b))


@pytest.mark.parametrize("x", [(2, 3, 4, 8), (1, 5, 5, 17), (1, 9, 70), (1, 800, 4)])
def test_gram_matrix(device: Any, rng: np.random.Generator, x: Any) -> None:
    s = infer_gram_matrix(x)
    f = given(rng, x)
    check(GRAM_MATRIX, s, s.rows, f)
    g = GRAM_MATRIX.on_device(s, f[0]).numpy()
    np.testing.assert_array_equal(g, g.transpose(0, 2, 1))


def test_gradients_of_products(device: Any, rng: np.random.Generator) -> None:
    for op, s in (
        (MATMUL, infer_matmul((2, 3, 5, 8), (1, 8, 7))),
        (MATMUL, infer_matmul((5, 4), (3, 4, 8))),
        (GRAM_MATRIX, infer_gram_matrix((2, 3, 3, 5))),
    ):
        arrays = [given(rng, shape) for shape in ([s.x] if op is GRAM_MATRIX else [s.a, s.b])]
        g = given(rng, s.out)
        needs = tuple([True] * len(arrays))
        got = op.vjp.function(s, needs, g[0], [a[0] for a in arrays], None)
        wanted = op.vjp.function(s, needs, g[1], [a[1] for a in arrays], None)
        sizes = op.vjp.function(s, needs, np.abs(g[1]), [np.abs(a[1]) for a in arrays], None)
        for one, exact, size in zip(got, wanted, sizes, strict=True):
            near(one, exact, "float32", 60, size)


def test_bias_grad_of_many_rows(device: Any, rng: np.random.Generator) -> None:
    g = given(rng, (7, 100, 33))
    check(conv_grad.BIAS_GRAD, (7, 100, 33), 700, g)


def test_the_same_bits_under_every_schedule(shim: Any, rng: np.random.Generator) -> None:
    x, w = given(rng, (2, 6, 6, 32))[0], given(rng, (3, 3, 32, 40))[0]
    first = ops.conv2d(x, w, padding=1).numpy()
    for schedule in SCHEDULES:
        shim.set_schedule(schedule, seed=3)
        np.testing.assert_array_equal(ops.conv2d(x, w, padding=1).numpy(), first)


def test_fused_operators(device: Any, rng: np.random.Generator) -> None:
    x, gates, w = (1, 4, 3, 8), (1, 1, 1, 8), (1, 1, 8, 12)
    gated = infer_gated_conv2d(x, gates, w)
    check(GATED_CONV2D, gated, 10, given(rng, x), given(rng, gates), given(rng, w))
    block = infer_depthwise_block(x, w, (12,), (3, 3, 12, 1), (12,), (1, 1, 12, 8), (8,), x, padding=1)
    shapes = (x, w, (12,), (3, 3, 12, 1), (12,), (1, 1, 12, 8), (8,), x)
    check(DEPTHWISE_BLOCK, block, 9 * 10 + 14, *[given(rng, shape) for shape in shapes])


def test_public_functions(device: Any, rng: np.random.Generator) -> None:
    (x, wide), (w, wide_w) = given(rng, (1, 5, 6, 8)), given(rng, (3, 3, 8, 4))
    wanted = ops.conv2d(wide, wide_w, padding=1, activation="relu")
    size = ops.conv2d(np.abs(wide), np.abs(wide_w), padding=1)
    near(ops.conv2d(x, w, padding=1, activation="relu"), wanted, "float32", 75, size)
