"""What came of each epoch: in memory, in CSV and JSON-lines files, in TensorBoard, as curves."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..errors import TrainingError
from ..weights.atomic import replace_file

Row = dict[str, Any]

__all__ = ["History", "LogFile", "TensorBoard"]


class History:
    """One row of numbers for each epoch.

    ``history["val_loss"]`` is a column, ``history.rows[-1]`` the last row. Columns are ``epoch`` (from 1),
    ``step`` (updates so far), ``loss`` and the metrics of training, the same with ``val_`` before them where
    there is validation, ``lr`` of the first group and ``seconds``.

    Attributes
    ----------
    rows : list of dict
    reason : str
        Why training ended: ``"epochs"`` or ``"early stopping"``; "" while it runs.
    """

    def __init__(self, rows: Sequence[Row] = ()) -> None:
        self.rows: list[Row] = [dict(row) for row in rows]
        self.reason = ""

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __getitem__(self, name: str) -> list[Any]:
        if self.rows and name not in self.rows[0]:
            raise KeyError(f"history: expected one of {', '.join(self.rows[0])}, got {name!r}")
        return [row[name] for row in self.rows]

    def __repr__(self) -> str:
        last = ", ".join(f"{k} {_shown(v)}" for k, v in self.rows[-1].items()) if self.rows else "nothing yet"
        return f"History({len(self)} epochs; {last})"

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw the learning curves into a picture: losses, and below them each metric.

        Parameters
        ----------
        path : str or os.PathLike
            ``.png``, ``.svg`` or ``.pdf``.

        Raises
        ------
        TrainingError
            If matplotlib is missing.
        """
        figure_class = figure()
        columns = list(self.rows[0]) if self.rows else ["loss"]
        curves = [c for c in columns if not c.startswith("val_") and c not in _NO_CURVES]
        drawing = figure_class(figsize=(7, 2.6 * len(curves) + 0.4), layout="constrained")
        for axes, name in zip(drawing.subplots(len(curves), 1, squeeze=False)[:, 0], curves, strict=True):
            for column, label in ((name, "training"), (f"val_{name}", "validation")):
                if column in columns:
                    axes.plot(self["epoch"], self[column], marker=".", label=label)
            axes.set(xlabel="epoch", ylabel=name)
            axes.grid(alpha=0.3)
            if self.rows:
                axes.legend()
        ending = os.path.splitext(os.fspath(path))[1].lower()
        with replace_file(os.fspath(path)) as file:
            drawing.savefig(file, format=ending[1:] or "png", dpi=150)


_NO_CURVES = ("epoch", "step", "lr", "seconds")


def figure() -> Any:
    """Matplotlib's class of figures, which needs no display."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise TrainingError("the plot needs matplotlib: pip install 'cnnfast[plot]'") from error
    return Figure


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def line(row: Mapping[str, Any], epochs: int) -> str:
    """A row as a line to read."""
    numbers = [f"{k} {_shown(v)}" for k, v in row.items() if k not in ("epoch", "step", "seconds")]
    return f"epoch {row['epoch']}/{epochs}  " + "  ".join([*numbers, f"{row['seconds']:.1f} s"])


class LogFile:
    """The rows of a history in a ``.csv`` file or one of JSON lines (``.jsonl``).

    The file is a copy of the history: a run that is resumed begins with writing the rows it knows, so no
    epoch is there twice or missing, wherever the last run was killed.
    """

    def __init__(self, path: str | os.PathLike[str], rows: Sequence[Row]) -> None:
        self._path = os.fspath(path)
        ending = os.path.splitext(self._path)[1].lower()
        if ending not in (".csv", ".jsonl"):
            raise ValueError(f"log: expected a name that ends in .csv or .jsonl, got {self._path!r}")
        self._text = self._csv if ending == ".csv" else self._json
        self._begun = False
        with replace_file(self._path) as file:
            file.write("".join(map(self._text, rows)).encode())

    def add(self, row: Row) -> None:
        with open(self._path, "ab") as file:
            file.write(self._text(row).encode())

    def close(self) -> None:
        pass

    def _csv(self, row: Row) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if not self._begun:
            writer.writerow(row)
            self._begun = True
        writer.writerow(row.values())
        return text.getvalue()

    def _json(self, row: Row) -> str:
        # JSON has no NaN and no infinity.
        plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        return json.dumps(plain) + "\n"


class TensorBoard:
    """Rows as scalars of TensorBoard: ``loss/train``, ``loss/validation``, ..., one value for each epoch."""

    def __init__(self, folder: str | os.PathLike[str], rows: Sequence[Row]) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise TrainingError(
                "tensorboard: the log needs tensorboardX: pip install 'cnnfast[train]'"
            ) from error
        # What a killed run wrote after its last checkpoint is not shown.
        self._writer = SummaryWriter(os.fspath(folder), purge_step=len(rows) + 1)

    def add(self, row: Row) -> None:
        for name, value in row.items():
            if name not in ("epoch", "step"):
                part = "validation" if name.startswith("val_") else "train"
                self._writer.add_scalar(f"{name.removeprefix('val_')}/{part}", value, row["epoch"])
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
