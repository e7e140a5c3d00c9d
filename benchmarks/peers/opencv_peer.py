"""OpenCV's dnn module on the ONNX file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import Candidate, NotSupported, from_nchw, missing, to_nchw

if TYPE_CHECKING:
    from ..networks.source import Network

LABEL = "opencv"
WAYS = ("winograd",)


def available() -> str | None:
    return missing("cv2")


def version() -> str:
    import cv2

    return str(cv2.__version__)


def set_threads(threads: int) -> None:
    import cv2

    cv2.setNumThreads(threads)


def convert(network: Network) -> None:
    """It reads ONNX."""


def load(network: Network, way: str, threads: int, x: np.ndarray) -> Candidate:
    """Winograd on, as is its default; the target named here computes in float32 (half has one of its own)."""
    import cv2

    try:
        net = cv2.dnn.readNetFromONNX(str(network.onnx))
    except cv2.error as error:
        raise NotSupported(f"cannot read the file: {error.err}") from error
    net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
    net.setPreferableTarget(cv2.dnn.DNN_TARGET_CPU)
    net.enableWinograd(True)
    blob = to_nchw(x)

    def run() -> Any:
        net.setInput(blob)
        return net.forward()

    return Candidate(run, lambda out: from_nchw(np.asarray(out)))
