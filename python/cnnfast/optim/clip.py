"""Gradients held within bounds, between the backward pass and the step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from .optimizer import gradient
from .vectors import dot

__all__ = ["clip_grad_norm", "clip_grad_value"]


def clip_grad_norm(
    params: Iterable[Any], max_norm: float, norm_type: float = 2.0, *, error_if_nonfinite: bool = False
) -> float:
    """Scale all gradients by one factor so that the norm of all of them together is at most ``max_norm``.

    Parameters
    ----------
    params : iterable of Tensor
    max_norm : float
    norm_type : float
        2, or ``math.inf`` for the largest absolute value.
    error_if_nonfinite : bool
        Whether a norm that is not finite raises ValueError; otherwise the gradients take over what it gives.

    Returns
    -------
    float
        The norm before.

    References
    ----------
    Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks", 2013; as in torch,
    the factor is min(1, max_norm / (norm + 1e-6)).
    """
    if norm_type not in (2, math.inf):
        raise ValueError(f"clip_grad_norm: expected norm_type 2 or inf, got {norm_type!r}")
    if not max_norm >= 0:
        raise ValueError(f"clip_grad_norm: expected max_norm from 0, got {max_norm!r}")
    held = [(p, g) for p in params if (g := gradient("clip_grad_norm", p)) is not None]
    if norm_type == 2:
        norm = math.sqrt(sum(dot(g, g) for _, g in held))
    else:
        # np.maximum takes NaN over, which max() does not.
        norm = float(np.maximum.reduce([np.abs(g).max(initial=0) for _, g in held], initial=0.0))
    if error_if_nonfinite and not math.isfinite(norm):
        raise ValueError(f"clip_grad_norm: expected finite gradients, got a norm of {norm}")
    factor = max_norm / (norm + 1e-6)
    if not factor >= 1:
        for parameter, grad in held:  # new arrays: two parameters may share one
            parameter.grad = grad * grad.dtype.type(factor)
    return norm


def clip_grad_value(params: Iterable[Any], clip_value: float) -> None:
    """Hold every value of every gradient within -clip_value and clip_value; NaN stays.

    Parameters
    ----------
    params : iterable of Tensor
    clip_value : float
    """
    if not clip_value >= 0:
        raise ValueError(f"clip_grad_value: expected clip_value from 0, got {clip_value!r}")
    for parameter in params:
        grad = gradient("clip_grad_value", parameter)
        if grad is not None:
            parameter.grad = np.clip(grad, -clip_value, clip_value)
