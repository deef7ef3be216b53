"""The traffic between the parent and its workers: which tasks are out, what came back, what is still to be sent.

A task is in exactly one of three places: ``_unsent`` here, because the channel was full; in the channel or in a worker's
hands; or gone, when its run has come back or its job was cancelled. ``outstanding`` holds all that are not gone.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from torchdali import _spans
from torchdali.pool._arena import Arena, Bytes
from torchdali.pool._channel import Message, read_file
from torchdali.pool._codec import dumps
from torchdali.pool._job import Job, Part, Run
from torchdali.pool._protocol import Result, Spent, Task
from torchdali.pool._sizing import Sizing
from torchdali.pool._statistics import PoolStatistics
from torchdali.pool._workforce import Workforce

__all__ = ["Dispatch", "Outstanding"]


class Outstanding(NamedTuple):
    """A task that is not gone."""

    job: Job
    number: int
    """Of the run in the job."""
    order: int
    """Serial of the task that it was first: what is sent again keeps its place."""

    @property
    def run(self) -> Run:
        """The run."""
        return self.job.runs[self.number]


class Dispatch:
    """Hands out tasks and takes in results; waits for nothing.

    Args:
        workforce: the workers.
        arena: where their results go.
        sizing: what is known of how large results are and how long they take.
        statistics: to be counted in.
        functions: of the pool, for their names.
    """

    def __init__(
        self,
        workforce: Workforce,
        arena: Arena,
        sizing: Sizing,
        statistics: PoolStatistics,
        functions: Sequence[object],
    ) -> None:
        self.outstanding: dict[int, Outstanding] = {}
        """By the task's serial."""
        self._workforce = workforce
        self._arena = arena
        self._sizing = sizing
        self._statistics = statistics
        self._names = [str(getattr(function, "__name__", type(function).__name__)) for function in functions]
        self._serials = itertools.count(1)
        self._holds = 0
        self._unsent: list[deque[tuple[int, bytes]]] = [deque() for _ in workforce.lanes]
        self._latest = [0 for _ in workforce.lanes]
        """The priority of what was put into each lane last."""

    # --- out ----------------------------------------------------------------------------------------------------------

    def add(self, function: int, items: Sequence[object], lane: int, priority: int, *, stack: bool) -> Job:
        """Make a job and send what the channel takes of it."""
        workers = 1 if lane else self._workforce.size - self._workforce.dedicated
        runs = self._sizing.split(function, len(items), workers)
        # May raise, so before anything is taken.
        pickled = [dumps(items[run.first : run.first + run.size]) for run in runs]
        structure = self._sizing.structure(function) if stack else None
        nbytes = self._sizing.bytes_of(function, len(items), structure)
        slot = self._arena.reserve(nbytes) if items else None
        if slot is None and items:
            self._statistics.refused += 1
        if slot is None:
            structure = None
        job = Job(
            function,
            items,
            lane,
            priority,
            stack,
            slot,
            nbytes // len(items) if slot else 0,
            structure,
            None if structure is None else self._sizing.packed(function),
        )
        for number, (run, data) in enumerate(zip(runs, pickled, strict=True)):
            job.runs[number] = run
            self._queue(job, number, data)
        if priority < self._latest[lane]:  # it overtakes what waits in the channel
            waiting = self.take_back(lane)
            self._latest[lane] = max((self.outstanding[serial].job.priority for serial in waiting), default=priority)
            self.send_again(waiting)
        else:
            self._latest[lane] = priority
            self.send()
        return job

    def _queue(self, job: Job, number: int, items: bytes, order: int | None = None) -> None:
        run = job.runs[number]
        offset, capacity = job.place(run)
        start = 0 if job.slot is None else job.slot.offset + offset
        serial = next(self._serials)
        task = Task(
            serial,
            job.function,
            start,
            capacity,
            run.size,
            items,
            job.stack,
            job.packed_structure,
            run.first,
            len(job.items),
        )
        self.outstanding[serial] = Outstanding(job, number, serial if order is None else order)
        self._unsent[job.lane].append((serial, task.pack()))
        self._latest[job.lane] = max(self._latest[job.lane], job.priority)

    @property
    def waits_for_room(self) -> bool:
        """True when there are tasks that a channel had no room for."""
        return any(self._unsent)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Context in which nothing is sent before its end."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
            if not self._workforce.closed:
                self.send()

    def send(self, *, held: bool = False) -> None:
        """Hand over as many tasks as the channels take now; with ``held`` also what is held back."""
        if self._holds and not held:
            return
        for lane, unsent in zip(self._workforce.lanes, self._unsent, strict=True):
            while unsent and lane.tasks_in.send(unsent[0][1], key=unsent[0][0], block=False):
                unsent.popleft()

    # --- in -----------------------------------------------------------------------------------------------------------

    def receive(self) -> None:
        """Take all results that are there."""
        while True:
            try:
                message = self._workforce.results_out.receive(block=False)
            except BlockingIOError:
                return
            if message is None:
                return
            self._accept(message)

    def _accept(self, message: Message) -> None:
        result = Result.unpack(message.payload)
        memory: Bytes | None = None
        try:
            entry = self.outstanding.pop(result.serial, None)
            if entry is None:  # cancelled, or done twice after a death
                return
            if message.fd is not None:
                memory = np.empty(result.size, np.uint8)
                read_file(message.fd, memory.data)
        finally:
            if message.fd is not None:
                os.close(message.fd)
        self._count(result, entry, copied=memory is not None)
        descriptions = result.descriptions
        if not isinstance(descriptions, bytes):
            start, length = descriptions
            if memory is None:
                assert entry.job.slot is not None
                start += entry.job.slot.offset + entry.job.place(entry.run)[0]
                descriptions = self._arena.read(start, length)
            else:
                descriptions = memory[start : start + length].tobytes()
        self.fill(entry, Part(descriptions, memory, result.described, result.structure, ragged=result.ragged))

    def _count(self, result: Result, entry: Outstanding, *, copied: bool) -> None:
        size = entry.run.size
        numbers = self._statistics
        numbers.items += size
        numbers.runs += 1
        numbers.busy_seconds += result.seconds
        numbers.idle_seconds += result.idle
        worker, function, spent = result.worker, entry.job.function, Spent(*result.spent)
        numbers.items_by_worker[worker] = numbers.items_by_worker.get(worker, 0) + size
        numbers.busy_by_worker[worker] = numbers.busy_by_worker.get(worker, 0.0) + result.seconds
        numbers.items_by_function[function] = numbers.items_by_function.get(function, 0) + size - spent.empty
        numbers.busy_by_function[function] = numbers.busy_by_function.get(function, 0.0) + result.seconds
        numbers.write_seconds += spent.writing
        numbers.read_seconds += spent.reading
        numbers.collate_seconds += spent.collating
        numbers.processor_seconds += spent.processor
        if _spans.recorder is not None:
            self._record(result, entry, spent)
        if copied:
            numbers.copied_bytes += result.size
        else:
            numbers.shared_bytes += result.size
        structure = entry.job.structure
        if structure is not None:
            stacked = size - len(result.described or ())
            numbers.shared_bytes += stacked * sum(leaf.nbytes for leaf in structure.leaves)
        self._sizing.note(entry.job.function, size, result.seconds, None if structure is not None else result.size)

    def _record(self, result: Result, entry: Outstanding, spent: Spent) -> None:
        assert _spans.recorder is not None
        child = self._workforce.workers.get(result.worker)
        _spans.recorder.add(
            self._workforce.name,
            f"worker {result.worker}" + ("" if child is None else f" (pid {child.pid})"),
            self._names[entry.job.function],
            spent.begun,
            spent.begun + result.seconds,
            items=entry.run.size,
            bytes=result.size,
            read_ms=spent.reading * 1000,
            collate_ms=spent.collating * 1000,
            write_ms=spent.writing * 1000,
            processor_ms=spent.processor * 1000,
        )

    def fill(self, entry: Outstanding, part: Part) -> None:
        """Note what became of a run."""
        job = entry.job
        job.parts[entry.number] = part
        if job.complete:
            if job.cancelled:
                job.release()
            elif job.stack:
                self._sizing.learn(job)

    def lose(self, serial: int, error: BaseException) -> None:
        """Note that a task's run is lost."""
        self.fill(self.outstanding.pop(serial), Part(None, error=error))

    def lose_lane(self, lane: int, error: BaseException) -> None:
        """Note that all that is in a lane, or was taken from it, is lost; what is in it shall not be done later."""
        self.take_back(lane)
        for serial in [serial for serial, entry in self.outstanding.items() if entry.job.lane == lane]:
            self.lose(serial, error)

    # --- back ---------------------------------------------------------------------------------------------------------

    def take_back(self, lane: int) -> dict[int, bytes]:
        """Take all tasks of a lane that no worker has taken out of its channel; returns them, in order, by their serials."""
        tasks: dict[int, bytes] = {}
        serials: list[int] = []
        while True:
            try:
                message = self._workforce.lanes[lane].tasks_out.receive(block=False, taken=serials.append)
            except BlockingIOError:
                break
            if message is None:
                break
            tasks[serials[-1]] = message.payload
        tasks |= self._unsent[lane]
        self._unsent[lane].clear()
        return {serial: task for serial, task in tasks.items() if serial in self.outstanding}

    def send_again(self, tasks: Mapping[int, bytes | None]) -> None:
        """Queue outstanding tasks anew, the urgent ones first.

        Args:
            tasks: by their serials; None of one that a worker may have taken: a result that still comes for it is not taken.
        """
        outstanding = self.outstanding
        for serial in sorted(tasks, key=lambda serial: (outstanding[serial].job.priority, outstanding[serial].order)):
            task = tasks[serial]
            if task is None:
                entry = outstanding.pop(serial)
                self._queue(entry.job, entry.number, dumps(entry.job.items_of(entry.run)), entry.order)
            else:
                self._unsent[outstanding[serial].job.lane].append((serial, task))
        self.send()

    def redo(self, serial: int, position: int, tries: int, error: BaseException) -> None:
        """Have a lost run done again, in three parts: the item at ``position``, of which a worker may have died, is alone.

        If it is the ``tries``-th worker, the item is given up with this error.
        """
        entry = self.outstanding.pop(serial)
        job, run = entry.job, entry.job.runs.pop(entry.number)
        culprit = run.first + min(position, run.size - 1)
        job.tries[culprit] = job.tries.get(culprit, 0) + 1
        bounds = [run.first, culprit, culprit + 1, run.first + run.size]
        numbers = itertools.count(max([entry.number, *job.runs]) + 1)
        again = {next(numbers): Run(first, end - first) for first, end in itertools.pairwise(bounds) if first < end}
        job.runs.update(again)  # all of them, before one of them is done with
        for number, part in again.items():
            if job.cancelled:
                self.fill(Outstanding(job, number, entry.order), Part(None))
            elif part.first == culprit and job.tries[culprit] >= tries:
                self.fill(Outstanding(job, number, entry.order), Part(None, error=error))
            else:
                self._queue(job, number, dumps(job.items_of(part)), entry.order)

    def withdraw(self, job: Job) -> None:
        """Take a cancelled job's tasks back; only what a worker has in hand remains."""
        tasks = self.take_back(job.lane)
        for serial in [serial for serial in tasks if self.outstanding[serial].job is job]:
            del tasks[serial]
            self.fill(self.outstanding.pop(serial), Part(None))
        self.send_again(tasks)

    def held_by(self, serial: int) -> Sequence[object]:
        """The items of an outstanding task."""
        entry = self.outstanding.get(serial)
        return [] if entry is None else entry.job.items_of(entry.run)
