"""The ends of float32 and of sizes of 32 bits: numbers below the normal ones, over 2^31 elements."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

import cnnfast as cf
from cnnfast import ops
from processes import SANITIZED

# --- numbers below the normal ones ------------------------------------------------------------------

TINY = np.float32(2.0**-149)  # the smallest that float32 has; a processor that flushes makes it 0


def tiny(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(-50, 50, shape).astype(np.float32) * TINY


def kept() -> bool:
    """Whether this thread computes with numbers below the normal ones, as it does unless told otherwise."""
    return bool((np.full(64, TINY, np.float32) * np.float32(3) == 3 * TINY).all())


CALLS: dict[str, Any] = {
    "convolution": lambda x, w: ops.conv2d(x, w, padding=1),
    "stem": lambda x, w: ops.conv2d(x[..., :3], w[:, :, :3], stride=2),
    "1x1": lambda x, w: ops.conv2d(x, w[:1, :1]),
    "depthwise": lambda x, w: ops.depthwise_conv2d(x, w[:, :, :, :1]),
    "transpose": lambda x, w: ops.conv2d_transpose(x, w.transpose(0, 1, 3, 2)[..., :17], stride=2),
    "dense": lambda x, w: ops.linear(x.reshape(len(x), -1)[:, :17], w[0, 0]),
    "maximum": lambda x, w: ops.max_pool2d(x, 2),
    "relu": lambda x, w: ops.relu(x),
    "sum": lambda x, w: ops.add(x, x),
}


@pytest.mark.parametrize("name", CALLS)
def test_numbers_below_the_normal_ones_are_kept(name: str, backend: str, rng: np.random.Generator) -> None:
    """Whole multiples of the smallest number, so that sums in any order are exact."""
    x = rng.integers(-50, 50, (2, 19, 23, 17)).astype(np.float32)
    w = rng.integers(-3, 4, (3, 3, 17, 40)).astype(np.float32)
    y = CALLS[name](x * TINY, w)
    assert np.array_equal(y, CALLS[name](x, w) * TINY)
    assert y.any()


def test_the_floating_point_mode_is_not_touched(native: None, rng: np.random.Generator) -> None:
    x, w = tiny(rng, 4, 40, 40, 16), np.ones((3, 3, 16, 32), np.float32)
    engine = cf.compile(cf.nn.Sequential(cf.nn.Conv2d(16, 32, 3), cf.nn.Sigmoid()), x.shape)
    seen: list[bool] = []

    def work() -> None:
        seen.append(kept())
        for _ in range(3):
            ops.conv2d(x, w)
            ops.softmax(x)
            engine(x)
        seen.append(kept())

    work()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [True] * 4


# --- over 2^31 elements -----------------------------------------------------------------------------

ROWS, COLUMNS = 32770, 65538


@pytest.fixture(scope="module")
def vast() -> np.ndarray:
    """Zeros that take no memory, since nothing has written to them, but for the last 2x2 pixels."""
    try:
        x = np.zeros((1, ROWS, COLUMNS, 1), np.float32)
    except MemoryError:
        pytest.skip("this process may not have 8 GiB of addresses")
    assert x.size > 1 << 31
    x[0, -2:, -2:, 0] = [[2, 4], [1, 3]]
    return x


STEP = (ROWS - 2, COLUMNS - 2)
BOX = np.array([[0, COLUMNS - 3, ROWS - 3, COLUMNS - 1, ROWS - 1]], np.float32)
SPARSE: dict[str, tuple[Any, Any]] = {
    "convolution": (lambda x: ops.conv2d(x, np.ones((2, 2, 1, 1), np.float32), stride=STEP), 10),
    "many filters": (lambda x: ops.conv2d(x, np.ones((2, 2, 1, 40), np.float32), stride=STEP)[..., -1], 10),
    "dilation": (
        lambda x: ops.conv2d(x, np.ones((2, 2, 1, 16), np.float32), dilation=(ROWS - 1, COLUMNS - 1))[..., 0],
        3,
    ),
    "depthwise": (lambda x: ops.depthwise_conv2d(x, np.ones((2, 2, 1, 1), np.float32), stride=STEP), 10),
    "maximum": (lambda x: ops.max_pool2d(x, 2, stride=STEP), 4),
    "its place": (
        lambda x: ops.max_pool2d(x, 2, stride=STEP, return_indices=True)[1],
        (ROWS - 1) * COLUMNS - 1,
    ),
    "average": (lambda x: ops.avg_pool2d(x, 2, stride=STEP), 2.5),
    "resize": (lambda x: ops.resize(x, (2, 2), align_corners=True), 3),
    "region": (lambda x: ops.roi_pool(x, BOX, 2), 4),
    "slice": (lambda x: ops.take(x, (0, slice(-2, None), slice(-2, None))), 3),
    "plan": (lambda x: cf.compile(cf.nn.MaxPool2d(2, stride=STEP), x.shape)(x), 4),
}


@pytest.mark.skipif(SANITIZED, reason="a sanitizer touches memory that is asked for")
@pytest.mark.parametrize("name", SPARSE)
def test_over_2_to_the_31_elements(name: str, native: None, vast: np.ndarray) -> None:
    """Places beyond what 32 bits hold are read; steps as long as the picture leave the rest alone."""
    call, last = SPARSE[name]
    assert call(vast).ravel()[-1] == last
