"""Convolution and the maximum pooling of what it gives, for compiled plans."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .. import config
from .activations import ACTIVATION_CODES
from .conv import CONV2D, Conv2dSpec, infer_conv2d, packed_weights
from .pool import MAX_POOL2D, PoolSpec, infer_max_pool2d
from .registry import NO_GRADIENT, Array, Cost, Lower, Op, cached

__all__ = ["POOLED_CONV2D", "PooledConv2dSpec", "infer_pooled_conv2d", "joined_settings"]


@dataclass(frozen=True)
class PooledConv2dSpec:
    """A checked convolution, and the pooling after it."""

    out: tuple[int, int, int, int]
    conv: Conv2dSpec
    pool: PoolSpec


@cached
def infer_pooled_conv2d(
    x: tuple[int, ...],
    w: tuple[int, ...],
    b: tuple[int, ...] | None = None,
    stride: Any = 1,
    padding: Any = "valid",
    dilation: Any = 1,
    activation: str | None = None,
    slope: float = 0.01,
    size: Any = 2,
    pool_stride: Any = None,
    pool_padding: Any = 0,
    pool_dilation: Any = 1,
    ceil_mode: bool = False,
) -> PooledConv2dSpec:
    """Validate a convolution without groups or residual and the maximum pooling after it.

    Raises
    ------
    ShapeError
    """
    conv = infer_conv2d(
        x, w, b, None, stride, padding, dilation, 1, activation, op="pooled_conv2d", slope=slope
    )
    pool = infer_max_pool2d(conv.out, size, pool_stride, pool_padding, pool_dilation, ceil_mode)
    return PooledConv2dSpec(pool.out, conv, pool)


def _decompose(run: Any, s: PooledConv2dSpec, x: Any, w: Any, b: Any = None) -> Any:
    """The convolution, then the pooling."""
    return run(MAX_POOL2D, s.pool, run(CONV2D, s.conv, x, w, None, b))


def _reference(s: PooledConv2dSpec, *arrays: Any) -> Array:
    return _decompose(lambda op, spec, *a: op.reference(spec, *a), s, *arrays)


def _native(s: PooledConv2dSpec, *arrays: Any) -> Array:
    return _decompose(lambda op, spec, *a: op.native(spec, *a), s, *arrays)


def _cuda(s: PooledConv2dSpec, *arrays: Any) -> Any:
    return _decompose(lambda op, spec, *a: op.on_device(spec, *a), s, *arrays)


def _cost(s: PooledConv2dSpec) -> Cost:
    """Without the traffic of the sums."""
    conv, pool = CONV2D.cost(s.conv), MAX_POOL2D.cost(s.pool)
    n, p, q, o = s.conv.out
    return Cost(conv.flops + pool.flops, conv.bytes + pool.bytes - 8.0 * n * p * q * o)


def _lower(steps: Any, s: PooledConv2dSpec, inputs: Any, outputs: Any) -> None:
    x, w, b = [*inputs, None][:3]
    y, weights = outputs[0], packed_weights(steps, s.conv, w)
    ends = (steps.place(b), y.place, ACTIVATION_CODES[s.conv.activation], s.conv.slope)
    steps.plan.pooled_conv2d(s.conv.native, s.pool.native, x.ld, y.ld, weights, x.place, *ends)


def worth_fusing(s: PooledConv2dSpec) -> bool:
    """Whether there is a kernel that pools sums while they are in registers."""
    return bool(config._cpu.pools_sums(s.conv.native, s.pool.native))


def joined_settings(conv: Conv2dSpec, pool: PoolSpec) -> dict[str, Any]:
    """What follows the shapes among the arguments of :func:`infer_pooled_conv2d`."""
    ends, windows = CONV2D.settings(conv), MAX_POOL2D.settings(pool)
    del ends["groups"]
    size, ceil_mode = windows.pop("size"), windows.pop("ceil_mode")
    return {**ends, "size": size, "ceil_mode": ceil_mode, **{f"pool_{k}": v for k, v in windows.items()}}


POOLED_CONV2D = Op(
    "pooled_conv2d",
    infer_pooled_conv2d,
    _reference,
    _native,
    _cost,
    lower=Lower(
        _lower,
        accepts=lambda node: node.inputs[1].known and worth_fusing(node.spec),
        slice_in=lambda node, position: position == 0,
        slice_out=lambda node: True,
    ),
    vjp=NO_GRADIENT,  # what it stands for has gradients; tapes never hold it
    settings=lambda s: joined_settings(s.conv, s.pool),
    decompose=_decompose,
    cuda=_cuda,
)
