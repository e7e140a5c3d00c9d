"""The benchmark suite: its data, its verification and its output."""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys

import numpy as np
import pytest

bench = pytest.importorskip("cnnfast.bench", reason="the benchmarks are not linked into this checkout")

import cnnfast as cf  # noqa: E402
from cnnfast.bench import arrays, cli, machine, peers, problems, report, runner  # noqa: E402
from cnnfast.bench.peers import Candidate, NotSupported, onnx_model  # noqa: E402
from cnnfast.bench.problems import OPERATORS, Problem, ProblemError, load, select  # noqa: E402
from cnnfast.cli import main  # noqa: E402

WEIGHTED = ("conv2d", "depthwise_conv2d", "conv2d_transpose", "linear")

# Multiply-adds in 10^9, parameters, and whether the network has batch norm (two parameters per channel).
NETWORKS = {
    "lenet5": (0.0004165, 61_706, False),
    "alexnet": (0.7244, 60_965_224, False),
    "vgg16": (15.470, 138_357_544, False),
    "resnet18": (1.814, 11_689_512, True),
    "resnet50": (4.089, 25_557_032, True),
    "googlenet": (1.583, 6_998_552, False),
    "inception_v3": (5.713, 23_834_568, True),
    "mobilenet_v1": (0.5687, 4_231_976, True),
    "mobilenet_v2": (0.3008, 3_504_872, True),
    "efficientnet_b0": (0.3858, 5_288_548, True),
    "unet": (48.09, 31_030_593, False),
    "yolov2_tiny": (3.485, None, True),
}


def parameters(layers: list[Problem], batch_norm: bool) -> int:
    total = 0
    for p in layers:
        if p.op in WEIGHTED:
            # Squeeze-and-excitation works on 1x1 images and has biases instead of batch norm.
            plain = p.op == "linear" or p.shapes["x"][1:3] == [1, 1] or not batch_norm
            total += p.count * (math.prod(p.shapes["w"]) + problems.channels_out(p) * (1 if plain else 2))
    return total


def test_every_network_is_listed():
    assert set(problems.layer_files()) == set(NETWORKS) | {"operators", "quick"}


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_add_up_to_the_network(name):
    gmacs, total, batch_norm = NETWORKS[name]
    layers = load(name)
    assert sum(p.count * p.macs for p in layers) / 1e9 == pytest.approx(gmacs, rel=1e-3)
    if total is not None:
        assert parameters(layers, batch_norm) == total
    assert len({p.key() for p in layers}) == len(layers), "equal layers belong in one entry with a count"


@pytest.mark.parametrize("name", ["operators", "quick"])
def test_the_general_files_cover_every_operator(name):
    assert {p.op for p in load(name)} == set(OPERATORS)


@pytest.mark.parametrize("name", problems.layer_files())
def test_problems_state_shapes_and_costs(name):
    for p in load(name):
        assert p.out is None or all(d > 0 for d in p.out), p
        assert p.flops >= 0
        assert p.bytes > 0 or p.out is None
        assert p.macs > 0 or p.op not in WEIGHTED


@pytest.mark.parametrize(
    ("entry", "shape"),
    [
        ({"op": "conv2d", "x": [1, 7, 7, 1], "w": [3, 3, 1, 2], "stride": 2}, (1, 3, 3, 2)),
        ({"op": "conv2d", "x": [1, 6, 6, 1], "w": [3, 3, 1, 1], "padding": [[0, 1], [0, 2]]}, (1, 5, 6, 1)),
        ({"op": "conv2d", "x": [1, 9, 9, 4], "w": [3, 3, 2, 6], "dilation": 2, "groups": 2}, (1, 5, 5, 6)),
        ({"op": "depthwise_conv2d", "x": [1, 5, 5, 3], "w": [3, 3, 3, 2]}, (1, 3, 3, 6)),
        (
            {"op": "conv2d_transpose", "x": [1, 2, 2, 3], "w": [3, 3, 4, 3], "stride": 2, "padding": 1},
            (1, 3, 3, 4),
        ),
        ({"op": "max_pool2d", "x": [1, 112, 112, 64], "size": 3, "stride": 2}, (1, 55, 55, 64)),
        (
            {"op": "max_pool2d", "x": [1, 112, 112, 64], "size": 3, "stride": 2, "ceil_mode": True},
            (1, 56, 56, 64),
        ),
        ({"op": "max_pool2d", "x": [1, 3, 3, 1], "size": 2, "padding": 1, "ceil_mode": True}, (1, 2, 2, 1)),
        ({"op": "linear", "x": [2, 5], "w": [5, 3]}, (2, 3)),
    ],
)
def test_output_shapes(entry, shape):
    assert problems.parse({"name": "p", **entry}, "test").out == shape


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"op": "conv3d", "x": [1, 3, 3, 1]}, "unknown operator 'conv3d'"),
        ({"op": "conv2d", "x": [1, 3, 3, 4], "w": [3, 3, 3, 1]}, r"w\[2\] \* groups == x\[3\]"),
        ({"op": "conv2d", "x": [1, 3, 3, 4]}, "the shapes x, w"),
        ({"op": "conv2d", "x": [1, 2, 2, 4], "w": [3, 3, 4, 1]}, "fits into the padded image"),
        ({"op": "linear", "x": [1, 4], "w": [3, 4]}, r"w\[0\] == x\[1\]"),
    ],
)
def test_bad_problems_are_refused(entry, message):
    with pytest.raises(ProblemError, match=message):
        problems.parse({"name": "p", **entry}, "test")


def test_selection(tmp_path):
    assert [p.key() for p in select([])] == [p.key() for p in load("quick")]
    assert {p.op for p in select(["linear", "nms"])} == {"linear", "nms"}
    assert len(select(["lenet5", "lenet5"])) == len(load("lenet5"))
    own = tmp_path / "own.json"
    own.write_text('{"problems": [{"name": "a", "op": "relu", "x": [1, 2, 2, 3]}]}')
    assert [p.name for p in select([str(own)])] == ["a"]
    for word in ("no_such_op", "no_such_file.json"):
        with pytest.raises(ProblemError, match=word):
            select([word])
    own.write_text("[1, 2")
    with pytest.raises(ProblemError, match="not a layer file"):
        select([str(own)])


def test_operands_are_the_same_every_time():
    p = load("quick")[0]
    first, second = arrays.make(p), arrays.make(p)
    assert first.keys() == {"x", "w", "b"}
    assert all(np.array_equal(first[key], second[key]) and first[key].dtype == np.float32 for key in first)


TINY = Problem("tiny", "linear", {"x": [2, 8], "w": [8, 4]})


def plain(problem, operands, threads):
    return {"matmul": Candidate(lambda: operands["x"] @ operands["w"])}


def off_by_a_little(problem, operands, threads):
    return {"off": Candidate(lambda: operands["x"] @ operands["w"] + np.float32(1e-3))}


def broken(problem, operands, threads):
    raise RuntimeError("no luck\nand a long trace")


def absent(problem, operands, threads):
    raise NotSupported("has no linear")


@pytest.fixture
def known_answer(monkeypatch):
    """The float64 answer without cnnfast's own operators."""
    exact = lambda p, o: (o["x"].astype(np.float64) @ o["w"].astype(np.float64), "test")  # noqa: E731
    monkeypatch.setattr(runner, "float64_answer", exact)


def test_only_right_answers_are_timed(known_answer):
    field = [
        runner.Contestant(name, ("eager",), prepare)
        for name, prepare in (
            ("cnnfast", plain),
            ("off", off_by_a_little),
            ("broken", broken),
            ("absent", absent),
        )
    ]
    result = runner.run_problem(TINY, field, 1, rounds=3)
    got = result.measurements
    assert {label: m.status for label, m in got.items()} == {
        "cnnfast": "ok",
        "off": "WRONG",
        "broken": "failed",
        "absent": "not supported",
    }
    assert got["cnnfast"].ms > 0
    assert got["cnnfast"].rounds == 3
    assert got["cnnfast"].error < 1e-6
    assert got["broken"].note == "RuntimeError: no luck"
    assert all(got[label].ms is None for label in ("off", "broken", "absent"))


def test_report_and_json(known_answer, tmp_path):
    field = [runner.Contestant("cnnfast", ("eager",), plain), runner.Contestant("numpy", ("eager",), plain)]
    roof = machine.Roof(1, 100.0, {1 << 14: 50.0}, "test")
    run = report.Run(
        [runner.run_problem(TINY, field, 1, rounds=3)],
        field,
        ["eager"],
        {1: roof},
        {"cpu": "some", "cores": 1, "isa": "v3"},
        {"numpy": np.__version__},
        {"torch": "not installed"},
        "2026-01-01",
        3,
    )
    text = report.tables(run)
    assert "### eager, 1 thread\n" in text
    assert "Without torch: not installed" in text
    assert "2x8 8x4" in text
    report.write_json(run, tmp_path / "new" / "out.json")
    data = json.loads((tmp_path / "new" / "out.json").read_text())
    assert data["results"][0]["measurements"]["cnnfast"]["status"] == "ok"
    assert data["peaks"][0]["gflops"] == 100.0
    assert data["results"][0]["macs"] == 64
    pytest.importorskip("matplotlib")
    report.plot(run, tmp_path / "out.png")
    assert (tmp_path / "out.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "not installed (some_peer)"),
        ("import another_part", "not installed (another_part)"),
        ("raise RuntimeError('no match\\nmore')", "cannot be imported (some_peer: RuntimeError: no match)"),
        (
            "from json import nothing",
            "cannot be imported (some_peer: ImportError: cannot import name 'nothing'",
        ),
        ("x = 1", None),
    ],
)
def test_peers_that_cannot_be_imported_are_left_out(content, why, tmp_path, monkeypatch):
    if content is not None:
        (tmp_path / "some_peer.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "some_peer", raising=False)
    found = peers.missing("json", "some_peer")
    assert found is None if why is None else found.startswith(why)
    sys.modules.pop("some_peer", None)


def test_errors_are_scaled_and_indices_exact():
    operands = arrays.make(TINY)
    exact = operands["x"].astype(np.float64) @ operands["w"]
    assert arrays.error(TINY, operands, exact, exact) == 0
    assert arrays.error(TINY, operands, exact[:1], exact) == math.inf
    assert arrays.error(TINY, operands, np.full_like(exact, np.nan), exact) == math.inf
    nms = Problem("n", "nms", {"boxes": [3, 4]}, {"iou_threshold": 0.5})
    assert arrays.error(nms, {}, np.array([0, 2]), np.array([0, 2])) == 0
    assert arrays.error(nms, {}, np.array([2, 0]), np.array([0, 2])) == math.inf


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser()
    cli.add_arguments(made)
    return made


@pytest.mark.parametrize(
    "argv", [["--threads", "two"], ["--threads", "0"], ["--vs", "abacus"], ["--columns", "third"]]
)
def test_bad_arguments(argv):
    with pytest.raises(SystemExit):
        parser().parse_args(argv)


def test_unknown_operator_ends_with_a_message(capsys):
    assert cli.run(parser().parse_args(["conv9d"])) == 2
    message = capsys.readouterr().err
    assert "'conv9d' is neither an operator nor a layer file" in message
    assert "vgg16" in message


def test_isa_takes_a_new_process(monkeypatch):
    called = {}

    def call(argv, env):
        called.update(argv=argv, isa=env["CNNFAST_ISA"])
        return 0

    monkeypatch.setattr(cli.subprocess, "call", call)
    monkeypatch.delenv("CNNFAST_ISA", raising=False)
    assert cli.run(parser().parse_args(["vgg16", "--isa", "v3", "--threads", "1,2", "--json", "a.json"])) == 0
    assert called["isa"] == "v3"
    assert called["argv"][1:4] == ["-m", "cnnfast.bench", "vgg16"]
    assert "--threads 1,2" in " ".join(called["argv"])


def test_import_brings_no_peer():
    code = (
        "import sys, cnnfast.bench.cli, cnnfast.bench.runner, cnnfast.bench.report\n"
        "print([m for m in ('torch', 'onnx', 'onnxruntime', 'openvino', 'matplotlib') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize("problem", load("quick"), ids=lambda p: f"{p.op}-{p.name}")
def test_quick_problems_are_calls_that_cnnfast_takes(problem):
    import cnnfast as cf

    if not hasattr(cf.ops, problem.op):
        pytest.skip(f"cnnfast.ops has no {problem.op}")
    operands = arrays.make(problem)
    exact, _ = runner.float64_answer(problem, operands)
    assert problem.out is None or exact.shape == problem.out
    for contestant in runner.contestants(["numpy"], ["eager", "packed"])[0]:
        measurement, _ = runner.verify(contestant, problem, operands, exact, 1)
        assert measurement.status == "ok", (contestant.label, measurement.note)


def test_onnx_models_hold_for_every_problem():
    pytest.importorskip("onnx")
    built = 0
    for p in load("quick"):
        try:
            built += bool(onnx_model.build(p, arrays.make(p)))
        except NotSupported:
            continue
    assert built >= 25


def test_style_beside_torch(native, tmp_path, capsys):
    """J and its gradient are those of torch before anything is timed."""
    pytest.importorskip("torch")
    file = tmp_path / "style.json"
    threads = cf.get_num_threads()
    assert (
        main(["bench", "style", "--size", "32", "--rounds", "1", "--threads", "1", "--json", str(file)]) == 0
    )
    assert cf.get_num_threads() == threads
    assert "| 32 x 32 | 1" in capsys.readouterr().out
    (row,) = json.loads(file.read_text())["results"]
    assert row["measurements"]["cnnfast"]["error"] < 2e-2
    assert row["ratio"] > 0


def test_style_takes_sizes_that_vgg_takes(capsys):
    assert main(["bench", "style", "--size", "8"]) == 2
    assert "--size must be at least 16" in capsys.readouterr().err
