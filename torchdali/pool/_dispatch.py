"""The traffic between the parent and its workers: which tasks are out, what came back, what is still to be sent.

A task is in exactly one of three places: ``unsent`` here, because the channel was full; in the channel or in a worker's
hands; or gone, when its run has come back or its job was cancelled. ``outstanding`` holds all that are not gone.
"""

from __future__ import annotations

import itertools
import os
import pickle
from collections import deque

import numpy as np

from torchdali.pool._arena import Arena, Bytes
from torchdali.pool._channel import Message, read_file
from torchdali.pool._job import Job, Part, Run
from torchdali.pool._protocol import Result, Task
from torchdali.pool._statistics import PoolStatistics
from torchdali.pool._workforce import Workforce

__all__ = ["Dispatch"]

RUN_SECONDS = 0.002
"""Work in one run, as far as it can be foreseen."""

_FADE = 16
"""The estimate of an item's size falls by this part with each run that needs less."""

_HEADROOM = 4
"""A slot is this many times as large as items have been so far."""


class Dispatch:
    """Hands out tasks and takes in results; waits for nothing.

    Args:
        workforce: the workers.
        arena: where their results go.
        item_capacity: bytes set aside for an item at first.
        statistics: to be counted in.
    """

    def __init__(self, workforce: Workforce, arena: Arena, item_capacity: int, statistics: PoolStatistics) -> None:
        self.outstanding: dict[int, tuple[Job, int]] = {}
        """Task serial to the job and the number of the run in it."""
        self._workforce = workforce
        self._arena = arena
        self._item_capacity = self._smallest_capacity = item_capacity
        self._item_seconds: float | None = None
        self._statistics = statistics
        self._serials = itertools.count(1)
        self._unsent: deque[tuple[int, bytes]] = deque()

    # --- out ----------------------------------------------------------------------------------------------------------

    def add(self, function: int, items: list[object]) -> Job:
        """Make a job and send what the channel takes of it."""
        runs = self._split(len(items))
        pickled = [pickle.dumps(items[run.first : run.first + run.size], protocol=5) for run in runs]
        slot = self._arena.reserve(self._item_capacity * len(items)) if items else None
        job = Job(function, items, runs, pickled, slot, self._item_capacity if slot else 0)
        for run in range(len(runs)):
            self._queue(job, run)
        self.send()
        return job

    def _split(self, count: int) -> list[Run]:
        share = -(-count // self._workforce.size)
        if self._item_seconds is None:
            length = -(-share // 4)
        else:
            length = int(RUN_SECONDS / max(self._item_seconds, 1e-9))
        length = max(1, min(length, share))
        return [Run(first, min(length, count - first)) for first in range(0, count, length)]

    def _queue(self, job: Job, number: int) -> None:
        run = job.runs[number]
        offset, capacity = job.place(number)
        start = 0 if job.slot is None else job.slot.offset + offset
        serial = next(self._serials)
        task = Task(serial, job.function, start, capacity, run.size, job.pickled[number])
        self.outstanding[serial] = (job, number)
        self._unsent.append((serial, task.pack()))

    @property
    def waits_for_room(self) -> bool:
        """True when there are tasks that the channel had no room for."""
        return bool(self._unsent)

    def send(self) -> None:
        """Hand over as many tasks as the channel takes now."""
        while self._unsent:
            if not self._workforce.tasks_in.send(self._unsent[0][1], key=self._unsent[0][0], block=False):
                return
            self._unsent.popleft()

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
            if entry is None:  # done twice, after a death that looked as if it had been lost
                return
            if message.fd is not None:
                memory = np.empty(result.size, np.uint8)
                read_file(message.fd, memory.data)
        finally:
            if message.fd is not None:
                os.close(message.fd)
        job, number = entry
        self._count(result, job.runs[number].size, copied=memory is not None)
        self.fill(job, number, Part(self._description(result, job, number, memory), memory))

    def _description(self, result: Result, job: Job, number: int, memory: Bytes | None) -> bytes:
        if isinstance(result.description, bytes):
            return result.description
        start, length = result.description
        if memory is not None:
            return memory[start : start + length].tobytes()
        assert job.slot is not None
        start += job.slot.offset + job.place(number)[0]
        return bytes(self._arena.memory[start : start + length])

    def _count(self, result: Result, size: int, *, copied: bool) -> None:
        numbers = self._statistics
        numbers.items += size
        numbers.runs += 1
        numbers.busy_seconds += result.seconds
        numbers.items_by_worker[result.worker] = numbers.items_by_worker.get(result.worker, 0) + size
        if copied:
            numbers.copied_bytes += result.size
        else:
            numbers.shared_bytes += result.size
        # Follows at once what grows, and slowly what shrinks: one large item shall not cost room for ever.
        needed = _HEADROOM * -(-result.size // size)
        self._item_capacity = max(needed, self._smallest_capacity, self._item_capacity - self._item_capacity // _FADE)
        seconds = result.seconds / size
        self._item_seconds = seconds if self._item_seconds is None else 0.9 * self._item_seconds + 0.1 * seconds

    def fill(self, job: Job, number: int, part: Part) -> None:
        """Note what became of a run."""
        job.parts[number] = part
        if job.cancelled and job.complete:
            job.release()

    def lose(self, serial: int, error: BaseException) -> None:
        """Note that a task's run is lost."""
        self.fill(*self.outstanding.pop(serial), Part(None, None, error))

    def lose_all(self, error: BaseException) -> None:
        """Note that everything is lost; what is still in the channel shall not be done later."""
        self.take_back()
        for serial in list(self.outstanding):
            self.lose(serial, error)

    # --- back ---------------------------------------------------------------------------------------------------------

    def take_back(self) -> list[int]:
        """Take all tasks that no worker has taken out of the channel; returns their serials in order."""
        serials: list[int] = []
        while True:
            try:
                message = self._workforce.tasks_out.receive(block=False)
            except BlockingIOError:
                break
            if message is None:
                break
            serials.append(Task.unpack(message.payload).serial)
        serials += [serial for serial, _ in self._unsent]
        self._unsent.clear()
        return [serial for serial in serials if serial in self.outstanding]

    def send_again(self, serials: list[int]) -> None:
        """Queue these tasks anew, in this order; a result that still comes for the old ones is not taken."""
        for serial in serials:
            self._queue(*self.outstanding.pop(serial))
        self.send()

    def withdraw(self, job: Job) -> None:
        """Take a cancelled job's tasks back; only what a worker has in hand remains."""
        others = []
        for serial in self.take_back():
            owner, number = self.outstanding[serial]
            if owner is job:
                del self.outstanding[serial]
                self.fill(job, number, Part(None, None))
            else:
                others.append(serial)
        self.send_again(others)
