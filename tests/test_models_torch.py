"""Blocks and networks against the same ones built from torch's layers, with equal random weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cnnfast as cf
from cnnfast import nn
from cnnfast.models.alexnet import AlexNetOriginal
from cnnfast.models.mobilenet import DepthwiseSeparable, InvertedResidual
from cnnfast.models.resnet import BasicBlock, Bottleneck
from cnnfast.models.squeezenet import Fire
from cnnfast.models.vgg import VGG
from networks import double

torch = pytest.importorskip("torch")
T = torch.nn
F = torch.nn.functional


class Wired(T.Module):  # type: ignore[name-defined,misc]
    """Layers by name and a function that runs them."""

    def __init__(self, forward: Any, **layers: Any) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.wiring = forward

    def forward(self, x: Any) -> Any:
        return self.wiring(self, x)


def conv(channels: int, filters: int, kernel: int, stride: int = 1, groups: int = 1) -> Any:
    return T.Conv2d(channels, filters, kernel, stride, kernel // 2, groups=groups, bias=False)


def conv_norm(channels: int, filters: int, kernel: int, act: Any, stride: int = 1, groups: int = 1) -> Any:
    return T.Sequential(conv(channels, filters, kernel, stride, groups), T.BatchNorm2d(filters), act())


def compare(ours: nn.Module, theirs: Any, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    """Equal results in float64 for weights and statistics that torch holds."""
    torch.manual_seed(0)
    with torch.no_grad():
        for module in theirs.modules():
            if isinstance(module, T.BatchNorm2d):
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.3)
    theirs = theirs.double().eval()
    state = {name: value.numpy() for name, value in theirs.state_dict().items()}
    ours.eval().load_state_dict(state, layout="torch")
    # Back again: the layouts are inverse to each other.
    again = ours.state_dict(layout="torch")
    assert list(again) == list(state)
    for name, value in state.items():
        np.testing.assert_allclose(again[name], value, rtol=1e-6, atol=1e-12)
    double(ours)
    x = rng.standard_normal(shape)
    rounded = {n: torch.from_numpy(v.astype(np.float32)) for n, v in state.items() if v.dtype == np.float64}
    theirs.load_state_dict(rounded, strict=False)  # ours came through float32
    with torch.no_grad():
        exact = theirs(torch.from_numpy(x).permute(0, 3, 1, 2)).numpy()
    got = ours(x)
    exact = exact.transpose(0, 2, 3, 1) if exact.ndim == 4 else exact
    assert got.shape == exact.shape
    assert np.abs(got - exact).max() <= 1e-10 * np.abs(exact).max()


@pytest.mark.parametrize(("channels", "stride"), [(16, 1), (8, 1), (16, 2)])
def test_basic_block(channels: int, stride: int, rng: np.random.Generator) -> None:
    def forward(m: Any, x: Any) -> Any:
        y = m.bn2(m.conv2(F.relu(m.bn1(m.conv1(x)))))
        return F.relu(y + (m.downsample(x) if hasattr(m, "downsample") else x))

    layers = {"conv1": conv(channels, 16, 3, stride), "bn1": T.BatchNorm2d(16), "conv2": conv(16, 16, 3),
              "bn2": T.BatchNorm2d(16)}  # fmt: skip
    if stride > 1 or channels != 16:
        layers["downsample"] = T.Sequential(conv(channels, 16, 1, stride), T.BatchNorm2d(16))
    compare(BasicBlock(channels, 16, stride), Wired(forward, **layers), (2, 9, 7, channels), rng)


@pytest.mark.parametrize(("channels", "stride"), [(32, 1), (32, 2), (12, 1)])
def test_bottleneck(channels: int, stride: int, rng: np.random.Generator) -> None:
    def forward(m: Any, x: Any) -> Any:
        y = F.relu(m.bn2(m.conv2(F.relu(m.bn1(m.conv1(x))))))
        return F.relu(m.bn3(m.conv3(y)) + (m.downsample(x) if hasattr(m, "downsample") else x))

    layers = {"conv1": conv(channels, 8, 1), "bn1": T.BatchNorm2d(8), "conv2": conv(8, 8, 3, stride),
              "bn2": T.BatchNorm2d(8), "conv3": conv(8, 32, 1), "bn3": T.BatchNorm2d(32)}  # fmt: skip
    if stride > 1 or channels != 32:
        layers["downsample"] = T.Sequential(conv(channels, 32, 1, stride), T.BatchNorm2d(32))
    compare(Bottleneck(channels, 8, stride), Wired(forward, **layers), (2, 8, 9, channels), rng)


def test_resnet18(rng: np.random.Generator) -> None:
    def block(channels: int, filters: int, stride: int) -> Any:
        def forward(m: Any, x: Any) -> Any:
            y = m.bn2(m.conv2(F.relu(m.bn1(m.conv1(x)))))
            return F.relu(y + (m.downsample(x) if hasattr(m, "downsample") else x))

        extra = {}
        if stride > 1:
            extra["downsample"] = T.Sequential(conv(channels, filters, 1, stride), T.BatchNorm2d(filters))
        return Wired(
            forward,
            conv1=conv(channels, filters, 3, stride), bn1=T.BatchNorm2d(filters),
            conv2=conv(filters, filters, 3), bn2=T.BatchNorm2d(filters), **extra,
        )  # fmt: skip

    def forward(m: Any, x: Any) -> Any:
        x = F.max_pool2d(F.relu(m.bn1(m.conv1(x))), 3, 2, 1)
        x = m.layer4(m.layer3(m.layer2(m.layer1(x))))
        return m.fc(x.mean((2, 3)))

    layers = {"conv1": conv(3, 64, 7, 2), "bn1": T.BatchNorm2d(64)}
    channels = 64
    for i in range(4):
        filters = 64 << i
        layers[f"layer{i + 1}"] = T.Sequential(
            block(channels, filters, 2 if i else 1), block(filters, filters, 1)
        )
        channels = filters
    layers["fc"] = T.Linear(512, 10)
    compare(cf.models.resnet18(10), Wired(forward, **layers), (1, 40, 56, 3), rng)


@pytest.mark.parametrize("size", [224 // 7, 32 * 7])
def test_vgg11(size: int, rng: np.random.Generator) -> None:
    """The dense layer after the flattening takes its inputs in another order than torch."""
    layers: list[Any] = []
    channels = 3
    for filters, last in ((64, 1), (128, 1), (256, 0), (256, 1), (512, 0), (512, 1), (512, 0), (512, 1)):
        layers += [T.Conv2d(channels, filters, 3, padding=1), T.ReLU()]
        layers += [T.MaxPool2d(2)] if last else []
        channels = filters
    classifier = [T.Linear(25_088, 16), T.ReLU(), T.Dropout(), T.Linear(16, 16), T.ReLU(), T.Dropout(),
                  T.Linear(16, 10)]  # fmt: skip

    def forward(m: Any, x: Any) -> Any:
        return m.classifier(F.adaptive_avg_pool2d(m.features(x), 7).flatten(1))

    theirs = Wired(forward, features=T.Sequential(*layers), classifier=T.Sequential(*classifier))
    compare(VGG(11, 10, hidden=16), theirs, (1, size, size, 3), rng)


def test_alexnet_with_groups(rng: np.random.Generator) -> None:
    def norm() -> Any:
        return T.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)  # torch divides alpha by the size

    features = [T.Conv2d(3, 96, 11, 4), T.ReLU(), norm(), T.MaxPool2d(3, 2),
                T.Conv2d(96, 256, 5, padding=2, groups=2), T.ReLU(), norm(), T.MaxPool2d(3, 2),
                T.Conv2d(256, 384, 3, padding=1), T.ReLU(),
                T.Conv2d(384, 384, 3, padding=1, groups=2), T.ReLU(),
                T.Conv2d(384, 256, 3, padding=1, groups=2), T.ReLU(), T.MaxPool2d(3, 2)]  # fmt: skip
    classifier = [T.Dropout(), T.Linear(9216, 16), T.ReLU(), T.Dropout(), T.Linear(16, 16), T.ReLU(),
                  T.Linear(16, 10)]  # fmt: skip

    def forward(m: Any, x: Any) -> Any:
        return m.classifier(m.features(x).flatten(1))

    theirs = Wired(forward, features=T.Sequential(*features), classifier=T.Sequential(*classifier))
    compare(AlexNetOriginal(10, hidden=16), theirs, (1, 227, 227, 3), rng)


@pytest.mark.parametrize(("channels", "filters", "stride", "expansion"),
                         [(8, 8, 1, 6), (8, 12, 1, 6), (8, 8, 2, 6), (8, 16, 1, 1)])  # fmt: skip
def test_inverted_residual(
    channels: int, filters: int, stride: int, expansion: int, rng: np.random.Generator
) -> None:
    hidden = channels * expansion
    layers = [conv_norm(channels, hidden, 1, T.ReLU6)] if expansion > 1 else []
    layers += [conv_norm(hidden, hidden, 3, T.ReLU6, stride, hidden), conv(hidden, filters, 1),
               T.BatchNorm2d(filters)]  # fmt: skip

    def forward(m: Any, x: Any) -> Any:
        return m.conv(x) + (x if stride == 1 and channels == filters else 0)

    ours = InvertedResidual(channels, filters, stride, expansion)
    compare(ours, Wired(forward, conv=T.Sequential(*layers)), (2, 9, 8, channels), rng)


def test_depthwise_separable(rng: np.random.Generator) -> None:
    theirs = T.Sequential()
    theirs.add_module("depthwise", conv_norm(8, 8, 3, T.ReLU, 2, 8))
    theirs.add_module("pointwise", conv_norm(8, 20, 1, T.ReLU))
    compare(DepthwiseSeparable(8, 20, 2), theirs, (2, 9, 8, 8), rng)


def test_fire(rng: np.random.Generator) -> None:
    def forward(m: Any, x: Any) -> Any:
        x = F.relu(m.squeeze(x))
        return F.relu(torch.cat([m.expand1x1(x), m.expand3x3(x)], 1))

    theirs = Wired(forward, squeeze=T.Conv2d(8, 4, 1), expand1x1=T.Conv2d(4, 6, 1),
                   expand3x3=T.Conv2d(4, 6, 3, padding=1))  # fmt: skip
    compare(Fire(8, 4, 6), theirs, (2, 5, 6, 8), rng)


def test_option_a_shortcut(rng: np.random.Generator) -> None:
    from cnnfast.models.resnet import CifarBlock

    def forward(m: Any, x: Any) -> Any:
        y = m.bn2(m.conv2(F.relu(m.bn1(m.conv1(x)))))
        return F.relu(y + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4)))

    theirs = Wired(forward, conv1=conv(8, 16, 3, 2), bn1=T.BatchNorm2d(16), conv2=conv(16, 16, 3),
                   bn2=T.BatchNorm2d(16))  # fmt: skip
    compare(CifarBlock(8, 16, 2), theirs, (2, 8, 8, 8), rng)
