"""``cnnfast detect``: what is where in pictures.

Without --model the small network for blood cells that comes with cnnfast looks for red cells, white cells and
platelets. Other networks need --weights: a file, or the name of published weights ('cnnfast models' lists
them), which are fetched once and kept. An ONNX file has its own: YOLOX, or the layout of YOLOv8.

-o draws the boxes; for several pictures it names a folder. A picture that cannot be read is told on stderr,
the others are looked at, and the exit status is 2.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
from pathlib import Path
from statistics import median
from typing import Any

from ..detection.detector import Detector
from ..detection.drawing import draw, label
from ..detection.names import class_names
from ..detection.suppression import METHODS
from ..errors import PictureError, WeightsError
from ..models.registry import create_model, entry, list_models
from ..pictures import load_picture, picture_format, save_picture
from .classify import read_classes
from .failures import FAILED, tell
from .labelled import Recipe
from .networks import ending, input_size, is_onnx, model_name, onnx, positive, share

DEFAULT = "yolov3_small", "bccd"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__.partition("\n\n")[2]
    parser.add_argument("pictures", nargs="+", metavar="PICTURE", help="any photograph that Pillow reads")
    parser.add_argument(
        "--model",
        type=detection_model,
        metavar="NAME|FILE",
        help="a registered network for detection, darknet's description of one (.cfg), or an ONNX file "
        "(default: yolov3_small)",
    )
    parser.add_argument("--weights", metavar="FILE|NAME", help="a weights file or published weights")
    parser.add_argument(
        "--classes", metavar="FILE", help="names of the classes, one a line (default: COCO's, VOC's)"
    )
    parser.add_argument(
        "--threshold", type=share, default=0.25, metavar="T", help="least score (default: 0.25)"
    )
    parser.add_argument(
        "--iou",
        type=share,
        default=0.45,
        metavar="T",
        help="boxes of a class that overlap a better one by more are dropped (default: 0.45)",
    )
    parser.add_argument(
        "--suppression", choices=METHODS, default="hard", help="what becomes of them (default: hard)"
    )
    parser.add_argument(
        "--input", type=input_size, metavar="HxW", help="size a YOLO network sees (default: its own)"
    )
    parser.add_argument("-o", "--output", metavar="FILE|FOLDER", help="where to draw the boxes")
    parser.add_argument(
        "--time",
        type=positive,
        metavar="N",
        help="look at each picture N more times, and say what reading the file takes, and what preparation, "
        "network and boxes take, with their shares (medians)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def detection_model(text: str) -> str:
    """For argparse: a network for detection, or a cfg."""
    if ending(text) == ".cfg" or is_onnx(text):
        return text
    name = model_name(text)
    if entry(name).task != "detection":
        known = ", ".join(list_models("detection"))
        raise argparse.ArgumentTypeError(f"{name} is no network for detection; these are: {known}")
    return name


def run(args: argparse.Namespace) -> int:
    places = _places(args.output, args.pictures)
    detector = detector_of(args)
    results: list[dict[str, Any]] = []
    failed = False
    for name, place in zip(args.pictures, places, strict=True):
        try:
            picture = load_picture(name)
        except (PictureError, OSError) as error:
            failed = True
            results.append({"picture": name, "error": tell(name, error)})
            continue
        found = detector(picture)
        rows = [
            {"class": int(k), "name": label(int(k), detector.names), "score": float(s), "box": b.tolist()}
            for b, s, k in zip(found.boxes, found.scores, found.classes, strict=True)
        ]
        times = _times(detector, name, args.time) if args.time else {}
        if place is not None:
            save_picture(place, draw(picture, found, detector.names))
        if args.json:
            height, width = picture.shape[:2]
            drawn = {} if place is None else {"output": place}
            facts = {"picture": name, "width": width, "height": height, "objects": rows, **drawn}
            results.append({**facts, "milliseconds": times} if times else facts)
            continue
        print(name + (f" -> {place}" if place is not None else ""))
        for row in rows:
            x1, y1, x2, y2 = row["box"]
            corners = f"{x1:8.1f} {y1:8.1f} {x2:8.1f} {y2:8.1f}"
            print(f"  {100 * row['score']:6.2f} %  {corners}  {row['name']}", flush=True)
        if not rows:
            print("  nothing", flush=True)
        if times:
            print("  " + _shares(times), flush=True)
    if args.json:
        model, weights = args.model or DEFAULT[0], args.weights or (None if args.model else DEFAULT[1])
        print(json.dumps({"model": model, "weights": weights, "results": results}, indent=2))
    return FAILED if failed else 0


def _times(detector: Detector, path: str, rounds: int) -> dict[str, float]:
    """Medians of the parts in milliseconds, from the file to boxes; the call that compiled is over."""
    seen = []
    for _ in range(rounds):
        detector(path)
        seen.append(detector.seconds)
    return {part: 1e3 * median(one[part] for one in seen) for part in seen[0]}


def _shares(times: dict[str, float]) -> str:
    """Reading a file has no share: it is the same for every network."""
    parts = {part: ms for part, ms in times.items() if part != "reading"}
    total = sum(parts.values())
    shares = [f"{part} {ms:.2f} ms ({100 * ms / total:.1f} %)" for part, ms in parts.items()]
    return ", ".join([f"reading {times['reading']:.2f} ms", *shares])


def _places(output: str | None, pictures: list[str]) -> list[str | None]:
    """Where each picture is drawn to."""
    if output is None:
        return [None] * len(pictures)
    if os.path.isdir(output):
        places = [str(Path(output) / (Path(name).stem + ".png")) for name in pictures]
        if len(set(places)) < len(places):
            raise PictureError(f"{output}: expected pictures of different names, got one name twice")
        return [*places]
    if len(pictures) > 1:
        raise PictureError(
            f"{output}: expected a folder that is there for {len(pictures)} pictures, got none"
        )
    picture_format(output)  # before the work
    return [output]


def detector_of(args: argparse.Namespace) -> Detector:
    """What the arguments of the command describe."""
    name, weights = args.model, args.weights
    if name is None:
        name, weights = DEFAULT[0], weights or DEFAULT[1]
    names = tuple(read_classes(args.classes)) if args.classes else ()
    recipe = Recipe.of(weights) if weights else None
    if recipe is not None:  # of cnnfast train
        names, args.input = names or recipe.classes, args.input or recipe.size
    sized = name.startswith("yolo") or ending(name) in (".cfg", ".onnx")  # the others count the background
    options: dict[str, Any] = {}
    if ending(name) == ".cfg":
        if not weights:
            raise WeightsError(f"{name}: give --weights FILE")
        model: Any = importlib.import_module("cnnfast.models.darknet").darknet(name, weights)
        data_set = ""
    elif is_onnx(name):
        if weights:
            raise WeightsError(f"{name} has its own weights: leave --weights out")
        model, data_set = onnx().load(name).eval(), ""
    else:
        known = entry(name)
        if not weights:
            published = " or ".join(f"--weights {key}" for key in known.weights)
            raise WeightsError(
                f"{name}: give --weights FILE" + (f", or {published} to fetch them once" if published else "")
            )
        count = len(names) + (0 if sized else 1) if names else None
        if name.startswith("fasterrcnn"):
            options = {"score_threshold": args.threshold, "iou_threshold": args.iou}
        model = create_model(name, num_classes=count, weights=weights, **options)
        data_set = known.weights[weights].classes if weights in known.weights else ""
    detector = Detector(
        model,
        args.input[:2] if args.input and (sized or recipe is None) else None,
        names,
        score_threshold=args.threshold,
        iou_threshold=args.iou,
        suppression=args.suppression,
    )
    if not names:
        detector.names = class_names(detector.classes, data_set)
    return detector
