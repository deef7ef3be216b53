"""Between the reader and the stage: batches of which idle workers decode a part.

Batches are taken from the reader as soon as they are there, up to :data:`HELD` ahead of the stage, and a part of each one's
files goes back to the workers of the same pool, before most of what they are to read further on. A batch is handed on when that
is done. Nothing depends on it: an image that does not come back, whatever the reason, is decoded in the stage like the
others.

What is read is held by its batch for as long as a worker may look at it, also after the batch was given up.

With a stage in this process workers also find out what its operators will do with a batch (``_foresee.py``).

Everything else is as the :class:`~torchdali.source.Reader` has it. What it raises for a batch waits for its turn, and so does
the end of the epoch, after which the reader is not asked again before somebody asks here: it might begin the next one. Ctrl-C
loses nothing.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

from torchdali._warnings import collected_warnings, warn
from torchdali.errors import WorkerDiedError
from torchdali.ops import BatchContext
from torchdali.ops._decoded import Asked, Observation
from torchdali.ops._foresight import Following
from torchdali.pipeline._early import EarlyDecoding
from torchdali.pipeline._foresee import Foresight
from torchdali.pipeline._held import Held
from torchdali.pipeline._share_control import CpuShare, ShareControl
from torchdali.pipeline._share_out import (
    Route,
    choose,
    decode_in_worker,
    decoded_by_address,
    files_of,
    gather,
    route_of,
)
from torchdali.pool import Memory, PoolStatistics, WorkerPool, deferred_interrupt
from torchdali.source import ExternalSource, Part, Reader, SourceBatch
from torchdali.source._feed import urgency
from torchdali.source._info import BatchInfo

__all__ = ["AnyReader", "SharingReader", "decode_in_worker", "decoded_by_address", "observe"]

HELD = 2
"""Batches beyond the one in the stage of which files are decoded at a time, by workers or by an engine."""

QUICK_SECONDS = 0.02
"""What all workers together take to read what is asked for ahead, if it is to be read before something is decoded."""


def observe(context: BatchContext) -> Observation:
    """What the stage's decoders were given, for :meth:`SharingReader.learn`; it can be sent to another process."""
    return Observation(()) if context.decoded is None else context.decoded.observe()


class SharingReader:
    """A reader that has a part of each batch decoded.

    Args:
        reader: its pool has :func:`decode_in_worker` as the first of its further functions.
        share: of each batch, from 0 to 1; ``"auto"``: as :class:`ShareControl` finds it.
        early: begins with the batches after the one in the stage; None: nobody does.
        foresight: what operators will do with it is asked for; None: it is not.
    """

    def __init__(
        self,
        reader: Reader,
        share: CpuShare,
        early: EarlyDecoding | None = None,
        foresight: Foresight | None = None,
    ) -> None:
        assert reader.pool is not None
        self._early, self._foresight = early, foresight
        self._most = HELD if share or foresight is not None else 1
        self._reader = reader
        self._pool: WorkerPool = reader.pool
        self._control = ShareControl() if share == "auto" else None
        self.share = 0.0 if share == "auto" else share
        """Of the batches that are shared out now."""
        self._route: Route | None = None
        self._held: deque[Held] = deque()
        self._given_up: list[Held] = []
        """Workers may still be looking at what was read for them."""
        self._over = False
        """The end of the epoch is among what is held."""
        self._ready: SourceBatch | None = None
        self._asked_at: float | None = None
        self._given_at: float | None = None
        self._unwanted = self._busy = 0.0

    # --- as of the reader ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Fork the workers."""
        self._reader.start()

    def close(self) -> None:
        """End the workers. Batches that were delivered stay valid."""
        self._held.clear()
        self._ready = None
        if self._early is not None:
            self._early.close()
        self._reader.close()
        self._given_up.clear()

    @property
    def memory(self) -> Memory | None:
        """What the workers write to, once they are started."""
        return self._reader.memory

    @property
    def pids(self) -> list[int]:
        """Process ids of the living workers."""
        return self._reader.pids

    @property
    def epoch(self) -> int:
        """Number of the current epoch, from 0."""
        return self._reader.epoch

    @property
    def begun_at(self) -> BatchInfo:
        """The first batch of this epoch that is read."""
        return self._reader.begun_at

    def read_part(self, part: Part) -> None:
        """Read only a part of each epoch; before anything of it is asked for."""
        self._reader.read_part(part)

    def statistics(self) -> PoolStatistics:
        """The pool's counters."""
        return self._reader.statistics()

    def spent(self) -> tuple[float, float]:
        """Seconds in sources that work in this process; see :meth:`Reader.spent`."""
        return self._reader.spent()

    @property
    def pool(self) -> WorkerPool:
        """The workers."""
        return self._pool

    @property
    def pool_functions(self) -> list[ExternalSource]:
        """The sources of the pool's first functions, in order."""
        return self._reader.pool_functions

    def prefetch(self) -> None:
        """Ask for as many batches ahead as was agreed."""
        self._reader.prefetch()

    def revive(self) -> None:
        """Replace the workers that have died, where that is still allowed."""
        self._reader.revive()

    def reset(self, at: BatchInfo | None = None) -> None:
        """Begin the next epoch at its first sample; see :meth:`Reader.reset`."""
        self.head_for(at)
        self.finish()

    def finish(self) -> None:
        """The rest of :meth:`reset`."""
        self._reader.finish()

    def head_for(self, at: BatchInfo | None = None) -> None:
        """The first part of :meth:`reset`; see :meth:`Reader.head_for`."""
        with deferred_interrupt():
            self._reader.head_for(at)
            for held in self._held:
                for job in (held.job, None if held.asked is None else held.asked[1]):
                    if job is not None:
                        self._pool.cancel(job)
                self._given_up.append(held)
            self._held.clear()
            self._ready = None
            self._over = False
            self._pause()

    # --- batches ------------------------------------------------------------------------------------------------------

    def wait(self, seconds: float) -> str:
        """Wait until :meth:`peek` need not wait for workers, or for so long; see :meth:`Reader.wait`."""
        if self._ready is not None:
            return ""
        return self._work(seconds)

    def next(self) -> SourceBatch:
        """The next batch: :meth:`peek` and :meth:`advance`."""
        batch = self.peek()
        self.advance()
        return batch

    def peek(self) -> SourceBatch:
        """The next batch; the same again until :meth:`advance`.

        Raises:
            StopIteration: the epoch is over, until :meth:`reset`.
            Exception: what the reader raised for this batch, which is passed over.
        """
        if self._ready is None:
            self._work(None)
            with deferred_interrupt():
                self._ready = self._take()
            self._look_ahead()
        return self._ready

    def advance(self) -> None:
        """Let go of the batch that :meth:`peek` gave."""
        self._ready = None

    def unwanted(self, seconds: float) -> None:
        """For so long nobody wanted a batch: enough are ready for the consumer."""
        self._unwanted += seconds

    def follow(self, batch: SourceBatch) -> Following | None:
        """Who notes what operators are called for a batch, and has what is foreseen of them."""
        return None if self._foresight is None else self._foresight.follow(batch)

    def learn(
        self,
        observation: Observation,
        asked: Sequence[tuple[int, Asked]] = (),
        following: Following | None = None,
    ) -> None:
        """Take in what the stage's decoders were given.

        Args:
            observation: that.
            asked: likewise, where they are in this process.
            following: what was called, likewise.
        """
        self._route = route_of(observation, self._route)
        if self._early is not None:
            self._early.learn(list(asked))
        if self._foresight is not None and following is not None:
            self._foresight.learn(following)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _work(self, seconds: float | None) -> str:
        """Wait until the first of what is held can be handed on; returns what is waited for, if that is not so in time."""
        start = time.perf_counter()
        if self._asked_at is None:
            self._asked_at = start
        while True:
            self._look_ahead()
            if self._held and not self._held[0].waits:
                return ""
            jobs = [] if self._full else self._reader.waits_for()
            if self._held and self._held[0].job is not None:
                jobs.insert(0, self._held[0].job)
            left = None if seconds is None else max(0.0, start + seconds - time.perf_counter())
            try:
                self._pool.wait(jobs, timeout=left)
            except TimeoutError as error:
                return str(error).partition("; ")[2]

    @property
    def _full(self) -> bool:
        return self._over or len(self._held) >= self._most

    def _look_ahead(self) -> None:
        """Take from the reader what it has, and share it out."""
        self._given_up = [held for held in self._given_up if held.is_read]
        for held in self._held:  # from before it was known what to decode
            self._share_out(held)
        while not self._full and not self._reader.wait(0):
            with collected_warnings() as warnings:
                held = self._fetch()
            held.warnings = tuple(warnings)
            with deferred_interrupt():
                self._held.append(held)
                self._over = isinstance(held.error, StopIteration)
                self._reader.advance()  # not before: Ctrl-C would lose it
                self._foresee(held)
                self._share_out(held)
        self._begin()

    def _foresee(self, held: Held) -> None:
        """Ask what operators will do with a batch; after what is to be read so far, which it would cost too much to overtake."""
        if self._foresight is not None and held.batch is not None:
            latest = BatchInfo(held.batch.iteration + self._reader.depth, held.batch.epoch)
            held.asked = self._foresight.ask(held.batch, urgency(latest))

    def _look_at_answer(self, held: Held) -> None:
        if self._foresight is None or held.asked is None or held.foreseen is not None:
            return
        held.foreseen = self._foresight.answer(held.asked)
        if not held.asked[1].arrived:  # the worker looks at the files nevertheless
            self._given_up.append(Held(held.batch, asked=held.asked))
        held.asked = None

    def _begin(self) -> None:
        """Have the engine begin with what is next, and with what comes after that: it is not to wait for work."""
        if self._early is None:
            return
        for number, held in enumerate(self._held):
            if held.batch is None or held.begun is not None:
                continue
            if number and held.asked is not None and not held.asked[1].arrived:
                return  # there is time to wait for the answer
            output, without = -1, []
            if held.job is not None and held.route is not None and held.positions is not None:
                output, without = held.route.output, held.positions.tolist()
            self._look_at_answer(held)
            held.begun = self._early.begin(held.batch, output, without, held.foreseen)

    def _fetch(self) -> Held:
        try:
            return Held(self._reader.peek())
        except StopIteration:
            return Held(error=StopIteration())  # without a traceback
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            return Held(error=error)

    def _share_out(self, held: Held) -> None:
        batch, route, memory = held.batch, self._route, self._pool.memory
        if held.seen or batch is None or route is None or memory is None:
            return
        held.seen = True
        positions, files = files_of(batch, route, choose(batch.indices, self.share), memory)
        if not files:
            return
        held.route, held.positions = route, positions
        try:
            held.job = self._pool.submit(self._reader.first_function, files, priority=self._priority(batch), stack=True)
        except WorkerDiedError:  # the stage can do without
            held.job = None

    def _priority(self, batch: SourceBatch) -> int:
        """When a batch's files are decoded.

        After reading the next batch, without which there would be nothing more to decode when this is done; but where reading
        is quick, after all that is to be read so far: to overtake it costs this process more than it brings.
        """
        numbers, functions = self._pool.statistics(), range(self._reader.first_function)
        seconds = sum(numbers.busy_by_function.get(function, 0.0) for function in functions)
        samples = max(numbers.items_by_function.get(function, 0) for function in functions)
        ahead = self._reader.depth * len(batch.indices) * seconds / max(1, samples) / self._pool.num_workers
        part = self._reader.part
        iteration = batch.iteration if part is None else batch.iteration // part.ranks
        return urgency(BatchInfo(iteration + self._reader.depth * (ahead < QUICK_SECONDS), batch.epoch)) + 1

    def _take(self) -> SourceBatch:
        held = self._held.popleft()
        for text, category in held.warnings:
            warn(text, category, stacklevel=4)
        if held.error is not None:
            if self._over and not self._held:
                self._over = False
                self._pause()
            try:
                raise held.error
            finally:
                held.error = None  # whose traceback refers to this call
        batch = held.batch
        assert batch is not None
        if held.job is not None and held.route is not None and held.positions is not None:
            batch = batch._replace(decoded=gather(held.route, held.positions, self._pool.collect(held.job)))
        self._account()
        self._look_at_answer(held)
        return batch._replace(begun=held.begun or (), foreseen=held.foreseen)

    # --- how much -----------------------------------------------------------------------------------------------------

    def _pause(self) -> None:
        self._asked_at = self._given_at = None
        if self._control is not None:
            self._control.pause()

    def _account(self) -> None:
        """A batch is handed on."""
        now = time.perf_counter()
        asked, before, self._asked_at, self._given_at = self._asked_at, self._given_at, None, now
        unwanted, self._unwanted = self._unwanted, 0.0
        if self._control is None:
            return
        total = self._pool.statistics().busy_seconds
        busy, self._busy = total - self._busy, total
        if asked is None or before is None or self._route is None:
            return
        self.share = self._control.batch(
            waited=now - asked,
            worked=max(0.0, asked - before - unwanted),
            unwanted=unwanted,
            busy=busy / max(1, len(self.pids)),
        )


AnyReader = Reader | SharingReader
