"""What several commands say about networks: names, sizes, files, and building them."""

from __future__ import annotations

import argparse
import importlib
import math
import os
import re
from typing import Any

import numpy as np

from ..errors import WeightsError
from ..models.registry import create_model, entry
from ..nn.module import Module

SIZE = re.compile(r"(\d{1,5})[x,](\d{1,5})(?:[x,](\d{1,5}))?", re.IGNORECASE)


def model_name(text: str) -> str:
    """For argparse: the name of a registered network, or an error with the nearest names."""
    try:
        return entry(text).name
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def network(text: str) -> str:
    """For argparse: the name of a registered network, or an ONNX file."""
    return text if is_onnx(text) else model_name(text)


def input_size(text: str) -> tuple[int, int, int]:
    """For argparse: ``HxWxC`` or ``HxW`` for three channels."""
    found = SIZE.fullmatch(text.strip())
    if found is None or not all(int(n) for n in found.groups(default="3")):
        raise argparse.ArgumentTypeError(f"expected a size like 224x224x3, got {text!r}")
    rows, columns, channels = (int(n) for n in found.groups(default="3"))
    return rows, columns, channels


def positive(text: str) -> int:
    """For argparse: a whole number from 1."""
    if not re.fullmatch(r"[0-9]{1,9}", text.strip()) or not int(text):
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


def share(text: str) -> float:
    """For argparse: a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text!r}")
    return value


def number(text: str) -> float:
    """For argparse: a finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r}")
    return value


def numbers(text: str) -> tuple[float, ...]:
    """For argparse: one number or three."""
    values = tuple(number(part) for part in text.split(","))
    if len(values) not in (1, 3):
        raise argparse.ArgumentTypeError(f"expected one number or three, got {text!r}")
    return values


def ending(path: str | os.PathLike[str]) -> str:
    return os.path.splitext(os.fspath(path))[1].lower()


def is_onnx(path: str | os.PathLike[str]) -> bool:
    return ending(path) == ".onnx"


def onnx() -> Any:
    """The part that reads and writes ONNX, loaded when a file asks for it."""
    return importlib.import_module("cnnfast.onnx")


def built(name: str, weights: str | None, num_classes: int | None = None) -> Module:
    """A registered network in evaluation mode."""
    return create_model(name, num_classes=num_classes, weights=weights).eval()


def tensors_of(path: str, model: str | None = None, cfg: str | None = None) -> dict[str, np.ndarray]:
    """All arrays of a file by name, in torch's layout where they belong to a network.

    Parameters
    ----------
    path : str
        Weights, an ONNX file, or darknet weights; those have no names, so that a network is needed.
    model, cfg : str, optional
        For darknet weights: the name of the network, or its description.
    """
    if is_onnx(path):
        return onnx().load(path).state_dict("torch")
    if ending(path) != ".weights":
        from ..weights import load_weights

        return load_weights(path)
    if cfg is not None:
        return importlib.import_module("cnnfast.models.darknet").darknet(cfg, path).state_dict("torch")
    if model is None:
        raise WeightsError(f"{path}: a darknet file has no names: give --model NAME or --cfg FILE")
    return built(model, path).state_dict("torch")
