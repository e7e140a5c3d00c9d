"""The stand-in for a GPU finds what is wrong, under at least one schedule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from device_checks import SCHEDULES

import cnnfast as cf
from cnnfast.cuda import asarray, empty


def _run(shim: Any, name: str, a: Any = None, b: Any = None) -> np.ndarray:
    y = empty((256,))
    shim.selftest(
        name, *[asarray(np.zeros(1, np.float32) if v is None else v).buffer for v in (a, b)], y.buffer
    )
    return y.numpy()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_barrier(shim: Any, schedule: str, rng: np.random.Generator) -> None:
    shim.set_schedule(schedule, 1)
    x = rng.standard_normal(256).astype(np.float32)
    np.testing.assert_array_equal(_run(shim, "rotate", x), np.roll(x, -32))
    assert np.isnan(_run(shim, "rotate without barrier", x)).any()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_asynchronous_copies(shim: Any, schedule: str, rng: np.random.Generator) -> None:
    shim.set_schedule(schedule, 1)
    x = rng.standard_normal((64, 128)).astype(np.float32)
    sums = np.zeros(128, np.float32)
    for row in x:
        sums += row
    np.testing.assert_array_equal(_run(shim, "ring", x)[:128], sums)
    assert np.isnan(_run(shim, "ring that waits too short", x)[:128]).any()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_divergence_is_an_error(shim: Any, schedule: str) -> None:
    shim.set_schedule(schedule, 1)
    with pytest.raises(cf.errors.CudaError, match=r"different barriers: __syncthreads at csrc/cuda/\S+:\d+"):
        _run(shim, "two barriers")
    with pytest.raises(cf.errors.CudaError, match=r"a lane (returned that|of the mask has)"):
        _run(shim, "half a shuffle")
    _run(shim, "rotate", np.zeros(256, np.float32))  # an error leaves nothing behind


def test_a_kernel_that_waits_for_nobody_is_an_error(shim: Any) -> None:
    """Without ptx::begin_kernel it may run before the kernel before it has ended."""
    with pytest.raises(cf.errors.CudaError, match="does not begin with ptx::begin_kernel"):
        _run(shim, "no beginning")


def test_writes_beside_an_array_are_an_error(shim: Any) -> None:
    if shim.sanitized:
        pytest.skip("AddressSanitizer ends the process with the line")
    with pytest.raises(cf.errors.CudaError, match=r"beside an array of 1024 bytes .*beside_kernel") as caught:
        _run(shim, "write beside")
    assert caught.value.name == "cudaErrorIllegalAddress"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_tensor_core(shim: Any, schedule: str, dtype: str, rng: np.random.Generator) -> None:
    """Small whole numbers are exact in both types, and so are their products and sums."""
    shim.set_schedule(schedule, 1)
    a = rng.integers(-8, 9, (16, 16)).astype(np.float32)
    b = rng.integers(-8, 9, (16, 8)).astype(np.float32)
    y = _run(shim, f"{dtype} mma", a, b)
    np.testing.assert_array_equal(y[:128].reshape(16, 8), a @ b)


def test_memory_is_nan_until_it_is_written(shim: Any) -> None:
    assert np.isnan(empty((3, 5)).numpy()).all()
    assert np.isnan(empty((7,), "bfloat16").numpy()).all()


def test_bad_launches_and_schedules(shim: Any) -> None:
    with pytest.raises(ValueError, match="warp-greedy"):
        shim.set_schedule("lock step")
    with pytest.raises(ValueError, match="smaller"):
        shim.activate(0, 1, 0.0, empty((2,)).buffer, empty((3,)).buffer, 3)
