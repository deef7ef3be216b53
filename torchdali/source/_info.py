"""What a source is told about the sample or batch that is wanted; the fields have DALI's names."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["BatchInfo", "SampleInfo"]


class SampleInfo(NamedTuple):
    """Which sample a source is asked for."""

    idx_in_epoch: int
    """0 for the first sample of an epoch, counting on across batches."""
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
