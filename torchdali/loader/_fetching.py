"""Fetching that can be taken up where it was left: batches come with what is needed for that."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

from torchdali.loader._fetch import Fetcher
from torchdali.loader._random import RandomState

__all__ = ["Fetching", "Snapshot", "is_stateful"]

Snapshot = tuple[int, bytes]
"""How many batches had been made, and what dataset, iterator and generators were in then."""


def is_stateful(value: object) -> bool:
    """Whether something can give and take its state."""
    return callable(getattr(value, "state_dict", None)) and callable(getattr(value, "load_state_dict", None))


class Fetching:
    """A fetcher, begun anew with each epoch.

    Args:
        make: makes the fetcher.
        every: a snapshot is taken after each so many batches; 0: never.
        random: the generators of this process are part of it.
    """

    def __init__(self, make: Callable[[], Fetcher], every: int, *, random: bool) -> None:
        self._make = make
        self._every = every
        self._with_random = random
        self._random: RandomState | None = None
        self._fetcher: Fetcher | None = None
        self._resume: Snapshot | None = None

    def seeded(self) -> None:
        """The generators are in a state that is known from the seed: it need not be told."""
        self._random = RandomState()

    def begin(self, resume: Snapshot | None = None) -> None:
        """Begin an epoch, or go on with one; in that case nothing is done before the first batch is wanted."""
        self._resume = resume
        self._fetcher = None
        if resume is None:
            self._fetcher = self._make()
            self._fetcher.begin()

    def fetch(self, number: int, index: Any) -> tuple[Any, bytes | None]:
        """A batch, and the state after it if it is time for that and something has changed.

        Args:
            number: of the batch among those of this process; what lies between it and the one before is skipped.
            index: from the sampler.

        Raises:
            StopIteration: an iterable dataset has no more.
            Exception: of the user's code.
        """
        if self._fetcher is None:
            assert self._resume is not None
            self._fetcher = self._restored(*self._resume, index)
            self._resume = None
        batch = self._fetcher.fetch(number, index)
        if self._every and (number + 1) % self._every == 0:
            return batch, self._take(self._fetcher)
        return batch, None

    def _take(self, fetcher: Fetcher) -> bytes | None:
        state: dict[str, Any] = {}
        if self._with_random:
            random = RandomState()
            if random != self._random:
                self._random = random
                state["random"] = random.to_dict()
        if is_stateful(fetcher.dataset):
            state["dataset"] = fetcher.dataset.state_dict()
        if fetcher.iterator is not fetcher.dataset and is_stateful(fetcher.iterator):
            state["iterator"] = fetcher.iterator.state_dict()
        return pickle.dumps(state) if state else None

    def _restored(self, batches: int, pickled: bytes, index: Any) -> Fetcher:
        state = pickle.loads(pickled)
        fetcher = self._make()
        if "dataset" in state:
            fetcher.dataset.load_state_dict(state["dataset"])
        fetcher.begin()
        if "iterator" in state:
            fetcher.iterator.load_state_dict(state["iterator"])
        if "dataset" in state or "iterator" in state:
            fetcher.batches = batches
        while fetcher.batches < batches:
            fetcher.skip(index)
        if "random" in state:
            self._random = RandomState.from_dict(state["random"])
            self._random.restore()
        return fetcher
