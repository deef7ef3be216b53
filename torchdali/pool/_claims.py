"""What each worker has in hand, in shared memory, where it outlives the worker: how the parent knows what died with it.

One row a worker: the serial of its task and the position in it of the item being worked on. They are plain stores into
the head of the pool's memory, so they cost next to nothing. Serial 0 is nothing; :data:`TAKING` says that the worker may
have taken a task from the channel without having been able to say which.
"""

from __future__ import annotations

from torchdali.pool._memory import PAGE, Memory

__all__ = ["TAKING", "Claims"]

TAKING = -1
_ROW = 16


class Claims:
    """The table, at the beginning of ``memory``; ``nbytes`` is what it needs of it."""

    def __init__(self, memory: Memory, workers: int) -> None:
        self.nbytes = -(-workers * _ROW // PAGE) * PAGE
        self._table = memoryview(memory.map)[: self.nbytes].cast("q")  # stores of whole words: nothing is half written

    def taking(self, worker: int) -> None:
        """Worker: note that a task may be in hand from now on."""
        self._table[2 * worker] = TAKING

    def take(self, worker: int, serial: int) -> None:
        """Worker: note that this task is in hand."""
        self._table[2 * worker + 1] = 0
        self._table[2 * worker] = serial

    def advance(self, worker: int, item: int) -> None:
        """Worker: note which item of the task is being worked on."""
        self._table[2 * worker + 1] = item

    def drop(self, worker: int) -> None:
        """Note that nothing is in hand."""
        self._table[2 * worker] = 0

    def of(self, worker: int) -> tuple[int, int]:
        """(serial, item) of a worker."""
        return self._table[2 * worker], self._table[2 * worker + 1]
