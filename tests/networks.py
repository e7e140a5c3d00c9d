"""Networks made fit for tests: random statistics, double precision, small heads."""

from __future__ import annotations

from typing import Any

import numpy as np

import cnnfast as cf
from cnnfast import nn

# Dense layers as wide as published would take most of the time and show nothing new.
OPTIONS: dict[str, dict[str, Any]] = {
    name: {"hidden": 24}
    for name in (
        "alexnet", "alexnet_2012",
        "vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn",
    )
}  # fmt: skip
# Networks that take one size of pictures alone; others take the small size of a test.
SIZES = {
    "alexnet": (63, 63, 3),
    "alexnet_2012": (67, 67, 3),
    "convnet39": (39, 39, 3),
    "lenet5": (32, 32, 1),
    "lenet5_1998": (32, 32, 1),
    "lenet5_rgb": (32, 32, 3),
    "squeezenet1_0": (47, 47, 3),
    "window_net": (14, 14, 3),
}


def small(name: str, size: int = 32) -> tuple[nn.Module, tuple[int, int, int]]:
    """A network of the registry for few classes, and a small input shape that it takes."""
    model = cf.models.create_model(name, num_classes=10, seed=3, **OPTIONS.get(name, {}))
    return model.eval(), SIZES.get(name, (size, size, 3))


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
