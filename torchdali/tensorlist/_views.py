"""Samples that lie somewhere in one or more pieces of memory, as tensors that are made when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from torchdali.tensorlist._metadata import Integers

__all__ = ["Views"]


class Views(NamedTuple):
    """Where the first elements of N samples are."""

    bases: Sequence[torch.Tensor]
    """Tensors of one type on one device, which hold the memory."""
    base: Integers
    """Which of them a sample lies in, (N,)."""
    starts: Integers
    """Where, in elements from that tensor's first, (N,)."""

    def pointers(self) -> Integers:
        """The address of each sample's first element, (N,)."""
        addresses = np.array([base.data_ptr() for base in self.bases], np.int64)
        pointers: Integers = addresses[self.base] + self.starts * self.bases[0].element_size()
        return pointers

    def one(self, position: int, shape: Sequence[int], strides: Sequence[int]) -> torch.Tensor:
        """The tensor of a sample."""
        base = self.bases[self.base[position]]
        return torch.as_strided(base, shape, strides, base.storage_offset() + int(self.starts[position]))

    def all(self, shapes: Integers, strides: Integers) -> list[torch.Tensor]:
        """The tensors of all samples."""
        begins = np.array([base.storage_offset() for base in self.bases], np.int64)[self.base] + self.starts
        rows = zip(self.base.tolist(), shapes.tolist(), strides.tolist(), begins.tolist(), strict=True)
        return [torch.as_strided(self.bases[base], shape, stride, begin) for base, shape, stride, begin in rows]
