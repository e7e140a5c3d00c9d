"""Schedules: the rates of torch, exact resuming, wrong settings."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cnnfast as cf
from cnnfast import optim

STEPS = 25


def sgd(momentum: float = 0.9) -> optim.SGD:
    groups = [{"params": [cf.Tensor(np.zeros(1, np.float32), True)], "lr": lr} for lr in (0.1, 0.02)]
    return optim.SGD(groups, momentum=momentum)


def adam() -> optim.Adam:
    return optim.Adam([cf.Tensor(np.zeros(1, np.float32), True)])


CASES: list[tuple[str, dict[str, Any]]] = [
    ("StepLR", {"step_size": 4, "gamma": 0.5}),
    ("MultiStepLR", {"milestones": [3, 4, 11]}),
    ("CosineAnnealingLR", {"T_max": 10, "eta_min": 0.01}),
    ("CosineAnnealingLR", {"T_max": 25}),
    ("LinearLR", {}),
    ("LinearLR", {"start_factor": 0.1, "end_factor": 0.8, "total_iters": 8}),
    ("OneCycleLR", {"max_lr": 0.5, "total_steps": 26}),
    ("OneCycleLR", {"max_lr": [0.5, 0.1], "total_steps": 30, "anneal_strategy": "linear", "pct_start": 0.4}),
    ("OneCycleLR", {"max_lr": 0.5, "total_steps": 26, "three_phase": True, "cycle_momentum": False}),
    ("OneCycleLR", {"max_lr": 0.5, "total_steps": 40, "three_phase": True, "div_factor": 5}),
]


def rates(optimizer: Any, schedule: Any, steps: int = STEPS) -> list[list[float]]:
    found = []
    for _ in range(steps):
        found.append([g[key] for g in optimizer.param_groups for key in ("lr", "momentum")])
        schedule.step()
    return found


@pytest.mark.parametrize(("name", "settings"), CASES, ids=str)
@pytest.mark.filterwarnings("ignore:Detected call of")
@pytest.mark.filterwarnings("ignore:.*lr_scheduler")
def test_against_torch(name: str, settings: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    optimizer = sgd()
    found = rates(optimizer, getattr(optim, name)(optimizer, **settings))
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": lr} for lr in (0.1, 0.02)]
    other = torch.optim.SGD(groups, momentum=0.9)
    expected = rates(other, getattr(torch.optim.lr_scheduler, name)(other, **settings))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize(("name", "settings"), CASES, ids=str)
def test_resuming_is_exact(name: str, settings: dict[str, Any]) -> None:
    optimizer = sgd()
    schedule = getattr(optim, name)(optimizer, **settings)
    rates(optimizer, schedule, 7)
    state = pickle.loads(pickle.dumps((optimizer.state_dict(), schedule.state_dict())))
    rest = rates(optimizer, schedule, 10)
    again = sgd()
    resumed = getattr(optim, name)(again, **settings)
    again.load_state_dict(state[0])
    resumed.load_state_dict(state[1])
    assert rates(again, resumed, 10) == rest


def test_warm_up_and_then_a_cosine() -> None:
    optimizer = sgd()
    warm = optim.LinearLR(optimizer, 0.1, total_iters=5)
    cosine = optim.CosineAnnealingLR(optimizer, 10)
    schedule = optim.SequentialLR(optimizer, [warm, cosine], [5])
    found = [rate[0] for rate in rates(optimizer, schedule, 16)]
    expected = [0.1 * (0.1 + 0.9 * t / 5) for t in range(5)]
    expected += [0.05 * (1 + math.cos(math.pi * t / 10)) for t in range(11)]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-17)
    state = schedule.state_dict()
    again = sgd()
    parts = [optim.LinearLR(again, 0.1, total_iters=5), optim.CosineAnnealingLR(again, 10)]
    resumed = optim.SequentialLR(again, parts, [5])
    resumed.load_state_dict(state)
    assert resumed.last_lr() == schedule.last_lr()


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("threshold_mode", ["rel", "abs"])
@pytest.mark.parametrize("cooldown", [0, 2])
def test_plateaus_against_torch(mode: str, threshold_mode: str, cooldown: int) -> None:
    torch = pytest.importorskip("torch")
    settings: dict[str, Any] = {
        "mode": mode,
        "factor": 0.5,
        "patience": 2,
        "threshold": 0.01,
        "threshold_mode": threshold_mode,
        "cooldown": cooldown,
        "min_lr": [0.01, 0.001],
    }
    optimizer = sgd()
    schedule = optim.ReduceLROnPlateau(optimizer, **settings)
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": lr} for lr in (0.1, 0.02)]
    other = torch.optim.SGD(groups)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(other, **settings)
    metrics = np.concatenate(
        [np.linspace(5, 3, 6), np.full(12, 3.0), np.linspace(3, 4, 10), [2], np.full(9, 2.5)]
    )
    for step, metric in enumerate(metrics):
        schedule.step(metric)
        theirs.step(metric)
        assert schedule.last_lr() == [g["lr"] for g in other.param_groups]
        if step == 15:
            state = pickle.loads(pickle.dumps(schedule.state_dict()))
            schedule = optim.ReduceLROnPlateau(optimizer, **settings)
            for group in optimizer.param_groups:
                group["lr"] = 9.0
            schedule.load_state_dict(state)
    assert schedule.last_lr()[0] < 0.05


def test_one_cycle_turns_the_first_beta() -> None:
    optimizer = adam()
    schedule = optim.OneCycleLR(optimizer, 0.1, 11)
    betas = []
    for _ in range(10):
        betas.append(optimizer.param_groups[0]["betas"])
        schedule.step()
    assert min(first for first, _ in betas) == pytest.approx(0.85, abs=0.01)
    assert {second for _, second in betas} == {0.999}
    last = schedule.last_lr()
    schedule.step()  # as loops do after the last update
    assert schedule.last_lr() == last
    with pytest.raises(ValueError, match="OneCycleLR: expected at most 11 steps, got 12"):
        schedule.step()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda o: optim.StepLR(o, 0), "StepLR: expected step_size as a whole number from 1, got 0"),
        (lambda o: optim.MultiStepLR(o, [3, 1]), "rising milestones"),
        (lambda o: optim.CosineAnnealingLR(o, 1.5), "T_max"),
        (lambda o: optim.LinearLR(o, 0), r"start_factor in \(0, 1\]"),
        (lambda o: optim.OneCycleLR(o, [1, 2, 3], 10), "max_lr for 2 groups"),
        (lambda o: optim.OneCycleLR(o, 1, 10, anneal_strategy="step"), "anneal_strategy"),
        (lambda o: optim.SequentialLR(o, [optim.StepLR(o, 1)], [3]), "0 rising milestones"),
        (lambda o: optim.SequentialLR(o, [optim.StepLR(sgd(), 1)], []), "schedules of one optimiser"),
        (lambda o: optim.ReduceLROnPlateau(o, factor=1.5), r"factor in \[0, 1\)"),
        (lambda o: optim.ReduceLROnPlateau(o, "up"), "mode 'min' or 'max'"),
    ],
)
def test_settings_are_checked(call: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(sgd())
