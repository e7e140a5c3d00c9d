"""Operators on NumPy arrays: activations N,H,W,C, weights KH,KW,C_in/groups,C_out."""

from .activation_grad import activation_grad
from .activations import hard_swish, leaky_relu, relu, relu6, sigmoid, silu, tanh
from .arithmetic import add, mul
from .batch_norm_train import batch_norm_train, batch_norm_train_grad
from .binary import div, maximum, minimum, pow, prelu, sub
from .boxes import box_convert, box_iou
from .cast import cast
from .comparison import equal, greater, less, logical_not, where
from .concat import concat
from .conv import conv2d, depthwise_conv2d, pack_conv2d
from .conv_grad import bias_grad, conv2d_grad_input, conv2d_grad_weight
from .conv_transpose import conv2d_transpose, pack_conv2d_transpose
from .cross_entropy import sigmoid_cross_entropy, softmax_cross_entropy
from .instance_norm import instance_norm
from .l2_pool import l2_pool2d
from .linear import gram_matrix, linear, matmul, pack_linear
from .linear_grad import linear_grad_input, linear_grad_weight
from .local_response_norm import local_response_norm
from .nms import batched_nms, nms, soft_nms, weighted_nms
from .norm import batch_norm
from .normalize import l2_normalize
from .packed import PackedWeights
from .pad import pad2d
from .pool import avg_pool2d, global_avg_pool2d, global_max_pool2d, max_pool2d
from .pool_grad import avg_pool2d_grad, global_avg_pool2d_grad, global_max_pool2d_grad, max_pool2d_grad
from .rearrange import depth_to_space, expand, gather, space_to_depth, tile
from .reduce import argmax, reduce_l2, reduce_max, reduce_mean, reduce_min, reduce_sum, topk
from .registry import OPERATORS, Cost, Op, cost
from .resize import resize
from .roi import roi_align, roi_pool
from .softmax import log_softmax, softmax
from .unary import abs, ceil, clip, elu, erf, exp, floor, hard_sigmoid, log, neg, reciprocal, sqrt
from .views import flatten, reshape, split, take, transpose
from .yolo import yolo_candidates

__all__ = [
    "OPERATORS",
    "Cost",
    "Op",
    "PackedWeights",
    "abs",
    "activation_grad",
    "add",
    "argmax",
    "avg_pool2d",
    "avg_pool2d_grad",
    "batch_norm",
    "batch_norm_train",
    "batch_norm_train_grad",
    "batched_nms",
    "bias_grad",
    "box_convert",
    "box_iou",
    "cast",
    "ceil",
    "clip",
    "concat",
    "conv2d",
    "conv2d_grad_input",
    "conv2d_grad_weight",
    "conv2d_transpose",
    "cost",
    "depth_to_space",
    "depthwise_conv2d",
    "div",
    "elu",
    "equal",
    "erf",
    "exp",
    "expand",
    "flatten",
    "floor",
    "gather",
    "global_avg_pool2d",
    "global_avg_pool2d_grad",
    "global_max_pool2d",
    "global_max_pool2d_grad",
    "gram_matrix",
    "greater",
    "hard_sigmoid",
    "hard_swish",
    "instance_norm",
    "l2_normalize",
    "l2_pool2d",
    "leaky_relu",
    "less",
    "linear",
    "linear_grad_input",
    "linear_grad_weight",
    "local_response_norm",
    "log",
    "log_softmax",
    "logical_not",
    "matmul",
    "max_pool2d",
    "max_pool2d_grad",
    "maximum",
    "minimum",
    "mul",
    "neg",
    "nms",
    "pack_conv2d",
    "pack_conv2d_transpose",
    "pack_linear",
    "pad2d",
    "pow",
    "prelu",
    "reciprocal",
    "reduce_l2",
    "reduce_max",
    "reduce_mean",
    "reduce_min",
    "reduce_sum",
    "relu",
    "relu6",
    "reshape",
    "resize",
    "roi_align",
    "roi_pool",
    "sigmoid",
    "sigmoid_cross_entropy",
    "silu",
    "soft_nms",
    "softmax",
    "softmax_cross_entropy",
    "space_to_depth",
    "split",
    "sqrt",
    "sub",
    "take",
    "tanh",
    "tile",
    "topk",
    "transpose",
    "weighted_nms",
    "where",
    "yolo_candidates",
]
