"""The pictures that ``cnnfast demo`` shows: ``python recipes/demo_pictures.py FOLDER --out PICTURES``.

FOLDER holds datasets/ (fashion-mnist, bccd/BCCD, nuclei, omniglot) and pictures/ (dog.jpg of darknet, and a
photograph of "The starry night"). Of the data sets only pictures are taken that took no part in training.
Where they come from and under which licence is in README.md beside the result.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from cnnfast import data

PHOTO, PAINTING = (480, 360), (320, 200)
CLOTHES = 10  # of each class: the first of the test pictures
BLOOD = ("BloodImage_00011", "BloodImage_00016")  # of the test split
CELLS = ("RBC", "WBC", "Platelets")
NUCLEI = ("cf26c41245febfe6", "e2d22d3d283915df")  # of the sixty that recipes/unet_nuclei.py holds out
RUN = 0  # of the official one-shot runs


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="data sets and pictures")
    parser.add_argument("--out", type=Path, required=True, help="where the pictures go")
    args = parser.parse_args(argv)
    sets, out = args.folder / "datasets", args.out
    out.mkdir(parents=True, exist_ok=True)

    for name, source, size in (("photo", "dog", PHOTO), ("painting", "style_starry_night", PAINTING)):
        picture = Image.open(args.folder / "pictures" / f"{source}.jpg").convert("RGB")
        picture.resize(size, Image.Resampling.LANCZOS).save(out / f"{name}.jpg", quality=80)

    # A row for each class, in order.
    held = data.MNIST(sets / "fashion-mnist", train=False)
    rows = [np.flatnonzero(held.labels == label)[:CLOTHES] for label in range(10)]
    save(out / "clothes.png", [[held[i].picture[..., 0] for i in row] for row in rows])

    # Above the drawings to enrol, below those to recognise, by another hand; the same order in both rows.
    run = data.one_shot_runs(sets / "omniglot" / "all_runs.zip")[RUN]
    asked = run.test[np.argsort(run.answers)]
    save(out / "characters.png", [list(run.training[..., 0]), list(asked[..., 0])], bits=1)

    blood = data.VOC(sets / "bccd" / "BCCD", "test", classes=CELLS)
    marked = {}
    for sample in (blood[i] for i in range(len(blood))):
        name = Path(sample.name).stem
        if name in BLOOD:
            target = f"blood_{BLOOD.index(name) + 1}"
            shutil.copyfile(sample.name, out / f"{target}.jpg")
            marked[target] = {"boxes": sample.boxes.tolist(), "classes": sample.classes.tolist()}
    (out / "blood.json").write_text(json.dumps({"names": CELLS, "pictures": marked}) + "\n")

    for number, name in enumerate(NUCLEI, 1):
        Image.open(sets / "nuclei" / "images" / f"{name}.png").convert("L").save(
            out / f"nuclei_{number}.png", optimize=True
        )
        mask = np.asarray(Image.open(sets / "nuclei" / "labels" / f"{name}.png"))
        numbers = np.unique(mask, return_inverse=True)[1].reshape(mask.shape)  # from 1 without gaps
        Image.fromarray(numbers.astype(np.uint8)).save(out / f"nuclei_{number}_marked.png", optimize=True)


def save(path: Path, rows: list[list[np.ndarray]], bits: int = 8) -> None:
    """Grey pictures of one size, edge to edge."""
    sheet = Image.fromarray(np.block(rows).astype(np.uint8))
    (sheet.convert("1") if bits == 1 else sheet).save(path, optimize=True)


if __name__ == "__main__":
    main()
