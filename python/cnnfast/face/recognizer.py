"""Who is it, and is it the same: one picture each is enough to know somebody."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import DataError
from ..ops.registry import choice
from .calibration import MEASURES, ROC, accepts, pairs_of, roc
from .encoder import Encoder
from .gallery import Gallery
from .mining import pairwise

Array = np.ndarray

__all__ = ["Candidate", "Identification", "Recognizer", "Verification"]


@dataclass(frozen=True)
class Verification:
    """Whether two are the same.

    Attributes
    ----------
    same : bool
        A squared distance of at most the threshold, or a cosine similarity of at least it.
    value, threshold : float
    measure : {"squared_distance", "cosine_similarity"}
        What ``value`` and ``threshold`` are.
    """

    same: bool
    value: float
    threshold: float
    measure: str


@dataclass(frozen=True)
class Candidate:
    """Somebody enrolled, and the value of the measure for the nearest of their encodings."""

    name: str
    value: float


@dataclass(frozen=True)
class Identification:
    """Who it is.

    Attributes
    ----------
    name : str or None
        None: unknown, for nobody is near enough.
    candidates : tuple of Candidate
        The nearest first; among equals the one enrolled first.
    threshold : float
    measure : {"squared_distance", "cosine_similarity"}
    """

    name: str | None
    candidates: tuple[Candidate, ...]
    threshold: float
    measure: str


class Recognizer:
    """Verification (1:1) and identification (1:K, with "unknown") by encodings.

    Enrolling somebody takes one picture and no training.

    Parameters
    ----------
    encoder : Encoder
    gallery : Gallery, optional
        Enrolled before, by the same encoder. It is changed by what is enrolled and calibrated.
    measure : {"squared_distance", "cosine_similarity"}, optional
        That of the gallery, or the squared distance. For encodings of length 1 one follows from the other:
        d = 2 - 2 s.
    threshold : float, optional
        Same means ``distance <= threshold``, or ``similarity >= threshold``. That of the gallery where it is
        left out; :meth:`calibrate` finds one.

    Raises
    ------
    DataError
        If the gallery was made by another encoder or with another measure.

    References
    ----------
    Schroff, Kalenichenko and Philbin, "FaceNet", 2015.

    Examples
    --------
    >>> import cnnfast as cf
    >>> who = cf.face.Recognizer(cf.face.load_encoder("character_encoder"))  # doctest: +SKIP
    >>> who.enrol("alpha", "alpha.png")  # doctest: +SKIP
    >>> who.identify("unseen.png").name  # doctest: +SKIP
    'alpha'
    """

    def __init__(
        self,
        encoder: Encoder,
        gallery: Gallery | None = None,
        *,
        measure: str | None = None,
        threshold: float | None = None,
    ) -> None:
        self.encoder = encoder
        self.gallery = Gallery(measure=measure or MEASURES[0]) if gallery is None else gallery
        self.measure = choice("Recognizer", "measure", self.gallery.measure, MEASURES)
        if measure not in (None, self.measure):
            raise DataError(f"Recognizer: expected measure {self.measure} as in the gallery, got {measure}")
        if self.gallery.encoder not in ("", encoder.fingerprint):
            raise DataError(
                "Recognizer: expected the encoder that the gallery was enrolled with "
                f"({self.gallery.encoder[:12]}...), got another one ({encoder.fingerprint[:12]}...)"
            )
        if threshold is not None:
            self.gallery.threshold = float(threshold)

    # --- enrolment -----------------------------------------------------------------------------

    def enrol(self, name: str, picture: Any) -> bool:
        """Get to know somebody from one picture, or from one more.

        A picture that is enrolled already under the name is not encoded again.

        Parameters
        ----------
        name : str
            Any text that can be printed.
        picture : path or ndarray
            As of :class:`Encoder`.

        Returns
        -------
        bool
            Whether the picture was new.

        Raises
        ------
        DataError
            If the picture is enrolled under another name.
        PictureError, OSError
        """
        if not isinstance(name, str) or not name or not name.isprintable() or len(name) > 1000:
            raise DataError(
                f"Recognizer.enrol: expected a name of 1 to 1000 printable characters, got {name!r}"
            )
        seen = self.encoder.seen(picture)
        digest = hashlib.sha256(repr(seen.shape).encode() + seen.tobytes()).hexdigest()
        for held, known in zip(self.gallery.digests, self.gallery.names, strict=True):
            if held == digest:
                if known != name:
                    raise DataError(
                        f"Recognizer.enrol: expected a picture of {name}, got one enrolled as {known}"
                    )
                return False
        self.gallery.add(name, self.encoder.encode([seen])[0], digest)
        self.gallery.encoder = self.encoder.fingerprint
        return True

    def forget(self, name: str) -> int:
        """Drop all that is known of somebody; how many pictures that were."""
        return self.gallery.remove(name)

    # --- questions -----------------------------------------------------------------------------

    @property
    def threshold(self) -> float:
        """Of the measure: what is needed to say "the same"."""
        if self.gallery.threshold is None:
            raise DataError("Recognizer: expected a threshold, got none: give one, or calibrate")
        return self.gallery.threshold

    def compare(self, a: Any, b: Any) -> Verification:
        """Whether two pictures show the same (1:1)."""
        f = self.encoder([a, b])
        return self.compare_encodings(f[0], f[1])

    def compare_encodings(self, f: Any, g: Any) -> Verification:
        """:meth:`compare` for encodings (D,) that are made already."""
        return self._verified(pairwise([f], [g], self.measure)[0, 0])

    def verify(self, name: str, picture: Any) -> Verification:
        """Whether a picture shows somebody enrolled, as claimed (1:1); the nearest of their pictures counts.

        Raises
        ------
        DataError
            If nobody of that name is enrolled.
        """
        return self.verify_encoding(name, self.encoder(picture)[0])

    def verify_encoding(self, name: str, f: Any) -> Verification:
        """:meth:`verify` for an encoding (D,) that is made already."""
        rows = [i for i, held in enumerate(self.gallery.names) if held == name]
        if not rows:
            raise DataError(f"Recognizer.verify: expected somebody enrolled, got {name!r}")
        return self._verified(self._nearest(pairwise([f], self.gallery.encodings[rows], self.measure)[0]))

    def identify(self, picture: Any, *, topk: int = 5) -> Identification:
        """Who of those enrolled a picture shows (1:K), or nobody of them."""
        return self.identify_encodings(self.encoder(picture), topk=topk)[0]

    def identify_encodings(self, encodings: Any, *, topk: int = 5) -> list[Identification]:
        """:meth:`identify` for encodings (N, D) that are made already."""
        threshold, people = self.threshold, self.gallery.people
        if not people:
            return [Identification(None, (), threshold, self.measure) for _ in np.asarray(encodings)]
        number = {name: i for i, name in enumerate(people)}
        owner = np.array([number[name] for name in self.gallery.names])
        found = []
        for values in pairwise(encodings, self.gallery.encodings, self.measure):
            nearest = np.array([self._nearest(values[owner == i]) for i in range(len(people))])
            order = np.argsort(nearest if self._is_distance else -nearest, kind="stable")
            first = people[order[0]] if accepts(nearest[order[0]], threshold, self.measure) else None
            ranked = tuple(Candidate(people[i], float(nearest[i])) for i in order[:topk])
            found.append(Identification(first, ranked, threshold, self.measure))
        return found

    # --- calibration ---------------------------------------------------------------------------

    def calibrate(
        self, pictures: Sequence[Any], labels: Sequence[Any], *, false_accept_rate: float = 1e-3
    ) -> ROC:
        """Choose the threshold by pictures whose truth is known, which nobody enrolled need be on.

        All pairs are compared; the threshold becomes the laxest that takes no more than that part of the
        pairs of different things for the same.

        Parameters
        ----------
        pictures : sequence of N pictures
        labels : sequence of N labels
            There must be two of one kind, and two kinds.
        false_accept_rate : float

        Returns
        -------
        ROC

        Raises
        ------
        DataError
            If there are too few pairs of different things to see such a rate.
        ShapeError, PictureError, OSError
        """
        return self.calibrate_encodings(
            self.encoder(list(pictures)), labels, false_accept_rate=false_accept_rate
        )

    def calibrate_encodings(
        self, encodings: Any, labels: Sequence[Any], *, false_accept_rate: float = 1e-3
    ) -> ROC:
        """:meth:`calibrate` for encodings (N, D) that are made already."""
        values, same = pairs_of(encodings, labels, measure=self.measure)
        curve = roc(values, same, measure=self.measure)

        if 0 < false_accept_rate < 1 / curve.different:
            raise DataError(
                f"Recognizer.calibrate: expected {int(np.ceil(1 / false_accept_rate))} or more pairs of "
                f"different things for a rate of {false_accept_rate:g}, got {curve.different}"
            )
        threshold = curve.threshold_at(false_accept_rate)
        if not np.isfinite(threshold):
            raise DataError(
                "Recognizer.calibrate: expected a threshold that accepts something at a rate of "
                f"{false_accept_rate:g}, got none: the nearest pairs are of different things"
            )
        self.gallery.threshold = threshold

        return curve

    # --- the file ------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the gallery and the threshold, all or nothing; see :meth:`Gallery.save`."""
        self.gallery.encoder = self.gallery.encoder or self.encoder.fingerprint
        self.gallery.save(path)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], encoder: Encoder, *, threshold: float | None = None
    ) -> Recognizer:
        """Go on with a gallery that was saved."""
        return cls(encoder, Gallery.load(path), threshold=threshold)

    # -------------------------------------------------------------------------------------------

    @property
    def _is_distance(self) -> bool:
        return self.measure == "squared_distance"

    def _nearest(self, values: Array) -> Any:
        return values.min() if self._is_distance else values.max()

    def _verified(self, value: Any) -> Verification:
        same = bool(accepts(value, self.threshold, self.measure))
        return Verification(same, float(value), self.threshold, self.measure)
