"""Programs in processes of their own, for what must not happen to the one that runs the tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

SANITIZED = any(name in os.environ.get("LD_PRELOAD", "") for name in ("libasan", "libtsan", "libubsan"))


def run_python(
    program: str, *arguments: str, timeout: float = 120, **environment: str | None
) -> subprocess.CompletedProcess[str]:
    """Run a program with changed or (None) removed environment variables, for at most `timeout` seconds."""
    env = {**os.environ, **environment}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *arguments],
        env={k: v for k, v in env.items() if v is not None},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def output_of(program: str, *arguments: str, timeout: float = 120, **environment: str | None) -> str:
    """What a program prints; it must succeed."""
    done = run_python(program, *arguments, timeout=timeout, **environment)
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip()


def interrupted(program: str, *arguments: str, after: float, timeout: float) -> tuple[int, str, str]:
    """Exit status, output and errors of a program that gets Ctrl-C this long after it printed "ready"."""
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            time.sleep(after)
            child.send_signal(signal.SIGINT)
            out, err = child.communicate(timeout=timeout)
        finally:
            child.kill()
    return child.returncode, out, err
