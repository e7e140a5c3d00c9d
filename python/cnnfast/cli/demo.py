"""``cnnfast demo``: every application on pictures that come with the package, and a page of the results.

  cnnfast demo
  cnnfast demo -o shown --only edges,segment

Nothing is fetched. The page is FOLDER/index.html with its pictures beside it; any browser shows it. It is
written when all parts are done.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import time
from typing import Any

from .. import demo
from ..config import config, current_backend, get_num_threads, set_num_threads
from ..demo.page import page_folder, picture_files, text
from .networks import positive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__.partition("\n\n")[2]
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("-o", "--output", default="cnnfast-demo", metavar="FOLDER", help="(default: cnnfast-demo)")
    add("--only", type=parts, metavar="PART,PART", help=f"out of {', '.join(demo.names())}")
    add("--threads", type=positive, metavar="N", help="threads of the kernels (default: all cores)")
    add("--json", action="store_true", help="print one JSON object")


def parts(text: str) -> list[str]:
    """For argparse: names of parts."""
    chosen = [name.strip() for name in text.split(",")]
    for name in chosen:
        if name not in demo.names():
            raise argparse.ArgumentTypeError(f"there is no part {name!r}; parts: {', '.join(demo.names())}")
    return chosen


def run(args: argparse.Namespace) -> int:
    new = page_folder(args.output)  # before the work
    before = get_num_threads()
    started = time.perf_counter()
    if args.threads:
        set_num_threads(args.threads)
    try:
        threads = get_num_threads()
        done = []
        for one in demo.run(args.only):
            done.append(one)
            if not args.json:
                _print(one)
        page = demo.write_page(args.output, done)
    except BaseException:
        if new:
            with contextlib.suppress(OSError):  # something is in it
                os.rmdir(args.output)
        raise
    finally:
        set_num_threads(before)
    seconds = time.perf_counter() - started
    if args.json:
        native = config()["native"]
        facts = {
            "page": str(page), "backend": current_backend(), "level": native.get("isa"), "threads": threads,
            "seconds": seconds, "parts": [_plain(one) for one in done],
        }  # fmt: skip
        print(json.dumps(facts, indent=2))
    else:
        pictures = len(picture_files(done))
        print(f"{page}: {len(done)} parts, {pictures} pictures, {seconds:.1f} s; open it in a browser")
    return 0


def _print(one: demo.Done) -> None:
    told = "; ".join(f"{name}: {text(value)}" for name, value in one.shown.numbers.items())
    print(f"{one.part.name:10} {one.seconds:5.1f} s  {told}", flush=True)
    for note in one.shown.notes:
        print(f"{'':19}{note}")


def _plain(one: demo.Done) -> dict[str, Any]:
    shown = one.shown
    return {
        "part": one.part.name,
        "title": one.part.title,
        "seconds": one.seconds,
        "numbers": shown.numbers,
        "table": list(shown.table),
        "pictures": picture_files([one]),
        "notes": list(shown.notes),
    }
