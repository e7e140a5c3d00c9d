"""Depthwise convolutions fused with the convolutions around them: the same numbers, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cnnfast as cf
from cnnfast import graph as G
from cnnfast import nn, ops
from cnnfast.ops.depthwise_block import DEPTHWISE_BLOCK, infer_depthwise_block
from networks import double, randomize, small


def fuse_all(graph: G.Graph, worth: Any = None) -> G.Graph:
    return G.fuse_depthwise_blocks(graph, lambda spec: True)


class Block(nn.Module):
    """Expand, filter, project, of which the first and the last may be left out."""

    def __init__(
        self,
        c_in: int,
        inner: int,
        c_out: int,
        kernel: Any = 3,
        activations: tuple[str | None, ...] = ("relu6", "relu6", None),
        residual: bool = False,
        stem: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.expand = nn.Conv2d(c_in, inner, **(stem or {"kernel_size": 1})) if c_in else None
        self.filter = nn.DepthwiseConv2d(inner, kernel, **options)
        self.project = nn.Conv2d(inner, c_out, 1, bias=not residual) if c_out else None
        self.activations, self.residual = activations, residual

    def forward(self, x: Any) -> Any:
        y = x
        for layer, name in zip((self.expand, self.filter, self.project), self.activations, strict=True):
            if layer is None:
                continue
            y = layer(y)
            if layer is self.project and self.residual:
                y = ops.add(y, x)
            y = y if name is None else getattr(ops, name)(y)
        return y


# Shape of x, arguments of the block. Several bands, rings that wrap, one row, padding of every kind.
BLOCKS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "MobileNetV2": ((2, 30, 31, 24), {
        "c_in": 24, "inner": 144, "c_out": 24, "padding": 1, "residual": True}),
    "MobileNetV2, stride 2": ((1, 57, 40, 16), {
        "c_in": 16, "inner": 96, "c_out": 24, "padding": 1, "stride": 2}),
    "MobileNetV1": ((3, 33, 20, 128), {
        "c_in": 0, "inner": 128, "c_out": 70, "padding": 1, "activations": (None, "relu", "relu")}),
    "EfficientNet": ((1, 40, 23, 12), {
        "c_in": 12, "inner": 240, "c_out": 0, "kernel": 5, "padding": 2,
        "activations": ("silu", "silu", None)}),
    "EfficientNet, stride 2": ((2, 41, 22, 12), {
        "c_in": 12, "inner": 200, "c_out": 0, "kernel": 5, "padding": 2, "stride": 2,
        "activations": ("silu", "hard_swish", None)}),
    "odd channels": ((2, 29, 30, 7), {
        "c_in": 7, "inner": 147, "c_out": 3, "padding": 1, "activations": ("leaky_relu", None, "sigmoid")}),
    "fewer channels than lanes": ((2, 9, 9, 2), {"c_in": 2, "inner": 5, "c_out": 2, "padding": 1}),
    "rows a page apart": ((1, 12, 9, 64), {"c_in": 64, "inner": 1024, "c_out": 32, "padding": 1}),
    "tall windows, dilation": ((1, 60, 30, 8), {
        "c_in": 8, "inner": 96, "c_out": 8, "kernel": (7, 3), "padding": (6, 2), "dilation": 2}),
    "stride beyond the window": ((2, 50, 20, 8), {
        "c_in": 8, "inner": 160, "c_out": 8, "kernel": 2, "stride": 3}),
    "more padding than window": ((1, 10, 6, 8), {
        "c_in": 8, "inner": 32, "c_out": 8, "kernel": 2, "padding": 5,
        "activations": ("sigmoid", None, None)}),
    "more padding above than below": ((1, 23, 24, 8), {
        "c_in": 8, "inner": 64, "c_out": 4, "stride": 2, "padding": ((2, 0), (0, 1))}),
    "one row": ((2, 1, 30, 8), {"c_in": 8, "inner": 48, "c_out": 8, "padding": 1, "residual": True}),
    "stem": ((2, 61, 44, 3), {
        "c_in": 3, "inner": 32, "c_out": 16, "padding": 1,
        "stem": {"kernel_size": 3, "stride": 2, "padding": 1}}),
    "stem, EfficientNet": ((1, 224, 30, 3), {
        "c_in": 3, "inner": 32, "c_out": 0, "padding": 1, "activations": ("silu", "silu", None),
        "stem": {"kernel_size": 3, "stride": 2, "padding": ((0, 1), (0, 1))}}),
    "stem of 7x5, one channel, dilation and stride": ((2, 50, 33, 1), {
        "c_in": 1, "inner": 21, "c_out": 9, "kernel": 5, "stride": 2, "padding": 2,
        "stem": {"kernel_size": (7, 5), "stride": (1, 3), "padding": 4, "dilation": (2, 1)}}),
    "stem without padding": ((1, 40, 40, 8), {
        "c_in": 8, "inner": 40, "c_out": 8, "padding": 1,
        "stem": {"kernel_size": (1, 3)}}),
    "one pixel": ((1, 1, 1, 8), {"c_in": 8, "inner": 48, "c_out": 9, "padding": 1}),
}  # fmt: skip


def fused_engine(monkeypatch: pytest.MonkeyPatch, *arguments: Any, **options: Any) -> cf.engine.Engine:
    """An engine in which every block is fused that can be."""
    with monkeypatch.context() as patch:
        patch.setattr("cnnfast.engine.fuse_depthwise_blocks", fuse_all)
        return cf.compile(*arguments, **options)


def operators(graph: G.Graph) -> list[str]:
    return [node.op.name for node in graph.nodes]


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks(name: str, native: None, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    """The bits of the separate steps, for any number of threads and for a picture by itself."""
    shape, arguments = BLOCKS[name]
    model = randomize(Block(**arguments).initialize(3), rng).eval()
    x = rng.standard_normal(shape).astype(np.float32)
    monkeypatch.setattr("cnnfast.engine.fuse_depthwise_blocks", lambda graph, worth: graph)
    separate = cf.compile(model, shape)(x)
    monkeypatch.setattr("cnnfast.engine.fuse_depthwise_blocks", fuse_all)
    engine = cf.compile(model, shape)
    assert [s.operator for s in engine.describe(runs=1).steps] == ["depthwise_block"]
    for threads in (1, 2, 3):
        cf.set_num_threads(threads)
        np.testing.assert_array_equal(engine(x), separate)
        np.testing.assert_array_equal(engine(x[:1]), separate[:1])
    exact = G.interpret(G.trace(model, shape), x.astype(np.float64))
    assert np.linalg.norm(separate - exact) <= 1e-5 * np.linalg.norm(exact)


@pytest.mark.parametrize("name", BLOCKS)
def test_the_pass_keeps_what_is_computed(name: str, rng: np.random.Generator) -> None:
    """Before, after, and taken apart again."""
    shape, arguments = BLOCKS[name]
    before = G.optimize(
        G.trace(double(randomize(Block(**arguments).initialize(3), rng)), shape, dtype=np.dtype(np.float64))
    )
    after = fuse_all(before)
    apart = G.decompose(after)
    assert operators(after) == ["depthwise_block"]
    assert operators(apart) == operators(before)
    x = rng.standard_normal(shape)
    want = G.interpret(before, x)
    for graph in (after, apart):
        graph.check()
        np.testing.assert_array_equal(G.interpret(graph, x), want)
    costs = [sum(node.op.cost(node.spec).flops for node in g.nodes) for g in (before, after)]
    assert costs[0] == costs[1]


@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v2", "efficientnet_b0"])
def test_networks(name: str, native: None, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    model, shape = small(name)
    randomize(model, rng)
    x = rng.standard_normal((2, *shape)).astype(np.float32)
    engine = fused_engine(monkeypatch, model, x.shape)
    steps = [s.operator for s in engine.describe(runs=1).steps]
    assert "depthwise_conv2d" not in steps
    assert steps.count("depthwise_block") >= 12
    graph = fuse_all(G.optimize(G.trace(model, x.shape)))
    np.testing.assert_array_equal(engine(x), cf.compile(model, x.shape, winograd=False)(x))
    want = G.interpret(graph, x)
    assert np.linalg.norm(engine(x) - want) <= 1e-4 * np.linalg.norm(want)
    assert np.linalg.norm(G.interpret(graph, x, native=True) - want) <= 1e-4 * np.linalg.norm(want)


def test_weights_that_are_not_finite(
    native: None, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    """0 * inf is NaN, also where the window reaches into the padding."""
    model = randomize(Block(4, 20, 5, padding=1, activations=(None, None, None)), rng).eval()
    model.filter.weight.data[0, 0, 3, 0] = np.inf
    x = rng.standard_normal((1, 6, 6, 4)).astype(np.float32)
    y = fused_engine(monkeypatch, model, x.shape)(x)
    assert np.isnan(y[0, 0]).all()
    np.testing.assert_array_equal(y, cf.compile(model, x.shape)(x))


def test_parts_of_pixels(native: None, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    """A block reads channels where they lie and writes into its part of a join."""
    block = randomize(Block(6, 40, 10, padding=1), rng)

    class Joined(nn.Module):
        def __init__(self) -> None:
            self.block = block

        def forward(self, x: Any) -> Any:
            return ops.concat([ops.max_pool2d(x, 1), self.block(x[..., 3:9])])

    model = Joined().eval()
    x = rng.standard_normal((2, 20, 9, 17)).astype(np.float32)
    engine = fused_engine(monkeypatch, model, x.shape)
    assert [s.operator for s in engine.describe(runs=1).steps] == ["max_pool2d", "depthwise_block"]
    np.testing.assert_array_equal(engine(x), cf.compile(model, x.shape)(x))


def test_saved(
    native: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rng: np.random.Generator
) -> None:
    for name, (shape, arguments) in BLOCKS.items():
        model = randomize(Block(**arguments).initialize(3), rng).eval()
        x = rng.standard_normal(shape).astype(np.float32)
        engine = fused_engine(monkeypatch, model, shape)
        engine.save(tmp_path / "block.cnnfast")
        loaded = cf.load_engine(tmp_path / "block.cnnfast")
        np.testing.assert_array_equal(loaded(x), engine(x), name)
        assert [s.operator for s in loaded.describe(runs=1).steps] == ["depthwise_block"]


def test_what_cannot_be_one_step(rng: np.random.Generator) -> None:
    """Values that others need, wider windows, groups, several kernels per channel, one channel."""
    conv, wide = nn.Conv2d(4, 8, 1), nn.Conv2d(8, 4, 3, padding=1)
    grouped, strided = nn.Conv2d(8, 4, 1, groups=2), nn.Conv2d(8, 4, 1, stride=2)
    depthwise, twice = nn.DepthwiseConv2d(8, 3, padding=1), nn.DepthwiseConv2d(8, 3, multiplier=2, padding=1)

    class Wired(nn.Module):
        def __init__(self, wiring: Any) -> None:
            self.wiring = wiring

        def forward(self, x: Any) -> Any:
            return self.wiring(x)

    def left(wiring: Any) -> list[str]:
        graph = G.optimize(G.trace(Wired(wiring), (1, 8, 8, 4)))
        fused = fuse_all(graph)
        x = rng.standard_normal((1, 8, 8, 4)).astype(np.float32)
        one, other = G.interpret(graph, x), G.interpret(fused, x)
        for a, b in zip(*[r if isinstance(r, tuple) else (r,) for r in (one, other)], strict=True):
            np.testing.assert_array_equal(a, b)
        return operators(fused)

    assert left(lambda x: wide(depthwise(conv(x)))) == ["depthwise_block", "conv2d"]
    assert left(lambda x: grouped(depthwise(conv(x)))) == ["depthwise_block", "conv2d"]
    assert left(lambda x: strided(depthwise(conv(x)))) == ["depthwise_block", "conv2d"]
    assert left(lambda x: twice(conv(x))) == ["conv2d", "depthwise_conv2d"]
    assert left(lambda x: (lambda y: (y, depthwise(y)))(conv(x))) == ["conv2d", "depthwise_conv2d"]
    assert left(lambda x: (lambda y: depthwise(y) + y)(conv(x))) == ["conv2d", "depthwise_conv2d"]
    assert left(lambda x: depthwise(depthwise(conv(x)))) == ["depthwise_block", "depthwise_conv2d"]


def test_where_it_pays() -> None:
    """Whole blocks where the expanded picture is large, and none in small pictures."""
    graph = G.optimize(G.trace(cf.models.mobilenet_v2(), (1, 224, 224, 3)))
    fused = G.fuse_depthwise_blocks(graph)
    shapes = [node.spec.depthwise.x for node in fused.nodes if node.op is DEPTHWISE_BLOCK]
    assert {s[1] for s in shapes} >= {112, 56, 28}
    assert not any(s[1] < 14 for s in shapes)
    stems = [n.spec.expand.x[3] for n in fused.nodes if n.op is DEPTHWISE_BLOCK and n.spec.expand is not None]
    assert (
        stems[0] == 3
    )  # the first convolution belongs to the first block, unless that makes more of its map
    larger = fuse_all(G.optimize(G.trace(cf.models.mobilenet_v1(), (1, 224, 224, 3))))
    assert operators(larger)[:2] == ["conv2d", "depthwise_block"]
    tiny = G.optimize(G.trace(cf.models.mobilenet_v2(), (1, 32, 32, 3)))
    assert "depthwise_block" not in operators(G.fuse_depthwise_blocks(tiny))[5:]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((1, 8, 8, 9), (3, 3, 9, 8), None, (3, 3, 8, 1)), "must be 1x1, or have few"),
        (((1, 8, 8, 4), (3, 1, 4, 8), None, (3, 3, 8, 1)), "must be 1x1, or have few"),
        (((1, 8, 8, 4), (1, 1, 4, 8), None, (3, 3, 8, 1), None, (3, 3, 8, 4)), "after must be 1x1"),
        (((1, 8, 8, 4), (1, 1, 4, 8), None, (3, 3, 8, 2)), "one kernel per channel"),
        (((1, 8, 8, 4), (1, 1, 4, 1), None, (3, 3, 1, 1)), "more than one channel"),
        (((1, 8, 8, 4), None, None, (3, 3, 4, 1), None, None, None, (1, 6, 6, 4)), "residual"),
        (((1, 8, 8, 4), (1, 1, 5, 8), None, (3, 3, 8, 1)), "5 input channels"),
        (((1, 8, 8, 4), (1, 1, 4, 8), None, (3, 3, 7, 1)), "7 input channels"),
    ],
)
def test_errors(arguments: Any, message: str) -> None:
    with pytest.raises(cf.errors.ShapeError, match=message):
        infer_depthwise_block(*arguments)
    with pytest.raises(cf.errors.ShapeError, match="three each"):
        infer_depthwise_block((1, 8, 8, 4), None, None, (3, 3, 4, 1), activations=(None,))
