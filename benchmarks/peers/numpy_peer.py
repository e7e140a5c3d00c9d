"""cnnfast's NumPy path: the reference implementations, with the BLAS that NumPy ships."""

from __future__ import annotations

import ctypes
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import Operands
from ..problems import Problem
from . import Candidate
from .cnnfast_peer import call

LABEL = "numpy"
COLUMNS = ("eager",)


def available() -> str | None:
    return None


def version() -> str:
    return np.__version__


def set_threads(threads: int) -> None:
    if (setter := blas_threads_setter()) is not None:
        setter(threads)


@cache
def blas_threads_setter() -> Any:
    """The function of NumPy's own OpenBLAS that sets its threads; None if NumPy came with another BLAS."""
    for library in sorted((Path(np.__file__).parent.parent / "numpy.libs").glob("*openblas*")):
        loaded = ctypes.CDLL(str(library))
        for prefix, suffix in (("scipy_", "64_"), ("", "64_"), ("scipy_", ""), ("", "")):
            if hasattr(loaded, name := f"{prefix}openblas_set_num_threads{suffix}"):
                return getattr(loaded, name)
    return None


def prepare(problem: Problem, operands: Operands, threads: int) -> dict[str, Candidate]:
    import cnnfast

    context = partial(cnnfast.use_backend, "numpy")
    return {"reference": Candidate(call(problem, operands), np.asarray, context)}
