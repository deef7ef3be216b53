"""What a process has used: processor time, memory, descriptors. As Linux counts them."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

__all__ = ["count_descriptors", "cpu_seconds", "many_descriptors", "resident_bytes"]

_RESIDENT = re.compile(r"^Rss(?:Anon|Shmem):\s+(\d+) kB$", re.MULTILINE)
_CPUCLOCK_SCHED = 2


def cpu_seconds(pids: Iterable[int]) -> float:
    """Processor time, user and system, of this process and of these, with all their threads."""
    # The kernel's number for another process's clock, as clock_getcpuclockid(3) makes it: nanoseconds, where
    # /proc/PID/stat counts in hundredths of a second.
    return time.process_time() + sum(time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED) for pid in pids)


def resident_bytes() -> int:
    """Bytes of memory that this process has mapped and touched, private and shared; files do not count."""
    return 1024 * sum(int(kilobytes) for kilobytes in _RESIDENT.findall(Path("/proc/self/status").read_text()))


def count_descriptors() -> int:
    """Open descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


@contextlib.contextmanager
def many_descriptors() -> Iterator[None]:
    """Context in which this process may open as many descriptors as it can be allowed to.

    The stock loader takes one for each tensor that is under way or kept, which soon are more than the usual 1024.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
