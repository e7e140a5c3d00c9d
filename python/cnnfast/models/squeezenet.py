"""SqueezeNet 1.0 and 1.1."""

from __future__ import annotations

from typing import Any

from .. import nn, ops
from .registry import Pretrained, register_model

__all__ = ["Fire", "SqueezeNet", "squeezenet1_0", "squeezenet1_1"]

_PAPER = (
    "Iandola et al., SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size, 2016"
)


class Fire(nn.Module):
    """A 1x1 bottleneck, then 1x1 and 3x3 filters side by side."""

    def __init__(self, channels: int, squeeze: int, expand: int) -> None:
        self.squeeze = nn.Conv2d(channels, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Any) -> Any:
        x = nn.activated(self.squeeze, "relu", x)
        return ops.concat([nn.activated(self.expand1x1, "relu", x), nn.activated(self.expand3x3, "relu", x)])


class SqueezeNet(nn.Module):
    """Eight Fire modules; a 1x1 convolution instead of dense layers.

    Parameters
    ----------
    version : {"1.0", "1.1"}
        1.1 pools earlier and starts with 64 small filters: 2.4 times less work, the same accuracy.
    num_classes : int
    """

    def __init__(self, version: str = "1.1", num_classes: int = 1000) -> None:
        def pool() -> nn.Module:
            return nn.MaxPool2d(3, stride=2, ceil_mode=True)

        fires = [
            Fire(64 if version == "1.1" else 96, 16, 64), Fire(128, 16, 64), Fire(128, 32, 128),
            Fire(256, 32, 128), Fire(256, 48, 192), Fire(384, 48, 192),
            Fire(384, 64, 256), Fire(512, 64, 256),
        ]  # fmt: skip
        if version == "1.0":
            stem = nn.Conv2d(3, 96, 7, stride=2)
            body = [*fires[:3], pool(), *fires[3:7], pool(), *fires[7:]]
        elif version == "1.1":
            stem = nn.Conv2d(3, 64, 3, stride=2)
            body = [*fires[:2], pool(), *fires[2:4], pool(), *fires[4:]]
        else:
            raise ValueError(f"SqueezeNet: version must be '1.0' or '1.1', got {version!r}")
        self.features = nn.Sequential(stem, nn.ReLU(), pool(), *body)
        self.classifier = nn.Sequential(
            nn.Dropout(), nn.Conv2d(512, num_classes, 1, init="normal"), nn.ReLU(), nn.GlobalAvgPool2d()
        )
        self.flatten = nn.Flatten()

    def forward(self, x: Any) -> Any:
        return self.flatten(self.classifier(self.features(x)))


@register_model(
    reference=_PAPER,
    weights={
        "torchvision": Pretrained(
            url="https://download.pytorch.org/models/squeezenet1_0-b66bff10.pth",
            sha256="b66bff10",
            accuracy={"top1": 58.092, "top5": 80.42},
        )
    },
)
def squeezenet1_0(num_classes: int = 1000) -> nn.Module:
    """SqueezeNet 1.0, 1,248,424 parameters."""
    return SqueezeNet("1.0", num_classes)


@register_model(
    reference=_PAPER,
    weights={
        "torchvision": Pretrained(
            url="https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth",
            sha256="b8a52dc0",
            accuracy={"top1": 58.178, "top5": 80.624},
        )
    },
)
def squeezenet1_1(num_classes: int = 1000) -> nn.Module:
    """SqueezeNet 1.1, 1,235,496 parameters."""
    return SqueezeNet("1.1", num_classes)
