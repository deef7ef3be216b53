"""How far an epoch has got, as the consumer has seen it: what has to be saved to go on from there.

Workers and samplers are ahead of the consumer, so nothing here is asked of them when a state is wanted: with each batch
comes what its worker's state was after it, and with each index what the sampler's was, and both are noted when the batch
is delivered.
"""

from __future__ import annotations

import copy
import itertools
import pickle
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torchdali.loader._fetching import is_stateful
from torchdali.loader._random import RandomState, generators_of
from torchdali.loader._sampling import NO_STATE

__all__ = ["VERSION", "Delivery", "End", "Progress"]

VERSION = 1

_OF_ONE_EPOCH = ("iterator", "over", "random_at_begin")
"""What of a worker's state means nothing in the next epoch."""


class Known(NamedTuple):
    """What is known of a worker."""

    made: int
    """Batches that it had made in the epoch."""
    pickled: bytes
    """State of its dataset, iterator and generators then."""
    before: bool = False
    """It is from the epoch before."""

    def pack(self) -> tuple[int, bytes]:
        """For the worker that goes on from it."""
        state = self.unpack()
        return state.pop("batches"), pickle.dumps(state)

    def unpack(self) -> dict[str, Any]:
        """As part of a state."""
        state = pickle.loads(self.pickled)
        if self.before:
            state = {name: value for name, value in state.items() if name not in _OF_ONE_EPOCH}
            state["another_epoch"] = True
        return {"batches": 0 if self.before else self.made, **state}


class Delivery(NamedTuple):
    """A batch that is about to be delivered."""

    number: int
    """In the epoch."""
    worker: int
    made: int
    """Batches of its worker, with this one."""
    snapshot: bytes | None
    sampler: Any
    """State of a stateful sampler after this batch's index."""


class End(NamedTuple):
    """A worker has come to the end of its part of an iterable dataset."""

    worker: int
    snapshot: bytes | None


def _ask(dataset: Any) -> dict[str, Any]:
    try:
        return {"dataset": copy.deepcopy(dataset.state_dict())}
    except Exception as error:  # a method of that name may mean something else
        return {"refusal": f"{type(error).__name__}: {error}"}


@dataclass
class Progress:
    """Of one epoch."""

    num_workers: int
    iterable: bool
    epoch: int = 0
    """How many the loader had begun before."""
    base_seed: int = 0
    shared_seed: int | None = None
    start: RandomState | None = None
    """Of the generators before the sampler began."""
    seed_after_start: bool = False
    """Whether the base seed was drawn between that and the first index."""
    batches: int = 0
    """Delivered, without a gap."""
    beyond: set[int] = field(default_factory=set)
    """Numbers of batches that were delivered before others that come earlier."""
    finished: bool = False
    counts: list[int] = field(default_factory=list)
    """Batches delivered of each worker."""
    ended: set[int] = field(default_factory=set)
    next_worker: int = 0
    known: dict[int, Known] = field(default_factory=dict)
    """By worker."""
    drawn: bool = False
    """Whether the sampler has given anything."""
    persistent: bool = False
    """Whether the workers go on with the next epoch as they are."""
    sampler: Any = None
    """State of a stateful sampler after the last index that was delivered, or before the first."""
    dataset: Any = None
    """In this process, where it can be asked."""

    @classmethod
    def before(cls, num_workers: int, iterable: bool) -> Progress:
        """Of a loader that has not begun."""
        return cls(num_workers, iterable, counts=[0] * max(1, num_workers))

    def note(self, event: Delivery | End) -> None:
        """Note that a batch is delivered, or that a worker has come to its end."""
        if isinstance(event, Delivery):
            self._deliver(event)
            return
        self.ended.add(event.worker)
        if event.snapshot is not None:
            self.known[event.worker] = Known(self.counts[event.worker], event.snapshot)

    def _deliver(self, delivery: Delivery) -> None:
        self.beyond.add(delivery.number)
        while self.batches in self.beyond:
            self.beyond.remove(self.batches)
            self.batches += 1
        self.counts[delivery.worker] = delivery.made
        self.next_worker = (delivery.worker + 1) % max(1, self.num_workers)
        if delivery.snapshot is not None:
            self.known[delivery.worker] = Known(delivery.made, delivery.snapshot)
        if delivery.sampler is not None:
            self.sampler = None if delivery.sampler is NO_STATE else delivery.sampler

    def numbers(self) -> Iterator[int]:
        """Numbers of the batches that are still to be delivered."""
        beyond = frozenset(self.beyond)
        return (number for number in itertools.count(self.batches) if number not in beyond)

    def to_dict(self, loader: Any) -> dict[str, Any]:
        """For ``DataLoader.state_dict``."""
        workers = []
        for worker, count in enumerate(self.counts):
            known = self.known.get(worker)
            snapshot = None if known is None else known.unpack()
            if is_stateful(self.dataset) and (
                self.finished or snapshot is None or snapshot.keys() <= {"batches", "over"}
            ):
                snapshot = {**(snapshot or {}), "batches": count, **_ask(self.dataset)}
            if snapshot is not None and "refusal" in snapshot:
                warnings.warn(
                    f"the dataset's state cannot be taken ({snapshot.pop('refusal')}): a loader that goes on from here does not "
                    "set it, and reads an iterable dataset again up to this place",
                    RuntimeWarning,
                    stacklevel=3,
                )
            workers.append({"batches": count, "ended": worker in self.ended, "snapshot": snapshot})
        return {
            "version": VERSION,
            "num_workers": self.num_workers,
            "iterable": self.iterable,
            "epoch": self.epoch,
            "finished": self.finished,
            "batches": self.batches,
            "beyond": sorted(self.beyond),
            "base_seed": self.base_seed,
            "shared_seed": self.shared_seed,
            "start": None if self.start is None else self.start.to_dict(),
            "drawn": self.drawn,
            "snapshot_every_n_steps": loader._torchdali.snapshot_every_n_steps,
            "persistent": self.persistent,
            "seed_after_start": self.seed_after_start,
            "next_worker": self.next_worker,
            "workers": workers,
            "sampler": copy.deepcopy(self.sampler),
            "generators": [generator.get_state() for generator in generators_of(loader)],
        }
