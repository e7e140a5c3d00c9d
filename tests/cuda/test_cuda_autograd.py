"""The tape, modules and their state with device arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cnnfast as cf
from cnnfast import Tensor, nn, ops
from cnnfast.cuda import DeviceArray, asarray


def _loss(x: Any, w: Any, b: Any) -> Any:
    """w is used three times, b is broadcast, and one path has an activation in the same pass."""
    y = ops.add(ops.mul(x, w), b, activation="relu")
    z = ops.mul(ops.sigmoid(y), w)
    return ops.sub(z, ops.mul(w, 2.0))


def test_gradients_are_those_of_the_host(device: Any, rng: np.random.Generator) -> None:
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in ((3, 5, 17), (3, 5, 17), (17,))]
    start = rng.standard_normal((3, 5, 17)).astype(np.float32)
    host = [Tensor(a, requires_grad=True) for a in arrays]
    here = [Tensor(asarray(a), requires_grad=True) for a in arrays]
    for _ in range(2):  # the second adds to the gradients of the first
        _loss(*host).backward(start)
        y = _loss(*here)
        assert type(y.data) is DeviceArray
        y.backward(asarray(start))
    for a, b in zip(here, host, strict=True):
        assert type(a.grad) is DeviceArray
        np.testing.assert_allclose(a.grad.numpy(), b.grad, rtol=2e-5, atol=2e-5)


def test_a_single_number_starts_by_itself(device: Any) -> None:
    x = Tensor(asarray(np.full((1,), 3, np.float32)), requires_grad=True)
    (x * x).backward()
    np.testing.assert_array_equal(x.grad.numpy(), [6])


def test_hooks(device: Any) -> None:
    x = Tensor(asarray(np.ones(3, np.float32)), requires_grad=True)
    x.register_hook(lambda g: g * 2.0)
    (x * 5.0).backward(np.ones(3, np.float32))
    np.testing.assert_array_equal(x.grad.numpy(), [10, 10, 10])


def test_tensors_do_not_leave_the_device_unasked(device: Any) -> None:
    x = Tensor(asarray(np.ones(3, np.float32)))
    assert "on the device" in repr(x)
    np.testing.assert_array_equal(x.numpy(), np.ones(3))
    np.testing.assert_array_equal((1.0 - x).numpy(), np.zeros(3))
    with pytest.raises(TypeError, match="numpy"):
        np.asarray(x)
    with pytest.raises(cf.errors.BackendError, match="expected all arrays on the device"):
        x + Tensor(np.ones(3, np.float32))


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter((4,), "ones")
        self.register_buffer("shift", np.full(4, 2, np.float32))
        self.register_buffer("count", np.zeros((), np.int64))

    def forward(self, x: Any) -> Any:
        return ops.relu(ops.add(ops.mul(x, self.scale), Tensor(self.shift)))


def test_modules_move(device: Any, rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 3, 4)).astype(np.float32)
    model = Scaled()
    wanted = model(x)
    assert model.to("cuda") is model
    assert type(model.scale.data) is type(model.shift) is DeviceArray
    y = model(asarray(x))
    assert type(y) is DeviceArray
    np.testing.assert_allclose(y.numpy(), wanted, rtol=1e-6)
    state = model.state_dict()
    assert all(type(a) is np.ndarray for a in state.values())
    model.load_state_dict({**state, "scale": np.full(4, 3, np.float32)})
    assert type(model.scale.data) is DeviceArray
    np.testing.assert_array_equal(model.to("cpu").scale.data, np.full(4, 3))
    assert type(model.shift) is np.ndarray
    with pytest.raises(cf.errors.BackendError, match="expected 'cpu' or 'cuda', got 'gpu'"):
        model.to("gpu")
