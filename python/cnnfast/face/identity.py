"""Classifiers of identities on encodings: the alternatives to comparing with a gallery."""

from __future__ import annotations

from typing import Any

from .. import nn, ops
from ..nn import Module
from ..ops.registry import fail, integer
from ..tensor import Parameter

__all__ = ["CosineClassifier", "IdentityClassifier", "IdentityTraining"]


class IdentityClassifier(Module):
    """A softmax over known identities: scores ``f W + b`` before the softmax.

    Somebody new means a new output and more training; enrolling in a gallery does not.

    Parameters
    ----------
    features : int
        D, the length of an encoding.
    identities : int
        K.

    References
    ----------
    Taigman et al., "DeepFace", 2014, section 3.3.
    """

    def __init__(self, features: int, identities: int) -> None:
        integer("IdentityClassifier", "features", features, 1)
        integer("IdentityClassifier", "identities", identities, 1)
        self.linear = nn.Linear(features, identities)

    def forward(self, f: Any) -> Any:
        """(N, D) to (N, K)."""
        return self.linear(f)


class CosineClassifier(Module):
    """The cosines between encodings and one direction for each identity.

    What it is trained with is :func:`cnnfast.losses.cosine_softmax`; the encodings are what is kept of it.

    Parameters
    ----------
    features, identities : int
        D and K.

    Attributes
    ----------
    weight : Parameter, shape (D, K)

    References
    ----------
    Wang et al., "NormFace: L2 hypersphere embedding for face verification", 2017, section 3.2.
    """

    def __init__(self, features: int, identities: int) -> None:
        integer("CosineClassifier", "features", features, 1)
        integer("CosineClassifier", "identities", identities, 1)
        self.weight = Parameter((features, identities), "glorot_uniform", (features, identities))

    def forward(self, f: Any) -> Any:
        """(N, D) to (N, K), within -1..1."""
        if len(f.shape) != 2 or f.shape[1] != self.weight.shape[0]:
            fail(
                "CosineClassifier",
                f"encodings must have dimensions N,{self.weight.shape[0]}",
                f=f.shape,
                weight=self.weight.shape,
            )
        return ops.linear(ops.l2_normalize(f), ops.l2_normalize(self.weight, axis=0))


class IdentityTraining(Module):
    """An encoder and, for its training alone, the directions of the identities.

    Parameters
    ----------
    encoder : Module
        Pictures (N, H, W, C) to encodings (N, D).
    classifier : Module
        Encodings to scores of the identities (N, K).
    """

    def __init__(self, encoder: Module, classifier: Module) -> None:
        self.encoder, self.classifier = encoder, classifier

    def forward(self, x: Any) -> Any:
        """(N, H, W, C) to (N, K)."""
        return self.classifier(self.encoder(x))
