"""The idx format of MNIST and its relatives (Fashion-MNIST, KMNIST, EMNIST)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from .arrays import Arrays
from .files import Name, Stream, folder

Array = np.ndarray

__all__ = ["MNIST", "Idx", "read_idx"]

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_MAX_DIMENSIONS = 8


def read_idx(path: Name) -> Array:
    """The array in an idx file, plain or gzip.

    Parameters
    ----------
    path : str or os.PathLike

    Returns
    -------
    ndarray
        uint8, int8, int16, int32, float32 or float64, of the machine's byte order.

    Raises
    ------
    DataError
        If the file is of another kind, cut off, corrupt, longer than its header says, or would be more
        than 1 GiB.
    OSError
        If it cannot be opened.

    References
    ----------
    LeCun, Cortes, Burges, "The MNIST database of handwritten digits", section on file formats.
    """
    with Stream(path) as file:
        magic = file.read(4, "the magic number")
        if magic[0] or magic[1] or int(magic[2]) not in _TYPES:
            file.position = 0
            raise file.fail("an idx file (00 00 type dimensions)", bytes(magic).hex(" "))
        dimensions = int(magic[3])
        if not 1 <= dimensions <= _MAX_DIMENSIONS:
            file.position = 3
            raise file.fail(f"1 to {_MAX_DIMENSIONS} dimensions", dimensions)
        shape = tuple(map(int, file.read(4 * dimensions, "the shape").view(">u4")))
        dtype = np.dtype(_TYPES[int(magic[2])])
        values = file.read(math.prod(shape) * dtype.itemsize, f"an array {shape}")
        file.expect_end()
    return values.view(dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


class Idx(Arrays):
    """Pictures and labels in a pair of idx files.

    Parameters
    ----------
    pictures, labels : str or os.PathLike
        Files of uint8, shapes (N, H, W) or (N, H, W, C), and (N,).
    classes : sequence of str
        Names of the classes, if known.
    transpose : bool
        Whether rows and columns are exchanged, as in EMNIST.

    Raises
    ------
    DataError, OSError
        See :func:`read_idx`; also if the files do not belong together.
    """

    def __init__(self, pictures: Name, labels: Name, *, classes: Any = (), transpose: bool = False) -> None:
        images, numbers = read_idx(pictures), read_idx(labels)
        if images.dtype != np.uint8 or images.ndim not in (3, 4) or 0 in images.shape[1:]:
            raise DataError(
                f"{pictures}: expected pictures (N,H,W) of uint8, got {images.dtype} {images.shape}"
            )
        if numbers.dtype.kind not in "iu" or numbers.shape != images.shape[:1]:
            raise DataError(
                f"{labels}: expected {len(images)} labels for {pictures}, got {numbers.dtype} {numbers.shape}"
            )
        if images.ndim == 3:
            images = images[..., None]
        if transpose:
            images = np.ascontiguousarray(images.swapaxes(1, 2))
        super().__init__(images, numbers, classes=classes, name=str(pictures))


class MNIST(Idx):
    """A folder of four files with MNIST's names: MNIST itself, Fashion-MNIST, KMNIST.

    Parameters
    ----------
    root : str or os.PathLike
        Holds ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``, ``t10k-images-idx3-ubyte`` and
        ``t10k-labels-idx1-ubyte``, each with or without ``.gz``.
    train : bool
        The 60,000 pictures for training, or the 10,000 for testing.
    classes : sequence of str
        Names of the classes.

    Raises
    ------
    DataError, OSError
    """

    #: Names of Fashion-MNIST's classes, in order.
    FASHION = (
        "T-shirt/top",
        "trouser",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    )

    def __init__(self, root: Name, *, train: bool = True, classes: Any = ()) -> None:
        held = folder(root)
        part = "train" if train else "t10k"
        files = [_either(held, f"{part}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1")]
        super().__init__(*files, classes=classes)


def _either(root: Path, name: str) -> Path:
    for candidate in (root / name, root / f"{name}.gz"):
        if candidate.is_file():
            return candidate
    raise DataError(f"{root}: expected {name} or {name}.gz, got neither")
