"""Backends, threads and what this build can do."""

from __future__ import annotations

import functools
import importlib
import operator
import os
from collections.abc import Callable
from types import TracebackType
from typing import Any

from .cuda.loading import module, why_unavailable
from .errors import BackendError

_cpu: Any = None
_native_reason = ""
try:
    _cpu = importlib.import_module("cnnfast._cpu")
except ModuleNotFoundError:
    _native_reason = "the native module was not built"
except ImportError as error:
    unsuitable_level = "CNNFAST_ISA" in str(error)
    _native_reason = str(error) if unsuitable_level else f"the native module cannot be loaded: {error}"

BACKENDS = ("numpy", "cpu", "cuda")
MOST_THREADS = 256


class _State:
    """The backend in use, one for the process."""

    backend: str | None = None  # None: not chosen yet
    winograd_gradients: bool = True


def _unusable(name: str) -> str:
    """Why a backend cannot be used, or an empty string."""
    if name == "cpu":
        return "" if _cpu is not None else _native_reason
    if name == "cuda":
        return why_unavailable()
    return ""


def _check(name: str, origin: str) -> str:
    if name not in BACKENDS:
        raise BackendError(f"{origin}: expected one of {', '.join(BACKENDS)}, got {name!r}")
    reason = _unusable(name)
    if reason:
        raise BackendError(f"{origin}: backend {name!r} cannot be used: {reason}")
    return name


def current_backend() -> str:
    """The backend that operators run on: ``"cpu"``, or ``"numpy"`` where there is no native module.

    Raises
    ------
    BackendError
        If ``CNNFAST_BACKEND`` names a backend that cannot be used.
    """
    if _State.backend is None:
        asked = os.environ.get("CNNFAST_BACKEND")
        if asked:
            _State.backend = _check(asked, "CNNFAST_BACKEND")
        elif "CNNFAST_ISA" in _native_reason:
            # A level was asked for by name: running something else instead would be a silent fallback.
            raise BackendError(_native_reason)
        else:
            _State.backend = "numpy" if _cpu is None else "cpu"
    return _State.backend


class use_backend:
    """Choose the backend of all operators, for good, or for a ``with`` block or a decorated function.

    Parameters
    ----------
    name : {"numpy", "cpu", "cuda"}
        ``"numpy"`` is the reference, ``"cpu"`` the native kernels.

    Raises
    ------
    BackendError
        If the name is unknown or the backend cannot be used; nothing falls back silently.

    Notes
    -----
    The choice holds for the whole process, all threads included.
    """

    def __init__(self, name: str) -> None:
        self._name = _check(name, "use_backend")
        self._before = _State.backend
        _State.backend = self._name

    def __enter__(self) -> use_backend:
        if _State.backend != self._name:
            self._before, _State.backend = _State.backend, self._name
        return self

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """As a decorator: the choice holds while the function runs, and not before."""
        _State.backend = self._before

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with use_backend(self._name):
                return function(*args, **kwargs)

        return wrapper

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _State.backend = self._before


def get_num_threads() -> int:
    """Threads that a native call may use (1 without the native module)."""
    return 1 if _cpu is None else int(_cpu.num_threads())


def set_num_threads(n: int) -> None:
    """Set the threads that a native call may use, 1 to 256.

    Raises
    ------
    ValueError
        If ``n`` is not a whole number in that range.
    """
    n = checked_threads("set_num_threads", n)
    if _cpu is not None:
        _cpu.set_num_threads(n)


def checked_threads(where: str, n: Any) -> int:
    """A number of threads, 1 to 256; anything else is a ValueError."""
    try:
        threads = 0 if isinstance(n, bool) else operator.index(n)
    except TypeError:
        threads = 0
    if not 1 <= threads <= MOST_THREADS:
        raise ValueError(f"{where}: expected a whole number from 1 to {MOST_THREADS}, got {n!r}")
    return threads


def set_winograd_gradients(allowed: bool) -> None:
    """Whether ``backward`` may use Winograd for gradients of 3x3 and 5x5 convolutions.

    It does unless told otherwise: up to three times as fast, with errors of up to 64 instead of 8 units in
    the last place of the sum of absolute products. :func:`cnnfast.ops.conv2d_grad_input` and
    :func:`cnnfast.ops.conv2d_grad_weight` never use it.
    """
    _State.winograd_gradients = bool(allowed)


def winograd_gradients() -> bool:
    """What :func:`set_winograd_gradients` has set."""
    return _State.winograd_gradients


def _cuda_state() -> dict[str, Any]:
    """Whether CUDA can be used, and the reason or the device."""
    reason = why_unavailable()
    return {"available": False, "reason": reason} if reason else {"available": True, **module().device()}


def cuda_text(cuda: dict[str, Any]) -> str:
    """The state of CUDA in one line."""
    if not cuda["available"]:
        return f"no: {cuda['reason']}"
    (major, minor), memory = cuda["capability"], cuda["memory"] / 2**30
    return (
        f"yes; {cuda['name']}, compute capability {major}.{minor}, {memory:.1f} GiB; "
        f"driver for CUDA {cuda['driver']}, kernels for {cuda['targets']} of CUDA {cuda['runtime']}"
    )


def config() -> dict[str, Any]:
    """What :func:`show_config` prints, as data."""
    from . import __version__

    native: dict[str, Any] = {"available": _cpu is not None}
    if _cpu is None:
        native["reason"] = _native_reason
    else:
        native.update(
            cpu=_cpu.cpu_name(),
            isa=_cpu.isa(),
            levels=dict(_cpu.levels()),
            threads=_cpu.num_threads(),
            threads_reason=_cpu.thread_reason(),
        )
    try:
        backend = current_backend()
    except BackendError as error:
        backend = f"none: {error}"
    return {
        "version": __version__,
        "backend": backend,
        "native": native,
        "cuda": _cuda_state(),
    }


def show_config() -> dict[str, Any]:
    """Print version, backend, instruction levels, threads and CUDA state, with reasons; return them."""
    c = config()
    native = c["native"]
    print(f"cnnfast {c['version']}, backend {c['backend']}")
    if native["available"]:
        levels = ", ".join(f"{k}{'' if ok else ' (not on this CPU)'}" for k, ok in native["levels"].items())
        print(f"native: yes; CPU {native['cpu']}; level {native['isa']} of {levels}")
        print(f"threads: {native['threads']} ({native['threads_reason']})")
    else:
        print(f"native: no, pure NumPy: {native['reason']}")
    cuda = c["cuda"]
    if cuda["available"]:
        major, minor = cuda["capability"]
        print(
            f"cuda: yes; {cuda['name']}, compute capability {major}.{minor}, {cuda['memory'] / 2**30:.1f} GiB"
        )
    else:
        print(f"cuda: no: {cuda['reason']}")
    return c
