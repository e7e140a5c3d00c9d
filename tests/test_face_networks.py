"""Encoders of faces: Inception-ResNet v1 and nn4.small2."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import pytest

import networks
from cnnfast import models
from cnnfast.models.inception_resnet import ConvBN, ResidualInception
from cnnfast.models.nn4_small2 import FaceInception
from cnnfast.nn import Sequential


def test_inception_resnet_sizes() -> None:
    model = models.inception_resnet_v1()
    assert networks.parameters(model) == 27_910_327
    assert networks.parameters(models.inception_resnet_v1(logits=False)) == 27_910_327 - 513 * 8631
    g = networks.traced(model, 1, 160, 160, 3)
    assert [v.shape for v in g.outputs] == [(1, 512)]
    assert networks.maps(g, "repeat_1") == (1, 17, 17, 256)
    assert networks.maps(g, "repeat_2") == (1, 8, 8, 896)
    assert networks.maps(g, "block8") == (1, 3, 3, 1792)
    g = networks.traced(models.inception_resnet_v1(10_575, classify=True), 1, 160, 160, 3)
    assert [v.shape for v in g.outputs] == [(1, 10_575)]
    with pytest.raises(ValueError, match="classify needs the classifier"):
        models.inception_resnet_v1(logits=False, classify=True)


def test_inception_resnet_names() -> None:
    state = {n: a.shape for n, a in models.inception_resnet_v1().state_dict(layout="torch").items()}
    assert state["conv2d_4b.conv.weight"] == (256, 192, 3, 3)
    assert state["repeat_1.4.branch2.2.bn.running_var"] == (32,)
    assert state["repeat_2.9.branch1.1.conv.weight"] == (128, 128, 1, 7)
    assert state["repeat_2.0.conv2d.bias"] == (896,)
    assert state["mixed_6a.branch1.2.conv.weight"] == (256, 192, 3, 3)
    assert state["mixed_7a.branch2.2.conv.weight"] == (256, 256, 3, 3)
    assert state["block8.branch1.2.conv.weight"] == (192, 192, 3, 1)
    assert state["last_linear.weight"] == (512, 1792)
    assert state["last_bn.running_mean"] == (512,)
    assert state["logits.weight"] == (8631, 512)


def test_nn4_small2_sizes() -> None:
    model = models.nn4_small2()
    # Running statistics count in the number that is commonly given.
    assert networks.parameters(model) == 3_733_968
    assert networks.parameters(model) + networks.statistics(model) == 3_743_280
    g = networks.traced(model, 2, 96, 96, 3)
    assert [v.shape for v in g.outputs] == [(2, 128)]
    shapes = {
        "maxpool": (12, 192),
        "inception3a": (12, 256),
        "inception3b": (12, 320),
        "inception3c": (6, 640),
        "inception4a": (6, 640),
        "inception4e": (3, 1024),
        "inception5a": (3, 736),
        "inception5b": (3, 736),
    }
    for scope, (rows, channels) in shapes.items():
        assert networks.maps(g, scope) == (2, rows, rows, channels)


@pytest.mark.parametrize(("name", "rows"), [("inception_resnet_v1", 80), ("nn4_small2", 96)])
def test_passes_change_nothing(name: str, rows: int) -> None:
    networks.check_passes(models.create_model(name, 40), (1, rows, rows, 3))


@pytest.mark.parametrize(("name", "rows"), [("inception_resnet_v1", 80), ("nn4_small2", 96)])
def test_backends_agree_and_encodings_have_length_1(backend: str, name: str, rows: int) -> None:
    model = models.create_model(name, 40)
    networks.check_backend(model, (2, rows, rows, 3))
    x = np.random.default_rng(0).uniform(-1, 1, (2, rows, rows, 3)).astype(np.float32)
    y = model(x)
    np.testing.assert_allclose((y**2).sum(axis=-1), 1, 0, 1e-6)
    assert np.abs(y[0] - y[1]).max() > 1e-6


def test_residual_inception_agrees_with_torch() -> None:
    torch = pytest.importorskip("torch")
    t = torch.nn

    def conv(i: int, o: int, k: int) -> Any:
        layers = {"conv": t.Conv2d(i, o, k, padding=k // 2, bias=False), "bn": t.BatchNorm2d(o, eps=0.001)}
        return t.Sequential(OrderedDict(layers | {"relu": t.ReLU()}))

    class Theirs(t.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branch0 = conv(10, 4, 1)
            self.branch1 = t.Sequential(conv(10, 5, 1), conv(5, 6, 3))
            self.conv2d = t.Conv2d(10, 10, 1)

        def forward(self, x: Any) -> Any:
            y = self.conv2d(torch.cat([self.branch0(x), self.branch1(x)], 1))
            return torch.relu(0.17 * y + x)

    chain = Sequential(ConvBN(10, 5, 1), ConvBN(5, 6, 3, padding=1))
    ours = networks.randomized(ResidualInception(10, 0.17, 10, ConvBN(10, 4, 1), chain))
    theirs = networks.load_torch(Theirs(), ours)
    x = np.random.default_rng(0).standard_normal((2, 7, 6, 10)).astype(np.float32)
    want = networks.from_torch(theirs(networks.to_torch(x)))
    np.testing.assert_allclose(ours(x), want, 0, 2e-6 * np.abs(want).max())


@pytest.mark.parametrize("pooling", ["max", "l2"])
def test_pooled_branch_lies_in_the_middle_of_zeros(backend: str, pooling: str) -> None:
    module = networks.randomized(FaceInception(5, ((3, 3, 4),), pooling, None, None))
    x = np.random.default_rng(0).uniform(0.5, 1, (1, 12, 12, 5)).astype(np.float32)
    y = module(x)[0, :, :, 4:]
    # 12 rows become 5 or 4; an odd rest puts its extra row at the end.
    rows = slice(3, 8) if pooling == "max" else slice(4, 8)
    assert (y[rows, rows] > 0).all()
    assert np.count_nonzero(y) == y[rows, rows].size
    window = x[0, :3, :3]
    want = window.max(axis=(0, 1)) if pooling == "max" else np.sqrt((window**2).sum(axis=(0, 1)))
    np.testing.assert_allclose(y[rows, rows][0, 0], want, 1e-6)
