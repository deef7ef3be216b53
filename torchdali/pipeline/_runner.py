"""How a built pipeline comes to its batches: with a thread that runs ahead, or in the consumer's."""

from __future__ import annotations

import contextvars
import time
import warnings
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from torchdali import _spans
from torchdali._warnings import collected_warnings
from torchdali.pipeline._ahead import Ahead, Outcome
from torchdali.pipeline._crew import Crew
from torchdali.pipeline._handover import Handover
from torchdali.pipeline._pinned import PinnedMemory
from torchdali.pipeline._produce import Producer, Turns
from torchdali.pipeline._remote import RemoteProducer
from torchdali.pipeline._share import AnyReader
from torchdali.pipeline._stage_call import Stage
from torchdali.pipeline._statistics import PipelineStatistics, Stopwatch
from torchdali.pool import deferred_interrupt
from torchdali.report import Causes, Counts, Meter
from torchdali.source import BatchInfo

__all__ = ["Runner"]

Result = TypeVar("Result")


class Runner:
    """Hands out the batches of a pipeline.

    Args:
        pipeline: not kept alive.
        reader: of the pipeline.
        turns: for looking at the reader.
        depth: batches that are made ahead.
        name: for messages.
        stage_thread, record_draws, num_threads, pinned: as of the pipeline.
        meter: counts how long the consumer waits.
        crew: runs the stage; None: it runs in this process.
    """

    def __init__(
        self,
        pipeline: Stage,
        reader: AnyReader,
        turns: Turns,
        *,
        depth: int,
        name: str,
        stage_thread: bool,
        record_draws: bool,
        num_threads: int,
        pinned: PinnedMemory | None,
        meter: Meter,
        crew: Crew | None = None,
    ) -> None:
        self._pipeline = weakref.ref(pipeline)
        self._reader = reader
        self._depth = depth
        self._name = name
        self._pinned = pinned
        self._handover = Handover(pipeline.device, torch.get_default_device()) if stage_thread else None
        self._pin_for_stream()
        self._crew, self._meter = crew, meter
        self._producer: Producer | RemoteProducer
        if crew is not None and self._handover is not None:
            self._producer = RemoteProducer(pipeline, reader, turns, self._handover, crew, name=name)
        else:
            self._producer = Producer(
                pipeline, reader, turns, self._handover, name=name, num_threads=num_threads, record_draws=record_draws
            )
        self._ahead: Ahead | None = None
        self._made: Outcome | None = None
        """Without a thread: what is not handed out yet."""
        self._context = contextvars.copy_context()
        self._begun = False
        """Something of this epoch was handed out."""
        self._batches = self._samples = 0
        self._stall_seconds = 0.0
        self.taken = reader.begun_at.iteration
        """Batches of this epoch that are behind the consumer, with those that raised."""
        self.at_end = False
        """The consumer was told that the epoch is over."""
        self.last_draws: dict[str, torch.Tensor] | None = None
        """Of the batch handed out last."""

    # --- batches ------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Run ahead, if that is to be; called again it does nothing."""
        if self._ahead is None and self._handover is not None:
            owner = self._pipeline()
            make, doing = self._producer.make, self._producer.doing
            context = self._context.copy()  # which can be entered once
            with deferred_interrupt():  # a thread that nobody knows of would make batches too
                self._ahead = Ahead(owner, make, self._depth, name=self._name, context=context, doing=doing)

    def next(self, *, stacklevel: int, as_tuple: bool) -> Any:
        """What the stage makes of the next batch; a warning points to ``stacklevel`` as of ``warnings.warn``."""
        start = time.perf_counter()
        if self._pinned is not None:
            self._pinned.asked_for()
        ahead = self._ahead is not None and self._ahead.ready > 0
        with _spans.labelled("wait"):
            outcome = self._outcome()
        causes = self._causes(outcome, time.perf_counter() - start, ahead=ahead)
        for number, (text, category) in enumerate(outcome.warnings, 1):
            self._told(outcome._replace(warnings=outcome.warnings[number:]))
            warnings.warn(text, category, stacklevel=stacklevel + 1)
        outcome = outcome._replace(warnings=())
        error, outputs = outcome.error, outcome.outputs
        if error is None:
            if self._handover is not None:
                self._handover.receive(outputs, outcome.event, self._meter.stalled)
            if as_tuple and not isinstance(outputs, tuple):
                outputs = (outputs,)
            self.last_draws = outcome.draws
            self._batches += 1
            self._samples += outcome.samples
        last = outcome.last
        self._stall_seconds += time.perf_counter() - start
        if last:
            self._meter.begin()
        else:
            ready = 0 if self._ahead is None else self._ahead.ready - 1
            self._meter.delivered(start, outcome.samples, causes, ready)
        self._hand_out(outcome)  # last, since Ctrl-C would lose the batch from here on
        del outcome
        if error is None:
            return outputs
        try:
            if isinstance(error, StopIteration):
                raise StopIteration("the epoch is over; reset() begins the next one")
            raise error
        finally:
            del error  # whose traceback refers to this call

    def _hand_out(self, outcome: Outcome) -> None:
        """Go on to the next one, and count this one with it: a checkpoint must not count a batch that comes again."""
        before = self._begun, self.at_end, self.taken
        again = isinstance(outcome.error, KeyboardInterrupt)  # of forward, which gets the batch again
        try:
            with deferred_interrupt():
                self._advance()
                if self.at_end and not outcome.last:  # the source has begun another epoch by itself
                    self.taken = 0
                self._begun, self.at_end = True, outcome.last
                self.taken += not outcome.last and not again
        except KeyboardInterrupt:  # which came meanwhile: nobody gets the batch, so it has not been handed out
            self._begun, self.at_end, self.taken = before
            self._told(outcome)
            raise

    def _causes(self, outcome: Outcome, waited: float, *, ahead: bool) -> Causes:
        """What the consumer waited for; ``ahead``: the batch was there."""
        if ahead:
            return Causes(hand_over=waited)
        return Causes.of(waited, outcome.starved, outcome.busy)

    def _outcome(self) -> Outcome:
        """What is to be handed out next; the same again until :meth:`_advance`."""
        if self._handover is not None:
            self.begin()
            assert self._ahead is not None
            return self._ahead.peek()
        if self._made is None:
            self._made = self._producer.make()
        assert self._made is not None, "it waits where it has nothing else to look after"
        return self._made

    def _told(self, outcome: Outcome) -> None:
        """Warnings of the next outcome were raised: should one be an error, this comes after it."""
        if self._ahead is not None:
            self._ahead.told(outcome)
        else:
            self._made = outcome

    def _advance(self) -> None:
        if self._ahead is not None:
            self._ahead.advance()
        else:
            self._made = None
            self._reader.advance()

    # --- changes ------------------------------------------------------------------------------------------------------

    def reset(
        self,
        at: BatchInfo | None = None,
        begun: Callable[[], None] = lambda: None,
        *,
        stacklevel: int,
        first: bool = False,
    ) -> None:
        """Begin the next epoch, unless nothing of this one was handed out; or an epoch, and a batch of it, that is named.

        Args:
            at: that.
            begun: called when it is sure that this will be so, whatever is raised after that, Ctrl-C included.
            stacklevel: of warnings.
            first: whether the reader is not yet anywhere.
        """
        self._meter.begin()
        with collected_warnings() as collected:
            if self._ahead is None:
                self._begin_again(at, begun, first=first)
            else:
                self._ahead.alone(lambda: self._begin_again(at, begun, first=first))
        for text, category in collected:
            warnings.warn(text, category, stacklevel=stacklevel + 1)

    def _begin_again(self, at: BatchInfo | None, begun: Callable[[], None], *, first: bool) -> None:
        # What is ahead is this epoch's beginning, if nothing of it was handed out.
        other = first or self._begun or at not in (None, self._reader.begun_at)
        with deferred_interrupt():
            if other:
                self._reader.head_for(at)
                self._producer.forget()
                self._made = None
                if self._ahead is not None:
                    self._ahead.forget()
                self._begun = False
                if self._handover is not None:
                    self._handover.synchronize()
            self.taken, self.at_end = self._reader.begun_at.iteration, False
            begun()
        if self._crew is not None and not first:
            self._crew.revive()
        if other:
            self._reader.finish()
        else:
            self._reader.revive()

    def undisturbed(self, action: Callable[[], Result]) -> Result:
        """Change the pipeline while the stage does nothing."""

        def change() -> Result:
            result = action()
            if self._crew is not None:
                self._crew.renew()
            pipeline = self._pipeline()
            if self._handover is not None and pipeline is not None:
                self._handover.move(pipeline.device)
                self._pin_for_stream()
            return result

        return change() if self._ahead is None else self._ahead.alone(change)

    def _pin_for_stream(self) -> None:
        if self._pinned is not None and self._handover is not None and self._handover.stream is not None:
            self._pinned.record_stream(self._handover.stream)

    # --- the end ------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Make no more batches."""
        if self._ahead is not None:
            self._ahead.stop()

    def join(self) -> bool:
        """Wait for what is being made, though not for long, and drop it; whether nothing is being made any more."""
        self._made = None
        return self._ahead is None or self._ahead.join()

    def count(self, statistics: PipelineStatistics) -> None:
        """Fill in what is known here."""
        statistics.batches, statistics.samples = self._batches, self._samples
        statistics.stall_seconds = self._stall_seconds
        statistics.run_seconds = self._producer.seconds
        if isinstance(self._producer, RemoteProducer):
            statistics.stage_seconds = dict(self._producer.stage_seconds)

    def measure(self, counts: Counts, stopwatch: Stopwatch | None) -> None:
        """Fill in what is known here for a report."""
        counts.hand_over = self._producer.unpack_seconds
        if isinstance(self._producer, RemoteProducer):
            counts.operators, totals = dict(self._producer.stage_seconds), self._producer.totals
        elif stopwatch is not None:
            counts.operators, totals = stopwatch.seconds(wait=False), stopwatch.totals()
        else:
            return
        counts.decode, counts.stage = totals
