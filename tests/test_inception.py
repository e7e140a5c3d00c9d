"""Inception v3."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import pytest

import networks
from cnnfast import models
from cnnfast.models.inception import InceptionC, InceptionE


@pytest.mark.parametrize(("aux", "parameters"), [(False, 23_834_568), (True, 27_161_264)])
def test_parameters(aux: bool, parameters: int) -> None:
    assert networks.parameters(models.inception_v3(aux_logits=aux)) == parameters


def test_work_and_shapes() -> None:
    g = networks.traced(models.inception_v3(aux_logits=True), 1, 299, 299, 3)
    assert [v.shape for v in g.outputs] == [(1, 1000)]
    assert networks.macs(g) == 5_713_216_096
    assert networks.maps(g, "Conv2d_4a_3x3") == (1, 71, 71, 192)
    assert networks.maps(g, "Mixed_5d") == (1, 35, 35, 288)
    assert networks.maps(g, "Mixed_6e") == (1, 17, 17, 768)
    assert networks.maps(g, "Mixed_7c") == (1, 8, 8, 2048)


def test_auxiliary_head() -> None:
    g = networks.traced(models.inception_v3(7, aux_logits=True, return_aux=True), 1, 299, 299, 3)
    assert [v.shape for v in g.outputs] == [(1, 7), (1, 7)]
    order = list(dict.fromkeys(n.scope.split(".")[0] for n in g.nodes))
    assert order[order.index("AuxLogits") - 1] == "Mixed_6e"
    with pytest.raises(ValueError, match="return_aux needs the head"):
        models.inception_v3(return_aux=True)
    state = models.inception_v3(7, aux_logits=True).state_dict(layout="torch")
    assert networks.parameters(models.create_model("inception_v3", 7, weights=state)) < 23_000_000


def test_names_of_torchvision() -> None:
    state = {n: a.shape for n, a in models.inception_v3(aux_logits=True).state_dict(layout="torch").items()}
    assert state["Conv2d_1a_3x3.conv.weight"] == (32, 3, 3, 3)
    assert state["Mixed_5b.branch5x5_2.conv.weight"] == (64, 48, 5, 5)
    assert state["Mixed_6a.branch3x3dbl_3.bn.running_mean"] == (96,)
    assert state["Mixed_6b.branch7x7dbl_5.conv.weight"] == (192, 128, 1, 7)
    assert state["Mixed_6b.branch7x7_3.conv.weight"] == (192, 128, 7, 1)
    assert state["Mixed_7a.branch7x7x3_4.conv.weight"] == (192, 192, 3, 3)
    assert state["Mixed_7c.branch3x3dbl_3b.conv.weight"] == (384, 384, 3, 1)
    assert state["AuxLogits.conv1.conv.weight"] == (768, 128, 5, 5)
    assert state["fc.weight"] == (1000, 2048)


def test_passes_change_nothing() -> None:
    better = networks.check_passes(models.inception_v3(9), (1, 75, 75, 3))
    assert not any(n.op.name == "relu" for n in better.nodes)


def test_backends_agree(backend: str) -> None:
    networks.check_backend(models.inception_v3(9), (1, 75, 75, 3))


def _torch_conv(t: Any, i: int, o: int, k: tuple[int, int]) -> Any:
    layers = {"conv": t.Conv2d(i, o, k, padding=(k[0] // 2, k[1] // 2), bias=False)}
    return t.Sequential(OrderedDict(layers | {"bn": t.BatchNorm2d(o, eps=0.001), "relu": t.ReLU()}))


@pytest.mark.parametrize("kind", ["C", "E"])
def test_modules_agree_with_torch(kind: str) -> None:
    torch = pytest.importorskip("torch")
    t = torch.nn
    one, row, column, three = (1, 1), (1, 7), (7, 1), (3, 3)
    c_layers = {
        "branch1x1": (20, 192, one),
        "branch7x7_1": (20, 6, one),
        "branch7x7_2": (6, 6, row),
        "branch7x7_3": (6, 192, column),
        "branch7x7dbl_1": (20, 6, one),
        "branch7x7dbl_2": (6, 6, column),
        "branch7x7dbl_3": (6, 6, row),
        "branch7x7dbl_4": (6, 6, column),
        "branch7x7dbl_5": (6, 192, row),
        "branch_pool": (20, 192, one),
    }
    e_layers = {
        "branch1x1": (20, 320, one),
        "branch3x3_1": (20, 384, one),
        "branch3x3_2a": (384, 384, (1, 3)),
        "branch3x3_2b": (384, 384, (3, 1)),
        "branch3x3dbl_1": (20, 448, one),
        "branch3x3dbl_2": (448, 384, three),
        "branch3x3dbl_3a": (384, 384, (1, 3)),
        "branch3x3dbl_3b": (384, 384, (3, 1)),
        "branch_pool": (20, 192, one),
    }

    class Theirs(t.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, (i, o, k) in (c_layers if kind == "C" else e_layers).items():
                setattr(self, name, _torch_conv(t, i, o, k))

        def forward(self, x: Any) -> Any:
            pooled = self.branch_pool(torch.nn.functional.avg_pool2d(x, 3, 1, 1))
            if kind == "C":
                once = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
                twice = self.branch7x7dbl_2(self.branch7x7dbl_1(x))
                twice = self.branch7x7dbl_5(self.branch7x7dbl_4(self.branch7x7dbl_3(twice)))
                return torch.cat([self.branch1x1(x), once, twice, pooled], 1)
            three = self.branch3x3_1(x)
            double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
            parts = [self.branch1x1(x), self.branch3x3_2a(three), self.branch3x3_2b(three)]
            parts += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double), pooled]
            return torch.cat(parts, 1)

    ours = networks.randomized(InceptionC(20, 6) if kind == "C" else InceptionE(20))
    theirs = networks.load_torch(Theirs(), ours)
    x = np.random.default_rng(0).standard_normal((2, 9, 7, 20)).astype(np.float32)
    want = networks.from_torch(theirs(networks.to_torch(x)))
    np.testing.assert_allclose(ours(x), want, 0, 4e-6 * np.abs(want).max())
