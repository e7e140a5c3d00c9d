"""Convolution layers."""

from __future__ import annotations

from typing import Any, ClassVar

from .. import ops
from ..ops.conv import resolve_padding
from ..ops.registry import fail, hashable, integer, pair
from ..tensor import Parameter
from .module import Module

__all__ = ["Conv2d", "ConvTranspose2d", "DepthwiseConv2d"]


def kernel_pair(op: str, size: Any) -> tuple[int, int]:
    """(height, width) of a kernel."""
    if isinstance(size, (tuple, list)):
        if len(size) != 2:
            fail(op, f"kernel size must be a whole number or a pair, got {size!r}")
        return integer(op, "kernel size", size[0], 1), integer(op, "kernel size", size[1], 1)
    n = integer(op, "kernel size", size, 1)
    return n, n


class _Convolution(Module):
    """Geometry, weight and bias: what all convolutions hold, whatever the axes of the weight."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any,
        padding: Any,
        dilation: Any,
        groups: int,
        bias: bool,
        init: str,
    ) -> None:
        op = type(self).__name__
        for name, value in (("in_channels", in_channels), ("out_channels", out_channels), ("groups", groups)):
            integer(op, name, value, 1)
        if in_channels % groups or out_channels % groups:
            fail(op, f"{in_channels} and {out_channels} channels cannot be split into {groups} groups")
        kh, kw = kernel_pair(op, kernel_size)
        steps = (pair(op, n, hashable(v), 1) for n, v in (("stride", stride), ("dilation", dilation)))
        resolve_padding(op, hashable(padding), (1, 1), (kh, kw), *steps)  # what is wrong is refused here
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, (kh, kw)
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        fan = (kh * kw * in_channels // groups, kh * kw * out_channels // groups)
        self.weight = Parameter((kh, kw, *self._weight_channels()), init, fan)
        self.bias = Parameter((out_channels,), "zeros") if bias else None

    def _weight_channels(self) -> tuple[int, int]:
        """The last two axes of the weight."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        """The parameters that are not the usual ones."""
        parts = [f"{self.in_channels} -> {self.out_channels}", f"kernel {self.kernel_size}"]
        usual = {"stride": 1, "padding": 0, "output_padding": 0, "dilation": 1, "groups": 1}
        for name, value in usual.items():
            own = getattr(self, name, value)
            if own not in (value, (value, value)):
                parts.append(f"{name} {own}")
        if self.bias is None:
            parts.append("no bias")
        return ", ".join(parts)


class Conv2d(_Convolution):
    """Convolution layer, see :func:`cnnfast.ops.conv2d`.

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size : int or (int, int)
    stride, padding, dilation, groups, padding_mode
        As for the operator.
    bias : bool
    init : str
        Initialisation of the weight.

    Attributes
    ----------
    weight : Parameter, shape (KH, KW, in_channels / groups, out_channels)
    bias : Parameter, shape (out_channels,), or None
    """

    layouts: ClassVar[dict[str, str]] = {"weight": "conv"}

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        *,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        init: str = "he_normal",
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, init
        )
        self.padding_mode = padding_mode

    def _weight_channels(self) -> tuple[int, int]:
        return self.in_channels // self.groups, self.out_channels

    def forward(self, x: Any, activation: str | None = None) -> Any:
        return ops.conv2d(
            x,
            self.weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            padding_mode=self.padding_mode,
            activation=activation,
        )


class DepthwiseConv2d(_Convolution):
    """A convolution of each channel by kernels of its own, see :func:`cnnfast.ops.depthwise_conv2d`.

    Attributes
    ----------
    weight : Parameter, shape (KH, KW, channels, multiplier)
    bias : Parameter, shape (channels * multiplier,), or None
    """

    layouts: ClassVar[dict[str, str]] = {"weight": "depthwise"}

    def __init__(
        self,
        channels: int,
        kernel_size: Any,
        *,
        multiplier: int = 1,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        bias: bool = True,
        init: str = "he_normal",
    ) -> None:
        integer("DepthwiseConv2d", "channels", channels, 1)
        integer("DepthwiseConv2d", "multiplier", multiplier, 1)
        super().__init__(
            channels, channels * multiplier, kernel_size, stride, padding, dilation, channels, bias, init
        )

    def _weight_channels(self) -> tuple[int, int]:
        return self.in_channels, self.out_channels // self.in_channels

    def forward(self, x: Any, activation: str | None = None) -> Any:
        return ops.depthwise_conv2d(
            x,
            self.weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            activation=activation,
        )


class ConvTranspose2d(_Convolution):
    """Transpose convolution layer, see :func:`cnnfast.ops.conv2d_transpose`.

    Attributes
    ----------
    weight : Parameter, shape (KH, KW, out_channels / groups, in_channels)
    bias : Parameter, shape (out_channels,), or None
    """

    layouts: ClassVar[dict[str, str]] = {"weight": "transpose"}

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        *,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        init: str = "he_normal",
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, init
        )
        if isinstance(padding, str):
            fail("ConvTranspose2d", f"padding must be given in numbers, got {padding!r}")
        pair("ConvTranspose2d", "output_padding", hashable(output_padding), 0)
        self.output_padding = output_padding

    def _weight_channels(self) -> tuple[int, int]:
        return self.out_channels // self.groups, self.in_channels

    def forward(self, x: Any) -> Any:
        return ops.conv2d_transpose(
            x,
            self.weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            output_padding=self.output_padding,
            dilation=self.dilation,
            groups=self.groups,
        )
