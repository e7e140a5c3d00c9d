"""``cnnfast convert``: weights or a network in another format.

  IN .safetensors .npz .pth .pt        OUT .safetensors .npz
  IN .onnx                             OUT .safetensors .npz (weights alone), .onnx
  IN .weights (darknet)                OUT .safetensors .npz .onnx, with --model or --cfg
  IN any weights, with --model NAME    OUT .onnx

Names, element types and layout (torch's) of weights stay as they are; bfloat16 becomes float32. OUT is
written as a whole or not at all, and an existing file is replaced with --force only.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import secrets
from contextlib import suppress

from ..errors import WeightsError
from ..models.registry import entry
from .networks import built, ending, input_size, is_onnx, model_name, onnx, positive, tensors_of
from .summary import file_size

WRITTEN = (".safetensors", ".npz", ".onnx")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__.partition("\n\n")[2]
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("input", metavar="IN")
    parser.add_argument("output", metavar="OUT")
    parser.add_argument(
        "--model", type=model_name, metavar="NAME", help="the network that the weights are of"
    )
    parser.add_argument("--cfg", metavar="FILE", help="description of the network of darknet weights")
    parser.add_argument(
        "--input", dest="size", type=input_size, metavar="HxWxC", help="size of the pictures, for ONNX"
    )
    parser.add_argument("--classes", type=positive, metavar="N", help="number of classes of --model")
    parser.add_argument("--force", action="store_true", help="replace an existing file")
    parser.add_argument("--json", action="store_true", help="print one JSON object about what was done")


def run(args: argparse.Namespace) -> int:
    kind = ending(args.output)
    if kind not in WRITTEN:
        raise WeightsError(f"{args.output}: expected one of {', '.join(WRITTEN)}, came {kind or 'no ending'}")
    if os.path.lexists(args.output) and not args.force:
        raise FileExistsError(17, "exists already; --force replaces it", args.output)
    if kind == ".onnx":
        tensors = _write_onnx(args)
    else:
        from ..weights import save_weights

        state = tensors_of(args.input, args.model, args.cfg)
        save_weights(args.output, state)
        tensors = len(state)
    size = os.stat(args.output).st_size
    if args.json:
        print(json.dumps({"input": args.input, "output": args.output, "tensors": tensors, "bytes": size}))
    else:
        print(f"{args.output}: {tensors} tensors, {size:,} bytes")
    return 0


def _write_onnx(args: argparse.Namespace) -> int:
    """Write a network; returns the number of its tensors."""
    if is_onnx(args.input):
        model = onnx().load(args.input).eval()
        size = args.size or file_size(model)
        if size is None:
            raise WeightsError(
                f"{args.input}: the file leaves the size of its pictures open: give --input HxWxC"
            )
    elif args.cfg is not None:
        darknet = importlib.import_module("cnnfast.models.darknet").darknet
        model = darknet(args.cfg, args.input).eval()
        size = args.size or model.input_size
    elif args.model is None:
        raise WeightsError(f"{args.input}: weights alone are no network: give --model NAME to write ONNX")
    else:
        model = built(args.model, os.path.abspath(args.input), args.classes)
        size = args.size or entry(args.model).input_size
    target = os.path.realpath(args.output)
    folder = os.path.dirname(target)
    os.stat(folder)
    temporary = os.path.join(folder, f".cnnfast-{secrets.token_hex(8)}.onnx")
    try:
        onnx().save(model, temporary, (1, *size))
        os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    return len(model.state_dict())
