"""cnnfast: convolutional networks on hand-written kernels, with a NumPy reference for each operator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

from . import errors, filters, ops
from .config import get_num_threads, set_num_threads, show_config, use_backend

if TYPE_CHECKING:
    from .weights import load_weights, save_weights

__all__ = [
    "__version__",
    "errors",
    "filters",
    "get_num_threads",
    "load_weights",
    "ops",
    "save_weights",
    "set_num_threads",
    "show_config",
    "use_backend",
]


def __getattr__(name: str) -> Any:
    # Kept out of the import: only NumPy is loaded by `import cnnfast`.
    if name in ("load_weights", "save_weights"):
        from . import weights

        return getattr(weights, name)
    if name == "_cpu":
        from .config import _cpu

        return _cpu
    raise AttributeError(f"module 'cnnfast' has no attribute {name!r}")
