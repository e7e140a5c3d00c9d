"""Where things are in a picture: boxes, grids, anchors, and what belongs to which pixel."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .. import losses, models, ops
from ..detection import (
    LandmarkHead,
    LocalisationHead,
    SlidingWindows,
    coco_summary,
    kmeans_anchors,
    letterbox,
    selective_search,
    suppress,
    voc_precision,
)
from ..detection.assignment import assign, decode_grid, encode_grid
from ..graph.summary import summary
from ..models.convolutional import fully_convolutional
from ..models.darknet import Head
from ..models.yolo import Detections, decode
from ..segmentation import Segmenter, confusion_matrix, mean_iou, pixel_accuracy
from . import Chapter, Fact
from .foundations import matrix, picture, plane

CHAPTER = Chapter()


@CHAPTER.row("D1", "localisation: y = [pc, bx, by, bh, bw, c1 .. cn]")
def localisation() -> Iterator[Fact]:
    x = np.array([[0.9, 0.5, 0.4, 0.3, 0.2, 0.7, 0.2, 0.1]] * 2)
    target = np.array([[1, 0.5, 0.5, 0.5, 0.5, 1, 0, 0], [0, 9, 9, 9, 9, 9, 9, 9.0]])
    cost = losses.localisation(x, target, reduction="none").data
    yield Fact("3 classes: outputs", 8, LocalisationHead(16, 3).out_features)
    yield Fact("pc = 1: every term counts", 0.01 + 0.01 + 0.04 + 0.09 + 0.09 + 0.04 + 0.01, cost[0], 1e-12)
    yield Fact("pc = 0: only (yhat1 - y1)^2", 0.81, cost[1], 1e-12)
    mixed = losses.localisation_mixed(x, target, reduction="none").data
    there, nothing = np.log1p(np.exp(-0.9)), np.log1p(np.exp(0.9))
    kind = np.log(np.exp([0.7, 0.2, 0.1]).sum()) - 0.7
    there += 0.01 + 0.04 + 0.09 + kind
    yield Fact("mixed: logistic, squared and log loss", [there, nothing], mixed, 1e-6)
    y = LocalisationHead.encode([[0.1, 0.2, 0.3, 0.8]], [2], 3)
    yield Fact("height before width", [[1, 0.2, 0.5, 0.6, 0.2, 0, 0, 1]], y, 1e-6)


@CHAPTER.row("D2", "landmarks: 1 + 2 n outputs")
def landmarks() -> Iterator[Fact]:
    y = np.zeros((1, LandmarkHead(16, 64).out_features))
    y[0, 0] = 1
    x = y.copy()
    x[0, 0], x[0, 128] = 50, 3  # sure that there is a face, the last point off by 3
    yield Fact("64 landmarks: outputs", 129, y.shape[1])
    yield Fact("the last one counts", 9.0, float(losses.landmarks(x, y).data), 1e-6)


@CHAPTER.row("D3", "sliding windows as one convolutional network")
def windows() -> Iterator[Fact]:
    model = models.window_net(seed=5).eval()
    sliding = fully_convolutional(model)
    shapes = [r.shape[1:] for r in summary(sliding, (14, 14, 3)).rows if "ReLU" not in r.kind and r.shape]
    expected = "10x10x16 5x5x16 1x1x400 1x1x400 1x1x4"
    yield Fact("14x14x3", expected, " ".join("x".join(map(str, s)) for s in shapes))
    rng = np.random.default_rng(3)
    for size, places in ((14, 1), (16, 2), (28, 8)):
        x = rng.random((1, size, size, 3), np.float32)
        y = sliding(x)
        yield Fact(f"{size}x{size}x3", (places, places, 4), y.shape[1:])
    crops = [[model(np.ascontiguousarray(x[:, i : i + 14, j : j + 14]))[0] for j in range(0, 16, 2)]
             for i in range(0, 16, 2)]  # fmt: skip
    yield Fact("equal to cropping every window", crops, y[0], 1e-5)
    one, other = (
        SlidingWindows(model, (14, 14, 3), scales=(1, 0.5), background=None, convolutional=convolutional,
                       score_threshold=0, iou_threshold=1)(x[0]).scores
        for convolutional in (True, False)
    )  # fmt: skip
    yield Fact("scales 1 and 1/2: 8 x 8 windows and one, 4 classes each", 260, len(one))
    yield Fact("equal to cropping at both scales", np.sort(other), np.sort(one), 1e-5)


@CHAPTER.row("D4", "YOLO: encoding and decoding")
def yolo() -> Iterator[Fact]:
    box = np.array([[100.0, 50.0, 300.0, 250.0]])
    target, _ = encode_grid([box], [np.array([3])], 7, 20, 448)
    v1 = (*target.shape[1:3], target.shape[3] + 5)  # targets have one box of a cell, outputs two
    yield Fact("v1, 20 classes, 2 boxes each", (7, 7, 30), v1)
    roots = target.copy()
    roots[..., 2:4] **= 0.5  # which is what the network gives
    back, sure, _ = decode_grid(roots, 1, 448)
    yield Fact("v1: encoded and decoded, parts of the picture", box / 448, back[sure > 0] / 448, 1e-6)
    for cells, anchors, classes in ((3, 2, 3), (19, 5, 80)):
        head = Head("region", ((1.0, 1.5),) * anchors, classes)
        targets = assign([box], [np.array([2])], [head], [(cells, cells)], 608).targets[0]
        yield Fact(f"{cells}x{cells} cells, {anchors} anchors, {classes} classes",
                   (cells, cells, anchors, 5 + classes), targets.shape[1:])  # fmt: skip
    head = Head("region", ((2.0, 3.0),), 1)
    raw = np.zeros((1, 4, 4, 6))
    raw[0, 1, 2, :4] = 0.3, -0.4, 0.5, -0.6
    boxes = decode(raw, head, 128)[0].reshape(4, 4, 4)[1, 2]
    centre = (1 / (1 + np.exp(-raw[0, 1, 2, :2])) + (2, 1)) * 32
    side = np.exp(raw[0, 1, 2, 2:4]) * (2, 3) * 32
    expected = np.concatenate([centre - side / 2, centre + side / 2])
    yield Fact("bx = sigmoid(tx) + cx, bw = pw exp(tw)", expected, boxes, 1e-6)
    raw[0, ..., 4:] = -50
    raw[0, 1, 2, 4:] = 50
    found = ops.yolo_candidates([raw[0]], [[(64, 96)]], 1, 128)
    yield Fact("what is left above a threshold", expected[None], found[0], 1e-6)


@CHAPTER.row("D5", "intersection over union")
def overlap() -> Iterator[Fact]:
    a, b = np.array([[2.0, 1, 4, 3]]), np.array([[1.0, 2, 3, 4]])
    yield Fact("(2,1,4,3) and (1,2,3,4)", 1 / 7, float(ops.box_iou(a, b)[0, 0]), 1e-12)
    empty = np.array([[1.0, 1, 1, 1]])
    for kind in ("iou", "giou", "diou", "ciou"):
        yield Fact(f"{kind} of a box with itself", 1.0, float(ops.box_iou(a, a, kind=kind)[0, 0]), 1e-6)
    yield Fact("empty boxes: 0, never NaN", 0.0, float(ops.box_iou(empty, empty)[0, 0]))
    for form, box in (("xywh", [[2.0, 1, 2, 2]]), ("cxcywh", [[3.0, 2, 2, 2]])):
        yield Fact(f"the same box as {form}", box, ops.box_convert(a, "xyxy", form))


@CHAPTER.row("D6", "non-maximum suppression")
def suppression() -> Iterator[Fact]:
    boxes = np.array([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30], [0, 0, 10, 10]], np.float32)
    scores = np.array([0.9, 0.8, 0.9, 0.9], np.float32)
    yield Fact("IoU over .5 goes; of equal scores the first stays", [0, 2], ops.nms(boxes, scores, 0.5))
    sure = np.flatnonzero(np.array([0.9, 0.6, 0.61, 0.3]) > 0.6)
    kept = sure[ops.nms(boxes[sure], scores[sure], 0.5)]
    yield Fact("what is at most .6 sure is dropped before", [0, 2], kept)
    classes = np.array([0, 1, 0, 0])
    yield Fact("classes do not meet", [0, 2, 1], ops.batched_nms(boxes, scores, classes, 0.5))
    pair = Detections(boxes[:2], scores[:2], classes[:2] * 0)
    soft = suppress(pair, method="soft").scores
    yield Fact("soft: the second is .9 over the first", [0.9, 0.8 * np.exp(-(0.9**2) / 0.5)], soft, 1e-6)
    mean = suppress(pair, method="weighted", iou_threshold=0.5).boxes
    yield Fact("weighted: the mean of both", [[0, 0, 10, (0.9 * 10 + 0.8 * 9) / 1.7]], mean, 1e-5)


@CHAPTER.row("D7", "assignment to the cell and the anchor with the best overlap")
def assignment() -> Iterator[Fact]:
    heads = [Head("yolo", ((32.0, 32.0), (64.0, 32.0)), 1)]
    boxes = np.array([[40.0, 40, 72, 72], [41, 41, 73, 73]])
    made = assign([boxes], [np.zeros(2, np.int64)], heads, [(4, 4)], 128)
    yield Fact("two objects on one cell and anchor: reported", 1, len(made.collisions))
    wider = np.array([[0.0, 0, 0, 0], [0, 0, 32, 0]])
    apart = assign([boxes + wider], [np.zeros(2, np.int64)], heads, [(4, 4)], 128)
    taken = [int(i) for i in np.flatnonzero(apart.targets[0][..., 4].any((0, 1, 2)))]
    yield Fact("of two shapes each has the anchor it overlaps best", [0, 1], taken)
    sizes = np.array([[10.0, 10], [10, 10], [40, 20], [40, 20], [40, 20]])
    found = kmeans_anchors(sizes, 2)
    yield Fact("k-means: two shapes, two anchors", [[10, 10], [40, 20]], found.anchors, 1e-6)


@CHAPTER.row("D8", "letterbox and back, and how good a detector is")
def frame() -> Iterator[Fact]:
    _, where = letterbox(np.zeros((480, 640, 3), np.float32), (608, 608))
    boxes = np.array([[12.0, 34.0, 560.0, 470.0]])
    inside = where.apply(boxes)
    yield Fact("boxes come back within a pixel", boxes, where.undo(inside), 1.0)
    objects = [(np.array([[0.0, 0, 10, 10], [20, 20, 30, 30]]), np.zeros(2, np.int64))]
    guesses = np.array([[0.0, 0, 10, 10], [50, 50, 60, 60], [20, 20, 30, 30]])
    found = [Detections(guesses, np.array([0.9, 0.8, 0.7]), np.zeros(3, np.int64))]
    # Right, wrong, right: precision 1 up to half of the objects, then 2/3.
    yield Fact("average precision of VOC", 0.5 + 0.5 * 2 / 3, voc_precision(found, objects, 1).mean, 1e-12)
    coco = (51 + 50 * 2 / 3) / 101
    yield Fact("of COCO, at 101 recalls", coco, coco_summary(found, objects, 1).ap50, 1e-12)


@CHAPTER.row("D9", "regions: selective search, pooling, and networks that propose")
def regions() -> Iterator[Fact]:
    seen = np.zeros((40, 60, 3), np.float32)
    seen[8:24, 10:40] = (200, 40, 40)
    proposed = np.asarray(selective_search(seen), np.float32)
    best = ops.box_iou(proposed, np.array([[10, 8, 40, 24]], np.float32)).max()
    yield Fact("selective search proposes a rectangle: IoU", 1.0, float(best), 0.1)
    x = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
    rounded, exact = np.array([[[0, 0, 0, 3, 3]], [[0, 0, 0, 4, 4]]], np.float32)
    yield Fact("RoI pooling of 4x4 to 2x2", matrix("5 7 / 13 15"), ops.roi_pool(x, rounded, 2)[0, ..., 0])
    aligned = ops.roi_align(x, exact, 2, sampling_ratio=2, aligned=True)
    yield Fact("RoIAlign of 4x4 to 2x2", matrix("2.5 4.5 / 10.5 12.5"), aligned[0, ..., 0], 1e-6)
    model = models.create_model("fasterrcnn_vgg16")
    yield Fact("Faster R-CNN: anchors at each place", 9, model.rpn.head.cls_logits.out_channels)


@CHAPTER.row("D10", "SSD300")
def ssd() -> Iterator[Fact]:
    table = summary(models.create_model("ssd300"), (300, 300, 3))
    yield Fact("boxes", 8732, table.rows[-1].shape[1])  # type: ignore[index]
    yield Fact("parameters, 21 classes", 26_285_486, table.parameters)


@CHAPTER.row("S1", "an encoder and a decoder of transpose convolutions")
def segnet() -> Iterator[Fact]:
    model = models.create_model("segnet_vgg16", num_classes=5)
    yield Fact("encoder: parameters", 14_714_688, sum(p.size for p in model.features.parameters()))
    yield Fact("224x160 in and out", (224, 160, 5), summary(model, (224, 160, 3)).rows[-1].shape[1:])  # type: ignore[index]


@CHAPTER.row("S2", "U-Net")
def unet() -> Iterator[Fact]:
    for c_in, c_out, count in ((1, 1, 31_030_593), (1, 2, 31_030_658), (3, 21, 31_033_045)):
        model = models.create_model("unet", num_classes=c_out, in_channels=c_in)
        yield Fact(f"{c_in} -> {c_out}: parameters", count, sum(p.size for p in model.parameters()))
    valid = models.create_model("unet", in_channels=1, padding="valid")
    yield Fact("valid padding, 572 x 572", (388, 388), summary(valid, (572, 572, 1)).rows[-1].shape[1:3])  # type: ignore[index]


@CHAPTER.row("S3", "transpose convolution")
def transpose() -> Iterator[Fact]:
    x = picture("2 1 / 3 2")
    w = matrix("1 2 1 / 2 0 1 / 0 2 1")[:, :, None, None]
    y = ops.conv2d_transpose(x, w, stride=2, padding=1, output_padding=1)
    yield Fact("s=2 p=1, output_padding 1", matrix("0 4 0 1 / 10 7 6 3 / 0 7 0 2 / 6 3 4 2"), plane(y))
    y = ops.conv2d_transpose(x, w, stride=2, padding=1)
    yield Fact("s=2 p=1", (3, 3), y.shape[1:3])
    y = ops.conv2d_transpose(x, w, stride=2)
    yield Fact("s=2: overlaps add up to the whole", (5, 5), y.shape[1:3])
    yield Fact("its sum", float(x.sum() * w.sum()), float(y.sum()))
    other = np.random.default_rng(4).integers(-4, 5, y.shape).astype(np.float32)
    here, there = float((ops.conv2d(other, w, stride=2) * x).sum()), float((other * y).sum())
    yield Fact("the adjoint: <conv u, x> = <u, conv' x>", here, there)


@CHAPTER.row("S4", "losses of pixels")
def pixels() -> Iterator[Fact]:
    labels = np.array([[0, 1, 1, 0]])
    sure = np.where(labels[..., None] == np.arange(2), 50.0, -50.0)
    for name in ("cross_entropy", "dice", "focal"):
        cost = getattr(losses, name)(sure, labels)
        yield Fact(f"{name} where every pixel is right", 0.0, float(cost.data), 1e-6)
    counts = confusion_matrix([0, 0, 1, 1], [0, 1, 1, 1], 2)
    yield Fact("pixel accuracy, 3 of 4", 0.75, pixel_accuracy(counts))
    yield Fact("mean IoU of 1/2 and 2/3", 7 / 12, mean_iou(counts), 1e-12)
    net = models.create_model("unet_small").eval()
    yield Fact("37 x 53 pixels in and out", (37, 53), Segmenter(net)(np.zeros((37, 53), np.uint8)).shape)
