"""What tests of the CUDA side share."""

from __future__ import annotations

from typing import Any

import numpy as np

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
