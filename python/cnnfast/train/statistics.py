"""Statistics of batch normalisation for weights that no batch has seen."""

from __future__ import annotations

from itertools import islice
from typing import Any

from ..errors import DataError
from ..nn import BatchNorm2d
from ..nn.module import Module
from ..ops.registry import integer
from ..tensor import no_grad
from .batches import loader_of, parts
from .placement import Placement

__all__ = ["update_batch_norm"]


def update_batch_norm(
    model: Module,
    data: Any,
    *,
    batches: int | None = None,
    batch_size: int | None = None,
    workers: int = 0,
) -> None:
    """Work out the running statistics of batch normalisation afresh: plain means over batches.

    Averaged weights give other activations than those that the statistics were gathered from. Averages of the
    statistics (:class:`cnnfast.optim.ExponentialMovingAverage`) follow them during training; this, within
    ``with ema.averaged():`` before the network is used or saved, gives them as they are.

    Parameters
    ----------
    model : Module
        Its mode is the same afterwards. Frozen layers are left as they are. Layers of other kinds behave as
        in use: nothing is dropped out.
    data : DataLoader, Dataset, or (inputs, targets)
        As for :func:`cnnfast.train.fit`, with the transforms of the training. Best shuffled.
    batches : int, optional
        So many of one loop over the data; all where it is left out. A hundred are plenty.
    batch_size, workers : int, optional
        For data that is no DataLoader.

    Raises
    ------
    ShapeError, DataError, ValueError

    References
    ----------
    Izmailov et al., "Averaging weights leads to wider optima and better generalization", 2018, section 3.2.
    """
    op = "update_batch_norm"
    if batches is not None:
        integer(op, "batches", batches, 1)
    modes = [(module, module.training) for module in model.modules()]
    layers = [m for m in model.modules() if isinstance(m, BatchNorm2d) and not m.frozen]
    placed = Placement(op, model)
    momenta = [layer.momentum for layer in layers]
    loader = loader_of(op, data, batch_size, shuffle=True, workers=workers)
    model.eval()
    for layer in layers:
        layer.training = True
    seen = 0
    try:
        with no_grad():
            for batch in islice(loader, batches) if layers else ():
                seen += 1
                for layer in layers:
                    layer.momentum = 1 / seen  # the first replaces what was there
                placed(parts(batch)[0])
        if layers and not seen:
            raise DataError(f"{op}: expected at least one batch, got none")
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        for module, mode in modes:
            module.training = mode
        if loader is not data:
            loader.close()
