"""The parent's side: jobs in, results out in whatever order the user asks, deaths noticed.

Who waits for whom. Workers wait for tasks, in the kernel, and for nothing else: results go into a socket that the parent
empties whenever it waits. The parent waits in one place (``_waiting``), for results and for deaths together,
never for long without looking whether the workers live. The pool has no thread: it advances
when somebody calls it, and workers have enough queued to stay busy in between.

Scheduling. The tasks for all workers are in one channel and whoever is free takes the next, so a slow item holds up nobody.

Memory. Each job has a slot of the arena. What does not fit, or has no slot because the user keeps what was delivered, comes
through a memory file and is copied: slower, never stuck.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any

from torchdali._warnings import warn
from torchdali.pool._arena import Arena, MemoryHook
from torchdali.pool._child import OwnChild
from torchdali.pool._dispatch import Dispatch
from torchdali.pool._forking import has_locks
from torchdali.pool._interrupt import deferred_interrupt
from torchdali.pool._job import Items, Job
from torchdali.pool._memory import Memory, default_memory_limit
from torchdali.pool._options import DEFAULT_BYTES_PER_ITEM, OnWorkerDeath, Options, choose_method
from torchdali.pool._recovery import Recovery
from torchdali.pool._results import unpack
from torchdali.pool._sizing import Sizing
from torchdali.pool._statistics import PoolStatistics
from torchdali.pool._waiting import wait_until
from torchdali.pool._worker import Setup
from torchdali.pool._workforce import StartMethod, Workforce

__all__ = ["WorkerPool"]


class WorkerPool:
    """Processes that call functions and hand the results over in shared memory.

    Args:
        functions: what the workers can call, each with one argument. Forked workers inherit them and all they refer to:
            nothing needs to be picklable. In other processes they arrive pickled by value (cloudpickle).
        num_workers: number of processes, at least 1.
        name: for process names and messages.
        memory_limit: bytes of shared memory at most; :func:`default_memory_limit` by default. Memory is taken as it is
            used. Beyond the limit results are copied.
        bytes_per_item: expected size of one result; it adapts.
        before_fork: called before this process is forked; it may raise to forbid it. A pool with this hook also starts the
            zygote, a small process from which workers are forked when this process may not be any more.
        start_method: ``"fork"``: from this process, or from the zygote where ``before_fork`` forbids it; ``"zygote"``:
            always from there; ``"spawn"``, ``"forkserver"``: as multiprocessing has them; or one of its contexts.
        dedicated: the first so many workers do only what is submitted for them by index; the others share all else.
        on_worker_death: ``"raise"``: what a dead worker had in hand is lost, and its place in the results holds a
            :class:`~torchdali.errors.WorkerDiedError`. ``"restart"``: another worker is started and does it again; each item
            comes back once, and a warning tells of it.
        tries: how many workers an item may cost with ``"restart"`` before it is given up, and its place holds the error.
        stopped_seconds: a worker that is stopped (SIGSTOP) for longer than this is killed, and then counts as dead.
        seed: of the workers' generators (``random``, NumPy, torch), each of which gets another stream from it; None: a
            random one.
        initialize: called in each worker with its index before its first task. If it raises, all calls there raise that.
        keep_memory: while the pool is open, give no pages of its memory back to the system; for when other processes pin them.
        memory_hook: told of memory that is used and asked when it may be used again; see :class:`MemoryHook`.

    A pool may be used from several threads, one at a time. Results are NumPy arrays and torch tensors that are views of
    shared memory; it is used again only when all views of a job's results are gone.
    """

    def __init__(
        self,
        functions: Sequence[Callable[[Any], Any]],
        num_workers: int,
        *,
        name: str = "pool",
        memory_limit: int | None = None,
        bytes_per_item: int = DEFAULT_BYTES_PER_ITEM,
        before_fork: Callable[[], None] | None = None,
        start_method: StartMethod | Any = "fork",
        dedicated: int = 0,
        on_worker_death: OnWorkerDeath = "raise",
        tries: int = 3,
        stopped_seconds: float = 10.0,
        seed: int | None = None,
        initialize: Callable[[int], None] | None = None,
        keep_memory: bool = False,
        memory_hook: MemoryHook | None = None,
    ) -> None:
        self._options = Options(
            num_workers=num_workers,
            bytes_per_item=bytes_per_item,
            start_method=start_method,
            dedicated=dedicated,
            on_worker_death=on_worker_death,
            tries=tries,
            stopped_seconds=stopped_seconds,
        )
        self._options.check()
        self.name, self.num_workers = name, num_workers
        seed = secrets.randbits(63) if seed is None else seed
        self._setup = Setup(name, list(functions), num_workers, seed, initialize)
        self._memory_limit = default_memory_limit() if memory_limit is None else memory_limit
        self._arena_options: dict[str, Any] = {"hook": memory_hook, "keep": keep_memory}
        self._before_fork = before_fork
        self._lock: Any
        has_locks(self, _lock=threading.RLock)
        self._statistics = PoolStatistics()
        self._workforce: Workforce | None = None
        self._arena: Arena | None = None
        self._dispatch: Dispatch | None = None
        self._recovery: Recovery | None = None
        self._finalizer: weakref.finalize[..., Any] | None = None
        self._closed = False
        self._told_of_limit = False

    # --- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the workers; called again, replace those that have died. Does nothing when all of them live.

        Raises:
            TypeError: the functions cannot be pickled, and the workers cannot inherit them.
            Exception: what ``before_fork`` raised, if there is no other way to start workers.
        """
        with self._lock:
            if self._closed:
                raise RuntimeError(f"{self.name} is closed; make a new one")
            with deferred_interrupt():
                if self._workforce is not None:
                    workforce, _, recovery = self._require_open()
                    if workforce.complete:
                        return
                    recovery.bury(replace=False)
                    if not workforce.missing:
                        return
                self._start_missing()
                assert self._recovery is not None
                self._recovery.begin()

    def _start_missing(self, workers: list[int] | None = None) -> None:
        method, obstacle = choose_method(self._options.start_method, self._before_fork)
        if self._workforce is None:
            self._prepare()
        assert self._workforce is not None
        try:
            self._workforce.start(method, self._setup, workers)
        except TypeError as error:
            if obstacle is None:
                raise
            raise RuntimeError(f"{obstacle}. Another process could fork the workers, but {error}") from error

    def _prepare(self) -> None:
        memory = Memory(self._memory_limit)
        self._workforce = workforce = Workforce(self.name, self.num_workers, memory, self._options.dedicated)
        self._arena = Arena(memory, start=workforce.claims.nbytes, **self._arena_options)
        sizing = Sizing(len(self._setup.functions), self._options.bytes_per_item)
        self._dispatch = Dispatch(workforce, self._arena, sizing, self._statistics, self._setup.functions)
        itself = weakref.ref(self)

        def start_missing(workers: list[int]) -> None:
            pool = itself()
            if pool is not None:
                pool._start_missing(workers)

        self._recovery = Recovery(
            workforce,
            self._dispatch,
            self._statistics,
            name=self.name,
            policy=self._options.on_worker_death,
            tries=self._options.tries,
            stopped_seconds=self._options.stopped_seconds,
            start=start_missing,
        )
        self._finalizer = weakref.finalize(self, workforce.close)

    def close(self) -> None:
        """End the workers and wait until they are gone. What was delivered stays valid."""
        with self._lock:
            self._closed = True
            if self._workforce is not None:
                self._workforce.close()
            if self._arena is not None and self._workforce is not None and self._workforce.owned:
                self._arena.discard_free()
            self._dispatch = None
            self._recovery = None

    def __enter__(self) -> WorkerPool:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def started(self) -> bool:
        """True between :meth:`start` and :meth:`close`."""
        return self._workforce is not None and not self._workforce.closed

    @property
    def pids(self) -> list[int]:
        """Process ids of the living workers."""
        return [] if self._workforce is None else [child.pid for child in self._workforce.workers.values()]

    @property
    def memory(self) -> Memory | None:
        """What its processes share; None before :meth:`start`."""
        return None if self._workforce is None else self._workforce.memory

    @property
    def processes(self) -> list[BaseProcess]:
        """The living workers as multiprocessing's objects, by index; those that the zygote has forked have none."""
        children = [] if self._workforce is None else sorted(self._workforce.workers.items())
        return [child.process for _, child in children if isinstance(child, OwnChild)]

    @property
    def living(self) -> list[int]:
        """Indices of the workers that are not known to be dead."""
        return [] if self._workforce is None else sorted(self._workforce.workers)

    @property
    def wait_seconds(self) -> float:
        """As in :meth:`statistics`, at no cost."""
        return self._statistics.wait_seconds

    def statistics(self) -> PoolStatistics:
        """A copy of the counters."""
        with self._lock:
            copy = self._statistics.copy()
            if self._arena is not None:
                copy.slots = self._arena.slots
                copy.bytes_in_use = self._arena.in_use
                copy.peak_bytes = self._arena.peak
                copy.committed_bytes = self._arena.committed
                copy.growth = self._arena.growth
            return copy

    # --- work ---------------------------------------------------------------------------------------------------------

    def submit(
        self, function: int, items: Sequence[Any], *, worker: int | None = None, priority: int = 0, stack: bool = False
    ) -> Job:
        """Have function number ``function`` called for each of ``items``; returns at once.

        Args:
            function: index into the pool's functions.
            items: the arguments, one a call.
            worker: a dedicated worker that is to do it; None: those that are not dedicated, and where all are, the first.
            priority: the lower, the sooner; jobs of one priority are begun in the order in which they are submitted.
            stack: where all results are of one structure (nested tuples, lists and dicts of tensors, arrays and numbers, of
                equal types and shapes), :meth:`collect` gives a :class:`Stacked`; where nothing but lengths in their shapes
                differs, a :class:`Ragged`. Once a job was stacked, the workers write those that are submitted later straight
                to their places.

        Raises:
            WorkerDiedError: no worker is left.
        """
        with self._lock:
            _, dispatch, _ = self._require_open()
            if not 0 <= function < len(self._setup.functions):
                raise IndexError(
                    f"{self.name} has {len(self._setup.functions)} functions, counted from 0; there is no {function}"
                )
            lane = self._lane(worker)
            self._require_workers(lane)
            job: Job | None = None
            try:
                with deferred_interrupt():
                    kept = items if isinstance(items, (range, Items)) else list(items)
                    job = dispatch.add(function, kept, lane, priority, stack=stack)
                    self._tell_of_limit()
            except BaseException:  # Ctrl-C: nobody will ask for this job
                if job is not None:
                    self.cancel(job)
                raise
            return job

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Context in which jobs are only noted; the workers get them at its end, and do not get in between them."""
        with self._lock:
            _, dispatch, _ = self._require_open()
            with dispatch.held():
                yield

    def _lane(self, worker: int | None) -> int:
        dedicated = self._options.dedicated
        if worker is None:
            return 1 if dedicated == self.num_workers else 0
        if not 0 <= worker < dedicated:
            raise ValueError(f"worker is {worker}; {self.name} has {dedicated} dedicated workers, counted from 0")
        return worker + 1

    def collect(self, job: Job, *, timeout: float | None = None) -> Any:
        """Wait for a job; returns a list of its results in order, or with ``stack`` a :class:`Stacked` or :class:`Ragged`.

        A failed call's place holds a :class:`Raised` with the exception, ready to be raised: of its own type, with the
        worker's traceback as ``__cause__`` and the item in a note.

        Interrupted by Ctrl-C, or timed out, nothing is lost: call it again. A job that was collected gives the same again.

        Args:
            job: of this pool.
            timeout: seconds to wait at most; None: as long as it takes.

        Raises:
            RuntimeError: the job was cancelled, or the pool is closed.
            TimeoutError: it was not done in time.
        """
        with self._lock:
            if job.cancelled:
                raise RuntimeError("this job was cancelled, so it has no result; submit it again")
            self._wait(lambda: job.arrived, lambda recovery: recovery.whom(job), timeout, 3)
            with deferred_interrupt():
                if job.results is None:
                    known = [] if self._workforce is None else self._workforce.known_exceptions
                    job.results = unpack(job, known, self.name)
            return job.results

    def wait(self, jobs: Sequence[Job], *, timeout: float | None = None) -> list[Job]:
        """Wait until at least one of the jobs can be collected at once; returns those that can, in the order given.

        Args:
            jobs: of this pool, at least one, none of them cancelled.
            timeout: seconds to wait at most; None: as long as it takes. With 0 nobody waits.

        Raises:
            RuntimeError: the pool is closed.
            TimeoutError: none was done in time.
        """
        with self._lock:
            self._wait(
                lambda: any(job.arrived for job in jobs),
                lambda recovery: recovery.whom(jobs[0]),
                timeout,
                3,
            )
            return [job for job in jobs if job.arrived]

    def cancel(self, job: Job, *, withdraw: bool = True) -> None:
        """Forget a job: its results are dropped when they come.

        Args:
            job: of this pool.
            withdraw: what no worker has begun is not begun; if False it is done all the same, for what it changes there.
        """
        with self._lock:
            if job.results is not None or job.cancelled:
                return
            with deferred_interrupt():
                job.cancelled = True
                if job.complete:
                    job.release()
                elif withdraw and self.started and self._dispatch is not None:
                    self._dispatch.withdraw(job)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _require_open(self) -> tuple[Workforce, Dispatch, Recovery]:
        if self._closed:
            raise RuntimeError(f"{self.name} is closed; make a new one")
        if self._workforce is None or self._dispatch is None or self._recovery is None:
            raise RuntimeError(f"{self.name} is not started; call start() first")
        if self._workforce.closed:
            raise RuntimeError(
                f"{self.name} is closed here: it belongs to the process that this one was forked from; make a new one"
            )
        return self._workforce, self._dispatch, self._recovery

    def _require_workers(self, lane: int) -> None:
        workforce, _, recovery = self._require_open()
        if recovery.last_death is not None and not workforce.serving(lane):
            raise recovery.none_left(recovery.last_death)

    def _wait(
        self, done: Callable[[], bool], whom: Callable[[Recovery], str], timeout: float | None, stacklevel: int
    ) -> None:
        with self._statistics.waiting():
            wait_until(done, self._require_open, whom, name=self.name, timeout=timeout, stacklevel=stacklevel)

    def _tell_of_limit(self) -> None:
        if self._statistics.refused and not self._told_of_limit:
            self._told_of_limit = True
            assert self._arena is not None
            why = (
                f"of {self._memory_limit} bytes {self._arena.in_use} are held by results that are kept and by work under way; "
                "memory_limit sets the limit"
                if self._arena.refused is None
                else f"the memory hook refused it: {self._arena.refused}"
            )
            warn(f"{self.name} has no shared memory left, results are copied from here on: {why}", stacklevel=4)
