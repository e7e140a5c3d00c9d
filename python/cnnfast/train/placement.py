"""Where a network computes, and in which element type."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import cuda, ops
from ..cuda import DeviceArray
from ..cuda.program import checked_dtype
from ..errors import DTypeError
from ..nn.module import Module
from ..nn.precision import mixed_precision
from ..tensor import Tensor

F32 = np.dtype(np.float32)


class Placement:
    """A network on a device, for batches in host memory.

    Parameters
    ----------
    op : str
        Who asks.
    model : Module
    device : {"cpu", "cuda"}, optional
        Where the network is moved; it stays where it is without it.
    dtype : optional
        The element type between inputs and outputs; float32 without it.

    Raises
    ------
    BackendError, DTypeError
    """

    def __init__(self, op: str, model: Module, device: str | None = None, dtype: Any = None) -> None:
        if device is not None:
            model.to(device)
        self.model = model
        self.on_device = device == "cuda" or any(isinstance(p._data, DeviceArray) for p in model.parameters())
        self.dtype = F32 if dtype is None else checked_dtype(op, dtype)
        if not self.on_device and self.dtype != F32:
            raise DTypeError(f"{op}: device 'cpu' computes in float32, got {dtype}")

    def __call__(self, inputs: Any) -> Any:
        """What the network makes of a batch: tensors of float32, where the network is."""
        if not self.on_device:
            return self.model(Tensor(inputs))
        x = cuda.asarray(inputs)
        if self.dtype == F32:
            return self.model(Tensor(x))
        with mixed_precision(self.model, self.dtype):
            return _wide(self.model(Tensor(x.astype(self.dtype))))


def _wide(outputs: Any) -> Any:
    """Tensors of float32 in place of narrower ones."""
    if isinstance(outputs, (tuple, list)):
        return type(outputs)(_wide(part) for part in outputs)
    if isinstance(outputs, dict):
        return {key: _wide(part) for key, part in outputs.items()}
    narrow = isinstance(outputs, Tensor) and outputs.dtype.kind == "f" and outputs.dtype != F32
    return ops.cast(outputs, F32) if narrow else outputs
