"""Gradients held within bounds, between the backward pass and the step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..cuda import DeviceArray
from ..cuda.optim import clipped, scaled
from ..cuda.optim import norm as norm_there
from ..errors import BackendError
from .optimizer import gradient
from .vectors import dot

__all__ = ["clip_grad_norm", "clip_grad_value"]


def held_gradients(op: str, params: Iterable[Any]) -> tuple[list[tuple[Any, Any]], bool]:
    """Parameters with their gradients, where there are some; and whether these are on a device.

    Raises
    ------
    BackendError
        If some are and some are not.
    """
    held = [(p, g) for p in params if (g := gradient(op, p)) is not None]
    places = {isinstance(g, DeviceArray) for _, g in held}
    if len(places) > 1:
        raise BackendError(f"{op}: expected all gradients on the device, or none; got both")
    return held, True in places


def clip_grad_norm(
    params: Iterable[Any], max_norm: float, norm_type: float = 2.0, *, error_if_nonfinite: bool = False
) -> Any:
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
        The norm before. Of parameters on a device it is a device array of shape (1,), for which nobody has
        waited.

    References
    ----------
    Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks", 2013; as in torch,
    the factor is min(1, max_norm / (norm + 1e-6)).
    """
    if norm_type not in (2, math.inf):
        raise ValueError(f"clip_grad_norm: expected norm_type 2 or inf, got {norm_type!r}")
    if not max_norm >= 0:
        raise ValueError(f"clip_grad_norm: expected max_norm from 0, got {max_norm!r}")
    held, on_device = held_gradients("clip_grad_norm", params)
    if on_device:
        return _clip_norm_there(held, max_norm, norm_type, error_if_nonfinite)
    if norm_type == 2:
        norm = math.sqrt(sum(dot(g, g) for _, g in held))
    else:
        # np.maximum takes NaN over, which max() does not.
        norm = float(np.maximum.reduce([np.abs(g).max(initial=0) for _, g in held], initial=0.0))
    if error_if_nonfinite:
        _check_finite(norm)
    factor = max_norm / (norm + 1e-6)
    if not factor >= 1:
        for parameter, grad in held:  # new arrays: two parameters may share one
            parameter.grad = grad * grad.dtype.type(factor)
    return norm


def _check_finite(norm: float) -> None:
    if not math.isfinite(norm):
        raise ValueError(f"clip_grad_norm: expected finite gradients, got a norm of {norm}")


def _clip_norm_there(
    held: list[tuple[Any, Any]], max_norm: float, norm_type: float, error_if_nonfinite: bool
) -> DeviceArray:
    """On the device: norm and factor stay there."""
    grads = [g for _, g in held]
    found = norm_there(grads, max_norm, largest=norm_type == math.inf)
    if error_if_nonfinite:
        _check_finite(float(found.numpy()[0]))
    for (parameter, _), grad in zip(held, scaled(grads, by=found.part(1, 1)), strict=True):
        parameter.grad = grad
    return found.part(0, 1)


def clip_grad_value(params: Iterable[Any], clip_value: float) -> None:
    """Hold every value of every gradient within -clip_value and clip_value; NaN stays.

    Parameters
    ----------
    params : iterable of Tensor
    clip_value : float
    """
    if not clip_value >= 0:
        raise ValueError(f"clip_grad_value: expected clip_value from 0, got {clip_value!r}")
    held, on_device = held_gradients("clip_grad_value", params)
    if on_device:
        grads: list[Any] = list(clipped([g for _, g in held], clip_value))
    else:
        grads = [np.clip(g, -clip_value, clip_value) for _, g in held]
    for (parameter, _), grad in zip(held, grads, strict=True):
        parameter.grad = grad
