"""The body of a worker process: one loop, taking a task, calling the user's function, writing what it returned.

A worker ends when its task channel ends, which is when the parent closes the pool or dies. Since a worker may be deep in
the user's code then, a small thread watches the channel for that and ends the process; where that can be told, the kernel
also kills it with its parent, which helps when the user's code holds the interpreter or the worker is stopped.
"""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch

from torchdali._spans import end_recording, tally
from torchdali.pool._channel import INLINE_LIMIT, Receiver, Sender
from torchdali.pool._claims import Claims
from torchdali.pool._failure import Failure, pack
from torchdali.pool._memory import Memory
from torchdali.pool._protocol import Result, Task
from torchdali.pool._structure import Structure
from torchdali.pool._worker_info import WorkerInfo, seed_generators, set_worker_info
from torchdali.pool._writer import DescribedRun, KnownOutline, RaggedRun, Region, StackedRun

__all__ = ["Bench", "describe_item", "end_interpreter", "work"]

GRACE_SECONDS = 0.2
"""How long a worker may finish its call after the parent is gone: enough to notice the end by itself."""

_LONGEST_REPR = 200

Run: TypeAlias = "DescribedRun | RaggedRun | StackedRun"

_ending = threading.Event()


class Setup(NamedTuple):
    """What a pool's workers are to do; in a fresh interpreter it arrives pickled."""

    name: str
    functions: Sequence[Callable[[Any], Any]]
    num_workers: int
    seed: int
    initialize: Callable[[int], None] | None


class Bench(NamedTuple):
    """All that a worker needs."""

    setup: Setup
    memory: Memory
    claims: Claims
    tasks: Receiver
    results: Sender
    known_exceptions: list[type[BaseException]]


def describe_item(item: object) -> str:
    """``repr`` of an item, short enough for a message."""
    try:
        text = repr(item)
    except Exception as error:
        text = f"<{type(item).__name__} whose repr raises {type(error).__name__}>"
    return text if len(text) <= _LONGEST_REPR else text[: _LONGEST_REPR - 3] + "..."


def _watch_for_end(tasks: Receiver) -> None:
    poll = select.poll()
    poll.register(tasks.fileno(), 0)  # a hang-up is reported without being asked for
    poll.poll()
    if not _ending.wait(GRACE_SECONDS):
        os._exit(0)


def end_interpreter() -> None:
    """Say that this process ends by itself from here on, and may take its time for it."""
    _ending.set()


def _prepare_process(tasks: Receiver) -> None:
    # Ctrl-C reaches the whole foreground group: the parent alone decides what it means. Other handlers were the parent's.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    # Collecting what was inherited would copy its pages, one reference count at a time.
    gc.freeze()
    # One that wakes up does not take the processor from the parent, which is who hands out the work and takes it in; where
    # another processor is free it makes no difference.
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    # Workers are the parallelism; and the threads of OpenMP and OpenCV did not survive the fork: to wait for them is for ever.
    torch.set_num_threads(1)
    opencv = sys.modules.get("cv2")
    if opencv is not None:
        with contextlib.suppress(Exception):
            opencv.setNumThreads(0)
    threading.Thread(target=_watch_for_end, args=(tasks,), name="torchdali-end", daemon=True).start()


class Worker:
    """Worker ``index`` of a pool, in its process."""

    def __init__(self, bench: Bench, index: int, generation: int) -> None:
        self._bench = bench
        self._index = index
        self._region = Region(bench.memory)
        self._structures: dict[bytes, Structure | None] = {}
        self._outlines: list[KnownOutline] = []
        self._broken: BaseException | None = None
        setup = bench.setup
        seed = seed_generators(setup.seed, index, generation)
        set_worker_info(WorkerInfo(index, setup.num_workers, seed, setup.name), self._region.allocate, bench.memory)
        if setup.initialize is not None:
            try:
                setup.initialize(index)
            except BaseException as error:
                self._broken = error

    def run(self) -> None:
        """Take tasks until there are no more."""
        claims, tasks, index = self._bench.claims, self._bench.tasks, self._index
        # Of several workers that wait for one channel, a message wakes one.
        epoll = select.epoll()
        epoll.register(tasks.fileno(), select.EPOLLIN | select.EPOLLEXCLUSIVE)
        idle_since = time.perf_counter()
        while True:
            epoll.poll()
            claims.taking(index)
            try:
                message = tasks.receive(block=False, taken=lambda serial: claims.take(index, serial))
            except BlockingIOError:  # another one was faster
                claims.drop(index)
                continue
            if message is None:
                return
            idle = time.perf_counter() - idle_since
            self._perform(Task.unpack(message.payload), idle)
            claims.drop(index)
            idle_since = time.perf_counter()
            del message

    def _perform(self, task: Task, idle: float) -> None:
        start, processor = time.perf_counter(), time.process_time()
        read, collated, empty = tally.read, tally.collated, tally.empty
        writing = 0.0
        run = self._begin(task)
        try:
            items = pickle.loads(task.items)
        except BaseException as error:  # loading runs the user's code
            items = [_NotLoaded()] * task.size
            for item in items:
                run.add(self._fail(item, error))
        else:
            writing = self._call(task, items, run)
        seconds = time.perf_counter() - start
        processor = time.process_time() - processor
        spent = (start, writing, tally.read - read, tally.collated - collated, processor, tally.empty - empty)
        described = run.missing if isinstance(run, StackedRun) else None
        result = Result(task.serial, self._index, seconds, idle, 0, b"", described, run.structure(), spent=spent)
        try:
            self._deliver(result, run)
        except (BrokenPipeError, ConnectionResetError):
            raise
        except (OSError, MemoryError) as error:  # no memory, no descriptor: small failures still get through
            self._region.begin(0, 0)
            failures = DescribedRun(self._region, stack=False)
            for item in items if described is None else [items[position] for position in described]:
                failures.add(self._fail(item, error))
            self._deliver(result._replace(structure=None), failures)
        finally:
            self._region.begin(0, 0)  # what is made between two calls must not be in memory that is another's by then

    def _begin(self, task: Task) -> Run:
        if task.structure is None:
            self._region.begin(task.offset, task.capacity)
            return RaggedRun(self._region, self._outlines) if task.stack else DescribedRun(self._region, stack=False)
        self._region.begin(0, 0)
        structure = self._structure(task.structure)
        if structure is None:
            return DescribedRun(self._region, stack=False)
        return StackedRun(structure, self._region.bytes, task.offset, task.first, task.size, task.total, self._region)

    def _structure(self, packed: bytes) -> Structure | None:
        if packed not in self._structures:
            self._structures.clear()  # one or two are in use at a time; what was before is not sent again
            try:
                self._structures[packed] = Structure(pickle.loads(packed))
            except Exception:  # a class of the user's that cannot be loaded here
                self._structures[packed] = None
        return self._structures[packed]

    def _call(self, task: Task, items: list[Any], run: Run) -> float:
        """Returns how long it took to write what the function returned, in seconds; measured at the last item of the run.

        Who reads the clock twice for each would make a run of calls that do next to nothing slower by some percent.
        """
        function = self._bench.setup.functions[task.function] if self._broken is None else self._refuse
        claims, index, last = self._bench.claims, self._index, len(items) - 1
        writing = 0.0
        for position, item in enumerate(items):
            claims.advance(index, position)
            try:
                if position < last:
                    run.add(function(item))
                    continue
                value = function(item)
                returned = time.perf_counter()
                run.add(value)
                writing = (time.perf_counter() - returned) * len(items)
            except BaseException as error:  # of the function, or of pickling, which also runs the user's code
                run.add(self._fail(item, error))
        return writing

    def _refuse(self, item: object) -> None:
        """Stands for all functions after ``initialize`` has raised."""
        assert self._broken is not None
        raise self._broken

    def _fail(self, item: object, error: BaseException) -> Failure:
        name = self._bench.setup.name
        where = f"In worker {self._index} (pid {os.getpid()}) of {name}, for {describe_item(item)}:"
        if isinstance(error, (SystemExit, KeyboardInterrupt)):
            # Raised again in the parent these would end the user's program in silence.
            substitute = RuntimeError(
                f"{type(error).__name__}({error}) was raised in a worker, where it cannot end the program"
            )
            error = substitute.with_traceback(error.__traceback__)
        return pack(error, self._bench.known_exceptions, where)

    def _deliver(self, result: Result, run: Run) -> None:
        ragged = isinstance(run, RaggedRun) and run.described is None
        pickled = pickle.dumps(run.table() if isinstance(run, RaggedRun) and ragged else run.described, protocol=5)
        descriptions = pickled if len(pickled) <= INLINE_LIMIT // 2 else self._region.place(memoryview(pickled))
        file = self._region.complete_file()
        result = result._replace(size=self._region.end, descriptions=descriptions, ragged=ragged)
        self._bench.results.send(result.pack(), file)


class _NotLoaded:
    def __repr__(self) -> str:
        return "an item that could not be loaded here"


def work(bench: Bench, index: int, generation: int) -> None:
    """The life of worker ``index``; ``generation`` is how many it replaces."""
    _prepare_process(bench.tasks)
    end_recording()  # that of the process which this one was forked from
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the parent is gone, and so is the reader
        Worker(bench, index, generation).run()
