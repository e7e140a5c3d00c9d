"""Feature maps, receptive fields, and the patches of pictures that excite units of a layer the most."""

from __future__ import annotations

import contextlib
import difflib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ShapeError
from ..graph.summary import Fields, receptive_fields
from ..models.transfer import graph_to
from ..nn.module import Module
from ..tensor import Tensor

Array = np.ndarray

__all__ = ["Patch", "crop", "feature_maps", "field_of", "layer_of", "top_patches", "window"]


def layer_of(model: Module, path: str) -> Module:
    """The layer of a path such as ``"layer4.1.conv2"``.

    Raises
    ------
    ValueError
        If there is none; with the paths that come near.
    """
    modules = dict(model.named_modules())
    if not path or path not in modules:
        near = difflib.get_close_matches(path, modules, 3) or [name for name in modules if name][:3]
        raise ValueError(f"inspect: there is no layer {path!r}; nearest: {', '.join(near)}")
    return modules[path]


@contextlib.contextmanager
def at_rest(model: Module) -> Iterator[None]:
    """In evaluation mode and with no parameter that wants a gradient; afterwards as before."""
    modes = [(module, module.training) for module in model.modules()]
    wants = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    for module, _ in modes:
        module.training = False
    for parameter, _ in wants:
        parameter.requires_grad = False
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, wanted in wants:
            parameter.requires_grad = wanted


class Reached(Exception):
    """The forward pass has come to the last layer that is of interest."""


def _result(path: str, result: Any) -> Tensor:
    if not isinstance(result, Tensor) or result.ndim < 2:
        raise ShapeError(f"inspect: expected layers that give one array, {path} does not")
    return result


def up_to(model: Module, x: Any, paths: Sequence[str]) -> dict[str, Tensor]:
    """What layers give, by path; nothing after the last of them is computed."""
    found: dict[str, Tensor] = {}
    hooks = []

    def keep(path: str) -> Callable[..., None]:
        def hook(module: Module, inputs: Any, result: Any) -> None:
            found.setdefault(path, _result(path, result))
            if len(found) == len(set(paths)):
                raise Reached

        return hook

    try:
        for path in dict.fromkeys(paths):
            hooks.append(layer_of(model, path).register_forward_hook(keep(path)))
        with at_rest(model), contextlib.suppress(Reached):
            model(x if isinstance(x, Tensor) else Tensor(x))
    finally:
        for hook in hooks:
            hook.remove()
    for path in paths:
        if path not in found:
            raise ValueError(f"inspect: the forward pass does not come to {path}")
    return found


def feature_maps(model: Module, x: Any, layers: Sequence[str]) -> dict[str, Array]:
    """What layers give for some inputs.

    Parameters
    ----------
    model : Module
        Runs in evaluation mode, and is as before afterwards.
    x : array_like, shape (N, H, W, C)
        As the network takes it.
    layers : sequence of str
        Paths of modules; of one that is called many times, the first result.

    Returns
    -------
    dict of str to ndarray, shapes (N, P, Q, C) for feature maps

    Raises
    ------
    ValueError, ShapeError
    """
    if not layers:
        raise ValueError("feature_maps: expected layers, got none")
    return {path: tensor.data for path, tensor in up_to(model, x, layers).items()}


# --- receptive fields ---------------------------------------------------------------------------------


def field_of(model: Module, layer: str, input_shape: Sequence[int]) -> Fields:
    """Rows and columns of the input that pixel (0, 0) of a layer depends on, and the way to the next pixel.

    Parameters
    ----------
    model : Module
    layer : str
    input_shape : (int, int, int)
        H, W, C.

    Returns
    -------
    rows, columns : Field
        See :class:`cnnfast.graph.summary.Field`; pixel p sees ``first + p step .. last + p step``.
    """
    layer_of(model, layer)
    graph = graph_to(model, (1, *input_shape), layer)
    found = receptive_fields(graph).get(graph.outputs[0])
    if found is None or len(graph.outputs[0].shape) != 4:
        raise ShapeError(f"inspect: {layer} gives no feature maps, which alone have receptive fields")
    return found


def window(fields: Fields, row: int, column: int) -> tuple[int, int, int, int]:
    """The receptive field of one pixel: first row, row after the last, first column, column after the last.

    It may reach into the padding, outside of the picture.
    """
    (top, bottom), (left, right) = (
        (math.floor(f.first + at * f.step), math.ceil(f.last + at * f.step) + 1)
        for f, at in zip(fields, (row, column), strict=True)
    )
    return top, bottom, left, right


def crop(picture: Any, place: tuple[int, int, int, int], fill: float = 0.0) -> Array:
    """The pixels of a window (see :func:`window`), with ``fill`` where it leaves the picture.

    Parameters
    ----------
    picture : array_like, shape (H, W, C)
    place : (int, int, int, int)
    fill : float

    Returns
    -------
    ndarray, shape (rows, columns, C)
    """
    x = np.asarray(picture)
    top, bottom, left, right = place
    result = np.full((bottom - top, right - left, x.shape[2]), fill, x.dtype)
    inside = x[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    rows, columns = inside.shape[:2]
    result[max(-top, 0) :, max(-left, 0) :][:rows, :columns] = inside
    return result


# --- patches that excite units --------------------------------------------------------------------------


@dataclass(frozen=True)
class Patch:
    """A place in a picture.

    Attributes
    ----------
    picture : int
        Number among the pictures.
    row, column : int
        Of the feature map.
    value : float
        The activation there.
    place : (int, int, int, int)
        The receptive field; see :func:`window`.
    """

    picture: int
    row: int
    column: int
    value: float
    place: tuple[int, int, int, int]


def top_patches(
    model: Module,
    pictures: Iterable[Any],
    layer: str,
    units: Sequence[int] | None = None,
    *,
    k: int = 9,
    each: int | None = 1,
    done: Callable[[], Any] | None = None,
) -> dict[int, list[Patch]]:
    """The places where units of a layer are excited the most.

    Parameters
    ----------
    model : Module
    pictures : iterable of array_like, shapes (H, W, C)
        As the network takes them, all of one size; taken one after the other.
    layer : str
    units : sequence of int, optional
        Channels of the layer; all unless given.
    k : int
        Places of each unit.
    each : int, optional
        At most so many places out of one picture; None for no bound.
    done : callable, optional
        Called after each picture.

    Returns
    -------
    dict of int to list of Patch
        By unit, the highest activation first; of equal ones the earlier picture, then the upper row, then the
        column further left. NaN counts as lowest.

    Raises
    ------
    ValueError, ShapeError

    References
    ----------
    Zeiler and Fergus, "Visualizing and understanding convolutional networks", 2014, section 4.
    """
    for name, value in (("k", k), ("each", 1 if each is None else each)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
            raise ValueError(f"top_patches: {name} must be a whole number from 1, got {value!r}")
    chosen: list[int] = []
    fields: Fields | None = None
    shape: tuple[int, ...] = ()
    values, places = np.empty((0, 0)), np.empty((0, 0, 3), np.int64)
    for number, picture in enumerate(pictures):
        x = np.asarray(picture)
        if fields is None:
            if x.ndim != 3:
                raise ShapeError(f"top_patches: expected pictures of shape (H,W,C), got {x.shape}")
            shape, fields = x.shape, field_of(model, layer, x.shape)
        if x.shape != shape:
            raise ShapeError(f"top_patches: expected pictures of one shape {shape}, got {x.shape}")
        maps = feature_maps(model, x[None], [layer])[layer][0]
        if not number:
            chosen = list(range(maps.shape[2]) if units is None else units)
            for unit in chosen:
                if not 0 <= unit < maps.shape[2]:
                    raise ValueError(f"top_patches: {layer} has units 0 to {maps.shape[2] - 1}, got {unit}")
            values, places = np.empty((0, len(chosen))), np.empty((0, len(chosen), 3), np.int64)
        columns = maps.shape[1]
        flat = maps[:, :, chosen].reshape(-1, len(chosen)).astype(float)
        flat = np.where(np.isnan(flat), -np.inf, flat)
        order = np.argsort(-flat, axis=0, kind="stable")[: min(k, each or k)]
        where = np.stack([np.full_like(order, number), order // columns, order % columns], axis=2)
        # What was there before comes first, and the sort is stable.
        values = np.concatenate([values, np.take_along_axis(flat, order, axis=0)])
        places = np.concatenate([places, where])
        best = np.argsort(-values, axis=0, kind="stable")[:k]
        values = np.take_along_axis(values, best, axis=0)
        places = np.take_along_axis(places, best[..., None], axis=0)
        if done is not None:
            done()
    if fields is None:
        raise ValueError("top_patches: expected pictures, got none")
    found: dict[int, list[Patch]] = {}
    for i, unit in enumerate(chosen):
        rows = zip(values[:, i].tolist(), places[:, i].tolist(), strict=True)
        found[unit] = [Patch(n, p, q, v, window(fields, p, q)) for v, (n, p, q) in rows]
    return found
