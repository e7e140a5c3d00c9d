"""Dense layers and flattening."""

from __future__ import annotations

from typing import Any, ClassVar

from .. import ops
from ..ops.registry import fail, integer
from ..tensor import Parameter
from .module import Module

__all__ = ["Flatten", "Linear"]


class Linear(Module):
    """Dense layer ``y = x w + b``, see :func:`cnnfast.ops.linear`.

    Parameters
    ----------
    in_features, out_features : int
    bias : bool
    feature_map : (int, int, int), optional
        (H, W, C) of the feature map whose flattened form is the input. Weight files of torch number
        their inputs by channel first; with this they are put in the order of the map here.
    init : str

    Attributes
    ----------
    weight : Parameter, shape (in_features, out_features)
    bias : Parameter, shape (out_features,), or None
    """

    layouts: ClassVar[dict[str, str]] = {"weight": "linear"}

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        feature_map: tuple[int, int, int] | None = None,
        init: str = "glorot_uniform",
    ) -> None:
        integer("Linear", "in_features", in_features, 1)
        integer("Linear", "out_features", out_features, 1)
        if feature_map is not None and feature_map[0] * feature_map[1] * feature_map[2] != in_features:
            fail("Linear", f"a feature map {tuple(feature_map)} does not have {in_features} values")
        self.in_features, self.out_features, self.feature_map = in_features, out_features, feature_map
        self.weight = Parameter((in_features, out_features), init, (in_features, out_features))
        self.bias = Parameter((out_features,), "zeros") if bias else None

    def forward(self, x: Any, activation: str | None = None) -> Any:
        return ops.linear(x, self.weight, self.bias, activation=activation)

    def extra_repr(self) -> str:
        return f"{self.in_features} -> {self.out_features}" + ("" if self.bias is not None else ", no bias")


class Flatten(Module):
    """(N, H, W, C) to (N, H W C)."""

    def forward(self, x: Any) -> Any:
        return ops.flatten(x)
