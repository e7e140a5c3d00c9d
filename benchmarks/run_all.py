"""Repeats every table of ``docs/performance.md``: all layer files against all peers.

``python -m cnnfast.bench.run_all`` writes one JSON per layer file and prints the Markdown tables. On two
idle cores it takes about an hour; name layer files to repeat only those.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from . import cli, peers, report
from .problems import layer_files, load

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    files = [name for name in layer_files() if name != "quick"]
    parser = argparse.ArgumentParser(prog="python -m cnnfast.bench.run_all", description=__doc__)
    parser.add_argument("files", nargs="*", default=files, help=f"layer files; default: {' '.join(files)}")
    parser.add_argument(
        "--out", type=Path, default=Path("benchmarks/results"), help="folder of the JSON files"
    )
    parser.add_argument("--threads", type=cli.numbers, default=[1, 2], metavar="1,2")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args(argv)
    runs = []
    for name in args.files:
        run = cli.measure(load(name), peers.names(), args.threads, list(cli.COLUMNS), args.rounds)
        report.write_json(run, args.out / f"{Path(name).stem}.json")
        print(f"## {Path(name).stem}\n\n{report.tables(run)}\n", flush=True)
        runs.append(run)
    everything = replace(runs[0], results=[result for run in runs for result in run.results])
    print(f"## All layer files\n\n{report.summary(everything)}")
    return int(any(run.faulty for run in runs))


if __name__ == "__main__":
    sys.exit(main())
