"""A graph of cnnfast as a torch module, for TorchScript."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from . import NotSupported

__all__ = ["GraphModule"]

ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "silu": F.silu,
    "hard_swish": F.hardswish,
}


STATISTICS = (1, 2)  # places of mean and variance among the inputs of a batch normalisation


class GraphModule(torch.nn.Module):
    """Runs the nodes one after the other on N,C,H,W tensors.

    A module that learns has parameters in place of constants, but for the statistics of batch normalisations.
    """

    def __init__(self, graph: Any, learns: bool = False) -> None:
        super().__init__()
        self.train(learns)
        self.graph = graph
        self.names: dict[Any, str] = {}
        flat = {n.output: n.inputs[0].shape[1:] for n in graph.nodes if n.op.name == "reshape"}
        for node in graph.nodes:
            for place, value in enumerate(node.inputs):
                if value is None or value.kind != "param" or value in self.names:
                    continue
                self.names[value] = f"p{len(self.names)}"
                data = value.data
                if place == 1 and node.inputs[0] in flat:
                    data = channels_first(data, flat[node.inputs[0]])
                held = tensor(node.op.name, place, data)
                if learns and not (node.op.name == "batch_norm" and place in STATISTICS):
                    self.register_parameter(self.names[value], torch.nn.Parameter(held.clone()))
                else:
                    self.register_buffer(self.names[value], held.clone() if learns else held)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values: dict[Any, Any] = {self.graph.inputs[0]: x}
        for node in self.graph.nodes:
            inputs = [
                None if v is None else values[v] if v in values else getattr(self, self.names[v])
                for v in node.inputs
            ]
            values[node.output] = call(node, inputs, self.training)
        return values[self.graph.outputs[0]]


def tensor(op: str, place: int, data: np.ndarray) -> torch.Tensor:
    """A parameter in torch's layout."""
    if place == 1 and op == "linear":
        data = data.T
    elif place == 1 and op == "depthwise_conv2d":
        kh, kw, c, m = data.shape
        data = data.reshape(kh, kw, 1, c * m).transpose(3, 2, 0, 1)
    elif data.ndim == 4:  # weights of convolutions, and transpose ones by the same rule
        data = data.transpose(3, 2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(data))


def channels_first(w: np.ndarray, image: tuple[int, ...]) -> np.ndarray:
    """Rows of a dense layer after an image, in the order in which torch flattens it."""
    return np.moveaxis(w.reshape(*image, -1), 2, 0).reshape(w.shape) if len(image) == 3 else w


def padded(x: Any, pads: Any, value: float = 0.0) -> tuple[Any, tuple[int, int]]:
    """x, and the padding that the operator can do itself: one that is the same on both sides."""
    (top, bottom), (left, right) = pads
    if (top, left) == (bottom, right):
        return x, (top, left)
    return F.pad(x, (left, right, top, bottom), value=value), (0, 0)


def call(node: Any, inputs: list[Any], learns: bool = False) -> Any:
    """What a node gives."""
    s, op, x = node.spec, node.op.name, inputs[0]
    bias = inputs[3] if op in ("conv2d", "depthwise_conv2d", "conv2d_transpose", "linear") else None
    if op in ("conv2d", "depthwise_conv2d"):
        x, padding = padded(x, s.pads)
        return F.conv2d(x, inputs[1], bias, s.stride, padding, s.dilation, s.groups)
    if op == "conv2d_transpose":
        (top, bottom), (left, right) = s.pads
        if (top, left) != (bottom, right):
            raise NotSupported("no padding that differs between two sides")
        full = [(s.x[1 + a] - 1) * s.stride[a] + s.dilation[a] * (s.w[a] - 1) + 1 for a in (0, 1)]
        extra = [s.out[1 + a] - full[a] + sum(s.pads[a]) for a in (0, 1)]
        return F.conv_transpose2d(x, inputs[1], bias, s.stride, (top, left), extra, s.groups, s.dilation)
    if op == "linear":
        return F.linear(x, inputs[1], bias)
    if op in ("max_pool2d", "avg_pool2d"):
        plain = [
            (n + sum(p) - k) // st + 1 for n, p, k, st in zip(s.x[1:3], s.pads, s.size, s.stride, strict=True)
        ]
        ceil = tuple(plain) != s.out[1:3]
        if op == "max_pool2d":
            x, padding = padded(x, s.pads, float("-inf"))
            return F.max_pool2d(x, s.size, s.stride, padding, s.dilation, ceil)
        if s.pads[0][0] != s.pads[0][1] or s.pads[1][0] != s.pads[1][1]:
            raise NotSupported("no average pooling with padding that differs between two sides")
        padding = (s.pads[0][0], s.pads[1][0])
        return F.avg_pool2d(x, s.size, s.stride, padding, ceil, s.count_include_pad)
    if op == "global_avg_pool2d":
        return F.adaptive_avg_pool2d(x, 1)
    if op == "batch_norm":
        mean, var, scale, shift = inputs[1:5]
        return F.batch_norm(x, mean, var, scale, shift, learns, 0.1, s.eps)
    if op == "local_response_norm":
        size = s.before + s.after + 1
        return F.local_response_norm(x, size, s.alpha * size, s.beta, s.k)
    if op == "leaky_relu":
        return F.leaky_relu(x, s.slope)
    if op in ACTIVATIONS:
        return ACTIVATIONS[op](x)
    if op in ("add", "mul"):
        return torch.add(x, inputs[1]) if op == "add" else torch.mul(x, inputs[1])
    if op == "concat" and len(s.out) == 4:
        return torch.cat(inputs, {0: 0, 1: 2, 2: 3, 3: 1}[s.axis])
    if op == "softmax" and len(s.out) == 2:
        return F.softmax(x, s.axis)
    if op == "reshape" and len(s.x) == 4 and s.out == (s.x[0], s.x[1] * s.x[2] * s.x[3]):
        return torch.flatten(x, 1)
    raise NotSupported(f"{op} is not written for torch here")
