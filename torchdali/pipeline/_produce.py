"""One batch of a pipeline: from the reader through the stage, in whichever thread.

The reader belongs to who makes batches. Others look at it for a moment (counters, process ids) or end it: :class:`Turns`
has them wait for a fraction of a second, not until there is a batch.
"""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torchdali import _spans
from torchdali._warnings import collected_warnings
from torchdali.ops._decoded import Observation
from torchdali.ops._device import current
from torchdali.ops._generators import DrawKey, OwnGenerators
from torchdali.pipeline._ahead import Outcome
from torchdali.pipeline._handover import Handover
from torchdali.pipeline._share import AnyReader, SharingReader, decoded_by_address
from torchdali.pipeline._stage_call import Stage, StageCall
from torchdali.pool._forking import has_locks
from torchdali.source import BatchInfo, SourceBatch

__all__ = ["BatchMaker", "Producer", "Turns", "serial_draws"]

WAIT_SECONDS = 0.05
"""How long the thread waits for workers before it sees whether somebody else wants the reader, or it shall end."""

CLOSE_SECONDS = 1.0
"""How long closing waits for a source that works in this process."""

_SERIAL_STREAM = 0xFFFF0001
"""Of random draws; beside that of the stage."""


class Turns:
    """A lock that who waits for gets next, also when its holder wants it back at once."""

    def __init__(self) -> None:
        self.door: Any
        self.lock: Any
        has_locks(self, door=threading.Lock, lock=threading.Lock)
        # `with turns.door, turns.lock:` is for those who wait; nothing in Python lies between the two, where Ctrl-C could
        # come and leave one of them locked.

    @contextlib.contextmanager
    def often(self) -> Iterator[None]:
        """Context for who holds it most of the time: the stage's thread, which Ctrl-C does not reach."""
        with self.door:
            pass
        with self.lock:
            yield

    @contextlib.contextmanager
    def patiently(self, seconds: float) -> Iterator[None]:
        """Context that is entered after so long whether it is free or not."""
        held = self.lock.acquire(timeout=seconds)
        try:
            yield
        finally:
            if held:
                self.lock.release()


def serial_draws(seed: int) -> Callable[[BatchInfo], AbstractContextManager[Any]]:
    """What sources that work in this process draw from, by the batch, in the place of torch's generators."""

    def draws(info: BatchInfo) -> OwnGenerators:
        return OwnGenerators(DrawKey(seed, info.epoch_idx, _SERIAL_STREAM, info.iteration))

    return draws


class BatchMaker(ABC):
    """Makes a pipeline's batches, in whatever way; counts the time, and keeps warnings until a batch carries them.

    Args:
        pipeline: is called with them; not kept alive.
        reader: has them.
        turns: for the reader.
        handover: of batches that are made in a thread; None: they are made where they are wanted.
        name: of the pipeline.
    """

    def __init__(
        self, pipeline: Stage, reader: AnyReader, turns: Turns, handover: Handover | None, *, name: str
    ) -> None:
        self._pipeline = weakref.ref(pipeline)
        self._reader = reader
        self._turns = turns
        self._handover = handover
        self._name = name
        self.seconds = 0.0
        """That it took to make batches."""
        self._last = time.perf_counter()
        """When the last attempt ended."""
        self.unpack_seconds = 0.0
        """Of these: taking in what workers wrote, and what stage workers made."""
        self._starved = self._spent = 0.0
        """Since the last outcome: waiting for the sources' workers with nothing else to do, and in all."""
        self._doing = ""
        self._warnings: list[tuple[str, type[Warning]]] = []
        """That no outcome has carried yet."""

    def doing(self) -> str:
        """What is going on, for people."""
        return self._doing or "the stage is at work"

    def make(self) -> Outcome | None:
        """One attempt at a batch; None if workers are not done with it and this is a thread that has more to look after."""
        start = time.perf_counter()
        if self._handover is not None and isinstance(self._reader, SharingReader):
            self._reader.unwanted(start - self._last)
        with collected_warnings() as warnings:
            outcome = self._make()
        self._last = time.perf_counter()
        self.seconds += self._last - start
        self._spent += self._last - start
        self._warnings += warnings
        if outcome is not None:
            outcome = outcome._replace(starved=self._starved, busy=self._spent - self._starved)
            self._starved = self._spent = 0.0
            if self._warnings:
                outcome = outcome._replace(warnings=(*outcome.warnings, *self._warnings))
                self._warnings.clear()
        return outcome

    def _waited(self, name: str, begin: float) -> float:
        """Note a span that ends now; returns for how many seconds it was."""
        now = time.perf_counter()
        if _spans.recorder is not None:
            _spans.recorder.add(self._name, "stage", name, begin, now)
        return now - begin

    @abstractmethod
    def _make(self) -> Outcome | None: ...

    @abstractmethod
    def forget(self) -> None:
        """Drop what is under way; while nobody makes anything."""


class Producer(BatchMaker):
    """Makes a pipeline's batches in this process, one after the other.

    Args:
        pipeline, reader, turns, handover, name: as of any :class:`BatchMaker`.
        num_threads, record_draws: as of :class:`~torchdali.pipeline._stage_call.StageCall`.
    """

    def __init__(
        self,
        pipeline: Stage,
        reader: AnyReader,
        turns: Turns,
        handover: Handover | None,
        *,
        name: str,
        num_threads: int,
        record_draws: bool,
    ) -> None:
        super().__init__(pipeline, reader, turns, handover, name=name)
        self._call = StageCall(num_threads=num_threads, record_draws=record_draws)

    def forget(self) -> None:
        """Nothing is under way between two batches."""

    def _make(self) -> Outcome | None:
        try:
            with nullcontext() if self._handover is None else self._turns.often():
                if self._handover is not None:
                    begin = time.perf_counter()
                    with _spans.labelled("wait for workers"):
                        self._doing = self._reader.wait(WAIT_SECONDS)
                    self._starved += self._waited("wait for workers", begin)
                    if self._doing:
                        return None
                batch = self._read()
        except StopIteration:
            return Outcome(error=StopIteration(), last=True)  # without a traceback, which would refer to all this
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            return Outcome(error=error)
        pipeline = self._pipeline()
        if pipeline is None:  # dropped meanwhile; nobody will see this
            return Outcome(error=StopIteration(), last=True)
        outcome = self._through_stage(pipeline, batch)
        # Not after Ctrl-C in the stage, which comes as an exception: it will get this batch again. And in the consumer's thread
        # Ctrl-C may come until it has the outcome: there the runner does it.
        if self._handover is not None:
            self._reader.advance()
        return outcome

    def _read(self) -> SourceBatch:
        """The batch; notes where the time went: to workers that are not done, to sources that work here, or to taking it in."""
        pool = self._reader.pool
        begin, waited = time.perf_counter(), 0.0 if pool is None else pool.wait_seconds
        called = self._reader.spent()[0]
        try:
            with _spans.labelled("take in"):
                return self._reader.peek()
        finally:
            waited = (0.0 if pool is None else pool.wait_seconds) - waited
            self._starved += waited
            spent = self._waited("take in", begin) - waited - (self._reader.spent()[0] - called)
            self.unpack_seconds += max(0.0, spent)

    def _through_stage(self, pipeline: Stage, batch: SourceBatch) -> Outcome:
        event = decoded = following = None
        if isinstance(self._reader, SharingReader):
            decoded, following = decoded_by_address(batch), self._reader.follow(batch)
        try:
            with current(pipeline.device) if self._handover is None else self._handover.stage():
                outputs, draws = self._call(pipeline, batch, decoded, following)
                if self._handover is not None:
                    event = self._handover.finished()
        except KeyboardInterrupt:
            raise
        except BaseException as raised:  # of whatever kind: this batch would be worked on again and again
            return Outcome(error=raised)
        finally:
            if decoded is not None and isinstance(self._reader, SharingReader):
                asked = decoded.asked()
                self._reader.learn(Observation.of(asked), asked, following)
        return Outcome(outputs, samples=len(batch.indices), event=event, draws=draws)
