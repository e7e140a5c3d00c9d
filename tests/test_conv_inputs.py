"""conv2d: memory of the inputs, edges, NaN and Inf, refusals, parameters without end."""

from __future__ import annotations

import os
import random

import numpy as np
import pytest

import cnnfast as cf
import problems
from cnnfast.errors import DTypeError, ShapeError
from cnnfast.ops import conv2d, pack_conv2d
from problems import Problem

ACTIVATIONS = (None, "relu", "relu6", "leaky_relu", "sigmoid", "tanh", "silu", "hard_swish")
NUMPY_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
CONVS = list(problems.chosen(problems.GENERAL, "conv2d"))
LAYERS = list(problems.chosen(problems.LAYERS, "conv2d"))
SEED = int(os.environ.get("CNNFAST_TEST_SEED", random.SystemRandom().randrange(1 << 32)))
TIME_BOX = float(os.environ.get("CNNFAST_TEST_SECONDS", 3))


def call(p: Problem, a: dict[str, np.ndarray], **more: object) -> np.ndarray:
    return getattr(cf.ops, p.op)(*(a[k] for k in ("x", "w", "b") if k in a), **{**p.attrs, **more})


# --- inputs ----------------------------------------------------------------------------------------


class Subclass(np.ndarray):
    """An array type of somebody else."""


def odd_forms(a: np.ndarray) -> dict[str, np.ndarray]:
    """The same values in memory that a kernel cannot read as it lies."""
    readonly = a.copy()
    readonly.setflags(write=False)
    raw = np.zeros(a.nbytes + 1, np.uint8)
    raw[1:] = a.ravel().view(np.uint8)
    return {
        "Fortran order": np.asfortranarray(a),
        "reversed": a[::-1, ...][::-1, ...] if a.ndim < 2 else np.ascontiguousarray(a[:, ::-1])[:, ::-1],
        "gaps": problems.with_gaps(a),
        "byte-swapped": a.astype(a.dtype.newbyteorder()),
        "read-only": readonly,
        "unaligned": raw[1:].view(a.dtype).reshape(a.shape),
        "subclass": a.view(Subclass),
    }


def test_memory_of_the_inputs(backend: str, rng: np.random.Generator) -> None:
    x, w, b = (rng.standard_normal(s, np.float32) for s in ((2, 6, 5, 3), (3, 3, 3, 4), (4,)))
    residual = rng.standard_normal((2, 4, 3, 4), np.float32)
    expected = conv2d(x, w, b, residual=residual)
    forms = [odd_forms(v) for v in (x, w, b, residual)]
    for name in forms[0]:
        made = [f[name] for f in forms]
        before = [v.tobytes() for v in made]
        got = conv2d(*made[:3], residual=made[3])
        assert np.array_equal(got, expected), name
        assert type(got) is np.ndarray
        assert got.flags.carray
        assert got.dtype == np.float32
        assert [v.tobytes() for v in made] == before, name
        assert not any(np.shares_memory(got, v) for v in made)
    broadcast = np.broadcast_to(x[:1], (3, 6, 5, 3))
    assert np.array_equal(conv2d(broadcast, w)[2], conv2d(x, w)[0])
    assert np.array_equal(
        conv2d(x.tolist(), w.astype(np.float64)), conv2d(x.astype(np.float64), w.astype(np.float64))
    )


@pytest.mark.parametrize("p", CONVS[::5], ids=str)
def test_inputs_are_never_written(backend: str, p: Problem) -> None:
    a = problems.operands(p)
    before = {key: value.copy() for key, value in a.items()}
    call(p, a)
    assert all(np.array_equal(a[key], before[key]) for key in a)


def test_empty_batch_and_empty_picture(backend: str) -> None:
    w = np.ones((3, 3, 4, 6), np.float32)
    assert conv2d(np.zeros((0, 8, 8, 4), np.float32), w).shape == (0, 6, 6, 6)
    assert conv2d(
        np.zeros((0, 8, 8, 4), np.float32), pack_conv2d(w), padding_mode="reflect", padding=1
    ).shape == (0, 8, 8, 6)
    assert conv2d(np.zeros((0, 8, 8, 4)), w.astype(float), residual=np.zeros((0, 6, 6, 6))).shape == (
        0,
        6,
        6,
        6,
    )
    # A picture without rows is all padding.
    b = np.arange(6, dtype=np.float32)
    got = conv2d(np.zeros((2, 0, 5, 4), np.float32), w, b, padding=(2, 0))
    assert np.array_equal(got, np.broadcast_to(b, (2, 2, 3, 6)))


@pytest.mark.parametrize(
    ("x", "w", "parameters"),
    [
        ((1, 1, 1, 1), (1, 1, 1, 1), {}),
        ((1, 1, 9, 1), (1, 3, 1, 1), {"padding": (0, 1)}),
        ((2, 9, 1, 5), (3, 1, 5, 1), {"stride": (2, 1)}),
        ((1, 1, 1, 3), (3, 3, 3, 8), {"padding": 1}),
        ((1, 2, 3, 3), (7, 5, 3, 9), {"padding": (3, 2)}),  # kernel larger than the picture
        ((1, 2, 3, 16), (7, 5, 16, 9), {"padding": ((5, 1), (0, 9)), "stride": (1, 2)}),
        ((1, 5, 4, 2), (3, 3, 2, 3), {"padding": 9, "stride": 2}),  # windows wholly in the padding
        ((1, 5, 4, 12), (3, 3, 12, 3), {"padding": 9, "stride": 2}),
        (
            (1, 4, 1, 3),
            (3, 2, 3, 8),
            {"padding": ((0, 0), (500, 0)), "stride": (1, 10000)},
        ),  # nothing but padding
        ((1, 1, 4, 3), (2, 3, 3, 8), {"padding": ((70, 0), (0, 0)), "stride": (100, 1)}),
        ((1, 3, 3, 6), (2, 2, 1, 6), {"padding": ((40, 0), (0, 40)), "stride": (3, 5), "groups": 6}),
        ((1, 1, 1, 1), (1, 1, 1, 5), {"groups": 1, "padding": ((0, 1), (1, 0))}),  # groups == channels == 1
        ((1, 1, 1, 2), (1, 1, 1, 2), {"groups": 2, "padding": ((0, 1), (1, 0))}),
        ((1, 8, 8, 8), (8, 8, 8, 5), {}),
    ],
)
def test_edges(backend: str, x: tuple, w: tuple, parameters: dict) -> None:
    for bias in (True, False):
        p = Problem("edge", "conv2d", x, w, parameters, bias)
        a = problems.operands(p, "whole")
        exact, _ = problems.answer(p, a)
        for _ in range(3):
            assert np.array_equal(problems.at(p, call(p, a)), exact)
        packed = pack_conv2d(a["w"], groups=parameters.get("groups", 1))
        assert np.array_equal(problems.at(p, call(p, {**a, "w": packed})), exact)


@pytest.mark.parametrize("c", [1, 3, 9, 17])
def test_many_taps(backend: str, c: int) -> None:
    p = Problem("taps", "conv2d", (1, 70, 67, c), (64, 64, c, 3), {"padding": (1, 2)})
    a = problems.operands(p, "whole")
    pixels = problems.some_pixels(p, 6)
    exact, _ = problems.answer(p, a, pixels)
    assert np.array_equal(problems.at(p, call(p, a), pixels), exact)


@pytest.mark.parametrize(
    ("w", "parameters"),
    [
        ((3, 3, 4, 20), {"padding": 1}),
        ((2, 3, 4, 20), {"padding": (0, 2), "dilation": (1, 2)}),
        ((1, 1, 4, 20), {"padding": 1}),
        ((3, 3, 1, 4), {"groups": 4, "padding": 1}),
        ((3, 3, 2, 4), {"groups": 2, "padding": 1}),
        ((3, 3, 1, 20), {"groups": 4, "padding": 1, "stride": (2, 1)}),
        ((5, 5, 2, 6), {"groups": 2, "padding": 2}),
    ],
)
@pytest.mark.parametrize("activation", [None, "relu", "relu6", "tanh"])
def test_nan_and_inf_stand_in_the_same_places(
    native: None, rng: np.random.Generator, w: tuple, parameters: dict, activation: str | None
) -> None:
    values = np.array([np.nan, np.inf, -np.inf, 0, 0], np.float32)
    for where in ("x", "w", "b", "xwb"):
        x, weight, b = (rng.standard_normal(s).astype(np.float32) for s in ((1, 6, 7, 4), w, w[3:]))
        for name, array in (("x", x), ("w", weight), ("b", b)):
            if name in where:
                array.ravel()[rng.choice(array.size, 2, replace=False)] = rng.choice(values, 2)
        if where == "w":
            weight[0, 0] = np.inf  # in the padding 0 * inf is NaN too
        got = conv2d(x, weight, b, activation=activation, **parameters)
        with cf.use_backend("numpy"), np.errstate(invalid="ignore"):
            reference = conv2d(x, weight, b, activation=activation, **parameters)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(reference))
        np.testing.assert_array_equal(
            np.where(np.isinf(got), got, 0), np.where(np.isinf(reference), reference, 0)
        )
        assert np.array_equal(
            conv2d(
                x,
                pack_conv2d(weight, groups=parameters.get("groups", 1)),
                b,
                activation=activation,
                **parameters,
            ),
            got,
            equal_nan=True,
        )


def test_nan_stays_in_its_receptive_field(backend: str) -> None:
    x = np.zeros((2, 9, 9, 17), np.float32)
    x[1, 4, 4, 16] = np.nan
    got = np.isnan(conv2d(x, np.ones((3, 3, 17, 19), np.float32), padding=1))
    assert not got[0].any()
    assert got[1, 3:6, 3:6].all()
    assert got.sum() == 9 * 19


# --- refusals --------------------------------------------------------------------------------------


def f32(*sizes: int) -> np.ndarray:
    return np.zeros(sizes, np.float32)


REFUSED = [
    (
        (f32(1, 8, 8, 4), f32(3, 3, 3, 16)),
        {},
        "conv2d: weight has 3 input channels, x has 4 (x (1,8,8,4), weight (3,3,3,16))",
    ),
    (
        (f32(1, 8, 8, 4), f32(3, 3, 4, 16)),
        {"groups": 2},
        "conv2d: weight has 4 input channels in each of 2 groups, x has 4 (x (1,8,8,4), weight (3,3,4,16))",
    ),
    (
        (f32(1, 8, 8, 4), f32(3, 3, 2, 15)),
        {"groups": 2},
        "conv2d: 15 output channels cannot be split into 2 groups (weight (3,3,2,15))",
    ),
    ((f32(8, 8, 4), f32(3, 3, 4, 16)), {}, "conv2d: x must have 4 dimensions N,H,W,C, got 3 (x (8,8,4))"),
    (
        (f32(1, 8, 8, 4), f32(3, 3, 4)),
        {},
        "conv2d: weight must have 4 dimensions KH,KW,C_in/groups,C_out, got 3 (weight (3,3,4))",
    ),
    ((f32(1, 8, 8, 4), f32(3, 0, 4, 2)), {}, "conv2d: the weight must not be empty (weight (3,0,4,2))"),
    (
        (f32(1, 8, 2, 4), f32(3, 3, 4, 2)),
        {},
        "conv2d: the kernel spans 3 in width, the padded input has 2 (x (1,8,2,4), weight (3,3,4,2))",
    ),
    (
        (f32(1, 8, 8, 4), f32(3, 3, 4, 2)),
        {"dilation": (4, 1)},
        "conv2d: the kernel spans 9 in height, the padded input has 8 (x (1,8,8,4), weight (3,3,4,2))",
    ),
    ((f32(1, 8, 8, 4), f32(3, 3, 4, 2), f32(3)), {}, "conv2d: bias must have shape (2,) (bias (3))"),
    (
        (f32(1, 8, 8, 4), f32(3, 3, 4, 2)),
        {"residual": f32(1, 8, 8, 2)},
        "conv2d: residual must have the shape of the output (residual (1,8,8,2), output (1,6,6,2))",
    ),
    ((f32(1, 8, 8, 4), f32(3, 3, 4, 2)), {"stride": 0}, "conv2d: stride must be at least 1, got 0"),
    ((f32(1, 8, 8, 4), f32(3, 3, 4, 2)), {"stride": (1, -2)}, "conv2d: stride must be at least 1, got -2"),
    ((f32(1, 8, 8, 4), f32(3, 3, 4, 2)), {"stride": 1.5}, "conv2d: stride must be a whole number, got 1.5"),
    ((f32(1, 8, 8, 4), f32(3, 3, 4, 2)), {"stride": True}, "conv2d: stride must be a whole number, got True"),
    (
        (f32(1, 8, 8, 4), f32(3, 3, 4, 2)),
        {"stride": (1, 2, 3)},
        "conv2d: stride must be a whole number or a pair (height, width), got (1, 2, 3)",
    ),
    (
        (f32(1, 8, 8, 4), f32(3, 3, 4, 2)),
        {"stride": {"a": 1}},
        "conv2d: stride must be a whole number, got {'a': 1}",
    ),
    ((f32(1, 8, 8, 4), f32(3, 3, 4, 2)), {"dilation": 0}, "conv2d: dilation must be at least 1, got 0"),
    (
        (f32(1, 8, 8, 4), f32(3, 3, 4, 2)),
        {"dilation": 1 << 63},
        "conv2d: dilation is too large: 9223372036854775808",
    ),
    ((f32(1, 8, 8, 4), f32(3, 3, 4, 2)), {"padding": -1}, "conv2d: padding must be at least 0, got -1"),
    (
        (f32(1, 8, 8, 4), f32(3, 3, 4, 2)),
        {"padding": "full"},
        "conv2d: padding must be one of 'valid', 'same', got 'full'",
    ),
    (
        (f32(1, 8, 8, 4), f32(3, 3, 4, 2)),
        {"padding": (1, 2, 3, 4)},
        "conv2d: padding must be a whole number or a pair (height, width), got (1, 2, 3, 4)",
    ),
    ((f32(1, 8, 8, 4), f32(3, 3, 4, 2)), {"groups": 0}, "conv2d: groups must be at least 1, got 0"),
    ((f32(1, 8, 8, 4), f32(3, 3, 4, 2)), {"groups": 1.0}, "conv2d: groups must be a whole number, got 1.0"),
    (
        (f32(1, 8, 8, 4), f32(3, 3, 4, 2)),
        {"activation": "swish"},
        "conv2d: activation must be one of 'relu', 'relu6', 'leaky_relu', 'sigmoid', 'tanh', 'silu', "
        "'hard_swish', got 'swish'",
    ),
    (
        (f32(1, 8, 8, 4), f32(3, 3, 4, 2)),
        {"padding_mode": "mirror", "padding": 1},
        "conv2d: padding_mode must be one of 'zeros', 'reflect', 'replicate', 'circular', got 'mirror'",
    ),
    (
        (f32(1, 8, 8, 4), f32(3, 3, 4, 2)),
        {"padding_mode": "reflect", "padding": 8},
        "reflect padding must be less than the height 8, got 8",
    ),
    (([[1.0], [1.0, 2.0]], f32(3, 3, 4, 2)), {}, "conv2d: x is not a rectangular array"),
]


@pytest.mark.parametrize(
    ("arrays", "parameters", "message"), REFUSED, ids=lambda v: v if isinstance(v, str) else ""
)
def test_messages(backend: str, arrays: tuple, parameters: dict, message: str) -> None:
    with pytest.raises(ShapeError) as caught:
        conv2d(*arrays, **parameters)
    if message.endswith(("array", "got 8")):
        assert message in str(caught.value)
    else:
        assert str(caught.value) == message
    assert isinstance(caught.value, ValueError)


def test_pairs_of_floats_are_refused_whatever_was_called_before(backend: str) -> None:
    x, w = f32(1, 8, 8, 4), f32(3, 3, 4, 2)
    for name in ("stride", "dilation", "padding"):
        conv2d(x, w, **{name: (1, 2)})
        for wrong in ((1.0, 2.0), (True, 2), [1, 2.0]):
            with pytest.raises(ShapeError, match=f"conv2d: {name} must be a whole number"):
                conv2d(x, w, **{name: wrong})
    conv2d(x, w, padding=((1, 0), (0, 1)))
    with pytest.raises(ShapeError, match=r"padding must be a whole number, got 1\.0"):
        conv2d(x, w, padding=((1.0, 0), (0, 1)))
    assert conv2d(x, w, stride=np.int64(2), padding=np.array([1, 2])).shape == (1, 4, 5, 2)


def test_element_types(backend: str) -> None:
    x, w, b = f32(1, 8, 8, 4), f32(3, 3, 4, 2), f32(2)
    for wrong in (np.float16, np.uint8, np.int64, np.bool_, np.complex64, np.longdouble, object):
        if wrong is np.longdouble and np.dtype(wrong).itemsize == 8:
            continue
        with pytest.raises(
            DTypeError, match=r"conv2d: x is .*; expected float32 \(native\) or float64 \(reference\)"
        ):
            conv2d(x.astype(wrong), w)
        with pytest.raises(DTypeError, match="conv2d: weight is"):
            conv2d(x, w.astype(wrong))
        with pytest.raises(DTypeError, match="conv2d: bias is"):
            conv2d(x, w, b.astype(wrong))
    with pytest.raises(DTypeError, match="conv2d: x is int64"):
        conv2d([[[[1, 2, 3, 4]]]], f32(1, 1, 4, 2))
    with pytest.raises(DTypeError, match="conv2d: x is"):
        conv2d("picture", w)
    with pytest.raises(
        DTypeError, match="conv2d: weight is float64, x is float32; expected one element type"
    ):
        conv2d(x, w.astype(np.float64))
    with pytest.raises(DTypeError, match="conv2d: bias is float32, x is float64"):
        conv2d(x.astype(np.float64), w.astype(np.float64), b)
    with pytest.raises(DTypeError, match="conv2d: residual is float64, x is float32"):
        conv2d(x, w, residual=np.zeros((1, 6, 6, 2)))
    # The element type is checked before the shape.
    with pytest.raises(DTypeError):
        conv2d(x, f32(3, 3, 5, 2).astype(np.float64))
    with pytest.raises(TypeError):  # DTypeError is one
        conv2d(x.astype(np.int32), w)


# --- parameters without end ------------------------------------------------------------------------

HUGE = [1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) + 1, 1 << 40, 1 << 58, (1 << 62) - 1, 1 << 62]


@pytest.mark.parametrize("v", HUGE)
def test_huge_parameters(backend: str, v: int) -> None:
    # What is legal is right: one window, or one tap.
    for c, groups in ((2, 1), (17, 1), (6, 6), (40, 40)):
        x = np.arange(4 * 5 * c, dtype=np.float32).reshape(1, 4, 5, c)
        w = np.ones((3, 2, c // groups, 2 * c), np.float32)
        expected = conv2d(x, w, groups=groups)
        assert np.array_equal(conv2d(x, w, stride=v, groups=groups), expected[:, :1, :1])
        assert np.array_equal(conv2d(x, w, stride=(1, v), groups=groups), expected[:, :, :1])
        assert np.array_equal(conv2d(x, w, stride=v, padding="same", groups=groups).shape, (1, 1, 1, 2 * c))
        point = w[:1, :1]
        assert np.array_equal(conv2d(x, point, dilation=v, groups=groups), conv2d(x, point, groups=groups))
        tall = w[:, :1]
        assert np.array_equal(conv2d(x, tall, dilation=(1, v), groups=groups), conv2d(x, tall, groups=groups))
        with pytest.raises(ShapeError):
            conv2d(x, w, dilation=v, groups=groups)
        with pytest.raises(ShapeError, match="weight has"):
            conv2d(x, w, groups=v)
        if v >= 1 << 31:
            # Sides of at least 2**31 cannot be had; a picture between them has few windows.
            for parameters in (
                {"padding": v},
                {"padding": v, "stride": v},
                {"padding": ((0, v), (0, 0)), "stride": v},
                {"padding": (v, 0), "dilation": (v, 1)},
            ):
                try:
                    got = conv2d(x, w, groups=groups, **parameters)
                except (ShapeError, MemoryError):
                    continue
                assert got.size < 1 << 20


def test_more_elements_than_any_machine_has(backend: str) -> None:
    for c, o in ((1, 1), (16, 16), (2, 33)):
        with pytest.raises((ShapeError, MemoryError)):
            conv2d(f32(1, 1, 1, c), f32(1, 1, c, o), padding=1 << 20)
        with pytest.raises((ShapeError, MemoryError)):
            conv2d(f32(1, 1, 1, c), f32(3, 3, c, o), padding=1 << 20)
        with pytest.raises((ShapeError, MemoryError)):
            conv2d(f32(1, 1, 1, c), f32(1, 1, c, o), padding=1 << 20, padding_mode="replicate")
    with pytest.raises((ShapeError, MemoryError)):
        conv2d(f32(1, 1, 1, 8), f32(3, 3, 1, 8), padding=1 << 20, groups=8)
    with pytest.raises(ShapeError, match="more than can be addressed"):
        conv2d(f32(0, 1, 1, 1), f32(1, 1, 1, 1), padding=1 << 40)
    assert conv2d(f32(1, 1, 1, 1), f32(1, 1, 1, 1)).shape == (1, 1, 1, 1)  # still usable
