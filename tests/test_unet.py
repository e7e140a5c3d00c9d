"""U-Net, and the encoder and decoder without skips."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import pytest

import networks
from cnnfast import models
from cnnfast.errors import ShapeError, WeightsError
from cnnfast.models.unet import UNet, unet_input_size, unet_output_size


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(
    ("channels", "classes", "parameters"), [(1, 1, 31_030_593), (1, 2, 31_030_658), (3, 21, 31_033_045)]
)
def test_parameters(padding: str, channels: int, classes: int, parameters: int) -> None:
    model = UNet(classes, in_channels=channels, padding=padding)
    assert networks.parameters(model) == parameters


def test_shapes() -> None:
    g = networks.traced(models.unet_valid(), 1, 572, 572, 1)
    assert [v.shape for v in g.outputs] == [(1, 388, 388, 2)]
    for scope, shape in {
        "down.0": (568, 64),
        "down.3": (64, 512),
        "bottom": (28, 1024),
        "up.0.up": (56, 512),
        "up.0": (52, 512),
        "up.3.up": (392, 64),
    }.items():
        assert networks.maps(g, scope) == (1, shape[0], shape[0], shape[1])
    g = networks.traced(models.unet(21, in_channels=3), 2, 64, 48, 3)
    assert [v.shape for v in g.outputs] == [(2, 64, 48, 21)]
    g = networks.traced(models.unet(2, width=8, depth=2), 1, 12, 20, 1)
    assert [v.shape for v in g.outputs] == [(1, 12, 20, 2)]


def test_sizes_of_the_valid_form() -> None:
    assert unet_output_size(572) == 388
    assert unet_input_size(388) == 572
    possible = {}
    for n in range(1, 700):
        try:
            possible[n] = unet_output_size(n)
        except ShapeError:
            continue
    assert list(possible.items())[:3] == [(188, 4), (204, 20), (220, 36)]
    for wanted in (1, 4, 5, 100, 388, 389, 500):
        assert unet_input_size(wanted) == min(n for n, out in possible.items() if out >= wanted)
    assert unet_output_size(unet_input_size(30, depth=2), depth=2) >= 30
    model = UNet(2, width=2, depth=2, padding="valid")
    for n in (44, 48, 52):
        assert networks.traced(model, 1, n, n, 1).outputs[0].shape[1] == unet_output_size(n, depth=2)


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_frames(padding: str, depth: int) -> None:
    model = UNet(1, width=1, depth=depth, padding=padding)
    for rows in (1, 7, 8, 9, 40):
        size, output = model.frame_size(rows)
        g = networks.traced(model, 1, size, size, 1)
        assert g.outputs[0].shape[1] == output >= rows
        assert output - rows < 1 << depth
    assert models.segnet_vgg16(2).frame_size(33) == (64, 64)


def test_small() -> None:
    assert networks.parameters(models.unet_small()) == 121_042
    g = networks.traced(models.unet_small(5, in_channels=3), 1, 40, 24, 3)
    assert [v.shape for v in g.outputs] == [(1, 40, 24, 5)]
    assert networks.maps(g, "bottom") == (1, 5, 3, 64)


def test_sizes_that_do_not_fit() -> None:
    with pytest.raises(
        ShapeError, match=r"^UNet: with same padding rows and columns must be multiples of 16"
    ):
        networks.traced(models.unet(), 1, 64, 60, 1)
    with pytest.raises(ShapeError, match=r"^UNet: an input of 570 has 279 rows and columns before pooling 2"):
        networks.traced(models.unet_valid(), 1, 572, 570, 1)
    with pytest.raises(ShapeError, match=r"^UNet: padding must be one of 'same', 'valid'"):
        UNet(padding="reflect")
    with pytest.raises(ShapeError, match=r"weight has 1 input channels, x has 3"):
        networks.traced(models.unet(), 1, 64, 64, 3)
    with pytest.raises(ShapeError, match="UNet: x must have 4 dimensions"):
        networks.traced(models.unet(), 64, 64, 1)


@pytest.mark.parametrize(("padding", "rows", "batch_norm"), [("same", 32, True), ("valid", 188, False)])
def test_passes_change_nothing(padding: str, rows: int, batch_norm: bool) -> None:
    model = UNet(3, in_channels=2, width=4, padding=padding, batch_norm=batch_norm)
    better = networks.check_passes(model, (1, rows, rows, 2))
    assert not any(n.op.name == "relu" for n in better.nodes)


@pytest.mark.parametrize(("padding", "rows"), [("same", 48), ("valid", 188)])
def test_backends_agree(backend: str, padding: str, rows: int) -> None:
    networks.check_backend(UNet(3, in_channels=2, width=4, padding=padding), (1, rows, rows, 2))


@pytest.mark.parametrize(("padding", "rows", "columns"), [("same", 24, 40), ("valid", 92, 108)])
def test_agrees_with_torch(padding: str, rows: int, columns: int) -> None:
    torch = pytest.importorskip("torch")
    t, depth, width, pad = torch.nn, 3, 6, int(padding == "same")

    def double(i: int, o: int) -> Any:
        layers = {"conv1": t.Conv2d(i, o, 3, padding=pad), "relu1": t.ReLU()}
        return t.Sequential(
            OrderedDict(layers | {"conv2": t.Conv2d(o, o, 3, padding=pad), "relu2": t.ReLU()})
        )

    class Theirs(t.Module):
        def __init__(self) -> None:
            super().__init__()
            c = [width << i for i in range(depth + 1)]
            self.down = t.ModuleList([double(i, o) for i, o in zip([2, *c], c[:-1], strict=False)])
            self.bottom = double(c[-2], c[-1])
            ups = [{"up": t.ConvTranspose2d(2 * n, n, 2, 2), "convs": double(2 * n, n)} for n in c[-2::-1]]
            self.up = t.ModuleList([t.ModuleDict(u) for u in ups])
            self.classifier = t.Conv2d(width, 3, 1)

        def forward(self, x: Any) -> Any:
            skips = []
            for level in self.down:
                skips.append(level(x))
                x = t.functional.max_pool2d(skips[-1], 2)
            x = self.bottom(x)
            for level in self.up:
                x, skip = level["up"](x), skips.pop()
                h, w = x.shape[2:]
                top, left = (skip.shape[2] - h) // 2, (skip.shape[3] - w) // 2
                x = level["convs"](torch.cat([skip[:, :, top : top + h, left : left + w], x], 1))
            return self.classifier(x)

    ours = networks.randomized(UNet(3, in_channels=2, width=width, depth=depth, padding=padding))
    theirs = networks.load_torch(Theirs(), ours)
    x = np.random.default_rng(0).standard_normal((1, rows, columns, 2)).astype(np.float32)
    want = networks.from_torch(theirs(networks.to_torch(x)))
    got = ours(x)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, 0, 4e-6 * np.abs(want).max())


# --- encoder and decoder without skips -------------------------------------------------------------


def test_segnet_sizes() -> None:
    model = models.segnet_vgg16(5)
    assert networks.parameters(model.features) == 14_714_688
    g = networks.traced(model, 1, 224, 160, 3)
    assert [v.shape for v in g.outputs] == [(1, 224, 160, 5)]
    names = [n.op.name for n in g.nodes]
    assert names.count("max_pool2d") == names.count("conv2d_transpose") == 5
    assert networks.maps(g, "features") == (1, 7, 5, 512)
    channels = [n.output.shape[3] for n in g.nodes if n.scope.startswith("decoder") and n.op.name == "conv2d"]
    assert channels == [512] * 6 + [256] * 3 + [128] * 2 + [64] * 2
    with pytest.raises(ShapeError, match=r"^SegNetVGG16: rows and columns must be multiples of 32"):
        networks.traced(model, 1, 224, 200, 3)


def test_segnet_passes_and_backends(backend: str) -> None:
    model = models.segnet_vgg16(4, width=1 / 32, bottleneck=10)
    networks.check_backend(model, (2, 64, 32, 3))
    networks.check_passes(model, (1, 64, 32, 3))
    assert len(models.segnet_vgg16(4, width=1 / 32, bottleneck=0).bottleneck) == 0


def test_segnet_takes_the_weights_of_vgg16() -> None:
    model = models.segnet_vgg16(4, width=1 / 32)
    other = models.segnet_vgg16(9, width=1 / 32, seed=5)
    state = {n: a for n, a in other.state_dict(layout="torch").items() if n.startswith("features.")}
    model.load_encoder({**state, "classifier.0.weight": np.zeros((4096, 25088))})
    x = np.ones((1, 32, 32, 3), np.float32)
    np.testing.assert_array_equal(model.eval().features(x), other.eval().features(x))
    with pytest.raises(WeightsError, match=r"28\.weight is missing"):
        model.load_encoder({n: a for n, a in state.items() if n != "features.28.weight"})


def test_segnet_takes_real_weights(assets: Any) -> None:
    import cnnfast as cf

    model = models.segnet_vgg16(2)
    state = cf.load_weights(assets / "models" / "vgg16_features.safetensors")
    model.load_encoder(state)
    name = "features.28.weight"
    np.testing.assert_array_equal(model.state_dict(layout="torch")[name], state[name])
