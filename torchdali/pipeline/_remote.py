"""The batches of a pipeline whose stage runs in processes of its own: several under way, handed out in order."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from torchdali import _spans
from torchdali.ops import DecodeImage
from torchdali.pipeline._ahead import Outcome
from torchdali.pipeline._crew import Crew, Work
from torchdali.pipeline._handover import Handover
from torchdali.pipeline._produce import WAIT_SECONDS, BatchMaker, Turns
from torchdali.pipeline._share import AnyReader, SharingReader
from torchdali.pipeline._stage_call import Stage
from torchdali.pipeline._statistics import StageTotals

__all__ = ["RemoteProducer"]

_GLANCE_SECONDS = 0.001
"""How long a batch is waited for while workers could be given another one."""


class RemoteProducer(BatchMaker):
    """Makes a pipeline's batches in the processes of a crew; as :class:`~torchdali.pipeline._produce.Producer` does here.

    Args:
        pipeline, reader, turns, handover, name: as there.
        crew: runs the stage.
    """

    def __init__(
        self, pipeline: Stage, reader: AnyReader, turns: Turns, handover: Handover, crew: Crew, *, name: str
    ) -> None:
        super().__init__(pipeline, reader, turns, handover, name=name)
        self._stage = handover
        self._crew = crew
        self._under_way: deque[Work | Outcome] = deque()
        """In order; an outcome where there was nothing for the stage to do."""
        self._at_end = False
        self.stage_seconds: dict[str, float] = {}
        self.totals = StageTotals()

    def _make(self) -> Outcome | None:
        pipeline: Any = self._pipeline()
        if pipeline is None:  # dropped meanwhile; nobody will see this
            return Outcome(error=StopIteration(), last=True)
        begin = time.perf_counter()
        self._fill(pipeline)
        if not self._under_way:
            self._starved += self._waited("wait for workers", begin)
            return None
        first = self._under_way[0]
        if isinstance(first, Work):
            full = self._at_end or len(self._under_way) >= self._crew.room
            hungry = not full and sum(isinstance(work, Work) for work in self._under_way) < self._crew.size
            begin = time.perf_counter()
            with _spans.labelled("wait for stage workers"):
                self._doing = self._crew.wait(first, WAIT_SECONDS if full else _GLANCE_SECONDS)
            waited = self._waited("wait for stage workers", begin)
            if hungry:  # one of them had nothing to do meanwhile, as there was nothing to give it
                self._starved += waited
            if self._doing:
                return None
            self._under_way.popleft()
            return self._finish(pipeline, first)
        self._under_way.popleft()
        if first.last:
            self._at_end = False
        return first

    def _fill(self, pipeline: Any) -> None:
        """Give out what is there; waits only where nothing is under way."""
        while not self._at_end and len(self._under_way) < self._crew.room:
            try:
                with self._turns.often():
                    self._doing = self._reader.wait(0.0 if self._under_way else WAIT_SECONDS)
                    if self._doing:
                        return
                    batch = self._reader.peek()
                    self._reader.advance()
                self._under_way.append(self._crew.submit(pipeline, batch))
            except StopIteration:
                self._under_way.append(Outcome(error=StopIteration(), last=True))
                self._at_end = True
            except BaseException as error:  # in its turn: there are others under way
                self._under_way.append(Outcome(error=error))

    def _finish(self, pipeline: Any, work: Work) -> Outcome | None:
        begin = time.perf_counter()
        try:
            with self._stage.stage(), _spans.labelled("take in"):
                made = self._crew.receive(pipeline, work)
                event = self._stage.finished()
        except BaseException as raised:  # likewise
            return Outcome(error=raised)
        finally:
            self.unpack_seconds += self._waited("take in", begin)
        if isinstance(made, Work):
            self._under_way.appendleft(made)
            return None
        reply = made.reply
        if isinstance(self._reader, SharingReader):
            self._reader.learn(reply.observation)
        modules = dict(pipeline.named_modules()) if reply.counts else {}
        for name, counts in reply.counts.items():
            module = modules.get(name)  # the user may have taken it out here meanwhile
            if isinstance(module, DecodeImage):
                for counter, value in counts.items():
                    setattr(module.statistics, counter, getattr(module.statistics, counter) + value)
        for name, seconds in reply.seconds.items():
            self.stage_seconds[name] = self.stage_seconds.get(name, 0.0) + seconds
        self.totals = self.totals.plus(reply.totals)
        return Outcome(
            made.outputs,
            samples=len(work.batch.indices),
            event=event,
            draws=made.draws,
            warnings=tuple(reply.warnings),
        )

    def forget(self) -> None:
        """Drop what is under way; while the thread does nothing."""
        while self._under_way:
            work = self._under_way.popleft()
            if isinstance(work, Work):
                self._crew.cancel(work)
        self._at_end = False
