"""Gates of squeeze-and-excitation taken in by the weights of the convolution after them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cnnfast as cf
from cnnfast import graph as G
from cnnfast import nn, ops
from cnnfast.ops.gated_conv2d import infer_gated_conv2d
from networks import double, randomize


def fuse_all(graph: G.Graph) -> G.Graph:
    return G.fuse_gates(graph, lambda spec: True)


class Gated(nn.Module):
    """act(conv(x * gates(x)) + residual)."""

    def __init__(
        self, c_in: int, c_out: int, *, gates_first: bool = False, residual: bool = False, **options: Any
    ) -> None:
        self.conv = nn.Conv2d(c_in, c_out, options.pop("size", 1), **options)
        self.gates_first, self.residual = gates_first, residual

    def forward(self, x: Any) -> Any:
        gates = ops.sigmoid(ops.global_avg_pool2d(x))
        y = self.conv(ops.mul(gates, x) if self.gates_first else ops.mul(x, gates))
        return ops.relu(ops.add(y, x) if self.residual else y)


# Shape of x, arguments; the weights in one panel, in several, with idle lanes, and for dot products.
GATED: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "one panel": ((3, 9, 8, 32), {"c_in": 32, "c_out": 16}),
    "several panels": ((2, 7, 5, 30), {"c_in": 30, "c_out": 30, "residual": True}),
    "many panels": ((2, 11, 9, 20), {"c_in": 20, "c_out": 333, "gates_first": True}),
    "sums in parts": ((2, 9, 9, 700), {"c_in": 700, "c_out": 40, "bias": False}),
    "one output": ((2, 40, 9, 64), {"c_in": 64, "c_out": 1}),
    "one pixel": ((2, 1, 1, 24), {"c_in": 24, "c_out": 24, "residual": True}),
}


@pytest.mark.parametrize("name", GATED)
def test_gated_convolutions(
    name: str, native: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rng: np.random.Generator
) -> None:
    """Near the definition; the same bits for any number of threads, a picture by itself, out of a file."""
    shape, arguments = GATED[name]
    model = randomize(Gated(**arguments).initialize(3), rng).eval()
    x = rng.standard_normal(shape).astype(np.float32)
    monkeypatch.setattr("cnnfast.engine.fuse_gates", fuse_all)
    engine = cf.compile(model, shape)
    assert [s.operator for s in engine.describe(runs=1).steps][-1] == "gated_conv2d"
    y = engine(x)
    exact = G.interpret(G.trace(model, shape), x.astype(np.float64))
    assert np.linalg.norm(y - exact) <= 1e-5 * np.linalg.norm(exact)
    for threads in (1, 2, 3):
        cf.set_num_threads(threads)
        np.testing.assert_array_equal(engine(x), y)
        np.testing.assert_array_equal(engine(x[-1:]), y[-1:])
    engine.save(tmp_path / "gated.cnnfast")
    np.testing.assert_array_equal(cf.load_engine(tmp_path / "gated.cnnfast")(x), y)


@pytest.mark.parametrize("name", GATED)
def test_the_pass_keeps_what_is_computed(name: str, rng: np.random.Generator) -> None:
    shape, arguments = GATED[name]
    before = G.optimize(
        G.trace(double(randomize(Gated(**arguments).initialize(3), rng)), shape, dtype=np.dtype(np.float64))
    )
    after = fuse_all(before)
    apart = G.decompose(after)
    assert [n.op.name for n in after.nodes][-1] == "gated_conv2d"
    assert [n.op.name for n in apart.nodes] == [n.op.name for n in before.nodes]
    x = rng.standard_normal(shape)
    for graph in (after, apart):
        graph.check()
        np.testing.assert_array_equal(G.interpret(graph, x), G.interpret(before, x))


def test_parts_of_pixels(native: None, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    """It reads channels where they lie and writes into its part of a join."""

    class Joined(nn.Module):
        def __init__(self) -> None:
            self.gated = randomize(Gated(16, 20), rng)

        def forward(self, x: Any) -> Any:
            return ops.concat([ops.max_pool2d(x, 1), self.gated(x)])

    model = Joined().eval()
    x = rng.standard_normal((2, 20, 9, 16)).astype(np.float32)
    monkeypatch.setattr("cnnfast.engine.fuse_gates", fuse_all)
    engine = cf.compile(model, x.shape)
    assert "concat" not in [s.operator for s in engine.describe(runs=1).steps]
    want = G.interpret(G.trace(model, x.shape), x)
    np.testing.assert_allclose(engine(x), want, rtol=1e-5, atol=1e-5)


def test_what_stays(rng: np.random.Generator) -> None:
    """Wider windows, strides, groups, products that others need, gates of other shapes."""

    class Wired(nn.Module):
        def __init__(self, wiring: Any) -> None:
            self.wiring = wiring

        def forward(self, x: Any) -> Any:
            return self.wiring(x)

    conv = nn.Conv2d(4, 4, 1)

    def left(module: nn.Module) -> list[str]:
        graph = fuse_all(G.optimize(G.trace(module, (2, 8, 8, 4))))
        return [node.op.name for node in graph.nodes]

    assert "gated_conv2d" in left(Gated(4, 4))
    assert "gated_conv2d" not in left(Gated(4, 4, size=3, padding=1))
    assert "gated_conv2d" not in left(Gated(4, 4, stride=2))
    assert "gated_conv2d" not in left(Gated(4, 4, groups=2))
    assert "gated_conv2d" not in left(Wired(lambda x: conv(ops.mul(x, x))))
    assert "gated_conv2d" not in left(Wired(lambda x: conv(ops.mul(x, ops.sigmoid(x[:1, :1, :1])))))
    mul = Wired(lambda x: (lambda y: conv(y) + y)(ops.mul(x, ops.global_avg_pool2d(x))))
    assert "gated_conv2d" not in left(mul)


def test_where_it_pays() -> None:
    graph = G.optimize(G.trace(cf.models.efficientnet_b0(), (1, 224, 224, 3)))
    fused = [node.output.shape for node in G.fuse_gates(graph).nodes if node.op.name == "gated_conv2d"]
    assert {shape[1] for shape in fused} == {112, 56, 28}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((2, 8, 8, 4), (1, 1, 1, 4), (1, 1, 4, 8)), r"gates of shape \(2,1,1,4\)"),
        (((1, 8, 8, 4), (1, 1, 1, 4), (3, 3, 4, 8)), "1,1,C_in,C_out"),
        (((1, 8, 8, 4), (1, 1, 1, 4), (1, 1, 5, 8)), "5 input channels"),
    ],
)
def test_errors(arguments: Any, message: str) -> None:
    with pytest.raises(cf.errors.ShapeError, match=f"gated_conv2d.*{message}"):
        infer_gated_conv2d(*arguments)
