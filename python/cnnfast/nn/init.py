"""Initial values of parameters, by name; the same seed and name give the same bits on every machine."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from ..errors import ShapeError

__all__ = ["INITIALIZATIONS", "fill"]

INITIALIZATIONS = (
    "zeros",
    "ones",
    "constant",
    "he_normal",
    "he_uniform",
    "glorot_normal",
    "glorot_uniform",
    "lecun_normal",
    "fan_out_normal",
    "normal",
    "torch_uniform",
)


def fill(
    name: str, shape: tuple[int, ...], fan: tuple[int, int], seed: tuple[int, str], dtype: Any = np.float32
) -> np.ndarray:
    """Values of an initialisation.

    Parameters
    ----------
    name : str
        ``"zeros"``, ``"ones"``, ``"constant:20"``; with fan_in and fan_out from ``fan``: ``"he_normal"``
        (variance 2 / fan_in), ``"he_uniform"``, ``"fan_out_normal"`` (2 / fan_out), ``"glorot_normal"``
        (2 / (fan_in + fan_out)), ``"glorot_uniform"``, ``"lecun_normal"`` (1 / fan_in), ``"torch_uniform"``
        (uniform within 1 / sqrt(fan_in)); ``"normal"`` has standard deviation .01, and ``"normal:0.02"``
        another one.
    shape : tuple of int
    fan : (int, int)
    seed : (int, str)
        Seed of the model and name of the parameter.

    References
    ----------
    Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks", 2010;
    He et al., "Delving deep into rectifiers", 2015.
    """
    if name == "zeros":
        return np.zeros(shape, dtype)
    if name == "ones":
        return np.ones(shape, dtype)
    kind, _, width = name.partition(":")
    if kind == "constant":
        return np.full(shape, float(width or 0), dtype)
    number, label = seed
    rng = np.random.Generator(np.random.PCG64([number, zlib.crc32(label.encode())]))
    fan_in, fan_out = (max(1, n) for n in fan)
    deviation = {
        "he_normal": (2 / fan_in) ** 0.5,
        "fan_out_normal": (2 / fan_out) ** 0.5,
        "glorot_normal": (2 / (fan_in + fan_out)) ** 0.5,
        "lecun_normal": (1 / fan_in) ** 0.5,
        "normal": float(width or 0.01),
    }.get(kind)
    if deviation is not None:
        return (rng.standard_normal(shape, np.float32) * np.float32(deviation)).astype(dtype, copy=False)
    bound = {
        "he_uniform": (6 / fan_in) ** 0.5,
        "glorot_uniform": (6 / (fan_in + fan_out)) ** 0.5,
        "torch_uniform": (1 / fan_in) ** 0.5,
    }.get(kind)
    if bound is None:
        raise ShapeError(f"initialisation {name!r} is none of {', '.join(INITIALIZATIONS)}")
    return ((rng.random(shape, np.float32) * 2 - 1) * np.float32(bound)).astype(dtype, copy=False)
