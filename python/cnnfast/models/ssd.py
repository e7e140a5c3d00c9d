"""SSD300 on VGG-16: the network, its default boxes, and boxes coded relative to them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import nn, ops
from ..nn import Module, Parameter
from ..ops.registry import fail, rank
from .registry import Pretrained, register_model
from .vgg import vgg_block

__all__ = [
    "COCO_SCALES",
    "SSD300",
    "VARIANCES",
    "VOC_SCALES",
    "decode_boxes",
    "default_boxes",
    "encode_boxes",
    "ssd300",
    "ssd300_vgg16",
]

Array = np.ndarray

REFERENCE = "Liu et al., SSD: single shot multibox detector, 2016"
# Rows of the six maps, pixels between their places, and the aspect ratios besides 1.
MAPS = (38, 19, 10, 5, 3, 1)
STEPS = (8, 16, 32, 64, 100, 300)
RATIOS: tuple[tuple[float, ...], ...] = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))
# Side of the square box per map relative to the picture, and one more for the last intermediate size.
VOC_SCALES = (0.1, 0.2, 0.37, 0.54, 0.71, 0.88, 1.05)
COCO_SCALES = (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05)
VARIANCES = (0.1, 0.1, 0.2, 0.2)
# A size may grow 62.5 times: beyond that only overflow would come of it.
_MOST_GROWTH = math.log(1000 / 16)


# --- default boxes ---------------------------------------------------------------------------------


def default_boxes(
    scales: Sequence[float] = VOC_SCALES,
    *,
    maps: Sequence[int] = MAPS,
    steps: Sequence[int] = STEPS,
    ratios: Sequence[Sequence[float]] = RATIOS,
    image: int = 300,
    clip: bool = True,
) -> Array:
    """The boxes that SSD's outputs are relative to.

    Parameters
    ----------
    scales : sequence of float
        Sides of square boxes, one per map and one more; :data:`VOC_SCALES` or :data:`COCO_SCALES`.
    maps, steps : sequence of int
        Rows of each map, and pixels between its places.
    ratios : sequence of sequences of float
        Aspect ratios per map besides 1, each for a wide and a tall box.
    image : int
        Rows of the picture.
    clip : bool
        Sizes are at most those of the picture.

    Returns
    -------
    ndarray of float64, shape (boxes, 4)
        Centre x and y, width and height relative to the picture, in the order of the network's outputs:
        map by map, row by row, and at each place the square box, the larger square one (the root of
        this scale times the next), then wide and tall for each ratio. 8,732 with the defaults.

    References
    ----------
    Liu et al., "SSD: single shot multibox detector", 2016, section 2.2.
    """
    if not len(maps) == len(steps) == len(ratios) == len(scales) - 1:
        raise ValueError(
            f"default_boxes: {len(maps)} maps, {len(steps)} steps, {len(ratios)} lists of ratios and "
            f"{len(scales)} scales; expected one of each per map and one more scale"
        )
    boxes = []
    for k, (n, step) in enumerate(zip(maps, steps, strict=True)):
        side, larger = scales[k], math.sqrt(scales[k] * scales[k + 1])
        sizes = [(side, side), (larger, larger)]
        for ratio in ratios[k]:
            root = math.sqrt(ratio)
            sizes += [(side * root, side / root), (side / root, side * root)]
        at = (np.arange(n) + 0.5) * step / image
        boxes_of_map = np.empty((n, n, len(sizes), 4))
        boxes_of_map[..., 0] = at[None, :, None]
        boxes_of_map[..., 1] = at[:, None, None]
        boxes_of_map[..., 2:] = sizes
        boxes.append(boxes_of_map.reshape(-1, 4))
    every = np.concatenate(boxes)
    if clip:
        np.clip(every[:, 2:], 0, 1, out=every[:, 2:])
    return every


def _coded(op: str, a: Any, boxes: Any, variances: Any) -> tuple[Array, Array, Array]:
    """Arguments of both directions as arrays, checked."""
    a, boxes, variances = np.asarray(a), np.asarray(boxes), np.asarray(variances, np.float64)
    if a.shape[-1:] != (4,) or boxes.ndim != 2 or boxes.shape[1] != 4 or a.shape[-2:] != boxes.shape:
        fail(op, "expected (..., boxes, 4) and default boxes (boxes, 4)", given=a.shape, default=boxes.shape)
    if variances.shape != (4,) or not (variances > 0).all():
        fail(op, f"variances must be four positive numbers, got {variances.tolist()}")
    return a, boxes, variances


def decode_boxes(locations: Any, boxes: Any, variances: Sequence[float] = VARIANCES) -> Array:
    """Boxes from the network's outputs.

    Parameters
    ----------
    locations : array_like, shape (..., boxes, 4)
        Shifts of the centre in widths and heights of the default box, and logarithms of the growth of
        width and height, all divided by the variances. Growth counts up to 62.5 times.
    boxes : array_like, shape (boxes, 4)
        As :func:`default_boxes` gives them.
    variances : four floats

    Returns
    -------
    ndarray, shape and type of ``locations``
        Corners x1, y1, x2, y2 relative to the picture; they may lie outside it.

    Raises
    ------
    ShapeError
    """
    locations, boxes, scale = _coded("decode_boxes", locations, boxes, variances)
    t = locations * scale
    centre = boxes[:, :2] + t[..., :2] * boxes[:, 2:]
    half = boxes[:, 2:] * np.exp(np.minimum(t[..., 2:], _MOST_GROWTH)) / 2
    kind = locations.dtype if locations.dtype.kind == "f" else np.float64
    return np.concatenate([centre - half, centre + half], axis=-1).astype(kind)


def encode_boxes(corners: Any, boxes: Any, variances: Sequence[float] = VARIANCES) -> Array:
    """Outputs that the network should give for boxes: the inverse of :func:`decode_boxes`.

    Parameters
    ----------
    corners : array_like, shape (..., boxes, 4)
        x1, y1, x2, y2 relative to the picture, of positive width and height.
    boxes, variances
        As for :func:`decode_boxes`.

    Returns
    -------
    ndarray, shape and type of ``corners``

    Raises
    ------
    ShapeError
    """
    corners, boxes, scale = _coded("encode_boxes", corners, boxes, variances)
    size = corners[..., 2:] - corners[..., :2]
    if not (size > 0).all():
        fail("encode_boxes", "boxes must have positive width and height")
    shift = ((corners[..., :2] + corners[..., 2:]) / 2 - boxes[:, :2]) / boxes[:, 2:]
    kind = corners.dtype if corners.dtype.kind == "f" else np.float64
    return (np.concatenate([shift, np.log(size / boxes[:, 2:])], axis=-1) / scale).astype(kind)


# --- network ---------------------------------------------------------------------------------------


def _conv(c_in: int, c_out: int, size: int, **options: Any) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(c_in, c_out, size, init="glorot_uniform", **options), nn.ReLU())


def _chain(*parts: nn.Sequential) -> nn.Sequential:
    """One chain of the layers of several."""
    return nn.Sequential(*[layer for part in parts for layer in part])


class Backbone(Module):
    """VGG-16 with its dense layers as convolutions, and four levels more; gives six maps.

    The first map is that of conv4_3, each pixel's channels scaled to length 1 and then by learned
    factors, which begin at 20.
    """

    def __init__(self, width: float) -> None:
        def c(channels: int) -> int:
            return max(1, round(channels * width))

        self.out_channels = [c(n) for n in (512, 1024, 512, 256, 256, 256)]
        self.scale_weight = Parameter((c(512),), "constant:20")
        features, before = nn.Sequential(), 3
        for level, (channels, count) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3))):
            if level:
                # 75 rows become 38: the third pooling rounds up.
                features.append(nn.MaxPool2d(2, ceil_mode=level == 3))
            for layer in vgg_block(before, c(channels), count, init="he_normal"):
                features.append(layer)
            before = c(channels)
        self.features = features
        fifth = nn.Sequential(nn.MaxPool2d(2), *vgg_block(before, before, 3, init="he_normal"))
        dense = _chain(
            nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1)),
            _conv(before, c(1024), 3, padding=6, dilation=6),
            _conv(c(1024), c(1024), 1),
        )
        self.extra = nn.ModuleList(
            fifth.append(dense),
            _chain(_conv(c(1024), c(256), 1), _conv(c(256), c(512), 3, stride=2, padding=1)),
            _chain(_conv(c(512), c(128), 1), _conv(c(128), c(256), 3, stride=2, padding=1)),
            _chain(_conv(c(256), c(128), 1), _conv(c(128), c(256), 3)),
            _chain(_conv(c(256), c(128), 1), _conv(c(128), c(256), 3)),
        )

    def forward(self, x: Any) -> list[Any]:
        x = self.features(x)
        maps = [ops.mul(ops.l2_normalize(x), self.scale_weight)]
        for block in self.extra:
            x = block(x)
            maps.append(x)
        return maps


class Head(Module):
    """One 3x3 convolution per map; gives (N, boxes, values)."""

    def __init__(self, channels: Sequence[int], boxes: Sequence[int], values: int) -> None:
        self.values = values
        self.module_list = nn.ModuleList(
            *[
                nn.Conv2d(c, n * values, 3, padding=1, init="glorot_uniform")
                for c, n in zip(channels, boxes, strict=True)
            ]
        )

    def forward(self, maps: Sequence[Any]) -> Any:
        parts = []
        for conv, x in zip(self.module_list, maps, strict=True):
            y = conv(x)
            n, h, w, c = y.shape
            parts.append(ops.reshape(y, (n, h * w * c // self.values, self.values)))
        return ops.concat(parts, axis=1)


class Heads(Module):
    """The two heads; a level of its own for the sake of names."""

    def __init__(self, channels: Sequence[int], boxes: Sequence[int], num_classes: int) -> None:
        self.classification_head = Head(channels, boxes, num_classes)
        self.regression_head = Head(channels, boxes, 4)

    def forward(self, maps: Sequence[Any]) -> tuple[Any, Any]:
        return self.regression_head(maps), self.classification_head(maps)


class SSD300(Module):
    """SSD for pictures of 300 x 300.

    Parameters
    ----------
    num_classes : int
        With background, which is class 0.
    scales : sequence of float
        Of the default boxes; see :func:`default_boxes`.
    width : float
        Factor on all channels, for small networks.

    Attributes
    ----------
    boxes : ndarray, shape (8732, 4)
        Default boxes.

    Notes
    -----
    ``forward`` takes (N, 300, 300, 3), RGB in 0..255 less the mean of each channel, and gives locations
    (N, 8732, 4), see :func:`decode_boxes`, and class scores before softmax (N, 8732, num_classes). Names
    of parameters are those of torchvision.

    References
    ----------
    Liu et al., "SSD: single shot multibox detector", 2016; Liu, Rabinovich and Berg, "ParseNet: looking
    wider to see better", 2016 (normalisation of conv4_3).
    """

    def __init__(
        self, num_classes: int = 21, *, scales: Sequence[float] = VOC_SCALES, width: float = 1.0
    ) -> None:
        self.boxes = default_boxes(scales)
        self.backbone = Backbone(width)
        boxes = [2 + 2 * len(ratios) for ratios in RATIOS]
        self.head = Heads(self.backbone.out_channels, boxes, num_classes)

    def forward(self, x: Any) -> tuple[Any, Any]:
        rank("SSD300", "x", x.shape, "N,H,W,C")
        if tuple(x.shape[1:3]) != (300, 300):
            fail("SSD300", "expected pictures of 300 x 300", x=x.shape)
        return self.head(self.backbone(x))


@register_model(input_size=300, task="detection", reference=REFERENCE)
def ssd300(num_classes: int = 21, **options: Any) -> SSD300:
    """SSD300 for Pascal VOC: 26,285,486 parameters for 20 classes and background, 8,732 boxes."""
    return SSD300(num_classes, **options)


@register_model(
    input_size=300,
    task="detection",
    reference=REFERENCE,
    weights={
        "torchvision": Pretrained(
            url="https://download.pytorch.org/models/ssd300_vgg16_coco-b556d3b4.pth",
            sha256="b556d3b4",
            mean=(0.48235, 0.45882, 0.40784),
            std=(1 / 255, 1 / 255, 1 / 255),
            input_size=(300, 300),
            resize=300,
            classes="coco91",  # with the gaps in the numbers of its categories
            licence="unstated; trained on ImageNet and COCO",
            accuracy={"box_map": 25.1},
        )
    },
)
def ssd300_vgg16(num_classes: int = 91, **options: Any) -> SSD300:
    """SSD300 for COCO as torchvision has it: 35,641,826 parameters for 91 classes with background."""
    return SSD300(num_classes, **{"scales": COCO_SCALES, **options})
