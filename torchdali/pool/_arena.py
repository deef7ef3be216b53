"""Who owns which bytes of the shared memory, and for how long.

The parent alone allocates. A slot goes through these hands:

1. reserved: the parent took it for a job and told workers where to write;
2. leased: the job is complete, :meth:`Slot.lease` made the one array that all results of the job are views of;
3. returned: that array died, which is when the last view of it died. Views keep it alive (NumPy's ``base``, a torch
   storage's owner), so a batch that a user keeps can never be written again;
4. free, once the fence has passed, if there is a :class:`MemoryHook`: a device may still be reading what nobody holds.

Memory grows by segments as slots are wanted, up to the bound, and shrinks when segments at its end were not used for
a while. A slot is in one segment, because what a device registers is registered as one piece.

The death of an array is noticed wherever garbage is collected, in any thread, possibly in the middle of this module's
own code, or of a signal handler. The callback therefore is a deque's own ``append``, which no Python code can interrupt;
the arena collects from the deque at the next reservation.
"""

from __future__ import annotations

import bisect
import weakref
from collections import deque
from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from torchdali.pool._memory import PAGE, Memory

__all__ = ["Arena", "Bytes", "MemoryHook", "Slot"]

Bytes = npt.NDArray[np.uint8]

SEGMENT = 64 << 20
"""Bytes by which the memory grows, or more for a slot that is larger."""

SHRINK_AFTER = 256
"""Segments that were not used during as many reservations are given back."""


class MemoryHook(Protocol):
    """What a device wants to know of a pool's memory: the way to have it pinned without the pool knowing the device."""

    def register(self, address: int, nbytes: int) -> None:
        """A segment begins to be used. If this raises, the segment is not used and results are copied instead."""

    def unregister(self, address: int, nbytes: int) -> None:
        """A segment's memory is about to be given back. It must not raise."""

    def fence(self) -> Callable[[], bool]:
        """Called after memory was let go of; what is returned is asked until it says that no device reads it any more."""


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


class _Segment:
    """A range of the memory and which parts of it are free."""

    def __init__(self, start: int, size: int) -> None:
        self.start = start
        self.size = size
        self.free: list[tuple[int, int]] = [(start, size)]  # (offset, length), by offset, never adjacent

    @property
    def unused(self) -> bool:
        return self.free == [(self.start, self.size)]

    def take(self, length: int) -> int | None:
        """The lowest place that fits: memory that was written before is used again, and others stay untouched."""
        for position, (offset, available) in enumerate(self.free):
            if available >= length:
                if available == length:
                    del self.free[position]
                else:
                    self.free[position] = (offset + length, available - length)
                return offset
        return None

    def give_back(self, offset: int, length: int) -> None:
        position = bisect.bisect(self.free, (offset, 0))
        if position < len(self.free) and offset + length == self.free[position][0]:
            length += self.free.pop(position)[1]
        if position and sum(self.free[position - 1]) == offset:
            before = self.free[position - 1]
            self.free[position - 1] = (before[0], before[1] + length)
        else:
            self.free.insert(position, (offset, length))


class Arena:
    """The table of what is in use of a shared memory.

    Args:
        memory: what is given out.
        start: bytes at its beginning that are not.
        hook: told of segments, and asked whether memory may be used again.
        keep: give no pages back to the system: other processes have pinned them, and would go on seeing the old ones.
    """

    def __init__(self, memory: Memory, *, start: int = 0, hook: MemoryHook | None = None, keep: bool = False) -> None:
        self._memory = memory
        self._keep = keep
        self._hook = hook
        self._segments: list[_Segment] = []
        memory.segments = self._segments
        self._start = -(-start // PAGE) * PAGE
        self._used: dict[int, int] = {}  # offset -> length
        self._leases: dict[int, _Lease] = {}
        self._returned: deque[_Lease | int] = deque()
        self._fenced: deque[tuple[Callable[[], bool], list[int]]] = deque()
        self._furthest = 0
        self._reservations = 0
        self._in_use = 0
        self.peak = 0
        """The largest that ``in_use`` has been."""
        self.growth = 0
        """How often a segment was added."""
        self.refused: BaseException | None = None
        """What the hook raised when it was given a segment."""
        if hook is not None:
            segments, address = self._segments, np.frombuffer(memory.map, np.uint8).ctypes.data

            def unregister_all() -> None:
                for segment in segments:
                    hook.unregister(address + segment.start, segment.size)

            self._address = address
            memory.map.before_unmap = unregister_all

    @property
    def slots(self) -> int:
        """Slots reserved, leased or fenced."""
        self.collect()
        return len(self._used)

    @property
    def in_use(self) -> int:
        """Bytes of those slots."""
        self.collect()
        return self._in_use

    @property
    def committed(self) -> int:
        """Bytes of all segments; memory is taken of them as it is written, or at once where it is registered."""
        return sum(segment.size for segment in self._segments)

    def reserve(self, nbytes: int) -> Slot | None:
        """A slot of at least ``nbytes``, or None when the memory's bound leaves no room."""
        self.collect()
        length = max(1, -(-nbytes // PAGE)) * PAGE
        self._reservations += 1
        if self._reservations % SHRINK_AFTER == 0:
            self._shrink()
        for number, segment in enumerate(self._segments):
            offset = segment.take(length)
            if offset is not None:
                return self._slot(number, offset, length)
        if not self._grow(length):
            return None
        offset = self._segments[-1].take(length)
        assert offset is not None
        return self._slot(len(self._segments) - 1, offset, length)

    def _slot(self, segment: int, offset: int, length: int) -> Slot:
        self._furthest = max(self._furthest, segment)
        self._used[offset] = length
        self._in_use += length
        self.peak = max(self.peak, self._in_use)
        return Slot(self, offset, length)

    def _grow(self, length: int) -> bool:
        start = self._segments[-1].start + self._segments[-1].size if self._segments else self._start
        size = min(max(SEGMENT, length), self._memory.size - start)
        if size < length:
            return False
        if self._hook is not None:
            try:
                self._hook.register(self._address + start, size)
            except Exception as error:  # told by whoever reads the statistics; copying is always possible
                self.refused = error
                return False
        self._segments.append(_Segment(start, size))
        self.growth += 1
        return True

    def _shrink(self) -> None:
        while not self._keep and len(self._segments) > self._furthest + 1 and self._segments[-1].unused:
            segment = self._segments.pop()
            if self._hook is not None:
                self._hook.unregister(self._address + segment.start, segment.size)
            self._memory.discard(segment.start, segment.size)
        self._furthest = 0

    def discard_free(self) -> None:
        """Give back the memory of all that is free; a device's memory stays as it is."""
        self.collect()
        if self._hook is None:
            for segment in self._segments:
                for offset, length in segment.free:
                    self._memory.discard(offset, length)

    def _lease(self, slot: Slot) -> Bytes:
        root: Bytes = np.frombuffer(self._memory.map, np.uint8, slot.capacity, slot.offset)
        lease = _Lease(root, self._returned.append)
        lease.offset = slot.offset
        self._leases[slot.offset] = lease
        return root

    def read(self, start: int, length: int) -> bytes:
        """A copy of some bytes."""
        return self._memory.map[start : start + length]

    def collect(self) -> None:
        """Take back what was let go of."""
        offsets = []
        while self._returned:
            returned = self._returned.popleft()
            offsets.append(returned if isinstance(returned, int) else returned.offset)
        if self._hook is not None:
            if offsets:
                try:
                    fence = self._hook.fence()
                except Exception as error:  # memory that may be read is not used again; the next time may be better
                    self.refused = error
                    self._returned.extend(offsets)
                else:
                    self._fenced.append((fence, offsets))
            offsets = []
            while self._fenced and self._fenced[0][0]():
                offsets += self._fenced.popleft()[1]
        for offset in offsets:
            self._leases.pop(offset, None)
            length = self._used.pop(offset, None)
            if length is not None:
                self._in_use -= length
                self._segment_of(offset).give_back(offset, length)

    def _segment_of(self, offset: int) -> _Segment:
        number = bisect.bisect(self._segments, offset, key=lambda segment: segment.start) - 1
        return self._segments[number]
