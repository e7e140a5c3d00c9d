"""Winograd's algorithm along rows: against float64, its error, determinism, and where plans take it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cnnfast as cf
import problems
from cnnfast import config, nn, ops
from cnnfast.ops.conv import infer_conv2d
from networks import randomize

_cpu: Any = config._cpu
pytestmark = pytest.mark.usefixtures("native")

ACTIVATIONS = (None, "relu", "relu6", "leaky_relu", "sigmoid", "tanh", "silu", "hard_swish")
# Shape of x, shape of w, parameters: tails of rows, tiles and outputs, every stride and width of a kernel.
CONVS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "LeNet-5": ((2, 14, 14, 6), (5, 5, 6, 16), {"activation": "relu"}),
    "VGG-16": ((1, 30, 30, 3), (3, 3, 3, 64), {"padding": 1, "activation": "relu"}),
    "ResNet": ((2, 47, 48, 3), (7, 7, 3, 64), {"padding": 3, "stride": 2, "activation": "relu"}),
    "AlexNet": ((1, 67, 67, 3), (11, 11, 3, 64), {"padding": 2, "stride": 4}),
    "five outputs": ((1, 9, 21, 4), (3, 3, 4, 5), {"padding": ((0, 2), (2, 1)), "activation": "relu6"}),
    "seventy outputs": ((2, 7, 13, 7), (5, 5, 7, 70), {"padding": 2, "activation": "silu"}),
    "one row": ((1, 3, 40, 3), (3, 3, 3, 20), {"activation": "leaky_relu"}),
    "one pixel": ((2, 1, 1, 3), (3, 3, 3, 33), {"padding": 1, "activation": "tanh"}),
    "rows of another stride": (
        (1, 31, 23, 5),
        (2, 9, 5, 18),
        {"padding": ((1, 0), (4, 2)), "stride": (3, 2)},
    ),
    "bands of rows": ((1, 230, 190, 3), (3, 3, 3, 24), {"padding": 1}),
}


def run(
    x: np.ndarray, w: np.ndarray, b: np.ndarray | None, residual: np.ndarray | None, **parameters: Any
) -> np.ndarray:
    """One step of a plan, in the form of this algorithm."""
    kept = infer_conv2d(x.shape, w.shape, None if b is None else b.shape, **parameters)
    form = _cpu.ConvForm(_cpu.ConvKind.winograd_rows)
    weights = _cpu.ConvWeights(form, kept.native, w)
    given = [x] if residual is None else [x, residual]
    plan = _cpu.Plan(0, [a.shape for a in given], [kept.out], 0)
    bias = None if b is None else _cpu.Constant(b)
    none = _cpu.Place()
    places = (
        _cpu.Place(1, 0),
        none if bias is None else bias.place(0),
        none if residual is None else _cpu.Place(2, 0),
    )
    code = ACTIVATIONS.index(parameters.get("activation"))
    plan.conv2d(
        kept.native, x.shape[3], w.shape[3], weights, *places, _cpu.Place(1 + len(given), 0), code, kept.slope
    )
    return plan.run(*given)


def exact(x: np.ndarray, w: np.ndarray, **parameters: Any) -> tuple[np.ndarray, np.ndarray]:
    """The sums and the sums of absolute values in float64."""
    wide = [a.astype(np.float64) for a in (x, w)]
    parameters.pop("activation", None)
    return ops.conv2d(*wide, **parameters), ops.conv2d(*map(np.abs, wide), **parameters)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("name", CONVS)
def test_convolutions(name: str, residual: bool, rng: np.random.Generator) -> None:
    """Near float64; the same bits for any number of threads and for a picture by itself."""
    shape, kernel, parameters = CONVS[name]
    x, w = rng.standard_normal(shape).astype(np.float32), rng.standard_normal(kernel).astype(np.float32)
    b = rng.standard_normal(kernel[3]).astype(np.float32)
    out = infer_conv2d(shape, kernel, **parameters).out
    r = rng.standard_normal(out).astype(np.float32) if residual else None
    y = run(x, w, b, r, **parameters)
    wide = [a if a is None else a.astype(np.float64) for a in (x, w, b, r)]
    expected = ops.conv2d(wide[0], wide[1], wide[2], residual=wide[3], **parameters)
    scale = exact(x, w, **parameters)[1].max()
    assert np.abs(y - expected).max() <= 64 * problems.U * scale
    for threads in (1, 2, 3):
        cf.set_num_threads(threads)
        np.testing.assert_array_equal(run(x, w, b, r, **parameters), y)
        last = r if r is None else r[-1:]
        np.testing.assert_array_equal(run(x[-1:], w, b, last, **parameters), y[-1:])


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("name", ["LeNet-5", "VGG-16", "ResNet", "AlexNet", "bands of rows"])
def test_error(name: str, positive: bool, rng: np.random.Generator) -> None:
    """Of every output, in units of 2**-24 of the sum of absolute products, and norm-wise."""
    shape, kernel, parameters = CONVS[name]
    parameters = {k: v for k, v in parameters.items() if k != "activation"}
    for _ in range(3):
        x, w = rng.standard_normal(shape).astype(np.float32), rng.standard_normal(kernel).astype(np.float32)
        x = np.abs(x) if positive else x
        y, scale = exact(x, w, **parameters)
        error = np.abs(run(x, w, None, None, **parameters) - y)
        assert (error / scale).max() <= 64 * problems.U
        assert np.linalg.norm(error) <= 2e-5 * np.linalg.norm(y)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_shape(data: st.DataObject) -> None:
    """Whole numbers, exact but for the rounding of the transformed weights: no value may be mixed up."""
    draw = data.draw
    kh, taps, strides = (
        draw(st.integers(1, 6)),
        draw(st.integers(3, 5)),
        draw(st.tuples(*[st.integers(1, 4)] * 2)),
    )
    kw = (taps - 1) * strides[1] + draw(st.integers(1, strides[1]))
    pads = [draw(st.tuples(*[st.integers(0, k - 1)] * 2)) for k in (kh, kw)]
    n, c, o = draw(st.integers(1, 2)), draw(st.integers(1, 9)), draw(st.integers(1, 40))
    h, width = [draw(st.integers(max(1, k - sum(p)), 30)) for k, p in zip((kh, kw), pads, strict=True)]
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    x = rng.integers(-8, 9, (n, h, width, c)).astype(np.float32)
    w = rng.integers(-8, 9, (kh, kw, c, o)).astype(np.float32)
    parameters: Any = {"padding": tuple(pads), "stride": strides}
    cf.set_num_threads(draw(st.integers(1, 3)))
    assert np.array_equal(np.rint(run(x, w, None, None, **parameters)), exact(x, w, **parameters)[0])


@pytest.mark.parametrize(
    ("layer", "shape", "algorithm"),
    [
        (nn.Conv2d(3, 64, 3, padding=1), (2, 56, 56, 3), "Winograd F(4,3) along rows"),
        (nn.Conv2d(6, 16, 5), (2, 14, 14, 6), "Winograd F(2,5) along rows"),
        (nn.Conv2d(3, 64, 7, stride=2, padding=3), (2, 64, 64, 3), "Winograd F(3,4) along rows, stride 2"),
        (nn.Conv2d(3, 64, 11, stride=4, padding=2), (2, 67, 67, 3), "Winograd F(4,3) along rows, stride 4"),
        (nn.Conv2d(3, 64, 3, padding=1, dilation=2), (2, 56, 56, 3), "implicit GEMM"),
        (nn.Conv2d(1, 64, 3, padding=1), (2, 56, 56, 1), "implicit GEMM"),
    ],
)
def test_plans(
    layer: nn.Conv2d, shape: tuple[int, ...], algorithm: str, rng: np.random.Generator, tmp_path: Path
) -> None:
    """Layers of few channels take it, in saved engines as well; not with direct arithmetic."""
    randomize(layer, rng).eval()
    x = rng.standard_normal(shape).astype(np.float32)
    engine, direct = [cf.compile(layer, shape, winograd=wanted) for wanted in (True, False)]
    assert engine.describe(runs=1).steps[0].algorithm.startswith(algorithm)
    assert "Winograd" not in direct.describe(runs=1).steps[0].algorithm
    assert np.linalg.norm(engine(x) - direct(x)) <= 2e-5 * np.linalg.norm(direct(x))
    engine.save(tmp_path / "engine")
    np.testing.assert_array_equal(cf.load_engine(tmp_path / "engine")(x), engine(x))


def test_parts_of_wider_pixels(rng: np.random.Generator) -> None:
    """Results that lie side by side in a join, and a slice of one as input."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(3, 32, 3, padding=1)

        def forward(self, x: Any) -> Any:
            return ops.concat([self.a(x), self.b(x)], axis=-1)

    model = randomize(Model(), rng).eval()
    x = rng.standard_normal((1, 40, 40, 3)).astype(np.float32)
    engine = cf.compile(model, x.shape)
    assert "along rows" in engine.describe(runs=1).steps[0].algorithm
    expected = cf.compile(model, x.shape, winograd=False)(x)
    assert np.linalg.norm(engine(x) - expected) <= 2e-5 * np.linalg.norm(expected)
