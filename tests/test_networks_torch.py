"""Every network against torch: its graph run by torch's functions, N,C,H,W, with torch's weight layouts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cnnfast as cf
import networks
from cnnfast.graph import Graph, Node
from cnnfast.models.registry import entry

SIZES = {"unet_valid": 188, "unet": 32, "segnet_vgg16": 32, "ssd300": 300, "ssd300_vgg16": 300,
         "yolov2_tiny": 64, "yolov3_tiny": 64, "yolov3": 64, "inception_resnet_v1": 80,
         "nn4_small2": 96}  # fmt: skip
# Two towers and a data-dependent part between them: tests/test_faster_rcnn.py has the towers.
LEFT_OUT = {"fasterrcnn_resnet50_fpn", "fasterrcnn_vgg16"}
# These take seconds and show nothing that a smaller relative does not.
HEAVY = {"efficientnet_b3", "efficientnet_b4", "efficientnet_b5", "efficientnet_b6", "efficientnet_b7",
         "inception_v3", "plain34", "resnet34", "resnet101", "resnet152", "segnet_vgg16", "ssd300_vgg16",
         "tf_efficientnet_lite0", "unet_valid", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn",
         "yolov3"}  # fmt: skip
NAMES = [
    pytest.param(name, marks=pytest.mark.slow if name in HEAVY else ())
    for name in cf.models.list_models()
    if name not in LEFT_OUT
]


def nchw(a: Any) -> Any:
    return a.permute(0, 3, 1, 2) if a.ndim == 4 else a


def nhwc(a: Any) -> Any:
    return a.permute(0, 2, 3, 1) if a.ndim == 4 else a


def padded(x: Any, s: Any, value: float) -> Any:
    """N,C,H,W pictures with as many rows and columns as the windows of a pooling reach."""
    import torch.nn.functional as F

    sides: list[int] = []
    for axis in (1, 0):  # torch names the last axis first
        reach = (s.out[1 + axis] - 1) * s.stride[axis] + (s.size[axis] - 1) * s.dilation[axis] + 1
        before = s.pads[axis][0]
        sides += [before, reach - before - x.shape[2 + axis]]
    return F.pad(x, sides, value=value)


def average(s: Any, x: Any) -> Any:
    import torch
    import torch.nn.functional as F

    counted = torch.ones_like(x[:1, :1])
    if s.count_include_pad:
        counted = F.pad(counted, (*s.pads[1], *s.pads[0]), value=1.0)
        inside = padded(torch.ones_like(x[:1, :1]), s, 1.0)
        counted = counted[:, :, : inside.shape[2], : inside.shape[3]]
        extra = (0, inside.shape[3] - counted.shape[3], 0, inside.shape[2] - counted.shape[2])
        counted = F.pad(counted, extra)
    else:
        counted = padded(counted, s, 0.0)
    sums = F.avg_pool2d(padded(x, s, 0.0), s.size, s.stride)
    return sums / F.avg_pool2d(counted, s.size, s.stride)


def convolution(s: Any, x: Any, w: Any, b: Any, residual: Any = None) -> Any:
    import torch.nn.functional as F

    sides = (*s.pads[1], *s.pads[0])
    y = F.conv2d(F.pad(x, sides), w.reshape(s.w).permute(3, 2, 0, 1), b, s.stride, 0, s.dilation, s.groups)
    return y if residual is None else y + nchw(residual)


def transposed(s: Any, x: Any, w: Any, b: Any) -> Any:
    import torch.nn.functional as F

    full = F.conv_transpose2d(x, w.permute(3, 2, 0, 1), None, s.stride, 0, 0, s.groups, s.dilation)
    (top, _), (left, _) = s.pads
    y = full[:, :, top : top + s.out[1], left : left + s.out[2]]
    return y if b is None else y + b[:, None, None]


def functions() -> dict[str, Callable[..., Any]]:
    """Operator name -> function of its spec and tensors in our layout, giving our layout."""
    import torch
    import torch.nn.functional as F

    def taken(s: Any, x: Any) -> Any:
        return x[tuple(slice(a, b, c) for a, b, c in s.index)].reshape(s.out)

    return {
        "conv2d": lambda s, x, w, _, b=None, r=None: nhwc(convolution(s, nchw(x), w, b, r)),
        "depthwise_conv2d": lambda s, x, w, _, b=None, r=None: nhwc(convolution(s, nchw(x), w, b, r)),
        "conv2d_transpose": lambda s, x, w, _, b=None: nhwc(transposed(s, nchw(x), w, b)),
        "linear": lambda s, x, w, _, b=None: F.linear(x, w.T, b),
        "max_pool2d": lambda s, x: nhwc(
            F.max_pool2d(padded(nchw(x), s, -torch.inf), s.size, s.stride, 0, s.dilation)
        ),
        "avg_pool2d": lambda s, x: nhwc(average(s, nchw(x))),
        "l2_pool2d": lambda s, x: nhwc(average(s.mean, nchw(x * x)) * np.prod(s.mean.size)).sqrt(),
        "global_avg_pool2d": lambda s, x: x.mean((1, 2), keepdim=True),
        "batch_norm": lambda s, x, mean, var, scale, shift: nhwc(
            F.batch_norm(nchw(x), mean, var, scale, shift, False, 0.0, s.eps)
        ),
        "local_response_norm": lambda s, x: nhwc(
            F.local_response_norm(nchw(x), n := s.before + s.after + 1, s.alpha * n, s.beta, s.k)
        ),
        "l2_normalize": lambda s, x: F.normalize(x, dim=s.axis, eps=s.eps),
        "relu": lambda s, x: F.relu(x),
        "relu6": lambda s, x: F.relu6(x),
        "leaky_relu": lambda s, x: F.leaky_relu(x, s.slope),
        "sigmoid": lambda s, x: torch.sigmoid(x),
        "silu": lambda s, x: F.silu(x),
        "tanh": lambda s, x: torch.tanh(x),
        "softmax": lambda s, x: F.softmax(x, s.axis),
        "add": lambda s, a, b: a + b,
        "mul": lambda s, a, b: a * b,
        "sub": lambda s, a, b: a - b,
        "concat": lambda s, *parts: torch.cat(parts, s.axis),
        "pad2d": lambda s, x: nhwc(F.pad(nchw(x), (*s.pads[1], *s.pads[0]), value=s.value)),
        "resize": lambda s, x: nhwc(F.interpolate(nchw(x), s.out[1:3], mode=s.mode)),
        "reshape": lambda s, x: x.reshape(s.out),
        "transpose": lambda s, x: x.permute(s.axes),
        "slice": taken,
    }


def run_torch(graph: Graph, x: np.ndarray) -> list[Any]:
    """The outputs of a graph, worked out by torch in float64."""
    import torch

    table = functions()
    values = {graph.inputs[0]: torch.from_numpy(x.astype(np.float64))}

    def of(value: Any) -> Any:
        if value is None:
            return None
        if value.kind == "param":
            return torch.from_numpy(np.array(value.data, np.float64))
        return values[value]

    def step(node: Node) -> None:
        values[node.output] = table[node.op.name](node.spec, *map(of, node.inputs))

    with torch.no_grad():
        for node in graph.nodes:
            step(node)
    return [values[value].numpy() for value in graph.outputs]


@pytest.mark.parametrize("name", NAMES)
def test_equal_outputs(native: None, name: str, rng: np.random.Generator) -> None:
    pytest.importorskip("torch")
    if name in SIZES:
        shape = (SIZES[name], SIZES[name], entry(name).input_size[2])
        model = cf.models.create_model(name, seed=3).eval()
    else:
        model, shape = networks.small(name)
    networks.randomize(model, rng)
    x = rng.uniform(-1, 1, (1, *shape)).astype(np.float32)
    theirs = run_torch(cf.graph.trace(model, x.shape), x)
    ours = networks.flat(model(x))
    assert len(ours) == len(theirs)
    for mine, exact in zip(ours, theirs, strict=True):
        assert mine.shape == exact.shape
        assert np.linalg.norm(exact) > 0
        assert np.linalg.norm(mine - exact) <= 1e-4 * np.linalg.norm(exact)
