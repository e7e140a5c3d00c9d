"""Checkpoints: a run that was stopped, interrupted or killed ends with the bits it would have had."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cnnfast as cf
from cnnfast import train
from cnnfast.errors import WeightsError
from cnnfast.train import EarlyStopping, load_checkpoint, save_checkpoint
from processes import run_python
from training import (
    OPTIMIZERS,
    Stop,
    loader,
    network,
    numbers,
    patterns,
    settings,
    state,
    stopping_loss,
)

TESTS = str(Path(__file__).parent)
posix = pytest.mark.skipif(sys.platform == "win32", reason="needs kill -9")


def run(
    path: Path | None,
    *,
    calls: int | None = None,
    optimizer: str = "adam",
    schedule: str = "cosine",
    epochs: int = 4,
    **options: Any,
) -> tuple[dict[str, bytes], list[bytes], list[dict[str, Any]]]:
    """Weights, averages and history of a run; one with ``calls`` stops after so many batches."""
    model = network()
    chosen = {**settings(model, optimizer, schedule), **options}
    if calls is not None:
        chosen["loss"], chosen["metrics"] = stopping_loss(calls), "accuracy"
    if path is not None:
        chosen |= {"checkpoint": path, "resume": True, "checkpoint_every": chosen.get("checkpoint_every", 1)}
    history = train.fit(model, loader(), epochs=epochs, **chosen)
    return state(model), [a.tobytes() for a in chosen["ema"].averages], numbers(history)


# --- resuming ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_resuming_at_any_step_gives_the_same_bits(optimizer: str, tmp_path: Path) -> None:
    """Stopped again and again: in the middle of an epoch, at its end, after one step."""
    expected = run(None, optimizer=optimizer)
    path = tmp_path / "run.safetensors"
    steps = []
    for calls in (1, 4, 2, 6, 7):
        with pytest.raises(Stop):
            run(path, calls=calls, optimizer=optimizer)
        steps.append(load_checkpoint(path)["step"])
    assert steps == [1, 5, 7, 13, 20]
    assert run(path, optimizer=optimizer) == expected


def test_every_step(tmp_path: Path) -> None:
    expected = run(None)
    path = tmp_path / "run.safetensors"
    for _ in range(24):
        try:
            found = run(path, calls=1)
        except Stop:
            continue
        break
    else:
        found = run(path)
    assert load_checkpoint(path)["step"] == 24
    assert found == expected


@pytest.mark.parametrize("schedule", ["onecycle", "plateau"])
def test_resuming_schedules(schedule: str, tmp_path: Path) -> None:
    expected = run(None, schedule=schedule)
    path = tmp_path / "run.safetensors"
    for calls in (8, 7):
        with pytest.raises(Stop):
            run(path, calls=calls, schedule=schedule)
    assert run(path, schedule=schedule) == expected


def test_resuming_between_rare_checkpoints(tmp_path: Path) -> None:
    """What came after the last checkpoint is done once more."""
    expected = run(None, accumulate=2)
    path = tmp_path / "run.safetensors"
    with pytest.raises(Stop):
        run(path, calls=11, accumulate=2, checkpoint_every=2)
    assert load_checkpoint(path)["step"] == 4  # of 5 that were done
    assert run(path, accumulate=2, checkpoint_every=2) == expected


def test_resuming_in_a_new_process(tmp_path: Path) -> None:
    expected = run(None)
    path = tmp_path / "run.safetensors"
    with pytest.raises(Stop):
        run(path, calls=9)
    code = """
        import sys
        sys.path.insert(0, sys.argv[2])
        from training import loader, network, settings
        from cnnfast import save_weights, train
        model = network()
        options = settings(model)
        train.fit(model, loader(2), epochs=4, checkpoint=sys.argv[1], resume=True, threads=2, **options)
        save_weights(sys.argv[3], model.state_dict())
    """
    done = run_python(code, str(path), TESTS, str(tmp_path / "end.safetensors"))
    assert done.returncode == 0, done.stderr
    end = cf.load_weights(tmp_path / "end.safetensors")
    assert {name: array.tobytes() for name, array in end.items()} == expected[0]


def test_a_longer_run_goes_on_from_a_finished_one(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    run(path, epochs=2)
    assert run(path, epochs=2)[2] == run(None, epochs=2)[2]  # nothing left to do
    assert run(path, epochs=4) == run(None, epochs=4)


def test_resuming_early_stopping(tmp_path: Path) -> None:
    options = {
        "validation": patterns(12, seed=1),
        "metrics": "accuracy",
        "early_stopping": EarlyStopping(3, "val_accuracy", restore_best=True),
        "epochs": 30,
    }
    expected = run(None, loss=stopping_loss(10**9), **options)
    path = tmp_path / "run.safetensors"
    for calls in (15, 9):
        with pytest.raises(Stop):
            run(path, calls=calls, **options)
    assert run(path, **options) == expected
    assert run(path, **options) == expected  # and stays stopped


def test_logs_after_a_resume_have_every_epoch_once(tmp_path: Path) -> None:
    path, log = tmp_path / "run.safetensors", tmp_path / "log.jsonl"
    with pytest.raises(Stop):
        run(path, calls=14, log=log)
    log.write_text(log.read_text() + '{"epoch": 3}\n{"epo')  # of a run killed after its last checkpoint
    run(path, log=log)
    assert [json.loads(text)["epoch"] for text in log.read_text().splitlines()] == [1, 2, 3, 4]


def test_an_old_checkpoint_is_not_lost_by_a_new_run(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    run(path, epochs=1)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="a checkpoint is there already: resume it, or remove it"):
        train.fit(network(), loader(), epochs=1, checkpoint=path, progress=False)
    assert path.read_bytes() == before


# --- what does not fit ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "sgd"}, "expected optimizer SGD, got Adam"),
        ({"schedule": "plateau"}, "expected schedule ReduceLROnPlateau, got CosineAnnealingLR"),
        ({"ema": None}, "expected ema None, got ExponentialMovingAverage"),
        ({"accumulate": 2}, "expected accumulate 2, got 1"),
    ],
)
def test_another_run(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    run(path, epochs=1)
    model = network()
    chosen = {
        **settings(model, options.pop("optimizer", "adam"), options.pop("schedule", "cosine")),
        **options,
    }
    with pytest.raises(
        WeightsError, match=f"run.safetensors: the checkpoint does not fit this run: {message}"
    ):
        train.fit(model, loader(), epochs=2, checkpoint=path, resume=True, **chosen)


def test_another_network_and_other_data(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    run(path, epochs=1)
    for model, batches, message in (
        (cf.nn.Sequential(cf.nn.Flatten(), cf.nn.Linear(64, 4)), loader(), "entries do not fit"),
        (network(), loader(batch=9), "expected a state with batch_size 9, got 8"),
        (network(), loader(seed=6), "expected a state with seed 6, got 5"),
    ):
        with pytest.raises(WeightsError, match=message):
            train.fit(model, batches, epochs=2, checkpoint=path, resume=True, **settings(model))


# --- files ------------------------------------------------------------------------------------------

STATE = {
    "arrays": {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.array(3),
        "empty": np.zeros((0, 2)),
    },
    "numbers": [1, -0.0, 1e-320, 2**100, True, None, "text \u2603", float("inf")],
    "scalar": np.float32(0.1),
    "pair": (0.9, (0.999, [])),
    "by number": {0: {"step": 3}, 7: {"mean": np.full(3, np.nan)}},
    "odd": {"$": 1},
}


def test_states_come_back_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    save_checkpoint(path, STATE)
    found = load_checkpoint(path)

    def same(a: Any, b: Any) -> bool:
        if isinstance(a, np.ndarray):
            return bool(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes())
        if isinstance(a, dict):
            return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
        if isinstance(a, (list, tuple)):
            return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
        return type(a) is type(b) and repr(a) == repr(b)

    assert same(STATE, found)
    assert train.is_checkpoint(path)
    with pytest.raises(
        WeightsError, match=r"x/0: expected numbers, text, arrays and containers, came a object"
    ):
        save_checkpoint(path, {"x": [object()]})
    assert same(STATE, load_checkpoint(path))
    with pytest.raises(WeightsError, match=r"ends in \.safetensors"):
        save_checkpoint(tmp_path / "state.npz", STATE)


def test_other_programs_can_read_the_tensors(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    path = tmp_path / "run.safetensors"
    run(path, epochs=1)
    tensors = load_file(path)
    assert tensors["model/0.weight"].shape == (3, 3, 1, 5)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    """One flipped bit anywhere, or an end cut off."""
    path = tmp_path / "run.safetensors"
    run(path, epochs=1)
    good = path.read_bytes()
    picks = random.Random(6)
    for _ in range(60):
        damaged = bytearray(good)
        damaged[picks.randrange(len(good))] ^= 1 << picks.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(WeightsError, match="load_checkpoint: "):
            load_checkpoint(path)
    for size in (0, 5, 8, 100, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:size])
        with pytest.raises(WeightsError, match="load_checkpoint: "):
            load_checkpoint(path)
        with pytest.raises(WeightsError, match="load_checkpoint: "):
            run(path)
    path.write_bytes(good)
    assert load_checkpoint(path)["step"] == 6


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    cf.save_weights(path, {"a": np.zeros(3)})
    with pytest.raises(WeightsError, match=r"expected a checkpoint of cnnfast\.train, came another file"):
        load_checkpoint(path)
    assert not train.is_checkpoint(path)
    np.savez(tmp_path / "a.npz", a=np.zeros(3))
    with pytest.raises(WeightsError, match=r"expected a checkpoint of cnnfast\.train"):
        load_checkpoint(tmp_path / "a.npz")
    (tmp_path / "text.safetensors").write_text("hello, this is no checkpoint at all")
    with pytest.raises(WeightsError, match=r"load_checkpoint: .*expected a checkpoint"):
        load_checkpoint(tmp_path / "text.safetensors")
    from cnnfast.train import checkpoint

    text = json.dumps({"version": 99, "state": {}})
    cf.weights.save_weights(
        path, {}, metadata={"cnnfast.checkpoint": text, "cnnfast.crc32": checkpoint._checksum(text, {})}
    )
    with pytest.raises(WeightsError, match="expected version 1 of checkpoints, came 99"):
        load_checkpoint(path)
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / "missing.safetensors")


@posix
def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    """A limit on the size of files stands for a disk that is full."""
    path = tmp_path / "run.safetensors"
    run(path, epochs=1)
    before = path.read_bytes()
    code = """
        import resource, signal, sys
        sys.path.insert(0, sys.argv[2])
        from training import loader, network, settings
        from cnnfast import train
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        model = network()
        try:
            train.fit(model, loader(), epochs=4, checkpoint=sys.argv[1], resume=True, **settings(model))
        except OSError as error:
            print("OSError", error.errno)
    """
    done = run_python(code, str(path), TESTS)
    assert done.stdout.split() == ["OSError", str(errno.EFBIG)], done.stderr
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


# --- Ctrl-C and kill -9 -----------------------------------------------------------------------------

# Prints the number of updates that the checkpoint must hold by then.
PROGRAM = """
    import sys
    sys.path.insert(0, sys.argv[2])
    from training import loader, network, settings
    import cnnfast as cf
    from cnnfast import train
    model, first = network(), [True]
    def loss(outputs, targets):
        if model.training:
            if first[0]:
                print("ready", flush=True)
                first[0] = False
            else:
                print("saved", flush=True)
        return cf.losses.cross_entropy(outputs, targets)
    train.fit(
        model, loader(int(sys.argv[3])), loss=loss, metrics="accuracy", epochs=10**6, checkpoint=sys.argv[1],
        checkpoint_every=int(sys.argv[4]), resume=True, **settings(model),
    )
"""


def start(path: Path, workers: int = 0, every: int = 1) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), str(path), TESTS, str(workers), str(every)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def rest_of(child: subprocess.Popen[str]) -> tuple[str, str]:
    """All that is left of both outputs; ``communicate`` would lose what ``readline`` has read ahead."""
    assert child.stdout is not None
    assert child.stderr is not None
    rest = child.stdout.read(), child.stderr.read()
    child.wait(timeout=60)
    return rest


def same_as_uninterrupted(path: Path) -> None:
    """What the checkpoint leads to is what a run without any stop gives."""
    epochs = load_checkpoint(path)["step"] // 6 + 1
    assert run(path, epochs=epochs, checkpoint_every=10**6) == run(None, epochs=epochs)


def killed(path: Path, kills: int, seed: int) -> None:
    """Nothing is corrupt, and no more than one step is lost, wherever the process is killed."""
    moments, step = random.Random(seed), 0
    for i in range(kills):
        with start(path) as child:
            try:
                assert child.stdout is not None
                ready = child.stdout.readline()
                if i == kills - 1 and not path.exists():  # a busy machine: one of them shall get that far
                    assert child.stdout.readline() == "saved\n"
                time.sleep(moments.uniform(0, 0.15))
            finally:
                child.kill()
            rest, errors = rest_of(child)
        assert ready == "ready\n", errors
        assert child.returncode == -signal.SIGKILL
        before, step = step, load_checkpoint(path)["step"] if path.exists() else 0
        assert step >= before + rest.count("saved")
    assert step > 0
    same_as_uninterrupted(path)


@posix
def test_kills_lose_at_most_one_step(tmp_path: Path) -> None:
    killed(tmp_path / "run.safetensors", 5, seed=1)


@posix
@pytest.mark.slow
def test_a_hundred_kills(tmp_path: Path) -> None:
    killed(tmp_path / "run.safetensors", 100, seed=2)


@posix
@pytest.mark.parametrize(("workers", "every"), [(0, 1), (2, 10**6)])
def test_interrupt_saves_the_last_step(workers: int, every: int, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    with start(path, workers, every) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            time.sleep(0.3)
            child.send_signal(signal.SIGINT)
            out, err = rest_of(child)
        finally:
            child.kill()
    step = load_checkpoint(path)["step"]
    assert step == out.count("saved") + 1  # the step that was running is done
    assert f", step {step}: saved in {path}" in err
    assert err.splitlines()[-1] == "KeyboardInterrupt"
    same_as_uninterrupted(path)


@posix
def test_interrupt_during_validation(tmp_path: Path) -> None:
    """The epoch's validation is done anew; the averages that were in the network for it are not saved."""
    path = tmp_path / "run.safetensors"
    model = network()

    def loss(outputs: Any, targets: Any) -> Any:
        if not model.training:
            os.kill(os.getpid(), signal.SIGINT)
        return cf.losses.cross_entropy(outputs, targets)

    options = {"validation": patterns(20, seed=1), "metrics": "accuracy"}
    with pytest.raises(KeyboardInterrupt):
        train.fit(model, loader(), loss=loss, epochs=2, checkpoint=path, **settings(model), **options)
    held = load_checkpoint(path)
    assert (held["step"], held["history"]) == (6, [])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert run(path, epochs=2, **options) == run(None, epochs=2, **options)


@posix
def test_the_second_interrupt_does_not_wait() -> None:
    model = network()
    calls = 0

    def loss(outputs: Any, targets: Any) -> Any:
        nonlocal calls
        calls += 1
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("never reached")

    with pytest.raises(KeyboardInterrupt):
        train.fit(model, loader(), loss=loss, epochs=2, **settings(model))
    assert calls == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
