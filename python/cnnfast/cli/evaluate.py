"""``cnnfast evaluate``: loss and accuracy of a network on a folder of labelled pictures.

  cnnfast evaluate --model lenet5 --weights lenet5.safetensors --data fashion-mnist

--weights is what 'cnnfast train' wrote, its checkpoint, any weights file of the network, or the name of
published weights. Data as for 'cnnfast train'; of its parts the test pictures are taken, or those for
validation where there are none.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import Any

from ..errors import DataError, TrainingError, WeightsError
from ..models.registry import create_model, entry
from .labelled import Recipe, class_names, is_fixed, mean_and_std, opened
from .networks import input_size, model_name, positive
from .train import count

_PARTS = ("test", "validation", "train")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__.partition("\n\n")[2]
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--model", required=True, type=classifier, metavar="NAME", help="a network of 'cnnfast models'")
    add("--weights", required=True, metavar="FILE|NAME", help="a file, or published weights")
    add("--data", required=True, metavar="FOLDER", help="labelled pictures")
    add("--part", choices=_PARTS, help="(default: test, or validation, or train, the first that is there)")
    add("--input", type=input_size, metavar="HxWxC", help="size of the input (default: as trained)")
    add("--batch-size", type=positive, default=64, metavar="N", help="(default: 64)")
    add("--workers", type=count, default=0, metavar="N", help="processes that prepare batches (default: 0)")
    add("--threads", type=positive, metavar="N", help="threads of the kernels (default: all cores)")
    add("--quiet", action="store_true", help="no progress on stderr")
    add("--json", action="store_true", help="print one JSON object")


def classifier(text: str) -> str:
    """For argparse: a network that gives classes of pictures."""
    name = model_name(text)
    if entry(name).task != "classification":
        raise argparse.ArgumentTypeError(
            f"expected a network for classification, {name} is for {entry(name).task}"
        )
    return name


def run(args: argparse.Namespace) -> int:
    from .. import data, train

    known, recipe = entry(args.model), Recipe.of(args.weights)
    if recipe is not None and recipe.model != args.model:
        raise WeightsError(f"{args.weights} has weights of {recipe.model}, not of {args.model}")
    size = args.input or (recipe.size if recipe is not None else known.input_size)
    parts = opened(args.data, size[2])
    name = args.part or next(part for part in _PARTS if part in parts)
    if name not in parts:
        raise DataError(f"{args.data}: expected a part {name}, got {', '.join(parts)} alone")
    part = parts[name]
    classes = class_names(parts["train"])
    if recipe is None:
        mean, std = mean_and_std(known, parts["train"], args.weights)
        recipe = Recipe(args.model, size, mean, std, classes)
    elif len(recipe.classes) != len(classes):
        raise DataError(
            f"{args.data}: expected the {len(recipe.classes)} classes of {args.weights}, got {len(classes)}"
        )
    recipe = Recipe(args.model, size, recipe.mean, recipe.std, classes)
    try:
        model = _network(args.model, args.weights, len(classes))
        started = time.monotonic()
        with data.DataLoader(
            part, args.batch_size, workers=args.workers, worker_kind="process",
            transform=recipe.transform(is_fixed(part)),
        ) as loader:  # fmt: skip
            found: dict[str, Any] = train.evaluate(
                model, loader, metrics=("accuracy", "top5") if len(classes) > 5 else "accuracy",
                threads=args.threads, progress=not args.quiet,
            )  # fmt: skip
    except ValueError as error:
        raise TrainingError(str(error)) from error
    seconds = time.monotonic() - started
    if args.json:
        facts = {"model": args.model, "weights": args.weights, "data": args.data, "part": name}
        print(json.dumps({**facts, "pictures": len(part), **found, "seconds": seconds}, indent=2))
        return 0
    print(f"{args.data}: {len(part)} pictures of {len(classes)} classes ({name}), {seconds:.1f} s")
    for metric, value in found.items():
        print(f"  {metric:<10}" + (f"{value:.4f}" if metric == "loss" else f"{100 * value:.2f} %"))
    return 0


def _network(name: str, weights: str, classes: int) -> Any:
    """The network with the weights of a file or a checkpoint."""
    from ..train import is_checkpoint, load_checkpoint

    usual = entry(name).num_classes
    if os.path.isfile(weights) and is_checkpoint(weights):
        model = create_model(name, num_classes=classes)
        held = load_checkpoint(weights).get("model")
        if not isinstance(held, dict):
            raise WeightsError(f"{weights}: expected a checkpoint with a network, came one without")
        model.load_state_dict(held)
        return model
    return create_model(name, num_classes=None if classes == usual else classes, weights=weights)
