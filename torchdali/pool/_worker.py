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
from typing import Any, NamedTuple

import numpy as np
import torch

from torchdali.pool._channel import INLINE_LIMIT, Receiver, Sender, memory_file, write_file
from torchdali.pool._claims import Claims
from torchdali.pool._codec import Encoded, aligned, dumps, encode_all
from torchdali.pool._failure import Failure, pack
from torchdali.pool._memory import Memory
from torchdali.pool._protocol import Result, Task
from torchdali.pool._stacker import Stacker, structure_of
from torchdali.pool._worker_info import WorkerInfo, seed_generators, set_worker_info

__all__ = ["Bench", "describe_item", "work"]

GRACE_SECONDS = 0.2
"""How long a worker may finish its call after the parent is gone: enough to notice the end by itself."""

_LONGEST_REPR = 200


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
    time.sleep(GRACE_SECONDS)
    os._exit(0)


def _prepare_process(tasks: Receiver) -> None:
    # Ctrl-C reaches the whole foreground group: the parent alone decides what it means. Other handlers were the parent's.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    # Collecting what was inherited would copy its pages, one reference count at a time.
    gc.freeze()
    # Workers are the parallelism; and the threads of OpenMP and OpenCV did not survive the fork: to wait for them is for ever.
    torch.set_num_threads(1)
    opencv = sys.modules.get("cv2")
    if opencv is not None:
        with contextlib.suppress(Exception):
            opencv.setNumThreads(0)
    threading.Thread(target=_watch_for_end, args=(tasks,), name="torchdali-end", daemon=True).start()


class _Region:
    """The bytes set aside for a run's results: given out from the beginning, as :func:`~torchdali.pool.empty` asks."""

    def __init__(self, memory: Memory) -> None:
        self.bytes = memoryview(memory.map)
        self._address = np.frombuffer(memory.map, np.uint8).ctypes.data
        self.begin(0, 0)

    def begin(self, offset: int, capacity: int) -> None:
        self.offset = offset
        self.capacity = capacity
        self.end = 0

    def allocate(self, nbytes: int) -> memoryview | None:
        start, end = self.end, self.end + aligned(nbytes)
        if end > self.capacity:
            return None
        self.end = end
        return self.bytes[self.offset + start : self.offset + start + nbytes]

    def find(self, piece: memoryview) -> int | None:
        """Where in the region a piece lies already; None if it is elsewhere."""
        if not self.end:
            return None
        start = int(np.frombuffer(piece, np.uint8).ctypes.data) - self._address - self.offset
        return start if start >= 0 and start + piece.nbytes <= self.end else None


class Worker:
    """Worker ``index`` of a pool, in its process."""

    def __init__(self, bench: Bench, index: int, generation: int) -> None:
        self._bench = bench
        self._index = index
        self._region = _Region(bench.memory)
        self._stackers: dict[bytes, Stacker] = {}
        self._broken: BaseException | None = None
        setup = bench.setup
        seed = seed_generators(setup.seed, index, generation)
        set_worker_info(WorkerInfo(index, setup.num_workers, seed, setup.name), self._region.allocate)
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
        start = time.perf_counter()
        stacker = None
        if task.structure is not None:
            self._region.begin(0, 0)
            stacker = self._stacker(task.structure)
            stacker.begin(self._region.bytes, task.offset, task.first, task.total)
        else:
            self._region.begin(task.offset, task.capacity)
        try:
            items = pickle.loads(task.items)
        except BaseException as error:  # loading runs the user's code
            items = [_NotLoaded()] * task.size
            outcomes: list[Any] = [self._fail(item, error) for item in items]
        else:
            outcomes = self._call(task, items, stacker)
        seconds = time.perf_counter() - start
        described = None if stacker is None else stacker.missing
        if described is not None:
            outcomes, items = [outcomes[i] for i in described], [items[i] for i in described]
        structure = structure_of(outcomes) if task.stack and stacker is None else None
        result = Result(
            task.serial, self._index, seconds, idle, 0, b"", described, None if structure is None else dumps(structure)
        )
        try:
            self._deliver(result, items, outcomes)
        except (BrokenPipeError, ConnectionResetError):
            raise
        except (OSError, MemoryError) as error:  # no memory, no descriptor: small failures still get through
            self._deliver(result._replace(structure=None), items, [self._fail(item, error) for item in items])

    def _stacker(self, structure: bytes) -> Stacker:
        stacker = self._stackers.get(structure)
        if stacker is None:
            self._stackers.clear()  # one or two are in use at a time; what was sent before is not sent again
            stacker = self._stackers[structure] = Stacker(pickle.loads(structure))
        return stacker

    def _call(self, task: Task, items: list[Any], stacker: Stacker | None) -> list[Any]:
        function = self._bench.setup.functions[task.function]
        claims, index = self._bench.claims, self._index
        outcomes: list[Any] = []
        for position, item in enumerate(items):
            claims.advance(index, position)
            try:
                if self._broken is not None:
                    raise self._broken
                outcome = function(item)
                if stacker is not None:
                    outcome = stacker.add(outcome)
            except BaseException as error:
                outcome = self._fail(item, error)
                if stacker is not None:
                    outcome = stacker.skip(outcome)
            outcomes.append(outcome)
        if stacker is not None:
            stacker.flush()
        return outcomes

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

    def _deliver(self, result: Result, items: list[Any], outcomes: list[Any]) -> None:
        region = self._region
        encoded = encode_all(outcomes, lambda position, error: self._fail(items[position], error))
        spans, size = _place(encoded, region)
        pieces = [piece for one in encoded for piece in one.pieces]
        flat = [span for of_one in spans for span in of_one]
        described = pickle.dumps(
            [(one.description, of_one) for one, of_one in zip(encoded, spans, strict=True)], protocol=5
        )
        descriptions: bytes | tuple[int, int] = described
        if len(described) > INLINE_LIMIT // 2:
            length = len(described)
            pieces.append(memoryview(described))
            flat.append((size, length))
            descriptions = (size, length)
            size += aligned(length)
        payload = result._replace(size=size, descriptions=descriptions).pack()
        if size <= region.capacity:
            for piece, (start, length) in zip(pieces, flat, strict=True):
                if region.find(piece) != start:
                    region.bytes[region.offset + start : region.offset + start + length] = piece
            self._bench.results.send(payload)
            return
        fd = memory_file(size)
        try:
            for piece, (start, _) in zip(pieces, flat, strict=True):
                write_file(fd, piece, start)
            self._bench.results.send(payload, fd)
        finally:
            os.close(fd)


def _place(encoded: list[Encoded], region: _Region) -> tuple[list[list[tuple[int, int]]], int]:
    """For each object the (offset, length) of its pieces, and the end: where they are, or behind what was given out."""
    end = region.end
    spans = []
    for one in encoded:
        of_one = []
        for piece in one.pieces:
            start = region.find(piece)
            if start is None:
                start = end
                end += aligned(piece.nbytes)
            of_one.append((start, piece.nbytes))
        spans.append(of_one)
    return spans, end


class _NotLoaded:
    def __repr__(self) -> str:
        return "an item that could not be loaded here"


def work(bench: Bench, index: int, generation: int) -> None:
    """The life of worker ``index``; ``generation`` is how many it replaces."""
    _prepare_process(bench.tasks)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the parent is gone, and so is the reader
        Worker(bench, index, generation).run()
