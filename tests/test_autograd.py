"""The tape: what is remembered and for how long, where gradients go, and what is refused."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref
from typing import Any

import numpy as np
import pytest

import cnnfast as cf
from cnnfast import nn, ops
from cnnfast.errors import DTypeError, GradientError, ShapeError
from cnnfast.ops.registry import OPERATORS, Cost, Op, Vjp


def leaf(*shape: int, seed: int = 0, dtype: Any = np.float64) -> cf.Tensor:
    return cf.Tensor(np.random.default_rng(seed).uniform(0.5, 2, shape).astype(dtype), requires_grad=True)


# --- results ---------------------------------------------------------------------------------------


def test_a_chain_by_hand() -> None:
    x = cf.Tensor(np.array([1.0, 2.0, 3.0]), requires_grad=True)
    y = x * x * 3 - x / 2 + 1
    y.backward(np.array([1.0, 10.0, 100.0]))
    assert np.allclose(x.grad, [5.5, 115, 1750])
    assert y.grad is None  # only leaves keep theirs
    assert type(x.grad) is np.ndarray


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_one_element_needs_no_gradient_to_start_from(shape: tuple[int, ...]) -> None:
    x = leaf(*shape)
    (x * 4).backward()
    assert x.grad.shape == shape
    assert (x.grad == 4).all()


def test_a_leaf_is_its_own_result() -> None:
    x = leaf(2)
    x.backward(np.array([1.0, 2.0]))
    x.backward(np.array([1.0, 2.0]))
    assert x.grad.tolist() == [2, 4]


def test_float32_stays_float32(backend: str) -> None:
    x, w = leaf(3, 4, dtype=np.float32), leaf(4, dtype=np.float32)
    y = ops.reduce_sum(ops.exp(x * w) / 2)
    y.backward()
    assert y.dtype == x.grad.dtype == w.grad.dtype == np.float32
    assert w.grad.shape == (4,)


def test_every_way_to_a_tensor_counts() -> None:
    x = leaf(3)
    a, b = x * 2, x * 3
    ops.reduce_sum(a * b + a + x).backward()
    assert np.allclose(x.grad, 12 * x.data + 3)
    y = leaf(3)
    ops.reduce_sum(y * y).backward()
    assert np.allclose(y.grad, 2 * y.data)


def test_gradients_add_up_over_calls_and_start_anew() -> None:
    x = leaf(3)
    for times in (1, 2, 3):
        ops.reduce_sum(x * 5).backward()
        assert np.allclose(x.grad, 5 * times)
    x.grad = None
    ops.reduce_sum(x * 5).backward()
    assert np.allclose(x.grad, 5)


def test_no_gradient_is_shared_with_anything() -> None:
    x, y = leaf(3), leaf(3, seed=1)
    start = np.ones(3)
    (x + y).backward(start)
    assert not np.shares_memory(x.grad, y.grad)
    assert not np.shares_memory(x.grad, start)
    x.grad += 7
    assert y.grad.tolist() == start.tolist() == [1, 1, 1]
    z = leaf(4)
    (z.reshape(2, 2) + z.reshape(2, 2)).backward(np.ones((2, 2)))
    assert z.grad.tolist() == [2] * 4


def test_parts_that_share_memory_are_not_added_to() -> None:
    """Rules may give back one array twice, a view of another part, or what they were given."""
    fresh: list[np.ndarray] = []

    def rule(spec: Any, needs: Any, g: np.ndarray, inputs: Any, results: Any) -> Any:
        fresh[:] = [g * 2.0]
        return fresh[0], fresh[0][::1], fresh[0], g, inputs[0]

    shape = (3,)
    op = Op(
        "sharing",
        lambda *x: x,
        lambda s, *x: sum(x),
        lambda s, *x: sum(x),
        lambda s: Cost(0, 0),
        vjp=Vjp(rule, lambda spec, needs: (0,)),
    )
    try:
        tensors = [leaf(*shape, seed=i) for i in range(5)]
        between = [t * 1.0 for t in tensors]
        first = between[0].data.copy()
        y = ops.reduce_sum(op(shape, *between))
        for t in between:
            y = y + ops.reduce_sum(t)  # a second gradient for each
        y.backward()
        for t, expected in zip(tensors, (3, 3, 3, 2, first + 1), strict=True):
            assert (t.grad == expected).all()
        assert (fresh[0] == 2).all()
        assert (between[0].data == first).all()
        op(shape, *tensors).backward(np.ones(3))
        assert len({t.grad.__array_interface__["data"][0] for t in tensors}) == 5
    finally:
        del OPERATORS["sharing"]


def test_several_results_of_which_one_is_used() -> None:
    x = leaf(3, 5)
    values, places = ops.topk(x, 2)
    assert values.requires_grad
    assert not places.requires_grad
    ops.reduce_sum(values).backward()
    assert x.grad.sum() == 6
    assert (np.take_along_axis(x.grad, places.data, 1) == 1).all()


def test_only_what_asks_has_a_gradient() -> None:
    x, constant = leaf(3), cf.Tensor(np.ones(3))
    y = x * constant + np.ones(3)
    assert y.requires_grad
    assert not (constant * constant).requires_grad
    y.backward(np.ones(3))
    assert constant.grad is None
    for found in (ops.argmax(x), ops.greater(x, 1.0), ops.cast(x, "int64")):
        assert not found.requires_grad
    assert not x.detach().requires_grad
    assert np.shares_memory(x.detach().data, x.data)


def test_long_chains_need_no_stack() -> None:
    x = leaf(1)
    y = x
    for _ in range(5_000):
        y = y + 1.0
    y.backward()
    assert x.grad == 1
    z = x
    for _ in range(5_000):
        z = z + 1.0
    del y, z  # nor does letting go of one


def test_the_same_bits_for_any_number_of_threads(native: None) -> None:
    def gradient(threads: int) -> bytes:
        cf.set_num_threads(threads)
        x = leaf(4, 33, 33, 17, dtype=np.float32)
        y = ops.softmax(ops.sigmoid(x) * x)
        ops.reduce_sum(ops.resize(y, 20) * ops.resize(y, 20)).backward()
        return x.grad.tobytes()

    assert len({gradient(threads) for threads in (1, 2, 3)}) == 1


# --- memory ----------------------------------------------------------------------------------------


def watched(*arrays: np.ndarray) -> list[weakref.ref[np.ndarray]]:
    return [weakref.ref(a) for a in arrays]


def alive(refs: list[weakref.ref[np.ndarray]]) -> list[bool]:
    return [ref() is not None for ref in refs]


def test_what_no_gradient_reads_is_freed_at_once() -> None:
    x = leaf(1000)
    gc.disable()  # by counting alone
    try:
        a = x + 1.0
        b = ops.relu(a)
        c = ops.exp(b)
        refs = watched(a.data, b.data, c.data)
        del a, b
        assert alive(refs) == [False, True, True]  # relu and exp read their results
        total = ops.reduce_sum(c)
        del c
        assert alive(refs) == [False, True, True]
        total.backward()
        assert alive(refs) == [False, False, False]
        assert total.step.inputs == total.step.sources == ()
    finally:
        gc.enable()


def test_the_tape_unwinds_step_by_step() -> None:
    x = leaf(10)
    seen: list[list[bool]] = []
    a = ops.exp(x)
    b = ops.exp(a * 0.1)
    c = ops.exp(b * 0.1)
    refs = watched(a.data, b.data, c.data)
    for tensor in (c, b, a):
        tensor.register_hook(lambda g: seen.append(alive(refs)))
    total = ops.reduce_sum(c)
    del a, b, c, tensor
    total.backward()
    assert seen == [[True, True, True], [True, True, False], [True, False, False]]


def test_gradients_between_do_not_outlive_their_use() -> None:
    x = leaf(10)
    y = x
    live: list[weakref.ref[np.ndarray]] = []
    most: list[int] = []

    def look(g: np.ndarray) -> None:
        most.append(sum(alive(live)))
        live.append(weakref.ref(g))

    for _ in range(20):
        y = ops.sigmoid(y)
        y.register_hook(look)
    ops.reduce_sum(y).backward()
    assert len(most) == 20
    assert max(most) <= 2


def test_a_frozen_factor_is_not_kept() -> None:
    x, w = cf.Tensor(np.ones(5)), leaf(5)
    y = x * w
    assert y.step.inputs[0] is x.data
    assert y.step.inputs[1] is None  # x wants no gradient, so nobody reads w
    assert y.step.needs == (False, True)


def test_nothing_is_kept_without_a_reader_of_gradients() -> None:
    x = leaf(10)
    y = ops.exp(x)
    refs = watched(y.data)  # which the tape holds too
    del y
    assert alive(refs) == [False]


def test_tensors_go_when_the_last_name_does() -> None:
    gc.disable()
    try:
        x = leaf(10)
        ops.reduce_sum(x * x).backward()
        ref = weakref.ref(x)
        del x
        assert ref() is None
    finally:
        gc.enable()


# --- modes -----------------------------------------------------------------------------------------


def test_backward_twice_needs_retain_graph() -> None:
    x = leaf(3)
    y = ops.reduce_sum(x * x)
    y.backward(retain_graph=True)
    y.backward(retain_graph=True)
    assert np.allclose(x.grad, 4 * x.data)
    y.backward()
    with pytest.raises(GradientError, match="retain_graph=True"):
        y.backward()
    assert np.allclose(x.grad, 6 * x.data)  # the refused call changed nothing


def test_a_freed_part_is_named_before_anything_is_added() -> None:
    x, w = leaf(3), leaf(3)
    shared = ops.exp(x)
    ops.reduce_sum(shared).backward()
    before = x.grad.copy()
    with pytest.raises(GradientError, match="what exp had remembered was freed"):
        ops.reduce_sum(shared * w).backward()
    assert w.grad is None
    assert np.array_equal(x.grad, before)


def test_no_grad_as_context_and_decorator() -> None:
    x = leaf(3)
    assert cf.is_grad_enabled()
    with cf.no_grad():
        assert not cf.is_grad_enabled()
        with cf.no_grad():
            assert not (x * 2).requires_grad
        assert not (x * 2).requires_grad
    assert (x * 2).requires_grad

    @cf.no_grad()
    def down(n: int) -> bool:
        return (x * 2).requires_grad or (n > 0 and down(n - 1))

    assert not down(3)
    assert cf.is_grad_enabled()
    with pytest.raises(ZeroDivisionError), cf.no_grad():
        1 / 0  # noqa: B018
    assert cf.is_grad_enabled()


def test_no_grad_holds_for_one_thread() -> None:
    found: list[bool] = []
    with cf.no_grad():
        thread = threading.Thread(target=lambda: found.append((leaf(2) * 2).requires_grad))
        thread.start()
        thread.join()
    assert found == [True]


def test_threads_share_a_parameter() -> None:
    w = leaf(50, dtype=np.float32)
    errors: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(50):
                ops.reduce_sum(w * np.ones(50, np.float32)).backward()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors
    assert (w.grad == 200).all()


# --- hooks -----------------------------------------------------------------------------------------


def test_hooks_see_and_change_gradients() -> None:
    x = leaf(3)
    seen: list[Any] = []
    y = x * 2
    first = y.register_hook(lambda g: seen.append(g.copy()))
    y.register_hook(lambda g: g * 10)
    x.register_hook(lambda g: seen.append(g.copy()))
    z = ops.reduce_sum(y + y)
    z.backward(retain_graph=True)
    assert [g.tolist() for g in seen] == [[2, 2, 2], [40, 40, 40]]  # once, with the sum of all ways
    assert x.grad.tolist() == [40, 40, 40]
    first.remove()
    first.remove()
    z.backward()
    assert len(seen) == 3
    assert x.grad.tolist() == [80, 80, 80]


def test_a_hook_may_keep_what_it_saw() -> None:
    x = leaf(3)
    kept: list[np.ndarray] = []
    x.register_hook(kept.append)
    for _ in range(2):
        ops.reduce_sum(x * 2).backward()
    assert [g.tolist() for g in kept] == [[2, 2, 2], [2, 2, 2]]


def test_hooks_on_what_has_no_gradient() -> None:
    with pytest.raises(GradientError, match="requires_grad=True"):
        cf.Tensor(np.ones(2)).register_hook(print)
    x = leaf(3)
    x.register_hook(lambda g: np.ones(4))
    with pytest.raises(ShapeError, match=r"a hook gave shape \(4,\), expected \(3,\)"):
        ops.reduce_sum(x * 1).backward()


def test_module_hooks(backend: str) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    seen: list[tuple[Any, ...]] = []
    after = model[0].register_forward_hook(lambda m, inputs, y: seen.append((m, inputs[0].shape, y.shape)))
    before = model.register_forward_pre_hook(lambda m, inputs: inputs[0] * 0.0)
    last = model[1].register_forward_hook(lambda m, inputs, y: y + 1.0)
    x = np.ones((2, 4), np.float32)
    assert (model(x) == 1).all()
    assert seen == [(model[0], (2, 4), (2, 3))]
    for hook in (after, before, last):
        hook.remove()
    assert not (model(x) == 1).all()
    assert len(seen) == 1
    model[0].register_forward_hook(lambda m, inputs, y: seen.append(y.data))
    cf.compile(model, (2, 4), device=backend)  # hooks are no part of the network
    assert len(seen) == 1


# --- errors ----------------------------------------------------------------------------------------


def test_what_backward_refuses() -> None:
    x = leaf(3)
    y = x * 2
    with pytest.raises(GradientError, match=r"shape \(3,\) needs a gradient to start from"):
        y.backward()
    with pytest.raises(ShapeError, match=r"grad has shape \(2,\), the tensor has \(3,\)"):
        y.backward(np.ones(2))
    with pytest.raises(DTypeError, match="grad is float32, the tensor is float64"):
        y.backward(np.ones(3, np.float32))
    with pytest.raises(GradientError, match="requires_grad=True"):
        cf.Tensor(np.ones(1)).backward()
    with cf.no_grad():
        z = x * 2
    with pytest.raises(GradientError, match="outside of no_grad"):
        z.backward(np.ones(3))
    with pytest.raises(DTypeError, match="int64"):
        cf.Tensor([1, 2], requires_grad=True)
    y.backward(np.ones(3))  # none of them has spoiled the tape


def test_an_operator_without_a_gradient_says_so() -> None:
    op = Op("no_rule", lambda x: x, lambda s, x: x + 1, lambda s, x: x + 1, lambda s: Cost(0, 0))
    try:
        x = leaf(2)
        y = op((2,), x)
        assert y.requires_grad
        with pytest.raises(GradientError, match="no_rule has no gradient"):
            y.backward(np.ones(2))
    finally:
        del OPERATORS["no_rule"]


# --- with networks ---------------------------------------------------------------------------------


def test_tensors_in_a_list_are_tensors_for_a_module() -> None:
    class Total(cf.nn.Module):
        def forward(self, parts: Any) -> Any:
            return cf.ops.add(parts[0], parts[1][0])

    x = cf.Tensor(np.ones((2, 3), np.float32), requires_grad=True)
    y = Total()([x, (x,)])
    assert isinstance(y, cf.Tensor)
    assert y.requires_grad
    assert isinstance(Total()([x.data, (x.data,)]), np.ndarray)


def test_arrays_through_a_module_leave_no_tape() -> None:
    model = nn.Linear(4, 3)
    kept: list[Any] = []
    model.register_forward_hook(lambda m, inputs, y: kept.append(y))
    assert type(model(np.ones((2, 4), np.float32))) is np.ndarray
    model(cf.Tensor(np.ones((2, 4), np.float32)))
    assert [y.requires_grad for y in kept] == [False, True]


def test_a_taped_tensor_in_a_trace_is_a_constant(backend: str) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            self.scale = leaf(3, dtype=np.float32) * 2.0

        def forward(self, x: Any) -> Any:
            return ops.mul(x, self.scale)

    module = Scaled()
    x = np.ones((2, 3), np.float32)
    assert np.array_equal(cf.compile(module, (2, 3), device=backend)(x), module(x))


def test_copies_of_a_module_after_backward() -> None:
    model = nn.Sequential(nn.ReLU(), nn.Dropout(0.5))
    model.extra = cf.nn.Linear(2, 2)
    again = copy.deepcopy(model)
    assert again.extra.weight is not model.extra.weight


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_of_a_module_compute_and_train(copied: Any, backend: str) -> None:
    """Element types of copies are equal and not identical, which operators must not see."""
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))
    x = np.random.default_rng(0).standard_normal((2, 4, 4, 2)).astype(np.float32)
    model(x)
    again = copied(model)
    assert np.array_equal(again(x), model(x))
    compiled = [cf.compile(m.eval(), device=backend)(x) for m in (again, model)]
    assert np.array_equal(*compiled)
    optimizer = cf.optim.SGD(again.train().parameters(), lr=0.1)
    before = again(x)
    ops.reduce_sum(again(cf.Tensor(x))).backward()
    optimizer.step()
    assert not np.array_equal(again(x), before)
    tensor = copied(cf.Tensor(x, requires_grad=True))
    ops.reduce_sum(ops.relu(tensor)).backward()
    assert np.array_equal(tensor.grad, x > 0)


# --- other values -----------------------------------------------------------------------------------


def test_other_values_of_a_parameter(backend: str) -> None:
    """Taken as a tensor takes them; a type that does not match the input is refused by name."""
    conv = nn.Conv2d(2, 3, 3)
    x = np.random.default_rng(0).standard_normal((1, 5, 5, 2)).astype(np.float32)
    values = conv.weight.data
    expected = conv(x)
    for given in (
        values.copy(),
        values.astype(">f4"),
        np.asfortranarray(values),
        pickle.loads(pickle.dumps(values)),
    ):
        conv.weight.data = given
        assert np.array_equal(conv(x), expected)
    conv.weight.data = values.astype(np.float16)
    assert conv.weight.data.dtype == np.float32
    conv.weight.data = values.astype(np.float64)
    assert conv.weight.dtype == np.float64
    with pytest.raises(DTypeError, match="conv2d: weight is float64, x is float32"):
        conv(x)
    conv.bias.data = conv.bias.data.astype(np.float64)
    np.testing.assert_allclose(conv(x.astype(np.float64)), expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(DTypeError, match="only floating-point"):
        conv.weight.data = values.astype(np.int64)
    with pytest.raises(ValueError, match="has shape"):
        conv.weight.data = [1.0, 2.0]


def test_parameters_of_given_values() -> None:
    """Initialisation leaves them as they are."""
    values = np.arange(3, dtype=np.float32) + 1

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(values)
            self.shift = nn.Parameter(cf.Tensor(-values))
            self.dense = nn.Linear(3, 2)

        def forward(self, x: Any) -> Any:
            return self.dense(x * self.scale + self.shift)

    model = Scaled()
    first = model.dense.weight.data
    model.initialize(5)
    assert np.array_equal(model.scale.data, values)
    assert np.array_equal(model.shift.data, -values)
    assert not np.array_equal(model.dense.weight.data, first)
    assert list(model.state_dict()) == ["scale", "shift", "dense.weight", "dense.bias"]
    with pytest.raises(DTypeError, match="only floating-point"):
        nn.Parameter(np.arange(3))
