"""Asking one source for batches: in worker processes, or here.

A feed is asked for batch number k some time before it is wanted (``request``), and gives it (``receive``) or is told that
nobody wants it any more (``cancel``). What it gives is a :class:`Delivery`.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, NamedTuple

import torch

from torchdali._spans import tally
from torchdali.pool import Ragged, Raised, Stacked, WorkerPool
from torchdali.source._call import Turn, call_for_batch, check_sample
from torchdali.source._cycle import Cycle
from torchdali.source._external import ExternalSource
from torchdali.source._info import BatchInfo, SampleInfos
from torchdali.source._outputs import as_batches, of_leaf
from torchdali.source._part import NO_SAMPLE, Part
from torchdali.tensorlist import TensorList

__all__ = ["Delivery", "Feed", "IterableFeed", "ParallelFeed", "SerialFeed", "urgency"]


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


def urgency(info: BatchInfo) -> int:
    """A priority: batches are made in the order in which they are wanted."""
    return info.epoch_idx << 32 | info.iteration


def _from_batches(batches: Sequence[torch.Tensor | list[torch.Tensor]]) -> Delivery:
    outputs = tuple(TensorList(batch) if isinstance(batch, list) else TensorList.from_batch(batch) for batch in batches)
    return Delivery(outputs, len(outputs[0]), False)


class Feed(ABC):
    """One source of a pipeline, batch by batch."""

    def __init__(self, source: ExternalSource, batch_size: int) -> None:
        self.source = source
        self.batch_size = batch_size
        self.part: Part | None = None
        """Of the epoch that is asked for; None: all of it."""

    @abstractmethod
    def request(self, info: BatchInfo) -> Any:
        """Ask for a batch; returns a ticket."""

    @abstractmethod
    def receive(self, ticket: Any) -> Delivery:
        """The batch of a ticket; raises what the source raised."""

    @abstractmethod
    def cancel(self, ticket: Any) -> None:
        """Give a ticket back unused."""

    def restart(self, iteration: int) -> None:  # noqa: B027  callables have no state that could be restarted
        """Begin a new epoch, at a batch of it."""

    def samples_of(self, info: BatchInfo) -> SampleInfos:
        """What a sample source is asked for in a batch."""
        return SampleInfos(info, self.batch_size, range(self.batch_size), self.part)


# --- in workers -------------------------------------------------------------------------------------------------------


class ParallelFeed(Feed):
    """A callable source in the workers of a pool.

    Args:
        source, batch_size: as of any feed.
        pool: has the source's :func:`~torchdali.source._call.worker_function` at place ``function``.
        function: that place.
    """

    def __init__(self, source: ExternalSource, batch_size: int, pool: WorkerPool, function: int) -> None:
        super().__init__(source, batch_size)
        self._pool = pool
        self._function = function

    def request(self, info: BatchInfo) -> Any:
        """Hand the batch to the workers."""
        if self.source.kind == "batch":
            return self._pool.submit(self._function, [info], priority=urgency(info))
        return self._pool.submit(self._function, self.samples_of(info), priority=urgency(info), stack=True)

    def receive(self, ticket: Any) -> Delivery:
        """Wait for the workers."""
        results = self._pool.collect(ticket)
        if isinstance(results, Stacked):
            return Delivery(tuple(TensorList.from_batch(block) for block in results.value), results.size, False)
        if isinstance(results, Ragged):
            return Delivery(tuple(of_leaf(leaf) for leaf in results.value), results.size, False)
        end = next((position for position, result in enumerate(results) if result is None), len(results))
        for result in results[:end]:
            if isinstance(result, Raised):
                raise result.exception
        stopped = end < len(results)
        if self.source.kind == "sample":
            return _from_samples(results[:end], stopped)
        if stopped:
            return Delivery((), 0, True)
        return _from_batches(results[0])

    def cancel(self, ticket: Any) -> None:
        """Take the batch from the workers."""
        self._pool.cancel(ticket)


class IterableFeed(ParallelFeed):
    """An iterable source of batches, whose state is in one dedicated worker.

    An iterable that begins anew for each epoch is asked for the epoch's batch of a number. One that cannot (a generator, an
    iterator) goes on where it is: it is asked for its next batch, and what was asked for and not wanted any more is kept
    for the next request, because it would be lost.

    Args:
        source, batch_size, pool, function: as of any parallel feed.
        worker: index of the dedicated worker.
    """

    def __init__(
        self, source: ExternalSource, batch_size: int, pool: WorkerPool, function: int, worker: int | None
    ) -> None:
        super().__init__(source, batch_size, pool, function)
        self._worker = worker
        self._asked = 0
        self._kept: deque[Any] = deque()

    def request(self, info: BatchInfo) -> Any:
        """Ask for the next batch."""
        if self._kept:
            return self._kept.popleft()
        turn = Turn(info, info.iteration if self.source.begins_anew else self._asked)
        self._asked += 1
        return self._pool.submit(self._function, [turn], worker=self._worker, priority=urgency(info))

    def cancel(self, ticket: Any) -> None:
        """Take the batch from the worker, or keep it for later."""
        if self.source.begins_anew:
            super().cancel(ticket)
        else:
            self._kept.append(ticket)


# --- in this process --------------------------------------------------------------------------------------------------


class SerialFeed(Feed):
    """Any source, called here when its batch is wanted.

    Args:
        source, batch_size: as of any feed.
        around: made for each batch and entered while the source is called.
    """

    def __init__(
        self,
        source: ExternalSource,
        batch_size: int,
        around: Callable[[BatchInfo], AbstractContextManager[Any]] | None = None,
    ) -> None:
        super().__init__(source, batch_size)
        self._around = around
        self._call: Any = source.source
        self._cycle = Cycle(source) if source.kind == "iterable" else None
        self._given: tuple[BatchInfo, list[Any]] | None = None
        """What an iterable gave for a batch, which is asked for again after Ctrl-C."""
        self.seconds = self.read_seconds = 0.0
        """Spent in the source, and of that in reading files where it is the library's own."""

    def request(self, info: BatchInfo) -> Any:
        """Only note which batch it is."""
        return info

    def cancel(self, ticket: Any) -> None:
        """Nothing was begun."""

    def restart(self, iteration: int) -> None:
        """Iterables begin anew, and what comes before the batch is passed over; a generator object goes on where it is."""
        self._given = None
        if self._cycle is None:
            return
        self._cycle.begin()
        with suppress(StopIteration):
            for _ in range(iteration):
                self._pass_over(self._cycle)

    def _pass_over(self, cycle: Cycle) -> None:
        try:
            for _ in range(1 if self.source.batch else self.batch_size):
                next(cycle)
        except StopIteration:
            raise
        except Exception:  # was raised in its turn, and ended its batch
            return

    def receive(self, ticket: Any) -> Delivery:
        """Call the source."""
        iteration, epoch = ticket
        drawn = (
            ticket if self.part is None else BatchInfo(self.part.number(iteration), epoch)
        )  # other draws on other ranks
        start, read = time.perf_counter(), tally.read
        try:
            with nullcontext() if self._around is None else self._around(drawn):
                return self._receive(ticket)
        finally:
            self.seconds += time.perf_counter() - start
            self.read_seconds += tally.read - read

    def _receive(self, info: BatchInfo) -> Delivery:
        if self._cycle is not None:
            return self._receive_items(info, self._cycle)
        if self.source.kind == "sample":
            samples: list[tuple[torch.Tensor, ...]] = []
            for sample in self.samples_of(info):
                if sample.idx_in_epoch == NO_SAMPLE:
                    return _from_samples(samples, stopped=True)
                try:
                    value = self._call(sample)
                except StopIteration:
                    return _from_samples(samples, stopped=True)
                samples.append(check_sample(self.source, value, sample))
            return _from_samples(samples, stopped=False)
        try:
            batch = call_for_batch(self.source, info)
        except StopIteration:
            return Delivery((), 0, True)
        return self._from_batch(batch, info)

    def _receive_items(self, info: BatchInfo, cycle: Cycle) -> Delivery:
        if self._given is None or self._given[0] != info:
            self._given = info, []
        items = self._given[1]
        whole = cycle.fill(items, 1 if self.source.batch else self.batch_size)
        if self.source.batch:
            return self._from_batch(items[0], info) if whole else Delivery((), 0, True)
        samples = [check_sample(self.source, *of) for of in zip(items, self.samples_of(info), strict=False)]
        return _from_samples(samples, stopped=not whole)

    def _from_batch(self, batch: Any, info: BatchInfo) -> Delivery:
        outputs = as_batches(batch, self.source.num_outputs, f"the source {self.source.name} for {info}")
        return Delivery(outputs, len(outputs[0]), False)
