"""The classic edge filters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import cnnfast as cf
from cnnfast import filters
from cnnfast.ops import conv2d


def filtered(picture: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    return conv2d(picture[None, :, :, None].astype(np.float32), kernel[:, :, None, None])[0, :, :, 0]


def test_names() -> None:
    assert filters.__all__ == sorted(filters.__all__)
    assert set(filters.__all__) == {
        "VERTICAL",
        "HORIZONTAL",
        *(f"{n}_{a}" for n in ("SOBEL", "SCHARR", "PREWITT") for a in "XY"),
    }


@pytest.mark.parametrize("name", filters.__all__)
def test_kernels(name: str) -> None:
    kernel = getattr(filters, name)
    assert kernel.shape == (3, 3)
    assert kernel.dtype == np.float32
    assert not kernel.flags.writeable
    assert kernel.sum() == 0  # no answer where nothing changes
    with pytest.raises(ValueError, match="read-only"):
        kernel[0, 0] = 1


def test_values() -> None:
    assert filters.VERTICAL.tolist() == [[1, 0, -1]] * 3
    assert filters.HORIZONTAL.tolist() == [[1, 1, 1], [0, 0, 0], [-1, -1, -1]]
    assert filters.SOBEL_X.tolist() == [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]
    assert filters.SCHARR_X.tolist() == [[-3, 0, 3], [-10, 0, 10], [-3, 0, 3]]
    assert filters.PREWITT_X.tolist() == [[-1, 0, 1]] * 3
    for name in ("SOBEL", "SCHARR", "PREWITT"):
        assert np.array_equal(getattr(filters, f"{name}_Y"), getattr(filters, f"{name}_X").T)


def test_bright_left(backend: str) -> None:
    bright_left = np.repeat([[10, 10, 10, 0, 0, 0]], 6, axis=0)
    assert filtered(bright_left, filters.VERTICAL).tolist() == [[0, 30, 30, 0]] * 4
    assert filtered(bright_left[:, ::-1], filters.VERTICAL).tolist() == [[0, -30, -30, 0]] * 4
    assert filtered(bright_left.T, filters.HORIZONTAL).tolist() == [[0] * 4, [30] * 4, [30] * 4, [0] * 4]
    assert not filtered(bright_left, filters.HORIZONTAL).any()


@pytest.mark.parametrize(("name", "weight"), [("SOBEL", 8), ("SCHARR", 32), ("PREWITT", 6)])
def test_gradients_of_a_ramp(backend: str, name: str, weight: int) -> None:
    """Positive where brightness grows to the right or downwards."""
    rows, columns = np.mgrid[0:6, 0:7]
    ramp = 3 * columns - 2 * rows
    assert (filtered(ramp, getattr(filters, f"{name}_X")) == 3 * weight).all()
    assert (filtered(ramp, getattr(filters, f"{name}_Y")) == -2 * weight).all()


def test_filters_as_weights_of_many_channels(backend: str, rng: np.random.Generator) -> None:
    """A custom filter, and one filter for each colour by a depthwise convolution."""
    picture = rng.integers(0, 256, (1, 9, 11, 3)).astype(np.float32)
    custom = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]], np.float32)
    for kernel in (custom, filters.SOBEL_Y):
        got = cf.ops.depthwise_conv2d(picture, np.repeat(kernel[:, :, None, None], 3, axis=2), padding="same")
        for c in range(3):
            same = conv2d(picture[..., c : c + 1], kernel[:, :, None, None], padding="same")
            assert np.array_equal(got[..., c : c + 1], same)


def test_a_photograph(backend: str, assets: Path) -> None:
    """Edges of a real picture are where its neighbours differ."""
    found = sorted(p for kind in ("*.jpg", "*.png") for p in assets.rglob(kind))
    if not found:
        pytest.skip("no picture among the assets")
    pictures = pytest.importorskip("PIL.Image")
    grey = np.asarray(pictures.open(found[0]).convert("L"), np.float32)[:300, :400]
    got = filtered(grey, filters.VERTICAL)
    expected = sum(
        grey[i : grey.shape[0] - 2 + i, :-2] - grey[i : grey.shape[0] - 2 + i, 2:] for i in range(3)
    )
    assert np.array_equal(got, expected)  # whole numbers
    assert 0 < abs(got).max() <= 3 * 255
