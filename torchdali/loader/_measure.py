"""What a loader counts for its report."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from torchdali.pool import PoolStatistics, WorkerPool
from torchdali.report import Counts, Facts, Meter

if TYPE_CHECKING:
    from torchdali.loader._loader import DataLoader
    from torchdali.loader._own import Own

__all__ = ["Times", "fill", "meter_of"]


class Size(NamedTuple):
    """Of a loader."""

    workers: int
    depth: int
    """Batches that workers may be ahead."""
    batch: int


@dataclass
class Times:
    """In this process, in seconds; and of the workers."""

    source: float = 0.0
    """Fetching batches from the dataset, where there are no workers."""
    read: float = 0.0
    collate: float = 0.0
    """Of that."""
    hand_over: float = 0.0
    """Taking in what workers wrote."""
    past: PoolStatistics = field(default_factory=PoolStatistics)
    """Of pools that are closed."""
    pools: weakref.WeakSet[WorkerPool] = field(default_factory=weakref.WeakSet)
    """Those that are not: each epoch without ``persistent_workers`` has its own."""

    def __reduce__(self) -> Any:
        """A copy of a loader begins at nothing."""
        return Times, ()

    def closed(self, pool: WorkerPool) -> None:
        """A pool is closed; called again it does nothing."""
        if pool in self.pools:
            self.pools.discard(pool)
            self.past = self.past.plus(pool.statistics())

    def workers(self) -> PoolStatistics:
        """Of all pools together."""
        total = self.past
        for pool in list(self.pools):
            total = pool.statistics().plus(total)
        return total.copy()


def meter_of(loader: DataLoader[Any]) -> Meter:
    """The loader's, made at the first time."""
    own = loader._torchdali
    if own.meter is None:
        size = Size(loader.num_workers, (loader.prefetch_factor or 0) * loader.num_workers, loader.batch_size or 1)
        own.meter = Meter(own, "DataLoader", partial(fill, size))  # not of the loader, which its iterator may outlive
    return own.meter


def fill(size: Size, own: Own, counts: Counts) -> Facts:
    """Add what a loader knows beside its consumer's waits."""
    times, stage = own.times, own.stage
    counts.sources = times.workers()
    counts.source, counts.read, counts.collate, counts.hand_over = (
        times.source,
        times.read,
        times.collate,
        times.hand_over,
    )
    if stage is not None and stage.stopwatch is not None:
        counts.operators, (counts.decode, counts.stage) = stage.stopwatch.seconds(wait=False), stage.stopwatch.totals()
        for module in stage.stopwatch.decoders:
            counts.images += module.statistics.images
            counts.bad_images += module.statistics.bad_images
            counts.given_images += module.statistics.given_images
    return Facts(
        name="DataLoader",
        kind="DataLoader",
        workers=size.workers,
        stage_workers=0,
        stage_where="this thread",
        depth=size.depth if stage is None else own.prefetch,
        samples_a_call=counts.samples / counts.batches if counts.batches else float(size.batch),
        source_functions=1,
        device="cpu" if stage is None else stage.device.type,
    )
