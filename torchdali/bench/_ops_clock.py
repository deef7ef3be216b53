"""What a call takes: of the device's time, of Python's, and until its results are there."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch

__all__ = ["Clock", "CpuClock", "CudaClock", "Times", "Work", "clock_of"]

Work: TypeAlias = Callable[[], object]

_HOLD_BYTES = 128 << 20
"""Copied while Python prepares what is measured; more than a GPU's cache holds, so that nothing is measured warm."""
_FIRST_HOLD = 0.002
_LONGEST_HOLD = 0.064
"""Seconds. Python that takes longer is not waited for: the device's time then has Python's in it."""
_MOST_COPIES = 500
"""A stream takes about a thousand launches before it makes Python wait."""


class Times(NamedTuple):
    """Of a call, in seconds."""

    device: float
    """That the device is busy for."""
    returned: float
    """Until the call returns, on a device that has nothing else to do."""
    done: float
    """Until its results are there, likewise."""


class Clock(ABC):
    """Measures calls on one device."""

    @abstractmethod
    def device_seconds(self, work: Work) -> float:
        """What a call keeps the device busy for."""

    @abstractmethod
    def wall_seconds(self, work: Work) -> tuple[float, float]:
        """What a call takes until it returns, and until its results are there, on a device that has nothing else to do."""

    def times(self, prepare: Callable[[], Work]) -> Times:
        """All of it, of as many calls as it takes; ``prepare`` makes each of them, and is not measured."""
        return Times(self.device_seconds(prepare()), *self.wall_seconds(prepare()))


class CpuClock(Clock):
    """On the CPU a call has done its work when it returns."""

    def device_seconds(self, work: Work) -> float:
        """The time of the call."""
        begin = time.perf_counter()
        work()
        return time.perf_counter() - begin

    def wall_seconds(self, work: Work) -> tuple[float, float]:
        """Twice the time of the call."""
        seconds = self.device_seconds(work)
        return seconds, seconds

    def times(self, prepare: Callable[[], Work]) -> Times:
        """Of one call, whose times are all the same."""
        seconds = self.device_seconds(prepare())
        return Times(seconds, seconds, seconds)


class CudaClock(Clock):
    """Events on the current stream of a CUDA device, which is held back by copies until Python is done.

    Without them the device would wait for Python within what is measured, wherever Python is the slower of the two.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._source = torch.randint(1, 255, (_HOLD_BYTES,), dtype=torch.uint8, device=device)
        self._target = torch.empty_like(self._source)
        self._hold = _FIRST_HOLD
        self._copy_seconds = math.inf
        for _ in range(3):
            torch.cuda.synchronize(device)
            begin = time.perf_counter()
            self._target.copy_(self._source)
            torch.cuda.synchronize(device)
            self._copy_seconds = min(self._copy_seconds, time.perf_counter() - begin)

    def device_seconds(self, work: Work) -> float:
        """Between an event before the call's launches and one after them."""
        while True:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize(self._device)
            for _ in range(min(math.ceil(self._hold / self._copy_seconds), _MOST_COPIES)):
                self._target.copy_(self._source)
            begin.record()
            work()
            end.record()
            waited = begin.query()  # the device was through with the copies before Python was with the call
            end.synchronize()
            if not waited or self._hold >= _LONGEST_HOLD:
                milliseconds: float = begin.elapsed_time(end)
                return milliseconds / 1e3
            self._hold *= 2

    def wall_seconds(self, work: Work) -> tuple[float, float]:
        """By the clock on the wall."""
        torch.cuda.synchronize(self._device)
        begin = time.perf_counter()
        result = work()
        returned = time.perf_counter()
        torch.cuda.synchronize(self._device)
        done = time.perf_counter()
        del result
        return returned - begin, done - begin


def clock_of(device: torch.device) -> Clock:
    """The clock for a device."""
    return CudaClock(device) if device.type == "cuda" else CpuClock()
