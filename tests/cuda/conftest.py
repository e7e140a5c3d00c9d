"""Fixtures of tests of the CUDA side: on the host, from the same sources, or on a device with ``-m gpu``.

``tools/cuda_dev.sh shim`` builds the module for the host; ``CNNFAST_SHIM`` names another file of it.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from typing import Any

import pytest
from device_checks import SCHEDULES

import cnnfast as cf
from cnnfast.cuda import loading


def _shim() -> Any:
    file = os.environ.get("CNNFAST_SHIM")
    if file is None:
        found = importlib.util.find_spec("cnnfast._cuda_shim")
        return None if found is None else importlib.import_module("cnnfast._cuda_shim")
    spec = importlib.util.spec_from_file_location("_cuda_shim", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_SHIM = _shim()


def pytest_report_header() -> str | None:
    return (
        None
        if _SHIM
        else "tests/cuda: left out, the CUDA sources are not built for the host (tools/cuda_dev.sh)"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests on a device run where ``-m`` names them; without one they fail, for they were asked for."""
    on_device = "gpu" in config.option.markexpr

    def left_out(item: pytest.Item) -> bool:
        if item.get_closest_marker("gpu"):
            return not on_device
        return _SHIM is None and not {"shim", "device"}.isdisjoint(getattr(item, "fixturenames", ()))

    gone = [item for item in items if left_out(item)]
    items[:] = [item for item in items if not left_out(item)]
    config.hook.pytest_deselected(items=gone)


@pytest.fixture
def shim() -> Iterator[Any]:
    """The CUDA sources compiled for the host, in the place of the CUDA module."""
    before = loading.use(_SHIM)
    _SHIM.set_schedule("warp-greedy")
    yield _SHIM
    _SHIM.set_schedule("warp-greedy")
    loading.use(before)


@pytest.fixture(params=[*SCHEDULES, pytest.param("gpu", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The CUDA module: every schedule of the host in turn, and the device where ``-m gpu`` asks for it."""
    if request.param == "gpu":
        yield loading.module()
        cf.cuda.synchronize()
        return
    module = request.getfixturevalue("shim")
    module.set_schedule(request.param, seed=7)
    yield module


@pytest.fixture
def hopper(device: Any) -> Any:
    """``device``, where it has tensor maps and products of groups of warps."""
    if tuple(device.device()["capability"]) != (9, 0):
        pytest.skip("needs compute capability 9.0")
    return device
