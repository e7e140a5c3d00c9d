#!/usr/bin/env python3
"""Reads the machine code of the CUDA module: what must be in it, and what must not.

Usage: tools/check_cuda.py FILE      e.g. tools/check_cuda.py python/cnnfast/_cuda.*.so

Every kernel named ``*mma*kernel`` must multiply on tensor cores (HMMA, or HGMMA in ``*_sm90.cu``), and no
kernel may have a place in local memory, neither for registers that were spilled nor on a stack. From 9.0 on
every kernel must wait for the one before it (ACQBULK) before it touches memory. What kernels take is written
in the module; machine code is read of those alone that something is asked of. Needs ``cuobjdump`` and
``nvdisasm``, which the packages nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm have; no
device.
"""

from __future__ import annotations

import collections
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MMA = re.compile(r"mma\w*kernel")
SEEN = re.compile(r"\b(HGMMA|HMMA|ACQBULK)\b")
MEMORY = re.compile(r"\b(LDG|STG|LDGSTS|UTMALDG|ATOM|ATOMG|RED|LD|ST)\b[. ]")


@dataclass
class Kernel:
    """A kernel for one target; ``symbol`` is its mangled name, ``local`` bytes of each thread."""

    symbol: str
    target: str
    local: int

    @property
    def name(self) -> str:
        """The last identifier of a name within namespaces: _ZN, then each with its length before it."""
        rest, name = self.symbol.removeprefix("_ZN"), self.symbol
        while length := re.match(r"\d+", rest):
            start = length.end()
            name, rest = rest[start : start + int(length[0])], rest[start + int(length[0]) :]
        return name

    @property
    def wanted(self) -> str | None:
        """The instruction that must be there."""
        if not MMA.search(self.name):
            return None
        return "HGMMA" if "_sm90_cu" in self.symbol else "HMMA"

    @property
    def must_wait(self) -> bool:
        """Whether it may be launched before the kernel before it has ended."""
        return waits(self.target)


def waits(target: str) -> bool:
    return int(re.findall(r"\d+", target)[0]) >= 90


def _path() -> str:
    """PATH with the folder of NVIDIA's packages."""
    spec = importlib.util.find_spec("nvidia")
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    found = [str(tool.parent) for folder in folders for tool in Path(folder).glob("*/bin/cuobjdump")]
    return os.pathsep.join([*found, os.environ["PATH"]])


def _output(*command: str, path: str, folder: str | None = None) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env={**os.environ, "PATH": path}, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed: {done.stderr[-500:]}")
    return done.stdout


def kernels(file: str, path: str) -> Iterator[Kernel]:
    """Every kernel of every target in a module."""
    target = symbol = ""
    for line in _output("cuobjdump", "-res-usage", file, path=path).splitlines():
        if line.startswith("arch = "):
            target = line.split()[2]
        elif found := re.match(r"\s*Function (\S+):", line):
            symbol = found[1]
        elif found := re.search(r"STACK:(\d+) .*LOCAL:(\d+)", line):
            yield Kernel(symbol, target, int(found[1]) + int(found[2]))


def instructions(file: str, path: str) -> dict[tuple[str, str], collections.Counter[str]]:
    """By target and symbol, of the objects that are asked for any: HMMA, HGMMA and ACQBULK, and as "early"
    what touches memory before ACQBULK."""
    counts: dict[tuple[str, str], collections.Counter[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        _output("cuobjdump", "-xelf", "all", str(Path(file).resolve()), path=path, folder=folder)
        for cubin in sorted(Path(folder).glob("*.cubin")):
            target, here = cubin.suffixes[-2][1:], collections.Counter[str]()
            if not waits(target) and not re.search(MMA.pattern.encode(), cubin.read_bytes()):
                continue
            for line in _output("nvdisasm", "-c", "-ndf", str(cubin), path=path).splitlines():
                if line.startswith(".text."):
                    here = counts.setdefault((target, line[6:-1]), collections.Counter())
                elif found := SEEN.search(line):
                    here[found[1]] += 1
                elif not here["ACQBULK"] and MEMORY.search(line):
                    here["early"] += 1
    return counts


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__)
        return 2
    path = _path()
    for tool in ("cuobjdump", "nvdisasm"):
        if shutil.which(tool, path=path) is None:
            print(f"check_cuda: {tool} was not found")
            return 2
    found, counts = list(kernels(sys.argv[1], path)), instructions(sys.argv[1], path)
    wrong = 0
    for kernel in found:
        problems = [f"{kernel.local} bytes of local memory"] if kernel.local else []
        here = counts.get((kernel.target, kernel.symbol), collections.Counter())
        if kernel.wanted and not here[kernel.wanted]:
            problems.append(f"no {kernel.wanted}")
        if kernel.must_wait and (here["early"] or not here["ACQBULK"]):
            problems.append("does not begin by waiting")
        for problem in problems:
            print(f"{kernel.target} {kernel.symbol}: {problem}")
        wrong += len(problems)
    for target in sorted({k.target for k in found}):
        tensor = sum(1 for (t, _), each in counts.items() if t == target and (each["HMMA"] or each["HGMMA"]))
        count = sum(1 for k in found if k.target == target)
        print(f"{target}: {count} kernels; {tensor} kernels on tensor cores")
    return 1 if wrong or not found or not counts else 0


if __name__ == "__main__":
    raise SystemExit(main())
