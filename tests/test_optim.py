"""Optimisers: native against the NumPy definitions and against torch; state, clipping, frozen parameters."""

from __future__ import annotations

import copy
import inspect
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cnnfast as cf
from cnnfast import config, optim
from cnnfast.errors import DTypeError, ShapeError
from cnnfast.optim.vectors import add_scaled, approach, dot

SHAPES = [(3, 3, 8, 17), (17,), (130,), (), (1, 0, 3), (20_001,)]

CASES: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {}),
    ("SGD", {"lr": 0.1, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "maximize": True}),
    ("SGD", {"lr": 0.1, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.05}),
    ("RMSProp", {}),
    ("RMSProp", {"lr": 0.02, "alpha": 0.9, "eps": 1e-5, "momentum": 0.5, "maximize": True}),
    ("RMSProp", {"centered": True, "weight_decay": 0.1}),
    ("RMSProp", {"centered": True, "momentum": 0.9, "alpha": 0.5}),
    ("Adam", {}),
    ("Adam", {"lr": 0.05, "betas": (0.5, 0.9), "eps": 1e-4, "weight_decay": 0.1}),
    ("Adam", {"lr": 0.05, "amsgrad": True, "maximize": True}),
    ("AdamW", {}),
    ("AdamW", {"lr": 0.05, "weight_decay": 0.3, "amsgrad": True}),
]
NAMES = [f"{name}-{'-'.join(settings)}" for name, settings in CASES]


def tensors(dtype: Any = np.float32, shapes: Any = SHAPES, seed: int = 0) -> list[cf.Tensor]:
    rng = np.random.default_rng(seed)
    return [cf.Tensor(rng.standard_normal(shape).astype(dtype), requires_grad=True) for shape in shapes]


def gradients(step: int, dtype: Any = np.float32, shapes: Any = SHAPES) -> list[np.ndarray]:
    rng = np.random.default_rng(100 + step)
    return [np.asarray(rng.standard_normal(shape), dtype) for shape in shapes]


def run(optimizer: optim.Optimizer, params: list[cf.Tensor], steps: range | int = 20) -> None:
    for step in range(steps) if isinstance(steps, int) else steps:
        for p, g in zip(params, gradients(step, params[0].dtype, [p.shape for p in params]), strict=True):
            p.grad = g
        optimizer.step()


def make(name: str, params: Any, settings: dict[str, Any]) -> Any:
    return getattr(optim, name)(params, **settings)


# --- steps ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "settings"), CASES, ids=NAMES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_against_torch(name: str, settings: dict[str, Any], dtype: Any, backend: str) -> None:
    torch = pytest.importorskip("torch")
    theirs = [torch.tensor(p.data, requires_grad=True) for p in tensors(dtype)]
    other = getattr(torch.optim, {"RMSProp": "RMSprop"}.get(name, name))(theirs, **settings)
    ours = tensors(dtype)
    optimizer = make(name, ours, settings)
    for step in range(20):
        run(optimizer, ours, range(step, step + 1))
        for p, g in zip(theirs, gradients(step, dtype), strict=True):
            p.grad = torch.tensor(g)
        other.step()
    for p, q in zip(ours, theirs, strict=True):
        expected = q.detach().numpy()
        tolerance = 1e-5 if dtype == np.float32 else 1e-12
        np.testing.assert_allclose(p.data, expected, rtol=tolerance, atol=tolerance)


def test_defaults_are_those_of_torch() -> None:
    torch = pytest.importorskip("torch")
    for name in ("SGD", "RMSProp", "Adam", "AdamW", "LBFGS"):
        theirs = getattr(torch.optim, {"RMSProp": "RMSprop"}.get(name, name))
        ours = inspect.signature(getattr(optim, name).__init__).parameters
        other = inspect.signature(theirs.__init__).parameters
        for key, value in ours.items():
            if value.default is not inspect.Parameter.empty:
                assert value.default == other[key].default, (name, key)


@pytest.mark.parametrize(("name", "settings"), CASES, ids=NAMES)
def test_native_against_the_definition(name: str, settings: dict[str, Any], native: None) -> None:
    """Each step rounds a dozen times; the float64 definition is what both are compared with."""
    exact = tensors(np.float64)
    for p, q in zip(exact, tensors(), strict=True):
        p.data = q.data.astype(np.float64)
    ours = tensors()
    run_both = make(name, ours, settings), make(name, exact, settings)
    for step in range(20):
        for p, q, g in zip(ours, exact, gradients(step), strict=True):
            p.grad, q.grad = g, g.astype(np.float64)
        for optimizer in run_both:
            optimizer.step()
    for p, q in zip(ours, exact, strict=True):
        np.testing.assert_allclose(p.data, q.data, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "settings"), CASES, ids=NAMES)
def test_the_same_bits_for_any_number_of_threads(name: str, settings: dict[str, Any], native: None) -> None:
    found = []
    for threads in (1, 2, 3, 8):
        cf.set_num_threads(threads)
        params = tensors()
        run(make(name, params, settings), params, 3)
        found.append([p.data.tobytes() for p in params])
    assert all(bits == found[0] for bits in found)


@pytest.mark.parametrize(("name", "settings"), CASES, ids=NAMES)
def test_resuming_is_exact(name: str, settings: dict[str, Any], backend: str) -> None:
    params = tensors()
    optimizer = make(name, params, settings)
    run(optimizer, params, 5)
    state = pickle.loads(pickle.dumps(optimizer.state_dict()))
    before = copy.deepcopy(state)
    weights = [p.data.copy() for p in params]
    run(optimizer, params, range(5, 10))
    again = [cf.Tensor(w, requires_grad=True) for w in weights]
    resumed = make(name, again, {"lr": 123.0})
    resumed.load_state_dict(state)
    run(resumed, again, range(5, 10))
    for p, q in zip(params, again, strict=True):
        assert p.data.tobytes() == q.data.tobytes()
    # Neither optimiser writes into a state that was handed out.
    for number, held in before["state"].items():
        for key, value in held.items():
            assert np.array_equal(value, state["state"][number][key])


def test_a_quadratic_is_minimised(backend: str) -> None:
    for name, lr in [("Momentum", 0.1), ("Adam", 0.1), ("RMSProp", 0.01), ("AdamW", 0.05)]:
        (p,) = tensors(shapes=[(9,)])
        optimizer = make(name, [p], {"lr": lr})
        for _ in range(500):
            p.grad = 2 * p.data
            optimizer.step()
        assert np.abs(p.data).max() < 0.02, name


def test_momentum_is_sgd_with_momentum() -> None:
    one, two = tensors(), tensors()
    run(optim.Momentum(one, 0.1, nesterov=True), one)
    run(optim.SGD(two, 0.1, 0.9, nesterov=True), two)
    assert all(np.array_equal(p.data, q.data) for p, q in zip(one, two, strict=True))


# --- what is left alone -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SGD", "Momentum", "RMSProp", "Adam", "AdamW"])
def test_frozen_parameters_stay_bit_for_bit(name: str, backend: str) -> None:
    params = tensors()
    before = [p.data.copy() for p in params]
    params[1].requires_grad = False
    optimizer = make(name, params, {"weight_decay": 0.1})
    run(optimizer, params, 3)
    assert np.array_equal(params[1].data, before[1])
    assert not np.array_equal(params[0].data, before[0])
    params[1].requires_grad = True
    for p in params:
        p.grad = None
    now = [p.data.copy() for p in params]
    optimizer.step()  # no gradients: no decay either
    assert all(np.array_equal(p.data, q) for p, q in zip(params, now, strict=True))


def test_arrays_of_others_are_not_written(backend: str) -> None:
    given = np.ones(5, np.float32)
    given.setflags(write=False)
    picture, twin = cf.Tensor(given, requires_grad=True), cf.Tensor(given, requires_grad=True)
    optimizer = optim.SGD([picture], 0.5)
    picture.grad = np.ones(5, np.float32)
    optimizer.step()
    assert (given == 1).all()
    assert (twin.data == 1).all()
    assert (picture.data == 0.5).all()
    data = picture.data
    optimizer.step()
    assert picture.data is data  # in place from now on
    picture.data = given  # as load_state_dict does
    optimizer.step()
    assert (given == 1).all()


def test_gradients_of_any_layout(backend: str) -> None:
    one, two = tensors(shapes=[(6, 8)]), tensors(shapes=[(6, 8)])
    wide = np.arange(96, dtype=np.float32).reshape(8, 12)
    one[0].grad = wide[:, ::2].T
    two[0].grad = np.ascontiguousarray(wide[:, ::2].T)
    for params in (one, two):
        optim.Adam(params).step()
    assert np.array_equal(one[0].data, two[0].data)


def test_gradients_that_do_not_fit() -> None:
    (p,) = tensors(shapes=[(3, 4)])
    optimizer = optim.SGD([p])
    p.grad = np.zeros((4, 3), np.float32)
    with pytest.raises(ShapeError, match=r"SGD: expected a gradient of the parameter's shape, got \(4, 3\)"):
        optimizer.step()
    p.grad = np.zeros((3, 4))
    with pytest.raises(DTypeError, match=r"SGD: expected float32 or float64 .* got float64 for float32"):
        optimizer.step()


# --- groups and settings ----------------------------------------------------------------------------


def test_groups_have_settings_of_their_own() -> None:
    params = tensors(shapes=[(4,), (4,), (4,)])
    optimizer = optim.SGD([{"params": params[:1], "lr": 0.5}, {"params": params[1]}], lr=0.1)
    optimizer.add_param_group({"params": params[2:], "lr": 0.0})
    before = [p.data.copy() for p in params]
    for p in params:
        p.grad = np.ones(4, np.float32)
    optimizer.step()
    moved = [float((b - p.data).mean()) for b, p in zip(before, params, strict=True)]
    np.testing.assert_allclose(moved, [0.5, 0.1, 0], atol=1e-6)
    optimizer.zero_grad()
    assert all(p.grad is None for p in params)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: optim.SGD([]), "SGD: expected parameters, got none"),
        (lambda p: optim.SGD([p, p]), "each parameter once"),
        (lambda p: optim.SGD([p], -1), "expected lr as a number from 0, got -1"),
        (lambda p: optim.SGD([p], math.nan), "expected lr as a number from 0"),
        (lambda p: optim.SGD([p], nesterov=True), "nesterov with momentum and without dampening"),
        (lambda p: optim.Adam([p], betas=(0.9, 1.0)), r"betas as two numbers in \[0, 1\)"),
        (lambda p: optim.Adam([{"params": [p], "momentum": 1}]), "expected settings .* got 'momentum'"),
        (lambda p: optim.LBFGS([p], max_iter=0), "max_iter as a whole number from 1"),
        (lambda p: optim.LBFGS([p], line_search_fn="armijo"), "None or 'strong_wolfe'"),
        (lambda p: optim.ExponentialMovingAverage([p], 1.0), "expected decay as a number"),
        (lambda p: optim.clip_grad_norm([p], -1), "max_norm from 0"),
        (lambda p: optim.clip_grad_norm([p], 1, 3), "norm_type 2 or inf"),
    ],
)
def test_settings_are_checked(call: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(tensors(shapes=[(2,)])[0])
    with pytest.raises(TypeError, match="expected tensors, got a ndarray"):
        optim.SGD([np.zeros(2)])


def test_states_that_do_not_fit() -> None:
    params = tensors(shapes=[(3,), (4,)])
    optimizer = optim.Adam(params)
    run(optimizer, params, 1)
    state = optimizer.state_dict()
    with pytest.raises(ValueError, match=r"expected groups of \[1\] parameters, got \[2\]"):
        optim.Adam(tensors(shapes=[(3,)])).load_state_dict(state)
    with pytest.raises(ShapeError, match="expected mean float32"):
        optim.Adam(tensors(shapes=[(3,), (5,)])).load_state_dict(state)


# --- clipping, averages, vectors --------------------------------------------------------------------


@pytest.mark.parametrize("norm_type", [2.0, math.inf])
@pytest.mark.parametrize("most", [0.5, 1e6])
def test_clipping_by_norm_against_torch(norm_type: float, most: float, backend: str) -> None:
    torch = pytest.importorskip("torch")
    params = tensors()
    theirs = [torch.tensor(p.data, requires_grad=True) for p in params]
    for p, q, g in zip(params, theirs, gradients(0), strict=True):
        p.grad, q.grad = g, torch.tensor(g)
    if norm_type == math.inf:  # torch has no largest value of nothing
        theirs = [q for q in theirs if q.numel()]
    expected = torch.nn.utils.clip_grad_norm_(theirs, most, norm_type)
    assert optim.clip_grad_norm(params, most, norm_type) == pytest.approx(float(expected), rel=1e-6)
    for p, q in zip([p for p in params if p.size], [q for q in theirs if q.numel()], strict=True):
        np.testing.assert_allclose(p.grad, q.grad.numpy(), rtol=1e-5)


def test_clipping(backend: str) -> None:
    (p, q) = tensors(shapes=[(3,), (3,)])
    shared = np.array([3, -4, np.nan], np.float32)
    p.grad = q.grad = shared
    optim.clip_grad_value([p, q], 2)
    assert np.array_equal(p.grad, [2, -2, np.nan], equal_nan=True)
    assert shared[0] == 3
    p.grad, q.grad = np.array([3, 0, 4], np.float32), None
    assert optim.clip_grad_norm([p, q], 1) == 5
    np.testing.assert_allclose(p.grad, [0.6, 0, 0.8], rtol=1e-6)
    p.grad = shared
    with pytest.raises(ValueError, match="expected finite gradients"):
        optim.clip_grad_norm([p], 1, error_if_nonfinite=True)
    assert math.isnan(optim.clip_grad_norm([p], 1, math.inf))


def test_average(backend: str) -> None:
    params = tensors()
    average = optim.ExponentialMovingAverage(params, 0.9)
    optimizer = optim.SGD(params, 0.1)
    expected = [p.data.astype(np.float64) for p in params]
    for step in range(6):
        run(optimizer, params, range(step, step + 1))
        average.update()
        expected = [0.9 * e + 0.1 * p.data for e, p in zip(expected, params, strict=True)]
    now = [p.data for p in params]
    with average.averaged():
        for p, e in zip(params, expected, strict=True):
            np.testing.assert_allclose(p.data, e, rtol=1e-5, atol=1e-6)
    assert all(p.data is before for p, before in zip(params, now, strict=True))
    again = optim.ExponentialMovingAverage(params, 0.5)
    again.load_state_dict(average.state_dict())
    for one in (average, again):
        one.update()
    assert all(np.array_equal(a, b) for a, b in zip(average.averages, again.averages, strict=True))
    with pytest.raises(ShapeError, match="expected averages"):
        optim.ExponentialMovingAverage(params[:1]).load_state_dict(average.state_dict())
    warm = optim.ExponentialMovingAverage(tensors(shapes=[(1,)]), 0.99, warmup=True)
    warm._params[0].data = warm.averages[0] + 1
    start = float(warm.averages[0][0])
    warm.update()
    assert float(warm.averages[0][0]) - start == pytest.approx(1 - 2 / 11, rel=1e-5)


def test_average_of_a_module() -> None:
    """Its statistics too, each once; whole numbers stay those of the module."""
    model = cf.nn.Sequential(cf.nn.Conv2d(2, 3, 1), cf.nn.BatchNorm2d(3)).initialize(1)
    average = optim.ExponentialMovingAverage(model, 0.5)
    average.follow(model)
    assert [a.shape for a in average.averages] == [p.shape for p in model.parameters()] + [(3,), (3,)]
    model[1].running_mean = np.float32([1, 2, 3])
    average.update()
    with average.averaged():
        assert model[1].running_mean.tolist() == [0.5, 1, 1.5]
        assert model[1].num_batches_tracked == 0
    assert model[1].running_mean.tolist() == [1, 2, 3]


@pytest.mark.parametrize("n", [0, 1, 5, 17, 4096, 4097, 100_003])
def test_vectors(n: int, backend: str, rng: np.random.Generator) -> None:
    a, b = (rng.standard_normal(n).astype(np.float32) for _ in range(2))
    exact = a.astype(np.float64) @ b.astype(np.float64)
    bound = (4096 / 16 + 8) * 2**-24 * (np.abs(a).astype(np.float64) @ np.abs(b)) + 1e-30
    assert abs(dot(a, b) - exact) <= bound
    y = a.copy()
    add_scaled(y, b, -1.5)
    np.testing.assert_allclose(y, a - 1.5 * b, rtol=1e-5, atol=1e-6)
    y = a.copy()
    approach(y, b, 0.25)
    np.testing.assert_allclose(y, a + 0.25 * (b - a), rtol=1e-5, atol=1e-6)


def test_the_dot_product_does_not_depend_on_threads(native: None, rng: np.random.Generator) -> None:
    a = rng.standard_normal(1_000_003).astype(np.float32)
    found = set()
    for threads in (1, 2, 3, 8):
        cf.set_num_threads(threads)
        found.add(dot(a, a[::-1].copy()))
    assert len(found) == 1


def test_the_native_module_refuses_arrays_it_must_not_touch(native: None) -> None:
    module: Any = config._cpu
    p, g = np.zeros(5, np.float32), np.zeros(5, np.float32)
    frozen = p.copy()
    frozen.setflags(write=False)
    for first, second in ((frozen, g), (p, g[:4])):
        with pytest.raises(ValueError, match=r"sizes|writeable|read-only"):
            module.optim_approach(first, second, 0.5)
    with pytest.raises(TypeError):
        module.optim_approach(p.astype(np.float64), g, 0.5)
    with pytest.raises(TypeError):
        module.optim_approach(np.zeros(10, np.float32)[::2], g, 0.5)


def test_nan_gradients_reach_their_own_values_only(backend: str) -> None:
    for name in ("SGD", "Momentum", "RMSProp", "Adam", "AdamW"):
        (p,) = tensors(shapes=[(37,)])
        optimizer = make(name, [p], {})
        p.grad = np.ones(37, np.float32)
        p.grad[20] = np.nan
        optimizer.step()
        assert np.flatnonzero(np.isnan(p.data)).tolist() == [20]
