"""Times of work on a CUDA device: captured as graphs, contestants in turn, medians.

A contestant is a pair: what starts one run, and what waits for all that was started. Runs are started in
batches that last a few milliseconds and timed by the host's clock from one wait to the next, so that a launch
costs what it costs in use.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import cnnfast as cf
from cnnfast.cuda.loading import module
from cnnfast.cuda.precision import tf32_allowed

__all__ = [
    "Contestant",
    "captured",
    "captured_by_torch",
    "emit",
    "have_torch",
    "race",
    "relative_error",
    "why_not",
]

Contestant = tuple[Callable[[], Any], Callable[[], Any]]


def why_not() -> str:
    """Why nothing can be timed here, or an empty string."""
    return cf.cuda.why_unavailable()


def have_torch() -> bool:
    """Whether torch is there and sees the device; what is timed is timed without it too."""
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.is_available()


def emit(**fields: Any) -> None:
    """One JSON line, at once."""
    print(json.dumps(fields), flush=True)


def captured(call: Callable[[], Any]) -> tuple[Contestant, Any]:
    """cnnfast's work of one call, captured in memory of its own, and its result."""
    loaded = module()
    before, own = loaded.current_pool(), loaded.Pool()
    loaded.set_current_pool(own)
    try:
        call()  # weights are packed now
        graph = loaded.Graph()
        graph.begin()
        try:
            result = call()
        except BaseException:
            graph.cancel()
            raise
        graph.end()
    finally:
        loaded.set_current_pool(before)
    graph.launch()
    cf.cuda.synchronize()

    def start(kept: Any = (own, result)) -> None:
        graph.launch()

    return (start, cf.cuda.synchronize), result


def captured_by_torch(call: Callable[[], Any]) -> tuple[Contestant, Any]:
    """torch's work of one call, its algorithms chosen by trial, captured; and its result. float32 is rounded
    to tf32 where cnnfast may, and nowhere else."""
    import torch

    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32_allowed()
    with torch.inference_mode():
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                call()
        side.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = call()
    graph.replay()
    torch.cuda.synchronize()

    def start(kept: Any = result) -> None:
        graph.replay()

    return (start, torch.cuda.synchronize), result


def race(contestants: dict[str, Contestant], seconds: float = 0.3, batch_ms: float = 4.0) -> dict[str, float]:
    """Milliseconds of one run of each: the median over batches, taken in turn so that drift cancels."""
    runs = dict.fromkeys(contestants, 1)
    times: dict[str, list[float]] = {name: [] for name in contestants}
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < 5 or time.perf_counter() < end:
        for name, (start, wait) in contestants.items():
            wait()
            begin = time.perf_counter()
            for _ in range(runs[name]):
                start()
            wait()
            spent = 1e3 * (time.perf_counter() - begin)
            if rounds >= 2:  # the first two warm up and find how many runs make a batch
                times[name].append(spent / runs[name])
            else:
                runs[name] = max(1, min(1000, int(runs[name] * batch_ms / max(spent, 1e-3))))
        rounds += 1
    return {name: statistics.median(each) for name, each in times.items()}


def relative_error(got: Any, wanted: Any) -> float:
    """||got - wanted|| / ||wanted||, NaN counted as wrong."""
    import numpy as np

    difference = np.linalg.norm(np.asarray(got, np.float64) - np.asarray(wanted, np.float64))
    return float(difference / np.linalg.norm(wanted))
