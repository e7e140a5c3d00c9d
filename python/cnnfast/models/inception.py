"""Inception v3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import nn, ops
from ..nn import Module
from .blocks import ConvBN
from .registry import Pretrained, register_model

__all__ = ["InceptionV3", "inception_v3"]

REFERENCE = "Szegedy et al., Rethinking the Inception architecture for computer vision, 2016"


def _mean_3x3(x: Any) -> Any:
    return ops.avg_pool2d(x, 3, stride=1, padding=1)


class InceptionA(Module):
    """At 35 x 35: 1x1, 5x5, two 3x3 in a row, and means."""

    def __init__(self, c: int, pooled: int) -> None:
        self.branch1x1 = ConvBN(c, 64, 1)
        self.branch5x5_1 = ConvBN(c, 48, 1)
        self.branch5x5_2 = ConvBN(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = ConvBN(c, 64, 1)
        self.branch3x3dbl_2 = ConvBN(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = ConvBN(96, 96, 3, padding=1)
        self.branch_pool = ConvBN(c, pooled, 1)

    def forward(self, x: Any) -> Any:
        five = self.branch5x5_2(self.branch5x5_1(x))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return ops.concat([self.branch1x1(x), five, three, self.branch_pool(_mean_3x3(x))])


class InceptionB(Module):
    """From 35 x 35 to 17 x 17."""

    def __init__(self, c: int) -> None:
        self.branch3x3 = ConvBN(c, 384, 3, stride=2)
        self.branch3x3dbl_1 = ConvBN(c, 64, 1)
        self.branch3x3dbl_2 = ConvBN(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = ConvBN(96, 96, 3, stride=2)

    def forward(self, x: Any) -> Any:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return ops.concat([self.branch3x3(x), double, ops.max_pool2d(x, 3, stride=2)])


class InceptionC(Module):
    """At 17 x 17: 7x7 kernels as pairs of 1x7 and 7x1."""

    def __init__(self, c: int, inner: int) -> None:
        row: dict[str, Any] = {"size": (1, 7), "padding": (0, 3)}
        column: dict[str, Any] = {"size": (7, 1), "padding": (3, 0)}
        self.branch1x1 = ConvBN(c, 192, 1)
        self.branch7x7_1 = ConvBN(c, inner, 1)
        self.branch7x7_2 = ConvBN(inner, inner, **row)
        self.branch7x7_3 = ConvBN(inner, 192, **column)
        self.branch7x7dbl_1 = ConvBN(c, inner, 1)
        self.branch7x7dbl_2 = ConvBN(inner, inner, **column)
        self.branch7x7dbl_3 = ConvBN(inner, inner, **row)
        self.branch7x7dbl_4 = ConvBN(inner, inner, **column)
        self.branch7x7dbl_5 = ConvBN(inner, 192, **row)
        self.branch_pool = ConvBN(c, 192, 1)

    def forward(self, x: Any) -> Any:
        once = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        return ops.concat([self.branch1x1(x), once, twice, self.branch_pool(_mean_3x3(x))])


class InceptionD(Module):
    """From 17 x 17 to 8 x 8."""

    def __init__(self, c: int) -> None:
        self.branch3x3_1 = ConvBN(c, 192, 1)
        self.branch3x3_2 = ConvBN(192, 320, 3, stride=2)
        self.branch7x7x3_1 = ConvBN(c, 192, 1)
        self.branch7x7x3_2 = ConvBN(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = ConvBN(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = ConvBN(192, 192, 3, stride=2)

    def forward(self, x: Any) -> Any:
        three = self.branch3x3_2(self.branch3x3_1(x))
        seven = self.branch7x7x3_2(self.branch7x7x3_1(x))
        seven = self.branch7x7x3_4(self.branch7x7x3_3(seven))
        return ops.concat([three, seven, ops.max_pool2d(x, 3, stride=2)])


class InceptionE(Module):
    """At 8 x 8: branches that end in 1x3 and 3x1 side by side."""

    def __init__(self, c: int) -> None:
        row: dict[str, Any] = {"size": (1, 3), "padding": (0, 1)}
        column: dict[str, Any] = {"size": (3, 1), "padding": (1, 0)}
        self.branch1x1 = ConvBN(c, 320, 1)
        self.branch3x3_1 = ConvBN(c, 384, 1)
        self.branch3x3_2a = ConvBN(384, 384, **row)
        self.branch3x3_2b = ConvBN(384, 384, **column)
        self.branch3x3dbl_1 = ConvBN(c, 448, 1)
        self.branch3x3dbl_2 = ConvBN(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = ConvBN(384, 384, **row)
        self.branch3x3dbl_3b = ConvBN(384, 384, **column)
        self.branch_pool = ConvBN(c, 192, 1)

    def forward(self, x: Any) -> Any:
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        return ops.concat(
            [
                self.branch1x1(x),
                self.branch3x3_2a(three),
                self.branch3x3_2b(three),
                self.branch3x3dbl_3a(double),
                self.branch3x3dbl_3b(double),
                self.branch_pool(_mean_3x3(x)),
            ]
        )


class AuxiliaryHead(Module):
    """A classifier on the 17 x 17 map, which helps to train what is before it."""

    def __init__(self, c: int, num_classes: int) -> None:
        self.conv0 = ConvBN(c, 128, 1)
        self.conv1 = ConvBN(128, 768, 5)
        self.fc = nn.Linear(768, num_classes, init="normal:0.001")

    def forward(self, x: Any) -> Any:
        x = self.conv1(self.conv0(ops.avg_pool2d(x, 5, stride=3)))
        return self.fc(ops.flatten(ops.global_avg_pool2d(x)))


class InceptionV3(Module):
    """Inception v3.

    Parameters
    ----------
    num_classes : int
    aux_logits : bool
        Whether the auxiliary head exists.
    return_aux : bool
        Whether its output is given in evaluation mode too.
    dropout : float

    Notes
    -----
    ``forward`` takes (N, 299, 299, 3), or any size from 75 x 75 on (the head wants 299 x 299 or more), and
    gives logits (N, num_classes); with the head, in training mode or with ``return_aux``, the tuple
    (logits, those of the head).

    References
    ----------
    Szegedy et al., "Rethinking the Inception architecture for computer vision", 2016.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        *,
        aux_logits: bool = False,
        return_aux: bool = False,
        dropout: float = 0.5,
    ) -> None:
        if return_aux and not aux_logits:
            raise ValueError("InceptionV3: return_aux needs the head of aux_logits=True")
        self.aux_logits, self.return_aux = aux_logits, return_aux
        self.Conv2d_1a_3x3 = ConvBN(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = ConvBN(32, 32, 3)
        self.Conv2d_2b_3x3 = ConvBN(32, 64, 3, padding=1)
        self.maxpool1 = nn.MaxPool2d(3, stride=2)
        self.Conv2d_3b_1x1 = ConvBN(64, 80, 1)
        self.Conv2d_4a_3x3 = ConvBN(80, 192, 3)
        self.maxpool2 = nn.MaxPool2d(3, stride=2)
        self.Mixed_5b = InceptionA(192, 32)
        self.Mixed_5c = InceptionA(256, 64)
        self.Mixed_5d = InceptionA(288, 64)
        self.Mixed_6a = InceptionB(288)
        self.Mixed_6b = InceptionC(768, 128)
        self.Mixed_6c = InceptionC(768, 160)
        self.Mixed_6d = InceptionC(768, 160)
        self.Mixed_6e = InceptionC(768, 192)
        if aux_logits:
            self.AuxLogits = AuxiliaryHead(768, num_classes)
        self.Mixed_7a = InceptionD(768)
        self.Mixed_7b = InceptionE(1280)
        self.Mixed_7c = InceptionE(2048)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(2048, num_classes)

    def forward(self, x: Any) -> Any:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(self.maxpool1(x)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(self.maxpool2(x))))
        x = self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))
        x = self.Mixed_6e(self.Mixed_6d(x))
        asked = self.aux_logits and (self.training or self.return_aux)
        aux = self.AuxLogits(x) if asked else None
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        x = ops.flatten(ops.global_avg_pool2d(x))
        x = self.fc(self.dropout(x))
        return (x, aux) if asked else x

    def load_state_dict(self, state: Mapping[str, Any], **options: Any) -> tuple[list[str], list[str]]:
        """As for every module; entries of the head are passed over where the network has none."""
        if not self.aux_logits:
            state = {name: a for name, a in state.items() if not name.startswith("AuxLogits.")}
        return super().load_state_dict(state, **options)


@register_model(
    input_size=299,
    reference=REFERENCE,
    weights={
        # Trained on pictures scaled to -1..1.
        "torchvision": Pretrained(
            url="https://download.pytorch.org/models/inception_v3_google-0cc3c7bd.pth",
            sha256="0cc3c7bd",
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            input_size=(299, 299),
            resize=342,
            accuracy={"top1": 77.294, "top5": 93.45},
        )
    },
)
def inception_v3(num_classes: int = 1000, **options: Any) -> InceptionV3:
    """Inception v3: 23,834,568 parameters, 27,161,264 with ``aux_logits=True``."""
    return InceptionV3(num_classes, **options)
