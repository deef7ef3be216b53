"""The parent's side: jobs in, results out in whatever order the user asks, deaths noticed.

Who waits for whom. Workers wait for tasks, in the kernel, and for nothing else: results go into a socket that the parent
empties whenever it waits. The parent waits in one place (:meth:`WorkerPool._wait`), for results and for deaths together,
never longer than :data:`CHECK_SECONDS` without looking whether the workers live. The pool has no thread: it advances
when somebody calls it, and workers have enough queued to stay busy in between.

Scheduling. All tasks are in one channel and whoever is free takes the next, so a slow item holds up nobody else. A run is
as many items as take about :data:`RUN_SECONDS`, so that the cost of a message does not matter and waiting does not either.

Memory. Each job has a slot of the arena with an equal share for each item, a generous estimate from what came before
(untouched memory costs nothing). A run that does not fit, or a job for which no slot is free because the user keeps what
was delivered, comes through a memory file instead and is copied: slower, never stuck.

Death. What a dead worker had in hand is known from its claim; what it took without claiming is what is neither queued nor
claimed by a living worker. The former fails with :class:`~torchdali.errors.WorkerDiedError`, the latter is sent again.
"""

from __future__ import annotations

import functools
import itertools
import os
import select
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import numpy as np

from torchdali.errors import WorkerDiedError
from torchdali.pool._arena import Arena, Bytes, default_memory_limit
from torchdali.pool._channel import Message, read_file
from torchdali.pool._codec import decode
from torchdali.pool._failure import Failure, known_exceptions, unpack
from torchdali.pool._interrupt import deferred_interrupt
from torchdali.pool._job import Job, Part, Raised, Run
from torchdali.pool._protocol import Result, Task
from torchdali.pool._statistics import PoolStatistics
from torchdali.pool._worker import Bench, describe_item, work
from torchdali.pool._workforce import Workforce, describe_exit

__all__ = ["WorkerPool"]

CHECK_SECONDS = 0.5
"""How long the parent waits at most before it looks by itself whether its workers live."""

RUN_SECONDS = 0.002
"""Work in one run, as far as it can be foreseen."""

CLAIM_SECONDS = 0.05
"""After a death: how long a living worker may need between taking a task and claiming it (two lines of code)."""

_HEADROOM = 2
"""A slot is this many times as large as items have been so far."""


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
        self._item_capacity = bytes_per_item
        self._item_seconds: float | None = None
        self._before_fork = before_fork
        self._lock = threading.RLock()
        self._serials = itertools.count(1)
        self._outstanding: dict[int, tuple[Job, int]] = {}
        self._unsent: deque[tuple[int, bytes]] = deque()
        self._statistics = PoolStatistics()
        self._last_death: WorkerDiedError | None = None
        self._workforce: Workforce | None = None
        self._arena: Arena | None = None
        self._known: list[type[BaseException]] = []
        self._finalizer: weakref.finalize[..., Any] | None = None
        self._closed = False

    # --- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Fork the workers; called again, fork those that have died. Does nothing when all of them live."""
        with self._lock:
            if self._closed:
                raise RuntimeError(f"{self.name} is closed; make a new one")
            if self._workforce is not None and len(self._workforce.processes) == self.num_workers:
                return
            if self._before_fork is not None:
                self._before_fork()
            if self._workforce is None:
                self._arena = Arena(self._memory_limit)
                self._known = known_exceptions()
                self._workforce = Workforce(self.num_workers, self.name)
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
            self._outstanding.clear()
            self._unsent.clear()

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
            workforce = self._require_workers()
            items = list(items)
            runs = self._split(len(items))
            assert self._arena is not None
            slot = self._arena.reserve(self._item_capacity * len(items))
            job = Job(function, items, runs, slot, self._item_capacity if slot else 0)
            with deferred_interrupt():
                for index in range(len(runs)):
                    self._queue(job, index)
                self._send(workforce)
            return job

    def collect(self, job: Job) -> list[Any]:
        """Wait for a job and return one result for each item, in order.

        A failed call's place holds a :class:`Raised` with the exception, ready to be raised: of its own type, with the
        worker's traceback as ``__cause__`` and the item in a note.

        Interrupted by Ctrl-C, nothing is lost: call it again.

        Raises:
            RuntimeError: the job was collected or cancelled before, or the pool was closed.
        """
        with self._lock:
            if job.collected or job.cancelled:
                raise RuntimeError("this job was collected or cancelled before")
            start = time.perf_counter()
            while not job.complete:
                self._wait(self._require_open())
            self._statistics.wait_seconds += time.perf_counter() - start
            job.collected = True
            return self._unpack(job)

    def cancel(self, job: Job) -> None:
        """Forget a job: its results are dropped when they come, and what no worker has begun is not begun."""
        with self._lock:
            if job.collected or job.cancelled:
                return
            with deferred_interrupt():
                job.cancelled = True
                if job.complete:
                    self._release(job)
                elif self.started:
                    self._withdraw(job)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _require_open(self) -> Workforce:
        if self._workforce is None:
            raise RuntimeError(f"{self.name} is not started; call start() first")
        if self._workforce.closed:
            raise RuntimeError(f"{self.name} is closed, or belongs to the process that this one was forked from")
        return self._workforce

    def _require_workers(self) -> Workforce:
        workforce = self._require_open()
        if not workforce.processes and self._last_death is not None:
            death = self._last_death
            raise WorkerDiedError(
                f"no worker is left; the last one died: {death}. Call start() to fork new ones",
                worker=death.worker,
                pid=death.pid,
                exitcode=death.exitcode,
            )
        return workforce

    def _split(self, count: int) -> list[Run]:
        share = -(-count // self.num_workers)
        if self._item_seconds is None:
            length = -(-share // 4)
        else:
            length = int(RUN_SECONDS / max(self._item_seconds, 1e-9))
        length = max(1, min(length, share))
        return [Run(first, min(length, count - first)) for first in range(0, count, length)]

    def _queue(self, job: Job, index: int) -> None:
        run = job.runs[index]
        offset, capacity = job.place(index)
        start = 0 if job.slot is None else job.slot.offset + offset
        serial = next(self._serials)
        task = Task(serial, job.function, start, capacity, job.items[run.first : run.first + run.count])
        self._outstanding[serial] = (job, index)
        self._unsent.append((serial, task.pack()))

    def _send(self, workforce: Workforce) -> None:
        """Hand over as many tasks as the channel takes now."""
        while self._unsent:
            if not workforce.tasks_in.send(self._unsent[0][1], block=False):
                return
            self._unsent.popleft()

    def _wait(self, workforce: Workforce) -> None:
        """Wait for something to happen, and deal with it. The only place where the parent waits."""
        poll = select.poll()
        poll.register(workforce.results_out.fileno(), select.POLLIN)
        if self._unsent:
            poll.register(workforce.tasks_in.fileno(), select.POLLOUT)
        for process in workforce.processes.values():
            poll.register(process.sentinel, select.POLLIN)
        ready = {fd for fd, _ in poll.poll(CHECK_SECONDS * 1000)}
        with deferred_interrupt():
            self._send(workforce)
            self._receive(workforce)
            if not ready <= {workforce.results_out.fileno(), workforce.tasks_in.fileno()} or not ready:
                self._bury(workforce)

    def _receive(self, workforce: Workforce) -> bool:
        """Take all results that are there; True if there were any."""
        any_came = False
        while True:
            try:
                message = workforce.results_out.receive(block=False)
            except BlockingIOError:
                return any_came
            if message is None:
                return any_came
            any_came = True
            self._accept(message)

    def _accept(self, message: Message) -> None:
        result = Result.unpack(message.payload)
        try:
            entry = self._outstanding.pop(result.serial, None)
            if entry is None:
                return
            job, index = entry
            memory: Bytes | None = None
            if message.fd is not None:
                memory = np.empty(result.size, np.uint8)
                read_file(message.fd, memoryview(memory))
        finally:
            if message.fd is not None:
                os.close(message.fd)
        self._count(result, job.runs[index].count, copied=memory is not None)
        description: bytes | Bytes | None = None
        if isinstance(result.description, bytes):
            description = result.description
        else:
            start, length = result.description
            if memory is None:
                assert self._arena is not None
                assert job.slot is not None
                start += job.slot.offset + job.place(index)[0]
                description = bytes(self._arena.memory[start : start + length])
            else:
                description = memory[start : start + length]
        self._fill(job, index, Part(description, memory))

    def _count(self, result: Result, count: int, *, copied: bool) -> None:
        numbers = self._statistics
        numbers.items += count
        numbers.runs += 1
        numbers.busy_seconds += result.seconds
        numbers.items_by_worker[result.worker] = numbers.items_by_worker.get(result.worker, 0) + count
        if copied:
            numbers.copied_bytes += result.size
        else:
            numbers.shared_bytes += result.size
        self._item_capacity = max(self._item_capacity, _HEADROOM * -(-result.size // count))
        seconds = result.seconds / count
        self._item_seconds = seconds if self._item_seconds is None else 0.9 * self._item_seconds + 0.1 * seconds

    def _fill(self, job: Job, index: int, part: Part) -> None:
        job.parts[index] = part
        if job.cancelled and job.complete:
            self._release(job)

    def _release(self, job: Job) -> None:
        job.parts.clear()
        if job.slot is not None:
            job.slot.release()
            job.slot = None

    def _unpack(self, job: Job) -> list[Any]:
        root: Bytes | None = None
        if job.slot is not None:
            root = job.slot.lease()
            job.slot = None
        outcomes: list[Any] = []
        for index, run in enumerate(job.runs):
            part = job.parts.pop(index)
            if part.error is not None:
                outcomes.extend([Raised(part.error)] * run.count)
                continue
            offset, capacity = job.place(index)
            if part.memory is not None:
                memory = part.memory
            elif root is not None:
                memory = root[offset : offset + capacity]
            else:
                memory = np.empty(0, np.uint8)
            assert part.description is not None
            items = job.items[run.first : run.first + run.count]
            for item, outcome in zip(items, decode(part.description, memory), strict=True):
                if isinstance(outcome, Failure):
                    note = f"raised for {describe_item(item)} in a worker of {self.name}"
                    outcome = Raised(unpack(outcome, self._known, note))
                outcomes.append(outcome)
        return outcomes

    # --- death --------------------------------------------------------------------------------------------------------

    def _bury(self, workforce: Workforce) -> None:
        """Deal with the workers that have died."""
        dead = list(workforce.take_dead())
        if not dead:
            return
        self._receive(workforce)  # what they had sent before
        for index, process in dead:
            serial, position = workforce.claims.of(index)
            job, run = self._outstanding.get(serial, (None, 0))
            held: list[Any] = []
            if job is not None:
                first, count = job.runs[run]
                held = job.items[first : first + count]
            message = f"worker {index} of {self.name} (pid {process.pid}) {describe_exit(process.exitcode)}"
            if held:
                message += f" while it worked on {describe_item(held[min(position, len(held) - 1)])}"
            if len(held) > 1:
                message += f" ({len(held)} calls are lost, from {describe_item(held[0])} to {describe_item(held[-1])})"
            self._statistics.deaths += 1
            error = WorkerDiedError(
                message, worker=index, pid=process.pid, exitcode=process.exitcode, items=tuple(held)
            )
            self._last_death = error
            if job is not None:
                del self._outstanding[serial]
                self._fill(job, run, Part(None, None, error))
            process.close()
        self._send_again(workforce)
        if not workforce.processes:
            for serial, (job, run) in list(self._outstanding.items()):
                del self._outstanding[serial]
                self._fill(job, run, Part(None, None, self._last_death))
            self._unsent.clear()

    def _take_back(self, workforce: Workforce) -> list[int]:
        """Empty the task channel; returns the serials that nobody had taken, in order."""
        serials = []
        while True:
            try:
                message = workforce.tasks_out.receive(block=False)
            except BlockingIOError:
                return serials
            if message is None:
                return serials
            serials.append(Task.unpack(message.payload).serial)

    def _send_again(self, workforce: Workforce) -> None:
        """After a death: what was taken and not claimed by the dead must be worked on by somebody else."""
        queued = self._take_back(workforce)
        known = {*queued, *(serial for serial, _ in self._unsent)}
        deadline = time.monotonic() + CLAIM_SECONDS
        while True:
            claimed = {workforce.claims.of(index)[0] for index in workforce.processes}
            self._receive(workforce)
            lost = [serial for serial in self._outstanding if serial not in known and serial not in claimed]
            if not lost or time.monotonic() > deadline:
                break
            time.sleep(0.001)
        again = sorted([*lost, *(serial for serial in queued if serial in self._outstanding)])
        unsent, self._unsent = self._unsent, deque()
        for serial in again:
            self._queue(*self._outstanding.pop(serial))
        self._unsent.extend(unsent)
        self._send(workforce)

    def _withdraw(self, job: Job) -> None:
        """Take a cancelled job's tasks out of the queue; only what a worker has in hand remains."""
        workforce = self._require_open()
        mine = {serial for serial, (owner, _) in self._outstanding.items() if owner is job}
        queued = self._take_back(workforce)
        unsent, self._unsent = self._unsent, deque()
        for serial in [*queued, *(serial for serial, _ in unsent)]:
            entry = self._outstanding.pop(serial, None)
            if entry is None:
                continue
            if serial in mine:
                self._fill(*entry, Part(None, None, None))
            else:
                self._queue(*entry)
        self._send(workforce)
