"""Which cell and anchor is responsible for which object: targets of YOLO, and objects back out of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import ops
from ..ops.registry import array, fail, number, pair
from .anchors import shape_iou

if TYPE_CHECKING:
    from ..models.darknet import Head

Array = np.ndarray

__all__ = ["Assignment", "Collision", "assign", "decode_grid", "encode_grid"]


class Collision(NamedTuple):
    """Two objects that ask for the same anchor of the same cell.

    Attributes
    ----------
    picture : int
    head, row, column, anchor : int
        The place.
    kept, lost : int
        Numbers of the objects: the one that has the place, and the one that came too late.
    moved : (int, int, int, int) or None
        Head, row, column and anchor that the late one was given instead; None where it has none.
    """

    picture: int
    head: int
    row: int
    column: int
    anchor: int
    kept: int
    lost: int
    moved: tuple[int, int, int, int] | None


class Assignment(NamedTuple):
    """Targets of a batch.

    Attributes
    ----------
    targets : list of ndarray of float32, shapes (N, rows, columns, anchors, 5 + classes)
        One for each head, as :func:`cnnfast.losses.yolo` takes them.
    collisions : list of Collision
        Every object that did not get the place it asked for.
    """

    targets: list[Array]
    collisions: list[Collision]


def _objects(op: str, boxes: Sequence[Any], classes: Sequence[Any], count: int) -> list[tuple[Array, Array]]:
    """Boxes (K, 4) of float64 and classes (K,) of each picture, checked."""
    if len(boxes) != len(classes):
        fail(op, f"expected boxes and classes of as many pictures, got {len(boxes)} and {len(classes)}")
    objects = []
    for picture, labels in zip(boxes, classes, strict=True):
        box = np.asarray(picture, np.float64).reshape(-1, 4) if np.size(picture) == 0 else picture
        box, label = np.asarray(box, np.float64), np.asarray(labels)
        if box.ndim != 2 or box.shape[1] != 4 or label.shape != box.shape[:1]:
            fail(op, "expected boxes (K,4) and classes (K,)", boxes=box.shape, classes=label.shape)
        if len(box) and not (np.isfinite(box).all() and (box[:, 2:] > box[:, :2]).all()):
            fail(op, "boxes must be finite and of positive width and height")
        if len(label) and (label.dtype.kind not in "iu" or not 0 <= label.min() <= label.max() < count):
            fail(op, f"classes must be whole numbers from 0 to {count - 1}")
        objects.append((box, label.astype(np.int64)))
    return objects


def _cell(centre: Array, grid: tuple[int, int], size: tuple[int, int]) -> tuple[int, int, float, float]:
    """Row and column of the cell that holds a point x, y, and the place in it; edges belong to the last."""
    x, y = centre[0] / size[1] * grid[1], centre[1] / size[0] * grid[0]
    column, row = (int(min(max(v, 0), n - 1)) for v, n in ((x, grid[1]), (y, grid[0])))
    return row, column, min(max(x - column, 0.0), 1.0), min(max(y - row, 0.0), 1.0)


def anchor_pixels(head: Head, grid: tuple[int, int], size: tuple[int, int]) -> Array:
    """Widths and heights of a head's anchors in pixels of the input, shape (A, 2)."""
    anchors = np.array(head.anchors, np.float64)
    return anchors if head.kind == "yolo" else anchors * [size[1] / grid[1], size[0] / grid[0]]


def assign(
    boxes: Sequence[Any],
    classes: Sequence[Any],
    heads: Sequence[Head],
    grids: Sequence[tuple[int, int]],
    size: Any,
    *,
    positive: float | None = None,
    ignore: float | None = None,
    next_best: bool = False,
) -> Assignment:
    """Give each object the cell that holds its centre and the anchor whose shape overlaps it most.

    Over all heads the anchor of the best intersection over union wins, both shapes being laid on one centre;
    of equal ones the first. An object whose place is taken by an earlier one is reported as a collision.

    Parameters
    ----------
    boxes : sequence of N array_like, shapes (K, 4)
        x1, y1, x2, y2 in pixels of the network's input.
    classes : sequence of N array_like of int, shapes (K,)
    heads : sequence of Head
        ``model.heads``.
    grids : sequence of (int, int)
        Rows and columns of each head's output.
    size : int or (int, int)
        Rows and columns of the input.
    positive : float, optional
        Further anchors of the object's cells whose shape overlaps it by more are responsible for it as well,
        where they are free.
    ignore : float, optional
        Anchors that lie on an object with a larger overlap without being responsible for one get
        objectness -1: they count neither as object nor as background.
    next_best : bool
        Whether an object that comes too late gets its best anchor that is free.

    Returns
    -------
    Assignment

    Raises
    ------
    ShapeError

    References
    ----------
    Redmon and Farhadi, "YOLOv3: an incremental improvement", 2018, section 2.1.
    """
    op = "assign"
    size = pair(op, "size", tuple(size) if isinstance(size, list) else size, 1)
    if not heads or len(heads) != len(grids) or len({head.classes for head in heads}) != 1:
        fail(op, f"expected a grid for each head and heads of the same classes, got {len(grids)} grids")
    for name, value in (("positive", positive), ("ignore", ignore)):
        if value is not None and not 0 <= number(op, name, value) <= 1:
            fail(op, f"expected {name} from 0 to 1, got {value}")
    count = heads[0].classes
    objects = _objects(op, boxes, classes, count)
    shapes = [anchor_pixels(head, grid, size) for head, grid in zip(heads, grids, strict=True)]
    targets = [
        np.zeros((len(objects), *grid, len(shape), 5 + count), np.float32)
        for grid, shape in zip(grids, shapes, strict=True)
    ]
    collisions: list[Collision] = []
    for i, (box, label) in enumerate(objects):
        if not len(box):
            continue
        placing = _Placing([target[i] for target in targets], shapes, size, box, label)
        wanted = [placing.wanted(k) for k in range(len(box))]
        for k, places in enumerate(wanted):
            best = places[0]
            if not placing.take(k, best):
                moved = None
                if next_best:
                    moved = next((place for place in places[1:] if placing.take(k, place)), None)
                collisions.append(Collision(i, *best, placing.owner[best], k, moved))
        if positive is not None:  # after every object had its best
            for k, places in enumerate(wanted):
                for place in places[1 : int((placing.overlap[k] > positive).sum())]:
                    placing.take(k, place)
        if ignore is not None:
            for target, shape in zip(targets, shapes, strict=True):
                objectness = target[i, ..., 4]
                over = ops.box_iou(_priors(shape, target.shape[1:3], size), box).max(1) > ignore
                objectness[over.reshape(objectness.shape) & (objectness == 0)] = -1
    return Assignment(targets, collisions)


Place = tuple[int, int, int, int]  # head, row, column, anchor


class _Placing:
    """The objects of one picture on their way to places."""

    def __init__(
        self, targets: list[Array], shapes: list[Array], size: tuple[int, int], boxes: Array, classes: Array
    ) -> None:
        self.targets, self.shapes, self.image = targets, shapes, size
        self.centres, self.sizes = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        self.classes = classes
        self.overlap = shape_iou(self.sizes, np.concatenate(shapes))
        self.anchors = [(h, a) for h, shape in enumerate(shapes) for a in range(len(shape))]
        self.owner: dict[Place, int] = {}

    def wanted(self, k: int) -> list[Place]:
        """Places of an object, the best first."""
        cells = [_cell(self.centres[k], t.shape[:2], self.image)[:2] for t in self.targets]
        order = [self.anchors[j] for j in np.argsort(-self.overlap[k], kind="stable")]
        return [(head, *cells[head], anchor) for head, anchor in order]

    def take(self, k: int, place: Place) -> bool:
        """Make a place responsible for an object, if it is free."""
        if place in self.owner:
            return False
        head, row, column, anchor = place
        target = self.targets[head]
        _, _, x, y = _cell(self.centres[k], target.shape[:2], self.image)
        grown = np.log(self.sizes[k] / self.shapes[head][anchor])
        target[row, column, anchor, :5] = x, y, *grown, 1
        target[row, column, anchor, 5 + self.classes[k]] = 1
        self.owner[place] = k
        return True


def _priors(shapes: Array, grid: tuple[int, int], size: tuple[int, int]) -> Array:
    """Anchors in the middle of every cell, shape (rows * columns * A, 4)."""
    y, x = ((np.arange(n) + 0.5) * side / n for n, side in zip(grid, size, strict=True))
    centre = np.stack(np.broadcast_arrays(x[None, :, None], y[:, None, None]), -1)
    half = shapes / 2
    return np.concatenate(np.broadcast_arrays(centre - half, centre + half), -1).reshape(-1, 4)


# --- the first version: a grid without anchors -------------------------------------------------------


def encode_grid(
    boxes: Sequence[Any], classes: Sequence[Any], cells: int, num_classes: int, size: Any
) -> tuple[Array, list[Collision]]:
    """Targets of YOLO version 1: one object for each cell of an S x S grid.

    Parameters
    ----------
    boxes, classes
        As of :func:`assign`.
    cells : int
        S.
    num_classes : int
    size : int or (int, int)
        Rows and columns of the input.

    Returns
    -------
    target : ndarray of float32, shape (N, S, S, 5 + classes)
        Centre in the cell, width and height as shares of the picture, 1 where there is an object, its class
        one-hot; as :func:`cnnfast.losses.yolo_v1` takes it.
    collisions : list of Collision
        Objects whose cell was taken by an earlier one; ``head`` and ``anchor`` are 0.

    Raises
    ------
    ShapeError

    References
    ----------
    Redmon et al., "You only look once", 2016, section 2.
    """
    op = "encode_grid"
    size = pair(op, "size", tuple(size) if isinstance(size, list) else size, 1)
    objects = _objects(op, boxes, classes, num_classes)
    target = np.zeros((len(objects), cells, cells, 5 + num_classes), np.float32)
    collisions: list[Collision] = []
    for i, (box, label) in enumerate(objects):
        owner: dict[tuple[int, int], int] = {}
        for k in range(len(box)):
            row, column, x, y = _cell((box[k, :2] + box[k, 2:]) / 2, (cells, cells), size)
            if (row, column) in owner:
                collisions.append(Collision(i, 0, row, column, 0, owner[row, column], k, None))
                continue
            owner[row, column] = k
            target[i, row, column, :5] = x, y, *((box[k, 2:] - box[k, :2]) / [size[1], size[0]]), 1
            target[i, row, column, 5 + label[k]] = 1
    return target, collisions


def decode_grid(output: Any, boxes: int, size: Any) -> tuple[Array, Array, Array]:
    """All boxes of an output of YOLO version 1.

    Parameters
    ----------
    output : array_like, shape (N, S, S, 5 B + C)
        B times (x, y, root of w, root of h, confidence), then C class values.
    boxes : int
        B.
    size : int or (int, int)
        Rows and columns of the input.

    Returns
    -------
    boxes : ndarray, shape (N, S * S * B, 4)
        x1, y1, x2, y2 in pixels of the input, not clipped.
    confidence : ndarray, shape (N, S * S * B)
    probabilities : ndarray, shape (N, S * S * B, C)
        A class's score is its probability times the confidence.

    Raises
    ------
    ShapeError, DTypeError
    """
    op = "decode_grid"
    output = array(op, "output", np.asarray(output))
    size = pair(op, "size", tuple(size) if isinstance(size, list) else size, 1)
    if output.ndim != 4 or output.shape[1] != output.shape[2] or boxes < 1 or output.shape[3] < 5 * boxes:
        fail(op, f"output must have dimensions N,S,S,5*{boxes}+C", output=output.shape)
    n, s, _, channels = output.shape
    values = output[..., : 5 * boxes].reshape(n, s, s, boxes, 5)
    corner = np.stack(np.meshgrid(np.arange(s), np.arange(s)), -1)[:, :, None].astype(output.dtype)
    whole = np.array([size[1], size[0]], output.dtype)
    centre = (values[..., :2] + corner) / output.dtype.type(s) * whole
    half = np.square(np.maximum(values[..., 2:4], 0)) * whole / output.dtype.type(2)
    found = np.concatenate([centre - half, centre + half], -1).reshape(n, -1, 4)
    kinds = np.repeat(output[..., None, 5 * boxes :], boxes, 3)
    return found, values[..., 4].reshape(n, -1), kinds.reshape(n, s * s * boxes, channels - 5 * boxes)
