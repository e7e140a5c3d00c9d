"""Scaling of the loss, so that gradients in float16 do not vanish."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import cuda, ops
from ..cuda import DeviceArray
from ..cuda.optim import scaled
from .clip import held_gradients
from .optimizer import Optimizer, number

__all__ = ["GradScaler"]

_RULES = {
    "init_scale": (lambda v: number(v) and v > 0, "as a positive number"),
    "growth_factor": (lambda v: number(v) and v > 1, "as a number above 1"),
    "backoff_factor": (lambda v: number(v) and 0 < v < 1, "as a number in (0, 1)"),
    "growth_interval": (lambda v: type(v) is int and v >= 1, "as a whole number from 1"),
}


class GradScaler:
    """A factor on the loss that follows how large the gradients are.

    The smallest numbers of float16 are 6e-8, and gradients are often below. Multiplied with the scale they
    are not; before the step they are divided by it again, in float32. A step whose gradients are not all
    finite is left out, and the scale falls; it rises again after many good steps.

    Parameters
    ----------
    init_scale : float
        The first scale. Powers of 2 round nothing.
    growth_factor : float
        What the scale is multiplied with after ``growth_interval`` good steps without a pause.
    backoff_factor : float
        What it is multiplied with after a step that was left out.
    growth_interval : int

    Raises
    ------
    ValueError

    Notes
    -----
    Gradients on a device are looked at there, all in one launch; the host waits for one number at each step.

    References
    ----------
    Micikevicius et al., "Mixed precision training", 2018, section 3.2; names and defaults as in torch.

    Examples
    --------
    >>> import cnnfast as cf
    >>> w = cf.Tensor(np.ones(3, np.float32), requires_grad=True)
    >>> sgd, scaler = cf.optim.SGD([w], lr=0.5), cf.optim.GradScaler(init_scale=8.0)
    >>> scaler.scale(cf.ops.reduce_sum(w)).backward()
    >>> scaler.step(sgd), scaler.update()
    (True, None)
    >>> w.numpy()
    array([0.5, 0.5, 0.5], dtype=float32)
    """

    def __init__(
        self,
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
    ) -> None:
        settings = {
            "init_scale": init_scale,
            "growth_factor": growth_factor,
            "backoff_factor": backoff_factor,
            "growth_interval": growth_interval,
        }
        for name, (good, expected) in _RULES.items():
            if not good(settings[name]):
                raise ValueError(f"GradScaler: expected {name} {expected}, got {settings[name]!r}")
        self._scale = float(init_scale)
        self.growth_factor, self.backoff_factor = growth_factor, backoff_factor
        self.growth_interval = growth_interval
        self._good_steps = 0  # since the scale last changed
        # Optimisers whose gradients were divided since the last update, and whether some were not finite: a
        # bool, or a number on the device that nobody has asked for yet.
        self._unsound: dict[int, tuple[Optimizer, Any]] = {}

    def get_scale(self) -> float:
        """The factor in use."""
        return self._scale

    def scale(self, loss: Any) -> Any:
        """The loss times the factor; ``backward`` of it gives scaled gradients."""
        return ops.mul(loss, self._scale)

    def unscale(self, optimizer: Optimizer) -> None:
        """Divide the gradients of an optimiser's parameters by the factor, e.g. to clip them before the step.

        Raises
        ------
        ValueError
            If it was done since the last :meth:`update`.
        """
        if id(optimizer) in self._unsound:
            raise ValueError(
                "GradScaler: expected one division of an optimiser's gradients before update(), got a second"
            )
        held, on_device = held_gradients("GradScaler", optimizer.parameters())
        unsound: Any
        if on_device:
            unsound = cuda.zeros((1,), "int32")
            grads: list[Any] = list(scaled([g for _, g in held], 1 / self._scale, unsound=unsound))
        else:
            with np.errstate(over="ignore", invalid="ignore"):
                grads = [g * g.dtype.type(1 / self._scale) for _, g in held]
            unsound = not all(np.isfinite(g).all() for g in grads)
        for (parameter, _), grad in zip(held, grads, strict=True):
            parameter.grad = grad
        self._unsound[id(optimizer)] = optimizer, unsound

    def step(self, optimizer: Optimizer) -> bool:
        """The step of an optimiser, unless gradients are not finite; divides them first if need be.

        Returns
        -------
        bool
            Whether the step was taken.
        """
        if id(optimizer) not in self._unsound:
            self.unscale(optimizer)
        if self._found(optimizer):
            return False
        optimizer.step()
        return True

    def _found(self, optimizer: Optimizer) -> bool:
        """Whether gradients are not finite; waits for a device."""
        unsound = self._unsound[id(optimizer)][1]
        if isinstance(unsound, DeviceArray):
            unsound = bool(unsound.numpy()[0])
            self._unsound[id(optimizer)] = optimizer, unsound
        return unsound

    def update(self) -> None:
        """Adjust the factor; once after the steps of all optimisers.

        Raises
        ------
        ValueError
            If there was no step.
        """
        if not self._unsound:
            raise ValueError("GradScaler: expected step() before update(), got none since the last update()")
        unsound = any(self._found(optimizer) for optimizer, _ in list(self._unsound.values()))
        self._unsound.clear()
        if unsound:
            self._scale, self._good_steps = self._scale * self.backoff_factor, 0
            return
        self._good_steps += 1
        if self._good_steps == self.growth_interval:
            grown = self._scale * self.growth_factor
            # As torch, which keeps it in float32.
            self._scale = grown if grown <= float(np.finfo(np.float32).max) else self._scale
            self._good_steps = 0

    def state_dict(self) -> dict[str, Any]:
        """The factor, the good steps since it changed, and the settings, in plain numbers."""
        return {
            "scale": self._scale,
            "growth_factor": self.growth_factor,
            "backoff_factor": self.backoff_factor,
            "growth_interval": self.growth_interval,
            "good_steps": self._good_steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly from a state."""
        self._scale, self._good_steps = state["scale"], state["good_steps"]
        self.growth_factor, self.backoff_factor = state["growth_factor"], state["backoff_factor"]
        self.growth_interval = state["growth_interval"]
