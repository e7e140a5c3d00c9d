"""What is asked of the gradient of every operator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cnnfast as cf
from cnnfast import ops
from cnnfast.autograd import Step
from cnnfast.errors import GradientError
from cnnfast.ops.registry import NO_GRADIENT, OPERATORS
from gradient_cases import CASES, Case, gradients, outputs


def test_every_operator_has_a_gradient_or_says_that_it_has_none() -> None:
    undecided = [name for name, op in OPERATORS.items() if op.vjp is None]
    assert not undecided, "give Op(...) a Vjp, or NO_GRADIENT where results are indices or choices"
    unchecked = {n for n, op in OPERATORS.items() if op.vjp is not NO_GRADIENT} - {c.op for c in CASES}
    assert not unchecked, "add calls to tests/gradient_cases.py"


def test_what_has_no_gradient() -> None:
    without = {name for name, op in OPERATORS.items() if op.vjp is NO_GRADIENT and "_grad" not in name}
    fused = {
        name for name in without if OPERATORS[name].decompose
    }  # in compiled plans only, of others that have
    assert without - fused == {
        *("nms", "batched_nms", "soft_nms", "weighted_nms", "yolo_candidates"),
        *("argmax", "equal", "greater", "less", "logical_not"),
    }


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradcheck(case: Case) -> None:
    inputs = case.inputs(gaps=case.name in ("tail", "strided"))
    tensors = [cf.Tensor(a, requires_grad=True) for a in inputs]
    used, todo = set(), [y.step for y in outputs(case, *tensors)]
    while todo:
        step = todo.pop()
        if isinstance(step, Step):
            used.add(step.op.name)
            todo.extend(step.sources)
    assert case.op in used
    assert cf.gradcheck(case.function, *inputs)


@pytest.mark.parametrize("case", [c for c in CASES if c.linear], ids=str)
def test_adjoint(case: Case) -> None:
    """<A x, y> = <x, A' y> for operators that are linear."""
    inputs = case.inputs()
    results, starts, found = gradients(case, inputs)
    left = sum(float((y * g).sum()) for y, g in zip(results, starts, strict=True))
    right = sum(float((x * g).sum()) for x, g in zip(inputs, found, strict=True))
    size = sum(float(np.abs(y * g).sum()) for y, g in zip(results, starts, strict=True))
    assert abs(left - right) <= 1e-12 * size


@pytest.mark.parametrize("case", CASES, ids=str)
def test_float32_against_float64(case: Case, backend: str) -> None:
    """Kernels and definitions in float32 against the gradients in float64 of the same numbers."""
    single = case.inputs(np.float32)
    _, starts, found = gradients(case, single)
    _, _, exact = gradients(case, [a.astype(float) for a in single], [g.astype(float) for g in starts])
    for a, b in zip(found, exact, strict=True):
        assert a.dtype == np.float32
        scale = max(1.0, float(np.abs(b).max(initial=0)))
        assert np.abs(a - b).max(initial=0) <= 1e-5 * scale


# --- the check itself ------------------------------------------------------------------------------


class _Wrong:
    """A square whose gradient lacks its factor at one place."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rule = OPERATORS["mul"].vjp

        def function(s: Any, needs: Any, g: Any, inputs: Any, results: Any) -> Any:
            first, second = rule.function(s, needs, g, inputs, results)
            if first is not None:
                first = first.copy()
                first[1, 2] *= 1 + 3e-6
            return first, second

        monkeypatch.setitem(OPERATORS["mul"].__dict__, "vjp", type(rule)(function, rule.reads))


def test_gradcheck_names_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    _Wrong(monkeypatch)
    x, y = np.full((2, 3), 2.0), np.full((2, 3), 5.0)
    with pytest.raises(GradientError, match=r"input 0 at \(1, 2\): the gradient is .*, differences .* give"):
        cf.gradcheck(ops.mul, x, y)
    assert cf.gradcheck(ops.mul, x, y, rtol=1e-5)
    assert cf.gradcheck(ops.mul, cf.Tensor(x), y)  # a tensor that wants no gradient is not looked at


def test_gradcheck_of_what_is_constant_and_of_nothing() -> None:
    assert cf.gradcheck(lambda x: ops.floor(x), np.array([0.5, 1.5]))
    assert cf.gradcheck(lambda x: ops.sub(x, x), np.array([0.5, 1.5]))
    assert cf.gradcheck(ops.exp, np.zeros((0, 3)))
    with pytest.raises(GradientError, match="at least one floating-point input"):
        cf.gradcheck(lambda x: x, np.array([1, 2]))
    with pytest.raises(GradientError, match="a function that gives tensors, got ndarray"):
        cf.gradcheck(lambda x: x.numpy(), np.ones(2))


def test_gradcheck_leaves_its_inputs_alone() -> None:
    x = np.linspace(0.1, 1, 6).reshape(2, 3)
    before = x.copy()
    cf.gradcheck(ops.exp, x)
    assert np.array_equal(x, before)


def test_gradcheck_near_and_at_corners() -> None:
    assert cf.gradcheck(ops.relu, np.array([1e-4, -1e-4]))  # the first step is longer than that
    with pytest.raises(GradientError):
        cf.gradcheck(ops.relu, np.array([0.0]))
