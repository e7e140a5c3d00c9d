"""Pictures with boxes in the form of Pascal VOC: one XML file for each picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from ..errors import DataError
from ..pictures import load_picture
from ..weights.limits import shown
from .arrays import place
from .files import PICTURE_ENDINGS, Name, folder, inside, read_text
from .sample import Sample
from .xml import read_xml

Array = np.ndarray

__all__ = ["VOC"]

_MAX_BOXES = 100_000
_MAX_LIST_BYTES = 64 << 20


class VOC:
    """A folder with ``Annotations``, ``ImageSets/Main/SPLIT.txt`` and ``JPEGImages``.

    Parameters
    ----------
    root : str or os.PathLike
        The folder of one year, such as ``VOCdevkit/VOC2012``.
    split : str or None
        Name of a list of pictures, such as ``"train"``; None for every annotation.
    classes : sequence of str, optional
        Names in the order of their numbers. Found by reading every annotation of the split where they are
        not given; give those of the training set to the others.
    one_based : bool
        Whether coordinates count pixels from 1 and ``xmax`` is the last one, as VOC defines: the box then
        begins at ``xmin - 1``. False for tools that write the edges themselves.

    Attributes
    ----------
    classes : tuple of str

    Raises
    ------
    DataError
        If folders or lists are missing or corrupt, an annotation is no VOC annotation, a name leads out of
        the folder, or a class is not among ``classes``; the message names the file. Boxes of a sample are cut
        at the edges of the picture, and must have an area there.

    References
    ----------
    Everingham et al., "The Pascal visual object classes (VOC) challenge", 2010, and its development kit.
    """

    def __init__(
        self,
        root: Name,
        split: str | None = "train",
        *,
        classes: Sequence[str] = (),
        one_based: bool = True,
    ) -> None:
        self.root = folder(root)
        annotations = folder(self.root / "Annotations")
        if split is None:
            names = sorted(path.stem for path in annotations.glob("*.xml"))
            source = str(annotations)
        else:
            listed = inside(self.root / "ImageSets" / "Main", f"{split}.txt", "split")
            source = str(listed)
            names = [
                line.split()[0] for line in read_text(listed, _MAX_LIST_BYTES).splitlines() if line.strip()
            ]
        if not names:
            raise DataError(f"{source}: expected names of pictures, got none")
        self.paths = [inside(annotations, f"{name}.xml", source) for name in names]
        self.one_based = one_based
        self.classes = tuple(classes) or tuple(
            sorted({name for path in self.paths for name in _objects(path, read_xml(path))[0]})
        )
        self._number = {name: i for i, name in enumerate(self.classes)}

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        path = self.paths[place(index, len(self))]
        names, boxes, difficult = _objects(path, read_xml(path))
        unknown = sorted(set(names) - set(self._number))
        if unknown:
            raise DataError(f"{path}: expected the classes {self.classes}, got {shown(unknown[0])}")
        file = self._picture(path)
        picture = load_picture(file)
        if self.one_based:
            boxes[:, :2] -= 1
        h, w = picture.shape[:2]
        cut = np.clip(boxes, 0, [w, h, w, h])
        empty = np.flatnonzero((cut[:, 2:] <= cut[:, :2]).any(1))
        if len(empty):
            raise DataError(
                f"{path}: object {empty[0] + 1}: expected a box within a picture of {w} x {h} pixels, "
                f"got {boxes[empty[0]].tolist()}"
            )
        classes = [self._number[name] for name in names]
        return Sample(picture, boxes=cut, classes=classes, difficult=difficult, name=str(file))

    def _picture(self, annotation: Path) -> Path:
        """The picture beside an annotation; the name in the annotation itself is often an old one."""
        pictures = self.root / "JPEGImages"
        for ending in (".jpg", *PICTURE_ENDINGS):
            if (found := pictures / (annotation.stem + ending)).is_file():
                return found
        raise DataError(f"{annotation}: expected a picture {annotation.stem}.jpg in {pictures}, got none")


def _objects(path: Path, root: Element) -> tuple[list[str], Array, list[bool]]:
    """Names, boxes as they stand there (K, 4), and which are difficult."""
    if root.tag != "annotation":
        raise DataError(f"{path}: expected an <annotation>, got <{shown(root.tag)}>")
    names, boxes, difficult = [], [], []
    for number, thing in enumerate(root.findall("object"), 1):
        where = f"{path}: object {number}"
        if number > _MAX_BOXES:
            raise DataError(f"{path}: expected at most {_MAX_BOXES} objects, got more")
        name = (thing.findtext("name") or "").strip()
        if not name:
            raise DataError(f"{where}: expected a <name>, got none")
        box = thing.find("bndbox")
        if box is None:
            raise DataError(f"{where}: expected a <bndbox>, got none")
        names.append(name)
        boxes.append([_number(where, box, key) for key in ("xmin", "ymin", "xmax", "ymax")])
        difficult.append((thing.findtext("difficult") or "0").strip() == "1")
    return names, np.array(boxes, np.float64).reshape(-1, 4), difficult


def _number(where: str, box: Element, key: str) -> float:
    text = box.findtext(key)
    try:
        value = float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{where}: expected a number <{key}>, got {shown(text)}")
    return value
