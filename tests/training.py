"""Small networks and data for tests of training, and how weights are compared: bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np

import cnnfast as cf
from cnnfast import data, nn, optim

CHAIN = data.Compose([data.RandomCrop(8, padding=1), data.Mirror(), data.Normalize((0.4,), (0.3,))])
PLAIN = data.Normalize((0.4,), (0.3,))


def patterns(count: int = 44, seed: int = 3) -> data.Arrays:
    """Four kinds of pictures that are easy to tell apart."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, count)
    pictures = rng.integers(0, 120, (count, 8, 8, 1))
    for picture, label in zip(pictures, labels, strict=True):
        picture[label * 2 : label * 2 + 2] += 130
    return data.Arrays(pictures.astype(np.uint8), labels)


def loader(workers: int = 0, kind: str = "thread", batch: int = 8, **settings: Any) -> data.DataLoader:
    settings = {"shuffle": True, "seed": 5, "transform": CHAIN, **settings}
    return data.DataLoader(patterns(), batch, workers=workers, worker_kind=kind, **settings)


def network() -> nn.Module:
    """With everything that has a state: statistics, dropout, parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 5, 3, padding=1, bias=False),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(80, 4),
    ).initialize(2)


OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, 0.05, weight_decay=1e-3),
    "momentum": lambda p: optim.Momentum(p, 0.05),
    "rmsprop": lambda p: optim.RMSProp(p, 1e-3),
    "adam": lambda p: optim.Adam(p, 3e-3),
    "adamw": lambda p: optim.AdamW(p, 3e-3),
}


def settings(model: nn.Module, optimizer: str = "adam", schedule: str = "cosine") -> dict[str, Any]:
    """Arguments of fit with every kind of state in them."""
    made = OPTIMIZERS[optimizer](model.parameters())
    plans = {
        "cosine": lambda: optim.CosineAnnealingLR(made, 30),
        "onecycle": lambda: optim.OneCycleLR(made, 0.01, total_steps=40),
        "plateau": lambda: optim.ReduceLROnPlateau(made, patience=0, threshold=0.5),
    }
    return {
        "optimizer": made,
        "schedule": plans[schedule](),
        "schedule_every": "epoch" if schedule == "plateau" else "step",
        "ema": optim.ExponentialMovingAverage(model.parameters(), 0.9),
        "clip_norm": 1.0,
        "seed": 11,
        "progress": False,
    }


def state(model: nn.Module) -> dict[str, bytes]:
    """Bits of all weights and statistics."""
    return {name: np.ascontiguousarray(array).tobytes() for name, array in model.state_dict().items()}


def numbers(history: cf.train.History) -> list[dict[str, Any]]:
    """Rows without what a clock says."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history]


class Stop(Exception):
    """Raised in the middle of a run, like anything that ends it without a word."""


def stopping_loss(calls: int, loss: Any = None) -> Any:
    """A loss that raises :class:`Stop` when it is called once more than ``calls`` times."""
    done = 0

    def limited(outputs: Any, targets: Any) -> Any:
        nonlocal done
        done += 1
        if done > calls:
            raise Stop
        return (loss or cf.losses.cross_entropy)(outputs, targets)

    return limited
