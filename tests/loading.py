"""What load_weights may do with files that are not right: refuse them in one line, or give sound arrays."""

from __future__ import annotations

from pathlib import Path

import pytest

from cnnfast.errors import WeightsError
from cnnfast.weights import load_weights


def refused(path: Path, content: bytes | None, message: str) -> None:
    """The file, with this content if any is given, is refused with a short message."""
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match=message) as caught:
        load_weights(path)
    text = str(caught.value)
    assert text.startswith(f"load_weights: {path}: ")
    assert text.isprintable()
    assert len(text) < len(str(path)) + 700


def right_or_refused(path: Path, content: bytes, limit: int) -> bool:
    """Damaged content gives WeightsError (False), or sound arrays of at most ``limit`` bytes."""
    path.write_bytes(content)
    try:
        weights = load_weights(path)
    except WeightsError:
        return False
    for name, array in weights.items():
        assert isinstance(name, str)
        assert array.flags.c_contiguous
        assert array.flags.writeable
        array[...] = array.copy()  # all of it can be read and written
    assert sum(array.nbytes for array in weights.values()) <= limit
    return True
