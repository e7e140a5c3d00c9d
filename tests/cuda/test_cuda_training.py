"""Whole networks compiled for a device, against the interpreter; and steps of training there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cnnfast as cf
from cnnfast import nn, ops
from cnnfast.cuda import DeviceArray, asarray


class Residual(nn.Module):
    """Two blocks of a small ResNet, one with a stride; odd numbers of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 9, 3, padding=1, bias=False), nn.BatchNorm2d(9)
        self.a, self.a_norm = nn.Conv2d(9, 17, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(17)
        self.b, self.b_norm = nn.Conv2d(17, 17, 3, padding=1, bias=False), nn.BatchNorm2d(17)
        self.short = nn.Conv2d(9, 17, 1, stride=2)
        self.head = nn.Linear(17, 5)

    def forward(self, x: Any) -> Any:
        x = ops.relu(self.norm(self.stem(x)))
        y = self.b_norm(self.b(ops.relu(self.a_norm(self.a(x)))))
        x = ops.relu(y + self.short(x))
        return self.head(ops.flatten(ops.global_avg_pool2d(x)))


class Inverted(nn.Module):
    """An inverted residual of MobileNetV2 with ReLU6, and squeeze-and-excitation gates."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.expand_norm = nn.Conv2d(8, 24, 1, bias=False), nn.BatchNorm2d(24)
        self.depthwise, self.norm = nn.Conv2d(24, 24, 3, padding=1, groups=24, bias=False), nn.BatchNorm2d(24)
        self.squeeze, self.excite = nn.Conv2d(24, 6, 1), nn.Conv2d(6, 24, 1)
        self.project, self.project_norm = nn.Conv2d(24, 8, 1, bias=False), nn.BatchNorm2d(8)

    def forward(self, x: Any) -> Any:
        y = ops.relu6(self.expand_norm(self.expand(x)))
        y = ops.relu6(self.norm(self.depthwise(y)))
        gates = ops.global_avg_pool2d(y)
        gates = gates.reshape(gates.shape[0], 1, 1, 24)
        y = y * ops.sigmoid(self.excite(ops.silu(self.squeeze(gates))))
        return x + self.project_norm(self.project(y))


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
def test_networks(device: Any, rng: np.random.Generator, name: str, dtype: str, error: float) -> None:
    make, shape = NETWORKS[name]
    model = _statistics(make(), rng)
    x = rng.standard_normal(shape).astype(np.float32)
    wanted = cf.compile(model, device="numpy")(x)
    engine = cf.compile(model, shape, device="cuda", dtype=dtype)
    first = engine(x)
    assert np.abs(first - wanted).max() <= error * np.abs(wanted).max()
    engine(-x)
    np.testing.assert_array_equal(engine(asarray(x)).numpy(), first)


def test_a_step_of_training(shim: Any, rng: np.random.Generator) -> None:
    """Forward, backward with batch statistics, and the step of an optimiser, as on the host."""
    x = rng.standard_normal((4, 7, 9, 3)).astype(np.float32)
    labels = np.array([0, 3, 1, 4])
    host, here = Residual(), Residual()
    host.initialize(3)
    here.initialize(3)
    here.to("cuda")
    losses = []
    for model, given in ((host, x), (here, asarray(x))):
        optimizer = cf.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        losses.append([])
        for _ in range(3):
            loss = cf.losses.cross_entropy(model(cf.Tensor(given)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(float(loss.numpy()))
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    assert all(type(p.data) is DeviceArray for p in here.parameters())
    for (name, a), b in zip(here.state_dict().items(), host.state_dict().values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4, err_msg=name)
