"""Stochastic gradient descent, with momentum and Nesterov's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .. import config
from .optimizer import FROM_ZERO, Array, Optimizer, Ready, native_for, number, zeros_once

__all__ = ["SGD", "Momentum"]


def reference_sgd(
    p: Array,
    g: Array,
    velocity: Array | None,
    lr: float,
    momentum: float,
    gain: float,
    decay: float,
    sign: float,
    nesterov: bool,
    first: bool,
) -> None:
    """One step in place: the NumPy definition of the kernel.

    d = sign g + decay p; v = momentum v + gain d, the first time v = d; p -= lr v, for Nesterov
    p -= lr (d + momentum v), without momentum p -= lr d.
    """
    d = sign * g
    if decay:
        d += decay * p
    if velocity is not None:
        velocity[...] = d if first else momentum * velocity + gain * d
        d = d + momentum * velocity if nesterov else velocity
    p -= lr * d


class SGD(Optimizer):
    """Stochastic gradient descent.

    Parameters
    ----------
    params : iterable of Tensor or of dict
    lr : float
        Learning rate.
    momentum : float
        0: none.
    dampening : float
        A new gradient enters the velocity with 1 - dampening.
    weight_decay : float
        Multiple of the parameter that is added to its gradient.
    nesterov : bool
        The step looks ahead along the velocity; momentum without dampening is needed.
    maximize : bool

    References
    ----------
    Sutskever et al., "On the importance of initialization and momentum in deep learning", 2013; as in
    torch, the learning rate multiplies the velocity, not the gradient.
    """

    _rules = {  # noqa: RUF012
        "lr": FROM_ZERO,
        "momentum": FROM_ZERO,
        "weight_decay": FROM_ZERO,
        "dampening": (number, "as a number"),
    }

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "dampening": dampening,
                "weight_decay": weight_decay,
                "nesterov": nesterov,
                "maximize": maximize,
            },
        )

    def _check_settings(self, group: Any) -> None:
        super()._check_settings(group)
        if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
            raise ValueError(
                f"{self._name}: expected nesterov with momentum and without dampening, got momentum "
                f"{group['momentum']!r} and dampening {group['dampening']!r}"
            )

    def _update_all(self, group: dict[str, Any], ready: list[Ready]) -> None:
        """Natively all at once: the calls for small parameters would cost more than the steps."""
        settings = (
            group["lr"],
            group["momentum"],
            1 - group["dampening"],
            group["weight_decay"],
            -1.0 if group["maximize"] else 1.0,
            group["nesterov"],
        )
        native: dict[bool, tuple[list[Array], list[Array], list[Array]]] = {}
        for state, p, g in ready:
            first = "velocity" not in state
            velocity = zeros_once(state, "velocity", p) if group["momentum"] else None
            module = native_for(p)
            if module is None:
                reference_sgd(p, g, velocity, *settings, first)
            elif module is not config._cpu:
                module.optim_sgd(p, g, velocity, *settings, first)
            else:
                lists = native.setdefault(first, ([], [], []))
                for array, to in zip((p, g, velocity), lists, strict=True):
                    to.append(array)
        for first, (ps, gs, velocities) in native.items():
            config._cpu.optim_sgd(ps, gs, velocities if group["momentum"] else None, *settings, first)


class Momentum(SGD):
    """:class:`SGD` with a momentum of .9.

    Parameters
    ----------
    params, lr, momentum, dampening, weight_decay, nesterov, maximize
        As of :class:`SGD`.
    """

    def __init__(
        self, params: Iterable[Any], lr: float = 1e-3, momentum: float = 0.9, **settings: Any
    ) -> None:
        super().__init__(params, lr, momentum, **settings)
