"""YOLO versions 2 and 3: the networks, and boxes out of their raw values.

The networks are lists of darknet's sections, so that their layers have darknet's numbers and its weights
files fit as they are.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import ops
from ..cuda.array import DeviceArray
from ..detection.letterbox import Letterbox
from ..ops.registry import array, fail, number, pair, rank
from ..ops.yolo import YOLO_CANDIDATES, YoloGrid, YoloSpec, decode_places
from ..tensor import Tensor
from ..weights.darknet import Section
from .darknet import Darknet, Head
from .registry import Pretrained, register_model

Array = np.ndarray

__all__ = [
    "Detections",
    "candidates",
    "decode",
    "detect",
    "yolov2_tiny",
    "yolov3",
    "yolov3_small",
    "yolov3_tiny",
]

# --- networks --------------------------------------------------------------------------------------


def _net(size: int) -> Section:
    return Section("net", {"width": str(size), "height": str(size), "channels": "3"})


def _conv(filters: int, size: int = 3, stride: int = 1) -> Section:
    """Convolution, batch normalisation, leaky ReLU; the picture keeps its size at stride 1."""
    options = {"batch_normalize": 1, "filters": filters, "size": size, "stride": stride, "pad": 1}
    return _section("convolutional", **options, activation="leaky")


def _output(filters: int) -> Section:
    """The 1x1 convolution, with a bias, whose results are the raw values of a head."""
    return _section("convolutional", filters=filters, size=1, stride=1, pad=1, activation="linear")


def _section(kind: str, **options: Any) -> Section:
    return Section(kind, {name: str(value) for name, value in options.items()})


def _pool(stride: int = 2) -> Section:
    return _section("maxpool", size=2, stride=stride)


def _route(*layers: int) -> Section:
    return _section("route", layers=",".join(map(str, layers)))


def _listed(anchors: Sequence[float]) -> str:
    return ",".join(map(str, anchors))


# Width and height of each anchor; in cells of 32 pixels for version 2, in pixels of the input for version 3.
ANCHORS_V2_TINY_COCO = (
    0.57273, 0.677385, 1.87446, 2.06253, 3.33843, 5.47434, 7.88282, 3.52778, 9.77052, 9.16828,
)  # fmt: skip
ANCHORS_V2_TINY_VOC = (1.08, 1.19, 3.42, 4.41, 6.63, 11.38, 9.42, 5.11, 16.62, 10.52)
ANCHORS_V3_TINY = (10, 14, 23, 27, 37, 58, 81, 82, 135, 169, 344, 319)
ANCHORS_V3 = (10, 13, 16, 30, 33, 23, 30, 61, 62, 45, 59, 119, 116, 90, 156, 198, 373, 326)


# Clusters of the blood-cell pictures BCCD at 240 x 320: platelets, red cells, white cells.
ANCHORS_V3_SMALL = (21, 20, 53, 51, 105, 95)


def _residual(filters: int) -> list[Section]:
    shortcut = _section("shortcut", **{"from": -3}, activation="linear")
    return [_conv(filters // 2, 1), _conv(filters), shortcut]


def _head_v3(mask: Sequence[int], anchors: Sequence[float], num_classes: int) -> list[Section]:
    """The output convolution and the section that says what its channels mean."""
    num = len(anchors) // 2
    yolo = _section("yolo", mask=_listed(mask), anchors=_listed(anchors), classes=num_classes, num=num)
    return [_output(len(mask) * (5 + num_classes)), yolo]


@register_model(
    input_size=416, task="detection", reference="Redmon and Farhadi, YOLO9000: better, faster, stronger, 2017"
)
def yolov2_tiny(
    num_classes: int = 80, *, last: int | None = None, anchors: Sequence[float] | None = None
) -> Darknet:
    """Tiny YOLO version 2: nine convolutions, one output of 13x13 cells with 5 anchors.

    Parameters
    ----------
    num_classes : int
    last : int, optional
        Filters of the last 3x3 convolution. The published networks differ: 512 for COCO (80 classes),
        1024 for VOC (20 classes), which is also what is taken for other numbers of classes than 80.
    anchors : sequence of float, optional
        Widths and heights in cells; those of COCO for 80 classes, else those of VOC.
    """
    if last is None:
        last = 512 if num_classes == 80 else 1024
    if anchors is None:
        anchors = ANCHORS_V2_TINY_COCO if num_classes == 80 else ANCHORS_V2_TINY_VOC
    layers = [_net(416)]
    for filters in (16, 32, 64, 128, 256):
        layers += [_conv(filters), _pool()]
    layers += [_conv(512), _pool(stride=1), _conv(1024), _conv(last)]
    layers.append(_output(len(anchors) // 2 * (5 + num_classes)))
    region = _section(
        "region", anchors=_listed(anchors), classes=num_classes, num=len(anchors) // 2, softmax=1
    )
    return Darknet([*layers, region])


@register_model(
    input_size=416, task="detection", reference="Redmon and Farhadi, YOLOv3: an incremental improvement, 2018"
)
def yolov3_tiny(num_classes: int = 80) -> Darknet:
    """Tiny YOLO version 3: outputs of 13x13 and 26x26 cells with 3 anchors each."""
    layers = [_net(416)]
    for filters in (16, 32, 64, 128):
        layers += [_conv(filters), _pool()]
    layers += [_conv(256), _pool(), _conv(512), _pool(stride=1), _conv(1024)]  # numbers 8 to 12
    layers += [_conv(256, 1), _conv(512), *_head_v3((3, 4, 5), ANCHORS_V3_TINY, num_classes)]
    layers += [_route(13), _conv(128, 1), _section("upsample", stride=2), _route(-1, 8)]
    layers += [_conv(256), *_head_v3((0, 1, 2), ANCHORS_V3_TINY, num_classes)]
    return Darknet(layers)


@register_model(
    input_size=416, task="detection", reference="Redmon and Farhadi, YOLOv3: an incremental improvement, 2018"
)
def yolov3(num_classes: int = 80) -> Darknet:
    """YOLO version 3: Darknet-53, and outputs of 13x13, 26x26 and 52x52 cells with 3 anchors each."""
    layers = [_net(416), _conv(32)]
    for filters, blocks in ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4)):
        layers.append(_conv(filters, stride=2))
        for _ in range(blocks):
            layers += _residual(filters)
    for filters, mask, skip in ((512, (6, 7, 8), None), (256, (3, 4, 5), 61), (128, (0, 1, 2), 36)):
        if skip is not None:  # the last stage's features, and those of Darknet-53 at twice the resolution
            layers += [_route(-4), _conv(filters, 1), _section("upsample", stride=2), _route(-1, skip)]
        for _ in range(3):
            layers += [_conv(filters, 1), _conv(2 * filters)]
        layers += _head_v3(mask, ANCHORS_V3, num_classes)
    return Darknet(layers)


@register_model(
    input_size=(256, 336, 3),
    task="detection",
    weights={
        "bccd": Pretrained(
            file="yolov3_small_bccd.safetensors",
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
            input_size=(256, 336),
            resize=256,
            classes="bccd",
            licence="MIT",
            accuracy={"map50": 89.84},
        )
    },
    reference="Redmon and Farhadi, YOLOv3: an incremental improvement, 2018",
)
def yolov3_small(
    num_classes: int = 3,
    *,
    anchors: Sequence[float] = ANCHORS_V3_SMALL,
    masks: tuple[Sequence[int], Sequence[int]] = ((1, 2), (0,)),
) -> Darknet:
    """A small network in the manner of YOLOv3: outputs at 1/16 and 1/8; 341,640 parameters for 3 classes.

    Parameters
    ----------
    num_classes : int
    anchors : sequence of float
        Widths and heights in pixels of the input; see :func:`cnnfast.detection.kmeans_anchors`.
    masks : two sequences of int
        Which of the anchors the output at 1/16 has, and which the one at 1/8.
    """
    net = _section("net", width=336, height=256, channels=3)
    layers = [net, _conv(16, stride=2), _conv(32, stride=2), *_residual(32)]
    layers += [_conv(64, stride=2), *_residual(64), *_residual(64)]
    fine = len(layers) - 2  # the layer's number: the first section is no layer
    layers += [_conv(96, stride=2), *_residual(96), *_residual(96)]
    coarse = len(layers) - 2
    layers += [_conv(96), *_head_v3(masks[0], anchors, num_classes)]
    layers += [_route(coarse), _conv(48, 1), _section("upsample", stride=2), _route(-1, fine)]
    layers += [_conv(48, 1), _conv(64), *_head_v3(masks[1], anchors, num_classes)]
    return Darknet(layers)


# --- boxes -----------------------------------------------------------------------------------------


class Detections(NamedTuple):
    """What was found in one picture, by falling score.

    Attributes
    ----------
    boxes : ndarray, shape (K, 4)
        x1, y1, x2, y2.
    scores : ndarray, shape (K,)
    classes : ndarray of int64, shape (K,)
    """

    boxes: Array
    scores: Array
    classes: Array


def _check_output(shape: tuple[int, ...], head: Head) -> None:
    rank("decode", "output", shape, "N,H,W,C")
    if shape[3] != head.channels:
        fail("decode", f"expected {head.channels} channels", output=shape)


def _spec(
    heads: tuple[Head, ...],
    grids: tuple[tuple[int, int], ...],
    size: tuple[int, int],
    threshold: float,
    place: Letterbox | None,
) -> YoloSpec:
    """What the values of outputs of these grids mean, of heads of one kind."""
    scale, origin = ((1.0, 1.0), (0.0, 0.0)) if place is None else place.inverse
    height, width = size[0] * scale[0], size[1] * scale[1]
    found = []
    for head, (rows, columns) in zip(heads, grids, strict=True):
        # Anchors of version 3 are pixels of the input, those of version 2 are cells.
        unit = scale if head.kind == "yolo" else (height / rows, width / columns)
        found.append(YoloGrid(rows, columns, tuple([(w * unit[1], h * unit[0]) for w, h in head.anchors])))
    head = heads[0]
    return YoloSpec(
        tuple(found), head.classes, (height, width), origin, None if place is None else place.picture,
        threshold, head.softmax, head.scale_xy,
    )  # fmt: skip


def decode(output: Any, head: Head, size: Any, *, relative: bool = False) -> tuple[Array, Array, Array]:
    """All boxes of one output of a network.

    With raw values t at cell (column cx, row cy) of a grid of W columns and an anchor of width pw,
    ``bx = (sigmoid(tx) + cx) / W`` and ``bw = pw exp(tw)``, and rows and heights alike.

    Parameters
    ----------
    output : array_like, shape (N, rows, columns, anchors * (5 + classes))
        Per anchor: x, y, width, height, objectness, classes.
    head : Head
    size : int or (int, int)
        Rows and columns of the network's input.
    relative : bool
        Boxes as parts of the input, 0 to 1, instead of its pixels.

    Returns
    -------
    boxes : ndarray, shape (N, rows * columns * anchors, 4)
        x1, y1, x2, y2, not clipped; rows come first, then columns, then anchors.
    objectness : ndarray, shape (N, rows * columns * anchors)
    probabilities : ndarray, shape (N, rows * columns * anchors, classes)
        A class's score is its probability times the objectness.

    Raises
    ------
    ShapeError, DTypeError

    References
    ----------
    Redmon and Farhadi, "YOLO9000: better, faster, stronger", 2017, section 2 (with softmax over the
    classes); "YOLOv3: an incremental improvement", 2018, section 2 (with a sigmoid for each).
    """
    output = array("decode", "output", np.asarray(output))
    _check_output(output.shape, head)
    n, rows, columns = output.shape[:3]
    size = _size(size)
    whole = Letterbox((1, 1), size, size, (0, 0)) if relative else None  # a picture of a single pixel
    spec = _spec((head,), ((rows, columns),), size, 0.0, whole)
    grid = spec.grids[0]
    at = np.tile(np.arange(grid.places), n)
    boxes, objectness, probabilities = decode_places(spec, grid, output.reshape(-1, spec.values), at)
    return (
        boxes.reshape(n, grid.places, 4),
        objectness.reshape(n, grid.places),
        probabilities.reshape(n, grid.places, head.classes),
    )


def _size(size: Any) -> tuple[int, int]:
    return pair("decode", "size", tuple(size) if isinstance(size, list) else size, 1)


def detect(
    outputs: Sequence[Any],
    heads: Sequence[Head],
    size: Any,
    *,
    score_threshold: float = 0.25,
    iou_threshold: float = 0.45,
    max_detections: int = 300,
) -> list[Detections]:
    """What a YOLO network has found.

    Parameters
    ----------
    outputs : sequence of array_like or DeviceArray
        Results of the network, one per head.
    heads : sequence of Head
        ``model.heads``.
    size : int or (int, int)
        Rows and columns of the network's input.
    score_threshold : float
        A pair of box and class counts if objectness times probability is above it.
    iou_threshold : float
        Boxes of one class that overlap a better one by more are dropped.
    max_detections : int
        The best so many of each picture are kept.

    Returns
    -------
    list of Detections
        One per picture, with boxes in pixels of the network's input
        (:meth:`cnnfast.detection.Letterbox.undo` takes them back to the picture).

    Raises
    ------
    ShapeError, DTypeError

    Examples
    --------
    >>> model = cf.models.yolov3_tiny().eval()
    >>> load_darknet(model, "yolov3-tiny.weights")
    >>> frame, place = letterbox(picture / 255, 416)
    >>> found = detect(model(frame[None]), model.heads, 416)[0]
    >>> boxes = place.undo(found.boxes)
    """
    results = []
    for boxes, scores, classes in candidates(outputs, heads, size, score_threshold):
        keep = ops.batched_nms(boxes, scores, classes, iou_threshold)[:max_detections]
        results.append(Detections(boxes[keep], scores[keep], classes[keep]))
    return results


def candidates(
    outputs: Sequence[Any],
    heads: Sequence[Head],
    size: Any,
    score_threshold: float,
    place: Letterbox | None = None,
) -> list[Detections]:
    """All pairs of box and class above a threshold, before any suppression; see :func:`detect`.

    Parameters
    ----------
    place : Letterbox, optional
        Boxes are in pixels of its picture and cut at its edges, instead of the input's.

    Returns
    -------
    list of Detections
        One per picture; in the order of heads, rows, columns, anchors and classes.

    Raises
    ------
    ShapeError, DTypeError
    """
    arrays = [_values(output) for output in outputs]
    shapes = tuple([a.shape for a in arrays])
    size = tuple(size) if isinstance(size, list) else size
    decodings = _decodings(tuple(heads), shapes, size, score_threshold, place)
    results = []
    for i in range(shapes[0][0]):
        found = [_found(spec, [_one(a, i) for a in arrays[part]]) for part, spec in decodings]
        joined = found[0] if len(found) == 1 else map(np.concatenate, zip(*found, strict=True))
        results.append(Detections(*joined))
    return results


def _values(output: Any) -> Any:
    """An output of a network where it lies; on a device in float32."""
    data = output.data if isinstance(output, Tensor) else output
    on_device = isinstance(data, DeviceArray)
    return array("decode", "output", data.astype(np.float32) if on_device else np.asarray(data))


def _one(output: Any, i: int) -> Any:
    """The values of picture i."""
    on_device = isinstance(output, DeviceArray)
    return output.part(i, 1).reshape(output.shape[1:]) if on_device else output[i]


def _found(spec: YoloSpec, arrays: list[Any]) -> list[Array]:
    """Boxes, scores and classes in host memory: of outputs on a device only what is above the threshold."""
    return [r.numpy() if isinstance(r, DeviceArray) else r for r in YOLO_CANDIDATES(spec, *arrays)]


@functools.lru_cache(maxsize=64)
def _decodings(
    heads: tuple[Head, ...],
    shapes: tuple[tuple[int, ...], ...],
    size: Any,
    score_threshold: float,
    place: Letterbox | None,
) -> list[tuple[slice, YoloSpec]]:
    """Outputs that are decoded together, and how: all of them, unless their heads are of different kinds."""
    if len(shapes) != len(heads) or not heads:
        fail("detect", f"expected one output for each of {len(heads)} heads, got {len(shapes)}")
    size, threshold = _size(size), number("detect", "score_threshold", score_threshold)
    for shape, head in zip(shapes, heads, strict=True):
        _check_output(shape, head)
    if len({shape[0] for shape in shapes}) > 1:
        fail("detect", f"outputs of {[shape[0] for shape in shapes]} pictures do not belong together")
    alike = len({(head.classes, head.softmax, head.scale_xy) for head in heads}) == 1
    parts = [slice(0, len(heads))] if alike else [slice(k, k + 1) for k in range(len(heads))]
    grids = tuple([(shape[1], shape[2]) for shape in shapes])
    return [(part, _spec(heads[part], grids[part], size, threshold, place)) for part in parts]
