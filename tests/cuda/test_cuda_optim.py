"""Optimisers that step parameters on a device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cnnfast as cf
from cnnfast import optim
from cnnfast.cuda import DeviceArray, asarray
from cnnfast.cuda import optim as launches

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


# --- many tensors at once -----------------------------------------------------------------------------

# Of less than a warp, of several blocks with a rest, of one value, of none.
SHAPES = [(17,), (3, 2999), (1,), (0, 4), (2, 2, 3, 5)]


def parameters(rng: np.random.Generator, scale: float = 1.0) -> tuple[list[cf.Tensor], list[cf.Tensor]]:
    """Parameters with gradients in host memory, and the same on the device."""
    host = [cf.Tensor(rng.standard_normal(s).astype(np.float32), requires_grad=True) for s in SHAPES]
    here = [cf.Tensor(asarray(p.data), requires_grad=True) for p in host]
    for p, q in zip(host, here, strict=True):
        p.grad = (scale * rng.standard_normal(p.shape)).astype(np.float32)
        q.grad = asarray(p.grad)
    return host, here


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the launches over many tensors."""
    names: list[str] = []
    launch = launches._launch

    def noted(name: str, *arguments: Any) -> None:
        names.append(name)
        launch(name, *arguments)

    monkeypatch.setattr(launches, "_launch", noted)
    return names


def test_one_launch_for_all_parameters(device: Any, rng: np.random.Generator, launched: list[str]) -> None:
    host, here = parameters(rng)
    for params in (host, here):
        optimizer = optim.Adam([{"params": params[:2], "lr": 0.1}, {"params": params[2:], "lr": 0.2}])
        optimizer.step()
    assert launched == ["optim_adam", "optim_adam"]  # one for each group
    for p, q in zip(host, here, strict=True):
        np.testing.assert_allclose(q.numpy(), p.data, rtol=2e-6, atol=2e-6)


def test_averages_follow_in_one_launch(device: Any, rng: np.random.Generator, launched: list[str]) -> None:
    host, here = parameters(rng)
    averages = []
    for params in (host, here):
        average = optim.ExponentialMovingAverage(params, 0.5)
        for p in params:
            p.data = p.data * 2
        average.update()
        averages.append(average.state_dict()["averages"])
    assert launched == ["optim_approach"]
    for a, b in zip(*averages, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-6, atol=1e-7)


def test_averages_move_with_their_parameters(shim: Any) -> None:
    model = cf.nn.Linear(3, 2)
    average = optim.ExponentialMovingAverage(model)
    model.to("cuda")
    average.update()
    assert all(type(a) is DeviceArray for a in average.averages)
    with average.averaged():
        assert type(model.weight.data) is DeviceArray
    model.to("cpu")
    average.update()
    assert all(type(a) is np.ndarray for a in average.averages)


@pytest.mark.parametrize("norm_type", [2.0, np.inf])
@pytest.mark.parametrize("bound", [0.7, 1e6])
def test_clipping_by_norm(
    device: Any, rng: np.random.Generator, launched: list[str], bound: float, norm_type: float
) -> None:
    host, here = parameters(rng)
    given = [q.grad for q in here]
    wanted = optim.clip_grad_norm(host, bound, norm_type)
    norm = optim.clip_grad_norm(here, bound, norm_type)
    assert launched == ["optim_norm", "optim_scale"]
    assert norm.shape == (1,)
    np.testing.assert_allclose(norm.numpy()[0], wanted, rtol=1e-6)
    for p, q, before in zip(host, here, given, strict=True):
        np.testing.assert_allclose(q.grad.numpy(), p.grad, rtol=1e-6)
        assert q.grad is not before  # another parameter may have it too
        if bound > wanted:
            np.testing.assert_array_equal(q.grad.numpy(), before.numpy())


def test_the_norm_has_the_same_bits_every_time(shim: Any, rng: np.random.Generator) -> None:
    _, here = parameters(rng)
    bits = set()
    for schedule in ("warp-greedy", "reverse", "shuffled"):
        shim.set_schedule(schedule, seed=3)
        bits.add(optim.clip_grad_norm(here, 1e6).numpy().tobytes())
    assert len(bits) == 1


def test_norms_that_are_not_finite(device: Any, rng: np.random.Generator) -> None:
    for bad in (np.nan, np.inf):
        for norm_type in (2.0, np.inf):
            host, here = parameters(rng)
            for p, q in zip(host, here, strict=True):
                if p.size == 17:
                    p.grad[5] = bad
                    q.grad = asarray(p.grad)
            with np.errstate(invalid="ignore"):
                wanted = optim.clip_grad_norm(host, 1.0, norm_type)
            np.testing.assert_array_equal(optim.clip_grad_norm(here, 1.0, norm_type).numpy()[0], wanted)
            for p, q in zip(host, here, strict=True):
                np.testing.assert_array_equal(q.grad.numpy(), p.grad)
    with pytest.raises(ValueError, match="clip_grad_norm: expected finite gradients, got a norm of"):
        optim.clip_grad_norm(here, 1.0, error_if_nonfinite=True)


def test_clipping_by_value(device: Any, rng: np.random.Generator, launched: list[str]) -> None:
    host, here = parameters(rng)
    host[0].grad[:3] = np.nan, np.inf, -np.inf
    here[0].grad = asarray(host[0].grad)
    optim.clip_grad_value(host, 0.4)
    optim.clip_grad_value(here, 0.4)
    assert launched == ["optim_clip"]
    for p, q in zip(host, here, strict=True):
        np.testing.assert_array_equal(q.grad.numpy(), p.grad)


def test_gradients_in_two_places(shim: Any, rng: np.random.Generator) -> None:
    host, here = parameters(rng)
    with pytest.raises(cf.errors.BackendError, match="clip_grad_norm: expected all gradients on the device"):
        optim.clip_grad_norm([host[0], here[0]], 1.0)


@pytest.mark.parametrize("bad", [None, np.inf, np.nan])
def test_unscaling(device: Any, rng: np.random.Generator, launched: list[str], bad: float | None) -> None:
    """All gradients are divided and looked at in one launch."""
    host, here = parameters(rng)
    if bad is not None:
        host[1].grad[2, 2998] = bad
        here[1].grad = asarray(host[1].grad)
    before = [p.numpy().copy() for p in host]
    scaler, optimizer = optim.GradScaler(2.0**10), optim.SGD(here, 0.5)
    wanted = [g.grad / 1024 for g in host]
    scaler.unscale(optimizer)
    assert launched == ["optim_scale"]
    for q, g in zip(here, wanted, strict=True):
        np.testing.assert_array_equal(q.grad.numpy(), g)
    assert scaler.step(optimizer) == (bad is None)
    scaler.update()
    assert scaler.get_scale() == (1024 if bad is None else 512)
    for q, p, g in zip(here, before, wanted, strict=True):
        if bad is None:
            np.testing.assert_allclose(q.numpy(), p - 0.5 * g, rtol=1e-6, atol=1e-7)
        else:
            np.testing.assert_array_equal(q.numpy(), p)
