"""Operators that no native plan can hold: engines run them between plans, and say so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cnnfast as cf
from cnnfast import ops
from cnnfast.errors import ShapeError
from cnnfast.graph.description import FROM_PYTHON, IN_NUMPY
from cnnfast.ops.registry import OPERATORS
from gradient_cases import CASES
from test_engine import Wired, close, flat

pytestmark = pytest.mark.usefixtures("native")

BOXES = np.array([[0, 0, 4, 4], [1, 1, 5, 5], [0, 0, 4, 5], [8, 8, 9, 9]], np.float32)
SCORES = np.array([0.5, 0.75, 0.25, 0.125], np.float32)
CLASSES = np.array([1, 2, 1, 1])

# One call of each operator with a gradient.
FIRST = {case.op: case for case in reversed(CASES)}
# What gradient_cases.py has no calls of: function of boxes and scores, and how it runs.
WITHOUT_GRADIENT: dict[str, tuple[Callable[..., Any], str]] = {
    "nms": (lambda b, s: ops.nms(b, s, 0.3), FROM_PYTHON),
    "batched_nms": (lambda b, s: ops.batched_nms(b, s, CLASSES, 0.3), FROM_PYTHON),
    "soft_nms": (lambda b, s: ops.soft_nms(b, s, method="gaussian"), FROM_PYTHON),
    "weighted_nms": (lambda b, s: ops.weighted_nms(b, s, 0.3), FROM_PYTHON),
    "yolo_candidates": (
        lambda b, s: ops.yolo_candidates([ops.reshape(b, (1, 2, 8))], [[(2, 3)]], 3, 8, score_threshold=0.1),
        FROM_PYTHON,
    ),
    "argmax": (lambda b, s: ops.argmax(b, 1), IN_NUMPY),
    "equal": (lambda b, s: ops.equal(b, 4.0), IN_NUMPY),
    "greater": (lambda b, s: ops.greater(b, 4.0), IN_NUMPY),
    "logical_not": (lambda b, s: ops.logical_not(ops.greater(s, 0.5)), IN_NUMPY),
    "less": (lambda b, s: ops.less(s, 0.5), IN_NUMPY),
}


@pytest.mark.parametrize("case", FIRST.values(), ids=str)
def test_every_operator_runs_in_an_engine(case: Any) -> None:
    """With steps before and after it."""

    def around(*inputs: Any) -> Any:
        results = case.function(*[ops.mul(x, 2.0) for x in inputs])
        results = results if isinstance(results, tuple) else (results,)
        return tuple([ops.mul(r, 0.5) if r.dtype == np.float32 else r for r in results])

    inputs = case.inputs(np.float32)
    close(cf.compile(Wired(around))(*inputs), around(*inputs), 1e-4)


@pytest.mark.parametrize("name", WITHOUT_GRADIENT)
def test_results_without_gradient_run_in_an_engine(name: str, tmp_path: Path) -> None:
    function, how = WITHOUT_GRADIENT[name]

    def around(boxes: Any, scores: Any) -> Any:
        return function(ops.mul(boxes, 2.0), ops.mul(scores, 0.5)), ops.relu(boxes)

    engine = cf.compile(Wired(around), [BOXES.shape, SCORES.shape])
    want = flat(around(BOXES, SCORES))
    for got, expected in zip(flat(engine(BOXES, SCORES)), want, strict=True):
        np.testing.assert_array_equal(got, expected)
    description = engine.describe(runs=1)
    step = next(s for s in description.steps if s.operator == name)
    assert step.algorithm == how
    apart = sum(s.algorithm == how for s in description.steps)
    assert (
        str(description)
        .splitlines()[-1]
        .endswith(
            f"kernels called from Python: {apart if how == FROM_PYTHON else 0}, "
            f"steps in NumPy: {apart if how == IN_NUMPY else 0}"
        )
    )
    engine.save(tmp_path / "engine")
    for got, expected in zip(flat(cf.load_engine(tmp_path / "engine")(BOXES, SCORES)), want, strict=True):
        np.testing.assert_array_equal(got, expected)


def test_every_operator_has_a_call() -> None:
    """Of those that users call: neither operators of gradients, nor what passes make of others."""
    called = set(FIRST) | set(WITHOUT_GRADIENT)
    made = {name for name, op in OPERATORS.items() if op.decompose is not None}
    missing = {name for name in OPERATORS if not name.endswith("_grad") and "_grad_" not in name}
    assert missing - called - made == set()


def test_boxes_to_suppression_with_classes_of_the_network() -> None:
    """Scores by class from the network, their best class, and suppression within it."""
    values = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)

    def detect(boxes: Any, values: Any) -> Any:
        scores = ops.softmax(values)
        return ops.batched_nms(boxes, ops.reduce_max(scores, 1), ops.argmax(scores, 1), 0.3)

    engine = cf.compile(Wired(detect))
    np.testing.assert_array_equal(engine(BOXES, values), detect(BOXES, values))
    # The number of results is that of the call.
    np.testing.assert_array_equal(engine(BOXES[::-1].copy(), values), detect(BOXES[::-1].copy(), values))
    apart = (BOXES + 20 * np.arange(4, dtype=np.float32)[:, None]).astype(np.float32)
    assert engine(apart, values).shape == (4,)


def test_results_of_unknown_size_are_results_alone() -> None:
    with pytest.raises(ShapeError, match=r"^gather: the size of an argument depends on values"):
        cf.compile(Wired(lambda b, s: ops.gather(b, ops.nms(b, s, 0.5))), [(4, 4), (4,)])


def test_a_network_without_splits_says_nothing_of_them() -> None:
    description = cf.compile(Wired(ops.relu), (1, 2, 2, 3)).describe(runs=1)
    assert "split" not in str(description)
