"""Running a graph node by node: the definition of what every other engine must give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import DTypeError, ShapeError
from .ir import Graph, Node, Value
from .trace import rebuild

Array = np.ndarray

__all__ = ["interpret"]


def interpret(
    graph: Graph,
    *inputs: Array,
    native: bool = False,
    watch: Callable[[Node, Sequence[Array]], None] | None = None,
) -> Any:
    """Run a graph on arrays.

    Parameters
    ----------
    graph : Graph
    *inputs : ndarray
        Of the graph's shapes. float64 inputs compute in float64 throughout.
    native : bool
        Use operators on the backend in use instead of the NumPy references.
    watch : callable, optional
        Called with every node and its results.

    Returns
    -------
    ndarray, or arrays nested as the traced module nested them
    """
    if len(inputs) != len(graph.inputs):
        raise ShapeError(f"interpret: the graph has {len(graph.inputs)} inputs, got {len(inputs)}")
    values: dict[Value, Array] = {}
    double = False
    for value, given in zip(graph.inputs, inputs, strict=True):
        array = np.asarray(given)
        if array.shape != value.shape:
            raise ShapeError(f"interpret: {value.name} has shape {value.shape}, got {array.shape}")
        if array.dtype not in (value.dtype, np.dtype(np.float64)):
            raise DTypeError(f"interpret: {value.name} is {value.dtype}, got {array.dtype}")
        double = double or (array.dtype == np.float64 and value.dtype == np.float32)
        values[value] = np.asarray(array, order="C")
    last_use = {value: i for i, node in enumerate(graph.nodes) for value in node.inputs if value is not None}
    wanted = set(graph.outputs)

    def array_of(value: Value | None) -> Array | None:
        if value is None or value in values:
            return None if value is None else values[value]
        assert value.data is not None
        return value.data.astype(np.float64) if double and value.dtype == np.float32 else value.data

    for i, node in enumerate(graph.nodes):
        arguments: list[Any] = [array_of(value) for value in node.inputs]
        result = (node.op if native else node.op.reference)(node.spec, *arguments)
        results = result if isinstance(result, tuple) else (result,)
        if watch is not None:
            watch(node, results)
        values.update(zip(node.outputs, results, strict=True))
        for read in node.inputs:
            if read is not None and last_use[read] == i and read not in wanted:
                values.pop(read, None)
    return rebuild(graph.notes.get("structure", 0), [array_of(value) for value in graph.outputs])
