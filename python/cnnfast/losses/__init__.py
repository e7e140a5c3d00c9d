"""Losses: functions of tensors that give a tensor to go back from.

Scores are taken as a network gives them, before a softmax or sigmoid. Most losses end with ``reduction``:
"mean" over everything, "sum", or "none".

Scores may lie on a device, and so may what they are compared with. What is computed with scores is computed
there; labels, and targets that say what counts, are read in host memory: those on a device are copied.
"""

from .classification import binary_cross_entropy, cross_entropy, focal, sigmoid_focal
from .detection import hard_negatives, rcnn, rpn, ssd_multibox, yolo, yolo_v1
from .localisation import landmarks, localisation, localisation_mixed
from .metric import (
    contrastive,
    cosine_similarity,
    cosine_softmax,
    squared_distance,
    triplet,
    triplet_margin,
)
from .regression import l1, mse, smooth_l1
from .segmentation import dice
from .style import content, style, total_variation

__all__ = [
    "binary_cross_entropy",
    "content",
    "contrastive",
    "cosine_similarity",
    "cosine_softmax",
    "cross_entropy",
    "dice",
    "focal",
    "hard_negatives",
    "l1",
    "landmarks",
    "localisation",
    "localisation_mixed",
    "mse",
    "rcnn",
    "rpn",
    "sigmoid_focal",
    "smooth_l1",
    "squared_distance",
    "ssd_multibox",
    "style",
    "total_variation",
    "triplet",
    "triplet_margin",
    "yolo",
    "yolo_v1",
]
