"""Operators on NumPy arrays: activations N,H,W,C, weights KH,KW,C_in/groups,C_out."""

from .activations import hard_swish, leaky_relu, relu, relu6, sigmoid, silu, tanh
from .arithmetic import add, mul
from .boxes import batched_nms, box_convert, box_iou, nms, soft_nms, weighted_nms
from .concat import concat
from .conv import (
    conv2d,
    conv2d_transpose,
    depthwise_conv2d,
    pack_conv2d,
    pack_conv2d_transpose,
)
from .l2_pool import l2_pool2d
from .linear import gram_matrix, linear, pack_linear
from .norm import batch_norm, local_response_norm
from .normalize import l2_normalize
from .packed import PackedWeights
from .pad import pad2d
from .pool import avg_pool2d, global_avg_pool2d, global_max_pool2d, max_pool2d
from .registry import OPERATORS, Cost, Op, cost
from .resize import resize
from .roi import roi_align, roi_pool
from .softmax import log_softmax, softmax
from .views import flatten, reshape, split, take, transpose

__all__ = [
    "OPERATORS",
    "Cost",
    "Op",
    "PackedWeights",
    "add",
    "avg_pool2d",
    "batch_norm",
    "batched_nms",
    "box_convert",
    "box_iou",
    "concat",
    "conv2d",
    "conv2d_transpose",
    "cost",
    "depthwise_conv2d",
    "flatten",
    "global_avg_pool2d",
    "global_max_pool2d",
    "gram_matrix",
    "hard_swish",
    "l2_normalize",
    "l2_pool2d",
    "leaky_relu",
    "linear",
    "local_response_norm",
    "log_softmax",
    "max_pool2d",
    "mul",
    "nms",
    "pack_conv2d",
    "pack_conv2d_transpose",
    "pack_linear",
    "pad2d",
    "relu",
    "relu6",
    "reshape",
    "resize",
    "roi_align",
    "roi_pool",
    "sigmoid",
    "silu",
    "soft_nms",
    "softmax",
    "split",
    "take",
    "tanh",
    "transpose",
    "weighted_nms",
]
