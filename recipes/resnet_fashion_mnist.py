"""A small ResNet on Fashion-MNIST: ``python recipes/resnet_fashion_mnist.py FOLDER``.

FOLDER holds the four files of the data set (train-images-idx3-ubyte.gz and so on). The last 5,000 training
pictures validate; the test pictures are looked at once, at the end. Shifts by up to two pixels and mirrored
pictures; Nesterov's momentum with a warm-up and one cosine; smoothed labels.

It took 69 minutes on two cores that were shared with other programs.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import cnnfast as cf
from cnnfast import data, losses, optim, train

NAME, EPOCHS, BATCH, SEED = "resnet14_fashion_mnist", 20, 128, 1
MEAN, STD = (0.286,), (0.353,)
HELD_OUT = 5_000


def main(argv: list[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="the data set")
    parser.add_argument("--out", type=Path, default=Path("runs") / NAME, help="where weights and logs go")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)

    normalize = data.Normalize(MEAN, STD)
    pictures = data.MNIST(args.folder)
    border = len(pictures) - HELD_OUT
    loader = data.DataLoader(
        data.Subset(pictures, range(border)),
        BATCH,
        shuffle=True,
        seed=SEED,
        workers=1,
        drop_last=True,
        transform=data.Compose([data.RandomCrop(28, padding=2), data.Mirror(), normalize]),
    )
    held = data.DataLoader(data.Subset(pictures, range(border, len(pictures))), 500, transform=normalize)
    model = cf.models.resnet14_grey(seed=SEED)
    optimizer = optim.SGD(model.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    train.fit(
        model,
        loader,
        loss=partial(losses.cross_entropy, label_smoothing=0.1),
        metrics="accuracy",
        epochs=args.epochs,
        validation=held,
        optimizer=optimizer,
        schedule=optim.OneCycleLR(
            optimizer, 0.1, args.epochs * len(loader), pct_start=0.2, cycle_momentum=False
        ),
        schedule_every="step",
        seed=SEED,
        checkpoint=args.out / "checkpoint.safetensors",
        checkpoint_every=100,
        resume=True,
        log=args.out / "log.csv",
        plot=args.out / "curves.png",
    )
    cf.save_weights(args.out / f"{NAME}.safetensors", model.state_dict("torch"))
    test = data.DataLoader(data.MNIST(args.folder, train=False), 500, transform=normalize)
    accuracy = train.evaluate(model, test)["accuracy"]
    print(f"accuracy on the test pictures: {accuracy:.4f}")
    return accuracy


if __name__ == "__main__":
    main()
