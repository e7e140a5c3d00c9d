"""The graph of a network: values, the operators between them, and a printed form."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..ops.registry import Op
from ..tensor import Tensor

Array = np.ndarray

__all__ = ["Derived", "Graph", "Node", "Value"]


class Derived:
    """Data of a parameter that a pass works out of others, when it is first looked at.

    ``key`` says how it is worked out of what; ``sources`` are what the numbers in it stand for.
    """

    __slots__ = ("_data", "_make", "key", "sources")

    def __init__(self, make: Callable[[], Array], key: tuple[Any, ...], sources: tuple[Any, ...]) -> None:
        self._make = make
        self._data: Array | None = None
        self.key, self.sources = key, sources

    @property
    def data(self) -> Array:
        if self._data is None:
            self._data = self._make()
        return self._data

    def forget(self) -> None:
        self._data = None


class Value:
    """One array of a graph, written once.

    Attributes
    ----------
    shape : tuple of int
        -1 is a size that depends on values; no operator reads such an array.
    dtype : numpy.dtype
    kind : {"input", "param", "temp"}
        Parameters have data; constants of the network count as parameters.
    name : str
        Of inputs and parameters, e.g. ``"layer1.0.conv1.weight"``.
    data : ndarray or None
        A parameter of a module draws its initial values only when this is looked at.
    """

    __slots__ = ("_data", "dtype", "kind", "name", "shape")

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: np.dtype,
        kind: str = "temp",
        name: str = "",
        data: Array | Tensor | Derived | None = None,
    ) -> None:
        self.shape, self.dtype, self.kind, self.name = shape, dtype, kind, name
        self._data = data

    @property
    def data(self) -> Array | None:
        return self._data.data if isinstance(self._data, (Tensor, Derived)) else self._data

    def forget(self) -> None:
        """Drop derived data, which is worked out again when it is looked at."""
        if isinstance(self._data, Derived):
            self._data.forget()

    @property
    def known(self) -> bool:
        """Whether there is data; does not work it out."""
        return self._data is not None

    @property
    def key(self) -> tuple[Any, ...]:
        """The same for parameters of the same data, also in other graphs, as long as ``sources`` live."""
        return self._data.key if isinstance(self._data, Derived) else (id(self._data),)

    @property
    def sources(self) -> tuple[Any, ...]:
        return self._data.sources if isinstance(self._data, Derived) else (self._data,)

    def __repr__(self) -> str:
        return f"Value({self.kind} {self.name or hex(id(self))}, {self.shape}, {self.dtype})"


@dataclass(eq=False, slots=True)
class Node:
    """One operator with a checked description; ``inputs`` are the arguments of its reference, in order.

    ``scope`` is the path of the module that ran it, e.g. ``"layer1.0.conv1"``.
    """

    op: Op
    spec: Any
    inputs: tuple[Value | None, ...]
    outputs: tuple[Value, ...]
    scope: str = ""

    @property
    def output(self) -> Value:
        return self.outputs[0]


@dataclass(eq=False)
class Graph:
    """Nodes in an order in which they can run; every value is written once."""

    nodes: list[Node]
    inputs: list[Value]
    outputs: list[Value]
    name: str = ""
    notes: dict[str, Any] = field(default_factory=dict)

    def users(self) -> dict[Value, list[Node]]:
        """The nodes that read each value (a node that reads it twice stands twice)."""
        users: dict[Value, list[Node]] = {}
        for node in self.nodes:
            for value in node.inputs:
                if value is not None:
                    users.setdefault(value, []).append(node)
        return users

    def producers(self) -> dict[Value, Node]:
        """The node that writes each value."""
        return {value: node for node in self.nodes for value in node.outputs}

    def params(self) -> list[Value]:
        """Parameters and constants in order of first use."""
        seen: dict[Value, None] = {}
        for value in self._read():
            if value.kind == "param":
                seen.setdefault(value)
        return list(seen)

    def _read(self) -> Iterable[Value]:
        for node in self.nodes:
            yield from (value for value in node.inputs if value is not None)
        yield from self.outputs

    def check(self) -> None:
        """Raise ValueError unless every value is written before it is read, and once only."""
        known = set(self.inputs)
        for node in self.nodes:
            for value in node.inputs:
                if value is not None and value.kind != "param" and value not in known:
                    raise ValueError(f"{node.op.name} ({node.scope}) reads {value} before it is written")
            for value in node.outputs:
                if value in known:
                    raise ValueError(f"{node.op.name} ({node.scope}) writes {value} a second time")
                known.add(value)
        for value in self.outputs:
            if value.kind != "param" and value not in known:
                raise ValueError(f"output {value} is never written")

    def __str__(self) -> str:
        names: dict[Value, str] = {}

        def name(value: Value | None) -> str:
            if value is None:
                return "-"
            return names.setdefault(value, value.name or f"%{len(names)}")

        lines = [f"graph {self.name}({', '.join(f'{name(v)}: {v.shape}' for v in self.inputs)})"]
        for node in self.nodes:
            left = ", ".join(f"{name(v)}: {v.shape}" for v in node.outputs)
            lines.append(f"  {left} = {node.op.name}({', '.join(map(name, node.inputs))})")
        lines.append(f"  return {', '.join(map(name, self.outputs))}")
        return "\n".join(lines)
