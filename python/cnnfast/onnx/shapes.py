"""ONNX operators on shapes and places: joining, cutting, padding, picking, repeating, and sizes themselves.

Sizes are worked out while a network runs or is traced: then they are known, and stay ordinary arrays.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import ops
from ..errors import WeightsError
from ..ops.pad import source_index
from .calls import Call, by_numpy, constant_size, is_real, known, operator, whole
from .held import Held, arranged, held, order_of, plain, reshaped, shape_of, transposed


def axis_of(call: Call, axis: int, rank: int) -> int:
    """An axis counted from the front."""
    if not -rank <= axis < rank:
        raise WeightsError(f"{call.node.label}: expected an axis from {-rank} to {rank - 1}, came {axis}")
    return axis % rank


def axes_of(call: Call, value: Any, since: int, rank: int) -> tuple[int, ...] | None:
    """Axes out of an input (from operator set ``since`` on) or out of the attribute; None without either."""
    given = call.integers("axes") if value is None else whole(call, value, "axes")
    if value is not None and call.opset < since:
        raise WeightsError(f"{call.node.label}: axes are an input from operator set {since} on only")
    return None if given is None else tuple(axis_of(call, a, rank) for a in given)


# --- sizes and constants ---------------------------------------------------------------------------


@operator("Shape")
def shape(call: Call, x: Any) -> Any:
    sizes = shape_of(x)
    first, stop, _ = slice(call.integer("start"), call.integer("end", len(sizes))).indices(len(sizes))
    return np.array(sizes[first:stop], np.int64)


@operator("Size")
def size(call: Call, x: Any) -> Any:
    return np.array(math.prod(shape_of(x)), np.int64)


@operator("Constant")
def constant(call: Call) -> Any:
    # Tensors were read into arrays when the file was.
    value = call.node.attributes.get("value")
    if isinstance(value, np.ndarray):
        return value
    for name, dtype in (
        ("value_float", "f4"),
        ("value_floats", "f4"),
        ("value_int", "i8"),
        ("value_ints", "i8"),
    ):
        if call.has(name):
            return np.array(call.node.attributes[name], dtype)
    raise WeightsError(f"{call.node.label}: only constants of numbers are supported")


@operator("ConstantOfShape")
def constant_of_shape(call: Call, sizes: Any) -> Any:
    wanted = whole(call, sizes, "the shape")
    constant_size(call, wanted)
    value = call.node.attributes.get("value", np.zeros(1, np.float32))
    if not isinstance(value, np.ndarray) or value.size != 1:
        raise WeightsError(f"{call.node.label}: expected one value, came another attribute")
    return np.full(wanted, value.reshape(()), value.dtype)


@operator("Range")
def arange(call: Call, start: Any, limit: Any, delta: Any) -> Any:
    first, stop, step = (known(call, v, "a bound").reshape(()) for v in (start, limit, delta))
    if step == 0 or not np.isfinite([float(first), float(stop), float(step)]).all():
        raise WeightsError(
            f"{call.node.label}: expected finite bounds and a step, came {first}, {stop}, {step}"
        )
    constant_size(call, [max(0, math.ceil((float(stop) - float(first)) / float(step)))])
    return np.arange(first.item(), stop.item(), step.item(), dtype=first.dtype)


# --- other shapes ----------------------------------------------------------------------------------


@operator("Reshape")
def reshape(call: Call, x: Any, sizes: Any) -> Any:
    wanted, old = list(whole(call, sizes, "the shape")), shape_of(x)
    if not call.integer("allowzero"):
        for i, n in enumerate(wanted):
            if n == 0:
                if i >= len(old):
                    raise WeightsError(f"{call.node.label}: size 0 at {i} names no axis of {old}")
                wanted[i] = old[i]
    if wanted.count(-1) == 1:
        rest = math.prod(n for n in wanted if n != -1)
        if not rest or math.prod(old) % rest:
            raise WeightsError(f"{call.node.label}: {old} cannot be given the shape {tuple(wanted)}")
        wanted[wanted.index(-1)] = math.prod(old) // rest
    return reshaped(x, tuple(wanted))


@operator("Flatten")
def flatten(call: Call, x: Any) -> Any:
    old = shape_of(x)
    axis = call.integer("axis", 1)
    if not -len(old) <= axis <= len(old):
        raise WeightsError(f"{call.node.label}: axis {axis} is none of {len(old)}")
    axis = axis + len(old) if axis < 0 else axis
    return reshaped(x, (math.prod(old[:axis]), math.prod(old[axis:])))


@operator("Transpose")
def transpose(call: Call, x: Any) -> Any:
    rank = len(x.shape)
    axes = call.integers("perm", tuple(range(rank))[::-1])
    if sorted(axes) != list(range(rank)):
        raise WeightsError(f"{call.node.label}: expected each of {rank} axes once, came {axes}")
    return transposed(x, axes)


@operator("Squeeze")
def squeeze(call: Call, x: Any, axes: Any = None) -> Any:
    old = shape_of(x)
    gone = axes_of(call, axes, 13, len(old))
    if gone is None:
        gone = tuple(i for i, n in enumerate(old) if n == 1)
    if any(old[a] != 1 for a in gone):
        raise WeightsError(f"{call.node.label}: expected axes of size 1 in {old}, came {gone}")
    return reshaped(x, tuple(n for i, n in enumerate(old) if i not in gone))


@operator("Unsqueeze")
def unsqueeze(call: Call, x: Any, axes: Any = None) -> Any:
    old = shape_of(x)
    count = len(call.integers("axes", ())) if axes is None else math.prod(axes.shape)
    if not 0 < count <= 32:
        raise WeightsError(f"{call.node.label}: expected axes, came {count}")
    new = axes_of(call, axes, 13, len(old) + count)
    if new is None or len(set(new)) != count:
        raise WeightsError(f"{call.node.label}: expected every new axis once, came {new}")
    rest = iter(old)
    return reshaped(x, tuple(1 if i in new else next(rest) for i in range(len(old) + count)))


@operator("Expand")
def expand(call: Call, x: Any, sizes: Any) -> Any:
    wanted, old = whole(call, sizes, "the shape"), shape_of(x)
    rank = max(len(wanted), len(old))
    old, wanted = (1,) * (rank - len(old)) + old, (1,) * (rank - len(wanted)) + wanted
    if isinstance(x, np.ndarray):
        constant_size(call, [max(m, n) for m, n in zip(old, wanted, strict=True)])
    x = reshaped(x, old)
    order, tensor = order_of(x), x.tensor if isinstance(x, Held) else x
    there = tuple(wanted[order.index(i)] for i in range(rank))
    return held(ops.expand(tensor, there), order)


@operator("Tile")
def tile(call: Call, x: Any, repeats: Any) -> Any:
    counts = whole(call, repeats, "repeats")
    if len(counts) != len(x.shape):
        raise WeightsError(f"{call.node.label}: {len(counts)} repeats for {len(x.shape)} axes")
    if isinstance(x, np.ndarray):
        constant_size(call, [n * r for n, r in zip(x.shape, counts, strict=True)])
    order, tensor = order_of(x), x.tensor if isinstance(x, Held) else x
    return held(ops.tile(tensor, tuple(counts[order.index(i)] for i in range(len(order)))), order)


# --- joining and cutting ---------------------------------------------------------------------------


@operator("Concat")
def concat(call: Call, x: Any, *rest: Any) -> Any:
    parts = [x, *rest]
    rank = len(x.shape)
    axis = axis_of(call, call.integer("axis", 1), rank)
    if any(len(p.shape) != rank for p in parts):
        raise WeightsError(f"{call.node.label}: expected parts of {rank} dimensions")
    if not all(map(is_real, parts)):
        return by_numpy(call, lambda *arrays: np.concatenate(arrays, axis=axis), *parts)
    lead = next((p for p in parts if isinstance(p, Held)), x)
    order = order_of(lead)
    return held(ops.concat([arranged(p, order) for p in parts], axis=order[axis]), order)


@operator("Split")
def split(call: Call, x: Any, sizes: Any = None) -> Any:
    axis = axis_of(call, call.integer("axis", 0), len(x.shape))
    n, count = x.shape[axis], len(call.node.outputs)
    if sizes is not None:
        parts = whole(call, sizes, "sizes")
    elif call.has("split"):
        parts = call.integers("split")
    else:
        # The last part is smaller where they cannot be equal.
        count = call.integer("num_outputs", count)
        each = -(-n // count) if 0 < count <= 1 << 16 else 0
        parts = tuple(min(each, max(0, n - i * each)) for i in range(count if each else 0))
    if sum(parts) != n or len(parts) != len(call.node.outputs) or min(parts) < 0:
        raise WeightsError(
            f"{call.node.label}: parts of {parts} do not add up to axis {axis} of {shape_of(x)}"
        )
    order, tensor = order_of(x), x.tensor if isinstance(x, Held) else x
    return tuple([held(part, order) for part in ops.split(tensor, parts, axis=order[axis])])


@operator("Slice")
def cut(call: Call, x: Any, starts: Any = None, ends: Any = None, axes: Any = None, steps: Any = None) -> Any:
    rank = len(x.shape)
    if starts is None or ends is None:
        first, stop = call.integers("starts", ()), call.integers("ends", ())
    else:
        first, stop = whole(call, starts, "starts"), whole(call, ends, "ends")
    along = axes_of(call, axes, 10, rank)
    if along is None:
        along = tuple(range(len(first)))
    by = (1,) * len(first) if steps is None else whole(call, steps, "steps")
    if not len(first) == len(stop) == len(along) == len(by) <= rank or 0 in by:
        raise WeightsError(
            f"{call.node.label}: expected as many starts, ends, axes and steps, none of them 0"
        )
    order, tensor = order_of(x), x.tensor if isinstance(x, Held) else x
    index = [slice(None)] * rank
    for a, i, j, step in zip(along, first, stop, by, strict=True):
        n = x.shape[a]
        if step > 0:
            index[order[a]] = slice(i, j, step)
        else:  # Python has no number for "to before the first"
            i = min(i + n if i < 0 else i, n - 1)
            j = max(j + n if j < 0 else j, -1)
            index[order[a]] = slice(max(i, 0), None if j < 0 else j, step) if i >= 0 else slice(0, 0)
    return held(ops.take(tensor, tuple(index)), order)


@operator("Gather")
def gather(call: Call, x: Any, indices: Any) -> Any:
    axis = axis_of(call, call.integer("axis", 0), len(x.shape))
    if isinstance(x, np.ndarray) and isinstance(indices, np.ndarray):
        constant_size(call, (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))
    indices = plain(indices)
    order, tensor = order_of(x), x.tensor if isinstance(x, Held) else x
    if len(indices.shape) > 1 and isinstance(x, Held):
        return ops.gather(plain(x), indices, axis)
    picked = ops.gather(tensor, indices, order[axis])
    if len(indices.shape) == 1 or not isinstance(x, Held):
        return held(picked, order) if isinstance(x, Held) else picked
    gone = order[axis]
    return held(picked, [a - (a > gone) for i, a in enumerate(order) if i != axis])


_MODES = {"constant": "zeros", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


@operator("Pad")
def pad(call: Call, x: Any, pads: Any = None, value: Any = None, axes: Any = None) -> Any:
    rank = len(x.shape)
    mode = call.text("mode", "constant")
    if mode not in _MODES:
        raise WeightsError(f"{call.node.label}: unknown mode {mode!r}")
    amounts = call.integers("pads", ()) if pads is None else whole(call, pads, "pads")
    along = axes_of(call, axes, 18, rank) or tuple(range(rank))
    fill = call.real("value", 0.0) if value is None or not math.prod(value.shape) else 0.0
    if value is not None and math.prod(value.shape):
        fill = known(call, value, "the value").reshape(()).item()
    if len(amounts) != 2 * len(along):
        raise WeightsError(f"{call.node.label}: {len(amounts)} pads for {len(along)} axes")
    sides = {a: (amounts[i], amounts[i + len(along)]) for i, a in enumerate(along)}
    index = [slice(max(0, -sides.get(a, (0, 0))[0]), x.shape[a] + min(0, sides.get(a, (0, 0))[1]))
             for a in range(rank)]  # fmt: skip
    if any(min(s) < 0 for s in sides.values()):  # negative padding cuts away
        order = order_of(x)
        tensor = ops.take(
            x.tensor if isinstance(x, Held) else x, tuple(index[order.index(i)] for i in range(rank))
        )
        x = held(tensor, order)
    sides = {a: (max(0, s[0]), max(0, s[1])) for a, s in sides.items() if max(s) > 0}
    if isinstance(x, Held) and rank == 4 and x.order == (0, 3, 1, 2) and set(sides) <= {2, 3} and is_real(x):
        padding = sides.get(2, (0, 0)), sides.get(3, (0, 0))
        extra = {"value": fill} if mode == "constant" else {}
        return held(ops.pad2d(x.tensor, padding, mode=_MODES[mode], **extra), x.order)
    order, tensor = order_of(x), x.tensor if isinstance(x, Held) else x
    for axis, (before, after) in sides.items():
        tensor = _padded(call, tensor, order[axis], before, after, mode, fill)
    return held(tensor, order)


def _padded(call: Call, x: Any, axis: int, before: int, after: int, mode: str, fill: float) -> Any:
    """Padding along any axis."""
    n = x.shape[axis]
    if mode != "constant":
        most = max(before, after)
        if most >= n + (mode != "reflect") and (mode != "edge" or not n):
            raise WeightsError(f"{call.node.label}: padding {most} is too much for an axis of {n}")
        constant_size(call, [before + n + after])
        return ops.gather(x, source_index(_MODES[mode], n, before, after), axis)
    if isinstance(x, np.ndarray) or not is_real(x):
        constant_size(call, (*x.shape[:axis], before + n + after, *x.shape[axis + 1 :]))
        widths = [(before, after) if a == axis else (0, 0) for a in range(len(x.shape))]
        return by_numpy(call, lambda array: np.pad(array, widths, constant_values=fill), x)
    parts = [x]
    for size, at in ((before, 0), (after, 1)):
        if size:
            block = (*x.shape[:axis], size, *x.shape[axis + 1 :])
            constant_size(call, block)
            parts.insert(0 if at == 0 else len(parts), np.full(block, fill, x.dtype))
    return ops.concat(parts, axis=axis)


__all__ = ["axes_of", "axis_of"]
