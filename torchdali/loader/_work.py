"""What a loader's workers do: one object that they inherit or are sent, whose methods are the pool's functions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

from torch.utils.data._utils import worker as torch_worker

from torchdali.loader._collate import collate_for_worker, collate_in_ordinary_memory
from torchdali.loader._fetch import Fetcher, make_fetcher
from torchdali.loader._fetching import Fetching
from torchdali.loader._pipes import seed_pipes
from torchdali.loader._random import seed_worker

__all__ = ["Answer", "Begin", "Request", "Work"]


class Begin(NamedTuple):
    """The beginning of an epoch."""

    serial: int
    """Two with the same one are the same."""
    base_seed: int
    shared_seed: int | None
    """Of torch's data pipes."""
    anew: bool = False
    """Seed the generators again, also in a worker that has done so before."""
    snapshots: tuple[tuple[int, bytes] | None, ...] = ()
    """For each worker, if there is something to resume: how many batches it had made, and the state it was in then."""


Request = tuple[int, int, Any, Begin | None]
"""(serial of the epoch's beginning, number of the batch among those of its worker, index from the sampler, the beginning itself
if this may be the first that the worker hears of it)."""

Answer = tuple[Any, bytes | None] | tuple[bytes | None]
"""(batch, state after it if it is sent along), or at the end of an iterable dataset (state after it,)."""


class Work:
    """Fetches batches.

    Args:
        dataset, iterable, auto_collation, collate_fn, drop_last, worker_init_fn: of the loader.
        num_workers: how many do this.
        snapshot_every_n_steps: how often a state is sent along, 0: never.
    """

    def __init__(
        self,
        dataset: Any,
        *,
        iterable: bool,
        auto_collation: bool,
        collate_fn: Callable[[Any], Any],
        drop_last: bool,
        worker_init_fn: Callable[[int], Any] | None,
        num_workers: int,
        snapshot_every_n_steps: int,
    ) -> None:
        self.begin_with: Begin | None = None
        """Set by the parent before it starts workers; None: :meth:`begin` will tell."""
        self._dataset = dataset
        self._iterable = iterable
        self._auto_collation = auto_collation
        self._collate_fn = collate_fn
        self._drop_last = drop_last
        self._worker_init_fn = worker_init_fn
        self._num_workers = num_workers
        self._every = snapshot_every_n_steps
        # In a worker:
        self._index = -1
        self._serial = -1
        self._seeded = False
        self._broken: Exception | None = None
        self._over = False
        """An iterable dataset has come to its end in this epoch."""
        self._fetching = Fetching(self._make_fetcher, snapshot_every_n_steps, alone=True)

    def initialize(self, index: int) -> None:
        """Worker: the first thing that is done in it."""
        self._index = index
        if self.begin_with is not None:
            self.begin(self.begin_with)

    def begin(self, begin: Begin) -> None:
        """Worker: begin an epoch; what that raises is raised for each of its batches."""
        if begin.serial <= self._serial:  # it was told before, or is left over from an epoch before
            return
        self._serial = begin.serial
        self._broken = None
        self._over = False
        try:
            if begin.anew or not self._seeded:
                self._begin_worker(begin)
            self._seed_pipes(begin.shared_seed)
            self._fetching.begin(begin.snapshots[self._index] if begin.snapshots else None)
        except Exception as error:
            self._broken = error

    def _begin_worker(self, begin: Begin) -> None:
        seed = seed_worker(begin.base_seed, self._index)
        self._fetching.seeded()
        self._seed_pipes(begin.shared_seed)
        if self._seeded:
            return
        collate_in_ordinary_memory()
        # What `torch.utils.data.get_worker_info` tells, which the user's code and torch's own ask.
        torch_worker._worker_info = torch_worker.WorkerInfo(
            id=self._index, num_workers=self._num_workers, seed=seed, dataset=self._dataset
        )
        if self._worker_init_fn is not None:
            self._worker_init_fn(self._index)
        self._seeded = True

    def _seed_pipes(self, shared_seed: int | None) -> None:
        if shared_seed is not None:
            self._dataset = seed_pipes(self._dataset, shared_seed)

    def _make_fetcher(self) -> Fetcher:
        collate_fn = collate_for_worker(self._collate_fn)
        return make_fetcher(self._dataset, self._iterable, self._auto_collation, collate_fn, self._drop_last)

    def fetch(self, request: Request) -> Answer:
        """Worker: make a batch."""
        serial, number, index, begin = request
        if begin is not None:
            self.begin(begin)
        if serial != self._serial:  # left over from an epoch that this worker was not there for; nobody waits for it
            return (None,)
        if self._broken is not None:
            raise self._broken.with_traceback(None)
        if self._over:
            return (None,)
        try:
            return self._fetching.fetch(number, index)
        except StopIteration:
            if not self._iterable:
                raise
            self._over = True
            return (self._fetching.snapshot(),)
        except BaseException as error:
            with contextlib.suppress(Exception):  # it has its turn too, and may have drawn before it raised
                error._torchdali_snapshot = self._fetching.snapshot()  # type: ignore[attr-defined]
            raise
        finally:
            self._fetching.end_turn(number)
