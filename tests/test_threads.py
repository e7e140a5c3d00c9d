"""Threads: many Python threads at once, fork, the GIL, Ctrl-C. No test asserts a speed."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import cnnfast as cf
from processes import SANITIZED, interrupted, output_of


def problems(rng: np.random.Generator) -> list[Callable[[], np.ndarray]]:
    """Calls large enough for several threads, and small ones that run alone."""
    ops = cf.ops

    def random(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    x, stem, image = random(2, 40, 40, 32), random(1, 60, 60, 3), random(1, 28, 28, 96)
    w, packed = random(3, 3, 32, 64), ops.pack_conv2d(random(3, 3, 32, 64))
    stem_w, deep_w, up_w = random(7, 7, 3, 32), random(3, 3, 96, 1), random(2, 2, 24, 96)
    dense, boxes = random(96, 200), np.abs(random(600, 4))
    boxes[:, 2:] += boxes[:, :2]
    return [
        lambda: ops.conv2d(x, w, padding=1, activation="relu"),
        lambda: ops.conv2d(x, packed, padding="same"),
        lambda: ops.conv2d(stem, stem_w, stride=2, padding=3, activation="silu"),
        lambda: ops.depthwise_conv2d(image, deep_w, padding="same"),
        lambda: ops.conv2d_transpose(image, up_w, stride=2),
        lambda: ops.linear(image, dense),
        lambda: ops.gram_matrix(image),
        lambda: ops.max_pool2d(x, 3, stride=2, padding=1),
        lambda: ops.global_avg_pool2d(x),
        lambda: ops.softmax(image),
        lambda: ops.local_response_norm(image),
        lambda: ops.add(x, x),
        lambda: ops.resize(stem, (90, 110)),
        lambda: ops.box_iou(boxes, boxes),
        lambda: ops.nms(boxes, boxes[:, 0], 0.5),
        lambda: ops.relu(stem[:, :3, :3]),
    ]


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_eight_python_threads_at_once(native: None, rng: np.random.Generator, threads: int) -> None:
    cf.set_num_threads(threads)
    cases = problems(rng)
    expected = [call() for call in cases]
    start = threading.Barrier(8)

    def work(seed: int) -> int:
        order = np.random.default_rng(seed).integers(len(cases), size=30)
        start.wait()
        wrong = 0
        for i in order:
            wrong += not np.array_equal(cases[i](), expected[i])
        return wrong

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(work, range(8))) == 0


def test_thread_count_changed_while_others_compute(native: None, rng: np.random.Generator) -> None:
    cases = problems(rng)
    expected = [call() for call in cases]
    stop = threading.Event()

    def change() -> None:
        n = 0
        while not stop.is_set():
            n += 1
            cf.set_num_threads(1 + n % 4)

    changer = threading.Thread(target=change)
    changer.start()
    try:
        for _ in range(20):
            for call, y in zip(cases, expected, strict=True):
                assert np.array_equal(call(), y)
    finally:
        stop.set()
        changer.join()


def test_other_threads_advance_during_a_native_call(native: None) -> None:
    cf.set_num_threads(1)
    x, w = np.ones((1, 96, 96, 64), np.float32), np.ones((11, 11, 64, 64), np.float32)
    done = threading.Event()

    def call() -> None:
        cf.ops.conv2d(x, w)
        done.set()

    thread = threading.Thread(target=call)
    thread.start()
    ticks = 0
    while not done.is_set():
        ticks += 1
    thread.join()
    # With the GIL held this loop would stand still from the first kernel to the last.
    assert ticks > 1000


FORK = """
import os, signal, sys, threading, time
import numpy as np, cnnfast as cf

threads, busy = int(sys.argv[1]), sys.argv[2] == "busy"
cf.set_num_threads(threads)
rng = np.random.default_rng(0)
x = rng.standard_normal((2, 40, 40, 32)).astype(np.float32)
w = rng.standard_normal((3, 3, 32, 64)).astype(np.float32)
expected = cf.ops.conv2d(x, w, padding=1)
stop = threading.Event()

def compute():
    while not stop.is_set():
        cf.ops.conv2d(x, w, padding=1)

others = [threading.Thread(target=compute) for _ in range(2 if busy else 0)]
for other in others:
    other.start()
for _ in range(10):
    child = os.fork()
    if child == 0:
        for _ in range(3):
            same = np.array_equal(cf.ops.conv2d(x, w, padding=1), expected)
        # A child of the child, too.
        grandchild = os.fork()
        if grandchild == 0:
            os._exit(not np.array_equal(cf.ops.conv2d(x, w, padding=1), expected))
        os._exit(not same or os.waitpid(grandchild, 0)[1] != 0)
    deadline = time.monotonic() + 60
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            stop.set()
            raise SystemExit("the child hangs")
        time.sleep(0.005)
    if status:
        stop.set()
        raise SystemExit(f"the child ended with {status}")
    if not busy:
        assert np.array_equal(cf.ops.conv2d(x, w, padding=1), expected)
stop.set()
for other in others:
    other.join()
print("fine")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.skipif(
    "libtsan" in os.environ.get("LD_PRELOAD", ""), reason="TSan does not follow threads into a fork"
)
@pytest.mark.parametrize("when", ["idle", "busy"])
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_fork_after_threads_ran(native: None, threads: int, when: str) -> None:
    if when == "busy" and "libasan" in os.environ.get("LD_PRELOAD", ""):
        pytest.skip("ASan's allocator does not survive a fork while other threads allocate")
    # "busy" forks while other Python threads compute. NumPy's own locks are free there: the threads
    # spend their time in native calls.
    assert output_of(FORK, str(threads), when, timeout=300) == "fine"


INTERRUPT = """
import signal, sys, time
import numpy as np, cnnfast as cf

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
cf.set_num_threads(int(sys.argv[1]))
x, w = np.ones((1, 512, 512, 64), np.float32), np.ones((63, 63, 64, 64), np.float32)
small = np.ones((1, 40, 40, 32), np.float32), np.ones((3, 3, 32, 64), np.float32)
before = cf.ops.conv2d(*small)
print("ready", flush=True)
try:
    cf.ops.conv2d(x, w, padding=31)   # more than a minute on one thread
except KeyboardInterrupt:
    assert np.array_equal(cf.ops.conv2d(*small), before)
    print("interrupted", flush=True)
else:
    print("finished", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGINT")
@pytest.mark.skipif(SANITIZED, reason="kernels are too slow for the bound")
@pytest.mark.parametrize("threads", [1, 2])
def test_ctrl_c_stops_a_long_native_call(native: None, threads: int) -> None:
    # Half a second is well inside the call, or in the packing before it. It ends under a second later on an
    # idle machine; the bound leaves room for a busy one.
    status, out, err = interrupted(INTERRUPT, str(threads), after=0.5, timeout=15)
    assert (out, status) == ("interrupted\n", 0), err
