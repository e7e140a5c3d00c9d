"""Adam, and AdamW with weight decay of its own."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from .optimizer import FROM_ZERO, Array, Optimizer, below_one, native_for, zeros_once

__all__ = ["Adam", "AdamW"]


def reference_adam(
    p: Array,
    g: Array,
    mean: Array,
    square: Array,
    largest: Array | None,
    size: float,
    rest1: float,
    beta2: float,
    rest2: float,
    root: float,
    eps: float,
    decay: float,
    keep: float,
    sign: float,
) -> None:
    """One step in place: the NumPy definition of the kernel.

    d = sign g + decay p; m += rest1 (d - m); s = beta2 s + rest2 d^2; l = max(l, s), or s without
    ``largest``; p = keep p - size m / (sqrt(l) / root + eps).
    """
    d = sign * g
    if decay:
        d += decay * p
    mean += rest1 * (d - mean)
    square[...] = beta2 * square + rest2 * d * d
    if largest is not None:
        np.maximum(largest, square, out=largest)
        square = largest
    with np.errstate(invalid="ignore", divide="ignore"):
        p[...] = keep * p - size * (mean / (np.sqrt(square) / root + eps))


def _two_betas(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == 2 and all(map(below_one, value))


class Adam(Optimizer):
    """Adam.

    Parameters
    ----------
    params : iterable of Tensor or of dict
    lr : float
        Learning rate.
    betas : (float, float)
        What the running means of gradient and squared gradient keep at each step.
    eps : float
        Added to the root.
    weight_decay : float
        Multiple of the parameter that is added to its gradient.
    amsgrad : bool
        Whether the largest mean square so far takes the place of the last one.
    maximize : bool

    References
    ----------
    Kingma and Ba, "Adam: a method for stochastic optimization", 2015, algorithm 1; Reddi, Kale, Kumar, "On
    the convergence of Adam and beyond", 2018.
    """

    _rules = {  # noqa: RUF012
        "lr": FROM_ZERO,
        "eps": FROM_ZERO,
        "weight_decay": FROM_ZERO,
        "betas": (_two_betas, "as two numbers in [0, 1)"),
    }
    _decoupled = False  # weight decay beside the gradient

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "amsgrad": amsgrad,
                "maximize": maximize,
            },
        )

    def _update(self, group: dict[str, Any], state: dict[str, Any], p: Array, g: Array) -> None:
        t = state["step"] = state.get("step", 0) + 1
        (beta1, beta2), lr, decay = group["betas"], group["lr"], group["weight_decay"]
        module = native_for(p)
        (module.optim_adam if module else reference_adam)(
            p,
            g,
            zeros_once(state, "mean", p),
            zeros_once(state, "square", p),
            zeros_once(state, "largest", p) if group["amsgrad"] else None,
            lr / (1 - beta1**t),
            1 - beta1,
            beta2,
            1 - beta2,
            math.sqrt(1 - beta2**t),
            group["eps"],
            0.0 if self._decoupled else decay,
            1 - lr * decay if self._decoupled else 1.0,
            -1.0 if group["maximize"] else 1.0,
        )


class AdamW(Adam):
    """Adam with decoupled weight decay: parameters shrink by ``lr * weight_decay`` beside the step.

    Parameters
    ----------
    params, lr, betas, eps, weight_decay, amsgrad, maximize
        As of :class:`Adam`; ``weight_decay`` is .01.

    References
    ----------
    Loshchilov and Hutter, "Decoupled weight decay regularization", 2019, algorithm 2, the rate included in
    the decay as in torch.
    """

    _decoupled = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize)
