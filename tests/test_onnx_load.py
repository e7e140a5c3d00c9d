"""Networks out of ONNX files: each operator against ONNX Runtime, and real networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import cnnfast as cf
from cnnfast import graph
from onnx_models import PICTURE, close, values, whole

models = pytest.importorskip("onnx_models")
onnx, node = models.onnx, models.node
F32 = np.float32


class Case(NamedTuple):
    nodes: list[Any]
    x: dict[str, np.ndarray]
    tensors: dict[str, np.ndarray]
    opset: int = 17
    outputs: tuple[str, ...] = ("y",)
    traced: bool = True


CASES: dict[str, Case] = {}


def case(name: str, op: Any, *shapes: Any, opset: int = 17, tensors: Any = None, **kw: Any) -> None:
    """Register a case: an operator's name or nodes; shapes or arrays of inputs a, b, ..."""
    attributes = {k: v for k, v in kw.items() if k not in Case._fields}
    rest = {k: v for k, v in kw.items() if k in Case._fields}
    x = {chr(97 + i): values(*s, seed=i) if isinstance(s, tuple) else s for i, s in enumerate(shapes)}
    tensors = tensors or {}
    nodes = (
        op
        if isinstance(op, list)
        else [node(op, [*x, *tensors], list(rest.get("outputs", ("y",))), **attributes)]
    )
    CASES[f"{name}-{opset}"] = Case(nodes, x, tensors, opset, **rest)


# --- layers ----------------------------------------------------------------------------------------

for opset in (7, 11, 17, 21):
    case(
        "conv",
        "Conv",
        PICTURE,
        tensors={"w": values(4, 6, 3, 3), "b": values(4)},
        opset=opset,
        pads=[1, 0, 2, 1],
        strides=[2, 1],
        kernel_shape=[3, 3],
    )
case("conv groups", "Conv", PICTURE, tensors={"w": values(4, 3, 3, 2)}, group=2, dilations=[2, 3])
case(
    "conv depthwise",
    "Conv",
    PICTURE,
    tensors={"w": values(12, 1, 3, 3), "b": values(12)},
    group=6,
    pads=[1] * 4,
)
case(
    "conv same upper",
    "Conv",
    PICTURE,
    tensors={"w": values(4, 6, 4, 4)},
    auto_pad="SAME_UPPER",
    strides=[2, 3],
)
case(
    "conv same lower",
    "Conv",
    PICTURE,
    tensors={"w": values(4, 6, 4, 4)},
    auto_pad="SAME_LOWER",
    strides=[2, 3],
)
case("conv valid", "Conv", PICTURE, tensors={"w": values(4, 6, 4, 4)}, auto_pad="VALID")
case("conv weight given", "Conv", PICTURE, (4, 6, 3, 3))
case(
    "transpose conv",
    "ConvTranspose",
    PICTURE,
    tensors={"w": values(6, 4, 3, 2), "b": values(4)},
    strides=[2, 3],
    pads=[1, 0, 0, 1],
    output_padding=[1, 0],
)
case(
    "transpose conv groups",
    "ConvTranspose",
    PICTURE,
    tensors={"w": values(6, 2, 3, 3)},
    group=3,
    dilations=[2, 1],
)
case(
    "transpose conv same",
    "ConvTranspose",
    PICTURE,
    tensors={"w": values(6, 4, 3, 3)},
    strides=[2, 2],
    auto_pad="SAME_UPPER",
)
case(
    "transpose conv size",
    "ConvTranspose",
    PICTURE,
    tensors={"w": values(6, 4, 3, 3)},
    strides=[2, 2],
    output_shape=[18, 14],
)
case("gemm", "Gemm", (3, 5), tensors={"w": values(7, 5), "c": values(7)}, transB=1)
case(
    "gemm scaled",
    "Gemm",
    (5, 3),
    tensors={"w": values(5, 7), "c": values(3, 1)},
    transA=1,
    alpha=0.5,
    beta=2.0,
)
case("gemm without bias", "Gemm", (3, 5), tensors={"w": values(5, 7)}, alpha=0.5)
case("gemm given", "Gemm", (3, 5), (7, 5), transB=1)
case("matmul", "MatMul", (2, 3, 5), tensors={"w": values(5, 7)})
case("matmul stacks", "MatMul", (2, 1, 3, 5), (4, 5, 2))
case("matmul vectors", "MatMul", (5,), (4, 5, 2))
case("matmul vector right", "MatMul", (4, 2, 5), (5,))
case("einsum", "Einsum", (2, 3, 5), (2, 4, 5), equation="bij,bkj->bki")
case("einsum without an arrow", "Einsum", (3, 5), (5, 4), equation="kb, ba")
case("einsum inner", "Einsum", (5,), (5,), equation="i,i")
case("einsum outer", "Einsum", (3,), (4,), equation="i,j->ij")
case(
    "batch norm",
    "BatchNormalization",
    PICTURE,
    epsilon=1e-3,
    tensors={"s": values(6), "b": values(6), "m": values(6), "v": values(6) ** 2},
)
case(
    "batch norm flat",
    "BatchNormalization",
    (4, 6),
    tensors={"s": values(6), "b": values(6), "m": values(6), "v": values(6) ** 2 + 1},
)
case(
    "batch norm line",
    "BatchNormalization",
    (4, 6, 5),
    opset=9,
    tensors={"s": values(6), "b": values(6), "m": values(6), "v": values(6) ** 2 + 1},
)
case(
    "instance norm", "InstanceNormalization", PICTURE, tensors={"s": values(6), "b": values(6)}, epsilon=1e-3
)
case("lrn", "LRN", PICTURE, size=3, alpha=0.3, beta=0.6, bias=1.5)
for ceil in (0, 1):
    case(
        f"max pool {ceil}",
        "MaxPool",
        PICTURE,
        kernel_shape=[3, 2],
        strides=[2, 2],
        pads=[1, 0, 1, 1],
        ceil_mode=ceil,
    )
    case(
        f"max pool wide pads {ceil}",
        "MaxPool",
        PICTURE,
        kernel_shape=[3, 3],
        strides=[2, 3],
        pads=[2, 0, 1, 2],
        ceil_mode=ceil,
    )
    case(
        f"average pool {ceil}",
        "AveragePool",
        PICTURE,
        kernel_shape=[3, 2],
        strides=[2, 2],
        pads=[1, 0, 1, 1],
        ceil_mode=ceil,
        opset=19,
    )
    case(
        f"average pool with pads {ceil}",
        "AveragePool",
        PICTURE,
        kernel_shape=[3, 3],
        strides=[2, 2],
        pads=[1] * 4,
        count_include_pad=1,
        ceil_mode=ceil,
        opset=19,
    )
case("max pool stride", "MaxPool", PICTURE, kernel_shape=[3, 3], opset=7)
case("max pool dilated", "MaxPool", PICTURE, kernel_shape=[2, 3], dilations=[3, 2])
case("max pool same", "MaxPool", PICTURE, kernel_shape=[2, 3], strides=[2, 2], auto_pad="SAME_LOWER")
case("average pool same", "AveragePool", PICTURE, kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER")
case("average pool wide pads", "AveragePool", PICTURE, kernel_shape=[3, 3], pads=[2] * 4, count_include_pad=1)
for ceil in (0, 1):
    for include in (0, 1):
        case(
            f"average pool wide pads {ceil} {include}",
            "AveragePool",
            PICTURE,
            kernel_shape=[3, 4],
            pads=[2, 1, 2, 3],
            strides=[2, 3],
            ceil_mode=ceil,
            count_include_pad=include,
            opset=19,
        )
        case(
            f"average pool dilated {ceil} {include}",
            "AveragePool",
            PICTURE,
            kernel_shape=[3, 2],
            pads=[1, 1, 2, 0],
            strides=[2, 2],
            dilations=[2, 3],
            ceil_mode=ceil,
            count_include_pad=include,
            opset=19,
        )
case("global average", "GlobalAveragePool", PICTURE)
case("global average line", "GlobalAveragePool", (2, 6, 5))
case("global max", "GlobalMaxPool", PICTURE)
case("depth to space", "DepthToSpace", (2, 8, 3, 5), blocksize=2)
case("depth to space crd", "DepthToSpace", (2, 8, 3, 5), blocksize=2, mode="CRD", opset=11)
case("space to depth", "SpaceToDepth", (2, 3, 4, 6), blocksize=2)
BOXES = np.array([[0.5, 0.5, 5.2, 6.1], [1, 2, 6.5, 8], [0, 0, 3, 3]], F32)
case(
    "roi align",
    "RoiAlign",
    PICTURE,
    BOXES,
    whole(0, 1, 1),
    output_height=3,
    output_width=2,
    sampling_ratio=2,
    opset=16,
    traced=False,
)
case(
    "roi align old",
    "RoiAlign",
    PICTURE,
    BOXES,
    whole(0, 1, 1),
    output_height=3,
    output_width=2,
    opset=10,
    spatial_scale=0.5,
    traced=False,
)
case(
    "max roi pool",
    "MaxRoiPool",
    PICTURE,
    np.concatenate([[[0], [1], [1]], np.round(BOXES)], 1).astype(F32),
    pooled_shape=[2, 3],
)

# --- element by element ----------------------------------------------------------------------------

for op in (
    "Relu",
    "Sigmoid",
    "Tanh",
    "Neg",
    "Abs",
    "Exp",
    "Reciprocal",
    "Floor",
    "Ceil",
    "Erf",
    "Elu",
    "LeakyRelu",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "Softmax",
    "LogSoftmax",
    "Dropout",
):
    case(op, op, PICTURE)
for op in ("Sqrt", "Log"):
    case(op, op, np.abs(values(*PICTURE)))
for op in ("Softmax", "LogSoftmax"):
    case(f"{op} old", op, PICTURE, opset=11)
    case(f"{op} old flat", op, (3, 5), opset=7)
    case(f"{op} channels", op, PICTURE, axis=1)
    case(f"{op} old rows", op, PICTURE, axis=3, opset=9)
case("leaky relu slope", "LeakyRelu", PICTURE, alpha=0.3)
case("elu alpha", "Elu", PICTURE, alpha=0.3)
case("hard sigmoid alpha", "HardSigmoid", PICTURE, alpha=0.3, beta=0.4)
case("clip old", "Clip", PICTURE, min=-0.5, max=0.7, opset=6 + 1)
case("clip", "Clip", PICTURE, tensors={"l": np.array(-0.5, F32), "h": np.array(0.7, F32)})
case("clip relu6", "Clip", PICTURE, tensors={"l": np.array(0, F32), "h": np.array(6, F32)})
case("clip from", [node("Clip", ["a", "l"], ["y"])], PICTURE, tensors={"l": np.array(0.2, F32)})
case("clip to", [node("Clip", ["a", "", "h"], ["y"])], PICTURE, tensors={"h": np.array(0.2, F32)})
case("prelu", "PRelu", PICTURE, tensors={"s": values(6, 1, 1)})
case("prelu one", "PRelu", PICTURE, tensors={"s": values(1)})
for op in ("Add", "Sub", "Mul", "Div"):
    for name, other in (
        ("same", PICTURE),
        ("channel", (6, 1, 1)),
        ("row", (7,)),
        ("one", (1,)),
        ("five", (3, 1, 1, 1, 7)),
    ):
        case(f"{op} {name}", op, PICTURE, tensors={"b": values(*other)})
    case(f"{op} given", op, PICTURE, (1, 6, 1, 1))
    case(f"{op} plain", op, (3, 4), (4,))
case("pow", "Pow", np.abs(values(*PICTURE)), tensors={"p": np.array([1.7], F32)})
case("pow of whole numbers", "Pow", whole(1, 2, 3), tensors={"p": np.array([1.5], F32)}, traced=False)
case("pow square", "Pow", PICTURE, tensors={"p": np.array(2, F32)})
case("pow whole", "Pow", PICTURE, tensors={"p": np.array(3, np.int64)})
for op in ("Sum", "Mean", "Max", "Min"):
    case(op, op, PICTURE, (1, 6, 1, 1), PICTURE)
    case(f"{op} single", op, PICTURE)
for op in ("Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual"):
    rounded = np.round(values(*PICTURE))
    case(op, op, rounded, tensors={"b": np.round(values(6, 1, 1))}, opset=13 if op[-3:] != "ual" else 16)
case(
    "where",
    [node("Greater", ["a", "b"], ["c"]), node("Not", ["c"], ["d"]), node("Where", ["d", "a", "b"], ["y"])],
    PICTURE,
    (6, 1, 1),
)
case(
    "and or",
    [
        node("Greater", ["a", "b"], ["c"]),
        node("Less", ["a", "z"], ["d"]),
        node("And", ["c", "d"], ["e"]),
        node("Or", ["e", "d"], ["y"]),
    ],
    PICTURE,
    PICTURE,
    tensors={"z": np.array(1, F32)},
)
case("silu", [node("Sigmoid", ["a"], ["s"]), node("Mul", ["a", "s"], ["y"])], PICTURE)
case("gate", [node("Sigmoid", ["a"], ["s"]), node("Mul", ["b", "s"], ["y"])], PICTURE, PICTURE)
case(
    "hard swish",
    [node("HardSigmoid", ["a"], ["s"], alpha=1 / 6, beta=0.5), node("Mul", ["s", "a"], ["y"])],
    PICTURE,
)
case("cast", [node("Cast", ["a"], ["c"], to=7), node("Cast", ["c"], ["y"], to=1)], PICTURE)
case(
    "half",
    [node("Cast", ["w"], ["v"], to=1), node("Mul", ["a", "v"], ["y"])],
    PICTURE,
    tensors={"w": values(6, 1, 1).astype(np.float16)},
)

# --- shapes ----------------------------------------------------------------------------------------

case("concat", "Concat", PICTURE, PICTURE, axis=1)
case("concat rows", "Concat", PICTURE, PICTURE, axis=-2)
case("concat old", "Concat", (2, 3), (2, 5), axis=1, opset=7)
case("split old", "Split", PICTURE, axis=1, split=[2, 4], opset=11, outputs=("y", "z"))
case("split even", "Split", PICTURE, axis=1, opset=11, outputs=("y", "z"))
case("split", "Split", PICTURE, axis=2, tensors={"s": whole(4, 5)}, outputs=("y", "z"), opset=13)
case("split count", "Split", PICTURE, axis=3, num_outputs=2, outputs=("y", "z"), opset=18)
case("slice old", "Slice", PICTURE, starts=[1, 2], ends=[5, 1000], axes=[1, 2], opset=9)
case(
    "slice",
    "Slice",
    PICTURE,
    tensors={"s": whole(0, 1), "e": whole(-1, 1 << 40), "x": whole(2, -1), "t": whole(2, 3)},
)
case(
    "slice backwards",
    "Slice",
    PICTURE,
    tensors={"s": whole(-1, 4), "e": whole(-(1 << 40), 1), "x": whole(1, 2), "t": whole(-1, -2)},
)
for mode in ("constant", "reflect", "edge"):
    case(f"pad old {mode}", "Pad", PICTURE, pads=[0, 0, 1, 2, 0, 0, 3, 0], mode=mode, opset=10)
    case(f"pad channels {mode}", "Pad", PICTURE, tensors={"p": whole(0, 2, 1, 0, 1, 1, 0, 3)}, mode=mode)
case(
    "pad value",
    "Pad",
    PICTURE,
    tensors={"p": whole(0, 2, 1, 0, 0, 1, 0, 3), "v": np.array(1.5, F32)},
    opset=13,
)
case("pad cut", "Pad", PICTURE, tensors={"p": whole(0, -1, -2, 1, 0, 0, 0, -3)}, opset=13)
case(
    "pad axes",
    [node("Pad", ["a", "p", "", "x"], ["y"])],
    PICTURE,
    tensors={"p": whole(1, 2, 3, 4), "x": whole(-1, 2)},
    opset=18,
)
for sizes in ((2, -1), (0, 0, -1), (2, 3, 2, 9, 7), (2, 6, 63), (2, 9, 6, 7), (12, 9, 7, 1), (1, 2, 6, 9, 7)):
    case(f"reshape {sizes}", "Reshape", PICTURE, tensors={"s": whole(*sizes)})
case(
    "shuffle",
    [
        node("Reshape", ["a", "s"], ["b"]),
        node("Transpose", ["b"], ["c"], perm=[0, 2, 1, 3, 4]),
        node("Reshape", ["c", "t"], ["y"]),
    ],
    PICTURE,
    tensors={"s": whole(2, 3, 2, 9, 7), "t": whole(2, 6, 9, 7)},
)
for axis in (0, 1, 2, -1, 4):
    case(f"flatten {axis}", "Flatten", PICTURE, axis=axis, opset=11)
case("flatten pooled", [node("GlobalAveragePool", ["a"], ["b"]), node("Flatten", ["b"], ["y"])], PICTURE)
for perm in ([0, 2, 3, 1], [0, 3, 1, 2], [1, 0, 2, 3], [3, 2, 1, 0]):
    case(f"transpose {perm}", "Transpose", PICTURE, perm=perm)
case("transpose all", "Transpose", (2, 3, 4))
case(
    "heads",
    [
        node("Conv", ["a", "w"], ["b"]),
        node("Reshape", ["b", "s"], ["c"]),
        node("Transpose", ["c"], ["y"], perm=[0, 1, 3, 4, 2]),
    ],
    PICTURE,
    tensors={"w": values(6, 6, 1, 1), "s": whole(2, 2, 3, 9, 7)},
)
case("squeeze old", "Squeeze", (2, 1, 3, 1), axes=[1], opset=11)
case("squeeze", "Squeeze", (2, 1, 3, 1), tensors={"x": whole(-1, 1)}, opset=13)
case("squeeze all", "Squeeze", (2, 1, 3, 1))
case(
    "squeeze pooled",
    [node("GlobalMaxPool", ["a"], ["b"]), node("Squeeze", ["b"], ["y"], axes=[2, 3])],
    PICTURE,
    opset=11,
)
case("unsqueeze old", "Unsqueeze", (2, 3), axes=[0, 3], opset=11)
case("unsqueeze", "Unsqueeze", PICTURE, tensors={"x": whole(-1, 2)})
case("gather", "Gather", PICTURE, tensors={"i": whole(3, 0, -1)}, axis=1)
case("gather one", "Gather", PICTURE, tensors={"i": np.array(2)}, axis=2)
case("gather grid", "Gather", PICTURE, tensors={"i": np.array([[1, 0], [3, 3]])}, axis=3)
case("expand", "Expand", (2, 6, 1, 7), tensors={"s": whole(2, 1, 9, 1)})
case("expand rank", "Expand", PICTURE, tensors={"s": whole(3, 1, 1, 1, 1)})
case("tile", "Tile", PICTURE, tensors={"r": whole(1, 2, 1, 3)})
case(
    "sizes",
    [
        node("Shape", ["a"], ["s"]),
        node("Gather", ["s", "i"], ["n"], axis=0),
        node("Unsqueeze", ["n"], ["u"], axes=[0]),
        node("Concat", ["u", "m"], ["t"], axis=0),
        node("Reshape", ["a", "t"], ["y"]),
    ],
    PICTURE,
    tensors={"i": np.array(0), "m": whole(-1)},
    opset=11,
)
case(
    "size arithmetic",
    [
        node("Shape", ["a"], ["s"], start=2, end=4),
        node("Cast", ["s"], ["f"], to=1),
        node("Mul", ["f", "k"], ["g"]),
        node("Floor", ["g"], ["h"]),
        node("Cast", ["h"], ["i"], to=7),
        node("Slice", ["s0", "z", "t"], ["c"]),
        node("Concat", ["c", "i"], ["j"], axis=0),
        node("Resize", ["a", "", "", "j"], ["y"], mode="nearest"),
    ],
    PICTURE,
    tensors={"k": np.array([2, 3], F32), "s0": whole(2, 6), "z": whole(0), "t": whole(2)},
    opset=15,
)
case(
    "constants",
    [
        node("Constant", [], ["c"], value=onnx.numpy_helper.from_array(whole(6, 1, 1))),
        node("ConstantOfShape", ["c"], ["d"], value=onnx.numpy_helper.from_array(np.array([2.5], F32))),
        node("Add", ["a", "d"], ["e"]),
        node("Constant", [], ["f"], value_float=3.0),
        node("Mul", ["e", "f"], ["g"]),
        node("Range", ["z", "n", "o"], ["r"]),
        node("Cast", ["r"], ["q"], to=1),
        node("Add", ["g", "q"], ["y"]),
    ],
    PICTURE,
    tensors={"z": np.array(0), "n": np.array(7), "o": np.array(1)},
    opset=13,
)
case(
    "divided sizes",
    [
        node("Shape", ["a"], ["s"]),
        node("Div", ["s", "d"], ["t"]),
        node("Mul", ["t", "d"], ["u"]),
        node("Sub", ["s", "u"], ["v"]),
        node("Cast", ["v"], ["y"], to=1),
    ],
    PICTURE,
    tensors={"d": whole(4)},
    traced=False,
)

# --- reductions and resizing -----------------------------------------------------------------------

for op in ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceSum"):
    old = 11
    case(f"{op} pixels", op, PICTURE, axes=[2, 3], opset=old)
    case(f"{op} pixels gone", op, PICTURE, axes=[2, 3], keepdims=0, opset=old)
    case(f"{op} channels", op, PICTURE, axes=[1], keepdims=0, opset=old)
    case(f"{op} all", op, PICTURE, opset=old)
    case(f"{op} given", op, PICTURE, tensors={"x": whole(-1)}, opset=18)
case("reduce nothing", "ReduceSum", PICTURE, tensors={"x": whole()}, noop_with_empty_axes=1, opset=18)
for axis in (0, 1, 3):
    case(f"argmax {axis}", "ArgMax", np.round(values(*PICTURE)), axis=axis, keepdims=axis == 1)
case("argmax last", "ArgMax", np.round(values(*PICTURE)), axis=1, select_last_index=1)
case("topk", "TopK", PICTURE, tensors={"k": whole(3)}, axis=1, outputs=("y", "z"))
case("topk smallest", "TopK", (4, 9), tensors={"k": whole(3)}, largest=0, outputs=("y", "z"))
case("topk old", "TopK", (4, 9), k=2, opset=9, outputs=("y", "z"))
case("upsample", "Upsample", PICTURE, tensors={"s": np.array([1, 1, 2, 3], F32)}, opset=9)
case("upsample old", "Upsample", PICTURE, scales=[1.0, 1.0, 2.0, 2.0], mode="nearest", opset=7)
case(
    "upsample linear", "Upsample", PICTURE, tensors={"s": np.array([1, 1, 2, 2], F32)}, mode="linear", opset=9
)
case("resize 10", "Resize", PICTURE, tensors={"s": np.array([1, 1, 2, 0.5], F32)}, opset=10)
for place in ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"):
    for sizes in ((2, 6, 18, 14), (2, 6, 5, 11), (2, 6, 1, 3)):
        for mode in ("nearest", "linear", "cubic"):
            case(
                f"resize {place} {mode} {sizes}",
                [node("Resize", ["a", "", "", "s"], ["y"], mode=mode, coordinate_transformation_mode=place)],
                PICTURE,
                tensors={"s": whole(*sizes)},
                opset=13,
            )
for nearest in ("floor", "ceil", "round_prefer_ceil", "round_prefer_floor"):
    case(
        f"resize {nearest}",
        [
            node(
                "Resize",
                ["a", "", "s"],
                ["y"],
                nearest_mode=nearest,
                coordinate_transformation_mode="asymmetric",
            )
        ],
        PICTURE,
        tensors={"s": np.array([1, 1, 1.5, 0.7], F32)},
        opset=13,
    )
case(
    "resize scales",
    [node("Resize", ["a", "", "s"], ["y"], mode="linear")],
    PICTURE,
    tensors={"s": np.array([1, 1, 1.5, 2.3], F32)},
    opset=13,
)
case(
    "resize axes",
    [node("Resize", ["a", "", "", "s"], ["y"], mode="linear", axes=[2, 3])],
    PICTURE,
    tensors={"s": whole(18, 14)},
    opset=18,
)
for sizes in ((2, 6, 4, 3), (2, 6, 18, 3)):
    for outside in (0, 1):
        case(
            f"resize antialias {sizes} {outside}",
            [node("Resize", ["a", "", "", "s"], ["y"], mode="linear", antialias=1, exclude_outside=outside)],
            PICTURE,
            tensors={"s": whole(*sizes)},
            opset=18,
        )
for outside in (0, 1):
    case(
        f"resize cubic {outside}",
        [node("Resize", ["a", "", "", "s"], ["y"], mode="cubic", exclude_outside=outside)],
        PICTURE,
        tensors={"s": whole(2, 6, 13, 5)},
        opset=13,
    )
    case(
        f"resize cubic antialias {outside}",
        [node("Resize", ["a", "", "", "s"], ["y"], mode="cubic", antialias=1, exclude_outside=outside)],
        PICTURE,
        tensors={"s": whole(2, 6, 4, 3)},
        opset=18,
    )
for policy in ("not_larger", "not_smaller"):
    case(
        f"resize {policy}",
        [
            node(
                "Resize",
                ["a", "", "", "s"],
                ["y"],
                mode="linear",
                axes=[2, 3],
                keep_aspect_ratio_policy=policy,
            )
        ],
        PICTURE,
        tensors={"s": whole(12, 13)},
        opset=18,
    )
for used in (False, True):
    case(
        f"dropout with a mask {used}",
        [node("Dropout", ["a"], ["y", "m"])],
        PICTURE,
        outputs=("y", "m") if used else ("y",),
        opset=13,
        traced=not used,
    )
case(
    "nms",
    [node("NonMaxSuppression", ["a", "b", "m", "i", "s"], ["n"]), node("Cast", ["n"], ["y"], to=1)],
    np.abs(values(2, 30, 4)),
    np.abs(values(2, 3, 30)),
    traced=False,
    opset=11,
    tensors={"m": whole(5), "i": np.array([0.4], F32), "s": np.array([0.3], F32)},
)


@pytest.mark.parametrize("name", CASES)
def test_operator(backend: str, tmp_path: Path, name: str) -> None:
    nodes, x, tensors, opset, outputs, traced = CASES[name]
    made = models.model(nodes, x, outputs, tensors, opset)
    content = made.SerializeToString()
    expected = models.run(content, *x.values())
    module = cf.onnx.load(models.write(tmp_path, content), layout="NCHW")
    got = module(*x.values())
    for one, other in zip(got.values() if isinstance(got, dict) else [got], expected, strict=True):
        close(one, other)
    if not traced or backend == "numpy":
        return
    recorded = graph.trace(module, *[array.shape for array in x.values()])
    for version in (recorded, graph.optimize(recorded)):
        again = graph.interpret(version, *x.values())
        for one, other in zip(again.values() if isinstance(again, dict) else [again], expected, strict=True):
            close(one, other)
