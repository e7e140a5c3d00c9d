"""Benchmarks of a device: they run, check what they time, and stop cleanly without one."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import cnnfast as cf
from cnnfast.bench import cuda_layers, cuda_networks, device_timing
from cnnfast.bench.problems import Problem
from cnnfast.cuda import loading


@pytest.mark.parametrize("bench", [cuda_layers, cuda_networks])
def test_no_device(bench: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_reason", "no NVIDIA driver was found")
    assert bench.main([]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["result"] == "no device"


def test_a_layer(shim: Any) -> None:
    p = Problem(
        "tiny", "conv2d", {"x": [1, 5, 5, 8], "w": [3, 3, 8, 8]}, {"padding": 1, "stride": [2, 1]}, True
    )
    fields = cuda_layers.measure(p, (2, 5, 5, 8), "bfloat16", against_torch=False, tune=True)
    assert fields["ms"] > 0
    assert fields["best_block"] in {f"{tile}/{parts}" for tile in range(8) for parts in (1, 2, 4, 8, 16)}


def test_layers_are_taken_once() -> None:
    shapes = [(p.key(), shape) for p, shape in cuda_layers.layers("resnet50", 4)]
    assert len(shapes) == len({key for key, _ in shapes}) > 15
    assert shapes[0][1] == (4, 224, 224, 3)


def test_captured_work_gives_the_result(shim: Any, rng: np.random.Generator) -> None:
    x = rng.standard_normal((3, 8)).astype(np.float32)
    on_device = cf.cuda.asarray(x)
    (start, wait), result = device_timing.captured(lambda: cf.ops.relu(on_device))
    on_device.buffer.upload(-x)
    start()
    wait()
    assert device_timing.relative_error(result.numpy(), np.maximum(-x, 0)) == 0
    times = device_timing.race({"a": (start, wait), "b": (start, wait)}, seconds=0.01)
    assert min(times.values()) > 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_numbers_go_along_with_launches(shim: Any, rng: np.random.Generator, dtype: str) -> None:
    """Nothing is copied from host memory for them, so that what takes numbers can be captured."""
    x = cf.cuda.asarray(rng.standard_normal((2, 3)).astype(np.float32), dtype)

    def call() -> Any:
        return (x * 0.3 + 2) / (1 - x)

    (start, wait), result = device_timing.captured(call)
    start()
    wait()
    np.testing.assert_array_equal(result.numpy(), call().numpy())
