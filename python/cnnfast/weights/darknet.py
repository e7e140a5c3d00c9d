"""Files of the darknet framework: ``.cfg``, the layers of a network as text, and ``.weights``, its numbers.

A weights file has no names or shapes: what each number means follows from the layers alone. All sizes are
therefore checked against the length of the file before any of it is read.
"""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, NoReturn

import numpy as np

from cnnfast.errors import WeightsError
from cnnfast.weights.limits import MAX_FILE_BYTES, shown

Array = np.ndarray

__all__ = ["ConvolutionValues", "Section", "read_cfg", "read_weights"]

#: Bounds on a cfg; the largest published ones have 30 kB and 400 sections.
MAX_CFG_BYTES = 1 << 20
MAX_SECTIONS = 1024
MAX_OPTIONS = 256
MAX_LIST = 1024

_INTEGER = re.compile(r"[+-]?[0-9]{1,15}")
_NUMBER = re.compile(r"[+-]?([0-9]{1,20}\.?[0-9]{0,20}|\.[0-9]{1,20})([eE][+-]?[0-9]{1,3})?")
_BLOCK_BYTES = 1 << 20  # read at a time, so that reordering does not hold two copies of a large layer


@dataclass(frozen=True)
class Section:
    """One section of a cfg: the kind of a layer and its options as text, checked when they are asked for.

    Attributes
    ----------
    kind : str
        ``"convolutional"``, ``"route"``, ...
    options : mapping of str to str
    line : int
        Of the heading; 0 for a section that was made by a program.
    lines : mapping of str to int
        Of the options.
    """

    kind: str
    options: Mapping[str, str] = field(default_factory=dict)
    line: int = 0
    lines: Mapping[str, int] = field(default_factory=dict)

    def fail(self, message: str, option: str = "") -> NoReturn:
        """Raise WeightsError with the place in the file."""
        line = self.lines.get(option, self.line)
        raise WeightsError(f"{f'line {line}: ' if line else ''}[{self.kind}] {message}")

    def text(self, name: str, default: str | None = None) -> str:
        """The option as it stands there; without a default it must be there."""
        if name in self.options:
            return self.options[name]
        if default is None:
            self.fail(f"expected an option {name}, came none")
        return default

    def integer(self, name: str, default: int | None = None, least: int = 0, most: int = 1 << 31) -> int:
        """A whole number within bounds."""
        if name not in self.options and default is not None:
            return default
        return self._whole(name, self.text(name), least, most)

    def integers(self, name: str, least: int, most: int) -> list[int]:
        """Whole numbers with commas between them."""
        return [self._whole(name, part, least, most) for part in self._parts(name)]

    def number(self, name: str, default: float | None = None) -> float:
        """A finite real number."""
        if name not in self.options and default is not None:
            return default
        return self._real(name, self.text(name))

    def numbers(self, name: str) -> list[float]:
        """Finite real numbers with commas between them."""
        return [self._real(name, part) for part in self._parts(name)]

    def _parts(self, name: str) -> list[str]:
        text = self.text(name)
        if text.count(",") >= MAX_LIST:
            self.fail(f"{name}: expected at most {MAX_LIST} numbers, came more", name)
        parts = [part.strip() for part in text.split(",")]
        return parts[:-1] if len(parts) > 1 and not parts[-1] else parts  # one comma at the end is common

    def _whole(self, name: str, text: str, least: int, most: int) -> int:
        if _INTEGER.fullmatch(text) is None:
            self.fail(f"{name}: expected a whole number, came {shown(text)}", name)
        if not least <= int(text) <= most:
            self.fail(f"{name}: expected {least} to {most}, came {int(text)}", name)
        return int(text)

    def _real(self, name: str, text: str) -> float:
        if _NUMBER.fullmatch(text) is None or not math.isfinite(float(text)):
            self.fail(f"{name}: expected a finite number, came {shown(text)}", name)
        return float(text)


@dataclass(frozen=True)
class ConvolutionValues:
    """The numbers of one convolution in a weights file.

    They stand there as shift, scale, running mean and running variance of the batch normalisation, or as the
    bias where there is none, and then the weight as C_out, C_in / groups, KH, KW.

    Attributes
    ----------
    name : str
        Put before the names of the arrays, e.g. ``"layers.0"``.
    shape : (int, int, int, int)
        Of the weight as the operators take it: KH, KW, C_in / groups, C_out.
    batch_norm : bool
    """

    name: str
    shape: tuple[int, int, int, int]
    batch_norm: bool

    @property
    def vectors(self) -> tuple[str, ...]:
        """Names of the arrays with one value per output channel, in the order of the file."""
        if self.batch_norm:
            return "bn.bias", "bn.weight", "bn.running_mean", "bn.running_var"
        return ("conv.bias",)

    @property
    def count(self) -> int:
        """How many numbers they are."""
        kh, kw, inputs, outputs = self.shape
        return outputs * (len(self.vectors) + kh * kw * inputs)


def read_cfg(path: str | os.PathLike[str]) -> list[Section]:
    """Read a cfg.

    Parameters
    ----------
    path : str or os.PathLike

    Returns
    -------
    list of Section
        In the order of the file; the first one describes the input.

    Raises
    ------
    WeightsError
        If it is no cfg or is beyond the limits; the message names the line.
    OSError
        If the file cannot be read.
    """
    name = os.fsdecode(path)
    try:
        with _opened(name) as (file, size):
            if size > MAX_CFG_BYTES:
                raise WeightsError(f"file: expected at most {MAX_CFG_BYTES} bytes, came {size}")
            content = file.read(MAX_CFG_BYTES)
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            raise WeightsError(f"line {line}: expected text in UTF-8, came other bytes") from None
        return _sections(text)
    except WeightsError as error:
        raise WeightsError(f"read_cfg: {name}: {error}") from None


class _opened:
    """A regular file and its size; opening a pipe would wait for ever."""

    def __init__(self, name: str) -> None:
        if not stat.S_ISREG(os.stat(name).st_mode):
            raise WeightsError("file: expected a regular file, came a folder, device, pipe or socket")
        self._file: BinaryIO = open(name, "rb")  # noqa: SIM115

    def __enter__(self) -> tuple[BinaryIO, int]:
        return self._file, os.fstat(self._file.fileno()).st_size

    def __exit__(self, *error: object) -> None:
        self._file.close()


def _sections(text: str) -> list[Section]:
    found: list[tuple[str, int, dict[str, str], dict[str, int]]] = []
    # Not splitlines: a form feed or a Unicode separator would shift the numbers of the lines.
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.split("#", 1)[0].strip()
        if not line or line[0] == ";":
            continue
        if line[0] == "[":
            kind = line[1:-1].strip().lower()
            if line[-1] != "]" or not kind:
                raise WeightsError(f"line {number}: expected a heading such as [route], came {shown(line)}")
            if len(found) == MAX_SECTIONS:
                raise WeightsError(f"line {number}: expected at most {MAX_SECTIONS} sections, came more")
            found.append((kind, number, {}, {}))
            continue
        name, equals, value = (part.strip() for part in line.partition("="))
        if not equals or not name:
            raise WeightsError(f"line {number}: expected name=value, came {shown(line)}")
        if not found:
            raise WeightsError(f"line {number}: expected a heading such as [net] first, came {shown(line)}")
        _, _, options, lines = found[-1]
        if options.get(name, value) != value:
            raise WeightsError(
                f"line {number}: expected {shown(name)} once, came a second value after line {lines[name]}"
            )
        if len(options) == MAX_OPTIONS:
            raise WeightsError(f"line {number}: expected at most {MAX_OPTIONS} options, came more")
        options[name] = value
        lines[name] = number
    if not found:
        raise WeightsError("file: expected sections such as [net], came none")
    return [Section(kind, options, line, lines) for kind, line, options, lines in found]


def read_weights(
    path: str | os.PathLike[str], convolutions: Sequence[ConvolutionValues]
) -> Iterator[tuple[str, Array]]:
    """Read the numbers of these convolutions, one array after the other.

    Parameters
    ----------
    path : str or os.PathLike
    convolutions : sequence of ConvolutionValues
        All of the network, in the order of its layers.

    Yields
    ------
    name : str
        ``"<name>.conv.weight"`` (KH, KW, C_in / groups, C_out), ``"<name>.conv.bias"``, or
        ``"<name>.bn.weight"``, ``".bias"``, ``".running_mean"`` and ``".running_var"``.
    array : ndarray of float32
        With its own memory. Beside the arrays that were handed out no more than about one megabyte is held.

    Raises
    ------
    WeightsError
        If the file does not have exactly the length that the layers ask for; raised by the call itself,
        before anything is read. By the iteration only where the file changes meanwhile.
    OSError
    """
    name = os.fsdecode(path)
    try:
        with _opened(name) as (file, size):
            start = _header(file, size)
        count = sum(convolution.count for convolution in convolutions)
        if size != start + 4 * count:
            raise WeightsError(
                f"file: expected {start + 4 * count} bytes ({start} of header, {count} values of these "
                f"layers), came {size}"
            )
    except WeightsError as error:
        raise WeightsError(f"read_weights: {name}: {error}") from None
    return _arrays(name, start, convolutions)


def _header(file: BinaryIO, size: int) -> int:
    """Check the header; where the values begin."""
    if size > MAX_FILE_BYTES:
        raise WeightsError(f"file: expected at most {MAX_FILE_BYTES} bytes, came {size}")
    beginning = file.read(12)
    if len(beginning) < 12:
        raise WeightsError(f"header: expected 16 or 20 bytes, came {len(beginning)}")
    major, minor, _ = (int.from_bytes(beginning[i : i + 4], "little", signed=True) for i in (0, 4, 8))
    if major < 0 or minor < 0:
        raise WeightsError(f"header: expected a version, came {major}.{minor}")
    # The number of pictures seen in training follows, since version 0.2 in 64 bits. Versions from 1000 mark
    # transposed dense layers of old files, whose counter has 32.
    wide = 10 * major + minor >= 2 and major < 1000 and minor < 1000
    return 12 + (8 if wide else 4)


def _arrays(name: str, start: int, convolutions: Iterable[ConvolutionValues]) -> Iterator[tuple[str, Array]]:
    with open(name, "rb") as file:
        file.seek(start)
        for convolution in convolutions:
            kh, kw, inputs, outputs = convolution.shape
            for part in convolution.vectors:
                yield f"{convolution.name}.{part}", _read(file, name, (outputs,))
            weight = np.empty(convolution.shape, np.float32)
            step = max(1, _BLOCK_BYTES // (4 * kh * kw * inputs))
            for first in range(0, outputs, step):
                block = _read(file, name, (min(step, outputs - first), inputs, kh, kw))
                weight[..., first : first + step] = block.transpose(2, 3, 1, 0)
            yield f"{convolution.name}.conv.weight", weight
            del weight


def _read(file: BinaryIO, name: str, shape: tuple[int, ...]) -> Array:
    array = np.empty(shape, "<f4")
    if (came := file.readinto(array.data.cast("B"))) != array.nbytes:  # type: ignore[attr-defined]
        raise WeightsError(f"read_weights: {name}: file: expected {array.nbytes} more bytes, came {came}")
    return array.astype(np.float32, copy=False)
