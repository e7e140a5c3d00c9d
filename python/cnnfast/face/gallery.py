"""The file in which encodings of enrolled pictures are kept."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import DataError, WeightsError
from ..weights import load_weights, read_metadata, save_weights
from ..weights.limits import shown
from .calibration import MEASURES

Array = np.ndarray
Path = str | os.PathLike[str]

__all__ = ["Gallery"]

_NOTE, _VERSION = "cnnfast.face", 1
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass
class Gallery:
    """Encodings with their names.

    Attributes
    ----------
    encodings : ndarray of float32, shape (N, D)
        Each of length 1.
    names : list of str
        Whose each is; a name may have several.
    digests : list of str
        SHA-256 of the pixels that each was made of, so that nothing is encoded twice.
    encoder : str
        Fingerprint of the encoder; "" while there is nothing in it.
    measure : {"squared_distance", "cosine_similarity"}
    threshold : float or None
        Of the measure.
    """

    encodings: Array = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    names: list[str] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    encoder: str = ""
    measure: str = "squared_distance"
    threshold: float | None = None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def people(self) -> list[str]:
        """Each name once, in the order of enrolment."""
        return list(dict.fromkeys(self.names))

    def add(self, name: str, encoding: Any, digest: str) -> None:
        """One encoding more."""
        row = np.asarray(encoding, np.float32).reshape(1, -1)
        if len(self) and row.shape[1] != self.encodings.shape[1]:
            raise DataError(
                f"Gallery: expected an encoding of {self.encodings.shape[1]} numbers, got {row.shape[1]}"
            )
        self.encodings = np.concatenate([self.encodings, row]) if len(self) else row
        self.names.append(name)
        self.digests.append(digest)

    def remove(self, name: str) -> int:
        """Drop all encodings of a name; how many there were."""
        keep = [i for i, held in enumerate(self.names) if held != name]
        dropped = len(self) - len(keep)
        self.encodings = self.encodings[keep]
        self.names, self.digests = [self.names[i] for i in keep], [self.digests[i] for i in keep]
        return dropped

    def save(self, path: Path) -> None:
        """Write a ``.safetensors`` file, all or nothing: an older one stays until the new one is complete.

        Raises
        ------
        WeightsError, OSError
        """
        note = {
            "version": _VERSION,
            "encoder": self.encoder,
            "measure": self.measure,
            "threshold": self.threshold,
            "names": self.names,
            "digests": self.digests,
        }
        save_weights(path, {"encodings": self.encodings}, metadata={_NOTE: json.dumps(note)})

    @classmethod
    def load(cls, path: Path) -> Gallery:
        """Read what :meth:`save` has written; everything in the file is checked.

        Raises
        ------
        DataError
            If the file is corrupt, hostile, or something else.
        OSError
        """
        name = os.fspath(path)
        try:
            tensors = load_weights(name)
            text = read_metadata(name).get(_NOTE)
        except WeightsError as error:
            raise DataError(f"Gallery: {error}") from None
        if text is None or list(tensors) != ["encodings"]:
            raise DataError(f"Gallery: {name}: expected a file of enrolled encodings, got another one")
        try:
            note = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"Gallery: {name}: expected a note in JSON, got {shown(str(error))}") from None
        problem = _problem(note, tensors["encodings"])
        if problem:
            raise DataError(f"Gallery: {name}: {problem}")
        return cls(
            tensors["encodings"],
            note["names"],
            note["digests"],
            note["encoder"],
            note["measure"],
            None if note["threshold"] is None else float(note["threshold"]),
        )


def _problem(note: Any, encodings: Array) -> str:
    """What is wrong with the content of a file; "" if nothing is."""
    if not isinstance(note, dict) or note.get("version") != _VERSION:
        return f"expected a note of version {_VERSION}, got {shown(note)}"
    if encodings.dtype != np.float32 or encodings.ndim != 2:
        return f"expected encodings (N,D) of float32, got {encodings.dtype} {encodings.shape}"
    for key, good in (("names", _is_name), ("digests", _is_digest)):
        held = note.get(key)
        if not isinstance(held, list) or len(held) != len(encodings) or not all(map(good, held)):
            return f"expected {len(encodings)} {key}, got {shown(held)}"
    encoder, threshold = note.get("encoder"), note.get("threshold")
    if not (_is_digest(encoder) or (encoder == "" and not len(encodings))):
        return f"expected a fingerprint of the encoder, got {shown(encoder)}"
    if note.get("measure") not in MEASURES:
        return f"expected a measure out of {', '.join(MEASURES)}, got {shown(note.get('measure'))}"
    number = isinstance(threshold, (int, float)) and not isinstance(threshold, bool)
    if threshold is not None and not (number and abs(threshold) < 1e9):
        return f"expected a threshold as a number or null, got {shown(threshold)}"
    length = np.sqrt(np.square(encodings, dtype=np.float64).sum(1))
    if not (np.abs(length - 1) < 1e-3).all():
        return "expected encodings of length 1, got others"
    return ""


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and value.isprintable() and len(value) <= 1000


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None
