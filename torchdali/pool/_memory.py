"""The bytes that a pool's processes share: one sparse file in memory, mapped by all of them.

Its size is a bound, not what it costs: a page is taken when somebody first writes to it. So the memory of a pool can grow
for as long as it lives without telling any worker, and it is one descriptor, whatever is kept. The file has no name:
nothing is left of it after any kind of death, and neither the size of /dev/shm nor its permissions matter.

A process that was forked from the parent has the mapping already; any other gets the descriptor and maps it by itself.
"""

from __future__ import annotations

import bisect
import contextlib
import mmap
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from torchdali.pool._channel import memory_file

__all__ = ["Memory", "default_memory_limit"]

PAGE = mmap.PAGESIZE
_MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)  # named in Python's mmap only from 3.11 on
_SMALLEST = 64 << 20
_CONTROL_GROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def default_memory_limit() -> int:
    """Bytes that a pool's shared memory may grow to when nobody sets it.

    Half of the machine's memory, or of what the process's control group (a container) is allowed, whichever is less.
    """
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in _CONTROL_GROUP_LIMITS:
        try:
            available = min(available, int(Path(path).read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return max(_SMALLEST, available // 2)


class _Mapping(mmap.mmap):
    """A mapping that tells when it is about to end: after the last view of it is dead, and before it is unmapped."""

    before_unmap: Callable[[], None] | None = None
    owner: int | None = None
    """The process whose memory it is: the others were forked from it and have the mapping without using it."""

    def __del__(self) -> None:
        if self.owner == os.getpid():
            if self.before_unmap is not None:
                self.before_unmap()
            with contextlib.suppress(Exception):  # at the interpreter's end anything may be gone
                self.madvise(mmap.MADV_REMOVE)


class Segment(Protocol):
    """A part of a memory; in bytes."""

    start: int
    size: int


class Memory:
    """A shared mapping.

    Args:
        size: bytes, rounded down to pages.
        fd: descriptor of another process's memory to map; None makes a new one. It is this object's from then on.

    Attributes:
        segments: the parts that are in use, by their places, as the arena that gives them out has them: in the parent only.
            Results of one job lie in one of them.
    """

    def __init__(self, size: int, fd: int | None = None) -> None:
        self.segments: Sequence[Segment] = ()
        self.size = max(PAGE, size // PAGE * PAGE)
        self.fd = memory_file(0) if fd is None else fd
        self._home = os.getpid(), self.fd
        try:
            self.map = self._map_new() if fd is None else self._map()
        except BaseException:
            os.close(self.fd)
            raise
        self._address = int(np.frombuffer(self.map, np.uint8).ctypes.data)

    def _map(self) -> _Mapping:
        return _Mapping(self.fd, self.size, flags=mmap.MAP_SHARED | _MAP_NORESERVE)

    def _map_new(self) -> _Mapping:
        """Of less than the wanted size where address space or file sizes are limited (``ulimit -v``, ``-f``)."""
        while True:
            try:
                os.ftruncate(self.fd, self.size)
                mapping = self._map()
            except (OSError, ValueError, OverflowError) as error:
                if self.size <= _SMALLEST:
                    raise MemoryError(
                        f"no shared memory of {self.size} bytes can be mapped: {error}. Free memory, let go of kept results, or "
                        "raise the limits of the shell (ulimit -v, -f)"
                    ) from error
                self.size = max(_SMALLEST, self.size // 2 // PAGE * PAGE)
            else:
                mapping.owner = os.getpid()
                return mapping

    def offset_of(self, address: int, nbytes: int) -> int | None:
        """Where bytes at an address of this process lie in the memory; None if they do not, or not all of them.

        The offset is the same in all processes, which may each have the memory at another address.
        """
        offset = address - self._address
        return offset if offset >= 0 and 0 <= nbytes <= self.size - offset else None

    def segment_of(self, offset: int) -> tuple[int, int] | None:
        """The segment that holds the byte at an offset; None if there is none."""
        number = bisect.bisect(self.segments, offset, key=lambda segment: segment.start) - 1
        if number < 0:
            return None
        segment = self.segments[number]
        return (segment.start, segment.size) if offset < segment.start + segment.size else None

    def view(self, offset: int, nbytes: int) -> npt.NDArray[np.uint8]:
        """Bytes of the memory as a writable array, which is no lease: whoever uses it has them held by the parent.

        Raises:
            ValueError: they do not lie in the memory.
        """
        self._check(offset, nbytes)
        return np.frombuffer(self.map, np.uint8, nbytes, offset)

    def copy_on_write(self, offset: int, nbytes: int) -> npt.NDArray[np.uint8]:
        """As :meth:`view`, but what is written to it is seen by nobody else.

        Pages that are not written to cost no memory. Without a descriptor of the memory, it is a copy.

        Raises:
            ValueError: they do not lie in the memory.
        """
        self._check(offset, nbytes)
        start = offset // PAGE * PAGE
        if self.fd >= 0 and nbytes:
            with contextlib.suppress(OSError):  # a process may have so many mappings, and no more
                flags = mmap.MAP_PRIVATE | _MAP_NORESERVE
                mapping = mmap.mmap(self.fd, offset - start + nbytes, flags=flags, offset=start)
                return np.frombuffer(mapping, np.uint8, nbytes, offset - start)
        return self.view(offset, nbytes).copy()

    def _check(self, offset: int, nbytes: int) -> None:
        if offset < 0 or not 0 <= nbytes <= self.size - offset:
            raise ValueError(
                f"{nbytes} bytes from {offset} on do not lie in a memory of {self.size} bytes; see Memory.size"
            )

    def reopen(self) -> None:
        """Have a descriptor again, in a process that was forked from one that has it open; without /proc, have none."""
        if self.fd < 0:
            pid, fd = self._home
            with contextlib.suppress(OSError):
                self.fd = os.open(f"/proc/{pid}/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)

    def __reduce__(self) -> Any:
        """For another process of the same user, which maps it while this one lives and has not closed it."""
        if self.fd < 0:
            raise ValueError(
                "this memory is closed, and cannot be handed to another process; keep its pool open for as long"
            )
        return _of_process, (self.size, os.getpid(), self.fd)

    def close(self) -> None:
        """Let go of the descriptor; the mapping stays until nobody views it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def discard(self, offset: int, nbytes: int) -> None:
        """Give the pages of a range back to the system; they are zero when they are next used."""
        self.map.madvise(mmap.MADV_REMOVE, offset, nbytes)


def _of_process(size: int, pid: int, fd: int) -> Memory:
    return Memory(size, os.open(f"/proc/{pid}/fd/{fd}", os.O_RDWR | os.O_CLOEXEC))
