"""Benchmark problems: plain data read from ``layers/*.json``, their shapes, arithmetic and bytes.

A problem is one call of one operator. Its attributes carry the names of the keywords of
``cnnfast.ops``, so a file reads like the call it stands for:

    {"name": "conv2_x.b", "op": "conv2d", "x": [1, 56, 56, 64], "w": [3, 3, 64, 64], "padding": 1, "count": 3}

``x``, ``y``, ``w`` and ``boxes`` are shapes, ``xs`` is a list of shapes; ``bias`` asks for a bias vector.
Activations are NHWC, weights HWIO.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["OPERATORS", "Problem", "ProblemError", "layer_files", "load", "select"]

LAYERS = Path(__file__).parent / "layers"
ITEM = 4  # bytes of a float32

Shape = tuple[int, ...]


class ProblemError(ValueError):
    """An unknown operator or layer file, or a problem whose shapes do not fit."""


@dataclass(frozen=True)
class Problem:
    """One operator call: shapes of the operands, keywords, and how often a network makes it."""

    name: str
    op: str
    shapes: dict[str, Any]
    attrs: dict[str, Any] = field(default_factory=dict)
    bias: bool = False
    count: int = 1
    group: str = ""

    @property
    def out(self) -> Shape | None:
        """Shape of the output in NHWC; None where it depends on the data (the NMS family)."""
        return OPERATORS[self.op].out(self)

    @property
    def macs(self) -> int:
        """Multiply-adds of the convolution or product; 0 for the other operators."""
        return OPERATORS[self.op].macs(self)

    @property
    def flops(self) -> int:
        """Floating-point operations; 0 where no useful count exists."""
        return 2 * self.macs or OPERATORS[self.op].flops(self)

    @property
    def bytes(self) -> int:
        """Least traffic: every operand read once and the result written once; 0 if it depends on the data."""
        if self.out is None:
            return 0
        read = sum(math.prod(s) for s in self.operand_shapes())
        return ITEM * (read + math.prod(self.out))

    def operand_shapes(self) -> list[Shape]:
        """Shapes of all arrays that the call reads."""
        shapes: list[Shape] = []
        for value in self.shapes.values():
            shapes += [tuple(s) for s in value] if isinstance(value[0], list) else [tuple(value)]
        if self.bias:
            shapes.append((channels_out(self),))
        if self.op == "batch_norm":
            shapes += 4 * [(self.shapes["x"][-1],)]
        return shapes

    @property
    def title(self) -> str:
        """What it is called outside of its own file."""
        return (
            f"{self.op} {self.name}" if self.group in ("operators", "quick") else f"{self.group} {self.name}"
        )

    def key(self) -> str:
        """Equal for equal calls, whatever they are named."""
        return json.dumps([self.op, self.shapes, self.attrs, self.bias], sort_keys=True)


def pair(value: int | list[int]) -> tuple[int, int]:
    """An integer or two of them as (vertical, horizontal)."""
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def sides(padding: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    """Padding as ((top, bottom), (left, right))."""
    if isinstance(padding, int):
        return (padding, padding), (padding, padding)
    vertical, horizontal = padding
    return pair(vertical), pair(horizontal)


def channels_out(p: Problem) -> int:
    w = p.shapes["w"]
    if p.op == "linear":
        return int(w[1])
    if p.op == "depthwise_conv2d":
        return int(w[2] * w[3])
    if p.op == "conv2d_transpose":
        return int(w[2] * p.attrs.get("groups", 1))
    return int(w[3])


def check(condition: bool, p: Problem, expected: str) -> None:
    if not condition:
        raise ProblemError(f"{p.group}/{p.name}: {p.op}: expected {expected}, got {p.shapes} {p.attrs}")


# ---- output shapes -------------------------------------------------------------------------------


def windows(p: Problem, kernel: Iterable[int], channels: int) -> Shape:
    """Output of a window that slides over x: convolution and pooling."""
    n, *image, _ = p.shapes["x"]
    stride, dilation = pair(p.attrs.get("stride", 1)), pair(p.attrs.get("dilation", 1))
    out = []
    padding = sides(p.attrs.get("padding", 0))
    for size, k, s, d, pads in zip(image, kernel, stride, dilation, padding, strict=True):
        span = size + sum(pads) - d * (k - 1) - 1
        check(span >= 0, p, "a window that fits into the padded image")
        length = -(-span // s) + 1 if p.attrs.get("ceil_mode") else span // s + 1
        # A last window that starts in the padding after the image is dropped, as torch and ONNX do.
        if p.attrs.get("ceil_mode") and (length - 1) * s >= size + pads[0]:
            length -= 1
        out.append(length)
    return (n, *out, channels)


def conv2d_out(p: Problem) -> Shape:
    x, w, groups = p.shapes["x"], p.shapes["w"], p.attrs.get("groups", 1)
    fits = len(x) == 4 and len(w) == 4 and x[3] == w[2] * groups and w[3] % groups == 0
    check(fits, p, "w[2] * groups == x[3]")
    return windows(p, w[:2], w[3])


def depthwise_out(p: Problem) -> Shape:
    x, w = p.shapes["x"], p.shapes["w"]
    check(len(x) == 4 and len(w) == 4 and x[3] == w[2], p, "w[2] == x[3]")
    return windows(p, w[:2], w[2] * w[3])


def transpose_out(p: Problem) -> Shape:
    x, w, groups = p.shapes["x"], p.shapes["w"], p.attrs.get("groups", 1)
    check(len(x) == 4 and len(w) == 4 and x[3] == w[3] and x[3] % groups == 0, p, "w[3] == x[3]")
    stride, dilation = pair(p.attrs.get("stride", 1)), pair(p.attrs.get("dilation", 1))
    pads, extra = sides(p.attrs.get("padding", 0)), pair(p.attrs.get("output_padding", 0))
    rows, columns = (
        (x[1 + i] - 1) * stride[i] - sum(pads[i]) + dilation[i] * (w[i] - 1) + extra[i] + 1 for i in (0, 1)
    )
    return (x[0], rows, columns, channels_out(p))


def pool_out(p: Problem) -> Shape:
    check(len(p.shapes["x"]) == 4 and "size" in p.attrs, p, "a 4-d x and a size")
    stride = p.attrs.get("stride", p.attrs["size"])
    strided = Problem(p.name, p.op, p.shapes, {**p.attrs, "stride": stride}, group=p.group)
    return windows(strided, pair(p.attrs["size"]), p.shapes["x"][3])


def linear_out(p: Problem) -> Shape:
    x, w = p.shapes["x"], p.shapes["w"]
    check(len(x) == 2 and len(w) == 2 and x[1] == w[0], p, "w[0] == x[1]")
    return (x[0], w[1])


def gram_out(p: Problem) -> Shape:
    n, _, _, c = p.shapes["x"]
    return (n, c, c)


def global_pool_out(p: Problem) -> Shape:
    n, _, _, c = p.shapes["x"]
    return (n, 1, 1, c)


def resize_out(p: Problem) -> Shape:
    n, _, _, c = p.shapes["x"]
    return (n, *pair(p.attrs["size"]), c)


def same_out(p: Problem) -> Shape:
    return tuple(p.shapes["x"])


def broadcast_out(p: Problem) -> Shape:
    x, y = p.shapes["x"], p.shapes["y"]
    fits = len(x) == len(y) and all(b in (1, a) for a, b in zip(x, y, strict=True))
    check(fits, p, "y that broadcasts to x")
    return tuple(x)


def concat_out(p: Problem) -> Shape:
    xs = p.shapes["xs"]
    check(all(s[:-1] == xs[0][:-1] for s in xs), p, "equal sizes but for the channels")
    return (*xs[0][:-1], sum(s[-1] for s in xs))


def pad_out(p: Problem) -> Shape:
    n, h, w, c = p.shapes["x"]
    (top, bottom), (left, right) = sides(p.attrs["padding"])
    return (n, h + top + bottom, w + left + right, c)


def iou_out(p: Problem) -> Shape:
    return (p.shapes["a"][0], p.shapes["b"][0])


def roi_out(p: Problem) -> Shape:
    return (p.shapes["boxes"][0], *pair(p.attrs["output_size"]), p.shapes["x"][3])


def unknown_out(p: Problem) -> None:
    check(len(p.shapes["boxes"]) == 2 and p.shapes["boxes"][1] == 4, p, "boxes of shape [n, 4]")


# ---- arithmetic ----------------------------------------------------------------------------------


def no_macs(p: Problem) -> int:
    return 0


def conv_macs(p: Problem) -> int:
    """Outputs times the weights that meet in each: the padding is counted, as everybody does."""
    kh, kw, per_group = p.shapes["w"][:3]
    return math.prod(p.out or ()) * kh * kw * (1 if p.op == "depthwise_conv2d" else per_group)


def transpose_macs(p: Problem) -> int:
    """Every input pixel meets every weight of its channel."""
    return math.prod(p.shapes["x"]) * math.prod(p.shapes["w"][:3])


def linear_macs(p: Problem) -> int:
    return p.shapes["x"][0] * math.prod(p.shapes["w"])


def gram_macs(p: Problem) -> int:
    """The whole matrix, though half of it is enough."""
    return math.prod(p.shapes["x"]) * p.shapes["x"][3]


def per_output(count: int) -> Callable[[Problem], int]:
    return lambda p: count * math.prod(p.out or ())


def per_window(p: Problem) -> int:
    return math.prod(p.out or ()) * math.prod(pair(p.attrs["size"]))


def per_input(p: Problem) -> int:
    return math.prod(p.shapes["x"])


def nothing(p: Problem) -> int:
    return 0


@dataclass(frozen=True)
class Operator:
    """What the benchmark must know of an operator: operands in call order, shapes and costs."""

    operands: tuple[str, ...]
    out: Callable[[Problem], Any]
    macs: Callable[[Problem], int] = no_macs
    flops: Callable[[Problem], int] = nothing


def pointwise(flops: int) -> Operator:
    return Operator(("x",), same_out, flops=per_output(flops))


def grad_input_out(p: Problem) -> Shape:
    """The input whose gradient it is; the gradient that comes in must be the convolution's result."""
    x = tuple(p.attrs["input_shape"])
    forward = Problem(p.name, "conv2d", {"x": x, "w": p.shapes["w"]}, p.attrs, group=p.group)
    check(tuple(p.shapes["g"]) == conv2d_out(forward), p, "g of the shape of the result")
    return x


def grad_weight_out(p: Problem) -> Shape:
    w = tuple(p.attrs["weight_shape"])
    forward = Problem(p.name, "conv2d", {"x": p.shapes["x"], "w": w}, p.attrs, group=p.group)
    check(tuple(p.shapes["g"]) == conv2d_out(forward), p, "g of the shape of the result")
    return w


def grad_macs(p: Problem) -> int:
    """As many as the convolution has."""
    w = p.attrs.get("weight_shape") or p.shapes["w"]
    return math.prod(p.shapes["g"]) * math.prod(w[:3])


OPERATORS: dict[str, Operator] = {
    "conv2d": Operator(("x", "w", "b"), conv2d_out, conv_macs),
    "depthwise_conv2d": Operator(("x", "w", "b"), depthwise_out, conv_macs),
    "conv2d_transpose": Operator(("x", "w", "b"), transpose_out, transpose_macs),
    "conv2d_grad_input": Operator(("g", "w"), grad_input_out, grad_macs),
    "conv2d_grad_weight": Operator(("x", "g"), grad_weight_out, grad_macs),
    "linear": Operator(("x", "w", "b"), linear_out, linear_macs),
    "gram_matrix": Operator(("x",), gram_out, gram_macs),
    "max_pool2d": Operator(("x",), pool_out, flops=per_window),
    "avg_pool2d": Operator(("x",), pool_out, flops=per_window),
    "global_avg_pool2d": Operator(("x",), global_pool_out, flops=per_input),
    "global_max_pool2d": Operator(("x",), global_pool_out, flops=per_input),
    "batch_norm": Operator(("x", "mean", "var", "scale", "shift"), same_out, flops=per_output(2)),
    "local_response_norm": Operator(("x",), same_out, flops=per_output(8)),
    "resize": Operator(("x",), resize_out, flops=per_output(6)),
    "relu": pointwise(1),
    "relu6": pointwise(2),
    "leaky_relu": pointwise(2),
    "hard_swish": pointwise(4),
    # The exponential counts as ten operations; these are bound by memory or by it, never by the peak.
    "sigmoid": pointwise(12),
    "tanh": pointwise(12),
    "silu": pointwise(13),
    "softmax": pointwise(14),
    "log_softmax": pointwise(14),
    "add": Operator(("x", "y"), broadcast_out, flops=per_output(1)),
    "mul": Operator(("x", "y"), broadcast_out, flops=per_output(1)),
    "concat": Operator(("xs",), concat_out),
    "pad2d": Operator(("x",), pad_out),
    "box_iou": Operator(("a", "b"), iou_out, flops=per_output(12)),
    "nms": Operator(("boxes", "scores"), unknown_out),
    "batched_nms": Operator(("boxes", "scores", "classes"), unknown_out),
    "soft_nms": Operator(("boxes", "scores"), unknown_out),
    "roi_pool": Operator(("x", "boxes"), roi_out),
    "roi_align": Operator(("x", "boxes"), roi_out, flops=per_output(4 * 8)),
}

SHAPE_KEYS = ("x", "y", "w", "g", "a", "b", "xs", "boxes")


def parse(entry: dict[str, Any], group: str) -> Problem:
    """One entry of a layer file as a checked problem."""
    rest = dict(entry)
    name, op = str(rest.pop("name", "?")), rest.pop("op", None)
    if op not in OPERATORS:
        raise ProblemError(f"{group}/{name}: unknown operator {op!r}; known: {', '.join(sorted(OPERATORS))}")
    shapes = {key: rest.pop(key) for key in SHAPE_KEYS if key in rest}
    bias, count = bool(rest.pop("bias", False)), int(rest.pop("count", 1))
    needed = [key for key in OPERATORS[op].operands if key in SHAPE_KEYS and (key != "b" or op == "box_iou")]
    problem = Problem(name, op, shapes, rest, bias, count, group)
    check(all(key in shapes for key in needed), problem, f"the shapes {', '.join(needed)}")
    check(count >= 1, problem, "a count of at least 1")
    _ = problem.out  # raises if the shapes do not fit
    return problem


def layer_files() -> dict[str, Path]:
    """The layer files that ship with the package, by name."""
    return {path.stem: path for path in sorted(LAYERS.glob("*.json"))}


def load(file: str | Path) -> list[Problem]:
    """All problems of a layer file, given by its name ("vgg16") or its path."""
    path = layer_files().get(str(file), Path(file))
    if not path.is_file():
        raise ProblemError(f"no layer file {str(file)!r}; shipped: {', '.join(layer_files())}")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        entries = data["problems"]
    except (ValueError, KeyError, TypeError) as error:
        raise ProblemError(f"{path}: not a layer file ({type(error).__name__}: {error})") from error
    return [parse(entry, path.stem) for entry in entries]


def select(words: Iterable[str], *, quick: bool = False) -> list[Problem]:
    """Problems asked for by operator names, layer-file names and paths; equal calls are taken once.

    Nothing asked for means the quick set. An operator's name takes its problems from ``operators.json``
    (from ``quick.json`` with ``quick``).
    """
    pool = "quick" if quick else "operators"
    chosen: list[Problem] = []
    for word in words:
        if word in OPERATORS:
            chosen += [p for p in load(pool) if p.op == word]
        elif word in layer_files() or Path(word).suffix == ".json":
            chosen += load(word)
        else:
            raise ProblemError(
                f"{word!r} is neither an operator nor a layer file\n"
                f"operators: {', '.join(OPERATORS)}\n"
                f"layer files: {', '.join(layer_files())}, or a path to one"
            )
    if not chosen:
        chosen = load("quick")
    seen: dict[str, Problem] = {}
    for problem in chosen:
        seen.setdefault(problem.key(), problem)
    return list(seen.values())
