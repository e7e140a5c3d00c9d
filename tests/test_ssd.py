"""SSD300: network, default boxes, coding of boxes."""

from __future__ import annotations

import numpy as np
import pytest

import networks
from cnnfast import models
from cnnfast.errors import ShapeError
from cnnfast.models.ssd import COCO_SCALES, SSD300, decode_boxes, default_boxes, encode_boxes


@pytest.mark.parametrize(
    ("name", "classes", "parameters", "macs"),
    [("ssd300", 21, 26_285_486, 31_373_537_792), ("ssd300_vgg16", 91, 35_641_826, 34_858_153_472)],
)
def test_sizes(name: str, classes: int, parameters: int, macs: int) -> None:
    model = models.create_model(name)
    assert networks.parameters(model) == parameters
    g = networks.traced(model, 2, 300, 300, 3)
    assert [v.shape for v in g.outputs] == [(2, 8732, 4), (2, 8732, classes)]
    assert networks.macs(g) == 2 * macs
    heads = [n.inputs[0] for n in g.nodes if n.scope.startswith("head.regression") and n.op.name == "conv2d"]
    assert [v.shape[1:] for v in heads if v is not None] == [
        (38, 38, 512),
        (19, 19, 1024),
        (10, 10, 512),
        (5, 5, 256),
        (3, 3, 256),
        (1, 1, 256),
    ]
    with pytest.raises(ShapeError, match=r"^SSD300: expected pictures of 300 x 300"):
        networks.traced(model, 1, 320, 320, 3)


def test_names_of_torchvision() -> None:
    model = models.ssd300_vgg16(width=1 / 32)
    names = set(model.state_dict())
    # The parts of VGG-16 keep their places: 0 to 21 before the fourth pooling, then counted anew.
    vgg = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21]
    layers = [f"backbone.features.{i}" for i in vgg]
    layers += [f"backbone.extra.0.{i}" for i in ("1", "3", "5", "7.1", "7.3")]
    layers += [f"backbone.extra.{i}.{j}" for i in range(1, 5) for j in (0, 2)]
    for head in ("classification_head", "regression_head"):
        layers += [f"head.{head}.module_list.{i}" for i in range(6)]
    want = {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    assert names == want | {"backbone.scale_weight"}
    assert (model.backbone.scale_weight.data == 20).all()


def test_default_boxes() -> None:
    boxes = default_boxes()
    assert boxes.shape == (8732, 4)
    assert len(np.unique(boxes, axis=0)) == 8732
    first = 4 / 300
    root = 2**0.5
    np.testing.assert_allclose(
        boxes[:4],
        [
            [first, first, 0.1, 0.1],
            [first, first, 0.02**0.5, 0.02**0.5],
            [first, first, 0.1 * root, 0.1 / root],
            [first, first, 0.1 / root, 0.1 * root],
        ],
    )
    # The second place is to the right of the first; the second row follows the whole first row.
    np.testing.assert_allclose(boxes[4, :2], [12 / 300, 4 / 300])
    np.testing.assert_allclose(boxes[4 * 38, :2], [4 / 300, 12 / 300])
    # One place on the last map, whose sizes are cut to the picture.
    np.testing.assert_allclose(boxes[-4:, :2], 0.5)
    assert boxes[:, 2:].max() == 1
    assert default_boxes(clip=False)[:, 2:].max() > 1.2
    # Aspect ratio 3 on the maps of six boxes.
    np.testing.assert_allclose(boxes[5776 + 4, 2] / boxes[5776 + 4, 3], 3)
    np.testing.assert_allclose(default_boxes(COCO_SCALES)[0, 2:], 0.07)
    with pytest.raises(ValueError, match="one more scale"):
        default_boxes((0.1, 0.2))


def test_no_pictures() -> None:
    network = SSD300(3, width=1 / 64).eval()
    boxes, scores = network(np.zeros((0, 300, 300, 3), np.float32))
    assert (boxes.shape, scores.shape) == ((0, 8732, 4), (0, 8732, 3))
    with pytest.raises(ShapeError, match="SSD300: x must have 4 dimensions"):
        network(np.zeros((300, 300, 3), np.float32))


def test_boxes_of_the_network() -> None:
    assert models.ssd300(width=1 / 32).boxes.shape == (8732, 4)
    np.testing.assert_array_equal(models.ssd300_vgg16(width=1 / 32).boxes, default_boxes(COCO_SCALES))


def test_decoding(rng: np.random.Generator) -> None:
    boxes = default_boxes()
    still = decode_boxes(np.zeros((8732, 4)), boxes)
    np.testing.assert_allclose((still[:, :2] + still[:, 2:]) / 2, boxes[:, :2], atol=1e-15)
    np.testing.assert_allclose(still[:, 2:] - still[:, :2], boxes[:, 2:])
    by_hand = decode_boxes([[1.0, -2.0, 5 * np.log(2), 0.0]], [[0.5, 0.5, 0.2, 0.4]])
    # Centre .5 + .1 * .2 and .5 - .2 * .4, width doubled.
    np.testing.assert_allclose(by_hand, [[0.52 - 0.2, 0.42 - 0.2, 0.52 + 0.2, 0.42 + 0.2]])
    corners = np.sort(rng.uniform(0, 1, (3, 8732, 2, 2)), axis=2).reshape(3, 8732, 4)
    corners[..., 2:] += 0.01
    np.testing.assert_allclose(decode_boxes(encode_boxes(corners, boxes), boxes), corners, atol=1e-12)
    narrow = decode_boxes(encode_boxes(corners.astype(np.float32), boxes), boxes)
    assert narrow.dtype == np.float32
    np.testing.assert_allclose(narrow, corners, atol=2e-6)
    # Wild outputs stay finite.
    assert np.isfinite(decode_boxes(np.full((8732, 4), 1e4), boxes)).all()


def test_coding_errors() -> None:
    boxes = default_boxes()
    with pytest.raises(ShapeError, match=r"^decode_boxes: expected \(\.\.\., boxes, 4\)"):
        decode_boxes(np.zeros((8731, 4)), boxes)
    with pytest.raises(ShapeError, match=r"^decode_boxes: variances must be four positive numbers"):
        decode_boxes(np.zeros((8732, 4)), boxes, (0.1, 0.1, 0.2))
    with pytest.raises(ShapeError, match=r"^encode_boxes: boxes must have positive width and height"):
        encode_boxes(np.zeros((8732, 4)), boxes)


def test_passes_change_nothing() -> None:
    better = networks.check_passes(SSD300(3, width=1 / 64), (1, 300, 300, 3))
    assert not any(n.op.name == "relu" for n in better.nodes)


def test_backends_agree(backend: str) -> None:
    networks.check_backend(SSD300(3, width=1 / 64), (1, 300, 300, 3))


def test_backbone_agrees_with_torch() -> None:
    torch = pytest.importorskip("torch")
    f = torch.nn.functional
    ours = networks.randomized(SSD300(3, width=1 / 64)).backbone
    state = {n: torch.from_numpy(np.array(a)).double() for n, a in ours.state_dict(layout="torch").items()}

    def conv(x: torch.Tensor, name: str, **options: int) -> torch.Tensor:
        return torch.relu(f.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], **options))

    x = np.random.default_rng(0).uniform(-1, 1, (1, 300, 300, 3)).astype(np.float32)
    y = networks.to_torch(x)
    for i in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21):
        if i in (5, 10, 17):
            y = f.max_pool2d(y, 2, ceil_mode=i == 17)
        y = conv(y, f"features.{i}", padding=1)
    maps = [f.normalize(y) * state["scale_weight"].view(1, -1, 1, 1)]
    y = f.max_pool2d(y, 2)
    for i in (1, 3, 5):
        y = conv(y, f"extra.0.{i}", padding=1)
    y = f.max_pool2d(y, 3, 1, 1)
    y = conv(conv(y, "extra.0.7.1", padding=6, dilation=6), "extra.0.7.3")
    maps.append(y)
    for i, options in ((1, {"stride": 2, "padding": 1}), (2, {"stride": 2, "padding": 1}), (3, {}), (4, {})):
        y = conv(conv(y, f"extra.{i}.0"), f"extra.{i}.2", **options)
        maps.append(y)
    for got, want in zip(ours(x), map(networks.from_torch, maps), strict=True):
        np.testing.assert_allclose(got, want, 0, 4e-6 * np.abs(want).max())
