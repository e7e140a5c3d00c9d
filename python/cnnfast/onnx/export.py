"""Networks into ONNX files."""

from __future__ import annotations

import os
from typing import Any

from .. import graph as graphs
from ..errors import WeightsError
from ..graph.ir import Graph
from ..graph.trace import shapes_of
from ..nn.module import Module
from ..weights.atomic import replace_file
from .exporting import WRITERS
from .writing import NCHW, Writer, usual, write_pieces

__all__ = ["save"]

OPSETS = range(13, 22)


def save(
    model: Module,
    path: str | os.PathLike[str],
    input_shape: Any,
    *,
    opset: int = 17,
    layout: str = "NHWC",
    optimize: bool = True,
) -> None:
    """Write a network to an ONNX file.

    Parameters
    ----------
    model : Module
        Written as it computes in evaluation mode.
    path : str or os.PathLike
        The file appears whole or not at all.
    input_shape : tuple of int, or list of them
        The shape of its input as cnnfast takes it, e.g. (1, 224, 224, 3); a list for several inputs.
    opset : int
        Operator set, 13 to 21.
    layout : {"NHWC", "NCHW"}
        How the file takes and gives values of four dimensions: as they are here, or with the channels
        second. Between them everything is N,C,H,W, as runtimes expect it.
    optimize : bool
        Fold normalisations and constants first.

    Raises
    ------
    WeightsError
        For operators that ONNX cannot express; all are listed at once, and nothing is written.
    ShapeError
        As the operators raise it.
    OSError
        If the file cannot be written; an old file stays as it was.

    References
    ----------
    "Open Neural Network Exchange: operator schemas", onnx.ai.
    """
    if layout not in ("NHWC", "NCHW"):
        raise ValueError(f"layout must be 'NHWC' or 'NCHW', got {layout!r}")
    if opset not in OPSETS:
        raise ValueError(f"opset must be from {OPSETS[0]} to {OPSETS[-1]}, got {opset!r}")
    graph = graphs.trace(model, *shapes_of("onnx.save", input_shape))
    if optimize:
        graph = graphs.optimize(graph)
    target = os.fsdecode(path)
    try:
        writer = Writer(opset)
        inputs, outputs = _write(graph, writer, layout)
        pieces = writer.pieces(inputs, outputs, graph.name)
        with replace_file(target) as file:
            write_pieces(file, pieces)
    except WeightsError as error:
        raise WeightsError(f"onnx.save: {target}: {error}") from None


def _write(graph: Graph, w: Writer, layout: str) -> tuple[list[Any], list[Any]]:
    """All nodes of the graph; gives name, type and shape of its inputs and outputs."""
    missing = sorted({node.op.name for node in graph.nodes if node.op.name not in WRITERS})
    if missing:
        where = [
            f"{node.op.name} ({node.scope or 'network'})" for node in graph.nodes if node.op.name in missing
        ]
        raise WeightsError("\n  ".join([f"{len(where)} operators cannot be written", *where[:50]]))
    names = _output_names(graph)
    for name in names:
        w.name(name)
    inputs = []
    for value in graph.inputs:
        name, shape = w.name(value.name), value.shape
        if len(shape) == 4:
            if layout == "NCHW":
                shape = _second(shape)
                w.put(value, name, NCHW)
            else:
                w.put(value, w.emit("Transpose", [name], perm=(0, 3, 1, 2)), NCHW)
        else:
            w.put(value, name)
        inputs.append((name, value.dtype, shape))
    for node in graph.nodes:
        w.scope = node.scope
        WRITERS[node.op.name](w, node)
    w.scope = ""
    outputs = []
    for name, value in zip(names, graph.outputs, strict=True):
        second = layout == "NCHW" and len(value.shape) == 4
        order = NCHW if second else usual(len(value.shape))
        w.add("Identity", [w.get(value, order)], [name])
        outputs.append((name, value.dtype, _second(value.shape) if second else value.shape))
    return inputs, outputs


def _second(shape: tuple[int, ...]) -> tuple[int, ...]:
    n, h, w, c = shape
    return n, c, h, w


def _output_names(graph: Graph) -> list[str]:
    structure = graph.notes.get("structure")
    names = [f"output{i or ''}" for i in range(len(graph.outputs))]
    if isinstance(structure, dict) and all(isinstance(i, int) for i in structure.values()):
        for key, i in structure.items():
            names[i] = str(key)
    return names if len(set(names)) == len(names) else [f"output{i}" for i in range(len(names))]
