"""Graphs made ready to run: native plans, with Python in between for what has no native steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .. import config
from ..errors import ShapeError
from ..ops.conv import CONV2D
from ..ops.registry import F32, Cost
from .description import FROM_PYTHON, IN_NUMPY
from .ir import Array, Graph, Node, Value
from .lowering import Steps, Store
from .memory import lay_out
from .trace import rebuild

__all__ = ["Options", "Program", "Row", "row_of"]


@dataclass(frozen=True)
class Options:
    """What holds for all programs of an engine; ``threads`` 0 sets no limit, ``lean`` None leaves it open."""

    store: Store
    threads: int
    winograd: int
    lean: bool | None = None


@dataclass(frozen=True)
class Row:
    """One step of a program, for the eye."""

    operator: str
    scope: str
    algorithm: str
    inputs: tuple[tuple[int, ...], ...]
    output: tuple[int, ...]
    cost: Cost


class _Native:
    """Nodes that run as one native plan."""

    def __init__(
        self, nodes: list[Node], inputs: list[Value], outputs: list[Value], options: Options
    ) -> None:
        self.inputs, self.outputs = inputs, outputs
        layout = lay_out(nodes, inputs, outputs)
        self.arena_bytes = 4 * layout.arena_floats
        shapes = [v.shape for v in inputs], [v.shape for v in outputs]
        self.plan = config._cpu.Plan(layout.arena_floats, *shapes, options.threads)
        lean = bool(options.lean)
        steps = Steps(layout, options.store, self.plan, len(inputs), options.winograd, lean)
        made: list[Node | None] = []
        for node in nodes:
            lower = node.op.lower
            assert lower is not None
            operands = [None if v is None else steps.operand(v) for v in node.inputs]
            lower.emit(steps, node.spec, operands, [steps.operand(v) for v in node.outputs])
            made += [node] * (self.plan.size - len(made))
        for value, k in layout.copies:
            source = steps.operand(value)
            place = self.plan_output(k)
            self.plan.copy(source.shape, source.steps, _dense_steps(value.shape), source.place, place)
            made.append(None)
        self.kept = steps.kept
        self.rows = [row_of(node, a) for node, a in zip(made, self.plan.algorithms(), strict=True)]

    def plan_output(self, k: int) -> Any:
        return config._cpu.Place(1 + len(self.inputs) + k, 0)

    def run(self, values: dict[Value, Array]) -> None:
        result = self.plan.run(*self._plain(values))
        if result is None:
            shapes = [values[v].shape for v in self.inputs]
            raise ShapeError(f"a native plan for {[v.shape for v in self.inputs]} was given {shapes}")
        values.update(zip(self.outputs, (result,) if len(self.outputs) == 1 else result, strict=True))

    def _plain(self, values: dict[Value, Array]) -> list[Array]:
        return [np.require(values[v], F32, ["C", "A"]).view(F32, np.ndarray) for v in self.inputs]

    def timed(self, values: dict[Value, Array]) -> list[float]:
        results, seconds = self.plan.run_timed(*self._plain(values))
        values.update(zip(self.outputs, results, strict=True))
        return list(seconds)


class _Python:
    """A node without native steps: whole numbers, places, results whose size depends on values."""

    def __init__(self, node: Node, options: Options) -> None:
        self.node = node
        first = node.inputs[0]
        kernel = node.op.native is not node.op.reference and first is not None and first.dtype == F32
        self._run = node.op.native if kernel else node.op.reference
        self.rows = [row_of(node, FROM_PYTHON if kernel else IN_NUMPY)]
        self.arena_bytes = 0
        self.kept = {
            (v, "array"): options.store.get(v, "array", np.array, lambda parts: parts[0][0])
            for v in node.inputs if v is not None and v.known
        }  # fmt: skip

    def run(self, values: dict[Value, Array]) -> None:
        node = self.node
        arrays = [None if v is None else self.kept[v, "array"] if v.known else values[v] for v in node.inputs]
        result = self._run(node.spec, *arrays)
        values.update(zip(node.outputs, result if isinstance(result, tuple) else (result,), strict=True))

    def timed(self, values: dict[Value, Array]) -> list[float]:
        start = time.perf_counter()
        self.run(values)
        return [time.perf_counter() - start]


def row_of(node: Node | None, algorithm: str) -> Row:
    """A node as a row; None is a copy."""
    if node is None:
        return Row("copy", "", algorithm, (), (), Cost(0.0, 0.0))
    shapes = tuple([v.shape for v in node.inputs if v is not None])
    return Row(node.op.name, node.scope, algorithm, shapes, node.output.shape, node.op.cost(node.spec))


def _dense_steps(shape: tuple[int, ...]) -> list[int]:
    steps = [1]
    for n in shape[:0:-1]:
        steps.append(steps[-1] * n)
    return steps[: len(shape)][::-1]


def _is_native(node: Node) -> bool:
    lower = node.op.lower
    single = all(v is None or v.dtype == F32 for v in (*node.inputs, *node.outputs))
    return lower is not None and single and bool(lower.accepts(node))


class Program:
    """An optimised graph made ready to run on arrays of its shapes, again and again and on many threads.

    Attributes
    ----------
    graph : Graph
    inputs : list of Value
    kept : dict
        (parameter, form) -> the form that steps read.
    rows : list of Row
        What is run, in order.
    arena_bytes : int
        The largest arena of its native plans.
    quick : callable or None
        The native call that does it all: arrays -> result, or None where the arrays need a second look.
    """

    def __init__(self, graph: Graph, options: Options) -> None:
        self.graph = graph
        self.inputs, self._outputs = graph.inputs, graph.outputs
        self._structure = graph.notes.get("structure", 0)
        if options.lean is None:
            options = replace(options, lean=lean_pays(graph, options.winograd))
        self._parts = list(_parts(graph, options))
        self.kept = {key: found for part in self._parts for key, found in part.kept.items()}
        for value in graph.params():
            value.forget()  # what was worked out for packing
        self.rows = [row for part in self._parts for row in part.rows]
        self.arena_bytes = max((part.arena_bytes for part in self._parts), default=0)
        self.quick: Callable[..., Any] | None = None
        alone = self._parts[0] if len(self._parts) == 1 else None
        if isinstance(alone, _Native) and self._structure == 0 and alone.inputs == self.inputs:
            self.quick = alone.plan.run if alone.outputs == self._outputs else None

    @property
    def weights_bytes(self) -> int:
        """Of the parameters in the forms that steps read."""
        forms = {id(found): found for found in self.kept.values()}
        return sum(
            found.nbytes if isinstance(found, np.ndarray) else sum(a.nbytes for a, _ in found.parts())
            for found in forms.values()
        )

    def run(self, arrays: Sequence[Array]) -> Any:
        """Results, nested as the traced module nested them, for arrays of the right shapes and types."""
        values = dict(zip(self.inputs, arrays, strict=True))
        for part in self._parts:
            part.run(values)
        return rebuild(self._structure, self._results(values))

    def timed(self, arrays: Sequence[Array]) -> list[float]:
        """Seconds that every row of :attr:`rows` took."""
        values = dict(zip(self.inputs, arrays, strict=True))
        return [t for part in self._parts for t in part.timed(values)]

    def _results(self, values: dict[Value, Array]) -> list[Array]:
        """Arrays of their own: neither an input, nor a parameter, nor two the same."""
        results: list[Array] = []
        taken = [values[v] for v in self.inputs]
        for value in self._outputs:
            array = value.data if value.known else values[value]
            assert array is not None
            if value not in values or any(np.may_share_memory(array, other) for other in taken):
                array = array.copy()
            taken.append(array)
            results.append(array)
        return results


# A network is made lean unasked if its weights are more bytes than this, that saves this share of them, and
# its convolutions are expected to take at most this share of their time longer.
_MUCH, _SAVED, _LOST = 192 << 20, 0.4, 0.06


def lean_pays(graph: Graph, winograd: int) -> bool:
    """Whether leaner forms of the weights save much memory for little time, batch and threads aside."""
    read = [(node.spec, node.inputs[1]) for node in graph.nodes if node.op is CONV2D]
    convs = {w: spec for spec, w in read if w is not None and w.known}
    quick, lean = [
        [config._cpu.choose_conv(spec.native, winograd, lean) for spec in convs.values()]
        for lean in (False, True)
    ]
    others = sum(4 * math.prod(v.shape) for v in graph.params() if v not in convs)
    much = others + sum(choice.bytes for choice in quick)
    saved = sum(a.bytes - b.bytes for a, b in zip(quick, lean, strict=True))
    time = sum(choice.nanoseconds for choice in quick)
    lost = sum(choice.nanoseconds for choice in lean) - time
    return much > _MUCH and saved > _SAVED * much and lost < _LOST * time


def _parts(graph: Graph, options: Options) -> Iterator[_Native | _Python]:
    """Runs of native nodes, and the nodes between them."""
    runs: list[list[Node]] = []
    for node in graph.nodes:
        native = _is_native(node)
        if native and runs and _is_native(runs[-1][-1]):
            runs[-1].append(node)
        else:
            runs.append([node])
    # Read by later runs, from the end backwards.
    needed = [set(graph.outputs)]
    for run in reversed(runs[1:]):
        needed.append(needed[-1] | {v for node in run for v in node.inputs if v is not None})
    for run, later in zip(runs, reversed(needed), strict=bool(runs)):
        if not _is_native(run[0]):
            yield _Python(run[0], options)
            continue
        made = {v for node in run for v in node.outputs}
        read: dict[Value, None] = {}
        for node in run:
            read.update(dict.fromkeys(v for v in node.inputs if v is not None and v.kind != "param"))
        inputs = graph.inputs if len(runs) == 1 else [v for v in read if v not in made]
        outputs = [v for node in run for v in node.outputs if v in later]
        if (
            len(runs) == 1
            and len(set(graph.outputs)) == len(graph.outputs)
            and made.issuperset(graph.outputs)
        ):
            outputs = graph.outputs
        yield _Native(run, inputs, outputs, options)
