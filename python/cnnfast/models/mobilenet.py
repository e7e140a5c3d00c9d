"""MobileNet v1 and v2."""

from __future__ import annotations

from typing import Any

from .. import nn, ops
from .blocks import ConvNormAct, round_channels
from .registry import Pretrained, register_model
from .timm_names import from_timm

__all__ = [
    "DepthwiseSeparable",
    "InvertedResidual",
    "MobileNetV1",
    "MobileNetV2",
    "mobilenet_v1",
    "mobilenet_v1_025",
    "mobilenet_v1_050",
    "mobilenet_v1_075",
    "mobilenet_v2",
    "mobilenet_v2_050",
    "mobilenet_v2_140",
]

_V1 = (
    "Howard et al., MobileNets: efficient convolutional neural networks for mobile vision applications, 2017"
)
_V2 = "Sandler et al., MobileNetV2: inverted residuals and linear bottlenecks, 2018"


class DepthwiseSeparable(nn.Module):
    """A 3x3 depthwise and a 1x1 convolution, each normalised and rectified."""

    def __init__(self, channels: int, filters: int, stride: int = 1) -> None:
        self.depthwise = ConvNormAct(channels, channels, 3, stride=stride, groups=channels)
        self.pointwise = ConvNormAct(channels, filters, 1)

    def forward(self, x: Any) -> Any:
        return self.pointwise(self.depthwise(x))


class MobileNetV1(nn.Module):
    """Thirteen depthwise separable blocks.

    Parameters
    ----------
    num_classes : int
    width : float
        Factor on all numbers of channels.
    """

    # Filters and stride of each block.
    blocks = (
        (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
        (512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1),
    )  # fmt: skip

    def __init__(self, num_classes: int = 1000, width: float = 1.0) -> None:
        channels = round_channels(32 * width)
        layers: list[nn.Module] = [ConvNormAct(3, channels, 3, stride=2)]
        for base, stride in self.blocks:
            filters = round_channels(base * width)
            layers.append(DepthwiseSeparable(channels, filters, stride))
            channels = filters
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.GlobalAvgPool2d()
        self.flatten = nn.Flatten()
        self.classifier = nn.Sequential(nn.Dropout(0.001), nn.Linear(channels, num_classes))

    def forward(self, x: Any) -> Any:
        return self.classifier(self.flatten(self.avgpool(self.features(x))))


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter by 3x3 per channel, project by 1x1 without an activation.

    The input is added where stride and channels leave its shape as it is.

    Parameters
    ----------
    channels, filters : int
    stride : int
    expansion : int
        Factor on the channels; 1 leaves the first convolution out.
    """

    def __init__(self, channels: int, filters: int, stride: int, expansion: int) -> None:
        hidden = channels * expansion
        self.shortcut = stride == 1 and channels == filters
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(ConvNormAct(channels, hidden, 1, activation=nn.ReLU6))
        self.conv = nn.Sequential(
            *layers,
            ConvNormAct(hidden, hidden, 3, stride=stride, groups=hidden, activation=nn.ReLU6),
            nn.Conv2d(hidden, filters, 1, bias=False),
            nn.BatchNorm2d(filters),
        )

    def forward(self, x: Any) -> Any:
        y = self.conv(x)
        return ops.add(x, y) if self.shortcut else y


class MobileNetV2(nn.Module):
    """Inverted residual blocks in seven stages.

    Parameters
    ----------
    num_classes : int
    width : float
        Factor on all numbers of channels; the last layer never gets fewer than 1280.
    """

    # Expansion, filters, blocks, stride of the first one.
    stages = (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2),
        (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
    )  # fmt: skip
    renames = (
        from_timm(
            "features.18",
            lambda stage, i: f"features.{1 + i + sum(s[2] for s in MobileNetV2.stages[:stage])}.conv",
            {"conv_dw": "0.0", "bn1": "0.1", "conv_pw": "1", "bn2": "2"},
            {"conv_pw": "0.0", "bn1": "0.1", "conv_dw": "1.0", "bn2": "1.1", "conv_pwl": "2", "bn3": "3"},
        ),
    )

    def __init__(self, num_classes: int = 1000, width: float = 1.0) -> None:
        channels = round_channels(32 * width)
        last = round_channels(1280 * max(1.0, width))
        layers: list[nn.Module] = [ConvNormAct(3, channels, 3, stride=2, activation=nn.ReLU6)]
        for expansion, base, count, stride in self.stages:
            filters = round_channels(base * width)
            for i in range(count):
                layers.append(InvertedResidual(channels, filters, stride if i == 0 else 1, expansion))
                channels = filters
        layers.append(ConvNormAct(channels, last, 1, activation=nn.ReLU6))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.GlobalAvgPool2d()
        self.flatten = nn.Flatten()
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, num_classes, init="normal"))

    def forward(self, x: Any) -> Any:
        return self.classifier(self.flatten(self.avgpool(self.features(x))))


@register_model(reference=_V1)
def mobilenet_v1(num_classes: int = 1000) -> nn.Module:
    """MobileNet v1, 4,231,976 parameters."""
    return MobileNetV1(num_classes)


@register_model(reference=_V1)
def mobilenet_v1_075(num_classes: int = 1000) -> nn.Module:
    """MobileNet v1 with .75 of the channels, 2,585,560 parameters."""
    return MobileNetV1(num_classes, 0.75)


@register_model(reference=_V1)
def mobilenet_v1_050(num_classes: int = 1000) -> nn.Module:
    """MobileNet v1 with half of the channels, 1,331,592 parameters."""
    return MobileNetV1(num_classes, 0.5)


@register_model(reference=_V1)
def mobilenet_v1_025(num_classes: int = 1000) -> nn.Module:
    """MobileNet v1 with a quarter of the channels, 470,072 parameters."""
    return MobileNetV1(num_classes, 0.25)


@register_model(
    reference=_V2,
    weights={
        "torchvision": Pretrained(
            url="https://download.pytorch.org/models/mobilenet_v2-b0353104.pth",
            sha256="b0353104",
            accuracy={"top1": 71.878, "top5": 90.286},
        ),
        "torchvision_v2": Pretrained(
            url="https://download.pytorch.org/models/mobilenet_v2-7ebf99e0.pth",
            sha256="7ebf99e0",
            resize=232,
            accuracy={"top1": 72.154, "top5": 90.822},
        ),
    },
)
def mobilenet_v2(num_classes: int = 1000) -> nn.Module:
    """MobileNet v2, 3,504,872 parameters."""
    return MobileNetV2(num_classes)


@register_model(reference=_V2)
def mobilenet_v2_050(num_classes: int = 1000) -> nn.Module:
    """MobileNet v2 with half of the channels, 1,968,680 parameters."""
    return MobileNetV2(num_classes, 0.5)


@register_model(reference=_V2)
def mobilenet_v2_140(num_classes: int = 1000) -> nn.Module:
    """MobileNet v2 with 1.4 times the channels, 6,108,776 parameters."""
    return MobileNetV2(num_classes, 1.4)
