"""Normalisation layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import ops
from ..cuda import DeviceArray
from ..ops.registry import fail, integer
from ..tensor import Parameter, Tensor
from .module import Module

__all__ = ["BatchNorm2d", "LocalResponseNorm"]


class BatchNorm2d(Module):
    """Batch normalisation over the last axis, by running statistics, or those of the batch in training.

    In training the running statistics become ``(1 - momentum) running + momentum batch``, with the unbiased
    variance of the batch, as torch has it. A frozen layer leaves them as they are and goes by them.

    Parameters
    ----------
    features : int
    eps : float
    momentum : float
        Share of a batch's statistics in the running ones.

    Attributes
    ----------
    weight, bias : Parameter, shape (features,)
    running_mean, running_var : ndarray, shape (features,), buffers
    """

    def __init__(self, features: int, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        integer("BatchNorm2d", "features", features, 1)
        self.features, self.eps, self.momentum = features, eps, momentum
        self.weight = Parameter((features,), "ones")
        self.bias = Parameter((features,), "zeros")
        self.register_buffer("running_mean", np.zeros(features, np.float32))
        self.register_buffer("running_var", np.ones(features, np.float32))
        self.register_buffer("num_batches_tracked", np.zeros((), np.int64))

    def forward(self, x: Any, activation: str | None = None) -> Any:
        if not self.training:
            y = ops.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
            return y if activation is None else getattr(ops, activation)(y)
        rows = int(np.prod(x.shape[:-1]))
        if rows < 2:
            fail("BatchNorm2d", "training needs at least two values per channel", x=x.shape)
        y, mean, var = ops.batch_norm_train(x, self.weight, self.bias, eps=self.eps, activation=activation)
        self._follow("running_mean", mean, 1.0)
        self._follow("running_var", var, rows / (rows - 1))
        self._buffers["num_batches_tracked"] = np.asarray(self._buffers["num_batches_tracked"] + 1)
        return y

    def _follow(self, name: str, batch: Any, factor: float) -> None:
        """Move a running statistic towards that of a batch; arrays that others hold do not change."""
        running, kind = self._buffers[name], self._buffers[name].dtype
        new = batch.data if isinstance(batch, Tensor) else batch
        if isinstance(new, DeviceArray):
            step = self.momentum
            setattr(self, name, ops.add(ops.mul(running, 1 - step), ops.mul(new, step * factor)))
            return
        new = np.asarray(new, kind)
        step = kind.type(self.momentum)
        setattr(self, name, (1 - step) * running + step * kind.type(factor) * new)

    def extra_repr(self) -> str:
        return f"{self.features}, eps {self.eps:g}"


class LocalResponseNorm(Module):
    """Local response normalisation, see :func:`cnnfast.ops.local_response_norm`."""

    def __init__(
        self,
        size: int = 5,
        *,
        alpha: float = 1e-4,
        beta: float = 0.75,
        k: float = 2.0,
        alpha_mode: str = "sum",
    ) -> None:
        self.size, self.alpha, self.beta, self.k, self.alpha_mode = size, alpha, beta, k, alpha_mode

    def forward(self, x: Any) -> Any:
        return ops.local_response_norm(
            x, size=self.size, alpha=self.alpha, beta=self.beta, k=self.k, alpha_mode=self.alpha_mode
        )

    def extra_repr(self) -> str:
        return f"{self.size}, alpha {self.alpha:g}, beta {self.beta:g}, k {self.k:g}"
