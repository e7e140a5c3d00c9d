"""Classification networks: sizes, work, names, and identities of their blocks."""

from __future__ import annotations

import numpy as np
import pytest

import cnnfast as cf
from cnnfast import nn, ops
from cnnfast.models.blocks import AdaptiveAvgPool2d, ConvNormAct, round_channels
from cnnfast.models.mobilenet import InvertedResidual
from cnnfast.models.registry import entry
from cnnfast.models.resnet import BasicBlock, Bottleneck, CifarBlock, CifarResNet
from networks import randomize, small

# Name, parameters, multiply-adds in millions for one picture of the usual size (as published, or as
# torchvision documents them, where they are), rounded to the digits given.
NETWORKS = [
    ("lenet5", 61_706, 0.417),
    ("lenet5_rgb", 62_006, 0.652),
    ("lenet5_1998", 60_000, 0.417),
    ("convnet39", 29_262, 2.799),
    ("window_net", 323_620, 0.442),
    ("alexnet", 61_100_840, 714.188),
    ("alexnet_2012", 60_965_224, 724.407),
    ("vgg11", 132_863_336, 7_609.090),
    ("vgg13", 133_047_848, 11_308.466),
    ("vgg16", 138_357_544, 15_470.264),
    ("vgg19", 143_667_240, 19_632.062),
    ("vgg11_bn", 132_868_840, 7_609.090),
    ("vgg13_bn", 133_053_736, 11_308.466),
    ("vgg16_bn", 138_365_992, 15_470.264),
    ("vgg19_bn", 143_678_248, 19_632.062),
    ("resnet18", 11_689_512, 1_814.073),
    ("resnet34", 21_797_672, 3_663.761),
    ("resnet50", 25_557_032, 4_089.184),
    ("resnet101", 44_549_160, 7_801.405),
    ("resnet152", 60_192_808, 11_513.627),
    ("resnet14_grey", 241_530, 19.983),
    ("plain18", 11_515_688, 1_794.806),
    ("plain34", 21_623_848, 3_644.494),
    ("cifar_resnet20", 269_722, 40.551),
    ("cifar_resnet32", 464_154, 68.863),
    ("cifar_resnet44", 658_586, 97.174),
    ("cifar_resnet56", 853_018, 125.486),
    ("mobilenet_v1", 4_231_976, 568.740),
    ("mobilenet_v1_075", 2_585_560, 325.400),
    ("mobilenet_v1_050", 1_331_592, 149.497),
    ("mobilenet_v1_025", 470_072, 41.030),
    ("mobilenet_v2", 3_504_872, 300.774),
    ("mobilenet_v2_050", 1_968_680, 97.132),
    ("mobilenet_v2_140", 6_108_776, 582.196),
    ("squeezenet1_0", 1_248_424, 818.925),
    ("squeezenet1_1", 1_235_496, 349.152),
]


@pytest.mark.parametrize(("name", "parameters", "macs"), NETWORKS, ids=[n[0] for n in NETWORKS])
def test_parameters_shapes_and_work(name: str, parameters: int, macs: float) -> None:
    known = entry(name)
    model = cf.models.create_model(name)
    found = cf.summary(model, known.input_size)
    assert found.parameters == found.trainable == sum(p.size for p in model.parameters()) == parameters
    assert found.macs / 1e6 == pytest.approx(macs, abs=0.001)
    assert found.rows[-1].shape == (1, known.num_classes)
    if name != "lenet5_1998":  # whose table of connections is worked out while tracing
        assert all(p._data is None for p in model.parameters()), "a summary takes no memory for parameters"
    other = cf.models.create_model(name, num_classes=7)
    assert cf.graph.trace(other, (3, *known.input_size)).outputs[0].shape == (3, 7)


def test_every_classification_network_is_registered() -> None:
    assert {n[0] for n in NETWORKS} <= set(cf.models.list_models("classification"))
    for name, _, _ in NETWORKS:
        assert callable(getattr(cf.models, name)), "also where a file has the same name"


@pytest.mark.parametrize("name", ["lenet5", "lenet5_1998", "convnet39", "squeezenet1_1", "cifar_resnet20",
                                  "mobilenet_v2_050", "alexnet"])  # fmt: skip
def test_forward_gives_scores(backend: str, name: str, rng: np.random.Generator) -> None:
    model, shape = small(name)
    x = rng.random((2, *shape), np.float32)
    y = randomize(model, rng)(x)
    assert y.shape == (2, 10)
    assert y.dtype == np.float32
    assert np.isfinite(y).all()
    assert y.std() > 0


# --- names and published weights -------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [">f4", np.dtype(">f4").newbyteorder("=")])
def test_byte_order_of_inputs(backend: str, dtype: str | np.dtype, rng: np.random.Generator) -> None:
    model = cf.models.lenet5().eval()
    x = rng.random((2, 32, 32, 1), np.float32)
    np.testing.assert_array_equal(model(x.astype(dtype)), model(x))


def test_names_are_those_of_torchvision() -> None:
    def some(name: str, *wanted: str) -> None:
        state = {n for n, _ in cf.models.create_model(name).named_parameters()}
        state |= {n for n, _ in cf.models.create_model(name).named_buffers()}
        assert set(wanted) <= state, name

    some("alexnet", "features.0.weight", "features.10.bias", "classifier.1.weight", "classifier.6.bias")
    some("vgg16", "features.28.weight", "classifier.0.weight", "classifier.3.weight", "classifier.6.weight")
    some("vgg11_bn", "features.1.running_mean", "features.25.weight", "features.26.running_var")
    some("resnet18", "conv1.weight", "bn1.num_batches_tracked", "layer2.0.downsample.0.weight",
         "layer2.0.downsample.1.running_var", "layer4.1.bn2.bias", "fc.weight")  # fmt: skip
    some("resnet50", "layer1.0.conv3.weight", "layer1.0.downsample.1.bias", "layer3.5.bn3.weight")
    some("squeezenet1_0", "features.0.weight", "features.3.squeeze.weight", "features.12.expand3x3.bias",
         "classifier.1.weight")  # fmt: skip
    some("squeezenet1_1", "features.12.expand1x1.weight")
    some("mobilenet_v2", "features.0.1.running_mean", "features.1.conv.1.weight", "features.2.conv.2.weight",
         "features.18.0.weight", "classifier.1.bias")  # fmt: skip


def test_layout_of_torch() -> None:
    def shape(name: str, parameter: str) -> tuple[int, ...]:
        return cf.models.create_model(name).state_dict(layout="torch")[parameter].shape

    assert shape("mobilenet_v2_050", "features.2.conv.1.0.weight") == (48, 1, 3, 3)
    assert shape("squeezenet1_1", "features.0.weight") == (64, 3, 3, 3)
    assert shape("lenet5", "f7.weight") == (10, 84)


def test_published_weights(assets: object) -> None:
    import json
    from pathlib import Path

    assert isinstance(assets, Path)
    known = json.loads((assets / "torchvision_weights.json").read_text())
    for name, _, _ in NETWORKS:
        for version, tag in (("torchvision", "V1"), ("torchvision_v2", "V2")):
            facts = known.get(f"{name}/IMAGENET1K_{tag}")
            found = entry(name).weights.get(version)
            assert (facts is None) == (found is None), (name, version)
            if facts is None or found is None:
                continue
            assert found.url == facts["url"]
            assert found.url.endswith(f"-{found.sha256}.pth")
            assert found.accuracy["top1"] == facts["metrics"]["ImageNet-1K"]["acc@1"]
            assert found.accuracy["top5"] == facts["metrics"]["ImageNet-1K"]["acc@5"]


# --- tables of layers ------------------------------------------------------------------------------


def test_table_of_lenet() -> None:
    found = cf.summary(cf.models.lenet5_rgb(), (32, 32, 3))
    sizes = [int(np.prod(row.shape)) for row in found.rows if row.kind in ("Conv2d", "MaxPool2d", "Linear")]
    assert sizes == [4704, 1176, 1600, 400, 120, 84, 10]
    assert [row.parameters for row in found.rows if row.parameters] == [456, 2416, 48_120, 10_164, 850]
    assert found.rows[0].dense_equivalent == 14_450_688


def test_layers_of_the_first_lenet() -> None:
    found = cf.summary(cf.models.lenet5_1998(), (32, 32, 1))
    assert [row.parameters for row in found.rows if row.parameters] == [156, 12, 1516, 32, 48_120, 10_164]
    codes = cf.models.lenet5_1998().output.codes
    assert found.buffers == codes.size == 840
    assert set(np.unique(codes)) == {-1.0, 1.0}
    # No two codes may be alike: a class would never win.
    assert (np.unique(codes, axis=0).shape) == (10, 84)


def test_connections_of_the_first_lenet(backend: str, rng: np.random.Generator) -> None:
    layer = cf.models.lenet5_1998().c3
    layer.bias.data = rng.standard_normal(16).astype(np.float32)
    x = rng.standard_normal((1, 14, 14, 6)).astype(np.float32)
    y = layer(x)
    x[..., 0] += 1
    changed = np.abs(layer(x) - y).max(axis=(0, 1, 2)) > 0
    assert changed.nonzero()[0].tolist() == [0, 4, 5, 6, 9, 10, 11, 12, 14, 15]


def test_output_of_the_first_lenet_is_a_squared_distance(backend: str, rng: np.random.Generator) -> None:
    output = cf.models.lenet5_1998().output
    x = rng.standard_normal((3, 84)).astype(np.float32)
    exact = ((x[:, None].astype(np.float64) - output.codes) ** 2).sum(axis=2)
    np.testing.assert_allclose(output(x), exact, rtol=2e-6)
    assert output(output.codes).argmin(axis=1).tolist() == list(range(10))


def test_table_of_the_simple_network() -> None:
    found = cf.summary(cf.models.convnet39(), (39, 39, 3))
    shapes = [row.shape for row in found.rows if row.kind in ("Conv2d", "Flatten")]
    assert shapes == [(1, 37, 37, 10), (1, 17, 17, 20), (1, 7, 7, 40), (1, 1960)]


def test_first_feature_maps_of_the_first_alexnet() -> None:
    found = cf.summary(cf.models.alexnet_2012(), (227, 227, 3))
    maps = [row.shape[1:] for row in found.rows if row.kind in ("Conv2d", "MaxPool2d") and row.shape]
    assert maps == [(55, 55, 96), (27, 27, 96), (27, 27, 256), (13, 13, 256), (13, 13, 384),
                    (13, 13, 384), (13, 13, 256), (6, 6, 256)]  # fmt: skip


# --- identities ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "channels"), [(BasicBlock, 16), (CifarBlock, 16), (Bottleneck, 64)])
def test_residual_block_of_zeros_is_relu(
    backend: str, make: type[nn.Module], channels: int, rng: np.random.Generator
) -> None:
    block = make(channels, 16).eval()
    for module in block.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = np.zeros(module.weight.shape, np.float32)
    a = rng.standard_normal((2, 9, 7, channels)).astype(np.float32)
    assert np.array_equal(block(a), np.maximum(a, 0))


def test_plain_block_adds_nothing(backend: str, rng: np.random.Generator) -> None:
    block = BasicBlock(8, 8, shortcut=False).eval()
    block.conv2.weight.data = np.zeros_like(block.conv2.weight.data)
    assert not block(rng.standard_normal((1, 5, 5, 8)).astype(np.float32)).any()


def test_shortcut_without_parameters(backend: str, rng: np.random.Generator) -> None:
    block = CifarBlock(16, 32, 2).eval()
    block.conv2.weight.data = np.zeros_like(block.conv2.weight.data)
    a = rng.random((2, 8, 8, 16), np.float32)
    y = block(a)
    assert y.shape == (2, 4, 4, 32)
    assert np.array_equal(y[..., 8:24], a[:, ::2, ::2])
    assert not y[..., :8].any()
    assert not y[..., 24:].any()


def test_depth_of_cifar_networks() -> None:
    with pytest.raises(ValueError, match="6 n"):
        CifarResNet(21)


def test_pointwise_convolution_is_a_dense_layer(backend: str, rng: np.random.Generator) -> None:
    x = rng.standard_normal((1, 28, 28, 192)).astype(np.float32)
    w = rng.standard_normal((192, 32)).astype(np.float32)
    b = rng.standard_normal(32).astype(np.float32)
    y = ops.conv2d(x, w.reshape(1, 1, 192, 32), b)
    assert y.shape == (1, 28, 28, 32)
    bound = np.abs(x) @ np.abs(w) + np.abs(b)
    assert (np.abs(y - ops.linear(x, w, b)) <= 16 * 2.0**-24 * bound).all()


def test_saving_of_depthwise_separable_convolution() -> None:
    direct = ops.cost("conv2d", (1, 6, 6, 3), (3, 3, 3, 5)).flops / 2
    depthwise = ops.cost("depthwise_conv2d", (1, 6, 6, 3), (3, 3, 3, 1)).flops / 2
    pointwise = ops.cost("conv2d", (1, 4, 4, 3), (1, 1, 3, 5)).flops / 2
    assert (direct, depthwise, pointwise) == (2160, 432, 240)
    assert (depthwise + pointwise) / direct == pytest.approx(1 / 5 + 1 / 9)


def test_inverted_residual_block() -> None:
    block = InvertedResidual(24, 24, 1, 6)
    assert sum(p.size for p in block.parameters()) == 8832
    assert block.shortcut
    assert not InvertedResidual(24, 24, 2, 6).shortcut
    assert not InvertedResidual(24, 32, 1, 6).shortcut
    kinds = [type(m).__name__ for m in block.modules() if not m._modules]
    assert kinds[-1] == "BatchNorm2d", "the projection has no activation"
    assert kinds.count("ReLU6") == 2
    found = cf.summary(block, (56, 56, 24))
    assert [r.shape[3] for r in found.rows if "Conv" in r.kind and r.shape] == [144, 144, 24]


# --- blocks ----------------------------------------------------------------------------------------


def test_rounding_of_channels() -> None:
    assert [round_channels(c) for c in (3, 12, 11.2, 16.8, 33.6, 89.6, 1792)] == [8, 16, 16, 16, 32, 88, 1792]
    assert round_channels(18) == 24, "never more than a tenth less"


def test_conv_norm_act_is_depthwise_where_it_can_be() -> None:
    assert isinstance(ConvNormAct(8, 8, groups=8)[0], nn.DepthwiseConv2d)
    assert isinstance(ConvNormAct(8, 16, groups=8)[0], nn.Conv2d)
    assert len(ConvNormAct(8, 8, activation=None)) == 2


@pytest.mark.parametrize("size", [(7, 7), (14, 21), (9, 11), (3, 2), (1, 1), (7, 8)])
def test_adaptive_pooling_agrees_with_torch(
    backend: str, size: tuple[int, int], rng: np.random.Generator
) -> None:
    torch = pytest.importorskip("torch")
    x = rng.standard_normal((2, *size, 5)).astype(np.float32)
    for wanted in ((7, 7), (6, 6), (1, 1)):
        y = AdaptiveAvgPool2d(wanted)(x)
        exact = torch.nn.AdaptiveAvgPool2d(wanted)(torch.from_numpy(x).permute(0, 3, 1, 2).double())
        np.testing.assert_allclose(y, exact.permute(0, 2, 3, 1).numpy(), atol=1e-6)


# --- fully convolutional ---------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "places"), [(14, 1), (16, 2), (28, 8)])
def test_fully_convolutional_equals_windows(
    backend: str, size: int, places: int, rng: np.random.Generator
) -> None:
    model = cf.models.window_net(seed=5).eval()
    sliding = cf.fully_convolutional(model)
    shapes = [row.shape for row in cf.summary(sliding, (14, 14, 3)).rows if "ReLU" not in row.kind]
    assert shapes == [(1, 10, 10, 16), (1, 5, 5, 16), (1, 1, 1, 400), (1, 1, 1, 400), (1, 1, 1, 4)]
    x = rng.random((2, size, size, 3), np.float32)
    y = sliding(x)
    assert y.shape == (2, places, places, 4)
    for i in range(places):
        for j in range(places):
            window = np.ascontiguousarray(x[:, 2 * i : 2 * i + 14, 2 * j : 2 * j + 14])
            if backend == "cpu":
                assert np.array_equal(y[:, i, j], model(window)), "the same bits"
            np.testing.assert_allclose(y[:, i, j], model(window), rtol=1e-5, atol=1e-6)


def test_fully_convolutional_lenet(backend: str, rng: np.random.Generator) -> None:
    model = randomize(cf.models.lenet5(), rng).eval()
    x = rng.random((1, 40, 36, 1), np.float32)
    y = cf.fully_convolutional(model, (32, 32, 1))(x)
    assert y.shape == (1, 3, 2, 10)
    np.testing.assert_allclose(y[:, 2, 1], model(np.ascontiguousarray(x[:, 8:, 4:])), rtol=1e-5, atol=1e-5)


def test_fully_convolutional_leaves_the_model_alone() -> None:
    model = cf.models.window_net()
    names = [n for n, _ in model.named_parameters()]
    sliding = cf.fully_convolutional(model)
    assert isinstance(model.fc1, nn.Linear)
    assert [n for n, _ in sliding.named_parameters()] == names
    assert sliding.conv.weight is model.conv.weight
    # Values that nobody has looked at yet are drawn alike.
    assert np.array_equal(sliding.fc1.weight.data.reshape(400, 400), model.fc1.weight.data)


def test_fully_convolutional_and_padding(rng: np.random.Generator) -> None:
    model, shape = small("resnet18")
    with pytest.raises(cf.errors.ShapeError, match=r"avgpool pools over the whole map"):
        cf.fully_convolutional(model)
    with pytest.raises(cf.errors.ShapeError, match=r"conv1 pads"):
        cf.fully_convolutional(model, shape)
    sliding = cf.fully_convolutional(model, shape, allow_padding=True)
    x = rng.random((1, *shape), np.float32)
    np.testing.assert_allclose(sliding(x)[:, 0, 0], model(x), rtol=1e-4, atol=1e-4)
    assert cf.graph.trace(sliding, (1, 64, 96, 3)).outputs[0].shape == (1, 2, 3, 10)


def test_fully_convolutional_with_a_fixed_pooling() -> None:
    model = cf.models.vgg11(num_classes=10, hidden=24)
    sliding = cf.fully_convolutional(model, (224, 224, 3), allow_padding=True)
    assert cf.graph.trace(sliding, (1, 256, 288, 3)).outputs[0].shape == (1, 2, 3, 10)
    with pytest.raises(cf.errors.ShapeError, match=r"resizes a map"):
        cf.fully_convolutional(model, (64, 64, 3), allow_padding=True)
