"""Pooling on a device, against the NumPy definitions in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from device_checks import given, near

from cnnfast import ops
from cnnfast.cuda import asarray

# Shape and arguments: plain, with tails (17 channels, 7 pixels), unequal per axis, dilated, in ceil mode,
# windows larger than what they find.
CASES: list[tuple[tuple[int, ...], tuple[Any, ...], dict[str, Any]]] = [
    ((2, 8, 8, 16), (2,), {}),
    ((2, 7, 5, 17), (3,), {"stride": 2, "padding": 1}),
    ((1, 9, 7, 8), ((2, 3),), {"stride": (3, 1), "padding": ((1, 0), (0, 1))}),
    ((1, 7, 7, 4), (3,), {"stride": 2, "ceil_mode": True}),
    ((1, 6, 8, 3), (3,), {"stride": 1, "padding": 1, "ceil_mode": True}),
    ((0, 4, 4, 3), (2,), {}),
]
DILATED = ((1, 9, 11, 4), (3,), {"stride": (2, 1), "dilation": (2, 3), "padding": (1, 2)})
DTYPES = ["float32", "bfloat16", "float16"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_max_pool2d(device: Any, rng: np.random.Generator, dtype: str) -> None:
    for shape, size, settings in [*CASES, DILATED]:
        x, wide = given(rng, shape, dtype)
        near(ops.max_pool2d(x, *size, **settings), ops.max_pool2d(wide, *size, **settings), dtype, 0)


def test_places_of_maxima_and_their_gradient(device: Any, rng: np.random.Generator) -> None:
    for shape, size, settings in [*CASES, DILATED]:
        wide = rng.integers(-3, 4, shape).astype(np.float64)  # with ties
        x = asarray(wide.astype(np.float32))
        y, places = ops.max_pool2d(x, *size, **settings, return_indices=True)
        wanted, wanted_places = ops.max_pool2d(wide, *size, **settings, return_indices=True)
        np.testing.assert_array_equal(y.numpy(), wanted)
        np.testing.assert_array_equal(places.numpy(), wanted_places)
        g = rng.integers(-8, 9, wanted.shape).astype(np.float32)
        gx = ops.max_pool2d_grad(asarray(g), x, *size, **settings)
        np.testing.assert_array_equal(
            gx.numpy(), ops.max_pool2d_grad(g.astype(np.float64), wide, *size, **settings)
        )


def test_nan_is_the_maximum(device: Any, rng: np.random.Generator) -> None:
    wide = rng.standard_normal((1, 6, 6, 5))
    wide[0, 1, 2, 3] = wide[0, 2, 2, 3] = np.nan
    wide[0, 4, 4] = -np.inf
    x = asarray(wide.astype(np.float32))
    near(
        ops.max_pool2d(x, 3, stride=1),
        ops.max_pool2d(wide.astype(np.float32).astype(float), 3, stride=1),
        "float32",
        0,
    )
    places = ops.max_pool2d(x, 3, stride=1, return_indices=True)[1]
    np.testing.assert_array_equal(
        places.numpy(),
        ops.max_pool2d(wide.astype(np.float32).astype(float), 3, stride=1, return_indices=True)[1],
    )
    assert np.isnan(ops.global_max_pool2d(x).numpy()[0, 0, 0, 3])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("include", [False, True])
def test_avg_pool2d(device: Any, rng: np.random.Generator, dtype: str, include: bool) -> None:
    for shape, size, settings in CASES:
        x, wide = given(rng, shape, dtype)
        arguments = {**settings, "count_include_pad": include}
        wanted = ops.avg_pool2d(wide, *size, **arguments)
        near(
            ops.avg_pool2d(x, *size, **arguments),
            wanted,
            dtype,
            8,
            ops.avg_pool2d(abs(wide), *size, **arguments),
        )
        g, wide_g = given(rng, wanted.shape, dtype)
        gx = ops.avg_pool2d_grad(g, shape, *size, **arguments)
        scale = ops.avg_pool2d_grad(abs(wide_g), shape, *size, **arguments)
        near(gx, ops.avg_pool2d_grad(wide_g, shape, *size, **arguments), dtype, 8, scale)


def test_averages_of_whole_numbers_are_exact(device: Any) -> None:
    x = np.arange(64, dtype=np.float32).reshape(1, 8, 8, 1)
    np.testing.assert_array_equal(ops.avg_pool2d(asarray(x), 2).numpy(), ops.avg_pool2d(x, 2))


def test_infinite_averages(device: Any) -> None:
    x = np.ones((1, 2, 4, 1), np.float32)
    x[0, 0, 0], x[0, 0, 2] = np.inf, np.nan
    np.testing.assert_array_equal(ops.avg_pool2d(asarray(x), 2).numpy().ravel(), [np.inf, np.nan])


def test_l2_pool2d(device: Any, rng: np.random.Generator) -> None:
    for shape, size, settings in CASES[:3]:
        x, wide = given(rng, shape)
        wanted = ops.l2_pool2d(wide, *size, **settings)
        near(ops.l2_pool2d(x, *size, **settings), wanted, "float32", 8, wanted)


@pytest.mark.parametrize("shape", [(2, 7, 7, 17), (1, 1, 1, 3), (3, 5, 4, 64), (1, 40, 40, 2)])
def test_whole_pictures(device: Any, rng: np.random.Generator, shape: tuple[int, ...]) -> None:
    x, wide = given(rng, shape)
    near(
        ops.global_avg_pool2d(x), ops.global_avg_pool2d(wide), "float32", 2, ops.global_avg_pool2d(abs(wide))
    )
    near(ops.global_max_pool2d(x), ops.global_max_pool2d(wide), "float32", 0)
    g, wide_g = given(rng, (shape[0], 1, 1, shape[3]))
    near(ops.global_avg_pool2d_grad(g, shape), ops.global_avg_pool2d_grad(wide_g, shape), "float32", 2)
    near(ops.global_max_pool2d_grad(g, x), ops.global_max_pool2d_grad(wide_g, wide), "float32", 0)
