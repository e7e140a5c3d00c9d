"""``cnnfast bench style``: iterations of style transfer beside the same loop in PyTorch.

An iteration of Adam: features of VGG-19 up to conv5_1, content cost at conv4_2, style costs at conv1_1 to
conv5_1, the gradient of the pixels, the update, and pixels moved back into 0..255. Both begin with the same
picture and the same weights; J and its gradient are compared before anything is timed.
"""

from __future__ import annotations

import argparse
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

__all__ = ["add_arguments", "main", "run"]

RATE = 4.0  # of pixels in 0..255
# Winograd's rounding moves sums that are nearly zero to the other side of a ReLU here and there.
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-3, 2e-2


@dataclass
class StyleResult:
    size: int
    threads: int
    measurements: dict[str, Measurement]

    @property
    def ratio(self) -> float | None:
        """Our time over the peer's."""
        ours, peer = (self.measurements[label].ms for label in ("cnnfast", "torch"))
        return ours / peer if ours and peer else None


# An iteration, J before the first one, the gradient there (H, W, 3), and beta.
Loop = tuple[Candidate, float, np.ndarray, float]


def features_of(weights: str | None) -> Any:
    """VGG-19 out of a file, or with weights drawn from a seed, which cost the same time."""
    from cnnfast import style
    from cnnfast.models.vgg import vgg_features

    if weights:
        return style.load_features(weights)
    state = vgg_features(19).initialize(0).state_dict("torch")
    return style.Features({f"features.{name}": array for name, array in state.items()})


def pictures(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Content, style, and where to begin: noise of several scales, like a photograph's."""
    import cnnfast as cf

    rng = np.random.default_rng(7)
    made = []
    for _ in range(3):
        x = np.zeros((1, size, size, 3), np.float32)
        for side in (4, 16, 64):
            x += cf.ops.resize(rng.uniform(0, 85, (1, side, side, 3)).astype(np.float32), (size, size))
        made.append(x)
    return made[0], made[1], made[2]


def our_loop(features: Any, content: np.ndarray, example: np.ndarray, begin: np.ndarray) -> Loop:
    from cnnfast import style
    from cnnfast.style.transfer import Run

    objective = style.Objective(features, content, example)
    costs, g = objective(begin)
    run = Run(objective, begin.copy(), "adam", RATE)
    return Candidate(run.step), costs.total, g[0], objective.weights[1]


def torch_loops(
    features: Any, content: np.ndarray, example: np.ndarray, begin: np.ndarray, beta: float
) -> dict[str, Loop]:
    """In contiguous NCHW and in channels_last, as it is usually written: modules, autograd, Adam."""
    import torch

    from cnnfast.style.features import Convolution
    from cnnfast.style.objective import CONTENT_LAYERS, STYLE_LAYERS

    steps = features.until([*CONTENT_LAYERS, *STYLE_LAYERS])
    loops = {}
    for way, layout in (("nchw", torch.contiguous_format), ("channels_last", torch.channels_last)):
        modules: list[tuple[str, Any]] = []
        for step in steps:
            if isinstance(step, Convolution):
                layer: Any = torch.nn.Conv2d(step.weight.shape[2], step.weight.shape[3], 3, padding=1)
                with torch.no_grad():
                    layer.weight.copy_(torch.from_numpy(step.weight.transpose(3, 2, 0, 1).copy()))
                    layer.bias.copy_(torch.from_numpy(np.array(step.bias)))
                modules.append((step.name, layer.requires_grad_(False).to(memory_format=layout)))
            else:
                modules.append((step.name, torch.nn.MaxPool2d(2)))
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (features.pixels.mean, features.pixels.std))

        def maps(x: Any, modules=modules, mean=mean, std=std) -> dict[str, Any]:
            x, found = (x - mean) / std, {}
            for name, layer in modules:
                x = layer(x)
                if name.startswith("conv"):
                    x = torch.relu(x)
                found[name] = x
            return found

        def gram(x: Any) -> Any:
            flat = x.flatten(2)[0]
            return flat @ flat.T

        start, other, x = (
            torch.from_numpy(to_nchw(p)).contiguous(memory_format=layout) for p in (content, example, begin)
        )
        with torch.no_grad():
            wanted, example_maps = maps(start), maps(other)
            targets = {name: wanted[name] for name in CONTENT_LAYERS}
            grams = {name: gram(example_maps[name]) for name in STYLE_LAYERS}
        x = x.clone().requires_grad_()
        optimizer = torch.optim.Adam([x], lr=RATE)

        def loss(x=x, maps=maps, targets=targets, grams=grams) -> Any:
            found, total = maps(x), 0.0
            for name, weight in CONTENT_LAYERS.items():
                total = total + weight * ((found[name] - targets[name]) ** 2).mean() / 4
            for name, weight in STYLE_LAYERS.items():
                difference = gram(found[name]) - grams[name]
                total = total + beta * weight * (difference**2).sum() / (2 * found[name].numel()) ** 2
            return total

        def step(x=x, loss=loss, optimizer=optimizer) -> None:
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
            with torch.no_grad():
                x.clamp_(0, 255)

        first = loss()
        first.backward()
        assert x.grad is not None
        gradient = x.grad.numpy()[0].transpose(1, 2, 0).copy()
        loops[way] = (Candidate(step), float(first.detach()), gradient, beta)
    return loops


def disagreement(ours: Loop, theirs: Loop) -> tuple[float, float]:
    """Relative differences of J and of its gradient."""
    loss = abs(ours[1] - theirs[1]) / abs(theirs[1])
    return loss, float(np.linalg.norm(ours[2] - theirs[2]) / np.linalg.norm(theirs[2]))


def measure(features: Any, size: int, threads: int, rounds: int) -> StyleResult:
    """Compare, then time in turns."""
    ours, torch = peers.get("cnnfast"), peers.get("torch")
    ours.set_threads(threads)
    given = features, *pictures(size)
    measurements = {"cnnfast": Measurement("ok")}
    mine = our_loop(*given)
    starters = [Starter("cnnfast", "packed", partial(time_batch, mine[0]))]
    if (why := torch.available()) is not None:
        measurements["torch"] = Measurement("not supported", why)
    else:
        torch.set_threads(threads)
        try:
            theirs = torch_loops(*given, mine[3])
        except Exception as error:
            measurements["torch"] = Measurement("failed", brief(error))
        else:
            found = np.array([disagreement(mine, way) for way in theirs.values()]).max(0)
            measurements["cnnfast"].error = float(found[1])
            if not (found[0] <= LOSS_TOLERANCE and found[1] <= GRADIENT_TOLERANCE):
                measurements["cnnfast"].status = "WRONG"
            measurements["torch"] = Measurement("ok")
            starters += [Starter("torch", name, partial(time_batch, way[0])) for name, way in theirs.items()]
    if measurements["cnnfast"].status == "ok":
        race(starters, measurements, threads, rounds)
    return StyleResult(size, threads, measurements)


def table(results: list[StyleResult]) -> str:
    head = ["size", "threads", "cnnfast ms", "torch ms", "its way", "ours / torch", "difference"]

    def shown(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    body = [
        [
            f"{r.size} x {r.size}", str(r.threads), shown(mine.ms, ".4g") if mine.ms else mine.status,
            shown(peer.ms, ".4g") if peer.ms else peer.note or peer.status, peer.way, shown(r.ratio, ".2f"),
            shown(mine.error, ".1e"),
        ]
        for r in results
        for mine, peer in [(r.measurements["cnnfast"], r.measurements["torch"])]
    ]  # fmt: skip
    return markdown(head, body)


def write_json(results: list[StyleResult], rounds: int, weights: str | None, path: Path) -> None:
    head = {
        "format": 1,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "machine": machine.describe(),
        "versions": {
            name: peers.get(name).version()
            for name in ("cnnfast", "torch")
            if peers.get(name).available() is None
        },
        "weights": weights and Path(weights).name,
        "rounds": rounds,
    }
    rows = [
        {
            "size": r.size,
            "threads": r.threads,
            "ratio": r.ratio,
            "measurements": {label: asdict(m) for label, m in r.measurements.items()},
        }
        for r in results
    ]
    write_lines(head, rows, path)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=int, default=256, metavar="N", help="rows and columns (default 256)")
    parser.add_argument("--weights", metavar="FILE", help="VGG-19's (default: drawn from a seed)")
    parser.add_argument("--threads", type=numbers, metavar="1,2", help="default: all that cnnfast uses")
    parser.add_argument("--rounds", type=int, default=7, help="of which the median is taken (default 7)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements")


def run(args: argparse.Namespace) -> int:
    """0: measured; 1: the gradients differ; 2: cannot be measured as asked."""
    import cnnfast

    if args.size < 16 or args.rounds < 1:
        print("cnnfast bench style: --size must be at least 16, --rounds at least 1", file=sys.stderr)
        return 2
    before, results = cnnfast.get_num_threads(), []
    features = features_of(args.weights)
    try:
        for threads in args.threads or [before]:
            progress(f"{threads} threads: {args.size} x {args.size}")
            results.append(measure(features, args.size, threads, args.rounds))
    finally:
        cnnfast.set_num_threads(before)
        progress("")
    print(table(results))
    if args.json:
        write_json(results, args.rounds, args.weights, args.json)
    return int(any(r.measurements["cnnfast"].status != "ok" for r in results))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="cnnfast bench style", description=__doc__)
    add_arguments(parser)
    return run(parser.parse_args(argv))
