"""Losses of neural style transfer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import ops
from ..ops.registry import choice, fail
from .reduction import alike, scores

__all__ = ["content", "style", "total_variation"]


def content(x: Any, target: Any, *, scale: str = "half") -> Any:
    """Content cost: squared distance of two feature maps.

    Parameters
    ----------
    x : Tensor or array_like, shape (N, H, W, C)
        Features of the picture that is made.
    target : array_like, shape of x
        Features of the content picture.
    scale : {"half", "mean_half", "mean_quarter"}
        ``1/2`` as in the paper, ``1/(2 n)`` or ``1/(4 n)`` with n = H W C; summed over pictures.

    Returns
    -------
    Tensor, a scalar

    Raises
    ------
    ShapeError, DTypeError, BackendError

    References
    ----------
    Gatys, Ecker and Bethge, "Image style transfer using convolutional neural networks", 2016, equation 1.
    """
    op = "content"
    choice(op, "scale", scale, ("half", "mean_half", "mean_quarter"))
    x = scores(op, "x", x)
    if x.ndim != 4:
        fail(op, "x must have 4 dimensions N,H,W,C", x=x.shape)
    d = x - alike(op, "target", target, x)
    n = max(1, x.shape[1] * x.shape[2] * x.shape[3])
    return ops.reduce_sum(d * d) * {"half": 0.5, "mean_half": 0.5 / n, "mean_quarter": 0.25 / n}[scale]


def style(features: Sequence[Any], grams: Sequence[Any], *, weights: Sequence[float] | None = None) -> Any:
    """Style cost: squared distances of Gram matrices, weighted over layers.

    ``sum over layers of w / (2 H W C)**2 sum (G - A)**2`` with ``G = F' F`` over all pixels, neither centred
    nor normalised.

    Parameters
    ----------
    features : sequence of Tensor or array_like, shapes (N, H, W, C)
        Of the picture that is made, one per layer.
    grams : sequence of array_like, shapes (N, C, C)
        :func:`cnnfast.ops.gram_matrix` of the style picture's features at its own size. A picture of
        another size than the features belongs to has its Gram matrix scaled by its caller.
    weights : sequence of float, optional
        Of the layers; one over their number unless given (.2 each for five).

    Returns
    -------
    Tensor, a scalar

    Raises
    ------
    ShapeError, DTypeError, BackendError

    References
    ----------
    Gatys, Ecker and Bethge, "Image style transfer using convolutional neural networks", 2016, equations 3-5.
    """
    op = "style"
    if not features or len(features) != len(grams):
        fail(op, f"expected one Gram matrix per layer, got {len(grams)} for {len(features)} layers")
    if weights is None:
        weights = [1 / len(features)] * len(features)
    if len(weights) != len(features):
        fail(op, f"expected one weight per layer, got {len(weights)} for {len(features)} layers")
    total = None
    for value, gram, weight in zip(features, grams, weights, strict=True):
        x = scores(op, "features", value)
        if x.ndim != 4:
            fail(op, "features must have 4 dimensions N,H,W,C", features=x.shape)
        n = max(1, x.shape[1] * x.shape[2] * x.shape[3])
        g: Any = ops.gram_matrix(x)
        d = g - alike(op, "grams", gram, g)
        # Scaled before it is squared: Gram matrices of large maps would overflow.
        d = d * (1 / (2 * n))
        cost = ops.reduce_sum(d * d) * float(weight)
        total = cost if total is None else total + cost
    return total


def total_variation(x: Any) -> Any:
    """Sum of squared differences of neighbouring pixels, down and across.

    Parameters
    ----------
    x : Tensor or array_like, shape (N, H, W, C)

    Returns
    -------
    Tensor, a scalar

    Raises
    ------
    ShapeError, DTypeError, BackendError

    References
    ----------
    Mahendran and Vedaldi, "Understanding deep image representations by inverting them", 2015, section
    2.2, with beta = 2.
    """
    op = "total_variation"
    x = scores(op, "x", x)
    if x.ndim != 4:
        fail(op, "x must have 4 dimensions N,H,W,C", x=x.shape)
    down, across = x[:, 1:] - x[:, :-1], x[:, :, 1:] - x[:, :, :-1]
    return ops.reduce_sum(down * down) + ops.reduce_sum(across * across)
