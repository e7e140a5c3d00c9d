"""Tables, JSON and the plot of a run over whole networks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import report
from ..machine import Roof
from .race import NetworkMeasurement, NetworkResult

__all__ = ["NetworkRun", "plot", "tables", "write_json"]

OURS = "cnnfast"


@dataclass
class NetworkRun:
    """Everything that a report needs."""

    results: list[NetworkResult]
    labels: list[str]  # contestants, rows of cnnfast first
    roofs: dict[int, Roof]
    machine: dict[str, Any]
    versions: dict[str, str]
    missing: dict[str, str]
    date: str
    rounds: int
    batch: int

    @property
    def faulty(self) -> bool:
        """Whether an answer of cnnfast itself was wrong or did not come."""
        return any(
            m.status != "ok" for r in self.results for label, m in r.measurements.items() if own(label)
        )

    def at(self, threads: int) -> list[NetworkResult]:
        return [result for result in self.results if result.threads == threads]


def own(label: str) -> bool:
    return label.split()[0] == OURS


def best_peer(result: NetworkResult, field: str = "ms") -> tuple[str, float] | None:
    """The peer with the least of a measured number, and that number."""
    found = {k: getattr(m, field) for k, m in result.measurements.items() if not own(k)}
    found = {k: v for k, v in found.items() if v is not None}
    return min(found.items(), key=lambda item: item[1]) if found else None


def ratio(result: NetworkResult, field: str = "ms", label: str = OURS) -> float | None:
    """A number of cnnfast's as a share of the best peer's: below 1 is ahead."""
    best = best_peer(result, field)
    measured = result.measurements.get(label)
    mine = getattr(measured, field) if measured else None
    return mine / best[1] if best and mine is not None else None


# ---- tables --------------------------------------------------------------------------------------


def tables(run: NetworkRun) -> str:
    """Markdown: per thread count times, memory, loading and errors, then the summary."""
    parts = [report.heading(run)]
    for threads in run.roofs:
        title = f"{threads} thread{'s' if threads > 1 else ''}, batch {run.batch}"
        parts.append(f"### Time in ms, {title}\n\n{times(run, threads)}")
        parts.append(f"### Peak resident memory in MiB, {title}\n\n{memory(run, threads)}")
        parts.append(f"### Import and load / first run in ms, {title}\n\n{starts(run, threads)}")
        parts.append(f"### Largest error as a share of the largest output, {title}\n\n{errors(run, threads)}")
    return "\n\n".join([*parts, summary(run)])


def times(run: NetworkRun, threads: int) -> str:
    head = ["network", "GFLOP", *run.labels, "best peer", "of its time", "% of peak"]
    body = []
    for result in run.at(threads):
        best, share, mine = best_peer(result), ratio(result), result.measurements.get(OURS)
        cells = [result.network.name, f"{result.network.flops / 1e9:.3g}"]
        cells += [number(result.measurements[label], "ms") for label in run.labels]
        cells += [best[0] if best else "-", "-" if share is None else f"{share:.2f}"]
        if mine is not None and mine.ms is not None:
            rate = result.network.flops / (mine.ms * 1e-3)
            cells.append(f"{100 * rate / (run.roofs[threads].gflops * 1e9):.0f}")
        else:
            cells.append("-")
        body.append(cells)
    return report.markdown(head, body)


def memory(run: NetworkRun, threads: int) -> str:
    body = []
    for result in run.at(threads):
        share = ratio(result, "memory")
        cells = [number(result.measurements[label], "memory", 1 / (1 << 20)) for label in run.labels]
        body.append([result.network.name, *cells, "-" if share is None else f"{share:.2f}"])
    return report.markdown(["network", *run.labels, "of the leanest peer's"], body)


def starts(run: NetworkRun, threads: int) -> str:
    body = []
    for result in run.at(threads):
        cells = []
        for label in run.labels:
            m = result.measurements[label]
            if m.load_ms is None or m.import_ms is None or m.first_ms is None:
                cells.append("-")
            else:
                cells.append(f"{m.import_ms + m.load_ms:.0f} / {m.first_ms:.3g}")
        body.append([result.network.name, *cells])
    return report.markdown(["network", *run.labels], body)


def errors(run: NetworkRun, threads: int) -> str:
    body = []
    for result in run.at(threads):
        found = [result.measurements[label].error for label in run.labels]
        body.append([result.network.name, *("-" if e is None else f"{e:.1e}" for e in found)])
    return report.markdown(["network", *run.labels], body)


def number(measured: NetworkMeasurement, field: str, scale: float = 1.0) -> str:
    """A measured number, or why there is none."""
    value = getattr(measured, field)
    if value is None:
        return "-" if measured.status in ("not supported", "ok") else measured.status
    value *= scale
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def summary(run: NetworkRun) -> str:
    """Per thread count how often ahead, the mean and the worst ratio; then remarks."""
    body = []
    for threads in run.roofs:
        for label in filter(own, run.labels):
            made = [(r, share) for r in run.at(threads) if (share := ratio(r, label=label)) is not None]
            if not made:
                continue
            mean = math.exp(sum(math.log(share) for _, share in made) / len(made))
            ahead = sum(share < 1 for _, share in made)
            result, share = max(made, key=lambda item: item[1])
            best = best_peer(result)
            worst = f"{share:.2f} ({result.network.name}, against {best[0] if best else '-'})"
            body.append([label, str(threads), f"{ahead} of {len(made)}", f"{mean:.2f}", worst])
    parts = ["### Summary"]
    if body:
        head = ["row", "threads", "ahead of the best peer", "geometric mean of its time", "worst"]
        parts.append(report.markdown(head, body))
    notes: dict[str, list[str]] = {}
    for result in run.results:
        for label, m in result.measurements.items():
            if m.status != "ok" or m.note:
                where = f"{result.network.name} (threads: {result.threads})"
                notes.setdefault(f"{label}: {m.status}: {m.note}", []).append(where)
    if notes:
        parts.append(
            "Not timed, or not in every way:\n"
            + "\n".join(f"- {what}: {', '.join(at)}" for what, at in notes.items())
        )
    return "\n\n".join(parts)


# ---- files ---------------------------------------------------------------------------------------


def write_json(run: NetworkRun, path: str | Path) -> None:
    """Everything measured, for later comparison."""
    head = {
        "format": 1,
        "kind": "networks",
        "date": run.date,
        "machine": run.machine,
        "versions": run.versions,
        "missing": run.missing,
        "rounds": run.rounds,
        "batch": run.batch,
        "labels": run.labels,
        "peaks": [roof.to_json() for roof in run.roofs.values()],
    }
    report.write_lines(head, [result.to_json() for result in run.results], path)


def plot(run: NetworkRun, path: str | Path) -> None:
    """Times as shares of the best peer's: a row per network, a panel per thread count."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise RuntimeError("the plot needs matplotlib: pip install 'cnnfast[plot]'") from error
    panels = [(t, made) for t in run.roofs if (made := [r for r in run.at(t) if best_peer(r)])]
    if not panels:
        raise RuntimeError("nothing to plot: no network was timed for a peer")
    tall = max(len(made) for _, made in panels)
    figure = Figure(figsize=(7 * len(panels), 2 + 0.4 * tall), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (threads, made) in zip(axes, panels, strict=True):
        for index, label in enumerate(run.labels):
            shares = [ratio(result, label=label) for result in made]
            points = [(share, row) for row, share in enumerate(shares) if share is not None]
            if points:
                x, y = zip(*points, strict=True)
                # Rows of cnnfast stand out; the colours of the default cycle repeat after ten.
                style = {"marker": "D", "s": 60} if own(label) else {"marker": "o", "s": 25, "alpha": 0.8}
                axis.scatter(x, y, label=label, color=f"C{index}", zorder=3 if own(label) else 2, **style)
        axis.set_yticks(range(len(made)), [result.network.name for result in made])
        axis.invert_yaxis()
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("{x:g}")
        axis.tick_params(axis="x", which="both", labelsize=7)
        axis.axvline(1, color="black", linewidth=0.8)
        axis.grid(axis="y", linewidth=0.3)
        axis.set_xlabel("time as a share of the best peer's (left is faster)")
        axis.set_title(f"{threads} thread{'s' if threads > 1 else ''}, batch {run.batch}")
    axes[-1].legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)
    figure.savefig(path, dpi=120)
