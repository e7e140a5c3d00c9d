"""Pooling by the Euclidean length of each window."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .arithmetic import MUL, infer_mul, mul
from .binary import div
from .comparison import equal, where
from .pool import AVG_POOL2D, PoolSpec, cuda_avg_pool2d, infer_avg_pool2d
from .pool_grad import AVG_POOL2D_GRAD
from .registry import RESULT, Array, Cost, Lower, Op, Vjp, array, cached, native


@dataclass(frozen=True)
class L2PoolSpec:
    """A checked pooling: the average pooling of the squares that it is a root of."""

    out: tuple[int, ...]
    squares: Any
    mean: PoolSpec


@cached
def infer_l2_pool2d(x: tuple[int, ...], size: Any, stride: Any = None, padding: Any = 0) -> L2PoolSpec:
    """Validate a pooling by lengths; see :func:`l2_pool2d`."""
    mean = infer_avg_pool2d(x, size, stride, padding, op="l2_pool2d")
    return L2PoolSpec(mean.out, infer_mul(x, x), mean)


def reference_l2_pool2d(s: L2PoolSpec, x: Array) -> Array:
    """The root of the sum of squares of each window."""
    mean = AVG_POOL2D.reference(s.mean, MUL.reference(s.squares, x, x))
    with np.errstate(all="ignore"):
        return np.sqrt(mean * mean.dtype.type(math.prod(s.mean.size)))


def _native_l2_pool2d(s: L2PoolSpec, x: Array) -> Array:
    return native().l2_pool2d(s.mean.native, math.prod(s.mean.size), x)


def _lower(steps: Any, s: L2PoolSpec, inputs: Any, outputs: Any) -> None:
    steps.plan.l2_pool2d(s.mean.native, math.prod(s.mean.size), inputs[0].place, outputs[0].place)


def _vjp(s: L2PoolSpec, needs: Any, g: Array, inputs: Any, results: Any) -> Any:
    """x times the sum of g / y over the windows with that pixel; windows of length 0 have no gradient."""
    (y,) = results
    share = mul(where(equal(y, 0.0), 0.0, div(g, y)), float(math.prod(s.mean.size)))
    return (mul(inputs[0], AVG_POOL2D_GRAD(s.mean, share)),)


def _cost(s: L2PoolSpec) -> Cost:
    mean = AVG_POOL2D.cost(s.mean)
    n, m = (float(np.prod(shape, dtype=float)) for shape in (s.mean.x, s.out))
    return Cost(mean.flops + n + 2 * m, 4 * (n + m))


L2_POOL2D = Op(
    "l2_pool2d",
    infer_l2_pool2d,
    reference_l2_pool2d,
    _native_l2_pool2d,
    _cost,
    vjp=Vjp(_vjp, lambda s, needs: (0, RESULT)),
    lower=Lower(_lower),
    settings=lambda s: {"size": s.mean.size, "stride": s.mean.asked[0], "padding": s.mean.pads},
    cuda=lambda s, x: cuda_avg_pool2d(s.mean, x, lengths=True),
)


def l2_pool2d(x: Any, size: Any, *, stride: Any = None, padding: Any = 0) -> Array:
    """Euclidean length sqrt(sum x**2) of each window, per channel.

    Parameters
    ----------
    x : array_like, shape (N, H, W, C)
        float32 (squares must stay below 3.4e38) or float64 (NumPy reference).
    size, stride, padding
        As in :func:`avg_pool2d`; the padding holds zeros.

    Returns
    -------
    ndarray, shape (N, P, Q, C)

    Raises
    ------
    ShapeError, DTypeError, BackendError

    References
    ----------
    Sermanet, Chintala and LeCun, "Convolutional neural networks applied to house numbers digit
    classification", 2012, section 2.2.
    """
    x = array("l2_pool2d", "x", x)
    return L2_POOL2D(infer_l2_pool2d(x.shape, size, stride, padding), x)
