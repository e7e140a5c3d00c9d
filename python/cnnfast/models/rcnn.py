"""R-CNN and Fast R-CNN: networks that judge regions which something else proposes.

R-CNN looks at each region as a picture of its own; Fast R-CNN computes the features of the whole picture once
and pools each region from them. :class:`cnnfast.detection.Detector` puts proposals, network and suppression
together; Faster R-CNN proposes by a network too (``faster_rcnn.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import nn, ops
from ..detection.regions import pooled
from ..nn.module import Module
from ..ops.registry import array, choice, fail, rank
from .alexnet import AlexNet
from .faster_rcnn import FastRCNNPredictor, RoIHeads, TwoMLPHead, VGG16Features
from .registry import register_model

Array = np.ndarray

__all__ = ["RCNN", "FastRCNN", "fastrcnn_vgg16", "rcnn_alexnet"]


def _regions(op: str, picture: Any, regions: Any) -> tuple[Array, Array]:
    picture = array(op, "picture", picture)
    regions = array(op, "regions", regions, picture)
    rank(op, "picture", picture.shape, "H,W,C")
    if regions.ndim != 2 or regions.shape[1] != 4:
        fail(op, "regions must have shape (K,4)", regions=regions.shape)
    return picture, np.insert(regions, 0, 0, 1)


class RCNN(Module):
    """A classifier of pictures as a judge of regions.

    Parameters
    ----------
    features : Module
        (N, rows, columns, 3) to (N, width).
    width : int
    num_classes : int
        The background, class 0, included.
    size : (int, int)
        Rows and columns that every region is brought to, whatever its proportions.
    context : int
        Pixels of that size on each side that show what is around the region.

    Notes
    -----
    ``forward`` takes regions (K, rows, columns, 3) and gives class scores (K, classes) before the softmax and
    offsets (K, 4 classes). The softmax stands in place of the paper's support vector machines, as in Fast
    R-CNN.

    References
    ----------
    Girshick et al., "Rich feature hierarchies for accurate object detection and semantic segmentation", 2014,
    section 2 and appendices A (warping with context, p = 16) and C.
    """

    def __init__(
        self, features: Module, width: int, num_classes: int, *, size: tuple[int, int], context: int = 16
    ) -> None:
        if not 0 <= 2 * context < min(size):
            fail("RCNN", f"expected context from 0 to less than half of {size}, got {context}")
        self.features = features
        self.predictor = FastRCNNPredictor(width, num_classes)
        self.size, self.context = size, context

    @property
    def num_classes(self) -> int:
        return int(self.predictor.cls_score.out_features)

    def forward(self, x: Any) -> Any:
        return self.predictor(self.features(x))

    def crops(self, picture: Any, regions: Any) -> Array:
        """Regions (K, 4) of a picture (H, W, 3), x1, y1, x2, y2, at the network's size (K, rows, columns, 3).

        Each pixel is the mean of what it covers; beyond the picture the last pixels go on.
        """
        picture, numbered = _regions("RCNN.crops", picture, regions)
        inner = np.array([n - 2 * self.context for n in self.size[::-1]], numbered.dtype)
        grow = (numbered[:, 3:] - numbered[:, 1:3]) * (self.context / inner)
        numbered[:, 1:3] -= grow
        numbered[:, 3:] += grow
        # RoIAlign reads zeros far outside; with a border of pixels there is no outside.
        h, w = picture.shape[:2]
        reach = int(np.ceil(max(0.0, float(-numbered[:, 1:].min(initial=0)), *(
            float(numbered[:, k].max(initial=0)) - n for k, n in ((3, w), (4, h))
        ))))  # fmt: skip
        if reach:
            picture = np.pad(picture, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
            numbered[:, 1:] += reach
        return ops.roi_align(picture[None], numbered, self.size, sampling_ratio=-1, aligned=True)

    def judge(self, picture: Any, regions: Any) -> tuple[Array, Array]:
        """Class scores (K, classes) and offsets (K, 4 classes) of regions of a prepared picture (H, W, 3)."""
        parts = [
            self(self.crops(picture, regions[at : at + 64])) for at in range(0, max(len(regions), 1), 64)
        ]
        logits, offsets = (np.concatenate(part) for part in zip(*parts, strict=True))
        return logits, offsets


class FastRCNN(Module):
    """Regions pooled from the features of the whole picture.

    Parameters
    ----------
    backbone : Module
        (N, H, W, 3) to a tuple of maps; for "pool" and "align" the first counts, of any scale.
    box_head : TwoMLPHead
    box_predictor : FastRCNNPredictor
        The background, class 0, included.
    pooling : {"pool", "align", "pyramid"}
        RoI pooling as in the paper, RoIAlign, or RoIAlign on the map of each region's size.

    Notes
    -----
    ``forward`` gives the maps; :meth:`judge` what the network says of regions.

    References
    ----------
    Girshick, "Fast R-CNN", 2015.
    """

    def __init__(
        self,
        backbone: Module,
        box_head: TwoMLPHead,
        box_predictor: FastRCNNPredictor,
        *,
        pooling: str = "pool",
    ) -> None:
        self.pooling = choice("FastRCNN", "pooling", pooling, ("pool", "align", "pyramid"))
        self.backbone = backbone
        self.roi_heads = RoIHeads(box_head, box_predictor)

    @property
    def num_classes(self) -> int:
        return int(self.roi_heads.box_predictor.cls_score.out_features)

    def forward(self, x: Any) -> Any:
        return self.backbone(x)

    def judge(self, picture: Any, regions: Any) -> tuple[Array, Array]:
        """Class scores (K, classes) and offsets (K, 4 classes) of regions of a prepared picture (H, W, 3)."""
        picture, numbered = _regions("FastRCNN.judge", picture, regions)
        logits, offsets = self.roi_heads(self.pool(self.backbone(picture[None]), numbered, picture.shape[0]))
        return logits, offsets

    def pool(self, maps: Sequence[Any], regions: Array, rows: int) -> Any:
        """Features of regions (K, 5) as the heads take them, from maps of pictures of so many rows."""
        size = int((self.roi_heads.box_head.fc6.feature_map or (7,))[0])
        return pooled(maps, regions, size, self.pooling, rows)


@register_model(
    input_size=227, task="detection", reference="Girshick et al., Rich feature hierarchies, 2014 (R-CNN)"
)
def rcnn_alexnet(num_classes: int = 21, *, hidden: int = 4096) -> RCNN:
    """R-CNN on AlexNet: its hidden dense layers, then classes with background and boxes.

    Parameters
    ----------
    num_classes : int
        The background, class 0, included.
    hidden : int
        Units of the dense layers.
    """
    whole = AlexNet(num_classes, hidden)
    dense = nn.Sequential(*list(whole.classifier)[:-1])
    features = nn.Sequential(
        features=whole.features, avgpool=whole.avgpool, flatten=whole.flatten, dense=dense
    )
    return RCNN(features, hidden, num_classes, size=(227, 227))


@register_model(input_size=600, task="detection", reference="Girshick, Fast R-CNN, 2015")
def fastrcnn_vgg16(num_classes: int = 21, *, pooling: str = "pool", hidden: int = 4096) -> FastRCNN:
    """Fast R-CNN on VGG-16.

    Parameters
    ----------
    num_classes : int
        The background, class 0, included.
    pooling : {"pool", "align"}
    hidden : int
        Units of the dense layers.
    """
    head = TwoMLPHead(7, VGG16Features.channels, hidden, dropout=0.5)
    return FastRCNN(VGG16Features(), head, FastRCNNPredictor(hidden, num_classes), pooling=pooling)
