"""``cnnfast bench train``: steps of training beside PyTorch eager.

A step is forward pass, cross-entropy, backward pass and an update by SGD with momentum. Both begin with the
same weights and see the same batch; loss and first gradients are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import gc
import sys
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from . import machine, peers
from .cli import numbers, progress
from .peers import Candidate, to_nchw
from .report import markdown, write_lines
from .runner import Measurement, Starter, brief, race, time_batch

__all__ = ["NETWORKS", "add_arguments", "main", "run"]

RATE, MOMENTUM = 0.01, 0.9
TOLERANCE = 1e-2  # of loss and gradients; normalisation over few pictures amplifies rounding


@dataclass(frozen=True)
class Task:
    """A network, its picture and what it predicts: a class per picture or per pixel."""

    name: str
    picture: tuple[int, int, int]
    classes: int
    pixels: bool = False
    options: tuple[tuple[str, Any], ...] = ()

    def batch(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(30)
        x = rng.uniform(-1, 1, (n, *self.picture)).astype(np.float32)
        shape = (n, *self.picture[:2]) if self.pixels else (n,)
        return x, rng.integers(0, self.classes, shape)

    def model(self) -> Any:
        """In training mode; without dropout, whose draws no two libraries share."""
        import cnnfast as cf

        model = cf.models.create_model(
            self.name, num_classes=self.classes, seed=0, **dict(self.options)
        ).train()
        for module in model.modules():
            if isinstance(module, cf.nn.Dropout):
                module.p = 0.0
        return model


NETWORKS = {
    "lenet5": Task("lenet5", (32, 32, 1), 10),
    "resnet18": Task("resnet18", (224, 224, 3), 1000),
    "mobilenet_v2": Task("mobilenet_v2", (224, 224, 3), 1000),
    "unet": Task("unet", (128, 128, 1), 2, pixels=True),
}


@dataclass
class TrainingResult:
    task: Task
    batch: int
    threads: int
    measurements: dict[str, Measurement]

    @property
    def ratio(self) -> float | None:
        """Our time over the peer's."""
        ours, peer = (self.measurements[label].ms for label in ("cnnfast", "torch"))
        return ours / peer if ours and peer else None


# A step, its loss, and the gradients by name of parameter in our layout.
Steps = tuple[Candidate, float, dict[str, np.ndarray]]


def our_step(task: Task, x: np.ndarray, labels: np.ndarray) -> Steps:
    import cnnfast as cf

    model = task.model()
    optimizer = cf.optim.Momentum(list(model.parameters()), lr=RATE, momentum=MOMENTUM)
    batch = cf.Tensor(x)

    def forward_backward() -> Any:
        optimizer.zero_grad()
        loss = cf.losses.cross_entropy(model(batch), labels)
        loss.backward()
        return loss

    def step() -> None:
        forward_backward()
        optimizer.step()

    loss = float(forward_backward().data)
    gradients = {name: p.grad.copy() for name, p in model.named_parameters() if p.grad is not None}
    return Candidate(step), loss, gradients


def torch_steps(task: Task, x: np.ndarray, labels: np.ndarray) -> dict[str, Steps]:
    """In contiguous NCHW and in channels_last."""
    import torch

    from cnnfast.graph import trace

    from .peers.torch_model import GraphModule

    graph = trace(task.model(), x.shape)
    made = {}
    for way, layout in (("nchw", torch.contiguous_format), ("channels_last", torch.channels_last)):
        model: Any = GraphModule(graph, learns=True)
        model = model.to(memory_format=layout)
        optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM)
        batch = torch.from_numpy(to_nchw(x)).contiguous(memory_format=layout)
        target = torch.from_numpy(labels)

        def forward_backward(model=model, optimizer=optimizer, batch=batch, target=target) -> Any:
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(batch), target)
            loss.backward()
            return loss

        def step(forward_backward=forward_backward, optimizer=optimizer) -> None:
            forward_backward()
            optimizer.step()

        loss = float(forward_backward().detach())
        names = {value.name: getattr(model, name) for value, name in model.names.items()}
        gradients = {
            name: p.grad.numpy() for name, p in names.items() if getattr(p, "grad", None) is not None
        }
        made[way] = (Candidate(step), loss, gradients)
    return made


def disagreement(ours: Steps, theirs: Steps) -> float:
    """The relative difference of the loss, or of the lengths of all gradients where that is larger.

    Lengths, because the libraries keep weights in different orders.
    """
    names = sorted(theirs[2])
    mine, other = (
        np.array([np.linalg.norm(g[2][name].astype(np.float64)) for name in names]) for g in (ours, theirs)
    )
    gradients = float(np.linalg.norm(mine - other) / np.linalg.norm(other))
    return max(gradients, abs(ours[1] - theirs[1]) / abs(theirs[1]))


def measure(task: Task, batch: int, threads: int, rounds: int) -> TrainingResult:
    """Compare, then time in turns."""
    ours, torch = peers.get("cnnfast"), peers.get("torch")
    ours.set_threads(threads)
    measurements: dict[str, Measurement] = {}
    starters: list[Starter] = []
    x, labels = task.batch(batch)
    mine = our_step(task, x, labels)
    measurements["cnnfast"] = Measurement("ok")
    starters.append(Starter("cnnfast", "step", partial(time_batch, mine[0])))
    if (why := torch.available()) is not None:
        measurements["torch"] = Measurement("not supported", why)
    else:
        torch.set_threads(threads)
        try:
            theirs = torch_steps(task, x, labels)
        except Exception as error:
            measurements["torch"] = Measurement("failed", brief(error))
        else:
            worst = max(disagreement(mine, way) for way in theirs.values())
            wrong = not worst <= TOLERANCE
            measurements["cnnfast"].error = worst
            if wrong:
                measurements["cnnfast"].status = "WRONG"
            measurements["torch"] = Measurement("ok")
            starters += [Starter("torch", name, partial(time_batch, way[0])) for name, way in theirs.items()]
    if measurements["cnnfast"].status == "ok":
        race(starters, measurements, threads, rounds)
    return TrainingResult(task, batch, threads, measurements)


def table(results: list[TrainingResult]) -> str:
    head = ["network", "batch", "threads", "cnnfast ms", "torch ms", "its way", "ours / torch", "difference"]
    body = []
    for r in results:
        mine, peer = r.measurements["cnnfast"], r.measurements["torch"]
        body.append(
            [
                r.task.name,
                str(r.batch),
                str(r.threads),
                f"{mine.ms:.4g}" if mine.ms else mine.status,
                f"{peer.ms:.4g}" if peer.ms else peer.note or peer.status,
                peer.way,
                f"{r.ratio:.2f}" if r.ratio else "-",
                f"{mine.error:.1e}" if mine.error is not None else "-",
            ]
        )
    return markdown(head, body)


def write_json(results: list[TrainingResult], rounds: int, path: Path) -> None:
    head = {
        "format": 1,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "machine": machine.describe(),
        "versions": {
            name: peers.get(name).version()
            for name in ("cnnfast", "torch")
            if peers.get(name).available() is None
        },
        "rounds": rounds,
    }
    rows = [
        {
            **asdict(r.task),
            "batch": r.batch,
            "threads": r.threads,
            "measurements": {label: asdict(m) for label, m in r.measurements.items()},
        }
        for r in results
    ]
    write_lines(head, rows, path)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: {', '.join(NETWORKS)}")
    parser.add_argument("--batch", type=int, default=16, metavar="N", help="pictures a step (default 16)")
    parser.add_argument("--threads", type=numbers, metavar="1,2", help="default: all that cnnfast uses")
    parser.add_argument("--rounds", type=int, default=7, help="of which the median is taken (default 7)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements")


def run(args: argparse.Namespace) -> int:
    """0: measured; 1: gradients differ; 2: cannot be measured as asked."""
    import cnnfast

    if unknown := [name for name in args.names if name not in NETWORKS]:
        print(
            f"cnnfast bench train: unknown {unknown[0]!r}; choose from {', '.join(NETWORKS)}", file=sys.stderr
        )
        return 2
    if args.batch < 1 or args.rounds < 1:
        print("cnnfast bench train: --batch and --rounds must be at least 1", file=sys.stderr)
        return 2
    before, results = cnnfast.get_num_threads(), []
    try:
        for threads in args.threads or [before]:
            for name in args.names or NETWORKS:
                progress(f"{threads} threads: {name}")
                results.append(measure(NETWORKS[name], args.batch, threads, args.rounds))
                gc.collect()
    finally:
        cnnfast.set_num_threads(before)
        progress("")
    print(table(results))
    if args.json:
        write_json(results, args.rounds, args.json)
    return int(any(r.measurements["cnnfast"].status != "ok" for r in results))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="cnnfast bench train", description=__doc__)
    add_arguments(parser)
    return run(parser.parse_args(argv))
