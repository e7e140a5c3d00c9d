"""Compiled networks on a device, against the interpreter."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

import cnnfast as cf
from cnnfast import nn, ops
from cnnfast.cuda import asarray
from cnnfast.cuda.program import CudaProgram
from cnnfast.ops.registry import OPERATORS


class Gates(nn.Module):
    """Operators element by element, a residual, a view, and several results."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter((17,), "ones")

    def forward(self, x: Any) -> Any:
        y = ops.relu(ops.mul(x, self.scale))
        z = ops.add(ops.sigmoid(y), x)
        return {"flat": z.reshape(x.shape[0], -1), "parts": (ops.silu(z), y * 0.5)}


def _wanted(model: Any, x: np.ndarray) -> Any:
    return cf.compile(model, device="numpy")(x)


@pytest.mark.parametrize(("dtype", "rtol"), [("float32", 1e-6), ("bfloat16", 4e-2), ("float16", 5e-3)])
def test_results_and_nesting(device: Any, rng: np.random.Generator, dtype: str, rtol: float) -> None:
    model = Gates()
    engine = cf.compile(model, device="cuda", dtype=dtype)
    for n in (2, 1, 2):  # two shapes, and one of them again
        x = rng.standard_normal((n, 3, 5, 17)).astype(np.float32)
        got, wanted = engine(x), _wanted(model, x)
        np.testing.assert_allclose(got["flat"], wanted["flat"], rtol=rtol, atol=rtol)
        for a, b in zip(got["parts"], wanted["parts"], strict=True):
            assert a.dtype == np.float32
            np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)


def test_device_arrays_stay_on_the_device(device: Any, rng: np.random.Generator) -> None:
    engine = cf.compile(Gates(), (2, 3, 5, 17), device="cuda")
    x = rng.standard_normal((2, 3, 5, 17)).astype(np.float32)
    first = engine(asarray(x))["flat"]
    kept = first.numpy()
    np.testing.assert_array_equal(kept, engine(x)["flat"])
    engine(asarray(-x))
    np.testing.assert_array_equal(first.numpy(), kept)  # results are the caller's
    half = engine(asarray(x, "float16"))["flat"]
    np.testing.assert_allclose(half.numpy(), kept, atol=0.01)


def test_memory_is_used_again(shim: Any, rng: np.random.Generator) -> None:
    """A chain of operators needs the memory of two arrays, beside its input and result."""
    chain = nn.Sequential(*[nn.ReLU() if i % 2 else nn.Sigmoid() for i in range(12)])
    engine = cf.compile(chain, (1, 8, 8, 16), device="cuda")
    program = next(iter(engine._made.values()))
    assert program.arena_bytes <= 4 * 4 * 8 * 8 * 16
    x = rng.standard_normal((1, 8, 8, 16)).astype(np.float32)
    np.testing.assert_allclose(engine(x), _wanted(chain, x), rtol=1e-6)


def test_inputs_and_parameters_as_results(device: Any, rng: np.random.Generator) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter((3,), "ones")

        def forward(self, x: Any) -> Any:
            return x, self.w, x, ops.neg(x)

    x = rng.standard_normal((2, 3)).astype(np.float32)
    got = cf.compile(Odd(), device="cuda")(x)
    for a, b in zip(got, (x, np.ones(3, np.float32), x, -x), strict=True):
        np.testing.assert_array_equal(a, b)


def test_threads(device: Any, rng: np.random.Generator) -> None:
    engine = cf.compile(Gates(), (1, 3, 5, 17), device="cuda")
    xs = [rng.standard_normal((1, 3, 5, 17)).astype(np.float32) for _ in range(8)]
    wanted = [engine(x)["flat"] for x in xs]
    got: list[Any] = [None] * 8

    def work(i: int) -> None:
        got[i] = engine(xs[i])["flat"]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_cannot_be_compiled(shim: Any) -> None:
    relu = OPERATORS["relu"]
    kernel = relu.cuda
    object.__setattr__(relu, "cuda", None)
    try:
        with pytest.raises(cf.errors.BackendError, match="no CUDA kernels for relu"):
            cf.compile(Gates(), (1, 3, 5, 17), device="cuda")
    finally:
        object.__setattr__(relu, "cuda", kernel)
    with pytest.raises(cf.errors.DTypeError, match="computes in float32, bfloat16 or float16, got int32"):
        cf.compile(Gates(), device="cuda", dtype="int32")
    with pytest.raises(cf.errors.DTypeError, match="computes in float32"):
        cf.compile(Gates(), device="numpy", dtype="float16")
    with pytest.raises(cf.errors.BackendError, match="has nothing that could be saved"):
        cf.compile(Gates(), device="cuda").save("nowhere")
    with pytest.raises(cf.errors.BackendError, match="host memory"):
        cf.compile(Gates(), device="numpy")(asarray(np.zeros((1, 3, 5, 17), np.float32)))


def test_describe(shim: Any) -> None:
    engine = cf.compile(Gates(), (1, 3, 5, 17), device="cuda")
    table = engine.describe(runs=1)
    assert [step.operator for step in table.steps][:2] == ["mul", "relu"]
    assert all(step.seconds >= 0 for step in table.steps)
    assert "cuda" in str(table)


def test_a_network_on_tensor_cores(shim: Any, rng: np.random.Generator) -> None:
    """Padded channels, packed weights, pooling and dense layers in one captured graph."""
    model = cf.models.create_model("lenet5")
    x = rng.standard_normal((2, 32, 32, 1)).astype(np.float32)
    wanted = _wanted(model, x)
    for dtype, error in (("bfloat16", 0.03), ("float16", 0.004)):
        engine = cf.compile(model, device="cuda", dtype=dtype)
        for _ in range(2):
            assert np.abs(engine(x) - wanted).max() <= error * np.abs(wanted).max()


class Places(nn.Module):
    """What is read, and where, depends on computed values."""

    def forward(self, x: Any, boxes: Any) -> Any:
        bins = ops.roi_align(ops.relu(x), ops.mul(boxes, 1.0), (2, 3))
        rows = ops.gather(x.reshape(-1, x.shape[-1]), ops.argmax(bins.reshape(bins.shape[0], -1), -1), axis=0)
        return bins, ops.roi_pool(x, boxes, 2), rows


def test_places_that_are_computed(shim: Any, rng: np.random.Generator) -> None:
    """The host looks at them, and cannot in a captured graph: the network runs node by node."""
    x = rng.standard_normal((2, 8, 9, 5)).astype(np.float32)
    boxes = np.array([[0, 1, 1, 5, 6], [1, 0, 2, 3, 7], [1, 2, 2, 8, 5]], np.float32)
    engine = cf.compile(Places(), [x.shape, boxes.shape], device="cuda")
    wanted = cf.compile(Places(), device="numpy")(x, boxes)
    for _ in range(2):
        for got, exact in zip(engine(x, boxes), wanted, strict=True):
            np.testing.assert_allclose(got, exact, rtol=1e-5, atol=1e-6)
    boxes[1, 0] = 7
    with pytest.raises(cf.errors.ShapeError, match="image"):
        engine(x, boxes)


class Fixed(nn.Module):
    """Places that never change are looked at once."""

    def forward(self, x: Any) -> Any:
        return ops.relu(ops.gather(x, np.array([2, 0, -1]), axis=1))


def test_places_that_never_change_are_captured(shim: Any, rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 4, 3)).astype(np.float32)
    engine = cf.compile(Fixed(), x.shape, device="cuda")
    assert all(program.captured for program in engine._made.values())
    np.testing.assert_array_equal(engine(x), np.maximum(x[:, [2, 0, -1]], 0))


def test_what_other_threads_do_is_not_captured(
    shim: Any, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Operators and engines run in one thread between the operators of a network that another compiles."""
    x = rng.standard_normal((2, 3, 5, 17)).astype(np.float32)
    model, wanted = Gates(), ops.relu(x)
    ready = cf.compile(model, x.shape, device="cuda")
    flat, done, found = ready(x)["flat"], threading.Event(), []

    def work() -> None:
        while not done.is_set():
            found.append((ops.relu(asarray(x)).numpy(), ready(x)["flat"]))

    run = CudaProgram._run_node

    def and_wait(self: CudaProgram, *arguments: Any) -> None:
        run(self, *arguments)
        before = len(found)
        while len(found) < before + 2 and other.is_alive():
            time.sleep(1e-4)

    other = threading.Thread(target=work)
    other.start()
    try:
        monkeypatch.setattr(CudaProgram, "_run_node", and_wait)
        engine = cf.compile(model, x[:1].shape, device="cuda")
        assert other.is_alive()
    finally:
        done.set()
        other.join()
    np.testing.assert_array_equal(engine(x[:1])["flat"], flat[:1])
    for relu, again in found:
        np.testing.assert_array_equal(relu, wanted)
        np.testing.assert_array_equal(again, flat)
