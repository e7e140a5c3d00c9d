"""A problem as an ONNX model of one node (two where ONNX has no single one), NCHW, weights inside."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays import Operands
from ..problems import Problem, pair, sides
from . import NotSupported, to_nchw
from .torch_peer import weight_for_nchw

__all__ = ["build", "feeds", "result"]

OPSET, IR = 18, 9
INPUTS = ("x", "y", "xs", "boxes", "scores")  # what is fed in each run; the rest are constants of the model

SIMPLE: dict[str, tuple[str, dict[str, Any]]] = {
    "global_avg_pool2d": ("GlobalAveragePool", {}),
    "global_max_pool2d": ("GlobalMaxPool", {}),
    "relu": ("Relu", {}),
    "leaky_relu": ("LeakyRelu", {"alpha": 0.01}),
    "sigmoid": ("Sigmoid", {}),
    "tanh": ("Tanh", {}),
    "hard_swish": ("HardSwish", {}),
    "softmax": ("Softmax", {"axis": 1}),
    "log_softmax": ("LogSoftmax", {"axis": 1}),
    "add": ("Add", {}),
    "mul": ("Mul", {}),
    "concat": ("Concat", {"axis": 1}),
}


def feeds(problem: Problem, operands: Operands) -> dict[str, np.ndarray]:
    """What goes into each run, by the name of the model's input."""
    if problem.op == "nms":
        boxes, scores = operands["boxes"], operands["scores"]
        return {"boxes": boxes[None], "scores": scores[None, None]}
    if problem.op == "gram_matrix":
        n, h, w, c = operands["x"].shape
        return {"x": to_nchw(operands["x"]).reshape(n, c, h * w)}
    fed: dict[str, np.ndarray] = {}
    for name in INPUTS:
        value = operands.get(name, [])
        if isinstance(value, list):
            fed |= {f"{name}{i}": to_nchw(v) for i, v in enumerate(value)}
        else:
            fed[name] = to_nchw(value)
    return fed


def result(problem: Problem, output: Any) -> np.ndarray:
    """A runtime's output as cnnfast gives it."""
    array = np.asarray(output)
    if problem.op == "nms":
        # OpenVINO keeps the size static and ends the list with rows of -1.
        return array[array[:, 2] >= 0][:, 2].astype(np.int64)
    return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array


def build(problem: Problem, operands: Operands) -> bytes:
    """The serialised model."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    fed = feeds(problem, operands)
    constants: dict[str, np.ndarray] = {}
    nodes = graph(problem, operands, list(fed), constants)
    kind = TensorProto.INT64 if problem.op == "nms" else TensorProto.FLOAT
    rank = 2 if problem.op == "nms" else next(iter(fed.values())).ndim
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node(op, ins, outs, **attrs) for op, ins, outs, attrs in nodes],
            problem.op,
            [helper.make_tensor_value_info(k, TensorProto.FLOAT, v.shape) for k, v in fed.items()],
            [helper.make_tensor_value_info("out", kind, [f"d{i}" for i in range(rank)])],
            [numpy_helper.from_array(np.ascontiguousarray(v), k) for k, v in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR,
    )
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def onnx_pads(problem: Problem) -> list[int]:
    (top, bottom), (left, right) = sides(problem.attrs.get("padding", 0))
    return [top, left, bottom, right]


Node = tuple[str, list[str], list[str], dict[str, Any]]  # operator, inputs, outputs, attributes


def graph(
    problem: Problem, operands: Operands, fed: list[str], constants: dict[str, np.ndarray]
) -> list[Node]:
    """The nodes of the model; fills in the constants."""
    a, op = problem.attrs, problem.op
    if op in SIMPLE:
        name, attrs = SIMPLE[op]
        return [(name, fed, ["out"], attrs)]

    def window() -> dict[str, Any]:
        stride = a.get("stride", a.get("size", 1))
        return {"strides": pair(stride), "pads": onnx_pads(problem)}

    if op in ("conv2d", "depthwise_conv2d", "conv2d_transpose"):
        constants["w"] = weight_for_nchw(problem, operands["w"])
        inputs = ["x", "w"]
        if problem.bias:
            constants["b"] = operands["b"]
            inputs.append("b")
        groups = problem.shapes["x"][3] if op == "depthwise_conv2d" else a.get("groups", 1)
        attrs = {**window(), "dilations": pair(a.get("dilation", 1)), "group": groups}
        attrs["kernel_shape"] = problem.shapes["w"][:2]
        if op == "conv2d_transpose":
            attrs["output_padding"] = pair(a.get("output_padding", 0))
            return [("ConvTranspose", inputs, ["out"], attrs)]
        if a.get("activation") == "relu":
            return [("Conv", inputs, ["sum"], attrs), ("Relu", ["sum"], ["out"], {})]
        if a.get("activation"):
            raise NotSupported(f"no fused {a['activation']}")
        return [("Conv", inputs, ["out"], attrs)]
    if op in ("max_pool2d", "avg_pool2d"):
        attrs = {**window(), "kernel_shape": pair(a["size"]), "ceil_mode": int(a.get("ceil_mode", False))}
        if op == "max_pool2d":
            return [("MaxPool", ["x"], ["out"], {**attrs, "dilations": pair(a.get("dilation", 1))})]
        attrs["count_include_pad"] = int(a.get("count_include_pad", True))
        return [("AveragePool", ["x"], ["out"], attrs)]
    if op == "linear":
        constants["w"] = operands["w"]
        constants["b"] = operands.get("b", np.zeros(operands["w"].shape[1], operands["w"].dtype))
        return [("Gemm", ["x", "w", "b"], ["out"], {})]
    if op == "gram_matrix":
        return [("Transpose", ["x"], ["t"], {"perm": [0, 2, 1]}), ("MatMul", ["x", "t"], ["out"], {})]
    if op == "batch_norm":
        constants |= {key: operands[key] for key in ("scale", "shift", "mean", "var")}
        attrs = {"epsilon": a.get("eps", 1e-5)}
        return [("BatchNormalization", ["x", "scale", "shift", "mean", "var"], ["out"], attrs)]
    if op == "local_response_norm":
        size = a.get("size", 5)
        alpha = a.get("alpha", 1e-4) * (size if a.get("alpha_mode", "sum") == "sum" else 1)
        attrs = {"size": size, "alpha": alpha, "beta": a.get("beta", 0.75), "bias": a.get("k", 2.0)}
        return [("LRN", ["x"], ["out"], attrs)]
    if op == "silu":
        return [("Sigmoid", ["x"], ["s"], {}), ("Mul", ["x", "s"], ["out"], {})]
    if op == "relu6":
        constants |= {"low": np.array(0, np.float32), "high": np.array(6, np.float32)}
        return [("Clip", ["x", "low", "high"], ["out"], {})]
    if op == "pad2d":
        mode = {"zeros": "constant", "reflect": "reflect", "replicate": "edge"}.get(a.get("mode", "zeros"))
        if mode is None:
            raise NotSupported(f"no {a['mode']} padding in opset {OPSET}")
        top, left, bottom, right = onnx_pads(problem)
        constants["pads"] = np.array([0, 0, top, left, 0, 0, bottom, right], np.int64)
        return [("Pad", ["x", "pads"], ["out"], {"mode": mode})]
    if op == "resize":
        n, h, w, c = problem.out or ()
        constants["sizes"] = np.array([n, c, h, w], np.int64)
        linear = a.get("mode", "bilinear") == "bilinear"
        antialias = int(a.get("antialias", False))
        # Pillow's antialias leaves out what lies outside of the image; so must the node.
        attrs = {"mode": "linear" if linear else "nearest", "antialias": antialias}
        attrs["exclude_outside"] = antialias
        place = "half_pixel" if linear else "asymmetric"
        attrs["coordinate_transformation_mode"] = "align_corners" if a.get("align_corners") else place
        if not linear:
            attrs["nearest_mode"] = "floor"
        return [("Resize", ["x", "", "", "sizes"], ["out"], attrs)]
    if op == "nms":
        constants["most"] = np.array([problem.shapes["boxes"][0]], np.int64)
        constants["iou"] = np.array([a["iou_threshold"]], np.float32)
        return [("NonMaxSuppression", ["boxes", "scores", "most", "iou"], ["out"], {})]
    raise NotSupported("ONNX has no such operator")
