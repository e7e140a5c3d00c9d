"""Reductions over axes, and the places of the largest values.

Reductions of float32 have native kernels (csrc/cpu/reduce.cpp); whole numbers and places are NumPy's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import cuda
from .arithmetic import mul
from .binary import div
from .cast import cuda_cast
from .comparison import equal, where
from .operands import values
from .rearrange import expand
from .registry import (
    NO_GRADIENT,
    RESULT,
    Array,
    Cost,
    Lower,
    Op,
    Vjp,
    cached,
    choice,
    elements,
    fail,
    hashable,
    integer,
    native,
)

_INT64 = np.dtype(np.int64)


@dataclass(frozen=True)
class ReduceSpec:
    """A checked reduction: the axes that go, counted from the front, and the native description."""

    x: tuple[int, ...]
    out: tuple[int, ...]
    axes: tuple[int, ...]
    keepdims: bool
    native: Any

    @property
    def kept(self) -> tuple[int, ...]:
        """The shape of the result with all axes."""
        return tuple([1 if i in self.axes else n for i, n in enumerate(self.x)])


@dataclass(frozen=True)
class TopKSpec:
    x: tuple[int, ...]
    out: tuple[int, ...]
    k: int
    axis: int
    largest: bool


@cached
def infer_reduce(x: tuple[int, ...], axes: Any = None, keepdims: bool = False, op: str = "reduce_sum") -> Any:
    """Validate the axes of a reduction; None means all."""
    rank = len(x)
    if axes is None:
        axes = tuple(range(rank))
    elif not isinstance(axes, tuple):
        axes = (axes,)
    gone = sorted(integer(op, "an axis", a, -rank, rank - 1) % max(1, rank) for a in axes)
    if len(set(gone)) != len(gone):
        fail(op, f"an axis stands twice among {tuple(axes)}", x=x)
    if op != "reduce_sum" and op != "reduce_l2" and any(x[a] == 0 for a in gone):
        fail(op, "x has no elements along the axis", x=x, axes=tuple(gone))
    elements(op, *x)
    out = tuple(1 if i in gone else n for i, n in enumerate(x) if keepdims or i not in gone)
    module = native()
    return ReduceSpec(
        x, out, tuple(gone), bool(keepdims), None if module is None else module.ReduceAxes(x, gone)
    )


def _sum(x: Array, axes: tuple[int, ...], keep: bool) -> Array:
    # In double precision: NumPy adds one by one along all axes but the last.
    wide = np.float64 if x.dtype.kind == "f" else x.dtype
    return np.asarray(x.sum(axis=axes, keepdims=keep, dtype=wide)).astype(x.dtype)


def _mean(x: Array, axes: tuple[int, ...], keep: bool) -> Array:
    return np.asarray(x.mean(axis=axes, keepdims=keep, dtype=np.float64)).astype(x.dtype)


def _l2(x: Array, axes: tuple[int, ...], keep: bool) -> Array:
    wide = x.astype(np.float64)
    return np.asarray(np.sqrt((wide * wide).sum(axis=axes, keepdims=keep))).astype(x.dtype)


_REDUCTIONS: dict[str, Callable[..., Array]] = {
    "reduce_sum": _sum,
    "reduce_mean": _mean,
    "reduce_max": lambda x, axes, keep: np.asarray(x.max(axis=axes, keepdims=keep)),
    "reduce_min": lambda x, axes, keep: np.asarray(x.min(axis=axes, keepdims=keep)),
    "reduce_l2": _l2,
}


# Codes shared with csrc/cpu/reduce.h and csrc/cuda/reduce.h.
_CODES = {name: code for code, name in enumerate(_REDUCTIONS)}


Pass = tuple[int, int, int]  # sizes before, of and after an axis


def _passes(s: ReduceSpec) -> list[Pass]:
    """The reduction as reductions of one axis each, from the last one on; neighbours go together."""
    passes: list[Pass] = []
    k, inner = 1, 1
    for axis in reversed(range(len(s.x))):
        if axis in s.axes:
            k *= s.x[axis]
        if axis not in s.axes or axis == 0:
            if k != 1 or (axis == 0 and not passes):
                passes.append((math.prod(s.x[: axis + (axis not in s.axes)]), k, inner))
            inner, k = inner * (s.x[axis] if axis not in s.axes else 1), 1
    return passes


def cuda_reduce(name: str, out: tuple[int, ...], passes: list[Pass], x: Any) -> Any:
    """Reductions of one axis after another of a device array; sums between them are float32."""
    y = x if len(passes) == 1 else x.astype("float32")
    for outer, k, inner in passes:
        whole, y = y, cuda.empty((outer * inner,), y.dtype)
        cuda.module().reduce(y.code, _CODES[name], outer, k, inner, whole.buffer, y.buffer)
    return y.astype(x.dtype).reshape(out)


# --- gradients -------------------------------------------------------------------------------------

_EXTREMES = ("reduce_max", "reduce_min")


@dataclass(frozen=True)
class ReduceGradSpec:
    """The reduction that a gradient is of, and its name."""

    reduction: ReduceSpec
    name: str

    @property
    def out(self) -> tuple[int, ...]:
        return self.reduction.x


@cached
def infer_reduce_grad(
    g: tuple[int, ...], x: tuple[int, ...], axes: Any = None, keepdims: bool = False, name: str = "reduce_sum"
) -> ReduceGradSpec:
    """Validate the gradient of a reduction of an array of shape x."""
    op = "reduce_grad"
    choice(op, "name", name, tuple(n for n in _REDUCTIONS if n != "reduce_l2"))
    s = infer_reduce(x, axes, keepdims, name)
    if g != s.out:
        fail(op, "the gradient must have the shape of the result", g=g, x=x, axes=s.axes)
    return ReduceGradSpec(s, name)


def _spread(s: ReduceSpec, a: Array) -> Array:
    """What belongs to a result, at each of the elements that it was made of (a view)."""
    return np.broadcast_to(a.reshape(s.kept), s.x)


def reference_reduce_grad(
    spec: ReduceGradSpec, g: Array, x: Array | None = None, y: Array | None = None
) -> Array:
    """g at every element, over their number for means; for extremes to those that are y, each its share."""
    s = spec.reduction
    with np.errstate(all="ignore"):
        if spec.name in _EXTREMES:
            best = (x == _spread(s, y)).astype(g.dtype)  # type: ignore[arg-type]
            return best * _spread(s, g / _sum(best, s.axes, s.keepdims))
        share = g / g.dtype.type(math.prod(s.x[a] for a in s.axes)) if spec.name == "reduce_mean" else g
        return np.ascontiguousarray(_spread(s, share)).reshape(s.x)


def _native_reduce_grad(
    spec: ReduceGradSpec, g: Array, x: Array | None = None, y: Array | None = None
) -> Array:
    s = spec.reduction
    return native().reduce_grad(_CODES[spec.name], s.native, s.x, g, x, y)


def _cuda_reduce_grad(spec: ReduceGradSpec, g: Any, x: Any = None, y: Any = None) -> Any:
    s = spec.reduction
    g = g.reshape(s.kept)
    if spec.name not in _EXTREMES:
        share = div(g, float(math.prod(s.x[a] for a in s.axes))) if spec.name == "reduce_mean" else g
        return expand(share, s.x)
    best = cuda_cast(equal(x, y.reshape(s.kept)), g.dtype)
    counts = cuda_reduce("reduce_sum", s.kept, _passes(s), best) if s.axes else best
    return mul(best, div(g, counts))


REDUCE_GRAD = Op(
    "reduce_grad",
    infer_reduce_grad,
    reference_reduce_grad,
    _native_reduce_grad,
    lambda s: Cost(float(np.prod(s.out, dtype=float)), 8 * float(np.prod(s.out, dtype=float))),
    vjp=NO_GRADIENT,
    settings=lambda s: {**_axes(s.reduction), "name": s.name},
    cuda=_cuda_reduce_grad,
)


def _vjp_of(name: str) -> Vjp:
    """Of a sum, a mean, or an extreme, which is shared out among equal values as in torch's amax."""

    def vjp(s: ReduceSpec, needs: Any, g: Array, inputs: Any, results: Any) -> Any:
        return (REDUCE_GRAD.compute(ReduceGradSpec(s, name), g, inputs[0], results[0]),)

    return Vjp(vjp, _reads_both) if name in _EXTREMES else Vjp(vjp)


def _vjp_l2(s: ReduceSpec, needs: Any, g: Array, inputs: Any, results: Any) -> Any:
    """x / |x|, and 0 where the length is 0."""
    (y,) = results
    share = where(equal(y, 0.0), 0.0, div(g, y))
    return (mul(inputs[0], share.reshape(s.kept)),)


def _reads_both(s: ReduceSpec, needs: Any) -> tuple[int, ...]:
    return (0, RESULT)


_VJPS = {
    **{name: _vjp_of(name) for name in _REDUCTIONS if name != "reduce_l2"},
    "reduce_l2": Vjp(_vjp_l2, _reads_both),
}


# --- operators -------------------------------------------------------------------------------------


def _cost(s: ReduceSpec) -> Cost:
    n = float(np.prod(s.x, dtype=float))
    return Cost(n, 4 * (n + float(np.prod(s.out, dtype=float))))


def _axes(s: ReduceSpec) -> dict[str, Any]:
    return {"axes": s.axes, "keepdims": s.keepdims}


def _make(name: str) -> Op:
    function, code = _REDUCTIONS[name], _CODES[name]

    def infer(x: tuple[int, ...], axes: Any = None, keepdims: bool = False) -> ReduceSpec:
        return infer_reduce(x, axes, keepdims, name)

    def reference(s: ReduceSpec, x: Array) -> Array:
        if not s.axes:
            return _l2(x[None], (0,), False) if name == "reduce_l2" else x.copy()
        with np.errstate(all="ignore"):
            return function(x, s.axes, s.keepdims)

    def run(s: ReduceSpec, x: Array) -> Array:
        return native().reduce(code, s.native, s.out, x)

    def lower(steps: Any, s: ReduceSpec, inputs: Any, outputs: Any) -> None:
        steps.plan.reduce(code, s.native, inputs[0].place, outputs[0].place)

    def run_cuda(s: ReduceSpec, x: Any) -> Any:
        return cuda_reduce(name, s.out, _passes(s), x)

    return Op(
        name,
        infer,
        reference,
        run,
        _cost,
        vjp=_VJPS[name],
        lower=Lower(lower),
        settings=_axes,
        cuda=run_cuda,
    )


_OPS = {name: _make(name) for name in _REDUCTIONS}


def _reduce(name: str, x: Any, axes: Any, keepdims: bool, kinds: str) -> Any:
    x = values(name, "x", x, kinds)
    return _OPS[name](infer_reduce(x.shape, axes, keepdims, name), x)


def reduce_sum(x: Any, axes: Any = None, *, keepdims: bool = False) -> Any:
    """Sum over axes; floating-point sums are worked out in double precision.

    Parameters
    ----------
    x : array_like, any shape
        Floating point or whole numbers.
    axes : int or tuple of int, optional
        All of them when left out.
    keepdims : bool
        Leave the axes there with size 1.

    Returns
    -------
    ndarray of the type of x

    Raises
    ------
    ShapeError, DTypeError, BackendError
    """
    return _reduce("reduce_sum", x, axes, keepdims, "fiu")


def reduce_mean(x: Any, axes: Any = None, *, keepdims: bool = False) -> Any:
    """Mean over axes of floating-point numbers; parameters as for :func:`reduce_sum`."""
    return _reduce("reduce_mean", x, axes, keepdims, "f")


def reduce_max(x: Any, axes: Any = None, *, keepdims: bool = False) -> Any:
    """Largest value over axes; NaN if any is. Parameters as for :func:`reduce_sum`.

    The gradient at ties is shared out evenly among the largest ones.
    """
    return _reduce("reduce_max", x, axes, keepdims, "fiu")


def reduce_min(x: Any, axes: Any = None, *, keepdims: bool = False) -> Any:
    """Smallest value over axes; NaN if any is. Parameters as for :func:`reduce_sum`.

    The gradient at ties is shared out evenly among the smallest ones.
    """
    return _reduce("reduce_min", x, axes, keepdims, "fiu")


def reduce_l2(x: Any, axes: Any = None, *, keepdims: bool = False) -> Any:
    """Euclidean length over axes; parameters as for :func:`reduce_sum`, floating point alone."""
    return _reduce("reduce_l2", x, axes, keepdims, "f")


# --- places ----------------------------------------------------------------------------------------


@cached
def infer_argmax(x: tuple[int, ...], axis: Any = -1, keepdims: bool = False) -> ReduceSpec:
    """Validate a search for the largest value; see :func:`argmax`."""
    return infer_reduce(x, (axis,), keepdims, "argmax")


def reference_argmax(s: ReduceSpec, x: Array) -> Array:
    """Where the largest value is; of equal ones the first."""
    return np.asarray(np.argmax(x, axis=s.axes[0], keepdims=s.keepdims), np.int64)


def _along(x: tuple[int, ...], axis: int) -> tuple[int, int, int]:
    """Sizes before, of and after an axis."""
    return math.prod(x[:axis]), x[axis], math.prod(x[axis + 1 :])


def _cuda_argmax(s: ReduceSpec, x: Any) -> Any:
    y, (axis,) = cuda.empty(s.out, np.int64), s.axes
    cuda.module().argmax(x.code, *_along(s.x, axis), x.buffer, y.buffer)
    return y


ARGMAX = Op(
    "argmax",
    infer_argmax,
    reference_argmax,
    reference_argmax,
    _cost,
    vjp=NO_GRADIENT,
    results=lambda s, dtype: ((s.out, _INT64),),
    settings=lambda s: {"axis": s.axes[0], "keepdims": s.keepdims},
    cuda=_cuda_argmax,
)


def argmax(x: Any, axis: int = -1, *, keepdims: bool = False) -> Any:
    """Where the largest value along an axis is, as int64; of equal ones the first, and NaN is largest.

    Raises
    ------
    ShapeError, DTypeError, BackendError
    """
    x = values("argmax", "x", x, "fiu")
    return ARGMAX(infer_argmax(x.shape, axis, keepdims), x)


@cached
def infer_topk(x: tuple[int, ...], k: Any, axis: Any = -1, largest: bool = True) -> TopKSpec:
    """Validate a choice of the largest values; see :func:`topk`."""
    op = "topk"
    if not x:
        fail(op, "x must have at least one dimension", x=x)
    axis = integer(op, "axis", axis, -len(x), len(x) - 1) % len(x)
    k = integer(op, "k", k, 0)
    if k > x[axis]:
        fail(op, f"k is {k}, x has {x[axis]} values along axis {axis}", x=x)
    elements(op, *x)
    return TopKSpec(x, (*x[:axis], k, *x[axis + 1 :]), k, axis, bool(largest))


def reference_topk(s: TopKSpec, x: Array) -> tuple[Array, Array]:
    """The first k of all values in order, equal ones in the order they have in x."""
    if s.largest:  # sorted backwards, so that reversing it leaves equal values in their order
        order = x.shape[s.axis] - 1 - np.argsort(np.flip(x, s.axis), axis=s.axis, kind="stable")
        order = np.flip(order, s.axis)
    else:
        order = np.argsort(x, axis=s.axis, kind="stable")
    order = np.ascontiguousarray(np.take(order, range(s.k), axis=s.axis), np.int64)
    return np.take_along_axis(x, order, axis=s.axis), order


def _cuda_topk(s: TopKSpec, x: Any) -> tuple[Any, Any]:
    found, places = cuda.empty(s.out, x.dtype), cuda.empty(s.out, np.int64)
    buffers = x.buffer, found.buffer, places.buffer
    cuda.module().topk(x.code, *_along(s.x, s.axis), s.k, s.largest, *buffers)
    return found, places


@dataclass(frozen=True)
class TopKGradSpec:
    """The array that was chosen from, how many, and the axis."""

    out: tuple[int, ...]
    k: int
    axis: int


def infer_topk_grad(g: tuple[int, ...], places: tuple[int, ...], x: Any, axis: Any = -1) -> TopKGradSpec:
    """Validate the gradient of a choice of the largest values of an array of shape x."""
    op = "topk_grad"
    x = hashable(x)
    axis = integer(op, "axis", axis, -len(x), len(x) - 1) % max(1, len(x))
    if len(g) != len(x) or infer_topk(x, g[axis], axis).out != g:
        fail(op, "the gradient must have the shape of what was chosen", g=g, x=x)
    if places != g:
        fail(op, "expected a place for every gradient", places=places, g=g)
    return TopKGradSpec(x, g[axis], axis)


def reference_topk_grad(s: TopKGradSpec, g: Array, places: Array) -> Array:
    """Each value's gradient to the place it came from, zeros elsewhere."""
    gx = np.zeros(s.out, g.dtype)
    np.put_along_axis(gx, places, g, axis=s.axis)
    return gx


def _cuda_topk_grad(s: TopKGradSpec, g: Any, places: Any) -> Any:
    gx = cuda.empty(s.out, g.dtype)
    buffers = g.buffer, places.buffer, gx.buffer
    cuda.module().topk_grad(g.code, *_along(s.out, s.axis), s.k, *buffers)
    return gx


TOPK_GRAD = Op(
    "topk_grad",
    infer_topk_grad,
    reference_topk_grad,
    reference_topk_grad,
    lambda s: Cost(0.0, 4 * float(np.prod(s.out, dtype=float))),
    vjp=NO_GRADIENT,
    settings=lambda s: {"x": s.out, "axis": s.axis},
    cuda=_cuda_topk_grad,
)


def _vjp_topk(s: TopKSpec, needs: Any, g: Any, inputs: Any, results: Any) -> Any:
    return (TOPK_GRAD.compute(TopKGradSpec(s.x, s.k, s.axis), g[0], results[1]),)


TOPK = Op(
    "topk",
    infer_topk,
    reference_topk,
    reference_topk,
    lambda s: Cost(0.0, 4 * float(np.prod(s.x, dtype=float)) + 12 * float(np.prod(s.out, dtype=float))),
    vjp=Vjp(_vjp_topk, lambda s, needs: (~1,)),
    results=lambda s, dtype: ((s.out, dtype), (s.out, _INT64)),
    settings=lambda s: {"k": s.k, "axis": s.axis, "largest": s.largest},
    cuda=_cuda_topk,
)


def topk(x: Any, k: int, axis: int = -1, *, largest: bool = True) -> Any:
    """The k largest values along an axis, from the largest on, and where they are.

    Parameters
    ----------
    x : array_like
    k : int
        At most the size of the axis.
    axis : int
    largest : bool
        False takes the smallest ones, from the smallest on.

    Returns
    -------
    values : ndarray of the type of x
    indices : ndarray of int64
        Equal values come by rising index; NaN counts as larger than any number.

    Raises
    ------
    ShapeError, DTypeError, BackendError
    """
    x = values("topk", "x", x, "fiu")
    return TOPK(infer_topk(x.shape, k, axis, largest), x)
