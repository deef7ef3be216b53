"""Where a pipeline's time went."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from torchdali.ops.decode import DecodeStatistics
from torchdali.pool import PoolStatistics

__all__ = ["PipelineStatistics", "Stopwatch"]


@dataclass
class PipelineStatistics:
    """Counters of a pipeline since it was built; times in seconds."""

    batches: int = 0
    samples: int = 0
    source_seconds: float = 0.0
    """In the sources' code, summed over the workers."""
    wait_seconds: float = 0.0
    """The pipeline waited for workers."""
    stage_seconds: dict[str, float] = field(default_factory=dict)
    """In each operator of the device stage, by name; on a GPU its time on the stream, which runs beside the others."""
    run_seconds: float = 0.0
    """Making batches: waiting for workers and in the stage, in whichever thread."""
    stall_seconds: float = 0.0
    """The consumer waited in ``run`` or in iteration; next to nothing where the stage keeps ahead of it."""
    bad_images: int = 0
    """That decoding operators could not decode, in batches that are still ahead too."""
    decoded_images: int = 0
    """Handed to decoding operators."""
    cpu_share: float = 0.0
    """The part of them that the workers of the sources had decoded."""
    cpu_share_now: float = 0.0
    """The part of a batch that they are given now, which ``cpu_share="auto"`` changes."""
    worker_deaths: int = 0
    copied_bytes: int = 0
    """Arrived by a copy because shared memory was short; see :class:`torchdali.pool.PoolStatistics`."""

    def count_pools(self, sources: PoolStatistics, stage: PoolStatistics | None) -> None:
        """Fill in what the pools of the sources and, if it has one, of the stage tell."""
        self.source_seconds, self.wait_seconds = sources.busy_seconds, sources.wait_seconds
        self.worker_deaths = sources.deaths + (0 if stage is None else stage.deaths)
        self.copied_bytes = sources.copied_bytes + (0 if stage is None else stage.copied_bytes)

    def count_decoding(self, operators: Iterable[DecodeStatistics]) -> None:
        """Fill in what decoding operators tell."""
        given = 0
        for numbers in operators:
            self.bad_images += numbers.bad_images
            self.decoded_images += numbers.images
            given += numbers.given_images
        self.cpu_share = given / max(1, self.decoded_images)


class Stopwatch:
    """Measures the direct children of a module: by events on a CUDA stream, by the clock on the CPU.

    The stage may run in one thread and be asked in another; and a child that somebody else calls meanwhile is measured too.

    Args:
        module: its children are measured.
        cuda: whether by events, on the current stream of whoever calls the child.
    """

    def __init__(self, module: nn.Module, *, cuda: bool) -> None:
        self.cuda = cuda
        self._lock = threading.Lock()
        self._seconds: dict[str, float] = {}
        self._events: deque[tuple[str, torch.cuda.Event, torch.cuda.Event]] = deque()
        self._started: dict[tuple[int, str], Any] = {}
        for name, child in module.named_children():
            child.register_forward_pre_hook(self._before(name))
            child.register_forward_hook(self._after(name))

    def _before(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: Any) -> None:
            key = threading.get_ident(), name
            if self.cuda:
                event = torch.cuda.Event(enable_timing=True)
                event.record()
                self._started[key] = event
            else:
                self._started[key] = time.perf_counter()

        return hook

    def _after(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            start = self._started.pop((threading.get_ident(), name), None)
            if isinstance(start, torch.cuda.Event):
                event = torch.cuda.Event(enable_timing=True)
                event.record()
                self._events.append((name, start, event))
                self._settle()
            elif start is not None:
                self._add(name, time.perf_counter() - start)

        return hook

    def _add(self, name: str, seconds: float) -> None:
        with self._lock:
            self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def _settle(self) -> None:
        """Read the events that have happened, in order; the rest later."""
        while True:
            try:
                name, start, end = self._events.popleft()
            except IndexError:
                return
            if not end.query():
                self._events.appendleft((name, start, end))
                return
            self._add(name, start.elapsed_time(end) / 1000)

    def seconds(self) -> dict[str, float]:
        """Time by child so far; waits for the GPU."""
        for _, _, end in list(self._events):
            end.synchronize()
        self._settle()
        with self._lock:
            return dict(self._seconds)
