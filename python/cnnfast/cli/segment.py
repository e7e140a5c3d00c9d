"""``cnnfast segment``: the classes of all pixels of a picture, drawn over it.

  cnnfast segment cells.png -o overlay.png --count

Without --model and --weights this finds nuclei of cells under a fluorescence microscope, with weights that
come with the package. Pictures may have any size: large ones are cut into tiles that overlap and fade into
each other. --count needs SciPy: what is connected counts as one thing and gets a colour of its own.
What 'cnnfast train' wrote knows its mean, deviation and classes; for an ONNX file, which gives scores of
all pixels, --mean and --std say how its pictures were scaled.
"""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

import numpy as np

from ..data.preprocess import Preprocess
from ..errors import PictureError, WeightsError
from ..models.registry import Pretrained, entry
from ..pictures import load_picture, picture_format, save_picture
from ..segmentation import Segmenter, find_instances, overlay
from .classify import classes_to_build, preprocess_for, read_classes
from .labelled import Recipe
from .networks import built, is_onnx, model_name, numbers, onnx, positive
from .summary import file_size
from .train import count, share_or_zero

MODEL = "unet_small"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__.partition("\n\n")[2]
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("picture", metavar="PICTURE", help="any photograph that Pillow reads")
    add("-o", "--output", required=True, metavar="FILE", help="picture to write, e.g. overlay.png")
    add("--mask", metavar="FILE", help="write the numbers of the classes as well, as a grey .png")
    add("--model", type=network, default=MODEL, metavar="NAME|FILE",
        help=f"a network for segmentation, or an ONNX file (default: {MODEL})")  # fmt: skip
    add("--weights", metavar="FILE|NAME", help="a weights file or published weights (default: the network's)")
    add("--mean", type=numbers, metavar="M,M,M", help="of pixels in 0..1, for each channel or for all "
        "(default: the weights', ImageNet's for ONNX)")  # fmt: skip
    add("--std", type=numbers, metavar="S,S,S", help="of pixels in 0..1 (default: likewise)")
    add("--classes", metavar="FILE", help="names of the classes, one a line, in order")
    add("--count", action="store_true", help="count connected regions (needs SciPy)")
    add("--min-area", type=positive, default=1, metavar="PIXELS", help="smaller regions do not count")
    add("--tile", type=positive, default=512, metavar="PIXELS", help="side of a tile (default: 512)")
    add("--overlap", type=count, default=128, metavar="PIXELS", help="that tiles share (default: 128)")
    add("--opacity", type=share_or_zero, default=0.4, metavar="A", help="of the colours (default: .4)")
    add("--json", action="store_true", help="print one JSON object about what was found")


def network(text: str) -> str:
    """For argparse: the name of a network that gives classes of pixels."""
    if is_onnx(text):
        return text
    name = model_name(text)
    if entry(name).task != "segmentation":
        raise argparse.ArgumentTypeError(
            f"expected a network for segmentation, {name} is for {entry(name).task}"
        )
    return name


def run(args: argparse.Namespace) -> int:
    for path in (args.output, args.mask):
        if path:
            picture_format(path)  # before the work
    names = read_classes(args.classes) if args.classes else None
    recipe = Recipe.of(args.weights) if args.weights else None
    if names is None and recipe is not None and not is_onnx(args.model):
        names = list(recipe.classes)
    segmenter = segmenter_of(args, names, recipe)
    mask = segmenter(args.picture)
    drawn, instances = mask, None
    if args.count:
        drawn, instances = find_instances(mask, min_area=args.min_area)
    save_picture(args.output, overlay(load_picture(args.picture), drawn, opacity=args.opacity))
    if args.mask:
        if mask.max() > 255:
            raise PictureError(f"{args.mask}: expected numbers of classes up to 255, came {mask.max()}")
        save_picture(args.mask, mask.astype(np.uint8))
    classes = []
    for k, pixels in enumerate(np.bincount(mask.reshape(-1))):
        name = names[k] if names and k < len(names) else None
        found: dict[str, Any] = {"class": k, "name": name, "pixels": int(pixels)}
        found["share"] = found["pixels"] / mask.size
        if instances is not None and k:
            found["regions"] = sum(instance.class_ == k for instance in instances)
        if pixels:
            classes.append(found)
    height, width = mask.shape
    if args.json:
        facts = {"picture": os.fspath(args.picture), "width": width, "height": height, "model": args.model}
        regions = None if instances is None else [
            {"class": i.class_, "area": i.area, "box": i.box, "centre": i.centre} for i in instances
        ]  # fmt: skip
        facts |= {"output": os.fspath(args.output), "classes": classes, "regions": regions}
        print(json.dumps(facts, indent=2))
        return 0
    print(f"{args.output}: {width} x {height}")
    for found in classes:
        name = f"  {found['name']}" if found["name"] else ""
        counted = f"  {found['regions']} regions" if "regions" in found else ""
        print(f"  {100 * found['share']:6.2f} %  {found['class']:>3}{name}{counted}")
    return 0


def segmenter_of(args: argparse.Namespace, names: list[str] | None, recipe: Recipe | None) -> Segmenter:
    """What the arguments of the command describe."""
    options: dict[str, Any] = {"tile": args.tile, "overlap": args.overlap}
    if is_onnx(args.model):
        if args.weights:
            raise WeightsError(f"{args.model} has its own weights: leave --weights out")
        model = onnx().load(args.model).eval()
        size = file_size(model)
        declared = (getattr(model, "input_shapes", None) or [()])[0] or ()
        channels = size[2] if size else 1 if 1 in declared[1:] else 3
        if size and size[0] != size[1]:
            raise WeightsError(f"{args.model}: expected a network of square pictures or of any, got {size}")
        if size:
            options |= {"fixed": size[0], "overlap": min(args.overlap, size[0] // 4)}
        trained: Preprocess | Recipe = preprocess_for(Pretrained(), (32, 32, channels))
    else:
        known = entry(args.model)
        weights = args.weights or next(iter(known.weights), None)
        if weights is None:
            raise WeightsError(f"{args.model}: give --weights FILE")
        model = built(args.model, weights, classes_to_build(known, names))
        channels = known.input_size[2]
        # A file without a name is taken to be trained as the registered weights were.
        usual = known.weights.get(weights) or next(iter(known.weights.values()), Pretrained())
        trained = recipe or preprocess_for(usual, known.input_size)
    mean, std = args.mean or trained.mean, args.std or trained.std
    mean, std = (tuple(own) * (channels if len(own) == 1 else 1) for own in (mean, std))
    if not len(mean) == len(std) == channels:
        raise WeightsError(
            f"{args.model}: expected --mean and --std for {channels} channels, got {len(mean)} and {len(std)}"
        )
    return Segmenter(model, mean=mean, std=std, **options)
