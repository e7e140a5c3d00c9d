"""Pictures to batches: against the formulas, Pillow, and an independent runtime's input."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cnnfast as cf
from cnnfast.data import Preprocess
from cnnfast.errors import PictureError
from cnnfast.models.registry import Pretrained

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
AS_IS = Preprocess(None, None, mean=(0.0,) * 3, std=(1.0,) * 3)


def random_rgb(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    return rng.integers(0, 256, (height, width, 3), np.uint8)


def by_formula(pixels: np.ndarray, rows: int, columns: int, how: str) -> np.ndarray:
    """The antialiased resize in float64: rows and columns weighted by the filter, widened when shrinking."""

    def kernel(x: float) -> float:
        x = abs(x)
        if how == "bilinear":
            return max(0.0, 1 - x)
        a = -0.5
        if x < 1:
            return ((a + 2) * x - (a + 3)) * x * x + 1
        return (((x - 5) * x + 8) * x - 4) * a if x < 2 else 0.0

    def matrix(n: int, out: int) -> np.ndarray:
        scale = max(n / out, 1.0)
        m = np.array(
            [[kernel((j + 0.5 - (i + 0.5) * n / out) / scale) for j in range(n)] for i in range(out)]
        )
        return m / m.sum(axis=1, keepdims=True)

    height, width, _ = pixels.shape
    return np.einsum("ih,jw,hwc->ijc", matrix(height, rows), matrix(width, columns), pixels.astype(float))


@pytest.mark.parametrize("how", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("height", "width", "side"), [(61, 90, 24), (90, 61, 24), (20, 31, 33), (40, 40, 16)]
)
def test_resize_is_the_antialiased_formula(
    how: str, height: int, width: int, side: int, rng: np.random.Generator
) -> None:
    # Smooth, so that the 8 bits between the two passes of Pillow can be told from a wrong filter.
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([128 + 100 * np.sin(y / 7 + x / 9 + c) for c in range(3)], axis=2).astype(np.uint8)
    got = Preprocess(None, side, how).pixels(pixels)
    short = min(height, width)
    shape = int(side * height / short), int(side * width / short)
    assert got.shape == (*shape, 3)
    # Half a unit of rounding in each pass; the second weights the first's by at most 1.5 (bicubic).
    assert np.abs(got - by_formula(pixels, *shape, how)).max() <= 1.3


@pytest.mark.parametrize("how", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize(("height", "width"), [(61, 90), (375, 500), (224, 224), (300, 225), (20, 1000)])
def test_bit_for_bit_pillow(how: str, height: int, width: int, rng: np.random.Generator) -> None:
    rgb = random_rgb(rng, height, width)
    image = Image.fromarray(rgb)
    size = (256, 256 * width // height) if height <= width else (256 * height // width, 256)
    small = np.asarray(image.resize(size[::-1], Image.Resampling[how.upper()]))
    top, left = round((size[0] - 224) / 2.0), round((size[1] - 224) / 2.0)
    cut = small[top : top + 224, left : left + 224]
    expected = (cut.astype(np.float32) / np.float32(255) - np.float32(MEAN)) / np.float32(STD)
    got = Preprocess(interpolation=how)(rgb)
    assert got.dtype == np.float32
    assert got.flags.c_contiguous
    assert np.array_equal(got, expected[None])
    assert np.array_equal(Preprocess(interpolation=how)(image), got)


@pytest.mark.parametrize(("size", "crop", "first"), [(9, 4, 2), (11, 4, 4), (10, 4, 3), (4, 4, 0)])
def test_centre(size: int, crop: int, first: int, rng: np.random.Generator) -> None:
    rgb = random_rgb(rng, size, size)
    got = Preprocess((crop, crop), None).pixels(rgb)
    assert np.array_equal(got, rgb[first : first + crop, first : first + crop])


def test_small_pictures_lie_on_black(rng: np.random.Generator) -> None:
    rgb = random_rgb(rng, 3, 9)
    got = Preprocess((6, 4), None).pixels(rgb)
    assert got.shape == (6, 4, 3)
    assert not got[0].any()
    assert not got[4:].any()
    assert np.array_equal(got[1:4], rgb[:, 2:6])


def test_both_sides_and_none(rng: np.random.Generator) -> None:
    rgb = random_rgb(rng, 30, 50)
    both = Preprocess(None, (20, 22)).pixels(rgb)
    assert np.array_equal(both, np.asarray(Image.fromarray(rgb).resize((22, 20), Image.Resampling.BILINEAR)))
    assert np.array_equal(AS_IS(rgb)[0] * np.float32(255), rgb)


@pytest.mark.parametrize(
    ("size", "pct", "resize"),
    [(224, 0.875, 256), (224, 0.95, 235), (240, 0.882, 272), (299, 0.875, 341), (224, 1.0, 224)],
)
def test_crop_pct(size: int, pct: float, resize: int) -> None:
    made = Preprocess.crop_pct(size, pct)
    assert (made.input_size, made.resize, made.interpolation) == ((size, size), resize, "bicubic")
    assert math.floor(size / pct) == resize
    assert Preprocess.crop_pct((128, 256), 0.875).resize == (146, 292)
    with pytest.raises(ValueError, match="crop_pct"):
        Preprocess.crop_pct(224, 0.0)


def test_of_published_weights() -> None:
    known = Pretrained(
        input_size=(299, 290), resize=342, interpolation="bicubic", mean=(0.5,) * 3, std=(0.25,) * 3
    )
    assert Preprocess.of(known) == Preprocess((299, 290), 342, "bicubic", (0.5,) * 3, (0.25,) * 3)
    assert Preprocess.of(Pretrained()) == Preprocess()


def test_files_and_batches(rng: np.random.Generator, tmp_path: Path) -> None:
    small = Preprocess((5, 6), 7)
    images = [random_rgb(rng, 20, 30), random_rgb(rng, 31, 18)]
    for i, rgb in enumerate(images):
        Image.fromarray(rgb).save(tmp_path / f"{i}.png")
    batch = small([tmp_path / "0.png", str(tmp_path / "1.png")])
    assert batch.shape == (2, 5, 6, 3)
    assert np.array_equal(batch, small(images))
    assert np.array_equal(batch[1:], small(images[1]))
    with pytest.raises(PictureError, match="different sizes"):
        AS_IS(images)
    with pytest.raises(PictureError, match="at least one"):
        small([])
    with pytest.raises(FileNotFoundError):
        small("none.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(PictureError, match=r"bad\.png"):
        small(tmp_path / "bad.png")


def test_kinds_of_pictures(rng: np.random.Generator, tmp_path: Path) -> None:
    rgb = random_rgb(rng, 8, 9)
    image = Image.fromarray(rgb)
    grey = image.convert("L")
    rgba = image.copy()
    rgba.putalpha(0)
    rgba.putpixel((0, 0), (9, 8, 7, 255))
    palette = image.quantize(16)
    deep = Image.fromarray(rng.integers(0, 65536, (8, 9)).astype(np.uint16))
    turned = Image.Exif()
    turned[0x0112] = 6
    white = np.full((8, 9, 3), 255, np.uint8)
    white[0, 0] = 9, 8, 7
    expected: dict[str, Any] = {
        "grey": (grey, np.repeat(np.asarray(grey)[..., None], 3, axis=2)),
        "alpha": (rgba, white),
        "palette": (palette, np.asarray(palette.convert("RGB"))),
        "bits": (image.convert("1"), np.asarray(image.convert("1").convert("RGB"))),
        "deep": (deep, np.repeat(np.rint(np.asarray(deep) / 257).astype(np.uint8)[..., None], 3, axis=2)),
    }
    for name, (given, pixels) in expected.items():
        assert np.array_equal(AS_IS.pixels(given), pixels), name
        given.save(tmp_path / f"{name}.png")
        assert np.array_equal(AS_IS.pixels(tmp_path / f"{name}.png"), pixels), name
    image.save(tmp_path / "turned.png", exif=turned)
    assert np.array_equal(AS_IS.pixels(tmp_path / "turned.png"), np.rot90(rgb, -1))


def test_one_channel(rng: np.random.Generator, tmp_path: Path) -> None:
    luma = Preprocess((8, 9), None, mean=(0.1307,), std=(0.3081,))
    rgb = random_rgb(rng, 8, 9)
    grey = np.asarray(Image.fromarray(rgb).convert("L"))
    expected = (grey.astype(np.float32) / np.float32(255) - np.float32(0.1307)) / np.float32(0.3081)
    Image.fromarray(rgb).save(tmp_path / "p.png")
    for given in (rgb, grey, grey[..., None], Image.fromarray(rgb), tmp_path / "p.png"):
        assert np.array_equal(luma(given), expected[None, ..., None])
    assert np.array_equal(AS_IS.pixels(grey), np.repeat(grey[..., None], 3, axis=2))


def test_inputs_are_not_written(rng: np.random.Generator) -> None:
    rgb = random_rgb(rng, 20, 30)
    rgb.flags.writeable = False
    before = rgb.copy()
    flipped = rgb[::-1, ::-1]
    assert np.array_equal(Preprocess((5, 5), 7)(flipped), Preprocess((5, 5), 7)(flipped.copy()))
    assert np.array_equal(rgb, before)


@pytest.mark.parametrize(
    "bad", [np.zeros((3, 3, 3)), np.zeros((3, 3, 4), np.uint8), np.zeros((0, 3), np.uint8), 7, None]
)
def test_what_is_no_picture(bad: Any) -> None:
    with pytest.raises(PictureError, match="Preprocess: expected"):
        Preprocess()(bad)


def test_a_strip_does_not_become_huge() -> None:
    with pytest.raises(PictureError, match="would become"):
        Preprocess(None, 60_000)(np.zeros((1, 1000, 3), np.uint8))


@pytest.mark.parametrize(
    "options",
    [
        {"interpolation": "lanczos"},
        {"input_size": 224},
        {"input_size": (0, 1)},
        {"input_size": (1, 2, 3)},
        {"resize": 0},
        {"resize": 1.5},
        {"resize": True},
        {"resize": (1, 2, 3)},
        {"resize": (1, None)},
        {"mean": (0.5,)},
        {"mean": (0.5, 0.5), "std": (1, 1)},
        {"std": (1, 0, 1)},
        {"mean": (0, math.nan, 0)},
        {"std": (1, 1e-60, 1)},
    ],
)
def test_parameters(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="Preprocess: "):
        Preprocess(**options)


def test_reached_lazily() -> None:
    assert cf.data.Preprocess is Preprocess
    with pytest.raises(AttributeError, match="no attribute"):
        _ = cf.data.nothing
