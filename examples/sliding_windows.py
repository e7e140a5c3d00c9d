"""What a network saves by sliding itself: ``python examples/sliding_windows.py [ROWS COLUMNS]``.

The windows of a picture are judged one by one, a row of windows in each batch, and all at once by the
convolutional form of the same network; the scores are compared, then both are timed in turns. Convolutions
are shared between windows, dense layers are not: so the gain depends on where the network has its work.
"""

from __future__ import annotations

import sys
import time

import numpy as np

import cnnfast as cf
from cnnfast import nn
from cnnfast.detection import SlidingWindows


def deep() -> nn.Module:
    """Five convolutions and one small dense layer, for windows of 32 x 32."""
    layers: list[nn.Module] = []
    for before, after, pool in (
        (3, 16, False),
        (16, 16, True),
        (16, 32, False),
        (32, 32, True),
        (32, 64, False),
    ):
        layers += [nn.Conv2d(before, after, 3), nn.ReLU(), *([nn.MaxPool2d(2)] if pool else [])]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(9 * 64, 4, feature_map=(3, 3, 64))).initialize(1)


def compare(name: str, model: nn.Module, window: int, shape: tuple[int, int], rounds: int = 5) -> None:
    picture = np.random.default_rng(0).random((*shape, 3), np.float32)
    forms = [SlidingWindows(model, (window, window, 3), convolutional=at_once) for at_once in (False, True)]
    one_by_one, at_once = (form.scores(picture) for form in forms)
    times: list[list[float]] = [[], []]
    for _ in range(rounds):
        for form, found in zip(forms, times, strict=True):
            start = time.perf_counter()
            form.scores(picture)
            found.append(time.perf_counter() - start)
    slow, quick = map(min, times)
    print(f"{name}: {at_once.shape[0]} x {at_once.shape[1]} windows of {window} x {window}")
    print(
        f"  one by one {1e3 * slow:7.1f} ms, at once {1e3 * quick:7.1f} ms: {slow / quick:.1f} times as fast"
    )
    print(f"  largest difference of a score {np.abs(one_by_one - at_once).max():.1e}")


def main(rows: int = 112, columns: int = 112) -> None:
    compare("window_net", cf.models.window_net(4, seed=1), 14, (rows, columns))
    compare("five convolutions", deep(), 32, (rows, columns))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
