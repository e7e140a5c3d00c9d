"""MNN on its own format, made from the ONNX file by the converter that comes with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import Candidate, NotSupported, from_nchw, missing, to_nchw

if TYPE_CHECKING:
    from ..networks.source import Network

LABEL = "mnn"
WAYS = ("default", "smaller tiles")

# Its largest Winograd tiles err by 5e-3 on ResNet-50; a level of memory less makes them smaller, and right.
WINOGRAD_MEMORY_LEVEL, SMALLER = 3, 2


def available() -> str | None:
    return missing("MNN")


def version() -> str:
    from importlib.metadata import version

    return version("MNN")


def set_threads(threads: int) -> None:
    """Threads belong to the session."""


def convert(network: Network) -> None:
    tool = Path(sys.executable).with_name("mnnconvert")
    target = network.folder / "model.mnn"
    options = [
        "-f",
        "ONNX",
        "--modelFile",
        str(network.onnx),
        "--MNNModel",
        str(target),
        "--bizCode",
        "bench",
    ]
    done = subprocess.run([tool, *options], capture_output=True, text=True, errors="replace")
    if not target.exists():
        raise NotSupported("its converter: " + (done.stdout + done.stderr).strip()[-200:])


def load(network: Network, way: str, threads: int, x: np.ndarray) -> Candidate:
    """Precision "high" is float32 throughout; "normal" leaves the choice to the backend."""
    import MNN

    interpreter = MNN.Interpreter(str(network.folder / "model.mnn"))
    if way == "smaller tiles":
        interpreter.setSessionHint(WINOGRAD_MEMORY_LEVEL, SMALLER)
    session = interpreter.createSession({"backend": "CPU", "numThread": threads, "precision": "high"})
    fed = to_nchw(x)
    source = interpreter.getSessionInput(session)
    given = MNN.Tensor(fed.shape, MNN.Halide_Type_Float, fed, MNN.Tensor_DimensionType_Caffe)
    target = interpreter.getSessionOutput(session)
    shape = target.getShape()
    out = np.zeros(shape, np.float32)
    taken = MNN.Tensor(shape, MNN.Halide_Type_Float, out, MNN.Tensor_DimensionType_Caffe)

    def run(alive: tuple[Any, ...] = (fed, out)) -> None:
        # A session uses the memory of its input for other things once that has been read.
        source.copyFrom(given)
        interpreter.runSession(session)
        target.copyToHostTensor(taken)

    def result(_: Any) -> np.ndarray:
        return from_nchw(np.array(taken.getNumpyData(), np.float32).reshape(shape))

    return Candidate(run, result)
