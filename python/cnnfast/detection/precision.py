"""How good a detector is: average precision as Pascal VOC and as COCO define it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import ops
from ..errors import DataError
from ..ops.registry import fail, number

if TYPE_CHECKING:
    from ..models.yolo import Detections

Array = np.ndarray

__all__ = ["AveragePrecision", "CocoSummary", "Objects", "coco_summary", "evaluate", "voc_precision"]


class Objects(NamedTuple):
    """What is in a picture.

    Attributes
    ----------
    boxes : array_like, shape (K, 4)
        x1, y1, x2, y2.
    classes : array_like of int, shape (K,)
    difficult : array_like of bool, shape (K,), optional
        Objects that need not be found ("difficult" of VOC), or crowds, within which anything may be found
        (COCO).
    areas : array_like, shape (K,), optional
        For COCO's small, medium and large; those of the boxes where left out.
    """

    boxes: Any
    classes: Any
    difficult: Any = None
    areas: Any = None


class _Picture(NamedTuple):
    """Everything of one picture and one class; detections by falling score."""

    scores: Array
    found: Array
    boxes: Array
    difficult: Array
    areas: Array


def _pictures(op: str, found: Sequence[Detections], objects: Sequence[Any], classes: int) -> list[Any]:
    """For each class the pictures that have anything of it."""
    if len(found) != len(objects):
        fail(op, f"expected detections and objects of as many pictures, got {len(found)} and {len(objects)}")
    if classes < 1:
        fail(op, f"expected at least one class, got {classes}")
    per_class: list[list[_Picture]] = [[] for _ in range(classes)]
    for i, (one, given) in enumerate(zip(found, objects, strict=True)):
        own = given if isinstance(given, Objects) else Objects(*given)
        box = np.asarray(own.boxes, np.float64).reshape(-1, 4)
        kinds = np.asarray(own.classes)
        difficult = np.zeros(len(box), bool) if own.difficult is None else np.asarray(own.difficult, bool)
        areas = (box[:, 2:] - box[:, :2]).prod(1) if own.areas is None else np.asarray(own.areas, np.float64)
        guess, scores = np.asarray(one.boxes, np.float64).reshape(-1, 4), np.asarray(one.scores, np.float64)
        labels = np.asarray(one.classes)
        for name, value, like in (
            ("classes", kinds, box),
            ("difficult", difficult, box),
            ("areas", areas, box),
            ("scores", scores, guess),
            ("classes of detections", labels, guess),
        ):
            if value.shape != like.shape[:1]:
                fail(op, f"picture {i}: expected {name} ({len(like)},), got {value.shape}")
        for known in (kinds, labels):
            if known.size and not (known.dtype.kind in "iu" and 0 <= known.min() <= known.max() < classes):
                fail(op, f"picture {i}: expected classes as whole numbers from 0 to {classes - 1}")
        if not np.isfinite(scores).all():
            fail(op, f"picture {i}: expected finite scores")
        for k in np.union1d(kinds, labels).astype(int):
            order = np.flatnonzero(labels == k)
            order = order[np.argsort(-scores[order], kind="stable")]
            mine = kinds == k
            per_class[k].append(
                _Picture(scores[order], guess[order], box[mine], difficult[mine], areas[mine])
            )
    return per_class


# --- Pascal VOC -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AveragePrecision:
    """Average precision of each class.

    Attributes
    ----------
    values : ndarray of float64, shape (C,)
        NaN for classes that no picture has.
    objects : ndarray of int64, shape (C,)
        Objects of each class, difficult ones left out.
    curves : list of C pairs (recall, precision)
        After each detection that counts, by falling score.
    names : tuple of str
    iou_threshold : float
    """

    values: Array
    objects: Array
    curves: list[tuple[Array, Array]]
    names: tuple[str, ...]
    iou_threshold: float

    @property
    def mean(self) -> float:
        """Mean over the classes that there are; NaN where there are none."""
        known = self.values[~np.isnan(self.values)]
        return float(known.mean()) if len(known) else float("nan")

    def __str__(self) -> str:
        names = self.names or tuple(map(str, range(len(self.values))))
        width = max(map(len, (*names, "mean")))
        rows = [
            f"{name:{width}}  {value:6.4f}  {count:6d} objects"
            for name, value, count in zip(names, self.values, self.objects, strict=True)
        ]
        return "\n".join([*rows, f"{'mean':{width}}  {self.mean:6.4f}  at IoU {self.iou_threshold:g}"])


def voc_precision(
    found: Sequence[Detections],
    objects: Sequence[Any],
    classes: int,
    *,
    iou_threshold: float = 0.5,
    eleven_points: bool = False,
    names: Sequence[str] = (),
) -> AveragePrecision:
    """Average precision as Pascal VOC has it.

    By falling score over all pictures, a detection is right if the object of its class that it overlaps most
    reaches the threshold and has not been found before; what falls on difficult objects counts for nothing.

    Parameters
    ----------
    found : sequence of Detections
        Of each picture.
    objects : sequence of Objects
        What is in it; tuples (boxes, classes) or (boxes, classes, difficult) will do.
    classes : int
    iou_threshold : float
    eleven_points : bool
        Mean of the best precision at recalls of 0, .1 .. 1 and beyond (until 2009), in place of the area
        under the falling envelope of the curve.
    names : sequence of str
        Of the classes, for printing.

    Returns
    -------
    AveragePrecision

    Raises
    ------
    ShapeError

    Notes
    -----
    Boxes are continuous, x2 - x1 wide; the development kit counts pixels and adds one.

    References
    ----------
    Everingham et al., "The Pascal visual object classes (VOC) challenge", 2010, section 4.2; development kit
    of 2012, section 3.4.1.
    """
    op = "voc_precision"
    threshold = number(op, "iou_threshold", iou_threshold)
    values, counts, curves = [], [], []
    for pictures in _pictures(op, found, objects, classes):
        scores, hits = [np.empty(0)], [np.empty(0)]
        for one in pictures:
            scores.append(one.scores)
            hits.append(_voc_hits(one, threshold))
        count = sum(int((~one.difficult).sum()) for one in pictures)
        hit = np.concatenate(hits)[np.argsort(-np.concatenate(scores), kind="stable")]
        hit = hit[hit >= 0]
        right = np.cumsum(hit)
        recall = right / count if count else np.full(len(hit), np.nan)
        precision = right / np.arange(1, len(hit) + 1)
        counts.append(count)
        curves.append((recall, precision))
        values.append(_area(recall, precision, eleven_points) if count else np.nan)
    return AveragePrecision(np.array(values), np.array(counts), curves, tuple(names), threshold)


def _voc_hits(one: _Picture, threshold: float) -> Array:
    """1 right, 0 wrong, -1 counts for nothing, for each detection of a picture."""
    hits = np.zeros(len(one.scores))
    if not len(one.boxes):
        return hits
    overlap = ops.box_iou(one.found, one.boxes)
    seen = np.zeros(len(one.boxes), bool)
    for d, k in enumerate(overlap.argmax(1)):
        if overlap[d, k] < threshold:
            continue
        if one.difficult[k]:
            hits[d] = -1
        elif not seen[k]:
            hits[d] = seen[k] = True
    return hits


def _area(recall: Array, precision: Array, eleven_points: bool) -> float:
    best = np.maximum.accumulate(precision[::-1])[::-1]  # at this recall or beyond
    if eleven_points:
        at = np.searchsorted(recall, np.arange(11) / 10 - 1e-12)
        return float(np.append(best, 0)[at].mean())
    return float((np.diff(recall, prepend=0) * best).sum())


# --- COCO -----------------------------------------------------------------------------------------------

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
AREAS = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
MOST = (1, 10, 100)  # detections of a class in a picture


@dataclass(frozen=True)
class CocoSummary:
    """The twelve numbers of COCO; -1 where there is nothing to find.

    Attributes
    ----------
    per_class : ndarray of float64, shape (C,)
        ``ap`` of each class.
    ap, ap50, ap75 : float
        Average precision: mean over IoU thresholds .5, .55 .. .95, at .5, at .75.
    ap_small, ap_medium, ap_large : float
        Of objects below 32 x 32 pixels, up to 96 x 96, and above.
    ar1, ar10, ar100 : float
        Recall with so many detections of a class in a picture, mean over thresholds.
    ar_small, ar_medium, ar_large : float
    """

    per_class: Array
    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ar1: float
    ar10: float
    ar100: float
    ar_small: float
    ar_medium: float
    ar_large: float

    def __str__(self) -> str:
        rows = [(name, value) for name, value in vars(self).items() if name != "per_class"]
        return "\n".join(f"{name:9}  {value:6.3f}" for name, value in rows)


def coco_summary(found: Sequence[Detections], objects: Sequence[Any], classes: int) -> CocoSummary:
    """Average precision and recall as COCO has them.

    Parameters
    ----------
    found, objects, classes
        As for :func:`voc_precision`; ``difficult`` marks crowds.

    Returns
    -------
    CocoSummary

    Raises
    ------
    ShapeError

    Notes
    -----
    By falling score each detection takes the object left that it overlaps most, of equal ones the last. What
    falls on a crowd, or is unmatched and of another size than is asked for, counts for nothing. The precision
    at each of 101 recalls is the best at that recall or beyond.

    References
    ----------
    Lin et al., "Microsoft COCO: common objects in context", 2014; the evaluation page of cocodataset.org.
    """
    shape = (len(IOU_THRESHOLDS), classes, len(AREAS), len(MOST))
    precision, recall = np.full((len(RECALLS), *shape), -1.0), np.full(shape, -1.0)
    for k, pictures in enumerate(_pictures("coco_summary", found, objects, classes)):
        overlaps = [_coco_overlap(one) for one in pictures]
        for a, bounds in enumerate(AREAS.values()):
            matched = [_coco_match(*pair, bounds) for pair in zip(pictures, overlaps, strict=True)]
            count = sum(m.wanted for m in matched)
            if not count:
                continue
            for m, most in enumerate(MOST):
                place = k, a, m
                _coco_curve(pictures, matched, most, count, precision, recall, place)

    def mean(values: Array) -> float:
        known = values[values > -1]
        return float(known.mean()) if known.size else -1.0

    best, areas = precision[..., -1], range(len(AREAS))
    numbers = [mean(best[..., 0]), mean(best[:, 0, :, 0]), mean(best[:, 5, :, 0])]
    numbers += [mean(best[..., a]) for a in areas[1:]]
    numbers += [mean(recall[:, :, 0, m]) for m in range(len(MOST))]
    numbers += [mean(recall[:, :, a, -1]) for a in areas[1:]]
    per_class = np.array([mean(best[:, :, k, 0]) for k in range(classes)])
    return CocoSummary(per_class, *numbers)


class _Matched(NamedTuple):
    """For each threshold and detection whether it has an object, and whether it counts."""

    hit: Array
    counts: Array
    wanted: int


def _coco_overlap(one: _Picture) -> Array:
    """IoU of each detection with each object; of crowds the share of the detection that lies within."""
    found = one.found[: MOST[-1]]
    overlap = ops.box_iou(found, one.boxes)
    if one.difficult.any():
        crowds = one.boxes[one.difficult]
        inner = np.minimum(found[:, None, 2:], crowds[:, 2:]) - np.maximum(found[:, None, :2], crowds[:, :2])
        area = (found[:, 2:] - found[:, :2]).prod(1)[:, None]
        shared = np.maximum(inner, 0).prod(-1)
        overlap[:, one.difficult] = np.divide(shared, area, out=np.zeros_like(shared), where=area > 0)
    return overlap


def _coco_match(one: _Picture, overlap: Array, bounds: tuple[float, float]) -> _Matched:
    """Detections by falling score take objects, those that count before those that do not."""
    low, high = bounds
    ignored = one.difficult | (one.areas < low) | (one.areas > high)
    size = (one.found[: MOST[-1], 2:] - one.found[: MOST[-1], :2]).prod(1)
    shape = len(IOU_THRESHOLDS), len(overlap)
    hit, counts = np.zeros(shape, bool), np.broadcast_to((size >= low) & (size <= high), shape).copy()
    wanted = int((~ignored).sum())
    if not len(one.boxes):
        return _Matched(hit, counts, wanted)
    order = np.argsort(ignored, kind="stable")
    ignored, crowd, overlap = ignored[order], one.difficult[order], overlap[:, order]
    taken = np.zeros((len(IOU_THRESHOLDS), len(order)), bool)
    threshold = np.minimum(IOU_THRESHOLDS, 1 - 1e-10)
    rows = np.arange(len(threshold))
    for d in range(len(overlap)):
        free = np.where(taken & ~crowd, -1.0, overlap[d])
        chosen, have = np.zeros(len(threshold), np.int64), np.zeros(len(threshold), bool)
        for start, end in ((wanted, len(order)), (0, wanted)):  # the second one overrides the first
            if start < end:
                k = end - 1 - free[:, start:end][:, ::-1].argmax(1)
                good = free[rows, k] >= threshold
                chosen, have = np.where(good, k, chosen), have | good
        hit[:, d] = have
        taken[rows[have], chosen[have]] = True
        counts[have, d] = ~ignored[chosen[have]]
    return _Matched(hit, counts, wanted)


def _coco_curve(
    pictures: Sequence[_Picture],
    matched: Sequence[_Matched],
    most: int,
    count: int,
    precision: Array,
    recall: Array,
    place: tuple[int, int, int],
) -> None:
    """Precision at every recall, and the last recall, of one class, size and number of detections."""
    order = np.argsort(-np.concatenate([one.scores[:most] for one in pictures]), kind="stable")
    hit = np.concatenate([m.hit[:, :most] for m in matched], 1)[:, order]
    counts = np.concatenate([m.counts[:, :most] for m in matched], 1)[:, order]
    right = np.cumsum(hit & counts, 1).astype(np.float64)
    wrong = np.cumsum(~hit & counts, 1)
    k, a, m = place
    for t in range(len(IOU_THRESHOLDS)):
        reached = right[t] / count
        exact = right[t] / np.maximum(right[t] + wrong[t], 1)
        best = np.maximum.accumulate(exact[::-1])[::-1]
        at = np.searchsorted(reached, RECALLS, side="left")
        precision[:, t, k, a, m] = np.append(best, 0)[at]
        recall[t, k, a, m] = reached[-1] if len(reached) else 0


# --- a detector on a data set ---------------------------------------------------------------------------


def evaluate(
    detector: Any,
    dataset: Any,
    *,
    style: str = "voc",
    score_threshold: float = 0.005,
    **settings: Any,
) -> Any:
    """Run a detector over a data set with boxes and say how good it is.

    Parameters
    ----------
    detector : Detector
    dataset : Dataset
        Of samples with boxes, such as :class:`cnnfast.data.VOC` or :class:`cnnfast.data.COCO`, whose classes
        have the detector's numbers.
    style : {"voc", "coco"}
    score_threshold : float
        What the detector finds with less does not enter; average precision wants nearly everything.
    **settings
        Of :func:`voc_precision`.

    Returns
    -------
    AveragePrecision or CocoSummary

    Raises
    ------
    DataError
        If the data set is empty or has no boxes.
    ShapeError
    """
    if style not in ("voc", "coco"):
        fail("evaluate", f"style must be 'voc' or 'coco', got {style!r}")
    found, objects = [], []
    names = tuple(getattr(dataset, "classes", ()) or detector.names)
    for i in range(len(dataset)):
        sample = dataset[i]
        if sample.boxes is None:
            raise DataError(f"evaluate: expected samples with boxes, got none in sample {i}")
        found.append(detector(sample.picture, score_threshold=score_threshold))
        objects.append(Objects(sample.boxes, sample.classes, sample.difficult))
    if not found:
        raise DataError("evaluate: expected at least one sample, got none")
    classes = max(len(names), *(int(np.max(part.classes, initial=-1)) + 1 for part in (*found, *objects)))
    if style == "coco":
        return coco_summary(found, objects, classes)
    return voc_precision(found, objects, classes, names=names if len(names) == classes else (), **settings)
