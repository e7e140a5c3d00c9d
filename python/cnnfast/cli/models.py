"""``cnnfast models``: the networks that can be built by name, and what is published for them."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ..models.registry import entry, list_models


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--task", type=task, metavar="TASK", help="only those for one task, e.g. classification"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, with all that is known")


def task(text: str) -> str:
    """For argparse: a task that some network is for."""
    tasks = sorted({entry(name).task for name in list_models()})
    if text not in tasks:
        raise argparse.ArgumentTypeError(f"there is no task {text!r}; tasks: {', '.join(tasks)}")
    return text


def run(args: argparse.Namespace) -> int:
    names = list_models(args.task)
    if args.json:
        print(json.dumps({"models": [describe(name) for name in names]}, indent=2))
        return 0
    rows = [("name", "task", "input", "classes", "weights")]
    for name in names:
        known = entry(name)
        size = "x".join(map(str, known.input_size))
        rows.append((name, known.task, size, str(known.num_classes), ", ".join(known.weights) or "-"))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def describe(name: str) -> dict[str, Any]:
    """What the registry knows of a network, as plain data."""
    known = entry(name)
    return {
        "name": known.name,
        "task": known.task,
        "input_size": list(known.input_size),
        "num_classes": known.num_classes,
        "reference": known.reference,
        "weights": {
            key: {
                "url": p.url,
                "sha256": p.sha256,
                "mean": list(p.mean),
                "std": list(p.std),
                "input_size": list(p.input_size),
                "resize": p.resize,
                "interpolation": p.interpolation,
                "classes": p.classes,
                "licence": p.licence,
                "accuracy": dict(p.accuracy),
            }
            for key, p in known.weights.items()
        },
    }
