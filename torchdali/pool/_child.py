"""Child processes, whoever forked them: their end is seen by a descriptor and told by an exit code."""

from __future__ import annotations

import contextlib
import multiprocessing.process
import os
import signal
import struct
import time
from abc import ABC, abstractmethod
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

__all__ = ["Child", "DistantChild", "OwnChild", "describe_exit", "end_all", "own_children"]

STOP_SECONDS = 0.4
"""How long children are waited for after each of: the end of their channel, SIGTERM."""

KILLED_SECONDS = 10.0
"""And after SIGKILL: such a process ends as soon as the kernel comes to it, which on a busy machine may be later."""

STATUS = struct.Struct("<i")


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


def own_children() -> set[BaseProcess]:
    """What multiprocessing holds for the children of this process; it does not forget them in a plain ``os.fork``."""
    children: set[BaseProcess] = getattr(multiprocessing.process, "_children", set())
    return children


class Child(ABC):
    """A worker's process as the parent sees it."""

    pid: int
    sentinel: int
    """A descriptor that is readable once the process has ended."""

    @property
    @abstractmethod
    def exitcode(self) -> int | None:
        """None while it lives, and where it is not known; negative for a signal."""

    @property
    @abstractmethod
    def ended(self) -> bool:
        """Whether it is gone."""

    def signal(self, number: int) -> None:
        """Send it a signal, if it lives."""
        if not self.ended:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def stopped(self) -> bool:
        """Whether it was stopped by a signal (SIGSTOP) and does not go on."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return False
        return fields[0] == "T"

    @abstractmethod
    def forget(self) -> None:
        """Let go of what this process holds of it."""


class OwnChild(Child):
    """A child of this process, made by multiprocessing."""

    def __init__(self, process: BaseProcess) -> None:
        assert process.pid is not None
        self.process = process
        self.pid = process.pid
        self.sentinel = process.sentinel

    @property
    def exitcode(self) -> int | None:
        """As of multiprocessing."""
        return self.process.exitcode

    @property
    def ended(self) -> bool:
        """Its pipe tells, also where its exit code cannot be had."""
        if self.process.exitcode is not None:
            return True
        if not wait([self.sentinel], 0):
            return False
        self.process.join(STOP_SECONDS)  # between its pipe's end and its own there is an instant
        return True

    def forget(self) -> None:
        """Also what multiprocessing holds. Who else holds the process can ask for its exit code; its pipe closes with it."""
        own_children().discard(self.process)


class DistantChild(Child):
    """A child of another process, which waits for it and then writes its status into a pipe.

    Args:
        pid: its process id.
        pipe: the reading end; it is this object's from then on.
    """

    def __init__(self, pid: int, pipe: int) -> None:
        self.pid = pid
        self.sentinel = pipe
        self._ended = False
        self._exitcode: int | None = None

    @property
    def exitcode(self) -> int | None:
        """None also when its parent died, and it therefore too."""
        return self._exitcode if self.ended else None

    @property
    def ended(self) -> bool:
        """Its parent's pipe tells."""
        if not self._ended and wait([self.sentinel], 0):
            self._ended = True
            data = os.read(self.sentinel, STATUS.size)
            if len(data) == STATUS.size:
                (self._exitcode,) = STATUS.unpack(data)
        return self._ended

    def forget(self) -> None:
        """Close the pipe."""
        if self.sentinel >= 0:
            os.close(self.sentinel)
            self.sentinel = -1


def wait_for_all(children: list[Any], seconds: float) -> list[Any]:
    """Wait for the end of children; returns those that live on."""
    deadline = time.monotonic() + seconds
    remaining = list(children)
    while remaining and (left := deadline - time.monotonic()) > 0:
        wait([child.sentinel for child in remaining], left)
        remaining = [child for child in remaining if not child.ended]
    return remaining


def end_all(children: list[Any]) -> None:
    """Wait for children that were told to end; those that do not get SIGTERM, then SIGKILL."""
    remaining = children
    for number, seconds in ((None, STOP_SECONDS), (signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, KILLED_SECONDS)):
        if number is not None:
            for child in remaining:
                child.signal(number)
        remaining = wait_for_all(remaining, seconds)
        if not remaining:
            break
    for child in children:
        # Others multiprocessing shall still hold, and take their exit codes one day: they would stay zombies.
        if child not in remaining:
            child.forget()
