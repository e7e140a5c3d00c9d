"""``cnnfast inspect``: the tensors of a file, with shapes, element types and sizes.

Reads safetensors, npz, checkpoints of torch (.pth, .pt), ONNX, and darknet weights, for which the network has
to be named. Nothing in the file is executed.
"""

from __future__ import annotations

import argparse
import json
import os

from .networks import model_name, tensors_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__.partition("\n\n")[2]
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--model", type=model_name, metavar="NAME", help="the network of darknet weights")
    parser.add_argument("--cfg", metavar="FILE", help="description of the network of darknet weights")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    tensors = tensors_of(args.file, args.model, args.cfg)
    rows = [
        {"name": name, "shape": list(a.shape), "dtype": str(a.dtype), "numbers": a.size, "bytes": a.nbytes}
        for name, a in tensors.items()
    ]
    total = {
        "tensors": len(rows),
        "numbers": sum(a.size for a in tensors.values()),
        "bytes": sum(a.nbytes for a in tensors.values()),
        "file_bytes": os.stat(args.file).st_size,
    }
    if args.json:
        print(json.dumps({"file": args.file, **total, "rows": rows}, indent=2))
        return 0
    lines = [("name", "shape", "type", "numbers", "bytes")]
    for name, a in tensors.items():
        shape = "x".join(map(str, a.shape)) or "scalar"
        # A name out of a file may hold anything; the terminal must not obey it.
        shown = name if name.isprintable() else repr(name)
        lines.append((shown, shape, str(a.dtype), f"{a.size:,}", f"{a.nbytes:,}"))
    widths = [max(len(line[i]) for line in lines) for i in range(5)]
    for line in lines:
        cells = [
            c.ljust(w) if i < 3 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
    print(
        f"{total['tensors']:,} tensors, {total['numbers']:,} numbers, {total['bytes']:,} bytes "
        f"(file: {total['file_bytes']:,})"
    )
    return 0
