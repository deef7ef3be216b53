"""What the tests of sources share: sources that can be recognised in what they deliver."""

from collections.abc import Callable
from typing import Any

import numpy as np

from torchdali.source import Reader, SampleInfo, SourceBatch


def numbers(length: int) -> Callable[[SampleInfo], Any]:
    """A sample source: each sample holds its index and its epoch."""

    def sample(info: SampleInfo) -> Any:
        if info.idx_in_epoch >= length:
            raise StopIteration
        return np.array([info.idx_in_epoch, info.epoch_idx])

    return sample


def epoch(reader: Reader) -> list[SourceBatch]:
    """What is left of the epoch, which has to end."""
    batches: list[SourceBatch] = []
    while len(batches) < 1000:
        try:
            batches.append(reader.next())
        except StopIteration:
            return batches
    raise AssertionError("this epoch does not end")


def values(batches: list[SourceBatch], output: int = 0) -> list[Any]:
    """One output of all samples, as lists."""
    return [tensor.tolist() for batch in batches for tensor in batch.outputs[output]]


def firsts(batches: list[SourceBatch], output: int = 0) -> list[Any]:
    """The first number of each sample."""
    return [value[0] for value in values(batches, output)]
