"""``cnnfast evaluate``: how good a network is on a folder of pictures and what is known of them.

  cnnfast evaluate --model lenet5 --weights lenet5.safetensors --data fashion-mnist
  cnnfast evaluate --model yolov3_small --weights bccd --data BCCD
  cnnfast evaluate --model unet_small --weights nuclei --data nuclei --foreground --last 60
  cnnfast evaluate --model character_encoder --weights omniglot --data all_runs.zip --shift 2

--weights is what 'cnnfast train' wrote, any weights file of the network, or the name of published weights;
for classes of pictures a checkpoint as well. Data as for 'cnnfast train'; of its parts the test pictures are
taken, or those for validation where there are none. Measured are
  classes of pictures  loss and accuracy
  boxes                average precision at an overlap of .5, as Pascal VOC has it, and its mean
  classes of pixels    Dice, mean of the pictures; mean IoU and accuracy of all their pixels
  encodings            accuracy in Omniglot's one-shot runs, which are the data here
"""

from __future__ import annotations

import argparse
import json
import time

from ..errors import CnnfastError, TrainingError
from ..models.registry import entry
from .networks import input_size, model_name, positive
from .train import count

PARTS = ("test", "validation", "train")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__.partition("\n\n")[2]
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--model", required=True, type=model_name, metavar="NAME", help="a network of 'cnnfast models'")
    add("--weights", required=True, metavar="FILE|NAME", help="a file, or published weights")
    add("--data", required=True, metavar="FOLDER", help="pictures and their labels, boxes or masks")
    add("--part", choices=PARTS, help="(default: test, or validation, or train, the first that is there)")
    add("--last", type=positive, metavar="N", help="only the last N pictures of the part")
    add("--input", type=input_size, metavar="HxWxC", help="classes of pictures: size of the input (default: "
        "as trained)")  # fmt: skip
    add("--foreground", action="store_true", help="classes of pixels: one class for all that is not 0, as "
        "where masks number their things")  # fmt: skip
    add("--shift", type=count, default=0, metavar="PIXELS", help="encodings: the mean of those of pictures "
        "moved by so much, too")  # fmt: skip
    add("--batch-size", type=positive, default=64, metavar="N", help="(default: 64)")
    add("--workers", type=count, default=0, metavar="N", help="processes that prepare batches (default: 0)")
    add("--threads", type=positive, metavar="N", help="threads of the kernels (default: all cores)")
    add("--quiet", action="store_true", help="no progress on stderr")
    add("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    from .measures import MEASURES
    from .tasks import task_of

    known = entry(args.model)
    started = time.monotonic()
    try:
        found = MEASURES[task_of(known)](args, known)
    except CnnfastError:
        raise
    except ValueError as error:  # of a size: what to change is in the message
        raise TrainingError(str(error)) from error
    seconds = time.monotonic() - started
    if args.json:
        facts = {"model": args.model, "weights": args.weights, "data": args.data, "part": found.part}
        print(
            json.dumps({**facts, "pictures": found.pictures, **found.numbers, "seconds": seconds}, indent=2)
        )
        return 0
    classes = f" of {len(found.classes)} classes" if found.classes else ""
    print(f"{args.data}: {found.pictures} pictures{classes} ({found.part}), {seconds:.1f} s")
    width = max(10, *map(len, found.numbers))
    for name, value in found.numbers.items():
        print(f"  {name:<{width}}" + (f"{value:.4f}" if name == "loss" else f"{100 * value:.2f} %"))
    return 0
