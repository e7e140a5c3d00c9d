"""Every operator has a CUDA form, and every gradient: the calls of all gradients on a device, against the
NumPy definitions in float64 of the same numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cnnfast as cf
from cnnfast.cuda import DeviceArray, asarray
from cnnfast.errors import CudaError
from cnnfast.ops.registry import OPERATORS, Op
from gradient_cases import CASES, Case, gradients, outputs

# Not on a device, and why.
LEFT_OUT = {"cast-float64": "device arrays have no float64"}
CALLS = [c for c in CASES if str(c) not in LEFT_OUT]
# Not in 16 bits: which values come through a corner of the activation depends on statistics of that type.
CORNERS = ("batch_norm_train-relu", "batch_norm_train-relu6")
SHORT = [c for c in CALLS if str(c) not in CORNERS]


def test_every_operator_has_a_cuda_form() -> None:
    """A kernel of its own, or operators that have one."""
    assert not [name for name, op in OPERATORS.items() if op.cuda is None]


def _check(case: Case, dtype: str, bound: float) -> None:
    """Results and gradients, from the sizes of the largest ones."""
    tensors = [cf.Tensor(asarray(a, dtype), requires_grad=True) for a in case.inputs(np.float32)]
    results, rng = outputs(case, *tensors), np.random.default_rng(1)
    starts = [asarray(rng.standard_normal(y.shape).astype(np.float32), y.dtype) for y in results]
    for y, g in zip(results, starts, strict=True):
        y.backward(g, retain_graph=True)
    wide = [t.data.numpy().astype(np.float64) for t in tensors]
    values, _, exact = gradients(case, wide, [g.numpy().astype(np.float64) for g in starts])
    kinds = {dtype, "float32"} if case.op == "batch_norm_train" else {dtype}  # statistics are not rounded
    assert {str(y.dtype) for y in results} <= kinds
    assert {str(t.grad.dtype) for t in tensors} == {dtype}
    found = [y.data for y in results] + [t.grad for t in tensors]
    for got, wanted in zip(found, [*values, *exact], strict=True):
        assert type(got) is DeviceArray
        assert got.shape == wanted.shape
        scale = max(1.0, float(np.abs(wanted).max(initial=0)))
        assert np.abs(got.numpy() - wanted).max(initial=0) <= bound * scale


@pytest.mark.parametrize("device", ["shuffled", pytest.param("gpu", marks=pytest.mark.gpu)], indirect=True)
@pytest.mark.parametrize("case", CALLS, ids=str)
def test_float32(device: Any, case: Case) -> None:
    """Held to the bound of the kernels of the CPU (test_gradients.py)."""
    _check(case, "float32", 1e-5)


@pytest.mark.parametrize("device", ["reverse", pytest.param("gpu", marks=pytest.mark.gpu)], indirect=True)
@pytest.mark.parametrize(("dtype", "unit"), [("bfloat16", 2.0**-8), ("float16", 2.0**-11)])
@pytest.mark.parametrize("case", SHORT, ids=str)
def test_short_types(device: Any, case: Case, dtype: str, unit: float) -> None:
    """Each operator on the way rounds what it gives by half a unit, and so each term of its sums."""
    _check(case, dtype, 8 * unit)


def test_what_the_host_does_not_read_can_be_captured(shim: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward: operators that have the host wait say so (``read_on_host``)."""
    run, waits = Op.on_device, set()

    def captured(self: Op, spec: Any, *arrays: Any) -> Any:
        result, graph = run(self, spec, *arrays), shim.Graph()
        with monkeypatch.context() as plain:
            plain.setattr(Op, "on_device", run)
            graph.begin()
            try:
                run(self, spec, *arrays)
                graph.end()
            except CudaError:
                graph.cancel()
                waits.add(self.name)
        return result

    monkeypatch.setattr(Op, "on_device", captured)
    before = shim.current_pool()
    shim.set_current_pool(shim.Pool())
    try:
        for case in CALLS:
            tensors = [cf.Tensor(asarray(a, "float32"), requires_grad=True) for a in case.inputs(np.float32)]
            for y in outputs(case, *tensors):
                y.backward(asarray(np.ones(y.shape, np.float32)), retain_graph=True)
    finally:
        shim.set_current_pool(before)
    assert waits == {name for name, op in OPERATORS.items() if op.read_on_host}
