"""What the tasks of ``cnnfast train`` differ in: data, transforms, what is trained, losses and measures."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from .. import data, detection, face, losses
from ..detection.detector import SSD_MEAN
from ..errors import DataError, TrainingError
from ..graph import trace
from ..models.registry import ModelEntry, Pretrained, create_model
from ..models.transfer import freeze
from ..nn.module import Module
from ..pictures import load_mask
from ..segmentation import foreground_dice
from .labelled import AUGMENTATIONS, Recipe, class_names, is_fixed, mean_and_std, opened

__all__ = ["TASKS", "Job", "task_of"]

#: task -> what the registry calls the networks for it
TASKS = {
    "classify": ("classification",),
    "detect": ("detection",),
    "segment": ("segmentation",),
    "embed": ("one-shot", "face"),
}
_ZERO_ONE = Pretrained(mean=(0.0,) * 3, std=(1.0,) * 3)


@dataclass
class Job:
    """A training without its loop.

    Attributes
    ----------
    recipe : Recipe
        Kept in the file with the weights.
    parts : dict
        Data sets: ``"train"``, ``"validation"``, ``"test"``.
    transform : callable
        From names of augmentations to the transform of samples; without any for validation.
    model, trained : Module
        What is kept, and what the loop trains: the same, or the first with what only training needs.
    loss, metrics
        As of :func:`cnnfast.train.fit`.
    measure : callable
        Numbers for the report at the end, of a data set that took no part in training.
    """

    recipe: Recipe
    parts: dict[str, Any]
    transform: Callable[[Sequence[str]], data.Compose]
    model: Module
    trained: Module
    loss: Callable[[Any, Any], Any]
    metrics: Any
    measure: Callable[[Any], dict[str, Any]] = lambda held: {}


def task_of(known: ModelEntry) -> str:
    """What a network is for, unless the command says so."""
    return next((task for task, kinds in TASKS.items() if known.task in kinds), "")


def _network(args: argparse.Namespace, classes: int | None) -> Any:
    model = create_model(args.model, num_classes=classes, weights=args.weights, seed=args.seed)
    for pattern in args.freeze:
        freeze(model, pattern)
    return model


def _size(args: argparse.Namespace, known: ModelEntry) -> tuple[int, int, int]:
    size = args.input or known.input_size
    if size[2] != known.input_size[2]:
        raise DataError(f"{args.model} takes {known.input_size[2]} channels, --input says {size[2]}")
    return size


def _augmented(names: Sequence[str], size: tuple[int, int]) -> tuple[list[Any], list[Any]]:
    """Transforms in order, and what comes after normalisation."""
    made = {name: AUGMENTATIONS[name](size) for name in AUGMENTATIONS if name in names}
    hidden = made.pop("cutout", None)
    return [*made.values()], [] if hidden is None else [hidden]


# --- classes of pictures ------------------------------------------------------------------------------


def classify(args: argparse.Namespace, known: ModelEntry) -> Job:
    """A network that says what is in pictures: cross-entropy."""
    size = _size(args, known)
    parts = opened(args.data, size[2])
    training = parts["train"]
    classes = class_names(training)
    recipe = Recipe(args.model, size, *mean_and_std(known, training, args.weights), classes)
    model = _network(args, len(classes))

    def loss(x: Any, labels: Any) -> Any:
        return losses.cross_entropy(
            x, labels, label_smoothing=args.label_smoothing if model.training else 0.0
        )

    metrics = ("accuracy", "top5") if len(classes) > 10 else "accuracy"
    return Job(recipe, parts, partial(recipe.transform, is_fixed(training)), model, model, loss, metrics)


# --- boxes --------------------------------------------------------------------------------------------


def detect(args: argparse.Namespace, known: ModelEntry) -> Job:
    """A network that says what is where: the loss of its family, and average precision at the end."""
    from ..models.darknet import Darknet
    from ..models.rcnn import RCNN
    from ..models.ssd import SSD300

    parts: dict[str, Any] = {**data.recognise_boxes(args.data)}
    classes = parts["train"].classes
    yolo = known.name.startswith("yolo")  # the others count the background
    model = _network(args, len(classes) + (not yolo))
    size = (300, 300, 3) if isinstance(model, SSD300) else _size(args, known)
    trained, seen = model, _ZERO_ONE
    loss: Any
    if isinstance(model, Darknet):
        if args.weights is None:
            detection.expect_few(model)
        loss = detection.YOLOLoss(model.heads)
    elif isinstance(model, SSD300):
        loss = detection.SSDLoss(model.boxes)
        seen = Pretrained(mean=tuple(map(float, SSD_MEAN / 255)), std=(1 / 255,) * 3)
    elif isinstance(model, RCNN):
        raise TrainingError(
            f"{args.model} learns from crops (cnnfast.detection.crops_of), which this does not make"
        )
    else:
        seen = Pretrained()  # ImageNet's
        trained = detection.RegionTraining(model)
        loss = detection.RegionLoss(model, None if hasattr(model, "rpn") else _proposals(seen))
    recipe = Recipe(args.model, size, seen.mean, seen.std, tuple(classes))

    def transform(augment: Sequence[str]) -> data.Compose:
        # SSD is shown whole pictures, resized; the others see them in a letterbox.
        frame = data.Resize(size[:2]) if isinstance(model, SSD300) else detection.Letterboxed(size[:2])
        steps, after = _augmented(augment, size[:2])
        first = [] if "zoom" in augment else [frame]
        return data.Compose([*first, *steps, data.Normalize(recipe.mean, recipe.std), *after])

    def measure(held: Any) -> dict[str, Any]:
        own = size[:2] if yolo else None
        detector = detection.Detector(model, own, classes, iou_threshold=0.5)
        found = detection.evaluate(detector, held)
        facts: dict[str, Any] = {"map50": found.mean}
        facts["ap50"] = {name: float(v) for name, v in zip(classes, found.values, strict=False)}
        if isinstance(loss, detection.YOLOLoss):
            facts |= {"objects": loss.objects, "collisions": loss.collisions}
        return facts

    return Job(recipe, parts, transform, model, trained, loss, (), measure)


def _proposals(seen: Pretrained) -> Callable[[Any], Any]:
    """Selective search on pictures that have been prepared."""
    mean, std = (np.array(v, np.float32) for v in (seen.mean, seen.std))

    def propose(picture: Any) -> Any:
        return detection.selective_search(np.clip((picture * std + mean) * 255, 0, 255))

    return propose


# --- pixels -------------------------------------------------------------------------------------------


def segment(args: argparse.Namespace, known: ModelEntry) -> Job:
    """A network that gives a class to every pixel: cross-entropy and Dice together."""
    size = _size(args, known)
    parts: dict[str, Any] = {**data.recognise_masks(args.data, channels=size[2])}
    count = 2 if args.foreground else 1 + max(
        int(load_mask(mask).max()) for part in parts.values() for _, mask in part.pairs
    )  # fmt: skip
    if not 2 <= count <= 256:
        raise DataError(
            f"{args.data}: expected masks with classes from 0 to at most 255, got {count - 1} as the highest "
            "value (--foreground makes one class of all that is not 0)"
        )
    model = _network(args, count)
    names = tuple(map(str, range(count)))
    recipe = Recipe(args.model, size, *mean_and_std(known, parts["train"], args.weights), names)

    def transform(augment: Sequence[str]) -> data.Compose:
        steps, after = _augmented(augment, size[:2])
        first: list[Any] = [_Foreground()] if args.foreground else []
        if "crop" in args.augment:
            first += [] if "crop" in augment else [data.CenterCrop(size[:2])]
        elif "zoom" not in augment:
            first.append(data.Resize(size[:2]))
        return data.Compose([*first, *steps, data.Normalize(recipe.mean, recipe.std), *after])

    def loss(scores: Any, labels: Any) -> Any:
        labels = _within(scores, labels)
        return losses.cross_entropy(scores, labels) + losses.dice(scores, labels)

    def dice(scores: Any, labels: Any) -> Any:
        return foreground_dice(scores, _within(scores, labels))

    def accuracy(scores: Any, labels: Any) -> Any:
        return (scores.argmax(-1) == _within(scores, labels)).mean((1, 2))

    return Job(
        recipe, parts, transform, model, model, loss, {"foreground_dice": dice, "pixel_accuracy": accuracy}
    )


class _Foreground(data.Transform):
    """One class for all that is not 0."""

    def __call__(self, sample: data.Sample, rng: np.random.Generator) -> data.Sample:
        assert sample.mask is not None
        return sample.with_(mask=(sample.mask > 0).astype(np.int32))


def _within(scores: Any, labels: Any) -> Any:
    """The labels of the pixels that there are scores of: convolutions without padding cost a border."""
    top, left = ((labels.shape[k] - scores.shape[k]) // 2 for k in (1, 2))
    return labels[:, top : top + scores.shape[1], left : left + scores.shape[2]]


# --- encodings ----------------------------------------------------------------------------------------


def embed(args: argparse.Namespace, known: ModelEntry) -> Job:
    """An encoder of identities: a softmax over cosines that is thrown away, or triplets."""
    size = _size(args, known)
    parts = opened(args.data, size[2])
    training = parts["train"]
    classes = class_names(training)
    usual = next(iter(known.weights.values()), None)
    seen = (usual.mean, usual.std) if usual else mean_and_std(known, training, args.weights)
    recipe = Recipe(args.model, size, *seen, classes)
    model = _network(args, None)
    transform = partial(recipe.transform, is_fixed(training))
    if args.loss == "triplet":
        loss = face.TripletLoss("semi-hard")
        return Job(recipe, parts, transform, model, model, loss, {"nearest": _nearest})
    length = trace(model, (1, *size)).outputs[0].shape[-1]
    classifier = face.CosineClassifier(length, len(classes)).initialize(args.seed)
    trained = face.IdentityTraining(model, classifier)

    def cosine(x: Any, labels: Any) -> Any:
        smoothing = args.label_smoothing if trained.training else 0.0
        return losses.cosine_softmax(x, labels, scale=16, margin=0.2, label_smoothing=smoothing)

    return Job(recipe, parts, transform, model, trained, cosine, "accuracy")


def _nearest(encodings: Any, labels: Any) -> Any:
    """Share of a batch whose nearest other encoding is of the same identity."""
    labels = np.asarray(labels)
    distances = face.pairwise(encodings, encodings)
    np.fill_diagonal(distances, np.inf)
    alone = (labels == labels[:, None]).sum(1) < 2  # which nothing can be near
    return np.where(alone, np.nan, labels[distances.argmin(1)] == labels)


JOBS: dict[str, Callable[[argparse.Namespace, ModelEntry], Job]] = {
    "classify": classify, "detect": detect, "segment": segment, "embed": embed,
}  # fmt: skip
