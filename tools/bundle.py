"""Put trained weights among those that come with the package: ``python tools/bundle.py FILE [NAME]``.

Weights of two and more axes are rounded to half precision, which halves the file and moves results in the
fourth digit; biases and statistics stay as they are. What the card states is measured on the file written.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import cnnfast as cf
from cnnfast.weights import read_metadata

FOLDER = Path(__file__).parents[1] / "python" / "cnnfast" / "bundled"
LIMIT, TOGETHER = 1_500_000, 4_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trained", type=Path)
    parser.add_argument("name", nargs="?", help="default: that of the file")
    args = parser.parse_args()
    state = cf.load_weights(args.trained)
    half = {name: a.astype(np.float16) if a.ndim > 1 else a for name, a in state.items()}
    strange = [name for name, a in half.items() if not np.isfinite(a).all()]
    if strange:
        raise SystemExit(f"bundle: no half precision for {', '.join(strange)}")
    target = FOLDER / f"{args.name or args.trained.stem}.safetensors"
    cf.save_weights(target, half, metadata=read_metadata(args.trained))
    size = target.stat().st_size
    total = sum(file.stat().st_size for file in FOLDER.glob("*.safetensors"))
    print(f"{target.name}: {size:,} bytes, all together {total:,}")
    if size > LIMIT or total > TOGETHER:
        raise SystemExit(f"bundle: at most {LIMIT:,} bytes each, {TOGETHER:,} together")


if __name__ == "__main__":
    main()
