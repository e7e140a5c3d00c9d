"""What a decision rests on, and what excites a unit, by gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import ops
from ..errors import ShapeError
from ..nn.module import Module
from ..tensor import Tensor
from .layers import at_rest, layer_of, up_to

Array = np.ndarray

__all__ = ["GradCam", "grad_cam", "maximise", "saliency"]


def _one_picture(op: str, x: Any) -> Array:
    array = np.asarray(x)
    if array.ndim == 3:
        array = array[None]
    if array.ndim != 4 or len(array) != 1 or array.dtype.kind != "f":
        raise ShapeError(f"{op}: expected one picture (1,H,W,C) of floats, got {array.dtype} {array.shape}")
    return array


def _score(op: str, result: Any, target: int | None) -> tuple[int, Tensor]:
    """The class that is explained, and its score before any softmax."""
    while isinstance(result, (tuple, list, dict)) and result:
        result = next(iter(result.values())) if isinstance(result, dict) else result[0]
    if not isinstance(result, Tensor) or result.size != result.shape[-1]:
        raise ShapeError(f"{op}: expected a network that gives the classes of one picture")
    scores = result.reshape((result.size,))
    chosen = int(np.argmax(scores.data)) if target is None else target
    if not 0 <= chosen < result.size:
        raise ValueError(f"{op}: expected a class from 0 to {result.size - 1}, got {target}")
    return chosen, scores[chosen : chosen + 1]


@dataclass
class GradCam:
    """Where a class was seen.

    Attributes
    ----------
    map : ndarray of float32, shape (H, W)
        Of the picture's size, 0 to 1.
    coarse : ndarray, shape (P, Q)
        The same of the layer's size, not scaled.
    target : int
    score : float
        What the network gives for the class.
    """

    map: Array
    coarse: Array
    target: int
    score: float


def grad_cam(model: Module, x: Any, layer: str, target: int | None = None) -> GradCam:
    """Which places of a layer's feature maps speak for a class.

    ``relu(sum over k of a_k A_k)`` of the feature maps A, with a_k the mean over pixels of the gradient of
    the class's score by A_k.

    Parameters
    ----------
    model : Module
        Gives scores of classes; runs in evaluation mode. No gradient of a parameter is computed, and none
        of what comes before the layer.
    x : array_like, shape (1, H, W, C)
        As the network takes it.
    layer : str
        Path of a layer with feature maps, usually the last one; of one that is called several times the
        last call counts.
    target : int, optional
        The class; the likeliest unless given.

    Returns
    -------
    GradCam

    Raises
    ------
    ValueError, ShapeError

    References
    ----------
    Selvaraju et al., "Grad-CAM: visual explanations from deep networks via gradient-based localization",
    2017, equations 1 and 2.
    """
    x = _one_picture("grad_cam", x)
    maps: list[Tensor] = []

    def begin(module: Module, inputs: Any, result: Any) -> Tensor | None:
        if not isinstance(result, Tensor) or result.ndim != 4:
            return None
        maps.append(Tensor(result.data, requires_grad=True))
        return maps[-1]

    hook = layer_of(model, layer).register_forward_hook(begin)
    try:
        with at_rest(model):
            chosen, score = _score("grad_cam", model(Tensor(x)), target)
    finally:
        hook.remove()
    if not maps:
        raise ShapeError(f"grad_cam: expected a layer with feature maps, {layer} gives none")
    if not score.requires_grad:
        raise ValueError(f"grad_cam: the classes do not depend on {layer}")
    score.backward(np.ones(1, score.dtype))
    features, gradient = maps[-1].data, maps[-1].grad
    assert gradient is not None
    coarse = np.maximum((features * gradient.mean(axis=(1, 2), keepdims=True)).sum(axis=3), 0)
    fine = ops.resize(np.ascontiguousarray(coarse[..., None], np.float32), x.shape[1:3])[0, :, :, 0]
    most = float(fine.max())
    return GradCam(fine / most if most > 0 else fine, coarse[0], chosen, float(score.data[0]))


def saliency(
    model: Module,
    x: Any,
    target: int | None = None,
    *,
    samples: int = 1,
    noise: float = 0.15,
    seed: int = 0,
) -> Array:
    """How much each pixel sways the score of a class: the largest absolute gradient of its channels.

    Parameters
    ----------
    model : Module
    x : array_like, shape (1, H, W, C)
    target : int, optional
        The class; the likeliest for ``x`` unless given.
    samples : int
        Above 1: the mean gradient of so many copies with noise (SmoothGrad), which is less spotted.
    noise : float
        Deviation of the noise, in ranges of ``x``.
    seed : int

    Returns
    -------
    ndarray of float32, shape (H, W)
        0 to 1.

    References
    ----------
    Simonyan, Vedaldi and Zisserman, "Deep inside convolutional networks", 2014, section 3; Smilkov et al.,
    "SmoothGrad: removing noise by adding noise", 2017.
    """
    x = _one_picture("saliency", x)
    if isinstance(samples, bool) or not isinstance(samples, (int, np.integer)) or samples < 1:
        raise ValueError(f"saliency: samples must be a whole number from 1, got {samples!r}")
    rng = np.random.default_rng(seed)
    spread = noise * float(np.ptp(x))
    total = np.zeros(x.shape, np.float64)
    for i in range(samples):
        shaken = x if samples == 1 else (x + rng.normal(0, spread, x.shape)).astype(x.dtype)
        leaf = Tensor(shaken, requires_grad=True)
        with at_rest(model):
            if target is None and i == 0 and samples > 1:
                target, _ = _score("saliency", model(Tensor(x)), None)
            _, score = _score("saliency", model(leaf), target)
        score.backward(np.ones(1, score.dtype))
        if leaf.grad is not None:
            total += leaf.grad
    found = np.abs(total)[0].max(axis=2)
    most = found.max()
    return (found / most if most > 0 else found).astype(np.float32)


def maximise(
    model: Module,
    layer: str,
    unit: int | None = None,
    *,
    start: Any = None,
    size: tuple[int, int] = (128, 128),
    low: Sequence[float] = (-2.0, -2.0, -2.0),
    high: Sequence[float] = (2.0, 2.0, 2.0),
    steps: int = 20,
    rate: float = 0.03,
    octaves: int = 3,
    octave_scale: float = 1.4,
    jitter: int = 8,
    seed: int = 0,
    done: Callable[[], Any] | None = None,
) -> Array:
    """A picture that excites a unit, or all of a layer (as "deep dream" does), by gradient ascent.

    Parameters
    ----------
    model : Module
    layer : str
    unit : int, optional
        Channel, or element, whose mean is raised; the mean of squares of the whole layer unless given.
    start : array_like, shape (1, H, W, C), optional
        The picture to begin with, as the network takes it; noise around the middle unless given.
    size : (int, int)
        Rows and columns where there is no ``start``.
    low, high : sequence of float
        What values pixels may have, for each channel.
    steps : int
        In each octave.
    rate : float
        Length of a step, in ranges of the pixels, along the gradient divided by its deviation.
    octaves : int
        The picture begins smaller and grows by ``octave_scale`` from one to the next; what it had lost by
        shrinking comes back.
    jitter : int
        Pixels by which it is rolled before each step, so that no grid appears.
    seed : int
        Of noise and rolls.
    done : callable, optional
        Called after each step.

    Returns
    -------
    ndarray of float32, shape (1, H, W, C)

    Raises
    ------
    ValueError, ShapeError

    References
    ----------
    Erhan et al., "Visualizing higher-layer features of a deep network", 2009; Mordvintsev, Olah and Tyka,
    "Inceptionism: going deeper into neural networks", 2015.
    """
    least, most = (np.asarray(v, np.float32) for v in (low, high))
    if least.shape != most.shape or least.ndim != 1 or not (least < most).all():
        raise ValueError(f"maximise: expected low below high for each channel, got {low!r} and {high!r}")
    for name, value in (("steps", steps), ("octaves", octaves)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
            raise ValueError(f"maximise: {name} must be a whole number from 1, got {value!r}")
    rng = np.random.default_rng(seed)
    if start is None:
        middle, spread = (least + most) / 2, (most - least) / 20
        start = middle + spread * rng.standard_normal((1, *size, len(least)))
    picture = _one_picture("maximise", start).astype(np.float32)
    if picture.shape[3] != len(least):
        raise ShapeError(f"maximise: expected {len(least)} channels, got {picture.shape[3]}")
    rows, columns = picture.shape[1:3]
    sizes = [
        (max(1, round(rows / octave_scale**i)), max(1, round(columns / octave_scale**i)))
        for i in reversed(range(octaves))
    ]
    x = ops.resize(picture, sizes[0], antialias=True)
    for i, shape in enumerate(sizes):
        if i:
            lost = ops.resize(picture, shape, antialias=True) - ops.resize(
                ops.resize(picture, sizes[i - 1], antialias=True), shape
            )
            x = ops.resize(x, shape) + lost
        for _ in range(steps):
            shift = tuple(rng.integers(-jitter, jitter + 1, 2).tolist())
            leaf = Tensor(np.roll(x, shift, (1, 2)), requires_grad=True)
            _excitement(model, leaf, layer, unit).backward()
            assert leaf.grad is not None
            g = np.roll(leaf.grad, (-shift[0], -shift[1]), (1, 2))
            g /= float(g.std()) + 1e-12
            x = np.clip(x + rate * (most - least) * g, least, most).astype(np.float32)
            if done is not None:
                done()
    return x


def _excitement(model: Module, x: Tensor, layer: str, unit: int | None) -> Tensor:
    value = up_to(model, x, [layer])[layer]
    if unit is None:
        return ops.reduce_mean(value * value)
    if not 0 <= unit < value.shape[-1]:
        raise ValueError(f"maximise: {layer} has units 0 to {value.shape[-1] - 1}, got {unit}")
    return ops.reduce_mean(value[..., unit : unit + 1])
