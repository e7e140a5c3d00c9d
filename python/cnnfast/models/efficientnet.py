"""EfficientNet B0 to B7, their compound scaling, and EfficientNet-Lite0."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .. import nn, ops
from ..nn import Module, Sequential
from ..nn.activation import drop
from . import blocks
from .registry import Pretrained, register_model
from .timm_names import from_timm

__all__ = [
    "EfficientNet",
    "EfficientNetLite",
    "MBConv",
    "Scaling",
    "SqueezeExcitation",
    "StochasticDepth",
    "compound_scaling",
    "efficientnet_b0",
    "efficientnet_b1",
    "efficientnet_b2",
    "efficientnet_b3",
    "efficientnet_b4",
    "efficientnet_b5",
    "efficientnet_b6",
    "efficientnet_b7",
    "efficientnet_lite0",
    "round_channels",
    "round_depth",
    "tf_efficientnet_lite0",
]

REFERENCE = "Tan and Le, EfficientNet: rethinking model scaling for convolutional neural networks, 2019"
# Per stage of B0: expansion, kernel, stride, channels in, channels out, blocks. Table 1 of the source.
STAGES = (
    (1, 3, 1, 32, 16, 1),
    (6, 3, 2, 16, 24, 2),
    (6, 5, 2, 24, 40, 2),
    (6, 3, 2, 40, 80, 3),
    (6, 5, 1, 80, 112, 3),
    (6, 5, 2, 112, 192, 4),
    (6, 3, 1, 192, 320, 1),
)


# --- scaling ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scaling:
    """How a network is larger than its base: factors of depth and width, and rows of its input."""

    depth: float
    width: float
    resolution: int
    flops: float


def compound_scaling(
    phi: float, *, alpha: float = 1.2, beta: float = 1.1, gamma: float = 1.15, resolution: int = 224
) -> Scaling:
    """Depth, width and resolution for 2^phi times the work.

    Parameters
    ----------
    phi : float
        0 is the base network.
    alpha, beta, gamma : float
        Growth of depth, width and resolution per unit; alpha beta^2 gamma^2 is about 2.
    resolution : int
        Rows of the base network's input.

    Returns
    -------
    Scaling
        depth = alpha^phi, width = beta^phi (channels: see :func:`round_channels`), resolution =
        gamma^phi of the base, and flops = (alpha beta^2 gamma^2)^phi. The published B1 to B7 took rounded
        values near these, listed as options of their builders.

    References
    ----------
    Tan and Le, "EfficientNet", 2019, equation 3.
    """
    return Scaling(alpha**phi, beta**phi, round(resolution * gamma**phi), (alpha * beta**2 * gamma**2) ** phi)


def round_channels(channels: float, width: float = 1.0, divisor: int = 8) -> int:
    """Channels times width as the nearest multiple of ``divisor``, but not below nine tenths of it."""
    return blocks.round_channels(channels * width, divisor)


def round_depth(blocks: int, depth: float = 1.0) -> int:
    """Blocks times depth, rounded up."""
    return math.ceil(blocks * depth)


# --- blocks ----------------------------------------------------------------------------------------


class StochasticDepth(Module):
    """Leaves out its input at random, whole pictures at a time, while training; in use it is the identity.

    A picture is left out with probability p, else divided by 1 - p. The random numbers are those of
    :func:`cnnfast.manual_seed`.

    References
    ----------
    Huang et al., "Deep networks with stochastic depth", 2016.
    """

    def __init__(self, p: float) -> None:
        if not 0 <= p < 1:
            raise ValueError(f"StochasticDepth: p must be at least 0 and below 1, got {p}")
        self.p = p

    def forward(self, x: Any) -> Any:
        if not (self.training and self.p):
            return x
        return drop(x, self.p, (x.shape[0], 1, 1, 1))

    def extra_repr(self) -> str:
        return f"p {self.p:g}"


class SqueezeExcitation(Module):
    """Channels times gates that are worked out from their means: sigmoid(fc2(silu(fc1(mean)))).

    References
    ----------
    Hu et al., "Squeeze-and-excitation networks", 2018.
    """

    def __init__(self, channels: int, squeezed: int) -> None:
        self.fc1 = nn.Conv2d(channels, squeezed, 1, init="fan_out_normal")
        self.fc2 = nn.Conv2d(squeezed, channels, 1, init="fan_out_normal")

    def forward(self, x: Any) -> Any:
        gates = ops.silu(self.fc1(ops.global_avg_pool2d(x)))
        return ops.mul(x, ops.sigmoid(self.fc2(gates)))


def _conv(
    c_in: int, c_out: int, size: int, norm: Mapping[str, float], stride: int = 1, depthwise: bool = False
) -> Sequential:
    """Convolution and batch normalisation; an activation is appended by who wants one."""
    options: dict[str, Any] = {"stride": stride, "padding": size // 2, "bias": False}
    conv = (
        nn.DepthwiseConv2d(c_in, size, **options)
        if depthwise
        else nn.Conv2d(c_in, c_out, size, init="fan_out_normal", **options)
    )
    return Sequential(conv, nn.BatchNorm2d(c_out, **norm))


class MBConv(Module):
    """Expand by 1x1, filter depthwise, squeeze and excite, project by 1x1; added to its input if it can be.

    Parameters
    ----------
    expansion : int
        Channels in between per channel in.
    kernel, stride : int
        Of the depthwise convolution.
    c_in, c_out : int
    drop : float
        Probability that the block is left out of a picture in training.
    norm : mapping
        ``eps`` and ``momentum`` of the batch normalisations.
    """

    def __init__(
        self,
        expansion: int,
        kernel: int,
        stride: int,
        c_in: int,
        c_out: int,
        *,
        drop: float = 0.0,
        norm: Mapping[str, float] | None = None,
    ) -> None:
        norm = norm or {}
        inner = round_channels(c_in * expansion)
        block = Sequential()
        if inner != c_in:
            block.append(_conv(c_in, inner, 1, norm).append(nn.SiLU()))
        block.append(_conv(inner, inner, kernel, norm, stride, depthwise=True).append(nn.SiLU()))
        block.append(SqueezeExcitation(inner, max(1, c_in // 4)))
        block.append(_conv(inner, c_out, 1, norm))
        self.block = block
        self.stochastic_depth = StochasticDepth(drop)
        self.residual = stride == 1 and c_in == c_out

    def forward(self, x: Any) -> Any:
        y = self.block(x)
        return ops.add(self.stochastic_depth(y), x) if self.residual else y


class EfficientNet(Module):
    """EfficientNet of any depth and width.

    Parameters
    ----------
    num_classes : int
    width, depth : float
        Factors on the channels and blocks of B0, see :func:`compound_scaling`.
    dropout : float
        Before the classifier.
    drop : float
        Largest probability of stochastic depth, reached at the last block.
    eps, momentum : float
        Of the batch normalisations.

    Notes
    -----
    ``forward`` takes (N, H, W, 3) of any size and gives logits (N, num_classes). Weights under timm's names
    fit as well, but not those of its ``tf_`` networks: they have the same names and pad in another way.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        *,
        width: float = 1.0,
        depth: float = 1.0,
        dropout: float = 0.2,
        drop: float = 0.2,
        eps: float = 1e-5,
        momentum: float = 0.1,
    ) -> None:
        norm = {"eps": eps, "momentum": momentum}
        total = sum(round_depth(stage[5], depth) for stage in STAGES)
        first = round_channels(STAGES[0][3], width)
        features = Sequential(_conv(3, first, 3, norm, stride=2).append(nn.SiLU()))
        done = 0
        for expansion, kernel, stride, c_in, c_out, count in STAGES:
            c_in, c_out = round_channels(c_in, width), round_channels(c_out, width)
            stage = Sequential()
            for _ in range(round_depth(count, depth)):
                chance = drop * done / total
                stage.append(MBConv(expansion, kernel, stride, c_in, c_out, drop=chance, norm=norm))
                c_in, stride, done = c_out, 1, done + 1
            features.append(stage)
        last = 4 * c_in
        features.append(_conv(c_in, last, 1, norm).append(nn.SiLU()))
        self.features = features
        self.classifier = Sequential(nn.Dropout(dropout), nn.Linear(last, num_classes))
        self.eps = eps

    @property
    def renames(self) -> tuple[Callable[[str], str], ...]:
        # Theirs have this eps: weights for another one would load, and compute something else.
        return (_FROM_TIMM,) if self.eps == 1e-5 else ()

    def forward(self, x: Any) -> Any:
        return self.classifier(ops.flatten(ops.global_avg_pool2d(self.features(x))))


_FROM_TIMM = from_timm(
    "features.8",
    lambda stage, i: f"features.{1 + stage}.{i}.block",
    {"conv_dw": "0.0", "bn1": "0.1", "se.conv_reduce": "1.fc1", "se.conv_expand": "1.fc2",
     "conv_pw": "2.0", "bn2": "2.1"},
    {"conv_pw": "0.0", "bn1": "0.1", "conv_dw": "1.0", "bn2": "1.1", "se.conv_reduce": "2.fc1",
     "se.conv_expand": "2.fc2", "conv_pwl": "3.0", "bn3": "3.1"},
)  # fmt: skip


# --- B0 to B7 --------------------------------------------------------------------------------------


def _efficientnet(name: str, parameters: int, *weights: Pretrained, **usual: float) -> Callable[..., Module]:
    """Put one network on the list: weights, the latest first, and its options of :class:`EfficientNet`."""

    def build(num_classes: int = 1000, **options: Any) -> EfficientNet:
        return EfficientNet(num_classes, **{**usual, **options})

    build.__name__ = build.__qualname__ = f"efficientnet_{name}"
    build.__doc__ = (
        f"EfficientNet-{name.upper()}: {parameters:,} parameters. Options as for :class:`EfficientNet`."
    )
    known = dict(zip(("torchvision", "torchvision_v1"), weights, strict=False))
    return register_model(input_size=weights[0].input_size[0], reference=REFERENCE, weights=known)(build)


def _weights(file: str, size: int, resize: int, top1: float, top5: float, cubic: bool = True) -> Pretrained:
    return Pretrained(
        url=f"https://download.pytorch.org/models/efficientnet_{file}.pth",
        sha256=file.rpartition("-")[2],
        input_size=(size, size),
        resize=resize,
        interpolation="bicubic" if cubic else "bilinear",
        accuracy={"top1": top1, "top5": top5},
    )


# The larger ones were trained with other constants of their batch normalisations.
_WIDE_NORM = {"eps": 0.001, "momentum": 0.01}

efficientnet_b0 = _efficientnet("b0", 5_288_548, _weights("b0_rwightman-7f5810bc", 224, 256, 77.692, 93.532))
efficientnet_b1 = _efficientnet(
    "b1",
    7_794_184,
    _weights("b1-c27df63c", 240, 255, 79.838, 94.934, cubic=False),
    _weights("b1_rwightman-bac287d4", 240, 256, 78.642, 94.186),
    depth=1.1,
)
# Published for 260 x 260; the weights are known for 288 x 288.
_B2 = _weights("b2_rwightman-c35c1473", 288, 288, 80.608, 95.31)
efficientnet_b2 = _efficientnet("b2", 9_109_994, _B2, width=1.1, depth=1.2, dropout=0.3)
_B3 = _weights("b3_rwightman-b3899882", 300, 320, 82.008, 96.054)
efficientnet_b3 = _efficientnet("b3", 12_233_232, _B3, width=1.2, depth=1.4, dropout=0.3)
_B4 = _weights("b4_rwightman-23ab8bcd", 380, 384, 83.384, 96.594)
efficientnet_b4 = _efficientnet("b4", 19_341_616, _B4, width=1.4, depth=1.8, dropout=0.4)
_B5 = _weights("b5_lukemelas-1a07897c", 456, 456, 83.444, 96.628)
efficientnet_b5 = _efficientnet("b5", 30_389_784, _B5, width=1.6, depth=2.2, dropout=0.4, **_WIDE_NORM)
_B6 = _weights("b6_lukemelas-24a108a5", 528, 528, 84.008, 96.916)
efficientnet_b6 = _efficientnet("b6", 43_040_704, _B6, width=1.8, depth=2.6, dropout=0.5, **_WIDE_NORM)
_B7 = _weights("b7_lukemelas-c5b4e57e", 600, 600, 84.122, 96.908)
efficientnet_b7 = _efficientnet("b7", 66_347_960, _B7, width=2.0, depth=3.1, dropout=0.5, **_WIDE_NORM)


# --- Lite ------------------------------------------------------------------------------------------


class LiteBlock(Module):
    """Inverted residual of the Lite networks: ReLU6, no squeeze-and-excitation; names as in timm."""

    def __init__(
        self, expansion: int, kernel: int, stride: int, c_in: int, c_out: int, eps: float, same: bool
    ) -> None:
        inner = c_in * expansion
        padding: Any = "same" if same else kernel // 2
        norms = []
        if expansion > 1:
            self.conv_pw = nn.Conv2d(c_in, inner, 1, bias=False, init="fan_out_normal")
            norms.append(inner)
        self.conv_dw = nn.DepthwiseConv2d(inner, kernel, stride=stride, padding=padding, bias=False)
        norms += [inner, c_out]
        last = nn.Conv2d(inner, c_out, 1, bias=False, init="fan_out_normal")
        # In a block that does not expand, the projection is the pointwise convolution.
        setattr(self, "conv_pwl" if expansion > 1 else "conv_pw", last)
        for i, features in enumerate(norms):
            setattr(self, f"bn{i + 1}", nn.BatchNorm2d(features, eps=eps))
        self.expands = expansion > 1
        self.residual = stride == 1 and c_in == c_out

    def forward(self, x: Any) -> Any:
        if self.expands:
            y = nn.activated(self.bn1, "relu6", self.conv_pw(x))
            y = nn.activated(self.bn2, "relu6", self.conv_dw(y))
            y = self.bn3(self.conv_pwl(y))
        else:
            y = nn.activated(self.bn1, "relu6", self.conv_dw(x))
            y = self.bn2(self.conv_pw(y))
        return ops.add(y, x) if self.residual else y


class EfficientNetLite(Module):
    """EfficientNet-Lite0: B0 without squeeze-and-excitation, with ReLU6 for SiLU.

    Parameters
    ----------
    num_classes : int
    dropout : float
    same : bool
        ``"same"`` padding, whose extra row and column lie at the end, and eps .001: the form whose
        weights come from TensorFlow. Otherwise half the kernel on every side, and eps 1e-5.
    """

    def __init__(self, num_classes: int = 1000, *, dropout: float = 0.2, same: bool = False) -> None:
        eps = 0.001 if same else 1e-5
        padding: Any = "same" if same else 1
        self.conv_stem = nn.Conv2d(3, 32, 3, stride=2, padding=padding, bias=False, init="fan_out_normal")
        self.bn1 = nn.BatchNorm2d(32, eps=eps)
        self.blocks = Sequential()
        for expansion, kernel, stride, c_in, c_out, count in STAGES:
            stage = Sequential()
            for _ in range(count):
                stage.append(LiteBlock(expansion, kernel, stride, c_in, c_out, eps, same))
                c_in, stride = c_out, 1
            self.blocks.append(stage)
        self.conv_head = nn.Conv2d(320, 1280, 1, bias=False, init="fan_out_normal")
        self.bn2 = nn.BatchNorm2d(1280, eps=eps)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(1280, num_classes)

    def forward(self, x: Any) -> Any:
        x = nn.activated(self.bn1, "relu6", self.conv_stem(x))
        x = nn.activated(self.bn2, "relu6", self.conv_head(self.blocks(x)))
        return self.classifier(self.dropout(ops.flatten(ops.global_avg_pool2d(x))))


_TIMM = "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-weights/"
_LITE = "EfficientNet-Lite, https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite"


@register_model(
    reference=_LITE,
    weights={
        "timm": Pretrained(
            url=f"{_TIMM}efficientnet_lite0_ra-37913777.pth",
            sha256="37913777",
            interpolation="bicubic",
            accuracy={"top1": 75.5, "top5": 92.51},
        )
    },
)
def efficientnet_lite0(num_classes: int = 1000, **options: Any) -> EfficientNetLite:
    """EfficientNet-Lite0 with padding on every side: 4,652,008 parameters, names as in timm."""
    return EfficientNetLite(num_classes, same=False, **options)


@register_model(
    reference=_LITE,
    weights={
        "timm": Pretrained(
            url=f"{_TIMM}tf_efficientnet_lite0-0aa007d2.pth",
            sha256="0aa007d2",
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            interpolation="bicubic",
            accuracy={"top1": 74.83, "top5": 92.17},
        )
    },
)
def tf_efficientnet_lite0(num_classes: int = 1000, **options: Any) -> EfficientNetLite:
    """EfficientNet-Lite0 with ``"same"`` padding, as TensorFlow trained it: 4,652,008 parameters."""
    return EfficientNetLite(num_classes, same=True, **options)
