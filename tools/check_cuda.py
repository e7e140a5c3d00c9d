#!/usr/bin/env python3
"""Reads the machine code of the CUDA module: what must be in it, and what must not.

Usage: tools/check_cuda.py FILE      e.g. tools/check_cuda.py python/cnnfast/_cuda.*.so

Every kernel named ``*mma*kernel`` must multiply on tensor cores (HMMA, or HGMMA in ``*_sm90.cu``), and no
kernel may keep registers in local memory (LDL, STL). Needs ``cuobjdump`` and ``nvdisasm``, which the packages
nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm have; no device.
"""

from __future__ import annotations

import collections
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Kernel:
    """A kernel for one target; ``symbol`` is its mangled name."""

    symbol: str
    target: str
    instructions: int = 0
    found: collections.Counter[str] = field(default_factory=collections.Counter)

    @property
    def name(self) -> str:
        """The last identifier of a name within namespaces: _ZN, then each with its length before it."""
        rest, name = self.symbol.removeprefix("_ZN"), self.symbol
        while length := re.match(r"\d+", rest):
            start = length.end()
            name, rest = rest[start : start + int(length[0])], rest[start + int(length[0]) :]
        return name

    def problems(self) -> list[str]:
        found = []
        if re.search(r"mma\w*kernel", self.name):
            wanted = "HGMMA" if "_sm90_cu" in self.symbol else "HMMA"
            if not self.found[wanted]:
                found.append(f"no {wanted}")
        if self.found["LDL"] or self.found["STL"]:
            found.append(f"{self.found['LDL']} loads and {self.found['STL']} stores of local memory")
        return found


def _path() -> str:
    """PATH with the folder of NVIDIA's packages."""
    spec = importlib.util.find_spec("nvidia")
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    found = [str(tool.parent) for folder in folders for tool in Path(folder).glob("*/bin/cuobjdump")]
    return os.pathsep.join([*found, os.environ["PATH"]])


def kernels(file: str, tool: str, path: str) -> list[Kernel]:
    """Every kernel of every target in a module."""
    process = subprocess.Popen(
        [tool, "-sass", file], stdout=subprocess.PIPE, text=True, env={**os.environ, "PATH": path}
    )
    assert process.stdout is not None
    all_, target = [], ""
    for line in process.stdout:
        if line.startswith("arch = "):
            target = line.split()[2]
        elif "Function : " in line:
            all_.append(Kernel(line.split()[2], target))
        elif all_ and re.match(r"\s+/\*[0-9a-f]{4,}\*/ +\S", line):
            kernel = all_[-1]
            kernel.instructions += 1
            for word in ("HGMMA", "HMMA", "LDL", "STL"):
                if re.search(rf"\b{word}\b", line):
                    kernel.found[word] += 1
    if process.wait() != 0:
        raise SystemExit(f"{tool} failed on {file}")
    return all_


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__)
        return 2
    path = _path()
    tool = shutil.which("cuobjdump", path=path)
    if tool is None:
        print("check_cuda: cuobjdump was not found")
        return 2
    found = kernels(sys.argv[1], tool, path)
    wrong = 0
    for kernel in found:
        for problem in kernel.problems():
            print(f"{kernel.target} {kernel.symbol}: {problem}")
            wrong += 1
    for target in sorted({k.target for k in found}):
        mine = [k for k in found if k.target == target]
        tensor = sum(1 for k in mine if k.found["HMMA"] or k.found["HGMMA"])
        print(f"{target}: {len(mine)} kernels, {sum(k.instructions for k in mine)} instructions; "
              f"{tensor} kernels on tensor cores")  # fmt: skip
    return 1 if wrong or not found else 0


if __name__ == "__main__":
    raise SystemExit(main())
