"""Two branches with one set of weights."""

from __future__ import annotations

from typing import Any

from .. import losses, nn
from ..nn import Module

__all__ = ["Siamese"]


class Siamese(Module):
    """Compares two pictures by their encodings, both made by one encoder.

    Parameters
    ----------
    encoder : Module
        Pictures (N, H, W, C) to encodings (N, D).
    head : Module, optional
        What says of two encodings whether they are of one thing, such as :class:`cnnfast.nn.SiameseHead`,
        whose score is before the sigmoid and is trained with
        :func:`cnnfast.losses.binary_cross_entropy`. Without one the result is the squared Euclidean
        distance.

    References
    ----------
    Bromley et al., "Signature verification using a Siamese time delay neural network", 1993; Taigman et al.,
    "DeepFace", 2014, section 4.
    """

    def __init__(self, encoder: Module, head: Module | None = None) -> None:
        self.encoder, self.head = encoder, nn.Identity() if head is None else head
        self.distance = head is None

    def forward(self, a: Any, b: Any) -> Any:
        """(N, H, W, C) and (N, H, W, C) to (N,)."""
        f, g = self.encoder(a), self.encoder(b)
        return losses.squared_distance(f, g) if self.distance else self.head(f, g)
