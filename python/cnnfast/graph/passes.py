"""Rewriting graphs: every pass takes a graph and gives a new one that computes the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..ops.activations import ACTIVATIONS, ActivationSpec
from ..ops.arithmetic import BinarySpec
from ..ops.norm import BatchNormSpec
from ..ops.registry import OPERATORS
from .ir import Array, Graph, Node, Value

__all__ = ["drop_dead_code", "fold_batch_norm", "fold_constants", "fuse_epilogues", "optimize"]


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
            names[value] = Value(value.shape, value.dtype, "param", f"{node.scope}.{node.op.name}", data)
    return _renamed(graph, nodes, names)


def _affine(node: Node) -> tuple[Array, Array] | None:
    """Factor and shift per channel, in double precision, of a normalisation by known statistics."""
    if not isinstance(node.spec, BatchNormSpec):
        return None
    arrays = [None if v is None else v.data for v in node.inputs[1:]]
    if any(v is not None and v.data is None for v in node.inputs[1:]):
        return None
    mean, var, scale, shift = [None if a is None else a.astype(np.float64) for a in arrays]
    assert mean is not None
    assert var is not None
    factor = (1.0 if scale is None else scale) / np.sqrt(var + node.spec.eps)
    return factor, (0.0 if shift is None else shift) - mean * factor


def fold_batch_norm(graph: Graph) -> Graph:
    """Normalisations into the weights and the bias of the convolution or dense layer before them.

    The sums are worked out in float64 and rounded once.
    """
    producers, users = graph.producers(), graph.users()
    names: dict[Value, Value] = {}
    new: dict[Node, Node] = {}
    dropped: set[Node] = set()
    for node in graph.nodes:
        affine = _affine(node)
        source = node.inputs[0] if affine is not None else None
        # After a normalisation that was folded, the layer before that one.
        origin = None if source is None else producers.get(names.get(source, source))
        if affine is None or source is None or origin is None or source in graph.outputs:
            continue
        before = new.get(origin, origin)
        epilogue = before.op.epilogue
        if epilogue is None or epilogue.scale is None or epilogue.bias is None or len(users[source]) != 1:
            continue
        inputs = list(before.inputs) + [None] * (epilogue.bias + 1 - len(before.inputs))
        residual = epilogue.residual is not None and len(inputs) > epilogue.residual
        weight, bias = inputs[1], inputs[epilogue.bias]
        busy = residual and epilogue.residual is not None and inputs[epilogue.residual] is not None
        if weight is None or weight.data is None or getattr(before.spec, "activation", None) or busy:
            continue
        if bias is not None and bias.data is None:
            continue
        factor, shift = affine
        w = epilogue.scale(before.spec, weight.data.astype(np.float64), factor)
        b = shift if bias is None or bias.data is None else bias.data * factor + shift
        kind = weight.data.dtype
        inputs[1] = Value(weight.shape, kind, "param", weight.name, w.astype(kind))
        inputs[epilogue.bias] = Value((len(b),), kind, "param", f"{node.scope}.folded_bias", b.astype(kind))
        spec = epilogue.respec(before.spec, (len(b),), None, None)
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
            if spec.name == "leaky_relu" and spec.slope != 0.01:
                continue  # the fused form has the usual slope
            at = sole(node.inputs[0], i)
            host = None if at is None else nodes[at]
            if at is None or host is None or host.op.epilogue is None or not host.op.epilogue.activations:
                continue
            if getattr(host.spec, "activation", None) is not None:
                continue
            _apply(nodes, at, activation=spec.name)
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


def _apply(nodes: list[Node], at: int, activation: str | None = None, residual: Value | None = None) -> None:
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

    activation = activation or getattr(host.spec, "activation", None)
    spec = epilogue.respec(host.spec, shape(epilogue.bias), shape(epilogue.residual), activation)
    nodes[at] = replace(host, spec=spec, inputs=tuple(inputs))


def optimize(graph: Graph) -> Graph:
    """All passes in their order."""
    graph = fold_constants(drop_dead_code(graph))
    graph = fuse_epilogues(fold_batch_norm(graph))
    graph = drop_dead_code(graph)
    graph.check()
    return graph
