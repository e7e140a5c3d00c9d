"""What ``cnnfast evaluate`` measures, for each task of ``cnnfast train``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from .. import data, detection, face, train
from ..errors import DataError, WeightsError
from ..models.registry import ModelEntry, create_model
from ..segmentation import class_dice, confusion_matrix, mean_iou, pixel_accuracy
from . import detect as detect_command
from . import segment as segment_command
from .evaluate import PARTS
from .labelled import Recipe, class_names, is_fixed, mean_and_std, opened

__all__ = ["MEASURES", "Measured"]


class Measured(NamedTuple):
    """What was found, of how many pictures of which part."""

    part: str
    pictures: int
    classes: Sequence[str]
    numbers: dict[str, Any]


def _chosen(args: argparse.Namespace, parts: dict[str, Any]) -> tuple[str, Any]:
    """The part that is asked for, or the first that is there; its last pictures where these are enough."""
    name = args.part or next(part for part in PARTS if part in parts)
    if name not in parts:
        raise DataError(f"{args.data}: expected a part {name}, got {', '.join(parts)} alone")
    part = parts[name]
    if args.last is None:
        return name, part
    if args.last > len(part):
        raise DataError(f"{args.data}: expected at least --last {args.last} pictures, got {len(part)}")
    return name, data.Subset(part, range(len(part) - args.last, len(part)))


def _as_command(command: ModuleType, args: argparse.Namespace, *others: str) -> argparse.Namespace:
    """The arguments of another command, for the same network."""
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(["-", "--model", args.model, "--weights", args.weights, *others])


def _recipe(args: argparse.Namespace) -> Recipe | None:
    recipe = Recipe.of(args.weights)
    if recipe is not None and recipe.model != args.model:
        raise WeightsError(f"{args.weights} has weights of {recipe.model}, not of {args.model}")
    return recipe


# --- classes of pictures ------------------------------------------------------------------------------


def classify(args: argparse.Namespace, known: ModelEntry) -> Measured:
    """Loss and accuracy."""
    recipe = _recipe(args)
    size = args.input or (recipe.size if recipe is not None else known.input_size)
    parts = opened(args.data, size[2])
    name, part = _chosen(args, parts)
    classes = class_names(parts["train"])
    if recipe is None:
        mean, std = mean_and_std(known, parts["train"], args.weights)
        recipe = Recipe(args.model, size, mean, std, classes)
    elif len(recipe.classes) != len(classes):
        raise DataError(
            f"{args.data}: expected the {len(recipe.classes)} classes of {args.weights}, got {len(classes)}"
        )
    recipe = Recipe(args.model, size, recipe.mean, recipe.std, classes)
    model = _network(args.model, args.weights, known, len(classes))
    with data.DataLoader(
        part, args.batch_size, workers=args.workers, worker_kind="process",
        transform=recipe.transform(is_fixed(parts[name])),
    ) as loader:  # fmt: skip
        numbers = train.evaluate(
            model, loader, metrics=("accuracy", "top5") if len(classes) > 5 else "accuracy",
            threads=args.threads, progress=not args.quiet,
        )  # fmt: skip
    return Measured(name, len(part), classes, numbers)


def _network(name: str, weights: str, known: ModelEntry, classes: int) -> Any:
    """The network with the weights of a file or a checkpoint."""
    if os.path.isfile(weights) and train.is_checkpoint(weights):
        model = create_model(name, num_classes=classes)
        held = train.load_checkpoint(weights).get("model")
        if not isinstance(held, dict):
            raise WeightsError(f"{weights}: expected a checkpoint with a network, came one without")
        model.load_state_dict(held)
        return model
    return create_model(name, num_classes=None if classes == known.num_classes else classes, weights=weights)


# --- boxes --------------------------------------------------------------------------------------------


class _Renumbered:
    """A detector whose classes have the numbers of a data set; what that does not know is left out."""

    def __init__(self, detector: detection.Detector, names: Sequence[str], source: str) -> None:
        places = {name.casefold(): k for k, name in enumerate(names)}
        if unknown := sorted(set(places) - {name.casefold() for name in detector.names}):
            raise DataError(
                f"{source}: expected classes out of {', '.join(detector.names)}, got {', '.join(unknown)}"
            )
        self._detector, self.names = detector, tuple(names)
        self._numbers = np.array([places.get(name.casefold(), -1) for name in detector.names], np.int64)

    def __call__(self, picture: Any, *, score_threshold: float) -> Any:
        found = self._detector(picture, score_threshold=score_threshold)
        classes = self._numbers[found.classes]
        kept = classes >= 0
        return type(found)(found.boxes[kept], found.scores[kept], classes[kept])


def detect(args: argparse.Namespace, known: ModelEntry) -> Measured:
    """Average precision at an overlap of .5, as Pascal VOC has it."""
    _recipe(args)
    parts: dict[str, Any] = {**data.recognise_boxes(args.data)}
    name, part = _chosen(args, parts)
    classes = parts["train"].classes
    detector = detect_command.detector_of(_as_command(detect_command, args, "--iou", "0.5"))
    found = detection.evaluate(_Renumbered(detector, classes, args.data), part)
    numbers = {"map50": found.mean}
    numbers |= {f"ap50 {kind}": float(v) for kind, v in zip(classes, found.values, strict=False)}
    return Measured(name, len(part), classes, numbers)


# --- pixels -------------------------------------------------------------------------------------------


def segment(args: argparse.Namespace, known: ModelEntry) -> Measured:
    """Dice of the classes above 0, mean of the pictures; of all their pixels, mean IoU and accuracy."""
    recipe = _recipe(args)
    parts = data.recognise_masks(args.data, channels=known.input_size[2])
    name, part = _chosen(args, parts)
    segmenter = segment_command.segmenter_of(
        _as_command(segment_command, args, "-o", "-"), list(recipe.classes) if recipe else None, recipe
    )
    count = max(2, segmenter.scores(part[0].picture).shape[-1])
    matrices = []
    for i in range(len(part)):
        mask = np.asarray(part[i].mask)
        if not args.foreground and mask.max() >= count:
            raise DataError(
                f"{args.data}: expected masks with the network's {count} classes, got {mask.max()} "
                "(--foreground makes one class of all that is not 0)"
            )
        truth = (mask > 0).astype(np.int32) if args.foreground else mask
        matrices.append(confusion_matrix(segmenter(part[i].picture), truth, count))
    dice = np.array([class_dice(matrix)[1:] for matrix in matrices])
    numbers = {"dice": float(np.nanmean(dice)) if np.isfinite(dice).any() else float("nan")}
    total = sum(matrices[1:], matrices[0])
    numbers |= {"mean_iou": mean_iou(total), "pixel_accuracy": pixel_accuracy(total)}
    return Measured(name, len(part), [str(k) for k in range(count)], numbers)


# --- encodings ----------------------------------------------------------------------------------------


def embed(args: argparse.Namespace, known: ModelEntry) -> Measured:
    """Share of drawings that are nearest to the one of their character, in Omniglot's one-shot runs."""
    recipe = _recipe(args)
    _, runs = _chosen(args, {"test": data.one_shot_runs(args.data)})
    encoder = face.load_encoder(
        args.model, args.weights, shift=args.shift,
        input_size=recipe.size[:2] if recipe else None,
        mean=recipe.mean if recipe else None, std=recipe.std if recipe else None,
    )  # fmt: skip
    right: list[bool] = []
    for k in range(len(runs)):
        run, who = runs[k], face.Recognizer(encoder, threshold=0.0)
        for i, drawing in enumerate(run.training):
            who.enrol(str(i), drawing.astype(np.uint8))
        found = who.identify_encodings(encoder([drawing.astype(np.uint8) for drawing in run.test]))
        right += [
            one.candidates[0].name == str(answer) for one, answer in zip(found, run.answers, strict=True)
        ]
    return Measured("test", len(right), [], {"accuracy": float(np.mean(right))})


MEASURES: dict[str, Callable[[argparse.Namespace, ModelEntry], Measured]] = {
    "classify": classify, "detect": detect, "segment": segment, "embed": embed,
}  # fmt: skip
