"""The list of networks: names, builders, and what is known about published weights of each."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..nn.module import Module

__all__ = ["ModelEntry", "Pretrained", "create_model", "entry", "list_models", "register_model"]


@dataclass(frozen=True)
class Pretrained:
    """Published weights and the preprocessing they were trained with.

    Attributes
    ----------
    url : str
    sha256 : str
        The digest, or its first digits where no more is published.
    file : str
        Name of a file that comes with the package, in place of a url.
    mean, std : per channel, RGB, of pictures scaled to 0..1
    input_size : (int, int)
        Rows and columns.
    resize : int
        The shorter side before the centre crop to ``input_size``.
    interpolation : {"bilinear", "bicubic", "nearest"}
    classes : str
        "imagenet", "coco", "cifar10", "mnist", ...
    accuracy : mapping
        As documented by whoever published them, e.g. {"top1": 71.88}.
    """

    url: str = ""
    sha256: str = ""
    file: str = ""
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    input_size: tuple[int, int] = (224, 224)
    resize: int = 256
    interpolation: str = "bilinear"
    classes: str = "imagenet"
    licence: str = "unstated; trained on ImageNet, whose pictures are for research"
    accuracy: Mapping[str, float] = field(default_factory=dict)
    # Names in the file where they are not ours: function from theirs to ours, "" for what is not wanted.
    rename: Callable[[str], str] | None = None


@dataclass(frozen=True)
class ModelEntry:
    """One network of the registry."""

    name: str
    build: Callable[..., Module]
    input_size: tuple[int, int, int]  # rows, columns, channels
    num_classes: int
    task: str
    weights: Mapping[str, Pretrained]
    reference: str

    @property
    def usual(self) -> Pretrained | None:
        """What files of weights were usually trained with: as the first that are published elsewhere."""
        return next((known for known in self.weights.values() if not known.file), None)


_MODELS: dict[str, ModelEntry] = {}


def register_model(
    *,
    input_size: int | tuple[int, int, int] = 224,
    task: str = "classification",
    weights: Mapping[str, Pretrained] | None = None,
    reference: str = "",
    name: str | None = None,
) -> Callable[[Callable[..., Module]], Callable[..., Module]]:
    """Put a builder ``f(num_classes=..., **options) -> Module`` on the list under its name.

    The decorated function also takes ``weights`` and ``seed``, as :func:`create_model` does.
    """
    size = (input_size, input_size, 3) if isinstance(input_size, int) else input_size

    def register(build: Callable[..., Module]) -> Callable[..., Module]:
        label = name or build.__name__
        usual = inspect.signature(build).parameters["num_classes"].default
        known = _MODELS[label] = ModelEntry(label, build, size, usual, task, weights or {}, reference)

        @functools.wraps(build)
        def make(num_classes: int = usual, *, weights: Any = None, seed: int = 0, **options: Any) -> Module:
            return _create(known, num_classes, weights, seed, options)

        return make

    return register


def list_models(task: str | None = None) -> list[str]:
    """Names of all networks, or of those for one task, in alphabetical order."""
    _load()
    return sorted(name for name, known in _MODELS.items() if task in (None, known.task))


def entry(name: str) -> ModelEntry:
    """What the registry knows of a network.

    Raises
    ------
    ValueError
        If there is none of that name; with the names that come near.
    """
    _load()
    if name not in _MODELS:
        import difflib

        near = difflib.get_close_matches(name, _MODELS, 3) or sorted(_MODELS)[:5]
        raise ValueError(f"there is no model {name!r}; nearest names: {', '.join(near)}")
    return _MODELS[name]


def registered_weights(name: str, weights: str | None = None) -> tuple[str, Pretrained]:
    """Label and description of weights that are registered for a network; the first without a label.

    Raises
    ------
    ValueError
        If there is no such network, or no such weights of it.
    """
    known = entry(name).weights
    label = next(iter(known), "") if weights is None else weights
    if label not in known:
        raise ValueError(f"{name}: expected weights out of {list(known)}, got {weights!r}")
    return label, known[label]


def create_model(
    name: str, num_classes: int | None = None, weights: Any = None, seed: int = 0, **options: Any
) -> Module:
    """Build a network by name.

    Parameters
    ----------
    name : str
        One of :func:`list_models`.
    num_classes : int, optional
        Outputs; the usual number of the network when left out.
    weights : optional
        None: initial values drawn from ``seed``. A path: a weights file. A mapping: a state dict in torch's
        layout. ``"torchvision"`` or ``"org/name"``: published weights, fetched once and kept (see
        :mod:`cnnfast.weights.hub`). With a ``num_classes`` of your own that is not the file's, the classifier
        keeps its initial values.
    seed : int

    Returns
    -------
    Module
        In training mode, as every module begins; call ``.eval()`` to use it.

    Raises
    ------
    ValueError, WeightsError
    """
    known = entry(name)
    return _create(known, known.num_classes if num_classes is None else num_classes, weights, seed, options)


def _create(known: ModelEntry, num_classes: int, weights: Any, seed: int, options: dict[str, Any]) -> Module:
    model = known.build(num_classes=num_classes, **options)
    model.initialize(seed)
    if weights is None:
        return model
    if isinstance(weights, Mapping):
        model.load_state_dict(weights, layout="torch")
        return model
    from ..weights.hub import load_into

    load_into(model, known, weights if isinstance(weights, Path) else str(weights))
    return model


def _load() -> None:
    """Import every family, which registers its networks."""
    from . import FAMILIES

    for family in FAMILIES:
        __import__(f"{__package__}.{family}")
