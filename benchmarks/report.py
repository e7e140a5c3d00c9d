"""Tables, the summary, JSON and the plot of a run."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from .machine import Roof
from .runner import Contestant, Result

__all__ = ["Run", "heading", "markdown", "plot", "summary", "tables", "write_json", "write_lines"]

OURS = {"eager": "cnnfast", "packed": "cnnfast packed"}


@dataclass
class Run:
    """Everything that a report needs."""

    results: list[Result]
    contestants: list[Contestant]
    columns: list[str]
    roofs: dict[int, Roof]
    machine: dict[str, Any]
    versions: dict[str, str]
    missing: dict[str, str]
    date: str
    rounds: int

    @property
    def faulty(self) -> bool:
        """Whether an answer of cnnfast itself was wrong or did not come."""
        ours = [m for r in self.results for label, m in r.measurements.items() if label in OURS.values()]
        return any(m.status in ("WRONG", "failed") for m in ours)

    def labels(self, column: str) -> list[str]:
        """Contestants of a column, cnnfast first."""
        return [c.label for c in self.contestants if column in c.columns]


@dataclass
class Row:
    """One problem in one column."""

    result: Result
    ours: float | None
    times: dict[str, float | None]
    best: str | None  # the fastest peer

    @property
    def speedup(self) -> float | None:
        """How many times as fast as the best peer; below 1 is behind."""
        peer = self.times[self.best] if self.best else None
        return peer / self.ours if peer and self.ours else None


def rows(run: Run, column: str, threads: int) -> list[Row]:
    made = []
    for result in run.results:
        if result.threads != threads:
            continue
        times = {label: result.measurements[label].ms for label in run.labels(column)}
        peers = {k: v for k, v in times.items() if k != OURS[column] and v is not None}
        best = min(peers, key=lambda label: peers[label]) if peers else None
        made.append(Row(result, times.get(OURS[column]), times, best))
    return made


# ---- tables --------------------------------------------------------------------------------------


def tables(run: Run) -> str:
    """One Markdown table per column and thread count, then the summary."""
    parts = [heading(run)]
    for column in run.columns:
        for threads in run.roofs:
            title = f"### {column}, {threads} thread{'s' if threads > 1 else ''}"
            parts.append(f"{title}\n\n{table(run, column, threads)}")
    parts.append(summary(run))
    return "\n\n".join(parts)


class Headed(Protocol):
    """What the heading is made from; runs over networks have it too."""

    machine: dict[str, Any]
    versions: dict[str, str]
    date: str
    roofs: dict[int, Roof]
    missing: dict[str, str]


def heading(run: Headed) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    m = run.machine
    lines = [f"{m['cpu']}, {m['cores']} cores, ISA {m['isa']}; {versions}; {run.date}"]
    for roof in run.roofs.values():
        levels = ", ".join(f"{size_name(size)} {value:.0f}" for size, value in roof.gbytes.items())
        lines.append(
            f"Peak on {roof.threads} thread{'s' if roof.threads > 1 else ''} ({roof.source}): "
            f"{roof.gflops:.0f} GFLOP/s; GB/s by bytes per thread: {levels}"
        )
    lines += [f"Without {name}: {why}" for name, why in run.missing.items()]
    return "  \n".join(lines)


def size_name(size: int) -> str:
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"


def table(run: Run, column: str, threads: int) -> str:
    """Times in ms; the rate and its share of the measured roof; how often as fast as the best peer; error."""
    labels = run.labels(column)
    ours = OURS[column]
    groups = {row.result.problem.group for row in rows(run, column, threads)}
    head = ["problem", "operator", "shape", *(f"{label} ms" for label in labels)]
    if ours in labels:
        head += ["rate", "% of peak", "speed-up", "error"]
    body = []
    for row in rows(run, column, threads):
        p = row.result.problem
        name = p.title if len(groups) > 1 else p.name
        cells = [name + (f" (x{p.count})" if p.count > 1 else ""), p.op, shape_text(row.result)]
        cells += [cell(row.result, label) for label in labels]
        if ours in labels:
            rate, share = roofline(row, run.roofs[threads])
            speedup = f"{row.speedup:.2f}" if row.speedup else "-"
            worst = row.result.measurements[ours].error
            cells += [rate, share, speedup, "-" if worst is None else f"{worst:.1e}"]
        body.append(cells)
    return markdown(head, body)


def shape_text(result: Result) -> str:
    """The operands and the attributes that matter, short."""
    p = result.problem
    sizes = [s for value in p.shapes.values() for s in (value if isinstance(value[0], list) else [value])]
    text = " ".join("x".join(str(d) for d in size) for size in sizes)
    for key, letter in (("stride", "s"), ("dilation", "d"), ("groups", "g")):
        if key in p.attrs:
            text += f" {letter}{p.attrs[key]}"
    return text + (f" +{p.attrs['activation']}" if "activation" in p.attrs else "")


def cell(result: Result, label: str) -> str:
    """A time, or why there is none."""
    measurement = result.measurements[label]
    if measurement.ms is None:
        return "-" if measurement.status == "not supported" else measurement.status
    return f"{measurement.ms:.3g}" if measurement.ms < 100 else f"{measurement.ms:.0f}"


def roofline(row: Row, roof: Roof) -> tuple[str, str]:
    """The rate in the unit that bounds the problem, and the share of what the machine reached in it."""
    p = row.result.problem
    if not row.ours or not p.bytes:
        return "-", "-"
    seconds = row.ours / 1e3
    compute, memory = roof.seconds(p.flops, p.bytes)
    if compute >= memory:
        return f"{p.flops / seconds / 1e9:.1f} GFLOP/s", f"{100 * compute / seconds:.0f}"
    return f"{p.bytes / seconds / 1e9:.1f} GB/s", f"{100 * memory / seconds:.0f}"


def markdown(head: list[str], body: Iterable[list[str]]) -> str:
    """A Markdown table with padded cells, so that it also reads well in a terminal."""
    lines = [head, *body]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    text = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines]
    text.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(text)


def summary(run: Run) -> str:
    """Per column and thread count: how often ahead, the worst and the mean."""
    body = []
    for column in run.columns:
        for threads in run.roofs:
            made = [row for row in rows(run, column, threads) if row.speedup]
            if not made:
                continue
            gains = [row.speedup or 1.0 for row in made]
            ahead = sum(gain >= 1 for gain in gains)
            worst = min(made, key=lambda row: row.speedup or 1.0)
            mean = math.exp(sum(map(math.log, gains)) / len(gains))
            p = worst.result.problem
            slowest = f"{min(gains):.2f} ({p.title}, against {worst.best})"
            share = f"{100 * ahead / len(made):.0f} %"
            body.append([column, str(threads), str(len(made)), share, f"{mean:.2f}", slowest])
    wrong: dict[tuple[str, str], list[str]] = {}
    for r in run.results:
        problem = f"{r.problem.title} (threads: {r.threads})"
        for label, m in r.measurements.items():
            if m.status in ("WRONG", "failed"):
                wrong.setdefault((problem, f"{m.status}: {m.note}"), []).append(label)
    head = ["column", "threads", "problems", "not behind the best peer", "mean speed-up", "worst speed-up"]
    parts = [markdown(head, body)] if body else []
    lines = [f"- {problem}: {', '.join(labels)} {why}" for (problem, why), labels in wrong.items()]
    parts += ["Not timed:\n" + "\n".join(lines)] if lines else []
    return "\n\n".join(["### Summary", *parts])


# ---- files ---------------------------------------------------------------------------------------


def write_json(run: Run, path: str | Path) -> None:
    """Everything measured, for later comparison."""
    head = {
        "format": 1,
        "date": run.date,
        "machine": run.machine,
        "versions": run.versions,
        "missing": run.missing,
        "rounds": run.rounds,
        "columns": run.columns,
        "peaks": [roof.to_json() for roof in run.roofs.values()],
    }
    write_lines(head, [result.to_json() for result in run.results], path)


def write_lines(head: dict[str, Any], results: list[dict[str, Any]], path: str | Path) -> None:
    """One object with a line per key and per result: the files are kept under version control."""
    lines = [f" {json.dumps(key)}: {json.dumps(value)},\n" for key, value in head.items()]
    rows = ",\n".join(f"  {json.dumps(result)}" for result in results)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{\n" + "".join(lines) + f' "results": [\n{rows}\n ]\n}}\n', encoding="utf-8")


def plot(run: Run, path: str | Path) -> None:
    """Bars of the speed-up over the best peer, one panel per column and thread count."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise RuntimeError("the plot needs matplotlib: pip install 'cnnfast[plot]'") from error
    panels = [
        (column, threads, made)
        for column in run.columns
        for threads in run.roofs
        if (made := [row for row in rows(run, column, threads) if row.speedup])
    ]
    if not panels:
        raise RuntimeError("nothing to plot: no problem was timed for both cnnfast and a peer")
    tall = max(len(made) for *_, made in panels)
    figure = Figure(figsize=(7 * len(panels), 1.5 + 0.22 * tall), layout="constrained")
    for axis, (column, threads, made) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
    ):
        gains = [row.speedup or 1.0 for row in made]
        colours = ["tab:green" if gain >= 1 else "tab:red" for gain in gains]
        axis.barh(range(len(made)), [gain - 1 for gain in gains], left=1, color=colours)
        names = [row.result.problem.title for row in made]
        axis.set_yticks(range(len(made)), names, fontsize=7)
        axis.invert_yaxis()
        axis.set_xscale("log")
        axis.margins(x=0.15, y=0.01)  # room for the labels
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("{x:g}")
        axis.tick_params(axis="x", which="both", labelsize=7)
        axis.axvline(1, color="black", linewidth=0.8)
        axis.set_xlabel("times as fast as the best peer")
        axis.set_title(f"{column}, {threads} thread{'s' if threads > 1 else ''}")
        for index, (row, gain) in enumerate(zip(made, gains, strict=True)):
            axis.annotate(f" {gain:.2f} {row.best}", (max(gain, 1), index), va="center", fontsize=6)
    figure.savefig(path, dpi=120)
