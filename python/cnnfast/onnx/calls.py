"""The table of ONNX operators, and what a function of that table gets to know about its node."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import WeightsError
from ..tensor import Tensor
from ..weights.limits import shown
from .held import Held, data_of
from .reading import Node, Stored

__all__ = ["OPERATORS", "Call", "Handler", "constant_size", "known", "operator", "whole"]

#: Most elements of an array that is made of sizes alone, such as ConstantOfShape.
MAX_MADE = 1 << 26


@dataclass
class Call:
    """A node with checked access to its attributes.

    ``prepared`` says of which inputs the weights were brought to our layout already, and to which.
    """

    node: Node
    opset: int
    keys: tuple[str, ...] = ()
    prepared: dict[int, str] = field(default_factory=dict)

    def has(self, name: str) -> bool:
        return name in self.node.attributes

    def _get(self, name: str, default: Any, kinds: tuple[type, ...]) -> Any:
        value = self.node.attributes.get(name, default)
        if value is not default and not isinstance(value, kinds):
            raise WeightsError(f"{self.node.label}: attribute {shown(name)} is of a wrong kind")
        return value

    def integer(self, name: str, default: int = 0) -> int:
        return self._get(name, default, (int,))

    def real(self, name: str, default: float = 0.0) -> float:
        return float(self._get(name, default, (float, int)))

    def text(self, name: str, default: str = "") -> str:
        value = self._get(name, default, (bytes,))
        return value.decode("ascii", "replace") if isinstance(value, bytes) else value

    def integers(self, name: str, default: Any = None, count: int | None = None) -> Any:
        value = self._get(name, default, (list,))
        if value is default:
            return default
        if any(not isinstance(v, int) for v in value) or count not in (None, len(value)):
            raise WeightsError(f"{self.node.label}: {shown(name)} must be {count or 'some'} whole numbers")
        return tuple(value)

    def tensor(self, name: str) -> Stored:
        return self._get(name, None, (Stored,))


@dataclass(frozen=True)
class Handler:
    """How an operator is run: the function, the inputs it takes, and the layout of its weights."""

    function: Callable[..., Any]
    least: int
    most: int
    # (node, sizes of its constant inputs) -> kind of layout of each weight, see cnnfast.nn.module.
    weights: Callable[[Node, dict[int, tuple[int, ...]]], dict[int, str]] | None


OPERATORS: dict[str, Handler] = {}


def operator(*names: str, weights: Any = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Put a function f(call, inputs...) into the table; the defaults of its arguments are optional inputs."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        parameters = list(inspect.signature(function).parameters.values())[1:]
        least = sum(p.default is p.empty and p.kind is not p.VAR_POSITIONAL for p in parameters)
        most = len(parameters) if all(p.kind is not p.VAR_POSITIONAL for p in parameters) else 1 << 30
        for name in names:
            OPERATORS[name] = Handler(function, least, most, weights)
        return function

    return register


def known(call: Call, value: Any, what: str) -> np.ndarray:
    """The array behind a value that must be known: a constant, or sizes worked out of others."""
    data = data_of(value)
    if data is None:
        raise WeightsError(
            f"{call.node.label}: {what} depends on values of the input, which cannot be traced"
        )
    return np.asarray(data)


def whole(call: Call, value: Any, what: str) -> tuple[int, ...]:
    """A known list of whole numbers."""
    array = known(call, value, what)
    if array.dtype.kind not in "iu" or array.size > 1 << 16:
        raise WeightsError(f"{call.node.label}: expected {what} as whole numbers, came {array.dtype}")
    return tuple(int(v) for v in array.ravel())


def constant_size(call: Call, shape: Any) -> None:
    """Refuse to make an array out of nothing that is larger than sizes and constants can sensibly be."""
    count = 1
    for n in shape:
        count *= max(1, int(n))
    if count > MAX_MADE or any(n < 0 for n in shape):
        raise WeightsError(f"{call.node.label}: expected at most {MAX_MADE} elements, came {count}")


def is_real(value: Any) -> bool:
    return value.dtype.kind == "f"


def by_numpy(call: Call, function: Callable[..., Any], *inputs: Any) -> Any:
    """Work on arrays by NumPy; the result is a tensor where an input is one."""
    arrays = [known(call, value, "a value of whole numbers or bool") for value in inputs]
    with np.errstate(all="ignore"):
        result = np.asarray(function(*arrays))
    is_tensor = any(isinstance(value, (Tensor, Held)) for value in inputs)
    return Tensor(result) if is_tensor else np.ascontiguousarray(result).reshape(result.shape)
