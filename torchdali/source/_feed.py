"""Asking one source for batches: in worker processes, or here.

A feed is asked for batch number k some time before it is wanted (``request``), and gives it (``receive``) or is told that
nobody wants it any more (``cancel``). What it gives is a :class:`Delivery`.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from torchdali._philox import SOURCE_STREAM, words
from torchdali.pool import Raised, WorkerPool
from torchdali.source._external import ExternalSource
from torchdali.source._info import BatchInfo, SampleInfo
from torchdali.source._outputs import as_batches, as_tensor, split_outputs
from torchdali.tensorlist import TensorList

__all__ = ["Delivery", "Feed", "ParallelFeed", "SerialFeed", "worker_function"]


class Delivery(NamedTuple):
    """What a source gave for one batch."""

    outputs: tuple[TensorList, ...]
    """Empty when it gave no sample."""
    size: int
    """Samples in each output."""
    stopped: bool
    """The source raised StopIteration for this batch, after ``size`` samples."""


def _from_samples(samples: list[tuple[torch.Tensor, ...]], stopped: bool) -> Delivery:
    if not samples:
        return Delivery((), 0, stopped)
    return Delivery(tuple(TensorList(column) for column in zip(*samples, strict=True)), len(samples), stopped)


class Feed(ABC):
    """One source of a pipeline, batch by batch."""

    def __init__(self, source: ExternalSource, batch_size: int) -> None:
        self.source = source
        self.batch_size = batch_size

    @abstractmethod
    def request(self, info: BatchInfo) -> Any:
        """Ask for a batch; returns a ticket."""

    @abstractmethod
    def receive(self, ticket: Any) -> Delivery:
        """The batch of a ticket; raises what the source raised."""

    @abstractmethod
    def cancel(self, ticket: Any) -> None:
        """Give a ticket back unused."""

    def restart(self) -> None:  # noqa: B027  callables have no state that could be restarted
        """Begin a new epoch."""

    def samples_of(self, info: BatchInfo) -> list[SampleInfo]:
        """What a sample source is asked for in a batch."""
        first = info.iteration * self.batch_size
        return [SampleInfo(first + i, i, info.iteration, info.epoch_idx) for i in range(self.batch_size)]


# --- in workers -------------------------------------------------------------------------------------------------------


def _check_sample(source: ExternalSource, value: object, info: object) -> tuple[torch.Tensor, ...]:
    what = f"the source {source.name} for {info}"
    outputs = split_outputs(value, source.num_outputs, what)
    return tuple(as_tensor(output, f"output {number} of {what}") for number, output in enumerate(outputs))


class _WorkerFunction:
    """What a worker calls for a sample or a batch; None stands for StopIteration.

    The generators of Python, NumPy and torch are seeded for each call by what is asked for: results do not depend on which
    worker happens to be free, and no two samples share a stream of numbers.
    """

    def __init__(self, source: ExternalSource, seed: int) -> None:
        self._source = source
        self._seed = seed
        self.__name__ = source.name

    def __call__(self, info: SampleInfo | BatchInfo) -> Any:
        source: Any = self._source.source
        self._seed_generators(info)
        try:
            if isinstance(info, SampleInfo):
                return _check_sample(self._source, source(info), info)
            return self._call_batch(source, info)
        except StopIteration:
            return None

    def _call_batch(self, source: Any, info: BatchInfo) -> tuple[list[torch.Tensor], ...]:
        value = _call_for_batch(self._source, source, info)
        batches = as_batches(value, self._source.num_outputs, f"the source {self._source.name} for {info}")
        return tuple(list(batch) for batch in batches)

    def _seed_generators(self, info: SampleInfo | BatchInfo) -> None:
        a, b, c, d = words(self._seed, info.epoch_idx, SOURCE_STREAM, info[0])
        random.seed(a << 32 | b)
        np.random.seed(c)
        torch.default_generator.manual_seed(d << 31 | a >> 1)


def _call_for_batch(config: ExternalSource, source: Any, info: BatchInfo) -> object:
    if not config.takes_argument:
        return source()
    return source(info if config.batch_info else info.iteration)


def worker_function(source: ExternalSource, seed: int) -> _WorkerFunction:
    """The function that a pool runs for a parallel source."""
    return _WorkerFunction(source, seed)


class ParallelFeed(Feed):
    """A callable source in the workers of a pool.

    Args:
        source, batch_size: as of any feed.
        pool: has the source's :func:`worker_function` at place ``function``.
        function: that place.
    """

    def __init__(self, source: ExternalSource, batch_size: int, pool: WorkerPool, function: int) -> None:
        super().__init__(source, batch_size)
        self._pool = pool
        self._function = function

    def request(self, info: BatchInfo) -> Any:
        """Hand the batch to the workers."""
        items: list[Any] = [info] if self.source.kind == "batch" else list(self.samples_of(info))
        return self._pool.submit(self._function, items)

    def receive(self, ticket: Any) -> Delivery:
        """Wait for the workers."""
        results = self._pool.collect(ticket)
        end = results.index(None) if None in results else len(results)
        for result in results[:end]:
            if isinstance(result, Raised):
                raise result.exception
        stopped = end < len(results)
        if self.source.kind == "sample":
            return _from_samples(results[:end], stopped)
        if stopped:
            return Delivery((), 0, True)
        outputs = tuple(TensorList(samples) for samples in results[0])
        return Delivery(outputs, len(outputs[0]), False)

    def cancel(self, ticket: Any) -> None:
        """Take the batch from the workers."""
        self._pool.cancel(ticket)


# --- in this process --------------------------------------------------------------------------------------------------


class SerialFeed(Feed):
    """Any source, called here when its batch is wanted."""

    def __init__(self, source: ExternalSource, batch_size: int) -> None:
        super().__init__(source, batch_size)
        self._iterator: Iterator[Any] | None = None
        self._call: Any = source.source

    def request(self, info: BatchInfo) -> Any:
        """Only note which batch it is."""
        return info

    def cancel(self, ticket: Any) -> None:
        """Nothing was begun."""

    def restart(self) -> None:
        """Iterables begin anew; a generator object goes on where it is."""
        self._iterator = None

    def receive(self, ticket: Any) -> Delivery:
        """Call the source."""
        info: BatchInfo = ticket
        what = f"the source {self.source.name} for {info}"
        if self.source.kind == "sample" or (self.source.kind == "iterable" and not self.source.batch):
            samples: list[tuple[torch.Tensor, ...]] = []
            for sample in self.samples_of(info):
                try:
                    value = self._call(sample) if self.source.kind == "sample" else self._advance()
                except StopIteration:
                    return _from_samples(samples, stopped=True)
                samples.append(_check_sample(self.source, value, sample))
            return _from_samples(samples, stopped=False)
        try:
            batch = (
                self._advance() if self.source.kind == "iterable" else _call_for_batch(self.source, self._call, info)
            )
        except StopIteration:
            return Delivery((), 0, True)
        outputs = as_batches(batch, self.source.num_outputs, what)
        return Delivery(outputs, len(outputs[0]), False)

    def _advance(self) -> Any:
        if self._iterator is None:
            self._iterator = iter(self._call() if callable(self._call) else self._call)
        try:
            return next(self._iterator)
        except StopIteration:
            if self.source.cycle != "quiet":
                raise
        self._iterator = iter(self._call() if callable(self._call) else self._call)
        return next(self._iterator)  # an iterable that is empty ends the epoch even so
