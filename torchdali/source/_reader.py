"""Epochs: batches of all sources of a pipeline, in order, prepared ahead.

An epoch ends with the first StopIteration of any source. What was prepared beyond it is dropped, and StopIteration is
raised again and again until :meth:`Reader.reset`, which begins the next epoch at its first sample, wherever the last one
was left.

A batch that raises counts as delivered: the next call goes on with the one after it. Ctrl-C does not: what has arrived of
a batch is kept, and the next call waits for the rest; what was looked at and not yet done with is looked at again.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import numpy as np

from torchdali._warnings import warn
from torchdali.errors import WorkerDiedError
from torchdali.pool import DEFAULT_BYTES_PER_ITEM, Job, Memory, PoolStatistics, WorkerPool, deferred_interrupt
from torchdali.source._batch import SourceBatch
from torchdali.source._call import worker_function
from torchdali.source._external import ExternalSource
from torchdali.source._feed import Delivery, Feed, IterableFeed, ParallelFeed, SerialFeed
from torchdali.source._info import BatchInfo
from torchdali.source._part import Part

__all__ = ["LastBatch", "Reader"]

LastBatch = Literal["partial", "drop"]


class _Pending:
    """A batch that is asked for."""

    def __init__(self, info: BatchInfo, feeds: int) -> None:
        self.info = info
        self.tickets: list[Any] = [None] * feeds
        """Of each feed; None where it was not asked yet."""
        self.deliveries: list[Delivery] = []


class Reader:
    """Batches of several sources.

    Args:
        sources: at least one.
        batch_size: samples in a batch.
        num_workers: processes for the parallel sources.
        prefetch: batches asked for ahead, of sources that do not say so themselves.
        seed: of the generators that sources find in the workers.
        last_batch: what becomes of samples that do not fill a batch at the end of an epoch: ``"partial"`` delivers them as
            a short batch, ``"drop"`` drops them with a warning. A short batch that a source made itself is delivered.
        name: for processes and messages.
        before_fork: called before workers are forked; it may raise to forbid it.
        around_serial: made for each batch that a source makes in this process, and entered meanwhile.
        pool_options: further arguments of :class:`~torchdali.pool.WorkerPool`.
        functions: further functions of the pool, for whoever calls them there; see :attr:`first_function`.
    """

    def __init__(
        self,
        sources: Sequence[ExternalSource],
        *,
        batch_size: int,
        num_workers: int,
        prefetch: int,
        seed: int,
        last_batch: LastBatch,
        name: str,
        before_fork: Callable[[], None] | None = None,
        around_serial: Callable[[BatchInfo], AbstractContextManager[Any]] | None = None,
        pool_options: Mapping[str, Any] | None = None,
        functions: Sequence[Callable[[Any], Any]] = (),
    ) -> None:
        self.batch_size = batch_size
        self._last_batch = last_batch
        self._depths = [source.prefetch_queue_depth or prefetch for source in sources]
        self._pool: WorkerPool | None = None
        parallel = [source for source in sources if source.parallel]
        iterables = [source for source in parallel if source.kind == "iterable"]
        dedicated = 0
        if parallel:
            if len(iterables) == len(parallel) and not functions:
                num_workers = min(num_workers, len(iterables))  # more would have nothing to do
            shared = 1 if (len(iterables) < len(parallel) or functions) and num_workers > 1 else 0
            dedicated = min(len(iterables), num_workers - shared)
            hints = [source.bytes_per_sample_hint for source in parallel if source.bytes_per_sample_hint]
            self._pool = WorkerPool(
                [*(worker_function(source, seed) for source in parallel), *functions],
                num_workers,
                name=name,
                before_fork=before_fork,
                bytes_per_item=max(hints, default=DEFAULT_BYTES_PER_ITEM),
                dedicated=dedicated,
                **(pool_options or {}),
            )
        self.first_function = len(parallel)
        """Number in the pool of the first of ``functions``."""
        self._feeds: list[Feed] = []
        for source in sources:
            if self._pool is None or not source.parallel:
                self._feeds.append(SerialFeed(source, batch_size, around_serial))
                continue
            function = parallel.index(source)
            if source.kind == "iterable":
                worker = iterables.index(source) % dedicated
                self._feeds.append(IterableFeed(source, batch_size, self._pool, function, worker))
            else:
                self._feeds.append(ParallelFeed(source, batch_size, self._pool, function))
        self._pending: deque[_Pending] = deque()
        self._epoch = 0
        self._iteration = 0
        self.part: Part | None = None
        """Of each epoch that is read; None: all of it."""
        self.begun_at = BatchInfo(0, 0)
        """The first batch of this epoch that is read."""
        self._touched = False
        self._unfinished = False
        """A reset was begun, and the feeds are not where it is to be yet."""
        self._ended = False
        self._restarts = False
        self._told = False
        """The end of the epoch was told by StopIteration."""
        self._ready: SourceBatch | None = None

    # --- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Fork the workers."""
        if self._pool is not None:
            self._pool.start()

    def close(self) -> None:
        """End the workers. Batches that were delivered stay valid."""
        self._pending.clear()
        self._ready = None
        if self._pool is not None:
            self._pool.close()

    @property
    def memory(self) -> Memory | None:
        """What the workers write to, once they are started; None where no source is parallel."""
        return None if self._pool is None else self._pool.memory

    @property
    def pool(self) -> WorkerPool | None:
        """The workers; None where no source is parallel."""
        return self._pool

    @property
    def pids(self) -> list[int]:
        """Process ids of the living workers."""
        return [] if self._pool is None else self._pool.pids

    @property
    def depth(self) -> int:
        """Batches that are asked for ahead, at most."""
        return max(self._depths)

    @property
    def epoch(self) -> int:
        """Number of the current epoch, from 0."""
        return self._epoch

    def statistics(self) -> PoolStatistics:
        """The pool's counters; zeros where no source is parallel."""
        return PoolStatistics() if self._pool is None else self._pool.statistics()

    def spent(self) -> tuple[float, float]:
        """Seconds in sources that work in this process, and of these in reading files."""
        serial = [feed for feed in self._feeds if isinstance(feed, SerialFeed)]
        return sum(feed.seconds for feed in serial), sum(feed.read_seconds for feed in serial)

    @property
    def pool_functions(self) -> list[ExternalSource]:
        """The sources of the pool's first functions, in order."""
        return [feed.source for feed in self._feeds if isinstance(feed, ParallelFeed)]

    # --- epochs -------------------------------------------------------------------------------------------------------

    def prefetch(self) -> None:
        """Ask for as many batches ahead as was agreed."""
        if self._ended:
            return
        with contextlib.nullcontext() if self._pool is None else self._pool.together():
            self._ask_ahead()

    def _ask_ahead(self) -> None:
        for position in range(self.depth):
            with deferred_interrupt():
                if position == len(self._pending):
                    self._pending.append(_Pending(BatchInfo(self._iteration, self._epoch), len(self._feeds)))
                    self._iteration += 1
                pending = self._pending[position]
                for number, depth in enumerate(self._depths):
                    if position < depth and pending.tickets[number] is None:
                        pending.tickets[number] = self._feeds[number].request(pending.info)

    def _prefetch_if_possible(self) -> None:
        """Ask ahead; that all workers are dead is no matter as long as there is something to give."""
        try:
            self.prefetch()
        except WorkerDiedError:
            if self._ready is None and (not self._pending or None in self._pending[0].tickets):
                raise

    def wait(self, seconds: float) -> str:
        """Wait until :meth:`peek` need not wait for workers, or for so long for each source.

        Returns:
            What is waited for, for people; empty when ``peek`` need not wait.
        """
        if self._ready is not None or self._ended or self._unfinished:
            return ""
        with contextlib.suppress(WorkerDiedError):  # peek() raises it
            self._prefetch_if_possible()
        if not self._pending:
            return ""
        pending = self._pending[0]
        for ticket in pending.tickets[len(pending.deliveries) :]:
            if isinstance(ticket, Job) and self._pool is not None:
                try:
                    self._pool.wait([ticket], timeout=seconds)
                except TimeoutError as error:
                    return str(error).partition("; ")[2]
        return ""

    def waits_for(self) -> list[Job]:
        """The jobs that :meth:`peek` would wait for; none also where it has not asked for any."""
        if self._ready is not None or self._ended or not self._pending:
            return []
        return [ticket for ticket in self._pending[0].tickets if isinstance(ticket, Job) and not ticket.arrived]

    def next(self) -> SourceBatch:
        """The next batch: :meth:`peek` and :meth:`advance`."""
        batch = self.peek()
        self._ready = None  # as advance() does; without a call, in which Ctrl-C could come
        return batch

    def peek(self) -> SourceBatch:
        """The next batch; the same again until :meth:`advance`.

        Raises:
            StopIteration: the epoch is over, until :meth:`reset`.
            WorkerDiedError: a worker died with samples of this batch in hand. This batch is passed over.
            BaseException: what a source raised for a sample of this batch, which is passed over unless it is
                KeyboardInterrupt.
        """
        if self._ready is not None:
            return self._ready
        if self._unfinished:  # it was broken off, by Ctrl-C or by what a source raised
            self.finish()
        if self._ended and self._restarts and self._told:
            self.reset()
        if self._ended:
            self._told = True
            raise StopIteration
        self._touched = True
        self._prefetch_if_possible()
        pending = self._pending[0]
        try:
            while len(pending.deliveries) < len(self._feeds):
                number = len(pending.deliveries)
                delivery = self._feeds[number].receive(pending.tickets[number])
                pending.deliveries.append(delivery)
        except BaseException as error:
            if not isinstance(error, KeyboardInterrupt):  # Ctrl-C, after which it is asked for again
                self._drop(self._pending.popleft())
            raise
        with deferred_interrupt():
            self._pending.popleft()
            self._ready = self._assemble(pending)
            self._prefetch_if_possible()
        if self._ready is None:
            self._told = True
            raise StopIteration
        return self._ready

    def advance(self) -> None:
        """Let go of the batch that :meth:`peek` gave."""
        self._ready = None

    def read_part(self, part: Part) -> None:
        """Read only a part of each epoch; before anything of it is asked for."""
        self.part = part
        for feed in self._feeds:
            feed.part = part

    def reset(self, at: BatchInfo | None = None) -> None:
        """Begin the next epoch at its first sample, also in the middle of one; in an epoch not yet begun, do nothing.

        Workers that have died are replaced where that is still allowed.

        Args:
            at: the epoch, and the batch of it, to begin at instead.
        """
        self.head_for(at)
        self.finish()

    def head_for(self, at: BatchInfo | None = None) -> None:
        """The first part of :meth:`reset`, which neither waits nor raises: whatever breaks off the rest, that is where to go."""
        with deferred_interrupt():
            if self._touched or self._unfinished or at not in (None, self.begun_at):
                if at is None:
                    at = self.begun_at if self._unfinished else BatchInfo(0, self._epoch + 1)
                self._unfinished = True
                self._end()
                self.begun_at = at
                self._iteration, self._epoch = at
                self._touched = False
            self._ready = None

    def finish(self) -> None:
        """The rest of :meth:`reset`."""
        self._revive()
        if self._unfinished:
            for feed in self._feeds:
                feed.restart(self.begun_at.iteration)
        self._ended = self._restarts = self._told = False
        self._unfinished = False
        self.prefetch()

    def revive(self) -> None:
        """Replace the workers that have died, where that is still allowed."""
        self._revive()

    def _revive(self) -> None:
        if self._pool is None or not self._pool.started:
            return
        try:
            self._pool.start()
        except RuntimeError as error:
            if not self._pool.pids:
                raise
            warn(f"going on with {len(self._pool.pids)} workers, others have died: {error}", stacklevel=4)

    def _drop(self, pending: _Pending) -> None:
        for number in range(len(pending.deliveries), len(pending.tickets)):
            if pending.tickets[number] is not None:
                self._feeds[number].cancel(pending.tickets[number])

    def _end(self) -> None:
        self._ended = True
        while self._pending:
            self._drop(self._pending.popleft())

    def _assemble(self, pending: _Pending) -> SourceBatch | None:
        counts = [delivery.size for delivery in pending.deliveries]
        count = min(counts)
        iteration, epoch = pending.info
        stopped = any(delivery.stopped for delivery in pending.deliveries)
        if stopped:
            self._end()
            self._restarts = any(
                delivery.stopped and feed.source.cycle == "raise"
                for delivery, feed in zip(pending.deliveries, self._feeds, strict=True)
            )
            if count and self._last_batch == "drop":
                first = iteration * self.batch_size
                warn(
                    f"{count} samples at the end of the epoch (from index {first} on) do not fill a batch of "
                    f'{self.batch_size} and are dropped; last_batch="partial" delivers them',
                    stacklevel=5,
                )
                return None
            if not count:
                return None
        elif len(set(counts)) > 1:
            raise ValueError(
                f"in iteration {iteration} the sources gave {counts} samples; they have to agree: end all epochs at the same "
                "sample"
            )
        if count > self.batch_size:
            raise ValueError(
                f"in iteration {iteration} a source gave {count} samples; batch_size is {self.batch_size}, and a source with "
                "batch=True returns at most so many"
            )
        outputs = tuple(
            output if len(output) == count else output[:count]
            for delivery in pending.deliveries
            for output in delivery.outputs
        )
        first = iteration * self.batch_size
        if self.part is None:
            return SourceBatch(outputs, np.arange(first, first + count, dtype=np.int64), iteration, epoch)
        return SourceBatch(outputs, self.part.indices(first, count), self.part.number(iteration), epoch)
