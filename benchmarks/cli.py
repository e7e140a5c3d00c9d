"""``cnnfast bench``: arguments and the run itself."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

from . import machine, peers, report
from .problems import OPERATORS, Problem, ProblemError, layer_files, select

__all__ = ["add_arguments", "main", "measure", "numbers", "progress", "run", "words"]

COLUMNS = ("eager", "packed")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what",
        nargs="*",
        metavar="OP|LAYER-FILE",
        help=f"operators ({', '.join(list(OPERATORS)[:3])}, ...) or layer files "
        f"({', '.join(layer_files())}, or a path); default: the quick set. With 'models', 'train' "
        "or 'style' first: whole networks, training, style transfer; see bench models --help and so on",
    )
    parser.add_argument("--quick", action="store_true", help="a small set that covers every operator")
    parser.add_argument(
        "--isa", metavar="LEVEL", help="force an ISA level of the native kernels (v2, v3, v4)"
    )
    parser.add_argument(
        "--threads", type=numbers, metavar="1,2", help="thread counts; default: all that cnnfast uses"
    )
    parser.add_argument(
        "--vs",
        type=words(peers.names()),
        default=["numpy"],
        metavar="PEERS",
        help=f"of {', '.join(peers.names())}",
    )
    parser.add_argument(
        "--columns",
        type=words(COLUMNS),
        metavar="COLUMNS",
        help="eager, packed; default: those of the peers chosen",
    )
    parser.add_argument(
        "--rounds", type=int, default=7, help="rounds of which the median is taken (default 7)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE.png", help="write bars of the speed-up over the best peer"
    )


def numbers(text: str) -> list[int]:
    values = [int(part) for part in text.split(",") if part.strip().isdigit()]
    if len(values) != len(text.split(",")) or not all(values):
        raise argparse.ArgumentTypeError(f"expected thread counts like 1,2, got {text!r}")
    return list(dict.fromkeys(values))


def words(known: tuple[str, ...] | list[str]):
    def parse(text: str) -> list[str]:
        values = [part.strip() for part in text.split(",")]
        for value in values:
            if value not in known:
                raise argparse.ArgumentTypeError(f"unknown {value!r}; choose from {', '.join(known)}")
        return list(dict.fromkeys(values))

    return parse


def run(args: argparse.Namespace) -> int:
    """0: measured; 1: an answer of cnnfast was wrong or failed; 2: cannot be measured as asked."""
    if args.isa and os.environ.get("CNNFAST_ISA") != args.isa:
        return run_with_isa(args)
    try:
        if args.isa and (why := peers.get("cnnfast").available()) is not None:
            raise RuntimeError(f"--isa {args.isa}: {why}")
        problems = select(args.what, quick=args.quick)
        measured = measure(problems, args.vs, args.threads, args.columns, args.rounds)
        print(report.tables(measured))
        if args.json:
            report.write_json(measured, args.json)
        if args.plot:
            report.plot(measured, args.plot)
    except (ProblemError, RuntimeError, OSError) as error:
        print(f"cnnfast bench: {error}", file=sys.stderr)
        return 2
    return int(measured.faulty)


def run_with_isa(args: argparse.Namespace) -> int:
    """The level is chosen when the native module loads, so it takes a new process."""
    argv = [*args.what, "--rounds", str(args.rounds), "--isa", args.isa, "--vs", ",".join(args.vs)]
    argv += ["--quick"] if args.quick else []
    argv += ["--threads", ",".join(map(str, args.threads))] if args.threads else []
    argv += ["--columns", ",".join(args.columns)] if args.columns else []
    for option in ("json", "plot"):
        if getattr(args, option):
            argv += [f"--{option}", str(getattr(args, option))]
    environment = {**os.environ, "CNNFAST_ISA": args.isa}
    return subprocess.call([sys.executable, "-m", "cnnfast.bench", *argv], env=environment)


def measure(
    problems: list[Problem],
    vs: list[str],
    threads: list[int] | None = None,
    columns: list[str] | None = None,
    rounds: int = 7,
) -> report.Run:
    """Run the problems at each thread count; the machine's peak is measured before and after."""
    import cnnfast

    from . import runner

    if rounds < 1:
        raise RuntimeError(f"rounds must be at least 1, got {rounds}")
    columns = columns or [c for c in COLUMNS if any(c in peers.get(name).COLUMNS for name in vs)]
    chosen, missing = runner.contestants(vs, columns)
    before = cnnfast.get_num_threads()
    counts = threads or [before]
    roofs, results = {}, []
    adapters = {name: peers.get(name) for name in ("cnnfast", *vs) if name not in missing}
    try:
        for count in counts:
            for adapter in adapters.values():
                adapter.set_threads(count)
            first = machine.measure(count)
            for index, problem in enumerate(problems, 1):
                progress(f"{count} threads, {index}/{len(problems)}: {problem.group} {problem.name}")
                results.append(runner.run_problem(problem, chosen, count, rounds))
            roofs[count] = machine.higher(first, machine.measure(count))
    finally:
        cnnfast.set_num_threads(before)
        progress("")
    return report.Run(
        results,
        chosen,
        columns,
        roofs,
        machine.describe(),
        {name: adapter.version() for name, adapter in adapters.items()},
        missing,
        datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        rounds,
    )


def progress(text: str) -> None:
    """One line that is overwritten, on a terminal only."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="cnnfast bench", description=__doc__)
    add_arguments(parser)
    return run(parser.parse_args(argv))
