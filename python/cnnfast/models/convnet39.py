"""The simplest stack of convolutions: 39x39 pictures, three layers, one dense layer."""

from __future__ import annotations

from .. import nn
from .registry import register_model

__all__ = ["convnet39"]


@register_model(input_size=39)
def convnet39(num_classes: int = 2) -> nn.Module:
    """39x39x3 -> 37x37x10 -> 17x17x20 -> 7x7x40 -> 1960 values -> scores."""
    return nn.Sequential(
        conv1=nn.Conv2d(3, 10, 3),
        relu1=nn.ReLU(),
        conv2=nn.Conv2d(10, 20, 5, stride=2),
        relu2=nn.ReLU(),
        conv3=nn.Conv2d(20, 40, 5, stride=2),
        relu3=nn.ReLU(),
        flatten=nn.Flatten(),
        fc=nn.Linear(1960, num_classes, feature_map=(7, 7, 40)),
    )
