"""Modules made of modules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .. import ops
from ..graph.trace import tracing
from .activation import ReLU, ReLU6
from .conv import Conv2d, DepthwiseConv2d
from .linear import Linear
from .module import Module
from .norm import BatchNorm2d

__all__ = ["ModuleDict", "ModuleList", "Sequential", "activated"]

# Layers that take the name of an activation as a second argument, and the activations by name.
_LAYERS = (BatchNorm2d, Conv2d, DepthwiseConv2d, Linear)
_ACTIVATIONS: dict[type[Module], str] = {ReLU: "relu", ReLU6: "relu6"}


def activated(layer: Module, activation: str | Module, x: Any) -> Any:
    """``activation(layer(x))``, in one pass over memory where the layer can do that.

    The values are the same in either way, and so are the gradients. Traces, and hooks of either module, see
    two steps.

    Parameters
    ----------
    layer : Module
    activation : {"relu", "relu6"} or Module
    x : array_like
        What the layer takes.
    """
    alone = isinstance(activation, str) or not activation.hooked
    name = activation if isinstance(activation, str) else _ACTIVATIONS.get(type(activation))
    together = name in _ACTIVATIONS.values() and type(layer) in _LAYERS and alone
    if together and not (layer.hooked or tracing()):
        return layer(x, name)
    y = layer(x)
    return getattr(ops, activation)(y) if isinstance(activation, str) else activation(y)


class Sequential(Module):
    """Modules one after the other, named ``"0"``, ``"1"``, ... or by keywords.

    ``Sequential(Conv2d(...), ReLU())`` or ``Sequential(conv=Conv2d(...), relu=ReLU())``.
    """

    def __init__(self, *modules: Module, **named: Module) -> None:
        for i, module in enumerate(modules):
            self.add_module(str(i), module)
        for name, module in named.items():
            self.add_module(name, module)

    def forward(self, x: Any) -> Any:
        modules = list(self._modules.values())
        while modules:
            module = modules.pop(0)
            if modules and type(module) in _LAYERS and type(modules[0]) in _ACTIVATIONS:
                x = activated(module, modules.pop(0), x)
            else:
                x = module(x)
        return x

    def append(self, module: Module) -> Sequential:
        self.add_module(str(len(self)), module)
        return self

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules.values())

    def __getitem__(self, index: int | slice) -> Any:
        modules = list(self._modules.values())
        return Sequential(*modules[index]) if isinstance(index, slice) else modules[index]

    def __setitem__(self, index: int, module: Module) -> None:
        self.add_module(list(self._modules)[index], module)


class ModuleList(Sequential):
    """Modules by number, called by whoever holds them; also of a list of them."""

    def __init__(self, *modules: Module | Iterable[Module], **named: Module) -> None:
        if len(modules) == 1 and not isinstance(modules[0], Module):
            modules = tuple(modules[0])
        super().__init__(*modules, **named)  # type: ignore[arg-type]

    def forward(self, x: Any) -> Any:
        raise NotImplementedError("a ModuleList only holds modules: call them one by one")


class ModuleDict(Module):
    """Modules by name, called by whoever holds them; also of a mapping of them."""

    def __init__(self, modules: Mapping[str, Module] | None = None, /, **named: Module) -> None:
        for name, module in {**(modules or {}), **named}.items():
            self.add_module(name, module)

    def __getitem__(self, name: str) -> Module:
        return self._modules[name]

    def __setitem__(self, name: str, module: Module) -> None:
        self.add_module(name, module)

    def __contains__(self, name: str) -> bool:
        return name in self._modules
