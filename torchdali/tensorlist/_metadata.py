"""Where the samples of a batch lie, as NumPy arrays: shapes, strides, addresses and orders of dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

__all__ = [
    "Integers",
    "Order",
    "as_offsets",
    "as_shapes",
    "common_order",
    "counts_of",
    "dense_strides",
    "pointers_of",
    "positions_of",
    "rows_of",
    "shapes_of",
    "strides_of",
]

Integers: TypeAlias = npt.NDArray[np.int64]
Order: TypeAlias = tuple[int, ...]
"""Dimensions from the slowest to the fastest in memory."""


def rows_of(row: Sequence[int], count: int) -> Integers:
    """The same row ``count`` times, (count, d)."""
    rows = np.empty((count, len(row)), np.int64)
    rows[:] = row
    return rows


def shapes_of(tensors: Sequence[torch.Tensor]) -> Integers:
    """The shapes of tensors, (N, d).

    Raises:
        ValueError: the numbers of dimensions differ.
    """
    shapes = [tensor.shape for tensor in tensors]
    dims = set(map(len, shapes))
    if len(dims) > 1:
        other = next(index for index, shape in enumerate(shapes) if len(shape) != len(shapes[0]))
        raise ValueError(
            f"the samples have different numbers of dimensions: sample 0 has shape {tuple(shapes[0])}, sample {other} has "
            f"{tuple(shapes[other])}; this needs samples that differ at most in size"
        )
    dim = dims.pop() if dims else 0
    return np.fromiter(chain.from_iterable(shapes), np.int64, len(shapes) * dim).reshape(len(shapes), dim)


def strides_of(tensors: Sequence[torch.Tensor], shapes: Integers) -> Integers:
    """The strides of tensors of these shapes, in elements, (N, d)."""
    if all(map(torch.Tensor.is_contiguous, tensors)):  # to ask that is cheaper than to ask for strides
        return dense_strides(shapes, None)
    strides = chain.from_iterable(map(torch.Tensor.stride, tensors))
    return np.fromiter(strides, np.int64, shapes.size).reshape(shapes.shape)


def pointers_of(tensors: Sequence[torch.Tensor]) -> Integers:
    """The address of the first element of each tensor, (N,)."""
    return np.fromiter(map(torch.Tensor.data_ptr, tensors), np.int64, len(tensors))


def counts_of(shapes: Integers) -> Integers:
    """The number of elements of each shape, (N,)."""
    counts: Integers = shapes.prod(axis=1, dtype=np.int64)
    return counts


def overlap(offsets: Integers, counts: Integers) -> bool:
    """Whether samples that begin at these places of one memory and have so many elements without gaps share any."""
    order = np.argsort(offsets, kind="stable")
    begins, ends = offsets[order], (offsets + counts)[order]
    return bool((begins[1:] < ends[:-1]).any())


def dense_strides(shapes: Integers, order: Order | None) -> Integers:
    """Strides in elements, (N, d), of samples without gaps whose dimensions lie in memory in this order."""
    count, dim = shapes.shape
    ordered = shapes if order is None else shapes[:, order]
    strides = np.ones((count, dim), np.int64)
    if dim > 1:
        np.cumprod(np.maximum(ordered[:, :0:-1], 1), axis=1, out=strides[:, -2::-1])
    if order is None:
        return strides
    result = np.empty_like(strides)
    result[:, order] = strides
    return result


def common_order(shapes: Integers, strides: Integers) -> Order | None:
    """The order in which the dimensions of all samples lie in memory without gaps; None where there is no such order.

    Dimensions of size 1 or 0 fit any order. The order of the dimensions themselves is preferred.
    """
    count, dim = shapes.shape
    identity = tuple(range(dim))
    if count == 0 or dim < 2:
        wide = dim == 1 and bool(((strides[:, 0] != 1) & (shapes[:, 0] > 1)).any())
        return None if wide else identity
    telling = int((shapes > 1).sum(axis=1).argmax())
    by_stride = sorted(
        identity, key=lambda axis: (int(strides[telling, axis]), int(shapes[telling, axis])), reverse=True
    )
    for order in dict.fromkeys((identity, tuple(by_stride))):
        free = (shapes <= 1) | (shapes == 0).any(axis=1, keepdims=True)
        if bool(((dense_strides(shapes, order) == strides) | free).all()):
            return order
    return None


def as_shapes(shapes: Any, dim: int) -> Integers:
    """What a caller gave as shapes, as an array (N, d).

    Args:
        shapes: N sequences of the same length, or an array.
        dim: number of dimensions of an empty list.

    Raises:
        TypeError: they are no integers.
        ValueError: the lengths differ, or a size is negative.
    """
    if isinstance(shapes, torch.Tensor):
        shapes = shapes.cpu().numpy()
    elif not isinstance(shapes, np.ndarray):
        shapes = [tuple(shape) for shape in shapes]
        lengths = sorted({len(shape) for shape in shapes})
        if len(lengths) > 1:
            raise ValueError(f"the shapes have {lengths} dimensions; samples in one buffer have the same number")
        dim = lengths[0] if lengths else dim
        shapes = np.array(shapes).reshape(len(shapes), dim) if dim else np.empty((len(shapes), 0), np.int64)
    if shapes.ndim != 2:
        raise ValueError(f"shapes has {shapes.ndim} dimensions; it has a row for each sample: (N, d)")
    if shapes.size and shapes.dtype.kind not in "iu":
        raise TypeError(f"shapes has type {shapes.dtype}; sizes are integers")
    result: Integers = shapes.astype(np.int64)
    if result.size and result.min() < 0:
        bad = int((result < 0).any(axis=1).argmax())
        raise ValueError(f"sample {bad} has shape {tuple(result[bad].tolist())}; a size is not negative")
    return result


def as_offsets(offsets: Any, counts: Integers, length: int) -> Integers:
    """Where samples begin in a buffer, (N,), as a caller gave it; None: each where the one before ends.

    Args:
        offsets: N integers, in elements.
        counts: elements of each sample.
        length: of the buffer.

    Raises:
        TypeError: they are no integers.
        ValueError: there is another number of them, or a sample does not lie within the buffer.
    """
    starts = np.cumsum(counts) - counts if offsets is None else np.asarray(offsets)
    if starts.size and starts.dtype.kind not in "iu":
        raise TypeError(f"offsets has type {starts.dtype}; they are integers, in elements")
    starts = starts.astype(np.int64)
    if starts.shape != counts.shape:
        raise ValueError(f"offsets has shape {starts.shape}; there are {len(counts)} samples")
    outside = (starts < 0) | (starts + counts > length)
    if outside.any():
        bad = int(outside.argmax())
        raise ValueError(
            f"sample {bad}, {counts[bad]} elements from {starts[bad]} on, does not lie within the buffer of {length} elements"
        )
    return starts


def positions_of(index: Any, count: int) -> Integers:
    """The samples that a list, an array, a tensor or a mask names, as numbers from 0 on, (n,).

    Raises:
        IndexError: there is no such sample, or a mask has another length than the batch.
        TypeError: they are neither integers nor a mask.
    """
    values = index.detach().cpu().numpy() if isinstance(index, torch.Tensor) else np.asarray(index)
    if values.ndim != 1:
        raise TypeError(
            f"a TensorList is indexed by one number for each sample wanted, not by an array of shape {values.shape}"
        )
    if values.dtype == np.bool_:
        if len(values) != count:
            raise IndexError(f"the mask has {len(values)} entries, the batch has {count} samples")
        return np.flatnonzero(values).astype(np.int64)
    if len(values) == 0:
        return np.empty(0, np.int64)
    if values.dtype.kind not in "iu":
        raise TypeError(f"a TensorList is indexed by integers or by a mask, not by {values.dtype}")
    positions = values.astype(np.int64)
    bad = (positions < -count) | (positions >= count)
    if bad.any():
        raise IndexError(f"sample {positions[bad][0]} is wanted of a batch of {count}; they are counted from 0")
    return np.where(positions < 0, positions + count, positions)
