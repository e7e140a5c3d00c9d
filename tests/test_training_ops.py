"""Dense layers, batch normalisation, activations and cross-entropy in training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cnnfast as cf
from cnnfast import ops
from cnnfast.errors import DTypeError, ShapeError
from cnnfast.ops import (
    activation_grad,
    batch_norm,
    batch_norm_train,
    batch_norm_train_grad,
    linear,
    linear_grad_input,
    linear_grad_weight,
    softmax_cross_entropy,
)
from cnnfast.ops.activations import reads_result
from gradients import close, torch_gradients

F32 = np.float32


def draw(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(F32)


# --- dense layers ----------------------------------------------------------------------------------

DENSE = [(1, 400, 120), (16, 84, 10), (3, 17, 19), (64, 33, 130), (700, 24, 40), (0, 5, 3), (2000, 7, 1)]


@pytest.mark.parametrize("size", DENSE, ids=str)
def test_linear(backend: str, rng: np.random.Generator, size: tuple[int, int, int]) -> None:
    rows, i, o = size
    x, w, g = draw(rng, rows, i), draw(rng, i, o), draw(rng, rows, o)
    wide = [a.astype(np.float64) for a in (x, w, g)]
    close(linear_grad_input(g, w), wide[2] @ wide[1].T, abs(wide[2]) @ abs(wide[1]).T, o)
    close(linear_grad_weight(x, g), wide[0].T @ wide[2], abs(wide[0]).T @ abs(wide[2]), rows)
    x, w, g = (rng.integers(-4, 5, a.shape).astype(F32) for a in (x, w, g))
    dx, dw = linear_grad_input(g, w), linear_grad_weight(x, g)
    assert np.array_equal(dx, g.astype(float) @ w.T.astype(float))
    assert np.array_equal(dw, x.T.astype(float) @ g.astype(float))
    assert np.vdot(linear(x, w), g) == np.vdot(x, dx) == np.vdot(w, dw)


def test_linear_of_more_dimensions(backend: str, rng: np.random.Generator) -> None:
    x, w, g = draw(rng, 2, 3, 5, 29), draw(rng, 29, 31), draw(rng, 2, 3, 5, 31)
    assert linear_grad_input(g, w).shape == x.shape
    flat = linear_grad_weight(x.reshape(-1, 29), g.reshape(-1, 31))
    assert np.array_equal(linear_grad_weight(x, g), flat)
    assert linear_grad_weight(x[0, 0, 0], g[0, 0, 0]).shape == (29, 31)


def test_linear_threads(native: None, rng: np.random.Generator) -> None:
    x, w, g = draw(rng, 300, 211), draw(rng, 211, 150), draw(rng, 300, 150)
    cf.set_num_threads(1)
    expected = linear_grad_input(g, w), linear_grad_weight(x, g)
    for threads in (2, 3, 8):
        cf.set_num_threads(threads)
        assert np.array_equal(linear_grad_input(g, w), expected[0])
        assert np.array_equal(linear_grad_weight(x, g), expected[1])


def test_linear_errors() -> None:
    with pytest.raises(ShapeError, match=r"^linear_grad_input: the gradient must have the shape"):
        linear_grad_input(np.zeros((2, 3)), np.zeros((4, 5)))
    with pytest.raises(ShapeError, match=r"^linear_grad_weight: the gradient must have the shape"):
        linear_grad_weight(np.zeros((2, 3)), np.zeros((4, 5)))


# --- batch normalisation ---------------------------------------------------------------------------

NORMS = [(16, 17), (2, 9, 11, 64), (1, 5, 5, 3), (4, 33, 31, 40), (1, 1), (5000, 2), (3, 7, 7, 130), (6,)]


@pytest.mark.parametrize("shape", NORMS, ids=str)
@pytest.mark.parametrize("activation", [None, "relu", "relu6"])
@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_batch_norm(
    backend: str, rng: np.random.Generator, shape: tuple[int, ...], activation: str | None, offset: float
) -> None:
    """Against float64; a mean of hundreds of deviations costs no digits."""
    if len(shape) == 1:
        shape = (4, *shape)
    c = shape[-1]
    x, g = draw(rng, *shape) + F32(offset), draw(rng, *shape)
    scale, shift = draw(rng, c), draw(rng, c)
    if activation == "relu6":  # values on both sides of 6
        scale, shift = 5 * scale, shift + F32(4)
    rows = x.size // c
    keywords: dict[str, Any] = {"eps": 1e-3, "activation": activation}
    y, mean, var = batch_norm_train(x, scale, shift, **keywords)
    wide = x.reshape(-1, c).astype(float)
    np.testing.assert_allclose(mean, wide.mean(axis=0), rtol=2e-7, atol=1e-7)
    np.testing.assert_allclose(var, wide.var(axis=0), rtol=2e-6, atol=1e-10)
    expected = batch_norm(x, mean, var, scale, shift, eps=1e-3)
    bound = 8 * 2.0**-24 * (abs(expected) + abs(shift) + abs(expected - shift))
    most = {"relu": np.inf, "relu6": 6.0}.get(activation or "")
    assert (abs(y - (expected if most is None else np.clip(expected, 0, most))) <= bound).all()

    dx, dscale, dshift = batch_norm_train_grad(g, x, mean, var, scale, shift, **keywords)
    masked = g if most is None else np.where((y > 0) & (y < most), g, 0)
    gs = masked.reshape(-1, c).astype(float)
    deviation = np.sqrt(var.astype(float) + 1e-3)
    normal = (wide - mean) / deviation
    close(dshift, gs.sum(axis=0), abs(gs).sum(axis=0), rows)
    close(dscale, (gs * normal).sum(axis=0), abs(gs * normal).sum(axis=0), rows, 16)
    exact = scale / deviation * (gs - gs.mean(axis=0) - normal * (gs * normal).mean(axis=0))
    size = abs(scale / deviation) * (
        abs(gs) + abs(gs).mean(axis=0) + abs(normal) * abs(gs * normal).mean(axis=0)
    )
    close(dx.reshape(-1, c), exact, size, rows, 16)


@pytest.mark.parametrize("given_", [(False, False), (True, False), (False, True)])
def test_batch_norm_without_scale_or_shift(
    backend: str, rng: np.random.Generator, given_: tuple[bool, bool]
) -> None:
    x, g = draw(rng, 3, 5, 7), draw(rng, 3, 5, 7)
    scale, shift = (draw(rng, 7) if flag else None for flag in given_)
    full = (np.ones(7, F32) if scale is None else scale, np.zeros(7, F32) if shift is None else shift)
    for activation in (None, "relu", "relu6"):
        one = batch_norm_train(x, scale, shift, activation=activation)
        two = batch_norm_train(x, *full, activation=activation)
        assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
        one = batch_norm_train_grad(g, x, *one[1:], scale, shift, activation=activation)
        two = batch_norm_train_grad(g, x, *two[1:], *full, activation=activation)
        assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


def test_batch_norm_torch(backend: str, rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    x, g = rng.standard_normal((40, 6)), rng.standard_normal((40, 6))
    scale, shift = rng.standard_normal(6), rng.standard_normal(6)
    call = lambda a, s, b: torch.relu(torch.nn.functional.batch_norm(a, None, None, s, b, True))  # noqa: E731
    expected = torch_gradients(call, x, scale, shift, g=g)
    x, g, scale, shift = (a.astype(F32) for a in (x, g, scale, shift))
    _, mean, var = batch_norm_train(x, scale, shift, activation="relu")
    got = batch_norm_train_grad(g, x, mean, var, scale, shift, activation="relu")
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_batch_norm_threads(native: None, rng: np.random.Generator) -> None:
    x, g, scale, shift = draw(rng, 3, 60, 61, 24), draw(rng, 3, 60, 61, 24), draw(rng, 24), draw(rng, 24)
    results = []
    for threads in (1, 2, 3, 8):
        cf.set_num_threads(threads)
        y, mean, var = batch_norm_train(x, scale, shift, activation="relu")
        gradient = batch_norm_train_grad(g, x, mean, var, scale, shift, activation="relu")
        results.append((y, mean, var, *gradient))
    for other in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_batch_norm_float64(rng: np.random.Generator) -> None:
    """Central differences of the sum of y times fixed numbers."""
    x, g = rng.standard_normal((5, 3)), rng.standard_normal((5, 3))
    scale, shift = rng.standard_normal(3), rng.standard_normal(3)
    _, mean, var = batch_norm_train(x, scale, shift)
    dx, dscale, dshift = batch_norm_train_grad(g, x, mean, var, scale, shift)
    for a, da in ((x, dx), (scale, dscale), (shift, dshift)):
        for index in np.ndindex(*a.shape):
            kept, sides = a[index], []
            for step in (1e-6, -1e-6):
                a[index] = kept + step
                sides.append(float((batch_norm_train(x, scale, shift)[0] * g).sum()))
            a[index] = kept
            assert abs((sides[0] - sides[1]) / 2e-6 - da[index]) < 1e-7


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_batch_norm_without_channels(backend: str, dtype: Any) -> None:
    x, none = np.zeros((2, 3, 0), dtype), np.zeros(0, dtype)
    results = batch_norm_train(x, none, none)
    gradients = batch_norm_train_grad(x, x, *results[1:], none, none)
    for arrays in (results, gradients):
        assert [a.shape for a in arrays] == [x.shape, (0,), (0,)]


def test_batch_norm_errors() -> None:
    with pytest.raises(ShapeError, match="at least one value per channel"):
        batch_norm_train(np.zeros((0, 3)))
    with pytest.raises(ShapeError, match=r"batch_norm_train: scale must have shape \(3,\)"):
        batch_norm_train(np.zeros((2, 3)), np.zeros(2))
    with pytest.raises(ShapeError, match="activation must be one of"):
        batch_norm_train(np.zeros((2, 3)), activation="tanh")
    with pytest.raises(ShapeError, match="the gradient must have the shape of x"):
        batch_norm_train_grad(np.zeros((2, 3)), np.zeros((3, 3)), np.zeros(3), np.zeros(3))
    with pytest.raises(ShapeError, match="eps must not be negative"):
        batch_norm_train(np.zeros((2, 3)), eps=-1)


# --- activations -----------------------------------------------------------------------------------

NAMES = ("relu", "relu6", "leaky_relu", "sigmoid", "tanh", "silu", "hard_swish")


def derivative(name: str, x: np.ndarray) -> np.ndarray:
    """Of the function of x, in float64, by the formulas in textbooks."""
    e = 1 / (1 + np.exp(-x))
    return {
        "relu": lambda: (x > 0) * 1.0,
        "relu6": lambda: ((x > 0) & (x < 6)) * 1.0,
        "leaky_relu": lambda: np.where(x < 0, 0.125, 1.0),
        "sigmoid": lambda: e * (1 - e),
        "tanh": lambda: 1 - np.tanh(x) ** 2,
        "silu": lambda: e + x * e * (1 - e),
        "hard_swish": lambda: np.where(x <= -3, 0.0, np.where(x >= 3, 1.0, x / 3 + 0.5)),
    }[name]()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [1, 7, 16, 17, 130, 40001])
def test_activation(backend: str, rng: np.random.Generator, name: str, size: int) -> None:
    x = rng.uniform(-8, 8, size).astype(F32)
    x[::5] = np.array([0, 3, -3, 6])[rng.integers(0, 4, len(x[::5]))]
    g = draw(rng, size)
    y = getattr(ops, name)(x, **({"slope": 0.125} if name == "leaky_relu" else {}))
    got = activation_grad(g, y if reads_result(name) else x, name, slope=0.125)
    exact = g * derivative(name, x.astype(float))
    assert got.dtype == F32
    # From the result, 1 - y has the rounding of y; the rest is a few roundings of terms of size g.
    assert (abs(got - exact) <= 8 * 2.0**-24 * (abs(g) * (1 + abs(x) / 3 * (name == "hard_swish")))).all()


@pytest.mark.parametrize("name", NAMES)
def test_activation_at_the_ends(backend: str, name: str) -> None:
    x = np.array([-np.inf, -1e30, 1e30, np.inf, np.nan] * 5, F32)
    y = getattr(ops, name)(x)
    got = activation_grad(np.ones_like(x), y if reads_result(name) else x, name)
    flat = name in ("relu6", "sigmoid", "tanh")
    low = 0.01 if name == "leaky_relu" else 0
    expected = [np.float32(low), np.float32(low), *([0, 0] if flat else [1, 1])]
    for start in range(0, 25, 5):
        assert got[start : start + 4].tolist() == [float(e) for e in expected]


def test_activation_errors() -> None:
    with pytest.raises(ShapeError, match="name must be one of"):
        activation_grad(np.zeros(2), np.zeros(2), "gelu")
    with pytest.raises(ShapeError, match="the gradient must have the shape of the value"):
        activation_grad(np.zeros(2), np.zeros(3), "relu")
    with pytest.raises(DTypeError):
        activation_grad(np.zeros(2, F32), np.zeros(2), "relu")


def test_activation_torch(backend: str, rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    functions = torch.nn.functional
    x, g = rng.uniform(-8, 8, 300), rng.standard_normal(300)
    for name in NAMES:
        call = {"silu": functions.silu, "hard_swish": functions.hardswish, "relu6": functions.relu6}.get(
            name, getattr(functions, name, None)
        )
        (dx,) = torch_gradients(call, x, g=g)
        y = getattr(ops, name)(x)
        got = activation_grad(g.astype(F32), (y if reads_result(name) else x).astype(F32), name)
        np.testing.assert_allclose(got, dx, rtol=1e-4, atol=1e-5)


# --- cross-entropy ---------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize(
    "shape", [(16, 10), (3, 1000), (1, 1), (2, 5, 7, 21), (40, 2), (0, 4), (33, 17)], ids=str
)
def test_cross_entropy(backend: str, rng: np.random.Generator, shape: Any, smoothing: float) -> None:
    k = shape[-1]
    x = (4 * rng.standard_normal(shape)).astype(F32)
    labels = rng.integers(0, k, shape[:-1])
    labels.reshape(-1)[::5] = 255
    loss, gradient = softmax_cross_entropy(x, labels, label_smoothing=smoothing, ignore_index=255)
    assert loss.shape == shape[:-1]
    assert gradient.shape == shape
    assert loss.dtype == gradient.dtype == F32
    rows = x.reshape(-1, k).astype(float)
    p = np.exp(rows - rows.max(axis=1, keepdims=True, initial=-np.inf))
    p /= p.sum(axis=1, keepdims=True)
    label = labels.reshape(-1)
    target = (1 - smoothing) * (label[:, None] == np.arange(k)) + smoothing / k
    used = label != 255
    log_p = np.log(np.maximum(p, 1e-300))
    expected = np.where(used, -(target * log_p).sum(axis=1), 0)
    size = np.maximum(1, abs(rows).max(axis=1, initial=0))
    assert (abs(loss.reshape(-1) - expected) <= 32 * 2.0**-24 * size).all()
    assert (abs(gradient.reshape(-1, k) - np.where(used[:, None], p - target, 0)) <= 3e-6).all()
    assert (loss.reshape(-1)[~used] == 0).all()
    assert (gradient.reshape(-1, k)[~used] == 0).all()


def test_cross_entropy_torch(backend: str, rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    x, labels = rng.standard_normal((30, 7)), rng.integers(0, 7, 30)
    labels[:4] = -100
    t = torch.tensor(labels)
    call = lambda a: torch.nn.functional.cross_entropy(a, t, label_smoothing=0.2, reduction="none")  # noqa: E731
    (dx,) = torch_gradients(call, x, g=np.ones(30))
    loss, gradient = softmax_cross_entropy(x.astype(F32), labels, label_smoothing=0.2)
    np.testing.assert_allclose(gradient, dx, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(loss, call(torch.tensor(x)).numpy(), rtol=1e-5, atol=1e-6)


def test_cross_entropy_of_one_row(backend: str, rng: np.random.Generator) -> None:
    x = rng.standard_normal((1, 7)).astype(F32)
    for label in (3, np.int64(3), np.array(3, ">i2"), -100):
        loss, gradient = softmax_cross_entropy(x[0], label)
        losses, gradients = softmax_cross_entropy(x, [int(label)])
        assert loss.shape == ()
        assert loss == losses[0]
        assert np.array_equal(gradient, gradients[0])


def test_cross_entropy_of_extreme_scores(backend: str) -> None:
    x = np.array([[1e30, -1e30, 0], [200, 0, -200]], F32)
    loss, gradient = softmax_cross_entropy(x, [0, 2])
    assert loss[0] == 0
    assert abs(loss[1] - 400) < 1e-3
    assert gradient[0].tolist() == [0, 0, 0]
    np.testing.assert_allclose(gradient[1], [1, 0, -1], atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(0, 40), k=st.integers(1, 70), seed=st.integers(0, 1 << 30))
def test_cross_entropy_gradients_sum_to_zero(rows: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, labels = draw(rng, rows, k), rng.integers(0, k, rows)
    loss, gradient = softmax_cross_entropy(x, labels, label_smoothing=0.05)
    assert (loss >= -1e-6).all()
    assert (abs(gradient.sum(axis=-1)) < 1e-5).all()


def test_cross_entropy_threads(native: None, rng: np.random.Generator) -> None:
    x, labels = draw(rng, 5000, 21), rng.integers(0, 21, 5000)
    cf.set_num_threads(1)
    expected = softmax_cross_entropy(x, labels, label_smoothing=0.1)
    for threads in (2, 3, 8):
        cf.set_num_threads(threads)
        got = softmax_cross_entropy(x, labels, label_smoothing=0.1)
        assert all(np.array_equal(a, b) for a, b in zip(got, expected, strict=True))


def test_cross_entropy_errors() -> None:
    x = np.zeros((3, 4), F32)
    with pytest.raises(ShapeError, match=r"labels must be in 0\.\.3, got 4"):
        softmax_cross_entropy(x, [0, 4, 1])
    with pytest.raises(ShapeError, match=r"labels must be in 0\.\.3, got -1"):
        softmax_cross_entropy(x, [0, -1, 1])
    with pytest.raises(DTypeError, match="whole numbers"):
        softmax_cross_entropy(x, [0.0, 1.0, 2.0])
    with pytest.raises(ShapeError, match="without its last axis"):
        softmax_cross_entropy(x, [0, 1])
    with pytest.raises(ShapeError, match=r"label_smoothing must be in 0\.\.1"):
        softmax_cross_entropy(x, [0, 1, 2], label_smoothing=1.5)
