"""Folders of pictures: one folder per class, or a folder of masks beside them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..pictures import load_mask, load_picture
from .arrays import place
from .files import Name, folder, pictures_below
from .sample import Sample

Array = np.ndarray

__all__ = ["ImageFolder", "MaskFolder"]


class ImageFolder:
    """Pictures in folders that are named as their classes: ``root/cat/any/name.jpg``.

    Parameters
    ----------
    root : str or os.PathLike
    channels : {1, 3}

    Attributes
    ----------
    classes : tuple of str
        Names of the folders in order; a picture's label is the number of its folder.
    paths : list of str
    labels : ndarray of int64, shape (N,)

    Raises
    ------
    DataError
        If there is no folder with pictures in it. A picture that cannot be read raises PictureError when it
        is asked for.
    """

    def __init__(self, root: Name, *, channels: int = 3) -> None:
        held = folder(root)
        folders = sorted(
            (entry for entry in os.scandir(held) if entry.is_dir() and not entry.name.startswith(".")),
            key=lambda entry: entry.name,
        )
        self.classes = tuple(entry.name for entry in folders)
        self.channels = channels
        self.paths: list[str] = []
        labels: list[int] = []
        for label, entry in enumerate(folders):
            found = list(map(str, pictures_below(Path(entry.path))))
            if not found:
                raise DataError(f"{entry.path}: expected pictures of a class, got none")
            self.paths += found
            labels += [label] * len(found)
        if not self.paths:
            raise DataError(f"{held}: expected a folder for each class, got none")
        self.labels = np.array(labels, np.int64)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        i = place(index, len(self))
        path = self.paths[i]
        return Sample(load_picture(path, channels=self.channels), self.labels[i], name=path)


class MaskFolder:
    """Pictures and masks of the same names, but for the ending, in two folders.

    Parameters
    ----------
    pictures, masks : str or os.PathLike
        Masks are read by :func:`cnnfast.pictures.load_mask`: classes or instances, as they are stored.
    channels : {1, 3}
    mask_name : callable, optional
        From the name of a picture without its ending to that of its mask (``lambda s: s + "_mask"``).
    classes : sequence of str
        Names of the classes, if known.

    Attributes
    ----------
    pairs : list of (str, str)

    Raises
    ------
    DataError
        If there are no pictures, or one has no mask or several. Samples raise PictureError, and DataError if
        a mask is not of the size of its picture.
    """

    def __init__(
        self,
        pictures: Name,
        masks: Name,
        *,
        channels: int = 3,
        mask_name: Callable[[str], str] | None = None,
        classes: tuple[str, ...] = (),
    ) -> None:
        held, beside = folder(pictures), folder(masks)
        by_name: dict[str, list[Path]] = {}
        for path in pictures_below(beside, deep=False):
            by_name.setdefault(path.stem, []).append(path)
        self.pairs: list[tuple[str, str]] = []
        self.channels, self.classes = channels, tuple(classes)
        for path in pictures_below(held, deep=False):
            wanted = mask_name(path.stem) if mask_name else path.stem
            found = by_name.get(wanted, [])
            if len(found) != 1:
                raise DataError(f"{path}: expected one mask {wanted}.* in {beside}, got {len(found)}")
            self.pairs.append((str(path), str(found[0])))
        if not self.pairs:
            raise DataError(f"{held}: expected pictures, got none")

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        path, mask_path = self.pairs[place(index, len(self))]
        picture, mask = load_picture(path, channels=self.channels), load_mask(mask_path)
        if mask.shape != picture.shape[:2]:
            raise DataError(f"{mask_path}: expected a mask {picture.shape[:2]} as {path}, got {mask.shape}")
        return Sample(picture, mask=mask, name=path)
