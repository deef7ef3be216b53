"""What is compared: the stock loader, and torchdali's pool or its loader, behind one small interface.

Both have as many workers, look as far ahead, and get the same samples in the same order.
"""

from __future__ import annotations

import itertools
import multiprocessing
import signal
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import Any, ClassVar

import torch
from torch.utils.data import DataLoader

from torchdali.bench._workloads import Batch, Order, Workload
from torchdali.loader import DataLoader as TorchdaliDataLoader
from torchdali.pool import Job, Ragged, Raised, Stacked, WorkerPool, deferred_interrupt

__all__ = ["ENGINES", "Engine", "LoaderEngine", "PoolEngine", "StockEngine"]

PREFETCH = 2
"""Batches under way for each worker."""


class Engine(ABC):
    """Loads a workload's samples with worker processes; a context manager, whose end is theirs.

    Args:
        workload: what to load.
        num_workers: how many processes load it.
    """

    name: ClassVar[str]

    def __init__(self, workload: Workload, num_workers: int) -> None:
        self.workload = workload
        self.num_workers = num_workers

    @abstractmethod
    def epoch(self, order: Order) -> Iterator[Batch]:
        """Begin an epoch: when this returns, the workers are at work and the first batch can be waited for.

        The epoch before it must be over.
        """

    @property
    @abstractmethod
    def pids(self) -> list[int]:
        """Process ids of the workers; there may be none before the first epoch."""

    @abstractmethod
    def close(self) -> None:
        """End the workers and wait until they are gone."""

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


# --- loaders --------------------------------------------------------------------------------------------------------


class _Batches:
    """A batch sampler whose batches are set before each epoch."""

    def __init__(self) -> None:
        self.order: Order = []

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.order)

    def __len__(self) -> int:
        return len(self.order)


def _as_list(samples: list[torch.Tensor]) -> list[torch.Tensor]:
    return samples


def _ignore_interrupt(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends the workers without a traceback


class StockEngine(Engine):
    """``torch.utils.data.DataLoader``."""

    name = "stock"
    kind: ClassVar[type[DataLoader[Any]]] = DataLoader

    def __init__(self, workload: Workload, num_workers: int) -> None:
        super().__init__(workload, num_workers)
        self._batches = _Batches()
        self._loader: DataLoader[torch.Tensor] | None = self.kind(
            workload.samples,
            batch_sampler=self._batches,
            num_workers=num_workers,
            collate_fn=None if workload.stacked else _as_list,
            persistent_workers=True,
            prefetch_factor=PREFETCH,
            multiprocessing_context="fork",
            worker_init_fn=_ignore_interrupt,
        )
        self._iterator: Any = None
        self._pids: list[int] = []

    def epoch(self, order: Order) -> Iterator[Batch]:
        """Begin an epoch."""
        assert self._loader is not None, "it is closed"
        self._batches.order = order
        if self._iterator is None:
            others = set(multiprocessing.active_children())
            with deferred_interrupt():  # workers inherit that, until they ignore Ctrl-C
                self._iterator = iter(self._loader)
            started = set(multiprocessing.active_children()) - others
            self._pids = [process.pid for process in started if process.pid is not None]
        else:
            self._iterator = iter(self._loader)
        return self._drain(len(order))

    def _drain(self, count: int) -> Iterator[Batch]:
        for _ in range(count):
            yield self._next()

    def _next(self) -> Batch:
        assert self._iterator is not None, "it is closed"
        batch: Batch = next(self._iterator)
        return batch

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers."""
        return self._pids

    def close(self) -> None:
        """End the workers and wait until they are gone."""
        if self._iterator is not None:
            # Letting go of the iterator ends them too, but not while the traceback of an exception refers to it.
            self._iterator._shutdown_workers()
        self._loader = None
        self._iterator = None


class LoaderEngine(StockEngine):
    """:class:`torchdali.DataLoader`, with the same arguments."""

    name = "torchdali"
    kind = TorchdaliDataLoader


# --- torchdali's pool -----------------------------------------------------------------------------------------------


class PoolEngine(Engine):
    """:class:`torchdali.pool.WorkerPool`."""

    name = "torchdali"

    def __init__(self, workload: Workload, num_workers: int) -> None:
        super().__init__(workload, num_workers)
        self._pool = WorkerPool([workload.samples.__getitem__], num_workers, name="bench")
        self._pool.start()

    def epoch(self, order: Order) -> Iterator[Batch]:
        """Begin an epoch."""
        following = iter(order)
        ahead = itertools.islice(following, PREFETCH * self.num_workers)
        with self._pool.together():
            jobs = deque([self._submit(batch) for batch in ahead])
        return self._drain(len(order), jobs, following)

    def _submit(self, batch: list[int]) -> Job:
        return self._pool.submit(0, batch, stack=self.workload.stacked)

    def _drain(self, count: int, jobs: deque[Job], following: Iterator[list[int]]) -> Iterator[Batch]:
        for _ in range(count):
            yield self._next(jobs, following)

    def _next(self, jobs: deque[Job], following: Iterator[list[int]]) -> Batch:
        results = self._pool.collect(jobs.popleft())
        jobs.extend(self._submit(batch) for batch in itertools.islice(following, 1))
        if isinstance(results, Stacked):
            stacked: torch.Tensor = results.value
            return stacked
        samples: list[torch.Tensor] = results.items() if isinstance(results, Ragged) else results
        for sample in samples:
            if isinstance(sample, Raised):
                raise sample.exception
        return samples

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers."""
        return self._pool.pids

    def close(self) -> None:
        """End the workers and wait until they are gone."""
        self._pool.close()


ENGINES: dict[str, tuple[type[Engine], type[Engine]]] = {
    "pool": (StockEngine, PoolEngine),
    "loader": (StockEngine, LoaderEngine),
}
"""By subject, the one that is compared with and the one that is compared."""
