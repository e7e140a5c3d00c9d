"""A Siamese encoder of handwritten characters: ``python recipes/siamese_omniglot.py FOLDER``.

FOLDER holds Omniglot's images_background_small1.zip, images_background_small2.zip and all_runs.zip. The
encoder learns to tell the 242 characters of the background sets apart, each in four quarter turns and their
mirror images as characters of their own, drawn anew every time: turned, sheared, stretched, shifted, bent,
with thicker or thinner strokes. The softmax over cosines with a margin is thrown away; what stays is measured
on the twenty official runs, whose drawings take no part in training or in any choice. ``--hold`` keeps
alphabets of the background sets back and measures on those in place of the runs.

It took about 22 minutes of one core, 54 by the clock beside other programs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import cnnfast as cf
from cnnfast import data, face, losses, optim, train

NAME, EPOCHS, BATCH, SEED = "siamese_omniglot", 32, 128, 1
SIDE, MEAN, STD = 32, (1.0,), (0.3,)
PREPROCESS = data.Preprocess((SIDE, SIDE), SIDE, mean=MEAN, std=STD)


class DrawnAnew(data.Transform):
    """The character as another hand might draw it: (2 SIDE, 2 SIDE, 1) to (SIDE, SIDE, 1)."""

    def __call__(self, sample: data.Sample, rng: np.random.Generator) -> data.Sample:
        picture, side = sample.picture, 2 * SIDE
        # Strokes: towards the darkest of the neighbours, or towards the lightest.
        thick = rng.uniform(-0.6, 0.7)
        sign = np.float32(-1 if thick > 0 else 1)
        spread = sign * cf.ops.max_pool2d(sign * picture[None], 3, stride=1, padding=1)[0]
        picture = picture + np.float32(abs(thick)) * (spread - picture)

        stretch = np.diag(rng.uniform(0.8, 1.2, 2))
        shear = rng.uniform(-15, 15, 2)
        linear = data.affine_matrix((0, 0), degrees=rng.uniform(-15, 15), shear=tuple(shear))[:, :2] @ stretch
        back = np.linalg.inv(linear)
        # Points of the new picture about its middle, in pixels of the old one.
        at = np.arange(SIDE) * 2 + 1 - SIDE
        dx, dy = rng.uniform(-0.08, 0.08, 2) * side
        x, y = at[None] - dx, at[:, None] - dy
        bend = cf.ops.resize(rng.normal(0, 1.8, (1, 5, 5, 2)).astype(np.float32), (SIDE, SIDE))[0]
        return data.warp(
            sample.with_(picture=picture),
            back[0, 0] * x + back[0, 1] * y + bend[..., 0] + SIDE,
            back[1, 0] * x + back[1, 1] * y + bend[..., 1] + SIDE,
            lambda points: points,
            fill=255.0,
        )


def background(folder: Path) -> dict[str, np.ndarray]:
    """Drawings (20, 105, 105) of each character; those of both sets are the same drawings."""
    drawings: dict[str, list[np.ndarray]] = {}
    for part in ("small1", "small2"):
        held = data.Omniglot(folder / f"images_background_{part}.zip")
        fresh = set(held.classes) - set(drawings)
        for i, label in enumerate(held.labels):
            if held.classes[label] in fresh:
                drawings.setdefault(held.classes[label], []).append(held[i].picture[..., 0])
    return {name: np.stack(found).astype(np.uint8) for name, found in sorted(drawings.items())}


def turned(characters: dict[str, np.ndarray]) -> data.Arrays:
    """The drawings at twice the side of the encoder's input, in eight positions as eight classes."""
    shrink = data.Preprocess(None, 2 * SIDE, mean=MEAN, std=STD)
    upright = [np.stack([shrink.pixels(drawing) for drawing in drawings]) for drawings in characters.values()]
    pictures, labels = [], []
    for number, found in enumerate(upright):
        for turn in range(8):
            pictures.append(np.rot90(found if turn < 4 else found[:, :, ::-1], turn, (1, 2)))
            labels.append(np.full(len(found), 8 * number + turn))
    return data.Arrays(np.concatenate(pictures), np.concatenate(labels))


def runs_of(characters: dict[str, np.ndarray], rng: np.random.Generator) -> list[data.OneShotRun]:
    """Runs like the official ones: up to 20 characters of an alphabet, each drawn by two people."""
    runs = []
    for alphabet in sorted({name.split("/")[0] for name in characters}):
        names = [name for name in characters if name.startswith(alphabet + "/")]
        for _ in range(40):
            chosen = rng.permutation(names)[:20]
            first, second = rng.permutation(20)[:2]  # drawings of one number are of one person
            training = np.stack([characters[name][first][..., None] for name in chosen])
            test = np.stack([characters[name][second][..., None] for name in chosen])
            runs.append(data.OneShotRun(training, test, np.arange(len(chosen))))
    return runs


def one_shot_accuracy(encoder: face.Encoder, runs: list[data.OneShotRun]) -> float:
    """Part of the test drawings whose nearest training drawing, by cosine, is of the same character."""
    right = []
    for run in runs:
        training, test = (encoder(list(part.astype(np.uint8))) for part in (run.training, run.test))
        right.append((test @ training.T).argmax(1) == run.answers)
    return float(np.concatenate(right).mean())


def main(argv: list[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="the data set")
    parser.add_argument("--out", type=Path, default=Path("runs") / NAME, help="where weights and logs go")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--hold", default="", metavar="ALPHABETS", help="to measure on, separated by commas")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)

    cf.manual_seed(SEED)
    characters = background(args.folder)
    held = {name: a for name, a in characters.items() if name.split("/")[0] in args.hold.split(",")}
    pictures = turned({name: a for name, a in characters.items() if name not in held})
    loader = data.DataLoader(
        pictures,
        BATCH,
        shuffle=True,
        seed=SEED,
        drop_last=True,
        transform=data.Compose([DrawnAnew(), data.Normalize(MEAN, STD)]),
    )
    encoder = cf.models.character_encoder(seed=SEED)
    classifier = face.CosineClassifier(128, int(pictures.labels.max()) + 1)
    model = face.IdentityTraining(encoder, classifier).initialize(SEED)
    optimizer = optim.AdamW(model.parameters(), 3e-3, weight_decay=2e-2)
    averages = optim.ExponentialMovingAverage(model.parameters(), 0.999)
    train.fit(
        model,
        loader,
        epochs=args.epochs,
        loss=lambda x, labels: losses.cosine_softmax(x, labels, scale=16, margin=0.2, label_smoothing=0.1),
        metrics="accuracy",
        optimizer=optimizer,
        schedule=optim.OneCycleLR(optimizer, 3e-3, args.epochs * len(loader)),
        schedule_every="step",
        ema=averages,
        checkpoint=args.out / "checkpoint.safetensors",
        resume=True,
        log=args.out / "log.csv",
        plot=args.out / "curves.png",
    )
    with averages.averaged():
        train.update_batch_norm(model, loader, batches=100)
        # Half the bytes; what is measured are the weights that are kept.
        kept = {
            name: a.astype(np.float16) if a.dtype == np.float32 else a
            for name, a in encoder.state_dict("torch").items()
        }
        cf.save_weights(args.out / f"{NAME}.safetensors", kept)
        encoder.load_state_dict(kept, layout="torch")
        if held:
            runs, what = runs_of(held, np.random.default_rng(SEED)), "the alphabets held back"
        else:
            runs, what = data.one_shot_runs(args.folder / "all_runs.zip"), "the official runs"
        accuracy = one_shot_accuracy(face.Encoder(encoder, PREPROCESS), runs)
        moved = one_shot_accuracy(face.Encoder(encoder, PREPROCESS, shift=2), runs)
    print(f"one-shot accuracy, {what}: {accuracy:.4f}, as the mean of nine shifts {moved:.4f}")
    return accuracy


if __name__ == "__main__":
    main()
