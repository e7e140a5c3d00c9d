"""Planned memory: values that are needed at the same time never share it, and what should share it does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cnnfast as cf
from cnnfast import graph as G
from cnnfast import nn, ops
from cnnfast.graph.memory import ALIGNMENT, Block, Layout, arrange, lay_out
from networks import small
from test_graph import WIRINGS, Network

BLOCKS = st.lists(
    st.builds(
        lambda size, first, length: Block(size, first, first + length),
        st.integers(0, 300), st.integers(0, 12), st.integers(0, 6),
    ),
    max_size=40,
)  # fmt: skip


@given(BLOCKS)
@settings(max_examples=300, deadline=None)
def test_blocks_that_live_together_lie_apart(blocks: list[Block]) -> None:
    total = arrange(blocks)
    for i, a in enumerate(blocks):
        assert a.offset % ALIGNMENT == 0
        assert 0 <= a.offset <= a.offset + a.size <= total
        for b in blocks[:i]:
            if a.first <= b.last and b.first <= a.last and a.size and b.size:
                assert a.offset + a.size <= b.offset or b.offset + b.size <= a.offset
    # No worse than one after the other, no better than what lives at once.
    assert total <= sum(-(-b.size // ALIGNMENT) * ALIGNMENT for b in blocks) + ALIGNMENT
    for step in range(20):
        assert total >= sum(b.size for b in blocks if b.first <= step <= b.last)


def floats_of(layout: Layout, value: G.Value) -> set[tuple[str, int, int]]:
    """Every float of a value in its spot."""
    spot = layout.spots[value]
    channels = value.shape[-1] if value.shape else 1
    pixels = int(np.prod(value.shape[:-1]))
    at = np.arange(pixels)[:, None] * spot.ld + np.arange(channels) + spot.offset
    return {(spot.space, spot.index, int(i)) for i in at.ravel()}


def check(graph: G.Graph) -> Layout:
    """No step destroys what a later one reads."""
    layout = lay_out(graph.nodes, graph.inputs, graph.outputs)
    holds: dict[tuple[str, int, int], tuple[Any, int]] = {}
    contents = {v: [(v, i) for i in range(int(np.prod(v.shape)))] for v in graph.inputs}

    def write(value: G.Value, numbers: list[Any]) -> None:
        contents[value] = numbers
        for place, number in zip(sorted(floats_of(layout, value)), numbers, strict=True):
            holds[place] = number

    def read(value: G.Value) -> None:
        if value.kind == "param":
            return
        got = [holds[place] for place in sorted(floats_of(layout, value))]
        assert got == contents[value], value

    for value in graph.inputs:
        assert layout.spots[value].space == "input"
        write(value, contents[value])
    for node in graph.nodes:
        for value in node.inputs:
            if value is not None:
                read(value)
        for value in node.outputs:
            assert layout.spots[value].space != "input" or node.op.name in ("reshape", "slice")
            x = node.inputs[0]
            if node.op.name == "concat":
                joined = np.concatenate(
                    [
                        np.array(contents[v], object).reshape(*v.shape, 2)
                        for v in node.inputs
                        if v is not None
                    ],
                    axis=node.spec.axis,
                )
                write(value, [tuple(n) for n in joined.reshape(-1, 2)])
            elif node.op.name in ("reshape", "slice") and x is not None and x in contents:
                whole = np.array(contents[x], object).reshape(*x.shape, 2)
                if node.op.name == "slice":
                    whole = whole[tuple(slice(a, None if b < 0 else b, c) for a, b, c in node.spec.index)]
                write(value, [tuple(n) for n in whole.reshape(-1, 2)])
            else:
                write(value, [(value, i) for i in range(int(np.prod(value.shape)))])
    for value in graph.outputs:
        read(value)
    for value, _ in layout.copies:
        assert value in graph.outputs
    return layout


@pytest.mark.parametrize("name", [n for n, (_, left) in WIRINGS.items() if left])
def test_small_graphs(name: str) -> None:
    model = Network(WIRINGS[name][0]).eval()
    for graph in (G.trace(model, (2, 6, 5, 4)), G.optimize(G.trace(model, (2, 6, 5, 4)))):
        check(graph)


class Wired(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def forward(self, *inputs: Any) -> Any:
        return self.function(*inputs)


STEPS: list[Callable[[Any, Any], Any]] = [
    lambda a, b: ops.relu(a),
    lambda a, b: ops.add(a, b),
    lambda a, b: ops.mul(b, a),
    lambda a, b: ops.max_pool2d(a, 3, stride=1, padding=1),
    lambda a, b: ops.concat([a, b])[..., 3:35],
    lambda a, b: ops.concat([ops.concat([a[..., :8], b[..., :8]]), a[..., 16:]]),
    lambda a, b: ops.concat([ops.relu(a)[..., :4], b[..., :24], ops.tanh(b)[..., 28:]]),
    lambda a, b: ops.concat([ops.avg_pool2d(a, 1), ops.max_pool2d(b, 1)])[..., 16:48],
    lambda a, b: ops.reshape(ops.reshape(a, (-1,)), a.shape),
    lambda a, b: ops.concat([a[:, :1], b[:, 1:]], axis=1),
    lambda a, b: ops.add(a, b[..., :1]),
]


@given(
    st.lists(
        st.tuples(st.sampled_from(STEPS), st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=12
    ),
    st.lists(st.integers(0, 20), min_size=1, max_size=3),
)
@settings(max_examples=150, deadline=None)
def test_random_graphs(steps: list[Any], wanted: list[int]) -> None:
    def function(x: Any) -> Any:
        made = [x]
        for step, i, j in steps:
            made.append(step(made[i % len(made)], made[j % len(made)]))
        return (made[-1], *[made[i % len(made)] for i in wanted])

    model = Wired(function)
    x = np.random.default_rng(0).standard_normal((2, 2, 2, 32)).astype(np.float32)
    graph = G.optimize(G.trace(model, x.shape))
    check(graph)
    if cf.config._cpu is not None:
        for got, want in zip(cf.compile(model)(x), G.interpret(graph, x), strict=True):
            np.testing.assert_allclose(got, want, 1e-5, 1e-5)


def rows(name: str) -> list[Any]:
    model, shape = small(name)
    engine = cf.compile(model, (1, *shape))
    return next(iter(engine._made.values())).rows  # type: ignore[union-attr]


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("name", ["googlenet", "squeezenet1_1", "inception_v3", "unet"])
def test_joins_cost_nothing(name: str) -> None:
    assert not [r for r in rows(name) if r.operator in ("concat", "slice") or r.algorithm == "copy"]


def test_activations_stay_where_they_are() -> None:
    graph = G.trace(Wired(lambda x: ops.tanh(ops.relu(ops.relu6(ops.max_pool2d(x, 2))))), (1, 8, 8, 16))
    layout = check(graph)
    assert layout.arena_floats == 0, "all four in the memory of the result"


def test_arena_is_small() -> None:
    """A chain of equal layers takes two of its maps."""
    graph = G.optimize(G.trace(cf.models.vgg16(), (1, 64, 64, 3)))
    assert check_arena(graph) == 2 * 64 * 64 * 64


def check_arena(graph: G.Graph) -> int:
    return lay_out(graph.nodes, graph.inputs, graph.outputs).arena_floats
