"""Whether products of float32 matrices may be rounded to tf32."""

from __future__ import annotations

from types import TracebackType

_allowed = False


def tf32_allowed() -> bool:
    """Whether :class:`allow_tf32` is in effect."""
    return _allowed


class allow_tf32:
    """Let convolutions and products of float32 device arrays run on tensor cores, in tf32.

    Operands are rounded to eleven bits of precision (relative error 2^-11), sums stay float32. Never in
    effect unless asked for. Takes effect at once; as a context manager until the end of the block.

    Parameters
    ----------
    on : bool

    References
    ----------
    NVIDIA, "NVIDIA A100 Tensor Core GPU architecture", 2020, "TF32".
    """

    def __init__(self, on: bool = True) -> None:
        global _allowed
        self._before, _allowed = _allowed, bool(on)

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _allowed
        _allowed = self._before
