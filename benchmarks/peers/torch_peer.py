"""PyTorch eager, in contiguous NCHW and in channels_last; the faster one counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import Operands
from ..problems import Problem, pair, sides
from . import Candidate, NotSupported, from_nchw, missing, to_nchw

if TYPE_CHECKING:
    from ..networks.source import Network

LABEL = "torch"
COLUMNS = ("eager",)
WAYS = ("plain", "optimized")


def available() -> str | None:
    return missing("torch")


def version() -> str:
    import torch

    return str(torch.__version__)


def set_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def prepare(problem: Problem, operands: Operands, threads: int) -> dict[str, Candidate]:
    import torch

    images = any(getattr(value, "ndim", 0) == 4 for value in operands.values()) or "xs" in operands
    formats = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
    back = hwio if problem.op == "conv2d_grad_weight" else from_nchw

    def result(out: Any) -> np.ndarray:
        return back(out.numpy())

    ways = {}
    for name, memory_format in formats.items() if images else [("plain", torch.contiguous_format)]:
        tensors = {key: tensor(key, value, problem, memory_format) for key, value in operands.items()}
        # inference_mode is no_grad with less bookkeeping per call.
        run = build(problem, tensors)
        ways[name] = Candidate(run, result, torch.inference_mode)
    return ways


def hwio(w: np.ndarray) -> np.ndarray:
    return w.transpose(2, 3, 1, 0)


def tensor(key: str, value: Any, problem: Problem, memory_format: Any) -> Any:
    """An operand as torch wants it: OIHW weights, NCHW images."""
    import torch

    if isinstance(value, list):
        return [tensor("x", v, problem, memory_format) for v in value]
    if key == "w":
        value = weight_for_nchw(problem, value)
    elif key in ("x", "y", "g"):
        value = to_nchw(value)
    result = torch.from_numpy(np.ascontiguousarray(value))
    return result.contiguous(memory_format=memory_format) if result.ndim == 4 else result


def weight_for_nchw(problem: Problem, w: np.ndarray) -> np.ndarray:
    """HWIO to OIHW, or what torch and ONNX keep for the other operators."""
    if problem.op == "linear":
        return w.T
    if problem.op == "conv2d_transpose":
        return w.transpose(3, 2, 0, 1)
    if problem.op == "depthwise_conv2d":
        kh, kw, c, m = w.shape
        return w.reshape(kh, kw, 1, c * m).transpose(3, 2, 0, 1)
    return w.transpose(3, 2, 0, 1)


def symmetric(problem: Problem) -> tuple[int, int]:
    (top, bottom), (left, right) = sides(problem.attrs.get("padding", 0))
    if (top, left) != (bottom, right):
        raise NotSupported("no padding that differs between two sides")
    return top, left


def build(problem: Problem, t: dict[str, Any]) -> Callable[[], Any]:
    """The torch call for a problem."""
    import torch
    import torch.nn.functional as F

    a, op = problem.attrs, problem.op
    x: Any = t.get("x")
    if op in ("conv2d", "depthwise_conv2d"):
        stride, dilation, padding = pair(a.get("stride", 1)), pair(a.get("dilation", 1)), symmetric(problem)
        groups = problem.shapes["x"][3] if op == "depthwise_conv2d" else a.get("groups", 1)
        w, b = t["w"], t.get("b")
        if a.get("activation") == "relu":
            return lambda: F.conv2d(x, w, b, stride, padding, dilation, groups).relu_()
        if a.get("activation"):
            raise NotSupported(f"no fused {a['activation']}")
        return lambda: F.conv2d(x, w, b, stride, padding, dilation, groups)
    if op in ("conv2d_grad_input", "conv2d_grad_weight"):
        steps = [list(pair(a.get(name, 1))) for name in ("stride", "dilation")]
        if op == "conv2d_grad_input":
            n, h, width, c = a["input_shape"]
            x, w, wanted = t["w"].new_empty((n, c, h, width)), t["w"], [True, False, False]
        else:
            kh, kw, cg, o = a["weight_shape"]
            w, wanted = x.new_empty((o, cg, kh, kw)), [False, True, False]
        rest = steps[0], list(symmetric(problem)), steps[1], False, [0, 0], a.get("groups", 1), wanted
        which = wanted.index(True)
        return lambda: torch.ops.aten.convolution_backward(t["g"], x, w, None, *rest)[which]
    if op == "conv2d_transpose":
        stride, dilation, padding = pair(a.get("stride", 1)), pair(a.get("dilation", 1)), symmetric(problem)
        w, b, groups, extra = t["w"], t.get("b"), a.get("groups", 1), pair(a.get("output_padding", 0))
        return lambda: F.conv_transpose2d(x, w, b, stride, padding, extra, groups, dilation)
    if op in ("max_pool2d", "avg_pool2d"):
        size, padding, ceil = pair(a["size"]), symmetric(problem), a.get("ceil_mode", False)
        stride = pair(a.get("stride", a["size"]))
        if op == "max_pool2d":
            dilation = pair(a.get("dilation", 1))
            return lambda: F.max_pool2d(x, size, stride, padding, dilation, ceil)
        counted = a.get("count_include_pad", True)
        return lambda: F.avg_pool2d(x, size, stride, padding, ceil, counted)
    if op == "local_response_norm":
        span = a.get("size", 5)
        alpha = a.get("alpha", 1e-4) * (span if a.get("alpha_mode", "sum") == "sum" else 1)
        return lambda: F.local_response_norm(x, span, alpha, a.get("beta", 0.75), a.get("k", 2.0))
    if op == "resize":
        mode, size = a.get("mode", "bilinear"), pair(a["size"])
        corners = a.get("align_corners", False) if mode == "bilinear" else None
        antialias = a.get("antialias", False)
        return lambda: F.interpolate(x, size, mode=mode, align_corners=corners, antialias=antialias)
    if op == "gram_matrix":
        features = x.flatten(2)  # a view in both memory formats
        return lambda: torch.bmm(features, features.mT)
    if op == "pad2d":
        (top, bottom), (left, right) = sides(a["padding"])
        mode = {"zeros": "constant", "reflect": "reflect", "replicate": "replicate", "circular": "circular"}
        kind = mode[a.get("mode", "zeros")]
        return lambda: F.pad(x, (left, right, top, bottom), kind)
    if op == "box_iou":
        return lambda: box_iou(t["a"], t["b"])
    if op == "batch_norm":
        mean, var, scale, shift, eps = t["mean"], t["var"], t["scale"], t["shift"], a.get("eps", 1e-5)
        return lambda: F.batch_norm(x, mean, var, scale, shift, False, 0.0, eps)
    simple: dict[str, Callable[[], Any]] = {
        "linear": lambda: F.linear(x, t["w"], t.get("b")),
        "global_avg_pool2d": lambda: F.adaptive_avg_pool2d(x, 1),
        "global_max_pool2d": lambda: F.adaptive_max_pool2d(x, 1),
        "relu": lambda: F.relu(x),
        "relu6": lambda: F.relu6(x),
        "leaky_relu": lambda: F.leaky_relu(x, 0.01),
        "sigmoid": lambda: torch.sigmoid(x),
        "tanh": lambda: torch.tanh(x),
        "silu": lambda: F.silu(x),
        "hard_swish": lambda: F.hardswish(x),
        "softmax": lambda: F.softmax(x, 1),
        "log_softmax": lambda: F.log_softmax(x, 1),
        "add": lambda: torch.add(x, t["y"]),
        "mul": lambda: torch.mul(x, t["y"]),
        "concat": lambda: torch.cat(t["xs"], 1),
    }
    if op not in simple:
        raise NotSupported("torch has no such operator")
    return simple[op]


def box_iou(a: Any, b: Any) -> Any:
    """As torchvision computes it."""
    import torch

    area_a = (a[:, 2] - a[:, 0]) * (a[:, 3] - a[:, 1])
    area_b = (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])
    top_left = torch.max(a[:, None, :2], b[None, :, :2])
    bottom_right = torch.min(a[:, None, 2:], b[None, :, 2:])
    inner = (bottom_right - top_left).clamp(min=0).prod(2)
    return inner / (area_a[:, None] + area_b - inner)


def convert(network: Network, image_by_image: bool = False) -> None:
    """TorchScript in channels_last; for other tools that read it, a plain file for a single image."""
    from dataclasses import replace

    import torch

    from ..networks.source import flat_graph
    from .torch_model import GraphModule

    if image_by_image:
        network = replace(network, shape=(1, *network.shape[1:]))
    x = torch.from_numpy(to_nchw(network.input()[: network.batch]))
    module: Any = GraphModule(flat_graph(network)).eval()
    if not image_by_image:
        module, x = (v.to(memory_format=torch.channels_last) for v in (module, x))
    with torch.no_grad():
        script = torch.jit.trace(module, x, check_trace=False)
    script.save(str(network.folder / ("single.pt" if image_by_image else "torch.pt")))


def load(network: Network, way: str, threads: int, x: np.ndarray) -> Candidate:
    """Plain operators as eager runs them, or frozen and rewritten by torch; always float32 throughout."""
    import torch

    torch.set_float32_matmul_precision("highest")
    script = torch.jit.load(str(network.folder / "torch.pt")).eval()
    if way == "optimized":
        script = torch.jit.optimize_for_inference(torch.jit.freeze(script))
    given = torch.from_numpy(to_nchw(x)).to(memory_format=torch.channels_last)
    return Candidate(lambda: script(given), lambda out: from_nchw(out.numpy()), torch.inference_mode)
