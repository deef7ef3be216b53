"""Threads for CPU operators that work image by image; what they call must release the interpreter."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from torchdali.ops._context import current_batch

__all__ = ["available_cpus", "parallel_map"]

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")

_executors: dict[tuple[int, int], ThreadPoolExecutor] = {}


def available_cpus() -> int:
    """CPUs that this process may run on."""
    return len(os.sched_getaffinity(0))


def _executor(num_threads: int) -> ThreadPoolExecutor:
    key = (os.getpid(), num_threads)  # a forked child has none of its parent's threads
    if key not in _executors:
        # Several threads may come here at once; no lock, which a forked child could find held. It begins no thread yet.
        _executors.setdefault(key, ThreadPoolExecutor(num_threads, thread_name_prefix="torchdali-op"))
    return _executors[key]


def parallel_map(function: Callable[[Item], Outcome], items: Iterable[Item]) -> list[Outcome]:
    """``[function(item) for item in items]`` on as many threads as the pipeline at hand allows, else on all CPUs."""
    items = list(items)
    context = current_batch()
    num_threads = min(context.num_threads if context else available_cpus(), len(items))
    if num_threads <= 1:
        return [function(item) for item in items]
    return list(_executor(context.num_threads if context else available_cpus()).map(function, items))
