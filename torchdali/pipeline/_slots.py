"""A stage worker's memory for results on the device, which the parent opens: some slots, used in turn."""

from __future__ import annotations

import os
from typing import NamedTuple

import torch

from torchdali.pipeline._device_memory import ExportedMemory

__all__ = ["OnDevice", "Slot", "Slots", "view_of"]

_ALIGNMENT = 256
"""Of tensors in a slot, in bytes: as of any allocation on a device."""

_SMALLEST_SLOT = 1 << 20


class Slot(NamedTuple):
    """A worker's memory on the device, for the parent to open."""

    key: tuple[int, int]
    """The process, and a number that is not used again there."""
    handle: bytes
    nbytes: int


class OnDevice(NamedTuple):
    """A tensor in a slot."""

    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    nbytes: int


class Slots:
    """A worker's memory for results on the device."""

    def __init__(self) -> None:
        self._slots: dict[int, tuple[tuple[int, int], ExportedMemory]] = {}
        self._left: dict[int, list[tuple[tuple[int, int], ExportedMemory]]] = {}
        """Smaller ones that the parent may still have open, by slot."""
        self._count = 0
        self._number = 0
        self._known: tuple[int, int] | None = None
        self._end = 0

    def begin(self, number: int, known: tuple[int, int] | None) -> None:
        """Begin a batch whose tensors go to slot ``number``."""
        self._number, self._known, self._end = number, known, 0
        present = self._slots.get(number)
        if present is not None and present[0] == known:
            for _, memory in self._left.pop(number, []):
                memory.free()

    def place(self, tensor: torch.Tensor) -> OnDevice:
        """Copy a tensor to the slot."""
        dense = tensor.is_contiguous() or _fills_its_span(tensor)
        source = tensor if dense else tensor.contiguous()
        nbytes = source.numel() * source.element_size()
        start = -(-self._end // _ALIGNMENT) * _ALIGNMENT
        memory = self._room(start + nbytes, tensor.device)
        placed = OnDevice(start, tuple(source.shape), tuple(source.stride()), source.dtype, nbytes)
        if nbytes:
            view_of(memory.bytes, placed).copy_(source)
        self._end = start + nbytes
        return placed

    def _room(self, nbytes: int, device: torch.device) -> ExportedMemory:
        present = self._slots.get(self._number)
        if present is not None and present[1].nbytes >= nbytes:
            return present[1]
        # In steps of an eighth to a quarter: batches differ in size, and few slots are to be made and opened.
        capacity = _SMALLEST_SLOT
        while capacity < nbytes:
            capacity += max(_SMALLEST_SLOT, 1 << (capacity.bit_length() - 3))
        try:
            memory = ExportedMemory(capacity, device)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()  # what torch keeps for later is in the way
            memory = ExportedMemory(capacity, device)
        if present is not None:
            memory.bytes[: self._end].copy_(present[1].bytes[: self._end])
            self._left.setdefault(self._number, []).append(present)
        self._count += 1
        self._slots[self._number] = (os.getpid(), self._count), memory
        return memory

    def written(self) -> tuple[tuple[int, int] | None, Slot | None]:
        """The key of what was written to, if anything was, and it where the parent does not know it."""
        if not self._end or self._number not in self._slots:
            return None, None
        key, memory = self._slots[self._number]
        return key, None if key == self._known else Slot(key, memory.handle, memory.nbytes)


def _fills_its_span(tensor: torch.Tensor) -> bool:
    """Whether it is contiguous with its dimensions in another order, as channels last is: it stays that."""
    strides = tensor.stride()
    outwards = sorted(range(tensor.dim()), key=lambda dimension: (-strides[dimension], dimension))
    return tensor.permute(outwards).is_contiguous()


def view_of(memory: torch.Tensor, placed: OnDevice) -> torch.Tensor:
    """The tensor in a slot's memory."""
    flat = memory[placed.offset : placed.offset + placed.nbytes].view(placed.dtype)
    return flat.as_strided(placed.shape, placed.strides, flat.storage_offset())
