"""``cnnfast summary``: the layers of a network, with shapes, parameters, buffers and work.

Nothing is computed, and no weights are needed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import Any

import numpy as np

import cnnfast

from ..models.registry import create_model, entry
from .networks import input_size, is_onnx, network, onnx, positive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", type=network, metavar="NAME|FILE.onnx", help="a name that 'cnnfast models' lists, or a file"
    )
    parser.add_argument(
        "--input", type=input_size, metavar="HxWxC", help="size of the pictures (default: the network's own)"
    )
    parser.add_argument(
        "--classes", type=positive, metavar="N", help="number of classes (default: the network's own)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    if is_onnx(args.model):
        model: Any = onnx().load(args.model).eval()
        size = args.input or file_size(model) or (224, 224, 3)
    else:
        model = create_model(args.model, num_classes=args.classes)
        size = args.input or entry(args.model).input_size
    summary: Any = cnnfast.summary
    result = summary(model, (1, *size))
    if args.json:
        print(json.dumps({"model": args.model, "input": list(size), **as_data(result)}, indent=2))
    else:
        print(result)
    return 0


def file_size(model: Any) -> tuple[int, int, int] | None:
    """Rows, columns and channels of the first input, where an imported network fixes them.

    Files declare them in either order: the channels of pictures are few.
    """
    shapes = getattr(model, "input_shapes", None) or [()]
    sizes = [n if isinstance(n, int) else 0 for n in shapes[0] or ()]
    if len(sizes) != 4 or min(sizes[1:]) < 1:
        return None
    first, second, third = sizes[1:]
    return (second, third, first) if first <= 4 or first < third else (first, second, third)


def as_data(value: Any) -> Any:
    """Dataclasses and what is in them as JSON knows it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: as_data(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): as_data(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_data(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
