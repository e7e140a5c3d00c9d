"""From pictures to encodings of length 1, by any network that makes them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..data.preprocess import Preprocess
from ..errors import PictureError, ShapeError, WeightsError
from ..nn.module import Module
from ..ops.registry import integer
from ..pictures import load_picture
from .alignment import align
from .yunet import Faces

Array = np.ndarray

__all__ = ["Encoder", "load_encoder"]


class Encoder:
    """Pictures to encodings.

    Parameters
    ----------
    model : Module
        A batch of pictures to encodings (N, D); put in evaluation mode.
    preprocess : Preprocess
        How a picture becomes what the network takes.
    detector : callable, optional
        Such as :class:`cnnfast.face.YuNet`: pictures to :class:`cnnfast.face.Faces`. The largest face of each
        picture is then aligned by its landmarks and encoded, in place of the picture as it is.
    aligned : int
        Rows and columns of an aligned face, before ``preprocess``.
    shift : int
        With more than 0 each picture is encoded nine times, moved by so many pixels of the network's input
        up, down, left and right with its border repeated, and the mean of the nine is taken: better for
        networks that are not indifferent to a shift, at nine times the work.
    batch : int
        Pictures that the network is given at a time; files may fix that.

    Attributes
    ----------
    fingerprint : str
        Digest of all that decides about the encodings: weights, preprocessing, and whether faces are aligned.
        Encodings of different encoders cannot be compared.
    """

    def __init__(
        self,
        model: Module,
        preprocess: Preprocess,
        *,
        detector: Callable[[Any], Faces] | None = None,
        aligned: int = 112,
        shift: int = 0,
        batch: int = 16,
    ) -> None:
        self.shift = integer("Encoder", "shift", shift, 0, 1000)
        self.batch = integer("Encoder", "batch", batch, 1)
        self.model, self.preprocess = model.eval(), preprocess
        self.detector, self.aligned = detector, aligned
        digest = hashlib.sha256(repr((preprocess, None if detector is None else aligned, shift)).encode())
        state = model.state_dict()
        for name in sorted(state):
            digest.update(f"{name} {state[name].dtype.str} {state[name].shape}\n".encode())
            digest.update(np.ascontiguousarray(state[name]).tobytes())
        self.fingerprint = digest.hexdigest()

    def __call__(self, pictures: Any) -> Array:
        """Encodings of pictures.

        Parameters
        ----------
        pictures : one picture, or a list or tuple of them
            Each is the path of a file, or uint8 values (H, W), (H, W, 1) or (H, W, 3), RGB.

        Returns
        -------
        ndarray of float32, shape (N, D)
            Each of length 1. With the kernels the bits do not depend on the other pictures.

        Raises
        ------
        PictureError
            If a picture cannot be read, or no face is found in it where a detector is given.
        ShapeError
            If the network gives no finite encodings (N, D).
        OSError
        """
        many = pictures if isinstance(pictures, (list, tuple)) else [pictures]
        if not many:
            raise PictureError("Encoder: expected at least one picture")
        return self.encode([self.seen(picture) for picture in many])

    def seen(self, picture: Any) -> Array:
        """What is encoded of a picture, uint8 (H, W, C): its largest face, or all of it."""
        pixels = _pixels(picture, self.preprocess.channels)
        if self.detector is None:
            return pixels
        found = self.faces(pixels)
        if not len(found[0]):
            name = f"{os.fspath(picture)}: " if isinstance(picture, (str, os.PathLike)) else ""
            raise PictureError(f"{name}expected a face in the picture, found none")
        boxes = found[0].boxes
        sizes = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        return found[1][int(sizes.argmax())]

    def faces(self, picture: Any) -> tuple[Faces, list[Array]]:
        """All faces that the detector finds, and each of them aligned: uint8 (aligned, aligned, 3)."""
        if self.detector is None:
            raise ValueError("Encoder.faces: expected an encoder with a detector, got one without")
        pixels = _pixels(picture, 3)
        found = self.detector(pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2))
        return found, [align(pixels, points, self.aligned) for points in found.landmarks]

    def encode(self, seen: Sequence[Array]) -> Array:
        """Encodings (N, D) of what :meth:`seen` and :meth:`faces` give."""
        moves = range(-self.shift, self.shift + 1, self.shift or 1)
        made = []
        for first in range(0, len(seen), self.batch):
            x = self.preprocess(list(seen[first : first + self.batch]))
            made.append(sum(self._encoded(_moved(x, down, right)) for down in moves for right in moves))
        f = np.concatenate(made)
        length = np.sqrt(np.square(f, dtype=np.float64).sum(1, keepdims=True))
        if not np.isfinite(length).all() or not length.all():
            raise ShapeError("Encoder: expected finite encodings with a length, got others")
        return (f / length).astype(np.float32)

    def _encoded(self, x: Array) -> Array:
        y = np.asarray(self.model(x))
        if y.ndim != 2 or len(y) != len(x) or not y.shape[1]:
            raise ShapeError(f"Encoder: expected encodings (N,D) of the network, got {y.shape}")
        return y


def _moved(x: Array, down: int, right: int) -> Array:
    """Pictures (N, H, W, C) moved by a few pixels, the border repeated."""
    rows, columns = (np.arange(n) - by for n, by in ((x.shape[1], down), (x.shape[2], right)))
    return x[:, rows.clip(0, x.shape[1] - 1)][:, :, columns.clip(0, x.shape[2] - 1)]


def _pixels(picture: Any, channels: int) -> Array:
    """uint8 (H, W, C)."""
    if isinstance(picture, (str, os.PathLike)):
        return np.rint(load_picture(picture, channels=channels)).astype(np.uint8)
    pixels = np.asarray(picture)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or not pixels.size:
        raise PictureError(
            f"Encoder: expected a path or uint8 (H,W), (H,W,1) or (H,W,3), got {pixels.dtype} {pixels.shape}"
        )
    return pixels


def load_encoder(
    name: str | os.PathLike[str],
    weights: Any = None,
    *,
    input_size: tuple[int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    detector: Callable[[Any], Faces] | None = None,
    shift: int = 0,
) -> Encoder:
    """An encoder by name or from a file.

    Parameters
    ----------
    name : str or os.PathLike
        A registered network (``"character_encoder"``, ``"nn4_small2"``, ``"inception_resnet_v1"``), or an
        ONNX file.
    weights : str or os.PathLike, optional
        A file (safetensors, npz, torch's), or published weights by name, for a registered network. The
        weights that come with the package where it is left out and there are some.
    input_size : (int, int), optional
        Rows and columns; those of the weights, or of the file where it fixes them.
    mean, std : sequence of float, optional
        Of values in 0..1, for each channel or for all; those of the weights. For an ONNX file 0.5 and 0.5:
        pixels in -1..1. nn4.small2 takes pixels in 0..1.
    detector, shift
        As of :class:`Encoder`.

    Returns
    -------
    Encoder

    Raises
    ------
    WeightsError
        If there are no weights, or they do not fit.
    ValueError
        If there is no network of that name.
    OSError
    """
    from ..models.registry import Pretrained, create_model, entry

    path = os.fspath(name)
    if path.lower().endswith(".onnx"):
        if weights is not None:
            raise WeightsError(f"load_encoder: {path} has its own weights, got {os.fspath(weights)} too")
        from .. import onnx

        model: Module = onnx.load(path)
        batch, size, channels = _declared(model)
        known = Pretrained(mean=(0.5,) * channels, std=(0.5,) * channels)
        size = input_size or size
        if size is None:
            raise WeightsError(
                f"load_encoder: {path} takes pictures of any size: expected input_size, got None"
            )
    else:
        listed, batch = entry(path), 16
        if weights is None:
            weights = next((label for label, one in listed.weights.items() if one.file), None)
        if weights is None:
            raise WeightsError(
                f"load_encoder: no weights of {path} come with the package: expected weights, got None"
            )
        model = create_model(path, weights=weights)
        rows, columns, channels = listed.input_size
        plain = Pretrained(mean=(0.0,) * channels, std=(1.0,) * channels)
        known = listed.weights.get(str(weights)) or listed.usual or plain
        size = input_size or (rows, columns)
    # One number is for every channel.
    mean, std = (
        tuple(own) * (channels if len(own) == 1 else 1) for own in (mean or known.mean, std or known.std)
    )
    prepare = Preprocess(size, size, known.interpolation, mean, std)
    return Encoder(model, prepare, detector=detector, shift=shift, batch=batch)


def _declared(model: Any) -> tuple[int, tuple[int, int] | None, int]:
    """Of the pictures that a file declares: how many at a time, size (None where it is free), channels."""
    dims = list(model.input_shapes[0] or ()) if model.input_shapes else []
    if len(dims) != 4 or dims[0] not in (None, 1):
        raise WeightsError(f"load_encoder: expected a network of any number of pictures or one, got {dims}")
    last = dims[1] not in (1, 3) and dims[3] in (1, 3)
    channels, rows, columns = (dims[3], dims[1], dims[2]) if last else dims[1:]
    if channels not in (1, 3):
        raise WeightsError(f"load_encoder: expected pictures of 1 or 3 channels, got {dims}")
    return dims[0] or 16, (rows, columns) if rows and columns else None, channels
