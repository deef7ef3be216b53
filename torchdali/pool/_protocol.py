"""What parent and workers tell each other, beside the bytes in shared memory.

Task, parent to whichever worker is free: call function number ``function`` for each of ``items`` and put the results
into shared memory at ``offset``, where ``capacity`` bytes are set aside.

Result, worker to parent: the run of task ``serial`` is done. Its outcomes (values, or a failure in place of one) are one
description and its pieces, see ``_codec``. The pieces are at the task's offset, or in a memory file that is sent along
where they did not fit; a long description lies behind them, where ``description`` says how long it is.

Claims, one row a worker in a small shared mapping: which task it has in hand and at which of its items it is. They are
plain stores, so they cost nothing, and they outlive the worker: that is how the parent knows what died with it.
"""

from __future__ import annotations

import mmap
import pickle
from typing import NamedTuple

__all__ = ["Claims", "Result", "Task"]


class Task(NamedTuple):
    """A run of calls for one worker."""

    serial: int
    function: int
    offset: int
    capacity: int
    size: int
    """Number of items."""
    items: bytes
    """A pickled list: loaded only once the task is claimed, since that runs the user's code."""

    def pack(self) -> bytes:
        """As a payload."""
        return pickle.dumps(tuple(self), protocol=5)

    @classmethod
    def unpack(cls, payload: bytes) -> Task:
        """From a payload."""
        return cls(*pickle.loads(payload))


class Result(NamedTuple):
    """What became of a task."""

    serial: int
    worker: int
    seconds: float
    """Spent in the user's function."""
    size: int
    """Bytes written, alignment included."""
    description: bytes | tuple[int, int]
    """Itself, or (offset, length) of where it lies."""

    def pack(self) -> bytes:
        """As a payload."""
        return pickle.dumps(tuple(self), protocol=5)

    @classmethod
    def unpack(cls, payload: bytes) -> Result:
        """From a payload."""
        return cls(*pickle.loads(payload))


class Claims:
    """A table in shared memory of (task serial, item) for each worker; serial 0 is none."""

    def __init__(self, workers: int) -> None:
        self._map = mmap.mmap(-1, max(1, workers) * 16, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
        self._table = memoryview(self._map).cast("q")

    def take(self, worker: int, serial: int) -> None:
        """Worker: note that this task is in hand."""
        self._table[2 * worker + 1] = 0
        self._table[2 * worker] = serial

    def advance(self, worker: int, item: int) -> None:
        """Worker: note which item of the task is being worked on."""
        self._table[2 * worker + 1] = item

    def drop(self, worker: int) -> None:
        """Note that the task is delivered."""
        self._table[2 * worker] = 0

    def of(self, worker: int) -> tuple[int, int]:
        """(serial, item) of a worker."""
        return self._table[2 * worker], self._table[2 * worker + 1]
