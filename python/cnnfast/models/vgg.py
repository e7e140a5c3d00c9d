"""VGG-11, 13, 16 and 19, with and without batch normalisation."""

from __future__ import annotations

from typing import Any

from .. import nn
from .blocks import AdaptiveAvgPool2d
from .registry import Pretrained, register_model

__all__ = [
    "VGG",
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
]

_PAPER = "Simonyan and Zisserman, Very deep convolutional networks for large-scale image recognition, 2015"

# Convolutions in each of the five blocks; a maximum pooling ends every block.
_DEPTHS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_FILTERS = (64, 128, 256, 512, 512)


def vgg_features(depth: int, batch_norm: bool = False) -> nn.Sequential:
    """The convolutional trunk, with torchvision's numbers as names."""
    layers: list[nn.Module] = []
    channels = 3
    for count, filters in zip(_DEPTHS[depth], _FILTERS, strict=True):
        for _ in range(count):
            layers.append(nn.Conv2d(channels, filters, 3, padding=1, init="fan_out_normal"))
            if batch_norm:
                layers.append(nn.BatchNorm2d(filters))
            layers.append(nn.ReLU())
            channels = filters
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


class VGG(nn.Module):
    """Blocks of 3x3 convolutions and three dense layers.

    Parameters
    ----------
    depth : {11, 13, 16, 19}
    num_classes : int
    batch_norm : bool
    hidden : int
        Units of the two hidden dense layers.
    """

    def __init__(
        self, depth: int, num_classes: int = 1000, *, batch_norm: bool = False, hidden: int = 4096
    ) -> None:
        self.features = vgg_features(depth, batch_norm)
        self.avgpool = AdaptiveAvgPool2d((7, 7))
        self.flatten = nn.Flatten()
        self.classifier = nn.Sequential(
            nn.Linear(7 * 7 * 512, hidden, feature_map=(7, 7, 512), init="normal"),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(hidden, hidden, init="normal"),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(hidden, num_classes, init="normal"),
        )

    def forward(self, x: Any) -> Any:
        return self.classifier(self.flatten(self.avgpool(self.features(x))))


def _weights(name: str, digest: str, top1: float, top5: float) -> dict[str, Pretrained]:
    url = f"https://download.pytorch.org/models/{name}-{digest}.pth"
    return {"torchvision": Pretrained(url, digest, accuracy={"top1": top1, "top5": top5})}


@register_model(reference=_PAPER, weights=_weights("vgg11", "8a719046", 69.02, 88.628))
def vgg11(num_classes: int = 1000, hidden: int = 4096) -> nn.Module:
    """VGG-11, 132,863,336 parameters."""
    return VGG(11, num_classes, hidden=hidden)


@register_model(reference=_PAPER, weights=_weights("vgg11_bn", "6002323d", 70.37, 89.81))
def vgg11_bn(num_classes: int = 1000, hidden: int = 4096) -> nn.Module:
    """VGG-11 with batch normalisation, 132,868,840 parameters."""
    return VGG(11, num_classes, batch_norm=True, hidden=hidden)


@register_model(reference=_PAPER, weights=_weights("vgg13", "19584684", 69.928, 89.246))
def vgg13(num_classes: int = 1000, hidden: int = 4096) -> nn.Module:
    """VGG-13, 133,047,848 parameters."""
    return VGG(13, num_classes, hidden=hidden)


@register_model(reference=_PAPER, weights=_weights("vgg13_bn", "abd245e5", 71.586, 90.374))
def vgg13_bn(num_classes: int = 1000, hidden: int = 4096) -> nn.Module:
    """VGG-13 with batch normalisation, 133,053,736 parameters."""
    return VGG(13, num_classes, batch_norm=True, hidden=hidden)


@register_model(reference=_PAPER, weights=_weights("vgg16", "397923af", 71.592, 90.382))
def vgg16(num_classes: int = 1000, hidden: int = 4096) -> nn.Module:
    """VGG-16, 138,357,544 parameters."""
    return VGG(16, num_classes, hidden=hidden)


@register_model(reference=_PAPER, weights=_weights("vgg16_bn", "6c64b313", 73.36, 91.516))
def vgg16_bn(num_classes: int = 1000, hidden: int = 4096) -> nn.Module:
    """VGG-16 with batch normalisation, 138,365,992 parameters."""
    return VGG(16, num_classes, batch_norm=True, hidden=hidden)


@register_model(reference=_PAPER, weights=_weights("vgg19", "dcbb9e9d", 72.376, 90.876))
def vgg19(num_classes: int = 1000, hidden: int = 4096) -> nn.Module:
    """VGG-19, 143,667,240 parameters."""
    return VGG(19, num_classes, hidden=hidden)


@register_model(reference=_PAPER, weights=_weights("vgg19_bn", "c79401a0", 74.218, 91.842))
def vgg19_bn(num_classes: int = 1000, hidden: int = 4096) -> nn.Module:
    """VGG-19 with batch normalisation, 143,678,248 parameters."""
    return VGG(19, num_classes, batch_norm=True, hidden=hidden)
