"""1x1 convolution of gated channels, the end of squeeze-and-excitation, for compiled plans."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .activations import ACTIVATION_CODES
from .arithmetic import MUL, BinarySpec, infer_mul
from .conv import CONV2D, Conv2dSpec, infer_conv2d, packed_weights
from .registry import NO_GRADIENT, Array, Cost, Lower, Op, cached, fail

__all__ = ["GATED_CONV2D", "GatedConv2dSpec", "infer_gated_conv2d"]


@dataclass(frozen=True)
class GatedConv2dSpec:
    """A checked product of picture and gates, and the convolution after it."""

    out: tuple[int, int, int, int]
    gating: BinarySpec
    conv: Conv2dSpec


@cached
def infer_gated_conv2d(
    x: tuple[int, ...],
    gates: tuple[int, ...],
    w: tuple[int, ...],
    b: tuple[int, ...] | None = None,
    residual: tuple[int, ...] | None = None,
    activation: str | None = None,
    slope: float = 0.01,
) -> GatedConv2dSpec:
    """Validate a 1x1 convolution of x (N,H,W,C) times gates (N,1,1,C).

    Raises
    ------
    ShapeError
    """
    op = "gated_conv2d"
    conv = infer_conv2d(x, w, b, residual, activation=activation, op=op, slope=slope)
    if w[:2] != (1, 1) or conv.groups != 1:
        fail(op, "expected a weight of shape (1,1,C_in,C_out)", weight=w)
    if gates != (x[0], 1, 1, x[3]):
        fail(op, f"expected gates of shape ({x[0]},1,1,{x[3]})", gates=gates, x=x)
    return GatedConv2dSpec(conv.out, infer_mul(x, gates), conv)


def _decompose(
    run: Any, s: GatedConv2dSpec, x: Any, gates: Any, w: Any, b: Any = None, residual: Any = None
) -> Any:
    """The product, then the convolution."""
    return run(CONV2D, s.conv, run(MUL, s.gating, x, gates), w, None, b, residual)


def _reference(s: GatedConv2dSpec, *arrays: Any) -> Array:
    return _decompose(lambda op, spec, *a: op.reference(spec, *a), s, *arrays)


def _native(s: GatedConv2dSpec, *arrays: Any) -> Array:
    return _decompose(lambda op, spec, *a: op.native(spec, *a), s, *arrays)


def _cuda(s: GatedConv2dSpec, *arrays: Any) -> Any:
    return _decompose(lambda op, spec, *a: op.on_device(spec, *a), s, *arrays)


def _cost(s: GatedConv2dSpec) -> Cost:
    """Without the traffic of the product."""
    gating, conv = MUL.cost(s.gating), CONV2D.cost(s.conv)
    n, _, _, c = s.conv.x
    return Cost(gating.flops + conv.flops, conv.bytes + 4.0 * n * c)


def _lower(steps: Any, s: GatedConv2dSpec, inputs: Any, outputs: Any) -> None:
    given: list[Any] = [*inputs, *[None] * (5 - len(inputs))]
    x, gates, w, b, residual = given
    y, weights = outputs[0], packed_weights(steps, s.conv, w, direct=True)
    code = ACTIVATION_CODES[s.conv.activation]
    ends = (steps.place(b), steps.place(residual), y.place, code, s.conv.slope)
    steps.plan.gated_conv2d(s.conv.native, x.ld, y.ld, weights, x.place, gates.place, *ends)


def worth_fusing(s: GatedConv2dSpec) -> bool:
    """Whether gating the weights is less work than gating the picture: far more pixels than outputs."""
    _, p, q, o = s.out
    return p * q >= 4 * o


GATED_CONV2D = Op(
    "gated_conv2d",
    infer_gated_conv2d,
    _reference,
    _native,
    _cost,
    lower=Lower(
        _lower,
        accepts=lambda node: node.inputs[2].known,
        slice_in=lambda node, position: position == 0,
        slice_out=lambda node: not node.spec.conv.residual,
    ),
    vjp=NO_GRADIENT,  # what it stands for has gradients; tapes never hold it
    settings=lambda s: {"activation": s.conv.activation, "slope": s.conv.slope},
    decompose=_decompose,
    cuda=_cuda,
)
