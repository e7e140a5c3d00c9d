"""The steps of a compiled network, and how long each takes."""

from __future__ import annotations

from ..engine import compile
from ..models.registry import create_model
from .registry import Shown, bundled, part, without_native


@part("engine", "Where the time goes", 'python -c "import cnnfast as cf; '
      "print(cf.compile(cf.models.unet_small().eval()).describe((1, 256, 256, 1)))\"")  # fmt: skip
def engine() -> Shown:
    """Steps of a compiled network."""
    known, label, _ = bundled("segmentation")[0]
    words = (
        f"{known.name}, which finds the nuclei, compiled for {' x '.join(map(str, known.input_size))}: "
        "normalisation and activations become part of the convolutions, and one native call runs all steps."
    )
    if notes := without_native():
        return Shown(words, {}, notes=notes)
    found = compile(create_model(known.name, weights=label)).describe((1, *known.input_size))
    macs = sum(step.macs for step in found.steps)
    rows = [
        {
            "step": step.operator,
            "algorithm": step.algorithm,
            "output": "x".join(map(str, step.output)),
            "MACs in millions": step.macs / 1e6,
            "milliseconds": 1e3 * step.seconds,
            "share": step.seconds / found.seconds,
        }
        for step in found.steps
    ]
    return Shown(
        words,
        {
            "steps": len(found.steps),
            "milliseconds": 1e3 * found.seconds,
            "GMAC": macs / 1e9,
            "GFLOP a second": 2e-9 * macs / found.seconds,
            "MiB of intermediate results": found.arena_bytes / 2**20,
        },
        table=rows,
    )
