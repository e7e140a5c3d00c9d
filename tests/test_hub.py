"""Weights by name and from files, fitted to a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cnnfast as cf
from cnnfast import nn
from cnnfast.errors import WeightsError
from cnnfast.models import registry
from cnnfast.models.registry import ModelEntry, Pretrained
from cnnfast.weights import hub
from cnnfast.weights.hub import fit, load_into
from processes import SANITIZED, output_of


class Net(nn.Module):
    def __init__(self, num_classes: int, aux: bool = False) -> None:
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.squeeze = nn.Conv2d(4, 4, 1)
        if aux:
            self.aux1 = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, num_classes))
        self.fc = nn.Linear(16, num_classes, feature_map=(2, 2, 4))

    def forward(self, x: Any) -> Any:
        return self.fc(nn.Flatten()(self.squeeze(self.bn(self.conv(x)))))


def build(num_classes: int = 7, aux: bool = False) -> nn.Module:
    return Net(num_classes, aux)


def theirs(name: str) -> str:
    return "" if name == "unused" else name.replace("stem.", "conv.")


@pytest.fixture
def state(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Weights of a network with auxiliary head, in torch's layout."""
    return {
        name: rng.standard_normal(array.shape).astype(array.dtype) if array.ndim else array
        for name, array in build(aux=True).state_dict("torch").items()
    }


def entry_of(**weights: Pretrained) -> ModelEntry:
    return ModelEntry("net", build, (2, 2, 3), 7, "classification", weights, "")


def holds(model: nn.Module, state: dict[str, np.ndarray], *apart: str) -> bool:
    came = model.state_dict("torch")
    return all(np.array_equal(came[name], state[name]) == (name not in apart) for name in came)


@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
def test_a_file(state: dict[str, np.ndarray], tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"w{ending}"
    cf.save_weights(path, state)
    for weights in (path, str(path)):
        model = build(aux=True)
        assert load_into(model, entry_of(), weights) == []
        assert holds(model, state)
    with pytest.raises(FileNotFoundError):
        load_into(build(), entry_of(), str(tmp_path / f"none{ending}"))


def test_prefix_of_data_parallel(state: dict[str, np.ndarray]) -> None:
    model = build(aux=True)
    fit(model, entry_of(), {f"module.{name}": array for name, array in state.items()})
    assert holds(model, state)
    mixed = {f"module.{name}": array for name, array in state.items()} | {"conv.bias": state["conv.bias"]}
    with pytest.raises(WeightsError, match="is not part of this network"):
        fit(build(aux=True), entry_of(), mixed)


def test_auxiliary_heads_that_are_not_there(state: dict[str, np.ndarray]) -> None:
    model = build()
    assert fit(model, entry_of(), state) == []
    assert holds(model, state)
    with pytest.raises(WeightsError, match=r"aux1\.0\.weight is missing"):
        fit(build(aux=True), entry_of(), {k: v for k, v in state.items() if "aux" not in k})


def test_another_number_of_classes(state: dict[str, np.ndarray]) -> None:
    model = build(3, aux=True)
    apart = ["fc.weight", "fc.bias", "aux1.1.weight", "aux1.1.bias"]
    assert fit(model, entry_of(), state) == apart
    before = build(3, aux=True).initialize(0).state_dict("torch")
    # Only those that were left out are as before (zeros of a bias apart, they are drawn by seed and name).
    model.initialize(0)
    fit(model, entry_of(), state)
    came = model.state_dict("torch")
    for name in came:
        assert np.array_equal(came[name], before[name] if name in apart else state[name]), name


def test_other_classes_unasked_are_an_error(state: dict[str, np.ndarray]) -> None:
    state["fc.weight"], state["fc.bias"] = state["fc.weight"][:5], state["fc.bias"][:5]
    model = build().initialize(0)
    with pytest.raises(WeightsError, match="5 outputs: give num_classes"):
        fit(model, entry_of(), state)
    assert holds(model, build().initialize(0).state_dict("torch"))
    assert fit(build(5), entry_of(), state) == []


def test_only_the_classifier_may_differ(state: dict[str, np.ndarray]) -> None:
    for name in ("conv.weight", "squeeze.weight"):
        with pytest.raises(WeightsError, match=rf"{name} has shape .*, expected"):
            fit(build(3), entry_of(), state | {name: state[name][:2]})
    with pytest.raises(WeightsError, match=r"fc\.weight has shape"):
        fit(build(3), entry_of(), state | {"fc.weight": state["fc.weight"][:, :3]})
    del state["bn.running_mean"]
    with pytest.raises(WeightsError, match="running_mean is missing"):
        fit(build(3), entry_of(), state)


def test_names_of_others(state: dict[str, np.ndarray], tmp_path: Path) -> None:
    known = entry_of(plain=Pretrained(), theirs=Pretrained(rename=theirs))
    other = {name.replace("conv.", "stem."): array for name, array in state.items()}
    other["unused"] = np.zeros(3, np.float32)
    model = build()
    fit(model, known, other)
    assert holds(model, state)
    fit(model, known, state)
    with pytest.raises(WeightsError, match="unused is not part"):
        fit(model, entry_of(), other)


def test_by_name(state: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cf.save_weights(tmp_path / "w.safetensors", state)
    asked: list[tuple[str, str]] = []
    monkeypatch.setattr(hub, "fetch", lambda *a: asked.append(a) or tmp_path / "w.safetensors")
    known = entry_of(
        torchvision=Pretrained(url="https://example.invalid/net-0123.safetensors", sha256="0123"),
        unknown=Pretrained(),
    )
    model = build()
    load_into(model, known, "torchvision")
    assert holds(model, state)
    assert asked == [("https://example.invalid/net-0123.safetensors", "0123")]
    with pytest.raises(WeightsError, match="no address is known"):
        load_into(model, known, "unknown")
    with pytest.raises(WeightsError, match=r"neither registered \('torchvision', 'unknown' are\)"):
        load_into(model, known, "imagenet")


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("timm/net.a1_in1k", "https://huggingface.co/timm/net.a1_in1k/resolve/main/model.safetensors"),
        ("a/b@v1.0", "https://huggingface.co/a/b/resolve/v1.0/model.safetensors"),
    ],
)
def test_by_repository(
    name: str, address: str, state: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cf.save_weights(tmp_path / "w.npz", state)
    asked: list[str] = []
    monkeypatch.setattr(hub, "fetch", lambda url: asked.append(url) or tmp_path / "w.npz")
    model = build()
    load_into(model, entry_of(), name)
    assert asked == [address]
    assert holds(model, state)
    for bad in ("a/b/c", "../b", "a/..", "a/b@../c", "a b/c", "/a"):
        with pytest.raises((WeightsError, OSError)):
            load_into(model, entry_of(), bad)
    assert len(asked) == 1


def test_create_model(state: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.list_models()  # all are registered before the list is copied
    monkeypatch.setattr(registry, "_MODELS", dict(registry._MODELS))
    make = registry.register_model(input_size=(2, 2, 3), name="hub_test_net")(build)
    cf.save_weights(tmp_path / "w.npz", state)
    assert holds(make(weights=tmp_path / "w.npz"), state)
    assert holds(cf.models.create_model("hub_test_net", weights=str(tmp_path / "w.npz")), state)
    with pytest.raises(WeightsError, match="hub_test_net: "):
        make(num_classes=3, weights="imagenet")


def test_real_weights(assets: Path) -> None:
    if "mobilenet_v2" not in cf.models.list_models():
        pytest.skip("mobilenet_v2 is not registered")
    path = assets / "models" / "mobilenet_v2-b0353104.pth"
    model = cf.models.create_model("mobilenet_v2", weights=path)
    expected = cf.load_weights(path)
    assert holds(model, expected)
    model = cf.models.create_model("mobilenet_v2", num_classes=3, weights=path)
    assert np.array_equal(model.state_dict("torch")["features.0.0.weight"], expected["features.0.0.weight"])


LOADING = """
import re, sys
import cnnfast as cf
import PIL, safetensors

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024

model = cf.models.create_model("alexnet")
cf.models.create_model("alexnet", weights=None)
before = peak()
model = cf.models.create_model("alexnet", weights=sys.argv[1])
bytes_of_weights = 4 * sum(p.size for p in model.parameters())
print((peak() - before) / bytes_of_weights)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
@pytest.mark.skipif(SANITIZED, reason="sanitizers take memory of their own")
@pytest.mark.parametrize("extension", [".safetensors", ".npz"])
def test_peak_memory_of_loading(tmp_path: Path, extension: str) -> None:
    # Also dense layers that hold most of the weights are never in memory twice.
    path = tmp_path / f"w{extension}"
    cf.save_weights(path, cf.models.create_model("alexnet").state_dict("torch"))
    assert float(output_of(LOADING, str(path))) <= 1.3


def test_corrupt_data_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "w.npz"
    cf.save_weights(path, cf.models.create_model("lenet5", seed=1).state_dict("torch"))
    content = bytearray(path.read_bytes())
    content[len(content) * 3 // 4] ^= 1
    path.write_bytes(content)
    model = cf.models.create_model("lenet5", seed=2)
    before = {name: array.copy() for name, array in model.state_dict().items()}
    with pytest.raises(cf.errors.WeightsError, match="intact"):
        load_into(model, registry.entry("lenet5"), path)
    for name, array in model.state_dict().items():
        assert np.array_equal(array, before[name])
