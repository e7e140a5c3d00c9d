"""Networks that compute in 16 bits, while what is trained stays float32."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from .. import cuda, ops
from ..tensor import Tensor
from .module import Module

__all__ = ["mixed_precision"]


@contextlib.contextmanager
def mixed_precision(model: Module, dtype: Any) -> Iterator[None]:
    """Let a network on a device compute in another element type for the length of a block.

    Weights of two axes or more are read through copies of that type, made once for the block; gradients go
    back through the copies to the float32 parameters. Biases, scales and statistics stay float32, as do all
    sums. What the network is given should be of that type, and what it gives is.

    Parameters
    ----------
    model : Module
        On the device (``model.to("cuda")``).
    dtype : {"float32", "bfloat16", "float16"}

    Raises
    ------
    DTypeError
        If parameters are in host memory, or device arrays do not have that type.

    References
    ----------
    Micikevicius et al., "Mixed precision training", 2018, section 3.1 (the float32 copy of the weights);
    :class:`cnnfast.optim.GradScaler` is section 3.2.

    Examples
    --------
    >>> import cnnfast as cf
    >>> def loss_of(model, pictures, labels):
    ...     with cf.nn.mixed_precision(model, "bfloat16"):
    ...         scores = model(cf.Tensor(cf.cuda.asarray(pictures, "bfloat16")))
    ...     return cf.losses.cross_entropy(cf.ops.cast(scores, "float32"), labels)
    """
    kind = cuda.dtype_of(dtype)
    held: list[tuple[Any, str, Any]] = []
    copies: dict[int, Tensor] = {}  # of each, however many modules share it
    try:
        for module in model.modules():
            for name, parameter in list(module._parameters.items()):
                if parameter.ndim < 2 or parameter.dtype == kind:
                    continue
                if id(parameter) not in copies:
                    copies[id(parameter)] = ops.cast(parameter, kind)
                held.append((module, name, parameter))
                module._parameters[name] = copies[id(parameter)]  # type: ignore[assignment]
        yield
    finally:
        for module, name, parameter in held:
            module._parameters[name] = parameter
