"""ResNet for ImageNet and for CIFAR, and plain twins without shortcuts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from .. import nn, ops
from .registry import Pretrained, register_model

__all__ = [
    "BasicBlock",
    "Bottleneck",
    "CifarResNet",
    "ResNet",
    "ResNetTrunk",
    "cifar_resnet20",
    "cifar_resnet32",
    "cifar_resnet44",
    "cifar_resnet56",
    "plain18",
    "plain34",
    "resnet14_grey",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
]

_PAPER = "He et al., Deep residual learning for image recognition, 2016"

Norm = Callable[[int], nn.Module]


def _conv(channels: int, filters: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(
        channels, filters, kernel, stride=stride, padding=kernel // 2, bias=False, init="fan_out_normal"
    )


def _projection(channels: int, filters: int, stride: int, norm: Norm) -> nn.Sequential | None:
    """The shortcut of a block that changes the shape, as a 1x1 convolution."""
    if stride == 1 and channels == filters:
        return None
    return nn.Sequential(_conv(channels, filters, 1, stride), norm(filters))


def _add_stages(
    network: nn.Module,
    block: Callable[..., nn.Module],
    filters: int,
    counts: Sequence[int],
    expansion: int = 1,
) -> tuple[int, ...]:
    """Add ``layer1``, ``layer2``, ..., each with twice the filters at half the size; gives their channels."""
    channels, results = filters, []
    for stage, count in enumerate(counts):
        blocks = nn.Sequential()
        for i in range(count):
            blocks.append(block(channels, filters << stage, 2 if stage and i == 0 else 1))
            channels = (filters << stage) * expansion
        network.add_module(f"layer{stage + 1}", blocks)
        results.append(channels)
    return tuple(results)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; the input is added before the last rectification.

    Parameters
    ----------
    channels, filters, stride : int
    shortcut : bool
        False gives the plain twin, which adds nothing.
    norm : callable
        (filters) -> Module, the normalisation after each convolution.
    """

    expansion = 1

    def __init__(
        self,
        channels: int,
        filters: int,
        stride: int = 1,
        *,
        shortcut: bool = True,
        norm: Norm = nn.BatchNorm2d,
    ) -> None:
        self.conv1 = _conv(channels, filters, 3, stride)
        self.bn1 = norm(filters)
        self.conv2 = _conv(filters, filters, 3)
        self.bn2 = norm(filters)
        self.shortcut = shortcut
        self.downsample = _projection(channels, filters, stride, norm) if shortcut else None

    def forward(self, x: Any) -> Any:
        y = nn.activated(self.bn1, "relu", self.conv1(x))
        y = self.bn2(self.conv2(y))
        if self.shortcut:
            y = ops.add(y, x if self.downsample is None else self.downsample(x))
        return ops.relu(y)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions; the stride is on the 3x3 one, as in torchvision and later papers."""

    expansion = 4

    def __init__(self, channels: int, filters: int, stride: int = 1, *, norm: Norm = nn.BatchNorm2d) -> None:
        self.conv1 = _conv(channels, filters, 1)
        self.bn1 = norm(filters)
        self.conv2 = _conv(filters, filters, 3, stride)
        self.bn2 = norm(filters)
        self.conv3 = _conv(filters, filters * 4, 1)
        self.bn3 = norm(filters * 4)
        self.downsample = _projection(channels, filters * 4, stride, norm)

    def forward(self, x: Any) -> Any:
        y = nn.activated(self.bn1, "relu", self.conv1(x))
        y = nn.activated(self.bn2, "relu", self.conv2(y))
        y = self.bn3(self.conv3(y))
        return ops.relu(ops.add(y, x if self.downsample is None else self.downsample(x)))


class ResNetTrunk(nn.Module):
    """The four stages of a residual network: maps at 1/4, 1/8, 1/16 and 1/32 of the picture.

    Parameters
    ----------
    block : callable
        (channels, filters, stride, norm=) -> Module.
    counts : (int, int, int, int)
        Blocks in each stage.
    expansion : int
        Channels that a block gives per filter.
    norm : callable
        (filters) -> Module, the normalisation after each convolution.

    Attributes
    ----------
    channels : tuple of int
        Of the four maps.
    """

    def __init__(
        self,
        block: Callable[..., nn.Module],
        counts: tuple[int, int, int, int],
        expansion: int = 1,
        norm: Norm = nn.BatchNorm2d,
    ) -> None:
        self.conv1 = _conv(3, 64, 7, 2)
        self.bn1 = norm(64)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.channels = _add_stages(self, partial(block, norm=norm), 64, counts, expansion)

    def forward(self, x: Any) -> Any:
        x = self.maxpool(nn.activated(self.bn1, "relu", self.conv1(x)))
        maps = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            maps.append(x)
        return tuple(maps)


class ResNet(ResNetTrunk):
    """Residual network for 224x224 pictures.

    Parameters
    ----------
    block, counts, expansion
        As for :class:`ResNetTrunk`.
    num_classes : int
    """

    def __init__(
        self,
        block: Callable[..., nn.Module],
        counts: tuple[int, int, int, int],
        num_classes: int = 1000,
        expansion: int = 1,
    ) -> None:
        super().__init__(block, counts, expansion)
        self.avgpool = nn.GlobalAvgPool2d()
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(self.channels[-1], num_classes, init="torch_uniform")

    def forward(self, x: Any) -> Any:
        return self.fc(self.flatten(self.avgpool(super().forward(x)[-1])))


# --- CIFAR -----------------------------------------------------------------------------------------


class CifarBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut that has no parameters (option A of the paper).

    Where the shape changes, the shortcut takes every second row and column, and puts zeros around
    the channels.
    """

    def __init__(self, channels: int, filters: int, stride: int = 1) -> None:
        self.conv1 = _conv(channels, filters, 3, stride)
        self.bn1 = nn.BatchNorm2d(filters)
        self.conv2 = _conv(filters, filters, 3)
        self.bn2 = nn.BatchNorm2d(filters)
        self.stride, self.extra = stride, filters - channels

    def forward(self, x: Any) -> Any:
        y = nn.activated(self.bn1, "relu", self.conv1(x))
        y = self.bn2(self.conv2(y))
        if self.stride > 1:
            x = x[:, :: self.stride, :: self.stride]
        if self.extra:
            before = self.extra // 2
            zeros = np.zeros((*x.shape[:3], self.extra), x.dtype)
            x = ops.concat([zeros[..., :before], x, zeros[..., before:]])
        return ops.relu(ops.add(y, x))


class CifarResNet(nn.Module):
    """Residual network for pictures of about 32x32 pixels: three stages of 16, 32 and 64 filters.

    Parameters
    ----------
    depth : int or (int, int, int)
        20, 32, 44, 56, ...: 6 n + 2 layers, n blocks in each stage. Or the blocks of each stage.
    num_classes : int
    channels : int
        Of the pictures.
    """

    def __init__(
        self, depth: int | tuple[int, int, int] = 20, num_classes: int = 10, channels: int = 3
    ) -> None:
        if isinstance(depth, int) and (depth < 8 or depth % 6 != 2):
            raise ValueError(f"CifarResNet: depth must be 6 n + 2, got {depth}")
        self.conv1 = _conv(channels, 16, 3)
        self.bn1 = nn.BatchNorm2d(16)
        _add_stages(self, CifarBlock, 16, [depth // 6] * 3 if isinstance(depth, int) else depth)
        self.avgpool = nn.GlobalAvgPool2d()
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(64, num_classes, init="he_normal")

    def forward(self, x: Any) -> Any:
        x = nn.activated(self.bn1, "relu", self.conv1(x))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(self.flatten(self.avgpool(x)))


# --- registry --------------------------------------------------------------------------------------


def _torchvision(name: str, **versions: tuple[str, float, float]) -> dict[str, Pretrained]:
    """Entries ``torchvision`` and ``torchvision_v2``, whose pictures are a little larger before the crop."""
    return {
        "torchvision" if version == "v1" else "torchvision_v2": Pretrained(
            url=f"https://download.pytorch.org/models/{name}-{digest}.pth",
            sha256=digest,
            resize=256 if version == "v1" else 232,
            accuracy={"top1": top1, "top5": top5},
        )
        for version, (digest, top1, top5) in versions.items()
    }


def _cifar(file: str, digest: str, top1: float) -> dict[str, Pretrained]:
    return {
        "akamaster/pytorch_resnet_cifar10": Pretrained(
            url=f"https://github.com/akamaster/pytorch_resnet_cifar10/raw/master/pretrained_models/{file}.th",
            sha256=digest,
            input_size=(32, 32),
            resize=32,
            classes="cifar10",
            licence="BSD-2-Clause",
            accuracy={"top1": top1},
            rename=lambda name: name.removeprefix("module."),
        )
    }


@register_model(reference=_PAPER, weights=_torchvision("resnet18", v1=("f37072fd", 69.758, 89.078)))
def resnet18(num_classes: int = 1000) -> nn.Module:
    """ResNet-18, 11,689,512 parameters."""
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes)


@register_model(reference=_PAPER, weights=_torchvision("resnet34", v1=("b627a593", 73.314, 91.42)))
def resnet34(num_classes: int = 1000) -> nn.Module:
    """ResNet-34, 21,797,672 parameters."""
    return ResNet(BasicBlock, (3, 4, 6, 3), num_classes)


@register_model(
    reference=_PAPER,
    weights=_torchvision("resnet50", v1=("0676ba61", 76.13, 92.862), v2=("11ad3fa6", 80.858, 95.434)),
)
def resnet50(num_classes: int = 1000) -> nn.Module:
    """ResNet-50, 25,557,032 parameters."""
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes, 4)


@register_model(
    reference=_PAPER,
    weights=_torchvision("resnet101", v1=("63fe2227", 77.374, 93.546), v2=("cd907fc2", 81.886, 95.78)),
)
def resnet101(num_classes: int = 1000) -> nn.Module:
    """ResNet-101, 44,549,160 parameters."""
    return ResNet(Bottleneck, (3, 4, 23, 3), num_classes, 4)


@register_model(
    reference=_PAPER,
    weights=_torchvision("resnet152", v1=("394f9c45", 78.312, 94.046), v2=("f82ba261", 82.284, 96.002)),
)
def resnet152(num_classes: int = 1000) -> nn.Module:
    """ResNet-152, 60,192,808 parameters."""
    return ResNet(Bottleneck, (3, 8, 36, 3), num_classes, 4)


_plain = partial(BasicBlock, shortcut=False)


@register_model(reference=_PAPER)
def plain18(num_classes: int = 1000) -> nn.Module:
    """ResNet-18 without shortcuts, 11,515,688 parameters."""
    return ResNet(_plain, (2, 2, 2, 2), num_classes)


@register_model(reference=_PAPER)
def plain34(num_classes: int = 1000) -> nn.Module:
    """ResNet-34 without shortcuts, 21,623,848 parameters."""
    return ResNet(_plain, (3, 4, 6, 3), num_classes)


@register_model(input_size=32, reference=_PAPER, weights=_cifar("resnet20-12fca82f", "12fca82f", 91.73))
def cifar_resnet20(num_classes: int = 10) -> nn.Module:
    """ResNet-20 for 32x32 pictures, 269,722 parameters."""
    return CifarResNet(20, num_classes)


@register_model(input_size=32, reference=_PAPER)
def cifar_resnet32(num_classes: int = 10) -> nn.Module:
    """ResNet-32 for 32x32 pictures, 464,154 parameters."""
    return CifarResNet(32, num_classes)


@register_model(input_size=32, reference=_PAPER, weights=_cifar("resnet44-014dd654", "014dd654", 93.10))
def cifar_resnet44(num_classes: int = 10) -> nn.Module:
    """ResNet-44 for 32x32 pictures, 658,586 parameters."""
    return CifarResNet(44, num_classes)


@register_model(input_size=32, reference=_PAPER)
def cifar_resnet56(num_classes: int = 10) -> nn.Module:
    """ResNet-56 for 32x32 pictures, 853,018 parameters."""
    return CifarResNet(56, num_classes)


@register_model(
    input_size=(28, 28, 1),
    reference=_PAPER,
    weights={
        "fashion_mnist": Pretrained(
            file="resnet14_fashion_mnist.safetensors",
            mean=(0.286,),
            std=(0.353,),
            input_size=(28, 28),
            resize=28,
            classes="fashion_mnist",
            licence="MIT",
            accuracy={"top1": 93.92},
        )
    },
)
def resnet14_grey(num_classes: int = 10) -> nn.Module:
    """ResNet-14 for grey pictures of 28x28 pixels: 1, 2 and 3 blocks, 241,530 parameters."""
    return CifarResNet((1, 2, 3), num_classes, channels=1)
