"""cnnfast: convolutional networks on hand-written kernels, with a NumPy reference for each operator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

from . import errors, filters, ops
from .config import get_num_threads, set_num_threads, set_winograd_gradients, show_config, use_backend

if TYPE_CHECKING:
    from . import (
        data,
        detection,
        face,
        graph,
        inspect,
        losses,
        models,
        nn,
        onnx,
        optim,
        segmentation,
        style,
        train,
    )
    from .engine import Engine, compile, load_engine
    from .gradient_check import gradcheck
    from .graph.summary import summary
    from .models.convolutional import fully_convolutional
    from .random import manual_seed
    from .tensor import Tensor, is_grad_enabled, no_grad
    from .weights import load_weights, save_weights

__all__ = [
    "Engine",
    "Tensor",
    "__version__",
    "compile",
    "data",
    "detection",
    "errors",
    "face",
    "filters",
    "fully_convolutional",
    "get_num_threads",
    "gradcheck",
    "graph",
    "inspect",
    "is_grad_enabled",
    "load_engine",
    "load_weights",
    "losses",
    "manual_seed",
    "models",
    "nn",
    "no_grad",
    "onnx",
    "ops",
    "optim",
    "save_weights",
    "segmentation",
    "set_num_threads",
    "set_winograd_gradients",
    "show_config",
    "style",
    "summary",
    "train",
    "use_backend",
]

# Kept out of the import, which loads NumPy only: module -> names, or a module of its own.
_LATER = {
    "weights": ("load_weights", "save_weights"),
    "tensor": ("Tensor", "is_grad_enabled", "no_grad"),
    "random": ("manual_seed",),
    "gradient_check": ("gradcheck",),
    "engine": ("Engine", "compile", "load_engine"),
    "graph.summary": ("summary",),
    "models.convolutional": ("fully_convolutional",),
}
_MODULES = (
    "data",
    "detection",
    "face",
    "graph",
    "inspect",
    "losses",
    "models",
    "nn",
    "onnx",
    "optim",
    "segmentation",
    "style",
    "train",
)


def __getattr__(name: str) -> Any:
    """Called once for each name: what is found stays in the module."""
    import importlib

    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    for module, names in _LATER.items():
        if name in names:
            found = globals()[name] = getattr(importlib.import_module(f"{__name__}.{module}"), name)
            return found
    if name == "_cpu":
        from .config import _cpu

        return _cpu
    raise AttributeError(f"module 'cnnfast' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
