"""Operators on NumPy arrays: activations N,H,W,C, weights KH,KW,C_in/groups,C_out."""

from .conv import (
    PackedWeights,
    conv2d,
    conv2d_transpose,
    depthwise_conv2d,
    pack_conv2d,
    pack_conv2d_transpose,
)
from .linear import gram_matrix, linear, pack_linear
from .pad import pad2d
from .registry import OPERATORS, Cost, Op, cost

__all__ = [
    "OPERATORS",
    "Cost",
    "Op",
    "PackedWeights",
    "conv2d",
    "conv2d_transpose",
    "cost",
    "depthwise_conv2d",
    "gram_matrix",
    "linear",
    "pack_conv2d",
    "pack_conv2d_transpose",
    "pack_linear",
    "pad2d",
]
