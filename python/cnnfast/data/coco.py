"""Pictures with boxes in the form of COCO: one json file for all."""

from __future__ import annotations

import json
import math
import os
from typing import Any, NoReturn

import numpy as np

from ..errors import DataError
from ..pictures import load_picture
from ..weights.limits import shown
from .arrays import place
from .files import Name, folder, inside, read_text
from .sample import Sample

Array = np.ndarray

__all__ = ["COCO"]

_MAX_BYTES = 512 << 20


class COCO:
    """Pictures in a folder and a json file with ``images``, ``annotations`` and ``categories``.

    Parameters
    ----------
    pictures : str or os.PathLike
        Folder of the files that ``images`` names.
    annotations : str or os.PathLike
        The json file; its boxes are x, y, width, height.
    empty : bool
        Whether pictures without boxes belong to the data set.

    Attributes
    ----------
    classes : tuple of str
        By rising category id; sample classes are numbers of this list, 0 to len - 1.
    category_ids : ndarray of int64
        The ids themselves, which have gaps in COCO.
    image_ids : list of int

    Raises
    ------
    DataError
        If the file is no such json, larger than 512 MiB, names what it does not have (a picture, a category),
        holds a box that is none, or leads out of the folder; the message names the place.
    OSError

    Notes
    -----
    Boxes are cut at the edges of the picture; those that have no area there are left out, as COCO holds some.
    Crowds are marked ``difficult``.

    References
    ----------
    Lin et al., "Microsoft COCO: common objects in context", 2014.
    """

    def __init__(self, pictures: Name, annotations: Name, *, empty: bool = True) -> None:
        self.root = folder(pictures)
        file = _File(annotations)
        categories = {file.id(item): item for item in file.items("categories")}
        images = {file.id(item): item for item in file.items("images")}
        for kind, known in (("categories", categories), ("images", images)):
            if len(known) != len(file.items(kind)):
                file.fail(kind, "ids that differ", "the same one twice")
        self.category_ids = np.array(sorted(categories), np.int64)
        self.classes = tuple(str(categories[int(i)].get("name", i)) for i in self.category_ids)
        number = {int(category): i for i, category in enumerate(self.category_ids)}
        found: dict[int, list[tuple[float, ...]]] = {i: [] for i in images}
        for k, item in enumerate(file.items("annotations")):
            where = f"annotations[{k}]"
            image, category = item.get("image_id"), item.get("category_id")
            if type(image) is not int or image not in images:
                file.fail(where, "the id of an image", image)
            if type(category) is not int or category not in number:
                file.fail(where, "the id of a category", category)
            x, y, w, h = file.box(where, item.get("bbox"))
            found[image].append((x, y, x + w, y + h, number[category], bool(item.get("iscrowd", 0))))
        self.image_ids = [i for i in images if empty or found[i]]
        self.paths = [inside(self.root, file.text(images[i], "file_name"), file.name) for i in self.image_ids]
        self._rows = [np.array(found[i], np.float64).reshape(-1, 6) for i in self.image_ids]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        i = place(index, len(self))
        picture, rows = load_picture(self.paths[i]), self._rows[i]
        h, w = picture.shape[:2]
        boxes = np.clip(rows[:, :4], 0, [w, h, w, h])
        good = (boxes[:, 2:] > boxes[:, :2]).all(1)
        return Sample(
            picture,
            boxes=boxes[good],
            classes=rows[good, 4].astype(np.int64),
            difficult=rows[good, 5] != 0,
            name=str(self.paths[i]),
        )


class _File:
    """The json file; whatever is wrong in it is told with its place."""

    def __init__(self, path: Name) -> None:
        self.name = os.fspath(path)
        text = read_text(path, _MAX_BYTES)
        try:
            self.content = json.loads(text, parse_constant=self._constant)
        except RecursionError:
            self.fail("json", "values that are not nested so deep", "deeper ones")
        except ValueError as error:
            if isinstance(error, DataError):
                raise
            self.fail("json", "well-formed json", f"an error: {error}")
        if not isinstance(self.content, dict):
            self.fail("json", "an object", self.content)

    def _constant(self, name: str) -> NoReturn:
        self.fail("json", "finite numbers", name)

    def fail(self, where: str, expected: str, got: object) -> NoReturn:
        raise DataError(f"{self.name}: {where}: expected {expected}, got {shown(got)}")

    def items(self, kind: str) -> list[dict[str, Any]]:
        found = self.content.get(kind)
        if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
            self.fail(kind, "a list of objects", found)
        return found

    def id(self, item: dict[str, Any]) -> int:
        found = item.get("id")
        if type(found) is not int or not 0 <= found < 1 << 62:
            self.fail("id", "a whole number", found)
        return found

    def text(self, item: dict[str, Any], key: str) -> str:
        found = item.get(key)
        if not isinstance(found, str):
            self.fail(f"images, id {item['id']}", f"a text {key}", found)
        return found

    def box(self, where: str, box: Any) -> tuple[float, float, float, float]:
        if not isinstance(box, list) or len(box) != 4:
            self.fail(where, "a bbox of x, y, width and height", box)
        for value in box:
            if type(value) not in (int, float) or abs(value) > 1e9 or not math.isfinite(value):
                self.fail(where, "a bbox of numbers", value)
        if box[2] < 0 or box[3] < 0:
            self.fail(where, "a bbox of no negative size", str(box))
        return box[0], box[1], box[2], box[3]
