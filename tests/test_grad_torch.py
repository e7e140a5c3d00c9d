"""Gradients of operators and networks against torch's on the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cnnfast as cf
from cnnfast import nn, ops

torch = pytest.importorskip("torch")
F = torch.nn.functional
T = torch.nn

TOLERANCE = 1e-4


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def nchw(x: Any) -> Any:
    """N,H,W,C as torch's N,C,H,W; other shapes as they are."""
    return x.permute(0, 3, 1, 2) if x.ndim == 4 else x


def nhwc(x: Any) -> Any:
    return x.permute(0, 2, 3, 1) if x.ndim == 4 else x


def same(
    ours: Callable[..., Any], theirs: Callable[..., Any], *inputs: np.ndarray, turned: bool = True
) -> None:
    """Results and gradients of both are equal; pictures are turned for torch and back."""
    mine = [cf.Tensor(x, requires_grad=True) for x in inputs]
    other = [torch.tensor(x, requires_grad=True) for x in inputs]
    y = ours(*mine)
    z = theirs(*(map(nchw, other) if turned else other))
    z = nhwc(z) if turned else z
    np.testing.assert_allclose(y.data, z.detach().numpy(), rtol=TOLERANCE, atol=TOLERANCE)
    g = draw(*y.shape, seed=9)
    y.backward(g)
    z.backward(torch.tensor(g))
    for a, b in zip(mine, other, strict=True):
        np.testing.assert_allclose(a.grad, b.grad.numpy(), rtol=TOLERANCE, atol=TOLERANCE)


ELEMENTWISE: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "relu": (ops.relu, F.relu),
    "relu6": (lambda x: ops.relu6(x * 4.0), lambda x: F.relu6(x * 4)),
    "leaky_relu": (lambda x: ops.leaky_relu(x, slope=0.1), lambda x: F.leaky_relu(x, 0.1)),
    "sigmoid": (ops.sigmoid, torch.sigmoid),
    "tanh": (ops.tanh, torch.tanh),
    "silu": (ops.silu, F.silu),
    "hard_swish": (lambda x: ops.hard_swish(x * 3.0), lambda x: F.hardswish(x * 3)),
    "hard_sigmoid": (lambda x: ops.hard_sigmoid(x * 3.0), lambda x: F.hardsigmoid(x * 3)),
    "elu": (ops.elu, F.elu),
    "abs": (ops.abs, torch.abs),
    "exp": (ops.exp, torch.exp),
    "erf": (ops.erf, torch.erf),
    "clip": (lambda x: ops.clip(x, -0.5, 0.7), lambda x: torch.clamp(x, -0.5, 0.7)),
    "softmax": (ops.softmax, lambda x: F.softmax(x, -1)),
    "log_softmax": (ops.log_softmax, lambda x: F.log_softmax(x, -1)),
    "l2_normalize": (ops.l2_normalize, lambda x: F.normalize(x, dim=-1)),
    "reduce_max": (lambda x: ops.reduce_max(x, 1), lambda x: x.amax(1)),
    "reduce_mean": (lambda x: ops.reduce_mean(x, (0, 2)), lambda x: x.mean((0, 2))),
    "reduce_l2": (lambda x: ops.reduce_l2(x, 1), lambda x: x.norm(dim=1)),
    "flip and step": (lambda x: ops.take(x, (..., slice(None, None, -2))), lambda x: x.flip(2)[..., ::2]),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_functions(backend: str, name: str) -> None:
    same(*ELEMENTWISE[name], draw(3, 4, 7), turned=False)


@pytest.mark.parametrize("name", ["add", "sub", "mul", "div", "maximum", "minimum", "pow"])
def test_broadcasting(backend: str, name: str) -> None:
    a, b = draw(2, 3, 5), draw(3, 1, seed=1)
    if name in ("div", "pow"):
        a, b = np.abs(a) + 0.5, np.abs(b) + 0.5
    same(getattr(ops, name), getattr(torch, name), a, b, turned=False)


def test_ties_as_torch_has_them(backend: str) -> None:
    a = np.array([[1.0, 2.0, 2.0], [0.0, 0.0, 0.0]], np.float32)
    b = np.array([1.0, 2.0, 3.0], np.float32)
    same(ops.maximum, torch.maximum, a, b, turned=False)
    same(ops.minimum, torch.minimum, a, b, turned=False)
    same(lambda x: ops.reduce_max(x, 1), lambda x: x.amax(1), a, turned=False)
    same(ops.relu, F.relu, a, turned=False)
    same(lambda x: ops.relu6(x * 3.0), lambda x: F.relu6(x * 3), a, turned=False)
    same(lambda x: ops.clip(x, 0.0, 2.0), lambda x: torch.clamp(x, 0, 2), a, turned=False)
    same(ops.abs, torch.abs, a, turned=False)
    picture = np.zeros((1, 4, 4, 2), np.float32)
    same(lambda x: ops.max_pool2d(x, 2), lambda x: F.max_pool2d(x, 2), picture)
    same(lambda x: ops.max_pool2d(x, 3, stride=1, padding=1), lambda x: F.max_pool2d(x, 3, 1, 1), picture)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_padding(backend: str, mode: str) -> None:
    theirs = "constant" if mode == "zeros" else mode
    same(
        lambda x: ops.pad2d(x, ((2, 1), (1, 3)), mode=mode),
        lambda x: F.pad(x, (1, 3, 2, 1), mode=theirs),
        draw(2, 5, 7, 3),
    )


@pytest.mark.parametrize("size", [(10, 14), (3, 4), (7, 1), (2, 13)])
@pytest.mark.parametrize("kind", ["nearest", "bilinear", "corners", "antialias"])
def test_resizing(backend: str, size: tuple[int, int], kind: str) -> None:
    options: dict[str, Any] = {"align_corners": kind == "corners", "antialias": kind == "antialias"}
    if kind == "nearest":
        same(
            lambda x: ops.resize(x, size, mode="nearest"),
            lambda x: F.interpolate(x, size, mode="nearest"),
            draw(2, 5, 7, 3),
        )
        return
    same(
        lambda x: ops.resize(x, size, **options),
        lambda x: F.interpolate(x, size, mode="bilinear", **options),
        draw(2, 5, 7, 3),
    )


def test_pooling_over_pictures(backend: str) -> None:
    same(ops.global_avg_pool2d, lambda x: F.adaptive_avg_pool2d(x, 1), draw(2, 5, 7, 3))
    same(ops.global_max_pool2d, lambda x: F.adaptive_max_pool2d(x, 1), draw(2, 5, 7, 3))
    same(lambda x: ops.l2_pool2d(x, 2), lambda x: F.lp_pool2d(x, 2, 2), draw(2, 4, 6, 3))


def test_normalisations(backend: str) -> None:
    x, scale, shift = draw(2, 5, 7, 6), draw(6, seed=1), draw(6, seed=2)
    mean, var = draw(6, seed=3), np.abs(draw(6, seed=4)) + 0.5
    same(
        lambda x, a, b: ops.batch_norm(x, mean, var, a, b),
        lambda x, a, b: F.batch_norm(x, torch.tensor(mean), torch.tensor(var), a, b),
        x, scale, shift,
    )  # fmt: skip
    same(ops.instance_norm, lambda x, a, b: F.instance_norm(x, weight=a, bias=b), x, scale, shift)
    for size in (1, 3, 4, 5):
        same(
            lambda x, n=size: ops.local_response_norm(x, size=n, alpha=0.3, k=1.0, alpha_mode="mean"),
            lambda x, n=size: F.local_response_norm(x, n, alpha=0.3, k=1.0),
            x,
        )


# --- networks --------------------------------------------------------------------------------------


class Small(nn.Module):
    """Every kind of layer that is trained: all convolutions, normalisation, pooling, a residual, dense."""

    def __init__(self) -> None:
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2, padding_mode="reflect")
        self.depthwise = nn.DepthwiseConv2d(8, 3, padding=1, bias=False)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Any) -> Any:
        x = self.pool(ops.relu(self.bn(self.conv(x))))
        x = ops.relu6(ops.add(x, self.depthwise(ops.silu(self.grouped(x)))))
        return self.fc(ops.flatten(ops.global_avg_pool2d(ops.leaky_relu(self.up(x)))))


class Theirs(T.Module):  # type: ignore[name-defined,misc]
    def __init__(self) -> None:
        super().__init__()
        self.conv = T.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.bn = T.BatchNorm2d(8)
        self.pool = T.MaxPool2d(3, 2, 1)
        self.grouped = T.Conv2d(8, 8, 3, 1, 1, groups=2, padding_mode="reflect")
        self.depthwise = T.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False)
        self.up = T.ConvTranspose2d(8, 6, 2, 2)
        self.fc = T.Linear(6, 5)

    def forward(self, x: Any) -> Any:
        x = self.pool(F.relu(self.bn(self.conv(x))))
        x = F.relu6(x + self.depthwise(F.silu(self.grouped(x))))
        return self.fc(F.leaky_relu(self.up(x)).mean((2, 3)))


def pair(seed: int = 3) -> tuple[Small, Theirs]:
    """Both with the same numbers, in training."""
    ours, theirs = Small().initialize(seed), Theirs()
    ours.bn.weight.data = np.linspace(0.5, 1.5, 8, dtype=np.float32)
    state = {k: torch.tensor(v) for k, v in ours.state_dict(layout="torch").items()}
    theirs.load_state_dict(state)
    return ours.train(), theirs.train()


def layouts_of(model: nn.Module) -> dict[str, np.ndarray]:
    """Gradients as torch stores them."""
    like = type(model)()
    for (name, p), (_, held) in zip(model.named_parameters(), like.named_parameters(), strict=True):
        assert p.grad is not None, name
        held.data = p.grad
    return like.state_dict(layout="torch")


def test_a_training_step(backend: str) -> None:
    ours, theirs = pair()
    x, labels = draw(4, 13, 16, 3), np.array([0, 4, 2, 2])
    for _ in range(2):  # gradients add up, statistics move on
        loss = ops.reduce_mean(ops.softmax_cross_entropy(ours(cf.Tensor(x)), labels)[0])
        loss.backward()
        expected = F.cross_entropy(theirs(torch.tensor(x).permute(0, 3, 1, 2)), torch.tensor(labels))
        expected.backward()
        assert float(loss.data) == pytest.approx(expected.item(), rel=TOLERANCE)
    found = layouts_of(ours)
    for name, p in theirs.named_parameters():
        np.testing.assert_allclose(found[name], p.grad.numpy(), rtol=TOLERANCE, atol=1e-5, err_msg=name)
    for name, buffer in theirs.named_buffers():
        np.testing.assert_allclose(
            dict(ours.named_buffers())[name], buffer.numpy(), rtol=TOLERANCE, atol=1e-6, err_msg=name
        )
