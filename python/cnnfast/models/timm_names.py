"""Names of timm's state dicts as ours, for the networks that it builds of numbered stages."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

__all__ = ["from_timm"]

_BLOCK = re.compile(r"blocks\.(\d+)\.(\d+)\.(conv_\w+|bn\d|se\.conv_\w+)\.(\w+)")


def from_timm(
    last: str, block: Callable[[int, int], str], first: Mapping[str, str], others: Mapping[str, str]
) -> Callable[[str], str]:
    """A function from names there to names here; names it does not know stay.

    Parameters
    ----------
    last : str
        Path of the convolution after the blocks with its normalisation.
    block : callable
        (stage, number within it) -> path of the block.
    first, others : mapping
        Paths in the blocks of stage 0, which do not expand, and in all others.
    """
    ends = {"conv_stem": "features.0.0", "bn1": "features.0.1", "conv_head": f"{last}.0", "bn2": f"{last}.1",
            "classifier": "classifier.1"}  # fmt: skip

    def renamed(name: str) -> str:
        if found := _BLOCK.fullmatch(name):
            stage, i, part, kind = found.groups()
            path = (others if int(stage) else first).get(part)
            return name if path is None else f"{block(int(stage), int(i))}.{path}.{kind}"
        layer, _, kind = name.partition(".")
        return f"{ends[layer]}.{kind}" if layer in ends and "." not in kind else name

    return renamed
