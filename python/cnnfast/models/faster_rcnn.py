"""Faster R-CNN: proposals of regions from a small network on the features, and a head that judges each.

What has fixed sizes (features and proposal head, box head) are ordinary modules that can be traced and
compiled; choosing regions depends on values and is Python on arrays between them. Names of parameters are
those of torchvision.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import nn, ops
from ..detection.anchors import base_anchors, grid_anchors
from ..detection.regions import Settings, choose_boxes, pooled, prepare, propose
from ..nn.module import Module
from ..ops.registry import array, choice, fail, rank
from ..tensor import Tensor
from .registry import Pretrained, register_model
from .resnet import Bottleneck, ResNetTrunk
from .vgg import vgg_features

Array = np.ndarray

__all__ = ["FasterRCNN", "FrozenBatchNorm2d", "fasterrcnn_resnet50_fpn", "fasterrcnn_vgg16"]

RATIOS = (0.5, 1.0, 2.0)


# --- features --------------------------------------------------------------------------------------


class FrozenBatchNorm2d(Module):
    """Batch normalisation whose statistics and factors are all constants.

    Attributes
    ----------
    weight, bias, running_mean, running_var : ndarray, shape (features,), buffers
    """

    def __init__(self, features: int, *, eps: float = 0.0) -> None:
        self.eps = eps
        for name, value in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
            self.register_buffer(name, np.full(features, value, np.float32))

    def forward(self, x: Any) -> Any:
        return ops.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


class VGG16Features(Module):
    """The convolutions of VGG-16 without the last pooling, at 1/16 of the picture."""

    channels = 512

    def __init__(self) -> None:
        self.features = vgg_features(16, init="he_normal")[:-1]

    def forward(self, x: Any) -> Any:
        return (self.features(x),)


class FeaturePyramid(Module):
    """Maps of one depth at every stage: coarse ones are enlarged and added to finer ones.

    A last map of half the size, for the largest anchors, is every other pixel of the coarsest.

    References
    ----------
    Lin et al., "Feature pyramid networks for object detection", 2017.
    """

    def __init__(self, channels: Sequence[int], depth: int = 256) -> None:
        self.inner_blocks = nn.ModuleList(*[nn.Sequential(nn.Conv2d(c, depth, 1)) for c in channels])
        self.layer_blocks = nn.ModuleList(
            *[nn.Sequential(nn.Conv2d(depth, depth, 3, padding=1)) for _ in channels]
        )

    def forward(self, *maps: Any) -> Any:
        inner = self.inner_blocks[-1](maps[-1])
        results = [self.layer_blocks[-1](inner)]
        for i in range(len(maps) - 2, -1, -1):
            lateral = self.inner_blocks[i](maps[i])
            inner = ops.add(lateral, ops.resize(inner, tuple(lateral.shape[1:3]), mode="nearest"))
            results.insert(0, self.layer_blocks[i](inner))
        results.append(ops.max_pool2d(results[-1], 1, stride=2))
        return tuple(results)


class _PyramidBackbone(Module):
    def __init__(self, depth: int) -> None:
        self.body = ResNetTrunk(Bottleneck, (3, 4, 6, 3), 4, FrozenBatchNorm2d)
        for weight in self.body.parameters():
            weight.init = "he_normal"
        self.fpn = FeaturePyramid(self.body.channels, depth)

    def forward(self, x: Any) -> Any:
        return self.fpn(*self.body(x))


# --- heads -----------------------------------------------------------------------------------------


class RPNHead(Module):
    """For every anchor of every place: a score for "object", and offsets of a box."""

    def __init__(self, channels: int, anchors: int) -> None:
        init = "normal:0.01"
        conv = nn.Conv2d(channels, channels, 3, padding=1, init=init)
        self.conv = nn.Sequential(nn.Sequential(conv, nn.ReLU()))
        self.cls_logits = nn.Conv2d(channels, anchors, 1, init=init)
        self.bbox_pred = nn.Conv2d(channels, 4 * anchors, 1, init=init)

    def forward(self, *maps: Any) -> Any:
        hidden = [self.conv(x) for x in maps]
        return tuple([self.cls_logits(x) for x in hidden]), tuple([self.bbox_pred(x) for x in hidden])


class _RPN(Module):
    def __init__(self, head: RPNHead) -> None:
        self.head = head


class TwoMLPHead(Module):
    """Two dense layers on the pooled features of a region."""

    def __init__(self, size: int, channels: int, width: int, dropout: float) -> None:
        self.fc6 = nn.Linear(size * size * channels, width, feature_map=(size, size, channels))
        self.fc7 = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Any) -> Any:
        x = self.dropout(ops.relu(self.fc6(ops.flatten(x))))
        return self.dropout(nn.activated(self.fc7, "relu", x))


class FastRCNNPredictor(Module):
    """Class scores, class 0 being the background, and a box per class."""

    def __init__(self, width: int, num_classes: int) -> None:
        self.cls_score = nn.Linear(width, num_classes, init="normal:0.01")
        self.bbox_pred = nn.Linear(width, 4 * num_classes, init="normal:0.001")

    def forward(self, x: Any) -> Any:
        return self.cls_score(x), self.bbox_pred(x)


class RoIHeads(Module):
    """Pooled regions (K, S, S, C) to class scores (K, classes) and offsets (K, 4 classes)."""

    def __init__(self, box_head: TwoMLPHead, box_predictor: FastRCNNPredictor) -> None:
        self.box_head = box_head
        self.box_predictor = box_predictor

    def forward(self, x: Any) -> Any:
        return self.box_predictor(self.box_head(x))


class Trunk(Module):
    """Pictures (N, H, W, 3), normalised, to feature maps, scores and offsets of the proposal head."""

    def __init__(self, backbone: Module, head: RPNHead) -> None:
        self.backbone = backbone
        self.head = head

    def forward(self, x: Any) -> Any:
        maps = self.backbone(x)
        scores, offsets = self.head(*maps)
        return maps, scores, offsets


# --- the network -----------------------------------------------------------------------------------


class FasterRCNN(Module):
    """Faster R-CNN on any backbone.

    Parameters
    ----------
    backbone : Module
        (N, H, W, 3) to a tuple of maps with ``channels`` channels each.
    channels : int
    anchors : sequence of ndarray, shape (A, 4)
        One per map, see :func:`cnnfast.detection.base_anchors`.
    box_head : TwoMLPHead
    box_predictor : FastRCNNPredictor
    pooling : {"pyramid", "align", "pool"}
        RoIAlign on the map of each region's size (the last map is for proposals alone), or RoIAlign or RoI
        pooling on the only map, of 1/16 of the picture or any other part.
    settings : Settings

    Notes
    -----
    ``model(images)`` takes RGB pictures (H, W, 3) of any sizes in 0..1 as a list, or one array
    (N, H, W, 3), and normalises and resizes them itself. It gives one dictionary per picture: ``"boxes"``
    (D, 4), x1, y1, x2, y2 in its pixels, ``"labels"`` (D,) from 1 on, and ``"scores"`` (D,), falling.

    The numbers of regions depend on values, so the whole cannot be traced. ``trace(model.trunk, shape)`` and
    ``trace(model.roi_heads, (regions, 7, 7, channels))`` are the graphs of what takes the time.

    References
    ----------
    Ren et al., "Faster R-CNN: towards real-time object detection with region proposal networks", 2015.
    """

    def __init__(
        self,
        backbone: Module,
        channels: int,
        anchors: Sequence[Array],
        box_head: TwoMLPHead,
        box_predictor: FastRCNNPredictor,
        *,
        pooling: str = "pyramid",
        settings: Settings | None = None,
    ) -> None:
        choice("FasterRCNN", "pooling", pooling, ("pyramid", "align", "pool"))
        self.backbone = backbone
        self.rpn = _RPN(RPNHead(channels, len(anchors[0])))
        self.roi_heads = RoIHeads(box_head, box_predictor)
        self.anchors = tuple(anchors)
        self.pooling = pooling
        self.settings = settings or Settings()

    @property
    def trunk(self) -> Trunk:
        """Backbone and proposal head as one module that can be traced; it shares their parameters."""
        return Trunk(self.backbone, self.rpn.head)

    def parts(self, shape: tuple[int, ...]) -> list[tuple[Module, tuple[int, ...]]]:
        """What can be traced, with its input's shape: the trunk, and the heads for the most regions."""
        first = self.roi_heads.box_head.fc6
        regions = shape[0] * self.settings.post_nms
        return [(self.trunk, shape), (self.roi_heads, (regions, *(first.feature_map or ())))]

    def pool(self, maps: Sequence[Any], regions: Array, rows: int) -> Any:
        """Features of regions (K, 5) as the heads take them, from maps of pictures of so many rows."""
        size = int((self.roi_heads.box_head.fc6.feature_map or (7,))[0])
        # The last map of a pyramid is for proposals alone.
        return pooled(maps[:-1] if self.pooling == "pyramid" else maps, regions, size, self.pooling, rows)

    def forward(self, images: Any) -> Any:
        if isinstance(images, Tensor):
            if images.is_symbol:
                what = "its regions depend on values; trace model.trunk and model.roi_heads"
                fail("FasterRCNN", f"cannot be traced as a whole: {what}")
            images = images.data
        pictures = [_picture(image) for image in images]
        if not pictures:
            return []
        batch, sizes = prepare(pictures, self.settings)
        maps, scores, offsets = self.trunk(batch)
        strides = [(batch.shape[1] // m.shape[1], batch.shape[2] // m.shape[2]) for m in maps]
        anchors = [
            grid_anchors(base, m.shape[1:3], stride)
            for base, m, stride in zip(self.anchors, maps, strides, strict=True)
        ]
        regions = [
            propose([s[i] for s in scores], [o[i] for o in offsets], anchors, size, self.settings)[0]
            for i, size in enumerate(sizes)
        ]
        numbered = [np.insert(boxes, 0, i, 1) for i, boxes in enumerate(regions)]
        logits, deltas = self.roi_heads(self.pool(maps, np.concatenate(numbered), batch.shape[1]))
        results, start = [], 0
        for picture, size, boxes in zip(pictures, sizes, regions, strict=True):
            part = slice(start, start + len(boxes))
            start += len(boxes)
            found, labels, probabilities = choose_boxes(
                logits[part], deltas[part], boxes, size, self.settings
            )
            back = [picture.shape[1] / size[1], picture.shape[0] / size[0]] * 2
            found = found * np.array(back, found.dtype)
            results.append({"boxes": found, "labels": labels, "scores": probabilities})
        return results


def _picture(image: Any) -> Array:
    image = array("FasterRCNN", "a picture", np.asarray(image))
    rank("FasterRCNN", "picture", image.shape, "H,W,C")
    if image.shape[2] != 3 or 0 in image.shape:
        fail("FasterRCNN", "pictures must have 3 channels and at least one pixel", picture=image.shape)
    return image.astype(np.float32, copy=False)


def _torchvision_name(name: str) -> str:
    """Names of the published file, which are older than those of torchvision's state dicts today."""
    parts = name.split(".")
    if name.startswith(("backbone.fpn.inner_blocks", "backbone.fpn.layer_blocks")) and len(parts) == 5:
        parts.insert(4, "0")
    if name.startswith("rpn.head.conv.") and len(parts) == 4:
        parts[3:3] = ["0", "0"]
    return ".".join(parts)


@register_model(
    input_size=800,
    task="detection",
    weights={
        "torchvision": Pretrained(
            url="https://download.pytorch.org/models/fasterrcnn_resnet50_fpn_coco-258fb6c6.pth",
            sha256="258fb6c6",
            mean=(0.0, 0.0, 0.0),  # the network normalises pictures itself
            std=(1.0, 1.0, 1.0),
            input_size=(800, 800),
            resize=800,
            classes="coco91",
            licence="unstated; trained on COCO and ImageNet",
            accuracy={"box_map": 37.0},
            rename=_torchvision_name,
        )
    },
    reference="Ren et al., Faster R-CNN, 2015; Lin et al., Feature pyramid networks, 2017",
)
def fasterrcnn_resnet50_fpn(num_classes: int = 91, **settings: Any) -> FasterRCNN:
    """Faster R-CNN on a feature pyramid over ResNet-50.

    Parameters
    ----------
    num_classes : int
        The background, class 0, included.
    **settings
        See :class:`cnnfast.detection.regions.Settings`.
    """
    depth = 256
    anchors = [base_anchors([size], RATIOS) for size in (32, 64, 128, 256, 512)]
    box_head = TwoMLPHead(7, depth, 1024, dropout=0.0)
    predictor = FastRCNNPredictor(1024, num_classes)
    return FasterRCNN(
        _PyramidBackbone(depth), depth, anchors, box_head, predictor, settings=Settings(**settings)
    )


@register_model(input_size=800, task="detection", reference="Ren et al., Faster R-CNN, 2015")
def fasterrcnn_vgg16(num_classes: int = 21, *, pooling: str = "pool", **settings: Any) -> FasterRCNN:
    """Faster R-CNN on one map of VGG-16, with 9 anchors at every place.

    Parameters
    ----------
    num_classes : int
        The background, class 0, included.
    pooling : {"pool", "align"}
        RoI pooling as in the paper, or RoIAlign.
    **settings
        See :class:`cnnfast.detection.regions.Settings`; the paper takes ``min_size=600, max_size=1000``.
    """
    choice("fasterrcnn_vgg16", "pooling", pooling, ("pool", "align"))
    chosen = Settings(**{"pre_nms": 6000, "post_nms": 300, "proposal_size": 16.0, **settings})
    box_head = TwoMLPHead(7, VGG16Features.channels, 4096, dropout=0.5)
    predictor = FastRCNNPredictor(4096, num_classes)
    anchors = [base_anchors([128, 256, 512], RATIOS)]
    return FasterRCNN(
        VGG16Features(),
        VGG16Features.channels,
        anchors,
        box_head,
        predictor,
        pooling=pooling,
        settings=chosen,
    )
