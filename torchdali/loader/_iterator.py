"""An epoch through worker processes: torch's iterator, with this project's pool in the place of its queues.

The rules are torch's. Batch i goes to worker i mod N, from worker 0 in each epoch, and a worker that has come to the end
of its part of an iterable dataset is passed over; ``prefetch_factor`` batches a worker are under way, and one more is
asked for as soon as one has come. Random numbers are drawn by torch's own code in ``_BaseDataLoaderIter``, so they are the
same in each of its versions.
"""

from __future__ import annotations

import functools
import itertools
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.utils.data import _utils
from torch.utils.data.dataloader import _BaseDataLoaderIter, _MultiProcessingDataLoaderIter

from torchdali.errors import WorkerDiedError
from torchdali.loader._errors import raise_as_stock, timed_out
from torchdali.loader._pin import finished_thread, memory_hook
from torchdali.loader._random import RandomState, generators_of
from torchdali.loader._resume import Resume, replay, resuming, sampler_state, stateful_sampler
from torchdali.loader._state import Delivery, Progress
from torchdali.loader._work import Begin, Work
from torchdali.pool import Job, Raised, WorkerPool

if TYPE_CHECKING:
    from torchdali.loader._loader import DataLoader

__all__ = ["Crew", "WorkersIterator"]

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
    def of(cls, loader: DataLoader[Any], dataset: Any, worker_init_fn: Callable[[int], Any] | None) -> Crew:
        """Ready to be started."""
        work = Work(
            dataset,
            iterable=loader._iterable,
            auto_collation=loader._auto_collation,
            collate_fn=loader.collate_fn,
            drop_last=loader.drop_last,
            worker_init_fn=worker_init_fn,
            num_workers=loader.num_workers,
            snapshot_every_n_steps=loader.snapshot_every_n_steps,
        )
        hook = memory_hook(loader)
        context = loader.multiprocessing_context or multiprocessing.get_context()
        pool = WorkerPool(
            [work.fetch, work.begin],
            loader.num_workers,
            name="DataLoader",
            start_method=context,
            dedicated=loader.num_workers,
            on_worker_death=loader.on_worker_death,
            memory_limit=loader.memory_limit,
            bytes_per_item=PINNED_BATCH_BYTES if hook is not None else BATCH_BYTES,
            initialize=work.initialize,
            memory_hook=hook,
        )
        return cls(pool, work, hook)


class _Pending(NamedTuple):
    """A batch that is under way."""

    number: int
    worker: int
    made: int
    """Batches of its worker, with this one."""
    job: Job | WorkerDiedError
    sampler: Any


class WorkersIterator(_MultiProcessingDataLoaderIter):
    """Iterates over a loader with its workers.

    Args:
        loader: whose next epoch this is.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        self._pool: WorkerPool | None = None
        self._shutdown = False
        self._pending: deque[_Pending] = deque()
        self._processes: list[BaseProcess] = []
        resume = loader._take_resume()
        with resuming(loader, resume):
            _BaseDataLoaderIter.__init__(self, loader)
        self._prefetch_factor = max(1, loader.prefetch_factor or 0)
        self._in_order = loader.in_order
        self._loader_sampler = stateful_sampler(loader)
        self._serials = itertools.count()
        crew = loader._take_started()
        self._crew = Crew.of(loader, self._dataset, self._init_fn(loader)) if crew is None else crew
        self._pool = self._crew.pool
        self._started_before = crew is not None
        if self._pin_memory:
            self._pin_memory_thread = finished_thread()
        self._begin(loader, resume, first_iter=True)

    def _init_fn(self, loader: DataLoader[Any]) -> Callable[[int], Any] | None:
        """The user's, and before it what torch's data pipes need."""
        return worker_init_fn(loader, self._dataset, self._world_size, self._rank)

    # --- an epoch -----------------------------------------------------------------------------------------------------

    def _reset(self, loader: DataLoader[Any], first_iter: bool = False) -> None:
        """Begin another epoch with the same workers; those that have died are replaced."""
        self._begin(loader, loader._take_resume(), first_iter=first_iter)

    def _begin(self, loader: DataLoader[Any], resume: Resume | None, *, first_iter: bool) -> None:
        assert self._pool is not None
        while (
            self._pending
        ):  # of an epoch that was left; done all the same, as random draws must not depend on how far it is
            job = self._pending.pop().job
            if isinstance(job, Job):
                self._pool.cancel(job, withdraw=False)
        start = RandomState(generators_of(loader)) if resume is None else resume.start
        with resuming(loader, resume):
            _BaseDataLoaderIter._reset(self, loader, first_iter)
        iterable = loader._iterable
        if resume is not None:
            self._sampler_iter = replay(loader, resume)
            self._base_seed = resume.state["base_seed"]
            self._shared_seed = resume.state["shared_seed"]
            self.progress = resume.progress(self._num_workers)
        else:
            self.progress = Progress(
                self._num_workers, iterable, loader._next_epoch(), int(self._base_seed), self._shared_seed, start
            )
            self.progress.counts = [0] * self._num_workers
        loader._progress = self.progress
        self.on_delivery: Callable[[Delivery], None] = self.progress.deliver
        self._numbers: Iterator[int] = self.progress.numbers()
        self._counts = list(self.progress.counts)
        self._active = [worker not in self.progress.ended for worker in range(self._num_workers)]
        self._turn = self.progress.next_worker
        self._ended: list[int] = []
        self._tell_workers(resume, first_iter=first_iter)
        with self._pool.together():
            for _ in range(self._prefetch_factor * self._num_workers):
                self._put_next()

    def _tell_workers(self, resume: Resume | None, *, first_iter: bool) -> None:
        assert self._pool is not None
        snapshots = () if resume is None else resume.snapshots()
        begin = Begin(next(self._serials), int(self._base_seed), self._shared_seed, resume is not None, snapshots)
        self._crew.work.begin_with = begin  # for those that are started now and later
        self._pool.start()
        if not first_iter or self._started_before:
            for worker in range(self._num_workers):
                self._pool.cancel(self._pool.submit(1, [begin], worker=worker), withdraw=False)
        self._processes = self._pool.processes

    # --- out ----------------------------------------------------------------------------------------------------------

    def _put_next(self) -> None:
        """Ask a worker for the next batch, if there is one."""
        assert self._pool is not None
        try:
            index = next(self._sampler_iter)
        except StopIteration:
            return
        worker = self._next_worker()
        if worker is None:
            return
        count = self._counts[worker]
        self._counts[worker] += 1
        job: Job | WorkerDiedError
        try:
            job = self._pool.submit(0, [(count, index)], worker=worker)
        except WorkerDiedError as error:  # raised in the batch's turn
            job = WorkerDiedError(
                str(error), worker=error.worker, pid=error.pid, exitcode=error.exitcode, items=(index,)
            )
        sampler = sampler_state(self._loader_sampler)
        self._pending.append(_Pending(next(self._numbers), worker, count + 1, job, sampler))

    def _next_worker(self) -> int | None:
        """The next in turn that has not come to its end, and where order does not matter has not its share in hand."""
        share = self._prefetch_factor * self._num_workers // max(1, sum(self._active))
        for _ in range(self._num_workers):
            worker = self._turn
            self._turn = (worker + 1) % self._num_workers
            if self._active[worker] and (
                self._in_order or sum(pending.worker == worker for pending in self._pending) < share
            ):
                return worker
        return None

    # --- in -----------------------------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether the next batch can be had without waiting."""
        if self._pool is None or not self._pending or not self._pool.started:
            return False
        try:
            self._wait(0.0)
        except TimeoutError:
            return False
        return True

    def _wait(self, timeout: float | None) -> _Pending:
        """What is delivered next, once it is there."""
        assert self._pool is not None
        candidates = [self._pending[0]] if self._in_order else list(self._pending)
        for pending in candidates:
            if not isinstance(pending.job, Job):
                return pending
        done = self._pool.wait([pending.job for pending in candidates if isinstance(pending.job, Job)], timeout=timeout)
        return next(pending for pending in candidates if pending.job is done[0])

    def _next_data(self) -> Any:
        while self._pending:
            try:
                pending = self._wait(self._timeout or None)
            except TimeoutError as error:
                raise timed_out(self._timeout, error) from None
            outcome = self._outcome(pending.job)
            self._pending.remove(pending)
            if outcome is None:
                self._active[pending.worker] = False
                self._ended.append(pending.worker)
            self._put_next()
            if outcome is not None:
                return self._deliver(pending, outcome)
        self.progress.finished = True
        if not self._persistent_workers:
            self._shutdown_workers()
        raise StopIteration

    def _outcome(self, job: Job | WorkerDiedError) -> Any:
        if isinstance(job, WorkerDiedError):
            return Raised(job)
        assert self._pool is not None
        return self._pool.collect(job)[0]

    def _deliver(self, pending: _Pending, outcome: Any) -> Any:
        failed = isinstance(outcome, Raised)
        batch, snapshot = (None, None) if failed else outcome
        self.on_delivery(
            Delivery(pending.number, pending.worker, pending.made, snapshot, pending.sampler, tuple(self._ended))
        )
        if failed:
            raise_as_stock(outcome.exception, pending.worker)
        if self._pin_memory:
            if self._crew.hook is not None:
                torch.cuda.init()
                self._crew.hook.pin()
            batch = _utils.pin_memory.pin_memory(batch, self._pin_memory_device)
        return batch

    # --- end ----------------------------------------------------------------------------------------------------------

    @property
    def _workers(self) -> Any:  # type: ignore[override]
        """The worker processes, also after their end."""
        living = [] if self._pool is None else self._pool.processes
        return living or self._processes

    def _shutdown_workers(self) -> None:
        self._shutdown = True
        self._pending.clear()
        if self._pool is not None:
            self._pool.close()

    def __del__(self) -> None:
        self._shutdown_workers()


def worker_init_fn(loader: DataLoader[Any], dataset: Any, world_size: int, rank: int) -> Callable[[int], Any] | None:
    """What is called in each worker: the user's function, and before it what torch's data pipes need."""
    try:
        from torch.utils.data import IterDataPipe, MapDataPipe
        from torch.utils.data.dataloader import _sharding_worker_init_fn
    except ImportError:  # a torch that has none any more
        return loader.worker_init_fn
    if isinstance(dataset, (IterDataPipe, MapDataPipe)):
        return functools.partial(_sharding_worker_init_fn, loader.worker_init_fn, world_size, rank)
    return loader.worker_init_fn
