"""Where a pipeline's time went."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

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
    """In ``run``, all of it."""
    worker_deaths: int = 0
    copied_bytes: int = 0
    """Arrived by a copy because shared memory was short; see :class:`torchdali.pool.PoolStatistics`."""


class Stopwatch:
    """Measures the direct children of a module: by events on a CUDA stream, by the clock on the CPU."""

    def __init__(self, module: nn.Module) -> None:
        self._seconds: dict[str, float] = {}
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self._started: dict[str, Any] = {}
        for name, child in module.named_children():
            child.register_forward_pre_hook(self._before(name))
            child.register_forward_hook(self._after(name))

    def _before(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: Any) -> None:
            if torch.cuda.is_initialized():
                event = torch.cuda.Event(enable_timing=True)
                event.record()
                self._started[name] = event
            else:
                self._started[name] = time.perf_counter()

        return hook

    def _after(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            start = self._started.pop(name, None)
            if isinstance(start, torch.cuda.Event):
                event = torch.cuda.Event(enable_timing=True)
                event.record()
                self._events.append((name, start, event))
                self._settle()
            elif start is not None:
                self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - start

        return hook

    def _settle(self, *, all_of_them: bool = False) -> None:
        """Read the events that have happened, in order; the rest later."""
        while self._events and (all_of_them or self._events[0][2].query()):
            name, start, end = self._events.pop(0)
            if all_of_them:
                end.synchronize()
            self._seconds[name] = self._seconds.get(name, 0.0) + start.elapsed_time(end) / 1000

    def seconds(self) -> dict[str, float]:
        """Time by child so far; waits for the GPU."""
        self._settle(all_of_them=True)
        return dict(self._seconds)
