"""Memory that is forked often, gathered in huge pages.

To fork a process takes as long as there are entries in its table of pages, and so does the end of its child. With torch, the
trainers and all modules of tests imported there are more than 100,000 pages of 4 KB, which takes 30 ms, longer than most of
what tests do with a worker. As huge pages the same memory has a few hundred entries.
"""

import ctypes
import os
import re
from pathlib import Path

import numpy as np

__all__ = ["Gathering", "gather"]

_SIZE = 2 << 20
_PAGE = os.sysconf("SC_PAGE_SIZE")
_LARGEST = 4 << 30  # what is larger is an address space that is reserved
_FULL = 63 / 64
_PRESENT = np.uint64(1 << 63)  # of an entry of pagemap
_MADV_COLLAPSE = 25  # linux/mman.h, since Linux 6.1; an older one refuses it, and all is as it was
_OWN = re.compile(r"(\w+)-(\w+) rw-p \S+ \S+ 0 +(\[heap\])?\n")

_madvise = ctypes.CDLL(None).madvise
_madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def gather() -> None:
    """Gather this process's own memory, as far as the system does that: a second's work, and next to none where it was done.

    What has never been touched, or was given back, stays so but for some pages: tests measure how much memory there is.
    """
    with Path("/proc/self/maps").open() as maps:
        own = [match.groups() for match in map(_OWN.fullmatch, maps) if match]
    with Path("/proc/self/pagemap").open("rb") as pagemap:
        for first, last, _ in own:
            start, end = -(-int(first, 16) // _SIZE) * _SIZE, int(last, 16) // _SIZE * _SIZE
            if 0 < end - start < _LARGEST:
                pagemap.seek(start // _PAGE * 8)
                pages = np.frombuffer(pagemap.read((end - start) // _PAGE * 8), np.uint64).reshape(-1, _SIZE // _PAGE)
                for number in np.flatnonzero(np.count_nonzero(pages & _PRESENT, axis=1) >= _FULL * pages.shape[1]):
                    _madvise(start + int(number) * _SIZE, _SIZE, _MADV_COLLAPSE)


class Gathering:
    """A plugin of pytest's: gathers before the first test, and what came since, or was parted by forks, before each 25th."""

    def __init__(self) -> None:
        self._tests = 0

    def pytest_runtest_logstart(self) -> None:
        if self._tests % 25 == 0:
            gather()
        self._tests += 1
