"""Local response normalisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import cuda
from .norm import finite, rows_of
from .registry import (
    NO_GRADIENT,
    Array,
    Cost,
    Lower,
    Op,
    Vjp,
    array,
    cached,
    choice,
    elements,
    fail,
    integer,
    native,
    reads_all,
)


@dataclass(frozen=True)
class LocalResponseSpec:
    """A checked local response normalisation; ``alpha`` is what the sum is multiplied by."""

    out: tuple[int, ...]
    before: int  # neighbours on the side of channel 0, at most all there are
    after: int
    alpha: float
    beta: float
    k: float


@cached
def infer_local_response_norm(
    x: tuple[int, ...],
    size: Any = 5,
    alpha: Any = 1e-4,
    beta: Any = 0.75,
    k: Any = 2.0,
    alpha_mode: str = "sum",
) -> LocalResponseSpec:
    """Validate a local response normalisation; see :func:`local_response_norm`."""
    op = "local_response_norm"
    if not x:
        fail(op, "x must have at least one dimension, the last for channels", x=x)
    size = integer(op, "size", size, 1)
    alpha, beta, k = (finite(op, n, v) for n, v in (("alpha", alpha), ("beta", beta), ("k", k)))
    choice(op, "alpha_mode", alpha_mode, ("sum", "mean"))
    elements(op, *x)
    reach = max(x[-1] - 1, 0)
    return LocalResponseSpec(
        x,
        min(size // 2, reach),
        min((size - 1) // 2, reach),
        alpha / size if alpha_mode == "mean" else alpha,
        beta,
        k,
    )


def _windowed(a: Array, before: int, after: int) -> Array:
    """Sums over channels c - before .. c + after."""
    c = a.shape[-1]
    wide = np.zeros((*a.shape[:-1], c + before + after), a.dtype)
    wide[..., before : before + c] = a
    total = wide[..., :c].copy()
    for j in range(1, before + after + 1):
        total += wide[..., j : j + c]
    return total


def reference_local_response_norm(s: LocalResponseSpec, x: Array) -> Array:
    """The quotient x / (k + alpha * windowed sum of squares)^beta."""
    with np.errstate(all="ignore"):
        total = _windowed(np.square(x), s.before, s.after)
        total *= x.dtype.type(s.alpha)
        total += x.dtype.type(s.k)
        return np.asarray(x / total ** x.dtype.type(s.beta))


def _native_local_response_norm(s: LocalResponseSpec, x: Array) -> Array:
    return native().local_response_norm(x, s.before, s.after, s.k, s.alpha, s.beta)


def _response_numbers(s: LocalResponseSpec) -> tuple[Any, ...]:
    return rows_of(s), s.out[-1], s.before, s.after, s.k, s.alpha, s.beta


def _cuda_local_response_norm(s: LocalResponseSpec, x: Any) -> Any:
    y = cuda.empty(s.out, x.dtype)
    cuda.module().local_response_norm(x.code, *_response_numbers(s), x.buffer, y.buffer)
    return y


def _cuda_local_response_norm_grad(s: LocalResponseSpec, x: Any, g: Any) -> Any:
    gx = cuda.empty(s.out, x.dtype)
    cuda.module().local_response_norm_grad(x.code, *_response_numbers(s), x.buffer, g.buffer, gx.buffer)
    return gx


def _cost_local_response_norm(s: LocalResponseSpec) -> Cost:
    n = float(np.prod(s.out, dtype=float))
    return Cost((s.before + s.after + 6) * n, 8 * n)


def _lower_local_response_norm(steps: Any, s: LocalResponseSpec, inputs: Any, outputs: Any) -> None:
    numbers = s.before, s.after, s.k, s.alpha, s.beta
    steps.plan.local_response_norm(rows_of(s), s.out[-1], *numbers, inputs[0].place, outputs[0].place)


# --- gradient --------------------------------------------------------------------------------------


def infer_local_response_norm_grad(
    x: tuple[int, ...],
    g: tuple[int, ...],
    size: Any = 5,
    alpha: Any = 1e-4,
    beta: Any = 0.75,
    k: Any = 2.0,
    alpha_mode: str = "sum",
) -> LocalResponseSpec:
    """Validate the gradient of a local response normalisation."""
    if g != x:
        fail("local_response_norm_grad", "the gradient must have the shape of x", g=g, x=x)
    return infer_local_response_norm(x, size, alpha, beta, k, alpha_mode)


def reference_local_response_norm_grad(s: LocalResponseSpec, x: Array, g: Array) -> Array:
    """gx[j] = g[j] d[j]^-beta - 2 a beta x[j] sum over the windows c with j of g[c] x[c] d[c]^(-beta-1),
    where d = k + a * windowed sum of squares."""
    kind = x.dtype.type
    with np.errstate(all="ignore"):
        d = _windowed(np.square(x), s.before, s.after) * kind(s.alpha) + kind(s.k)
        gy = g * d ** kind(-s.beta)
        shared = _windowed(gy * x / d, s.after, s.before)
        return np.asarray(gy - kind(2 * s.alpha * s.beta) * x * shared)


LOCAL_RESPONSE_NORM_GRAD = Op(
    "local_response_norm_grad",
    infer_local_response_norm_grad,
    reference_local_response_norm_grad,
    lambda s, x, g: native().local_response_norm_grad(x, g, s.before, s.after, s.k, s.alpha, s.beta),
    lambda s: Cost(
        (2 * (s.before + s.after) + 12) * float(np.prod(s.out, dtype=float)),
        12 * float(np.prod(s.out, dtype=float)),
    ),
    vjp=NO_GRADIENT,
    settings=lambda s: {"size": s.before + s.after + 1, "alpha": s.alpha, "beta": s.beta, "k": s.k},
    cuda=_cuda_local_response_norm_grad,
)


LOCAL_RESPONSE_NORM = Op(
    "local_response_norm",
    infer_local_response_norm,
    reference_local_response_norm,
    _native_local_response_norm,
    _cost_local_response_norm,
    vjp=Vjp(
        lambda s, needs, g, inputs, results: (LOCAL_RESPONSE_NORM_GRAD(s, inputs[0], g),),
        reads_all,
    ),
    lower=Lower(_lower_local_response_norm),
    settings=lambda s: {"size": s.before + s.after + 1, "alpha": s.alpha, "beta": s.beta, "k": s.k},
    cuda=_cuda_local_response_norm,
)


def local_response_norm(
    x: Any,
    *,
    size: int = 5,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 2.0,
    alpha_mode: str = "sum",
) -> Array:
    """Each channel divided by a power of the activity of its neighbours.

    ``y[..., c] = x[..., c] / (k + a * sum_{j = c - size//2}^{c + (size-1)//2} x[..., j]**2) ** beta``;
    channels that do not exist count as zero. An even window has its extra channel before c.

    Parameters
    ----------
    x : array_like, shape (..., C)
        float32 (native kernels; squares must stay below 3.4e38) or float64 (NumPy reference).
    size : int
        Channels in the window, at least 1.
    alpha, beta, k : float
        The defaults are those of the source.
    alpha_mode : {"sum", "mean"}
        ``"sum"``: a = alpha, as in the source. ``"mean"``: a = alpha / size, as torch and ONNX have it
        (torch's default for k is 1).

    Returns
    -------
    ndarray, shape of x

    Raises
    ------
    ShapeError, DTypeError, BackendError

    References
    ----------
    Krizhevsky, Sutskever and Hinton, "ImageNet classification with deep convolutional neural
    networks", 2012, section 3.3.
    """
    x = array("local_response_norm", "x", x)
    s = infer_local_response_norm(x.shape, size, alpha, beta, k, alpha_mode)
    return LOCAL_RESPONSE_NORM(s, x)
