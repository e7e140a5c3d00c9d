"""Networks made fit for tests: random statistics, double precision, small heads."""

from __future__ import annotations

from typing import Any

import numpy as np

import cnnfast as cf
from cnnfast import nn
from cnnfast.models.registry import entry

# Dense layers as wide as published would take most of the time and show nothing new.
OPTIONS: dict[str, dict[str, Any]] = {
    name: {"hidden": 24}
    for name in (
        "alexnet", "alexnet_2012",
        "vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn",
    )
}  # fmt: skip
SIZES = (32, 48, 64, 96, 128)


def small(name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    """A network of the registry for ten classes, and the smallest input shape of a list that it takes."""
    model = cf.models.create_model(name, num_classes=10, seed=3, **OPTIONS.get(name, {})).eval()
    usual = entry(name).input_size
    for shape in (*((size, size, usual[2]) for size in SIZES), usual):
        try:
            cf.graph.trace(model, (1, *shape))
        except cf.errors.ShapeError:
            continue
        return model, shape
    raise AssertionError(f"{name} does not take its usual input")


def randomize(model: nn.Module, rng: np.random.Generator) -> nn.Module:
    """Statistics, factors, shifts and biases as after training: none of them 0 or 1."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            n = module.features
            module.running_mean = rng.normal(0, 0.2, n).astype(np.float32)
            module.running_var = rng.uniform(0.5, 2, n).astype(np.float32)
            module.weight.data = rng.uniform(0.6, 1.4, n).astype(np.float32)
            module.bias.data = rng.normal(0, 0.2, n).astype(np.float32)
        elif getattr(module, "bias", None) is not None:
            module.bias.data = rng.normal(0, 0.2, module.bias.shape).astype(np.float32)
    return model


def double(model: nn.Module) -> nn.Module:
    """The same numbers in float64, so that rounding hides nothing."""
    for module in model.modules():
        for parameter in module._parameters.values():
            if parameter.dtype != np.float64:
                data = parameter.data.astype(np.float64)
                parameter.dtype = data.dtype
                parameter.data = data
        for name, buffer in module._buffers.items():
            if buffer.dtype == np.float32:
                module._buffers[name] = buffer.astype(np.float64)
    return model
