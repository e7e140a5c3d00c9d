"""Transfer learning: a new classifier on a trained network, frozen parts, and features kept on disk."""

from __future__ import annotations

import fnmatch
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ShapeError, WeightsError
from ..nn import Conv2d, Linear
from ..nn.module import Module

__all__ = ["cached_features", "classifier_of", "freeze", "heads", "replace_head"]


def classifier_of(model: Module) -> tuple[str, Module]:
    """Path and layer of a network that give the classes.

    It is the last layer with parameters in the order of the network's attributes, auxiliary heads (children
    named ``aux...``) apart, if that is a dense layer or a 1x1 convolution.

    Raises
    ------
    ValueError
        If it is another one, as in most networks for detection.
    """
    found = _last(model)
    if found is None or not _is_dense(found[1]):
        what = "nothing" if found is None else f"{found[0] or 'itself'}, a {type(found[1]).__name__}"
        raise ValueError(
            f"{type(model).__name__}: expected a dense layer or a 1x1 convolution at the end, came {what}"
        )
    return found


def heads(model: Module) -> list[tuple[str, Module]]:
    """The classifier and those of auxiliary heads (children named ``aux...``); none where it is unclear."""
    found = _last(model)
    if found is None or not _is_dense(found[1]):
        return []
    result = [found]
    for name, child in model._modules.items():
        last = _last(child) if _is_aux(name) else None
        if last is not None and _is_dense(last[1]):
            result.append((f"{name}.{last[0]}" if last[0] else name, last[1]))
    return result


def _is_aux(path: str) -> bool:
    return path.lower().startswith("aux")


def _is_dense(layer: Module) -> bool:
    pointwise = isinstance(layer, Conv2d) and layer.kernel_size == (1, 1) and layer.groups == 1
    return isinstance(layer, Linear) or pointwise


def _last(model: Module) -> tuple[str, Module] | None:
    """The last module of the tree that has parameters or buffers of its own."""
    found = None
    for path, module in model.named_modules():
        if (module._parameters or module._buffers) and not _is_aux(path):
            found = path, module
    return found


def replace_head(model: Module, num_classes: int, seed: int = 0, *, layer: str | None = None) -> Module:
    """Put a new classifier, not trained yet, in the place of a network's own.

    This is for networks that classify pictures or pixels. Those that detect have several outputs that
    belong together: build them with another number of classes instead.

    Parameters
    ----------
    model : Module
        Changed in place. Its auxiliary heads get new classifiers too.
    num_classes : int
    seed : int
        The new values depend on it and on the names of the parameters alone.
    layer : str, optional
        Path of the dense layer or 1x1 convolution to replace, alone, where it is not what
        :func:`classifier_of` finds.

    Returns
    -------
    Module
        ``model``. The new layer trains even where the old one was frozen.

    Raises
    ------
    ValueError
        If the network has no classifier, or is one (then make another layer instead), or ``layer`` is none.
    """
    if layer is None:
        if not classifier_of(model)[0]:
            raise ValueError("replace_head: the network is a single layer, make a new one instead")
        chosen = heads(model)
    else:
        named = dict(model.named_modules()).get(layer) if layer else None
        if named is None or not _is_dense(named):
            raise ValueError(
                f"replace_head: {layer!r} is no dense layer and no 1x1 convolution of this network"
            )
        chosen = [(layer, named)]
    for path, old in chosen:
        new: Any
        if isinstance(old, Linear):
            new = Linear(
                old.in_features,
                num_classes,
                bias=old.bias is not None,
                feature_map=old.feature_map,
                init=old.weight.init,
            )
        else:
            assert isinstance(old, Conv2d)
            new = Conv2d(
                old.in_channels,
                num_classes,
                1,
                stride=old.stride,
                padding=old.padding,
                bias=old.bias is not None,
                padding_mode=old.padding_mode,
                init=old.weight.init,
            )
        new.path = path
        new.train(model.training)
        for name, parameter in new._parameters.items():
            parameter.seed = (seed, f"{path}.{name}")
        parent, _, name = path.rpartition(".")
        # Not by assignment, which would move it to the end of its parent.
        dict(model.named_modules())[parent].add_module(name, new)
    if isinstance(getattr(model, "num_classes", None), int):
        model.num_classes = num_classes
    return model


def freeze(model: Module, *patterns: str, frozen: bool = True) -> list[str]:
    """Keep parts of a network as they are, whatever is trained around them.

    Parameters
    ----------
    model : Module
    *patterns : str
        Paths of modules or parameters, in which ``*`` stands for any text, dots included: ``"features"``,
        ``"layer[12]"``, ``"*.bn?"``, ``"conv1.weight"``. A module is frozen with all below it, statistics of
        batch normalisation included; a parameter alone. ``"*"`` is the whole network.
    frozen : bool
        False makes these parts trainable again; call ``model.train()`` afterwards if training goes on.

    Returns
    -------
    list of str
        Names of the parameters that a pattern met.

    Raises
    ------
    ValueError
        If a pattern meets nothing.
    """
    if not patterns:
        raise ValueError("freeze: expected at least one pattern, such as 'features' or '*'")
    met: dict[str, None] = {}
    for pattern in patterns:
        hits = 0
        for path, module in model.named_modules():
            if (path and fnmatch.fnmatchcase(path, pattern)) or (not path and pattern == "*"):
                module.freeze(frozen)
                hits += 1
                met.update(
                    (f"{path}.{name}" if path else name, None) for name, _ in module.named_parameters()
                )
        for name, parameter in model.named_parameters():
            if fnmatch.fnmatchcase(name, pattern):
                parameter.requires_grad = not frozen
                hits += 1
                met[name] = None
        if not hits:
            raise ValueError(f"freeze: {pattern!r} meets no module and no parameter of this network")
    return [name for name, _ in model.named_parameters() if name in met]


def cached_features(
    model: Module, x: np.ndarray, layer: str, path: str | os.PathLike[str], *, batch: int = 32
) -> np.ndarray:
    """What a layer of a network gives for some inputs, computed once and kept in a file.

    Parameters
    ----------
    model : Module
        Runs in evaluation mode; its own mode does not change.
    x : ndarray, shape (N, H, W, C)
    layer : str
        Path of the module whose output is wanted, e.g. ``"layer4"``. It has to be called once in the forward
        pass and to give one array.
    path : str or os.PathLike
        A ``.safetensors`` or ``.npz`` file. It is used if it was made from the same inputs, the same layer,
        and the same operators and weights up to it (what comes after the layer may differ, so that a
        new head can be trained on these features); otherwise, or if it is damaged, it is replaced.
    batch : int
        Inputs that are computed together; it does not change the result.

    Returns
    -------
    ndarray of float32, shape (N, ...)

    Raises
    ------
    ValueError
        If there is no such layer, or the forward pass does not come to it.
    """
    from ..weights import load_weights, save_weights

    x = np.ascontiguousarray(x)
    if x.ndim != 4 or x.dtype != np.float32 or not len(x) or batch < 1:
        raise ShapeError(
            f"cached_features: x must be float32 (N,H,W,C), N at least 1, got {x.dtype} {x.shape}"
        )
    key = _key(model, x, layer)
    if Path(path).exists():
        try:
            kept = load_weights(path)
            if kept.get("key", np.empty(0)).tobytes() == key and len(kept["features"]) == len(x):
                return kept["features"]
        except (WeightsError, KeyError, TypeError):
            pass  # not one of ours, or damaged
    blocks = []
    graphs: dict[int, Any] = {}
    from ..graph import interpret

    for start in range(0, len(x), batch):
        block = x[start : start + batch]
        if len(block) not in graphs:
            graphs[len(block)] = graph_to(model, block.shape, layer)
        blocks.append(interpret(graphs[len(block)], block, native=True))
    features = np.concatenate(blocks)
    save_weights(path, {"features": features, "key": np.frombuffer(key, np.uint8)})
    return features


def _key(model: Module, x: np.ndarray, layer: str) -> bytes:
    """A digest of all that the features depend on."""
    from .. import __version__

    graph = graph_to(model, (1, *x.shape[1:]), layer)
    total = hashlib.sha256(f"{__version__} {layer} {x.shape} {x.dtype} {graph}".encode())
    for node in graph.nodes:
        total.update(repr(node.spec).encode())
    for value in graph.params():
        assert value.data is not None
        data = np.ascontiguousarray(value.data)
        total.update(f"{value.name} {data.shape} {data.dtype}".encode())
        total.update(data.reshape(-1).view(np.uint8).data)
    total.update(x.reshape(-1).view(np.uint8).data)
    return total.digest()


class _Reached(Exception):
    """The forward pass has come to the layer that was asked for."""

    def __init__(self, result: Any) -> None:
        super().__init__()
        self.result = result


class _UpTo(Module):
    """A network that ends after one of its layers."""

    def __init__(self, model: Module, layer: str) -> None:
        modules = dict(model.named_modules())
        if not layer or layer not in modules:
            import difflib

            near = difflib.get_close_matches(layer, modules, 3) or list(modules)[1:4]
            raise ValueError(f"cached_features: there is no layer {layer!r}; nearest: {', '.join(near)}")
        self.model = model
        object.__setattr__(self, "layer", modules[layer])
        object.__setattr__(self, "label", layer)

    def forward(self, x: Any) -> Any:
        layer: Any = self.__dict__["layer"]
        usual = layer.forward

        def stop(*inputs: Any) -> Any:
            raise _Reached(usual(*inputs))

        object.__setattr__(layer, "forward", stop)
        try:
            self.model(x)
        except _Reached as reached:
            return reached.result
        finally:
            object.__delattr__(layer, "forward")
        raise ValueError(f"cached_features: the forward pass does not come to {self.__dict__['label']!r}")


def graph_to(model: Module, shape: tuple[int, ...], layer: str) -> Any:
    from ..graph import trace

    graph = trace(_UpTo(model, layer), shape)
    if graph.notes["structure"] != 0:
        raise ValueError(f"cached_features: {layer!r} gives {len(graph.outputs)} arrays, expected one")
    return graph
