"""What joins the two encodings of a Siamese network."""

from __future__ import annotations

from typing import Any

from .. import ops
from ..ops.registry import choice, fail, integer
from .linear import Linear
from .module import Module

__all__ = ["SiameseHead"]


class SiameseHead(Module):
    """Whether two encodings are of one thing: ``sum_k w_k d_k + b``, a score before the sigmoid.

    Parameters
    ----------
    features : int
        D, the length of an encoding; there are D + 1 parameters.
    kind : {"l1", "chi_square"}
        ``d_k = |f_k - g_k|``, or ``(f_k - g_k)**2 / (f_k + g_k)`` with 0 / 0 = 0 for encodings that are not
        negative.

    References
    ----------
    Taigman et al., "DeepFace", 2014, section 4.
    """

    def __init__(self, features: int, kind: str = "l1") -> None:
        integer("SiameseHead", "features", features, 1)
        self.kind = choice("SiameseHead", "kind", kind, ("l1", "chi_square"))
        self.linear = Linear(features, 1)

    def forward(self, f: Any, g: Any) -> Any:
        """(N, D) and (N, D) to (N,)."""
        if f.shape != g.shape or len(f.shape) != 2:
            fail("SiameseHead", "both encodings must have dimensions N,D alike", f=f.shape, g=g.shape)
        gap = ops.abs(ops.sub(f, g))
        if self.kind == "chi_square":
            total = ops.add(f, g)
            none = ops.equal(total, 0.0)
            gap = ops.div(ops.mul(gap, gap), ops.where(none, 1.0, total))
        return ops.reshape(self.linear(gap), (f.shape[0],))

    def extra_repr(self) -> str:
        return self.kind
