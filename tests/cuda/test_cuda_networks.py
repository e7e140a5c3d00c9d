"""Whole networks compiled for a device, against the interpreter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from networks_on_device import Inverted, Residual

import cnnfast as cf
from cnnfast import nn
from cnnfast.cuda import asarray


def _statistics(model: Any, rng: np.random.Generator) -> Any:
    """Batch statistics that are not 0 and 1."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = rng.standard_normal(module.running_mean.shape).astype(np.float32)
            module.running_var = rng.uniform(0.5, 2, module.running_var.shape).astype(np.float32)
    return model


NETWORKS = {
    "lenet5": (lambda: cf.models.create_model("lenet5"), (2, 32, 32, 1)),
    "residual": (Residual, (2, 7, 9, 3)),
    "inverted": (Inverted, (1, 6, 5, 8)),
}


@pytest.mark.parametrize(("dtype", "error"), [("float32", 2e-6), ("bfloat16", 0.04), ("float16", 0.006)])
@pytest.mark.parametrize("name", NETWORKS)
def test_small_networks(device: Any, rng: np.random.Generator, name: str, dtype: str, error: float) -> None:
    make, shape = NETWORKS[name]
    model = _statistics(make(), rng)
    x = rng.standard_normal(shape).astype(np.float32)
    wanted = cf.compile(model, device="numpy")(x)
    engine = cf.compile(model, shape, device="cuda", dtype=dtype)
    first = engine(x)
    assert np.abs(first - wanted).max() <= error * np.abs(wanted).max()
    engine(-x)
    np.testing.assert_array_equal(engine(asarray(x)).numpy(), first)


@pytest.mark.parametrize("name", ["mobilenet_v2_050", "efficientnet_b0"])
def test_registered_networks(shim: Any, rng: np.random.Generator, name: str) -> None:
    shim.set_schedule("shuffled", seed=5)
    model = cf.models.create_model(name, num_classes=10, seed=0).eval()
    x = rng.standard_normal((1, 32, 32, 3)).astype(np.float32)
    wanted = cf.compile(model, device="numpy")(x)
    engine = cf.compile(model, device="cuda")
    for _ in range(2):  # as captured, and once more
        assert np.abs(engine(x) - wanted).max() <= 1e-5 * np.abs(wanted).max()
