"""What a pool has done so far."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

__all__ = ["PoolStatistics"]

_OF_NOW = frozenset({"slots", "bytes_in_use", "peak_bytes", "committed_bytes"})


@dataclass
class PoolStatistics:
    """Counters of a :class:`~torchdali.pool.WorkerPool` since it was made; times in seconds, sizes in bytes."""

    items: int = 0
    """Calls that came back, failures included."""
    runs: int = 0
    """Messages that they came back in."""
    busy_seconds: float = 0.0
    """Time that workers spent on runs, in the user's functions and writing what they returned, summed over the workers."""
    idle_seconds: float = 0.0
    """Time that workers waited for something to do, summed over the workers."""
    wait_seconds: float = 0.0
    """Time that the parent waited in ``collect`` for results that were not there yet."""
    shared_bytes: int = 0
    """Bytes that arrived in shared memory."""
    copied_bytes: int = 0
    """Bytes that arrived by a memory file, which costs a copy: no slot was free or it was too small."""
    refused: int = 0
    """Jobs for which no slot was free."""
    slots: int = 0
    """Slots in use now: of jobs under way, and of results that somebody holds."""
    bytes_in_use: int = 0
    """Bytes of shared memory in those slots."""
    peak_bytes: int = 0
    """The most that there were at a time."""
    committed_bytes: int = 0
    """Bytes of the segments that the shared memory consists of now."""
    growth: int = 0
    """How often a segment was added."""
    deaths: int = 0
    """Workers that died."""
    restarts: int = 0
    """Workers that were started in the place of dead ones, without being asked for by ``start``."""
    items_by_worker: dict[int, int] = field(default_factory=dict)
    """Calls that came back by index of the worker."""

    busy_by_worker: dict[int, float] = field(default_factory=dict)
    """``busy_seconds`` by index of the worker."""
    items_by_function: dict[int, int] = field(default_factory=dict)
    """Calls that came back by number of the function, without those that only found the epoch at its end."""
    busy_by_function: dict[int, float] = field(default_factory=dict)
    """``busy_seconds`` by number of the function."""
    write_seconds: float = 0.0
    """Of ``busy_seconds``: writing results to shared memory, pickling included."""
    read_seconds: float = 0.0
    """Of ``busy_seconds``: reading files, in the library's own sources."""
    collate_seconds: float = 0.0
    """Of ``busy_seconds``: putting samples together to a batch."""
    processor_seconds: float = 0.0
    """Processor time of the workers meanwhile, of all their threads; far below ``busy_seconds`` where they wait for a disk."""

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Context in which the parent waits."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.wait_seconds += time.perf_counter() - start

    def copy(self) -> PoolStatistics:
        """Another one with the same numbers."""
        other = PoolStatistics()
        for name, value in vars(self).items():
            setattr(other, name, dict(value) if isinstance(value, dict) else value)
        return other

    def plus(self, other: PoolStatistics, sign: int = 1) -> PoolStatistics:
        """Both together, or with ``sign=-1`` what has come since ``other``; what says how it is now is this one's."""
        result = self.copy()
        for name, value in vars(other).items():
            own = getattr(result, name)
            if isinstance(value, dict):
                for key, part in value.items():
                    own[key] = own.get(key, type(part)()) + sign * part
            elif name not in _OF_NOW:
                setattr(result, name, own + sign * value)
        return result
