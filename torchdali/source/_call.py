"""What a worker calls for a sample or a batch."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

import numpy as np
import torch

from torchdali._philox import SOURCE_STREAM, words
from torchdali._spans import tally
from torchdali.source._cycle import Cycle
from torchdali.source._external import ExternalSource
from torchdali.source._info import BatchInfo, SampleInfo
from torchdali.source._outputs import Named, as_batches, as_tensor, split_outputs
from torchdali.source._part import NO_SAMPLE

__all__ = ["Turn", "WorkerFunction", "call_for_batch", "check_sample", "worker_function"]

_BLOCK = 128
"""Samples whose random numbers are made together."""

_WHOLE_EPOCH = 2**64 - 1
"""Stands for the sample where the generators are seeded for an epoch."""


def check_sample(source: ExternalSource, value: object, info: object) -> tuple[torch.Tensor, ...]:
    """The outputs of one call for a sample, as CPU tensors."""
    what = Named("the source {} for {}", source.name, info)
    outputs = split_outputs(value, source.num_outputs, what)
    return tuple([as_tensor(output, Named("output {} of {}", number, what)) for number, output in enumerate(outputs)])


def call_for_batch(config: ExternalSource, info: BatchInfo) -> object:
    """What a batch callable returns."""
    source: Any = config.source
    if not config.takes_argument:
        return source()
    return source(info if config.batch_info else info.iteration)


def _check_batch(source: ExternalSource, value: object, info: object) -> tuple[torch.Tensor | list[torch.Tensor], ...]:
    batches = as_batches(value, source.num_outputs, f"the source {source.name} for {info}")
    return tuple(batch.block if batch.block is not None else list(batch) for batch in batches)


class Turn(NamedTuple):
    """A batch that is wanted of an iterable."""

    info: BatchInfo
    number: int
    """How many there are before it: in the epoch, or in all where the iterable does not begin anew."""


class WorkerFunction:
    """What a worker calls for a source; None stands for StopIteration.

    The generators of Python, NumPy and torch are seeded for each call by what is asked for: results do not depend on which
    worker happens to be free, and no two samples share a stream of numbers.
    """

    def __init__(self, source: ExternalSource, seed: int) -> None:
        self._source = source
        self._seed = seed
        self._words: dict[int, tuple[int, int, int, int]] = {}
        """By index, of one block of samples in one epoch: made together, which costs little more than one alone."""
        self._block: tuple[int, int] | None = None
        self.__name__ = source.name

    def __call__(self, info: Any) -> Any:
        """Call the source for a :class:`SampleInfo`, or for a :class:`BatchInfo`."""
        source: Any = self._source.source
        if info[0] == NO_SAMPLE:
            return None
        self._seed_generators(info.epoch_idx, info[0])
        try:
            if isinstance(info, SampleInfo):
                return check_sample(self._source, source(info), info)
            return _check_batch(self._source, call_for_batch(self._source, info), info)
        except StopIteration:
            tally.empty += 1
            return None

    def _seed_generators(self, epoch: int, index: int) -> None:
        a, b, c, d = self._words_of(epoch, index)
        random.seed(a << 32 | b)
        np.random.seed(c)
        torch.default_generator.manual_seed(d << 31 | a >> 1)

    def _words_of(self, epoch: int, index: int) -> tuple[int, int, int, int]:
        if index >= _WHOLE_EPOCH - _BLOCK:
            a, b, c, d = words(self._seed, epoch, SOURCE_STREAM, index)
            return a, b, c, d
        block = epoch, index // _BLOCK
        if block != self._block:
            indices = np.arange(_BLOCK, dtype=np.int64) + block[1] * _BLOCK
            columns = [column.tolist() for column in words(self._seed, epoch, SOURCE_STREAM, indices)]
            self._words = dict(zip(indices.tolist(), zip(*columns, strict=True), strict=True))
            self._block = block
        return self._words[index]


class IterableFunction(WorkerFunction):
    """What the dedicated worker calls for a :class:`Turn` of an iterable.

    It goes on from batch to batch. In a worker that took the place of another it begins at the first and passes over those
    that were delivered. The generators are seeded when an epoch begins.
    """

    def __init__(self, source: ExternalSource, seed: int) -> None:
        super().__init__(source, seed)
        self._cycle = Cycle(source)
        self._epoch: int | None = None
        self._number = 0
        self._ended = False

    def __call__(self, turn: Any) -> Any:
        """The batch of a turn."""
        info, number = turn
        another = info.epoch_idx != self._epoch or number < self._number  # or the same once more
        if self._epoch is None or (another and self._source.begins_anew):
            self._cycle.begin()
            self._number, self._ended = 0, False
            self._seed_generators(info.epoch_idx, _WHOLE_EPOCH)
        self._epoch = info.epoch_idx
        if self._number > number and not self._ended:
            raise RuntimeError(
                f"batch {number} of {self.__name__} is wanted when {self._number} have been made; this is a bug in torchdali"
            )
        try:
            while self._number < number and not self._ended:
                try:
                    self._next()
                except StopIteration:
                    raise
                except Exception:  # was raised in its turn
                    continue
            if not self._ended:
                return _check_batch(self._source, self._next(), info)
        except StopIteration:
            self._ended = True
        tally.empty += 1
        return None

    def _next(self) -> Any:
        self._number += 1  # also when it raises: the next turn is for the next batch
        return next(self._cycle)


def worker_function(source: ExternalSource, seed: int) -> WorkerFunction:
    """The function that a pool runs for a parallel source."""
    return IterableFunction(source, seed) if source.kind == "iterable" else WorkerFunction(source, seed)
