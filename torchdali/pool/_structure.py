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
import numpy.typing as npt
import torch

__all__ = [
    "NUMBERS",
    "Leaf",
    "NotStackable",
    "Structure",
    "build",
    "flatten",
    "gatherer",
    "leaves_of",
    "nesting_of",
    "outline_of",
]

_INT64 = range(-(2**63), 2**63)
_KEYS = (str, int, bool, bytes)
NUMBERS: dict[type, torch.dtype] = {
    int: torch.int64,
    float: torch.float64,
    bool: torch.bool,
    complex: torch.complex128,
}

_SHARED = {
    dtype: torch.empty(0, dtype=dtype, device="cpu").numpy().dtype
    for dtype in (
        torch.bool,
        torch.uint8,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
        torch.float16,
        torch.float32,
        torch.float64,
        torch.complex64,
        torch.complex128,
    )
}
"""Types of numbers that torch and NumPy both have."""

_MOST_DIMENSIONS = 31
"""One less than NumPy before 2.0 has."""

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


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

    def array(self, value: Any) -> npt.NDArray[Any]:
        """A value that is such a leaf as an array of :attr:`array_dtype`, which shares its memory where it has some."""
        if self.kind is not torch.Tensor:
            return np.asarray(value, self.array_dtype)
        if self.dtype in _SHARED:
            array: npt.NDArray[Any] = value.numpy()
            return array
        return np.asarray(value.view(_BITS[self.dtype.itemsize]).numpy())

    @property
    def array_dtype(self) -> Any:
        """NumPy's type for its memory: where NumPy has no such numbers, bits of that size."""
        if isinstance(self.dtype, torch.dtype):
            return _SHARED.get(self.dtype) or f"i{self.dtype.itemsize}"
        return self.dtype


def is_plain(tensor: torch.Tensor) -> bool:
    """Whether a tensor is nothing but numbers in CPU memory."""
    return (
        tensor.device.type == "cpu"
        and tensor.layout is torch.strided
        and not (tensor.is_nested or tensor.requires_grad or tensor.is_conj() or tensor.is_neg() or tensor.is_quantized)
    )


def nesting_of(value: Any) -> Any:
    """How a value is nested: tuples all the way down to the leaves, which are each a :class:`Leaf`.

    Raises:
        NotStackable: something in it is none of the above, or a number that does not fit in 64 bits.
    """
    cls = type(value)
    if cls is torch.Tensor:
        if not is_plain(value) or value.dim() > _MOST_DIMENSIONS:
            raise NotStackable
        return Leaf(torch.Tensor, value.dtype, tuple(value.shape))
    if cls is np.ndarray or isinstance(value, np.generic):
        if value.dtype.hasobject or not value.dtype.itemsize or value.ndim > _MOST_DIMENSIONS:
            raise NotStackable
        return Leaf(np.ndarray if cls is np.ndarray else np.generic, value.dtype, value.shape)
    if cls in NUMBERS:
        if cls is int and value not in _INT64:
            raise NotStackable
        return Leaf(cls, NUMBERS[cls], ())
    if cls is tuple or cls is list or _is_named_tuple(cls):
        return cls, tuple([nesting_of(entry) for entry in value])
    if cls is dict:
        if any(type(key) not in _KEYS for key in value):
            raise NotStackable
        # With their types, as 1 and True are equal.
        keys = tuple([(type(key), key) for key in value])
        return cls, keys, tuple([nesting_of(entry) for entry in value.values()])
    raise NotStackable


def _is_named_tuple(cls: type) -> bool:
    """Whether a class is what ``namedtuple`` makes; one derived from that can have a constructor of its own."""
    return cls.__bases__ == (tuple,) and hasattr(cls, "_fields")


def outline_of(nesting: Any) -> Any:
    """The same with shapes of which only the number of dimensions is told: each length is -1."""
    if isinstance(nesting, Leaf):
        return Leaf(nesting.kind, nesting.dtype, (-1,) * len(nesting.shape))
    return *nesting[:-1], tuple([outline_of(entry) for entry in nesting[-1]])


def build(nesting: Any, take: Callable[[], Any]) -> Any:
    """A value of this nesting, with what ``take`` gives for leaves."""
    if isinstance(nesting, Leaf):
        return take()
    cls = nesting[0]
    if cls is dict:
        return {key: build(entry, take) for (_, key), entry in zip(nesting[1], nesting[2], strict=True)}
    entries = [build(entry, take) for entry in nesting[1]]
    return cls(entries) if cls is list or cls is tuple else cls._make(entries)


def leaves_of(nesting: Any) -> list[Leaf]:
    """What its leaves are, in order."""
    if isinstance(nesting, Leaf):
        return [nesting]
    return [leaf for entry in nesting[-1] for leaf in leaves_of(entry)]


def flatten(nesting: Any, value: Any) -> list[Any]:
    """The leaves of a value of this nesting, in order."""
    if isinstance(nesting, Leaf):
        return [value]
    entries = value.values() if nesting[0] is dict else value
    return [leaf for entry, part in zip(nesting[-1], entries, strict=True) for leaf in flatten(entry, part)]


Gather = Callable[[Any, list[Any]], bool]
"""Appends the leaves of a value as NumPy arrays or numbers; False if the value has not the structure."""


def _gather_tensor(leaf: Leaf, *, any_shape: bool) -> Gather:
    dtype, shape, dim = leaf.dtype, leaf.shape, len(leaf.shape)
    shared = _SHARED.get(dtype)
    bits = _BITS.get(dtype.itemsize, torch.uint8)

    def gather(value: Any, arrays: list[Any]) -> bool:
        if type(value) is not torch.Tensor:
            return False
        try:
            array = value.numpy()  # refuses all that is not plain, and costs less than asking
        except (RuntimeError, TypeError):
            return False
        if array.dtype is not shared or (array.ndim != dim if any_shape else array.shape != shape):
            return False
        arrays.append(array)
        return True

    def gather_bits(value: Any, arrays: list[Any]) -> bool:
        if type(value) is not torch.Tensor or value.dtype is not dtype or not is_plain(value):
            return False
        if value.dim() != dim if any_shape else value.shape != shape:
            return False
        arrays.append(value.view(bits).numpy() if any_shape else value.contiguous().view(bits).numpy())
        return True

    return gather if shared is not None else gather_bits


def _gather_leaf(leaf: Leaf, *, any_shape: bool) -> Gather:
    kind, dtype, shape = leaf
    dim = len(shape)
    if kind is torch.Tensor:
        return _gather_tensor(leaf, any_shape=any_shape)

    def gather_array(value: Any, arrays: list[Any]) -> bool:
        if type(value) is not np.ndarray or value.dtype != dtype:
            return False
        if value.ndim != dim if any_shape else value.shape != shape:
            return False
        arrays.append(value)
        return True

    def gather_scalar(value: Any, arrays: list[Any]) -> bool:
        if not isinstance(value, np.generic) or value.dtype != dtype:
            return False
        arrays.append(value)
        return True

    def gather_number(value: Any, arrays: list[Any]) -> bool:
        if type(value) is not kind or (kind is int and value not in _INT64):
            return False
        arrays.append(value)
        return True

    return gather_array if kind is np.ndarray else gather_scalar if kind is np.generic else gather_number


def gatherer(nesting: Any, *, any_shape: bool = False) -> Gather:
    """Looks at a value as :func:`nesting_of` does, for one nesting that is known, which is several times as fast.

    Args:
        nesting: that one.
        any_shape: leaves may have any lengths in as many dimensions; it is an outline then.
    """
    if isinstance(nesting, Leaf):
        return _gather_leaf(nesting, any_shape=any_shape)
    cls, entries = nesting[0], [gatherer(entry, any_shape=any_shape) for entry in nesting[-1]]
    keys = nesting[1] if cls is dict else None

    def gather(value: Any, arrays: list[Any]) -> bool:
        if type(value) is not cls or len(value) != len(entries):
            return False
        if keys is not None:
            if tuple([(type(key), key) for key in value]) != keys:
                return False
            value = value.values()
        return all(entry(part, arrays) for entry, part in zip(entries, value, strict=True))

    return gather


class Structure:
    """How the results of a job are nested, and where their leaves lie."""

    def __init__(self, nesting: Any) -> None:
        self.nesting = nesting
        self.leaves = leaves_of(nesting)
        self._gather = gatherer(nesting)

    def offsets(self, items: int, alignment: int) -> tuple[list[int], int]:
        """Where the block of each leaf begins, and the bytes needed in all, for so many items."""
        offsets, end = [], 0
        for leaf in self.leaves:
            offsets.append(end)
            end += -(-leaf.nbytes * items // alignment) * alignment
        return offsets, end

    def places(self, memory: memoryview, offsets: Sequence[int], first: int, items: int) -> list[Any]:
        """For each leaf the places of ``items`` items in its block, the first of which is number ``first``: to assign to."""
        found: list[Any] = []
        for leaf, offset in zip(self.leaves, offsets, strict=True):
            start = offset + first * leaf.nbytes
            place = memory[start : start + items * leaf.nbytes]
            array: Any = np.frombuffer(place, leaf.array_dtype) if leaf.nbytes else np.empty(0, leaf.array_dtype)
            found.append(array.reshape(items, *leaf.shape))
        return found

    def write(self, places: Sequence[Any], position: int, value: Any) -> bool:
        """Copy a value's leaves to their places; False, and nothing is written, if it is of another structure."""
        arrays: list[Any] = []
        if not self._gather(value, arrays):
            return False
        for place, array in zip(places, arrays, strict=True):
            place[position] = array
        return True

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
                found.append(torch.empty((items, *leaf.shape), dtype=leaf.dtype, device="cpu"))
        return found

    def stack(self, blocks: Sequence[Any]) -> Any:
        """One value of this nesting with blocks for leaves; Python's numbers are tensors in it."""
        return build(self.nesting, iter(blocks).__next__)

    def item(self, blocks: Sequence[Any], index: int, copy_below: int) -> Any:
        """One item as its worker made it; leaves smaller than ``copy_below`` bytes are copies."""
        leaves = []
        for leaf, block in zip(self.leaves, blocks, strict=True):
            if leaf.kind in NUMBERS:
                leaves.append(block[index].item())
            elif leaf.kind is np.ndarray:
                value = block[index, ...]  # an ellipsis makes it an array also where it has no dimensions
                leaves.append(value.copy() if leaf.nbytes < copy_below else value)
            elif leaf.kind is np.generic:
                leaves.append(block[index])
            else:
                leaves.append(block[index].clone() if leaf.nbytes < copy_below else block[index])
        return build(self.nesting, iter(leaves).__next__)
