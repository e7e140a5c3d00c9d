"""``cnnfast classify``: the likeliest classes of pictures.

A registered network needs --weights: a file, or the name of published weights ('cnnfast models' lists them),
which are fetched once and kept. Pictures are resized, cut and scaled as the weights ask for. Percentages are
the softmax of what the network gives, unless that is a distribution already. A picture that cannot be read
is told on stderr, the others are classified, and the exit status is 2.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np

from ..data.preprocess import Preprocess
from ..errors import CnnfastError, PictureError, WeightsError
from ..models.registry import ModelEntry, Pretrained, entry
from .failures import FAILED, tell
from .networks import built, input_size, is_onnx, network, onnx, positive
from .summary import file_size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__.partition("\n\n")[2]
    parser.add_argument("pictures", nargs="+", metavar="PICTURE", help="any photograph that Pillow reads")
    parser.add_argument(
        "--model",
        required=True,
        type=network,
        metavar="NAME|FILE.onnx",
        help="a registered network or a file",
    )
    parser.add_argument(
        "--weights", metavar="FILE|NAME", help="a weights file, published weights, or org/name"
    )
    parser.add_argument(
        "--classes",
        metavar="FILE",
        help="names of the classes, one a line, in order (default: numbers are printed)",
    )
    parser.add_argument("--topk", type=positive, default=5, metavar="K", help="classes to print (default: 5)")
    parser.add_argument(
        "--input", type=input_size, metavar="HxWxC", help="size of the pictures (default: the network's own)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    names = read_classes(args.classes) if args.classes else None
    model, prepare = _network(args, names)
    results: list[dict[str, Any]] = []
    failed = False
    for picture in args.pictures:
        try:
            x = prepare(picture)
        except (PictureError, OSError) as error:
            failed = True
            results.append({"picture": picture, "error": tell(picture, error)})
            continue
        # One at a time: the memory does not grow with the number of pictures, and neither do the bits change.
        found = [
            (k, score, names[k] if names and k < len(names) else None)
            for k, score in top_classes(model(x), args.topk)
        ]
        if args.json:
            rows = [{"class": k, "name": name, "score": score} for k, score, name in found]
            results.append({"picture": picture, "classes": rows})
            continue
        print(picture)
        for k, score, name in found:
            print(f"  {100 * score:6.2f} %  {k:>5}" + (f"  {name}" if name else ""), flush=True)
    if args.json:
        print(json.dumps({"model": args.model, "weights": args.weights, "results": results}, indent=2))
    return FAILED if failed else 0


def _network(args: argparse.Namespace, names: list[str] | None) -> tuple[Any, Preprocess]:
    if is_onnx(args.model):
        if args.weights:
            raise WeightsError(f"{args.model} has its own weights: leave --weights out")
        model = onnx().load(args.model).eval()
        return model, preprocess_for(Pretrained(), args.input or file_size(model))
    known = entry(args.model)
    if not args.weights:
        published = " or ".join(f"--weights {key}" for key in known.weights)
        raise WeightsError(
            f"{args.model}: give --weights FILE"
            + (f", or {published} to fetch them once" if published else "")
        )
    model = built(args.model, args.weights, classes_to_build(known, names))
    pretrained = known.weights.get(args.weights) or known.usual
    size = args.input or (known.input_size if pretrained is None else None)
    return model, preprocess_for(pretrained or Pretrained(), size)


def classes_to_build(known: ModelEntry, names: list[str] | None) -> int | None:
    """As many as there are names, where that is not the usual number."""
    return len(names) if names and len(names) != known.num_classes else None


def preprocess_for(known: Pretrained, size: tuple[int, int, int] | None) -> Preprocess:
    """What the weights ask for, at another size in the same proportion of crop to shorter side."""
    usual = Preprocess.of(known)
    if size is None or size == (*known.input_size, len(known.mean)):
        return usual
    rows, columns, channels = size
    if channels not in (1, 3):
        raise WeightsError(f"pictures have 1 or 3 channels, the network takes {channels}")
    mean, std = tuple(known.mean), tuple(known.std)
    if channels != len(mean):
        mean, std = (sum(mean) / len(mean),) * channels, (sum(std) / len(std),) * channels
    factor = known.resize / min(known.input_size)
    return Preprocess((rows, columns), round(max(rows, columns) * factor), known.interpolation, mean, std)


def read_classes(path: str) -> list[str]:
    """Names of classes, one a line."""
    with open(path, encoding="utf-8") as file:
        try:
            names = [line.strip() for line in file.read(1 << 24).splitlines()]
        except UnicodeDecodeError as error:
            raise WeightsError(f"{path}: expected text in UTF-8, came other bytes: {error.reason}") from None
    while names and not names[-1]:
        names.pop()
    if not names:
        raise WeightsError(f"{path}: expected names of classes, one a line, came none")
    return names


def top_classes(logits: Any, k: int) -> list[tuple[int, float]]:
    """The k likeliest classes of one picture with their probabilities; ties by the lower number."""
    first = logits
    while isinstance(first, (tuple, list, dict)) and first:
        first = next(iter(first.values())) if isinstance(first, dict) else first[0]
    values = np.asarray(first, np.float64)
    if values.ndim < 2 or not values.size or values.size != values.shape[-1]:
        raise CnnfastError(f"the network gives {values.shape} values, which are no classes of one picture")
    values = values.reshape(-1)
    if not np.isfinite(values).all():
        raise CnnfastError("the network gives values that are not finite")
    if (values < 0).any() or abs(values.sum() - 1) > 1e-3:
        values = np.exp(values - values.max())
        values /= values.sum()
    order = np.argsort(-values, kind="stable")[:k]
    return [(int(i), float(values[i])) for i in order]
