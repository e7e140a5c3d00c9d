"""Values of an ONNX graph and the order their axes are held in.

ONNX numbers axes N, C, H, W; the operators here want N, H, W, C. A value is therefore held in whatever order
it was made, with a note where each of its axes is, and moved only where an operator needs another order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import ops
from ..tensor import Tensor

__all__ = ["Held", "arranged", "channels_last", "held", "last", "order_of", "plain", "reshaped", "shape_of"]

Order = tuple[int, ...]


class Held:
    """A value whose axis i is axis ``order[i]`` of ``tensor``."""

    __slots__ = ("order", "tensor")

    def __init__(self, tensor: Any, order: Order) -> None:
        self.tensor, self.order = tensor, order

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple([self.tensor.shape[a] for a in self.order])

    @property
    def dtype(self) -> Any:
        return self.tensor.dtype


def held(tensor: Any, order: Sequence[int]) -> Any:
    """A value in this order; without a note where that is the usual one."""
    order = tuple(order)
    return tensor if order == tuple(range(len(order))) else Held(tensor, order)


def shape_of(value: Any) -> tuple[int, ...]:
    """The sizes as ONNX numbers them."""
    return tuple(value.shape)


def order_of(value: Any) -> Order:
    return value.order if isinstance(value, Held) else tuple(range(len(value.shape)))


def channels_last(rank: int) -> Order:
    """The order N, H, W, C of axes that are numbered N, C, H, W."""
    return (0, rank - 1, *range(1, rank - 1))


def arranged(value: Any, order: Order) -> Any:
    """The tensor of a value with its axes in another order."""
    now = order_of(value)
    tensor = value.tensor if isinstance(value, Held) else value
    if now == order:
        return tensor
    moves = [0] * len(order)
    for source, target in zip(now, order, strict=True):
        moves[target] = source
    sizes = [tensor.shape[a] for a in moves]
    matter = [a for a, size in zip(moves, sizes, strict=True) if size != 1]
    if matter == sorted(matter):  # only axes of size 1 move
        return ops.reshape(tensor, tuple(sizes))
    return ops.transpose(tensor, moves)


def plain(value: Any) -> Any:
    """The tensor with its axes in the usual order."""
    return arranged(value, tuple(range(len(value.shape)))) if isinstance(value, Held) else value


def last(value: Any) -> Any:
    """The tensor of a feature map N, C, ... with its channels last."""
    return arranged(value, channels_last(len(value.shape)))


def transposed(value: Any, axes: Sequence[int]) -> Any:
    """Axes in another order; nothing is moved."""
    if isinstance(value, np.ndarray):
        return np.asarray(value.transpose(axes), order="C")
    now = order_of(value)
    return held(value.tensor if isinstance(value, Held) else value, [now[a] for a in axes])


def reshaped(value: Any, shape: tuple[int, ...]) -> Any:
    """The same elements in the order of ONNX under another shape.

    Nothing moves where the axes that are split, or joined, lie together in the order they are held in.
    """
    if not isinstance(value, Held):
        return ops.reshape(value, shape)
    old = value.shape
    groups = _groups(old, shape) if math.prod(old) and math.prod(old) == math.prod(shape) else None
    if groups is None:
        return ops.reshape(plain(value), shape)
    large = [a for a, size in enumerate(value.tensor.shape) if size != 1]
    place = {a: i for i, a in enumerate(large)}
    keyed: list[tuple[float, int, list[int]]] = []
    before = -1.0
    for axes, new in groups:
        where = [place[value.order[a]] for a in axes if old[a] != 1]
        if where != list(range(where[0], where[0] + len(where)) if where else []):
            return ops.reshape(plain(value), shape)
        if where:
            before = float(large[where[0]])
        elif axes:
            before = float(value.order[axes[0]])
        keyed.append((before, len(keyed), new))
    sequence = [axis for _, _, new in sorted(keyed) for axis in new]
    tensor = ops.reshape(value.tensor, tuple(shape[a] for a in sequence))
    return held(tensor, [sequence.index(a) for a in range(len(shape))])


def _groups(old: tuple[int, ...], new: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """Which axes become which: runs of both that hold the same number of elements, as short as can be."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        a, b = ([i] if i < len(old) else []), ([j] if j < len(new) else [])
        p, q = (old[i] if a else 1), (new[j] if b else 1)
        i, j = i + len(a), j + len(b)
        while p != q:
            if p < q:
                p, i = p * old[i], i + 1
                a.append(i - 1)
            else:
                q, j = q * new[j], j + 1
                b.append(j - 1)
        groups.append((a, b))
    return groups


def data_of(value: Any) -> Any:
    """The array of a tensor that has one, in the usual order; None for a symbol."""
    value = plain(value)
    if isinstance(value, Tensor):
        return None if value.is_symbol else value.data
    return value
