"""Weights that were rearranged once for the kernels of this machine."""

from __future__ import annotations

from typing import Any

import numpy as np

from .registry import Array, array, fail


class PackedWeights:
    """Weights rearranged once for the kernels of this machine, accepted wherever the array is.

    Made by :func:`pack_conv2d`, :func:`pack_conv2d_transpose` and :func:`pack_linear`. The array is
    kept too, for the NumPy backend and for algorithms that read it directly.

    Attributes
    ----------
    op : str
        The operator it was packed for.
    array : ndarray
        The weights, read-only.
    shape : tuple of int
    """

    __slots__ = ("array", "native", "op", "parameters", "shape")

    def __init__(self, op: str, w: Any, packed: Any, parameters: tuple[Any, ...]) -> None:
        self.op = op
        self.array: Array = w
        self.shape = w.shape
        self.native = packed
        self.parameters = parameters

    def __repr__(self) -> str:
        return f"PackedWeights({self.op}, shape={self.shape})"


def own_weight(op: str, w: Any) -> Array:
    """A private read-only copy, so that later writes cannot split the two forms."""
    own = np.array(array(op, "weight", w))
    own.setflags(write=False)
    return own


def unpack(op: str, w: Any, x: Array, parameters: tuple[Any, ...]) -> tuple[Array, Any]:
    """The array and the native packed form (or None) of a weight argument."""
    if not isinstance(w, PackedWeights):
        return array(op, "weight", w, x), None
    if w.op != op:
        fail(op, f"the weight was packed for {w.op}", weight=w.shape)
    if w.parameters != parameters:
        fail(op, f"the weight was packed for {w.parameters}, the call has {parameters}", weight=w.shape)
    return array(op, "weight", w.array, x), w.native
