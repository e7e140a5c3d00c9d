"""LeNet-5 on Fashion-MNIST: ``python recipes/lenet5_fashion_mnist.py FOLDER``.

FOLDER holds the four files of the data set (train-images-idx3-ubyte.gz and so on). Shifts by up to two pixels
and mirrored pictures; AdamW with a warm-up and one cosine; the average of the weights is what is kept.

It took 235 s on two cores that were shared with other programs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cnnfast as cf
from cnnfast import data, optim, train

NAME, EPOCHS, BATCH, SEED = "lenet5_fashion_mnist", 24, 128, 1
MEAN, STD = (0.286,), (0.353,)


def main(argv: list[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="the data set")
    parser.add_argument("--out", type=Path, default=Path("runs") / NAME, help="where weights and logs go")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)

    cf.manual_seed(SEED)
    normalize = data.Normalize(MEAN, STD)
    pictures = data.MNIST(args.folder)
    loader = data.DataLoader(
        pictures,
        BATCH,
        shuffle=True,
        seed=SEED,
        workers=1,
        drop_last=True,
        transform=data.Compose([data.RandomCrop(28, padding=1), data.Mirror(), data.Resize(32), normalize]),
    )
    held = data.DataLoader(
        data.MNIST(args.folder, train=False), 500, transform=data.Compose([data.Resize(32), normalize])
    )
    model = cf.models.lenet5(seed=SEED)
    optimizer = optim.AdamW(model.parameters(), 4e-3, weight_decay=2e-2)
    averages = optim.ExponentialMovingAverage(model.parameters(), 0.999)
    history = train.fit(
        model,
        loader,
        epochs=args.epochs,
        validation=held,
        optimizer=optimizer,
        schedule=optim.OneCycleLR(optimizer, 4e-3, args.epochs * len(loader)),
        schedule_every="step",
        ema=averages,
        checkpoint=args.out / "checkpoint.safetensors",
        resume=True,
        log=args.out / "log.csv",
        plot=args.out / "curves.png",
    )
    accuracy = history["val_accuracy"][-1]
    with averages.averaged():
        cf.save_weights(args.out / f"{NAME}.safetensors", model.state_dict("torch"))
    print(f"accuracy on the test pictures: {accuracy:.4f}")
    return accuracy


if __name__ == "__main__":
    main()
