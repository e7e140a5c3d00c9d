"""``cnnfast bench models``: arguments and the run itself."""

from __future__ import annotations

import argparse
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path

from .. import machine, peers
from ..cli import numbers, progress, words
from . import report
from .race import VARIANTS, entries, run_network
from .source import NETWORKS, NetworkError, build

__all__ = ["add_arguments", "main", "measure", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"networks of the registry; default: {', '.join(NETWORKS)}"
    )
    parser.add_argument(
        "--vs",
        type=words(peers.network_names()),
        default=peers.network_names(),
        metavar="PEERS",
        help=f"of {', '.join(peers.network_names())}; default: all that are installed",
    )
    parser.add_argument(
        "--with",
        dest="variants",
        type=words(list(VARIANTS)),
        default=[],
        metavar="ROWS",
        help="further rows of cnnfast: direct (without Winograd), lean (less memory), rich (never lean), "
        "v3, v2 (older levels)",
    )
    parser.add_argument(
        "--threads", type=numbers, metavar="1,2", help="thread counts; default: all that cnnfast uses"
    )
    parser.add_argument("--batch", type=positive, default=1, metavar="N", help="images at once (default 1)")
    parser.add_argument(
        "--rounds", type=positive, default=11, help="rounds of which the median is taken (default 11)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE.png", help="write times as shares of the best peer's"
    )


def positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, got {text!r}")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """0: measured; 1: an answer of cnnfast was wrong or failed; 2: cannot be measured as asked."""
    try:
        measured = measure(args.names, args.vs, args.variants, args.threads, args.batch, args.rounds)
        print(report.tables(measured))
        if args.json:
            report.write_json(measured, args.json)
        if args.plot:
            report.plot(measured, args.plot)
    except (NetworkError, RuntimeError, OSError) as error:
        print(f"cnnfast bench models: {error}", file=sys.stderr)
        return 2
    return int(measured.faulty)


def measure(
    names: list[str],
    vs: list[str],
    variants: list[str] | None = None,
    threads: list[int] | None = None,
    batch: int = 1,
    rounds: int = 11,
) -> report.NetworkRun:
    """Run the networks at each thread count; the machine's peak is measured before and after."""
    import cnnfast
    from cnnfast.models.registry import entry

    names = list(names) or list(NETWORKS)
    try:
        for name in names:  # before minutes are spent on those before it
            entry(name)
    except ValueError as error:
        raise NetworkError(str(error)) from None
    counts = threads or [cnnfast.get_num_threads()]
    chosen, missing, versions = entries(vs, variants or ())
    before = {count: machine.measure(count) for count in counts}
    results = []
    try:
        for name in names:
            progress(f"{name}: weights and the float64 answer")
            # Some networks take gigabytes in all formats together: gone before the next one.
            with tempfile.TemporaryDirectory(prefix="cnnfast-bench-") as folder:
                network = build(name, batch, Path(folder))
                results += run_network(network, chosen, counts, rounds, progress)
    finally:
        progress("")
    return report.NetworkRun(
        results,
        [entry.label for entry in chosen],
        {count: machine.higher(roof, machine.measure(count)) for count, roof in before.items()},
        machine.describe(),
        versions,
        missing,
        datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        rounds,
        batch,
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="cnnfast bench models", description=__doc__)
    add_arguments(parser)
    return run(parser.parse_args(argv))
