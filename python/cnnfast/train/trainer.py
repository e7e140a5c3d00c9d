"""The trainer: a loop over batches that can be stopped anywhere and goes on as if it had not been."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import sys
import time
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import random
from ..data.loader import DataLoader
from ..errors import CnnfastError, TrainingError, WeightsError
from ..nn.module import Module
from .batches import loader_of, parts, unwrapped
from .checkpoint import load_checkpoint, save_checkpoint
from .evaluation import Loss, chosen_loss, chosen_metrics, measured, one_number, threads_of
from .history import History, LogFile, TensorBoard, figure, line
from .interrupt import Interrupts
from .metrics import Sums
from .placement import Placement
from .progress import Progress
from .stopping import EarlyStopping

if TYPE_CHECKING:
    from ..optim import GradScaler

Path = str | os.PathLike[str]
_LEAST_SCALE = 2.0**-24

__all__ = ["fit"]


def fit(
    model: Module,
    data: Any,
    *,
    loss: Loss | None = None,
    optimizer: Any = None,
    schedule: Any = None,
    schedule_every: str = "epoch",
    epochs: int,
    validation: Any = None,
    metrics: Any = None,
    batch_size: int | None = None,
    seed: int = 0,
    accumulate: int = 1,
    clip_norm: float | None = None,
    ema: Any = None,
    early_stopping: EarlyStopping | int | None = None,
    checkpoint: Path | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
    log: Path | Sequence[Path] | None = None,
    tensorboard: Path | None = None,
    plot: Path | None = None,
    progress: bool = True,
    threads: int | None = None,
    workers: int = 0,
    device: str | None = None,
    dtype: Any = None,
    scaler: GradScaler | None = None,
) -> History:
    """Train a network.

    The same seed gives the same weights, bit for bit, whatever the number of threads and workers, and
    wherever the run was stopped and resumed.

    Parameters
    ----------
    model : Module
        Changed in place, and in evaluation mode afterwards. Frozen parts stay as they are to the bit.
    data : DataLoader, Dataset, or (inputs, targets)
        Batches are :class:`cnnfast.data.Batch` (the targets are labels, or masks, or the whole batch for
        losses that look at boxes) or pairs (inputs, targets). A data set or a pair of arrays is shuffled.
    loss : callable, optional
        ``loss(outputs, targets)`` gives a Tensor with one element, the mean over the batch; the
        cross-entropy of :mod:`cnnfast.losses` where it is left out.
    optimizer : cnnfast.optim.Optimizer, optional
        Over parameters of the model; Adam where it is left out.
    schedule : cnnfast.optim.Schedule, optional
        Learning rates, over the same optimiser. ReduceLROnPlateau follows what early stopping monitors, each
        epoch.
    schedule_every : {"epoch", "step"}
        When the schedule goes one step on; for OneCycleLR over all updates this is ``"step"``.
    epochs : int
        In all, those before a resume included.
    validation : DataLoader, Dataset, or (inputs, targets), optional
        Evaluated after each epoch, in evaluation mode and without a tape.
    metrics : str, callable, mapping, or sequence of these, optional
        ``"accuracy"``, ``"top5"``, or functions of outputs and targets (arrays) that give the mean of the
        batch or a number for each sample. The accuracy where loss and metrics are left out.
    batch_size, workers : int, optional
        For data that is no DataLoader; 32 and 0 where they are left out.
    seed : int
        Of the order of the samples, and of dropout and its kin.
    accumulate : int
        Batches whose gradients make one update, weighted by their samples: the same as batches that are so
        many times as large, but for rounding and for batch normalisation.
    clip_norm : float, optional
        Bound on the norm of all gradients together.
    ema : cnnfast.optim.ExponentialMovingAverage, optional
        Follows each update, the running statistics of the model included; validation uses the averages.
        Afterwards ``with ema.averaged():`` does.
    early_stopping : EarlyStopping or int, optional
        A number is the patience.
    checkpoint : path, optional
        A ``.safetensors`` file that is replaced, atomically, after each epoch and on Ctrl-C.
    checkpoint_every : int, optional
        Updates after which it is replaced as well.
    resume : bool
        Go on from the checkpoint if the file is there, else begin. Without it the file must not be there.
    log : path or sequence of paths, optional
        ``.csv`` or ``.jsonl`` files with a row for each epoch.
    tensorboard : path, optional
        Folder for TensorBoard (needs tensorboardX).
    plot : path, optional
        Picture of the learning curves (needs matplotlib), drawn at the end.
    progress : bool
        Bar (with tqdm) and a line for each epoch on stderr.
    threads : int, optional
        Threads of native calls meanwhile.
    device : {"cpu", "cuda"}, optional
        Where the network is trained, which is moved there and stays; where it is without it. Batches,
        checkpoints and what metrics see are in host memory.
    dtype : {"float32", "bfloat16", "float16"}, optional
        What a network on a device computes in between inputs and outputs. Parameters, their gradients and
        steps, and losses stay float32: see :func:`cnnfast.nn.mixed_precision`.
    scaler : cnnfast.optim.GradScaler, optional
        Scales the loss, and leaves steps out whose gradients overflow; made for float16 where it is left out.

    Returns
    -------
    History

    Raises
    ------
    TrainingError
        If a loss is not finite: before the update, so the weights are those of the step before. If no scale
        of the loss gives finite gradients.
    WeightsError
        If the checkpoint is damaged, or of another network, optimiser or data set.
    KeyboardInterrupt
        After Ctrl-C, when the step that was running is done and saved. A second Ctrl-C does not wait.
    BackendError, DTypeError
        If the device cannot be used, or does not compute in that type.
    ShapeError, DataError, ValueError, OSError

    Examples
    --------
    >>> import cnnfast as cf
    >>> from cnnfast import data, nn
    >>> digits = data.Arrays(np.zeros((20, 8, 8), np.uint8), np.arange(20) % 10)
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).initialize(0)
    >>> history = cf.train.fit(model, digits, epochs=2, batch_size=10, progress=False)
    >>> history["epoch"]
    [1, 2]
    """
    for name, value in (
        ("epochs", epochs),
        ("accumulate", accumulate),
        ("checkpoint_every", checkpoint_every),
    ):
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1
        ):
            raise ValueError(f"fit: expected {name} as a whole number from 1, got {value!r}")
    if schedule_every not in ("epoch", "step"):
        raise ValueError(f"fit: expected schedule_every 'epoch' or 'step', got {schedule_every!r}")
    if checkpoint is None and (resume or checkpoint_every):
        raise ValueError("fit: expected a checkpoint to resume from or to write, got None")
    if checkpoint is not None and not resume and os.path.exists(checkpoint):
        raise FileExistsError(
            errno.EEXIST, "fit: a checkpoint is there already: resume it, or remove it", os.fspath(checkpoint)
        )
    if plot is not None:
        figure()
    loader = loader_of("fit", data, batch_size, shuffle=True, seed=seed, workers=workers)
    held = None
    with contextlib.ExitStack() as stack:
        if loader is not data:
            stack.callback(loader.close)
        if isinstance(validation, DataLoader):
            if validation is loader:
                raise ValueError("fit: expected a DataLoader of its own for validation, got that of data")
            held = loader_of("fit: validation", validation)
        elif validation is not None:
            held = loader_of("fit: validation", validation, loader.batch_size, workers=workers)
            stack.callback(held.close)
        run = _Run(
            Placement("fit", model, device, dtype), scaler, loader, held,
            chosen_loss(loss), chosen_metrics(loss, metrics), optimizer, schedule,
            schedule_every, ema, early_stopping, accumulate, clip_norm, checkpoint, checkpoint_every,
        )  # fmt: skip
        random.manual_seed(seed)
        if resume and os.path.exists(os.fspath(checkpoint)):  # type: ignore[arg-type]
            run.load()
        stack.enter_context(threads_of(threads))
        history = run.train(epochs, stack, log, tensorboard, progress)
    if plot is not None:
        history.plot(plot)
    return history


class _Run:
    """All that changes while a network is trained."""

    def __init__(
        self,
        placed: Placement,
        scaler: GradScaler | None,
        loader: Any,
        validation: Any,
        loss: Loss,
        metrics: dict[str, Any],
        optimizer: Any,
        schedule: Any,
        schedule_every: str,
        ema: Any,
        early_stopping: EarlyStopping | int | None,
        accumulate: int,
        clip_norm: float | None,
        checkpoint: Path | None,
        checkpoint_every: int | None,
    ) -> None:
        from .. import optim

        self.placed, self.model = placed, (model := placed.model)
        self.loader, self.validation = loader, validation
        self.loss, self.metrics = loss, metrics
        self.optimizer = optim.Adam(model.parameters()) if optimizer is None else optimizer
        self.scaler = optim.GradScaler() if scaler is None and placed.dtype == np.float16 else scaler
        if self.scaler is not None and isinstance(self.optimizer, optim.LBFGS):
            raise ValueError("fit: expected an optimiser of single steps with a scaler, got LBFGS")
        self.schedule, self.schedule_every, self.ema = schedule, schedule_every, ema
        if ema is not None:
            ema.follow(model)
        if getattr(schedule, "optimizer", self.optimizer) is not self.optimizer:
            raise ValueError("fit: expected a schedule over the optimiser that is given, got another one")
        self.plateau = isinstance(schedule, optim.ReduceLROnPlateau)
        self.stopping = (
            early_stopping
            if early_stopping is None or isinstance(early_stopping, EarlyStopping)
            else EarlyStopping(early_stopping)
        )
        self.accumulate, self.clip_norm, self.clip = accumulate, clip_norm, optim.clip_grad_norm
        self.checkpoint, self.checkpoint_every = checkpoint, checkpoint_every

        self.history = History()
        self.step, self.done = 0, 0  # updates in all, batches in this epoch
        self.sums, self.seconds = Sums(metrics), 0.0  # of this epoch
        self.lr = self.rate()  # of the last update
        self.best: dict[str, Any] | None = None
        # Where the loaders were when the last update, or the last validation, was complete.
        self.position = loader.state_dict()
        self.validated = None if validation is None else validation.state_dict()
        self.interrupts, self.started = Interrupts(), time.monotonic()

    # --- the loop ------------------------------------------------------------------------------

    def train(
        self, epochs: int, stack: contextlib.ExitStack, log: Any, tensorboard: Path | None, progress: bool
    ) -> History:
        rows = self.history.rows
        paths = [] if log is None else [log] if isinstance(log, (str, os.PathLike)) else log
        logs: list[Any] = [LogFile(path, rows) for path in paths]
        if tensorboard is not None:
            logs.append(TensorBoard(tensorboard, rows))
        for each in logs:
            stack.callback(each.close)
        steps = -(-len(self.loader) // self.accumulate)
        bar = Progress(progress, epochs * steps, self.step)
        stack.callback(bar.close)
        # Weights that run away show in the loss, which is looked at before they are used.
        with self.interrupts, np.errstate(over="ignore", invalid="ignore"):
            while len(rows) < epochs and not self.stops():
                self.started = time.monotonic()
                self.model.train()
                if self.done < len(self.loader):
                    self.epoch(bar, epochs)
                self.finish_epoch(epochs)
                for each in logs:
                    each.add(rows[-1])
                bar.line(line(rows[-1], epochs))
                self.stop_if_interrupted()
        self.history.reason = "early stopping" if self.stops() else "epochs"
        if self.stopping is not None and self.stopping.restore_best and self.best is not None:
            self.model.load_state_dict(_copied(self.best))
        self.model.eval()
        return self.history

    def epoch(self, bar: Progress, epochs: int) -> None:
        """The batches of an epoch that are left."""
        batches = iter(self.loader)
        try:
            while group := list(islice(batches, self.accumulate)):
                self.update(group)
                self.step, self.done = self.step + 1, self.done + len(group)
                self.position = self.loader.state_dict()
                if self.schedule is not None and self.schedule_every == "step" and not self.plateau:
                    self.schedule.step()
                bar.step(f"epoch {len(self.history) + 1}/{epochs}", **self.sums.means())
                if self.checkpoint_every and self.step % self.checkpoint_every == 0:
                    self.save()
                self.stop_if_interrupted()
        finally:
            if hasattr(batches, "close"):
                batches.close()

    def update(self, group: list[Any]) -> None:
        """One update of the weights from a group of batches."""
        made = [parts(batch) for batch in group]
        total = sum(count for _, _, count in made)
        first = True  # L-BFGS calls the closure again
        scale = 1.0 if self.scaler is None else self.scaler.get_scale()

        def closure() -> float:
            nonlocal first
            self.optimizer.zero_grad()
            self.model.zero_grad()
            mean = 0.0
            for inputs, targets, count in made:
                outputs = self.placed(inputs)
                value = one_number(self.loss(outputs, targets))
                # A device works on this while its host waits for the number.
                value.backward(np.full(value.shape, scale * count / total, value.dtype))
                number = float(value.numpy().reshape(()))
                if first and not math.isfinite(number):
                    raise TrainingError(
                        f"fit: expected a finite loss, got {number} in epoch {len(self.history) + 1}, "
                        f"step {self.step + 1} (learning rate {self.rate():g}): a smaller learning rate "
                        "or clip_norm may help"
                    )
                if first:
                    self.sums.add(count, number, unwrapped(outputs), targets)
                mean += number * count / total
            if self.scaler is not None:
                self.scaler.unscale(self.optimizer)
            if self.clip_norm is not None:
                self.clip([p for g in self.optimizer.param_groups for p in g["params"]], self.clip_norm)
            first = False
            return mean

        self.lr, stepped = self.rate(), True
        if self.scaler is None:
            self.optimizer.step(closure)
        else:
            closure()
            stepped = self.scaler.step(self.optimizer)
            self.scaler.update()
            if self.scaler.get_scale() < _LEAST_SCALE:
                raise TrainingError(
                    f"fit: expected finite gradients, got none at any scale of the loss down to "
                    f"{_LEAST_SCALE:g}, in epoch {len(self.history) + 1}, step {self.step + 1}"
                )
        if self.ema is not None and stepped:
            self.ema.update()

    def finish_epoch(self, epochs: int) -> None:
        """Validation, a row of the history, and the checkpoint."""
        row: dict[str, Any] = {"epoch": len(self.history) + 1, "step": self.step, **self.sums.means()}
        if self.validation is not None:
            averaged = contextlib.nullcontext() if self.ema is None else self.ema.averaged()
            with averaged:
                found = measured(
                    self.placed, self.validation, self.loss, self.metrics, lambda: self.interrupts.noted
                )
            self.stop_if_interrupted()
            row |= {f"val_{name}": value for name, value in found.items()}
            self.validated = self.validation.state_dict()
        row["lr"] = self.lr
        row["seconds"] = self.seconds + time.monotonic() - self.started
        self.history.rows.append(row)
        monitor = self.monitor()
        if self.plateau:
            self.schedule.step(row[monitor])
        elif self.schedule is not None and self.schedule_every == "epoch":
            self.schedule.step()
        best = self.stopping.best(self.history[monitor]) if self.stopping is not None else None
        if best == len(self.history) - 1 and self.stopping is not None and self.stopping.restore_best:
            with contextlib.nullcontext() if self.ema is None else self.ema.averaged():
                self.best = _copied(self.model.state_dict())
        self.done, self.sums, self.seconds = 0, Sums(self.metrics), 0.0
        self.started = time.monotonic()
        if self.checkpoint is not None:
            self.save()

    def rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def monitor(self) -> str:
        """The column that early stopping and ReduceLROnPlateau go by."""
        name = None if self.stopping is None else self.stopping.monitor
        name = name or ("loss" if self.validation is None else "val_loss")
        if self.history.rows and name not in self.history.rows[0]:
            known = ", ".join(self.history.rows[0])
            raise ValueError(f"EarlyStopping: expected monitor as one of {known}, got {name!r}")
        return name

    def stops(self) -> bool:
        return self.stopping is not None and self.stopping.stops(self.history[self.monitor()])

    def stop_if_interrupted(self) -> None:
        if not self.interrupts.noted:
            return
        where = f"epoch {len(self.history) + (self.done > 0)}, step {self.step}"
        saved = ""
        if self.checkpoint is not None:
            self.save()
            saved = f": saved in {os.fspath(self.checkpoint)}"
        print(f"cnnfast: interrupted in {where}{saved}", file=sys.stderr)
        raise KeyboardInterrupt

    # --- checkpoints ---------------------------------------------------------------------------

    def save(self) -> None:
        """Write the checkpoint; between two updates, so that nothing is half done."""
        assert self.checkpoint is not None
        save_checkpoint(
            self.checkpoint,
            {
                "model": self.model.state_dict(),
                "optimizer": _named(self.optimizer),
                "schedule": _named(self.schedule),
                "ema": _named(self.ema),
                "scaler": _named(self.scaler),
                "random": random.get_state(),
                "loader": self.position,
                "validation": self.validated,
                "accumulate": self.accumulate,
                "history": self.history.rows,
                "step": self.step,
                "done": self.done,
                "lr": self.lr,
                "sums": self.sums.state_dict(),
                "seconds": self.seconds + time.monotonic() - self.started,
                "best": self.best,
            },
        )

    def load(self) -> None:
        """Go on from the checkpoint."""
        assert self.checkpoint is not None
        state = load_checkpoint(self.checkpoint)
        place = f"fit: {os.fspath(self.checkpoint)}"
        try:
            if state["accumulate"] != self.accumulate:
                raise ValueError(f"expected accumulate {self.accumulate}, got {state['accumulate']}")
            self.loader.load_state_dict(state["loader"])
            self.position = state["loader"]
            if self.validation is not None and state["validation"] is not None:
                self.validation.load_state_dict(state["validation"])
                self.validated = state["validation"]
            self.model.load_state_dict(state["model"])
            for name in ("optimizer", "schedule", "ema", "scaler"):
                _load_named(name, getattr(self, name), state.get(name))  # older files have no scaler
            random.set_state(state["random"])
            self.history = History(state["history"])
            self.step, self.done, self.lr = state["step"], state["done"], state["lr"]
            self.best = state["best"]
            self.sums, self.seconds = Sums(self.metrics, state["sums"]), state["seconds"]
        except (CnnfastError, ValueError, TypeError, KeyError) as error:
            raise WeightsError(f"{place}: the checkpoint does not fit this run: {error}") from error


def _named(part: Any) -> Any:
    """A state with the name of its class."""
    return None if part is None else {"class": type(part).__name__, "state": part.state_dict()}


def _load_named(name: str, part: Any, state: Any) -> None:
    own, given = None if part is None else type(part).__name__, None if state is None else state["class"]
    if own != given:
        raise ValueError(f"expected {name} {own}, got {given}")
    if part is not None:
        part.load_state_dict(state["state"])


def _copied(state: dict[str, Any]) -> dict[str, Any]:
    return {name: np.array(array, order="C") for name, array in state.items()}
