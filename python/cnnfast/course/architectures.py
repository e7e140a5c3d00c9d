"""Published networks: how many parameters and how much work they have, and what their blocks do."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .. import data, models, nn, ops, optim
from ..errors import WeightsError
from ..graph.summary import Summary, summary
from ..losses import cross_entropy
from ..models.efficientnet import compound_scaling
from ..models.googlenet import InceptionModule
from ..models.mobilenet import InvertedResidual
from ..models.registry import entry
from ..models.resnet import BasicBlock
from ..models.transfer import freeze, replace_head
from ..tensor import Tensor
from ..weights import load_weights, save_weights
from . import Chapter, Fact

CHAPTER = Chapter()


def found(name: str, **options: Any) -> Summary:
    """The summary of a network for pictures of its usual size; its parameters take no memory."""
    return summary(models.create_model(name, **options), entry(name).input_size)


def parameters(**expected: int) -> Iterator[Fact]:
    """Facts on how many parameters networks have."""
    for name, count in expected.items():
        yield Fact(f"{name}: parameters", count, found(name).parameters)


def multiplications(*shapes: tuple[int, ...], **options: Any) -> float:
    return ops.cost("conv2d", *shapes, **options).flops / 2


@CHAPTER.row("A1", "LeNet-5, of 1998 and modern")
def lenet() -> Iterator[Fact]:
    first = found("lenet5_1998")
    counts = [row.parameters for row in first.rows if row.parameters]
    yield Fact("lenet5_1998: parameters by layer", [156, 12, 1516, 32, 48_120, 10_164], counts)
    yield Fact("lenet5_1998: parameters", 60_000, first.parameters)
    yield from parameters(lenet5=61_706)


@CHAPTER.row("A2", "AlexNet, and both conventions of local response normalisation")
def alexnet() -> Iterator[Fact]:
    yield from parameters(alexnet_2012=60_965_224, alexnet=61_100_840)
    x = np.ones((1, 1, 1, 9), np.float32)
    for mode, scale in (("sum", 5.0), ("mean", 1.0)):
        y = ops.local_response_norm(x, size=5, alpha=1.0, beta=0.75, k=2.0, alpha_mode=mode)
        yield Fact(f"five neighbours of 1, alpha_mode={mode}", (2 + scale) ** -0.75, y[0, 0, 0, 4], 1e-6)


@CHAPTER.row("A3", "VGG")
def vgg() -> Iterator[Fact]:
    yield from parameters(vgg16=138_357_544, vgg16_bn=138_365_992)
    yield Fact("vgg16: GMAC at 224", 15.47, round(found("vgg16").macs / 1e9, 2))


@CHAPTER.row("A4", "residual networks, and plain ones beside them")
def resnet() -> Iterator[Fact]:
    yield from parameters(
        resnet18=11_689_512, resnet34=21_797_672, resnet50=25_557_032, resnet101=44_549_160,
        resnet152=60_192_808, cifar_resnet20=269_722, cifar_resnet32=464_154, cifar_resnet44=658_586,
        cifar_resnet56=853_018, plain18=11_515_688, plain34=21_623_848,
    )  # fmt: skip
    block = BasicBlock(8, 8).eval()
    for module in block.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = np.zeros(module.weight.shape, np.float32)
    a = np.random.default_rng(4).standard_normal((1, 5, 5, 8)).astype(np.float32)
    yield Fact("a block with W = b = 0 gives relu(a)", np.maximum(a, 0), block(a))


@CHAPTER.row("A5", "1x1 convolution")
def pointwise() -> Iterator[Fact]:
    rng = np.random.default_rng(5)
    x, w = rng.random((1, 28, 28, 192), np.float32), rng.standard_normal((192, 32)).astype(np.float32)
    y = ops.conv2d(x, w[None, None])
    yield Fact("28x28x192 with 32 filters", (1, 28, 28, 32), y.shape)
    yield Fact("a dense layer at every pixel", ops.linear(x.reshape(-1, 192), w).reshape(y.shape), y, 1e-4)


@CHAPTER.row("A6", "Inception")
def inception() -> Iterator[Fact]:
    module = InceptionModule(192, (64, 96, 128, 16, 32, 32)).initialize()
    table = summary(module, (28, 28, 192))
    yield Fact("module 3a: channels", 64 + 128 + 32 + 32, table.rows[-1].shape[-1])  # type: ignore[index]
    yield Fact("module 3a: parameters", 163_696, table.parameters)
    direct = multiplications((1, 28, 28, 192), (5, 5, 192, 32), padding="same")
    yield Fact("5x5 direct: multiplications", 120_422_400, direct)
    narrow = multiplications((1, 28, 28, 192), (1, 1, 192, 16))
    narrow += multiplications((1, 28, 28, 16), (5, 5, 16, 32), padding="same")
    yield Fact("5x5 behind 16 channels: multiplications", 12_443_648, narrow)
    yield from parameters(googlenet_original=6_998_552, googlenet=6_624_904, inception_v3=23_834_568)
    for name, count in (("googlenet_original", 13_378_280), ("googlenet", 13_004_888),
                        ("inception_v3", 27_161_264)):  # fmt: skip
        model = models.create_model(name, aux_logits=True)
        yield Fact(f"{name} with auxiliary heads", count, sum(p.size for p in model.parameters()))


@CHAPTER.row("A7", "MobileNet v1")
def mobilenet_v1() -> Iterator[Fact]:
    yield from parameters(mobilenet_v1=4_231_976, mobilenet_v1_075=2_585_560, mobilenet_v1_050=1_331_592,
                          mobilenet_v1_025=470_072)  # fmt: skip
    direct = multiplications((1, 6, 6, 3), (3, 3, 3, 5))
    depthwise = ops.cost("depthwise_conv2d", (1, 6, 6, 3), (3, 3, 3, 1)).flops / 2
    separable = depthwise + multiplications((1, 4, 4, 3), (1, 1, 3, 5))
    yield Fact("6x6x3, 3x3, 5 filters: multiplications", [2160, 672], [direct, separable])
    yield Fact("their ratio", 1 / 5 + 1 / 9, separable / direct, 1e-12)


@CHAPTER.row("A8", "MobileNet v2")
def mobilenet_v2() -> Iterator[Fact]:
    yield from parameters(mobilenet_v2=3_504_872, mobilenet_v2_050=1_968_680, mobilenet_v2_140=6_108_776)
    block = InvertedResidual(24, 24, 1, 6)
    yield Fact("block 24->144->24: parameters", 8832, sum(p.size for p in block.parameters()))


@CHAPTER.row("A9", "EfficientNet")
def efficientnet() -> Iterator[Fact]:
    one = compound_scaling(1)
    yield Fact("depth, width", (1.2, 1.1), (one.depth, one.width))
    yield Fact("alpha beta^2 gamma^2", 2.0, one.flops, 0.1)
    counts = (5_288_548, 7_794_184, 9_109_994, 12_233_232, 19_341_616, 30_389_784, 43_040_704, 66_347_960)
    yield from parameters(**{f"efficientnet_b{i}": count for i, count in enumerate(counts)})


@CHAPTER.row("A10", "transfer learning")
def transfer() -> Iterator[Fact]:
    model = models.create_model("cifar_resnet20", num_classes=3, seed=1)
    freeze(model, "*")
    replace_head(model, 2, seed=2)
    model.train()
    head = [p for p in model.parameters() if p.requires_grad]
    before = {name: a.copy() for name, a in model.state_dict().items()}
    optimizer = optim.SGD(head, 0.1)
    rng = np.random.default_rng(10)
    for _ in range(2):
        optimizer.zero_grad()
        cross_entropy(model(Tensor(rng.random((4, 16, 16, 3), np.float32))), [0, 1, 1, 0]).backward()
        optimizer.step()
    after = model.state_dict()
    changed = sorted(name for name, a in before.items() if not np.array_equal(a, after[name]))
    learns = sorted(name for name, p in model.named_parameters() if p.requires_grad)
    yield Fact("all but the new head, statistics included, keep their bits", learns, changed)


@CHAPTER.row("A11", "augmentation")
def augmentation() -> Iterator[Fact]:
    rng = np.random.default_rng(11)
    image = rng.integers(0, 256, (5, 7, 3), np.uint8)
    sample = data.Sample(image, boxes=np.array([[1.0, 2.0, 4.0, 5.0]]), classes=np.array([0]))
    twice = data.mirror(data.mirror(sample))
    yield Fact("mirrored twice: the picture", image, twice.picture)
    yield Fact("mirrored twice: its boxes", sample.boxes, twice.boxes)
    shift = data.PCAColour(0.1)
    grey = data.Sample(np.full((2, 2, 3), 100, np.float32))
    noise = shift(grey, np.random.default_rng(3)).picture[0, 0] - np.float32(100)
    weights = np.linalg.solve(np.array(shift.vectors), noise.astype(np.float64))
    drawn = np.random.default_rng(3).normal(0, 0.1, 3) * np.array(shift.values) * 255
    yield Fact("PCA noise lies on the RGB eigenvectors", drawn, weights, 1e-3)
    pictures = data.Arrays(rng.integers(0, 256, (6, 8, 8, 3), np.uint8), range(6))
    runs = []
    for workers in (0, 2):
        loader = data.DataLoader(pictures, 3, shuffle=True, seed=7, workers=workers,
                                 transform=data.RandomCrop(8, padding=2))  # fmt: skip
        runs.append(np.stack([batch.pictures for batch in loader]))
    yield Fact("one seed, 0 and 2 workers: the same pictures", True, np.array_equal(runs[0], runs[1]))


@CHAPTER.row("A12", "open weights: what is written is read again, and nothing in a file is run")
def weights() -> Iterator[Fact]:
    state = {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("safetensors", "npz"):
            path = Path(folder) / f"state.{kind}"
            save_weights(path, state)
            yield Fact(f"{kind}: there and back", state["w"], load_weights(path)["w"])
        hostile = Path(folder) / "hostile.pth"
        hostile.write_bytes(pickle.dumps({"w": print}))
        try:
            answer = str(sorted(load_weights(hostile)))
        except WeightsError:
            answer = "refused"
        yield Fact("a checkpoint that names a function", "refused", answer)
