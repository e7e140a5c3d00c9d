"""A small YOLO for blood cells: ``python recipes/yolo_bccd.py FOLDER``.

FOLDER is that of BCCD (Annotations, ImageSets, JPEGImages). Cells have no direction, so windows of random
size are turned and mirrored every way; AdamW with a warm-up and one cosine; the average of the weights is
what is kept.

It took 40 minutes of one core that was shared with other programs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import cnnfast as cf
from cnnfast import data, detection, optim, train

NAME, EPOCHS, BATCH, SEED = "yolov3_small_bccd", 110, 8, 1
CLASSES = ("RBC", "WBC", "Platelets")
SIZE = (256, 336)  # rows and columns, of pictures of 480 x 640
RATE, DECAY = 2e-3, 2e-2
ZERO_ONE = data.Normalize((0.0,) * 3, (1.0,) * 3)


class InMemory:
    """The pictures of a data set, read once."""

    def __init__(self, dataset: data.Dataset) -> None:
        samples = [dataset[i] for i in range(len(dataset))]
        self.pictures = [sample.picture.astype(np.uint8) for sample in samples]
        self.rest = [sample.with_(picture=np.zeros((1, 1, 3), np.uint8)) for sample in samples]

    def __len__(self) -> int:
        return len(self.rest)

    def __getitem__(self, index: int) -> data.Sample:
        return self.rest[index].with_(picture=self.pictures[index])


def augmented() -> data.Compose:
    return data.Compose(
        [
            data.RandomResizedCrop(256, scale=(0.4, 0.9), ratio=(0.8, 1.25), min_visibility=0.25),
            data.QuarterTurn(),
            data.Mirror(),
            data.ColourShift(12.0),
            data.ColourJitter(brightness=0.2, contrast=0.2, saturation=0.2),
            ZERO_ONE,
        ]
    )


def main(argv: list[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="the data set")
    parser.add_argument("--out", type=Path, default=Path("runs") / NAME, help="where weights and logs go")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--test", default="test", help="the part that the mean average precision is of")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)

    cf.manual_seed(SEED)
    loader = data.DataLoader(
        InMemory(data.VOC(args.folder, "train", classes=CLASSES)),
        BATCH,
        shuffle=True,
        seed=SEED,
        drop_last=True,
        transform=augmented(),
    )
    frame = data.Compose([detection.Letterboxed(SIZE), ZERO_ONE])
    held = data.DataLoader(InMemory(data.VOC(args.folder, "val", classes=CLASSES)), BATCH, transform=frame)
    model = cf.models.yolov3_small(len(CLASSES), seed=SEED)
    detection.expect_few(model)
    loss = detection.YOLOLoss(model.heads)
    optimizer = optim.AdamW(model.parameters(), RATE, weight_decay=DECAY)
    averages = optim.ExponentialMovingAverage(model.parameters(), 0.99)
    train.fit(
        model,
        loader,
        epochs=args.epochs,
        loss=loss,
        validation=held,
        optimizer=optimizer,
        schedule=optim.OneCycleLR(optimizer, RATE, args.epochs * len(loader), pct_start=0.1),
        schedule_every="step",
        ema=averages,
        clip_norm=50.0,
        checkpoint=args.out / "checkpoint.safetensors",
        resume=True,
        log=args.out / "log.csv",
        plot=args.out / "curves.png",
    )
    print(f"collisions: {loss.collisions} of {loss.objects} objects")
    with averages.averaged():
        train.update_batch_norm(model, loader)
        cf.save_weights(args.out / f"{NAME}.safetensors", model.state_dict("torch"))
        detector = detection.Detector(model, SIZE, CLASSES, iou_threshold=0.5)
        result = detection.evaluate(detector, data.VOC(args.folder, args.test, classes=CLASSES))
    print(result)
    return result.mean


if __name__ == "__main__":
    main()
