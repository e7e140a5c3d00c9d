"""Pictures of every kind to arrays and back; damaged and hostile files; filters with known results."""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from cnnfast import filters, pictures
from cnnfast.cli import filter as filter_command
from cnnfast.cli.filter import filter_picture, parse_kernel
from cnnfast.errors import PictureError
from cnnfast.pictures import load_picture, save_picture


def random_rgb(rng: np.random.Generator, height: int = 13, width: int = 17) -> np.ndarray:
    return rng.integers(0, 256, (height, width, 3), np.uint8)


def luma(rgb: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(rgb).convert("L"), np.float32)[..., None]


# --- reading ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "ppm", "tga"])
def test_rgb(ending: str, rng: np.random.Generator, tmp_path: Path) -> None:
    rgb = random_rgb(rng)
    Image.fromarray(rgb).save(tmp_path / f"p.{ending}")
    read = load_picture(tmp_path / f"p.{ending}")
    assert read.dtype == np.float32
    assert read.flags.c_contiguous
    assert np.array_equal(read, rgb)
    assert np.array_equal(load_picture(tmp_path / f"p.{ending}", channels=1), luma(rgb))


@pytest.mark.parametrize("mode", ["L", "1"])
def test_grey(mode: str, rng: np.random.Generator, tmp_path: Path) -> None:
    image = Image.fromarray(random_rgb(rng)).convert(mode)
    image.save(tmp_path / "p.png")
    expected = np.asarray(image.convert("L"), np.float32)[..., None]
    assert np.array_equal(load_picture(tmp_path / "p.png", channels=1), expected)
    assert np.array_equal(load_picture(tmp_path / "p.png"), np.repeat(expected, 3, axis=2))


def test_transparency_lies_over_white(rng: np.random.Generator, tmp_path: Path) -> None:
    rgba = rng.integers(0, 256, (9, 10, 4), np.uint8)
    rgba[0, :, 3], rgba[1, :, 3] = 0, 255
    Image.fromarray(rgba).save(tmp_path / "p.png")
    alpha = rgba[..., 3:].astype(np.float64) / 255
    expected = rgba[..., :3] * alpha + 255 * (1 - alpha)
    read = load_picture(tmp_path / "p.png")
    assert np.abs(read - expected).max() <= 0.5 + 1e-9
    assert (read[0] == 255).all()
    assert np.array_equal(read[1], rgba[1, :, :3])
    assert (load_picture(tmp_path / "p.png", channels=1)[0] == 255).all()


@pytest.mark.parametrize("mode", ["LA", "P", "PA"])
def test_other_modes_with_transparency(mode: str, rng: np.random.Generator, tmp_path: Path) -> None:
    image = (
        Image.fromarray(random_rgb(rng)).quantize(16)
        if mode != "LA"
        else Image.fromarray(random_rgb(rng)).convert("LA")
    )
    if mode == "LA":
        image.putalpha(0)
        image.save(tmp_path / "p.png")
    else:
        image.save(tmp_path / "p.png", transparency=bytes(16))
    assert (load_picture(tmp_path / "p.png") == 255).all()


def test_palette(rng: np.random.Generator, tmp_path: Path) -> None:
    image = Image.fromarray(random_rgb(rng)).quantize(16)
    for ending in ("png", "gif"):
        image.save(tmp_path / f"p.{ending}")
        assert np.array_equal(load_picture(tmp_path / f"p.{ending}"), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_sixteen_bits(ending: str, rng: np.random.Generator, tmp_path: Path) -> None:
    deep = rng.integers(0, 65536, (7, 8), np.uint16)
    deep[0, 0], deep[0, 1] = 0, 65535
    Image.fromarray(deep).save(tmp_path / f"p.{ending}")
    read = load_picture(tmp_path / f"p.{ending}", channels=1)[..., 0]
    assert (read[0, 0], read[0, 1]) == (0, 255)
    np.testing.assert_allclose(read, deep / 257, rtol=1e-6)


def test_floats_and_those_that_are_no_number(tmp_path: Path) -> None:
    values = np.linspace(0, 255, 30, dtype=np.float32).reshape(5, 6)
    Image.fromarray(values).save(tmp_path / "p.tif")
    assert np.array_equal(load_picture(tmp_path / "p.tif", channels=1)[..., 0], values)
    values[2, 2] = np.nan
    Image.fromarray(values).save(tmp_path / "p.tif")
    with pytest.raises(PictureError, match="not finite"):
        load_picture(tmp_path / "p.tif")


def test_cmyk_jpeg(rng: np.random.Generator, tmp_path: Path) -> None:
    image = Image.new("CMYK", (16, 16), (0, 0, 0, 128))
    image.save(tmp_path / "p.jpg")
    with Image.open(tmp_path / "p.jpg") as stored:
        expected = np.asarray(stored.convert("RGB"))
    assert np.array_equal(load_picture(tmp_path / "p.jpg"), expected)


@pytest.mark.parametrize("orientation", range(10))
def test_exif_orientation(orientation: int, rng: np.random.Generator, tmp_path: Path) -> None:
    image = Image.fromarray(random_rgb(rng))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "p.png", exif=exif)
    with Image.open(tmp_path / "p.png") as stored:
        expected = np.asarray(ImageOps.exif_transpose(stored))
    assert np.array_equal(load_picture(tmp_path / "p.png"), expected)


def test_bands_do_not_show(rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rgba = rng.integers(0, 256, (50, 9, 4), np.uint8)
    Image.fromarray(rgba).save(tmp_path / "p.png")
    whole = load_picture(tmp_path / "p.png")
    monkeypatch.setattr(pictures, "_BAND", 30)
    assert np.array_equal(load_picture(tmp_path / "p.png"), whole)


def test_channels_are_one_or_three(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="channels must be 1 or 3, got 4"):
        load_picture(tmp_path / "p.png", channels=4)


# --- damaged and hostile files ----------------------------------------------------------------------


def png(width: int, height: int) -> bytes:
    """A grey picture whose header claims a size that its data does not have."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 100))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(13378, 13378), (100_000, 100_000), (2**31 - 1, 2**31 - 1), (2**31 - 1, 1)])
def test_too_many_pixels(size: tuple[int, int], tmp_path: Path) -> None:
    (tmp_path / "p.png").write_bytes(png(*size))
    with pytest.raises(PictureError, match=r"p\.png: the picture has .*more than 178956970"):
        load_picture(tmp_path / "p.png")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        bytes(100),
        png(100, 100),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        b"BM",
    ],
    ids=["empty", "text", "zeros", "short", "postscript", "bmp"],
)
def test_no_picture(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "p.png").write_bytes(content)
    with pytest.raises(PictureError, match=r"p\.png: "):
        load_picture(tmp_path / "p.png")


@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "tif", "bmp", "webp"])
def test_cut_off_and_flipped_bytes(ending: str, rng: np.random.Generator, tmp_path: Path) -> None:
    path = tmp_path / f"p.{ending}"
    Image.fromarray(random_rgb(rng, 40, 50)).save(path)
    good = path.read_bytes()
    for length in range(0, len(good), max(1, len(good) // 25)):
        path.write_bytes(good[:length])
        with contextlib.suppress(PictureError):
            load_picture(path)  # some formats are complete without their last bytes
    for _ in range(60):
        bad = bytearray(good)
        for place in rng.integers(0, len(bad), 4):
            bad[place] = rng.integers(256)
        path.write_bytes(bad)
        try:
            read = load_picture(path)
        except (PictureError, MemoryError):
            continue
        assert np.isfinite(read).all()


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_picture(tmp_path / "p.png")
    with pytest.raises(OSError, match="directory"):
        load_picture(tmp_path)


# --- writing ----------------------------------------------------------------------------------------


def test_save(rng: np.random.Generator, tmp_path: Path) -> None:
    rgb = random_rgb(rng)
    for pixels in (rgb, rgb[..., 0], rgb[..., :1], rgb[::-1, ::2]):
        save_picture(tmp_path / "p.png", pixels)
        channels = 3 if pixels.ndim == 3 and pixels.shape[2] == 3 else 1
        read = load_picture(tmp_path / "p.png", channels=channels)
        assert np.array_equal(read, pixels.reshape(*pixels.shape[:2], channels))


def test_nothing_is_lost_when_saving_fails(
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "p.png"
    save_picture(path, random_rgb(rng))
    before = path.read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "the disk is full")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="full"):
        save_picture(path, random_rgb(rng))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["p.png"]


@pytest.mark.parametrize("name", ["p", "p.xyz", "p.eps", "p.pdf", ".png/p"])
def test_formats_that_are_not_written(name: str, tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="cannot tell the format"):
        save_picture(tmp_path / name, np.zeros((2, 2), np.uint8))


def test_arrays_that_are_no_picture(tmp_path: Path) -> None:
    for pixels in (np.zeros((2, 2), np.float32), np.zeros((2, 2, 2), np.uint8), np.zeros(4, np.uint8)):
        with pytest.raises(PictureError, match="expected uint8"):
            save_picture(tmp_path / "p.png", pixels)
    with pytest.raises(PictureError, match=r"p\.webp: the picture cannot be written as WEBP"):
        save_picture(tmp_path / "p.webp", np.zeros((1, 70_000), np.uint8))
    assert not os.listdir(tmp_path)


# --- filters ----------------------------------------------------------------------------------------


def test_bright_left_half(backend: str) -> None:
    picture = np.repeat([[10.0, 10, 10, 0, 0, 0]], 6, axis=0).astype(np.float32)[..., None]
    vertical = parse_kernel("vertical")
    expected = np.repeat(np.array([[0, 0, 30, 30, 0, 0]], np.uint8), 6, axis=0)
    assert np.array_equal(filter_picture(picture, vertical), expected)
    # The absolute value: a step downwards is an edge as well.
    assert np.array_equal(filter_picture(picture[:, ::-1], vertical), expected)
    assert not filter_picture(picture, parse_kernel("horizontal")).any()


@pytest.mark.parametrize("name", ["sobel", "scharr", "prewitt"])
def test_length_of_the_gradient(backend: str, name: str, rng: np.random.Generator) -> None:
    picture = rng.integers(0, 30, (20, 31, 1)).astype(np.float32)
    x, y = (getattr(filters, f"{name.upper()}_{axis}") for axis in "XY")
    padded = np.pad(picture[..., 0].astype(np.float64), 1, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
    gx, gy = (windows * x).sum(axis=(2, 3)), (windows * y).sum(axis=(2, 3))
    expected = np.clip(np.rint(np.hypot(gx, gy)), 0, 255)
    assert np.array_equal(filter_picture(picture, parse_kernel(name)), expected)


def test_kernels_that_are_no_edge_detectors_keep_their_sign(backend: str) -> None:
    picture = np.zeros((5, 5, 1), np.float32)
    picture[2, 2] = 100
    sharper = filter_picture(picture, parse_kernel("0,-1,0;-1,5,-1;0,-1,0"))
    expected = np.zeros((5, 5), np.uint8)
    expected[2, 2] = 255
    assert np.array_equal(sharper, expected)


def test_even_and_oversized_kernels(backend: str, rng: np.random.Generator) -> None:
    picture = rng.integers(0, 256, (4, 5, 1)).astype(np.float32)
    assert np.array_equal(filter_picture(picture, parse_kernel("1,0")), picture[..., 0])
    flat = np.full((3, 4, 1), 9, np.float32)
    assert (filter_picture(flat, parse_kernel(";".join([",".join(["0.01"] * 10)] * 10))) == 9).all()


def test_bands_of_the_filter_do_not_show(
    backend: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = rng.integers(0, 256, (33, 12, 1)).astype(np.float32)
    kernel = parse_kernel("1,2,3;4,-20,4;3,2,1;0,0,0")
    whole = filter_picture(picture, kernel)
    monkeypatch.setattr(filter_command, "_BAND", 50)
    assert np.array_equal(filter_picture(picture, kernel), whole)


def test_real_photographs(assets: Path, backend: str) -> None:
    """Edges are where the brightness changes; every photograph at hand goes through."""
    found = sorted((assets / "pictures").glob("*.jpg"))
    assert found
    for path in found[:4]:
        picture = load_picture(path, channels=1)
        edges = filter_picture(picture, parse_kernel("sobel"))
        assert edges.shape == picture.shape[:2]
        change = np.abs(np.diff(picture[..., 0], axis=1))
        assert edges[:, 1:][change > 60].mean() > 3 * edges[:, 1:][change < 2].mean()
