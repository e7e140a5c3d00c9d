"""A small Siamese encoder of handwritten characters."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from .. import nn, ops
from ..nn import Module
from .registry import Pretrained, register_model

__all__ = ["CharacterEncoder", "character_encoder"]


class Block(Module):
    """3x3 convolution, batch normalisation, ReLU, and the largest of each 2x2."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Any) -> Any:
        return ops.max_pool2d(ops.relu(self.bn(self.conv(x))), 2)


class CharacterEncoder(Module):
    """Four blocks of convolution and pooling, a dense layer, length 1.

    Parameters
    ----------
    embedding : int
        Length of an encoding.

    Notes
    -----
    ``forward`` takes grey pictures (N, 32, 32, 1) and gives encodings (N, embedding) of length 1. It is one
    of the two equal branches of a Siamese network; the other has the same weights.

    References
    ----------
    Koch, Zemel and Salakhutdinov, "Siamese neural networks for one-shot image recognition", 2015; Snell,
    Swersky and Zemel, "Prototypical networks for few-shot learning", 2017 (the four blocks).
    """

    def __init__(self, embedding: int = 128) -> None:
        widths = (1, 32, 64, 96, 128)
        self.blocks = nn.Sequential(*[Block(*pair) for pair in pairwise(widths)])
        self.linear = nn.Linear(4 * widths[-1], embedding, bias=False, feature_map=(2, 2, widths[-1]))
        self.bn = nn.BatchNorm2d(embedding)

    def forward(self, x: Any) -> Any:
        return ops.l2_normalize(self.bn(self.linear(ops.flatten(self.blocks(x)))))


@register_model(
    input_size=(32, 32, 1),
    task="one-shot",
    weights={
        "omniglot": Pretrained(
            file="siamese_omniglot.safetensors",
            mean=(1.0,),
            std=(0.3,),
            input_size=(32, 32),
            resize=32,
            classes="omniglot",
            licence="MIT",
            accuracy={"one-shot": 96.5, "one-shot, nine shifts": 97.75},
        )
    },
    reference="Koch, Zemel and Salakhutdinov, Siamese neural networks for one-shot image recognition, 2015",
)
def character_encoder(num_classes: int = 128) -> CharacterEncoder:
    """Encoder of grey characters of 32 x 32; ``num_classes`` is the length of an encoding."""
    return CharacterEncoder(num_classes)
