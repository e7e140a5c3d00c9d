"""What the best classifier of garments has learnt."""

from __future__ import annotations

import numpy as np

from ..data.idx import MNIST
from ..data.preprocess import Preprocess
from ..inspect import contact_sheet, crop, feature_maps, filter_pictures, grad_cam, grey, overlay, top_patches
from ..models.registry import create_model, entry
from .registry import Picture, Shown, part, tiles, timed

_NETWORK, _WEIGHTS = "resnet14_grey", "fashion_mnist"
_LAYERS = {"features": "layer1", "patches": "layer2", "class": "layer3"}
_UNITS = range(0, 32, 4)  # of the layer for patches
_SIDE = 84


@part(
    "inspect",
    "What a network has learnt",
    "cnnfast inspect shoe.png --what gradcam --model resnet14_grey --weights fashion_mnist -o seen.png",
)
def inspect() -> Shown:
    """Filters, feature maps, patches that excite units, and where a class is seen."""
    model = create_model(_NETWORK, weights=_WEIGHTS).eval()
    garments = tiles("clothes.png", 10, 10)
    prepare = Preprocess.of(entry(_NETWORK).weights[_WEIGHTS])
    seen = [np.repeat(prepare.pixels(g), 3, axis=2) for g in garments.reshape(-1, 28, 28, 1)]
    x = prepare(list(garments.reshape(-1, 28, 28, 1)))

    filters = filter_pictures(next(iter(model.parameters())).data)
    boot = 90
    maps = feature_maps(model, x[boot : boot + 1], [_LAYERS["features"]])[_LAYERS["features"]][0]
    found, time = timed(top_patches, model, x, _LAYERS["patches"], _UNITS, runs=1)
    patches = [crop(seen[patch.picture], patch.place) for unit in _UNITS for patch in found[unit]]
    cams = [grad_cam(model, x[i : i + 1], _LAYERS["class"]) for i in range(0, 100, 10)]
    heats = [overlay(seen[10 * i], cam.map) for i, cam in enumerate(cams)]
    said = ", ".join(MNIST.FASHION[cam.target] for cam in cams)
    return Shown(
        f"Of {_NETWORK}, with the garments above: weights and activations as pictures, the parts of pictures "
        "that a unit answers to the most, and where the class is seen (Grad-CAM).",
        {"seconds for the patches out of 100 pictures": time / 1000},
        [
            Picture(
                "inspect_filters", "filters of the first convolution", contact_sheet(filters, 8, size=48)
            ),
            Picture(
                "inspect_features",
                f"feature maps of an ankle boot after {_LAYERS['features']}",
                contact_sheet([grey(maps[..., k]) for k in range(16)], 8, size=_SIDE),
            ),
            Picture(
                "inspect_patches",
                f"nine patches each that excite {len(_UNITS)} units of {_LAYERS['patches']} the most",
                contact_sheet(patches, 9, size=_SIDE),
            ),
            Picture("inspect_classes", f"where it is seen: {said}", contact_sheet(heats, 5, size=_SIDE)),
        ],
    )
