"""Where the values of a compiled plan lie: in one arena, in the results, and inside of each other.

A join of channels is written by those who make its parts, straight into their channels of every pixel;
channels of a value are read where they lie; a result may take the place of an operand that nobody needs
any more. What is left is packed into an arena: the largest first, each into the smallest gap that is free
for as long as it lives.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..ops.concat import joins_channels
from ..ops.views import channels_of
from .ir import Node, Value

__all__ = ["Block", "Layout", "Spot", "arrange", "lay_out"]

ALIGNMENT = 16  # floats: 64 bytes


@dataclass(frozen=True)
class Spot:
    """Where a value lies.

    ``space`` is ``"arena"``, ``"input"``, ``"output"`` or ``"constant"``, and ``index`` says which one.
    ``offset`` and ``ld`` (from pixel to pixel) count floats; ``root`` is the value it is part of in the end.
    """

    space: str
    index: int
    offset: int
    ld: int
    root: Value


@dataclass
class Block:
    """A stretch of memory that lives from one step to another, both included."""

    size: int
    first: int
    last: int
    offset: int = 0


@dataclass
class Layout:
    """Spots of all values, and what must be copied to the results after the last step."""

    spots: dict[Value, Spot]
    arena_floats: int
    copies: list[tuple[Value, int]]  # value, number of the result
    parts: dict[Value, Value]  # channels that lie in the pixels of another value


def arrange(blocks: Iterable[Block]) -> int:
    """Give every block its offset; returns the floats that all of them need.

    Blocks that live at the same time do not overlap.
    """
    placed: list[Block] = []
    total = 0
    for block in sorted(blocks, key=lambda b: (-b.size, b.first)):
        others = sorted(
            (b for b in placed if b.first <= block.last and block.first <= b.last), key=lambda b: b.offset
        )
        best, least, end = -1, 0, 0
        for other in others:
            gap = other.offset - end
            if gap >= block.size and (best < 0 or gap < least):
                best, least = end, gap
            end = max(end, _aligned(other.offset + other.size))
        block.offset = end if best < 0 else best
        placed.append(block)
        total = max(total, block.offset + block.size)
    return _aligned(total)


def _aligned(floats: int) -> int:
    return -(-floats // ALIGNMENT) * ALIGNMENT


def _size(value: Value) -> int:
    return math.prod(value.shape)


def _channels(value: Value) -> int:
    return value.shape[-1] if value.shape else 1


class _Planner:
    """The parts of :func:`lay_out`."""

    def __init__(self, nodes: Sequence[Node], inputs: Sequence[Value], outputs: Sequence[Value]) -> None:
        self.nodes, self.inputs, self.outputs = nodes, inputs, outputs
        self.made = {value: i for i, node in enumerate(nodes) for value in node.outputs}
        self.readers: dict[Value, list[tuple[int, int]]] = {}  # node and position
        for i, node in enumerate(nodes):
            for position, value in enumerate(node.inputs):
                if value is not None:
                    self.readers.setdefault(value, []).append((i, position))
        # Value -> the value it is part of, the first float there, and whether its pixels keep their distance.
        self.inside: dict[Value, tuple[Value, int, bool]] = {}

    # --- values inside of others ------------------------------------------------------------------

    def read_as_part(self, value: Value, but: int = -1) -> bool:
        """Whether everybody who reads a value (but one) takes pixels that are parts of wider ones."""
        return value not in self.outputs and all(
            self.nodes[i].op.lower.slice_in(self.nodes[i], position)  # type: ignore[union-attr]
            for i, position in self.readers.get(value, ())
            if i != but
        )

    def nest(self) -> None:
        for i, node in enumerate(self.nodes):
            lower = node.op.lower
            assert lower is not None
            x, y = node.inputs[0], node.output
            if lower.view and x is not None:
                self.inside[y] = (x, 0, False)
            elif node.op.name == "concat" and joins_channels(node.spec):
                self.nest_parts(i, node)
            elif node.op.name == "slice" and x is not None and x.kind != "param":
                first = channels_of(node.spec)
                if first is not None and self.read_as_part(y):
                    self.inside[y] = (x, first, True)

    def nest_parts(self, i: int, node: Node) -> None:
        at = 0
        for x in node.inputs:
            assert x is not None
            maker = self.nodes[self.made[x]] if x in self.made else None
            lower = maker.op.lower if maker is not None else None
            if (
                maker is not None and lower is not None and lower.slice_out(maker) and x not in self.inside
                and node.inputs.count(x) == 1 and self.read_as_part(x, but=i)
            ):  # fmt: skip
                self.inside[x] = (node.output, at, True)
            at += x.shape[-1]

    def root(self, value: Value) -> tuple[Value, int, int]:
        """The value that a value is part of in the end, the first float there, and the pixel distance."""
        offset, ld = 0, 0
        while value in self.inside:
            outer, first, keeps = self.inside[value]
            if not keeps and not ld:
                ld = _channels(value)  # a view lies close, as what it shows does
            value, offset = outer, offset + first
        return value, offset, ld or _channels(value)

    # --- lifetimes --------------------------------------------------------------------------------

    def plan(self) -> Layout:
        self.nest()
        end = len(self.nodes)
        blocks: dict[Value, Block] = {}  # by root
        homes: dict[Value, tuple[str, int]] = {v: ("input", k) for k, v in enumerate(self.inputs)}
        copies: list[tuple[Value, int]] = []
        for value, i in self.made.items():
            root = self.root(value)[0]
            last = max([i, *[reader for reader, _ in self.readers.get(value, ())]])
            block = blocks.setdefault(root, Block(_size(root), i, last))
            block.first, block.last = min(block.first, i), max(block.last, last)
        for k, value in enumerate(self.outputs):
            root, offset, _ = self.root(value)
            if root in homes or root.kind == "param" or offset or _size(root) != _size(value):
                copies.append((value, k))
                if root in blocks:
                    blocks[root].last = end
            else:
                homes[root] = ("output", k)
        shared = self.overwrite(blocks, homes)

        def final(root: Value) -> Value:
            while root in shared:
                root = shared[root]
            return root

        arena = arrange(b for root, b in blocks.items() if final(root) not in homes and root not in shared)
        spots = {}
        for value in {*self.inputs, *self.made, *self.readers, *self.outputs}:
            root, offset, ld = self.root(value)
            root = final(root)
            if root.kind == "param":
                spots[value] = Spot("constant", 0, offset, ld, root)
                continue
            space, index = homes.get(root, ("arena", 0))
            start = blocks[root].offset if space == "arena" else 0
            spots[value] = Spot(space, index, start + offset, ld, root)
        parts = {value: outer for value, (outer, _, keeps) in self.inside.items() if keeps}
        return Layout(spots, arena, copies, parts)

    def overwrite(
        self, blocks: dict[Value, Block], homes: dict[Value, tuple[str, int]]
    ) -> dict[Value, Value]:
        """Results that take the place of an operand: root -> root of the operand."""
        shared: dict[Value, Value] = {}

        def final(root: Value) -> Value:
            while root in shared:
                root = shared[root]
            return root

        for i, node in enumerate(self.nodes):
            lower = node.op.lower
            assert lower is not None
            y = node.output
            if self.root(y)[0] is not y:
                continue  # part of something else
            roots = [None if v is None else final(self.root(v)[0]) for v in node.inputs]
            for position in lower.in_place:
                x, root = node.inputs[position], roots[position]
                if x is None or root is None or root.kind == "param" or root not in blocks:
                    continue
                others = [r for v, r in zip(node.inputs, roots, strict=True) if v is not x]
                whole = self.root(x)[1] == 0 and _size(root) == _size(x) == _size(y)
                if not whole or root in others or root in homes or blocks[root].last != i:
                    continue
                if y in homes:
                    homes[root] = homes.pop(y)
                blocks[root].last = max(i, blocks[y].last)
                shared[y] = root
                break
        return shared


def lay_out(nodes: Sequence[Node], inputs: Sequence[Value], outputs: Sequence[Value]) -> Layout:
    """Plan the memory of native steps, each of which has a way to be lowered.

    Parameters
    ----------
    nodes : sequence of Node
    inputs : sequence of Value
        What is made elsewhere, but for parameters; never written.
    outputs : sequence of Value
        What is needed afterwards.

    Returns
    -------
    Layout
    """
    return _Planner(nodes, list(inputs), list(outputs)).plan()
