"""What this machine can do, measured in the same run: peak arithmetic and bandwidth per cache level."""

from __future__ import annotations

import os
import platform
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from math import log
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["Roof", "describe", "higher", "measure"]

# Working sets per thread that live in L1, L2, the last level and memory of today's processors.
SIZES = [16 << 10, 256 << 10, 4 << 20, 128 << 20]


@dataclass
class Roof:
    """Peak of one thread count: GFLOP/s in float32, GB/s by bytes that each thread works on."""

    threads: int
    gflops: float
    gbytes: dict[int, float]
    source: str
    details: dict[str, Any] = field(default_factory=dict)

    def bandwidth(self, size: int) -> float:
        """GB/s at the measured working set that is nearest to this one, shared among the threads."""
        share = max(size // self.threads, 1)
        nearest = min(self.gbytes, key=lambda known: abs(log(known) - log(share)))
        return self.gbytes[nearest]

    def seconds(self, flops: int, size: int) -> tuple[float, float]:
        """Least time for the arithmetic and for the traffic."""
        return flops / (self.gflops * 1e9), size / (self.bandwidth(size) * 1e9) if size else 0.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def measure(threads: int) -> Roof:
    """Measure the peak with the native module, or estimate it with NumPy."""
    import cnnfast

    native: Any = getattr(cnnfast, "_cpu", None)
    if hasattr(native, "measure_peak") and hasattr(native, "measure_bandwidth"):
        gflops = float(native.measure_peak(threads))
        gbytes = {size: float(native.measure_bandwidth(threads, size)) for size in SIZES}
        return Roof(threads, gflops, gbytes, "native")
    gbytes = {size: numpy_bandwidth(threads, size) for size in SIZES}
    return Roof(threads, numpy_peak(threads), gbytes, "NumPy estimate")


def higher(first: Roof, second: Roof) -> Roof:
    """The better of two measurements in each number: what disturbed one of them is no limit."""
    gbytes = {size: max(value, second.gbytes[size]) for size, value in first.gbytes.items()}
    details = {"before": first.gflops, "after": second.gflops}
    return Roof(first.threads, max(first.gflops, second.gflops), gbytes, first.source, details)


def numpy_peak(threads: int) -> float:
    """GFLOP/s of a 1024 x 1024 product."""
    from .peers import numpy_peer

    numpy_peer.set_threads(threads)
    n = 1024
    a = np.ones((n, n), np.float32)
    out = np.empty_like(a)
    return 2 * n**3 / fastest(lambda: np.matmul(a, a, out=out)) / 1e9


def numpy_bandwidth(threads: int, size: int) -> float:
    """GB/s read and written by copies between the halves of a working set per thread."""
    share = size // 8
    pairs = [(np.zeros(share, np.float32), np.zeros(share, np.float32)) for _ in range(threads)]
    # Enough repeats for the start of a thread not to count.
    repeats = max(1, (8 << 20) // size)

    def work(arrays: tuple[np.ndarray, np.ndarray]) -> None:
        for _ in range(repeats):
            np.copyto(*arrays)

    with ThreadPoolExecutor(threads) as pool:
        seconds = fastest(lambda: list(pool.map(work, pairs)))
    return 8 * share * threads * repeats / seconds / 1e9


def fastest(work: Any) -> float:
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def describe() -> dict[str, Any]:
    """The processor, the system and how cnnfast is set up; nothing that names the machine."""
    import cnnfast

    try:
        usable = len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        usable = os.cpu_count() or 1
    return {
        "cpu": cpu_model(),
        "cores": usable,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "isa": isa_level(cnnfast),
        "cnnfast": str(getattr(cnnfast, "__version__", "?")),
    }


def cpu_model() -> str:
    """The name that the processor gives itself."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.lower().startswith(("model name", "hardware")):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def isa_level(cnnfast: Any) -> str:
    native = getattr(cnnfast, "_cpu", None)
    level = getattr(native, "isa", None)
    return str(level() if callable(level) else level) if level is not None else "none (NumPy only)"
