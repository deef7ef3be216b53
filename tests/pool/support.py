"""What the tests of the pool share: memory that workers and parent both see, and waiting with a bound."""

import collections
import dataclasses
import mmap
import os
import signal
import time
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
import psutil
import torch

BOUND = 5.0
"""Seconds after which a test that waits gives up: a guard against hanging, no statement about speed."""


class Tally:
    """Counters in memory that workers forked later share; each is written by one process at a time."""

    def __init__(self, size: int) -> None:
        self._map = mmap.mmap(-1, size)

    def add(self, index: int) -> None:
        self._map[index] += 1

    def __getitem__(self, index: int) -> int:
        return self._map[index]

    def counts(self, size: int) -> list[int]:
        return list(self._map[:size])

    def clear(self) -> None:
        self._map[:] = bytes(len(self._map))

    def wait(self, index: int, count: int = 1) -> bool:
        """Wait until a counter has come to ``count``; False if it does not."""
        return wait_until(lambda: self[index] >= count)


Point = collections.namedtuple("Point", "x y")


@dataclasses.dataclass
class Record:
    name: str
    data: Any


def wait_until(condition: Callable[[], bool], seconds: float = BOUND) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


def die(number: int = signal.SIGKILL) -> NoReturn:
    """End this process by a signal, from inside."""
    os.kill(os.getpid(), number)
    time.sleep(BOUND)
    os._exit(99)


def alive(pid: int) -> bool:
    """Whether a process still runs, or any thread of it; a zombie does not."""
    try:
        process = psutil.Process(pid)
        return bool(process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1)
    except psutil.NoSuchProcess:
        return False


def all_gone(pids: list[int], seconds: float = 3) -> bool:
    return wait_until(lambda: not any(map(alive, pids)), seconds)


def same(one: Any, other: Any) -> bool:
    """Whether two values agree in type, and all the way down; NaN agrees with NaN."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        alike = one.dtype == other.dtype and one.shape == other.shape
        if one.dtype.hasobject:
            return alike and same(one.tolist(), other.tolist())
        return alike and one.tobytes() == other.tobytes()
    if isinstance(one, torch.Tensor):
        if one.dtype != other.dtype or one.shape != other.shape:
            return False
        bits = [
            tensor.resolve_conj().resolve_neg().reshape(-1).contiguous().view(torch.uint8) for tensor in (one, other)
        ]
        return torch.equal(*bits)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, Record):
        return one.name == other.name and same(one.data, other.data)
    return bool(one == other)
