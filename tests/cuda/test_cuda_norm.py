"""Normalisations on a device, against the NumPy definitions in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from device_checks import given, near

from cnnfast import ops
from cnnfast.cuda import asarray

SHAPES = [(2, 4, 4, 16), (1, 7, 5, 17), (3, 40), (2, 60, 60, 3)]


def _vectors(rng: np.random.Generator, c: int) -> tuple[list[Any], list[np.ndarray]]:
    """Mean, variance, scale and shift of c channels, on the device and in float64."""
    host = [rng.standard_normal(c), rng.uniform(0.1, 2, c), rng.standard_normal(c), rng.standard_normal(c)]
    arrays = [asarray(v.astype(np.float32)) for v in host]
    return arrays, [a.numpy().astype(np.float64) for a in arrays]


def test_batch_norm(device: Any, rng: np.random.Generator) -> None:
    for shape in SHAPES:
        x, wide = given(rng, shape)
        vectors, exact = _vectors(rng, shape[-1])
        for count in (2, 3, 4):
            wanted = ops.batch_norm(wide, *exact[:count], eps=1e-3)
            scale = abs(wide - exact[0]) / np.sqrt(exact[1]) * (abs(exact[2]) if count > 2 else 1) + 4
            near(ops.batch_norm(x, *vectors[:count], eps=1e-3), wanted, "float32", 4, scale)
    negative = asarray(np.array([-1.0, 1.0], np.float32))
    found = ops.batch_norm(asarray(np.ones((3, 2), np.float32)), negative, negative).numpy()
    assert np.isnan(found[:, 0]).all()
    assert np.isfinite(found[:, 1]).all()


@pytest.mark.parametrize("activation", [None, "relu", "relu6"])
def test_batch_norm_in_training(device: Any, rng: np.random.Generator, activation: str | None) -> None:
    for shape in SHAPES:
        x, wide = given(rng, shape)
        (_, _, scale, shift), (_, _, wide_scale, wide_shift) = _vectors(rng, shape[-1])
        got = ops.batch_norm_train(x, scale, shift, activation=activation)
        wanted = ops.batch_norm_train(wide, wide_scale, wide_shift, activation=activation)
        near(got[1], wanted[1], "float32", 1, abs(wanted[1]))
        near(got[2], wanted[2], "float32", 1, abs(wanted[2]))
        near(got[0], wanted[0], "float32", 16, 8 * abs(wide_scale) + abs(wide_shift))
        # Gradients at the same rounded statistics; far from the corners of the activation.
        g, wide_g = given(rng, shape)
        mean, var = (v.numpy().astype(np.float64) for v in got[1:])
        y = (wide - mean) / np.sqrt(var + 1e-5) * wide_scale + wide_shift
        far = (abs(y) > 1e-4) & (abs(y - 6) > 1e-4)
        wide_g *= far
        g = asarray(wide_g.astype(np.float32))
        found = ops.batch_norm_train_grad(g, x, *got[1:], scale, shift, activation=activation)
        exact = ops.batch_norm_train_grad(
            wide_g, wide, mean, var, wide_scale, wide_shift, activation=activation
        )
        rows = wide.size // shape[-1]
        deviation = np.sqrt(var + 1e-5)
        near(found[0], exact[0], "float32", 16, abs(wide_scale) / deviation * 24)
        near(found[1], exact[1], "float32", 4, 16 * np.sqrt(rows) + abs(exact[1]))
        near(found[2], exact[2], "float32", 4, 16 * np.sqrt(rows) + abs(exact[2]))


def test_statistics_far_from_zero(device: Any, rng: np.random.Generator) -> None:
    x = (1e4 + rng.standard_normal((500, 3))).astype(np.float32)
    _, mean, var = ops.batch_norm_train(asarray(x))
    wide = x.astype(np.float64)
    np.testing.assert_allclose(mean.numpy(), wide.mean(0), rtol=1e-7)
    np.testing.assert_allclose(var.numpy(), wide.var(0), rtol=1e-6)
    assert (ops.batch_norm_train(asarray(np.full((70, 2), 0.1, np.float32)))[2].numpy() == 0).all()


def test_instance_norm(device: Any, rng: np.random.Generator) -> None:
    for shape in [(2, 4, 4, 16), (3, 7, 5, 17), (2, 9, 3)]:
        x, wide = given(rng, shape)
        (_, _, scale, shift), (_, _, wide_scale, wide_shift) = _vectors(rng, shape[-1])
        near(ops.instance_norm(x), ops.instance_norm(wide), "float32", 16, 4)
        near(
            ops.instance_norm(x, scale, shift, eps=1e-3),
            ops.instance_norm(wide, wide_scale, wide_shift, eps=1e-3),
            "float32",
            16,
            4 * abs(wide_scale) + abs(wide_shift),
        )


def test_gradient_of_instance_norm(device: Any, rng: np.random.Generator) -> None:
    gradient = ops.OPERATORS["instance_norm_grad"]
    for shape in [(2, 4, 4, 16), (3, 7, 5, 17), (2, 9, 3), (1, 60, 60, 3), (0, 2, 5)]:
        (x, wide), (g, wide_g) = given(rng, shape), given(rng, shape)
        (_, _, scale, _), (_, _, wide_scale, _) = _vectors(rng, shape[-1])
        rows = wide.size // shape[-1]
        for vector, wide_vector in ((None, None), (scale, wide_scale)):
            spec = gradient.infer(shape, shape, None if vector is None else vector.shape)
            found, exact = gradient(spec, g, x, vector), gradient(spec, wide_g, wide, wide_vector)
            near(found[0], exact[0], "float32", 16, 24 * (1 if vector is None else abs(wide_scale)))
            for got, wanted in zip(found[1:], exact[1:], strict=True):
                near(got, wanted, "float32", 4, 16 * np.sqrt(rows) + abs(wanted))


def test_sums_of_gradients_by_given_statistics(device: Any, rng: np.random.Generator) -> None:
    gradient = ops.OPERATORS["batch_norm_grad_sums"]
    for shape in [*SHAPES, (5,), (0, 3)]:
        (x, wide), (g, wide_g) = given(rng, shape), given(rng, shape)
        (mean, _, _, _), (wide_mean, _, _, _) = _vectors(rng, shape[-1])
        spec = gradient.infer(shape, shape, mean.shape)
        found, exact = gradient(spec, g, x, mean), gradient(spec, wide_g, wide, wide_mean)
        pixels = tuple(range(len(shape) - 1))
        sizes = abs(wide_g), abs((wide - wide_mean) * wide_g)
        for got, wanted, size in zip(found, exact, sizes, strict=True):
            near(got, wanted, "float32", 1, abs(wanted) + 2.0**-20 * size.sum(pixels))


def test_local_response_norm(device: Any, rng: np.random.Generator) -> None:
    gradient = ops.OPERATORS["local_response_norm_grad"]
    for shape in [(2, 3, 3, 16), (1, 2, 5, 17), (4, 2)]:
        for settings in [{}, {"size": 4, "alpha": 0.3, "beta": 0.5, "k": 1.0}, {"size": 50, "alpha": 0.1}]:
            x, wide = given(rng, shape)
            wanted = ops.local_response_norm(wide, **settings)
            near(ops.local_response_norm(x, **settings), wanted, "float32", 16, abs(wanted))
            g, wide_g = given(rng, shape)
            spec = gradient.infer(shape, shape, **settings)
            near(
                gradient(spec, x, g),
                gradient(spec, wide, wide_g),
                "float32",
                16,
                8 * abs(wide_g).max() * (1 + abs(wide)),
            )


def test_l2_normalize(device: Any, rng: np.random.Generator) -> None:
    for shape, axis in [((3, 7, 17), -1), ((3, 7, 17), 1), ((2, 700), 1)]:
        x, wide = given(rng, shape)
        wanted = ops.l2_normalize(wide, axis)
        near(ops.l2_normalize(x, axis), wanted, "float32", 4, abs(wanted))
    assert (ops.l2_normalize(asarray(np.zeros((2, 3), np.float32))).numpy() == 0).all()
    large = np.array([[1e30, 1e30], [np.nan, 1]], np.float32)
    np.testing.assert_allclose(
        ops.l2_normalize(asarray(large)).numpy(), [[0.5**0.5] * 2, [np.nan] * 2], rtol=1e-6
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_short_types(device: Any, rng: np.random.Generator, dtype: str) -> None:
    x, wide = given(rng, (2, 3, 5, 24), dtype)
    vectors, exact = _vectors(rng, 24)
    vectors = [v.astype(dtype) for v in vectors]
    exact = [v.numpy().astype(np.float64) for v in vectors]
    near(ops.batch_norm(x, *vectors), ops.batch_norm(wide, *exact), dtype, 16, 64)
    near(ops.instance_norm(x), ops.instance_norm(wide), dtype, 16, 4)
    y, mean, var = ops.batch_norm_train(x)
    wanted = ops.batch_norm_train(wide)
    near(y, wanted[0], dtype, 16, 4)
    near(mean, wanted[1], "float32", 2, 4)  # statistics are not rounded
    near(var, wanted[2], "float32", 2, 16)
