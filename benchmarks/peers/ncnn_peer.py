"""ncnn on its own format, made by its converter pnnx from the ONNX file and, with torch, from TorchScript."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from . import Candidate, NotSupported, from_nchw, missing, to_nchw, torch_peer

if TYPE_CHECKING:
    from ..networks.source import Network

LABEL = "ncnn"
WAYS = ("onnx", "torchscript")


def available() -> str | None:
    return missing("ncnn") or (None if converter().exists() else "its converter pnnx is not installed")


def version() -> str:
    import ncnn

    return str(ncnn.__version__)


def set_threads(threads: int) -> None:
    """Threads belong to the net."""


def converter() -> Path:
    return Path(sys.executable).with_name("pnnx")


def convert(network: Network) -> None:
    """Each way in a folder of its own; its weights would be float16 unasked."""
    n, h, w, c = network.shape
    sources = {"onnx": network.onnx}
    if torch_peer.available() is None:
        torch_peer.convert(network, image_by_image=True)
        sources["torchscript"] = network.folder / "single.pt"
    said = ""
    for way, source in sources.items():
        folder = network.folder / f"ncnn-{way}"
        folder.mkdir(exist_ok=True)
        copy = folder / f"model{source.suffix}"
        copy.unlink(missing_ok=True)
        copy.symlink_to(source.resolve())
        done = subprocess.run(
            [converter(), copy.name, f"inputshape=[{n if way == 'onnx' else 1},{c},{h},{w}]", "fp16=0"],
            cwd=folder,
            capture_output=True,
            text=True,
            errors="replace",
        )
        said += done.stdout + done.stderr
        for waste in folder.glob("model.pnnx*"):
            waste.unlink()
    if not list(network.folder.glob("ncnn-*/model.ncnn.param")):
        raise NotSupported("its converter: " + said.strip()[-200:])


def load(network: Network, way: str, threads: int, x: np.ndarray) -> Candidate:
    """Every half-sized type off, for storage and for arithmetic; pools of memory as in its own benchmark.

    It has no batches: images go through one after the other.
    """
    import ncnn

    folder = network.folder / f"ncnn-{way}"
    if not (folder / "model.ncnn.param").exists():
        raise NotSupported("not converted this way")
    net = ncnn.Net()
    for name in dir(net.opt):
        if name.startswith(("use_fp16", "use_bf16", "use_int8")):
            setattr(net.opt, name, False)
    net.opt.num_threads = threads
    net.opt.lightmode = True
    blobs, workspace = ncnn.UnlockedPoolAllocator(), ncnn.PoolAllocator()
    net.opt.blob_allocator, net.opt.workspace_allocator = blobs, workspace
    if net.load_param(str(folder / "model.ncnn.param")) or net.load_model(str(folder / "model.ncnn.bin")):
        raise NotSupported("the converted file cannot be loaded")
    images = [ncnn.Mat(image).clone() for image in to_nchw(x)]

    def run(alive: tuple = (net, blobs, workspace)) -> list:
        results = []
        for image in images:
            extractor = net.create_extractor()
            extractor.input("in0", image)
            results.append(extractor.extract("out0")[1])
        return results

    def result(out: list) -> np.ndarray:
        return from_nchw(np.stack([np.array(image) for image in out]).reshape(nchw_shape(network)))

    return Candidate(run, result)


def nchw_shape(network: Network) -> tuple[int, ...]:
    """The output's shape with channels second; a vector that the net gives as 1x1 image becomes one again."""
    out = network.out
    return (out[0], out[3], out[1], out[2]) if len(out) == 4 else out
