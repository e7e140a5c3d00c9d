"""Optimisers that step parameters on a device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cnnfast as cf
from cnnfast import optim
from cnnfast.cuda import DeviceArray, asarray

MAKERS: dict[str, Callable[[Any], Any]] = {
    "sgd": lambda p: optim.SGD(p, lr=0.1, weight_decay=0.01),
    "nesterov": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "dampened": lambda p: optim.SGD(p, lr=0.1, momentum=0.5, dampening=0.2, maximize=True),
    "rmsprop": lambda p: optim.RMSProp(p, lr=0.01, momentum=0.9, centered=True, weight_decay=0.01),
    "adam": lambda p: optim.Adam(p, lr=0.01, weight_decay=0.01),
    "amsgrad": lambda p: optim.Adam(p, lr=0.01, amsgrad=True),
    "adamw": lambda p: optim.AdamW(p, lr=0.01),
}


@pytest.mark.parametrize("name", MAKERS)
def test_steps_are_those_of_the_host(device: Any, rng: np.random.Generator, name: str) -> None:
    start = [rng.standard_normal(shape).astype(np.float32) for shape in ((3, 3, 7, 5), (17,), (1,))]
    host = [cf.Tensor(a, requires_grad=True) for a in start]
    here = [cf.Tensor(asarray(a), requires_grad=True) for a in start]
    steps = [MAKERS[name](host), MAKERS[name](here)]
    for _ in range(3):
        for a, b in zip(host, here, strict=True):
            a.grad = rng.standard_normal(a.shape).astype(np.float32)
            b.grad = asarray(a.grad)
        for step in steps:
            step.step()
    for a, b, first in zip(host, here, start, strict=True):
        assert type(b.data) is DeviceArray
        np.testing.assert_allclose(b.numpy(), a.data, rtol=2e-6, atol=2e-6)
        assert not np.array_equal(a.data, first)


def test_the_given_array_is_not_written(device: Any) -> None:
    given = asarray(np.ones(3, np.float32))
    p = cf.Tensor(given, requires_grad=True)
    p.grad = given
    optim.SGD([p], lr=1.0).step()
    np.testing.assert_array_equal(given.numpy(), np.ones(3))
    np.testing.assert_array_equal(p.numpy(), np.zeros(3))


def test_state_goes_through_host_arrays(device: Any, rng: np.random.Generator) -> None:
    start, grad = rng.standard_normal((2, 5)).astype(np.float32)

    def stepped(state: Any) -> tuple[np.ndarray, Any]:
        p = cf.Tensor(asarray(start), requires_grad=True)
        optimizer = optim.Adam([p], lr=0.1)
        if state is not None:
            optimizer.load_state_dict(state)
        p.grad = asarray(grad)
        optimizer.step()
        return p.numpy(), optimizer.state_dict()

    _, state = stepped(None)
    assert all(not isinstance(v, DeviceArray) for v in state["state"][0].values())
    first, _ = stepped(state)
    second, _ = stepped(state)
    np.testing.assert_array_equal(first, second)


def test_a_gradient_elsewhere(device: Any) -> None:
    p = cf.Tensor(asarray(np.ones(3, np.float32)), requires_grad=True)
    p.grad = np.ones(3, np.float32)
    with pytest.raises(cf.errors.BackendError, match="SGD: a parameter and its gradient are not both"):
        optim.SGD([p], lr=1.0).step()
