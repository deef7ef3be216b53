"""Counters that also processes share which inherit nothing: they are in a file."""

import mmap
import os
from pathlib import Path

from tests.pool.support import Tally


class FileTally(Tally):
    """As :class:`Tally`; it can be pickled, and is the same one wherever it arrives."""

    def __init__(self, path: Path, size: int) -> None:
        self._path, self._size = path, size
        file = os.open(path, os.O_RDWR | os.O_CREAT)
        os.ftruncate(file, size)
        self._map = mmap.mmap(file, size)
        os.close(file)

    def __reduce__(self):
        return FileTally, (self._path, self._size)
