"""The trainer: what it learns, what it reports, what stops it; the same bits whatever the machine does."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cnnfast as cf
from cnnfast import data, nn, optim, train
from cnnfast.errors import DataError, ShapeError, TrainingError
from cnnfast.models.transfer import cached_features, freeze, replace_head
from cnnfast.train import EarlyStopping
from training import CHAIN, PLAIN, loader, network, numbers, patterns, settings, state

QUIET: dict[str, Any] = {"progress": False}


def fitted(source: Any = None, epochs: int = 2, **options: Any) -> tuple[nn.Module, train.History]:
    model = network()
    history = train.fit(model, source or loader(), epochs=epochs, **{**settings(model), **options})
    return model, history


# --- learning ---------------------------------------------------------------------------------------


def test_learns_and_reports() -> None:
    model = network()
    held = data.DataLoader(patterns(40, seed=4), 16, transform=PLAIN)
    history = train.fit(
        model, loader(), optimizer=optim.Adam(model.parameters(), 0.01), epochs=8, validation=held, **QUIET
    )
    assert list(history.rows[0]) == [
        "epoch", "step", "loss", "accuracy", "val_loss", "val_accuracy", "lr", "seconds",
    ]  # fmt: skip
    assert history["epoch"] == list(range(1, 9))
    assert history["step"] == [6 * i for i in range(1, 9)]
    assert history["lr"] == [0.01] * 8
    assert history.reason == "epochs"
    assert history["val_accuracy"][-1] > 0.9
    assert history["val_loss"][-1] < 0.7 * history["val_loss"][0]
    found = train.evaluate(model, held)
    assert found == {"loss": history["val_loss"][-1], "accuracy": history["val_accuracy"][-1]}
    assert not any(module.training for module in model.modules())
    with pytest.raises(KeyError, match="expected one of epoch, step"):
        history["nothing"]


def test_the_loss_is_the_mean_over_samples() -> None:
    """Also where the last batch is smaller."""
    model, pictures = network().eval(), patterns()
    whole = train.evaluate(model, data.DataLoader(pictures, 44, transform=PLAIN))
    parts = train.evaluate(model, data.DataLoader(pictures, 10, transform=PLAIN))
    assert whole["loss"] == pytest.approx(parts["loss"], rel=1e-5)
    assert whole["accuracy"] == parts["accuracy"]


def test_arrays_and_data_sets_are_shuffled_and_batched() -> None:
    x = np.random.default_rng(0).standard_normal((20, 6)).astype(np.float32)
    target = x @ np.arange(6, dtype=np.float32)[:, None]
    model = nn.Sequential(nn.Linear(6, 1)).initialize(0)
    history = train.fit(
        model, (x, target), loss=cf.losses.mse, optimizer=optim.Adam(model.parameters(), 0.1),
        epochs=60, batch_size=7, validation=(x, target), metrics=mean_error, **QUIET,
    )  # fmt: skip
    assert history["step"][-1] == 180
    assert history["val_mean_error"][-1] < 0.1 * history["val_mean_error"][0]
    np.testing.assert_allclose(model[0].weight.data[:, 0], np.arange(6), atol=0.3)


def mean_error(outputs: np.ndarray, targets: np.ndarray) -> float:
    return float(np.abs(outputs - targets).mean())


def test_accumulated_gradients_are_those_of_the_large_batch() -> None:
    """Groups of unequal batches too: 44 samples are five of 8 and one of 4."""

    def weights(batch: int, accumulate: int) -> list[np.ndarray]:
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4)).initialize(1)
        history = train.fit(
            model, loader(batch=batch), optimizer=optim.Momentum(model.parameters(), 0.1),
            epochs=2, accumulate=accumulate, **QUIET,
        )  # fmt: skip
        assert history["step"] == [-(-44 // (batch * accumulate)) * i for i in (1, 2)]
        return [p.data for p in model.parameters()]

    large = weights(16, 1)
    for batch, accumulate in ((8, 2), (4, 4)):
        for a, b in zip(weights(batch, accumulate), large, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6)


def test_the_same_bits_for_any_number_of_threads_and_workers() -> None:
    expected = None
    for threads, workers, kind in ((1, 0, "thread"), (2, 0, "thread"), (1, 2, "thread"), (2, 2, "process")):
        with loader(workers, kind) as batches:
            model, history = fitted(batches, epochs=9, threads=threads)  # 54 steps
        expected = expected or (state(model), numbers(history))
        assert (state(model), numbers(history)) == expected, (threads, workers, kind)
    assert cf.get_num_threads() >= 1


def test_other_seeds_give_other_weights() -> None:
    assert state(fitted(patterns(), seed=1)[0]) != state(fitted(patterns(), seed=2)[0])
    assert state(fitted(patterns(), seed=1)[0]) == state(fitted(patterns(), seed=1)[0])


def test_lbfgs_calls_the_closure_many_times() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4)).initialize(0)
    history = train.fit(
        model, data.DataLoader(patterns(), 44, transform=PLAIN),
        optimizer=optim.LBFGS(model.parameters(), max_iter=5, line_search_fn="strong_wolfe"),
        epochs=6, **QUIET,
    )  # fmt: skip
    assert history["loss"][-1] < 0.1 * history["loss"][0]
    assert history["accuracy"][-1] == 1


# --- frozen parts and transfer ----------------------------------------------------------------------


def test_frozen_parts_are_the_same_bits_afterwards() -> None:
    model = network()
    freeze(model, "0", "1")
    before = state(model)
    train.fit(model, loader(), epochs=2, **settings(model))
    after = state(model)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"6.weight", "6.bias"}


def test_a_head_on_kept_features(tmp_path: Path) -> None:
    """The same weights of the head as by training it behind the frozen trunk."""
    pictures = np.concatenate([b.pictures for b in data.DataLoader(patterns(), 44, transform=PLAIN)])
    labels = patterns().labels
    trunk = nn.Sequential(nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten())
    whole = nn.Sequential(trunk, nn.Sequential(nn.Linear(180, 7))).initialize(3)
    replace_head(whole, 4, seed=5)
    freeze(whole, "0")
    features = cached_features(whole, pictures, "0", tmp_path / "features.safetensors")
    head = nn.Sequential(nn.Linear(180, 4))
    head.load_state_dict({k[2:]: v.copy() for k, v in whole.state_dict().items() if k.startswith("1.")})
    rows = []
    for model, x in ((head, features), (whole, pictures)):
        optimizer = optim.SGD([p for p in model.parameters() if p.requires_grad], 0.05)
        rows.append(train.fit(model, (x, labels), optimizer=optimizer, epochs=3, batch_size=11, **QUIET))
    np.testing.assert_allclose(rows[0]["loss"], rows[1]["loss"], rtol=1e-5)
    np.testing.assert_allclose(head[0].weight.data, whole[1][0].weight.data, rtol=1e-4, atol=1e-6)
    assert rows[0]["loss"][-1] < rows[0]["loss"][0]


# --- averages, schedules, early stopping ------------------------------------------------------------


def test_validation_uses_the_averages() -> None:
    model = network()
    options = settings(model)
    held = data.DataLoader(patterns(20, seed=8), 20, transform=PLAIN)
    history = train.fit(model, loader(), epochs=2, validation=held, **options)
    plain = train.evaluate(model, held)["loss"]
    with options["ema"].averaged():
        assert train.evaluate(model, held)["loss"] == history["val_loss"][-1] != plain


class Remembering(optim.ExponentialMovingAverage):
    """Keeps the running statistics that every update has seen."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model.parameters(), decay)
        self.layer, self.seen = model[1], [model[1].running_var]

    def update(self) -> None:
        super().update()
        self.seen.append(self.layer.running_var)


def test_statistics_are_averaged_as_the_weights_are() -> None:
    model = network()
    average = Remembering(model, 0.8)
    held = data.DataLoader(patterns(20, seed=8), 20, transform=PLAIN)
    optimizer = optim.SGD(model.parameters(), 0.3)
    history = train.fit(model, loader(), epochs=3, validation=held, ema=average, optimizer=optimizer, **QUIET)
    expected, last = average.seen[0].astype(np.float64), model[1].running_var
    for running in average.seen[1:]:
        expected = 0.8 * expected + 0.2 * running
    assert len(average.seen) == 3 * 6 + 1
    with average.averaged():
        np.testing.assert_allclose(model[1].running_var, expected, rtol=1e-5)  # 18 roundings of 2^-24, twice
        assert train.evaluate(model, held)["loss"] == history["val_loss"][-1]
        assert model[1].num_batches_tracked == 18
        model[1].running_var = last  # of other weights
        assert train.evaluate(model, held)["loss"] != history["val_loss"][-1]
    assert model[1].running_var is last


@pytest.mark.parametrize(
    ("every", "rates"), [("epoch", [0.1, 0.05, 0.025]), ("step", [0.1 / 32, 0.1 / 2**11, 0.1 / 2**17])]
)
def test_schedules_step_by_epochs_or_updates(every: str, rates: list[float]) -> None:
    """The rate of a row is that of the epoch's last update."""
    model = network()
    optimizer = optim.SGD(model.parameters(), 0.1)
    schedule = optim.StepLR(optimizer, 1, gamma=0.5)
    history = train.fit(
        model, loader(), optimizer=optimizer, schedule=schedule, schedule_every=every, epochs=3, **QUIET
    )
    np.testing.assert_allclose(history["lr"], rates)


def test_parts_of_another_run() -> None:
    model = network()
    one, other = (optim.SGD(model.parameters(), 0.1) for _ in range(2))
    batches = loader()
    with pytest.raises(ValueError, match="expected a DataLoader of its own for validation"):
        train.fit(model, batches, validation=batches, epochs=1, **QUIET)
    with pytest.raises(ValueError, match="expected a schedule over the optimiser that is given"):
        train.fit(model, loader(), optimizer=one, schedule=optim.StepLR(other, 1), epochs=1, **QUIET)


@pytest.mark.parametrize("restore", [False, True])
def test_early_stopping(restore: bool) -> None:
    """Rates that are far too high make the loss rise."""
    model = network()
    optimizer = optim.SGD(model.parameters(), 0.05)
    schedule = optim.StepLR(optimizer, 3, gamma=60.0)
    held = data.DataLoader(patterns(20, seed=8), 20, transform=PLAIN)
    stopping = EarlyStopping(2, "val_loss", restore_best=restore)
    history = train.fit(
        model, loader(), optimizer=optimizer, schedule=schedule, epochs=30, validation=held,
        early_stopping=stopping, clip_norm=1.0, **QUIET,
    )  # fmt: skip
    losses = history["val_loss"]
    best = int(np.argmin(losses))
    assert history.reason == "early stopping"
    assert len(history) == best + 3
    end = train.evaluate(model, held)["loss"]
    assert end == losses[best if restore else -1]


def test_early_stopping_by_values() -> None:
    assert not EarlyStopping(2).stops([1.0, 0.9])
    assert EarlyStopping(2).stops([1.0, 0.9, 0.9, 0.91])
    assert not EarlyStopping(2, "accuracy").stops([0.1, 0.2, 0.15])
    assert EarlyStopping(2, "accuracy").stops([0.1, 0.2, 0.15, 0.2])
    assert EarlyStopping(2, min_delta=0.2).stops([1.0, 0.9, 0.85])
    assert EarlyStopping(2).stops([math.nan, math.nan])
    assert EarlyStopping(1).best([math.nan, 2.0, 1.0, math.nan]) == 2
    with pytest.raises(ValueError, match="patience as a whole number"):
        EarlyStopping(0)
    with pytest.raises(ValueError, match="expected monitor as one of epoch"):
        fitted(early_stopping=EarlyStopping(1, "val_loss"))


# --- what goes wrong --------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite() -> None:
    model = network()
    steps = 0

    def loss(outputs: Any, targets: Any) -> Any:
        nonlocal steps
        steps += 1
        value = cf.losses.cross_entropy(outputs, targets)
        return value * (math.nan if steps == 9 else 1.0)

    weights: list[bytes] = []

    class Watched(optim.SGD):
        def step(self, closure: Any = None) -> Any:
            weights.append(model[6].weight.data.tobytes())
            return super().step(closure)

    with pytest.raises(
        TrainingError, match=r"finite loss, got nan in epoch 2, step 9 \(learning rate 0.05\)"
    ):
        train.fit(model, loader(), loss=loss, optimizer=Watched(model.parameters(), 0.05), epochs=4, **QUIET)
    assert model[6].weight.data.tobytes() == weights[-1]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"epochs": 0}, ValueError, "expected epochs as a whole number from 1, got 0"),
        ({"accumulate": 1.5}, ValueError, "expected accumulate as a whole number"),
        ({"schedule_every": "batch"}, ValueError, "expected schedule_every 'epoch' or 'step'"),
        ({"resume": True}, ValueError, "expected a checkpoint to resume from"),
        ({"batch_size": 4}, ValueError, "expected batch_size and workers of the DataLoader alone"),
        ({"metrics": "best"}, ValueError, "expected 'accuracy', 'top5' or functions, got 'best'"),
        ({"metrics": ["accuracy", train.accuracy]}, ValueError, "'accuracy' twice"),
        ({"loss": lambda outputs, targets: outputs}, ShapeError, r"one element, .* got shape \(8, 4\)"),
        ({"loss": lambda outputs, targets: 1.0}, ShapeError, "got float"),
        ({"log": "log.txt"}, ValueError, r"ends in .csv or .jsonl, got 'log.txt'"),
    ],
)
def test_bad_arguments(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        train.fit(network(), loader(), **{"epochs": 1, **QUIET, **options})


def test_numpy_integers_count() -> None:
    stop = train.EarlyStopping(patience=np.int32(3), monitor="loss")
    history = train.fit(network(), loader(), epochs=np.int64(1), early_stopping=stop, **QUIET)
    assert history["epoch"] == [1]
    assert train.top_k(np.int64(2))(np.eye(3, dtype=np.float32), np.arange(3)).all()


def test_bad_data() -> None:
    for source, error, message in (
        (5, DataError, "expected a DataLoader, a data set or a pair of arrays, got a int"),
        ([], DataError, "at least one batch, got none"),
        ((np.zeros((3, 2)), np.zeros(4)), ShapeError, r"one length, got \(3, 2\) and \(4,\)"),
        (np.zeros((5, 2), np.float32), DataError, "expected batches of pictures and labels"),
    ):
        with pytest.raises(error, match=message):
            train.fit(network(), source, epochs=1, **QUIET)


# --- metrics ----------------------------------------------------------------------------------------


def test_metrics_by_their_definition(rng: np.random.Generator) -> None:
    scores = rng.integers(0, 4, (50, 6)).astype(np.float32)  # many ties
    labels = rng.integers(0, 6, 50)
    for k in (1, 2, 5, 6):
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        expected = (order == labels[:, None]).any(axis=1)
        assert np.array_equal(train.top_k(k)(scores, labels), expected)
    assert np.array_equal(train.accuracy(scores, labels), scores.argmax(1) == labels)
    soft = np.eye(6, dtype=np.float32)[labels] * 0.7 + 0.05
    assert np.array_equal(train.accuracy(scores, soft), scores.argmax(1) == labels)
    assert train.accuracy((scores, None), labels).tolist() == train.accuracy(scores, labels).tolist()


def test_accuracy_of_pixels_leaves_ignored_ones_out() -> None:
    scores = np.zeros((2, 2, 2, 3), np.float32)
    scores[..., 1] = 1
    labels = np.array([[[1, 1], [0, -100]], [[-100, -100], [-100, -100]]])
    share = train.accuracy(scores, labels)
    assert share[0] == pytest.approx(2 / 3)
    assert np.isnan(share[1])
    with pytest.raises(ShapeError, match=r"accuracy: expected scores .* labels \(2, 2\)"):
        train.accuracy(scores, labels[0])
    with pytest.raises(ValueError, match="k as a whole number from 1"):
        train.top_k(0)


def test_several_metrics_with_names_of_their_own() -> None:
    model = network().eval()
    found = train.evaluate(model, loader(), metrics=["accuracy", "top3", mean_error_of_first])
    assert list(found) == ["loss", "accuracy", "top3", "mean_error_of_first"]
    assert found["top3"] >= found["accuracy"]
    assert list(train.evaluate(model, loader(), metrics={"right": train.accuracy})) == ["loss", "right"]


def mean_error_of_first(outputs: np.ndarray, targets: np.ndarray) -> float:
    return float(np.abs(outputs[:, 0] - targets).mean())


def test_evaluate_leaves_the_modes_as_they_were() -> None:
    model = network()
    model[1].freeze()
    before, modes = state(model), [m.training for m in model.modules()]
    train.evaluate(model, loader())
    assert [m.training for m in model.modules()] == modes
    assert state(model) == before


# --- logs -------------------------------------------------------------------------------------------


def test_logs(tmp_path: Path) -> None:
    paths = [tmp_path / "log.csv", tmp_path / "log.jsonl"]
    _, history = fitted(epochs=3, log=paths, validation=loader())
    with open(paths[0], newline="") as file:
        rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    assert rows == [{k: float(v) for k, v in row.items()} for row in history]
    assert [json.loads(text) for text in paths[1].read_text().splitlines()] == history.rows


def test_a_picture_of_the_curves(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    fitted(epochs=2, plot=tmp_path / "curves.png", validation=loader())
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    fitted(epochs=2, tensorboard=tmp_path / "board")
    (events,) = (tmp_path / "board").iterdir()
    content = events.read_bytes()
    assert b"accuracy/train" in content
    assert b"loss/train" in content


@pytest.mark.parametrize(
    ("option", "module"), [("plot", "matplotlib.figure"), ("tensorboard", "tensorboardX")]
)
def test_missing_extras(option: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(TrainingError, match="pip install 'cnnfast"):
        fitted(**{option: tmp_path / "x.png"})


def test_progress_is_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    fitted(epochs=2, progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = shown.err.splitlines()
    assert lines[0].startswith("epoch 1/2  loss ")
    assert lines[0].endswith(" left")
    assert lines[1].startswith("epoch 2/2  loss ")


def test_a_bar_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tqdm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    fitted(epochs=2, progress=True)
    err = capsys.readouterr().err
    assert "epoch 1/2  loss " in err
    assert "12/12" in err or "epoch 2/2:" in err


def test_import_stays_light() -> None:
    code = "import sys, cnnfast; assert not {'cnnfast.train', 'tqdm', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_chain_is_used() -> None:
    """Augmentation changes what is learnt: the transforms do run."""
    augmented, _ = fitted(loader(transform=CHAIN))
    plain, _ = fitted(loader(transform=PLAIN))
    assert state(augmented) != state(plain)


# --- batch normalisation ----------------------------------------------------------------------------


def test_statistics_of_other_weights() -> None:
    """Means over batches of means and unbiased variances, each layer after the ones before it."""
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5), nn.BatchNorm2d(3)).initialize(0)
    model[0]._buffers["running_mean"] += 7  # of weights of long ago
    x = np.random.default_rng(1).normal(2, 3, (12, 4, 5, 3)).astype(np.float32)
    pictures = data.DataLoader(data.Arrays(x, range(12)), 4)
    train.update_batch_norm(model, pictures, batches=2)
    used = x[:8].reshape(2, -1, 3)
    first, second = model[0].state_dict(), model[2].state_dict()
    np.testing.assert_allclose(first["running_mean"], used.mean(1).mean(0), rtol=1e-5)
    np.testing.assert_allclose(first["running_var"], used.var(1, ddof=1).mean(0), rtol=1e-5)
    np.testing.assert_allclose(second["running_mean"], 0, atol=1e-5)  # nothing was dropped out
    assert all(module.training for module in model.modules())
    assert model[0].momentum == 0.1

    frozen = {name: a.copy() for name, a in model[0].freeze().state_dict().items()}
    train.update_batch_norm(model, (x * 2, np.zeros(12)), batch_size=6)
    assert all(np.array_equal(a, frozen[name]) for name, a in model[0].state_dict().items())
    assert not np.array_equal(model[2].state_dict()["running_var"], second["running_var"])
    train.update_batch_norm(nn.Sequential(nn.Linear(3, 2)), pictures)  # nothing to do
    with pytest.raises(ShapeError, match="update_batch_norm"):
        train.update_batch_norm(model, pictures, batches=0)
