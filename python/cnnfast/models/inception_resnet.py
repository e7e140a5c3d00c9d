"""Inception-ResNet v1 as an encoder of faces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import nn, ops
from ..nn import Module, Sequential
from .blocks import ConvBN
from .registry import Pretrained, register_model

__all__ = ["InceptionResNetV1", "inception_resnet_v1"]

REFERENCE = "Szegedy et al., Inception-v4, Inception-ResNet and the impact of residual connections, 2017"


class ResidualInception(Module):
    """Branches side by side, put back to the channels of the input by 1x1, scaled down and added to it.

    Parameters
    ----------
    channels : int
    scale : float
    relu : bool
        Whether an activation follows.
    *branches : Module
        All with the same number of channels.
    width : int
        Channels of all branches together.
    """

    def __init__(self, channels: int, scale: float, width: int, *branches: Module, relu: bool = True) -> None:
        for i, branch in enumerate(branches):
            self.add_module(f"branch{i}", branch)
        self.conv2d = nn.Conv2d(width, channels, 1)
        self.scale, self.relu, self.count = scale, relu, len(branches)

    def forward(self, x: Any) -> Any:
        parts = [getattr(self, f"branch{i}")(x) for i in range(self.count)]
        y = self.conv2d(ops.concat(parts))
        y = ops.add(y if self.scale == 1 else ops.mul(y, self.scale), x)
        return ops.relu(y) if self.relu else y


class Reduction(Module):
    """Branches that halve the map, side by side with its maxima."""

    def __init__(self, *branches: Module) -> None:
        for i, branch in enumerate(branches):
            self.add_module(f"branch{i}", branch)
        self.count = len(branches)

    def forward(self, x: Any) -> Any:
        parts = [getattr(self, f"branch{i}")(x) for i in range(self.count)]
        return ops.concat([*parts, ops.max_pool2d(x, 3, stride=2)])


def _block35() -> ResidualInception:
    return ResidualInception(
        256,
        0.17,
        96,
        ConvBN(256, 32, 1),
        Sequential(ConvBN(256, 32, 1), ConvBN(32, 32, 3, padding=1)),
        Sequential(ConvBN(256, 32, 1), ConvBN(32, 32, 3, padding=1), ConvBN(32, 32, 3, padding=1)),
    )


def _block17() -> ResidualInception:
    chain = Sequential(
        ConvBN(896, 128, 1),
        ConvBN(128, 128, (1, 7), padding=(0, 3)),
        ConvBN(128, 128, (7, 1), padding=(3, 0)),
    )
    return ResidualInception(896, 0.1, 256, ConvBN(896, 128, 1), chain)


def _block8(scale: float = 0.2, relu: bool = True) -> ResidualInception:
    chain = Sequential(
        ConvBN(1792, 192, 1),
        ConvBN(192, 192, (1, 3), padding=(0, 1)),
        ConvBN(192, 192, (3, 1), padding=(1, 0)),
    )
    return ResidualInception(1792, scale, 384, ConvBN(1792, 192, 1), chain, relu=relu)


class InceptionResNetV1(Module):
    """Inception-ResNet v1 for faces.

    Parameters
    ----------
    num_classes : int
        Identities of the classifier.
    logits : bool
        Whether the classifier exists.
    classify : bool
        Give the classifier's outputs instead of encodings.
    embedding : int
        Length of an encoding.
    dropout : float

    Notes
    -----
    ``forward`` takes (N, 160, 160, 3), or any size from 75 x 75 on, pixels scaled to about -1..1, and gives
    encodings (N, embedding) of length 1, or logits (N, num_classes). Names of parameters are those of the
    facenet-pytorch files.

    References
    ----------
    Szegedy et al., "Inception-v4, Inception-ResNet and the impact of residual connections on learning",
    2017; Schroff, Kalenichenko and Philbin, "FaceNet: a unified embedding for face recognition and
    clustering", 2015.
    """

    def __init__(
        self,
        num_classes: int = 8631,
        *,
        logits: bool = True,
        classify: bool = False,
        embedding: int = 512,
        dropout: float = 0.6,
    ) -> None:
        if classify and not logits:
            raise ValueError("InceptionResNetV1: classify needs the classifier of logits=True")
        self.classify, self.has_logits = classify, logits
        self.conv2d_1a = ConvBN(3, 32, 3, stride=2)
        self.conv2d_2a = ConvBN(32, 32, 3)
        self.conv2d_2b = ConvBN(32, 64, 3, padding=1)
        self.maxpool_3a = nn.MaxPool2d(3, stride=2)
        self.conv2d_3b = ConvBN(64, 80, 1)
        self.conv2d_4a = ConvBN(80, 192, 3)
        self.conv2d_4b = ConvBN(192, 256, 3, stride=2)
        self.repeat_1 = Sequential(*[_block35() for _ in range(5)])
        self.mixed_6a = Reduction(
            ConvBN(256, 384, 3, stride=2),
            Sequential(ConvBN(256, 192, 1), ConvBN(192, 192, 3, padding=1), ConvBN(192, 256, 3, stride=2)),
        )
        self.repeat_2 = Sequential(*[_block17() for _ in range(10)])
        self.mixed_7a = Reduction(
            Sequential(ConvBN(896, 256, 1), ConvBN(256, 384, 3, stride=2)),
            Sequential(ConvBN(896, 256, 1), ConvBN(256, 256, 3, stride=2)),
            Sequential(ConvBN(896, 256, 1), ConvBN(256, 256, 3, padding=1), ConvBN(256, 256, 3, stride=2)),
        )
        self.repeat_3 = Sequential(*[_block8() for _ in range(5)])
        self.block8 = _block8(scale=1.0, relu=False)
        self.dropout = nn.Dropout(dropout)
        self.last_linear = nn.Linear(1792, embedding, bias=False)
        self.last_bn = nn.BatchNorm2d(embedding, eps=0.001)
        if logits:
            self.logits = nn.Linear(embedding, num_classes)

    def forward(self, x: Any) -> Any:
        x = self.conv2d_2b(self.conv2d_2a(self.conv2d_1a(x)))
        x = self.conv2d_4b(self.conv2d_4a(self.conv2d_3b(self.maxpool_3a(x))))
        x = self.mixed_6a(self.repeat_1(x))
        x = self.mixed_7a(self.repeat_2(x))
        x = self.block8(self.repeat_3(x))
        x = self.dropout(ops.flatten(ops.global_avg_pool2d(x)))
        x = self.last_bn(self.last_linear(x))
        return self.logits(x) if self.classify else ops.l2_normalize(x)

    def load_state_dict(self, state: Mapping[str, Any], **options: Any) -> tuple[list[str], list[str]]:
        """As for every module; a classifier in the file is passed over where the network has none."""
        if not self.has_logits:
            state = {name: a for name, a in state.items() if not name.startswith("logits.")}
        return super().load_state_dict(state, **options)


def _weights(file: str, lfw: float) -> Pretrained:
    return Pretrained(
        url=f"https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9/{file}.pt",
        # (x - 127.5) / 128 on pixels of 0..255.
        mean=(0.5, 0.5, 0.5),
        std=(128 / 255, 128 / 255, 128 / 255),
        input_size=(160, 160),
        resize=160,
        classes=file.rpartition("-")[2],
        licence="MIT; trained on faces collected for research",
        accuracy={"lfw": lfw},
    )


@register_model(
    input_size=160,
    task="face",
    reference=REFERENCE,
    weights={"vggface2": _weights("20180402-114759-vggface2", 99.65)},
)
def inception_resnet_v1(num_classes: int = 8631, **options: Any) -> InceptionResNetV1:
    """Inception-ResNet v1: 27,910,327 parameters with the classifier for 8,631 identities.

    Gives encodings of length 1; ``classify=True`` gives logits. Options as for :class:`InceptionResNetV1`.
    """
    return InceptionResNetV1(num_classes, **options)
