"""The processes of a pool and what connects them: started together, ended together, never left behind.

This knows nothing of what the workers do. The pool holds it and so does a finalizer, which therefore can end the workers
when the pool is collected or the interpreter exits.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.process
import os
import signal
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

from torchdali.pool._channel import channel
from torchdali.pool._interrupt import deferred_interrupt
from torchdali.pool._protocol import Claims
from torchdali.pool._worker import prepare_death_with_parent

__all__ = ["Workforce", "describe_exit", "forget"]

STOP_SECONDS = 0.4
"""How long workers are waited for after each of: the end of their channel, SIGTERM, SIGKILL."""


def describe_exit(exitcode: int | None) -> str:
    """How a process ended, for people."""
    if exitcode is None:
        return "ended, how is not known (SIGCHLD is ignored, or somebody else waited for it)"
    if exitcode >= 0:
        return f"ended with exit code {exitcode}"
    try:
        name = signal.Signals(-exitcode).name
    except ValueError:
        name = f"signal {-exitcode}"
    hint = " (by hand, or by the kernel because memory ran out)" if -exitcode == signal.SIGKILL else ""
    return f"was killed by {name}{hint}"


def _run(body: Callable[[int], None], index: int, tie: Callable[[int], None], parent: int) -> None:
    tie(parent)
    body(index)


class Workforce:
    """Up to ``size`` forked processes that share one channel of tasks and one of results.

    Args:
        size: number of workers.
        name: of the pool, for process names.
    """

    def __init__(self, size: int, name: str) -> None:
        self.size = size
        self.name = name
        with _fork_lock:  # a worker that another thread forks now would inherit these ends without knowing of them
            self.tasks_in, self.tasks_out = channel()
            self.results_in, self.results_out = channel()
            _all.add(self)
        self.claims = Claims(size)
        self.processes: dict[int, BaseProcess] = {}
        """The living workers by index."""
        self._owner = os.getpid()
        self._closed = False

    @property
    def closed(self) -> bool:
        """True once the workers were told to end, and in processes that are not their parent."""
        return self._closed

    def start(self, body: Callable[[int], None]) -> None:
        """Fork the workers that are missing; each runs ``body(index)``."""
        context: Any = multiprocessing.get_context("fork")
        tie = prepare_death_with_parent()
        with _starting(self), warnings.catch_warnings():
            # Python 3.12 warns of any fork beside threads. The child here runs no code that could need their locks:
            # torch is set to one thread, and the channels are the kernel's.
            warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork", category=DeprecationWarning)
            for index in range(self.size):
                if index not in self.processes:
                    process = context.Process(
                        target=_run,
                        args=(body, index, tie, self._owner),
                        name=f"torchdali-{self.name}-{index}",
                        daemon=True,
                    )
                    self.claims.drop(index)
                    with deferred_interrupt():  # a worker that nobody knows of would be left behind
                        process.start()
                        self.processes[index] = process

    def take_dead(self) -> Iterator[tuple[int, BaseProcess]]:
        """Workers that have ended since the last call; they are forgotten here."""
        for index, process in list(self.processes.items()):
            if _has_ended(process):
                del self.processes[index]
                yield index, process

    def close(self) -> None:
        """End the workers: by the end of their channel, then by SIGTERM, then by SIGKILL. Returns when they are gone."""
        with deferred_interrupt():
            if not self._closed:
                self._closed = True
                if os.getpid() == self._owner:
                    self._end()

    def _end(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):
            while self.tasks_out.receive(block=False) is not None:
                pass  # what nobody took shall not be worked on
        self._close_ends()
        remaining = list(self.processes.values())
        for end in (None, BaseProcess.terminate, BaseProcess.kill):
            if end is not None:
                for process in remaining:
                    end(process)
            remaining = _wait_for(remaining)
            if not remaining:
                break
        for process in self.processes.values():
            forget(process)
        self.processes.clear()

    def _close_ends(self) -> None:
        for end in (self.tasks_in, self.results_out, self.tasks_out, self.results_in):
            end.close()

    def leave_to_parent(self) -> None:
        """In a forked process: let go of the parent's ends, so that they close when the parent dies."""
        self.tasks_in.close()
        self.results_out.close()
        if self is not _starting_now.workforce:
            self.tasks_out.close()
            self.results_in.close()
            self._closed = True
            # At its exit this process would otherwise take them for its own children and send them SIGTERM.
            for process in self.processes.values():
                _own_children().discard(process)
            self.processes.clear()


def _own_children() -> set[BaseProcess]:
    """What multiprocessing holds for the children of this process; it does not forget them in a plain ``os.fork``."""
    children: set[BaseProcess] = getattr(multiprocessing.process, "_children", set())
    return children


def _wait_for(processes: list[BaseProcess]) -> list[BaseProcess]:
    deadline = time.monotonic() + STOP_SECONDS
    remaining = list(processes)
    while remaining and (left := deadline - time.monotonic()) > 0:
        wait([process.sentinel for process in remaining], left)
        remaining = [process for process in remaining if not _has_ended(process)]
    return remaining


def _has_ended(process: BaseProcess) -> bool:
    """Whether a child is gone. Its pipe tells, also where its exit code cannot be had."""
    if process.exitcode is not None:
        return True
    if not wait([process.sentinel], 0):
        return False
    process.join(STOP_SECONDS)  # between its pipe's end and its own there is an instant
    return True


def forget(process: BaseProcess) -> None:
    """Let go of a child that is gone."""
    _own_children().discard(process)
    if process.exitcode is not None:
        process.close()


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
