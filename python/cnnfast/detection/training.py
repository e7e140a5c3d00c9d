"""The losses of YOLO and SSD from the boxes of a batch, for :func:`cnnfast.train.fit`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import losses, ops
from ..data.sample import Batch
from ..errors import DataError
from ..ops.registry import fail, number
from ..tensor import beside, on_host
from .assignment import assign
from .region_training import match

if TYPE_CHECKING:
    from ..models.darknet import Darknet, Head

Array = np.ndarray

__all__ = ["SSDLoss", "YOLOLoss", "expect_few"]


def expect_few(model: Darknet, share: float = 0.01) -> None:
    """Set the biases of a new network so that it takes few places for objects, as it will have to.

    Without it the first steps of training do nothing but learn that most places are empty.

    Parameters
    ----------
    model : Darknet
        With ``[yolo]`` or ``[region]`` layers.
    share : float
        Objectness of every place before training, in (0, 1).

    References
    ----------
    Lin et al., "Focal loss for dense object detection", 2017, section 4.1.
    """
    share = number("expect_few", "share", share)
    if not 0 < share < 1 or not model.heads:
        fail("expect_few", f"expected a share between 0 and 1 and a network with heads, got {share}")
    for conv, head in zip(model.output_convolutions(), model.heads, strict=True):
        bias = np.array(on_host(conv.bias))
        bias.reshape(len(head.anchors), 5 + head.classes)[:, 4] = np.log(share / (1 - share))
        conv.bias.data = beside(bias, conv.bias)


def _objects(name: str, batch: Any) -> tuple[list[Array], list[Array]]:
    """Boxes and classes of a batch that has them."""
    if not isinstance(batch, Batch) or batch.boxes is None or batch.classes is None:
        raise DataError(f"{name}: expected a Batch with boxes and classes")
    return batch.boxes, batch.classes


class YOLOLoss:
    """``loss(outputs, batch)``: assigns the boxes of a batch to anchors and sums the losses of all heads.

    Parameters
    ----------
    heads : sequence of Head
        ``model.heads``.
    ignore : float, optional
        Predicted boxes that overlap an object by more, without being responsible for it, do not count as
        background.
    positive : float, optional
        See :func:`cnnfast.detection.assign`.
    coord, no_object : float
        See :func:`cnnfast.losses.yolo`.

    Attributes
    ----------
    objects, collisions : int
        Objects so far, and how many of them did not get the anchor they asked for; see
        :class:`cnnfast.detection.Collision`. They get their next best.

    References
    ----------
    Redmon and Farhadi, "YOLOv3: an incremental improvement", 2018, section 2.1.
    """

    def __init__(
        self,
        heads: Sequence[Head],
        *,
        ignore: float | None = 0.7,
        positive: float | None = None,
        coord: float = 5.0,
        no_object: float = 1.0,
    ) -> None:
        self.heads = tuple(heads)
        self.ignore, self.positive = ignore, positive
        self.coord, self.no_object = coord, no_object
        self.objects = self.collisions = 0

    def __call__(self, outputs: Sequence[Any], batch: Batch) -> Any:
        """A Tensor with one element, the mean over the pictures.

        Parameters
        ----------
        outputs : sequence of Tensor, shapes (N, rows, columns, anchors * (5 + classes))
        batch : Batch
            With boxes in pixels of the input.
        """
        objects = _objects("YOLOLoss", batch)
        if len(outputs) != len(self.heads):
            fail("YOLOLoss", f"expected one output for each of {len(self.heads)} heads, got {len(outputs)}")
        size = batch.pictures.shape[1], batch.pictures.shape[2]
        grids = [(x.shape[1], x.shape[2]) for x in outputs]
        targets, collisions = assign(
            *objects, self.heads, grids, size, positive=self.positive, next_best=True
        )
        self.objects += sum(map(len, objects[0]))
        self.collisions += len(collisions)
        total = None
        for x, target, head in zip(outputs, targets, self.heads, strict=True):
            if self.ignore is not None:
                self._pass_over(on_host(x), target, head, size, objects[0])
            loss = losses.yolo(
                ops.reshape(x, target.shape),
                target,
                coord=self.coord,
                no_object=self.no_object,
                classes="softmax" if head.softmax else "sigmoid",
            )
            total = loss if total is None else total + loss
        return total

    def _pass_over(
        self, output: Array, target: Array, head: Head, size: tuple[int, int], objects: Sequence[Array]
    ) -> None:
        """Mark places without an object whose predicted boxes lie on one."""
        from ..models.yolo import decode

        boxes, _, _ = decode(output, head, size)
        for found, goal, objectness in zip(boxes, objects, target[..., 4], strict=True):
            if len(goal):
                near = ops.box_iou(found, goal.astype(found.dtype)).max(1).reshape(objectness.shape)
                objectness[(near > self.ignore) & (objectness == 0)] = -1


class SSDLoss:
    """``loss(outputs, batch)``: matches the boxes of a batch with default boxes; MultiBox loss.

    A default box stands for the object that it overlaps most, from ``positive`` on; the best default box of
    each object does so whatever the overlap. All others are background, of which the hardest count.

    Parameters
    ----------
    boxes : ndarray, shape (D, 4)
        ``model.boxes``: centre, width, height relative to the picture.
    positive : float
    negatives, alpha : float
        See :func:`cnnfast.losses.ssd_multibox`.

    References
    ----------
    Liu et al., "SSD: single shot multibox detector", 2016, section 2.2.
    """

    def __init__(
        self, boxes: Array, *, positive: float = 0.5, negatives: float = 3.0, alpha: float = 1.0
    ) -> None:
        self.boxes = np.asarray(boxes, np.float64)
        if self.boxes.ndim != 2 or self.boxes.shape[1] != 4:
            fail("SSDLoss", "boxes must have shape (D,4)", boxes=self.boxes.shape)
        self.corners = ops.box_convert(self.boxes, "cxcywh", "xyxy")
        self.positive, self.negatives, self.alpha = positive, negatives, alpha

    def targets(self, boxes: Array, classes: Array, size: tuple[int, int]) -> tuple[Array, Array]:
        """Encoded boxes (D, 4) and labels (D,), 1 + class or 0, of a picture of so many rows and columns."""
        from ..models.ssd import encode_boxes

        whole = np.array([size[1], size[0]] * 2, np.float64)
        matched = match(self.corners, boxes / whole, self.positive, self.positive, each=True)
        found = matched >= 0
        target, labels = np.zeros((len(self.boxes), 4), np.float32), np.zeros(len(self.boxes), np.int64)
        if found.any():
            target[found] = encode_boxes((boxes / whole)[matched[found]], self.boxes[found])
            labels[found] = classes[matched[found]] + 1
        return target, labels

    def __call__(self, outputs: Sequence[Any], batch: Batch) -> Any:
        """A Tensor with one element.

        Parameters
        ----------
        outputs : (locations, scores)
            Tensors (N, D, 4) and (N, D, classes with background).
        batch : Batch
            With boxes in pixels of its pictures, and classes from 0.
        """
        boxes, classes = _objects("SSDLoss", batch)
        size = batch.pictures.shape[1], batch.pictures.shape[2]
        pairs = [self.targets(b, c, size) for b, c in zip(boxes, classes, strict=True)]
        target, labels = (np.stack([pair[k] for pair in pairs]) for k in (0, 1))
        locations, scores = outputs
        return losses.ssd_multibox(
            locations, scores, target, labels, negatives=self.negatives, alpha=self.alpha
        )
