"""Gradients of overlaps, of boxes in other notations, and of regions of interest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cnnfast as cf
from cnnfast import ops
from cnnfast.errors import ShapeError
from cnnfast.ops.boxes import infer_box_iou_grad
from cnnfast.ops.roi import infer_roi_grad, infer_roi_pool_grad

KINDS = ("iou", "giou", "diou", "ciou")


def overlap(a: Any, b: Any, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of the sum of all overlaps."""
    x, y = (cf.Tensor(np.array(v, float), requires_grad=True) for v in (a, b))
    ops.reduce_sum(ops.box_iou(x, y, kind=kind)).backward()
    return x.grad, y.grad


@pytest.mark.parametrize("kind", KINDS)
def test_empty_and_distant_boxes(kind: str) -> None:
    a = np.array([[0, 0.1, 3.2, 2.3], [5.1, 5.2, 4.3, 7.4], [1.1, 1.2, 1.6, 4.1]])
    b = np.array([[10, 11, 13, 12], [0.5, 0.25, 2, 5], [3, 3.3, 2.1, 2.4]])
    assert cf.gradcheck(lambda x, y: ops.box_iou(x, y, kind=kind), a, b)


def test_overlap_by_hand() -> None:
    # Intersection 1, union 7: d(iou) = (7 dI - dU) / 49.
    a, b = overlap([[0, 0, 2, 2]], [[1, 1, 3, 3]], "iou")
    assert np.allclose(a * 49, [[2, 2, 6, 6]])
    assert np.allclose(b * 49, [[-6, -6, -2, -2]])


@pytest.mark.parametrize("kind", KINDS)
def test_a_box_on_itself_is_in_balance(kind: str) -> None:
    """Equal coordinates share a gradient, so both boxes are asked for the same, mirrored."""
    a, b = overlap([[1, 2, 4, 7]], [[1, 2, 4, 7]], kind)
    assert np.isfinite(a).all()
    assert np.allclose(a, b)
    assert np.allclose(a[0, :2], -a[0, 2:])


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_descent_brings_boxes_together(kind: str) -> None:
    box = cf.Tensor(np.array([[0.0, 0.0, 3.0, 2.0]]), requires_grad=True)
    target = np.array([[1.0, 1.0, 3.0, 4.0]])
    for _ in range(400):
        box.grad = None
        ops.reduce_sum(ops.box_iou(box, target, kind=kind)).backward()
        box.data = box.data + 0.1 * box.grad
    assert ops.box_iou(box.data, target)[0, 0] > 0.9


@pytest.mark.parametrize("source", ["xyxy", "xywh", "cxcywh"])
@pytest.mark.parametrize("target", ["xyxy", "xywh", "cxcywh"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_conversion_of_tensors(source: str, target: str, dtype: Any) -> None:
    boxes = np.random.default_rng(0).uniform(0, 9, (2, 3, 4)).astype(dtype)
    tensor = cf.Tensor(boxes, requires_grad=True)
    converted = ops.box_convert(tensor, source, target)
    assert np.array_equal(converted.data, ops.box_convert(boxes, source, target))
    if dtype is np.float64:
        assert cf.gradcheck(lambda x: ops.box_convert(x, source, target), boxes)


def test_regions_share_pixels_in_a_fixed_order(backend: str) -> None:
    x = np.random.default_rng(0).standard_normal((1, 6, 7, 3)).astype(np.float32)
    box = np.array([[0, 1, 1, 5, 4]], np.float32)
    for call in (ops.roi_pool, ops.roi_align):
        found = []
        for times in (1, 3):
            tensor = cf.Tensor(x, requires_grad=True)
            ops.reduce_sum(call(tensor, np.repeat(box, times, 0), 2)).backward()
            found.append(tensor.grad)
        np.testing.assert_allclose(found[1], 3 * found[0], rtol=1e-6)


def test_ties_and_empty_bins_of_regions() -> None:
    x = cf.Tensor(np.zeros((1, 4, 4, 1)), requires_grad=True)
    boxes = np.array([[0, 0, 0, 3, 3], [0, 20, 20, 30, 30]], float)
    ops.reduce_sum(ops.roi_pool(x, boxes, 2)).backward()
    assert np.argwhere(x.grad[0, :, :, 0]).tolist() == [[0, 0], [0, 2], [2, 0], [2, 2]]
    assert x.grad.sum() == 4


def test_boxes_of_regions_have_no_gradient() -> None:
    x = cf.Tensor(np.ones((1, 4, 4, 1)), requires_grad=True)
    boxes = cf.Tensor(np.array([[0, 0.5, 0.5, 3, 3]]), requires_grad=True)
    ops.reduce_sum(ops.roi_align(x, boxes, 2)).backward()
    assert x.grad is not None
    assert boxes.grad is None


def test_shapes_of_gradients_are_checked() -> None:
    with pytest.raises(ShapeError, match=r"box_iou_grad: the gradient must have shape \(2,3\) \(g \(3,2\)\)"):
        infer_box_iou_grad((2, 4), (3, 4), (3, 2))
    for infer in (infer_roi_grad, infer_roi_pool_grad):
        assert infer((1, 4, 4, 2), (3, 5), (3, 2, 2, 2)).out == (3, 2, 2, 2)
        with pytest.raises(ShapeError, match="the shape of the result"):
            infer((1, 4, 4, 2), (3, 5), (2, 2, 2, 2))
