"""Convolutions of known networks on a CUDA device, one by one, beside torch with cuDNN.

``python -m cnnfast.bench.cuda_layers [--network NAME ...] [--batch N ...] [--dtype TYPE] [--tune]`` prints a
JSON line for each layer as it goes. Both sides run the same precision with the bias, captured as CUDA graphs,
torch in channels_last with its algorithms chosen by trial. Results are compared first. ``--tune`` also times
every block of ``conv_mma.cu`` and ``conv_sm90.cu`` and says which was best.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

import cnnfast as cf
from cnnfast import ops
from cnnfast.cuda.loading import module
from cnnfast.errors import CnnfastError
from cnnfast.ops import conv_mma
from cnnfast.ops.conv import infer_conv2d

from .device_timing import captured, captured_by_torch, emit, have_torch, race, relative_error, why_not
from .problems import Problem, load, sides

NETWORKS = ["resnet50", "mobilenet_v2", "vgg16", "unet"]
LAYERS = {"conv2d": ops.conv2d, "depthwise_conv2d": ops.depthwise_conv2d, "linear": ops.linear}


def layers(network: str, batch: int) -> Iterator[tuple[Problem, tuple[int, ...]]]:
    """Every different convolution or dense layer, and the shape of its input in a batch."""
    seen = set()
    for p in load(network):
        if p.op in LAYERS and p.key() not in seen:
            seen.add(p.key())
            yield p, (batch, *p.shapes["x"][1:])


def attributes(p: Problem) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in p.attrs.items()}


def torch_call(p: Problem, x: Any, w: Any, b: Any, dtype: str) -> Any:
    """The same layer as a call of torch, on copies of the arrays."""
    import torch
    from torch.nn import functional

    kind = getattr(torch, dtype)
    x, w, b = [torch.from_numpy(a).to("cuda", kind) for a in (x, w, b)]
    if p.op == "linear":
        return lambda: functional.linear(x, w.T.contiguous() if not w.is_contiguous() else w.T, b)
    x = x.permute(0, 3, 1, 2)
    if p.op == "depthwise_conv2d":
        kh, kw, c, m = w.shape
        w = w.reshape(kh, kw, 1, c * m)
    w = w.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
    groups = x.shape[1] if p.op == "depthwise_conv2d" else p.attrs.get("groups", 1)
    (top, bottom), (left, right) = sides(p.attrs.get("padding", 0))
    if (top, left) != (bottom, right):
        x, top, left = functional.pad(x, (left, right, top, bottom)), 0, 0
    rest = {"stride": p.attrs.get("stride", 1), "dilation": p.attrs.get("dilation", 1), "groups": groups}
    return lambda: functional.conv2d(x, w, b, padding=(top, left), **rest)


def blocks(p: Problem, x: Any, w: Any, b: Any) -> dict[str, float]:
    """Milliseconds by (block, parts of the sum), of those that take the layer."""
    if p.op != "conv2d":
        return {}
    s = infer_conv2d(x.shape, w.shape, b.shape, **attributes(p))
    if not conv_mma.accepts(s, x.dtype):
        return {}
    found = {}
    tiles = module().mma_tiles
    for tile in range(tiles + 3):
        for parts in (1, 2, 4, 8, 16) if tile < tiles else (1,):
            try:
                contestant, _ = captured(
                    functools.partial(conv_mma.conv2d, s, x, w, None, b, choice=(tile, parts))
                )
            except (CnnfastError, ValueError):
                continue
            found[f"{tile}/{parts}"] = race({"it": contestant}, 0.03)["it"]
    return found


def measure(
    p: Problem, shape: tuple[int, ...], dtype: str, against_torch: bool, tune: bool
) -> dict[str, Any]:
    """Times of one layer, checked against torch."""
    rng = np.random.default_rng(len(p.name))
    w_shape = tuple(p.shapes["w"])
    depth = int(np.prod(w_shape[:-1] if p.op != "depthwise_conv2d" else w_shape[:2]))
    outputs = int(np.prod(w_shape[2:])) if p.op == "depthwise_conv2d" else w_shape[-1]
    x = rng.standard_normal(shape, np.float32)
    w = (rng.standard_normal(w_shape) / np.sqrt(depth)).astype(np.float32)
    b = rng.standard_normal(outputs).astype(np.float32)
    on_device = [cf.cuda.asarray(a, dtype) for a in (x, w, b)]
    on_device[1].forms = {}  # it never changes: packed once
    run, result = captured(lambda: LAYERS[p.op](*on_device, **attributes(p)))
    contestants = {"ms": run}
    fields: dict[str, Any] = {}
    if against_torch:
        contestants["torch_ms"], theirs = captured_by_torch(torch_call(p, x, w, b, dtype))
        theirs = theirs.float()
        wanted = (theirs.permute(0, 2, 3, 1) if theirs.ndim == 4 else theirs).cpu().numpy()
        fields["error"] = relative_error(result.numpy(), wanted)
    fields |= race(contestants)
    if against_torch:
        fields["torch_over_cnnfast"] = fields["torch_ms"] / fields["ms"]
    flops = p.flops * shape[0] / p.shapes["x"][0]
    fields["tflops"] = flops / fields["ms"] / 1e9
    if tune:
        times = blocks(p, *on_device)
        if times:
            best = min(times, key=lambda k: times[k])
            fields |= {"best_block": best, "best_ms": times[best]}
    return fields


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--network", nargs="*", default=NETWORKS)
    parser.add_argument("--batch", nargs="*", type=int, default=[1, 32])
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--seconds", type=float, default=75, help="no layer is begun after so many")
    parser.add_argument("--tune", action="store_true", help="time every block as well")
    args = parser.parse_args(argv)
    if reason := why_not():
        emit(bench="cuda_layers", result="no device", reason=reason)
        return 0
    against_torch, end = have_torch(), time.monotonic() + args.seconds
    left = wrong = 0
    for batch in args.batch:
        for network in args.network:
            for p, shape in layers(network, batch):
                if time.monotonic() > end:
                    left += 1
                    continue
                what = {"network": network, "layer": p.name, "batch": batch, "dtype": args.dtype}
                try:
                    fields = measure(p, shape, args.dtype, against_torch, args.tune)
                except (CnnfastError, RuntimeError) as error:  # torch's out of memory is one
                    emit(bench="cuda_layers", **what, result=str(error))
                    wrong += 1
                    continue
                wrong += not fields.get("error", 0.0) < 2e-2
                emit(bench="cuda_layers", **what, **fields)
    emit(bench="cuda_layers", left_out=left, wrong=wrong)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
