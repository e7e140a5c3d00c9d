"""Neural style transfer: a picture with the content of one and the textures of another."""

from .features import CAFFE, TORCHVISION, Features, Pixels, load_features
from .memory import Plan
from .objective import Costs, Objective
from .transfer import Stylised, fitted, transfer

__all__ = [
    "CAFFE",
    "TORCHVISION",
    "Costs",
    "Features",
    "Objective",
    "Pixels",
    "Plan",
    "Stylised",
    "fitted",
    "load_features",
    "transfer",
]
