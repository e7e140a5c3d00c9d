"""U-Net, with same and with valid padding."""

from __future__ import annotations

from typing import Any

from .. import nn, ops
from ..nn import Module
from ..ops.registry import choice, fail, rank
from .registry import Pretrained, register_model

__all__ = ["UNet", "unet", "unet_input_size", "unet_output_size", "unet_small", "unet_valid"]

REFERENCE = "Ronneberger, Fischer and Brox, U-Net: convolutional networks for biomedical images, 2015"


class DoubleConv(Module):
    """Two 3x3 convolutions with ReLU, normalised where asked for."""

    def __init__(self, in_channels: int, out_channels: int, padding: int, batch_norm: bool) -> None:
        options: dict[str, Any] = {"padding": padding, "bias": not batch_norm}
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, **options)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, **options)
        if batch_norm:
            self.bn1, self.bn2 = nn.BatchNorm2d(out_channels), nn.BatchNorm2d(out_channels)
        self.batch_norm = batch_norm

    def forward(self, x: Any) -> Any:
        if not self.batch_norm:
            return nn.activated(self.conv2, "relu", nn.activated(self.conv1, "relu", x))
        x = nn.activated(self.bn1, "relu", self.conv1(x))
        return nn.activated(self.bn2, "relu", self.conv2(x))


class UpBlock(Module):
    """The map twice as large by a transpose convolution, joined to the middle of a skip, two convolutions."""

    def __init__(self, in_channels: int, out_channels: int, padding: int, batch_norm: bool) -> None:
        self.up = nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2)
        self.convs = DoubleConv(2 * out_channels, out_channels, padding, batch_norm)

    def forward(self, x: Any, skip: Any) -> Any:
        x = self.up(x)
        return self.convs(ops.concat([_middle(skip, x.shape[1:3]), x]))


def _middle(x: Any, size: tuple[int, int]) -> Any:
    """The middle of pictures, of this many rows and columns."""
    if x.shape[1:3] == size:
        return x
    top, left = (x.shape[1] - size[0]) // 2, (x.shape[2] - size[1]) // 2
    return ops.take(x, (slice(None), slice(top, top + size[0]), slice(left, left + size[1])))


def unet_output_size(size: int, *, depth: int = 4) -> int:
    """Rows that the valid form gives for this many.

    Raises
    ------
    ShapeError
        If a pooling would meet an odd number of rows, or none are left.
    """
    rows = size
    for level in range(depth):
        rows -= 4
        if rows < 2 or rows % 2:
            what = f"{rows} rows and columns before pooling {level + 1}, which wants an even number"
            fail("UNet", f"an input of {size} has {what}; use one of unet_input_size")
        rows //= 2
    rows = (rows - 4) * 2
    for level in range(depth):
        rows -= 4
        if rows < 1:
            fail("UNet", f"an input of {size} leaves no output")
        if level < depth - 1:
            rows *= 2
    return rows


def unet_input_size(size: int, *, depth: int = 4) -> int:
    """The smallest input of the valid form whose output has at least this many rows.

    The output is larger than asked for where no input gives just that; see :func:`unet_output_size`.
    """
    scale = 1 << depth
    # From the bottom up: an input of scale * n + margin has n + 4 rows below the last pooling.
    margin = 4 * (scale - 1)
    for bottom in range(5, size + margin + 5):
        rows = bottom * scale + margin
        if bottom * scale - 4 * scale - margin >= size:
            return rows
    raise AssertionError("unreachable: every step adds rows")


class UNet(Module):
    """U-Net.

    Parameters
    ----------
    num_classes : int
        Channels of the output.
    in_channels : int
    width : int
        Channels of the first level; each level below has twice as many.
    depth : int
        Poolings.
    padding : {"same", "valid"}
        ``"same"``: the output has the size of the input, which must be a multiple of 2^depth. ``"valid"``:
        as published, every output pixel has seen nothing but picture; skips are cropped.
    batch_norm : bool
        Normalise after each 3x3 convolution, which then has no bias; not in the source.

    Notes
    -----
    ``forward`` takes (N, H, W, in_channels) and gives scores (N, H', W', num_classes), with H' = H or
    ``unet_output_size(H)``; 572 gives 388.

    References
    ----------
    Ronneberger, Fischer and Brox, "U-Net: convolutional networks for biomedical image segmentation", 2015.
    """

    def __init__(
        self,
        num_classes: int = 2,
        *,
        in_channels: int = 1,
        width: int = 64,
        depth: int = 4,
        padding: str = "same",
        batch_norm: bool = False,
    ) -> None:
        choice("UNet", "padding", padding, ("same", "valid"))
        if depth < 1:
            raise ValueError(f"UNet: depth must be at least 1, got {depth}")
        self.padding, self.depth = padding, depth
        pad = 1 if padding == "same" else 0
        channels = [width << level for level in range(depth + 1)]
        before = [in_channels, *channels[:-1]]
        self.down = nn.ModuleList(
            *[DoubleConv(i, o, pad, batch_norm) for i, o in zip(before[:-1], channels[:-1], strict=True)]
        )
        self.bottom = DoubleConv(channels[-2], channels[-1], pad, batch_norm)
        self.up = nn.ModuleList(*[UpBlock(c, c // 2, pad, batch_norm) for c in reversed(channels[1:])])
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, x: Any) -> Any:
        self._check(x.shape)
        skips = []
        for level in self.down:
            skips.append(level(x))
            x = ops.max_pool2d(skips[-1], 2)
        x = self.bottom(x)
        for level, skip in zip(self.up, reversed(skips), strict=True):
            x = level(x, skip)
        return self.classifier(x)

    def frame_size(self, rows: int) -> tuple[int, int]:
        """Rows of the smallest input whose output has at least so many rows, and rows of that output."""
        if self.padding == "valid":
            size = unet_input_size(rows, depth=self.depth)
            return size, unet_output_size(size, depth=self.depth)
        size = -(-rows // (1 << self.depth)) << self.depth
        return size, size

    def _check(self, shape: tuple[int, ...]) -> None:
        """Sizes that the poolings can halve; everything else is the operators' to refuse."""
        rank("UNet", "x", shape, "N,H,W,C")
        for n in shape[1:3]:
            if self.padding == "valid":
                unet_output_size(n, depth=self.depth)
            elif n % (1 << self.depth) or n == 0:
                multiple = f"rows and columns must be multiples of {1 << self.depth}"
                fail("UNet", f"with same padding {multiple}, got {n}", x=shape)


@register_model(input_size=(256, 256, 1), task="segmentation", reference=REFERENCE)
def unet(num_classes: int = 2, **options: Any) -> UNet:
    """U-Net with same padding: 31,030,658 parameters for one channel and two classes.

    Options as for :class:`UNet`.
    """
    return UNet(num_classes, **options)


@register_model(input_size=(572, 572, 1), task="segmentation", reference=REFERENCE)
def unet_valid(num_classes: int = 2, **options: Any) -> UNet:
    """U-Net as published, 572 x 572 to 388 x 388: 31,030,658 parameters."""
    return UNet(num_classes, padding="valid", **options)


@register_model(
    input_size=(256, 256, 1),
    task="segmentation",
    reference=REFERENCE,
    weights={
        "nuclei": Pretrained(
            file="unet_nuclei.safetensors",
            mean=(0.05,),
            std=(0.07,),
            input_size=(256, 256),
            resize=256,
            classes="nuclei",
            licence="MIT",
            accuracy={"dice": 92.03, "mean_iou": 90.61},
        )
    },
)
def unet_small(num_classes: int = 2, **options: Any) -> UNet:
    """U-Net of 8 to 64 channels on four levels, normalised: 121,042 parameters.

    Options as for :class:`UNet`.
    """
    return UNet(num_classes, **({"width": 8, "depth": 3, "batch_norm": True} | options))
