"""Whole networks on a CUDA device beside torch with cuDNN.

``python -m cnnfast.bench.cuda_networks [--network NAME ...] [--batch N ...] [--dtype TYPE]`` prints one JSON
line for each as it goes. Both sides take an array on the device and leave one there, captured as a CUDA
graph, at the same precision; torch runs the same graph with batch norm folded, in channels_last, its
algorithms chosen by trial. ``ms`` is a run among many, ``latency_ms`` one that is waited for.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from typing import Any

import numpy as np

import cnnfast as cf

from .device_timing import Contestant, captured_by_torch, emit, have_torch, race, relative_error, why_not

NETWORKS = {
    "resnet50": (224, 224, 3),
    "mobilenet_v2": (224, 224, 3),
    "vgg16": (224, 224, 3),
    "efficientnet_b0": (224, 224, 3),
    "unet": (256, 256, 1),
}


def model_of(network: str) -> Any:
    return cf.models.create_model(network).eval()


def latency(contestant: Contestant, runs: int = 100) -> float:
    """Median milliseconds of runs that are each waited for."""
    start, wait = contestant
    times = []
    for _ in range(runs):
        wait()
        begin = time.perf_counter()
        start()
        wait()
        times.append(1e3 * (time.perf_counter() - begin))
    return statistics.median(times)


def measure(network: str, batch: int, dtype: str, against_torch: bool) -> dict[str, Any]:
    """Times of one network, checked against torch."""
    model = model_of(network)
    shape = (batch, *NETWORKS[network])
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    engine = cf.compile(model, shape, device="cuda", dtype=dtype)
    given = cf.cuda.asarray(x)
    got = engine(given).numpy()
    contestants: dict[str, Contestant] = {"ms": (lambda: engine(given), cf.cuda.synchronize)}
    fields: dict[str, Any] = {}
    if against_torch:
        import torch

        from .networks.source import folded
        from .peers.torch_model import GraphModule

        kind = getattr(torch, dtype)
        peer: Any = GraphModule(folded(model, shape))
        peer = peer.to("cuda", kind, memory_format=torch.channels_last)
        source = torch.from_numpy(x.transpose(0, 3, 1, 2)).cuda()
        place = source.clone(memory_format=torch.channels_last)
        (replay, wait), theirs = captured_by_torch(
            lambda: peer(place.to(kind, memory_format=torch.channels_last)).float()
        )

        def run() -> Any:
            place.copy_(source)
            replay()
            return theirs.clone()

        contestants["torch_ms"] = (run, wait)
        wanted = run().cpu().numpy()
        wanted = wanted.transpose(0, 2, 3, 1) if wanted.ndim == 4 else wanted
        fields["error"] = relative_error(got, wanted)
    fields |= race(contestants, seconds=1.0, batch_ms=10.0)
    for name, contestant in contestants.items():
        fields[name.replace("ms", "latency_ms")] = latency(contestant)
    if against_torch:
        fields["torch_over_cnnfast"] = fields["torch_ms"] / fields["ms"]
    fields["pictures_per_second"] = 1e3 * batch / fields["ms"]
    return fields


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--network", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--batch", nargs="*", type=int, default=[1, 64])
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--seconds", type=float, default=75, help="no network is begun after so many")
    args = parser.parse_args(argv)
    if reason := why_not():
        emit(bench="cuda_networks", result="no device", reason=reason)
        return 0
    against_torch, end = have_torch(), time.monotonic() + args.seconds
    wrong = 0
    for network in args.network:
        for batch in args.batch:
            if time.monotonic() > end:
                emit(bench="cuda_networks", network=network, batch=batch, result="left out: no time")
                continue
            try:
                fields = measure(network, batch, args.dtype, against_torch)
            except (cf.errors.CnnfastError, RuntimeError) as error:  # torch's out of memory is one
                emit(bench="cuda_networks", network=network, batch=batch, result=str(error))
                wrong += 1
                continue
            wrong += not fields.get("error", 0.0) < 5e-2
            if os.environ.get("CNNFAST_CUDA_DEPENDENT") == "1":
                fields["dependent"] = True
            emit(bench="cuda_networks", network=network, batch=batch, dtype=args.dtype, **fields)
    emit(bench="cuda_networks", wrong=wrong)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
