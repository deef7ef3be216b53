"""The consumer's side of a report: how long it waited for each batch, and what it did in between."""

from __future__ import annotations

import copy
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torchdali import _spans
from torchdali.report._counts import Causes, Counts, Facts

if TYPE_CHECKING:
    from torchdali.report._report import Report

__all__ = ["Meter", "all_meters", "meter_of"]

_meters: weakref.WeakSet[Meter] = weakref.WeakSet()


def all_meters() -> list[Meter]:
    """Those of what is in use."""
    return list(_meters)


def meter_of(thing: Any) -> Meter | None:
    """That of a pipeline or loader; None if it is neither."""
    meter = getattr(thing, "_meter", None)
    return meter if isinstance(meter, Meter) else None


class Meter:
    """Counts for one pipeline or loader.

    Args:
        owner: that one; not kept alive.
        name: of it.
        fill: adds to the counts what the owner alone knows, and tells what does not change.
    """

    def __init__(self, owner: Any, name: str, fill: Callable[[Any, Counts], Facts]) -> None:
        self._owner = weakref.ref(owner)
        self._fill = fill
        self._returned: float | None = None
        """When the consumer got a batch last; None: the next one is the first of an iteration."""
        self.name = name
        self.counts = Counts()
        """Without what the owner fills in."""
        self._stalls: list[tuple[Any, Any]] = []
        """Pairs of events on the consumer's stream, before and after it waits for the stage's."""
        _meters.add(self)

    def begin(self) -> None:
        """The consumer begins an iteration."""
        self._returned = None

    def delivered(self, asked: float, samples: int, causes: Causes, ready: int = 0) -> None:
        """The consumer gets a batch, or what was raised for it.

        Args:
            asked: when it called for it, by ``time.perf_counter``.
            samples: in the batch.
            causes: of the wait; what is missing in them is put down to the hand-over.
            ready: further batches that are ready.
        """
        now = time.perf_counter()
        counts, before = self.counts, self._returned
        waited = now - asked
        counts.batches += 1
        counts.samples += samples
        if before is None:
            counts.epochs += 1
            counts.first_samples += samples
            counts.start += waited
        else:
            counts.step += asked - before
            counts.wait += waited
            counts.for_workers += causes.workers
            counts.for_stage += causes.stage
            counts.for_hand_over += max(0.0, waited - causes.workers - causes.stage)
            counts.ready += ready
        self._returned = now
        recorder = _spans.recorder
        if recorder is not None:
            owner = self._owner()
            recorder.seen[id(self)] = (self, owner)
            if before is not None:
                recorder.add(self.name, "consumer", "step", before, asked)
            recorder.add(self.name, "consumer", "wait", asked, now, samples=samples, ready=ready)

    def stalled(self, before: Any, after: Any) -> None:
        """The consumer's stream waits for the stage's between these events, once it gets there."""
        if self._returned is not None:
            self._stalls.append((before, after))
        self._settle()

    def _settle(self) -> None:
        while self._stalls and self._stalls[0][1].query():
            first, last = self._stalls.pop(0)
            seconds = first.elapsed_time(last) / 1000
            # On the host that is a part of the step, which takes the longer for it.
            self.counts.device_wait += seconds
            self.counts.wait += seconds
            self.counts.for_stage += seconds
            self.counts.step -= seconds

    # --- reports ------------------------------------------------------------------------------------------------------

    def read(self) -> tuple[Counts, Facts] | None:
        """All counts now; None once the owner is gone."""
        owner = self._owner()
        if owner is None:
            return None
        self._settle()
        counts = copy.deepcopy(self.counts)
        return counts, self._fill(owner, counts)

    def report(self) -> Report:
        """Of all that was done so far.

        Raises:
            RuntimeError: its owner is gone.
        """
        from torchdali.report._build import build_report

        read = self.read()
        if read is None:
            raise RuntimeError(f"{self.name} is gone, and its counters with it; ask for the report while it is in use")
        return build_report(*read)
