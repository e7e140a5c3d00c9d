"""What all optimisers have in common: groups of parameters, their state, saving and loading it.

A parameter is anything with ``data``, ``grad`` and ``requires_grad``: a :class:`cnnfast.Tensor`. Steps
change arrays in place, but only arrays of their own: the first step gives a parameter a copy of its data, so
neither a picture that was made into a tensor nor weights that two networks were loaded from are ever written.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from .. import config, cuda
from ..config import current_backend
from ..cuda import DeviceArray
from ..cuda.optim import STEPS, together
from ..errors import BackendError, DTypeError, ShapeError
from ..ops.registry import F32, F64, is_plain
from ..tensor import Tensor

Array = np.ndarray

# State of a parameter, its data and its gradient.
Ready = tuple[dict[str, Any], Any, Any]

__all__ = ["Optimizer"]


def gradient(op: str, parameter: Any) -> Any:
    """The gradient of a parameter as a C-contiguous array of its type, or None where there is none to use."""
    if not parameter.requires_grad or parameter.grad is None:
        return None
    grad = parameter.grad
    here = type(parameter.data) is Array
    if here and is_plain(grad) and parameter.dtype is F32 and grad.shape == parameter.shape:
        return grad
    grad = grad.data if isinstance(grad, Tensor) else grad
    on_device = isinstance(grad, DeviceArray)
    if on_device != isinstance(parameter.data, DeviceArray):
        raise BackendError(f"{op}: a parameter and its gradient are not both on the device")
    grad = grad if on_device else np.asarray(grad)
    if grad.dtype != parameter.dtype or parameter.dtype not in (F32, F64):
        raise DTypeError(
            f"{op}: expected float32 or float64 parameters with gradients of their type, got {grad.dtype} "
            f"for {parameter.dtype}"
        )
    if grad.shape != parameter.shape:
        raise ShapeError(
            f"{op}: expected a gradient of the parameter's shape, got {grad.shape} "
            f"(parameter {parameter.shape})"
        )
    return grad if on_device else np.ascontiguousarray(grad).reshape(grad.shape)


def native_for(array: Any) -> Any:
    """What steps arrays of this type natively: float32 on the backend ``"cpu"``, and device arrays."""
    if isinstance(array, DeviceArray):
        return STEPS
    return config._cpu if array.dtype == F32 and current_backend() == "cpu" else None


def zeros_once(state: dict[str, Any], name: str, like: Any) -> Any:
    """An array of a parameter's state, zero when it is asked for the first time."""
    if name in state:
        state[name] = moved(state[name], like)
    else:
        state[name] = cuda.zeros(like.shape) if isinstance(like, DeviceArray) else np.zeros_like(like)
    return state[name]


def moved(array: Any, like: Any) -> Any:
    """An array that was loaded, or is of before the parameter ``like`` moved, where that is now."""
    if isinstance(like, DeviceArray):
        return cuda.asarray(array)
    return array.numpy() if isinstance(array, DeviceArray) else array


class Optimizer:
    """Base of optimisers.

    Parameters
    ----------
    params : iterable of Tensor, or of dict
        Groups are dictionaries with ``"params"`` and the settings that differ from the defaults.
    defaults : dict
        Settings of groups that do not have their own.

    Attributes
    ----------
    param_groups : list of dict
        Settings may be changed between steps: ``optimizer.param_groups[0]["lr"] = 0.01``.

    Raises
    ------
    ValueError, TypeError
        If there are no parameters, one is listed twice, or a setting makes no sense.
    """

    #: Setting -> what it has to be.
    _rules: Mapping[str, tuple[Callable[[Any], bool], str]] = {}

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        self._defaults = defaults
        self.param_groups: list[dict[str, Any]] = []
        self._state: dict[int, dict[str, Any]] = {}  # by identity; the groups keep the parameters alive
        listed = list(params)
        if not listed:
            raise ValueError(f"{self._name}: expected parameters, got none")
        for group in listed if isinstance(listed[0], dict) else [{"params": listed}]:
            self.add_param_group(group)

    @property
    def _name(self) -> str:
        return type(self).__name__

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """More parameters, with settings of their own where the group has them."""
        unknown = sorted(set(group) - set(self._defaults) - {"params"})
        if unknown:
            raise ValueError(f"{self._name}: expected settings {sorted(self._defaults)}, got {unknown[0]!r}")
        made = {**self._defaults, **group}
        params = made["params"]
        made["params"] = (
            list(params) if isinstance(params, Iterable) and not hasattr(params, "grad") else [params]
        )
        known = {id(p) for p in self.parameters()}
        for parameter in made["params"]:
            if not (hasattr(parameter, "data") and hasattr(parameter, "grad")):
                raise TypeError(f"{self._name}: expected tensors, got a {type(parameter).__name__}")
            if id(parameter) in known:
                raise ValueError(f"{self._name}: expected each parameter once, got one twice")
            known.add(id(parameter))
        self._check_settings(made)
        self.param_groups.append(made)

    def _check_settings(self, group: Mapping[str, Any]) -> None:
        for key, (good, expected) in self._rules.items():
            if key in group and not good(group[key]):
                raise ValueError(f"{self._name}: expected {key} {expected}, got {group[key]!r}")

    def parameters(self) -> Iterator[Any]:
        """The parameters of all groups."""
        for group in self.param_groups:
            yield from group["params"]

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters():
            parameter.grad = None

    # --- steps ---------------------------------------------------------------------------------

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Change every parameter that has a gradient; frozen ones (``requires_grad`` False) stay as they are.

        Parameters
        ----------
        closure : callable, optional
            Called first; it computes gradients and returns the loss.

        Returns
        -------
        What the closure returned, or None.

        Raises
        ------
        ShapeError, DTypeError
            If a gradient does not fit its parameter.
        """
        loss = None if closure is None else closure()
        with together():
            for group in self.param_groups:
                ready: list[Ready] = []
                for parameter in group["params"]:
                    grad = gradient(self._name, parameter)
                    if grad is None:
                        continue
                    state = self._state.get(id(parameter))
                    if state is None:
                        state = self._state[id(parameter)] = {}
                    ready.append((state, self._own(state, parameter), grad))
                self._update_all(group, ready)
        return loss

    def _own(self, state: dict[str, Any], parameter: Any) -> Any:
        """The parameter's data, in memory that only this optimiser writes."""
        data = parameter.data
        if data is not state.get("data"):
            state["data"] = data = data.copy() if isinstance(data, DeviceArray) else np.array(data, order="C")
            parameter.data = data
        return data

    def _update_all(self, group: dict[str, Any], ready: list[Ready]) -> None:
        """All parameters of a group that have gradients."""
        for state, p, g in ready:
            self._update(group, state, p, g)

    def _update(self, group: dict[str, Any], state: dict[str, Any], p: Array, g: Array) -> None:
        """One parameter: ``p`` and the state change in place."""
        raise NotImplementedError

    # --- state ---------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Settings and state as plain numbers and arrays; copies, which later steps do not change.

        Returns
        -------
        dict
            ``"state"``: number of the parameter -> name -> array or number; ``"param_groups"``: settings,
            with ``"params"`` the numbers of the parameters.
        """
        number = {id(p): i for i, p in enumerate(self.parameters())}
        state = {
            number[key]: {
                name: value.numpy() if isinstance(value, DeviceArray) else copy.deepcopy(value)
                for name, value in held.items()
                if name != "data"
            }
            for key, held in self._state.items()
        }
        groups = [
            {
                **copy.deepcopy({k: v for k, v in group.items() if k != "params"}),
                "params": [number[id(p)] for p in group["params"]],
            }
            for group in self.param_groups
        ]
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where another optimiser of the same parameters stood.

        Raises
        ------
        ValueError, ShapeError
            If groups or shapes differ; nothing is changed then.
        """
        groups = state["param_groups"]
        sizes = [len(group["params"]) for group in groups], [len(g["params"]) for g in self.param_groups]
        if sizes[0] != sizes[1]:
            raise ValueError(f"{self._name}: expected groups of {sizes[1]} parameters, got {sizes[0]}")
        numbers = [i for group in groups for i in group["params"]]
        by_number = dict(zip(numbers, self.parameters(), strict=True))
        loaded: dict[int, dict[str, Any]] = {}
        for number, held in state["state"].items():
            if number not in by_number:
                raise ValueError(f"{self._name}: expected state of parameters {numbers}, got of {number!r}")
            parameter = by_number[number]
            loaded[id(parameter)] = {
                name: self._loaded(name, value, parameter) for name, value in held.items()
            }
        settings = [{k: copy.deepcopy(v) for k, v in group.items() if k != "params"} for group in groups]
        for group in settings:
            self._check_settings(group)
        self._state = loaded
        for group, new in zip(self.param_groups, settings, strict=True):
            group.update(new)

    def _loaded(self, name: str, value: Any, parameter: Any) -> Any:
        if not isinstance(value, np.ndarray):
            return copy.deepcopy(value)
        if value.shape != parameter.shape or value.dtype != parameter.dtype:
            raise ShapeError(
                f"{self._name}: expected {name} {parameter.dtype} {parameter.shape}, "
                f"got {value.dtype} {value.shape}"
            )
        return np.array(value, order="C")


# --- what settings have to be -------------------------------------------------------------------------


def number(value: Any) -> bool:
    real = isinstance(value, (int, float, np.floating)) and not isinstance(value, bool)
    return real and bool(np.isfinite(value))


def from_zero(value: Any) -> bool:
    return number(value) and value >= 0


def below_one(value: Any) -> bool:
    return number(value) and 0 <= value < 1


FROM_ZERO = from_zero, "as a number from 0"
BELOW_ONE = below_one, "as a number in [0, 1)"
