"""Compiled networks in files: the same bits without packing, and nothing but errors from damaged ones."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cnnfast as cf
from cnnfast import graph as G
from cnnfast import ops
from cnnfast.errors import WeightsError
from networks import randomize, small
from test_engine import NAMES, Wired, flat, same_bits
from test_graph import HEAVY, WIRINGS, Network

pytestmark = pytest.mark.usefixtures("native")


def plain(spec: Any) -> Any:
    """A description without what only native code can compare."""
    if not dataclasses.is_dataclass(spec):
        return spec
    return {f.name: plain(getattr(spec, f.name)) for f in dataclasses.fields(spec) if f.name != "native"} | {
        "kind": type(spec).__name__
    }


def check_settings(graph: G.Graph) -> None:
    """Every description follows from shapes and settings, which survive a file."""
    for node in graph.nodes:
        kept = json.loads(json.dumps(node.op.settings(node.spec)))
        shapes = [None if v is None else v.shape for v in node.inputs]
        spec = node.op.infer(*node.op.shapes(*shapes), **kept)
        assert plain(spec) == plain(node.spec), node.op.name


NETWORKS = [n for n in NAMES if n not in HEAVY]


@pytest.mark.parametrize("name", NETWORKS)
def test_settings_of_every_network(name: str) -> None:
    model, shape = small(name)
    graph = G.trace(model, (2, *shape))
    check_settings(graph)
    check_settings(G.optimize(graph))


SAVED = ["lenet5", "googlenet", "efficientnet_b0", "unet", "nn4_small2", "yolov3_tiny", "inception_resnet_v1"]


@pytest.mark.parametrize("name", SAVED)
def test_saved_networks(name: str, tmp_path: Path, rng: np.random.Generator) -> None:
    model, shape = small(name)
    randomize(model, rng)
    x = rng.standard_normal((2, *shape)).astype(np.float32)
    engine = cf.compile(model, x.shape)
    one = engine(x[:1])
    engine.save(tmp_path / "network.cnnfast")
    loaded = cf.load_engine(tmp_path / "network.cnnfast")
    assert loaded.name == engine.name
    result = loaded(x)
    assert type(result) is type(engine(x))
    same_bits(result, engine(x))
    same_bits(loaded(x[:1]), one)
    with pytest.raises(cf.errors.ShapeError, match="was compiled for"):
        loaded(np.zeros((3, *shape), np.float32))
    loaded.save(tmp_path / "again.cnnfast")
    assert (tmp_path / "again.cnnfast").stat().st_size == (tmp_path / "network.cnnfast").stat().st_size
    same_bits(cf.load_engine(tmp_path / "again.cnnfast")(x), engine(x))


@pytest.mark.parametrize("name", [n for n, (_, left) in WIRINGS.items() if left])
def test_saved_small_graphs(name: str, tmp_path: Path, rng: np.random.Generator) -> None:
    model = randomize(Network(WIRINGS[name][0]), rng).eval()
    x = rng.standard_normal((2, 6, 5, 4)).astype(np.float32)
    engine = cf.compile(model, x.shape)
    engine.save(tmp_path / "e")
    same_bits(cf.load_engine(tmp_path / "e")(x), engine(x))


def everything(x: Any) -> Any:
    """One of each kind of operator that graphs can hold."""
    y = ops.exp(x)
    values, places = ops.topk(ops.reshape(y, (2, -1)), 3)
    picked = ops.gather(ops.reshape(x, (2, -1)), np.array([[0, 1], [5, 2]]), 1)
    chosen = ops.where(ops.greater(y, 0.5), ops.clip(y, 0.1), ops.neg(x))
    small = ops.resize(x, (3, 5), mode="bilinear", antialias=True)
    padded = ops.pad2d(small, ((1, 0), (0, 2)), mode="reflect")
    pooled = ops.max_pool2d(padded, (2, 3), stride=(2, 1), ceil_mode=True)
    sides = ops.concat([pooled, ops.avg_pool2d(padded, (2, 3), stride=(2, 1), ceil_mode=True)])
    boxes = np.array([[0, 0, 0, 2, 2], [1, 1, 0, 3, 3]], np.float32)
    return {
        "values": values, "places": places, "picked": picked, "chosen": chosen, "sides": sides,
        "more": (
            ops.tile(ops.expand(ops.reduce_mean(x, (1,), keepdims=True), x.shape), (1, 1, 2, 1)),
            ops.instance_norm(x), ops.local_response_norm(x, size=4), ops.log_softmax(x, 1),
            ops.argmax(x, 2), ops.cast(ops.greater(x, 0.0), np.int32), ops.l2_normalize(x),
            ops.l2_pool2d(x, 2), ops.gram_matrix(x), ops.roi_align(x, boxes, 2),
            ops.roi_pool(x, boxes, (2, 1)),
            ops.transpose(x, (2, 0, 3, 1))[::2, 1], ops.matmul(x, ops.transpose(x, (0, 1, 3, 2))),
            ops.prelu(x, np.full(4, 0.3, np.float32)), ops.hard_sigmoid(x), ops.elu(x, alpha=0.5),
        ),
        "constant": np.arange(6).reshape(2, 3),
    }  # fmt: skip


def test_saved_operators(tmp_path: Path, rng: np.random.Generator) -> None:
    model = Wired(everything)
    x = rng.standard_normal((2, 6, 6, 4)).astype(np.float32)
    check_settings(G.trace(model, x.shape))
    engine = cf.compile(model, x.shape)
    expected = G.interpret(G.trace(model, x.shape), x)
    got, want = [flat(list(results.values())) for results in (engine(x), expected)]
    for key, one, other in zip(flat_names(expected), got, want, strict=True):
        np.testing.assert_allclose(one, other, 1e-5, 1e-5, err_msg=key)
    engine.save(tmp_path / "e")
    same_bits(list(cf.load_engine(tmp_path / "e")(x).values()), list(engine(x).values()))


def flat_names(results: Any, name: str = "") -> list[str]:
    if isinstance(results, dict):
        return [n for key, r in results.items() for n in flat_names(r, f"{name}.{key}")]
    if isinstance(results, tuple):
        return [n for i, r in enumerate(results) for n in flat_names(r, f"{name}.{i}")]
    return [name]


def test_errors_of_saving(tmp_path: Path) -> None:
    model = cf.models.lenet5().eval()
    with pytest.raises(ValueError, match="nothing is compiled"):
        cf.compile(model).save(tmp_path / "e")
    with pytest.raises(cf.errors.BackendError, match="nothing that could be saved"):
        cf.compile(model, (1, 32, 32, 1), device="numpy").save(tmp_path / "e")
    with pytest.raises(FileNotFoundError):
        cf.load_engine(tmp_path / "missing")
    assert not list(tmp_path.iterdir())


def test_another_level_is_an_error(tmp_path: Path) -> None:
    levels = [name for name, good in cf.config._cpu.levels().items() if good]
    if len(levels) < 2:
        pytest.skip("one instruction level is built")
    other = next(name for name in levels if name != cf.config._cpu.isa())
    cf.compile(cf.models.lenet5().eval(), (1, 32, 32, 1)).save(tmp_path / "e")
    code = f"import cnnfast as cf; cf.load_engine({str(tmp_path / 'e')!r})"
    ran = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "CNNFAST_ISA": other}, capture_output=True, text=True
    )
    assert (
        f"WeightsError: load_engine: the file was compiled for level {cf.config._cpu.isa()!r}" in ran.stderr
    )
    assert f"runs {other!r}" in ran.stderr


# --- damaged and hostile files ----------------------------------------------------------------------


def saved(tmp_path: Path) -> tuple[Path, bytes]:
    path = tmp_path / "e"
    model = Network(WIRINGS["residual"][0]).eval()
    cf.compile(model, (2, 6, 5, 4)).save(path)
    return path, path.read_bytes()


def parts(data: bytes) -> tuple[Any, bytes]:
    length = int.from_bytes(data[16:24], "little")
    begin = -(-(24 + length) // 4096) * 4096
    return json.loads(data[24 : 24 + length]), data[begin:]


def joined(header: Any, weights: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    begin = -(-(24 + len(text)) // 4096) * 4096
    return (
        b"cnnfast\0"
        + (2).to_bytes(4, "little")
        + zlib.crc32(text).to_bytes(4, "little")
        + len(text).to_bytes(8, "little")
        + text
        + bytes(begin - 24 - len(text))
        + weights
    )


def test_every_truncation_is_an_error(tmp_path: Path) -> None:
    path, data = saved(tmp_path)
    for size in (0, 7, 8, 23, 24, 30, 500, 4096, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(WeightsError, match="load_engine: "):
            cf.load_engine(path)


HOSTILE: dict[str, Any] = {
    "offset": lambda h: h["params"][0]["forms"].update(
        {k: [[1 << 62, 8, True]] for k in h["params"][0]["forms"]}
    ),
    "negative offset": lambda h: h["params"][0]["forms"].update(
        {k: [[-64, 8, True]] for k in h["params"][0]["forms"]}
    ),
    "count": lambda h: h["params"][0]["forms"].update({k: [[0, 8, True]] for k in h["params"][0]["forms"]}),
    "crooked offset": lambda h: h["params"][0]["forms"].update(
        {k: [[4, p[0][1], True] for p in [v]] for k, v in h["params"][0]["forms"].items()}
    ),
    "form": lambda h: h["params"][0].update(forms={"array of another kind": []}),
    "no parts": lambda h: h["params"][0]["forms"].update({k: [] for k in h["params"][0]["forms"]}),
    "parameter shape": lambda h: h["params"][0].update(shape=[3, 3, 4, 400]),
    "parameter type": lambda h: h["params"][0].update(dtype="object"),
    "input shape": lambda h: h["programs"][0]["inputs"][0].__setitem__(1, [2, 6, 5, 5]),
    "huge input": lambda h: h["programs"][0]["inputs"][0].__setitem__(1, [1 << 40, 1 << 40, 1 << 40, 4]),
    "input type": lambda h: h["programs"][0]["inputs"][0].__setitem__(2, "O"),
    "operator": lambda h: h["programs"][0]["nodes"][0].__setitem__(0, "system"),
    "operator of unknown size": lambda h: h["programs"][0]["nodes"][0].__setitem__(0, "nms"),
    "settings": lambda h: h["programs"][0]["nodes"][0][1].update(stride=[0, 1]),
    "more settings": lambda h: h["programs"][0]["nodes"][0][1].update(open="/etc/passwd"),
    "padding": lambda h: h["programs"][0]["nodes"][0][1].update(padding=[[1 << 61, 0], [0, 0]]),
    "value": lambda h: h["programs"][0]["nodes"][0][2].__setitem__(0, 77),
    "list as value": lambda h: h["programs"][0]["nodes"][0][2].__setitem__(0, [1]),
    "written twice": lambda h: h["programs"][0]["nodes"].append(h["programs"][0]["nodes"][0]),
    "output": lambda h: h["programs"][0]["outputs"].__setitem__(0, -1),
    "structure": lambda h: h["programs"][0].update(structure=[0, 1]),
    "too many steps": lambda h: h["programs"][0].update(nodes=h["programs"][0]["nodes"] * 20_000),
    "packing": lambda h: h.update(packing=-1),
    "level": lambda h: h.update(level="v99"),
    "version": lambda h: h.update(cnnfast="0.0.9"),
    "no version": lambda h: h.pop("cnnfast"),
    "lean": lambda h: h.update(lean=2),
    "no programs": lambda h: h.pop("programs"),
    "programs": lambda h: h.update(programs=3),
    "params": lambda h: h.update(params={"0": 1}),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_headers(what: str, tmp_path: Path) -> None:
    path, data = saved(tmp_path)
    header, weights = parts(data)
    path.write_bytes(joined(header, weights))
    cf.load_engine(path)
    HOSTILE[what](header)
    path.write_bytes(joined(header, weights))
    with pytest.raises(WeightsError, match="load_engine: "):
        cf.load_engine(path)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"[" * 100_000, b"nul", b"{}", b"\xff\xfe"])
def test_headers_that_are_no_json(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "e"
    path.write_bytes(joined(text, b""))
    with pytest.raises(WeightsError, match="load_engine: "):
        cf.load_engine(path)


def test_one_wrong_bit_is_an_error(tmp_path: Path) -> None:
    """A stride of 3 for 2, or weights of a neighbour, would be another network without a word."""
    path, data = saved(tmp_path)
    length = int.from_bytes(data[16:24], "little")
    for place in range(24 + length):
        changed = bytearray(data)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        with pytest.raises(WeightsError, match="load_engine: "):
            cf.load_engine(path)


@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_changed_bytes(tmp_path: Path, data: st.DataObject) -> None:
    """With the right checksum, loading and running still end in a result or an ordinary error."""
    path = tmp_path / "e"
    if not path.exists():
        saved(tmp_path)
        (tmp_path / "good").write_bytes(path.read_bytes())
    content = bytearray((tmp_path / "good").read_bytes())
    length = int.from_bytes(content[16:24], "little")
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, 23 + length))] = data.draw(
            st.sampled_from(b'0123456789[]{},:" anx\0\xff')
        )
    content[12:16] = zlib.crc32(content[24 : 24 + length]).to_bytes(4, "little")
    path.write_bytes(content)
    try:
        engine = cf.load_engine(path)
        shapes = next(iter(engine._made))
        if sum(int(np.prod(shape)) for shape in shapes) < 1 << 20:
            engine(*[np.ones(shape, np.float32) for shape in shapes])
    except (cf.errors.CnnfastError, MemoryError, ValueError, TypeError):
        pass
