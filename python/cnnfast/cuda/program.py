"""Compiled networks on a device: memory of their own, and all launches of a run captured as one graph.

The optimised graph runs twice, node by node, with the operators' CUDA kernels: once to have every array in
the memory where it will stay and every weight in the form that its kernel reads, and once more to capture the
launches. From then on a call copies its inputs into place, starts the captured graph and copies the results.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from ..errors import BackendError, DTypeError
from ..graph.ir import Graph, Node, Value
from ..graph.program import Row, row_of
from ..graph.trace import rebuild
from ..ops.arithmetic import BinarySpec
from ..ops.binary import PairSpec
from .array import FLOATS, DeviceArray, asarray, dtype_of, empty
from .loading import module
from .stream import Stream

Array = np.ndarray
F32 = np.dtype(np.float32)

__all__ = ["CudaOptions", "CudaProgram", "checked_dtype"]


@dataclass(frozen=True)
class CudaOptions:
    """What holds for all programs of an engine.

    Attributes
    ----------
    dtype : numpy.dtype or bfloat16
        The element type of weights and of what is between the inputs and the results, which are float32.
    weights : dict
        (key of a parameter, element type) -> device array, uploaded once; and what the numbers stand for,
        so that keys stay those of living arrays.
    """

    dtype: Any = F32
    weights: dict[Any, tuple[DeviceArray, Any]] = field(default_factory=dict)


class CudaProgram:
    """An optimised graph made ready to run on arrays of its shapes.

    Many threads may run it at once; the runs follow one another.

    Raises
    ------
    BackendError
        If an operator has no CUDA kernel; nothing falls back.
    CudaError
        If there is no memory left.

    Attributes
    ----------
    graph : Graph
    inputs : list of Value
    arena_bytes : int
        Device memory of everything but the weights.
    rows : list of Row
        What is run, in order.
    captured : bool
        False where the host waits for values, for the size of a result or to check them: such a network is
        run node by node.
    """

    def __init__(self, graph: Graph, options: CudaOptions) -> None:
        missing = sorted({node.op.name for node in graph.nodes if node.op.cuda is None})
        if missing:
            raise BackendError(f"compile: no CUDA kernels for {', '.join(missing)}")
        self.graph, self.inputs, self._outputs = graph, graph.inputs, graph.outputs
        self._structure = graph.notes.get("structure", 0)
        self._options = options
        self._lock = threading.Lock()
        self._last_use = {value: i for i, node in enumerate(graph.nodes) for value in node.inputs}
        self._weights: dict[Value, DeviceArray] = {}
        self._readers = graph.users()
        for value in graph.params():
            self._weights[value] = self._uploaded(value)
            value.forget()
        self.rows: list[Row] = [row_of(node, "cuda") for node in graph.nodes]
        self._pool = module().Pool()
        self.captured = not any(map(self._waits, graph.nodes))
        with self._own_memory():
            self._given = [empty(v.shape, v.dtype) for v in self.inputs]
            for array in self._given:
                array.buffer.fill(0)
            if self.captured:
                with Stream():  # no thread but this puts anything into it
                    self._run_nodes()
                    self._captured, self._results = self._capture()
        self.arena_bytes = int(self._pool.bytes)

    @property
    def weights_bytes(self) -> int:
        """Of the parameters, packed forms not counted."""
        return sum(array.nbytes for array in self._weights.values())

    def run(self, arrays: Sequence[Array | DeviceArray]) -> Any:
        """Results, nested as the traced module nested them: host arrays for host arrays, else device arrays.

        Floating-point results are float32.
        """
        on_device = any(isinstance(a, DeviceArray) for a in arrays)
        with self._lock:
            self._place(arrays)
            if self.captured:
                self._captured.launch()
                results = self._results
            else:
                with self._own_memory():
                    results = self._run_nodes()
            given = [r.copy() if on_device else r.numpy() for r in results]
        return rebuild(self._structure, given)

    def timed(self, arrays: Sequence[Array | DeviceArray]) -> list[float]:
        """Seconds that every row of :attr:`rows` took, each started by itself."""
        events = []

        def mark() -> None:
            events.append(module().Event())
            events[-1].record()

        with self._lock, self._own_memory():
            self._place(arrays)
            mark()
            self._run_nodes(mark)
        return [now.since(before) for before, now in pairwise(events)]

    @contextmanager
    def _own_memory(self) -> Iterator[None]:
        loaded = module()
        before = loaded.current_pool()
        loaded.set_current_pool(self._pool)
        try:
            yield
        finally:
            loaded.set_current_pool(before)

    def _waits(self, node: Node) -> bool:
        """Whether the host waits for values that this node, or one before it, computes."""
        read = [node.inputs[i] for i in node.op.read_on_host]
        return any(-1 in v.shape for v in node.outputs) or any(v not in self._weights for v in read)

    def _uploaded(self, value: Value) -> DeviceArray:
        """A parameter on the device. Vectors stay float32 where a kernel takes them as bias or scale: they
        are few, and sums of two-byte floats are the worse for them."""
        dtype: Any = value.dtype
        if dtype == F32:
            pairs = any(isinstance(n.spec, (BinarySpec, PairSpec)) for n in self._readers.get(value, ()))
            vector = len(value.shape) == 1 and not pairs and value not in self._outputs
            dtype = F32 if vector else self._options.dtype
        key = value.key, str(dtype)
        found = self._options.weights.get(key)
        if found is None:
            array = asarray(np.ascontiguousarray(value.data), dtype)
            array.forms = {}  # it never changes
            found = self._options.weights[key] = array, value.sources
        return found[0]

    def _capture(self) -> tuple[Any, list[DeviceArray]]:
        captured = module().Graph()
        captured.begin()
        try:
            results = self._run_nodes()
        except BaseException:
            captured.cancel()
            raise
        captured.end()
        return captured, results

    def _place(self, arrays: Sequence[Array | DeviceArray]) -> None:
        """Inputs to where the nodes read them."""
        for place, array in zip(self._given, arrays, strict=True):
            if isinstance(array, DeviceArray):
                place.buffer.copy_from(array.astype(place.dtype).buffer)
            else:
                place.buffer.upload(np.require(array, place.dtype, ["C"]))

    def _run_nodes(self, after: Callable[[], None] = lambda: None) -> list[DeviceArray]:
        """Every node on the arrays in ``_given``; an array is given back when its last reader is done."""
        values = dict(self._weights)
        for value, array in zip(self.inputs, self._given, strict=True):
            values[value] = array.astype(self._options.dtype) if value.dtype == F32 else array
        wanted = {*self._outputs, *self._weights}
        for i, node in enumerate(self.graph.nodes):
            self._run_node(node, values)
            after()
            for read in node.inputs:
                if read is not None and self._last_use[read] == i and read not in wanted:
                    values.pop(read, None)
            for made in node.outputs:
                if made not in self._last_use and made not in wanted:
                    del values[made]
        return [values[v].astype(F32) if v.dtype == F32 else values[v] for v in self._outputs]

    def _run_node(self, node: Node, values: dict[Value, DeviceArray]) -> None:
        result = node.op.on_device(node.spec, *[None if v is None else values[v] for v in node.inputs])
        results = result if isinstance(result, tuple) else (result,)
        values.update(zip(node.outputs, results, strict=True))


def checked_dtype(where: str, dtype: Any) -> Any:
    """The element type that a network computes in.

    Raises
    ------
    DTypeError
        If it is not float32, bfloat16 or float16.
    """
    kind = dtype_of(dtype)
    if kind not in FLOATS:
        raise DTypeError(f"{where}: device 'cuda' computes in float32, bfloat16 or float16, got {dtype}")
    return kind
