"""An epoch through worker processes: torch's iterator, with this project's pool in the place of its queues.

The rules are torch's. Batch i goes to worker i mod N, from worker 0 in each epoch, and a worker that has come to the end
of its part of an iterable dataset is passed over; ``prefetch_factor`` batches a worker are under way, and one more is
asked for as soon as one has come. Random numbers are drawn by torch's own code in ``_BaseDataLoaderIter``, so they are the
same in each of its versions.
"""

from __future__ import annotations

import itertools
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.utils.data import _utils
from torch.utils.data.dataloader import _BaseDataLoaderIter, _MultiProcessingDataLoaderIter

from torchdali.errors import WorkerDiedError
from torchdali.loader._crew import Crew
from torchdali.loader._errors import raise_as_stock, take_snapshot, timed_out
from torchdali.loader._handing import HandingOver
from torchdali.loader._measure import meter_of
from torchdali.loader._own import is_iterable
from torchdali.loader._pin import finished_thread
from torchdali.loader._random import RandomState, generators_of
from torchdali.loader._resume import Resume, replay, resuming
from torchdali.loader._sampling import NO_STATE, SamplerStates, draws_from_torch_alone
from torchdali.loader._state import Delivery, End, Progress
from torchdali.loader._work import Begin
from torchdali.pool import Job, Raised, WorkerPool, deferred_interrupt

if TYPE_CHECKING:
    from torchdali.loader._loader import DataLoader

__all__ = ["WorkersIterator"]


class _Pending(NamedTuple):
    """A batch that is under way."""

    number: int
    """In the epoch; of a map-style dataset."""
    index: Any
    """From the sampler."""
    worker: int
    made: int
    """Batches of its worker, with this one."""
    job: Job | WorkerDiedError
    sampler: Any


class WorkersIterator(HandingOver, _MultiProcessingDataLoaderIter):
    """Iterates over a loader with its workers.

    Args:
        loader: whose next epoch this is.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        self._pool: WorkerPool | None = None
        self._shutdown = False
        self._meter, self._own, self._times = meter_of(loader), loader._torchdali, loader._torchdali.times
        self._pending: deque[_Pending] = deque()
        self._processes: list[BaseProcess] = []
        resume = loader._torchdali.take_resume(loader)
        with resuming(loader, resume):
            _BaseDataLoaderIter.__init__(self, loader)
        shared_seed = self._shared_seed  # what torch's workers start with; that of the first reset they are not told
        self._prefetch_factor = loader.prefetch_factor or 0
        if self._prefetch_factor < 1:
            raise AssertionError("prefetch_factor must be greater than 0 for MultiProcessingDataLoaderIter")
        self._in_order = loader.in_order
        self._sampler_states = SamplerStates(loader)
        self._serials = itertools.count()
        crew = loader._torchdali.take_crew()
        if crew is None:
            crew = Crew.of(loader, self._dataset, self._world_size, self._rank)
            self._started_before = False
        else:
            self._started_before = True
        self._crew = crew
        self._pool = self._crew.pool
        self._times.pools.add(self._pool)
        if self._pin_memory:
            self._pin_memory_thread = finished_thread()
        self._begin(loader, resume, first_iter=True, shared_seed=shared_seed)

    # --- an epoch -----------------------------------------------------------------------------------------------------

    def _reset(self, loader: DataLoader[Any], first_iter: bool = False) -> None:
        """Begin another epoch with the same workers; those that have died are replaced."""
        self._begin(loader, loader._torchdali.take_resume(loader), first_iter=first_iter)

    def _begin(
        self, loader: DataLoader[Any], resume: Resume | None, *, first_iter: bool, shared_seed: int | None = None
    ) -> None:
        assert self._pool is not None
        while self._pending:  # of an epoch that was left
            job = self._pending.pop().job
            if isinstance(job, Job):  # it is done all the same, as random draws must not depend on how far it is
                self._pool.cancel(job, withdraw=False)
        self._iterable = is_iterable(loader)
        own, generators = loader._torchdali, generators_of(loader)
        within = resume if resume is not None and resume.begun else None
        start = RandomState(generators, torch_alone=draws_from_torch_alone(loader))
        sampler = self._sampler_states.take()
        with resuming(loader, within):
            _BaseDataLoaderIter._reset(self, loader, first_iter)
        if resume is not None:
            self._base_seed = resume.state["base_seed"]
        if within is not None:
            self._sampler_iter = replay(loader, within)
            self._shared_seed = within.state["shared_seed"]
            self.progress = within.progress(self._num_workers)
        else:
            before = {} if first_iter else self.progress.known
            self.progress = Progress.before(self._num_workers, self._iterable)
            self.progress.epoch = own.next_epoch()
            self.progress.base_seed = int(self._base_seed)
            self.progress.shared_seed = shared_seed if first_iter else self._shared_seed
            self.progress.start = start
            self.progress.sampler = None if sampler is NO_STATE else sampler
            known = before if resume is None else resume.known_by_worker()
            self.progress.known = {worker: entry._replace(before=True) for worker, entry in known.items()}
        self.progress.persistent = self._persistent_workers
        self.progress.drawn = True
        own.progress = self.progress
        self.on_event: Callable[[Delivery | End], None] = self.progress.note
        self._handed = None
        self._numbers: Iterator[int] = self.progress.numbers()
        self._counts = list(self.progress.counts)
        self._active = [worker not in self.progress.ended for worker in range(self._num_workers)]
        self._turn = self.progress.next_worker
        self._death: WorkerDiedError | None = None
        """Of a worker that is not replaced."""
        self._tell_workers(resume, first_iter=first_iter)
        with deferred_interrupt(), self._pool.together():
            for _ in range(self._prefetch_factor * self._num_workers):
                self._put_next()

    def _tell_workers(self, resume: Resume | None, *, first_iter: bool) -> None:
        assert self._pool is not None
        snapshots: tuple[Any, ...] = ()
        if resume is not None:
            known = self.progress.known
            snapshots = tuple(known[worker].pack() if worker in known else None for worker in range(self._num_workers))
        self._serial = next(self._serials)
        begin = Begin(self._serial, int(self._base_seed), self.progress.shared_seed, resume is not None, snapshots)
        self._crew.work.begin_with = begin  # for those that are started now and later
        self._pool.start()
        # Those that were forked for this epoch know of it; others are told with their first batch, or where that may not come
        # and it is more than a number, at once.
        self._untold = {} if first_iter or resume is not None else dict.fromkeys(range(self._num_workers), begin)
        for worker in range(self._num_workers):
            if resume is not None or (first_iter and self._started_before):
                self._pool.cancel(self._pool.submit(1, [begin], worker=worker), withdraw=False)
            for made, index in () if resume is None else resume.again(worker):
                request = self._serial, made, index, None
                self._pool.cancel(self._pool.submit(0, [request], worker=worker), withdraw=False)
        self._processes = self._pool.processes

    # --- out ----------------------------------------------------------------------------------------------------------

    def _put_next(self) -> None:
        """Ask a worker for the next batch, if there is one."""
        try:
            index = next(self._sampler_iter)
        except StopIteration:
            return
        pending = self._ask(index, None)
        if pending is not None:
            self._pending.append(pending)

    def _ask(self, index: Any, again: _Pending | None) -> _Pending | None:
        """Have a batch made; None: all workers are at the end of their parts.

        Args:
            index: from the sampler.
            again: the same batch, which was lost.
        """
        assert self._pool is not None
        while (worker := self._next_worker()) is not None:
            request = self._serial, self._counts[worker], index, self._untold.get(worker)
            try:
                job = self._pool.submit(0, [request], worker=worker)
            except WorkerDiedError as error:
                self._lose(worker, error)
                if self._iterable:  # what it had to give nobody else has
                    return self._noted(index, worker, error, again)
                continue
            self._counts[worker] += 1
            self._untold.pop(worker, None)
            return self._noted(index, worker, job, again)
        if self._iterable or self._death is None:
            return None
        return self._noted(index, self._death.worker or 0, self._death, again)

    def _noted(self, index: Any, worker: int, job: Job | WorkerDiedError, again: _Pending | None) -> _Pending:
        number = -1 if self._iterable else next(self._numbers) if again is None else again.number
        sampler = self._sampler_states.take() if again is None else again.sampler
        return _Pending(number, index, worker, self._counts[worker], job, sampler)

    def _next_worker(self) -> int | None:
        """The next in turn that has not come to its end, and where order does not matter has not its share in hand."""
        share = -(-self._prefetch_factor * self._num_workers // max(1, sum(self._active)))
        for _ in range(self._num_workers):
            worker = self._turn
            self._turn = (worker + 1) % self._num_workers
            if self._active[worker] and (
                self._in_order or sum(pending.worker == worker for pending in self._pending) < share
            ):
                return worker
        return None

    # --- in -----------------------------------------------------------------------------------------------------------

    def read_on(self, stream: Any) -> None:
        """Batches are copied from on this CUDA stream, after they may have been let go of."""
        if self._crew.hook is not None:
            self._crew.hook.record_stream(stream)

    @property
    def waited(self) -> float:
        """Seconds that this process has waited for workers."""
        return 0.0 if self._pool is None else self._pool.wait_seconds

    def count_ready(self) -> int:
        """Further batches that have come."""
        return sum(isinstance(pending.job, Job) and pending.job.arrived for pending in self._pending)

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
        while self._handed is None and self._pending:
            try:
                pending = self._wait(self._timeout or None)
            except TimeoutError as error:
                raise timed_out(self._timeout, error) from None
            with deferred_interrupt():  # Ctrl-C before this loses nothing, nor does it after
                self._take(pending)
        if self._handed is not None:
            return self._handed[0]
        self.progress.finished = True
        if not self._persistent_workers:
            self._shutdown_workers()
        raise StopIteration

    def _take(self, pending: _Pending) -> None:
        """Take in what has come, ask for the next, and make a batch ready to be handed out."""
        outcome = self._outcome(pending)
        if isinstance(outcome, _Pending):
            self._pending[self._pending.index(pending)] = outcome
            return
        self._pending.remove(pending)
        ended = not isinstance(outcome, Raised) and len(outcome) == 1
        if ended:
            self._active[pending.worker] = False
            self.on_event(End(pending.worker, outcome[0]))
        self._put_next()
        if not ended:
            self._handed = (self._deliver(pending, outcome),)

    def _outcome(self, pending: _Pending) -> Any:
        """What became of a batch: an ``Answer``, what was raised, or where it is under way again."""
        assert self._pool is not None
        if isinstance(pending.job, WorkerDiedError):
            return Raised(pending.job)
        outcome = self._pool.collect(pending.job)[0]
        if not isinstance(outcome, Raised) or not isinstance(outcome.exception, WorkerDiedError):
            return outcome
        if self._iterable:  # the rest of its part is lost, which is said once: to get there is to die again
            self._drop_others(pending)
            self._lose(pending.worker, outcome.exception)
            return outcome
        if pending.worker in self._pool.living:  # another one is in its place; this batch costs one after the other
            return outcome
        in_hand = self._had_in_hand(outcome.exception, pending)
        self._lose(pending.worker, outcome.exception, said=in_hand)
        if in_hand or not any(self._active):
            return outcome
        return self._ask(pending.index, pending)

    def _drop_others(self, pending: _Pending) -> None:
        """Expect nothing more of a batch's worker."""
        assert self._pool is not None
        for other in list(self._pending):
            if other.worker == pending.worker and other is not pending:
                self._pending.remove(other)
                if isinstance(other.job, Job):
                    self._pool.cancel(other.job)

    def _lose(self, worker: int, death: WorkerDiedError, *, said: bool = False) -> None:
        """Go on without a worker that has died."""
        if self._active[worker] and not said and not self._iterable and sum(self._active) > 1:
            warnings.warn(f"{death}; its batches are made by the others", RuntimeWarning, stacklevel=6)
        self._active[worker] = False
        self._death = death

    def _had_in_hand(self, death: WorkerDiedError, pending: _Pending) -> bool:
        """Whether this is the batch that the worker died of, and not one that waited behind it."""
        return any(isinstance(item, tuple) and item[:2] == (self._serial, pending.made - 1) for item in death.items)

    def _deliver(self, pending: _Pending, outcome: Any) -> Any:
        failed = isinstance(outcome, Raised)
        batch, snapshot = (None, take_snapshot(outcome.exception)) if failed else outcome
        # Batches of an iterable dataset are counted as they come: what was asked of a worker at its end is none.
        number = next(self._numbers) if self._iterable else pending.number
        self.on_event(Delivery(number, pending.worker, pending.made, snapshot, pending.sampler))
        if failed:
            raise_as_stock(outcome.exception, pending.worker, pending.index)
        if self._pin_memory:
            if self._crew.hook is not None:
                torch.cuda.init()
                self._crew.hook.pin()
                self._crew.hook.asked_for()
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
            self._times.closed(self._pool)
            self._pool.close()

    def __del__(self) -> None:
        self._shutdown_workers()
