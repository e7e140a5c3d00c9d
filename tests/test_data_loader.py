"""The loader: the same batches whatever the workers, resuming, errors, Ctrl-C; no test asserts a speed."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnnfast import data
from cnnfast.errors import DataError, WorkerError
from processes import interrupted, output_of, run_python

CHAIN = data.Compose(
    [data.RandomCrop(12, padding=2), data.Mirror(), data.RandomRotation(20), data.Normalize()]
)
WORKERS = [(0, "thread"), (1, "thread"), (3, "thread"), (1, "process"), (2, "process")]


def pictures(count: int = 22) -> data.Arrays:
    rng = np.random.default_rng(5)
    return data.Arrays(rng.integers(0, 256, (count, 12, 13, 3), np.uint8), rng.integers(0, 4, count))


def loader(workers: int = 0, kind: str = "thread", **settings: Any) -> data.DataLoader:
    settings = {"shuffle": True, "seed": 9, "transform": CHAIN, "batch_transform": data.Mixup(4), **settings}
    return data.DataLoader(pictures(), 4, workers=workers, worker_kind=kind, **settings)


def bits(batch: data.Batch) -> tuple[bytes, bytes, tuple[str, ...]]:
    return batch.pictures.tobytes(), batch.labels.tobytes(), tuple(batch.names)


class Faulty:
    """A data set with one bad sample; at module level, so that it pickles."""

    def __init__(self, action: str, bad: int = 5) -> None:
        self.action, self.bad = action, bad

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> Any:
        if index == self.bad:
            if self.action == "raise":
                raise DataError(f"sample {index} is bad")
            if self.action == "odd":
                raise Unpicklable(1, 2)
            if self.action == "exit":
                os._exit(3)
            if self.action == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.action == "sleep":
                time.sleep(60)
        return np.full((2, 2), index)


class Unpicklable(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")


# --- order and augmentation -------------------------------------------------------------------------


def test_batches_do_not_depend_on_workers() -> None:
    expected = None
    for workers, kind in WORKERS:
        with loader(workers, kind, prefetch=1 + workers) as batches:
            found = [[bits(batch) for batch in batches] for _ in range(3)]
        expected = expected or found
        assert found == expected
    assert expected is not None
    assert len({str(epoch) for epoch in expected}) == 3  # epochs differ
    names = [[name for batch in epoch for name in batch[2]] for epoch in expected]
    assert all(sorted(epoch) == sorted(names[0]) for epoch in names)
    assert names[0] != names[1]


def test_other_seeds_give_other_batches() -> None:
    assert [bits(b) for b in loader()] != [bits(b) for b in loader(seed=10)]


def test_augmentation_depends_on_the_sample_alone() -> None:
    """Not on its batch, its place or the shuffling."""
    found = []
    for shuffle, size in ((False, 4), (True, 4), (True, 7)):
        batches = data.DataLoader(pictures(), size, shuffle=shuffle, seed=2, transform=CHAIN)
        found.append({n: p.tobytes() for b in batches for n, p in zip(b.names, b.pictures, strict=True)})
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(("drop_last", "sizes"), [(False, [4] * 5 + [2]), (True, [4] * 5)])
def test_sizes(drop_last: bool, sizes: list[int]) -> None:
    batches = loader(2, drop_last=drop_last, shuffle=False)
    assert len(batches) == len(sizes)
    assert [len(batch) for batch in batches] == sizes
    batches.close()


def test_items_that_are_no_samples() -> None:
    class Pairs:
        def __len__(self) -> int:
            return 5

        def __getitem__(self, index: int) -> Any:
            return np.full(3, index), index * 2

    (x, y), _ = data.DataLoader(Pairs(), 3)
    assert x.tolist() == [[0] * 3, [1] * 3, [2] * 3]
    assert y.tolist() == [0, 2, 4]
    assert list(data.DataLoader([], 3)) == []
    assert list(data.DataLoader(range(5), 2, collate=list)) == [[0, 1], [2, 3], [4]]


# --- resuming ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("workers", "kind"), WORKERS)
def test_resuming_at_any_batch(workers: int, kind: str) -> None:
    whole = loader()
    expected = [bits(batch) for _ in range(3) for batch in whole]
    with loader(workers, kind) as first:
        states, count = [first.state_dict()], 0
        for _ in range(2):
            for _ in first:
                states.append(first.state_dict())
                count += 1
        assert count == 12
    resumed = loader(workers, kind)
    with resumed:
        for done in (0, 1, 5, 6, 7, 11, 12):
            resumed.load_state_dict(states[done])
            assert resumed.state_dict() == states[done]
            rest = [bits(batch) for batch in resumed]
            assert rest == expected[done : (done // 6 + 1) * 6]
            following = next(iter(resumed))
            if done < 12:
                assert bits(following) == expected[(done // 6 + 1) * 6]


def test_state_between_epochs() -> None:
    batches = loader()
    assert batches.epoch == 0
    list(batches)
    assert batches.state_dict()["epoch"] == batches.epoch == 1
    list(batches)
    assert batches.state_dict() == {**loader().state_dict(), "epoch": 2, "batch": 0}


def test_states_of_other_loaders_are_refused() -> None:
    state = loader().state_dict()
    for change, message in (
        ({"seed": 8}, "expected a state with seed 9, got 8"),
        ({"batch_size": 5}, "batch_size 4, got 5"),
        ({"samples": 21}, "samples 22, got 21"),
        ({"batch": -1}, "a number of the batch, got -1"),
        ({"epoch": "x"}, "a number of the epoch, got 'x'"),
    ):
        with pytest.raises(ValueError, match=message):
            loader().load_state_dict({**state, **change})


# --- loops that end early, several loops ------------------------------------------------------------


@pytest.mark.parametrize(("workers", "kind"), WORKERS)
def test_loops_that_end_early(workers: int, kind: str) -> None:
    whole = loader()
    expected = [[bits(batch) for batch in whole] for _ in range(4)]
    with loader(workers, kind, prefetch=3) as batches:
        for epoch in range(3):
            for number, batch in enumerate(batches):
                assert bits(batch) == expected[epoch][number]
                if number == epoch:
                    break
        assert [bits(batch) for batch in batches] == expected[3]


@pytest.mark.parametrize(("workers", "kind"), WORKERS)
def test_two_loops_at_once(workers: int, kind: str) -> None:
    whole = loader()
    expected = [[bits(batch) for batch in whole] for _ in range(2)]
    with loader(workers, kind) as batches:
        for pair, (one, two) in enumerate(zip(batches, batches, strict=True)):
            assert (bits(one), bits(two)) == (expected[0][pair], expected[1][pair])


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_nothing_is_left_after_closing(kind: str) -> None:
    threads, batches = threading.active_count(), loader(2, kind)
    next(iter(batches))
    batches.close()
    batches.close()
    assert threading.active_count() == threads
    assert not [child for child in multiprocessing.active_children() if "cnnfast" in child.name]
    assert len(list(batches)) == 6  # it can be used again
    del batches
    gc.collect()
    assert threading.active_count() == threads
    assert not [child for child in multiprocessing.active_children() if "cnnfast" in child.name]


# --- errors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("workers", "kind"), WORKERS)
def test_errors_come_with_the_traceback_of_the_worker(workers: int, kind: str) -> None:
    threads = threading.active_count()
    batches = data.DataLoader(Faulty("raise"), 2, workers=workers, worker_kind=kind)
    seen = []
    with pytest.raises(DataError, match="sample 5 is bad") as caught:
        seen.extend(batch[0, 0, 0] for batch in batches)
    assert seen == [0, 2]
    text = str(caught.value.__cause__) if kind == "process" else str(caught.traceback[-1])
    assert "__getitem__" in text
    if hasattr(caught.value, "__notes__"):
        assert caught.value.__notes__ == ["DataLoader: while sample 5 of epoch 0 was made"]
    assert threading.active_count() == threads
    assert not [child for child in multiprocessing.active_children() if "cnnfast" in child.name]


def test_errors_that_do_not_pickle() -> None:
    with pytest.raises(WorkerError, match="Unpicklable in a worker: 1 and 2"):
        list(data.DataLoader(Faulty("odd"), 2, workers=1, worker_kind="process"))


@pytest.mark.parametrize(("action", "code"), [("exit", 3), ("kill", -9)])
def test_workers_that_die(action: str, code: int) -> None:
    with pytest.raises(WorkerError, match=f"exit code {code}"):
        list(data.DataLoader(Faulty(action), 2, workers=2, worker_kind="process"))


def test_what_cannot_be_pickled() -> None:
    batches = data.DataLoader(pictures(), 2, workers=2, worker_kind="process", transform=lambda s, rng: s)
    with pytest.raises(WorkerError, match="expected a data set, transforms and collate that can be pickled"):
        next(iter(batches))
    assert not [child for child in multiprocessing.active_children() if "cnnfast" in child.name]


@pytest.mark.parametrize(
    "settings",
    [{"workers": -1}, {"seed": -1}, {"prefetch": 0}, {"worker_kind": "greenlet"}, {"workers": 1.5}],
)
def test_parameters_are_checked(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"DataLoader: expected {next(iter(settings))}"):
        data.DataLoader(pictures(), 4, **settings)


# --- processes --------------------------------------------------------------------------------------

SLOW = """
import sys, time
import numpy as np
from cnnfast import data

class Slow:
    def __len__(self):
        return 1000
    def __getitem__(self, index):
        time.sleep({sleep})
        return np.zeros(100_000)

def main():
    loader = data.DataLoader(Slow(), 2, workers=2, worker_kind="{kind}")
    for number, batch in enumerate(loader):
        if number == 2:
            print("ready", flush=True)
            if "{kind}" == "process":
                print(*[p.pid for p in loader._pool._processes], flush=True)
            {after}

if __name__ == "__main__":
    main()
"""


def gone(pid: int) -> bool:
    """Whether a process ends within ten seconds."""
    for _ in range(1000):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize("kind", ["thread", "process"])
@pytest.mark.parametrize("after", ["pass", "time.sleep(60)"], ids=["in the loader", "in the loop"])
@pytest.mark.parametrize("sleep", [0.001, 0.3])
def test_ctrl_c(kind: str, after: str, sleep: float, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW.format(kind=kind, after=after, sleep=sleep))
    program = f"import runpy; runpy.run_path({str(tmp_path / 'slow.py')!r}, run_name='__main__')"
    status, out, err = interrupted(program, after=0.2, timeout=30)
    assert status == -signal.SIGINT, err
    assert err.count("Traceback") == 1, err
    assert "KeyboardInterrupt" in err
    for pid in map(int, out.split()):
        assert gone(pid)


def test_workers_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        SLOW.format(
            kind="process", after="import os, signal; os.kill(os.getpid(), signal.SIGKILL)", sleep=0.01
        )
    )
    done = run_python(f"import runpy; runpy.run_path({str(tmp_path / 'slow.py')!r}, run_name='__main__')")
    assert done.returncode == -signal.SIGKILL
    ready, *pids = done.stdout.split()
    assert ready == "ready"
    assert len(pids) == 2
    assert all(gone(int(pid)) for pid in pids)


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_a_program_that_stops_in_the_middle_ends(kind: str, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW.format(kind=kind, after="sys.exit(7)", sleep=0.01))
    done = run_python(f"import runpy; runpy.run_path({str(tmp_path / 'slow.py')!r}, run_name='__main__')")
    assert done.returncode == 7, done.stderr
    assert done.stderr == ""


def test_a_forked_child_makes_its_own_workers() -> None:
    program = """
        import os
        import numpy as np
        from cnnfast import data
        rng = np.random.default_rng(0)
        sets = data.Arrays(rng.integers(0, 256, (20, 40, 40, 3), np.uint8), range(20))
        loader = data.DataLoader(sets, 2, workers=2, transform=data.Resize(300))
        iterator = iter(loader)
        first = next(iterator)
        child = os.fork()
        rest = [batch.pictures.sum() for batch in iterator]
        again = [batch.pictures.sum() for batch in loader]
        loader.close()
        if child == 0:
            os._exit(0 if len(rest) == 9 and rest == again[1:] else 1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), len(rest), rest == again[1:])
    """
    assert output_of(program) == "0 9 True"


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_a_loop_goes_on_after_the_loader_was_closed(kind: str) -> None:
    expected = [bits(batch) for batch in loader()]
    found, batches = [], loader(2, kind)
    for batch in batches:
        found.append(bits(batch))
        if len(found) == 2:
            batches.close()
    batches.close()
    assert found == expected


def test_large_batches_and_empty_arrays_cross_the_pipe() -> None:
    batches = data.DataLoader(
        data.Arrays(np.ones((8, 300, 300, 3), np.uint8), np.zeros((8, 0))),
        8,
        workers=1,
        worker_kind="process",
    )
    (batch,) = batches
    batches.close()
    assert batch.pictures.shape == (8, 300, 300, 3)
    assert (batch.pictures == 1).all()
    assert batch.labels.shape == (8, 0)
    batch.pictures += 1  # it is the caller's own
