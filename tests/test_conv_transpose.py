"""conv2d_transpose: numbers by hand, a brute force, the adjoint identity, and what must be refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

import cnnfast as cf
import problems
from cnnfast.errors import DTypeError, ShapeError
from cnnfast.ops import conv2d, conv2d_transpose, pack_conv2d_transpose
from problems import Problem

TABLE = list(problems.chosen(problems.GENERAL, "conv2d_transpose"))
LAYERS = list(problems.chosen(problems.LAYERS, "conv2d_transpose"))


def call(p: Problem, a: dict[str, np.ndarray]) -> np.ndarray:
    return conv2d_transpose(*(a[k] for k in ("x", "w", "b") if k in a), **p.attrs)


def pack(p: Problem, w: np.ndarray) -> cf.ops.PackedWeights:
    return pack_conv2d_transpose(
        w, **{k: v for k, v in p.attrs.items() if k in ("stride", "dilation", "groups")}
    )


def brute_force(
    x: np.ndarray, w: np.ndarray, stride: tuple, pads: tuple, extra: tuple, dilation: tuple, groups: int
) -> np.ndarray:
    """Every input value throws its kernel onto the output; what the padding cuts is left out."""
    n, h, width, c = x.shape
    kh, kw, og, _ = w.shape
    rows = (h - 1) * stride[0] + dilation[0] * (kh - 1) + 1 + extra[0] - sum(pads[0])
    columns = (width - 1) * stride[1] + dilation[1] * (kw - 1) + 1 + extra[1] - sum(pads[1])
    y = np.zeros((n, rows, columns, og * groups))
    for image, p, q, i, j, channel in np.ndindex(n, h, width, kh, kw, c):
        row = p * stride[0] + i * dilation[0] - pads[0][0]
        column = q * stride[1] + j * dilation[1] - pads[1][0]
        if 0 <= row < rows and 0 <= column < columns:
            g = channel // (c // groups)
            y[image, row, column, g * og : (g + 1) * og] += float(x[image, p, q, channel]) * w[
                i, j, :, channel
            ].astype(np.float64)
    return y


def test_by_hand(backend: str) -> None:
    x = np.array([[2, 1], [3, 2]], np.float32).reshape(1, 2, 2, 1)
    w = np.array([[1, 2, 1], [2, 0, 1], [0, 2, 1]], np.float32).reshape(3, 3, 1, 1)
    got = conv2d_transpose(x, w, stride=2, padding=1, output_padding=1)
    assert got[0, :, :, 0].tolist() == [[0, 4, 0, 1], [10, 7, 6, 3], [0, 7, 0, 2], [6, 3, 4, 2]]
    assert np.array_equal(conv2d_transpose(x, w, stride=2, padding=1), got[:, :3, :3])
    whole = conv2d_transpose(x, w, stride=2)
    assert whole.shape == (1, 5, 5, 1)
    assert np.array_equal(whole[:, 1:4, 1:4], got[:, :3, :3])
    assert whole[0, 2, 2, 0] == 2 * 1 + 1 * 0 + 3 * 1 + 2 * 1  # overlaps add
    # Not the inverse: the sum of the weights is spread, not divided.
    assert whole.sum() == x.sum() * w.sum()


@pytest.mark.parametrize("p", TABLE, ids=str)
def test_table(backend: str, p: Problem) -> None:
    for kind in ("normal", "positive", "whole"):
        problems.check(p, call, kind)
    a = problems.operands(p, "whole")
    assert np.array_equal(call(p, {**a, "w": pack(p, a["w"])}), call(p, a))


@pytest.mark.parametrize("p", LAYERS, ids=str)
def test_layers_of_real_networks(native: None, p: Problem) -> None:
    pixels, channels = problems.some_pixels(p, 12), problems.some_channels(p, 40)
    problems.check(p, call, pixels=pixels, channels=channels)


@pytest.mark.parametrize("p", TABLE[::2], ids=str)
def test_float64_is_the_reference(p: Problem) -> None:
    problems.check_float64(p, call)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_fuzz_against_brute_force(data: st.DataObject) -> None:
    """Unequal values on every axis, asymmetric padding, output_padding up to the dilation."""
    draw = data.draw
    two = lambda lo, hi: draw(st.tuples(st.integers(lo, hi), st.integers(lo, hi)))  # noqa: E731
    groups = draw(st.sampled_from((1, 2, 3)))
    x = (draw(st.integers(0, 2)), *two(1, 4), groups * draw(st.sampled_from((1, 2, 5))))
    w = (*two(1, 4), draw(st.sampled_from((1, 3, 17))), x[3])
    stride, dilation = two(1, 4), two(1, 3)
    pads = (two(0, 3), two(0, 3))
    extra = tuple(draw(st.integers(0, max(stride[a], dilation[a]) - 1)) for a in (0, 1))
    p = Problem(
        "fuzz",
        "conv2d_transpose",
        x,
        w,
        {"stride": stride, "dilation": dilation, "groups": groups, "padding": pads, "output_padding": extra},
        draw(st.booleans()),
    )
    note(repr(p))
    a = problems.operands(p, "whole")
    for name in ("numpy", "cpu") if cf.config._cpu is not None else ("numpy",):
        with cf.use_backend(name):
            if min(p.out[1:3]) < 1:
                with pytest.raises(ShapeError, match="the padding leaves no output"):
                    call(p, a)
                continue
            expected = brute_force(a["x"], a["w"], stride, pads, extra, dilation, groups) + a.get("b", 0)
            assert np.array_equal(call(p, a), expected)
            assert np.array_equal(call(p, {**a, "w": pack(p, a["w"])}), expected)
            assert np.array_equal(problems.answer(p, a)[0], expected.reshape(-1, p.out[3]))


def test_kernel_as_large_as_the_stride_is_a_matrix_product(backend: str, rng: np.random.Generator) -> None:
    x = rng.integers(-5, 6, (2, 3, 4, 6)).astype(np.float32)
    w = rng.integers(-5, 6, (2, 3, 5, 6)).astype(np.float32)
    got = conv2d_transpose(x, w, stride=(2, 3))
    expected = np.einsum("npqc,ijoc->npiqjo", x, w).reshape(2, 6, 12, 5)
    assert np.array_equal(got, expected)


def test_adjoint(backend: str, rng: np.random.Generator) -> None:
    """<conv x, y> = <x, conv' y> with the same weights, to rounding in float64 and float32."""
    for stride, dilation, pads, groups in (
        ((1, 1), (1, 1), ((0, 0), (0, 0)), 1),
        ((2, 3), (1, 2), ((1, 0), (2, 1)), 2),
        ((3, 2), (2, 1), ((2, 3), (0, 1)), 1),
    ):
        x, w = rng.standard_normal((2, 9, 11, 6)), rng.standard_normal((3, 2, 6 // groups, 8))
        parameters = {"stride": stride, "dilation": dilation, "padding": pads, "groups": groups}
        forward = conv2d(x, w, **parameters)
        y = rng.standard_normal(forward.shape)
        # Rows and columns that no window reaches come back as output_padding.
        rest = tuple(
            (x.shape[1 + a] + sum(pads[a]) - dilation[a] * (w.shape[a] - 1) - 1) % stride[a] for a in (0, 1)
        )
        for dtype, tolerance in ((np.float64, 1e-14), (np.float32, 1e-6)):
            xs, ws, ys = (t.astype(dtype) for t in (x, w, y))
            back = conv2d_transpose(ys, ws, output_padding=rest, **parameters)
            assert back.shape == x.shape
            left = np.vdot(conv2d(xs, ws, **parameters).astype(np.float64), ys.astype(np.float64))
            right = np.vdot(xs.astype(np.float64), back.astype(np.float64))
            assert abs(left - right) <= tolerance * np.linalg.norm(forward) * np.linalg.norm(y)


def test_gradient_of_each_weight_position(rng: np.random.Generator) -> None:
    """Column by column the matrix of conv2d is the transpose of that of conv2d_transpose."""
    w = rng.integers(-3, 4, (3, 2, 2, 3)).astype(np.float64)
    parameters = {"stride": (2, 1), "padding": ((1, 0), (0, 1)), "dilation": (1, 2)}
    forward = conv2d(np.eye(6 * 5 * 2).reshape(-1, 6, 5, 2), w, **parameters)
    rows = int(np.prod(forward.shape[1:]))
    backward = conv2d_transpose(
        np.eye(rows).reshape(-1, *forward.shape[1:]), w, output_padding=(0, 0), **parameters
    )
    assert backward.shape[1:] == (6, 5, 2)
    assert np.array_equal(forward.reshape(60, rows).T, backward.reshape(rows, 60))


LARGE = [
    Problem("2x2/2", "conv2d_transpose", (2, 17, 19, 64), (2, 2, 49, 64), {"stride": 2}),
    Problem(
        "3x3/2",
        "conv2d_transpose",
        (2, 17, 19, 33),
        (3, 3, 40, 33),
        {"stride": 2, "padding": 1, "output_padding": 1},
    ),
    Problem("16x16/8", "conv2d_transpose", (1, 9, 9, 21), (16, 16, 21, 21), {"stride": 8, "padding": 4}),
    Problem("groups", "conv2d_transpose", (2, 15, 13, 32), (4, 4, 12, 32), {"stride": (2, 3), "groups": 4}),
]


@pytest.mark.parametrize("p", LARGE, ids=str)
def test_threads_batch_and_packing_give_the_same_bits(native: None, p: Problem) -> None:
    a = problems.operands(p)
    packed = {**a, "w": pack(p, a["w"])}
    cf.set_num_threads(1)
    expected = call(p, a)
    for threads in (1, 2, 3, 8):
        cf.set_num_threads(threads)
        assert np.array_equal(call(p, a), expected)
        assert np.array_equal(call(p, packed), expected)
        for n in range(p.x[0]):
            assert np.array_equal(call(p, {**packed, "x": a["x"][n : n + 1]})[0], expected[n])


def test_packed_weights(backend: str, rng: np.random.Generator) -> None:
    x, w = (rng.standard_normal(s).astype(np.float32) for s in ((1, 4, 5, 4), (3, 3, 2, 4)))
    packed = pack_conv2d_transpose(w, stride=(2, 1), dilation=(1, 2), groups=2)
    parameters = {"stride": (2, 1), "dilation": (1, 2), "groups": 2}
    before = conv2d_transpose(x, packed, **parameters)
    assert repr(packed) == "PackedWeights(conv2d_transpose, shape=(3, 3, 2, 4))"
    w[...] = np.nan
    assert np.array_equal(conv2d_transpose(x, packed, **parameters), before)
    free = {**parameters, "padding": ((1, 0), (0, 2)), "output_padding": (1, 1)}
    assert np.array_equal(conv2d_transpose(x, packed, **free), conv2d_transpose(x, packed.array, **free))
    with pytest.raises(ValueError, match="read-only"):
        packed.array[...] = 0
    for wrong in ({"stride": 2}, {"dilation": 1}, {"groups": 1}):
        with pytest.raises(ShapeError, match="conv2d_transpose: the weight was packed for"):
            conv2d_transpose(x, packed, **{**parameters, **wrong})
    with pytest.raises(ShapeError, match="conv2d_transpose: the weight was packed for conv2d "):
        conv2d_transpose(x, cf.ops.pack_conv2d(packed.array), **parameters)
    with pytest.raises(DTypeError):
        conv2d_transpose(x.astype(np.float64), packed, **parameters)


@pytest.mark.parametrize(
    "parameters",
    [
        {"stride": 2},
        {"stride": 1, "padding": 1},
        {"stride": (2, 3), "dilation": 2, "padding": ((0, 2), (1, 0))},
    ],
)
def test_nan_and_inf_stand_in_the_same_places(
    native: None, rng: np.random.Generator, parameters: dict
) -> None:
    for value in (np.nan, np.inf, -np.inf):
        for where in ("x", "w", "b"):
            x, w, b = (rng.standard_normal(s).astype(np.float32) for s in ((1, 4, 5, 6), (3, 3, 7, 6), (7,)))
            if where == "x":
                x[0, 0, 4, 5] = x[0, 2, 2, 0] = value
            elif where == "w":
                w[0, 2, 3, 1] = w[2, 0, 6, 5] = value  # nothing outside x is multiplied by these
            else:
                b[2] = value
            packed = pack_conv2d_transpose(
                w, stride=parameters["stride"], dilation=parameters.get("dilation", 1)
            )
            got = conv2d_transpose(x, w, b, **parameters)
            with cf.use_backend("numpy"), np.errstate(invalid="ignore"):
                reference = conv2d_transpose(x, w, b, **parameters)
            np.testing.assert_array_equal(np.isfinite(got), np.isfinite(reference))
            np.testing.assert_allclose(got, reference, rtol=1e-4, atol=1e-4)
            assert np.array_equal(conv2d_transpose(x, packed, b, **parameters), got, equal_nan=True)


def test_weights_that_are_not_finite_with_groups(native: None, rng: np.random.Generator) -> None:
    """The same picture of infinities, and right numbers everywhere else."""
    p = Problem(
        "inf",
        "conv2d_transpose",
        (2, 3, 4, 6),
        (3, 2, 5, 6),
        {"stride": (2, 1), "groups": 3, "padding": ((1, 0), (0, 1))},
    )
    a = problems.operands(p, "whole")
    a["w"][1, 1, 2, 4] = np.inf
    got = call(p, a)
    with np.errstate(invalid="ignore"):
        expected, _ = problems.answer(p, a)
    assert np.array_equal(problems.at(p, got), expected, equal_nan=True)
    assert 0 < np.isinf(got).sum() < got.size / 4


def test_memory_of_the_inputs(backend: str, rng: np.random.Generator) -> None:
    x, w, b = (rng.standard_normal(s).astype(np.float32) for s in ((2, 3, 4, 5), (3, 3, 6, 5), (6,)))
    expected = conv2d_transpose(x, w, b, stride=2)
    for change in (np.asfortranarray, problems.with_gaps, lambda a: a.astype(">f4")):
        arrays = [change(a) for a in (x, w, b)]
        before = [a.tobytes() for a in arrays]
        assert np.array_equal(conv2d_transpose(*arrays, stride=2), expected)
        assert [a.tobytes() for a in arrays] == before
    for a in (x, w, b):
        a.setflags(write=False)
    assert np.array_equal(conv2d_transpose(x, w, b, stride=2), expected)
    assert conv2d_transpose(x[:0], w, b, stride=2).shape == (0, 7, 9, 6)


def test_refusals(backend: str) -> None:
    x, w = np.zeros((1, 4, 5, 6), np.float32), np.zeros((3, 3, 2, 6), np.float32)
    cases = [
        (
            (x, w[..., :5]),
            {},
            "conv2d_transpose: weight has 5 input channels, x has 6 (x (1,4,5,6), weight (3,3,2,5))",
        ),
        (
            (x, w),
            {"groups": 4},
            "conv2d_transpose: 6 input channels cannot be split into 4 groups (x (1,4,5,6))",
        ),
        (
            (x, w[0]),
            {},
            "conv2d_transpose: weight must have 4 dimensions KH,KW,C_out/groups,C_in, got 3 (weight (3,2,6))",
        ),
        ((x[0], w), {}, "conv2d_transpose: x must have 4 dimensions N,H,W,C, got 3 (x (4,5,6))"),
        (
            (x, w),
            {"stride": 2, "output_padding": 2},
            "conv2d_transpose: output_padding in height must be below stride or dilation, got 2",
        ),
        (
            (x, w),
            {"stride": 2, "dilation": 3, "output_padding": (2, 3)},
            "conv2d_transpose: output_padding in width must be below stride or dilation, got 3",
        ),
        ((x, w), {"padding": "same"}, "conv2d_transpose: padding must be given in numbers, got 'same'"),
        (
            (x, w),
            {"padding": (3, 0)},
            "conv2d_transpose: the padding leaves no output in height (x (1,4,5,6), weight (3,3,2,6))",
        ),
        ((x, w), {"stride": 0}, "conv2d_transpose: stride must be at least 1, got 0"),
        ((x, w), {"output_padding": -1}, "conv2d_transpose: output_padding must be at least 0, got -1"),
        ((x, w, np.zeros(6, np.float32)), {}, "conv2d_transpose: bias must have shape (2,) (bias (6))"),
        ((x[:, :0], w), {}, "conv2d_transpose: x must have at least one row and one column (x (1,0,5,6))"),
        ((x, w[:0]), {}, "conv2d_transpose: the weight must not be empty (weight (0,3,2,6))"),
    ]
    for arrays, parameters, message in cases:
        with pytest.raises(ShapeError) as caught:
            conv2d_transpose(*arrays, **parameters)
        assert str(caught.value) == message
    for wrong in (np.float16, np.uint8, np.int64):
        with pytest.raises(DTypeError, match="conv2d_transpose: x is"):
            conv2d_transpose(x.astype(wrong), w)
    with pytest.raises(DTypeError, match="conv2d_transpose: bias is float64, x is float32"):
        conv2d_transpose(x, w, np.zeros(2))


@pytest.mark.parametrize("v", [1 << 20, 1 << 31, 1 << 40, 1 << 61, 1 << 62])
def test_huge_parameters(backend: str, v: int) -> None:
    x = np.arange(1, 7, dtype=np.float32).reshape(1, 1, 1, 6)
    w = np.ones((2, 3, 4, 6), np.float32)
    # A single pixel is never moved by the stride, nor a single tap by the dilation.
    for weight in (w, pack_conv2d_transpose(w, stride=v)):
        assert np.array_equal(conv2d_transpose(x, weight, stride=v), conv2d_transpose(x, w))
    assert np.array_equal(conv2d_transpose(x, w[:1, :1], dilation=v), conv2d_transpose(x, w[:1, :1]))
    wide = np.ones((1, 2, 2, 6), np.float32)
    cases = [
        {"stride": v},
        {"dilation": v},
        {"padding": v},
        {"stride": v, "output_padding": v - 1},
        {"stride": v, "padding": ((v, 0), (v, 0))},
        {"stride": v, "padding": ((0, v), (v, 0))},
        {"dilation": v, "padding": ((v, 0), (v, v))},
        {"groups": v},
    ]
    for parameters in cases:
        for weight in (w, w[:1, :1]):
            if v > 1 << 20 or "padding" not in parameters:
                try:
                    got = conv2d_transpose(wide, weight, **parameters)
                except (ShapeError, MemoryError):
                    continue
                assert got.size < 1 << 24
    # Most of what such a stride spans may be cut away.
    if v == 1 << 20:
        got = conv2d_transpose(wide, w[:1, :1], stride=(v, 1), padding=((v - 1, 0), (0, 0)))
        assert got.shape == (1, 2, 2, 4)
        assert (got[:, 0] == 0).all()
        assert (got[:, 1] == 6).all()


def test_cost() -> None:
    """Every input pixel meets every weight of its channel."""
    made = cf.ops.cost("conv2d_transpose", (2, 5, 6, 8), (3, 2, 7, 8), (14,), (2, 1), 0, 0, 1, 2)
    out = 2 * (4 * 2 + 3) * (5 + 2) * 14
    assert made.flops == 2 * (2 * 5 * 6 * 8) * 3 * 2 * 7
    assert made.bytes == 4 * (2 * 5 * 6 * 8 + 3 * 2 * 7 * 8 + out + 14)
