"""Learning rates that change with time. Each is a function of the number of steps, so resuming is exact."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

from .optimizer import Optimizer, number

__all__ = [
    "CosineAnnealingLR",
    "LinearLR",
    "MultiStepLR",
    "OneCycleLR",
    "ReduceLROnPlateau",
    "Schedule",
    "SequentialLR",
    "StepLR",
]


def _check(schedule: object, good: bool, expected: str, got: object) -> None:
    if not good:
        raise ValueError(f"{type(schedule).__name__}: expected {expected}, got {got!r}")


def _count(value: Any) -> bool:
    return type(value) is int and value >= 1


class Schedule:
    """Base of schedules: at once, and after every :meth:`step`, it sets the rate of every group.

    Parameters
    ----------
    optimizer : Optimizer
        The rate that a group has now is its base rate.

    Attributes
    ----------
    steps : int
        How often :meth:`step` was called.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.steps = 0
        self.base_lrs = [float(group["lr"]) for group in optimizer.param_groups]
        self._apply()

    def step(self) -> None:
        """Go one step on: once an epoch or once a batch, as the schedule is meant."""
        self.steps += 1
        self._apply()

    def rate(self, base: float, t: int) -> float:
        """The rate after ``t`` steps of a group whose base rate is ``base``."""
        raise NotImplementedError

    def settings(self, group: int, t: int) -> dict[str, Any]:
        """What a group is set to after ``t`` steps."""
        return {"lr": self.rate(self.base_lrs[group], t)}

    def last_lr(self) -> list[float]:
        """The rates of the groups."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def _apply(self) -> None:
        for i, group in enumerate(self.optimizer.param_groups[: len(self.base_lrs)]):
            group.update(self.settings(i, self.steps))

    def state_dict(self) -> dict[str, Any]:
        """Where the schedule is, in plain numbers."""
        return {"steps": self.steps, "base_lrs": list(self.base_lrs)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly from a state, and set the rates."""
        _check(
            self,
            len(state["base_lrs"]) == len(self.base_lrs),
            f"{len(self.base_lrs)} groups",
            state["base_lrs"],
        )
        self.steps, self.base_lrs = state["steps"], list(state["base_lrs"])
        self._apply()


class StepLR(Schedule):
    """Times ``gamma`` every ``step_size`` steps.

    Parameters
    ----------
    optimizer : Optimizer
    step_size : int
    gamma : float
    """

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1) -> None:
        _check(self, _count(step_size), "step_size as a whole number from 1", step_size)
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer)

    def rate(self, base: float, t: int) -> float:
        return base * self.gamma ** (t // self.step_size)


class MultiStepLR(Schedule):
    """Times ``gamma`` at each milestone.

    Parameters
    ----------
    optimizer : Optimizer
    milestones : sequence of int
        Numbers of steps, rising.
    gamma : float
    """

    def __init__(self, optimizer: Optimizer, milestones: Sequence[int], gamma: float = 0.1) -> None:
        good = list(milestones) == sorted(milestones) and all(map(_count, milestones))
        _check(self, good, "rising milestones from 1", milestones)
        self.milestones, self.gamma = list(milestones), gamma
        super().__init__(optimizer)

    def rate(self, base: float, t: int) -> float:
        return base * self.gamma ** sum(milestone <= t for milestone in self.milestones)


class CosineAnnealingLR(Schedule):
    """From the base rate to ``eta_min`` in ``T_max`` steps along half a cosine, and up again after that.

    Parameters
    ----------
    optimizer : Optimizer
    T_max : int
    eta_min : float

    References
    ----------
    Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts", 2017, equation 5, without
    the restarts.
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0) -> None:
        _check(self, _count(T_max), "T_max as a whole number from 1", T_max)
        self.T_max, self.eta_min = T_max, eta_min
        super().__init__(optimizer)

    def rate(self, base: float, t: int) -> float:
        return self.eta_min + (base - self.eta_min) * (1 + math.cos(math.pi * t / self.T_max)) / 2


class LinearLR(Schedule):
    """A factor that goes from ``start_factor`` to ``end_factor`` in ``total_iters`` steps: warm-up.

    Parameters
    ----------
    optimizer : Optimizer
    start_factor, end_factor : float
    total_iters : int

    References
    ----------
    Goyal et al., "Accurate, large minibatch SGD: training ImageNet in 1 hour", 2017, section 2.2.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
    ) -> None:
        _check(self, number(start_factor) and 0 < start_factor <= 1, "start_factor in (0, 1]", start_factor)
        _check(self, number(end_factor) and 0 <= end_factor <= 1, "end_factor in [0, 1]", end_factor)
        _check(self, _count(total_iters), "total_iters as a whole number from 1", total_iters)
        self.start_factor, self.end_factor, self.total_iters = start_factor, end_factor, total_iters
        super().__init__(optimizer)

    def rate(self, base: float, t: int) -> float:
        share = min(t, self.total_iters) / self.total_iters
        return base * (self.start_factor + (self.end_factor - self.start_factor) * share)


class SequentialLR(Schedule):
    """One schedule after the other: warm-up, then anything.

    Parameters
    ----------
    optimizer : Optimizer
    schedules : sequence of Schedule
        Of the same optimiser; each counts its steps from where it begins. Made in any order before this one:
        all have the same base rates.
    milestones : sequence of int
        Numbers of steps at which the next one begins.

    Examples
    --------
    >>> import cnnfast as cf
    >>> sgd = cf.optim.SGD([cf.Tensor([1.0], requires_grad=True)], lr=0.1)
    >>> warm = cf.optim.LinearLR(sgd, 0.5, total_iters=2)
    >>> cosine = cf.optim.CosineAnnealingLR(sgd, 10)
    >>> schedule = cf.optim.SequentialLR(sgd, [warm, cosine], [2])
    >>> [round(schedule.rate(0.1, t), 4) for t in range(4)]
    [0.05, 0.075, 0.1, 0.0976]
    """

    def __init__(
        self, optimizer: Optimizer, schedules: Sequence[Schedule], milestones: Sequence[int]
    ) -> None:
        good = len(milestones) == len(schedules) - 1 and list(milestones) == sorted(milestones)
        _check(
            self, good and all(map(_count, milestones)), f"{len(schedules) - 1} rising milestones", milestones
        )
        _check(
            self, all(s.optimizer is optimizer for s in schedules), "schedules of one optimiser", schedules
        )
        self.schedules, self.milestones = list(schedules), list(milestones)
        # The first schedule found the base rates; those after it the rates that it had set.
        for group, base in zip(optimizer.param_groups, schedules[0].base_lrs, strict=False):
            group["lr"] = base
        for schedule in schedules[1:]:
            schedule.base_lrs = list(schedules[0].base_lrs)
        super().__init__(optimizer)

    def _now(self, t: int) -> tuple[Schedule, int]:
        place = sum(milestone <= t for milestone in self.milestones)
        return self.schedules[place], t - (self.milestones[place - 1] if place else 0)

    def rate(self, base: float, t: int) -> float:
        schedule, own = self._now(t)
        return schedule.rate(base, own)

    def settings(self, group: int, t: int) -> dict[str, Any]:
        schedule, own = self._now(t)
        return schedule.settings(group, own)


class OneCycleLR(Schedule):
    """Up to ``max_lr`` and far down again, while momentum goes the other way; one step per batch.

    Parameters
    ----------
    optimizer : Optimizer
    max_lr : float or sequence of float
        One for all groups, or one for each.
    total_steps : int
    pct_start : float
        Part of the steps that rises.
    anneal_strategy : {"cos", "linear"}
    cycle_momentum : bool
        Whether momentum, or the first of ``betas``, goes from ``max_momentum`` to ``base_momentum`` and back.
    base_momentum, max_momentum : float
    div_factor : float
        The first rate is ``max_lr / div_factor``.
    final_div_factor : float
        The last rate is the first one divided by it.
    three_phase : bool
        Whether the rate falls to the first one as long as it rose, and to the last one after that.

    References
    ----------
    Smith and Topin, "Super-convergence: very fast training of neural networks using large learning rates",
    2019.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | Sequence[float],
        total_steps: int,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: float = 0.85,
        max_momentum: float = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
    ) -> None:
        groups = len(optimizer.param_groups)
        peaks = [max_lr] * groups if isinstance(max_lr, (int, float)) else list(max_lr)
        _check(self, len(peaks) == groups, f"max_lr for {groups} groups", max_lr)
        _check(self, type(total_steps) is int and total_steps >= 2, "total_steps from 2", total_steps)
        _check(self, 0 < pct_start < 1, "pct_start in (0, 1)", pct_start)
        _check(
            self, anneal_strategy in ("cos", "linear"), "anneal_strategy 'cos' or 'linear'", anneal_strategy
        )
        cycles = cycle_momentum and all("momentum" in g or "betas" in g for g in optimizer.param_groups)
        _check(
            self,
            cycles or not cycle_momentum,
            "an optimiser with momentum or betas",
            type(optimizer).__name__,
        )
        self.total_steps, self.strategy, self.cycle_momentum = total_steps, anneal_strategy, cycle_momentum
        self.momenta = base_momentum, max_momentum
        self.div_factor, self.final_div_factor = div_factor, final_div_factor
        # Ends of the phases; at each end the rate is that of the same place in `_levels`.
        rise = pct_start * total_steps - 1
        self._ends = [rise, 2 * rise, total_steps - 1] if three_phase else [rise, total_steps - 1]
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak  # the base rate here
        super().__init__(optimizer)

    def _place(self, t: int) -> tuple[int, float]:
        """The phase, and how much of it is over."""
        start = 0.0
        for phase, end in enumerate(self._ends):
            if t <= end or phase == len(self._ends) - 1:
                return phase, (t - start) / (end - start)
            start = end
        raise AssertionError

    def _between(self, levels: list[float], t: int) -> float:
        phase, share = self._place(t)
        if self.strategy == "cos":
            share = (1 - math.cos(math.pi * share)) / 2
        return levels[phase] + (levels[phase + 1] - levels[phase]) * share

    def rate(self, base: float, t: int) -> float:
        first = base / self.div_factor
        middle = [first] if len(self._ends) == 3 else []
        return self._between([first, base, *middle, first / self.final_div_factor], t)

    def settings(self, group: int, t: int) -> dict[str, Any]:
        # The last update is that of step total_steps - 1; loops step once more after it.
        if t > self.total_steps:
            raise ValueError(f"OneCycleLR: expected at most {self.total_steps} steps, got {t}")
        t = min(t, self.total_steps - 1)
        made = super().settings(group, t)
        if self.cycle_momentum:
            low, high = self.momenta
            momentum = self._between([high, low, *[high] * (len(self._ends) - 1)], t)
            held = self.optimizer.param_groups[group]
            made.update(
                {"momentum": momentum} if "momentum" in held else {"betas": (momentum, held["betas"][1])}
            )
        return made


class ReduceLROnPlateau:
    """Times ``factor`` when a metric has not become better for ``patience`` steps.

    Parameters
    ----------
    optimizer : Optimizer
    mode : {"min", "max"}
        Whether less or more is better.
    factor : float
    patience : int
        Steps without progress that are put up with.
    threshold : float
        How much better is better.
    threshold_mode : {"rel", "abs"}
        Whether the threshold is a part of the best value, or a difference from it.
    cooldown : int
        Steps after a reduction that are not counted.
    min_lr : float or sequence of float
        Least rate of all groups, or of each.
    eps : float
        Reductions by less than this are left out.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float | Sequence[float] = 0.0,
        eps: float = 1e-8,
    ) -> None:
        _check(self, mode in ("min", "max"), "mode 'min' or 'max'", mode)
        _check(self, number(factor) and 0 <= factor < 1, "factor in [0, 1)", factor)
        _check(self, threshold_mode in ("rel", "abs"), "threshold_mode 'rel' or 'abs'", threshold_mode)
        groups = len(optimizer.param_groups)
        self.min_lrs = [min_lr] * groups if isinstance(min_lr, (int, float)) else list(min_lr)
        _check(self, len(self.min_lrs) == groups, f"min_lr for {groups} groups", min_lr)
        self.optimizer, self.mode, self.factor, self.patience = optimizer, mode, factor, patience
        self.threshold, self.threshold_mode, self.cooldown, self.eps = (
            threshold,
            threshold_mode,
            cooldown,
            eps,
        )
        self._state: dict[str, Any] = {
            "best": math.inf if mode == "min" else -math.inf,
            "bad_steps": 0,
            "cooling": 0,
        }

    def step(self, metric: float) -> None:
        """Take a metric in, once an epoch; NaN is no progress."""
        state, metric = self._state, float(metric)
        if self._better(metric):
            state["best"], state["bad_steps"] = metric, 0
        else:
            state["bad_steps"] += 1
        if state["cooling"] > 0:
            state["cooling"] -= 1
            state["bad_steps"] = 0
        if state["bad_steps"] > self.patience:
            for group, least in zip(self.optimizer.param_groups, self.min_lrs, strict=False):
                new = max(group["lr"] * self.factor, least)
                if group["lr"] - new > self.eps:
                    group["lr"] = new
            state["cooling"], state["bad_steps"] = self.cooldown, 0

    def _better(self, metric: float) -> bool:
        best, sign = self._state["best"], 1 if self.mode == "max" else -1
        if self.threshold_mode == "abs" or math.isinf(best):
            bound = best + sign * self.threshold
        else:
            bound = best * (1 + sign * self.threshold)
        return metric > bound if self.mode == "max" else metric < bound

    def last_lr(self) -> list[float]:
        """The rates of the groups."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Best value, counters and rates, in plain numbers."""
        return {**copy.deepcopy(self._state), "lrs": self.last_lr()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly from a state, and set the rates."""
        self._state = {name: state[name] for name in self._state}
        for group, lr in zip(self.optimizer.param_groups, state["lrs"], strict=True):
            group["lr"] = lr
