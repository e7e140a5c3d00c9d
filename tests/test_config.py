"""Backends, levels, threads: how they are chosen, and what happens when memory runs out."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

import cnnfast as cf
from cnnfast import config
from cnnfast.errors import BackendError
from processes import SANITIZED, output_of, run_python

NATIVE = config._cpu is not None
needs_native = pytest.mark.skipif(not NATIVE, reason="the native module is not installed")
THREADS = """
import cnnfast as cf
from cnnfast import config
print(cf.get_num_threads(), config._cpu.thread_reason())
"""
ONE_CALL = """
import numpy as np, cnnfast as cf
y = cf.ops.conv2d(np.ones((1, 4, 4, 2), np.float32), np.ones((3, 3, 2, 3), np.float32))
assert (y == 18).all()
"""
NO_THREADS_SET = {"CNNFAST_NUM_THREADS": None, "OMP_NUM_THREADS": None}


# --- backends ---------------------------------------------------------------------------------------


def test_use_backend_as_setter_and_context() -> None:
    with cf.use_backend("numpy"):
        assert config.current_backend() == "numpy"
        if NATIVE:
            with cf.use_backend("cpu"):
                assert config.current_backend() == "cpu"
            assert config.current_backend() == "numpy"
        with pytest.raises(RuntimeError, match="from inside"), cf.use_backend("numpy"):
            raise RuntimeError("from inside")
        assert config.current_backend() == "numpy"


@needs_native
def test_use_backend_as_decorator() -> None:
    """The choice holds while the function runs, however deep, and neither before nor after."""

    def backends(depth: int) -> list[str]:
        return [config.current_backend(), *(on_numpy(depth - 1) if depth else [])]

    with cf.use_backend("cpu"):
        on_numpy = cf.use_backend("numpy")(backends)
        for _ in range(2):
            assert config.current_backend() == "cpu"
            assert backends(2) == ["cpu", "numpy", "numpy"]
        assert on_numpy.__name__ == "backends"


@pytest.mark.parametrize("name", ["gpu", "", "CPU", None, 1])
def test_unknown_backend(name: Any) -> None:
    before = config.current_backend()
    with pytest.raises(BackendError, match="expected one of numpy, cpu, cuda"):
        cf.use_backend(name)
    assert config.current_backend() == before


def test_cuda_is_refused_with_the_reason() -> None:
    if config.config()["cuda"]["available"]:
        pytest.skip("there is a CUDA device")
    with pytest.raises(BackendError, match=r"'cuda' cannot be used: .+"):
        cf.use_backend("cuda")


@pytest.mark.parametrize("name", ["numpy", "cpu"] if NATIVE else ["numpy"])
def test_backend_of_the_environment(name: str) -> None:
    program = ONE_CALL + "from cnnfast import config; print(config.current_backend())"
    assert output_of(program, CNNFAST_BACKEND=name, CNNFAST_ISA=None) == name


@pytest.mark.parametrize("name", ["gpu", "cuda"] if NATIVE else ["gpu", "cpu"])
def test_unusable_backend_of_the_environment(name: str) -> None:
    done = run_python(ONE_CALL, CNNFAST_BACKEND=name)
    assert done.returncode == 1
    assert "BackendError: CNNFAST_BACKEND: " in done.stderr


def test_default_backend() -> None:
    program = ONE_CALL + "from cnnfast import config; print(config.current_backend())"
    assert output_of(program, CNNFAST_BACKEND=None) == ("cpu" if NATIVE else "numpy")


def test_show_config(capsys: pytest.CaptureFixture[str]) -> None:
    shown = cf.show_config()
    text = capsys.readouterr().out
    assert shown["version"] == cf.__version__
    assert cf.__version__ in text
    assert shown["native"]["available"] is NATIVE
    if NATIVE:
        assert f"level {shown['native']['isa']} of" in text
        assert f"threads: {cf.get_num_threads()} (" in text
    else:
        assert "pure NumPy" in text
        assert shown["native"]["reason"]
    assert f"cuda: no: {shown['cuda']['reason']}" in text


# --- levels -----------------------------------------------------------------------------------------


@needs_native
def test_every_level_of_this_cpu_can_be_forced() -> None:
    program = ONE_CALL + "from cnnfast import config; print(config._cpu.isa())"
    for level, supported in config._cpu.levels().items():
        if supported:
            assert output_of(program, CNNFAST_ISA=level) == level
        else:
            done = run_python(program, CNNFAST_ISA=level)
            assert f"CNNFAST_ISA={level}: this CPU does not have that level" in done.stderr


@needs_native
def test_an_unknown_level_is_an_error_and_not_a_slower_backend() -> None:
    done = run_python(ONE_CALL, CNNFAST_ISA="v9", CNNFAST_BACKEND=None)
    assert done.returncode == 1
    names = ", ".join(config._cpu.levels())
    assert f"BackendError: CNNFAST_ISA=v9: expected one of {names}" in done.stderr
    assert output_of(ONE_CALL + "print('fine')", CNNFAST_ISA="v9", CNNFAST_BACKEND="numpy") == "fine"


@needs_native
def test_the_best_level_is_the_default() -> None:
    best = [level for level, supported in config._cpu.levels().items() if supported][-1]
    program = "from cnnfast import config; print(config._cpu.isa())"
    assert output_of(program, CNNFAST_ISA=None) == best
    assert output_of(program, CNNFAST_ISA="") == best


@needs_native
def test_verbose_names_the_choice() -> None:
    done = run_python(ONE_CALL, CNNFAST_VERBOSE="1", CNNFAST_BACKEND="cpu")
    assert done.returncode == 0
    assert "cnnfast: conv2d: " in done.stderr
    assert not run_python(ONE_CALL, CNNFAST_VERBOSE="0", CNNFAST_BACKEND="cpu").stderr


# --- threads ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, -1, 257, 2**70, True, 1.5, "2", None, np.float32(2)])
def test_bad_thread_counts(n: Any) -> None:
    before = cf.get_num_threads()
    with pytest.raises(ValueError, match="expected a whole number from 1 to 256"):
        cf.set_num_threads(n)
    assert cf.get_num_threads() == before


def test_thread_counts(native: None) -> None:
    for n in (1, 2, np.int64(7), 256):
        cf.set_num_threads(n)
        assert cf.get_num_threads() == n
    assert config._cpu.thread_reason() == "set_num_threads"


def test_pure_numpy_has_one_thread() -> None:
    if NATIVE:
        pytest.skip("the native module is installed")
    cf.set_num_threads(2)
    assert cf.get_num_threads() == 1


@needs_native
@pytest.mark.parametrize(
    ("own", "omp", "expected"),
    [
        (None, "3", "3 OMP_NUM_THREADS"),
        (None, "3,2", "3 OMP_NUM_THREADS"),
        ("2", "5", "2 CNNFAST_NUM_THREADS"),
        ("100000", None, "256 CNNFAST_NUM_THREADS"),
        ("many", "4", "4 OMP_NUM_THREADS"),
        ("0", "4", "4 OMP_NUM_THREADS"),
        ("-2", "4", "4 OMP_NUM_THREADS"),
        ("", "4", "4 OMP_NUM_THREADS"),
    ],
)
def test_threads_of_the_environment(own: str | None, omp: str | None, expected: str) -> None:
    assert output_of(THREADS, CNNFAST_NUM_THREADS=own, OMP_NUM_THREADS=omp) == expected


@needs_native
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs CPU affinity")
def test_threads_follow_the_affinity() -> None:
    for count in {1, len(os.sched_getaffinity(0))}:
        program = f"import os; os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:{count}])\n"
        threads, _, reason = output_of(program + THREADS, **NO_THREADS_SET).partition(" ")
        assert 1 <= int(threads) <= count
        assert reason in ("CPU affinity of the process", "cgroup CPU quota")
    one = "import os; os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])\n"
    assert output_of(one + THREADS, CNNFAST_NUM_THREADS="2") == "2 CNNFAST_NUM_THREADS"


# --- memory -----------------------------------------------------------------------------------------

OUT_OF_MEMORY = """
import resource
import numpy as np, cnnfast as cf
x, w = np.ones((1, 1024, 1024, 1), np.float32), np.ones((1, 1, 1, 256), np.float32)
small = np.ones((2, 9, 9, 3), np.float32), np.ones((3, 3, 3, 17), np.float32)
before = cf.ops.conv2d(*small, padding=1)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20), resource.getrlimit(resource.RLIMIT_AS)[1]))
for _ in range(20):
    try:
        cf.ops.conv2d(x, w)
    except MemoryError:
        pass
    else:
        raise SystemExit("a result of 1 GiB fitted into 256 MiB")
    assert (cf.ops.conv2d(*small, padding=1) == before).all()
print("usable")
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux")
@pytest.mark.skipif(SANITIZED, reason="sanitizers reserve the address space")
def test_out_of_memory_is_a_memory_error(backend: str) -> None:
    assert output_of(OUT_OF_MEMORY, CNNFAST_BACKEND=backend) == "usable"


def test_requests_of_2_to_the_40_elements_and_more(backend: str) -> None:
    x, w = np.ones((1, 2, 2, 1), np.float32), np.ones((1, 1, 1, 1), np.float32)
    with pytest.raises(MemoryError, match=r"resize: not enough memory for a result \(1,1048576,1048576,1\)"):
        cf.ops.resize(x, (1 << 20, 1 << 20))
    for padding in (1 << 20, 1 << 26, 1 << 31, 1 << 40, 1 << 62):
        with pytest.raises((cf.errors.ShapeError, MemoryError)):
            cf.ops.conv2d(x, w, padding=padding)
        with pytest.raises((cf.errors.ShapeError, MemoryError)):
            cf.ops.conv2d_transpose(x, w, stride=padding)
        with pytest.raises((cf.errors.ShapeError, MemoryError)):
            cf.ops.pad2d(x, padding)
        with pytest.raises((cf.errors.ShapeError, MemoryError)):
            cf.ops.resize(x, (padding, padding))


LEAKS = """
import resource
import numpy as np, cnnfast as cf
from cnnfast.errors import CnnfastError

rng = np.random.default_rng(0)
x = rng.random((1, 12, 12, 8), np.float32)
large = rng.random((1, 64, 64, 8), np.float32)   # its result lives in recycled memory
w, wrong = rng.random((3, 3, 8, 16), np.float32), rng.random((3, 3, 7, 16), np.float32)
packed = cf.ops.pack_conv2d(w)
boxes = rng.random((20, 4), np.float32)
boxes[:, 2:] += boxes[:, :2]
good = [
    lambda: cf.ops.conv2d(x, w, padding=1, activation="relu"),
    lambda: cf.ops.conv2d(large, packed, padding="same"),
    lambda: cf.ops.pack_conv2d(w),
    lambda: cf.ops.conv2d_transpose(x, w[:, :, :4, :8], stride=2),
    lambda: cf.ops.linear(x, w[0, 0]),
    lambda: cf.ops.max_pool2d(large, 3, stride=2, padding=1),
    lambda: cf.ops.softmax(x),
    lambda: cf.ops.local_response_norm(x),
    lambda: cf.ops.resize(x, (20, 9)),
    lambda: cf.ops.nms(boxes, boxes[:, 0], 0.5),
    lambda: cf.ops.batched_nms(boxes, boxes[:, 0], np.arange(20) % 3, 0.5),
    lambda: cf.ops.roi_align(large, np.float32([[0, 1, 1, 9, 9]]), (3, 3)),
]
bad = [
    lambda: cf.ops.conv2d(x, wrong),
    lambda: cf.ops.conv2d(x, packed, groups=2),
    lambda: cf.ops.conv2d(x.astype(np.float16), w),
    lambda: cf.ops.conv2d(x, w, padding=1 << 62),
    lambda: cf.ops.linear(x, wrong[0, 0]),
    lambda: cf.ops.max_pool2d(x, 0),
    lambda: cf.ops.nms(boxes, boxes[:3, 0], 0.5),
]

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

def calls(rounds):
    for _ in range(rounds):
        for call in good:
            call()
        for call in bad:
            try:
                call()
            except (CnnfastError, MemoryError):
                continue
            raise SystemExit("a bad call was accepted")

calls(200)
before = resident()
calls(ROUNDS)
print(resident() - before)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux")
@pytest.mark.skipif(SANITIZED, reason="sanitizers keep freed memory back")
@pytest.mark.parametrize(
    "rounds",
    [None, pytest.param(5300, marks=pytest.mark.slow, id="100,000 calls")],
)
def test_no_leaks(backend: str, rounds: int | None) -> None:
    rounds = rounds or (600 if backend == "cpu" else 100)
    grown = int(output_of(LEAKS.replace("ROUNDS", str(rounds)), CNNFAST_BACKEND=backend))
    assert grown < 1 << 20


def long_after() -> None:
    """So many calls that what was in use at once before them counts no more."""
    small = np.zeros(1024, np.float32)
    for _ in range(8193):
        cf.ops.relu(small)


@pytest.mark.skipif(SANITIZED, reason="under AddressSanitizer no memory is recycled")
def test_recycled_memory_makes_room_for_new_sizes(native: None) -> None:
    # Buffers of sizes that are no longer asked for must not keep others from being recycled.
    try:
        long_after()  # other tests may have held more
        for megabytes in (60, 50, 40, 30, 20):
            for _ in range(2):
                cf.ops.relu(np.zeros(megabytes << 18, np.float32))
        assert cf._cpu.cached_bytes() <= 256 << 20
        x = np.zeros(35 << 18, np.float32)
        first = cf.ops.relu(x).ctypes.data
        assert cf.ops.relu(x).ctypes.data == first
    finally:
        cf._cpu.drop_cached_buffers()
    assert cf._cpu.cached_bytes() == 0


@pytest.mark.skipif(SANITIZED, reason="under AddressSanitizer no memory is recycled")
def test_recycled_memory_covers_what_was_in_use_at_once(native: None) -> None:
    # A step of training gives back all that it held; the next one takes it again.
    x = np.zeros(60 << 18, np.float32)
    try:
        held = [cf.ops.relu(x) for _ in range(6)]
        before = {array.ctypes.data for array in held}
        held.clear()
        assert cf._cpu.cached_bytes() > 256 << 20
        held = [cf.ops.relu(x) for _ in range(6)]
        assert {array.ctypes.data for array in held} == before
        held.clear()
        # Long after, it has gone back to the system.
        long_after()
        assert cf._cpu.cached_bytes() <= 256 << 20
    finally:
        cf._cpu.drop_cached_buffers()


def test_what_is_loaded_later_is_listed() -> None:
    for module, name in ((cf, "compile"), (cf.models, "resnet50"), (cf.data, "DataLoader")):
        assert {name, *module.__all__} <= set(dir(module))
