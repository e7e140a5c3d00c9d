"""AlexNet: the network of 2012 in two groups, and the single-tower form of 2014."""

from __future__ import annotations

from typing import Any

from .. import nn
from .blocks import AdaptiveAvgPool2d
from .registry import Pretrained, register_model

__all__ = ["AlexNet", "AlexNetOriginal", "alexnet", "alexnet_2012"]


def _classifier(hidden: int, num_classes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Dropout(),
        nn.Linear(6 * 6 * 256, hidden, feature_map=(6, 6, 256)),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, num_classes),
    )


class AlexNet(nn.Module):
    """Five convolutions and three dense layers without groups and response normalisation.

    Parameters
    ----------
    num_classes : int
    hidden : int
        Units of the two hidden dense layers.
    """

    def __init__(self, num_classes: int = 1000, hidden: int = 4096) -> None:
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, stride=4, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
        )
        self.avgpool = AdaptiveAvgPool2d((6, 6))
        self.flatten = nn.Flatten()
        self.classifier = _classifier(hidden, num_classes)

    def forward(self, x: Any) -> Any:
        return self.classifier(self.flatten(self.avgpool(self.features(x))))


class AlexNetOriginal(nn.Module):
    """As published: groups in layers 2, 4 and 5 (one per graphics card), response normalisation, 3/2 pooling.

    Takes 227x227 pictures, which give the 55x55 maps of the paper. With other sizes the last maps are
    averaged to 6x6.
    """

    def __init__(self, num_classes: int = 1000, hidden: int = 4096) -> None:
        self.features = nn.Sequential(
            nn.Conv2d(3, 96, 11, stride=4),
            nn.ReLU(),
            nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2.0, alpha_mode="sum"),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(96, 256, 5, padding=2, groups=2),
            nn.ReLU(),
            nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2.0, alpha_mode="sum"),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(256, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 384, 3, padding=1, groups=2),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1, groups=2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
        )
        self.avgpool = AdaptiveAvgPool2d((6, 6))
        self.flatten = nn.Flatten()
        self.classifier = _classifier(hidden, num_classes)

    def forward(self, x: Any) -> Any:
        return self.classifier(self.flatten(self.avgpool(self.features(x))))


@register_model(
    reference="Krizhevsky, One weird trick for parallelizing convolutional neural networks, 2014",
    weights={
        "torchvision": Pretrained(
            url="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
            sha256="7be5be79",
            accuracy={"top1": 56.522, "top5": 79.066},
        )
    },
)
def alexnet(num_classes: int = 1000, hidden: int = 4096) -> nn.Module:
    """AlexNet in one tower, 61,100,840 parameters."""
    return AlexNet(num_classes, hidden)


@register_model(
    input_size=227,
    reference="Krizhevsky et al., ImageNet classification with deep convolutional neural networks, 2012",
)
def alexnet_2012(num_classes: int = 1000, hidden: int = 4096) -> nn.Module:
    """AlexNet as published, 60,965,224 parameters."""
    return AlexNetOriginal(num_classes, hidden)
