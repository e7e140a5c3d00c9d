"""What commands say of what they cannot use: one line on stderr, and the exit status."""

from __future__ import annotations

import sys

__all__ = ["FAILED", "tell"]

#: Exit status where something that was given cannot be used: an argument, a picture, a file, a place.
FAILED = 2


def tell(path: str, error: Exception) -> str:
    """One line on stderr about a picture out of several; returns it, for a JSON object."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    message = " ".join((reason if reason.startswith(path) else f"{path}: {reason}").split())
    print(f"cnnfast: {message}", file=sys.stderr)
    return message
