"""Writing a run's results to their places, in a worker: each as soon as it is there.

At once, because the next call may change it: a function may return the same buffer each time. And because it is then still
in the processor's cache.
"""

from __future__ import annotations

import os
import threading
from typing import Any

import numpy as np

from torchdali.pool._channel import memory_file, write_file
from torchdali.pool._codec import ALIGNMENT, aligned, dumps, encode
from torchdali.pool._memory import Memory
from torchdali.pool._structure import Structure, nesting_of

__all__ = ["DescribedRun", "Region", "StackedRun"]


class Region:
    """The bytes set aside for a run's results: given out from the beginning; what is too much goes into a memory file.

    There is one in a worker, for one run after another.
    """

    def __init__(self, memory: Memory) -> None:
        self.bytes = memoryview(memory.map)
        self._address = np.frombuffer(memory.map, np.uint8).ctypes.data
        self.file: int | None = None
        self._lock = threading.Lock()
        self.begin(0, 0)

    def begin(self, offset: int, capacity: int) -> None:
        """Begin a run."""
        self.close()
        self._offset = offset
        self._capacity = capacity
        self._given = 0
        self.end = 0
        """Bytes of all that was placed, those in the file included."""

    def allocate(self, nbytes: int) -> memoryview | None:
        """Memory in the region; None if there is none left."""
        with self._lock:  # a function may have threads
            start, end = self.end, self.end + aligned(nbytes)
            if end > self._capacity or self.file is not None:
                return None
            self.end = self._given = end
        return self.bytes[self._offset + start : self._offset + start + nbytes]

    def place(self, piece: memoryview) -> tuple[int, int]:
        """Put a piece to its place, if it is not there already; returns (offset, length)."""
        start = self._find(piece)
        if start is None:
            start = self.end
            target = self.allocate(piece.nbytes)
            if target is not None:
                target[:] = piece
            else:
                if self.file is None:
                    self.file = memory_file(0)
                write_file(self.file, piece, start)
                self.end += aligned(piece.nbytes)
        return start, piece.nbytes

    def _find(self, piece: memoryview) -> int | None:
        if not self._given:
            return None
        start = int(np.frombuffer(piece, np.uint8).ctypes.data) - self._address - self._offset
        return start if start >= 0 and start + piece.nbytes <= self._given else None

    def complete_file(self) -> int | None:
        """The memory file, if something did not fit, with all the rest in it too."""
        if self.file is not None:
            write_file(self.file, self.bytes[self._offset : self._offset + self._given], 0)
            os.truncate(self.file, self.end)
        return self.file

    def close(self) -> None:
        """Let go of the file."""
        if self.file is not None:
            os.close(self.file)
            self.file = None


class DescribedRun:
    """Results that are pickled, with their large pieces in the region.

    Args:
        region: begun for this run.
        stack: note what structure the results have.
    """

    def __init__(self, region: Region, *, stack: bool) -> None:
        self._region = region
        self._uniform = stack
        self._nesting: Any = None
        self.described: list[tuple[bytes, list[tuple[int, int]]]] = []
        """For each result its description and the spans of its pieces."""

    def add(self, value: object) -> None:
        """Take the next result.

        Raises:
            whatever pickling it raises; nothing was added then.
        """
        if self._uniform:
            try:
                nesting = nesting_of(value)
            except Exception:  # not of that kind, or a class of the user's that cannot be looked at
                self._uniform = False
            else:
                self._uniform = nesting == self._nesting or not self.described
                self._nesting = nesting
        description, pieces = encode(value)
        self.described.append((description, [self._region.place(piece) for piece in pieces]))

    def structure(self) -> bytes | None:
        """How all results are nested, pickled, if they agree and it can be."""
        if not self._uniform or not self.described:
            return None
        try:
            return dumps(self._nesting)
        except Exception:  # a class of the user's that cannot
            return None


class StackedRun:
    """Results that are expected to have one structure, written into the blocks of their job.

    Args:
        structure: that one.
        memory: in which the blocks lie.
        offset: where they begin.
        first, size, total: position of the run's first item in the job, items of the run, items of the job.
        region: for what does not have the structure.
    """

    def __init__(
        self, structure: Structure, memory: memoryview, offset: int, first: int, size: int, total: int, region: Region
    ) -> None:
        self._structure = structure
        offsets = [offset + start for start in structure.offsets(total, ALIGNMENT)[0]]
        self._places = structure.places(memory, offsets, first, size)
        self._others = DescribedRun(region, stack=False)
        self._position = 0
        self.missing: list[int] = []
        """Positions in the run of the others."""

    @property
    def described(self) -> list[tuple[bytes, list[tuple[int, int]]]]:
        """Of the others."""
        return self._others.described

    def add(self, value: object) -> None:
        """Take the next result."""
        if not self._structure.write(self._places, self._position, value):
            self._others.add(value)
            self.missing.append(self._position)
        self._position += 1

    def structure(self) -> bytes | None:
        """It is known."""
        return None
