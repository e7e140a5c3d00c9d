"""Pooling layers."""

from __future__ import annotations

from typing import Any

from .. import ops
from .module import Module

__all__ = ["AvgPool2d", "GlobalAvgPool2d", "GlobalMaxPool2d", "MaxPool2d", "Upsample"]


class MaxPool2d(Module):
    """Maximum over windows, see :func:`cnnfast.ops.max_pool2d`."""

    def __init__(
        self, size: Any, *, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
    ) -> None:
        self.size, self.stride, self.padding = size, stride, padding
        self.dilation, self.ceil_mode = dilation, ceil_mode

    def forward(self, x: Any) -> Any:
        return ops.max_pool2d(
            x,
            self.size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            ceil_mode=self.ceil_mode,
        )

    def extra_repr(self) -> str:
        return f"{self.size}, stride {self.size if self.stride is None else self.stride}"


class AvgPool2d(Module):
    """Mean over windows, see :func:`cnnfast.ops.avg_pool2d`."""

    def __init__(
        self,
        size: Any,
        *,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        self.size, self.stride, self.padding = size, stride, padding
        self.ceil_mode, self.count_include_pad = ceil_mode, count_include_pad

    def forward(self, x: Any) -> Any:
        return ops.avg_pool2d(
            x,
            self.size,
            stride=self.stride,
            padding=self.padding,
            ceil_mode=self.ceil_mode,
            count_include_pad=self.count_include_pad,
        )

    def extra_repr(self) -> str:
        return f"{self.size}, stride {self.size if self.stride is None else self.stride}"


class GlobalAvgPool2d(Module):
    """Mean over each channel's whole picture: (N, H, W, C) to (N, 1, 1, C)."""

    def forward(self, x: Any) -> Any:
        return ops.global_avg_pool2d(x)


class GlobalMaxPool2d(Module):
    """Maximum over each channel's whole picture: (N, H, W, C) to (N, 1, 1, C)."""

    def forward(self, x: Any) -> Any:
        return ops.global_max_pool2d(x)


class Upsample(Module):
    """Pictures enlarged by a whole factor, see :func:`cnnfast.ops.resize`."""

    def __init__(self, factor: int = 2, *, mode: str = "nearest") -> None:
        self.factor, self.mode = factor, mode

    def forward(self, x: Any) -> Any:
        return ops.resize(x, (x.shape[1] * self.factor, x.shape[2] * self.factor), mode=self.mode)

    def extra_repr(self) -> str:
        return f"x{self.factor}, {self.mode}"
