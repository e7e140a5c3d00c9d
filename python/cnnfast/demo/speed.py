"""Networks on the kernels, and on the NumPy definitions of the same operators."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..engine import compile
from ..models.registry import create_model, entry
from .registry import Shown, bundled, is_native, part, timed, without_native

_MORE = ("mobilenet_v2",)  # with their initial weights
_RATIO = "times as fast as NumPy"


@part("speed", "Native kernels beside NumPy", "cnnfast bench models lenet5,mobilenet_v2")
def speed() -> Shown:
    """Networks on the kernels, and on the NumPy definitions of the same operators."""
    rows: list[dict[str, Any]] = []
    networks: list[tuple[Any, str | None]] = [(known, label) for known, label, _ in bundled()]
    for known, weights in [*networks, *((entry(name), None) for name in _MORE)]:
        model = create_model(known.name, weights=weights).eval()
        x = np.random.default_rng(0).standard_normal((1, *known.input_size), np.float32)
        reference = compile(model, x.shape, device="numpy")
        expected, slow = timed(reference, x, runs=1)
        row = {"network": known.name, "input": "x".join(map(str, known.input_size)), "NumPy, ms": slow}
        if is_native():
            got, fast = timed(compile(model), x)
            row["operators one by one, ms"] = timed(model, x, runs=3)[1]
            row["compiled, ms"] = fast
            row[_RATIO] = slow / fast
            got, expected = _first(got), _first(expected)
            row["largest difference"] = float(np.abs(got - expected).max() / np.abs(expected).max())
        rows.append(row)
    ratios = [row[_RATIO] for row in rows if _RATIO in row]
    return Shown(
        "Medians of a few runs on random numbers, NumPy once; mobilenet_v2 has its initial weights. The "
        "difference is that of the results, in parts of the largest. 'cnnfast bench' measures with care.",
        {} if not ratios else {"slowest, times as fast as NumPy": min(ratios), "fastest": max(ratios)},
        table=rows,
        notes=without_native(),
    )


def _first(result: Any) -> np.ndarray:
    """The first array of what a network gives."""
    while not isinstance(result, np.ndarray):
        result = next(iter(result.values())) if isinstance(result, dict) else result[0]
    return result
