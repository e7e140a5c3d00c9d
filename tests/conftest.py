"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import cnnfast as cf
from cnnfast import config

NATIVE = config._cpu is not None
# A run at a forced instruction level is about the kernels: the definitions are the same at every level.
FORCED = NATIVE and bool(os.environ.get("CNNFAST_ISA"))
BACKENDS = ["cpu"] if FORCED else ["numpy", "cpu"] if NATIVE else ["numpy"]

# A background job of a shell ignores Ctrl-C, and so would the programs that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every backend that this install has, in turn."""
    with cf.use_backend(request.param):
        yield request.param


@pytest.fixture
def native() -> Iterator[None]:
    """For tests of the native module alone; says so where there is none."""
    if not NATIVE:
        pytest.skip("the native module is not installed")
    threads = cf.get_num_threads()
    with cf.use_backend("cpu"):
        yield
    cf.set_num_threads(threads)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240607)


@pytest.fixture(scope="session")
def assets() -> Path:
    """Folder with real weights, pictures and data, named by CNNFAST_ASSETS."""
    folder = os.environ.get("CNNFAST_ASSETS")
    if not folder or not Path(folder).is_dir():
        pytest.skip("CNNFAST_ASSETS does not name a folder with the test data")
    return Path(folder)
