"""Networks from darknet's descriptions: a module per section of a cfg, and the weights that go with it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .. import nn, ops
from ..errors import WeightsError
from ..nn.module import Module
from ..weights.darknet import ConvolutionValues, Section, read_cfg, read_weights

__all__ = ["Darknet", "Head", "darknet", "load_darknet"]

Shape = tuple[int, int, int]

MAX_SIDE = 1 << 14
MAX_CHANNELS = 1 << 16
MAX_VALUES = 1 << 31  # of an activation of one picture
MAX_PARAMETERS = 1 << 32

# darknet divides by sqrt(variance) + 1e-6; this is the nearest of the usual form.
BATCH_NORM_EPS = 1e-6
LEAKY_SLOPE = 0.1

_ACTIVATIONS: dict[str, Callable[[], Module]] = {
    "linear": nn.Identity,
    "leaky": lambda: nn.LeakyReLU(LEAKY_SLOPE),
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "logistic": nn.Sigmoid,
    "tanh": nn.Tanh,
    "swish": nn.SiLU,
}

# Options that change what a layer computes and are not supported, with the one value that means "off".
_OFF: dict[str, dict[str, str]] = {
    "net": {"letter_box": "0", "sequential_subdivisions": "1"},
    "convolutional": dict.fromkeys(
        ("binary", "xnor", "flipped", "antialiasing", "sway", "rotate", "stretch", "deform", "coordconv"), "0"
    )
    | {"dilation": "1", "stride_x": "", "stride_y": "", "share_index": ""},
    "maxpool": {"maxpool_depth": "0", "antialiasing": "0", "stride_x": "", "stride_y": ""},
    "shortcut": {"weights_type": "none", "weights_normalization": "none", "alpha": "1", "beta": "1"},
    "upsample": {"scale": "1"},
    "reorg": {"reverse": "0", "flatten": "0", "extra": "0"},
    "yolo": {"new_coords": "0"},
    "region": {"coords": "4", "background": "0", "tree": "", "map": ""},
    "softmax": {"groups": "1", "temperature": "1", "tree": ""},
}


@dataclass(frozen=True)
class Head:
    """How the raw values of one output layer are to be read, see :func:`cnnfast.models.yolo.decode`.

    Attributes
    ----------
    kind : {"yolo", "region"}
    anchors : tuple of (float, float)
        Width and height: in pixels of the network's input for "yolo", in cells for "region".
    classes : int
    softmax : bool
        Whether the classes exclude each other.
    scale_xy : float
        Stretch of the centres around the middle of their cells.
    """

    kind: str
    anchors: tuple[tuple[float, float], ...]
    classes: int
    softmax: bool = False
    scale_xy: float = 1.0

    @property
    def channels(self) -> int:
        """Values per cell."""
        return len(self.anchors) * (5 + self.classes)


class ConvBlock(Module):
    """Convolution, batch normalisation where there is one, activation."""

    def __init__(
        self, channels: int, filters: int, size: int, stride: int, padding: int, groups: int,
        batch_norm: bool, activation: str,
    ) -> None:  # fmt: skip
        self.conv = nn.Conv2d(
            channels, filters, size, stride=stride, padding=padding, groups=groups, bias=not batch_norm
        )
        self.bn = nn.BatchNorm2d(filters, eps=BATCH_NORM_EPS) if batch_norm else nn.Identity()
        self.activation = _ACTIVATIONS[activation]()

    def forward(self, x: Any) -> Any:
        return self.activation(self.bn(self.conv(x)))


class Route(Module):
    """Earlier results side by side; of each only one of ``groups`` equal parts of its channels."""

    def __init__(self, groups: int, group: int) -> None:
        self.groups, self.group = groups, group

    def forward(self, *inputs: Any) -> Any:
        if self.groups > 1:
            inputs = tuple([_part(x, self.groups, self.group) for x in inputs])
        return inputs[0] if len(inputs) == 1 else ops.concat(list(inputs))


def _part(x: Any, groups: int, group: int) -> Any:
    size = x.shape[-1] // groups
    return ops.take(x, (..., slice(group * size, (group + 1) * size)))


class Shortcut(Module):
    """Sum of results, and an activation."""

    def __init__(self, activation: str) -> None:
        self.activation = _ACTIVATIONS[activation]()

    def forward(self, x: Any, *others: Any) -> Any:
        for other in others:
            x = ops.add(x, other)
        return self.activation(x)


class Reorg(Module):
    """Blocks of pixels to channels, in darknet's order.

    darknet reads the (C, H, W) values as (C / s^2, H s, W s), gathers from it every s-th row and column, and
    reads the (C, H, W) values that come out as (C s^2, H / s, W / s).
    """

    def __init__(self, stride: int) -> None:
        self.stride = stride

    def forward(self, x: Any) -> Any:
        n, h, w, c = x.shape
        s = self.stride
        x = ops.reshape(ops.transpose(x, (0, 3, 1, 2)), (n, c // s**2, h, s, w, s))
        x = ops.reshape(ops.transpose(x, (0, 3, 5, 1, 2, 4)), (n, c * s**2, h // s, w // s))
        return ops.transpose(x, (0, 2, 3, 1))

    def extra_repr(self) -> str:
        return f"stride {self.stride}"


class Darknet(Module):
    """A network described by the sections of a cfg.

    Parameters
    ----------
    sections : sequence of Section
        The first one is ``[net]``, with the nominal ``width``, ``height`` and ``channels`` of the input.

    Attributes
    ----------
    layers : ModuleList
        One module per section after the first, with darknet's numbers.
    heads : list of Head
        What the outputs mean, in their order.
    input_size : (int, int, int)
        Nominal rows, columns and channels.

    Notes
    -----
    ``forward`` takes pictures (N, H, W, C), RGB in 0..1. It gives a tuple of the raw values
    (N, rows, columns, anchors * (5 + classes)) of every ``[yolo]`` and ``[region]`` layer, before any sigmoid
    or exponential; a network without such layers gives its last result.

    Raises
    ------
    WeightsError
        For layers, options or sizes that are unknown or do not fit, with the line in the cfg.
    """

    def __init__(self, sections: Sequence[Section]) -> None:
        if not sections or sections[0].kind not in ("net", "network"):
            raise WeightsError("expected [net] as the first section")
        net = sections[0]
        _check_options(net, "net")
        self.input_size: Shape = (
            net.integer("height", None, 1, MAX_SIDE),
            net.integer("width", None, 1, MAX_SIDE),
            net.integer("channels", 3, 1, MAX_CHANNELS),
        )
        self.layers = nn.ModuleList()
        self.heads: list[Head] = []
        self._head_layers: list[int] = []
        self._sources: list[tuple[int, ...]] = []  # the results that each layer reads; -1 is the input
        shapes: list[Shape] = []
        parameters = 0
        for i, section in enumerate(sections[1:]):
            builder = _BUILDERS.get(section.kind)
            if builder is None:
                section.fail(f"expected one of {', '.join(sorted(_BUILDERS))}; came {section.kind[:40]!r}")
            _check_options(section, section.kind)
            sources = _sources(section, i)
            for source in sources:
                if source in self._head_layers:
                    section.fail(f"expected the result of a layer, came the output {source}")
            module, shape = builder(section, [self.input_size if j < 0 else shapes[j] for j in sources])
            if isinstance(module, Head):
                self.heads.append(module)
                self._head_layers.append(i)
                module = nn.Identity()
            if min(shape) < 1 or shape[0] * shape[1] * shape[2] > MAX_VALUES:
                section.fail(f"the result would have {shape} rows, columns and channels")
            parameters += sum(parameter.size for parameter in module.parameters())
            if parameters > MAX_PARAMETERS:
                section.fail(f"expected at most {MAX_PARAMETERS} parameters, came {parameters}")
            self.layers.append(module)
            self._sources.append(sources)
            shapes.append(shape)
        if not shapes:
            net.fail("expected layers after it, came none")
        # After its last reader a result need not be kept.
        self._last_use = {j: i for i, sources in enumerate(self._sources) for j in sources}

    def forward(self, x: Any) -> Any:
        results = {-1: x}
        outputs = []
        for i, layer in enumerate(self.layers):
            x = results[i] = layer(*[results[j] for j in self._sources[i]])
            if i in self._head_layers:
                outputs.append(x)
            for j in self._sources[i]:
                if self._last_use[j] == i:
                    results.pop(j, None)
        return tuple(outputs) if outputs else x

    def output_convolutions(self) -> list[Any]:
        """The convolutions whose results the heads read, in their order."""
        return [self.layers[self._sources[i][0]].conv for i in self._head_layers]

    def convolutions(self) -> list[ConvolutionValues]:
        """What a weights file of this network holds, in its order."""
        found = []
        for i, layer in enumerate(self.layers):
            if isinstance(layer, ConvBlock):
                batch_norm = isinstance(layer.bn, nn.BatchNorm2d)
                kh, kw, inputs, outputs = layer.conv.weight.shape
                found.append(ConvolutionValues(f"layers.{i}", (kh, kw, inputs, outputs), batch_norm))
        return found


def _check_options(section: Section, kind: str) -> None:
    for name, off in _OFF.get(kind, {}).items():
        value = section.options.get(name, off)
        if value not in (off, f"{off}.0"):
            section.fail(f"{name}: expected {off or 'no such option'}, came {value[:40]!r}", name)


def _sources(section: Section, i: int) -> tuple[int, ...]:
    """Numbers of the results that a layer reads: negative ones in a cfg count back from it."""

    def absolute(name: str) -> list[int]:
        numbers = [j if j >= 0 else i + j for j in section.integers(name, -i, i - 1)]
        if any(not 0 <= j < i for j in numbers):
            section.fail(f"{name}: expected earlier layers, came {section.text(name)[:40]!r}", name)
        return numbers

    if section.kind == "route":
        return tuple(absolute("layers"))
    if section.kind == "shortcut":
        return (i - 1, *absolute("from"))
    return (i - 1,)


# --- one builder per kind of section: options and shapes of what it reads -> module, shape of the result --


def _activation(section: Section, default: str) -> str:
    name = section.text("activation", default)
    if name not in _ACTIVATIONS:
        section.fail(
            f"activation: expected one of {', '.join(_ACTIVATIONS)}; came {name[:40]!r}", "activation"
        )
    return name


def _convolution(section: Section, inputs: list[Shape]) -> tuple[Module, Shape]:
    h, w, c = inputs[0]
    filters = section.integer("filters", 1, 1, MAX_CHANNELS)
    size = section.integer("size", 1, 1, 1024)
    stride = section.integer("stride", 1, 1, 1024)
    groups = section.integer("groups", 1, 1, MAX_CHANNELS)
    padding = section.integer("padding", 0, 0, 1024)
    if section.integer("pad", 0, 0, 1):
        padding = size // 2
    if c % groups or filters % groups:
        section.fail(f"groups: {c} and {filters} channels cannot be split into {groups} groups", "groups")
    if min(h, w) + 2 * padding < size:
        section.fail(f"size: expected at most {min(h, w) + 2 * padding}, came {size}", "size")
    batch_norm = bool(section.integer("batch_normalize", 0, 0, 1))
    activation = _activation(section, "logistic")
    if size * size * (c // groups) * filters > MAX_PARAMETERS:
        section.fail(f"expected at most {MAX_PARAMETERS} parameters, came more")
    block = ConvBlock(c, filters, size, stride, padding, groups, batch_norm, activation)
    rows, columns = ((n + 2 * padding - size) // stride + 1 for n in (h, w))
    return block, (rows, columns, filters)


def _max_pool(section: Section, inputs: list[Shape]) -> tuple[Module, Shape]:
    h, w, c = inputs[0]
    stride = section.integer("stride", 1, 1, 1024)
    size = section.integer("size", stride, 1, 1024)
    # darknet pads by size - 1 in all, the smaller half first: 2x2 at stride 1 reads one more row below.
    padding = section.integer("padding", size - 1, 0, size - 1)
    before, after = padding // 2, padding - padding // 2
    if min(h, w) + padding < size:
        section.fail(f"size: expected at most {min(h, w) + padding}, came {size}", "size")
    pads = ((before, after), (before, after))
    rows, columns = ((n + padding - size) // stride + 1 for n in (h, w))
    return nn.MaxPool2d(size, stride=stride, padding=pads), (rows, columns, c)


def _route(section: Section, inputs: list[Shape]) -> tuple[Module, Shape]:
    groups = section.integer("groups", 1, 1, MAX_CHANNELS)
    group = section.integer("group_id", 0, 0, groups - 1)
    for shape in inputs:
        if shape[:2] != inputs[0][:2]:
            section.fail(f"layers: expected results of one size, came {inputs[0]} and {shape}", "layers")
        if shape[2] % groups:
            section.fail(f"groups: {shape[2]} channels cannot be split into {groups} groups", "groups")
    return Route(groups, group), (*inputs[0][:2], sum(shape[2] // groups for shape in inputs))


def _shortcut(section: Section, inputs: list[Shape]) -> tuple[Module, Shape]:
    for shape in inputs[1:]:
        if shape != inputs[0]:
            section.fail(f"from: expected a result of shape {inputs[0]}, came {shape}", "from")
    return Shortcut(_activation(section, "linear")), inputs[0]


def _upsample(section: Section, inputs: list[Shape]) -> tuple[Module, Shape]:
    h, w, c = inputs[0]
    factor = section.integer("stride", 2, 1, 64)
    return nn.Upsample(factor), (h * factor, w * factor, c)


def _reorg(section: Section, inputs: list[Shape]) -> tuple[Module, Shape]:
    h, w, c = inputs[0]
    s = section.integer("stride", 1, 1, 64)
    if h % s or w % s or c % s**2:
        section.fail(
            f"stride: rows and columns must be multiples of {s}, channels of {s**2}; came {inputs[0]}"
        )
    return Reorg(s), (h // s, w // s, c * s**2)


def _avg_pool(section: Section, inputs: list[Shape]) -> tuple[Module, Shape]:
    return nn.GlobalAvgPool2d(), (1, 1, inputs[0][2])


def _softmax(section: Section, inputs: list[Shape]) -> tuple[Module, Shape]:
    return nn.Softmax(), inputs[0]


def _dropout(section: Section, inputs: list[Shape]) -> tuple[Module, Shape]:
    p = section.number("probability", 0.5)
    if not 0 <= p < 1:
        section.fail(f"probability: expected at least 0 and below 1, came {p}", "probability")
    return nn.Dropout(p), inputs[0]


def _anchors(section: Section) -> list[tuple[float, float]]:
    numbers = section.numbers("anchors")
    num = section.integer("num", len(numbers) // 2, 1, 1024)
    if len(numbers) != 2 * num:
        section.fail(f"anchors: expected {2 * num} numbers, came {len(numbers)}", "anchors")
    if min(numbers) <= 0:
        section.fail(f"anchors: expected positive sizes, came {min(numbers)}", "anchors")
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _head(section: Section, inputs: list[Shape], head: Head) -> tuple[Head, Shape]:
    if inputs[0][2] != head.channels:
        section.fail(
            f"expected {head.channels} channels for {len(head.anchors)} anchors and {head.classes} classes, "
            f"came {inputs[0][2]}"
        )
    return head, inputs[0]


def _yolo(section: Section, inputs: list[Shape]) -> tuple[Head, Shape]:
    anchors = _anchors(section)
    mask = section.integers("mask", 0, len(anchors) - 1) if "mask" in section.options else range(len(anchors))
    classes = section.integer("classes", 20, 1, MAX_CHANNELS)
    scale = section.number("scale_x_y", 1.0)
    return _head(section, inputs, Head("yolo", tuple(anchors[j] for j in mask), classes, False, scale))


def _region(section: Section, inputs: list[Shape]) -> tuple[Head, Shape]:
    classes = section.integer("classes", 20, 1, MAX_CHANNELS)
    softmax = bool(section.integer("softmax", 0, 0, 1))
    return _head(section, inputs, Head("region", tuple(_anchors(section)), classes, softmax))


_BUILDERS: Mapping[str, Callable[[Section, list[Shape]], tuple[Any, Shape]]] = {
    "avgpool": _avg_pool,
    "convolutional": _convolution,
    "dropout": _dropout,
    "maxpool": _max_pool,
    "region": _region,
    "reorg": _reorg,
    "route": _route,
    "shortcut": _shortcut,
    "softmax": _softmax,
    "upsample": _upsample,
    "yolo": _yolo,
}


def darknet(cfg_path: str | os.PathLike[str], weights_path: str | os.PathLike[str] | None = None) -> Darknet:
    """A network from its cfg, with the weights that go with it or initial values.

    Parameters
    ----------
    cfg_path : str or os.PathLike
    weights_path : str or os.PathLike, optional

    Returns
    -------
    Darknet
        In training mode, as every module begins; call ``.eval()`` to use it.

    Raises
    ------
    WeightsError
        If a file is corrupt, or the weights do not fit the cfg.
    OSError

    References
    ----------
    Redmon, "Darknet: open source neural networks in C", 2013-2018.
    """
    sections = read_cfg(cfg_path)
    try:
        model = Darknet(sections)
    except WeightsError as error:
        raise WeightsError(f"darknet: {os.fsdecode(cfg_path)}: {error}") from None
    model.initialize()
    if weights_path is not None:
        load_darknet(model, weights_path)
    return model


def load_darknet(model: Darknet, path: str | os.PathLike[str]) -> None:
    """Fill a network with the numbers of a darknet weights file.

    Arrays are taken over one after the other, so that they are in memory once.

    Raises
    ------
    WeightsError
        If the file does not have the length that the network asks for; nothing is changed then.
    OSError
    """
    modules = dict(model.named_modules())
    for name, array in read_weights(path, model.convolutions()):
        owner, _, key = name.rpartition(".")
        module = modules[owner]
        if key in module._buffers:
            module._buffers[key] = array
        else:
            module._parameters[key].data = array
