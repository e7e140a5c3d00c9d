"""One contestant in a process of its own, and the parent's end of it.

Peak memory, loading time and the first run can only be measured in a fresh process; that process then stays
for the timing, so that no two runtimes share an allocator or a thread pool. Parent and child exchange lines
of JSON; what a runtime prints goes to a log.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["Remote", "RemoteError", "ask", "convert"]

PATIENCE = 600.0  # seconds for any one answer; the slowest conversions take a minute
ASK, CONVERT = "ask", "convert"  # in the place of a way
RUNS = 3  # before the peak of memory is read


class RemoteError(RuntimeError):
    """What went wrong in a child; ``kind`` is "not supported" or "failed"."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Remote:
    """A contestant that was started, as the parent sees it."""

    def __init__(
        self, folder: Path, peer: str, way: str, threads: int, environment: dict[str, str] | None = None
    ) -> None:
        environment = environment or {}
        tag = "-".join([peer, way.replace(" ", "_"), str(threads), *environment.values()])
        self.log, self.output = folder / f"{tag}.log", folder / f"{tag}.npy"
        argv = [sys.executable, "-m", __name__, str(folder), peer, way, str(threads), str(self.output)]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **environment},
            )
        self.replies = b""
        self.cpus = 0.0  # processor time by time in the last batch

    def report(self) -> dict[str, Any]:
        """What loading and the first runs took: seconds and bytes."""
        return self.receive()

    def batch(self, repeats: int) -> float:
        """Seconds per call, as :func:`cnnfast.bench.runner.time_batch` measures it there."""
        self.send({"repeats": repeats})
        reply = self.receive()
        self.cpus = float(reply["cpus"])
        return float(reply["seconds"])

    def send(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise RemoteError("failed", self.ending()) from None

    def receive(self) -> dict[str, Any]:
        pipe = self.process.stdout
        assert pipe is not None
        deadline = time.monotonic() + PATIENCE
        while b"\n" not in self.replies:
            ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise RemoteError("failed", f"no answer in {PATIENCE:.0f} s")
            read = os.read(pipe.fileno(), 1 << 16)
            if not read:
                raise RemoteError("failed", self.ending())
            self.replies += read
        line, _, self.replies = self.replies.partition(b"\n")
        reply: dict[str, Any] = json.loads(line)
        if "failed" in reply:
            raise RemoteError(reply["kind"], reply["failed"])
        return reply

    def ending(self) -> str:
        """Why a child is gone: its last words."""
        status = self.process.wait()
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        how = f"signal {-status}" if status < 0 else f"status {status}"
        return f"the process ended with {how}" + (f": {lines[-1].strip()}" if lines else "")

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def ask(peer: str) -> tuple[str | None, str]:
    """Why a peer cannot take part (None if it can), and its version; the parent itself imports none."""
    with tempfile.TemporaryDirectory() as folder:
        remote = Remote(Path(folder), peer, ASK, 1)
        try:
            reply = remote.receive()
        except RemoteError as why:
            return str(why), ""
        finally:
            remote.close()
    return reply["missing"], reply["version"]


def convert(folder: Path, peer: str) -> None:
    """Write the files that a peer loads, in a process that is gone before anything is measured."""
    remote = Remote(folder, peer, CONVERT, 1)
    try:
        remote.report()
    finally:
        remote.close()


# ---- in the child --------------------------------------------------------------------------------


def measure(folder: Path, peer: str, way: str, threads: int, output: Path) -> tuple[dict[str, Any], Any]:
    """Load and run for the first times."""
    from ..peers import get
    from .source import read

    network, adapter = read(folder), get(peer)
    x = network.input()
    start = time.perf_counter()
    if (why := adapter.available()) is not None:  # imports the runtime
        raise RuntimeError(why)
    imported = time.perf_counter()
    adapter.set_threads(threads)
    candidate = adapter.load(network, way, threads, x)
    loaded = time.perf_counter()
    with candidate.context():
        value = candidate.run()
        first = time.perf_counter()
        for _ in range(RUNS - 1):
            value = candidate.run()
    memory = peak_memory()
    np.save(output, candidate.result(value))
    times = {"import": imported - start, "load": loaded - imported, "first": first - loaded}
    return {**times, "memory": memory}, candidate


def peak_memory() -> int | None:
    """Most bytes that were resident at once; None where the system does not tell."""
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    return None


def main(argv: list[str]) -> None:
    # Runtimes print what they like to descriptor 1; the parent reads from a copy of it.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def reply(message: dict[str, Any]) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    from ..peers import NotSupported, get
    from ..runner import brief, settle, time_batch
    from .source import read

    folder, peer, way, threads, output = Path(argv[0]), argv[1], argv[2], int(argv[3]), Path(argv[4])
    try:
        if way == ASK:
            why = get(peer).available()
            reply({"missing": why, "version": "" if why else get(peer).version()})
            return
        if way == CONVERT:
            get(peer).convert(read(folder))
            reply({})
            return
        report, candidate = measure(folder, peer, way, threads, output)
        reply(report)
        for line in sys.stdin:
            start, used = time.perf_counter(), time.process_time()
            seconds = time_batch(candidate, json.loads(line)["repeats"])
            cpus = (time.process_time() - used) / (time.perf_counter() - start)
            # Whoever is next must find the processor idle; workers may spin with one thread asked for, too.
            settle(max(2, threads))
            reply({"seconds": seconds, "cpus": cpus})
    except NotSupported as why:
        reply({"failed": str(why), "kind": "not supported"})
    except Exception as why:  # goes to the parent, which goes on without this contestant
        reply({"failed": brief(why), "kind": "failed"})


if __name__ == "__main__":
    main(sys.argv[1:])
    os._exit(0)  # some runtimes crash when they are taken down
