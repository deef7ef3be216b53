"""An epoch in the main process: torch's iterator, which also knows how far it is and which sample raised."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch.utils.data import _utils
from torch.utils.data.dataloader import _BaseDataLoaderIter, _SingleProcessDataLoaderIter

from torchdali._spans import tally
from torchdali.loader._errors import warn_of_stop
from torchdali.loader._fetch import Fetcher, make_fetcher
from torchdali.loader._fetching import Fetching
from torchdali.loader._handing import HandingOver
from torchdali.loader._measure import meter_of
from torchdali.loader._own import is_iterable
from torchdali.loader._pipes import seed_pipes, shard_pipes
from torchdali.loader._random import RandomState, generators_of
from torchdali.loader._resume import replay, resuming
from torchdali.loader._sampling import NO_STATE, SamplerStates, draws_from_torch_alone
from torchdali.loader._state import Delivery, Progress
from torchdali.pool import deferred_interrupt

if TYPE_CHECKING:
    from torchdali.loader._loader import DataLoader

__all__ = ["SerialIterator"]


class SerialIterator(HandingOver, _SingleProcessDataLoaderIter):
    """Iterates over a loader without workers.

    Args:
        loader: whose next epoch this is.
    """

    ready = False
    """Whether a batch can be had without waiting: none is made before it is asked for."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self._meter, self._own, self._times = meter_of(loader), loader._torchdali, loader._torchdali.times
        resume = loader._torchdali.take_resume(loader)
        start = RandomState(generators_of(loader), torch_alone=draws_from_torch_alone(loader))
        self._sampler_states = SamplerStates(loader)
        sampler = self._sampler_states.take()
        with resuming(loader, resume):
            _BaseDataLoaderIter.__init__(self, loader)
        if self._timeout != 0:
            raise AssertionError("_SingleProcessDataLoaderIter requires timeout == 0")
        own = loader._torchdali
        self._fetching = Fetching(self._make_fetcher, own.snapshot_every_n_steps, alone=False)
        if resume is None:
            self.progress = Progress.before(0, is_iterable(loader))
            self.progress.epoch = own.next_epoch()
            self.progress.base_seed = int(self._base_seed)
            self.progress.shared_seed = self._shared_seed
            self.progress.start, self.progress.seed_after_start = start, True
            self.progress.sampler = None if sampler is NO_STATE else sampler
        else:
            self._sampler_iter = replay(loader, resume)
            self.progress = resume.progress(0)
            if self.progress.shared_seed is not None:
                self._dataset = seed_pipes(self._dataset, self.progress.shared_seed)
        shard_pipes(self._dataset, self._world_size, self._rank)
        self._fetching.begin(None if resume is None else next(iter(resume.snapshots()), None))
        self.progress.dataset = self._dataset
        self._count = self.progress.counts[0]
        self._numbers = self.progress.numbers()
        self._index: tuple[Any, Any] | None = None
        """What is being fetched, and the sampler's state after it."""
        self._handed = None
        own.progress = self.progress
        self.on_event: Callable[[Delivery], None] = self.progress.note

    def read_on(self, stream: Any) -> None:
        """Batches are copied from on this CUDA stream; torch's own pinned memory knows of it by itself."""

    def _make_fetcher(self) -> Fetcher:
        iterable = self.progress.iterable
        return make_fetcher(self._dataset, iterable, self._auto_collation, self._collate_fn, self._drop_last)

    def _next_data(self) -> Any:
        if self._handed is None:
            try:
                if self._index is None:
                    with deferred_interrupt():
                        self._index = next(self._sampler_iter), self._sampler_states.take()
                        self.progress.drawn = True
                self._fetch(*self._index)
            except StopIteration:
                self.progress.finished = True
                raise
        assert self._handed is not None
        return self._handed[0]

    def _fetch(self, index: Any, sampler: Any) -> None:
        begin, read, collated = time.perf_counter(), tally.read, tally.collated
        try:
            batch, snapshot = self._fetching.fetch(self._count, index)
        except StopIteration as error:
            self._index = None
            if not self.progress.iterable:
                warn_of_stop(error)
            raise
        except KeyboardInterrupt:  # the user's, not the batch's, which comes again
            raise
        except BaseException:  # it was this batch's turn, and the next one can be had
            self._deliver(self._fetching.snapshot(), sampler)
            raise
        finally:
            self._times.source += time.perf_counter() - begin
            self._times.read += tally.read - read
            self._times.collate += tally.collated - collated
        if self._pin_memory:
            batch = _utils.pin_memory.pin_memory(batch, self._pin_memory_device)
        with deferred_interrupt():  # Ctrl-C before this loses nothing, nor does it after
            self._deliver(snapshot, sampler)
            self._handed = (batch,)

    def _deliver(self, snapshot: bytes | None, sampler: Any) -> None:
        self._fetching.end_turn(self._count)
        self._count += 1
        self._index = None
        self.on_event(Delivery(next(self._numbers), 0, self._count, snapshot, sampler))
