"""Exponential moving averages of weights, which often do better than the last weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from ..cuda import DeviceArray
from ..cuda.optim import together
from ..errors import ShapeError
from ..nn.module import Module
from .optimizer import below_one, moved
from .vectors import approach

Array = np.ndarray

__all__ = ["ExponentialMovingAverage"]


class _Buffer:
    """An array that belongs to a module, averaged as the data of a parameter is."""

    def __init__(self, module: Module, name: str) -> None:
        self.module, self.name = module, name

    @property
    def data(self) -> Array:
        return getattr(self.module, self.name)

    @data.setter
    def data(self, array: Array) -> None:
        setattr(self.module, self.name, array)


def _copy(array: Any) -> Any:
    return array.copy() if isinstance(array, DeviceArray) else np.array(array, order="C")


def _contiguous(array: Any) -> Any:
    return array if isinstance(array, DeviceArray) else np.ascontiguousarray(array).reshape(array.shape)


class ExponentialMovingAverage:
    """Average of parameters: after each step, ``average += (1 - decay) (parameter - average)``.

    Parameters
    ----------
    params : Module, or iterable of Tensor
        Of a module, its parameters and its running statistics; see :meth:`follow`.
    decay : float
    warmup : bool
        Whether the decay is at most (1 + t) / (10 + t) at update t, so that the average leaves the initial
        values sooner.

    Attributes
    ----------
    averages : list of ndarray or DeviceArray
        Where the parameters are at the last update.

    References
    ----------
    Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992; Szegedy et al.,
    "Rethinking the Inception architecture", 2016, section 8.
    """

    def __init__(self, params: Module | Iterable[Any], decay: float = 0.999, *, warmup: bool = False) -> None:
        if not below_one(decay):
            raise ValueError(f"ExponentialMovingAverage: expected decay as a number in [0, 1), got {decay!r}")
        self._params: list[Any] = list(params.parameters() if isinstance(params, Module) else params)
        self.decay, self.warmup, self.updates = decay, warmup, 0
        self.averages: list[Any] = [_copy(p.data) for p in self._params]
        if isinstance(params, Module):
            self.follow(params)

    def follow(self, model: Module) -> None:
        """Average the floating-point buffers of a network too, from their present values on.

        Weights that are averaged want statistics of batch normalisation that are, for those of the last
        weights belong to other activations. :func:`cnnfast.train.fit` sees to it. Statistics that
        :func:`cnnfast.train.update_batch_norm` works out are closer still, and cost a pass over the data.

        Parameters
        ----------
        model : Module
            Buffers that are followed already are left alone.
        """
        known = {(p.module, p.name) for p in self._params if isinstance(p, _Buffer)}
        for module in model.modules():
            for name, array in module._buffers.items():
                if array.dtype.kind == "f" and (module, name) not in known:
                    self._params.append(_Buffer(module, name))
                    self.averages.append(_copy(array))

    def update(self) -> None:
        """Take in parameters, and statistics that are followed; to be called after every step."""
        self.updates += 1
        t = self.updates
        decay = min(self.decay, (1 + t) / (10 + t)) if self.warmup else self.decay
        with together():
            for i, parameter in enumerate(self._params):
                average = self.averages[i] = moved(self.averages[i], parameter.data)
                approach(average, _contiguous(parameter.data), 1 - decay)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside a ``with`` block parameters, and statistics that are followed, are their averages; after it
        they are what they were."""
        before = [p.data for p in self._params]
        for parameter, average in zip(self._params, self.averages, strict=True):
            parameter.data = moved(average, parameter.data).copy()
        try:
            yield
        finally:
            for parameter, data in zip(self._params, before, strict=True):
                parameter.data = data

    def state_dict(self) -> dict[str, Any]:
        """Decay, number of updates and averages (copies)."""
        averages = [a.numpy() if isinstance(a, DeviceArray) else a.copy() for a in self.averages]
        return {"decay": self.decay, "warmup": self.warmup, "updates": self.updates, "averages": averages}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly from a state.

        Raises
        ------
        ShapeError
            If the averages are of other parameters; nothing is changed then.
        """
        given, own = ([(a.dtype, a.shape) for a in arrays] for arrays in (state["averages"], self.averages))
        if given != own:
            raise ShapeError(f"ExponentialMovingAverage: expected averages {own}, got {given}")
        self.decay, self.warmup, self.updates = state["decay"], state["warmup"], state["updates"]
        self.averages = [np.array(a, order="C") for a in state["averages"]]
