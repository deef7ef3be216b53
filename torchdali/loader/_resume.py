"""Going on from a saved state: the sampler is taken to where it was, workers are told what they had done."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torchdali.loader._fetching import Snapshot, is_stateful
from torchdali.loader._own import is_iterable
from torchdali.loader._random import RandomState, draw_seed, generators_of
from torchdali.loader._sampling import stateful_sampler
from torchdali.loader._state import VERSION, Known, Progress

if TYPE_CHECKING:
    from torchdali.loader._loader import DataLoader

__all__ = ["Resume", "replay", "resuming"]


class resuming:
    """Context in which torch's constructor may draw what it likes: it goes on with what was drawn before.

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
        state: of :meth:`~torchdali.loader._state.Progress.to_dict`.
        loader: that is to go on.

    Raises:
        ValueError: it is no such state, or the loader cannot go on from it.
    """

    def __init__(self, state: dict[str, Any], loader: DataLoader[Any]) -> None:
        if not isinstance(state, dict) or state.get("version") != VERSION:
            raise _no_state(state)
        self.state = dict(state)
        try:
            self._read(loader)
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise _no_state(state) from error

    def _read(self, loader: DataLoader[Any]) -> None:
        state, iterable = self.state, is_iterable(loader)
        self.finished: bool = state["finished"]
        self.batches: int = state["batches"]
        self.beyond: set[int] = set(state["beyond"])
        self.start = None if state["start"] is None else RandomState.from_dict(state["start"])
        self.begun = self.start is not None and not self.finished
        """Whether there is an epoch to go on with."""
        streams, saved = max(1, loader.num_workers), max(1, state["num_workers"])
        self._same_streams = streams == saved
        self.continues = (
            self.finished and self._same_streams and state["persistent"] and bool(loader.persistent_workers)
        )
        """Whether the next epoch is to be begun as by the workers of the one that is over."""
        self.known = [
            None
            if worker["snapshot"] is None
            else (
                worker["snapshot"]["batches"],
                pickle.dumps({k: v for k, v in worker["snapshot"].items() if k not in ("batches", "refusal")}),
            )
            for worker in state["workers"]
        ]
        if not self.begun:
            return
        if state["iterable"] != iterable:
            kinds = ("a map-style", "an iterable")
            raise ValueError(
                f"the state is of a loader with {kinds[state['iterable']]} dataset, this one has {kinds[iterable]} one"
            )
        if iterable and not self._same_streams:
            raise ValueError(
                f"the state was saved with num_workers={state['num_workers']}, this loader has {loader.num_workers}: each "
                "worker reads its own part of an iterable dataset, so the number has to be the same to go on from there"
            )

    def snapshots(self) -> tuple[Snapshot | None, ...]:
        """For each worker the number of its batches and a state, if it has one; nothing if there are other workers now."""
        return tuple(self.known) if self._same_streams else ()

    def progress(self, num_workers: int) -> Progress:
        """What has been delivered, for a loader that goes on."""
        state = self.state
        progress = Progress.before(num_workers, state["iterable"])
        progress.epoch = state["epoch"]
        progress.base_seed = state["base_seed"]
        progress.shared_seed = state["shared_seed"]
        progress.start = self.start
        progress.seed_after_start = state["seed_after_start"]
        progress.drawn = state["drawn"]
        progress.batches = self.batches
        progress.beyond = set(self.beyond)
        progress.sampler = copy.deepcopy(state["sampler"])
        progress.known = self.known_by_worker()
        if self._same_streams:
            progress.counts = [worker["batches"] for worker in state["workers"]]
            progress.ended = {index for index, worker in enumerate(state["workers"]) if worker["ended"]}
            progress.next_worker = state["next_worker"]
        return progress

    def known_by_worker(self) -> dict[int, Known]:
        """For :class:`~torchdali.loader._state.Progress`."""
        return {index: Known(*known) for index, known in enumerate(self.snapshots()) if known is not None}

    def restore_between_epochs(self, loader: DataLoader[Any]) -> None:
        """Of a state between two epochs: set what lives on from one to the next."""
        self.restore_generators(loader)
        sampler = stateful_sampler(loader)
        if self.finished and sampler is not None and self.state["sampler"] is not None:
            sampler.load_state_dict(copy.deepcopy(self.state["sampler"]))
            next(iter(sampler), None)  # it is at its last index, and shall find that it is
        if loader.num_workers == 0 and self.known[0] is not None and is_stateful(loader.dataset):
            state = pickle.loads(self.known[0][1])
            if "dataset" in state:
                loader.dataset.load_state_dict(state["dataset"])  # type: ignore[attr-defined]

    def restore_generators(self, loader: DataLoader[Any]) -> None:
        """Set the loader's own generators to what they were when the state was saved."""
        for generator, saved in zip(generators_of(loader), self.state["generators"], strict=False):
            generator.set_state(saved)


def _no_state(state: Any) -> ValueError:
    known = sorted(map(str, state)) if isinstance(state, dict) else f"a {type(state).__name__}"
    return ValueError(
        f"this is no state of torchdali.DataLoader, version {VERSION}; it has {known}. Give load_state_dict what state_dict "
        "returned"
    )


def replay(loader: DataLoader[Any], resume: Resume) -> Iterator[Any]:
    """The rest of the indices of an epoch: its sampler is begun anew from the same random state, and taken as far.

    Draws that the sampler makes from generators of the loader's own go on from there; those of the process are left as
    they were.
    """
    sampler = stateful_sampler(loader)
    if sampler is not None and resume.state["sampler"] is not None:
        resume.restore_generators(loader)
        sampler.load_state_dict(copy.deepcopy(resume.state["sampler"]))
        return iter(loader._index_sampler)
    assert resume.start is not None
    here = RandomState()
    ahead: list[Any] = []
    try:
        resume.start.restore(generators_of(loader))
        indices: Iterator[Any] = iter(loader._index_sampler)
        if resume.state["seed_after_start"]:
            draw_seed(loader.generator)
        if resume.state["drawn"]:
            for _ in range(0 if is_iterable(loader) else resume.batches):
                next(indices, None)
            ahead = list(itertools.islice(indices, 1))  # drawn here, as many samplers draw nothing before it
    finally:
        here.restore()
    following = zip(itertools.count(resume.batches), itertools.chain(ahead, indices))
    return (index for number, index in following if number not in resume.beyond)
