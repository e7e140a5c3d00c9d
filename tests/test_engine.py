"""Compiled networks give what the interpreter gives, for every network, shape, thread and batch."""

from __future__ import annotations

import os
import pickle
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cnnfast as cf
from cnnfast import graph as G
from cnnfast import nn, ops
from networks import randomize, small
from processes import SANITIZED, interrupted, output_of
from test_graph import HEAVY, WIRINGS, Network

pytestmark = pytest.mark.usefixtures("native")

# These cannot be traced as a whole.
NAMES = [name for name in cf.models.list_models() if not name.startswith("fasterrcnn")]
# Too much work for the references; the operators themselves are tested elsewhere.
LARGE = {"segnet_vgg16", "ssd300", "ssd300_vgg16", "unet_valid", "yolov3"}
NETWORKS = [
    pytest.param(name, marks=pytest.mark.slow if name in {*HEAVY, "unet_valid", "ssd300_vgg16"} else ())
    for name in NAMES
]


def flat(results: Any) -> list[np.ndarray]:
    if isinstance(results, dict):
        results = tuple(results.values())
    return [results] if isinstance(results, np.ndarray) else [a for r in results for a in flat(r)]


def close(got: Any, want: Any, tolerance: float = 1e-4) -> None:
    """Same nesting and shapes, and a small error by norm."""
    assert type(got) is type(want)
    for a, b in zip(flat(got), flat(want), strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        assert np.isfinite(b).all()
        assert np.linalg.norm((a - b).ravel()) <= tolerance * np.linalg.norm(b.ravel())


def same_bits(one: Any, other: Any) -> None:
    for a, b in zip(flat(one), flat(other), strict=True):
        np.testing.assert_array_equal(a, b)


def network(name: str, rng: np.random.Generator) -> tuple[nn.Module, np.ndarray]:
    model, shape = small(name)
    return randomize(model, rng).eval(), rng.standard_normal((2, *shape)).astype(np.float32)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network(name: str, rng: np.random.Generator) -> None:
    """The interpreter's results; the same bits for any number of threads, and for a picture by itself."""
    model, x = network(name, rng)
    before = x.copy()
    engine = cf.compile(model, x.shape)
    y = engine(x)
    close(y, G.interpret(G.trace(model, x.shape), x, native=name in LARGE))
    np.testing.assert_array_equal(x, before)
    for threads in (1, 3):
        cf.set_num_threads(threads)
        same_bits(engine(x), y)
    for i in range(2):
        same_bits(engine(x[i : i + 1]), [a[i : i + 1] for a in flat(y)])


@pytest.mark.parametrize("name", [n for n, (_, left) in WIRINGS.items() if left])
def test_small_graphs(name: str, rng: np.random.Generator) -> None:
    model = randomize(Network(WIRINGS[name][0]), rng).eval()
    x = rng.standard_normal((2, 6, 5, 4)).astype(np.float32)
    engine = cf.compile(model, x.shape)
    graph = G.trace(model, x.shape)
    for _ in range(2):
        close(engine(x), G.interpret(graph, x))
    close(cf.compile(graph)(x), G.interpret(graph, x))
    close(cf.compile(model, device="numpy")(x), G.interpret(graph, x))


class Wired(nn.Module):
    """A function of arrays as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def forward(self, *inputs: Any) -> Any:
        return self.function(*inputs)


def test_outputs_are_arrays_of_their_own(rng: np.random.Generator) -> None:
    constant = np.arange(3, dtype=np.float32)
    model = Wired(lambda x: (x, x, ops.relu(x), ops.reshape(x, (-1,)), ops.add(constant, constant), constant))
    x = rng.standard_normal((2, 3)).astype(np.float32)
    engine = cf.compile(model)
    first = engine(x)
    close(first, G.interpret(G.trace(model, x.shape), x))
    copies = [a.copy() for a in first]
    for a in first:
        a[...] = 7
    same_bits(engine(x), copies)
    np.testing.assert_array_equal(constant, np.arange(3))


def test_several_inputs(rng: np.random.Generator) -> None:
    model = Wired(lambda x, y: {"sum": x + y, "product": ops.mul(x, y)})
    x, y = rng.standard_normal((2, 4, 3, 2, 5)).astype(np.float32)[:2]
    engine = cf.compile(model, [x.shape, y.shape])
    for result in (engine(x, y), engine([x, y]), engine((x, y))):
        same_bits(result["sum"], x + y)
        same_bits(result["product"], x * y)


def test_arrays_of_other_layouts(rng: np.random.Generator) -> None:
    model = randomize(cf.models.lenet5(), rng).eval()
    x = rng.standard_normal((2, 32, 32, 1)).astype(np.float32)
    engine = cf.compile(model, x.shape)
    y = engine(x)
    wide = np.zeros((2, 32, 64, 1), np.float32)
    wide[:, :, ::2] = x
    read_only = x.copy()
    read_only.setflags(write=False)
    for other in (
        wide[:, :, ::2],
        x.astype(">f4"),
        np.asfortranarray(x),
        read_only,
        cf.Tensor(x),
        x.tolist(),
    ):
        if isinstance(other, list):
            with pytest.raises(
                cf.errors.DTypeError, match=r"Engine\(LeNet5\): expected float32, got float64"
            ):
                engine(other)
            continue
        same_bits(engine(other), y)
    with pytest.raises(cf.errors.DTypeError, match="expected float32, got uint8"):
        engine(x.astype(np.uint8))
    with pytest.raises(cf.errors.ShapeError, match="conv2d: weight has 1 input channels, x has 2"):
        engine(np.zeros((1, 32, 32, 2), np.float32))
    with pytest.raises(cf.errors.ShapeError, match=r"Engine\(LeNet5\): expected inputs of shapes"):
        cf.compile(G.trace(model, (1, 32, 32, 1)))(x)
    assert engine(x[:0]).shape == (0, 10)
    same_bits(engine(x), y)


def test_arguments_of_compile() -> None:
    model = cf.models.lenet5().eval()
    with pytest.raises(cf.errors.BackendError, match="device 'cuda' cannot be used"):
        cf.compile(model, device="cuda")
    with pytest.raises(cf.errors.BackendError, match="expected device"):
        cf.compile(model, device="tpu")
    for threads in (0, -1, 1 << 70, True, 1.5):
        with pytest.raises(ValueError, match="compile: threads: expected a whole number from 1 to 256"):
            cf.compile(model, threads=threads)  # type: ignore[arg-type]
    for source in (None, "lenet5", lambda x: x):
        with pytest.raises(TypeError, match="compile: expected a Module or a Graph, got"):
            cf.compile(source)  # type: ignore[arg-type]
    engine = cf.compile(model, (1, 32, 32, 1), threads=1)
    assert "LeNet5" in repr(engine)
    assert "(1,32,32,1)" in repr(engine)


@pytest.mark.parametrize(
    "shape", [5, "ab", None, (1, 32.0, 32, 1), (1, -1, 32, 1), [(1, 32, 32, 1), 3], ("ab",)]
)
def test_what_is_no_input_shape(shape: Any, tmp_path: Path) -> None:
    """A clear error wherever an input shape is asked for."""
    model = nn.ReLU()
    calls = (
        lambda: cf.compile(model).prepare(shape),
        lambda: cf.summary(model, shape),
        lambda: cf.onnx.save(model, tmp_path / "model.onnx", shape),
        lambda: G.trace(model, shape),
    )
    for call in calls:
        with pytest.raises(cf.errors.ShapeError, match="input shape"):
            call()
    assert not list(tmp_path.iterdir())


def test_many_threads_compile_one_module(rng: np.random.Generator) -> None:
    """Each trace puts it into evaluation mode and back; none sees the other's."""
    model = randomize(cf.models.create_model("cifar_resnet20"), rng).train()
    x = rng.standard_normal((1, 32, 32, 3)).astype(np.float32)
    expected = cf.compile(model)(x)
    start, results, interval = threading.Barrier(6), [], sys.getswitchinterval()

    def work() -> None:
        start.wait()
        for _ in range(5):
            results.append(cf.compile(model)(x))

    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=work) for _ in range(6)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    finally:
        sys.setswitchinterval(interval)
    assert len(results) == 30
    for y in results:
        same_bits(y, expected)
    assert all(m.training for m in model.modules())


def test_a_run_that_no_memory_holds() -> None:
    with pytest.raises(MemoryError, match=r"Engine\(Upsample\): not enough memory"):
        cf.compile(nn.Upsample(1 << 20))(np.zeros((1, 1, 1, 1), np.float32))


def test_engines_are_not_pickled() -> None:
    with pytest.raises(TypeError, match="see save and load_engine"):
        pickle.dumps(cf.compile(cf.models.lenet5()))


def test_forms_of_input_shapes() -> None:
    shape = (1, 32, 32, 1)
    for given in (shape, list(shape), tuple(np.array(shape)), [shape], [list(shape)]):
        assert list(cf.compile(cf.models.lenet5(), given)._made) == [(shape,)]


def test_many_shapes_keep_memory_flat(rng: np.random.Generator) -> None:
    model = randomize(cf.models.create_model("cifar_resnet20"), rng).eval()
    engine = cf.compile(model)
    for i in range(20):
        x = rng.standard_normal((1 + i % 2, 8 + i, 9 + i % 5, 3)).astype(np.float32)
        close(engine(x), model(x))
    assert len(engine._made) == 8
    weights = {id(found) for program in engine._made.values() for found in program.kept.values()}
    assert len(weights) == len(engine._options.store)
    assert len(weights) < 110  # 42 of the network, some in two forms, and zeros of each plan's own


def test_weights_are_those_of_the_first_time(rng: np.random.Generator) -> None:
    model = randomize(cf.models.lenet5(), rng).eval()
    x = rng.standard_normal((1, 32, 32, 1)).astype(np.float32)
    engine = cf.compile(model, x.shape)
    y = engine(x)
    for p in model.parameters():
        p.data[...] = 0
    same_bits(engine(x), y)
    same_bits(engine(np.concatenate([x, x])), np.concatenate([y, y]))


@pytest.mark.parametrize("name", ["squeezenet1_1", "nn4_small2"])
def test_many_threads_at_once(name: str, rng: np.random.Generator) -> None:
    model, x = network(name, rng)
    engine = cf.compile(model)
    inputs = [rng.standard_normal((1, *x.shape[1:])).astype(np.float32) for _ in range(8)]
    expected = [engine(a) for a in inputs]
    wrong: list[int] = []

    def work(i: int) -> None:
        for k in range(6):
            a = (i + k) % 8
            if not all(
                np.array_equal(p, q) for p, q in zip(flat(engine(inputs[a])), flat(expected[a]), strict=True)
            ):
                wrong.append(a)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_steps_without_kernels_run_between(rng: np.random.Generator) -> None:
    def function(x: Any) -> Any:
        y = ops.relu(x)
        values, places = ops.topk(ops.reshape(y, (2, -1)), 3)
        return values, places, ops.where(ops.greater(y, 0.5), y, x), ops.sigmoid(ops.exp(y))

    model = Wired(function)
    x = rng.standard_normal((2, 4, 3)).astype(np.float32)
    close(cf.compile(model)(x), G.interpret(G.trace(model, x.shape), x))


def test_shape_operators(rng: np.random.Generator) -> None:
    """Joins, cuts, transpositions and repetitions, of parts and into parts."""

    def function(x: Any) -> Any:
        a, b = ops.split(x, (17, 23))
        c = ops.concat([ops.max_pool2d(b, 3, stride=1, padding=1), ops.transpose(a, (0, 2, 1, 3)), a])
        rows = ops.concat([c, c[:, 1:3]], axis=1)
        return (
            c,
            rows[:, ::2, ::-1, ::3],
            ops.concat([rows[..., :16], rows[..., :16], ops.relu(rows)]),
            ops.tile(a, (1, 2, 1, 3)),
            ops.expand(a[:, :1], (2, 6, 5, 17)),
            ops.depth_to_space(x[..., :8], 2),
            c[0, 1],
        )

    model = Wired(function)
    x = rng.standard_normal((2, 5, 5, 40)).astype(np.float32)
    close(cf.compile(model)(x), G.interpret(G.trace(model, x.shape), x), 0.0)


# --- known results, interrupts, memory ---------------------------------------------------------------


def relative(got: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(got.astype(np.float64) - expected) / np.linalg.norm(expected))


def test_onnx_networks_give_the_known_results(assets: Path) -> None:
    known = np.load(assets / "expected/yolox_nano.npz")
    picture = known["input"].astype(np.float32).transpose(0, 2, 3, 1)
    engine = cf.compile(cf.onnx.load(assets / "models/yolox_nano.onnx"), picture.shape)
    assert relative(engine(picture), known["output"]) <= 1e-4
    assert all(step.algorithm != "NumPy" for step in engine.describe(runs=1).steps)
    known = np.load(assets / "expected/yunet_n.npz")
    picture = known["input"].astype(np.float32).transpose(0, 2, 3, 1)
    module = cf.onnx.load(assets / "models/yunet_n_dynamic.onnx")
    got, eager = cf.compile(module)(picture), module(picture)
    assert list(got) == module.output_names
    for name, expected in eager.items():
        assert relative(got[name], expected) <= 1e-5, name


INTERRUPT = """
import signal, sys
import numpy as np, cnnfast as cf

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it

class Long(cf.nn.Module):
    def forward(self, x):
        for _ in range(5_000):   # short steps, many seconds together
            x = cf.ops.tanh(x)
        return x

engine = cf.compile(Long(), (1, 512, 512, 32), threads=int(sys.argv[1]))
x = np.ones((1, 512, 512, 32), np.float32)
print("ready", flush=True)
try:
    engine(x)
    print("finished", flush=True)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGINT")
@pytest.mark.skipif(SANITIZED, reason="kernels are too slow for the bound")
@pytest.mark.parametrize("threads", [1, 2])
def test_ctrl_c_stops_a_long_run(threads: int) -> None:
    status, out, err = interrupted(INTERRUPT, str(threads), after=0.5, timeout=15)
    assert (out, status) == ("interrupted\n", 0), err


OUT_OF_MEMORY = """
import resource
import numpy as np, cnnfast as cf

class Wide(cf.nn.Module):
    def forward(self, x):
        return cf.ops.global_avg_pool2d(cf.ops.tanh(cf.ops.conv2d(x, np.ones((1, 1, 1, 256), np.float32))))

x, small = np.ones((1, 1024, 1024, 1), np.float32), np.ones((1, 4, 4, 1), np.float32)
engine = cf.compile(Wide(), small.shape)
before = engine(small)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20), resource.getrlimit(resource.RLIMIT_AS)[1]))
for _ in range(20):
    try:
        engine(x)
    except MemoryError:
        pass
    else:
        raise SystemExit("an arena of 1 GiB fitted into 256 MiB")
    assert (engine(small) == before).all()
print("usable")
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux")
@pytest.mark.skipif(SANITIZED, reason="sanitizers reserve the address space")
def test_out_of_memory_is_a_memory_error() -> None:
    assert output_of(OUT_OF_MEMORY) == "usable"


def test_other_threads_run_during_a_call() -> None:
    engine = cf.compile(Wired(lambda x: ops.tanh(ops.tanh(x))), (1, 512, 512, 64), threads=1)
    x = np.ones((1, 512, 512, 64), np.float32)
    done = threading.Event()

    def work() -> None:
        for _ in range(10):
            engine(x)
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    ticks = 0
    while not done.wait(0.001):
        ticks += 1
    thread.join()
    assert ticks >= 10


def test_describe(rng: np.random.Generator) -> None:
    model = randomize(cf.models.create_model("cifar_resnet20"), rng).eval()
    engine = cf.compile(model)
    with pytest.raises(ValueError, match="nothing is compiled"):
        engine.describe()
    description = engine.describe((1, 32, 32, 3), runs=1)
    text = str(description)
    assert "conv2d" in text
    assert "layer1.0.conv1" in text
    assert "GFLOP/s" in text
    convolutions = [s for s in description.steps if s.operator == "conv2d"]
    assert sum(s.macs for s in convolutions) == cf.summary(model, (32, 32, 3)).macs - 640
    assert description.arena_bytes > 0
    assert description.weights_bytes > 4 * 270_000
    assert description.seconds > 0
    with pytest.raises(cf.errors.BackendError, match="has no steps"):
        cf.compile(model, (1, 32, 32, 3), device="numpy").describe()


def test_winograd_can_be_switched_off(rng: np.random.Generator) -> None:
    model = randomize(nn.Conv2d(64, 64, 3, padding=1), rng).eval()
    x = rng.standard_normal((1, 30, 30, 64)).astype(np.float32)
    direct = cf.compile(model, x.shape, winograd=False)
    same_bits(direct(x), model(x))
    for winograd, algorithm in ((True, "Winograd F(5,3)"), (6, "Winograd F(6,3)"), (False, "implicit GEMM")):
        engine = cf.compile(model, x.shape, winograd=winograd)
        assert engine.describe().steps[0].algorithm == algorithm
    with pytest.raises(ValueError, match="True, False or 6"):
        cf.compile(model, x.shape, winograd=8)


@pytest.mark.parametrize(
    ("layer", "size", "quick", "lean"),
    [
        (nn.Conv2d(256, 256, 3, padding=1), 14, "Winograd F(5,3)", "Winograd F(5,3), plain weights"),
        (nn.Conv2d(64, 64, 3, padding=1), 112, "Winograd F(5,3)", "Winograd F(5,3)"),
        (nn.Conv2d(256, 1024, 1), 14, "Strassen, two levels", "Strassen"),
        (nn.Conv2d(512, 1024, 1), 7, "Strassen", "pointwise GEMM"),
    ],
)
def test_lean(
    rng: np.random.Generator, tmp_path: Path, layer: nn.Conv2d, size: int, quick: str, lean: str
) -> None:
    """Where little time is lost weights take less memory, in files as well; the results stay close."""
    randomize(layer, rng).eval()
    x = rng.standard_normal((2, size, size, layer.weight.shape[2])).astype(np.float32)
    engines = [cf.compile(layer, x.shape, lean=wanted) for wanted in (False, True)]
    first, second = [engine.describe(runs=1) for engine in engines]
    assert [first.steps[0].algorithm, second.steps[0].algorithm] == [quick, lean]
    assert second.weights_bytes < first.weights_bytes or quick == lean
    expected = cf.compile(layer, x.shape, winograd=False)(x)
    assert np.linalg.norm(engines[1](x) - expected) <= 2e-5 * np.linalg.norm(expected)
    engines[1].save(tmp_path / "lean")
    loaded = cf.load_engine(tmp_path / "lean")
    same_bits(loaded(x), engines[1](x))
    assert loaded.describe(runs=1).steps[0].algorithm == lean
    one = cf.compile(layer, (1, *x.shape[1:]), lean=True, threads=1)
    same_bits(one(x[1:]), engines[1](x)[1:])


@pytest.mark.parametrize(("name", "size", "lean"), [("resnet50", 224, True), ("resnet18", 224, False)])
def test_lean_where_it_saves_much(name: str, size: int, lean: bool, tmp_path: Path) -> None:
    """Unasked, where many weights become far fewer for little time; batch and threads do not matter."""
    model = cf.models.create_model(name).eval()
    shape = (1, size, size, 3)
    plain, quick, small = [cf.compile(model, shape, lean=wanted) for wanted in (None, False, True)]
    bytes_of = [engine.describe(runs=1).weights_bytes for engine in (plain, quick, small)]
    assert bytes_of[2] < 0.6 * bytes_of[1]
    assert bytes_of[0] == bytes_of[2 if lean else 1]
    batch = cf.compile(model, (2, size, size, 3), threads=1)
    assert batch.describe(runs=1).weights_bytes == bytes_of[0]
    plain.save(tmp_path / "engine")
    loaded = cf.load_engine(tmp_path / "engine")
    assert loaded.describe(runs=1).weights_bytes == bytes_of[0]


def test_lean_of_numpy_can_be_saved(tmp_path: Path) -> None:
    layer, shape = nn.Conv2d(8, 8, 1).eval(), (1, 4, 4, 8)
    for wanted in (np.True_, 1, 0):
        cf.compile(layer, shape, lean=wanted).save(tmp_path / "engine")  # type: ignore[arg-type]
        assert cf.load_engine(tmp_path / "engine")._options.lean is bool(wanted)


def test_lean_is_a_truth_value() -> None:
    with pytest.raises(ValueError, match="lean must be True, False or None"):
        cf.compile(nn.Conv2d(8, 8, 1), (1, 4, 4, 8), lean="small")  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux")
@pytest.mark.skipif(SANITIZED, reason="sanitizers keep what was freed")
def test_a_thousand_shapes_keep_memory_flat(rng: np.random.Generator) -> None:
    model = randomize(cf.models.create_model("squeezenet1_1"), rng).eval()
    engine = cf.compile(model)

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    after = 0
    for i in range(1000):
        shape = (int(rng.integers(1, 3)), int(rng.integers(32, 200)), int(rng.integers(32, 200)), 3)
        engine(np.zeros(shape, np.float32))
        if i == 200:
            after = resident()
    assert len(engine._made) == 8
    assert resident() - after < 64 << 20
