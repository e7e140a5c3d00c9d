"""``cnnfast train``: train a network on a folder of pictures and what is known of them.

  cnnfast train --model lenet5 --data fashion-mnist --epochs 15 --schedule cosine --augment crop,mirror \\
    --checkpoint lenet5-run.safetensors --output lenet5.safetensors
  cnnfast train --model yolov3_small --data BCCD --epochs 110 --augment zoom,mirror,colour --ema .99
  cnnfast train --model unet_small --data nuclei --epochs 60 --foreground --augment mirror,rotate
  cnnfast train --model character_encoder --data images_background_small1.zip --epochs 32 --augment shear

The task is what the network is for:
  classify  files of the MNIST family (plain or .gz), CIFAR's binary version, or pictures in a folder for each
            class, with or without train/ and val/ above them
  detect    a folder of Pascal VOC (Annotations, ImageSets, JPEGImages) or COCO (annotations, train2017);
            YOLO networks, SSD300, Fast and Faster R-CNN; ends with the mean average precision
  segment   images/ and masks/ (or labels/) of the same names, with or without train/ and val/ above them
  embed     encoders of faces and characters: pictures in a folder for each identity, or Omniglot's zip

Pictures are brought to the size that the network takes. --checkpoint is replaced after each epoch and on
Ctrl-C; the same command with --resume goes on from it as if it had not been stopped, to the last bit. The
weights at the end go to --output, in torch's layout, with what other commands have to know about pictures
and classes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
from typing import Any

from ..errors import TrainingError, WeightsError
from ..models.registry import ModelEntry, entry
from .labelled import AUGMENTATIONS, held_out
from .networks import input_size, model_name, positive

#: name -> (usual learning rate, class and settings from the arguments)
OPTIMIZERS: dict[str, tuple[float, str, Any]] = {
    "sgd": (0.05, "SGD", lambda a: {"momentum": a.momentum, "weight_decay": a.weight_decay}),
    "nesterov": (
        0.05, "SGD",
        lambda a: {"momentum": a.momentum, "nesterov": True, "weight_decay": a.weight_decay},
    ),
    "rmsprop": (0.001, "RMSProp", lambda a: {"weight_decay": a.weight_decay}),
    "adam": (0.001, "Adam", lambda a: {"weight_decay": a.weight_decay}),
    "adamw": (0.001, "AdamW", lambda a: {"weight_decay": a.weight_decay}),
}  # fmt: skip
TASKS = ("classify", "detect", "segment", "embed")
SCHEDULES = ("constant", "cosine", "step", "one-cycle", "plateau")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__.partition("\n\n")[2]
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--model", required=True, type=model_name, metavar="NAME", help="a network of 'cnnfast models'")
    add("--task", choices=TASKS, help="(default: what the network is for)")
    add("--data", required=True, metavar="FOLDER", help="pictures and their labels, boxes or masks")
    add("--epochs", required=True, type=positive, metavar="N", help="in all, resumed ones included")

    group = parser.add_argument_group("pictures")
    add = group.add_argument
    add("--validation", type=share, metavar="SHARE", help="share of the training pictures to validate with "
        "(default: the folder's own validation or test part, or .1)")  # fmt: skip
    add("--augment", type=augmentations, default=(), metavar="A,B", help=f"out of {', '.join(AUGMENTATIONS)}")
    add("--input", type=input_size, metavar="HxWxC", help="size of the input (default: the network's own)")
    add("--batch-size", type=positive, default=64, metavar="N", help="(default: 64)")
    add("--accumulate", type=positive, default=1, metavar="N", help="batches in an update (default: 1)")
    add("--workers", type=count, default=0, metavar="N", help="processes that prepare batches (default: 0)")
    add("--foreground", action="store_true", help="segment: one class for all that is not 0, as where masks "
        "number their things")  # fmt: skip

    group = parser.add_argument_group("learning")
    add = group.add_argument
    add("--weights", metavar="FILE|NAME", help="weights to begin with")
    add("--freeze", action="append", default=[], metavar="PATTERN",
        help="parts that stay as they are, e.g. 'features*'; may be given again")  # fmt: skip
    add("--optimizer", choices=sorted(OPTIMIZERS), default="adam", help="(default: adam)")
    add("--lr", type=above_zero, metavar="RATE", help="learning rate (default: .05 for sgd, else .001)")
    add("--momentum", type=share_or_zero, default=0.9, metavar="M", help="of sgd (default: .9)")
    add("--weight-decay", type=from_zero, default=0.0, metavar="D", help="(default: 0)")
    add("--schedule", choices=SCHEDULES, default="constant",
        help="of the rate: to 0 along a cosine, a tenth each third of the epochs, one cycle, a tenth when "
        "validation gets no better (default: constant)")  # fmt: skip
    add("--warmup", type=count, default=0, metavar="N", help="epochs in which the rate rises first, for "
        "constant, cosine and step")  # fmt: skip
    add("--loss", choices=("cosine", "triplet"), default="cosine", help="embed: a softmax over cosines of "
        "identities, or triplets (default: cosine)")  # fmt: skip
    add("--label-smoothing", type=share_or_zero, default=0.0, metavar="E", help="(default: 0)")
    add("--clip-norm", type=above_zero, metavar="NORM", help="bound on the norm of the gradients")
    add("--ema", type=share_or_zero, metavar="DECAY", help="average weights, e.g. .999; --output has them")
    add("--early-stopping", type=positive, metavar="N", help="stop after N epochs without a better "
        "validation loss, and take the best weights")  # fmt: skip
    add("--seed", type=count, default=0, metavar="N", help="of all that is drawn (default: 0)")

    group = parser.add_argument_group("run")
    add = group.add_argument
    add("--checkpoint", metavar="FILE", help="where the run is kept (.safetensors)")
    add("--checkpoint-every", type=positive, metavar="STEPS", help="keep it within epochs as well")
    add("--resume", action="store_true", help="go on from the checkpoint, if it is there")
    add("--output", metavar="FILE", help="where the weights go (default: MODEL.safetensors)")
    add("--force", action="store_true", help="replace files that are there")
    add("--log", action="append", type=log_name, metavar="FILE", help="a row for each epoch: .csv or .jsonl; "
        "may be given again")  # fmt: skip
    add("--tensorboard", metavar="FOLDER", help="the same for TensorBoard (needs tensorboardX)")
    add("--plot", metavar="FILE", help="picture of the learning curves (needs matplotlib)")
    add("--threads", type=positive, metavar="N", help="threads of the kernels (default: all cores)")
    add("--quiet", action="store_true", help="no progress on stderr")
    add("--json", action="store_true", help="print one JSON object at the end")


# --- values of arguments ------------------------------------------------------------------------------


def _real(text: str, good: Any, expected: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and good(value)):
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
    return value


def above_zero(text: str) -> float:
    return _real(text, lambda v: v > 0, "a number above 0")


def from_zero(text: str) -> float:
    return _real(text, lambda v: v >= 0, "a number from 0")


def share(text: str) -> float:
    return _real(text, lambda v: 0 < v < 1, "a number between 0 and 1")


def share_or_zero(text: str) -> float:
    return _real(text, lambda v: 0 <= v < 1, "a number from 0, below 1")


def count(text: str) -> int:
    """For argparse: a whole number from 0."""
    return 0 if text.strip() == "0" else positive(text)


def log_name(text: str) -> str:
    if os.path.splitext(text)[1].lower() not in (".csv", ".jsonl"):
        raise argparse.ArgumentTypeError(f"expected a name that ends in .csv or .jsonl, got {text!r}")
    return text


def augmentations(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if name not in AUGMENTATIONS:
            raise argparse.ArgumentTypeError(f"expected some of {', '.join(AUGMENTATIONS)}, got {name!r}")
    return names


# --- the command ----------------------------------------------------------------------------------------


def run(args: argparse.Namespace) -> int:
    if args.resume and not args.checkpoint:
        raise TrainingError("--resume needs --checkpoint FILE")
    output = args.output or f"{args.model}.safetensors"
    if os.path.splitext(output)[1].lower() != ".safetensors":
        raise WeightsError(f"{output}: expected a name that ends in .safetensors")
    _check_place(args, output)
    known = entry(args.model)
    try:
        report = _train(args, known, output)
    except ValueError as error:  # of a pattern, a shape, a rate: what to change is in the message
        raise TrainingError(str(error)) from error
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        shown = {k: v for k, v in report["last"].items() if k.startswith("val_")}
        shown |= {"mean average precision": report["map50"]} if "map50" in report else {}
        numbers = ", ".join(f"{name} {value:.4f}" for name, value in shown.items())
        print(f"{output}: {args.model} after {report['epochs']} epochs" + (f", {numbers}" if numbers else ""))
    return 0


def _check_place(args: argparse.Namespace, output: str) -> None:
    """Hours of training are not written over by a command that was typed twice."""
    if args.force and args.checkpoint and not args.resume and os.path.isfile(args.checkpoint):
        os.unlink(args.checkpoint)
    if args.resume or args.force:
        return
    for path, how in ((args.checkpoint, "--resume goes on from it, "), (output, "")):
        if path and os.path.lexists(path):
            raise FileExistsError(17, f"exists already; {how}--force replaces it", path)


def _train(args: argparse.Namespace, known: ModelEntry, output: str) -> dict[str, Any]:
    from .. import data, optim, train
    from ..weights import save_weights
    from .tasks import JOBS, TASKS, task_of

    task = args.task or task_of(known)
    if known.task not in TASKS.get(task, ()):
        raise TrainingError(f"{args.model} is for {known.task}, which --task {task or 'NAME'} does not train")
    job = JOBS[task](args, known)
    training = job.parts["train"]
    held = job.parts.get("validation", job.parts.get("test"))
    if args.validation or held is None:
        training, held = held_out(training, args.validation or 0.1, args.seed)

    def batches(part: Any, augment: tuple[str, ...], shuffle: bool) -> Any:
        return data.DataLoader(
            part, args.batch_size, shuffle=shuffle, seed=args.seed, workers=args.workers,
            worker_kind="process", transform=job.transform(augment),
        )  # fmt: skip

    optimizer = _optimizer(args, [p for p in job.trained.parameters() if p.requires_grad])
    average = None if args.ema is None else optim.ExponentialMovingAverage(job.trained.parameters(), args.ema)
    with batches(training, args.augment, True) as loader, batches(held, (), False) as validation:
        schedule, every = _schedule(args, optimizer, -(-len(loader) // args.accumulate))
        history = train.fit(
            job.trained,
            loader,
            loss=job.loss,
            optimizer=optimizer,
            schedule=schedule,
            schedule_every=every,
            epochs=args.epochs,
            validation=validation,
            metrics=job.metrics,
            seed=args.seed,
            accumulate=args.accumulate,
            clip_norm=args.clip_norm,
            ema=average,
            early_stopping=args.early_stopping
            and train.EarlyStopping(args.early_stopping, "val_loss", restore_best=True),
            checkpoint=args.checkpoint,
            checkpoint_every=args.checkpoint_every,
            resume=args.resume,
            log=args.log,
            tensorboard=args.tensorboard,
            plot=args.plot,
            progress=not args.quiet,
            threads=args.threads,
        )
        with contextlib.ExitStack() as stack:
            if average is not None and not args.early_stopping:  # which restores averages of its best epoch
                stack.enter_context(average.averaged())
                train.update_batch_norm(job.trained, loader, batches=100)
            save_weights(output, job.model.state_dict("torch"), metadata=job.recipe.metadata())
            measured = job.measure(held)
    return {
        "model": args.model, "task": task, "output": output, "epochs": len(history),
        "reason": history.reason, "last": history.rows[-1], **measured,
    }  # fmt: skip


def _optimizer(args: argparse.Namespace, parameters: list[Any]) -> Any:
    from .. import optim

    if not parameters:
        raise TrainingError("--freeze leaves nothing to train")
    usual, name, settings = OPTIMIZERS[args.optimizer]
    return getattr(optim, name)(parameters, lr=args.lr or usual, **settings(args))


def _schedule(args: argparse.Namespace, optimizer: Any, steps: int) -> tuple[Any, str]:
    """A schedule over all updates, and how often it steps."""
    from .. import optim

    total, warmup = args.epochs * steps, args.warmup * steps
    if args.warmup >= args.epochs:
        raise TrainingError(f"--warmup {args.warmup}: expected fewer than --epochs {args.epochs}")
    if args.warmup and args.schedule in ("one-cycle", "plateau"):
        raise TrainingError(f"--warmup {args.warmup}: --schedule {args.schedule} takes none")
    rest = total - warmup
    if args.schedule == "one-cycle":
        rate = float(optimizer.param_groups[0]["lr"])
        return optim.OneCycleLR(optimizer, rate, total_steps=total), "step"
    if args.schedule == "plateau":
        return optim.ReduceLROnPlateau(optimizer, patience=3), "epoch"
    after: Any = None
    first = optim.LinearLR(optimizer, 0.01, total_iters=warmup) if warmup else None
    if args.schedule == "cosine":
        after = optim.CosineAnnealingLR(optimizer, rest)
    elif args.schedule == "step":
        after = optim.MultiStepLR(optimizer, sorted({max(1, rest // 3), max(1, rest * 2 // 3)}))
    if first is None or after is None:
        return first or after, "step"
    return optim.SequentialLR(optimizer, [first, after], [warmup]), "step"
