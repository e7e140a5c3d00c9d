"""Training of networks that judge regions: which anchors and regions stand for which object, and losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import losses, nn, ops, random
from ..data.sample import Batch, Sample
from ..errors import DataError
from ..ops.registry import fail
from ..tensor import on_host
from .anchors import grid_anchors
from .boxes import encode_boxes
from .regions import BOX_WEIGHTS, propose, pyramid_level

if TYPE_CHECKING:
    from ..models.faster_rcnn import FasterRCNN
    from ..models.rcnn import RCNN, FastRCNN

Array = np.ndarray
Proposals = Callable[[Array], Array]

__all__ = ["RegionLoss", "RegionTraining", "Sampling", "crops_of", "match", "region_targets", "rpn_targets"]

BACKGROUND, NEITHER = -1, -2


@dataclass(frozen=True)
class Sampling:
    """Which anchors and regions are trained on.

    Attributes
    ----------
    anchor_positive, anchor_negative : float
        Anchors that overlap an object by at least the first stand for it, those that overlap all objects by
        less than the second for background; those between for nothing. The best anchors of each object stand
        for it in any case.
    anchors : int
        Drawn from each picture, at most half of them positive.
    region_positive, region_negative : float
        The same of regions; what lies below ``region_least`` stands for nothing.
    region_least : float
        .1 in Fast R-CNN, which takes hard negatives that way.
    regions : int
        Drawn from each picture.
    positive_share : float
        At most so many of the regions are objects.
    pre_nms, post_nms : int
        Proposals of each map that enter the suppression in training, and of each picture that leave it.
    """

    anchor_positive: float = 0.7
    anchor_negative: float = 0.3
    anchors: int = 256
    region_positive: float = 0.5
    region_negative: float = 0.5
    region_least: float = 0.0
    regions: int = 128
    positive_share: float = 0.25
    pre_nms: int = 2000
    post_nms: int = 2000


def match(
    boxes: Array, objects: Array, positive: float, negative: float, *, least: float = 0.0, each: bool = False
) -> Array:
    """The object that each box overlaps most.

    Parameters
    ----------
    boxes, objects : ndarray, shapes (A, 4) and (K, 4)
    positive, negative, least : float
        From ``positive`` on a box is matched; from ``least`` to below ``negative`` it is background.
    each : bool
        Whether the boxes that overlap an object most, equal ones all, are matched with it whatever the
        overlap.

    Returns
    -------
    ndarray of int64, shape (A,)
        Number of the object; -1 background; -2 neither.
    """
    if not len(objects):
        return np.full(len(boxes), BACKGROUND if least <= 0 else NEITHER)
    overlap = ops.box_iou(boxes, objects.astype(boxes.dtype))
    best, which = overlap.max(1), overlap.argmax(1)
    found = np.where(best >= positive, which, NEITHER)
    found[(best < negative) & (best >= least) & (found == NEITHER)] = BACKGROUND
    if each:
        most = overlap.max(0, initial=0)
        rows, columns = np.nonzero((overlap == most) & (most > 0))
        found[rows] = which[rows]
        # An object whose best boxes overlap another one more would go without.
        lonely = ~np.isin(columns, found)
        found[rows[lonely]] = columns[lonely]
    return found


def draw_some(matched: Array, count: int, share: float, rng: np.random.Generator) -> tuple[Array, Array]:
    """Places of positives and negatives: so many in all, at most that share of them positive, in order."""
    positive, negative = np.flatnonzero(matched >= 0), np.flatnonzero(matched == BACKGROUND)
    wanted = min(len(positive), round(count * share))
    rest = min(len(negative), count - wanted)
    chosen = [rng.choice(part, n, replace=False) for part, n in ((positive, wanted), (negative, rest))]
    return np.sort(chosen[0]), np.sort(chosen[1])


def rpn_targets(
    anchors: Array, objects: Array, sampling: Sampling, rng: np.random.Generator
) -> tuple[Array, Array]:
    """What a proposal network is to say of the anchors of one picture.

    Parameters
    ----------
    anchors : ndarray, shape (A, 4)
    objects : ndarray, shape (K, 4)
    sampling : Sampling
    rng : numpy.random.Generator

    Returns
    -------
    labels : ndarray of int64, shape (A,)
        1 object, 0 background, -1 not drawn.
    target : ndarray of float32, shape (A, 4)
        Encoded boxes where the label is 1.

    References
    ----------
    Ren et al., "Faster R-CNN", 2015, section 3.1.2 and 3.1.3.
    """
    matched = match(anchors, objects, sampling.anchor_positive, sampling.anchor_negative, each=True)
    positive, negative = draw_some(matched, sampling.anchors, 0.5, rng)
    labels, target = np.full(len(anchors), -1), np.zeros((len(anchors), 4), np.float32)
    labels[positive], labels[negative] = 1, 0
    if len(positive):
        wanted = objects[matched[positive]].astype(np.float64)
        target[positive] = encode_boxes(wanted, anchors[positive].astype(np.float64))
    return labels, target


def region_targets(
    proposals: Array, objects: Array, classes: Array, sampling: Sampling, rng: np.random.Generator
) -> tuple[Array, Array, Array]:
    """Regions of one picture to train on, and what the network is to say of them.

    Parameters
    ----------
    proposals : ndarray, shape (A, 4)
        The objects themselves are added to them.
    objects : ndarray, shape (K, 4)
    classes : ndarray of int, shape (K,)
        From 0, without background.
    sampling : Sampling
    rng : numpy.random.Generator

    Returns
    -------
    regions : ndarray of float32, shape (R, 4)
    labels : ndarray of int64, shape (R,)
        1 + class, 0 background.
    target : ndarray of float32, shape (R, 4)
        Encoded boxes, with the weights of :func:`cnnfast.detection.regions.choose_boxes`.

    References
    ----------
    Girshick, "Fast R-CNN", 2015, section 2.3.
    """
    every = np.concatenate([objects.astype(np.float32), proposals.astype(np.float32)])
    every = every[(every[:, 2:] > every[:, :2]).all(1)]
    matched = match(
        every, objects, sampling.region_positive, sampling.region_negative, least=sampling.region_least
    )
    positive, negative = draw_some(matched, sampling.regions, sampling.positive_share, rng)
    regions = np.concatenate([every[positive], every[negative]])
    labels = np.concatenate([classes[matched[positive]] + 1, np.zeros(len(negative), np.int64)])
    target = np.zeros((len(regions), 4), np.float32)
    if len(positive):
        wanted = objects[matched[positive]].astype(np.float64)
        target[: len(positive)] = encode_boxes(wanted, every[positive].astype(np.float64), BOX_WEIGHTS)
    return regions, labels.astype(np.int64), target


class RegionTraining(nn.Module):
    """Faster R-CNN or Fast R-CNN as :func:`cnnfast.train.fit` takes it, for :class:`RegionLoss`.

    Parameters
    ----------
    model : FasterRCNN or FastRCNN
        Its parameters are trained in place.

    Notes
    -----
    ``forward`` takes prepared pictures (N, H, W, 3), ``(value / 255 - mean) / std``, and gives the maps, and
    for Faster R-CNN scores and offsets of the anchors.
    """

    def __init__(self, model: FasterRCNN | FastRCNN) -> None:
        self.model = model

    def forward(self, x: Any) -> Any:
        maps = self.model.backbone(x)
        if not hasattr(self.model, "rpn"):
            return maps
        scores, offsets = self.model.rpn.head(*maps)
        return maps, scores, offsets


class RegionLoss:
    """``loss(outputs, batch)`` for :class:`RegionTraining`: proposals and heads trained together.

    Parameters
    ----------
    model : FasterRCNN or FastRCNN
    proposals : callable, optional
        For Fast R-CNN: from a prepared picture (H, W, 3) of the batch to its proposals (K, 4).
    sampling : Sampling

    Notes
    -----
    Anchors and regions are drawn by cnnfast's random numbers (:func:`cnnfast.manual_seed`), which the trainer
    seeds and keeps in checkpoints. Proposals count as constants ("approximate joint training").

    References
    ----------
    Ren et al., "Faster R-CNN", 2015, section 3.2; Girshick, "Fast R-CNN", 2015, section 2.3.
    """

    def __init__(
        self,
        model: FasterRCNN | FastRCNN,
        proposals: Proposals | None = None,
        *,
        sampling: Sampling | None = None,
    ) -> None:
        self.has_rpn = hasattr(model, "rpn")
        if (proposals is None) != self.has_rpn:
            fail(
                "RegionLoss",
                "expected proposals for Fast R-CNN, and none for Faster R-CNN, which has its own",
            )
        self.model, self.proposals, self.sampling = model, proposals, sampling or Sampling()

    def __call__(self, outputs: Any, batch: Batch) -> Any:
        """A Tensor with one element.

        Parameters
        ----------
        outputs : what :class:`RegionTraining` gives
        batch : Batch
            With boxes in pixels of its pictures, and classes from 0.
        """
        if not isinstance(batch, Batch) or batch.boxes is None or batch.classes is None:
            raise DataError("RegionLoss: expected a Batch with boxes and classes")
        rng = random.generator()
        if self.has_rpn:
            maps, scores, offsets = outputs
            loss, proposals = self._rpn(scores, offsets, maps, batch, rng)
        else:
            assert self.proposals is not None
            maps, loss = outputs, None
            proposals = [np.asarray(self.proposals(picture)).reshape(-1, 4) for picture in batch.pictures]
        drawn = [
            region_targets(found, boxes, classes, self.sampling, rng)
            for found, boxes, classes in zip(proposals, batch.boxes, batch.classes, strict=True)
        ]
        regions = np.concatenate([np.insert(r, 0, i, 1) for i, (r, _, _) in enumerate(drawn)])
        labels, target = (np.concatenate([part[k] for part in drawn]) for k in (1, 2))
        if self.model.pooling == "pyramid":  # the order that pooling keeps
            levels = len(maps) - self.has_rpn
            order = np.argsort(pyramid_level(regions[:, 1:], levels), kind="stable")
            regions, labels, target = regions[order], labels[order], target[order]
        logits, deltas = self.model.roi_heads(self.model.pool(maps, regions, batch.pictures.shape[1]))
        heads = losses.rcnn(logits, deltas, labels, target)
        return heads if loss is None else loss + heads

    def _rpn(
        self, scores: Sequence[Any], offsets: Sequence[Any], maps: Sequence[Any], batch: Batch, rng: Any
    ) -> tuple[Any, list[Array]]:
        """Loss of the proposal network, and what it proposes."""
        count, size = len(batch), batch.pictures.shape[1:3]
        anchors = [
            grid_anchors(base, m.shape[1:3], (size[0] // m.shape[1], size[1] // m.shape[2]))
            for base, m in zip(self.model.anchors, maps, strict=True)
        ]
        flat = np.concatenate(anchors)
        objectness = ops.concat([ops.reshape(s, (count, -1)) for s in scores], axis=1)
        moved = ops.concat([ops.reshape(o, (count, -1, 4)) for o in offsets], axis=1)
        assert batch.boxes is not None
        targets = [rpn_targets(flat, boxes, self.sampling, rng) for boxes in batch.boxes]
        labels, goals = (np.concatenate([pair[k] for pair in targets]) for k in (0, 1))
        total = count * len(flat)
        loss = losses.rpn(ops.reshape(objectness, (total,)), ops.reshape(moved, (total, 4)), labels, goals)
        settings = replace(
            self.model.settings, pre_nms=self.sampling.pre_nms, post_nms=self.sampling.post_nms
        )
        held = [[on_host(v) for v in values] for values in (scores, offsets)]
        proposals = [
            propose([s[i] for s in held[0]], [o[i] for o in held[1]], anchors, size, settings)[0]
            for i in range(count)
        ]
        return loss, proposals


def crops_of(
    model: RCNN,
    sample: Sample,
    proposals: Array,
    rng: np.random.Generator,
    *,
    sampling: Sampling | None = None,
) -> tuple[Array, Array]:
    """Regions of a sample as R-CNN is trained on them.

    Parameters
    ----------
    model : RCNN
    sample : Sample
        Prepared: ``(value / 255 - mean) / std``, with boxes and classes from 0.
    proposals : ndarray, shape (A, 4)
    rng : numpy.random.Generator
    sampling : Sampling, optional

    Returns
    -------
    crops : ndarray of float32, shape (R, rows, columns, 3)
    target : ndarray of float32, shape (R, 5)
        Label (1 + class, 0 background) and encoded box, for
        ``losses.rcnn(*outputs, target[:, 0].astype(int), target[:, 1:])``.
    """
    if sample.boxes is None:
        raise DataError("crops_of: expected a sample with boxes")
    regions, labels, target = region_targets(
        proposals, sample.boxes, sample.classes, sampling or Sampling(), rng
    )
    crops = model.crops(np.ascontiguousarray(sample.picture), regions)
    return crops, np.concatenate([labels[:, None].astype(np.float32), target], 1)
