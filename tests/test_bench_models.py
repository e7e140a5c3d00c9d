"""``bench models``: contestants in processes of their own, of which only the right ones are timed."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("cnnfast.bench", reason="the benchmarks are not linked into this checkout")

from cnnfast import cli as commands
from cnnfast.bench import machine, peers
from cnnfast.bench.networks import child, race, report, source
from cnnfast.bench.networks import cli as bench

# Adapters for a child: cnnfast's own modules, run as they are, stand in for a compiled network.
COMMON = """
from cnnfast.bench.networks.source import load_model, only
from cnnfast.bench.peers import Candidate, NotSupported
LABEL, WAYS = __name__.rpartition(".")[2][:-5], ("plain",)
available, version = (lambda: None), (lambda: "1")
set_threads = lambda threads: None
convert = lambda network: None
def load(network, way, threads, x):
    model = load_model(network)
    return Candidate(lambda: model(x), only)
"""
ADAPTERS = {
    "cnnfast": "",
    "other": "WAYS = ('plain', 'bent')\n"
    "def load(network, way, threads, x):\n"
    "    model = load_model(network)\n"
    "    return Candidate(lambda: model(x), lambda out: only(out) + (way == 'bent'))\n",
    "wrong": "def load(network, way, threads, x):\n"
    "    model = load_model(network)\n"
    "    return Candidate(lambda: model(x), lambda out: only(out) * 1.01)\n",
    "absent": "def convert(network): raise NotSupported('has no convolution')\n",
    "broken": "def load(network, way, threads, x): raise ValueError('no luck\\nand a long trace')\n",
    "gone": "import os, sys\n"
    "def load(network, way, threads, x):\n"
    "    print('last words', file=sys.stderr, flush=True)\n"
    "    os._exit(3)\n",
    "late": "import os, numpy\n"
    "def load(network, way, threads, x):\n"
    "    model, calls = load_model(network), []\n"
    "    def run():\n"
    "        calls.append(1)\n"
    "        return model(x) if len(calls) < 9 else os._exit(4)\n"
    "    return Candidate(run, only)\n",
    "missing": "available = lambda: 'not installed (missing)'\n",
}


@pytest.fixture
def stubs(tmp_path, monkeypatch):
    """The adapters above in place of the real ones, here and in children."""
    folder = tmp_path / "adapters"
    folder.mkdir()
    for name, text in ADAPTERS.items():
        (folder / f"{name}_peer.py").write_text(COMMON + text)
    start = f"import cnnfast.bench.peers as p\np.__path__.insert(0, {str(folder)!r})\n"
    (folder / "sitecustomize.py").write_text(start)
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.setattr(peers, "__path__", [str(folder), *peers.__path__])
    monkeypatch.setattr(peers, "network_names", lambda: [n for n in ADAPTERS if n != "cnnfast"])
    for name in ADAPTERS:
        monkeypatch.delitem(sys.modules, f"cnnfast.bench.peers.{name}_peer", raising=False)
    yield
    for name in ADAPTERS:
        sys.modules.pop(f"cnnfast.bench.peers.{name}_peer", None)


@pytest.fixture(scope="module")
def lenet(tmp_path_factory):
    return source.build("lenet5", 2, tmp_path_factory.mktemp("lenet"))


def test_a_network_is_stored_with_its_answer(lenet):
    again = source.read(lenet.folder)
    assert again == lenet
    assert (lenet.shape, lenet.out) == ((2, 32, 32, 1), (2, 10))
    assert lenet.flops == pytest.approx(2 * 2 * 416_520, rel=1e-3)
    exact = lenet.exact()
    assert exact.dtype == np.float64
    assert 0.3 < exact.std() < 3, "values keep their size"
    got = source.load_model(lenet)(lenet.input())
    assert race.relative_error(got, exact) < 1e-5


def test_weights_are_the_same_every_time(lenet, tmp_path):
    again = source.build("lenet5", 1, tmp_path)
    assert again.weights.read_bytes() == lenet.weights.read_bytes()
    assert np.array_equal(again.exact()[0], lenet.exact()[0])


def test_values_keep_their_size_over_many_layers(tmp_path):
    exact = source.build("resnet18", 1, tmp_path).exact()
    assert 0.3 < exact.std() < 3


def test_networks_with_several_outputs_are_refused(tmp_path):
    with pytest.raises(source.NetworkError, match=r"ssd300 has \d outputs"):
        source.build("ssd300", 1, tmp_path)


def test_only_right_contestants_are_timed(stubs, lenet):
    chosen, missing, versions = race.entries(peers.network_names())
    assert missing == {"missing": "not installed (missing)"}
    assert versions["other"] == "1"
    (result,) = race.run_network(lenet, chosen, [1], rounds=3)
    got = result.measurements
    assert {label: m.status for label, m in got.items()} == {
        "cnnfast": "ok",
        "other": "ok",
        "wrong": "WRONG",
        "absent": "not supported",
        "broken": "failed",
        "gone": "failed",
        "late": "failed",
    }
    assert all((m.ms is not None) == (m.status == "ok") for m in got.values())
    ours = got["cnnfast"]
    assert ours.rounds == 3
    assert ours.error < 1e-5
    assert ours.load_ms > 0
    assert ours.first_ms > 0
    if sys.platform == "linux":
        assert 10 << 20 < ours.memory < 4 << 30
    assert got["other"].way == "plain"
    assert got["other"].note.startswith("wrong: bent (")
    assert got["wrong"].note == "relative error 1.0e-02"
    assert got["absent"].note == "has no convolution"
    assert got["broken"].note == "ValueError: no luck"
    assert got["gone"].note == "the process ended with status 3: last words"
    assert got["late"].note.startswith("the process ended with status 4")


def test_the_command_from_arguments_to_files(stubs, tmp_path, monkeypatch, capsys):
    roof = machine.Roof(1, 100.0, {1 << 14: 50.0}, "test")
    monkeypatch.setattr(machine, "measure", lambda threads: roof)
    out = tmp_path / "new" / "out.json"
    argv = ["bench", "models", "lenet5", "--vs", "other,missing", "--with", "direct", "--threads", "1"]
    assert commands.main([*argv, "--batch", "2", "--rounds", "2", "--json", str(out)]) == 0
    text = capsys.readouterr().out
    assert "### Time in ms, 1 thread, batch 2\n" in text
    assert "Without missing: not installed (missing)" in text
    assert "| network | GFLOP " in text
    assert "geometric mean of its time" in text
    data = json.loads(out.read_text())
    assert data["labels"] == ["cnnfast", "cnnfast direct", "other"]
    assert data["batch"] == 2
    (result,) = data["results"]
    assert result["name"] == "lenet5"
    assert result["threads"] == 1
    keys = {"status", "ms", "quartiles", "error", "memory", "import_ms", "load_ms", "first_ms", "way", "cpus"}
    assert keys <= result["measurements"]["other"].keys()


def measured(ms, **more):
    return race.NetworkMeasurement("ok", way="plain", ms=ms, error=1e-6, **more)


def a_run(tmp_path):
    network = source.Network("net", (1, 8, 8, 3), (1, 10), 2e9, tmp_path)
    costs = {"memory": 64 << 20, "import_ms": 1.0, "load_ms": 2.0, "first_ms": 3.0}
    measurements = {
        "cnnfast": measured(20.0, **costs),
        "slow": measured(80.0, **costs),
        "fast": measured(40.0, **{**costs, "memory": 128 << 20}),
        "off": race.NetworkMeasurement("WRONG", "relative error 1.0e-02", error=0.01),
    }
    results = [race.NetworkResult(network, 1, measurements)]
    roofs = {1: machine.Roof(1, 200.0, {1 << 14: 50.0}, "test")}
    about = {"cpu": "some", "cores": 1, "isa": "v3"}
    return report.NetworkRun(results, list(measurements), roofs, about, {}, {}, "2026-01-01", 3, 1)


def test_report(tmp_path):
    run = a_run(tmp_path)
    lines = report.times(run, 1).splitlines()
    cells = [cell.strip() for cell in lines[-1].strip("|").split("|")]
    assert cells == ["net", "2", "20", "80", "40", "WRONG", "fast", "0.50", "50"]
    assert "| 1.00" in report.memory(run, 1)
    assert "3 / 3" in report.starts(run, 1)
    assert "1.0e-02" in report.errors(run, 1)
    text = report.summary(run)
    assert "1 of 1" in text
    assert "0.50 (net, against fast)" in text
    assert "off: WRONG: relative error 1.0e-02: net (threads: 1)" in text
    assert not run.faulty
    run.results[0].measurements["cnnfast"] = race.NetworkMeasurement("failed", "no luck")
    assert run.faulty
    assert "| failed" in report.times(run, 1)


def test_plot(tmp_path):
    pytest.importorskip("matplotlib")
    run = a_run(tmp_path)
    report.plot(run, tmp_path / "out.png")
    assert (tmp_path / "out.png").stat().st_size > 1000
    run.results.clear()
    with pytest.raises(RuntimeError, match="nothing to plot"):
        report.plot(run, tmp_path / "none.png")


@pytest.mark.parametrize(
    "argv",
    [["--threads", "two"], ["--vs", "abacus"], ["--with", "v9"], ["--batch", "0"], ["--rounds", "few"]],
)
def test_bad_arguments(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        bench.main(argv)
    assert stop.value.code == 2
    assert argv[0] in capsys.readouterr().err


def test_unknown_networks_end_with_a_message(capsys):
    assert bench.main(["resnet5"]) == 2
    assert "there is no model 'resnet5'" in capsys.readouterr().err


def test_help_names_the_networks_and_peers(capsys):
    assert commands.main(["bench", "models", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "cnnfast bench models" in text
    assert "googlenet_original" in text
    assert "litert" in text


def test_import_brings_no_peer():
    modules = ("torch", "onnx", "onnxruntime", "openvino", "ncnn", "MNN", "cv2", "matplotlib")
    code = (
        "import sys, cnnfast.bench.networks.cli\n"
        "from cnnfast.bench import peers\n"
        "[peers.get(name) for name in peers.network_names()]\n"
        f"print([m for m in {modules} if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize("peer", peers.network_names())
def test_installed_peers_agree(peer, lenet):
    why, _ = child.ask(peer)
    if why is not None:
        pytest.skip(f"{peer}: {why}")
    (result,) = race.run_network(lenet, [race.Entry(peer, peer, peers.get(peer).WAYS)], [1], rounds=1)
    measurement = result.measurements[peer]
    assert measurement.status == "ok", measurement.note
    assert measurement.error < 1e-3


@pytest.mark.parametrize("name", ["googlenet_original", "mobilenet_v2", "efficientnet_b0"])
def test_torch_modules_compute_the_graph(name, tmp_path):
    torch = pytest.importorskip("torch")
    from cnnfast.bench.peers.torch_model import GraphModule

    network = source.build(name, 1, tmp_path)
    with torch.inference_mode():
        got = GraphModule(source.flat_graph(network))(torch.from_numpy(peers.to_nchw(network.input())))
    assert race.relative_error(got.numpy(), network.exact()) < 1e-4


def test_tflite_files_pad_where_the_format_cannot(tmp_path):
    pytest.importorskip("ai_edge_litert")
    from ai_edge_litert.interpreter import Interpreter

    from cnnfast.bench.peers.tflite_model import build

    network = source.build("resnet18", 1, tmp_path)
    interpreter = Interpreter(model_content=build(source.flat_graph(network)), num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], network.input())
    interpreter.invoke()
    got = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    assert race.relative_error(got, network.exact()) < 1e-4
