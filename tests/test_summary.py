"""summary(): what a network consists of."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import cnnfast as cf
from cnnfast import nn, ops
from cnnfast.graph.summary import receptive_fields


def test_rows_of_a_residual_block() -> None:
    found = cf.summary(cf.models.resnet18(), (224, 224, 3))
    rows = {row.path: row for row in found.rows}
    row = rows["layer2.0.downsample.0"]
    assert (row.kind, row.shape, row.parameters, row.macs) == ("Conv2d", (1, 28, 28, 128), 8192, 6_422_528)
    norm = rows["layer2.0.downsample.1"]
    assert (norm.kind, norm.parameters, norm.buffers) == ("BatchNorm2d", 256, 257)
    # 2 x 4,800 channels, and a counter for each of 20 layers.
    assert found.buffers == 9620
    assert sum(r.parameters for r in found.rows) == found.parameters
    assert sum(r.macs for r in found.rows) == found.macs
    assert [r.kind for r in found.rows if r.path == "layer1.0"] == ["relu", "add", "relu"]


@pytest.mark.parametrize(("name", "layer", "size"), [
    ("alexnet", "features.12", 195), ("vgg16", "features.30", 212), ("vgg19", "features.36", 268),
    ("resnet18", "layer4.1", 435), ("mobilenet_v2", "features.18.2", 491), ("lenet5", "c5", 32),
])  # fmt: skip
def test_known_receptive_fields(name: str, layer: str, size: int) -> None:
    model = cf.models.create_model(name)
    found = cf.summary(model, (32, 32, 1) if name == "lenet5" else (224, 224, 3))
    assert [r for r in found.rows if r.path == layer][-1].receptive_field == (size, size)


class Wired(nn.Module):
    def __init__(self, wiring: Any) -> None:
        self.conv = nn.Conv2d(2, 2, 3, stride=(2, 1), padding=(1, 0), dilation=(1, 2))
        self.same = nn.Conv2d(2, 2, (1, 5), padding=(0, 2))
        self.up = nn.ConvTranspose2d(2, 2, 3, stride=2)
        self.wiring = wiring

    def forward(self, x: Any) -> Any:
        return self.wiring(self, x)


WIRINGS = {
    "convolution": lambda m, x: m.conv(x),
    "two": lambda m, x: m.same(m.conv(x)),
    "pooling": lambda m, x: ops.max_pool2d(m.conv(x), 3, stride=2, padding=1),
    "average": lambda m, x: m.conv(ops.avg_pool2d(x, (2, 3))),
    "branches": lambda m, x: m.same(x) + x,
    "uneven branches": lambda m, x: ops.concat([m.same(x)[:, ::2], x[:, ::2]]),
    "slice": lambda m, x: m.same(x[:, 1:, 3:]),
    "pad": lambda m, x: m.conv(ops.pad2d(x, ((2, 0), (0, 3)))),
    "up": lambda m, x: m.up(x),
    "up and down": lambda m, x: m.conv(m.up(x)),
    "bilinear": lambda m, x: m.conv(ops.resize(x, (24, 32))),
    "corners": lambda m, x: ops.resize(m.same(x), (23, 31), align_corners=True),
    "smaller": lambda m, x: ops.resize(m.conv(x), (5, 7), antialias=True),
    "nearest": lambda m, x: m.conv(ops.resize(x, (24, 32), mode="nearest")),
    "global": lambda m, x: ops.global_avg_pool2d(m.conv(x)),
    "flatten": lambda m, x: m.conv(x).flatten(),
}


@pytest.mark.parametrize("name", WIRINGS)
def test_fields_are_where_the_gradient_is(name: str, rng: np.random.Generator) -> None:
    """Nothing outside of the field changes the result, and the first and last row and column within do."""
    model = Wired(WIRINGS[name]).eval()
    for parameter in model.parameters():  # positive numbers cannot cancel
        parameter.data = rng.uniform(0.5, 1, parameter.shape).astype(np.float32)
    x = rng.uniform(1, 2, (1, 12, 16, 2)).astype(np.float32)
    graph = cf.graph.trace(model, x.shape)
    fields = receptive_fields(graph)[graph.outputs[0]]
    y = model(x)
    p, q = (y.shape[1] // 2, y.shape[2] // 2) if y.ndim == 4 else (0, 0)
    for axis, place in ((1, p), (2, q)):
        f = fields[axis - 1]
        seen = []
        for i in range(x.shape[axis]):
            changed = x.copy()
            changed[(slice(None),) * axis + (i,)] += 100
            z = model(changed)
            at = (0, p, q) if y.ndim == 4 else 0
            if np.abs(z[at] - y[at]).max() > 0:
                seen.append(i)
        first, last = float(f.first + place * f.step), float(f.last + place * f.step)
        assert first <= seen[0] + 1e-9, "nothing that counts is left out"
        assert seen[-1] <= last + 1e-9
        assert last - first - (seen[-1] - seen[0]) < 2 or y.ndim != 4, "and not much more"
        if name not in ("up", "up and down", "nearest", "bilinear", "corners", "smaller"):
            # For those the size depends on the pixel.
            assert (max(first, 0), min(last, x.shape[axis] - 1)) == (seen[0], seen[-1])


def test_frozen_parameters_are_not_trainable() -> None:
    model = cf.models.mobilenet_v2()
    model.features.freeze()
    found = cf.summary(model, (96, 96, 3))
    assert found.parameters == 3_504_872
    assert found.trainable == 1_281_000


def test_layers_used_twice_and_never() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            self.conv = nn.Conv2d(3, 3, 1)
            self.aux = nn.Sequential(nn.Conv2d(3, 9, 1), nn.BatchNorm2d(9))

        def forward(self, x: Any) -> Any:
            x = self.conv(ops.relu(self.conv(x)))
            return self.aux(x) if self.training else x

    found = cf.summary(Both(), (2, 8, 8, 3))
    assert [r.path for r in found.rows] == ["conv", "", "conv", "aux.0", "aux.1"]
    assert [r.parameters for r in found.rows] == [12, 0, 0, 36, 18]
    assert found.parameters == 66
    assert found.buffers == 19
    assert found.rows[-1].shape is None
    assert found.macs == 2 * 2 * 64 * 9, "both pictures, both times"
    assert "not used" in str(found)


def test_layers_of_several_operators() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), nn.ReLU())
    found = cf.summary(model, (8, 8, 3))
    assert [(r.kind, r.shape) for r in found.rows] == [("Conv2d", (1, 8, 8, 4)), ("ReLU", (1, 8, 8, 4))]
    assert found.rows[0].receptive_field == (3, 3)


def test_networks_without_layers_have_a_row_for_each_operator() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            self.first, self.second = nn.Parameter((3, 3, 3, 4)), nn.Parameter((1, 1, 4, 2))
            self.register_buffer("shift", np.zeros(2, np.float32))

        def forward(self, x: Any) -> Any:
            return ops.add(ops.conv2d(ops.relu(ops.conv2d(x, self.first)), self.second), self.shift)

    found = cf.summary(Flat(), (8, 8, 3))
    assert [(r.kind, r.parameters, r.buffers) for r in found.rows] == [
        ("conv2d", 108, 0),
        ("relu", 0, 0),
        ("conv2d", 8, 0),
        ("add", 0, 2),
    ]
    assert (found.parameters, found.buffers) == (116, 2)
    assert "in place of first would have 27,648 weights, not 108" in str(found)


def test_networks_that_are_traced_in_parts() -> None:
    found = cf.summary(cf.models.fasterrcnn_resnet50_fpn(), (800, 800, 3))
    assert found.macs == 134_379_721_216  # torchvision documents 134.38
    assert sum(r.parameters for r in found.rows) == found.parameters == 41_755_286
    rows = {row.path: row for row in found.rows}
    assert rows["backbone.body.conv1"].receptive_field == (7, 7)
    assert rows["rpn.head.bbox_pred"].shape == (1, 13, 13, 12)
    fc = rows["roi_heads.box_head.fc6"]
    assert (fc.shape, fc.receptive_field) == ((1000, 1024), None)


def test_dense_equivalent_is_for_convolutions() -> None:
    found = cf.summary(cf.models.lenet5_rgb(), (32, 32, 3))
    assert [r.dense_equivalent for r in found.rows if r.kind == "Conv2d"] == [14_450_688, 1_881_600, 48_000]
    assert all(r.dense_equivalent is None for r in found.rows if r.kind != "Conv2d")
    assert "14,450,688 weights, not 456" in str(found)


def test_table() -> None:
    text = str(cf.summary(cf.models.lenet5(), (32, 32, 1)))
    head, rule, first, second, *_ = text.split("\n")
    assert head.split() == ["layer", "kind", "output", "parameters", "buffers", "MACs", "field"]
    assert set(rule) == {"-"}
    assert first.split() == ["input", "1x32x32x1"]
    assert second.split() == ["c1", "Conv2d", "1x28x28x6", "156", "117,600", "5x5"]
    assert "parameters 61,706" in text
    assert text.endswith("not 156.")


def test_wrong_shapes() -> None:
    with pytest.raises(cf.errors.ShapeError, match="3 input channels"):
        cf.summary(cf.models.resnet18(), (224, 224, 4))


def test_summary_stays_a_function() -> None:
    """Whatever is imported first, and without making the import of the package slower."""
    code = (
        "import sys, cnnfast.graph.summary, cnnfast as cf\n"
        "assert callable(cf.summary) and callable(cf.fully_convolutional)\n"
        "import cnnfast.models.alexnet\n"
        "assert callable(cf.models.alexnet)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    code = (
        "import sys, cnnfast; assert 'cnnfast.graph' not in sys.modules and 'cnnfast.nn' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
