"""GoogLeNet in both forms."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import pytest

import networks
from cnnfast import models
from cnnfast.errors import WeightsError
from cnnfast.models.googlenet import GoogLeNet, InceptionModule


@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [
        ("googlenet", {}, 6_624_904),
        ("googlenet", {"aux_logits": True}, 13_004_888),
        ("googlenet_original", {}, 6_998_552),
        ("googlenet_original", {"aux_logits": True}, 13_378_280),
    ],
)
def test_parameters(name: str, options: dict[str, Any], parameters: int) -> None:
    assert networks.parameters(models.create_model(name, **options)) == parameters


def test_module_3a() -> None:
    module = InceptionModule(192, (64, 96, 128, 16, 32, 32)).initialize()
    assert networks.parameters(module) == 163_696
    g = networks.traced(module, 1, 28, 28, 192)
    assert g.outputs[0].shape == (1, 28, 28, 256)
    work = {n.scope: n.op.cost(n.spec).flops / 2 for n in g.nodes if n.op.name == "conv2d"}
    # A 5x5 convolution behind 1x1: 12.4 million multiplications instead of 120 million.
    assert (work["branch3.0.conv"], work["branch3.1.conv"]) == (2_408_448, 10_035_200)


@pytest.mark.parametrize(
    ("name", "macs"), [("googlenet", 1_498_376_192), ("googlenet_original", 1_582_671_872)]
)
def test_work_and_shapes(name: str, macs: int) -> None:
    g = networks.traced(models.create_model(name), 2, 224, 224, 3)
    assert [v.shape for v in g.outputs] == [(2, 1000)]
    assert networks.macs(g) == 2 * macs
    sizes = {"conv1": 112, "maxpool1": 56, "conv3": 56, "maxpool2": 28, "inception3b": 28, "inception4e": 14}
    for scope, rows in sizes.items():
        assert networks.maps(g, scope)[1:3] == (rows, rows)
    assert networks.maps(g, "inception5b") == (2, 7, 7, 1024)


@pytest.mark.parametrize("name", ["googlenet", "googlenet_original"])
def test_auxiliary_heads(name: str) -> None:
    options: dict[str, Any] = {"aux_logits": True, "num_classes": 7, "dropout": 0.0, "dropout_aux": 0.0}
    g = networks.traced(models.create_model(name, **options), 1, 224, 224, 3)
    assert len(g.outputs) == 1
    g = networks.traced(models.create_model(name, return_aux=True, **options), 1, 224, 224, 3)
    assert [v.shape for v in g.outputs] == [(1, 7)] * 3
    # The second head reads 4d, the first 4a.
    order = list(dict.fromkeys(n.scope.split(".")[0] for n in g.nodes))
    assert order[order.index("aux1") - 1] == "inception4a"
    assert order[order.index("aux2") - 1] == "inception4d"
    with pytest.raises(ValueError, match="return_aux needs the heads"):
        models.create_model(name, return_aux=True)


def test_heads_answer_in_training_mode_only() -> None:
    model = models.googlenet(3, aux_logits=True, dropout=0.0, dropout_aux=0.0)
    x = np.ones((1, 64, 64, 3), np.float32)
    assert [y.shape for y in model(x)] == [(1, 3)] * 3
    assert model.eval()(x).shape == (1, 3)


def test_windows_of_the_first_head_as_in_torch() -> None:
    torch = pytest.importorskip("torch")
    from cnnfast.models.googlenet import _four_by_four

    for rows, columns in ((14, 14), (4, 9), (15, 17)):
        x = np.random.default_rng(0).standard_normal((2, rows, columns, 5)).astype(np.float32)
        want = torch.nn.functional.adaptive_avg_pool2d(networks.to_torch(x), 4)
        np.testing.assert_allclose(_four_by_four(x), networks.from_torch(want), 0, 1e-6)


def test_names_of_torchvision() -> None:
    state = {n: a.shape for n, a in models.googlenet(aux_logits=True).state_dict(layout="torch").items()}
    assert state["conv1.conv.weight"] == (64, 3, 7, 7)
    assert state["inception3a.branch2.1.conv.weight"] == (128, 96, 3, 3)
    assert state["inception5b.branch3.1.conv.weight"] == (128, 48, 3, 3)
    assert state["inception4b.branch4.1.bn.running_var"] == (64,)
    assert state["aux1.conv.bn.weight"] == (128,)
    assert state["aux2.fc1.weight"] == (1024, 2048)
    assert state["fc.weight"] == (1000, 1024)


def test_a_file_with_heads_fits_a_network_without() -> None:
    full = models.googlenet(5, aux_logits=True, seed=3)
    state = full.state_dict(layout="torch")
    bare = models.create_model("googlenet", 5, weights=state).eval()
    x = np.random.default_rng(0).uniform(-1, 1, (1, 64, 64, 3)).astype(np.float32)
    np.testing.assert_array_equal(bare(x), full.eval()(x))
    with pytest.raises(WeightsError, match=r"aux1\.conv\.conv\.weight is missing"):
        full.load_state_dict(bare.state_dict())


@pytest.mark.parametrize("batch_norm", [True, False])
def test_passes_change_nothing(batch_norm: bool) -> None:
    options: dict[str, Any] = {"aux_logits": True, "return_aux": True} if batch_norm else {}
    better = networks.check_passes(GoogLeNet(9, batch_norm=batch_norm, **options), (1, 64, 64, 3))
    assert not any(n.op.name == "relu" for n in better.nodes)


@pytest.mark.parametrize("name", ["googlenet", "googlenet_original"])
def test_backends_agree(backend: str, name: str) -> None:
    networks.check_backend(models.create_model(name, 9), (2, 64, 64, 3))


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("batch_norm", [True, False])
def test_inception_module_agrees_with_torch(kernel: int, batch_norm: bool) -> None:
    torch = pytest.importorskip("torch")
    t = torch.nn

    def conv(i: int, o: int, k: int) -> Any:
        layers = {"conv": t.Conv2d(i, o, k, padding=k // 2, bias=not batch_norm)}
        if batch_norm:
            layers["bn"] = t.BatchNorm2d(o, eps=0.001)
        return t.Sequential(OrderedDict(layers | {"relu": t.ReLU()}))

    class Theirs(t.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branch1 = conv(12, 4, 1)
            self.branch2 = t.Sequential(conv(12, 5, 1), conv(5, 6, 3))
            self.branch3 = t.Sequential(conv(12, 2, 1), conv(2, 3, kernel))
            self.branch4 = t.Sequential(t.MaxPool2d(3, 1, 1, ceil_mode=True), conv(12, 7, 1))

        def forward(self, x: Any) -> Any:
            return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)

    ours = InceptionModule(12, (4, 5, 6, 2, 3, 7), batch_norm=batch_norm, third_kernel=kernel)
    networks.randomized(ours)
    theirs = networks.load_torch(Theirs(), ours)
    x = np.random.default_rng(0).standard_normal((2, 9, 7, 12)).astype(np.float32)
    want = networks.from_torch(theirs(networks.to_torch(x)))
    np.testing.assert_allclose(ours(x), want, 0, 2e-6 * np.abs(want).max())
