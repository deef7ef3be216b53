"""The processes of a pool and what connects them: started together, ended together, never left behind.

This knows nothing of what the workers do. The pool holds it and so does a finalizer, which therefore can end the workers
when the pool is collected or the interpreter exits.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import select
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

from torchdali.pool._channel import Receiver, Sender, channel
from torchdali.pool._child import Child, OwnChild, end_all, own_children
from torchdali.pool._claims import Claims
from torchdali.pool._failure import known_exceptions
from torchdali.pool._forking import logging_at_rest
from torchdali.pool._interrupt import deferred_interrupt
from torchdali.pool._memory import Memory
from torchdali.pool._start import Shipment, descriptors, forked, may_tie, pack_setup, spawned
from torchdali.pool._worker import Bench, Setup
from torchdali.pool._zygote import start_zygote

__all__ = ["Lane", "StartMethod", "Workforce"]

StartMethod = Literal["fork", "zygote", "spawn", "forkserver"]


class Lane(NamedTuple):
    """A channel of tasks."""

    tasks_in: Sender
    tasks_out: Receiver


class Workforce:
    """Up to ``size`` processes that take tasks from lanes and share one channel of results.

    Args:
        name: of the pool, for process names.
        size: the number of processes.
        memory: shared with them.
        dedicated: the first so many workers have a lane each, numbers 1, 2, ...; the others share lane 0.
    """

    def __init__(self, name: str, size: int, memory: Memory, dedicated: int = 0) -> None:
        self.name = name
        self.size = size
        self.dedicated = dedicated
        self.memory = memory
        with _fork_lock:  # a worker that another thread forks now would inherit these ends without knowing of them
            self.lanes = [Lane(*channel()) for _ in range(1 + dedicated)]
            self.results_in, self.results_out = channel()
            _all.add(self)
        self.claims = Claims(memory, self.size)
        self.workers: dict[int, Child] = {}
        """The living workers by index."""
        self.known_exceptions = known_exceptions()
        self._generations = dict.fromkeys(range(self.size), 0)
        self._owner = os.getpid()
        self._closed = False

    @property
    def closed(self) -> bool:
        """True once the workers were told to end, and in processes that are not their parent."""
        return self._closed

    @property
    def owned(self) -> bool:
        """Whether it is this process's, and not that of the one this was forked from."""
        return os.getpid() == self._owner

    @property
    def missing(self) -> list[int]:
        """Indices of the workers that are not there."""
        return [index for index in range(self.size) if index not in self.workers]

    @property
    def complete(self) -> bool:
        """Whether all workers are there and the pipe of none tells of its end; looks at them once, which costs little."""
        if len(self.workers) < self.size:
            return False
        poll = select.poll()
        for child in self.workers.values():
            poll.register(child.sentinel, select.POLLIN)
        return not poll.poll(0)

    def lane_of(self, worker: int) -> int:
        """Number of the lane that a worker takes tasks from."""
        return worker + 1 if worker < self.dedicated else 0

    def serving(self, lane: int) -> list[int]:
        """Indices of the living workers that take tasks from a lane."""
        return [index for index in self.workers if self.lane_of(index) == lane]

    # --- start --------------------------------------------------------------------------------------------------------

    def start(self, method: StartMethod | Any, setup: Setup, workers: list[int] | None = None) -> None:
        """Start workers.

        Args:
            method: a name, or one of multiprocessing's contexts.
            setup: what they do; it is not kept, as it may refer to whoever owns this.
            workers: indices of those that are wanted; None: all that are missing.

        Raises:
            TypeError: they have to be told what to do by pickle, and it cannot be pickled.
            RuntimeError: the zygote is gone.
        """
        with contextlib.ExitStack() as stack:
            if method == "zygote":
                start = self._from_zygote(stack, setup)
            elif method == "fork" or getattr(method, "_name", None) == "fork":
                start = self._by_fork(stack, setup)
            else:
                start = self._by_context(setup, method)
            for index in self.missing if workers is None else workers:
                self.claims.drop(index)
                with deferred_interrupt():  # a worker that nobody knows of would be left behind
                    self.workers[index] = start(index)
                    self._generations[index] += 1

    def _name(self, index: int) -> str:
        return f"torchdali-{self.name}-{index}"

    def _by_fork(self, stack: contextlib.ExitStack, setup: Setup) -> Callable[[int], Child]:
        context: Any = multiprocessing.get_context("fork")
        parent = self._owner if may_tie() else None
        stack.enter_context(_starting(self))
        collects = stack.enter_context(_not_collecting())
        stack.enter_context(warnings.catch_warnings())
        # Python 3.12 warns of any fork beside threads. The child here runs no code that could need their locks: torch is set
        # to one thread, and the channels are the kernel's.
        warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork", category=DeprecationWarning)

        def start(index: int) -> Child:
            tasks = self.lanes[self.lane_of(index)].tasks_out
            bench = Bench(setup, self.memory, self.claims, tasks, self.results_in, self.known_exceptions)
            process = context.Process(
                target=forked,
                args=(bench, index, self._generations[index], parent, collects),
                name=self._name(index),
                daemon=True,
            )
            with logging_at_rest():
                process.start()
            return OwnChild(process)

        return start

    def _fds(self, index: int) -> tuple[int, int, int]:
        return self.memory.fd, self.lanes[self.lane_of(index)].tasks_out.fileno(), self.results_in.fileno()

    def _from_zygote(self, stack: contextlib.ExitStack, setup: Setup) -> Callable[[int], Child]:
        zygote = start_zygote()
        packed = pack_setup(setup, self.memory)
        stack.callback(os.close, packed)

        def start(index: int) -> Child:
            return zygote.fork(self._name(index), index, self._generations[index], (packed, *self._fds(index)))

        return start

    def _by_context(self, setup: Setup, method: Any) -> Callable[[int], Child]:
        context: Any = multiprocessing.get_context(method) if isinstance(method, str) else method
        # The server of "forkserver" is the parent of its children; only those of "spawn" can be tied to this process.
        parent = self._owner if may_tie() and context.get_start_method() == "spawn" else None
        shipment, size = Shipment(setup), self.memory.size

        def start(index: int) -> Child:
            process = context.Process(
                target=spawned,
                args=(index, self._generations[index], parent, shipment, size, descriptors(*self._fds(index))),
                name=self._name(index),
                daemon=True,
            )
            process.start()
            return OwnChild(process)

        return start

    # --- end ----------------------------------------------------------------------------------------------------------

    def take_dead(self) -> Iterator[tuple[int, Child]]:
        """Workers that have ended since the last call; they are forgotten here."""
        for index, child in list(self.workers.items()):
            if child.ended:
                del self.workers[index]
                yield index, child

    def close(self) -> None:
        """End the workers: by the end of their channel, then by SIGTERM, then by SIGKILL. Returns when they are gone."""
        with deferred_interrupt():
            if not self._closed:
                self._closed = True
                if os.getpid() == self._owner:
                    self._end()

    def _end(self) -> None:
        for lane in self.lanes:
            with contextlib.suppress(BlockingIOError, OSError):
                while lane.tasks_out.receive(block=False) is not None:
                    pass  # what nobody took shall not be worked on
        self._close_ends(parents=True, workers=True)
        self.memory.close()
        children = list(self.workers.values())
        self.workers.clear()
        end_all(children)

    def _close_ends(self, *, parents: bool, workers: bool) -> None:
        for lane in self.lanes:
            if parents:
                lane.tasks_in.close()
            if workers:
                lane.tasks_out.close()
        if parents:
            self.results_out.close()
        if workers:
            self.results_in.close()

    def leave_to_parent(self) -> None:
        """In a forked process: let go of the parent's ends, so that they close when the parent dies."""
        mine = self is _starting_now.workforce
        self._close_ends(parents=True, workers=not mine)
        self._closed = True
        self.memory.close()
        # At its exit this process would otherwise take them for its own children and send them SIGTERM.
        for child in self.workers.values():
            if isinstance(child, OwnChild):
                own_children().discard(child.process)
        self.workers.clear()


@contextlib.contextmanager
def _not_collecting() -> Iterator[bool]:
    """No garbage is collected meanwhile, nor in a child until it has frozen what it inherits, whose pages would be copied.

    Yields whether it is collected otherwise. Not frozen here instead: what the user has frozen must stay so, nothing else may,
    and to ask for how many objects that is takes the longer the more there are.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield collects
    finally:
        if collects:
            gc.enable()


_all: weakref.WeakSet[Workforce] = weakref.WeakSet()
_fork_lock = threading.RLock()


class _Starting(threading.local):
    """The workforce that this thread is forking workers for."""

    workforce: Workforce | None = None


_starting_now = _Starting()


@contextlib.contextmanager
def _starting(workforce: Workforce) -> Iterator[None]:
    with _fork_lock:
        _starting_now.workforce = workforce
        try:
            yield
        finally:
            _starting_now.workforce = None


def _after_fork_in_child() -> None:
    global _fork_lock  # noqa: PLW0603  another thread of the parent may have held it; that thread is not here
    _fork_lock = threading.RLock()
    for workforce in list(_all):
        workforce.leave_to_parent()


os.register_at_fork(after_in_child=_after_fork_in_child)
