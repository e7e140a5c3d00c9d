"""Depthwise convolution with the convolutions around it, a few rows at a time, for compiled plans."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from .activations import ACTIVATION_CODES
from .conv import (
    CONV2D,
    DEPTHWISE_CONV2D,
    Conv2dSpec,
    infer_conv2d,
    infer_depthwise_conv2d,
    is_direct,
    packed_weights,
)
from .registry import NO_GRADIENT, Array, Cost, Lower, Op, cached, fail

__all__ = ["DEPTHWISE_BLOCK", "DepthwiseBlockSpec", "infer_depthwise_block"]


@dataclass(frozen=True)
class DepthwiseBlockSpec:
    """A checked block: the convolutions in their order, of which the first and the last may be missing."""

    x: tuple[int, int, int, int]
    out: tuple[int, int, int, int]
    expand: Conv2dSpec | None
    depthwise: Conv2dSpec
    project: Conv2dSpec | None


@cached
def infer_depthwise_block(
    x: tuple[int, ...],
    expand_w: tuple[int, ...] | None,
    expand_b: tuple[int, ...] | None,
    w: tuple[int, ...],
    b: tuple[int, ...] | None = None,
    project_w: tuple[int, ...] | None = None,
    project_b: tuple[int, ...] | None = None,
    residual: tuple[int, ...] | None = None,
    stride: Any = 1,
    padding: Any = "valid",
    dilation: Any = 1,
    activations: tuple[str | None, ...] = (None, None, None),
    slopes: tuple[float, ...] = (0.01, 0.01, 0.01),
    expand_stride: Any = 1,
    expand_padding: Any = "valid",
    expand_dilation: Any = 1,
) -> DepthwiseBlockSpec:
    """Validate a block; parameters are those of the depthwise convolution, activations those of all three.

    The convolution before it is 1x1, with its own parameters at their defaults, or one of few channels.

    Raises
    ------
    ShapeError
    """
    op = "depthwise_block"
    if len(activations) != 3 or len(slopes) != 3:
        fail(op, "activations and slopes must be three each")
    expand = project = None
    if expand_w is not None:
        geometry = (expand_stride, expand_padding, expand_dilation)
        expand = infer_conv2d(x, expand_w, expand_b, None, *geometry, 1, activations[0], slope=slopes[0])
        if not (is_pointwise(expand) or takes_lines(expand)):
            fail(op, "the convolution before must be 1x1, or have few input channels", weight=expand_w)
        x_inside = expand.out
    else:
        x_inside = x
    depthwise = infer_depthwise_conv2d(
        x_inside, w, b, None, stride, padding, dilation, activations[1], slopes[1]
    )
    if depthwise.w[3] != depthwise.groups or depthwise.groups == 1:
        fail(op, "expected one kernel per channel, and more than one channel", weight=w)
    if project_w is not None:
        ends = (project_b, residual)
        project = infer_conv2d(depthwise.out, project_w, *ends, activation=activations[2], slope=slopes[2])
        if not is_pointwise(project):
            fail(op, "the convolution after must be 1x1", weight=project_w)
    elif residual is not None:
        fail(op, "a residual needs a convolution after the depthwise one", residual=residual)
    last = depthwise if project is None else project
    return DepthwiseBlockSpec(x, last.out, expand, depthwise, project)  # type: ignore[arg-type]


def is_pointwise(s: Conv2dSpec) -> bool:
    """Whether a convolution takes every pixel by itself."""
    return s.w[:2] == (1, 1) and s.groups == 1 and s.stride == (1, 1) and s.pads == ((0, 0), (0, 0))


def takes_lines(s: Conv2dSpec) -> bool:
    """Whether a convolution runs by kernel rows (``csrc/cpu/conv2d.cpp``), as a network's first one does."""
    kw, c, o = s.w[1:]
    return s.groups == 1 and s.dilation[1] == 1 and kw > 1 and c <= 8 < o and kw * c <= 768


def _decompose(
    run: Any,
    s: DepthwiseBlockSpec,
    x: Any,
    expand_w: Any,
    expand_b: Any,
    w: Any,
    b: Any = None,
    project_w: Any = None,
    project_b: Any = None,
    residual: Any = None,
) -> Any:
    """The convolutions one after the other."""
    if s.expand is not None:
        x = run(CONV2D, s.expand, x, expand_w, None, expand_b)
    x = run(DEPTHWISE_CONV2D, s.depthwise, x, w, None, b)
    return x if s.project is None else run(CONV2D, s.project, x, project_w, None, project_b, residual)


def _reference(s: DepthwiseBlockSpec, *arrays: Any) -> Array:
    return _decompose(lambda op, spec, *a: op.reference(spec, *a), s, *arrays)


def _native(s: DepthwiseBlockSpec, *arrays: Any) -> Array:
    return _decompose(lambda op, spec, *a: op.native(spec, *a), s, *arrays)


def _cuda(s: DepthwiseBlockSpec, *arrays: Any) -> Any:
    return _decompose(lambda op, spec, *a: op.on_device(spec, *a), s, *arrays)


def _stages(s: DepthwiseBlockSpec) -> list[tuple[Op, Conv2dSpec | None]]:
    return [(CONV2D, s.expand), (DEPTHWISE_CONV2D, s.depthwise), (CONV2D, s.project)]


def _cost(s: DepthwiseBlockSpec) -> Cost:
    """Without the traffic of what lies between the convolutions."""
    costs = [op.cost(spec) for op, spec in _stages(s) if spec is not None]
    between = [spec.out for _, spec in _stages(s)[:2] if spec is not None and spec.out is not s.out]
    spared = sum(8.0 * n * p * q * c for n, p, q, c in between)
    return Cost(sum(c.flops for c in costs), sum(c.bytes for c in costs) - spared)


def _lower(steps: Any, s: DepthwiseBlockSpec, inputs: Any, outputs: Any) -> None:
    given: list[Any] = [*inputs, *[None] * (8 - len(inputs))]
    x, expand_w, expand_b, w, b, project_w, project_b, residual = given

    def stage(spec: Conv2dSpec | None, w: Any, b: Any, residual: Any, ld: int) -> Any:
        if spec is None:
            return steps.native.BlockStage()
        weights, code = packed_weights(steps, spec, w, direct=True), ACTIVATION_CODES[spec.activation]
        ends = (steps.place(b), steps.place(residual), code, spec.slope)
        return steps.native.BlockStage(spec.native, weights, ld, *ends)

    steps.plan.depthwise_block(
        stage(s.expand, expand_w, expand_b, None, x.ld),
        stage(s.depthwise, w, b, None, 0),
        stage(s.project, project_w, project_b, residual, outputs[0].ld),
        x.place,
        outputs[0].place,
    )


def _settings(s: DepthwiseBlockSpec) -> dict[str, Any]:
    specs = [spec for _, spec in _stages(s)]
    own = {} if s.expand is None or is_pointwise(s.expand) else _geometry(s.expand)
    return {
        "stride": s.depthwise.stride,
        "padding": s.depthwise.pads,
        "dilation": s.depthwise.dilation,
        "activations": tuple([None if spec is None else spec.activation for spec in specs]),
        "slopes": tuple([0.01 if spec is None else spec.slope for spec in specs]),
        **own,
    }


def _geometry(s: Conv2dSpec) -> dict[str, Any]:
    return {"expand_stride": s.stride, "expand_padding": s.pads, "expand_dilation": s.dilation}


def _reads_slices(s: DepthwiseBlockSpec) -> bool:
    return s.expand is not None and is_pointwise(s.expand)


DEPTHWISE_BLOCK = Op(
    "depthwise_block",
    infer_depthwise_block,
    _reference,
    _native,
    _cost,
    lower=Lower(
        _lower,
        accepts=lambda node: all(v is None or v.known for v in (*node.inputs[1:4:2], *node.inputs[5:6])),
        slice_in=lambda node, position: position == 0 and _reads_slices(node.spec),
        slice_out=lambda node: node.spec.project is not None and not node.spec.project.residual,
    ),
    vjp=NO_GRADIENT,  # what it stands for has gradients; tapes never hold it
    settings=_settings,
    decompose=_decompose,
    cuda=_cuda,
)


# What the estimate below is made of, measured on two cores with AVX-512: nanoseconds to bring two threads
# together, floating-point operations per nanosecond and thread, bytes per nanosecond to and from memory that
# the second-level caches do not hold, and how much they hold.
_MEETING, _FLOPS, _BYTES, _CACHE = 4000.0, 110.0, 60.0, 1.5 * 2**20
_LEAST_ROWS = 14


def worth_fusing(s: DepthwiseBlockSpec, winograd: int = 0) -> bool:
    """Whether a block is expected to be quicker than its convolutions one after the other.

    Fewer meetings of threads and less traffic stand against rows at the border between two threads that both
    of them expand. Pictures of few rows give threads unequal shares; without an expansion, windows with a
    stride gained nothing when measured. Strassen's product and Winograd's algorithm, which need whole
    pictures, gain more than bands of rows do.
    """
    d = s.depthwise
    if not all(is_direct(spec, winograd) for spec in (s.expand, s.project) if spec is not None):
        return False
    if d.out[1] < _LEAST_ROWS:
        return False
    if s.expand is None:
        return d.stride[0] == 1
    between = [math.prod(spec.out[1:]) for spec in (s.expand, d) if spec.out is not s.out]
    spared = sum(_MEETING + max(0.0, 8.0 * n - 2 * _CACHE) / _BYTES for n in between)
    twice = min(d.x[1], (d.w[0] - 1) * d.dilation[0] + 1 - d.stride[0])
    row = math.prod(s.expand.out[2:]) * 2.0 * math.prod(s.expand.w[:3])
    return twice * row / 2 / _FLOPS <= spared
