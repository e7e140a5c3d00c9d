"""``cnnfast doctor``: what this machine and this build can do, and why."""

from __future__ import annotations

import argparse
import json
import platform
from typing import Any

import numpy as np

from .. import config

# Working sets per thread that live in the first level of cache, the second, and memory.
SIZES = {"L1 (16 KiB)": 16 << 10, "L2 (256 KiB)": 256 << 10, "memory (64 MiB)": 64 << 20}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--no-measure", action="store_true", help="leave out peak and bandwidth (about two seconds)"
    )


def run(args: argparse.Namespace) -> int:
    report = examine(measure=not args.no_measure)
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        print("\n".join(_lines(report)))
    return 0


def examine(*, measure: bool = True) -> dict[str, Any]:
    """Everything that ``cnnfast doctor`` prints, as data."""
    report = config.config()
    report["python"] = platform.python_version()
    report["system"] = f"{platform.system()} {platform.machine()}"
    report["numpy"] = {"version": np.__version__, "blas": _blas()}
    if measure and report["native"]["available"]:
        report["measured"] = _measure(report["native"]["threads"])
    return report


def _blas() -> str:
    """Name and version of the BLAS that NumPy was built with."""
    try:
        built = np.show_config(mode="dicts")
        blas = built["Build Dependencies"]["blas"]
        return f"{blas['name']} {blas.get('version', '')}".strip()
    except (TypeError, KeyError):  # NumPy before 1.25 prints it only
        return "unknown"


def _measure(threads: int) -> list[dict[str, Any]]:
    native: Any = config._cpu
    return [
        {
            "threads": n,
            "gflops": round(native.measure_peak(n), 1),
            "gb_per_s": {name: round(native.measure_bandwidth(n, size), 1) for name, size in SIZES.items()},
        }
        for n in sorted({1, threads})
    ]


def _lines(report: dict[str, Any]) -> list[str]:
    native, cuda = report["native"], report["cuda"]
    blas = report["numpy"]["blas"]
    lines = [
        f"cnnfast   {report['version']} on Python {report['python']}, {report['system']}",
        f"backend   {report['backend']}",
    ]
    if native["available"]:
        levels = (f"{name}{'' if ok else ' (not on this CPU)'}" for name, ok in native["levels"].items())
        lines += [
            f"CPU       {native['cpu']}",
            f"levels    {', '.join(levels)}; in use: {native['isa']}",
            f"threads   {native['threads']}, set by: {native['threads_reason']}",
        ]
    else:
        lines.append(f"native    no, pure NumPy: {native['reason']}")
    for row in report.get("measured", []):
        copies = ", ".join(f"{name} {speed:g}" for name, speed in row["gb_per_s"].items())
        threads = f"{row['threads']} thread{'s' if row['threads'] > 1 else ''}"
        lines.append(f"measured  {threads}: {row['gflops']:g} GFLOP/s float32; copies in GB/s: {copies}")
    lines.append(f"CUDA      {config.cuda_text(cuda)}")
    lines.append(f"NumPy     {report['numpy']['version']}, BLAS {blas}")
    return lines
