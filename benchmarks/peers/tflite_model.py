"""A graph of cnnfast as a .tflite file; both keep images in N,H,W,C."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from . import NotSupported

__all__ = ["build"]

SAME, VALID = schema.Padding.SAME, schema.Padding.VALID
FUSED = {
    "relu": schema.ActivationFunctionType.RELU,
    "relu6": schema.ActivationFunctionType.RELU6,
}
HOSTS = ("conv2d", "depthwise_conv2d", "linear", "add", "mul")  # that take such an activation in
UNARY = {"relu": "RELU", "relu6": "RELU6", "sigmoid": "LOGISTIC", "tanh": "TANH", "hard_swish": "HARD_SWISH"}


def build(graph: Any) -> bytes:
    """The file for a graph whose normalisations are folded and whose activations are apart."""
    return Writer(graph).file()


class Writer:
    """Collects tensors, buffers and operators."""

    def __init__(self, graph: Any) -> None:
        self.graph = graph
        self.codes: dict[str, int] = {}
        self.buffers = [schema.BufferT()]  # the first one is empty by convention
        self.tensors: list[Any] = []
        self.operators: list[Any] = []
        self.values: dict[Any, int] = {}
        self.users = graph.users()

    def file(self) -> bytes:
        import flatbuffers

        inputs = [self.tensor_of(value) for value in self.graph.inputs]
        done: set[int] = set()
        for node in self.graph.nodes:
            if id(node) not in done:
                self.write(node, done)
        part = schema.SubGraphT()
        part.tensors, part.operators = self.tensors, self.operators
        part.inputs, part.outputs = inputs, [self.values[v] for v in self.graph.outputs]
        model = schema.ModelT()
        model.version, model.description = 3, "cnnfast"
        model.operatorCodes, model.subgraphs, model.buffers = [], [part], self.buffers
        for name in self.codes:
            code = schema.OperatorCodeT()
            code.builtinCode = getattr(schema.BuiltinOperator, name)
            code.deprecatedBuiltinCode = min(code.builtinCode, 127)
            model.operatorCodes.append(code)
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())

    # ---- pieces ----

    def tensor(self, shape: Any, data: np.ndarray | None = None) -> int:
        """The number of a new tensor, of float32 unless its data are integers."""
        made = schema.TensorT()
        made.shape, made.name = list(shape), f"t{len(self.tensors)}"
        integers = data is not None and data.dtype == np.int32
        made.type = schema.TensorType.INT32 if integers else schema.TensorType.FLOAT32
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            self.buffers.append(buffer)
            made.buffer = len(self.buffers) - 1
        self.tensors.append(made)
        return len(self.tensors) - 1

    def constant(self, data: Any, kind: Any = np.float32) -> int:
        array = np.asarray(data, kind)
        return self.tensor(array.shape, array)

    def tensor_of(self, value: Any) -> int:
        if value not in self.values:
            self.values[value] = self.tensor(value.shape, value.data)
        return self.values[value]

    def emit(self, name: str, inputs: list[int], output: int, kind: str = "", **options: Any) -> int:
        """Add an operator; ``kind`` is the name of its table of options."""
        operator = schema.OperatorT()
        operator.opcodeIndex = self.codes.setdefault(name, len(self.codes))
        operator.inputs, operator.outputs = inputs, [output]
        if kind:
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
            operator.builtinOptions = getattr(schema, f"{kind}T")()
            for key, value in options.items():
                setattr(operator.builtinOptions, key, value)
        self.operators.append(operator)
        return output

    def activation(self, node: Any, done: set[int]) -> tuple[int, Any]:
        """The activation that the only reader of a node is, and the value that comes out then."""
        readers = self.users.get(node.output, [])
        if len(readers) == 1 and readers[0].op.name in FUSED and node.output not in self.graph.outputs:
            done.add(id(readers[0]))
            return FUSED[readers[0].op.name], readers[0].output
        return schema.ActivationFunctionType.NONE, node.output

    def window(self, x: int, s: Any, kernel: Any, fill: float = 0.0) -> tuple[int, dict[str, int]]:
        """x, padded before where the format's own two ways of padding do not fit, and the options."""
        options = {"strideH": s.stride[0], "strideW": s.stride[1]}
        spans = [(k - 1) * d + 1 for k, d in zip(kernel, s.dilation, strict=True)]
        # What the windows reach; the padding asked for may end behind it or, rounded up, before.
        needed = [
            (p[0], (s.out[1 + a] - 1) * s.stride[a] + spans[a] - s.x[1 + a] - p[0])
            for a, p in enumerate(s.pads)
        ]
        needed = [(before, max(0, after)) for before, after in needed]
        if not any(map(any, needed)):
            return x, {**options, "padding": VALID}
        same = []
        for a in (0, 1):
            total = (math.ceil(s.x[1 + a] / s.stride[a]) - 1) * s.stride[a] + spans[a] - s.x[1 + a]
            same.append((max(0, total) // 2, max(0, total) - max(0, total) // 2))
        if same == needed and all(s.out[1 + a] == -(-s.x[1 + a] // s.stride[a]) for a in (0, 1)):
            return x, {**options, "padding": SAME}
        n, h, w, c = s.x
        (top, bottom), (left, right) = needed
        output = self.tensor((n, h + top + bottom, w + left + right, c))
        pads = self.constant([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32)
        if fill:
            self.emit("PADV2", [x, pads, self.constant([fill])], output, "PadV2Options")
        else:
            self.emit("PAD", [x, pads], output, "PadOptions")
        return output, {**options, "padding": VALID}

    # ---- operators ----

    def write(self, node: Any, done: set[int]) -> None:
        s, op = node.spec, node.op.name
        x = self.tensor_of(node.inputs[0])
        fused, value = self.activation(node, done) if op in HOSTS else (0, node.output)
        out = self.values[value] = self.tensor(value.shape)
        act = {"fusedActivationFunction": fused}
        if op in ("conv2d", "depthwise_conv2d"):
            deep = op == "depthwise_conv2d"
            kh, kw, *_ = s.w
            source, options = self.window(x, s, (kh, kw))
            options |= {"dilationHFactor": s.dilation[0], "dilationWFactor": s.dilation[1], **act}
            data = node.inputs[1].data
            if deep:
                w = self.constant(data.reshape(1, kh, kw, -1))
                name, kind = "DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions"
                options["depthMultiplier"] = data.shape[3]
            else:
                w = self.constant(data.transpose(3, 0, 1, 2))
                name, kind = "CONV_2D", "Conv2DOptions"
            self.emit(name, [source, w, self.bias(node, s.out[3])], out, kind, **options)
        elif op == "conv2d_transpose":
            if any(map(any, s.pads)) or s.groups != 1 or s.dilation != (1, 1):
                raise NotSupported("transpose convolution with padding, groups or dilation")
            shape = self.constant(s.out, np.int32)
            w = self.constant(node.inputs[1].data.transpose(2, 0, 1, 3))
            steps = {"strideH": s.stride[0], "strideW": s.stride[1], "padding": VALID}
            inputs = [shape, w, x, self.bias(node, s.out[3])]
            self.emit("TRANSPOSE_CONV", inputs, out, "TransposeConvOptions", **steps)
        elif op == "linear":
            w = self.constant(node.inputs[1].data.T)
            inputs = [x, w, self.bias(node, s.out[-1])]
            self.emit("FULLY_CONNECTED", inputs, out, "FullyConnectedOptions", **act)
        elif op in ("max_pool2d", "avg_pool2d"):
            self.pool(node, x, out)
        elif op == "global_avg_pool2d":
            axes = self.constant([1, 2], np.int32)
            self.emit("MEAN", [x, axes], out, "ReducerOptions", keepDims=True)
        elif op == "local_response_norm":
            options = {"radius": s.before, "bias": s.k, "alpha": s.alpha, "beta": s.beta}
            self.emit(
                "LOCAL_RESPONSE_NORMALIZATION", [x], out, "LocalResponseNormalizationOptions", **options
            )
        elif op in ("add", "mul"):
            inputs = [x, self.tensor_of(node.inputs[1])]
            self.emit(op.upper(), inputs, out, f"{op.title()}Options", **act)
        elif op == "concat":
            inputs = [self.tensor_of(v) for v in node.inputs]
            self.emit("CONCATENATION", inputs, out, "ConcatenationOptions", axis=s.axis)
        elif op == "reshape":
            shape = self.constant(s.out, np.int32)
            self.emit("RESHAPE", [x, shape], out, "ReshapeOptions", newShape=list(s.out))
        elif op == "silu":
            gate = self.emit("LOGISTIC", [x], self.tensor(s.out))
            self.emit("MUL", [x, gate], out, "MulOptions")
        elif op == "leaky_relu":
            self.emit("LEAKY_RELU", [x], out, "LeakyReluOptions", alpha=s.slope)
        elif op == "softmax" and s.axis == len(s.out) - 1:
            self.emit("SOFTMAX", [x], out, "SoftmaxOptions", beta=1.0)
        elif op in UNARY:
            self.emit(UNARY[op], [x], out)
        else:
            raise NotSupported(f"{op} is not written for this format here")

    def bias(self, node: Any, channels: int) -> int:
        value = node.inputs[3] if len(node.inputs) > 3 else None
        return self.constant(np.zeros(channels)) if value is None else self.tensor_of(value)

    def pool(self, node: Any, x: int, out: int) -> None:
        s, most = node.spec, node.op.name == "max_pool2d"
        if s.dilation != (1, 1):
            raise NotSupported("pooling with dilation")
        # Behind a ReLU zeros are as good as the least number, and a padding that more kernels take.
        origin = self.graph.producers().get(node.inputs[0])
        positive = origin is not None and origin.op.name in ("relu", "relu6")
        source, options = self.window(x, s, s.size, 0.0 if positive else -float(np.finfo(np.float32).max))
        if not most and (source != x or options["padding"] == SAME):
            raise NotSupported("average pooling with padding")
        sizes = {"filterHeight": s.size[0], "filterWidth": s.size[1]}
        self.emit(
            "MAX_POOL_2D" if most else "AVERAGE_POOL_2D", [source], out, "Pool2DOptions", **sizes, **options
        )
