"""Some of a batch's samples, which share its memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from torchdali.tensorlist._metadata import Integers, counts_of

if TYPE_CHECKING:
    from torchdali.tensorlist._storage import Storage

__all__ = ["select"]

Batch = TypeVar("Batch", bound="Storage")


def select(batch: Batch, which: slice | Integers) -> Batch:
    """Some of the samples, which share the memory. Where none is left the batch keeps the shape that all had."""
    count = len(range(len(batch))[which]) if isinstance(which, slice) else len(which)
    if count == 0 and batch.is_dense_tensor():
        sample = batch._sample if batch._sample is not None else batch.shape()[0]
        return batch._empty(sample, batch._layout, batch._dtype, batch._device)
    if batch._block is not None and isinstance(which, slice) and (which.step is None or which.step > 0):
        return batch._of_block(batch._block[which], batch._layout)
    if batch._flat is not None and batch._offsets is not None and batch._block is None:
        return _part_of_buffer(batch, batch._offsets[which], batch.sizes[which])
    tensors = batch._all()
    chosen = tensors[which] if isinstance(which, slice) else [tensors[position] for position in which.tolist()]
    shapes = None if batch._shapes is None else batch._shapes[which]
    return batch._trusted(chosen, batch._layout, batch._dtype, batch._device, shapes)


def _part_of_buffer(batch: Batch, offsets: Integers, shapes: Integers) -> Batch:
    # Only that part of the buffer which spans the chosen samples, so that moving them moves no more.
    assert batch._flat is not None
    first = int(offsets.min()) if len(offsets) else 0
    last = int((offsets + counts_of(shapes)).max()) if len(offsets) else 0
    return batch._of_buffer(batch._flat[first:last], offsets - first, shapes, batch._order, batch._layout)
