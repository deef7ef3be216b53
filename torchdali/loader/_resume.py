"""Going on from a saved state: the sampler is taken to where it was, workers are told what they had done."""

from __future__ import annotations

import copy
import itertools
import operator
import pickle
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

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
        self._loader = loader
        try:
            self._read(loader)
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise _no_state(state) from error

    def _read(self, loader: DataLoader[Any]) -> None:
        state, iterable = self.state, is_iterable(loader)
        self.finished = bool(state["finished"])
        self.batches = operator.index(state["batches"])
        self.beyond = set(map(operator.index, state["beyond"]))
        for generator in (*state["generators"], *([] if state["start"] is None else state["start"]["own"])):
            torch.Generator().set_state(generator)  # raises TypeError if it is none
        missing = Progress.before(0, iterable).to_dict(loader).keys() - state.keys()
        if missing:
            raise KeyError(*missing)
        self.start = None if state["start"] is None else RandomState.from_dict(state["start"])
        self.begun = self.start is not None and not self.finished
        """Whether there is an epoch to go on with."""
        streams, saved = max(1, loader.num_workers), max(1, state["num_workers"])
        self._same_streams = streams == saved
        self.continues = (
            self.finished and self._same_streams and state["persistent"] and bool(loader.persistent_workers)
        )
        """Whether the next epoch is to be begun as by the workers of the one that is over."""
        every = max(1, state["snapshot_every_n_steps"])
        self.kept_from = self.batches - saved * (every - 1) if every > 1 else self.batches
        self.skipped: dict[int, Any] = {}
        """The last indices that were delivered, by the number of their batch: more recent than the workers' states."""
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
                f"the state is of a loader with {kinds[state['iterable']]} dataset, this one has {kinds[iterable]} one; load it "
                "where the dataset is the one that it was saved of"
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

    def again(self, worker: int) -> list[tuple[int, Any]]:
        """What a worker has to make again, to nobody's use, to be where it was: numbers among its batches, and indices.

        What came after its last snapshot, if there is not one after each batch.
        """
        if not self._same_streams or self.beyond or is_iterable(self._loader):
            return []
        every = max(1, self.state["snapshot_every_n_steps"])
        made, streams = self.state["workers"][worker]["batches"], max(1, self.state["num_workers"])
        numbers = [(count, count * streams + worker) for count in range(made // every * every, made)]
        return [(count, self.skipped[number]) for count, number in numbers if number in self.skipped]

    def known_by_worker(self) -> dict[int, Known]:
        """For :class:`~torchdali.loader._state.Progress`."""
        return {index: Known(*known) for index, known in enumerate(self.snapshots()) if known is not None}

    def restore_between_epochs(self, loader: DataLoader[Any]) -> None:
        """Of a state between two epochs: set what lives on from one to the next."""
        self.restore_generators(loader)
        sampler = stateful_sampler(loader)
        if self.finished and sampler is not None and self.state["sampler"] is not None:
            self.load_sampler_at_end(loader, sampler, sampler)
            self.restore_generators(loader)
        if loader.num_workers == 0 and self.known[0] is not None and is_stateful(loader.dataset):
            state = pickle.loads(self.known[0][1])
            if "dataset" in state:
                loader.dataset.load_state_dict(state["dataset"])  # type: ignore[attr-defined]
                if self.finished and is_iterable(loader):
                    iter(loader.dataset)  # the epoch that the state is of, and is over

    def load_sampler_at_end(self, loader: DataLoader[Any], sampler: Any, iterable: Any) -> None:
        """Bring a stateful sampler to the end of its epoch, where it may be already.

        Some have gone over to the next epoch with their last index, others do so when they are asked for one more.
        """
        sampler.load_state_dict(copy.deepcopy(self.state["sampler"]))
        nothing = object()
        if next(iter(iterable), nothing) is not nothing:
            self.restore_generators(loader)
            sampler.load_state_dict(copy.deepcopy(self.state["sampler"]))

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


def _left(loader: DataLoader[Any], resume: Resume) -> int | None:
    """How many indices there are beyond those delivered; None if that is not known."""
    try:
        return max(0, len(loader._index_sampler) - resume.batches)
    except (TypeError, NotImplementedError):
        return None


def replay(loader: DataLoader[Any], resume: Resume) -> Iterator[Any]:
    """The rest of the indices of an epoch: its sampler is begun anew from the same random state, and taken as far.

    Draws that the sampler makes from generators of the loader's own go on from there; those of the process are left as
    they were.
    """
    sampler = stateful_sampler(loader)
    if sampler is not None and resume.state["sampler"] is not None:
        resume.restore_generators(loader)
        if _left(loader, resume) == 0:
            resume.load_sampler_at_end(loader, sampler, loader._index_sampler)
            return iter(())
        sampler.load_state_dict(copy.deepcopy(resume.state["sampler"]))
        if not resume.state["num_workers"]:  # nothing had been drawn ahead, and what they share is as it was
            resume.restore_generators(loader)
        return iter(loader._index_sampler)
    if is_iterable(loader):  # nothing is drawn for indices
        resume.restore_generators(loader)
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
            for number in range(resume.batches):
                index = next(indices, None)
                if number >= resume.kept_from:
                    resume.skipped[number] = index
            ahead = list(itertools.islice(indices, 1))  # drawn here, as many samplers draw nothing before it
    finally:
        here.restore()
    following = zip(itertools.count(resume.batches), itertools.chain(ahead, indices))
    return (index for number, index in following if number not in resume.beyond)
