"""Selective search: boxes that are likely to hold an object, found by grouping pixels, without a network."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import ops
from ..ops.registry import array, fail, number, rank

Array = np.ndarray

__all__ = ["segment", "selective_search"]

_COLOURS, _STRENGTHS, _DIRECTIONS = 25, 10, 8  # bins of the histograms


# --- first regions ----------------------------------------------------------------------------------


def _smoothed(picture: Array, sigma: float) -> Array:
    """Gaussian of the picture, its border repeated."""
    if sigma <= 0:
        return picture
    reach = int(np.ceil(4 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel = (kernel / kernel.sum()).astype(picture.dtype)
    for axis in (0, 1):
        pads = [(0, 0)] * 3
        pads[axis] = (reach, reach)
        padded = np.pad(picture, pads, mode="edge")
        picture = sum(
            k * np.take(padded, np.arange(i, i + picture.shape[axis]), axis) for i, k in enumerate(kernel)
        )
    return picture


def segment(picture: Any, *, scale: float = 100.0, sigma: float = 0.8, least: int = 20) -> Array:
    """Regions of similar colour, by merging pixels along the edges of a graph.

    Neighbours, eight of each pixel, are joined by rising difference of colour, unless the difference exceeds
    the largest within either region by more than ``scale`` over its pixels; regions of fewer than ``least``
    pixels then join the neighbour that differs least.

    Parameters
    ----------
    picture : array_like, shape (H, W, C)
        0..255.
    scale : float
        Larger ones prefer larger regions.
    sigma : float
        Standard deviation of the Gaussian that comes first, in pixels; 0 for none.
    least : int

    Returns
    -------
    ndarray of int64, shape (H, W)
        Numbers of regions from 0, in the order of their first pixels.

    Raises
    ------
    ShapeError, DTypeError

    References
    ----------
    Felzenszwalb and Huttenlocher, "Efficient graph-based image segmentation", 2004, algorithm 1.
    """
    op = "segment"
    picture = np.asarray(picture)
    picture = array(op, "picture", picture.astype(np.float32) if picture.dtype == np.uint8 else picture)
    rank(op, "picture", picture.shape, "H,W,C")
    scale, sigma = number(op, "scale", scale), number(op, "sigma", sigma)
    if 0 in picture.shape or scale <= 0 or sigma < 0 or least < 1:
        fail(
            op, "expected a picture with pixels, scale above 0, sigma and least from 0", picture=picture.shape
        )
    smooth = _smoothed(picture, sigma)
    h, w = picture.shape[:2]
    number_of = np.arange(h * w).reshape(h, w)
    ends, weights = [], []
    for a, b in (
        (np.s_[:, :-1], np.s_[:, 1:]),
        (np.s_[:-1], np.s_[1:]),
        (np.s_[:-1, :-1], np.s_[1:, 1:]),
        (np.s_[:-1, 1:], np.s_[1:, :-1]),
    ):
        ends.append(np.stack([number_of[a].ravel(), number_of[b].ravel()], 1))
        weights.append(np.sqrt(np.square(smooth[a] - smooth[b]).sum(-1)).ravel())
    pairs, weight = np.concatenate(ends), np.concatenate(weights)
    order = np.argsort(weight, kind="stable")
    return _joined(pairs[order].tolist(), weight[order].tolist(), h * w, scale, least).reshape(h, w)


def _joined(pairs: list[list[int]], weights: list[float], count: int, scale: float, least: int) -> Array:
    """Union of pixels along sorted edges; plain Python numbers, which are quicker here than arrays."""
    parent, size = list(range(count)), [1] * count
    bound = [scale] * count  # what a region joins up to: its largest inner difference and scale over size

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    def join(a: int, b: int) -> int:
        if size[a] < size[b]:
            a, b = b, a
        parent[b] = a
        size[a] += size[b]
        return a

    for (i, j), weight in zip(pairs, weights, strict=True):
        a, b = root(i), root(j)
        if a != b and weight <= bound[a] and weight <= bound[b]:
            a = join(a, b)
            bound[a] = weight + scale / size[a]
    for i, j in pairs:
        a, b = root(i), root(j)
        if a != b and (size[a] < least or size[b] < least):
            join(a, b)
    roots = np.array([root(i) for i in range(count)])
    _, first, which = np.unique(roots, return_index=True, return_inverse=True)
    rank_of = np.empty(len(first), np.int64)
    rank_of[np.argsort(first)] = np.arange(len(first))
    return rank_of[which.reshape(-1)]


# --- grouping ---------------------------------------------------------------------------------------


def _histograms(values: Array, regions: Array, count: int, bins: int) -> Array:
    """Of each region, (regions, channels * bins), with sum 1; values (H, W, channels) are bins."""
    channels = values.shape[2]
    at = (regions[..., None] * channels + np.arange(channels)) * bins + values
    table = np.bincount(at.ravel(), minlength=count * channels * bins).reshape(count, -1).astype(np.float64)
    return table / np.maximum(table.sum(1, keepdims=True), 1)


def _features(picture: Array, regions: Array, count: int) -> Array:
    """Histograms of colour and of texture, side by side."""
    colour = np.clip(picture * (_COLOURS / 256), 0, _COLOURS - 1).astype(np.int64)
    smooth = _smoothed(picture, 1.0)
    down, across = np.gradient(smooth, axis=0), np.gradient(smooth, axis=1)
    strength = np.hypot(down, across)
    turn = (np.arctan2(down, across) / (2 * np.pi) % 1 * _DIRECTIONS).astype(np.int64) % _DIRECTIONS
    steps = np.clip(strength / max(float(strength.max()), 1e-6) * _STRENGTHS, 0, _STRENGTHS - 1)
    texture = turn * _STRENGTHS + steps.astype(np.int64)
    return np.concatenate(
        [
            _histograms(colour, regions, count, _COLOURS),
            _histograms(texture, regions, count, _DIRECTIONS * _STRENGTHS),
        ],
        1,
    )


def _bounds(regions: Array, count: int) -> Array:
    """Boxes (regions, 4) around regions."""
    h, w = regions.shape
    rows, columns = (np.broadcast_to(i, (h, w)).ravel() for i in np.ogrid[:h, :w])
    flat = regions.ravel()
    boxes = np.tile(np.array([w, h, 0, 0], np.float64), (count, 1))
    np.minimum.at(boxes[:, 0], flat, columns)
    np.minimum.at(boxes[:, 1], flat, rows)
    np.maximum.at(boxes[:, 2], flat, columns + 1)
    np.maximum.at(boxes[:, 3], flat, rows + 1)
    return boxes


def _neighbours(regions: Array, count: int) -> list[set[int]]:
    pairs = [
        np.stack([regions[a].ravel(), regions[b].ravel()], 1)
        for a, b in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:]))
    ]
    found: list[set[int]] = [set() for _ in range(count)]
    for a, b in np.unique(np.concatenate(pairs), axis=0).tolist():
        if a != b:
            found[a].add(b)
            found[b].add(a)
    return found


class _Grouping:
    """Regions that merge, the two most alike first; merged ones are added at the end."""

    def __init__(self, picture: Array, regions: Array) -> None:
        count = int(regions.max()) + 1
        self.total = regions.size
        self.features = list(_features(picture, regions, count))
        self.sizes = np.bincount(regions.ravel(), minlength=count).tolist()
        self.boxes = list(_bounds(regions, count))
        self.neighbours = _neighbours(regions, count)
        self.alike = {(a, b): self.likeness(a, b) for a in range(count) for b in self.neighbours[a] if a < b}

    def likeness(self, a: int, b: int) -> float:
        """Colour and texture in common, being small, and filling the box around both; each 0 to 1."""
        common = float(np.minimum(self.features[a], self.features[b]).sum())
        size = self.sizes[a] + self.sizes[b]
        x1, y1, x2, y2 = self.around(a, b)
        return common + 1 - size / self.total + 1 - ((x2 - x1) * (y2 - y1) - size) / self.total

    def around(self, a: int, b: int) -> Array:
        p, q = self.boxes[a], self.boxes[b]
        return np.concatenate([np.minimum(p[:2], q[:2]), np.maximum(p[2:], q[2:])])

    def merge(self) -> bool:
        """One step; False when nothing is left to merge."""
        if not self.alike:
            return False
        a, b = max(self.alike, key=lambda pair: (self.alike[pair], -pair[0], -pair[1]))
        size = self.sizes[a] + self.sizes[b]
        new = len(self.boxes)
        mixed = (self.features[a] * self.sizes[a] + self.features[b] * self.sizes[b]) / size
        self.boxes.append(self.around(a, b))
        self.features.append(mixed)
        self.sizes.append(size)
        near = (self.neighbours[a] | self.neighbours[b]) - {a, b}
        self.neighbours.append(near)
        for old in (a, b):
            for other in self.neighbours[old]:
                self.alike.pop((min(old, other), max(old, other)), None)
                self.neighbours[other].discard(old)
        for other in near:
            self.neighbours[other].add(new)
            self.alike[other, new] = self.likeness(other, new)
        return True


def selective_search(
    picture: Any,
    *,
    scales: tuple[float, ...] = (100.0, 200.0),
    sigma: float = 0.8,
    least: int = 20,
    longest: int = 256,
    smallest: float = 8.0,
    most: int = 2000,
) -> Array:
    """Boxes around groups of regions of a picture, the largest groups first.

    The regions of :func:`segment` merge two by two, neighbours that are most alike first (colour, texture,
    size, and how well they fill the box around both, all with the same weight), until one is left; each
    region on the way gives a box. All ``scales`` are searched.

    Parameters
    ----------
    picture : array_like, shape (H, W, 3)
        RGB in 0..255.
    scales, sigma, least
        See :func:`segment`.
    longest : int
        A larger picture is reduced to this longer side first, which takes about a second for 256.
    smallest : float
        Boxes with a shorter side, in pixels of the picture, are left out.
    most : int
        So many boxes at most, those of the last merges first.

    Returns
    -------
    ndarray of float32, shape (K, 4)
        x1, y1, x2, y2 in pixels of the picture, without doubles.

    Raises
    ------
    ShapeError, DTypeError

    References
    ----------
    Uijlings et al., "Selective search for object recognition", 2013, algorithm 1 and section 3.2.
    """
    op = "selective_search"
    picture = np.asarray(picture)
    picture = array(op, "picture", picture.astype(np.float32) if picture.dtype == np.uint8 else picture)
    rank(op, "picture", picture.shape, "H,W,C")
    if picture.shape[2] != 3 or 0 in picture.shape or longest < 1 or most < 1 or not scales:
        fail(op, "expected a picture of 3 channels with pixels, and scales", picture=picture.shape)
    h, w = picture.shape[:2]
    factor = min(1.0, longest / max(h, w))
    size = max(1, round(h * factor)), max(1, round(w * factor))
    small = picture if factor == 1 else ops.resize(picture[None], size, antialias=True)[0]
    found = []
    for scale in scales:
        groups = _Grouping(small, segment(small, scale=scale, sigma=sigma, least=least))
        while groups.merge():
            pass
        found.append(np.stack(groups.boxes[::-1]))
    boxes = np.concatenate(found) * np.array([w / size[1], h / size[0]] * 2)
    boxes = boxes[(boxes[:, 2:] - boxes[:, :2] >= smallest).all(1)].astype(np.float32)
    _, first = np.unique(boxes, axis=0, return_index=True)
    return boxes[np.sort(first)][:most]
