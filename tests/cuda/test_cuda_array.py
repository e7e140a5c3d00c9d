"""Arrays on a device."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cnnfast as cf
from cnnfast.cuda import DeviceArray, asarray, bfloat16, empty, full, zeros
from cnnfast.errors import CudaError


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "int32", "uint8", "bool"])
def test_there_and_back(device: Any, dtype: str, rng: np.random.Generator) -> None:
    x = rng.integers(0, 2, (3, 5, 2)).astype(dtype)
    y = asarray(x)
    assert type(y) is DeviceArray
    assert (y.shape, y.dtype, y.nbytes) == (x.shape, x.dtype, x.nbytes)
    np.testing.assert_array_equal(y.numpy(), x)
    np.testing.assert_array_equal(y.copy().numpy(), x)
    np.testing.assert_array_equal(asarray(x.transpose(2, 0, 1)).numpy(), x.transpose(2, 0, 1))


def test_bfloat16_rounds_to_nearest_even(device: Any) -> None:
    x = np.array([1, 1 + 2**-8, 1 + 3 * 2**-8, -(2.0**-130), 3e38, 3.4e38, np.inf, np.nan], np.float32)
    wanted = np.array([1, 1, 1 + 2**-6, -(2.0**-130), 226 * 2.0**120, np.inf, np.inf, np.nan], np.float32)
    for y in (asarray(x, "bfloat16"), asarray(x).astype("bfloat16")):
        assert y.dtype is bfloat16
        np.testing.assert_allclose(y.numpy(), wanted, rtol=0)
    np.testing.assert_array_equal(
        asarray(x, "bfloat16").astype("float32").numpy(), asarray(x, "bfloat16").numpy()
    )


def test_float16_is_numpys(device: Any, rng: np.random.Generator) -> None:
    bits = rng.integers(0, 1 << 32, 4096, np.uint32)
    scale = (2.0 ** rng.integers(-30, 20, 4096)).astype(np.float32)
    x = np.concatenate([bits.view(np.float32), scale * rng.standard_normal(4096).astype(np.float32)])
    with np.errstate(all="ignore"):
        half = x.astype(np.float16)
        y = asarray(x).astype("float16").numpy()
    np.testing.assert_array_equal(y, half)
    np.testing.assert_array_equal(asarray(half).astype("float32").numpy(), half.astype(np.float32))


def test_shapes(device: Any) -> None:
    x = asarray(np.arange(24, dtype=np.float32).reshape(2, 3, 4))
    assert x.reshape(4, -1).shape == (4, 6)
    np.testing.assert_array_equal(x.reshape((6, 4)).part(1, 2).numpy(), np.arange(4, 12).reshape(2, 4))
    assert len(x) == 2
    with pytest.raises(cf.errors.ShapeError):
        x.reshape(5, 5)
    with pytest.raises(cf.errors.ShapeError):
        x.part(1, 2)
    assert empty((0, 3)).numpy().shape == (0, 3)
    assert not zeros((3,), "int64").numpy().any()


def test_wrong_types(device: Any) -> None:
    with pytest.raises(cf.errors.DTypeError, match="float64"):
        asarray(np.zeros(3))
    with pytest.raises(cf.errors.DTypeError, match="int64"):
        asarray(np.zeros(3, np.int64)).astype("float32")
    with pytest.raises(cf.errors.DTypeError, match="expected float32, bfloat16"):
        cf.ops.relu(asarray(np.zeros(3, np.int64)))
    with pytest.raises(TypeError, match="numpy"):
        np.asarray(zeros((3,)))


def test_a_part_keeps_the_memory(device: Any) -> None:
    row = asarray(np.arange(8, dtype=np.float32).reshape(4, 2)).part(1, 1)
    np.testing.assert_array_equal(row.numpy(), [[2, 3]])


def test_host_and_device_do_not_mix(device: Any) -> None:
    x = np.ones((2, 3), np.float32)
    with pytest.raises(cf.errors.BackendError, match="add: expected all arrays on the device"):
        cf.ops.add(asarray(x), x)
    with pytest.raises(cf.errors.BackendError, match="add: expected all arrays on the device"):
        cf.ops.add(x, asarray(x))
    with pytest.raises(cf.errors.DTypeError):
        cf.ops.add(asarray(x), asarray(x, "float16"))


def test_nothing_falls_back(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator without a CUDA form, as somebody may register one."""
    monkeypatch.setitem(cf.ops.OPERATORS["topk"].__dict__, "cuda", None)
    x = np.ones((2, 3), np.float32)
    with pytest.raises(cf.errors.BackendError, match="topk: there is no CUDA kernel"):
        cf.ops.topk(asarray(x), 1)
    with cf.use_backend("cuda"), pytest.raises(cf.errors.BackendError, match="topk: there is no CUDA kernel"):
        cf.ops.topk(x, 1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_full(device: Any, dtype: str) -> None:
    for shape in ((), (3,), (2, 700), (0, 4)):
        for value in (1 / 3, -0.0, float("inf"), float("nan"), 1e-30):
            x = full(shape, value, dtype)
            assert (x.shape, str(x.dtype)) == (shape, dtype)
            exact = asarray(np.float32(value), dtype).numpy()
            np.testing.assert_array_equal(x.numpy(), np.broadcast_to(exact, shape))
    with pytest.raises(cf.errors.DTypeError, match="full: expected a floating-point type, got int64"):
        full((2,), 1, "int64")


def test_another_device_is_named(shim: Any) -> None:
    """What torch.cuda.set_device(1) does behind the back: nothing lies on two devices."""
    x = full((2,), 3.0)
    shim.set_device(1)
    try:
        with pytest.raises(CudaError, match="device 1 is current, where cnnfast works on device 0"):
            full((2,), 3.0)
    finally:
        shim.set_device(0)
    assert x.numpy().tolist() == [3, 3]


def test_memory_that_is_not_there(device: Any) -> None:
    with pytest.raises(CudaError, match="out of memory"):
        empty((1 << 50,), "uint8")
    assert full((2,), 3.0).numpy().tolist() == [3, 3]
