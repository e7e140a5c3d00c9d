"""The loop of style transfer: an optimiser that moves pixels, with previews, progress and checkpoints."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import sys
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import ops
from ..config import current_backend
from ..errors import ShapeError, TrainingError, WeightsError
from ..optim import LBFGS, Adam
from ..tensor import Tensor
from ..train.checkpoint import load_checkpoint, save_checkpoint
from ..train.interrupt import Interrupts
from ..train.progress import Progress
from .features import Convolution, Features
from .memory import Plan, forward_bytes, mebibytes, plans, resident
from .objective import CONTENT_LAYERS, STYLE_LAYERS, Costs, Objective

Array = np.ndarray
Row = dict[str, float]

__all__ = ["Stylised", "begin_from", "fitted", "transfer"]

OPTIMIZERS = {"adam": 4.0, "lbfgs": 1.0}  # and usual learning rates
_HISTORY = 20  # pairs that L-BFGS keeps
#: Pictures of the size of the result that are alive besides features: those of the optimiser, gradients, the
#: total variation and its tape, what is written to a file.
_PICTURES = {"adam": 24, "lbfgs": 24 + 2 * _HISTORY}
# J is scaled so that a gradient's values are of this size at first: L-BFGS has absolute bounds.
_GRADIENT = 100.0
_VERSION = 2


@dataclass
class Stylised:
    """What :func:`transfer` made.

    Attributes
    ----------
    picture : ndarray of uint8, shape (H, W, 3)
    pixels : ndarray of float32, shape (1, H, W, 3)
        The same before it was rounded, in 0..255.
    rows : list of dict
        ``iteration`` (from 1), ``total``, ``content``, ``style`` and ``variation``: J and its parts where
        each iteration began.
    style_weight : float
        beta.
    plan : Plan
        What was kept in memory.
    """

    picture: Array
    pixels: Array
    rows: list[Row]
    style_weight: float
    plan: Plan


def fitted(picture: Any, size: int | tuple[int, int] | None, scale: float = 1.0) -> Array:
    """A picture as a batch of one, its longer side of a given length.

    Parameters
    ----------
    picture : array_like, shape (H, W, 3)
        0..255.
    size : int, (int, int) or None
        The longer side, both sides (rows and columns), or as it is.
    scale : float
        Factor for the size.

    Returns
    -------
    ndarray of float32, shape (1, P, Q, 3)

    Raises
    ------
    ShapeError
    """
    x = np.asarray(picture)
    if x.ndim != 3 or x.shape[2] != 3 or not x.size:
        raise ShapeError(f"fitted: expected a picture of shape (H,W,3), got {x.shape}")
    x = np.ascontiguousarray(x, np.float32)[None]
    rows, columns = x.shape[1:3]
    if isinstance(size, tuple):
        wanted = size
    else:
        factor = scale * (1 if size is None else size / max(rows, columns))
        wanted = max(1, round(rows * factor)), max(1, round(columns * factor))
    return x if wanted == (rows, columns) else ops.resize(x, wanted, antialias=True)


def begin_from(init: Any, content: Array, seed: int) -> Array:
    """The picture that is changed first: the content, noise drawn from a seed, or another picture."""
    if isinstance(init, str):
        if init == "content":
            return content.copy()
        if init == "noise":
            noise = np.random.default_rng(seed).normal(128, 48, content.shape)
            return np.clip(noise, 0, 255).astype(np.float32)
        raise ValueError(f"transfer: init must be 'content', 'noise' or a picture, got {init!r}")
    return np.clip(fitted(init, content.shape[1:3]), 0, 255)


def transfer(
    content: Any,
    style: Any,
    features: Features,
    *,
    iterations: int = 300,
    init: Any = "content",
    optimizer: str = "lbfgs",
    lr: float | None = None,
    content_weight: float = 1.0,
    style_weight: float | None = None,
    variation_weight: float = 0.0,
    content_layers: Mapping[str, float] = CONTENT_LAYERS,
    style_layers: Mapping[str, float] = STYLE_LAYERS,
    content_scale: str = "mean_quarter",
    seed: int = 0,
    memory: int | None = None,
    preview: Callable[[int, Array], Any] | None = None,
    preview_every: int = 50,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 50,
    resume: bool = False,
    progress: bool = False,
) -> Stylised:
    """Give a picture the textures of another one.

    Parameters
    ----------
    content, style : array_like, shapes (H, W, 3) and (P, Q, 3)
        0..255, of the sizes that they are wanted in: the result has the content's (see :func:`fitted`).
    features : Features
        See :func:`.load_features`.
    iterations : int
        In all, those before a resumption included.
    init : {"content", "noise"} or array_like
        Where to begin: the content picture, noise drawn from ``seed``, or a picture, which is resized.
    optimizer : {"lbfgs", "adam"}
        An iteration of Adam evaluates J once, one of L-BFGS as often as its search along a line (strong
        Wolfe conditions) needs: mostly once too. For the same time L-BFGS gets further.
    lr : float, optional
        1 for L-BFGS (where its search begins), 4 (of 0..255) for Adam.
    content_weight, style_weight, variation_weight : float
        alpha, beta and gamma of :class:`.Objective`, which chooses beta unless it is given.
    content_layers, style_layers : mapping of str to float
        Layers and their weights; deeper layers of content keep less of the pixels.
    content_scale : {"half", "mean_half", "mean_quarter"}
    seed : int
    memory : int, optional
        Bytes that the process may take at most. Weights are then kept as they are where their quicker form
        does not fit, and features are computed again on the way back.
    preview : callable, optional
        Called with the number of iterations done and the picture so far (uint8).
    preview_every, checkpoint_every : int
        Iterations from one to the next.
    checkpoint : str or os.PathLike, optional
        A ``.safetensors`` file that holds the run, also after Ctrl-C.
    resume : bool
        Go on from the checkpoint if it is there: the result has the bits of a run that was never stopped.
        Whether weights are kept in their quicker form belongs to the run, because it changes roundings.
    progress : bool
        A bar with J and the time that is left on stderr.

    Returns
    -------
    Stylised

    Raises
    ------
    MemoryError
        If ``memory`` is too little whatever is done; before anything is computed.
    TrainingError
        If J is not finite, or the checkpoint is one of other pictures or settings.
    WeightsError
        If the checkpoint is damaged or a foreign file.
    KeyboardInterrupt
        After Ctrl-C, when the iteration that was running is done and saved.
    ShapeError, ValueError, FileExistsError, OSError

    Notes
    -----
    Pixels stay in 0..255: after each iteration they are moved back to the nearest bound, and a gradient that
    would push a pixel over its bound counts as zero.
    """
    _check("iterations", iterations, 1)
    _check("preview_every", preview_every, 1)
    _check("checkpoint_every", checkpoint_every, 1)
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"transfer: optimizer must be 'lbfgs' or 'adam', got {optimizer!r}")
    if lr is not None and not lr > 0:
        raise ValueError(f"transfer: lr must be above 0, got {lr!r}")
    if resume and checkpoint is None:
        raise ValueError("transfer: resume needs a checkpoint")
    if checkpoint is not None and not resume and os.path.lexists(checkpoint):
        raise FileExistsError(17, "exists already; resume=True goes on from it", os.fspath(checkpoint))
    target, example = fitted(content, None), fitted(style, None)
    x = begin_from(init, target, seed)
    if not (content_layers or style_layers):
        raise ValueError("transfer: expected layers for content or style, got none")
    held = None
    if checkpoint is not None and os.path.lexists(checkpoint):
        held = _opened(checkpoint)
    plan = choose_plan(
        features, content_layers, style_layers, target.shape[1:3], example.shape[1:3], memory, optimizer,
        None if held is None else held["packed"],
    )  # fmt: skip
    objective = Objective(
        features,
        target,
        example,
        content_layers=content_layers,
        style_layers=style_layers,
        content_weight=content_weight,
        style_weight=style_weight,
        variation_weight=variation_weight,
        content_scale=content_scale,
        plan=plan,
    )
    settings = {
        "optimizer": optimizer, "lr": lr, "weights": [content_weight, style_weight, variation_weight],
        "content": dict(content_layers), "style": dict(style_layers), "scale": content_scale,
        "pooling": features.pooling,
    }  # fmt: skip
    run = Run(objective, x, optimizer, OPTIMIZERS[optimizer] if lr is None else lr)
    if checkpoint is not None:
        run.key = _key(settings, target, example, features)
        if held is not None:
            run.load(held, os.fspath(checkpoint))
    try:
        run.iterate(iterations, preview, preview_every, checkpoint, checkpoint_every, progress)
    finally:
        features.unpack()
    return Stylised(_rounded(run.x.data), run.x.data, run.rows, objective.weights[1], plan)


def choose_plan(
    features: Features,
    content_layers: Iterable[str],
    style_layers: Iterable[str],
    size: tuple[int, int],
    style_size: tuple[int, int],
    memory: int | None,
    optimizer: str = "lbfgs",
    packed: bool | None = None,
) -> Plan:
    """The quickest plan that stays within some memory, what the process has already included.

    Of a run that goes on only plans with weights in the same form (``packed``) will do: all of these give the
    same bits.

    Raises
    ------
    MemoryError
        If there is none.
    """
    content_layers = [*content_layers]
    steps = features.until([*content_layers, *style_layers])
    if memory is None or current_backend() != "cpu":
        if memory is not None:
            raise ValueError("transfer: memory is bounded on the backend 'cpu' alone")
        return Plan(packed=current_backend() == "cpu" if packed is None else packed)
    found = plans(steps, features.shapes(steps, size))
    found = [plan for plan in found if packed in (None, plan.packed)]
    once = forward_bytes(steps, features.shapes(steps, style_size))
    # Features of the content are kept.
    shapes = dict(zip([step.name for step in steps], features.shapes(steps, size)[1:], strict=True))
    kept = sum(4 * math.prod(shapes[name]) for name in {features.layer(name) for name in content_layers})
    pictures = _PICTURES[optimizer] * 12 * size[0] * size[1]
    here = resident()
    least = 0
    for plan in found:
        needed = here + pictures + kept + max(plan.bytes, once)
        if needed <= memory:
            return plan
        least = min(least or needed, needed)
    raise MemoryError(
        f"transfer: {size[0]} x {size[1]} pixels need {mebibytes(least)} at least, "
        f"{mebibytes(memory)} are allowed: take a smaller size or shallower layers"
    )


class Run:
    """A picture, its optimiser, and what has been done."""

    def __init__(self, objective: Objective, x: Array, optimizer: str, lr: float) -> None:
        self.objective = objective
        self.x = Tensor(x, requires_grad=True)
        self.optimizer: Any = (
            Adam([self.x], lr)
            if optimizer == "adam"
            else LBFGS([self.x], lr, 1, 25, 0.0, 0.0, _HISTORY, "strong_wolfe")
        )
        self.rows: list[Row] = []
        self.costs = Costs(0.0, 0.0, 0.0, 0.0)
        self.scale = 0.0  # of J and its gradient as the optimiser sees them
        self.seen: tuple[Array, Costs, Array] | None = None  # the last picture that J was worked out for
        self.key = ""

    def closure(self) -> float:
        """J and its gradient where the optimiser is, its pixels moved into the range."""
        x = self.x.data
        picture = np.clip(x, 0, 255)
        # A search along a line has mostly been where the next iteration begins.
        if self.seen is None or not np.array_equal(picture, self.seen[0]):
            self.seen = (picture, *self.objective(picture))
        _, self.costs, g = self.seen
        if not np.isfinite(self.costs.total):
            raise TrainingError(
                f"transfer: the loss is {self.costs.total} in iteration {len(self.rows) + 1}: smaller "
                "weights or a smaller learning rate may help"
            )
        if not self.scale:
            size = float(np.abs(g).mean(dtype=float))
            self.scale = _GRADIENT / size if size else 1.0
        outwards = ((x <= 0) & (g > 0)) | ((x >= 255) & (g < 0))
        self.x.grad = np.where(outwards, np.float32(0), np.float32(self.scale) * g)
        return self.scale * self.costs.total

    def step(self) -> None:
        before: list[Costs] = []

        def closure() -> float:
            loss = self.closure()
            before.append(self.costs)
            return loss

        self.optimizer.step(closure)
        np.clip(self.x.data, 0, 255, out=self.x.data)
        self.rows.append({"iteration": len(self.rows) + 1, **before[0]._asdict()})

    def iterate(
        self,
        iterations: int,
        preview: Callable[[int, Array], Any] | None,
        preview_every: int,
        checkpoint: str | os.PathLike[str] | None,
        checkpoint_every: int,
        progress: bool,
    ) -> None:
        bar = Progress(progress, iterations, len(self.rows), "iteration")
        saved = len(self.rows)
        with Interrupts() as interrupts, contextlib.closing(bar):
            while len(self.rows) < iterations:
                self.step()
                done, costs = len(self.rows), self.costs
                bar.step("style", loss=costs.total, content=costs.content, style=costs.style)
                if preview is not None and (done % preview_every == 0 or done == iterations):
                    preview(done, _rounded(self.x.data))
                if done % preview_every == 0:
                    bar.line(f"iteration {done}/{iterations}  loss {costs.total:.6g}")
                if checkpoint is not None and (
                    done % checkpoint_every == 0 or done == iterations or interrupts.noted
                ):
                    self.save(checkpoint)
                    saved = done
                if interrupts.noted:
                    where = f": saved in {os.fspath(checkpoint)}" if checkpoint and saved == done else ""
                    print(f"cnnfast: interrupted after iteration {done}{where}", file=sys.stderr)
                    raise KeyboardInterrupt

    # --- checkpoints ---------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        state = {
            "style": _VERSION, "key": self.key, "picture": self.x.data, "rows": self.rows,
            "packed": self.objective.plan.packed,
            "optimizer": self.optimizer.state_dict(), "scale": self.scale,
        }  # fmt: skip
        save_checkpoint(path, state)

    def load(self, state: Mapping[str, Any], path: str) -> None:
        if state["key"] != self.key:
            raise TrainingError(
                f"{path}: expected a checkpoint of these pictures, weights and settings, came one of others"
            )
        self.x.data = np.array(state["picture"])
        self.rows = [dict(row) for row in state["rows"]]
        self.optimizer.load_state_dict(state["optimizer"])
        self.scale = float(state["scale"])


def _opened(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a checkpoint holds."""
    state = load_checkpoint(path)
    if state.get("style") != _VERSION:
        raise WeightsError(f"{os.fspath(path)}: expected a checkpoint of style transfer, came another")
    return state


def _key(settings: Mapping[str, Any], content: Array, style: Array, features: Features) -> str:
    """A digest of what a run depends on, but for its length."""
    total = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for array in (content, style):
        total.update(str(array.shape).encode() + array.tobytes())
    for step in features.steps:
        if isinstance(step, Convolution):
            total.update(str(zlib.crc32(np.ascontiguousarray(step.weight).data.cast("B"))).encode())
    return total.hexdigest()


def _rounded(x: Array) -> Array:
    return np.clip(np.rint(x[0]), 0, 255).astype(np.uint8)


def _check(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"transfer: {name} must be a whole number from {least}, got {value!r}")
