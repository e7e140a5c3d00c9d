"""The convolutions of a VGG with frozen weights, run forwards, and backwards to the picture alone."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import nn, ops
from ..engine import Engine, compile
from ..errors import WeightsError
from ..models.registry import entry
from ..models.vgg import DEPTHS, vgg_features
from ..weights import open_weights
from ..weights.hub import find_weights
from .memory import give_back

Array = np.ndarray

__all__ = ["CAFFE", "TORCHVISION", "Convolution", "Features", "Pixels", "Pooling", "load_features"]

_LAYER = re.compile(r"(?:conv|relu)([1-5])_([1-4])")


@dataclass(frozen=True)
class Pixels:
    """What a network was trained on: ``(value - mean) / std`` of RGB in 0..255."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


#: The original weights of the paper, in RGB order.
CAFFE = Pixels((123.68, 116.779, 103.939), (1.0, 1.0, 1.0))
#: Means .485 .456 .406 and deviations .229 .224 .225 of values in 0..1.
TORCHVISION = Pixels((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


# --- one step of the trunk, in both directions -------------------------------------------------------


class _Turned(nn.Module):
    """The gradient of a convolution's input, as a convolution of the gradient: taps last to first, channels
    exchanged."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        self.weight = convolution.weight

    def forward(self, g: Any) -> Any:
        return ops.conv2d(g, ops.transpose(self.weight[::-1, ::-1], (0, 1, 3, 2)), padding=1)


class Convolution:
    """A 3x3 convolution and its ReLU.

    Packed, both directions are engines, which keep their weights transformed (Winograd); otherwise the
    operators arrange the weights anew in every call.
    """

    def __init__(self, name: str, convolution: nn.Conv2d) -> None:
        self.name = name
        assert convolution.bias is not None
        self.weight, self.bias = convolution.weight.data, convolution.bias.data
        self._module = convolution
        self._engines: tuple[Engine, Engine] | None = None

    def shape(self, x: tuple[int, ...]) -> tuple[int, ...]:
        return (*x[:3], self.weight.shape[3])

    def pack(self) -> None:
        forward = nn.Sequential(self._module, nn.ReLU())
        self._engines = self._engines or (compile(forward), compile(_Turned(self._module)))

    def unpack(self) -> None:
        self._engines = None

    def forward(self, x: Array) -> Array:
        if self._engines is not None and x.dtype == np.float32:
            return self._engines[0](x)
        weight, bias = self._like(x)
        return ops.conv2d(x, weight, bias, padding=1, activation="relu")

    def backward(self, g: Array) -> Array:
        """The gradient of the input, of that of the sums before the ReLU."""
        if self._engines is not None and g.dtype == np.float32:
            return self._engines[1](g)
        weight = self._like(g)[0]
        return ops.conv2d_grad_input(g, weight, (*g.shape[:3], weight.shape[2]), padding=1)

    def _like(self, x: Array) -> tuple[Array, Array]:
        return self.weight.astype(x.dtype, copy=False), self.bias.astype(x.dtype, copy=False)


class Pooling:
    """2x2 windows side by side; what is left over at the right and the bottom is not read."""

    def __init__(self, name: str, kind: str) -> None:
        self.name, self.kind = name, kind

    def shape(self, x: tuple[int, ...]) -> tuple[int, ...]:
        return (x[0], x[1] // 2, x[2] // 2, x[3])

    def forward(self, x: Array) -> Array:
        return ops.max_pool2d(x, 2) if self.kind == "max" else ops.avg_pool2d(x, 2)

    def backward(self, g: Array, x: Array) -> Array:
        if self.kind == "max":
            return ops.max_pool2d_grad(g, x, 2)
        return ops.avg_pool2d_grad(g, x.shape, 2)


# --- the trunk ------------------------------------------------------------------------------------------


class Features:
    """Feature maps of a VGG-11, 13, 16 or 19.

    A layer is called by its convolution, ``"conv4_2"`` or ``"relu4_2"``; its features are those after the
    ReLU, which the networks of the paper write over the convolution's.

    Parameters
    ----------
    state : mapping of str to array
        ``features.0.weight`` and so on, in torch's layout and with torchvision's numbers. Entries of the
        classifier are passed over.
    pixels : Pixels
        What the weights were trained on: :data:`CAFFE` or :data:`TORCHVISION`.
    pooling : {"max", "avg"}
        Averages, which the paper recommends, let gradients pass everywhere.

    Attributes
    ----------
    depth : int
    layers : tuple of str
        Names of all layers, the shallowest first.
    bounded : bool
        Whether memory goes back to the system after every step.

    Raises
    ------
    WeightsError
        If the convolutions are those of no VGG.

    References
    ----------
    Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition", 2015;
    Gatys, Ecker and Bethge, "Image style transfer using convolutional neural networks", 2016, section 2.
    """

    def __init__(self, state: Mapping[str, Any], pixels: Pixels = TORCHVISION, pooling: str = "max") -> None:
        if pooling not in ("max", "avg"):
            raise ValueError(f"Features: pooling must be 'max' or 'avg', got {pooling!r}")
        self.pixels, self.pooling, self.bounded = pixels, pooling, False
        state = {name: array for name, array in state.items() if name.startswith("features.")}
        self.depth, trunk = _trunk(state)
        trunk.load_state_dict(
            {name.removeprefix("features."): array for name, array in state.items()}, layout="torch"
        )
        self.steps: list[Convolution | Pooling] = []
        block = count = 1
        for module in trunk.freeze().children():
            if isinstance(module, nn.Conv2d):
                self.steps.append(Convolution(f"conv{block}_{count}", module))
                count += 1
            elif isinstance(module, nn.MaxPool2d):
                self.steps.append(Pooling(f"pool{block}", pooling))
                block, count = block + 1, 1
        self.layers = tuple([step.name for step in self.steps if isinstance(step, Convolution)])

    def layer(self, name: str) -> str:
        """The name as in :attr:`layers`.

        Raises
        ------
        ValueError
            If there is no such layer.
        """
        found = _LAYER.fullmatch(name)
        known = f"conv{found[1]}_{found[2]}" if found else ""
        if known not in self.layers:
            raise ValueError(f"Features: expected layers out of {', '.join(self.layers)}, got {name!r}")
        return known

    def until(self, names: Sequence[str]) -> list[Convolution | Pooling]:
        """The steps up to the deepest of some layers."""
        wanted = {self.layer(name) for name in names}
        last = max(i for i, step in enumerate(self.steps) if step.name in wanted)
        return self.steps[: last + 1]

    def prepared(self, picture: Array) -> Array:
        """A picture (1, H, W, 3) in 0..255 as the first convolution takes it."""
        return (picture - self._mean(picture)) / self._std(picture)

    def prepared_gradient(self, g: Array) -> Array:
        """The gradient of :meth:`prepared`."""
        return g / self._std(g)

    def _mean(self, like: Array) -> Array:
        return np.asarray(self.pixels.mean, like.dtype)

    def _std(self, like: Array) -> Array:
        return np.asarray(self.pixels.std, like.dtype)

    def pack(self, steps: Sequence[Convolution | Pooling]) -> None:
        """Keep the weights of these steps transformed from their next call on, and of no others."""
        for step in self.steps:
            if isinstance(step, Convolution):
                step.pack() if step in steps else step.unpack()

    def unpack(self) -> None:
        """Let transformed weights go."""
        self.pack(())

    def __call__(self, picture: Any, names: Sequence[str]) -> Iterator[tuple[str, Array]]:
        """Features of a picture, one layer after the other.

        Parameters
        ----------
        picture : array_like, shape (1, H, W, 3)
            0..255, float32 or float64 (NumPy reference).
        names : sequence of str

        Yields
        ------
        name : str
        features : ndarray, shape (1, P, Q, C)

        Raises
        ------
        ValueError
            If there is no such layer, or the picture is too small for it.
        """
        wanted = {self.layer(name) for name in names}
        steps = self.until(names)
        for step, x in zip(steps, self.values(self.prepared(np.asarray(picture)), steps), strict=True):
            if step.name in wanted:
                yield step.name, x

    def values(self, x: Array, steps: Sequence[Convolution | Pooling]) -> Iterator[Array]:
        """What each of some steps gives, one after the other."""
        for step in steps:
            x = step.forward(x)
            if self.bounded:
                give_back()
            yield x

    def shapes(self, steps: Sequence[Convolution | Pooling], size: tuple[int, int]) -> list[tuple[int, ...]]:
        """Shapes of the picture and of what each step gives.

        Raises
        ------
        ValueError
            If poolings leave nothing of a picture of this size (rows, columns).
        """
        found: list[tuple[int, ...]] = [(1, *size, 3)]
        for step in steps:
            found.append(step.shape(found[-1]))
            if 0 in found[-1]:
                raise ValueError(
                    f"Features: expected a picture large enough for {steps[-1].name}, of {size[0]} x "
                    f"{size[1]} pixels nothing is left after {step.name}"
                )
        return found


def _trunk(state: Mapping[str, Any]) -> tuple[int, nn.Sequential]:
    """The VGG that these convolutions belong to."""
    given = {name for name in state if name.endswith(".weight")}
    for depth in DEPTHS:
        trunk = vgg_features(depth)
        if given == {f"features.{name}" for name, _ in trunk.named_parameters() if name.endswith(".weight")}:
            return depth, trunk
    raise WeightsError(
        "Features: expected the convolutions of a VGG without batch normalisation (features.0.weight, "
        f"features.2.weight, ...), got {len(given)} others"
    )


def load_features(
    weights: str | os.PathLike[str], *, pixels: Pixels | None = None, pooling: str = "max"
) -> Features:
    """Features out of a file.

    Parameters
    ----------
    weights : str or os.PathLike
        A file (``.safetensors``, ``.npz``, ``.pth``) with torchvision's names, the classifier included or
        not; or ``"torchvision"``: VGG-19 as published there, fetched once and kept.
    pixels : Pixels, optional
        What the weights were trained on. Unless given, a file with a classifier is taken for one of
        torchvision's, and one of convolutions alone for the original weights of the paper.
    pooling : {"max", "avg"}

    Returns
    -------
    Features

    Raises
    ------
    WeightsError, OSError
    """
    path = find_weights(entry("vgg19"), weights if isinstance(weights, Path) else os.fspath(weights))
    with open_weights(path) as state:
        usual = TORCHVISION if any(name.startswith("classifier.") for name in state) else CAFFE
        try:
            return Features(state, pixels or usual, pooling)
        except WeightsError as error:
            raise WeightsError(f"{path}: {error}") from None
