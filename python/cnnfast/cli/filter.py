"""``cnnfast filter``: one convolution over a photograph.

The picture is turned into luma (0..255) and filtered with its border repeated outwards, so that the
frame is no edge. Two-way gradients (sobel, scharr, prewitt) give the length of (x, y). Of the result,
kernels whose weights sum to zero, the edge detectors, give the absolute value, others the value itself;
it is rounded to the nearest whole number and cut to 0..255. Nothing is stretched: equal edges are equally
bright in every picture.
"""

from __future__ import annotations

import argparse
import json
import os

import numpy as np

from .. import config, filters, ops
from ..config import use_backend
from ..pictures import load_picture, picture_format, save_picture

GRADIENTS = {
    "sobel": ("SOBEL_X", "SOBEL_Y"),
    "scharr": ("SCHARR_X", "SCHARR_Y"),
    "prewitt": ("PREWITT_X", "PREWITT_Y"),
}
KERNELS = {name: (name.upper(),) for name in ("vertical", "horizontal")} | {
    name.lower(): (name,) for pair in GRADIENTS.values() for name in pair
}
NAMES = (*GRADIENTS, *KERNELS)
_BAND = 1 << 22  # output pixels at a time


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__.partition("\n\n")[2]
    parser.add_argument("picture", metavar="PICTURE", help="any photograph that Pillow reads")
    parser.add_argument(
        "--kernel",
        type=parse_kernel,
        default="sobel",
        metavar="NAME|ROWS",
        help=f"{', '.join(NAMES)}, or rows such as '1,0,-1;1,0,-1;1,0,-1' (default: sobel)",
    )
    parser.add_argument(
        "-o", "--output", required=True, metavar="FILE", help="picture to write, e.g. edges.png"
    )
    parser.add_argument(
        "--backend", choices=config.BACKENDS, help="default: cpu, or numpy without native module"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object about what was done")


def run(args: argparse.Namespace) -> int:
    if args.backend:
        use_backend(args.backend)
    backend = config.current_backend()
    picture_format(args.output)  # before the work
    picture = load_picture(args.picture, channels=1)
    kernel = args.kernel
    save_picture(args.output, filter_picture(picture, kernel))
    height, width, _ = picture.shape
    if args.json:
        done = {
            "picture": os.fspath(args.picture),
            "width": width,
            "height": height,
            "kernel": kernel.transpose(2, 0, 1).tolist(),
            "backend": backend,
            "output": os.fspath(args.output),
        }
        print(json.dumps(done))
    else:
        print(f"{args.output}: {width} x {height}, backend {backend}")
    return 0


def parse_kernel(text: str) -> np.ndarray:
    """A kernel (KH, KW, filters) of a name, or of rows of numbers."""
    name = text.strip().lower().replace("-", "_")
    if name in GRADIENTS or name in KERNELS:
        names = GRADIENTS.get(name) or KERNELS[name]
        return np.stack([getattr(filters, n) for n in names], axis=2)
    rows = [row.split(",") for row in text.strip().strip(";").split(";")]
    try:
        values = [[float(value) for value in row] for row in rows]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither one of {', '.join(NAMES)} nor rows like '1,0,-1;2,0,-2;1,0,-1'"
        ) from None
    if len({len(row) for row in values}) != 1:
        raise argparse.ArgumentTypeError(f"the rows of {text!r} have different lengths")
    kernel = np.array(values, np.float64)
    if not (np.abs(kernel) <= 1e6).all():
        raise argparse.ArgumentTypeError(f"the numbers of {text!r} must lie between -1e6 and 1e6")
    return kernel.astype(np.float32)[..., None]


def filter_picture(picture: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Filter luma (H, W, 1) with a kernel (KH, KW, filters) to 8 bits (H, W); see the module docstring."""
    height, width, _ = picture.shape
    kh, kw, count = kernel.shape
    weight = np.ascontiguousarray(kernel[:, :, None, :])
    above, left = (kh - 1) // 2, (kw - 1) // 2
    edges = bool((np.abs(kernel.sum(axis=(0, 1))) <= 1e-6 * np.abs(kernel).sum(axis=(0, 1))).all())
    result = np.empty((height, width), np.uint8)
    rows = max(1, _BAND // width)
    columns = np.clip(np.arange(-left, width + kw - 1 - left), 0, width - 1)
    for top in range(0, height, rows):
        bottom = min(height, top + rows)
        needed = np.clip(np.arange(top - above, bottom + kh - 1 - above), 0, height - 1)
        band = picture[needed][:, columns]
        response = ops.conv2d(band[None], weight)[0]
        if count > 1:
            value = np.sqrt(np.square(response).sum(axis=2))
        else:
            value = np.abs(response[..., 0]) if edges else response[..., 0]
        result[top:bottom] = np.clip(np.rint(value), 0, 255)
    return result
