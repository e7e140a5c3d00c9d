"""Networks into ONNX files: accepted by the checker, equal in ONNX Runtime, and read again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cnnfast as cf
from cnnfast import graph, nn, ops
from cnnfast.errors import WeightsError
from cnnfast.models.registry import entry

models = pytest.importorskip("onnx_models")
onnx = models.onnx
F32 = np.float32
PICTURE = (2, 9, 7, 6)


class Calls(nn.Module):
    """A module around a function."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def forward(self, *inputs: Any) -> Any:
        return self.function(*inputs)


def values(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(F32)


def turned(array: np.ndarray) -> np.ndarray:
    """N,H,W,C as N,C,H,W."""
    return np.ascontiguousarray(array.transpose(0, 3, 1, 2)) if array.ndim == 4 else array


def flat(results: Any) -> list[np.ndarray]:
    if isinstance(results, dict):
        return list(results.values())
    return list(results) if isinstance(results, (tuple, list)) else [results]


def round_trip(
    folder: Path, module: nn.Module, *inputs: np.ndarray, rtol: float = 1e-4, **options: Any
) -> bytes:
    """Save in both layouts, check, run by ONNX Runtime, load and run again."""
    module.eval()
    expected = flat(module(*inputs))
    largest = max([float(np.abs(e).max()) for e in expected if e.size and e.dtype.kind == "f"], default=1.0)
    content = b""
    for layout in ("NCHW", "NHWC"):
        path = folder / f"{layout}.onnx"
        cf.onnx.save(module, path, [x.shape for x in inputs], layout=layout, **options)
        content = path.read_bytes()
        made = onnx.load_from_string(content)
        onnx.checker.check_model(made, full_check=True)
        given = [turned(x) if layout == "NCHW" else x for x in inputs]
        results = models.run(content, *given)
        read = cf.onnx.load(path, layout=layout)
        again = flat(read(*given))
        assert len(results) == len(expected) == len(again)
        for one, other, third in zip(expected, results, again, strict=True):
            wanted = turned(one) if layout == "NCHW" else one
            for got in (other, third):
                assert got.shape == wanted.shape
                assert got.dtype == wanted.dtype
                np.testing.assert_allclose(got, wanted, rtol=rtol, atol=rtol * max(1e-3, largest))
    return content


W = values(3, 3, 6, 4)
D = values(3, 3, 6, 2)
V = values(6, seed=1)
CASES: dict[str, Any] = {
    "conv": lambda x: ops.conv2d(x, W, values(4), stride=(2, 1), padding=((1, 0), (2, 1)), dilation=(1, 2)),
    "conv same": lambda x: ops.conv2d(x, values(4, 4, 6, 4), stride=2, padding="same"),
    "conv groups": lambda x: ops.conv2d(x, values(3, 3, 2, 9), groups=3),
    "conv residual": lambda x: ops.relu(ops.add(ops.conv2d(x, values(3, 3, 6, 6), padding=1), x)),
    "conv weight": lambda x: ops.conv2d(
        x, ops.reshape(ops.take(x, (0, slice(0, 8), slice(0, 6))), (2, 4, 6, 6))
    ),
    "conv reflect": lambda x: ops.conv2d(x, W, padding=1, padding_mode="reflect"),
    "depthwise": lambda x: ops.depthwise_conv2d(x, D, values(12), stride=2, padding=1, activation="relu6"),
    "transpose conv": lambda x: ops.conv2d_transpose(
        x, values(3, 2, 4, 6), values(4), stride=(2, 3), padding=((1, 0), (0, 1)), output_padding=(1, 0)
    ),
    "transpose conv groups": lambda x: ops.conv2d_transpose(x, values(3, 3, 2, 6), groups=2, dilation=(2, 1)),
    "linear": lambda x: ops.linear(ops.flatten(x), values(378, 5), values(5), activation="tanh"),
    "linear pixels": lambda x: ops.linear(x, values(6, 5), values(5)),
    "matmul": lambda x: ops.matmul(x, ops.transpose(x, (0, 1, 3, 2))),
    "batch norm": lambda x: ops.batch_norm(x, V, V**2, eps=1e-3),
    "batch norm affine": lambda x: ops.batch_norm(ops.relu(x), V, V**2 + 1, V, V),
    "instance norm": lambda x: ops.instance_norm(x, V, V),
    "lrn": lambda x: ops.local_response_norm(x, size=3, alpha=0.3),
    "lrn mean": lambda x: ops.local_response_norm(x, size=3, alpha=0.3, alpha_mode="mean", k=1),
    "lrn wide": lambda x: ops.local_response_norm(x, size=31, alpha=0.3),
    "max pool": lambda x: ops.max_pool2d(x, (3, 2), stride=2, padding=((1, 0), (0, 1))),
    "max pool ceil": lambda x: ops.max_pool2d(x, 3, stride=(3, 2), ceil_mode=True),
    "max pool ceil pads": lambda x: ops.max_pool2d(x, 2, stride=2, padding=1, ceil_mode=True),
    "max pool dilated": lambda x: ops.max_pool2d(x, 2, stride=2, dilation=(3, 2), padding=1),
    "max pool stride": lambda x: ops.max_pool2d(x, 2, stride=3),
    "max pool one window": lambda x: ops.max_pool2d(x, (5, 3), stride=5),
    "average pool": lambda x: ops.avg_pool2d(x, 3, stride=2, padding=1),
    "average pool inside": lambda x: ops.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False),
    "average pool ceil": lambda x: ops.avg_pool2d(x, 2, stride=2, ceil_mode=True),
    "average pool ceil pads": lambda x: ops.avg_pool2d(x, (2, 3), stride=(2, 3), padding=1, ceil_mode=True),
    "average pool ceil inside": lambda x: ops.avg_pool2d(
        x, 2, stride=2, padding=1, ceil_mode=True, count_include_pad=False
    ),
    "global average": lambda x: ops.flatten(ops.global_avg_pool2d(x)),
    "global max": ops.global_max_pool2d,
    "pad": lambda x: ops.pad2d(x, ((1, 0), (2, 3)), value=1.5),
    "pad reflect": lambda x: ops.pad2d(x, 2, mode="reflect"),
    "pad edge": lambda x: ops.pad2d(x, 2, mode="replicate"),
    "resize": lambda x: ops.resize(x, (18, 21), mode="nearest"),
    "resize odd": lambda x: ops.resize(x, (13, 5), mode="nearest"),
    "resize linear": lambda x: ops.resize(x, (13, 5)),
    "resize corners": lambda x: ops.resize(x, (13, 5), align_corners=True),
    "softmax": ops.softmax,
    "softmax rows": lambda x: ops.log_softmax(x, axis=1),
    "add": lambda x: ops.add(x, V, activation="relu"),
    "gate": lambda x: ops.mul(x, ops.sigmoid(ops.global_avg_pool2d(x))),
    "number": lambda x: ops.mul(1.0 - x, 2.5) / 3.0 - 1.0,
    "plane": lambda x: ops.mul(x, values(7, 1)),
    "lower rank": lambda x: ops.add(x, ops.take(ops.relu(x), (0, 0))),
    "prelu": lambda x: ops.prelu(x, V),
    "where": lambda x: ops.where(ops.logical_not(ops.less(x, 0)), x, ops.mul(x, 0.1)),
    "compare": lambda x: (ops.greater(x, V), ops.equal(x, x), ops.cast(ops.mul(x, 3.0), np.int64)),
    "maximum": lambda x: ops.minimum(ops.maximum(x, V), ops.pow(ops.abs(x), 0.5)),
    "clip": lambda x: ops.clip(ops.clip(x, low=-1), high=0.5),
    "elu": lambda x: ops.elu(ops.hard_sigmoid(x, alpha=0.3) - 0.5, alpha=0.5),
    "concat": lambda x: ops.concat([x, ops.relu(x), ops.conv2d(x, W, padding=1)]),
    "concat rows": lambda x: ops.concat([x, values(2, 1, 7, 6)], axis=1),
    "reshape": lambda x: ops.reshape(ops.relu(x), (2, 63, 6)),
    "transpose": lambda x: ops.flatten(ops.transpose(ops.relu(x), (0, 2, 1, 3))),
    "take": lambda x: ops.relu(
        ops.take(x, (slice(None), slice(1, 8, 3), slice(None, None, -2), slice(2, 5)))
    ),
    "take one": lambda x: ops.take(ops.relu(x), (slice(None), 3, ..., -1)),
    "split": lambda x: tuple(ops.split(x, [2, 4])),
    "expand": lambda x: ops.expand(ops.global_max_pool2d(x), (2, 3, 1, 6)),
    "tile": lambda x: ops.tile(x, (1, 2, 1, 3)),
    "gather": lambda x: ops.gather(x, np.array([[1, -1], [0, 2]]), axis=2),
    "depth": lambda x: ops.space_to_depth(
        ops.depth_to_space(ops.pad2d(ops.concat([x, x]), ((0, 1), (0, 1))), 2), 2
    ),
    "reduce": lambda x: (
        ops.reduce_mean(x, (1, 2)),
        ops.reduce_sum(x, -1),
        ops.reduce_max(x, 2, keepdims=True),
        ops.reduce_min(x),
        ops.reduce_l2(x, -1, keepdims=True),
        ops.reduce_sum(x, ()),
    ),
    "argmax": lambda x: (ops.argmax(x), ops.argmax(x, 1, keepdims=True)),
    "topk": lambda x: ops.topk(x, 3),
    "gram": ops.gram_matrix,
    "lengths": lambda x: (
        ops.l2_normalize(x),
        ops.l2_normalize(ops.mul(ops.relu(x), 0.1), 1, eps=0.3),
        ops.l2_pool2d(x, (3, 2), stride=2, padding=1),
    ),
    "named": lambda x: {"first": ops.relu(x), "second": x},
}


@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_operators(tmp_path, name, optimize):
    round_trip(tmp_path, Calls(CASES[name]), values(*PICTURE, seed=3), optimize=optimize)


@pytest.mark.parametrize("activation", ops.activations.ACTIVATIONS)
@pytest.mark.parametrize("opset", [13, 17])
def test_activations(tmp_path, activation, opset):
    call = getattr(ops, activation)
    both = Calls(lambda x: (call(x), ops.conv2d(x, W, activation=activation)))
    round_trip(tmp_path, both, values(*PICTURE), opset=opset)
    if activation == "leaky_relu":
        round_trip(tmp_path, Calls(lambda x: call(x, slope=0.3)), values(*PICTURE))


@pytest.mark.parametrize("opset", [13, 15, 18, 19, 21])
def test_operator_sets(tmp_path, opset):
    def f(x: Any) -> Any:
        y = ops.hard_swish(ops.conv2d(x, W, padding=1))
        y = ops.max_pool2d(y, 3, stride=2, ceil_mode=True)
        return ops.reduce_mean(y, (1, 2)), ops.reduce_sum(y, 3), ops.resize(y, (8, 8)), ops.softmax(y)

    content = round_trip(tmp_path, Calls(f), values(*PICTURE), opset=opset)
    assert onnx.load_from_string(content).opset_import[0].version == opset


def test_what_a_newer_operator_set_can_do(tmp_path):
    for function, least in (
        (lambda x: ops.pad2d(x, 2, mode="circular"), 19),
        (lambda x: ops.resize(x, (4, 5), antialias=True), 18),
    ):
        round_trip(tmp_path, Calls(function), values(*PICTURE), opset=least, rtol=1e-3)
        with pytest.raises(WeightsError, match=f"operator set {least}"):
            cf.onnx.save(Calls(function), tmp_path / "x.onnx", PICTURE, opset=17)


class Small(nn.Module):
    """A bit of everything that networks for classification have."""

    def __init__(self) -> None:
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.deep = nn.DepthwiseConv2d(8, 3, padding=1)
        self.point = nn.Conv2d(8, 8, 1)
        self.pool = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.fc = nn.Linear(8, 10)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Any) -> Any:
        x = ops.relu(self.bn(self.conv(x)))
        x = ops.relu(ops.add(self.point(ops.silu(self.deep(x))), x))
        x = self.pool(x)
        return self.fc(self.drop(ops.flatten(ops.global_avg_pool2d(x))))


def test_module(tmp_path, backend):
    module = Small().initialize(3)
    module.bn.running_mean = values(8)
    module.bn.running_var = values(8) ** 2 + 0.5
    module.train()
    path = tmp_path / "net.onnx"
    cf.onnx.save(module, path, (2, 32, 32, 3))
    assert module.training
    content = round_trip(tmp_path, module, values(2, 32, 32, 3))
    made = onnx.load_from_string(content)
    kinds = [n.op_type for n in made.graph.node]
    # One transposition at the entry; the vector at the exit needs none but that of single pixels.
    assert kinds.count("Transpose") == 2
    assert "BatchNormalization" not in kinds
    names = {t.name for t in made.graph.initializer}
    assert {"conv.weight", "fc.weight", "fc.bias"} <= names
    plain = tmp_path / "plain.onnx"
    cf.onnx.save(module, plain, (2, 32, 32, 3), optimize=False)
    assert "BatchNormalization" in [n.op_type for n in onnx.load(plain).graph.node]
    read = cf.onnx.load(plain)
    np.testing.assert_array_equal(read.state_dict()["conv.weight"], module.conv.weight.data)
    assert {op.op.name for op in graph.optimize(graph.trace(read, (2, 32, 32, 3))).nodes} >= {
        "conv2d",
        "linear",
    }


def test_several_inputs(tmp_path):
    module = Calls(lambda x, y: ops.add(ops.linear(ops.flatten(x), values(378, 5)), y))
    round_trip(tmp_path, module, values(*PICTURE), values(2, 5))


def test_network_read_and_written_again(tmp_path, assets):
    known = np.load(assets / "expected/yunet_n.npz")
    picture = known["input"].astype(F32).transpose(0, 2, 3, 1)[:, :64, :96]
    module = cf.onnx.load(assets / "models/yunet_n_dynamic.onnx")
    round_trip(tmp_path, module, np.ascontiguousarray(picture))


def test_nothing_is_written_on_errors(tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(b"old")
    boxes = np.array([[0, 1, 1, 4, 4]], F32)
    module = Calls(lambda x: ops.add(ops.roi_align(x, boxes, 2), ops.roi_pool(x, boxes, 2)))
    with pytest.raises(WeightsError, match="2 operators") as caught:
        cf.onnx.save(module, path, PICTURE)
    assert "roi_align" in str(caught.value)
    assert "roi_pool" in str(caught.value)
    even = Calls(lambda x: ops.local_response_norm(x, size=4))
    with pytest.raises(WeightsError, match="odd number"):
        cf.onnx.save(even, path, PICTURE)
    for options in ({"opset": 12}, {"opset": 99}, {"layout": "CHWN"}):
        with pytest.raises(ValueError, match="must be"):
            cf.onnx.save(module, path, PICTURE, **options)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]
    with pytest.raises(OSError, match="nowhere"):
        cf.onnx.save(Calls(ops.relu), tmp_path / "nowhere" / "net.onnx", PICTURE)


def small_size(name: str) -> tuple[int, int, int, int]:
    """A small input that the network takes; the usual one where the network is small."""
    height, width, channels = entry(name).input_size
    return (
        (1, height, width, channels)
        if height <= 64
        else (1, height // 2 + height % 2, width // 2 + width % 2, channels)
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", cf.models.list_models("classification") or ["none"])
def test_every_classification_network(tmp_path, name):
    if name == "none":
        pytest.skip("there are no networks for classification")
    module = cf.models.create_model(name)
    shape = small_size(name)
    try:
        graph.trace(module.eval(), shape)
    except ValueError:
        height, width, channels = entry(name).input_size
        shape = (1, height, width, channels)
    round_trip(tmp_path, module, values(*shape), rtol=1e-3)
