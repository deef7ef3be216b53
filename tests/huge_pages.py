"""Memory that is forked often, gathered in huge pages.

To fork a process takes as long as there are entries in its table of pages, and so does the end of its child. With torch, the
trainers and all modules of tests imported there are more than 100,000 pages of 4 KB, which takes 30 ms, longer than most of
what tests do with a worker. As huge pages the same memory has a few hundred entries.
"""

import ctypes
import os
import re
from pathlib import Path

__all__ = ["Gathering", "gather"]

_SIZE = 2 << 20
_MADV_COLLAPSE = 25  # linux/mman.h, since Linux 6.1; an older one refuses it, and all is as it was
_OWN = re.compile(r"(\w+)-(\w+) rw-p \S+ \S+ 0 +(\[heap\])?\n")
_GROWN_PAGES = (64 << 20) // os.sysconf("SC_PAGE_SIZE")

_madvise = ctypes.CDLL(None).madvise
_madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def gather() -> None:
    """Gather this process's own memory, as far as the system does that. It takes up to a second."""
    with Path("/proc/self/maps").open() as file:
        own = [match.groups() for match in map(_OWN.fullmatch, file) if match]
    for first, last, _ in own:
        start, end = -(-int(first, 16) // _SIZE) * _SIZE, int(last, 16) // _SIZE * _SIZE
        if start < end:
            _madvise(start, end - start, _MADV_COLLAPSE)


class Gathering:
    """A plugin of pytest's: gathers before the first test, and again when there is much more memory."""

    def __init__(self) -> None:
        self._pages = 0

    def pytest_runtest_logstart(self) -> None:
        resident, shared = map(int, Path("/proc/self/statm").read_text().split()[1:3])
        if resident - shared > self._pages + _GROWN_PAGES:
            gather()
            self._pages = resident - shared
