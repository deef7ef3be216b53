"""Results that are nested alike and differ in shape: the bytes of all of them, and arrays that tell where each lies.

A description of each result costs its reader a call of pickle for each item. Where results are nested alike, with leaves of
one type and number of dimensions each, a job's results are a few arrays instead, whatever the number of items: for each leaf
where its items begin, and their shapes. What is made of them is made when somebody asks for it.
"""

from __future__ import annotations

import functools
import pickle
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from torchdali.pool._arena import Bytes
from torchdali.pool._codec import ALIGNMENT, SMALL
from torchdali.pool._structure import NUMBERS, Leaf, build, flatten, leaves_of

__all__ = ["SMALL_BLOCK", "Column", "Outline", "Ragged", "gather"]

SMALL_BLOCK = 4096
"""Bytes below which a block is copied: a batch's labels, if kept, must not hold the memory of the whole batch."""


class Column(NamedTuple):
    """One leaf of all items of a job."""

    memory: Bytes
    """uint8; it spans the items, and there may be more in it, and between them. A view of it keeps it."""
    offsets: npt.NDArray[np.int64]
    """(N,), where in the memory each item begins, in bytes: for tensors multiples of an element's size."""
    shapes: npt.NDArray[np.int64]
    """(N, d)."""
    dtype: Any
    """torch's type for tensors, else NumPy's."""
    kind: type
    """torch.Tensor, np.ndarray or np.generic."""

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """(N,), the number of elements of each item."""
        counts: npt.NDArray[np.int64] = self.shapes.prod(axis=1, dtype=np.int64)
        return counts

    @property
    def nbytes(self) -> npt.NDArray[np.int64]:
        """(N,), the bytes of each item."""
        return self.counts * int(self.dtype.itemsize)

    def items(self) -> list[Any]:
        """Each item as its worker made it: views of the memory; what is small, and single numbers, are copies."""
        return [
            _item(self.memory[offset : offset + length], Leaf(self.kind, self.dtype, tuple(shape)))
            for offset, length, shape in zip(
                self.offsets.tolist(), self.nbytes.tolist(), self.shapes.tolist(), strict=True
            )
        ]


class Ragged(NamedTuple):
    """All results of a job that are nested alike and differ in shape."""

    value: Any
    """Of the structure of a single one. A leaf is a :class:`Column`; or, where it is small and of one shape in all items, a
    tensor or array of shape (items, ...), as in a :class:`Stacked`."""
    size: int
    """Number of items."""
    nesting: Any
    """How they are nested, and what the leaves are but for their shapes."""

    def items(self) -> list[Any]:
        """The results one by one, as they come without ``stack``."""
        leaves = leaves_of(self.nesting)
        columns = [
            entry.items() if isinstance(entry, Column) else _items_of_block(entry, leaf)
            for entry, leaf in zip(flatten(self.nesting, self.value), leaves, strict=True)
        ]
        return _together(self.nesting, columns, self.size)


def _item(piece: Bytes, leaf: Leaf) -> Any:
    if leaf.kind is torch.Tensor and not piece.nbytes:
        return torch.empty(leaf.shape, dtype=leaf.dtype, device="cpu")
    if piece.nbytes < SMALL or leaf.kind is np.generic:
        piece = piece.copy()
    if leaf.kind in (np.ndarray, np.generic):
        array = piece.view(leaf.dtype).reshape(leaf.shape)
        return array if leaf.kind is np.ndarray else array[()]
    value = torch.frombuffer(piece, dtype=leaf.dtype).view(leaf.shape)
    return value if leaf.kind is torch.Tensor else value.item()


def _items_of_block(block: Any, leaf: Leaf) -> list[Any]:
    if leaf.kind in NUMBERS:
        return list(block.tolist())
    if leaf.kind is torch.Tensor:
        return [part.clone() for part in block.unbind(0)]
    if leaf.kind is np.generic:
        return list(block.copy())
    return [block[index, ...].copy() for index in range(len(block))]  # an ellipsis makes an array also of a number


def _together(nesting: Any, columns: Sequence[list[Any]], size: int) -> list[Any]:
    if not columns:
        return [build(nesting, iter(()).__next__) for _ in range(size)]
    return [build(nesting, iter(row).__next__) for row in zip(*columns, strict=True)]


class Outline:
    """How results are nested, and how a table tells where they lie.

    A table has a row for each item: for each leaf its offset in bytes and its shape, int64.
    """

    def __init__(self, nesting: Any) -> None:
        self.nesting = nesting
        self.leaves = leaves_of(nesting)
        self._width = sum(1 + len(leaf.shape) for leaf in self.leaves)

    @staticmethod
    @functools.lru_cache(maxsize=16)
    def load(packed: bytes) -> Outline:
        """Of a pickled nesting; raises whatever loading it raises."""
        return Outline(pickle.loads(packed))

    def columns(self, table: bytes, bases: npt.NDArray[np.int64] | int, memory: Bytes, size: int) -> list[Column]:
        """The leaves of ``size`` items; ``bases`` is where in the memory the offsets of each item begin."""
        rows = np.frombuffer(table, np.int64).reshape(size, self._width)
        found, place = [], 0
        for leaf in self.leaves:
            after = place + 1 + len(leaf.shape)
            shapes = np.ascontiguousarray(rows[:, place + 1 : after])
            found.append(Column(memory, rows[:, place] + bases, shapes, leaf.dtype, leaf.kind))
            place = after
        return found

    def items(self, table: bytes, memory: Bytes, size: int) -> list[Any]:
        """The items of one run, each as its worker made it."""
        columns = self.columns(table, 0, memory, size)
        return _together(self.nesting, [column.items() for column in columns], size)


def gather(
    outline: Outline,
    tables: Sequence[bytes],
    copies: Sequence[Sequence[bytes | None]],
    bases: npt.NDArray[np.int64],
    root: Bytes,
) -> Ragged:
    """The results of a job.

    Args:
        outline: of all of them.
        tables: of its runs, in order.
        copies: of its runs: for each leaf the bytes of its items one after another, or None.
        bases: where in ``root`` the offsets of each item begin.
        root: the job's slot.
    """
    size = len(bases)
    columns = outline.columns(b"".join(tables), bases, root, size)
    settled = []
    for column, parts in zip(columns, zip(*copies, strict=True), strict=True):
        own = bytearray().join([part for part in parts if part is not None]) if None not in parts else None
        settled.append(_settled(column, None if own is None else np.frombuffer(own, np.uint8)))
    return Ragged(build(outline.nesting, iter(settled).__next__), size, outline.nesting)


def _settled(column: Column, copies: Bytes | None) -> Any:
    """A column as users get it: apart from the job's memory where it is small, or with no more of that than spans it."""
    nbytes = column.nbytes
    total, largest = int(nbytes.sum()), int(nbytes.max())
    memory, offsets, shape = column.memory, column.offsets, column.shapes[0]
    if (total < SMALL_BLOCK or largest < SMALL) and bool((column.shapes == shape).all()):
        return _block(column, _rows(memory, offsets, largest) if copies is None else copies)
    if largest < SMALL:
        if copies is None:
            starts = zip(offsets.tolist(), nbytes.tolist(), strict=True)
            copies = np.concatenate([memory[start : start + length] for start, length in starts])
        return column._replace(memory=copies, offsets=np.cumsum(nbytes) - nbytes)
    present = nbytes > 0
    first = int(offsets[present].min()) // ALIGNMENT * ALIGNMENT
    last = int((offsets + nbytes)[present].max())
    return column._replace(memory=memory[first:last], offsets=np.where(present, offsets - first, 0))


def _block(column: Column, rows: Bytes) -> Any:
    """Items of one shape, one after another, as a tensor or array (N, ...)."""
    shape = len(column.shapes), *column.shapes[0].tolist()
    if column.kind in (np.ndarray, np.generic):
        return rows.view(column.dtype).reshape(shape) if len(rows) else np.empty(shape, column.dtype)
    if not len(rows):
        return torch.empty(shape, dtype=column.dtype, device="cpu")
    return torch.frombuffer(rows, dtype=column.dtype).view(shape)


def _rows(memory: Bytes, offsets: npt.NDArray[np.int64], nbytes: int) -> Bytes:
    """Copies of items of one size, one after another."""
    windows: Bytes = np.ndarray((len(memory) - nbytes + 1, nbytes), np.uint8, memory, strides=(1, 1))
    return windows[offsets].reshape(-1)
