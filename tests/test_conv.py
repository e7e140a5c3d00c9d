"""conv2d: shapes, numbers by hand, every problem of the table, packing, determinism, fuzz."""

from __future__ import annotations

import itertools
import os
import random
import time

import numpy as np
import pytest
from hypothesis import given, note, seed, settings
from hypothesis import strategies as st

import cnnfast as cf
import problems
from cnnfast import nn
from cnnfast.errors import DTypeError, ShapeError
from cnnfast.ops import conv2d, pack_conv2d
from problems import Problem

ACTIVATIONS = (None, "relu", "relu6", "leaky_relu", "sigmoid", "tanh", "silu", "hard_swish")
NUMPY_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
CONVS = list(problems.chosen(problems.GENERAL, "conv2d"))
LAYERS = list(problems.chosen(problems.LAYERS, "conv2d"))
SEED = int(os.environ.get("CNNFAST_TEST_SEED", random.SystemRandom().randrange(1 << 32)))
TIME_BOX = float(os.environ.get("CNNFAST_TEST_SECONDS", 3))


def image(rows: str) -> np.ndarray:
    """A one-channel picture from lines of numbers."""
    return np.array([[float(v) for v in row.split()] for row in rows.split("/")], np.float32)[
        None, :, :, None
    ]


def kernel(rows: str) -> np.ndarray:
    return image(rows)[0, :, :, :, None]


def call(p: Problem, a: dict[str, np.ndarray], **more: object) -> np.ndarray:
    return getattr(cf.ops, p.op)(*(a[k] for k in ("x", "w", "b") if k in a), **{**p.attrs, **more})


# --- numbers by hand -------------------------------------------------------------------------------


def test_cross_correlation_by_hand(backend: str) -> None:
    x = image("3 0 1 2 7 4/1 5 8 9 3 1/2 7 2 5 1 3/0 1 3 1 7 8/4 2 1 6 2 8/2 4 5 2 3 9")
    w = kernel("1 0 -1/1 0 -1/1 0 -1")
    expected = image("-5 -4 0 8/-10 -2 2 3/0 -2 -4 -7/-3 -2 -3 -16")
    assert np.array_equal(conv2d(x, w), expected)
    assert np.array_equal(conv2d(x.astype(np.float64), w.astype(np.float64)), expected)
    # The mathematical convolution turns this kernel into its negative.
    assert np.array_equal(conv2d(x, w, flip=True), -expected)


def test_stride_by_hand(backend: str) -> None:
    x = image(
        "2 3 7 4 6 2 9/6 6 9 8 7 4 3/3 4 8 3 8 9 7/7 8 3 6 6 3 4/4 2 1 8 3 4 6/3 2 4 1 9 8 3/0 1 3 9 2 1 4"
    )
    w = kernel("3 4 4/1 0 2/-1 0 3")
    assert np.array_equal(conv2d(x, w, stride=2), image("91 100 88/69 91 117/44 72 74"))


def test_flip(backend: str, rng: np.random.Generator) -> None:
    x = rng.integers(-9, 9, (1, 5, 6, 2)).astype(np.float32)
    w = rng.integers(-9, 9, (2, 3, 2, 3)).astype(np.float32)
    flipped = conv2d(x, w, flip=True)
    assert np.array_equal(flipped, conv2d(x, w[::-1, ::-1]))
    assert np.array_equal(flipped, conv2d(x, pack_conv2d(w), flip=True))
    # g * h = h * g holds for the mathematical convolution only.
    a, b = rng.integers(-9, 9, (1, 4, 3, 1)), rng.integers(-9, 9, (1, 2, 5, 1))
    a, b = a.astype(np.float32), b.astype(np.float32)
    one = conv2d(a, b[0, :, :, :, None], padding=(1, 4), flip=True)
    other = conv2d(b, a[0, :, :, :, None], padding=(3, 2), flip=True)
    assert np.array_equal(one, other)


# --- shapes ----------------------------------------------------------------------------------------


def shape(x: tuple, w: tuple, **parameters: object) -> tuple[int, ...]:
    y = conv2d(np.zeros(x, np.float32), np.zeros(w, np.float32), **parameters)
    return y.shape


def test_output_sizes(backend: str) -> None:
    assert shape((1, 6, 6, 1), (3, 3, 1, 1)) == (1, 4, 4, 1)
    assert shape((1, 6, 6, 1), (3, 3, 1, 1), padding=1) == (1, 6, 6, 1)
    assert shape((1, 7, 7, 1), (3, 3, 1, 1), stride=2) == (1, 3, 3, 1)
    assert shape((1, 8, 8, 1), (3, 3, 1, 1), stride=2) == (1, 3, 3, 1)  # the floor
    assert shape((1, 6, 6, 3), (3, 3, 3, 2)) == (1, 4, 4, 2)  # as many channels as filters
    # A simple network: 39x39x3 -> 37x37x10 -> 17x17x20 -> 7x7x40 -> 1960
    assert shape((1, 39, 39, 3), (3, 3, 3, 10)) == (1, 37, 37, 10)
    assert shape((1, 37, 37, 10), (5, 5, 10, 20), stride=2) == (1, 17, 17, 20)
    assert shape((1, 17, 17, 20), (5, 5, 20, 40), stride=2) == (1, 7, 7, 40)
    assert 7 * 7 * 40 == 1960
    # LeNet-like: 32x32x3 -> 28x28x6 -> (pool) 14x14x6 -> 10x10x16
    assert shape((1, 32, 32, 3), (5, 5, 3, 6)) == (1, 28, 28, 6)
    assert shape((1, 14, 14, 6), (5, 5, 6, 16)) == (1, 10, 10, 16)
    assert (28 * 28 * 6, 10 * 10 * 16) == (4704, 1600)


def test_parameters_and_their_sharing() -> None:
    """Weights and biases of layers; what the same map costs as a dense layer."""
    assert 3 * 3 * 3 * 10 + 10 == 280
    assert (5 * 5 * 3 + 1) * 6 == 456
    assert (5 * 5 * 6 + 1) * 16 == 2416
    # 3072 inputs connected to 4704 outputs, against 456 shared parameters
    assert np.prod((32, 32, 3)) * np.prod((28, 28, 6)) == 14_450_688


def test_sharing_is_a_sparse_dense_layer(backend: str, rng: np.random.Generator) -> None:
    """The dense matrix that equals a convolution: column j is the answer to unit image j."""
    w = rng.integers(-5, 6, (3, 2, 2, 3)).astype(np.float32)
    units = np.eye(4 * 5 * 2, dtype=np.float32).reshape(-1, 4, 5, 2)
    matrix = conv2d(units, w).reshape(40, -1)
    x = rng.integers(-5, 6, (3, 4, 5, 2)).astype(np.float32)
    assert np.array_equal(cf.ops.linear(x.reshape(3, -1), matrix), conv2d(x, w).reshape(3, -1))
    assert np.count_nonzero(matrix) <= w.size * 2 * 4


@pytest.mark.parametrize(
    ("n", "k", "s", "d"), list(itertools.product((1, 2, 5, 6, 7, 12), (1, 2, 3, 4, 5), (1, 2, 3, 5), (1, 2)))
)
def test_same_padding_gives_ceil(n: int, k: int, s: int, d: int) -> None:
    x = np.arange(1, n * 7 + 1, dtype=np.float32).reshape(1, n, 7, 1)
    w = np.ones((k, 3, 1, 1), np.float32)
    got = conv2d(x, w, padding="same", stride=(s, 2), dilation=(d, 1))
    assert got.shape == (1, -(-n // s), 4, 1)
    # An odd total puts the extra row at the end.
    total = max(0, (-(-n // s) - 1) * s + (k - 1) * d + 1 - n)
    by_hand = ((total // 2, total - total // 2), (1, 1))
    assert np.array_equal(got, conv2d(x, w, padding=by_hand, stride=(s, 2), dilation=(d, 1)))
    assert total % 2 == 0 or by_hand[0][1] == by_hand[0][0] + 1


@pytest.mark.parametrize("mode", NUMPY_MODES)
@pytest.mark.parametrize("padding", ["valid", "same", 2, (1, 3), [0, 2], ((0, 2), (3, 1)), [(1, 0), (0, 4)]])
def test_padding_forms_and_modes(backend: str, rng: np.random.Generator, padding: object, mode: str) -> None:
    x = rng.integers(-9, 10, (2, 6, 5, 3)).astype(np.float32)
    w = rng.integers(-9, 10, (4, 3, 3, 5)).astype(np.float32)
    explicit = {
        "valid": ((0, 0), (0, 0)),
        "same": ((1, 2), (1, 1)),
        2: ((2, 2), (2, 2)),
        (1, 3): ((1, 1), (3, 3)),
        (0, 2): ((0, 0), (2, 2)),
    }
    key = tuple(padding) if isinstance(padding, list) else padding
    pads = explicit.get(key, key)
    by_hand = conv2d(np.pad(x, ((0, 0), *pads, (0, 0)), mode=NUMPY_MODES[mode]), w)
    assert np.array_equal(conv2d(x, w, padding=padding, padding_mode=mode), by_hand)
    assert np.array_equal(conv2d(x, pack_conv2d(w), padding=padding, padding_mode=mode), by_hand)


def test_padding_modes_with_stride_and_dilation(backend: str, rng: np.random.Generator) -> None:
    x = rng.integers(-9, 10, (1, 8, 9, 4)).astype(np.float32)
    w = rng.integers(-9, 10, (3, 2, 2, 6)).astype(np.float32)
    parameters = {"stride": (3, 2), "dilation": (1, 3), "groups": 2}
    for mode, name in NUMPY_MODES.items():
        padded = np.pad(x, ((0, 0), (3, 0), (1, 4), (0, 0)), mode=name)
        got = conv2d(x, w, padding=((3, 0), (1, 4)), padding_mode=mode, **parameters)
        assert np.array_equal(got, conv2d(padded, w, **parameters))


# --- against the oracle ----------------------------------------------------------------------------


@pytest.mark.parametrize("p", CONVS, ids=str)
def test_table(backend: str, p: Problem) -> None:
    problems.check(p, call)


@pytest.mark.parametrize("p", CONVS[::4], ids=str)
def test_table_positive_data(backend: str, p: Problem) -> None:
    a = problems.operands(p, "positive")
    exact, scale = problems.answer(p, a)
    plain = {key: value for key, value in p.attrs.items() if key != "activation"}
    got = conv2d(a["x"], a["w"], a.get("b"), **plain)
    assert problems.units(problems.at(p, got), exact, scale) <= problems.limit(p, "positive")


@pytest.mark.parametrize("p", CONVS, ids=str)
def test_table_whole_numbers_are_exact(backend: str, p: Problem) -> None:
    problems.check(p, call, "whole")


@pytest.mark.parametrize("p", LAYERS, ids=str)
def test_layers_of_real_networks(native: None, p: Problem) -> None:
    pixels, channels = problems.some_pixels(p, 8), problems.some_channels(p, 40)
    problems.check(p, call, pixels=pixels, channels=channels)


def test_layers_were_found() -> None:
    pytest.importorskip("cnnfast.bench", reason="the benchmarks are not installed beside the package")
    assert len(LAYERS) > 150


@pytest.mark.parametrize("p", CONVS, ids=str)
def test_float64_is_the_reference(p: Problem) -> None:
    problems.check_float64(p, call)


def test_one_by_one_is_a_dense_layer_at_every_pixel(backend: str, rng: np.random.Generator) -> None:
    x = rng.standard_normal((1, 28, 28, 192), np.float32)
    w = rng.standard_normal((192, 32), np.float32)
    b = rng.standard_normal(32, np.float32)
    got = conv2d(x, w[None, None], b)
    assert got.shape == (1, 28, 28, 32)
    dense = cf.ops.linear(x.reshape(-1, 192), w, b).reshape(got.shape)
    assert np.array_equal(got, dense) if backend == "cpu" else np.allclose(got, dense, atol=1e-4)
    assert conv2d(x, np.zeros((1, 1, 192, 300), np.float32)).shape[3] == 300  # it may grow channels as well


def test_alexnet_groups(backend: str, rng: np.random.Generator) -> None:
    """AlexNet's second layer: two halves that never meet."""
    x = rng.integers(-4, 5, (1, 13, 13, 96)).astype(np.float32)
    w = rng.integers(-4, 5, (5, 5, 48, 256)).astype(np.float32)
    b = rng.integers(-4, 5, 256).astype(np.float32)
    halves = [
        conv2d(
            x[..., i * 48 : i * 48 + 48],
            w[..., i * 128 : i * 128 + 128],
            b[i * 128 : i * 128 + 128],
            padding=2,
        )
        for i in (0, 1)
    ]
    assert np.array_equal(conv2d(x, w, b, padding=2, groups=2), np.concatenate(halves, axis=3))


def test_dilation_is_a_kernel_with_holes(backend: str, rng: np.random.Generator) -> None:
    x = rng.integers(-9, 10, (1, 14, 13, 5)).astype(np.float32)
    w = rng.integers(-9, 10, (3, 4, 5, 6)).astype(np.float32)
    holes = np.zeros((5, 10, 5, 6), np.float32)
    holes[::2, ::3] = w
    parameters = {"padding": ((1, 2), (4, 3)), "stride": (2, 1)}
    assert np.array_equal(conv2d(x, w, dilation=(2, 3), **parameters), conv2d(x, holes, **parameters))


@pytest.mark.parametrize(
    ("x", "w", "parameters"),
    [
        ((1, 9, 9, 17), (3, 3, 17, 19), {"padding": 1}),
        ((1, 9, 9, 3), (3, 3, 3, 16), {"padding": 1}),
        ((2, 5, 5, 33), (1, 1, 33, 40), {}),
        ((1, 9, 9, 20), (3, 3, 1, 20), {"groups": 20, "padding": 1}),
        ((1, 6, 6, 20), (2, 4, 1, 40), {"groups": 20, "padding": 1}),
        ((1, 3, 7, 1024), (3, 3, 1, 1024), {"groups": 1024, "padding": 1}),
        ((1, 1, 1, 600), (1, 1, 600, 21), {}),
        ((1, 9, 9, 12), (3, 3, 3, 44), {"groups": 4, "padding": 1}),
        ((1, 9, 9, 36), (3, 3, 4, 36), {"groups": 9, "padding": 1}),
    ],
)
def test_fused_equals_unfused(
    backend: str, rng: np.random.Generator, x: tuple, w: tuple, parameters: dict
) -> None:
    xs, ws, b = (rng.standard_normal(s).astype(np.float32) for s in (x, w, w[3:]))
    plain = conv2d(xs, ws, **parameters)
    residual = rng.standard_normal(plain.shape).astype(np.float32)
    summed = (plain + b) + residual
    for activation in ACTIVATIONS:
        expected = problems.activated(activation, summed.astype(np.float64))
        got = conv2d(xs, ws, b, residual=residual, activation=activation, **parameters)
        if activation in (None, "relu", "relu6"):
            assert np.array_equal(got, expected), activation
        else:
            np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6, err_msg=str(activation))
        packed = pack_conv2d(ws, groups=parameters.get("groups", 1))
        assert np.array_equal(
            conv2d(xs, packed, b, residual=residual, activation=activation, **parameters), got
        )
    assert np.array_equal(conv2d(xs, ws, residual=residual, **parameters), plain + residual)
    assert np.array_equal(conv2d(xs, ws, b, **parameters), plain + b)


def test_adjoint(rng: np.random.Generator, backend: str) -> None:
    """<conv x, y> = <x, conv' y>, in float64 and float32."""
    for parameters in (
        {"stride": (2, 3), "padding": ((1, 0), (2, 1)), "dilation": (1, 2), "groups": 2},
        {"stride": (3, 1), "padding": (2, 0), "dilation": (2, 1), "groups": 1},
    ):
        x = rng.standard_normal((2, 9, 11, 6))
        w = rng.standard_normal((3, 2, 6 // parameters["groups"], 8))
        y = conv2d(x, w, **parameters)
        v = rng.standard_normal(y.shape)
        # What the forward pass does not reach is put back by output_padding.
        s, d, k = parameters["stride"], parameters["dilation"], w.shape[:2]
        pads = [(p, p) if isinstance(p, int) else p for p in parameters["padding"]]
        rest = tuple((x.shape[1 + a] + sum(pads[a]) - d[a] * (k[a] - 1) - 1) % s[a] for a in (0, 1))
        for dtype, tolerance in ((np.float64, 1e-13), (np.float32, 2e-6)):
            xs, ws, vs = (t.astype(dtype) for t in (x, w, v))
            # The same array: KH,KW,I/g,O is the transpose convolution's KH,KW,C_out/g,C_in.
            back = cf.ops.conv2d_transpose(vs, ws, output_padding=rest, **parameters)
            assert back.shape == x.shape
            left = np.vdot(conv2d(xs, ws, **parameters).astype(np.float64), vs.astype(np.float64))
            right = np.vdot(xs.astype(np.float64), back.astype(np.float64))
            size = np.linalg.norm(y) * np.linalg.norm(v)
            assert abs(left - right) <= tolerance * size


# --- packed weights --------------------------------------------------------------------------------


@pytest.mark.parametrize("p", CONVS[::2], ids=str)
def test_packed_weights_give_the_same_bits(backend: str, p: Problem) -> None:
    a = problems.operands(p)
    packed = pack_conv2d(a["w"], groups=p.attrs.get("groups", 1))
    assert np.array_equal(call(p, {**a, "w": packed}), call(p, a))


def test_packed_weights(backend: str, rng: np.random.Generator) -> None:
    x, w = rng.standard_normal((1, 6, 6, 4), np.float32), rng.standard_normal((3, 3, 2, 6), np.float32)
    packed = pack_conv2d(w, groups=2)
    assert packed.shape == w.shape
    assert packed.op == "conv2d"
    assert repr(packed) == "PackedWeights(conv2d, shape=(3, 3, 2, 6))"
    assert not packed.array.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        packed.array[0] = 0
    before = conv2d(x, packed, groups=2)
    w[...] = np.nan  # its own copy
    assert np.array_equal(conv2d(x, packed, groups=2), before)
    # any size, stride, padding and dilation
    wide = rng.standard_normal((2, 4, 9, 4), np.float32)
    parameters = {"groups": 2, "stride": (1, 2), "padding": ((0, 3), (1, 1)), "dilation": (1, 2)}
    assert np.array_equal(conv2d(wide, packed, **parameters), conv2d(wide, packed.array, **parameters))
    doubles = pack_conv2d(packed.array.astype(np.float64), groups=2)
    assert conv2d(x.astype(np.float64), doubles, groups=2).dtype == np.float64
    with pytest.raises(ShapeError, match=r"conv2d: the weight was packed for \(2,\), the call has \(1,\)"):
        conv2d(x, packed)
    with pytest.raises(DTypeError, match="conv2d: weight is float32, x is float64"):
        conv2d(x.astype(np.float64), packed, groups=2)
    for other in (
        cf.ops.pack_linear(np.ones((4, 6), np.float32)),
        cf.ops.pack_conv2d_transpose(np.ones((3, 3, 6, 4), np.float32)),
    ):
        for flip in (False, True):
            with pytest.raises(ShapeError, match=f"conv2d: the weight was packed for {other.op}"):
                conv2d(x, other, flip=flip)
    with pytest.raises(ShapeError, match="6 output channels cannot be split into 4 groups"):
        pack_conv2d(packed.array, groups=4)
    with pytest.raises(ShapeError, match="weight must have 4 dimensions"):
        pack_conv2d(packed.array[0])
    with pytest.raises(DTypeError):
        pack_conv2d(np.ones((3, 3, 2, 6), np.int64))


# --- groups of few channels ------------------------------------------------------------------------


@pytest.mark.parametrize("group", [2, 4, 8])
@pytest.mark.parametrize("groups", [2, 3, 5, 8, 16, 33])
@pytest.mark.parametrize(
    ("kernel", "parameters"),
    [
        ((3, 3), {"padding": ((1, 2), (3, 3))}),
        ((3, 3), {"stride": 2, "padding": 1}),
        ((2, 3), {"stride": (3, 1), "dilation": (2, 1), "padding": ((4, 0), (0, 2))}),
        ((3, 3), {"stride": (1, 3)}),
        ((3, 2), {"dilation": (1, 2), "padding": 2}),
    ],
)
def test_groups_of_few_channels(
    native: None, group: int, groups: int, kernel: tuple[int, int], parameters: dict
) -> None:
    """Every width of a strip, its edges, overlapping last channels; a residual and a dear activation."""
    c = group * groups
    for width in (3, 5, 6, 7, 8, 13, 18):
        name = f"{c} in groups of {group}, width {width}"
        p = Problem(name, "conv2d", (1, 7, width, c), (*kernel, group, c), {**parameters, "groups": groups})
        a = problems.operands(p, "whole")
        exact, _ = problems.answer(p, a)
        got = call(p, a)
        assert np.array_equal(problems.at(p, got), exact)
        packed = pack_conv2d(a["w"], groups=groups)
        residual = np.arange(got.size, dtype=np.float32).reshape(got.shape) % 7 - 3
        fused = conv2d(a["x"], packed, a["b"], residual=residual, activation="hard_swish", **p.attrs)
        expected = problems.activated("hard_swish", got.astype(np.float64) + residual)
        np.testing.assert_allclose(fused, expected, rtol=1e-6, atol=1e-6)
    problems.check(p, call)


@pytest.mark.parametrize("value", [0, np.nan, np.inf])
def test_groups_of_few_channels_without_numbers(native: None, rng: np.random.Generator, value: float) -> None:
    """In weights, where 0 * inf is NaN in the padding too, and in pictures; compiled to the same bits."""
    x = rng.standard_normal((2, 11, 9, 48)).astype(np.float32)
    w = rng.standard_normal((3, 3, 4, 48)).astype(np.float32)
    for array in (x, w):
        number, array[1, 1, 2, 3] = array[1, 1, 2, 3], value
        layer = nn.Conv2d(48, 48, 3, padding=1, stride=2, groups=12, bias=False)
        layer.load_state_dict({"weight": w})
        got = conv2d(x, w, groups=12, padding=1, stride=2)
        with cf.use_backend("numpy"), np.errstate(invalid="ignore"):
            expected = conv2d(x, w, groups=12, padding=1, stride=2)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(cf.compile(layer, x.shape)(x), got)
        array[1, 1, 2, 3] = number


# --- determinism -----------------------------------------------------------------------------------

LARGE = [
    Problem("threads 3x3", "conv2d", (2, 33, 31, 17), (3, 3, 17, 49), {"padding": 1, "activation": "silu"}),
    Problem("threads stem", "conv2d", (2, 65, 63, 3), (7, 7, 3, 32), {"padding": 3, "stride": 2}),
    Problem("threads 1x1", "conv2d", (2, 29, 31, 96), (1, 1, 96, 72)),
    Problem("threads few rows", "conv2d", (1, 4, 4, 512), (3, 3, 512, 80), {"padding": 1}),
    Problem("threads groups", "conv2d", (2, 21, 21, 64), (3, 3, 8, 128), {"padding": 1, "groups": 8}),
    Problem("threads few a group", "conv2d", (2, 41, 38, 72), (3, 3, 4, 72), {"padding": 1, "groups": 18}),
    Problem("threads pages", "conv2d", (2, 15, 9, 1024), (3, 3, 2, 1024), {"padding": 1, "groups": 512}),
    Problem("threads deep", "conv2d", (1, 3, 3, 1100), (2, 2, 1100, 130)),
    Problem("threads depthwise", "conv2d", (2, 57, 40, 40), (3, 3, 1, 40), {"padding": 1, "groups": 40}),
]


@pytest.mark.parametrize("p", LARGE, ids=str)
def test_threads_and_batch_give_the_same_bits(native: None, p: Problem) -> None:
    a = problems.operands(p)
    packed = {**a, "w": pack_conv2d(a["w"], groups=p.attrs.get("groups", 1))}
    cf.set_num_threads(1)
    expected = call(p, a)
    for threads in (1, 2, 3, 8):
        cf.set_num_threads(threads)
        assert np.array_equal(call(p, a), expected)
        assert np.array_equal(call(p, packed), expected)
        for n in range(p.x[0]):
            alone = {**a, "x": a["x"][n : n + 1]}
            assert np.array_equal(call(p, alone)[0], expected[n])
        many = {**a, "x": np.concatenate([a["x"]] * 3)}
        assert np.array_equal(call(p, many)[-1], expected[-1])


@pytest.mark.parametrize("p", CONVS[::3], ids=str)
def test_batch_gives_the_same_bits(native: None, p: Problem) -> None:
    a = problems.operands(p)
    x = np.concatenate([a["x"]] * 5)
    got = call(p, {**a, "x": x})
    for n in range(p.x[0]):
        assert np.array_equal(call(p, {**a, "x": x[n : n + 1]})[0], got[n])


# --- fuzzing ---------------------------------------------------------------------------------------


def test_fuzz() -> None:
    """Any shapes and parameters: the oracle's answer to the last bit, on every backend, or a ShapeError."""
    print(f"CNNFAST_TEST_SEED={SEED}")
    deadline = time.monotonic() + TIME_BOX

    @seed(SEED)
    @settings(max_examples=int(50 * TIME_BOX), deadline=None, database=None)
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        small = st.integers(1, 9)
        groups = data.draw(st.sampled_from((1, 1, 1, 2, 3, 7, 16)))
        cg = data.draw(st.sampled_from((1, 1, 2, 3, 5, 16, 17, 64)))
        og = data.draw(st.sampled_from((1, 2, 3, 8, 16, 17, 48, 65)))
        kh, kw = data.draw(st.tuples(*[st.integers(1, 5)] * 2))
        n, h, w = data.draw(st.integers(0, 3)), data.draw(small), data.draw(small)
        steps = st.one_of(st.integers(1, 4), st.sampled_from((7, 100, 1 << 31, 1 << 62)))
        attrs = {
            "stride": data.draw(st.tuples(steps, steps)),
            "dilation": data.draw(st.tuples(steps, steps)),
            "padding": data.draw(st.tuples(*[st.tuples(*[st.sampled_from((0, 0, 1, 2, 3, 9))] * 2)] * 2)),
            "groups": groups,
        }
        p = Problem(
            "fuzz",
            "conv2d",
            (n, h, w, cg * groups),
            (kh, kw, cg, og * groups),
            attrs,
            data.draw(st.booleans()),
            data.draw(st.booleans()),
        )
        note(repr(p))
        if time.monotonic() > deadline:
            return
        a = problems.operands(p, "whole")
        possible = all(size >= 1 for size in p.out[1:3])
        for name in ("numpy", "cpu") if cf.config._cpu is not None else ("numpy",):
            with cf.use_backend(name):
                if not possible:
                    with pytest.raises(ShapeError):
                        call(p, a)
                    continue
                exact, _ = problems.answer(p, a)
                assert np.array_equal(call(p, a).reshape(-1, p.out[3]), exact)
                packed = pack_conv2d(a["w"], groups=groups)
                assert np.array_equal(call(p, {**a, "w": packed}).reshape(-1, p.out[3]), exact)

    check()


# --- another opinion, and costs --------------------------------------------------------------------


def test_against_torch(backend: str, rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    nchw = lambda a: torch.from_numpy(np.ascontiguousarray(a.transpose(0, 3, 1, 2)))  # noqa: E731
    for _ in range(30):
        groups = int(rng.choice([1, 2, 4]))
        c, o = groups * int(rng.integers(1, 9)), groups * int(rng.integers(1, 9))
        kh, kw, sh, sw, dh, dw, ph, pw = (int(v) for v in rng.integers(1, 4, 8))
        x = rng.standard_normal((2, 11, 12, c), np.float32)
        w = rng.standard_normal((kh, kw, c // groups, o), np.float32)
        b = rng.standard_normal(o, np.float32)
        parameters = {"stride": (sh, sw), "dilation": (dh, dw), "groups": groups}
        theirs = functional.conv2d(
            nchw(x),
            torch.from_numpy(w.transpose(3, 2, 0, 1).copy()),
            torch.from_numpy(b),
            padding=(ph, pw),
            **parameters,
        )
        got = conv2d(x, w, b, padding=(ph, pw), **parameters)
        np.testing.assert_allclose(got, theirs.numpy().transpose(0, 2, 3, 1), rtol=2e-5, atol=2e-5)

        # The same array is the weight of the adjoint; torch keeps it as C_in, C_out/groups, KH, KW.
        y = rng.standard_normal((2, 5, 4, o), np.float32)
        extra = (int(rng.integers(0, max(sh, dh))), int(rng.integers(0, max(sw, dw))))
        bias = rng.standard_normal(c, np.float32)
        theirs = functional.conv_transpose2d(
            nchw(y),
            torch.from_numpy(w.transpose(3, 2, 0, 1).copy()),
            torch.from_numpy(bias),
            padding=(0, 1),
            output_padding=extra,
            **parameters,
        )
        got = cf.ops.conv2d_transpose(y, w, bias, padding=(0, 1), output_padding=extra, **parameters)
        np.testing.assert_allclose(got, theirs.numpy().transpose(0, 2, 3, 1), rtol=2e-5, atol=2e-5)


def test_cost() -> None:
    """FLOPs are two per multiply-add; bytes are every array once."""
    cost = cf.ops.cost("conv2d", (2, 8, 9, 6), (3, 2, 3, 10), (10,), None, (1, 2), ((1, 1), (0, 1)), 1, 2)
    out = 2 * 8 * 5 * 10
    assert cost.flops == 2 * out * 3 * 2 * 3
    assert cost.bytes == 4 * (2 * 8 * 9 * 6 + 3 * 2 * 3 * 10 + out + 10)
    with_residual = cf.ops.cost("conv2d", (1, 4, 4, 3), (1, 1, 3, 5), None, (1, 4, 4, 5))
    assert with_residual.bytes == 4 * (48 + 15 + 80 + 80)
    # Inception 3a: 5x5 direct against a 1x1 bottleneck of 16, in multiplications
    half = lambda *shapes, **more: cf.ops.cost("conv2d", *shapes, **more).flops / 2  # noqa: E731
    assert half((1, 28, 28, 192), (5, 5, 192, 32), padding="same") == 120_422_400
    assert half((1, 28, 28, 192), (1, 1, 192, 16)) == 2_408_448
    assert half((1, 28, 28, 16), (5, 5, 16, 32), padding="same") == 10_035_200
    assert half((1, 6, 6, 3), (3, 3, 3, 5)) == 2160


@pytest.mark.parametrize("p", CONVS[::3], ids=str)
def test_cost_of_the_table(p: Problem) -> None:
    made = cf.ops.cost("conv2d", p.x, p.w, p.out[-1:] if p.bias else None, **p.attrs)
    assert made.flops == 2 * p.macs
    assert made.bytes == 4 * (np.prod(p.x) + np.prod(p.w) + np.prod(p.out) + (p.out[-1] if p.bias else 0))
