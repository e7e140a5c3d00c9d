"""nn4.small2: a small encoder of faces."""

from __future__ import annotations

from typing import Any

from .. import nn, ops
from ..nn import Module, Sequential
from .registry import register_model

__all__ = ["NN4Small2", "nn4_small2"]


class ConvBN(Module):
    """Convolution, batch normalisation, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, size: int, **options: Any) -> None:
        self.conv = nn.Conv2d(in_channels, out_channels, size, **options)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Any) -> Any:
        return nn.activated(self.bn, "relu", self.conv(x))


class FaceInception(Module):
    """Inception module whose pooling shrinks the map; what it gives is put in the middle of zeros.

    Parameters
    ----------
    in_channels : int
    convolutions : tuple of (reduced, kernel, out)
    pooling : {"max", "l2"}
        Largest values of 3x3 at steps of 2, or lengths of 3x3 at steps of 3.
    pooled : int or None
        Channels after the pooling; None leaves them as they are.
    direct : int or None
        Channels of the 1x1 branch, if there is one.
    stride : int
        Of the convolutions.
    """

    def __init__(
        self,
        in_channels: int,
        convolutions: tuple[tuple[int, int, int], ...],
        pooling: str,
        pooled: int | None,
        direct: int | None,
        stride: int = 1,
    ) -> None:
        self.pooling = pooling
        self.convolutions = nn.ModuleList(
            *[
                Sequential(
                    ConvBN(in_channels, reduced, 1),
                    ConvBN(reduced, out, kernel, stride=stride, padding=kernel // 2),
                )
                for reduced, kernel, out in convolutions
            ]
        )
        self.pooled = nn.Identity() if pooled is None else ConvBN(in_channels, pooled, 1)
        self.direct = None if direct is None else ConvBN(in_channels, direct, 1)
        self.out_channels = (
            sum(out for _, _, out in convolutions)
            + (in_channels if pooled is None else pooled)
            + (direct or 0)
        )

    def forward(self, x: Any) -> Any:
        parts = [branch(x) for branch in self.convolutions]
        rows, columns = parts[0].shape[1:3]
        y = ops.max_pool2d(x, 3, stride=2) if self.pooling == "max" else ops.l2_pool2d(x, 3)
        y = self.pooled(y)
        more = [(n - have, (n - have) // 2) for n, have in zip((rows, columns), y.shape[1:3], strict=True)]
        (down, top), (right, left) = more
        parts.append(ops.pad2d(y, ((top, down - top), (left, right - left))))
        if self.direct is not None:
            parts.append(self.direct(x))
        return ops.concat(parts)


class NN4Small2(Module):
    """OpenFace's nn4.small2.

    Parameters
    ----------
    embedding : int
        Length of an encoding.

    Notes
    -----
    ``forward`` takes faces (N, 96, 96, 3), aligned, RGB in 0..1, and gives encodings (N, embedding) of
    length 1. 3,733,968 parameters are trained; with the running statistics of the batch normalisations
    the network has 3,743,280.

    References
    ----------
    Amos, Ludwiczuk and Satyanarayanan, "OpenFace: a general-purpose face recognition library with mobile
    applications", 2016; Schroff, Kalenichenko and Philbin, "FaceNet", 2015 (NN4).
    """

    def __init__(self, embedding: int = 128) -> None:
        self.conv1 = ConvBN(3, 64, 7, stride=2, padding=3)
        self.conv2 = ConvBN(64, 64, 1)
        self.conv3 = ConvBN(64, 192, 3, padding=1)
        self.norm = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0, alpha_mode="mean")
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.inception3a = FaceInception(192, ((96, 3, 128), (16, 5, 32)), "max", 32, 64)
        self.inception3b = FaceInception(256, ((96, 3, 128), (32, 5, 64)), "l2", 64, 64)
        self.inception3c = FaceInception(320, ((128, 3, 256), (32, 5, 64)), "max", None, None, stride=2)
        self.inception4a = FaceInception(640, ((96, 3, 192), (32, 5, 64)), "l2", 128, 256)
        self.inception4e = FaceInception(640, ((160, 3, 256), (64, 5, 128)), "max", None, None, stride=2)
        self.inception5a = FaceInception(1024, ((96, 3, 384),), "l2", 96, 256)
        self.inception5b = FaceInception(736, ((96, 3, 384),), "max", 96, 256)
        self.linear = nn.Linear(736, embedding)

    def forward(self, x: Any) -> Any:
        x = self.norm(self.maxpool(self.conv1(x)))
        x = self.maxpool(self.norm(self.conv3(self.conv2(x))))
        x = self.inception3c(self.inception3b(self.inception3a(x)))
        x = self.inception4e(self.inception4a(x))
        x = self.inception5b(self.inception5a(x))
        x = ops.flatten(ops.global_avg_pool2d(x))
        return ops.l2_normalize(self.linear(x))


@register_model(
    input_size=96,
    task="face",
    reference="Amos, Ludwiczuk and Satyanarayanan, OpenFace, 2016",
)
def nn4_small2(num_classes: int = 128) -> NN4Small2:
    """nn4.small2 for aligned faces of 96 x 96; ``num_classes`` is the length of an encoding."""
    return NN4Small2(num_classes)
