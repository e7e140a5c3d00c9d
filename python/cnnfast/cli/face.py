"""``cnnfast face``: who is it, and is it the same, from one picture each.

  cnnfast face enroll people/ --model encoder.onnx --detector yunet.onnx -o people.safetensors
  cnnfast face calibrate known/ --database people.safetensors --model ... --detector ... --far 0.001
  cnnfast face identify party.jpg --database people.safetensors --model ... --detector ...
  cnnfast face verify a.jpg b.jpg --threshold 1.1 --model ... --detector ...

Any encoder will do: an ONNX file, or a registered network with --weights; without either, character_encoder
tells handwritten characters apart. With --detector (YuNet's ONNX file) faces are found and aligned by their
landmarks, without it pictures are encoded as they are. A folder stands for the pictures in it: those of a
folder within it are of whoever it is named after, others of whoever their file is named after. The database
remembers the threshold and refuses encodings of another encoder.

Exit status: 0 the same, or everybody is known; 3 not the same, or somebody is unknown; 2 an error.
A picture that cannot be read, or has no face, is told on stderr, the others are done, and the status is 2.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..data.files import pictures_below
from ..errors import DataError, PictureError, ShapeError
from ..face import MEASURES, Encoder, Gallery, Identification, Recognizer, YuNet, load_encoder
from ..face.sheet import sheet
from ..pictures import picture_format, save_picture
from ..train.progress import Progress
from .failures import FAILED, tell
from .labelled import Recipe
from .networks import input_size, network, number, numbers, positive
from .train import count

_NO = 3  # "no" is an answer and no error
_SIGNS = {
    ("squared_distance", True): "<=",
    ("squared_distance", False): ">",
    ("cosine_similarity", True): ">=",
    ("cosine_similarity", False): "<",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__.partition("\n\n")[2]
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    enroll = _action(actions, "enroll", _enroll, "put people into a database, from one picture each or more")
    enroll.add_argument(
        "pictures", nargs="+", metavar="PICTURE|FOLDER", help="pictures, named after whom they show"
    )
    enroll.add_argument("--name", help="whom all the pictures show")
    enroll.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="FILE",
        help="database (.safetensors); extended where it is there",
    )
    enroll.add_argument("--measure", choices=MEASURES, help=f"for a new database (default: {MEASURES[0]})")

    verify = _action(
        actions, "verify", _verify, "say whether two pictures, or one and a name, are the same (1:1)"
    )
    verify.add_argument("pictures", nargs="+", metavar="PICTURE", help="two, or one with --name")
    verify.add_argument("--name", help="whom the picture is claimed to show, of those in the database")
    verify.add_argument("--database", metavar="FILE", help="what 'enroll' wrote; its threshold is taken")
    verify.add_argument("--measure", choices=MEASURES, help=f"without a database (default: {MEASURES[0]})")
    verify.add_argument("-o", "--output", metavar="FILE", help="picture to write of what was compared")

    identify = _action(
        actions, "identify", _identify, "say who pictures show, or that they are unknown (1:K)"
    )
    identify.add_argument("pictures", nargs="+", metavar="PICTURE|FOLDER")
    identify.add_argument("--database", required=True, metavar="FILE", help="what 'enroll' wrote")
    identify.add_argument(
        "--topk", type=positive, default=3, metavar="K", help="nearest to tell (default: 3)"
    )
    identify.add_argument(
        "-o", "--output", metavar="FILE", help="picture to write with all of them and their names"
    )

    calibrate = _action(
        actions, "calibrate", _calibrate, "choose the threshold of a database by pictures that are known"
    )
    calibrate.add_argument("folder", metavar="FOLDER", help="a folder of pictures for each person or thing")
    calibrate.add_argument("--database", required=True, metavar="FILE", help="whose threshold is set")
    calibrate.add_argument(
        "--far", type=_rate, default=1e-3, metavar="RATE", help="false accepts to allow (default: .001)"
    )
    calibrate.add_argument("-o", "--output", metavar="FILE", help="picture of the curve (needs matplotlib)")

    for each in (enroll, verify, identify, calibrate):
        add = each.add_argument
        if each in (verify, identify):
            add("--threshold", type=number, metavar="T", help="same: distance <= T, or similarity >= T")
        add("--model", type=network, default="character_encoder", metavar="NAME|FILE.onnx",
            help="the encoder (default: character_encoder)")  # fmt: skip
        add("--weights", metavar="FILE|NAME", help="weights of a registered network")
        add("--input", type=input_size, metavar="HxW", help="size that the encoder takes (default: its own)")
        add("--mean", type=numbers, metavar="M", help="of values in 0..1; one number, or three with commas")
        add("--std", type=numbers, metavar="S", help="(default: as the weights were trained, or .5 and .5)")
        add("--shift", type=count, default=0, metavar="PIXELS",
            help="encode pictures moved by so much, too, and take the mean")  # fmt: skip
        add("--detector", metavar="FILE.onnx", help="YuNet: find and align faces")
        add("--quiet", action="store_true", help="no progress on stderr")
        add("--json", action="store_true", help="print one JSON object")


def _action(
    actions: Any, name: str, run: Callable[[argparse.Namespace], int], what: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(
        name, help=what, description=what[0].upper() + what[1:] + "."
    )
    parser.set_defaults(act=run)
    return parser


def run(args: argparse.Namespace) -> int:
    return int(args.act(args))


# --- the actions ------------------------------------------------------------------------------------


def _enroll(args: argparse.Namespace) -> int:
    encoder = _encoder(args)
    gallery = Gallery.load(args.output) if os.path.exists(args.output) else None
    who = Recognizer(encoder, gallery, measure=args.measure)
    if not args.output.lower().endswith(".safetensors"):
        raise DataError(f"{args.output}: expected a name that ends in .safetensors")
    found = list(_named(args.pictures, args.name))
    added = known = 0
    failed: list[dict[str, str]] = []
    for name, path in _each(found, not args.quiet):
        try:
            new = who.enrol(name, path)
        except (PictureError, OSError) as error:
            failed.append({"picture": path, "error": tell(path, error)})
            continue
        added, known = added + new, known + (not new)
    if added or (gallery is None and not failed):
        who.save(args.output)
    elif gallery is None:
        return FAILED
    names = len(who.gallery.people)
    if args.json:
        facts = {"database": args.output, "names": names, "encodings": len(who.gallery)}
        print(json.dumps({**facts, "added": added, "known": known, "failed": failed}, indent=2))
    else:
        again = f", {known} known already" if known else ""
        print(f"{args.output}: {names} names, {len(who.gallery)} pictures ({added} added{again})")
    return FAILED if failed else 0


def _verify(args: argparse.Namespace) -> int:
    if len(args.pictures) != (1 if args.name else 2):
        raise DataError(
            f"expected two pictures, or one with --name, got {len(args.pictures)}"
            + (" with --name" if args.name else "")
        )
    if args.name and not args.database:
        raise DataError("expected --database with --name, got none")
    who = _recognizer(args)
    seen = [who.encoder.seen(path) for path in args.pictures]
    f = who.encoder.encode(seen)
    found = who.verify_encoding(args.name, f[0]) if args.name else who.compare_encodings(f[0], f[1])
    if args.output:
        words = ["same" if found.same else "different", f"{found.value:.3f}"]
        names = [Path(path).stem for path in args.pictures]
        captions = [f"{name}\n{word}" for name, word in zip(names, words, strict=False)]
        save_picture(args.output, sheet(seen, captions, good=[found.same] * len(seen)))
    if args.json:
        print(json.dumps({"pictures": args.pictures, "name": args.name, **found.__dict__}, indent=2))
    else:
        sign = _SIGNS[found.measure, found.same]
        print(
            f"{'same' if found.same else 'different'}: {found.measure.replace('_', ' ')} "
            f"{found.value:.4f} {sign} {found.threshold:.4f}"
        )
    return 0 if found.same else _NO


def _identify(args: argparse.Namespace) -> int:
    who = _recognizer(args)
    results: list[dict[str, Any]] = []
    pictures, captions, good = [], [], []
    failed = unknown = False
    for _, path in _each(list(_named(args.pictures, None)), args.json and not args.quiet):
        try:
            seen, boxes = _seen(who.encoder, path)
            found = who.identify_encodings(who.encoder.encode(seen), topk=args.topk)
        except (PictureError, ShapeError, OSError) as error:
            failed = True
            results.append({"picture": path, "error": tell(path, error)})
            continue
        for picture, box, one in zip(seen, boxes, found, strict=True):
            unknown |= one.name is None
            nearest = [candidate.__dict__ for candidate in one.candidates]
            results.append({"picture": path, "box": box, "name": one.name, "nearest": nearest})
            if args.output:
                pictures.append(picture)
                captions.append(_caption(one))
                good.append(one.name is not None)
            if not args.json:
                place = "" if box is None else f" ({', '.join(f'{v:.0f}' for v in box)})"
                others = ", ".join(f"{c.name} {c.value:.3f}" for c in one.candidates)
                print(f"{path}{place}: {one.name or 'unknown'}  [{others}]", flush=True)
    if args.output and pictures:
        save_picture(args.output, sheet(pictures, captions, good=good))
    if args.json:
        facts = {"database": args.database, "measure": who.measure, "threshold": who.threshold}
        print(json.dumps({**facts, "results": results}, indent=2))
    return FAILED if failed else _NO if unknown else 0


def _calibrate(args: argparse.Namespace) -> int:
    encoder = _encoder(args)
    who = Recognizer(encoder, Gallery.load(args.database))
    found = list(_named([args.folder], None))
    encodings, labels, failed = [], [], []
    for name, path in _each(found, not args.quiet):
        try:
            encodings.append(encoder(path)[0])
        except (PictureError, OSError) as error:
            failed.append({"picture": path, "error": tell(path, error)})
            continue
        labels.append(name)
    if len(set(labels)) < 2:
        raise DataError(f"{args.folder}: expected pictures of two people or more, got {len(set(labels))}")
    curve = who.calibrate_encodings(np.stack(encodings), labels, false_accept_rate=args.far)
    if args.output:
        curve.plot(args.output)
    who.save(args.database)
    facts = {
        "database": args.database,
        "measure": who.measure,
        "threshold": who.threshold,
        "false_accept_rate": args.far,
        "true_accept_rate": curve.true_accept_at(args.far),
        "equal_error_rate": curve.eer,
        "area_under_curve": curve.auc,
        "pairs_same": curve.same,
        "pairs_different": curve.different,
    }
    if args.json:
        print(json.dumps({**facts, "failed": failed}, indent=2))
    else:
        print(
            f"{args.database}: {who.measure.replace('_', ' ')} {who.threshold:.4f} accepts "
            f"{100 * curve.true_accept_at(args.far):.2f} % of {curve.same} pairs of the same and at most "
            f"{100 * args.far:g} % of {curve.different} others; equal error rate {100 * curve.eer:.2f} %"
        )
    return FAILED if failed else 0


# --- what they share --------------------------------------------------------------------------------


def _encoder(args: argparse.Namespace) -> Encoder:
    if args.output and args.act in (_verify, _identify):
        picture_format(args.output)  # before the work
    recipe = Recipe.of(args.weights) if args.weights else None  # of cnnfast train
    return load_encoder(
        args.model,
        args.weights,
        input_size=args.input[:2] if args.input else recipe.size[:2] if recipe else None,
        mean=args.mean or (recipe.mean if recipe else None),
        std=args.std or (recipe.std if recipe else None),
        shift=args.shift,
        detector=None if args.detector is None else YuNet(args.detector),
    )


def _recognizer(args: argparse.Namespace) -> Recognizer:
    """With the database and a threshold."""
    gallery = Gallery.load(args.database) if args.database else None
    measure = getattr(args, "measure", None)
    who = Recognizer(_encoder(args), gallery, measure=measure, threshold=args.threshold)
    if who.gallery.threshold is None:
        raise DataError("expected --threshold, or a database that 'cnnfast face calibrate' has set one in")
    return who


def _seen(encoder: Encoder, path: str) -> tuple[list[np.ndarray], list[list[float] | None]]:
    """All faces of a picture with their boxes, or the picture as it is."""
    if encoder.detector is None:
        return [encoder.seen(path)], [None]
    faces, aligned = encoder.faces(path)
    if not aligned:
        raise PictureError(f"{path}: expected a face in the picture, found none")
    return aligned, [[round(float(v), 1) for v in box] for box in faces.boxes]


def _named(paths: list[str], name: str | None) -> Iterator[tuple[str, str]]:
    """Pictures with the names of whom they show."""
    for path in paths:
        if not os.path.isdir(path):
            yield name or Path(path).stem, path
            continue
        found = list(pictures_below(Path(path)))
        if not found:
            raise DataError(f"{path}: expected pictures in the folder, got none")
        for picture in found:
            within = picture.relative_to(path).parts
            yield name or (within[0] if len(within) > 1 else picture.stem), str(picture)


def _each(found: list[tuple[str, str]], shown: bool) -> Iterator[tuple[str, str]]:
    """One after the other with a bar on stderr."""
    bar = Progress(shown, len(found), unit="picture")
    try:
        for one in found:
            yield one
            bar.step(os.path.basename(one[1]))
    finally:
        bar.close()


def _caption(one: Identification) -> str:
    """Who it is and how near, or who would have been nearest."""
    if not one.candidates:
        return "unknown"
    nearest = one.candidates[0]
    return f"{one.name}\n{nearest.value:.2f}" if one.name else f"unknown\n{nearest.name} {nearest.value:.2f}"


def _rate(text: str) -> float:
    """For argparse: a rate in 0..1."""
    value = number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a rate in 0..1, got {text!r}")
    return value
