"""Fetching that can be taken up where it was left: batches come with what is needed for that."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

from torchdali.loader._fetch import Fetcher
from torchdali.loader._random import RandomState

__all__ = ["Fetching", "Snapshot", "is_stateful"]

Snapshot = tuple[int, bytes]
"""How many batches had been made in the epoch, and what dataset, iterator and generators were in then."""


def is_stateful(value: object) -> bool:
    """Whether something can give and take its state."""
    return callable(getattr(value, "state_dict", None)) and callable(getattr(value, "load_state_dict", None))


class Fetching:
    """A fetcher, begun anew with each epoch.

    Args:
        make: makes the fetcher.
        every: a snapshot is taken after each so many batches; 0: never.
        alone: this process does nothing else: its generators are part of it, and so is the dataset, which in the main process
            can be asked when its state is wanted.
    """

    def __init__(self, make: Callable[[], Fetcher], every: int, *, alone: bool) -> None:
        self._make = make
        self._every = every
        self._alone = alone
        self._seeded: RandomState | None = None
        self._sent: RandomState | None = None
        self._at_begin: RandomState | None = None
        self._refusal: str | None = None
        self._fetcher: Fetcher | None = None
        self._awaited: tuple[int, RandomState] | None = None
        """What the generators are to be set to once so many batches were skipped."""

    def seeded(self) -> None:
        """The generators are in a state that is known from the seed: it need not be told."""
        self._seeded = self._sent = RandomState()

    # --- in -----------------------------------------------------------------------------------------------------------

    def begin(self, resume: Snapshot | None = None) -> None:
        """Begin an epoch, or go on with one."""
        if self._awaited is not None:  # of an epoch in which no batch was wanted any more
            self._awaited[1].restore()
        self._awaited = self._sent = None
        batches, state = (0, {}) if resume is None else (resume[0], pickle.loads(resume[1]))
        if self._alone:
            at_begin = state.get("random_at_begin") or (None if batches else state.get("random"))
            if at_begin is not None:
                RandomState.from_dict(at_begin).restore()
            self._at_begin = RandomState()
        fetcher = self._make()
        if "dataset" in state:
            fetcher.dataset.load_state_dict(state["dataset"])
            if state.get("another_epoch"):
                fetcher.begin()  # the one that the state is of, and is over
        fetcher.begin()
        if "iterator" in state:
            fetcher.iterator.load_state_dict(state["iterator"])
        fetcher.over = state.get("over", False)
        if "dataset" in state or "iterator" in state or fetcher.skips_for_nothing:
            fetcher.batches = batches
        if self._alone and batches and "random" in state:
            self._awaited = batches, RandomState.from_dict(state["random"])
            if fetcher.batches == batches:
                self._restore_random()
        self._fetcher = fetcher

    def _restore_random(self) -> None:
        assert self._awaited is not None
        self._awaited[1].restore()
        self._awaited = None

    # --- out ----------------------------------------------------------------------------------------------------------

    def fetch(self, number: int, index: Any) -> tuple[Any, bytes | None]:
        """A batch, and the state after it if it is time for that and something has changed.

        Args:
            number: of the batch among those of this process; what lies between it and the one before is skipped.
            index: from the sampler.

        Raises:
            StopIteration: an iterable dataset has no more.
            Exception: of the user's code.
        """
        fetcher = self._fetcher
        assert fetcher is not None
        if self._awaited is not None:
            fetcher.skip_to(self._awaited[0], index)
            self._restore_random()
        batch = fetcher.fetch(number, index)
        due = self._every and not (number + 1) % self._every
        return batch, self.snapshot() if due or fetcher.over else None

    def end_turn(self, number: int) -> None:
        """Batch ``number`` was handed out or raised; it is not asked for again."""
        assert self._fetcher is not None
        self._fetcher.end_turn(number)

    def snapshot(self) -> bytes | None:
        """The state now, if it is wanted at all and something has changed."""
        if not self._every:
            return None
        fetcher = self._fetcher
        assert fetcher is not None
        state: dict[str, Any] = {}
        changed = False
        if self._alone:
            random = RandomState()
            changed = random != self._sent
            self._sent = random
            if random != self._seeded:
                state["random"] = random.to_dict()
            if not fetcher.skips_for_nothing and self._at_begin is not None and self._at_begin != self._seeded:
                state["random_at_begin"] = self._at_begin.to_dict()  # an order may have been drawn from it
        if fetcher.over:
            state["over"] = changed = True
        if self._refusal is None:
            try:
                parts = self._parts(fetcher)
                if parts:
                    return pickle.dumps({**state, **parts})
            except Exception as error:  # methods of that name may mean something else
                self._refusal = f"{type(error).__name__}: {error}"
                changed = True
        if self._refusal is not None:
            state["refusal"] = self._refusal
        return pickle.dumps(state) if changed and state else None

    def _parts(self, fetcher: Fetcher) -> dict[str, Any]:
        """What dataset and iterator say of their state."""
        parts = {}
        if is_stateful(fetcher.iterator):
            parts["iterator"] = fetcher.iterator.state_dict()
        if fetcher.iterator is not fetcher.dataset and is_stateful(fetcher.dataset) and (self._alone or parts):
            parts["dataset"] = fetcher.dataset.state_dict()
        return parts
