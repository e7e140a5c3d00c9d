"""Convolutions of few output channels, and maximum pooling of their sums in registers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cnnfast as cf
from cnnfast import config, nn, ops
from cnnfast import graph as G
from cnnfast.ops.conv import infer_conv2d
from cnnfast.ops.pooled_conv2d import infer_pooled_conv2d
from networks import double, randomize

# Shape of x, shape of w, parameters: tails, several tiles of a row, every number of outputs.
CONVS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "LeNet-5": ((2, 32, 32, 1), (5, 5, 1, 6), {"activation": "relu"}),
    "one output": ((1, 17, 70, 3), (3, 3, 3, 1), {"padding": 1}),
    "two outputs of many channels": ((2, 20, 33, 64), (3, 3, 64, 2), {"padding": "same"}),
    "three outputs": ((1, 40, 40, 3), (7, 7, 3, 3), {"padding": 3, "activation": "sigmoid"}),
    "four outputs": ((2, 9, 64, 2), (2, 3, 2, 4), {"padding": ((1, 0), (2, 0)), "activation": "silu"}),
    "five outputs, dilation": ((1, 30, 35, 3), (3, 3, 3, 5), {"padding": 4, "dilation": (3, 2)}),
    "seven outputs": ((1, 12, 48, 4), (5, 5, 4, 7), {"padding": 2, "activation": "relu6"}),
    "eight outputs": ((1, 5, 64, 1), (3, 3, 1, 8), {"padding": 1, "activation": "leaky_relu"}),
    "stride 2": ((2, 29, 130, 2), (7, 7, 2, 2), {"padding": 3, "stride": 2}),
    "stride 3 along rows": ((1, 9, 96, 1), (3, 9, 1, 2), {"stride": (1, 3), "activation": "tanh"}),
    "more padding than picture": ((2, 1, 1, 1), (3, 3, 1, 1), {"padding": 16}),
    "bands of rows": ((1, 300, 128, 2), (3, 3, 2, 3), {"padding": 1}),
}


def across_lanes(x: Any, w: Any, parameters: Any) -> bool:
    s = infer_conv2d(x, w, **parameters)
    kinds = config._cpu.ConvKind
    return bool(config._cpu.choose_conv(s.native, 4).form.kind == kinds.pixels)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("name", CONVS)
def test_convolutions(name: str, residual: bool, native: None, rng: np.random.Generator) -> None:
    """Near float64; the same bits for any number of threads, a picture by itself, packed weights."""
    shape, kernel, parameters = CONVS[name]
    assert across_lanes(shape, kernel, parameters)
    x, w = rng.standard_normal(shape).astype(np.float32), rng.standard_normal(kernel).astype(np.float32)
    b = rng.standard_normal(kernel[3]).astype(np.float32)
    out = infer_conv2d(shape, kernel, **parameters).out
    r = rng.standard_normal(out).astype(np.float32) if residual else None
    y = ops.conv2d(x, w, b, residual=r, **parameters)
    wide = [a if a is None else a.astype(np.float64) for a in (x, w, b, r)]
    exact = ops.conv2d(wide[0], wide[1], wide[2], residual=wide[3], **parameters)
    size = np.abs(wide[0]).max() * np.abs(wide[1]).max() * np.prod(kernel[:3])
    assert np.abs(y - exact).max() <= 8 * 2.0**-24 * size
    for threads in (1, 2, 3):
        cf.set_num_threads(threads)
        last = r if r is None else r[-1:]
        np.testing.assert_array_equal(ops.conv2d(x, w, b, residual=r, **parameters), y)
        np.testing.assert_array_equal(ops.conv2d(x[-1:], w, b, residual=last, **parameters), y[-1:])
        np.testing.assert_array_equal(ops.conv2d(x, ops.pack_conv2d(w), b, residual=r, **parameters), y)


def test_nan_and_infinity(native: None, rng: np.random.Generator) -> None:
    """They reach the windows that hold them and no others, also through pooling."""
    shape, kernel, parameters = CONVS["LeNet-5"]
    x, w = rng.standard_normal(shape).astype(np.float32), rng.standard_normal(kernel).astype(np.float32)
    model = Pooled(1, 6, 5).initialize(1)
    engine = cf.compile(model, shape)
    for value in (np.nan, np.inf):
        x[0, 9, 12] = value
        got = ops.conv2d(x, w, **parameters), engine(x)
        with cf.use_backend("numpy"), np.errstate(invalid="ignore"):
            wanted = ops.conv2d(x, w, **parameters), model(x)
        for y, exact in zip(got, wanted, strict=True):
            np.testing.assert_array_equal(np.isnan(y), np.isnan(exact))


class Pooled(nn.Module):
    """pool(act(conv(x)))."""

    def __init__(
        self, c: int, o: int, kernel: Any, activation: str | None = "relu", pool: Any = None, **options: Any
    ) -> None:
        self.conv = nn.Conv2d(c, o, kernel, **options)
        self.activation, self.pool = activation, {"size": 2, **(pool or {})}

    def forward(self, x: Any) -> Any:
        y = self.conv(x)
        y = y if self.activation is None else getattr(ops, self.activation)(y)
        return ops.max_pool2d(y, **self.pool)


# Shape of x, arguments.
POOLED: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "LeNet-5": ((2, 32, 32, 1), {"c": 1, "o": 6, "kernel": 5}),
    "odd rows and columns": ((2, 19, 39, 3), {"c": 3, "o": 3, "kernel": 3, "activation": None}),
    "one output": ((2, 20, 130, 2), {"c": 2, "o": 1, "kernel": 3, "padding": 1, "activation": "silu"}),
    "several tiles": ((1, 9, 150, 1), {"c": 1, "o": 5, "kernel": 3, "bias": False}),
    "one row of windows": ((2, 6, 64, 1), {"c": 1, "o": 4, "kernel": 5, "activation": "hard_swish"}),
    "stride 2": ((1, 60, 128, 1), {"c": 1, "o": 2, "kernel": 7, "stride": 2, "padding": 3}),
    "bands of rows": ((1, 300, 128, 2), {"c": 2, "o": 3, "kernel": 3, "padding": 1}),
}


@pytest.mark.parametrize("name", POOLED)
def test_pooled(
    name: str, native: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rng: np.random.Generator
) -> None:
    """The bits of the separate steps, for any number of threads, a picture by itself, out of a file."""
    shape, arguments = POOLED[name]
    model = randomize(Pooled(**arguments).initialize(3), rng).eval()
    x = rng.standard_normal(shape).astype(np.float32)
    with monkeypatch.context() as patch:
        patch.setattr("cnnfast.engine.fuse_pooling", lambda graph: graph)
        separate = cf.compile(model, shape)(x)
    engine = cf.compile(model, shape)
    assert [s.operator for s in engine.describe(runs=1).steps] == ["pooled_conv2d"]
    for threads in (1, 2, 3):
        cf.set_num_threads(threads)
        np.testing.assert_array_equal(engine(x), separate)
        np.testing.assert_array_equal(engine(x[-1:]), separate[-1:])
    exact = G.interpret(G.trace(model, shape), x.astype(np.float64))
    assert np.linalg.norm(separate - exact) <= 1e-5 * np.linalg.norm(exact)
    engine.save(tmp_path / "pooled.cnnfast")
    np.testing.assert_array_equal(cf.load_engine(tmp_path / "pooled.cnnfast")(x), separate)


def fuse_all(graph: G.Graph) -> G.Graph:
    return G.fuse_pooling(graph, lambda spec: True)


@pytest.mark.parametrize(
    "pool", [{}, {"size": 3, "stride": 2, "padding": 1}, {"size": (2, 3), "dilation": 2, "ceil_mode": True}]
)
@pytest.mark.parametrize("name", POOLED)
def test_the_pass_keeps_what_is_computed(name: str, pool: Any, rng: np.random.Generator) -> None:
    shape, arguments = POOLED[name]
    model = double(randomize(Pooled(**arguments, pool=pool).initialize(3), rng))
    before = G.optimize(G.trace(model, shape, dtype=np.dtype(np.float64)))
    after = fuse_all(before)
    apart = G.decompose(after)
    assert [n.op.name for n in after.nodes] == ["pooled_conv2d"]
    assert [n.op.name for n in apart.nodes] == ["conv2d", "max_pool2d"]
    x = rng.standard_normal(shape)
    for graph in (after, apart):
        graph.check()
        np.testing.assert_array_equal(G.interpret(graph, x), G.interpret(before, x))
    spec = after.nodes[0].spec
    op = after.nodes[0].op
    assert op.infer(*[v and v.shape for v in after.nodes[0].inputs], **op.settings(spec)) == spec


def test_parts_of_pixels(native: None, rng: np.random.Generator) -> None:
    """It reads channels where they lie and writes into its part of a join."""

    class Joined(nn.Module):
        def __init__(self) -> None:
            self.first = randomize(Pooled(2, 3, 3, padding=1), rng)
            self.second = randomize(Pooled(2, 4, 3, padding=1), rng)

        def forward(self, x: Any) -> Any:
            return ops.concat([self.first(x[:, :, :, 1:3]), self.second(x[:, :, :, :2])])

    model = Joined().eval()
    x = rng.standard_normal((2, 20, 64, 5)).astype(np.float32)
    engine = cf.compile(model, x.shape)
    steps = [s.operator for s in engine.describe(runs=1).steps]
    assert steps.count("pooled_conv2d") == 2
    assert "concat" not in steps
    want = G.interpret(G.trace(model, x.shape), x)
    np.testing.assert_allclose(engine(x), want, rtol=1e-5, atol=1e-5)


def test_what_stays(native: None) -> None:
    """Windows without a kernel, sums that others read, groups and residuals."""

    class Wired(nn.Module):
        def __init__(self, wiring: Any) -> None:
            self.wiring = wiring

        def forward(self, x: Any) -> Any:
            return self.wiring(x)

    def left(module: nn.Module, shape: Any = (1, 32, 64, 2), fuse: Any = G.fuse_pooling) -> bool:
        graph = fuse(G.optimize(G.trace(module, shape)))
        return "pooled_conv2d" in [node.op.name for node in graph.nodes]

    assert left(Pooled(2, 3, 3))
    assert not left(Pooled(2, 3, 3, pool={"size": 3}))
    assert not left(Pooled(2, 3, 3, pool={"stride": 1}))
    assert not left(Pooled(2, 3, 3, pool={"padding": 1}))
    assert not left(Pooled(2, 3, 2, pool={"ceil_mode": True}))
    assert not left(Pooled(2, 64, 3))
    conv, same = nn.Conv2d(2, 3, 3), nn.Conv2d(2, 2, 3, padding=1)
    shared = Wired(lambda x: (lambda y: ops.concat([ops.max_pool2d(y, 1), ops.max_pool2d(y, 1)]))(conv(x)))
    assert not left(shared, fuse=fuse_all)
    assert not left(Wired(lambda x: ops.max_pool2d(same(x) + x, 2)), fuse=fuse_all)
    assert not left(Pooled(2, 4, 3, groups=2), fuse=fuse_all)


def test_errors() -> None:
    with pytest.raises(cf.errors.ShapeError, match=r"pooled_conv2d.*5 input channels"):
        infer_pooled_conv2d((1, 8, 8, 4), (3, 3, 5, 2))
