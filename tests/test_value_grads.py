"""Gradients of functions element by element, reductions, padding, picking and normalisation by given
statistics: kernels and definitions in float32 against float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cnnfast as cf
from cnnfast import ops
from cnnfast.errors import ShapeError
from cnnfast.ops.binary import _GRADIENTS, PAIR_GRAD, infer_pair_grad
from cnnfast.ops.cross_entropy import SIGMOID_CROSS_ENTROPY_GRAD, infer_sigmoid_cross_entropy_grad
from cnnfast.ops.instance_norm import infer_instance_norm_grad
from cnnfast.ops.norm import infer_batch_norm_grad_sums
from cnnfast.ops.pad import PAD2D_GRAD, infer_pad2d_grad
from cnnfast.ops.rearrange import GATHER_GRAD, infer_gather_grad
from cnnfast.ops.reduce import REDUCE_GRAD, infer_reduce_grad
from cnnfast.ops.unary import _DERIVATIVES, UNARY_GRAD, infer_unary_grad
from gradients import U, close, nchw, nhwc, torch_gradients

F32 = np.float32
EXP = 4e-7  # the relative error that exponentials promise


def draw(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(F32)


def whole(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Whole numbers, whose sums are exact."""
    return rng.integers(-9, 10, shape).astype(F32)


def wide(*arrays: np.ndarray) -> list[np.ndarray]:
    return [a.astype(np.float64) for a in arrays]


def leaf_gradients(f: Callable[..., Any], g: np.ndarray, *arrays: np.ndarray) -> list[np.ndarray]:
    tensors = [cf.Tensor(a, requires_grad=True) for a in arrays]
    f(*tensors).backward(g)
    return [t.grad for t in tensors]


# --- element by element ----------------------------------------------------------------------------

# Roundings of the product and the derivative, in units; the square in the exponent of erf has one of up to 9.
UNARY: dict[str, tuple[float, tuple[float, ...]]] = {
    "neg": (0, ()), "abs": (0, ()), "floor": (0, ()), "ceil": (0, ()), "exp": (1, ()), "sqrt": (2, ()),
    "log": (2, ()), "reciprocal": (2, ()), "clip": (0, (-0.5, 1.25)), "hard_sigmoid": (1, (0.25, 0.5)),
    "elu": (3 + EXP / U, (0.5,)), "erf": (3 + 9 + EXP / U, ()),
}  # fmt: skip


@pytest.mark.parametrize("name", UNARY)
@pytest.mark.parametrize("shape", [(3, 5), (2, 7, 17), (1,), (40_003,), (0, 3)], ids=str)
def test_unary(backend: str, rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> None:
    units, numbers = UNARY[name]
    x, g = rng.uniform(-3, 3, shape).astype(F32), draw(rng, *shape)
    s = infer_unary_grad(shape, shape, name, numbers)
    exact = UNARY_GRAD.reference(s, *wide(g, x))
    got = UNARY_GRAD(s, g, x)
    assert got.dtype == F32
    assert (abs(got - exact) <= (units + 1) * U * abs(exact)).all()


@pytest.mark.parametrize("name", sorted(_DERIVATIVES))
def test_unary_corners(backend: str, name: str) -> None:
    """Zeros, infinities and NaN as the definition has them."""
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, 2.0], F32)
    for g in (F32(1), F32(-2.5)):
        s = infer_unary_grad(x.shape, x.shape, name, UNARY[name][1])
        start = np.full_like(x, g)
        np.testing.assert_allclose(UNARY_GRAD(s, start, x), UNARY_GRAD.reference(s, start, x), rtol=1e-6)


PAIRS = {"divisor": 3, "base": 4, "exponent": 6, "larger": 0, "smaller": 0, "prelu": 1, "slope": 1}
FORMS = [
    ((3, 17), (3, 17)), ((2, 3, 7), (7,)), ((2, 5, 6, 4), (2, 1, 1, 4)), ((5, 1), (1, 7)), ((1,), (3, 4)),
    ((), (3, 4)), ((300, 129), (129,)), ((129,), (300, 129)), ((4, 5000), (4, 1)), ((0, 3), (3,)),
]  # fmt: skip


@pytest.mark.parametrize("kind", _GRADIENTS)
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_pair(backend: str, rng: np.random.Generator, kind: str, form: tuple[Any, Any]) -> None:
    # Eighths, so that the exponent less one has no rounding, and that ties come.
    a, b = (np.round(rng.uniform(0.2, 3, shape) * 8).astype(F32) / 8 for shape in form)
    if kind in ("prelu", "slope"):
        a = a - F32(1.5)
    g = draw(rng, *np.broadcast_shapes(*form))
    s = infer_pair_grad(g.shape, a.shape, b.shape, kind)
    exact = PAIR_GRAD.reference(s, *wide(g, a, b))
    got = PAIR_GRAD(s, g, a, b)
    assert got.dtype == F32 and got.shape == g.shape  # noqa: PT018
    assert (abs(got - exact) <= PAIRS[kind] * U * abs(exact)).all()


@pytest.mark.parametrize("name", ["div", "pow", "maximum", "minimum", "prelu", "sub"])
@pytest.mark.parametrize("form", FORMS[:-1], ids=str)
def test_pair_operators(backend: str, rng: np.random.Generator, name: str, form: tuple[Any, Any]) -> None:
    """Sums over what was broadcast included, against float64."""
    out = np.broadcast_shapes(*form)
    # Every derivative has one sign: the sum of absolute products is the gradient of absolute values.
    a, b = (rng.uniform(1.1, 3, shape).astype(F32) for shape in ((out, form[1]) if name == "prelu" else form))
    g = draw(rng, *out)
    f = getattr(ops, name)
    found, exact = leaf_gradients(f, g, a, b), leaf_gradients(f, *wide(g, a, b))
    for got, value, size in zip(found, exact, leaf_gradients(f, *wide(abs(g), a, b)), strict=True):
        # Of a power, the exponent less one is rounded, and the logarithm of the base multiplies that.
        assert (abs(got - value) <= (12 if name == "pow" else 5) * U * abs(size)).all()


@pytest.mark.parametrize("weight", [1.0, 0.3])
@pytest.mark.parametrize("shape", [(3, 5), (2, 7, 17), (), (20_001,), (0, 3)], ids=str)
def test_sigmoid_cross_entropy(
    backend: str, rng: np.random.Generator, weight: float, shape: tuple[int, ...]
) -> None:
    x, t, g = (12 * rng.standard_normal(shape)).astype(F32), rng.random(shape).astype(F32), draw(rng, *shape)
    wx, wt, wg = wide(x, t, g)
    weight = float(F32(weight))
    one, zero = np.logaddexp(0, -wx), np.logaddexp(0, wx)
    relative = EXP + 8 * U
    exact = weight * wt * one + (1 - wt) * zero
    assert (abs(ops.sigmoid_cross_entropy(x, t, pos_weight=weight) - exact) <= relative * exact).all()
    positive, negative = np.exp(-one), np.exp(-zero)
    sizes = {
        False: ((1 - wt) * positive, weight * wt * negative),
        True: (weight * one, zero),
    }
    for by_target, (first, second) in sizes.items():
        s = infer_sigmoid_cross_entropy_grad(shape, shape, shape, weight, by_target)
        got = SIGMOID_CROSS_ENTROPY_GRAD(s, g, x, t)
        assert (abs(got - wg * (first - second)) <= relative * abs(wg) * (first + second)).all()


def test_sigmoid_cross_entropy_at_infinity(backend: str) -> None:
    x, t = np.array([np.inf, -np.inf, np.nan, 200, -200], F32), np.array([0, 1, 1, 1, 0], F32)
    with np.errstate(all="ignore"):
        loss = ops.sigmoid_cross_entropy(x, t)
    assert np.isnan(loss[2])
    assert loss[3:].tolist() == [0, 0]
    got = leaf_gradients(lambda a: ops.sigmoid_cross_entropy(a, t), np.ones(5, F32), x)[0]
    assert got[:2].tolist() == [1, -1]
    assert np.isnan(got[2])
    assert got[3:].tolist() == [0, 0]


# --- reductions ------------------------------------------------------------------------------------

AXES = [
    ((3, 4, 5), None), ((3, 4, 5), (1,)), ((3, 4, 5), (2,)), ((3, 4, 5), (0,)), ((3, 4, 5), (0, 2)),
    ((2, 7, 3, 17), (1, 2)), ((2, 7, 3, 17), (0, 1, 2)), ((70_001,), (0,)), ((300, 130), (0,)),
    ((9, 300), (1,)), ((2, 3, 2, 3), (1, 3)), ((4,), ()), ((0, 3), (1,)),
]  # fmt: skip


@pytest.mark.parametrize("name", ["reduce_sum", "reduce_mean", "reduce_max", "reduce_min"])
@pytest.mark.parametrize("case", AXES, ids=str)
def test_reductions(backend: str, rng: np.random.Generator, name: str, case: tuple[Any, Any]) -> None:
    shape, axes = case
    x = whole(rng, *shape)  # many are equal
    y = getattr(ops, name)(x, axes)
    g = draw(rng, *y.shape)
    s = infer_reduce_grad(y.shape, shape, axes, False, name)
    exact = REDUCE_GRAD.reference(s, *wide(g, x, y))
    assert (abs(REDUCE_GRAD(s, g, x, y) - exact) <= U * abs(exact)).all()  # one division
    tensor = leaf_gradients(lambda t: getattr(ops, name)(t, axes), g, x)[0]
    assert (abs(tensor - exact) <= U * abs(exact)).all()


def test_extremes_of_nan(backend: str) -> None:
    x = np.array([[1, np.nan, 3], [4, 4, -1]], F32)
    got = leaf_gradients(lambda t: ops.reduce_max(t, 1), np.ones(2, F32), x)[0]
    assert np.isnan(got[0]).all()
    assert got[1].tolist() == [0.5, 0.5, 0]


def test_lengths(backend: str, rng: np.random.Generator) -> None:
    x, g = draw(rng, 5, 6, 7), draw(rng, 5, 7)
    got = leaf_gradients(lambda t: ops.reduce_l2(t, 1), g, x)[0]
    wx, wg = wide(x, g)
    exact = wx * (wg / np.sqrt((wx**2).sum(1)))[:, None]
    assert (abs(got - exact) <= 4 * U * abs(exact)).all()
    g = draw(rng, 5, 6, 7)
    got = leaf_gradients(ops.l2_normalize, g, x)[0]
    length = np.sqrt((wx**2).sum(-1, keepdims=True))
    y, wg = wx / length, wide(g)[0]
    exact = (wg - y * (wg * y).sum(-1, keepdims=True)) / length
    size = (abs(wg) + abs(y) * abs(wg * y).sum(-1, keepdims=True)) / length
    close(got, exact, size, 7)


# --- normalisation by given statistics, and of single pictures ---------------------------------------

NORMS = [(16, 17), (2, 9, 11, 64), (1, 5, 5, 3), (4, 33, 31, 40), (5000, 2), (6,), (3, 7, 300)]


@pytest.mark.parametrize("shape", NORMS, ids=str)
@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_batch_norm(backend: str, rng: np.random.Generator, shape: tuple[int, ...], offset: float) -> None:
    c = shape[-1]
    x, g, mean = draw(rng, *shape) + F32(offset), draw(rng, *shape), draw(rng, c) + F32(offset)
    var, scale, shift = rng.uniform(0.5, 2, c).astype(F32), draw(rng, c), draw(rng, c)
    found = leaf_gradients(lambda *a: ops.batch_norm(*a, eps=1e-3), g, x, mean, var, scale, shift)
    wx, wg, wm, wv, ws = wide(x.reshape(-1, c), g.reshape(-1, c), mean, var, scale)
    deviation = np.sqrt(wv + 1e-3)
    factor, products = ws / deviation, wg * (wx - wm)
    rows = len(wx)
    along, along_size = products.sum(0), abs(products).sum(0)
    close(found[0].reshape(-1, c), wg * factor, abs(wg * factor), 1)
    close(found[1], -wg.sum(0) * factor, abs(wg).sum(0) * abs(factor), rows)
    close(found[2], -0.5 * along * factor / deviation**2, 0.5 * along_size * abs(factor) / deviation**2, rows)
    close(found[3], along / deviation, along_size / deviation, rows)
    close(found[4], wg.sum(0), abs(wg).sum(0), rows)
    some = leaf_gradients(lambda a, b: ops.batch_norm(a, mean, var, scale, b, eps=1e-3), g, x, shift)
    assert np.array_equal(some[0], found[0])
    close(some[1], wg.sum(0), abs(wg).sum(0), rows)


@pytest.mark.parametrize(
    "shape", [(2, 9, 11, 64), (1, 5, 5, 3), (3, 33, 31, 40), (2, 3000, 2), (4, 7, 300)], ids=str
)
@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_instance_norm(backend: str, rng: np.random.Generator, shape: tuple[int, ...], offset: float) -> None:
    n, c = shape[0], shape[-1]
    x, g, scale, shift = draw(rng, *shape) + F32(offset), draw(rng, *shape), draw(rng, c), draw(rng, c)
    found = leaf_gradients(lambda *a: ops.instance_norm(*a, eps=1e-3), g, x, scale, shift)
    wx, wg = wide(x.reshape(n, -1, c), g.reshape(n, -1, c))
    pixels = wx.shape[1]
    deviation = np.sqrt(wx.var(1, keepdims=True) + 1e-3)
    normal, ws = (wx - wx.mean(1, keepdims=True)) / deviation, scale.astype(float)
    products = wg * normal
    exact = ws / deviation * (wg - wg.mean(1, keepdims=True) - normal * products.mean(1, keepdims=True))
    mean_size = abs(products).mean(1, keepdims=True)
    size = abs(ws / deviation) * (abs(wg) + abs(wg).mean(1, keepdims=True) + abs(normal) * mean_size)
    close(found[0].reshape(wx.shape), exact, size, pixels, 16)
    close(found[1], products.sum((0, 1)), abs(products).sum((0, 1)), n * pixels, 16)
    close(found[2], wg.sum((0, 1)), abs(wg).sum((0, 1)), n * pixels)
    plain = leaf_gradients(lambda t: ops.instance_norm(t, eps=1e-3), g, x)[0]
    ones = leaf_gradients(lambda t: ops.instance_norm(t, np.ones(c, F32), eps=1e-3), g, x)[0]
    assert np.array_equal(plain, ones)
    alone = leaf_gradients(lambda t: ops.instance_norm(t, scale, eps=1e-3), g[:1], x[:1])[0]
    assert np.array_equal(alone, found[0][:1])


def test_norms_torch(backend: str, rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    x, g, scale, shift = (rng.standard_normal(s) for s in ((3, 6, 5, 4), (3, 6, 5, 4), 4, 4))
    mean, var = rng.standard_normal(4), rng.uniform(0.5, 2, 4)
    small = [a.astype(F32) for a in (x, scale, shift)]
    norm = torch.nn.functional.batch_norm
    calls = (
        (lambda a, s, b: norm(a, torch.tensor(mean), torch.tensor(var), s, b),
         lambda a, s, b: ops.batch_norm(a, mean.astype(F32), var.astype(F32), s, b)),
        (lambda a, s, b: torch.nn.functional.instance_norm(a, weight=s, bias=b), ops.instance_norm),
    )  # fmt: skip
    for theirs, ours in calls:
        expected = torch_gradients(theirs, nchw(x), scale, shift, g=nchw(g))
        got = leaf_gradients(ours, g.astype(F32), *small)
        for a, b in zip(got, (nhwc(expected[0]), *expected[1:]), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


# --- padding, picking, views -------------------------------------------------------------------------

PADDINGS = [
    ((2, 5, 4, 3), ((1, 3), (2, 0))), ((1, 7, 3, 17), 2), ((3, 4, 4, 1), ((0, 0), (3, 3))), ((1, 2, 2, 5), 0),
    ((2, 40, 41, 9), 1), ((0, 3, 3, 2), 1), ((1, 33, 30, 64), ((0, 5), (4, 1))),
]  # fmt: skip


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("case", PADDINGS, ids=str)
def test_padding(backend: str, rng: np.random.Generator, mode: str, case: tuple[Any, Any]) -> None:
    shape, padding = case
    g = whole(rng, *ops.pad2d(np.zeros(shape, F32), padding, mode=mode).shape)
    s = infer_pad2d_grad(g.shape, shape, padding, mode)
    assert np.array_equal(PAD2D_GRAD(s, g), PAD2D_GRAD.reference(s, g.astype(np.float64)))
    g = draw(rng, *g.shape)
    # Replicated corners add up whole rectangles of the padding.
    exact, size = (PAD2D_GRAD.reference(s, a.astype(np.float64)) for a in (g, abs(g)))
    close(PAD2D_GRAD(s, g), exact, size, 16)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_picking(backend: str, rng: np.random.Generator, axis: int) -> None:
    x = whole(rng, 5, 6, 300)
    indices = rng.integers(-5, 5, (4, 3))
    picked = ops.gather(x, indices, axis)
    g = whole(rng, *picked.shape)
    s = infer_gather_grad(g.shape, indices.shape, x.shape, axis)
    got = GATHER_GRAD(s, g, indices)
    assert np.array_equal(got, GATHER_GRAD.reference(s, g.astype(np.float64), indices))
    assert np.vdot(picked, g) == np.vdot(x, got)


@pytest.mark.parametrize(
    "index",
    [
        (..., slice(3, 9)), (slice(None, None, -2), 1), (0,), (..., 4), (slice(2, 2),), (1, 2, 3, 4),
        (slice(-9, -3, -2),), (..., slice(-40, 5, -1)), (slice(9, None),),
        (slice(1, None), slice(None), slice(0, 5, 2), slice(None, None, -1)),
    ],
    ids=str,
)  # fmt: skip
def test_slices(backend: str, rng: np.random.Generator, index: Any) -> None:
    x = whole(rng, 3, 4, 7, 17)
    picked = ops.take(x, index)
    assert np.array_equal(picked, x[index])
    g, expected = whole(rng, *picked.shape), np.zeros_like(x)
    expected[index] = g
    got = leaf_gradients(lambda t: ops.take(t, index), g, x)[0]
    assert np.array_equal(got, expected)


def test_tiles(backend: str, rng: np.random.Generator) -> None:
    x, g = whole(rng, 2, 3, 17), whole(rng, 6, 3, 34)
    got = leaf_gradients(lambda t: ops.tile(t, (3, 1, 2)), g, x)[0]
    assert np.array_equal(got, g.reshape(3, 2, 1, 3, 2, 17).sum((0, 2, 4)))


# --- all of them -------------------------------------------------------------------------------------


def test_threads(native: None, rng: np.random.Generator) -> None:
    """The same bits for any number of threads."""
    x, other = draw(rng, 2, 61, 50, 24), abs(draw(rng, 24)) + F32(0.1)
    labels = rng.random(x.shape).astype(F32)
    calls: list[Callable[..., Any]] = [
        ops.exp, ops.elu, lambda t: ops.div(t, other), lambda t: ops.maximum(t, other),
        lambda t: ops.sigmoid_cross_entropy(t, labels), ops.reduce_sum, lambda t: ops.reduce_mean(t, (1, 2)),
        lambda t: ops.reduce_max(t, (1, 2)), lambda t: ops.reduce_min(t, -1), lambda t: ops.reduce_l2(t, 0),
        lambda t: ops.batch_norm(t, other, other, other, other), lambda t: ops.instance_norm(t, other),
        lambda t: ops.pad2d(t, 3, mode="reflect"), lambda t: ops.take(t, (..., slice(3, 20))),
        lambda t: ops.gather(t, np.array([[3, 3], [-1, 0]]), 2), ops.l2_normalize,
        lambda t: ops.transpose(t, (0, 3, 1, 2)),
    ]  # fmt: skip
    for call in calls:
        g = draw(rng, *call(x).shape)
        found = []
        for threads in (1, 2, 3, 8):
            cf.set_num_threads(threads)
            found.append(leaf_gradients(call, g, x)[0].tobytes())
        assert len(set(found)) == 1


def test_parameters_and_threads(native: None, rng: np.random.Generator) -> None:
    x, g = draw(rng, 3, 60, 61, 24), draw(rng, 3, 60, 61, 24)
    vectors = [abs(draw(rng, 24)) + F32(0.1) for _ in range(4)]
    found = []
    for threads in (1, 2, 3, 8):
        cf.set_num_threads(threads)
        batch = leaf_gradients(ops.batch_norm, g, x, *vectors)
        found.append([a.tobytes() for a in (*batch, *leaf_gradients(ops.instance_norm, g, x, *vectors[:2]))])
    assert all(other == found[0] for other in found)


def test_errors() -> None:
    calls: list[tuple[Callable[..., Any], tuple[Any, ...], str]] = [
        (infer_unary_grad, ((2, 3), (3, 2), "exp"), "unary_grad: .*shape of the value"),
        (infer_pair_grad, ((2, 3), (2, 2), (2,), "larger"), "pair_grad: .*shape of the result"),
        (infer_pair_grad, ((2,), (2,), (2,), "most"), "pair_grad: kind must be one of"),
        (infer_reduce_grad, ((2,), (2, 3), (0,)), "reduce_grad: .*shape of the result"),
        (infer_reduce_grad, ((), (2,), (0,), False, "reduce_l2"), "reduce_grad: name must be one of"),
        (infer_batch_norm_grad_sums, ((2, 3), (3, 3), (3,)), "batch_norm_grad_sums: .*shape of x"),
        (infer_instance_norm_grad, ((2, 3, 3), (2, 3, 4)), "instance_norm_grad: .*shape of x"),
        (infer_gather_grad, ((2, 3), (2,), (4, 5), 1), "gather_grad: .*what was picked"),
        (infer_sigmoid_cross_entropy_grad, ((2,), (3,), (3,)), "sigmoid_cross_entropy_grad: .*shape of x"),
    ]
    for infer, arguments, message in calls:
        with pytest.raises(ShapeError, match=message):
            infer(*arguments)
