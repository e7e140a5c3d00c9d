"""From an optimised graph to native plans, with Python in between for what has no native steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from .. import config
from ..ops.registry import F32, Cost
from .ir import Array, Graph, Node, Value
from .memory import Layout, Spot, lay_out
from .trace import rebuild

__all__ = ["Operand", "Options", "Program", "Row", "Steps", "Store"]


class Store:
    """Weights in the forms that native steps read, shared by all programs of an engine."""

    def __init__(self) -> None:
        self._made: WeakValueDictionary[Any, Any] = WeakValueDictionary()

    def get(self, value: Value, form: tuple[Any, ...], make: Callable[[Array], Any]) -> Any:
        """One form of a parameter, made once."""
        key = (value.key, form)
        found = self._made.get(key)
        if found is None:
            assert value.data is not None
            found = make(np.ascontiguousarray(value.data, F32))
            self._made[key] = found
        return found


@dataclass(frozen=True)
class Row:
    """One step of a program, for the eye."""

    operator: str
    scope: str
    algorithm: str
    inputs: tuple[tuple[int, ...], ...]
    output: tuple[int, ...]
    cost: Cost


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
    winograd : bool
        Whether convolutions may use it.
    none
        The place of what is not there.
    """

    def __init__(self, layout: Layout, store: Store, plan: Any, inputs: int, winograd: bool) -> None:
        self.plan, self.native, self.winograd = plan, config._cpu, winograd
        self.none = self.native.Place()
        self.kept: list[Any] = []  # keeps what is shared alive, and the meaning of its key
        self._layout, self._store, self._inputs = layout, store, inputs

    def operand(self, value: Value) -> Operand:
        return Operand(value, self._layout.spots[value], self)

    def at(self, spot: Spot, shift: int = 0) -> Any:
        """A spot, or some floats after it, as native steps know it."""
        offset = spot.offset + shift
        if spot.space == "constant":
            return self.shared(spot.root, ("plain",), self.native.Constant).place(offset)
        space = {"arena": 0, "input": 1 + spot.index, "output": 1 + self._inputs + spot.index}[spot.space]
        return self.native.Place(space, offset)

    def place(self, operand: Operand | None) -> Any:
        """The place of an operand, or of none."""
        return self.none if operand is None else operand.place

    def shifted(self, operand: Operand, floats: int) -> Any:
        """The place some floats after the beginning of an operand."""
        return self.at(operand.spot, floats)

    def shared(self, value: Value, form: tuple[Any, ...], make: Callable[[Array], Any]) -> Any:
        """A form of a parameter that all programs of an engine share."""
        found = self._store.get(value, form, make)
        self.kept.append((found, value.sources))
        return found

    def within(self, part: Operand, whole: Operand) -> bool:
        """Whether an operand lies in the pixels of another."""
        return self._layout.parts.get(part.value) is whole.value


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
        steps = Steps(layout, options.store, self.plan, len(inputs), options.winograd)
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
        self.rows = [_row(node, a) for node, a in zip(made, self.plan.algorithms(), strict=True)]

    def plan_output(self, k: int) -> Any:
        return config._cpu.Place(1 + len(self.inputs) + k, 0)

    def run(self, values: dict[Value, Array]) -> None:
        arrays = [np.require(values[v], F32, ["C", "A"]) for v in self.inputs]
        result = self.plan.run(*arrays)
        if result is None:
            raise ValueError("a native plan was given arrays that it was not made for")
        values.update(zip(self.outputs, (result,) if len(self.outputs) == 1 else result, strict=True))

    def timed(self, values: dict[Value, Array]) -> list[float]:
        seconds = self.plan.run_timed(*[np.require(values[v], F32, ["C", "A"]) for v in self.inputs])
        self.run(values)
        return list(seconds)


class _Python:
    """A node without native steps."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.rows = [_row(node, "NumPy")]
        self.arena_bytes = 0

    def run(self, values: dict[Value, Array]) -> None:
        node = self.node
        arrays = [None if v is None else v.data if v.known else values[v] for v in node.inputs]
        single = arrays[0] is not None and arrays[0].dtype == F32
        result = (node.op.native if single else node.op.reference)(node.spec, *arrays)
        values.update(zip(node.outputs, result if isinstance(result, tuple) else (result,), strict=True))

    def timed(self, values: dict[Value, Array]) -> list[float]:
        start = time.perf_counter()
        self.run(values)
        return [time.perf_counter() - start]


@dataclass(frozen=True)
class Options:
    """What holds for all programs of an engine; ``threads`` 0 sets no limit."""

    store: Store
    threads: int
    winograd: bool


def _row(node: Node | None, algorithm: str) -> Row:
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
    inputs : list of Value
    rows : list of Row
        What is run, in order.
    arena_bytes : int
        The largest arena of its native plans.
    quick : callable or None
        The native call that does it all: arrays -> result, or None where the arrays need a second look.
    """

    def __init__(self, graph: Graph, options: Options) -> None:
        self.inputs, self._outputs = graph.inputs, graph.outputs
        self._structure = graph.notes.get("structure", 0)
        self._parts = list(_parts(graph, options))
        self.rows = [row for part in self._parts for row in part.rows]
        self.arena_bytes = max((part.arena_bytes for part in self._parts), default=0)
        alone = self._parts[0] if len(self._parts) == 1 else None
        simple = isinstance(alone, _Native) and alone.outputs == self._outputs and self._structure == 0
        self.quick: Callable[..., Any] | None = (
            alone.plan.run if simple and isinstance(alone, _Native) and len(self._outputs) == 1 else None
        )
        if self.quick is not None and alone is not None and alone.inputs != self.inputs:  # type: ignore[union-attr]
            self.quick = None

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
            yield _Python(run[0])
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
