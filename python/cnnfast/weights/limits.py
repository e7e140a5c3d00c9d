"""Bounds on what a weights file may ask for, checked before anything of that size is allocated.

They are far above what real networks need. Together they keep a hostile file of a few megabytes below
1.5 GiB of memory and a minute of time.
"""

from __future__ import annotations

from cnnfast.errors import WeightsError

#: Largest file that is read at all.
MAX_FILE_BYTES = 16 << 30

#: Largest safetensors header (the same limit as in the safetensors library).
MAX_HEADER_BYTES = 100_000_000

#: Most tensors in one file.
MAX_TENSORS = 100_000

#: Most dimensions of a tensor: what the oldest supported NumPy takes.
MAX_DIMENSIONS = 32

#: Longest text header of one array in an npz file; NumPy's own default.
MAX_NPY_HEADER_BYTES = 10_000

#: Largest pickle (structure without the raw numbers) in a torch file.
MAX_PICKLE_BYTES = 64 << 20

#: Most pickle instructions that are executed; about 50 of them describe one tensor.
MAX_PICKLE_STEPS = 2_000_000

#: Largest central directory of a zip file.
MAX_ZIP_DIRECTORY_BYTES = 16 << 20

#: Arrays may be larger than their file (compression, shared storages, bfloat16 widened to float32), up to
#: ``EXPANSION_FACTOR * file size + EXPANSION_ALLOWANCE`` bytes in all.
EXPANSION_FACTOR = 4
EXPANSION_ALLOWANCE = 512 << 20


def check_expansion(place: str, total: int, file_size: int) -> None:
    """Refuse results that are out of proportion to the file they come from."""
    limit = EXPANSION_FACTOR * file_size + EXPANSION_ALLOWANCE
    if total > limit:
        raise WeightsError(
            f"{place}: expected at most {limit} bytes of arrays from {file_size} bytes of file, came {total}"
        )


def shown(text: object, limit: int = 100) -> str:
    """A short, escaped form of something out of the file: it may be huge or hold control characters."""
    if isinstance(text, (str, bytes)):
        return repr(text) if len(text) <= limit else repr(text[:limit]) + f"... ({len(text)} long)"
    if text is None or isinstance(text, (bool, float)):
        return repr(text)
    if isinstance(text, int):
        return str(text) if text.bit_length() <= 128 else f"an integer of {text.bit_length()} bits"
    return f"a {type(text).__name__}"
