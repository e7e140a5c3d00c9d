"""GoogLeNet, as published (no batch normalisation) and in the form that torchvision trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import nn, ops
from ..nn import Module, Sequential
from .registry import Pretrained, register_model

__all__ = ["GoogLeNet", "InceptionModule", "googlenet", "googlenet_original"]

REFERENCE = "Szegedy et al., Going deeper with convolutions, 2015"
# Per module: 1x1; 3x3 reduced and 3x3; 5x5 reduced and 5x5; after pooling. Table 1 of the source.
MODULES = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
INIT = "glorot_uniform"


class ConvReLU(Module):
    """Convolution, batch normalisation where asked for (the convolution has a bias otherwise), ReLU."""

    def __init__(self, in_channels: int, out_channels: int, size: int, *, batch_norm: bool, **options: Any):
        self.conv = nn.Conv2d(in_channels, out_channels, size, bias=not batch_norm, init=INIT, **options)
        if batch_norm:
            self.bn = nn.BatchNorm2d(out_channels, eps=0.001)
        self.batch_norm = batch_norm

    def forward(self, x: Any) -> Any:
        if self.batch_norm:
            return nn.activated(self.bn, "relu", self.conv(x))
        return nn.activated(self.conv, "relu", x)


class InceptionModule(Module):
    """Four branches side by side: 1x1, 3x3 and 5x5 convolutions and maxima, the last three behind 1x1.

    Parameters
    ----------
    in_channels : int
    widths : six ints
        1x1; 3x3 reduced, 3x3; 5x5 reduced, 5x5; channels after the pooling.
    batch_norm : bool
    third_kernel : {5, 3}
        Kernel of the third branch: 5 as published, 3 as torchvision has it.

    Attributes
    ----------
    out_channels : int
    """

    def __init__(
        self,
        in_channels: int,
        widths: tuple[int, int, int, int, int, int],
        *,
        batch_norm: bool = False,
        third_kernel: int = 5,
    ) -> None:
        one, three_in, three, five_in, five, pooled = widths
        self.out_channels = one + three + five + pooled
        self.branch1 = ConvReLU(in_channels, one, 1, batch_norm=batch_norm)
        self.branch2 = Sequential(
            ConvReLU(in_channels, three_in, 1, batch_norm=batch_norm),
            ConvReLU(three_in, three, 3, padding=1, batch_norm=batch_norm),
        )
        self.branch3 = Sequential(
            ConvReLU(in_channels, five_in, 1, batch_norm=batch_norm),
            ConvReLU(five_in, five, third_kernel, padding=third_kernel // 2, batch_norm=batch_norm),
        )
        self.branch4 = Sequential(
            nn.MaxPool2d(3, stride=1, padding=1),
            ConvReLU(in_channels, pooled, 1, batch_norm=batch_norm),
        )

    def forward(self, x: Any) -> Any:
        return ops.concat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)])


class AuxiliaryHead(Module):
    """A classifier on a feature map in the middle of the network, which helps to train what is before it."""

    def __init__(self, in_channels: int, num_classes: int, *, batch_norm: bool, dropout: float = 0.7) -> None:
        self.conv = ConvReLU(in_channels, 128, 1, batch_norm=batch_norm)
        self.fc1 = nn.Linear(2048, 1024, feature_map=(4, 4, 128), init=INIT)
        self.dropout = nn.Dropout(dropout)
        self.fc2 = nn.Linear(1024, num_classes, init=INIT)
        self.batch_norm = batch_norm

    def forward(self, x: Any) -> Any:
        # From 14 x 14: windows of 5 at steps of 3 as published, four windows of 4 in torchvision.
        x = _four_by_four(x) if self.batch_norm else ops.avg_pool2d(x, 5, stride=3)
        x = ops.relu(self.fc1(ops.flatten(self.conv(x))))
        return self.fc2(self.dropout(x))


def _four_by_four(x: Any) -> Any:
    """Mean over 4 x 4 windows that cover the picture evenly, which may overlap by a row or column."""
    for axis in (1, 2):
        n = x.shape[axis]
        parts = []
        for i in range(4):
            window = slice(i * n // 4, -(-(i + 1) * n // 4))
            part = ops.take(x, (*[slice(None)] * axis, window))
            length = part.shape[axis]
            parts.append(ops.avg_pool2d(part, (length, 1) if axis == 1 else (1, length)))
        x = ops.concat(parts, axis)
    return x


class GoogLeNet(Module):
    """GoogLeNet (Inception v1).

    Parameters
    ----------
    num_classes : int
    batch_norm : bool
        True: torchvision's form, with batch normalisation, 3x3 kernels in the third branches and no
        local response normalisation. False: the published one, with 5x5 kernels and local response
        normalisation.
    aux_logits : bool
        Whether the two auxiliary heads exist.
    return_aux : bool
        Whether their outputs are given in evaluation mode too.
    dropout, dropout_aux : float

    Notes
    -----
    ``forward`` takes (N, 224, 224, 3) (other sizes too, as long as no published head is in use) and gives
    logits (N, num_classes); with heads, in training mode or with ``return_aux``, the tuple (logits, those
    of the second head on 4d, those of the first on 4a).

    References
    ----------
    Szegedy et al., "Going deeper with convolutions", 2015.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        *,
        batch_norm: bool = True,
        aux_logits: bool = False,
        return_aux: bool = False,
        dropout: float | None = None,
        dropout_aux: float = 0.7,
    ) -> None:
        if return_aux and not aux_logits:
            raise ValueError("GoogLeNet: return_aux needs the heads of aux_logits=True")
        self.batch_norm, self.aux_logits, self.return_aux = batch_norm, aux_logits, return_aux
        self.conv1 = ConvReLU(3, 64, 7, stride=2, padding=3, batch_norm=batch_norm)
        self.maxpool1 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.conv2 = ConvReLU(64, 64, 1, batch_norm=batch_norm)
        self.conv3 = ConvReLU(64, 192, 3, padding=1, batch_norm=batch_norm)
        self.maxpool2 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        channels = 192
        before = {}
        for name, widths in MODULES.items():
            before[name] = channels
            module = InceptionModule(
                channels, widths, batch_norm=batch_norm, third_kernel=3 if batch_norm else 5
            )
            setattr(self, f"inception{name}", module)
            channels = module.out_channels
            if name == "3b":
                self.maxpool3 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
            elif name == "4e":
                self.maxpool4 = nn.MaxPool2d(2 if batch_norm else 3, stride=2, ceil_mode=True)
        if aux_logits:
            options: dict[str, Any] = {"batch_norm": batch_norm, "dropout": dropout_aux}
            self.aux1 = AuxiliaryHead(before["4b"], num_classes, **options)
            self.aux2 = AuxiliaryHead(before["4e"], num_classes, **options)
        # The convention of the weights that were released for Caffe.
        lrn = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0, alpha_mode="mean")
        self.norm = nn.Identity() if batch_norm else lrn
        self.dropout = nn.Dropout((0.2 if batch_norm else 0.4) if dropout is None else dropout)
        self.fc = nn.Linear(channels, num_classes, init=INIT)

    def forward(self, x: Any) -> Any:
        x = self.norm(self.maxpool1(self.conv1(x)))
        x = self.norm(self.conv3(self.conv2(x)))
        x = self.maxpool2(x)
        x = self.inception3b(self.inception3a(x))
        x = self.inception4a(self.maxpool3(x))
        aux = self.aux_logits and (self.training or self.return_aux)
        first = self.aux1(x) if aux else None
        x = self.inception4d(self.inception4c(self.inception4b(x)))
        second = self.aux2(x) if aux else None
        x = self.maxpool4(self.inception4e(x))
        x = self.inception5b(self.inception5a(x))
        x = ops.flatten(ops.global_avg_pool2d(x))
        x = self.fc(self.dropout(x))
        return (x, second, first) if aux else x

    def load_state_dict(self, state: Mapping[str, Any], **options: Any) -> tuple[list[str], list[str]]:
        """As for every module; entries of the heads are passed over where the network has none."""
        if not self.aux_logits:
            state = {name: a for name, a in state.items() if not name.startswith(("aux1.", "aux2."))}
        return super().load_state_dict(state, **options)


@register_model(
    reference=REFERENCE,
    weights={
        # Trained on pictures scaled to -1..1.
        "torchvision": Pretrained(
            url="https://download.pytorch.org/models/googlenet-1378be20.pth",
            sha256="1378be20",
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            accuracy={"top1": 69.778, "top5": 89.53},
        )
    },
)
def googlenet(num_classes: int = 1000, **options: Any) -> GoogLeNet:
    """GoogLeNet with batch normalisation, as torchvision trains it: 6,624,904 parameters.

    Options as for :class:`GoogLeNet`; ``aux_logits=True`` adds the two heads (13,004,888 in all).
    """
    return GoogLeNet(num_classes, batch_norm=True, **options)


@register_model(reference=REFERENCE)
def googlenet_original(num_classes: int = 1000, **options: Any) -> GoogLeNet:
    """GoogLeNet as published: 6,998,552 parameters, 13,378,280 with ``aux_logits=True``."""
    return GoogLeNet(num_classes, batch_norm=False, **options)
