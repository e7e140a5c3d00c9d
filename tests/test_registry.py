"""What all operators share: the registry, conversion of arrays, the cache of shape rules, errors."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import cnnfast as cf
from cnnfast.errors import BackendError, CnnfastError, DTypeError, ShapeError
from cnnfast.ops import registry

CONVOLUTIONS = ("conv2d", "depthwise_conv2d", "conv2d_transpose", "linear", "gram_matrix")


def test_every_operator_is_registered_under_its_name() -> None:
    for name, op in cf.ops.OPERATORS.items():
        assert op.name == name
        assert all(map(callable, (op.infer, op.reference, op.native, op.cost)))
    assert set(CONVOLUTIONS) <= set(cf.ops.OPERATORS)
    for name in CONVOLUTIONS:
        assert callable(getattr(cf.ops, name))


def test_public_names() -> None:
    assert all(hasattr(cf.ops, name) for name in cf.ops.__all__)
    assert len(set(cf.ops.__all__)) == len(cf.ops.__all__)
    for name in cf.ops.__all__:
        assert getattr(cf.ops, name).__doc__, name


def test_errors_are_those_of_python_too() -> None:
    assert issubclass(ShapeError, (CnnfastError, ValueError))
    assert issubclass(ShapeError, ValueError)
    assert issubclass(DTypeError, TypeError)
    assert issubclass(BackendError, RuntimeError)
    assert all(issubclass(e, CnnfastError) for e in (ShapeError, DTypeError, BackendError))


def test_fail_has_one_format() -> None:
    with pytest.raises(ShapeError) as caught:
        registry.fail(
            "op", "weight has 3 input channels, x has 4", x=(1, 8, 8, 4), weight=(3, 3, 3, 16), bias=None
        )
    assert str(caught.value) == "op: weight has 3 input channels, x has 4 (x (1,8,8,4), weight (3,3,3,16))"
    with pytest.raises(ShapeError, match=r"^op: no shapes$"):
        registry.fail("op", "no shapes")


def test_array_copies_only_where_it_must() -> None:
    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert registry.array("op", "x", a) is a
    b = a.astype(np.float64)
    assert np.shares_memory(registry.array("op", "x", b), b)
    readonly = a.copy()
    readonly.setflags(write=False)
    assert registry.array("op", "x", readonly) is readonly
    for odd in (a.T, a[:, ::2], a.astype(">f4"), np.asfortranarray(a)):
        got = registry.array("op", "x", odd)
        assert got.flags.carray
        assert got.dtype.str == np.dtype(np.float32).str
        assert np.array_equal(got, odd)
    raw = np.zeros(a.nbytes + 1, np.uint8)[1:].view(np.float32)
    assert not raw.flags.aligned
    assert registry.array("op", "x", raw).flags.aligned
    assert registry.optional("op", "bias", None, a) is None
    assert registry.array("op", "x", [[1.5, 2.5]]).dtype == np.float64
    masked = np.ma.masked_array(a, a > 2)
    assert type(registry.array("op", "x", masked)) is np.ndarray


@pytest.mark.parametrize("value", [np.int8(3), 3, np.array(3), np.uint64(3)])
def test_whole_numbers(value: object) -> None:
    assert registry.integer("op", "n", value, 0) == 3
    assert type(registry.integer("op", "n", value, 0)) is int


@pytest.mark.parametrize(
    "value", [3.0, "3", None, True, np.bool_(True), np.float32(3), [3], {}, np.array([3, 3]), 1j]
)
def test_other_things_are_no_whole_numbers(value: object) -> None:
    with pytest.raises(ShapeError, match="op: n must be a whole number, got"):
        registry.integer("op", "n", value, 0)


def test_limits_of_numbers() -> None:
    assert registry.integer("op", "n", 1 << 62, 0) == 1 << 62
    with pytest.raises(ShapeError, match="op: n is too large"):
        registry.integer("op", "n", (1 << 62) + 1, 0)
    with pytest.raises(ShapeError, match="op: n must be at least 1, got 0"):
        registry.integer("op", "n", 0, 1)
    assert registry.pair("op", "n", 2, 0) == (2, 2)
    assert registry.pair("op", "n", (2, 3), 0) == (2, 3)
    for wrong in ((1,), (1, 2, 3), ()):
        with pytest.raises(ShapeError, match="a pair"):
            registry.pair("op", "n", wrong, 0)
    for wrong in (float("nan"), "a", None):
        with pytest.raises(ShapeError, match="must be a number"):
            registry.number("op", "n", wrong)


def test_sizes_are_checked_beyond_64_bits() -> None:
    assert registry.elements("op", 3, 4, 5) == 60
    assert registry.elements("op", registry.MAX_ELEMENTS) == 1 << 58
    for sizes in (((1 << 58) + 1,), (1 << 40, 1 << 40), (0, 1 << 40, 1 << 40), (1 << 62,) * 4):
        with pytest.raises(ShapeError, match="more than can be addressed"):
            registry.elements("op", *sizes)


def test_the_cache_of_shape_rules_tells_types_apart() -> None:
    calls = []

    @registry.cached
    def infer(x: tuple[int, ...], stride: object = 1) -> int:
        calls.append(stride)
        return registry.pair("op", "stride", stride, 1)[0]

    assert infer((1, 2), (2, 3)) == infer((1, 2), [2, 3]) == infer((1, 2), np.array([2, 3])) == 2
    assert infer((1, 2), stride=[2, 3]) == 2
    assert calls.count((2, 3)) <= 2  # once by position, once by name
    for wrong in ((2.0, 3), (2, 3.0), [2.0, 3], (True, 3), 2.0, True, {2: 3}, {2, 3}, ((2, 3), 3)):
        with pytest.raises(ShapeError):
            infer((1, 2), wrong)
    assert infer((1, 2), (np.int64(2), 3)) == 2
    assert infer((1, 2), 2) == 2


def test_cost_is_a_number_of_operations_and_bytes() -> None:
    made = cf.ops.cost("conv2d", (1, 4, 4, 2), (3, 3, 2, 5))
    assert (made.flops, made.bytes) == (2 * 4 * 18 * 5, 4 * (32 + 90 + 20))
    with pytest.raises(KeyError):
        cf.ops.cost("conv9d", (1, 4, 4, 2))
    with pytest.raises(ShapeError):
        cf.ops.cost("conv2d", (1, 4, 4, 2), (3, 3, 3, 5))
    # Sizes far beyond memory have a cost all the same.
    huge = cf.ops.cost("conv2d", (1, 1 << 20, 1 << 20, 3), (3, 3, 3, 64), padding="same")
    assert huge.flops == 2 * 2.0**40 * 27 * 64


def test_float64_never_reaches_the_kernels(backend: str, rng: np.random.Generator) -> None:
    x, w = rng.standard_normal((1, 5, 5, 3)), rng.standard_normal((2, 2, 3, 4))
    with cf.use_backend("numpy"):
        reference = cf.ops.conv2d(x, w)
    assert np.array_equal(cf.ops.conv2d(x, w), reference)
    assert reference.dtype == np.float64


def test_backends_agree_on_what_they_return(native: None, rng: np.random.Generator) -> None:
    x, w = (
        rng.standard_normal((1, 5, 5, 3)).astype(np.float32),
        rng.standard_normal((2, 2, 3, 4)).astype(np.float32),
    )
    results = []
    for name in ("numpy", "cpu"):
        with cf.use_backend(name):
            results.append(cf.ops.conv2d(x, w))
    assert results[0].dtype == results[1].dtype == np.float32
    np.testing.assert_allclose(results[0], results[1], rtol=1e-5, atol=1e-6)


def test_device_before_element_type_before_shape() -> None:
    """Asked for in the environment, a backend that cannot run is the first thing to be said."""
    code = (
        "import numpy as np, cnnfast as cf\n"
        "for x in (np.ones((1, 4, 4, 2), np.float32), np.ones((1, 4, 4, 2), np.int64), np.ones(3)):\n"
        "    try: cf.ops.conv2d(x, np.ones((9, 9, 9, 9), np.float32))\n"
        "    except cf.errors.CnnfastError as error: print(type(error).__name__)\n"
    )
    for backend, expected in (
        ("cuda", ["BackendError"] * 3),
        ("numpy", ["ShapeError", "DTypeError", "DTypeError"]),
    ):
        env = {**os.environ, "CNNFAST_BACKEND": backend}
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == expected


def test_calls_from_many_threads(native: None, rng: np.random.Generator) -> None:
    """Eight Python threads share the pool, the caches and packed weights."""
    x = rng.standard_normal((1, 20, 20, 24)).astype(np.float32)
    w = rng.standard_normal((3, 3, 24, 40)).astype(np.float32)
    packed = cf.ops.pack_conv2d(w)
    expected = cf.ops.conv2d(x, w, padding=1)
    wrong: list[int] = []

    def work(k: int) -> None:
        for i in range(15):
            got = cf.ops.conv2d(x[:, : 10 + i % 10], packed if i % 2 else w, padding=1)
            if not np.array_equal(got[:, : 9 + i % 10], expected[:, : 9 + i % 10]):
                wrong.append(k)

    workers = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_results_are_independent(backend: str, rng: np.random.Generator) -> None:
    """Output memory is recycled only once it has been dropped."""
    x = rng.standard_normal((1, 30, 30, 8)).astype(np.float32)
    w = np.eye(8, dtype=np.float32)[None, None]
    kept = [cf.ops.conv2d(x + i, w) for i in range(8)]
    for i, y in enumerate(kept):
        assert np.array_equal(y, x + i)
    view = kept[0][:, 3:5]
    expected = view.copy()
    kept.clear()
    _ = [cf.ops.conv2d(x * 0, w) for _ in range(8)]
    assert np.array_equal(view, expected)
