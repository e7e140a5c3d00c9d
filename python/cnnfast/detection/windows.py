"""Sliding windows: a classifier at every place and scale of a picture, one by one or all at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import ops
from ..errors import ShapeError
from ..graph.trace import trace
from ..models.convolutional import fully_convolutional
from ..ops.registry import array, fail, number, pair, rank
from ..tensor import no_grad
from .boxes import clip_boxes
from .suppression import suppress

if TYPE_CHECKING:
    from ..models.yolo import Detections
    from ..nn.module import Module

Array = np.ndarray

__all__ = ["SlidingWindows", "window_boxes"]


def window_boxes(grid: tuple[int, int], window: tuple[int, int], step: tuple[int, int]) -> Array:
    """The windows of a grid.

    Parameters
    ----------
    grid, window, step : (int, int)
        Rows and columns of windows, of one window, and between windows.

    Returns
    -------
    ndarray of float32, shape (P * Q, 4)
        x1, y1, x2, y2; rows come first.
    """
    y, x = (np.arange(n, dtype=np.float32) * s for n, s in zip(grid, step, strict=True))
    corner = np.stack(np.broadcast_arrays(x, y[:, None]), -1).reshape(-1, 2)
    return np.concatenate([corner, corner + np.array(window[::-1], np.float32)], 1)


class SlidingWindows:
    """A classifier of windows as a detector.

    Parameters
    ----------
    model : Module
        (N, H, W, C) windows to (N, classes) scores; it is set to evaluation mode.
    window : (int, int, int)
        Rows, columns and channels of a window.
    scales : sequence of float
        The picture is resized by each: 0.5 finds what is twice as large as a window.
    background : int or None
        The class that stands for nothing; it is never found.
    convolutional : bool
        Whether the network slides itself, so that what windows share is computed once
        (:func:`cnnfast.fully_convolutional`); or each window is cut out. The results are equal but for
        rounding.
    step : int or (int, int), optional
        Pixels between windows that are cut out; for the convolutional form it is the product of the
        network's strides, which is also what is taken where it is left out.
    score_threshold, iou_threshold : float

    Raises
    ------
    ShapeError
        If the network pads or only works for one size, so that it has no convolutional form, or another step
        is asked for than it has.

    References
    ----------
    Sermanet et al., "OverFeat: integrated recognition, localization and detection using convolutional
    networks", 2014, section 3.5.
    """

    def __init__(
        self,
        model: Module,
        window: tuple[int, int, int],
        *,
        scales: Sequence[float] = (1.0,),
        background: int | None = 0,
        convolutional: bool = True,
        step: Any = None,
        score_threshold: float = 0.5,
        iou_threshold: float = 0.3,
    ) -> None:
        op = "SlidingWindows"
        if len(window) != 3 or min(window) < 1:
            fail(op, f"expected rows, columns and channels of a window, got {window}")
        if not scales or min(number(op, "scales", scale) for scale in scales) <= 0:
            fail(op, f"expected scales above 0, got {tuple(scales)}")
        self.model, self.scales = model.eval(), tuple(scales)
        self.window = window[0], window[1], window[2]
        self.background, self.convolutional = background, convolutional
        self.score_threshold, self.iou_threshold = score_threshold, iou_threshold
        self.step: tuple[int, int] = (1, 1) if step is None else pair(op, "step", step, 1)
        if convolutional or step is None:
            self._sliding = fully_convolutional(model, self.window).eval()
            own = self._own_step()
            if convolutional and step is not None and self.step != own:
                fail(op, f"expected the network's own step {own}, got {self.step}")
            self.step = own

    def _own_step(self) -> tuple[int, int]:
        """How many pixels more give one more result, along each axis."""
        found = []
        for axis in (0, 1):
            sizes: list[int] = []  # the first to give two, and three
            for more in range(1, 2049):
                shape = [1, *self.window]
                shape[1 + axis] += more
                if trace(self._sliding, tuple(shape)).outputs[0].shape[1 + axis] > 1 + len(sizes):
                    sizes.append(more)
                    if len(sizes) == 2:
                        break
            else:
                raise ShapeError("SlidingWindows: expected a step of at most 1024 pixels, got a larger one")
            found.append(sizes[1] - sizes[0])
        return found[0], found[1]

    def scores(self, picture: Any) -> Array:
        """What the network says of every window of a picture, at its own scale.

        Parameters
        ----------
        picture : array_like, shape (H, W, C)
            Prepared as the network wants its windows.

        Returns
        -------
        ndarray, shape (P, Q, classes)
            Before any softmax; without rows or columns where the picture is smaller than a window.
        """
        picture = array("SlidingWindows", "picture", picture)
        rank("SlidingWindows", "picture", picture.shape, "H,W,C")
        h, w, channels = self.window
        if picture.shape[2] != channels:
            fail("SlidingWindows", f"expected {channels} channels", picture=picture.shape)
        p, q = (max(0, (n - m) // s + 1) for n, m, s in zip(picture.shape, (h, w), self.step, strict=False))
        with no_grad():
            if not p or not q:
                classes = np.asarray(self.model(np.zeros((1, *self.window), picture.dtype))).shape[-1]
                return np.empty((p, q, classes), picture.dtype)
            if self.convolutional:
                return np.asarray(self._sliding(picture[None])[0])[:p, :q]
            every = np.lib.stride_tricks.sliding_window_view(picture, (h, w), (0, 1))
            chosen = every.transpose(0, 1, 3, 4, 2)[:: self.step[0], :: self.step[1]]
            return np.stack([np.asarray(self.model(np.ascontiguousarray(row))) for row in chosen])

    def __call__(self, picture: Any) -> Detections:
        """What is found in a picture at all scales.

        Returns
        -------
        Detections
            Windows in pixels of the picture whose softmax exceeds the threshold, after suppression of each
            class across all scales.
        """
        from ..models.yolo import Detections

        picture = array("SlidingWindows", "picture", picture)
        rank("SlidingWindows", "picture", picture.shape, "H,W,C")
        parts = [Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64))]
        for scale in self.scales:
            size = max(1, round(picture.shape[0] * scale)), max(1, round(picture.shape[1] * scale))
            resized = picture
            if size != picture.shape[:2]:
                resized = ops.resize(picture[None], size, antialias=True)[0]
            probability = ops.softmax(self.scores(resized))
            p, q, classes = probability.shape
            boxes = window_boxes((p, q), self.window[:2], self.step)
            back = np.array([picture.shape[1] / size[1], picture.shape[0] / size[0]] * 2, np.float32)
            which, kinds = np.nonzero(probability.reshape(-1, classes) > self.score_threshold)
            keep = kinds != self.background
            which, kinds = which[keep], kinds[keep]
            scores = probability.reshape(-1, classes)[which, kinds]
            parts.append(Detections(boxes[which] * back, scores.astype(np.float32), kinds))
        boxes, found, kinds = (np.concatenate(part) for part in zip(*parts, strict=True))
        every = Detections(clip_boxes(boxes, picture.shape[:2]), found, kinds)
        return suppress(every, iou_threshold=self.iou_threshold)
