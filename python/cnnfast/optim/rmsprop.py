"""RMSProp: steps divided by a running root mean square of the gradient."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from .optimizer import FROM_ZERO, Array, Optimizer, native_for, zeros_once

__all__ = ["RMSProp"]


def reference_rmsprop(
    p: Array,
    g: Array,
    square: Array,
    mean: Array | None,
    velocity: Array | None,
    lr: float,
    alpha: float,
    rest: float,
    eps: float,
    decay: float,
    momentum: float,
    sign: float,
) -> None:
    """One step in place: the NumPy definition of the kernel.

    d = sign g + decay p; s = alpha s + rest d^2; m += rest (d - m); u = d / (sqrt(s - m^2) + eps), with
    m = 0 where it is not centred; v = momentum v + u; p -= lr v, or lr u without momentum.
    """
    d = sign * g
    if decay:
        d += decay * p
    square[...] = alpha * square + rest * d * d
    spread = square
    with np.errstate(invalid="ignore", divide="ignore"):
        if mean is not None:
            mean += rest * (d - mean)
            spread = square - mean * mean
        move = d / (np.sqrt(spread) + eps)
    if velocity is not None:
        velocity[...] = momentum * velocity + move
        move = velocity
    p -= lr * move


class RMSProp(Optimizer):
    """RMSProp.

    Parameters
    ----------
    params : iterable of Tensor or of dict
    lr : float
        Learning rate.
    alpha : float
        What the mean square keeps at each step.
    eps : float
        Added to the root.
    weight_decay : float
        Multiple of the parameter that is added to its gradient.
    momentum : float
        0: none.
    centered : bool
        Whether the gradient's running mean is taken out of its mean square.
    maximize : bool

    References
    ----------
    Tieleman and Hinton, "Lecture 6.5: RMSProp", COURSERA, 2012; centred: Graves, "Generating sequences with
    recurrent neural networks", 2013, equations 38 to 41. eps is added after the root, as in torch.
    """

    _rules = dict.fromkeys(("lr", "alpha", "eps", "weight_decay", "momentum"), FROM_ZERO)

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "alpha": alpha,
                "eps": eps,
                "weight_decay": weight_decay,
                "momentum": momentum,
                "centered": centered,
                "maximize": maximize,
            },
        )

    def _update(self, group: dict[str, Any], state: dict[str, Any], p: Array, g: Array) -> None:
        module = native_for(p)
        (module.optim_rmsprop if module else reference_rmsprop)(
            p,
            g,
            zeros_once(state, "square", p),
            zeros_once(state, "mean", p) if group["centered"] else None,
            zeros_once(state, "velocity", p) if group["momentum"] > 0 else None,
            group["lr"],
            group["alpha"],
            1 - group["alpha"],
            group["eps"],
            group["weight_decay"],
            group["momentum"],
            -1.0 if group["maximize"] else 1.0,
        )
