"""Characters known from one drawing each."""

from __future__ import annotations

from ..face import Recognizer, load_encoder
from ..face.sheet import sheet
from .registry import Picture, Shown, bundled, part, tiles, timed

_EVERYBODY = 4.0  # the largest squared distance of encodings: nobody is unknown


@part(
    "face",
    "Known from one picture",
    "cnnfast face enroll FOLDER -o known.safetensors --shift 2\n"
    "cnnfast face identify unseen.png --database known.safetensors --shift 2 --threshold 0.9",
)
def face() -> Shown:
    """One-shot recognition of handwritten characters; faces go the same way with an encoder of faces."""
    known, label, _ = bundled("one-shot")[0]
    enrolled, asked = tiles("characters.png", 2, 20)
    encoder = load_encoder(known.name, label, shift=2)
    recognizer = Recognizer(encoder, threshold=_EVERYBODY)
    names = [f"{i:02}" for i in range(1, len(enrolled) + 1)]
    for name, drawing in zip(names, enrolled, strict=True):
        recognizer.enrol(name, drawing)
    said = [recognizer.identify(drawing).candidates[0] for drawing in asked]
    right = [one.name == name for one, name in zip(said, names, strict=True)]
    captions = [f"{name}\n" for name in names]
    captions += [f"taken for {one.name}\n{one.value:.2f}" for one in said]
    page = sheet([*enrolled, *asked], captions, good=[*[None] * len(names), *right], side=72, columns=10)
    return Shown(
        "Two rows of characters that the encoder has never seen, each known from one drawing; below them the "
        "same characters by another hand, whose drawing is nearest, and the squared distance to it "
        "(encodings are means over nine shifts). This is the first of the twenty official one-shot runs of "
        "Omniglot; chance is right once in twenty times.",
        {
            "characters": len(names),
            "right": sum(right),
            "milliseconds a drawing": timed(encoder, asked[0])[1],
        },
        [Picture("characters", "two rows that are known, two that are recognised; red is wrong", page)],
    )
