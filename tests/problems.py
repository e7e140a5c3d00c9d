"""One table of problems for the convolution family, and what their answers must be.

The general shapes come in three forms: plain, tail (17 channels, 7 pixels: no multiple of any vector or
tile) and strided (unequal steps per axis, and operands that are views into larger arrays). The layers of
the real networks are read from the files that the benchmarks use.

The oracle is written out here in float64 and shares no code with the package. Its tolerance is derived:
with u = 2**-24 and K products per output, rounding errors of random data grow like u sqrt(K) times the
sum of the absolute products, so that is the unit in which errors are measured.
"""

from __future__ import annotations

import itertools
import json
import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

U = 2.0**-24
Pads = tuple[tuple[int, int], tuple[int, int]]
Pixels = list[tuple[int, int, int]]
# Multiply-adds per layer: the pictures of larger ones are cut, channels and kernels stay.
LAYER_MACS = 40_000_000


def _pair(value: Any) -> Any:
    return (value, value) if isinstance(value, int) else tuple(value)


@dataclass(frozen=True)
class Problem:
    """One call: shapes, keywords and whether there is a bias."""

    name: str
    op: str
    x: tuple[int, ...]
    w: tuple[int, ...] = ()
    attrs: dict[str, Any] = field(default_factory=dict)
    bias: bool = True
    views: bool = False  # operands are views with gaps

    def __str__(self) -> str:
        return f"{self.op}-{self.name}"

    @property
    def pads(self) -> Pads:
        """Explicit padding ((top, bottom), (left, right)); the table has no other forms."""
        p = self.attrs.get("padding", 0)
        vertical, horizontal = _pair(p)
        return _pair(vertical), _pair(horizontal)

    def two(self, name: str, default: int = 1) -> tuple[int, int]:
        return _pair(self.attrs.get(name, default))

    @property
    def out(self) -> tuple[int, ...]:
        if self.op == "linear":
            return (*self.x[:-1], self.w[1])
        if self.op == "gram_matrix":
            return (self.x[0], self.x[-1], self.x[-1])
        s, d, pads = self.two("stride"), self.two("dilation"), self.pads
        if self.op == "conv2d_transpose":
            extra = self.two("output_padding", 0)
            size = [
                (self.x[1 + a] - 1) * s[a] + d[a] * (self.w[a] - 1) + 1 + extra[a] - sum(pads[a])
                for a in (0, 1)
            ]
            return (self.x[0], *size, self.w[2] * self.attrs.get("groups", 1))
        size = [(self.x[1 + a] + sum(pads[a]) - d[a] * (self.w[a] - 1) - 1) // s[a] + 1 for a in (0, 1)]
        return (self.x[0], *size, self.w[2] * self.w[3] if self.op == "depthwise_conv2d" else self.w[3])

    @property
    def macs(self) -> int:
        """Multiply-adds; taps in the padding count."""
        if self.op == "conv2d_transpose":
            return math.prod(self.x) * math.prod(self.w[:3])
        if self.op == "depthwise_conv2d":
            return math.prod(self.out) * self.w[0] * self.w[1]
        if self.op == "gram_matrix":
            return math.prod(self.x) * (self.x[-1] + 1) // 2
        return math.prod(self.out) * math.prod(self.w[:-1])

    @property
    def terms(self) -> int:
        """Most products in one output element."""
        if self.op == "linear":
            return self.w[0]
        if self.op == "gram_matrix":
            return math.prod(self.x[1:-1])
        if self.op == "depthwise_conv2d":
            return self.w[0] * self.w[1]
        if self.op == "conv2d_transpose":
            return self.w[0] * self.w[1] * self.x[3] // self.attrs.get("groups", 1)
        return math.prod(self.w[:3])


# --- the table -------------------------------------------------------------------------------------


def general() -> list[Problem]:
    """Kernels of every kind, each in its three forms."""
    table: list[Problem] = []
    conv = [  # kernel, groups, dilation
        ((1, 1), 1, 1),
        ((3, 3), 1, 1),
        ((5, 5), 1, (1, 2)),
        ((7, 7), 1, 1),
        ((11, 11), 1, 1),
        ((1, 7), 1, 1),
        ((7, 1), 1, (2, 1)),
        ((2, 2), 1, 1),
        ((4, 3), 1, (3, 2)),
        ((3, 3), 2, 1),
        ((1, 1), 4, 1),
        ((2, 3), 8, (1, 2)),
    ]
    for (kh, kw), groups, dilation in conv:
        dh, dw = _pair(dilation)
        pads = ((dh * (kh - 1) // 2, dh * kh // 2), (dw * (kw - 1) // 2, dw * kw // 2))
        base = {"groups": groups, "dilation": dilation, "padding": pads}
        name = f"{kh}x{kw} groups {groups} dilation {dilation}"
        plain = Problem(f"plain {name}", "conv2d", (2, 9, 10, 32), (kh, kw, 32 // groups, 48), base)
        c, o = (17, 19) if groups == 1 else (3 * groups, 5 * groups)
        tail = Problem(
            f"tail {name}", "conv2d", (1, 7, 7, c), (kh, kw, c // groups, o), {**base, "activation": "relu"}
        )
        uneven = ((kh // 2 + 1, kh), (0, 2 * kw))
        strided = Problem(
            f"strided {name}",
            "conv2d",
            (2, 21, 18, 24),
            (kh, kw, 24 // groups, 40),
            {**base, "stride": (3, 2), "padding": uneven},
            bias=False,
            views=True,
        )
        table += [plain, tail, strided]
    for c, k in ((1, (5, 5)), (3, (7, 7)), (4, (3, 3)), (8, (3, 5))):  # a kernel row is one run of memory
        table += [
            Problem(f"rows {c} plain", "conv2d", (2, 16, 16, c), (*k, c, 16), {"padding": 2}),
            Problem(f"rows {c} tail", "conv2d", (1, 7, 7, c), (*k, c, 17), {"padding": ((3, 0), (0, 4))}),
            Problem(
                f"rows {c} strided",
                "conv2d",
                (2, 19, 24, c),
                (*k, c, 33),
                {"stride": (2, 3), "padding": (1, 3)},
                views=True,
            ),
            Problem(f"rows {c} valid", "conv2d", (1, 12, 15, c), (*k, c, 8), {"stride": (1, 2)}),
        ]
    for kh, kw in ((1, 1), (3, 3), (5, 5), (7, 7), (3, 5), (5, 3), (2, 2), (4, 6), (9, 9)):
        pad = {"padding": ((kh // 2, kh // 2), (kw // 2, kw // 2))}
        name = f"{kh}x{kw}"
        for s in (1, 2):
            plain = Problem(
                f"plain {name}/{s}",
                "depthwise_conv2d",
                (2, 16, 15, 64),
                (kh, kw, 64, 1),
                {**pad, "stride": s},
            )
            tail = Problem(
                f"tail {name}/{s}", "depthwise_conv2d", (1, 7, 7, 17), (kh, kw, 17, 1), {**pad, "stride": s}
            )
            table += [plain, replace(tail, attrs={**tail.attrs, "activation": "relu6"})]
        table += [
            Problem(
                f"strided {name}",
                "depthwise_conv2d",
                (2, 19, 23, 40),
                (kh, kw, 40, 1),
                {"stride": (3, 1), "padding": ((kh, 0), (1, kw)), "dilation": (2, 1)},
                bias=False,
                views=True,
            ),
            Problem(
                f"multiplier 3 {name}",
                "depthwise_conv2d",
                (1, 12, 10, 11),
                (kh, kw, 11, 3),
                {**pad, "dilation": (1, 2)},
            ),
        ]
    table += [
        Problem("few channels", "depthwise_conv2d", (2, 9, 8, 3), (3, 3, 3, 1), {"padding": 1}),
        Problem("one channel", "depthwise_conv2d", (2, 9, 8, 1), (3, 3, 1, 4), {"padding": 1}),
        Problem("1024 channels", "depthwise_conv2d", (2, 16, 7, 1024), (3, 3, 1024, 1), {"padding": 1}),
        Problem(
            "1024 channels/2",
            "depthwise_conv2d",
            (1, 31, 5, 1024),
            (3, 3, 1024, 1),
            {"padding": (1, 2), "stride": 2},
        ),
        Problem(
            "1024 by multiplier",
            "depthwise_conv2d",
            (1, 17, 4, 512),
            (3, 2, 512, 2),
            {"padding": ((20, 1), (0, 3))},
        ),
        Problem("wide", "depthwise_conv2d", (1, 3, 200, 17), (3, 3, 17, 1), {"padding": 1}),
    ]
    transpose = [  # kernel, stride, dilation, groups
        ((2, 2), 2, 1, 1),
        ((3, 3), 1, 1, 1),
        ((3, 3), 2, 1, 1),
        ((4, 4), 2, 1, 2),
        ((2, 3), (3, 2), (2, 1), 1),
        ((3, 2), (2, 4), (3, 2), 4),
        ((1, 1), (2, 3), 1, 1),
        ((5, 4), (1, 3), (1, 2), 1),
    ]
    for (kh, kw), stride, dilation, groups in transpose:
        base = {"stride": stride, "dilation": dilation, "groups": groups}
        name = f"{kh}x{kw}/{stride} dilation {dilation} groups {groups}"
        table += [
            Problem(f"plain {name}", "conv2d_transpose", (2, 6, 5, 32), (kh, kw, 48 // groups, 32), base),
            Problem(
                f"tail {name}",
                "conv2d_transpose",
                (1, 7, 7, 17 if groups == 1 else 4 * groups),
                (kh, kw, 19, 17 if groups == 1 else 4 * groups),
                {**base, "padding": ((1, 0), (0, 1))},
            ),
            Problem(
                f"strided {name}",
                "conv2d_transpose",
                (2, 4, 9, 24),
                (kh, kw, 5, 24),
                {**base, "padding": (1, 2), "output_padding": tuple(n - 1 for n in _pair(stride))},
                bias=False,
                views=True,
            ),
        ]
    for rows, i, o in (
        (1, 400, 120),
        (1, 4097, 33),
        (3, 17, 19),
        (4, 64, 256),
        (5, 600, 1000),
        (7, 17, 17),
        (100, 65, 130),
        (333, 96, 64),
    ):
        table.append(
            Problem(
                f"{rows} rows {i} to {o}", "linear", (rows, i), (i, o), bias=rows != 4, views=rows in (5, 100)
            )
        )
    table.append(Problem("three dimensions", "linear", (2, 3, 5, 29), (29, 31), {"activation": "tanh"}))
    for shape in (
        (1, 4, 4, 16),
        (2, 7, 7, 17),
        (2, 26, 25, 64),
        (1, 3, 5, 130),
        (3, 1, 1, 9),
        (2, 600, 33),
        (1, 1, 1, 1),
    ):
        table.append(Problem(f"{shape}", "gram_matrix", shape, bias=False, views=shape[0] == 2))
    return table


def layers() -> list[Problem]:
    """Every distinct layer of the real networks; none where the benchmarks are not installed."""
    try:
        from cnnfast.bench.problems import layer_files, load
    except ImportError:
        return []
    seen: dict[str, Problem] = {}
    for file in layer_files():
        for p in load(file):
            if p.op in ("conv2d", "depthwise_conv2d", "conv2d_transpose", "linear", "gram_matrix"):
                attrs = {key: _tuples(value) for key, value in p.attrs.items()}
                made = Problem(
                    f"{file} {p.name}",
                    p.op,
                    tuple(p.shapes["x"]),
                    tuple(p.shapes.get("w", ())),
                    attrs,
                    p.bias,
                )
                made = cut(made)
                seen.setdefault(
                    json.dumps([made.op, made.x, made.w, made.attrs, made.bias], sort_keys=True), made
                )
    return list(seen.values())


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def cut(p: Problem) -> Problem:
    """The same layer on a smaller picture (or with fewer outputs), where it is long."""
    if p.op == "linear":
        while p.macs > LAYER_MACS // 4:
            p = replace(p, w=(p.w[0], p.w[1] // 2 + 1))
        return p
    while p.macs > LAYER_MACS and min(p.x[1:3]) > 7:
        # 7 is the remainder that leaves tails; a kernel of 11 with padding 2 still fits.
        n, h, w, c = p.x
        p = replace(p, x=(n, max(7, h // 2), max(7, w // 2), c))
    return p


# --- operands --------------------------------------------------------------------------------------


def operands(p: Problem, kind: str = "normal") -> dict[str, np.ndarray]:
    """x, w and b in float32: "normal" as in layers, "positive", or "whole" numbers that sum up exactly."""
    rng = np.random.default_rng(zlib.crc32(f"{p}{kind}".encode()))

    def draw(shape: tuple[int, ...], scale: float = 1.0) -> np.ndarray:
        # Large weights repeat a block; its length is prime, so that rows differ.
        count = min(math.prod(shape), 1_000_003)
        if kind == "whole":
            values = rng.integers(-8, 9, count).astype(np.float32)
        elif kind == "positive":
            values = rng.uniform(0.5, 1, count).astype(np.float32)
        else:
            values = rng.standard_normal(count, np.float32) * np.float32(scale)
        return np.resize(values, shape)

    made = {"x": draw(p.x)}
    if p.w:
        made["w"] = draw(p.w, 1 / math.sqrt(p.terms))
    if p.bias:
        made["b"] = draw(p.out[-1:])
    return {key: with_gaps(a) for key, a in made.items()} if p.views else made


def with_gaps(a: np.ndarray) -> np.ndarray:
    """The same values as a view whose neighbours in memory are NaN."""
    larger = np.full(tuple(2 * n + 1 for n in a.shape), np.nan, a.dtype)
    view = larger[tuple(slice(1, None, 2) for _ in a.shape)]
    view[...] = a
    return view


# --- the oracle ------------------------------------------------------------------------------------


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Matrix product in float64, row by row: no BLAS, whose threads would fight with those under test."""
    y = np.empty((len(a), b.shape[1]))
    for row, to in zip(a.astype(np.float64), y, strict=True):
        np.einsum("k,ko->o", row, b, out=to, dtype=np.float64, casting="safe")
    return y


def patches_at(
    pixels: Pixels, x: np.ndarray, kernel: tuple[int, ...], stride: Any, pads: Pads, dilation: Any
) -> np.ndarray:
    """What each output pixel (n, p, q) sees under each tap: pixels, KH, KW, C, zeros outside of x."""
    patches = np.zeros((len(pixels), *kernel, x.shape[3]))
    n, p, q = np.array(pixels, np.int64).reshape(-1, 3).T
    for i, j in itertools.product(*map(range, kernel)):
        row = p * stride[0] + i * dilation[0] - pads[0][0]
        column = q * stride[1] + j * dilation[1] - pads[1][0]
        inside = (row >= 0) & (row < x.shape[1]) & (column >= 0) & (column < x.shape[2])
        patches[inside, i, j] = x[n[inside], row[inside], column[inside]]
    return patches


def conv2d_at(
    pixels: Pixels, x: np.ndarray, w: np.ndarray, stride: Any, pads: Pads, dilation: Any, groups: int
) -> np.ndarray:
    """Convolution at some output pixels, from the definition, in float64."""
    kh, kw, cg, o = w.shape
    og = o // groups
    patches = patches_at(pixels, x, (kh, kw), stride, pads, dilation)
    y = np.empty((len(pixels), o))
    for g in range(groups):
        part = patches[..., g * cg : (g + 1) * cg].reshape(len(pixels), kh * kw * cg)
        y[:, g * og : (g + 1) * og] = product(part, w[..., g * og : (g + 1) * og].reshape(-1, og))
    return y


def depthwise_at(
    pixels: Pixels, x: np.ndarray, w: np.ndarray, stride: Any, pads: Pads, dilation: Any
) -> np.ndarray:
    """Every channel by itself."""
    kh, kw, c, m = w.shape
    patches = patches_at(pixels, x, (kh, kw), stride, pads, dilation)
    y = np.zeros((len(pixels), c, m))
    for i, j in itertools.product(range(kh), range(kw)):
        y += patches[:, i, j, :, None] * w[i, j].astype(np.float64)
    return y.reshape(len(pixels), c * m)


def transpose_at(
    pixels: Pixels, x: np.ndarray, w: np.ndarray, stride: Any, pads: Pads, dilation: Any, groups: int
) -> np.ndarray:
    """Transpose convolution by gathering: output row p gets input row r by tap i iff p = r s + i d - pad."""
    kh, kw, og, c = w.shape
    cg = c // groups
    y = np.zeros((len(pixels), groups * og))
    n, p, q = np.array(pixels, np.int64).reshape(-1, 3).T
    for i, j in itertools.product(range(kh), range(kw)):
        row, a = np.divmod(p + pads[0][0] - i * dilation[0], stride[0])
        column, b = np.divmod(q + pads[1][0] - j * dilation[1], stride[1])
        seen = (a == 0) & (b == 0) & (row >= 0) & (row < x.shape[1]) & (column >= 0) & (column < x.shape[2])
        values = x[n[seen], row[seen], column[seen]]
        for g in range(groups):
            of = slice(g * cg, (g + 1) * cg)
            y[seen, g * og : (g + 1) * og] += product(values[:, of], w[i, j, :, of].T)
    return y


def oracle(
    p: Problem, x: np.ndarray, w: np.ndarray | None, b: np.ndarray | None, pixels: Pixels | None
) -> np.ndarray:
    """The sums of products and bias in float64, before any activation, one row per pixel."""
    if p.op == "gram_matrix":
        f = x.reshape(x.shape[0], -1, x.shape[-1]).astype(np.float64)
        return np.stack([product(one.T, one) for one in f])
    assert w is not None
    if p.op == "linear":
        y = product(x.reshape(-1, x.shape[-1]), w)
    else:
        assert pixels is not None
        parameters = (p.two("stride"), p.pads, p.two("dilation"))
        groups = p.attrs.get("groups", 1)
        if p.op == "conv2d":
            y = conv2d_at(pixels, x, w, *parameters, groups)
        elif p.op == "depthwise_conv2d":
            y = depthwise_at(pixels, x, w, *parameters)
        else:
            y = transpose_at(pixels, x, w, *parameters, groups)
    return y if b is None else y + b


def all_pixels(p: Problem) -> Pixels:
    return list(itertools.product(*(range(n) for n in p.out[:3])))


def some_pixels(p: Problem, count: int) -> Pixels:
    """Corners and others: enough for a layer whose whole answer would take too long."""
    rng = np.random.default_rng(zlib.crc32(str(p).encode()))
    n, rows, columns, _ = p.out
    corners = [(0, 0, 0), (n - 1, rows - 1, columns - 1), (0, rows - 1, 0), (n - 1, 0, columns - 1)]
    others = zip(*(rng.integers(0, size, count) for size in (n, rows, columns)), strict=True)
    return list(dict.fromkeys(corners + [(int(a), int(b), int(c)) for a, b, c in others]))


def activated(name: str | None, y: np.ndarray) -> np.ndarray:
    """Activations in float64, from their definitions."""
    if name is None:
        return y
    return {
        "relu": lambda v: np.where(v < 0, 0, v),
        "relu6": lambda v: np.clip(v, 0, 6),
        "leaky_relu": lambda v: np.where(v < 0, 0.01 * v, v),
        "sigmoid": lambda v: 1 / (1 + np.exp(-v)),
        "tanh": np.tanh,
        "silu": lambda v: v / (1 + np.exp(-v)),
        "hard_swish": lambda v: v * np.clip(v + 3, 0, 6) / 6,
    }[name](y)


EVERY = slice(None)


def answer(
    p: Problem, arrays: dict[str, np.ndarray], pixels: Pixels | None = None, channels: Any = EVERY
) -> tuple[np.ndarray, np.ndarray]:
    """The float64 answer and the scale of its errors: the sum of the absolute products and bias."""
    if pixels is None and p.op not in ("linear", "gram_matrix"):
        pixels = all_pixels(p)
    x, w, b = arrays["x"], arrays.get("w"), arrays.get("b")
    if w is not None:
        w = w[:, :, channels] if p.op == "conv2d_transpose" else w[..., channels]
    if b is not None:
        b = b[channels]
    exact = oracle(p, x, w, b, pixels)
    scale = oracle(p, abs(x), None if w is None else abs(w), None if b is None else abs(b), pixels)
    return activated(p.attrs.get("activation"), exact), scale


def some_channels(p: Problem, count: int) -> Any:
    """First, last and some other output channels of a problem without groups; else all."""
    channels = p.out[-1]
    if p.op in ("gram_matrix", "depthwise_conv2d") or p.attrs.get("groups", 1) > 1 or channels <= count:
        return slice(None)
    others = np.random.default_rng(channels).permutation(np.arange(1, channels - 1))[: count - 2]
    return np.concatenate([[0], np.sort(others), [channels - 1]])


def at(p: Problem, y: np.ndarray, pixels: Pixels | None = None, channels: Any = EVERY) -> np.ndarray:
    """A result in the layout of :func:`answer`."""
    assert y.shape == p.out, (y.shape, p.out)
    if p.op == "gram_matrix":
        return y
    if pixels is None:
        return y.reshape(-1, p.out[-1])[:, channels]
    return np.stack([y[pixel][channels] for pixel in pixels])


def units(got: np.ndarray, exact: np.ndarray, scale: np.ndarray, unit: float = U) -> float:
    """Largest error in units of 2**-24 (or another) of the sum of absolute products."""
    error = abs(got.astype(np.float64) - exact)
    assert np.isfinite(got).all()
    return float(np.max(error / (np.maximum(scale, 1e-30) * unit), initial=0.0))


def limit(p: Problem, kind: str = "normal") -> float:
    """Units allowed: 8, and half of 2 sqrt(K) + 8, for data as in layers; the sqrt bound for positive data.

    The diagonal of a Gram matrix is positive whatever the data. Activations may stretch an error by a
    tenth (SiLU, hard-swish) and round a few times themselves.
    """
    root = math.sqrt(p.terms) + 4
    allowed = min(8.0, root) if kind == "normal" and p.op != "gram_matrix" else 2 * root
    smooth = p.attrs.get("activation") in ("sigmoid", "tanh", "silu", "hard_swish")
    return 1.2 * allowed + 8 if smooth else allowed


def check(
    p: Problem,
    call: Callable[[Problem, dict[str, np.ndarray]], np.ndarray],
    kind: str = "normal",
    pixels: Pixels | None = None,
    channels: Any = EVERY,
) -> None:
    """An operator against the oracle, at these pixels and channels; whole numbers must be exact."""
    a = operands(p, kind)
    exact, scale = answer(p, a, pixels, channels)
    got = at(p, call(p, a), pixels, channels)
    if kind == "whole":
        assert np.array_equal(got, exact)
    else:
        assert units(got, exact, scale) <= limit(p, kind)


def check_float64(p: Problem, call: Callable[[Problem, dict[str, np.ndarray]], np.ndarray]) -> None:
    """The reference in float64 against the oracle."""
    a = {key: value.astype(np.float64) for key, value in operands(p).items()}
    exact, scale = answer(p, a)
    got = call(p, a)
    assert got.dtype == np.float64
    # Two float64 answers differ by the errors of both.
    assert units(at(p, got), exact, scale, 2.0**-53) <= 2 * limit(p, "positive")


def chosen(table: list[Problem], op: str) -> Iterator[Problem]:
    return (p for p in table if p.op == op)


GENERAL = general()
LAYERS = layers()
