"""``cnnfast style``: a picture with the content of one and the textures of another.

  cnnfast style photo.jpg painting.jpg -o result.png --weights vgg19.pth --size 512
  cnnfast style photo.jpg painting.jpg -o result.png --weights torchvision --memory 1GiB \\
    --preview so-far.jpg --checkpoint run.safetensors

--weights: a file with the convolutions of a VGG-11, 13, 16 or 19 under torchvision's names (.pth,
.safetensors, .npz), or 'torchvision': VGG-19, fetched once and kept. A file with a classifier is taken for
one of torchvision's, one of convolutions alone for the original weights; --pixels says otherwise.

--checkpoint is replaced every --every iterations and on Ctrl-C; the same command with --resume goes on from
it as if it had not been stopped, to the last bit.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import time
from typing import Any

from ..errors import PictureError, TrainingError
from .networks import positive
from .train import above_zero, count, from_zero

# Reading a picture: float32 and the decoder's pixels, those resized along one side, and bands of it aside.
_READING, _ASIDE = 12 + 4 + 4, 40 << 20
_UNITS = {"": 0, "k": 10, "m": 20, "g": 30}
_MEMORY = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)\s*([kmg])?(i?b)?", re.IGNORECASE)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__.partition("\n\n")[2]
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("content", metavar="CONTENT", help="picture that is painted anew")
    add("style", metavar="STYLE", help="picture whose textures are taken")
    add("-o", "--output", required=True, metavar="FILE", help="picture to write, e.g. result.png")
    add("--weights", required=True, metavar="FILE|NAME", help="convolutions of a VGG, or 'torchvision'")
    add("--pixels", choices=("caffe", "torchvision"),
        help="what the weights were trained on (default: as the file looks)")  # fmt: skip

    group = parser.add_argument_group("picture")
    add = group.add_argument
    add("--size", type=positive, default=512, metavar="N", help="longer side of the result (default: 512)")
    add("--style-scale", type=above_zero, default=1.0, metavar="F",
        help="longer side of the style picture, in sizes of the result (default: 1)")  # fmt: skip
    add("--init", default="content", metavar="content|noise|FILE", help="where to begin (default: content)")
    add("--seed", type=count, default=0, metavar="N", help="of the noise (default: 0)")

    group = parser.add_argument_group("what is minimised")
    add = group.add_argument
    add("--content-weight", type=from_zero, metavar="A", help="(default: 1)")
    add("--style-weight", type=from_zero, metavar="B", help="(default: as suits the scale of the weights)")
    add("--tv-weight", type=from_zero, metavar="C", help="of the total variation: smooths (default: 0)")
    add("--content-layers", type=layers, metavar="L,L", help="e.g. conv4_2, or conv3_2:.5,conv4_2:.5")
    add("--style-layers", type=layers, metavar="L,L", help="(default: conv1_1 to conv5_1, .2 each)")
    add("--content-scale", choices=("half", "mean_half", "mean_quarter"), default="mean_quarter",
        help="1/2, 1/(2n) or 1/(4n) of the squared distance (default: mean_quarter)")  # fmt: skip
    add("--pooling", choices=("max", "avg"), default="max", help="(default: max)")

    group = parser.add_argument_group("run")
    add = group.add_argument
    add("--iterations", type=positive, default=300, metavar="N", help="in all (default: 300)")
    add("--optimizer", choices=("lbfgs", "adam"), default="lbfgs", help="(default: lbfgs)")
    add("--lr", type=above_zero, metavar="RATE", help="learning rate (default: 1 for lbfgs, 4 for adam)")
    add(
        "--memory",
        type=memory,
        metavar="SIZE",
        help="the most that the process may take, e.g. 800MB or 1.5GiB",
    )
    add("--preview", metavar="FILE", help="picture of what there is so far; {} in the name stands for the "
        "number of iterations")  # fmt: skip
    add("--checkpoint", metavar="FILE", help="where the run is kept (.safetensors)")
    add("--every", type=positive, default=50, metavar="N", help="iterations between previews, and between "
        "checkpoints (default: 50)")  # fmt: skip
    add("--resume", action="store_true", help="go on from the checkpoint, if it is there")
    add("--force", action="store_true", help="replace files that are there")
    add("--threads", type=positive, metavar="N", help="threads of the kernels (default: all cores)")
    add("--quiet", action="store_true", help="no progress on stderr")
    add("--json", action="store_true", help="print one JSON object at the end")


def layers(text: str) -> dict[str, float]:
    """For argparse: names of layers, with weights or of equal ones that add up to 1."""
    names: dict[str, float | None] = {}
    for part in text.split(","):
        name, colon, weight = part.strip().partition(":")
        names[name] = from_zero(weight) if colon else None
    if "" in names or (None in names.values() and any(w is not None for w in names.values())):
        raise argparse.ArgumentTypeError(
            f"expected layers like conv3_1,conv4_1, or all with weights like conv3_1:.5, got {text!r}"
        )
    return {name: 1 / len(names) if weight is None else weight for name, weight in names.items()}


def memory(text: str) -> int:
    """For argparse: a number of bytes; units are powers of 1024."""
    found = _MEMORY.fullmatch(text.strip())
    size = int(float(found[1]) * (1 << _UNITS[(found[2] or "").lower()])) if found else 0
    if size < 1:
        raise argparse.ArgumentTypeError(f"expected a size like 800MB or 1.5GiB, got {text!r}")
    return size


def run(args: argparse.Namespace) -> int:
    from .. import style
    from ..config import get_num_threads, set_num_threads
    from ..pictures import picture_format, save_picture
    from ..style.memory import check

    for name in filter(None, (args.output, args.preview)):
        picture_format(name)  # before the work
    if args.resume and not args.checkpoint:
        raise TrainingError("--resume needs --checkpoint FILE")
    if args.checkpoint and os.path.splitext(args.checkpoint)[1].lower() != ".safetensors":
        raise TrainingError(f"{args.checkpoint}: expected a name that ends in .safetensors")
    _check_place(args)
    threads = get_num_threads()
    if args.threads:
        set_num_threads(args.threads)
    started = time.monotonic()
    chosen = {None: None, "caffe": style.CAFFE, "torchvision": style.TORCHVISION}[args.pixels]
    given: dict[str, Any] = {
        "content_weight": args.content_weight, "style_weight": args.style_weight,
        "variation_weight": args.tv_weight, "content_layers": args.content_layers,
        "style_layers": args.style_layers, "lr": args.lr, "memory": args.memory,
    }  # fmt: skip

    def preview(done: int, picture: Any) -> None:
        save_picture(args.preview.replace("{}", str(done)), picture)

    try:
        content = style.fitted(_picture(args.content, args.memory), args.size)[0]
        example = style.fitted(_picture(args.style, args.memory), args.size, args.style_scale)[0]
        init = args.init if args.init in ("content", "noise") else _picture(args.init, args.memory)
        features = style.load_features(args.weights, pixels=chosen, pooling=args.pooling)
        check(args.memory, "reading pictures and weights")
        made = style.transfer(
            content,
            example,
            features,
            iterations=args.iterations,
            init=init,
            optimizer=args.optimizer,
            content_scale=args.content_scale,
            seed=args.seed,
            preview=preview if args.preview else None,
            preview_every=args.every,
            checkpoint=args.checkpoint,
            checkpoint_every=args.every,
            resume=args.resume,
            progress=not args.quiet,
            **{name: value for name, value in given.items() if value is not None},
        )
    except (PictureError, FileExistsError):
        raise
    except ValueError as error:  # of a layer, a weight, a size: what to change is in the message
        raise TrainingError(str(error)) from error
    finally:
        set_num_threads(threads)
    save_picture(args.output, made.picture)
    rows, columns, _ = made.picture.shape
    first, last = made.rows[0], made.rows[-1]
    if args.json:
        report = {
            "content": args.content, "style": args.style, "output": args.output, "width": columns,
            "height": rows, "iterations": len(made.rows), "first": first, "last": last,
            "style_weight": made.style_weight, "packed": made.plan.packed, "segments": len(made.plan.starts),
            "seconds": time.monotonic() - started,
        }  # fmt: skip
        print(json.dumps(report, indent=2))
    else:
        print(
            f"{args.output}: {columns} x {rows} after {len(made.rows)} iterations, "
            f"loss {first['total']:.6g} -> {last['total']:.6g}"
        )
    return 0


def _picture(path: str, memory: int | None) -> Any:
    """A picture; one that is too large for the memory is not read at all."""
    from ..pictures import load_picture, picture_size
    from ..style.memory import check

    if memory is not None:
        rows, columns = picture_size(path)
        check(memory, f"{path}, a picture of {columns} x {rows} pixels,", _READING * rows * columns + _ASIDE)
    return load_picture(path)


def _check_place(args: argparse.Namespace) -> None:
    """A run is not written over by a command that was typed twice."""
    if not args.checkpoint or args.resume or not os.path.lexists(args.checkpoint):
        return
    if not args.force:
        raise FileExistsError(
            17, "exists already; --resume goes on from it, --force replaces it", args.checkpoint
        )
    os.unlink(args.checkpoint)
