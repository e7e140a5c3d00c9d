"""Who makes the batches: the caller, threads, or processes. All give them in the order they were asked for.

Processes are *spawned*: a forked one would inherit every lock that another thread of the parent (of a BLAS, a
logger, a progress bar) happened to hold, and Python 3.12 warns of it. Each worker has a pipe of its own to
the parent, which closes when either dies: no worker outlives its parent, not even after kill -9. Batches come
as pickles whose arrays are sent as they lie in memory. A worker makes at most the batches it was asked for,
so nothing piles up when the consumer is slow or stops.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import queue
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing import get_context
from typing import Any, Protocol

import numpy as np

from ..errors import WorkerError
from .plan import Plan

__all__ = ["Pool", "make_pool"]


class Pending(Protocol):
    """A batch that was asked for."""

    def result(self) -> Any: ...

    def cancel(self) -> Any: ...


class Pool(Protocol):
    """Makers of batches."""

    ahead: int  # batches asked for at a time
    process: int  # id of the process it belongs to: its threads and pipes are of no use to a fork of it

    def submit(self, epoch: int, batch: int) -> Pending: ...

    def close(self) -> None: ...


def make_pool(plan: Plan, workers: int, kind: str, prefetch: int) -> Pool:
    if workers == 0:
        return Caller(plan)
    return (ThreadPool if kind == "thread" else ProcessPool)(plan, workers, prefetch)


# --- the caller -------------------------------------------------------------------------------------


class Caller:
    """No workers: a batch is made when it is wanted."""

    ahead = 1

    def __init__(self, plan: Plan) -> None:
        self._plan, self.process = plan, os.getpid()

    def submit(self, epoch: int, batch: int) -> Pending:
        return _Deferred(self._plan, epoch, batch)

    def close(self) -> None:
        pass


class _Deferred:
    def __init__(self, plan: Plan, epoch: int, batch: int) -> None:
        self._task = plan, epoch, batch

    def result(self) -> Any:
        plan, epoch, batch = self._task
        return plan.make(epoch, batch)

    def cancel(self) -> None:
        pass


# --- threads ----------------------------------------------------------------------------------------


class ThreadPool:
    """Threads; an error comes with the traceback of the thread."""

    def __init__(self, plan: Plan, workers: int, prefetch: int) -> None:
        self._plan, self.ahead, self.process = plan, workers * prefetch, os.getpid()
        self._threads = ThreadPoolExecutor(workers, "cnnfast data")

    def submit(self, epoch: int, batch: int) -> Pending:
        task = _ThreadTask()
        task.future = self._threads.submit(self._plan.make, epoch, batch, task.stopped)
        return task

    def close(self) -> None:
        if os.getpid() == self.process:
            self._threads.shutdown(wait=True, cancel_futures=True)


class _ThreadTask:
    future: Future[Any]

    def __init__(self) -> None:
        self._unwanted = False

    def stopped(self) -> bool:
        # When the program ends, Python waits for these threads: they need not finish their batches.
        return self._unwanted or not threading.main_thread().is_alive()

    def result(self) -> Any:
        return self.future.result()

    def cancel(self) -> None:
        self._unwanted = True
        self.future.cancel()


# --- processes --------------------------------------------------------------------------------------


class ProcessPool:
    """Processes that are spawned with the plan, and make batches one after the other."""

    def __init__(self, plan: Plan, workers: int, prefetch: int) -> None:
        self.ahead, self.process = workers * prefetch, os.getpid()
        self._tickets = itertools.count()
        self._arrived: dict[int, tuple[bool, Any]] = {}
        self._unwanted: set[int] = set()
        self._processes: list[Any] = []
        self._pipes: list[Any] = []
        context = get_context("spawn")
        try:
            with _interrupts_blocked():
                for number in range(workers):
                    ours, theirs = context.Pipe()
                    self._pipes.append(ours)
                    process = context.Process(
                        target=_serve, args=(theirs, plan), name=f"cnnfast data {number}", daemon=True
                    )
                    try:
                        process.start()
                    finally:
                        theirs.close()
                    self._processes.append(process)
        except BaseException as error:
            self.close()
            if isinstance(error, (pickle.PicklingError, AttributeError, TypeError)):
                raise WorkerError(
                    "DataLoader: expected a data set, transforms and collate that can be pickled for worker "
                    f"processes (worker_kind='thread' takes any), got: {error}"
                ) from error
            raise

    def submit(self, epoch: int, batch: int) -> Pending:
        ticket = next(self._tickets)
        worker = ticket % len(self._pipes)
        try:
            self._pipes[worker].send((ticket, epoch, batch))
        except OSError:
            raise self._died(worker) from None
        return _ProcessTask(self, worker, ticket)

    def result(self, worker: int, ticket: int) -> Any:
        while ticket not in self._arrived:
            try:
                number, good, value = _receive(self._pipes[worker])
            except (EOFError, OSError):
                raise self._died(worker) from None
            if number in self._unwanted:
                self._unwanted.discard(number)
            else:
                self._arrived[number] = good, value
        good, value = self._arrived.pop(ticket)
        if good:
            return value
        error, text = value
        raise error from WorkerTraceback(text)

    def cancel(self, ticket: int) -> None:
        if self._arrived.pop(ticket, None) is None:
            self._unwanted.add(ticket)

    def _died(self, worker: int) -> WorkerError:
        process = self._processes[worker]
        process.join(1)
        return WorkerError(
            f"DataLoader: expected a batch from worker process {worker}, got its end with exit code "
            f"{process.exitcode} (a script that starts processes needs `if __name__ == '__main__':`)"
        )

    def close(self) -> None:
        if os.getpid() != self.process:
            return
        for pipe in self._pipes:
            pipe.close()  # which tells an idle worker to end
        deadline = time.monotonic() + 1
        for process in self._processes:
            process.join(max(0.0, deadline - time.monotonic()))
        for end in ("terminate", "kill"):
            for process in [p for p in self._processes if p.is_alive()]:
                getattr(process, end)()
                process.join(5)
        for process in self._processes:
            process.close()
        self._processes, self._pipes = [], []


class _ProcessTask:
    def __init__(self, pool: ProcessPool, worker: int, ticket: int) -> None:
        self._pool, self._worker, self._ticket = pool, worker, ticket

    def result(self) -> Any:
        return self._pool.result(self._worker, self._ticket)

    def cancel(self) -> None:
        self._pool.cancel(self._ticket)


class WorkerTraceback(Exception):
    """The traceback of a worker process, as text: the cause of the error that reaches the caller."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Ctrl-C waits, and processes that start meanwhile inherit that, until they ignore it on their own."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _send(pipe: Any, message: Any) -> None:
    """A pickle, then the buffers of its arrays without another copy."""
    buffers: list[pickle.PickleBuffer] = []
    body = pickle.dumps(message, 5, buffer_callback=buffers.append)
    views = [buffer.raw() for buffer in buffers]
    pipe.send_bytes(pickle.dumps((body, [view.nbytes for view in views])))
    for view in views:
        if view.nbytes:
            pipe.send_bytes(view)


def _receive(pipe: Any) -> Any:
    body, sizes = pickle.loads(pipe.recv_bytes())
    buffers = [np.empty(size, np.uint8) for size in sizes]
    for buffer in buffers:
        if buffer.size:
            pipe.recv_bytes_into(buffer)
    return pickle.loads(body, buffers=buffers)


def _serve(pipe: Any, plan: Plan) -> None:
    """The worker: batches as they are asked for, until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    from ..config import set_num_threads

    set_num_threads(1)  # the workers themselves are what runs in parallel
    made: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def post() -> None:
        with contextlib.suppress(OSError):  # the parent is gone
            while True:
                _send(pipe, made.get())

    # While one batch is on its way, the next is made.
    threading.Thread(target=post, daemon=True).start()
    while True:
        try:
            ticket, epoch, batch = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            made.put((ticket, True, plan.make(epoch, batch)))
        except Exception as error:
            made.put((ticket, False, (_portable(error), traceback.format_exc())))


def _portable(error: Exception) -> Exception:
    """The error, or a plain one in its place if it cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return WorkerError(f"DataLoader: {type(error).__name__} in a worker: {error}")
    return error
