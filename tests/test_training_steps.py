"""Loader, network, loss, gradients and optimiser together: the same weights whatever does the work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cnnfast as cf
from cnnfast import data, nn, optim

TRANSFORM = data.Compose([data.RandomCrop(12, padding=1), data.Mirror(), data.Normalize((0.5,), (0.25,))])


def pictures(count: int = 96) -> data.Arrays:
    """Classes that differ by where the picture is bright."""
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 3, count)
    values = rng.integers(0, 120, (count, 12, 12, 1), np.uint8)
    for picture, label in zip(values, labels, strict=True):
        picture[4 * label : 4 * label + 4] += 100
    return data.Arrays(values, labels)


def network() -> Any:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3),
        nn.ReLU(),
        nn.GlobalAvgPool2d(),
        nn.Flatten(),
        nn.Linear(16, 3),
    ).initialize(1)


def train(
    steps: int, make: Callable[[Any], optim.Optimizer], *, model: Any = None, **settings: Any
) -> tuple[Any, list[float]]:
    model = network() if model is None else model
    model.train()
    optimizer, losses = make(model.parameters()), []
    with data.DataLoader(pictures(), 16, shuffle=True, seed=4, transform=TRANSFORM, **settings) as loader:
        while len(losses) < steps:
            for batch in loader:
                scores = model(cf.Tensor(batch.pictures))
                loss = cf.ops.reduce_mean(cf.ops.softmax_cross_entropy(scores, batch.labels)[0])
                optimizer.zero_grad()
                loss.backward()
                optim.clip_grad_norm(model.parameters(), 5.0)
                optimizer.step()
                losses.append(float(loss.data))
                if len(losses) == steps:
                    break
    return model, losses


def bits(model: Any) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in model.state_dict().items()}


def momentum(params: Any) -> optim.Optimizer:
    return optim.Momentum(params, 0.05, weight_decay=1e-4)


def test_weights_do_not_depend_on_threads_and_workers(native: None) -> None:
    expected = None
    for threads, workers, kind in ((1, 0, "thread"), (2, 0, "thread"), (2, 2, "thread"), (1, 2, "process")):
        cf.set_num_threads(threads)
        found = bits(train(50, momentum, workers=workers, worker_kind=kind)[0])
        expected = expected or found
        assert found == expected


@pytest.mark.parametrize(
    "make", [momentum, lambda p: optim.AdamW(p, 0.01), lambda p: optim.RMSProp(p, 0.003)]
)
def test_the_loss_falls(make: Any) -> None:
    _, losses = train(60, make)
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:5])


def test_frozen_layers_stay_bit_for_bit(backend: str) -> None:
    model = network()
    children = list(model.children())
    for layer in children[:2]:
        layer.freeze()
    before = bits(model)
    train(8, lambda p: optim.SGD(p, 0.1, weight_decay=0.1), model=model)
    after = bits(model)
    changed = {name for name in before if before[name] != after[name]}
    assert changed
    assert not {name for name in changed if name.startswith(("0.", "1."))}
