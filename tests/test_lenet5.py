"""The first real job: LeNet-5 with real weights on the 10,000 real test digits."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import cnnfast as cf

EXAMPLE = Path(__file__).parents[1] / "examples" / "lenet5_mnist.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lenet5_mnist", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def weights(example: ModuleType, assets: Path) -> dict[str, np.ndarray]:
    return example.load_lenet5(str(assets / "models" / "lenet5_mnist.pth"))


def digits(assets: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(assets / "datasets" / "mnist_test.npz") as data:
        return data["x32"][..., None].astype(np.float32) / 255, data["y"]


def test_accuracy_on_all_digits(
    backend: str, example: ModuleType, weights: dict[str, np.ndarray], assets: Path
) -> None:
    x, y = digits(assets)
    read = np.concatenate(
        [example.lenet5(weights, x[i : i + 500]).argmax(axis=1) for i in range(0, 10_000, 500)]
    )
    assert len(y) == 10_000
    assert (read == y).sum() == 9_907


def test_decisions_of_an_independent_runtime(
    backend: str, example: ModuleType, weights: dict[str, np.ndarray], assets: Path
) -> None:
    with np.load(assets / "expected" / "lenet5_mnist.npz") as expected:
        x, logprob = expected["input"], expected["logprob"]
    got = example.lenet5(weights, np.ascontiguousarray(x.transpose(0, 2, 3, 1)))
    assert (got.argmax(axis=1) == logprob.argmax(axis=1)).all()
    # Five layers of float32 on logits up to 40: each sum of at most 400 terms adds a few units of 2^-24.
    np.testing.assert_allclose(got, logprob, rtol=2e-6, atol=2e-5)


def test_backends_and_precisions_agree(
    example: ModuleType, weights: dict[str, np.ndarray], assets: Path
) -> None:
    x = digits(assets)[0][:500]
    exact = example.lenet5({k: v.astype(np.float64) for k, v in weights.items()}, x.astype(np.float64))
    assert exact.dtype == np.float64
    np.testing.assert_allclose(example.lenet5(weights, x), exact, rtol=2e-6, atol=2e-5)


def test_an_image_alone_gives_the_bits_of_the_batch(
    native: None, example: ModuleType, weights: dict[str, np.ndarray], assets: Path
) -> None:
    x = digits(assets)[0][:20]
    together = example.lenet5(weights, x)
    for threads in (1, 2, 3):
        cf.set_num_threads(threads)
        alone = np.concatenate([example.lenet5(weights, x[i : i + 1]) for i in range(20)])
        assert np.array_equal(alone, together)


def test_the_example_as_printed_in_the_readme(assets: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            str(EXAMPLE),
            assets / "models" / "lenet5_mnist.pth",
            assets / "datasets" / "mnist_test.npz",
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("99.07% of 10000 digits right")
