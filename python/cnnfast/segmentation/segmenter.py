"""A segmentation network on pictures of any size: padded, and in tiles where they are large.

A tile that is cut out of a picture has less to see near its cuts, so that its scores there are others than
those of the whole picture. Tiles overlap, therefore: the outer quarter of an overlap is not used, and over
its middle half one tile fades into the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .. import ops
from ..config import current_backend
from ..data.preprocess import Preprocess
from ..engine import compile
from ..models.registry import create_model, registered_weights
from ..nn.module import Module
from ..ops.registry import fail, integer

Array = np.ndarray

__all__ = ["Segmenter"]


class Segmenter:
    """Classes of all pixels of a picture.

    Parameters
    ----------
    model : Module
        From (1, H, W, C) to scores (1, H', W', K), with H' = H or less by a border that convolutions
        without padding cost. One score (K = 1) says foreground where it is positive; of several the highest
        wins, of equal ones the lowest class. Its weights are those of the first picture.
    mean, std : sequence of float
        One for each channel, of values in 0..1, as the network was trained.
    multiple : int, optional
        What rows and columns must be multiples of; as the network says itself (``frame_size``), or 32.
    fixed : int, optional
        Rows and columns of every input, for networks that take no other; it is the tile then.
    tile : int
        Pictures of more rows or columns are cut into tiles of about that size.
    overlap : int
        Rows and columns that neighbouring tiles share at least; less than half a tile. Where a quarter of it
        is at least the radius of what an output sees, tiles make no difference but rounding.
    threads : int, optional
        As for :func:`cnnfast.compile`.

    Raises
    ------
    ShapeError, ValueError

    References
    ----------
    Ronneberger, Fischer and Brox, "U-Net", 2015, figure 2: tiles and mirrored borders.

    Examples
    --------
    >>> from cnnfast.models.unet import UNet
    >>> segmenter = Segmenter(UNet(2, width=2, depth=1).initialize(0))
    >>> segmenter(np.zeros((31, 17), np.uint8)).shape
    (31, 17)
    """

    def __init__(
        self,
        model: Module,
        *,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        multiple: int | None = None,
        fixed: int | None = None,
        tile: int = 512,
        overlap: int = 128,
        threads: int | None = None,
    ) -> None:
        op = "Segmenter"
        self.prepare = Preprocess(None, None, mean=mean, std=std)
        self._own_frame = getattr(model, "frame_size", None) if multiple is None else None
        self._multiple = integer(op, "multiple", 32 if multiple is None else multiple, 1, 1 << 16)
        if fixed is not None:
            tile = integer(op, "fixed", fixed, 1, 1 << 16)
            self._own_frame = self._fixed_frame
        self.tile, self.overlap = integer(op, "tile", tile, 1), integer(op, "overlap", overlap, 0)
        if 2 * self.overlap >= self.tile:
            fail(op, f"overlap must be less than half a tile of {tile}, got {overlap}")
        self.engine = compile(model, device=current_backend(), threads=threads)

    @classmethod
    def pretrained(cls, name: str, weights: str | None = None, **options: Any) -> Segmenter:
        """A network of the registry with weights that are registered for it.

        Parameters
        ----------
        name : str
            Of ``cf.models.list_models("segmentation")``.
        weights : str, optional
            The first that are registered when left out.
        **options
            As for :class:`Segmenter`.

        Raises
        ------
        ValueError
            If there is no such network, or no such weights of it.
        WeightsError, OSError
        """
        label, trained = registered_weights(name, weights)
        return cls(create_model(name, weights=label), mean=trained.mean, std=trained.std, **options)

    def __call__(self, picture: Any) -> Array:
        """Classes of all pixels.

        Parameters
        ----------
        picture : path, image of Pillow, or ndarray, shape (H, W), (H, W, 1) or (H, W, 3)
            Of uint8, or of float32 in 0..255 as :func:`cnnfast.pictures.load_picture` gives it, which is
            rounded. Grey becomes colour, and colour luma, as the network takes it.

        Returns
        -------
        ndarray of int32, shape (H, W)

        Raises
        ------
        PictureError
            If it cannot be read or is another array.
        ShapeError
            If the network gives something else than scores of pixels.
        OSError
        """
        classes = [
            band[..., 0] > 0 if band.shape[-1] == 1 else band.argmax(axis=-1) for band in self._bands(picture)
        ]
        return np.concatenate(classes).astype(np.int32)

    def scores(self, picture: Any) -> Array:
        """What the network gives for every pixel, float32 (H, W, K); otherwise as :meth:`__call__`."""
        return np.concatenate(list(self._bands(picture)))

    def probabilities(self, picture: Any) -> Array:
        """Softmax of the scores, or their sigmoid where K is 1; otherwise as :meth:`scores`."""
        scores = self.scores(picture)
        return ops.sigmoid(scores) if scores.shape[-1] == 1 else ops.softmax(scores)

    # --- tiles ---------------------------------------------------------------------------------

    def _frame(self, rows: int) -> tuple[int, int]:
        """Rows of the smallest input whose output has at least so many, and rows of that output."""
        if self._own_frame is not None:
            return self._own_frame(rows)
        size = -(-rows // self._multiple) * self._multiple
        return size, size

    def _fixed_frame(self, rows: int) -> tuple[int, int]:
        """The same for a network of one size, whose tiles may lie anywhere."""
        size = max(rows, self.tile)
        return size, size

    def _bands(self, picture: Any) -> Iterator[Array]:
        """Scores of the picture from top to bottom, some rows (n, W, K) at a time."""
        if isinstance(picture, np.ndarray) and picture.dtype == np.float32:
            picture = np.clip(np.rint(picture), 0, 255).astype(np.uint8)
        x = self.prepare(picture)[0]
        h, w = x.shape[:2]
        (tops, fade_rows, rows), (lefts, fade_columns, columns) = self._plan(h), self._plan(w)
        border = (rows[0] - rows[1]) // 2, (columns[0] - columns[1]) // 2
        end = tops[-1] + rows[0] - h - border[0], lefts[-1] + columns[0] - w - border[1]
        x = np.pad(x, ((border[0], end[0]), (border[1], end[1]), (0, 0)), "symmetric")
        rest: Array | None = None  # of the tiles above, where these reach down into the next ones
        for i, top in enumerate(tops):
            band: Array | None = None
            for left, fade in zip(lefts, fade_columns, strict=True):
                tile = self._run(x[top : top + rows[0], left : left + columns[0]], rows[1], columns[1])
                if band is None:
                    band = np.zeros((rows[1], lefts[-1] + columns[1], tile.shape[-1]), np.float32)
                band[:, left : left + columns[1]] += tile * fade[:, None]
            assert band is not None  # there is a tile at least
            band *= fade_rows[i][:, None, None]
            if rest is not None:
                band[: len(rest)] += rest
            done = tops[i + 1] - top if i + 1 < len(tops) else h - top
            rest = band[done:]
            yield band[:done, :w]

    def _plan(self, length: int) -> tuple[list[int], list[Array], tuple[int, int]]:
        """Where the outputs of tiles begin, how much each counts, and the size of input and output."""
        total = self._frame(length)[1]
        size = self._frame(min(length, self.tile))
        output = size[1]
        if total <= output:
            return [0], [np.ones(output, np.float32)], size
        # Tiles begin where the network's own halvings do, or they would see other pixels together.
        unit = self._frame(output + 1)[1] - output
        step = (output - self.overlap) // unit * unit
        if step < 1:
            fail("Segmenter", f"tile {self.tile} is too small for steps of {unit} and overlap {self.overlap}")
        count = 1 - (output - total) // step
        starts = [i * (total - output) // (count - 1) // unit * unit for i in range(count)]
        inside = np.arange(output) + 0.5
        quarter = self.overlap / 4
        weights = []
        for start in starts:
            fade = np.ones(output)
            for cut, distance in ((start > 0, inside), (start + output < total, inside[::-1])):
                if cut and self.overlap:
                    fade *= np.clip((distance - quarter) / (2 * quarter), 0, 1)
            weights.append(fade)
        sums = np.zeros(total)
        for start, fade in zip(starts, weights, strict=True):
            sums[start : start + output] += fade
        return (
            starts,
            [
                (fade / sums[start : start + output]).astype(np.float32)
                for start, fade in zip(starts, weights, strict=True)
            ],
            size,
        )

    def _run(self, x: Array, rows: int, columns: int) -> Array:
        scores = self.engine(np.ascontiguousarray(x)[None])
        if not isinstance(scores, np.ndarray) or scores.shape[:3] != (1, rows, columns) or scores.ndim != 4:
            got = ",".join(map(str, scores.shape)) if isinstance(scores, np.ndarray) else "several outputs"
            fail("Segmenter", f"expected scores (1,{rows},{columns},classes), got ({got})", x=(1, *x.shape))
        return scores[0]
