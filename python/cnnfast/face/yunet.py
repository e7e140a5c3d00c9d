"""Faces and their landmarks by YuNet, whose file is given."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import ops
from ..errors import ShapeError, WeightsError
from ..ops.registry import fail, number
from ..pictures import load_picture

Array = np.ndarray

__all__ = ["Faces", "YuNet", "decode_yunet"]

_STRIDES = (8, 16, 32)


@dataclass(frozen=True)
class Faces:
    """Faces of a picture, the surest first.

    Attributes
    ----------
    boxes : ndarray of float32, shape (N, 4)
        x1, y1, x2, y2 in pixels; they may reach beyond the picture.
    landmarks : ndarray of float32, shape (N, 5, 2)
        x, y of the eyes, the nose and the corners of the mouth, in both pairs first the one that is further
        left in an upright picture (the person's right).
    scores : ndarray of float32, shape (N,)
        0..1.
    """

    boxes: Array
    landmarks: Array
    scores: Array

    def __len__(self) -> int:
        return len(self.scores)


def decode_yunet(
    outputs: Any, size: tuple[int, int], *, score_threshold: float = 0.6, iou_threshold: float = 0.3
) -> Faces:
    """Faces out of what the network gives for one picture.

    At the place (r, c) of the map of stride s lies a box with its middle at ``(c + dx, r + dy) s``, of
    ``exp(dw) s`` by ``exp(dh) s``, with landmarks at ``(c + x, r + y) s``. Its score is the geometric mean of
    those of the class and of the object. Boxes that overlap a surer one are left out.

    Parameters
    ----------
    outputs : mapping of str to ndarray
        ``cls_S`` (1, P, 1), ``obj_S`` (1, P, 1), ``bbox_S`` (1, P, 4) and ``kps_S`` (1, P, 10) for the
        strides S = 8, 16, 32, with P places row by row.
    size : (int, int)
        Rows and columns of the picture that the network saw, multiples of 32.
    score_threshold, iou_threshold : float
        Less sure faces, and those that overlap more, are left out.

    Returns
    -------
    Faces

    Raises
    ------
    ShapeError

    References
    ----------
    Wu, Peng and Yu, "YuNet: a tiny millisecond-level face detector", 2023.
    """
    op = "decode_yunet"
    least, most = number(op, "score_threshold", score_threshold), number(op, "iou_threshold", iou_threshold)
    boxes, landmarks, scores = [], [], []
    for stride in _STRIDES:
        rows, columns = size[0] // stride, size[1] // stride
        parts = []
        for name, width in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)):
            part = np.asarray(outputs.get(f"{name}_{stride}", ()), np.float32)
            if part.shape != (1, rows * columns, width):
                fail(op, f"{name}_{stride} must have shape {(1, rows * columns, width)}", got=part.shape)
            parts.append(part[0])
        sure, there, box, points = parts
        score = np.sqrt(np.clip(sure, 0, 1) * np.clip(there, 0, 1))[:, 0]
        keep = np.flatnonzero(score >= least)
        place = np.stack([keep % columns, keep // columns], 1).astype(np.float32)
        middle = (place + box[keep, :2]) * stride
        half = np.exp(np.minimum(box[keep, 2:], 20)) * (stride / 2)
        boxes.append(np.concatenate([middle - half, middle + half], 1))
        landmarks.append((place[:, None] + points[keep].reshape(-1, 5, 2)) * stride)
        scores.append(score[keep])
    box, points, score = (np.concatenate(part).astype(np.float32) for part in (boxes, landmarks, scores))
    kept = ops.nms(box, score, most)
    return Faces(box[kept], points[kept], score[kept])


class YuNet:
    """Detector of faces.

    Parameters
    ----------
    path : str or os.PathLike
        ``yunet_n_dynamic.onnx``, or another ONNX file of the network that takes pictures of any size.
    score_threshold, iou_threshold : float
        As of :func:`decode_yunet`.
    longest : int
        Larger pictures are shrunk until their longer side has so many pixels; faces of fewer than ten pixels
        of what is left are not found.

    Raises
    ------
    WeightsError
        If the file holds another network.
    OSError
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        score_threshold: float = 0.6,
        iou_threshold: float = 0.3,
        longest: int = 1280,
    ) -> None:
        from .. import onnx

        self.name = os.fspath(path)
        self.score_threshold, self.iou_threshold, self.longest = score_threshold, iou_threshold, longest
        self.model = onnx.load(path).eval()
        wanted = {f"{part}_{stride}" for part in ("cls", "obj", "bbox", "kps") for stride in _STRIDES}
        if not wanted <= set(self.model.output_names):
            raise WeightsError(
                f"{self.name}: expected YuNet with outputs cls_8 ... kps_32, "
                f"got {', '.join(self.model.output_names[:12])}"
            )

    def __call__(self, picture: Any) -> Faces:
        """The faces of a picture.

        Parameters
        ----------
        picture : str, os.PathLike or ndarray, shape (H, W, 3)
            A file, or RGB in 0..255.

        Returns
        -------
        Faces
            In pixels of the picture.

        Raises
        ------
        PictureError, ShapeError, OSError
        """
        if isinstance(picture, (str, os.PathLike)):
            picture = load_picture(picture)
        pixels = np.asarray(picture, np.float32)
        if pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
            raise ShapeError(f"YuNet: expected a picture (H,W,3), got {pixels.shape}")
        h, w = pixels.shape[:2]
        shrink = min(1.0, self.longest / max(h, w))
        inner = max(1, round(h * shrink)), max(1, round(w * shrink))
        pixels = pixels[..., ::-1]  # the network has seen BGR
        if inner != (h, w):
            pixels = ops.resize(np.ascontiguousarray(pixels)[None], inner, antialias=True)[0]
        rows, columns = (-(-n // 32) * 32 for n in inner)
        frame = np.zeros((1, rows, columns, 3), np.float32)
        frame[0, : inner[0], : inner[1]] = pixels
        faces = decode_yunet(
            self.model(frame),
            (rows, columns),
            score_threshold=self.score_threshold,
            iou_threshold=self.iou_threshold,
        )
        back = np.array([w / inner[1], h / inner[0]], np.float32)
        return Faces(faces.boxes * np.tile(back, 2), faces.landmarks * back, faces.scores)
