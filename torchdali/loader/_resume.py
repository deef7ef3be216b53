"""Going on from a saved state: the sampler is taken to where it was, workers are told what they had done."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from torchdali.loader._fetching import is_stateful
from torchdali.loader._random import RandomState, generators_of
from torchdali.loader._state import VERSION, Progress

if TYPE_CHECKING:
    from torchdali.loader._loader import DataLoader

__all__ = ["Resume", "replay", "resuming", "sampler_state", "stateful_sampler"]


class resuming:
    """Context in which torch's constructor may draw what it likes: it goes on with an epoch whose draws were made before.

    Args:
        loader: whose generators are left as they were.
        resume: None: there is nothing to go on with, and what is drawn is drawn.
    """

    def __init__(self, loader: DataLoader[Any], resume: Resume | None) -> None:
        self._generators = generators_of(loader) if resume is not None else None

    def __enter__(self) -> None:
        if self._generators is not None:
            self._before = RandomState(self._generators)

    def __exit__(self, *_: object) -> None:
        if self._generators is not None:
            self._before.restore(self._generators)


class Resume:
    """A saved state, to be gone on from.

    Args:
        state: of :meth:`Progress.to_dict`.
        loader: that is to go on.

    Raises:
        ValueError: it is no such state, or the loader cannot go on from it.
    """

    def __init__(self, state: dict[str, Any], loader: Any) -> None:
        if not isinstance(state, dict) or state.get("version") != VERSION or "batches" not in state:
            known = sorted(map(str, state)) if isinstance(state, dict) else type(state).__name__
            raise ValueError(
                f"this is no state of torchdali.DataLoader of version {VERSION} (it has {known}); "
                "give load_state_dict what state_dict returned"
            )
        iterable = loader._iterable
        if state["iterable"] != iterable and not state["finished"]:
            kinds = ("map-style", "iterable")
            raise ValueError(
                f"the state is of a loader with an {kinds[state['iterable']]} dataset, this one is {kinds[iterable]}"
            )
        streams, saved = max(1, loader.num_workers), max(1, state["num_workers"])
        self.streams_differ = streams != saved
        if iterable and self.streams_differ and not state["finished"]:
            raise ValueError(
                f"the state was saved with num_workers={state['num_workers']}, this loader has {loader.num_workers}: each "
                "worker reads its own part of an iterable dataset, so the number has to be the same to go on from there"
            )
        self.state = state
        self.finished: bool = state["finished"]
        self.batches: int = state["batches"]
        self.beyond: set[int] = set(state["beyond"])
        self.start = None if state["start"] is None else RandomState.from_dict(state["start"])

    @property
    def begun(self) -> bool:
        """Whether there is an epoch to go on with."""
        return not self.finished and (self.start is not None or self.state["sampler"] is not None)

    def snapshots(self) -> tuple[tuple[int, bytes] | None, ...]:
        """For each worker the number of its batches and a state, if it has one that still means something."""
        found: list[tuple[int, bytes] | None] = []
        for worker in self.state["workers"]:
            snapshot = None if self.streams_differ else worker["snapshot"]
            if snapshot is None:
                found.append(None)
            else:
                rest = {name: value for name, value in snapshot.items() if name != "batches"}
                found.append((snapshot["batches"], pickle.dumps(rest)))
        return tuple(found)

    def progress(self, num_workers: int) -> Progress:
        """What has been delivered, for a loader that goes on."""
        state = self.state
        streams = max(1, num_workers)
        progress = Progress(
            num_workers,
            state["iterable"],
            state["epoch"],
            state["base_seed"],
            state["shared_seed"],
            self.start,
            state["seed_after_start"],
            batches=self.batches,
            beyond=set(self.beyond),
            counts=[0] * streams,
            sampler=state["sampler"],
        )
        if not self.streams_differ:
            progress.counts = [worker["batches"] for worker in state["workers"]]
            progress.ended = {index for index, worker in enumerate(state["workers"]) if worker["ended"]}
            progress.next_worker = state["next_worker"]
            for index, snapshot in enumerate(self.snapshots()):
                if snapshot is not None:
                    progress.snapshots[index] = snapshot
        return progress

    def restore_generators(self, loader: Any) -> None:
        """Set the loader's own generators to what they were when the state was saved."""
        for generator, saved in zip(generators_of(loader), self.state["generators"], strict=False):
            generator.set_state(saved)


def stateful_sampler(loader: Any) -> Any:
    """What of a loader's samplers can give and take its state, the outer one first; None if none can.

    Nor where batches come out of order: what has been delivered is then no beginning of what the sampler gave.
    """
    if not loader.in_order:
        return None
    batch_sampler = loader.batch_sampler
    for sampler in (batch_sampler, getattr(batch_sampler, "sampler", None), loader.sampler):
        if sampler is not None and is_stateful(sampler):
            return sampler
    return None


def sampler_state(sampler: Any) -> Any:
    """What a stateful sampler says now; None without one."""
    return None if sampler is None else copy.deepcopy(sampler.state_dict())


def replay(loader: Any, resume: Resume) -> Iterator[Any]:
    """The rest of the indices of an epoch: its sampler is begun anew from the same random state, and taken as far.

    Draws that the sampler makes from generators of the loader's own go on from there; those of the process are left as
    they were.
    """
    sampler = stateful_sampler(loader)
    if sampler is not None and resume.state["sampler"] is not None:
        sampler.load_state_dict(copy.deepcopy(resume.state["sampler"]))
        resume.restore_generators(loader)
        return iter(loader._index_sampler)
    assert resume.start is not None
    generators = generators_of(loader)
    here = RandomState()
    try:
        resume.start.restore(generators)
        indices = iter(loader._index_sampler)
        if resume.state["seed_after_start"]:
            torch.empty((), dtype=torch.int64).random_(generator=loader.generator)
        for _ in range(0 if loader._iterable else resume.batches):
            next(indices, None)
        ahead = list(itertools.islice(indices, 1))  # drawn here, as many samplers draw nothing before it
    finally:
        here.restore()
    following = zip(itertools.count(resume.batches), itertools.chain(ahead, indices))
    return (index for number, index in following if number not in resume.beyond)
