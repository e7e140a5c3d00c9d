"""Building blocks that several families of networks share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import nn, ops

__all__ = ["AdaptiveAvgPool2d", "ConvBN", "ConvNormAct", "round_channels"]


def round_channels(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of ``divisor`` that is not more than a tenth below ``channels``."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


class ConvNormAct(nn.Sequential):
    """Convolution ("0") without bias, batch normalisation ("1"), activation ("2") where there is one.

    Parameters
    ----------
    channels, filters : int
    kernel : int
        Odd; the padding keeps the size at stride 1.
    stride, groups : int
        With as many groups as channels and filters it is a depthwise convolution.
    activation : callable, optional
        Gives the activation module.
    eps : float
        Of the normalisation.
    """

    def __init__(
        self,
        channels: int,
        filters: int,
        kernel: int = 3,
        *,
        stride: int = 1,
        groups: int = 1,
        activation: Callable[[], nn.Module] | None = nn.ReLU,
        eps: float = 1e-5,
    ) -> None:
        conv: nn.Module
        if groups == channels == filters and groups > 1:
            conv = nn.DepthwiseConv2d(channels, kernel, stride=stride, padding=kernel // 2, bias=False)
        else:
            conv = nn.Conv2d(
                channels, filters, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False
            )
        layers = [conv, nn.BatchNorm2d(filters, eps=eps)]
        super().__init__(*layers, *([activation()] if activation is not None else []))


class ConvBN(nn.Module):
    """Convolution without bias, batch normalisation, ReLU, as the Inception networks have them."""

    def __init__(self, in_channels: int, out_channels: int, size: Any, **options: Any) -> None:
        self.conv = nn.Conv2d(in_channels, out_channels, size, bias=False, **options)
        self.bn = nn.BatchNorm2d(out_channels, eps=0.001)

    def forward(self, x: Any) -> Any:
        return nn.activated(self.bn, "relu", self.conv(x))


class AdaptiveAvgPool2d(nn.Module):
    """Mean over a fixed number of windows, whatever the size of the picture.

    Window i of n along an axis of size s covers floor(i s / n) to ceil((i + 1) s / n), as in torch; pictures
    that have the size already are left alone.

    Parameters
    ----------
    size : (int, int)
        Rows and columns of the result.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size

    def forward(self, x: Any) -> Any:
        h, w = x.shape[1:3]
        rows, columns = self.size
        if (h, w) == self.size:
            return x
        if self.size == (1, 1):
            return ops.global_avg_pool2d(x)
        if h % rows == 0 and w % columns == 0:
            return ops.avg_pool2d(x, (h // rows, w // columns))
        # The windows are products of intervals, so rows and columns can be averaged one after the other.
        bands = [
            ops.avg_pool2d(x[:, i * h // rows : -(-(i + 1) * h // rows)], (_span(i, h, rows), 1))
            for i in range(rows)
        ]
        x = ops.concat(bands, axis=1)
        bands = [
            ops.avg_pool2d(x[:, :, i * w // columns : -(-(i + 1) * w // columns)], (1, _span(i, w, columns)))
            for i in range(columns)
        ]
        return ops.concat(bands, axis=2)

    def extra_repr(self) -> str:
        return f"{self.size}"


def _span(i: int, size: int, parts: int) -> int:
    return -(-(i + 1) * size // parts) - i * size // parts
