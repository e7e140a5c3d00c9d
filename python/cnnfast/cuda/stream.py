"""Streams: what is started in one runs in that order, beside what is in others."""

from __future__ import annotations

from typing import Any

from .loading import module


class Stream:
    """A stream, in which operators run for the length of a ``with`` block on this thread.

    An array that one stream wrote may be used in another, which waits for it.

    Parameters
    ----------
    foreign : int, optional
        The handle of another library's stream, e.g. ``torch.cuda.current_stream().cuda_stream``; a new
        stream without it.

    Raises
    ------
    BackendError
        If CUDA cannot be used.
    """

    def __init__(self, foreign: int | None = None) -> None:
        loaded = module()
        self._stream: Any = loaded.Stream() if foreign is None else loaded.Stream(foreign=foreign or 1)
        self._before: list[Any] = []

    @property
    def handle(self) -> int:
        """The stream as CUDA knows it."""
        return self._stream.handle

    def synchronize(self) -> None:
        """Wait for everything in this stream."""
        self._stream.synchronize()

    def __enter__(self) -> Stream:
        loaded = module()
        self._before.append(loaded.current_stream())
        loaded.set_current_stream(self._stream)
        return self

    def __exit__(self, *error: object) -> None:
        module().set_current_stream(self._before.pop())
