"""Every wrapper of ptx.h and hopper.h by itself, against what the instruction is said to do.

On the host that is a test of the emulation; with ``-m gpu`` the hardware is held to the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cnnfast.cuda import asarray, empty, zeros

LDMATRIX_X4, LDMATRIX_X4_TRANS, LDMATRIX_X2, MMA_BF16, MMA_F16, MMA_TF32, TO_TF32, COPY_16, COPY_8 = range(9)
LANES = np.arange(32)


def _run(device: Any, wrapper: int, given: np.ndarray, words: int) -> np.ndarray:
    """The words that a warp gives, one row for each lane."""
    x, y = asarray(np.ascontiguousarray(given).view(np.int32)), empty((32, words), "int32")
    device.try_wrapper(wrapper, x.buffer, y.buffer)
    return y.numpy()


@pytest.mark.parametrize(("wrapper", "tiles"), [(LDMATRIX_X4, 4), (LDMATRIX_X4_TRANS, 4), (LDMATRIX_X2, 2)])
def test_ldmatrix(device: Any, rng: np.random.Generator, wrapper: int, tiles: int) -> None:
    rows = rng.integers(0, 1 << 16, (32, 8), np.uint16)
    order = rng.permutation(32)
    offsets = (16 * order).astype(np.int32)
    got = _run(device, wrapper, np.concatenate([offsets, rows.reshape(-1).view(np.int32)]), tiles)
    for tile in range(tiles):
        matrix = rows[order[8 * tile : 8 * tile + 8]]
        matrix = matrix.T if wrapper == LDMATRIX_X4_TRANS else matrix
        wanted = np.ascontiguousarray(matrix).view(np.int32).reshape(32)
        np.testing.assert_array_equal(got[:, tile], wanted)


def _fragments(a: np.ndarray, b: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Words of every lane: of a (16, K), b (K, 8) in elements of 2 or 4 bytes, and float32 d (16, 8)."""
    each = 4 // a.itemsize  # elements of a word
    row, at = LANES // 4, each * (LANES % 4)
    words = np.empty((32, 10), np.uint32)
    for i in range(4):
        k = at + 4 * each * (i // 2)
        words[:, i] = np.stack([a[row + 8 * (i % 2), k + e] for e in range(each)], -1).view(np.uint32)[:, 0]
    for i in range(2):
        k = at + 4 * each * i
        words[:, 4 + i] = np.stack([b[k + e, row] for e in range(each)], -1).view(np.uint32)[:, 0]
    for i in range(4):
        words[:, 6 + i] = d[row + 8 * (i // 2), 2 * (LANES % 4) + i % 2].view(np.uint32)
    return words


def _result(got: np.ndarray) -> np.ndarray:
    d = np.empty((16, 8), np.float32)
    for i in range(4):
        d[LANES // 4 + 8 * (i // 2), 2 * (LANES % 4) + i % 2] = got[:, i].view(np.float32)
    return d


@pytest.mark.parametrize("wrapper", [MMA_BF16, MMA_F16, MMA_TF32])
def test_mma(device: Any, rng: np.random.Generator, wrapper: int) -> None:
    depth = 8 if wrapper == MMA_TF32 else 16
    # Multiples of 1/4 up to 4: exact in every type, and so are the sums.
    a, b = [(rng.integers(-16, 17, s) / 4).astype(np.float32) for s in ((16, depth), (depth, 8))]
    d = (rng.integers(-64, 65, (16, 8)) / 4).astype(np.float32)
    if wrapper == MMA_TF32:
        given = _fragments(a, b, d)
    elif wrapper == MMA_F16:
        given = _fragments(a.astype(np.float16), b.astype(np.float16), d)
    else:
        given = _fragments(*[(v.view(np.uint32) >> 16).astype(np.uint16) for v in (a, b)], d)
    np.testing.assert_array_equal(_result(_run(device, wrapper, given, 4)), d + a @ b)


def test_to_tf32(device: Any, rng: np.random.Generator) -> None:
    x = rng.standard_normal(32).astype(np.float32)
    x[:4] = 1 + 2.0**-11, -(1 + 2.0**-11), 1 + 2.0**-12, np.inf  # ties go away from zero
    got = _run(device, TO_TF32, x, 1)[:, 0].view(np.float32)
    np.testing.assert_array_equal(got[:4], np.array([1 + 2.0**-10, -(1 + 2.0**-10), 1, np.inf], np.float32))
    assert (np.abs(got[4:] - x[4:]) <= 2.0**-11 * np.abs(x[4:])).all()
    assert not (got.view(np.uint32) & 0x1FFF).any()


@pytest.mark.parametrize(("wrapper", "words"), [(COPY_16, 4), (COPY_8, 2)])
def test_copies_and_zeros(device: Any, rng: np.random.Generator, wrapper: int, words: int) -> None:
    given = rng.integers(-(1 << 30), 1 << 30, (32, words), np.int32)
    wanted = np.where((LANES % 2 == 0)[:, None], given, 0)
    np.testing.assert_array_equal(_run(device, wrapper, given, words), wanted)


def _exchanged(rows: np.ndarray) -> np.ndarray:
    """64 rows of 64 elements, the eight chunks of each exchanged by its number."""
    chunks = np.arange(8)[None] ^ np.arange(64)[:, None] % 8
    return np.take_along_axis(rows.reshape(64, 8, 8), chunks[:, :, None], 1).reshape(64, 64)


def _halves(rng: np.random.Generator, *shape: int) -> tuple[Any, np.ndarray]:
    x = rng.integers(-128, 129, shape).astype(np.float32)  # exact in bfloat16
    return asarray(x, "bfloat16"), x


@pytest.mark.parametrize("taps", [0, 3])
def test_copy_of_a_tile(hopper: Any, rng: np.random.Generator, taps: int) -> None:
    x, host = _halves(rng, 70, max(taps, 1), 72)
    tap = taps // 2
    for c, row in ((0, 0), (64, 0), (0, 64), (64, 8)):
        tile = empty((64, 64), "bfloat16")
        hopper.try_copy_tile(x.buffer, 72, taps, 70, (c, tap, row), tile.buffer)
        part = host[row : row + 64, tap, c : c + 64]
        wanted = np.zeros((64, 64), np.float32)
        wanted[: part.shape[0], : part.shape[1]] = part
        np.testing.assert_array_equal(tile.numpy(), _exchanged(wanted))


def test_copy_of_windows(hopper: Any, rng: np.random.Generator) -> None:
    """Unequal everything: pictures 2 of 7 x 9, kernel 3 x 2 with dilation (1, 2), stride (2, 3)."""
    n, h, w, c = shape = (2, 7, 9, 72)
    x, host = _halves(rng, *shape)
    (sh, sw), (dh, dw), (top, left), (p, q) = (2, 3), (1, 2), (1, 2), (4, 4)
    lower, upper = (-left, -top), (-left + (q - 1) * sw - (w - 1), -top + (p - 1) * sh - (h - 1))
    padded = np.zeros((n, 32, 32, c), np.float32)
    padded[:, top : top + h, left : left + w] = host
    for first in (0, 6):
        for r, s in ((0, 0), (2, 1)):
            for channel in (0, 64):
                picture, row, column = first // (p * q), first // q % p, first % q
                at = (channel, column * sw - left, row * sh - top, picture)
                tile = empty((64, 64), "bfloat16")
                hopper.try_copy_windows(
                    x.buffer, shape, lower, upper, (sw, sh), at, (s * dw, r * dh), tile.buffer
                )
                wanted = np.zeros((64, 64), np.float32)
                for i, m in enumerate(range(first, n * p * q)):
                    y, z = m // q % p * sh + r * dh, m % q * sw + s * dw
                    pixel = padded[m // (p * q), y, z, channel : channel + 64]
                    wanted[i, : len(pixel)] = pixel
                np.testing.assert_array_equal(tile.numpy(), _exchanged(wanted))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("first", [0, 16, 48])
def test_wgmma(hopper: Any, rng: np.random.Generator, dtype: str, first: int) -> None:
    x, w = [(rng.integers(-16, 17, (64, 64)) / 4).astype(np.float32) for _ in range(2)]
    d = (rng.integers(-64, 65, (64, 64)) / 4).astype(np.float32)
    y = zeros((64, 64))
    arrays = asarray(x, dtype), asarray(w, dtype), asarray(d)
    hopper.try_wgmma(
        dtype == "float16", arrays[0].buffer, arrays[1].buffer, first, arrays[2].buffer, y.buffer
    )
    part = slice(first, first + 16)
    np.testing.assert_array_equal(y.numpy(), d + x[:, part] @ w[:, part].T)
