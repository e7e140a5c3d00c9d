"""Weights by name: what is published for a network, fetched when asked for and fitted to it.

Nothing here is called unless weights are asked for by name, and only :func:`fetch` opens a connection.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnfast.errors import WeightsError
from cnnfast.weights import open_weights
from cnnfast.weights.download import cache_folder, fetch

if TYPE_CHECKING:
    from cnnfast.models.registry import ModelEntry
    from cnnfast.nn.module import Module

__all__ = ["cache_folder", "fetch", "find_weights", "fit", "load_into"]

# Weights that come with the package; each has a recipe in the repository and a card beside it.
_BUNDLED = Path(__file__).parent.parent / "bundled"

_ENDINGS = (".safetensors", ".npz", ".pth", ".pt", ".th", ".weights")
# "org/name" or "org/name@revision", as huggingface.co allows them.
_HUB_NAME = re.compile(r"([A-Za-z0-9][\w.-]{0,95})/([A-Za-z0-9][\w.-]{0,95})(?:@([A-Za-z0-9][\w.-]{0,95}))?")


def load_into(model: Module, entry: ModelEntry, weights: str | Path) -> list[str]:
    """Give a network the weights of a file, of its publisher, or of a repository.

    Parameters
    ----------
    model : Module
        As ``entry`` builds it, with any number of classes.
    entry : ModelEntry
    weights : str or Path
        See :func:`find_weights`; read by :func:`fit`.

    Returns
    -------
    list of str
        The entries of the network that were left as they are: its classifier's, or none.

    Raises
    ------
    WeightsError, OSError
        The network is unchanged then.
    """
    path = find_weights(entry, weights)
    try:
        if path.suffix.lower() == ".weights":
            if not hasattr(model, "convolutions"):
                raise WeightsError("a darknet file has no names: it suits networks of darknet only")
            importlib.import_module("cnnfast.models.darknet").load_darknet(model, path)
            return []
        with open_weights(path) as state:
            return fit(model, entry, state)
    except WeightsError as error:
        raise WeightsError(f"{entry.name}: {path}: {error}") from None


def find_weights(entry: ModelEntry, weights: str | Path) -> Path:
    """The file with some weights of a network, fetched where they are named and not there yet.

    Parameters
    ----------
    entry : ModelEntry
    weights : str or Path
        ``"torchvision"``, or another name under which weights of this network are registered; the path of
        a file; or ``"org/name"``, optionally ``"org/name@revision"``, which stands for
        ``https://huggingface.co/org/name/resolve/main/model.safetensors``. A text is taken for the first of
        these that it can be; a Path is always a file.

    Raises
    ------
    WeightsError
        If the text is none of them, or as :func:`fetch` does.
    """
    if isinstance(weights, Path):
        return weights
    if weights in entry.weights:
        known = entry.weights[weights]
        if known.file:
            return _BUNDLED / known.file
        if not known.url:
            raise WeightsError(f"{entry.name}: no address is known for the weights {weights!r}")
        return fetch(known.url, known.sha256)
    path = Path(weights)
    if path.exists() or path.is_absolute() or path.suffix.lower() in _ENDINGS:
        return path
    if name := _HUB_NAME.fullmatch(weights):
        org, repository, revision = name.groups()
        return fetch(
            f"https://huggingface.co/{org}/{repository}/resolve/{revision or 'main'}/model.safetensors"
        )
    names = ", ".join(map(repr, entry.weights)) or "none"
    raise WeightsError(
        f"{entry.name}: weights {weights!r} are neither registered ({names} are), nor a file, nor 'org/name'"
    )


def fit(model: Module, entry: ModelEntry, state: Mapping[str, Any]) -> list[str]:
    """Load a state dict in torch's layout, by torchvision's names or those that a registered file has.

    Every entry must find its place, and every place its entry, except that

    - a prefix ``module.`` that all names have is taken off;
    - entries of auxiliary heads (``aux...``) that the network was built without are passed over;
    - where the network was built with a number of classes other than its usual one, and the file has another
      number than that, the classifier stays as it was initialised: the weight and bias of the last layer,
      if that is dense or a 1x1 convolution, and of that of each auxiliary head, and nothing else. Networks
      for detection have several outputs that belong together; theirs must fit.

    Returns
    -------
    list of str
        The entries that stay as they were initialised.

    Raises
    ------
    WeightsError
        Listing everything that does not fit; the network is unchanged then.
    """
    from cnnfast.models.transfer import heads
    from cnnfast.nn.module import torch_shape

    if state and all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): array for name, array in state.items()}
    state = _renamed(model, entry, state)
    top = {name.split(".")[0] for name, _ in model.named_modules()}
    state = {
        name: array
        for name, array in state.items()
        if name.split(".")[0] in top or not name.lower().startswith("aux")
    }
    left: list[str] = []
    hint = ""
    for path, layer in heads(model) if entry.task != "detection" else ():
        weight = layer._parameters["weight"]
        given = state.get(f"{path}.weight")
        expected = torch_shape(layer, "weight", weight.shape)
        if given is None or given.shape == expected or given.shape[1:] != expected[1:]:
            continue
        if _is_usual(entry, path, weight.shape[-1]):
            # Nobody asked for other classes, so a classifier drawn at random would be a surprise.
            hint = hint or f"\n(the classifier of the file has {given.shape[0]} outputs: give num_classes)"
        else:
            left += [f"{path}.{name}" for name in layer._parameters]
    rest = {name: array for name, array in state.items() if name not in left}
    try:
        # The names that are left out are the only ones that may be missing.
        model.load_state_dict(rest | _current(model, left), layout="torch")
    except WeightsError as error:
        raise WeightsError(f"{error}{hint}") from None
    return left


def _is_usual(entry: ModelEntry, path: str, outputs: int) -> bool:
    """Whether a layer has as many outputs as in the network with its usual number of classes."""
    usual = dict(entry.build(num_classes=entry.num_classes).named_modules()).get(path)
    return usual is not None and usual._parameters["weight"].shape[-1] == outputs


def _current(model: Module, names: list[str]) -> dict[str, np.ndarray]:
    """Entries of the network as they are, in torch's layout."""
    if not names:
        return {}
    from cnnfast.nn.module import to_torch

    found = {}
    for path, module in model.named_modules():
        for name, parameter in module._parameters.items():
            if (full := f"{path}.{name}") in names:
                data = parameter.data
                found[full] = to_torch(module, name, data) if name in module.layouts else data
    return found


def _renamed(model: Module, entry: ModelEntry, state: Mapping[str, Any]) -> Mapping[str, Any]:
    """The entries under our names.

    A file may have our names, those of any registered file, wherever it lies, or those that a function of
    the network's own `renames` knows: the first form in which the most names are ours is the one. An entry
    that a `rename` gives no name ("") is not wanted.
    """
    ours = {name for name, _ in model.named_parameters()} | {name for name, _ in model.named_buffers()}
    renames: list[Callable[[str], str]] = [known.rename for known in entry.weights.values() if known.rename]
    renames += getattr(model, "renames", ())
    best, most = state, sum(name in ours for name in state)
    for rename in dict.fromkeys(renames):
        renamed: dict[str, Any] = {}
        for name, array in state.items():
            if new := rename(name):
                if new in renamed:
                    break  # not for this file
                renamed[new] = array
        else:
            if (count := sum(name in ours for name in renamed)) > most:
                best, most = renamed, count
    return best
