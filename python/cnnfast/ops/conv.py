"""Convolution and depthwise convolution."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import config, cuda
from . import conv_mma
from .activations import ACTIVATION_CODES, ACTIVATIONS, apply_activation
from .packed import PackedWeights, own_weight, unpack
from .pad import Pad2dSpec, pad2d
from .registry import (
    Array,
    Cost,
    Epilogue,
    Lower,
    Op,
    array,
    cached,
    choice,
    elements,
    fail,
    hashable,
    integer,
    native,
    optional,
    pair,
    rank,
    shape_of,
    vector,
)
from .views import take

Pads = tuple[tuple[int, int], tuple[int, int]]
PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


@dataclass(frozen=True)
class Conv2dSpec:
    """A checked convolution: shapes, both axes of every parameter, and the native description."""

    x: tuple[int, int, int, int]
    w: tuple[int, int, int, int]
    out: tuple[int, int, int, int]
    stride: tuple[int, int]
    pads: Pads
    dilation: tuple[int, int]
    groups: int
    activation: str | None
    bias: bool
    residual: bool
    native: Any
    slope: float = 0.01  # of leaky ReLU


# --- shape rules -----------------------------------------------------------------------------------


def resolve_padding(
    op: str,
    padding: Any,
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
) -> Pads:
    """``((top, bottom), (left, right))`` of any form of ``padding``."""
    if isinstance(padding, str):
        choice(op, "padding", padding, ("valid", "same"))
        if padding == "valid":
            return (0, 0), (0, 0)
        sides = []
        for n, k, s, d in zip(size, kernel, stride, dilation, strict=True):
            # ceil(n / s) outputs; an odd total puts the extra row or column at the end.
            total = max(0, (-(-n // s) - 1) * s + (k - 1) * d + 1 - n)
            sides.append((total // 2, total - total // 2))
        return sides[0], sides[1]
    if isinstance(padding, tuple) and len(padding) == 2 and any(isinstance(p, tuple) for p in padding):
        top, bottom = pair(op, "padding", padding[0], 0)
        left, right = pair(op, "padding", padding[1], 0)
        return (top, bottom), (left, right)
    vertical, horizontal = pair(op, "padding", padding, 0)
    return (vertical, vertical), (horizontal, horizontal)


def window_count(
    op: str, axis: str, n: int, k: int, s: int, d: int, pads: tuple[int, int], **shapes: Any
) -> int:
    """floor((n + pads - d(k-1) - 1) / s) + 1, at least 1."""
    padded, span = n + sum(pads), d * (k - 1) + 1
    room = padded - span
    if room < 0:
        fail(op, f"the kernel spans {span} in {axis}, the padded input has {padded}", **shapes)
    return room // s + 1


def _check_vectors(
    op: str, o: int, out: tuple[int, ...], b: tuple[int, ...] | None, residual: tuple[int, ...] | None
) -> None:
    if b is not None and b != (o,):
        fail(op, f"bias must have shape ({o},)", bias=b)
    if residual is not None and residual != out:
        fail(op, "residual must have the shape of the output", residual=residual, output=out)


def _spec_numbers(
    x: Any, kernel: tuple[int, int], o: int, groups: int, s: Any, d: Any, pads: Pads, out: Any
) -> list[int]:
    """In the order of csrc/core/spec.h."""
    return [*x, *kernel, o, groups, *s, *d, pads[0][0], pads[1][0], out[1], out[2]]


def _bounded(steps: tuple[int, int], size: tuple[int, int], pads: Pads) -> tuple[int, int]:
    """Strides and dilations beyond the padded picture say no more than its size, and cannot overflow."""
    rows, columns = (max(1, n + sum(p)) for n, p in zip(size, pads, strict=True))
    return min(steps[0], rows), min(steps[1], columns)


@cached
def infer_conv2d(
    x: tuple[int, ...],
    w: tuple[int, ...],
    b: tuple[int, ...] | None = None,
    residual: tuple[int, ...] | None = None,
    stride: Any = 1,
    padding: Any = "valid",
    dilation: Any = 1,
    groups: Any = 1,
    activation: str | None = None,
    op: str = "conv2d",
    slope: float = 0.01,
) -> Conv2dSpec:
    """Validate a convolution and give its output shape; see :func:`conv2d`."""
    rank(op, "x", x, "N,H,W,C")
    rank(op, "weight", w, "KH,KW,C_in/groups,C_out")
    n, h, width, c = x
    kh, kw, cg, o = w
    if min(kh, kw, cg, o) < 1:
        fail(op, "the weight must not be empty", weight=w)
    groups = integer(op, "groups", groups, 1)
    s, d = pair(op, "stride", stride, 1), pair(op, "dilation", dilation, 1)
    if cg * groups != c:
        of = f" in each of {groups} groups" if groups > 1 else ""
        fail(op, f"weight has {cg} input channels{of}, x has {c}", x=x, weight=w)
    if o % groups:
        fail(op, f"{o} output channels cannot be split into {groups} groups", weight=w)
    if activation is not None:
        choice(op, "activation", activation, ACTIVATIONS)
    pads = resolve_padding(op, padding, (h, width), (kh, kw), s, d)
    p = window_count(op, "height", h, kh, s[0], d[0], pads[0], x=x, weight=w)
    q = window_count(op, "width", width, kw, s[1], d[1], pads[1], x=x, weight=w)
    out = (n, p, q, o)
    elements(op, n, h + sum(pads[0]), width + sum(pads[1]), c)
    elements(op, *out)
    s, d = _bounded(s, (h, width), pads), _bounded(d, (h, width), pads)
    _check_vectors(op, o, out, b, residual)
    module = native()
    numbers = _spec_numbers(x, (kh, kw), o, groups, s, d, pads, out)
    # The native description counts in int64; what does not fit could not be run anyway.
    described = module.Conv2dSpec(numbers) if module is not None else None
    given = b is not None, residual is not None
    return Conv2dSpec(x, w, out, s, pads, d, groups, activation, *given, described, slope)  # type: ignore[arg-type]


@cached
def infer_depthwise_conv2d(
    x: tuple[int, ...],
    w: tuple[int, ...],
    b: tuple[int, ...] | None = None,
    residual: tuple[int, ...] | None = None,
    stride: Any = 1,
    padding: Any = "valid",
    dilation: Any = 1,
    activation: str | None = None,
    slope: float = 0.01,
) -> Conv2dSpec:
    """Validate a depthwise convolution; see :func:`depthwise_conv2d`."""
    op = "depthwise_conv2d"
    rank(op, "x", x, "N,H,W,C")
    rank(op, "weight", w, "KH,KW,C,M")
    if w[2] != x[3]:
        fail(op, f"weight has {w[2]} input channels, x has {x[3]}", x=x, weight=w)
    as_groups = (w[0], w[1], 1, w[2] * w[3])
    return infer_conv2d(x, as_groups, b, residual, stride, padding, dilation, x[3], activation, op, slope)


# --- packed weights --------------------------------------------------------------------------------


def pack_conv2d(w: Any, *, groups: int = 1) -> PackedWeights:
    """Pack convolution weights once for many calls of :func:`conv2d`.

    Parameters
    ----------
    w : array_like, shape (KH, KW, C_in/groups, C_out)
    groups : int
        Must equal that of the calls; input size, stride, padding and dilation are free.

    Returns
    -------
    PackedWeights
    """
    op = "conv2d"
    own = own_weight(op, w)
    rank(op, "weight", own.shape, "KH,KW,C_in/groups,C_out")
    groups = integer(op, "groups", groups, 1)
    if min(own.shape) < 1 or own.shape[3] % groups:
        fail(op, f"{own.shape[3]} output channels cannot be split into {groups} groups", weight=own.shape)
    module = native()
    pack = module is not None and own.dtype == np.float32
    return PackedWeights(op, own, module.pack_conv2d(own, groups) if pack else None, (groups,))


# --- definitions -----------------------------------------------------------------------------------


def _windows(x: Array, kernel: tuple[int, int], stride: Any, dilation: Any, out: Any) -> Array:
    """View of x (N,H,W,C) as N,P,Q,KH,KW,C."""
    sn, sh, sw, sc = x.strides
    return np.lib.stride_tricks.as_strided(
        x,
        (out[0], out[1], out[2], *kernel, x.shape[3]),
        (sn, sh * stride[0], sw * stride[1], sh * dilation[0], sw * dilation[1], sc),
        writeable=False,
    )


def _finish(y: Array, b: Array | None, residual: Array | None, s: Conv2dSpec) -> Array:
    if b is not None:
        y += b
    if residual is not None:
        y += residual
    return y if s.activation is None else apply_activation(s.activation, y, s.slope)


def reference_conv2d(
    s: Conv2dSpec,
    x: Array,
    w: Array,
    packed: Any = None,
    b: Array | None = None,
    residual: Array | None = None,
) -> Array:
    """y[n,p,q,o] = act(sum over i,j,c of x[n, p*s + i*d - pad, q*s + j*d - pad, c] w[i,j,c,o] + b[o] + r)."""
    kh, kw, cg, o = s.w
    w = w.reshape(s.w)  # depthwise weights are C groups of one channel
    x = np.pad(x, ((0, 0), *s.pads, (0, 0)))
    windows = _windows(x, (kh, kw), s.stride, s.dilation, s.out)
    y = np.empty(s.out, x.dtype)
    og = o // s.groups
    if cg == 1 and s.groups > 1:  # depthwise: a sum over taps of whole pictures
        y = np.zeros((*s.out[:3], s.groups, og), x.dtype)
        for i in range(kh):
            for j in range(kw):
                y += windows[:, :, :, i, j, :, None] * w[i, j, 0].reshape(s.groups, og)
        return _finish(y.reshape(s.out), b, residual, s)
    for g in range(s.groups):
        part = windows[..., g * cg : (g + 1) * cg].reshape(-1, kh * kw * cg)
        matrix = w[..., g * og : (g + 1) * og].reshape(-1, og)
        y[..., g * og : (g + 1) * og] = (part @ matrix).reshape(*s.out[:3], og)
    return _finish(y, b, residual, s)


# --- native ----------------------------------------------------------------------------------------


def _native_conv2d(
    s: Conv2dSpec,
    x: Array,
    w: Array,
    packed: Any = None,
    b: Array | None = None,
    residual: Array | None = None,
) -> Array:
    return config._cpu.conv2d(s.native, x, w, packed, b, residual, ACTIVATION_CODES[s.activation], s.slope)


# --- CUDA ------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4096)
def cuda_numbers(s: Conv2dSpec) -> list[int]:
    """The convolution as the CUDA module takes it."""
    return _spec_numbers(s.x, s.w[:2], s.w[3], s.groups, s.stride, s.dilation, s.pads, s.out)


def _cuda_conv2d(
    s: Conv2dSpec, x: Any, w: Any, packed: Any = None, b: Any = None, residual: Any = None
) -> Any:
    if conv_mma.accepts(s, x.dtype):
        return conv_mma.conv2d(s, x, w, packed, b, residual)
    y = cuda.empty(s.out, x.dtype)
    ends = (cuda.buffer(b, "float32"), cuda.buffer(residual), ACTIVATION_CODES[s.activation], s.slope)
    cuda.module().conv2d(x.code, cuda_numbers(s), x.buffer, w.buffer, *ends, y.buffer)
    return y


# --- in compiled plans -----------------------------------------------------------------------------


def _reads_parts(s: Conv2dSpec) -> bool:
    """Whether pixels may be parts of wider ones; not where few channels of a group lie across lanes."""
    return s.groups == 1 or s.w[2] > 8


def _finishing(steps: Any, s: Conv2dSpec, inputs: Any) -> tuple[Any, Any, int, float]:
    """Bias and residual, activation and slope."""
    b, residual = [inputs[i] if i < len(inputs) else None for i in (3, 4)]
    return steps.place(b), steps.place(residual), ACTIVATION_CODES[s.activation], s.slope


def is_direct(s: Conv2dSpec, winograd: int) -> bool:
    """Whether a convolution by known weights, when it stands alone, takes direct arithmetic."""
    if not winograd:  # as always without kernels
        return True
    return bool(config._cpu.choose_conv(s.native, winograd).form.kind == config._cpu.ConvKind.direct)


def packed_weights(steps: Any, s: Conv2dSpec, w: Any, direct: bool = False) -> Any:
    """Known weights in the form that the algorithm of this convolution, or direct arithmetic, reads."""
    form = steps.native.choose_conv(s.native, 0 if direct else steps.winograd, steps.lean).form
    make = functools.partial(steps.native.ConvWeights, form, s.native)
    restore = functools.partial(steps.native.ConvWeights.restore, form, s.native)
    name = f"conv2d {form.kind.name}{' plain' * form.plain} {s.groups}"
    return steps.shared(w.value, name, make, restore)


def _lower_conv2d(steps: Any, s: Conv2dSpec, inputs: Any, outputs: Any) -> None:
    x, w, y = inputs[0], inputs[1], outputs[0]
    b, residual, code, slope = _finishing(steps, s, inputs)
    ends = (x.place, b, residual, y.place, code, slope)
    if not w.value.known:
        steps.plan.conv2d_plain(s.native, x.ld, y.ld, w.place, *ends)
        return
    steps.plan.conv2d(s.native, x.ld, y.ld, packed_weights(steps, s, w), *ends)


def _cost_conv2d(s: Conv2dSpec) -> Cost:
    n, p, q, o = s.out
    kh, kw, cg, _ = s.w
    extra = s.bias * o + s.residual * n * p * q * o
    flops = 2.0 * n * p * q * o * kh * kw * cg
    values = float(np.prod(s.x, dtype=float) + np.prod(s.w, dtype=float) + np.prod(s.out, dtype=float))
    return Cost(flops, 4 * (values + extra))


def _respec(
    s: Conv2dSpec, b: Any, residual: Any, activation: str | None, slope: float, op: str = "conv2d"
) -> Conv2dSpec:
    return infer_conv2d(s.x, s.w, b, residual, s.stride, s.pads, s.dilation, s.groups, activation, op, slope)


def _respec_depthwise(
    s: Conv2dSpec, b: Any, residual: Any, activation: str | None, slope: float
) -> Conv2dSpec:
    return _respec(s, b, residual, activation, slope, "depthwise_conv2d")


def _padded(s: Conv2dSpec, pad: Pad2dSpec, op: str = "conv2d") -> Conv2dSpec | None:
    """The convolution of what is padded with zeros, on the picture without them."""
    if pad.mode != "zeros" or pad.value != 0:
        return None
    rows, columns = [(a + c, b + d) for (a, b), (c, d) in zip(s.pads, pad.pads, strict=True)]
    b = (s.w[3],) if s.bias else None
    residual = s.out if s.residual else None
    return infer_conv2d(
        pad.x, s.w, b, residual, s.stride, (rows, columns), s.dilation, s.groups, s.activation, op, s.slope
    )


def _settings(s: Conv2dSpec) -> dict[str, Any]:
    ends = {"activation": s.activation, "slope": s.slope}
    return {"stride": s.stride, "padding": s.pads, "dilation": s.dilation, **ends}


def _no_packed(x: Any, w: Any, packed: Any = None, *rest: Any) -> tuple[Any, ...]:
    """The packed form of a weight has no shape of its own."""
    return (x, w, *rest)


CONV2D = Op(
    "conv2d",
    infer_conv2d,
    reference_conv2d,
    _native_conv2d,
    _cost_conv2d,
    epilogue=Epilogue(_respec, bias=3, residual=4, scale=lambda s, w, factor: w * factor),
    lower=Lower(
        _lower_conv2d,
        slice_in=lambda node, position: position == 0 and _reads_parts(node.spec),
        slice_out=lambda node: _reads_parts(node.spec) and not node.spec.residual,
    ),
    pads=_padded,
    settings=lambda s: {**_settings(s), "groups": s.groups},
    shapes=_no_packed,
    cuda=_cuda_conv2d,
)
DEPTHWISE_CONV2D = Op(
    "depthwise_conv2d",
    infer_depthwise_conv2d,
    reference_conv2d,
    _native_conv2d,
    _cost_conv2d,
    epilogue=Epilogue(
        _respec_depthwise,
        bias=3,
        residual=4,
        scale=lambda s, w, factor: w * factor.reshape(w.shape[2:]),
    ),
    lower=Lower(_lower_conv2d),
    pads=lambda s, pad: _padded(s, pad, "depthwise_conv2d"),
    settings=_settings,
    shapes=_no_packed,
    cuda=_cuda_conv2d,
)


# --- public ----------------------------------------------------------------------------------------


def conv2d(
    x: Any,
    w: Any,
    b: Any = None,
    *,
    stride: Any = 1,
    padding: Any = "valid",
    dilation: Any = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    activation: str | None = None,
    residual: Any = None,
    flip: bool = False,
) -> Array:
    """2-D convolution in the sense of neural networks: cross-correlation, nothing is flipped.

    ``y[n,p,q,o] = act(sum_{i,j,c} x[n, p*stride + i*dilation - pad, ..., c] w[i,j,c,o] + b[o] + residual)``

    Parameters
    ----------
    x : array_like, shape (N, H, W, C_in)
        float32 (native kernels) or float64 (NumPy reference).
    w : array_like, shape (KH, KW, C_in/groups, C_out), or PackedWeights
        See :func:`pack_conv2d`.
    b : array_like, shape (C_out,), optional
    stride, dilation : int or (int, int)
        In pixels; a pair is (height, width).
    padding : {"valid", "same"}, int, (int, int) or ((top, bottom), (left, right))
        ``"same"`` gives ceil(H / stride) rows for every stride and kernel size; where the total is
        odd the extra row or column is at the end.
    groups : int
        Channels are split into this many independent convolutions.
    padding_mode : {"zeros", "reflect", "replicate", "circular"}
    activation : str, optional
        "relu", "relu6", "leaky_relu" (slope .01), "sigmoid", "tanh", "silu" or "hard_swish".
    residual : array_like, shape of the result, optional
        Added before the activation.
    flip : bool
        Turn the kernel by 180 degrees: convolution in the mathematical sense.

    Returns
    -------
    ndarray, shape (N, P, Q, C_out)
        P = floor((H + pad - dilation (KH - 1) - 1) / stride) + 1, and likewise Q.

    Raises
    ------
    ShapeError, DTypeError, BackendError

    References
    ----------
    LeCun et al., "Gradient-based learning applied to document recognition", 1998; Dumoulin and Visin,
    "A guide to convolution arithmetic for deep learning", 2016, relationship 6 and section 5.1.
    """
    x = array("conv2d", "x", x)
    if flip:
        plain, _ = unpack("conv2d", w, x, (groups,))
        rank("conv2d", "weight", plain.shape, "KH,KW,C_in/groups,C_out")
        w = take(plain, (slice(None, None, -1), slice(None, None, -1)))
    w, packed = unpack("conv2d", w, x, (groups,))
    if b is not None:
        b = vector("conv2d", "bias", b, x)
    if residual is not None:
        residual = array("conv2d", "residual", residual, x)
    if padding_mode != "zeros":
        x, padding = _pad_by_mode(x, w, stride, padding, dilation, padding_mode)
    key = (x.shape, w.shape, shape_of(b), shape_of(residual), stride, padding, dilation, groups, activation)
    s = _inferred(infer_conv2d, key, stride, padding, dilation)
    return CONV2D(s, x, w, packed, b, residual)


def _inferred(infer: Any, key: tuple[Any, ...], *parameters: Any) -> Conv2dSpec:
    """The spec of a call, out of the quick cache where the parameters allow it."""
    try:
        return (infer if tuple in map(type, parameters) else infer.quick)(*key)
    except TypeError:  # a list among the parameters, or a wrong one that is now reported
        return infer(*key)


def _pad_by_mode(
    x: Array, w: Array, stride: Any, padding: Any, dilation: Any, mode: str
) -> tuple[Array, str]:
    """Write the padding out; the convolution itself is then "valid"."""
    op = "conv2d"
    choice(op, "padding_mode", mode, PADDING_MODES)
    rank(op, "x", x.shape, "N,H,W,C")
    rank(op, "weight", w.shape, "KH,KW,C_in/groups,C_out")
    s, d = pair(op, "stride", hashable(stride), 1), pair(op, "dilation", hashable(dilation), 1)
    pads = resolve_padding(op, hashable(padding), x.shape[1:3], w.shape[:2], s, d)
    return pad2d(x, pads, mode=mode), "valid"


def depthwise_conv2d(
    x: Any,
    w: Any,
    b: Any = None,
    *,
    stride: Any = 1,
    padding: Any = "valid",
    dilation: Any = 1,
    activation: str | None = None,
) -> Array:
    """Convolution of each channel by kernels of its own.

    ``y[n,p,q,c*M+m] = act(sum_{i,j} x[n, p*stride + i*dilation - pad, ..., c] w[i,j,c,m] + b[c*M+m])``

    Parameters
    ----------
    x : array_like, shape (N, H, W, C)
    w : array_like, shape (KH, KW, C, M)
        M kernels per channel.
    b : array_like, shape (C*M,), optional
    stride, padding, dilation, activation
        As in :func:`conv2d`.

    Returns
    -------
    ndarray, shape (N, P, Q, C*M)

    Raises
    ------
    ShapeError, DTypeError, BackendError

    References
    ----------
    Howard et al., "MobileNets: efficient convolutional neural networks for mobile vision
    applications", 2017, section 3.1.
    """
    x = array("depthwise_conv2d", "x", x)
    w = array("depthwise_conv2d", "weight", w, x)
    b = optional("depthwise_conv2d", "bias", b, x)
    key = (x.shape, w.shape, shape_of(b), None, stride, padding, dilation, activation)
    s = _inferred(infer_depthwise_conv2d, key, stride, padding, dilation)
    return DEPTHWISE_CONV2D(s, x, w, None, b)
