"""Encoder and decoder for segmentation: VGG-16 down to 1/32 and back, without skips."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import nn
from ..nn import Module, Sequential
from ..ops.registry import fail
from .registry import register_model

__all__ = ["SegNetVGG16", "segnet_vgg16"]

# Convolutions per level of VGG-16, each level followed by a pooling; the decoder mirrors them.
LEVELS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
DEPTH = len(LEVELS)


class SegNetVGG16(Module):
    """VGG-16's convolutions, dense layers at every place of the smallest map, and a decoder.

    Five poolings take the picture to 1/32; five transpose convolutions, each before the 3x3 convolutions
    of its level (512 x 3, 512 x 3, 256 x 3, 128 x 2, 64 x 2), take it back to full size.

    Parameters
    ----------
    num_classes : int
    in_channels : int
    bottleneck : int
        Width of the dense layers; 0 leaves them out.
    width : float
        Factor on all other channels, for small networks.

    Notes
    -----
    ``forward`` takes (N, H, W, in_channels) with H and W multiples of 32 and gives scores
    (N, H, W, num_classes). The encoder (``features``, 14,714,688 parameters) is named and numbered as
    VGG-16 is in torchvision: its weights can be loaded with ``load_encoder``.

    References
    ----------
    Noh, Hong and Han, "Learning deconvolution network for semantic segmentation", 2015; Simonyan and
    Zisserman, "Very deep convolutional networks for large-scale image recognition", 2015.
    """

    def __init__(
        self, num_classes: int = 21, *, in_channels: int = 3, bottleneck: int = 1024, width: float = 1.0
    ) -> None:
        levels = [(max(1, round(channels * width)), count) for channels, count in LEVELS]
        self.features = Sequential()
        c = in_channels
        for channels, count in levels:
            for _ in range(count):
                self.features.append(nn.Conv2d(c, channels, 3, padding=1)).append(nn.ReLU())
                c = channels
            self.features.append(nn.MaxPool2d(2))
        self.bottleneck = Sequential()
        if bottleneck:
            self.bottleneck.append(nn.Conv2d(c, bottleneck, 1)).append(nn.ReLU())
            self.bottleneck.append(nn.Conv2d(bottleneck, c, 1)).append(nn.ReLU())
        self.decoder = Sequential()
        for channels, count in reversed(levels):
            level = Sequential(nn.ConvTranspose2d(c, channels, 2, stride=2), nn.ReLU())
            for _ in range(count):
                level.append(nn.Conv2d(channels, channels, 3, padding=1)).append(nn.ReLU())
            self.decoder.append(level)
            c = channels
        self.classifier = nn.Conv2d(c, num_classes, 1)

    def forward(self, x: Any) -> Any:
        if any(n % (1 << DEPTH) or n == 0 for n in x.shape[1:3]):
            fail("SegNetVGG16", f"rows and columns must be multiples of {1 << DEPTH}", x=x.shape)
        return self.classifier(self.decoder(self.bottleneck(self.features(x))))

    def frame_size(self, rows: int) -> tuple[int, int]:
        """Rows of the smallest input whose output has at least so many rows, and rows of that output."""
        size = -(-rows // (1 << DEPTH)) << DEPTH
        return size, size

    def load_encoder(self, state: Mapping[str, Any], layout: str = "torch") -> None:
        """Take the encoder's weights over from a state dict of VGG-16; its dense layers are passed over."""
        prefix = "features."
        own = {name.removeprefix(prefix): a for name, a in state.items() if name.startswith(prefix)}
        self.features.load_state_dict(own, layout=layout)


@register_model(
    input_size=224, task="segmentation", reference="Noh, Hong and Han, Learning deconvolution network, 2015"
)
def segnet_vgg16(num_classes: int = 21, **options: Any) -> SegNetVGG16:
    """VGG-16 encoder and mirrored decoder without skips. Options as for :class:`SegNetVGG16`."""
    return SegNetVGG16(num_classes, **options)
