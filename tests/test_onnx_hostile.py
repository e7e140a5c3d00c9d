"""ONNX files that are cut off, lie, or want what they must not have: refused, in little time and memory."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cnnfast as cf
from cnnfast.errors import CnnfastError, WeightsError
from cnnfast.onnx import reading, wire

models = pytest.importorskip("onnx_models")
onnx, node = models.onnx, models.node
F32 = np.float32
X = np.ones((1, 3, 8, 8), F32)


def network() -> Any:
    nodes = [
        node("Conv", ["a", "w", "b"], ["c"], pads=[1, 1, 1, 1], name="conv"),
        node("Relu", ["c"], ["d"]),
        node("Reshape", ["d", "s"], ["e"]),
        node("MatMul", ["e", "m"], ["y"]),
    ]
    tensors = {
        "w": np.ones((4, 3, 3, 3), F32),
        "b": np.ones(4, F32),
        "s": np.array([0, -1]),
        "m": np.ones((256, 2), F32),
    }
    return models.model(nodes, {"a": X}, ["y"], tensors)


def refused(folder: Path, content: Any, message: str = "") -> None:
    path = models.write(folder, content)
    with pytest.raises(WeightsError, match=message or None) as caught:
        cf.onnx.load(path)
    text = str(caught.value)
    assert text.startswith(f"onnx.load: {path}: ")
    assert len(text) < len(str(path)) + 2000
    assert text.replace("\n", "").isprintable()


def test_the_network_itself_is_good(tmp_path):
    module = cf.onnx.load(models.write(tmp_path, network()), layout="NCHW")
    np.testing.assert_allclose(module(X), models.run(network().SerializeToString(), X)[0])


def test_cut_off_anywhere(tmp_path):
    content = network().SerializeToString()
    for n in [*range(0, 400, 7), *range(400, len(content), 97), len(content) - 1]:
        path = models.write(tmp_path, content[:n])
        with pytest.raises(WeightsError):
            cf.onnx.load(path)


def test_single_bytes_changed(tmp_path, rng):
    content = bytearray(network().SerializeToString())
    for _ in range(1500):
        changed = bytearray(content)
        for at in rng.integers(0, len(content), rng.integers(1, 4)):
            # Mostly where the structure is, rarely in the numbers.
            changed[at if rng.random() < 0.2 else int(at) % 400] = rng.integers(0, 256)
        path = models.write(tmp_path, bytes(changed))
        try:
            module = cf.onnx.load(path, layout="NCHW")
            module(X)
        except (CnnfastError, MemoryError):
            continue


def field(number: int, content: bytes) -> bytes:
    return wire.encode([(number, content)])


def varint(number: int) -> bytes:
    return wire.encode([(0, number)])[1:]


BYTES = {
    "nothing": (b"", "empty"),
    "text": (b"hello world, I am no model at all", "byte|expected"),
    "zip": (b"PK\3\4" + bytes(100), "byte|expected"),
    "no graph": (wire.encode([(1, 8), (2, "x")]), "with a graph"),
    "no operator set": (field(7, b""), "operator set"),
    "length 2**63": (b"\x3a" + varint(1 << 63), "more bytes"),
    "length over the file": (b"\x3a" + varint(100) + b"abc", "more bytes"),
    "endless number": (b"\x08" + b"\xff" * 20, "whole number"),
    "group": (b"\x3b" + bytes(10), "came kind 3"),
    "graph as a number": (b"\x38\x05", "graph: expected"),
    "deep nesting": (b"\x3a\xff\x7f" * 10_000, "byte"),
    "many fields": (b"\x18\x00" * (wire.MAX_FIELDS + 10), "fields"),
}


@pytest.mark.parametrize("case", BYTES)
def test_bytes(tmp_path, case):
    content, message = BYTES[case]
    refused(tmp_path, content, message)


def changed(change: Any) -> Any:
    made = network()
    change(made)
    return made


def first(made: Any) -> Any:
    return made.graph.initializer[0]


def dims(*sizes: int) -> Any:
    def change(made: Any) -> None:
        del first(made).dims[:]
        first(made).dims.extend(sizes)

    return change


def tensor_field(**values: Any) -> Any:
    def change(made: Any) -> None:
        for name, value in values.items():
            if isinstance(value, list):
                getattr(first(made), name).extend(value)
            else:
                setattr(first(made), name, value)

    return change


def replaced(index: int, *arguments: Any, **attributes: Any) -> Any:
    return lambda made: made.graph.node[index].CopyFrom(node(*arguments, **attributes))


def subgraph(made: Any) -> None:
    branch = onnx.helper.make_graph([node("Relu", ["a"], ["z"])], "b", [], [onnx.ValueInfoProto(name="z")])
    made.graph.node[1].CopyFrom(node("If", ["c"], ["d"], then_branch=branch, else_branch=branch))


def function(made: Any) -> None:
    made.functions.add().name = "f"


def sparse(made: Any) -> None:
    made.graph.sparse_initializer.add().dims.append(3)


CHANGES = {
    "fewer sizes": (dims(4, 3, 3), "expected 144 bytes, came 432"),
    "more sizes": (dims(4, 3, 3, 4), "expected 576 bytes"),
    "negative": (dims(4, -3, 3, 3), "dimensions from 0"),
    "huge": (dims(1 << 40, 1 << 40), "2\\*\\*62"),
    "huge and empty": (dims(0, 1 << 62), "2\\*\\*62|from 0 to"),
    "too large for the file": (dims(1 << 40), "bytes"),
    "too many dimensions": (dims(*[1] * 33), "at most 32 dimensions"),
    "a kernel of two dimensions": (dims(108, 1), "4 dimensions, came 2"),
    "strings": (tensor_field(data_type=8), "element type 8"),
    "complex": (tensor_field(data_type=14), "element type 14"),
    "unknown type": (tensor_field(data_type=99), "element type 99"),
    "numbers twice": (tensor_field(float_data=[1.0]), "raw_data or float_data"),
    "the wrong field": (
        lambda m: (first(m).ClearField("raw_data"), tensor_field(int64_data=[1])(m)),
        "float_data",
    ),
    "too few numbers": (
        lambda m: (first(m).ClearField("raw_data"), tensor_field(float_data=[1.0])(m)),
        "came 4",
    ),
    "no numbers": (lambda m: first(m).ClearField("raw_data"), "expected 432 bytes, came 0"),
    "no name": (lambda m: first(m).ClearField("name"), "name of its own"),
    "a name twice": (tensor_field(name="b"), "name of its own"),
    "a cycle": (lambda m: m.graph.node[1].input.__setitem__(0, "y"), "'y', which nothing before"),
    "itself": (lambda m: m.graph.node[1].input.__setitem__(0, "d"), "nothing before"),
    "backwards": (lambda m: m.graph.node.reverse(), "nothing before"),
    "a missing input": (lambda m: m.graph.node[1].input.__setitem__(0, "nowhere"), "nowhere"),
    "a missing output": (lambda m: setattr(m.graph.output[0], "name", "nowhere"), "outputs that a node"),
    "no outputs": (lambda m: m.graph.ClearField("output"), "outputs that a node"),
    "written twice": (lambda m: m.graph.node[1].output.__setitem__(0, "c"), "there already"),
    "writes a tensor": (lambda m: m.graph.node[1].output.__setitem__(0, "w"), "there already"),
    "an input twice": (lambda m: m.graph.input.append(m.graph.input[0]), "stands there twice"),
    "too few inputs": (lambda m: m.graph.node[0].input.__delitem__(slice(1, 3)), "2 or more inputs, came 1"),
    "too many inputs": (lambda m: m.graph.node[1].input.append("w"), "inputs, came 2"),
    "a subgraph": (subgraph, "not supported"),
    "a function": (function, "functions"),
    "sparse": (sparse, "sparse"),
    "an old operator set": (lambda m: setattr(m.opset_import[0], "version", 6), "7 to 21, came 6"),
    "a future operator set": (lambda m: setattr(m.opset_import[0], "version", 1000), "7 to 21, came 1000"),
    "another domain": (lambda m: setattr(m.graph.node[1], "domain", "com.evil\x1b[2J"), "not supported"),
    "our own operator": (lambda m: setattr(m.graph.node[1], "op_type", "Silu"), "not supported"),
    "control characters": (lambda m: setattr(m.graph.node[1], "op_type", "\x1b[2J"), "x1b"),
    "a long name": (lambda m: setattr(m.graph.node[1], "op_type", "n" * 60_000), "60000 long"),
    "a very long name": (lambda m: setattr(m.graph.node[1], "op_type", "n" * 70_000), "at most 65536 bytes"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_changes(tmp_path, case):
    change, message = CHANGES[case]
    refused(tmp_path, changed(change), message)


# What only shows when the network is called.
CALLS = {
    "pads of 2**62": replaced(0, "Conv", ["a", "w", "b"], ["c"], pads=[1 << 62] * 4),
    "negative pads": replaced(0, "Conv", ["a", "w", "b"], ["c"], pads=[-1] * 4),
    "three pads": replaced(0, "Conv", ["a", "w", "b"], ["c"], pads=[1, 1, 1]),
    "strides of 0": replaced(0, "Conv", ["a", "w", "b"], ["c"], strides=[0, 0], auto_pad="SAME_UPPER"),
    "text for numbers": replaced(0, "Conv", ["a", "w", "b"], ["c"], pads="many"),
    "reals for numbers": replaced(0, "Conv", ["a", "w", "b"], ["c"], strides=[1.5, 1.5]),
    "7 groups": replaced(0, "Conv", ["a", "w", "b"], ["c"], group=7),
    "0 groups": replaced(0, "Conv", ["a", "w", "b"], ["c"], group=0),
    "a wrong axis": replaced(1, "Softmax", ["c"], ["d"], axis=1 << 40),
    "a window of three": replaced(1, "MaxPool", ["c"], ["d"], kernel_shape=[2, 2, 2]),
    "no window": replaced(1, "MaxPool", ["c"], ["d"]),
    "a window of 2**40": replaced(1, "MaxPool", ["c"], ["d"], kernel_shape=[1 << 40] * 2, pads=[1 << 39] * 4),
    "axes that repeat": replaced(1, "Transpose", ["c"], ["d"], perm=[0, 0, 1, 2]),
    "a wrong shape": replaced(1, "Reshape", ["c", "s2"], ["d"]),
    "sizes that are none": replaced(2, "Reshape", ["d", "w"], ["e"]),
    "a constant of nothing": replaced(1, "Constant", [], ["d"]),
    "2**60 ones": replaced(1, "ConstantOfShape", ["big"], ["d"]),
    "2**60 copies": replaced(1, "Expand", ["b", "big"], ["d"]),
    "2**60 tiles": replaced(1, "Tile", ["b", "one_big"], ["d"]),
    "a range without end": replaced(1, "Range", ["zero", "one_big0", "one0"], ["d"]),
    "a range without steps": replaced(1, "Range", ["zero", "one0", "zero"], ["d"]),
    "2**60 padded": replaced(1, "Pad", ["b", "pad_big"], ["d"]),
    "an einsum of letters": replaced(1, "Einsum", ["c", "c"], ["d"], equation="a" * 5000),
    "an einsum of nothing": replaced(1, "Einsum", ["c"], ["d"]),
    "scales of 1e30": replaced(1, "Upsample", ["c"], ["d"], scales=[1.0, 1.0, 1e30, 1e30]),
    "blocks of 0": replaced(1, "DepthToSpace", ["c"], ["d"], blocksize=0),
    "k of 100": replaced(1, "TopK", ["c", "k"], ["d", "dd"]),
    "division by zero": lambda m: (replaced(1, "Div", ["s", "s"], ["dd"])(m),
                                   m.graph.node.insert(2, node("Reshape", ["c", "dd"], ["d"]))),
}  # fmt: skip


@pytest.mark.parametrize("case", CALLS)
def test_calls(backend, tmp_path, case):
    made = changed(CALLS[case])
    extra = {"s2": np.array([7, 7]), "big": np.array([1 << 30, 1 << 30]), "one_big": np.array([1 << 60]),
             "pad_big": np.array([0, 1 << 60]), "zero": np.array(0), "one0": np.array(1),
             "one_big0": np.array(1 << 60), "k": np.array([100])}  # fmt: skip
    for name, array in extra.items():
        made.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    module = cf.onnx.load(models.write(tmp_path, made), layout="NCHW")
    with pytest.raises(CnnfastError) as caught:
        module(X)
    assert len(str(caught.value)) < 2000


def external(folder: Path, location: str, content: bytes | None = None, **more: Any) -> Path:
    """The network with its first tensor in another file."""
    made = network()
    tensor = first(made)
    data = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = 1
    for key, value in {"location": location, **more}.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, str(value)
    if content is not None or not more.get("missing"):
        target = folder / "w.data"
        if not target.exists():
            target.write_bytes(data if content is None else content)
    return models.write(folder, made)


def test_external_data(tmp_path):
    sub = tmp_path / "sub"
    sub.mkdir()
    (sub / "w.bin").write_bytes(bytes(16) + np.ones(108, F32).tobytes())
    for path in (
        external(tmp_path, "w.data"),
        external(tmp_path, "sub/w.bin", offset=16, length=432),
        external(tmp_path, "./w.data"),
    ):
        module = cf.onnx.load(path, layout="NCHW")
        np.testing.assert_array_equal(module.state_dict()["w"], np.ones((3, 3, 3, 4)))


def test_external_data_stays_in_the_folder(tmp_path):
    folder, outside = tmp_path / "model", tmp_path / "secret"
    folder.mkdir()
    outside.write_bytes(np.ones(108, F32).tobytes())
    os.symlink(outside, folder / "link")
    os.symlink(tmp_path, folder / "up")
    os.mkfifo(folder / "pipe")
    locations = {
        str(outside): "model's folder",
        "../secret": "model's folder",
        "sub/../../secret": "model's folder",
        "..\\secret": "model's folder",
        "link": "link out",
        "up/secret": "link out",
        "": "model's folder",
        "nul\0": "model's folder",
        "C:\\secret": "model's folder",
        "pipe": "regular file",
        ".": "regular file",
        "nothing": "cannot be read",
    }
    for location, message in locations.items():
        path = external(folder, location)
        with pytest.raises(WeightsError, match=message):
            cf.onnx.load(path)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"offset": 4}, "a file of 432"),
        ({"offset": -4}, "a number as offset"),
        ({"offset": "0x10"}, "a number as offset"),
        ({"offset": "9" * 30}, "a number as offset"),
        ({"offset": "٣"}, "a number as offset"),
        ({"length": 428}, "expected 432 bytes, came 428"),
        ({"length": 1 << 50}, "expected 432"),
        ({"length": 1 << 60}, "a number as length"),
    ],
)
def test_lying_external_data(tmp_path, more, message):
    path = external(tmp_path, "w.data", **more)
    with pytest.raises(WeightsError, match=message):
        cf.onnx.load(path)


def test_external_data_that_stands_for_much_more(tmp_path):
    """One part of a file under very many names is refused before memory is taken for it."""
    size = 1 << 26
    with open(tmp_path / "w.data", "wb") as file:
        file.truncate(size)
    made = models.model([node("Relu", ["a"], ["y"])], {"a": X}, ["y"])
    for i in range(100):
        tensor = made.graph.initializer.add(name=f"t{i}", data_type=1, dims=[size // 4], data_location=1)
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", "w.data"
    refused(tmp_path, made, "out of files of")


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises((WeightsError, OSError)):
            cf.onnx.load(path)
    with pytest.raises(FileNotFoundError):
        cf.onnx.load(tmp_path / "nothing.onnx")


def test_many_nodes(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MAX_NODES", 100)
    nodes = [node("Relu", [f"x{i}"], [f"x{i + 1}"]) for i in range(101)]
    refused(tmp_path, models.model(nodes, {"x0": X}, ["x101"]), "at most 100 nodes")


def test_packed_numbers(tmp_path):
    """Whole numbers of variable length: cut off, too long."""
    for data, message in ((b"\x80", "cut off"), (b"\xff" * 11 + b"\1", "10 bytes"), (b"\1" * 5, "came 5")):
        made = network()
        tensor = wire.encode([(1, 2), (2, 7), (8, "s"), (7, data)])
        del made.graph.initializer[2]
        content = made.SerializeToString()
        # A second graph field is taken for the graph, as the last one counts.
        graph = made.graph.SerializeToString() + field(5, tensor)
        refused(tmp_path, content + field(7, graph), message)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_loading(tmp_path):
    """Reading takes little more than the weights, though they are turned round."""
    from processes import output_of

    big = np.ones((4096, 6144), F32)  # 96 MiB, to be transposed
    kernel = np.ones((512, 512, 3, 3), F32)
    nodes = [node("Gemm", ["a", "w"], ["b"], transB=1), node("Identity", ["b"], ["y"])]
    made = models.model(nodes, {"a": np.ones((1, 6144), F32)}, ["y"], {"w": big, "k": kernel})
    path = models.write(tmp_path, made)
    del made
    script = f"""
import cnnfast as cf
def peak():
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) * 1024
cf.onnx
before = peak()
module = cf.onnx.load({str(path)!r})
weights = sum(p.data.nbytes for p in module.parameters())
assert weights == {big.nbytes}, weights
print((peak() - before) / weights)
"""
    assert float(output_of(script)) <= 1.3
