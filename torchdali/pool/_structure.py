"""Results of one structure, stacked: a job's results as one block a leaf, written by the workers straight to their place.

Results that are nested tuples, lists, dicts and named tuples of tensors, arrays and numbers have a structure: how they
are nested, and the type and shape of each leaf. Where all results of a job have the same, leaf k of item i lies at place
i of block k, whichever worker wrote it; so collation is the copy that brings the results to the parent anyway.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

__all__ = ["NotStackable", "Structure", "flatten"]

_INT64 = range(-(2**63), 2**63)
_NUMBERS: dict[type, torch.dtype] = {
    int: torch.int64,
    float: torch.float64,
    bool: torch.bool,
    complex: torch.complex128,
}


class NotStackable(Exception):
    """A value has a leaf that has no place in a block of numbers."""


class Leaf(NamedTuple):
    """What a leaf is."""

    kind: type
    """torch.Tensor, np.ndarray, np.generic, or a Python number's type."""
    dtype: Any
    """torch's or NumPy's; for Python numbers torch's."""
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Of one item."""
        return math.prod(self.shape) * int(self.dtype.itemsize)


def is_plain(tensor: torch.Tensor) -> bool:
    """Whether a tensor is nothing but numbers in CPU memory."""
    return (
        tensor.device.type == "cpu"
        and tensor.layout is torch.strided
        and not (tensor.requires_grad or tensor.is_conj() or tensor.is_neg() or tensor.is_quantized)
    )


def flatten(value: Any, leaves: list[Any]) -> Any:
    """Append the leaves of a value to ``leaves`` and return how it is nested: hashable, leaves being :class:`Leaf`.

    Raises:
        NotStackable: something in it is none of the above, or a number that does not fit in 64 bits.
    """
    cls = type(value)
    if cls is torch.Tensor:
        if not is_plain(value):
            raise NotStackable
        leaves.append(value)
        return Leaf(torch.Tensor, value.dtype, tuple(value.shape))
    if cls is np.ndarray or isinstance(value, np.generic):
        if value.dtype.hasobject or not value.dtype.itemsize:
            raise NotStackable
        leaves.append(value)
        return Leaf(np.ndarray if cls is np.ndarray else np.generic, value.dtype, value.shape)
    if cls in _NUMBERS:
        if cls is int and value not in _INT64:
            raise NotStackable
        leaves.append(value)
        return Leaf(cls, _NUMBERS[cls], ())
    if cls is tuple or cls is list or (isinstance(value, tuple) and hasattr(cls, "_fields")):
        return cls, tuple([flatten(entry, leaves) for entry in value])
    if cls is dict:
        return cls, tuple(value), tuple([flatten(entry, leaves) for entry in value.values()])
    raise NotStackable


def _build(nesting: Any, take: Callable[[], Any]) -> Any:
    if isinstance(nesting, Leaf):
        return take()
    cls = nesting[0]
    if cls is dict:
        return {key: _build(entry, take) for key, entry in zip(nesting[1], nesting[2], strict=True)}
    entries = [_build(entry, take) for entry in nesting[1]]
    return cls(entries) if cls is list or cls is tuple else cls(*entries)


def _leaves(nesting: Any) -> list[Leaf]:
    if isinstance(nesting, Leaf):
        return [nesting]
    return [leaf for entry in nesting[-1] for leaf in _leaves(entry)]


class Structure:
    """How the results of a job are nested, and where their leaves lie."""

    def __init__(self, nesting: Any) -> None:
        self.nesting = nesting
        self.leaves = _leaves(nesting)
        # One leaf and nothing around it is so common, and so often small, that it pays to look at it directly.
        self._single = nesting if isinstance(nesting, Leaf) and nesting.kind is torch.Tensor else None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Structure) and self.nesting == other.nesting

    __hash__ = None  # type: ignore[assignment]  # dtypes with fields are not hashable in all of NumPy's releases

    def match(self, value: Any) -> list[Any] | None:
        """The leaves of a value of this structure; None for any other."""
        leaf = self._single
        if leaf is not None and type(value) is torch.Tensor:
            fits = value.shape == leaf.shape and value.dtype is leaf.dtype and is_plain(value)
            return [value] if fits else None
        leaves: list[Any] = []
        try:
            return leaves if flatten(value, leaves) == self.nesting else None
        except (NotStackable, RecursionError):
            return None

    def offsets(self, items: int, alignment: int) -> tuple[list[int], int]:
        """Where the block of each leaf begins, and the bytes needed in all, for so many items."""
        offsets, end = [], 0
        for leaf in self.leaves:
            offsets.append(end)
            end += -(-leaf.nbytes * items // alignment) * alignment
        return offsets, end

    def write(self, memory: memoryview, offsets: Sequence[int], first: int, values: Sequence[list[Any]]) -> None:
        """Write the leaves of neighbouring items, of which the first is number ``first``, to their places."""
        count = len(values)
        for number, (leaf, offset) in enumerate(zip(self.leaves, offsets, strict=True)):
            if not leaf.nbytes:
                continue
            start = offset + first * leaf.nbytes
            place = memory[start : start + count * leaf.nbytes]
            if leaf.kind is torch.Tensor:
                target = torch.frombuffer(place, dtype=leaf.dtype).view(count, *leaf.shape)
                if count == 1:
                    target[0].copy_(values[0][number])
                else:
                    torch.stack([leaves[number] for leaves in values], out=target)
            else:
                dtype = leaf.dtype if isinstance(leaf.dtype, np.dtype) else _numpy_dtype(leaf.kind)
                array: Any = np.frombuffer(place, dtype).reshape(count, *leaf.shape)
                for position, leaves in enumerate(values):
                    array[position] = leaves[number]

    def blocks(self, memory: Any, offsets: Sequence[int], items: int, copy_below: int) -> list[Any]:
        """For each leaf a tensor or array of shape (items, ...).

        They are views of ``memory``, a uint8 array, or copies of what is smaller than ``copy_below`` bytes.
        """
        found: list[Any] = []
        for leaf, offset in zip(self.leaves, offsets, strict=True):
            piece = memory[offset : offset + leaf.nbytes * items]
            if piece.nbytes < copy_below:
                piece = piece.copy()
            if leaf.kind in (np.ndarray, np.generic):
                found.append(piece.view(leaf.dtype).reshape(items, *leaf.shape))
            elif leaf.nbytes:
                found.append(torch.frombuffer(piece, dtype=leaf.dtype).view(items, *leaf.shape))
            else:
                found.append(torch.empty((items, *leaf.shape), dtype=leaf.dtype))
        return found

    def stack(self, blocks: Sequence[Any]) -> Any:
        """One value of this nesting with blocks for leaves; Python's numbers are tensors in it."""
        return _build(self.nesting, iter(blocks).__next__)

    def item(self, blocks: Sequence[Any], index: int) -> Any:
        """One item as its worker made it."""
        pairs = zip(self.leaves, blocks, strict=True)
        # An ellipsis makes NumPy give an array of no dimensions, where it would give a number.
        leaves = iter(
            [
                block[index].item()
                if leaf.kind in _NUMBERS
                else block[index, ...]
                if leaf.kind is np.ndarray
                else block[index]
                for leaf, block in pairs
            ]
        )
        return _build(self.nesting, leaves.__next__)


def _numpy_dtype(kind: type) -> Any:
    return {int: np.int64, float: np.float64, bool: np.bool_, complex: np.complex128}[kind]
