"""Scaling of the loss: when it grows and falls, and which steps are left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cnnfast as cf
from cnnfast import optim, train
from cnnfast.errors import TrainingError
from training import loader, network, state


def parameter(values: Any = (1.0, 2.0, 3.0)) -> cf.Tensor:
    return cf.Tensor(np.array(values, np.float32), requires_grad=True)


def test_the_sequence_of_scales_against_torch(rng: np.random.Generator) -> None:
    """Scales, and weights, over steps of which some overflow."""
    torch = pytest.importorskip("torch")
    options = {"init_scale": 64.0, "growth_factor": 4.0, "backoff_factor": 0.25, "growth_interval": 3}
    ours, scaler = parameter(), optim.GradScaler(**options)
    theirs = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    peer = torch.amp.GradScaler("cpu", **options)
    steps = optim.SGD([ours], 0.1), torch.optim.SGD([theirs], 0.1)
    for i in range(14):
        factor = rng.standard_normal(3).astype(np.float32)
        if i in (2, 3, 9):
            factor[1] = (np.inf, np.nan)[i % 2]
        for step in steps:
            step.zero_grad()
        scaler.scale(cf.ops.reduce_sum(ours * factor)).backward()
        peer.scale((theirs * torch.from_numpy(factor)).sum()).backward()
        if i % 2:
            scaler.unscale(steps[0])
            peer.unscale_(steps[1])
        assert scaler.step(steps[0]) == (i not in (2, 3, 9))
        peer.step(steps[1])
        scaler.update()
        peer.update()
        assert scaler.get_scale() == peer.get_scale()
        np.testing.assert_allclose(ours.data, theirs.detach().numpy(), rtol=1e-6)


def test_what_a_state_brings_back() -> None:
    p = parameter()
    sgd = optim.SGD([p], 0.1)
    first = optim.GradScaler(8.0, growth_interval=3)
    for _ in range(2):
        p.grad = np.ones(3, np.float32)
        first.step(sgd)
        first.update()
    second = optim.GradScaler()
    second.load_state_dict(first.state_dict())
    assert second.state_dict() == first.state_dict()
    p.grad = np.ones(3, np.float32)
    second.step(sgd)
    second.update()
    assert second.get_scale() == 16.0


def test_it_does_not_grow_beyond_float32() -> None:
    p, scaler = parameter(), optim.GradScaler(2.0**127, growth_interval=1)
    p.grad = np.ones(3, np.float32)
    scaler.step(optim.SGD([p], 0.1))
    scaler.update()
    assert scaler.get_scale() == 2.0**127


def test_several_optimisers() -> None:
    """A step is left out by itself; the scale falls for all."""
    p, q, scaler = parameter(), parameter(), optim.GradScaler(4.0)
    p.grad, q.grad = np.full(3, 4, np.float32), np.full(3, np.inf, np.float32)
    assert scaler.step(optim.SGD([p], 1.0))
    assert not scaler.step(optim.SGD([q], 1.0))
    scaler.update()
    assert scaler.get_scale() == 2.0
    np.testing.assert_array_equal(p.data, [0, 1, 2])
    np.testing.assert_array_equal(q.data, [1, 2, 3])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"init_scale": 0}, "init_scale as a positive number, got 0"),
        ({"growth_factor": 1.0}, "growth_factor as a number above 1, got 1.0"),
        ({"backoff_factor": 1.0}, r"backoff_factor as a number in \(0, 1\), got 1.0"),
        ({"growth_interval": 0}, "growth_interval as a whole number from 1, got 0"),
    ],
)
def test_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="GradScaler: expected " + message):
        optim.GradScaler(**settings)


def test_the_order_of_calls() -> None:
    p, scaler = parameter(), optim.GradScaler()
    sgd = optim.SGD([p], 0.1)
    with pytest.raises(ValueError, match=r"expected step\(\) before update\(\)"):
        scaler.update()
    scaler.unscale(sgd)
    with pytest.raises(ValueError, match="got a second"):
        scaler.unscale(sgd)


def test_a_scale_changes_no_bits_of_a_training() -> None:
    """Powers of two round nothing in float32."""
    ends = []
    for scaler in (None, optim.GradScaler(2.0**12)):
        model = network()
        train.fit(model, loader(), epochs=1, scaler=scaler, clip_norm=1.0, progress=False)
        ends.append(state(model))
    assert ends[0] == ends[1]


def test_gradients_that_are_finite_at_no_scale() -> None:
    def loss(outputs: Any, targets: Any) -> Any:
        return cf.ops.reduce_sum(cf.ops.sqrt(outputs * 0))  # 0, with an infinite slope

    with pytest.raises(TrainingError, match="expected finite gradients, got none at any scale"):
        train.fit(
            network(), loader(), loss=loss, epochs=30, scaler=optim.GradScaler(2.0**-20), progress=False
        )
