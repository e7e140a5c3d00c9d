"""Pictures on their way into networks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .preprocess import Preprocess

__all__ = ["Preprocess"]

# module -> names; loaded when one of them is asked for.
_LATER = {"preprocess": ("Preprocess",)}


def __getattr__(name: str) -> Any:
    import importlib

    for module, names in _LATER.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module 'cnnfast.data' has no attribute {name!r}")
