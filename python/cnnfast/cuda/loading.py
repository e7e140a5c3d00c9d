"""The compiled CUDA module: loaded when something first needs it, never by ``import cnnfast``."""

from __future__ import annotations

import importlib
import threading
from typing import Any

from ..errors import BackendError

_lock = threading.Lock()
_module: Any = None
_reason: str | None = None  # why there is none; None: nobody has looked


def use(module: Any) -> Any:
    """Put a module in the place of ``cnnfast._cuda`` (None: look again); returns the one before.

    For tests, which run the same sources on the host. Arrays of one module are nothing to another.
    """
    global _module, _reason
    with _lock:
        before = _module
        _module, _reason = module, None if module is None else ""
    return before


def why_unavailable() -> str:
    """Why CUDA cannot be used here, or an empty string."""
    global _module, _reason
    with _lock:
        if _reason is None:
            try:
                module = importlib.import_module("cnnfast._cuda")
            except ModuleNotFoundError:
                _reason = "this build of cnnfast has no CUDA module"
            except ImportError as error:
                _reason = f"the CUDA module cannot be loaded: {error}"
            else:
                _reason = module.why_unavailable()
                if not _reason:
                    _module = module
        return _reason


def module() -> Any:
    """The module.

    Raises
    ------
    BackendError
        If CUDA cannot be used, with the reason.
    """
    if _module is None:
        reason = why_unavailable()
        if reason:
            raise BackendError(f"cuda: backend 'cuda' cannot be used: {reason}")
    return _module
