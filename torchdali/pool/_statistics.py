"""What a pool has done so far."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["PoolStatistics"]


@dataclass
class PoolStatistics:
    """Counters of a :class:`~torchdali.pool.WorkerPool` since it was made; times in seconds, sizes in bytes."""

    items: int = 0
    """Calls that came back, failures included."""
    runs: int = 0
    """Messages that they came back in."""
    busy_seconds: float = 0.0
    """Time that workers spent in the user's functions, summed over the workers."""
    wait_seconds: float = 0.0
    """Time that the parent waited in ``collect`` for results that were not there yet."""
    shared_bytes: int = 0
    """Bytes that arrived in shared memory."""
    copied_bytes: int = 0
    """Bytes that arrived by a memory file, which costs a copy: no slot was free or it was too small."""
    deaths: int = 0
    """Workers that died."""
    items_by_worker: dict[int, int] = field(default_factory=dict)
    """Calls that came back by index of the worker."""
