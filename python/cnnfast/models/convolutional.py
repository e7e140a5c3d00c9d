"""Networks for one window turned into networks that slide over pictures of any size."""

from __future__ import annotations

import copy

from .. import nn
from ..errors import ShapeError
from ..graph.ir import Graph
from ..graph.trace import trace
from .blocks import AdaptiveAvgPool2d
from .registry import register_model

__all__ = ["fully_convolutional", "window_net"]

_PAPER = "Sermanet et al., OverFeat: integrated recognition, localization and detection, 2014"


@register_model(input_size=14, reference=_PAPER)
def window_net(num_classes: int = 4) -> nn.Module:
    """14x14x3 -> 10x10x16 -> 5x5x16 -> 400 -> 400 -> scores: the window of a sliding-window detector."""
    return nn.Sequential(
        conv=nn.Conv2d(3, 16, 5),
        relu=nn.ReLU(),
        pool=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
        fc1=nn.Linear(400, 400, feature_map=(5, 5, 16)),
        relu1=nn.ReLU(),
        fc2=nn.Linear(400, 400),
        relu2=nn.ReLU(),
        fc3=nn.Linear(400, num_classes),
    )


def fully_convolutional(
    model: nn.Module, window: tuple[int, int, int] | None = None, *, allow_padding: bool = False
) -> nn.Module:
    """A network for windows of one size as a network for pictures of any size: one result for each window.

    Dense layers become convolutions: the one after the flattening with kernels of the size of the feature
    map, the others with 1x1 kernels; poolings over the whole map become poolings over as much as a window
    has. The result (N, P, Q, classes) is what the network gives for each window of the picture, the steps
    between windows being the product of all strides; everything that windows share is computed once.

    Parameters
    ----------
    model : Module
        It flattens with :class:`cnnfast.nn.Flatten`, and its first dense layer has a ``feature_map``.
    window : (int, int, int), optional
        Rows, columns and channels of a window. Needed for networks with poolings over the whole map; with it
        the conversion is also checked.
    allow_padding : bool
        Convert a network that pads, too. Inside a large picture a window then sees its neighbourhood in place
        of the padding, so that results are near to those of separate windows, but not equal.

    Returns
    -------
    Module
        With the same names; parameters are shared with ``model`` as far as they have been used.

    Raises
    ------
    ShapeError
        If the network pads, or something in it only works for one size.

    References
    ----------
    Sermanet et al., "OverFeat: integrated recognition, localization and detection using convolutional
    networks", 2014, section 3.5; Long et al., "Fully convolutional networks for semantic segmentation", 2015.
    """
    op = "fully_convolutional"
    maps: dict[str, tuple[int, int]] = {}
    if window is not None:
        graph = trace(model, (1, *window))
        maps = {node.scope: node.inputs[0].shape[1:3] for node in graph.nodes
                if node.inputs[0] is not None and len(node.inputs[0].shape) == 4}  # fmt: skip
    converted = _convert(model, "", maps)
    for path, module in converted.named_modules():
        module.path = path
    if not allow_padding:
        for path, module in converted.named_modules():
            if _pads(module):
                raise ShapeError(
                    f"{op}: {path} pads, so that a window within a picture differs from the window alone; "
                    "allow_padding=True converts all the same"
                )
    if window is not None:
        _check(trace(converted, (1, *window)), op)
    return converted


def _convert(module: nn.Module, path: str, maps: dict[str, tuple[int, int]]) -> nn.Module:
    """A copy that holds the same parameters, with layers replaced."""
    op = "fully_convolutional"
    if isinstance(module, nn.Flatten):
        return nn.Identity()
    if isinstance(module, nn.Linear):
        return _as_convolution(module)
    if isinstance(module, (nn.GlobalAvgPool2d, nn.GlobalMaxPool2d)):
        if path not in maps:
            raise ShapeError(f"{op}: {path} pools over the whole map: give the window, e.g. (224, 224, 3)")
        size = maps[path]
        if isinstance(module, nn.GlobalMaxPool2d):
            return nn.MaxPool2d(size, stride=1)
        return nn.AvgPool2d(size, stride=1)
    if isinstance(module, AdaptiveAvgPool2d):
        if maps.get(path, module.size) != module.size:
            raise ShapeError(f"{op}: {path} resizes a map of {maps[path]} to {module.size}")
        return nn.Identity()
    clone = copy.copy(module)
    for name in ("_parameters", "_buffers", "_modules"):
        object.__setattr__(clone, name, dict(getattr(module, name)))
    for name, child in module._modules.items():
        clone._modules[name] = _convert(child, f"{path}.{name}" if path else name, maps)
    return clone


def _as_convolution(layer: nn.Linear) -> nn.Conv2d:
    """The convolution whose kernel covers the feature map that the dense layer takes."""
    h, w, c = layer.feature_map or (1, 1, layer.in_features)
    conv = nn.Conv2d(c, layer.out_features, (h, w), bias=layer.bias is not None)
    dense = layer.weight
    # Flattening keeps the order of rows, columns and channels: the kernel is the same block of memory.
    conv.weight = nn.Parameter((h, w, c, layer.out_features), dense.init, dense.fan)
    conv.weight.seed = dense.seed
    if dense._data is not None:
        conv.weight.data = dense.data.reshape(conv.weight.shape)
    conv.bias = layer.bias
    conv.training, conv.frozen = layer.training, layer.frozen
    return conv


def _pads(module: nn.Module) -> bool:
    """Whether a layer adds anything around a picture."""
    if getattr(module, "ceil_mode", False):
        return True
    padding = getattr(module, "padding", 0)
    if isinstance(padding, str):
        return padding == "same" and getattr(module, "kernel_size", (0, 0)) != (1, 1)
    sides = padding if isinstance(padding, (tuple, list)) else (padding,)
    return any(max(side) > 0 if isinstance(side, (tuple, list)) else side > 0 for side in sides)


def _check(graph: Graph, op: str) -> None:
    for value in graph.outputs:
        if len(value.shape) != 4 or value.shape[1:3] != (1, 1):
            raise ShapeError(f"{op}: one window gives a result of shape {value.shape}, expected (1,1,1,C)")
