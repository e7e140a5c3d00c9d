"""Transpose convolution."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np

from .. import cuda
from . import conv_mma
from .activations import ACTIVATION_CODES, ACTIVATIONS
from .conv import (
    Conv2dSpec,
    _check_vectors,
    _finish,
    _finishing,
    _no_packed,
    _settings,
    _spec_numbers,
    resolve_padding,
)
from .packed import PackedWeights, own_weight, unpack
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
    integer,
    native,
    optional,
    pair,
    rank,
    shape_of,
)


@cached
def infer_conv2d_transpose(
    x: tuple[int, ...],
    w: tuple[int, ...],
    b: tuple[int, ...] | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    dilation: Any = 1,
    groups: Any = 1,
    activation: str | None = None,
    slope: float = 0.01,
) -> Conv2dSpec:
    """Validate a transpose convolution; see :func:`conv2d_transpose`."""
    op = "conv2d_transpose"
    rank(op, "x", x, "N,H,W,C")
    rank(op, "weight", w, "KH,KW,C_out/groups,C_in")
    n, h, width, c = x
    kh, kw, og, wc = w
    groups = integer(op, "groups", groups, 1)
    s, d = pair(op, "stride", stride, 1), pair(op, "dilation", dilation, 1)
    extra_rows = pair(op, "output_padding", output_padding, 0)
    if min(w) < 1:
        fail(op, "the weight must not be empty", weight=w)
    if wc != c:
        fail(op, f"weight has {wc} input channels, x has {c}", x=x, weight=w)
    if c % groups:
        fail(op, f"{c} input channels cannot be split into {groups} groups", x=x)
    if isinstance(padding, str):
        fail(op, f"padding must be given in numbers, got {padding!r}")
    pads = resolve_padding(op, padding, (h, width), (kh, kw), s, d)
    if min(h, width) < 1:
        fail(op, "x must have at least one row and one column", x=x)
    size, uncut = [], []
    for axis, i, k in (("height", h, kh), ("width", width, kw)):
        a = 0 if axis == "height" else 1
        if extra_rows[a] >= max(s[a], d[a]):
            fail(op, f"output_padding in {axis} must be below stride or dilation, got {extra_rows[a]}")
        full = (i - 1) * s[a] + d[a] * (k - 1) + 1 + extra_rows[a]
        if full <= sum(pads[a]):
            fail(op, f"the padding leaves no output in {axis}", x=x, weight=w)
        size.append(full - sum(pads[a]))
        uncut.append(full)
    out = (n, size[0], size[1], og * groups)
    elements(op, n, *uncut, og * groups)
    _check_vectors(op, out[3], out, b, None)
    module = native()
    numbers = _spec_numbers(x, (kh, kw), out[3], groups, s, d, pads, out)
    described = module.ConvTransposeSpec(numbers) if module is not None else None
    given = b is not None, False
    if activation is not None:
        choice(op, "activation", activation, ACTIVATIONS)
    return Conv2dSpec(x, w, out, s, pads, d, groups, activation, *given, described, slope)  # type: ignore[arg-type]


def pack_conv2d_transpose(w: Any, *, stride: Any = 1, dilation: Any = 1, groups: int = 1) -> PackedWeights:
    """Pack transpose-convolution weights (KH, KW, C_out/groups, C_in) for :func:`conv2d_transpose`.

    Stride, dilation and groups must equal those of the calls; padding and input size are free.
    """
    op = "conv2d_transpose"
    own = own_weight(op, w)
    rank(op, "weight", own.shape, "KH,KW,C_out/groups,C_in")
    spec = infer_conv2d_transpose((1, 1, 1, own.shape[3]), own.shape, None, stride, 0, 0, dilation, groups)
    module = native()
    pack = module is not None and own.dtype == np.float32
    packed = module.pack_conv2d_transpose(spec.native, own) if pack else None
    return PackedWeights(op, own, packed, (spec.stride, spec.dilation, spec.groups))


def reference_conv2d_transpose(
    s: Conv2dSpec, x: Array, w: Array, packed: Any = None, b: Array | None = None
) -> Array:
    """y[n, p*s + i*d - pad, q*s + j*d - pad, o] += x[n,p,q,c] w[i,j,o,c]: the adjoint of conv2d."""
    n, h, width, c = s.x
    kh, kw, og, _ = s.w
    (sh, sw), (dh, dw) = s.stride, s.dilation
    (top, _), (left, _) = s.pads
    p, q = s.out[1:3]
    # Everything that is written, before the padding is cut away; output_padding may ask for more.
    rows = max(top + p, (h - 1) * sh + (kh - 1) * dh + 1)
    columns = max(left + q, (width - 1) * sw + (kw - 1) * dw + 1)
    full = np.zeros((n, rows, columns, s.out[3]), x.dtype)
    cg = c // s.groups
    for g in range(s.groups):
        part = x[..., g * cg : (g + 1) * cg]
        for i in range(kh):
            for j in range(kw):
                full[
                    :,
                    i * dh : i * dh + (h - 1) * sh + 1 : sh,
                    j * dw : j * dw + (width - 1) * sw + 1 : sw,
                    g * og : (g + 1) * og,
                ] += part @ w[i, j, :, g * cg : (g + 1) * cg].T
    y = np.ascontiguousarray(full[:, top : top + p, left : left + q])
    return _finish(y, b, None, s)


def _native_conv2d_transpose(
    s: Conv2dSpec, x: Array, w: Array, packed: Any = None, b: Array | None = None
) -> Array:
    return native().conv2d_transpose(s.native, x, w, packed, b, ACTIVATION_CODES[s.activation], s.slope)


def _cuda_conv2d_transpose(s: Conv2dSpec, x: Any, w: Any, packed: Any = None, b: Any = None) -> Any:
    adjoint = replace(s, x=s.out, out=s.x)
    if conv_mma.accepts(adjoint, x.dtype):
        return conv_mma.grad_input(adjoint, x, w, packed, b, s.activation, s.slope)
    y = cuda.empty(s.out, x.dtype)
    numbers = _spec_numbers(s.out, s.w[:2], s.x[3], s.groups, s.stride, s.dilation, s.pads, s.x)
    ends = (cuda.buffer(b, "float32"), ACTIVATION_CODES[s.activation], s.slope)
    cuda.module().conv2d_adjoint(x.code, numbers, x.buffer, w.buffer, *ends, y.buffer)
    return y


def _lower_conv2d_transpose(steps: Any, s: Conv2dSpec, inputs: Any, outputs: Any) -> None:
    x, w, y = inputs[0], inputs[1], outputs[0]
    b, _, code, slope = _finishing(steps, s, inputs)
    make = functools.partial(steps.native.pack_conv2d_transpose, s.native)
    restore = functools.partial(steps.native.PackedTranspose.restore, s.native)
    form = f"conv2d_transpose {s.stride} {s.dilation} {s.groups}"
    weights = steps.shared(w.value, form, make, restore)
    # Weights that are not finite are read as they are.
    plain = steps.none if weights.finite else steps.place(w)
    steps.plan.conv2d_transpose(s.native, x.ld, y.ld, plain, weights, x.place, b, y.place, code, slope)


def _cost_conv2d_transpose(s: Conv2dSpec) -> Cost:
    kh, kw, og, _ = s.w
    values = float(np.prod(s.x, dtype=float) + np.prod(s.w, dtype=float) + np.prod(s.out, dtype=float))
    return Cost(2.0 * float(np.prod(s.x, dtype=float)) * kh * kw * og, 4 * (values + s.bias * s.out[3]))


def _respec_transpose(
    s: Conv2dSpec, b: Any, residual: Any, activation: str | None, slope: float
) -> Conv2dSpec:
    _check_vectors("conv2d_transpose", s.out[3], s.out, b, residual)
    return replace(s, bias=b is not None, activation=activation, slope=slope)


def _scale_transpose(s: Conv2dSpec, w: Array, factor: Array) -> Array:
    kh, kw, og, c = w.shape
    by_group = w.reshape(kh, kw, og, s.groups, c // s.groups)
    return np.asarray(by_group * factor.reshape(s.groups, og).T[:, :, None]).reshape(w.shape)


def _extra_rows(s: Conv2dSpec) -> tuple[int, ...]:
    """``output_padding`` of a transpose convolution."""
    return tuple(
        [
            s.out[1 + a] + sum(s.pads[a]) - (s.x[1 + a] - 1) * s.stride[a] - s.dilation[a] * (s.w[a] - 1) - 1
            for a in (0, 1)
        ]
    )


CONV2D_TRANSPOSE = Op(
    "conv2d_transpose",
    infer_conv2d_transpose,
    reference_conv2d_transpose,
    _native_conv2d_transpose,
    _cost_conv2d_transpose,
    epilogue=Epilogue(_respec_transpose, bias=3, scale=_scale_transpose),
    lower=Lower(
        _lower_conv2d_transpose,
        accepts=lambda node: node.inputs[1].known,
        slice_in=lambda node, position: position == 0,
        slice_out=lambda node: True,
    ),
    settings=lambda s: {**_settings(s), "output_padding": _extra_rows(s), "groups": s.groups},
    shapes=_no_packed,
    cuda=_cuda_conv2d_transpose,
)


def conv2d_transpose(
    x: Any,
    w: Any,
    b: Any = None,
    *,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Array:
    """Transpose convolution: the adjoint of :func:`conv2d` with the same weight, not its inverse.

    ``y[n, p*stride + i*dilation - padding, ..., o] += x[n,p,q,c] w[i,j,o,c]``; overlaps add up.

    Parameters
    ----------
    x : array_like, shape (N, H, W, C_in)
    w : array_like, shape (KH, KW, C_out/groups, C_in), or PackedWeights
        The weight of the convolution whose adjoint this is; see :func:`pack_conv2d_transpose`.
    b : array_like, shape (C_out,), optional
    stride, dilation : int or (int, int)
    padding : int, (int, int) or ((top, bottom), (left, right))
        Rows and columns cut from the result.
    output_padding : int or (int, int)
        Extra rows and columns at the end; below stride or dilation.
    groups : int

    Returns
    -------
    ndarray, shape (N, P, Q, C_out)
        P = (H - 1) stride + dilation (KH - 1) + 1 + output_padding - padding (both sides).

    Raises
    ------
    ShapeError, DTypeError, BackendError

    References
    ----------
    Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, chapter 4.
    """
    x = array("conv2d_transpose", "x", x)
    packed = None
    if isinstance(w, PackedWeights):
        probe = infer_conv2d_transpose(
            x.shape, w.shape, None, stride, padding, output_padding, dilation, groups
        )
        w, packed = unpack("conv2d_transpose", w, x, (probe.stride, probe.dilation, probe.groups))
    else:
        w = array("conv2d_transpose", "weight", w, x)
    b = optional("conv2d_transpose", "bias", b, x)
    s = infer_conv2d_transpose(
        x.shape, w.shape, shape_of(b), stride, padding, output_padding, dilation, groups
    )
    return CONV2D_TRANSPOSE(s, x, w, packed, b)
