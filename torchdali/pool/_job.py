"""A job: one batch of calls, split into runs, and what has come back of it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torchdali.pool._arena import Bytes, Slot
from torchdali.pool._codec import ALIGNMENT
from torchdali.pool._structure import Structure

__all__ = ["Items", "Job", "Part", "Raised", "Run", "Stacked"]


class Items(Sequence[Any]):
    """Items of a job that are made as they are asked for, and never change: a pool keeps them as they are.

    A slice of them is such again, and is what a worker is sent: worthwhile where that is smaller than its items.
    """

    @abstractmethod
    def __getitem__(self, index: Any) -> Any:
        """An item, or for a slice of step 1 some of them."""


class Run(NamedTuple):
    """Neighbouring items of a job that one worker takes together."""

    first: int
    size: int


class Raised(NamedTuple):
    """Stands in the results for a call that raised."""

    exception: BaseException


class Stacked(NamedTuple):
    """All results of a job in one: of the structure of a single one, with a first dimension for the items."""

    value: Any
    """Tensors and arrays have shape (items, ...); Python's numbers have become a tensor of shape (items,)."""
    size: int
    """Number of items."""


class Part(NamedTuple):
    """What a run became: descriptions with the memory their pieces lie in, or the exception that took its place."""

    descriptions: bytes | None
    memory: Bytes | None = None
    """None: in the job's slot, at the run's place."""
    described: list[int] | None = None
    """Positions in the run of what is described; None: all. The others are in the job's blocks."""
    structure: bytes | None = None
    error: BaseException | None = None
    ragged: bool = False
    """There is a table instead of descriptions."""


@dataclass(eq=False)
class Job:
    """One batch of calls on its way; made by :meth:`WorkerPool.submit`, to be given to :meth:`WorkerPool.collect`."""

    function: int
    items: Sequence[Any]
    lane: int
    priority: int
    stack: bool
    slot: Slot | None
    item_capacity: int
    structure: Structure | None = None
    """What the results are expected to have, where blocks are made for them."""
    packed_structure: bytes | None = None
    agreed: Structure | None = None
    """What the results of a complete job turned out to have, where no blocks were made for them."""
    runs: dict[int, Run] = field(default_factory=dict)
    """By number; a run that is lost can become several others."""
    parts: dict[int, Part] = field(default_factory=dict)
    tries: dict[int, int] = field(default_factory=dict)
    """How many workers have died of an item, by its position."""
    cancelled: bool = False
    results: Any = None

    @property
    def complete(self) -> bool:
        """True when every run has come back and none was unpacked yet."""
        return len(self.parts) == len(self.runs)

    @property
    def arrived(self) -> bool:
        """True when nobody need wait for its results."""
        return self.results is not None or self.complete

    def release(self) -> None:
        """Give back the slot of a job whose results nobody wants."""
        self.parts.clear()
        self.runs.clear()
        if self.slot is not None:
            self.slot.release()
            self.slot = None

    def place(self, run: Run) -> tuple[int, int]:
        """(offset in the slot, capacity) of what a run's results need if they are described."""
        if self.structure is not None:
            return 0, 0
        return run.first * self.item_capacity, run.size * self.item_capacity

    def offsets(self) -> list[int]:
        """Where the blocks of the job's structure begin in its slot."""
        assert self.structure is not None
        return self.structure.offsets(len(self.items), ALIGNMENT)[0]

    def items_of(self, run: Run) -> Sequence[Any]:
        """The items of a run."""
        return self.items[run.first : run.first + run.size]
