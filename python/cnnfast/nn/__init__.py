"""Layers and the modules that hold them."""

from ..tensor import Parameter
from .activation import (
    Dropout,
    HardSwish,
    Identity,
    LeakyReLU,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softmax,
    Tanh,
)
from .container import ModuleDict, ModuleList, Sequential, activated
from .conv import Conv2d, ConvTranspose2d, DepthwiseConv2d
from .linear import Flatten, Linear
from .module import Module
from .norm import BatchNorm2d, LocalResponseNorm
from .pool import AvgPool2d, GlobalAvgPool2d, GlobalMaxPool2d, MaxPool2d, Upsample
from .precision import mixed_precision
from .siamese import SiameseHead

__all__ = [
    "AvgPool2d",
    "BatchNorm2d",
    "Conv2d",
    "ConvTranspose2d",
    "DepthwiseConv2d",
    "Dropout",
    "Flatten",
    "GlobalAvgPool2d",
    "GlobalMaxPool2d",
    "HardSwish",
    "Identity",
    "LeakyReLU",
    "Linear",
    "LocalResponseNorm",
    "MaxPool2d",
    "Module",
    "ModuleDict",
    "ModuleList",
    "Parameter",
    "ReLU",
    "ReLU6",
    "Sequential",
    "SiLU",
    "SiameseHead",
    "Sigmoid",
    "Softmax",
    "Tanh",
    "Upsample",
    "activated",
    "mixed_precision",
]
