"""Files on their way to an engine: copied to pinned memory, with a height in their headers that may be less than the image's.

From pinned memory nvJPEG's copies to the device need nobody's attention; of other memory the driver makes such a copy itself,
piece by piece, while threads that use the same GPU wait for it.

JPEGs are decoded from the top to the bottom, and what an engine takes for an image costs by the bytes that it has to get
through: a height that ends with the rows of a crop spares it the rest. Rows of an engine do not depend on those below.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from torchdali.ops._device import current

__all__ = ["Staged", "needed_rows", "pieces_of"]

Integers: TypeAlias = npt.NDArray[np.int64]

_GAP = 1 << 16
"""Bytes between two files that are copied too, for fewer copies."""


def needed_rows(heights: Integers, ends: Integers, steps: Integers, least: int) -> Integers:
    """How many rows of each image are to be decoded.

    Args:
        heights: of the images.
        ends: rows of which something is wanted, from the first on.
        steps: an image's rows come so many at a time: those of an MCU; 0: its height has to stay.
        least: fewer are not decoded.
    """
    step = np.maximum(steps, 1)
    rows = -(-np.maximum(ends, least) // step) * step
    result: Integers = np.where(steps > 0, np.minimum(rows, heights), heights)
    return result


def pieces_of(starts: Integers, lengths: Integers) -> tuple[list[tuple[int, int]], Integers]:
    """What is to be copied of a buffer in which files lie.

    Args:
        starts, lengths: of the files, at least one.

    Returns:
        From where to where there are files, with small gaps between them; and where each begins if just these pieces are
        put together.
    """
    order = np.argsort(starts, kind="stable")
    begin, end = starts[order], np.maximum.accumulate((starts + lengths)[order])
    apart = np.flatnonzero(begin[1:] - end[:-1] > _GAP)
    begins, ends = begin[np.append(0, apart + 1)], end[np.append(apart, len(order) - 1)]
    piece = np.searchsorted(begins, starts, side="right") - 1
    before = np.cumsum(ends - begins) - (ends - begins)
    places: Integers = starts - begins[piece] + before[piece]
    return list(zip(begins.tolist(), ends.tolist(), strict=True)), places


class Staged:
    """Copies of files.

    Args:
        flat: one-dimensional uint8 buffer in CPU memory, in which they lie.
        starts, lengths: of the files in it.
        device: for which the copies are pinned, if it has CUDA.

    Attributes:
        addresses: of the copies.
    """

    def __init__(self, flat: torch.Tensor, starts: Integers, lengths: Integers, device: torch.device) -> None:
        pieces, self._places = pieces_of(starts, lengths)
        memory = _memory(sum(end - begin for begin, end in pieces), device)
        self._memory = memory  # as long as somebody reads there
        self._bytes = memory.numpy()
        source, place = flat.numpy(), 0
        for begin, end in pieces:
            np.copyto(self._bytes[place : place + end - begin], source[begin:end])  # others may run meanwhile
            place += end - begin
        self.addresses = memory.data_ptr() + self._places

    def set_heights(self, which: Integers, offsets: Integers, heights: Integers) -> None:
        """Write other heights into headers.

        Args:
            which: files, by their number.
            offsets: where in these the height is, two bytes, the higher one first.
            heights: below 2**16.
        """
        places = self._places[which] + offsets
        self._bytes[places] = heights >> 8
        self._bytes[places + 1] = heights & 0xFF


def _memory(nbytes: int, device: torch.device) -> torch.Tensor:
    if device.type == "cuda":
        try:
            with current(device):
                return torch.empty(nbytes, dtype=torch.uint8, device="cpu", pin_memory=True)
        except RuntimeError:  # no more can be pinned: copies are slower, no more
            pass
    return torch.empty(nbytes, dtype=torch.uint8, device="cpu")
