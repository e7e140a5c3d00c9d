"""Rewriting graphs: every pass takes a graph and gives a new one that computes the same."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ..ops.activations import ACTIVATIONS, ActivationSpec
from ..ops.arithmetic import MUL, BinarySpec
from ..ops.conv import CONV2D, DEPTHWISE_CONV2D, Conv2dSpec
from ..ops.depthwise_block import (
    DEPTHWISE_BLOCK,
    DepthwiseBlockSpec,
    infer_depthwise_block,
    is_pointwise,
    takes_lines,
    worth_fusing,
)
from ..ops.gated_conv2d import GATED_CONV2D, GatedConv2dSpec, infer_gated_conv2d
from ..ops.gated_conv2d import worth_fusing as gates_worth_fusing
from ..ops.norm import BatchNormSpec
from ..ops.pad import Pad2dSpec
from ..ops.pool import MAX_POOL2D
from ..ops.pooled_conv2d import POOLED_CONV2D, PooledConv2dSpec, infer_pooled_conv2d, joined_settings
from ..ops.pooled_conv2d import worth_fusing as pooling_worth_fusing
from ..ops.registry import OPERATORS, Op
from .ir import Array, Derived, Graph, Node, Value

__all__ = [
    "decompose",
    "drop_dead_code",
    "fold_batch_norm",
    "fold_constants",
    "fuse_depthwise_blocks",
    "fuse_epilogues",
    "fuse_gates",
    "fuse_padding",
    "fuse_pooling",
    "optimize",
]


def _renamed(graph: Graph, nodes: list[Node], names: dict[Value, Value]) -> Graph:
    """A graph of these nodes in which values are replaced, also by chains of replacements."""

    def final(value: Value) -> Value:
        while value in names:
            value = names[value]
        return value

    changed = [
        replace(node, inputs=tuple([None if v is None else final(v) for v in node.inputs])) for node in nodes
    ]
    return replace(graph, nodes=changed, outputs=[final(v) for v in graph.outputs])


def drop_dead_code(graph: Graph) -> Graph:
    """Without the nodes that no output needs, and without reshapes that change nothing."""
    names = {
        node.output: node.inputs[0]
        for node in graph.nodes
        if node.op.name == "reshape" and node.inputs[0] is not None
        and node.inputs[0].shape == node.output.shape
    }  # fmt: skip
    graph = _renamed(graph, [node for node in graph.nodes if node.output not in names], names)
    needed = set(graph.outputs)
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if needed.isdisjoint(node.outputs):
            continue
        kept.append(node)
        needed.update(value for value in node.inputs if value is not None)
    return replace(graph, nodes=kept[::-1])


def fold_constants(graph: Graph) -> Graph:
    """Nodes that read parameters alone, worked out once by their references."""
    names: dict[Value, Value] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        inputs = [None if v is None else names.get(v, v) for v in node.inputs]
        known = [v for v in inputs if v is not None]
        constant = bool(known) and all(v.kind == "param" for v in known)
        if not constant or any(v in graph.outputs for v in node.outputs):
            nodes.append(node)
            continue
        result = node.op.reference(node.spec, *[None if v is None else v.data for v in inputs])
        results = result if isinstance(result, tuple) else (result,)
        for value, data in zip(node.outputs, results, strict=True):
            names[value] = Value(data.shape, value.dtype, "param", f"{node.scope}.{node.op.name}", data)
    return _renamed(graph, nodes, names)


def _affine(node: Node) -> tuple[Array, Array]:
    """Factor and shift per channel, in double precision, of a normalisation by known statistics."""
    arrays = [None if v is None else v.data for v in node.inputs[1:]]
    mean, var, scale, shift = [None if a is None else a.astype(np.float64) for a in arrays]
    assert mean is not None
    assert var is not None
    factor = (1.0 if scale is None else scale) / np.sqrt(var + node.spec.eps)
    return factor, (0.0 if shift is None else shift) - mean * factor


def _derived(
    what: str, make: Callable[[], Array], numbers: tuple[Any, ...], *values: Value | None
) -> Derived:
    """Data that is made of these numbers and values."""
    known = [v for v in values if v is not None]
    key = (what, *numbers, *[None if v is None else v.key for v in values])
    return Derived(make, key, tuple([source for v in known for source in v.sources]))


def _scaled(host: Node, norm: Node, weight: Value, bias: Value | None) -> tuple[Value, Value]:
    """Weight and bias of a layer that does the normalisation after it too."""
    epilogue, kind = host.op.epilogue, weight.dtype
    assert epilogue is not None
    scale = epilogue.scale
    assert scale is not None
    statistics = norm.inputs[1:]

    def new_weight() -> Array:
        assert weight.data is not None
        return scale(host.spec, weight.data.astype(np.float64), _affine(norm)[0]).astype(kind)

    def new_bias() -> Array:
        factor, shift = _affine(norm)
        return (shift if bias is None else bias.data * factor + shift).astype(kind)

    numbers = host.op.name, host.spec.groups if hasattr(host.spec, "groups") else 1, norm.spec.eps
    channels = norm.spec.out[-1]
    return (
        Value(weight.shape, kind, "param", weight.name,
              _derived("weight", new_weight, numbers, weight, *statistics)),
        Value((channels,), kind, "param", f"{norm.scope}.folded_bias",
              _derived("bias", new_bias, numbers, bias, *statistics)),
    )  # fmt: skip


def fold_batch_norm(graph: Graph) -> Graph:
    """Normalisations into the weights and the bias of the convolution or dense layer before them.

    The sums are worked out in float64 and rounded once, when the new weights are first looked at.
    """
    producers, users = graph.producers(), graph.users()
    names: dict[Value, Value] = {}
    new: dict[Node, Node] = {}
    dropped: set[Node] = set()
    for node in graph.nodes:
        known = isinstance(node.spec, BatchNormSpec) and all(v is None or v.known for v in node.inputs[1:])
        source = node.inputs[0] if known else None
        # After a normalisation that was folded, the layer before that one.
        origin = None if source is None else producers.get(names.get(source, source))
        if source is None or origin is None or source in graph.outputs:
            continue
        before = new.get(origin, origin)
        epilogue = before.op.epilogue
        if epilogue is None or epilogue.scale is None or epilogue.bias is None or len(users[source]) != 1:
            continue
        inputs = list(before.inputs) + [None] * (epilogue.bias + 1 - len(before.inputs))
        residual = epilogue.residual is not None and len(inputs) > epilogue.residual
        weight, bias = inputs[1], inputs[epilogue.bias]
        busy = residual and epilogue.residual is not None and inputs[epilogue.residual] is not None
        if weight is None or not weight.known or getattr(before.spec, "activation", None) or busy:
            continue
        if bias is not None and not bias.known:
            continue
        inputs[1], shift = _scaled(before, node, weight, bias)
        inputs[epilogue.bias] = shift
        spec = epilogue.respec(before.spec, shift.shape, None, None, 0.01)
        new[origin] = replace(before, spec=spec, inputs=tuple(inputs))
        names[node.output] = origin.output
        dropped.add(node)
    nodes = [new.get(node, node) for node in graph.nodes if node not in dropped]
    return _renamed(graph, nodes, names)


def fuse_epilogues(graph: Graph) -> Graph:
    """Additions and activations into the operator that made their operand, where it can do them too.

    The sum of a residual block becomes an argument of its last convolution; the activation after a
    convolution, dense layer or addition becomes part of it.
    """
    nodes = list(graph.nodes)
    names: dict[Value, Value] = {}
    users = graph.users()
    made = {value: i for i, node in enumerate(nodes) for value in node.outputs}  # where in `nodes`
    gone: set[int] = set()

    def final(value: Value) -> Value:
        while value in names:
            value = names[value]
        return value

    def sole(value: Value | None, reader: int) -> int | None:
        """Where a value is made that only this reader reads."""
        if value is None or value in graph.outputs or len(users.get(value, ())) != 1:
            return None
        return made.get(final(value))

    for i, node in enumerate(graph.nodes):
        spec = node.spec
        if isinstance(spec, ActivationSpec) and spec.name in ACTIVATIONS:
            at = sole(node.inputs[0], i)
            host = None if at is None else nodes[at]
            if at is None or host is None or host.op.epilogue is None or not host.op.epilogue.activations:
                continue
            if getattr(host.spec, "activation", None) is not None:
                continue
            _apply(nodes, at, activation=spec)
        elif node.op is OPERATORS["add"] and isinstance(spec, BinarySpec) and spec.activation is None:
            if None in node.inputs or spec.a != spec.b:
                continue
            # The later of the two operands may take the earlier one in.
            options = []
            for mine, other in ((0, 1), (1, 0)):
                at = sole(node.inputs[mine], i)
                theirs = node.inputs[other]
                if at is None or theirs is None:
                    continue
                epilogue = nodes[at].op.epilogue
                if epilogue is None or epilogue.residual is None or nodes[at].spec.activation is not None:
                    continue
                taken = nodes[at].inputs[epilogue.residual : epilogue.residual + 1]
                ready = made.get(final(theirs), -1)  # inputs are there from the start
                if taken not in ((), (None,)) or ready >= at:
                    continue
                options.append((at, final(theirs)))
            if not options:
                continue
            at, residual = max(options, key=lambda option: option[0])
            _apply(nodes, at, residual=residual)
        else:
            continue
        names[node.output] = nodes[at].output
        gone.add(i)
    kept = [node for i, node in enumerate(nodes) if i not in gone]
    return _renamed(graph, kept, names)


def _apply(
    nodes: list[Node], at: int, activation: ActivationSpec | None = None, residual: Value | None = None
) -> None:
    """Give a node an activation or a residual."""
    host = nodes[at]
    epilogue = host.op.epilogue
    assert epilogue is not None
    inputs = list(host.inputs)
    if residual is not None and epilogue.residual is not None:
        inputs += [None] * (epilogue.residual + 1 - len(inputs))
        inputs[epilogue.residual] = residual

    def shape(position: int | None) -> tuple[int, ...] | None:
        value = inputs[position] if position is not None and position < len(inputs) else None
        return None if value is None else value.shape

    name = activation.name if activation is not None else getattr(host.spec, "activation", None)
    slope = activation.slope if activation is not None else host.spec.slope
    spec = epilogue.respec(host.spec, shape(epilogue.bias), shape(epilogue.residual), name, slope)
    nodes[at] = replace(host, spec=spec, inputs=tuple(inputs))


def fuse_padding(graph: Graph) -> Graph:
    """Rows and columns of zeros before a convolution into its own padding."""
    producers = graph.producers()
    nodes = []
    for node in graph.nodes:
        x = node.inputs[0] if node.inputs else None
        pad = None if x is None else producers.get(x)
        while pad is not None and isinstance(pad.spec, Pad2dSpec) and node.op.pads is not None:
            spec = node.op.pads(node.spec, pad.spec)
            if spec is None:
                break
            node = replace(node, spec=spec, inputs=(pad.inputs[0], *node.inputs[1:]))
            before = pad.inputs[0]
            pad = None if before is None else producers.get(before)
        nodes.append(node)
    return drop_dead_code(replace(graph, nodes=nodes))


def _weight_known(node: Node) -> bool:
    weight = node.inputs[1]
    return weight is not None and weight.known


def _is_known_conv(node: Node, accepts: Callable[[Conv2dSpec], bool]) -> bool:
    return node.op is CONV2D and _weight_known(node) and accepts(node.spec)


def fuse_depthwise_blocks(graph: Graph, worth: Callable[[DepthwiseBlockSpec], bool] = worth_fusing) -> Graph:
    """Depthwise convolutions with the convolutions before and after them into one node each.

    Those are 1x1, or the one before it is of few channels, as the first of a network.

    Parameters
    ----------
    graph : Graph
    worth : callable
        Says of the description of a block whether it should be one.
    """
    producers, users = graph.producers(), graph.users()
    new: dict[Node, Node] = {}  # by the last node of a block
    gone: set[Node] = set()

    def alone(value: Value) -> bool:
        return value not in graph.outputs and len(users.get(value, ())) == 1

    def can_expand(s: Conv2dSpec) -> bool:
        return is_pointwise(s) or takes_lines(s)

    for node in graph.nodes:
        s, x = node.spec, node.inputs[0] if node.inputs else None
        if node.op is not DEPTHWISE_CONV2D or x is None or s.residual or not _weight_known(node):
            continue
        if s.w[3] != s.groups or s.groups == 1:
            continue
        before = producers.get(x)
        if before is not None and not (
            alone(x) and before not in new and _is_known_conv(before, can_expand) and not before.spec.residual
        ):
            before = None
        after = users[node.output][0] if alone(node.output) else None
        if after is not None and not (_is_known_conv(after, is_pointwise) and after.inputs[0] is node.output):
            after = None
        if before is not None and after is not None and not _joins(before, after):
            before = None
        # The whole block if that pays, or else a part of it.
        for first, last in ((before, after), (before, None), (None, after)):
            if first is None and last is None:
                continue
            block = _block(first, node, last)
            if worth(block.spec):
                parts = [part for part in (first, node, last) if part is not None]
                new[parts[-1]] = block
                gone.update(parts[:-1])
                break
    nodes = [new.get(node, node) for node in graph.nodes if node not in gone]
    return replace(graph, nodes=nodes)


def _joins(before: Node, after: Node) -> bool:
    """Whether a block of both may be quicker than one that begins with the depthwise convolution.

    What follows a first convolution's larger result would write to the memory that its map has brought into
    the cache.
    """
    return is_pointwise(before.spec) or math.prod(after.spec.out) <= math.prod(before.spec.out)


def _block(first: Node | None, node: Node, last: Node | None) -> Node:
    """One node for a depthwise convolution and the convolutions around it."""

    def arrays(part: Node | None, *positions: int) -> list[Value | None]:
        if part is None:
            return [None] * len(positions)
        return [part.inputs[i] if i < len(part.inputs) else None for i in positions]

    parts = (first, node, last)
    inputs = [(first or node).inputs[0], *arrays(first, 1, 3), *arrays(node, 1, 3), *arrays(last, 1, 3, 4)]
    own = (1, "valid", 1) if first is None else (first.spec.stride, first.spec.pads, first.spec.dilation)
    spec = infer_depthwise_block(
        *[None if v is None else v.shape for v in inputs],
        stride=node.spec.stride,
        padding=node.spec.pads,
        dilation=node.spec.dilation,
        activations=tuple([None if part is None else part.spec.activation for part in parts]),
        slopes=tuple([0.01 if part is None else part.spec.slope for part in parts]),
        expand_stride=own[0],
        expand_padding=own[1],
        expand_dilation=own[2],
    )
    return Node(DEPTHWISE_BLOCK, spec, tuple(inputs), (last or node).outputs, node.scope)


def fuse_gates(graph: Graph, worth: Callable[[GatedConv2dSpec], bool] = gates_worth_fusing) -> Graph:
    """Products of pictures with gates (N,1,1,C) into the 1x1 convolutions that read them.

    Parameters
    ----------
    graph : Graph
    worth : callable
        Says of the description of a gated convolution whether it should be one.
    """
    producers, users = graph.producers(), graph.users()
    new: dict[Node, Node] = {}
    gone: set[Node] = set()
    for node in graph.nodes:
        x = node.inputs[0] if node.inputs else None
        product = None if x is None else producers.get(x)
        if x is None or product is None or product.op is not MUL or not _is_known_conv(node, is_pointwise):
            continue
        if x in graph.outputs or len(users[x]) != 1:
            continue
        n, _, _, c = x.shape
        picture, gates = product.inputs
        if picture is not None and picture.shape == (n, 1, 1, c):
            picture, gates = gates, picture
        if picture is None or gates is None or picture.shape != x.shape or gates.shape != (n, 1, 1, c):
            continue
        rest = [node.inputs[i] if i < len(node.inputs) else None for i in (1, 3, 4)]
        shapes = [None if v is None else v.shape for v in (picture, gates, *rest)]
        spec = infer_gated_conv2d(*shapes, activation=node.spec.activation, slope=node.spec.slope)
        if worth(spec):
            new[node] = Node(GATED_CONV2D, spec, (picture, gates, *rest), node.outputs, node.scope)
            gone.add(product)
    return replace(graph, nodes=[new.get(node, node) for node in graph.nodes if node not in gone])


def fuse_pooling(graph: Graph, worth: Callable[[PooledConv2dSpec], bool] = pooling_worth_fusing) -> Graph:
    """Maximum poolings into the convolutions whose results nobody else reads.

    Parameters
    ----------
    graph : Graph
    worth : callable
        Says of the description of a convolution with its pooling whether it should be one node.
    """
    producers, users = graph.producers(), graph.users()
    new: dict[Node, Node] = {}
    gone: set[Node] = set()
    for node in graph.nodes:
        x = node.inputs[0] if node.inputs else None
        conv = None if x is None else producers.get(x)
        if node.op is not MAX_POOL2D or x is None or conv is None or conv.op is not CONV2D:
            continue
        if x in graph.outputs or len(users[x]) != 1 or not _weight_known(conv):
            continue
        s = conv.spec
        if s.groups != 1 or s.residual:
            continue
        inputs = (*conv.inputs[:2], conv.inputs[3] if len(conv.inputs) > 3 else None)
        spec = infer_pooled_conv2d(
            *[None if v is None else v.shape for v in inputs], **joined_settings(s, node.spec)
        )
        if worth(spec):
            new[node] = Node(POOLED_CONV2D, spec, inputs, node.outputs, conv.scope)
            gone.add(conv)
    return replace(graph, nodes=[new.get(node, node) for node in graph.nodes if node not in gone])


def _parts(node: Node) -> list[Node]:
    """The operators that a node stands for, or itself."""
    if node.op.decompose is None:
        return [node]
    parts: list[Node] = []

    def run(op: Op, spec: Any, *inputs: Any) -> Value:
        value = Value(spec.out, node.output.dtype)
        parts.append(Node(op, spec, inputs, (value,), node.scope))
        return value

    node.op.decompose(run, node.spec, *node.inputs)
    parts[-1].outputs = node.outputs
    return parts


def decompose(graph: Graph) -> Graph:
    """With the nodes that stand for several operators as those operators again."""
    return replace(graph, nodes=[part for node in graph.nodes for part in _parts(node)])


def optimize(graph: Graph) -> Graph:
    """All passes in their order."""
    graph = fold_constants(drop_dead_code(graph))
    graph = fuse_padding(graph)
    graph = fuse_epilogues(fold_batch_norm(graph))
    graph = drop_dead_code(graph)
    graph.check()
    return graph
