"""From a module to its graph: the forward pass runs once on symbols, and operators write down nodes."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ShapeError
from ..ops.registry import F32, Op, fail, integer
from ..tensor import Tensor, no_grad
from .ir import Graph, Node, Value

if TYPE_CHECKING:
    from ..nn.module import Module

__all__ = ["record", "shape_of", "shapes_of", "trace"]


class _Recording(threading.local):
    """The trace under way on this thread."""

    current: _Trace | None = None


_recording = _Recording()


class _Turns:
    """Traces take turns: each puts its module into evaluation mode for as long as it lasts."""

    lock = threading.RLock()

    @classmethod
    def renew(cls) -> None:
        """In a child process, where the thread that held the lock may be missing."""
        cls.lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_Turns.renew)


class _Trace:
    def __init__(self, names: dict[int, str]) -> None:
        self.nodes: list[Node] = []
        self.names = names  # of parameters and buffers, by id
        self.params: dict[int, Value] = {}
        self.kept: list[Any] = []  # arrays whose ids are keys above must outlive the trace
        self.scopes: list[str] = []

    def value_of(self, argument: Any) -> Value | None:
        """The value behind an argument of an operator; packed forms and None have none."""
        if isinstance(argument, Tensor):
            if argument.is_symbol:
                return argument.value
            key, name = id(argument), self.names.get(id(argument), "")
        elif isinstance(argument, np.ndarray):
            key, name = id(argument), self.names.get(id(argument), "")
        else:
            return None
        if key not in self.params:
            self.params[key] = Value(argument.shape, argument.dtype, "param", name, argument)
            self.kept.append(argument)
        return self.params[key]


def record(op: Op, spec: Any, arguments: tuple[Any, ...]) -> Any:
    """Write down one call on symbols, and return symbols for its results."""
    trace = _recording.current
    if trace is None:
        raise ValueError(f"{op.name}: a symbol has left the trace that it belongs to")
    if op.results is None and not hasattr(spec, "out"):
        raise ValueError(f"{op.name} cannot be traced: the size of its result depends on values")
    dtype = next(a.dtype for a in arguments if isinstance(a, Tensor) and a.is_symbol)
    results = ((spec.out, dtype),) if op.results is None else op.results(spec, dtype)
    inputs = tuple([trace.value_of(argument) for argument in arguments])
    for value in inputs:
        if value is not None and -1 in value.shape:
            raise ShapeError(
                f"{op.name}: the size of an argument depends on values, so that in a graph it can only be a "
                f"result (shape {value.shape}, -1 is what is not known)"
            )
    outputs = tuple([Value(shape, kind) for shape, kind in results])
    scope = trace.scopes[-1] if trace.scopes else ""
    trace.nodes.append(Node(op, spec, inputs, outputs, scope))
    symbols = tuple(map(Tensor.symbol, outputs))
    return symbols[0] if len(symbols) == 1 else symbols


class scope:
    """Marks the nodes of a module with its path while its forward pass is traced."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        if _recording.current is not None:
            _recording.current.scopes.append(self._path)

    def __exit__(self, *error: object) -> None:
        if _recording.current is not None:
            _recording.current.scopes.pop()


def tracing() -> bool:
    """Whether a trace is under way on this thread."""
    return _recording.current is not None


def shape_of(where: str, sizes: Any) -> tuple[int, ...]:
    """The shape of an input as a tuple of whole numbers."""
    if not isinstance(sizes, Iterable) or isinstance(sizes, (str, bytes)):
        fail(where, f"expected an input shape like (1, 224, 224, 3), got {sizes!r}")
    return tuple([integer(where, "every size of an input shape", n, 0) for n in sizes])


def shapes_of(where: str, input_shape: Any) -> tuple[tuple[int, ...], ...]:
    """The shapes of all inputs, of what is the shape of one or a list of several."""
    if isinstance(input_shape, (list, tuple)) and any(
        isinstance(sizes, (list, tuple)) for sizes in input_shape
    ):
        return tuple([shape_of(where, sizes) for sizes in input_shape])
    return (shape_of(where, input_shape),)


def trace(module: Module, *input_shapes: tuple[int, ...], dtype: np.dtype = F32) -> Graph:
    """The graph of a module's forward pass in evaluation mode, for inputs of these shapes.

    Parameters
    ----------
    module : Module
    *input_shapes : tuple of int
        One per input, e.g. (1, 224, 224, 3).

    Returns
    -------
    Graph
        Parameters share their memory with the module.

    Raises
    ------
    ShapeError
        As the operators raise it, and for what is no shape.
    TypeError
        For what is no module.
    """
    from ..nn.module import Module

    if not isinstance(module, Module):
        raise TypeError(f"trace: expected a Module, got {type(module).__name__}")
    names: dict[int, str] = {}
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        names[id(tensor)] = name
    inputs = [Value(shape_of("trace", shape), np.dtype(dtype), "input", f"input{i or ''}")
              for i, shape in enumerate(input_shapes)]  # fmt: skip
    trace = _Trace(names)
    with _Turns.lock:
        results = _run(module, inputs, trace)
    outputs: list[Value] = []
    structure = _flat(results, outputs, trace)
    graph = Graph(trace.nodes, inputs, outputs, type(module).__name__, {"structure": structure})
    graph.check()
    return graph


def _run(module: Module, inputs: list[Value], trace: _Trace) -> Any:
    """The forward pass on symbols, in evaluation mode."""
    before = _recording.current
    modes = [(m, m.training) for m in module.modules()]
    for path, m in module.named_modules():
        m.training, m.path = False, path
    _recording.current = trace
    try:
        with no_grad():
            return module(*map(Tensor.symbol, inputs))
    finally:
        _recording.current = before
        for m, training in modes:
            m.training = training


def _flat(results: Any, outputs: list[Value], trace: _Trace) -> Any:
    """Collect the values of nested results; returns the nesting with their positions."""
    if isinstance(results, (tuple, list)):
        return tuple([_flat(r, outputs, trace) for r in results])
    if isinstance(results, dict):
        return {key: _flat(r, outputs, trace) for key, r in results.items()}
    value = trace.value_of(results)
    if value is None:
        raise TypeError(f"trace: expected tensors as results, got {type(results).__name__}")
    outputs.append(value)
    return len(outputs) - 1


def rebuild(structure: Any, results: list[Any]) -> Any:
    """Results in the nesting that the module gave them."""
    if isinstance(structure, tuple):
        return tuple([rebuild(s, results) for s in structure])
    if isinstance(structure, dict):
        return {key: rebuild(s, results) for key, s in structure.items()}
    return results[structure]
