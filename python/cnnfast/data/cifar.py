"""CIFAR-10 and CIFAR-100, the binary version."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import DataError
from .arrays import Arrays
from .files import MAX_BYTES, Name, Stream, folder, read_text

Array = np.ndarray

__all__ = ["CIFAR10", "CIFAR100", "read_cifar"]

_SIDE = 32
_PIXELS = 3 * _SIDE * _SIDE


def read_cifar(path: Name, classes: Sequence[int] = (10,)) -> tuple[Array, Array]:
    """Pictures and labels in a file of CIFAR's binary version.

    Parameters
    ----------
    path : str or os.PathLike
    classes : sequence of int
        For each label byte of a record, how many classes there are: (10,), or (20, 100) of CIFAR-100.

    Returns
    -------
    pictures : ndarray of uint8, shape (N, 32, 32, 3)
    labels : ndarray of int64, shape (N, len(classes))

    Raises
    ------
    DataError
        If the file is no whole number of records, or a label is no class.
    OSError

    References
    ----------
    Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
    """
    record = len(classes) + _PIXELS
    with Stream(path) as file:
        if file.file_bytes > MAX_BYTES:
            raise file.fail(f"at most {MAX_BYTES} bytes", file.file_bytes)
        if not file.file_bytes or file.file_bytes % record:
            raise file.fail(f"records of {record} bytes", f"a file of {file.file_bytes} bytes")
        records = file.read(file.file_bytes, "records").reshape(-1, record)
    labels = records[:, : len(classes)].astype(np.int64)
    wrong = np.argwhere(labels >= np.asarray(classes))
    if len(wrong):
        i, k = map(int, wrong[0])
        raise DataError(
            f"{path}: byte {i * record + k}: expected a label below {classes[k]}, got {labels[i, k]}"
        )
    pictures = records[:, len(classes) :].reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(pictures), labels


def _names(path: Name, count: int) -> tuple[str, ...]:
    """Names of the classes, one a line, as CIFAR's *.meta.txt hold them; numbers where there is no file."""
    try:
        names = read_text(path, 1 << 16).split()
    except FileNotFoundError:
        return tuple(map(str, range(count)))
    if len(names) != count:
        raise DataError(f"{path}: expected {count} names, got {len(names)}")
    return tuple(names)


class CIFAR10(Arrays):
    """CIFAR-10: 50,000 pictures for training, 10,000 for testing, (32, 32, 3).

    Parameters
    ----------
    root : str or os.PathLike
        The folder ``cifar-10-batches-bin``: ``data_batch_1.bin`` to ``data_batch_5.bin``, ``test_batch.bin``.
    train : bool

    Raises
    ------
    DataError, OSError
    """

    def __init__(self, root: Name, *, train: bool = True) -> None:
        held = folder(root)
        names = [f"data_batch_{i}.bin" for i in range(1, 6)] if train else ["test_batch.bin"]
        parts = [read_cifar(held / name) for name in names]
        pictures, labels = (np.concatenate(kind) for kind in zip(*parts, strict=True))
        super().__init__(
            pictures, labels[:, 0], classes=_names(held / "batches.meta.txt", 10), name=str(held)
        )


class CIFAR100(Arrays):
    """CIFAR-100: 100 fine or 20 coarse classes.

    Parameters
    ----------
    root : str or os.PathLike
        The folder ``cifar-100-binary``: ``train.bin`` and ``test.bin``.
    train : bool
    coarse : bool
        Whether labels are the 20 groups of classes.

    Raises
    ------
    DataError, OSError
    """

    def __init__(self, root: Name, *, train: bool = True, coarse: bool = False) -> None:
        held = folder(root)
        pictures, labels = read_cifar(held / ("train.bin" if train else "test.bin"), (20, 100))
        kind = "coarse" if coarse else "fine"
        names = _names(held / f"{kind}_label_names.txt", 20 if coarse else 100)
        super().__init__(pictures, labels[:, 0 if coarse else 1], classes=names, name=str(held))
