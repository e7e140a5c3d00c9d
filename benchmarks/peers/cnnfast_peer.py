"""cnnfast's native kernels: plain calls of ``cnnfast.ops``, and calls that hold packed weights."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import Operands
from ..problems import OPERATORS, Problem
from . import Candidate, NotSupported

if TYPE_CHECKING:
    from ..networks.source import Network

LABEL = "cnnfast"
COLUMNS = ("eager", "packed")
WAYS = ("plan",)
# Files of the compiled network, by the way that loads them.
ENGINES = {"plan": "cnnfast.engine", "lean": "lean.engine", "rich": "rich.engine"}
LEAN = {"plan": None, "lean": True, "rich": False}

# Keywords that a pack function must know beside the weights.
PACKED = {"conv2d": ("groups",), "conv2d_transpose": ("stride", "dilation", "groups"), "linear": ()}


def available() -> str | None:
    from cnnfast.config import config

    native = config()["native"]
    return None if native["available"] else str(native["reason"])


def version() -> str:
    import cnnfast

    return str(cnnfast.__version__)


def set_threads(threads: int) -> None:
    import cnnfast

    cnnfast.set_num_threads(threads)


def call(problem: Problem, operands: Operands) -> Callable[[], Any]:
    """The call of ``cnnfast.ops`` that a problem describes."""
    import cnnfast

    function = getattr(cnnfast.ops, problem.op, None)
    if function is None:
        raise NotSupported("cnnfast.ops has no such operator")
    args = [aligned(operands[name]) for name in OPERATORS[problem.op].operands if name in operands]
    attrs = {key: freeze(value) for key, value in problem.attrs.items()}
    return partial(function, *args, **attrs)


def aligned(value: Any) -> Any:
    """The operand at the start of a cache line, where cnnfast's own results lie (other runtimes copy too)."""
    if isinstance(value, list):
        return [aligned(v) for v in value]
    if not isinstance(value, np.ndarray):
        return value  # packed weights
    memory = np.empty(value.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    copy = memory[start : start + value.nbytes].view(value.dtype).reshape(value.shape)
    copy[...] = value
    return copy


def freeze(value: Any) -> Any:
    """JSON has lists where the operators take tuples."""
    return tuple(freeze(v) for v in value) if isinstance(value, list) else value


def prepare(problem: Problem, operands: Operands, threads: int) -> dict[str, Candidate]:
    import cnnfast

    context = partial(cnnfast.use_backend, "cpu")
    return {"eager": Candidate(call(problem, operands), np.asarray, context)}


def prepare_packed(problem: Problem, operands: Operands, threads: int) -> dict[str, Candidate]:
    """The call with weights that were packed before, outside of the timed part."""
    import cnnfast

    if problem.op not in PACKED:
        return prepare(problem, operands, threads)
    pack = getattr(cnnfast.ops, f"pack_{problem.op}", None)
    if pack is None:
        raise NotSupported(f"cnnfast.ops has no pack_{problem.op}")
    context = partial(cnnfast.use_backend, "cpu")
    with context():
        attrs = {key: freeze(problem.attrs[key]) for key in PACKED[problem.op] if key in problem.attrs}
        packed = pack(operands["w"], **attrs)
    return {"packed": Candidate(call(problem, {**operands, "w": packed}), np.asarray, context)}


def convert(network: Network) -> None:
    """The compiled network, weights packed: for time, and for memory."""
    import cnnfast

    from ..networks.source import load_model

    model = load_model(network)
    for way, name in ENGINES.items():
        cnnfast.compile(model, network.shape, lean=LEAN[way]).save(network.folder / name)


def load(network: Network, way: str, threads: int, x: np.ndarray) -> Candidate:
    """The compiled network out of its file; "direct" (no Winograd) and other levels are compiled here."""
    import cnnfast

    from ..networks.source import load_model, only

    if way in ENGINES and "CNNFAST_ISA" not in os.environ:
        engine = cnnfast.load_engine(network.folder / ENGINES[way], threads=threads)
    else:
        engine = cnnfast.compile(
            load_model(network), network.shape, threads=threads, winograd=way != "direct"
        )
    return Candidate(partial(engine, aligned(x)), only)
