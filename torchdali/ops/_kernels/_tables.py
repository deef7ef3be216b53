"""The tables that tell a kernel of its images, row by row.

Images of three channels have a row each. Of others each channel has one, as if it were an image.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from torchdali.ops._groups import EXTENT, Group
from torchdali.ops._steps import Sizes
from torchdali.tensorlist import TensorList

__all__ = [
    "Memory",
    "Rows",
    "blocks_of",
    "colour_table",
    "memory_of",
    "new_memory",
    "packed_strides",
    "rows_of",
    "within_reach",
]

Integers = npt.NDArray[np.int64]

_ALIGNMENT = 16
_COLOUR = 12


class Memory(NamedTuple):
    """Where images are, as views of shape (C, H, W)."""

    pointers: Integers
    """(N,): addresses in bytes."""
    strides: Integers
    """(N, 3): in elements."""
    itemsize: int
    flat: torch.Tensor | None = None
    offsets: Integers | None = None
    """(N,): in the buffer, in elements."""


class Rows(NamedTuple):
    """What the rows of a table stand for."""

    image: Integers
    """(R,): the image."""
    channel: Integers
    """(R,): its first channel."""
    channels: int
    """1 or 3: how many of them."""

    def pointers(self, memory: Memory) -> Integers:
        """(R,): where they begin."""
        pointers: Integers = (
            memory.pointers[self.image] + self.channel * memory.strides[self.image, 0] * memory.itemsize
        )
        return pointers

    def strides(self, memory: Memory) -> Integers:
        """(R, 3): their strides."""
        strides: Integers = memory.strides[self.image]
        return strides

    def values(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """(R, channels): values that are given for images and channels, as (N or 1, C or 1)."""
        of_image = array[self.image] if len(array) > 1 else np.repeat(array, len(self.image), 0)
        if self.channels == 3:
            return np.broadcast_to(of_image, (len(self.image), 3))
        if of_image.shape[1] == 1:
            return of_image
        return np.take_along_axis(of_image, self.channel[:, None], 1)


def memory_of(images: TensorList) -> Memory:
    """Of existing images, whatever their layout."""
    strides = images.strides[:, [2, 0, 1]] if images.layout == "HWC" else images.strides
    return Memory(images.pointers, strides, images.dtype.itemsize)


def within_reach(images: TensorList) -> TensorList:
    """The images; copied, if one is a part of so much memory that kernels would not reach its end from its beginning."""
    if int(((images.sizes - 1) * images.strides).sum(1).max()) < EXTENT:
        return images
    return TensorList([image.contiguous() for image in images], images.layout)


def packed_strides(sizes: Sizes, *, interleaved: bool) -> Integers:
    """(N, 3): strides c, h, w of images without gaps, channel by channel or pixel by pixel."""
    channels, height, width = sizes.T
    one = np.ones_like(width)
    if interleaved:
        return np.stack([one, width * channels, channels], 1)
    return np.stack([height * width, width, one], 1)


def new_memory(sizes: Sizes, dtype: torch.dtype, device: torch.device, *, interleaved: bool) -> Memory:
    """Room for images in one buffer: planes one after the other, or channels side by side.

    Where all sizes agree they lie close together, as a tensor; else each begins at a multiple of 16 elements.
    """
    counts = sizes.prod(1)
    if not (sizes == sizes[:1]).all():
        counts = -(-counts // _ALIGNMENT) * _ALIGNMENT
    ends = np.cumsum(counts)
    offsets = ends - counts
    strides = packed_strides(sizes, interleaved=interleaved)
    flat = torch.empty(int(ends[-1]), dtype=dtype, device=device)
    return Memory(flat.data_ptr() + offsets * dtype.itemsize, strides, dtype.itemsize, flat, offsets)


def rows_of(sizes: Sizes) -> Rows:
    """Rows for images of these sizes."""
    count = len(sizes)
    if (sizes[:, 0] == 3).all():
        return Rows(np.arange(count), np.zeros(count, np.int64), 3)
    channels = sizes[:, 0]
    image = np.repeat(np.arange(count), channels)
    return Rows(image, np.arange(len(image)) - np.repeat(np.cumsum(channels) - channels, channels), 1)


def blocks_of(counts: Integers) -> tuple[npt.NDArray[np.int32], Integers]:
    """For rows that have so many blocks: the row of each block, and the first block of each row."""
    ends = np.cumsum(counts)
    return np.repeat(np.arange(len(counts), dtype=np.int32), counts), ends - counts


def colour_table(group: Group, rows: Rows, dtype: npt.DTypeLike = np.float32) -> tuple[npt.NDArray[Any], list[int]]:
    """Parameters of up to three changes of colour, (R, 36), and the kind of each.

    Kinds: 0 none, 1 by channel, 2 by matrix, 4 by channel in the terms of the definition, which is what float64 gets.
    """
    table = np.zeros((len(rows.image), 3 * _COLOUR), dtype)
    kinds = [0, 0, 0]
    for number, colour in enumerate(group.colours):
        part = table[:, number * _COLOUR : (number + 1) * _COLOUR]
        if colour.matrix.ndim == 3:
            kinds[number] = 2
            part[:, :9] = colour.matrix.reshape(-1, 9)[rows.image]
            part[:, 9:] = colour.offset[rows.image]
            continue
        if dtype == np.float64:
            kinds[number] = 4
            for term, values in enumerate(np.moveaxis(colour.terms, -1, 0)):
                part[:, term : 4 * rows.channels : 4] = rows.values(values.reshape(len(values), -1))
            continue
        kinds[number] = 1
        matrix, offset = (array.reshape(len(array), -1) for array in (colour.matrix, colour.offset))
        part[:, 0 : 4 * rows.channels : 4] = rows.values(matrix)
        part[:, 9 : 9 + rows.channels] = rows.values(offset)
    return table, kinds
