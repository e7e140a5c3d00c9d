"""Networks out of ONNX files, as modules."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import ops
from ..errors import CnnfastError, WeightsError
from ..nn.module import Module
from ..tensor import Parameter
from ..weights.limits import shown
from . import layers, pointwise, reductions, shapes
from .calls import OPERATORS, Call
from .held import Held, channels_last, plain
from .reading import File, Node, Stored, read

__all__ = ["OnnxModule", "load"]

_MODULES = (layers, pointwise, reductions, shapes)  # importing them fills the table

# Inputs that are settings, not weights, even where they hold real numbers.
_SETTINGS = {("Resize", 1), ("Resize", 2), ("Upsample", 1), ("Pad", 2), ("Clip", 1), ("Clip", 2)}


@dataclass
class _Input:
    name: str
    real: bool
    rank: int | None
    last: bool  # whether arrays are given with their channels last, though the file has them second


@dataclass
class _Step:
    """One operator of the network: what it is called with, and what is not needed after it."""

    call: Call
    run: Callable[..., Any]
    free: list[str] = field(default_factory=list)


class OnnxModule(Module):
    """A network out of an ONNX file; made by :func:`load`.

    Calling it runs the operators of the file by those of :mod:`cnnfast.ops`, so it can be traced, optimized
    and compiled as any other module. A network with several results gives a dictionary by their names.

    Attributes
    ----------
    input_names, output_names : list of str
    input_shapes : list
        Sizes as the file declares them (in its own order of axes), None where they are free or unknown.
    opset : int
    producer : str
    """

    def __init__(self, file: File, layout: str) -> None:
        self.layout, self.opset, self.producer = layout, file.opset, file.producer
        self.output_names = list(file.outputs)
        self.constants: dict[str, np.ndarray] = {}
        self.steps: list[_Step] = []
        self.layouts = {}  # type: ignore[misc]  # of the parameters of this file
        _check_operators(file)
        nodes = _joined(file)
        _drop_unread(nodes, file.outputs)
        readers: dict[str, list[Node]] = {}
        for node in nodes:
            for name in node.inputs:
                readers.setdefault(name, []).append(node)
        self.inputs = [_declared(*value, readers.get(value[0], []), layout) for value in file.inputs]
        self.input_names = [i.name for i in self.inputs]
        self.input_shapes = [dims for _, _, dims in file.inputs]
        self._take_over(file, nodes)

    # --- building ------------------------------------------------------------------------------

    def _take_over(self, file: File, nodes: list[Node]) -> None:
        """Steps out of nodes; tensors as parameters, buffers and constants in the layout of their use."""
        made: dict[tuple[str, str], str] = {}
        for node in nodes:
            handler = OPERATORS[node.op_type]
            sizes = {i: file.tensors[n].dims for i, n in enumerate(node.inputs) if n in file.tensors}
            kinds = handler.weights(node, sizes) if handler.weights is not None else {}
            keys = list(node.inputs)
            for i, name in enumerate(node.inputs):
                if name not in file.tensors:
                    continue
                tensor = file.tensors[name]
                kind = kinds.get(i, "") if tensor.dtype.kind == "f" else ""
                if not kind and (
                    tensor.dtype.kind != "f" or tensor.size <= 1 or (node.op_type, i) in _SETTINGS
                ):
                    kind = "constant"
                kind = kind or "buffer"
                if (name, kind) not in made:
                    key = name if name not in made.values() else f"{name}#{len(made)}"
                    self._add(key, tensor, kind)
                    made[name, kind] = key
                keys[i] = made[name, kind]
            for attribute, value in node.attributes.items():
                if isinstance(value, Stored):
                    node.attributes[attribute] = value.array()
            prepared = {
                i: kind for i, kind in kinds.items() if file.tensors[node.inputs[i]].dtype.kind == "f"
            }
            self.steps.append(_Step(Call(node, file.opset, tuple(keys), prepared), handler.function))
        for name in file.outputs:
            if name in file.tensors:  # a result that is a constant
                self.constants[name] = file.tensors[name].array()
        wanted = set(file.outputs)
        seen: set[str] = set()
        held_by_module = set(made.values())
        for step in reversed(self.steps):
            for name in {*step.call.keys, *step.call.node.outputs} - seen - wanted - held_by_module:
                step.free.append(name)
                seen.add(name)

    def _add(self, key: str, tensor: Stored, kind: str) -> None:
        """Read a tensor into a parameter, a buffer or a constant, in its layout."""
        dims = tensor.dims
        if kind in ("constant", "buffer"):
            array = tensor.array()
            if array.dtype == np.float64 and kind == "buffer":
                array = array.astype(np.float32)
            if kind == "constant":
                self.constants[key] = array
            else:
                self._buffers[key] = array
            return
        if kind in ("conv", "transpose") or kind.startswith("depthwise"):
            shape: tuple[int, ...] = (dims[2], dims[3], dims[1], dims[0])
            array = np.empty(shape, np.float32)
            tensor.fill(array.transpose(3, 2, 0, 1))
            if kind.startswith("depthwise"):
                groups = int(kind.split()[1])
                array = array.reshape(dims[2], dims[3], groups, dims[0] // groups)
            self.layouts[key] = kind.split()[0]
        elif kind == "linear":
            array = np.empty(dims[::-1], np.float32)
            tensor.fill(array.T)
            self.layouts[key] = "linear"
        else:
            array = np.empty(dims, np.float32)
            tensor.fill(array)
        parameter = Parameter(array.shape)
        parameter.data = array
        self._parameters[key] = parameter

    # --- running -------------------------------------------------------------------------------

    def forward(self, *inputs: Any) -> Any:
        if len(inputs) != len(self.inputs):
            names = ", ".join(shown(name) for name in self.input_names)
            raise WeightsError(f"this network takes {len(self.inputs)} inputs ({names}), got {len(inputs)}")
        values: dict[str, Any] = {**self.constants, **self._parameters, **self._buffers, "": None}
        for declared, given in zip(self.inputs, inputs, strict=True):
            values[declared.name] = self._taken(declared, given)
        for step in self.steps:
            call = step.call
            arguments = [values[key] for key in call.keys]
            while arguments and arguments[-1] is None:
                arguments.pop()
            try:
                results = step.run(call, *arguments)
            except CnnfastError as error:
                # Attributes may be long, and hold anything.
                text = "".join(c if c.isprintable() else "?" for c in str(error)[:600])
                prefix = "" if text.startswith(call.node.label) else f"{call.node.label}: "
                raise type(error)(prefix + text) from None
            except (AttributeError, IndexError, KeyError, TypeError, ValueError, OverflowError) as error:
                raise WeightsError(
                    f"{call.node.label}: its inputs do not fit: {str(error)[:300]!r}"
                ) from error
            if not isinstance(results, tuple):
                results = (results,)
            for name, result in zip(call.node.outputs, results, strict=False):
                values[name] = result
            for name in step.free:
                values.pop(name, None)
            values[""] = None
        given = {name: self._given(values[name]) for name in self.output_names}
        return given if len(given) > 1 else given[self.output_names[0]]

    def _taken(self, declared: _Input, x: Any) -> Any:
        if declared.rank is not None and len(x.shape) != declared.rank:
            raise WeightsError(
                f"input {shown(declared.name)}: expected {declared.rank} dimensions, came {len(x.shape)}"
            )
        if declared.real and x.dtype.kind != "f":
            raise WeightsError(
                f"input {shown(declared.name)}: expected float32, came {x.dtype}; convert with .astype"
            )
        return Held(x, channels_last(4)) if declared.last and len(x.shape) == 4 else x

    def _given(self, value: Any) -> Any:
        if self.layout == "NHWC" and isinstance(value, Held) and value.order == channels_last(4):
            return value.tensor
        value = plain(value)
        # A result that does not depend on the inputs is a result all the same.
        return ops.reshape(value, value.shape) if isinstance(value, Parameter) else value

    def extra_repr(self) -> str:
        kinds = Counter(step.call.node.op_type for step in self.steps)
        return ", ".join(f"{n} {name}" for name, n in kinds.most_common())


def _declared(
    name: str, code: int, dims: tuple[int | None, ...] | None, readers: list[Node], layout: str
) -> _Input:
    """How arrays for an input are taken.

    Where its only use is a transposition from N,H,W,C the file itself has the channels last.
    """
    turned = bool(readers) and all(
        n.op_type == "Transpose" and n.attributes.get("perm") == [0, 3, 1, 2] for n in readers
    )
    real = code in (0, 1, 10, 11, 16)
    return _Input(name, real, None if dims is None else len(dims), layout == "NHWC" and not turned)


def _check_operators(file: File) -> None:
    """Everything that is not supported, at once."""
    problems = list(file.problems)
    for node in file.nodes:
        handler = OPERATORS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if handler is None or node.op_type == "Silu":
            domain = f"{shown(node.domain)} " if node.domain else ""
            problems.append(f"{node.label}: this operator {domain}is not supported")
        elif node.unsupported:
            problems.append(f"{node.label}: {node.unsupported}")
        elif not handler.least <= len(node.inputs) <= handler.most or "" in node.inputs[: handler.least]:
            problems.append(f"{node.label}: expected {handler.least} or more inputs, came {len(node.inputs)}")
        elif not node.outputs:
            problems.append(f"{node.label}: has no outputs")
    if problems:
        more = [f"and {len(problems) - 50} more"] if len(problems) > 50 else []
        lines = [f"{len(problems)} nodes cannot be run", *problems[:50], *more]
        raise WeightsError("\n  ".join(lines))


def _drop_unread(nodes: list[Node], outputs: list[str]) -> None:
    """Take the names from results that nothing reads, such as the masks of Dropout in older files."""
    read = {name for node in nodes for name in node.inputs}.union(outputs)
    for node in nodes:
        node.outputs = tuple([name if i == 0 or name in read else "" for i, name in enumerate(node.outputs)])


def _joined(file: File) -> list[Node]:
    """Nodes with x * sigmoid(x) and x * hard_sigmoid(x) as the one activation that they are."""
    uses = Counter(name for node in file.nodes for name in node.inputs)
    uses.update(file.outputs)
    gates = {
        node.outputs[0]: node
        for node in file.nodes
        if node.op_type in ("Sigmoid", "HardSigmoid") and uses[node.outputs[0]] == 1
    }
    gone: set[int] = set()
    nodes: list[Node] = []
    for node in file.nodes:
        if node.op_type == "Mul" and len(node.inputs) == 2:
            for x, gate in (node.inputs, node.inputs[::-1]):
                made = gates.get(gate)
                if made is None or made.inputs[0] != x:
                    continue
                name = "Silu"
                if made.op_type == "HardSigmoid":
                    alpha, beta = made.attributes.get("alpha", 0.2), made.attributes.get("beta", 0.5)
                    if not isinstance(alpha, float) or abs(alpha - 1 / 6) > 1e-7 or beta != 0.5:
                        continue
                    name = "HardSwish"
                gone.add(id(made))
                node = Node(node.name, name, "", (x,), node.outputs, {})
                break
        nodes.append(node)
    return [node for node in nodes if id(node) not in gone]


def load(path: str | os.PathLike[str], *, layout: str = "NHWC") -> OnnxModule:
    """Read a network from an ONNX file.

    Parameters
    ----------
    path : str or os.PathLike
        A model of operator set 7 to 21. Tensors may lie in files beside it or below its folder, nowhere
        else. Half precision becomes float32.
    layout : {"NHWC", "NCHW"}
        ``"NHWC"``: pictures are given, and feature maps returned, as everywhere in cnnfast: inputs that
        the file declares as N,C,H,W take arrays N,H,W,C, and so do results that are feature maps.
        Values of other ranks, and inputs that the file itself has as N,H,W,C, stay as they are.
        ``"NCHW"``: all arrays are as the file has them.

    Returns
    -------
    OnnxModule
        In evaluation mode. Sizes that the file leaves free may differ from call to call.

    Raises
    ------
    WeightsError
        For files that are corrupt, beyond the limits, or ask for what is not supported: all such nodes are
        listed at once. Nothing in a file is ever executed, and no file outside its folder is read.
    OSError
        If the file cannot be opened or read.

    Notes
    -----
    Weights are brought to the layout of the operators while they are read, block by block, so that reading
    takes little more memory than the weights. Suppressing boxes (NonMaxSuppression) gives as many
    as there are, so a network that holds it can be called but not traced.

    References
    ----------
    "Open Neural Network Exchange: operator schemas", onnx.ai.
    """
    if layout not in ("NHWC", "NCHW"):
        raise ValueError(f"layout must be 'NHWC' or 'NCHW', got {layout!r}")
    name = os.fsdecode(path)
    try:
        with read(name) as file:
            module = OnnxModule(file, layout)
    except WeightsError as error:
        raise WeightsError(f"onnx.load: {name}: {error}") from None
    module.eval()
    return module
