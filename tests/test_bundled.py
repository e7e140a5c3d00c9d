"""Weights that come with the package: small enough, described, and as good as their cards say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import cnnfast as cf
from cnnfast import data, train
from cnnfast.models.registry import entry

FOLDER = Path(cf.__file__).parent / "bundled"
BUNDLED = [
    (name, label)
    for name in cf.models.list_models()
    for label, known in entry(name).weights.items()
    if known.file
]


def test_sizes_and_cards() -> None:
    files = {entry(name).weights[label].file for name, label in BUNDLED}
    assert {path.name for path in FOLDER.glob("*.safetensors")} == files
    sizes = [(FOLDER / name).stat().st_size for name in files]
    assert max(sizes) <= 1_500_000
    assert sum(sizes) <= 4_000_000
    for name in files:
        assert (FOLDER / name).with_suffix(".md").exists()


@pytest.mark.parametrize(("name", "label"), BUNDLED)
def test_accuracy(name: str, label: str) -> None:
    known = entry(name).weights[label]
    folder = Path(os.environ.get("CNNFAST_ASSETS", "")) / "datasets" / "fashion-mnist"
    model = cf.models.create_model(name, weights=label).eval()
    if not os.environ.get("CNNFAST_ASSETS"):
        pytest.skip("CNNFAST_ASSETS is not set: it names the folder of data sets")
    chain = data.Compose([data.Resize(known.input_size[0]), data.Normalize(known.mean, known.std)])
    held = data.DataLoader(data.MNIST(folder, train=False), 500, transform=chain)
    accuracy = train.evaluate(model, held)["accuracy"]
    assert accuracy == pytest.approx(known.accuracy["top1"] / 100, abs=2e-4)
