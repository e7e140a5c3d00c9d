"""Published weights give the numbers of an independent runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import cnnfast as cf
from cnnfast.models.registry import entry
from networks import double

IMAGENET = (np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32))


def nhwc(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))


def check(got: np.ndarray, expected: np.ndarray) -> None:
    """Relative error in the Euclidean norm, and the same decisions."""
    assert got.shape == expected.shape
    error = np.linalg.norm(got - expected) / np.linalg.norm(expected)
    assert error <= 1e-4, error
    assert (got.argmax(axis=-1) == expected.argmax(axis=-1)).all()


def test_mobilenet_v2(backend: str, assets: Path) -> None:
    with np.load(assets / "expected" / "mobilenet_v2.npz") as data:
        x, logits, features = nhwc(data["input"]), data["logits"], nhwc(data["features0"])
    state = cf.load_weights(assets / "models" / "mobilenet_v2-b0353104.pth")
    model = cf.models.mobilenet_v2(weights=state).eval()
    count = 1 if backend == "numpy" else len(x)
    check(model(x[:count]), logits[:count])
    if backend == "cpu":
        check(model.features(x[:1]), features)


def test_mobilenet_v2_optimized(assets: Path) -> None:
    """Folding and fusing lose nothing on real statistics."""
    with np.load(assets / "expected" / "mobilenet_v2.npz") as data:
        x, logits = nhwc(data["input"][:1]), data["logits"][:1]
    state = cf.load_weights(assets / "models" / "mobilenet_v2-b0353104.pth")
    model = cf.models.mobilenet_v2(weights=state)
    graph = cf.graph.optimize(cf.graph.trace(model, x.shape))
    assert not [n for n in graph.nodes if n.op.name in ("batch_norm", "relu6", "add")]
    check(cf.graph.interpret(graph, x, native=True), logits)


def test_cifar_resnet20(backend: str, assets: Path) -> None:
    with np.load(assets / "expected" / "cifar_resnet20.npz") as data:
        images, logits = data["images"], data["logits_resnet20"]
    state = cf.load_weights(assets / "models" / "cifar_resnet20-12fca82f.th")
    known = entry("cifar_resnet20").weights["akamaster/pytorch_resnet_cifar10"]
    assert known.rename is not None
    model = cf.models.cifar_resnet20(weights={known.rename(k): v for k, v in state.items()}).eval()
    x = (images.astype(np.float32) / 255 - IMAGENET[0]) / IMAGENET[1]
    check(model(x), logits)


def lenet5(assets: Path) -> cf.nn.Module:
    state = cf.load_weights(assets / "models" / "lenet5_mnist.pth")
    return cf.models.lenet5(weights={name.partition(".")[2]: array for name, array in state.items()}).eval()


def test_lenet5(backend: str, assets: Path) -> None:
    with np.load(assets / "expected" / "lenet5_mnist.npz") as data:
        x, logprob = nhwc(data["input"]), data["logprob"]
    check(cf.ops.log_softmax(lenet5(assets)(x)), logprob)


def test_lenet5_in_double_precision(assets: Path) -> None:
    with np.load(assets / "expected" / "lenet5_mnist.npz") as data:
        x = nhwc(data["input"])
    exact = double(lenet5(assets))(x.astype(np.float64))
    assert exact.dtype == np.float64
    np.testing.assert_allclose(lenet5(assets)(x), exact, rtol=2e-6, atol=2e-5)


def test_lenet5_reads_digits(native: None, assets: Path) -> None:
    with np.load(assets / "datasets" / "mnist_test.npz") as data:
        x, y = data["x32"][:1000, :, :, None].astype(np.float32) / 255, data["y"][:1000]
    assert (lenet5(assets)(x).argmax(axis=1) == y).mean() > 0.98


class Statistics(cf.nn.Module):
    """Gram matrices of early layers of VGG-16, and the means of a late one."""

    def __init__(self, trunk: cf.nn.Sequential) -> None:
        self.trunk = trunk

    def forward(self, x: Any) -> Any:
        found = {}
        for i, layer in enumerate(self.trunk[:21]):
            x = layer(x)
            if i in (1, 6, 11):
                found[i] = cf.ops.gram_matrix(x) * (1 / (x.shape[1] * x.shape[2] * x.shape[3]))
        return found | {20: cf.ops.global_avg_pool2d(x)}


def test_vgg16_trunk(backend: str, assets: Path) -> None:
    with np.load(assets / "expected" / "vgg16_features.npz") as data:
        x = nhwc(data["input"])
        expected = {1: data["gram_relu1_1"], 6: data["gram_relu2_1"], 11: data["gram_relu3_1"]}
        means = data["relu4_2_mean"]
        style = data["style_image"]
    model = cf.models.vgg16()
    state = cf.load_weights(assets / "models" / "vgg16_features.safetensors")
    missing, unexpected = model.load_state_dict(state, strict=False, layout="torch")
    assert not unexpected
    assert all(name.startswith("classifier") for name in missing)
    statistics = Statistics(model.features).eval()
    found = statistics(x)
    for i, gram in expected.items():
        check(found[i], gram)
        assert np.array_equal(found[i], found[i].transpose(0, 2, 1))
    check(found[20].reshape(1, -1), means[:1])
    if backend == "cpu":
        other = style[None].astype(np.float32) - np.array([123.68, 116.779, 103.939], np.float32)
        graph = cf.graph.optimize(cf.graph.trace(statistics, other.shape))
        check(cf.graph.interpret(graph, other, native=True)[20].reshape(1, -1), means[1:])


def test_names_of_timm() -> None:
    for model, theirs in (
        (
            cf.models.mobilenet_v2(),
            {
                "conv_stem.weight": "features.0.0.weight",
                "bn1.running_var": "features.0.1.running_var",
                "blocks.0.0.conv_pw.weight": "features.1.conv.1.weight",
                "blocks.2.1.conv_pw.weight": "features.5.conv.0.0.weight",
                "blocks.6.0.bn3.bias": "features.17.conv.3.bias",
                "bn2.weight": "features.18.1.weight",
                "classifier.bias": "classifier.1.bias",
            },
        ),
        (
            cf.models.efficientnet_b1(),
            {
                "blocks.0.1.se.conv_reduce.bias": "features.1.1.block.1.fc1.bias",
                "blocks.0.0.bn2.weight": "features.1.0.block.2.1.weight",
                "blocks.3.2.conv_dw.weight": "features.4.2.block.1.0.weight",
                "blocks.6.0.se.conv_expand.weight": "features.7.0.block.2.fc2.weight",
                "blocks.6.0.conv_pwl.weight": "features.7.0.block.3.0.weight",
                "conv_head.weight": "features.8.0.weight",
            },
        ),
    ):
        (rename,) = model.renames
        ours = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
        assert {rename(name) for name in theirs} <= ours
        assert {name: rename(name) for name in theirs} == theirs
        assert {rename(name) for name in ours} == ours
    assert cf.models.efficientnet_b5().renames == ()


def test_weights_under_names_of_timm(tmp_path: Path) -> None:
    source = cf.models.mobilenet_v2_050(seed=5)
    (rename,) = source.renames
    stages = [
        (stage, i, part)
        for stage, (_, _, count, _) in enumerate(source.stages)
        for i in range(count)
        for part in ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3")
    ]
    layers = ["conv_stem", "bn1", *[f"blocks.{s}.{i}.{part}" for s, i, part in stages], "conv_head", "bn2"]
    kinds = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = {rename(name): name for layer in (*layers, "classifier") for kind in kinds
             if (name := f"{layer}.{kind}")}  # fmt: skip
    state = source.state_dict("torch")
    cf.save_weights(tmp_path / "w.safetensors", {names[name]: array for name, array in state.items()})
    model = cf.models.mobilenet_v2_050(weights=tmp_path / "w.safetensors")
    for name, array in model.state_dict("torch").items():
        np.testing.assert_array_equal(array, state[name])
