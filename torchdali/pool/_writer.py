"""Writing a run's results to their places, in a worker: each as soon as it is there.

At once, because the next call may change it: a function may return the same buffer each time. And because it is then still
in the processor's cache.
"""

from __future__ import annotations

import array
import os
import threading
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from torchdali.pool._channel import memory_file, write_file
from torchdali.pool._codec import ALIGNMENT, aligned, dumps, encode
from torchdali.pool._memory import Memory
from torchdali.pool._ragged import Outline
from torchdali.pool._structure import (
    Gather,
    Leaf,
    Structure,
    flatten,
    gatherer,
    leaves_of,
    nesting_of,
    outline_of,
)

__all__ = ["DescribedRun", "KnownOutline", "RaggedRun", "Region", "StackedRun"]

_COPIED = 64
"""Bytes up to which a piece is also sent with the table: to read labels that lie among images is a page of memory each."""


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
        self._lent = False
        self.end = 0
        """Bytes of all that was placed, those in the file included."""

    def allocate(self, nbytes: int) -> memoryview | None:
        """Memory in the region, for a function that makes its results there; None if there is none left."""
        start = self._take(nbytes)
        if start is None:
            return None
        self._lent = True
        return self._at(start, nbytes)

    def _take(self, nbytes: int) -> int | None:
        with self._lock:  # a function may have threads
            start, end = self.end, self.end + aligned(nbytes)
            if end > self._capacity or self.file is not None:
                return None
            self.end = self._given = end
        return start

    def _at(self, start: int, nbytes: int) -> memoryview:
        return self.bytes[self._offset + start : self._offset + start + nbytes]

    def place(self, piece: memoryview) -> tuple[int, int]:
        """Put a piece to its place, if it is not there already; returns (offset, length)."""
        start = self._find(int(np.frombuffer(piece, np.uint8).ctypes.data), piece.nbytes) if self._given else None
        if start is None:
            start = self._take(piece.nbytes)
            if start is not None:
                self._at(start, piece.nbytes)[:] = piece
            else:
                if self.file is None:
                    self.file = memory_file(0)
                start = self.end
                write_file(self.file, piece, start)
                self.end += aligned(piece.nbytes)
        return start, piece.nbytes

    def place_array(self, values: npt.NDArray[Any]) -> int | None:
        """Put an array's elements to their place, in the order of its dimensions; returns the offset.

        None, and nothing is placed, if there is no room left.
        """
        if self._lent and values.flags.c_contiguous:
            start = self._find(int(values.ctypes.data), values.nbytes)
            if start is not None and start % values.itemsize == 0:
                return start
        start = self._take(values.nbytes)
        if start is not None:
            np.frombuffer(self._at(start, values.nbytes), values.dtype).reshape(values.shape)[...] = values
        return start

    def view(self) -> npt.NDArray[np.uint8]:
        """All that was given out."""
        return np.frombuffer(self._at(0, self._given), np.uint8)

    def _find(self, address: int, nbytes: int) -> int | None:
        start = address - self._address - self._offset
        return start if start >= 0 and start + nbytes <= self._given else None

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
        return _packed(self._nesting) if self._uniform and self.described else None


def _packed(nesting: Any) -> bytes | None:
    try:
        return dumps(nesting)
    except Exception:  # a class of the user's that cannot be pickled
        return None


class KnownOutline(NamedTuple):
    """What results were before."""

    outline: Any
    packed: bytes
    gather: Gather


class RaggedRun:
    """Results that are nested alike and differ at most in shape: their bytes in the region, and a table of where.

    From the first that is not like the ones before, or has no room, they are described instead, all of them.

    Args:
        region: begun for this run.
        outlines: of runs before, so that one is not pickled each time: the last is kept in it.
    """

    def __init__(self, region: Region, outlines: list[KnownOutline]) -> None:
        self._region = region
        self._outlines = outlines
        self._outline: Any = None
        self._packed = b""
        self._leaves: list[Leaf] = []
        self._gather: Gather | None = None
        self._nesting: Any = None
        """Of the first."""
        self._shapes: list[tuple[int, ...]] = []
        """Of its leaves."""
        self._numbers: list[int] = []
        """Positions of leaves that are no arrays yet."""
        self._uniform = True
        self._table = array.array("q")
        self._copies: list[bytearray | None] = []
        self._size = 0
        self._others: DescribedRun | None = None

    @property
    def described(self) -> list[tuple[bytes, list[tuple[int, int]]]] | None:
        """As of a described run, if it has become one."""
        return None if self._others is None else self._others.described

    def table(self) -> tuple[bytes, bytes, list[bytes | None]]:
        """The pickled outline, and the bytes of the table, see :class:`~torchdali.pool._ragged.Outline`.

        And for each leaf the bytes of all items together, where each is small.
        """
        copies = [None if copy is None else bytes(copy) for copy in self._copies]
        return self._packed, self._table.tobytes(), copies

    def add(self, value: object) -> None:
        """Take the next result.

        Raises:
            whatever pickling it raises; nothing was added then.
        """
        if self._others is None and not self._note(value):
            self._describe()
        if self._others is not None:
            self._others.add(value)

    def structure(self) -> bytes | None:
        """How all results are nested, pickled, if they also agree in shape and it can be."""
        if self._others is not None:
            return self._others.structure()
        return _packed(self._nesting) if self._uniform and self._size else None

    def _note(self, value: object) -> bool:
        try:
            if self._gather is None:
                self._begin(value)
            assert self._gather is not None
            arrays: list[npt.NDArray[Any]] = []
            if not self._gather(value, arrays):
                return False
            if len(arrays) > 1 and _repeats(flatten(self._outline, value)):
                return False
            for number in self._numbers:
                arrays[number] = np.asarray(arrays[number], self._leaves[number].array_dtype)
        except Exception:  # not of that kind, or a class of the user's that cannot be looked at
            return False
        row: list[int] = []
        for values in arrays:
            if not values.flags.c_contiguous and _is_permuted(values):
                return False
            start = self._region.place_array(values) if values.nbytes else 0
            if start is None:
                return False
            row += [start, *values.shape]
        self._table.extend(row)
        self._copy(arrays)
        shapes = [values.shape for values in arrays]
        self._uniform = self._uniform and shapes == self._shapes
        self._size += 1
        return True

    def _copy(self, arrays: list[npt.NDArray[Any]]) -> None:
        if not self._size:
            self._copies = [bytearray() for _ in arrays]
        for number, values in enumerate(arrays):
            copy = self._copies[number]
            if copy is not None:
                if values.nbytes <= _COPIED:
                    copy += values.tobytes()
                else:
                    self._copies[number] = None

    def _begin(self, value: object) -> None:
        """See what the first is, as which the others have to be."""
        self._nesting = nesting_of(value)
        outline = outline_of(self._nesting)
        if not self._outlines or self._outlines[0].outline != outline:
            self._outlines[:] = [KnownOutline(outline, dumps(outline), gatherer(outline, any_shape=True))]
        self._outline, self._packed, self._gather = self._outlines[0]
        self._leaves = leaves_of(outline)
        self._shapes = [leaf.shape for leaf in leaves_of(self._nesting)]
        self._numbers = [n for n, leaf in enumerate(self._leaves) if leaf.kind not in (torch.Tensor, np.ndarray)]

    def _describe(self) -> None:
        others = DescribedRun(self._region, stack=True)
        if self._size:
            for value in Outline(self._outline).items(self._table.tobytes(), self._region.view(), self._size):
                others.add(value)  # its pieces lie in the region already
        self._others = others


def _repeats(parts: list[Any]) -> bool:
    """Whether something is there twice; a description would make one of it again."""
    held = [id(part) for part in parts if isinstance(part, (torch.Tensor, np.ndarray))]
    return len(held) > 1 and len(set(held)) < len(held)


def _is_permuted(values: npt.NDArray[Any]) -> bool:
    """Whether there are no gaps, but another order of dimensions, which a description would keep."""
    outwards = sorted(range(values.ndim), key=lambda dimension: -values.strides[dimension])
    return bool(values.transpose(outwards).flags.c_contiguous)


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
