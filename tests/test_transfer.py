"""Transfer learning: new classifiers, frozen parts, features kept in files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cnnfast as cf
from cnnfast import nn, ops
from cnnfast.errors import ShapeError
from cnnfast.models import transfer
from cnnfast.models.transfer import cached_features, classifier_of, freeze, heads, replace_head


class Block(nn.Module):
    def __init__(self, channels: int, filters: int) -> None:
        self.conv = nn.Conv2d(channels, filters, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(filters)

    def forward(self, x: Any) -> Any:
        return ops.relu(self.bn(self.conv(x)))


class Net(nn.Module):
    def __init__(self, num_classes: int = 7, aux: bool = False) -> None:
        self.num_classes = num_classes
        self.features = nn.Sequential(Block(3, 4), nn.MaxPool2d(2), Block(4, 5))
        if aux:
            self.AuxLogits = nn.Sequential(nn.Linear(5, 6), nn.Linear(6, num_classes))
        self.unused = nn.Identity()
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(80, 8, feature_map=(4, 4, 5)),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(8, num_classes, bias=False, init="glorot_uniform"),
        )

    def forward(self, x: Any) -> Any:
        return self.classifier(self.features(x))


def squeeze(num_classes: int = 7) -> nn.Module:
    """A classifier that is a 1x1 convolution, with layers after it."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.Conv2d(4, num_classes, 1, padding=1, bias=True),
        nn.ReLU(),
        nn.GlobalAvgPool2d(),
    )


@pytest.fixture
def x(rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal((5, 8, 8, 3)).astype(np.float32)


def made(**options: Any) -> nn.Module:
    """With statistics that are not those of the beginning."""
    model = Net(**options).initialize(3)
    rng = np.random.default_rng(4)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = rng.standard_normal(module.features).astype(np.float32)
            module.running_var = rng.uniform(0.5, 2, module.features).astype(np.float32)
    return model.eval()


# --- heads -------------------------------------------------------------------------------------------


def test_classifiers() -> None:
    assert classifier_of(Net())[0] == "classifier.4"
    assert classifier_of(squeeze())[0] == "1"
    assert [path for path, _ in heads(Net(aux=True))] == ["classifier.4", "AuxLogits.1"]
    assert heads(nn.Sequential(nn.Conv2d(3, 4, 3))) == []
    with pytest.raises(ValueError, match="came 0, a Conv2d"):
        classifier_of(nn.Sequential(nn.Conv2d(3, 4, 3)))
    with pytest.raises(ValueError, match="came nothing"):
        classifier_of(nn.ReLU())
    # A 1x1 convolution in the middle is no classifier.
    middle = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 9, 3))
    assert heads(middle) == []
    with pytest.raises(ValueError, match="came 1, a Conv2d"):
        replace_head(middle, 3)


def test_replace_head(x: np.ndarray) -> None:
    model = made(aux=True)
    before = {name: array.copy() for name, array in model.state_dict().items()}
    assert replace_head(model, 3, seed=1) is model
    assert model(x).shape == (5, 3)
    assert model.num_classes == 3
    after = model.state_dict()
    assert list(after) == list(before)
    changed = {name for name in after if after[name].shape != before[name].shape}
    assert changed == {"classifier.4.weight", "AuxLogits.1.weight", "AuxLogits.1.bias"}
    assert all(np.array_equal(after[name], before[name]) for name in after if name not in changed)
    new = classifier_of(model)[1]
    assert (new.path, new.bias, new.training) == ("classifier.4", None, False)


def test_values_depend_on_the_seed_alone() -> None:
    def value(seed: int) -> np.ndarray:
        return replace_head(Net().initialize(9), 3, seed=seed).state_dict()["classifier.4.weight"]

    assert np.array_equal(value(1), value(1))
    assert not np.array_equal(value(1), value(2))


def test_a_convolution_for_a_head(x: np.ndarray) -> None:
    model = replace_head(squeeze(), 2).eval()
    assert [type(m).__name__ for m in model] == ["Conv2d", "Conv2d", "ReLU", "GlobalAvgPool2d"]
    assert (model[1].weight.shape, model[1].padding, model[1].bias.shape) == ((1, 1, 4, 2), 1, (2,))
    assert model(x).shape[-1] == 2


def test_a_layer_by_name(x: np.ndarray) -> None:
    model = replace_head(made(aux=True), 9, layer="AuxLogits.1")
    assert [layer.out_features for _, layer in heads(model)] == [7, 9]
    for bad in ("", "features", "features.0.conv", "none"):
        with pytest.raises(ValueError, match="no dense layer and no 1x1"):
            replace_head(model, 3, layer=bad)


def test_the_feature_map_stays(x: np.ndarray) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 7, feature_map=(8, 8, 3)))
    assert replace_head(model, 3)[1].feature_map == (8, 8, 3)
    with pytest.raises(ValueError, match="single layer"):
        replace_head(nn.Linear(3, 4), 5)


def test_a_new_head_on_a_frozen_network_trains() -> None:
    model = Net().freeze()
    replace_head(model, 3)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["classifier.4.weight"]
    model.train()
    assert model.classifier[4].training
    assert not model.features.training


# --- frozen ------------------------------------------------------------------------------------------


def step(model: nn.Module) -> None:
    """What an optimiser and batch statistics do to whatever may change."""
    model.train()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data + np.float32(0.1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.training:
            module.running_mean = module.running_mean + np.float32(0.1)
            module.running_var = module.running_var * np.float32(1.1)
            module.num_batches_tracked = module.num_batches_tracked + 1


def changed_by_a_step(model: nn.Module) -> set[str]:
    before = {name: array.copy() for name, array in model.state_dict().items()}
    step(model)
    after = model.state_dict()
    return {name for name in after if after[name].tobytes() != before[name].tobytes()}


def test_frozen_tensors_keep_their_bits() -> None:
    model = made()
    assert freeze(model, "features") == [
        "features.0.conv.weight",
        "features.0.bn.weight",
        "features.0.bn.bias",
        "features.2.conv.weight",
        "features.2.bn.weight",
        "features.2.bn.bias",
    ]
    changed = changed_by_a_step(model)
    assert changed == {"classifier.1.weight", "classifier.1.bias", "classifier.4.weight"}


@pytest.mark.parametrize(
    ("patterns", "kept"),
    [
        (("*",), ""),
        (("features.0",), "features.2 classifier"),
        (("*.bn",), "features.0.conv features.2.conv classifier"),
        (("features.[02].conv", "classifier.1"), "features.0.bn features.2.bn classifier.4"),
    ],
)
def test_patterns(patterns: tuple[str, ...], kept: str) -> None:
    model = made()
    freeze(model, *patterns)
    changed = changed_by_a_step(model)
    assert changed == {name for name in model.state_dict() if name.startswith(tuple(kept.split()))}


def test_single_parameters_and_thawing() -> None:
    model = made()
    assert freeze(model, "classifier.1.weight") == ["classifier.1.weight"]
    assert "classifier.1.weight" not in changed_by_a_step(model)
    freeze(model, "*")
    assert changed_by_a_step(model) == set()
    freeze(model, "*", frozen=False)
    assert changed_by_a_step(model) == set(model.state_dict())
    with pytest.raises(ValueError, match="'layer1' meets no module"):
        freeze(model, "layer1")
    with pytest.raises(ValueError, match="at least one pattern"):
        freeze(model)


# --- features ----------------------------------------------------------------------------------------


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches that were run."""
    runs: list[int] = []
    from cnnfast import graph

    usual = graph.interpret

    def counted(g: Any, block: np.ndarray, **options: Any) -> Any:
        runs.append(len(block))
        return usual(g, block, **options)

    monkeypatch.setattr(graph, "interpret", counted)
    return runs


@pytest.mark.parametrize("ending", ["npz", "safetensors"])
def test_features_are_computed_once(
    ending: str, backend: str, x: np.ndarray, tmp_path: Path, computed: list[int]
) -> None:
    model, path = made(), tmp_path / f"f.{ending}"
    model.train()
    expected = made().features(x)
    first = cached_features(model, x, "features", path, batch=2)
    assert computed == [2, 2, 1]
    assert first.shape == (5, 4, 4, 5)
    assert np.array_equal(first, expected)
    again = cached_features(model, x, "features", path)
    assert computed == [2, 2, 1]
    assert np.array_equal(again, first)
    assert again.dtype == np.float32
    assert model.training
    assert model.features.training
    # The network works as before.
    assert model.eval()(x).shape == (5, 7)
    assert "forward" not in model.features.__dict__


def test_stale_features_are_computed_again(x: np.ndarray, tmp_path: Path, computed: list[int]) -> None:
    model, path = made(), tmp_path / "f.npz"

    def fresh(layer: str = "features", data: np.ndarray = x) -> bool:
        computed.clear()
        got = cached_features(model, data, layer, path)
        direct = made()
        direct.load_state_dict(model.state_dict())
        assert np.array_equal(got, direct.features(data) if layer == "features" else direct.features[0](data))
        return bool(computed)

    assert fresh()
    assert not fresh()
    assert fresh(data=x[:4])
    assert fresh(data=x[:4] + np.float32(1e-3))
    assert fresh("features.0")
    assert fresh()
    model.features[0].conv.weight.data = model.features[0].conv.weight.data * np.float32(1.001)
    assert fresh()
    model.features[2].bn.running_var = model.features[2].bn.running_var * np.float32(1.001)
    assert fresh()
    # The classifier has no part in it.
    model.classifier[1].weight.data = model.classifier[1].weight.data + np.float32(1)
    assert not fresh()
    for damaged in (b"", b"PK\x03\x04", path.read_bytes()[:-30]):
        path.write_bytes(damaged)
        assert fresh()
        assert not fresh()
    for foreign in ({"features": x}, {"key": x}, {"features": np.float32(1), "key": np.zeros(32, np.uint8)}):
        cf.save_weights(path, foreign)
        assert fresh()


def test_the_settings_of_layers_count(x: np.ndarray, tmp_path: Path, computed: list[int]) -> None:
    """Equal weights and shapes, but another operator."""
    a = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LeakyReLU(0.1)).initialize(0)
    b = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LeakyReLU(0.2)).initialize(0)
    first = cached_features(a, x, "1", tmp_path / "f.npz")
    second = cached_features(b, x, "1", tmp_path / "f.npz")
    assert len(computed) == 2
    assert not np.array_equal(first, second)


def test_layers_that_cannot_be_had(x: np.ndarray, tmp_path: Path) -> None:
    model, path = made(), tmp_path / "f.npz"
    with pytest.raises(ValueError, match=r"no layer 'feature'; nearest: features"):
        cached_features(model, x, "feature", path)
    with pytest.raises(ValueError, match="does not come to 'unused'"):
        cached_features(model, x, "unused", path)
    for bad in (x[0], x.astype(np.float64), x[:0]):
        with pytest.raises(ShapeError, match="cached_features: x must be"):
            cached_features(model, bad, "features", path)
    assert not path.exists()
    assert model(x).shape == (5, 7)


def test_only_public_names() -> None:
    assert set(transfer.__all__) == {"cached_features", "classifier_of", "freeze", "heads", "replace_head"}
