"""One adapter per contestant: how it is called, in the layout and with the settings that suit it best.

An adapter is a module with

* ``LABEL``, the name in tables;
* ``available()``: None, or a word on why it cannot take part;
* ``version()``: what goes into the JSON;
* ``set_threads(n)``: for what is set per process.

Those that can run single operators also have

* ``COLUMNS``, the tables they belong to ("eager", "packed");
* ``prepare(problem, operands, threads)``: its ways to run the problem by name, or ``NotSupported``.

Those that can run whole networks have

* ``WAYS``: names of the ways to run a network, of which the fastest counts;
* ``convert(network)``: writes the files that it loads into the network's folder, in a process of its own;
* ``load(network, way, threads, x)``: reads them and gives a ``Candidate`` that runs the network on x.

Adapters import their runtime inside these functions only.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

__all__ = ["Candidate", "NotSupported", "from_nchw", "get", "missing", "names", "network_names", "to_nchw"]


class NotSupported(Exception):
    """This contestant has no such operator; the message is a word on why."""


@dataclass
class Candidate:
    """One prepared way to run a problem: ``run`` is timed, ``result`` turns what it returns into NHWC."""

    run: Callable[[], Any]
    result: Callable[[Any], np.ndarray] = np.asarray
    context: Callable[[], AbstractContextManager] = nullcontext


def names() -> list[str]:
    """The peers that ``--vs`` takes."""
    return ["numpy", "torch", "onnxruntime", "openvino"]


def network_names() -> list[str]:
    """The peers that ``bench models --vs`` takes."""
    return ["torch", "onnxruntime", "openvino", "ncnn", "mnn", "litert", "opencv"]


def get(name: str) -> ModuleType:
    """The adapter of a contestant ("cnnfast" or a peer)."""
    return importlib.import_module(f".{name}_peer", __name__)


def missing(*modules: str) -> str | None:
    """What ``available()`` answers of an adapter that needs these modules."""
    try:
        for module in modules:
            importlib.import_module(module)
    except ModuleNotFoundError as error:
        return f"not installed ({error.name})"
    except Exception as error:  # whatever a library raises that does not suit its neighbours
        first = str(error).partition("\n")[0]
        return f"cannot be imported ({module}: {type(error).__name__}: {first})"
    return None


def to_nchw(array: np.ndarray) -> np.ndarray:
    """NHWC to contiguous NCHW; anything that is no image stays."""
    return np.ascontiguousarray(array.transpose(0, 3, 1, 2)) if array.ndim == 4 else array


def from_nchw(array: np.ndarray) -> np.ndarray:
    """NCHW to NHWC; anything that is no image stays."""
    return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array
