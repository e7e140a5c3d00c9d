"""Scaling of vectors to length 1, and pooling by lengths."""

from __future__ import annotations

import numpy as np
import pytest

import cnnfast as cf
from cnnfast import graph, nn, ops
from cnnfast.errors import DTypeError, ShapeError

U = 2.0**-24
SHAPES = [(2, 7, 7, 17), (1, 5, 9, 96), (3, 4, 1), (17,), (40, 128)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("axis", [-1, 0])
def test_l2_normalize(backend: str, shape: tuple[int, ...], axis: int, rng: np.random.Generator) -> None:
    x = (rng.standard_normal(shape) * 10.0 ** rng.uniform(-3, 3, shape)).astype(np.float32)
    wide = x.astype(np.float64)
    want = wide / np.sqrt((wide**2).sum(axis=axis, keepdims=True))
    y = ops.l2_normalize(x, axis)
    assert y.dtype == np.float32
    # The length and the quotient round once each.
    np.testing.assert_allclose(y, want, 3 * U, 1e-44)
    np.testing.assert_allclose(ops.l2_normalize(wide, axis), want, 1e-15)


def test_l2_normalize_by_hand(backend: str) -> None:
    x = np.float32([[3, 4], [0, 0], [1e-13, 0], [1e30, 1e30]])
    y = ops.l2_normalize(x)
    np.testing.assert_allclose(y, [[0.6, 0.8], [0, 0], [0.1, 0], [0.5**0.5, 0.5**0.5]], 2e-7)
    assert np.isnan(ops.l2_normalize(np.float32([np.nan, 1]))).all()
    np.testing.assert_array_equal(ops.l2_normalize(np.float32([3, 4]), eps=50), np.float32([0.06, 0.08]))


def test_l2_normalize_agrees_with_torch(backend: str, rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    x = rng.standard_normal((2, 5, 6, 17)).astype(np.float32)
    x[0, 0, 0] = 0
    want = torch.nn.functional.normalize(torch.from_numpy(x), dim=-1).numpy()
    np.testing.assert_allclose(ops.l2_normalize(x), want, 4e-7)


def test_a_vector_alone_gives_the_bits_of_the_batch(backend: str, rng: np.random.Generator) -> None:
    x = rng.standard_normal((9, 3, 4, 517)).astype(np.float32)
    y = ops.l2_normalize(x)
    np.testing.assert_array_equal(ops.l2_normalize(x[4:5]), y[4:5])
    np.testing.assert_array_equal(ops.l2_normalize(x[4, 1, 2]), y[4, 1, 2])


@pytest.mark.parametrize(
    ("shape", "size", "stride", "padding"),
    [((2, 9, 9, 17), 3, None, 0), ((1, 12, 7, 5), (3, 2), (2, 3), 0), ((1, 6, 7, 4), 3, 1, 1)],
)
def test_l2_pool2d_agrees_with_torch(
    backend: str,
    shape: tuple[int, ...],
    size: int | tuple[int, int],
    stride: int | tuple[int, int] | None,
    padding: int,
    rng: np.random.Generator,
) -> None:
    torch = pytest.importorskip("torch")
    x = rng.standard_normal(shape).astype(np.float32)
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    nchw = torch.from_numpy(padded.transpose(0, 3, 1, 2).astype(np.float64))
    want = torch.nn.functional.lp_pool2d(nchw, 2, size, stride).numpy().transpose(0, 2, 3, 1)
    y = ops.l2_pool2d(x, size, stride=stride, padding=padding)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, want, 1e-6)
    wide = ops.l2_pool2d(x.astype(np.float64), size, stride=stride, padding=padding)
    np.testing.assert_allclose(wide, want, 1e-13)


def test_errors(backend: str) -> None:
    x = np.ones((1, 4, 4, 3), np.float32)
    with pytest.raises(ShapeError, match=r"^l2_normalize: axis is too large: 4"):
        ops.l2_normalize(x, 4)
    with pytest.raises(ShapeError, match=r"^l2_normalize: eps must be finite and not negative"):
        ops.l2_normalize(x, eps=-1)
    with pytest.raises(ShapeError, match=r"at least one dimension"):
        ops.l2_normalize(np.float32(1))
    with pytest.raises(DTypeError, match=r"^l2_normalize: x is int64"):
        ops.l2_normalize(np.ones(3, np.int64))
    with pytest.raises(ShapeError, match=r"^l2_pool2d: the window spans 5 in height"):
        ops.l2_pool2d(x, 5)
    with pytest.raises(DTypeError, match=r"^l2_pool2d: x is uint8"):
        ops.l2_pool2d(x.astype(np.uint8), 2)


def test_empty_arrays_costs_and_graphs(backend: str) -> None:
    assert ops.l2_normalize(np.ones((0, 3), np.float32)).shape == (0, 3)
    assert ops.cost("l2_normalize", (2, 30)).bytes == 480
    assert ops.cost("l2_pool2d", (1, 4, 4, 3), 2).bytes == 4 * (48 + 12)

    class Lengths(nn.Module):
        def forward(self, x: cf.Tensor) -> cf.Tensor:
            return ops.l2_normalize(ops.l2_pool2d(x, 2))

    g = graph.trace(Lengths(), (1, 4, 4, 3))
    x = np.arange(48, dtype=np.float32).reshape(1, 4, 4, 3)
    np.testing.assert_allclose(graph.interpret(g, x), Lengths()(x), 1e-6)
