"""Shared memory for results: who owns which bytes, and for how long.

An arena is one anonymous shared mapping, made before the workers are forked, so that parent and workers see it at the
same place and nothing is left of it after any kind of death. It is sparse: its size is a bound, memory is taken only
where somebody wrote.

The parent alone allocates. A slot goes through three hands:

1. reserved: the parent took it for a job and told a worker where to write;
2. leased: the job is complete, :meth:`Slot.lease` made the one array that all results of the job are views of;
3. free again: when that array dies, which is when the last view of it dies. Views keep it alive (NumPy's ``base``, a
   torch storage's owner), so a batch that a user keeps can never be written again.

The death of an array is noticed wherever garbage is collected, in any thread, possibly in the middle of this module's
own code, or of a signal handler. The callback therefore is a deque's own ``append``, which no Python code can interrupt; the
arena collects from the deque at the next reservation.
"""

from __future__ import annotations

import bisect
import mmap
import os
import weakref
from collections import deque

import numpy as np
import numpy.typing as npt

__all__ = ["Arena", "Bytes", "Slot", "default_memory_limit"]

Bytes = npt.NDArray[np.uint8]

_PAGE = mmap.PAGESIZE
_MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)  # named in Python's mmap only from 3.11 on
_SMALLEST = 64 << 20


def default_memory_limit() -> int:
    """Bytes that an arena may grow to when nobody sets it: half of the machine's memory, at least 4 GiB."""
    return max(4 << 30, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)


def _map_shared(size: int) -> tuple[mmap.mmap, int]:
    """A mapping of ``size`` bytes, or of less where the process's address space is limited (``ulimit -v``)."""
    while True:
        try:
            return mmap.mmap(-1, size, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | _MAP_NORESERVE), size
        except (OSError, ValueError, OverflowError) as error:
            if size <= _SMALLEST:
                raise MemoryError(f"no shared memory of {size} bytes can be mapped: {error}") from error
            size = max(_SMALLEST, size // 2)


class _Lease(weakref.ref[Bytes]):
    """A reference to a leased array; called back when it dies."""

    __slots__ = ("offset",)
    offset: int


class Slot:
    """A part of the arena that belongs to one job."""

    def __init__(self, arena: Arena, offset: int, capacity: int) -> None:
        self._arena = arena
        self.offset = offset
        self.capacity = capacity

    def lease(self) -> Bytes:
        """The slot as a writable array of bytes; the slot is free again when it and all its views are dead."""
        return self._arena._lease(self)

    def release(self) -> None:
        """Give the slot back without a lease: nobody reads it and no worker will write to it any more."""
        self._arena._returned.append(self.offset)


class Arena:
    """One shared mapping and the table of what is in use of it.

    Args:
        limit: bytes at most. The mapping is made smaller where the address space does not allow as much.
    """

    def __init__(self, limit: int) -> None:
        size = max(_PAGE, limit // _PAGE * _PAGE)
        self._map, self.size = _map_shared(size)
        self._free: list[tuple[int, int]] = [(0, self.size)]  # (offset, length), by offset, never adjacent
        self._used: dict[int, int] = {}  # offset -> length
        self._leases: dict[int, _Lease] = {}
        self._returned: deque[_Lease | int] = deque()
        self.high_water = 0
        """End of the furthest slot ever reserved: a bound on the memory taken."""

    @property
    def memory(self) -> mmap.mmap:
        """The mapping itself, which workers inherit."""
        return self._map

    @property
    def in_use(self) -> int:
        """Bytes reserved or leased now."""
        self._collect()
        return sum(self._used.values())

    def reserve(self, nbytes: int) -> Slot | None:
        """A slot of at least ``nbytes``, or None when no free part is large enough.

        The lowest place that fits is taken, so that memory which was touched before is used again.
        """
        self._collect()
        length = max(1, -(-nbytes // _PAGE)) * _PAGE
        for position, (offset, available) in enumerate(self._free):
            if available >= length:
                if available == length:
                    del self._free[position]
                else:
                    self._free[position] = (offset + length, available - length)
                self._used[offset] = length
                self.high_water = max(self.high_water, offset + length)
                return Slot(self, offset, length)
        return None

    def _lease(self, slot: Slot) -> Bytes:
        root: Bytes = np.frombuffer(self._map, np.uint8, slot.capacity, slot.offset)
        lease = _Lease(root, self._returned.append)
        lease.offset = slot.offset
        self._leases[slot.offset] = lease
        return root

    def _collect(self) -> None:
        while self._returned:
            returned = self._returned.popleft()
            offset = returned if isinstance(returned, int) else returned.offset
            self._leases.pop(offset, None)
            length = self._used.pop(offset, None)
            if length is not None:
                self._insert(offset, length)

    def _insert(self, offset: int, length: int) -> None:
        position = bisect.bisect(self._free, (offset, 0))
        if position < len(self._free) and offset + length == self._free[position][0]:
            length += self._free.pop(position)[1]
        if position and sum(self._free[position - 1]) == offset:
            before = self._free[position - 1]
            self._free[position - 1] = (before[0], before[1] + length)
        else:
            self._free.insert(position, (offset, length))
