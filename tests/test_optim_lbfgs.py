"""L-BFGS: against torch, on functions with known minima, on pictures; exact resuming."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cnnfast as cf
from cnnfast import optim
from cnnfast.optim.lbfgs import strong_wolfe

Function = Callable[[np.ndarray], tuple[float, np.ndarray]]


def rosenbrock(x: np.ndarray) -> tuple[float, np.ndarray]:
    a, b = x[:-1], x[1:]
    grad = np.zeros_like(x)
    grad[:-1] = -400 * a * (b - a * a) - 2 * (1 - a)
    grad[1:] += 200 * (b - a * a)
    return float((100 * (b - a * a) ** 2 + (1 - a) ** 2).sum()), grad


def bowl(x: np.ndarray) -> tuple[float, np.ndarray]:
    scale = np.logspace(0, 2, len(x)).astype(x.dtype)
    return float((scale * (x - 1) ** 2).sum() / 2), scale * (x - 1)


def closure_of(function: Function, params: list[cf.Tensor], calls: list[float]) -> Callable[[], float]:
    """A function of all parameters together."""

    def closure() -> float:
        value, grad = function(np.concatenate([p.data.ravel() for p in params]))
        at = 0
        for p in params:
            p.grad = grad[at : at + p.size].reshape(p.shape).astype(p.dtype)
            at += p.size
        calls.append(value)
        return value

    return closure


def start(dtype: Any = np.float64) -> list[cf.Tensor]:
    values = np.array([-1.2, 1, -0.5, 0.8, 1.5, -1], dtype)
    return [cf.Tensor(values[:4].reshape(2, 2).copy(), True), cf.Tensor(values[4:].copy(), True)]


@pytest.mark.parametrize(
    "settings",
    [
        {"lr": 0.1},
        {"lr": 0.5, "history_size": 3, "max_iter": 7},
        {"lr": 0.1, "max_eval": 4},
        {"lr": 1, "tolerance_change": 1e-2},
    ],
    ids=str,
)
def test_fixed_steps_against_torch(settings: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    params = start()
    theirs = [torch.tensor(p.data, requires_grad=True) for p in start()]
    optimizer, other = optim.LBFGS(params, **settings), torch.optim.LBFGS(theirs, **settings)
    calls: list[float] = []
    closure = closure_of(bowl, params, calls)

    def torch_closure() -> Any:
        other.zero_grad()
        x = torch.cat([q.ravel() for q in theirs])
        loss = (torch.tensor(np.logspace(0, 2, 6)) * (x - 1) ** 2).sum() / 2
        loss.backward()
        return loss.detach()

    for _ in range(20):
        assert optimizer.step(closure) == pytest.approx(float(other.step(torch_closure)), rel=1e-6, abs=1e-12)
        for p, q in zip(params, theirs, strict=True):
            np.testing.assert_allclose(p.data, q.detach().numpy(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("function", [rosenbrock, bowl])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_minima(function: Function, dtype: Any, backend: str) -> None:
    params, calls = start(dtype), list[float]()
    optimizer = optim.LBFGS(params, max_iter=100, tolerance_change=1e-15, line_search_fn="strong_wolfe")
    closure = closure_of(function, params, calls)
    for _ in range(3):
        optimizer.step(closure)
    minimum = np.concatenate([p.data.ravel() for p in params])
    if function is bowl or dtype == np.float64:
        np.testing.assert_allclose(minimum, 1, atol=2e-3 if dtype == np.float32 else 1e-6)
    assert function(minimum)[0] < 1e-4
    assert len(calls) < 200


def test_line_search_takes_no_more_evaluations_than_torch() -> None:
    torch = pytest.importorskip("torch")
    params, calls = start(), list[float]()
    optimizer = optim.LBFGS(params, max_iter=200, max_eval=1000, line_search_fn="strong_wolfe")
    optimizer.step(closure_of(rosenbrock, params, calls))
    theirs = torch.tensor(np.concatenate([p.data.ravel() for p in start()]), requires_grad=True)
    other = torch.optim.LBFGS([theirs], max_iter=200, max_eval=1000, line_search_fn="strong_wolfe")
    counted = []

    def torch_closure() -> Any:
        other.zero_grad()
        a, b = theirs[:-1], theirs[1:]
        loss = (100 * (b - a * a) ** 2 + (1 - a) ** 2).sum()
        loss.backward()
        counted.append(loss.item())
        return loss.detach()

    other.step(torch_closure)
    assert min(calls) <= max(1e-12, 10 * min(counted))
    assert len(calls) <= 1.5 * len(counted)


LINES: list[tuple[str, Callable[[float], float], Callable[[float], float]]] = [
    ("quadratic", lambda t: (t - 3) ** 2, lambda t: 2 * (t - 3)),
    ("far", lambda t: (t / 1000 - 3) ** 2, lambda t: 2 * (t / 1000 - 3) / 1000),
    ("near", lambda t: (1000 * t - 3) ** 2, lambda t: 2000 * (1000 * t - 3)),
    ("quartic", lambda t: t**4 - 3 * t**3 - t, lambda t: 4 * t**3 - 9 * t**2 - 1),
    ("waves", lambda t: t * t / 20 - t - math.sin(4 * t) / 3, lambda t: t / 10 - 1 - 4 * math.cos(4 * t) / 3),
    ("wall", lambda t: -t if t < 2 else math.inf, lambda t: -1.0),
]


@pytest.mark.parametrize("first", [1e-3, 1.0, 30.0])
@pytest.mark.parametrize(("name", "f", "slope"), LINES, ids=[line[0] for line in LINES])
def test_wolfe_conditions(name: str, f: Any, slope: Any, first: float) -> None:
    s0, zero = slope(0.0), np.zeros(1)
    t, loss, _, used = strong_wolfe(lambda t: (f(t), zero, slope(t)), first, f(0.0), zero, s0)
    assert loss == f(t) < f(0.0)
    assert used <= 25
    assert loss <= f(0.0) + 1e-4 * t * s0
    if name != "wall":
        assert abs(slope(t)) <= 0.9 * abs(s0)


def test_resuming_is_exact(backend: str) -> None:
    settings = {"max_iter": 4, "history_size": 3, "line_search_fn": "strong_wolfe"}
    params = start(np.float32)
    optimizer = optim.LBFGS(params, **settings)
    closure = closure_of(rosenbrock, params, [])
    for _ in range(3):
        optimizer.step(closure)
    state = pickle.loads(pickle.dumps(optimizer.state_dict()))
    again = [cf.Tensor(p.data.copy(), True) for p in params]
    for _ in range(3):
        optimizer.step(closure)
    resumed = optim.LBFGS(again)
    resumed.load_state_dict(state)
    closure = closure_of(rosenbrock, again, [])
    for _ in range(3):
        resumed.step(closure)
    for p, q in zip(params, again, strict=True):
        assert p.data.tobytes() == q.data.tobytes()
    with pytest.raises(ValueError, match="LBFGS: expected state of 2 values"):
        optim.LBFGS([cf.Tensor(np.zeros(2, np.float32), True)]).load_state_dict(state)


def test_a_picture_is_found_again(backend: str, rng: np.random.Generator) -> None:
    target = rng.random((1, 40, 30, 3), np.float32)
    given = np.zeros_like(target)
    picture = cf.Tensor(given, requires_grad=True)
    fixed = cf.Tensor(np.ones(3, np.float32), requires_grad=False)
    optimizer = optim.LBFGS([picture, fixed], line_search_fn="strong_wolfe")

    def closure() -> cf.Tensor:
        off = picture.data - target
        picture.grad, fixed.grad = 2 * off, np.ones(3, np.float32)
        return cf.Tensor((off * off).sum())

    for _ in range(3):
        optimizer.step(closure)
    np.testing.assert_allclose(picture.data, target, atol=1e-5)
    assert (given == 0).all()
    assert (fixed.data == 1).all()


def test_the_same_bits_for_any_number_of_threads(native: None, rng: np.random.Generator) -> None:
    target, found = rng.random(200_000, np.float32), set()
    scale = np.linspace(1, 5, target.size, dtype=np.float32)
    for threads in (1, 2, 8):
        cf.set_num_threads(threads)
        x = cf.Tensor(np.zeros_like(target), requires_grad=True)
        optimizer = optim.LBFGS([x], max_iter=6)

        def closure(x: cf.Tensor = x) -> float:
            x.grad = scale * (x.data - target)
            return float((scale * (x.data - target) ** 2).sum() / 2)

        optimizer.step(closure)
        found.add(x.data.tobytes())
    assert len(found) == 1


def test_what_is_asked_of_the_caller() -> None:
    params = start()
    with pytest.raises(ValueError, match="LBFGS: expected a closure"):
        optim.LBFGS(params).step()
    with pytest.raises(ValueError, match="one group of parameters of one type"):
        optim.LBFGS([*params, cf.Tensor(np.zeros(2, np.float32), True)])
    frozen = [cf.Tensor(np.zeros(2), False)]
    assert optim.LBFGS(frozen).step(lambda: 3.0) == 3
