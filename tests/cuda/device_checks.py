"""What tests of the CUDA side share."""

from __future__ import annotations

from typing import Any

import numpy as np

from cnnfast.cuda import asarray

# The order in which threads run; see csrc/cuda/host_shim.h.
SCHEDULES = ["warp-greedy", "reverse", "shuffled"]


def close(got: Any, wanted: np.ndarray, dtype: Any, ulps: float) -> None:
    """Whether a device array equals a float64 result to so many units of rounding of its element type."""
    unit = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}[str(dtype)]
    tiny = {"float32": 2.0**-149, "float16": 2.0**-24, "bfloat16": 2.0**-133}[str(dtype)]
    assert str(got.dtype) == str(dtype)
    assert got.shape == wanted.shape
    values = got.numpy().astype(np.float64)
    wanted = wanted.astype(np.float64)
    finite = np.isfinite(wanted)
    np.testing.assert_array_equal(values[~finite], wanted[~finite])
    error = np.abs(values[finite] - wanted[finite])
    assert (error <= ulps * unit * np.abs(wanted[finite]) + tiny).all(), error.max()


def given(rng: np.random.Generator, shape: tuple[int, ...], dtype: str = "float32") -> tuple[Any, np.ndarray]:
    """A device array, and its exact values in float64."""
    x = asarray((3 * rng.standard_normal(shape)).astype(np.float32), dtype)
    return x, x.numpy().astype(np.float64)


def near(got: Any, wanted: np.ndarray, dtype: Any, ulps: float, scale: Any = 1.0) -> None:
    """Whether a device array equals a float64 result to so many units of rounding of ``scale``.

    ``scale`` is the sum of the sizes of what was added up. Results of a 16-bit type are rounded once more.
    """
    assert str(got.dtype) == str(dtype)
    assert got.shape == wanted.shape
    values = got.numpy().astype(np.float64)
    finite = np.isfinite(wanted)
    np.testing.assert_array_equal(values[~finite], wanted[~finite])
    unit = {"float32": 0.0, "float16": 2.0**-11, "bfloat16": 2.0**-8}[str(dtype)]
    exact = np.where(finite, wanted, 0)
    scale = np.where(finite, scale, 0)
    tiny = {"float32": 2.0**-149, "float16": 2.0**-24, "bfloat16": 2.0**-133}[str(dtype)]
    bound = ulps * 2.0**-24 * scale + unit * np.abs(exact) + tiny
    error = np.where(finite, np.abs(values - exact), 0)
    assert (error <= bound).all(), (error - bound).max()
