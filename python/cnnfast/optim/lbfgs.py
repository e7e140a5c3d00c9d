"""L-BFGS: a quasi-Newton method with a short memory, for few parameters and exact gradients."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from ..cuda import DeviceArray
from ..errors import BackendError
from .optimizer import FROM_ZERO, Array, Optimizer, gradient, number
from .vectors import add_scaled, dot

__all__ = ["LBFGS"]

# A function along a line: step -> value, gradient, slope.
Line = Callable[[float], tuple[float, Array, float]]

_DECREASE, _CURVATURE = 1e-4, 0.9  # of the strong Wolfe conditions
_MAX_EVALUATIONS = 25


class LBFGS(Optimizer):
    """Limited-memory BFGS; one ``step`` is up to ``max_iter`` iterations.

    Parameters
    ----------
    params : iterable of Tensor
        One group, of one type. Pictures are as good as weights.
    lr : float
        Length of a step along the direction, of the first one divided by the gradient's sum of absolute
        values where that is above 1. With a line search, where that begins.
    max_iter : int
    max_eval : int, optional
        Calls of the closure; ``1.25 max_iter``.
    tolerance_grad : float
        Largest absolute value of a gradient that is good enough.
    tolerance_change : float
        Change of all parameters, or of the loss, that is not worth going on.
    history_size : int
        Pairs of steps and changes of the gradient that are kept.
    line_search_fn : {None, "strong_wolfe"}
        None takes every step as it is.

    Notes
    -----
    The whole state is copied by ``state_dict``, so a step after ``load_state_dict`` has the same bits. Sums
    do not depend on the number of threads. A parameter without a gradient stands still.

    References
    ----------
    Nocedal and Wright, "Numerical optimization", 2nd edition, 2006: algorithm 7.4 (two loops), equation 7.20
    (scaling), algorithms 3.5 and 3.6 (line search), equation 3.59 (cubic interpolation). Defaults, first step
    and tests for the end are torch's.
    """

    _rules = {  # noqa: RUF012
        "lr": FROM_ZERO,
        "tolerance_grad": FROM_ZERO,
        "tolerance_change": FROM_ZERO,
        "max_iter": (lambda n: type(n) is int and n >= 1, "as a whole number from 1"),
        "history_size": (lambda n: type(n) is int and n >= 1, "as a whole number from 1"),
        "line_search_fn": (lambda s: s in (None, "strong_wolfe"), "None or 'strong_wolfe'"),
    }

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: str | None = None,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "max_iter": max_iter,
                "max_eval": max_iter * 5 // 4 if max_eval is None else max_eval,
                "tolerance_grad": tolerance_grad,
                "tolerance_change": tolerance_change,
                "history_size": history_size,
                "line_search_fn": line_search_fn,
            },
        )
        types = {p.dtype for p in self.parameters()}
        if len(self.param_groups) > 1 or len(types) > 1:
            raise ValueError(
                f"LBFGS: expected one group of parameters of one type, got {sorted(map(str, types))}"
            )
        self._memory: dict[str, Any] = {"iterations": 0, "steps": [], "changes": []}

    # --- parameters as one vector -----------------------------------------------------------------

    def _moving(self) -> list[Any]:
        return [p for p in self.parameters() if p.requires_grad]

    def _gradient(self) -> Array:
        parts = []
        for parameter in self._moving():
            grad = gradient("LBFGS", parameter)
            parts.append(np.zeros(parameter.shape, parameter.dtype).ravel() if grad is None else grad.ravel())
        return np.concatenate(parts)

    def _position(self) -> list[Array]:
        return [p.data.copy() for p in self._moving()]

    def _move(self, start: list[Array], direction: Array, t: float) -> None:
        """Parameters to ``start + t direction``."""
        at = 0
        for parameter, origin in zip(self._moving(), start, strict=True):
            data = self._own(self._state.setdefault(id(parameter), {}), parameter)
            part = direction[at : at + data.size].reshape(data.shape)
            np.copyto(data, origin)
            add_scaled(data, part, t)
            at += data.size

    # --- the method -----------------------------------------------------------------------------

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Iterate.

        Parameters
        ----------
        closure : callable
            Clears gradients, computes the loss and its gradients, and returns the loss; called many times.

        Returns
        -------
        float
            The loss at the beginning.

        Raises
        ------
        ValueError
            If there is no closure.
        BackendError
            If parameters are on a device.
        """
        if closure is None:
            raise ValueError("LBFGS: expected a closure that computes the loss and its gradients, got None")
        group, memory = self.param_groups[0], self._memory
        if any(isinstance(p.data, DeviceArray) for p in self._moving()):
            raise BackendError("LBFGS: expected parameters in host memory, got some on the device")
        if not self._moving():
            return _number(closure())

        def evaluate() -> tuple[float, Array]:
            loss = _number(closure())
            return loss, self._gradient()

        first, grad = evaluate()
        loss, evaluations = first, 1
        if _largest(grad) <= group["tolerance_grad"]:
            return first
        for iteration in range(1, group["max_iter"] + 1):
            memory["iterations"] += 1
            direction = self._direction(grad)
            t = group["lr"]
            if memory["iterations"] == 1:
                t *= min(1.0, 1.0 / float(np.abs(grad).sum(dtype=np.float64)))
            slope = dot(grad, direction)
            if slope > -group["tolerance_change"]:
                break
            start, before = self._position(), loss
            memory["last_grad"] = grad

            def along(
                t: float, start: list[Array] = start, direction: Array = direction
            ) -> tuple[float, Array, float]:
                self._move(start, direction, t)
                loss, grad = evaluate()
                return loss, grad, dot(grad, direction)

            if group["line_search_fn"]:
                t, loss, grad, used = strong_wolfe(along, t, loss, grad, slope)
                self._move(start, direction, t)
                evaluations += used
            elif iteration < group["max_iter"]:
                loss, grad, _ = along(t)
                evaluations += 1
            else:  # the next call evaluates this place
                self._move(start, direction, t)
            step = memory["last_step"] = direction * direction.dtype.type(t)
            done = evaluations >= group["max_eval"] or _largest(grad) <= group["tolerance_grad"]
            done = done or _largest(step) <= group["tolerance_change"]
            if done or abs(loss - before) < group["tolerance_change"] or not math.isfinite(loss):
                break
        return first

    def _direction(self, grad: Array) -> Array:
        """Minus the inverse Hessian, as the pairs have it, times the gradient (two loops)."""
        memory = self._memory
        steps, changes = memory["steps"], memory["changes"]
        if "last_step" in memory:
            step, change = memory.pop("last_step"), grad - memory.pop("last_grad")
            if dot(change, step) > 1e-10:
                steps.append(step)
                changes.append(change)
                del steps[: -self.param_groups[0]["history_size"]]
                del changes[: -self.param_groups[0]["history_size"]]
        q = -grad
        curvature = [1 / dot(y, s) for s, y in zip(steps, changes, strict=True)]
        shares = []
        for s, y, rho in zip(reversed(steps), reversed(changes), reversed(curvature), strict=True):
            shares.append(rho * dot(s, q))
            add_scaled(q, y, -shares[-1])
        if steps:
            q *= q.dtype.type(dot(steps[-1], changes[-1]) / dot(changes[-1], changes[-1]))
        for s, y, rho, share in zip(steps, changes, curvature, reversed(shares), strict=True):
            add_scaled(q, s, share - rho * dot(y, q))
        return q

    # --- state ---------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """As of :class:`Optimizer`, and ``"memory"``: the pairs of steps and changes (copies)."""
        return {**super().state_dict(), "state": {}, "memory": copy.deepcopy(self._memory)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where another optimiser of the same parameters stood."""
        size = sum(p.data.size for p in self._moving())
        memory = copy.deepcopy(dict(state["memory"]))
        last = [memory[name] for name in ("last_step", "last_grad") if name in memory]
        for array in (*memory["steps"], *memory["changes"], *last):
            if array.shape != (size,):
                raise ValueError(f"LBFGS: expected state of {size} values, got {array.shape}")
        super().load_state_dict(state)
        self._memory = memory


def _number(loss: Any) -> float:
    loss = getattr(loss, "data", loss)
    return float(np.asarray(loss).reshape(()))


def _largest(values: Array) -> float:
    return float(np.abs(values).max(initial=0))


# --- line search ------------------------------------------------------------------------------------


def strong_wolfe(
    along: Line, t: float, loss: float, grad: Array, slope: float
) -> tuple[float, float, Array, int]:
    """A step along which the loss falls enough and the slope has become flat enough.

    f(t) <= f(0) + 1e-4 t f'(0) and abs(f'(t)) <= .9 abs(f'(0)).

    Parameters
    ----------
    along : callable
        Step -> value, gradient, slope.
    t : float
        The first step that is tried.
    loss, grad, slope
        Those at 0; the slope is negative.

    Returns
    -------
    t, loss, grad : of the step that was found; of the best one after 25 evaluations
    evaluations : int
    """

    def steep(point: Point) -> bool:
        return not point.loss <= loss + _DECREASE * point.t * slope

    origin = Point(0.0, loss, grad, slope)
    before = best = origin
    for used in range(1, _MAX_EVALUATIONS + 1):
        here = Point(t, *along(t))
        if here.loss < best.loss:
            best = here
        if steep(here) or (used > 1 and here.loss >= before.loss):
            return _zoom(along, before, here, steep, slope, used)
        if abs(here.slope) <= -_CURVATURE * slope:
            return here.t, here.loss, here.grad, used
        if here.slope >= 0:
            return _zoom(along, here, before, steep, slope, used)
        # Downhill still: as far as a cubic says, but between once and ten times the way so far.
        guess = _cubic(before, here)
        longest = here.t + 10 * (here.t - before.t) if used > 1 else 10 * here.t
        t = min(max(guess, here.t + 0.01 * (here.t - before.t)), longest) if guess > here.t else longest
        before = here
    return best.t, best.loss, best.grad, _MAX_EVALUATIONS


class Point:
    """A place on the line."""

    def __init__(self, t: float, loss: float, grad: Array, slope: float) -> None:
        self.t, self.loss, self.grad, self.slope = t, loss, grad, slope


def _zoom(
    along: Line, low: Point, high: Point, steep: Callable[[Point], bool], slope: float, used: int
) -> tuple[float, float, Array, int]:
    """Between two steps, of which ``low`` is good and has the lower value, there is one that is wanted."""
    while used < _MAX_EVALUATIONS:
        width = abs(high.t - low.t)
        if width * max(abs(low.slope), 1.0) < 1e-12:
            break
        # Not so near to either end that hardly anything is learnt.
        near, far = sorted((low.t, high.t))
        t = _cubic(low, high)
        t = min(max(t, near + 0.1 * width), far - 0.1 * width)
        here = Point(t, *along(t))
        used += 1
        if steep(here) or here.loss >= low.loss:
            high = here
            continue
        if abs(here.slope) <= -_CURVATURE * slope:
            return here.t, here.loss, here.grad, used
        if here.slope * (high.t - low.t) >= 0:
            high = low
        low = here
    return low.t, low.loss, low.grad, used


def _cubic(a: Point, b: Point) -> float:
    """Where the cubic with these two values and slopes has its minimum; the middle if it has none."""
    if number(b.loss) and number(b.slope):
        d1 = a.slope + b.slope - 3 * (a.loss - b.loss) / (a.t - b.t)
        square = d1 * d1 - a.slope * b.slope
        if square >= 0:
            d2 = math.copysign(math.sqrt(square), b.t - a.t)
            divisor = b.slope - a.slope + 2 * d2
            if divisor:
                return b.t - (b.t - a.t) * (b.slope + d2 - d1) / divisor
    return (a.t + b.t) / 2
