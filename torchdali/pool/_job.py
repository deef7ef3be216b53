"""A job: one batch of calls, split into runs, and what has come back of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torchdali.pool._arena import Bytes, Slot

__all__ = ["Job", "Part", "Raised", "Run"]


class Run(NamedTuple):
    """Neighbouring items of a job that one worker takes together."""

    first: int
    size: int


class Raised(NamedTuple):
    """Stands in the results for a call that raised."""

    exception: BaseException


class Part(NamedTuple):
    """What a run became: a description with the memory its pieces lie in, or the exception that took its place."""

    description: bytes | None
    memory: Bytes | None
    """None: in the job's slot, at the run's place."""
    error: BaseException | None = None


@dataclass(eq=False)
class Job:
    """One batch of calls on its way; made by :meth:`WorkerPool.submit`, to be given to :meth:`WorkerPool.collect`."""

    function: int
    items: list[Any]
    runs: list[Run]
    pickled: list[bytes]
    """The items of each run."""
    slot: Slot | None
    item_capacity: int
    parts: dict[int, Part] = field(default_factory=dict)
    cancelled: bool = False
    results: list[Any] | None = None

    @property
    def complete(self) -> bool:
        """True when every run has come back and none was unpacked yet."""
        return len(self.parts) == len(self.runs)

    def release(self) -> None:
        """Give back the slot of a job whose results nobody wants."""
        self.parts.clear()
        if self.slot is not None:
            self.slot.release()
            self.slot = None

    def place(self, run: int) -> tuple[int, int]:
        """(offset in the slot, capacity) of a run."""
        return self.runs[run].first * self.item_capacity, self.runs[run].size * self.item_capacity
