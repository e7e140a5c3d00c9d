"""All contestants on one network: checked against the float64 answer, then timed in turns."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from .. import peers
from ..runner import Measurement, Starter, race, settle
from .child import Remote, RemoteError, ask, convert
from .source import Network

__all__ = ["VARIANTS", "Entry", "NetworkMeasurement", "NetworkResult", "entries", "run_network"]

# Largest error as a share of the largest output. The boldest Winograd forms come to 1e-3 on U-Net in float32,
# most peers to 1e-5; bfloat16 arithmetic comes to 7e-3 at least. cnnfast promises more.
LIMIT, OWN_LIMIT = 2e-3, 1e-4

BATCH_SECONDS = 0.1  # of a turn: the first calls after a rest are slower than those of a network at work
FAR_BEHIND = 1.3  # a way of the same contestant that takes so many times as long is closed at once


@dataclass(frozen=True)
class Entry:
    """One row of the comparison: an adapter, its ways, and what the process's environment has more."""

    label: str
    peer: str
    ways: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)


# Further rows of cnnfast: without Winograd, with weights that take little memory or as much as is quickest,
# and with the instructions of older processors.
VARIANTS: dict[str, tuple[str, dict[str, str]]] = {
    "direct": ("direct", {}),
    "lean": ("lean", {}),
    "rich": ("rich", {}),
    "v3": ("plan", {"CNNFAST_ISA": "v3"}),
    "v2": ("plan", {"CNNFAST_ISA": "v2"}),
}


@dataclass
class NetworkMeasurement(Measurement):
    """Times in milliseconds, and what the process of the fastest way took at first."""

    memory: int | None = None  # most bytes resident after three runs
    import_ms: float | None = None
    load_ms: float | None = None
    first_ms: float | None = None
    cpus: float | None = None  # processor time by time in the last batch: at most the threads asked for


@dataclass
class NetworkResult:
    """One network at one thread count."""

    network: Network
    threads: int
    measurements: dict[str, NetworkMeasurement]

    def to_json(self) -> dict[str, Any]:
        measured = {label: asdict(m) for label, m in self.measurements.items()}
        return {**self.network.to_json(), "threads": self.threads, "measurements": measured}


def entries(
    vs: Iterable[str], variants: Iterable[str] = ()
) -> tuple[list[Entry], dict[str, str], dict[str, str]]:
    """Those that can take part, cnnfast first; a word on each peer that cannot; versions."""
    chosen = [Entry("cnnfast", "cnnfast", peers.get("cnnfast").WAYS)]
    for name in variants:
        way, environment = VARIANTS[name]
        chosen.append(Entry(f"cnnfast {name}", "cnnfast", (way,), environment))
    missing, versions = {}, {"cnnfast": peers.get("cnnfast").version()}
    for name in vs:
        why, version = ask(name)
        if why is not None:
            missing[name] = why
        else:
            adapter = peers.get(name)
            chosen.append(Entry(adapter.LABEL, name, adapter.WAYS))
            versions[name] = version
    return chosen, missing, versions


def run_network(
    network: Network,
    chosen: list[Entry],
    threads: list[int],
    rounds: int,
    progress: Callable[[str], None] = lambda text: None,
) -> list[NetworkResult]:
    """Verify and time all contestants, once for each thread count."""
    refused: dict[str, RemoteError] = {}
    for peer in dict.fromkeys(entry.peer for entry in chosen):
        progress(f"{network.name}: file for {peer}")
        try:
            convert(network.folder, peer)
        except RemoteError as error:
            refused[peer] = error
    exact = network.exact()
    results = []
    for count in threads:
        measurements: dict[str, NetworkMeasurement] = {}
        racers: list[Racer] = []
        try:
            for entry in chosen:
                progress(f"{network.name}, {count} threads: loading {entry.label}")
                if entry.peer in refused:
                    why = refused[entry.peer]
                    measurements[entry.label] = NetworkMeasurement(why.kind, str(why))
                else:
                    measurements[entry.label], ready = enter(entry, network, exact, count)
                    racers += ready
            progress(f"{network.name}, {count} threads: timing")
            race([racer.starter for racer in racers], measurements, count, rounds)
        finally:
            for racer in racers:
                racer.remote.close()
        for racer in racers:
            racer.finish(measurements[racer.starter.label], count)
        results.append(NetworkResult(network, count, measurements))
    return results


class Racer:
    """A way of a contestant that runs in its process, ready to be timed."""

    def __init__(self, label: str, way: str, remote: Remote, costs: dict[str, Any]) -> None:
        self.remote, self.costs = remote, costs
        self.starter = Starter(label, way, self.batch, BATCH_SECONDS)
        self.failure: RemoteError | None = None

    def batch(self, repeats: int) -> float:
        """Seconds per call; one that breaks must not end the race, and is never the fastest."""
        try:
            return self.remote.batch(repeats)
        except RemoteError as why:
            self.failure = self.failure or why
            return math.inf

    def finish(self, measurement: NetworkMeasurement, threads: int) -> None:
        """Put what this process took beside its time, if that is the one that counts."""
        if measurement.way != self.starter.name:
            return
        if self.failure is not None:
            measurement.status, measurement.note = self.failure.kind, str(self.failure)
            measurement.ms = measurement.quartiles = None
            return
        measurement.memory, measurement.cpus = self.costs["memory"], round(self.remote.cpus, 2)
        if measurement.cpus > threads + 0.2:
            measurement.note = "; ".join(filter(None, [measurement.note, f"used {measurement.cpus} cores"]))
        for key in ("import", "load", "first"):
            setattr(measurement, f"{key}_ms", round(1e3 * self.costs[key], 3))


def enter(
    entry: Entry, network: Network, exact: np.ndarray, threads: int
) -> tuple[NetworkMeasurement, list[Racer]]:
    """Start each way in its process and check it; those that are right and not far behind may race."""
    racers: list[Racer] = []
    failures: dict[str, RemoteError] = {}
    errors: dict[str, float] = {}
    for way in entry.ways:
        settle(2)
        remote = Remote(network.folder, entry.peer, way, threads, entry.environment)
        try:
            costs = remote.report()
            errors[way] = relative_error(np.load(remote.output), exact)
        except RemoteError as why:
            failures[way] = why
            remote.close()
            continue
        if errors[way] <= (OWN_LIMIT if entry.peer == "cnnfast" else LIMIT):
            racer = Racer(entry.label, way, remote, costs)
            racer.starter.probe = min(racer.batch(1), racer.batch(1))
            racers.append(racer)
        else:
            remote.close()
    if not racers:
        return verdict(failures, errors), []
    best = min(racer.starter.probe for racer in racers)
    for racer in racers:
        if racer.starter.probe > FAR_BEHIND * best:
            racer.remote.close()
    racers = [racer for racer in racers if racer.starter.probe <= FAR_BEHIND * best]
    right = {racer.starter.name for racer in racers}
    notes = [f"wrong: {way} ({value:.1e})" for way, value in errors.items() if value > LIMIT]
    notes += [f"{way}: {why}" for way, why in failures.items()]
    error = max(errors[way] for way in right)
    return NetworkMeasurement("ok", "; ".join(notes), error=error), racers


def verdict(failures: dict[str, RemoteError], errors: dict[str, float]) -> NetworkMeasurement:
    """Why a contestant has no way that could be timed."""
    if errors:
        worst = max(errors.values())
        value = worst if math.isfinite(worst) else None
        return NetworkMeasurement("WRONG", f"relative error {worst:.1e}", error=value)
    kinds = {why.kind for why in failures.values()}
    kind = "failed" if "failed" in kinds else "not supported"
    return NetworkMeasurement(kind, "; ".join(dict.fromkeys(map(str, failures.values()))))


def relative_error(got: np.ndarray, exact: np.ndarray) -> float:
    """Greatest error as a share of the greatest output."""
    if got.shape != exact.shape or not np.isfinite(got).all():
        return math.inf
    return float(np.abs(got - exact).max() / np.abs(exact).max())
