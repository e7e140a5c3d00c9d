"""A small U-Net that finds nuclei of cells: ``python recipes/unet_nuclei.py FOLDER``.

FOLDER holds images/ and labels/ of the same names: 256x256 pictures from the Data Science Bowl 2018 and the
numbers of their nuclei. The last 60 by name are held out, and of the others the last 20 validate. Random
pieces, mirrored both ways, of random brightness; cross-entropy and Dice together; AdamW with a warm-up and
one cosine.

It took 3 min 40 s of one core, 15 minutes by the clock beside other programs.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import cnnfast as cf
from cnnfast import data, losses, optim, train
from cnnfast.segmentation import Segmenter, class_dice, confusion_matrix, foreground_dice, mean_iou

NAME, EPOCHS, BATCH, SEED = "unet_nuclei", 60, 16, 1
MEAN, STD = (0.05,), (0.07,)
PIECE, HELD_OUT, VALIDATION = 128, 60, 20


def nuclei(sample: data.Sample, rng: np.random.Generator) -> data.Sample:
    """One class for all nuclei."""
    return sample.with_(mask=(sample.mask > 0).astype(np.int32))


def brightness(sample: data.Sample, rng: np.random.Generator) -> data.Sample:
    """Half to twice as bright, evenly in the logarithm."""
    factor = np.float32(2 ** rng.uniform(-1, 1))
    return sample.with_(picture=np.minimum(sample.picture * factor, 255))


def loss(scores: Any, labels: Any) -> Any:
    return losses.cross_entropy(scores, labels) + losses.dice(scores, labels)


def main(argv: list[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="the data set")
    parser.add_argument("--out", type=Path, default=Path("runs") / NAME, help="where weights and logs go")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)

    normalize = data.Normalize(MEAN, STD)
    folder = data.MaskFolder(args.folder / "images", args.folder / "labels", channels=1)
    cells = [folder[i] for i in range(len(folder))]  # decoded once
    tested, seen = cells[-HELD_OUT:], cells[:-HELD_OUT]
    loader = data.DataLoader(
        seen[:-VALIDATION],
        BATCH,
        shuffle=True,
        seed=SEED,
        drop_last=True,
        transform=data.Compose(
            [
                nuclei,
                data.RandomCrop(PIECE),
                data.Mirror(),
                data.Mirror(vertical=True),
                brightness,
                normalize,
            ]
        ),
    )
    held = data.DataLoader(seen[-VALIDATION:], 4, transform=data.Compose([nuclei, normalize]))
    model = cf.models.unet_small(seed=SEED)
    optimizer = optim.AdamW(model.parameters(), 5e-3, weight_decay=1e-2)
    train.fit(
        model,
        loader,
        loss=loss,
        metrics=foreground_dice,
        epochs=args.epochs,
        validation=held,
        optimizer=optimizer,
        schedule=optim.OneCycleLR(optimizer, 5e-3, args.epochs * len(loader)),
        schedule_every="step",
        seed=SEED,
        checkpoint=args.out / "checkpoint.safetensors",
        checkpoint_every=50,
        resume=True,
        log=args.out / "log.csv",
        plot=args.out / "curves.png",
    )
    cf.save_weights(args.out / f"{NAME}.safetensors", model.state_dict("torch"))

    segmenter = Segmenter(model, mean=MEAN, std=STD)
    matrices = [confusion_matrix(segmenter(np.uint8(cell.picture)), cell.mask > 0, 2) for cell in tested]
    dice = float(np.mean([class_dice(matrix)[1] for matrix in matrices]))
    total = sum(matrices)
    print(f"{len(tested)} pictures that were held out: Dice {dice:.4f} (mean of pictures), "
          f"{class_dice(total)[1]:.4f} (all pixels), mean IoU {mean_iou(total):.4f}")  # fmt: skip
    return dice


if __name__ == "__main__":
    main()
