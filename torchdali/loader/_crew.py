"""The workers of a loader: a pool, and what it does."""

from __future__ import annotations

import multiprocessing
from typing import TYPE_CHECKING, Any, NamedTuple

from torchdali.loader._own import is_iterable
from torchdali.loader._pin import memory_hook
from torchdali.loader._pipes import sharding_init_fn
from torchdali.loader._work import Work
from torchdali.pool import WorkerPool, default_memory_limit

if TYPE_CHECKING:
    from torchdali.loader._loader import DataLoader

__all__ = ["Crew"]

BATCH_BYTES = 64 << 20
"""Set aside for a batch before anything is known: memory that is not written to costs nothing."""

PINNED_BATCH_BYTES = 8 << 20
"""The same where memory is pinned, which costs all of it."""


class Crew(NamedTuple):
    """Workers, and what they do."""

    pool: WorkerPool
    work: Work
    hook: Any
    """:class:`~torchdali.pipeline._pinned.PinnedMemory`, if batches are to be pinned by it."""

    @classmethod
    def of(cls, loader: DataLoader[Any], dataset: Any, world_size: int, rank: int) -> Crew:
        """Ready to be started.

        Args:
            loader: whose options count.
            dataset: its dataset, with what torch's iterators have made of it.
            world_size, rank: of this process, for torch's data pipes.
        """
        own = loader._torchdali
        work = Work(
            dataset,
            iterable=is_iterable(loader),
            auto_collation=loader._auto_collation,
            collate_fn=loader.collate_fn,
            drop_last=loader.drop_last,
            worker_init_fn=sharding_init_fn(loader.worker_init_fn, dataset, world_size, rank),
            num_workers=loader.num_workers,
            snapshot_every_n_steps=own.snapshot_every_n_steps,
        )
        hook = memory_hook(loader)
        context = loader.multiprocessing_context or multiprocessing.get_context()
        pool = WorkerPool(
            [work.fetch, work.begin],
            loader.num_workers,
            name="DataLoader",
            start_method=context,
            dedicated=loader.num_workers,
            on_worker_death=own.on_worker_death,
            memory_limit=own.memory_limit,
            bytes_per_item=_first_guess(loader, pinned=hook is not None),
            initialize=work.initialize,
            memory_hook=hook,
        )
        return cls(pool, work, hook)


def _first_guess(loader: DataLoader[Any], *, pinned: bool) -> int:
    """Bytes to set aside for a batch, so that all that are under way take a part of the limit only."""
    limit = loader._torchdali.memory_limit or default_memory_limit()
    under_way = loader.num_workers * (loader.prefetch_factor or 1)
    return max(1, min(PINNED_BATCH_BYTES if pinned else BATCH_BYTES, limit // (4 * under_way)))
