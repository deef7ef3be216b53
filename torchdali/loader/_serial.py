"""An epoch in the main process: torch's iterator, which also knows how far it is and which sample raised."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch.utils.data import _utils
from torch.utils.data.dataloader import _BaseDataLoaderIter, _SingleProcessDataLoaderIter

from torchdali.loader._errors import warn_of_stop
from torchdali.loader._fetch import Fetcher, make_fetcher
from torchdali.loader._fetching import Fetching
from torchdali.loader._random import RandomState, generators_of
from torchdali.loader._resume import replay, resuming, sampler_state, stateful_sampler
from torchdali.loader._state import Delivery, Progress

if TYPE_CHECKING:
    from torchdali.loader._loader import DataLoader

__all__ = ["SerialIterator"]


class SerialIterator(_SingleProcessDataLoaderIter):
    """Iterates over a loader without workers.

    Args:
        loader: whose next epoch this is.
    """

    ready = False
    """Whether a batch can be had without waiting: none is made before it is asked for."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        resume = loader._take_resume()
        start = RandomState(generators_of(loader)) if resume is None else resume.start
        with resuming(loader, resume):
            _BaseDataLoaderIter.__init__(self, loader)
        if self._timeout != 0:
            raise AssertionError(
                f"timeout is {self._timeout}, which is for batches from workers; num_workers is 0, so it has to be 0"
            )
        _shard_pipes(self._dataset, self._world_size, self._rank)
        self._loader_sampler = stateful_sampler(loader)
        self._fetching = Fetching(self._make_fetcher, loader.snapshot_every_n_steps, random=False)
        if resume is None:
            self.progress = Progress(
                0, loader._iterable, loader._next_epoch(), int(self._base_seed), self._shared_seed, start, True
            )
            self.progress.counts = [0]
            self._fetching.begin()
        else:
            self._sampler_iter = replay(loader, resume)
            self.progress = resume.progress(0)
            self._fetching.begin(next(iter(resume.snapshots()), None))
        self._count = self.progress.counts[0]
        self._numbers = self.progress.numbers()
        loader._progress = self.progress
        self.on_delivery: Callable[[Delivery], None] = self.progress.deliver

    def _make_fetcher(self) -> Fetcher:
        iterable = self.progress.iterable
        return make_fetcher(self._dataset, iterable, self._auto_collation, self._collate_fn, self._drop_last)

    def _next_data(self) -> Any:
        try:
            index = next(self._sampler_iter)
            sampler = sampler_state(self._loader_sampler)
            batch = self._fetch(index, sampler)
        except StopIteration:
            self.progress.finished = True
            raise
        if self._pin_memory:
            batch = _utils.pin_memory.pin_memory(batch, self._pin_memory_device)
        return batch

    def _fetch(self, index: Any, sampler: Any) -> Any:
        number, snapshot = self._count, None
        try:
            batch, snapshot = self._fetching.fetch(number, index)
        except StopIteration as error:
            if not self.progress.iterable:
                warn_of_stop(error)
            raise
        except Exception:
            self._deliver(None, sampler)  # it was this batch's turn, and the next one can be had
            raise
        self._deliver(snapshot, sampler)
        return batch

    def _deliver(self, snapshot: bytes | None, sampler: Any) -> None:
        self._count += 1
        self.on_delivery(Delivery(next(self._numbers), 0, self._count, snapshot, sampler))


def _shard_pipes(dataset: Any, world_size: int, rank: int) -> None:
    """What torch's data pipes need in a process without workers."""
    try:
        from torch.utils.data import IterDataPipe, MapDataPipe
        from torch.utils.data.graph_settings import apply_sharding
    except ImportError:  # a torch that has none any more
        return
    if isinstance(dataset, (IterDataPipe, MapDataPipe)):
        apply_sharding(dataset, world_size, rank)
