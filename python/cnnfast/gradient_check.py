"""Gradients against differences of values, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .errors import GradientError
from .tensor import Tensor, no_grad

Array = np.ndarray

__all__ = ["gradcheck"]

# Steps of the differences are halved this many times at most.
_HALVINGS = 10
# Products and sums of one function that may have rounded its value, for the error of a difference.
_ROUNDINGS = 8


def gradcheck(f: Callable[..., Any], *inputs: Any, eps: float = 1e-3, rtol: float = 1e-6) -> bool:
    """Compare the gradients of a function with what its values say.

    The number that is differentiated is ``sum(y * v)`` over all floating-point results y of the function,
    with fixed random weights v. Its derivative by every element of every input is worked out by central
    differences with a step of ``eps * max(1, abs(x))``, which is halved, and the differences extrapolated to
    a step of 0, until two extrapolations agree (Ridders); so a step may begin on the other side of a
    corner, but not end there.

    Parameters
    ----------
    f : callable
        Takes tensors, gives a tensor or a tuple of them. It must give the same for the same inputs.
    *inputs : array_like
        Floating-point ones are taken as float64 and checked, all others are handed on as they are; so is a
        tensor that wants no gradient.
    eps : float
        The first step.
    rtol : float
        Largest difference relative to the larger one of both values. Differences below what rounding in
        float64 does to the quotient are none.

    Returns
    -------
    bool
        True.

    Raises
    ------
    GradientError
        Naming input, index and both values, for the worst element.

    References
    ----------
    Ridders, "Accurate computation of F'(x) and F'(x) F''(x)", 1982.
    """
    arguments: list[Any] = []
    checked: list[tuple[int, Tensor]] = []
    for i, given in enumerate(inputs):
        array = given.data if isinstance(given, Tensor) else np.asarray(given)
        fixed = isinstance(given, Tensor) and not given.requires_grad
        if fixed or array.dtype.kind != "f":
            arguments.append(given)
            continue
        tensor = Tensor(np.array(array, np.float64, order="C"), requires_grad=True)
        arguments.append(tensor)
        checked.append((i, tensor))
    if not checked:
        raise GradientError("gradcheck: expected at least one floating-point input that wants a gradient")
    results = _results(f, arguments)
    rng = np.random.default_rng(0)
    weights = [rng.uniform(0.5, 1.5, y.shape) * rng.choice([-1.0, 1.0], y.shape) for y in results]
    for y, v in zip(results, weights, strict=True):
        if y.requires_grad:
            y.backward(v, retain_graph=True)
    del results

    def value() -> tuple[float, float]:
        """The number, and the sum of the absolute values that it is made of."""
        with no_grad():
            terms = [(y.data * v).ravel() for y, v in zip(_results(f, arguments), weights, strict=True)]
        return math.fsum(np.concatenate(terms)), float(sum(np.abs(t).sum() for t in terms))

    size = value()[1]
    worst: tuple[float, str] = (1.0, "")
    for i, tensor in checked:
        gradient = np.zeros(tensor.shape) if tensor.grad is None else tensor.grad
        for index in np.ndindex(*tensor.shape):
            analytic = float(gradient[index])
            numeric, error = _derivative(tensor.data, index, value, eps, size, analytic, rtol)
            if analytic == numeric:
                continue
            error = abs(analytic - numeric) / (rtol * max(abs(analytic), abs(numeric)) + error)
            if not error <= worst[0]:
                place = ", ".join(map(str, index))
                worst = (
                    error,
                    (
                        f"gradcheck: input {i} at ({place}): the gradient is {analytic!r}, "
                        f"differences of values give {numeric!r} (rtol {rtol:g}, shape {tensor.shape})"
                    ),
                )
    if worst[1]:
        raise GradientError(worst[1])
    return True


def _results(f: Callable[..., Any], arguments: list[Any]) -> list[Tensor]:
    """The floating-point results of the function."""
    result = f(*arguments)
    results = result if isinstance(result, (tuple, list)) else (result,)
    if not all(isinstance(y, Tensor) for y in results):
        raise GradientError(f"gradcheck: expected a function that gives tensors, got {type(result).__name__}")
    return [y for y in results if y.dtype.kind == "f"]


def _derivative(
    x: Array,
    index: tuple[int, ...],
    value: Callable[[], tuple[float, float]],
    eps: float,
    size: float,
    analytic: float,
    rtol: float,
) -> tuple[float, float]:
    """The derivative by one element, and what rounding may do to it.

    ``analytic`` only says when to stop early: the value itself comes from the differences alone.
    """
    before = float(x[index])
    step = eps * max(1.0, abs(before))
    table: list[float] = []
    best, best_error, best_rounding = math.nan, math.inf, 0.0
    try:
        for _ in range(_HALVINGS):
            x[index] = before + step
            high, up = value(), float(x[index])
            x[index] = before - step
            low, down = value(), float(x[index])
            row = [(high[0] - low[0]) / (up - down)]
            rounding = _ROUNDINGS * 2.0**-53 * max(size, high[1], low[1]) / step
            for k, earlier in enumerate(table):
                factor = 4.0 ** (k + 1)
                row.append((factor * row[k] - earlier) / (factor - 1))
                error = max(abs(row[-1] - row[k]), abs(row[-1] - earlier))
                if error < best_error:
                    best, best_error, best_rounding = row[-1], error, rounding
            table = row
            near = rtol * max(abs(analytic), abs(best)) + best_rounding
            if best_error <= near and abs(best - analytic) <= near:
                break
            step /= 2
    finally:
        x[index] = before
    return best, best_rounding
