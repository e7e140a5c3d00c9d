"""The one source of random numbers of layers in training, so that a run can be repeated."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["generator", "get_state", "manual_seed", "set_state"]

_generator = np.random.Generator(np.random.PCG64(0))


def manual_seed(seed: int) -> None:
    """Start the random numbers of dropout and its kin anew; until this is called the seed is 0.

    The numbers do not depend on the number of threads. Initial values of parameters have a seed of their
    own, see :meth:`cnnfast.nn.Module.initialize`.

    Parameters
    ----------
    seed : int
        Not negative.

    Raises
    ------
    ValueError
        If it is negative.
    """
    _generator.bit_generator.state = np.random.PCG64(seed).state


def generator() -> np.random.Generator:
    """What layers draw from; drawing from it moves it on for them too."""
    return _generator


def get_state() -> dict[str, Any]:
    """Where the generator is, as plain numbers that JSON can hold."""
    return dict(_generator.bit_generator.state)


def set_state(state: dict[str, Any]) -> None:
    """Go on from where :func:`get_state` was called."""
    _generator.bit_generator.state = state
