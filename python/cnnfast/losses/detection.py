"""Losses of detectors: YOLO, SSD, and the two stages of Faster R-CNN."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import ops
from ..ops.registry import fail, number
from ..tensor import beside, on_host
from .reduction import looked_into, numbers, scores, whole
from .regression import smooth_l1

__all__ = ["hard_negatives", "rcnn", "rpn", "ssd_multibox", "yolo", "yolo_v1"]

Array = np.ndarray


def _masked_sum(loss: Any, mask: Any) -> Any:
    """The sum of what the mask keeps."""
    return ops.reduce_sum(ops.mul(loss, beside(mask, loss)))


def yolo(x: Any, target: Any, *, coord: float = 5.0, no_object: float = 0.5, classes: str = "softmax") -> Any:
    """Loss of a grid with anchors (YOLO versions 2 and 3), a mean over pictures.

    Squared error of the place in the cell and of the logarithms of the size where there is an object,
    logistic loss of the objectness, and log loss of the classes where there is an object.

    Parameters
    ----------
    x : Tensor or array_like, shape (N, H, W, B, 5 + C)
        Raw values: tx, ty, tw, th, objectness, classes.
    target : array_like, shape of x
        ``sigmoid(tx)`` and ``sigmoid(ty)`` (the place in the cell, 0 .. 1), ``tw`` and ``th`` (logarithms of
        the size over the anchor's), objectness 1, 0, or -1 where an anchor fits an object that another one is
        responsible for and counts for nothing, and classes one-hot.
    coord, no_object : float
        Weights of boxes, and of the objectness where there is nothing.
    classes : {"softmax", "sigmoid"}
        One class per box (version 2), or independent ones (version 3).

    Returns
    -------
    Tensor, a scalar

    Raises
    ------
    ShapeError, DTypeError, BackendError

    References
    ----------
    Redmon and Farhadi, "YOLO9000: better, faster, stronger", 2017, section 2; "YOLOv3", 2018, section 2.1.
    """
    op = "yolo"
    x = scores(op, "x", x)
    if x.ndim != 5 or x.shape[-1] < 5:
        fail(op, "x must have dimensions N,H,W,B,5+C", x=x.shape)
    if classes not in ("softmax", "sigmoid"):
        fail(op, f"classes must be 'softmax' or 'sigmoid', got {classes!r}")
    t = looked_into(op, "target", target, x)
    objectness = t[..., 4]
    if not np.isin(objectness, (-1, 0, 1)).all():
        fail(op, "the objectness of every target must be 1, 0 or -1")
    found = (objectness == 1).astype(t.dtype)
    t = np.where(found[..., None] == 1, t, 0)

    place = ops.sigmoid(x[..., 0:2]) - beside(t[..., 0:2], x)
    size = x[..., 2:4] - beside(t[..., 2:4], x)
    box = ops.reduce_sum(place * place, -1) + ops.reduce_sum(size * size, -1)
    weight = found + number(op, "no_object", no_object) * (objectness == 0)
    loss = _masked_sum(box, number(op, "coord", coord) * found)
    loss = loss + _masked_sum(ops.sigmoid_cross_entropy(x[..., 4], beside(found, x)), weight)
    if x.shape[-1] > 5:
        kinds = x[..., 5:]
        if classes == "softmax":
            loss = loss + _masked_sum(ops.softmax_cross_entropy(kinds, t[..., 5:].argmax(-1))[0], found)
        else:
            each = ops.sigmoid_cross_entropy(kinds, beside(t[..., 5:], x))
            loss = loss + _masked_sum(each, found[..., None])
    return ops.mul(loss, 1 / max(1, x.shape[0]))


def yolo_v1(x: Any, target: Any, boxes: int, *, coord: float = 5.0, no_object: float = 0.5) -> Any:
    """Loss of the first version of YOLO, S x S x (5 B + C), a mean over pictures.

    All terms are squared errors; sizes enter by their roots; of the B boxes of a cell with an object the one
    that overlaps it most is responsible, and its confidence is to be that overlap (IoU), which counts as a
    constant in the gradient.

    Parameters
    ----------
    x : Tensor or array_like, shape (N, S, S, 5 B + C)
        B times (x, y, root of w, root of h, confidence), then C class values.
    target : array_like, shape (N, S, S, 5 + C)
        The object of a cell: its centre in the cell (0 .. 1), width and height as shares of the picture,
        1 or 0 for whether there is one, and its class one-hot.
    boxes : int
        B.
    coord, no_object : float

    Returns
    -------
    Tensor, a scalar

    Raises
    ------
    ShapeError, DTypeError, BackendError

    References
    ----------
    Redmon et al., "You only look once", 2016, equation 3.
    """
    op = "yolo_v1"
    x = scores(op, "x", x)
    if x.ndim != 4 or x.shape[1] != x.shape[2] or boxes < 1 or x.shape[3] < 5 * boxes:
        fail(op, f"x must have dimensions N,S,S,5*{boxes}+C", x=x.shape)
    n, s, _, channels = x.shape
    kinds = channels - 5 * boxes
    t = numbers(target, x)
    if t.shape != (n, s, s, 5 + kinds):
        fail(op, f"target must have dimensions N,S,S,{5 + kinds}", target=t.shape, x=x.shape)
    there = t[..., 4]
    if not np.isin(there, (0, 1)).all():
        fail(op, "whether a cell has an object must be 1 or 0")
    t = np.where(there[..., None] == 1, t, 0)

    guess = x[..., : 5 * boxes].reshape((n, s, s, boxes, 5))
    responsible, overlap = _responsible(numbers(guess, x), t, s)
    mine = responsible * there[..., None]
    place = guess[..., 0:2] - beside(t[..., None, 0:2], x)
    size = guess[..., 2:4] - beside(np.sqrt(t[..., None, 2:4]), x)
    sure = guess[..., 4] - beside(overlap * mine, x)
    box = ops.reduce_sum(place * place, -1) + ops.reduce_sum(size * size, -1)
    loss = _masked_sum(box, number(op, "coord", coord) * mine)
    loss = loss + _masked_sum(sure * sure, mine + number(op, "no_object", no_object) * (1 - mine))
    if kinds:
        d = x[..., 5 * boxes :] - beside(t[..., 5:], x)
        loss = loss + _masked_sum(d * d, there[..., None])
    return ops.mul(loss, 1 / max(1, n))


def _responsible(guess: Array, t: Array, cells: int) -> tuple[Array, Array]:
    """One-hot over the boxes of a cell, the first of equals; and the overlap of each with the object."""

    def corners(centre: Array, size: Array) -> tuple[Array, Array]:
        centre, size = centre / cells, np.maximum(size, 0)
        return centre - size / 2, centre + size / 2

    low, high = corners(guess[..., 0:2], np.square(np.maximum(guess[..., 2:4], 0)))
    least, most = corners(t[..., None, 0:2], t[..., None, 2:4])
    both = np.prod(np.maximum(np.minimum(high, most) - np.maximum(low, least), 0), -1)
    either = np.prod(high - low, -1) + np.prod(most - least, -1) - both
    overlap = np.where(either > 0, both / np.where(either > 0, either, 1), 0)
    first = overlap.argmax(-1)
    return (np.arange(guess.shape[3]) == first[..., None]).astype(guess.dtype), overlap


def hard_negatives(loss: Any, positive: Any, ratio: float) -> Array:
    """The negatives of each picture with the largest loss, at most ``ratio`` per positive.

    Parameters
    ----------
    loss : array_like, Tensor or DeviceArray, shape (N, D)
    positive : the same, of bool, shape (N, D)
    ratio : float

    Returns
    -------
    ndarray of bool, shape (N, D)
        Of equal losses the first are taken. A picture without positives has none.
    """
    loss, positive = on_host(loss), on_host(positive)
    count = np.minimum((positive.sum(1) * ratio).astype(np.int64), (~positive).sum(1))
    order = np.argsort(np.where(positive, np.inf, -loss), axis=1, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(loss.shape[1])[None], 1)
    return (rank < count[:, None]) & ~positive


def ssd_multibox(
    locations: Any, x: Any, target: Any, labels: Any, *, negatives: float = 3.0, alpha: float = 1.0
) -> Any:
    """MultiBox loss: log loss of classes with hard negatives, and smooth L1 of places.

    ``(L_conf + alpha L_loc) / M`` with M the number of matched boxes, 0 where there is none.

    Parameters
    ----------
    locations : Tensor or array_like, shape (N, D, 4)
        Offsets from the default boxes.
    x : Tensor or array_like, shape (N, D, K)
        Scores before the softmax; class 0 is the background.
    target : array_like, shape of locations
        Encoded boxes; read where a box is matched.
    labels : array_like of whole numbers, shape (N, D)
        Class of the object that a default box is matched with, 0 where there is none.
    negatives : float
        How many unmatched boxes count for each matched one: those with the largest log loss.
    alpha : float

    Returns
    -------
    Tensor, a scalar

    Raises
    ------
    ShapeError, DTypeError, BackendError

    References
    ----------
    Liu et al., "SSD: single shot multibox detector", 2016, section 2.2, equation 1.
    """
    op = "ssd_multibox"
    x, locations = scores(op, "x", x), scores(op, "locations", locations)
    if x.ndim != 3 or locations.shape != (*x.shape[:2], 4):
        fail(op, "expected locations N,D,4 and x N,D,K", locations=locations.shape, x=x.shape)
    labels = whole(op, "labels", labels, x.shape[:2])
    matched = labels > 0
    m = int(matched.sum())
    target = np.where(matched[..., None], looked_into(op, "target", target, locations), 0)
    each: Any = ops.softmax_cross_entropy(x, labels)[0]
    counted = matched | hard_negatives(each, matched, number(op, "negatives", negatives))
    conf = _masked_sum(each, counted)
    place = smooth_l1(locations, target, reduction="none")
    loc = _masked_sum(place, matched[..., None])
    return ops.mul(conf + ops.mul(loc, float(number(op, "alpha", alpha))), 1 / m if m else 0.0)


def rpn(objectness: Any, offsets: Any, labels: Any, target: Any, *, beta: float = 1 / 9) -> Any:
    """Loss of a region proposal network over sampled anchors.

    Mean logistic loss of the objectness, plus the smooth L1 loss of the offsets of positive anchors over the
    number of sampled ones.

    Parameters
    ----------
    objectness : Tensor or array_like, shape (A,)
        Scores before the sigmoid.
    offsets : Tensor or array_like, shape (A, 4)
    labels : array_like of whole numbers, shape (A,)
        1 object, 0 background, -1 not sampled.
    target : array_like, shape (A, 4)
        Encoded boxes; read where the label is 1.
    beta : float
        Of :func:`smooth_l1`.

    Returns
    -------
    Tensor, a scalar; 0 where nothing is sampled

    Raises
    ------
    ShapeError, DTypeError, BackendError

    References
    ----------
    Ren et al., "Faster R-CNN", 2015, equation 1, normalised by the sampled anchors in both terms.
    """
    op = "rpn"
    x, offsets = scores(op, "objectness", objectness), scores(op, "offsets", offsets)
    if x.ndim != 1 or offsets.shape != (*x.shape, 4):
        fail(op, "expected objectness A and offsets A,4", objectness=x.shape, offsets=offsets.shape)
    labels = whole(op, "labels", labels, x.shape)
    if not np.isin(labels, (-1, 0, 1)).all():
        fail(op, "labels must be 1, 0 or -1")
    positive, sampled = labels == 1, labels >= 0
    log = _masked_sum(ops.sigmoid_cross_entropy(x, beside(positive, x)), sampled)
    t = np.where(positive[:, None], looked_into(op, "target", target, offsets), 0)
    box = _masked_sum(smooth_l1(offsets, t, beta=beta, reduction="none"), positive[:, None])
    n = int(sampled.sum())
    return ops.mul(log + box, 1 / n if n else 0.0)


def rcnn(x: Any, offsets: Any, labels: Any, target: Any, *, beta: float = 1.0) -> Any:
    """Loss of regions (Fast R-CNN): log loss of the class, smooth L1 of the box of the right class.

    Parameters
    ----------
    x : Tensor or array_like, shape (R, K)
        Scores before the softmax; class 0 is the background.
    offsets : Tensor or array_like, shape (R, 4 K)
        A box per class.
    labels : array_like of whole numbers, shape (R,)
    target : array_like, shape (R, 4)
        Encoded boxes; read where the label is not 0.
    beta : float
        Of :func:`smooth_l1`.

    Returns
    -------
    Tensor, a scalar
        Both terms divided by R; 0 without regions.

    Raises
    ------
    ShapeError, DTypeError, BackendError

    References
    ----------
    Girshick, "Fast R-CNN", 2015, equation 1.
    """
    op = "rcnn"
    x, offsets = scores(op, "x", x), scores(op, "offsets", offsets)
    if x.ndim != 2 or offsets.shape != (x.shape[0], 4 * x.shape[1]):
        fail(op, "expected x R,K and offsets R,4K", x=x.shape, offsets=offsets.shape)
    r, k = x.shape
    labels = whole(op, "labels", labels, (r,))
    t = numbers(target, offsets)
    if t.shape != (r, 4):
        fail(op, "target must have dimensions R,4", target=t.shape, x=x.shape)
    log = ops.reduce_sum(ops.softmax_cross_entropy(x, labels)[0])
    mine = (labels[:, None] == np.arange(k)) & (labels[:, None] > 0)
    wanted = np.where(mine[..., None], t[:, None], 0)
    place = smooth_l1(offsets.reshape((r, k, 4)), wanted, beta=beta, reduction="none")
    return ops.mul(log + _masked_sum(place, mine[..., None]), 1 / r if r else 0.0)
