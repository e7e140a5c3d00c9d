"""LiteRT (formerly TensorFlow Lite) with its XNNPACK delegate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import Candidate, missing

if TYPE_CHECKING:
    from ..networks.source import Network

LABEL = "litert"
WAYS = ("interpreter",)


def available() -> str | None:
    return missing("ai_edge_litert.interpreter")


def version() -> str:
    from importlib.metadata import version

    return version("ai-edge-litert")


def set_threads(threads: int) -> None:
    """Threads belong to the interpreter."""


def convert(network: Network) -> None:
    """Our own writer: there is no converter from ONNX or torch without TensorFlow or other gigabytes."""
    from ..networks.source import flat_graph
    from .tflite_model import build

    (network.folder / "model.tflite").write_bytes(build(flat_graph(network)))


def load(network: Network, way: str, threads: int, x: np.ndarray) -> Candidate:
    """XNNPACK runs float32 models in float32 unless the file or a flag allows half; neither does here."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(network.folder / "model.tflite"), num_threads=threads)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    output = interpreter.get_output_details()[0]["index"]

    def result(_: Any) -> np.ndarray:
        return interpreter.get_tensor(output)

    return Candidate(interpreter.invoke, result)
