"""Checks every contestant against a float64 answer, then times them in turns.

Rounds go through the contestants in alternating order, so that a drift of the clock meets all of them.
Before each one the process must have come to rest: worker threads of the runtime before it may still spin
and would take the processor from the next. See ``docs/performance.md`` for the method in full.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import repeat
from statistics import median, quantiles
from typing import Any

import numpy as np

from . import peers
from .arrays import Operands, error, limit, make
from .peers import Candidate, NotSupported, cnnfast_peer
from .problems import Problem

__all__ = [
    "Contestant",
    "Measurement",
    "Result",
    "Starter",
    "brief",
    "contestants",
    "race",
    "run_problem",
    "settle",
    "time_batch",
]

BATCH_SECONDS = 0.002  # a timed batch lasts at least this long, or is one call
SLOW_SECONDS = 2.0  # a contestant that needs longer for all its rounds gets fewer, but three at least
TORCH_CHECKS_FROM = 50_000_000  # multiply-adds above which torch computes the float64 answer


@dataclass(frozen=True)
class Contestant:
    """One row of the comparison within a problem."""

    label: str
    columns: tuple[str, ...]
    prepare: Callable[[Problem, Operands, int], dict[str, Candidate]]


@dataclass
class Measurement:
    """What came out for one contestant: times in milliseconds, the scaled error, or why there is no time."""

    status: str  # "ok", "WRONG", "not supported" or "failed"
    note: str = ""
    way: str = ""
    ms: float | None = None
    quartiles: tuple[float, float] | None = None
    rounds: int = 0
    repeats: int = 0
    error: float | None = None


@dataclass
class Result:
    """One problem at one thread count."""

    problem: Problem
    threads: int
    reference: str
    measurements: dict[str, Measurement]

    def to_json(self) -> dict[str, Any]:
        p = self.problem
        return {
            **asdict(p),
            "macs": p.macs,
            "flops": p.flops,
            "bytes": p.bytes,
            "threads": self.threads,
            "reference": self.reference,
            "measurements": {label: asdict(m) for label, m in self.measurements.items()},
        }


def contestants(vs: Iterable[str], columns: Iterable[str]) -> tuple[list[Contestant], dict[str, str]]:
    """Those that can take part in the columns asked for, and a word on each that cannot."""
    wanted, chosen, missing = set(columns), [], {}
    if (why := cnnfast_peer.available()) is not None:
        missing["cnnfast"] = why
    else:
        if "eager" in wanted:
            chosen.append(Contestant("cnnfast", ("eager",), cnnfast_peer.prepare))
        if "packed" in wanted:
            chosen.append(Contestant("cnnfast packed", ("packed",), cnnfast_peer.prepare_packed))
    for name in vs:
        adapter = peers.get(name)
        if not wanted & set(adapter.COLUMNS):
            continue
        if (why := adapter.available()) is not None:
            missing[name] = why
        else:
            chosen.append(Contestant(adapter.LABEL, adapter.COLUMNS, adapter.prepare))
    return chosen, missing


def run_problem(problem: Problem, field_: list[Contestant], threads: int, rounds: int = 7) -> Result:
    """Verify and time all contestants on one problem."""
    operands = make(problem)
    try:
        exact, reference = float64_answer(problem, operands)
    except Exception as why:  # without an answer nothing can be verified, and nothing unverified is timed
        failed = Measurement("failed", f"no float64 answer: {brief(why)}")
        return Result(problem, threads, "none", {c.label: failed for c in field_})
    measurements: dict[str, Measurement] = {}
    starters: list[Starter] = []
    twin = shares_one_call(problem, field_)
    for contestant in field_:
        if contestant.label == twin:
            continue
        measurement, ways = verify(contestant, problem, operands, exact, threads)
        measurements[contestant.label] = measurement
        starters += [Starter(contestant.label, name, partial(time_batch, way)) for name, way in ways.items()]
    del exact
    race(starters, measurements, threads, rounds)
    if twin:
        measurements[twin] = measurements["cnnfast"]
    return Result(problem, threads, reference, {c.label: measurements[c.label] for c in field_})


def shares_one_call(problem: Problem, field_: list[Contestant]) -> str | None:
    """Without weights to pack, the packed call is the eager one: it is timed once for both columns."""
    labels = {c.label for c in field_}
    both = {"cnnfast", "cnnfast packed"} <= labels
    return "cnnfast packed" if both and problem.op not in cnnfast_peer.PACKED else None


# ---- verification --------------------------------------------------------------------------------


def float64_answer(problem: Problem, operands: Operands) -> tuple[np.ndarray, str]:
    """The answer in double precision, and who gave it."""
    double = {key: widen(value) for key, value in operands.items()}
    if problem.macs >= TORCH_CHECKS_FROM and peers.get("torch").available() is None:
        way = next(iter(peers.get("torch").prepare(problem, double, 1).values()))
        return answer(way), "torch float64"
    way = next(iter(peers.get("numpy").prepare(problem, double, 1).values()))
    return answer(way), "cnnfast NumPy float64"


def widen(value: Any) -> Any:
    if isinstance(value, list):
        return [widen(v) for v in value]
    return value.astype(np.float64) if value.dtype == np.float32 else value


def brief(why: Exception) -> str:
    """The kind of an error and the first line of its message."""
    return f"{type(why).__name__}: {(str(why).strip().splitlines() or [''])[0]}"


def answer(way: Candidate) -> np.ndarray:
    with way.context():
        value = way.run()
    return way.result(value)


def verify(
    contestant: Contestant, problem: Problem, operands: Operands, exact: np.ndarray, threads: int
) -> tuple[Measurement, dict[str, Candidate]]:
    """A measurement still without times, and the ways whose answer is right."""
    try:
        ways = contestant.prepare(problem, operands, threads)
        errors = {name: error(problem, operands, answer(way), exact) for name, way in ways.items()}
    except NotSupported as why:
        return Measurement("not supported", str(why)), {}
    except Exception as why:  # a contestant that breaks must not end the race
        return Measurement("failed", brief(why)), {}
    right = {name: ways[name] for name, value in errors.items() if value <= limit(problem)}
    worst = max(errors.values())
    if not right:
        return Measurement("WRONG", f"scaled error {worst:.1e}, limit {limit(problem):.1e}", error=worst), {}
    note = "" if len(right) == len(ways) else "wrong: " + ", ".join(sorted(set(ways) - set(right)))
    return Measurement("ok", note, error=max(errors[name] for name in right)), right


# ---- timing --------------------------------------------------------------------------------------


def time_batch(way: Candidate, repeats: int) -> float:
    """Seconds per call over a batch; one call before it, not timed, warms the caches."""
    run = way.run
    with way.context():
        run()
        start = time.perf_counter()
        for _ in repeat(None, repeats):
            run()
        return (time.perf_counter() - start) / repeats


@dataclass
class Starter:
    """One way of one contestant in the race, and its seconds per call, one entry a round."""

    label: str
    name: str
    batch: Callable[[int], float]  # number of calls -> seconds per call
    least: float = BATCH_SECONDS
    probe: float = 0.0
    repeats: int = 1
    seconds: list[float] = field(default_factory=list)

    def estimate(self) -> None:
        """Find out how many calls make a batch: the best of three tries, as anything may disturb one."""
        self.probe = self.batch(1)
        for _ in range(3):
            if self.probe < 10 * self.least:
                self.probe = min(self.probe, self.batch(max(1, round(self.least / 4 / self.probe))))
        self.repeats = max(1, round(self.least / self.probe))


def race(starters: list[Starter], measurements: Mapping[str, Measurement], threads: int, rounds: int) -> None:
    """Time the starters in turns and fill in the best way of each contestant."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        for starter in starters:
            settle(threads)
            starter.estimate()
        starters = promising(starters)
        for turn in range(rounds):
            for starter in starters if turn % 2 == 0 else reversed(starters):
                if len(starter.seconds) < max(3, int(SLOW_SECONDS / starter.probe)):
                    settle(threads)
                    starter.seconds.append(starter.batch(starter.repeats))
    finally:
        if collecting:
            gc.enable()
    for starter in starters:
        measurement, ms = measurements[starter.label], 1e3 * median(starter.seconds)
        if measurement.ms is None or ms < measurement.ms:
            # quantiles() wants two values at least.
            low, _, high = quantiles(starter.seconds * (2 if len(starter.seconds) == 1 else 1), n=4)
            measurement.ms, measurement.way = round(ms, 6), starter.name
            measurement.quartiles = (round(1e3 * low, 6), round(1e3 * high, 6))
            measurement.rounds, measurement.repeats = len(starter.seconds), starter.repeats


def promising(starters: list[Starter]) -> list[Starter]:
    """Leave out ways that the probe shows far behind another way of the same contestant."""
    best: dict[str, float] = {}
    for starter in starters:
        best[starter.label] = min(starter.probe, best.get(starter.label, starter.probe))
    return [s for s in starters if s.probe <= 1.3 * best[s.label]]


def settle(threads: int, *, step: float = 0.004, most: float = 0.2) -> None:
    """Wait until the process is idle: no worker of the contestant before spins any more."""
    if threads == 1:
        return
    deadline = time.perf_counter() + most
    while time.perf_counter() < deadline:
        used = time.process_time()
        time.sleep(step)
        if time.process_time() - used < step / 4:
            return
