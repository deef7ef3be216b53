"""The parent's side: jobs in, results out in whatever order the user asks, deaths noticed.

Who waits for whom. Workers wait for tasks, in the kernel, and for nothing else: results go into a socket that the parent
empties whenever it waits. The parent waits in one place (:meth:`WorkerPool._wait`), for results and for deaths together,
never longer than :data:`CHECK_SECONDS` without looking whether the workers live. The pool has no thread: it advances
when somebody calls it, and workers have enough queued to stay busy in between.

Scheduling. All tasks are in one channel and whoever is free takes the next, so a slow item holds up nobody else. A run is
as many items as take about 2 ms, so that the cost of a message does not matter and waiting does not either.

Memory. Each job has a slot of the arena with an equal share for each item, a generous estimate from what came before
(untouched memory costs nothing). A run that does not fit, or a job for which no slot is free because the user keeps what
was delivered, comes through a memory file instead and is copied: slower, never stuck.

Death. What a dead worker had in hand is known from its claim; what it took without claiming is what is neither queued nor
claimed by a living worker. The former fails with :class:`~torchdali.errors.WorkerDiedError`, the latter is sent again.
"""

from __future__ import annotations

import functools
import select
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import numpy as np

from torchdali.errors import WorkerDiedError
from torchdali.pool._arena import Arena, Bytes, default_memory_limit
from torchdali.pool._codec import decode_all
from torchdali.pool._dispatch import Dispatch
from torchdali.pool._failure import Failure, known_exceptions, unpack
from torchdali.pool._interrupt import deferred_interrupt
from torchdali.pool._job import Job, Raised
from torchdali.pool._statistics import PoolStatistics
from torchdali.pool._worker import Bench, describe_item, work
from torchdali.pool._workforce import Workforce, describe_exit, forget

__all__ = ["WorkerPool"]

CHECK_SECONDS = 0.5
"""How long the parent waits at most before it looks by itself whether its workers live."""

ROOM_SECONDS = 0.01
"""How long the parent waits at most before it tries again to send what the channel had no room for."""

CLAIM_SECONDS = 0.05
"""After a death: how long a living worker may need between taking a task and claiming it (two lines of code)."""


class WorkerPool:
    """Forked processes that call functions and hand the results over in shared memory.

    Args:
        functions: what the workers can call, each with one argument. They and all they refer to are inherited by fork:
            nothing needs to be picklable.
        num_workers: number of processes, at least 1.
        name: for process names and messages.
        memory_limit: bytes of shared memory at most; half of the machine's memory by default. Memory is taken as it is
            used. Beyond the limit results are copied.
        bytes_per_item: expected size of one result; it adapts.
        before_fork: called before workers are forked; it may raise to forbid it.

    A pool may be used from several threads, one at a time. Results are NumPy arrays and torch tensors that are views of
    shared memory; it is used again only when all views of a job's results are gone.
    """

    def __init__(
        self,
        functions: Sequence[Callable[[Any], Any]],
        num_workers: int,
        *,
        name: str = "pool",
        memory_limit: int | None = None,
        bytes_per_item: int = 128 * 1024,
        before_fork: Callable[[], None] | None = None,
    ) -> None:
        if num_workers < 1:
            raise ValueError(f"num_workers is {num_workers}; a pool needs at least 1 worker")
        if bytes_per_item < 1:
            raise ValueError(f"bytes_per_item is {bytes_per_item}; it must be at least 1")
        self.name = name
        self.num_workers = num_workers
        self._functions = list(functions)
        self._memory_limit = default_memory_limit() if memory_limit is None else memory_limit
        self._bytes_per_item = bytes_per_item
        self._before_fork = before_fork
        self._lock = threading.RLock()
        self._statistics = PoolStatistics()
        self._last_death: WorkerDiedError | None = None
        self._workforce: Workforce | None = None
        self._arena: Arena | None = None
        self._dispatch: Dispatch | None = None
        self._known: list[type[BaseException]] = []
        self._finalizer: weakref.finalize[..., Any] | None = None
        self._closed = False

    # --- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Fork the workers; called again, fork those that have died. Does nothing when all of them live."""
        with self._lock:
            if self._closed:
                raise RuntimeError(f"{self.name} is closed; make a new one")
            if self._workforce is not None:
                workforce, dispatch = self._require_open()
                with deferred_interrupt():
                    self._bury(workforce, dispatch)
                if len(workforce.processes) == self.num_workers:
                    return
            if self._before_fork is not None:
                self._before_fork()
            if self._workforce is None:
                with deferred_interrupt():
                    self._arena = Arena(self._memory_limit)
                    self._known = known_exceptions()
                    self._workforce = Workforce(self.num_workers, self.name)
                    self._dispatch = Dispatch(self._workforce, self._arena, self._bytes_per_item, self._statistics)
                    self._finalizer = weakref.finalize(self, self._workforce.close)
            workforce, arena = self._workforce, self._arena
            assert arena is not None
            bench = Bench(
                self.name,
                self._functions,
                arena,
                workforce.tasks_out,
                workforce.results_in,
                workforce.claims,
                self._known,
            )
            workforce.start(functools.partial(work, bench))
            self._last_death = None

    def close(self) -> None:
        """End the workers and wait until they are gone. What was delivered stays valid."""
        with self._lock:
            self._closed = True
            if self._workforce is not None:
                self._workforce.close()
            self._dispatch = None

    def __enter__(self) -> WorkerPool:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def started(self) -> bool:
        """True between :meth:`start` and :meth:`close`."""
        return self._workforce is not None and not self._workforce.closed

    @property
    def pids(self) -> list[int]:
        """Process ids of the living workers."""
        if self._workforce is None:
            return []
        return [process.pid for process in self._workforce.processes.values() if process.pid is not None]

    def statistics(self) -> PoolStatistics:
        """A copy of the counters."""
        with self._lock:
            copy = PoolStatistics(**vars(self._statistics))
            copy.items_by_worker = dict(copy.items_by_worker)
            return copy

    # --- work ---------------------------------------------------------------------------------------------------------

    def submit(self, function: int, items: Sequence[Any]) -> Job:
        """Have function number ``function`` called for each of ``items``; returns at once.

        Raises:
            WorkerDiedError: no worker is left.
        """
        with self._lock:
            dispatch = self._require_workers()
            if not 0 <= function < len(self._functions):
                raise IndexError(
                    f"{self.name} has {len(self._functions)} functions, counted from 0; there is no {function}"
                )
            job: Job | None = None
            try:
                with deferred_interrupt():
                    job = dispatch.add(function, list(items))
            except BaseException:  # Ctrl-C: nobody will ask for this job
                if job is not None:
                    self.cancel(job)
                raise
            return job

    def collect(self, job: Job) -> list[Any]:
        """Wait for a job and return one result for each item, in order.

        A failed call's place holds a :class:`Raised` with the exception, ready to be raised: of its own type, with the
        worker's traceback as ``__cause__`` and the item in a note.

        Interrupted by Ctrl-C, nothing is lost: call it again. A job that was collected gives the same list again.

        Raises:
            RuntimeError: the job was cancelled, or the pool is closed.
        """
        with self._lock:
            if job.cancelled:
                raise RuntimeError("this job was cancelled")
            start = time.perf_counter()
            try:
                while job.results is None and not job.complete:
                    self._wait()
            finally:
                self._statistics.wait_seconds += time.perf_counter() - start
            with deferred_interrupt():
                if job.results is None:
                    job.results = self._unpack(job)
            return job.results

    def cancel(self, job: Job) -> None:
        """Forget a job: its results are dropped when they come, and what no worker has begun is not begun."""
        with self._lock:
            if job.results is not None or job.cancelled:
                return
            with deferred_interrupt():
                job.cancelled = True
                if job.complete:
                    job.release()
                elif self.started and self._dispatch is not None:
                    self._dispatch.withdraw(job)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _require_open(self) -> tuple[Workforce, Dispatch]:
        if self._closed:
            raise RuntimeError(f"{self.name} is closed")
        if self._workforce is None or self._dispatch is None:
            raise RuntimeError(f"{self.name} is not started; call start() first")
        if self._workforce.closed:
            raise RuntimeError(
                f"{self.name} is closed here: it belongs to the process that this one was forked from; make a new one"
            )
        return self._workforce, self._dispatch

    def _require_workers(self) -> Dispatch:
        workforce, dispatch = self._require_open()
        if not workforce.processes and self._last_death is not None:
            death = self._last_death
            raise WorkerDiedError(
                f"no worker is left; the last one died: {death}. Call start() to fork new ones",
                worker=death.worker,
                pid=death.pid,
                exitcode=death.exitcode,
            )
        return dispatch

    def _wait(self) -> None:
        """Wait for something to happen, and deal with it. The only place where the parent waits."""
        workforce, dispatch = self._require_open()
        results = workforce.results_out.fileno()
        poll = select.poll()
        poll.register(results, select.POLLIN)
        for process in workforce.processes.values():
            poll.register(process.sentinel, select.POLLIN)
        # Room for more tasks comes as workers take some, and then results come.
        seconds = ROOM_SECONDS if dispatch.waits_for_room else CHECK_SECONDS
        ready = {fd for fd, _ in poll.poll(seconds * 1000)}
        with deferred_interrupt():
            dispatch.send()
            dispatch.receive()
            if not ready or ready - {results}:
                self._bury(workforce, dispatch)

    def _unpack(self, job: Job) -> list[Any]:
        root: Bytes | None = None
        if job.slot is not None:
            root = job.slot.lease()
            job.slot = None
        outcomes: list[Any] = []
        for index, run in enumerate(job.runs):
            part = job.parts.pop(index)
            if part.error is not None:
                outcomes.extend([Raised(part.error)] * run.size)
                continue
            offset, capacity = job.place(index)
            if part.memory is not None:
                memory = part.memory
            elif root is not None:
                memory = root[offset : offset + capacity]
            else:
                memory = np.empty(0, np.uint8)
            assert part.description is not None
            items = job.items[run.first : run.first + run.size]
            values = decode_all(part.description, memory, lambda position, error: Raised(_without_exit(error)))
            for item, outcome in zip(items, values, strict=True):
                if isinstance(outcome, Failure):
                    note = f"raised for {describe_item(item)} in a worker of {self.name}"
                    outcome = Raised(unpack(outcome, self._known, note))
                outcomes.append(outcome)
        return outcomes

    # --- death --------------------------------------------------------------------------------------------------------

    def _bury(self, workforce: Workforce, dispatch: Dispatch) -> None:
        """Deal with the workers that have died."""
        dead = list(workforce.take_dead())
        if not dead:
            return
        dispatch.receive()  # what they had sent before
        for index, process in dead:
            serial, position = workforce.claims.of(index)
            held: list[Any] = []
            if serial in dispatch.outstanding:
                job, number = dispatch.outstanding[serial]
                run = job.runs[number]
                held = job.items[run.first : run.first + run.size]
            error = self._death(index, process.pid, process.exitcode, held, position)
            self._statistics.deaths += 1
            self._last_death = error
            if held:
                dispatch.lose(serial, error)
            forget(process)
        if workforce.processes:
            self._send_lost_again(workforce, dispatch)
        elif self._last_death is not None:
            dispatch.lose_all(self._last_death)

    def _death(
        self, index: int, pid: int | None, exitcode: int | None, held: list[Any], position: int
    ) -> WorkerDiedError:
        message = f"worker {index} of {self.name} (pid {pid}) {describe_exit(exitcode)}"
        if held:
            message += f" while it worked on {describe_item(held[min(position, len(held) - 1)])}"
        if len(held) > 1:
            message += f" ({len(held)} calls are lost, from {describe_item(held[0])} to {describe_item(held[-1])})"
        return WorkerDiedError(message, worker=index, pid=pid, exitcode=exitcode, items=tuple(held))

    def _send_lost_again(self, workforce: Workforce, dispatch: Dispatch) -> None:
        """After a death: what was taken from the channel and claimed by nobody alive is for somebody else to do."""
        queued = dispatch.take_back()
        deadline = time.monotonic() + CLAIM_SECONDS
        while True:
            claimed = {workforce.claims.of(index)[0] for index in workforce.processes}
            dispatch.receive()
            lost = [serial for serial in dispatch.outstanding if serial not in claimed and serial not in queued]
            if not lost or time.monotonic() > deadline:
                break
            time.sleep(0.001)
        dispatch.send_again(sorted([*lost, *queued]))


def _without_exit(error: BaseException) -> BaseException:
    """What is told of an error in loading a result; one that would end the program is put into words."""
    if isinstance(error, Exception):
        return error
    return RuntimeError(f"loading a result raised {type(error).__name__}({error})")
