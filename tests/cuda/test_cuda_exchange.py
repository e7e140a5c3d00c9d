"""Memory shared with other libraries. NumPy stands for them: the memory of the stand-in is the host's."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest

import cnnfast as cf
from cnnfast.cuda import Stream, asarray, from_dlpack

TYPES = ["float32", "float16", "int64", "int32", "uint8", "bool"]


@pytest.mark.parametrize("dtype", TYPES)
def test_to_numpy(shim: Any, dtype: str, rng: np.random.Generator) -> None:
    x = rng.integers(0, 2, (2, 3, 5)).astype(dtype)
    on_device = asarray(x)
    y = np.from_dlpack(on_device)
    assert y.dtype == x.dtype
    assert y.ctypes.data == on_device.buffer.address
    del on_device
    gc.collect()
    np.testing.assert_array_equal(y, x)


@pytest.mark.parametrize("dtype", TYPES)
def test_from_numpy(shim: Any, dtype: str, rng: np.random.Generator) -> None:
    x = rng.integers(0, 2, (2, 3, 5)).astype(dtype)
    y = from_dlpack(x)
    assert (y.shape, y.dtype, y.buffer.address) == (x.shape, x.dtype, x.ctypes.data)
    np.testing.assert_array_equal(y.numpy(), x)


def test_the_owner_lives_as_long_as_the_array(shim: Any) -> None:
    class Owner(np.ndarray):
        pass

    x = np.arange(6, dtype=np.float32).view(Owner)
    alive = weakref.ref(x)
    y = from_dlpack(x).reshape(2, 3)
    del x
    gc.collect()
    assert alive() is not None
    np.testing.assert_array_equal(cf.ops.add(y, y).numpy(), [[0, 2, 4], [6, 8, 10]])
    del y
    gc.collect()
    assert alive() is None


def test_capsules(shim: Any) -> None:
    x = asarray(np.arange(6, dtype=np.float32))
    for version, name in ((None, "dltensor"), ((0, 8), "dltensor"), ((1, 1), "dltensor_versioned")):
        capsule = x.__dlpack__(max_version=version)
        assert f'"{name}"' in repr(capsule)
    del capsule  # nobody took them
    assert x.__dlpack_device__() == (1, 0)  # (2, n) on a GPU
    np.testing.assert_array_equal(np.from_dlpack(x), np.arange(6))
    copy = from_dlpack(
        type(
            "Copy",
            (),
            {
                "__dlpack__": lambda s, **k: x.__dlpack__(copy=True),
                "__dlpack_device__": lambda s: x.__dlpack_device__(),
            },
        )()
    )
    assert copy.buffer.address != x.buffer.address


def test_what_cannot_cross(shim: Any) -> None:
    with pytest.raises(cf.errors.ShapeError, match="C-contiguous"):
        from_dlpack(np.zeros((3, 4), np.float32).T)
    with pytest.raises(cf.errors.DTypeError, match="code 2 and 64 bits"):
        from_dlpack(np.zeros(3))
    x = asarray(np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="ambiguous"):
        x.__dlpack__(stream=0)
    with pytest.raises(BufferError, match="expected"):
        x.__dlpack__(dl_device=(2, 5))


def test_cuda_array_interface(shim: Any) -> None:
    x = asarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    given = x.__cuda_array_interface__
    assert given["version"] == 3
    assert (given["shape"], given["typestr"], given["strides"]) == ((2, 3), "<f4", None)
    assert given["data"] == (x.buffer.address, False)
    assert given["stream"] != 0

    class Other:
        __cuda_array_interface__ = given

    y = asarray(Other())
    assert y.buffer.address == x.buffer.address
    np.testing.assert_array_equal(y.numpy(), x.numpy())
    Other.__cuda_array_interface__ = {**given, "strides": (4, 8)}
    with pytest.raises(cf.errors.ShapeError, match="C-contiguous"):
        asarray(Other())
    assert not hasattr(asarray(np.zeros(3, np.float32), "bfloat16"), "__cuda_array_interface__")


def test_streams(device: Any) -> None:
    x = asarray(np.arange(6, dtype=np.float32))
    with Stream() as first, Stream():
        y = cf.ops.add(x, x)
    z = cf.ops.add(y, x)
    first.synchronize()
    np.testing.assert_array_equal(z.numpy(), 3 * np.arange(6))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_torch_on_the_device(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch sees no device")
    theirs = torch.arange(12, device="cuda").reshape(3, 4).to(getattr(torch, dtype))
    ours = asarray(theirs)
    assert (ours.shape, str(ours.dtype)) == ((3, 4), dtype)
    assert ours.buffer.address == theirs.data_ptr() == torch.from_dlpack(ours).data_ptr()
    with torch.cuda.stream(torch.cuda.Stream()):  # which waits for what was started here
        twice = torch.from_dlpack(cf.ops.add(ours, ours)) + 1
    torch.cuda.synchronize()
    assert twice.float().cpu().flatten().tolist() == list(range(1, 25, 2))
