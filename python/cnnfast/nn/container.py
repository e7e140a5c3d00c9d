"""Modules made of modules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .module import Module

__all__ = ["ModuleDict", "ModuleList", "Sequential"]


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
        for module in self.children():
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
    """Modules by number, called by whoever holds them."""

    def forward(self, x: Any) -> Any:
        raise NotImplementedError("a ModuleList only holds modules: call them one by one")


class ModuleDict(Module):
    """Modules by name, called by whoever holds them."""

    def __init__(self, **named: Module) -> None:
        for name, module in named.items():
            self.add_module(name, module)

    def __getitem__(self, name: str) -> Module:
        return self._modules[name]

    def __setitem__(self, name: str, module: Module) -> None:
        self.add_module(name, module)

    def __contains__(self, name: str) -> bool:
        return name in self._modules
