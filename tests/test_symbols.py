"""The check of exported symbols finds what it is there for; objects of a build tree pass it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "tools" / "check_symbols.sh"
TABLE = 'extern "C" { extern const int cnnfast_table_v3; const int cnnfast_table_v3 = 1; }\n'

CASES = {
    "clean": ("namespace { int f(int x) { return x + 1; } }", True),
    "C function": ('extern "C" float expf(float); namespace { float f(float x) { return expf(x); } }', True),
    "weak": ("inline int planted(int x) { return x + 1; } static int (*volatile f)(int) = planted;", False),
    "weak template": (
        "template <class T> T planted(T x) { return x; } static int (*volatile f)(int) = planted<int>;",
        False,
    ),
    "second export": ("int planted(int x) { return x + 1; }", False),
    "C++ call": ("int planted(int); static int (*volatile f)(int) = planted;", False),
}


@pytest.mark.parametrize("case", CASES)
def test_planted(case: str, tmp_path: Path) -> None:
    compiler = shutil.which("g++") or shutil.which("c++")
    if not compiler or not shutil.which("nm") or not shutil.which("bash"):
        pytest.skip("needs a C++ compiler, nm and bash")
    source, accepted = CASES[case]
    file, made = tmp_path / "table.cc", tmp_path / "table.o"
    file.write_text(source + "\n" + TABLE)
    subprocess.run([compiler, "-c", "-Wno-unused", str(file), "-o", str(made)], check=True)
    done = subprocess.run(
        ["bash", str(SCRIPT), "--object", str(made), "v3"], capture_output=True, text=True, check=False
    )
    assert (done.returncode == 0) == accepted, done.stderr
    if not accepted:
        assert "planted" in done.stderr


def test_objects_of_the_build_tree() -> None:
    folders = {p.parent.parent for p in ROOT.glob("build/*/CMakeFiles/kernels_*.dir") if any(p.rglob("*.o"))}
    if not folders or not shutil.which("nm") or not shutil.which("bash"):
        pytest.skip("needs a build tree in build/, nm and bash")
    for folder in sorted(folders):
        done = subprocess.run(["bash", str(SCRIPT), str(folder)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
