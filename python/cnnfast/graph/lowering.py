"""What operators lower themselves with: operands in planned memory, and weights packed once."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from .. import config
from ..ops.registry import F32
from .ir import Array, Value
from .memory import Layout, Spot

__all__ = ["Operand", "Parts", "Steps", "Store"]

# Packed weights on the way to a file and back: arrays, and whether they are known to be finite.
Parts = list[tuple[Array, bool]]


class Store:
    """Parameters in the forms that steps read, shared by all programs of an engine.

    Attributes
    ----------
    stored : dict
        (key of a value, form) -> parts out of a file, which need no packing.
    """

    def __init__(self) -> None:
        self.stored: dict[Any, Parts] = {}
        self._made: WeakValueDictionary[Any, Any] = WeakValueDictionary()

    def get(
        self, value: Value, form: str, make: Callable[[Array], Any], restore: Callable[[Parts], Any]
    ) -> Any:
        """One form of a parameter, made once."""
        key = (value.key, form)
        found = self._made.get(key)
        if found is None:
            parts = self.stored.get(key)
            if parts is not None:
                found = restore(parts)
            else:
                assert value.data is not None
                found = make(value.data)
            self._made[key] = found
        return found

    def __len__(self) -> int:
        return len(self._made)


class Operand:
    """A value and its memory.

    Attributes
    ----------
    value : Value
    shape : tuple of int
    ld : int
        Floats from pixel to pixel.
    """

    __slots__ = ("_steps", "ld", "shape", "spot", "value")

    def __init__(self, value: Value, spot: Spot, steps: Steps) -> None:
        self.value, self.shape, self.spot, self.ld = value, value.shape, spot, spot.ld
        self._steps = steps

    @property
    def place(self) -> Any:
        """Where native steps find it; parameters are copied to native memory when this is looked at."""
        return self._steps.at(self.spot)

    @property
    def dense(self) -> bool:
        """Whether nothing lies between its pixels."""
        return not self.shape or self.ld == self.shape[-1]

    @property
    def steps(self) -> list[int]:
        """Floats from element to element along every axis."""
        steps = [1, self.ld]
        for n in self.shape[-2:0:-1]:
            steps.append(steps[-1] * n)
        return steps[: len(self.shape)][::-1]


class Steps:
    """What operators lower themselves with.

    Attributes
    ----------
    plan
        The native plan that steps are added to.
    native
        The native module.
    winograd : int
        Whether convolutions may use it.
    lean : bool
        Whether their weights are to take little memory.
    none
        The place of what is not there.
    """

    def __init__(
        self, layout: Layout, store: Store, plan: Any, inputs: int, winograd: int, lean: bool
    ) -> None:
        self.plan, self.native, self.winograd, self.lean = plan, config._cpu, winograd, lean
        self.none = self.native.Place()
        # What is shared: value and form -> the form. Keeps the form alive, and the meaning of its key.
        self.kept: dict[tuple[Value, str], Any] = {}
        self._layout, self._store, self._inputs = layout, store, inputs

    def operand(self, value: Value) -> Operand:
        return Operand(value, self._layout.spots[value], self)

    def at(self, spot: Spot, shift: int = 0) -> Any:
        """A spot, or some floats after it, as native steps know it."""
        offset = spot.offset + shift
        if spot.space == "constant":
            return self._constant(spot.root).place(offset)
        space = {"arena": 0, "input": 1 + spot.index, "output": 1 + self._inputs + spot.index}[spot.space]
        return self.native.Place(space, offset)

    def _constant(self, value: Value) -> Any:
        restore = functools.partial(self.native.Constant.restore, math.prod(value.shape))
        return self.shared(value, "plain", self.native.Constant, restore)

    def array(self, operand: Operand) -> Array:
        """The values of a parameter."""
        data: Array = self._constant(operand.value).parts()[0][0]
        return data.reshape(operand.shape)

    def place(self, operand: Operand | None) -> Any:
        """The place of an operand, or of none."""
        return self.none if operand is None else operand.place

    def shifted(self, operand: Operand, floats: int) -> Any:
        """The place some floats after the beginning of an operand."""
        return self.at(operand.spot, floats)

    def shared(
        self, value: Value, form: str, make: Callable[[Array], Any], restore: Callable[[Parts], Any]
    ) -> Any:
        """A form of a float32 parameter that all programs of an engine share.

        Parameters
        ----------
        value : Value
        form : str
            Says all that the form depends on besides the parameter.
        make : callable
            From a C-contiguous array.
        restore : callable
            From what the form gave as its ``parts()``; raises ValueError if they do not fit.
        """
        found = self._store.get(value, form, lambda data: make(np.ascontiguousarray(data, F32)), restore)
        self.kept[value, form] = found
        return found

    def within(self, part: Operand, whole: Operand) -> bool:
        """Whether an operand lies in the pixels of another."""
        return self._layout.parts.get(part.value) is whole.value
