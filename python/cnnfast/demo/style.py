"""A photograph with the textures of a painting, by a network that has learnt nothing."""

from __future__ import annotations

import numpy as np

from ..models.vgg import vgg_features
from ..pictures import load_picture
from ..style import Features, fitted, transfer
from .registry import PICTURES, Picture, Shown, part, timed

_SIZE, _ITERATIONS = 256, 40
_LAYERS = ("conv1_1", "conv2_1", "conv3_1")


@part(
    "style",
    "A photograph, painted",
    "cnnfast style photo.jpg painting.jpg -o result.png --weights torchvision",
)
def style() -> Shown:
    """Style transfer with random filters."""
    trunk = vgg_features(11).initialize(0)
    features = Features({f"features.{name}": array for name, array in trunk.state_dict("torch").items()})
    content, example = (
        fitted(load_picture(PICTURES / f"{name}.jpg"), _SIZE)[0] for name in ("photo", "painting")
    )
    made, time = timed(
        lambda: transfer(
            content,
            example,
            features,
            iterations=_ITERATIONS,
            content_layers={_LAYERS[-1]: 1.0},
            style_layers=dict.fromkeys(_LAYERS, 1 / len(_LAYERS)),
        ),
        runs=1,
    )
    first, last = made.rows[0]["style"], made.rows[-1]["style"]
    return Shown(
        "L-BFGS moves the pixels of the photograph until the Gram matrices of their features are near those "
        "of the painting. No trained VGG comes with the package, so the features are those of a VGG-11 with "
        "random weights: colours and fine textures move over, brush strokes need trained ones.",
        {"iterations": len(made.rows), "seconds": time / 1000, "style cost, last over first": last / first},
        [
            Picture("style_content", "the photograph", np.rint(content).clip(0, 255).astype(np.uint8)),
            Picture("style_painting", "the painting", np.rint(example).clip(0, 255).astype(np.uint8)),
            Picture("style", "the photograph with the painting's textures", made.picture),
        ],
    )
