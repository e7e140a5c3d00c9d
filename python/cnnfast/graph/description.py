"""What a compiled network does, step by step, and how long each step takes."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FROM_PYTHON", "IN_NUMPY", "DescribedStep", "Description"]

# How steps run that are no part of a native plan.
FROM_PYTHON, IN_NUMPY = "kernel, from Python", "NumPy"


@dataclass(frozen=True)
class DescribedStep:
    """One step of a compiled network.

    Attributes
    ----------
    operator, scope, algorithm : str
        What runs, the module that asked for it, and how. Operators that no native plan can hold stand
        between plans: "kernel, from Python", or "NumPy" where there is no kernel either.
    inputs : tuple of shapes
        Arrays that are read, weights included.
    output : tuple of int
        -1 for a size that depends on values.
    macs : float
        Multiply-adds of convolutions and dense layers; half of the operations of all others.
    seconds : float
        Median of the runs.
    """

    operator: str
    scope: str
    algorithm: str
    inputs: tuple[tuple[int, ...], ...]
    output: tuple[int, ...]
    macs: float
    seconds: float


@dataclass(frozen=True)
class Description:
    """Steps of a compiled network; ``str()`` gives the table.

    Attributes
    ----------
    name : str
    shapes : tuple of shapes
        Of the inputs.
    steps : list of DescribedStep
    arena_bytes : int
        Memory of a run besides inputs and results.
    weights_bytes : int
        Weights in the forms that the steps read.
    """

    name: str
    shapes: tuple[tuple[int, ...], ...]
    steps: list[DescribedStep]
    arena_bytes: int
    weights_bytes: int

    @property
    def seconds(self) -> float:
        return sum(step.seconds for step in self.steps)

    def __str__(self) -> str:
        total = self.seconds or 1.0
        lines = [("step", "scope", "algorithm", "output", "MACs", "ms", "GFLOP/s", "share")]
        for s in self.steps:
            rate = 2e-9 * s.macs / s.seconds if s.seconds else 0.0
            lines.append((
                s.operator, s.scope, s.algorithm, _sizes(s.output), f"{s.macs:,.0f}",
                f"{s.seconds * 1e3:.3f}", f"{rate:.1f}", f"{100 * s.seconds / total:.1f} %",
            ))  # fmt: skip
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        text = []
        for line in lines:
            left = [cell.ljust(w) for cell, w in zip(line[:4], widths[:4], strict=True)]
            right = [cell.rjust(w) for cell, w in zip(line[4:], widths[4:], strict=True)]
            text.append("  ".join(left + right).rstrip())
        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
        macs = sum(s.macs for s in self.steps)
        shapes = " ".join("x".join(map(str, shape)) for shape in self.shapes)
        text = [f"{self.name} for {shapes}", text[0], rule, *text[1:], rule]
        rate = 2e-9 * macs / total
        text.append(f"{self.seconds * 1e3:.3f} ms, {macs:,.0f} MACs, {rate:.1f} GFLOP/s")
        text.append(f"arena {_mib(self.arena_bytes)}, weights {_mib(self.weights_bytes)}")
        native = [s.algorithm not in (FROM_PYTHON, IN_NUMPY) for s in self.steps]
        if not all(native):
            plans = sum(now and not before for now, before in zip(native, [False, *native], strict=False))
            kernels, slow = [sum(s.algorithm == how for s in self.steps) for how in (FROM_PYTHON, IN_NUMPY)]
            text.append(
                f"split: native plans: {plans}; between them, kernels called from Python: {kernels}, "
                f"steps in NumPy: {slow}"
            )
        return "\n".join(text)


def _sizes(shape: tuple[int, ...]) -> str:
    return "x".join(["?" if n < 0 else str(n) for n in shape])


def _mib(n: int) -> str:
    return f"{n / 2**20:.1f} MiB"
