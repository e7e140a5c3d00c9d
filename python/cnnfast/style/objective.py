"""What style transfer minimises, and its gradient with respect to the pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from .. import losses, ops
from ..config import current_backend
from ..errors import ShapeError
from ..optim.vectors import dot
from ..tensor import Tensor
from .features import Convolution, Features
from .memory import Plan, give_back

Array = np.ndarray

__all__ = ["CONTENT_LAYERS", "STRENGTH", "STYLE_LAYERS", "Costs", "Objective"]

CONTENT_LAYERS = {"conv4_2": 1.0}
STYLE_LAYERS = {f"conv{block}_1": 0.2 for block in (1, 2, 3, 4, 5)}
#: How much more than content the style counts.
STRENGTH = 100.0


class Costs(NamedTuple):
    """J and its three parts, weights included."""

    total: float
    content: float
    style: float
    variation: float


class Objective:
    """J(G) = alpha J_content(G) + beta J_style(G) + gamma (total variation of G).

    Only the picture G has a gradient; no gradient of a weight is computed. The features of the content
    picture and the Gram matrices of the style picture are computed once.

    Parameters
    ----------
    features : Features
    content : array_like, shape (1, H, W, 3)
        0..255; float32, or float64 on the NumPy reference.
    style : array_like, shape (1, P, Q, 3)
        Of any size: Gram matrices are sums over pixels, and are scaled to those of the content's size.
    content_layers, style_layers : mapping of str to float
        Layers and their weights.
    content_weight, variation_weight : float
        alpha and gamma.
    style_weight : float, optional
        beta. Unless given it is ``STRENGTH alpha`` times the content cost of features that are all zero,
        over the style cost of such features: what suits weights of every scale.
    content_scale : {"half", "mean_half", "mean_quarter"}
        See :func:`cnnfast.losses.content`.
    plan : Plan, optional
        What is kept in memory; everything unless given. It changes no result but for rounding.

    Raises
    ------
    ValueError
        If a layer is unknown, a weight negative or not finite, or a picture too small for its layers.
    ShapeError, DTypeError, BackendError

    Notes
    -----
    Features are computed step by step; backwards, the costs of a layer are added where their features are.
    Of a plan with several segments, the inputs of the segments are kept on the way forwards, and their inner
    features are computed again on the way back.

    References
    ----------
    Gatys, Ecker and Bethge, "Image style transfer using convolutional neural networks", 2016, equation 7;
    Chen, Xu, Zhang and Guestrin, "Training deep nets with sublinear memory cost", 2016, section 3.
    """

    def __init__(
        self,
        features: Features,
        content: Any,
        style: Any,
        *,
        content_layers: Mapping[str, float] = CONTENT_LAYERS,
        style_layers: Mapping[str, float] = STYLE_LAYERS,
        content_weight: float = 1.0,
        style_weight: float | None = None,
        variation_weight: float = 0.0,
        content_scale: str = "mean_quarter",
        plan: Plan | None = None,
    ) -> None:
        self.features = features
        given = (content_weight, style_weight or 0.0, variation_weight)
        _check_weights((*given, *content_layers.values(), *style_layers.values()))
        self.content_layers = {features.layer(name): weight for name, weight in content_layers.items()}
        self.style_layers = {features.layer(name): weight for name, weight in style_layers.items()}
        if not self.style_layers and not self.content_layers:
            raise ValueError("Objective: expected layers for content or style, got none")
        self.content_scale = content_scale
        self.steps = features.until([*self.content_layers, *self.style_layers])
        content, style = _picture("content", content), _picture("style", style)
        self.shapes = features.shapes(self.steps, content.shape[1:3])
        features.shapes(self.steps, style.shape[1:3])
        self.plan = plan or Plan(packed=current_backend() == "cpu")
        # The style has a size of its own: weights are transformed for what is run again and again.
        features.unpack()
        features.bounded = self.plan.bounded
        areas = {s.name: shape[1] * shape[2] for s, shape in zip(self.steps, self.shapes[1:], strict=True)}
        self.targets: dict[str, Array] = {}
        self.grams: dict[str, Array] = {}
        if self.content_layers:
            self.targets = dict(features(content, [*self.content_layers]))
        if self.style_layers:
            for name, found in features(style, [*self.style_layers]):
                self.grams[name] = ops.gram_matrix(found) * (areas[name] / (found.shape[1] * found.shape[2]))
        if style_weight is None:
            style_weight = self._usual_beta(content_weight)
        self.weights = content_weight, style_weight, variation_weight
        if self.plan.packed and current_backend() == "cpu":
            features.pack(self.steps)

    def _usual_beta(self, alpha: float) -> float:
        """The weight of style that suits the scale of the features, see ``style_weight``."""
        content = sum(
            content_cost(np.zeros_like(f), f, self.content_scale, self.content_layers[name])[0]
            for name, f in self.targets.items()
        )
        shapes = {step.name: shape for step, shape in zip(self.steps, self.shapes[1:], strict=True)}
        style = sum(
            weight * float(np.square(self.grams[name] / (2.0 * math.prod(shapes[name]))).sum(dtype=float))
            for name, weight in self.style_layers.items()
        )
        return STRENGTH * alpha * content / style if content and style else 1.0

    def __call__(self, picture: Any) -> tuple[Costs, Array]:
        """J and its gradient.

        Parameters
        ----------
        picture : array_like, shape of the content picture

        Returns
        -------
        costs : Costs
        gradient : ndarray, shape of the picture
        """
        x = _picture("picture", picture)
        if x.shape != self.shapes[0]:
            raise ShapeError(f"Objective: expected a picture of shape {self.shapes[0]}, got {x.shape}")
        costs = {"content": 0.0, "style": 0.0}
        starts = self.plan.starts
        ends = (*starts[1:], len(self.steps))
        kept = [self.features.prepared(x)]
        for first, last in zip(starts[:-1], ends[:-1], strict=True):
            end = kept[-1]
            for value in self.features.values(end, self.steps[first:last]):
                end = value
            kept.append(end)
        g: Array | None = None
        for first, last in zip(reversed(starts), reversed(ends), strict=True):
            start = kept.pop()
            values = [start, *self.features.values(start, self.steps[first:last])]
            del start
            g = self._back(values, first, g, costs)
        assert g is not None
        g = self.features.prepared_gradient(g)
        variation = 0.0
        if self.weights[2]:
            variation, part = variation_cost(x, self.weights[2])
            g = g + part
        total = costs["content"] + costs["style"] + variation
        return Costs(total, costs["content"], costs["style"], variation), g

    # --- the trunk -----------------------------------------------------------------------------

    def _back(self, values: list[Array], first: int, g: Array | None, costs: dict[str, float]) -> Array:
        """The gradient of a segment's input, of that of what it gives; takes the values apart."""
        while len(values) > 1:
            step = self.steps[first + len(values) - 2]
            y = values.pop()
            g = self._with_costs(step.name, y, g, costs)
            if isinstance(step, Convolution):
                g = ops.activation_grad(g, y, "relu")
                del y
                g = step.backward(g)
            else:
                del y
                g = step.backward(g, values[-1])
            if self.plan.bounded:
                give_back()
        assert g is not None
        return g

    def _with_costs(self, name: str, y: Array, g: Array | None, costs: dict[str, float]) -> Array:
        """The gradient of a layer's features with that of the costs that read them."""
        alpha, beta, _ = self.weights
        if name in self.targets and alpha:
            weight = alpha * self.content_layers[name]
            cost, part = content_cost(y, self.targets[name], self.content_scale, weight)
            costs["content"] += cost
            g = part if g is None else np.add(g, part, out=g)
        if name in self.grams and beta:
            cost, part = style_cost(y, self.grams[name], beta * self.style_layers[name])
            costs["style"] += cost
            g = part if g is None else np.add(g, part, out=g)
        return np.zeros_like(y) if g is None else g


# --- costs with their gradients: those of cnnfast.losses, in a single array of the features' size -----


def content_cost(x: Array, target: Array, scale: str, weight: float) -> tuple[float, Array]:
    """``weight`` times :func:`cnnfast.losses.content` and the gradient of that by x."""
    factor = weight * {"half": 0.5, "mean_half": 0.5 / x.size, "mean_quarter": 0.25 / x.size}[scale]
    with np.errstate(over="ignore", invalid="ignore"):
        d = x - target
        cost = factor * dot(d, d)
        d *= 2 * factor
    return cost, d


def style_cost(x: Array, gram: Array, weight: float) -> tuple[float, Array]:
    """``weight`` times :func:`cnnfast.losses.style` of one layer and the gradient of that by x.

    With D = (G - A) / (2 n) the cost is the sum of D**2, and the gradient 2/n x D, D being symmetric.
    """
    n = x.size
    with np.errstate(over="ignore", invalid="ignore"):  # the loop reports what is not finite
        d = (ops.gram_matrix(x) - gram) * (1 / (2 * n))
        cost = weight * float(np.square(d, dtype=float).sum())
        d *= 2 * weight / n
    return cost, ops.matmul(x.reshape(-1, x.shape[3]), d[0]).reshape(x.shape)


def variation_cost(x: Array, weight: float) -> tuple[float, Array]:
    """``weight`` times :func:`cnnfast.losses.total_variation` and the gradient of that by x."""
    tensor = Tensor(x, requires_grad=True)
    value = losses.total_variation(tensor) * weight
    value.backward()
    assert tensor.grad is not None
    return float(value.data), tensor.grad


def _picture(name: str, picture: Any) -> Array:
    array = np.asarray(picture)
    if array.dtype != np.float64:
        array = array.astype(np.float32, copy=False)
    if array.ndim != 4 or array.shape[0] != 1 or array.shape[3] != 3:
        raise ShapeError(f"Objective: {name} must have shape (1,H,W,3), got {array.shape}")
    return array


def _check_weights(weights: tuple[float, ...]) -> None:
    for weight in weights:
        if not (np.isfinite(weight) and weight >= 0):
            raise ValueError(f"Objective: expected weights from 0, got {weight!r}")
