"""Tracing, and passes that must not change what a graph computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cnnfast as cf
from cnnfast import graph as G
from cnnfast import nn, ops
from networks import double, randomize, small


def fuse_all(graph: G.Graph) -> G.Graph:
    return G.fuse_gates(G.fuse_depthwise_blocks(graph, lambda spec: True), lambda spec: True)


PASSES: tuple[Callable[[G.Graph], G.Graph], ...] = (
    G.drop_dead_code,
    G.fold_constants,
    G.fold_batch_norm,
    G.fuse_epilogues,
    G.fuse_padding,
    fuse_all,
    G.decompose,
    G.optimize,
)
ACTIVATIONS = {"relu", "relu6", "sigmoid", "tanh", "silu", "hard_swish"}
# These have many weights and show nothing that a smaller relative does not.
HEAVY = {"resnet34", "resnet101", "resnet152", "plain34", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19",
         "vgg19_bn", "cifar_resnet44", "cifar_resnet56", "efficientnet_b2", "efficientnet_b3",
         "efficientnet_b4", "efficientnet_b5", "efficientnet_b6", "efficientnet_b7", "inception_v3",
         "tf_efficientnet_lite0"}  # fmt: skip
CLASSIFIERS = [
    pytest.param(name, marks=pytest.mark.slow if name in HEAVY else ())
    for name in cf.models.list_models("classification")
]


def flat(results: Any) -> list[np.ndarray]:
    if isinstance(results, dict):
        results = tuple(results.values())
    if isinstance(results, tuple):
        return [a for r in results for a in flat(r)]
    return [results]


def same(graph: G.Graph, changed: G.Graph, *inputs: np.ndarray) -> None:
    """Both graphs are sound and give the same in float64."""
    changed.check()
    assert [v.shape for v in changed.outputs] == [v.shape for v in graph.outputs]
    for one, other in zip(
        flat(G.interpret(graph, *inputs)), flat(G.interpret(changed, *inputs)), strict=True
    ):
        assert other.dtype == one.dtype
        scale = np.abs(one).max()
        assert np.abs(other - one).max() <= 1e-9 * scale


def leftovers(graph: G.Graph) -> list[str]:
    """Normalisations and activations that the operator before them could have done."""
    makers = graph.producers()
    users = graph.users()
    found = []
    for node in graph.nodes:
        before = makers.get(node.inputs[0]) if node.inputs and node.inputs[0] is not None else None
        if before is None or before.op.epilogue is None or len(users[before.output]) > 1:
            continue
        if before.output in graph.outputs or getattr(before.spec, "activation", None) is not None:
            continue
        if node.op.name == "batch_norm" and before.op.epilogue.scale is not None:
            found.append(f"batch_norm {node.scope}")
        if node.op.name in ACTIVATIONS and before.op.epilogue.activations:
            found.append(f"{node.op.name} {node.scope}")
    return found


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_passes_keep_every_network(name: str, rng: np.random.Generator) -> None:
    model, shape = small(name)
    double(randomize(model, rng))
    graph = G.trace(model, (2, *shape), dtype=np.dtype(np.float64))
    graph.check()
    x = rng.standard_normal((2, *shape))
    expected = flat(G.interpret(graph, x))
    for change in PASSES:
        changed = change(graph)
        changed.check()
        for one, other in zip(expected, flat(G.interpret(changed, x)), strict=True):
            scale = np.abs(one).max()
            assert scale > 0
            assert np.abs(other - one).max() <= 1e-9 * scale, change.__name__
    assert not leftovers(changed)
    assert len(changed.nodes) <= len(graph.nodes)


@pytest.mark.parametrize("name", ["cifar_resnet20", "mobilenet_v2", "squeezenet1_1", "lenet5_1998"])
def test_optimized_graphs_on_the_backends(backend: str, name: str, rng: np.random.Generator) -> None:
    model, shape = small(name)
    randomize(model, rng)
    x = rng.standard_normal((1, *shape)).astype(np.float32)
    y = model(x)
    graph = G.trace(model, x.shape)
    scale = np.abs(y).max()
    for changed in (graph, G.optimize(graph)):
        assert np.abs(G.interpret(changed, x, native=True) - y).max() <= 1e-4 * scale
        assert np.abs(G.interpret(changed, x) - y).max() <= 1e-4 * scale


# --- small graphs ----------------------------------------------------------------------------------


class Network(nn.Module):
    """Two convolutions with normalisations, wired by a function of the test."""

    def __init__(self, wiring: Callable[[Network, Any], Any]) -> None:
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.other = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(4)
        self.depthwise = nn.DepthwiseConv2d(4, 3, multiplier=2, padding=1)
        self.up = nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2)
        self.linear = nn.Linear(4, 5)
        self.wide = nn.BatchNorm2d(8)
        self.six = nn.BatchNorm2d(6)
        self.five = nn.BatchNorm2d(5)
        self.wiring = wiring

    def forward(self, x: Any) -> Any:
        return self.wiring(self, x)


# Wiring, and the operators that are left after all passes.
WIRINGS: dict[str, tuple[Callable[[Any, Any], Any], list[str]]] = {
    "conv bn relu": (lambda m, x: ops.relu(m.bn(m.conv(x))), ["conv2d"]),
    "no bias": (lambda m, x: ops.relu(m.bn2(m.other(x))), ["conv2d"]),
    "depthwise with two kernels per channel": (lambda m, x: m.wide(m.depthwise(x)), ["depthwise_conv2d"]),
    "transpose convolution in groups": (lambda m, x: m.six(m.up(x)), ["conv2d_transpose"]),
    "relu after a transpose convolution": (lambda m, x: ops.relu(m.up(x)), ["conv2d_transpose"]),
    "dense": (lambda m, x: ops.silu(m.five(m.linear(x))), ["linear"]),
    "relu before bn": (lambda m, x: m.bn(ops.relu(m.conv(x))), ["conv2d", "batch_norm"]),
    "two normalisations": (lambda m, x: m.bn2(m.bn(m.conv(x))), ["conv2d"]),
    "normalisation of the input": (lambda m, x: m.conv(m.bn(x)), ["batch_norm", "conv2d"]),
    "same convolution twice": (lambda m, x: m.bn2(m.conv(m.bn(m.conv(x)))), ["conv2d", "conv2d"]),
    "two activations": (lambda m, x: ops.tanh(ops.relu(m.conv(x))), ["conv2d", "tanh"]),
    "residual": (lambda m, x: ops.relu(ops.add(m.bn(m.conv(x)), x)), ["conv2d"]),
    "residual first": (lambda m, x: ops.relu(ops.add(x, m.bn(m.conv(x)))), ["conv2d"]),
    "activation before the sum": (lambda m, x: ops.add(ops.relu(m.conv(x)), x), ["conv2d", "add"]),
    "two branches": (lambda m, x: ops.relu(m.conv(x) + m.other(x)), ["conv2d", "conv2d"]),
    "branches with activations": (lambda m, x: ops.relu(m.conv(x)) + ops.relu(m.other(x)),
                                  ["conv2d", "conv2d", "add"]),
    "three branches": (lambda m, x: m.conv(x) + m.other(x) + m.conv(ops.relu(x)),
                       ["conv2d", "conv2d", "relu", "conv2d"]),
    "a sum of sums": (lambda m, x: (m.conv(x) + x) + (m.other(x) + x), ["conv2d", "conv2d", "add"]),
    "doubled": (lambda m, x: (lambda y: ops.relu(ops.add(y, y)))(m.conv(x)), ["conv2d", "add"]),
    "sum with what it feeds": (lambda m, x: (lambda y: m.other(y) + y)(m.conv(x)), ["conv2d", "conv2d"]),
    "sum with what comes later": (lambda m, x: (lambda y: y + ops.max_pool2d(m.other(y), 1))(m.conv(x)),
                                  ["conv2d", "conv2d", "max_pool2d", "add"]),
    "convolution used twice": (lambda m, x: (lambda y: (ops.relu(y), m.bn(y)))(m.conv(x)),
                               ["conv2d", "relu", "batch_norm"]),
    "output before the activation": (lambda m, x: (lambda y: {"a": y, "b": ops.relu(y)})(m.conv(x)),
                                     ["conv2d", "relu"]),
    "output twice": (lambda m, x: (lambda y: (y, y, ops.relu(m.other(y))))(ops.relu(m.conv(x))),
                     ["conv2d", "conv2d"]),
    "output is the input": (lambda m, x: (x, ops.relu(m.conv(x)), ops.reshape(x, x.shape)), ["conv2d"]),
    "output before the sum": (lambda m, x: (lambda y: (y, ops.add(y, x)))(m.conv(x)), ["conv2d", "add"]),
    "output before bn": (lambda m, x: (lambda y: (y, m.bn(y)))(m.conv(x)), ["conv2d", "batch_norm"]),
    "broadcast sum": (lambda m, x: ops.add(m.conv(x), ops.global_avg_pool2d(x)),
                      ["global_avg_pool2d", "conv2d", "add"]),
    "number": (lambda m, x: ops.relu(m.conv(x) + 1.5), ["conv2d", "add"]),
    "constant residual": (lambda m, x: m.conv(x) + np.full(x.shape, 0.25, x.dtype), ["conv2d"]),
    "dead branch": (lambda m, x: (m.bn(m.other(x)), ops.relu(m.conv(x)))[1], ["conv2d"]),
    "dead user": (lambda m, x: (lambda y: (m.bn2(y), ops.relu(m.bn(y)))[1])(m.conv(x)), ["conv2d"]),
    "empty reshapes": (lambda m, x: ops.relu(m.conv(x).reshape(x.shape).reshape(x.shape)), ["conv2d"]),
    "reshapes between": (lambda m, x: ops.relu(m.conv(x).flatten()), ["conv2d", "reshape", "relu"]),
    "slope of its own": (lambda m, x: ops.leaky_relu(m.conv(x), slope=0.2), ["conv2d"]),
    "slope after a dense layer": (lambda m, x: ops.leaky_relu(m.linear(x), slope=-0.3), ["linear"]),
    "slope after a sum": (lambda m, x: ops.leaky_relu(ops.relu(x) + ops.tanh(x), slope=0.1),
                          ["add", "relu", "tanh"]),
    "slope after a transpose convolution": (lambda m, x: ops.leaky_relu(m.six(m.up(x)), slope=0.1),
                                            ["conv2d_transpose"]),
    "padding": (lambda m, x: m.bn(m.conv(ops.pad2d(x, ((1, 0), (2, 3))))), ["conv2d"]),
    "padding twice": (lambda m, x: m.conv(ops.pad2d(ops.pad2d(x, 1), (0, 2))), ["conv2d"]),
    "padding before two": (lambda m, x: (lambda y: m.conv(y) + m.other(y))(ops.pad2d(x, 1)),
                           ["conv2d", "conv2d"]),
    "padding per channel": (lambda m, x: m.depthwise(ops.pad2d(x, 2)), ["depthwise_conv2d"]),
    "padding by ones": (lambda m, x: m.conv(ops.pad2d(x, 1, value=1.0)), ["conv2d", "pad2d"]),
    "padding by mirrors": (lambda m, x: m.conv(ops.pad2d(x, 1, mode="reflect")), ["conv2d", "pad2d"]),
    "padding before the maximum": (lambda m, x: ops.max_pool2d(ops.pad2d(x, 1), 2), ["max_pool2d", "pad2d"]),
    "padded output": (lambda m, x: (lambda y: (y, m.conv(y)))(ops.pad2d(x, 1)), ["conv2d", "pad2d"]),
    "residual after padding": (lambda m, x: m.conv(ops.pad2d(x, ((1, 0), (0, 1))))[:, :6, :5] + x,
                               ["conv2d", "slice", "add"]),
    "usual slope": (lambda m, x: ops.leaky_relu(m.conv(x)), ["conv2d"]),
    "parts": (lambda m, x: [ops.relu(p) for p in ops.split(m.conv(x), (1, 3))],
              ["conv2d", "slice", "slice", "relu", "relu"]),
    "nothing": (lambda m, x: x, []),
}  # fmt: skip


def example(name: str, rng: np.random.Generator) -> tuple[G.Graph, list[str]]:
    wiring, left = WIRINGS[name]
    model = double(randomize(Network(wiring), rng))
    return G.trace(model, (2, 6, 5, 4), dtype=np.dtype(np.float64)), left


@pytest.mark.parametrize("name", WIRINGS)
def test_passes_keep_small_graphs(name: str, rng: np.random.Generator) -> None:
    graph, left = example(name, rng)
    x = rng.standard_normal((2, 6, 5, 4))
    text = str(graph)
    for first in PASSES:
        once = first(graph)
        same(graph, once, x)
        for second in PASSES:
            same(graph, second(once), x)
    assert str(graph) == text, "passes leave their argument alone"
    done = G.optimize(graph)
    assert sorted(node.op.name for node in done.nodes) == sorted(left)
    assert sorted(node.op.name for node in G.optimize(done).nodes) == sorted(left), "nothing is left to do"


@pytest.mark.parametrize(
    "name", ["residual", "doubled", "sum with what it feeds", "two branches", "output twice"]
)
def test_small_graphs_on_the_backends(backend: str, name: str, rng: np.random.Generator) -> None:
    model = randomize(Network(WIRINGS[name][0]), rng).eval()
    x = rng.standard_normal((2, 6, 5, 4)).astype(np.float32)
    graph = G.trace(model, x.shape)
    for changed in (graph, G.optimize(graph)):
        for native in (False, True):
            got = flat(G.interpret(changed, x, native=native))
            for one, other in zip(flat(model(x)), got, strict=True):
                np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-5)


def test_constants_are_worked_out_once(rng: np.random.Generator) -> None:
    """Tracing never leaves such nodes behind, importers do."""
    kind = np.dtype(np.float64)
    a = G.Value((3,), kind, "param", "a", rng.standard_normal(3))
    x, t, u, y = G.Value((2, 3), kind, "input", "x"), *(G.Value(s, kind) for s in ((3,), (3,), (2, 3)))
    relu, add = ops.OPERATORS["relu"], ops.OPERATORS["add"]
    nodes = [
        G.Node(relu, relu.infer((3,)), (a,), (t,)),
        G.Node(add, add.infer((3,), (3,)), (t, a), (u,)),
        G.Node(add, add.infer((2, 3), (3,)), (x, u), (y,)),
    ]
    graph = G.Graph(nodes, [x], [y])
    done = G.fold_constants(graph)
    assert [n.op.name for n in done.nodes] == ["add"]
    same(graph, done, rng.standard_normal((2, 3)))
    # A constant that is an output stays.
    graph = G.Graph(nodes, [x], [y, u], notes={"structure": (0, 1)})
    same(graph, G.fold_constants(graph), rng.standard_normal((2, 3)))


def test_statistics_that_are_not_known_stay(rng: np.random.Generator) -> None:
    """A normalisation whose mean is computed cannot be folded."""

    def wiring(m: Any, x: Any) -> Any:
        y = m.conv(x)
        mean = ops.reshape(ops.global_avg_pool2d(x[:1]), (4,))
        return ops.batch_norm(y, mean, m.bn.running_var)

    graph = G.trace(double(randomize(Network(wiring), rng)), (2, 6, 5, 4), dtype=np.dtype(np.float64))
    done = G.optimize(graph)
    assert "batch_norm" in [n.op.name for n in done.nodes]
    same(graph, done, rng.standard_normal((2, 6, 5, 4)))


def test_weight_that_is_computed_stays(rng: np.random.Generator) -> None:
    """A normalisation after a convolution by something that depends on the input."""

    def wiring(m: Any, x: Any) -> Any:
        w = ops.reshape(x[:1, :3, :3, :4], (3, 3, 4, 1))
        return m.bn(ops.concat([ops.conv2d(x, w)] * 4)), ops.batch_norm(
            ops.conv2d(x, w), np.ones(1, x.dtype), np.ones(1, x.dtype)
        )

    graph = G.trace(double(randomize(Network(wiring), rng)), (2, 6, 5, 4), dtype=np.dtype(np.float64))
    same(graph, G.optimize(graph), rng.standard_normal((2, 6, 5, 4)))


# --- tracing ---------------------------------------------------------------------------------------


def test_trace_names_scopes_and_modes() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(bn=nn.BatchNorm2d(4), drop=nn.Dropout()))
    shared = model[0]
    model.append(nn.Sequential(nn.Conv2d(4, 3, 1), shared))
    assert model.training
    graph = G.trace(model, (1, 8, 8, 3))
    assert all(m.training for m in model.modules()), "a shared module, too"
    assert [n.op.name for n in graph.nodes] == ["conv2d", "batch_norm", "conv2d", "conv2d"]
    assert graph.nodes[1].scope == "1.bn"
    assert "1.bn.running_mean" in [v.name for v in graph.params()]
    assert graph.nodes[0].inputs[1] is graph.nodes[3].inputs[1], "one weight, one value"


def test_tracing_draws_no_initial_values() -> None:
    model = cf.models.vgg16()
    graph = G.drop_dead_code(G.fold_constants(G.trace(model, (1, 224, 224, 3))))
    assert all(p._data is None for p in model.parameters())
    weight = graph.nodes[0].inputs[1]
    assert weight is not None
    assert weight.data is model.features[0].weight.data


def test_wrong_graphs_are_noticed() -> None:
    kind = np.dtype(np.float32)
    relu = ops.OPERATORS["relu"]
    x, y, z = G.Value((3,), kind, "input"), G.Value((3,), kind), G.Value((3,), kind)
    first = G.Node(relu, relu.infer((3,)), (x,), (y,))
    second = G.Node(relu, relu.infer((3,)), (y,), (z,))
    G.Graph([first, second], [x], [z]).check()
    with pytest.raises(ValueError, match="before it is written"):
        G.Graph([second, first], [x], [z]).check()
    with pytest.raises(ValueError, match="a second time"):
        G.Graph([first, first], [x], [y]).check()
    with pytest.raises(ValueError, match="never written"):
        G.Graph([first], [x], [z]).check()


def test_interpreter_checks_its_inputs() -> None:
    graph = G.trace(cf.models.lenet5(), (1, 32, 32, 1))
    with pytest.raises(cf.errors.ShapeError, match="1 inputs, got 0"):
        G.interpret(graph)
    with pytest.raises(cf.errors.ShapeError, match="has shape"):
        G.interpret(graph, np.zeros((2, 32, 32, 1), np.float32))
    with pytest.raises(cf.errors.DTypeError, match="int64"):
        G.interpret(graph, np.zeros((1, 32, 32, 1), np.int64))
    assert G.interpret(graph, np.zeros((1, 32, 32, 1))).dtype == np.float64


def test_interpreter_shows_every_node() -> None:
    graph = G.trace(cf.models.lenet5(), (1, 32, 32, 1))
    seen: list[tuple[int, ...]] = []
    G.interpret(graph, np.zeros((1, 32, 32, 1), np.float32), watch=lambda n, r: seen.append(r[0].shape))
    assert seen == [n.output.shape for n in graph.nodes]


def test_symbols_stay_in_their_trace() -> None:
    kept: list[Any] = []
    G.trace(Network(lambda m, x: kept.append(x) or m.conv(x)), (1, 6, 5, 4))  # type: ignore[func-returns-value]
    with pytest.raises(ValueError, match="has left the trace"):
        ops.relu(kept[0])
    with pytest.raises(ValueError, match="has no data"):
        kept[0].numpy()
