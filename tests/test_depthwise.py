"""depthwise_conv2d: each channel by itself; the kernels for it inside conv2d."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import cnnfast as cf
import problems
from cnnfast.errors import DTypeError, ShapeError
from cnnfast.ops import conv2d, depthwise_conv2d, pack_conv2d
from problems import Problem

TABLE = list(problems.chosen(problems.GENERAL, "depthwise_conv2d"))
LAYERS = list(problems.chosen(problems.LAYERS, "depthwise_conv2d"))


def call(p: Problem, a: dict[str, np.ndarray]) -> np.ndarray:
    return depthwise_conv2d(*(a[k] for k in ("x", "w", "b") if k in a), **p.attrs)


@pytest.mark.parametrize("p", TABLE, ids=str)
def test_table(backend: str, p: Problem) -> None:
    for kind in ("normal", "positive", "whole"):
        problems.check(p, call, kind)


@pytest.mark.parametrize("p", LAYERS, ids=str)
def test_layers_of_real_networks(native: None, p: Problem) -> None:
    problems.check(p, call, pixels=problems.some_pixels(p, 60))


@pytest.mark.parametrize("p", TABLE[::3], ids=str)
def test_float64_is_the_reference(p: Problem) -> None:
    problems.check_float64(p, call)


def test_it_is_conv2d_with_as_many_groups_as_channels(backend: str, rng: np.random.Generator) -> None:
    for c, m in ((1, 1), (1, 5), (3, 1), (7, 2), (16, 1), (17, 1), (33, 3), (1024, 1)):
        x, w, b = (rng.standard_normal(s).astype(np.float32) for s in ((2, 6, 7, c), (3, 2, c, m), (c * m,)))
        parameters = {
            "stride": (1, 2),
            "padding": ((1, 0), (2, 1)),
            "dilation": (2, 1),
            "activation": "relu6",
        }
        got = depthwise_conv2d(x, w, b, **parameters)
        as_groups = w.reshape(3, 2, 1, c * m)
        for weight in (as_groups, pack_conv2d(as_groups, groups=c)):
            assert np.array_equal(conv2d(x, weight, b, groups=c, **parameters), got)
        # Output channel c * M + m comes from channel c.
        one = conv2d(x[..., -1:], w[:, :, -1:], b[-m:], **parameters)
        np.testing.assert_allclose(got[..., -m:], one, rtol=1e-5, atol=1e-6)


def test_saving_of_separable_convolutions() -> None:
    """6x6x3 with five 3x3 filters: 2160 multiplications, or 432 + 240 = 672; the ratio is 1/5 + 1/9."""
    direct = cf.ops.cost("conv2d", (1, 6, 6, 3), (3, 3, 3, 5)).flops / 2
    depthwise = cf.ops.cost("depthwise_conv2d", (1, 6, 6, 3), (3, 3, 3, 1)).flops / 2
    pointwise = cf.ops.cost("conv2d", (1, 4, 4, 3), (1, 1, 3, 5)).flops / 2
    assert (direct, depthwise, pointwise) == (2160, 432, 240)
    assert (depthwise + pointwise) / direct == pytest.approx(1 / 5 + 1 / 9)


def test_cost() -> None:
    shapes = (2, 9, 8, 5), (3, 2, 5, 4), (20,)
    made = cf.ops.cost("depthwise_conv2d", *shapes, stride=(2, 1), padding=((1, 1), (0, 0)))
    out = 2 * 5 * 7 * 20
    assert made.flops == 2 * out * 3 * 2
    assert made.bytes == 4 * (2 * 9 * 8 * 5 + 3 * 2 * 20 + out + 20)


@pytest.mark.parametrize("c", [1, 3, 4, 8, 15, 16, 17, 31, 32, 33, 40, 100])
@pytest.mark.parametrize(
    ("k", "stride"),
    [((3, 3), 1), ((3, 3), 2), ((5, 5), 1), ((5, 5), 2), ((7, 7), 1), ((2, 3), 1), ((3, 3), (2, 1))],
)
def test_every_width_and_every_number_of_channels(native: None, k: tuple, stride: object, c: int) -> None:
    """Strips, edges and overlapping last channels, with a residual and a dear activation."""
    for w in (1, 2, 3, 5, 6, 7, 13):
        p = Problem(
            f"{w}x{c}",
            "depthwise_conv2d",
            (1, 5, w, c),
            (*k, c, 1),
            {"stride": stride, "padding": ((1, 2), (3, 3))},
        )
        a = problems.operands(p, "whole")
        exact, _ = problems.answer(p, a)
        got = call(p, a)
        assert np.array_equal(problems.at(p, got), exact)
        residual = np.arange(got.size, dtype=np.float32).reshape(got.shape) % 7 - 3
        fused = conv2d(
            a["x"],
            a["w"].reshape(*k, 1, c),
            a["b"],
            stride=stride,
            padding=((1, 2), (3, 3)),
            groups=c,
            residual=residual,
            activation="hard_swish",
        )
        expected = problems.activated("hard_swish", got.astype(np.float64) + residual)
        np.testing.assert_allclose(fused, expected, rtol=1e-6, atol=1e-6)


LARGE = [
    Problem("3x3", "depthwise_conv2d", (2, 57, 40, 41), (3, 3, 41, 1), {"padding": 1, "activation": "silu"}),
    Problem("3x3/2", "depthwise_conv2d", (2, 57, 40, 41), (3, 3, 41, 1), {"padding": 1, "stride": 2}),
    Problem("5x5", "depthwise_conv2d", (2, 29, 31, 72), (5, 5, 72, 1), {"padding": 2}),
    Problem("4x4", "depthwise_conv2d", (2, 29, 31, 30), (4, 4, 30, 1), {"padding": 2}),
    Problem(
        "1024", "depthwise_conv2d", (2, 14, 14, 1024), (3, 3, 1024, 1), {"padding": 1, "activation": "relu6"}
    ),
    Problem("late", "depthwise_conv2d", (1, 7, 7, 960), (3, 3, 960, 1), {"padding": 1}),
    Problem("multiplier", "depthwise_conv2d", (2, 40, 41, 9), (3, 3, 9, 4), {"padding": 1}),
]


@pytest.mark.parametrize("p", LARGE, ids=str)
def test_threads_and_batch_give_the_same_bits(native: None, p: Problem) -> None:
    a = problems.operands(p)
    cf.set_num_threads(1)
    expected = call(p, a)
    for threads in (1, 2, 3, 8):
        cf.set_num_threads(threads)
        assert np.array_equal(call(p, a), expected)
        for n in range(p.x[0]):
            assert np.array_equal(call(p, {**a, "x": a["x"][n : n + 1]})[0], expected[n])


@pytest.mark.parametrize("c", [3, 16, 40])
@pytest.mark.parametrize(
    ("k", "parameters"),
    [
        ((3, 3), {"padding": 1}),
        ((5, 5), {"padding": 2, "stride": 2}),
        ((2, 3), {"padding": 1}),
        ((3, 3), {"padding": 2, "dilation": 2}),
    ],
)
def test_nan_and_inf_stand_in_the_same_places(
    native: None, rng: np.random.Generator, k: tuple, parameters: dict, c: int
) -> None:
    for value, where in itertools.product((np.nan, np.inf, -np.inf), ("x", "w")):
        x, w = (rng.standard_normal(s).astype(np.float32) for s in ((1, 9, 11, c), (*k, c, 1)))
        if where == "x":
            x[0, 4, 5, c // 2] = x[0, 0, 10, c - 1] = value
        else:
            w[0, 0, c - 1] = value  # meets the padding: 0 * inf is NaN there
        got = depthwise_conv2d(x, w, **parameters)
        with cf.use_backend("numpy"), np.errstate(invalid="ignore"):
            reference = depthwise_conv2d(x, w, **parameters)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(reference))
        np.testing.assert_array_equal(
            np.where(np.isinf(got), got, 0), np.where(np.isinf(reference), reference, 0)
        )
        assert np.isfinite(got[..., : c // 2]).all()  # the others are untouched


def test_memory_of_the_inputs(backend: str, rng: np.random.Generator) -> None:
    x, w, b = (rng.standard_normal(s).astype(np.float32) for s in ((2, 6, 7, 17), (3, 3, 17, 2), (34,)))
    expected = depthwise_conv2d(x, w, b)
    for change in (np.asfortranarray, problems.with_gaps, lambda a: a.astype(">f4")):
        arrays = [change(a) for a in (x, w, b)]
        before = [a.tobytes() for a in arrays]
        assert np.array_equal(depthwise_conv2d(*arrays), expected)
        assert [a.tobytes() for a in arrays] == before
    for a in (x, w, b):
        a.setflags(write=False)
    assert np.array_equal(depthwise_conv2d(x, w, b), expected)
    assert depthwise_conv2d(x[:0], w, b).shape == (0, 4, 5, 34)
    assert np.array_equal(depthwise_conv2d(x[:, :0], w, b, padding=(2, 0)), np.broadcast_to(b, (2, 2, 5, 34)))


def test_refusals(backend: str) -> None:
    x, w = np.zeros((1, 8, 8, 4), np.float32), np.zeros((3, 3, 4, 2), np.float32)
    cases = [
        (
            (x, w[:, :, :3]),
            {},
            "depthwise_conv2d: weight has 3 input channels, x has 4 (x (1,8,8,4), weight (3,3,3,2))",
        ),
        (
            (x, w[..., 0]),
            {},
            "depthwise_conv2d: weight must have 4 dimensions KH,KW,C,M, got 3 (weight (3,3,4))",
        ),
        ((x[0], w), {}, "depthwise_conv2d: x must have 4 dimensions N,H,W,C, got 3 (x (8,8,4))"),
        ((x, w, np.zeros(4, np.float32)), {}, "depthwise_conv2d: bias must have shape (8,) (bias (4))"),
        ((x, w), {"stride": (1, 0)}, "depthwise_conv2d: stride must be at least 1, got 0"),
        (
            (x, w),
            {"padding": "reflect"},
            "depthwise_conv2d: padding must be one of 'valid', 'same', got 'reflect'",
        ),
        (
            (x, w),
            {"dilation": (1, 5)},
            "depthwise_conv2d: the kernel spans 11 in width, the padded input has 8 "
            "(x (1,8,8,4), weight (3,3,1,8))",
        ),
    ]
    for arrays, parameters, message in cases:
        with pytest.raises(ShapeError) as caught:
            depthwise_conv2d(*arrays, **parameters)
        assert str(caught.value) == message
    for wrong in (np.float16, np.uint8, np.int64):
        with pytest.raises(DTypeError, match="depthwise_conv2d: x is"):
            depthwise_conv2d(x.astype(wrong), w)
    with pytest.raises(DTypeError, match="depthwise_conv2d: weight is float64, x is float32"):
        depthwise_conv2d(x, w.astype(np.float64))
    with pytest.raises((ShapeError, MemoryError)):
        depthwise_conv2d(x, w, padding=1 << 19)


@pytest.mark.parametrize("v", [1 << 31, 1 << 40, 1 << 62])
def test_huge_parameters(backend: str, v: int) -> None:
    for c, m in ((3, 1), (40, 1), (5, 3), (1024, 1)):
        x = np.arange(5 * 6 * c, dtype=np.float32).reshape(1, 5, 6, c) % 11
        w = np.ones((3, 3, c, m), np.float32)
        expected = depthwise_conv2d(x, w)
        assert np.array_equal(depthwise_conv2d(x, w, stride=v), expected[:, :1, :1])
        assert np.array_equal(depthwise_conv2d(x, w, stride=(v, 1)), expected[:, :1])
        assert np.array_equal(depthwise_conv2d(x, w[:1, :1], dilation=v), depthwise_conv2d(x, w[:1, :1]))
        with pytest.raises(ShapeError):
            depthwise_conv2d(x, w, dilation=(1, v))
        for parameters in (
            {"padding": v},
            {"padding": v, "stride": v},
            {"padding": (v, 0), "dilation": (v, 1)},
        ):
            try:
                got = depthwise_conv2d(x, w, **parameters)
            except (ShapeError, MemoryError):
                continue
            assert got.size < 1 << 20
