"""Gradients of convolution against their definition in float64, adjoint identities, torch, and themselves."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

import cnnfast as cf
import problems
from cnnfast.errors import DTypeError, ShapeError
from cnnfast.ops import bias_grad, conv2d, conv2d_grad_input, conv2d_grad_weight
from gradients import close, nchw, nhwc, torch_gradients
from problems import Problem

TABLE = [p for p in problems.GENERAL if p.op in ("conv2d", "depthwise_conv2d")]
LAYERS = [
    p
    for p in problems.LAYERS
    if p.op in ("conv2d", "depthwise_conv2d") and p.macs < 12_000_000 and p.out[1] * p.out[2] < 800
][::6]


def parameters(p: Problem) -> dict[str, Any]:
    """Keywords of the gradient operators; depthwise is a convolution of as many groups as channels."""
    kept = {k: v for k, v in p.attrs.items() if k in ("stride", "padding", "dilation", "groups")}
    return {**kept, "groups": p.x[3]} if p.op == "depthwise_conv2d" else kept


def weight_shape(p: Problem) -> tuple[int, ...]:
    return (*p.w[:2], 1, p.w[2] * p.w[3]) if p.op == "depthwise_conv2d" else p.w


def operands(p: Problem, kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, w and g: "normal", "positive", or "whole" numbers, whose sums are exact."""
    rng = np.random.default_rng(abs(hash((p.x, p.w, kind))) % 2**32)
    draw = {
        "normal": lambda s: rng.standard_normal(s),
        "positive": lambda s: rng.uniform(0.5, 1, s),
        "whole": lambda s: rng.integers(-4, 5, s),
    }[kind]
    made = [np.asarray(draw(s), np.float32) for s in (p.x, weight_shape(p), p.out)]
    return tuple(map(problems.with_gaps, made)) if p.views else tuple(made)  # type: ignore[return-value]


def grad_input_of(
    g: np.ndarray, w: np.ndarray, shape: Any, stride: Any, pads: Any, d: Any, groups: int
) -> Any:
    """Every value of g throws the kernel back onto the padded picture."""
    kh, kw, cg, o = w.shape
    og = o // groups
    dx = np.zeros((shape[0], shape[1] + sum(pads[0]), shape[2] + sum(pads[1]), shape[3]))
    g, w = g.astype(float).reshape(*g.shape[:3], groups, og), w.astype(float).reshape(kh, kw, cg, groups, og)
    for p, q, i, j in np.ndindex(g.shape[1], g.shape[2], kh, kw):
        to = dx[:, p * stride[0] + i * d[0], q * stride[1] + j * d[1]]
        to += np.einsum("nko,cko->nkc", g[:, p, q], w[i, j]).reshape(to.shape)
    return dx[:, pads[0][0] : pads[0][0] + shape[1], pads[1][0] : pads[1][0] + shape[2]]


def grad_weight_of(
    x: np.ndarray, g: np.ndarray, shape: Any, stride: Any, pads: Any, d: Any, groups: int
) -> Any:
    """Products of what each tap saw with the gradient."""
    kh, kw, cg, o = shape
    x = np.pad(x.astype(float), ((0, 0), *pads, (0, 0)))
    g = g.astype(float).reshape(*g.shape[:3], groups, o // groups)
    dw = np.zeros(shape)
    for i, j in np.ndindex(kh, kw):
        rows = slice(i * d[0], i * d[0] + (g.shape[1] - 1) * stride[0] + 1, stride[0])
        columns = slice(j * d[1], j * d[1] + (g.shape[2] - 1) * stride[1] + 1, stride[1])
        seen = x[:, rows, columns].reshape(*g.shape[:3], groups, cg)
        dw[i, j] = np.einsum("npqkc,npqko->cko", seen, g).reshape(cg, o)
    return dw


def check(p: Problem, kind: str) -> None:
    x, w, g = operands(p, kind)
    two = p.two("stride"), p.pads, p.two("dilation")
    keywords = parameters(p)
    groups = keywords.get("groups", 1)
    dx = conv2d_grad_input(g, w, p.x, **keywords)
    dw = conv2d_grad_weight(x, g, w.shape, **keywords)
    exact_dx, exact_dw = grad_input_of(g, w, p.x, *two, groups), grad_weight_of(x, g, w.shape, *two, groups)
    assert dx.dtype == dw.dtype == np.float32
    assert dx.shape == p.x
    assert dw.shape == w.shape
    if kind == "whole":
        assert np.array_equal(dx, exact_dx)
        assert np.array_equal(dw, exact_dw)
        return
    scale_dx = grad_input_of(abs(g), abs(w), p.x, *two, groups)
    scale_dw = grad_weight_of(abs(x), abs(g), w.shape, *two, groups)
    close(dx, exact_dx, scale_dx, w.shape[0] * w.shape[1] * w.shape[3] // groups)
    close(dw, exact_dw, scale_dw, math.prod(p.out[:3]))


@pytest.mark.parametrize("p", TABLE, ids=str)
def test_table(backend: str, p: Problem) -> None:
    for kind in ("normal", "positive", "whole"):
        check(p, kind)


@pytest.mark.parametrize("p", LAYERS, ids=str)
def test_layers_of_real_networks(native: None, p: Problem) -> None:
    check(p, "normal")
    check(p, "whole")


@pytest.mark.parametrize("p", TABLE[::3], ids=str)
def test_float64_is_the_reference(p: Problem) -> None:
    x, w, g = (a.astype(np.float64) for a in operands(p, "normal"))
    keywords, two = parameters(p), (p.two("stride"), p.pads, p.two("dilation"))
    groups = keywords.get("groups", 1)
    dx = conv2d_grad_input(g, w, p.x, **keywords)
    dw = conv2d_grad_weight(x, g, w.shape, **keywords)
    assert dx.dtype == dw.dtype == np.float64
    close(
        dx, grad_input_of(g, w, p.x, *two, groups), grad_input_of(abs(g), abs(w), p.x, *two, groups), w.size
    )
    scale = grad_weight_of(abs(x), abs(g), w.shape, *two, groups)
    close(dw, grad_weight_of(x, g, w.shape, *two, groups), scale, g.size)


# Few channels, whose products are scattered, in bands for many threads; kernels that cover the picture.
NARROW = [
    Problem("narrow", "conv2d", (2, 14, 13, 6), (5, 5, 6, 16)),
    Problem(
        "narrow/2,3", "conv2d", (2, 9, 11, 3), (3, 4, 3, 17), {"stride": (2, 3), "padding": ((2, 0), (1, 3))}
    ),
    Problem("tall", "conv2d", (1, 97, 7, 1), (3, 3, 1, 2), {"padding": 1, "dilation": (2, 1)}),
    Problem("tall/3,1", "conv2d", (1, 120, 9, 4), (2, 3, 4, 33), {"stride": (3, 1), "padding": (1, 2)}),
    Problem("columns that no window sees", "conv2d", (3, 8, 6, 2), (3, 2, 2, 5), {"stride": (1, 4)}),
    Problem("rows of padding", "conv2d", (2, 3, 40, 3), (1, 9, 3, 64), {"padding": (4, 0)}),
]
COVERING = [
    Problem("covering", "conv2d", (16, 5, 5, 16), (5, 5, 16, 120)),
    Problem("covering/2", "conv2d", (3, 4, 1, 7), (4, 1, 7, 9), {"stride": 2, "dilation": (1, 3)}),
    Problem("covering d5", "conv2d", (1, 1, 6, 1), (1, 6, 1, 1), {"dilation": (5, 1)}),
]


@pytest.mark.parametrize("p", NARROW + COVERING, ids=str)
def test_narrow_and_covering(backend: str, p: Problem) -> None:
    for kind in ("normal", "positive", "whole"):
        check(p, kind)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_fuzz(data: st.DataObject) -> None:
    """Unequal values on every axis; whole numbers are exact. The three forms of <conv(x, w), g> agree."""
    draw = data.draw
    two = lambda lo, hi: draw(st.tuples(st.integers(lo, hi), st.integers(lo, hi)))  # noqa: E731
    groups = draw(st.sampled_from((1, 1, 2, 3)))
    cg, og = draw(st.sampled_from((1, 2, 3, 5, 17))), draw(st.sampled_from((1, 2, 7, 18, 33)))
    if draw(st.booleans()):
        groups, cg = groups * 8 + 1, 1
        og = draw(st.sampled_from((1, 2)))
    kernel, stride, dilation = two(1, 4), two(1, 3), two(1, 3)
    pads = (two(0, 5), two(0, 5))
    size = [
        max(1, d * (k - 1) + 1 - sum(a)) + draw(st.integers(0, 9))
        for k, d, a in zip(kernel, dilation, pads, strict=True)
    ]
    keywords = {"stride": stride, "dilation": dilation, "padding": pads, "groups": groups}
    x_shape, w_shape = (draw(st.integers(0, 3)), *size, cg * groups), (*kernel, cg, og * groups)
    note(f"x {x_shape} w {w_shape} {keywords}")
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    x, w = (rng.integers(-4, 5, s).astype(np.float32) for s in (x_shape, w_shape))
    g = None
    for name in ("numpy", "cpu") if cf.config._cpu is not None else ("numpy",):
        with cf.use_backend(name):
            y = conv2d(x, w, **keywords)
            if g is None:
                g = rng.integers(-4, 5, y.shape).astype(np.float32)
                dx = grad_input_of(g, w, x_shape, stride, pads, dilation, groups)
                dw = grad_weight_of(x, g, w_shape, stride, pads, dilation, groups)
            assert np.array_equal(conv2d_grad_input(g, w, x_shape, **keywords), dx)
            assert np.array_equal(conv2d_grad_weight(x, g, w_shape, **keywords), dw)
            # <conv(x, w), g> = <x, dx> = <w, dw>, exactly for whole numbers.
            left = np.vdot(y.astype(float), g.astype(float))
            assert left == np.vdot(x.astype(float), dx) == np.vdot(w.astype(float), dw)


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("stride", [1, 2])
def test_torch(backend: str, rng: np.random.Generator, groups: int, stride: int) -> None:
    torch = pytest.importorskip("torch")
    x, w = rng.standard_normal((2, 9, 10, 6)), rng.standard_normal((3, 3, 6 // groups, 12))
    keywords: dict[str, Any] = {"stride": stride, "padding": 1, "groups": groups}
    g = rng.standard_normal(conv2d(x, w, **keywords).shape)
    call = lambda a, b: torch.nn.functional.conv2d(a, b, **keywords)  # noqa: E731
    dx, dw = torch_gradients(call, nchw(x), np.ascontiguousarray(w.transpose(3, 2, 0, 1)), g=nchw(g))
    x, w, g = (a.astype(np.float32) for a in (x, w, g))
    np.testing.assert_allclose(conv2d_grad_input(g, w, x.shape, **keywords), nhwc(dx), rtol=1e-4, atol=1e-4)
    got = conv2d_grad_weight(x, g, w.shape, **keywords)
    np.testing.assert_allclose(got, dw.transpose(2, 3, 1, 0), rtol=1e-4, atol=1e-4)


def test_padding_by_name_and_flip(backend: str, rng: np.random.Generator) -> None:
    x, w = (rng.integers(-4, 5, s).astype(np.float32) for s in ((2, 7, 8, 3), (3, 2, 3, 5)))
    y = conv2d(x, w, stride=2, padding="same", flip=True)
    g = rng.integers(-4, 5, y.shape).astype(np.float32)
    keywords: dict[str, Any] = {"stride": 2, "padding": "same", "flip": True}
    dx = conv2d_grad_input(g, w, x.shape, **keywords)
    dw = conv2d_grad_weight(x, g, w.shape, **keywords)
    assert np.vdot(y, g) == np.vdot(x, dx) == np.vdot(w, dw)
    turned = np.ascontiguousarray(w[::-1, ::-1])
    assert np.array_equal(dx, conv2d_grad_input(g, turned, x.shape, stride=2, padding="same"))


def test_gradients_of_a_transpose_convolution(backend: str, rng: np.random.Generator) -> None:
    """Its input's is the convolution with the same weight; its weight's has the roles exchanged."""
    from cnnfast.ops.conv import CONV2D
    from cnnfast.ops.conv_grad import CONV2D_GRAD_WEIGHT, adjoint_of_transpose
    from cnnfast.ops.conv_transpose import CONV2D_TRANSPOSE, infer_conv2d_transpose

    for stride, pads, extra, dilation, groups in (
        (2, 1, 1, 1, 1),
        ((3, 2), ((1, 0), (0, 2)), (1, 0), (2, 1), 2),
        (1, 0, 2, 3, 1),  # more than a stride of output_padding
    ):
        x, w = (rng.integers(-4, 5, s).astype(np.float32) for s in ((2, 4, 5, 6), (3, 2, 4, 6)))
        s = infer_conv2d_transpose(x.shape, w.shape, None, stride, pads, extra, dilation, groups)
        y = CONV2D_TRANSPOSE(s, x, w)
        g = rng.integers(-4, 5, y.shape).astype(np.float32)
        adjoint = adjoint_of_transpose(s)
        dx, dw = CONV2D(adjoint, g, w), CONV2D_GRAD_WEIGHT(adjoint, g, x)
        assert dx.shape == x.shape
        assert dw.shape == w.shape
        assert np.vdot(y, g) == np.vdot(x, dx) == np.vdot(w, dw)


LARGE = [
    Problem("3x3", "conv2d", (3, 29, 31, 40), (3, 3, 40, 72), {"padding": 1}),
    Problem("3x3/2", "conv2d", (2, 33, 30, 33), (3, 3, 33, 70), {"padding": 1, "stride": 2}),
    Problem("1x1", "conv2d", (2, 40, 41, 24), (1, 1, 24, 130)),
    Problem("stem", "conv2d", (2, 64, 63, 3), (7, 7, 3, 64), {"padding": 3, "stride": 2}),
    Problem("narrow", "conv2d", (1, 190, 31, 5), (5, 4, 5, 12), {"padding": (3, 0), "stride": (2, 1)}),
    Problem("groups", "conv2d", (2, 20, 19, 32), (3, 3, 8, 64), {"padding": 1, "groups": 4}),
    Problem("wide", "conv2d", (1, 3, 1500, 17), (3, 3, 17, 19), {"padding": 1}),
    Problem("depthwise", "depthwise_conv2d", (2, 30, 29, 96), (3, 3, 96, 1), {"padding": 1}),
    Problem("depthwise/2", "depthwise_conv2d", (2, 30, 29, 41), (5, 5, 41, 1), {"padding": 2, "stride": 2}),
]


@pytest.mark.parametrize("p", LARGE, ids=str)
def test_threads_give_the_same_bits(native: None, p: Problem) -> None:
    x, w, g = operands(p, "normal")
    keywords = parameters(p)
    results = []
    for threads in (1, 2, 3, 8):
        cf.set_num_threads(threads)
        dx = conv2d_grad_input(g, w, p.x, **keywords)
        results.append((dx, conv2d_grad_weight(x, g, w.shape, **keywords), bias_grad(g)))
        # A picture alone has the gradient it has in a batch.
        one = conv2d_grad_input(g[:1], w, (1, *p.x[1:]), **keywords)
        assert np.array_equal(one[0], dx[0])
    for other in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(results[0], other, strict=True))
    check(p, "normal")
    check(p, "whole")


def test_bias(backend: str, rng: np.random.Generator) -> None:
    for shape in (
        (0, 3),
        (5,),
        (3, 0),
        (0,),
        (1, 7),
        (3000, 17),
        (2, 61, 67, 33),
        (4, 50, 50, 3),
        (2, 3, 5, 200),
    ):
        g = rng.uniform(0.5, 1, shape).astype(np.float32)
        exact = g.astype(float).sum(axis=tuple(range(len(shape) - 1)))
        close(bias_grad(g), exact, exact, 16)
        assert bias_grad(g.astype(np.float64)).dtype == np.float64
        whole = rng.integers(-9, 10, shape).astype(np.float32)
        assert np.array_equal(bias_grad(whole), whole.sum(axis=tuple(range(len(shape) - 1))))


def test_infinite_weights_meet_no_zeros(backend: str) -> None:
    """There is no padding around the gradient that an infinite weight could make NaN."""
    w = np.full((3, 3, 2, 2), np.inf, np.float32)
    w[1, 1] = 1
    g = np.zeros((1, 5, 5, 2), np.float32)
    g[0, 0, 0] = 1
    dx = conv2d_grad_input(g[:, :1, :1], w, (1, 3, 3, 2))
    assert dx[0, 1, 1].tolist() == [2, 2]
    assert np.isinf(np.delete(dx.reshape(9, 2), 4, axis=0)).all()


def test_what_does_not_fit() -> None:
    x, w, g = np.zeros((1, 5, 5, 2)), np.zeros((3, 3, 2, 4)), np.zeros((1, 3, 3, 4))
    with pytest.raises(
        ShapeError, match=r"^conv2d_grad_input: the gradient must have the shape of the result"
    ):
        conv2d_grad_input(g, w, (1, 6, 5, 2))
    with pytest.raises(
        ShapeError, match=r"^conv2d_grad_weight: the gradient must have the shape of the result"
    ):
        conv2d_grad_weight(x, g, (3, 3, 2, 5))
    with pytest.raises(ShapeError, match=r"^conv2d_grad_input: weight has 2 input channels"):
        conv2d_grad_input(g, w, (1, 5, 5, 3))
    with pytest.raises(ShapeError, match="dimensions"):
        conv2d_grad_weight(x, g, (3, 3, 4))
    with pytest.raises(DTypeError):
        conv2d_grad_weight(x, g.astype(np.float32), w.shape)
    with pytest.raises(DTypeError):
        conv2d_grad_input(g.astype(np.int32), w, x.shape)
    with pytest.raises(ShapeError, match="dimension"):
        bias_grad(np.float32(3))


def test_cost() -> None:
    """As many multiply-adds as the convolution itself."""
    forward = cf.ops.cost("conv2d", (2, 8, 8, 3), (3, 3, 3, 5), padding=1)
    for name, arrays in (
        ("conv2d_grad_input", ((2, 8, 8, 5), (3, 3, 3, 5), (2, 8, 8, 3))),
        ("conv2d_grad_weight", ((2, 8, 8, 3), (2, 8, 8, 5), (3, 3, 3, 5))),
    ):
        assert cf.ops.cost(name, *arrays, padding=1) == forward


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("o", [1, 3, 6, 8, 13, 16, 17])
@pytest.mark.parametrize(
    ("x", "k", "stride", "pads", "dilation"),
    [
        ((2, 32, 32, 1), (5, 5), (1, 1), ((0, 0), (0, 0)), (1, 1)),
        ((3, 28, 31, 1), (5, 5), (1, 1), ((2, 2), (2, 2)), (1, 1)),
        ((2, 13, 17, 3), (3, 3), (2, 1), ((1, 0), (0, 2)), (2, 1)),
        ((2, 6, 3, 2), (2, 4), (1, 3), ((0, 3), (5, 1)), (1, 1)),
        ((1, 1, 9, 4), (1, 3), (1, 2), ((0, 0), (1, 1)), (1, 1)),
    ],
)
def test_weight_gradient_of_small_windows(
    x: Any, k: Any, stride: Any, pads: Any, dilation: Any, o: int
) -> None:
    """Whole numbers, whose sums are exact: every window and every pixel counts once."""
    rng = np.random.default_rng(o)
    reach = [(m - 1) * d + 1 for m, d in zip(k, dilation, strict=True)]
    sides = [(x[1 + i] + sum(pads[i]) - reach[i]) // stride[i] + 1 for i in range(2)]
    a = rng.integers(-4, 5, x).astype(np.float32)
    g = rng.integers(-4, 5, (x[0], *sides, o)).astype(np.float32)
    shape = (*k, x[3], o)
    got = conv2d_grad_weight(a, g, shape, stride=stride, padding=pads, dilation=dilation)
    assert np.array_equal(got, grad_weight_of(a, g, shape, stride, pads, dilation, 1))


# --- by Winograd's algorithm, in backward alone ----------------------------------------------------

WINOGRAD_LAYERS = [(64, 64, 3, 28, 1), (128, 64, 3, 17, 1), (16, 40, 5, 19, 2), (64, 64, 3, 16, 0)]


def winograd_operands(c: int, o: int, k: int, size: int, padding: int) -> Any:
    """x, w, g and the keywords of the exact gradients."""
    rng = np.random.default_rng(c + o + k)
    x = rng.standard_normal((2, size, size, c)).astype(np.float32)
    w = (rng.standard_normal((k, k, c, o)) / (k * c**0.5)).astype(np.float32)
    p = size + 2 * padding - k + 1
    g = rng.standard_normal((2, p, p, o)).astype(np.float32)
    return x, w, g, ((1, 1), ((padding, padding),) * 2, (1, 1), 1)


def within_winograd_bounds(got: np.ndarray, exact: np.ndarray, scale: np.ndarray) -> bool:
    error = np.abs(got - exact)
    alone = (error / scale).max() <= 64 * problems.U
    return bool(alone and np.linalg.norm(error) <= 2e-5 * np.linalg.norm(exact))


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize(("c", "o", "k", "size", "padding"), WINOGRAD_LAYERS)
def test_backward_by_winograd(c: int, o: int, k: int, size: int, padding: int) -> None:
    x, w, g, how = winograd_operands(c, o, k, size, padding)

    def gradient(images: int = 2) -> np.ndarray:
        t = cf.Tensor(x[:images], requires_grad=True)
        conv2d(t, w, padding=padding).backward(g[:images])
        return t.grad

    direct = conv2d_grad_input(g, w, x.shape, padding=padding)
    try:
        cf.set_num_threads(1)
        got = gradient()
        exact = grad_input_of(g, w, x.shape, *how)
        assert not np.array_equal(got, direct)
        assert within_winograd_bounds(got, exact, grad_input_of(abs(g), abs(w), x.shape, *how))
        assert np.array_equal(gradient(1), got[:1])
        for threads in (2, 3):
            cf.set_num_threads(threads)
            assert np.array_equal(gradient(), got)
        cf.set_winograd_gradients(False)
        assert np.array_equal(gradient(), direct)
    finally:
        cf.set_winograd_gradients(True)


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize(
    ("c", "o", "k", "size", "padding"), [*WINOGRAD_LAYERS, (24, 67, 3, 20, 1), (40, 24, 3, 14, 2)]
)
def test_weight_gradient_by_winograd(c: int, o: int, k: int, size: int, padding: int, positive: bool) -> None:
    x, w, g, how = winograd_operands(c, o, k, size, padding)
    if positive:  # no sum is small
        x, g = np.abs(x) + 1, np.abs(g) + 1

    def gradient() -> np.ndarray:
        t = cf.Tensor(w, requires_grad=True)
        conv2d(x, t, padding=padding).backward(g)
        return t.grad

    direct = conv2d_grad_weight(x, g, w.shape, padding=padding)
    try:
        cf.set_num_threads(1)
        got = gradient()
        assert not np.array_equal(got, direct)
        exact = grad_weight_of(x, g, w.shape, *how)
        assert within_winograd_bounds(got, exact, grad_weight_of(abs(x), abs(g), w.shape, *how))
        for threads in (2, 3, 8):
            cf.set_num_threads(threads)
            assert np.array_equal(gradient(), got)
        cf.set_winograd_gradients(False)
        assert np.array_equal(gradient(), direct)
    finally:
        cf.set_winograd_gradients(True)


@pytest.mark.usefixtures("native")
def test_weight_gradient_by_winograd_in_passes() -> None:
    """More tiles than one pass holds add up to the same as few pictures at a time."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((8, 40, 36, 24)).astype(np.float32)
    g = rng.standard_normal((8, 40, 36, 40)).astype(np.float32)

    def gradient(part: slice) -> np.ndarray:
        w = cf.Tensor(np.zeros((3, 3, 24, 40), np.float32), requires_grad=True)
        conv2d(x[part], w, padding=1).backward(g[part])
        return w.grad

    how = ((1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    shape = (3, 3, 24, 40)
    whole = gradient(slice(None))
    assert within_winograd_bounds(
        whole, grad_weight_of(x, g, shape, *how), grad_weight_of(abs(x), abs(g), shape, *how)
    )
    parts = sum(gradient(slice(i, i + 2)).astype(float) for i in range(0, 8, 2))
    assert np.linalg.norm(whole - parts) <= 2e-5 * np.linalg.norm(parts)
