"""Whole networks on a device: compiled ones against the interpreter, and a step of training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cnnfast as cf
from cnnfast import Tensor, nn
from cnnfast.cuda import asarray

NETWORKS = [
    ("lenet5", (2, 32, 32, 1)),
    ("mobilenet_v2_050", (1, 32, 32, 3)),
    ("efficientnet_b0", (1, 32, 32, 3)),
]


@pytest.mark.parametrize(("name", "shape"), NETWORKS)
def test_compiled_networks(shim: Any, rng: np.random.Generator, name: str, shape: Any) -> None:
    shim.set_schedule("shuffled", seed=5)
    model = cf.models.create_model(name, num_classes=10, seed=0).eval()
    x = rng.standard_normal(shape).astype(np.float32)
    wanted = cf.compile(model, device="numpy")(x)
    engine = cf.compile(model, device="cuda")
    for _ in range(2):  # as captured, and once more
        error = np.abs(engine(x) - wanted).max()
        assert error <= 1e-5 * np.abs(wanted).max()


class Several(nn.Module):
    """Every kind of convolution, and a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.DepthwiseConv2d(8, 3, stride=2, padding=1)
        self.pointwise = nn.Conv2d(8, 12, 1)
        self.up = nn.ConvTranspose2d(12, 5, 2, stride=2)
        self.linear = nn.Linear(5 * 36, 7)

    def forward(self, x: Any) -> Any:
        x = cf.ops.relu(self.norm(self.conv(x)))
        x = cf.ops.silu(self.pointwise(self.depthwise(x)))
        x = self.up(x)
        return self.linear(x.reshape(x.shape[0], -1))


def test_gradients_of_a_network(device: Any, rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 6, 6, 3)).astype(np.float32)
    start = rng.standard_normal((2, 7)).astype(np.float32)
    with cf.use_backend("numpy"):
        model = Several()
        state = {name: value.copy() for name, value in model.state_dict().items()}
        wanted = model(Tensor(x))
        wanted.backward(start)
    here = Several()
    here.load_state_dict(state)
    here.to("cuda")
    got = here(Tensor(asarray(x)))
    got.backward(asarray(start))
    np.testing.assert_allclose(got.numpy(), wanted.numpy(), rtol=1e-5, atol=1e-5)
    for name in ("running_mean", "running_var"):
        statistics = getattr(here.norm, name)
        np.testing.assert_allclose(statistics.numpy(), getattr(model.norm, name), rtol=1e-5, atol=1e-6)
    gradients = dict(model.named_parameters())
    for name, p in here.named_parameters():
        exact = gradients[name].grad
        # The convolution before a batch normalisation has a bias whose gradient is what rounding leaves of 0.
        bound = 2e-5 * max(1, np.abs(exact).max())
        np.testing.assert_allclose(p.grad.numpy(), exact, rtol=0, atol=bound, err_msg=name)
