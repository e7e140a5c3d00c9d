"""Exceptions. Every message says what was called, what was expected and what came."""

from __future__ import annotations

__all__ = [
    "BackendError",
    "CnnfastError",
    "CudaError",
    "DTypeError",
    "DataError",
    "GradientError",
    "PictureError",
    "ShapeError",
    "TrainingError",
    "WeightsError",
    "WorkerError",
]


class CnnfastError(Exception):
    """Base of every error that cnnfast raises on purpose."""


class ShapeError(CnnfastError, ValueError):
    """A shape or a parameter that does not fit the operator."""


class DTypeError(CnnfastError, TypeError):
    """An element type that the operator does not take."""


class BackendError(CnnfastError, RuntimeError):
    """A backend or device that cannot be used, with the reason."""


class CudaError(CnnfastError, RuntimeError):
    """What CUDA reported: no memory left, an access outside of an array.

    Attributes
    ----------
    name : str
        E.g. "cudaErrorMemoryAllocation".
    text : str
    where : str
        The line, or the kernel with block and thread.
    """

    def __init__(self, name: str, text: str = "", where: str = "") -> None:
        super().__init__(f"{name}: {text} ({where})")
        self.name, self.text, self.where = name, text, where

    def __reduce__(self) -> tuple[type[CudaError], tuple[str, str, str]]:
        return type(self), (self.name, self.text, self.where)


class GradientError(CnnfastError, RuntimeError):
    """A gradient that cannot be worked out, or that differs from what its check finds."""


class TrainingError(CnnfastError, RuntimeError):
    """Training that cannot go on: a loss that is not finite, a schedule or data that do not fit."""


class WeightsError(CnnfastError, ValueError):
    """A weights file that is corrupt, hostile, too large or of an unknown kind."""


class PictureError(CnnfastError, ValueError):
    """A picture that is corrupt, too large, or of an unknown kind."""


class DataError(CnnfastError, ValueError):
    """A data set that is corrupt, incomplete, hostile or too large."""


class WorkerError(CnnfastError, RuntimeError):
    """A worker of a data loader that could not start, or died."""
