"""Cross-entropy of scores, softmax or sigmoid included, with the gradient that belongs to it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import cuda
from ..errors import DTypeError, GradientError
from ..tensor import Tensor
from .activations import apply_activation
from .arithmetic import mul
from .registry import (
    NO_GRADIENT,
    Array,
    Cost,
    Op,
    Vjp,
    array,
    as_array,
    cached,
    fail,
    integer,
    native,
    number,
)
from .softmax import log_softmax


@dataclass(frozen=True)
class CrossEntropySpec:
    """A checked cross-entropy over the last axis."""

    x: tuple[int, ...]
    out: tuple[int, ...]
    label_smoothing: float
    ignore_index: int

    @property
    def rows(self) -> int:
        return math.prod(self.out)


@cached
def infer_softmax_cross_entropy(
    x: tuple[int, ...], labels: tuple[int, ...], label_smoothing: Any = 0.0, ignore_index: Any = -100
) -> CrossEntropySpec:
    """Validate a cross-entropy; see :func:`softmax_cross_entropy`."""
    op = "softmax_cross_entropy"
    if not x or x[-1] < 1:
        fail(op, "x must have dimensions ...,classes with at least one class", x=x)
    if labels != x[:-1]:
        fail(op, "labels must have the shape of x without its last axis", labels=labels, x=x)
    smoothing = number(op, "label_smoothing", label_smoothing)
    if not 0 <= smoothing <= 1:
        fail(op, f"label_smoothing must be in 0..1, got {smoothing}")
    ignored = integer(op, "ignore_index", ignore_index, -(1 << 62))
    return CrossEntropySpec(x, x[:-1], smoothing, ignored)


def reference_softmax_cross_entropy(s: CrossEntropySpec, x: Array, labels: Array) -> tuple[Array, Array]:
    """loss = -sum over k of t[k] log p[k], gradient = p - t, with p the softmax of the row and
    t[k] = (1 - e) [k = label] + e / K; both 0 for ignored rows."""
    k, e = s.x[-1], s.label_smoothing
    rows, label = x.reshape(-1, k), labels.reshape(-1)
    used = label != s.ignore_index
    target, row = np.where(used, label, 0), np.arange(len(label))
    with np.errstate(all="ignore"):
        log_p = np.asarray(log_softmax(rows)) if len(rows) else rows
        loss = -log_p[row, target]
        if e:
            loss = (1 - e) * loss - e * log_p.mean(axis=1, dtype=np.float64)
        gradient = np.exp(log_p)
        if e:
            gradient -= x.dtype.type(e / k)
        gradient[row, target] -= x.dtype.type(1 - e)
    loss, gradient = np.where(used, loss, 0), np.where(used[:, None], gradient, 0)
    return loss.astype(x.dtype).reshape(s.out), gradient.astype(x.dtype).reshape(s.x)


def _vjp(s: CrossEntropySpec, needs: Any, g: Any, inputs: Any, results: Any) -> Any:
    """The gradient that was worked out with the loss, times that of each row's loss."""
    if g[1] is not None:
        raise GradientError("softmax_cross_entropy: the gradient that it gives has no gradient itself")
    return (mul(results[1], g[0].reshape(*g[0].shape, 1)),)


def _cuda_softmax_cross_entropy(s: CrossEntropySpec, x: Any, labels: Any) -> Any:
    loss, gradient = cuda.empty(s.out, x.dtype), cuda.empty(s.x, x.dtype)
    cuda.module().softmax_cross_entropy(
        x.code,
        s.rows,
        s.x[-1],
        x.buffer,
        labels.buffer,
        s.label_smoothing,
        s.ignore_index,
        loss.buffer,
        gradient.buffer,
    )
    return loss, gradient


SOFTMAX_CROSS_ENTROPY = Op(
    "softmax_cross_entropy",
    infer_softmax_cross_entropy,
    reference_softmax_cross_entropy,
    lambda s, x, labels: native().softmax_cross_entropy(x, labels, s.label_smoothing, s.ignore_index),
    lambda s: Cost(
        8 * float(np.prod(s.x, dtype=float)),
        8 * float(np.prod(s.x, dtype=float)) + 12 * float(np.prod(s.out, dtype=float)),
    ),
    vjp=Vjp(_vjp, lambda s, needs: (~1,)),
    results=lambda s, dtype: ((s.out, dtype), (s.x, dtype)),
    settings=lambda s: {"label_smoothing": s.label_smoothing, "ignore_index": s.ignore_index},
    cuda=_cuda_softmax_cross_entropy,
)


def _labels(op: str, labels: Any) -> Array:
    """Whole numbers as a C-contiguous int64 array in host memory."""
    a = labels.data if isinstance(labels, Tensor) else labels
    a = a.numpy() if isinstance(a, cuda.DeviceArray) else as_array(op, "labels", a)
    if a.dtype.kind not in "iu":
        raise DTypeError(f"{op}: labels are {a.dtype}; expected whole numbers")
    return np.require(a, np.int64, ["C", "A"]).view(np.ndarray)


def softmax_cross_entropy(
    x: Any, labels: Any, *, label_smoothing: float = 0.0, ignore_index: int = -100
) -> tuple[Array, Array]:
    """Cross-entropy of the softmax of each row with its label, and its gradient.

    ``loss = -sum_k t[k] log softmax(x)[k]`` with ``t[k] = (1 - e) [k = label] + e / K``.

    Parameters
    ----------
    x : array_like, shape (..., K)
        Scores before the softmax; float32 (native kernels) or float64 (NumPy reference).
    labels : array_like of whole numbers, shape (...)
        0 .. K-1, or ``ignore_index``.
    label_smoothing : float
        e, in 0 .. 1.
    ignore_index : int
        Rows with this label have no loss and no gradient.

    Returns
    -------
    loss : ndarray, shape (...)
        Per row, neither summed nor averaged.
    gradient : ndarray, shape (..., K)
        Of each row's loss with respect to its scores: softmax(x) - t.

    Raises
    ------
    ShapeError, DTypeError, BackendError

    References
    ----------
    Bridle, "Probabilistic interpretation of feedforward classification network outputs", 1990; Szegedy et
    al., "Rethinking the Inception architecture", 2016, section 7 (label smoothing).
    """
    op = "softmax_cross_entropy"
    x = array(op, "x", x)
    label = _labels(op, labels)
    s = infer_softmax_cross_entropy(x.shape, label.shape, label_smoothing, ignore_index)
    # Negative labels are large without their sign.
    good = label.view(np.uint64) < s.x[-1]
    if np.count_nonzero(good) < good.size:
        wrong = label[~good & (label != s.ignore_index)]
        if wrong.size:
            fail(op, f"labels must be in 0..{s.x[-1] - 1}, got {wrong[0]}", x=x.shape)
    data = x._data if isinstance(x, Tensor) else x
    return SOFTMAX_CROSS_ENTROPY(s, x, cuda.asarray(label) if isinstance(data, cuda.DeviceArray) else label)


# --- independent classes ---------------------------------------------------------------------------


@dataclass(frozen=True)
class SigmoidCrossEntropySpec:
    """A checked cross-entropy of each score with its own target."""

    out: tuple[int, ...]
    pos_weight: float


@cached
def infer_sigmoid_cross_entropy(
    x: tuple[int, ...], target: tuple[int, ...], pos_weight: Any = 1.0
) -> SigmoidCrossEntropySpec:
    """Validate a cross-entropy; see :func:`sigmoid_cross_entropy`."""
    op = "sigmoid_cross_entropy"
    if target != x:
        fail(op, "target must have the shape of x", target=target, x=x)
    weight = number(op, "pos_weight", pos_weight)
    if not 0 <= weight < math.inf:
        fail(op, f"pos_weight must be finite and not negative, got {weight}")
    return SigmoidCrossEntropySpec(x, weight)


def _softplus(x: Array) -> tuple[Array, Array]:
    """log(1 + exp(-x)) and log(1 + exp(x)), without overflow."""
    small = np.log1p(np.exp(-np.abs(x)))
    return small + np.maximum(-x, 0), small + np.maximum(x, 0)


def reference_sigmoid_cross_entropy(s: SigmoidCrossEntropySpec, x: Array, target: Array) -> Array:
    """w t log(1 + exp(-x)) + (1 - t) log(1 + exp(x))."""
    with np.errstate(all="ignore"):
        of_one, of_zero = _softplus(x)
        return x.dtype.type(s.pos_weight) * target * of_one + (1 - target) * of_zero


@dataclass(frozen=True)
class SigmoidGradSpec:
    """Whether the gradient is that of the target, or of the score."""

    out: tuple[int, ...]
    pos_weight: float
    by_target: bool


def infer_sigmoid_cross_entropy_grad(
    g: tuple[int, ...],
    x: tuple[int, ...],
    target: tuple[int, ...],
    pos_weight: Any = 1.0,
    by_target: bool = False,
) -> SigmoidGradSpec:
    """Validate the gradient of a cross-entropy of sigmoids."""
    if g != x:
        fail("sigmoid_cross_entropy_grad", "the gradient must have the shape of x", g=g, x=x)
    return SigmoidGradSpec(x, infer_sigmoid_cross_entropy(x, target, pos_weight).pos_weight, by_target)


def reference_sigmoid_cross_entropy_grad(s: SigmoidGradSpec, g: Array, x: Array, target: Array) -> Array:
    """g ((1 - t) sigmoid(x) - w t sigmoid(-x)), or g (w log(1 + exp(-x)) - log(1 + exp(x)))."""
    weight = x.dtype.type(s.pos_weight)
    with np.errstate(all="ignore"):
        if s.by_target:
            of_one, of_zero = _softplus(x)
            return g * (weight * of_one - of_zero)
        positive, negative = apply_activation("sigmoid", x), apply_activation("sigmoid", -x)
        return g * ((1 - target) * positive - weight * target * negative)


def _vjp_sigmoid(s: SigmoidCrossEntropySpec, needs: Any, g: Array, inputs: Any, results: Any) -> Any:
    specs = [SigmoidGradSpec(s.out, s.pos_weight, by_target) for by_target in (False, True)]
    return [
        SIGMOID_CROSS_ENTROPY_GRAD.compute(spec, g, *inputs) if need else None
        for need, spec in zip(needs, specs, strict=True)
    ]


def _cost_sigmoid(s: Any) -> Cost:
    return Cost(12 * float(np.prod(s.out, dtype=float)), 16 * float(np.prod(s.out, dtype=float)))


def _cuda_sigmoid(what: int, s: Any, g: Any, x: Any, target: Any) -> Any:
    y, start = cuda.empty(s.out, x.dtype), None if g is None else g.buffer
    buffers = start, x.buffer, target.buffer, y.buffer
    cuda.module().sigmoid_cross_entropy(x.code, what, x.size, s.pos_weight, *buffers)
    return y


# Numbers of the native functions: the loss, its gradient by the score, and by the target.
SIGMOID_CROSS_ENTROPY_GRAD = Op(
    "sigmoid_cross_entropy_grad",
    infer_sigmoid_cross_entropy_grad,
    reference_sigmoid_cross_entropy_grad,
    lambda s, g, x, target: native().sigmoid_cross_entropy(1 + s.by_target, g, x, target, s.pos_weight),
    _cost_sigmoid,
    vjp=NO_GRADIENT,
    settings=lambda s: {"pos_weight": s.pos_weight, "by_target": s.by_target},
    cuda=lambda s, g, x, target: _cuda_sigmoid(1 + s.by_target, s, g, x, target),
)
SIGMOID_CROSS_ENTROPY = Op(
    "sigmoid_cross_entropy",
    infer_sigmoid_cross_entropy,
    reference_sigmoid_cross_entropy,
    lambda s, x, target: native().sigmoid_cross_entropy(0, None, x, target, s.pos_weight),
    _cost_sigmoid,
    vjp=Vjp(_vjp_sigmoid, lambda s, needs: (0, 1)),
    settings=lambda s: {"pos_weight": s.pos_weight},
    cuda=lambda s, x, target: _cuda_sigmoid(0, s, None, x, target),
)


def sigmoid_cross_entropy(x: Any, target: Any, *, pos_weight: float = 1.0) -> Array:
    """Cross-entropy of the sigmoid of each score with its target.

    ``-w t log sigmoid(x) - (1 - t) log(1 - sigmoid(x))``; the gradient at x = 0 is ``1/2 - t`` for w = 1.

    Parameters
    ----------
    x : array_like, any shape
        Scores before the sigmoid; float32 (native kernels) or float64 (NumPy reference).
    target : array_like, shape and type of x
        Probabilities in 0 .. 1.
    pos_weight : float
        w, the weight of positive targets.

    Returns
    -------
    ndarray, shape of x
        Per score, neither summed nor averaged.

    Raises
    ------
    ShapeError, DTypeError, BackendError

    References
    ----------
    Bishop, "Pattern recognition and machine learning", 2006, equation 4.90.
    """
    op = "sigmoid_cross_entropy"
    x = array(op, "x", x)
    target = array(op, "target", target, x)
    s = infer_sigmoid_cross_entropy(x.shape, target.shape, pos_weight)
    return SIGMOID_CROSS_ENTROPY(s, x, target)
