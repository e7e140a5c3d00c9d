"""The command line: what it prints, exit status, interrupts, pipes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cnnfast as cf
from cnnfast import config
from cnnfast.cli import main
from processes import interrupted, run_python

NATIVE = config._cpu is not None


@pytest.fixture
def photo(tmp_path: Path, rng: np.random.Generator) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)).save(path)
    return path


@pytest.fixture(autouse=True)
def _same_backend_afterwards() -> Iterator[None]:
    with cf.use_backend(config.current_backend()):
        yield


def command(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cnnfast", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
        check=False,
    )


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert f"cnnfast   {cf.__version__}" in text
    assert "CUDA      no: " in text
    assert f"NumPy     {np.__version__}, BLAS " in text
    if NATIVE:
        assert f"in use: {config._cpu.isa()}" in text
        assert "set by: " in text
        assert "GFLOP/s" in text
    else:
        assert "pure NumPy: " in text


def test_doctor_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["version"] == cf.__version__
    assert report["native"]["available"] is NATIVE
    assert report["cuda"]["reason"]
    if NATIVE:
        assert report["measured"][0]["threads"] == 1
        assert all(
            row["gflops"] > 0 and all(v > 0 for v in row["gb_per_s"].values()) for row in report["measured"]
        )
        assert report["native"]["threads_reason"]
    assert main(["doctor", "--json", "--no-measure"]) == 0
    assert "measured" not in json.loads(capsys.readouterr().out)


@pytest.mark.skipif(not NATIVE, reason="the native module is not installed")
def test_doctor_explains_an_unknown_level() -> None:
    done = command("doctor", CNNFAST_ISA="v9")
    assert done.returncode == 0
    assert "CNNFAST_ISA=v9: expected one of" in done.stdout


def test_filter(backend: str, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "edges.png"
    assert (
        main(["filter", str(photo), "--kernel", "sobel", "-o", str(out), "--backend", backend, "--json"]) == 0
    )
    said = json.loads(capsys.readouterr().out)
    assert (said["width"], said["height"], said["backend"]) == (40, 30, backend)
    with Image.open(out) as image:
        assert (image.size, image.mode) == ((40, 30), "L")
        assert np.asarray(image).max() > 100
    assert main(["filter", str(photo), "-o", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: 40 x 30, backend {backend}\n"


def test_rows_may_begin_with_a_minus(photo: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "1.png", tmp_path / "2.png"
    assert main(["filter", str(photo), "--kernel", "-1,0,1;-2,0,2;-1,0,1", "-o", str(first)]) == 0
    assert main(["filter", str(photo), "--kernel", "sobel_x", "-o", str(second)]) == 0
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        ("emboss", "is neither one of sobel"),
        ("1,2;3", "different lengths"),
        ("", "is neither"),
        ("1,x", "is neither"),
        ("nan,1", "must lie between"),
        ("inf", "must lie between"),
        ("1e30", "must lie between"),
    ],
)
def test_bad_kernels(
    kernel: str, message: str, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["filter", str(photo), f"--kernel={kernel}", "-o", str(tmp_path / "e.png")]) == 2
    assert message in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["photo.png"]


def test_errors_are_one_line_and_exit_status_2(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(photo.read_bytes()[:200])
    out = str(tmp_path / "e.png")
    for arguments, message in [
        ([str(tmp_path / "none.jpg"), "-o", out], "none.jpg: No such file"),
        ([str(broken), "-o", out], "broken.jpg: the picture is cut off or corrupt"),
        ([str(photo), "-o", str(tmp_path / "e.xyz")], "cannot tell the format"),
        ([str(photo), "-o", str(tmp_path / "none" / "e.png")], "none: No such file"),
        ([str(photo), "-o", out, "--backend", "cuda"], "backend 'cuda' cannot be used"),
    ]:
        if "cuda" in arguments and config.config()["cuda"]["available"]:
            continue
        assert main(["filter", *arguments]) == 2
        printed = capsys.readouterr()
        assert printed.err.startswith("cnnfast: ")
        assert printed.err.count("\n") == 1
        assert message in printed.err
        assert not printed.out
    assert not Path(out).exists()


@pytest.mark.skipif(not os.path.exists("/dev/null"), reason="needs devices")
def test_devices_are_not_replaced(photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    assert main(["filter", str(photo), "-o", str(pipe)]) == 2
    assert "regular file" in capsys.readouterr().err
    assert pipe.is_fifo()


def test_usage() -> None:
    assert command().returncode == 2
    assert command("dance").returncode == 2
    assert command("filter").returncode == 2
    assert command("doctor", "--faster").returncode == 2
    done = command("--version")
    assert (done.returncode, done.stdout) == (0, f"cnnfast {cf.__version__}\n")
    for arguments in ([], ["doctor"], ["filter"], ["bench"]):
        done = command(*arguments, "--help")
        assert done.returncode == 0, done.stderr
        assert "usage: cnnfast" in done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX pipes")
def test_a_reader_that_goes_away_is_no_error() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "cnnfast", "doctor", "--no-measure"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        assert child.stderr.read() == b""
        assert child.wait(timeout=60) == 141


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGINT")
def test_ctrl_c(native: None, tmp_path: Path) -> None:
    # The kernel is so large that the call outlasts the test (and NumPy's memory).
    picture, out = tmp_path / "large.png", tmp_path / "e.png"
    Image.new("L", (3000, 3000)).save(picture)
    kernel = ";".join([",".join(["1"] * 150)] * 150)
    program = f"""
        import signal, sys
        from cnnfast.cli import main
        import cnnfast.cli.filter
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        print("ready", flush=True)
        sys.exit(main(["filter", {str(picture)!r}, "--kernel", {kernel!r}, "-o", {str(out)!r}]))
    """
    assert interrupted(program, after=1, timeout=60) == (130, "", "cnnfast: interrupted\n")
    assert os.listdir(tmp_path) == ["large.png"]


def test_commands_load_only_what_they_need() -> None:
    program = """
        import sys
        import cnnfast
        assert not {"PIL", "safetensors", "cnnfast.cli", "cnnfast.pictures"} & set(sys.modules)
        from cnnfast.cli import main
        main(["doctor", "--no-measure"])
        assert not {"PIL", "safetensors", "cnnfast.bench"} & set(sys.modules)
    """
    done = run_python(program)
    assert done.returncode == 0, done.stderr
