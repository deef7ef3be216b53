"""What a source is told about the sample or batch that is wanted; the fields have DALI's names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from torchdali.pool import Items
from torchdali.source._part import Part

__all__ = ["BatchInfo", "SampleInfo", "SampleInfos"]


class SampleInfo(NamedTuple):
    """Which sample a source is asked for."""

    idx_in_epoch: int
    """0 for the first sample of an epoch, counting on across batches; where several processes read parts of the same epoch, the
    index is that in the whole."""
    idx_in_batch: int
    """Position in its batch."""
    iteration: int
    """Number of the batch in the epoch, from 0."""
    epoch_idx: int
    """Number of the epoch, from 0."""


class BatchInfo(NamedTuple):
    """Which batch a source is asked for."""

    iteration: int
    """Number of the batch in the epoch, from 0."""
    epoch_idx: int
    """Number of the epoch, from 0."""


class SampleInfos(Items):
    """The :class:`SampleInfo` of neighbouring samples of a batch, made as they are asked for.

    Args:
        batch: which one.
        batch_size: samples in each batch.
        places: positions in the batch.
        part: of the epoch that the batch is from; None: all of it.
    """

    __slots__ = ("_batch", "_batch_size", "_part", "_places")

    def __init__(self, batch: BatchInfo, batch_size: int, places: range, part: Part | None = None) -> None:
        self._batch = batch
        self._batch_size = batch_size
        self._places = places
        self._part = part

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return SampleInfos(self._batch, self._batch_size, self._places[index], self._part)
        place, (iteration, epoch) = self._places[index], self._batch
        number = iteration * self._batch_size + place
        return SampleInfo(number if self._part is None else self._part.at(number), place, iteration, epoch)

    def __iter__(self) -> Iterator[SampleInfo]:
        iteration, epoch = self._batch
        first = iteration * self._batch_size
        if self._part is not None:
            for place in self._places:
                yield SampleInfo(self._part.at(first + place), place, iteration, epoch)
            return
        for place in self._places:
            yield SampleInfo(first + place, place, iteration, epoch)

    def __reduce__(self) -> Any:
        return SampleInfos, (self._batch, self._batch_size, self._places, self._part)
