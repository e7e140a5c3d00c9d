"""Optimisers: from gradients to parameters, with torch.optim's semantics and defaults."""

from __future__ import annotations

from .adam import Adam, AdamW
from .average import ExponentialMovingAverage
from .clip import clip_grad_norm, clip_grad_value
from .lbfgs import LBFGS
from .optimizer import Optimizer
from .rmsprop import RMSProp
from .scaler import GradScaler
from .schedules import (
    CosineAnnealingLR,
    LinearLR,
    MultiStepLR,
    OneCycleLR,
    ReduceLROnPlateau,
    Schedule,
    SequentialLR,
    StepLR,
)
from .sgd import SGD, Momentum

__all__ = [
    "LBFGS",
    "SGD",
    "Adam",
    "AdamW",
    "CosineAnnealingLR",
    "ExponentialMovingAverage",
    "GradScaler",
    "LinearLR",
    "Momentum",
    "MultiStepLR",
    "OneCycleLR",
    "Optimizer",
    "RMSProp",
    "ReduceLROnPlateau",
    "Schedule",
    "SequentialLR",
    "StepLR",
    "clip_grad_norm",
    "clip_grad_value",
]
