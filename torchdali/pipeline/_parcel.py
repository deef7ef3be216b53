"""Batches on their way to another process and back.

There: what the workers wrote lies in shared memory, so of a batch of samples only the places are sent. Back: a description,
in which tensors are numbers, and the tensors: those of the CPU go through the pool's shared memory, those of a device
wherever the caller puts them.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from torchdali.pool import Memory
from torchdali.pool._by_value import ByValue
from torchdali.tensorlist import TensorList

__all__ = ["Packed", "Parcel", "pack_batch", "pack_outputs", "span_of", "unpack_batch", "unpack_outputs"]


class Placed(NamedTuple):
    """A batch that lies in shared memory, or one that does not, with its bytes."""

    start: int | npt.NDArray[np.uint8]
    """Where the bytes that span it begin in the memory, or they themselves."""
    nbytes: int
    offsets: npt.NDArray[np.int64]
    """(N,) of the samples, in elements, from ``start`` on."""
    shapes: npt.NDArray[np.int64]
    """(N, d)."""
    dtype: torch.dtype
    layout: str
    block: bool
    """The samples are the rows of one tensor without gaps."""


def pack_batch(batch: TensorList, memory: Memory | None) -> Parcel:
    """Where a batch lies, or its bytes where it does not lie in the memory; what is empty or irregular stays as it is."""
    if len(batch) == 0 or batch.device.type != "cpu":
        return batch
    if batch.block is None and batch.flat is None and any(sample.layout != torch.strided for sample in batch):
        return batch  # sparse ones lie nowhere
    try:
        counts = np.prod(batch.sizes, axis=1, dtype=np.int64)
    except ValueError:  # samples of different numbers of dimensions
        return batch
    if not counts.all():
        return batch
    placed = None if memory is None else _place(batch, counts, memory) or _place_part(batch, counts, memory)
    return _carry(batch) if placed is None else placed


def span_of(packed: Parcel) -> tuple[int, int] | None:
    """Start and length of what is read of the memory; None if nothing is."""
    placed = packed.placed if isinstance(packed, Mixed) else packed
    if isinstance(placed, Placed) and not isinstance(placed.start, np.ndarray):
        return placed.start, placed.nbytes
    return None


class Mixed(NamedTuple):
    """A batch of which a part lies in shared memory: what had no room there came by a copy."""

    placed: Placed
    carried: Placed | TensorList
    here: npt.NDArray[np.int64]
    """Positions of what is placed."""
    there: npt.NDArray[np.int64]


Parcel: TypeAlias = "Placed | Mixed | TensorList"


def _place(batch: TensorList, counts: Any, memory: Memory) -> Placed | None:
    if batch.block is not None and not batch.block.is_contiguous():
        return None
    shapes, strides = batch.sizes, batch.strides
    dense = np.ones_like(shapes)
    dense[:, :-1] = np.cumprod(shapes[:, :0:-1], axis=1)[:, ::-1]
    if not ((strides == dense) | (shapes == 1)).all():
        return None
    itemsize, pointers = batch.dtype.itemsize, batch.pointers
    first = int(pointers.min())
    nbytes = int((pointers + counts * itemsize).max()) - first
    start = memory.offset_of(first, nbytes)
    places = pointers - first
    if start is None or (places % itemsize).any():
        return None
    return Placed(start, nbytes, places // itemsize, shapes, batch.dtype, batch.layout, batch.block is not None)


def _place_part(batch: TensorList, counts: Any, memory: Memory) -> Mixed | None:
    spans = zip(batch.pointers.tolist(), (counts * batch.dtype.itemsize).tolist(), strict=True)
    inside = np.array([memory.offset_of(*span) is not None for span in spans])
    if inside.all() or not inside.any():
        return None
    here, there = np.flatnonzero(inside), np.flatnonzero(~inside)
    placed = _place(batch[here], counts[here], memory)
    return None if placed is None else Mixed(placed, _carry(batch[there]), here, there)


def _carry(batch: TensorList) -> Placed | TensorList:
    """By value: as one array, since tensors that are pickled one by one cost many times what small ones are."""
    if batch.block is not None:
        flat, offsets = batch.block.contiguous().view(-1), None
    else:
        packed = batch.pack()
        if packed.flat is None or packed.offsets is None or packed.order != tuple(range(packed.sizes.shape[1])):
            return batch
        flat, offsets = packed.flat, packed.offsets
    if offsets is None:
        offsets = np.arange(len(batch), dtype=np.int64) * (flat.numel() // len(batch))
    content = flat.view(torch.uint8).numpy()
    return Placed(content, content.nbytes, offsets, batch.sizes, batch.dtype, batch.layout, batch.block is not None)


def unpack_batch(packed: Parcel, view: Callable[[int, int], npt.NDArray[np.uint8]]) -> TensorList:
    """The batch again.

    Args:
        packed: as of :func:`pack_batch`.
        view: gives so many bytes of the memory from an offset on, for what lies there.
    """
    if isinstance(packed, TensorList):
        return packed
    if isinstance(packed, Mixed):
        samples: list[Any] = [None] * (len(packed.here) + len(packed.there))
        for positions, part in ((packed.here, packed.placed), (packed.there, packed.carried)):
            for position, sample in zip(positions, unpack_batch(part, view), strict=True):
                samples[position] = sample
        return TensorList(samples, packed.placed.layout)
    if isinstance(packed.start, np.ndarray):
        content = packed.start
    else:
        content = view(packed.start, packed.nbytes)
    if not content.flags.writeable:
        content = content.copy()
    flat = torch.from_numpy(content).view(packed.dtype)
    if packed.block:
        return TensorList.from_batch(flat.view(len(packed.shapes), *packed.shapes[0].tolist()), packed.layout)
    return TensorList.from_flat(flat, packed.shapes, packed.layout, offsets=packed.offsets)


class Packed(NamedTuple):
    """What a stage returned."""

    description: bytes
    on_cpu: list[Any]
    """Tensors and TensorLists."""
    on_device: list[Any]
    """What ``place`` made of tensors on a device."""


class _Reference(NamedTuple):
    """Stands for a tensor in a description."""

    on_device: bool
    number: int
    kind: type | None = None
    """The class of a tensor that is of a subclass, and its attributes."""
    attributes: dict[str, Any] | None = None


class _Tensors:
    """Takes tensors out of what is pickled."""

    def __init__(self, place: Callable[[torch.Tensor], Any]) -> None:
        self._place = place
        self._known: dict[int, _Reference] = {}
        self._kept: list[Any] = []  # so that no two objects have one id
        self.on_cpu: list[Any] = []
        self.on_device: list[Any] = []

    def refer(self, value: Any) -> _Reference | None:
        if not isinstance(value, (torch.Tensor, TensorList)):
            return None
        if isinstance(value, TensorList) and value.device.type != "cpu":
            return None  # by its parts, which come here
        if isinstance(value, torch.Tensor) and (value.is_nested or value.layout != torch.strided or value.is_quantized):
            return None
        known = self._known.get(id(value))
        if known is None:
            known = self._known[id(value)] = self._take(value)
            self._kept.append(value)
        return known

    def _take(self, value: Any) -> _Reference:
        kind, attributes = None, None
        if isinstance(value, torch.Tensor):
            if type(value) is not torch.Tensor:
                kind, attributes = type(value), dict(vars(value))
                value = value.as_subclass(torch.Tensor)
            value = value.detach()
        if value.device.type == "cpu":
            self.on_cpu.append(value)
            return _Reference(False, len(self.on_cpu) - 1, kind, attributes)
        self.on_device.append(self._place(value))
        return _Reference(True, len(self.on_device) - 1, kind, attributes)


class _Pickler(pickle.Pickler):
    def __init__(self, stream: io.BytesIO, tensors: _Tensors) -> None:
        super().__init__(stream, protocol=5)
        self._tensors = tensors

    def persistent_id(self, obj: Any) -> Any:
        return self._tensors.refer(obj)


class _ByValue(ByValue):
    def __init__(self, stream: io.BytesIO, tensors: _Tensors) -> None:
        super().__init__(stream, protocol=5)
        self._tensors = tensors

    def persistent_id(self, obj: Any) -> Any:
        return self._tensors.refer(obj)


def pack_outputs(outputs: Any, place: Callable[[torch.Tensor], Any]) -> Packed:
    """Take apart what a stage returned.

    Args:
        outputs: anything that can be pickled.
        place: takes a tensor on a device, and returns what tells another process where it is.

    Raises:
        TypeError: something of it cannot be pickled.
    """
    tensors, stream = _Tensors(place), io.BytesIO()
    try:
        try:
            _Pickler(stream, tensors).dump(outputs)
        except (pickle.PicklingError, AttributeError, TypeError):
            stream.seek(0)
            stream.truncate()
            _ByValue(stream, tensors).dump(outputs)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise TypeError(
            "what forward returned cannot be sent from the process where it ran: "
            f'{type(error).__name__}: {error}. Return tensors and plain objects, or use placement="main"'
        ) from error
    return Packed(stream.getvalue(), tensors.on_cpu, tensors.on_device)


class _Unpickler(pickle.Unpickler):
    def __init__(self, packed: Packed, take: Callable[[Any], torch.Tensor]) -> None:
        super().__init__(io.BytesIO(packed.description))
        self._packed = packed
        self._take = take
        self._made: dict[tuple[bool, int], Any] = {}

    def persistent_load(self, pid: Any) -> Any:
        key = pid.on_device, pid.number
        if key not in self._made:
            value = self._take(self._packed.on_device[pid.number]) if pid.on_device else self._packed.on_cpu[pid.number]
            if pid.kind is not None:
                value = value.as_subclass(pid.kind)
                vars(value).update(pid.attributes)
            self._made[key] = value
        return self._made[key]


def unpack_outputs(packed: Packed, take: Callable[[Any], torch.Tensor]) -> Any:
    """The outputs again.

    Args:
        packed: as of :func:`pack_outputs`, with the tensors of the CPU as they arrived.
        take: makes a tensor of what ``place`` returned.
    """
    return _Unpickler(packed, take).load()
