"""Darknet's cfg and weights files, and the networks that they describe."""

from __future__ import annotations

import os
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import cnnfast as cf
from cnnfast.errors import WeightsError
from cnnfast.graph import interpret, optimize, trace
from cnnfast.models.darknet import BATCH_NORM_EPS, Darknet, Reorg, darknet, load_darknet
from cnnfast.weights import darknet as files

SMALL = """
[net]
# comments and spaces
width = 16
height=8
channels=3
learning_rate=.1

[convolutional]
batch_normalize=1
filters=4   # four
size=3
stride=1
pad=1
activation=leaky

[maxpool]
size=2
stride=1

[convolutional]
filters=4
size=1
activation=linear

; the other form of comment
[shortcut]
from=-3
activation=leaky

[route]
layers=-1, 0
groups=2
group_id=1

[maxpool]
size=2
stride=2

[upsample]
stride=2

[route]
layers=-1,-5

[convolutional]
filters=14
size=1
activation=linear

[yolo]
mask=1,0,
anchors=1,2, 3,4.5
num=2
classes=2
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def numbers(model: Darknet, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Values for every array of the network, in darknet's shapes and order."""
    values = {}
    for part in model.convolutions():
        kh, kw, inputs, outputs = part.shape
        for name in part.vectors:
            low = 0.5 if name.endswith("var") else -1
            values[f"{part.name}.{name}"] = rng.uniform(low, 1, outputs).astype(np.float32)
        values[f"{part.name}.conv.weight"] = rng.normal(size=(outputs, inputs, kh, kw)).astype(np.float32)
    return values


def content(
    values: dict[str, np.ndarray], header: bytes = struct.pack("<iiiQ", 0, 2, 5, 32_013_312)
) -> bytes:
    return header + b"".join(a.astype("<f4").tobytes() for a in values.values())


# --- reading ---------------------------------------------------------------------------------------


def test_cfg_is_read(tmp_path: Path) -> None:
    sections = files.read_cfg(write(tmp_path / "small.cfg", SMALL))
    assert [s.kind for s in sections[:4]] == ["net", "convolutional", "maxpool", "convolutional"]
    net, conv = sections[:2]
    assert (net.integer("width"), net.integer("height"), conv.integer("filters")) == (16, 8, 4)
    assert (conv.line, conv.lines["filters"]) == (9, 11)
    assert sections[-1].integers("mask", 0, 5) == [1, 0]
    assert sections[-1].numbers("anchors") == [1, 2, 3, 4.5]
    assert net.integer("batch", 7) == 7


def test_windows_line_ends_and_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "windows.cfg"
    path.write_bytes(b"\xef\xbb\xbf" + SMALL.replace("\n", "\r\n").encode())
    assert len(Darknet(files.read_cfg(path)).layers) == 10


@pytest.mark.parametrize(
    "header",
    [
        struct.pack("<iiiI", 0, 1, 0, 9),
        struct.pack("<iiiQ", 0, 2, 0, 1 << 40),
        struct.pack("<iiiQ", 1, 0, 0, 9),
    ],
    ids=["0.1", "0.2", "1.0"],
)
def test_weights_are_taken_over(tmp_path: Path, rng: np.random.Generator, header: bytes) -> None:
    model = darknet(write(tmp_path / "small.cfg", SMALL))
    values = numbers(model, rng)
    path = tmp_path / "small.weights"
    path.write_bytes(content(values, header))
    load_darknet(model, path)
    state = model.state_dict(layout="torch")
    for name, value in values.items():
        np.testing.assert_array_equal(state[name], value, err_msg=name)
    assert model.layers[0].conv.weight.data.shape == (3, 3, 3, 4)


def test_blocks_of_a_large_weight(tmp_path: Path, rng: np.random.Generator, monkeypatch) -> None:
    part = files.ConvolutionValues("a", (3, 2, 5, 7), False)
    weight = rng.normal(size=(7, 5, 3, 2)).astype(np.float32)
    path = tmp_path / "w.weights"
    path.write_bytes(content({"b": np.arange(7), "w": weight}))
    for size in (1, 4 * 3 * 2 * 5 * 3, 1 << 20):
        monkeypatch.setattr(files, "_BLOCK_BYTES", size)
        read = dict(files.read_weights(path, [part]))
        np.testing.assert_array_equal(read["a.conv.weight"], weight.transpose(2, 3, 1, 0))
        np.testing.assert_array_equal(read["a.conv.bias"], np.arange(7))


def test_memory_of_loading(tmp_path: Path) -> None:
    head = "[net]\nwidth=8\nheight=8\nchannels=512\n"
    cfg = write(
        tmp_path / "big.cfg", head + "[convolutional]\nfilters=1024\nsize=3\npad=1\nactivation=linear\n"
    )
    size = 20 + 4 * (1024 + 1024 * 512 * 9)
    with open(tmp_path / "big.weights", "wb") as file:
        file.write(struct.pack("<iiiQ", 0, 2, 0, 0))
        file.truncate(size)
    tracemalloc.start()
    try:
        model = darknet(cfg, tmp_path / "big.weights")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(p.size for p in model.parameters()) == (size - 20) // 4
    assert peak < 1.3 * size


# --- layers ----------------------------------------------------------------------------------------


def numpy_forward(x: np.ndarray, v: dict[str, np.ndarray]) -> np.ndarray:
    """The small network by hand, in float64."""

    def conv(x, w, pad):
        kh, kw = w.shape[2:]
        x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        view = np.lib.stride_tricks.sliding_window_view(x, (kh, kw), (1, 2))
        return np.einsum("npqcij,ocij->npqo", view, w)

    def leaky(x):
        return np.where(x > 0, x, 0.1 * x)

    v = {name: a.astype(np.float64) for name, a in v.items()}
    y = conv(x, v["layers.0.conv.weight"], 1) - v["layers.0.bn.running_mean"]
    y = y / np.sqrt(v["layers.0.bn.running_var"] + BATCH_NORM_EPS)
    a0 = leaky(y * v["layers.0.bn.weight"] + v["layers.0.bn.bias"])
    edge = np.pad(a0, ((0, 0), (0, 1), (0, 1), (0, 0)), constant_values=-np.inf)
    a1 = np.lib.stride_tricks.sliding_window_view(edge, (2, 2), (1, 2)).max((-1, -2))
    a2 = conv(a1, v["layers.2.conv.weight"], 0) + v["layers.2.conv.bias"]
    a3 = leaky(a2 + a0)
    a4 = np.concatenate([a3[..., 2:], a0[..., 2:]], -1)
    n, h, w, c = a4.shape
    a5 = a4.reshape(n, h // 2, 2, w // 2, 2, c).max((2, 4))
    a6 = a5.repeat(2, 1).repeat(2, 2)
    a7 = np.concatenate([a6, a2], -1)
    return conv(a7, v["layers.8.conv.weight"], 0) + v["layers.8.conv.bias"]


@pytest.fixture
def small(tmp_path: Path, rng: np.random.Generator) -> tuple[Darknet, dict[str, np.ndarray]]:
    model = darknet(write(tmp_path / "small.cfg", SMALL)).eval()
    values = numbers(model, rng)
    path = tmp_path / "small.weights"
    path.write_bytes(content(values))
    load_darknet(model, path)
    return model, values


def test_layers_by_hand(backend: str, small, rng: np.random.Generator) -> None:
    model, values = small
    x = rng.random((2, 8, 16, 3)).astype(np.float32)
    (out,) = model(x)
    assert out.shape == (2, 8, 16, 14)
    np.testing.assert_allclose(out, numpy_forward(x.astype(np.float64), values), rtol=1e-4, atol=1e-4)
    (head,) = model.heads
    assert (head.kind, head.anchors, head.classes) == ("yolo", ((3, 4.5), (1, 2)), 2)


def test_graph_is_the_same(small, rng: np.random.Generator) -> None:
    model, _ = small
    x = rng.random((1, 8, 16, 3)).astype(np.float32)
    graph = trace(model, x.shape)
    np.testing.assert_allclose(interpret(graph, x)[0], model(x)[0], rtol=1e-5, atol=1e-5)
    fused = optimize(graph)
    assert not any(node.op.name == "batch_norm" for node in fused.nodes)
    np.testing.assert_allclose(interpret(fused, x)[0], model(x)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("size", "stride"), [(2, 1), (2, 2), (3, 1), (3, 2), (5, 1), (13, 1), (4, 3), (1, 2)]
)
@pytest.mark.parametrize("side", [13, 16])
def test_max_pool_pads_as_darknet(backend: str, size: int, stride: int, side: int, rng) -> None:
    net = files.Section("net", {"width": str(side), "height": str(side), "channels": "2"})
    pool = files.Section("maxpool", {"size": str(size), "stride": str(stride)})
    x = rng.normal(size=(1, side, side, 2)).astype(np.float32)
    y = Darknet([net, pool]).eval()(x)
    count = (side + (size - 1) - size) // stride + 1
    assert y.shape == (1, count, count, 2)
    for i in range(count):
        for j in range(count):
            top, left = i * stride - (size - 1) // 2, j * stride - (size - 1) // 2
            window = x[0, max(top, 0) : top + size, max(left, 0) : left + size]
            np.testing.assert_array_equal(y[0, i, j], window.max((0, 1)))


def test_reorg_index_by_index(rng: np.random.Generator) -> None:
    s, c, h, w = 2, 8, 4, 6
    x = rng.normal(size=(1, h, w, c)).astype(np.float32)
    flat = x[0].transpose(2, 0, 1).ravel()
    out = np.empty_like(flat)
    depth = c // s**2
    for k in range(c):
        for j in range(h):
            for i in range(w):
                part, channel = divmod(k, depth)
                row, column = j * s + part // s, i * s + part % s
                out[i + w * (j + h * k)] = flat[column + w * s * (row + h * s * channel)]
    expected = out.reshape(c * s**2, h // s, w // s).transpose(1, 2, 0)
    np.testing.assert_array_equal(Reorg(s)(x)[0], expected)


def test_classifier_without_heads(backend: str, rng: np.random.Generator) -> None:
    net = "[net]\nwidth=8\nheight=8\nchannels=3\n"
    layers = (
        "[convolutional]\nfilters=5\nsize=3\nstride=2\ngroups=1\nactivation=relu\n[dropout]\nprobability=.5\n"
    )
    text = net + layers + "[avgpool]\n[softmax]\n"
    model = Darknet(files._sections(text)).initialize().eval()
    y = model(rng.random((2, 8, 8, 3)).astype(np.float32))
    assert y.shape == (2, 1, 1, 5)
    np.testing.assert_allclose(y.sum(-1), 1, rtol=1e-6)


# --- hostile files ---------------------------------------------------------------------------------

NET = "[net]\nwidth=32\nheight=32\n"
CONV = "[convolutional]\nfilters=8\nsize=3\npad=1\nactivation=leaky\n"

CFGS = {
    "nothing": ("", "file: expected sections"),
    "no heading": ("width=3\n", "line 1: expected a heading"),
    "half a heading": ("[net\nwidth=3\n", "line 1: expected a heading"),
    "empty heading": ("[]\n", "line 1: expected a heading"),
    "no equals sign": (NET + "depth\n", "line 4: expected name=value"),
    "no name": (NET + "=3\n", "line 4: expected name=value"),
    "two values": (NET + "width=64\n", "line 4: expected 'width' once, came a second value after line 2"),
    "not a net first": (CONV, r"expected \[net\] as the first section"),
    "no layers": (NET, "line 1: .net. expected layers"),
    "no width": ("[net]\nheight=3\n", "line 1: .net. expected an option width"),
    "word for a number": ("[net]\nwidth=wide\nheight=3\n", "line 2: .net. width: expected a whole number"),
    "other digits": ("[net]\nwidth=٣٢\nheight=3\n", "line 2: .net. width: expected a whole number"),
    "underscore": ("[net]\nwidth=3_2\nheight=3\n", "line 2: .net. width: expected a whole number"),
    "long number": ("[net]\nwidth=" + "9" * 100_000 + "\nheight=3\n", "line 2: .net. width: expected"),
    "large picture": ("[net]\nwidth=99999999\nheight=3\n", "line 2: .net. width: expected 1 to"),
    "negative": (NET + CONV.replace("8", "-8"), "line 5: .convolutional. filters: expected 1 to"),
    "many filters": (NET + CONV.replace("8", "999999999999"), "line 5: .convolutional. filters: expected 1"),
    "no filters": (NET + CONV.replace("8", "0"), "line 5: .convolutional. filters: expected 1 to"),
    "kernel too large": (NET + CONV.replace("size=3", "size=999"), None),
    "zero stride": (NET + CONV + "stride=0\n", "line 9: .convolutional. stride: expected 1 to"),
    "groups": (NET + CONV + "groups=2\n", "line 9: .convolutional. groups: 3 and 8 channels"),
    "many parameters": (
        NET + 2 * CONV.replace("8", "65536").replace("size=3", "size=9"), "line 9: .* parameters"
    ),
    "unknown activation": (NET + CONV.replace("leaky", "mish"), "line 8: .convolutional. activation"),
    "unknown layer": (NET + "[lstm]\n", "line 4: .lstm. expected one of"),
    "unsupported option": (NET + CONV + "xnor=1\n", "line 9: .convolutional. xnor: expected 0"),
    "valid convolution too large": (NET + "[convolutional]\nsize=33\n", "line 5: .convolutional. size"),
    "pool too large": (NET + "[maxpool]\nsize=64\npadding=0\n", "line 5: .maxpool. size: expected at"),
    "route to itself": (NET + CONV + "[route]\nlayers=1\n", "line 10: .route. layers: expected -1 to 0"),
    "route ahead": (NET + CONV + "[route]\nlayers=5\n", "line 10: .route. layers: expected"),
    "route too far back": (NET + CONV + "[route]\nlayers=-2\n", "line 10: .route. layers: expected"),
    "route to nothing": (NET + CONV + "[route]\nlayers=\n", "line 10: .route. layers: expected a whole"),
    "route first": (NET + "[route]\nlayers=-1\n", "line 5: .route. layers: expected"),
    "route of two sizes": (
        NET + CONV + "[maxpool]\nsize=2\nstride=2\n[route]\nlayers=0,1\n", "line 13: .route. layers: .* one s"
    ),
    "group outside": (
        NET + CONV + "[route]\nlayers=0\ngroups=2\ngroup_id=2\n", "line 12: .route. group_id: expected"
    ),
    "many routes": (NET + CONV + "[route]\nlayers=" + "0," * 5000 + "0\n", "line 10: .route. layers: expect"),
    "shortcut of two shapes": (
        NET + CONV + "[maxpool]\nsize=2\nstride=2\n[shortcut]\nfrom=-2\n", "line 13: .shortcut. from: ex"
    ),
    "upsampling without end": (NET + CONV + "[upsample]\nstride=64\n" * 4, "line 11: .upsample. the result"),
    "reorg of odd size": (NET + CONV + "[reorg]\nstride=3\n", "line 9: .reorg. stride"),
    "dropout": (NET + CONV + "[dropout]\nprobability=2\n", "line 10: .dropout. probability"),
    "not finite": (NET + CONV + "[dropout]\nprobability=1e999\n", "line 10: .dropout. probability: expect"),
    "yolo channels": (NET + CONV + "[yolo]\nanchors=1,1\nclasses=4\n", "line 9: .yolo. expected 9 channels"),
    "yolo anchors": (NET + CONV + "[yolo]\nanchors=1,1,1\n", "line 10: .yolo. anchors: expected 2"),
    "yolo mask": (NET + CONV + "[yolo]\nanchors=1,1\nmask=1\n", "line 11: .yolo. mask: expected 0 to 0"),
    "yolo anchor of no size": (NET + CONV + "[yolo]\nanchors=1,0\n", "line 10: .yolo. anchors: expected p"),
    "yolo not a number": (NET + CONV + "[yolo]\nanchors=nan,1\n", "line 10: .yolo. anchors: expected a f"),
    "layer after yolo": (
        NET + CONV + "[yolo]\nanchors=1,1\nclasses=3\n" + CONV, "line 12: .convolutional. expected the result"
    ),
    "many sections": (NET + "[avgpool]\n" * 5000, "line 1027: expected at most 1024 sections"),
    "many options": (NET + "".join(f"a{i}=1\n" for i in range(9999)), "line 258: expected at most 256"),
}  # fmt: skip


@pytest.mark.parametrize("case", CFGS)
def test_hostile_cfgs(tmp_path: Path, case: str) -> None:
    text, message = CFGS[case]
    path = write(tmp_path / "hostile.cfg", text)
    if message is None:
        Darknet(files.read_cfg(path))  # odd, but padding makes it a network
        return
    with pytest.raises(WeightsError, match=message) as caught:
        darknet(path)
    assert len(str(caught.value)) < len(str(path)) + 500
    assert str(caught.value).isprintable()


def test_other_cfgs(tmp_path: Path) -> None:
    path = tmp_path / "x.cfg"
    path.write_bytes(NET.encode() + b"a=\xff\n")
    with pytest.raises(WeightsError, match="line 4: expected text in UTF-8"):
        darknet(path)
    path.write_bytes(b"#" * (1 << 20) + b"\n")
    with pytest.raises(WeightsError, match="at most 1048576 bytes"):
        darknet(path)
    with pytest.raises(WeightsError, match="regular file"):
        darknet(tmp_path)
    with pytest.raises(FileNotFoundError):
        darknet(tmp_path / "none.cfg")
    with pytest.raises(WeightsError, match="first section"):
        Darknet([])
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(WeightsError, match="regular file"):
        darknet(tmp_path / "pipe")


@pytest.mark.parametrize("cut", [0, 1, 11, 12, 15, 19, 20, 21, 500, -4, -1])
def test_truncated_weights(tmp_path: Path, small, cut: int) -> None:
    model, values = small
    before = {name: a.copy() for name, a in model.state_dict().items()}
    path = tmp_path / "cut.weights"
    path.write_bytes(content(values)[:cut] if cut else b"")
    with pytest.raises(WeightsError, match=r"read_weights: .*: (file|header): expected"):
        load_darknet(model, path)
    for name, a in model.state_dict().items():
        np.testing.assert_array_equal(a, before[name])


def test_other_wrong_weights(tmp_path: Path, small, monkeypatch) -> None:
    model, values = small
    path = tmp_path / "wrong.weights"
    path.write_bytes(content(values) + b"\0")
    with pytest.raises(WeightsError, match="values of these layers"):
        load_darknet(model, path)
    path.write_bytes(content(values, struct.pack("<iiiQ", -1, 2, 5, 0)))
    with pytest.raises(WeightsError, match="expected a version"):
        load_darknet(model, path)
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 100)
    with pytest.raises(WeightsError, match="at most 100 bytes"):
        load_darknet(model, path)


def test_a_cfg_that_lies_about_sizes_takes_no_memory(tmp_path: Path) -> None:
    text = NET + CONV.replace("8", "65536") + "[convolutional]\nfilters=60000\nsize=1\nactivation=linear\n"
    (tmp_path / "w.weights").write_bytes(bytes(1000))
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError, match=r"expected 157\d{8} bytes"):
            darknet(write(tmp_path / "big.cfg", text), tmp_path / "w.weights")
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


def test_file_that_shrinks_while_it_is_read(tmp_path: Path, small) -> None:
    model, values = small
    path = tmp_path / "shrinks.weights"
    path.write_bytes(content(values))
    arrays = files.read_weights(path, model.convolutions())
    path.write_bytes(content(values)[:60])
    with pytest.raises(WeightsError, match="more bytes, came"):
        list(arrays)


def test_padding_within_the_picture_is_checked_when_run(small) -> None:
    model, _ = small
    with pytest.raises(cf.errors.ShapeError):
        model(np.zeros((1, 8, 16, 4), np.float32))
