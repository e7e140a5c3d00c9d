"""``cnnfast inspect``: the tensors of a file, or what a network has learnt.

  cnnfast inspect weights.pth
  cnnfast inspect --what filters --model resnet50 --weights torchvision -o filters.png
  cnnfast inspect dog.jpg --what gradcam --model resnet50 --weights torchvision -o dog-seen.png
  cnnfast inspect *.jpg --what top9 --model vgg16 --weights F --layer features.14 --units 0,5,9 -o top.png

Without --what: names, shapes, element types and sizes of all tensors of a file: safetensors, npz, checkpoints
of torch (.pth, .pt), ONNX, and darknet weights, for which the network has to be named. Nothing in the file
is executed.

With --what a contact sheet of pictures:
  filters   the kernels of a convolution
  features  what units of a layer give for a picture
  top9      for each unit the nine patches of all pictures that excite it the most, a row for each unit
  gradcam   where a class is seen; each picture beside its heat
  saliency  the pixels that sway the score of a class
  dream     a picture that excites a unit, or a whole layer; begins with the picture that is given, or noise
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import CnnfastError, PictureError, WeightsError
from ..models.registry import Pretrained, create_model, entry
from .networks import built, model_name, positive, tensors_of

KINDS = ("filters", "features", "top9", "gradcam", "saliency", "dream")
_CAFFE = {"mean": (123.68 / 255, 116.779 / 255, 103.939 / 255), "std": (1 / 255, 1 / 255, 1 / 255)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__.partition("\n\n")[2]
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("files", nargs="*", metavar="FILE", help="weights or a network; with --what pictures")
    add("--model", type=model_name, metavar="NAME", help="the network (of darknet weights too)")
    add("--cfg", metavar="FILE", help="description of the network of darknet weights")
    add("--json", action="store_true", help="print one JSON object")

    group = parser.add_argument_group("what a network has learnt")
    add = group.add_argument
    add("--what", choices=KINDS, help="what to show")
    add("--weights", metavar="FILE|NAME", help="a weights file (one of a trunk is enough for its layers), "
        "published weights, or org/name")  # fmt: skip
    add("--pixels", choices=("caffe",), help="for the original weights of VGG: RGB less its mean, 0..255")
    add("--layer", metavar="PATH", help="e.g. layer4.1.conv2 (default: the first convolution; gradcam: the "
        "last layer with feature maps)")  # fmt: skip
    add(
        "--units", type=units, metavar="N,N", help="channels of the layer (default: the first 16, 9 for top9)"
    )
    add("--target", type=unit, metavar="N", help="class that is explained (default: the likeliest)")
    add("--size", type=positive, metavar="N", help="pixels of the input (default: the network's own)")
    add(
        "--steps", type=positive, default=20, metavar="N", help="of dream, in each of 3 octaves (default: 20)"
    )
    add("--seed", type=unit, default=0, metavar="N", help="of dream (default: 0)")
    add("-o", "--output", metavar="FILE", help="picture to write, e.g. sheet.png")
    add("--quiet", action="store_true", help="no progress on stderr")


def unit(text: str) -> int:
    """For argparse: a whole number from 0."""
    return 0 if text.strip() == "0" else positive(text)


def units(text: str) -> list[int]:
    """For argparse: whole numbers from 0."""
    return [unit(part) for part in text.split(",")]


def run(args: argparse.Namespace) -> int:
    if args.what:
        return _learnt(args)
    if len(args.files) != 1:
        raise CnnfastError(f"inspect: expected one FILE, or --what, got {len(args.files)} files")
    return _tensors(args, args.files[0])


# --- the tensors of a file ------------------------------------------------------------------------------


def _tensors(args: argparse.Namespace, file: str) -> int:
    tensors = tensors_of(file, args.model, args.cfg)
    rows = [
        {"name": name, "shape": list(a.shape), "dtype": str(a.dtype), "numbers": a.size, "bytes": a.nbytes}
        for name, a in tensors.items()
    ]
    total = {
        "tensors": len(rows),
        "numbers": sum(a.size for a in tensors.values()),
        "bytes": sum(a.nbytes for a in tensors.values()),
        "file_bytes": os.stat(file).st_size,
    }
    if args.json:
        print(json.dumps({"file": file, **total, "rows": rows}, indent=2))
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


# --- what a network has learnt --------------------------------------------------------------------------


def _learnt(args: argparse.Namespace) -> int:
    from ..inspect import contact_sheet
    from ..pictures import picture_format, save_picture

    for name in ("model", "weights", "output"):
        if not getattr(args, name):
            raise CnnfastError(f"inspect: --what {args.what} needs --{name}")
    picture_format(args.output)  # before the work
    wanted = {"filters": (0, 0), "dream": (0, 1), "features": (1, 1)}.get(args.what, (1, 1 << 30))
    if not wanted[0] <= len(args.files) <= wanted[1]:
        expected = {(0, 0): "no picture", (0, 1): "one picture at most", (1, 1): "one picture"}
        came = f"expected {expected.get(wanted, 'pictures')}, got {len(args.files)}"
        raise CnnfastError(f"inspect: --what {args.what}: {came}")
    try:
        tiles, columns, size, found = _MAKERS[args.what](args, _Network(args))
        sheet = contact_sheet(tiles, columns, size=size)
    except (PictureError, WeightsError):
        raise
    except ValueError as error:  # of a layer, a unit, a class: what to change is in the message
        raise CnnfastError(str(error)) from error
    save_picture(args.output, sheet)
    report = {"what": args.what, "model": args.model, "weights": args.weights, "output": args.output, **found}
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        rest = f", layer {found['layer']}" if found.get("layer") else ""
        print(f"{args.output}: {sheet.shape[1]} x {sheet.shape[0]}, {args.what} of {args.model}{rest}")
    return 0


class _Network:
    """The network that was asked for, and how it takes pictures."""

    def __init__(self, args: argparse.Namespace) -> None:
        from .classify import preprocess_for

        known = entry(args.model)
        usual = known.weights.get(args.weights) or known.usual or Pretrained()
        if args.pixels == "caffe":
            usual = Pretrained(**{**usual.__dict__, **_CAFFE})
        rows, columns, channels = known.input_size
        size = (args.size, args.size, channels) if args.size else (rows, columns, channels)
        self.prepare = preprocess_for(usual, size)
        self.args, self.shape = args, size
        self.missing: list[str] = []
        try:
            self.model = built(args.model, args.weights)
        except WeightsError:
            if args.what in ("gradcam", "saliency"):
                raise
            self.model = self._trunk(known)

    def _trunk(self, known: Any) -> Any:
        """A network of which some layers are not in the file."""
        from ..weights import load_weights
        from ..weights.hub import find_weights

        model = create_model(known.name).eval()
        state = load_weights(find_weights(known, self.args.weights))
        self.missing, unexpected = model.load_state_dict(state, strict=False, layout="torch")
        if unexpected or len(self.missing) == len(model.state_dict()):
            raise WeightsError(f"{self.args.weights}: expected weights of {known.name}, came others")
        return model

    def layer(self, default: str) -> str:
        """The layer that was asked for, all that it needs having been in the file."""
        from ..inspect import layer_of
        from ..models.transfer import graph_to

        path = str(self.args.layer or default)
        layer_of(self.model, path)
        if self.missing:
            graph = graph_to(self.model, (1, *self.shape), path)
            absent = {v.name.removeprefix("model.") for v in graph.params()} & set(self.missing)
            if absent:
                raise WeightsError(
                    f"{self.args.weights}: {path} needs {min(absent)}, which is not in the file"
                )
        return path

    def first_convolution(self) -> str:
        from .. import nn

        return next(path for path, m in self.model.named_modules() if isinstance(m, nn.Conv2d))

    def last_maps(self) -> str:
        """The last layer of the forward pass that gives more than one pixel."""
        from ..graph import trace

        modules = dict(self.model.named_modules())
        graph = trace(self.model, (1, *self.shape))
        for node in reversed(graph.nodes):
            shape = node.output.shape
            if (
                len(shape) == 4
                and shape[1] * shape[2] > 1
                and node.scope
                and not modules[node.scope]._modules
            ):
                return node.scope
        raise ValueError(f"inspect: {self.args.model} has no layer with feature maps")

    def shown(self, x: np.ndarray) -> np.ndarray:
        """What a prepared picture (H, W, C) looks like."""
        pixels = 255 * (x * np.asarray(self.prepare.std) + np.asarray(self.prepare.mean))
        return np.clip(np.rint(np.broadcast_to(pixels, (*x.shape[:2], 3))), 0, 255).astype(np.uint8)

    def progress(self, total: int, unit: str) -> Callable[[], None]:
        from ..train.progress import Progress

        bar = Progress(not self.args.quiet, total, unit=unit)
        return lambda: bar.step(self.args.what)


Made = tuple[list[np.ndarray], int | None, int | None, dict[str, Any]]


def _filters(args: argparse.Namespace, network: _Network) -> Made:
    from ..inspect import filter_pictures, layer_of

    path = network.layer(network.first_convolution())
    weight = getattr(layer_of(network.model, path), "weight", None)
    if weight is None or weight.ndim != 4:
        raise ValueError(f"inspect: {path} is no convolution")
    tiles = filter_pictures(weight.data)
    chosen = _chosen(args.units, len(tiles), len(tiles), path)
    return [tiles[i] for i in chosen], None, 32, {"layer": path, "units": chosen}


def _features(args: argparse.Namespace, network: _Network) -> Made:
    from ..inspect import feature_maps, grey

    path = network.layer(network.first_convolution())
    maps = feature_maps(network.model, network.prepare(args.files[0]), [path])[path]
    if maps.ndim != 4:
        raise ValueError(f"inspect: {path} gives no feature maps")
    chosen = _chosen(args.units, maps.shape[3], 16, path)
    return [grey(maps[0, :, :, i]) for i in chosen], None, 112, {"layer": path, "units": chosen}


def _top9(args: argparse.Namespace, network: _Network) -> Made:
    from ..inspect import crop, top_patches

    path = network.layer(network.first_convolution())
    done = network.progress(len(args.files), "picture")
    each = 1 if len(args.files) >= 9 else -(-9 // len(args.files))
    found = top_patches(
        network.model,
        (network.prepare(file)[0] for file in args.files),
        path,
        args.units,
        each=each,
        done=done,
    )
    chosen = args.units or list(found)[:9]
    read: dict[int, np.ndarray] = {}
    tiles, rows = [], []
    for i in chosen:
        for patch in found[i]:
            if patch.picture not in read:
                read[patch.picture] = network.shown(network.prepare(args.files[patch.picture])[0])
            tiles.append(crop(read[patch.picture], patch.place, 128))
            rows.append({
                "unit": i, "picture": args.files[patch.picture], "value": patch.value, "row": patch.row,
                "column": patch.column, "field": list(patch.place),
            })  # fmt: skip
    return tiles, len(found[chosen[0]]), 64, {"layer": path, "units": chosen, "patches": rows}


def _gradcam(args: argparse.Namespace, network: _Network) -> Made:
    from ..inspect import grad_cam, overlay

    path = network.layer(args.layer or network.last_maps())
    tiles, rows = [], []
    done = network.progress(len(args.files), "picture")
    for file in args.files:
        x = network.prepare(file)
        cam, picture = grad_cam(network.model, x, path, args.target), network.shown(x[0])
        tiles += [picture, overlay(picture, cam.map)]
        rows.append({"picture": file, "class": cam.target, "score": cam.score})
        done()
    return tiles, 2, None, {"layer": path, "results": rows}


def _saliency(args: argparse.Namespace, network: _Network) -> Made:
    from ..inspect import grey, saliency

    tiles = []
    done = network.progress(len(args.files), "picture")
    for file in args.files:
        x = network.prepare(file)
        found = saliency(network.model, x, args.target)
        # A few pixels are far above all others.
        tiles += [network.shown(x[0]), grey(found, 0, float(np.quantile(found, 0.995)))]
        done()
    return tiles, 2, None, {"target": args.target}


def _dream(args: argparse.Namespace, network: _Network) -> Made:
    from ..inspect import maximise

    path = network.layer(network.first_convolution())
    mean, std = (np.asarray(v, np.float32) for v in (network.prepare.mean, network.prepare.std))
    chosen: list[Any] = args.units or [None]
    done = network.progress(3 * args.steps * len(chosen), "step")
    start = network.prepare(args.files[0]) if args.files else None
    low, high = ((0 - mean) / std).tolist(), ((1 - mean) / std).tolist()
    tiles = [
        network.shown(maximise(
            network.model, path, i, start=start, size=network.shape[:2], low=low, high=high,
            steps=args.steps, seed=args.seed, done=done,
        )[0])
        for i in chosen
    ]  # fmt: skip
    return tiles, None, None, {"layer": path, "units": chosen}


_MAKERS: dict[str, Callable[[argparse.Namespace, _Network], Made]] = {
    "filters": _filters, "features": _features, "top9": _top9, "gradcam": _gradcam, "saliency": _saliency,
    "dream": _dream,
}  # fmt: skip


def _chosen(asked: list[int] | None, count: int, usual: int, path: str) -> list[int]:
    for i in asked or ():
        if i >= count:
            raise ValueError(f"inspect: {path} has units 0 to {count - 1}, got {i}")
    return asked or list(range(min(count, usual)))
