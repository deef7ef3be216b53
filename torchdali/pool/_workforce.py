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
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

from torchdali.pool._channel import channel
from torchdali.pool._protocol import Claims
from torchdali.pool._worker import prepare_death_with_parent

__all__ = ["Workforce", "describe_exit"]

STOP_SECONDS = 0.4
"""How long workers are waited for after each of: the end of their channel, SIGTERM, SIGKILL."""


def describe_exit(exitcode: int | None) -> str:
    """How a process ended, for people."""
    if exitcode is None:
        return "is still running"
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
        self.tasks_in, self.tasks_out = channel()
        self.results_in, self.results_out = channel()
        self.claims = Claims(size)
        self.processes: dict[int, BaseProcess] = {}
        """The living workers by index."""
        self._owner = os.getpid()
        self._closed = False
        _all.add(self)

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
                    process.start()
                    self.claims.drop(index)
                    self.processes[index] = process

    def take_dead(self) -> Iterator[tuple[int, BaseProcess]]:
        """Workers that have ended since the last call; they are forgotten here."""
        for index, process in list(self.processes.items()):
            if not process.is_alive():
                del self.processes[index]
                yield index, process

    def close(self) -> None:
        """End the workers: by the end of their channel, then by SIGTERM, then by SIGKILL. Returns when they are gone."""
        if self._closed:
            return
        self._closed = True
        if os.getpid() != self._owner:
            return
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
        self.processes.clear()

    def _close_ends(self) -> None:
        for end in (self.tasks_in, self.results_out, self.tasks_out, self.results_in):
            end.close()

    def leave_to_parent(self) -> None:
        """In a forked process: let go of the parent's ends, so that they close when the parent dies."""
        self.tasks_in.close()
        self.results_out.close()
        if self is not _being_started:
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
        for process in list(remaining):
            process.join(0)
            if not process.is_alive():
                remaining.remove(process)
    return remaining


_all: weakref.WeakSet[Workforce] = weakref.WeakSet()
_being_started: Workforce | None = None


@contextlib.contextmanager
def _starting(workforce: Workforce) -> Iterator[None]:
    global _being_started  # noqa: PLW0603  read by the child, in the hook below
    _being_started = workforce
    try:
        yield
    finally:
        _being_started = None


def _after_fork_in_child() -> None:
    for workforce in list(_all):
        workforce.leave_to_parent()


os.register_at_fork(after_in_child=_after_fork_in_child)
