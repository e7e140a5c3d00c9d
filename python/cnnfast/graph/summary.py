"""What a network consists of: shapes, parameters, buffers, work and receptive fields, without running it."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

from ..nn.module import Module
from .ir import Graph, Node, Value
from .trace import shape_of, trace

__all__ = ["Field", "Row", "Summary", "receptive_fields", "summary"]

# Operators whose work is counted as multiplications with additions, two operations each.
_PRODUCTS = frozenset(("conv2d", "depthwise_conv2d", "conv2d_transpose", "linear"))
_WINDOWS = frozenset(("max_pool2d", "max_pool2d_indices", "avg_pool2d"))


@dataclass(frozen=True)
class Field:
    """The pixels of the input, along one axis, that the first pixel of a feature map depends on.

    Attributes
    ----------
    first, last : Fraction
        May lie in the padding, i.e. outside of the picture.
    step : Fraction
        Distance to the field of the next pixel; 0 where every pixel sees the same.
    """

    first: Fraction
    last: Fraction
    step: Fraction

    @property
    def size(self) -> int:
        return int(self.last - self.first) + 1

    def window(self, taps: int, stride: int, dilation: int, before: int) -> Field:
        """The field of a window of taps over pixels with this field."""
        first = self.first - before * self.step
        return Field(first, first + (self.last - self.first) + (taps - 1) * dilation * self.step,
                     self.step * stride)  # fmt: skip

    def whole(self, size: int) -> Field:
        """The field of everything along an axis of this size."""
        return Field(self.first, self.last + (size - 1) * self.step, Fraction(0))


Fields = tuple[Field, Field]
_PIXEL = Field(Fraction(0), Fraction(0), Fraction(1))


def _merge(fields: list[Fields]) -> Fields | None:
    """The union of fields that meet in one operator."""
    if not fields:
        return None
    axes = []
    for axis in (0, 1):
        parts = [f[axis] for f in fields]
        axes.append(
            Field(min(p.first for p in parts), max(p.last for p in parts), max(p.step for p in parts))
        )
    return axes[0], axes[1]


def _scaled(f: Field, first: Fraction, last: Fraction, step: Fraction) -> Field:
    """The field where pixel 0 reads the pixels ``first`` to ``last`` and the next one begins ``step`` later.

    Steps that are no whole numbers make these bounds: every pixel reads whole pixels between them.
    """
    return Field(f.first + first * f.step, f.last + last * f.step, f.step * step)


def _through(node: Node, f: Fields) -> Fields:
    """Fields after a node, from the union of those before it."""
    name, spec, x = node.op.name, node.spec, node.inputs[0]
    assert x is not None
    if name in ("conv2d", "depthwise_conv2d") or name in _WINDOWS:
        taps = spec.w[:2] if name not in _WINDOWS else spec.size
        axes = [f[a].window(taps[a], spec.stride[a], spec.dilation[a], spec.pads[a][0]) for a in (0, 1)]
        return axes[0], axes[1]
    if name == "conv2d_transpose":
        # Output o reads every input i with 0 <= o + padding - i stride < span.
        axes = []
        for a in (0, 1):
            stride, before = spec.stride[a], spec.pads[a][0]
            reach = (spec.w[a] - 1) * spec.dilation[a]
            bounds = Fraction(before - reach, stride), Fraction(before, stride)
            axes.append(_scaled(f[a], *bounds, Fraction(1, stride)))
        return axes[0], axes[1]
    if name == "resize":
        axes = []
        for a, table in enumerate(spec.axes()):
            n, out = table.size, len(table.start)
            step = Fraction(n - 1, max(1, out - 1)) if spec.align_corners else Fraction(n, out)
            starts, ends = table.start.tolist(), (table.start + table.count - 1).tolist()
            first = min(start - i * step for i, start in enumerate(starts))
            axes.append(_scaled(f[a], first, max(end - i * step for i, end in enumerate(ends)), step))
        return axes[0], axes[1]
    if name == "pad2d":
        axes = [Field(f[a].first - spec.pads[a][0] * f[a].step, f[a].last - spec.pads[a][0] * f[a].step,
                      f[a].step) for a in (0, 1)]  # fmt: skip
        return axes[0], axes[1]
    if name == "slice" and len(x.shape) == 4 and not spec.dropped:
        axes = []
        for a in (0, 1):
            start, _, stride = spec.index[1 + a]
            shift = start * f[a].step
            axes.append(Field(f[a].first + shift, f[a].last + shift, f[a].step * abs(stride)))
        return axes[0], axes[1]
    kept = node.output.shape[:3] == x.shape[:3] or len(x.shape) != 4
    if len(x.shape) == 4 and (name.startswith("global_") or not kept):
        return f[0].whole(x.shape[1]), f[1].whole(x.shape[2])
    return f


def receptive_fields(graph: Graph) -> dict[Value, Fields]:
    """Rows and columns of the input that the pixel (0, 0) of every value of a graph depends on.

    Operators that mix pixels in ways of their own count as seeing everything that enters them.
    """
    known: dict[Value, Fields] = {v: (_PIXEL, _PIXEL) for v in graph.inputs if len(v.shape) == 4}
    for node in graph.nodes:
        seen = _merge([known[v] for v in node.inputs if v in known])
        if seen is None or node.inputs[0] is None:
            continue
        for value in node.outputs:
            known[value] = _through(node, seen)
    return known


@dataclass
class Row:
    """One line of a summary: a layer, or an operator that a network calls itself.

    Attributes
    ----------
    path : str
        Of the module, e.g. ``"layer1.0.conv1"``.
    kind : str
        Class of the layer, or name of the operator.
    shape : tuple of int, or None
        Of the result; None for layers that only training uses.
    parameters, buffers : int
        Numbers in them; a layer that is used again adds none.
    macs : int
        Multiplications with addition of convolutions and dense layers.
    receptive_field : (int, int), or None
        Rows and columns of the input that one pixel depends on, padding included.
    dense_equivalent : int, or None
        For convolutions: weights of a dense layer between the same two feature maps.
    """

    path: str
    kind: str
    shape: tuple[int, ...] | None
    parameters: int = 0
    buffers: int = 0
    macs: int = 0
    receptive_field: tuple[int, int] | None = None
    dense_equivalent: int | None = None


@dataclass
class Summary:
    """Numbers of a network; ``str()`` gives the table.

    Attributes
    ----------
    name : str
    input_shape : tuple of int
    rows : list of Row
    parameters : int
        All parameters; ``trainable`` leaves frozen ones out.
    buffers : int
        Numbers that belong to the state but are not trained, such as statistics.
    macs : int
    receptive_field : (int, int) or None
        Of the last row that has one.
    """

    name: str
    input_shape: tuple[int, ...]
    rows: list[Row] = field(default_factory=list)
    parameters: int = 0
    trainable: int = 0
    buffers: int = 0
    macs: int = 0
    receptive_field: tuple[int, int] | None = None

    def __str__(self) -> str:
        heads = ("layer", "kind", "output", "parameters", "buffers", "MACs", "field")
        lines = [(f"input {_by(self.input_shape)}", "", "", "", "", "", "")]
        for row in self.rows:
            lines.append((
                row.path or self.name,
                row.kind,
                "not used" if row.shape is None else _by(row.shape),
                f"{row.parameters:,}" if row.parameters else "",
                f"{row.buffers:,}" if row.buffers else "",
                f"{row.macs:,}" if row.macs else "",
                "" if row.receptive_field is None else _by(row.receptive_field),
            ))  # fmt: skip
        widths = [max(len(line[i]) for line in (heads, *lines)) for i in range(len(heads))]

        def show(line: tuple[str, ...]) -> str:
            left = [c.ljust(w) for c, w in zip(line[:3], widths[:3], strict=True)]
            right = [c.rjust(w) for c, w in zip(line[3:], widths[3:], strict=True)]
            return "  ".join(left + right).rstrip()

        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
        text = [show(heads), rule, *map(show, lines), rule]
        text.append(f"parameters {self.parameters:,}, of them trainable {self.trainable:,}")
        text.append(f"buffers {self.buffers:,}, MACs {self.macs:,}")
        dense = next((row for row in self.rows if row.dense_equivalent and row.parameters), None)
        if dense is not None and dense.dense_equivalent is not None:
            text.append(
                f"A dense layer in place of {dense.path or self.name} would have "
                f"{dense.dense_equivalent:,} weights, not {dense.parameters:,}."
            )
        return "\n".join(text)


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "1"


def _count(shape: tuple[int, ...]) -> int:
    n = 1
    for size in shape:
        n *= size
    return n


def _macs(node: Node) -> int:
    return int(node.op.cost(node.spec).flops) // 2 if node.op.name in _PRODUCTS else 0


def _dense_equivalent(node: Node) -> int | None:
    if node.op.name not in ("conv2d", "depthwise_conv2d", "conv2d_transpose") or node.inputs[0] is None:
        return None
    return _count(node.inputs[0].shape[1:]) * _count(node.output.shape[1:])


def summary(model: Module, *input_shapes: tuple[int, ...]) -> Summary:
    """Layers of a network with shapes, parameters, buffers, work and receptive fields.

    Nothing is computed: the network is traced, and parameters that have not been used stay without memory.
    A network that cannot be traced as a whole says by ``parts(shape)`` what of it can.

    Parameters
    ----------
    model : Module
    *input_shapes : tuple of int
        (N, H, W, C), or (H, W, C) for a single picture; one per input of the network.

    Returns
    -------
    Summary
        ``print`` shows the table.

    Raises
    ------
    ShapeError
        If the shape does not suit the network.

    Examples
    --------
    >>> import cnnfast as cf
    >>> cf.summary(cf.models.lenet5(), (32, 32, 1)).parameters
    61706
    """
    given = [shape_of("summary", shape) for shape in input_shapes]
    shapes = [(1, *shape) if len(shape) == 3 else shape for shape in given]
    result = Summary(type(model).__name__, shapes[0] if shapes else ())
    paths = {id(module): path for path, module in model.named_modules()}
    counted: set[int] = set()

    def own(row: Row, module: Module, names: set[str] | None = None) -> Row:
        """Add what belongs to a module itself, once; of some names alone where they are given."""
        for name, parameter in module._parameters.items():
            if id(parameter) not in counted and (names is None or name in names):
                counted.add(id(parameter))
                row.parameters += parameter.size
        for name, buffer in module._buffers.items():
            if id(buffer) not in counted and (names is None or name in names):
                counted.add(id(buffer))
                row.buffers += buffer.size
        return row

    def add(part: Module, graph: Graph, fields: dict[Value, Fields]) -> None:
        """The rows of a network, or of a part of it."""
        modules = dict(part.named_modules())
        # A network without layers, such as one out of an ONNX file, has a row for each of its operators.
        flat = not part._modules and len(graph.nodes) > 1
        previous: tuple[str, Row] | None = None
        for node in graph.nodes:
            module = modules.get(node.scope, part)
            leaf = not module._modules and not flat
            if leaf and previous is not None and previous[0] == node.scope:
                row = previous[1]  # one layer that takes several operators
            else:
                names = {v.name for v in node.inputs if v is not None and v.kind == "param"} if flat else None
                path = (min(names).rpartition(".")[0] or min(names)) if names else paths.get(id(module), "")
                row = own(Row(path, type(module).__name__ if leaf else node.op.name, None), module, names)
                result.rows.append(row)
            previous = (node.scope, row) if leaf else None
            row.shape = node.output.shape
            row.macs += _macs(node)
            row.dense_equivalent = _dense_equivalent(node) or row.dense_equivalent
            seen = fields.get(node.output)
            row.receptive_field = None if seen is None else (seen[0].size, seen[1].size)
            result.receptive_field = row.receptive_field or result.receptive_field

    if hasattr(model, "parts"):
        for i, (part, shape) in enumerate(model.parts(*shapes)):
            graph = trace(part, shape)
            add(part, graph, {} if i else receptive_fields(graph))  # later parts see no picture
    else:
        graph = trace(model, *shapes)
        add(model, graph, receptive_fields(graph))
    for path, module in model.named_modules():
        row = own(Row(path, type(module).__name__, None), module)
        if row.parameters or row.buffers:
            result.rows.append(row)
    result.parameters = sum(p.size for p in model.parameters())
    result.trainable = sum(p.size for p in model.parameters() if p.requires_grad)
    result.buffers = sum(row.buffers for row in result.rows)
    result.macs = sum(row.macs for row in result.rows)
    return result
