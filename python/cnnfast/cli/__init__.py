"""The command line: ``cnnfast demo | doctor | models | classify | detect | segment | style | train | ...``.

Exit status: 0 done; 1 a check does not hold; 2 something that was given cannot be used: an argument, a file,
a place, a size (one line on stderr says what); 130 interrupted;
141 when the reader of the output went away, which is no error worth a word.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
from collections.abc import Sequence

from .. import __version__
from ..errors import CnnfastError
from .failures import FAILED

__all__ = ["main"]

# name -> module with add_arguments(parser) and run(args) -> exit status, loaded when it is called for.
COMMANDS = {
    "demo": ("cnnfast.cli.demo", "run every application on pictures that come along, and write a page"),
    "doctor": ("cnnfast.cli.doctor", "show what this machine and this build can do"),
    "models": ("cnnfast.cli.models", "list the networks that can be built by name"),
    "summary": ("cnnfast.cli.summary", "show the layers of a network, with shapes, parameters and work"),
    "classify": ("cnnfast.cli.classify", "say what is in pictures"),
    "detect": ("cnnfast.cli.detect", "say what is where in pictures, and draw boxes around it"),
    "segment": ("cnnfast.cli.segment", "colour what is in a picture, pixel by pixel, and count it"),
    "face": (
        "cnnfast.cli.face",
        "say who pictures show, or whether two show the same, from one picture each",
    ),
    "train": ("cnnfast.cli.train", "train a network on a folder of labelled pictures"),
    "evaluate": ("cnnfast.cli.evaluate", "say how good a trained network is on labelled pictures"),
    "inspect": ("cnnfast.cli.inspect", "list the tensors of a file, or show what a network has learnt"),
    "convert": ("cnnfast.cli.convert", "write weights or a network in another format"),
    "filter": ("cnnfast.cli.filter", "run an edge filter, or one of your own, over a picture"),
    "course": ("cnnfast.cli.course", "check the numbers of the course against this package"),
    "style": ("cnnfast.cli.style", "paint a photograph with the textures of another picture"),
    "bench": ("cnnfast.bench.cli", "time the operators beside NumPy and other libraries"),
    "bench models": ("cnnfast.bench.networks.cli", "time whole networks beside other libraries"),
    "bench train": ("cnnfast.bench.training", "time steps of training beside PyTorch"),
    "bench style": ("cnnfast.bench.style", "time iterations of style transfer beside PyTorch"),
}

# argparse takes -1,0,1 for an option; joined to the option before it, it is a value.
_NEGATIVE_VALUE = re.compile(r"^-[0-9.][0-9.,;eE+ -]*$")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    arguments = _join_negative_values(list(sys.argv[1:] if argv is None else argv))
    try:
        status = _run(arguments)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print("cnnfast: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Python flushes once more at its end; that must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except MemoryError as error:
        return _fail(f"out of memory: {error}" if str(error) else "out of memory")
    except OSError as error:
        named = error.filename is not None and error.strerror
        return _fail(f"{error.filename}: {error.strerror}" if named else str(error))
    except CnnfastError as error:
        return _fail(str(error))


#: Entries of a list in an error that are printed.
_MOST = 10


def _fail(message: str) -> int:
    lines = [" ".join(line.split()) for line in message.splitlines() if line.strip()]
    more = [f"and {len(lines) - 1 - _MOST} more"] if len(lines) > _MOST + 1 else []
    print("cnnfast: " + "; ".join([*lines[: _MOST + 1], *more]), file=sys.stderr)
    return FAILED


def _run(arguments: list[str]) -> int:
    if arguments[:1] == ["bench"] and " ".join(arguments[:2]) in COMMANDS:  # a command of two words
        arguments = [" ".join(arguments[:2]), *arguments[2:]]
    chosen = next((a for a in arguments if not a.startswith("-")), None)
    parser = argparse.ArgumentParser(
        prog="cnnfast", description="Convolutional networks on hand-written kernels."
    )
    parser.add_argument("--version", action="version", version=f"cnnfast {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    run = None
    for name, (module_name, summary) in COMMANDS.items():
        sub = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if name == chosen:
            module = importlib.import_module(module_name)
            module.add_arguments(sub)
            run = module.run
    try:
        args = parser.parse_args(arguments)
    except SystemExit as stop:  # argparse has printed its help (0) or the wrong usage (2)
        return int(stop.code or 0)
    assert run is not None  # argparse has refused every other name
    return int(run(args))


def _join_negative_values(arguments: list[str]) -> list[str]:
    joined: list[str] = []
    for argument in arguments:
        before = joined[-1] if joined else ""
        if _NEGATIVE_VALUE.match(argument) and before.startswith("--") and "=" not in before:
            joined[-1] = f"{before}={argument}"
        else:
            joined.append(argument)
    return joined
