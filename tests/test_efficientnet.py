"""EfficientNet and its scaling."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import networks
from cnnfast import models
from cnnfast.models import efficientnet
from cnnfast.models.efficientnet import MBConv, StochasticDepth, compound_scaling, round_channels
from cnnfast.models.registry import entry

# Parameters, running statistics, and multiply-adds for one picture of the network's own size.
SIZES = {
    "efficientnet_b0": (5_288_548, 42_016, 385_814_752),
    "efficientnet_b1": (7_794_184, 62_048, 686_802_832),
    "efficientnet_b2": (9_109_994, 67_568, 1_087_529_456),
    "efficientnet_b3": (12_233_232, 87_296, 1_827_141_392),
    "efficientnet_b4": (19_341_616, 125_200, 4_393_771_024),
    "efficientnet_b5": (30_389_784, 172_736, 10_266_384_752),
    "efficientnet_b6": (43_040_704, 224_432, 19_067_593_536),
    "efficientnet_b7": (66_347_960, 310_720, 37_745_884_192),
    "efficientnet_lite0": (4_652_008, 42_016, 385_187_552),
    "tf_efficientnet_lite0": (4_652_008, 42_016, 385_187_552),
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes(name: str) -> None:
    model = models.create_model(name)
    parameters, statistics, macs = SIZES[name]
    assert networks.parameters(model) == parameters
    assert networks.statistics(model) == statistics
    g = networks.traced(model, 1, *entry(name).input_size)
    assert [v.shape for v in g.outputs] == [(1, 1000)]
    assert networks.macs(g) == macs


def test_compound_scaling() -> None:
    base = compound_scaling(0)
    assert (base.depth, base.width, base.resolution, base.flops) == (1, 1, 224, 1)
    one = compound_scaling(1)
    assert (one.depth, one.width, one.resolution) == (1.2, 1.1, round(224 * 1.15))
    assert one.flops == pytest.approx(1.2 * 1.1**2 * 1.15**2)
    assert one.flops == pytest.approx(2, abs=0.1)
    assert compound_scaling(3).flops == pytest.approx(one.flops**3)
    assert compound_scaling(2, alpha=1, beta=2, gamma=1, resolution=32) == efficientnet.Scaling(1, 4, 32, 16)


def test_scaling_is_of_channels_and_blocks_not_of_kernels() -> None:
    state = {n: a.shape for n, a in models.efficientnet_b7().state_dict(layout="torch").items()}
    assert state["features.0.0.weight"] == (64, 3, 3, 3)
    assert state["features.3.0.block.1.0.weight"] == (288, 1, 5, 5)
    assert state["features.8.0.weight"] == (2560, 640, 1, 1)
    assert sum(n.startswith("features.6.") and n.endswith("fc1.weight") for n in state) == 13


@pytest.mark.parametrize(
    ("channels", "width", "rounded"),
    [(32, 1.0, 32), (32, 1.1, 32), (40, 1.1, 48), (320, 1.4, 448), (16, 0.1, 8), (24, 0.75, 24), (11, 1, 16)],
)
def test_round_channels(channels: int, width: float, rounded: int) -> None:
    assert round_channels(channels, width) == rounded


def test_constants_of_the_normalisations() -> None:
    for name, eps, momentum in (("efficientnet_b4", 1e-5, 0.1), ("efficientnet_b5", 1e-3, 0.01)):
        norm = models.create_model(name).features[0][1]
        assert (norm.eps, norm.momentum) == (eps, momentum)


def test_names_of_torchvision() -> None:
    state = {n: a.shape for n, a in models.efficientnet_b0().state_dict(layout="torch").items()}
    assert state["features.0.1.running_mean"] == (32,)
    # The first stage does not expand, so that its blocks have one part less.
    assert state["features.1.0.block.0.0.weight"] == (32, 1, 3, 3)
    assert state["features.1.0.block.1.fc1.weight"] == (8, 32, 1, 1)
    assert state["features.1.0.block.2.1.weight"] == (16,)
    assert state["features.2.0.block.0.0.weight"] == (96, 16, 1, 1)
    assert state["features.2.0.block.2.fc2.bias"] == (96,)
    assert state["features.7.0.block.3.0.weight"] == (320, 1152, 1, 1)
    assert state["classifier.1.weight"] == (1000, 1280)


def test_names_of_timm() -> None:
    state = {n: a.shape for n, a in models.tf_efficientnet_lite0().state_dict(layout="torch").items()}
    assert state["conv_stem.weight"] == (32, 3, 3, 3)
    assert state["blocks.0.0.conv_dw.weight"] == (32, 1, 3, 3)
    assert state["blocks.0.0.conv_pw.weight"] == (16, 32, 1, 1)
    assert state["blocks.0.0.bn2.weight"] == (16,)
    assert state["blocks.1.0.conv_pwl.weight"] == (24, 96, 1, 1)
    assert state["blocks.6.0.bn3.running_var"] == (320,)
    assert state["conv_head.weight"] == (1280, 320, 1, 1)
    assert state["classifier.weight"] == (1000, 1280)


def test_preprocessing_of_each() -> None:
    for name in SIZES:
        known = entry(name)
        for pretrained in known.weights.values():
            assert pretrained.input_size == known.input_size[:2]
            assert pretrained.resize >= pretrained.input_size[0]
            assert pretrained.url.endswith(f"-{pretrained.sha256}.pth")
    assert entry("efficientnet_b1").weights["torchvision"].interpolation == "bilinear"
    assert entry("efficientnet_b3").weights["torchvision"].interpolation == "bicubic"


def test_stochastic_depth_is_the_identity_in_use() -> None:
    x = np.ones((2, 3, 3, 4), np.float32)
    np.testing.assert_array_equal(StochasticDepth(0.5).eval()(x), x)
    assert "p 0.5" in repr(StochasticDepth(0.5))
    with pytest.raises(ValueError, match="below 1"):
        StochasticDepth(1.0)
    drops = [m.p for m in models.efficientnet_b0().modules() if isinstance(m, StochasticDepth)]
    assert drops == pytest.approx([0.2 * i / 16 for i in range(16)])


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_lite0", "tf_efficientnet_lite0"])
def test_passes_change_nothing(name: str) -> None:
    better = networks.check_passes(models.create_model(name, 9), (1, 48, 48, 3))
    # Shortcuts and activations are parts of convolutions now.
    assert not any(n.op.name in ("add", "silu", "relu6") for n in better.nodes)


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_lite0", "tf_efficientnet_lite0"])
def test_backends_agree(backend: str, name: str) -> None:
    networks.check_backend(models.create_model(name, 9), (2, 48, 40, 3))


@pytest.mark.parametrize(
    ("expansion", "kernel", "stride", "c_out"), [(6, 5, 1, 16), (6, 3, 2, 24), (1, 3, 1, 16), (4, 5, 1, 24)]
)
def test_mbconv_agrees_with_torch(expansion: int, kernel: int, stride: int, c_out: int) -> None:
    torch = pytest.importorskip("torch")
    t = torch.nn

    class Squeeze(t.Module):
        def __init__(self, c: int, squeezed: int) -> None:
            super().__init__()
            self.fc1, self.fc2 = t.Conv2d(c, squeezed, 1), t.Conv2d(squeezed, c, 1)

        def forward(self, x: Any) -> Any:
            gates = self.fc1(x.mean((2, 3), keepdim=True))
            return x * torch.sigmoid(self.fc2(t.functional.silu(gates)))

    def conv(i: int, o: int, k: int, s: int = 1, groups: int = 1, silu: bool = True) -> Any:
        layers = [t.Conv2d(i, o, k, s, k // 2, groups=groups, bias=False), t.BatchNorm2d(o, eps=1e-3)]
        return t.Sequential(*layers, *[t.SiLU()] * silu)

    class Theirs(t.Module):
        def __init__(self) -> None:
            super().__init__()
            inner = 16 * expansion
            self.block = t.Sequential(
                *[conv(16, inner, 1)] * (expansion > 1),
                conv(inner, inner, kernel, stride, groups=inner),
                Squeeze(inner, 4),
                conv(inner, c_out, 1, silu=False),
            )

        def forward(self, x: Any) -> Any:
            y = self.block(x)
            return x + y if y.shape == x.shape else y

    ours = networks.randomized(MBConv(expansion, kernel, stride, 16, c_out, norm={"eps": 1e-3}))
    theirs = networks.load_torch(Theirs(), ours)
    x = np.random.default_rng(0).standard_normal((2, 11, 8, 16)).astype(np.float32)
    want = networks.from_torch(theirs(networks.to_torch(x)))
    np.testing.assert_allclose(ours(x), want, 0, 4e-6 * np.abs(want).max())
