"""VGG-11, 13, 16 and 19, with and without batch normalisation."""

from __future__ import annotations

from collections.abc import Callable
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
DEPTHS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_FILTERS = (64, 128, 256, 512, 512)
INIT = "fan_out_normal"


def vgg_block(
    channels: int, filters: int, count: int, batch_norm: bool = False, init: str = INIT
) -> list[nn.Module]:
    """The layers of one block without its pooling."""
    layers: list[nn.Module] = []
    for _ in range(count):
        layers.append(nn.Conv2d(channels, filters, 3, padding=1, init=init))
        if batch_norm:
            layers.append(nn.BatchNorm2d(filters))
        layers.append(nn.ReLU())
        channels = filters
    return layers


def vgg_features(depth: int, batch_norm: bool = False, init: str = INIT) -> nn.Sequential:
    """The convolutional trunk, with torchvision's numbers as names."""
    layers: list[nn.Module] = []
    channels = 3
    for count, filters in zip(DEPTHS[depth], _FILTERS, strict=True):
        layers += [*vgg_block(channels, filters, count, batch_norm, init), nn.MaxPool2d(2)]
        channels = filters
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


def _vgg(
    depth: int, parameters: int, digest: str, top1: float, top5: float, *, batch_norm: bool = False
) -> Callable[..., nn.Module]:
    """Put one network on the list."""
    name = f"vgg{depth}" + "_bn" * batch_norm

    def build(num_classes: int = 1000, hidden: int = 4096) -> nn.Module:
        return VGG(depth, num_classes, batch_norm=batch_norm, hidden=hidden)

    build.__name__ = build.__qualname__ = name
    kind = f"VGG-{depth}" + " with batch normalisation" * batch_norm
    build.__doc__ = f"{kind}, {parameters:,} parameters."
    url = f"https://download.pytorch.org/models/{name}-{digest}.pth"
    known = Pretrained(url, digest, accuracy={"top1": top1, "top5": top5})
    return register_model(reference=_PAPER, weights={"torchvision": known})(build)


vgg11 = _vgg(11, 132_863_336, "8a719046", 69.02, 88.628)
vgg11_bn = _vgg(11, 132_868_840, "6002323d", 70.37, 89.81, batch_norm=True)
vgg13 = _vgg(13, 133_047_848, "19584684", 69.928, 89.246)
vgg13_bn = _vgg(13, 133_053_736, "abd245e5", 71.586, 90.374, batch_norm=True)
vgg16 = _vgg(16, 138_357_544, "397923af", 71.592, 90.382)
vgg16_bn = _vgg(16, 138_365_992, "6c64b313", 73.36, 91.516, batch_norm=True)
vgg19 = _vgg(19, 143_667_240, "dcbb9e9d", 72.376, 90.876)
vgg19_bn = _vgg(19, 143_678_248, "c79401a0", 74.218, 91.842, batch_norm=True)
