"""What is asked of every network: sizes, work, passes that change nothing, backends that agree."""

from __future__ import annotations

from typing import Any

import numpy as np

import cnnfast as cf
from cnnfast import graph, nn
from cnnfast.graph import Graph
from cnnfast.models.registry import entry
from cnnfast.nn import Module

F64 = np.dtype(np.float64)
WORK = ("conv2d", "depthwise_conv2d", "conv2d_transpose", "linear")


# Dense layers as wide as published would take most of the time and show nothing new.
OPTIONS: dict[str, dict[str, Any]] = {
    name: {"hidden": 24}
    for name in (
        "alexnet", "alexnet_2012",
        "vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn",
    )
}  # fmt: skip
SIZES = (32, 48, 64, 96, 128)


def small(name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    """A network of the registry for ten classes, and the smallest input shape of a list that it takes."""
    model = cf.models.create_model(name, num_classes=10, seed=3, **OPTIONS.get(name, {})).eval()
    usual = entry(name).input_size
    for shape in (*((size, size, usual[2]) for size in SIZES), usual):
        try:
            cf.graph.trace(model, (1, *shape))
        except cf.errors.ShapeError:
            continue
        return model, shape
    raise AssertionError(f"{name} does not take its usual input")


def parameters(module: Module) -> int:
    return sum(p.size for p in module.parameters())


def statistics(module: Module) -> int:
    """Running means and variances."""
    return sum(b.size for b in module.buffers() if b.dtype.kind == "f")


def traced(module: Module, *shape: int) -> Graph:
    return graph.trace(module, shape)


def macs(g: Graph) -> float:
    """Multiply-adds of convolutions and dense layers."""
    return sum(node.op.cost(node.spec).flops for node in g.nodes if node.op.name in WORK) / 2


def maps(g: Graph, scope: str) -> tuple[int, ...]:
    """Shape of what the last node below a path gives."""
    return [n for n in g.nodes if n.scope == scope or n.scope.startswith(f"{scope}.")][-1].output.shape


def randomize(model: nn.Module, rng: np.random.Generator) -> nn.Module:
    """Statistics, factors, shifts and biases as after training: none of them 0 or 1."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            n = module.features
            module.running_mean = rng.uniform(-0.1, 0.1, n).astype(np.float32)
            module.running_var = rng.uniform(0.8, 1.25, n).astype(np.float32)
            module.weight.data = rng.uniform(0.8, 1.2, n).astype(np.float32)
            module.bias.data = rng.uniform(-0.1, 0.1, n).astype(np.float32)
        elif getattr(module, "bias", None) is not None:
            module.bias.data = rng.uniform(-0.1, 0.1, module.bias.shape).astype(np.float32)
    return model


def randomized(module: Module, seed: int = 1) -> Module:
    """Initial values of a seed, then :func:`randomize`, in evaluation mode."""
    return randomize(module.initialize(seed), np.random.default_rng(seed)).eval()


def double(model: nn.Module) -> nn.Module:
    """The same numbers in float64, so that rounding hides nothing."""
    for module in model.modules():
        for parameter in module._parameters.values():
            if parameter.dtype != np.float64:
                data = parameter.data.astype(np.float64)
                parameter.dtype = data.dtype
                parameter.data = data
        for name, buffer in module._buffers.items():
            if buffer.dtype == np.float32:
                module._buffers[name] = buffer.astype(np.float64)
    return model


def flat(result: Any) -> list[np.ndarray]:
    return [result] if isinstance(result, np.ndarray) else [a for r in result for a in flat(r)]


def check_passes(module: Module, shape: tuple[int, ...]) -> Graph:
    """The optimised graph computes the same in float64, and has no normalisation left to fold."""
    g = graph.trace(double(randomized(module)), shape, dtype=F64)
    x = np.random.default_rng(2).uniform(-1, 1, shape)
    better = graph.optimize(g)
    assert len(better.nodes) < len(g.nodes)
    assert not any(n.op.name == "batch_norm" for n in better.nodes)
    for got, want in zip(flat(graph.interpret(better, x)), flat(graph.interpret(g, x)), strict=True):
        assert np.isfinite(want).all()
        assert np.abs(want).max() > 1e-6
        np.testing.assert_allclose(got, want, 0, 1e-9 * np.abs(want).max())
    return better


def check_backend(module: Module, shape: tuple[int, ...], tolerance: float = 2e-5) -> None:
    """float32 on the backend in use is float64 on the references, but for rounding; also when optimised."""
    x = np.random.default_rng(3).uniform(-1, 1, shape).astype(np.float32)
    g = graph.trace(randomized(module), shape)
    want = flat(graph.interpret(g, x.astype(F64)))
    eager = flat(module(x))
    fused = flat(graph.interpret(graph.optimize(g), x, native=True))
    for exact, *results in zip(want, eager, fused, strict=True):
        for got in results:
            assert got.dtype == np.float32
            np.testing.assert_allclose(got, exact, 0, tolerance * np.abs(exact).max())


def to_torch(x: np.ndarray) -> Any:
    """N,H,W,C array as an N,C,H,W torch tensor of float64."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2), F64))


def from_torch(y: Any) -> np.ndarray:
    return y.detach().numpy().transpose(0, 2, 3, 1)


def load_torch(theirs: Any, ours: Module) -> Any:
    """A torch module, in evaluation mode and float64, with our weights under the same names."""
    import torch

    state = {name: torch.from_numpy(np.array(a)) for name, a in ours.state_dict(layout="torch").items()}
    theirs.load_state_dict(state)
    return theirs.double().eval()
