"""Convolutions, dense layers and their gradients on tensor cores: which calls they take, and their layout.

All are products of matrices for ``csrc/cuda/conv_mma.cu``: a row for each output pixel, a column for each
output channel, a sum over taps and channels. Weights are packed with the sum innermost; the gradient of an
input is a convolution of the gradient that comes in with the weight turned round, one for each phase of the
stride.

bfloat16 and float16 arrays are taken as they are, float32 only where :class:`cnnfast.cuda.allow_tf32` is in
effect. Sums are float32 in a fixed order: equal calls give equal bits. Small maps cut their sum into parts
that depend on the shape of the whole call, the number of pictures included.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from .. import cuda
from ..cuda.precision import tf32_allowed
from .activations import ACTIVATION_CODES

__all__ = ["accepts", "accepts_grad_weight", "conv2d", "grad_input", "grad_weight", "pack", "pack_adjoint"]

HALVES = ("bfloat16", "float16")


# Block, of those of conv_mma.cu, and parts of the sum; left to the launcher unless tuned.
Choice = tuple[int, int]
UNDECIDED: Choice = (-1, 0)


class Numbers(NamedTuple):
    """A product in the order of ``struct ConvMma``; sizes in pixels and elements, c and o of one group."""

    n: int
    h: int
    w: int
    c: int
    kh: int
    kw: int
    o: int
    groups: int
    sh: int
    sw: int
    dh: int
    dw: int
    pt: int
    pl: int
    p: int
    q: int
    ldx: int
    y_picture: int
    y_row: int
    y_column: int


# --- which calls -----------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def _usable(module: Any) -> bool:
    """Whether the device has the instructions, and the build the kernels."""
    return tuple(module.device()["capability"]) >= (8, 0) and hasattr(module, "conv_mma")


def accepts(s: Any, dtype: Any) -> bool:
    """Whether tensor cores take the convolution, and its gradients, for arrays of this type.

    Compute capability 8.0 and up; several groups only where each has channels in multiples of 8 bytes.
    """
    if not (str(dtype) in HALVES or tf32_allowed()) or not _usable(cuda.module()):
        return False
    return s.groups == 1 or (_whole(s.w[2], dtype) and _whole(s.w[3] // s.groups, dtype))


def accepts_grad_weight(s: Any, dtype: Any) -> bool:
    """Whether tensor cores take the gradient of the weight: 2-byte elements, output channels by the eight."""
    return str(dtype) in HALVES and s.w[3] // s.groups % 8 == 0 and accepts(s, dtype)


def _whole(channels: int, dtype: Any) -> bool:
    return channels * dtype.itemsize % 8 == 0


def _padded(channels: int, dtype: Any) -> int:
    """Channels that an array is widened to: 8 bytes at a time are copied, better 16."""
    if _whole(channels, dtype):
        return channels
    step = 8 // dtype.itemsize if channels * dtype.itemsize < 8 else 16 // dtype.itemsize
    return -(-channels // step) * step


# --- layout ----------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4096)
def _numbers(s: Any, c: int) -> Numbers:
    """Those of the convolution itself, on pixels of ``c`` channels in each group."""
    n, h, w, _ = s.x
    kh, kw, _, o = s.w
    _, p, q, _ = s.out
    y = (p * q * o, q * o, o)
    sizes = (n, h, w, c, kh, kw, o // s.groups, s.groups)
    pads = (s.pads[0][0], s.pads[1][0])
    return Numbers._make((*sizes, *s.stride, *s.dilation, *pads, p, q, c * s.groups, *y))


class Phase(NamedTuple):
    """The part of an input's gradient at one remainder of row and column by the stride."""

    numbers: Numbers
    first: int  # its first element
    taps: tuple[int, int, int, int, int, int]  # first row and column, their steps, rows and columns of taps


class _Axis(NamedTuple):
    first: int  # first row of the phase
    rows: int
    tap: int  # first tap that reaches them
    step: int
    taps: int
    dilation: int
    pad: int


def _phases_of_axis(n: int, k: int, s: int, d: int, pad: int) -> Iterator[_Axis]:
    """The rows h with (h + pad) % s equal, for each remainder: g[(h + pad - i d) / s] meets tap i.

    The taps i with i d = h + pad (mod s) lie s / gcd(s, d) apart; from one to the next, g moves by
    d / gcd(s, d).
    """
    common = math.gcd(s, d)
    step, dilation = s // common, d // common
    for remainder in range(min(s, n)):
        first = (remainder - pad) % s
        if first >= n:
            continue
        tap = next((i for i in range(min(k, step)) if (i * d - first - pad) % s == 0), k)
        taps = len(range(tap, k, step))
        base = (first + pad - tap * d) // s  # the pixel of g that the first tap meets at the first row
        yield _Axis(first, len(range(first, n, s)), tap, step, taps, dilation, (taps - 1) * dilation - base)


@functools.lru_cache(maxsize=4096)
def _phases(s: Any, o: int) -> tuple[Phase, ...]:
    """The input's gradient as convolutions of a gradient with ``o`` channels in each group."""
    n, h, w, c = s.x
    kh, kw, cg, _ = s.w
    _, p, q, _ = s.out
    phases = []
    for a in _phases_of_axis(h, kh, s.stride[0], s.dilation[0], s.pads[0][0]):
        for b in _phases_of_axis(w, kw, s.stride[1], s.dilation[1], s.pads[1][0]):
            taps = (a.tap, b.tap, a.step, b.step, a.taps, b.taps)
            y = (h * w * c, s.stride[0] * w * c, s.stride[1] * c)
            reached = a.taps * b.taps > 0  # else all sums are empty
            sizes = (n, p, q, o, a.taps if reached else 0, max(b.taps, 1), cg, s.groups)
            rest = (1, 1, a.dilation, b.dilation, a.pad, b.pad, a.rows, b.rows, o * s.groups)
            phases.append(Phase(Numbers._make((*sizes, *rest, *y)), (a.first * w + b.first) * c, taps))
    return tuple(phases)


def _pack(s: Any, w: Any, dtype: Any, taps: tuple[int, ...], padded: int, adjoint: bool) -> Any:
    kh, kw, c, o = s.w
    og = o // s.groups
    rows = c if adjoint else og
    packed = cuda.empty((s.groups, rows, taps[4], taps[5], padded), dtype)
    numbers = (kh, kw, c, og, s.groups, padded, *taps)
    cuda.module().pack_mma(w.code, packed.code, numbers, adjoint, w.buffer, packed.buffer)
    return packed


def pack(s: Any, w: Any, dtype: Any) -> Any:
    """The weight of a convolution as :func:`conv2d` reads it; once for many calls.

    Parameters
    ----------
    s : Conv2dSpec
    w : DeviceArray, shape (KH, KW, C_in/groups, C_out)
        Of any floating-point type.
    dtype : element type of the arrays it will meet

    Returns
    -------
    DeviceArray, shape (groups, C_out/groups, KH, KW, C_in/groups or a little more)
    """
    kh, kw, c, _ = s.w
    return _pack(s, w, dtype, (0, 0, 1, 1, kh, kw), _padded(c, dtype), False)


def _with_rows(x: Any, rows: int, shape: tuple[int, ...]) -> Any:
    """x as so many rows, each cut or lengthened with zeros to those of the shape."""
    if x.shape == shape:
        return x
    y = cuda.empty(shape, x.dtype)
    before, after = [a.size // rows if rows else 0 for a in (x, y)]
    cuda.module().copy_rows(x.code, y.code, rows, before, after, x.buffer, y.buffer)
    return y


def _aligned(x: Any) -> Any:
    """x at a multiple of 16 bytes, as copies to shared memory want it: parts of arrays may lie anywhere."""
    return x if x.buffer.address % 16 == 0 else x.copy()


def _widened(x: Any, c: int) -> Any:
    """Pixels of ``c`` channels, zeros after those of x."""
    return _aligned(_with_rows(x, math.prod(x.shape[:-1]), (*x.shape[:-1], c)))


# --- calls -----------------------------------------------------------------------------------------


def _multiply(
    numbers: Numbers,
    x: Any,
    w: Any,
    y: Any,
    first: int = 0,
    b: Any = None,
    residual: Any = None,
    activation: str | None = None,
    slope: float = 0.01,
    choice: Choice = UNDECIDED,
) -> None:
    """The product into y from element ``first`` on; ``choice``: block and parts of the sum, for tuning."""
    module = cuda.module()
    wanted = module.conv_mma_workspace(x.code, numbers, *choice)
    workspace = module.Buffer(wanted) if wanted else None
    bias = None if b is None else b.astype("float32").buffer
    other = None if residual is None else residual.buffer
    code = ACTIVATION_CODES[activation]
    operands = (x.buffer, w.buffer, y.buffer, first, bias, other, code, slope)
    module.conv_mma(x.code, numbers, *operands, workspace, *choice)


def conv2d(
    s: Any,
    x: Any,
    w: Any,
    packed: Any = None,
    b: Any = None,
    residual: Any = None,
    choice: Choice = UNDECIDED,
) -> Any:
    """As :func:`.conv.conv2d` of a checked call, on device arrays; ``packed``: what :func:`pack` gave."""
    if packed is None:
        packed = w.form(("mma", s.groups, x.dtype), lambda: pack(s, w, x.dtype))
    numbers = _numbers(s, packed.shape[-1])
    x = _widened(x, numbers.ldx)
    y = cuda.empty(s.out, x.dtype)
    _multiply(numbers, x, packed, y, 0, b, residual, s.activation, s.slope, choice)
    return y


@functools.lru_cache(maxsize=4096)
def _phases_of(s: Any, dtype: Any) -> tuple[int, tuple[Phase, ...]]:
    """Channels of a group that a gradient is widened to, and the convolutions of it."""
    og = s.w[3] // s.groups
    padded = _padded(og, dtype) if s.groups == 1 else og
    return padded, _phases(s, padded)


def pack_adjoint(s: Any, w: Any, dtype: Any) -> tuple[Any, ...]:
    """The weight of a convolution as :func:`grad_input` reads it: one device array for each phase."""
    padded, phases = _phases_of(s, dtype)
    return tuple([_pack(s, w, dtype, phase.taps, padded, True) for phase in phases])


def grad_input(
    s: Any,
    g: Any,
    w: Any,
    packed: tuple[Any, ...] | None = None,
    b: Any = None,
    activation: str | None = None,
    slope: float = 0.01,
    choice: Choice = UNDECIDED,
) -> Any:
    """The adjoint of the convolution ``s`` of a gradient, shape s.out; the result has shape s.x.

    With bias and activation after it, it is a transpose convolution. ``packed``: what :func:`pack_adjoint`
    gave.
    """
    padded, phases = _phases_of(s, g.dtype)
    if packed is None:
        packed = w.form(("adjoint mma", s, g.dtype), lambda: pack_adjoint(s, w, g.dtype))
    g = _widened(g, padded * s.groups)
    dx = cuda.empty(s.x, g.dtype)
    for phase, weight in zip(phases, packed, strict=True):
        _multiply(phase.numbers, g, weight, dx, phase.first, b, None, activation, slope, choice)
    return dx


def grad_weight(s: Any, x: Any, g: Any, choice: Choice = UNDECIDED) -> Any:
    """The gradient of the weight of the convolution ``s``, shape s.w, from x and the result's gradient."""
    kh, kw, cg, o = s.w
    c = _padded(cg, x.dtype) if s.groups == 1 else cg
    x = _widened(x, c * s.groups)
    g, numbers = _aligned(g), _numbers(s, c)
    module = cuda.module()
    dw = cuda.empty((kh, kw, c, o), x.dtype)
    wanted = module.conv_mma_grad_weight_workspace(x.code, numbers, *choice)
    workspace = module.Buffer(wanted) if wanted else None
    module.conv_mma_grad_weight(x.code, numbers, x.buffer, g.buffer, dw.buffer, workspace, *choice)
    return _with_rows(dw, kh * kw, s.w)
