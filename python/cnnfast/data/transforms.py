"""Transforms of samples: what they have in common, and chains of them.

A transform is called with a sample and a generator of random numbers and gives a new sample; what it was
given stays as it was. Picture, boxes, mask and landmarks move together. The generator comes from the loader,
one for each sample, so the same seed gives the same pictures whatever the number of workers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import DTypeError
from .sample import Sample

Array = np.ndarray
Generator = np.random.Generator

__all__ = ["Compose", "RandomApply", "Transform"]


class Transform:
    """Base of transforms: ``transform(sample, rng)`` gives a new sample."""

    def __call__(self, sample: Sample, rng: Generator) -> Sample:
        raise NotImplementedError(f"{type(self).__name__} has no __call__")

    # What parameters have to be; messages name the transform.

    def _check(self, good: bool, expected: str, got: object) -> None:
        if not good:
            raise ValueError(f"{type(self).__name__}: expected {expected}, got {got!r}")

    def _probability(self, value: float) -> None:
        self._check(is_number(value) and 0 <= value <= 1, "a probability in [0, 1]", value)

    def _number(self, name: str, value: Any, least: float = 0.0, most: float = math.inf) -> None:
        bounds = f"{name} from {least:g}" + (f" to {most:g}" if most < math.inf else "")
        self._check(is_number(value) and least <= value <= most, bounds, value)

    def _size(self, size: Any) -> tuple[int, int]:
        sides = (size, size) if isinstance(size, int) else size
        good = isinstance(sides, (tuple, list)) and len(sides) == 2
        good = good and all(type(side) is int and 1 <= side <= 1 << 16 for side in sides)
        self._check(good, "a side or (rows, columns) from 1 to 65536", size)
        return sides[0], sides[1]

    def _interval(self, name: str, value: Any, least: float = -math.inf) -> tuple[float, float]:
        good = isinstance(value, (tuple, list)) and len(value) == 2 and all(map(is_number, value))
        good = good and least <= value[0] <= value[1]
        self._check(good, f"{name} (low, high)" + (f" from {least:g}" if least > -math.inf else ""), value)
        return float(value[0]), float(value[1])


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True)
class Compose(Transform):
    """One transform after the other.

    Parameters
    ----------
    transforms : sequence of Transform
        Or any callables of a sample and a generator.
    """

    transforms: Sequence[Any]

    def __call__(self, sample: Sample, rng: Generator) -> Sample:
        for transform in self.transforms:
            sample = transform(sample, rng)
            if not isinstance(sample, Sample):
                raise DTypeError(
                    f"Compose: expected a Sample from {transform!r}, got {type(sample).__name__}"
                )
        return sample


@dataclass(frozen=True)
class RandomApply(Transform):
    """A transform on some samples only.

    Parameters
    ----------
    transform : Transform
    probability : float
    """

    transform: Any
    probability: float = 0.5

    def __post_init__(self) -> None:
        self._probability(self.probability)

    def __call__(self, sample: Sample, rng: Generator) -> Sample:
        return self.transform(sample, rng) if rng.random() < self.probability else sample
